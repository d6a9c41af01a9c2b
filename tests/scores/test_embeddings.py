"""Scores of where examples lie: one battery, golden values, and what each of them is for."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.sparse import csr_array

from datadiet.errors import ArgumentError, DataError, MissingExtraError
from datadiet.geometry import k_means, nearest, nearest_centroid, usual_clusters
from datadiet.scores.embeddings import EMBEDDING_SCORES, moderate, neighbour_distance, prototypes

GOLDEN = Path(__file__).parents[1] / "golden"
PROTOTYPES = json.loads((GOLDEN / "prototypes.json").read_text())
MODERATE = json.loads((GOLDEN / "moderate.json").read_text())
Score = Callable[..., Any]

MEMBERS: dict[str, Score] = {
    **EMBEDDING_SCORES,
    "prototypes, cosine": partial(prototypes, metric="cosine"),
    "prototypes, faiss": partial(prototypes, backend="faiss"),
    "neighbour_distance, cosine": partial(neighbour_distance, metric="cosine"),
    "neighbour_distance, faiss": partial(neighbour_distance, search="faiss"),
}
battery = pytest.mark.parametrize("name", list(MEMBERS))


def clustered(number: int = 200, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Points around four centres far from each other and from 0, and the number of each point's centre."""
    generator = np.random.default_rng(seed)
    groups = generator.integers(4, size=number)
    points = 5 + 10 * np.eye(4, 6)[groups] + generator.normal(size=(number, 6))
    return points.astype(np.float32), groups


@battery
@pytest.mark.parametrize("labelled", [False, True])
def test_one_finite_value_per_row_and_the_same_every_time(name: str, labelled: bool) -> None:
    points, groups = clustered()
    before, labels = points.copy(), groups if labelled else None
    first, second = (MEMBERS[name](points, labels) for _ in range(2))
    assert first.dtype == np.float32
    assert first.shape == (200,)
    assert np.isfinite(first).all()
    assert (first >= 0).all()
    assert_array_equal(first, second)
    assert_array_equal(points, before)


@battery
def test_larger_means_farther_from_what_is_usual(name: str) -> None:
    points, groups = clustered()
    points[7] = [-20, 30, -20, 30, -20, 30]
    groups[7] = 0
    options = {"clusters": 1} if "prototypes" in name else {}
    assert MEMBERS[name](points, groups, **options).argmax() == 7


def test_with_more_clusters_than_kinds_an_outlier_can_be_a_prototype_itself() -> None:
    """What the method is known to lose to; `neighbour_distance` is not."""
    points, _ = clustered()
    points[7] = 500.0
    assert prototypes(points, clusters=5)[7] == 0
    assert neighbour_distance(points).argmax() == 7


@battery
def test_lists_and_names_of_classes_will_do(name: str) -> None:
    points, groups = clustered(40)
    named = [f"class {group}" for group in groups]
    assert_array_equal(MEMBERS[name](points.tolist(), named), MEMBERS[name](points, groups))


@battery
def test_numbers_that_are_none_are_refused_with_the_rows_named(name: str) -> None:
    points, _ = clustered(20)
    points[4, 2], points[11, 0] = np.nan, np.inf
    with pytest.raises(ArgumentError, match="NaN or infinite numbers in 2 of 20 rows: 4, 11"):
        MEMBERS[name](points)
    with pytest.raises(ArgumentError, match=r"4 \(id 'r4'\), 11 \(id 'r11'\)"):
        MEMBERS[name](points, ids=[f"r{row}" for row in range(20)])


@battery
def test_shapes_that_do_not_fit(name: str) -> None:
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


@battery
def test_the_global_generator_is_not_moved(name: str) -> None:
    before = np.random.get_state()[1].copy()  # noqa: NPY002 - what is looked at is the global generator
    MEMBERS[name](clustered()[0])
    assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002


# ---- prototypes


