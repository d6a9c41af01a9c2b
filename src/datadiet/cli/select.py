"""`datadiet select`: choose once what to train on."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from datadiet.cli.console import answer, quiet_stdout, reported, stdout
from datadiet.cli.corpus import selection_lines
from datadiet.cli.options import AsJson, Debug, is_given, settings_given, with_flags
from datadiet.cli.progress import display_for
from datadiet.cli.tables import selection_table
from datadiet.config import READING_FLAGS, declared
from datadiet.errors import ArgumentError
from datadiet.jobs.select_config import SelectConfig


@with_flags(READING_FLAGS)
@with_flags(config=SelectConfig)
def select(
    ctx: typer.Context,
    scores: Annotated[Path, typer.Argument(metavar="SCORES", help="A .parquet file, or a folder, of datadiet score.")],
    option: Annotated[list[str] | None, typer.Option(hidden=True)] = None,
    as_json: AsJson = False,
    debug: Debug = False,
    **options: Any,
) -> None:
    """Choose once what to train on, from a score file: writes the kept rows, and says why, class by class."""
    with reported(debug), quiet_stdout(as_json):
        if option:
            call = f"{options['select']}({', '.join(option)})"
            raise ArgumentError(f'--option is written with the selector now: --select "{call}".')
        reading = settings_given(options, partial(is_given, ctx), READING_FLAGS)
        config = SelectConfig(**{name: options[name] for name in declared(SelectConfig)}, reading=reading)
        if scores.is_dir():
            from datadiet.jobs.select_corpus import checked as checked_folder
            from datadiet.jobs.select_corpus import select_corpus

            checked_folder(config, scores)
            with display_for(stdout(), as_json, title="select") as listener:
                summary = select_corpus(config, scores, listener)
            answer(as_json, summary, selection_lines(summary))
            return
        from datadiet.jobs.select import checked
        from datadiet.jobs.select import select as run_select

        checked(config, scores)  # before the display begins
        with display_for(stdout(), as_json, title="select") as listener:
            summary = run_select(config, scores, listener)
    answer(as_json, summary, selection_table(summary), commands=f"Train on it with: {summary['next']}")
