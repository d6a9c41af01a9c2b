"""`datadiet finetune`: fine-tune a model on a diet."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from datadiet.cli.call import AsJson, Debug, is_given, started
from datadiet.commands.finetune import next_command, resume_hint, settings_of
from datadiet.commands.finetune import run as run_finetune
from datadiet.commands.options import DATA_HELP, settings_given, with_flags
from datadiet.display import display_for, summary_table
from datadiet.display.console import answer, quiet_stdout, stdout
from datadiet.display.errors import reported


@with_flags()
def finetune(
    ctx: typer.Context,
    data: Annotated[str | None, typer.Argument(metavar="DATA", help=DATA_HELP, show_default=False)] = None,
    config: Annotated[
        Path | None, typer.Option(help="A YAML file of options. Flags win over it; --no-FLAG switches one off.")
    ] = None,
    resume: Annotated[Path | None, typer.Option(help="Go on with an interrupted run, with its own options.")] = None,
    as_json: AsJson = False,
    debug: Debug = False,
    **options: Any,
) -> None:
    """Fine-tune a model on a data diet: metrics, costs, scores and the model go to the run folder."""
    folder = resume
    with reported(debug, lambda: resume_hint(folder)), quiet_stdout(as_json):
        given = settings_given(options, lambda name: is_given(ctx, name))
        given |= {} if data is None else {"data": data}
        settings = settings_of(given, config, resume)  # checked before anything heavy is imported
        folder = Path(settings.output) if settings is not None else resume
        result = run_finetune(settings, resume, display_for(stdout(), as_json, title=str(folder)), started(ctx))
    answer(as_json, result, summary_table(result, str(folder)), commands=next_command(folder))
