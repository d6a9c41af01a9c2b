"""Selectors that draw at random: uniformly (the baseline), in part, by weight, or with loss weights.

No kind of example is excluded for good. Each selector draws from a stream of its own of the generator of
`(seed, epoch)`, so that no two selectors share their draws.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
from numpy.typing import ArrayLike

from datadiet.registry import Positive, Share, ShareBelowOne, UnitShare, selector
from datadiet.selectors.base import Floats, Mask, TieBreak, checked, largest, selection, top_mask, unseen
from datadiet.types import Selection

_RANDOM_STREAM, _EPSILON_STREAM, _UNCERTAIN_STREAM, _PROPORTIONAL_STREAM, _INFOBATCH_STREAM = 1, 2, 3, 4, 7
_RANKS = 4096  # that a value's rank is read off
_FLOOR = 0.01  # weight of a row that the model is certain of
Scaling = Literal["linear", "softmax"]


@selector(
    formula="`count` uniformly, drawn again at every refresh: the baseline to beat",
    paper="Raju et al. 2021, arXiv 2111.12621",
    inputs="nothing",
    cost="O(n), no scoring",
    loses="to good values, when little is kept and labels are clean",
    evidence="methods",
)
def random(
    values: ArrayLike,
    count: int,
    *,
    seed: int,
    epoch: int,
    groups: ArrayLike | None = None,
    ids: Sequence[str] | None = None,
) -> Selection:
    """Every subset of this size with the same chance, drawn anew for every `(seed, epoch)`.

    Args:
        values: float `(n,)`; only their number counts, but NaN is refused here as everywhere.
        count: How many, in [1, n].
        seed, epoch: Of the draw.
        groups: Not used; see `with_floor`.
        ids: The user's names of the rows, for errors.

    Returns:
        Exactly `count` rows, ascending.

    Raises:
        ArgumentError: If values or options do not fit.

    Examples:
        >>> len(random([0.1, 0.9, 0.5, 0.7], 2, seed=0, epoch=0).rows)
        2

    Source: the dynamic random baseline of Raju et al. 2021 (arXiv 2111.12621), with exact counts.
    """
    array, count = checked(values, count, seed=seed, epoch=epoch, groups=groups, ids=ids)
    return selection(uniform_mask(array.size, count, seed=seed, epoch=epoch, stream=_RANDOM_STREAM))


def uniform_mask(size: int, count: int, *, seed: int, epoch: int, stream: int) -> Mask:
    """bool `(size,)` with exactly `count` True, at random.

    Keys of 24 bits are enough: where two of them tie at the cut, the hash of the row decides, which is as fair.
    """
    keys = np.random.default_rng([seed, epoch, stream]).random(size, dtype=np.float32)
    return top_mask(keys, count, seed=seed, epoch=epoch)


@selector(
    formula="(1 - epsilon) * count hardest, epsilon * count uniformly among the others",
    paper="Raju et al. 2021, arXiv 2111.12621",
    inputs="values",
    cost="O(n)",
    loses="as hardest, a little less: most places still go to the hardest",
    traits=("takes_tolerance",),
    evidence="methods",
)
def epsilon(
    values: ArrayLike,
    count: int,
    *,
    seed: int,
    epoch: int,
    groups: ArrayLike | None = None,
    ids: Sequence[str] | None = None,
    epsilon: Annotated[float, UnitShare] = 0.1,
    tie_break: TieBreak = "hash",
) -> Selection:
    """Most places for the hardest rows, a share of them at random among the others.

    The `floor((1 - epsilon) * count)` hardest, then a uniform draw from all others. Rows never scored (+inf) come
    first, even where that takes places of the random share.

    Args:
        values, count, seed, epoch, groups, ids, tie_break: As for `hardest`.
        epsilon: Share of the places given at random, in [0, 1].

    Returns:
        Exactly `count` rows, ascending.

    Raises:
        ArgumentError: If values or options do not fit.

    Examples:
        >>> rows = epsilon([0.1, 0.9, 0.5, 0.7], 2, seed=0, epoch=0, epsilon=0.5).rows
        >>> len(rows), 1 in rows
        (2, True)

    Source: Raju et al. 2021 (arXiv 2111.12621), section 3, with exact counts.
    """
    array, count = checked(values, count, seed=seed, epoch=epoch, groups=groups, ids=ids)
    # (1 - 0.9) * 10 is 0.9999999999999998: rounded before the floor
    hard = math.floor(round((1 - epsilon) * count, 6))
    hard = max(hard, min(count, int(np.count_nonzero(unseen(array)))))
    mask = top_mask(array, hard, seed=seed, epoch=epoch, tie_break=tie_break)
    others = np.flatnonzero(~mask)
    drawn = uniform_mask(others.size, count - hard, seed=seed, epoch=epoch, stream=_EPSILON_STREAM)
    mask[others[drawn]] = True
    return selection(mask)


@selector(
    formula="drawn without replacement, probability ~ q (1 - q) + 0.01, q = value / largest value, or rank",
    paper="Chang et al. 2017, arXiv 1704.07433, section 3.2, with a floor",
    inputs="values",
    cost="O(n)",
    loses="on clean labels when little is kept, where the hardest are worth more than a mixture",
    traits=("needs_bounded",),
    evidence="methods",
)
def uncertain(
    values: ArrayLike,
    count: int,
    *,
    seed: int,
    epoch: int,
    groups: ArrayLike | None = None,
    ids: Sequence[str] | None = None,
    scale: Annotated[float | None, Positive] = None,
) -> Selection:
    """A draw that prefers rows the model is undecided about: neither learned already nor hopeless.

    Without replacement, with probability proportional to `q (1 - q) + 0.01` at each draw, `q = clip(value / scale, 0,
    1)`. Rows never scored (+inf) come first.

    Args:
        values, count, seed, epoch, groups, ids: As for `hardest`.
        scale: The value at which the model is certain and wrong: sqrt(2) for EL2N of one decision, where two classes
            give exactly `p (1 - p)`; 1 for `1 - p`. None takes q from the ranks, the middle rank being the most likely:
            for scores without such a bound (`cross_entropy`, `margin`, joint scores, regression).

    Returns:
        Exactly `count` rows, ascending.

    Raises:
        ArgumentError: If values or options do not fit.

    Examples:
        >>> len(uncertain([0.1, 1.4, 0.7, 0.6], 2, seed=0, epoch=0, scale=2**0.5).rows)
        2

    Source: active bias by prediction variance (Chang et al. 2017, arXiv 1704.07433), section 3.2, without replacement
    and with a floor; drawn by exponential keys (Efraimidis and Spirakis 2006), which is exact and needs one pass. The
    values are those of the last training forward pass instead of a running estimate over many batches.
    """
    array, count = checked(values, count, seed=seed, epoch=epoch, groups=groups, ids=ids)
    new = unseen(array)
    q = _rank_share(array, ~new) if scale is None else np.clip(array / array.dtype.type(scale), 0, 1)
    generator = np.random.default_rng([seed, epoch, _UNCERTAIN_STREAM])
    keys = -generator.standard_exponential(array.size, dtype=np.float32) / (q * (1 - q) + array.dtype.type(_FLOOR))
    keys[new] = np.inf
    return selection(top_mask(keys, count, seed=seed, epoch=epoch))


@selector(
    formula="drawn without replacement, probability ~ value scaled to [0.01, 1], or ~ exp(value / temperature)",
    paper="Anand et al. 2023, EMNLP, section 5",
    inputs="values",
    cost="O(n)",
    loses="to hardest where labels are clean and little is kept; softmax on noisy labels, as hardest",
)
def proportional(
    values: ArrayLike,
    count: int,
    *,
    seed: int,
    epoch: int,
    groups: ArrayLike | None = None,
    ids: Sequence[str] | None = None,
    scaling: Scaling = "linear",
    least: Annotated[float, Share] = 0.01,
    temperature: Annotated[float, Positive] = 1.0,
) -> Selection:
    """A draw that prefers hard rows in proportion to their value, instead of a cut.

    Without replacement, with probability proportional to a weight at each draw: `linear` scales the values
    to [least, 1] by the smallest and the largest one, `softmax` has `exp(value / temperature)`. Equal values weigh the
    same. Rows never scored (+inf) come first.

    Args:
        values: float `(n,)`; larger = harder, +inf = never scored, -inf is refused.
        count, seed, epoch, groups, ids: As for `hardest`.
        scaling: `linear` or `softmax`; softmax is the greedier one where values spread over more than a few units.
        least: Weight of the easiest row under `linear`, in (0, 1].
        temperature: Above 0, in units of the values; for `softmax` only.

    Returns:
        Exactly `count` rows, ascending.

    Raises:
        ArgumentError: If values or options do not fit.

    Examples:
        >>> len(proportional([0.1, 1.4, 0.7, 0.6], 2, seed=0, epoch=0).rows)
        2

    Source: Anand et al. 2023, Influence Scores at Scale for Efficient Language Data Sampling, section 5: softmax on
    SNLI, linear in production, where softmax kept too many hard and noisy rows. Drawn by exponential keys
    (Efraimidis and Spirakis 2006). No code was published.
    """
    array, count = checked(values, count, seed=seed, epoch=epoch, groups=groups, ids=ids, finite=True)
    new = unseen(array)
    logs = _linear_logs(array, ~new, least) if scaling == "linear" else array.astype(np.float64) / temperature
    # the largest of log(weight) + Gumbel noise: the same draw as by exponential keys, without overflow
    noise = np.random.default_rng([seed, epoch, _PROPORTIONAL_STREAM]).standard_exponential(array.size)
    return selection(top_mask(logs - np.log(noise), count, seed=seed, epoch=epoch))


def _linear_logs(values: Floats, scored: Mask, least: float) -> Floats:
    """The log of each value scaled to [least, 1]; 0 where all are equal, +inf where a row was never scored."""
    logs = np.full(values.size, np.inf)
    numbers = values[scored].astype(np.float64)
    if numbers.size:
        span = numbers.max() - numbers.min()
        logs[scored] = np.log(least + (1 - least) * (numbers - numbers.min()) / span) if span > 0 else 0.0
    return logs


def _rank_share(values: Floats, scored: Mask) -> Floats:
    """The share of the scored values that lie below each value, ties counted half; equal values share one rank.

    Read off 4,096 evenly spaced ranks where there are more values: exact ranks would take a full argsort, which costs
    ten times as much as everything else, and no weight would change by more than its third digit.
    """
    ordered = np.sort(values[scored])
    if not ordered.size:
        return np.zeros_like(values)
    knots = ordered[:: max(1, ordered.size // _RANKS)]
    below, to = np.searchsorted(knots, values), np.searchsorted(knots, values, side="right")
    share: Floats = ((below + to) / (2 * knots.size)).astype(values.dtype)
    return share


@selector(
    formula="all at or above the mean, weight 1; a uniform draw of the others, weight others / drawn: sums unbiased",
    paper="Qin et al. 2024, InfoBatch, arXiv 2303.04947",
    inputs="values (losses), loss weights in the trainer",
    cost="O(n)",
    loses="at small keeps no better than random, since few rows below the mean carry large weights",
    traits=("weights",),
    preset={"score": "cross_entropy"},
    evidence="methods",
)
def infobatch(
    values: ArrayLike,
    count: int,
    *,
    seed: int,
    epoch: int,
    groups: ArrayLike | None = None,
    ids: Sequence[str] | None = None,
    reserve: Annotated[float, ShareBelowOne] = 0.25,
) -> Selection:
    """Everything at or above the mean, and a draw from the other rows that weighs more, so that sums stay unbiased.

    Rows with `value >= mean(values)` are kept and weigh 1. The other places go to a uniform draw from the other rows;
    each row drawn weighs `other rows / rows drawn`. The weights sum to n. Rows never scored (+inf) count as above.

    Where the rows at or above the mean would leave less than `reserve` of the places for the draw, the threshold is
    raised: only rows strictly above the `(1 - reserve) * count + 1`-th largest value are kept for sure, all others
    share the draw. So sums stay unbiased at any count, and no weight exceeds `n / (reserve * count)`. Where rows
    never scored take all places, they are drawn among themselves, and the scored rows are not represented.

    Args:
        values: float `(n,)`; larger = harder, usually losses; +inf = never scored, -inf is refused.
        count: How many, in [1, n].
        seed, epoch: Of the draw.
        groups: Not used; see `balanced`.
        ids: The user's names of the rows, for errors.
        reserve: Least share of the places for the draw, in [0, 1); always at least one place.

    Returns:
        Exactly `count` rows, ascending, and their weights; no weights where every row weighs 1.

    Raises:
        ArgumentError: If values or options do not fit.

    Examples:
        >>> infobatch([1, 1, 1, 9], 2, seed=0, epoch=0).weights
        array([3., 1.], dtype=float32)

    Source: InfoBatch (Qin et al. 2024, arXiv 2303.04947), section 2.3, at an exact count. Their code rounds the number
    of survivors down but weighs them by 1 / (1 - r), so that the weights do not sum to n; keeps weights on in the
    last epochs, which train on everything; and prunes equal float32 losses, since their mean rounds above them: the
    mean is taken in float64 here.
    """
    array, count = checked(values, count, seed=seed, epoch=epoch, groups=groups, ids=ids, finite=True)
    if count == array.size:
        return Selection(np.arange(count, dtype=np.int64))
    sure = _sure(array, count, reserve)
    others = np.flatnonzero(~sure)
    places = count - (array.size - others.size)
    if places <= 0:  # so many rows were never scored: drawn among themselves
        others, places = np.flatnonzero(sure), count
        sure[:] = False
        weight = array.size / count
    else:
        weight = others.size / places
    drawn = others[uniform_mask(others.size, places, seed=seed, epoch=epoch, stream=_INFOBATCH_STREAM)]
    sure[drawn] = True
    weights = np.ones(array.size, np.float32)
    weights[drawn] = weight
    rows = selection(sure).rows
    return Selection(rows, weights[rows])


def _above_mean(values: Floats) -> Mask:
    """Where a value is at least the mean of those that were scored."""
    new = unseen(values)
    scored = values[~new] if new.any() else values
    if not scored.size:
        return new
    above: Mask = values >= scored.mean(dtype=np.float64)  # in float32 the mean of equal values rounds above them
    return above


def _sure(values: Floats, count: int, reserve: float) -> Mask:
    """Where a row is kept for sure: above the mean, or above the raised threshold."""
    above = _above_mean(values)
    room = count - max(1, round(reserve * count))
    if np.count_nonzero(above) <= room:
        return above
    # strictly above: rows that tie at the threshold share the draw, so that none is kept by chance and weighs 1
    raised: Mask = (values > largest(values, room + 1)) | unseen(values)
    return raised
