"""`datadiet predict`: predict new text, and show the predictions."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer
from rich.text import Text

from datadiet.cli.console import print_json, quiet_stdout, reported, show, stderr, stdout
from datadiet.cli.options import AsJson, Debug, with_flags
from datadiet.cli.progress import display_for
from datadiet.cli.tables import metrics_table, prediction_table
from datadiet.config import COLUMNS, declared
from datadiet.jobs.predict import STDOUT, PredictConfig, Predicted, check_config, write_jsonl
from datadiet.jobs.predict import predict as run_predict

PREDICT_HELP = "A file (.jsonl, .csv, .tsv, .parquet, .conll, .txt), or a data set whose test split is predicted."


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
