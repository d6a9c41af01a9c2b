"""Several rankings of the same rows together, and the most suspected rows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata

from datadiet.checks import Problems
from datadiet.noise import MOST_OF_CLASS

Values = NDArray[np.float32]
Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Ranking:
    """Rows ranked in several ways.

    Attributes:
        ids: The user's id of each row.
        values: float32 `(n,)` per ranking, larger = more suspected.

    Example:
        >>> ranking = Ranking(("a", "b", "c"), {"aum": np.array([3.0, 1.0, 2.0]), "el2n": np.array([0.9, 0.2, 0.1])})
        >>> ranking.together, ranking.top(0.4)
        (array([3. , 1.5, 1.5], dtype=float32), array([0]))
        >>> ranking.agreement(0.4)
        {('aum', 'el2n'): 1.0}
    """

    ids: tuple[str, ...]
    values: Mapping[str, Values]

    @property
    def together(self) -> Values:
        """The mean rank over the rankings, float32 `(n,)`, larger = more suspected."""
        ranks = [rankdata(values) for values in self.values.values()]
        return np.asarray(np.mean(ranks, axis=0), np.float32)

    def top(self, share: float, groups: NDArray[np.int64] | None = None) -> Rows:
        """The most suspected rows by all rankings together; see `most_suspected`."""
        return most_suspected(self.together, share, groups)

    def agreement(self, share: float) -> dict[tuple[str, str], float]:
        """Of each two rankings, the share of their most suspected rows that they have in common."""
        tops = {name: set(most_suspected(values, share).tolist()) for name, values in self.values.items()}
        return {(one, two): _common(tops[one], tops[two]) for one, two in combinations(tops, 2)}


def _common(one: set[int], two: set[int]) -> float:
    return len(one & two) / max(1, len(one))


def most_suspected(values: ArrayLike, share: float, groups: NDArray[np.int64] | None = None) -> Rows:
    """The most suspected share of the rows, of each class at most half: a class that cannot be learned is hard.

    Args:
        values: float `(n,)`, larger = more suspected; ties by row.
        share: Of all rows, in (0, 1).
        groups: int64 `(n,)`, the class of each row.

    Returns:
        int64, ascending; fewer than asked for where the classes allow no more.

    Raises:
        ArgumentError: If the share is not in (0, 1), or a value is not finite.

    Example:
        >>> most_suspected([0.1, 0.9, 0.8, 0.2], 0.5, np.array([0, 1, 1, 0]))
        array([1, 3])
    """
    found, problems = np.asarray(values, np.float64), Problems()
    problems.share("share of suspects", share)
    if not np.isfinite(found).all():
        problems.add(f"suspicions must be finite; rows {np.flatnonzero(~np.isfinite(found))[:5].tolist()} are not.")
    problems.raise_any()
    order = np.lexsort((np.arange(len(found)), -found))
    if groups is not None:
        order = order[_place_in_class(groups[order]) < np.floor(MOST_OF_CLASS * np.bincount(groups))[groups[order]]]
    return np.sort(order[: round(share * len(found))])


def _place_in_class(groups: NDArray[np.int64]) -> Rows:
    """For each entry, how many of its class come before it."""
    by_class = np.argsort(groups, kind="stable")
    starts = np.searchsorted(groups[by_class], groups[by_class])
    place = np.empty(len(groups), np.int64)
    place[by_class] = np.arange(len(groups)) - starts
    return place
