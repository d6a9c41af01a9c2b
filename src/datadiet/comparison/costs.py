"""What runs cost besides time: money and energy."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from datadiet.comparison.statistics import saving
from datadiet.records import Json

HOUR = 3600


def alone(jobs: int | None) -> bool:
    """Whether a run is known to have had the machine to itself: only then are its times, money and energy its own."""
    return jobs == 1


def price_of(result: Mapping[str, Any], price_per_hour: float) -> float:
    """What a run cost, from its first second to its last.

    Args:
        result: Of the run.
        price_per_hour: Of the machine, in any currency.

    Example:
        >>> price_of({"cost": {"total_s": 1800.0}}, 2.5)
        1.25
    """
    return float(result["cost"]["total_s"]) / HOUR * price_per_hour


def energy_of(result: Mapping[str, Any]) -> float | None:
    """Kilowatt-hours of a run; None where they were not measured."""
    energy = result.get("energy")
    return None if energy is None else float(energy["kwh"])


def money(ours: Mapping[int, float], full: Mapping[int, float] | None) -> Json:
    """A method's mean price of a run, and how much less that is than full's, paired by seed.

    Args:
        ours, full: Prices by seed; None where full is not compared.

    Example:
        >>> money({0: 1.0, 1: 3.0}, {0: 2.0, 1: 5.0})
        {'mean': 2.0, 'saved': 1.5}
    """
    shared = sorted(ours.keys() & full.keys()) if full is not None else []
    saved = statistics.mean(full[seed] - ours[seed] for seed in shared) if full is not None and shared else None
    return {"mean": statistics.mean(ours.values()), "saved": saved}


def energy(ours: Mapping[int, float], full: Mapping[int, float] | None, *, estimated: bool) -> Json:
    """A method's mean energy of a run, and the share that it saves against full, paired by seed.

    Args:
        ours, full: Kilowatt-hours by seed, of the runs that were measured; None where full is not compared.
        estimated: Whether the power of some processor was estimated, not measured.
    """
    found = None if full is None else saving(ours, full)
    return {
        "mean_kwh": statistics.mean(ours.values()),
        "saved": None if found is None else asdict(found),
        "estimated": estimated,
    }
