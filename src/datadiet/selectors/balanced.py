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
_CHUNK = 1 << 18  # rows sorted at a time


def with_floor(select: Selector, minimum: int) -> Selector:
    """A selector that keeps at least `minimum` rows of every group, or the whole group where it is smaller.

    The floors are filled first, by `select` inside each group; the places that are left go to `select` over all
    remaining rows. A group that is too small for its floor and an offset both gives up the offset.

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
        mask = np.zeros(array.size, np.bool_)
        for group, rows in _members(codes, sizes):
            part = _inside(select, array[rows], int(floors[group]), seed=mix(seed, group), epoch=epoch, **options)
            mask[rows[part.rows]] = True
        left = count - int(floors.sum())
        if left:
            rest = np.flatnonzero(~mask)
            mask[rest[select(array[rest], left, seed=seed, epoch=epoch, **options).rows]] = True
        return selection(mask)

    return floored


def _inside(select: Selector, values: Floats, count: int, *, seed: int, epoch: int, **options: Any) -> Selection:
    try:
        return select(values, count, seed=seed, epoch=epoch, **options)
    except OffsetError:
        return hardest(values, count, seed=seed, epoch=epoch)  # the floor is promised, the offset is a guess


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


def _members(codes: NDArray[Any], sizes: NDArray[np.int64]) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Number and ascending rows of each group that has any."""
    # Sorted piece by piece, the sort stays in the cache; with very many groups the pieces would be crumbs.
    step = _CHUNK if len(sizes) <= _CHUNK // 64 else len(codes)
    pieces = []
    for begin in range(0, len(codes), step):
        part = codes[begin : begin + step]
        order = np.argsort(part, kind="stable") + begin  # radix sort on 16 bits: linear
        ends = np.cumsum(np.bincount(part, minlength=len(sizes)))
        pieces.append((order, ends))
    for group in np.flatnonzero(sizes).tolist():
        yield group, np.concatenate([order[ends[group - 1] if group else 0 : ends[group]] for order, ends in pieces])
