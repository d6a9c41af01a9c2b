"""Lapse-rate estimate of label noise: the share of labels that contradict a model, as a function of its confidence.

    P(label is far off | confidence) = q r + (1 - r C / (C - 1)) e(z),    e(z) = Phi(-(a + b z))

A label is far off where it is among the last half of the classes in the model's order; of two classes, where it is the
other one. r: share of labels replaced by another class at random; C: classes; q: the share of the other classes that
are in the last half; e: how often the right label is there; z: normal score of the confidence's rank, so that no
calibrated probability is assumed, only a good order. e falls with confidence and r does not, so q r is the level below
which the share does not fall. With many classes a model that is often wrong still puts the right label among the first,
so that e is small long before the model is good; a label that was replaced at random is anywhere.

Each row counts once, at the first exposure to a model that was ready, so that the log-likelihoods add up and the
interval is valid. Before the model has trained on a row, the label has no influence on its opinion. Afterwards it has:
wrong labels are memorised, the sooner the harder the row, and fewer of them contradict. In the first half of the first
epoch the model is not ready; rows seen then count at their second exposure. They have been trained on once by then,
half an epoch of other rows ago on average, so that a share 1 - k of their wrong labels may have been memorised: k r
stands for r, with k unknown, uniform between `STILL_SEEN` and 1.

Rows that a selector chose by their values are no sample: among the hardest there are more wrong labels. Second
exposures count only where all of those rows were seen again, in the same way.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp, ndtr, ndtri

# errors fall with confidence, and not infinitely fast: the range of the probit line that is searched
_OFFSETS = np.linspace(-1.0, 5.0, 41)
_SLOPES = np.geomspace(0.5, 4.0, 16)
_STEP, _MOST = 0.005, 0.6
_BINS, _LEAST_PER_BIN = 50, 20
# confidences in one cell are taken for equal: to within a 512th of the distance to 1
CELLS, _CELL_BITS = 65_025, 14
_AT_ONCE = 262_144
# the least share of the wrong labels that still contradict a model that has trained on them once, long ago
STILL_SEEN = 2 / 3
_SEEN = np.linspace(STILL_SEEN, 1, 21)
_DROP = 1.353  # of the profile log-likelihood: half the 90 % quantile of chi-squared with one degree of freedom

Values = NDArray[np.float64]
Mask = NDArray[np.bool_]
Rows = NDArray[np.int64]
_EVIDENCE = "evidence"  # in the state of a guard


@dataclass(frozen=True)
class Curve:
    """A fitted curve.

    Attributes:
        rate: r, the level.
        offset, slope: a and b of the errors.
        share: q, of the other classes.
    """

    rate: float
    offset: float
    slope: float
    share: float = 1.0

    def suspicion(self, scores: Values, classes: int) -> Values:
        """The probability that each label is wrong, given that it is where the curve says.

        Args:
            scores: `(n,)`, see `normal_scores`.
            classes: C.

        Returns:
            float64 `(n,)` in [0, 1].
        """
        errors = ndtr(-(self.offset + self.slope * scores))
        found = _found(self.rate, errors, classes, self.share)
        # less the labels that are wrong and where the right one would be too
        return np.asarray(np.clip(self.rate * (self.share - errors / (classes - 1)) / found, 0.0, 1.0), np.float64)


@dataclass(frozen=True)
class Level:
    """The level r and its 90 % interval, by profile likelihood."""

    rate: float
    low: float
    high: float


@dataclass(frozen=True)
class Evidence:
    """The counts of the likelihood, of rows that were judged at about the same time; in bins of equal size.

    Attributes:
        scores: Mean of each bin, float64 `(bins,)`, see `normal_scores`.
        contradicted: Rows of each whose label is far off.
        rows: Rows of each.
        again: Whether the model had trained on them before.
    """

    scores: Values
    contradicted: Values
    rows: Values
    again: bool = False


def normal_scores(values: NDArray[np.floating | np.integer], counts: NDArray[np.int64] | None = None) -> Values:
    """The quantiles of a normal distribution at the ranks of the values.

    Args:
        values: `(n,)`; equal ones have the mean of their ranks.
        counts: int64 `(n,)`, how many rows each stands for; 1 by default.

    Examples:
        >>> normal_scores(np.array([0.5, 0.9, 0.7])).round(2)
        array([-0.97,  0.97,  0.  ])
    """
    _, place = np.unique(values, return_inverse=True)
    sizes = np.bincount(place, weights=counts)
    return np.asarray(ndtri((np.cumsum(sizes) - sizes / 2) / sizes.sum())[place], np.float64)


def cells_of(confidence: NDArray[np.float64]) -> NDArray[np.uint16]:
    """The cell of each confidence, from 0 for none to `CELLS - 1` for 1; see `_CELL_BITS`.

    Examples:
        >>> cells_of(np.array([0.0, 0.5, 0.9, 1.0])).tolist()
        [0, 512, 1741, 65024]
    """
    doubt = np.maximum(1 - confidence, 0).astype(np.float32)
    return (CELLS - 1 - (doubt.view(np.uint32) >> _CELL_BITS)).astype(np.uint16)


def evidence(
    scores: Values, wrong: NDArray[Any], rows: NDArray[np.int64] | None = None, *, again: bool = False
) -> Evidence:
    """Count, in bins; see `Evidence`.

    Args:
        scores: `(n,)`, see `normal_scores`.
        wrong: `(n,)`, of how many rows the label is far off; of one each, whether it is.
        rows: int64 `(n,)`, how many rows each score stands for; 1 by default.
        again: Whether the model had trained on them before.
    """
    order = np.argsort(scores, kind="stable")
    counts = np.ones(len(scores)) if rows is None else rows[order].astype(np.float64)
    total = counts.sum()
    bins = max(1, min(_BINS, int(total) // _LEAST_PER_BIN))
    number = ((np.cumsum(counts) - counts / 2) * bins / total).astype(np.int64)
    weights = (counts, counts * scores[order], wrong[order])
    of_bins, summed, contradicted = (np.bincount(number, weight, bins).astype(np.float64) for weight in weights)
    used = of_bins > 0
    return Evidence(summed[used] / of_bins[used], contradicted[used], of_bins[used], again)


def bands(ranks: NDArray[Any], classes: int) -> list[tuple[Mask, float]]:
    """The labels that contradict, by how far off they are: the last half of the model's order, half of the rest, ...

    Args:
        ranks: `(n,)`, how many classes the model puts before the label.
        classes: C, at least 2.

    Returns:
        Of each band, the farthest first, whether each label is in it, bool `(n,)`, and the share q of the other
        classes that are. The first stands for "far off"; together they are all labels that are not the model's choice.

    Examples:
        >>> [(band.tolist(), round(share, 2)) for band, share in bands(np.array([0, 1, 2, 3]), 4)]
        [([False, False, True, True], 0.67), ([False, True, False, False], 0.33)]
    """
    found, end = [], classes
    while end > 1:
        start = max(1, end - classes // 2 if end == classes else end // 2)
        found.append((np.asarray((ranks >= start) & (ranks < end)), (end - start) / (classes - 1)))
        end = start
    return found


def fit_level(parts: Sequence[Evidence], classes: int, *, share: float = 1.0) -> Level:
    """The likeliest level that all parts have in common, each with errors of its own.

    Args:
        parts: Each row occurs in one of them only, so that their log-likelihoods add up.
        classes: C, at least 2.
        share: q, of the other classes, that are far off.

    Returns:
        The level. The grid is exhaustive and small, so there is no start to depend on and no failure to converge.
    """
    rates = np.arange(0, _most(classes), _STEP)
    profile = np.sum([_profile(rates, part, classes, share) for part in parts], axis=0)
    best = int(profile.argmax())
    inside = rates[profile >= profile[best] - _DROP]
    return Level(float(rates[best]), float(inside[0]), float(inside[-1]))


def fit_curve(counts: Evidence, classes: int, *, rate: float, share: float = 1.0) -> Curve:
    """The likeliest errors under a level.

    Args:
        counts: Of some rows.
        classes: C, at least 2.
        rate: r.
        share: q, of the other classes, that the counts are of.
    """
    rate = min(rate, _most(classes))
    fits = _log_likelihood(rate, _errors(counts), counts, classes, share)
    offset, slope = np.unravel_index(fits.argmax(), fits.shape)
    return Curve(rate, float(_OFFSETS[offset]), float(_SLOPES[slope]), share)


def _most(classes: int) -> float:
    return min(_MOST, (classes - 1) / classes)


def _found(rate: float, errors: Values, classes: int, share: float) -> Values:
    return np.clip(rate * share + (1 - rate * classes / (classes - 1)) * errors, 1e-6, 1 - 1e-6)


def _profile(rates: Values, counts: Evidence, classes: int, share: float) -> Values:
    """The log-likelihood of each level, with the likeliest errors; of `again`, the mean over k."""
    errors = _errors(counts)
    profile = np.array([_log_likelihood(rate, errors, counts, classes, share).max() for rate in rates])
    if not counts.again:
        return profile
    seen = np.stack([np.interp(share * rates, rates, profile) for share in _SEEN])
    return np.asarray(logsumexp(seen, axis=0) - np.log(len(_SEEN)), np.float64)


def _errors(counts: Evidence) -> Values:
    """Under each offset and slope, `(offsets, slopes, bins)`."""
    return np.asarray(ndtr(-(_OFFSETS[:, None, None] + _SLOPES[None, :, None] * counts.scores)), np.float64)


def _log_likelihood(rate: float, errors: Values, counts: Evidence, classes: int, share: float) -> Values:
    expected = _found(rate, errors, classes, share)
    agreed = counts.rows - counts.contradicted
    total: Values = (counts.contradicted * np.log(expected) + agreed * np.log1p(-expected)).sum(-1)
    return total


# ---- which exposures count


def early_exposures(fresh: Mask, judgements: NDArray[np.uint8], moments: NDArray[np.float32], least: int) -> Mask:
    """Which of the rows were seen by a model that was not ready: in the first half of the first epoch.

    Args:
        fresh: bool `(n,)`, seen now.
        judgements: Of each row, how many before now.
        moments: The batch of the epoch in which it was seen; nan in a pass.
        least: Rows of each half that are needed to tell them apart.

    Returns:
        bool `(n,)`.
    """
    seen, none = moments[fresh], np.zeros(len(fresh), bool)
    if judgements.any() or not np.isfinite(seen).all():
        return none
    early = fresh & (moments <= np.median(seen, overwrite_input=True))
    return early if min(early.sum(), len(seen) - early.sum()) >= least else none


def counted_exposures(
    state: Mapping[str, NDArray[Any]], fresh: Mask, moments: NDArray[np.float32], early: Mask, least: int
) -> list[tuple[Mask, bool]]:
    """The parts of the rows seen now that count, each with errors of its own, and whether it is a second exposure.

    Args:
        state: `judgements` and `counted` of all rows, as they were before.
        fresh: bool `(n,)`, seen now.
        moments: When each was, nan in a pass.
        early: From `early_exposures`.
        least: Smaller parts are left out.
    """
    pending, before = ~state["counted"], state["judgements"] > 0
    first = pending & ~before & ~early & fresh
    pending &= before
    second = pending & fresh
    in_training = np.isfinite(moments[second])
    whole = second.sum() == pending.sum() and (in_training.all() or not in_training.any())
    parts = [(first, False), (second, True)] if whole else [(first, False)]
    return [(part, again) for part, again in parts if part.sum() >= least]


def with_evidence(table: NDArray[np.float64], parts: Sequence[Evidence]) -> NDArray[np.float64]:
    """The table of `no_evidence` with these parts, too."""
    for counts in parts:
        number = table[:, 0].max(initial=-1) + 1
        start = np.tile([number, float(counts.again)], (len(counts.rows), 1))
        table = np.concatenate([table, np.c_[start, counts.scores, counts.contradicted, counts.rows]])
    return table


def no_evidence() -> dict[str, NDArray[np.float64]]:
    """An empty table; its columns are the number of the part, 1 for a second exposure, and those of `Evidence`."""
    return {_EVIDENCE: np.empty((0, 5))}


def all_evidence(state: Mapping[str, NDArray[Any]]) -> list[Evidence]:
    """All parts so far."""
    table = state[_EVIDENCE]
    parts = [table[table[:, 0] == number] for number in np.unique(table[:, 0])]
    return [Evidence(part[:, 2], part[:, 3], part[:, 4], bool(part[0, 1])) for part in parts]


# ---- millions of rows, counted


def pieces(rows: int) -> Iterator[slice]:
    """So many rows, in pieces, so that what is computed of them takes little memory."""
    return (slice(start, start + _AT_ONCE) for start in range(0, rows, _AT_ONCE))


@dataclass(frozen=True)
class Opinions:
    """What the model says of each row, coarsely, so that they can be counted.

    Attributes:
        cells: uint16 `(n,)`, of its confidence; see `cells_of`.
        of_bands: uint8 `(n,)`, in which band the label is, from 1, the farthest last; 0 for the model's choice.
        shares: q of each band.
    """

    cells: NDArray[np.uint16]
    of_bands: NDArray[np.uint8]
    shares: tuple[float, ...]

    def counts(self, where: Mask) -> NDArray[np.int64]:
        """Rows of each band, 0 included, and each cell."""
        counts = np.zeros((len(self.shares) + 1) * CELLS, np.int64)
        for part in pieces(len(where)):
            keys = self.of_bands[part][where[part]] * np.int64(CELLS) + self.cells[part][where[part]]
            counts += np.bincount(keys, minlength=len(counts))
        return counts.reshape(-1, CELLS)


def evidence_of(counts: NDArray[np.int64], band: int = -1, *, again: bool = False) -> Evidence:
    """Of the rows of each band and cell, that the label is in one of the bands."""
    rows = counts.sum(axis=0)
    used = np.flatnonzero(rows)
    return evidence(normal_scores(used, rows[used]), counts[band, used], rows[used], again=again)


def suspicions(
    counts: NDArray[np.int64], classes: int, prior: float, shares: Sequence[float]
) -> tuple[NDArray[np.float32], Curve]:
    """The suspicion of each band and cell, 0 of labels that the model agrees with, and the errors of the last band."""
    rows = counts.sum(axis=0)
    used = np.flatnonzero(rows)
    scores, found = normal_scores(used, rows[used]), np.zeros(counts.shape, np.float32)
    for band, share in enumerate(shares, 1):
        curve = fit_curve(evidence_of(counts, band), classes, rate=prior, share=share)
        found[band, used] = curve.suspicion(scores, classes)
    return found, curve
