"""The finished runs of a comparison, by method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from datadiet import run_folder
from datadiet.comparison.costs import alone, energy_of, price_of
from datadiet.comparison.running import CellState
from datadiet.records import Json

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
