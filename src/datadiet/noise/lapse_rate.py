"""How often labels contradict a model as a function of its confidence: the model's own errors, and a level below which
contradiction does not fall, which is the share of wrong labels.

    P(label is another class | confidence) = r + (1 - r C / (C - 1)) e(z),    e(z) = Phi(-(a + b z))

r: share of labels replaced by another class at random; C: classes; e: the share of its own errors that a model makes;
z: normal score of the confidence's rank, so that no calibrated probability is assumed, only a good order.

Of rows that the model has trained on before, some wrong labels have been learned by heart and contradict no more: there
k r stands for r, with k unknown, uniform between `STILL_SEEN` and 1.

What an estimate of the share of wrong labels rests on: one sight of each row, the first by a model that was ready.

A label says nothing of the model's opinion of a row before the model has trained on it. Afterwards it does: wrong
labels are learned by heart, the sooner the harder the row, and the share of contradictions falls below that of the
wrong labels. So the first sight is the honest one. In the first half of the first epoch, though, the model knows
nothing yet; rows seen then count at their second sight, before which they have been trained on once, when the features
were raw, half an epoch of other rows ago on average: most of that is gone, and what may be left of it is part of the
likelihood (`datadiet.noise.lapse_rate`). Each row counts once, so that the log-likelihoods of the sights add up and the
interval means something.

Rows that a selector chose by their values are no sample: among the hardest there are more wrong labels. Second sights
count only where all of those rows were seen again, in the same way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp, ndtr, ndtri
from scipy.stats import rankdata

# errors fall with confidence, and not infinitely fast: the range of the probit line that is searched
_OFFSETS = np.linspace(-1.0, 5.0, 41)
_SLOPES = np.geomspace(0.5, 4.0, 16)
_STEP, _MOST = 0.005, 0.6
_BINS, _LEAST_PER_BIN = 50, 20
# at least so many of the wrong labels still contradict a model that has trained on them once, long ago
STILL_SEEN = 2 / 3
_SEEN = np.linspace(STILL_SEEN, 1, 21)
_DROP = 1.353  # of the profile log-likelihood: half the 90 % quantile of chi-squared with one degree of freedom

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Curve:
    """A fitted curve.

    Attributes:
        rate: r, the level.
        offset, slope: a and b of the errors.
    """

    rate: float
    offset: float
    slope: float

    def suspicion(self, scores: Values, wrong: NDArray[np.bool_], classes: int) -> Values:
        """The probability that each label is wrong, given that it contradicts the model or not.

        Args:
            scores: `(n,)`, see `normal_scores`.
            wrong: bool `(n,)`, whether the label is not what the model says.
            classes: C.

        Returns:
            float64 `(n,)` in [0, 1].
        """
        errors = ndtr(-(self.offset + self.slope * scores))
        contradicts = _contradicts(self.rate, errors, classes)
        by_chance = errors / (classes - 1)  # a wrong label is what the model says, because the model errs
        found = np.where(wrong, (1 - by_chance) / contradicts, by_chance / (1 - contradicts))
        return np.asarray(np.clip(self.rate * found, 0.0, 1.0), np.float64)


@dataclass(frozen=True)
class Level:
    """r and its 90 % interval, by profile likelihood."""

    rate: float
    low: float
    high: float


@dataclass(frozen=True)
class Evidence:
    """What the likelihood needs of some rows that were judged at about the same time; in bins of equal size.

    Attributes:
        scores: Mean of each bin, float64 `(bins,)`, see `normal_scores`.
        contradicted: Rows of each whose label is not what the model says.
        rows: Rows of each.
        again: Whether the model had trained on them before.
    """

    scores: Values
    contradicted: Values
    rows: Values
    again: bool = False


def normal_scores(confidence: NDArray[np.floating]) -> Values:
    """The quantiles of a normal distribution at the ranks of the values.

    Example:
        >>> normal_scores(np.array([0.5, 0.9, 0.7])).round(2)
        array([-0.97,  0.97,  0.  ])
    """
    return np.asarray(ndtri((rankdata(confidence) - 0.5) / len(confidence)), np.float64)


def evidence(scores: Values, wrong: NDArray[np.bool_], *, again: bool = False) -> Evidence:
    """Count, in bins; see `Evidence`.

    Args:
        scores: `(n,)`, see `normal_scores`.
        wrong: bool `(n,)`, whether the label is not what the model says.
        again: Whether the model had trained on them before.
    """
    order = np.argsort(scores, kind="stable")
    parts = np.array_split(order, max(1, min(_BINS, len(order) // _LEAST_PER_BIN)))
    return Evidence(
        np.array([scores[part].mean() for part in parts]),
        np.array([wrong[part].sum() for part in parts], float),
        np.array([len(part) for part in parts], float),
        again,
    )


def fit_level(found: Sequence[Evidence], classes: int) -> Level:
    """The likeliest level that all have in common, each with errors of its own.

    Args:
        found: Of rows that occur in one of them only, so that their log-likelihoods add up.
        classes: C, at least 2.

    Returns:
        The level. The grid is exhaustive and small, so there is no start to depend on and no failure to converge.
    """
    rates = np.arange(0, _most(classes), _STEP)
    profile = np.sum([_profile(rates, part, classes) for part in found], axis=0)
    best = int(profile.argmax())
    inside = rates[profile >= profile[best] - _DROP]
    return Level(float(rates[best]), float(inside[0]), float(inside[-1]))


def fit_curve(found: Evidence, classes: int, *, rate: float) -> Curve:
    """The likeliest errors under a level.

    Args:
        found: Of some rows.
        classes: C, at least 2.
        rate: r.
    """
    rate = min(rate, _most(classes))
    fits = _log_likelihood(rate, _errors(found), found, classes)
    offset, slope = np.unravel_index(fits.argmax(), fits.shape)
    return Curve(rate, float(_OFFSETS[offset]), float(_SLOPES[slope]))


def _most(classes: int) -> float:
    return min(_MOST, (classes - 1) / classes)


def _contradicts(rate: float, errors: Values, classes: int) -> Values:
    found = rate + (1 - rate * classes / (classes - 1)) * errors
    return np.clip(found, 1e-6, 1 - 1e-6)


def _profile(rates: Values, found: Evidence, classes: int) -> Values:
    """The log-likelihood of each level, with the likeliest errors; of `again`, the mean over k."""
    errors = _errors(found)
    profile = np.array([_log_likelihood(rate, errors, found, classes).max() for rate in rates])
    if not found.again:
        return profile
    seen = np.stack([np.interp(share * rates, rates, profile) for share in _SEEN])
    return np.asarray(logsumexp(seen, axis=0) - np.log(len(_SEEN)), np.float64)


def _errors(found: Evidence) -> Values:
    """Under each offset and slope, `(offsets, slopes, bins)`."""
    return np.asarray(ndtr(-(_OFFSETS[:, None, None] + _SLOPES[None, :, None] * found.scores)), np.float64)


def _log_likelihood(rate: float, errors: Values, found: Evidence, classes: int) -> Values:
    expected = _contradicts(rate, errors, classes)
    agreed = found.rows - found.contradicted
    total: Values = (found.contradicted * np.log(expected) + agreed * np.log1p(-expected)).sum(-1)
    return total


Mask = NDArray[np.bool_]
Rows = NDArray[np.int64]
_EVIDENCE = "evidence"


def unready(judgements: NDArray[np.int16], moments: NDArray[np.float32], least: int) -> Mask:
    """Which of some rows were seen by a model that was not ready: in the first half of the first epoch.

    Args:
        judgements: Of all rows, how many before now.
        moments: Of the rows seen now, the batch of the epoch; nan in a pass.
        least: Rows of each half that are needed to tell them apart.

    Returns:
        bool, of the rows seen now.
    """
    early = np.zeros(len(moments), bool)
    if judgements.any() or not np.isfinite(moments).all():
        return early
    early = moments <= np.median(moments)
    return early if min(early.sum(), (~early).sum()) >= least else np.zeros_like(early)


def sights(
    known: Mapping[str, NDArray[Any]], rows: Rows, moments: NDArray[np.float32], early: Mask, least: int
) -> list[tuple[Mask, bool]]:
    """The parts of the rows seen now that count, each with errors of its own, and whether it is seen again.

    Args:
        known: `judgements` and `heard` of all rows, as they were before.
        rows: Seen now.
        moments: Beside them, nan in a pass.
        early: From `unready`.
        least: A smaller part says too little.
    """
    pending, before = ~known["heard"], known["judgements"] > 0
    first = pending[rows] & ~before[rows] & ~early
    second = pending[rows] & before[rows]
    whole = second.sum() == (pending & before).sum()
    alike = len(np.unique(np.isfinite(moments[second]))) == 1
    found = [(first, False), (second, True)] if whole and alike else [(first, False)]
    return [(part, again) for part, again in found if part.sum() >= least]


def with_evidence(
    known: Mapping[str, NDArray[Any]],
    rows: Rows,
    parts: Sequence[tuple[Mask, bool]],
    confidence: NDArray[np.float64],
    wrong: Mask,
) -> dict[str, NDArray[Any]]:
    """A copy of what is known, with these parts of the rows seen now."""
    updated = {name: np.array(array) for name, array in known.items()}
    for part, again in parts:
        found = evidence(normal_scores(confidence[part]), wrong[part])
        number = updated[_EVIDENCE][:, 0].max(initial=-1) + 1
        start = np.tile([number, float(again)], (len(found.rows), 1))
        lines = np.c_[start, found.scores, found.contradicted, found.rows]
        updated[_EVIDENCE] = np.concatenate([updated[_EVIDENCE], lines])
        updated["heard"][rows[part]] = True
    return updated


def no_evidence() -> dict[str, NDArray[np.float64]]:
    """As it is in the beginning: lines of the number of the part, 1 where it was seen again, and the columns of
    `datadiet.noise.lapse_rate.Evidence`."""
    return {_EVIDENCE: np.empty((0, 5))}


def known_evidence(known: Mapping[str, NDArray[Any]]) -> list[Evidence]:
    """All parts so far."""
    table = known[_EVIDENCE]
    parts = [table[table[:, 0] == number] for number in np.unique(table[:, 0])]
    return [Evidence(part[:, 2], part[:, 3], part[:, 4], bool(part[0, 1])) for part in parts]
