"""`datadiet compare`: from flags or a YAML file to a plan, and from the plan to `comparison.json`.

Before any run starts, the options of every arm are checked, alone and with the data.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from datadiet.cli.console import Command, answer, quiet_stdout, reported, stderr, stdout
from datadiet.cli.options import AsJson, Debug, HelpAll, is_given, settings_given, with_flags
from datadiet.cli.tables import ComparisonDisplay, comparison_table, runs_table
from datadiet.compare.plan import (
    BASELINES,
    DIET,
    METHOD_FIELDS,
    OF_A_RUN,
    RANDOM,
    TOLERANCE,
    Cell,
    Plan,
    check_plan,
    compare_fields,
    listed,
    merged_problems,
    methods_read,
    presets,
)
from datadiet.compare.run import COMPARISON, RUNS, CellState, Watcher, run_cells, write_comparison
from datadiet.compare.verdict import state_comparison
from datadiet.config import DATA_HELP, DEFAULTS, READING, FinetuneConfig, migrated, read_settings, task_missing
from datadiet.errors import ArgumentError, MissingExtraError, Problems, UserError, quoted, unknown
from datadiet.formatting import spaced
from datadiet.registry import names
from datadiet.store import run_folder
from datadiet.types import Json

if TYPE_CHECKING:
    from datadiet.data.schema import Dataset
    from datadiet.diet.diet import Diet


class CompareCommand(Command):
    """`datadiet compare`, which knows the options that are written with a method."""

    def elsewhere(self, flag: str) -> str:
        """Where an option of a method is written, as a sentence; empty for any other."""
        name = flag.removeprefix("--").replace("-", "_")
        if name not in METHOD_FIELDS:
            return ""
        return (
            f"{flag} belongs to a method of the comparison: write the method out in YAML (--config), e.g. methods: "
            f"[{{mine: {{{name}: ...}}}}]."
        )


@with_flags(compare_fields(), usual=True)
def compare(
    ctx: typer.Context,
    data: Annotated[str | None, typer.Argument(metavar="DATA", help=DATA_HELP, show_default=False)] = None,
    methods: Annotated[
        str | None,
        typer.Option(help=f"Comma-separated; diet by default. Scores, selectors, {', '.join(names('preset'))}."),
    ] = None,
    keeps: Annotated[str | None, typer.Option("--keep", help="Shares kept, comma-separated; 0.5 by default.")] = None,
    points: Annotated[
        float | None,
        typer.Option("--tolerance", help="A diet that may lose so many points; beside --methods, or alone."),
    ] = None,
    seeds: Annotated[int | None, typer.Option(help="Runs of each method, with seeds 0, 1, ...; 3 by default.")] = None,
    folder: Annotated[Path | None, typer.Option("--output", help="Gets runs/ and comparison.json. Required.")] = None,
    baselines: Annotated[
        str | None, typer.Option(help="Run beside the methods: full,random,cover,short by default.")
    ] = None,
    margin: Annotated[float | None, typer.Option(help="Points that a method may lose to full; 0.5 by default.")] = None,
    metric: Annotated[str | None, typer.Option(help="What verdicts are about; the task's main metric.")] = None,
    jobs: Annotated[int | None, typer.Option(help="Runs at a time; above 1 no times are compared.")] = None,
    config: Annotated[Path | None, typer.Option(help="A YAML file of options and methods. Flags win over it.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check every method and show the runs; train and write nothing.")
    ] = False,
    help_all: HelpAll = False,
    as_json: AsJson = False,
    debug: Debug = False,
    **options: Any,
) -> None:
    """Compare methods over seeds with full data, random rows and fewer epochs; says what is shown and what is not.

    Start the same command again to go on with a comparison that was interrupted, or to add seeds and methods.
    """
    with reported(debug, lambda: "interrupted; start the same command again to go on"), quiet_stdout(as_json):
        given = settings_given(options, lambda name: is_given(ctx, name))
        own = {"data": data, "tolerance": points, "seeds": seeds, "margin": margin, "metric": metric, "jobs": jobs}
        lists = {"methods": methods, "keep": keeps, "baselines": baselines}
        request = request_from(given | plan_given(lists, **own), config, folder)
        console = stderr() if as_json else stdout()
        if dry_run:
            _check_methods(request, lambda configs: arm_problems(configs, partial(_note, console)), every=True)
            runs = planned_runs(request.plan)
        else:
            comparison = _compared(request, console, str(folder))
    if dry_run:
        answer(as_json, {"runs": runs}, runs_table(runs, len(request.plan.seeds)))
        return
    answer(as_json, comparison, comparison_table(comparison))
    if any(run["status"] == "failed" for run in comparison["runs"]):
        raise typer.Exit(1)


def _compared(request: CompareRequest, console: Console, title: str) -> Json:
    with ComparisonDisplay(console, title, lambda state: state_line(state, request.metric)) as display:
        return run_compare(request, display, lambda configs: arm_problems(configs, partial(_note, console)))


def _note(console: Console, text: str) -> None:
    console.print(text, style="dim")


PLAN_FIELDS = ("methods", "keep", "tolerance", "seeds", "baselines", "margin", "metric", "jobs")
DEFAULT_METHODS, DEFAULT_KEEPS = (DIET,), (0.5,)
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
    """

    plan: Plan
    output: Path
    metric: str | None
    jobs: int


