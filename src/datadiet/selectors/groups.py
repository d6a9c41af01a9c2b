"""Groups of rows: as numbers, places shared out among them, selections inside each put together.

A selector is called on the rows of each group, with one exception. Where it only ranks (`hardest` without an offset,
`easiest`), `top_of_groups` and `top_with_floors` take the same rows from a cut of the keys: whether a group keeps its
floor follows from how many of its keys lie above the cut and on it, mostly without breaking one tie. A call per group
takes 4 times as long as no groups for a floor under 1,000 groups of 10 million values; docs/benchmarks.md promises 3.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datadiet.selectors.base import TIE_BREAKS, Floats, Mask, Rows, Selector, largest, mix, top_mask
from datadiet.selectors.ranked import OffsetError, easiest, easy_keys, hardest
from datadiet.types import Selection

_CHUNK = 1 << 15  # rows looked up or counted at a time: the intermediate arrays stay in the cache
_SMALL = 1 << 16  # numbers of groups that a radix sort takes

Counts = NDArray[np.int64]


def encoded(groups: NDArray[Any]) -> tuple[NDArray[Any], Counts, NDArray[Any]]:
    """Group numbers `(n,)`, group sizes and group names `(groups,)`; small whole numbers are their own group numbers.

    Examples:
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


def members(codes: NDArray[Any], chosen: Mask) -> Iterator[tuple[int, Rows]]:
    """Number and ascending rows of each chosen group.

    Args:
        codes: Group numbers `(n,)`.
        chosen: bool `(groups,)`.

    Examples:
        >>> [(group, rows.tolist()) for group, rows in members(np.array([2, 0, 1, 2]), np.array([True, False, True]))]
        [(0, [1]), (2, [0, 3])]
    """
    if chosen.all():
        rows, own = np.argsort(codes, kind="stable"), codes  # radix sort on 16 bits: linear
    else:
        rows = np.flatnonzero(in_groups(codes, chosen))
        own = codes[rows]
        rows = rows[np.argsort(own, kind="stable")]
    ends = np.cumsum(_sizes(own, len(chosen)))
    for group in np.flatnonzero(chosen).tolist():
        yield group, rows[ends[group - 1] if group else 0 : ends[group]]


def in_groups(codes: NDArray[Any], chosen: Mask) -> Mask:
    """Which rows are in a chosen group, `(n,)`: `chosen[codes]` without a copy of all codes as int64."""
    mask = np.empty(len(codes), np.bool_)
    for begin in range(0, len(codes), _CHUNK):
        part = slice(begin, begin + _CHUNK)
        np.take(chosen, codes[part], out=mask[part], mode="clip")
    return mask


def _sizes(codes: NDArray[Any], groups: int) -> Counts:
    """Rows per group, `(groups,)`: `np.bincount` without a copy of all codes as int64."""
    sizes, step = np.zeros(groups, np.int64), max(_CHUNK, groups)
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
    """The rows that a selector keeps of a part of all rows, numbered as in the whole; none where `count` is 0.

    An offset that leaves too few rows of a part is ignored: the places are fixed, the offset is an estimate.
    """
    if not count:
        return Selection(np.empty(0, np.int64))
    part = groups[rows] if groups is not None else None
    if options.get("features") is not None:  # one line per row, a plain list included
        features = options["features"]
        options["features"] = (features if hasattr(features, "shape") else np.asarray(features))[rows]
    if options.get("entropy") is not None:
        options["entropy"] = np.asarray(options["entropy"])[rows]
    if options.get("turns") is not None:
        options["turns"] = options["turns"].of(rows)
    if options.get("texts") is not None:
        options["texts"] = [options["texts"][row] for row in rows.tolist()]
    try:
        chosen = select(values[rows], count, seed=seed, epoch=epoch, groups=part, **options)
    except OffsetError:
        chosen = hardest(values[rows], count, seed=seed, epoch=epoch)
    rates = None
    if chosen.rates is not None:
        rates = np.zeros(len(values))
        rates[rows] = chosen.rates
    return Selection(rows[chosen.rows], chosen.weights, rates)


def together(size: int, selections: Iterable[Selection]) -> Selection:
    """Selections of disjoint parts of so many rows as one; where any has weights, the others weigh 1.

    Examples:
        >>> parts = [Selection(np.array([2])), Selection(np.array([0]), np.array([3.0], np.float32))]
        >>> together(3, parts)
        Selection(rows=array([0, 2]), weights=array([3., 1.], dtype=float32), rates=None)
    """
    mask, weights, rates = np.zeros(size, np.bool_), None, None
    for part in selections:
        mask[part.rows] = True
        if part.rates is not None:
            rates = part.rates if rates is None else rates + part.rates
        if part.weights is not None:
            weights = np.ones(size, np.float32) if weights is None else weights
            weights[part.rows] = part.weights
    rows = np.flatnonzero(mask).astype(np.int64, copy=False)
    return Selection(rows, None if weights is None else weights[rows], rates)


