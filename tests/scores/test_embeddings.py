"""Scores of where examples lie: one battery, golden values, and what each of them is for."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.sparse import csr_array

from datadiet import registry
from datadiet.errors import ArgumentError, DataError
from datadiet.scores.embeddings import moderate, neighbour_distance, prototypes, rds_plus

MODERATE = json.loads((Path(__file__).parents[1] / "golden" / "moderate.json").read_text())
Score = Callable[..., Any]

MEMBERS: dict[str, Score] = {
    **{
        name: registry.load("score", name)
        for name in registry.names("score", need="encoder")
        if "queries" not in registry.find("score", name).needs
    },
    "prototypes, cosine": partial(prototypes, metric="cosine"),
    "neighbour_distance, cosine": partial(neighbour_distance, metric="cosine"),
}
battery = pytest.mark.parametrize("name", list(MEMBERS))


def clustered(number: int = 200, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Points around four centres far from each other and from 0, and the number of each point's centre."""
    generator = np.random.default_rng(seed)
    groups = generator.integers(4, size=number)
    points = 5 + 10 * np.eye(4, 6)[groups] + generator.normal(size=(number, 6))
    return points.astype(np.float32), groups


def to_own_centre(points: np.ndarray, groups: np.ndarray) -> np.ndarray:
    means = np.stack([points[groups == group].mean(0) for group in range(4)])
    return np.linalg.norm(points - means[groups], axis=1)


@battery
@pytest.mark.parametrize("labelled", [False, True])
def test_one_finite_value_per_row_and_the_same_every_time(name: str, labelled: bool) -> None:
    points, groups = clustered()
    before, labels = points.copy(), groups if labelled else None
    state = np.random.get_state()[1].copy()  # noqa: NPY002 - the global generator must not be used
    first, second = (MEMBERS[name](points, labels) for _ in range(2))
    assert first.dtype == np.float32
    assert first.shape == (200,)
    assert np.isfinite(first).all()
    assert (first >= 0).all()
    assert_array_equal(first, second)
    assert_array_equal(points, before)
    assert_array_equal(np.random.get_state()[1], state)  # noqa: NPY002


@battery
def test_larger_means_farther_from_what_is_usual(name: str) -> None:
    points, groups = clustered()
    points[7] = [-20, 30, -20, 30, -20, 30]
    groups[7] = 0
    options = {"clusters": 1} if "prototypes" in name else {}
    assert MEMBERS[name](points, groups, **options).argmax() == 7


@battery
def test_lists_and_names_of_classes_will_do(name: str) -> None:
    points, groups = clustered(40)
    named = [f"class {group}" for group in groups]
    assert_array_equal(MEMBERS[name](points.tolist(), named), MEMBERS[name](points, groups))


@battery
def test_bad_numbers_and_shapes_are_refused(name: str) -> None:
    points, _ = clustered(20)
    points[4, 2], points[11, 0] = np.nan, np.inf
    with pytest.raises(ArgumentError, match="NaN or infinite numbers in 2 of 20 rows: 4, 11"):
        MEMBERS[name](points)
    with pytest.raises(ArgumentError, match=r"4 \(id 'r4'\), 11 \(id 'r11'\)"):
        MEMBERS[name](points, ids=[f"r{row}" for row in range(20)])
    with pytest.raises(ArgumentError, match=r"one row of numbers per example, got shape \(3,\)"):
        MEMBERS[name]([1.0, 2.0, 3.0])
    with pytest.raises(ArgumentError, match=r"labels need one entry per row: got \(3,\) for 4 rows"):
        MEMBERS[name](np.ones((4, 2)), [0, 1, 1])


@battery
def test_a_class_of_one_is_no_special_case(name: str) -> None:
    points, groups = clustered(50)
    groups[0] = 9
    values = MEMBERS[name](points, groups)
    assert values[0] == pytest.approx(0, abs=1e-6)
    others = np.arange(1, 50)
    assert_allclose(MEMBERS[name](points[others], groups[others]), values[others], atol=1e-5)


