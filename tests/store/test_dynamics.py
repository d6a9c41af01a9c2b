"""The table of a run's training dynamics: what it reads, and what it writes for others."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose

import datadiet as dd
from datadiet.errors import ArgumentError, DataError
from datadiet.scores.dynamics import training_dynamics
from datadiet.store.dynamics import read_rounds
from datadiet.store.tables import ScoreStore
from datadiet.types import Scores

NAMES = ("gold_probability", "margin", "loss", "el2n", "correct", "hidden_norm")
ROUNDS, N = 4, 6
QUANTITIES = ("confidence", "variability", "correctness", "threshold_closeness", "forgetting", "aum", "tracin", "grand")


def columns(rounds: int = ROUNDS, n: int = N, seed: int = 0) -> dict[str, np.ndarray]:
    """Row 4 is seen in the first round alone, row 5 never; row 3 is never right."""
    generator = np.random.default_rng(seed)
    probability = generator.random((rounds, n))
    probability[:, 3] = 0.1
    seen = np.ones((rounds, n), bool)
    seen[1:, 4], seen[:, 5] = False, False
    tables = {
        "gold_probability": probability,
        "margin": generator.standard_normal((rounds, n)),
        "loss": -np.log(probability),
        "el2n": 1 - probability,
        "correct": (probability > 0.5).astype(float),
        "hidden_norm": 1 + generator.random((rounds, n)),
    }
    return {name: np.where(seen, table, np.nan).astype(np.float32) for name, table in tables.items()}


def append(store: ScoreStore, tables: dict[str, np.ndarray], *, source="train", moment=None, leave=()) -> None:
    for epoch in range(len(tables["loss"])):
        rows = np.flatnonzero(~np.isnan(tables["loss"][epoch]))
        values = {name: tables[name][epoch][rows] for name in NAMES if name not in leave}
        at = np.nan if source == "pass" and moment is None else (moment or 0) + np.arange(len(rows)) % 2 + 1
        values["moment"] = np.full(len(rows), at, np.float32)
        store.append(Scores(rows, values, source, epoch, epoch))


def a_run(tmp_path, rows=None, **options):
    """A run folder; with `rows`, its result counts so many."""
    store = ScoreStore(tmp_path / "scores", "r", ids=[f"id-{row}" for row in range(N)])
    append(store, columns(), **options)
    if rows is not None:
        (tmp_path / "result.json").write_text(json.dumps({"schema": 1, "data": {"rows": {"train": rows}}}))
    return tmp_path


def test_the_table_has_what_the_functions_give(tmp_path):
    table = dd.dynamics(a_run(tmp_path), labels=list("abcde"))
    expected = training_dynamics({name: values[:, :5] for name, values in columns().items() if name != "loss"})
    frame = table.to_pandas()
    assert list(frame.columns) == ["id", "row", "label", "times", *QUANTITIES]
    assert frame["id"].tolist() == ["id-0", "id-1", "id-2", "id-3", "id-4"]  # nothing says that there is a row 5
    assert frame["times"].tolist() == [4, 4, 4, 4, 1]
    for name in QUANTITIES:
        assert_allclose(frame[name], getattr(expected, name), rtol=1e-12)
    assert frame["forgetting"][3] == np.inf
    assert table.rounds == ROUNDS
    again = dd.dynamics(tmp_path / "scores").to_pandas()
    pd.testing.assert_frame_equal(again.drop(columns="label"), frame.drop(columns="label"))


def test_rows_that_were_never_seen_are_there_where_the_result_counts_them(tmp_path):
    frame = dd.dynamics(a_run(tmp_path, rows=N)).to_pandas()
    assert len(frame) == N
    assert frame["id"][5] == "5"
    assert frame["times"][5] == 0
    assert frame[list(QUANTITIES)].iloc[5].isna().all()


def test_burn_out_and_learning_rates(tmp_path):
    folder = a_run(tmp_path)
    expected = training_dynamics({name: values[:, :5] for name, values in columns().items()}, burn_out=2)
    assert_allclose(dd.dynamics(folder, burn_out=2).dynamics.variability, expected.variability)
    rates = [0.4, 0.3, 0.2, 0.1]
    weighted = dd.dynamics(folder, learning_rates=rates).to_pandas()["tracin"]
    one = columns()
    by_hand = sum(rate * one["el2n"][r, :4] ** 2 * (1 + one["hidden_norm"][r, :4] ** 2) for r, rate in enumerate(rates))
    assert_allclose(weighted[:4], by_hand, rtol=1e-6)
    with pytest.raises(ArgumentError, match="burn_out must be at most the 4 rounds, got 9"):
        dd.dynamics(folder, burn_out=9)


def test_sources_are_told_apart(tmp_path):
    folder = a_run(tmp_path)
    store = ScoreStore(folder / "scores", "r")
    passes, probes = columns(2, seed=1), columns(3, seed=2)
    append(store, passes, source="pass")
    append(store, probes, source="pass", moment=7)
    assert dd.dynamics(folder).rounds == 4
    for source, tables in (("pass", passes), ("probe", probes)):
        aum = -np.nanmean(tables["margin"][:, :5], 0)
        assert_allclose(dd.dynamics(folder, source=source).dynamics.aum, aum, rtol=1e-6)


def test_read_rounds_has_the_ids_of_its_own_source(tmp_path):
    folder = a_run(tmp_path)
    some = {name: np.where(np.arange(N) < 2, table, np.nan) for name, table in columns(1, seed=1).items()}
    append(ScoreStore(folder / "scores", "r"), some, source="pass")
    rounds = read_rounds(folder, ("margin", "entropy"), source="pass")
    assert rounds.ids == ["id-0", "id-1"]
    assert (rounds.epochs.tolist(), rounds.counts.tolist(), list(rounds.columns)) == ([0], [2], ["margin"])
    assert_allclose(rounds.columns["margin"], some["margin"][:, :2])
    train = read_rounds(a_run(tmp_path / "later", rows=N))
    assert train.ids == ["id-0", "id-1", "id-2", "id-3", "id-4", None]
    assert train.counts.tolist() == [5, 4, 4, 4]


def test_blocks_of_a_large_set_give_the_same(tmp_path, monkeypatch):
    folder = a_run(tmp_path)
    whole = dd.dynamics(folder).to_pandas()
    monkeypatch.setattr("datadiet.store.dynamics._BLOCK", 2)
    pd.testing.assert_frame_equal(dd.dynamics(folder).to_pandas(), whole)


@pytest.mark.parametrize("name", ["t.parquet", "deep/t.jsonl"])
def test_a_saved_table_reads_back(tmp_path, name):
    table = dd.dynamics(a_run(tmp_path), labels=["a", "b", "ü", "<b>", None])
    table.save(tmp_path / name)
    frame = table.to_pandas()
    if name.endswith(".parquet"):
        pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / name), frame)
    else:
        lines = [json.loads(line) for line in (tmp_path / name).read_text(encoding="utf-8").splitlines()]
        assert [line["label"] for line in lines] == ["a", "b", "ü", "<b>", None]
        assert [line["confidence"] for line in lines] == frame["confidence"].tolist()
        assert lines[3]["forgetting"] is None  # infinite: never right
    assert not list(tmp_path.rglob("*.part"))
    with pytest.raises(ArgumentError, match=r"as .parquet or .jsonl, got 't.csv'"):
        table.save(tmp_path / "t.csv")


def test_cartography_reads_it(tmp_path):
    """The columns, order and never-learned value of `cartography/selection/train_dy_filtering.py`."""
    table = dd.dynamics(a_run(tmp_path, rows=N))
    table.save_cartography(tmp_path / "td_metrics.jsonl")
    frame = pd.read_json(tmp_path / "td_metrics.jsonl", lines=True)
    names = ["guid", "index", "threshold_closeness", "confidence", "variability", "correctness", "forgetfulness"]
    assert list(frame.columns) == names
    assert frame["guid"].tolist() == [f"id-{row}" for row in range(5)]  # row 5 was never seen
    assert frame["forgetfulness"][3] == 1000
    assert_allclose(frame["confidence"], table.dynamics.confidence[:5], rtol=1e-9)
    assert frame["correctness"].dtype == frame["forgetfulness"].dtype == np.int64


def test_what_an_older_run_did_not_record_is_nan(tmp_path):
    table = dd.dynamics(a_run(tmp_path, leave=("el2n", "correct", "hidden_norm")))
    assert np.isfinite(table.dynamics.confidence).all()
    assert np.isnan(table.dynamics.grand).all()
    with pytest.raises(DataError, match="the run has no correctness"):
        table.to_cartography()


def test_a_regression_has_no_data_map(tmp_path):
    store = ScoreStore(tmp_path / "scores", "r")
    tables = columns()
    for name in ("gold_probability", "margin", "correct"):
        tables[name] = np.full_like(tables[name], np.nan)
    append(store, tables)
    table = dd.dynamics(tmp_path)
    assert np.isfinite(table.dynamics.grand).all()
    with pytest.raises(DataError, match="the run has no confidence"):
        table.to_cartography()


def test_bad_arguments_and_missing_histories_are_refused(tmp_path):
    with pytest.raises(DataError, match="holds no score history"):
        dd.dynamics(tmp_path)
    folder = a_run(tmp_path)
    with pytest.raises(DataError, match="no values of source 'probe'; there are train"):
        dd.dynamics(folder, source="probe")
    with pytest.raises(ArgumentError, match="unknown source 'trian'; did you mean 'train'"):
        dd.dynamics(folder, source="trian")
    with pytest.raises(ArgumentError, match="labels must be one per training row: got 2 for 5 rows"):
        dd.dynamics(folder, labels=["a", "b"])
