"""What is wrong with the schedule of a config, whatever the number of examples. Imports nothing heavy."""

from __future__ import annotations

from typing import Any

from datadiet.adaptive import AdaptiveSchedule
from datadiet.checks import UserError
from datadiet.config import FinetuneConfig
from datadiet.schedules import Schedule, parse_keep

PHASES = ("warmup_epochs", "refresh_every", "anneal_epochs", "static")
MANY = 10**9  # examples: so many that no share of them is less than a batch


def schedule_problems(config: FinetuneConfig) -> list[str]:
    """Everything but what depends on the number of examples; a share out of range is the diet's to say.

    Example:
        >>> schedule_problems(FinetuneConfig("snips", "intent-slot", "runs/a", warmup_epochs=9))
        ['the warm-up is longer than the training: warmup_epochs 9, epochs 5.']
    """
    try:
        keep = parse_keep(config.keep)
    except UserError:
        keep = 0.5
    shares = keep.values() if isinstance(keep, dict) else [keep]
    if not all(0 < share <= 1 for share in shares):
        keep = 0.5
    phases: dict[str, Any] = {name: getattr(config, name) for name in PHASES if getattr(config, name) is not None}
    try:
        if config.tolerance is None:
            Schedule(MANY, config.epochs, keep, **phases)
        else:
            cycles = {name: phases[name] for name in ("warmup_epochs", "refresh_every") if name in phases}
            AdaptiveSchedule(MANY, config.epochs, **cycles)
    except UserError as error:
        return list(error.problems)
    return []
