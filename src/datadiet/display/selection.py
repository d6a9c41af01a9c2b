"""What `datadiet select` shows: what is kept and dropped and why, per class, with examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from datadiet.display.words import number, percent, shown
from datadiet.records import Json

WHY = {
    "chosen": "kept by the selector",
    "floor": "kept for the floor of their class",
    "duplicate": "dropped: the same text as a row that is kept, or with --near nearly so",
    "suspect": "dropped: the label is suspected to be wrong",
    "offset": "dropped: set aside as among the very hardest",
    "rest": "dropped by the selector",
}
MOST_CLASSES = 40


def selection_table(told: Json) -> RenderableType:
    """Everything on one screen.

    Args:
        told: What `datadiet.commands.select.select` gives.
    """
    rows = told["rows"]
    share, means = percent(told["kept"] / rows), (number(told["mean_kept"]), number(told["mean_dropped"]))
    head = Text(f"Kept {told['kept']:,} of {rows:,} rows ({share}) by {told['select']} on {told['score']}, ", "bold")
    head.append(f"whose mean is {means[0]} among the kept and {means[1]} among the dropped.", "not bold")
    parts: list[RenderableType] = [Text(""), head, _reasons(told)]
    if told["classes"]:
        parts += [Text(""), _classes(told["classes"])]
    parts += [Text(""), _examples(told["examples"]), Text("")]
    if told["weighted"]:
        parts.append(Text("This selector gives the kept rows loss weights: --with-score writes them as a column."))
    return Group(*parts, Text(_where(told["output"])))


def _where(output: str) -> str:
    """Where the rows are, and which splits."""
    only = " It holds training rows only; a folder as --output (no ending) holds the other splits too."
    return f"Wrote {shown(output)}.{only if Path(output).suffix else ''}"


def _reasons(told: Json) -> RenderableType:
    table = Table.grid(padding=(0, 2))
    table.add_column(justify="right")
    table.add_column(justify="right", style="dim")
    for reason, count in told["reasons"].items():
        by = f" (by {told['suspects_by']})" if reason == "suspect" else ""
        table.add_row(f"  {count:,}", percent(count / told["rows"]), Text(WHY[reason] + by))
    return table


def _classes(classes: Sequence[Mapping[str, Any]]) -> RenderableType:
    """One line per class; of very many the largest."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("class")
    for heading in ("rows", "kept", "dropped", "share kept", "mean kept", "mean dropped"):
        table.add_column(heading, justify="right")
    for line in classes[:MOST_CLASSES]:
        counts = [f"{line[name]:,}" for name in ("rows", "kept", "dropped")]
        share = percent(line["kept"] / line["rows"])
        style = "" if line["kept"] else "bold red"
        means = [number(line["mean_kept"]), number(line["mean_dropped"])]
        table.add_row(Text(shown(line["label"], 40)), *counts, share, *means, style=style)
    if len(classes) <= MOST_CLASSES:
        return table
    return Group(table, Text(f"and {len(classes) - MOST_CLASSES} smaller classes: --json shows all", style="dim"))


def _examples(examples: Sequence[Mapping[str, Any]]) -> RenderableType:
    """A few rows of each reason, under it."""
    lines: list[RenderableType] = []
    reason = None
    for line in examples:
        if line["reason"] != reason:
            reason = line["reason"]
            lines.append(Text(f"{WHY[reason]}, e.g.", style="dim"))
        label = "" if line["label"] is None else f"  [{shown(line['label'], 30)}]"
        lines.append(
            Text(f"  {line['value']:.3f}{label}  {shown(line['text'], 90)}", no_wrap=True, overflow="ellipsis")
        )
    return Group(*lines)
