"""The command line: thin. Arguments in, one call, a table or JSON out; heavy imports happen inside the commands.

The commands that are no room of their own are here: `demo`, `predict`, `methods`, `report` and `push`.
"""

from __future__ import annotations

import os
import shlex
import signal
import sys
import threading
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from datadiet import __version__, registry
from datadiet.cli.compare import CompareCommand, compare
from datadiet.cli.console import Command, Group, answer, print_json, quiet_stdout, reported, show, stderr, stdout
from datadiet.cli.finetune import finetune
from datadiet.cli.options import AsJson, Call, Debug, with_flags
from datadiet.cli.progress import display_for
from datadiet.cli.score import score, select
from datadiet.cli.tables import demo_table, look_table, methods_table, metrics_table, prediction_table
from datadiet.compare.run import ENDS_WITH_STDIN
from datadiet.config import COLUMNS, DATA_HELP, declared
from datadiet.errors import ArgumentError
from datadiet.files import write_atomically
from datadiet.jobs import demo as demo_words
from datadiet.jobs.predict import STDOUT, PredictConfig, Predicted, check_config, write_jsonl
from datadiet.jobs.predict import predict as run_predict

PREDICT_HELP = "A file (.jsonl, .csv, .tsv, .parquet, .conll, .txt), or a data set whose test split is predicted."


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
        from datadiet.jobs.demo import DemoOptions, busy_note, run_demo

        (stderr() if as_json else stdout()).print("importing torch and transformers ...", style="dim")
        options = DemoOptions(train_rows, epochs, keep, model, seed=seed, precision=precision)
        console = stdout()
        result = run_demo(output, lambda title: display_for(console, as_json, title), options=options, force=force)
    closing = Text(busy_note(result) + demo_words.CLOSING)
    answer(as_json, result, demo_table(result), closing, commands=demo_words.next_commands(output))


