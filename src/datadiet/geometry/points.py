"""Points as they are given, checked; inner products and distances that dense and sparse ones share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datadiet.checks import DataError, Problems

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
