"""The options of a diet, resolved: everything that follows from a `DietConfig` without data.

`resolve` checks a config and fills in the defaults that depend on other options. `DietOptions` never changes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from numbers import Real
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from datadiet.config import DietConfig, option_problems
from datadiet.diet.forecast import forecast
from datadiet.diet.race import FirstRule, RaceOptions, first_rule, plan_races
from datadiet.diet.schedule import REFRESH_EVERY, AdaptiveSchedule, BaseSchedule, Schedule, parse_keep
from datadiet.diet.tolerance import Tolerance
from datadiet.errors import ArgumentError, Problems, percent_hint, quoted
from datadiet.registry import Method, find, format_call, load, names, parse_call, problems_of, selectors_in
from datadiet.scores.dynamics import DynamicScore
from datadiet.scores.history import History, last
from datadiet.scores.logits import EL2N_MAX, el2n
from datadiet.scores.reduce import FREE, OF_LABEL, example_values, free_signals
from datadiet.selectors.base import floor_problems
from datadiet.selectors.in_batch import BatchSelector
from datadiet.selectors.token_rules import TokenRule
from datadiet.types import Forecast, Json, Selection, Signals

_RESCORE = (
    Method(
        "rescore",
        "none",
        "no extra pass: values seen while training, dropout on; an example never seen comes first",
        paper="in the manner of Qin et al. 2024 (InfoBatch), arXiv 2303.04947",
        inputs="the training forward",
        cost="nothing",
        loses="values have dropout and different ages; those of dropped examples are estimated",
    ),
    Method(
        "rescore",
        "dropped",
        "score the dropped examples; kept ones have the value seen while training",
        paper="ours",
        inputs="one forward of the dropped",
        cost="(1 - keep) * n forwards per refresh",
        loses="values of two kinds in one ranking: with dropout for kept examples, without for dropped ones",
    ),
    Method(
        "rescore",
        "all",
        "score every example in eval mode",
        paper="Attendu and Corbeil 2023, arXiv 2306.03208",
        inputs="one forward of n",
        cost="n forwards per refresh",
        loses="in time, with a refresh every epoch: the passes eat much of what was saved",
    ),
)

AUTO = "auto"
NO_CUT = "tolerance decides the number of steps itself: set num_train_epochs to a whole number, and not max_steps."
Kind = Literal["forward", "dynamics", "given"]
ScoreFunction = Callable[..., Tensor]
Selector = Callable[..., Selection]
Values = NDArray[np.float32]


@dataclass(frozen=True)
class ScoreSpec:
    """What a diet ranks by: how its values come about.

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


