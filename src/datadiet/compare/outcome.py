"""What runs cost besides time: money and energy.

The finished runs of a comparison, by method.

What the runs of a comparison say together: `comparison.json`.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from datadiet.compare.plan import FULL, RANDOM, Plan
from datadiet.compare.run import RUNS, CellState
from datadiet.compare.statistics import (
    Difference,
    Floats,
    difference,
    holm,
    mcnemar,
    resampled,
    right,
    row_sums,
    saving,
)
from datadiet.compare.verdict import verdict
from datadiet.errors import DataError
from datadiet.files import SCHEMA
from datadiet.store import run_folder
from datadiet.types import Json

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


LOWER_IS_BETTER = ("nll", "mse")

BySeed = dict[int, CellState]


@dataclass(frozen=True)
class Arm:
    """The finished runs of one method with one keep.

    Attributes:
        name: Of the arm, e.g. `el2n-0.5`.
        method, keep: As in the plan.
        runs: By seed.
        sources: The runs that these have learned from, by seed: their costs come on top.
    """

    name: str
    method: str
    keep: float | str | None
    runs: BySeed
    sources: BySeed = field(default_factory=dict)

    def figures(self, metric: str) -> dict[int, float]:
        """The tested figure by seed: in points, but for `nll` and `mse`."""
        scale = 1.0 if metric in LOWER_IS_BETTER else 100.0
        return {seed: scale * tested(state)[metric] for seed, state in self.runs.items()}

    def costs(self, name: str) -> dict[int, float]:
        """An entry of the cost ledger, by seed; of a method that learns from another run, with that run's."""
        own = {seed: float(result_of(state)["cost"][name]) for seed, state in self.runs.items()}
        more = {seed: float(result_of(state)["cost"][name]) for seed, state in self.sources.items()}
        return {seed: value + more.get(seed, 0.0) for seed, value in own.items()}

    def prices(self, price_per_hour: float) -> dict[int, float]:
        """What each run cost, by seed."""
        return {seed: price_of(result_of(state), price_per_hour) for seed, state in self.runs.items()}

    def energies(self) -> dict[int, float]:
        """Kilowatt-hours of the runs that were measured, by seed."""
        found = {seed: energy_of(result_of(state)) for seed, state in self.runs.items()}
        return {seed: kwh for seed, kwh in found.items() if kwh is not None}

    @property
    def estimated(self) -> bool:
        """Whether the energy of some run is an estimate."""
        found = [result_of(state).get("energy") for state in self.runs.values()]
        return any(energy["estimated"] for energy in found if energy is not None)

    @property
    def alone(self) -> bool:
        """Whether every run is known to have had the machine to itself."""
        return all(alone(state.jobs) for state in self.runs.values())


def result_of(state: CellState) -> Json:
    """The result of a run that is done."""
    assert state.result is not None
    return state.result


def tested(state: CellState) -> Mapping[str, float]:
    """The metrics that runs are compared by."""
    return run_folder.tested_metrics(result_of(state))


def arms_of(states: Sequence[CellState]) -> dict[str, Arm]:
    """The arms of finished runs, by name, in the order of the plan."""
    arms: dict[str, Arm] = {}
    for state in states:
        cell = state.cell
        arm = arms.setdefault(cell.arm, Arm(cell.arm, cell.method, cell.keep, {}))
        arm.runs[cell.seed] = state
        if cell.follows is not None and cell.after is not None:
            arm.sources[cell.seed] = next(other for other in states if other.cell.name == cell.follows.name)
    return arms