@pytest.mark.proves("prototypes", by="golden")
@pytest.mark.parametrize("metric", ["euclid", "cosine"])
def test_golden_distances_to_fixed_centroids(metric: str) -> None:
    points, centroids = (np.array(PROTOTYPES[name]) for name in ("points", "centroids"))
    near, apart = nearest_centroid(points, centroids, metric="cosine" if metric == "cosine" else "euclidean")
    assert_allclose(apart, PROTOTYPES[f"{metric}_nearest_distance"], atol=1e-8)
    told = np.arange(len(points)) != PROTOTYPES["equidistant_row"]
    assert_array_equal(near[told], np.array(PROTOTYPES[f"{metric}_assignment"])[told])


def test_one_prototype_is_the_mean() -> None:
    points, _ = clustered()
    apart = np.linalg.norm(points - points.mean(0, dtype=np.float64), axis=1)
    assert_allclose(prototypes(points, clusters=1), apart, rtol=1e-5)


@pytest.mark.proves("prototypes", by="definition")
@pytest.mark.parametrize("backend", ["sklearn", "faiss"])
def test_as_many_prototypes_as_centres_find_them(backend: str) -> None:
    points, groups = clustered()
    means = np.stack([points[groups == group].mean(0) for group in range(4)])
    expected = np.linalg.norm(points - means[groups], axis=1)
    assert_allclose(prototypes(points, clusters=4, backend=backend), expected, rtol=1e-4)


def test_large_sets_are_taken_in_small_batches_and_come_out_alike() -> None:
    points, groups = clustered(12_000)
    means = np.stack([points[groups == group].mean(0) for group in range(4)])
    expected = np.linalg.norm(points - means[groups], axis=1)
    assert np.abs(prototypes(points, clusters=4) - expected).max() < 0.3


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


def test_the_cosine_does_not_see_lengths() -> None:
    points, _ = clustered(60)
    values = prototypes(points, metric="cosine", clusters=4)
    scaled = points * np.random.default_rng(1).uniform(0.5, 9, size=(60, 1))
    assert_allclose(prototypes(scaled, metric="cosine", clusters=4), values, atol=1e-5)
    assert values.max() <= 2


def test_fewer_distinct_points_than_clusters() -> None:
    points = np.repeat([[0.0, 1.0], [3.0, 3.0]], 10, axis=0)
    assert_allclose(prototypes(points, clusters=5), 0, atol=1e-7)


def test_more_clusters_than_examples_are_refused() -> None:
    points, _ = clustered(30)
    with pytest.raises(ArgumentError, match="at most the number of examples, 30, got 31"):
        prototypes(points, clusters=31)
    labels = np.where(np.arange(30) < 2, "rare", "usual")
    with pytest.raises(ArgumentError, match=r"of every class, got 3; smaller are: 'rare' \(2\)"):
        prototypes(points, labels, clusters=3)
    assert prototypes(points, clusters=30).max() == 0


def test_options_that_are_not_allowed_come_at_once() -> None:
    with pytest.raises(
        ArgumentError, match=r"(?s)metric 'cos'.*backend 'sk'.*seed must be.*clusters must be"
    ) as caught:
        prototypes([[1.0]], metric="cos", backend="sk", seed=-1, clusters=0)
    assert len(caught.value.problems) == 4
    with pytest.raises(ArgumentError, match="prototypes needs dense embeddings"):
        prototypes(csr_array(np.eye(3)))
    with pytest.raises(DataError, match="not 0 everywhere, got zeros in 1 of 2 rows: 1"):
        prototypes([[1.0, 0.0], [0.0, 0.0]], metric="cosine")
    with pytest.raises(ArgumentError, match="unknown backend 'x'"):
        k_means(np.ones((3, 1)), 2, seed=0, backend="x")


def test_usual_clusters_are_never_more_than_points() -> None:
    sizes = np.arange(1, 2000)
    clusters = np.array([usual_clusters(size) for size in sizes.tolist()])
    assert (clusters <= sizes).all()
    assert (np.diff(clusters) >= 0).all()


# ---- moderate


@pytest.mark.proves("moderate", kind="score", by="golden")
def test_golden_distances_to_the_class_median() -> None:
    found = moderate(MODERATE["features"], MODERATE["labels"])
    assert_allclose(found, MODERATE["distance"], atol=1e-6)
    assert found[20] != pytest.approx(MODERATE["code_distance_of_row_20"])
    shifted = [label + 7 for label in MODERATE["labels"]]
    assert_array_equal(moderate(MODERATE["features"], shifted), found)


