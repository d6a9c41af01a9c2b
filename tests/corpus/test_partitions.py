"""Partitions of a corpus: how files are cut and sealed, what a row and its id are, and what is refused."""

from __future__ import annotations

import gzip
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from datadiet.corpus import partitions
from datadiet.corpus.partitions import Corpus, batches, find_corpus, reading_of
from datadiet.data.load import read_examples
from datadiet.data.schema import Columns
from datadiet.errors import DataError

ROWS = [{"text": f"text number {row} — é", "label": "ab"[row % 2]} for row in range(300)]


def lines_of(rows: list[dict[str, Any]]) -> bytes:
    return b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """The same rows in five kinds of files."""
    folder = tmp_path / "corpus"
    (folder / "deep" / "er").mkdir(parents=True)
    (folder / "a.jsonl").write_bytes(lines_of(ROWS))
    (folder / "deep" / "b.jsonl.gz").write_bytes(gzip.compress(lines_of(ROWS)))
    with pa.CompressedOutputStream(str(folder / "deep" / "c.jsonl.zst"), "zstd") as stream:
        stream.write(lines_of(ROWS))
    pq.write_table(pa.Table.from_pylist(ROWS), folder / "deep" / "er" / "d.parquet", row_group_size=70)
    (folder / "_notes.jsonl").write_text("no row")
    (folder / "readme.md").write_text("no data")
    return folder


def read(corpus: Corpus, task: str = "classification", columns: Columns | None = None) -> dict[str, list[Any]]:
    reading = reading_of(corpus, task, columns or Columns())
    found: dict[str, list[Any]] = {"ids": [], "texts": [], "labels": []}
    for part in corpus.partitions:
        for batch in batches(corpus.place, part):
            examples, _ = reading.examples(part, batch)
            for name, values in found.items():
                values.extend(getattr(examples, name) or ())
    return found


@pytest.mark.parametrize("part_bytes", [1, 777, 4000, 1 << 30])
def test_every_row_is_read_once_however_files_are_cut(corpus, part_bytes, monkeypatch):
    monkeypatch.setattr(partitions, "BATCH_BYTES", 1000)
    monkeypatch.setattr(partitions, "BATCH_ROWS", 64)
    found = find_corpus(corpus, part_bytes=part_bytes)
    content = read(found)
    assert content["texts"] == [row["text"] for row in ROWS] * 4
    assert content["labels"] == [row["label"] for row in ROWS] * 4
    names = ["a.jsonl", "deep/b.jsonl.gz", "deep/c.jsonl.zst", "deep/er/d.parquet"]
    assert content["ids"] == [f"{name}:{row}" for name in names for row in range(len(ROWS))]
    assert list(dict.fromkeys(part.file for part in found.partitions)) == names
    assert found.notes == ("Files that are not used: 'readme.md'.",)
    assert len({part.slug for part in found.partitions}) == len(found.partitions)


def test_ranges_of_a_text_file_meet_at_line_ends(corpus):
    parts = [part for part in find_corpus(corpus, part_bytes=2000).partitions if part.file == "a.jsonl"]
    data = (corpus / "a.jsonl").read_bytes()
    assert len(parts) > 3
    assert parts[0].begin == 0
    assert parts[-1].end == len(data)
    for one, two in pairwise(parts):
        assert one.end == two.begin
        assert data[one.end - 1 : one.end] == b"\n"
        assert two.first == data[: two.begin].count(b"\n")


def test_rows_are_those_that_are_read_in_memory(corpus):
    content = read(find_corpus(corpus))
    examples = read_examples(str(corpus / "a.jsonl"), "classification", labelled=True)
    assert content["texts"][: len(ROWS)] == list(examples.texts)


