"""`select="auto"`: which rule chooses the rows is decided by a race on the dev split.

Nobody knows before a run whether its hard rows teach (rare requests among repeats) or mislead (wrong labels, ambiguous
texts). A short race tells: from the same weights, the rule at hand and a challenger train for a few steps each, and the
loss of every dev row is compared, pair by pair. The winner's weights go on. `cover`, which is training on everything
for as many steps, is the rule that stands until another is better by more than the error. Where hard rows are likely to
teach, `hardest` stands first, and is given up as soon as the dev metric falls under it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import groupby
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray

from datadiet.diet.schedule import BaseSchedule
from datadiet.diet.tolerance import Judgement, standard_error
from datadiet.errors import ArgumentError
from datadiet.formatting import counted
from datadiet.registry import Bound, race
from datadiet.types import Json

COVER = "cover"
# a forward pass without gradients, in forward and backward passes of training: about a third
FORWARD_SHARE = 1 / 3
LEAST_DEV_ROWS = 50
MOST_DEV_ROWS = 400
LEAST_STEPS = 4
# a budget of fewer steps is not spent: which batches came first would decide, and the steps are worth more as training
WORTH_STEPS = 12
TWO_RACES_STEPS = 16  # one long race says more than two short ones
# A challenger must be better by so many standard errors. They are those over dev rows: which batches came first moves a
# loss by as much again, so that 2 let `hardest` win by luck where it loses (LOG.md).
STANDARD_ERRORS = 4.0
LEAST_GAIN = 0.01  # and by so much of the champion's loss
LOST = 1e3  # the loss of a dev row under an entrant that has diverged: it loses against one that has not
# epochs in a row with a dev metric below its best by so many errors, after which more passes are said not to pay
FALLEN_EPOCHS, FALLEN_ERRORS = 2, 2.0

# beyond so much, dev asks for other classes than the training rows have
LEAST_SHIFT = 0.2
MANY_CLASSES = 20.0  # in effect: from so many on, hard rows are such that the model has not learned yet (LOG.md)
LEAST_TAGGED_KEEP = 0.15  # of fewer rows, hard ones teach tags less than any others do (LOG.md)
MOST_TAGGED_ROWS = 4000  # of more, hard ones teach tags little, and much is lost where people disagree (LOG.md)
_SAMPLES = 20  # that tell what is chance

Losses = NDArray[np.float32]


@dataclass(frozen=True)
class Rule:
    """A rule that may take part.

    Attributes:
        select: A selector, as on the command line.
        guarded: Whether rows that the label-noise guard excludes cannot be chosen.
    """

    select: str
    guarded: bool = False


# in the order in which they challenge: where rows repeat one another, hardest gains far more than visits
RULES: Mapping[str, Rule] = {
    COVER: Rule("cover"),
    "hardest": Rule("hardest", guarded=True),
    "visits": Rule("visits"),
}


@dataclass(frozen=True)
class RaceOptions:
    """What `auto` is given.

    Attributes:
        share: The most that races may cost, as a share of the training on the diet.
        on_cpu: Whether the copy of the weights and of the optimizer's state that a race keeps lies in the memory of
            the host.
    """

    share: float = 0.05
    on_cpu: bool = False


@race(
    formula="hardest first with many or shifted classes or few tagged rows, else cover; a race or a fall decides",
    paper="ours; successive racing of Maron and Moore 1994, with two entrants",
    inputs="values, a dev split",
    cost="a few steps and two passes over some dev rows per race; one copy of weights and optimizer state",
    loses="what the race costs, where the first rule wins; a cycle where hardest is given up",
    traits=("guarded",),
    preset={"select": "auto"},
    evidence="auto",
)
def auto(*, share: Annotated[float, Bound(0, 0.5, True)] = 0.05, on_cpu: bool = False) -> RaceOptions:
    """The options of the race; see `RaceOptions`."""
    return RaceOptions(share, on_cpu)


@dataclass(frozen=True)
class RacePlan:
    """When a run races, and how long: known before it starts.

    Attributes:
        epochs: Before which there is a race.
        steps: Optimizer steps of each entrant.
        dev_rows: That judge.
        note: Why there is no race; empty where there is one.
    """

    epochs: tuple[int, ...] = ()
    steps: int = 0
    dev_rows: int = 0
    note: str = ""

    def steps_of_one(self, batch: int) -> int:
        """What one race costs, in optimizer steps of `batch` examples: the loser's, and two passes over dev rows."""
        return self.steps + math.ceil(2 * self.dev_rows * FORWARD_SHARE / batch)

    def extra_steps(self, batch: int) -> int:
        """What all races cost, in optimizer steps of `batch` examples."""
        return len(self.epochs) * self.steps_of_one(batch)


