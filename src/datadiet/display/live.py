"""Progress as one panel that is drawn again in place."""

from __future__ import annotations

from typing import Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from datadiet.display.tables import forecast_table
from datadiet.display.words import clock, number, percent
from datadiet.progress import StepReport
from datadiet.records import EpochResult, Forecast

MOST_METRICS = 3  # more columns than these do not fit in 80


class LiveDisplay:
    """One panel: epoch, kept and dropped, loss, throughput, time left and saved, dev metrics; a `progress.Listener`.

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
        self._live = Live(get_renderable=self._render, console=console, refresh_per_second=4)

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
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="dim", show_edge=False)
    for heading in ("epoch", "kept", "loss", "seconds", *(f"dev {name.replace('_', ' ')}" for name in names)):
        table.add_column(heading, justify="right")
    if hidden:
        table.add_row(f"({hidden})", *[Text("...", style="dim")] * (3 + len(names)))
    for result in epochs:
        values = (number(result.dev.get(name)) for name in names)
        table.add_row(
            str(result.epoch + 1), f"{result.kept:,}", number(result.train_loss), f"{result.seconds:.1f}", *values
        )
    return table