@dataclass(frozen=True)
class DietOptions:
    """What a diet does, on any data set.

    Attributes:
        config: As it was given.
        keep: Share kept, or shares by epoch; None with a tolerance.
        combine: How the positions and heads of joint tasks become one value.
        score: What is ranked by.
        score_options: Of the score, by name.
        select: Name of the selector, or a function.
        select_options: Of the selector, by name.
        offset: Share of the hardest that is excluded; `auto`: the label-noise guard excludes rows.
        guard_by_default: Whether `auto` is a default, in force only where each example has one class.
        refresh_every: Epochs from one selection to the next.
        race: How the rule is found, where the selector is `auto`.
        tokens: Name of the token rule and its options; None where all tokens train.
    """

    config: DietConfig
    keep: float | Mapping[int, float] | None
    combine: str
    score: ScoreSpec
    score_options: Mapping[str, Any]
    select: str | Selector
    select_options: Mapping[str, Any]
    offset: float | str
    guard_by_default: bool
    refresh_every: int
    race: RaceOptions | None = None
    tokens: tuple[str, Mapping[str, Any]] | None = None

    @property
    def select_name(self) -> str:
        """The name of the selector, also where it is a function."""
        return self.select if isinstance(self.select, str) else getattr(self.select, "__name__", "selector")

    @property
    def in_batch(self) -> bool:
        """Whether examples are chosen within each batch, not for whole epochs."""
        return isinstance(self.select, str) and self.select in names("in_batch")

    @property
    def plans(self) -> bool:
        """Whether epochs are chosen at all: not where everything is kept, nor where batches are chosen from."""
        return self.keep != 1.0 and not self.in_batch

    @property
    def weighs(self) -> bool:
        """Whether what chooses gives loss weights, as far as that is known of a selector of the user's own."""
        if self.in_batch:
            return self.select in names("in_batch", trait="weights")
        return self.plans and _gives_weights(self.select, self.select_options)

    def schedule(
        self, num_examples: int, *, epochs: float, batch: int = 1, max_steps: int | None = None
    ) -> Schedule | AdaptiveSchedule:
        """The schedule of this diet on a data set; see `datadiet.Schedule`. With a tolerance nothing is decided yet.

        Args:
            num_examples: Training rows.
            epochs: Planned; of a fraction the last epoch ends in its middle.
            batch: Examples per optimizer step.
            max_steps: Optimizer steps to plan for, whatever `epochs` says.

        Raises:
            ArgumentError: If no plan fits.
        """
        limit = {} if max_steps is None else {"max_steps": max_steps}
        check_sizes(num_examples=num_examples, batch=batch, **limit)
        given: Any = epochs
        if isinstance(given, bool) or not isinstance(given, Real):
            raise ArgumentError(f"epochs must be a number, got {quoted(given)}.")
        config, every = self.config, self.refresh_every
        # of anything but a number of epochs the schedule says what is wrong
        whole: Any = math.ceil(epochs) if isinstance(epochs, float) and math.isfinite(epochs) else epochs
        if self.keep is None:
            if max_steps is not None or whole != epochs:
                raise ArgumentError(NO_CUT)
            return AdaptiveSchedule(num_examples, whole, config.warmup_epochs, every, batch)
        phases = (config.warmup_epochs, every, config.anneal_epochs, config.static)
        if max_steps is not None:  # no epoch has less than one step
            whole = max_steps + config.warmup_epochs + config.anneal_epochs + 1
        if self.in_batch:  # every epoch goes through everything
            schedule = Schedule(num_examples, whole, 1.0, min(config.warmup_epochs, whole), every, batch=batch)
        else:
            schedule = Schedule(num_examples, whole, self.keep, *phases, batch)
        if max_steps is not None:
            return schedule.ending_at(max_steps)
        if whole == epochs:
            return schedule
        last = schedule.steps(whole - 1)
        return replace(schedule, last_steps=math.ceil(round((epochs - whole + 1) * last, 6)))

    def forecast(
        self,
        num_examples: int,
        *,
        epochs: float,
        batch: int = 1,
        lengths: NDArray[np.int64] | None = None,
        dev_rows: int | None = None,
        max_steps: int | None = None,
    ) -> Forecast:
        """Steps, examples, tokens and the ceiling of the saving, before anything runs; see `datadiet.forecast`."""
        schedule = self.schedule(num_examples, epochs=epochs, batch=batch, max_steps=max_steps)
        full = epochs if max_steps is None else max_steps / -(-num_examples // batch)
        planned = forecast(schedule, rescore=self.config.rescore, lengths=lengths, full_epochs=full)
        if self.race is None or not self.plans:
            return planned
        races = plan_races(schedule, dev_rows, self.race)
        return replace(planned, races=len(races.epochs), race_steps=races.extra_steps(batch))

    def first_rule(
        self,
        schedule: BaseSchedule,
        groups: NDArray[np.int64] | None,
        dev_groups: NDArray[np.int64] | None,
        *,
        tagged_rows: int,
        watched: bool,
    ) -> FirstRule:
        """What `auto` begins with on a schedule; see `datadiet.diet.race.first_rule`."""
        kept = schedule.count(min(schedule.first_cycle, schedule.epochs - 1)) / schedule.num_examples
        return first_rule(
            groups,
            dev_groups,
            rows=schedule.num_examples,
            tagged_rows=tagged_rows,
            watched=watched,
            static=self.config.static,
            keep=kept,
            seed=self.config.seed,
        )

    def check_floor(self, sizes: Mapping[str, int], schedule: BaseSchedule) -> None:
        """Refuse a floor that cannot hold.

        Args:
            sizes: Rows of each class, by name; empty where there are no classes.
            schedule: Of the run.

        Raises:
            ArgumentError: If a class has fewer rows than the floor, or all floors together more than are kept.
        """
        if not (self.config.floor and sizes and self.plans):
            return
        kept = [schedule.count(epoch) for epoch in range(schedule.epochs) if not schedule.is_full(epoch)]
        problems = Problems()
        problems.found += floor_problems(self.config.floor, sizes, min(kept, default=schedule.num_examples))
        problems.raise_any()

    def numbered(self, class_names: Sequence[str]) -> DietOptions:
        """The same options, with class numbers for the class names in those of the selector."""
        return replace(self, select_options=by_number(self.select_options, class_names))

    def describe(self) -> Json:
        """Every option as plain values, for `result.json` and model cards."""
        config = self.config
        scores_from = None if config.scores_from is None else Path(config.scores_from).name
        return {
            "score": format_call(self.score.name, self.score_options),
            "select": format_call(self.select_name, self.select_options),
            "history": self.score.history_name,
            "tokens": None if self.tokens is None else format_call(*self.tokens),
            "tolerance": config.tolerance,
            "keep": self.keep if not isinstance(self.keep, Mapping) else dict(self.keep),
            "combine": self.combine,
            "warmup_epochs": config.warmup_epochs,
            "refresh_every": self.refresh_every,
            "anneal_epochs": config.anneal_epochs,
            "static": config.static,
            "rescore": config.rescore,
            "offset": self.offset,
            "floor": config.floor,
            "seed": config.seed,
            "scores_from": scores_from,
        }

    def batch_method(self) -> BatchSelector | None:
        """The method that chooses within each batch, anew; None where there is none."""
        if not self.in_batch:
            return None
        method = find("in_batch", str(self.select))
        assert method is not None
        share = float(self.keep) if isinstance(self.keep, (int, float)) else 1.0
        usual = {"keep": share, "beta": max(0.0, 1 / share - 1)}
        made: BatchSelector = method.load()(
            **{**{name: usual[name] for name in usual if name in method.options}, **self.select_options}
        )
        return made

    def token_rule(self) -> TokenRule | None:
        """The rule by which tokens train, anew; None where all do."""
        if self.tokens is None:
            return None
        name, options = self.tokens
        rule: TokenRule = load("tokens", name)(**options)
        return rule


def _gives_weights(select: object, options: Mapping[str, Any]) -> bool:
    """Whether a selector gives loss weights, or one inside it."""
    found = selectors_in(select, options)
    return any("weights" in method.traits or own.get("weights") is True for method, own in found)


def resolve(config: DietConfig) -> DietOptions:
    """Check the options of a diet, and fill in the defaults that depend on other options.

    Raises:
        ArgumentError: All problems at once.
    """
    problems = Problems()
    problems.found += option_problems(config)
    keep = None if config.tolerance is not None else _checked_keep(config.keep, problems)
    select, select_options = _method("select", config.select, problems)
    if select == AUTO and config.tolerance is not None:  # which decides how many by the values, and takes the hardest
        select = "hardest"
    found = selectors_in(select, select_options)
    inside = [method for method, _ in found]
    means = any("needs_bounded" in method.traits or "entropy" in method.needs for method in inside)
    combine = config.combine or ("mean" if means else "norm")
    score, score_options = _checked_score(config, combine, problems)
    # not where everything is kept, nor for values that are independent of what a model has learned
    guards = select in names("select", "race", trait="guarded") and "offset" not in select_options
    guards = guards and config.offset is None and config.tolerance is None and keep != 1.0 and score.kind != "given"
    offset = _checked_offset(config, select, found, problems) if not guards else "auto"
    options = DietOptions(
        config,
        keep,
        combine,
        score,
        score_options,
        select,
        {name: value for name, value in select_options.items() if name != "offset"},
        offset,
        guards,
        config.refresh_every or _refresh_every(config, select, inside),
        load("race", AUTO)(**select_options) if select == AUTO and not problems.found else None,
        None if config.tokens is None else _method("tokens", config.tokens, problems),
    )
    _check_together(options, problems)
    problems.raise_any()
    return options


def _refresh_every(config: DietConfig, select: Any, inside: Sequence[Method]) -> int:
    """Rows that take turns, and counts that are decided anew, change every epoch; other choices hold for two."""
    if config.tolerance is not None:
        return AdaptiveSchedule.refresh_every
    in_turns = select == AUTO or any("takes_turns" in method.traits for method in inside)
    return 1 if in_turns and not config.static else REFRESH_EVERY


def _method(kind: str, value: str | Callable[..., Any], problems: Problems) -> tuple[Any, dict[str, Any]]:
    """The name of a method and its options, checked; a function is passed as it is."""
    if not isinstance(value, str):
        return value, {}
    try:
        name, options = parse_call(value)
    except ArgumentError as error:
        problems.include(error)
        return {"select": "hardest", "score": "el2n", "history": "last", "tokens": "random_tokens"}[kind], {}
    problems.found += problems_of(kind, name, options)
    return name, options


def _checked_keep(keep: float | str | Mapping[int, float], problems: Problems) -> float | dict[int, float]:
    """A share, or a step-down of shares by epoch."""
    try:
        shares = parse_keep(keep) if isinstance(keep, (str, int, float)) else dict(keep)
    except ArgumentError as error:
        problems.include(error)
        return 1.0
    for share in [shares] if isinstance(shares, (int, float)) else shares.values():
        problems.share("keep", share)
    return shares


def _checked_score(config: DietConfig, combine: str, problems: Problems) -> tuple[ScoreSpec, dict[str, Any]]:
    history, name = _checked_history(config.history, problems)
    score, options = _method("score", config.score, problems)
    if not isinstance(score, str):
        own = getattr(score, "__name__", type(score).__name__)
        needs = set(getattr(score, "needs", ())) - {"logits", "labels"}
        problems.check(not needs, f"the score {own} needs {', '.join(sorted(needs))}, which training does not give it.")
        return ScoreSpec(own, "forward", combine, name, history, score), options
    method = find("score", score)
    if method is None:
        return ScoreSpec(score, "forward", combine, name, history, el2n), options
    if "forward" in method.traits:
        return ScoreSpec(score, "forward", combine, name, history, method.load()), options
    problems.check(
        name == "last", f"history has no effect with the score {score!r}, which has all rounds in it: leave it out."
    )
    if "history" in method.needs:
        dynamic = method.load().streaming
        started = dynamic.started(**({} if problems.found else options))
        return ScoreSpec(score, "dynamics", combine, "last", started, dynamic=dynamic), options
    return ScoreSpec(score, "given", combine, "last", history), options


def _checked_history(history: str | History, problems: Problems) -> tuple[History, str]:
    """A history and its name."""
    if not isinstance(history, str):
        return history, "custom"
    before = len(problems.found)
    name, options = _method("history", history, problems)
    made = load("history", name)(**options) if len(problems.found) == before else last()
    return made, format_call(name, options)


def _checked_offset(
    config: DietConfig, select: Any, found: Sequence[tuple[Method, Mapping[str, Any]]], problems: Problems
) -> float | str:
    """The share of the hardest that is excluded, or `auto`; it may stand in the brackets of the selector."""
    beside = found[0][1].get("offset", 0.0) if found else 0.0
    offset = beside if config.offset is None else config.offset
    own = [given["offset"] for _, given in found if "offset" in given]
    if config.offset is not None and own:
        problems.add(f"offset is given twice, {config.offset} and {own[0]}: give one of the two.")
    if isinstance(offset, str):
        problems.check(offset == "auto", f"offset must be a share or 'auto', got {offset!r}.")
        return offset
    problems.check(0 <= offset < 1, f"offset must be in [0, 1), got {offset}.{percent_hint(offset)}")
    takers = names("select", trait="takes_offset")
    if isinstance(select, str) and offset:
        belongs = f"it belongs to {' and '.join(takers)}"
        hint = "; say which: --select hardest" if select == AUTO else ""
        takes = any(method.name in takers for method, _ in found)
        problems.check(takes, f"offset has no effect on {select!r}; {belongs}{hint}.")
    windows = [given for method, given in found if method.name == "window"]
    excludes = offset > 0 or all(given.get("offset") for given in windows)
    problems.check(excludes, "window needs an offset above 0: the share to exclude.")
    return float(offset)


def _check_together(options: DietOptions, problems: Problems) -> None:
    """Note options that exclude one another, or that have no effect beside others."""
    config, select = options.config, options.select
    if options.tokens is not None and not problems.found:
        try:
            options.token_rule()  # its options by themselves are right; beside each other they may not be
        except ArgumentError as error:
            problems.include(error)
    problems.check(
        config.scores_from is None or config.warmup_epochs == 0 or options.score.kind == "given" or options.in_batch,
        "scores_from has no effect after a warm-up, which sees every example anew; set warmup_epochs to 0.",
    )
    if config.floor and isinstance(select, str):
        fills = select in names("select", trait="fills_classes")
        problems.check(not fills, f"floor has no effect on {select!r}, which gives every class its places itself.")
        problems.check(not options.in_batch, f"floor has no effect on {select!r}, which chooses within each batch.")
    if options.in_batch:
        problems.check(
            not isinstance(options.keep, Mapping),
            f"keep must be one share for {select!r}: it has no cycles to step down with.",
        )
    if config.tolerance is not None:
        _check_tolerance(options, problems)


def _check_tolerance(options: DietOptions, problems: Problems) -> None:
    """Note what a tolerance cannot go with: it takes the hardest, by scores that are 0 where all is learned."""
    config = options.config
    scores, selectors = names("score", trait="zero_when_learned"), names("select", trait="takes_tolerance")
    problems.check(
        not isinstance(config.score, str) or options.score.name in scores,
        f"tolerance has no meaning for the score {options.score.name!r}; it goes with {', '.join(scores)}.",
    )
    problems.check(
        not isinstance(options.select, str) or find("select", options.select) is None or options.select in selectors,
        f"tolerance has no meaning for {options.select_name!r}; it goes with {' and '.join(selectors)}.",
    )
    try:
        Tolerance(config.tolerance or 0.0)
    except ArgumentError as error:
        problems.include(error)
    alone = {"keep": (config.keep, 0.5), "anneal_epochs": (config.anneal_epochs, 0), "static": (config.static, False)}
    for name, (value, usual) in {**alone, "offset": (options.offset, 0.0)}.items():
        problems.check(value == usual, f"{name} has no effect with a tolerance: give one of the two.")


def by_number(options: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    """The options with class numbers in place of class names, where an option has an entry per class.

    Raises:
        ArgumentError: For a name that is no class.

    Examples:
        >>> by_number({"directions": {"rude": "easy"}, "default": "hard"}, ["polite", "rude"])
        {'directions': {1: 'easy'}, 'default': 'hard'}
    """
    numbers = {name: number for number, name in enumerate(names)}
    problems = Problems()
    numbered = dict(options)
    for option, entries in options.items():
        if isinstance(entries, Mapping):
            for name in entries:
                problems.choice(f"class in {option}", str(name), numbers)
            numbered[option] = {numbers[str(name)]: value for name, value in entries.items() if str(name) in numbers}
    problems.raise_any()
    return numbered


def check_sizes(*, least: int = 1, **given: Any) -> None:
    """Refuse what is no whole number, or too small; all at once.

    Raises:
        ArgumentError: With the names.
    """
    problems = Problems()
    for name, value in given.items():
        problems.whole(name, value.item() if isinstance(value, np.integer) else value, least)
    problems.raise_any()
