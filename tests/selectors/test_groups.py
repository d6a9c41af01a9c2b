"""Places shared out among groups; selections over a ranking are those of a call per group."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from datadiet.errors import ArgumentError
from datadiet.selectors.groups import even_places, ranking, shared_places
from datadiet.selectors.quotas import balanced, partly_balanced, quota, with_floor
from datadiet.selectors.ranked import easiest, hardest, window
from datadiet.types import Selection

Select = Callable[..., Selection]


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


@pytest.mark.proves("stratified", by="definition")
@settings(deadline=None)
@given(
    sizes=st.lists(st.integers(0, 50), min_size=1, max_size=10).filter(any),
    share=st.floats(0, 1),
    seed=st.integers(0, 1000),
)
def test_even_places_are_the_proportions_rounded(sizes: list[int], share: float, seed: int) -> None:
    total = sum(sizes)
    count = round(share * total)
    places = even_places(np.array(sizes), count, seed=seed, epoch=0, stream=0)
    assert places.sum() == count
    exact = np.array(sizes) * count / total
    assert bool((np.abs(places - exact) < 1 + 1e-9).all())
    assert bool((places <= sizes).all())


def test_even_places_are_right_on_average() -> None:
    sizes = np.array([3, 1, 5, 2])
    mean = np.mean([even_places(sizes, 4, seed=0, epoch=epoch, stream=0) for epoch in range(3000)], axis=0)
    assert_allclose(mean, sizes * 4 / 11, atol=0.05)  # 5 standard errors


# ---- a ranking


@st.composite
def grouped_values(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    """Values half of which may tie, and groups: by value, the other way round, at random, or one row each."""
    size, seed = draw(st.integers(1, 80)), draw(st.integers(0, 2**32))
    generator = np.random.default_rng(seed)
    values = generator.choice([0.0, 0.25, 0.5, 0.5, 0.75, 1.0, np.inf, -np.inf], size)
    loose = generator.random(size) < draw(st.sampled_from([0.0, 0.5, 1.0]))
    values[loose] = generator.random(np.count_nonzero(loose))
    steps = draw(st.sampled_from([1, 3, 10, 40]))
    by_value = (np.clip(values, 0, 2) * steps).astype(np.int32)
    groups = draw(
        st.sampled_from([by_value, 3 * steps - by_value, generator.integers(steps, size=size), np.arange(size)])
    )
    return values.astype(draw(st.sampled_from([np.float32, np.float64]))), groups


def opaque(select: Select) -> Select:
    """The same selector, of which nothing is known: it is called on the rows of each group."""

    def run(*given: Any, **options: Any) -> Selection:
        return select(*given, **options)

    return run


def by_the_rules(key: Sequence[float], count: int, groups: Sequence[int], minimum: int) -> list[int]:
    """Largest keys first, of a tie the lowest row; one sorted list at a time."""
    ranked = sorted(range(len(key)), key=lambda row: (-key[row], row))
    own = {group: [row for row in ranked if groups[row] == group][:minimum] for group in groups}
    at_floor: set[int] = set()
    while True:
        given = [row for group in at_floor for row in own[group]]
        chosen = [row for row in ranked if groups[row] not in at_floor][: count - len(given)]
        kept = [groups[row] for row in chosen]
        short = {group for group in set(groups) - at_floor if kept.count(group) < len(own[group])}
        if not short:
            return sorted(given + chosen)
        at_floor |= short


@settings(deadline=None, max_examples=120)
@given(
    case=grouped_values(),
    share=st.floats(0, 1),
    minimum=st.integers(1, 6),
    balance=st.sampled_from([0.0, 0.5, 1.0]),
    hard=st.booleans(),
    tie_break=st.sampled_from(["hash", "row"]),
    seed=st.integers(0, 2**40),
)
def test_a_ranking_takes_what_the_rules_and_calls_group_by_group_take(
    case: tuple[np.ndarray, np.ndarray],
    share: float,
    minimum: int,
    balance: float,
    hard: bool,
    tie_break: str,
    seed: int,
) -> None:
    select = partial(hardest if hard else easiest, tie_break=tie_break)
    values, groups = case
    sizes = np.unique(groups, return_counts=True)[1]
    needed = int(np.minimum(sizes, minimum).sum())
    options: dict[str, Any] = {"seed": seed, "epoch": 3, "groups": groups}
    count = needed + round(share * (values.size - needed))
    rows = with_floor(select, minimum)(values, count, **options).rows
    assert_array_equal(rows, with_floor(opaque(select), minimum)(values, count, **options).rows)
    if tie_break == "row":
        key = values if hard else np.where(values == np.inf, np.inf, -values)
        assert rows.tolist() == by_the_rules(key.tolist(), count, groups.tolist(), minimum)
    for by_group in (balanced, quota, partial(partly_balanced, balance=balance)):
        same = by_group(values, count, select=opaque(select), **options).rows
        assert_array_equal(by_group(values, count, select=select, **options).rows, same)


@pytest.mark.parametrize("groups", [7, 1000, 70_000])
@pytest.mark.parametrize("tied", [0.0, 0.5])
def test_groups_that_go_with_the_values(groups: int, tied: float) -> None:
    size = 150_000  # more rows than are counted at a time
    generator = np.random.default_rng(0)
    values = generator.random(size, dtype=np.float32)
    values[generator.random(size) < tied] = 0.5
    codes = (values * groups).astype(np.int64)
    options: dict[str, Any] = {"seed": 1, "epoch": 2, "groups": codes}
    rows = with_floor(hardest, 1)(values, size // 2, **options).rows
    assert_array_equal(rows, with_floor(opaque(hardest), 1)(values, size // 2, **options).rows)
    assert set(codes[rows].tolist()) == set(codes.tolist())


@pytest.mark.parametrize(
    ("select", "own", "ranks"),
    [
        (hardest, {}, True),
        (hardest, {"offset": 0.0}, True),
        (partial(easiest), {"tie_break": "row"}, True),
        (opaque(hardest), {}, False),
        (partial(window, offset=0.1), {}, False),
        (partial(hardest, offset=0.1), {}, False),
        (easiest, {"offset": 0.0}, False),
    ],
)
def test_only_what_does_no_more_than_rank_is_a_ranking(select: Select, own: dict[str, Any], ranks: bool) -> None:
    assert (ranking(select, own, np.arange(3.0), seed=0, epoch=0) is not None) == ranks


def test_options_of_a_ranking_are_still_checked() -> None:
    options: dict[str, Any] = {"seed": 0, "epoch": 0, "groups": [0, 0, 1]}
    with pytest.raises(ArgumentError, match="tie_break"):
        with_floor(hardest, 1)(np.arange(3.0), 2, tie_break="column", **options)
    with pytest.raises(TypeError, match="unexpected"):
        balanced(np.arange(3.0), 2, strata=3, **options)
