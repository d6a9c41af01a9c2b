"""`datadiet finetune`: from flags and files to a run that is started or resumed.

`datadiet finetune`: fine-tune a model on a diet.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from datadiet.cli.console import answer, quiet_stdout, reported, stdout
from datadiet.cli.options import AsJson, Debug, HelpAll, config_of, is_given, settings_given, started, with_flags
from datadiet.cli.progress import display_for
from datadiet.cli.tables import summary_table
from datadiet.config import DATA_HELP, FinetuneConfig, flag_name, read_config
from datadiet.errors import ArgumentError, Problems
from datadiet.types import Json, Listener


def settings_of(given: Mapping[str, Any], config: Path | None, resume: Path | None) -> FinetuneConfig | None:
    """The run that was asked for; None where one is resumed, which has its own.

    Args:
        given: What stands on the command line.
        config: A YAML file of options; flags win.
        resume: The folder of an interrupted run.

    Raises:
        ArgumentError: All problems at once.
    """
    if resume is not None:
        _refuse_beside_resume(resume, given, config)
        return None
    return config_of(given) if config is None else read_config(config, **given)


def _refuse_beside_resume(resume: Path, given: Mapping[str, Any], config: Path | None) -> None:
    """A resumed run has the options it was started with: others would have no effect."""
    problems = Problems()
    for field in [*given, *(["config"] if config is not None else [])]:
        name = "DATA" if field == "data" else flag_name(field)
        problems.add(f"{name} has no effect beside --resume, which goes on with the options in {resume}: leave it out.")
    problems.check(resume.is_dir(), f"{resume} is no run folder: --resume needs the --output of an interrupted run.")
    problems.raise_any()


def run(
    settings: FinetuneConfig | None, resume: Path | None, display: AbstractContextManager[Listener], started: float
) -> Json:
    """Start a run, or go on with one; torch is imported here.

    Args:
        settings: Of a new run.
        resume: The folder of an interrupted one, where there are no settings.
        display: Draws while it lasts.
        started: `time.perf_counter()` from where the total time counts.
    """
    with display as listener:
        listener.phase("importing torch and transformers")
        from datadiet.jobs.finetune import finetune, resume_run

        if settings is not None:
            return finetune(settings, listener=listener, started=started)
        return resume_run(resume or Path(), listener=listener, started=started)


def preview(settings: FinetuneConfig | None, display: AbstractContextManager[Listener]) -> Json:
    """Check a run and show its plan.

    Raises:
        ArgumentError: Beside `--resume`, whose run has been checked.
    """
    if settings is None:
        raise ArgumentError("--dry-run is for a new run: leave out --resume.")
    with display as listener:
        listener.phase("importing torch and transformers")
        from datadiet.jobs.preview import dry_run

        return asdict(dry_run(settings, listener=listener))


def resume_hint(folder: object) -> str:
    """What to type after Ctrl-C; a run folder exists from the moment the training starts."""
    if folder is not None and (Path(str(folder)) / "config.yaml").is_file():
        return f"interrupted; go on with: datadiet finetune --resume {shlex.quote(str(folder))}"
    return "interrupted before the training began; nothing has been written"


def next_command(folder: object) -> str:
    """What to type when the run is done."""
    return f'\nPredict with: datadiet predict --model {shlex.quote(str(folder))}/model --text "..."'


@with_flags(usual=True)
def finetune(
    ctx: typer.Context,
    data: Annotated[str | None, typer.Argument(metavar="DATA", help=DATA_HELP, show_default=False)] = None,
    config: Annotated[
        Path | None, typer.Option(help="A YAML file of options. Flags win over it; --no-FLAG switches one off.")
    ] = None,
    resume: Annotated[Path | None, typer.Option(help="Go on with an interrupted run, with its own options.")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything and show the plan; train and write nothing.")
    ] = False,
    help_all: HelpAll = False,
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
        display = display_for(stdout(), as_json, title=str(folder))
        result = preview(settings, display) if dry_run else run(settings, resume, display, started(ctx))
    if dry_run:
        answer(as_json, result)
        return
    answer(as_json, result, summary_table(result, str(folder)), commands=next_command(folder))
