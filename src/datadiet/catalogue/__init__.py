"""Every score, selector, history and rescore mode: formula, what it needs, what it costs, where it comes from.

Plain text alone: it imports nothing, so that a command can print it at once. Tests hold it in step with the library.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict

from datadiet.catalogue.diet import DIET_OPTIONS
from datadiet.catalogue.dynamics import DYNAMIC_SCORES
from datadiet.catalogue.geometry import GEOMETRY_SCORES, GEOMETRY_SELECTORS
from datadiet.catalogue.gradients import ATTRIBUTION, GRADIENT_SCORES
from datadiet.catalogue.logits import LOGIT_SCORES
from datadiet.catalogue.method import Method
from datadiet.catalogue.noise import NOISE
from datadiet.catalogue.selectors import IN_BATCH, SELECTORS
from datadiet.catalogue.two_models import TWO_MODEL_SCORES

KINDS: Mapping[str, str] = {
    "score": "--score, and --scores of datadiet score: how hard an example is; larger = harder, always",
    "select": "--select: which examples an epoch keeps",
    "in_batch": "--select: which examples of each batch get a backward pass, and which a forward pass",
    "combine": "--combine: how words and heads become one value (intent-slot and token-classification)",
    "history": "--history: how the values of several rounds become one",
    "rescore": "--rescore: which examples get a forward pass at a refresh",
    "offset": "--offset: what is set aside as suspected noise",
    "suspects": "--suspects-by of datadiet select, and datadiet.suspects: how likely each label is wrong",
    "dedupe": "--dedupe, with --near of datadiet select, and datadiet.duplicates: rows that say the same",
    "attribution": "datadiet.gradients.attribution: what an example does to a dev set, by dattri",
}

METHODS: tuple[Method, ...] = (
    *LOGIT_SCORES,
    *DYNAMIC_SCORES,
    *GRADIENT_SCORES,
    *TWO_MODEL_SCORES,
    *GEOMETRY_SCORES,
    *SELECTORS,
    *GEOMETRY_SELECTORS,
    *IN_BATCH,
    *DIET_OPTIONS,
    *NOISE,
    *ATTRIBUTION,
)


def as_json() -> list[dict[str, str]]:
    """The table for machines: one object per method.

    Example:
        >>> as_json()[0]["name"]
        'el2n'
    """
    return [asdict(method) for method in METHODS]


__all__ = ["KINDS", "METHODS", "Method", "as_json"]
