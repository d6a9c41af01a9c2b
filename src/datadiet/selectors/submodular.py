"""Greedy selection by similarity: rows that represent all others, or that are central and unlike each other.

Similarities are cosines, those below 0 counted as 0. Where there are more rows than `EXACT`, each row is compared only
with its nearest neighbours (found exactly); all other similarities count as 0. Neither selector reads the values, so
they treat rows never scored (+inf) like any other. `lazy_greedy` computes a gain again only if it could be the largest.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from datadiet.errors import Problems
from datadiet.geometry import Points, check_points, nearest, unit_rows
from datadiet.registry import AtLeast, NotNegative, selector
from datadiet.selectors.base import Rows, checked, row_hash
from datadiet.types import Selection

EXACT = 2000  # rows up to which all similarities are held
FEWEST, MOST = 32, 512  # neighbours above it


def lazy_greedy(
    bounds: NDArray[np.float64],
    count: int,
    *,
    hashes: NDArray[np.uint64],
    gain: Callable[[int], float],
    take: Callable[[int], None],
    among: Rows | None = None,
) -> Rows:
    """The rows that plain greedy selection takes, for gains that never rise, in the order in which it takes them.

    Args:
        bounds: float64 `(n,)`, no gain is larger.
        count: Rows to take.
        hashes: uint64 `(n,)`; of equal gains the row with the smallest comes first.
        gain: A row's gain after all that was taken.
        take: Called with each row as it is taken.
        among: int64 rows to choose from; all by default.

    Returns:
        int64 `(count,)`, first taken first.

    Examples:
        >>> left = np.array([3.0, 2.9, 1.0])
        >>> def halve_the_second(row):
        ...     left[1] /= 2
        >>> hashes = np.arange(3, dtype=np.uint64)
        >>> lazy_greedy(left.copy(), 2, hashes=hashes, gain=lambda row: left[row], take=halve_the_second)
        array([0, 1])

    Source: Minoux 1978, accelerated greedy.
    """
    rows = np.arange(len(bounds)) if among is None else among
    heap = list(zip((-bounds[rows]).tolist(), hashes[rows].tolist(), rows.tolist(), strict=True))
    heapq.heapify(heap)
    chosen: list[int] = []
    while len(chosen) < count:
        bound, order, row = heap[0]
        now = -float(gain(row))
        if now <= bound:
            heapq.heappop(heap)
            chosen.append(row)
            take(row)
        else:
            heapq.heapreplace(heap, (now, order, row))
    return np.asarray(chosen, np.int64)


def usual_neighbours(size: int, count: int) -> int:
    """How many neighbours a row is compared with by default: about ten of them will be kept.

    Examples:
        >>> [usual_neighbours(size, count) for size, count in ((2000, 20), (50_000, 15_000), (50_000, 500))]
        [1999, 34, 512]
    """
    if size <= EXACT:
        return size - 1
    return min(max(FEWEST, math.ceil(10 * size / count)), MOST)


@selector(
    formula="greedy maximum of sum_i max over kept j of max(0, cos(x_i, x_j))",
    paper="Wei, Iyer and Bilmes 2015, ICML; Minoux 1978",
    inputs="embeddings; no values",
    cost="O(n^2 d) for the neighbours, then lazy greedy; over 2,000 rows the nearest 32 to 512 alone count",
    loses="rare kinds of examples, when little is kept",
    needs=("features",),
)
def facility_location(
    values: ArrayLike,
    count: int,
    *,
    seed: int,
    epoch: int,
    groups: ArrayLike | None = None,
    ids: Sequence[str] | None = None,
    features: Any,
    neighbours: Annotated[int | None, AtLeast(1)] = None,
) -> Selection:
    """Rows that represent all: every example should have a similar one among the kept.

    Greedy maximum of `f(S) = sum_i max_{j in S} max(0, cos(x_i, x_j))`, which reaches at least 1 - 1/e of the best.

    Args:
        values: float `(n,)`; only their number counts.
        count: How many, in [1, n].
        seed, epoch: Of ties.
        groups: Not used; see `with_floor`.
        ids: The user's names of the rows, for errors.
        features: float `(n, d)` or CSR, no row 0 everywhere.
        neighbours: Similarities of each row that count, the largest ones; by default all up to 2,000 rows, and above
            that as many as `10 n / count`, from 32 to 512.

    Returns:
        Exactly `count` rows, ascending.

    Raises:
        ArgumentError: If values, features or options do not fit.
        DataError: If a row of the features is 0 everywhere.

    Examples:
        >>> points = [[1.0, 0.0], [1.0, 0.1], [1.0, -0.1], [-0.2, 1.0]]
        >>> facility_location([0.0] * 4, 2, seed=0, epoch=0, features=points).rows
        array([0, 3])

    Source: Wei, Iyer and Bilmes 2015 (Submodularity in Data Subset Selection and Active Learning, ICML); lazy greedy by
    Minoux 1978, which takes the same rows as plain greedy.
    """
    problems = Problems()
    points, count = _inputs(values, count, seed, epoch, groups, ids, features, neighbours, problems)
    size = points.shape[0]
    if count == size:
        return Selection(np.arange(count))
    similar = similarities(points, neighbours or usual_neighbours(size, count), ids)
    return Selection(np.sort(covering(similar, count, row_hash(np.arange(size), seed=seed, epoch=epoch))))


def covering(similar: Any, count: int, hashes: NDArray[np.uint64]) -> Rows:
    """The rows that facility location takes, in its order.

    Args:
        similar: CSR `(n, n)`, see `similarities`.
        count: Rows to take.
        hashes: uint64 `(n,)`, of ties.
    """
    columns = similar.tocsc()
    starts, rows, cosines = columns.indptr.tolist(), columns.indices, columns.data
    covered = np.zeros(len(hashes))

    def gain(row: int) -> float:
        part = slice(starts[row], starts[row + 1])
        return float(np.maximum(cosines[part] - covered[rows[part]], 0.0).sum())

    def take(row: int) -> None:
        part = slice(starts[row], starts[row + 1])
        covered[rows[part]] = np.maximum(covered[rows[part]], cosines[part])

    bounds = np.asarray([gain(row) for row in range(len(hashes))])
    return lazy_greedy(bounds, count, hashes=hashes, gain=gain, take=take)


@selector(
    formula="greedy maximum of similarity to all minus lambda times similarity among the kept",
    paper="Iyer et al. 2021, arXiv 2006.15412",
    inputs="embeddings; no values",
    cost="as facility_location",
    loses="a small lambda keeps copies of the most usual, a large one keeps outliers",
    needs=("features",),
)
def graph_cut(
    values: ArrayLike,
    count: int,
    *,
    seed: int,
    epoch: int,
    groups: ArrayLike | None = None,
    ids: Sequence[str] | None = None,
    features: Any,
    redundancy: Annotated[float, NotNegative] = 0.5,
    neighbours: Annotated[int | None, AtLeast(1)] = None,
) -> Selection:
    """Rows that are like many others but unlike each other.

    Greedy maximum of `f(S) = sum_{i, j in S} s_ij - redundancy * sum_{i in S, j in S} s_ij`, the first i over all rows,
    `s_ij = max(0, cos(x_i, x_j))`

    Args:
        values: float `(n,)`; only their number counts.
        count: How many, in [1, n].
        seed, epoch: Of ties.
        groups: Not used; see `with_floor`.
        ids: The user's names of the rows, for errors.
        features: float `(n, d)` or CSR, no row 0 everywhere.
        redundancy: Penalty on similarity among the kept rows, at least 0. Up to 0.5 more rows never lower the sum.
        neighbours: Similarities of each row that count, the largest ones; by default all up to 2,000 rows, and above
            that as many as `10 n / count`, from 32 to 512. A pair counts if either row is a neighbour of the other.

    Returns:
        Exactly `count` rows, ascending.

    Raises:
        ArgumentError: If values, features or options do not fit.
        DataError: If a row of the features is 0 everywhere.

    Examples:
        >>> points = [[1.0, 0.0], [1.0, 0.1], [1.0, -0.1], [-0.2, 1.0]]
        >>> graph_cut([0.0] * 4, 2, seed=0, epoch=0, features=points, redundancy=1.0).rows
        array([0, 3])

    Source: Iyer et al. 2021 (Submodular Combinatorial Information Measures, arXiv 2006.15412), section 2; the factor is
    theirs, lambda.
    """
    problems = Problems()
    points, count = _inputs(values, count, seed, epoch, groups, ids, features, neighbours, problems)
    size = points.shape[0]
    if count == size:
        return Selection(np.arange(count))
    similar = similarities(points, neighbours or usual_neighbours(size, count), ids)
    hashes = row_hash(np.arange(size), seed=seed, epoch=epoch)
    return Selection(np.sort(cutting(similar, count, hashes, redundancy)[0]))


def cutting(
    similar: Any, count: int, hashes: NDArray[np.uint64], redundancy: float
) -> tuple[Rows, NDArray[np.float64]]:
    """The rows that graph cut takes, in its order, and what each added to the sum.

    Args:
        similar: CSR `(n, n)`, see `similarities`.
        count: Rows to take.
        hashes: uint64 `(n,)`, of ties.
        redundancy: Penalty on similarity among the kept rows.
    """
    both = similar.maximum(similar.T).tocsr()
    starts, rows, cosines = both.indptr.tolist(), both.indices, both.data
    gains = np.asarray(both.sum(0), np.float64).reshape(-1) - redundancy  # (1, n) or (n,) -> (n,)
    added: list[float] = []

    def take(row: int) -> None:
        added.append(float(gains[row]))
        part = slice(starts[row], starts[row + 1])
        gains[rows[part]] -= 2 * redundancy * cosines[part]

    chosen = lazy_greedy(gains.copy(), count, hashes=hashes, gain=gains.__getitem__, take=take)
    return chosen, np.asarray(added)


def _inputs(
    values: ArrayLike,
    count: int,
    seed: int,
    epoch: int,
    groups: ArrayLike | None,
    ids: Sequence[str] | None,
    features: Any,
    neighbours: int | None,
    problems: Problems,
) -> tuple[Points, int]:
    """Checked points and count; all problems are raised together."""
    points = check_points(features, problems, name="features", size=np.size(values), ids=ids)
    if neighbours is not None:
        most = max(1, np.size(values) - 1)
        problems.check(neighbours <= most, f"neighbours must be a whole number from 1 to {most}, got {neighbours!r}.")
    _, count = checked(values, count, seed=seed, epoch=epoch, groups=groups, ids=ids, problems=problems)
    return points, count


def similarities(points: Points, neighbours: int, ids: Sequence[str] | None = None) -> Any:
    """CSR `(n, n)`: row i holds the cosines above 0 of x_i with its nearest neighbours, and 1 with itself.

    `cos = 1 - d^2 / 2` for points of length 1.
    """
    from scipy.sparse import csr_array

    size = points.shape[0]
    near, apart = nearest(unit_rows(points, name="features", ids=ids), neighbours)
    cosines: NDArray[np.float64] = np.maximum(1 - apart**2 / 2, 0.0)
    columns = np.concatenate([np.arange(size)[:, None], near], 1).ravel()  # (n, 1 + neighbours) -> flat
    data = np.concatenate([np.ones((size, 1)), cosines], 1).ravel()
    starts = np.arange(size + 1) * (neighbours + 1)
    similar = csr_array((data, columns, starts), shape=(size, size))
    similar.eliminate_zeros()
    return similar