def test_lines_of_text_are_rows_and_blank_ones_are_none(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfone\r\n\n  \ntwo\nthree")
    found = read(find_corpus(tmp_path), "causal-lm")
    assert found["ids"] == ["a.txt:0", "a.txt:3", "a.txt:4"]


def test_a_saved_folder_is_cut_by_rows(tmp_path):
    names = datasets.ClassLabel(names=["no", "yes"])
    features = datasets.Features({"text": datasets.Value("string"), "label": names})
    saved = datasets.Dataset.from_dict({"text": ["a", "b", "c", "d"], "label": [0, 1, 1, 0]}, features)
    saved.save_to_disk(str(tmp_path / "saved"))
    found = find_corpus(tmp_path / "saved", part_bytes=30)
    assert len(found.partitions) > 1
    content = read(found)
    assert content["labels"] == ["no", "yes", "yes", "no"]
    assert content["ids"] == [f"train:{row}" for row in range(4)]


def test_the_fingerprint_is_of_names_and_content(corpus):
    before = find_corpus(corpus)
    assert find_corpus(corpus).fingerprint == before.fingerprint
    path = corpus / "deep" / "b.jsonl.gz"
    path.write_bytes(gzip.compress(lines_of(ROWS[::-1])))
    after = find_corpus(corpus)
    assert after.fingerprint != before.fingerprint
    changed = [one.name for one, two in zip(before.partitions, after.partitions, strict=True) if one != two]
    assert changed == ["deep/b.jsonl.gz"]


def test_own_ids_are_taken_and_columns_that_a_batch_lacks_are_empty(tmp_path, monkeypatch):
    monkeypatch.setattr(partitions, "BATCH_ROWS", 2)
    rows = [{"id": f"r{n}", "prompt": "p", "response": "a", **({"context": "c"} if n > 2 else {})} for n in range(5)]
    (tmp_path / "a.jsonl").write_bytes(lines_of(rows))
    assert read(find_corpus(tmp_path), "causal-lm")["ids"] == [f"r{n}" for n in range(5)]
    own = read(find_corpus(tmp_path), "causal-lm", Columns(id=""))["ids"]
    assert own == [f"a.jsonl:{n}" for n in range(5)]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", lines_of(ROWS) + b"{broken\n", r"a\.jsonl, line 301: not valid JSON"),
        ("a.jsonl", lines_of([*ROWS, {"text": "", "label": "a"}]), r"a\.jsonl, line 301: the text is empty"),
        ("a.jsonl", lines_of(ROWS) + b'{"text": "\xff", "label": "a"}\n', r"line 301: not UTF-8"),
        ("a.jsonl.gz", gzip.compress(lines_of(ROWS))[:-9], "cannot be read as a complete compressed file"),
        ("a.jsonl.zst", b"no zstd", "cannot be read as a complete compressed file"),
        ("a.parquet", b"PAR1 is not enough", "cannot be read"),
    ],
)
def test_a_broken_partition_names_its_file_and_line(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    (tmp_path / "z.jsonl").write_bytes(lines_of(ROWS))
    found = find_corpus(tmp_path)
    reading = reading_of(found, "classification", Columns())
    part = next(one for one in found.partitions if one.file == name)
    with pytest.raises(DataError, match=message):
        [reading.examples(part, batch) for batch in batches(found.place, part)]


def test_no_corpus_is_said_in_a_sentence(tmp_path):
    with pytest.raises(DataError, match="there is no folder"):
        find_corpus(tmp_path / "nothing")
    with pytest.raises(DataError, match=r"no file of a corpus; found nothing\. Files end in \.jsonl"):
        find_corpus(tmp_path)
    (tmp_path / "a.jsonl").write_bytes(b"")
    with pytest.raises(DataError, match="there are no rows in it"):
        reading_of(find_corpus(tmp_path), "classification", Columns())
    (tmp_path / "a.jsonl").write_bytes(lines_of(ROWS))
    with pytest.raises(DataError, match="there is no column 'topic'; found 'text', 'label'"):
        reading_of(find_corpus(tmp_path), "classification", Columns(), group="topic")
    with pytest.raises(DataError, match="unknown column 'body'"):
        reading_of(find_corpus(tmp_path), "classification", Columns(text="body"))
    with pytest.raises(DataError, match="the rows of a multi-label set are read together"):
        reading_of(find_corpus(tmp_path), "multi-label", Columns())


def test_linked_folders_count_once_and_circles_end(tmp_path):
    (tmp_path / "aside").mkdir()
    (tmp_path / "aside" / "b.txt").write_text("linked")
    folder = tmp_path / "corpus"
    folder.mkdir()
    (folder / "a.txt").write_text("own")
    (folder / "more").symlink_to(tmp_path / "aside")
    (folder / "twice").symlink_to(tmp_path / "aside")
    (folder / "round").symlink_to(folder)
    assert read(find_corpus(folder), "causal-lm")["ids"] == ["a.txt:0", "more/b.txt:0"]


def test_other_splits_of_a_saved_folder_are_named(tmp_path):
    split = datasets.Dataset.from_list(ROWS)
    datasets.DatasetDict({"train": split, "test": split, "dev": split}).save_to_disk(str(tmp_path / "saved"))
    assert find_corpus(tmp_path / "saved").notes == ("Splits that are not used: 'dev', 'test'.",)


def test_a_file_without_the_column_is_told_so(tmp_path):
    pq.write_table(pa.table({"text": ["one"]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"content": ["two"]}), tmp_path / "b.parquet")
    with pytest.raises(DataError, match=r"b\.parquet: there is no column 'text'; found 'content'\.$"):
        read(find_corpus(tmp_path), "causal-lm")


def test_a_wrong_row_is_named_by_its_place(tmp_path):
    lines = [{"text": "one"}, {"text": ""}]
    (tmp_path / "a.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    with pytest.raises(DataError, match=r"a\.jsonl, line 2: the text is empty"):
        read(find_corpus(tmp_path), "causal-lm")


@pytest.mark.parametrize("names", [["messages"], ["prompt", "completion"]])
def test_one_row_of_messages_is_a_row(tmp_path, names):
    turns = [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}]
    row = {"messages": turns} if len(names) == 1 else {"prompt": turns[:1], "completion": turns[1:]}
    (tmp_path / "a.jsonl").write_text(json.dumps(row))
    assert read(find_corpus(tmp_path), "causal-lm")["ids"] == ["a.jsonl:0"]
