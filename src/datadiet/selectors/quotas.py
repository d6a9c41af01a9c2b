"""Floors and quotas: how many rows each class gets is fixed first, which ones is up to any selector.

A floor is a least number of rows per class, a quota an exact one. A class too small for its quota is taken whole, and
the places that it leaves go to the other classes in proportion to their own shares. Rows never scored come first
within their class.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from datadiet.errors import ArgumentError, Problems, quoted
from datadiet.registry import UnitShare, selector
from datadiet.selectors.base import (
    Floats,
    Selector,
    checked,
    checked_groups,
    crowded,
    listed,
    mix,
    selection,
)
from datadiet.selectors.groups import (
    Counts,
    encoded,
    even_places,
    in_groups,
    inside,
    members,
    ranking,
    shared_places,
    together,
    top_of_groups,
    top_with_floors,
)
from datadiet.selectors.ranked import easiest, hardest
from datadiet.selectors.sampled import random
from datadiet.types import IGNORED, Selection

_STREAM = 9  # of the generator, so that no two selectors share their draws
Direction = Literal["hard", "easy"]
DIRECTIONS: Mapping[str, Selector] = {"hard": hardest, "easy": easiest}
ByGroup = Mapping[Any, Any]


def with_floor(select: Selector, minimum: int) -> Selector:
    """A selector that keeps at least `minimum` rows of every group, or the whole group where it is smaller.

    `select` chooses among all rows. A group of which it takes too few gets its floor, chosen by `select` inside the
    group; the other places go to `select` over the rows of the other groups, until every floor holds. Where floors
    leave too little room for an offset, the offset is ignored. Loss weights of `select` are kept: those of each part
    sum to its size. `floor_problems` names the classes of a data set that are smaller than the floor.

    Args:
        select: Any selector; its options are passed on.
        minimum: Rows per group, at least 1.

    Returns:
        A selector that needs `groups`, `(n,)` of whole numbers or strings; -100 is no group and has no floor. It raises
        ArgumentError where they are missing or the floors together exceed the count.

    Raises:
        ArgumentError: If `minimum` is no whole number, or below 1.

    Examples:
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
        names = checked_groups(groups, f"a floor of {minimum} rows per group")
        codes, sizes, named = encoded(names)
        floors = np.minimum(sizes, minimum)
        floors[named == IGNORED] = 0  # no class
        if (needed := int(floors.sum())) > count:
            raise ArgumentError(crowded(minimum, int(np.count_nonzero(floors)), needed, count))
        return _floored(select, array, count, names, codes, floors, seed=seed, epoch=epoch, **options)

    return floored


