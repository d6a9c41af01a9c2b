"""The command line: thin. Arguments in, one call, a table or JSON out; heavy imports happen inside the commands."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from datadiet import __version__
from datadiet.catalogue import METHODS
from datadiet.catalogue import as_json as methods_as_json
from datadiet.commands import demo as demo_words
from datadiet.commands.finetune import next_command, resume_hint, settings_of
from datadiet.commands.finetune import run as run_finetune
from datadiet.commands.options import COLUMNS, DATA_HELP, settings_given, with_flags
from datadiet.commands.predict import STDOUT, Request, check_request
from datadiet.commands.predict import predict as run_predict
from datadiet.commands.score import request_from as score_request
from datadiet.commands.score import score as run_score
from datadiet.commands.select import READING
from datadiet.commands.select import Request as SelectRequest
from datadiet.commands.select import checked as check_selection
from datadiet.commands.select import select as run_select
from datadiet.comparison.presets import PRESETS, compare_fields
from datadiet.config import FinetuneConfig
from datadiet.display import ComparisonDisplay, comparison_table, demo_table, display_for, methods_table, summary_table
from datadiet.display.console import answer, quiet_stdout, stderr, stdout
from datadiet.display.errors import reported
from datadiet.display.predictions import show_predictions
from datadiet.display.scores import scores_table
from datadiet.display.selection import selection_table
from datadiet.score_job.wanted import BASE_MODEL, PASSES, TRAINING

PREDICT_HELP = "A file (.jsonl, .csv, .tsv, .parquet, .conll, .txt), or a data set whose test split is predicted."

app = typer.Typer(
    name="datadiet",
    help="Fine-tune transformers on the examples that still teach them something.",
    epilog="Start with: datadiet demo",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

AsJson = Annotated[bool, typer.Option("--json", help="Only JSON on standard output; progress goes to standard error.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


@dataclass(frozen=True)
class Call:
    """What the process knows before any command runs: `started` is `time.perf_counter()` before the imports."""

    started: float


def run(started: float, arguments: list[str] | None = None) -> None:
    """Run the command line; the end of the process.

    Args:
        started: `time.perf_counter()` before the imports, from where a run's total time counts.
        arguments: Those of the process by default.

    Raises:
        SystemExit: Always: 0, 1 (failed), 2 (bad arguments or data) or 130 (interrupted).
    """
    # libraries draw their own bars over ours; ours says what is being loaded
    os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    app(args=arguments, prog_name="datadiet", obj=Call(started))


def _version(wanted: bool) -> None:
    if wanted:
        stdout().print(f"datadiet {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Fine-tune transformers on the examples that still teach them something."""


