"""What the runs of a comparison say together: `comparison.json`."""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from datadiet import run_folder
from datadiet.checks import DataError
from datadiet.comparison.arms import LOWER_IS_BETTER, Arm, arms_of, result_of, tested
from datadiet.comparison.costs import alone, energy, money, price_of
from datadiet.comparison.plan import Plan
from datadiet.comparison.presets import FULL, RANDOM
from datadiet.comparison.results import RUNS, SCHEMA
from datadiet.comparison.row_sums import right, row_sums
from datadiet.comparison.running import CellState
from datadiet.comparison.statistics import Difference, Floats, difference, holm, mcnemar, resampled, saving
from datadiet.comparison.words import verdict
from datadiet.records import Json


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
    name = wanted or run_folder.MAIN_METRIC[task]
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
