"""Selectors that leave something to chance, so that no kind of example is shut out for good."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from datadiet.checks import Problems, percent_hint
from datadiet.records import Selection
from datadiet.selectors.inputs import Floats, checked, selection, unseen
from datadiet.selectors.ties import TIE_BREAKS, top_mask
from datadiet.selectors.uniform import uniform_mask

_EPSILON_STREAM, _UNCERTAIN_STREAM, _PROPORTIONAL_STREAM = (
    2,
    3,
    4,
)  # of the generator, so that no two selectors share their draws
_RANKS = 4096  # that a value's rank is told by
_FLOOR = 0.01  # weight that even a certain example keeps
SCALINGS = ("linear", "softmax")


def epsilon(
    values: ArrayLike,
    count: int,
    *,
    seed: int,
    epoch: int,
    groups: ArrayLike | None = None,
    ids: Sequence[str] | None = None,
    epsilon: float = 0.1,
    tie_break: str = "hash",
) -> Selection:
    """Most places for the hardest rows, a share of them at random among the rest.

    The `floor((1 - epsilon) * count)` hardest, then a uniform draw from all others. Rows never scored (+inf) come
    first, even where that takes places of the random share.

    Args:
        values, count, seed, epoch, groups, ids, tie_break: As for `hardest`.
        epsilon: Share of the places given at random, in [0, 1].

    Returns:
        Exactly `count` rows, ascending.

    Raises:
        ArgumentError: If values or options do not fit.

    Example:
        >>> rows = epsilon([0.1, 0.9, 0.5, 0.7], 2, seed=0, epoch=0, epsilon=0.5).rows
        >>> len(rows), 1 in rows
        (2, True)

    Source: Raju et al. 2021 (arXiv 2111.12621), section 3, with exact counts.
    """
    problems = Problems()
    problems.choice("tie_break", tie_break, TIE_BREAKS)
    problems.check(0 <= epsilon <= 1, f"epsilon must be in [0, 1], got {epsilon}.{percent_hint(epsilon)}")
    array, count = checked(values, count, seed=seed, epoch=epoch, groups=groups, ids=ids, problems=problems)
    # (1 - 0.9) * 10 is 0.9999999999999998: rounded before the floor
    hard = math.floor(round((1 - epsilon) * count, 6))
    hard = max(hard, min(count, int(np.count_nonzero(unseen(array)))))
    mask = top_mask(array, hard, seed=seed, epoch=epoch, tie_break=tie_break)
    rest = np.flatnonzero(~mask)
    drawn = uniform_mask(rest.size, count - hard, seed=seed, epoch=epoch, stream=_EPSILON_STREAM)
    mask[rest[drawn]] = True
    return selection(mask)


def uncertain(
    values: ArrayLike,
    count: int,
    *,
    seed: int,
    epoch: int,
    groups: ArrayLike | None = None,
    ids: Sequence[str] | None = None,
    scale: float | None = None,
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

    Example:
        >>> len(uncertain([0.1, 1.4, 0.7, 0.6], 2, seed=0, epoch=0, scale=2**0.5).rows)
        2

    Source: active bias by prediction variance (Chang et al. 2017, arXiv 1704.07433), section 3.2, without replacement
    and with a floor; drawn by exponential keys (Efraimidis and Spirakis 2006), which is exact and needs one pass.
    """
    problems = Problems()
    problems.check(scale is None or 0 < scale < math.inf, f"scale must be above 0 or None, got {scale}.")
    array, count = checked(values, count, seed=seed, epoch=epoch, groups=groups, ids=ids, problems=problems)
    new = unseen(array)
    q = _rank_share(array, ~new) if scale is None else np.clip(array / array.dtype.type(scale), 0, 1)
    generator = np.random.default_rng([seed, epoch, _UNCERTAIN_STREAM])
    keys = -generator.standard_exponential(array.size, dtype=np.float32) / (q * (1 - q) + array.dtype.type(_FLOOR))
    keys[new] = np.inf
    return selection(top_mask(keys, count, seed=seed, epoch=epoch))


def proportional(
    values: ArrayLike,
    count: int,
    *,
    seed: int,
    epoch: int,
    groups: ArrayLike | None = None,
    ids: Sequence[str] | None = None,
    scaling: str = "linear",
    least: float = 0.01,
    temperature: float = 1.0,
) -> Selection:
    """A draw that prefers hard rows in proportion to their value, instead of a cut.

    Without replacement, with probability proportional to a weight at each draw: `linear` has the value brought to
    [least, 1] by the smallest and the largest one, `softmax` has `exp(value / temperature)`. Equal values weigh the
    same. Rows never scored (+inf) come first.

    Args:
        values: float `(n,)`; larger = harder, +inf = never scored, -inf is refused.
        count, seed, epoch, groups, ids: As for `hardest`.
        scaling: `linear` or `softmax`; softmax is the greedier one where values spread over more than a few units.
        least: Weight of the easiest row under `linear`, in (0, 1].
        temperature: Above 0, in units of the values; of interest to `softmax` alone.

    Returns:
        Exactly `count` rows, ascending.

    Raises:
        ArgumentError: If values or options do not fit.

    Example:
        >>> len(proportional([0.1, 1.4, 0.7, 0.6], 2, seed=0, epoch=0).rows)
        2

    Source: Anand et al. 2023, Influence Scores at Scale for Efficient Language Data Sampling, section 5: softmax on
    SNLI, linear in production, where softmax was too fond of hard and noisy rows. Drawn by exponential keys
    (Efraimidis and Spirakis 2006).
    """
    problems = Problems()
    problems.choice("scaling", scaling, SCALINGS)
    problems.check(0 < least <= 1, f"least must be in (0, 1], got {least}.")
    problems.check(0 < temperature < math.inf, f"temperature must be above 0, got {temperature}.")
    array, count = checked(
        values, count, seed=seed, epoch=epoch, groups=groups, ids=ids, problems=problems, finite=True
    )
    new = unseen(array)
    logs = _linear_logs(array, ~new, least) if scaling == "linear" else array.astype(np.float64) / temperature
    # the largest of log(weight) + Gumbel noise: the same draw as by exponential keys, without overflow
    noise = np.random.default_rng([seed, epoch, _PROPORTIONAL_STREAM]).standard_exponential(array.size)
    return selection(top_mask(logs - np.log(noise), count, seed=seed, epoch=epoch))


def _linear_logs(values: Floats, known: NDArray[np.bool_], least: float) -> Floats:
    """The log of each value brought to [least, 1]; 0 where all are equal, +inf where a row was never scored."""
    logs = np.full(values.size, np.inf)
    held = values[known].astype(np.float64)
    if held.size:
        span = held.max() - held.min()
        logs[known] = np.log(least + (1 - least) * (held - held.min()) / span) if span > 0 else 0.0
    return logs


def _rank_share(values: Floats, among: NDArray[np.bool_]) -> Floats:
    """The share of the values that count which lie below each value, ties counted half; equal values share one rank.

    Read off 4,096 evenly spaced ranks where there are more values: exact ranks would take a full argsort, which costs
    ten times the rest of a selection, and no weight would change by more than its third digit.
    """
    known = np.sort(values[among])
    if not known.size:
        return np.zeros_like(values)
    knots = known[:: max(1, known.size // _RANKS)]
    below, to = np.searchsorted(knots, values), np.searchsorted(knots, values, side="right")
    share: Floats = ((below + to) / (2 * knots.size)).astype(values.dtype)
    return share
