"""The names of methods that can be compared, and which options a comparison shares. Imports nothing heavy."""

from __future__ import annotations

from typing import Any

from datadiet.config import FinetuneConfig

FULL, SHORT, RANDOM = "full", "short", "random"
BASELINES = (FULL, RANDOM, SHORT)

# A name of `--methods` stands for these options of `datadiet finetune`.
PRESETS: dict[str, dict[str, Any]] = {
    "el2n": {"score": "el2n", "select": "hardest"},
    "cross_entropy": {"score": "cross_entropy", "select": "hardest"},
    "margin": {"score": "margin", "select": "hardest"},
    "entropy": {"score": "entropy", "select": "hardest"},
    "absolute_error": {"score": "absolute_error", "select": "hardest"},
    "el2n_dropped": {"score": "el2n", "select": "hardest", "rescore": "dropped"},
    "el2n_all": {"score": "el2n", "select": "hardest", "rescore": "all"},
    "el2n_ema": {"score": "el2n", "select": "hardest", "history": "ema"},
    "uncertain": {"score": "el2n", "select": "uncertain"},
    "epsilon": {"score": "el2n", "select": "epsilon"},
    "easiest": {"score": "el2n", "select": "easiest"},
    "ucb": {"score": "el2n", "select": "hardest", "history": "ema"},
    "el2n_guarded": {"score": "el2n", "select": "hardest", "offset": "auto"},
    "aum": {"score": "aum", "select": "hardest"},
    "ccs": {"score": "aum", "select": "ccs"},
    "infobatch": {"score": "cross_entropy", "select": "infobatch"},
    "seta": {"score": "cross_entropy", "select": "seta"},
    "proportional": {"score": "el2n", "select": "proportional"},
    "variability": {"score": "variability", "select": "hardest"},
    "forgetting": {"score": "forgetting", "select": "hardest"},
    "grand_last_layer": {"score": "grand_last_layer", "select": "hardest"},
    "selective_backprop": {"score": "cross_entropy", "select": "selective_backprop"},
    "divbs": {"score": "cross_entropy", "select": "divbs"},
    RANDOM: {"select": "random"},
    "longest": {"score": "length", "select": "hardest", "static": True},
    "scdp": {"score": "scdp", "select": "hardest", "static": True},
    "prototypes": {"score": "prototypes", "select": "hardest", "static": True},
    "k_center": {"select": "k_center", "static": True},
    "vog": {"score": "vog", "select": "proportional", "static": True, "scores_from": FULL},
    "distilled": {"select": "random", "teacher": FULL},
    "static_random": {"select": "random", "static": True, "warmup_epochs": 0},
    "static_el2n": {"score": "el2n", "select": "hardest", "static": True},
}

TOLERANCE = "tolerance"  # the method that `--tolerance` adds

# which the comparison sets itself
OWN = ("output", "seed", "max_steps", "scores_from", "cache")
# options that belong to a method, not to the comparison: they are written out in YAML
METHOD_FIELDS: tuple[str, ...] = ("score", "select", "select_options", "offset", "epsilon", "static", "history")
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
