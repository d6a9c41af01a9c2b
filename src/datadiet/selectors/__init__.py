"""Selectors: which rows an epoch trains on, as pure functions of the values and of `(seed, epoch)`.

    select(values, count, *, seed, epoch, groups=None, ids=None, ...) -> Selection

Every selector returns exactly `count` rows, ascending and without repeats, draws nothing from a global generator and
refuses NaN. A value of +inf stands for an example that was never scored: unknown, so every selector that goes by the
values takes it first, `easiest` included; it does not count as hard.
"""

from __future__ import annotations

from datadiet.selectors.balanced import with_floor
from datadiet.selectors.inputs import Selector
from datadiet.selectors.ranked import OffsetError, easiest, hardest, window
from datadiet.selectors.soft import epsilon, uncertain
from datadiet.selectors.ties import TIE_BREAKS, row_hash
from datadiet.selectors.uniform import random

# for names on the command line only; in Python the functions are passed themselves
SELECTORS: dict[str, Selector] = {
    "hardest": hardest,
    "easiest": easiest,
    "window": window,
    "random": random,
    "epsilon": epsilon,
    "uncertain": uncertain,
}

__all__ = [
    "SELECTORS",
    "TIE_BREAKS",
    "OffsetError",
    "Selector",
    "easiest",
    "epsilon",
    "hardest",
    "random",
    "row_hash",
    "uncertain",
    "window",
    "with_floor",
]
