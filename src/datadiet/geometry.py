"""Points as they are given, checked; inner products and distances that dense and sparse ones share.

Exact nearest neighbours, in blocks: no matrix of n x n is ever held.

k-means, and the distance of each point to the nearest centroid.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from datadiet.errors import ArgumentError, DataError, MissingExtraError, Problems

Points = Any  # a float array (n, d), or a SciPy CSR matrix or array of that shape
METRICS = ("euclidean", "cosine")

_NAMED = 10  # rows that an error names
# The squared distance of equal rows comes out as rounding error of this share of their squared lengths.
_ROUNDING = 1e-13


def is_sparse(points: Any) -> bool:
    """Whether points are a SciPy matrix; SciPy need not be imported to tell."""
    return hasattr(points, "tocsr")


def check_points(
    points: Any,
    problems: Problems,
    *,
    name: str = "embeddings",
    size: int | None = None,
    ids: Sequence[str] | None = None,
) -> Points:
    """Points as float64: an array, or a CSR matrix where they are sparse. What does not fit is noted.

    Args:
        points: Array-like `(n, d)` or a SciPy sparse matrix.
        problems: Takes what is wrong: the shape, or rows with NaN or infinite numbers.
        name: What errors call them.
        size: How many rows there must be; any number of at least one by default.
        ids: The user's names of the rows, for errors.

    Example:
        >>> check_points([[1, 2], [3, 4]], Problems())
        array([[1., 2.],
               [3., 4.]])
    """
    if is_sparse(points):
        found = points.tocsr().astype(np.float64)
        found.sum_duplicates()
    else:
        found = np.asarray(points, np.float64)
    if len(found.shape) != 2 or 0 in found.shape:
        problems.add(f"{name} need one row of numbers per example, got shape {found.shape}.")
        return found
    if size is not None and found.shape[0] != size:
        problems.add(f"{name} need one row per value: got {found.shape[0]} rows for {size} values.")
    if (bad := _not_finite(found)).size:
        problems.add(f"{name} must be finite, got NaN or infinite numbers in {named_rows(bad, found.shape[0], ids)}.")
    return found


def _not_finite(points: Points) -> NDArray[np.int64]:
    if not is_sparse(points):
        return np.flatnonzero(~np.isfinite(points).all(1))
    bad = np.flatnonzero(~np.isfinite(points.data))
    return np.unique(np.searchsorted(points.indptr, bad, side="right") - 1)


def named_rows(rows: NDArray[np.int64], size: int, ids: Sequence[str] | None) -> str:
    """`2 of 20 rows: 4 (id 'r4'), 11 (id 'r11')`, the first ten of them.

    Example:
        >>> named_rows(np.array([4]), 20, None)
        '1 of 20 rows: 4'
    """
    known = ids is not None and len(ids) == size
    shown = [f"{row} (id {ids[row]!r})" if ids is not None and known else str(row) for row in rows[:_NAMED].tolist()]
    more = f" and {rows.size - _NAMED} more" if rows.size > _NAMED else ""
    return f"{rows.size} of {size} rows: {', '.join(shown)}{more}"


def inner(left: Points, right: Points) -> NDArray[np.float64]:
    """Inner products `(a, b)` of the rows of two sets of points."""
    product = left @ right.T
    return product.toarray() if is_sparse(product) else product  # type: ignore[no-any-return]


def squared_norms(points: Points) -> NDArray[np.float64]:
    """Squared length of each row: `(n,)`."""
    if is_sparse(points):
        return np.asarray(points.multiply(points).sum(1), np.float64).reshape(-1)  # (n, 1) or (n,) -> (n,)
    return np.einsum("nd,nd->n", points, points)  # type: ignore[no-any-return]


def squared_distances(
    left: Points, right: Points, left_norms: NDArray[np.float64], right_norms: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Squared Euclidean distances `(a, b)` by `||x||^2 - 2 x.y + ||y||^2`; exactly 0 where that is rounding error.

    Args:
        left, right: Points of the same width.
        left_norms, right_norms: Their `squared_norms`.
    """
    sums = left_norms[:, None] + right_norms[None, :]
    found = sums - 2 * inner(left, right)
    found[found < _ROUNDING * sums] = 0.0
    return found


