"""Usual layouts of other people's files, and lists that were printed into one cell."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from datadiet.data.load import load_data, read_examples
from datadiet.data.schema import Columns
from datadiet.errors import DataError

ROWS = [(f"birch word {row}", ("neg", "pos")[row % 2]) for row in range(24)]


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode())
    return path


def jsonl(**columns: list) -> str:
    keys = list(columns)
    return "".join(f"{json.dumps(dict(zip(keys, row, strict=True)))}\n" for row in zip(*columns.values(), strict=True))


def of(rows: list, **more: list) -> str:
    return jsonl(text=[text for text, _ in rows], label=[label for _, label in rows], **more)


def notes(folder: Path, task: str = "classification") -> str:
    return " ".join(load_data(str(folder), task).notes)


# ---- quotes


def csv_of(*lines: str, header: str = "label,text", before: int = 6) -> str:
    usual = [f"{label},{text}" for text, label in ROWS]
    return "\n".join([header, *usual[:before], *lines, *usual[before:]]) + "\n"


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        (['pos,"unclosed quote here'], "opens a quote that nothing closes"),
        (['pos,"a stray quote', "neg,one", "pos,two", 'neg,a later "stray'], "goes on after its closing quote"),
        (['pos,"a stray quote', "neg,one", "pos,two", 'neg,another"'], "the lines between look like rows"),
        (['pos,"he said \\"fine\\" really"'], "goes on after its closing quote"),
        (['pos,"Great" film'], "goes on after its closing quote"),
    ],
)
@pytest.mark.parametrize("ending", ["csv", "tsv"])
def test_quotes_that_do_not_pair_are_refused_on_their_line(lines, reason, ending, tmp_path):
    text = csv_of(*lines)
    if ending == "tsv":  # a header in quotes means that the rules of csv hold
        text = text.replace("label,text", '"label"\t"text"').replace(",", "\t")
    path = write(tmp_path, f"train.{ending}", text)
    with pytest.raises(DataError, match=rf"train\.{ending}, line 8: .*{reason}"):
        load_data(str(tmp_path), "classification")
    with pytest.raises(DataError, match="line 8: "):
        read_examples(str(path), "classification")


@pytest.mark.parametrize(
    ("header", "row"),
    [("text,label", "{text},{label}"), ("id,text", "{id},{text}"), ("id,text,label", "{id},{text},{label}")],
)
def test_stray_quotes_that_pair_are_refused_wherever_the_text_stands(header, row, tmp_path):
    lines = [row.format(text=text, label=label, id=place) for place, (text, label) in enumerate(ROWS)]
    lines[6] = row.format(text='"birch', label="pos", id=6)
    lines[9] = row.format(text='amber"', label="neg", id=9)
    path = write(tmp_path, "train.csv", "\n".join([header, *lines]))
    with pytest.raises(DataError, match=r"train\.csv, line 8: "):
        read_examples(str(path), "classification")


def test_a_quoted_name_in_a_tsv_header(tmp_path):
    write(
        tmp_path,
        "train.tsv",
        'id\t"text"\t"label"\n' + "".join(f'{n}\t"{t}"\t{lb}\n' for n, (t, lb) in enumerate(ROWS)),
    )
    assert load_data(str(tmp_path), "classification").splits["train"].texts[0] == ROWS[0][0]


def test_sound_quotes_are_read(tmp_path):
    cells = ['"two\nlines, one comma"', '"a ""quoted"" word"', f'"{"x" * 140_000}"', 'a 5" screen', '"last, one"']
    write(tmp_path, "train.csv", csv_of(*(f"pos,{cell}" for cell in cells)))
    texts = load_data(str(tmp_path), "classification", dev_share=0.05).splits["train"].texts
    assert {"two\nlines, one comma", 'a "quoted" word', "x" * 140_000, 'a 5" screen', "last, one"} <= set(texts)


def test_a_blank_before_a_quote_is_no_part_of_the_cell(tmp_path):
    write(tmp_path, "train.csv", csv_of('"pos", "good, fine"', header="label, text"))
    data = load_data(str(tmp_path), "classification")
    assert data.label_names == ("neg", "pos")
    assert "good, fine" in {*data.splits["train"].texts, *data.splits["dev"].texts}


@pytest.mark.parametrize(("separator", "ending"), [(";", "csv"), ("\t", "csv"), (",", "tsv")])
def test_another_separator_is_seen_in_the_header(separator, ending, tmp_path):
    lines = [f"{label}{separator}{text}" for text, label in [("label", "text"), *ROWS]]
    lines[0] = f"label{separator}text"
    write(tmp_path, f"train.{ending}", "\n".join(lines))
    data = load_data(str(tmp_path), "classification")
    assert data.label_names == ("neg", "pos")
    assert "The columns are separated by" in data.notes[0]


def test_lines_that_end_in_cr_alone(tmp_path):
    write(tmp_path, "train.tsv", "text\tlabel\r" + "".join(f"{text}\t{label}\r" for text, label in ROWS))
    assert load_data(str(tmp_path), "classification").label_names == ("neg", "pos")


def test_a_file_without_a_header_is_told_so(tmp_path):
    write(tmp_path, "train.csv", "".join(f"{text},{label}\n" for text, label in ROWS))
    with pytest.raises(DataError, match="The first line is read as the header: add one"):
        load_data(str(tmp_path), "classification")


# ---- lists in cells


@pytest.mark.parametrize(
    ("cell", "tags"),
    [
        ('["O", "B-ORG"]', ("O", "B-ORG")),
        ("['O', 'B-ORG']", ("O", "B-ORG")),
        ("('O', 'B-ORG')", ("O", "B-ORG")),
        ("['O' 'B-ORG']", ("O", "B-ORG")),
        ("['O'\n 'B-ORG']", ("O", "B-ORG")),
        ("[np.str_('O'), np.str_('B-ORG')]", ("O", "B-ORG")),
        ("[np.int64(3), np.int64(0)]", ("3", "0")),
        ('[ "O", "B-ORG" ]', ("O", "B-ORG")),
        ("[3, 0]", ("3", "0")),
        ("[3 0]", ("3", "0")),
        ("[ 3 10]", ("3", "10")),
        ("O B-ORG", ("O", "B-ORG")),
        ("{O, B-ORG}", None),
        ("{'O', 'B-ORG'}", None),
        ("[O, B-ORG]", None),
        ("[O B-ORG]", None),
        ("array(['O', 'B-ORG'], dtype=object)", None),
        ("['O' ... 'B-ORG']", None),
        ("[['O'], ['B-ORG']]", None),
        ("[]", None),
        ("[0.5, 0.25]", None),
        ("O, B-ORG", None),
        ("(O B-ORG)", None),
    ],
)
@pytest.mark.parametrize("column", ["tags", "tokens"])
def test_printed_lists_are_read_or_refused(cell, tags, column, tmp_path):
    quoted = cell.replace('"', '""')
    usual = {"tags": "O B-X", "tokens": "hello you"}
    body = "".join(
        ",".join(f'"{quoted}"' if name == column else usual[name] for name in ("tokens", "tags")) + "\n"
        for _ in range(12)
    )
    write(tmp_path, "train.csv", f"tokens,tags\n{body}")
    if tags is None and (column == "tags" or cell not in ("O, B-ORG", "(O B-ORG)")):  # words may have such signs
        with pytest.raises(DataError, match=r"train\.csv, line 2: "):
            load_data(str(tmp_path), "token-classification")
    elif tags is not None:
        train = load_data(str(tmp_path), "token-classification").splits["train"]
        assert (train.slots if column == "tags" else train.tokens)[0] == tags


def test_brackets_of_a_text_stay_words(tmp_path):
    rows = [("[ 12 ]", "O O O"), ("( Reuters )", "O B-ORG O"), ("see [3]", "O O"), ("{ x }", "O O O")] * 6
    write(tmp_path, "train.csv", "tokens,tags\n" + "".join(f"{words},{tags}\n" for words, tags in rows))
    assert ("[", "12", "]") in load_data(str(tmp_path), "token-classification").splits["train"].tokens


@pytest.mark.parametrize("cell", ["['joy', 'fun']", "('joy', 'fun')", "['joy' 'fun']", '["joy", "fun"]'])
def test_printed_lists_of_labels(cell, tmp_path):
    quoted = cell.replace('"', '""')
    write(
        tmp_path, "train.csv", "text,labels\n" + "".join(f'text {row},"{quoted}"\n' for row in range(11)) + "other,\n"
    )
    assert load_data(str(tmp_path), "multi-label").label_names == ("fun", "joy")
    with pytest.raises(DataError, match="is not a class"):
        load_data(str(tmp_path), "classification")


# ---- a column that names the split


@pytest.mark.parametrize("column", ["split", "partition", "Set"])
def test_a_column_names_the_split(column, tmp_path):
    names = [("train", "train", "validation", "Test")[row % 4] for row in range(24)]
    path = write(tmp_path, "all.jsonl", of(ROWS, **{column: names}))
    for source in (path, tmp_path):
        data = load_data(str(source), "classification")
        assert {name: len(split) for name, split in data.splits.items()} == {"train": 12, "dev": 6, "test": 6}
        assert data.splits["train"].source_rows == [row for row in range(24) if row % 4 < 2]
        assert f"The column {column!r} names the split of each row: train 12, dev 6, test 6." in data.notes
    write(tmp_path, "test.jsonl", of(ROWS))
    path.rename(tmp_path / "train.jsonl")
    with pytest.raises(DataError, match=f"the column {column!r} gives rows to 'dev', 'test', and there are also files"):
        load_data(str(tmp_path), "classification")


def test_another_column_of_that_name_is_no_split(tmp_path):
    write(tmp_path, "train.jsonl", of(ROWS, split=["a", "b", "c"] * 8, fold=list(range(24))))
    assert len(load_data(str(tmp_path), "classification").splits["train"]) == 22
    assert "Columns that are not used: 'split', 'fold'." in notes(tmp_path)


def test_eval_and_holdout_are_splits_where_no_usual_name_is(tmp_path):
    path = write(tmp_path, "all.jsonl", of(ROWS, usage=["train", "train", "eval", "holdout"] * 6))
    assert {name: len(split) for name, split in load_data(path, "classification").splits.items()} == {
        "train": 12, "dev": 6, "test": 6,
    }  # fmt: skip
    write(tmp_path, "all.jsonl", of(ROWS, usage=["train", "dev", "eval", "train"] * 6))
    with pytest.raises(DataError, match="'eval' in the column 'usage' is no split"):
        load_data(str(path), "classification")


@pytest.mark.parametrize("odd", [None, "", "unsup", 3])
def test_a_row_without_a_split_is_refused(odd, tmp_path):
    write(tmp_path, "train.jsonl", of(ROWS, split=[odd, *["train", "test"] * 11, "train"]))
    with pytest.raises(DataError, match=r"train\.jsonl, line 1: .* in the column 'split' is no split"):
        load_data(str(tmp_path), "classification")


# ---- files and columns that are left aside


def test_other_names_of_splits_and_files_that_are_not_used(tmp_path):
    for name in ("train", "eval", "holdout", "extra"):
        write(tmp_path, f"{name}.jsonl", of([(f"{name} {text}", label) for text, label in ROWS]))
    write(tmp_path, "README.md", "about")
    found = load_data(str(tmp_path), "classification")
    assert [found.splits[name].texts[0].split()[0] for name in ("train", "dev", "test")] == ["train", "eval", "holdout"]
    assert found.notes[:3] == (
        "eval.jsonl is read as dev.", "holdout.jsonl is read as test.", "Files that are not used: 'extra.jsonl'.",
    )  # fmt: skip
    write(tmp_path, "dev.jsonl", of(ROWS))
    assert "Files that are not used: 'eval.jsonl', 'extra.jsonl'." in notes(tmp_path)


def test_columns_that_are_not_used_are_named(tmp_path):
    write(tmp_path, "train.jsonl", of(ROWS, id=list(range(24)), source=["web"] * 24))
    assert "Columns that are not used: 'source'." in notes(tmp_path)


def test_the_layout_of_a_downloaded_repository(tmp_path):
    for shard, rows in enumerate((ROWS[:10], ROWS[10:])):
        write(tmp_path, f"data/train-0000{shard}-of-00002.jsonl", of(rows))
    write(tmp_path, "data/validation-00000-of-00001.jsonl", of(ROWS[:6]))
    data = load_data(str(tmp_path), "classification")
    assert (data.splits["train"].texts, len(data.splits["dev"])) == (tuple(text for text, _ in ROWS), 6)
    (tmp_path / "data/train-00000-of-00002.jsonl").unlink()
    with pytest.raises(DataError, match="train has 1 of 2 files"):
        load_data(str(tmp_path), "classification")


# ---- words


@pytest.mark.parametrize("every_row", [True, False])
def test_a_word_per_row(every_row, tmp_path):
    lines = ["Sentence #,Word,POS,Tag"]
    for sentence in range(12):
        for place, (word, tag) in enumerate((("EU", "B-org"), ("rejects", "O"))):
            named = f"Sentence: {sentence}" if every_row or place == 0 else ""
            lines.append(f"{named},{word},X,{tag}")
    path = write(tmp_path, "train.csv", "\n".join(lines))
    data = load_data(str(tmp_path), "token-classification")
    assert data.splits["train"].tokens == (("EU", "rejects"),) * 11
    assert data.splits["train"].source_rows is None  # a row of the file is no sentence
    assert "'Tag' is the tag. Columns that are not used: 'POS'." in data.notes[0]
    assert len(read_examples(str(path), "token-classification")) == 12
    gaps = "\n".join(line.partition(",")[2] + "\n" * (place % 2 == 0) for place, line in enumerate(lines))
    write(tmp_path, "train.csv", gaps)
    assert "blank lines end a sentence" in load_data(str(tmp_path), "token-classification").notes[0]
    write(tmp_path, "train.csv", "\n".join(line.replace(",,", ",nan,") for line in lines))
    write(tmp_path, "train.csv", "\n".join(line.partition(",")[2] for line in lines))
    with pytest.raises(DataError, match="every row has one word"):
        load_data(str(tmp_path), "token-classification")


def conll(*lines: str) -> str:
    return ("\n".join(lines) + "\n\n") * 12


@pytest.mark.parametrize(
    ("text", "words", "tags", "note"),
    [
        (conll("1 EU eu PROPN", "2 rejects reject VERB"), ("EU", "rejects"), ("PROPN", "VERB"), "column 4 the tag"),
        (conll("1\tEU\tB-ORG\tB-LOC", "2\tis\tO\tO"), ("EU", "is"), ("B-ORG", "O"), "column 3 the tag"),
        (conll("0 EU B-ORG", "1 is O"), ("EU", "is"), ("B-ORG", "O"), "column 3 the tag"),
        (conll("EU NNP B-NP B-ORG", "is VBZ B-VP O"), ("EU", "is"), ("B-ORG", "O"), "Column 1 is the word"),
        (
            conll("bc/cctv 0 0 EU NNP B-ORG", "bc/cctv 0 1 is VBZ O"),
            ("EU", "is"),
            ("B-ORG", "O"),
            "Column 4 is the word",
        ),
        (conll("7 1 EU B-ORG", "7 2 is O"), ("EU", "is"), ("B-ORG", "O"), "Column 3 is the word"),
        (
            conll("#\thttp://example.org [2009]", "1\tEU\tB-ORG\tO", "2\tis\tO\tO"),
            ("EU", "is"),
            ("B-ORG", "O"),
            "column 3",
        ),
        (conll("B-ORG\tEU", "O\tis"), ("EU", "is"), ("B-ORG", "O"), "Column 1 is the tag"),
        (conll("EU B-ORG NNP", "is O VBZ"), ("EU", "is"), ("NNP", "VBZ"), "column 3 the tag"),
        (conll("1 O", "2 B-X"), ("1", "2"), ("O", "B-X"), None),
    ],
)
def test_columns_of_conll(text, words, tags, note, tmp_path):
    write(tmp_path, "train.conll", text)
    data = load_data(str(tmp_path), "token-classification")
    assert (data.splits["train"].tokens[0], data.splits["train"].slots[0]) == (words, tags)
    assert any(note in one for one in data.notes) if note else "is the word" not in " ".join(data.notes)


def test_conll_that_cannot_be_read(tmp_path):
    write(tmp_path, "train.conll", conll("EU B-ORG 0", "is O 0"))
    with pytest.raises(DataError, match="the last column, which is the tag, is '0' on every line, and column 2 looks"):
        load_data(str(tmp_path), "token-classification")
    write(tmp_path, "train.conll", conll("EU B-ORG 0.98", "is O 0.7"))
    with pytest.raises(DataError, match="is a number on every line, and column 2 looks like tags"):
        load_data(str(tmp_path), "token-classification")
    write(tmp_path, "train.conll", "# text = EU\n" + conll("1\tEU\teu" + "\t_" * 7, "2\tis\tbe" + "\t_" * 7))
    with pytest.raises(DataError, match="this is CoNLL-U"):
        load_data(str(tmp_path), "token-classification")


# ---- labels and ids


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_a_column_of_0_and_1_for_each_label(ending, tmp_path):
    hot = {"toxic": [0, 1] * 12, "obscene": [1, 1, 0] * 8}
    texts = [text for text, _ in ROWS]
    rows = zip(texts, *hot.values(), strict=True)
    lines = ["comment_text,toxic,obscene", *(",".join(map(str, row)) for row in rows)]
    text = jsonl(comment_text=texts, **hot) if ending == "jsonl" else "\n".join(lines)
    write(tmp_path, f"train.{ending}", text)
    data = load_data(str(tmp_path), "multi-label", dev_share=0.05)
    assert data.label_names == ("obscene", "toxic")
    by_text = dict(zip(data.splits["train"].texts, data.splits["train"].labels, strict=True))
    expected = {text: tuple(sorted(n for n in hot if hot[n][row])) for row, text in enumerate(texts)}
    assert by_text == {text: expected[text] for text in by_text}
    assert "A column of 0 and 1 for each label: 'toxic', 'obscene'." in data.notes


def test_decimals_are_numbers(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    for scale, task, expected in ((0, "classification", ("0", "1")), (2, "regression", (0.0, 0.5))):
        cells = [str(row % 2) if scale == 0 else f"{row % 2 / 2:.2f}" for row in range(24)]
        values = pa.array(cells).cast(pa.decimal128(8, scale))
        pq.write_table(pa.table({"text": [text for text, _ in ROWS], "label": values}), tmp_path / "train.parquet")
        assert set(load_data(str(tmp_path), task).splits["train"].labels) == set(expected)


def test_ids_that_repeat_can_be_left_out(tmp_path):
    write(tmp_path, "train.jsonl", of(ROWS, id=[row // 2 for row in range(24)]))
    with pytest.raises(DataError, match="take row numbers with --id-column ''"):
        load_data(str(tmp_path), "classification")
    data = load_data(str(tmp_path), "classification", columns=Columns(id=""))
    assert len(set(data.splits["train"].ids)) == 22


# ---- JSON in another form


@pytest.mark.parametrize("ending", ["json", "jsonl"])
@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize(
    ("value", "form"),
    [
        ({"text": {"0": "a", "1": "b"}, "label": {"0": "x", "1": "y"}}, "columns .* with their rows by number"),
        ({"text": ["a", "b"], "label": ["x", "y"]}, "each with a list of its rows"),
        ({"version": "1", "data": [{"text": "a", "label": "x"}] * 3}, "with the rows under 'data'"),
        ({"columns": ["text"], "index": [0], "data": [["a"]]}, "orient='split'"),
    ],
)
def test_the_form_of_another_json_is_named(value, form, indent, ending, tmp_path):
    write(tmp_path, f"train.{ending}", json.dumps(value, indent=indent))
    with pytest.raises(DataError, match=rf"one JSON object.*{form}.*orient='records', lines=True") as caught:
        load_data(str(tmp_path), "classification")
    assert len(str(caught.value)) < 500
    write(tmp_path, "train.jsonl", json.dumps([{"text": "a", "label": "x"}] * 3, indent=indent))
    (tmp_path / "train.json").unlink(missing_ok=True)
    with pytest.raises(DataError, match=r"one JSON array, and not an object a line: call the file \.json"):
        load_data(str(tmp_path), "classification")


def test_one_row_of_words_is_a_row(tmp_path):
    path = write(tmp_path, "new.jsonl", json.dumps({"tokens": ["play", "jazz"], "tags": ["O", "O"]}))
    assert read_examples(str(path), "token-classification").tokens == (("play", "jazz"),)
