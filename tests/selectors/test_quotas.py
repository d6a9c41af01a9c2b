"""Class quotas: how many of each class, exactly, whatever selects inside it."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from datadiet import selectors
from datadiet.errors import ArgumentError
from datadiet.selectors import NEEDS, OPTIONS, SELECTORS, WEIGHTED_SELECTORS
from datadiet.selectors.groups import shared_places
from datadiet.selectors.quotas import balanced, directed, drop_quota, partly_balanced, quota, with_floor
from datadiet.selectors.ranked import easiest, hardest
from datadiet.selectors.sampled import random
from datadiet.selectors.strata import ccs

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "ccs.json").read_text())["by_class"]
COMMON = {"values", "count", "seed", "epoch", "groups", "ids"}


@settings(deadline=None)
@given(
    groups=st.lists(st.tuples(st.integers(0, 40), st.sampled_from([0.0, 0.1, 1.0, 3.0])), min_size=1, max_size=8),
    share=st.floats(0, 1),
)
def test_shared_places_are_exact_and_in_proportion(groups: list[tuple[int, float]], share: float) -> None:
    sizes, shares = (np.array(column) for column in zip(*groups, strict=True))
    count = round(share * int(sizes.sum()))
    places = shared_places(sizes, shares.astype(np.float64), count)
    assert places.sum() == count
    assert bool((places <= sizes).all() and (places >= 0).all())
    cut = (places < sizes) & (shares > 0)
    if cut.any():  # those not taken whole are in proportion, and those without a share got nothing
        assert np.ptp(places[cut] / shares[cut]) <= 2 / shares[cut].min()
        assert not places[(shares == 0)].any()


def test_places_that_a_full_group_leaves_go_to_the_others() -> None:
    assert shared_places(np.array([3, 100, 100]), np.array([5.0, 3.0, 2.0]), 53).tolist() == [3, 30, 20]
    assert shared_places(np.array([3, 0, 50]), np.array([1.0, 1.0, 0.0]), 13).tolist() == [3, 0, 10]


@pytest.mark.proves("quota", by="golden")
def test_golden_classes_in_their_proportions() -> None:
    chosen = quota(GOLDEN["values"], GOLDEN["count"], seed=0, epoch=0, groups=GOLDEN["groups"])
    assert chosen.rows.tolist() == GOLDEN["rows"]


@pytest.mark.proves("quota", by="golden")
@pytest.mark.parametrize("count", [5, 9, 10])
def test_golden_coverage_class_by_class_is_exact(count: int) -> None:
    """The published code keeps 4 of 5 and 7 of 9, and loses the smallest class."""
    groups = np.array(GOLDEN["groups"])
    chosen = quota(GOLDEN["values"], count, seed=0, epoch=0, groups=groups, select=partial(ccs, beta=0.0))
    assert chosen.rows.size == count
    assert np.bincount(groups[chosen.rows], minlength=3).min() >= 1 - (count == 5)


def planted(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A rare class that the model finds easy: by score alone it vanishes."""
    generator = np.random.default_rng(seed)
    groups = np.repeat(["common", "other", "rare"], [600, 350, 50])
    values = generator.random(1000)
    values[950:] /= 1000
    return values, groups


@pytest.mark.proves("balanced", "partly_balanced", "quota", "drop_quota", by="planted")
@pytest.mark.parametrize("share", [0.1, 0.4])
def test_quotas_keep_a_rare_class_that_the_score_would_drop(share: float) -> None:
    values, groups = planted()
    count = round(1000 * share)
    rare = {"hardest": np.count_nonzero(hardest(values, count, seed=0, epoch=0).rows >= 950)}
    for select in (balanced, partly_balanced, quota):
        rows = select(values, count, seed=0, epoch=0, groups=groups).rows
        rare[select.__name__] = np.count_nonzero(rows >= 950)
    recalls = {"common": 0.9, "other": 0.8, "rare": 0.2}
    rows = drop_quota(values, count, seed=0, epoch=0, groups=groups, recalls=recalls).rows
    rare["drop_quota"] = np.count_nonzero(rows >= 950)
    drop = {0.1: 23, 0.4: 50}[share]  # 50 * 0.8 of 50 * 0.8 + 350 * 0.2 + 600 * 0.1, or all of it
    assert rare == {
        "hardest": 0,
        "balanced": min(50, round(count / 3)),
        "partly_balanced": int(0.5 * count * 0.05),
        "quota": round(count * 0.05),
        "drop_quota": drop if share == 0.4 else rare["drop_quota"],
    }
    assert share == 0.4 or abs(rare["drop_quota"] - count * 40 / 170) < 1


