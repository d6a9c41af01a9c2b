"""The outcome of a comparison, `comparison.json`: each method beside the baselines, from the results of its runs."""

from __future__ import annotations

import json
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from datadiet.compare.plan import DRAWN, FULL, SHORT, Plan
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
from datadiet.compare.verdict import TIMES, answer, short_beside, verdict
from datadiet.compare.verdict import state as state_of
from datadiet.errors import DataError, quoted
from datadiet.files import SCHEMA
from datadiet.store import run_folder
from datadiet.types import Json

# what ends the training of every run, by whether the epochs are `auto`
_END = {False: "epochs", True: "the rule that ends training (epochs auto: each run at an epoch of its own)"}

BySeed = dict[int, CellState]


@dataclass(frozen=True)
class Arm:
    """The finished runs of one method with one keep.

    Attributes:
        name: Of the arm, e.g. `el2n-0.5`.
        method, keep: As in the plan.
        runs: By seed.
        sources: By seed, the runs that these learn from: their costs are added.
    """

    name: str
    method: str
    keep: float | str | None
    runs: BySeed
    sources: BySeed = field(default_factory=dict)

    def figures(self, metric: str) -> dict[int, float]:
        """The tested figure by seed, in points; `nll` and `mse` in their own unit."""
        scale = 1.0 if metric in run_folder.LOWER_IS_BETTER else 100.0
        return {seed: scale * tested(state)[metric] for seed, state in self.runs.items()}

    def costs(self, name: str) -> dict[int, float]:
        """An entry of the cost ledger by seed, with that of the run that the method learns from."""
        sources = {seed: float(state.finished["cost"][name]) for seed, state in self.sources.items()}
        return {seed: float(state.finished["cost"][name]) + sources.get(seed, 0.0) for seed, state in self.runs.items()}

    @property
    def energies(self) -> dict[int, Json]:
        """By seed, `energy` of the results of the runs that were measured."""
        energies = {seed: state.finished.get("energy") for seed, state in self.runs.items()}
        return {seed: energy for seed, energy in energies.items() if energy is not None}

    @property
    def alone(self) -> bool:
        """Whether every run is known to have had the machine to itself: only then are its time and energy its own."""
        return all(state.jobs == 1 for state in self.runs.values())


def tested(state: CellState) -> Mapping[str, float]:
    """The metrics that runs are compared by."""
    return run_folder.tested_metrics(state.finished)


def arms_of(states: Sequence[CellState]) -> dict[str, Arm]:
    """The arms of finished runs, by name, in the order of the plan."""
    arms: dict[str, Arm] = {}
    by_name = {state.cell.name: state for state in states}
    for state in states:
        cell = state.cell
        arm = arms.setdefault(cell.arm, Arm(cell.arm, cell.method, cell.keep, {}))
        arm.runs[cell.seed] = state
        if cell.follows is not None and cell.after is not None:
            arm.sources[cell.seed] = by_name[cell.follows.name]
    return arms


def unfinished(arm: Arm) -> Json | None:
    """How the dev metric of an arm still rose at the end; None where it had stopped in more than half of its runs.

    The points, their error and the rows of an epoch are means over the runs in which it rose.
    """
    found = {seed: state.finished.get("convergence") for seed, state in arm.runs.items()}
    rising = {seed: one for seed, one in sorted(found.items()) if one and one["rising"]}
    if not rising or 2 * len(rising) < len(arm.runs):
        return None
    names = ("points_per_epoch", "error", "epoch_rows")
    means = {name: statistics.mean(one[name] for one in rising.values()) for name in names}
    return {"seeds": list(rising), **means, "epoch_rows": round(means["epoch_rows"])}


