"""The score file: what is written is read back, and what is no score file is refused."""

from __future__ import annotations

import csv
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from datadiet.errors import ArgumentError, DataError
from datadiet.store.score_file import ScoreFile, check_same_data, check_target, read_scores, write_scores

FILE = ScoreFile(
    ids=["a", "ß", "c"],
    rows=np.arange(3),
    values={"el2n": np.float32([0.1, 1.2, 0.3]), "aum": np.float32([-1, 2.5, 0])},
    labels=["yes", "no", "yes"],
    fingerprint="0123456789abcdef",
    data="reviews",
    task="classification",
    made_with={"el2n": {"model": "minilm", "epochs": 3, "seconds": 1.5}},
    label_names=("no", "yes"),
    probabilities=np.float32([[0.1, 0.9], [0.8, 0.2], [0.5, 0.5]]),
    read_with={"train_rows": 3, "columns": {"text": "body"}},
)


@pytest.fixture
def written(tmp_path: Path) -> Path:
    path = tmp_path / "scores.parquet"
    write_scores(path, FILE)
    return path


def same(one: ScoreFile, two: ScoreFile) -> bool:
    plain = ("ids", "labels", "fingerprint", "data", "task", "made_with", "label_names", "read_with")
    return (
        all(getattr(one, name) == getattr(two, name) for name in plain)
        and np.array_equal(one.rows, two.rows)
        and list(one.values) == list(two.values)
        and all(np.array_equal(one.values[name], two.values[name]) for name in one.values)
        and np.array_equal(one.probabilities, two.probabilities)  # type: ignore[arg-type]
    )


def test_read_back(written: Path) -> None:
    found = read_scores(written)
    assert same(found, FILE)
    assert (found.rows.dtype, found.values["el2n"].dtype) == (np.int64, np.float32)
    assert len(found) == 3


def test_the_layout(written: Path) -> None:
    table = pq.read_table(written)
    assert table.column_names == ["row", "id", "label", "el2n", "aum", "probabilities"]
    kinds = [pa.int64(), pa.string(), pa.string(), pa.float32(), pa.float32(), pa.list_(pa.float32(), 2)]
    assert table.schema.types == kinds
    meta = json.loads(table.schema.metadata[b"datadiet"])
    assert (meta["schema"], meta["rows"], meta["label_names"]) == (1, 3, ["no", "yes"])
    assert [entry.name for entry in written.parent.iterdir()] == [written.name]


def test_without_labels_and_probabilities(tmp_path: Path) -> None:
    bare = replace(FILE, labels=None, probabilities=None, label_names=(), made_with={}, task="regression", read_with={})
    write_scores(tmp_path / "s.parquet", bare)
    found = read_scores(tmp_path / "s.parquet")
    assert (found.labels, found.probabilities, found.label_names, dict(found.made_with)) == (None, None, (), {})


def test_some_scores_only(written: Path) -> None:
    found = read_scores(written, scores=["aum"])
    assert (list(found.values), dict(found.made_with)) == (["aum"], {})


def test_an_existing_file_needs_force(written: Path) -> None:
    other = replace(FILE, data="other")
    with pytest.raises(ArgumentError, match="exists: --force replaces it"):
        write_scores(written, other)
    assert read_scores(written).data == "reviews"
    write_scores(written, other, force=True)
    assert read_scores(written).data == "other"


