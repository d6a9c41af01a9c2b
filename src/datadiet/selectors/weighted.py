"""Selectors with loss weights, whose weighted sums stand for the whole set."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from datadiet.checks import Problems, percent_hint
from datadiet.records import Selection
from datadiet.selectors.inputs import Floats, checked, unseen
from datadiet.selectors.ties import largest
from datadiet.selectors.uniform import uniform_mask

_STREAM = 7  # of the generator, so that no two selectors share their draws


def infobatch(
    values: ArrayLike,
    count: int,
    *,
    seed: int,
    epoch: int,
    groups: ArrayLike | None = None,
    ids: Sequence[str] | None = None,
    reserve: float = 0.25,
) -> Selection:
    """Everything at or above the mean, and a draw from the rest that weighs more, so that sums stay unbiased.

    Rows with `value >= mean(values)` are kept and weigh 1. The other places go to a uniform draw from the rest; each
    row drawn weighs `rows of the rest / rows drawn`. The weights sum to n. Rows never scored (+inf) count as above.

    Where the rows at or above the mean would leave less than `reserve` of the places for the rest, the threshold is
    raised: only rows strictly above the `(1 - reserve) * count + 1`-th largest value are kept for sure, all others
    share the draw. So sums stay unbiased at any count, and no weight exceeds `n / (reserve * count)`. Where rows
    never scored take all places, they are drawn among themselves: of the others nothing stands for anything then.

    Args:
        values: float `(n,)`; larger = harder, usually losses; +inf = never scored, -inf is refused.
        count: How many, in [1, n]; `infobatch_count` gives the published number.
        seed, epoch: Of the draw.
        groups: Taken for the sake of the common form; see `balanced`.
        ids: The user's names of the rows, for errors.
        reserve: Least share of the places for the rest, in [0, 1); at least one place in any case.

    Returns:
        Exactly `count` rows, ascending, and their weights; no weights where every row weighs 1.

    Raises:
        ArgumentError: If values or options do not fit.

    Example:
        >>> infobatch([1, 1, 1, 9], 2, seed=0, epoch=0).weights
        array([3., 1.], dtype=float32)

    Source: InfoBatch (Qin et al. 2024, arXiv 2303.04947), section 2.3, at an exact count. Their code rounds the number
    of survivors down but weighs them by 1 / (1 - r), so that the weights do not sum to n; keeps weights on in the
    last epochs, which train on everything; and prunes equal float32 losses, since their mean rounds above them: the
    mean is taken in float64 here.
    """
    problems = Problems()
    problems.check(0 <= reserve < 1, f"reserve must be in [0, 1), got {reserve}.{percent_hint(reserve)}")
    array, count = checked(
        values, count, seed=seed, epoch=epoch, groups=groups, ids=ids, problems=problems, finite=True
    )
    if count == array.size:
        return Selection(np.arange(count, dtype=np.int64))
    sure = _sure(array, count, reserve)
    rest = np.flatnonzero(~sure)
    places = count - (array.size - rest.size)
    if places <= 0:  # so many rows were never scored: drawn among themselves
        rest, places = np.flatnonzero(sure), count
        sure[:] = False
        weight = array.size / count
    else:
        weight = rest.size / places
    drawn = rest[uniform_mask(rest.size, places, seed=seed, epoch=epoch, stream=_STREAM)]
    sure[drawn] = True
    weights = np.ones(array.size, np.float32)
    weights[drawn] = weight
    rows = np.flatnonzero(sure).astype(np.int64, copy=False)
    return Selection(rows, weights[rows])


def infobatch_count(values: ArrayLike, ratio: float = 0.5) -> int:
    """How many rows the published rule keeps: all at or above the mean, and `floor((1 - r) * rest)` of the rest.

    At least one of the rest, so that the weights can sum to n. Where all values are equal, all rows.

    Args:
        values: float `(n,)`; +inf = never scored, which counts as above.
        ratio: r, the share of the rest that is dropped, in [0, 1).

    Returns:
        A number in [1, n].

    Raises:
        ArgumentError: If values or ratio do not fit.

    Example:
        >>> infobatch_count([1, 1, 1, 9], 0.5)
        2

    Source: InfoBatch (Qin et al. 2024, arXiv 2303.04947), section 2.3.
    """
    problems = Problems()
    problems.check(0 <= ratio < 1, f"ratio must be in [0, 1), got {ratio}.{percent_hint(ratio)}")
    array, _ = checked(values, 1, seed=0, epoch=0, problems=problems, finite=True)
    above = int(np.count_nonzero(_above_mean(array)))
    rest = array.size - above
    return above + (max(1, math.floor(round((1 - ratio) * rest, 6))) if rest else 0)


def _above_mean(values: Floats) -> NDArray[np.bool_]:
    """Where a value is at least the mean of those that were scored."""
    new = unseen(values)
    known = values[~new] if new.any() else values
    if not known.size:
        return new
    mean = known.mean(dtype=np.float64)
    above: NDArray[np.bool_] = values >= np.float64(min(mean, known.max()))  # equal values: the mean may round above
    return above


def _sure(values: Floats, count: int, reserve: float) -> NDArray[np.bool_]:
    """Where a row is kept for sure: above the mean, or above the raised threshold."""
    above = _above_mean(values)
    room = count - max(1, round(reserve * count))
    if np.count_nonzero(above) <= room:
        return above
    # strictly above: rows that tie at the threshold share the draw, so that none is kept by chance and weighs 1
    raised: NDArray[np.bool_] = (values > largest(values, room + 1)) | unseen(values)
    return raised
