"""Floors and class quotas: how many of each class, exactly, whatever selects inside it."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from datadiet.errors import ArgumentError
from datadiet.selectors.q_tuning import quadrants
from datadiet.selectors.quotas import balanced, directed, drop_quota, partly_balanced, quota, with_floor
from datadiet.selectors.ranked import easiest, hardest, window
from datadiet.selectors.sampled import epsilon, random, uncertain
from datadiet.selectors.strata import ccs
from datadiet.types import Selection

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "ccs.json").read_text())["by_class"]
Select = Callable[..., Selection]
tied_values = arrays(
    np.float32,
    st.integers(8, 60),
    elements=st.one_of(st.sampled_from([0.0, 0.25, 0.5, np.inf]), st.floats(0, 1, width=16)),
)


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


def test_a_floor_under_a_selector_that_reads_entropies() -> None:
    values, groups = planted()
    entropy = np.random.default_rng(1).random(1000)
    chosen = with_floor(quadrants, 10)(values, 200, seed=0, epoch=0, groups=groups, entropy=entropy)
    assert len(chosen.rows) == 200
    assert np.count_nonzero(groups[chosen.rows] == "rare") >= 10


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


HALVES = {"values": np.arange(100.0), "groups": np.repeat([0, 7], 50)}
THIRDS = {"values": np.arange(12.0), "groups": np.repeat([0, 1, 2], 4)}
TWO_SIGNS = {"values": np.tile(np.arange(50.0), 2), "groups": np.repeat(["positive", "negative"], 50)}


@pytest.mark.proves("balanced", "quota", "directed")
@pytest.mark.parametrize(
    ("select", "data", "rows"),
    [
        (balanced, THIRDS, [2, 3, 6, 7, 10, 11]),
        (partial(balanced, select=easiest), THIRDS, [0, 1, 4, 5, 8, 9]),
        (partial(balanced, offset=0.25), THIRDS, [1, 2, 5, 6, 9, 10]),  # an option of the selector inside
        (partial(quota, shares={"0": 0.25, 7: 0.75}), HALVES, [*range(45, 50), *range(85, 100)]),
        (partial(drop_quota, recalls={"0": 0.5, 7: 0.5}, select=hardest), HALVES, [*range(30, 50), *range(80, 100)]),
        # shortcuts in easy positives and hard negatives: the others are kept
        (partial(directed, directions={"positive": "hard", "negative": "easy"}), TWO_SIGNS, [*range(40, 60)]),
        (partial(directed, default="easy"), TWO_SIGNS, [*range(10), *range(50, 60)]),
    ],
)
def test_rows_inside_each_class(select: Select, data: dict[str, Any], rows: list[int]) -> None:
    chosen = select(data["values"], len(rows), seed=0, epoch=0, groups=data["groups"])
    assert chosen.rows.tolist() == rows


@pytest.mark.proves("partly_balanced")
@pytest.mark.parametrize(("balance", "first", "second"), [(0.0, 40, 0), (0.5, 30, 10), (1.0, 20, 20)])
def test_partly_balanced_between_the_score_and_the_proportions(balance: float, first: int, second: int) -> None:
    values, groups = np.arange(100.0)[::-1], np.repeat([0, 1], 50)
    rows = partly_balanced(values, 40, seed=0, epoch=0, groups=groups, balance=balance).rows
    assert np.bincount(groups[rows], minlength=2).tolist() == [first, second]


def test_drop_quota_draws_at_random_inside_a_class_by_default() -> None:
    values, groups = np.arange(100.0), np.repeat(["a", "b"], 50)
    options: dict[str, Any] = {"groups": groups, "recalls": {"a": 0.5, "b": 0.5}}
    first, second = (drop_quota(values, 40, seed=0, epoch=epoch, **options).rows for epoch in (0, 1))
    assert np.intersect1d(first, second).size < 30


@pytest.mark.proves("drop_quota")
def test_a_class_of_perfect_recall_gets_nothing_until_the_others_are_full_or_a_floor_is_under_it() -> None:
    values, groups = np.zeros(100), np.repeat(["a", "b"], 50)
    options: dict[str, Any] = {"groups": groups, "recalls": {"a": 1.0, "b": 0.5, "gone": 0.1}}
    assert drop_quota(values, 40, seed=0, epoch=0, **options).rows.min() >= 50
    assert np.count_nonzero(drop_quota(values, 70, seed=0, epoch=0, **options).rows < 50) == 20
    floored = with_floor(drop_quota, 5)(values, 40, seed=0, epoch=0, **options)
    assert np.count_nonzero(floored.rows < 50) == 5


# ---- floors


@settings(deadline=None, max_examples=60)
@given(
    values=tied_values,
    minimum=st.integers(1, 5),
    share=st.floats(0, 1),
    seed=st.integers(0, 2**40),
    named=st.booleans(),
    select=st.sampled_from([hardest, easiest, random, epsilon, uncertain, partial(window, offset=0.1)]),
)
def test_every_group_gets_its_floor(
    values: np.ndarray, minimum: int, share: float, seed: int, named: bool, select: Select
) -> None:
    groups = np.random.default_rng(seed).choice([0, 0, 0, 0, 1, 1, 7], values.size)
    sizes = np.bincount(groups)
    floors = np.minimum(sizes, minimum)
    most = values.size - round(0.1 * values.size)
    count = int(floors.sum() + share * max(0, most - floors.sum()))
    labels = np.array([f"class {group}" for group in groups]) if named else groups
    rows = with_floor(select, minimum)(values, count, seed=seed, epoch=0, groups=labels).rows
    assert rows.size == count
    assert bool((np.bincount(groups[rows], minlength=sizes.size) >= floors).all())


@pytest.mark.parametrize(
    ("select", "minimum", "values", "groups", "rows"),
    [
        (hardest, 2, [9, 8, 7, 6, 2, 1, 3], "aaaabbc", [0, 1, 2, 4, 5, 6]),  # the best of each group, then of all
        (easiest, 1, [9, 8, 7, 6, 2, 1, 3], "aaaabbc", [3, 5, 6]),
        (partial(with_floor(hardest, 1), offset=0.2), 1, range(10), "a" * 10, [4, 5, 6, 7]),  # options reach it
        (hardest, 2, range(12), "aaaabbbbcccc", [2, 3, 6, 7, 10, 11]),  # floors that fill every place
        (hardest, 1, [1, 2, 5, 6, 7, 8, 9], "aabbccc", [1, 3, 6]),  # without a place for group a, b would have its row
    ],
)
def test_rows_under_a_floor(select: Select, minimum: int, values: Any, groups: str, rows: list[int]) -> None:
    chosen = with_floor(select, minimum)(list(values), len(rows), seed=0, epoch=0, groups=list(groups))
    assert chosen.rows.tolist() == rows


def test_a_group_too_small_for_floor_and_offset_gives_up_the_offset() -> None:
    values, groups = np.arange(40) / 40, np.repeat([0, 1], [35, 5])
    select = with_floor(partial(window, offset=0.4), 4)
    rows = select(values, 10, seed=0, epoch=0, groups=groups).rows
    assert {36, 37, 38, 39} <= set(rows.tolist())


def test_groups_do_not_share_their_draws() -> None:
    values, groups = np.zeros(200), np.repeat([0, 1], 100)
    rows = with_floor(random, 50)(values, 100, seed=0, epoch=0, groups=groups).rows
    assert 10 < np.intersect1d(rows[rows < 100], rows[rows >= 100] - 100).size < 40


@pytest.mark.parametrize("groups", [3, 5000, 70_000])
def test_floors_hold_for_any_number_of_groups(groups: int) -> None:
    size = 300_000  # more rows than are sorted at a time
    codes = np.random.default_rng(0).integers(groups, size=size)
    values = np.random.default_rng(1).random(size, dtype=np.float32)
    rows = with_floor(_first_rows, 1)(values, size // 2, seed=0, epoch=0, groups=codes).rows
    first = np.unique(codes, return_index=True)[1]
    assert rows.size == size // 2
    assert bool(np.isin(first, rows).all())


def _first_rows(values: np.ndarray, count: int, **_: Any) -> Any:
    return Selection(np.arange(count))


def test_floors_that_leave_no_room_for_an_offset_give_it_up() -> None:
    values, groups = np.arange(100.0), np.repeat([0, 1], [30, 70])
    rows = with_floor(partial(hardest, offset=0.4), 5)(values, 58, seed=0, epoch=0, groups=groups).rows
    assert len(rows) == 58
    assert np.count_nonzero(rows < 30) >= 5


def test_floors_that_cannot_be_held() -> None:
    values = np.arange(10)
    with pytest.raises(ArgumentError, match="floor of 4 rows in each of 3 classes needs 10 rows, but only 9 are kept"):
        with_floor(hardest, 4)(values, 9, seed=0, epoch=0, groups=np.repeat([0, 1, 5], [4, 4, 2]))
    with pytest.raises(ArgumentError, match="needs the groups, got none"):
        with_floor(hardest, 4)(values, 9, seed=0, epoch=0)
    with pytest.raises(ArgumentError, match="floor must be a whole number, at least 1, got 0"):
        with_floor(hardest, 0)