def test_for_people(tmp_path: Path) -> None:
    write_scores(tmp_path / "s.jsonl", FILE)
    first = json.loads((tmp_path / "s.jsonl").read_text(encoding="utf-8").splitlines()[0])
    assert {name: first[name] for name in ("row", "id", "label", "el2n")} == {
        "row": 0, "id": "a", "label": "yes", "el2n": 0.1,
    }  # fmt: skip
    assert first["probabilities"] == {"no": pytest.approx(0.1), "yes": pytest.approx(0.9)}
    write_scores(tmp_path / "s.csv", FILE)
    with (tmp_path / "s.csv").open(encoding="utf-8", newline="") as stream:
        lines = list(csv.DictReader(stream))
    assert lines[1] == {"row": "1", "id": "ß", "label": "no", "el2n": "1.2", "aum": "2.5"}
    for kind in ("jsonl", "csv"):
        with pytest.raises(DataError, match=r"for people; read the .parquet"):
            read_scores(tmp_path / f"s.{kind}")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"values": {"el2n": np.float32([1, np.nan, -np.inf])}, "made_with": {}},
            r"2 of 3 are not: nan \(id 'ß'\), -inf",
        ),
        ({"values": {}, "made_with": {}}, "at least one score"),
        ({"values": {"row": np.zeros(3, np.float32)}, "made_with": {}}, "cannot be called row"),
        ({"values": {"el2n": np.zeros(2, np.float32)}}, "el2n must have one entry per row, 3, got 2"),
        ({"ids": ["a"]}, "ids must have one entry per row, 3, got 1"),
        ({"labels": ["a"]}, "labels must have one entry per row"),
        ({"rows": np.array([0, 2, 1])}, "must be 0 to 2"),
        ({"probabilities": np.zeros((3, 5), np.float32)}, r"must have the shape \(3, 2\)"),
        ({"made_with": {"vog": {}}}, "made_with names vog"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_what_does_not_fit_is_not_written(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=said):
        write_scores(tmp_path / "s.parquet", replace(FILE, **change))
    assert list(tmp_path.iterdir()) == []


def test_every_problem_with_the_content_at_once(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="made_with") as caught:
        write_scores(tmp_path / "s.parquet", replace(FILE, ids=["a"], made_with={"vog": {}}))
    assert len(caught.value.problems) == 2


@pytest.mark.parametrize("name", ["scores", "scores.txt"])
def test_other_endings_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ArgumentError, match=r"must end in .parquet, .jsonl, .csv"):
        write_scores(tmp_path / name, FILE)


def test_a_place_that_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ArgumentError, match=r"cannot be written: .*file is a file"):
        write_scores(tmp_path / "file" / "s.parquet", FILE)
    (tmp_path / "s.parquet").mkdir()
    with pytest.raises(ArgumentError, match="is a folder"):
        write_scores(tmp_path / "s.parquet", FILE)


def test_a_failed_write_leaves_the_old_file(written: Path) -> None:
    with pytest.raises(TypeError, match="not JSON serializable"):
        write_scores(written, replace(FILE, made_with={"el2n": {"model": object()}}), force=True)
    assert same(read_scores(written), FILE)
    assert [entry.name for entry in written.parent.iterdir()] == [written.name]


# ---- what is no score file ----


def rewritten(path: Path, change: Any = None, **meta: Any) -> Path:
    """The same file with another table, or other metadata; a key given as ... is removed."""
    table = pq.read_table(path)
    told = json.loads(table.schema.metadata[b"datadiet"]) | meta
    kept = {name: value for name, value in told.items() if value is not ...}
    changed = table if change is None else change(table)
    pq.write_table(changed.replace_schema_metadata({b"datadiet": json.dumps(kept)}), path)
    return path


def column(name: str, values: list[Any], kind: Any) -> Any:
    return lambda table: table.set_column(table.column_names.index(name), name, pa.array(values, kind))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no score file"),
        ("row,id\n", "not a readable Parquet file"),
        (pa.table({"text": ["a"]}), "is not a score file"),
        (pa.table({"row": [0]}).replace_schema_metadata({b"datadiet": b"{"}), "metadata are no JSON"),
    ],
)
def test_other_files(tmp_path: Path, content: Any, message: str) -> None:
    path = tmp_path / "s.parquet"
    if isinstance(content, str):
        path.write_text(content, encoding="utf-8")
    elif content is not None:
        pq.write_table(content, path)
    with pytest.raises(DataError, match=message):
        read_scores(path)


