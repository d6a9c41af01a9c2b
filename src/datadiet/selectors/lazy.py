"""Greedy selection by a heap of upper bounds: a gain is computed again only where it could be the largest."""

from __future__ import annotations

import heapq
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray


def lazy_greedy(
    bounds: NDArray[np.float64],
    count: int,
    *,
    hashes: NDArray[np.uint64],
    gain: Callable[[int], float],
    take: Callable[[int], None],
    among: NDArray[np.int64] | None = None,
) -> NDArray[np.int64]:
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

    Example:
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
