"""What `datadiet score` shows: the range of each score, and how alike they rank."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from datadiet.display.words import clock, number, shown
from datadiet.records import Json

HEADINGS = {"min": "min", "p10": "10 %", "median": "median", "p90": "90 %", "max": "max"}


def scores_table(told: Json) -> RenderableType:
    """Everything on one screen.

    Args:
        told: What `datadiet.commands.score.score` gives.
    """
    head = Text(f"{told['rows']:,} training rows of {shown(told['data'])}; larger = harder", "bold")
    parts: list[RenderableType] = [Text(""), head, _ranges(told["scores"])]
    if len(told["scores"]) > 1:
        parts += [Text(""), Text("Rank correlation (Spearman)", "bold"), _correlations(told["correlations"])]
    unseen = " of models that have not seen the row" if told.get("probabilities_with") else ""
    probabilities = f", with the class probabilities{unseen}" if told["probabilities"] else ""
    return Group(*parts, Text(""), Text(f"Wrote {shown(told['output'])}{probabilities}."))


def _ranges(scores: Json) -> RenderableType:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("score")
    for heading in (*HEADINGS.values(), "time"):
        table.add_column(heading, justify="right")
    table.add_column("made with", overflow="fold")
    for name, line in scores.items():
        shared = " *" if "seconds_shared_with" in line else ""
        cells = [number(line[quantile]) for quantile in HEADINGS]
        table.add_row(name, *cells, clock(line["seconds"]) + shared, Text(_source(line), style="dim"))
    if any("seconds_shared_with" in line for line in scores.values()):
        table.add_row(Text("* in one pass", style="dim"))
    return table


def _source(line: Json) -> str:
    """The models by name, and how many rounds or checkpoints."""
    models = [shown(line[role], 40) for role in ("model", "encoder", "teacher", "holdout") if role in line]
    numbers = [f"{line[what]} {what}" for what in ("rounds", "checkpoints", "folds") if what in line]
    return ", ".join([*models, *numbers])


def _correlations(found: Json) -> RenderableType:
    """The lower triangle: each two once."""
    names = list(found)
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("")
    for name in names[:-1]:
        table.add_column(name, justify="right")
    for place, name in enumerate(names[1:], start=1):
        cells = ["-" if (value := found[name][other]) is None else f"{value:.2f}" for other in names[:place]]
        table.add_row(name, *cells)
    return table
