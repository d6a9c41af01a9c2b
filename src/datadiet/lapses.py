"""How often labels contradict a model as a function of its confidence: the model's own errors, and a level below which
contradiction does not fall, which is the share of wrong labels.

    P(label is another class | confidence) = r + (1 - r C / (C - 1)) e(z),    e(z) = Phi(-(a + b z))

r: share of labels replaced by another class at random; C: classes; e: the share of its own errors that a model makes;
z: normal score of the confidence's rank, so that no calibrated probability is assumed, only a good order.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri
from scipy.stats import rankdata

# errors fall with confidence, and not infinitely fast: the range of the probit line that is searched
_OFFSETS = np.linspace(-1.0, 5.0, 41)
_SLOPES = np.geomspace(0.5, 4.0, 16)
_STEP, _MOST = 0.005, 0.6
_BINS, _LEAST_PER_BIN = 50, 20
_DROP = 1.353  # of the profile log-likelihood: half the 90 % quantile of chi-squared with one degree of freedom

Values = NDArray[np.float64]


@dataclass(frozen=True)
class Curve:
    """A fitted curve.

    Attributes:
        rate: r, the level.
        low, high: 90 % interval of r, by profile likelihood; both r itself where it was given.
        offset, slope: a and b of the errors.
    """

    rate: float
    low: float
    high: float
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


def normal_scores(confidence: NDArray[np.floating]) -> Values:
    """The quantiles of a normal distribution at the ranks of the values.

    Example:
        >>> normal_scores(np.array([0.5, 0.9, 0.7])).round(2)
        array([-0.97,  0.97,  0.  ])
    """
    return np.asarray(ndtri((rankdata(confidence) - 0.5) / len(confidence)), np.float64)


def fit_curve(scores: Values, wrong: NDArray[np.bool_], classes: int, *, rate: float | None = None) -> Curve:
    """The likeliest curve, on a grid.

    Args:
        scores: `(n,)`, see `normal_scores`.
        wrong: bool `(n,)`.
        classes: C, at least 2.
        rate: r, where it is known from elsewhere and only the errors are wanted.

    Returns:
        The curve. The grid is exhaustive and small, so there is no start to depend on and no failure to converge.
    """
    middle, contradicted, counts = _binned(scores, wrong)
    errors = ndtr(-(_OFFSETS[:, None, None] + _SLOPES[None, :, None] * middle))  # (offsets, slopes, bins)
    rates = np.arange(0, min(_MOST, (classes - 1) / classes), _STEP) if rate is None else np.array([rate])
    fits = np.array([_log_likelihood(r, errors, contradicted, counts, classes) for r in rates])
    profile = fits.max(axis=(1, 2))
    best = int(profile.argmax())
    inside = rates[profile >= profile[best] - _DROP]
    offset, slope = np.unravel_index(fits[best].argmax(), fits[best].shape)
    return Curve(
        float(rates[best]), float(inside[0]), float(inside[-1]), float(_OFFSETS[offset]), float(_SLOPES[slope])
    )


def _binned(scores: Values, wrong: NDArray[np.bool_]) -> tuple[Values, Values, Values]:
    """Mean score, contradicted rows and rows of bins of equal size."""
    order = np.argsort(scores, kind="stable")
    parts = np.array_split(order, max(1, min(_BINS, len(order) // _LEAST_PER_BIN)))
    middle = np.array([scores[part].mean() for part in parts])
    return (
        middle,
        np.array([wrong[part].sum() for part in parts], float),
        np.array([len(part) for part in parts], float),
    )


def _contradicts(rate: float, errors: Values, classes: int) -> Values:
    found = rate + (1 - rate * classes / (classes - 1)) * errors
    return np.clip(found, 1e-6, 1 - 1e-6)


def _log_likelihood(rate: float, errors: Values, contradicted: Values, counts: Values, classes: int) -> Values:
    found = _contradicts(rate, errors, classes)
    total: Values = (contradicted * np.log(found) + (counts - contradicted) * np.log1p(-found)).sum(-1)
    return total
