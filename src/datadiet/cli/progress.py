"""Progress of a run: one panel drawn again in place on a terminal, plain lines in log files, pipes and CI."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from datadiet.cli.console import Escaped
from datadiet.cli.tables import forecast_table, plain_table
from datadiet.formatting import clock, metrics_text, number, percent, spaced
from datadiet.types import EpochResult, Forecast, Listener, StepReport

MOST_METRICS = 3  # more columns than these do not fit in 80


class LiveDisplay:
    """One panel: epoch, kept and dropped, loss, throughput, time left and saved, dev metrics; a `Listener`.

    Notes and the forecast are printed above it and stay. Leaving the block always gives the terminal back.

    Args:
        console: A terminal.
        title: The panel's heading.
        most_epochs: Past epochs shown while it runs, so that the panel fits on small screens; all at the end.
    """

    def __init__(self, console: Console, title: str = "", most_epochs: int = 8) -> None:
        self._console, self._title, self._most_epochs = console, title, most_epochs
        self._phase: str | None = "starting"
        self._spinner = Spinner("dots")
        self._report: StepReport | None = None
        self._epochs: list[EpochResult] = []
        self._live = Live(get_renderable=lambda: Escaped(self._render()), console=console, refresh_per_second=4)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._phase, self._most_epochs = None, len(self._epochs)
        self._live.stop()

    def note(self, text: str) -> None:
        """Printed above the panel."""
        self._console.print(Text.assemble(("note ", "bold yellow"), text))

    def phase(self, text: str) -> None:
        """Shown in the panel's last line."""
        self._phase = text

    def planned(self, forecast: Forecast) -> None:
        """Printed above the panel, before anything runs."""
        self._console.print(forecast_table(forecast))

    def stepped(self, report: StepReport) -> None:
        """Shown in the panel."""
        self._report, self._phase = report, "training"

    def epoch_ended(self, result: EpochResult) -> None:
        """A new line of the panel's table."""
        self._epochs = [*self._epochs, result]

    def _render(self) -> RenderableType:
        """The panel as it is now; called by the drawing thread."""
        parts: list[RenderableType] = []
        if (report := self._report) is not None:
            parts += [_numbers(report), _bar(report)]
        if epochs := self._epochs:
            parts += [_epochs_table(epochs[-self._most_epochs :], hidden=max(0, len(epochs) - self._most_epochs))]
        if (phase := self._phase) is not None:
            self._spinner.update(text=Text(f" {phase}"))
            parts.append(self._spinner)
        return Panel(Group(*parts), title=Text(self._title) if self._title else None, title_align="left")


def _numbers(report: StepReport) -> Table:
    pairs = (
        ("epoch", f"{report.epoch + 1}/{report.epochs}"),
        ("loss", number(report.loss)),
        ("time left", clock(report.seconds_left)),
        ("kept", f"{report.kept:,}"),
        ("dropped", f"{report.dropped:,}"),
        ("saved so far", clock(report.seconds_saved)),
    )
    grid = Table.grid(padding=(0, 3), expand=False)
    cells = [Text.assemble((f"{name} ", "dim"), (value, "bold")) for name, value in pairs]
    grid.add_row(*cells[:3])
    grid.add_row(*cells[3:])
    return grid


def _bar(report: StepReport) -> Table:
    grid = Table.grid(padding=(0, 2), expand=True)
    grid.add_column(ratio=1)
    grid.add_column(no_wrap=True)
    share = percent(report.step / report.steps) if report.steps else ""
    grid.add_row(
        ProgressBar(total=max(report.steps, 1), completed=report.step),
        Text(f"{share}  step {report.step:,}/{report.steps:,}  {report.examples_per_s:.0f} examples/s"),
    )
    return grid


def _epochs_table(epochs: list[EpochResult], hidden: int) -> Table:
    names = list(epochs[-1].dev)[:MOST_METRICS]
    table = plain_table("epoch", "kept", "loss", "seconds", *(f"dev {spaced(name)}" for name in names), show_edge=False)
    table.columns[0].justify = "right"
    if hidden:
        table.add_row(f"({hidden})", *[Text("...", style="dim")] * (3 + len(names)))
    for result in epochs:
        values = (number(result.dev.get(name)) for name in names)
        table.add_row(
            str(result.epoch + 1), f"{result.kept:,}", number(result.train_loss), f"{result.seconds:.1f}", *values
        )
    return table


class PlainDisplay:
    """One line per note, phase and epoch, and a step now and then; a `Listener`.

    Args:
        console: Where the lines go.
        title: Printed before the first line.
        every_s: Seconds between two lines about steps.
        now: The clock, for tests.
    """

    def __init__(
        self, console: Console, title: str = "", every_s: float = 10.0, now: Callable[[], float] = time.monotonic
    ) -> None:
        self._console, self._title, self._every_s, self._now = console, title, every_s, now
        self._last_line = now()
        self._epochs = 0

    def __enter__(self) -> Self:
        if self._title:
            self._line(f"== {self._title}")
        return self

    def __exit__(self, *error: object) -> None:
        self._console.file.flush()

    def _line(self, text: str) -> None:
        # Text, not str: what comes from the data must not be read as markup; a log line is never folded
        self._console.print(Text(text), soft_wrap=True)
        self._console.file.flush()

    def note(self, text: str) -> None:
        """One line."""
        self._line(f"note: {text}")

    def phase(self, text: str) -> None:
        """One line."""
        self._line(f"{text} ...")

    def planned(self, forecast: Forecast) -> None:
        """The forecast, before anything runs."""
        self._epochs = len(forecast.epochs)
        self._console.print(forecast_table(forecast))

    def stepped(self, report: StepReport) -> None:
        """A line, unless the last one is only a few seconds old."""
        if self._now() - self._last_line < self._every_s:
            return
        self._last_line = self._now()
        self._line(
            f"epoch {report.epoch + 1}/{report.epochs}  step {report.step}/{report.steps}  kept {report.kept:,}  "
            f"dropped {report.dropped:,}  loss {number(report.loss)}  {report.examples_per_s:.0f} examples/s  "
            f"left {clock(report.seconds_left)}  saved {clock(report.seconds_saved)}"
        )

    def epoch_ended(self, result: EpochResult) -> None:
        """One line with the dev metrics."""
        self._last_line = self._now()
        of = f"/{self._epochs}" if self._epochs else ""
        dev = f", dev: {metrics_text(result.dev)}" if result.dev else ""
        self._line(
            f"epoch {result.epoch + 1}{of} done in {result.seconds:.1f} s: kept {result.kept:,}, "
            f"dropped {result.dropped:,}, loss {number(result.train_loss)}{dev}"
        )


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

    Examples:
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
