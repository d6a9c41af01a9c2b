"""Floors under the groups: no class vanishes because the model finds it easy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from datadiet.checks import ArgumentError, Problems, percent_hint
from datadiet.records import Selection
from datadiet.selectors.grouped import ranking, top_with_floors
from datadiet.selectors.inputs import Floats, Selector, checked, checked_groups, selection
from datadiet.selectors.parts import encoded, in_groups, inside, members, together
from datadiet.selectors.ranked import hardest
from datadiet.selectors.ties import mix

_MOST_NAMED = 5


def floor_problems(minimum: int, sizes: Mapping[str, int], count: int) -> list[str]:
    """Why a floor cannot hold in a data set; nothing where it can.

    Args:
        minimum: Rows per class; 0 = no floor.
        sizes: Rows of each class, by name.
        count: Rows that are kept, at the least.

    Example:
        >>> floor_problems(5, {"usual": 90, "rare": 4}, 50)
        ["a floor of 5 rows per class is more than there are of 'rare' (4); lower it to 4 or less."]
        >>> floor_problems(4, {"usual": 90, "rare": 4}, 6)
        ['a floor of 4 rows in each of 2 classes needs 8 rows, but only 6 are kept. Lower the floor or keep more.']
    """
    found = []
    if small := [f"{name!r} ({size})" for name, size in sorted(sizes.items()) if size < minimum]:
        more = f" and {len(small) - _MOST_NAMED} more" if len(small) > _MOST_NAMED else ""
        found.append(
            f"a floor of {minimum} rows per class is more than there are of {', '.join(small[:_MOST_NAMED])}{more}; "
            f"lower it to {min(sizes.values())} or less."
        )
    if (needed := sum(min(minimum, size) for size in sizes.values())) > count:
        found.append(_crowded(minimum, len(sizes), needed, count))
    return found


def with_floor(select: Selector, minimum: int) -> Selector:
    """A selector that keeps at least `minimum` rows of every group, or the whole group where it is smaller.

    That is for rows that were left out of a data set beforehand, whose classes `floor_problems` has looked at.

    `select` chooses among all rows. A group of which it takes too few gets its floor, chosen by `select` inside the
    group; the other places go to `select` over the rows of the other groups, until every floor holds. Where floors
    leave too little room for an offset, the offset is given up. Loss weights of `select` are kept: those of each
    part sum to its size.

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
        named = checked_groups(groups, f"a floor of {minimum} rows per group")
        codes, sizes, _ = encoded(named)
        floors = np.minimum(sizes, minimum)
        _check_floors(int(floors.sum()), count, minimum, int(np.count_nonzero(sizes)))
        return _floored(select, array, count, named, codes, floors, seed=seed, epoch=epoch, **options)

    return floored


def partly_balanced(
    values: ArrayLike,
    count: int,
    *,
    seed: int,
    epoch: int,
    groups: ArrayLike | None = None,
    ids: Sequence[str] | None = None,
    balance: float = 0.5,
    select: Selector = hardest,
    **options: Any,
) -> Selection:
    """By score, but every group keeps at least a part of what it would have if all groups were pruned alike.

    Group c of n_c rows keeps at least `floor(balance * count * n_c / n)`; the score decides over the other places.

    Args:
        values, count, seed, epoch, ids: As for `hardest`.
        groups: `(n,)`, the class of each row; needed.
        balance: In [0, 1]: 0 leaves everything to the score, 1 keeps the classes in their proportions.
        select: Any selector; `options` are passed on to it.

    Returns:
        Exactly `count` rows, ascending.

    Raises:
        ArgumentError: If values, groups or options do not fit.

    Example:
        >>> groups = ["a"] * 4 + ["b"] * 4
        >>> partly_balanced([8, 7, 6, 5, 4, 3, 2, 1], 4, seed=0, epoch=0, groups=groups).rows
        array([0, 1, 2, 4])

    Source: Sorscher et al. 2022 (arXiv 2206.14486), whose runs balance classes to 50 %, because every metric that they
    tried makes uneven classes more uneven.
    """
    problems = Problems()
    problems.check(0 <= balance <= 1, f"balance must be in [0, 1], got {balance}.{percent_hint(balance)}")
    array, count = checked(values, count, seed=seed, epoch=epoch, groups=groups, ids=ids, problems=problems)
    named = checked_groups(groups, "partly_balanced")
    codes, sizes, _ = encoded(named)
    floors = np.floor(np.round(balance * count * sizes / array.size, 9)).astype(np.int64)
    return _floored(select, array, count, named, codes, floors, seed=seed, epoch=epoch, **options)


def _floored(
    select: Selector,
    values: Floats,
    count: int,
    groups: NDArray[Any],
    codes: NDArray[Any],
    floors: NDArray[np.int64],
    *,
    seed: int,
    epoch: int,
    **options: Any,
) -> Selection:
    """`select` over everything, and over what is left once the groups below their floor have it."""
    if (order := ranking(select, options, values, seed=seed, epoch=epoch)) is not None:
        return selection(top_with_floors(order, count, codes, floors))
    at_floor = np.zeros(len(floors), np.bool_)  # groups that get their floor and no more
    while True:
        if not at_floor.any():
            chosen = select(values, count, seed=seed, epoch=epoch, groups=groups, **options)
        else:
            free, places = np.flatnonzero(~in_groups(codes, at_floor)), count - int(floors[at_floor].sum())
            chosen = inside(select, values, free, places, seed=seed, epoch=epoch, groups=groups, **options)
        short = (np.bincount(codes[chosen.rows], minlength=len(floors)) < floors) & ~at_floor
        if not short.any():
            break
        at_floor |= short
    parts = [chosen]
    for group, rows in members(codes, at_floor):
        own = mix(seed, group)
        parts.append(inside(select, values, rows, int(floors[group]), seed=own, epoch=epoch, groups=groups, **options))
    return together(values.size, parts)


def _check_floors(needed: int, count: int, minimum: int, groups: int) -> None:
    if needed > count:
        raise ArgumentError(_crowded(minimum, groups, needed, count))


def _crowded(minimum: int, classes: int, needed: int, count: int) -> str:
    return (
        f"a floor of {minimum} rows in each of {classes} classes needs {needed} rows, but only {count} are kept. "
        "Lower the floor or keep more."
    )