def init(
    data: Annotated[str, typer.Argument(metavar="DATA", help=DATA_HELP)],
    output: Annotated[Path, typer.Option(help="The file of options to write.")] = Path("datadiet.yaml"),
    task: Annotated[str | None, typer.Option(help="What is predicted; found in the data by default.")] = None,
    model: Annotated[str, typer.Option(help="A hub name, a local folder, or minilm (packaged).")] = "minilm",
    no_time: Annotated[bool, typer.Option("--no-time", help="Train no step to estimate times.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it is there.")] = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Look at a data set: task, classes, lengths, repeats, times; write a file of options to edit."""
    with reported(debug, lambda: "interrupted; nothing has been written"), quiet_stdout(as_json):
        if output.exists() and not force:
            raise ArgumentError(f"{output} is there already: give another --output, or --force to replace it.")
        (stderr() if as_json else stdout()).print("importing torch and transformers ...", style="dim")
        from datadiet.jobs.preview import config_text, look

        with display_for(stdout(), as_json) as listener:
            found = look(data, task, model="" if no_time else model, listener=listener)
        write_atomically(output, config_text(data, found, model=model))
    file = shlex.quote(str(output))
    commands = (
        f"\nWrote {file}. Next:\n  datadiet finetune --config {file} --output runs/first\n"
        f"  datadiet compare --config {file} --output runs/compare"
    )
    answer(as_json, {**found, "config": str(output)}, look_table(found), commands=commands)


@with_flags(COLUMNS)
@with_flags(config=PredictConfig)
def predict(
    data: Annotated[str | None, typer.Argument(metavar="DATA", help=PREDICT_HELP, show_default=False)] = None,
    as_json: AsJson = False,
    debug: Debug = False,
    **options: Any,
) -> None:
    """Predict new text with a fine-tuned model; where DATA has labels, say how good the predictions are."""
    own = {name: options[name] for name in declared(PredictConfig)}
    columns = {name.removesuffix("_column"): options[name] for name in COLUMNS if options[name] is not None}
    config = PredictConfig(data=data, columns=columns, **own)
    to_stdout = config.output == STDOUT
    with reported(debug), quiet_stdout(as_json or to_stdout):
        check_config(config)  # before the display begins
        if config.text is not None:
            predicted = run_predict(config)
        else:
            with display_for(stdout(), json=as_json or to_stdout, title="predict") as listener:
                predicted = run_predict(config, listener)
    show_predictions(predicted, config, as_json)


def show_predictions(predicted: Predicted, config: PredictConfig, as_json: bool) -> None:
    """Standard output holds either the lines, or one JSON object, or a summary for a person."""
    to_file = config.output != STDOUT
    if as_json:
        rows = {"output": config.output, "rows": len(predicted.lines)} if to_file else {"predictions": predicted.lines}
        print_json({**rows, "metrics": predicted.metrics})
        return
    if to_file:
        show(Text(f"Wrote {len(predicted.lines):,} predictions to {config.output}"))
    elif config.text is not None and sys.stdout.isatty():
        show(prediction_table(predicted.lines[0]))
    else:
        write_jsonl(predicted.lines, sys.stdout)
    if predicted.metrics is not None:
        (stdout() if to_file else stderr()).print(metrics_table({"value": predicted.metrics}))


def methods(as_json: AsJson = False, debug: Debug = False) -> None:
    """Every score, selector, preset, history and task: formula, needs, cost, paper, and where it was measured."""
    with reported(debug):
        answer(as_json, registry.as_json(), methods_table(registry.methods()))


def report(
    path: Annotated[Path, typer.Argument(metavar="RUN|DIR", help="A run folder, or a folder of datadiet compare.")],
    output: Annotated[Path | None, typer.Option(help="The page; report.html in the folder by default.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is no earlier report.")] = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Write one self-contained HTML page about a run or a comparison, and its table in Markdown."""
    with reported(debug):
        from datadiet.reporting import report as write_report

        page = write_report(path, output, force=force)
    table = page.with_suffix(".md")
    answer(as_json, {"page": str(page), "table": str(table)}, commands=f"Wrote {page} and {table}")


def push(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A finished run folder, or its model/.")],
    repo: Annotated[str, typer.Argument(metavar="REPO", help="NAME or OWNER/NAME on the hub, made if missing.")],
    private: Annotated[bool, typer.Option("--private", help="Make it visible to its owner only.")] = False,
    branch: Annotated[str | None, typer.Option(help="A branch of the repository; main by default.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check what is on this machine; send nothing.")] = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Send a model with its card to the Hugging Face hub."""
    with reported(debug, lambda: "interrupted; the hub takes all files or none"), quiet_stdout(as_json):
        from datadiet.jobs.push import push as send

        sent = send(run, repo, private=private, branch=branch, dry_run=dry_run)
    total = sum(sent["files"].values())
    what = f"{len(sent['files'])} files of {sent['folder']}, {total / 1e6:,.1f} MB"
    done = f"Would send {what} to {sent['repo']}" if dry_run else f"Sent {what}: {sent['url']}"
    answer(as_json, sent, commands=done)


app = typer.Typer(
    name="datadiet",
    cls=Group,
    help="Fine-tune transformers on the examples that still teach them something.",
    epilog="Start with: datadiet demo",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def run(started: float, arguments: list[str] | None = None) -> None:
    """Run the command line; the end of the process.

    Args:
        started: `time.perf_counter()` before the imports, from where a run's total time counts.
        arguments: Those of the process by default.

    Raises:
        SystemExit: Always: 0, 1 (failed), 2 (bad arguments or data) or 130 (interrupted).
    """
    if os.environ.pop(ENDS_WITH_STDIN, None):
        threading.Thread(target=_end_with_stdin, daemon=True).start()
    # libraries draw their own bars over ours; ours says what is being loaded
    os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    app(args=arguments, prog_name="datadiet", obj=Call(started))


def _end_with_stdin() -> None:
    """End this process when the one at the other end of its standard input ends: a run must not outlive `compare`."""
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGTERM)


def _version(requested: bool) -> None:
    if requested:
        stdout().print(f"datadiet {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Fine-tune transformers on the examples that still teach them something."""


# in the order of the help
app.command(cls=Command, epilog="Example: datadiet demo --output runs/demo")(demo)
app.command(cls=Command, epilog="Example: datadiet init data/sst2 --output sst2.yaml")(init)
app.command(
    cls=Command,
    epilog="Example: datadiet finetune data/sst2 --task classification --model minilm --keep 0.5 --output runs/sst2",
)(finetune)
app.command(
    cls=Command,
    epilog="Examples: datadiet predict new.jsonl --model runs/first/model --output predictions.jsonl; "
    'datadiet predict --model runs/first/model --text "play some jazz"',
)(predict)
app.command(
    cls=Command,
    epilog="Examples: datadiet score data/sst2 --task classification --model runs/sst2 --scores el2n,vog,aum,scdp "
    "--output scores.parquet; datadiet score data/sst2 --task classification --epochs 3 --output scores.parquet",
)(score)
app.command(
    cls=Command,
    epilog="Example: datadiet select scores.parquet --data data/sst2 --score el2n --select hardest --keep 0.3 "
    "--output kept.jsonl",
)(select)
app.command(
    cls=CompareCommand,
    epilog="Example: datadiet compare snips --task intent-slot --train-rows 2000 --methods el2n,uncertain "
    "--keep 0.5,0.2 --seeds 3 --output runs/compare",
)(compare)
app.command(cls=Command, epilog="Example: datadiet report runs/compare")(report)
app.command(cls=Command, epilog="Example: datadiet push runs/first my-name/sst2-on-a-diet --private")(push)
app.command(cls=Command, epilog="Example: datadiet methods --json")(methods)
