"""`datadiet demo`: train the packaged model in full and on a diet."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from datadiet.cli.call import AsJson, Debug
from datadiet.commands import demo as demo_words
from datadiet.display import demo_table, display_for
from datadiet.display.console import answer, quiet_stdout, stderr, stdout
from datadiet.display.errors import reported


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