def class_shift(train: NDArray[np.int64], dev: NDArray[np.int64], *, seed: int = 0) -> float:
    """How otherwise the classes of dev are shared out than those of the training rows, beyond chance.

    The total variation distance of the two distributions, less its mean over samples of as many rows as dev has from
    the training rows' own distribution.

    Args:
        train, dev: int64 `(rows,)` and `(dev rows,)`, the class of each row.
        seed: Of the samples.

    Returns:
        About 0 where dev is a sample of the same kind, at most 1.

    Examples:
        >>> traffic = np.repeat(np.arange(10), [500, 200, 100, 60, 50, 40, 20, 15, 10, 5])
        >>> alike, even = traffic[::10], np.arange(100) % 10
        >>> round(class_shift(traffic, alike), 1), round(class_shift(traffic, even), 1)
        (-0.1, 0.4)
    """
    _, numbers = np.unique(np.concatenate([train, dev]), return_inverse=True)  # numbers of classes may be huge
    of_train, of_dev = (np.bincount(part, minlength=numbers.max() + 1) for part in np.split(numbers, [len(train)]))
    shares = of_train / len(train)
    found = np.abs(of_dev / len(dev) - shares).sum() / 2
    samples = np.random.default_rng([seed, _SAMPLES]).multinomial(len(dev), shares, size=_SAMPLES) / len(dev)
    return float(found - np.abs(samples - shares).sum(1).mean() / 2)


def class_count(classes: NDArray[np.int64]) -> float:
    """How many classes there are in effect: the exponential of the entropy of their shares.

    Examples:
        >>> round(class_count(np.arange(600) % 6), 3), round(class_count(np.repeat([0, 1], [99, 1])), 2)
        (6.0, 1.06)
    """
    shares = np.unique(classes, return_counts=True)[1] / len(classes)
    return round(float(np.exp(-(shares * np.log(shares)).sum())), 9)  # of even classes their number


@dataclass(frozen=True)
class FirstRule:
    """The rule that stands before any race, and why.

    Attributes:
        rule: Its name.
        why: The reason in words, without a full stop; empty where nothing is known of the rows.
        while_watched: Whether it stands only while the dev metric can tell that it fails.
    """

    rule: str = COVER
    why: str = ""
    while_watched: bool = False


