"""Ranking suspected label errors: precision on planted ones, threshold samples, and run folders."""

from __future__ import annotations

import sys

import numpy as np
import pytest

from datadiet import noise
from datadiet.errors import ArgumentError, DataError, MissingExtraError
from datadiet.noise.rankings import Ranking, from_runs, most_suspected, past_threshold, threshold_samples
from datadiet.store.tables import ScoreStore
from datadiet.types import Scores
from toys import planted

RATE = 0.1
ROWS = 2000


def rankings(data):
    gold = data.held_out[np.arange(ROWS), data.labels]
    return {
        "aum": noise.aum(data.columns["margin"]),
        "el2n": noise.el2n_window(data.columns["el2n"][:2]),
        "irreducible": noise.irreducible(-np.log(gold)),
    }


# ---- each ranking: the battery


@pytest.mark.proves("aum", "el2n", "irreducible", by="planted")
@pytest.mark.parametrize("name", ["aum", "el2n", "irreducible"])
def test_at_the_planted_rate_nearly_all_that_is_named_is_wrong(name):
    data = planted(RATE)
    values = rankings(data)[name]
    assert values.dtype == np.float32
    assert values.shape == (ROWS,)
    assert np.isfinite(values).all()
    suspects = most_suspected(values, RATE)
    assert len(suspects) == RATE * ROWS
    assert data.flipped[suspects].mean() > 0.95


def test_on_hard_data_all_rankings_beat_chance_by_far():
    data = planted(RATE, apart=2.5)
    for values in rankings(data).values():
        assert data.flipped[most_suspected(values, RATE)].mean() > 0.7


def test_more_seeds_do_not_rank_worse():
    one, two = planted(RATE, apart=2.5), planted(RATE, apart=2.5, epochs=6)
    short = most_suspected(noise.el2n_window(one.columns["el2n"][:1]), RATE)
    long = most_suspected(noise.el2n_window(two.columns["el2n"]), RATE)
    assert two.flipped[long].mean() >= one.flipped[short].mean()


@pytest.mark.proves("cleanlab", by="planted")
def test_cleanlab_finds_them_too():
    pytest.importorskip("cleanlab")
    data = planted(RATE)
    values = noise.cleanlab_values(data.held_out, data.labels)
    assert ((values >= 0) & (values <= 1)).all()
    assert data.flipped[most_suspected(values, RATE)].mean() > 0.95


def test_without_cleanlab_the_error_has_the_install_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "cleanlab.rank", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'datadiet\[cleanlab\]'"):
        noise.cleanlab_values(np.eye(2), [0, 1])


@pytest.mark.proves("irreducible", by="planted")
def test_the_reducible_loss_ranks_what_was_learned_by_heart():
    # both have an unknowable label for the other model; the trained one has memorised the first alone
    assert noise.irreducible([4.0, 4.0], [0.1, 3.9]).argmax() == 0
    with pytest.raises(ArgumentError, match=r"irreducible losses must be finite; rows \[1\]"):
        noise.irreducible([1.0, np.inf])


@pytest.mark.proves("aum", kind="suspects")
def test_aum_by_hand_with_a_row_that_rested():
    assert noise.aum([[-1.0, 2.0], [-3.0, np.nan]]).tolist() == [-2.0, 2.0]
    with pytest.raises(ArgumentError, match=r"no value in any epoch, e\.g\. \[0\]"):
        noise.aum([[np.nan, 1.0]])


# ---- threshold samples


@pytest.mark.proves("threshold")
def test_a_fake_class_marks_the_threshold():
    data = planted(RATE, classes=4)
    labels, rows = threshold_samples(data.labels.tolist(), seed=0, fake=4)
    assert len(rows) == ROWS // 5
    assert [label for row, label in enumerate(labels) if label == 4] == [4] * len(rows)
    assert all(labels[row] == data.labels[row] for row in set(range(ROWS)) - set(rows.tolist()))
    assert not np.array_equal(rows, threshold_samples(data.labels.tolist(), seed=1, fake=4)[1])
    with pytest.raises(ArgumentError, match="the class 'a' exists already"):
        threshold_samples(["a", "b"], seed=0, fake="a")


