"""Selectors by distances between features: the kept rows cover all of them.

    select(values, count, *, seed, epoch, groups=None, ids=None, features, ...) -> Selection

`features` is a float array `(n, d)` or a SciPy CSR matrix, one row per value. `k_center` and `herding` do not read the
values, so they treat rows never scored (+inf) like any other; `d2_pruning` takes those first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from datadiet.errors import Problems, quoted
from datadiet.geometry import (
    Points,
    centred,
    check_points,
    is_sparse,
    nearest,
    squared_distances,
    squared_norms,
)
from datadiet.registry import AtLeast, NotNegative, selector
from datadiet.selectors.base import Floats, Rows, checked, row_hash, unseen
from datadiet.selectors.submodular import lazy_greedy
from datadiet.types import Selection

_CENTRE_STREAM = 4  # of the generator
_ACTIVE = 1024  # rows whose distances follow every new centre
_PART = 1 << 21  # distances computed at a time


class Coverage:
    """The distance of every row to its nearest centre, as an upper bound that is exact where it matters.

    A new centre can only bring a row nearer, so an old distance is an upper bound. The rows with the largest bounds
    are kept exact; the others catch up with all centres that they have missed in one matrix product, when their turn
    comes. No pair is computed twice, and most of them in large products.

    Args:
        points: float64 `(n, d)` or CSR.
        count: Centres at most.
        hashes: uint64 `(n,)`; of rows equally far the one with the smallest comes first.
    """

    def __init__(self, points: Points, count: int, hashes: NDArray[np.uint64]) -> None:
        self._points, self._norms, self._hashes = points, squared_norms(points), hashes
        self.bounds = np.full(points.shape[0], np.inf)  # squared; -1 for a centre
        self._seen = np.zeros(points.shape[0], np.int64)  # centres that a bound accounts for
        self.centres = np.empty(count, np.int64)  # in the order in which they were taken
        self.taken = 0

    def add(self, rows: Rows) -> None:
        """Take rows in the given order."""
        self.centres[self.taken : self.taken + rows.size] = rows
        self.taken += rows.size
        self.bounds[rows] = -1.0

    def fill(self, count: int) -> None:
        """Take the farthest row, again and again, until there are so many."""
        self._catch_up(np.flatnonzero(self.bounds >= 0))
        while self.taken < count:
            if self.bounds.max() <= 0:  # only copies of centres are left
                left = np.flatnonzero(self.bounds >= 0)
                self.add(left[np.argsort(self._hashes[left])[: count - self.taken]])
                return
            self._fill_some(count)

    def _fill_some(self, count: int) -> None:
        """Take farthest rows as long as one of those with the largest bounds is certainly the farthest of all."""
        size = len(self.bounds)
        cut = max(0.0, float(np.partition(self.bounds, max(0, size - _ACTIVE))[max(0, size - _ACTIVE)]))
        active = np.flatnonzero(self.bounds >= cut)
        others = self.bounds[self.bounds < cut]
        least = max(0.0, float(others.max())) if others.size else 0.0
        self._catch_up(active)
        points, norms, hashes = self._points[active], self._norms[active], self._hashes[active]
        apart = self.bounds[active]
        while self.taken < count and (farthest := apart.max()) > least:
            ties = np.flatnonzero(apart == farthest)
            place = ties[np.argmin(hashes[ties])]
            self.add(active[place : place + 1])
            to_new = squared_distances(points, points[place : place + 1], norms, norms[place : place + 1])
            apart[place] = -1.0
            np.minimum(apart, to_new[:, 0], out=apart)
        self.bounds[active], self._seen[active] = apart, self.taken

    def _catch_up(self, rows: Rows) -> None:
        """Bring rows up to date with the centres that they have missed."""
        order = np.argsort(self._seen[rows], kind="stable")
        seen, starts = np.unique(self._seen[rows[order]], return_index=True)
        for begin, group in zip(seen.tolist(), np.split(rows[order], starts[1:]), strict=True):
            missed = self.centres[begin : self.taken]
            step = max(1, _PART // group.size)
            for start in range(0, missed.size, step):
                part = missed[start : start + step]
                apart = squared_distances(
                    self._points[group], self._points[part], self._norms[group], self._norms[part]
                )
                self.bounds[group] = np.minimum(self.bounds[group], apart.min(1))
        self._seen[rows] = self.taken


@selector(
    formula="the row farthest from all kept so far, again and again",
    paper="Sener and Savarese 2018, arXiv 1708.00489; Gonzalez 1985",
    inputs="embeddings; no values",
    cost="O(n count d), in blocks",
    loses="outliers and noise, which are far from everything and come first",
    needs=("features",),
)
def k_center(
    values: ArrayLike,
    count: int,
    *,
    seed: int,
    epoch: int,
    groups: ArrayLike | None = None,
    ids: Sequence[str] | None = None,
    features: Any,
    start: Sequence[int] | None = None,
) -> Selection:
    """Rows that leave no example far from a kept one: the farthest from all kept so far, again and again.

    `argmax_i min_{j kept} || x_i - x_j ||_2`; the largest distance left is at most twice the smallest possible.

    Args:
        values: float `(n,)`; only their number counts.
        count: How many, in [1, n], those of `start` included.
        seed, epoch: Of the first row and of ties.
        groups: Not used; see `with_floor`.
        ids: The user's names of the rows, for errors.
        features: float `(n, d)` or CSR.
        start: Rows that are kept already; by default one row at random.

    Returns:
        Exactly `count` rows, ascending.

    Raises:
        ArgumentError: If values, features or options do not fit.

    Examples:
        >>> k_center([0.0] * 4, 2, seed=0, epoch=0, features=[[0.0], [1.0], [5.0], [9.0]], start=[1]).rows
        array([1, 3])

    Source: Sener and Savarese 2018 (arXiv 1708.00489), algorithm 1 (Gonzalez 1985), in float64: in the float32 of the
    usual code the distances of near rows are rounding error. The same rows as by plain greedy, with old distances as
    upper bounds.
    """
    problems = Problems()
    points = check_points(features, problems, name="features", size=np.size(values), ids=ids)
    first = _start(start, np.size(values), count, problems)
    _, count = checked(values, count, seed=seed, epoch=epoch, groups=groups, ids=ids, problems=problems)
    size = points.shape[0]
    if first is None:
        first = np.random.default_rng([seed, epoch, _CENTRE_STREAM]).integers(size, size=1)
    coverage = Coverage(centred(points), count, row_hash(np.arange(size), seed=seed, epoch=epoch))
    coverage.add(first)
    coverage.fill(count)
    return _sorted(coverage.centres)


def _start(start: Sequence[int] | None, size: int, count: Any, problems: Problems) -> Rows | None:
    if start is None:
        return None
    rows = np.asarray(start)
    fits = rows.ndim == 1 and rows.size and rows.dtype.kind in "iu" and rows.min() >= 0 and rows.max() < size
    if not fits or np.unique(rows).size != rows.size:
        problems.add(f"start must be a list of different rows from 0 to {size - 1}, got {quoted(start)}.")
        return None
    if isinstance(count, int) and rows.size > count:
        problems.add(f"start has {rows.size} rows, more than the count of {count}.")
    return rows.astype(np.int64)


@selector(
    formula="the row that brings the mean of the kept ones nearest to the mean of all, again and again",
    paper="Welling 2009; Chen, Welling and Smola 2010, arXiv 1203.3472",
    inputs="embeddings; no values",
    cost="O(n count d)",
    loses="rare kinds of examples, which hardly move a mean",
    needs=("features",),
)
def herding(
    values: ArrayLike,
    count: int,
    *,
    seed: int,
    epoch: int,
    groups: ArrayLike | None = None,
    ids: Sequence[str] | None = None,
    features: Any,
) -> Selection:
    """Rows whose mean is that of all: each row taken is the one that brings the mean of the kept ones nearest to it.

    `argmin_i || mean - (sum_{j kept} x_j + x_i) / (kept + 1) ||_2`

    Args:
        values: float `(n,)`; only their number counts.
        count: How many, in [1, n].
        seed, epoch: Of ties.
        groups: Not used; see `with_floor`.
        ids: The user's names of the rows, for errors.
        features: float `(n, d)` or CSR.

    Returns:
        Exactly `count` rows, ascending.

    Raises:
        ArgumentError: If values or features do not fit.

    Examples:
        >>> herding([0.0] * 4, 2, seed=0, epoch=0, features=[[0.0], [1.0], [4.0], [7.0]]).rows
        array([1, 2])

    Source: Welling 2009; Chen, Welling and Smola 2010 (arXiv 1203.3472). A widely used implementation takes
    the largest gap instead of the smallest, which keeps the outliers; this one takes the smallest.
    """
    problems = Problems()
    points = check_points(features, problems, name="features", size=np.size(values), ids=ids)
    _, count = checked(values, count, seed=seed, epoch=epoch, groups=groups, ids=ids, problems=problems)
    if count == points.shape[0]:
        return Selection(np.arange(count))
    return _sorted(_herd(centred(points), count, row_hash(np.arange(points.shape[0]), seed=seed, epoch=epoch)))


def _herd(points: Points, count: int, hashes: NDArray[np.uint64]) -> Rows:
    """`|| t mean - sum - x ||^2` is least where `||x||^2 - 2 x.(t mean - sum)` is: one product per row taken.

    The product reads all points from memory, in float32 for half of the time; rows whose key could be the least, given
    the largest error that float32 can make, are compared in float64.
    """
    sparse, size = is_sparse(points), points.shape[0]
    mean = np.asarray(points.mean(0), np.float64).reshape(-1)  # (1, d) or (d,) -> (d,)
    norms, target = squared_norms(points), np.zeros(points.shape[1])
    screen = points if sparse else points.astype(np.float32)
    screen_norms = norms.astype(screen.dtype)
    error = np.finfo(screen.dtype).eps * (points.shape[1] + 4)
    longest, chosen = float(np.sqrt(norms.max())), np.empty(count, np.int64)
    left = np.ones(size, np.bool_)
    for place in range(count):
        target += mean
        keys = np.where(left, screen_norms - 2 * (screen @ target.astype(screen.dtype)), np.inf)
        margin = 2 * error * longest * (longest + 2 * float(np.linalg.norm(target)))
        near = np.flatnonzero(keys <= keys.min() + margin)
        part = points[near]
        products = part @ target if sparse else (part * target).sum(1)  # the same for equal rows, wherever they stand
        exact = norms[near] - 2 * products
        row = near[np.lexsort((hashes[near], exact))[0]]
        chosen[place], left[row] = row, False
        target -= points[[row]].toarray()[0] if sparse else points[row]
    return chosen


@selector(
    formula="u = v + sum of exp(-d) v over neighbours; keep the largest u, take exp(-gamma d) u from its neighbours",
    paper="Maharana, Yadav and Bansal 2024, arXiv 2310.07931",
    inputs="embeddings, values",
    cost="O(n^2 d) for the neighbours, then O(n log n)",
    loses="noisy labels, as with `hardest`; of more copies than `neighbours` several are kept",
    needs=("features",),
)
def d2_pruning(
    values: ArrayLike,
    count: int,
    *,
    seed: int,
    epoch: int,
    groups: ArrayLike | None = None,
    ids: Sequence[str] | None = None,
    features: Any,
    neighbours: Annotated[int, AtLeast(1)] = 5,
    gamma: Annotated[float, NotNegative] = 0.1,
    gamma_forward: Annotated[float, NotNegative] = 1.0,
) -> Selection:
    """Hard rows that are not near each other: values are passed to neighbours, then taken back around each kept row.

    `u_i = v_i + sum_{j in kNN(i)} exp(-gamma_forward d_ij) v_j`; then, again and again, the row with the largest `u` is
    kept, and `u_j -= exp(-gamma d_ij) u_i` for its neighbours j.

    Args:
        values: float `(n,)`; larger = harder, +inf = never scored: taken first, with the largest value of the others.
            Where there are values below 0, the smallest is subtracted from all.
        count: How many, in [1, n].
        seed, epoch: Of ties.
        groups: Not used; see `with_floor`.
        ids: The user's names of the rows, for errors.
        features: float `(n, d)` or CSR. Distances stand in an exponent: use rows of length 1, or set both gammas.
        neighbours: Of each row; all others where there are fewer.
        gamma: At least 0; the smaller, the more a kept row takes from its neighbours.
        gamma_forward: At least 0; the smaller, the more a crowd of hard rows lifts each of them.

    Returns:
        Exactly `count` rows, ascending.

    Raises:
        ArgumentError: If values, features or options do not fit.

    Examples:
        >>> points = [[0.0], [1.0], [9.0], [10.0]]
        >>> d2_pruning([4.0, 3.9, 2.0, 1.0], 2, seed=0, epoch=0, features=points, neighbours=1).rows
        array([0, 2])

    Source: Maharana, Yadav and Bansal 2024 (D2 Pruning, arXiv 2310.07931), section 3, with the code's distances in the
    exponents. The code holds all distances, n x n, and leaves gamma out going forward; here it is a graph of
    neighbours, a heap and an option. A row whose `u` has fallen below 0 takes nothing back: it would lift its
    neighbours.
    """
    problems = Problems()
    points = check_points(features, problems, name="features", size=np.size(values), ids=ids)
    array, count = checked(values, count, seed=seed, epoch=epoch, groups=groups, ids=ids, problems=problems)
    size = points.shape[0]
    if count == size:
        return Selection(np.arange(count))
    near, apart = nearest(points, min(neighbours, size - 1))
    messages, new = _from_zero(array), unseen(array)
    reach = messages + (np.exp(-gamma_forward * apart) * messages[near]).sum(1)
    back, hashes = np.exp(-gamma * apart), row_hash(np.arange(size), seed=seed, epoch=epoch)

    def take(row: int) -> None:
        np.subtract.at(reach, near[row], back[row] * max(reach[row], 0.0))

    chosen: list[Rows] = []
    for among in (np.flatnonzero(new), np.flatnonzero(~new)):
        places = min(among.size, count - sum(part.size for part in chosen))
        chosen.append(lazy_greedy(reach, places, hashes=hashes, gain=reach.__getitem__, take=take, among=among))
    return _sorted(np.concatenate(chosen))


def _from_zero(values: Floats) -> NDArray[np.float64]:
    """Values at least 0, in float64; the largest of them where a row was never scored."""
    filled, scored = values.astype(np.float64), values[~unseen(values)]
    if not scored.size:
        return np.ones_like(filled)
    filled[unseen(values)] = scored.max()
    return filled - min(0.0, float(scored.min()))


def _sorted(rows: NDArray[np.int64]) -> Selection:
    return Selection(np.sort(rows))
