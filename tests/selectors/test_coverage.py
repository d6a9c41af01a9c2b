"""Selectors that look at where examples lie: one battery, golden and brute-force values, and what each is for."""

from __future__ import annotations

import json
import sys
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
from scipy.sparse import csr_array

from datadiet.errors import ArgumentError, DataError, MissingExtraError
from datadiet.selectors import FEATURE_SELECTORS, SELECTORS
from datadiet.selectors.base import row_hash
from datadiet.selectors.coverage import d2_pruning, herding, k_center
from datadiet.selectors.quotas import with_floor
from datadiet.selectors.ranked import by_count, easiest, hardest, moderate, proportional
from datadiet.selectors.submodular import facility_location, graph_cut, usual_neighbours

GOLDEN = Path(__file__).parents[1] / "golden"
K_CENTER = json.loads((GOLDEN / "k_center.json").read_text())
MODERATE = json.loads((GOLDEN / "moderate.json").read_text())
Select = Callable[..., Any]


def floored(select: Select) -> Select:
    """A floor over three groups of rows."""

    def run(values: Any, count: int, **options: Any) -> Any:
        options["groups"] = np.arange(np.size(values)) % 3
        return with_floor(select, 1)(values, max(count, 0), **options)

    return run


MEMBERS: dict[str, Select] = {
    **{name: SELECTORS[name] for name in FEATURE_SELECTORS},
    "d2_pruning, faiss": partial(d2_pruning, search="faiss"),
    "facility_location, 3 neighbours": partial(facility_location, neighbours=3),
    "graph_cut, redundancy 2": partial(graph_cut, redundancy=2.0),
    "k_center, floor": floored(k_center),
    "d2_pruning, floor": floored(d2_pruning),
}
VALUELESS = ["k_center", "herding", "facility_location", "graph_cut"]
battery = pytest.mark.parametrize("name", list(MEMBERS))


