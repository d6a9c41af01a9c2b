"""k-means, and the distance of each point to the nearest centroid."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from datadiet.checks import ArgumentError
from datadiet.geometry.neighbours import load_faiss
from datadiet.geometry.points import squared_norms

BACKENDS = ("sklearn", "faiss")

_WHOLE = 10_000  # points up to which every step of k-means sees all of them
_MOST = 100  # clusters, unless more are asked for
_BLOCK = 1 << 14


def usual_clusters(size: int) -> int:
    """How many clusters so many points get where nobody says: `sqrt(n / 10)` rounded up, at most 100.

    Example:
        >>> [usual_clusters(size) for size in (1, 100, 10_000, 10_000_000)]
        [1, 4, 32, 100]
    """
    return min(_MOST, math.ceil(math.sqrt(size / 10)))


def k_means(points: NDArray[np.float64], clusters: int, *, seed: int, backend: str = "sklearn") -> NDArray[np.float64]:
    """Centroids of k-means, started by k-means++.

    Over 10,000 points scikit-learn takes them in small batches; faiss takes all of them, 20 times.

    Args:
        points: float64 `(n, d)`.
        clusters: In [1, n].
        seed: Of the start; the global generator is not used.
        backend: `sklearn` or `faiss`.

    Returns:
        float64 `(clusters, d)`.

    Raises:
        ArgumentError: If the backend is unknown.
        MissingExtraError: If faiss is asked for and not installed.

    Example:
        >>> sorted(k_means(np.array([[0.0], [1.0], [8.0], [9.0]]), 2, seed=0).ravel().tolist())
        [0.5, 8.5]
    """
    if backend not in BACKENDS:
        raise ArgumentError(f"unknown backend {backend!r}. Allowed: {', '.join(BACKENDS)}.")
    if clusters == 1:
        return points.mean(0, keepdims=True)  # type: ignore[no-any-return]
    return _by_faiss(points, clusters, seed) if backend == "faiss" else _by_sklearn(points, clusters, seed)


def _by_sklearn(points: NDArray[np.float64], clusters: int, seed: int) -> NDArray[np.float64]:
    from sklearn.cluster import KMeans, MiniBatchKMeans

    state = int(np.random.default_rng([seed, 0]).integers(1 << 31))
    options: dict[str, Any] = {"n_clusters": clusters, "random_state": state}
    if len(points) <= _WHOLE:
        method = KMeans(n_init=3, **options)
    else:
        method = MiniBatchKMeans(n_init=3, batch_size=4096, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of fewer distinct points than clusters: some centroids are then equal
        found = method.fit(points).cluster_centers_
    return np.asarray(found, np.float64)


def _by_faiss(points: NDArray[np.float64], clusters: int, seed: int) -> NDArray[np.float64]:
    library = load_faiss()
    state = int(np.random.default_rng([seed, 0]).integers(1 << 30))
    options = {"niter": 20, "seed": state, "min_points_per_centroid": 1, "max_points_per_centroid": 1 << 30}
    method = library.Kmeans(points.shape[1], clusters, **options)
    method.train(np.ascontiguousarray(points, np.float32))
    return np.asarray(method.centroids, np.float64)


def nearest_centroid(
    points: NDArray[np.float64], centroids: NDArray[np.float64], *, metric: str = "euclidean"
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The nearest centroid of each point and the distance to it.

    Args:
        points: float64 `(n, d)`.
        centroids: float64 `(clusters, d)`.
        metric: `euclidean`, or `cosine` for `1 - cos`; a point or centroid of length 0 has cosine 0 with everything.

    Returns:
        int64 `(n,)` numbers of centroids, float64 `(n,)` distances.

    Example:
        >>> nearest_centroid(np.array([[0.0, 2.0]]), np.array([[0.0, 0.0], [0.0, 3.0]]))
        (array([1]), array([1.]))
    """
    if metric == "cosine":
        points, centroids = _directions(points), _directions(centroids)
    norms, found = squared_norms(centroids), np.empty(len(points), np.int64)
    apart = np.empty(len(points))
    for start in range(0, len(points), _BLOCK):
        part = points[start : start + _BLOCK]
        near = np.argmin(norms - 2 * (part @ centroids.T), 1)
        gaps = part - centroids[near]
        found[start : start + _BLOCK] = near
        apart[start : start + _BLOCK] = _apart(part, centroids[near], gaps, metric)
    return found, apart


def _apart(
    points: NDArray[np.float64], near: NDArray[np.float64], gaps: NDArray[np.float64], metric: str
) -> NDArray[np.float64]:
    if metric == "cosine":
        return np.maximum(1 - np.einsum("nd,nd->n", points, near), 0.0)  # type: ignore[no-any-return]
    return np.sqrt(squared_norms(gaps))


def _directions(points: NDArray[np.float64]) -> NDArray[np.float64]:
    lengths = np.sqrt(squared_norms(points))[:, None]
    return np.divide(points, lengths, out=np.zeros_like(points), where=lengths > 0)


def class_codes(labels: ArrayLike | None, size: int) -> tuple[NDArray[np.int64], list[Any]]:
    """Class numbers of the rows and the classes' own names; one class of all without labels.

    Raises:
        ArgumentError: If there is not one label per row.

    Example:
        >>> class_codes(["b", "a", "b"], 3)
        (array([1, 0, 1]), ['a', 'b'])
    """
    if labels is None:
        return np.zeros(size, np.int64), [None]
    array = np.asarray(labels)
    if array.shape != (size,):
        raise ArgumentError(f"labels need one entry per row: got {array.shape} for {size} rows.")
    names, codes = np.unique(array, return_inverse=True)
    return codes.astype(np.int64), names.tolist()
