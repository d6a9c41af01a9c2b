"""A floor under every group: no class vanishes because the model finds it easy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from datadiet.checks import ArgumentError, Problems
from datadiet.records import Selection
from datadiet.selectors.inputs import Floats, Selector, checked, selection
from datadiet.selectors.ranked import OffsetError, hardest
from datadiet.selectors.ties import mix

_SMALL = 1 << 16  # numbers of groups that a radix sort takes


def with_floor(select: Selector, minimum: int) -> Selector:
    """A selector that keeps at least `minimum` rows of every group, or the whole group where it is smaller.

    `select` chooses among all rows. A group of which it takes too few gets its floor, chosen by `select` inside the
    group; the other places go to `select` over the rows of the other groups, until every floor holds. Where floors
    leave too little room for an offset, the offset is given up.

    Args:
        select: Any selector; its options are passed on.
        minimum: Rows per group, at least 1.

    Returns:
        A selector that needs `groups`, `(n,)` of whole numbers or strings. It raises ArgumentError where they are
        missing or the floors together exceed the count.

    Raises:
        ArgumentError: If `minimum` is no whole number, or below 1.

    Example:
        >>> select = with_floor(hardest, 1)
        >>> select([0.9, 0.8, 0.7, 0.1], 2, seed=0, epoch=0, groups=["a", "a", "a", "b"]).rows
        array([0, 3])

    Source: quotas before scores, e.g. He et al. 2024, class-balanced coverage (he-y/NLP-Dataset-Pruning); as a floor
    rather than a quota, so that the score still decides over most places.
    """
    problems = Problems()
    problems.whole("floor", minimum, least=1)
    problems.raise_any()

    def floored(
        values: ArrayLike,
        count: int,
        *,
        seed: int,
        epoch: int,
        groups: ArrayLike | None = None,
        ids: Sequence[str] | None = None,
        **options: Any,
    ) -> Selection:
        array, count = checked(values, count, seed=seed, epoch=epoch, groups=groups, ids=ids)
        if groups is None:
            raise ArgumentError(f"a floor of {minimum} rows per group needs the groups, got none.")
        codes, sizes = _encoded(np.asarray(groups))
        floors = np.minimum(sizes, minimum)
        _check_floors(int(floors.sum()), count, minimum, int(np.count_nonzero(sizes)))
        at_floor = np.zeros(len(sizes), np.bool_)  # groups that get their floor and no more
        while True:
            if not at_floor.any():
                chosen = select(array, count, seed=seed, epoch=epoch, **options).rows
            else:
                free, places = np.flatnonzero(~at_floor[codes]), count - int(floors[at_floor].sum())
                chosen = free[_inside(select, array, free, places, seed=seed, epoch=epoch, **options)]
            short = (np.bincount(codes[chosen], minlength=len(sizes)) < floors) & ~at_floor
            if not short.any():
                break
            at_floor |= short
        mask = np.zeros(array.size, np.bool_)
        mask[chosen] = True
        for group, rows in _members(codes, at_floor):
            part = _inside(select, array, rows, int(floors[group]), seed=mix(seed, group), epoch=epoch, **options)
            mask[rows[part]] = True
        return selection(mask)

    return floored


def _inside(
    select: Selector,
    values: Floats,
    among: NDArray[np.int64],
    count: int,
    *,
    seed: int,
    epoch: int,
    **options: Any,
) -> NDArray[np.int64]:
    """The places of the rows that a selector takes of a part of all; none where there is no place for any."""
    if not count:
        return np.empty(0, np.int64)
    values = values[among]
    if "features" in options:  # one row per value, a plain list included
        features = options["features"]
        options["features"] = (features if hasattr(features, "shape") else np.asarray(features))[among]
    try:
        return select(values, count, seed=seed, epoch=epoch, **options).rows
    except OffsetError:
        return hardest(values, count, seed=seed, epoch=epoch).rows  # the floor is promised, the offset is a guess


def _check_floors(needed: int, count: int, minimum: int, groups: int) -> None:
    if needed > count:
        raise ArgumentError(
            f"a floor of {minimum} rows in each of {groups} groups needs {needed} rows, but only {count} are kept. "
            "Lower the floor or keep more."
        )


def _encoded(groups: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Group numbers `(n,)` and group sizes `(groups,)`; small whole numbers are their own group numbers."""
    if groups.dtype.kind in "iub" and groups.min() >= 0 and groups.max() < _SMALL:
        codes: NDArray[Any] = groups.astype(np.uint16)
        return codes, np.bincount(codes)
    _, codes, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    return (codes.astype(np.uint16) if len(sizes) <= _SMALL else codes), sizes


def _members(codes: NDArray[Any], wanted: NDArray[np.bool_]) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Number and ascending rows of each group that is wanted."""
    rows = np.flatnonzero(wanted[codes])
    held = codes[rows]
    order = np.argsort(held, kind="stable")  # radix sort on 16 bits: linear
    ends = np.cumsum(np.bincount(held, minlength=len(wanted)))
    for group in np.flatnonzero(wanted).tolist():
        yield group, rows[order[ends[group - 1] if group else 0 : ends[group]]]
