"""The names of methods that can be compared, and which options a comparison shares. Imports nothing heavy."""

from __future__ import annotations

from typing import Any

from datadiet.catalogue import METHODS
from datadiet.catalogue.dynamics import DYNAMIC_SCORES
from datadiet.catalogue.geometry import GEOMETRY_SCORES, GEOMETRY_SELECTORS
from datadiet.catalogue.gradients import GRADIENT_SCORES
from datadiet.catalogue.logits import LOGIT_SCORES
from datadiet.catalogue.method import Method
from datadiet.catalogue.selectors import IN_BATCH as IN_BATCH_METHODS
from datadiet.catalogue.selectors import SELECTORS
from datadiet.config import FinetuneConfig

FULL, SHORT, RANDOM, DIET = "full", "short", "random", "diet"
BASELINES = (FULL, RANDOM, SHORT)

# Published methods have no guard against wrong labels, which `hardest` has by default.
_HARDEST: dict[str, Any] = {"select": "hardest", "offset": 0.0}
# A name of `--methods` stands for these options of `datadiet finetune`; `PRESETS` adds the names of the catalogue.
_WRITTEN: dict[str, dict[str, Any]] = {
    DIET: {},  # what `datadiet finetune` does by default
    "hardest": {"score": "el2n", **_HARDEST},  # the same as `el2n`
    "el2n_dropped": {"score": "el2n", **_HARDEST, "rescore": "dropped"},
    "el2n_all": {"score": "el2n", **_HARDEST, "rescore": "all"},
    "el2n_ema": {"score": "el2n", **_HARDEST, "history": "ema"},  # the same as `ucb`
    "ucb": {"score": "el2n", **_HARDEST, "history": "ema"},
    "el2n_guarded": {"score": "el2n", "select": "hardest", "offset": "auto"},
    "aum": {"score": "aum", **_HARDEST},
    "ccs": {"score": "aum", "select": "ccs"},
    "infobatch": {"score": "cross_entropy", "select": "infobatch"},
    "seta": {"score": "cross_entropy", "select": "seta"},
    RANDOM: {"select": "random"},
    "window": {"score": "el2n", "select": "window", "offset": 0.05},
    "moderate": {"score": "moderate", "select": "moderate", "static": True},  # a score and its selector
    "longest": {"score": "length", **_HARDEST, "static": True},
    "vog": {"score": "vog", "select": "proportional", "static": True, "scores_from": FULL},
    "distilled": {"select": "random", "teacher": FULL},
    "static_random": {"select": "random", "static": True, "warmup_epochs": 0},
    "static_el2n": {"score": "el2n", **_HARDEST, "static": True},
}

# What the options of a method follow from, by the part of the catalogue in which it stands. Not here: scores of two
# models, which need a file of `datadiet score`.
_ONCE = {"static": True}
_BY_FAMILY: tuple[tuple[tuple[Method, ...], dict[str, Any]], ...] = (
    (LOGIT_SCORES, _HARDEST),
    (DYNAMIC_SCORES, _HARDEST),
    (GRADIENT_SCORES, {**_HARDEST, **_ONCE, "scores_from": FULL}),
    (GEOMETRY_SCORES, {**_HARDEST, **_ONCE}),
    (SELECTORS, {"score": "el2n"}),
    (GEOMETRY_SELECTORS, _ONCE),  # of values they read, if any, el2n is the default
    (IN_BATCH_METHODS, {"score": "cross_entropy"}),
)
# `drop_quota` and `directed` need an option for each class, `top_reducible` a file of `datadiet score`
_UNFINISHED = ("drop_quota", "directed", "top_reducible")


def _presets() -> dict[str, dict[str, Any]]:
    """One method for every score and selector that can run by its name alone, after those that are written out."""
    made = {
        method.name: {method.kind if method.kind == "score" else "select": method.name, **others}
        for family, others in _BY_FAMILY
        for method in family
        if method.name not in _UNFINISHED
    }
    return {**made, **_WRITTEN}


PRESETS: dict[str, dict[str, Any]] = _presets()
# methods that are no name of a score or selector
MIXED: tuple[str, ...] = tuple(name for name in _WRITTEN if name not in {method.name for method in METHODS})

OTHERS = "Any other combination is written out in YAML (--config), as mine: {score: aum, select: stratified}."
TOLERANCE = "tolerance"  # the method that `--tolerance` adds

# which the comparison sets itself
OWN = ("output", "seed", "max_steps", "scores_from", "cache")
# options that belong to a method, not to the comparison: they are written out in YAML
METHOD_FIELDS: tuple[str, ...] = (
    "score",
    "score_options",
    "select",
    "select_options",
    "offset",
    "epsilon",
    "static",
    "history",
)
METHOD_FIELDS += ("rescore", "combine", "teacher", "teacher_temperature")
# options of a method that may say `full`: the run on everything with the same seed
OF_A_RUN = ("teacher", "scores_from")
LEFT_OUT = ("keep", "tolerance", *OWN, *METHOD_FIELDS)


def compare_fields() -> list[str]:
    """The options of `datadiet finetune` that all runs of a comparison share."""
    return [name for name in FinetuneConfig.__dataclass_fields__ if name not in LEFT_OUT]


def listed(text: str) -> list[str | float]:
    """A comma-separated flag as a list; numbers as numbers, `none` as nothing.

    Example:
        >>> listed("0.5, 0.2"), listed("el2n,uncertain"), listed("none")
        ([0.5, 0.2], ['el2n', 'uncertain'], [])
    """
    if text.strip() == "none":
        return []
    return [_number(part.strip()) for part in text.split(",") if part.strip()]


def _number(text: str) -> str | float:
    try:
        return float(text)
    except ValueError:
        return text
