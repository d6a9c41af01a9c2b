"""Selecting part by part: groups as numbers, their rows, places shared out among them, selections put together.

The largest keys group by group, for selectors that do no more than rank: the same rows, without a call per group.

`with_floor` and the quotas take any selector, which they call on the rows of every group. Where it is `hardest` or
`easiest`, all that a group needs is a cut of its keys; and whether a group keeps its floor follows from how many of its
keys lie above the cut and on it, mostly without breaking one tie.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datadiet.selectors.base import TIE_BREAKS, Floats, Selector, largest, mix, top_mask
from datadiet.selectors.ranked import OffsetError, easiest, easy_keys, hardest
from datadiet.types import Selection

CHUNK = 1 << 15  # rows looked up or counted at a time: the intermediate arrays stay in the cache
_SMALL = 1 << 16  # numbers of groups that a radix sort takes

Rows = NDArray[np.int64]


def encoded(groups: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.int64], NDArray[Any]]:
    """Group numbers `(n,)`, group sizes and group names `(groups,)`; small whole numbers are their own group numbers.

    Example:
        >>> codes, sizes, names = encoded(np.array(["b", "a", "b"]))
        >>> codes.tolist(), sizes.tolist(), names.tolist()
        ([1, 0, 1], [1, 2], ['a', 'b'])
    """
    if groups.dtype.kind in "iub" and groups.min() >= 0 and groups.max() < _SMALL:
        small: NDArray[Any] = groups.astype(np.uint16)
        sizes = _sizes(small, int(groups.max()) + 1)
        return small, sizes, np.arange(len(sizes))
    names, codes, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    return (codes.astype(np.uint16) if len(sizes) <= _SMALL else codes), sizes, names


def members(codes: NDArray[Any], wanted: NDArray[np.bool_]) -> Iterator[tuple[int, Rows]]:
    """Number and ascending rows of each group that is wanted.

    Args:
        codes: Group numbers `(n,)`.
        wanted: bool `(groups,)`.
    """
    rows, ends = grouped_rows(codes, wanted)
    for group in np.flatnonzero(wanted).tolist():
        yield group, rows[ends[group - 1] if group else 0 : ends[group]]


def grouped_rows(codes: NDArray[Any], wanted: NDArray[np.bool_]) -> tuple[Rows, NDArray[np.int64]]:
    """The rows of the groups that are wanted, group after group, each ascending; and where each group ends.

    Args:
        codes: Group numbers `(n,)`.
        wanted: bool `(groups,)`.

    Example:
        >>> rows, ends = grouped_rows(np.array([2, 0, 1, 2]), np.array([True, False, True]))
        >>> rows.tolist(), ends.tolist()
        ([1, 0, 3], [1, 1, 3])
    """
    if wanted.all():
        held, rows = codes, np.argsort(codes, kind="stable")  # radix sort on 16 bits: linear
    else:
        rows = np.flatnonzero(in_groups(codes, wanted))
        held = codes[rows]
        rows = rows[np.argsort(held, kind="stable")]
    return rows, np.cumsum(_sizes(held, len(wanted)))


def in_groups(codes: NDArray[Any], wanted: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Which rows are in a group that is wanted, `(n,)`: `wanted[codes]` without a copy of all codes as int64."""
    found = np.empty(len(codes), np.bool_)
    for begin in range(0, len(codes), CHUNK):
        part = slice(begin, begin + CHUNK)
        np.take(wanted, codes[part], out=found[part], mode="clip")
    return found


def _sizes(codes: NDArray[Any], groups: int) -> NDArray[np.int64]:
    """Rows per group, `(groups,)`: `np.bincount` without a copy of all codes as int64."""
    sizes, step = np.zeros(groups, np.int64), max(CHUNK, groups)
    for begin in range(0, len(codes), step):
        sizes += np.bincount(codes[begin : begin + step], minlength=groups)
    return sizes


