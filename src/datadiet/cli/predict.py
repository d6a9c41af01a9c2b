"""What the command line says of predictions.

`datadiet predict`: predict new text.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.text import Text

from datadiet.cli.console import print_json, quiet_stdout, reported, show, stderr, stdout
from datadiet.cli.options import AsJson, Debug, with_flags
from datadiet.cli.progress import display_for
from datadiet.cli.tables import metrics_table, prediction_table
from datadiet.config import COLUMNS
from datadiet.jobs.predict import STDOUT, Predicted, Request, check_request, write_jsonl
from datadiet.jobs.predict import predict as run_predict


def show_predictions(predicted: Predicted, request: Request, as_json: bool) -> None:
    """Standard output holds either the lines, or one JSON object, or what a person wants to know.

    Args:
        predicted: What came out.
        request: What was asked for.
        as_json: With --json.
    """
    to_file = request.output != STDOUT
    if as_json:
        rest = {"output": request.output, "rows": len(predicted.lines)} if to_file else {"predictions": predicted.lines}
        print_json({**rest, "metrics": predicted.metrics})
        return
    if to_file:
        show(Text(f"Wrote {len(predicted.lines):,} predictions to {request.output}"))
    elif request.text is not None and sys.stdout.isatty():
        show(prediction_table(predicted.lines[0]))
    else:
        write_jsonl(predicted.lines, sys.stdout)
    if predicted.metrics is not None:
        (stdout() if to_file else stderr()).print(metrics_table({"value": predicted.metrics}))


PREDICT_HELP = "A file (.jsonl, .csv, .tsv, .parquet, .conll, .txt), or a data set whose test split is predicted."


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