def spread(number: int = 60, seed: int = 0, width: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Values and features, no row 0 everywhere."""
    generator = np.random.default_rng(seed)
    return generator.random(number), generator.normal(size=(number, width))


# few distinct numbers, so that equal rows and ties are everywhere
copies = arrays(np.float64, st.tuples(st.integers(8, 40), st.just(2)), elements=st.sampled_from([1.0, 2.0, 5.0]))


@battery
@settings(deadline=None, max_examples=40)
@given(features=copies, share=st.floats(0, 1), seed=st.integers(0, 2**40), epoch=st.integers(0, 50))
def test_exactly_count_rows_ascending_and_the_same_every_time(
    name: str, features: np.ndarray, share: float, seed: int, epoch: int
) -> None:
    size = len(features)
    values = np.where(np.arange(size) % 5, 0.5, np.inf)
    count, before = min(size, max(3, round(share * size))), features.copy()
    first, second = (MEMBERS[name](values, count, seed=seed, epoch=epoch, features=features).rows for _ in range(2))
    assert first.dtype == np.int64
    assert first.size == count
    assert bool((np.diff(first) > 0).all())
    assert 0 <= first[0] <= first[-1] < size
    assert_array_equal(first, second)
    assert_array_equal(features, before)


@battery
def test_a_count_of_all_rows_returns_all_rows(name: str) -> None:
    values, features = spread()
    assert_array_equal(MEMBERS[name](values, 60, seed=1, epoch=2, features=features).rows, np.arange(60))


@battery
def test_lists_and_single_precision_will_do(name: str) -> None:
    values, features = spread()
    features = features.astype(np.float32)
    rows = MEMBERS[name](values, 20, seed=1, epoch=2, features=features).rows
    assert_array_equal(MEMBERS[name](values.tolist(), 20, seed=1, epoch=2, features=features.tolist()).rows, rows)


@pytest.mark.parametrize("name", [name for name in MEMBERS if "faiss" not in name])
def test_sparse_features_give_what_dense_ones_give(name: str) -> None:
    values, features = spread()
    features[np.abs(features) < 0.5] = 0
    features[:, 0] += 0.1
    rows = MEMBERS[name](values, 20, seed=1, epoch=2, features=features).rows
    assert_array_equal(MEMBERS[name](values, 20, seed=1, epoch=2, features=csr_array(features)).rows, rows)


# not D2: the neighbours of a row among many equal ones are the first of them
@pytest.mark.parametrize("name", [name for name in MEMBERS if "d2" not in name])
def test_equal_rows_have_the_same_chance_wherever_they_stand(name: str) -> None:
    taken = np.zeros(24)
    for epoch in range(300):
        rows = MEMBERS[name](np.full(24, 0.5), 12, seed=7, epoch=epoch, features=np.ones((24, 2))).rows
        taken[rows] += 1
    assert_allclose(taken / 300, 0.5, atol=0.17)  # 6 standard deviations


@battery
def test_the_global_generator_is_not_moved(name: str) -> None:
    values, features = spread()
    before = np.random.get_state()[1].copy()  # noqa: NPY002 - what is looked at is the global generator
    MEMBERS[name](values, 20, seed=3, epoch=1, features=features)
    assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002


@pytest.mark.parametrize("name", [name for name in MEMBERS if "floor" not in name])
def test_problems_with_values_and_features_come_at_once(name: str) -> None:
    features = np.ones((20, 2))
    features[3, 1] = np.nan
    with pytest.raises(ArgumentError, match=r"(?s)NaN or infinite.*1 of 20 rows: 3 \(id 'r3'\).*seed must be"):
        MEMBERS[name](np.zeros(20), 12, seed=-1, epoch=0, features=features, ids=[f"r{row}" for row in range(20)])
    with pytest.raises(ArgumentError, match="one row per value: got 4 rows for 5 values"):
        MEMBERS[name](np.zeros(5), 3, seed=0, epoch=0, features=np.ones((4, 2)))
    with pytest.raises(ArgumentError, match="values must be numbers, got NaN"):
        MEMBERS[name](np.full(20, np.nan), 10, seed=0, epoch=0, features=np.ones((20, 2)))


@pytest.mark.parametrize("name", VALUELESS)
def test_values_have_no_say(name: str) -> None:
    values, features = spread()
    rows = MEMBERS[name](values, 20, seed=1, epoch=2, features=features).rows
    new = np.where(np.arange(60) % 7 == 0, np.inf, -values)
    assert_array_equal(MEMBERS[name](new, 20, seed=1, epoch=2, features=features).rows, rows)


@pytest.mark.parametrize("name", [name for name in MEMBERS if "floor" not in name])
def test_every_group_gets_its_floor(name: str) -> None:
    values, features = spread()
    groups = np.where(np.arange(60) < 4, "rare", "usual")
    features[:4] = features[40]  # nothing but a floor would take more than one of them
    rows = with_floor(MEMBERS[name], 4)(values, 15, seed=0, epoch=0, groups=groups, features=features).rows
    assert rows.size == 15
    assert set(range(4)) <= set(rows.tolist())


# ---- k-centre


@pytest.mark.proves("k_center", by="golden")
@pytest.mark.parametrize("case", K_CENTER["cases"], ids=lambda case: f"{case['start']}-{case['count']}")
def test_golden_k_center(case: dict[str, Any]) -> None:
    features = np.array(K_CENTER["features"])
    for given_features in (features, csr_array(features)):
        options = {"seed": 3, "epoch": 1, "features": given_features, "start": case["start"]}
        assert_array_equal(k_center(np.zeros(18), case["count"], **options).rows, case["rows"])
    if case["covering_radius"] is not None:
        apart = np.linalg.norm(features[:, None] - features[case["rows"]], axis=2).min(1)
        assert apart.max() == pytest.approx(case["covering_radius"], abs=1e-7)


def test_distances_far_from_0_are_no_rounding_error() -> None:
    features = 1000 + np.array([[0.0, 0.0], [0.01, 0.0], [0.03, 0.0], [0.04, 0.0]])
    assert_array_equal(k_center(np.zeros(4), 3, seed=0, epoch=0, features=features, start=[0]).rows, [0, 1, 3])


def plain_k_center(features: np.ndarray, count: int, start: int) -> np.ndarray:
    chosen, apart = [start], np.linalg.norm(features - features[start], axis=1)
    while len(chosen) < count:
        chosen.append(int(apart.argmax()))
        apart = np.minimum(apart, np.linalg.norm(features - features[chosen[-1]], axis=1))
    return np.sort(chosen)


@pytest.mark.proves("k_center", by="brute")
@pytest.mark.parametrize("width", [2, 40])
def test_old_distances_as_bounds_give_what_plain_greedy_gives(width: int) -> None:
    """More rows than are kept up to date, so that others have to catch up."""
    features = np.random.default_rng(5).normal(size=(3000, width))
    rows = k_center(np.zeros(3000), 900, seed=0, epoch=0, features=features, start=[17]).rows
    assert_array_equal(rows, plain_k_center(features, 900, 17))


@pytest.mark.proves("k_center", by="planted")
def test_k_center_covers_every_cluster_however_small() -> None:
    generator = np.random.default_rng(2)
    groups = np.repeat(np.arange(12), [900, *[5] * 11])
    features = 50 * generator.normal(size=(12, 8))[groups] + generator.normal(size=(955, 8))
    rows = k_center(np.zeros(955), 12, seed=0, epoch=0, features=features).rows
    assert set(groups[rows].tolist()) == set(range(12))


@pytest.mark.parametrize("start", [[], [1, 1], [20], [-1], [0.5], 3, [[1]]])
def test_starts_that_cannot_be(start: Any) -> None:
    with pytest.raises(ArgumentError, match="start must be different rows from 0 to 19"):
        k_center(np.zeros(20), 5, seed=0, epoch=0, features=np.ones((20, 1)), start=start)
    with pytest.raises(ArgumentError, match="start has 3 rows, more than the count of 2"):
        k_center(np.zeros(20), 2, seed=0, epoch=0, features=np.ones((20, 1)), start=[1, 2, 3])


# ---- herding


def plain_herding(features: np.ndarray, count: int) -> np.ndarray:
    mean, total, chosen = features.mean(0), np.zeros(features.shape[1]), []
    for taken in range(count):
        gaps = np.linalg.norm(mean - (total + features) / (taken + 1), axis=1)
        gaps[chosen] = np.inf
        chosen.append(int(gaps.argmin()))
        total = total + features[chosen[-1]]
    return np.sort(chosen)


@pytest.mark.proves("herding", by="brute")
@pytest.mark.parametrize("shift", [0.0, 100.0])
def test_herding_is_brute_force(shift: float) -> None:
    features = spread(300, seed=4, width=20)[1] + shift
    rows = herding(np.zeros(300), 90, seed=0, epoch=0, features=features).rows
    assert_array_equal(rows, plain_herding(features, 90))


@pytest.mark.proves("herding", by="planted")
def test_herding_matches_the_mean_far_better_than_chance_and_than_the_largest_gap() -> None:
    features = np.random.default_rng(6).exponential(size=(500, 10))

    def gap(rows: Any) -> float:
        return float(np.linalg.norm(features[rows].mean(0) - features.mean(0)))

    rows = herding(np.zeros(500), 25, seed=0, epoch=0, features=features).rows
    chance = [gap(np.random.default_rng(seed).choice(500, 25, replace=False)) for seed in range(50)]
    assert gap(rows) < min(chance) / 5


# ---- D2


def plain_d2(
    values: np.ndarray, features: np.ndarray, count: int, neighbours: int, gamma: float, forward: float
) -> Any:
    apart = np.linalg.norm(features[:, None] - features[None], axis=2)
    np.fill_diagonal(apart, np.inf)
    near = np.argsort(apart, 1, kind="stable")[:, :neighbours]
    reach = np.array(
        [v + sum(np.exp(-forward * apart[i, j]) * values[j] for j in near[i]) for i, v in enumerate(values)]
    )
    left, chosen = np.ones(len(values), bool), []
    for _ in range(count):
        row = int(np.where(left, reach, -np.inf).argmax())
        left[row] = False
        chosen.append(row)
        for j in near[row]:
            reach[j] -= np.exp(-gamma * apart[row, j]) * max(reach[row], 0.0)
    return np.sort(chosen)


@pytest.mark.proves("d2_pruning", by="brute")
@pytest.mark.parametrize(("neighbours", "gamma", "forward"), [(5, 0.1, 1.0), (3, 2.0, 0.0), (119, 0.5, 0.5)])
@pytest.mark.parametrize("search", ["exact", "faiss"])
def test_d2_is_brute_force(neighbours: int, gamma: float, forward: float, search: str) -> None:
    values, features = spread(120, seed=8)
    options = {"neighbours": neighbours, "gamma": gamma, "gamma_forward": forward, "search": search}
    rows = d2_pruning(values, 40, seed=0, epoch=0, features=features, **options).rows
    assert_array_equal(rows, plain_d2(values, features, 40, neighbours, gamma, forward))


@pytest.mark.proves("d2_pruning", by="planted")
def test_d2_keeps_one_of_each_hard_example_and_hardest_keeps_the_copies() -> None:
    """Five hard examples come in four copies each, among a hundred easier ones."""
    generator = np.random.default_rng(9)
    kinds = np.concatenate([np.repeat(np.arange(5), 4), np.arange(5, 105)])
    features = 9 * generator.normal(size=(105, 8))[kinds]
    values = np.concatenate([np.repeat([5.0, 4.8, 4.6, 4.4, 4.2], 4), generator.random(100)])
    rows = d2_pruning(values, 20, seed=0, epoch=0, features=features, neighbours=3).rows
    assert set(range(5)) <= set(kinds[rows].tolist())
    assert np.unique(kinds[rows]).size == 20
    assert np.unique(kinds[hardest(values, 20, seed=0, epoch=0).rows]).size == 5


def test_d2_takes_rows_never_scored_first() -> None:
    values, features = spread(50)
    new = [3, 17, 30, 31, 49]
    values[new] = np.inf
    assert set(new) <= set(d2_pruning(values, 8, seed=0, epoch=0, features=features).rows.tolist())
    assert_array_equal(d2_pruning(values, 5, seed=0, epoch=0, features=features).rows, new)
    assert set(d2_pruning(values, 2, seed=0, epoch=0, features=features).rows.tolist()) < set(new)
    assert d2_pruning(np.full(50, np.inf), 9, seed=0, epoch=0, features=features).rows.size == 9


def test_d2_values_below_0_count_from_the_smallest() -> None:
    values, features = spread(50)
    values -= values.min()
    rows = d2_pruning(values, 15, seed=0, epoch=0, features=features).rows
    assert_array_equal(d2_pruning(values - 4, 15, seed=0, epoch=0, features=features).rows, rows)


# ---- facility location and graph cut


def cosines(features: np.ndarray) -> np.ndarray:
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    return np.maximum(unit @ unit.T, 0.0)


def plain_greedy(similar: np.ndarray, count: int, value: Callable[[list[int]], float]) -> list[int]:
    chosen: list[int] = []
    for _ in range(count):
        gains = [-np.inf if row in chosen else value([*chosen, row]) for row in range(len(similar))]
        chosen.append(int(np.argmax(gains)))
    return sorted(chosen)


def covered(similar: np.ndarray, rows: Any) -> float:
    return float(similar[:, rows].max(1).sum())


def cut(similar: np.ndarray, rows: Any, redundancy: float) -> float:
    return float(similar[:, rows].sum() - redundancy * similar[np.ix_(rows, rows)].sum())


@pytest.mark.proves("graph_cut", by="brute")
@pytest.mark.parametrize("redundancy", [0.2, 0.5, 1.5])
def test_graph_cut_is_plain_greedy(redundancy: float) -> None:
    features = spread(80, seed=11)[1]
    similar = cosines(features)
    rows = graph_cut(np.zeros(80), 25, seed=0, epoch=0, features=features, redundancy=redundancy).rows
    assert rows.tolist() == plain_greedy(similar, 25, lambda chosen: cut(similar, chosen, redundancy))


@pytest.mark.proves("facility_location", by="brute")
@pytest.mark.parametrize("search", ["exact", "faiss"])
def test_facility_location_is_plain_greedy(search: str) -> None:
    features = spread(80, seed=12)[1]
    similar = cosines(features)
    rows = facility_location(np.zeros(80), 25, seed=0, epoch=0, features=features, search=search).rows
    plain = plain_greedy(similar, 25, lambda chosen: covered(similar, chosen))
    # not the same rows: two that only stand for each other have the same gain, and rounding decides
    assert covered(similar, rows) == pytest.approx(covered(similar, plain), abs=1e-9)
    assert np.intersect1d(rows, plain).size >= 22


def crowds(seed: int) -> np.ndarray:
    """1,500 points around 40 centres."""
    generator = np.random.default_rng(seed)
    centres = 1.5 * generator.normal(size=(40, 24))
    return centres[generator.integers(40, size=1500)] + generator.normal(size=(1500, 24))


@pytest.mark.parametrize("keep", [0.3, 0.05])
def test_neighbours_alone_lose_little_of_what_exact_greedy_covers(keep: float) -> None:
    """As many neighbours as large sets get; exact greedy has all similarities."""
    generator = np.random.default_rng(13)
    features = 1.5 * generator.normal(size=(40, 24))[generator.integers(40, size=1500)] + generator.normal(
        size=(1500, 24)
    )
    count, similar = round(keep * 1500), cosines(features)
    few = min(max(32, round(10 / keep)), 512)
    options = {"seed": 0, "epoch": 0, "features": features}
    exact = facility_location(np.zeros(1500), count, **options).rows
    near = facility_location(np.zeros(1500), count, neighbours=few, **options).rows
    chance = np.random.default_rng(0).choice(1500, count, replace=False)
    assert covered(similar, near) > 0.99 * covered(similar, exact)
    assert covered(similar, near) - covered(similar, chance) > 0.8 * (
        covered(similar, exact) - covered(similar, chance)
    )


def test_graph_cut_by_neighbours_finds_the_crowds_too() -> None:
    generator = np.random.default_rng(14)
    features = 1.5 * generator.normal(size=(40, 24))[generator.integers(40, size=1500)] + generator.normal(
        size=(1500, 24)
    )
    similar, options = cosines(features), {"seed": 0, "epoch": 0, "features": features}
    exact = graph_cut(np.zeros(1500), 150, **options).rows
    near = graph_cut(np.zeros(1500), 150, neighbours=100, **options).rows
    chance = np.random.default_rng(0).choice(1500, 150, replace=False)
    best, found, usual = (cut(similar, rows, 0.5) for rows in (exact, near, chance))
    assert found - usual > 0.5 * (best - usual)


@pytest.mark.proves("facility_location", by="planted")
def test_facility_location_has_one_like_each_and_no_copies() -> None:
    generator = np.random.default_rng(15)
    groups = np.repeat(np.arange(6), [100, 80, 40, 20, 10, 10])
    features = 5 * np.eye(6)[groups] + 0.3 * generator.normal(size=(260, 6))
    rows = facility_location(np.zeros(260), 6, seed=0, epoch=0, features=features).rows
    assert sorted(groups[rows].tolist()) == list(range(6))


@pytest.mark.proves("graph_cut", by="planted")
def test_graph_cut_trades_crowds_for_variety() -> None:
    generator = np.random.default_rng(16)
    groups = np.repeat(np.arange(3), [100, 30, 30])
    features = 5 * np.eye(3)[groups] + 0.3 * generator.normal(size=(160, 3))
    options = {"seed": 0, "epoch": 0, "features": features}
    assert set(groups[graph_cut(np.zeros(160), 9, redundancy=0, **options).rows].tolist()) == {0}
    assert set(groups[graph_cut(np.zeros(160), 9, redundancy=10.0, **options).rows].tolist()) == {0, 1, 2}


def test_usual_neighbours() -> None:
    assert usual_neighbours(10, 3) == 9
    assert usual_neighbours(10_000, 10_000) == 32
    assert usual_neighbours(10_000, 1) == 512


@pytest.mark.parametrize(
    ("select", "options", "message"),
    [
        (d2_pruning, {"neighbours": 0}, "neighbours must be a whole number, at least 1, got 0"),
        (d2_pruning, {"gamma": -1}, "gamma must be at least 0, got -1"),
        (d2_pruning, {"gamma_forward": np.nan}, "gamma_forward must be at least 0, got nan"),
        (d2_pruning, {"search": "fais"}, "unknown search 'fais'; did you mean 'faiss'"),
        (facility_location, {"neighbours": 10}, "neighbours must be a whole number from 1 to 9, got 10"),
        (facility_location, {"neighbours": True}, "neighbours must be a whole number from 1 to 9, got True"),
        (graph_cut, {"redundancy": -0.1}, "redundancy must be at least 0, got -0.1"),
        (graph_cut, {"search": "x"}, "unknown search 'x'. Allowed: exact, faiss"),
    ],
)
def test_options_that_are_not_allowed(select: Select, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        select(np.zeros(10), 5, seed=0, epoch=0, features=np.ones((10, 2)), **options)


@pytest.mark.parametrize("select", [facility_location, graph_cut])
@pytest.mark.parametrize("kind", [np.asarray, csr_array])
def test_rows_without_a_direction_are_refused(select: Select, kind: Any) -> None:
    features = np.ones((6, 2))
    features[[2, 5]] = 0
    with pytest.raises(
        DataError, match=r"features that are not 0 everywhere, got zeros in 2 of 6 rows: 2 \(id 'c'\), 5"
    ):
        select(np.zeros(6), 3, seed=0, epoch=0, features=kind(features), ids=list("abcdef"))


def test_without_faiss_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'datadiet\[faiss\]'"):
        d2_pruning(np.zeros(9), 3, seed=0, epoch=0, features=np.ones((9, 2)), search="faiss")


# ---- the middle band, and one selector for few rows and another for many


@pytest.mark.proves("moderate", kind="select", by="golden")
@pytest.mark.parametrize("case", MODERATE["bands"], ids=lambda case: f"keep {case['keep']}")
def test_golden_middle_bands(case: dict[str, Any]) -> None:
    rows = moderate(MODERATE["distance"], case["count"], seed=0, epoch=0).rows
    assert rows.size == case["count"]
    assert set(rows.tolist()) <= set(case["code_rows"])  # whose band is up to one row wider
    if len(case["code_rows"]) > case["count"]:
        rows = moderate(MODERATE["distance"], len(case["code_rows"]), seed=0, epoch=0).rows
    assert rows.tolist() == case["code_rows"]


@pytest.mark.proves("moderate", kind="select", by="golden")
def test_golden_middle_bands_per_class() -> None:
    expected = MODERATE["per_class_half"]
    options = {"seed": 0, "epoch": 0, "groups": MODERATE["labels"], "per_group": True}
    assert moderate(MODERATE["distance"], len(expected), **options).rows.tolist() == expected


@pytest.mark.proves("moderate", kind="select", by="planted")
def test_a_class_that_spreads_widely_vanishes_unless_bands_are_per_class() -> None:
    values = np.concatenate([np.linspace(0, 1, 50), np.linspace(5, 9, 10)])
    groups = np.repeat(["near", "far"], [50, 10])
    over_all = moderate(values, 20, seed=0, epoch=0).rows
    per_class = moderate(values, 20, seed=0, epoch=0, groups=groups, per_group=True).rows
    assert set(groups[over_all].tolist()) == {"near"}
    assert (groups[per_class] == "far").sum() in (3, 4)


@pytest.mark.proves("moderate", kind="select", by="planted")
def test_moderate_is_left_alone_by_mislabelled_outliers() -> None:
    values = np.concatenate([np.random.default_rng(0).random(90), np.full(10, 50.0)])
    assert moderate(values, 40, seed=0, epoch=0).rows.max() < 90


@settings(deadline=None)
@given(sizes=st.lists(st.integers(1, 30), min_size=1, max_size=8), share=st.floats(0, 1))
def test_proportional_places_add_up(sizes: list[int], share: float) -> None:
    held = np.array(sizes)
    count = max(1, round(share * held.sum()))
    given_places = proportional(held, count)
    assert given_places.sum() == count
    assert (given_places <= held).all()
    assert (given_places >= (1 if count >= len(sizes) else 0)).all()
    if count > len(sizes):
        assert np.abs(given_places - held * count / held.sum()).max() <= 2


@settings(deadline=None)
@given(values=arrays(np.float64, 30, elements=st.sampled_from([0.0, 0.5, np.inf])), count=st.integers(1, 30))
def test_bands_per_group_have_the_exact_count_and_new_rows_first(values: np.ndarray, count: int) -> None:
    rows = moderate(values, count, seed=0, epoch=0, groups=np.arange(30) % 4, per_group=True).rows
    assert rows.size == count
    new = np.flatnonzero(np.isinf(values))
    assert len(np.intersect1d(rows, new)) == min(count, new.size)


def test_a_band_per_group_needs_groups() -> None:
    with pytest.raises(ArgumentError, match="a middle band per group needs the groups, got none"):
        moderate([0.1, 0.2], 1, seed=0, epoch=0, per_group=True)


def test_scdp_takes_the_farthest_of_few_and_something_else_of_many() -> None:
    values = np.random.default_rng(0).random(40)
    select = by_count(hardest, easiest, limit=10)
    for count, expected in ((10, hardest), (11, easiest)):
        assert_array_equal(select(values, count, seed=0, epoch=0).rows, expected(values, count, seed=0, epoch=0).rows)
    with pytest.raises(ArgumentError, match="count must be a whole number, got 'all'"):
        select(values, "all", seed=0, epoch=0)
    with pytest.raises(ArgumentError, match="limit must be a whole number, at least 1, got 0"):
        by_count(hardest, easiest, limit=0)


def test_ties_of_the_first_row_follow_the_hash() -> None:
    """Copies of the farthest row: the one with the smallest hash is taken."""
    features = np.array([[0.0]] + [[1.0]] * 9)
    rows = k_center(np.zeros(10), 2, seed=5, epoch=6, features=features, start=[0]).rows
    assert rows[1] == 1 + row_hash(np.arange(10), seed=5, epoch=6)[1:].argmin()
