"""Points and the distances between them: checks, exact nearest neighbours, k-means, nearest centroids.

Points are the rows of a float array `(n, d)` or of a SciPy CSR matrix. All searches are exact and go block by block, so
that no matrix of `n x n` is ever in memory. k-means and nearest centroids are those of scikit-learn, which is imported
at the first use.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from datadiet.errors import ArgumentError, DataError, Problems, quoted

Points = Any  # a float array (n, d), or a SciPy CSR matrix or array of that shape

_NAMED = 10  # rows that an error names
# The squared distance of equal rows comes out as rounding error of this share of their squared lengths.
_ROUNDING = 1e-13
_BLOCK = 1 << 24  # pairs compared at a time
_GATHERED = 1 << 18  # numbers of the candidates' points in memory at a time
_SLACK = 8  # candidates beyond those requested: float32 may swap neighbours that are almost equally far
_WIDTH = 64  # columns of which only the largest is compared first
_WHOLE = 10_000  # points up to which every step of k-means sees all of them
_MOST_CLUSTERS = 100  # unless more are requested


def is_sparse(points: Any) -> bool:
    """Whether points are a SciPy matrix or array, without importing SciPy."""
    return hasattr(points, "tocsr")


def check_points(
    points: Any,
    problems: Problems,
    *,
    name: str = "embeddings",
    size: int | None = None,
    ids: Sequence[str] | None = None,
) -> Points:
    """Points as float64: an array, or a CSR matrix for sparse input. Problems are collected, not raised.

    Args:
        points: Array-like `(n, d)` or a SciPy sparse matrix.
        problems: Collects what is wrong: the shape, or rows with NaN or infinite numbers.
        name: The name of the points in errors.
        size: The number of rows that is required; at least one by default.
        ids: The user's names of the rows, for errors.

    Examples:
        >>> check_points([[1, 2], [3, 4]], Problems())
        array([[1., 2.],
               [3., 4.]])
    """
    if is_sparse(points):
        checked = points.tocsr().astype(np.float64)
        checked.sum_duplicates()
    else:
        try:
            checked = np.asarray(points, np.float64)
        except (TypeError, ValueError) as error:  # text, or rows of different lengths
            problems.add(f"{name} need one row of numbers per example ({error}).")
            return np.empty((0, 0))
    if len(checked.shape) != 2 or 0 in checked.shape:
        problems.add(f"{name} need one row of numbers per example, got shape {checked.shape}.")
        return checked
    if size is not None and checked.shape[0] != size:
        problems.add(f"{name} need one row per value: got {checked.shape[0]} rows for {size} values.")
    if (bad := _not_finite(checked)).size:
        problems.add(f"{name} must be finite, got NaN or infinite numbers in {named_rows(bad, checked.shape[0], ids)}.")
    return checked


def _not_finite(points: Points) -> NDArray[np.int64]:
    if not is_sparse(points):
        return np.flatnonzero(~np.isfinite(points).all(1))
    bad = np.flatnonzero(~np.isfinite(points.data))
    return np.unique(np.searchsorted(points.indptr, bad, side="right") - 1)


def named_rows(rows: NDArray[np.int64], size: int, ids: Sequence[str] | None) -> str:
    """The first ten rows in words, such as `2 of 20 rows: 4 (id 'r4'), 11 (id 'r11')`.

    Examples:
        >>> named_rows(np.array([4]), 20, None)
        '1 of 20 rows: 4'
    """
    names = ids if ids is not None and len(ids) == size else None
    shown = [str(row) if names is None else f"{row} (id {quoted(names[row])})" for row in rows[:_NAMED].tolist()]
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
    """Squared Euclidean distances `(a, b)` by `||x||^2 - 2 x.y + ||y||^2`; exactly 0 between equal rows.

    Args:
        left, right: Points of the same width.
        left_norms, right_norms: Their `squared_norms`.
    """
    sums = left_norms[:, None] + right_norms[None, :]
    squared = sums - 2 * inner(left, right)
    squared[squared < _ROUNDING * sums] = 0.0
    return squared


def centred(points: Points) -> Points:
    """Points minus their mean, for more exact distances; sparse points are returned unchanged."""
    return points if is_sparse(points) else points - points.mean(0)


def unit_rows(points: Points, *, name: str = "embeddings", ids: Sequence[str] | None = None) -> Points:
    """Points of length 1.

    Raises:
        DataError: If a row is 0 everywhere, since it has no direction; rows and ids are named.

    Examples:
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


