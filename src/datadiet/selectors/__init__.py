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

from datadiet.selectors.base import TIE_BREAKS, Selector, row_hash
from datadiet.selectors.coverage import d2_pruning, herding, k_center
from datadiet.selectors.in_batch import (
    BatchSelector,
    BatchSignals,
    DiverseBatch,
    SelectiveBackprop,
    TopReducible,
    divbs,
    last_layer_gram,
)
from datadiet.selectors.quotas import balanced, directed, drop_quota, floor_problems, partly_balanced, quota, with_floor
from datadiet.selectors.ranked import OffsetError, by_count, easiest, hardest, moderate, window
from datadiet.selectors.sampled import epsilon, infobatch, infobatch_count, proportional, random, uncertain
from datadiet.selectors.strata import both_ends, ccs, kmeans_groups, seta, stratified
from datadiet.selectors.submodular import facility_location, graph_cut

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
    "moderate": moderate,
    "k_center": k_center,
    "herding": herding,
    "d2_pruning": d2_pruning,
    "facility_location": facility_location,
    "graph_cut": graph_cut,
}

# those that need `features=`: a float array (n, d) or a SciPy CSR matrix beside the values
FEATURE_SELECTORS: tuple[str, ...] = ("k_center", "herding", "d2_pruning", "facility_location", "graph_cut")

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
    "moderate": {"per_group": False},
    "k_center": {"start": None},
    "herding": {},
    "d2_pruning": {"neighbours": 5, "gamma": 0.1, "gamma_forward": 1.0, "search": "exact"},
    "facility_location": {"neighbours": None, "search": "exact"},
    "graph_cut": {"redundancy": 0.5, "neighbours": None, "search": "exact"},
}

# what a selector cannot do without: `groups`, or an option without a default
NEEDS: Mapping[str, tuple[str, ...]] = {
    "window": ("offset",),
    "balanced": ("groups",),
    "partly_balanced": ("groups",),
    "quota": ("groups",),
    "drop_quota": ("groups", "recalls"),
    "directed": ("groups",),
    **dict.fromkeys(FEATURE_SELECTORS, ("features",)),
}

# methods that choose within one batch, by name; their form stands at the top of in_batch.py
IN_BATCH: Mapping[str, type[BatchSelector]] = {
    "selective_backprop": SelectiveBackprop,
    "divbs": DiverseBatch,
    "top_reducible": TopReducible,
}

__all__ = [
    "FEATURE_SELECTORS",
    "IN_BATCH",
    "NEEDS",
    "OPTIONS",
    "SELECTORS",
    "TIE_BREAKS",
    "WEIGHTED_SELECTORS",
    "BatchSelector",
    "BatchSignals",
    "DiverseBatch",
    "OffsetError",
    "SelectiveBackprop",
    "Selector",
    "TopReducible",
    "balanced",
    "both_ends",
    "by_count",
    "ccs",
    "d2_pruning",
    "directed",
    "divbs",
    "drop_quota",
    "easiest",
    "epsilon",
    "facility_location",
    "floor_problems",
    "graph_cut",
    "hardest",
    "herding",
    "infobatch",
    "infobatch_count",
    "k_center",
    "kmeans_groups",
    "last_layer_gram",
    "moderate",
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
