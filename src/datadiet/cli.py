"""The command line: thin. Arguments in, one call, a table or JSON out; heavy imports happen inside the commands."""

from __future__ import annotations

import json
import os
import shlex
import sys
import time
from contextlib import AbstractContextManager, nullcontext, redirect_stdout
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console, RenderableType
from rich.text import Text

from datadiet import __version__
from datadiet.checks import Problems
from datadiet.commands.methods import METHODS
from datadiet.commands.methods import as_json as methods_as_json
from datadiet.commands.options import COLUMNS, DATA_HELP, config_of, flag_name, settings_given, with_flags
from datadiet.commands.predict import STDOUT, Predicted, Request, check_request, write_jsonl
from datadiet.commands.predict import predict as run_predict
from datadiet.comparison.presets import PRESETS, compare_fields, listed
from datadiet.config import FinetuneConfig, read_config
from datadiet.display import (
    ComparisonDisplay,
    Display,
    comparison_table,
    demo_table,
    display_for,
    methods_table,
    metrics_table,
    prediction_table,
    summary_table,
)
from datadiet.display.errors import reported
from datadiet.records import Json

PREDICT_HELP = "A file (.jsonl, .csv, .tsv, .parquet, .txt), or a data set whose test split is predicted."

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
        _stdout().print(f"datadiet {__version__}")
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

        (_stderr() if as_json else _stdout()).print("importing torch and transformers ...", style="dim")
        options = DemoOptions(train_rows, epochs, keep, model, seed=seed, precision=precision)
        console = _stdout()
        result = run_demo(output, lambda title: display_for(console, as_json, title), options=options, force=force)
    if as_json:
        _print_json(result)
    else:
        _show(demo_table(result), Text(busy_note(result) + DEMO_CLOSING))
        _show_commands(DEMO_NEXT.format(output=shlex.quote(str(output))))


DEMO_CLOSING = (
    "\nBoth runs in one process, one after the other; each counts loading its data and model. One seed is an anecdote: "
    "differences of half a point are noise. Before you believe in a diet, compare it with training on everything for "
    "fewer epochs.\n"
)
DEMO_NEXT = """Try next:
  datadiet predict --model {output}/diet/model --text "play some jazz by miles davis"
  datadiet finetune YOUR_FOLDER --task classification --keep 0.5 --output runs/first
  datadiet methods"""


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
    with reported(debug, lambda: _resume_hint(folder)), quiet_stdout(as_json):
        given = settings_given(options, lambda name: _is_given(ctx, name))
        given |= {} if data is None else {"data": data}
        settings = _settings(given, config, resume)  # checked before anything heavy is imported
        folder = Path(settings.output) if settings is not None else resume
        result = _finetune(settings, resume, display_for(_stdout(), as_json, title=str(folder)), _started(ctx))
    if as_json:
        _print_json(result)
        return
    _show(summary_table(result, str(folder)))
    _show_commands(f'\nPredict with: datadiet predict --model {shlex.quote(str(folder))}/model --text "..."')


def _settings(given: dict[str, Any], config: Path | None, resume: Path | None) -> FinetuneConfig | None:
    """The run that was asked for; None where one is resumed, which has its own."""
    if resume is not None:
        _refuse_beside_resume(resume, given, config)
        return None
    return config_of(given) if config is None else read_config(config, **given)


def _finetune(settings: FinetuneConfig | None, resume: Path | None, display: Display, started: float) -> Json:
    with display as listener:
        listener.phase("importing torch and transformers")
        from datadiet.finetuning import finetune as start_run
        from datadiet.finetuning import resume_run

        if settings is not None:
            return start_run(settings, listener=listener, started=started)
        return resume_run(resume or Path(), listener=listener, started=started)


