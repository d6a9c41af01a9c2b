"""A window over groups of rising difficulty that moves on from epoch to epoch."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from datadiet.checks import Problems, percent_hint
from datadiet.records import Selection
from datadiet.selectors.inputs import Floats, checked, selection, unseen
from datadiet.selectors.ties import top_mask
from datadiet.selectors.uniform import uniform_mask

_STREAM = 8  # of the generator, so that no two selectors share their draws
_STEPS = 100  # of k-means, at most; in one dimension it settles in a few
GROUPINGS = ("quantile", "kmeans")


def seta(
    values: ArrayLike,
    count: int,
    *,
    seed: int,
    epoch: int,
    groups: ArrayLike | None = None,
    ids: Sequence[str] | None = None,
    num_groups: int = 10,
    window: float | None = None,
    every: int = 1,
    grouping: str = "quantile",
) -> Selection:
    """A window of difficulty that slides from easy to hard and wraps, rows at random within it.

    The scored rows are cut into groups of rising values. The window has `w = round(num_groups * window)` groups and
    starts at group `(epoch // every) mod (num_groups - w + 1)`; exactly `count` of its rows are drawn. A window with
    fewer rows than that is widened, towards the harder side first. Rows never scored (+inf) come first.

    Args:
        values, count, seed, epoch, ids: As for `hardest`; k-means refuses -inf.
        groups: Taken for the sake of the common form; they are classes, not the groups of rising values.
        num_groups: At least 1.
        window: Share of the groups that the window covers, in (0, 1]; None takes as few groups as hold `count` rows.
        every: Epochs from one place to the next, at least 1: set it to `refresh_every`, or places are skipped.
        grouping: `quantile`, groups of equal size; `kmeans` of the values, as published.

    Returns:
        Exactly `count` rows, ascending.

    Raises:
        ArgumentError: If values or options do not fit.

    Example:
        >>> [seta(list(range(100)), 20, seed=0, epoch=epoch).rows[0].item() for epoch in (0, 1, 8, 9)]
        [0, 10, 80, 0]

    Source: SeTa (CVPR 2025; mrazhou/SeTa), with the count in place of their random share r: their recipe without loss
    is keep 0.72, `num_groups=5, window=0.9`. On one number per row quantiles do what k-means does at a fraction of the
    cost. Their k-means has empty groups where fewer values than groups are distinct.
    """
    problems = Problems()
    problems.whole("num_groups", num_groups, least=1)
    problems.whole("every", every, least=1)
    problems.check(window is None or 0 < window <= 1, f"window must be in (0, 1], got {window}.{percent_hint(window)}")
    problems.choice("grouping", grouping, GROUPINGS)
    array, count = checked(
        values, count, seed=seed, epoch=epoch, groups=groups, ids=ids, problems=problems, finite=grouping == "kmeans"
    )
    new = unseen(array)
    known = array.size - int(np.count_nonzero(new))
    left = count - (array.size - known)
    if left <= 0 or left == known:
        return selection(top_mask(array, count, seed=seed, epoch=epoch))
    bounds = _bounds(array[~new] if known < array.size else array, num_groups, grouping)
    share = left / known if window is None else window
    low, high = _window(bounds, left, share, epoch // every, fewest=window is None)
    keys = -array
    keys[new] = -np.inf  # above the window, whatever comes
    mask = top_mask(keys, high, seed=seed, epoch=epoch) & ~top_mask(keys, low, seed=seed, epoch=epoch)
    rows = np.flatnonzero(mask)
    mask[rows[~uniform_mask(rows.size, left, seed=seed, epoch=epoch, stream=_STREAM)]] = False
    return selection(mask | new)


def window_start(place: int, num_groups: int, size: int) -> int:
    """The first group of the window: `place mod (num_groups - size + 1)`.

    Args:
        place: How often the window has moved on, from 0.
        num_groups: How many groups there are.
        size: Groups in the window, in [1, num_groups].

    Example:
        >>> [window_start(place, 5, 3) for place in range(5)]
        [0, 1, 2, 0, 1]
    """
    return place % (num_groups - size + 1)


def kmeans_groups(values: ArrayLike, num_groups: int) -> NDArray[np.int64]:
    """The number of each value's cluster, 0 for the easiest: k-means of single numbers.

    Args:
        values: float `(n,)`, finite.
        num_groups: At least 1; where fewer values are distinct, each of these is a group.

    Returns:
        int64 `(n,)`, from 0 without gaps.

    Raises:
        ArgumentError: If values or num_groups do not fit.

    Example:
        >>> kmeans_groups([0.1, 5.0, 0.2, 2.4, 2.5], 3).tolist()
        [0, 2, 0, 1, 1]

    Source: SeTa (mrazhou/SeTa), which leaves groups empty where fewer values are distinct.
    """
    problems = Problems()
    problems.whole("num_groups", num_groups, least=1)
    array, _ = checked(values, 1, seed=0, epoch=0, problems=problems, finite=True)
    problems.check(not unseen(array).any(), "k-means needs finite values, got +inf: score every row first.")
    problems.raise_any()
    ends = _kmeans_bounds(np.sort(array), num_groups)[1:-1]
    return np.searchsorted(np.sort(array)[ends], array, side="right")


def _bounds(known: Floats, num_groups: int, grouping: str) -> NDArray[np.int64]:
    """Ranks, easiest first, at which the groups begin, and the number of values: `(groups + 1,)`."""
    if grouping == "quantile":
        return np.arange(num_groups + 1, dtype=np.int64) * known.size // num_groups
    return _kmeans_bounds(np.sort(known), num_groups)


def _window(bounds: NDArray[np.int64], count: int, share: float, place: int, *, fewest: bool) -> tuple[int, int]:
    """The ranks that the window covers, at least `count` of them."""
    number, known = len(bounds) - 1, int(bounds[-1])
    size = number * share
    # half to even, as published
    size = min(number, max(1, math.ceil(round(size, 9)) if fewest else round(size)))
    start = window_start(place, number, size)
    low, high = int(bounds[start]), int(bounds[start + size])
    high = max(high, min(known, low + count))
    return min(low, high - count), high


def _kmeans_bounds(ascending: Floats, num_groups: int) -> NDArray[np.int64]:
    """Ranks at which the clusters of sorted values begin, and their number: Lloyd's steps from two starts.

    In one dimension a cluster is a stretch of the sorted values, so a step costs one search per centre.
    """
    numbers = ascending.astype(np.float64)
    distinct = np.unique(numbers)
    if distinct.size <= num_groups:
        return np.append(np.searchsorted(numbers, distinct), numbers.size)
    sums = np.concatenate(([0.0], np.cumsum(numbers)))
    quantiles = distinct[(2 * np.arange(num_groups) + 1) * distinct.size // (2 * num_groups)]
    found = [_lloyd(numbers, sums, centres) for centres in (quantiles, _farthest(distinct, num_groups))]
    return min(found, key=lambda bounds: _inertia(sums, bounds))


def _lloyd(
    ascending: NDArray[np.float64], sums: NDArray[np.float64], centres: NDArray[np.float64]
) -> NDArray[np.int64]:
    bounds = np.empty(0, np.int64)
    for _ in range(_STEPS):
        middles = np.searchsorted(ascending, (centres[1:] + centres[:-1]) / 2, side="right")
        before, bounds = bounds, np.concatenate(([0], middles, [ascending.size]))
        if np.array_equal(before, bounds):
            break
        sizes = np.diff(bounds)
        centres = np.where(sizes > 0, np.diff(sums[bounds]) / np.maximum(sizes, 1), centres)
    return np.unique(bounds)  # a centre that lost all its values makes no group


def _farthest(distinct: NDArray[np.float64], number: int) -> NDArray[np.float64]:
    """Centres far from each other: each next one is the value farthest from those before it."""
    centres = [distinct[0]]
    distance = distinct - distinct[0]
    for _ in range(number - 1):
        centres.append(distinct[int(np.argmax(distance))])
        distance = np.minimum(distance, np.abs(distinct - centres[-1]))
    return np.sort(np.array(centres))


def _inertia(sums: NDArray[np.float64], bounds: NDArray[np.int64]) -> float:
    """Minus the sum over clusters of `size * mean ** 2`, which differs from the inertia by a constant."""
    return -float((np.diff(sums[bounds]) ** 2 / np.diff(bounds)).sum())
