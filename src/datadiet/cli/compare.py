"""`datadiet compare`: compare methods over seeds."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from datadiet.cli.call import AsJson, Debug, is_given
from datadiet.commands.options import DATA_HELP, settings_given, with_flags
from datadiet.comparison.presets import MIXED, compare_fields
from datadiet.display import ComparisonDisplay, comparison_table
from datadiet.display.console import answer, quiet_stdout, stderr, stdout
from datadiet.display.errors import reported


@with_flags(compare_fields())
def compare(
    ctx: typer.Context,
    data: Annotated[str | None, typer.Argument(metavar="DATA", help=DATA_HELP, show_default=False)] = None,
    methods: Annotated[
        str | None,
        typer.Option(help=f"Comma-separated: scores and selectors of datadiet methods, {', '.join(MIXED)}."),
    ] = None,
    keeps: Annotated[str | None, typer.Option("--keep", help="Shares kept, comma-separated; 0.5 by default.")] = None,
    points: Annotated[
        float | None, typer.Option("--tolerance", help="Also a diet that may lose so many points.")
    ] = None,
    seeds: Annotated[int | None, typer.Option(help="Runs of each method, with seeds 0, 1, ...; 3 by default.")] = None,
    folder: Annotated[Path | None, typer.Option("--output", help="Gets runs/ and comparison.json. Required.")] = None,
    baselines: Annotated[str | None, typer.Option(help="Run beside the methods: full,random,short by default.")] = None,
    margin: Annotated[float | None, typer.Option(help="Points that a method may lose to full; 0.5 by default.")] = None,
    metric: Annotated[str | None, typer.Option(help="What verdicts are about; the task's main metric.")] = None,
    jobs: Annotated[int | None, typer.Option(help="Runs at a time; above 1 no times are compared.")] = None,
    price_per_hour: Annotated[
        float | None, typer.Option(help="Money per hour of this machine: says what each run cost.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="A YAML file of options and methods. Flags win over it.")] = None,
    as_json: AsJson = False,
    debug: Debug = False,
    **options: Any,
) -> None:
    """Compare methods over seeds with full data, random rows and fewer epochs; says what is shown and what is not.

    Start the same command again to go on with a comparison that was interrupted, or to add seeds and methods.
    """
    with reported(debug, lambda: "interrupted; start the same command again to go on"), quiet_stdout(as_json):
        from datadiet.commands.before_runs import arm_problems
        from datadiet.commands.compare import compare as run_compare
        from datadiet.commands.compare import plan_given, request_from, told

        given = settings_given(options, lambda name: is_given(ctx, name))
        own = {"data": data, "tolerance": points, "seeds": seeds, "margin": margin, "metric": metric, "jobs": jobs}
        lists = {"methods": methods, "keep": keeps, "baselines": baselines}
        request = request_from(given | plan_given(lists, price_per_hour=price_per_hour, **own), config, folder)
        console = stderr() if as_json else stdout()
        with ComparisonDisplay(console, str(folder), lambda state: told(state, request.metric)) as display:
            found = run_compare(request, display, lambda configs: arm_problems(configs, partial(_note, console)))
    answer(as_json, found, comparison_table(found))
    if any(run["status"] == "failed" for run in found["runs"]):
        raise typer.Exit(1)


def _note(console: Console, text: str) -> None:
    console.print(text, style="dim")
