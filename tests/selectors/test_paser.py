"""PASER: places by the mean value of a cluster, exact and capped; clusters of both kinds; consistent concepts."""

from __future__ import annotations

import re
from itertools import combinations

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from scipy.sparse import csr_array
from sklearn.metrics import adjusted_rand_score

from datadiet.errors import ArgumentError
from datadiet.selectors import mixtures
from datadiet.selectors.mixtures import capability_places, concepts, paser


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


# ---- the number of clusters


@pytest.mark.parametrize("clustering", ["k_means", "spectral"])
@pytest.mark.parametrize("number", [3, 4, 7])
def test_the_number_of_clusters_is_found(number, clustering, monkeypatch):
    generator = np.random.default_rng(number)
    sizes = generator.integers(25, 60, number)
    points = np.repeat(np.eye(number) * 6, sizes, 0) + generator.normal(size=(sizes.sum(), number))
    codes = np.repeat(np.arange(number), sizes)
    assert adjusted_rand_score(codes, mixtures._clusters(points, "auto", clustering, seed=0)) > 0.95
    monkeypatch.setattr(mixtures, "_MOST_FOR_GAP", 30 * number // 2)  # a part of the rows says the same
    assert mixtures._by_gap(points, seed=0) == number
    gaps = np.random.default_rng(0).random(len(codes))
    options = {"seed": 0, "epoch": 0, "features": points, "clustering": clustering}
    assert_array_equal(
        paser(gaps, 20, clusters="auto", **options).rows, paser(gaps, 20, clusters=number, **options).rows
    )


def test_few_rows_are_one_cluster_and_other_words_are_refused():
    assert_array_equal(paser([0.1, 0.3, 0.2], 2, seed=0, epoch=0, features=np.eye(3), clusters="auto").rows, [1, 2])
    for wrong in ("many", 0, 2.5):
        with pytest.raises(ArgumentError, match=r"clusters must be a whole number, at least 1, or auto, got "):
            paser(np.ones(4), 2, seed=0, epoch=0, features=np.eye(4), clusters=wrong)


@pytest.mark.filterwarnings("ignore:Maximum number of iterations")
def test_the_error_of_the_factorisation_does_not_find_it():
    """The paper's rule: of the matrix that its code factors, which changes with the number, and of the kernel."""
    from scipy.linalg import eigh
    from scipy.spatial.distance import cdist
    from sklearn.decomposition import NMF

    found = []
    for seed in range(12):
        generator, number = np.random.default_rng(seed), 3 + seed % 6
        points = np.repeat(generator.normal(size=(number, 16)) * 4, 20, 0) + generator.normal(size=(20 * number, 16))
        apart = cdist(points, points)
        near = np.exp(-(apart**2) / (2 * np.median(apart) ** 2))
        roots = np.sqrt(near.sum(1))
        vectors = eigh(near / roots / roots[:, None])[1][:, ::-1]
        errors: list[dict[int, float]] = [{}, {}]
        for tried in range(2, 13):
            for of, matrix in zip(errors, (np.abs(vectors[:, :tried] @ vectors[:, :tried].T), near), strict=True):
                fitted = NMF(tried, init="nndsvda", max_iter=300, tol=1e-3).fit(matrix)
                of[tried] = fitted.reconstruction_err_ / np.linalg.norm(matrix)
        found.append([number == min(of, key=of.get) for of in errors] + [number == mixtures._by_gap(points, seed=0)])
    right = np.sum(found, axis=0)
    assert right[2] == 12
    assert right[0] <= 8
    assert right[1] <= 3


# ---- concepts that agree


def test_concepts_are_the_phrases_between_stop_words_and_signs():
    assert concepts("The moon landing of 1969, and the Moon Landing hoax!") == {
        "moon landing",
        "1969",
        "moon landing hoax",
    }
    assert concepts("It's state-of-the-art (sometimes_odd)") == {"it's state-of-the-art", "odd"}
    assert concepts("of the and ...") == frozenset()


def by_links(texts, values, codes, count):
    """The published filter by plain links, cluster by cluster; in rounds, until there are so many rows."""
    nodes, links, taken, seen = set(), set(), [], set()
    means = {code: np.mean(values[codes == code]) for code in range(codes.max() + 1)}
    phrases = [set(filter(None, map(str.strip, re.split(r"[,.]", text)))) for text in texts]
    while len(taken) < count:
        left = np.array([sum(codes[row] == code and row not in seen for row in range(len(codes))) for code in means])
        if not left.sum():
            return None
        wanted = min(count - len(taken), left.sum())
        places = capability_places(left, np.array(list(means.values())), int(wanted))
        for code in sorted(means, key=means.get, reverse=True):
            for row in np.argsort(-values).tolist():
                if codes[row] != code or row in seen or not places[code]:
                    continue
                seen.add(row)
                pairs = [frozenset(pair) for pair in combinations(sorted(phrases[row]), 2)]
                if any(pair <= nodes and pair not in links for pair in pairs):
                    continue
                links.update(pairs)
                nodes.update(*pairs)
                taken.append(row)
                places[code] -= 1
    return sorted(taken)


@pytest.mark.proves("paser", by="brute")
def test_the_concept_graph_takes_what_plain_links_take():
    generator, refused, short = np.random.default_rng(0), 0, 0
    points, codes = blobs(each=6)
    for _ in range(200):
        values, count = generator.random(len(codes), np.float32), int(generator.integers(1, 15))
        letters = [generator.choice(list("kpqrtvwxyz"), generator.integers(1, 4), replace=False) for _ in codes]
        texts = [", ".join(f"{letter}x {letter}" for letter in some) + "." for some in letters]
        expected = by_links(texts, values, codes, count)
        plain = {"seed": 0, "epoch": 0, "features": points, "clusters": 4}
        if expected is None:
            short += 1
            with pytest.raises(ArgumentError, match=rf"leaves \d+ rows that agree, fewer than the {count} to keep"):
                paser(values, count, texts=texts, consistent=True, **plain)
            continue
        rows = paser(values, count, texts=texts, consistent=True, **plain).rows
        assert rows.tolist() == expected
        refused += rows.tolist() != paser(values, count, **plain).rows.tolist()
    assert refused > 50
    assert short > 0


def test_rows_that_share_no_concept_are_chosen_as_without_the_graph():
    points, codes = blobs()
    texts = [f"word{row}, other{row}" for row in range(len(codes))]
    options = {"seed": 3, "epoch": 1, "features": points, "clusters": 4}
    values = np.random.default_rng(5).random(len(codes)).round(1)
    assert_array_equal(
        paser(values, 30, texts=texts, consistent=True, **options).rows, paser(values, 30, **options).rows
    )
    with pytest.raises(ArgumentError, match="consistent of paser needs the text of each row: give texts="):
        paser(values, 30, consistent=True, **options)
