"""`datadiet score`: score every training row."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from datadiet.cli.call import AsJson, Debug, is_given
from datadiet.commands.options import DATA_HELP, settings_given, with_flags
from datadiet.commands.score import request_from as score_request
from datadiet.commands.score import score as run_score
from datadiet.commands.select import READING
from datadiet.display import display_for
from datadiet.display.console import answer, quiet_stdout, stdout
from datadiet.display.errors import reported
from datadiet.display.scores import scores_table
from datadiet.score_job.wanted import BASE_MODEL, PASSES, TRAINING


@with_flags(("task", *READING, *PASSES, *TRAINING))
def score(
    ctx: typer.Context,
    data: Annotated[str | None, typer.Argument(metavar="DATA", help=DATA_HELP, show_default=False)] = None,
    scores: Annotated[
        str | None,
        typer.Option(help="Comma-separated names of datadiet methods; by default el2n, and a run's training dynamics."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="A .parquet file; or .jsonl or .csv, for people. Required.")
    ] = None,
    model: Annotated[
        Path | None, typer.Option(help="A run folder, RUN/model, or any saved model that is trained for these classes.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Instead of --model: train so many epochs on everything.")] = None,
    folds: Annotated[
        int | None, typer.Option(help="For scores of rows a model has not seen: train one for each of so many parts.")
    ] = None,
    base_model: Annotated[
        str | None, typer.Option(help=f"What --epochs starts from: a hub name or folder. {BASE_MODEL} by default.")
    ] = None,
    run: Annotated[Path | None, typer.Option(help="Keep the run of --epochs in this folder.")] = None,
    teacher: Annotated[
        Path | None, typer.Option(help="Another trained model, for the scores that compare two.")
    ] = None,
    holdout: Annotated[
        Path | None, typer.Option(help="A model trained on other data, for reducible_loss and irreducible_loss.")
    ] = None,
    encoder: Annotated[str | None, typer.Option(help="Embeds the texts; the model at hand by default.")] = None,
    probabilities: Annotated[bool, typer.Option("--probabilities", help="Also keep the class probabilities.")] = False,
    score_options: Annotated[
        str | None,
        typer.Option(help="Options of the scores, such as prototypes.clusters=500,length.unit=characters."),
    ] = None,
    max_length: Annotated[int | None, typer.Option(help="Tokens per text; by default as it was trained.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the output.")] = False,
    as_json: AsJson = False,
    debug: Debug = False,
    **options: Any,
) -> None:
    """Score every training row, many scores in one go, into a file that select and finetune read."""
    with reported(debug), quiet_stdout(as_json):
        given = settings_given(options, lambda name: name in options and is_given(ctx, name))
        named = {"data": data, "model": model, "epochs": epochs, "base_model": base_model, "run": run}
        named |= {"folds": folds, "teacher": teacher, "holdout": holdout, "encoder": encoder}
        named |= {"probabilities": probabilities, "score_options": score_options}
        request = score_request(scores, named | {"max_length": max_length, "force": force}, given, output)
        with display_for(stdout(), as_json, title="score") as listener:
            found = run_score(request, listener)
    choose = f"Choose by it with: {found['next']}" if found["next"] else ""
    answer(as_json, found, scores_table(found), commands=choose)
