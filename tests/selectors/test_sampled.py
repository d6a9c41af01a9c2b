"""Draws uniform, in part, by weight and with loss weights: chances, published numbers, sums right on average."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from datadiet.selectors.quotas import balanced, with_floor
from datadiet.selectors.sampled import epsilon, infobatch, proportional, random, uncertain
from datadiet.types import Selection

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "infobatch.json").read_text())
Select = Callable[..., Selection]


def inclusion(select: Select, values: np.ndarray, count: int, draws: int = 600) -> np.ndarray:
    """Share of the epochs in which each row was taken."""
    taken = np.zeros(values.size)
    for epoch in range(draws):
        taken[select(values, count, seed=11, epoch=epoch).rows] += 1
    return taken / draws


@pytest.mark.proves("random", by="definition")
def test_random_gives_every_row_the_same_chance_whatever_its_value() -> None:
    share = inclusion(random, np.linspace(0, 1, 40), 10)
    assert_allclose(share, 0.25, atol=0.09)  # 5 standard deviations


@pytest.mark.proves("epsilon", by="definition")
@pytest.mark.parametrize(("share", "hard"), [(0.0, 10), (0.1, 9), (0.25, 7), (0.9, 1), (1.0, 0)])
def test_epsilon_takes_the_hardest_and_draws_the_rest_evenly(share: float, hard: int) -> None:
    values = np.linspace(0, 1, 40)
    taken = inclusion(partial(epsilon, epsilon=share), values, 10)
    assert_array_equal(taken[40 - hard :], np.ones(hard))
    assert_allclose(taken[: 40 - hard], (10 - hard) / (40 - hard), atol=0.09)


def test_epsilon_does_not_draw_by_the_hash_that_broke_the_ties() -> None:
    """Rows that lost the tie-break would otherwise have no chance in the draw either."""
    taken = inclusion(partial(epsilon, epsilon=0.5), np.full(30, 0.5), 10)
    assert_allclose(taken, 1 / 3, atol=0.1)


@pytest.mark.proves("uncertain", by="definition")
def test_uncertain_prefers_the_middle_in_proportion() -> None:
    """With one row drawn the chance is the weight itself: q (1 - q) + 0.01, normalised."""
    values = np.array([0.0, 0.1, 0.5, 0.8, 1.0, 7.0])
    q = np.clip(values, 0, 1)
    weights = q * (1 - q) + 0.01
    taken = inclusion(partial(uncertain, scale=1.0), values, 1, draws=4000)
    assert_allclose(taken, weights / weights.sum(), atol=0.04)
    assert_array_equal(taken, inclusion(partial(uncertain, scale=2.0), 2 * values, 1, draws=4000))


def test_uncertain_by_rank_does_not_depend_on_the_scale_of_the_values() -> None:
    values = np.random.default_rng(5).permutation(60).astype(np.float64)
    for epoch in range(20):
        plain = uncertain(values, 20, seed=0, epoch=epoch).rows
        assert_array_equal(uncertain(np.exp(values / 4) - 50, 20, seed=0, epoch=epoch).rows, plain)
    taken = inclusion(uncertain, values, 15)[np.argsort(values)]
    assert taken[20:40].mean() > 2 * max(taken[:5].mean(), taken[-5:].mean())


def test_uncertain_by_rank_reads_ranks_closely_where_there_are_many() -> None:
    """Half of the values tie: their common rank is the middle one, so they are what is drawn most."""
    generator = np.random.default_rng(2)
    values = generator.random(20_000, dtype=np.float32)
    values[:10_000] = 0.5
    rows = uncertain(values, 5_000, seed=0, epoch=0).rows
    q = np.where(np.arange(20_000) < 10_000, 0.5, np.where(values < 0.5, values / 2, 0.5 + values / 2))
    weights = q * (1 - q) + 0.01
    tied_share = (rows < 10_000).mean()
    assert weights[:10_000].sum() / weights.sum() - 0.04 < tied_share < weights[:10_000].sum() / weights.sum()


# ---- infobatch


def weights_of(chosen: Selection) -> np.ndarray:
    return np.ones(chosen.rows.size, np.float32) if chosen.weights is None else chosen.weights


@pytest.mark.proves("infobatch", by="golden")
@pytest.mark.parametrize("case", [epoch for run in GOLDEN["runs"] for epoch in run["epochs"]])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_golden_rows_and_weights(case: dict[str, Any], dtype: type) -> None:
    values = np.array(case["values"], dtype)
    count = len(case["kept_for_sure"]) + case["low_kept"]
    chosen = infobatch(values, count, seed=0, epoch=0, reserve=0.0)
    weights = dict(zip(chosen.rows.tolist(), weights_of(chosen).tolist(), strict=True))
    assert all(weights.pop(row) == 1.0 for row in case["kept_for_sure"])
    if case["low"]:
        assert_allclose(list(weights.values()), case["low_weight"], rtol=1e-6)
    assert weights_of(chosen).sum() == pytest.approx(values.size, rel=1e-6)


@pytest.mark.proves("infobatch", by="golden")
@pytest.mark.parametrize("case", GOLDEN["single"], ids=lambda case: f"{case['values']}-{case['ratio']}")
def test_golden_weights_sum_to_n_where_the_code_misses_it(case: dict[str, Any]) -> None:
    count = len(case["kept_for_sure"]) + (max(1, case["low_kept"]) if case["low"] else 0)
    chosen = infobatch(case["values"], count, seed=0, epoch=0, reserve=0.0)
    assert set(case["kept_for_sure"]) <= set(chosen.rows.tolist())
    assert weights_of(chosen).sum() == pytest.approx(case["weight_sum"])


@pytest.mark.proves("infobatch", by="golden")
def test_golden_equal_float32_losses_share_the_draw() -> None:
    case = GOLDEN["equal_float32"]
    values = np.full(case["n"], case["value"], np.float32)
    assert values.mean() > values[0]  # the trap
    assert infobatch(values, case["n"], seed=0, epoch=0).weights is None
    assert_allclose(infobatch(values, case["n"] // 2, seed=0, epoch=0).weights, case["n"] / (case["n"] // 2))


skewed = st.lists(st.one_of(st.floats(-5, 5, width=32), st.just(0.5)), min_size=4, max_size=60)


@settings(deadline=None, max_examples=150)
@given(values=skewed, share=st.floats(0, 1), reserve=st.floats(0, 0.9), seed=st.integers(0, 1000))
def test_weights_sum_to_n_and_none_is_larger_than_promised(
    values: list[float], share: float, reserve: float, seed: int
) -> None:
    array = np.array(values, np.float32)
    count = max(1, round(share * array.size))
    chosen = infobatch(array, count, seed=seed, epoch=0, reserve=reserve)
    weights = weights_of(chosen)
    assert weights.sum() == pytest.approx(array.size, rel=1e-5)
    assert weights.min() >= 1.0
    assert weights.max() <= array.size / max(1, round(reserve * count)) + 1e-4
    if np.any(weights == 1) and np.any(weights > 1):  # all that weigh 1 are at least the mean, and above the others
        sure = array[chosen.rows[weights == 1]]
        assert sure.min() >= array.mean(dtype=np.float64) - 1e-6
        assert sure.min() >= array[chosen.rows[weights > 1]].max()


@pytest.mark.proves("infobatch", by="definition")
@pytest.mark.parametrize("count", [60, 25, 8])  # the rest has room; the threshold is raised; the least there can be
def test_weighted_sums_are_right_on_average(count: int) -> None:
    """Over 4,000 draws, within 4 standard errors of the sum over everything."""
    generator = np.random.default_rng(1)
    losses, gradients = generator.exponential(size=100), generator.normal(5, 1, 100)
    sums = []
    for epoch in range(4000):
        chosen = infobatch(losses, count, seed=3, epoch=epoch)
        sums.append(float((gradients[chosen.rows] * weights_of(chosen)).sum()))
    error = np.std(sums) / np.sqrt(len(sums))
    assert abs(np.mean(sums) - gradients.sum()) < 4 * error
    assert 4 * error < 0.01 * gradients.sum()  # small enough for the line above to say something
    assert max(gradients[infobatch(losses, count, seed=3, epoch=0).rows].sum(), 0) < 0.7 * gradients.sum()


@pytest.mark.proves("infobatch")
@pytest.mark.proves("infobatch", by="planted")
@pytest.mark.parametrize(
    ("values", "count", "sure", "weight"),
    [
        (np.repeat([0.01, 3.0], [80, 20]), 40, range(80, 100), 4.0),  # the easy region represents itself
        (np.arange(100.0), 20, range(85, 100), 17.0),  # raised: a quarter of the places is left for the other 85
        (np.full(50, 0.1, np.float32), 20, [], 2.5),  # rows that tie at the raised threshold share the draw
    ],
)
def test_rows_kept_for_sure_and_the_weight_of_the_others(
    values: np.ndarray, count: int, sure: Sequence[int], weight: float
) -> None:
    chosen = infobatch(values, count, seed=0, epoch=0)
    assert_array_equal(chosen.rows[chosen.weights == 1], sure)
    assert_allclose(chosen.weights[chosen.weights != 1], weight)


def test_new_rows_weigh_1_until_they_take_all_places() -> None:
    values = np.concatenate([np.full(10, np.inf), np.linspace(0, 1, 30)])
    chosen = infobatch(values, 16, seed=0, epoch=0)
    assert_array_equal(chosen.rows[:10], np.arange(10))
    assert_array_equal(weights_of(chosen)[:10], np.ones(10))
    assert weights_of(chosen).sum() == pytest.approx(40, rel=1e-6)
    chosen = infobatch(values, 8, seed=0, epoch=0)
    assert chosen.rows.max() < 10
    assert weights_of(chosen).sum() == pytest.approx(40, rel=1e-6)


@pytest.mark.parametrize(
    "select", [with_floor(infobatch, 4), partial(balanced, select=infobatch)], ids=["floor", "balanced"]
)
def test_weights_survive_floors_and_quotas(select: Select) -> None:
    generator = np.random.default_rng(0)
    values, groups = generator.exponential(size=120), np.repeat(["often", "seldom"], [110, 10])
    values[110:] /= 100  # the rare class is easy
    chosen = select(values, 40, seed=0, epoch=0, groups=groups)
    assert np.count_nonzero(chosen.rows >= 110) >= 4
    assert weights_of(chosen).sum() == pytest.approx(120, rel=1e-5)


# ---- proportional


@pytest.mark.proves("proportional", by="definition")
@pytest.mark.parametrize(
    ("options", "weights"),
    [
        ({}, lambda v: 0.01 + 0.99 * (v - v.min()) / (v.max() - v.min())),
        ({"least": 0.5}, lambda v: 0.5 + 0.5 * (v - v.min()) / (v.max() - v.min())),
        ({"scaling": "softmax"}, np.exp),
        ({"scaling": "softmax", "temperature": 0.25}, lambda v: np.exp(4 * v)),
    ],
)
def test_one_row_is_drawn_in_proportion_to_its_weight(options: dict[str, Any], weights: Callable[..., Any]) -> None:
    values = np.array([-1.0, 0.0, 0.25, 0.5, 1.0])
    taken = inclusion(partial(proportional, **options), values, 1, 4000)
    expected = weights(values)
    assert_allclose(taken, expected / expected.sum(), atol=0.04)  # 5 standard errors


def test_softmax_of_large_values_overflows_nothing() -> None:
    values = np.array([0.0, 5000.0, 5000.5, 1e6])
    rows = proportional(values, 3, seed=0, epoch=0, scaling="softmax").rows
    assert_array_equal(rows, [1, 2, 3])


@pytest.mark.proves("proportional", by="planted")
def test_proportional_favours_the_hard_region_but_shuts_nothing_out() -> None:
    values = np.concatenate([np.full(70, 0.0), np.full(30, 1.0)])
    taken = inclusion(partial(proportional, least=0.1), values, 20, 500)
    assert taken[70:].mean() > 3 * taken[:70].mean()
    assert taken[:70].min() > 0
