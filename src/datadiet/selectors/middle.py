"""The middle band of the values; and one selector for few rows, another for many."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from datadiet.checks import ArgumentError, Problems
from datadiet.records import Selection
from datadiet.selectors.inputs import Selector, checked, selection, unseen
from datadiet.selectors.ties import row_hash, top_mask


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
    Rows never scored (+inf) come first and are no part of the band.

    Args:
        values: float `(n,)`; in the published method distances to the class median, `datadiet.scores.moderate`.
        count: How many, in [1, n].
        seed, epoch: Of the tie-break.
        groups: `(n,)`, needed for `per_group`.
        ids: The user's names of the rows, for errors.
        per_group: A band in every group, in proportion to its rows and of one row at least where the count allows it.

    Returns:
        Exactly `count` rows, ascending.

    Raises:
        ArgumentError: If values or options do not fit.

    Example:
        >>> moderate([0.1, 0.9, 0.5, 0.7, 0.3], 3, seed=0, epoch=0).rows
        array([2, 3, 4])

    Source: Xia et al. 2023 (Moderate Coreset, ICLR), section 3, with an exact count. Their code takes one band over all
    classes, where those that spread widely or hardly at all vanish: `per_group=True` keeps them.
    """
    problems = Problems()
    if per_group and groups is None:
        problems.add("a middle band per group needs the groups, got none.")
    array, count = checked(values, count, seed=seed, epoch=epoch, groups=groups, ids=ids, problems=problems)
    new = unseen(array)
    waiting = int(np.count_nonzero(new))
    if count <= waiting:
        return selection(top_mask(array, count, seed=seed, epoch=epoch))
    known = np.flatnonzero(~new)
    ranked = known[np.lexsort((row_hash(known, seed=seed, epoch=epoch), array[known]))]
    mask = new.copy()
    if not per_group:
        mask[_band(ranked, count - waiting)] = True
        return selection(mask)
    codes = np.unique(np.asarray(groups), return_inverse=True)[1][ranked]
    quotas = proportional(np.bincount(codes), count - waiting)
    for code, quota in enumerate(quotas.tolist()):
        mask[_band(ranked[codes == code], quota)] = True
    return selection(mask)


def _band(ranked: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    start = round((len(ranked) - count) / 2)
    return ranked[start : start + count]


def proportional(sizes: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """How many places each group gets: in proportion to its size, at least one where there are enough places.

    Args:
        sizes: `(groups,)` rows of each.
        count: Places, at most all rows.

    Returns:
        int64 `(groups,)` that add up to `count`, none above its size; what is left over goes to the largest remainders.

    Example:
        >>> proportional(np.array([9, 7, 4, 1]), 11)
        array([5, 3, 2, 1])
    """
    held = (sizes > 0).astype(np.int64)
    given = held if held.sum() <= count else np.zeros_like(held)
    while (left := count - int(given.sum())) > 0:
        free = sizes - given
        share = free * (left / free.sum())
        whole = np.floor(share + 1e-9).astype(np.int64)
        if not whole.any():
            whole[np.argsort(whole - share, kind="stable")[:left]] = 1
            whole = np.minimum(whole, free)
        given = given + whole
    return given


def by_count(few: Selector, many: Selector, *, limit: int = 1500) -> Selector:
    """A selector that is `few` up to so many rows and `many` above: SCDP takes the farthest texts of small subsets.

    Args:
        few: Selects where the count is at most `limit`.
        many: Selects otherwise.
        limit: A number of rows that are kept.

    Returns:
        A selector of the common form; options go to whichever is used.

    Raises:
        ArgumentError: If the limit is no whole number, or below 1.

    Example:
        >>> from datadiet.selectors import easiest, hardest
        >>> select = by_count(hardest, easiest, limit=1)
        >>> select([1, 2, 3], 1, seed=0, epoch=0).rows, select([1, 2, 3], 2, seed=0, epoch=0).rows
        (array([2]), array([0, 1]))

    Source: SCDP (COLING 2025; he-y/NLP-Dataset-Pruning): the farthest if at most 1,500 are kept, else strata. The paper
    speaks of the size of the data set, the code tests that of the subset, as here.
    """
    problems = Problems()
    problems.whole("limit", limit, least=1)
    problems.raise_any()

    def select(values: ArrayLike, count: int, **options: Any) -> Selection:
        try:
            chosen = few if count <= limit else many
        except TypeError as error:
            raise ArgumentError(f"count must be a whole number, got {count!r}.") from error
        return chosen(values, count, **options)

    return select
