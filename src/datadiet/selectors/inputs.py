"""What every selector checks before it selects, all problems at once."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from datadiet.checks import ArgumentError, Problems
from datadiet.records import Selection

# (values, count, *, seed, epoch, groups=None, ids=None, **options of its own) -> Selection
Selector = Callable[..., Selection]
Floats = NDArray[np.floating[Any]]

_NAMED = 10  # rows that an error names


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
        values: float `(n,)`; integers are taken as float64.
        count: In [1, n].
        seed, epoch: Whole numbers, at least 0.
        groups: `(n,)` or None.
        ids: The user's names of the rows, for errors.
        problems: What a selector found wrong with options of its own.
        finite: Whether -inf is refused too, by a selector that reckons with the values rather than ranks them.

    Raises:
        ArgumentError: For everything that does not fit, together.
    """
    found = Problems() if problems is None else problems
    array = np.asarray(values)
    if array.dtype.kind != "f":
        array = array.astype(np.float64)
    found.check(array.ndim == 1, f"a selector needs one value per row, got values of shape {array.shape}.")
    if not 1 <= _whole(count) <= array.size:
        found.add(f"count must be a whole number from 1 to {array.size}, the number of values, got {count!r}.")
    for name, number in (("seed", seed), ("epoch", epoch)):
        found.check(_whole(number) >= 0, f"{name} must be a whole number, at least 0, got {number!r}.")
    if groups is not None and np.shape(groups) != array.shape:
        found.add(f"groups need one entry per value: got {np.shape(groups)} for values of shape {array.shape}.")
    _check_values(found, array, np.isnan(array), "NaN", ids)
    if finite:
        _check_values(found, array, array == -np.inf, "-inf", ids)
    found.raise_any()
    return array, operator.index(count)


def _whole(value: Any) -> int:
    """A whole number of any integer type as an int; -1 for anything else."""
    try:
        return -1 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        return -1


def _check_values(
    found: Problems, array: Floats, wrong: NDArray[np.bool_], name: str, ids: Sequence[str] | None
) -> None:
    bad = np.flatnonzero(wrong)
    if not bad.size:
        return
    rows = bad[:_NAMED].tolist()
    named = ids is not None and len(ids) == array.size
    shown = ", ".join(f"{row} (id {ids[row]!r})" if ids is not None and named else str(row) for row in rows)
    more = f" and {bad.size - _NAMED} more" if bad.size > _NAMED else ""
    found.add(f"values must be numbers, got {name} in {bad.size} of {array.size} rows: {shown}{more}.")


def unseen(values: Floats) -> NDArray[np.bool_]:
    """Where a row was never scored: `(n,)`."""
    never: NDArray[np.bool_] = values == np.inf
    return never


def checked_groups(groups: ArrayLike | None, wish: str) -> NDArray[Any]:
    """The groups as an array.

    Args:
        groups: As the caller gave them.
        wish: What they are needed for, as the start of a sentence.

    Raises:
        ArgumentError: If there are none.
    """
    if groups is None:
        raise ArgumentError(f"{wish} needs the groups, got none: give the class of each row.")
    return np.asarray(groups)


def selection(mask: NDArray[np.bool_]) -> Selection:
    """The rows where a mask is True, ascending."""
    return Selection(np.flatnonzero(mask).astype(np.int64, copy=False))