# ---- prototypes


@pytest.mark.proves("prototypes", by="definition")
def test_one_prototype_is_the_mean_and_four_find_the_four_centres() -> None:
    points, groups = clustered()
    apart = np.linalg.norm(points - points.mean(0, dtype=np.float64), axis=1)
    assert_allclose(prototypes(points, clusters=1), apart, rtol=1e-5)
    assert_allclose(prototypes(points, clusters=4), to_own_centre(points, groups), rtol=1e-4)


def test_large_sets_are_taken_in_small_batches_and_come_out_alike() -> None:
    points, groups = clustered(12_000)
    assert np.abs(prototypes(points, clusters=4) - to_own_centre(points, groups)).max() < 0.3


@pytest.mark.proves("prototypes", by="planted")
def test_prototypes_per_class_find_what_lies_among_another_class() -> None:
    """A mislabelled example lies on a prototype of the other class: only prototypes per class find it."""
    points, groups = clustered()
    labels = groups.copy()
    wrong = [3, 50, 120]
    labels[wrong] = (labels[wrong] + 1) % 4
    by_class = prototypes(points, labels, clusters=1)
    of_all = prototypes(points, clusters=4)
    assert set(np.argsort(-by_class)[:3].tolist()) == set(wrong)
    assert not set(wrong) & set(np.argsort(-of_all)[:3].tolist())


def test_with_more_clusters_than_kinds_an_outlier_can_be_a_prototype_itself() -> None:
    """What the method is known to lose to; `neighbour_distance` is not."""
    points, _ = clustered()
    points[7] = 500.0
    assert prototypes(points, clusters=5)[7] == 0
    assert neighbour_distance(points).argmax() == 7


def test_the_cosine_does_not_see_lengths() -> None:
    points, _ = clustered(60)
    values = prototypes(points, metric="cosine", clusters=4)
    scaled = points * np.random.default_rng(1).uniform(0.5, 9, size=(60, 1))
    assert_allclose(prototypes(scaled, metric="cosine", clusters=4), values, atol=1e-5)
    assert values.max() <= 2


def test_as_many_clusters_as_points_or_more() -> None:
    points, _ = clustered(30)
    assert prototypes(points, clusters=30).max() == 0
    assert_allclose(prototypes(np.repeat([[0.0, 1.0], [3.0, 3.0]], 10, axis=0), clusters=5), 0, atol=1e-7)
    with pytest.raises(ArgumentError, match="at most the number of examples, 30, got 31"):
        prototypes(points, clusters=31)
    labels = np.where(np.arange(30) < 2, "rare", "usual")
    with pytest.raises(ArgumentError, match=r"of every class, got 3; smaller are: 'rare' \(2\)"):
        prototypes(points, labels, clusters=3)


def test_options_that_are_not_allowed_come_at_once() -> None:
    with pytest.raises(ArgumentError, match=r"(?s)clusters must be.*metric 'cos'; did you mean 'cosine'") as caught:
        prototypes([[1.0]], metric="cos", clusters=0)
    assert len(caught.value.problems) == 2
    with pytest.raises(ArgumentError, match=r"(?s)seed must be.*one row of numbers per example"):
        prototypes([1.0], seed=-1)
    with pytest.raises(ArgumentError, match="unknown metric 'dot'"):
        neighbour_distance([[1.0]], metric="dot")
    with pytest.raises(ArgumentError, match="neighbours must be a whole number, at least 1, got 0"):
        neighbour_distance([[1.0]], neighbours=0)
    with pytest.raises(ArgumentError, match="prototypes needs dense embeddings"):
        prototypes(csr_array(np.eye(3)))
    with pytest.raises(DataError, match="not 0 everywhere, got zeros in 1 of 2 rows: 1"):
        prototypes([[1.0, 0.0], [0.0, 0.0]], metric="cosine")


# ---- moderate