@pytest.mark.proves("moderate", kind="score", by="planted")
def test_the_median_is_not_moved_by_outliers() -> None:
    points, _ = clustered(101)
    far = points.copy()
    far[:20] += 1e4
    assert np.abs(moderate(far)[20:] - moderate(points)[20:]).max() < 12  # the mean would be 2,000 away


# ---- neighbours


@pytest.mark.proves("neighbour_distance", by="brute")
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
@pytest.mark.parametrize("kind", ["dense", "sparse"])
def test_neighbour_distance_is_that_of_brute_force(metric: str, kind: str) -> None:
    points = clustered(70)[0].astype(np.float64)
    given = csr_array(points) if kind == "sparse" else points
    unit = points / np.linalg.norm(points, axis=1, keepdims=True)
    euclidean = np.linalg.norm(points[:, None] - points[None], axis=2)
    apart = 1 - unit @ unit.T if metric == "cosine" else euclidean
    np.fill_diagonal(apart, np.inf)
    expected = np.sort(apart, 1)[:, :7].mean(1)
    assert_allclose(neighbour_distance(given, neighbours=7, metric=metric), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.proves("neighbour_distance", by="planted")
def test_copies_are_at_distance_0_and_the_lonely_are_far() -> None:
    points, _ = clustered(60)
    points[10] = points[3]
    points[20] = -50
    values = neighbour_distance(points, neighbours=1)
    assert set(np.flatnonzero(values == 0).tolist()) == {3, 10}
    assert values.argmax() == 20


@pytest.mark.parametrize("search", ["exact", "faiss"])
@pytest.mark.parametrize("count", [1, 5, 40])
def test_nearest_in_groups_of_columns_is_brute_force(search: str, count: int) -> None:
    """9,000 rows: enough for groups of 64 columns to be looked at first, with some columns left over."""
    points = np.random.default_rng(3).normal(size=(9_001, 3))
    some = np.arange(0, 9_001, 500)
    rows, apart = nearest(points, count, search=search)
    expected = np.linalg.norm(points[some, None] - points[None], axis=2)
    expected[np.arange(some.size), some] = np.inf
    order = np.argsort(expected, 1, kind="stable")[:, :count]
    assert_array_equal(rows[some], order)
    assert_allclose(apart[some], np.take_along_axis(expected, order, 1), atol=1e-12)


@pytest.mark.parametrize("search", ["exact", "faiss"])
def test_a_row_is_never_its_own_neighbour(search: str) -> None:
    points = np.ones((40, 2))
    rows, apart = nearest(points, 12, search=search)
    assert not (rows == np.arange(40)[:, None]).any()
    assert all(np.unique(found).size == 12 for found in rows)
    assert (apart == 0).all()


def test_near_rows_far_from_0_are_told_apart() -> None:
    """In float32 their distances would be rounding error."""
    points = 1000 + np.array([[0.0], [0.01], [0.03], [0.07]])
    rows, apart = nearest(points, 1)
    assert rows.ravel().tolist() == [1, 0, 1, 2]
    assert_allclose(apart.ravel(), [0.01, 0.01, 0.02, 0.04], atol=1e-9)


def test_neighbours_that_cannot_be() -> None:
    with pytest.raises(ArgumentError, match="neighbours must be from 1 to 2, one less than the number of rows, got 3"):
        nearest(np.ones((3, 1)), 3)
    with pytest.raises(ArgumentError, match=r"unknown search 'hnsw'\. Allowed: exact, faiss"):
        nearest(np.ones((3, 1)), 1, search="hnsw")
    with pytest.raises(ArgumentError, match="faiss takes dense points only"):
        nearest(csr_array(np.eye(3)), 1, search="faiss")
    with pytest.raises(ArgumentError, match="neighbours must be a whole number, at least 1, got 0"):
        neighbour_distance([[1.0]], neighbours=0)


def test_without_faiss_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    for asked in (partial(prototypes, backend="faiss", clusters=2), partial(neighbour_distance, search="faiss")):
        with pytest.raises(MissingExtraError, match=r"pip install 'datadiet\[faiss\]'"):
            asked(clustered(30)[0])
