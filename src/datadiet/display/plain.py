"""Progress as lines: for log files, pipes and CI."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Self

from rich.console import Console
from rich.text import Text

from datadiet.display.tables import forecast_table
from datadiet.display.words import clock, metrics_text, number
from datadiet.progress import StepReport
from datadiet.records import EpochResult, Forecast


class PlainDisplay:
    """One line per note, phase and epoch, and a step now and then; implements `progress.Listener`.

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
        self._spoke = now()
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
        if self._now() - self._spoke < self._every_s:
            return
        self._spoke = self._now()
        self._line(
            f"epoch {report.epoch + 1}/{report.epochs}  step {report.step}/{report.steps}  kept {report.kept:,}  "
            f"dropped {report.dropped:,}  loss {number(report.loss)}  {report.examples_per_s:.0f} examples/s  "
            f"left {clock(report.seconds_left)}  saved {clock(report.seconds_saved)}"
        )

    def epoch_ended(self, result: EpochResult) -> None:
        """One line with the dev metrics."""
        self._spoke = self._now()
        of = f"/{self._epochs}" if self._epochs else ""
        dev = f", dev: {metrics_text(result.dev)}" if result.dev else ""
        self._line(
            f"epoch {result.epoch + 1}{of} done in {result.seconds:.1f} s: kept {result.kept:,}, "
            f"dropped {result.dropped:,}, loss {number(result.train_loss)}{dev}"
        )
