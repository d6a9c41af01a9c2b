"""What the command line says of predictions."""

from __future__ import annotations

import sys

from rich.text import Text

from datadiet.commands.predict import STDOUT, Predicted, Request, write_jsonl
from datadiet.display.console import print_json, show, stderr, stdout
from datadiet.display.tables import metrics_table, prediction_table


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
