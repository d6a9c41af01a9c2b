"""Q-Tuning: rows by error and uncertainty, within each batch or between epochs; its tokens are in `token_rules`.

Every row has an error (the perplexity of its answer, or anything with the same ranks) and an uncertainty (the mean
entropy of its tokens). High error with low entropy is a valuable misconception (Q2), low error with high entropy is
calibration (Q4): both are kept. High with high is noise (Q1), low with low is known (Q3).

Error and entropy rise together in practice, so that there are too few rows in Q2 and Q4 for most shares: at correlation
0.8 a fifth of all rows. Whatever is missing is topped up, and `mode="paper"` then hardly goes by its quadrants.
`mode="rank"` gives the share exactly, by the distance between the two ranks, and is not ruled by one extreme row.
It is blunter where the quadrants are far apart: ranks spread each over a half.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from datadiet.errors import ArgumentError, Problems
from datadiet.registry import AtLeast, Share, in_batch, selector
from datadiet.selectors.base import checked, selection, top_mask, unseen
from datadiet.selectors.in_batch import (
    BatchSelector,
    BatchSignals,
    Mask,
    State,
    batch_count,
    check_state,
    checked_losses,
    checked_share,
    required,
)
from datadiet.types import Selection

NOISE, MISCONCEPTION, KNOWN, CALIBRATION = 1, 2, 3, 4  # the quadrants; 0 is between the thresholds
WIDEST = 0.49  # of each tail
ROUNDS = 10
_ROUNDED = 12  # decimals of a top-up score, so that rounding errors break no tie

Floats = NDArray[np.float64]
Quadrants = NDArray[np.int64]
TopUp = Literal["all", "dropped"]
Mode = Literal["rank", "paper"]


@dataclass(frozen=True)
class Stage:
    """What the search of `quadrant_rows` found.

    Attributes:
        mask: bool `(n,)`, the rows that are kept.
        quadrants: int64 `(n,)`, 1 to 4; 0 between the thresholds.
        tail: The share of each tail that was looked at last.
        chosen: How many of the kept rows are in Q2 or Q4; the others were topped up.
    """

    mask: Mask
    quadrants: Quadrants
    tail: float
    chosen: int


def quadrants_of(
    error: ArrayLike, entropy: ArrayLike, low: tuple[float, float], high: tuple[float, float] | None = None
) -> Quadrants:
    """The quadrant of each row between two thresholds of each axis, both inclusive.

    Args:
        error, entropy: float `(n,)`.
        low: The thresholds of error and entropy at or below which a row is low.
        high: At or above which it is high; by default what is not low.

    Returns:
        int64 `(n,)`: 1 both high, 2 error high, 3 both low, 4 entropy high; 0 in none. Where low and high overlap, as
        of equal values, the first of these that holds.

    Examples:
        >>> quadrants_of([9, 9, 1, 1, 5], [3, 0, 0, 3, 1], low=(2, 1), high=(8, 2)).tolist()
        [1, 2, 3, 4, 0]
    """
    axes = [np.asarray(axis, np.float64) for axis in (error, entropy)]
    below = [axis <= bound for axis, bound in zip(axes, low, strict=True)]
    above = [~part for part in below] if high is None else [axis >= top for axis, top in zip(axes, high, strict=True)]
    cases = [above[0] & above[1], above[0] & below[1], below[0] & below[1], below[0] & above[1]]
    return np.select(cases, [NOISE, MISCONCEPTION, KNOWN, CALIBRATION], default=0).astype(np.int64)


def quadrant_rows(
    error: ArrayLike, entropy: ArrayLike, share: float, *, rounds: int = ROUNDS, top_up: TopUp = "all"
) -> Stage:
    """Stage 1 as published: tails widened by bisection until Q2 and Q4 hold the share, and a top-up of what is missing.

    `a` in [0, 0.49] is halved towards the share `r`: rows are high from the quantile `1 - a` and low up to the
    quantile `a`, on both axes. What Q2 and Q4 lack of `r * n` is filled by the largest `|mm(error) - mm(entropy)|`,
    `mm` the min-max scaling. Nothing trims an excess. Ties fall to the lowest row.

    Args:
        error, entropy: float `(n,)`, finite.
        share: `r`, in (0, 1].
        rounds: Of the bisection.
        top_up: From `all` rows that are not kept, those between the thresholds included; or from the `dropped` ones of
            Q1 and Q3 alone, as in the paper's algorithm, which may add noise and known rows before undecided ones, and
            falls short where there are too few.

    Raises:
        ArgumentError: If the share or the values do not fit.

    Examples:
        >>> stage = quadrant_rows([9, 9, 1, 1], [3, 0, 0, 3], 0.5)
        >>> stage.mask.tolist(), stage.quadrants.tolist()
        ([False, True, False, True], [1, 2, 3, 4])

    Source: Q-Tuning (arXiv 2509.23873 v2), Algorithm 1; there is no public code. The quantile is the smallest value
    with at least that share at or below it.
    """
    first, second = _axes(error, entropy)
    checked_share(share)
    low, high = 0.0, WIDEST
    found = np.zeros(len(first), np.int64)
    for _ in range(rounds):
        tail = (low + high) / 2
        found = quadrants_of(first, second, *_tails(first, second, tail))
        if np.count_nonzero(_wanted(found)) / len(first) < share:
            low = tail
        else:
            high = tail
    mask = _wanted(found)
    chosen = int(np.count_nonzero(mask))
    missing = int(np.ceil(round(share * len(first) - chosen, 9)))
    pool = ~mask if top_up == "all" else (found == NOISE) | (found == KNOWN)
    if missing > 0:
        distance = np.round(np.abs(_min_max(first) - _min_max(second)), _ROUNDED)
        order = np.lexsort((np.arange(len(first)), -distance))
        mask = mask.copy()
        mask[order[pool[order]][:missing]] = True
    return Stage(mask, found, tail, chosen)


def midpoint_quadrants(error: ArrayLike, entropy: ArrayLike, tail: float) -> Quadrants:
    """The quadrants of one cut per axis, in the middle between both thresholds of a tail: every row is in one.

    Examples:
        >>> midpoint_quadrants([9, 9, 1, 1], [3, 0, 0, 3], 0.25).tolist()
        [1, 2, 3, 4]

    Source: Q-Tuning (arXiv 2509.23873 v2), figure 2. It ignores the share: with `a` below 0.5 it keeps far more.
    """
    first, second = _axes(error, entropy)
    (low_error, low_entropy), (high_error, high_entropy) = _tails(first, second, tail)
    cut = ((low_error + high_error) / 2, (low_entropy + high_entropy) / 2)
    above = [axis >= bound for axis, bound in zip((first, second), cut, strict=True)]
    return np.select(
        [above[0] & above[1], above[0], above[1]], [NOISE, MISCONCEPTION, CALIBRATION], default=KNOWN
    ).astype(np.int64)


def shares_of_rank(values: ArrayLike) -> Floats:
    """The rank of each value as a share of their number, in (0, 1]; the mean rank of a tie.

    Examples:
        >>> shares_of_rank([5.0, 1.0, 5.0, 9.0]).tolist()
        [0.625, 0.25, 0.625, 1.0]
    """
    array = np.asarray(values)
    _, places, counts = np.unique(array, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    means: Floats = (last - (counts - 1) / 2)[places] / max(1, array.size)
    return means


def rank_gap(error: ArrayLike, entropy: ArrayLike) -> Floats:
    """`u - v` for the shares of rank of error and entropy: above 0 in Q2, below in Q4, and near 0 in Q1 and Q3.

    Examples:
        >>> rank_gap([9, 8, 1, 2], [3, 0, 1, 4]).tolist()
        [0.25, 0.5, -0.25, -0.5]

    Source: ours; the same ranks for perplexity and its logarithm.
    """
    return np.round(shares_of_rank(error) - shares_of_rank(entropy), _ROUNDED)


def _axes(error: ArrayLike, entropy: ArrayLike) -> tuple[Floats, Floats]:
    first, second = checked_losses(error), checked_losses(entropy, "entropies")
    if first.shape != second.shape:
        raise ArgumentError(f"losses and entropies must be one each per row, got {first.size} and {second.size}.")
    return first, second


def _tails(error: Floats, entropy: Floats, tail: float) -> tuple[tuple[float, float], tuple[float, float]]:
    """The thresholds (error, entropy) of the low end and of the high end."""
    low, high = ((_quantile(error, at), _quantile(entropy, at)) for at in (tail, 1 - tail))
    return low, high


def _quantile(values: Floats, share: float) -> float:
    """The smallest value with at least so large a share at or below it."""
    place = max(0, int(np.ceil(round(share * len(values), 9))) - 1)
    return float(np.sort(values)[place])


def _wanted(quadrants: Quadrants) -> Mask:
    wanted: Mask = (quadrants == MISCONCEPTION) | (quadrants == CALIBRATION)
    return wanted


def _min_max(values: Floats) -> Floats:
    span = float(np.ptp(values))
    return (values - values.min()) / span if span > 0 else np.zeros_like(values)


# ---- methods


@in_batch(
    name="q_tuning",
    formula="high error with low entropy, or low error with high entropy: the largest |rank(error) - rank(entropy)|",
    paper="Wang et al. 2025, Q-Tuning, arXiv 2509.23873 v2",
    inputs="losses and entropies of the batch",
    cost="a forward pass of everything",
    loses="where error and entropy rise together, which leaves little between them; saves backward passes only",
    evidence="instruction-tuning",
)
class QTuning(BatchSelector):
    """The rows of a batch where error and uncertainty disagree: misconceptions and calibration.

    Args:
        keep: Share of the batch that gets a backward pass, in (0, 1].
        mode: `rank`: exactly `round(keep * batch)` rows, the largest gap between the ranks of loss and entropy;
            `paper`: bisected thresholds and a top-up, see `quadrant_rows`.
        window: Rows of earlier batches among which ranks are taken, with `rank`; 0 for those of the batch alone.
        gate: Train on whole batches from where scoring is measured to take more time than it saves, see
            `datadiet.training.in_batch.BatchChooser.judge`: two runs may differ then. False only says so.

    Examples:
        >>> signals = BatchSignals(np.array([9.0, 9.0, 1.0, 1.0]), entropy=np.array([3.0, 0.1, 0.1, 3.0]))
        >>> QTuning(keep=0.5).choose(signals, seed=0, step=0).tolist()  # noise, misconception, known, calibration
        [False, True, False, True]

    Source: Q-Tuning (arXiv 2509.23873 v2), Algorithm 1, stage 1. The loss has the ranks of the perplexity; for `paper`
    its exponential is taken. The rank mode and the window are ours.
    """

    needs = frozenset({"losses", "entropy"})

    def __init__(
        self,
        keep: Annotated[float, Share] = 0.5,
        mode: Mode = "rank",
        window: Annotated[int, AtLeast(0)] = 256,
        gate: bool = False,
    ) -> None:
        problems = Problems()
        problems.whole("window", window, least=0)
        problems.choice("mode", mode, ("rank", "paper"))
        problems.raise_any()
        self.keep, self.mode, self.window, self.gate = checked_share(keep), mode, window, gate
        self._recent = np.empty((2, 0), np.float64)

    def choose(self, signals: BatchSignals, *, seed: int, step: int) -> Mask:
        """By mode."""
        both = self._both(signals)
        if self.mode == "paper":
            mask = quadrant_rows(np.exp(np.minimum(both[0], 700.0)), both[1], self.keep).mask
            return mask if mask.any() else np.arange(mask.size) == 0
        size = both.shape[1]
        error, entropy = self._with(both)
        gap = np.abs(rank_gap(error, entropy))[-size:]
        return top_mask(gap, batch_count(self.keep, size), seed=seed, epoch=step)

    def calibrated(self, signals: BatchSignals) -> Mask:
        """The rows that are no misconception (Q2): of those that `choose` keeps, Q4 and what tops up.

        With `rank` a row is in Q2 if its rank by loss is above that by entropy; with `paper` by the last thresholds.
        """
        both = self._both(signals)
        if self.mode == "paper":
            found = quadrant_rows(np.exp(np.minimum(both[0], 700.0)), both[1], self.keep).quadrants
            return np.asarray(found != MISCONCEPTION)
        return np.asarray(rank_gap(*self._with(both))[-both.shape[1] :] <= 0)

    def learn(self, signals: BatchSignals) -> None:
        """Add the batch to the window."""
        if self.window and self.mode == "rank":
            self._recent = self._with(self._both(signals))[:, -self.window :]

    def state(self) -> State:
        """Losses and entropies of the window."""
        return {"recent": self._recent.copy()}

    def load(self, state: Mapping[str, Any]) -> None:
        """The window again."""
        check_state(state, {"recent": 2})
        self._recent = np.asarray(state["recent"], np.float64)[:, -self.window :] if self.window else self._recent

    def _both(self, signals: BatchSignals) -> Floats:
        return np.stack(_axes(signals.losses, required(signals, "entropy")))

    def _with(self, both: Floats) -> Floats:
        joined: Floats = np.concatenate((self._recent, both), axis=1)
        return joined[:, -max(self.window, both.shape[1]) :]


@selector(
    formula="the largest |rank(value) - rank(entropy)|: hard although certain, or easy although uncertain",
    paper="Wang et al. 2025, Q-Tuning, arXiv 2509.23873 v2, by ranks over all rows",
    inputs="values, entropies",
    cost="O(n log n), no scoring",
    loses="where error and entropy rise together, which leaves little between them",
    needs=("entropy",),
    preset={"score": "cross_entropy"},
    evidence="instruction-tuning",
)
def quadrants(
    values: ArrayLike,
    count: int,
    *,
    seed: int,
    epoch: int,
    groups: ArrayLike | None = None,
    ids: Sequence[str] | None = None,
    entropy: ArrayLike | None = None,
) -> Selection:
    """Q-Tuning between epochs: the rows where error and uncertainty disagree, by what the training forward recorded.

    With the shares of rank `u` of the values and `v` of the entropies, the largest `|u - v|`. Rows never scored (+inf)
    come first.

    Args:
        values, count, seed, epoch, groups, ids: As for `hardest`; for perplexity's ranks use `cross_entropy`, which
            a diet takes as the mean over tokens here.
        entropy: float `(n,)`, how uncertain the model was of each row; +inf = never seen.

    Returns:
        Exactly `count` rows, ascending.

    Raises:
        ArgumentError: If values or options do not fit.

    Examples:
        >>> quadrants([9.0, 9.0, 1.0, 1.0], 2, seed=0, epoch=0, entropy=[3.0, 0.1, 0.1, 3.0]).rows
        array([1, 3])

    Source: Q-Tuning (arXiv 2509.23873 v2), stage 1, which scores every batch by a pass of its own. Here the values of
    the last training forward decide for the next epoch, which costs nothing.
    """
    array, count = checked(values, count, seed=seed, epoch=epoch, groups=groups, ids=ids)
    uncertainty = np.asarray(np.nan if entropy is None else entropy, np.float64)
    if uncertainty.shape != array.shape:
        raise ArgumentError(f"quadrants needs one entropy per value, got {uncertainty.shape} for {array.size} values.")
    new = unseen(array) | ~np.isfinite(uncertainty)
    keys = np.full(array.size, np.inf)
    keys[~new] = np.abs(rank_gap(array[~new], uncertainty[~new]))
    return selection(top_mask(keys, count, seed=seed, epoch=epoch))
