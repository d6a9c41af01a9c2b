"""Splits as they are, written in every format: what is read again is what was read."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from datadiet.data.export import SUFFIXES, Original, original_file, write_original, write_saved
from datadiet.data.load import load_data
from datadiet.data.sources import find
from datadiet.errors import ArgumentError, DataError
from toys import commands, sentences, write_rows

Folder = Callable[..., str]
ODD = [
    {"text": 'say "hi"', "label": "a", "note": None},
    {"text": '"all quoted"', "label": "b", "note": "x"},
    {"text": '"doubled "" inside"', "label": "a", "note": " spaces "},
    {"text": "ünï, cöde\u2028here", "label": "b", "note": "[not, a list"},
]


def train_of(source: str) -> Original:
    return find(source).originals["train"]()


# ---- as they are ----


def test_records_keep_what_each_row_has(folder: Folder) -> None:
    text = '{"text": "a", "label": 1, "extra": {"deep": [1, null]}}\n\n{"label": 0, "text": "b"}\n'
    split = train_of(folder(train=text))
    assert split.names == ("text", "label", "extra")
    assert split.as_records() == [{"text": "a", "label": 1, "extra": {"deep": [1, None]}}, {"label": 0, "text": "b"}]
    assert len(split.take([1])) == 1


@pytest.mark.parametrize("kind", ["jsonl", "json", "csv", "tsv", "parquet", "jsonl.gz", "csv.gz"])
def test_every_format_has_the_rows_of_the_examples(folder: Folder, kind: str) -> None:
    home = Path(folder())
    write_rows(home / f"train.{kind}", sentences(7))
    split = train_of(str(home))
    examples = load_data(str(home), "classification").splits["train"]
    assert examples.source_rows is not None
    assert [split.as_records()[row]["text"] for row in examples.source_rows] == list(examples.texts)


def test_source_rows_survive_everything_that_is_left_out(folder: Folder) -> None:
    source = folder(train=sentences(40), test=sentences(10))
    data = load_data(source, "classification", drop_overlap=True, train_rows=12, dev_share=0.2, seed=3)
    records = train_of(source).as_records()
    for name in ("train", "dev"):
        split = data.splits[name]
        assert split.source_rows is not None
        assert [records[row]["text"] for row in split.source_rows] == list(split.texts)
    assert len(data.splits["train"].source_rows or ()) == 12


def test_source_rows_are_no_part_of_what_the_data_are(folder: Folder) -> None:
    whole = load_data(folder(train=sentences(6), dev=sentences(2, 10)), "classification").splits["train"]
    assert whole == whole.take(range(6))
    assert whole.take([1, 0]).source_rows == (1, 0)


def test_words_and_tags(tmp_path: Path) -> None:
    home = tmp_path / "train"
    home.mkdir()
    for name, text in (("seq.in", "play x\nstop\n"), ("seq.out", "O B-s\nO\n"), ("label", "Play\nStop\n")):
        (home / name).write_text(text, encoding="utf-8")
    split = train_of(str(tmp_path))
    assert split.as_records()[0] == {"tokens": ["play", "x"], "slots": ["O", "B-s"], "intent": "Play"}


def test_the_packaged_data() -> None:
    split = train_of("snips")
    assert len(split) == 13_084
    assert set(split.names) >= {"tokens", "slots", "intent"}


def saved(home: Path) -> str:
    features = datasets.Features(
        {
            "body": datasets.Value("string"),
            "label": datasets.ClassLabel(names=["neg", "pos"]),
            "n": datasets.Value("int8"),
        }
    )
    rows = {"body": ["a", "b", "c"], "label": [1, 0, 1], "n": [1, 2, 3]}
    split = datasets.Dataset.from_dict(rows, features=features)
    datasets.DatasetDict({"train": split, "validation": split.select([2, 0])}).save_to_disk(str(home))
    return str(home)


def test_saved_sets_keep_types_and_class_names(tmp_path: Path) -> None:
    source = find(saved(tmp_path / "set"))
    split = source.originals["train"]()
    assert split.as_records()[0] == {"body": "a", "label": "pos", "n": 1}
    assert split.as_arrow().schema.field("n").type == pa.int8()
    assert source.own_names == {"train": "train", "dev": "validation"}
    # a selection of rows is a view: its rows are in its own order
    assert [record["body"] for record in source.originals["dev"]().as_records()] == ["c", "a"]


# ---- one more column ----


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_one_more_column(folder: Folder, kind: str) -> None:
    split = train_of(folder(kind, train=sentences(2))).with_column("el2n", [0.5, 0.25])
    assert split.names == ("text", "label", "el2n")
    assert [record["el2n"] for record in split.as_records()] == [0.5, 0.25]
    with pytest.raises(ArgumentError, match="has a column 'el2n' already"):
        split.with_column("el2n", [0.5, 0.25])


# ---- writing ----


def read_as_records(path: Path) -> list[dict[str, Any]]:
    return original_file(path).as_records()


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("kind", ["jsonl", "csv", "tsv", "parquet"])
def test_any_format_to_any_format(folder: Folder, tmp_path: Path, kind: str, suffix: str) -> None:
    home = Path(folder())
    write_rows(home / f"train.{kind}", ODD)
    split, path = train_of(str(home)), tmp_path / "deep" / f"kept{suffix}"
    write_original(split.take([3, 0, 1, 2]), path)
    wanted = [split.as_records()[row] for row in (3, 0, 1, 2)]
    textual = suffix in (".csv", ".tsv")
    assert read_as_records(path) == [{k: (v or "") if textual else v for k, v in row.items()} for row in wanted]
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("jsonl", '{"b": [1, {"x": null}], "a": "ü"}\n{"a": "2", "c": 1.5}\n'),
        ("csv", 'a,b\n"x, y",1\nplain,\n'),
        ("csv", ",text,label\n8,bad,0\n"),  # row numbers that pandas has written
        ("tsv", 'a\tb\n"stray\t"ordinary"\nsay ""hi""\t1\n'),
    ],
)
def test_the_same_format_is_the_same_text(folder: Folder, tmp_path: Path, kind: str, text: str) -> None:
    write_original(train_of(folder(kind, train=text)), tmp_path / f"kept.{kind}")
    assert (tmp_path / f"kept.{kind}").read_text(encoding="utf-8") == text


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("k.csv", ["new york", "x"], 'a\n"[""new york"", ""x""]"\n'),
        ("k.csv", {"n": [1]}, 'a\n"{""n"": [1]}"\n'),
        ("k.tsv", ["x"], 'a\n["x"]\n'),
        ("k.jsonl", date(2024, 2, 29), '{"a": "2024-02-29"}\n'),
        ("k.csv", date(2024, 2, 29), "a\n2024-02-29\n"),
    ],
)
def test_values_that_are_no_plain_text(tmp_path: Path, name: str, value: Any, text: str) -> None:
    write_original(Original("x", ("a",), [{"a": value}]), tmp_path / name)
    assert (tmp_path / name).read_text(encoding="utf-8") == text


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_words_are_read_again_as_words(folder: Folder, tmp_path: Path, suffix: str) -> None:
    source = folder(train=commands(6), dev=commands(2, 10))
    write_original(train_of(source), tmp_path / f"kept{suffix}")
    again = load_data(str(tmp_path / f"kept{suffix}"), "intent-slot", dev_share=0.2)
    whole = load_data(source, "intent-slot").splits["train"]
    assert again.splits["train"] == whole.take(again.splits["train"].source_rows or ())


def test_class_numbers_become_names_in_text_only(tmp_path: Path) -> None:
    split = train_of(saved(tmp_path / "set"))
    write_original(split, tmp_path / "kept.jsonl")
    assert json.loads((tmp_path / "kept.jsonl").read_text(encoding="utf-8").splitlines()[0])["label"] == "pos"
    write_original(split, tmp_path / "kept.parquet")
    assert pq.read_table(tmp_path / "kept.parquet")["label"].to_pylist() == [1, 0, 1]
    assert train_of(str(tmp_path / "kept.parquet")).as_records()[0]["label"] == "pos"


def test_a_saved_folder(tmp_path: Path) -> None:
    source = find(saved(tmp_path / "set"))
    out = tmp_path / "kept"
    for rows in ([1], [2, 0]):  # the second time it replaces the first
        write_saved({"train": source.originals["train"]().take(rows), "validation": source.originals["dev"]()}, out)
    found = datasets.load_from_disk(str(out))
    assert found["train"].features["label"].names == ["neg", "pos"]
    assert found["train"].features["n"].dtype == "int8"
    assert (found["train"]["body"][:], found["validation"]["body"][:]) == (["c", "a"], ["c", "a"])
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["kept", "set"]


def test_a_saved_folder_of_records(tmp_path: Path) -> None:
    write_saved({"train": Original("x", ("text", "n"), [{"text": "a"}, {"text": "b", "n": 1}])}, tmp_path / "kept")
    assert datasets.load_from_disk(str(tmp_path / "kept"))["train"].to_dict() == {"text": ["a", "b"], "n": [None, 1]}


# ---- refusals ----


def test_mixed_types_have_no_place_in_parquet(tmp_path: Path) -> None:
    split = Original("train.jsonl", ("a", "b", "c"), [{"a": 1, "b": 2, "c": 2**70}, {"a": "x", "b": 2.5, "c": 1}])
    for write in (
        lambda: write_original(split, tmp_path / "k.parquet"),
        lambda: write_saved({"train": split}, tmp_path / "k"),
    ):
        with pytest.raises(DataError, match=r"train.jsonl: 'a', 'c' holds values of several types"):
            write()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_bytes_have_no_place_in_text(tmp_path: Path, suffix: str) -> None:
    split = Original("x", ("image",), table=pa.table({"image": [b"\x00"]}))
    with pytest.raises(DataError, match=r"bytes values, which text cannot hold; .* .parquet"):
        write_original(split, tmp_path / f"k{suffix}")
    assert list(tmp_path.iterdir()) == []


def test_tabs_have_no_place_in_tsv(tmp_path: Path) -> None:
    records = [{"text": "fine"}, {"text": "a\tb"}, {"text": "a\nb"}]
    with pytest.raises(DataError, match=r"row 2: the column 'text' holds a tab .* Also row 3"):
        write_original(Original("x", ("text",), records), tmp_path / "k.tsv")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["k.jsonl", "k.parquet", "folder"])
def test_a_place_that_cannot_be_written_to(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    split, target = Original("x", ("text",), [{"text": "a"}]), tmp_path / "file" / name
    with pytest.raises(DataError, match="cannot write"):
        write_original(split, target) if "." in name else write_saved({"train": split}, target)


@pytest.mark.parametrize("as_table", [False, True], ids=["records", "table"])
def test_a_column_in_the_order_of_the_rows(as_table):
    years = [1999, None, 2004]
    records = [{"text": "a", "year": year} for year in years]
    split = Original("x", ("text", "year"), records)
    split = Original("x", ("text", "year"), table=split.as_arrow()) if as_table else split
    assert split.column("year", [2, 0]) == [2004, 1999]
    with pytest.raises(DataError, match=r"x: --by 'year' must have a value in every row, got none in 1 of 2 rows: 1\."):
        split.column("year", [1, 0], option="--by")
    with pytest.raises(DataError, match="x: unknown --by 'yaer'; did you mean 'year'"):
        split.column("yaer", [0], option="--by")
