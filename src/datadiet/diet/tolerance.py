"""How many examples may rest without losing more than a tolerance: the scores decide, the dev metric guards.

Nobody knows before a run which `keep` is too small. During it, two things are known. The scores say how little the
easy examples still move the model: of EL2N, the error of the probabilities, the square is the squared norm of the
gradient by the logits, so the fewest of the hardest examples that carry nearly all of that mass train, and as the
model learns these become fewer. The dev metric says whether that can be afforded: while it rises by many points an
epoch, every step counts, whichever examples it takes; where it falls, everything trains again.

A tolerance at work in a run: the policy and the schedule that it decides, as they stand.

What the dev metric says of a training as such, with or without a diet: whether it had finished (`convergence`), and
where it may end (`stopped_rising`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from datadiet.diet.schedule import AdaptiveSchedule
from datadiet.errors import ArgumentError, Problems
from datadiet.formatting import decimals_of
from datadiet.store.run_folder import LIKELIHOODS
from datadiet.types import Json

# Share of the mass that may rest, per point of tolerance; chosen on dev splits (LOG.md)
SLACK_PER_POINT = 0.02
MOST_SLACK = 0.2
# Fewer than this share of the examples carry the mass: the others are learned, and an epoch more is the last
LEARNED = 0.01
# What can be told from luck on a dev split: rises and falls beyond so many standard errors
STANDARD_ERRORS = 1.0
CORRELATIONS = ("matthews", "pearson", "spearman")
# nats by which the mean losses of rows are taken to spread; wide, for the rows are the same ones after every epoch
ROW_SPREAD = 0.5
# scores that a tolerance goes with
ZERO_WHEN_LEARNED = ("el2n", "cross_entropy", "absolute_error")

# epochs without a rise after which a training ends by itself, and so many where it has not risen at all yet: a model
# that still answers with the most frequent class has not finished
PATIENCE, FIRST_PATIENCE = 3, 4
# of an epoch at the peak of the learning rate: what the epochs hold together that tell whether training had finished
LEAST_SHARE = 0.5

Reason = Literal["scores", "rising", "guard", "learned"]


@dataclass(frozen=True)
class Judgement:
    """The dev metric after an epoch.

    Attributes:
        epoch: From 0.
        value: Larger is better, as a share (0.9 is 90 points).
        error: Its standard error.
    """

    epoch: int
    value: float
    error: float


@dataclass(frozen=True)
class Decision:
    """What a cycle trains on.

    Attributes:
        epoch: The first of the cycle.
        kept: Rows.
        reason: `scores`; `rising`, more than the scores say, because the dev metric rises; `guard`, everything, because
            it fell; `learned`, the end, because nothing is left.
    """

    epoch: int
    kept: int
    reason: Reason


@dataclass(frozen=True)
class Tolerance:
    """The policy and what it has seen; a new record for each judgement and decision.

    Attributes:
        points: Points of the dev metric that may be lost, above 0.
        judgements, decisions: So far, in order.

    Raises:
        ArgumentError: If `points` is not above 0 and at most 100.

    Source: ours. That EL2N stands for the norm of the gradient: Paul et al. 2021 (arXiv 2107.07075), section 2.
    """

    points: float
    judgements: tuple[Judgement, ...] = ()
    decisions: tuple[Decision, ...] = ()

    def __post_init__(self) -> None:
        problems = Problems()
        if not isinstance(self.points, (int, float)) or isinstance(self.points, bool) or not 0 < self.points <= 100:
            problems.add(f"tolerance must be points of the metric, above 0 and at most 100, got {self.points!r}.")
        problems.raise_any()

    @property
    def slack(self) -> float:
        """The share of the mass that may rest; half as much for each time that training on everything had to help."""
        halvings = sum(self._helped(decision) for decision in self.decisions)
        return float(min(MOST_SLACK, SLACK_PER_POINT * self.points) * 0.5**halvings)

    def _helped(self, decision: Decision) -> bool:
        """Whether the metric rose again when the guard had everything train: then it was the diet's fault."""
        before, after = self._value(decision.epoch - 1), self._value(decision.epoch)
        return decision.reason == "guard" and before is not None and after is not None and after > before

    def _value(self, epoch: int) -> float | None:
        values = [judged.value for judged in self.judgements if judged.epoch == epoch]
        return values[0] if values else None

    def judge(self, epoch: int, value: float, rows: int, *, metric: str = "") -> Tolerance:
        """Take in the dev metric after an epoch.

        Args:
            epoch: The one that has just trained.
            value: Larger is better, in [-1, 1].
            rows: Of the dev split.
            metric: Its name: a correlation and a likelihood have other errors than a share.

        Raises:
            ArgumentError: If the metric cannot be one that points are lost of.
        """
        if not -1 <= value <= 1:
            raise ArgumentError(
                f"tolerance is in points of a metric in [-1, 1] of which larger is better, got {value:g} after epoch "
                f"{epoch} (from 0). Judge by accuracy, F1 or a correlation."
            )
        judged = Judgement(epoch, value, standard_error(value, rows, metric))
        return replace(self, judgements=(*(old for old in self.judgements if old.epoch < epoch), judged))

    def decide(
        self, schedule: AdaptiveSchedule, epoch: int, values: NDArray[Any]
    ) -> tuple[Tolerance, AdaptiveSchedule]:
        """Decide a cycle.

        Args:
            schedule: As decided so far.
            epoch: The first of the cycle.
            values: float32 `(n,)`, at least 0; how hard each example is now, 0 = learned.

        Returns:
            The policy and the schedule with the decision in them.

        Raises:
            ArgumentError: If no dev metric has come in, or a value is below 0.
        """
        if not self.judgements:
            raise ArgumentError("tolerance needs the dev metric after every epoch: evaluate, or call diet.judge(...).")
        if values.min() < 0:
            raise ArgumentError("tolerance needs scores that are never below 0, and 0 where nothing is left to learn.")
        count, least = carrying(values, 1 - self.slack), math.ceil((1 - self._most_rest()) * len(values))
        reason: Reason = "scores" if count >= least else "rising"
        count = max(count, least)
        last = None
        if self._fallen():
            count, reason = len(values), "guard"
        elif count <= max(schedule.batch, LEARNED * len(values)) and epoch + 1 < schedule.last:
            last, reason = epoch + 1, "learned"
        decided = schedule.decide(epoch, count, last=last)
        decision = Decision(epoch, decided.count(epoch), reason)
        return replace(self, decisions=(*self.decisions, decision)), decided

    def _most_rest(self) -> float:
        """The share that may rest at most: a step fewer costs as much as the dev metric rises by a step.

        Of a metric that rose by `gain` points in the last epoch, `points / gain`; 0 where only one epoch is known, 1
        where the rise is within the standard error.
        """
        if len(self.judgements) < 2:
            return 0.0
        before = max(judged.value for judged in self.judgements[:-1])
        gain = self.judgements[-1].value - before
        if gain <= STANDARD_ERRORS * self.judgements[-1].error:
            return 1.0
        return min(1.0, self.points / 100 / gain)

    def _fallen(self) -> bool:
        """Whether the dev metric is further below its best than the tolerance and luck explain.

        The best since everything trained last: what training on everything loses, by learning by heart, is not the
        diet's fault.
        """
        now = self.judgements[-1]
        since = max((made.epoch for made in self.decisions if made.reason == "guard"), default=0)
        best = max(judged.value for judged in self.judgements if judged.epoch >= since)
        return best - now.value > self.points / 100 + STANDARD_ERRORS * now.error

    # ---- what it comes to ----

    def summary(self, epochs: int, saved: float) -> Json:
        """What was decided, and what the user should know: for `result.json`.

        Args:
            epochs: Planned.
            saved: Share of the examples that did not train.
        """
        return {
            "points": self.points,
            "decisions": [asdict(decision) for decision in self.decisions],
            "advice": advice(self.judgements, points=self.points, epochs=epochs, saved=saved),
        }

    def state(self) -> Json:
        """Plain values, for a checkpoint."""
        return {name: [asdict(entry) for entry in getattr(self, name)] for name in ("judgements", "decisions")}

    def restored(self, state: Mapping[str, Any]) -> Tolerance:
        """As it was when `state` was taken."""
        judgements = tuple(Judgement(**entry) for entry in state["judgements"])
        return replace(self, judgements=judgements, decisions=tuple(Decision(**entry) for entry in state["decisions"]))


