"""A schedule whose counts follow from the data: bounded by full data, and decided one cycle at a time.

Nobody can plan a learning rate on steps that are not known yet. Here it follows the *position* in the planned maximum:
every epoch takes the learning rate an epoch further, however few rows it trains on, so that it ends where it should.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from datadiet.checks import Problems
from datadiet.schedules import BaseSchedule


@dataclass(frozen=True)
class AdaptiveSchedule(BaseSchedule):
    """Epochs on everything, then cycles of as many rows as is decided when each begins.

    Attributes:
        num_examples: Training rows, at least 1.
        epochs: Planned, at least 1; never more.
        warmup_epochs: First epochs, on everything; at least 1, since there must be something to decide by.
        refresh_every: Epochs per cycle, at least 1.
        batch: Examples per optimizer step; counts below everything are rounded down to a multiple.
        counts: Rows of the cycles decided so far; a cycle that is not decided counts as everything.
        ending: Where it was decided to end earlier than planned: the epoch at which that was decided, and the number
            of epochs after which training ends.
        least: Rows that every cycle trains on at least, for floors.

    Raises:
        ArgumentError: For everything that is not allowed, together.

    Example:
        >>> schedule = AdaptiveSchedule(num_examples=100, epochs=5, refresh_every=2, batch=10)
        >>> schedule.total_steps, schedule.decide(1, 47).total_steps  # at most; and when the first cycle is known
        (50, 38)
    """

    num_examples: int
    epochs: int
    warmup_epochs: int = 1
    refresh_every: int = 1
    batch: int = 1
    counts: tuple[int, ...] = ()
    ending: tuple[int, int] | None = None
    least: int = 0

    def __post_init__(self) -> None:
        problems = Problems()
        for name in ("num_examples", "epochs", "refresh_every", "batch"):
            problems.whole(name, getattr(self, name), least=1)
        problems.check(
            self.warmup_epochs >= 1,
            f"tolerance needs at least one epoch on everything to decide by: warmup_epochs {self.warmup_epochs}.",
        )
        problems.check(
            self.warmup_epochs < self.epochs,
            f"no epoch is left for the diet: warmup_epochs {self.warmup_epochs}, epochs {self.epochs}.",
        )
        problems.check(
            self.num_examples >= self.batch,
            f"there is no full batch: {self.num_examples} examples, and a step takes {self.batch}.",
        )
        problems.raise_any()

    @property
    def last(self) -> int:
        """The number of epochs that train: all, or as many as were decided."""
        return self.epochs if self.ending is None else self.ending[1]

    @property
    def planned_steps(self) -> int:
        """The most there can be, whatever has been decided since."""
        return self.epochs * -(-self.num_examples // self.batch)

    def cycle(self, epoch: int) -> int:
        """The number of an epoch's cycle, from 0; -1 in the warm-up."""
        return -1 if epoch < self.warmup_epochs else (epoch - self.warmup_epochs) // self.refresh_every

    def is_refresh(self, epoch: int) -> bool:
        """Whether the count of the epochs that follow is decided before an epoch."""
        cycle = self.cycle(epoch)
        return cycle >= 0 and epoch == self.warmup_epochs + cycle * self.refresh_every

    def is_full(self, epoch: int) -> bool:
        """Whether an epoch trains on everything, or may."""
        return self.count(epoch) == self.num_examples

    def count(self, epoch: int) -> int:
        """Rows of an epoch: as decided, everything where that is still open, none after the end."""
        if epoch >= self.last:
            return 0
        cycle = self.cycle(epoch)
        return self.counts[cycle] if 0 <= cycle < len(self.counts) else self.num_examples

    def decide(self, epoch: int, wanted: int, *, last: int | None = None) -> AdaptiveSchedule:
        """The schedule with the cycle that begins at an epoch decided.

        Args:
            epoch: The first of the cycle that is decided next.
            wanted: Rows, `least` where they are fewer; rounded to whole steps, and to everything where less than a step
                would be saved.
            last: The number of epochs after which training ends, where that is now decided.
        """
        if self.cycle(epoch) != len(self.counts):
            raise ValueError(f"epoch {epoch} does not begin the cycle that is decided next")
        everything = max(wanted, self.least) > self.num_examples - self.batch
        rows = self.in_batches(max(wanted, self.least))
        rows += self.batch if rows < self.least else 0
        counts = (*self.counts, self.num_examples if everything else rows)
        return replace(self, counts=counts, ending=self.ending if last is None else (epoch, last))

    def position(self, step: int) -> float:
        """How far training is after so many optimizer steps, in steps of the planned maximum.

        Every epoch counts as one epoch of the maximum. From where an earlier end was decided, the epochs that are left
        share what is left, so that the last step is the end of the learning rate's schedule.

        Example:
            >>> schedule = AdaptiveSchedule(num_examples=100, epochs=3, refresh_every=1, batch=10).decide(1, 50)
            >>> schedule.position(10), schedule.position(12), schedule.position(15)
            (10.0, 14.0, 20.0)
            >>> schedule.decide(2, 20).position(16)
            25.0
        """
        epoch, done = self.locate(step)
        if epoch >= self.last:
            return float(self.planned_steps)
        within = epoch + done / self.steps(epoch)
        if self.ending is not None and epoch >= self.ending[0]:
            since, last = self.ending
            within = since + (within - since) * (self.epochs - since) / (last - since)
        return within * self.planned_steps / self.epochs