def outcome(
    plan: Plan,
    folder: Path,
    states: Sequence[CellState],
    *,
    metric: str | None = None,
    price_per_hour: float | None = None,
) -> Json:
    """Everything that `comparison.json` holds.

    Args:
        plan: Of the comparison.
        folder: Whose run folders hold the predictions.
        states: Of every cell.
        metric: The one that verdicts are about; the task's main one by default.
        price_per_hour: Of the machine, in any currency.

    Raises:
        DataError: If runs are of different data, or no run has the metric.
    """
    done = [state for state in states if state.result is not None]
    if not done:
        return {"schema": SCHEMA, "runs": [_row(state, price_per_hour) for state in states], "methods": []}
    first = result_of(done[0])
    _check_same(done)
    metric = _metric(metric, first["task"], done)
    arms = arms_of(done)
    rows = _TestRows(folder, metric)
    compared = [_Compared(plan, rows, arms, arm, metric, price_per_hour) for arm in arms.values()]
    _adjust(compared)
    return {
        "schema": SCHEMA,
        "task": first["task"],
        "data": first["data"],
        "model": first["model"],
        "split": "test" if first["metrics"]["test"] else "dev",
        "metric": metric,
        "margin": plan.margin,
        "held_equal": "epochs; `short` has the optimizer steps of the diet that it stands beside",
        "comparable_times": all(alone(state.jobs) for state in done),
        "price_per_hour": price_per_hour,
        "environment": first["environment"],
        "plan": {
            "methods": {name: dict(options) for name, options in plan.methods.items()},
            "keeps": list(plan.keeps),
            "seeds": list(plan.seeds),
            "baselines": list(plan.baselines),
        },
        "runs": [_row(state, price_per_hour) for state in states],
        "methods": [each.line() for each in compared],
    }


def _check_same(states: Sequence[CellState]) -> None:
    """Runs are compared only on the same data and task."""
    for name in ("task", "data"):
        found = {json.dumps(result_of(state)[name], sort_keys=True): state.cell.name for state in states}
        if len(found) > 1:
            raise DataError(f"runs of different {name} are not compared: {' and '.join(sorted(found.values())[:2])}.")


def _metric(wanted: str | None, task: str, states: Sequence[CellState]) -> str:
    name = wanted or run_folder.main_metric(task)
    known = sorted(tested(states[0]))
    if name not in known or name in LOWER_IS_BETTER:
        allowed = ", ".join(other for other in known if other not in LOWER_IS_BETTER)
        raise DataError(f"no verdict can be about {name!r}. Allowed: {allowed}.")
    return name


def _row(state: CellState, price_per_hour: float | None) -> Json:
    """One run; `process_s` is null where an earlier call ran it."""
    cell, result = state.cell, state.result
    row: Json = {name: getattr(cell, name) for name in ("name", "method", "keep", "tolerance", "seed")}
    row["status"] = state.status
    if result is None:
        return {**row, "error": state.error}
    steps = sum(epoch["steps"] for epoch in result["epochs"])
    row |= {"steps": steps, "process_s": state.seconds or None, "jobs": state.jobs}
    row |= {name: result[name] for name in ("metrics", "cost", "ceiling")}
    # several runs share an hour of the machine: it is nobody's
    price = price_of(result, price_per_hour) if price_per_hour is not None and alone(state.jobs) else None
    return {**row, "price": price, "energy": result.get("energy")}


class _TestRows:
    """What the runs said of each test row, each read once."""

    def __init__(self, folder: Path, metric: str) -> None:
        self._folder, self._metric = folder, metric
        self._resampled: dict[str, Floats | None] = {}
        self._right: dict[str, NDArray[np.bool_] | None] = {}

    def resampled(self, arm: Arm, seed: int) -> Floats | None:
        """The metric over samples of the rows; None for a metric that is no function of sums."""
        return self._resampled[self._read(arm, seed)]

    def right(self, arm: Arm, seed: int) -> NDArray[np.bool_] | None:
        """Whether each row is right; None for a metric that is no share of right rows."""
        return self._right[self._read(arm, seed)]

    def _read(self, arm: Arm, seed: int) -> str:
        name = arm.runs[seed].cell.name
        if name not in self._resampled:
            split = "test" if result_of(arm.runs[seed])["metrics"]["test"] else "dev"
            table = pd.read_parquet(self._folder / RUNS / name / run_folder.PREDICTIONS)
            rows = table[table["split"] == split].sort_values("id", kind="stable").reset_index(drop=True)
            sums = row_sums(self._metric, rows)
            self._resampled[name] = None if sums is None else resampled(sums)
            self._right[name] = right(rows, self._metric)
        return name


