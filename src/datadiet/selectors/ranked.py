"""Selectors that go by rank alone: the hardest rows, the easiest, a window below the very hardest, the middle."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import numpy as np
from numpy.typing import ArrayLike, NDArray

from datadiet.errors import ArgumentError
from datadiet.registry import ShareBelowOne, selector
from datadiet.selectors.base import Floats, Rows, TieBreak, checked, row_hash, selection, top_mask, unseen
from datadiet.types import Selection


class OffsetError(ArgumentError):
    """The offset excludes so many rows that fewer than `count` are left."""


@selector(
    formula="the `count` largest values; beware of noisy or ambiguous labels",
    paper="Paul, Ganguli and Dziugaite 2021, arXiv 2107.07075; refreshed: Attendu and Corbeil 2023, arXiv 2306.03208",
    inputs="values, --offset",
    cost="O(n)",
    loses="on noisy or ambiguous labels, which it keeps; rare classes that are easy can vanish without a floor",
    preset={"offset": 0.0},
    traits=("takes_offset", "takes_tolerance", "guarded"),
    evidence="methods",
)
def hardest(
    values: ArrayLike,
    count: int,
    *,
    seed: int,
    epoch: int,
    groups: ArrayLike | None = None,
    ids: Sequence[str] | None = None,
    offset: Annotated[float, ShareBelowOne] = 0.0,
    tie_break: TieBreak = "hash",
) -> Selection:
    """The rows with the largest values; with an offset, below the very hardest, which are suspected noise.

    Ranks `round(offset * n)` to `round(offset * n) + count` of the n values, hardest first. Rows never scored (+inf)
    come first and do not count towards the offset, which is then a share of the others.

    Args:
        values: float `(n,)`; larger = harder, +inf = never scored.
        count: How many, in [1, n].
        seed, epoch: Of the tie-break.
        groups: Not used; see `with_floor`.
        ids: The user's names of the rows, for errors.
        offset: Share of the rows excluded, in [0, 1). It has no effect where `count` is n.
        tie_break: `hash` gives tied rows an equal chance, anew at every epoch; `row` takes the lowest rows.

    Returns:
        Exactly `count` rows, ascending.

    Raises:
        ArgumentError: If values or options do not fit; `OffsetError` if the offset leaves fewer than `count` rows.

    Examples:
        >>> hardest([0.1, 0.9, 0.5, 0.7], 2, seed=0, epoch=0).rows
        array([1, 3])
        >>> hardest([0.1, 0.9, 0.5, 0.7], 2, seed=0, epoch=0, offset=0.25).rows
        array([2, 3])

    Source: Attendu and Corbeil 2023 (arXiv 2306.03208), section 3. They cut at quantiles, which keeps more than `count`
    rows where values tie. Beware: on noisy or ambiguous labels the hardest rows are mostly wrong or unanswerable
    ones; set an offset there, or use `uncertain`.
    """
    array, count = checked(values, count, seed=seed, epoch=epoch, groups=groups, ids=ids)
    new = unseen(array)
    scored = array.size - int(np.count_nonzero(new))
    check_room("an offset", count, offset, array.size)
    # half to even, as in the published experiments' exact form; never more than the check above allows for
    excluded = round(offset * scored) if array.size - scored < count < array.size else 0
    mask = top_mask(array, count + excluded, seed=seed, epoch=epoch, tie_break=tie_break)
    if excluded:
        above = top_mask(array, array.size - scored + excluded, seed=seed, epoch=epoch, tie_break=tie_break)
        mask &= ~above | new
    return selection(mask)


@selector(
    formula="skip the hardest share `offset` as suspected noise, then the `count` largest",
    paper="Paul, Ganguli and Dziugaite 2021, arXiv 2107.07075, section 4; Attendu and Corbeil 2023, arXiv 2306.03208",
    inputs="values, --offset",
    cost="O(n)",
    loses="on clean labels, where the rows it skips are those to learn from",
    traits=("takes_offset",),
    preset={"offset": 0.05},
    evidence="corpus-selection",
)
def window(
    values: ArrayLike,
    count: int,
    *,
    seed: int,
    epoch: int,
    offset: Annotated[float, ShareBelowOne],
    groups: ArrayLike | None = None,
    ids: Sequence[str] | None = None,
    tie_break: TieBreak = "hash",
) -> Selection:
    """The hardest rows below an offset: `hardest` with an offset that must be given, and above 0.

    Args:
        values, count, seed, epoch, groups, ids, tie_break: As for `hardest`.
        offset: Share of the very hardest rows that is excluded, in (0, 1).

    Returns:
        Exactly `count` rows, ascending.

    Raises:
        ArgumentError: As for `hardest`, and for an offset of 0.

    Examples:
        >>> window([0.1, 0.9, 0.5, 0.7], 1, seed=0, epoch=0, offset=0.5).rows
        array([2])

    Source: Paul, Ganguli and Dziugaite 2021, section 4, where a window below the hardest examples is best on noisy
    labels.
    """
    if offset == 0:
        raise ArgumentError("window needs an offset above 0, e.g. offset=0.05; without one it is the selector hardest.")
    return hardest(values, count, seed=seed, epoch=epoch, groups=groups, ids=ids, offset=offset, tie_break=tie_break)


@selector(
    formula="the `count` smallest values",
    paper="Sorscher et al. 2022, arXiv 2206.14486, section 2",
    inputs="values",
    cost="O(n)",
    loses="nearly always: a model learns nothing from what it knows already",
    evidence="corpus-selection",
)
def easiest(
    values: ArrayLike,
    count: int,
    *,
    seed: int,
    epoch: int,
    groups: ArrayLike | None = None,
    ids: Sequence[str] | None = None,
    tie_break: TieBreak = "hash",
) -> Selection:
    """The rows with the smallest values; rows never scored (+inf) come first here too.

    Args:
        values, count, seed, epoch, groups, ids, tie_break: As for `hardest`.

    Returns:
        Exactly `count` rows, ascending.

    Raises:
        ArgumentError: If values or options do not fit.

    Examples:
        >>> easiest([0.1, 0.9, float("inf"), 0.7], 2, seed=0, epoch=0).rows
        array([0, 2])

    Source: Sorscher et al. 2022 (arXiv 2206.14486), section 2: with little data, easy examples teach more.
    """
    array, count = checked(values, count, seed=seed, epoch=epoch, groups=groups, ids=ids)
    return selection(top_mask(easy_keys(array), count, seed=seed, epoch=epoch, tie_break=tie_break))


def easy_keys(values: Floats) -> Floats:
    """Keys that are largest where values are smallest, or where a row was never scored."""
    keys = -values
    keys[unseen(values)] = np.inf
    return keys


def check_room(what: str, count: int, offset: float, size: int) -> None:
    """Check that `count` rows are left beside the whole offset, as if all rows were scored.

    So whether an offset fits does not depend on the values.

    Args:
        what: `an offset`, or an option of that meaning.
        count: How many are kept.
        offset: Share of the rows that is excluded.
        size: How many rows there are.

    Raises:
        OffsetError: If fewer than `count` are left.
    """
    excluded = round(offset * size)
    if count < size < count + excluded:
        raise OffsetError(
            f"{what} of {offset:g} excludes {excluded} of {size} rows, which leaves {size - excluded} for a count of "
            f"{count}. Lower the {what.split()[-1]} or keep less."
        )


@selector(
    formula="the middle of the values, percentiles 0.5 - keep / 2 to 0.5 + keep / 2; also per class",
    paper="Xia et al. 2023 (Moderate Coreset), ICLR",
    inputs="values, best the score of that name",
    cost="O(n log n)",
    loses="on clean labels, where rows far from the middle teach most",
    preset={"score": "moderate", "static": True},
)
def moderate(
    values: ArrayLike,
    count: int,
    *,
    seed: int,
    epoch: int,
    groups: ArrayLike | None = None,
    ids: Sequence[str] | None = None,
    per_group: bool = False,
) -> Selection:
    """The rows in the middle: neither the most usual nor the most unusual.

    Ranks `round((n - count) / 2)` to that plus `count` of the n values: percentiles 0.5 - keep / 2 to 0.5 + keep / 2.
    Rows never scored (+inf) come first, outside the band.

    Args:
        values: float `(n,)`; in the published method distances to the class median,
            `datadiet.scores.embeddings.moderate`.
        count: How many, in [1, n].
        seed, epoch: Of the tie-break.
        groups: `(n,)`, needed for `per_group`.
        ids: The user's names of the rows, for errors.
        per_group: A band in every group, in proportion to its rows and of one row at least where the count allows it.

    Returns:
        Exactly `count` rows, ascending.

    Raises:
        ArgumentError: If values or options do not fit.

    Examples:
        >>> moderate([0.1, 0.9, 0.5, 0.7, 0.3], 3, seed=0, epoch=0).rows
        array([2, 3, 4])

    Source: Xia et al. 2023 (Moderate Coreset, ICLR), section 3, with an exact count. Their code takes one band over all
    classes, in which classes of very large or very small spread vanish: `per_group=True` keeps them.
    """
    if per_group and groups is None:
        raise ArgumentError("per_group needs the groups, got none: give the class of each row.")
    array, count = checked(values, count, seed=seed, epoch=epoch, groups=groups, ids=ids)
    new = unseen(array)
    waiting = int(np.count_nonzero(new))
    if count <= waiting:
        return selection(top_mask(array, count, seed=seed, epoch=epoch))
    scored = np.flatnonzero(~new)
    ranked = scored[np.lexsort((row_hash(scored, seed=seed, epoch=epoch), array[scored]))]
    mask = new.copy()
    if not per_group:
        mask[_band(ranked, count - waiting)] = True
        return selection(mask)
    codes = np.unique(np.asarray(groups), return_inverse=True)[1][ranked]
    places = proportional_places(np.bincount(codes), count - waiting)
    for code, number in enumerate(places.tolist()):
        mask[_band(ranked[codes == code], number)] = True
    return selection(mask)


def _band(ranked: Rows, count: int) -> Rows:
    start = round((len(ranked) - count) / 2)
    return ranked[start : start + count]


def proportional_places(sizes: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Places for each group in proportion to its size, at least one where there are enough places.

    Args:
        sizes: `(groups,)` rows of each.
        count: Places, at most all rows.

    Returns:
        int64 `(groups,)` that sum to `count`, none above its size; the largest remainders are rounded up.

    Examples:
        >>> proportional_places(np.array([9, 7, 4, 1]), 11)
        array([5, 3, 2, 1])
    """
    one_each = (sizes > 0).astype(np.int64)
    places = one_each if one_each.sum() <= count else np.zeros_like(one_each)
    while (left := count - int(places.sum())) > 0:
        free = sizes - places
        share = free * (left / free.sum())
        whole = np.floor(share + 1e-9).astype(np.int64)
        if not whole.any():
            whole[np.argsort(whole - share, kind="stable")[:left]] = 1
            whole = np.minimum(whole, free)
        places = places + whole
    return places
