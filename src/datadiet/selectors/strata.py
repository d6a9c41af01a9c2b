"""Selectors that cut the values into strata: they cover the whole range, both ends of it, or a window that slides.

Each selector draws from a stream of its own of the generator, so that no two selectors share their draws.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from datadiet.registry import AtLeast, Share, ShareBelowOne, UnitShare, selector
from datadiet.selectors.base import Floats, checked, mix, selection, top_mask, unseen
from datadiet.selectors.groups import even_places, inside, members, together
from datadiet.selectors.ranked import check_room
from datadiet.selectors.sampled import random, uniform_mask
from datadiet.types import Selection

_EVEN_STREAM, _EASY_STREAM, _SETA_STREAM = 5, 6, 8
_CLIPPED = 0.01  # share of the values at either end that does not stretch the strata
Edges = Literal["clipped", "range", "mass"]


@selector(
    formula="exclude the beta hardest, cut the others into strata of equal width, fill from the smallest, draw inside",
    paper="Zheng et al. 2023, ICLR, algorithm 1",
    inputs="values, beta, strata",
    cost="O(n)",
    loses="to hardest where much is kept of clean data; beta must be about the share of wrong labels",
    preset={"score": "aum"},
    evidence="methods",
)
def ccs(
    values: ArrayLike,
    count: int,
    *,
    seed: int,
    epoch: int,
    groups: ArrayLike | None = None,
    ids: Sequence[str] | None = None,
    beta: Annotated[float, ShareBelowOne] = 0.1,
    strata: Annotated[int, AtLeast(1)] = 50,
    edges: Edges = "clipped",
) -> Selection:
    """Coverage of all difficulties: the very hardest excluded, the same number from each stratum of the others.

    The `round(beta * n)` hardest are excluded as suspected noise. The range of the others is cut into strata of equal
    width; starting with the smallest, each gets `min(its size, places left // strata left)`, drawn at random. Rows
    never scored (+inf) come first and do not count towards beta, which is then a share of the others.

    Args:
        values: float `(n,)`; larger = harder, +inf = never scored, -inf is refused.
        count: How many, in [1, n].
        seed, epoch: Of the draw.
        groups: Not used; see `balanced` for coverage class by class.
        ids: The user's names of the rows, for errors.
        beta: Share of the rows excluded, in [0, 1); published: 0 for little pruning, up to 0.3 where a tenth is kept.
            It has no effect where `count` is n.
        strata: How many, at least 1.
        edges: `clipped` cuts between the 1st and the 99th percentile, with what lies beyond in the outer strata;
            `range` between the smallest and the largest value, as published, where one outlier empties most strata;
            `mass` into strata of as many rows each, but where values tie.

    Returns:
        Exactly `count` rows, ascending.

    Raises:
        ArgumentError: If values or options do not fit; `OffsetError` if beta leaves fewer than `count` rows.

    Examples:
        >>> ccs([0.1, 0.11, 0.12, 0.5, 0.9, 5.0], 3, seed=0, epoch=0, beta=0.2, strata=3).rows[1:]
        array([3, 4])

    Source: Zheng et al. 2023, Coverage-centric Coreset Selection, algorithm 1, on any score. Their code loses the
    hardest row where the largest value is 0 or less, selects nothing where all are 0, and class by class takes the
    last class's size for all. With `beta=0, edges=range` it is the coverage-enhanced selection of DEALRec (Lin et al.
    2024, arXiv 2401.17197, algorithm 2), whose code first drops the tenth with the largest values and may lose the
    largest.
    """
    array, count = checked(values, count, seed=seed, epoch=epoch, groups=groups, ids=ids, finite=True)
    check_room("a beta", count, beta, array.size)
    new = unseen(array)
    fresh = int(np.count_nonzero(new))
    if count <= fresh or count == array.size:
        return selection(top_mask(array, count, seed=seed, epoch=epoch))
    excluded = round(beta * (array.size - fresh))
    rows = np.flatnonzero(~top_mask(array, fresh + excluded, seed=seed, epoch=epoch))
    codes = stratum(array[rows], strata, edges)
    places = filled_places(np.bincount(codes, minlength=strata), count - fresh)
    drawn = _drawn(array, rows, codes, places, seed=seed, epoch=epoch)
    return together(array.size, [Selection(np.flatnonzero(new)), drawn])


@selector(
    formula="from each quantile of the values the same share, at random",
    paper="the stratified baseline of Anand et al. 2023, EMNLP, section 5",
    inputs="values, strata",
    cost="O(n)",
    loses="to any good score: it only lowers the variance of random",
    evidence="corpus-selection",
)
def stratified(
    values: ArrayLike,
    count: int,
    *,
    seed: int,
    epoch: int,
    groups: ArrayLike | None = None,
    ids: Sequence[str] | None = None,
    strata: Annotated[int, AtLeast(1)] = 10,
) -> Selection:
    """A small copy of the whole: from each quantile of the values the same share, at random.

    The values are cut into `strata` quantiles; each gives places in proportion to its size (more rows where values
    tie), rounded so that every row has the same chance. Rows never scored (+inf) come first.

    Args:
        values, count, seed, epoch, groups, ids: As for `hardest`.
        strata: How many quantiles, at least 1; where few values are distinct there are fewer.

    Returns:
        Exactly `count` rows, ascending.

    Raises:
        ArgumentError: If values or options do not fit.

    Examples:
        >>> rows = stratified(list(range(100)), 10, seed=0, epoch=0).rows
        >>> (rows // 10).tolist()
        [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]

    Source: proportional stratified sampling (Neyman 1934), the baseline of Anand et al. 2023, section 5, on values
    instead of domains.
    """
    array, count = checked(values, count, seed=seed, epoch=epoch, groups=groups, ids=ids)
    new = unseen(array)
    rows = np.flatnonzero(~new)
    if (left := count - (array.size - rows.size)) <= 0:
        return selection(top_mask(array, count, seed=seed, epoch=epoch))
    codes = _quantiles(array[rows], strata)
    places = even_places(np.bincount(codes), left, seed=seed, epoch=epoch, stream=_EVEN_STREAM)
    drawn = _drawn(array, rows, codes, places, seed=seed, epoch=epoch)
    return together(array.size, [Selection(np.flatnonzero(new)), drawn])


@selector(
    formula="70 % of the places to the hardest, 30 % to the easiest",
    paper="Swayamdipta et al. 2020, arXiv 2009.10795; --both_ends of its code",
    inputs="values, hard",
    cost="O(n)",
    loses="on noisy labels, as hardest: most places go to the hardest",
)
def both_ends(
    values: ArrayLike,
    count: int,
    *,
    seed: int,
    epoch: int,
    groups: ArrayLike | None = None,
    ids: Sequence[str] | None = None,
    hard: Annotated[float, UnitShare] = 0.7,
) -> Selection:
    """The hardest rows and some of the easiest, nothing between.

    `round(hard * count)` hardest, the other places to the easiest. Rows never scored (+inf) come first, even where
    that takes places of the easy ones.

    Args:
        values, count, seed, epoch, groups, ids: As for `hardest`.
        hard: Share of the places that the hardest get, in [0, 1].

    Returns:
        Exactly `count` rows, ascending.

    Raises:
        ArgumentError: If values or options do not fit.

    Examples:
        >>> both_ends(list(range(100)), 10, seed=0, epoch=0).rows
        array([ 0,  1,  2, 93, 94, 95, 96, 97, 98, 99])

    Source: `--both_ends` of Dataset Cartography (Swayamdipta et al. 2020; allenai/cartography). Its code takes one row
    more than asked for at the hard end.
    """
    array, count = checked(values, count, seed=seed, epoch=epoch, groups=groups, ids=ids)
    top = max(round(hard * count), min(count, int(np.count_nonzero(unseen(array)))))
    mask = top_mask(array, top, seed=seed, epoch=epoch)
    others = np.flatnonzero(~mask)
    # a seed of its own: rows that lost the tie at the hard end would otherwise lose or win here as well
    easy = top_mask(-array[others], count - top, seed=mix(seed, _EASY_STREAM), epoch=epoch)
    mask[others[easy]] = True
    return selection(mask)


def stratum(values: Floats, strata: int, edges: str = "clipped") -> NDArray[Any]:
    """The stratum that each value lies in, numbered from 0 for the smallest values.

    Args:
        values: float `(n,)`, finite, any sign; equal values are all in one stratum.
        strata: How many.
        edges: See `ccs`.

    Returns:
        Whole numbers `(n,)`, below `strata`.

    Examples:
        >>> stratum(np.array([-3.0, -2.0, -1.0, 0.0]), 2, "range").tolist()
        [0, 0, 1, 1]
    """
    if edges == "mass":
        return _quantiles(values, strata)
    if edges == "clipped":
        at = [int(_CLIPPED * (values.size - 1)), int(np.ceil((1 - _CLIPPED) * (values.size - 1)))]
        low, high = (float(edge) for edge in np.partition(values, at)[at])
    else:
        low, high = float(values.min()), float(values.max())
        high += 1e-4 * abs(high)  # the published margin above the largest, which falls below it where that is negative
    if not high > low:
        return np.zeros(values.size, np.uint16)
    numbers = np.floor((values.astype(np.float64) - low) / ((high - low) / strata))
    return np.clip(numbers, 0, strata - 1).astype(_code_type(strata))


def _quantiles(values: Floats, strata: int) -> NDArray[Any]:
    """The quantile that each value lies in; values that tie are in one."""
    # whole ranks: between two values of which one is -inf nothing can be interpolated
    cuts = (np.arange(1, strata) * values.size) // strata
    codes = np.searchsorted(np.unique(np.partition(values, cuts)[cuts]), values, side="right")
    return codes.astype(_code_type(strata))


def filled_places(sizes: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Places for each stratum, filled from the smallest: `min(size, places left // strata left)`.

    Args:
        sizes: Rows per stratum, `(strata,)`; of equal ones the first comes first.
        count: Places; where there are more than rows, every row gets one.

    Returns:
        int64 `(strata,)`.

    Examples:
        >>> filled_places(np.array([2, 5, 100]), 30)
        array([ 2,  5, 23])

    Source: Zheng et al. 2023, algorithm 1, lines 5 to 10.
    """
    places = np.zeros(len(sizes), np.int64)
    for done, index in enumerate(np.argsort(sizes, kind="stable").tolist()):
        places[index] = min(int(sizes[index]), count // (len(sizes) - done))
        count -= int(places[index])
    return places


def _code_type(strata: int) -> type[np.integer[Any]]:
    return np.uint16 if strata <= 1 << 16 else np.int64  # 16 bits sort in linear time


def _drawn(
    values: Floats, rows: NDArray[np.int64], codes: NDArray[Any], places: NDArray[np.int64], *, seed: int, epoch: int
) -> Selection:
    """At random from each stratum as many of the rows as it has places for."""
    parts = []
    for group, part in members(codes, places > 0):
        own = mix(seed, group)
        parts.append(inside(random, values, rows[part], int(places[group]), seed=own, epoch=epoch))
    return together(values.size, parts)


@selector(
    formula="quantile groups of the values; a window over them slides from easy to hard each epoch and wraps",
    paper="SeTa, CVPR 2025",
    inputs="values, num_groups, window, every",
    cost="O(n)",
    loses="in runs of few epochs, which end before the window has passed the hard groups",
    preset={"score": "cross_entropy"},
    evidence="methods",
)
def seta(
    values: ArrayLike,
    count: int,
    *,
    seed: int,
    epoch: int,
    groups: ArrayLike | None = None,
    ids: Sequence[str] | None = None,
    num_groups: Annotated[int, AtLeast(1)] = 10,
    window: Annotated[float | None, Share] = None,
    every: Annotated[int, AtLeast(1)] = 1,
) -> Selection:
    """A window of difficulty that slides from easy to hard and wraps, rows at random within it.

    The scored rows are cut into groups of rising values. The window has `w = round(num_groups * window)` groups and
    starts at group `(epoch // every) mod (num_groups - w + 1)`; exactly `count` of its rows are drawn. A window with
    fewer rows than that is widened, first towards the harder side. Rows never scored (+inf) come first.

    Args:
        values, count, seed, epoch, ids: As for `hardest`.
        groups: Not used; they are classes, not the groups of rising values.
        num_groups: At least 1.
        window: Share of the groups that the window covers, in (0, 1]; None takes as few groups as hold `count` rows.
        every: Epochs from one place to the next, at least 1: set it to `refresh_every`, or places are skipped.

    Returns:
        Exactly `count` rows, ascending.

    Raises:
        ArgumentError: If values or options do not fit.

    Examples:
        >>> [seta(list(range(100)), 20, seed=0, epoch=epoch).rows[0].item() for epoch in (0, 1, 8, 9)]
        [0, 10, 80, 0]

    Source: SeTa (CVPR 2025; mrazhou/SeTa), with the count in place of their random share r: their recipe without loss
    is keep 0.72, `num_groups=5, window=0.9`. Quantiles stand for their k-means.
    """
    array, count = checked(values, count, seed=seed, epoch=epoch, groups=groups, ids=ids)
    new = unseen(array)
    scored = array.size - int(np.count_nonzero(new))
    left = count - (array.size - scored)
    if left <= 0 or left == scored:
        return selection(top_mask(array, count, seed=seed, epoch=epoch))
    # ranks at which groups begin, easiest first
    bounds = np.arange(num_groups + 1, dtype=np.int64) * scored // num_groups
    share = left / scored if window is None else window
    low, high = _window(bounds, left, share, epoch // every, fewest=window is None)
    keys = -array
    keys[new] = -np.inf  # above the window, wherever it stands
    mask = top_mask(keys, high, seed=seed, epoch=epoch) & ~top_mask(keys, low, seed=seed, epoch=epoch)
    rows = np.flatnonzero(mask)
    mask[rows[~uniform_mask(rows.size, left, seed=seed, epoch=epoch, stream=_SETA_STREAM)]] = False
    return selection(mask | new)


def window_start(place: int, num_groups: int, size: int) -> int:
    """The first group of the window: `place mod (num_groups - size + 1)`.

    Args:
        place: How often the window has moved on, from 0.
        num_groups: How many groups there are.
        size: Groups in the window, in [1, num_groups].

    Examples:
        >>> [window_start(place, 5, 3) for place in range(5)]
        [0, 1, 2, 0, 1]
    """
    return place % (num_groups - size + 1)


def _window(bounds: NDArray[np.int64], count: int, share: float, place: int, *, fewest: bool) -> tuple[int, int]:
    """The ranks that the window covers, at least `count` of them."""
    number, scored = len(bounds) - 1, int(bounds[-1])
    size = number * share
    # half to even, as published
    size = min(number, max(1, math.ceil(round(size, 9)) if fewest else round(size)))
    start = window_start(place, number, size)
    low, high = int(bounds[start]), int(bounds[start + size])
    high = max(high, min(scored, low + count))
    return min(low, high - count), high
