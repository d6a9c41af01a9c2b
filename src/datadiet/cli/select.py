"""`datadiet select`: choose once what to train on."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from datadiet.cli.console import answer, quiet_stdout, reported, stdout
from datadiet.cli.options import AsJson, Debug, is_given, settings_given, with_flags
from datadiet.cli.progress import display_for
from datadiet.cli.tables import selection_table
from datadiet.config import DATA_HELP
from datadiet.errors import ArgumentError
from datadiet.jobs.score_config import READING


@with_flags(READING)
def select(
    ctx: typer.Context,
    scores: Annotated[Path, typer.Argument(metavar="SCORES", help="A .parquet file of datadiet score.")],
    data: Annotated[str | None, typer.Option(help=f"What was scored. {DATA_HELP} Required.")] = None,
    output: Annotated[
        Path | None, typer.Option(help="A .jsonl, .csv, .tsv or .parquet file; or a folder, with all splits. Required.")
    ] = None,
    score: Annotated[str | None, typer.Option(help="A column of SCORES; the only one by default.")] = None,
    selector: Annotated[
        str, typer.Option("--select", help="A selector of datadiet methods, such as ccs(beta=0.2).")
    ] = "hardest",
    keep: Annotated[float | None, typer.Option(help="Share of all rows that is kept, in (0, 1].")] = None,
    count: Annotated[int | None, typer.Option(help="Instead of --keep: how many rows.")] = None,
    offset: Annotated[float | None, typer.Option(help="Share of the very hardest excluded as noise.")] = None,
    option: Annotated[list[str] | None, typer.Option(hidden=True)] = None,
    floor: Annotated[int, typer.Option(help="Keep at least so many of each class; 0 = no floor.")] = 0,
    drop_suspects: Annotated[float, typer.Option(help="Share dropped whose label is most likely wrong.")] = 0.0,
    suspects_by: Annotated[
        str | None, typer.Option(help="aum, el2n, irreducible, ... of SCORES; aum by default, else el2n.")
    ] = None,
    dedupe: Annotated[bool, typer.Option("--dedupe", help="Keep one of the rows with the same text.")] = False,
    near: Annotated[
        float | None, typer.Option(help="With --dedupe: also of nearly the same texts, such as 0.8.")
    ] = None,
    features: Annotated[
        Path | None, typer.Option(help="A .npy file for selectors that cover a space; TF-IDF by default.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Of ties and random choices.")] = 0,
    with_score: Annotated[bool, typer.Option("--with-score", help="Add the values as a column.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace the output.")] = False,
    as_json: AsJson = False,
    debug: Debug = False,
    **reading: Any,
) -> None:
    """Choose once what to train on, from a score file: writes what is kept, says why, class by class."""
    with reported(debug), quiet_stdout(as_json):
        from datadiet.jobs import select as jobs
        from datadiet.jobs.select_rows import SelectConfig

        if option:
            call = f"{selector}({', '.join(option)})"
            raise ArgumentError(f'--option is written with the selector now: --select "{call}".')
        config = SelectConfig(
            score=score, select=selector, offset=offset, keep=keep, count=count, floor=floor, seed=seed,
            drop_suspects=drop_suspects, suspects_by=suspects_by, dedupe=dedupe, near=near,
        )  # fmt: skip
        given = settings_given(reading, lambda name: name in reading and is_given(ctx, name))
        job = jobs.SelectJob(scores, data, output, config, features, given, with_score, force)
        jobs.checked(job)  # before the display begins
        with display_for(stdout(), as_json, title="select") as listener:
            summary = jobs.select(job, listener)
    answer(as_json, summary, selection_table(summary), commands=f"Train on it with: {summary['next']}")