def centred(points: Points) -> Points:
    """Points with their mean taken off, for closer differences; sparse ones stay as they are."""
    return points if is_sparse(points) else points - points.mean(0)


def unit_rows(points: Points, *, name: str = "embeddings", ids: Sequence[str] | None = None) -> Points:
    """Points of length 1.

    Raises:
        DataError: If a row is 0 everywhere, which has no direction; rows and ids are named.

    Example:
        >>> unit_rows(np.array([[3.0, 4.0]]))
        array([[0.6, 0.8]])
    """
    lengths = np.sqrt(squared_norms(points))
    if (empty := np.flatnonzero(lengths == 0)).size:
        raise DataError(
            f"cosines need {name} that are not 0 everywhere, got zeros in {named_rows(empty, len(lengths), ids)}. "
            "Leave these examples out or use Euclidean distances."
        )
    if not is_sparse(points):
        return points / lengths[:, None]
    scaled = points.copy()
    scaled.data = scaled.data / np.repeat(lengths, np.diff(points.indptr))
    return scaled


SEARCHES = ("exact", "faiss")

_BLOCK = 1 << 25  # similarities held at a time
_GATHERED = 1 << 23  # numbers of candidates' points held at a time
_SLACK = 8  # candidates beyond those asked for: float32 may swap neighbours that are almost equally far
_WIDTH = 64  # columns of which only the largest is looked at first