@app.command(epilog="Example: datadiet demo --output runs/demo")
def demo(
    output: Annotated[Path, typer.Option(help="Receives full/, diet/ and demo.json.")] = Path("runs/demo"),
    train_rows: Annotated[int, typer.Option(help="Training rows of SNIPS.")] = 2000,
    epochs: Annotated[int, typer.Option(help="Epochs of both runs.")] = 6,
    keep: Annotated[float, typer.Option(help="Share kept by the diet, above 0 and below 1.")] = 0.5,
    model: Annotated[str, typer.Option(help="A hub name, a local folder, or minilm (packaged).")] = "minilm",
    seed: Annotated[int, typer.Option(help="Seed of both runs.")] = 0,
    precision: Annotated[str, typer.Option(help="auto, fp32, bf16, fp16.")] = "auto",
    force: Annotated[bool, typer.Option("--force", help="Replace an earlier demo in the same folder.")] = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Train the packaged model on the packaged data, in full and on a diet, and compare: minutes on two CPU cores."""
    with (
        reported(debug, lambda: f"interrupted; start again with: datadiet demo --force --output {output}"),
        quiet_stdout(as_json),
    ):
        from datadiet.demo import DemoOptions, busy_note, run_demo

        (stderr() if as_json else stdout()).print("importing torch and transformers ...", style="dim")
        options = DemoOptions(train_rows, epochs, keep, model, seed=seed, precision=precision)
        console = stdout()
        result = run_demo(output, lambda title: display_for(console, as_json, title), options=options, force=force)
    closing = Text(busy_note(result) + demo_words.CLOSING)
    answer(as_json, result, demo_table(result), closing, commands=demo_words.next_commands(output))


@app.command(
    epilog="Example: datadiet finetune data/sst2 --task classification --model minilm --keep 0.5 --output runs/sst2"
)
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
        given = settings_given(options, lambda name: _is_given(ctx, name))
        given |= {} if data is None else {"data": data}
        settings = settings_of(given, config, resume)  # checked before anything heavy is imported
        folder = Path(settings.output) if settings is not None else resume
        result = run_finetune(settings, resume, display_for(stdout(), as_json, title=str(folder)), _started(ctx))
    answer(as_json, result, summary_table(result, str(folder)), commands=next_command(folder))


@app.command(
    epilog="Examples: datadiet predict new.jsonl --model runs/first/model --output predictions.jsonl; "
    'datadiet predict --model runs/first/model --text "play some jazz"'
)
@with_flags(COLUMNS)
def predict(
    data: Annotated[str | None, typer.Argument(metavar="DATA", help=PREDICT_HELP, show_default=False)] = None,
    model: Annotated[Path | None, typer.Option(help="A saved model: RUN/model, or RUN. Required.")] = None,
    text: Annotated[str | None, typer.Option(help="One text instead of DATA.")] = None,
    text_pair: Annotated[str | None, typer.Option(help="The second text of a pair.")] = None,
    output: Annotated[str, typer.Option(help="A .jsonl, .csv, .tsv or .parquet file; - is standard output.")] = STDOUT,
    force: Annotated[bool, typer.Option("--force", help="Replace the output file if there is one.")] = False,
    max_length: Annotated[int | None, typer.Option(help="Tokens per text; by default as it was trained.")] = None,
    batch_size: Annotated[int, typer.Option(help="Texts of that length per forward pass.")] = 32,
    precision: Annotated[str, typer.Option(help="auto, fp32, bf16, fp16.")] = "auto",
    label_separator: Annotated[str, typer.Option(help="Between the labels of a text (multi-label): | , or ;.")] = "|",
    as_json: AsJson = False,
    debug: Debug = False,
    **columns: Any,
) -> None:
    """Predict new text with a fine-tuned model; where DATA has labels, say how good the predictions are."""
    with reported(debug), quiet_stdout(as_json or output == STDOUT):
        named = {name.removesuffix("_column"): column for name, column in columns.items() if column is not None}
        request = Request(
            model, data, text, text_pair, output, force, named, max_length, batch_size, precision, label_separator
        )
        check_request(request)  # before the display begins
        if text is not None:
            predicted = run_predict(request)
        else:
            with display_for(stdout(), json=as_json or output == STDOUT, title="predict") as listener:
                predicted = run_predict(request, listener)
    show_predictions(predicted, request, as_json)


@app.command(
    epilog="Examples: datadiet score data/sst2 --task classification --model runs/sst2 --scores el2n,vog,aum,scdp "
    "--output scores.parquet; datadiet score data/sst2 --task classification --epochs 3 --output scores.parquet"
)
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
    max_length: Annotated[int | None, typer.Option(help="Tokens per text; by default as it was trained.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the output.")] = False,
    as_json: AsJson = False,
    debug: Debug = False,
    **options: Any,
) -> None:
    """Score every training row, many scores in one go, into a file that select and finetune read."""
    with reported(debug), quiet_stdout(as_json):
        given = settings_given(options, lambda name: name in options and _is_given(ctx, name))
        named = {"data": data, "model": model, "epochs": epochs, "base_model": base_model, "run": run}
        named |= {"folds": folds, "teacher": teacher, "holdout": holdout, "encoder": encoder}
        named |= {"probabilities": probabilities}
        request = score_request(scores, named | {"max_length": max_length, "force": force}, given, output)
        with display_for(stdout(), as_json, title="score") as listener:
            found = run_score(request, listener)
    choose = f"Choose by it with: {found['next']}" if found["next"] else ""
    answer(as_json, found, scores_table(found), commands=choose)


@app.command(
    epilog="Example: datadiet select scores.parquet --data data/sst2 --score el2n --select hardest --keep 0.3 "
    "--output kept.jsonl"
)
@with_flags(READING)
def select(
    ctx: typer.Context,
    scores: Annotated[Path, typer.Argument(metavar="SCORES", help="A .parquet file of datadiet score.")],
    data: Annotated[str | None, typer.Option(help=f"What was scored. {DATA_HELP} Required.")] = None,
    output: Annotated[
        Path | None, typer.Option(help="A .jsonl, .csv, .tsv or .parquet file; or a folder, with all splits. Required.")
    ] = None,
    score: Annotated[str | None, typer.Option(help="A column of SCORES; the only one by default.")] = None,
    selector: Annotated[str, typer.Option("--select", help="A selector of datadiet methods.")] = "hardest",
    keep: Annotated[float | None, typer.Option(help="Share of all rows that is kept, in (0, 1].")] = None,
    count: Annotated[int | None, typer.Option(help="Instead of --keep: how many rows.")] = None,
    offset: Annotated[float | None, typer.Option(help="Share of the very hardest set aside as noise.")] = None,
    option: Annotated[list[str] | None, typer.Option(help="name=value of the selector; may be repeated.")] = None,
    floor: Annotated[int, typer.Option(help="Keep at least so many of each class; 0 = no floor.")] = 0,
    drop_suspects: Annotated[float, typer.Option(help="Share dropped whose label is most likely wrong.")] = 0.0,
    dedupe: Annotated[bool, typer.Option("--dedupe", help="Keep one of the rows with the same text.")] = False,
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
        given = settings_given(reading, lambda name: name in reading and _is_given(ctx, name))
        request = SelectRequest(
            scores, data, output, score, selector, keep, count, offset, floor, seed, drop_suspects, dedupe,
            option or [], features, given, with_score, force,
        )  # fmt: skip
        check_selection(request)  # before the display begins
        with display_for(stdout(), as_json, title="select") as listener:
            found = run_select(request, listener)
    answer(as_json, found, selection_table(found), commands=f"Train on it with: {found['next']}")


@app.command(
    epilog="Example: datadiet compare snips --task intent-slot --train-rows 2000 --methods el2n,uncertain "
    "--keep 0.5,0.2 --seeds 3 --output runs/compare"
)
@with_flags(compare_fields())
def compare(
    ctx: typer.Context,
    data: Annotated[str | None, typer.Argument(metavar="DATA", help=DATA_HELP, show_default=False)] = None,
    methods: Annotated[str | None, typer.Option(help=f"Comma-separated: {', '.join(PRESETS)}.")] = None,
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
        from datadiet.commands.compare import compare as run_compare
        from datadiet.commands.compare import plan_given, request_from, told

        given = settings_given(options, lambda name: _is_given(ctx, name))
        own = {"data": data, "tolerance": points, "seeds": seeds, "margin": margin, "metric": metric, "jobs": jobs}
        lists = {"methods": methods, "keep": keeps, "baselines": baselines}
        request = request_from(given | plan_given(lists, price_per_hour=price_per_hour, **own), config, folder)
        console = stderr() if as_json else stdout()
        with ComparisonDisplay(console, str(folder), lambda state: told(state, request.metric)) as display:
            found = run_compare(request, display, partial(_check_run, console))
    answer(as_json, found, comparison_table(found))
    if any(run["status"] == "failed" for run in found["runs"]):
        raise typer.Exit(1)


def _check_run(console: Console, settings: FinetuneConfig) -> None:
    """Look at the options of a run. Not called, and torch not imported, where everything has been run."""
    if "torch" not in sys.modules:
        console.print("importing torch and transformers, to check the options of every method ...", style="dim")
    from datadiet.config_checks import check_config

    check_config(settings, resume=True)


@app.command(epilog="Example: datadiet report runs/compare")
def report(
    path: Annotated[Path, typer.Argument(metavar="RUN|DIR", help="A run folder, or a folder of datadiet compare.")],
    output: Annotated[Path | None, typer.Option(help="The page; report.html in the folder by default.")] = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Write one self-contained HTML page about a run or a comparison, and its table in Markdown."""
    with reported(debug):
        from datadiet.reporting.report import report as write_report

        page = write_report(path, output)
    table = page.with_suffix(".md")
    answer(as_json, {"page": str(page), "table": str(table)}, commands=f"Wrote {page} and {table}")


@app.command(epilog="Example: datadiet methods --json")
def methods(as_json: AsJson = False, debug: Debug = False) -> None:
    """Every score, selector, history and rescore mode: formula, needs, cost, paper."""
    with reported(debug):
        answer(as_json, methods_as_json(), methods_table(METHODS))


# ---- around the commands ----


def _is_given(ctx: typer.Context, name: str) -> bool:
    source = ctx.get_parameter_source(name)
    return source is not None and source.name in ("COMMANDLINE", "ENVIRONMENT")


def _started(ctx: typer.Context) -> float:
    call = ctx.find_root().obj
    return call.started if isinstance(call, Call) else time.perf_counter()
