"""`datadiet compare`: from flags or a YAML file to a plan, and from the plan to `comparison.json`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datadiet import run_folder
from datadiet.checks import MissingExtraError, Problems, UserError, unknown
from datadiet.commands.options import TASK_MISSING
from datadiet.comparison.cards import state_comparison
from datadiet.comparison.plan import Cell, Plan, methods_read
from datadiet.comparison.plan_checks import check_plan, told_once
from datadiet.comparison.presets import BASELINES, METHOD_FIELDS, PRESETS, RANDOM, TOLERANCE, listed
from datadiet.comparison.results import RUNS, write_comparison
from datadiet.comparison.running import CellState, Watcher, run_cells
from datadiet.config import FinetuneConfig, read_settings
from datadiet.records import Json

PLAN_FIELDS = ("methods", "keep", "tolerance", "seeds", "baselines", "margin", "metric", "jobs", "price_per_hour")
DEFAULT_KEEPS = (0.5,)
DEFAULT_SEEDS, DEFAULT_MARGIN = 3, 0.5

Check = Callable[[Mapping[str, FinetuneConfig]], Mapping[str, list[str]]]


@dataclass(frozen=True)
class CompareRequest:
    """What `datadiet compare` was asked for.

    Attributes:
        plan: Checked.
        output: The comparison's folder.
        metric: That verdicts are about; None for the task's main one.
        jobs: Runs at a time.
        price_per_hour: Of the machine; None where money is not asked for.
    """

    plan: Plan
    output: Path
    metric: str | None
    jobs: int
    price_per_hour: float | None = None


def plan_given(lists: Mapping[str, str | None], **own: Any) -> dict[str, Any]:
    """The flags of the comparison itself that were given.

    Args:
        lists: Comma-separated ones; None where one was not given.
        own: The others.

    Example:
        >>> plan_given({"keep": "0.5,0.2", "methods": None}, jobs=2, seeds=None)
        {'jobs': 2, 'keep': [0.5, 0.2]}
    """
    given = {name: value for name, value in own.items() if value is not None}
    return given | {name: listed(value) for name, value in lists.items() if value is not None}


def request_from(given: Mapping[str, Any], config: Path | None, output: Path | None) -> CompareRequest:
    """Read flags and file together; flags win.

    Args:
        given: What stands on the command line: options of runs, and `PLAN_FIELDS` (`methods`, `keep` and `baselines` as
            lists, `seeds` a number or a list).
        config: A YAML file of the same names.
        output: The comparison's folder.

    Raises:
        ArgumentError: All problems at once.
    """
    written = {} if config is None else _read(config)
    settings = {**written, **given}
    problems = Problems()
    problems.check(output is not None, "--output is missing: the comparison's folder, such as runs/compare.")
    problems.check("data" in settings, "DATA is missing: a folder, a saved datasets folder, a hub name, or snips.")
    problems.check("task" in settings, TASK_MISSING)
    jobs = settings.get("jobs", 1)
    problems.whole("jobs", jobs, least=1)
    price = _price(settings.get("price_per_hour"), problems)
    plan = _plan(settings, problems)
    problems.raise_any()
    assert output is not None
    return CompareRequest(plan, output, settings.get("metric"), jobs, price)


def _price(value: Any, problems: Problems) -> float | None:
    if value is None:
        return None
    usable = isinstance(value, (int, float)) and not isinstance(value, bool) and 0 < value < math.inf
    problems.check(usable, f"price_per_hour must be a number above 0, money per hour of the machine, got {value!r}.")
    return float(value) if usable else None


def _plan(settings: Mapping[str, Any], problems: Problems) -> Plan:
    """The comparison that was asked for; what is wrong with it is noted, and a stand-in put in its place."""
    options = {name: value for name, value in settings.items() if name not in PLAN_FIELDS}
    for name in sorted(options.keys() & set(METHOD_FIELDS)):
        problems.add(f"{name} belongs to a method: write the method out in YAML, e.g. mine: {{{name}: ...}}.")
    before = len(problems.found)
    methods = methods_read(_listed(settings.get("methods", ())), problems)
    if settings.get("tolerance") is not None:
        methods.setdefault(TOLERANCE, {"tolerance": settings["tolerance"]})
    if not methods and len(problems.found) > before:
        methods = {RANDOM: PRESETS[RANDOM]}  # the names are told
    needs_keep = any("tolerance" not in options for options in methods.values())
    plan = Plan(
        options={name: value for name, value in options.items() if name not in METHOD_FIELDS},
        methods=methods,
        keeps=_listed(settings.get("keep", DEFAULT_KEEPS if needs_keep else ())),
        seeds=_seeds(settings.get("seeds", DEFAULT_SEEDS), problems),
        baselines=_listed(settings.get("baselines", BASELINES)),
        margin=_margin(settings.get("margin", DEFAULT_MARGIN), problems),
    )
    try:
        check_plan(plan, metric=settings.get("metric"))
    except UserError as error:
        problems.include(error)
    return plan


def _listed(value: Any) -> list[Any]:
    """A list, also where YAML has one entry alone."""
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _seeds(value: Any, problems: Problems) -> list[int]:
    if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
        return list(range(value))
    if isinstance(value, list) and all(isinstance(seed, int) and seed >= 0 for seed in value):
        return value
    problems.add(f"seeds must be a number of seeds, at least 1, or a list of whole numbers, got {value!r}.")
    return [0]


def _margin(value: Any, problems: Problems) -> float:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    problems.add(f"margin must be a number of points above 0, got {value!r}.")
    return DEFAULT_MARGIN


def _read(path: Path) -> dict[str, Any]:
    settings = read_settings(path)
    known = [*PLAN_FIELDS, *FinetuneConfig.__dataclass_fields__]
    problems = Problems()
    for name in sorted(settings.keys() - set(known), key=str):
        problems.add(unknown("option", name, known))
    problems.raise_any()
    return settings


def compare(request: CompareRequest, watcher: Watcher, check: Check) -> Json:
    """Run what has no result yet, and write `comparison.json`.

    Args:
        request: What was asked for.
        watcher: Is told how the runs get on.
        check: Tells what is wrong with one run of each arm that is not done; called before any starts.

    Returns:
        The content of `comparison.json`.

    Raises:
        UserError: If a method cannot be run with its options and the data; nothing has been written then.
    """
    outcome = _statistics()
    _check_methods(request, check)
    states = run_cells(request.plan, request.output, jobs=request.jobs, watcher=watcher)
    found: Json = outcome(
        request.plan, request.output, states, metric=request.metric, price_per_hour=request.price_per_hour
    )
    write_comparison(request.output, found)
    state_comparison(request.output, found)
    return found


def _statistics() -> Callable[..., Json]:
    try:
        from datadiet.comparison.outcome import outcome
    except ImportError as error:
        raise MissingExtraError("compare needs statsmodels: pip install 'datadiet[compare]'") from error
    return outcome


def _check_methods(request: CompareRequest, check: Check) -> None:
    """Look at one run of each arm that is not done: what none of them could do is found before hours pass."""
    waiting: dict[str, FinetuneConfig] = {}
    for cell in request.plan.cells():
        if cell.arm not in waiting and cell.steps_of is None and not _is_done(request, cell):
            waiting[cell.arm] = request.plan.config(cell, str(request.output / RUNS / cell.name))
    if waiting:  # torch is not imported where everything has been run
        problems = Problems()
        problems.found += told_once(check(waiting), list(waiting))
        problems.raise_any()


def _is_done(request: CompareRequest, cell: Cell) -> bool:
    return (request.output / RUNS / cell.name / run_folder.RESULT).is_file()


def told(state: CellState, metric: str | None) -> tuple[str, int, str]:
    """A run as the display shows it: its arm, its seed, and a figure or what went wrong."""
    cell = state.cell
    if state.status == "failed":
        return cell.arm, cell.seed, (state.error or "").splitlines()[0][:200]
    if state.result is None:
        return cell.arm, cell.seed, ""
    metrics = run_folder.tested_metrics(state.result)
    name = str(metric if metric in metrics else next(iter(metrics)))
    return cell.arm, cell.seed, f"{name.replace('_', ' ')} {100 * metrics[name]:.1f}"
