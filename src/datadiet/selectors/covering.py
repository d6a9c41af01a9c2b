"""Farthest-first traversal with distances that are brought up to date only where they could decide."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from datadiet.geometry import Points, squared_distances, squared_norms

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
        self._seen = np.zeros(points.shape[0], np.int64)  # centres that a bound knows of
        self.centres = np.empty(count, np.int64)  # in the order in which they were taken
        self.taken = 0

    def add(self, rows: NDArray[np.int64]) -> None:
        """Take rows as they are given."""
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

    def _catch_up(self, rows: NDArray[np.int64]) -> None:
        """Bring rows up to date with the centres that they have missed."""
        order = np.argsort(self._seen[rows], kind="stable")
        seen, starts = np.unique(self._seen[rows[order]], return_index=True)
        for known, group in zip(seen.tolist(), np.split(rows[order], starts[1:]), strict=True):
            missed = self.centres[known : self.taken]
            step = max(1, _PART // group.size)
            for start in range(0, missed.size, step):
                part = missed[start : start + step]
                apart = squared_distances(
                    self._points[group], self._points[part], self._norms[group], self._norms[part]
                )
                self.bounds[group] = np.minimum(self.bounds[group], apart.min(1))
        self._seen[rows] = self.taken