def outcome(plan: Plan, folder: Path, states: Sequence[CellState], *, metric: str | None = None) -> Json:
    """The content of `comparison.json`.

    Args:
        plan: Of the comparison.
        folder: Whose run folders hold the predictions.
        states: Of every cell.
        metric: The one that verdicts are about; the task's main one by default.

    Raises:
        DataError: If runs are of different data, or no run has the metric.
    """
    runs = [_run_entry(state) for state in states]
    done = [state for state in states if state.result is not None]
    if not done:
        return {"schema": SCHEMA, "runs": runs, "methods": []}
    first = done[0].finished
    _check_same(done)
    metric = _checked_metric(metric, first["task"], done)
    arms = arms_of(done)
    rows = _TestRows(folder, metric)
    compared = [_Compared(plan, rows, arms, arm, metric) for arm in arms.values()]
    _adjust(compared)
    lines = [each.entry() for each in compared]
    content: Json = {
        "schema": SCHEMA,
        "task": first["task"],
        "data": first["data"],
        "model": first["model"],
        "split": _tested_split(first),
        "metric": metric,
        "margin": plan.margin,
        "held_equal": f"{_END[plan.open_end]}; `short` has the optimizer steps of the diet that it stands beside",
        "comparable_times": all(arm.alone for arm in arms.values()),
        "environment": first["environment"],
        "plan": {
            "methods": {name: dict(options) for name, options in plan.methods.items()},
            "keeps": list(plan.keeps),
            "seeds": list(plan.seeds),
            "baselines": list(plan.baselines),
        },
        "runs": runs,
        "methods": lines,
        "unfinished": [line["name"] for line in lines if line["unfinished"]],
    }
    for line in lines:
        line["state"] = None if line["method"] == FULL else state_of(line, short_beside(content, line))
    return {**content, "verdict": answer(content)}


def _check_same(states: Sequence[CellState]) -> None:
    """Runs are compared only on the same data and task."""
    for name in ("task", "data"):
        names = {json.dumps(state.finished[name], sort_keys=True): state.cell.name for state in states}
        if len(names) > 1:
            raise DataError(f"runs of different {name} are not compared: {' and '.join(sorted(names.values())[:2])}.")


def _checked_metric(requested: str | None, task: str, states: Sequence[CellState]) -> str:
    name = requested or run_folder.main_metric(task)
    metrics = sorted(tested(states[0]))
    if name not in metrics or name in run_folder.LOWER_IS_BETTER:
        allowed = ", ".join(other for other in metrics if other not in run_folder.LOWER_IS_BETTER)
        raise DataError(f"no verdict can be about {quoted(name)}. Allowed: {allowed}.")
    return name


def _tested_split(result: Json) -> str:
    return "test" if result["metrics"]["test"] else "dev"


def _steps(state: CellState) -> int:
    return sum(int(epoch["steps"]) for epoch in state.finished["epochs"])


def _run_entry(state: CellState) -> Json:
    """One run; `process_s` is null where an earlier call ran it."""
    cell, result = state.cell, state.result
    entry: Json = {name: getattr(cell, name) for name in ("name", "method", "keep", "tolerance", "seed")}
    entry["status"] = state.status
    if result is None:
        return {**entry, "error": state.error}
    entry |= {"steps": _steps(state), "process_s": state.seconds or None, "jobs": state.jobs}
    entry |= {name: result[name] for name in ("metrics", "cost", "ceiling")}
    return {**entry, "energy": result.get("energy")}


class _TestRows:
    """Which test rows each run got right; the predictions of a run are read once."""

    def __init__(self, folder: Path, metric: str) -> None:
        self._folder, self._metric = folder, metric
        self._resampled: dict[str, Floats | None] = {}
        self._right: dict[str, NDArray[np.bool_] | None] = {}

    def resampled(self, state: CellState) -> Floats | None:
        """The metric over samples of the rows; None for a metric that is no function of sums."""
        return self._resampled[self._read(state)]

    def right(self, state: CellState) -> NDArray[np.bool_] | None:
        """Whether each row is right; None for a metric that is no share of right rows."""
        return self._right[self._read(state)]

    def _read(self, state: CellState) -> str:
        name = state.cell.name
        if name not in self._resampled:
            run_folder.check_files(self._folder / RUNS / name, run_folder.PREDICTIONS)
            table = pd.read_parquet(self._folder / RUNS / name / run_folder.PREDICTIONS)
            rows = table[table["split"] == _tested_split(state.finished)]
            rows = rows.sort_values("id", kind="stable").reset_index(drop=True)
            sums = row_sums(self._metric, rows)
            self._resampled[name] = None if sums is None else resampled(sums)
            self._right[name] = right(rows, self._metric)
        return name


