"""Facility location and graph cut: plain greedy, neighbours alone, and what each is for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy.sparse import csr_array

from datadiet.errors import DataError
from datadiet.selectors.submodular import facility_location, graph_cut, usual_neighbours

Select = Callable[..., Any]


def directions(number: int, seed: int) -> np.ndarray:
    """Features `(number, 5)`, no row 0 everywhere."""
    generator = np.random.default_rng(seed)
    generator.random(number)
    return generator.normal(size=(number, 5))


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


def crowds(seed: int) -> np.ndarray:
    """1,500 points around 40 centres."""
    generator = np.random.default_rng(seed)
    centres = 1.5 * generator.normal(size=(40, 24))
    return centres[generator.integers(40, size=1500)] + generator.normal(size=(1500, 24))


@pytest.mark.proves("graph_cut", by="brute")
@pytest.mark.parametrize("redundancy", [0.2, 0.5, 1.5])
def test_graph_cut_is_plain_greedy(redundancy: float) -> None:
    features = directions(80, seed=11)
    similar = cosines(features)
    rows = graph_cut(np.zeros(80), 25, seed=0, epoch=0, features=features, redundancy=redundancy).rows
    assert rows.tolist() == plain_greedy(similar, 25, lambda chosen: cut(similar, chosen, redundancy))


@pytest.mark.proves("facility_location", by="brute")
def test_facility_location_is_plain_greedy() -> None:
    features = directions(80, seed=12)
    similar = cosines(features)
    rows = facility_location(np.zeros(80), 25, seed=0, epoch=0, features=features).rows
    plain = plain_greedy(similar, 25, lambda chosen: covered(similar, chosen))
    # not the same rows: two that only stand for each other have the same gain, and rounding decides
    assert covered(similar, rows) == pytest.approx(covered(similar, plain), abs=1e-9)
    assert np.intersect1d(rows, plain).size >= 22


@pytest.mark.parametrize("keep", [0.3, 0.05])
def test_neighbours_alone_lose_little_of_what_exact_greedy_covers(keep: float) -> None:
    """As many neighbours as large sets get; exact greedy has all similarities."""
    features = crowds(13)
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
    features = crowds(14)
    similar, options = cosines(features), {"seed": 0, "epoch": 0, "features": features}
    exact = graph_cut(np.zeros(1500), 150, **options).rows
    near = graph_cut(np.zeros(1500), 150, neighbours=100, **options).rows
    chance = np.random.default_rng(0).choice(1500, 150, replace=False)
    best, reached, usual = (cut(similar, rows, 0.5) for rows in (exact, near, chance))
    assert reached - usual > 0.5 * (best - usual)


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


@pytest.mark.parametrize("select", [facility_location, graph_cut])
@pytest.mark.parametrize("kind", [np.asarray, csr_array])
def test_rows_without_a_direction_are_refused(select: Select, kind: Any) -> None:
    features = np.ones((6, 2))
    features[[2, 5]] = 0
    with pytest.raises(
        DataError, match=r"features that are not 0 everywhere, got zeros in 2 of 6 rows: 2 \(id 'c'\), 5"
    ):
        select(np.zeros(6), 3, seed=0, epoch=0, features=kind(features), ids=list("abcdef"))