def even_places(sizes: Counts, count: int, *, seed: int, epoch: int, stream: int) -> Counts:
    """Places for each group in proportion to its size, rounded up or down so that every row has the same chance.

    Systematic rounding: the whole is cut at multiples of n / count, from a random start. A group of size s gets
    `floor` or `ceil` of `s count / n`, on average exactly that.

    Args:
        sizes: Rows per group, `(groups,)`.
        count: Places, at most all rows.
        seed, epoch, stream: Of the random start.

    Returns:
        int64 `(groups,)`, never above the sizes; its sum is the count.

    Examples:
        >>> even_places(np.array([20, 70, 10]), 10, seed=0, epoch=0, stream=0)
        array([2, 7, 1])

    Source: systematic sampling (Madow 1949).
    """
    total = int(sizes.sum())
    start = int(np.random.default_rng([seed, epoch, stream]).integers(max(total, 1)))
    bounds = (np.concatenate(([0], np.cumsum(sizes, dtype=np.int64))) * count + start) // max(total, 1)
    return np.diff(bounds)


def shared_places(sizes: Counts, shares: NDArray[np.float64], count: int) -> Counts:
    """Places for each group in proportion to a share; a group that is too small is taken whole.

    The places that a small group cannot use go to the others in proportion to their shares. Once all groups with a
    share are full, the others follow by their sizes. Rounded by largest remainder, of equal ones the first group's.

    Args:
        sizes: Rows per group, `(groups,)`.
        shares: At least 0, `(groups,)`; their sum does not matter.
        count: Places, at most all rows.

    Returns:
        int64 `(groups,)`, never above the sizes; its sum is the count.

    Examples:
        >>> shared_places(np.array([2, 50, 50]), np.array([1.0, 1.0, 1.0]), 30)
        array([ 2, 14, 14])
    """
    exact: NDArray[np.float64] = np.zeros(len(sizes))
    open_groups = sizes > 0
    while open_groups.any() and (left := count - exact[~open_groups].sum()) > 0:
        parts = np.where(open_groups, shares, 0.0)
        if not parts.any():
            parts = np.where(open_groups, sizes, 0).astype(np.float64)
        exact[open_groups] = (left * parts / parts.sum())[open_groups]
        full = open_groups & (exact >= sizes)
        if not full.any():
            break
        exact[full] = sizes[full]
        exact[open_groups & ~full] = 0.0
        open_groups &= ~full
    exact = np.minimum(exact, sizes).round(9)  # 2.9999999999 is three places
    places = np.floor(exact).astype(np.int64)
    missing = count - int(places.sum())
    places[np.argsort(places - exact, kind="stable")[:missing]] += 1
    return places


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

    def top(self, count: int, rows: Rows | None = None) -> Mask:
        """Where the first `count` rows are, of all or of some, `(n,)`."""
        options: dict[str, Any] = {"seed": self.seed, "epoch": self.epoch, "tie_break": self.tie_break}
        if rows is None:
            return top_mask(self.keys, count, **options)
        mask = np.zeros(len(self.keys), np.bool_)
        mask[rows[np.flatnonzero(top_mask(self.keys[rows], count, **options))]] = True
        return mask


def ranking(select: Selector, options: Mapping[str, Any], values: Floats, *, seed: int, epoch: int) -> Ranking | None:
    """The order in which a selector takes rows; None if it does more than rank, or has to refuse an option itself.

    Examples:
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
    for group, rows in members(codes, places > 0):
        own = Ranking(order.keys[rows], mix(order.seed, group), order.epoch, order.tie_break)
        mask[rows[np.flatnonzero(own.top(int(places[group])))]] = True


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
    at_floor, cut, rows = np.zeros(len(floors), np.bool_), None, None
    while places := count - int(floors[at_floor].sum()):
        free = ~at_floor
        if at_floor.any():
            rows = np.flatnonzero(in_groups(codes, free))
        if cut is None or not cut.holds(places, free):
            keys = order.keys if rows is None else order.keys[rows]
            cut = _cut(order.keys, largest(keys, places), codes, len(floors))
        least, most = cut.bounds(places, free)
        undecided = bool((free & (least < floors) & (most >= floors)).any())
        if undecided:
            mask = order.top(places, rows)
            most = np.bincount(codes[np.flatnonzero(mask)], minlength=len(floors))
        short = free & (most < floors)
        if not short.any():
            mask = mask if undecided else order.top(places, rows)
            break
        at_floor |= short
    else:
        mask = np.zeros(len(codes), np.bool_)
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
    counts, step = np.zeros(3 * groups, np.int64), max(_CHUNK, groups)
    for begin in range(0, len(keys), step):
        part = keys[begin : begin + step]
        places = codes[begin : begin + step].astype(np.intp)  # one count per group and per side of the threshold
        places *= 3
        places += part >= threshold
        places += part > threshold
        counts += np.bincount(places, minlength=3 * groups)
    _, ties, above = counts.reshape(groups, 3).T
    return _Cut(threshold, above, ties)