@pytest.mark.proves("balanced")
def test_balanced_takes_the_best_of_each_class() -> None:
    values, groups = np.arange(12.0), np.repeat([0, 1, 2], 4)
    assert_array_equal(balanced(values, 6, seed=0, epoch=0, groups=groups).rows, [2, 3, 6, 7, 10, 11])
    easy = balanced(values, 6, seed=0, epoch=0, groups=groups, select=easiest)
    assert_array_equal(easy.rows, [0, 1, 4, 5, 8, 9])
    below = balanced(values, 6, seed=0, epoch=0, groups=groups, offset=0.25)  # options of what selects inside
    assert_array_equal(below.rows, [1, 2, 5, 6, 9, 10])


@pytest.mark.proves("partly_balanced")
@pytest.mark.parametrize(("balance", "first", "second"), [(0.0, 40, 0), (0.5, 30, 10), (1.0, 20, 20)])
def test_partly_balanced_between_the_score_and_the_proportions(balance: float, first: int, second: int) -> None:
    values, groups = np.arange(100.0)[::-1], np.repeat([0, 1], 50)
    rows = partly_balanced(values, 40, seed=0, epoch=0, groups=groups, balance=balance).rows
    assert np.bincount(groups[rows], minlength=2).tolist() == [first, second]


@pytest.mark.proves("quota")
def test_shares_by_class() -> None:
    values, groups = np.arange(100.0), np.repeat([0, 7], 50)
    rows = quota(values, 20, seed=0, epoch=0, groups=groups, shares={"0": 0.25, 7: 0.75}).rows
    assert_array_equal(rows, [*range(45, 50), *range(85, 100)])


def test_drop_quota_draws_at_random_inside_a_class_unless_told_otherwise() -> None:
    values, groups = np.arange(100.0), np.repeat(["a", "b"], 50)
    options: dict[str, Any] = {"groups": groups, "recalls": {"a": 0.5, "b": 0.5}}
    first, second = (drop_quota(values, 40, seed=0, epoch=epoch, **options).rows for epoch in (0, 1))
    assert np.intersect1d(first, second).size < 30
    by_score = drop_quota(values, 40, seed=0, epoch=0, select=hardest, **options).rows
    assert_array_equal(by_score, [*range(30, 50), *range(80, 100)])


@pytest.mark.proves("drop_quota")
def test_a_class_of_perfect_recall_gets_nothing_until_the_others_are_full_or_a_floor_is_under_it() -> None:
    values, groups = np.zeros(100), np.repeat(["a", "b"], 50)
    options: dict[str, Any] = {"groups": groups, "recalls": {"a": 1.0, "b": 0.5, "gone": 0.1}}
    assert drop_quota(values, 40, seed=0, epoch=0, **options).rows.min() >= 50
    assert np.count_nonzero(drop_quota(values, 70, seed=0, epoch=0, **options).rows < 50) == 20
    floored = with_floor(drop_quota, 5)(values, 40, seed=0, epoch=0, **options)
    assert np.count_nonzero(floored.rows < 50) == 5


