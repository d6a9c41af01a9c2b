"""Mixtures of groups against brute force: the best of each group, clusters near and far, and tasks by their gains."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.sparse import csr_array

from datadiet.errors import DataError
from datadiet.selectors.base import row_hash
from datadiet.selectors.groups import shared_places
from datadiet.selectors.mixtures import best_of_group, deft_ucs, smart
from datadiet.selectors.submodular import covering, cutting, similarities

OPTIONS: dict[str, Any] = {"seed": 0, "epoch": 0}


def cosines(points: np.ndarray) -> np.ndarray:
    unit = points / np.linalg.norm(points, axis=1, keepdims=True)
    return np.maximum(unit @ unit.T, 0.0)


# ---- best of group


@pytest.mark.proves("best_of_group", by="brute")
@pytest.mark.parametrize("count", [1, 5, 12, 20, 39, 40])
def test_ranks_within_the_group_come_first_then_values(count: int) -> None:
    generator = np.random.default_rng(count)
    values, groups = generator.permutation(40).astype(float), generator.integers(12, size=40)
    keys = [(sum(values[other] > values[row] for other in range(40) if groups[other] == groups[row]), -values[row], row)
            for row in range(40)]  # fmt: skip
    expected = sorted(row for *_, row in sorted(keys)[:count])
    assert best_of_group(values, count, groups=groups, **OPTIONS).rows.tolist() == expected


@pytest.mark.proves("best_of_group", by="planted")
def test_one_of_each_prompt_is_its_best_answer() -> None:
    """Four answers to each of 50 prompts: the planted one, wherever it stands; a prompt with one answer keeps it."""
    generator = np.random.default_rng(0)
    prompts = np.append(np.repeat([f"prompt {number}" for number in range(50)], 4), "alone")
    best = 4 * np.arange(50) + generator.integers(4, size=50)
    values = generator.random(201)
    values[best] += 1
    values[200] = -5
    assert best_of_group(values, 51, groups=prompts, **OPTIONS).rows.tolist() == [*best, 200]


# ---- DEFT-UCS


def blobs(sizes: tuple[int, ...], seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Points around orthogonal directions, and the number of each."""
    generator = np.random.default_rng(seed)
    groups = np.repeat(np.arange(len(sizes)), sizes)
    return 8 * np.eye(len(sizes), 6)[groups] + generator.normal(size=(len(groups), 6)), groups


@pytest.mark.proves("deft_ucs", by="brute")
@pytest.mark.parametrize(("near", "trim"), [(0.5, 0.0), (0.25, 0.1), (1.0, 0.2), (0.0, 0.3)])
def test_each_cluster_gives_its_nearest_and_its_farthest_below_the_trim(near: float, trim: float) -> None:
    points, groups = blobs((60, 40, 20))
    rows = deft_ucs(np.zeros(120), 30, features=points, clusters=3, near=near, trim=trim, **OPTIONS).rows
    unit = points / np.linalg.norm(points, axis=1, keepdims=True)
    expected: list[int] = []
    for group, places in enumerate((15, 10, 5)):
        own = np.flatnonzero(groups == group)
        centre = unit[own].mean(0)
        ranked = own[np.argsort(-(unit[own] @ centre))].tolist()
        usable = ranked[: len(own) - round(trim * len(own))]
        close = round(near * places)
        expected += ranked[:close] + usable[len(usable) - (places - close) :]
    assert rows.tolist() == sorted(expected)


@pytest.mark.parametrize(
    ("allocation", "expected"), [("equal", [8, 8, 8]), ("root", [12, 8, 4]), ("proportional", [16, 7, 1])]
)
def test_places_of_clusters(allocation: str, expected: list[int]) -> None:
    points, groups = blobs((81, 36, 9))
    rows = deft_ucs(np.zeros(126), 24, features=points, clusters=3, allocation=allocation, **OPTIONS).rows
    kept = np.bincount(groups[rows], minlength=3)
    assert kept.sum() == 24
    assert np.abs(kept - expected).max() <= 1


@pytest.mark.proves("deft_ucs", by="planted")
def test_the_trim_leaves_out_what_lies_between_the_clusters() -> None:
    points, groups = blobs((100, 100, 100))
    outliers = np.array([5, 17, 105, 230])
    points[outliers] = 5 * (np.eye(3, 6)[groups[outliers]] + 0.9 * np.eye(3, 6)[(groups[outliers] + 1) % 3])
    kept = {trim: set(deft_ucs(np.zeros(300), 60, features=points, clusters=3, trim=trim, **OPTIONS).rows.tolist())
            for trim in (0.0, 0.05)}  # fmt: skip
    assert set(outliers.tolist()) <= kept[0.0]
    assert not set(outliers.tolist()) & kept[0.05]


