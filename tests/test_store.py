from __future__ import annotations

import json

import numpy as np
import pytest

from datadiet.checks import DataError
from datadiet.records import EpochPlan, Scores
from datadiet.store import MANIFEST, PartedTable, ScoreStore, append_plan, last_values, read_table, write_atomically


def scores(rows, values, epoch=0, source="train"):
    columns = {"el2n": np.array(values, np.float32)}
    return Scores(np.array(rows, np.int64), columns, source, epoch, epoch)


@pytest.mark.parametrize("on_disk", [True, False])
def test_round_trip(tmp_path, on_disk):
    store = ScoreStore(tmp_path / "scores" if on_disk else None, "r", ids=["a", "b", "c"])
    store.append(scores([0, 2], [0.5, np.nan]))
    store.append(scores([1], [np.inf], epoch=1, source="pass"))
    table = store.to_pandas()
    assert table["row"].tolist() == [0, 2, 1]
    assert table["row"].dtype == np.int64
    assert table["el2n"].dtype == np.float32
    assert table["id"].tolist() == ["a", "c", "b"]
    assert table["source"].tolist() == ["train", "train", "pass"]
    assert table["epoch"].tolist() == [0, 0, 1]
    assert np.array_equal(table["el2n"], np.array([0.5, np.nan, np.inf], np.float32), equal_nan=True)


def test_a_line_takes_few_bytes_on_disk(tmp_path):
    """Seven signals of which no two values are equal (28 bytes), beside row, id, epoch, round and source."""
    generator, count = np.random.default_rng(0), 4000
    values = {f"signal {place}": generator.random(count, np.float32) for place in range(7)}
    store = ScoreStore(tmp_path, "r", ids=[f"train-{row}" for row in range(count)])
    store.append(Scores(np.arange(count), values, "train", 0, 0))
    assert (tmp_path / "part-00000.parquet").stat().st_size <= 32 * count
    read = store.to_pandas()
    assert all(np.array_equal(read[name], column) for name, column in values.items())
    assert read["id"].tolist() == [f"train-{row}" for row in range(count)]


def test_rows_beyond_the_reach_of_floats_stay_exact(tmp_path):
    store = ScoreStore(tmp_path, "r")
    store.append(scores([2**53 + 1], [0.1]))
    assert store.to_pandas()["row"].tolist() == [2**53 + 1]
    assert store.to_pandas()["id"].tolist() == [str(2**53 + 1)]


def test_a_killed_write_is_invisible(tmp_path):
    store = ScoreStore(tmp_path, "r")
    store.append(scores([0], [0.5]))
    (tmp_path / "part-00001.parquet").write_bytes(b"half a fi")
    (tmp_path / "part-00001.parquet.part").write_bytes(b"hal")
    (tmp_path / f"{MANIFEST}.part").write_text("{")
    assert len(ScoreStore(tmp_path, "r").to_pandas()) == 1
    again = ScoreStore(tmp_path, "r")
    again.append(scores([1], [0.25]))
    assert again.to_pandas()["row"].tolist() == [0, 1]


def test_two_runs_cannot_mix(tmp_path):
    ScoreStore(tmp_path, "first").append(scores([0], [0.5]))
    with pytest.raises(DataError, match="belongs to another run"):
        ScoreStore(tmp_path, "second")


def test_truncate_forgets_what_a_checkpoint_had_not_seen(tmp_path):
    store = ScoreStore(tmp_path, "r")
    for row in range(3):
        store.append(scores([row], [0.5]))
    again = ScoreStore(tmp_path, "r")
    again.table.truncate(1)
    again.append(scores([9], [0.5]))
    assert read_table(tmp_path)["row"].to_pylist() == [0, 9]


def test_an_empty_store_is_an_empty_frame(tmp_path):
    assert ScoreStore(tmp_path, "r").to_pandas().empty


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no finished table"),
        ("{", "not valid JSON"),
        ('{"schema": 9, "parts": []}', "schema 9; this version reads 1"),
        ('{"schema": 1, "parts": []}', "empty table"),
    ],
)
def test_unreadable_tables_say_why(tmp_path, content, message):
    if content is not None:
        (tmp_path / MANIFEST).write_text(content)
    with pytest.raises(DataError, match=message):
        read_table(tmp_path)


def test_plans_hold_rows_and_weights(tmp_path):
    table = PartedTable(tmp_path, "r")
    append_plan(table, EpochPlan(0, np.arange(2), full=True))
    append_plan(table, EpochPlan(1, np.array([5]), full=False, weights=np.array([2.5], np.float32)))
    assert table.read().to_pydict() == {"epoch": [0, 0, 1], "row": [0, 1, 5], "weight": [1.0, 1.0, 2.5]}


def test_last_values_are_the_last_and_skip_nan(tmp_path):
    store = ScoreStore(tmp_path, "r", ids=["a", "b"])
    store.append(scores([0, 1], [0.5, 0.25]))
    store.append(scores([0, 1], [0.75, np.nan], epoch=1))
    assert last_values(tmp_path, "el2n") == {"a": 0.75, "b": 0.25}


def test_atomic_writes_replace_whole_files(tmp_path):
    path = tmp_path / "deep" / "file.json"
    write_atomically(path, "1")
    write_atomically(path, json.dumps({"a": 2}))
    assert json.loads(path.read_text()) == {"a": 2}
    assert [file.name for file in path.parent.iterdir()] == ["file.json"]