@pytest.mark.proves("directed")
def test_directions_by_class() -> None:
    """Shortcuts in easy positives and hard negatives: the others are what is wanted."""
    values, groups = np.tile(np.arange(50.0), 2), np.repeat(["positive", "negative"], 50)
    options = {"directions": {"positive": "hard", "negative": "easy"}}
    rows = directed(values, 20, seed=0, epoch=0, groups=groups, **options).rows
    assert_array_equal(rows, [*range(40, 50), *range(50, 60)])
    rows = directed(values, 20, seed=0, epoch=0, groups=groups, default="easy").rows
    assert_array_equal(rows, [*range(10), *range(50, 60)])


# bad input ----------------------------------------------------------------------------------------------------------

GROUPS = ["a", "a", "a", "b", "b", "b"]


@pytest.mark.parametrize("name", [name for name, needs in NEEDS.items() if "groups" in needs])
def test_quotas_need_the_groups(name: str) -> None:
    options = {"recalls": {"a": 0.5}} if name == "drop_quota" else {}
    with pytest.raises(ArgumentError, match=f"{name} needs the groups, got none: give the class of each row"):
        SELECTORS[name](np.arange(6), 3, seed=0, epoch=0, **options)


@pytest.mark.parametrize(
    ("select", "options", "message"),
    [
        (drop_quota, {}, "drop_quota needs recalls, the validation recall of each class, got none"),
        (drop_quota, {"recalls": {"a": 0.5}}, "recalls must name every class; missing: 'b'"),
        (drop_quota, {"recalls": {"a": 90, "b": np.nan}}, r"(?s)in \[0, 1\], got 90 for 'a'.*got nan for 'b'"),
        (quota, {"shares": {"a": 0.5, "b": 0.6}}, "shares must sum to 1, got 1.1"),
        (quota, {"shares": {"a": -1, "b": 2}}, "shares must be at least 0, got -1 for 'a'"),
        (quota, {"shares": {"a": "half", "b": 0.5}}, "shares must be at least 0, got 'half' for 'a'"),
        (quota, {"shares": {"a": 1.0}}, "shares must name every class; missing: 'b'"),
        (directed, {"directions": {"a": "up"}}, "unknown direction 'up'. Allowed: easy, hard"),
        (directed, {"directions": {"c": "easy"}}, "directions name classes that do not exist: 'c'"),
        (directed, {"default": "all"}, "unknown direction 'all'"),
        (partly_balanced, {"balance": 50}, r"balance must be in \[0, 1\], got 50. Did you mean 0.5\?"),
    ],
)
def test_options_that_are_not_allowed(select: Callable[..., Any], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        select(np.arange(6), 3, seed=0, epoch=0, groups=GROUPS, **options)


def test_more_missing_classes_than_an_error_names() -> None:
    with pytest.raises(ArgumentError, match=r"missing: '0', '1', .* and 20 more"):
        drop_quota(np.arange(30), 3, seed=0, epoch=0, groups=np.arange(30), recalls={})


# tables -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(SELECTORS))
def test_the_table_of_options_is_what_the_functions_take(name: str) -> None:
    found = {
        option.name: None if option.default is option.empty else option.default
        for option in inspect.signature(SELECTORS[name]).parameters.values()
        if option.name not in COMMON and option.kind is not option.VAR_KEYWORD
    }
    assert ("features" in NEEDS.get(name, ())) == (found.pop("features", 0) is None)  # data, and no option
    assert found == dict(OPTIONS[name])
    assert set(NEEDS.get(name, ())) <= {*found, "groups", "features"}


def test_the_tables_name_selectors_only() -> None:
    assert set(OPTIONS) == set(SELECTORS)
    assert set(NEEDS) | set(WEIGHTED_SELECTORS) <= set(SELECTORS)
    assert all(getattr(selectors, name) is select for name, select in SELECTORS.items())


@pytest.mark.parametrize("name", [name for name in SELECTORS if name not in NEEDS])
def test_the_table_of_weighted_selectors_is_complete(name: str) -> None:
    values = np.random.default_rng(0).exponential(size=60)
    weights = SELECTORS[name](values, 20, seed=0, epoch=0).weights
    assert (weights is not None) == (name in WEIGHTED_SELECTORS)
    assert random(values, 20, seed=0, epoch=0).weights is None
