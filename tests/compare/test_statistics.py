from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from datadiet.compare.statistics import (
    Interval,
    difference,
    holm,
    mcnemar,
    non_inferiority,
    resampled,
    row_sums,
    saving,
    seeds_needed,
    t_interval,
    two_level_bootstrap,
)


def rows_of(flags: list[int] | np.ndarray):
    return resampled(row_sums("accuracy", pd.DataFrame({"gold": 1, "predicted": np.asarray(flags).astype(int)})))


def test_the_interval_is_students():
    # mean 2, deviation 1, t(0.975, 2) = 4.302653: 2 -+ 4.302653 / sqrt(3)
    found = t_interval(np.array([1.0, 2.0, 3.0]))
    assert (found.low, found.high) == pytest.approx(
        (2 - 4.302653 / math.sqrt(3), 2 + 4.302653 / math.sqrt(3)), abs=1e-5
    )
    assert t_interval(np.array([0.5, 0.5])) == Interval(0.5, 0.5)


def test_not_worse_is_a_one_sided_t_test_against_the_margin():
    # mean 0 and deviation 1 over 4 seeds against a margin of 2.5: t = 2.5 / (1 / 2) = 5, and 3 degrees of freedom
    values = np.array([-1.0, 1.0, -1.0, 1.0]) * math.sqrt(3) / 2
    not_worse, equal = non_inferiority(values, 2.5)
    assert not_worse == pytest.approx(0.00770, abs=1e-4)  # the upper tail of t(3) beyond 5
    assert equal == pytest.approx(not_worse)
    shifted, _ = non_inferiority(values - 2.5, 2.5)
    assert shifted == pytest.approx(0.5)


@pytest.mark.parametrize(("mean", "p"), [(0.0, 0.0), (-0.5, 1.0), (-0.4, 0.0), (3.0, 0.0)])
def test_differences_without_any_spread(mean, p):
    assert non_inferiority(np.array([mean, mean]), 0.5)[0] == p


def test_a_method_can_be_not_worse_without_being_equal():
    found = difference({0: 97.0, 1: 97.2, 2: 97.1}, {0: 95.0, 1: 95.1, 2: 95.2}, margin=0.5)
    assert found.not_worse
    assert found.p_equal > 0.99
    assert found.shown


def test_differences_are_paired_by_the_seeds_that_both_have():
    found = difference({0: 90.0, 1: 91.0, 5: 10.0}, {1: 90.0, 0: 90.0, 9: 0.0}, margin=1.0)
    assert found.seeds == (0, 1)
    assert found.mean == 0.5
    assert found.deviation == pytest.approx(math.sqrt(0.5))
    assert not found.shown
    assert difference({0: 1.0}, {1: 1.0}, margin=1.0) is None


def test_one_seed_gives_no_interval_over_seeds():
    found = difference({3: 90.0}, {3: 91.0}, margin=0.5)
    assert found.mean == -1.0
    assert (found.deviation, found.interval, found.p_not_worse, found.seeds_needed) == (None, None, None, None)
    assert not found.not_worse
    assert not found.shown


@pytest.mark.parametrize(
    ("mean", "deviation", "needed"),
    [(0.0, 0.3, 4), (0.5, 0.3, 3), (0.0, 0.0, 2), (-0.5, 0.1, None), (-0.49, 0.5, None)],
)
def test_seeds_needed(mean, deviation, needed):
    assert seeds_needed(mean, deviation, 0.5) == needed


def test_the_seeds_needed_are_enough_in_a_simulation():
    needed = seeds_needed(-0.1, 0.4, 0.5)
    rng = np.random.default_rng(0)
    shown = [non_inferiority(rng.normal(-0.1, 0.4, needed), 0.5)[0] < 0.05 for _ in range(400)]
    fewer = [non_inferiority(rng.normal(-0.1, 0.4, needed - 2), 0.5)[0] < 0.05 for _ in range(400)]
    assert 0.74 < np.mean(shown) < 0.92
    assert np.mean(fewer) < np.mean(shown)


def test_the_bootstrap_knows_both_samples():
    """With one seed only the rows vary, as in the binomial; with rows that all agree only the seeds do."""
    rng = np.random.default_rng(0)
    one = two_level_bootstrap([(rows_of(rng.random(1000) < 0.8), rows_of(np.ones(1000, int)))])
    half = 1.96 * 100 * math.sqrt(0.8 * 0.2 / 1000)
    assert one.high - one.low == pytest.approx(2 * half, rel=0.15)
    rows = [(rows_of(np.arange(100) < right), rows_of(np.arange(100) < 80)) for right in (80, 81, 82)]
    more = two_level_bootstrap(rows)
    assert more.low < 1 < more.high
    assert two_level_bootstrap(rows) == more  # no draw without a seed


def test_rows_that_both_get_right_do_not_widen_the_bootstrap():
    """The rows are paired: a hard row is hard for both."""
    right = np.random.default_rng(0).random(1000) < 0.5
    assert two_level_bootstrap([(rows_of(right), rows_of(right))]) == Interval(0.0, 0.0)


def test_the_bootstrap_covers_as_often_as_it_says():
    rng = np.random.default_rng(1)
    inside = 0
    for _ in range(60):
        pairs = [(rows_of(rng.random(400) < 0.8), rows_of(rng.random(400) < 0.8)) for _ in range(5)]
        inside += 0 in two_level_bootstrap(pairs)
    assert inside >= 50


def test_mcnemar_counts_the_rows_that_tell_two_models_apart():
    both = np.ones(100, bool)
    few = both.copy()
    few[:6] = False  # 6 discordant rows, all one way: 2 * 0.5^6
    assert mcnemar(few, both) == pytest.approx(2 * 0.5**6)
    many = both.copy()
    many[:40] = False  # (40 - 1)^2 / 40 = 38.0 with the continuity correction
    assert mcnemar(many, both) == pytest.approx(7e-10, rel=0.1)


def test_holm_keeps_the_order_and_is_never_below():
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert holm([]) == []


def test_saving_is_the_median_over_the_shared_seeds():
    found = saving({0: 50.0, 1: 60.0, 2: 70.0}, {0: 100.0, 1: 100.0, 2: 100.0, 3: 1.0})
    assert found.median == pytest.approx(0.4)
    assert (found.interval.low, found.interval.high) == pytest.approx((0.3, 0.5))
    assert saving({0: 50.0}, {0: 100.0}).interval is None
    assert saving({0: 50.0}, {1: 100.0}) is None
