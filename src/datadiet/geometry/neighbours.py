"""Exact nearest neighbours, in blocks: no matrix of n x n is ever held."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from datadiet.checks import ArgumentError, MissingExtraError
from datadiet.geometry.points import Points, centred, is_sparse, squared_norms

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