def nearest(points: Points, count: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The nearest other rows of each row and their Euclidean distances, `|| x - y ||_2`, by comparing all pairs.

    For points of length 1 the order is that of the cosine, which is `1 - d^2 / 2`. Equal rows are exactly 0 apart, and
    the result does not depend on the number of threads.

    Args:
        points: float64 `(n, d)` or CSR, finite.
        count: Neighbours of each row, in [1, n - 1].

    Returns:
        int64 `(n, count)`, nearest first, of equal distances the lower row first; float64 `(n, count)` distances.

    Raises:
        ArgumentError: If there are too few rows.

    Examples:
        >>> rows, distances = nearest(np.array([[0.0], [1.0], [3.0]]), 1)
        >>> rows.tolist(), distances.tolist()
        ([[1], [0], [1]], [[1.0], [1.0], [2.0]])
    """
    size = points.shape[0]
    if not 1 <= count < size:
        raise ArgumentError(f"neighbours must be from 1 to {size - 1}, one less than the number of rows, got {count}.")
    points = centred(points)
    norms = squared_norms(points)
    # dense points are compared in float32, twice as fast; the distances of the candidates are then exact
    compared = points if is_sparse(points) else points.astype(np.float32)
    candidates = min(size - 1, count + _SLACK)
    rows, distances = np.empty((size, count), np.int64), np.empty((size, count))
    step = max(1, _BLOCK // size)
    for start in range(0, size, step):
        block = np.arange(start, min(size, start + step))
        keys = inner(compared[block], compared)  # x.y - ||y||^2 / 2 decreases with the distance of x and y
        keys -= (norms / 2).astype(keys.dtype)
        keys[np.arange(len(block)), block] = -np.inf  # a row is not its own neighbour
        columns = np.sort(largest_columns(keys, candidates), 1)
        if is_sparse(points):
            squared = norms[block, None] - 2 * np.take_along_axis(keys, columns, 1)
            squared[squared < _ROUNDING * (norms[block, None] + norms[columns])] = 0.0
        else:
            squared = _squared_gaps(points, block, columns)
        order = np.argsort(squared, 1, kind="stable")[:, :count]
        rows[block] = np.take_along_axis(columns, order, 1)
        distances[block] = np.sqrt(np.take_along_axis(squared, order, 1))
    return rows, distances


def _squared_gaps(
    points: NDArray[np.float64], rows: NDArray[np.int64], columns: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Squared distances of each row to the rows in its line of `columns`, from differences in float64."""
    squared = np.empty(columns.shape)
    step = max(1, _GATHERED // (columns.shape[1] * points.shape[1]))
    for start in range(0, len(rows), step):
        part = slice(start, start + step)
        gaps = points[columns[part]] - points[rows[part], None]  # (part, candidates, d)
        squared[part] = np.einsum("pcd,pcd->pc", gaps, gaps)
    return squared


def largest_columns(keys: NDArray[Any], count: int) -> NDArray[np.int64]:
    """Columns of the `count` largest keys of each row, in no order.

    Of many columns, only the largest of each group of 64 is compared first: the `count` largest keys lie in the
    `count` groups with the largest ones. A partition of whole rows takes longer than computing the keys.

    Examples:
        >>> largest_columns(np.array([[1.0, 5.0, 3.0, 2.0]]), 1)
        array([[1]])
    """
    rows, columns = keys.shape
    groups = columns // _WIDTH
    if groups <= 2 * count:
        return np.argpartition(keys, columns - count, 1)[:, columns - count :]
    grouped = keys[:, : groups * _WIDTH].reshape(rows, _WIDTH, groups)  # column = place * groups + group
    best = np.argpartition(grouped.max(1), groups - count, 1)[:, groups - count :]  # (rows, count)
    members = best[:, :, None] + groups * np.arange(_WIDTH)  # (rows, count, width)
    ungrouped = np.broadcast_to(np.arange(groups * _WIDTH, columns), (rows, columns - groups * _WIDTH))
    places = np.concatenate([members.reshape(rows, -1), ungrouped], 1)  # (rows, count * width + ungrouped)
    chosen = np.argpartition(np.take_along_axis(keys, places, 1), places.shape[1] - count, 1)
    return np.take_along_axis(places, chosen[:, places.shape[1] - count :], 1)


def usual_clusters(size: int) -> int:
    """The default number of clusters of `size` points: `sqrt(n / 10)` rounded up, at most 100.

    Examples:
        >>> [usual_clusters(size) for size in (1, 100, 10_000, 10_000_000)]
        [1, 4, 32, 100]
    """
    return min(_MOST_CLUSTERS, math.ceil(math.sqrt(size / 10)))


def k_means(points: Points, clusters: int, *, seed: int) -> NDArray[np.float64]:
    """Centroids of scikit-learn's k-means, started by k-means++; above 10,000 points in small batches.

    Args:
        points: float64 `(n, d)` or CSR.
        clusters: In [1, n].
        seed: Of the start; the global generator is not used.

    Returns:
        float64 `(clusters, d)`.

    Examples:
        >>> sorted(k_means(np.array([[0.0], [1.0], [8.0], [9.0]]), 2, seed=0).ravel().tolist())
        [0.5, 8.5]
    """
    if clusters == 1:
        return np.asarray(points.mean(0), np.float64).reshape(1, -1)  # (1, d) or (d,) -> (1, d)
    from sklearn.cluster import KMeans, MiniBatchKMeans

    state = int(np.random.default_rng([seed, 0]).integers(1 << 31))
    options: dict[str, Any] = {"n_clusters": clusters, "random_state": state, "n_init": 3}
    estimator = KMeans(**options) if points.shape[0] <= _WHOLE else MiniBatchKMeans(batch_size=4096, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # fewer distinct points than clusters: some centroids are then equal
        return np.asarray(estimator.fit(points).cluster_centers_, np.float64)


def nearest_centroid(
    points: Points, centroids: NDArray[np.float64], *, metric: str = "euclidean"
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The nearest centroid of each point and the distance to it; exactly 0 for a point on its centroid.

    Args:
        points: float64 `(n, d)` or CSR.
        centroids: float64 `(clusters, d)`.
        metric: `euclidean`, or `cosine` for `1 - cos`; a point or centroid of length 0 has cosine 0 with everything.

    Returns:
        int64 `(n,)` numbers of centroids, float64 `(n,)` distances.

    Examples:
        >>> nearest_centroid(np.array([[0.0, 2.0]]), np.array([[0.0, 0.0], [0.0, 3.0]]))
        (array([1]), array([1.]))
    """
    from sklearn.metrics import pairwise_distances_argmin_min

    numbers, distances = pairwise_distances_argmin_min(points, centroids, metric=metric)
    if metric == "euclidean":
        sums = squared_norms(points) + squared_norms(centroids)[numbers]
        distances[distances**2 < _ROUNDING * sums] = 0.0
    return numbers, distances


def class_codes(labels: ArrayLike | None, size: int) -> tuple[NDArray[np.int64], list[Any]]:
    """Class numbers of the rows, and the names of the classes; without labels one class holds all rows.

    Raises:
        ArgumentError: If there is not one label per row.

    Examples:
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