def inside(
    select: Selector,
    values: Floats,
    rows: Rows,
    count: int,
    *,
    seed: int,
    epoch: int,
    groups: NDArray[Any] | None = None,
    **options: Any,
) -> Selection:
    """What a selector takes of a part of all rows, as rows of the whole; nothing where there is no place.

    An offset that leaves too little of a part is given up: the places were promised, the offset is a guess.
    """
    if not count:
        return Selection(np.empty(0, np.int64))
    part = groups[rows] if groups is not None else None
    if options.get("features") is not None:  # one line per row, a plain list included
        features = options["features"]
        options["features"] = (features if hasattr(features, "shape") else np.asarray(features))[rows]
    try:
        chosen = select(values[rows], count, seed=seed, epoch=epoch, groups=part, **options)
    except OffsetError:
        chosen = hardest(values[rows], count, seed=seed, epoch=epoch)
    return Selection(rows[chosen.rows], chosen.weights)


def together(size: int, selections: Iterable[Selection]) -> Selection:
    """Selections of disjoint parts of so many rows as one; where any has weights, the others weigh 1.

    Example:
        >>> parts = [Selection(np.array([2])), Selection(np.array([0]), np.array([3.0], np.float32))]
        >>> together(3, parts)
        Selection(rows=array([0, 2]), weights=array([3., 1.], dtype=float32))
    """
    mask, weights = np.zeros(size, np.bool_), None
    for part in selections:
        mask[part.rows] = True
        if part.weights is not None:
            weights = np.ones(size, np.float32) if weights is None else weights
            weights[part.rows] = part.weights
    rows = np.flatnonzero(mask).astype(np.int64, copy=False)
    return Selection(rows, None if weights is None else weights[rows])


def even_places(sizes: NDArray[np.int64], count: int, *, seed: int, epoch: int, stream: int) -> NDArray[np.int64]:
    """Places for each group in proportion to its size, rounded up or down so that every row has the same chance.

    Systematic rounding: the whole is cut at multiples of n / count, from a random start. A group of size s gets
    `floor` or `ceil` of `s count / n`, on average exactly that.

    Args:
        sizes: Rows per group, `(groups,)`.
        count: Places, at most all rows.
        seed, epoch, stream: Of the random start.

    Returns:
        int64 `(groups,)`, never above the sizes; its sum is the count.

    Example:
        >>> even_places(np.array([20, 70, 10]), 10, seed=0, epoch=0, stream=0)
        array([2, 7, 1])

    Source: systematic sampling (Madow 1949).
    """
    total = int(sizes.sum())
    start = int(np.random.default_rng([seed, epoch, stream]).integers(max(total, 1)))
    bounds = (np.concatenate(([0], np.cumsum(sizes, dtype=np.int64))) * count + start) // max(total, 1)
    return np.diff(bounds)


def shared_places(sizes: NDArray[np.int64], shares: NDArray[np.float64], count: int) -> NDArray[np.int64]:
    """Places for each group in proportion to a share; a group that is too small is taken whole.

    What a small group cannot use is shared out again among the others by their shares. Where all groups with a share
    are full, the others follow by their sizes. Rounded by largest remainder, of equal ones the first group's.

    Args:
        sizes: Rows per group, `(groups,)`.
        shares: At least 0, `(groups,)`; their sum does not matter.
        count: Places, at most all rows.

    Returns:
        int64 `(groups,)`, never above the sizes; its sum is the count.

    Example:
        >>> shared_places(np.array([2, 50, 50]), np.array([1.0, 1.0, 1.0]), 30)
        array([ 2, 14, 14])
    """
    wanted = np.zeros(len(sizes))
    open_groups = sizes > 0
    while open_groups.any() and (left := count - wanted[~open_groups].sum()) > 0:
        parts = np.where(open_groups, shares, 0.0)
        if not parts.any():
            parts = np.where(open_groups, sizes, 0).astype(np.float64)
        wanted[open_groups] = (left * parts / parts.sum())[open_groups]
        full = open_groups & (wanted >= sizes)
        if not full.any():
            break
        wanted[full] = sizes[full]
        wanted[open_groups & ~full] = 0.0
        open_groups &= ~full
    return _rounded(np.minimum(wanted, sizes), count)


def _rounded(wanted: NDArray[np.float64], count: int) -> NDArray[np.int64]:
    """Whole numbers that sum to the count: the largest remainders are rounded up."""
    wanted = np.round(wanted, 9)  # 2.9999999999 is three places
    places = np.floor(wanted).astype(np.int64)
    missing = count - int(places.sum())
    places[np.argsort(places - wanted, kind="stable")[:missing]] += 1
    return places


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
