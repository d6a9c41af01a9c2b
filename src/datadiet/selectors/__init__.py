"""Selectors: which rows an epoch trains on, as pure functions of the values and of `(seed, epoch)`.

    select(values, count, *, seed, epoch, groups=None, ids=None, ...) -> Selection

Every selector returns exactly `count` rows, ascending and without repeats, draws nothing from a global generator and
refuses NaN. A value of +inf stands for an example that was never scored: unknown, so every selector that goes by the
values takes it first, `easiest` included; it does not count as hard. Those that need the classes (`balanced` and its
kin) give every class its places first, and then hold to this within the class.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from datadiet.selectors.balanced import partly_balanced, with_floor
from datadiet.selectors.inputs import Selector
from datadiet.selectors.quotas import balanced, directed, drop_quota, quota
from datadiet.selectors.ranked import OffsetError, easiest, hardest, window
from datadiet.selectors.sliding import kmeans_groups, seta
from datadiet.selectors.soft import epsilon, proportional, uncertain
from datadiet.selectors.stratified import both_ends, ccs, stratified
from datadiet.selectors.ties import TIE_BREAKS, row_hash
from datadiet.selectors.uniform import random
from datadiet.selectors.weighted import infobatch, infobatch_count

# for names on the command line only; in Python the functions are passed themselves
SELECTORS: dict[str, Selector] = {
    "hardest": hardest,
    "easiest": easiest,
    "window": window,
    "random": random,
    "epsilon": epsilon,
    "uncertain": uncertain,
    "proportional": proportional,
    "ccs": ccs,
    "stratified": stratified,
    "both_ends": both_ends,
    "infobatch": infobatch,
    "seta": seta,
    "balanced": balanced,
    "partly_balanced": partly_balanced,
    "quota": quota,
    "drop_quota": drop_quota,
    "directed": directed,
}

# those whose selections have loss weights
WEIGHTED_SELECTORS: tuple[str, ...] = ("infobatch",)

# options of each that have a meaning beyond the common form, with their defaults; `tie_break` goes with those by rank
OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "hardest": {"offset": 0.0, "tie_break": "hash"},
    "easiest": {"tie_break": "hash"},
    "window": {"offset": None, "tie_break": "hash"},
    "random": {},
    "epsilon": {"epsilon": 0.1, "tie_break": "hash"},
    "uncertain": {"scale": None},
    "proportional": {"scaling": "linear", "least": 0.01, "temperature": 1.0},
    "ccs": {"beta": 0.1, "strata": 50, "edges": "clipped"},
    "stratified": {"strata": 10},
    "both_ends": {"hard": 0.7},
    "infobatch": {"reserve": 0.25},
    "seta": {"num_groups": 10, "window": None, "every": 1, "grouping": "quantile"},
    "balanced": {"select": hardest},
    "partly_balanced": {"balance": 0.5, "select": hardest},
    "quota": {"shares": None, "select": hardest},
    "drop_quota": {"recalls": None, "select": random},
    "directed": {"directions": None, "default": "hard"},
}

# what a selector cannot do without: `groups`, or an option without a default
NEEDS: Mapping[str, tuple[str, ...]] = {
    "window": ("offset",),
    "balanced": ("groups",),
    "partly_balanced": ("groups",),
    "quota": ("groups",),
    "drop_quota": ("groups", "recalls"),
    "directed": ("groups",),
}

__all__ = [
    "NEEDS",
    "OPTIONS",
    "SELECTORS",
    "TIE_BREAKS",
    "WEIGHTED_SELECTORS",
    "OffsetError",
    "Selector",
    "balanced",
    "both_ends",
    "ccs",
    "directed",
    "drop_quota",
    "easiest",
    "epsilon",
    "hardest",
    "infobatch",
    "infobatch_count",
    "kmeans_groups",
    "partly_balanced",
    "proportional",
    "quota",
    "random",
    "row_hash",
    "seta",
    "stratified",
    "uncertain",
    "window",
    "with_floor",
]
