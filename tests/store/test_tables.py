"""Append-only tables: round trips, killed writes, slices, and the memory of a part."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from datadiet.errors import DataError
from datadiet.files import write_atomically
from datadiet.store import tables as slices
from datadiet.store.run_folder import MANIFEST
from datadiet.store.tables import PartedTable, ScoreStore, append_plan, last_values, read_table
from datadiet.types import EpochPlan, Scores


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


def test_a_table_that_another_run_has_replaced_is_not_read_as_ones_own(tmp_path):
    first = ScoreStore(tmp_path / "scores", "a")
    first.append(scores([0], [0.5]))
    (tmp_path / "scores").rename(tmp_path / "scores.1")
    ScoreStore(tmp_path / "scores", "b").append(scores([0], [0.25]))
    for use in (first.to_pandas, lambda: first.append(scores([0], [0.5]))):
        with pytest.raises(DataError, match="belongs to another run"):
            use()


def test_truncate_drops_later_parts(tmp_path):
    store = ScoreStore(tmp_path, "r")
    assert store.to_pandas().empty
    for row in range(3):
        store.append(scores([row], [0.5]))
    again = ScoreStore(tmp_path, "r")
    again.table.truncate(1)
    again.append(scores([9], [0.5]))
    assert read_table(tmp_path)["row"].to_pylist() == [0, 9]


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
    ids, values = last_values(tmp_path, "el2n")
    assert (ids, values.tolist()) == (["a", "b"], [0.75, 0.25])


def test_atomic_writes_replace_whole_files(tmp_path):
    path = tmp_path / "deep" / "file.json"
    write_atomically(path, "1")
    write_atomically(path, json.dumps({"a": 2}))
    assert json.loads(path.read_text()) == {"a": 2}
    assert [file.name for file in path.parent.iterdir()] == ["file.json"]


def a_part(count):
    """Values of every second row."""
    values = np.random.default_rng(0).random(count, np.float32)
    return Scores(np.arange(count) * 2, {"el2n": values, "moment": np.ones_like(values)}, "train", 3, 1)


@pytest.mark.parametrize("on_disk", [True, False])
@pytest.mark.parametrize("ids", [None, [f"id {row}" for row in range(20)]])
@pytest.mark.parametrize("count", [0, 3, 4, 5, 10])
def test_a_part_written_in_slices_reads_back_as_one(tmp_path, monkeypatch, on_disk, ids, count):
    plan = EpochPlan(2, np.arange(count) * 2, full=False, weights=np.arange(count, dtype=np.float32))
    tables = []
    for slice_rows in (100, 4):
        monkeypatch.setattr(slices, "SLICE_ROWS", slice_rows)
        folder = tmp_path / str(slice_rows) if on_disk else None
        store, plans = ScoreStore(folder and folder / "scores", "r", ids), PartedTable(folder and folder / "plans", "r")
        store.append(a_part(count))
        append_plan(plans, plan)
        tables.append((store.table.read(), plans.read()))
    assert tables[0] == tables[1]
    scores_table, plan_table = tables[1]
    assert scores_table.schema.field("source").type == scores_table.schema.field("id").type == "string"
    assert scores_table["row"].to_pylist() == plan_table["row"].to_pylist() == plan.rows.tolist()
    assert scores_table["id"].to_pylist() == [str(row) if ids is None else ids[row] for row in plan.rows]
    assert np.array_equal(scores_table["el2n"].to_numpy(), a_part(count).values["el2n"])
    assert plan_table["weight"].to_pylist() == plan.weights.tolist()


def test_each_slice_is_a_row_group(tmp_path, monkeypatch):
    monkeypatch.setattr(slices, "SLICE_ROWS", 4)
    ScoreStore(tmp_path, "r").append(a_part(10))
    found = pq.ParquetFile(tmp_path / "part-00000.parquet").metadata
    assert [found.row_group(place).num_rows for place in range(found.num_row_groups)] == [4, 4, 2]


def test_what_arrow_holds_does_not_grow_with_the_part(tmp_path, monkeypatch):
    peaks = []
    for count in (50_000, 200_000):
        pool = pa.proxy_memory_pool(pa.system_memory_pool())
        with monkeypatch.context() as patched:
            patched.setattr(pa, "system_memory_pool", lambda pool=pool: pool)
            ScoreStore(tmp_path / str(count), "r").append(a_part(count))
        peaks.append(pool.max_memory())
    assert peaks[1] <= peaks[0] + 65_536  # the footer names each row group
    assert peaks[1] <= 2_000_000


def test_arrow_has_its_own_memory_again_after_a_part(tmp_path):
    before = pa.default_memory_pool().backend_name
    store = ScoreStore(tmp_path, "r")
    store.append(a_part(3))
    assert pa.default_memory_pool().backend_name == before
    broken = Scores(np.arange(2), {"el2n": np.array(["a", "b"])}, "train", 0, 0)
    with pytest.raises(pa.ArrowNotImplementedError, match="NumPy type"):
        store.append(broken)
    assert pa.default_memory_pool().backend_name == before
    assert len(store.table) == 1


def test_ids_of_any_kind_become_text_in_pieces(monkeypatch):
    monkeypatch.setattr(slices, "SLICE_ROWS", 4)
    store = ScoreStore(None, "r", ids=np.arange(100, 110))
    store.append(scores([0, 9], [0.5, 0.25]))
    assert store.to_pandas()["id"].tolist() == ["100", "109"]