def test_small_clusters_are_taken_whole_and_the_trim_gives_way() -> None:
    points, groups = blobs((95, 5))
    rows = deft_ucs(np.zeros(100), 60, features=points, clusters=2, allocation="equal", trim=0.9, **OPTIONS).rows
    assert np.bincount(groups[rows]).tolist() == [55, 5]
    sparse = deft_ucs(
        np.zeros(100), 60, features=csr_array(points), clusters=2, allocation="equal", trim=0.9, **OPTIONS
    )
    assert_array_equal(sparse.rows, rows)


# ---- SMART


@pytest.mark.proves("smart", by="brute")
@pytest.mark.parametrize("seed", range(8))
def test_greedy_reaches_its_bound_of_the_best_subset(seed: int) -> None:
    """Eight rows, all subsets of three: facility location, and graph cut where it never falls."""
    points = np.random.default_rng(seed).normal(size=(8, 3))
    similar, exact = cosines(points), similarities(points / np.linalg.norm(points, axis=1, keepdims=True), 7)
    assert_allclose(exact.toarray(), similar, atol=1e-9)
    hashes = row_hash(np.arange(8), seed=seed, epoch=0)

    def covered(rows: Any) -> float:
        return float(similar[:, list(rows)].max(1).sum())

    def cut(rows: Any) -> float:
        return float(similar[:, list(rows)].sum() - 0.4 * similar[np.ix_(list(rows), list(rows))].sum())

    taken, gains = cutting(exact, 3, hashes, 0.4)
    assert_allclose(np.cumsum(gains), [cut(taken[: place + 1]) for place in range(3)])
    for value, rows in ((covered, covering(exact, 3, hashes)), (cut, taken)):
        best = max(map(value, combinations(range(8), 3)))
        assert (1 - 1 / np.e) * best - 1e-9 <= value(rows) <= best + 1e-9


@pytest.mark.proves("smart", by="brute")
def test_places_follow_the_gains_of_a_plain_greedy_cut() -> None:
    points, groups = blobs((100, 80, 60, 40, 20), seed=3)
    unit = points / np.linalg.norm(points, axis=1, keepdims=True)
    similar = cosines(np.stack([unit[groups == group].mean(0) for group in range(5)]))
    order: list[int] = []
    gains = np.zeros(5)
    for _ in range(5):
        now = {task: similar[task].sum() - 0.4 * (similar[task, task] + 2 * similar[task, order].sum())
               for task in range(5) if task not in order}  # fmt: skip
        best = max(now, key=now.__getitem__)
        order.append(best)
        gains[best] = now[best]
    gains /= gains.max()
    expected = shared_places(np.bincount(groups), 1 + gains + gains**2 / 2, 120)
    rows = smart(np.zeros(300), 120, features=points, groups=groups, **OPTIONS).rows
    assert np.bincount(groups[rows]).tolist() == expected.tolist()
    assert expected[4] == 20  # full: what it cannot take went to the others


@pytest.mark.proves("smart", by="planted")
def test_copies_of_a_task_share_what_one_of_them_is_worth_and_copies_of_a_row_come_last() -> None:
    """A task that says what another says gains little; among its rows one of each kind is taken before a second."""
    generator = np.random.default_rng(1)
    kinds = np.eye(3, 12)[[0, 0, 1]]  # the second task is the first one again
    points = np.concatenate([8 * kind + generator.normal(size=(40, 12)) for kind in kinds])
    groups = np.repeat(["one", "again", "other"], 40)
    rows = smart(np.zeros(120), 30, features=points, groups=groups, redundancy=0.8, **OPTIONS).rows
    places = {name: int((groups[rows] == name).sum()) for name in ("one", "again", "other")}
    assert min(places["one"], places["again"]) < places["other"]
    assert smart(np.zeros(120), 30, features=points, groups=groups, tasks=2, **OPTIONS).rows.size == 30
    copied = np.concatenate([points[:10], np.repeat(points[10:11], 30, 0)])
    rows = smart(np.zeros(40), 11, features=copied, groups=["same"] * 40, **OPTIONS).rows
    assert set(range(10)) <= set(rows.tolist())


def test_tasks_that_get_no_places_fill_up_by_size() -> None:
    points, groups = blobs((50, 40, 30))
    chosen = np.unique(groups[smart(np.zeros(120), 20, features=points, groups=groups, tasks=1, **OPTIONS).rows])
    assert chosen.size == 1
    rows = smart(np.zeros(120), 100, features=points, groups=groups, tasks=1, **OPTIONS).rows
    assert rows.size == 100
    assert (groups[rows] == chosen[0]).sum() == (groups == chosen[0]).sum()


def test_a_task_without_a_direction_is_named() -> None:
    points = np.array([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0]])
    with pytest.raises(DataError, match=r"means of the groups that are not 0 everywhere, .* \(id 'odd'\)"):
        smart(np.zeros(3), 2, features=points, groups=["odd", "odd", "even"], **OPTIONS)