@pytest.mark.parametrize(
    ("change", "meta", "message"),
    [
        (None, {"schema": 2}, "has the schema 2, this version reads 1"),
        (lambda table: table.drop_columns("id"), {"fingerprint": ...}, "it lacks fingerprint, id"),
        (lambda table: table.slice(0, 2), {}, r"scores.parquet: it has 2 rows, its metadata say 3"),
        (column("el2n", [0.1, None, 0.2], pa.float32()), {}, r"1 of 3 are not: nan \(id 'ß'\)"),
        (column("row", [0, None, 2], pa.int64()), {}, "rows of a score file must be 0 to 2"),
    ],
)
def test_damaged_files(written: Path, change: Any, meta: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_scores(rewritten(written, change, **meta))


def test_unknown_scores(written: Path) -> None:
    with pytest.raises(DataError, match="unknown score 'el2m'; did you mean 'el2n'") as caught:
        read_scores(written, scores=["el2m", "vog", "aum"])
    assert len(caught.value.problems) == 2


def test_scores_of_other_data() -> None:
    check_same_data(FILE, FILE.fingerprint, "here")
    with pytest.raises(DataError, match=r"of 'reviews'.*here has the fingerprint fff.*train_rows 3"):
        check_same_data(FILE, "fff", "here")


# ---- damaged metadata, places that cannot be written, sheets ----


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("label_names", 5), ("made_with", []), ("made_with", {"el2n": 1}), ("rows", "3"), ("data", None)),
        *(
            ("read_with", {"rows": 5}),
            ("read_with", {"columns": {"txt": "a"}}),
            ("read_with", {"columns": {"text": 5}}),
        ),
        *(("cost", []), ("probabilities_with", 1), ("fingerprint", [])),
    ],
)
def test_metadata_of_another_form(written: Path, name: str, value: object) -> None:
    table = pq.read_table(written)
    meta = {**json.loads(table.schema.metadata[b"datadiet"]), name: value}
    pq.write_table(table.replace_schema_metadata({b"datadiet": json.dumps(meta)}), written)
    with pytest.raises(DataError, match=rf"damaged score file: '{name}' is of another form; score again"):
        read_scores(written)


@pytest.mark.parametrize("metadata", [b"\xff", b"[" * 9000, b"9" * 5000])
def test_metadata_that_are_no_json(written: Path, metadata: bytes) -> None:
    pq.write_table(pq.read_table(written).replace_schema_metadata({b"datadiet": metadata}), written)
    with pytest.raises(DataError, match="damaged score file: its metadata are no JSON"):
        read_scores(written)


@pytest.mark.parametrize("name", ["row", "id", "el2n", "probabilities"])
def test_columns_of_another_type(written: Path, name: str) -> None:
    table = pq.read_table(written)
    odd = table.set_column(table.column_names.index(name), name, pa.array([{"a": 1}] * 3))
    pq.write_table(odd, written)
    with pytest.raises(DataError, match=rf"damaged score file: '{name}' is of another form"):
        read_scores(written)


def test_places_that_cannot_be_written_are_seen_before_scoring(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_target(tmp_path / "new" / "scores.csv")
    os.mkfifo(tmp_path / "pipe.csv")
    (tmp_path / "dangling.csv").symlink_to("nowhere/x.csv")
    for name, reason in {"pipe.csv": "is a pipe", "dangling.csv": "is a dangling link", "a" * 260: "too long"}.items():
        with pytest.raises(ArgumentError, match=f"the score file cannot be written: .*{reason}"):
            check_target((tmp_path / name).with_suffix(".csv"))
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write everywhere
    with pytest.raises(ArgumentError, match=r"the score file cannot be written: .* may not be written to"):
        check_target(tmp_path / "scores.csv")


def test_a_spreadsheet_reads_text_as_text(tmp_path: Path) -> None:
    ids = ["=1+1", "-2", "plain"]
    write_scores(tmp_path / "s.csv", replace(FILE, ids=ids, labels=["@a", "+b", "\tc"]))
    with (tmp_path / "s.csv").open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["id"] for row in rows] == ["'=1+1", "'-2", "plain"]
    assert [row["label"] for row in rows] == ["'@a", "'+b", "'\tc"]
    assert rows[0]["aum"] == "-1.0"  # a number
    write_scores(tmp_path / "s.jsonl", replace(FILE, ids=ids))
    assert json.loads((tmp_path / "s.jsonl").read_text().splitlines()[0])["id"] == "=1+1"


def test_rows_without_a_value_are_null_and_counted(tmp_path: Path) -> None:
    path, lacking = tmp_path / "scores.parquet", np.array([False, True, False])
    values = {**FILE.values, "aum": np.float32([-1, np.nan, 0])}
    write_scores(path, replace(FILE, values=values, missing={"aum": lacking}))
    assert pq.read_table(path)["aum"].to_pylist() == [-1, None, 0]
    file = read_scores(path)
    assert file.lacks("aum").tolist() == lacking.tolist()
    assert not file.lacks("el2n").any()
    rewritten(path, missing={"aum": 2})
    with pytest.raises(DataError, match="the values of aum must be finite numbers; 1 of 3 are not: nan"):
        read_scores(path)
    with pytest.raises(DataError, match="the values of aum must be finite numbers"):
        write_scores(tmp_path / "other.parquet", replace(FILE, values=values))