@selector(
    formula="by score, but each class keeps at least balance * count * n_c / n",
    paper="Sorscher et al. 2022, arXiv 2206.14486: balancing of 50 %",
    inputs="values, classes, balance",
    cost="O(n)",
    loses="rare classes stay rare: it guards their proportion, not their number",
    needs=("groups",),
    traits=("fills_classes",),
)
def partly_balanced(
    values: ArrayLike,
    count: int,
    *,
    seed: int,
    epoch: int,
    groups: ArrayLike | None = None,
    ids: Sequence[str] | None = None,
    balance: Annotated[float, UnitShare] = 0.5,
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

    Examples:
        >>> groups = ["a"] * 4 + ["b"] * 4
        >>> partly_balanced([8, 7, 6, 5, 4, 3, 2, 1], 4, seed=0, epoch=0, groups=groups).rows
        array([0, 1, 2, 4])

    Source: Sorscher et al. 2022 (arXiv 2206.14486), whose runs balance classes to 50 %, because every metric that they
    tried makes uneven classes more uneven.
    """
    array, count = checked(values, count, seed=seed, epoch=epoch, groups=groups, ids=ids)
    names = checked_groups(groups, "partly_balanced")
    codes, sizes, _ = encoded(names)
    floors = np.floor(np.round(balance * count * sizes / array.size, 9)).astype(np.int64)
    return _floored(select, array, count, names, codes, floors, seed=seed, epoch=epoch, **options)


def _floored(
    select: Selector,
    values: Floats,
    count: int,
    groups: NDArray[Any],
    codes: NDArray[Any],
    floors: Counts,
    *,
    seed: int,
    epoch: int,
    **options: Any,
) -> Selection:
    """`select` over everything, then over the rows of the groups that are not held at their floor."""
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


@selector(
    formula="the same number from every class, by default the hardest inside each",
    paper="balance of DeepCore, Guo et al. 2022",
    inputs="values, classes",
    cost="O(n)",
    loses="where the test data is as uneven as the training data and accuracy is what counts",
    needs=("groups",),
    traits=("fills_classes",),
)
def balanced(
    values: ArrayLike,
    count: int,
    *,
    seed: int,
    epoch: int,
    groups: ArrayLike | None = None,
    ids: Sequence[str] | None = None,
    select: Selector = hardest,
    **options: Any,
) -> Selection:
    """The same number of rows from every class, as far as the classes reach.

    A class with fewer rows is taken whole; the places that it leaves are shared out evenly among the others.

    Args:
        values, count, seed, epoch, ids: As for `hardest`.
        groups: `(n,)`, the class of each row; needed.
        select: Any selector, which chooses inside each class; `options` are passed on to it. Its loss weights are
            kept: they sum to the class's size.

    Returns:
        Exactly `count` rows, ascending.

    Raises:
        ArgumentError: If values or groups do not fit.

    Examples:
        >>> balanced([9, 8, 7, 6, 2, 1], 4, seed=0, epoch=0, groups=["a", "a", "a", "a", "b", "b"]).rows
        array([0, 1, 4, 5])

    Source: the `balance` option of DeepCore (Guo et al. 2022), with exact counts.
    """
    array, count = checked(values, count, seed=seed, epoch=epoch, groups=groups, ids=ids)
    codes, sizes, _ = encoded(checked_groups(groups, "balanced"))
    places = shared_places(sizes, np.ones(len(sizes)), count)
    return _by_class(select, array, groups, codes, places, seed=seed, epoch=epoch, **options)


@selector(
    formula="a share of the places for every class, by default its proportion; inside by any selector",
    paper="class-balanced coverage of He et al., SCDP, COLING 2025, with exact counts",
    inputs="values, classes, shares",
    cost="O(n)",
    loses="where one class holds most of what is left to learn",
    needs=("groups",),
    traits=("fills_classes",),
)
def quota(
    values: ArrayLike,
    count: int,
    *,
    seed: int,
    epoch: int,
    groups: ArrayLike | None = None,
    ids: Sequence[str] | None = None,
    shares: ByGroup | None = None,
    select: Selector = hardest,
    **options: Any,
) -> Selection:
    """A given share of the places for every class; without shares, the classes in the proportions that they have.

    Args:
        values, count, seed, epoch, ids: As for `hardest`.
        groups: `(n,)`, the class of each row; needed.
        shares: Share of the places by class, each at least 0, together 1; every class that there is must be named.
            None keeps the proportions, rounded by largest remainder.
        select: Any selector, which chooses inside each class; `options` are passed on to it.

    Returns:
        Exactly `count` rows, ascending.

    Raises:
        ArgumentError: If values, groups or shares do not fit.

    Examples:
        >>> groups = ["a"] * 4 + ["b"] * 2
        >>> quota([9, 8, 7, 6, 2, 1], 4, seed=0, epoch=0, groups=groups, shares={"a": 0.75, "b": 0.25}).rows
        array([0, 1, 2, 4])

    Source: class-balanced coverage (he-y/NLP-Dataset-Pruning), whose totals fall short, since every class is rounded
    down; here the count is exact.
    """
    problems = Problems()
    problems.found += shares_problems(shares)
    array, count = checked(values, count, seed=seed, epoch=epoch, groups=groups, ids=ids, problems=problems)
    codes, sizes, names = encoded(checked_groups(groups, "quota"))
    exact = sizes.astype(np.float64) if shares is None else _by_group(shares, "shares", sizes, names)
    places = shared_places(sizes, exact, count)
    return _by_class(select, array, groups, codes, places, seed=seed, epoch=epoch, **options)


@selector(
    formula="density of class k ~ 1 - recall_k on validation data, at most 1; at random inside each",
    paper="DRoP, ICLR 2025",
    inputs="classes, recalls",
    cost="O(n), one evaluation",
    loses="on average accuracy, which it trades for the worst class; a class with recall 1 vanishes without a floor",
    needs=("groups", "recalls"),
    traits=("fills_classes",),
    named_alone=False,
)
def drop_quota(
    values: ArrayLike,
    count: int,
    *,
    seed: int,
    epoch: int,
    groups: ArrayLike | None = None,
    ids: Sequence[str] | None = None,
    recalls: ByGroup | None = None,
    select: Selector = random,
    **options: Any,
) -> Selection:
    """More of the classes that the model gets wrong: density in proportion to 1 - recall.

    Class k of n_k rows keeps the share `d_k ~ 1 - recall_k` of its rows, at most all of them, with
    `sum d_k n_k = count`; what a full class cannot take is shared out among the others.

    Args:
        values, count, seed, epoch, ids: As for `hardest`.
        groups: `(n,)`, the class of each row; needed.
        recalls: Recall of each class on validation data, in [0, 1]; needed, every class that there is must be named.
        select: Any selector, which chooses inside each class; by default at random, as published. `options` are
            passed on to it.

    Returns:
        Exactly `count` rows, ascending.

    Raises:
        ArgumentError: If values, groups or recalls do not fit.

    Examples:
        >>> groups, recalls = np.repeat(["easy", "hard"], [60, 40]), {"easy": 0.9, "hard": 0.4}
        >>> chosen = drop_quota(np.zeros(100), 20, seed=0, epoch=0, groups=groups, recalls=recalls)
        >>> np.bincount(chosen.rows // 60).tolist()
        [4, 16]

    Source: DRoP (ICLR 2025), distributionally robust pruning. A class with a recall of 1 gets nothing until the others
    are full: put a floor under it (`with_floor`).
    """
    problems = Problems()
    problems.check(recalls is not None, "drop_quota needs recalls, the validation recall of each class, got none.")
    _check_numbers(recalls, "recalls", problems, most=1.0)
    array, count = checked(values, count, seed=seed, epoch=epoch, groups=groups, ids=ids, problems=problems)
    codes, sizes, names = encoded(checked_groups(groups, "drop_quota"))
    recall = _by_group(recalls or {}, "recalls", sizes, names)
    places = shared_places(sizes, (1 - recall) * sizes, count)
    return _by_class(select, array, groups, codes, places, seed=seed, epoch=epoch, **options)


@selector(
    formula="hardest of some classes, easiest of others, in their proportions",
    paper="after Sexism Detection on a Data Diet, arXiv 2406.04892",
    inputs="values, classes, directions",
    cost="O(n)",
    loses="where the directions are guessed: choose them on dev",
    needs=("groups",),
    traits=("fills_classes",),
    named_alone=False,
)
def directed(
    values: ArrayLike,
    count: int,
    *,
    seed: int,
    epoch: int,
    groups: ArrayLike | None = None,
    ids: Sequence[str] | None = None,
    directions: ByGroup | None = None,
    default: Direction = "hard",
) -> Selection:
    """The hardest rows of some classes and the easiest of others, the classes in their proportions.

    Args:
        values, count, seed, epoch, ids: As for `hardest`.
        groups: `(n,)`, the class of each row; needed.
        directions: `hard` or `easy` by class.
        default: For classes that are not named.

    Returns:
        Exactly `count` rows, ascending; each class has its share, rounded so that on average none gains.

    Raises:
        ArgumentError: If values, groups or directions do not fit.

    Examples:
        >>> groups = ["yes"] * 4 + ["no"] * 4
        >>> values = [1, 2, 3, 4, 5, 6, 7, 8]
        >>> directed(values, 4, seed=0, epoch=0, groups=groups, directions={"yes": "easy"}).rows
        array([0, 1, 6, 7])

    Source: the sexism-detection follow-ups of "Sexism Detection on a Data Diet" (arXiv 2406.04892), where shortcuts sit
    in easy positives and hard negatives, so that one direction for all classes is wrong for one of them.
    """
    problems = Problems()
    by_name = {str(group): direction for group, direction in (directions or {}).items()}
    for direction in dict.fromkeys(by_name.values()):
        problems.choice("direction", direction, DIRECTIONS)
    array, count = checked(values, count, seed=seed, epoch=epoch, groups=groups, ids=ids, problems=problems)
    codes, sizes, names = encoded(checked_groups(groups, "directed"))
    if unknown := [repr(name) for name in sorted(set(by_name) - {str(name) for name in names.tolist()})]:
        raise ArgumentError(f"directions name classes that do not exist: {listed(unknown)}.")
    places = even_places(sizes, count, seed=seed, epoch=epoch, stream=_STREAM)
    parts = []
    for group, rows in members(codes, places > 0):
        select = DIRECTIONS[by_name.get(str(names[group]), default)]
        parts.append(inside(select, array, rows, int(places[group]), seed=mix(seed, group), epoch=epoch))
    return together(array.size, parts)


def _by_class(
    select: Selector,
    values: Floats,
    groups: ArrayLike | None,
    codes: NDArray[Any],
    places: Counts,
    *,
    seed: int,
    epoch: int,
    **options: Any,
) -> Selection:
    """`select` inside each class, as many rows as it has places."""
    if (order := ranking(select, options, values, seed=seed, epoch=epoch)) is not None:
        mask = np.zeros(values.size, np.bool_)
        top_of_groups(order, codes, places, mask)
        return selection(mask)
    parts = []
    for group, rows in members(codes, places > 0):
        own, names = mix(seed, group), np.asarray(groups)
        parts.append(inside(select, values, rows, int(places[group]), seed=own, epoch=epoch, groups=names, **options))
    return together(values.size, parts)


def _check_numbers(by_group: ByGroup | None, name: str, problems: Problems, most: float = np.inf) -> bool:
    """Note the numbers of an option by group that are out of bounds; True if there are none."""
    limits = "at least 0" if most == np.inf else f"in [0, {most:g}]"
    valid = True
    for key, value in (by_group or {}).items():
        if not (isinstance(value, Real) and 0 <= float(value) <= most and float(value) < np.inf):
            problems.add(f"{name} must be {limits}, got {quoted(value)} for {quoted(str(key))}.")
            valid = False
    return valid


def shares_problems(shares: ByGroup | None) -> list[str]:
    """What is wrong with the shares of a quota by themselves.

    Examples:
        >>> shares_problems({"a": 0.5, "b": 0.25})
        ['shares must sum to 1, got 0.75.']
    """
    problems = Problems()
    if _check_numbers(shares, "shares", problems) and shares is not None:
        total = float(sum(shares.values()))
        problems.check(abs(total - 1) < 1e-6, f"shares must sum to 1, got {total:g}.")
    return problems.found


def _by_group(by_group: ByGroup, name: str, sizes: Counts, names: NDArray[Any]) -> NDArray[np.float64]:
    """The number of each group, `(groups,)`; groups are matched by their text, 0 where a group has no row."""
    texts = {str(key): value for key, value in by_group.items()}
    present = [(group, str(names[group])) for group in np.flatnonzero(sizes).tolist()]
    missing = [repr(text) for _, text in present if text not in texts]
    if missing:
        raise ArgumentError(f"{name} must name every class; missing: {listed(missing)}.")
    numbers = np.zeros(len(sizes))
    for group, text in present:
        numbers[group] = texts[text]
    return numbers
