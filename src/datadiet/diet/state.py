"""The state of a diet as arrays and plain values: the parts of it put together, and taken apart again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datadiet.records import EpochPlan, Json

_ROWS, _WEIGHTS = "plan.rows", "plan.weights"


def joined(states: Mapping[str, tuple[dict[str, NDArray[Any]], Json]]) -> tuple[dict[str, NDArray[Any]], Json]:
    """The states of several parts as one: arrays as `part.name`, plain values by part."""
    arrays = {f"{part}.{name}": array for part, (held, _) in states.items() for name, array in held.items()}
    return arrays, {part: numbers for part, (_, numbers) in states.items()}


def part(arrays: Mapping[str, NDArray[Any]], part: str) -> dict[str, NDArray[Any]]:
    """The arrays of one part."""
    start = f"{part}."
    return {name.removeprefix(start): array for name, array in arrays.items() if name.startswith(start)}


def plan_state(plan: EpochPlan | None) -> tuple[dict[str, NDArray[Any]], Json]:
    """The plan of the epoch that trains; both empty of it where there is none."""
    if plan is None:
        return {}, {"plan": None}
    arrays = {_ROWS: plan.rows, _WEIGHTS: plan.weights}
    held = {name: array for name, array in arrays.items() if array is not None}
    return held, {"plan": [plan.epoch, plan.full, plan.round]}


def plan_of(arrays: Mapping[str, NDArray[Any]], numbers: Json) -> EpochPlan | None:
    """The plan that `plan_state` was of."""
    if numbers["plan"] is None:
        return None
    epoch, full, round_ = numbers["plan"]
    weights = np.array(arrays[_WEIGHTS]) if _WEIGHTS in arrays else None
    return EpochPlan(epoch, np.array(arrays[_ROWS]), full=full, round=round_, weights=weights)
