"""Rows take turns: nothing twice before everything once, and visits that keep to their rates."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy.stats import rankdata

from datadiet.errors import ArgumentError
from datadiet.selectors.quotas import with_floor
from datadiet.selectors.ranked import hardest
from datadiet.selectors.turns import LEAST_RATE, MOST_RATE, Turns, cover, rates_of, visits
from datadiet.types import Selection

Select = Callable[..., Selection]
seeds = st.integers(0, 2**40)


def cycles(select: Select, values: np.ndarray, count: int, number: int, **options: Any) -> tuple[Turns, list[Turns]]:
    """The turns after so many cycles, and after each."""
    turns, every = Turns.none(values.size), []
    for epoch in range(number):
        chosen = select(values, count, epoch=epoch, turns=turns, **{"seed": 5, **options})
        assert chosen.rows.size == count
        assert np.unique(chosen.rows).size == count
        turns = turns.after(chosen)
        every.append(turns)
    return turns, every


def hard(size: int = 200) -> np.ndarray:
    """Most rows are easy, a few are ten times as hard."""
    return np.random.default_rng(3).exponential(size=size)


# ---- cover


@pytest.mark.proves("cover", by="definition")
@settings(deadline=None, max_examples=60)
@given(size=st.integers(1, 90), share=st.floats(0.01, 1), number=st.integers(1, 25), seed=seeds)
def test_nothing_comes_twice_before_everything_came_once(size: int, share: float, number: int, seed: int) -> None:
    count = max(1, round(share * size))
    _, every = cycles(cover, np.zeros(size), count, number, seed=seed)
    for cycle, turns in enumerate(every, 1):
        assert turns.visits.sum() == cycle * count
        assert turns.visits.max() - turns.visits.min() <= 1
        assert_allclose(turns.expected, cycle * count / size)


@pytest.mark.proves("cover", by="definition")
def test_cover_draws_evenly_among_those_whose_turn_it_is() -> None:
    """By (seed, epoch): after 25 of 40 rows came, the other 15 come, and 10 of the 25 with the same chance."""
    came = np.arange(40) < 25
    turns, taken = Turns(came.astype(np.int64), np.full(40, 25 / 40), np.arange(40)), np.zeros(40)
    for seed in range(600):
        taken[cover(np.zeros(40), 25, seed=seed, epoch=1, turns=turns).rows] += 1
    assert_array_equal(taken[~came], 600)
    assert_allclose(taken[came] / 600, 0.4, atol=0.1)  # 5 standard deviations


def test_cover_goes_by_no_value() -> None:
    values = hard()
    first, second = (cover(one, 60, seed=1, epoch=2).rows for one in (values, values[::-1].copy()))
    assert_array_equal(first, second)


# ---- visits


@pytest.mark.proves("visits", by="definition")
@pytest.mark.parametrize("keep", [0.1, 0.3, 0.5])
@pytest.mark.parametrize("gain", [0.5, 1.0, 2.0])
def test_turns_differ_from_the_sum_of_the_rates_by_less_than_one(keep: float, gain: float) -> None:
    for size, most in ((2000, 1.0), (60, 1.1)):  # of few rows the last places of a cycle fall coarsely
        values = hard(size)
        _, every = cycles(partial(visits, gain=gain), values, round(keep * size), 40)
        assert max(float(np.abs(turns.visits - turns.expected).max()) for turns in every) < most
        assert np.unique(every[-1].visits).size > 3  # and the rates differ


@pytest.mark.proves("visits", by="definition")
def test_rates_are_the_clipped_shares_of_the_mean() -> None:
    values, mean = hard(), hard().mean()
    rates = visits(values, 20, seed=0, epoch=0).rates
    assert rates is not None
    shares = np.clip(values / mean, LEAST_RATE, MOST_RATE)
    assert_allclose(rates, 20 * shares / shares.sum())
    assert rates.max() / rates.min() == pytest.approx(MOST_RATE / LEAST_RATE)


@settings(deadline=None)
@given(
    values=st.lists(st.one_of(st.floats(0, 1e6, width=32), st.just(float("inf"))), min_size=1, max_size=60),
    share=st.floats(0, 1),
    gain=st.sampled_from([0.0, 0.5, 1.0, 8.0]),
)
def test_rates_are_at_most_one_and_sum_to_the_count(values: list[float], share: float, gain: float) -> None:
    count = max(1, round(share * len(values)))
    rates = rates_of(np.array(values), count, gain)
    assert rates.min() > 0
    assert rates.max() <= 1
    assert rates.sum() == pytest.approx(count)
    order = np.argsort(values, kind="stable")
    assert (np.diff(rates[order]) >= -1e-12).all()  # harder is never rarer


@pytest.mark.proves("visits", by="definition")
def test_without_a_gain_everything_comes_before_anything_comes_twice() -> None:
    _, every = cycles(partial(visits, gain=0.0), hard(), 70, 20)
    for cycle, turns in enumerate(every, 1):
        assert_allclose(turns.expected, cycle * 70 / 200)
        assert turns.visits.max() - turns.visits.min() <= 1


@pytest.mark.proves("visits", by="definition")
def test_a_large_gain_takes_the_hardest_wherever_it_can() -> None:
    """Rates of 3 and 0.2 of the mean: at keep 0.5, a row above the mean comes in every cycle."""
    values = np.r_[np.full(50, 10.0), np.full(150, 1.0)]
    turns, _ = cycles(partial(visits, gain=50.0), values, 100, 10)
    assert turns.visits[:50].min() >= 9  # their rate is 1
    assert turns.visits[50:].max() <= 4  # theirs a third
    at_once = visits(values, 50, seed=0, epoch=0, gain=50.0).rows
    share = np.isin(at_once, hardest(values, 50, seed=0, epoch=0).rows).mean()
    assert share > 0.75


@pytest.mark.parametrize("gain", [0.0, 1.0, 3.0])
def test_what_was_never_scored_comes_first_whatever_its_debt(gain: float) -> None:
    values, new = hard(), np.array([3, 50, 199])
    values[new] = np.inf
    turns = Turns(np.where(np.isin(np.arange(200), new), 9, 0), np.zeros(200), np.arange(200))
    chosen = visits(values, 10, seed=0, epoch=4, turns=turns, gain=gain)
    assert set(new) <= set(chosen.rows)
    assert_array_equal(visits(values, 3, seed=0, epoch=4, turns=turns, gain=gain).rows, new)


def test_values_below_zero_go_by_their_ranks() -> None:
    values = np.random.default_rng(0).normal(size=80)  # as of `margin`
    values[7] = np.inf
    first = visits(values, 20, seed=3, epoch=1)
    ranks = rankdata(values)
    ranks[7] = np.inf
    second = visits(ranks, 20, seed=3, epoch=1)
    assert_array_equal(first.rows, second.rows)
    assert_allclose(first.rates, second.rates)
    assert_allclose(visits(values * 9 - 50, 20, seed=3, epoch=1).rates, first.rates)


@pytest.mark.proves("visits", by="definition")
@pytest.mark.parametrize("keep", [0.1, 0.3, 0.5])
def test_the_weighted_sum_is_on_average_that_of_all_rows(keep: float) -> None:
    """Over the cycles of a run and over seeds; `total` goes with the values, as gradients do."""
    values = hard()
    total, sums, plain = values + np.random.default_rng(1).random(200), [], []
    for seed in range(150):
        turns = Turns.none(200)
        for epoch in range(12):
            chosen = visits(values, round(keep * 200), seed=seed, epoch=epoch, turns=turns, weights=True)
            assert chosen.weights is not None
            assert chosen.rates is not None
            assert_allclose(chosen.weights, 1 / chosen.rates[chosen.rows], rtol=1e-6)
            turns = turns.after(chosen)
            sums.append(total[chosen.rows] @ chosen.weights / total.sum())
            plain.append(total[chosen.rows].sum() / (keep * total.sum()))
    assert np.mean(sums) == pytest.approx(1, abs=0.02)
    assert np.mean(plain) > 1.15  # which it is not without weights


# ---- turns


def test_another_seed_changes_where_the_debts_start_and_another_epoch_does_not() -> None:
    values = np.full(400, 0.5)
    first = visits(values, 200, seed=3, epoch=1).rows
    assert_array_equal(visits(values, 200, seed=3, epoch=2).rows, first)
    assert 60 < np.intersect1d(visits(values, 200, seed=4, epoch=1).rows, first).size < 140  # 7 standard deviations
    after = Turns.none(400).after(visits(values, 200, seed=3, epoch=1))
    assert np.intersect1d(visits(values, 200, seed=3, epoch=2, turns=after).rows, first).size == 0


def test_turns_after_a_choice_among_some_rows() -> None:
    """The others have no turn and no claim to one."""
    pool = np.array([1, 3, 4])
    before = Turns(np.array([1, 0, 2, 0, 0]), np.full(5, 0.5), np.arange(5))
    even = before.after(Selection(np.array([0, 2])), pool)
    assert even.visits.tolist() == [1, 1, 2, 0, 1]
    assert_allclose(even.expected, 0.5 + np.array([0, 2 / 3, 0, 2 / 3, 2 / 3]))
    by_rate = before.after(Selection(np.array([1]), rates=np.array([0.2, 0.5, 0.3])), pool)
    assert by_rate.visits.tolist() == [1, 0, 2, 1, 0]
    assert_allclose(by_rate.expected, [0.5, 0.7, 0.5, 1.0, 0.8])
    assert before.visits.tolist() == [1, 0, 2, 0, 0]  # it stays what it was
    assert before.of(pool).visits.tolist() == [0, 0, 0]


@pytest.mark.parametrize("select", [cover, visits])
def test_turns_that_do_not_fit(select: Select) -> None:
    with pytest.raises(ArgumentError, match=r"turns need one entry per value, 4: got \(3,\)"):
        select(np.zeros(4), 2, seed=0, epoch=0, turns=Turns.none(3))


@pytest.mark.parametrize("select", [cover, partial(visits, gain=1.0)], ids=["cover", "visits"])
def test_a_floor_leaves_the_turns_right(select: Select) -> None:
    """A rare class gets its floor in every cycle; the others take turns as before."""
    values, groups = hard(), np.arange(200) % 50 == 0  # four rows of the rare class
    turns, every = cycles(with_floor(select, 2), values, 60, 30, groups=groups.astype(int))
    rare = np.diff([np.zeros(200), *(one.visits for one in every)], axis=0)[:, groups]
    assert rare.sum(1).min() >= 2
    assert np.ptp(turns.visits[groups]) <= (1 if select is cover else 30)
    common = turns.visits[~groups]
    if select is cover:
        assert np.ptp(common) <= 1
        return
    alone, _ = cycles(select, values[~groups], int(common.sum() / 30), 30)
    assert np.corrcoef(common, alone.visits)[0, 1] > 0.95  # as often as they are hard
    assert np.abs(common - alone.visits).max() <= 3