def first_rule(
    train: NDArray[np.int64] | None,
    dev: NDArray[np.int64] | None,
    *,
    rows: int = 0,
    tagged_rows: int = 0,
    watched: bool = False,
    static: bool = False,
    keep: float = 1.0,
    seed: int = 0,
) -> FirstRule:
    """The rule that stands before any race: `hardest` where hard rows are likely to teach, else `cover`.

    They are where dev has other classes than the training rows: rows of classes that are rare in training are hard, and
    dev asks for them as often as for the others. And they are where a row has many classes to be told from, or, as long
    as there are few rows, words to be tagged. With few classes hard rows are the ambiguous ones.

    Args:
        train, dev: int64 `(rows,)` and `(dev rows,)`, the class of each row; None where they are unknown.
        rows: Of the training split; of more than 4,000 tags are no reason.
        tagged_rows: Dev rows whose words have tags; 0 where words have none.
        watched: Whether a dev metric of which more is better is measured after each epoch: `hardest` is given up where
            it falls, so without that, many classes or tags are no reason to begin with it. Nor are they with fewer than
            50 dev rows.
        static: Whether the choice is made once for all, so that nothing can be given up.
        keep: The share of the rows that is chosen, in (0, 1]; below 0.15 tags are no reason.
        seed: Of the samples of `class_shift`.

    Examples:
        >>> many = np.arange(3000) % 77
        >>> first_rule(many, many[:500], watched=True).why
        'the rows have 77 classes in effect'
        >>> first_rule(many % 2, many[:500] % 2, watched=True)
        FirstRule(rule='cover', why='the rows have 2 classes in effect, too few', while_watched=False)
    """
    of_train, of_dev = (np.empty(0, np.int64) if one is None else one[one >= 0] for one in (train, dev))
    known = len(of_train) > 0 and len(of_dev) > 0  # -100 is no class
    shift = class_shift(of_train, of_dev, seed=seed) if known else 0.0
    if shift > LEAST_SHIFT:
        return FirstRule("hardest", f"the classes of dev are shared out otherwise than in training, by {shift:.0%}")
    count = class_count(of_train) if known else 0.0
    told = round(count) if count >= MANY_CLASSES else min(round(count), int(MANY_CLASSES) - 1)  # 19.99 is not 20
    classes = f"the rows have {told} {'class' if told == 1 else 'classes'} in effect"
    reasons: list[tuple[str, int]] = []  # with the dev rows that watch
    if tagged_rows and keep >= LEAST_TAGGED_KEEP and rows <= MOST_TAGGED_ROWS:
        reasons.append(("the words of a row have tags", tagged_rows))
    if count >= MANY_CLASSES:
        reasons.append((classes, len(of_dev)))
    for why, dev_rows in reasons:
        if watched and not static and dev_rows >= LEAST_DEV_ROWS:
            return FirstRule("hardest", why, while_watched=True)
    if reasons:
        lack = f"dev has fewer than {LEAST_DEV_ROWS} rows with a known label"
        if not watched:
            lack = "no dev metric of which more is better is measured after each epoch"
        if static:
            lack = "the choice is made once for all"
        return FirstRule(why=f"{reasons[0][0]}, but {lack}, so that hardest could not be taken back")
    if tagged_rows and rows > MOST_TAGGED_ROWS:
        return FirstRule(why=f"of more than {MOST_TAGGED_ROWS:,} rows, hard ones teach tags little more than others")
    if tagged_rows:
        return FirstRule(why=f"less than {LEAST_TAGGED_KEEP:.0%} of the rows are kept, too few for tags")
    return FirstRule(why=f"{classes}, too few" if known else "")


NO_DEV = "there is no dev split to judge a race by"


