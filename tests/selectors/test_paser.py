"""PASER: places by the mean value of a cluster, exact and capped; clusters of both kinds."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from scipy.sparse import csr_array
from sklearn.metrics import adjusted_rand_score

from datadiet.errors import ArgumentError
from datadiet.selectors import mixtures
from datadiet.selectors.mixtures import capability_places, paser


@pytest.mark.proves("paser", by="golden")
@pytest.mark.parametrize(
    ("means", "sizes", "count", "expected"),
    [
        ([0.5, 0.25, 0.125], [99, 99, 99], 20, [11, 6, 3]),  # rounding down, as in the published code, loses two
        ([0.1, 0.1, 0.1], [99, 99, 99], 10, [4, 3, 3]),
        ([1e-6, 0.9], [99, 99], 7, [0, 7]),
        ([0.3, 0.0], [99, 99], 9, [9, 0]),
        ([0.5, 0.3, 0.2], [4, 10, 10], 16, [4, 7, 5]),  # what the full one cannot use goes to the others
        ([0.0, 0.0], [30, 10], 4, [3, 1]),  # where the published code divides by zero
    ],
)
def test_golden_places(means, sizes, count, expected):
    assert capability_places(np.array(sizes), np.array(means), count).tolist() == expected


@pytest.mark.proves("paser", by="brute")
def test_places_are_exact_within_sizes_and_floors():
    generator = np.random.default_rng(0)
    for _ in range(300):
        sizes, means = generator.integers(0, 12, 5), generator.random(5) * (generator.random(5) < 0.8)
        sizes[0] += 1
        floor = int(generator.integers(0, 4))
        least = np.minimum(sizes, floor)
        count = int(generator.integers(max(1, least.sum()), sizes.sum() + 1))
        places = capability_places(sizes, means, count, floor=floor, temperature=float(generator.uniform(0.2, 5)))
        assert places.sum() == count
        assert (places <= sizes).all()
        assert (places >= least).all()


def test_temperature_brings_the_shares_together():
    sizes, means = np.array([1000, 1000]), np.array([0.9, 0.1])
    hot, usual, cold = (capability_places(sizes, means, 100, temperature=one)[0] for one in (100.0, 1.0, 0.5))
    assert (hot, usual, cold) == (51, 90, 99)
    with pytest.raises(ArgumentError, match="a floor of 60 rows in each of 2 classes needs 120 rows"):
        capability_places(sizes, means, 100, floor=60)


def blobs(each: int = 40) -> tuple[np.ndarray, np.ndarray]:
    """Points of four clusters, and the cluster of each."""
    codes = np.random.default_rng(0).permutation(np.repeat(np.arange(4), each))
    points = np.eye(4)[codes] * 10 + np.random.default_rng(1).normal(size=(len(codes), 4)) * 0.5
    return points, codes


@pytest.mark.proves("paser", by="planted")
@pytest.mark.parametrize("clustering", ["k_means", "spectral"])
@pytest.mark.parametrize("form", [np.asarray, csr_array])
def test_a_damaged_skill_gets_the_places_and_its_worst_rows_are_taken(clustering, form):
    points, codes = blobs()
    gaps = np.array([0.01, 0.01, 0.07, 0.01])[codes] * np.random.default_rng(2).uniform(0.5, 1.5, len(codes))
    options = {"features": form(points), "clusters": 4, "clustering": clustering}
    rows = paser(gaps, 40, seed=0, epoch=0, **options).rows
    taken = np.bincount(codes[rows], minlength=4)
    means = np.array([gaps[codes == code].mean() for code in range(4)])
    assert_array_equal(taken, capability_places(np.bincount(codes), means, 40))
    for code in range(4):
        own = np.flatnonzero(codes == code)
        assert set(rows[codes[rows] == code]) == set(own[np.argsort(-gaps[own])[: taken[code]]])


def test_spectral_clusters_are_those_of_the_graph():
    """Two rings, one inside the other, which no centroid can tell apart."""
    generator = np.random.default_rng(0)
    angles, codes = generator.uniform(0, 2 * np.pi, 400), np.arange(400) % 2
    points = np.c_[np.cos(angles), np.sin(angles)] * np.where(codes, 1.0, 3.0)[:, None]
    assert adjusted_rand_score(codes, mixtures._clusters(points, 2, "spectral", seed=0)) == 1.0
    assert adjusted_rand_score(codes, mixtures._clusters(points, 2, "k_means", seed=0)) < 0.5


def test_spectral_clusters_of_many_rows_are_refused(monkeypatch):
    monkeypatch.setattr(mixtures, "MOST_SPECTRAL", 10)
    with pytest.raises(ArgumentError, match="clustering of paser must be k_means for 10 rows: spectral is for less"):
        paser(np.ones(10), 2, seed=0, epoch=0, features=np.ones((10, 2)), clustering="spectral")
