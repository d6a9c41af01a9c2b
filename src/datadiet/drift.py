"""Values of one training epoch, brought to one moment.

Values from the training forward are taken while the model changes: an example seen early in an epoch looks harder than
one seen late, and one that has rested since looks harder than one that trains, only because the model was worse then.
Left alone, the first makes a selection nearly random after a short warm-up, and the second makes the diet swap its two
halves at every refresh (LOG.md).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression

Values = NDArray[np.float32]

# An example that rests becomes easier too, by what the model learns from the others, but less than one that trains: by
# half as much, counted in factors. With 0 a diet without passes swaps its two halves at every refresh.
REST = 0.5
_LEAST = 64  # examples in a bin, so that one hard batch is no trend
_MOST_BINS = 8
_AT_ONCE = 65_536


def to_epoch_end(values: Values, prior: Values, moments: Values) -> tuple[Values, float]:
    """Values of the examples of one epoch as if all had been seen at its end.

    `value_i * trend(end) / trend(moment_i)`, where the trend is the ratio of the values to what the same examples had
    before, in bins of the epoch, made to fall monotonically. For examples never seen before, the mean value itself.

    Args:
        values: float32 `(n,)`, at least 0, taken during the epoch.
        prior: float32 `(n,)`, the values before the epoch; +inf where there was none.
        moments: float32 `(n,)`, when in the epoch each was taken, in any unit.

    Returns:
        float32 `(n,)`, and the trend at the end: by what share values fell over the epoch (1 where it is not known).

    Example:
        >>> moments = np.arange(256, dtype=np.float32)
        >>> values = (2 - moments / 256).astype(np.float32)  # equally hard, seen ever later
        >>> corrected, fall = to_epoch_end(values, np.full(256, np.inf, np.float32), moments)
        >>> bool(corrected.std() < 0.1 * values.std()), fall
        (True, 1.0)
    """
    known = np.isfinite(prior)
    paired = bool(known.sum() >= _LEAST)
    used = known if paired else ~known
    where: Any = slice(None) if used.all() else used  # no copies where every example counts
    base = prior[where] if paired else np.ones(int(used.sum()), np.float32)
    if used.sum() < _LEAST or values.min() < 0 or base.sum() <= 0 or values[where].sum() <= 0:
        return values, 1.0
    centres, trend = _trend(values[where], base, moments[where])
    corrected = np.empty(len(values), np.float32)
    for start in range(0, len(values), _AT_ONCE):  # in float64, a piece at a time
        part = slice(start, start + _AT_ONCE)
        corrected[part] = values[part] * (trend[-1] / np.interp(moments[part], centres, trend))
    return corrected, float(trend[-1]) if paired else 1.0


def _trend(values: Values, base: Values, moments: Values) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Centres of the bins, and the falling ratio of the values to their base in each."""
    order = np.argsort(moments, kind="stable")
    bins = np.array_split(order, min(_MOST_BINS, max(1, len(order) // _LEAST)))
    centres = np.array([moments[part].mean(dtype=np.float64) for part in bins])
    ratios = np.array([values[part].sum(dtype=np.float64) / base[part].sum(dtype=np.float64) for part in bins])
    sizes = np.array([len(part) for part in bins], np.float64)
    falling = np.asarray(isotonic_regression(ratios, weights=sizes, increasing=False).x)
    # between the centres of two bins the trend is a line; beyond the outer ones it goes on as it was
    first, last = float(moments.min()), float(moments.max())
    start = falling[0] + _slope(centres[:2], falling[:2]) * (first - centres[0])
    end = max(falling[-1] + _slope(centres[-2:], falling[-2:]) * (last - centres[-1]), 0.5 * falling[-1])
    return np.r_[first, centres, last], np.maximum(np.r_[start, falling, end], 1e-6)


def _slope(centres: NDArray[np.float64], values: NDArray[np.float64]) -> float:
    """0 where all is one moment."""
    run = centres[-1] - centres[0]
    return float((values[-1] - values[0]) / run) if run > 0 else 0.0
