"""Every format, compressed or not, reads into the same rows; what cannot be read is named with its line."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from datadiet.data.load import load_data, read_examples
from datadiet.data.readers import read_csv, read_json, read_jsonl, read_parquet, read_tsv
from datadiet.data.schema import Columns
from datadiet.data.validation import examples_from
from datadiet.errors import ArgumentError, DataError
from toys import commands, sentences, write_rows

FORMATS = ["jsonl", "jsonl.gz", "json", "json.gz", "csv", "csv.gz", "tsv", "tsv.gz", "parquet"]


@pytest.mark.parametrize("kind", FORMATS)
def test_a_format_reads_like_json_lines(folder, kind):
    train = [{**row, "label": i % 2} for i, row in enumerate(sentences(6))]
    train[1]["text"] = 'he said "so", twice: ü\u2028'
    dev = sentences(2, start=10, labels=(0, 1))
    expected = load_data(folder(name="plain", train=train, dev=dev), "classification")
    data = load_data(folder(kind, name="other", train=train, dev=dev), "classification")
    assert data.splits == expected.splits
    assert data.fingerprint == expected.fingerprint
    assert data.label_names == ("0", "1")
    assert data.splits["train"].texts[1] == train[1]["text"]


@pytest.mark.parametrize("kind", FORMATS)
def test_words_and_slots_in_any_format(folder, kind):
    data = load_data(folder(kind, train=commands(4), dev=commands(2, start=10)), "intent-slot")
    train = data.splits["train"]
    assert train.tokens[3] == ("song", "3")
    assert train.slots[3] == ("O", "B-song")
    assert (train.texts[3], train.labels[3]) == ("song 3", "stop")
    assert (
        data.fingerprint
        == load_data(folder(name="plain", train=commands(4), dev=commands(2, 10)), "intent-slot").fingerprint
    )


def write_seq(home: Path, rows: list[dict], end: str = "\n") -> None:
    home.mkdir(parents=True)
    for file, column in (("seq.in", "tokens"), ("seq.out", "slots"), ("label", "intent")):
        lines = [row[column] if column == "intent" else " ".join(row[column]) for row in rows]
        (home / file).write_text("".join(line + end for line in lines), encoding="utf-8", newline="")


@pytest.mark.parametrize("end", ["\n", "\r\n", " \n"])
def test_the_seq_layout_reads_like_json_lines(folder, tmp_path, end):
    write_seq(tmp_path / "seq" / "train", commands(4), end)
    write_seq(tmp_path / "seq" / "valid", commands(2, start=10), end)
    data = load_data(str(tmp_path / "seq"), "intent-slot")
    assert data.splits == load_data(folder(train=commands(4), dev=commands(2, 10)), "intent-slot").splits
    assert load_data(str(tmp_path / "seq"), "classification").splits["dev"].texts == ("song 10", "song 11")


def test_a_shorter_seq_file_is_named(tmp_path):
    write_seq(tmp_path / "train", commands(4))
    (tmp_path / "train" / "seq.out").write_text("O B-song\n" * 3)
    with pytest.raises(
        DataError, match=r"train: the files must have one line per example, found seq\.in 4, seq\.out 3"
    ):
        load_data(str(tmp_path), "intent-slot")


def test_a_seq_test_split_without_labels_is_unlabelled(tmp_path):
    for split, start in (("train", 0), ("dev", 4), ("test", 8)):
        write_seq(tmp_path / split, commands(4, start))
    (tmp_path / "test" / "label").unlink()
    (tmp_path / "test" / "seq.out").unlink()
    data = load_data(str(tmp_path), "intent-slot")
    assert data.splits["test"].labels is None
    assert data.splits["test"].slots is None
    assert data.splits["test"].tokens[0] == ("song", "8")
    assert "test is unlabelled: it gets no metrics." in data.notes


CUT_GZIP = gzip.compress(b'{"text": "a", "label": 1}\n' * 100, mtime=0)[:-9]


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("train.jsonl", '{"text": "a"}\n\n{"text": \n', r"train\.jsonl, line 3: not valid JSON \(.*mend the line"),
        ("train.jsonl", '{"text": "a"}\n[1]\n', r"train\.jsonl, line 2: expected an object .* found list"),
        ("train.json", "[1, 2]", r"train\.json, row 1: expected an object, found int.*Also row 2\."),
        ("train.json", '[{"text": 1}', r"train\.json: not valid JSON"),
        ("train.csv", "text,label\ngood,1,2\n", r"train\.csv, line 2: the header has 2 columns, this row 3; quote"),
        ("train.tsv", "text\tlabel\ngood\n", r"train\.tsv, line 2: the header has 2 columns, this row 1"),
        ("train.csv", "text,text\ngood,1\n", r"train\.csv, line 1: the header names 'text' twice"),
        ("train.parquet", "no parquet", r"train\.parquet: not a readable Parquet file"),
        ("train.jsonl.gz", "no gzip", r"train\.jsonl\.gz: not a complete gzip file"),
        (
            "train.jsonl.gz",
            CUT_GZIP,
            "not a complete gzip file",
        ),
        (
            "train.csv",
            "text,label\ngood,1\ncafé,0\n".encode("latin-1"),
            r"line 3: not UTF-8 text; save the file in the UTF-8",
        ),
        ("train.csv", "", r"train\.csv: there are no examples in it"),
        ("train.jsonl", "\n\n", r"train\.jsonl: there are no examples in it"),
        ("train.csv", "text,label\n", r"train\.csv: there are no examples in it"),
    ],
)
def test_a_broken_file_is_named_with_its_line(tmp_path, file, content, message):
    (tmp_path / file).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DataError, match=message):
        load_data(str(tmp_path), "classification")


def test_problems_of_several_splits_are_told_together(folder):
    home = folder(train="{\n", dev="{}\n[]\n")
    with pytest.raises(DataError, match=r"(?s)train\.jsonl, line 1: not valid.*dev\.jsonl, line 2: expected an object"):
        load_data(home, "classification")


def test_parquet_written_by_datasets_has_class_names(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    features = {
        "label": {"names": ["no", "yes"], "_type": "ClassLabel"},
        "slots": {"feature": {"names": ["O", "B"], "_type": "ClassLabel"}, "_type": "List"},
        "text": {"dtype": "string", "_type": "Value"},
    }
    table = pa.table({"text": ["a", "b"], "label": [1, 0], "slots": [[0, 1], [0]]})
    told = {"huggingface": json.dumps({"info": {"features": features}})}
    pq.write_table(table.replace_schema_metadata(told), tmp_path / "train.parquet")
    examples = read_examples(str(tmp_path / "train.parquet"), "classification")
    assert examples.labels == ("yes", "no")


@pytest.mark.parametrize("kind", ["jsonl", "csv", "tsv", "parquet", "json", "jsonl.gz"])
def test_a_single_file_is_a_training_split(tmp_path, kind):
    write_rows(tmp_path / f"films.{kind}", sentences(10))
    data = load_data(str(tmp_path / f"films.{kind}"), "classification")
    assert data.name == "films"
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 9, "dev": 1}


def test_an_unknown_ending_says_which_are_known(tmp_path):
    (tmp_path / "films.xlsx").write_text("")
    with pytest.raises(DataError, match=r"films\.xlsx: unknown kind of file; allowed: \.jsonl, \.json, \.csv"):
        load_data(str(tmp_path / "films.xlsx"), "classification")


# ---- JSON lines and arrays


def test_broken_lines_are_told_together_and_the_rest_counted():
    lines = b"\n".join([b'{"a": 1}', *[b"{"] * 9])
    with pytest.raises(DataError, match=r"line 2: not valid JSON.* Also lines 3, 4, 5, 6 and 4 more\.$"):
        read_jsonl(lines, "train.jsonl")


def test_json_lines_may_hold_line_separators_and_lack_keys():
    table = read_jsonl('{"text": "a\u2028b"}\r\n{"text": "c", "label": 1}'.encode(), "train.jsonl")
    assert table.columns == {"text": ["a\u2028b", "c"], "label": [None, 1]}


def test_json_may_be_lines_or_an_array():
    assert read_json(b'{"a": 1}\n{"a": 2}', "x.json").columns == read_json(b' [{"a": 1}, {"a": 2}]', "x.json").columns


# ---- text with separators: lines, quotes and headers


def test_the_line_of_a_csv_row_is_where_it_starts():
    table = read_csv(b'text,label\n"two\nlines",1\n\nnext,0\n', "train.csv")
    assert [table.number(row) for row in range(2)] == [2, 5]
    assert table.columns["text"] == ["two\nlines", "next"]


def test_a_byte_order_mark_is_no_part_of_the_header():
    assert list(read_csv("\ufefftext,label\na,1\n".encode(), "train.csv").columns) == ["text", "label"]


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        ('"an open quote', '"an open quote'),
        ('"a sentence in quotes"', '"a sentence in quotes"'),
        ('"he said ""hi"" to me"', 'he said "hi" to me'),
        ('"two" quoted "words"', '"two" quoted "words"'),
        ('""', '""'),
    ],
)
def test_quotes_in_tsv_are_characters_unless_a_writer_doubled_them(cell, text):
    assert read_tsv(f"text\tlabel\r\n{cell}\t1\r\n".encode(), "x.tsv").columns["text"] == [text]


def test_a_tsv_with_a_quoted_header_follows_the_csv_rules():
    file = io.StringIO()
    writer = csv.writer(file, delimiter="\t", quoting=csv.QUOTE_ALL)
    writer.writerows([["text", "label"], ["a\ttab and\na line", "1"]])
    assert read_tsv(file.getvalue().encode(), "x.tsv").columns == {"text": ["a\ttab and\na line"], "label": ["1"]}


# ---- files that somebody else has damaged or made up ----


def parquet(columns: dict[str, Any] | list[tuple[str, Any]], huggingface: bytes | None = None) -> bytes:
    """A Parquet file; pairs may name a column twice."""
    pairs = list(columns.items()) if isinstance(columns, dict) else columns
    table = pa.Table.from_arrays([pa.array(values) for _, values in pairs], names=[name for name, _ in pairs])
    sink = pa.BufferOutputStream()
    metadata = None if huggingface is None else {b"huggingface": huggingface}
    pq.write_table(table.replace_schema_metadata(metadata), sink)
    return sink.getvalue().to_pybytes()


def features(label: Any) -> bytes:
    return json.dumps({"info": {"features": {"label": label}}}).encode()


NOT_UTF8 = pa.Array.from_buffers(pa.string(), 2, [None, *pa.array([b"\xff", b"b"]).buffers()[1:]])
ODD_COLUMNS = {
    "a date past 9999": pa.array([2**31 - 1, 0], pa.int32()).cast(pa.date32()),
    "a time past 9999": pa.array([2**62, 0]).cast(pa.timestamp("us")),
    "a zone that does not exist": pa.array([0, 1]).cast(pa.timestamp("us", "Nowhere/Land")),
    "text that is not UTF-8": NOT_UTF8,
}


@pytest.mark.parametrize("odd", ODD_COLUMNS.values(), ids=ODD_COLUMNS)
def test_an_odd_column_is_named_where_it_is_used_and_ignored_elsewhere(tmp_path: Path, odd: pa.Array) -> None:
    rows = {"text": ["good", "bad"], "label": ["a", "b"]}
    path = tmp_path / "new.parquet"
    path.write_bytes(parquet({**rows, "other": odd}))
    assert read_examples(str(path), "classification").labels == ("a", "b")
    path.write_bytes(parquet({**rows, "text": odd}))
    with pytest.raises(DataError, match=r"new.parquet, column 'text': cannot be read \(.*\); write it again"):
        read_examples(str(path), "classification")


def test_a_column_that_is_there_twice(tmp_path: Path) -> None:
    path = tmp_path / "new.parquet"
    texts = [("text", ["good", "bad"]), ("label", ["a", "b"])]
    path.write_bytes(parquet([*texts, ("note", ["x", "y"]), ("note", ["x", "y"])]))
    assert read_examples(str(path), "classification").texts == ("good", "bad")
    path.write_bytes(parquet([*texts, ("text", ["x", "y"])]))
    with pytest.raises(DataError, match="column 'text': cannot be read"):
        read_examples(str(path), "classification")


@pytest.mark.parametrize(
    "metadata",
    [
        *(b"{", b"\xff", b"[]", b'{"info": {"features": 5}}', b"[" * 9000),
        *(features({"names": names}) for names in (5, "ab", [1, None], {"0": "no", "1": "yes"})),
    ],
)
def test_class_names_that_cannot_be_read_matter_to_class_numbers_alone(metadata: bytes) -> None:
    table = read_parquet(parquet({"text": ["a", "b"], "label": [0, 1]}, metadata), "f.parquet")
    assert table.columns["text"] == ["a", "b"]
    with pytest.raises(DataError, match=r"f.parquet, column 'label': the class names in the metadata"):
        table.columns["label"]


@pytest.mark.parametrize("form", [lambda names: names, lambda names: {"feature": names}, lambda names: [names]])
def test_class_names_in_every_form_of_the_metadata(form: Callable[[Any], Any]) -> None:
    label = form({"names": ["no", "yes"]})
    assert read_parquet(parquet({"label": [1, 0, -1]}, features(label)), "f").columns["label"] == ["yes", "no", None]


@pytest.mark.parametrize("part", ["text", "label", "id"])
def test_half_a_surrogate_pair_is_named_with_its_line(folder: Callable[..., str], part: str) -> None:
    rows = [{"id": str(i), "text": f"text {i}", "label": "ab"[i % 2]} for i in range(4)]
    good = "\n".join(json.dumps(row) for row in rows)
    bad = "\n".join(json.dumps({**row, part: f"\ud800{row[part]}"} if i == 2 else row) for i, row in enumerate(rows))
    with pytest.raises(DataError, match=rf"train.jsonl, line 3: the {part} holds \\ud800, half of a surrogate pair"):
        load_data(folder(train=bad, dev=good), "classification")


def test_numbers_of_thousands_of_digits(folder: Callable[..., str]) -> None:
    number = "9" * 5000
    with pytest.raises(DataError, match=r"line 1: not valid JSON \(it holds a number of thousands of digits\)"):
        read_jsonl(f'{{"text": {number}}}'.encode(), "train.jsonl")
    rows = f"text,label\na,{number}\nb,1\nc,{number}\nd,1\n"
    data = load_data(folder("csv", train=rows, dev=rows), "classification")
    assert data.label_names == ("1", number)  # a name


def test_a_small_file_that_unpacks_to_a_large_one(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"text": "a", "label": 1}\n' * 100_000))
    with pytest.raises(DataError, match=r"unpacks to more than 0.001 GB; .* allow it with --gz-limit"):
        read_examples(str(path), "classification", gz_limit=0.001)
    assert len(read_examples(str(path), "classification")) == 100_000
    with pytest.raises(ArgumentError, match="gz_limit must be above 0"):
        read_examples(str(path), "classification", gz_limit=0)


def test_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.csv")
    (tmp_path / "device.csv").symlink_to("/dev/zero")
    (tmp_path / "dangling.csv").symlink_to("nowhere.csv")
    (tmp_path / "circle.csv").symlink_to("circle.csv")
    for name in ("pipe", "device"):
        with pytest.raises(DataError, match="it is a pipe, a socket or a device"):
            read_examples(str(tmp_path / f"{name}.csv"), "classification")
    for name in ("dangling", "circle"):
        with pytest.raises(DataError, match="it is a link to"):
            read_examples(str(tmp_path / f"{name}.csv"), "classification")
    for name, message in {"a" * 300: "File name too long", "\0": "no file or folder", "a\udcff": "not UTF-8"}.items():
        with pytest.raises(DataError, match=message):
            load_data(name, "classification")


def test_values_in_messages_are_cut_and_escaped(folder: Callable[..., str]) -> None:
    rows = [{"text": "a", "label": 0.5}, {"text": "b", "label": "x\x1b[2J" + "y" * 1000}]
    with pytest.raises(DataError) as caught:
        load_data(folder(train=rows, dev=rows), "regression")
    assert "\x1b" not in str(caught.value)
    assert r"\x1b[2J" in str(caught.value)
    assert len(str(caught.value)) < 1500


def test_many_columns_keys_and_labels_take_no_time() -> None:
    """Each took 12 seconds or more when its cost grew with the square; `benchmarks.reading` measures the growth."""
    began, size = time.perf_counter(), 20_000
    names = [f"c{i}" for i in range(size)]
    table = read_csv(f"{','.join(names)}\n{','.join(names)}\n".encode(), "p")
    assert len(table.columns) == size
    rows = b"".join(b'{"text": "a", "k%d": 1}\n' % i for i in range(size))
    assert len(read_jsonl(rows, "p").columns["text"]) == size
    numbers = json.dumps({"text": "a", "labels": list(range(size))}).encode()
    examples, problems = examples_from(read_jsonl(numbers, "p"), "multi-label", Columns())
    assert examples is not None
    assert len(examples.labels[0]) == size
    assert not problems.found
    assert time.perf_counter() - began < 5
