"""Class quotas: how many rows each class gets is decided first, which ones by any selector inside the class.

In all of them a class too small for its quota is taken whole, and what it leaves goes to the other classes in
proportion to their own shares. Rows never scored come first within their class.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from datadiet.checks import ArgumentError, Problems
from datadiet.records import Selection
from datadiet.selectors.grouped import ranking, top_of_groups
from datadiet.selectors.inputs import Floats, Selector, checked, checked_groups, selection
from datadiet.selectors.parts import encoded, even_places, inside, members, shared_places, together
from datadiet.selectors.ranked import easiest, hardest
from datadiet.selectors.ties import mix
from datadiet.selectors.uniform import random

_STREAM = 9  # of the generator, so that no two selectors share their draws
_NAMED = 10  # groups that an error names
DIRECTIONS: Mapping[str, Selector] = {"hard": hardest, "easy": easiest}

ByGroup = Mapping[Any, Any]


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

    Example:
        >>> balanced([9, 8, 7, 6, 2, 1], 4, seed=0, epoch=0, groups=["a", "a", "a", "a", "b", "b"]).rows
        array([0, 1, 4, 5])

    Source: the `balance` option of DeepCore (Guo et al. 2022), with exact counts.
    """
    array, count = checked(values, count, seed=seed, epoch=epoch, groups=groups, ids=ids)
    codes, sizes, _ = encoded(checked_groups(groups, "balanced"))
    places = shared_places(sizes, np.ones(len(sizes)), count)
    return _by_class(select, array, groups, codes, places, seed=seed, epoch=epoch, **options)


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

    Example:
        >>> groups = ["a"] * 4 + ["b"] * 2
        >>> quota([9, 8, 7, 6, 2, 1], 4, seed=0, epoch=0, groups=groups, shares={"a": 0.75, "b": 0.25}).rows
        array([0, 1, 2, 4])

    Source: class-balanced coverage (he-y/NLP-Dataset-Pruning), whose totals fall short, since every class is rounded
    down; here the count is exact.
    """
    problems = Problems()
    _check_given(shares, "shares", problems)
    if shares is not None and not problems.found:
        total = float(sum(shares.values()))
        problems.check(abs(total - 1) < 1e-6, f"shares must sum to 1, got {total:g}.")
    array, count = checked(values, count, seed=seed, epoch=epoch, groups=groups, ids=ids, problems=problems)
    codes, sizes, names = encoded(checked_groups(groups, "quota"))
    wanted = sizes.astype(np.float64) if shares is None else _by_group(shares, "shares", sizes, names)
    places = shared_places(sizes, wanted, count)
    return _by_class(select, array, groups, codes, places, seed=seed, epoch=epoch, **options)


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
        select: Any selector, which chooses inside each class; at random, as published, unless told otherwise.
            `options` are passed on to it.

    Returns:
        Exactly `count` rows, ascending.

    Raises:
        ArgumentError: If values, groups or recalls do not fit.

    Example:
        >>> groups, recalls = np.repeat(["easy", "hard"], [60, 40]), {"easy": 0.9, "hard": 0.4}
        >>> chosen = drop_quota(np.zeros(100), 20, seed=0, epoch=0, groups=groups, recalls=recalls)
        >>> np.bincount(chosen.rows // 60).tolist()
        [4, 16]

    Source: DRoP (ICLR 2025), distributionally robust pruning. A class with a recall of 1 gets nothing until the others
    are full: put a floor under it (`with_floor`).
    """
    problems = Problems()
    problems.check(recalls is not None, "drop_quota needs recalls, the validation recall of each class, got none.")
    _check_given(recalls, "recalls", problems, most=1.0)
    array, count = checked(values, count, seed=seed, epoch=epoch, groups=groups, ids=ids, problems=problems)
    codes, sizes, names = encoded(checked_groups(groups, "drop_quota"))
    recall = _by_group(recalls or {}, "recalls", sizes, names)
    places = shared_places(sizes, (1 - recall) * sizes, count)
    return _by_class(select, array, groups, codes, places, seed=seed, epoch=epoch, **options)


def directed(
    values: ArrayLike,
    count: int,
    *,
    seed: int,
    epoch: int,
    groups: ArrayLike | None = None,
    ids: Sequence[str] | None = None,
    directions: ByGroup | None = None,
    default: str = "hard",
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

    Example:
        >>> groups = ["yes"] * 4 + ["no"] * 4
        >>> values = [1, 2, 3, 4, 5, 6, 7, 8]
        >>> directed(values, 4, seed=0, epoch=0, groups=groups, directions={"yes": "easy"}).rows
        array([0, 1, 6, 7])

    Source: the sexism-detection follow-ups of "Sexism Detection on a Data Diet" (arXiv 2406.04892), where shortcuts sit
    in easy positives and hard negatives, so that one direction for all classes is wrong for one of them.
    """
    problems = Problems()
    given = {str(group): direction for group, direction in (directions or {}).items()}
    for direction in dict.fromkeys((default, *given.values())):
        problems.choice("direction", direction, DIRECTIONS)
    array, count = checked(values, count, seed=seed, epoch=epoch, groups=groups, ids=ids, problems=problems)
    codes, sizes, names = encoded(checked_groups(groups, "directed"))
    strangers = sorted(set(given) - {str(name) for name in names.tolist()})
    problems.check(not strangers, f"directions name classes that do not exist: {_listed(strangers)}.")
    problems.raise_any()
    places = even_places(sizes, count, seed=seed, epoch=epoch, stream=_STREAM)
    parts = []
    for group, rows in members(codes, places > 0):
        select = DIRECTIONS[given.get(str(names[group]), default)]
        parts.append(inside(select, array, rows, int(places[group]), seed=mix(seed, group), epoch=epoch))
    return together(array.size, parts)


def _by_class(
    select: Selector,
    values: Floats,
    groups: ArrayLike | None,
    codes: NDArray[Any],
    places: NDArray[np.int64],
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
        own, held = mix(seed, group), np.asarray(groups)
        parts.append(inside(select, values, rows, int(places[group]), seed=own, epoch=epoch, groups=held, **options))
    return together(values.size, parts)


def _check_given(given: ByGroup | None, name: str, problems: Problems, most: float = np.inf) -> None:
    limits = "at least 0" if most == np.inf else f"in [0, {most:g}]"
    for key, value in (given or {}).items():
        fits = isinstance(value, Real) and 0 <= float(value) <= most and float(value) < np.inf
        problems.check(fits, f"{name} must be {limits}, got {value!r} for {str(key)!r}.")


def _by_group(given: ByGroup, name: str, sizes: NDArray[np.int64], names: NDArray[Any]) -> NDArray[np.float64]:
    """What is given for each group, `(groups,)`; classes are told apart by their text, 0 where a group has no row."""
    texts = {str(key): value for key, value in given.items()}
    present = [(group, str(names[group])) for group in np.flatnonzero(sizes).tolist()]
    missing = [text for _, text in present if text not in texts]
    if missing:
        raise ArgumentError(f"{name} must name every class; missing: {_listed(missing)}.")
    found = np.zeros(len(sizes))
    for group, text in present:
        found[group] = texts[text]
    return found


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(repr(name) for name in names[:_NAMED]) + more
