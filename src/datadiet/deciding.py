"""A tolerance at work in a run: the policy and the schedule that it decides, as they stand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from numpy.typing import NDArray

from datadiet.adaptive import AdaptiveSchedule
from datadiet.records import Json
from datadiet.tolerance import Tolerance


class Decider:
    """Decides one cycle after the other.

    Args:
        policy: That has seen nothing yet.
        schedule: Of which nothing is decided yet.

    Attributes:
        policy, schedule: As they stand.
    """

    def __init__(self, policy: Tolerance, schedule: AdaptiveSchedule) -> None:
        self.policy, self.schedule = policy, schedule

    def judge(self, epoch: int, value: float, rows: int, *, correlation: bool = False) -> None:
        """Take in the dev metric after an epoch; see `Tolerance.judge`."""
        self.policy = self.policy.judge(epoch, value, rows, correlation=correlation)

    def waits_for(self, epoch: int) -> bool:
        """Whether the dev metric after an epoch is still missing."""
        return epoch >= 0 and all(judged.epoch < epoch for judged in self.policy.judgements)

    def decide(self, epoch: int, values: NDArray[Any]) -> None:
        """Decide the cycle that begins at an epoch; see `Tolerance.decide`."""
        self.policy, self.schedule = self.policy.decide(self.schedule, epoch, values)

    def summary(self) -> Json:
        """What was decided, and what it advises."""
        everything = self.schedule.epochs * self.schedule.num_examples
        return self.policy.summary(self.schedule.epochs, 1 - self.schedule.total_count / everything)

    def state(self) -> Json:
        """Plain values, for a checkpoint."""
        return {**self.policy.state(), "counts": self.schedule.counts, "ending": self.schedule.ending}

    def load(self, state: Mapping[str, Any]) -> None:
        """Take up a state."""
        ending = None if state["ending"] is None else tuple(state["ending"])
        self.schedule = replace(self.schedule, counts=tuple(state["counts"]), ending=ending)
        self.policy = self.policy.restored(state)
