"""SeTa's window: the published groups and places, exact counts, and the way from easy to hard."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from datadiet.errors import ArgumentError
from datadiet.selectors.strata import kmeans_groups, seta, window_start

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "seta.json").read_text())


@pytest.mark.proves("seta", by="golden")
def test_golden_groups_by_k_means() -> None:
    numbers = kmeans_groups(GOLDEN["values"], GOLDEN["num_groups"])
    assert [np.flatnonzero(numbers == group).tolist() for group in range(5)] == GOLDEN["groups"]


def test_golden_fewer_distinct_values_than_groups() -> None:
    case = GOLDEN["few_distinct"]
    numbers = kmeans_groups(case["values"], case["num_groups"])
    assert [np.flatnonzero(numbers == group).tolist() for group in range(3)] == case["groups"]
    assert kmeans_groups(np.full(7, 0.3), 5).tolist() == [0] * 7


@pytest.mark.proves("seta", by="golden")
@pytest.mark.parametrize("case", GOLDEN["windows"], ids=lambda c: f"{c['num_groups']}-{c['window']}-{c['place']}")
def test_golden_windows(case: dict[str, Any]) -> None:
    number = case["num_groups"]
    assert window_start(case["place"], number, len(case["groups"])) == case["groups"][0]
    values = np.arange(number * 10)
    rows = seta(
        values, len(case["groups"]) * 10, seed=0, epoch=case["place"], num_groups=number, window=case["window"]
    ).rows
    assert np.unique(rows // 10).tolist() == case["groups"]


@pytest.mark.proves("seta", by="golden")
@pytest.mark.parametrize("case", GOLDEN["epochs"], ids=lambda case: str(case["epoch"]))
def test_golden_rows_epoch_by_epoch(case: dict[str, Any]) -> None:
    options = {"num_groups": GOLDEN["num_groups"], "window": GOLDEN["window"], "grouping": "kmeans"}
    chosen = seta(GOLDEN["values"], len(case["rows"]), seed=0, epoch=case["epoch"], **options)
    assert chosen.rows.tolist() == case["rows"]


@settings(deadline=None, max_examples=60)
@given(values=st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=40), number=st.integers(1, 8))
def test_k_means_groups_are_stretches_of_the_sorted_values(values: list[float], number: int) -> None:
    array = np.array(values)
    numbers = kmeans_groups(array, number)
    assert np.unique(numbers).tolist() == list(range(numbers.max() + 1))
    assert numbers.max() < number
    assert bool((np.diff(numbers[np.argsort(array, kind="stable")]) >= 0).all())
    for value in np.unique(array):
        assert np.unique(numbers[array == value]).size == 1


@pytest.mark.proves("seta", by="planted")
def test_the_window_goes_from_easy_to_hard_and_wraps() -> None:
    values = np.random.default_rng(0).permutation(1000).astype(np.float32)
    means = [values[seta(values, 300, seed=0, epoch=epoch).rows].mean() for epoch in range(9)]
    assert bool((np.diff(means[:8]) > 50).all())
    assert means[8] == means[0]


def test_a_window_wider_than_the_count_is_drawn_from_at_random() -> None:
    values = np.arange(100)
    taken = np.zeros(100)
    for seed in range(400):
        taken[seta(values, 36, seed=seed, epoch=1, num_groups=5, window=0.9).rows] += 1
    assert_array_equal(taken[:20], 0)
    assert_allclose(taken[20:] / 400, 36 / 80, atol=0.13)  # 5 standard deviations


def test_a_window_narrower_than_the_count_is_widened_towards_the_hard() -> None:
    values = np.arange(100)
    assert_array_equal(seta(values, 30, seed=0, epoch=2, window=0.1).rows, np.arange(20, 50))
    assert_array_equal(seta(values, 30, seed=0, epoch=9, window=0.1).rows, np.arange(70, 100))


def test_every_holds_the_window_for_as_long_as_a_selection_lasts() -> None:
    """With a refresh every 8 epochs the window of ten groups would otherwise stand at one place for ever."""
    values = np.arange(100)
    starts = [seta(values, 30, seed=0, epoch=epoch, every=8).rows[0] for epoch in (0, 8, 16, 23, 24)]
    assert starts == [0, 10, 20, 20, 30]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_groups": 0}, "num_groups must be a whole number, at least 1, got 0"),
        ({"every": 0}, "every must be a whole number, at least 1, got 0"),
        ({"window": 90}, r"window must be in \(0, 1\], got 90. Did you mean 0.9\?"),
        ({"grouping": "k-means"}, "unknown grouping 'k-means'; did you mean 'kmeans'"),
    ],
)
def test_options_that_are_not_allowed(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        seta(np.arange(10), 5, seed=0, epoch=0, **options)


def test_k_means_takes_finite_values_only() -> None:
    with pytest.raises(ArgumentError, match=r"k-means needs finite values, got \+inf"):
        kmeans_groups([1.0, np.inf], 2)
    with pytest.raises(ArgumentError, match="got -inf in 1 of 3 rows: 0"):
        seta([-np.inf, 1.0, 2.0], 2, seed=0, epoch=0, grouping="kmeans")