class _Compared:
    """One arm beside the baselines."""

    def __init__(self, plan: Plan, rows: _TestRows, arms: Mapping[str, Arm], arm: Arm, metric: str) -> None:
        self.arm, self._metric, self._rows, self._margin = arm, metric, rows, plan.margin
        self._baselines = {name: arms[key] for name, key in _baselines_of(plan, arm).items() if key in arms}
        self._full = self._baselines.get(FULL)
        differences = {name: self._difference(baseline) for name, baseline in self._baselines.items()}
        self.differences: dict[str, Difference] = {name: one for name, one in differences.items() if one is not None}
        self.adjusted: float | None = None

    def _pairs(self, baseline: Arm) -> dict[int, tuple[CellState, CellState]]:
        """The runs of the arm and of a baseline, by the seeds that both have."""
        seeds = sorted(self.arm.runs.keys() & baseline.runs.keys())
        return {seed: (self.arm.runs[seed], baseline.runs[seed]) for seed in seeds}

    def _difference(self, baseline: Arm) -> Difference | None:
        samples = [tuple(map(self._rows.resampled, pair)) for pair in self._pairs(baseline).values()]
        rows = [(ours, theirs) for ours, theirs in samples if ours is not None and theirs is not None]
        figures = self.arm.figures(self._metric), baseline.figures(self._metric)
        return difference(*figures, margin=self._margin, rows=rows)

    def _mcnemar(self) -> dict[int, float]:
        """By seed, against full."""
        if self._full is None:
            return {}
        flags = {seed: tuple(map(self._rows.right, pair)) for seed, pair in self._pairs(self._full).items()}
        return {
            seed: mcnemar(ours, theirs)
            for seed, (ours, theirs) in flags.items()
            if ours is not None and theirs is not None
        }

    @property
    def _comparable(self) -> bool:
        """Whether each of its runs, and of full's, had the machine to itself."""
        return self.arm.alone and (self._full is None or self._full.alone)

    def _saved(self, name: str) -> Json | None:
        """The share of an account of the ledger that is saved against full."""
        return self._share_saved(self.arm.costs(name), None if self._full is None else self._full.costs(name))

    @staticmethod
    def _share_saved(ours: Mapping[int, float], full: Mapping[int, float] | None) -> Json | None:
        saved = None if full is None else saving(ours, full)
        return None if saved is None else asdict(saved)

    def _energy(self) -> Json | None:
        """The mean kilowatt-hours of a run and the share saved; None where not measured or not comparable."""
        energies = self.arm.energies
        if not energies or not self._comparable:
            return None
        ours, full = _kwh(self.arm), None if self._full is None else _kwh(self._full)
        return {
            "mean_kwh": statistics.mean(ours.values()),
            "saved": self._share_saved(ours, full),
            "estimated": any(energy["estimated"] for energy in energies.values()),
        }

    def entry(self) -> Json:
        """The arm's entry of `comparison.json`."""
        arm, states = self.arm, list(self.arm.runs.values())
        ceilings = [state.finished["ceiling"]["tokens_saved"] for state in states]
        entry: Json = {
            "name": arm.name,
            "method": arm.method,
            "keep": arm.keep,
            "seeds": sorted(arm.runs),
            "steps": round(statistics.mean(map(_steps, states))),
            "metrics": {name: _spread(arm.figures(name)) for name in tested(states[0])},
            "saved": {name: self._saved(name) for name in TIMES},
            "ceiling": statistics.median(ceilings) if None not in ceilings else None,
            "comparable_times": self._comparable,
            "energy": self._energy(),
            "against": {name: asdict(one) for name, one in self.differences.items()},
            "p_not_worse_holm": self.adjusted,
            "mcnemar": self._mcnemar(),
            "rules": _rules(states),
            "unfinished": unfinished(arm),
        }
        return {**entry, "verdict": verdict(entry)}


def _rules(states: Sequence[CellState]) -> dict[str, int]:
    """The rules of `auto` in their order, of an older result the last one, and in how many runs; empty without it."""
    races = [race for state in states if (race := state.finished.get("race")) is not None]
    return dict(Counter(", then ".join(race.get("chose") or [race["rule"]]) for race in races).most_common())


def _kwh(arm: Arm) -> dict[int, float]:
    return {seed: float(energy["kwh"]) for seed, energy in arm.energies.items()}


def _baselines_of(plan: Plan, arm: Arm) -> dict[str, str]:
    """The arms that an arm is compared with, by the name of the baseline."""
    if arm.method == FULL:
        return {}
    keep = arm.name.removeprefix(f"{arm.method}-")
    arms = {FULL: FULL}
    if plan.tolerance_of(arm.method) is None:  # no drawn arm has the counts of a tolerance
        arms |= {name: f"{name}-{keep}" for name in DRAWN}
    short = plan.short_of(arm.method, arm.keep) if not arm.method.startswith(SHORT) else None
    if short is not None:
        arms[SHORT] = f"{short}-{keep}"
    return {name: key for name, key in arms.items() if key != arm.name}


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