def _refuse_beside_resume(resume: Path, given: dict[str, Any], config: Path | None) -> None:
    """A resumed run has the options it was started with: others would have no effect."""
    problems = Problems()
    for field in [*given, *(["config"] if config is not None else [])]:
        name = "DATA" if field == "data" else flag_name(field)
        problems.add(f"{name} has no effect beside --resume, which goes on with the options in {resume}: leave it out.")
    problems.check(resume.is_dir(), f"{resume} is no run folder: --resume needs the --output of an interrupted run.")
    problems.raise_any()


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
    as_json: AsJson = False,
    debug: Debug = False,
    **columns: Any,
) -> None:
    """Predict new text with a fine-tuned model; where DATA has labels, say how good the predictions are."""
    with reported(debug), quiet_stdout(as_json or output == STDOUT):
        named = {name.removesuffix("_column"): column for name, column in columns.items() if column is not None}
        request = Request(model, data, text, text_pair, output, force, named, max_length, batch_size, precision)
        check_request(request)  # before the display begins
        if text is not None:
            predicted = run_predict(request)
        else:
            with display_for(_stdout(), json=as_json or output == STDOUT, title="predict") as listener:
                predicted = run_predict(request, listener)
    _show_predictions(predicted, request, as_json)


def _show_predictions(predicted: Predicted, request: Request, as_json: bool) -> None:
    """Standard output holds either the lines, or one JSON object, or what a person wants to know."""
    to_file = request.output != STDOUT
    if as_json:
        rest = {"output": request.output, "rows": len(predicted.lines)} if to_file else {"predictions": predicted.lines}
        _print_json({**rest, "metrics": predicted.metrics})
        return
    if to_file:
        _show(Text(f"Wrote {len(predicted.lines):,} predictions to {request.output}"))
    elif request.text is not None and sys.stdout.isatty():
        _show(prediction_table(predicted.lines[0]))
    else:
        write_jsonl(predicted.lines, sys.stdout)
    if predicted.metrics is not None:
        (_stdout() if to_file else _stderr()).print(metrics_table({"value": predicted.metrics}))


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
        from datadiet.commands.compare import request_from, told

        given = settings_given(options, lambda name: _is_given(ctx, name))
        own = {"data": data, "seeds": seeds, "margin": margin, "metric": metric, "jobs": jobs}
        own |= {"price_per_hour": price_per_hour}
        lists = {"methods": methods, "keep": keeps, "baselines": baselines}
        given |= {name: value for name, value in own.items() if value is not None}
        given |= {name: listed(value) for name, value in lists.items() if value is not None}
        request = request_from(given, config, folder)
        console = _stderr() if as_json else _stdout()
        with ComparisonDisplay(console, str(folder), lambda state: told(state, request.metric)) as display:
            found = run_compare(request, display, partial(_check_run, console))
    if as_json:
        _print_json(found)
    else:
        _show(comparison_table(found))
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
    if as_json:
        _print_json({"page": str(page), "table": str(page.with_suffix(".md"))})
    else:
        _show_commands(f"Wrote {page} and {page.with_suffix('.md')}")


@app.command(epilog="Example: datadiet methods --json")
def methods(as_json: AsJson = False, debug: Debug = False) -> None:
    """Every score, selector, history and rescore mode: formula, needs, cost, paper."""
    with reported(debug):
        if as_json:
            _print_json(methods_as_json())
        else:
            _show(methods_table(METHODS))


# ---- around the commands ----


def quiet_stdout(as_json: bool) -> AbstractContextManager[object]:
    """With --json, whatever a library prints goes to standard error: standard output holds JSON and nothing else."""
    return redirect_stdout(sys.stderr) if as_json else nullcontext()


def _resume_hint(folder: object) -> str:
    """What to type after Ctrl-C; a run folder exists from the moment the training starts."""
    if folder is not None and (Path(str(folder)) / "config.yaml").is_file():
        return f"interrupted; go on with: datadiet finetune --resume {shlex.quote(str(folder))}"
    return "interrupted before the training began; nothing has been written"


def _is_given(ctx: typer.Context, name: str) -> bool:
    source = ctx.get_parameter_source(name)
    return source is not None and source.name in ("COMMANDLINE", "ENVIRONMENT")


def _started(ctx: typer.Context) -> float:
    call = ctx.find_root().obj
    return call.started if isinstance(call, Call) else time.perf_counter()


def _stdout() -> Console:
    return Console(highlight=False)


def _stderr() -> Console:
    return Console(stderr=True, highlight=False)


def _show(*parts: RenderableType) -> None:
    for part in parts:
        _stdout().print(part)


def _show_commands(text: str) -> None:
    """Never folded: a command is copied from the screen as it is."""
    _stdout().print(Text(text), soft_wrap=True)


def _print_json(content: object) -> None:
    sys.stdout.write(json.dumps(content, indent=2, ensure_ascii=False) + "\n")
