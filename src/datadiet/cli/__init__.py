"""The command line: thin. Arguments in, one call, a table or JSON out; heavy imports happen inside the commands."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from datadiet import __version__
from datadiet.cli.call import Call
from datadiet.cli.compare import compare
from datadiet.cli.demo import demo
from datadiet.cli.finetune import finetune
from datadiet.cli.methods import methods
from datadiet.cli.predict import predict
from datadiet.cli.report import report
from datadiet.cli.score import score
from datadiet.cli.select import select
from datadiet.cli.usage import Command, Group
from datadiet.display.console import stdout

__all__ = ["Call", "app", "run"]

app = typer.Typer(
    name="datadiet",
    cls=Group,
    help="Fine-tune transformers on the examples that still teach them something.",
    epilog="Start with: datadiet demo",
    no_args_is_help=True,
    add_completion=False,
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


# in the order of the help
app.command(cls=Command, epilog="Example: datadiet demo --output runs/demo")(demo)
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
    cls=Command,
    epilog="Example: datadiet compare snips --task intent-slot --train-rows 2000 --methods el2n,uncertain "
    "--keep 0.5,0.2 --seeds 3 --output runs/compare",
)(compare)
app.command(cls=Command, epilog="Example: datadiet report runs/compare")(report)
app.command(cls=Command, epilog="Example: datadiet methods --json")(methods)
