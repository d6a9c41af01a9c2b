"""What every selector is built on: the check of its inputs, and the exact top `count` of n keys with seeded ties.

Well-learned examples tie by the thousand. Ties broken by position would always keep the same part of a data set that is
sorted by topic or time; a quantile as bound would keep all of them. A hash of the row gives every tied row the same
chance, anew in every epoch, and needs no random number per row.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from datadiet.errors import ArgumentError, Problems, quoted
from datadiet.geometry import named_rows
from datadiet.types import Selection

_MOST_NAMED = 10  # names in an error

# (values, count, *, seed, epoch, groups=None, ids=None, **options of its own) -> Selection
Selector = Callable[..., Selection]
Floats = NDArray[np.floating[Any]]
Mask = NDArray[np.bool_]
Rows = NDArray[np.int64]
TieBreak = Literal["hash", "row"]
TIE_BREAKS = ("hash", "row")

_MAX_64 = (1 << 64) - 1
_GOLDEN, _FIRST, _SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_CHUNK = 1 << 15  # rows hashed at a time: the intermediate arrays stay in the cache
_SMALL = 1 << 12  # keys that are partitioned at once
_SAMPLE = 1 << 14  # keys that a cut is estimated from, at most


def checked(
    values: ArrayLike,
    count: int,
    *,
    seed: int,
    epoch: int,
    groups: ArrayLike | None = None,
    ids: Sequence[str] | None = None,
    problems: Problems | None = None,
    finite: bool = False,
) -> tuple[Floats, int]:
    """The values as a float array and the count as an int.

    Args:
        values: float `(n,)`; integers become float64.
        count: In [1, n].
        seed, epoch: Whole numbers, at least 0.
        groups: `(n,)` or None.
        ids: The user's names of the rows, for errors.
        problems: Problems that a selector has found in its own inputs.
        finite: Whether -inf is refused too, for a selector that computes with the values rather than ranks them.

    Raises:
        ArgumentError: All problems together.
    """
    problems = Problems() if problems is None else problems
    try:
        array = np.asarray(values)
        if array.dtype.kind in "USc":
            raise TypeError
        if array.dtype.kind != "f":
            array = array.astype(np.float64)
    except (TypeError, ValueError):  # text, a mapping, rows of several values
        raise ArgumentError(f"a selector needs one number per row, got {quoted(values)}.") from None
    problems.check(array.ndim == 1, f"a selector needs one value per row, got values of shape {array.shape}.")
    if not 1 <= _whole(count) <= array.size:
        problems.add(f"count must be a whole number from 1 to {array.size}, the number of values, got {quoted(count)}.")
    for name, number in (("seed", seed), ("epoch", epoch)):
        problems.check(_whole(number) >= 0, f"{name} must be a whole number, at least 0, got {quoted(number)}.")
    if groups is not None and np.shape(groups) != array.shape:
        problems.add(f"groups need one entry per value: got {np.shape(groups)} for values of shape {array.shape}.")
    refused = [("NaN", np.isnan(array))] + ([("-inf", array == -np.inf)] if finite else [])
    for name, where in refused:
        if where.any():
            rows = named_rows(np.flatnonzero(where), array.size, ids)
            problems.add(f"values must be numbers, got {name} in {rows}.")
    problems.raise_any()
    return array, operator.index(count)


def _whole(value: Any) -> int:
    """A whole number of any integer type as an int; -1 for anything else."""
    try:
        return -1 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        return -1


def unseen(values: Floats) -> Mask:
    """Where a row was never scored: `(n,)`."""
    never: Mask = values == np.inf
    return never


def checked_groups(groups: ArrayLike | None, owner: str) -> NDArray[Any]:
    """The groups as an array.

    Args:
        groups: As the caller gave them.
        owner: What needs them, the subject of the error.

    Raises:
        ArgumentError: If there are none.
    """
    if groups is None:
        raise ArgumentError(f"{owner} needs the groups, got none: give the class of each row.")
    return np.asarray(groups)


def picked(array: NDArray[Any], mask: Mask | Rows, dtype: DTypeLike | None = None) -> NDArray[Any]:
    """`array[mask]`, several times as fast where the rows of the mask are scattered, in no more memory.

    Args:
        array: `(n, ...)`.
        mask: bool `(n,)`; or the rows themselves, int64.
        dtype: Of the result; as the array by default.

    Examples:
        >>> picked(np.array([1.0, 3.0, 2.0]), np.array([True, False, True]))
        array([1., 2.])
    """
    if mask.dtype.kind != "b":
        return array[mask].astype(dtype or array.dtype, copy=False)
    chosen = np.empty((int(np.count_nonzero(mask)), *array.shape[1:]), dtype or array.dtype)
    for rows, part in _pieces(np.asarray(mask, np.bool_)):
        chosen[part] = array[rows]
    return chosen


def _pieces(mask: Mask) -> Iterator[tuple[Rows, slice]]:
    """The rows of a mask, some at a time, and where they stand among all of its rows."""
    place = 0
    for begin in range(0, len(mask), _CHUNK):
        rows = np.flatnonzero(mask[begin : begin + _CHUNK])
        rows += begin
        yield rows, slice(place, place + len(rows))
        place += len(rows)


def selection(mask: Mask) -> Selection:
    """The rows where a mask is True, ascending."""
    return Selection(np.flatnonzero(mask).astype(np.int64, copy=False))


def mix(*numbers: int) -> int:
    """One 64-bit number from several whole numbers, e.g. a seed for each group from a seed and the group's number.

    Examples:
        >>> mix(13, 0) != mix(0, 13)
        True
    """
    state = 0
    for number in numbers:
        state = (state + number + _GOLDEN) & _MAX_64
        state = ((state ^ (state >> 30)) * _FIRST) & _MAX_64
        state = ((state ^ (state >> 27)) * _SECOND) & _MAX_64
        state ^= state >> 31
    return state


def row_hash(rows: NDArray[np.int64], *, seed: int, epoch: int) -> NDArray[np.uint64]:
    """A random-looking number per row, different for every row.

    Args:
        rows: int64 `(n,)`, at least 0.
        seed, epoch: At least 0; another pair gives another order.

    Returns:
        uint64 `(n,)`, without repeats where `rows` has none.

    Examples:
        >>> len(np.unique(row_hash(np.arange(1000), seed=13, epoch=0)))
        1000

    Source: splitmix64 (Steele, Lea and Flood 2014), of which every step is invertible: no two rows collide.
    """
    start = np.uint64(mix(seed, epoch))
    hashes = np.empty(len(rows), np.uint64)
    for begin in range(0, len(rows), _CHUNK):
        part = hashes[begin : begin + _CHUNK]
        np.multiply(rows[begin : begin + _CHUNK].astype(np.uint64), np.uint64(_GOLDEN), out=part)
        part += start
        for shift, factor in ((30, _FIRST), (27, _SECOND)):
            part ^= part >> np.uint64(shift)
            part *= np.uint64(factor)
        part ^= part >> np.uint64(31)
    return hashes


def top_mask(keys: Floats, count: int, *, seed: int, epoch: int, tie_break: str = "hash") -> Mask:
    """Where the `count` largest keys are.

    For the same keys the sets are nested: a smaller count selects a subset of a larger one.

    Args:
        keys: float `(n,)`, no NaN.
        count: In [0, n].
        seed, epoch: Of the hash that breaks ties.
        tie_break: `hash`, or `row` for the lowest rows of a tie.

    Returns:
        bool `(n,)` with exactly `count` True.

    Examples:
        >>> top_mask(np.array([1.0, 3.0, 1.0, 2.0]), 3, seed=0, epoch=0, tie_break="row")
        array([ True,  True, False,  True])
    """
    if count in (0, len(keys)):
        return np.full(len(keys), count > 0)
    threshold = largest(keys, count)
    mask: Mask = keys > threshold
    tied: Mask = keys == threshold
    missing, ties = count - int(np.count_nonzero(mask)), int(np.count_nonzero(tied))
    if tie_break != "hash" or missing == ties:
        mask[np.flatnonzero(tied)[:missing]] = True
        return mask
    hashes = np.empty(ties, np.uint64)
    for rows, part in _pieces(tied):
        hashes[part] = row_hash(rows, seed=seed, epoch=epoch)
    most = largest(hashes, ties - missing + 1)
    for rows, part in _pieces(tied):
        mask[rows] = hashes[part] <= most
    return mask


def largest(keys: Floats | NDArray[np.uint64], count: int) -> Any:
    """The `count`-th largest key.

    `np.partition` takes ten times as long where half of the keys tie as where none do, and scores often tie. A sorted
    sample brackets the cut first: one pass over the keys then leaves either the answer or a few percent of the keys.

    Args:
        keys: float `(n,)`, no NaN, or uint64.
        count: In [1, n].

    Examples:
        >>> float(largest(np.array([1.0, 3.0, 1.0, 2.0]), 2))
        2.0

    Source: Floyd and Rivest 1975, with ties split off.
    """
    while len(keys) > _SMALL:
        low, high = _bracket(keys, count)
        above, at_high = int(np.count_nonzero(keys > high)), int(np.count_nonzero(keys == high))
        if above < count <= above + at_high:
            return high
        between = keys[(keys > low) & (keys < high)]
        left = count - above - at_high
        if low < high and len(between) < left <= len(between) + np.count_nonzero(keys == low):
            return low
        if not 0 < left <= len(between):
            break  # an order of the keys that a regular sample misjudges
        keys, count = between, left
    return np.partition(keys, len(keys) - count)[len(keys) - count]


def _bracket(keys: Floats | NDArray[np.uint64], count: int) -> tuple[Any, Any]:
    """Two bounds between which the `count`-th largest almost certainly lies."""
    sample = np.sort(keys[:: max(8, len(keys) // _SAMPLE)])
    middle = round((1 - count / len(keys)) * (len(sample) - 1))
    slack = 4 * math.isqrt(len(sample))  # at least 8 standard errors of a random sample
    least, most = (-np.inf, np.inf) if keys.dtype.kind == "f" else (0, np.iinfo(np.uint64).max)
    low = sample[middle - slack] if middle >= slack else keys.dtype.type(least)
    high = sample[middle + slack] if middle + slack < len(sample) else keys.dtype.type(most)
    return low, high


def floor_problems(minimum: int, sizes: Mapping[str, int], count: int) -> list[str]:
    """Why a floor cannot hold in a data set; empty where it can.

    Args:
        minimum: Rows per class; 0 = no floor.
        sizes: Rows of each class, by name.
        count: Rows that are kept, at the least.

    Examples:
        >>> floor_problems(5, {"usual": 90, "rare": 4}, 50)
        ["a floor of 5 rows per class is more than there are of 'rare' (4); lower it to 4 or less."]
        >>> floor_problems(4, {"usual": 90, "rare": 4}, 6)
        ['a floor of 4 rows in each of 2 classes needs 8 rows, but only 6 are kept. Lower the floor or keep more.']
    """
    problems = []
    if small := [f"{quoted(name)} ({size})" for name, size in sorted(sizes.items()) if size < minimum]:
        problems.append(
            f"a floor of {minimum} rows per class is more than there are of {listed(small)}; "
            f"lower it to {min(sizes.values())} or less."
        )
    if (needed := sum(min(minimum, size) for size in sizes.values())) > count:
        problems.append(crowded(minimum, len(sizes), needed, count))
    return problems


def crowded(minimum: int, classes: int, needed: int, count: int) -> str:
    """The problem of a floor that needs more rows than are kept."""
    return (
        f"a floor of {minimum} rows in each of {classes} classes needs {needed} rows, but only {count} are kept. "
        "Lower the floor or keep more."
    )


def listed(names: Sequence[str]) -> str:
    """Names for an error, the first ten of them."""
    more = f" and {len(names) - _MOST_NAMED} more" if len(names) > _MOST_NAMED else ""
    return ", ".join(names[:_MOST_NAMED]) + more