def nearest(points: Points, count: int, *, search: str = "exact") -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The nearest other rows of each row, and how far they are.

    `d(x, y) = || x - y ||_2`. For points of length 1 the order is that of the cosine, which is `1 - d^2 / 2`.
    Candidates are found in float32 and measured in float64: equal rows are exactly 0 apart.

    Args:
        points: float64 `(n, d)` or CSR, finite.
        count: Neighbours of each, in [1, n - 1].
        search: `exact` compares all pairs in blocks; `faiss` lets that library do so (dense points only).

    Returns:
        int64 `(n, count)`, nearest first, the lower row first among equals; float64 `(n, count)` distances.

    Raises:
        ArgumentError: If there are too few rows, the search is unknown, or sparse points are given to faiss.
        MissingExtraError: If faiss is asked for and not installed.

    Example:
        >>> rows, distances = nearest(np.array([[0.0], [1.0], [3.0]]), 1)
        >>> rows.tolist(), distances.tolist()
        ([[1], [0], [1]], [[1.0], [1.0], [2.0]])
    """
    size = points.shape[0]
    if not 1 <= count < size:
        raise ArgumentError(f"neighbours must be from 1 to {size - 1}, one less than the number of rows, got {count}.")
    if search not in SEARCHES:
        raise ArgumentError(f"unknown search {search!r}. Allowed: {', '.join(SEARCHES)}.")
    if is_sparse(points):
        if search == "faiss":
            raise ArgumentError("faiss takes dense points only; use search='exact' for sparse ones.")
        return _sparse(points, count)
    near = centred(points)
    return _faiss(near, count) if search == "faiss" else _dense(near, count)


def _dense(points: NDArray[np.float64], count: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    size = len(points)
    single = points.astype(np.float32)
    half_norms = (squared_norms(points) / 2).astype(np.float32)
    found, apart = np.empty((size, count), np.int64), np.empty((size, count))
    step = max(1, _BLOCK // size)
    for start in range(0, size, step):
        rows = np.arange(start, min(size, start + step))
        keys = single[rows] @ single.T
        keys -= half_norms
        keys[np.arange(len(rows)), rows] = -np.inf
        candidates = top_columns(keys, min(size - 1, count + _SLACK))
        found[rows], apart[rows] = _measured(points, rows, candidates, count)
    return found, apart


def _faiss(points: NDArray[np.float64], count: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    size = len(points)
    index = load_faiss().IndexFlatL2(points.shape[1])
    single = np.ascontiguousarray(points, np.float32)
    index.add(single)
    wanted = min(size - 1, count + _SLACK)
    _, found = index.search(single, wanted + 1)
    own = found == np.arange(size)[:, None]
    own[~own.any(1), -1] = True  # among many equal rows a row may not find itself: the last is left out for it
    candidates = found[~own].reshape(size, wanted)  # (n * wanted,) -> (n, wanted)
    return _measured(points, np.arange(size), candidates, count)


def load_faiss() -> Any:
    """The library.

    Raises:
        MissingExtraError: If it is not installed.
    """
    try:
        import faiss
    except ImportError as error:
        raise MissingExtraError("faiss is not installed: pip install 'datadiet[faiss]'.") from error
    return faiss


def _measured(
    points: NDArray[np.float64], rows: NDArray[np.int64], candidates: NDArray[np.int64], count: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The nearest `count` of each row's candidates, by differences in float64."""
    candidates = np.sort(candidates, 1)  # so that the lower row comes first among equals
    squared = np.empty(candidates.shape)
    step = max(1, _GATHERED // (candidates.shape[1] * points.shape[1]))
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        gaps = points[candidates[part]] - points[rows[part], None]  # (part, candidates, d)
        squared[part] = np.einsum("pcd,pcd->pc", gaps, gaps)
    order = np.argsort(squared, 1, kind="stable")[:, :count]
    return np.take_along_axis(candidates, order, 1), np.sqrt(np.take_along_axis(squared, order, 1))


def _sparse(points: Points, count: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    size, norms, others = points.shape[0], squared_norms(points), points.T.tocsr()
    found, apart = np.empty((size, count), np.int64), np.empty((size, count))
    step = max(1, _BLOCK // (2 * size))
    for start in range(0, size, step):
        rows = np.arange(start, min(size, start + step))
        squared = norms - 2 * (points[rows] @ others).toarray()
        squared += norms[rows, None]
        squared[squared < 1e-13 * (norms[rows, None] + norms)] = 0.0
        squared[np.arange(len(rows)), rows] = np.inf
        near = np.sort(top_columns(-squared, count), 1)
        held = np.take_along_axis(squared, near, 1)
        order = np.argsort(held, 1, kind="stable")
        found[rows] = np.take_along_axis(near, order, 1)
        apart[rows] = np.sqrt(np.take_along_axis(held, order, 1))
    return found, apart


def top_columns(keys: NDArray[Any], count: int) -> NDArray[np.int64]:
    """Columns of the `count` largest keys of each row, in no order.

    Where there are many columns, only the largest of each group of 64 is looked at first: the `count` largest keys
    lie in the `count` groups with the largest ones. A partition of whole rows would take longer than the products
    did.

    Example:
        >>> top_columns(np.array([[1.0, 5.0, 3.0, 2.0]]), 1)
        array([[1]])
    """
    rows, columns = keys.shape
    groups = columns // _WIDTH
    if groups <= 2 * count:
        return np.argpartition(keys, columns - count, 1)[:, columns - count :]
    whole = keys[:, : groups * _WIDTH].reshape(rows, _WIDTH, groups)  # column = place * groups + group
    best = np.argpartition(whole.max(1), groups - count, 1)[:, groups - count :]  # (rows, count)
    places = best[:, :, None] + groups * np.arange(_WIDTH)  # (rows, count, width)
    rest = np.arange(groups * _WIDTH, columns)
    held = np.concatenate([places.reshape(rows, -1), np.broadcast_to(rest, (rows, rest.size))], 1)
    chosen = np.argpartition(np.take_along_axis(keys, held, 1), held.shape[1] - count, 1)[:, held.shape[1] - count :]
    return np.take_along_axis(held, chosen, 1)


BACKENDS = ("sklearn", "faiss")

_WHOLE = 10_000  # points up to which every step of k-means sees all of them
_MOST = 100  # clusters, unless more are asked for
_CENTROID_BLOCK = 1 << 14


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
    for start in range(0, len(points), _CENTROID_BLOCK):
        part = points[start : start + _CENTROID_BLOCK]
        near = np.argmin(norms - 2 * (part @ centroids.T), 1)
        gaps = part - centroids[near]
        found[start : start + _CENTROID_BLOCK] = near
        apart[start : start + _CENTROID_BLOCK] = _apart(part, centroids[near], gaps, metric)
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
