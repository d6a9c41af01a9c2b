"""The state of a diet as arrays and plain values, and what a run that is resumed may not change."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datadiet.diet.schedule import BaseSchedule
from datadiet.types import EpochPlan, Json

MADE_WITH = "made_with"  # in a state: what it depends on, by name
_ROWS, _KEPT, _WEIGHTS = "plan.rows", "plan.kept", "plan.weights"  # of the rows, or a bit for each that could be one


def joined(states: Mapping[str, tuple[dict[str, NDArray[Any]], Json]]) -> tuple[dict[str, NDArray[Any]], Json]:
    """The states of several parts as one: arrays as `part.name`, plain values by part."""
    arrays = {f"{part}.{name}": array for part, (parts, _) in states.items() for name, array in parts.items()}
    return arrays, {part: numbers for part, (_, numbers) in states.items()}


def part(arrays: Mapping[str, NDArray[Any]], part: str) -> dict[str, NDArray[Any]]:
    """The arrays of one part."""
    start = f"{part}."
    return {name.removeprefix(start): array for name, array in arrays.items() if name.startswith(start)}


def plan_state(plan: EpochPlan | None) -> tuple[dict[str, NDArray[Any]], Json]:
    """The plan of the epoch that trains; both empty of it where there is none."""
    if plan is None:
        return {}, {"plan": None}
    rows = plan.rows
    arrays: dict[str, NDArray[Any]] = {_ROWS: rows}
    if len(rows) and (rows[1:] > rows[:-1]).all():  # a selector of the user's own may give another order
        kept = np.zeros(int(rows[-1]) + 1, bool)
        kept[rows] = True
        arrays = {_KEPT: np.packbits(kept)}
    if plan.weights is not None:
        arrays[_WEIGHTS] = plan.weights
    return arrays, {"plan": [plan.epoch, plan.full, plan.round]}


def plan_of(arrays: Mapping[str, NDArray[Any]], numbers: Json) -> EpochPlan | None:
    """The plan that `plan_state` was of."""
    if numbers["plan"] is None:
        return None
    epoch, full, round_ = numbers["plan"]
    weights = np.array(arrays[_WEIGHTS]) if _WEIGHTS in arrays else None
    rows = np.array(arrays[_ROWS]) if _ROWS in arrays else np.flatnonzero(np.unpackbits(arrays[_KEPT]))
    return EpochPlan(epoch, rows, full=full, round=round_, weights=weights)


# ---- what a state depends on


def checksum(values: Any) -> str:
    """Of numbers in an array, or of one key per row.

    Examples:
        >>> checksum(["a", "b"]) == checksum(np.array(["a", "b"])) != checksum(["ab"])
        True
    """
    if isinstance(values, np.ndarray) and values.dtype.kind in "iufb":
        return f"{zlib.crc32(np.ascontiguousarray(values).data):08x}"
    total = 0
    for key in values:
        total = zlib.crc32(f"{key}\0".encode(errors="surrogatepass"), total)
    return f"{total:08x}"


def changes(then: Json | None, now: Json) -> list[str]:
    """What a state depends on and is another now, one sentence each.

    Args:
        then, now: Plain values by name, compared where both know one; None of a state that names none.

    Examples:
        >>> changes({"keep": 0.5, "batch": 8}, {"keep": 0.3, "batch": 8})
        ['keep must be 0.5, as in the run that is resumed, got 0.3.']
    """
    if then is None:
        return ["the state is of another version of datadiet, and cannot be taken up: begin anew."]
    changed = [name for name in now if name in then and then[name] != now[name]]
    return [f"{name} must be {then[name]!r}, as in the run that is resumed, got {now[name]!r}." for name in changed]


def schedule_changes(then: BaseSchedule, now: BaseSchedule, begun: int) -> list[str]:
    """Whether a schedule of other epochs is the same in those that have begun; a sentence where it is not.

    Examples:
        >>> from datadiet.diet.schedule import Schedule
        >>> schedule_changes(Schedule(100, 4, anneal_epochs=2), Schedule(100, 8, anneal_epochs=2), begun=3)
        ['epochs must be 4, as in the run that is resumed, got 8: the first 3 epochs would have been others.']
    """
    if now.epochs < begun:
        return [f"epochs must be at least {begun}, which have begun in the run that is resumed, got {now.epochs}."]
    if all(then.count(one) == now.count(one) and then.is_full(one) == now.is_full(one) for one in range(begun)):
        return []
    return [
        f"epochs must be {then.epochs}, as in the run that is resumed, got {now.epochs}: the first {begun} epochs "
        "would have been others."
    ]
