"""What the command line shows: live or plain progress, and the tables at the end. Nothing below the CLI draws."""

from __future__ import annotations

from typing import Protocol, Self

from rich.console import Console

from datadiet.display.comparison import ComparisonDisplay, comparison_table
from datadiet.display.live import LiveDisplay
from datadiet.display.plain import PlainDisplay
from datadiet.display.tables import (
    demo_table,
    forecast_table,
    methods_table,
    metrics_table,
    prediction_table,
    summary_table,
)
from datadiet.progress import Listener

__all__ = [
    "ComparisonDisplay",
    "Display",
    "LiveDisplay",
    "PlainDisplay",
    "comparison_table",
    "demo_table",
    "display_for",
    "forecast_table",
    "methods_table",
    "metrics_table",
    "prediction_table",
    "summary_table",
]


class Display(Listener, Protocol):
    """A listener that draws between entering and leaving, and leaves the terminal as it was."""

    def __enter__(self) -> Self:
        """Start to draw."""

    def __exit__(self, *error: object) -> None:
        """Stop, also after an error."""


def display_for(console: Console, json: bool = False, title: str = "") -> Display:
    """The display that fits where the output goes.

    Args:
        console: Standard output as the user sees it.
        json: Standard output is for machines, so everything goes to standard error.
        title: What is being run.

    Returns:
        A live panel on a terminal, plain lines in a file or a pipe.

    Example:
        >>> import io
        >>> type(display_for(Console(file=io.StringIO()))).__name__
        'PlainDisplay'
    """
    target = Console(stderr=True, highlight=False) if json else console
    return (
        LiveDisplay(target, title)
        if target.is_terminal and not target.is_dumb_terminal
        else PlainDisplay(target, title)
    )
