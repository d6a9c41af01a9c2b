"""Options of a selector or a score: from text, with class names, and into a method that chooses within each batch.

The arguments of a diet, checked together.

What a diet ranks by: a score of each forward pass, a quantity over all of them, or values given beforehand.

What a diet is told, checked together, and what follows from that alone: its schedule, forecast and description.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from torch import Tensor

from datadiet.diet.choose import Chooser, Known, Selector
from datadiet.diet.forecast import forecast
from datadiet.diet.schedule import REFRESH_EVERY, AdaptiveSchedule, BaseSchedule, Schedule, parse_keep
from datadiet.diet.tolerance import ZERO_WHEN_LEARNED, Tolerance
from datadiet.errors import ArgumentError, Problems, percent_hint, unknown
from datadiet.scores import SCORES
from datadiet.scores.dynamics import DYNAMIC_SCORES, DynamicScore
from datadiet.scores.embeddings import EMBEDDING_SCORES
from datadiet.scores.history import HISTORIES, History
from datadiet.scores.logits import EL2N_MAX, el2n
from datadiet.scores.reduce import COMBINATIONS, FREE, OF_LABEL, example_values, free_signals
from datadiet.scores.text import TEXT_SCORES
from datadiet.selectors import IN_BATCH, NEEDS, OPTIONS, SELECTORS
from datadiet.selectors.in_batch import BatchSelector
from datadiet.selectors.quotas import floor_problems
from datadiet.suitable import score_option_problems
from datadiet.types import Forecast, Json, Signals


def parse_options(text: str, what: str = "select_options") -> dict[str, Any]:
    """Options as one text: `name=value` with commas between, `name.key=value` for a mapping; or in braces as in YAML.

    Args:
        text: The options.
        what: Whose they are, for errors.

    Raises:
        ArgumentError: For every part that is none.

    Example:
        >>> parse_options("beta=0.2,strata=20,directions.rude=easy,directions.polite=hard")
        {'beta': 0.2, 'strata': 20, 'directions': {'rude': 'easy', 'polite': 'hard'}}
        >>> parse_options("{clusters: 500, metric: cosine}")
        {'clusters': 500, 'metric': 'cosine'}
    """
    if text.strip().startswith("{"):
        return _from_yaml(text, what)
    problems = Problems()
    found: dict[str, Any] = {}
    for part in text.split(","):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not (name and equals and value):
            problems.add(f"{what} needs name=value with commas between, got {part.strip()!r}.")
            continue
        outer, dot, key = name.partition(".")
        if not dot:
            found[outer] = _value(value)
        elif isinstance(held := found.setdefault(outer, {}), dict):
            held[key] = _value(value)
        else:
            problems.add(f"{what} gives {outer!r} a value and entries: give one of the two.")
    problems.raise_any()
    return found


def _from_yaml(text: str, what: str) -> dict[str, Any]:
    try:
        found = yaml.safe_load(text)
    except yaml.YAMLError:
        found = None
    if not isinstance(found, dict) or None in found.values():  # `{clusters=500}` is a name without a value
        raise ArgumentError(f"{what} in braces must be {{name: value, ...}}, got {text.strip()!r}.")
    return {str(name): value for name, value in found.items()}


def _value(text: str) -> Any:
    for kind in (int, float):
        with suppress(ValueError):
            return kind(text)
    return {"true": True, "false": False}.get(text, text)


def by_number(options: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """The options with class numbers in place of class names, where an option has an entry per class.

    Raises:
        ArgumentError: For a name that is no class.

    Example:
        >>> by_number({"directions": {"rude": "easy"}, "default": "hard"}, ["polite", "rude"])
        {'directions': {1: 'easy'}, 'default': 'hard'}
    """
    numbers = {name: number for number, name in enumerate(names)}
    problems = Problems()
    found = dict(options)
    for option, held in options.items():
        if isinstance(held, Mapping):
            for name in held:
                problems.choice(f"class in {option}", str(name), numbers)
            found[option] = {numbers[str(name)]: value for name, value in held.items() if str(name) in numbers}
    problems.raise_any()
    return found


def batch_method(select: str, keep: float | Mapping[int, float] | None, options: Mapping[str, Any]) -> BatchSelector:
    """A method that chooses within each batch.

    Args:
        select: A name of `datadiet.selectors.IN_BATCH`.
        keep: Share of each batch that gets a backward pass; of `selective_backprop`, which draws, the mean share.
        options: Of the method, by name; they win over `keep`.

    Raises:
        ArgumentError: For options that it does not have, or that are out of range.
    """
    kind = IN_BATCH[select]
    known = {name: held.default for name, held in inspect.signature(kind).parameters.items()}
    problems = Problems()
    for name in options:
        if name not in known:
            problems.add(unknown(f"option of {select}", name, known))
    problems.raise_any()
    share = float(keep) if isinstance(keep, (int, float)) else 1.0
    usual = {"keep": share, "beta": max(0.0, 1 / share - 1) if share > 0 else 0.0}
    given = {name: usual[name] for name in usual if name in known}
    made: BatchSelector = kind(**{**given, **options})
    return made


TOLERANCE_SELECTORS = ("hardest", "epsilon")
OFFSET_SELECTORS = ("hardest", "window")  # to another selector an offset would do nothing, and is refused


def checked_keep(keep: float | str | Mapping[int, float], problems: Problems) -> float | dict[int, float]:
    """A share, or a step-down of shares by epoch."""
    try:
        found = parse_keep(keep) if isinstance(keep, (str, int, float)) else dict(keep)
    except ArgumentError as error:
        problems.include(error)
        return 1.0
    for share in [found] if isinstance(found, (int, float)) else found.values():
        problems.share("keep", share)
    return found


def check_tolerance(points: float, score: str, named: bool, select: str, problems: Problems) -> None:
    """Note what a tolerance cannot go with: it takes the hardest, by scores that are 0 where all is learned."""
    problems.check(
        not named or score in ZERO_WHEN_LEARNED,
        f"tolerance has no meaning for the score {score!r}; it goes with {', '.join(ZERO_WHEN_LEARNED)}.",
    )
    problems.check(
        select not in SELECTORS or select in TOLERANCE_SELECTORS,
        f"tolerance has no meaning for {select!r}; it goes with {' and '.join(TOLERANCE_SELECTORS)}.",
    )
    try:
        Tolerance(points)
    except ArgumentError as error:
        problems.include(error)


def check_alone(given: Mapping[str, object], problems: Problems) -> None:
    """Note options that would do nothing beside a tolerance.

    Args:
        given: Their values by name.
    """
    usual = {"keep": 0.5}
    for name, value in given.items():
        problems.check(value == usual.get(name, 0), f"{name} has no effect with a tolerance: give one of the two.")


def check_selector(
    select: str | None,
    keep: float | Mapping[int, float] | None,
    options: Mapping[str, Any],
    offset: float | str,
    epsilon: float | None,
    floor: int,
    problems: Problems,
) -> None:
    """Note everything that is wrong with a selector and its options.

    Args:
        select: Its name; None for a function of the user's, which says itself what it takes.
        keep, options, offset, epsilon, floor: As a diet takes them.
    """
    if select is not None:
        problems.choice("selector", select, (*SELECTORS, *IN_BATCH))
    problems.whole("floor", floor)
    if isinstance(offset, str):
        problems.check(offset == "auto", f"offset must be a share or 'auto', got {offset!r}.")
    _check_shares(select, 0.0 if isinstance(offset, str) else offset, epsilon, problems)
    check_select_options(select, options, floor, problems)
    if select in IN_BATCH:
        check_in_batch(str(select), keep, options, problems)
        problems.check(not floor, f"floor has no effect on {select!r}, which chooses within each batch.")


def _check_shares(select: str | None, offset: float, epsilon: float | None, problems: Problems) -> None:
    """Note shares out of range, and shares that would do nothing with this selector."""
    problems.check(0 <= offset < 1, f"offset must be in [0, 1), got {offset}.{percent_hint(offset)}")
    if select is not None and offset:
        problems.check(
            select in OFFSET_SELECTORS, f"offset has no effect on {select!r}; it belongs to hardest and window."
        )
    problems.check(select != "window" or offset > 0, "window needs an offset above 0: the share to set aside.")
    if epsilon is not None:
        problems.check(0 <= epsilon <= 1, f"epsilon must be in [0, 1], got {epsilon}.{percent_hint(epsilon)}")
        own = select or "a selector of your own"
        problems.check(select == "epsilon", f"epsilon has no effect on {own!r}; it belongs to 'epsilon'.")


def check_select_options(select: str | None, given: Mapping[str, object], floor: int, problems: Problems) -> None:
    """Note options that the selector does not have, and a floor under classes that have quotas.

    Args:
        select: Its name; None for a function of the user's, which says itself what it takes.
        given: Its options by name.
        floor: Rows per class.
    """
    if select is None or select not in OPTIONS:  # a method within batches checks its own
        return
    known = OPTIONS[select]
    inner = given.get("select", known.get("select"))
    allowed = {**known, **(OPTIONS.get(str(inner), {}) if isinstance(inner, str) else {})}
    if floor and "groups" in NEEDS.get(select, ()):
        problems.add(f"floor has no effect on {select!r}, which gives every class its places itself.")
    for name in given:
        if name not in allowed:
            problems.add(unknown(f"option of {select}", name, allowed))
    if isinstance(given.get("select"), str):
        problems.choice("select", given["select"], SELECTORS)


def checked_values(values: NDArray[np.float32], num_examples: int) -> NDArray[np.float32]:
    """One number per training row.

    Raises:
        ArgumentError: If there are more or fewer, or some are not finite: names the first.
    """
    found = np.asarray(values, np.float32)
    if found.shape != (num_examples,):
        raise ArgumentError(f"values must be one per training row, {num_examples}: got the shape {found.shape}.")
    bad = np.flatnonzero(~np.isfinite(found))
    if bad.size:
        raise ArgumentError(f"values must be finite: {bad.size} are not, the first in row {int(bad[0])}.")
    return found


def check_in_batch(
    select: str, keep: float | Mapping[int, float] | None, options: Mapping[str, Any], problems: Problems
) -> None:
    """Note what cannot go with a method that chooses within each batch; see `batch_method`."""
    problems.check(
        not isinstance(keep, Mapping), f"keep must be one share for {select!r}: it has no cycles to step down with."
    )
    try:
        batch_method(select, keep, options)
    except ArgumentError as error:
        problems.include(error)


Kind = Literal["forward", "dynamics", "given"]
ScoreFunction = Callable[..., Tensor]
Values = NDArray[np.float32]

# scores of a whole training set: their values are there before the training, or come from a file
GIVEN_SCORES: tuple[str, ...] = (
    *EMBEDDING_SCORES,
    *TEXT_SCORES,
    *("grand", "vog", "self_influence", "tracin"),  # of `datadiet.scoring`
    *("negative_pvi", "reducible_loss", "teacher_el2n", "teacher_divergence"),  # of `datadiet.scores.two_models`
)


@dataclass(frozen=True)
class Measure:
    """How the values of a diet come about.

    Attributes:
        name: Of the score.
        kind: `forward`: a score of one forward pass, by its last value or a history of such; `dynamics`: a quantity
            over every forward pass that recorded an example; `given`: values that training does not change.
        score: Of kind `forward`: the score of a decision.
        dynamic: Of kind `dynamics`: what it reads of the recorded columns.
        combine: How the positions and heads of joint tasks become one value.
        history_name: Of the history; `custom` for one of the user's.
        history: What earlier values count for.
    """

    name: str
    kind: Kind
    combine: str
    history_name: str
    history: History
    score: ScoreFunction | None = None
    dynamic: DynamicScore | None = None

    @property
    def columns(self) -> tuple[str, ...]:
        """What is recorded of every forward pass: the free signals, after the score where it is none of them."""
        own = (self.name,) if self.kind == "forward" else ()
        return tuple(dict.fromkeys((*own, *FREE)))

    def recorded(self, signals: Signals, *, of_label: bool = False) -> Tensor:
        """Float32 `(columns, batch)`, in the order of `columns`, with those of `OF_LABEL` after them if asked."""
        values = free_signals(signals, of_label=of_label)
        if self.score is not None and not self._is_free:
            # `margin` may be both: then it is the score
            values[self.name] = example_values(self.score, signals, combine=self.combine)
        return torch.stack([values[name] for name in (*self.columns, *(OF_LABEL if of_label else ()))])

    def read(self, columns: Mapping[str, Values]) -> Values | None:
        """What feeds the history, float32 `(m,)`, of recorded columns; None where training changes nothing."""
        if self.kind == "given":
            return None
        return columns[self.name] if self.dynamic is None else self.dynamic.read(columns)

    def scale(self, *, regression: bool) -> float | None:
        """The largest value the score can have, where it has one: EL2N of one position, or a mean of such."""
        bounded = self.score is el2n and self.combine == "mean" and not regression
        return EL2N_MAX if bounded else None

    @property
    def _is_free(self) -> bool:
        """Whether the score is what the free column of its name holds."""
        return self.score is el2n and self.combine == "norm"


def checked_measure(
    score: str | ScoreFunction,
    combine: str,
    history: str | History,
    problems: Problems,
    options: Mapping[str, Any] = MappingProxyType({}),
) -> Measure:
    """The measure of a diet's options; what does not fit is noted.

    Args:
        score: A name, or a function of the form of `datadiet.scores.logits.Score`.
        combine: A name of `datadiet.scores.reduce.COMBINATIONS`.
        history: A name, or one of `datadiet.scores.history`.
        problems: Takes what is wrong.
        options: Of the score, by name.
    """
    history_name, chosen = _history(history, problems)
    if not isinstance(score, str):
        problems.check(not options, "score_options are for scores by name; a function has its own.")
        name = getattr(score, "__name__", type(score).__name__)
        needs = set(getattr(score, "needs", ())) - {"logits", "labels"}
        problems.check(
            not needs, f"the score {name} needs {', '.join(sorted(needs))}, which training does not give it."
        )
        return Measure(name, "forward", combine, history_name, chosen, score)
    if score in DYNAMIC_SCORES or score in GIVEN_SCORES:
        problems.check(
            history == "last", f"history has no effect with the score {score!r}, which has all rounds in it: leave it."
        )
    wrong = score_option_problems(score, options) if score in (*SCORES, *DYNAMIC_SCORES, *GIVEN_SCORES) else []
    problems.found += wrong
    if score in DYNAMIC_SCORES:
        dynamic = DYNAMIC_SCORES[score]
        started = dynamic.started(**({} if wrong else options))
        return Measure(score, "dynamics", combine, "last", started, dynamic=dynamic)
    if score in GIVEN_SCORES:
        return Measure(score, "given", combine, "last", chosen)
    problems.choice("score", score, (*SCORES, *DYNAMIC_SCORES, *GIVEN_SCORES))
    return Measure(score, "forward", combine, history_name, chosen, SCORES.get(score, el2n))


def _history(history: str | History, problems: Problems) -> tuple[str, History]:
    """A history and its name."""
    if not isinstance(history, str):
        return "custom", history
    problems.choice("history", history, HISTORIES)
    return history, HISTORIES.get(history, HISTORIES["last"])()


Rescore = Literal["all", "dropped", "none"]
RESCORE: tuple[Rescore, ...] = ("all", "dropped", "none")

_PLAIN: tuple[str, ...] = ("keep", "combine", "warmup_epochs", "refresh_every", "anneal_epochs", "static", "rescore")
_PLAIN += ("offset", "epsilon", "floor", "select_options", "score_options", "seed")


class DietOptions:
    """The options of a diet, the same on every data set.

    Args:
        score, ...: Those of `datadiet.Diet`, which says what each means.

    Attributes:
        score, ...: As given, with the defaults that depend on other options filled in.
        measure: What is ranked by: the score, the history and how heads are combined.
        select_name: Of the selector, also where it is a function.

    Raises:
        ArgumentError: All problems with the arguments at once.
    """

    def __init__(
        self,
        score: str | ScoreFunction = "el2n",
        select: str | Selector = "hardest",
        keep: float | str | Mapping[int, float] = 0.5,
        *,
        tolerance: float | None = None,
        combine: str | None = None,
        history: str | History = "last",
        warmup_epochs: int = 1,
        refresh_every: int | None = None,
        anneal_epochs: int = 0,
        static: bool = False,
        rescore: Rescore = "none",
        offset: float | Literal["auto"] | None = None,
        epsilon: float | None = None,
        floor: int = 0,
        select_options: Mapping[str, Any] | None = None,
        score_options: Mapping[str, Any] | None = None,
        scores_from: str | Path | None = None,
        signals: Callable[[Any, Mapping[str, Any]], Signals] | None = None,
        seed: int = 0,
    ) -> None:
        problems = Problems()
        self.keep = None if tolerance is not None else checked_keep(keep, problems)
        self.combine = combine or ("mean" if select == "uncertain" else "norm")
        self.select = select
        self.select_name = select if isinstance(select, str) else getattr(select, "__name__", "selector")
        problems.choice("combine", self.combine, COMBINATIONS)
        self.score_options = dict(score_options or {})
        self.measure = checked_measure(score, self.combine, history, problems, self.score_options)
        problems.choice("rescore", rescore, RESCORE)
        self.select_options = dict(select_options or {})
        named = select if isinstance(select, str) else None
        problems.whole("seed", seed)
        # of nothing that trains on everything, and not of values that say nothing of what a model has learned
        ranks = select == "hardest" and self.keep != 1.0 and self.measure.kind != "given"
        self._guard_where_possible = offset is None and tolerance is None and ranks
        self.offset: float | str = ("auto" if self._guard_where_possible else 0.0) if offset is None else offset
        check_selector(named, self.keep, self.select_options, self.offset, epsilon, floor, problems)
        problems.check(
            scores_from is None or warmup_epochs == 0 or self.measure.kind == "given" or select in IN_BATCH,
            "scores_from has no effect after a warm-up, which sees every example anew; set warmup_epochs to 0.",
        )
        self.tolerance = tolerance
        if tolerance is not None:
            check_tolerance(tolerance, self.measure.name, isinstance(score, str), self.select_name, problems)
            others = {"anneal_epochs": anneal_epochs, "static": static, "offset": self.offset}
            check_alone({"keep": keep, **others}, problems)
        problems.raise_any()
        self.rescore, self.floor, self.seed = rescore, floor, seed
        self.epsilon = 0.1 if epsilon is None and select == "epsilon" else epsilon
        usual = REFRESH_EVERY if tolerance is None else AdaptiveSchedule.refresh_every
        self.refresh_every = usual if refresh_every is None else refresh_every
        self.warmup_epochs, self.anneal_epochs = warmup_epochs, anneal_epochs
        self.static, self.scores_from, self.signals = static, scores_from, signals

    @property
    def _guarded(self) -> bool:
        """Whether wrong labels are looked for."""
        return self.offset == "auto"

    def schedule_for(self, num_examples: int, *, epochs: int, batch: int = 1) -> Schedule | AdaptiveSchedule:
        """The schedule of this diet on a data set; see `datadiet.Schedule`. With a tolerance nothing is decided yet."""
        warmup, every = self.warmup_epochs, self.refresh_every
        if self.in_batch:  # every epoch goes through everything
            return Schedule(num_examples, epochs, 1.0, min(warmup, epochs), every, batch=batch)
        if self.keep is None:
            return AdaptiveSchedule(num_examples, epochs, warmup, every, batch)
        return Schedule(num_examples, epochs, self.keep, warmup, every, self.anneal_epochs, self.static, batch)

    def forecast(
        self, num_examples: int, *, epochs: int, batch: int = 1, lengths: NDArray[np.int64] | None = None
    ) -> Forecast:
        """Steps, examples, tokens and the ceiling of the saving, before anything runs; see `datadiet.forecast`."""
        return forecast(
            self.schedule_for(num_examples, epochs=epochs, batch=batch), rescore=self.rescore, lengths=lengths
        )

    def check_floor(self, sizes: Mapping[str, int], schedule: BaseSchedule) -> None:
        """Refuse a floor that cannot hold.

        Args:
            sizes: Rows of each class, by name; empty where there are no classes.
            schedule: Of the run.

        Raises:
            ArgumentError: If a class has fewer rows than the floor, or all floors together more than are kept.
        """
        if not (self.floor and sizes and self.plans):
            return
        kept = [schedule.count(epoch) for epoch in range(schedule.epochs) if not schedule.is_full(epoch)]
        problems = Problems()
        problems.found += floor_problems(self.floor, sizes, min(kept, default=schedule.num_examples))
        problems.raise_any()

    def rehearse(self, num_examples: int, schedule: BaseSchedule, groups: NDArray[np.int64] | None) -> None:
        """Choose once by made-up values: options that cannot be are refused before anything has been trained.

        Selectors that cover a space are left out, since they take long and need to know where each example lies.

        Args:
            num_examples: Training rows.
            schedule: Of the run.
            groups: int64 `(num_examples,)`, the class of each row; None where there are no classes.

        Raises:
            ArgumentError: What the selector says of its options.
        """
        chooser = self._new_chooser()
        if not self.plans or "features" in chooser.needs or not isinstance(self.select, str):
            return
        epochs = [epoch for epoch in range(schedule.epochs) if not schedule.is_full(epoch)]
        count = schedule.count(epochs[0]) if epochs else schedule.in_batches(num_examples // 2)
        recalls = None if groups is None else dict.fromkeys(np.unique(groups).tolist(), 0.5)
        values = np.linspace(0, 1, num_examples, dtype=np.float32)
        chooser.choose(values, count, epoch=0, known=Known(groups, recalls=recalls))

    def describe(self) -> Json:
        """Every option as plain values, for `result.json` and model cards."""
        scores_from = None if self.scores_from is None else Path(self.scores_from).name
        chosen = {"score": self.measure.name, "select": self.select_name, "history": self.measure.history_name}
        return {
            **chosen,
            "tolerance": self.tolerance,
            **{name: getattr(self, name) for name in _PLAIN},
            "scores_from": scores_from,
        }

    @property
    def in_batch(self) -> bool:
        """Whether examples are chosen within each batch, not for whole epochs."""
        return isinstance(self.select, str) and self.select in IN_BATCH

    @property
    def plans(self) -> bool:
        """Whether epochs are chosen at all: not where everything is kept, nor where batches are chosen from."""
        return self.keep != 1.0 and not self.in_batch

    @property
    def covers(self) -> bool:
        """Whether the selector covers a space, and needs to know where each example lies."""
        return "features" in self._new_chooser().needs

    def batch_method(self) -> BatchSelector | None:
        """The method that chooses within each batch, anew; None where there is none."""
        if not isinstance(self.select, str) or self.select not in IN_BATCH:
            return None
        return batch_method(self.select, self.keep, self.select_options)

    def _new_chooser(self) -> Chooser:
        options = {} if self.in_batch else dict(self.select_options)
        if self.offset and not self._guarded:
            options["offset"] = self.offset
        if self.select == "epsilon":
            options["epsilon"] = float(self.epsilon or 0.0)
        if self.select == "seta":  # its window moves on with every choice
            options.setdefault("every", self.refresh_every)
        return Chooser("random" if self.in_batch else self.select, options=options, floor=self.floor, seed=self.seed)