@pytest.mark.proves("moderate", kind="score", by="golden")
def test_golden_distances_to_the_class_median() -> None:
    values = moderate(MODERATE["features"], MODERATE["labels"])
    assert_allclose(values, MODERATE["distance"], atol=1e-6)
    assert values[20] != pytest.approx(MODERATE["code_distance_of_row_20"])
    shifted = [label + 7 for label in MODERATE["labels"]]
    assert_array_equal(moderate(MODERATE["features"], shifted), values)


@pytest.mark.proves("moderate", kind="score", by="planted")
def test_the_median_is_not_moved_by_outliers() -> None:
    points, _ = clustered(101)
    far = points.copy()
    far[:20] += 1e4
    assert np.abs(moderate(far)[20:] - moderate(points)[20:]).max() < 12  # the mean would be 2,000 away


# ---- neighbours


@pytest.mark.proves("neighbour_distance", by="brute")
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("kind", [np.asarray, csr_array], ids=["dense", "sparse"])
def test_neighbour_distance_is_that_of_brute_force(metric: str, kind: Any) -> None:
    points = clustered(70)[0].astype(np.float64)
    unit = points / np.linalg.norm(points, axis=1, keepdims=True)
    euclidean = np.linalg.norm(points[:, None] - points[None], axis=2)
    apart = 1 - unit @ unit.T if metric == "cosine" else euclidean
    np.fill_diagonal(apart, np.inf)
    expected = np.sort(apart, 1)[:, :7].mean(1)
    assert_allclose(neighbour_distance(kind(points), neighbours=7, metric=metric), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.proves("neighbour_distance", by="planted")
def test_copies_are_at_distance_0_and_the_lonely_are_far() -> None:
    points, _ = clustered(60)
    points[10] = points[3]
    points[20] = -50
    values = neighbour_distance(points, neighbours=1)
    assert set(np.flatnonzero(values == 0).tolist()) == {3, 10}
    assert values.argmax() == 20


# ---- RDS+


@pytest.mark.proves("rds_plus", by="brute")
@pytest.mark.parametrize("groups", [None, [0, 0, 0, 1, 2, 2, 0]])
def test_the_largest_values_are_those_of_a_round_robin(groups: list[int] | None) -> None:
    generator = np.random.default_rng(0)
    points, queries = generator.normal(size=(150, 4)), generator.normal(size=(7, 4))
    values = rds_plus(points, queries=queries, groups=groups)
    assert sorted(values.tolist()) == list(range(1, 151))
    unit = [part / np.linalg.norm(part, axis=1, keepdims=True) for part in (points, queries)]
    similar, order = unit[1] @ unit[0].T, []
    each = [cycle([query for query in range(7) if (groups or [0] * 7)[query] == group]) for group in range(3)]
    turns = cycle(each if groups else each[:1])
    while len(order) < 150:
        query = next(next(turns))
        order.append(max((row for row in range(150) if row not in order), key=lambda row: similar[query, row]))
    assert np.argsort(-values).tolist() == order


@pytest.mark.proves("rds_plus", by="planted")
def test_the_rows_around_the_queries_come_first() -> None:
    points, groups = clustered()
    queries = points[groups == 2][:3] + 0.1
    values = rds_plus(points, queries=queries)
    assert set(groups[np.argsort(-values)[: (groups == 2).sum()]]) == {2}


def test_queries_that_do_not_fit() -> None:
    with pytest.raises(ArgumentError, match="queries must have the width of the embeddings, got 3 and 2"):
        rds_plus(np.ones((4, 2)), queries=np.ones((2, 3)))
    with pytest.raises(ArgumentError, match=r"labels need one entry per row: got \(1,\) for 2 rows"):
        rds_plus(np.ones((4, 2)), queries=np.ones((2, 2)), groups=[0])
    with pytest.raises(DataError, match="queries that are not 0 everywhere"):
        rds_plus(np.ones((4, 2)), queries=np.zeros((2, 2)))