def carrying(values: NDArray[Any], share: float) -> int:
    """The fewest of the largest values whose squares carry a share of the sum of all squares.

    Args:
        values: `(n,)`, at least 0; +inf, never seen, is carried in any case.
        share: In [0, 1].

    Returns:
        How many; 0 where all values are 0.

    Examples:
        >>> carrying(np.array([1.0, 3.0, 0.1, 2.0]), 0.9), carrying(np.array([1.0, 3.0, 0.1, 2.0]), 0.99)
        (2, 3)
    """
    unseen = int(np.isinf(values).sum())
    squares = np.sort(np.asarray(values[np.isfinite(values)], np.float64) ** 2)[::-1]
    total = squares.sum()
    if total == 0:
        return unseen
    return unseen + min(len(squares), int(np.searchsorted(np.cumsum(squares), share * total)) + 1)


def standard_error(value: float, rows: int, metric: str = "") -> float:
    """The standard error of a metric on so many rows.

    Of a share `sqrt(p (1 - p) / n)`, of a correlation `(1 - r^2) / sqrt(n)`, of a likelihood `p s / sqrt(n)` with the
    spread `s` of `ROW_SPREAD` nats: it is the exponential of a mean loss, and no share of the rows.

    An F1 is taken for a share of the rows, which is about right where a row has one decision, and too wide where it has
    many.

    Examples:
        >>> round(standard_error(0.9, 900), 4), round(standard_error(0.9, 900, "pearson"), 4)
        (0.01, 0.0063)
        >>> round(standard_error(0.3, 900, "likelihood"), 4)
        0.005
    """
    if metric in LIKELIHOODS:
        return value * ROW_SPREAD / math.sqrt(rows)
    if metric in CORRELATIONS:
        return (1 - value * value) / math.sqrt(rows)
    return math.sqrt(max(0.0, value * (1 - value)) / rows)