def plan_given(lists: Mapping[str, str | None], **own: Any) -> dict[str, Any]:
    """The flags of the comparison itself that were given.

    Args:
        lists: Comma-separated ones; None where one was not given.
        own: The others.

    Examples:
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
    problems.check("task" in settings, task_missing())
    jobs = settings.get("jobs", 1)
    problems.whole("jobs", jobs, least=1)
    plan = _plan(settings, problems)
    problems.raise_any()
    assert output is not None
    return CompareRequest(plan, output, settings.get("metric"), jobs)


def _plan(settings: Mapping[str, Any], problems: Problems) -> Plan:
    """The comparison that was asked for; what is wrong with it is noted, and a stand-in put in its place."""
    options = {name: value for name, value in settings.items() if name not in PLAN_FIELDS}
    for name in sorted(options.keys() & set(METHOD_FIELDS)):
        problems.add(f"{name} belongs to a method: write the method out in YAML, e.g. mine: {{{name}: ...}}.")
    before = len(problems.found)
    usual = () if settings.get("tolerance") is not None else DEFAULT_METHODS
    methods = methods_read(_listed(settings.get("methods", usual)), problems)
    if settings.get("tolerance") is not None:
        methods.setdefault(TOLERANCE, {"tolerance": settings["tolerance"]})
    if not methods and len(problems.found) > before:
        methods = {RANDOM: presets()[RANDOM]}  # the unknown names are reported
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
    problems.add(f"seeds must be a number of seeds, at least 1, or a list of whole numbers, got {quoted(value)}.")
    return [0]


def _margin(value: Any, problems: Problems) -> float:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    problems.add(f"margin must be a number of points above 0, got {quoted(value)}.")
    return DEFAULT_MARGIN


def _read(path: Path) -> dict[str, Any]:
    settings = migrated(read_settings(path))
    allowed = [*PLAN_FIELDS, *DEFAULTS]
    problems = Problems()
    for name in sorted(settings.keys() - set(allowed), key=str):
        problems.add(unknown("option", name, allowed))
    problems.raise_any()
    return settings


def run_compare(request: CompareRequest, watcher: Watcher, check: Check) -> Json:
    """Run what has no result yet, and write `comparison.json`.

    Args:
        request: What was asked for.
        watcher: Follows the runs.
        check: Tells what is wrong with one run of each arm that is not done; called before any starts.

    Returns:
        The content of `comparison.json`.

    Raises:
        UserError: If a method cannot be run with its options and the data; nothing has been written then.
    """
    outcome = _statistics()
    if (request.output / COMPARISON).exists() and not (request.output / RUNS).is_dir():
        raise ArgumentError(f"{request.output} holds a {COMPARISON} of something else: choose another --output.")
    _check_methods(request, check)
    states = run_cells(request.plan, request.output, jobs=request.jobs, watcher=watcher)
    comparison: Json = outcome(request.plan, request.output, states, metric=request.metric)
    write_comparison(request.output, comparison)
    state_comparison(request.output, comparison)
    return comparison


def _statistics() -> Callable[..., Json]:
    try:
        from datadiet.compare.outcome import outcome
    except ImportError as error:
        raise MissingExtraError("compare needs statsmodels: pip install 'datadiet[compare]'") from error
    return outcome


def planned_runs(plan: Plan) -> list[Json]:
    """The arms of a comparison, with the optimizer steps of one run of each, at most, and those of full data.

    Args:
        plan: Checked, with its data.
    """
    from datadiet.data.load import load_configured
    from datadiet.diet.forecast import cut_short
    from datadiet.jobs.validate import check_config, examples_per_step

    lines: list[Json] = []
    steps: dict[str, int] = {}
    rows = dev_rows = 0
    for cell in (cell for cell in plan.cells() if cell.seed == plan.seeds[0]):
        followed = None if cell.follows is None else steps.get(cell.follows.arm)
        config = plan.config(cell, "unwritten", rows or None, steps=followed)
        if not rows:
            splits = load_configured(config).splits
            rows, dev_rows = len(splits["train"]), len(splits["dev"])
        diet, batch = check_config(_without_own(config), resume=True), examples_per_step(config)
        planned = diet.forecast(rows, epochs=config.planned_epochs, batch=batch, dev_rows=dev_rows)
        if config.max_steps is not None:
            planned = cut_short(planned, min(config.max_steps, planned.steps), batch)
        steps[cell.arm] = planned.steps + planned.race_steps
        lines.append({"name": cell.arm, "steps": steps[cell.arm], "full_steps": planned.full_steps})
    return lines


def _check_methods(request: CompareRequest, check: Check, *, every: bool = False) -> None:
    """Check one run of each arm that is not done, so that errors appear before any run has spent hours."""
    waiting: dict[str, FinetuneConfig] = {}
    for cell in request.plan.cells():
        if cell.arm not in waiting and cell.steps_of is None and (every or not _is_done(request, cell)):
            waiting[cell.arm] = request.plan.config(cell, str(request.output / RUNS / cell.name))
    if waiting:  # torch is not imported where everything has been run
        problems = Problems()
        problems.found += merged_problems(check(waiting), list(waiting))
        problems.raise_any()


def _is_done(request: CompareRequest, cell: Cell) -> bool:
    return (request.output / RUNS / cell.name / run_folder.RESULT).is_file()


def state_line(state: CellState, metric: str | None) -> tuple[str, int, str]:
    """A run as the display shows it: its arm, its seed, and its figure or error."""
    cell = state.cell
    if state.status == "failed":
        return cell.arm, cell.seed, (state.error or "").splitlines()[0][:200]
    if state.result is None:
        return cell.arm, cell.seed, ""
    metrics = run_folder.tested_metrics(state.result)
    name = str(metric if metric in metrics else next(iter(metrics)))
    return cell.arm, cell.seed, f"{spaced(name)} {100 * metrics[name]:.1f}"


def arm_problems(configs: Mapping[str, FinetuneConfig], note: Callable[[str], object]) -> dict[str, list[str]]:
    """What is wrong with each arm; torch is imported here, and the data are read once.

    Args:
        configs: Of one run of each arm, by the arm's name.
        note: Called before each step that takes seconds.

    Returns:
        Problems by arm; arms without any are left out.
    """
    note("importing torch and transformers, to check the options of every method ...")
    from datadiet.jobs.validate import check_config, source_problems

    problems_of: dict[str, list[str]] = {}
    diets: dict[str, Diet] = {}
    for arm, config in configs.items():
        try:
            diets[arm] = check_config(config, resume=True)
        except UserError as error:
            problems_of[arm] = list(error.problems)
        if problems := source_problems(_without_own(config), diets.get(arm)):
            problems_of[arm] = [*problems_of.get(arm, []), *problems]
    # nothing is fetched while options are wrong
    checked = {
        arm: configs[arm]
        for arm in diets
        if arm not in problems_of and (not problems_of or _is_here(configs[arm].data))
    }
    if checked:
        note("reading the data, to check every method with them ...")
    data = _Shared()
    for arm, config in checked.items():
        problems = _data_problems(config, diets[arm], data)
        if problems:
            problems_of[arm] = problems
    return {arm: problems_of[arm] for arm in configs if arm in problems_of}


def _without_own(config: FinetuneConfig) -> FinetuneConfig:
    """Without the runs of the same comparison that it learns from: they may still have to be made."""
    runs = Path(config.output).parent
    given = {name: getattr(config, name) for name in OF_A_RUN}
    own: dict[str, Any] = {name: None for name, path in given.items() if path and Path(path).parent == runs}
    return replace(config, **own)


def _data_problems(config: FinetuneConfig, diet: Diet, shared: _Shared) -> list[str]:
    from datadiet.jobs.validate import check_with_data

    try:
        check_with_data(config, diet, shared.of(config))
    except UserError as error:
        return list(error.problems)
    return []


def _is_here(source: str) -> bool:
    from datadiet.data.sources import hub_name

    return Path(source).expanduser().exists() or hub_name(source) is None


class _Shared:
    """Data of several configs, each read once, be they usable or not."""

    def __init__(self) -> None:
        self._read: dict[tuple[Any, ...], Dataset | UserError] = {}

    def of(self, config: FinetuneConfig) -> Dataset:
        from datadiet.data.load import load_configured

        key = tuple(getattr(config, name) for name in READING)
        if key not in self._read:
            try:
                self._read[key] = load_configured(config)
            except UserError as error:
                self._read[key] = error
        data = self._read[key]
        if isinstance(data, UserError):
            raise data
        return data
