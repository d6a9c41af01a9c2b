"""Selectors: which rows an epoch trains on, as pure functions of the values and of `(seed, epoch)`.

    select(values, count, *, seed, epoch, groups=None, ids=None, ...) -> Selection

Every selector returns exactly `count` rows, ascending and without repeats, draws nothing from a global generator and
refuses NaN. A value of +inf stands for an example that was never scored: unknown, so every selector that goes by the
values takes it first, `easiest` included; it does not count as hard.
"""

from __future__ import annotations

from datadiet.selectors.balanced import with_floor
from datadiet.selectors.diverse import d2_pruning, herding, k_center
from datadiet.selectors.inputs import Selector
from datadiet.selectors.middle import by_count, moderate
from datadiet.selectors.ranked import OffsetError, easiest, hardest, window
from datadiet.selectors.soft import epsilon, uncertain
from datadiet.selectors.submodular import facility_location, graph_cut
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
    "moderate": moderate,
}

# those that need `features=`: a float array (n, d) or a SciPy CSR matrix beside the values
FEATURE_SELECTORS: dict[str, Selector] = {
    "k_center": k_center,
    "herding": herding,
    "d2_pruning": d2_pruning,
    "facility_location": facility_location,
    "graph_cut": graph_cut,
}

__all__ = [
    "FEATURE_SELECTORS",
    "SELECTORS",
    "TIE_BREAKS",
    "OffsetError",
    "Selector",
    "by_count",
    "d2_pruning",
    "easiest",
    "epsilon",
    "facility_location",
    "graph_cut",
    "hardest",
    "herding",
    "k_center",
    "moderate",
    "random",
    "row_hash",
    "uncertain",
    "window",
    "with_floor",
]