class _Compared:
    """One arm beside the baselines."""

    def __init__(
        self, plan: Plan, rows: _TestRows, arms: Mapping[str, Arm], arm: Arm, metric: str, price_per_hour: float | None
    ) -> None:
        self.arm, self._metric, self._rows, self._margin = arm, metric, rows, plan.margin
        self._price_per_hour = price_per_hour
        self._baselines = {name: arms[key] for name, key in _baselines_of(plan, arm).items() if key in arms}
        self.differences: dict[str, Difference] = {}
        for name, baseline in self._baselines.items():
            if (found := self._difference(baseline)) is not None:
                self.differences[name] = found
        self.adjusted: float | None = None

    def _difference(self, baseline: Arm) -> Difference | None:
        ours, theirs = self.arm.figures(self._metric), baseline.figures(self._metric)
        seeds = sorted(ours.keys() & theirs.keys())
        rows = [(self._rows.resampled(self.arm, seed), self._rows.resampled(baseline, seed)) for seed in seeds]
        known = [(a, b) for a, b in rows if a is not None and b is not None]
        return difference(ours, theirs, margin=self._margin, rows=known)

    def _mcnemar(self) -> dict[int, float]:
        """By seed, against full."""
        found = {}
        for seed in sorted(self.arm.runs.keys() & self._baselines[FULL].runs.keys()):
            ours, theirs = (self._rows.right(arm, seed) for arm in (self.arm, self._baselines[FULL]))
            if ours is not None and theirs is not None:
                found[seed] = mcnemar(ours, theirs)
        return found

    def _comparable(self) -> bool:
        """Whether each of its runs, and of full's, had the machine to itself."""
        full = self._baselines.get(FULL)
        return self.arm.alone and (full is None or full.alone)

    def _money_and_energy(self) -> Json:
        """None for what was not asked for, or cannot be compared."""
        full, price = self._baselines.get(FULL), self._price_per_hour
        found: Json = {"price": None, "energy": None}
        if not self._comparable():
            return found
        if price is not None:
            found["price"] = money(self.arm.prices(price), None if full is None else full.prices(price))
        if used := self.arm.energies():
            found["energy"] = energy(used, None if full is None else full.energies(), estimated=self.arm.estimated)
        return found

    def line(self) -> Json:
        """The arm's entry of `comparison.json`."""
        arm = self.arm
        states = list(arm.runs.values())
        full = self._baselines.get(FULL)
        savings = {
            name: saving(arm.costs(name), full.costs(name)) if full is not None else None
            for name in ("finetune_s", "total_s")
        }
        ceilings = [result_of(state)["ceiling"]["tokens_saved"] for state in states]
        line: Json = {
            "name": arm.name,
            "method": arm.method,
            "keep": arm.keep,
            "seeds": sorted(arm.runs),
            "steps": round(statistics.mean(sum(e["steps"] for e in result_of(state)["epochs"]) for state in states)),
            "metrics": {name: _spread(arm.figures(name)) for name in tested(states[0])},
            "saved": {name: None if found is None else asdict(found) for name, found in savings.items()},
            "ceiling": statistics.median(ceilings) if None not in ceilings else None,
            "comparable_times": self._comparable(),
            **self._money_and_energy(),
            "against": {name: asdict(found) for name, found in self.differences.items()},
            "p_not_worse_holm": self.adjusted,
            "mcnemar": self._mcnemar() if full is not None else {},
        }
        return {**line, "verdict": verdict(line)}


def _baselines_of(plan: Plan, arm: Arm) -> dict[str, str]:
    """The arms that an arm is compared with, by the name of the baseline."""
    if arm.method == FULL:
        return {}
    found = {FULL: FULL}
    if arm.method != RANDOM and plan.tolerance_of(arm.method) is None:  # whose counts random re-draw does not know
        found[RANDOM] = f"{RANDOM}-{arm.name.removeprefix(arm.method + '-')}"
    short = plan.short_of(arm.method, arm.keep) if not arm.method.startswith("short") else None
    if short is not None:
        found["short"] = f"{short}-{arm.name.removeprefix(arm.method + '-')}"
    return {name: key for name, key in found.items() if key != arm.name}


def _adjust(compared: Sequence[_Compared]) -> None:
    """Holm's correction over every claim of "not worse than full"."""
    claims = [each for each in compared if FULL in each.differences and each.differences[FULL].p_not_worse is not None]
    values = [float(each.differences[FULL].p_not_worse or 0.0) for each in claims]
    for each, p in zip(claims, holm(values), strict=True):
        each.adjusted = p


def _spread(figures: Mapping[int, float]) -> Json:
    values = list(figures.values())
    return {
        "mean": statistics.mean(values),
        "deviation": statistics.stdev(values) if len(values) > 1 else None,
        "by_seed": dict(sorted(figures.items())),
    }
