"""k-centre, herding and D2: golden and brute-force rows, and what each is for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from scipy.sparse import csr_array

from datadiet.errors import ArgumentError
from datadiet.selectors.base import row_hash
from datadiet.selectors.coverage import d2_pruning, herding, k_center
from datadiet.selectors.ranked import hardest

K_CENTER = json.loads((Path(__file__).parents[1] / "golden" / "k_center.json").read_text())


def spread(number: int, seed: int = 0, width: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Values and features, no row 0 everywhere."""
    generator = np.random.default_rng(seed)
    return generator.random(number), generator.normal(size=(number, width))


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


def test_ties_of_the_first_row_follow_the_hash() -> None:
    """Copies of the farthest row: the one with the smallest hash is taken."""
    features = np.array([[0.0]] + [[1.0]] * 9)
    rows = k_center(np.zeros(10), 2, seed=5, epoch=6, features=features, start=[0]).rows
    assert rows[1] == 1 + row_hash(np.arange(10), seed=5, epoch=6)[1:].argmin()


@pytest.mark.parametrize("start", [[], [1, 1], [20], [-1], [0.5], 3, [[1]], "foo"])
def test_starts_that_cannot_be(start: Any) -> None:
    with pytest.raises(ArgumentError, match="start must be a list of different rows from 0 to 19"):
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
def test_d2_is_brute_force(neighbours: int, gamma: float, forward: float) -> None:
    values, features = spread(120, seed=8)
    options = {"neighbours": neighbours, "gamma": gamma, "gamma_forward": forward}
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


def test_d2_values_below_0_count_from_the_smallest() -> None:
    values, features = spread(50)
    values -= values.min()
    rows = d2_pruning(values, 15, seed=0, epoch=0, features=features).rows
    assert_array_equal(d2_pruning(values - 4, 15, seed=0, epoch=0, features=features).rows, rows)