@pytest.mark.proves("threshold", by="planted")
def test_rows_past_the_threshold_are_the_flipped_ones():
    # a fifth of the rows is as wrong as the flipped ones: they are the threshold samples
    data = planted(0.3)
    wrong = np.flatnonzero(data.flipped)
    fake, flipped = wrong[: len(wrong) // 2], wrong[len(wrong) // 2 :]
    found = past_threshold(noise.aum(data.columns["margin"]), fake, percentile=90)
    assert not found[fake].any()
    assert found[flipped].mean() > 0.8
    assert np.isin(np.flatnonzero(found), flipped).mean() > 0.8


# ---- together


def test_the_most_suspected_leave_half_of_each_class():
    assert most_suspected(np.zeros(6), 0.5).tolist() == [0, 1, 2]  # ties go by row
    assert most_suspected(np.arange(10.0), 0.9, np.array([0] * 6 + [1] * 4)).tolist() == [3, 4, 5, 8, 9]
    with pytest.raises(ArgumentError, match=r"share of suspects must be in \(0, 1\], got 2\. Did you mean 0\.02\?"):
        most_suspected(np.arange(4.0), 2)
    with pytest.raises(ArgumentError, match=r"suspicions must be finite; rows \[1\] are not"):
        most_suspected([1.0, np.nan], 0.5)


def test_rankings_agree_on_planted_errors_and_not_with_chance():
    data = planted(RATE)
    chance = np.random.default_rng(0).uniform(size=ROWS).astype(np.float32)
    ranking = Ranking(tuple(map(str, range(ROWS))), {**rankings(data), "chance": chance})
    agreement = ranking.agreement(RATE)
    assert agreement["aum", "el2n"] > 0.9
    assert agreement["aum", "chance"] < 0.2
    assert data.flipped[Ranking(ranking.ids, rankings(data)).top(RATE)].mean() > 0.95


# ---- run folders


def write_run(folder, data, epochs=2, rest=()):
    store = ScoreStore(folder / "scores", folder.name, [f"id{row}" for row in range(ROWS)])
    for epoch in range(epochs):
        rows = np.setdiff1d(np.arange(ROWS), rest if epoch else [])
        columns = {name: data.columns[name][epoch][rows] for name in ("el2n", "margin", "loss")}
        store.append(Scores(rows, columns, "train", epoch, epoch))
    return folder


def test_runs_of_several_seeds_are_ranked_together(tmp_path):
    one, two = planted(RATE), planted(RATE, epochs=4)
    ranking = from_runs([write_run(tmp_path / "a", one), write_run(tmp_path / "b", two)])
    assert ranking.ids[:2] == ("id0", "id1")
    expected = np.concatenate([one.columns["margin"][:2], two.columns["margin"][:2]])
    assert np.allclose(ranking.values["aum"], noise.aum(expected))
    assert one.flipped[ranking.top(RATE)].mean() > 0.95


@pytest.mark.proves("el2n", kind="suspects", by="definition")
def test_epochs_in_which_rows_rested_do_not_count(tmp_path):
    data = planted(RATE)
    run = write_run(tmp_path / "a", data, epochs=3, rest=np.arange(500))
    assert np.allclose(from_runs([run]).values["el2n"], data.columns["el2n"][0])
    with pytest.raises(DataError, match="has no epoch that saw every training row"):
        from_runs([run], epochs=(1, 3))


def test_what_does_not_fit_is_refused(tmp_path):
    data = planted(RATE)
    run = write_run(tmp_path / "a", data)
    with pytest.raises(ArgumentError, match="unknown ranking 'amu'; did you mean 'aum'"):
        from_runs([run], ["amu"])
    with pytest.raises(ArgumentError, match="no run folder was given"):
        from_runs([])
    store = ScoreStore(tmp_path / "c" / "scores", "c", ["x", "y"])
    store.append(Scores(np.arange(2), {"margin": np.zeros(2, np.float32)}, "train", 0, 0))
    with pytest.raises(DataError, match=r"holds no values of el2n\."):
        from_runs([tmp_path / "c"])
    with pytest.raises(DataError, match="has other training rows than"):
        from_runs([run, tmp_path / "c"], ["aum"])
