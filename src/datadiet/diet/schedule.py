"""When the diet chooses anew and how many examples each epoch trains on: known before anything runs.

Epochs count from 0. First `warmup_epochs` on everything, then cycles of `refresh_every` epochs on a share `keep` chosen
at the start of each cycle, at the end `anneal_epochs` on everything again. Which rows are kept is the selector's
business; because how many never depends on the scores, the total steps, and with them every learning rate schedule, are
known from the start.

A schedule whose counts follow from the data: bounded by full data, and decided one cycle at a time.

Nobody can plan a learning rate on steps that are not known yet. Here it follows the *position* in the planned maximum:
every epoch takes the learning rate an epoch further, however few rows it trains on, so that it ends where it should.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise

from datadiet.errors import ArgumentError, Problems, quoted

Keep = float | Mapping[int, float]
REFRESH_EVERY = 2  # where nothing else is said


class BaseSchedule(ABC):
    """What follows from how many rows each epoch trains on; a schedule says how many.

    Attributes:
        num_examples, epochs, batch: See `Schedule`.
    """

    num_examples: int
    epochs: int
    batch: int

    @abstractmethod
    def count(self, epoch: int) -> int:
        """Rows that an epoch trains on."""

    @abstractmethod
    def is_full(self, epoch: int) -> bool:
        """Whether an epoch trains on everything."""

    @abstractmethod
    def is_refresh(self, epoch: int) -> bool:
        """Whether rows are chosen anew before an epoch."""

    @property
    def first_cycle(self) -> int:
        """The first epoch whose rows are chosen; `epochs` where there is none."""
        return next((epoch for epoch in range(self.epochs) if not self.is_full(epoch)), self.epochs)

    def in_batches(self, rows: int) -> int:
        """A number of rows rounded down to whole optimizer steps, at least one step."""
        return max(self.batch, rows - rows % self.batch)

    def steps(self, epoch: int) -> int:
        """Optimizer steps of an epoch; the last one of a full epoch may be smaller."""
        return -(-self.count(epoch) // self.batch)

    def trained(self, epoch: int) -> int:
        """Rows of an epoch that train: all that it has, but in one that ends in its middle."""
        return min(self.count(epoch), self.steps(epoch) * self.batch)

    def share_trained(self, epoch: int) -> float:
        """How much of an epoch trains: 1, but for one that ends in its middle."""
        return self.steps(epoch) / -(-self.count(epoch) // self.batch)

    @property
    def total_count(self) -> int:
        """Rows that train in all epochs together."""
        return sum(map(self.trained, range(self.epochs)))

    @property
    def total_steps(self) -> int:
        """Optimizer steps of all epochs together."""
        return sum(map(self.steps, range(self.epochs)))

    @property
    def last(self) -> int:
        """The number of epochs that train."""
        return self.epochs

    def position(self, step: int) -> float:
        """How far training is after so many optimizer steps, in planned steps: where a learning rate stands."""
        return float(step)

    @property
    def planned_steps(self) -> int:
        """Optimizer steps that were planned before the first, on which learning rates are planned."""
        return self.total_steps

    def locate(self, step: int) -> tuple[int, int]:
        """Epoch, and step inside it, that comes after so many optimizer steps; `(epochs, 0)` after the last.

        Examples:
            >>> Schedule(num_examples=100, epochs=3, keep=0.5, batch=10).locate(12)
            (1, 2)
        """
        for epoch in range(self.epochs):
            steps = self.steps(epoch)
            if step < steps:
                return epoch, step
            step -= steps
        return self.epochs, 0


@dataclass(frozen=True)
class Schedule(BaseSchedule):
    """The plan of a run in numbers: pure functions of the epoch.

    Attributes:
        num_examples: Training rows, at least 1.
        epochs: At least 1.
        keep: Share kept, in (0, 1]; or stepping down, from epoch to share, e.g. `{1: 0.7, 4: 0.5}`. A step takes
            effect at the first refresh at or after its epoch.
        warmup_epochs: First epochs, on everything. With 0 the first cycle starts without scores.
        refresh_every: Epochs per cycle, at least 1.
        anneal_epochs: Last epochs, on everything.
        static: Choose once, after the warm-up.
        batch: Examples per optimizer step: batch size x accumulation x processes. Counts below everything are rounded
            down to a multiple, so that no step is made of a few leftovers.
        last_steps: Optimizer steps of the last epoch, where it ends in its middle; see `ending_at`.

    Raises:
        ArgumentError: For everything that is not allowed, that contradicts, or that would have no effect, together.

    Examples:
        >>> schedule = Schedule(num_examples=100, epochs=5, keep=0.5, batch=16)
        >>> [schedule.count(epoch) for epoch in range(5)]
        [100, 48, 48, 48, 48]
        >>> [epoch for epoch in range(5) if schedule.is_refresh(epoch)]
        [1, 3]

    Source: Attendu and Corbeil 2023 (arXiv 2306.03208), Algorithm 1. Theirs scores once more after the last cycle, for
    nothing, and lets counts vary with ties.
    """

    num_examples: int
    epochs: int
    keep: Keep = 0.5
    warmup_epochs: int = 1
    refresh_every: int = REFRESH_EVERY
    anneal_epochs: int = 0
    static: bool = False
    batch: int = 1
    last_steps: int | None = None

    def __post_init__(self) -> None:
        problems = Problems()
        _check_numbers(problems, self)
        _check_keep(problems, self.keep)
        if not problems.found:  # the rest reads meaning into the numbers
            _check_phases(problems, self)
            _check_effect(problems, self)
        if not problems.found:
            _check_steps_down(problems, self)
            _check_batches(problems, self)
        problems.raise_any()

    def is_full(self, epoch: int) -> bool:
        """Whether an epoch trains on everything: warm-up, annealing, or `keep` 1."""
        return self.cycle(epoch) < 0 or self._keep(epoch) == 1

    def is_refresh(self, epoch: int) -> bool:
        """Whether rows are chosen anew before an epoch; never before one that trains on everything."""
        return not self.is_full(epoch) and epoch == self._start(epoch)

    def cycle(self, epoch: int) -> int:
        """The number of an epoch's cycle, from 0; -1 in warm-up and annealing."""
        if not self.warmup_epochs <= epoch < self.epochs - self.anneal_epochs:
            return -1
        return 0 if self.static else (epoch - self.warmup_epochs) // self.refresh_every

    def count(self, epoch: int) -> int:
        """Rows an epoch trains on: all of them, never rounded, or `keep` of them in whole batches, at least one."""
        if self.is_full(epoch):
            return self.num_examples
        return self.in_batches(share_of(self._keep(epoch), self.num_examples))

    def steps(self, epoch: int) -> int:
        """Optimizer steps of an epoch; the last one of a full epoch may be smaller."""
        whole = super().steps(epoch)
        return whole if self.last_steps is None or epoch + 1 < self.epochs else min(whole, self.last_steps)

    def ending_at(self, max_steps: int) -> Schedule:
        """The schedule of a run that is given by its optimizer steps: as many epochs as take them, the last one cut.

        Args:
            max_steps: At least 1, not more than this schedule has.

        Raises:
            ArgumentError: If the warm-up and the annealing take all the steps, or a step of `keep` comes too late.

        Examples:
            >>> schedule = Schedule(num_examples=100, epochs=99, keep=0.5, batch=10).ending_at(17)
            >>> schedule.epochs, [schedule.steps(epoch) for epoch in range(schedule.epochs)]
            (3, [10, 5, 2])
        """
        full = -(-self.num_examples // self.batch)
        warmup, anneal = (0, 0) if _keeps_all(self.keep) else (self.warmup_epochs, self.anneal_epochs)
        left, epoch = max_steps - (warmup + anneal) * full, warmup
        if left <= 0:
            raise ArgumentError(
                f"no step is left for the diet: max_steps is {max_steps}, and an epoch on everything takes {full} "
                f"(warmup_epochs {warmup}, anneal_epochs {anneal}). Train for more steps, shorten them, or set keep to "
                "1."
            )
        while left > self.steps(epoch):
            left -= self.steps(epoch)
            epoch += 1
        return replace(self, epochs=epoch + 1 + anneal).cut(max_steps)

    def cut(self, max_steps: int) -> Schedule:
        """The schedule with a last epoch that ends after so many steps of all."""
        return replace(self, last_steps=max_steps - self.total_steps + self.steps(self.epochs - 1))

    def _start(self, epoch: int) -> int:
        """The first epoch of a dieting epoch's cycle."""
        return self.warmup_epochs + self.cycle(epoch) * self.refresh_every

    def _keep(self, epoch: int) -> float:
        """The share of a dieting epoch, as it stood when its cycle began."""
        if not isinstance(self.keep, Mapping):
            return self.keep
        return self.keep[max(step for step in self.keep if step <= self._start(epoch))]


def share_of(share: float, number: int) -> int:
    """A share of a number, rounded down: as written, not as a binary fraction has it.

    Examples:
        >>> share_of(0.29, 100), int(0.29 * 100)
        (29, 28)
    """
    return math.floor(round(share * number, 6))


def parse_keep(text: str | float) -> float | dict[int, float]:
    """`keep` as the command line takes it: a share, or shares from an epoch on.

    Args:
        text: `0.5`, or `1:0.7,4:0.5` for 0.7 from epoch 1 and 0.5 from epoch 4; a number is returned as it is.

    Raises:
        ArgumentError: If it is neither, or names an epoch twice. Whether shares make sense is for `Schedule` to say.

    Examples:
        >>> parse_keep("0.5"), parse_keep("1:0.7,4:0.5")
        (0.5, {1: 0.7, 4: 0.5})
    """
    if not isinstance(text, str):
        return text
    try:
        if ":" not in text:
            return float(text)
        pairs = [part.split(":") for part in text.split(",")]
        steps = [(int(epoch), float(share)) for epoch, share in pairs]
    except ValueError as error:
        raise ArgumentError(
            f"keep must be a share such as 0.5, or steps such as 1:0.7,4:0.5; got {quoted(text)}."
        ) from error
    if len(dict(steps)) < len(steps):
        raise ArgumentError(f"keep names an epoch twice: {quoted(text)}.")
    return dict(steps)


def _check_numbers(problems: Problems, schedule: Schedule) -> None:
    for name, least in (
        ("num_examples", 1),
        ("epochs", 1),
        ("warmup_epochs", 0),
        ("refresh_every", 1),
        ("anneal_epochs", 0),
        ("batch", 1),
        ("last_steps", 1),
    ):
        if getattr(schedule, name) is not None:
            problems.whole(name, getattr(schedule, name), least=least)


def _check_keep(problems: Problems, keep: Keep) -> None:
    if not isinstance(keep, Mapping):
        problems.share("keep", keep)
        return
    problems.check(bool(keep), "keep must be a share, or a mapping from epoch to share; got an empty mapping.")
    for step, share in keep.items():
        problems.whole("an epoch of keep", step)
        problems.share(f"keep from epoch {step}", share)


def _check_phases(problems: Problems, schedule: Schedule) -> None:
    """Warm-up and annealing fit into the training, with a diet between them."""
    warmup, anneal, epochs = schedule.warmup_epochs, schedule.anneal_epochs, schedule.epochs
    if warmup > epochs:
        problems.add(f"the warm-up is longer than the training: warmup_epochs {warmup}, epochs {epochs}.")
    elif warmup + anneal > epochs:
        problems.add(
            f"warm-up and annealing are longer than the training: {warmup} + {anneal} epochs, epochs {epochs}."
        )
    elif warmup + anneal == epochs and not _keeps_all(schedule.keep):
        problems.add(
            f"no epoch is left for the diet: warmup_epochs {warmup} and anneal_epochs {anneal} take all {epochs} "
            "epochs. Train for more epochs, shorten them, or set keep to 1."
        )


def _keeps_all(keep: Keep) -> bool:
    return all(share == 1 for share in keep.values()) if isinstance(keep, Mapping) else keep == 1


def _check_effect(problems: Problems, schedule: Schedule) -> None:
    """No argument is given that would change nothing."""
    if _keeps_all(schedule.keep):
        problems.check(schedule.anneal_epochs == 0, "anneal_epochs has no effect with keep 1: every epoch is full.")
        problems.check(not schedule.static, "static has no effect with keep 1: there is nothing to choose.")
    if schedule.static:
        default = type(schedule).refresh_every
        problems.check(schedule.refresh_every == default, "refresh_every has no effect with static: it chooses once.")


def _check_steps_down(problems: Problems, schedule: Schedule) -> None:
    """Every step of a `keep` that steps down makes the diet smaller, and at a refresh of its own."""
    if not isinstance(schedule.keep, Mapping):
        return
    first, last = schedule.warmup_epochs, schedule.epochs - schedule.anneal_epochs
    refreshes = [first] if schedule.static else list(range(first, last, schedule.refresh_every))
    steps = sorted(schedule.keep)
    if steps[0] > first:
        problems.add(f"keep must say what holds from epoch {first} on, when the diet begins; its first is {steps[0]}.")
    taken: dict[int, int] = {}
    for step in steps:
        refresh = next((at for at in refreshes if at >= step), None)
        if refresh is None:
            problems.add(f"keep from epoch {step} has no effect: the last refresh is before epoch {refreshes[-1]}.")
        elif refresh in taken:
            problems.add(f"keep from epoch {taken[refresh]} has no effect: {step} too first counts at epoch {refresh}.")
        if refresh is not None:
            taken[refresh] = step
    for before, after in pairwise(steps):
        if schedule.keep[after] >= schedule.keep[before]:
            problems.add(
                f"keep must step down: {schedule.keep[before]:g} from epoch {before}, then "
                f"{schedule.keep[after]:g} from epoch {after}."
            )


def _check_batches(problems: Problems, schedule: Schedule) -> None:
    shares = schedule.keep.values() if isinstance(schedule.keep, Mapping) else [schedule.keep]
    for share in shares:
        kept = share_of(share, schedule.num_examples)
        if share < 1 and kept < schedule.batch:
            problems.add(
                f"keep {share:g} leaves no full batch: {kept} of {schedule.num_examples} examples, and a step takes "
                f"{schedule.batch}. Keep more, or use a smaller batch or less accumulation."
            )


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

    Examples:
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

    def decide(self, epoch: int, requested: int, *, last: int | None = None) -> AdaptiveSchedule:
        """The schedule with the cycle that begins at an epoch decided.

        Args:
            epoch: The first of the cycle that is decided next.
            wanted: Rows, `least` where they are fewer; rounded to whole steps, and to everything where less than a step
                would be saved.
            last: The number of epochs after which training ends, where that is now decided.
        """
        if self.cycle(epoch) != len(self.counts):
            raise ValueError(f"epoch {epoch} does not begin the cycle that is decided next")
        everything = max(requested, self.least) > self.num_examples - self.batch
        rows = self.in_batches(max(requested, self.least))
        rows += self.batch if rows < self.least else 0
        counts = (*self.counts, self.num_examples if everything else rows)
        return replace(self, counts=counts, ending=self.ending if last is None else (epoch, last))

    def position(self, step: int) -> float:
        """How far training is after so many optimizer steps, in steps of the planned maximum.

        Every epoch counts as one epoch of the maximum. From where an earlier end was decided, the epochs that are left
        share what is left, so that the last step is the end of the learning rate's schedule.

        Examples:
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