def plan_races(
    schedule: BaseSchedule, dev_rows: int | None, options: RaceOptions, *, no_judge: str = NO_DEV
) -> RacePlan:
    """The races of a run: before the first cycle, and again at half of the cycles if the budget is enough for both.

    Args:
        schedule: Of the run.
        dev_rows: Of the dev split, those whose labels the model knows; None where there is none.
        options: Of `auto`.
        no_judge: Why `dev_rows` is None, without a full stop.

    Returns:
        No race where there is no cycle after training, too few dev rows, or a budget of too few steps; `note` says
        which.

    Examples:
        >>> from datadiet.diet.schedule import Schedule
        >>> plan_races(Schedule(9000, 5, 0.3, refresh_every=1, batch=32), 900, RaceOptions())
        RacePlan(epochs=(1,), steps=22, dev_rows=400, note='')
    """
    starts = [epoch for epoch in range(1, schedule.epochs) if schedule.is_refresh(epoch)]
    if not starts:
        return RacePlan(note="no cycle begins after training has begun, so there is nothing to race for")
    if dev_rows is None:
        return RacePlan(note=no_judge)
    if dev_rows < LEAST_DEV_ROWS:
        error = 1 / math.sqrt(max(1, dev_rows))
        return RacePlan(
            note=f"the dev split has {dev_rows} rows, fewer than {LEAST_DEV_ROWS}: their mean loss has an error "
            f"of {error:.0%} of the spread of one row's loss, too wide to judge by; give a larger dev split"
        )
    budget = options.share * schedule.total_count
    half = starts[math.ceil(len(starts) / 2)] if len(starts) > 1 else None
    for epochs in ((starts[0], half), (starts[0],)) if half is not None else ((starts[0],),):
        each = budget / len(epochs)
        judges = int(min(dev_rows, MOST_DEV_ROWS, 0.4 * each / (2 * FORWARD_SHARE)))
        steps = int((each - 2 * FORWARD_SHARE * judges) // schedule.batch)
        shortest = min(schedule.steps(epoch) for epoch in epochs) // 2
        if shortest < LEAST_STEPS:
            return RacePlan(
                note=f"a race takes at most half of a cycle's first epoch, here {counted(shortest, 'step')}, and needs "
                f"{LEAST_STEPS}: keep more, or take smaller batches"
            )
        enough = TWO_RACES_STEPS if len(epochs) > 1 else WORTH_STEPS
        if steps >= enough and judges >= LEAST_DEV_ROWS:
            return RacePlan(epochs, min(steps, shortest), judges)
    return RacePlan(
        note=f"{100 * options.share:g}% of this training is less than a race costs, which is {WORTH_STEPS} steps and "
        f"two passes over {max(judges, LEAST_DEV_ROWS)} dev rows: give auto(share=...) more, train on more rows, or "
        "take smaller batches"
    )


@dataclass(frozen=True)
class Duel:
    """One race: two rules from the same weights.

    Attributes:
        epoch: The first of the cycle that was raced for.
        champion, challenger: The rule at hand, and the one that would take its place.
        steps: Optimizer steps of each.
        dev_rows: That judged.
        losses: Mean dev loss after those steps, by rule.
        difference: Mean of the challenger's loss less the champion's over the dev rows; below 0 where it is better.
        error: The standard error of that mean, of paired rows.
        winner: Whose weights went on.
        cost: `seconds` and `examples` of the loser's steps, `passes` (dev rows forwarded), both in `steps`, and `bytes`
            of the copy.
    """

    epoch: int
    champion: str
    challenger: str
    steps: int
    dev_rows: int
    losses: Mapping[str, float]
    difference: float
    error: float
    winner: str
    cost: Mapping[str, float] = field(default_factory=dict)

    @property
    def interval(self) -> tuple[float, float]:
        """The difference less and plus the errors by which a challenger must win."""
        return self.difference - STANDARD_ERRORS * self.error, self.difference + STANDARD_ERRORS * self.error


@dataclass(frozen=True)
class Retreat:
    """A rule that was given up because the dev metric had fallen under it, or did not tell.

    Attributes:
        epoch: The first that trains on `cover` instead.
        rule: That chose until then, or would have.
        best, value: The dev metric at its best, and after the last epoch; None where it is not known.
        error: The standard error of that.
    """

    epoch: int
    rule: str
    best: float | None = None
    value: float | None = None
    error: float | None = None


@dataclass(frozen=True)
class Race:
    """The races of one run; a new record for each that is decided.

    Attributes:
        plan: When and how long.
        duels: Decided so far, in order.
        judgements: The dev metric after each epoch so far.
        first: The rule that stands before the first, and why.
        same: The epochs before which both rules take the same rows, so that there is nothing to decide.
        begins: The first epoch whose rows a rule chooses.
        retreats: From a rule to `cover`, in order.
        watched: Whether a fall of the dev metric can end a rule: `judge` is called after each epoch, and rows are
            chosen again.

    Examples:
        >>> dev = np.random.default_rng(0).exponential(size=200).astype(np.float32)
        >>> race = Race(RacePlan((1,), 5, 200))
        >>> race = race.decided(1, {"cover": dev, "hardest": 0.9 * dev})
        >>> race.rule, race.duels[0].difference < 0
        ('hardest', True)
    """

    plan: RacePlan
    duels: tuple[Duel, ...] = ()
    judgements: tuple[Judgement, ...] = ()
    first: FirstRule = FirstRule()
    same: tuple[int, ...] = ()
    begins: int = 1
    retreats: tuple[Retreat, ...] = ()
    watched: bool = False

    @property
    def fallen(self) -> int | None:
        """The epoch after which more passes did not pay; None while they may.

        The dev metric of two epochs in a row is below its best by more than two standard errors.
        """
        best = -math.inf
        below = 0
        for judged in self.judgements:
            fallen = judged.value < best - FALLEN_ERRORS * judged.error
            below = below + 1 if fallen else 0
            best = max(best, judged.value)
            if below == FALLEN_EPOCHS:
                return judged.epoch - FALLEN_EPOCHS
        return None

    def judge(self, epoch: int, value: float, rows: int, *, metric: str = "") -> Race:
        """Take in the dev metric after an epoch; see `datadiet.diet.tolerance.Tolerance.judge`.

        One outside [-1, 1], such as a percentage, or of no rows has no error that is known, and says nothing.
        """
        if not (rows and -1 <= value <= 1):
            return self
        judged = Judgement(epoch, value, standard_error(value, rows, metric))
        return replace(self, judgements=(*(old for old in self.judgements if old.epoch < epoch), judged))

    @property
    def warning(self) -> str:
        """Why there will be no race, for whoever starts the training; empty where there will be one."""
        if not self.plan.note:
            return ""
        while_good = ", as long as the dev metric does not fall" if self.watched and self.rule != COVER else ""
        why = f" ({self.first.why})" if self.first.why and self.rule == self.first.rule else ""
        return f"select auto: {self.plan.note}. Every cycle takes the rule {self.rule}{why}{while_good}."

    @property
    def rule(self) -> str:
        """The rule that chooses now."""
        return self.chose[-1]

    @property
    def chose(self) -> list[str]:
        """The rules that have chosen, in order."""
        return [rule for rule, _ in groupby(rule for _, rule in sorted(self._decided.items()))]

    @property
    def _decided(self) -> dict[int, str]:
        """The rules that were decided for, by the epoch from which they choose: a race comes after a retreat."""
        back = {one.epoch: COVER for one in self.retreats}
        return {self.begins: self.first.rule} | back | {duel.epoch: duel.winner for duel in self.duels}

    def waits_for(self, epoch: int) -> bool:
        """Whether the dev metric after an epoch is missing."""
        return epoch >= 0 and all(judged.epoch < epoch for judged in self.judgements)

    def reconsidered(self, epoch: int) -> Race:
        """Before a cycle: back to `cover` where the dev metric has fallen while another rule chose.

        It has where it is, after the last epoch, below its best by more than two standard errors: the best from the
        epoch before those that the rule chose for. A rule that stands first because the metric would tell is given up
        also where that is not known, and no race was for the rule.

        Args:
            epoch: The first of the cycle.
        """
        since, rule = max(self._decided.items())
        judged = [one for one in self.judgements if one.epoch < epoch]
        if rule == COVER or not epoch:
            return self
        if not judged or judged[-1].epoch < epoch - 1:
            stays = not self.first.while_watched or self.duels
            return self if stays else replace(self, retreats=(*self.retreats, Retreat(epoch, rule)))
        best, now = max(one.value for one in judged if one.epoch >= since - 1), judged[-1]
        if now.epoch < since or now.value >= best - FALLEN_ERRORS * now.error:
            return self
        return replace(self, retreats=(*self.retreats, Retreat(epoch, rule, best, now.value, now.error)))

    def is_due(self, epoch: int) -> bool:
        """Whether there is a race before an epoch that has not been decided."""
        return epoch in self.plan.epochs and epoch not in (*self.same, *(duel.epoch for duel in self.duels))

    def challenger(self, allowed: Sequence[str]) -> str:
        """Who runs against the rule at hand: `cover` against another, else one that has not lost yet.

        Args:
            allowed: The rules that can choose on these data, in the order in which they are tried.
        """
        if self.rule != COVER:
            return COVER
        lost = {duel.challenger for duel in self.duels if duel.winner == COVER} | {one.rule for one in self.retreats}
        others = [name for name in allowed if name != COVER]
        return next((name for name in others if name not in lost), others[0])

    def decided(
        self, epoch: int, losses: Mapping[str, Losses], costs: Mapping[str, Mapping[str, float]] | None = None
    ) -> Race:
        """The race with one more decision.

        Args:
            epoch: The first of the cycle.
            losses: Of the champion, then of the challenger: float `(dev rows,)`, the loss of each dev row.
            costs: What the race costs if that rule loses, by rule; see `Duel`.

        Raises:
            ArgumentError: If the two are not of the same rows, or neither has finite ones.
        """
        (champion, old), (challenger, new) = losses.items()
        if old.shape != new.shape or old.ndim != 1 or len(old) < 2:
            raise ArgumentError(f"a race is judged by the same dev rows for both: got {old.shape} and {new.shape}.")
        known = np.isfinite(old) | np.isfinite(new)  # a row that both lose judges nothing
        if known.sum() < 2:
            raise ArgumentError("a race is judged by finite losses of the dev rows; the training has diverged.")
        old, new = (np.nan_to_num(one[known], nan=LOST, posinf=LOST, neginf=LOST) for one in (old, new))
        pairs = new.astype(np.float64) - old.astype(np.float64)
        difference, error = float(pairs.mean()), float(pairs.std(ddof=1) / math.sqrt(len(pairs)))
        wins = difference + STANDARD_ERRORS * error < 0 and -difference > LEAST_GAIN * float(old.mean(dtype=np.float64))
        winner, loser = (challenger, champion) if wins else (champion, challenger)
        duel = Duel(
            epoch,
            champion,
            challenger,
            self.plan.steps,
            len(pairs),
            {champion: float(old.mean(dtype=np.float64)), challenger: float(new.mean(dtype=np.float64))},
            difference,
            error,
            winner,
            dict((costs or {}).get(loser, {})),
        )
        return replace(self, duels=(*self.duels, duel))

    def summary(self) -> Json:
        """For `result.json`: the plan, why there is none, and every race with its interval."""
        races = [{**asdict(duel), "interval": list(duel.interval)} for duel in self.duels]
        note = self.plan.note
        if self.same and not races:
            before = " and ".join(str(epoch + 1) for epoch in self.same)
            note = f"before epoch {before} both rules take the same rows"
        told = {"rule": self.rule, "chose": self.chose, "start": self.first.rule, "why": self.first.why, "note": note}
        retreats = [asdict(one) for one in self.retreats]
        return {**told, "fallen_after": self.fallen, "races": races, "retreats": retreats}

    def state(self) -> Json:
        """Plain values, for a checkpoint."""
        lists = {name: [asdict(entry) for entry in getattr(self, name)] for name in ("duels", "judgements", "retreats")}
        return {**lists, "same": list(self.same)}

    def restored(self, state: Mapping[str, Any]) -> Race:
        """As it was when `state` was taken."""
        judgements = tuple(Judgement(**entry) for entry in state["judgements"])
        duels = tuple(Duel(**duel) for duel in state["duels"])
        retreats = tuple(Retreat(**one) for one in state.get("retreats", ()))
        same = tuple(state.get("same", ()))
        return replace(self, duels=duels, judgements=judgements, same=same, retreats=retreats)
