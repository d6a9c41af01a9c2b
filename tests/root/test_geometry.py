"""Neighbours against brute force, nearest centroids against golden values, and ties."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.sparse import csr_array

from datadiet.errors import ArgumentError
from datadiet.geometry import nearest, nearest_centroid, usual_clusters

PROTOTYPES = json.loads((Path(__file__).parents[1] / "golden" / "prototypes.json").read_text())
kinds = pytest.mark.parametrize("kind", [np.asarray, csr_array], ids=["dense", "sparse"])


@kinds
@pytest.mark.parametrize("count", [1, 5, 40])
def test_nearest_in_groups_of_columns_is_brute_force(kind: type, count: int) -> None:
    """9,001 rows: enough for groups of 64 columns to be looked at first, with some columns left over."""
    points = np.random.default_rng(3).normal(size=(9_001, 3))
    some = np.arange(0, 9_001, 500)
    rows, apart = nearest(kind(points), count)
    expected = np.linalg.norm(points[some, None] - points[None], axis=2)
    expected[np.arange(some.size), some] = np.inf
    order = np.argsort(expected, 1, kind="stable")[:, :count]
    assert_array_equal(rows[some], order)
    assert_allclose(apart[some], np.take_along_axis(expected, order, 1), atol=1e-12 if kind is np.asarray else 1e-6)


@kinds
def test_a_row_is_never_its_own_neighbour(kind: type) -> None:
    rows, apart = nearest(kind(np.ones((40, 2))), 12)
    assert not (rows == np.arange(40)[:, None]).any()
    assert all(np.unique(line).size == 12 for line in rows)
    assert (apart == 0).all()


@kinds
def test_of_equal_distances_the_lower_row_comes_first(kind: type) -> None:
    rows, _ = nearest(kind(np.repeat([[0.0, 1.0], [3.0, 3.0]], 4, axis=0)), 5)
    assert_array_equal(rows[[0, 3, 5]], [[1, 2, 3, 4, 5], [0, 1, 2, 4, 5], [4, 6, 7, 0, 1]])


def test_near_rows_far_from_0_are_told_apart() -> None:
    """In float32 their distances would be rounding error."""
    rows, apart = nearest(1000 + np.array([[0.0], [0.01], [0.03], [0.07]]), 1)
    assert rows.ravel().tolist() == [1, 0, 1, 2]
    assert_allclose(apart.ravel(), [0.01, 0.01, 0.02, 0.04], atol=1e-9)


def test_more_neighbours_than_there_are() -> None:
    with pytest.raises(ArgumentError, match="neighbours must be from 1 to 2, one less than the number of rows, got 3"):
        nearest(np.ones((3, 1)), 3)


@pytest.mark.parametrize(("metric", "name"), [("euclidean", "euclid"), ("cosine", "cosine")])
def test_golden_distances_to_fixed_centroids(metric: str, name: str) -> None:
    points, centroids = (np.array(PROTOTYPES[part]) for part in ("points", "centroids"))
    near, apart = nearest_centroid(points, centroids, metric=metric)
    assert_allclose(apart, PROTOTYPES[f"{name}_nearest_distance"], atol=1e-8)
    decided = np.arange(len(points)) != PROTOTYPES["equidistant_row"]
    assert_array_equal(near[decided], np.array(PROTOTYPES[f"{name}_assignment"])[decided])


def test_usual_clusters_are_never_more_than_points() -> None:
    sizes = np.arange(1, 2000)
    clusters = np.array([usual_clusters(size) for size in sizes.tolist()])
    assert (clusters <= sizes).all()
    assert (np.diff(clusters) >= 0).all()