@dataclass(frozen=True)
class Convergence:
    """What the dev metric says of the end of a training.

    Attributes:
        rising: Whether it still rose by more than its standard error.
        metric: Its name.
        points_per_epoch: How much it changed per epoch at the end, in points.
        error: Its standard error, in points: the larger one of those at both ends of the last epochs.
        epochs: The last epochs that this is about.
        epoch_rows: Training rows of such an epoch: of a diet, those that it kept.
        advice: What to know and to do, in two sentences; empty where it does not rise.
    """

    rising: bool
    metric: str
    points_per_epoch: float
    error: float
    epochs: int
    epoch_rows: int
    advice: str = ""


def convergence(
    curve: Sequence[float],
    *,
    metric: str,
    kept: Sequence[int],
    rows: int,
    shares: Sequence[float] | None = None,
    remedy: str = "",
) -> Convergence | None:
    """Whether training had finished: whether the dev metric still rose at its end.

    Judged is the last epoch, or where its learning rate had fallen to nearly 0, which stops every rise, as many of the
    last epochs as make up `LEAST_SHARE` of an epoch at the peak; of a diet, no epochs on everything before it.

    Args:
        curve: The metric after each epoch, larger is better, in [-1, 1].
        metric: Its name; a correlation and a likelihood have other errors than a share.
        kept: Training rows of each epoch.
        rows: Of the dev split.
        shares: The mean learning rate of each epoch as a share of the peak; 1 by default.
        remedy: What to do about it, for the advice.

    Returns:
        None where fewer than two epochs have a metric, or there are no dev rows.

    Examples:
        >>> found = convergence([0.05, 0.1, 0.18], metric="accuracy", kept=[600] * 3, rows=500, remedy="Try more.")
        >>> print(found.advice)
        Training had not finished: accuracy on dev still rose by 8.0 points per epoch (of 600 rows) in the last epoch,
        and its standard error is 1.7. Try more.
        >>> convergence([0.9, 0.95, 0.952], metric="accuracy", kept=[600] * 3, rows=500).rising
        False

    Source: ours.
    """
    if len(curve) < 2 or len(kept) < 2 or rows < 1 or not all(map(math.isfinite, curve)):
        return None
    rates = [1.0] * len(curve) if shares is None or len(shares) != len(curve) else list(shares)
    dieting = [count < max(kept) for count in kept]
    last = 1
    while sum(rates[-last:]) < LEAST_SHARE and last < len(curve) - 1 and dieting[-last - 1] == dieting[-1]:
        last += 1
    rise = curve[-1] - curve[-last - 1]
    error = _error_of_rise(curve[-last - 1], curve[-1], metric, rows)
    falling = max(curve[-last:]) - curve[-1] > error
    rising = rise > error and not falling and curve[-1] < 1  # what is perfect cannot rise
    each, name = round(sum(kept[-last:]) / last), metric.replace("_", " ")
    places = decimals_of(100 * error)
    span = "the last epoch" if last == 1 else f"the last {last} epochs, {100 * rise:.{places}f} in all"
    text = (
        f"Training had not finished: {name} on dev still rose by {100 * rise / last:.{places}f} points per epoch "
        f"(of {each:,} rows) in {span}, and its standard error is {100 * error:.{places}f}. {remedy}"
    )
    return Convergence(rising, metric, 100 * rise / last, 100 * error, last, each, text.strip() if rising else "")


