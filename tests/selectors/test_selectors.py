"""Every selector holds the family's contract; then what each of them promises by itself."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.testing import assert_allclose, assert_array_equal

from datadiet.errors import ArgumentError
from datadiet.selectors import NEEDS, SELECTORS
from datadiet.selectors.quotas import balanced, quota, with_floor
from datadiet.selectors.ranked import OffsetError, easiest, hardest, window
from datadiet.selectors.sampled import epsilon, infobatch, proportional, random, uncertain
from datadiet.selectors.strata import ccs, seta

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "exact_selection.json").read_text())
Select = Callable[..., Any]


def grouped(select: Select) -> Select:
    """A floor over three groups of rows, as a selector without further arguments."""

    def run(values: Any, count: int, **options: Any) -> Any:
        options["groups"] = np.arange(np.size(values)) % 3
        return with_floor(select, 1)(values, max(count, 0), **options)

    return run


def in_thirds(select: Select, **own: Any) -> Select:
    """A selector that needs classes, with three of them unless the test has its own."""

    def run(values: Any, count: int, **options: Any) -> Any:
        options.setdefault("groups", np.arange(np.size(values)).reshape(np.shape(values)) % 3)
        return select(values, count, **options, **own)

    return run


MEMBERS: dict[str, Select] = {
    **{name: select for name, select in SELECTORS.items() if "features" not in NEEDS.get(name, ())},
    "window": partial(window, offset=0.2),
    "epsilon, all random": partial(epsilon, epsilon=1.0),
    "uncertain, scaled": partial(uncertain, scale=1.0),
    "floor": grouped(hardest),
    "floor, random": grouped(random),
    "floor, window": grouped(partial(window, offset=0.2)),
    "ccs": partial(ccs, beta=0.0),
    "ccs, window": partial(ccs, beta=0.2, strata=7, edges="range"),
    "proportional, softmax": partial(proportional, scaling="softmax", temperature=0.5),
    "infobatch, no reserve": partial(infobatch, reserve=0.0),
    "seta, k-means": partial(seta, num_groups=5, window=0.6, every=2, grouping="kmeans"),
    "balanced": in_thirds(balanced),
    "partly_balanced": in_thirds(SELECTORS["partly_balanced"]),
    "quota": in_thirds(quota),
    "quota, ccs window": in_thirds(partial(quota, select=partial(ccs, beta=0.2))),
    "drop_quota": in_thirds(SELECTORS["drop_quota"], recalls={0: 0.9, 1: 0.9, 2: 0.9}),
    "directed": in_thirds(SELECTORS["directed"], directions={"1": "easy"}),
    "floor, infobatch": grouped(infobatch),
}
BY_VALUE = [
    "hardest",
    "easiest",
    "window",
    "epsilon",
    "epsilon, all random",
    "uncertain",
    "uncertain, scaled",
    "proportional",
    "proportional, softmax",
    "ccs",
    "ccs, window",
    "stratified",
    "both_ends",
    "infobatch",
    "infobatch, no reserve",
    "seta",
    "seta, k-means",
]
battery = pytest.mark.parametrize("name", list(MEMBERS))

# few distinct values, so that ties are everywhere; +inf stands for rows never scored
tied_values = arrays(
    np.float32,
    st.integers(8, 60),
    elements=st.one_of(st.sampled_from([0.0, 0.25, 0.5, np.inf]), st.floats(0, 1, width=16)),
)
seeds = st.integers(0, 2**40)


def allowed_count(name: str, size: int, share: float) -> int:
    """A count that the member can fulfil: three floors, and room for an offset."""
    most = size - round(0.2 * size) if "window" in name else size
    return min(most, max(3, round(share * most)))


@battery
@settings(deadline=None, max_examples=60)
@given(values=tied_values, share=st.floats(0, 1), seed=seeds, epoch=st.integers(0, 50))
def test_exactly_count_rows_ascending_and_the_same_every_time(
    name: str, values: np.ndarray, share: float, seed: int, epoch: int
) -> None:
    count, before = allowed_count(name, values.size, share), values.copy()
    first, second = (MEMBERS[name](values, count, seed=seed, epoch=epoch).rows for _ in range(2))
    assert first.dtype == np.int64
    assert first.size == count
    assert bool((np.diff(first) > 0).all())
    assert first[0] >= 0
    assert first[-1] < values.size
    assert_array_equal(first, second)
    assert_array_equal(values, before)


@battery
def test_a_count_of_all_rows_returns_all_rows(name: str) -> None:
    values = np.random.default_rng(0).random(30, dtype=np.float32)
    assert_array_equal(MEMBERS[name](values, 30, seed=1, epoch=2).rows, np.arange(30))


@battery
def test_the_global_generator_is_neither_used_nor_moved(name: str) -> None:
    values = np.full(40, 0.5, np.float32)
    before = np.random.get_state()[1].copy()  # noqa: NPY002 - what is looked at is the global generator
    first = MEMBERS[name](values, 20, seed=3, epoch=1).rows
    assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002
    np.random.seed(99)  # noqa: NPY002
    assert_array_equal(MEMBERS[name](values, 20, seed=3, epoch=1).rows, first)


@battery
def test_ties_fall_otherwise_in_another_epoch_or_with_another_seed(name: str) -> None:
    values = np.full(400, 0.5, np.float32)
    rows = MEMBERS[name](values, 200, seed=3, epoch=1).rows
    for seed, epoch in ((3, 2), (4, 1), (1, 3)):
        other = MEMBERS[name](values, 200, seed=seed, epoch=epoch).rows
        assert 60 < np.intersect1d(rows, other).size < 140  # 100 expected, 7 standard deviations


@battery
def test_tied_rows_have_the_same_chance_wherever_they_stand(name: str) -> None:
    values = np.full(60, 0.5, np.float32)
    taken = np.zeros(60)
    for epoch in range(400):
        taken[MEMBERS[name](values, 30, seed=7, epoch=epoch).rows] += 1
    assert_allclose(taken / 400, 0.5, atol=0.13)  # 5 standard deviations
    assert abs(np.corrcoef(np.arange(60), taken)[0, 1]) < 0.5


@pytest.mark.parametrize("name", BY_VALUE)
def test_rows_never_scored_come_first(name: str) -> None:
    values = np.random.default_rng(0).random(50, dtype=np.float32)
    new = [3, 17, 30, 31, 49]
    values[new] = np.inf
    assert set(new) <= set(MEMBERS[name](values, 6, seed=0, epoch=0).rows.tolist())
    assert_array_equal(MEMBERS[name](values, 5, seed=0, epoch=0).rows, new)
    assert set(MEMBERS[name](values, 3, seed=0, epoch=0).rows.tolist()) < set(new)


@battery
def test_nothing_but_new_rows_is_no_special_case(name: str) -> None:
    assert MEMBERS[name](np.full(20, np.inf), 10, seed=0, epoch=0).rows.size == 10


@battery
def test_nan_is_refused_with_the_rows_named(name: str) -> None:
    values = np.arange(20, dtype=np.float32)
    values[[4, 11]] = np.nan
    with pytest.raises(ArgumentError, match="got NaN in 2 of 20 rows: 4, 11"):
        MEMBERS[name](values, 10, seed=0, epoch=0)
    with pytest.raises(ArgumentError, match=r"rows: 4 \(id 'r4'\), 11 \(id 'r11'\)"):
        MEMBERS[name](values, 10, seed=0, epoch=0, ids=[f"r{row}" for row in range(20)])
    with pytest.raises(ArgumentError, match="8, 9 and 10 more"):
        MEMBERS[name](np.full(20, np.nan), 10, seed=0, epoch=0)


@battery
@pytest.mark.parametrize("count", [0, 21, 2.5, True])
def test_a_count_that_cannot_be_is_refused(name: str, count: Any) -> None:
    with pytest.raises(ArgumentError, match=f"from 1 to 20, the number of values, got {count}"):
        MEMBERS[name](np.zeros(20), count, seed=0, epoch=0)


@battery
def test_all_problems_come_at_once(name: str) -> None:
    with pytest.raises(ArgumentError, match=r"(?s)count must be.*seed must be.*epoch must be.*got NaN") as caught:
        MEMBERS[name](np.full(5, np.nan), 9, seed=-1, epoch="0")
    assert len(caught.value.problems) == 4


@pytest.mark.parametrize("name", [name for name in SELECTORS if name in MEMBERS])
def test_shapes_that_do_not_fit(name: str) -> None:
    with pytest.raises(ArgumentError, match=r"one value per row, got values of shape \(4, 2\)"):
        MEMBERS[name](np.zeros((4, 2)), 2, seed=0, epoch=0)
    with pytest.raises(ArgumentError, match=r"groups need one entry per value: got \(3,\)"):
        MEMBERS[name](np.zeros(4), 2, seed=0, epoch=0, groups=[1, 2, 3])


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.int64])
def test_values_of_other_types_and_counts_of_other_integers(dtype: type) -> None:
    values = np.arange(30).astype(dtype)
    assert_array_equal(hardest(values, np.int32(4), seed=np.int64(0), epoch=0).rows, [26, 27, 28, 29])
    assert_array_equal(hardest(values.tolist(), 4, seed=0, epoch=0).rows, [26, 27, 28, 29])


# hardest, easiest, window -------------------------------------------------------------------------------------------


@pytest.mark.proves("hardest", by="golden")
@pytest.mark.proves("SHARE", by="golden")
@pytest.mark.parametrize("case", GOLDEN["cases"], ids=lambda case: f"{case['values']}-{case['count']}-{case['offset']}")
def test_golden_exact_selection(case: dict[str, Any]) -> None:
    values = GOLDEN["values"][case["values"]]
    chosen = hardest(values, case["count"], seed=0, epoch=0, offset=case["offset"], tie_break="row")
    assert chosen.rows.tolist() == case["rows"]


@pytest.mark.proves("hardest", "easiest", by="brute")
@settings(deadline=None)
@given(values=tied_values, share=st.floats(0, 1), seed=seeds)
def test_nothing_left_out_is_harder_than_anything_hardest_takes(values: np.ndarray, share: float, seed: int) -> None:
    count = allowed_count("hardest", values.size, share)
    for select, keys in ((hardest, values), (easiest, np.where(np.isinf(values), np.inf, -values))):
        rows = select(values, count, seed=seed, epoch=0).rows
        left = np.setdiff1d(np.arange(values.size), rows)
        assert not left.size or keys[left].max() <= keys[rows].min()
        by_row = select(values, count, seed=seed, epoch=0, tie_break="row").rows
        assert_array_equal(by_row, np.sort(np.argsort(-keys, kind="stable")[:count]))


@pytest.mark.proves("window", by="definition")
@settings(deadline=None)
@given(values=tied_values, offset=st.floats(0.05, 0.5), seed=seeds)
def test_a_window_is_the_top_less_the_very_top(values: np.ndarray, offset: float, seed: int) -> None:
    known = np.isfinite(values)
    aside = round(offset * values.size)
    count = values.size - aside
    rows = window(values, count, seed=seed, epoch=0, offset=offset).rows
    assert bool(np.isin(np.flatnonzero(~known), rows).all()) or count < (~known).sum()
    if known.all() and aside > 0:
        top = hardest(values, aside, seed=seed, epoch=0).rows
        assert np.intersect1d(top, rows).size == 0


@pytest.mark.proves("window")
def test_the_offset_is_a_share_of_the_rows_that_were_scored() -> None:
    values = np.array([np.inf, np.inf, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2])
    assert_array_equal(window(values, 4, seed=0, epoch=0, offset=0.25).rows, [0, 1, 4, 5])


def test_an_offset_that_leaves_too_few_rows() -> None:
    with pytest.raises(OffsetError, match=r"offset of 0\.5 sets 5 of 10 rows aside, which leaves 5 for a count of 6"):
        hardest(np.arange(10), 6, seed=0, epoch=0, offset=0.5)
    with pytest.raises(OffsetError, match="leaves 5 for a count of 6"):  # known before there are any scores
        hardest(np.full(10, np.inf), 6, seed=0, epoch=0, offset=0.5)
    assert hardest(np.arange(10), 5, seed=0, epoch=0, offset=0.5).rows.tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    ("select", "options", "message"),
    [
        (hardest, {"offset": 5}, r"offset must be in \[0, 1\), got 5. Did you mean 0.05\?"),
        (hardest, {"offset": -0.1}, r"offset must be in \[0, 1\), got -0.1"),
        (hardest, {"offset": math.nan}, r"offset must be in \[0, 1\), got nan"),
        (hardest, {"tie_break": "rows"}, "unknown tie_break 'rows'; did you mean 'row'"),
        (easiest, {"tie_break": "first"}, "unknown tie_break 'first'. Allowed: hash, row"),
        (window, {"offset": 0}, "window needs an offset above 0"),
        (epsilon, {"epsilon": 10}, r"epsilon must be in \[0, 1\], got 10. Did you mean 0.1\?"),
        (uncertain, {"scale": 0}, "scale must be above 0 or None, got 0"),
    ],
)
def test_options_that_are_not_allowed(select: Select, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        select(np.arange(10), 5, seed=0, epoch=0, **options)


# random, epsilon, uncertain -----------------------------------------------------------------------------------------


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


# floors -------------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=60)
@given(
    values=tied_values,
    minimum=st.integers(1, 5),
    share=st.floats(0, 1),
    seed=seeds,
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


def test_a_floor_takes_the_best_of_each_group_and_then_the_best_of_all() -> None:
    values = [0.9, 0.8, 0.7, 0.6, 0.2, 0.1, 0.3]
    groups = ["a", "a", "a", "a", "b", "b", "c"]
    rows = with_floor(hardest, 2)(values, 6, seed=0, epoch=0, groups=groups).rows
    assert_array_equal(rows, [0, 1, 2, 4, 5, 6])
    assert_array_equal(with_floor(easiest, 1)(values, 3, seed=0, epoch=0, groups=groups).rows, [3, 5, 6])


def test_options_reach_the_selector_under_a_floor() -> None:
    values, groups = np.arange(10) / 10, [0] * 10
    rows = with_floor(hardest, 1)(values, 4, seed=0, epoch=0, groups=groups, offset=0.2).rows
    assert_array_equal(rows, hardest(values, 4, seed=0, epoch=0, offset=0.2).rows)


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
    from datadiet.types import Selection

    return Selection(np.arange(count))


def test_floors_that_fill_every_place() -> None:
    values, groups = np.arange(12.0), np.repeat([0, 1, 2], [4, 4, 4])
    rows = with_floor(hardest, 2)(values, 6, seed=0, epoch=0, groups=groups).rows
    assert_array_equal(rows, [2, 3, 6, 7, 10, 11])


def test_a_floor_of_one_group_takes_the_places_of_others_below_their_floor() -> None:
    values = np.array([0.1, 0.2, 0.5, 0.6, 0.7, 0.8, 0.9])
    groups = np.array([0, 0, 1, 1, 2, 2, 2])  # the four hardest hold one row of group 1 until group 0 needs places
    rows = with_floor(hardest, 1)(values, 3, seed=0, epoch=0, groups=groups).rows
    assert_array_equal(rows, [1, 3, 6])


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
