"""What a run tells whoever watches it. The training code calls a listener; only the command line draws."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from datadiet.records import EpochResult, Forecast


@dataclass(frozen=True)
class StepReport:
    """A moment inside an epoch.

    Attributes:
        epoch, epochs: Current (from 0) and planned.
        step, steps: Optimizer steps done and planned for the whole run.
        kept, dropped: Rows of this epoch's plan.
        loss: Mean training loss since the epoch began; None before the first step.
        examples_per_s: Training throughput of this epoch.
        seconds_left: Estimated from the steps that remain.
        seconds_saved: What the dropped examples would have cost so far, less the time spent on scoring and selecting.
    """

    epoch: int
    epochs: int
    step: int
    steps: int
    kept: int
    dropped: int
    loss: float | None
    examples_per_s: float
    seconds_left: float
    seconds_saved: float


class Listener(Protocol):
    """Receives what happens, in order: notes and phases at any time, then forecast, steps and epochs."""

    def note(self, text: str) -> None:
        """One fact about the data or the run that the user should know."""

    def phase(self, text: str) -> None:
        """What is being done now, e.g. `tokenising`, `scoring`, `testing`."""

    def planned(self, forecast: Forecast) -> None:
        """What the run will do, before it does anything."""

    def stepped(self, report: StepReport) -> None:
        """An optimizer step has been made (at most a few times a second)."""

    def epoch_ended(self, result: EpochResult) -> None:
        """An epoch is over and the dev split has been evaluated."""


class Silent:
    """Listens and says nothing."""

    def note(self, text: str) -> None:
        """Ignored."""

    def phase(self, text: str) -> None:
        """Ignored."""

    def planned(self, forecast: Forecast) -> None:
        """Ignored."""

    def stepped(self, report: StepReport) -> None:
        """Ignored."""

    def epoch_ended(self, result: EpochResult) -> None:
        """Ignored."""
