"""The largest keys group by group, for selectors that do no more than rank: the same rows, without a call per group.

`with_floor` and the quotas take any selector, which they call on the rows of every group. Where it is `hardest` or
`easiest`, all that a group needs is a cut of its keys; and whether a group keeps its floor follows from how many of its
keys lie above the cut and on it, mostly without breaking one tie.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datadiet.selectors.inputs import Floats, Selector
from datadiet.selectors.parts import CHUNK, grouped_rows, in_groups
from datadiet.selectors.ranked import easiest, easy_keys, hardest
from datadiet.selectors.ties import TIE_BREAKS, largest, mix, top_mask

Counts = NDArray[np.int64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Ranking:
    """Rows in an order: by their keys, largest first, ties by a seeded hash or by row.

    Attributes:
        keys: float `(n,)`, no NaN.
        seed, epoch, tie_break: As for `top_mask`.
    """

    keys: Floats
    seed: int
    epoch: int
    tie_break: str

    def top(self, count: int, *, within: Mask | None = None, threshold: np.floating[Any] | None = None) -> Mask:
        """Where the first `count` rows are, of all or of some: `top_mask`."""
        options: dict[str, Any] = {"seed": self.seed, "epoch": self.epoch, "tie_break": self.tie_break}
        return top_mask(self.keys, count, within=within, threshold=threshold, **options)


def ranking(select: Selector, options: Mapping[str, Any], values: Floats, *, seed: int, epoch: int) -> Ranking | None:
    """The order in which a selector takes rows; None if it does more than rank, or should refuse an option itself.

    Example:
        >>> ranking(hardest, {"offset": 0.2}, np.ones(3), seed=0, epoch=0) is None
        True
    """
    given = dict(options)
    while isinstance(select, partial) and not select.args:
        given, select = {**select.keywords, **given}, select.func
    tie_break = given.pop("tie_break", "hash")
    if tie_break not in TIE_BREAKS:
        return None
    if select is hardest and given.pop("offset", 0.0) == 0.0 and not given:
        return Ranking(values, seed, epoch, tie_break)
    if select is easiest and not given:
        return Ranking(easy_keys(values), seed, epoch, tie_break)
    return None


def top_of_groups(order: Ranking, codes: NDArray[Any], places: Counts, mask: Mask) -> None:
    """Mark the first rows of every group, as many as it has places, ties broken anew in each group.

    Args:
        order: Of n rows.
        codes: Group numbers `(n,)`.
        places: `(groups,)`, at most the sizes.
        mask: bool `(n,)`, changed in place.
    """
    rows, ends = grouped_rows(codes, places > 0)
    keys = order.keys[rows]
    for group in np.flatnonzero(places).tolist():
        held = slice(int(ends[group - 1]) if group else 0, int(ends[group]))
        own = Ranking(keys[held], mix(order.seed, group), order.epoch, order.tie_break)
        mask[rows[held][np.flatnonzero(own.top(int(places[group])))]] = True


def top_with_floors(order: Ranking, count: int, codes: NDArray[Any], floors: Counts) -> Mask:
    """The first `count` rows, but at least so many of every group.

    A group of which the first rows hold too few gets its floor and no more; the other places go to the first rows of
    the other groups, until every floor holds.

    Args:
        order: Of n rows.
        count: In [1, n].
        codes: Group numbers `(n,)`.
        floors: `(groups,)`, at most the sizes; their sum is at most the count.

    Returns:
        bool `(n,)` with exactly `count` True.
    """
    at_floor, cut = np.zeros(len(floors), np.bool_), None
    while True:
        places = count - int(floors[at_floor].sum())
        free = in_groups(codes, ~at_floor) if at_floor.any() else None
        if not places:
            mask = np.zeros(len(codes), np.bool_)
            break
        if cut is None or not cut.holds(places, ~at_floor):
            keys = order.keys if free is None else order.keys[np.flatnonzero(free)]
            cut = _cut(order.keys, largest(keys, places), codes, len(floors))
        least, most = cut.bounds(places, ~at_floor)
        open_groups = ~at_floor & (least < floors) & (most >= floors)
        if undecided := bool(open_groups.any()):
            mask = order.top(places, within=free, threshold=cut.threshold)
            least = most = np.bincount(codes[np.flatnonzero(mask)], minlength=len(floors))
        short = ~at_floor & (most < floors)
        if not short.any():
            mask = mask if undecided else order.top(places, within=free, threshold=cut.threshold)
            break
        at_floor |= short
    top_of_groups(order, codes, np.where(at_floor, floors, 0), mask)
    return mask


@dataclass(frozen=True)
class _Cut:
    """How many keys of each group lie above a threshold and on it, `(groups,)`."""

    threshold: np.floating[Any]
    above: Counts
    ties: Counts

    def holds(self, places: int, free: Mask) -> bool:
        """Whether the last of so many places in the free groups falls on the threshold."""
        missing = places - int(self.above[free].sum())
        return 0 < missing <= int(self.ties[free].sum())

    def bounds(self, places: int, free: Mask) -> tuple[Counts, Counts]:
        """How many rows each free group has at least and at most, however the ties are broken."""
        missing = places - int(self.above[free].sum())
        least = self.above + np.maximum(0, missing - (int(self.ties[free].sum()) - self.ties))
        return least, self.above + np.minimum(self.ties, missing)


def _cut(keys: Floats, threshold: np.floating[Any], codes: NDArray[Any], groups: int) -> _Cut:
    counts, step = np.zeros(3 * groups, np.int64), max(CHUNK, groups)
    for begin in range(0, len(keys), step):
        part = keys[begin : begin + step]
        places = codes[begin : begin + step].astype(np.intp)  # one count per group and per side of the threshold
        places *= 3
        places += part >= threshold
        places += part > threshold
        counts += np.bincount(places, minlength=3 * groups)
    _, ties, above = counts.reshape(groups, 3).T
    return _Cut(threshold, above, ties)