def stopped_rising(curve: Sequence[float], *, metric: str, rows: int) -> bool:
    """Whether a training whose epochs are `auto` ends: the dev metric has stopped rising.

    A rise is more than the standard error above the value at the last rise, so that small steps add up. Training ends
    `PATIENCE` epochs after the last rise, or after `FIRST_PATIENCE` epochs that brought no rise at all; but never after
    an epoch that gained more than the error, if only from a dip.

    Args:
        curve: The metric after each epoch so far, larger is better, in [-1, 1].
        metric: Its name.
        rows: Of the dev split.

    Examples:
        >>> curve = [0.5, 0.8, 0.805, 0.81, 0.808]
        >>> stopped_rising(curve[:4], metric="accuracy", rows=500), stopped_rising(curve, metric="accuracy", rows=500)
        (False, True)
        >>> stopped_rising([0.1, 0.1, 0.1, 0.1], metric="accuracy", rows=500)  # nothing is learned yet
        False
    """
    values = [value if math.isfinite(value) else -1.0 for value in curve]  # a correlation with a constant is not known
    reached = risen = 0
    for epoch, value in enumerate(values):
        if value - values[reached] > _error_of_rise(values[reached], value, metric, rows):
            reached, risen = epoch, risen + 1
    waited = len(values) - 1 - reached
    gained = len(values) > 1 and values[-1] - values[-2] > _error_of_rise(values[-2], values[-1], metric, rows)
    return waited >= (PATIENCE if risen else FIRST_PATIENCE) and not gained


def _error_of_rise(before: float, after: float, metric: str, rows: int) -> float:
    """How far a metric must rise to be told from luck; a share of 1 or 0 has no error of its own."""
    errors = (standard_error(value, rows, metric) for value in (before, after))
    return STANDARD_ERRORS * max(errors)


def advice(judgements: tuple[Judgement, ...], *, points: float, epochs: int, saved: float) -> str:
    """What to do with these data, in a sentence; empty where the diet is the better deal as far as one run can tell.

    Args:
        judgements: The dev metric after each epoch.
        points: The tolerance.
        epochs: Planned.
        saved: Share of the examples that did not train.

    Examples:
        >>> curve = tuple(Judgement(epoch, value, 0.01) for epoch, value in enumerate((0.8, 0.9, 0.902, 0.901)))
        >>> print(advice(curve, points=0.5, epochs=4, saved=0.3))
        The dev metric was within 0.5 points of its best after epoch 2 of 4: fewer epochs may be the better deal, with
        or without a diet. Try --epochs 2, or compare with short.
    """
    if not judgements:
        return ""
    best = max(judged.value for judged in judgements)
    near = next(judged.epoch for judged in judgements if best - judged.value <= points / 100) + 1
    if near < epochs and 1 - near / epochs > saved:
        return (
            f"The dev metric was within {points:g} points of its best after epoch {near} of {epochs}: fewer epochs may "
            f"be the better deal, with or without a diet. Try --epochs {near}, or compare with short."
        )
    if saved < 0.05:
        return (
            f"Nearly every example still taught something: {saved:.0%} of the examples could rest. With more epochs, "
            "or a larger tolerance, a diet may have more to save here."
        )
    return ""


class ToleranceController:
    """Decides one cycle after the other.

    Args:
        policy: That has seen nothing yet.
        schedule: Of which nothing is decided yet.

    Attributes:
        policy, schedule: As they stand.
    """

    def __init__(self, policy: Tolerance, schedule: AdaptiveSchedule) -> None:
        self.policy, self.schedule = policy, schedule

    def judge(self, epoch: int, value: float, rows: int, *, metric: str = "") -> None:
        """Take in the dev metric after an epoch; see `Tolerance.judge`."""
        self.policy = self.policy.judge(epoch, value, rows, metric=metric)

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
