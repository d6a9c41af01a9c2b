"""The diet: score, history, selector, schedule and store behind the one stateful object of the library.

It knows nothing of trainers. Whoever trains calls, in this order: `begin` once; before each epoch `absorb` (what the
last epoch's training saw), at a refresh `rows_to_score` and `absorb` (what a pass saw), then `plan`; in each step
`observe`.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from datadiet.config import DietConfig
from datadiet.diet.choose import (
    Candidate,
    Chooser,
    Rows,
    SelectorContext,
    check_ids,
    checked_row_weights,
    checked_values,
    numbers_per_row,
    selector_of,
    weighed,
)
from datadiet.diet.options import DietOptions, check_sizes, resolve
from datadiet.diet.race import COVER, NO_DEV, RULES, Race, plan_races
from datadiet.diet.schedule import AdaptiveSchedule, BaseSchedule
from datadiet.diet.state import MADE_WITH, changes, checksum, joined, part, plan_of, plan_state, schedule_changes
from datadiet.diet.tolerance import Tolerance, ToleranceController
from datadiet.diet.values import MOMENT, EpochBuffer, LatestValues, StreamBuffer
from datadiet.errors import ArgumentError, Problems
from datadiet.files import plain
from datadiet.noise.monitor import NoiseMonitor, lacking
from datadiet.registry import load
from datadiet.scores.history import last
from datadiet.scores.reduce import OF_LABEL, example_values, mean_of_rows
from datadiet.selectors.base import picked
from datadiet.store.row_arrays import RowArrays
from datadiet.store.run_folder import put_aside
from datadiet.store.tables import RunTables, ScoreStore, append_plan, last_values, matched
from datadiet.types import IGNORED, EpochPlan, Forecast, HeadSignals, Json, Scores, Signals, Source

ENTROPY = "entropy"  # a score, and the column that is recorded beside the score for selectors that need both
_WITHOUT = "without_tokens"
# of `made_with`, as an error names it
_FIRST_RULE = (
    "the rule that auto begins with (by the classes, tags, how many rows there are and are kept, and whether the dev "
    "metric is measured after each epoch)"
)


def _excludes(rule: str | None) -> bool:
    return rule is None or RULES[rule].guarded


class Diet:
    """Train on the examples that are still hard for the model.

    After `warmup_epochs` on everything, every `refresh_every` epochs the examples are scored and the selector keeps the
    share `keep`; the others are skipped until a later refresh re-admits them.

    Args:
        config: The options as a `datadiet.config.DietConfig`.
        signals: `(outputs, batch) -> Signals`, for models whose outputs are not recognised.
        options: Or the options as keywords; see `datadiet.config.DietConfig` for each.

    Attributes:
        options: The options, checked, with the defaults that depend on other options. They never change.
        recalls: Recall of each class on the dev split, by class number, set by whoever evaluates it.
        dev_skill: From `datadiet.noise.guard.skill`, of the model on the dev split, for `label` and for `tags`, set by
            whoever evaluates it; the noise guard excludes nothing while it is low.

    Raises:
        ArgumentError: All problems with the options at once.

    Examples:
        >>> diet = Diet(score="el2n", select="hardest", keep=0.5, warmup_epochs=1, refresh_every=2, seed=13)
        >>> planned = diet.forecast(num_examples=1000, epochs=10, batch=32)
        >>> planned.steps, planned.full_steps, round(planned.examples_saved, 3)
        (167, 320, 0.468)

    Source: Attendu and Corbeil 2023, "NLU on Data Diets" (arXiv 2306.03208). There `rescore="all"` and a constant
    learning rate; the values without a pass are ours.
    """

    recalls: Mapping[int, float] | None = None
    dev_skill: Mapping[str, float] | None = None
    noise_monitor: NoiseMonitor | None = None  # with offset="auto", while a run goes on
    tolerance_controller: ToleranceController | None = None  # with a tolerance, while a run goes on
    race: Race | None = None  # with select="auto", while a run goes on
    _row_weights: NDArray[np.float32] | None = None  # of the losses, while a run goes on
    _tables: RunTables | None = None  # of the run, on the process that writes
    _guarded: bool | None = None  # whether the guard is on, once the data are known
    _is_judged = False  # whether it could judge any batch of this run
    _dev_rows: int | None = None  # that can judge a race
    _watched = False  # whether `judge` is called after each epoch
    _facts: Json | None = None  # see `made_with`
    _stream = False  # whether the rows are those of a stream
    _reads_tokens = False  # whether the signals are of the next tokens of a language model
    _without: NDArray[np.bool_] | None = None  # rows without a token that trains, once there is one

    def __init__(
        self,
        config: DietConfig | DietOptions | None = None,
        *,
        signals: Callable[[Any, Mapping[str, Any]], Signals] | None = None,
        **options: Any,
    ) -> None:
        if config is not None and options:
            raise ArgumentError(f"give a config or options, not both; got both: {', '.join(options)}.")
        given = DietConfig(**options) if config is None else config
        if not isinstance(given, (DietConfig, DietOptions)):
            raise ArgumentError(
                f"config must be a DietConfig, got {given!r}. Give options by name: Diet(score={given!r})."
            )
        self.options = given if isinstance(given, DietOptions) else resolve(given)
        self.signals = signals

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
        """Steps, examples, tokens and the ceiling of the saving, before anything runs; see `datadiet.forecast`.

        As for a Trainer, the last of a fraction of epochs ends in its middle, and `max_steps` overrides the epochs.
        """
        return self.options.forecast(
            num_examples, epochs=epochs, batch=batch, lengths=lengths, dev_rows=dev_rows, max_steps=max_steps
        )

    def describe(self) -> Json:
        """Every option as plain values, for `result.json` and model cards, and whether rows have weights."""
        offset = {} if self._guarded is None else {"offset": "auto" if self._guarded else self._share_excluded}
        return {**self.options.describe(), **offset, "row_weights": self._row_weights is not None}

    @property
    def covers(self) -> bool:
        """Whether the selector covers a space, and needs to know where each example lies."""
        return "features" in selector_of(self.options).needs

    @property
    def guarded(self) -> bool:
        """Whether the label-noise guard is on; before a run, whether it will be where each example has one class."""
        return self.options.offset == "auto" if self._guarded is None else self._guarded

    @property
    def _share_excluded(self) -> float:
        return self.options.offset if isinstance(self.options.offset, float) else 0.0

    # ---- a run ----

    def begin(
        self,
        num_examples: int | None,
        *,
        epochs: float,
        batch: int = 1,
        max_steps: int | None = None,
        ids: Sequence[str] | None = None,
        groups: NDArray[np.int64] | None = None,
        features: Any = None,
        values: NDArray[np.float32] | None = None,
        row_weights: NDArray[np.float32] | None = None,
        folder: str | Path | None = None,
        overwrite: bool = False,
        write: bool = True,
        dev_rows: int | None = None,
        dev_groups: NDArray[np.int64] | None = None,
        tagged: bool = False,
        watched: bool = False,
        no_judge: str = NO_DEV,
        state: tuple[Mapping[str, NDArray[Any]], Json] | None = None,
    ) -> None:
        """Bind the diet to a data set, anew or from a checkpoint.

        Args:
            num_examples: Rows of the training split; None for a stream, of which nothing is chosen between epochs: its
                values are recorded, and nothing of a row is kept.
            epochs: Planned; of a fraction the last epoch ends in its middle.
            batch: Examples per optimizer step: batch size x accumulation x processes.
            max_steps: Optimizer steps to plan for, whatever `epochs` says.
            ids: The user's id of each row, for exports and `scores_from`.
            groups: int64 class of each row, for `floor` and quotas; -100: none, which quotas refuse.
            features: Where each row lies, float `(num_examples, size)` or a SciPy CSR matrix, for selectors that cover
                a space.
            values: float32 `(num_examples,)` of a score of whole training sets, for one that training does not make.
            row_weights: float `(num_examples,)`, above 0: what the loss of each row counts, such as how many rows it
                stands for. A selector's own weights come on top; see `datadiet.diet.choose.weighed`.
            folder: Run folder for scores/ and plans/; in memory without one.
            overwrite: Whether the tables of an earlier run there are removed; they are moved to scores.1/, plans.1/
                and result.1.json otherwise.
            write: False on all processes but one.
            dev_rows: Rows of the dev split that can judge a race, for `select="auto"`; None where nothing can.
            no_judge: Why nothing can, without a full stop.
            dev_groups: int64, the class of each dev row, as `groups`; see `datadiet.diet.race.first_rule` for what
                `auto` takes from them, from `tagged` and from `watched`.
            tagged: Whether the words of a row have tags, with a class of the row or without.
            watched: Whether `judge` is called after each epoch, with a metric in [-1, 1].
            state: What `state_dict` gave, to go on from there.

        Raises:
            ArgumentError: If the plan is impossible (e.g. a keep that leaves no full batch), or `floor` has no groups,
                too small ones, or takes more than is kept; or if the state is of a run with other options or data.
            DataError: If a resumed run's `folder` belongs to another run, or `scores_from` has no such scores.
        """
        folder = None if folder is None else Path(folder)
        self._stream = num_examples is None
        if num_examples is None:
            num_examples = epochs = 1  # for a schedule that plans nothing
        check_sizes(num_examples=num_examples, batch=batch)
        if dev_rows is not None:
            check_sizes(least=0, dev_rows=dev_rows)
        if ids is not None:
            check_ids(ids, num_examples)
        groups = None if groups is None else numbers_per_row("groups", groups, num_examples, np.int64)
        if dev_groups is not None:
            dev_groups = numbers_per_row("dev_groups", dev_groups, np.size(dev_groups), np.int64)
        self._row_weights = checked_row_weights(row_weights, num_examples)
        self._context, self._ids, self._facts = SelectorContext(groups, features), ids, None
        self._dev_rows, self._watched = dev_rows, watched
        self._arrays = RowArrays(num_examples, folder if write else None)
        self._begin_choice(num_examples)
        self._begin_guard(num_examples, groups)
        self._planned = self._schedule_of(num_examples, epochs, batch, groups, max_steps)
        self._begin_control(groups, dev_groups, no_judge, tagged=tagged)
        self._begin_values(num_examples)
        self._run = state[1]["run"] if state else uuid.uuid4().hex
        if state is not None:
            self.load_state_dict(*state)
        else:
            self._take_first_values(num_examples, ids, values)
        if write and state is None and folder is not None:
            put_aside(folder, overwrite=overwrite)
        parts = state[1]["parts"] if state else (0, 0)
        self._tables = RunTables(folder, self._run, ids, parts) if write else None

    def _begin_choice(self, num_examples: int) -> None:
        """The selectors, what they go by beside values, and no plan yet."""
        self._chooser = Chooser(self.options, self._context, num_examples)
        self._entrants: dict[str, Candidate] = {}
        self.round = 0
        self._plan: EpochPlan | None = None

    def _begin_guard(self, num_examples: int, groups: NDArray[np.int64] | None) -> None:
        """The label-noise guard, where it can judge."""
        asked = not self.options.guard_by_default
        self._guarded = self.options.offset == "auto" and (groups is not None or asked)
        self._is_judged = False
        self.noise_monitor = None
        if self._guarded:
            self.noise_monitor = NoiseMonitor(num_examples, groups, asked=asked, tags=asked, arrays=self._arrays)

    def _schedule_of(
        self, num_examples: int, epochs: float, batch: int, groups: NDArray[np.int64] | None, max_steps: int | None
    ) -> BaseSchedule:
        """The schedule, with room for the floor of each class."""
        planned = self.options.schedule(num_examples, epochs=epochs, batch=batch, max_steps=max_steps)
        classes, rows = np.unique([] if groups is None or not self.options.config.floor else groups, return_counts=True)
        sizes = {str(name): size for name, size in zip(classes.tolist(), rows.tolist(), strict=True) if name != IGNORED}
        self.options.check_floor(sizes, planned)
        if isinstance(planned, AdaptiveSchedule):
            planned = replace(planned, least=self.options.config.floor * len(sizes))
        return planned

    def _begin_control(
        self, groups: NDArray[np.int64] | None, dev_groups: NDArray[np.int64] | None, no_judge: str, *, tagged: bool
    ) -> None:
        """What the dev split decides: races between rules, or how many rows."""
        options, self.race, self.tolerance_controller = self.options, None, None
        if options.race is not None and options.plans:
            races = plan_races(self._planned, self._dev_rows, options.race, no_judge=no_judge)
            again = sum(map(self._planned.is_refresh, range(self._planned.epochs))) > 1
            tagged_rows = (self._dev_rows or 0) if tagged else 0
            first = options.first_rule(
                self._planned, groups, dev_groups, tagged_rows=tagged_rows, watched=self._watched
            )
            watched = self._watched and again  # of what is chosen once, nothing can be taken back
            self.race = Race(races, first=first, begins=self._planned.first_cycle, watched=watched)
        if options.config.tolerance is not None and isinstance(self._planned, AdaptiveSchedule):
            self.tolerance_controller = ToleranceController(Tolerance(options.config.tolerance), self._planned)

    def _begin_values(self, num_examples: int) -> None:
        """Where values are recorded; nothing has been seen."""
        self._regression = self._reads_tokens = False
        self._without = None
        self._training: EpochBuffer | StreamBuffer = StreamBuffer(self.columns)
        if not self._stream:
            self._training = EpochBuffer(num_examples, self.columns, self._arrays)
        score, arrays = self.options.score, self._arrays
        self._current = LatestValues(num_examples, score.history, every=score.kind == "dynamics", arrays=arrays)
        self._beside = LatestValues(num_examples, last(), arrays=arrays) if self._takes_entropy else None

    def _take_first_values(
        self, num_examples: int, ids: Sequence[str] | None, values: NDArray[np.float32] | None
    ) -> None:
        """The values that are there before any training: given, or of an earlier run."""
        options = self.options
        if options.config.scores_from is not None and values is None:
            self._start_from(Path(options.config.scores_from), ids)
        elif values is not None and not options.in_batch:
            self._current.take(np.arange(num_examples), checked_values(values, num_examples))
        elif options.score.kind == "given" and not options.in_batch:
            raise ArgumentError(
                f"the score {options.score.name!r} is not made while training: give its values, or scores_from."
            )

    @property
    def warnings(self) -> list[str]:
        """What whoever starts a training should know: why there will be no race, and which values nothing reads."""
        if self.race is None:
            return []
        found = [self.race.warning] if self.race.warning else []
        if self._current.known and self._plan is None and self.race.rule == COVER:
            words = f"select auto: it begins with {COVER}, which does not read the values that are given"
            found.append(f"{words}; select hardest does.")
        return found

    def lacks_judgement(self, epoch: int) -> bool:
        """Whether the dev metric after the epoch before this one decides something, and nobody has told it."""
        deciders = (self.tolerance_controller, self.race if self._watched else None)
        return any(decider is not None and decider.waits_for(epoch - 1) for decider in deciders)

    def lacks_recalls(self, epoch: int) -> bool:
        """Whether the choice before an epoch needs the recall of each class, and nobody has told it."""
        return self._chooser.needs_recalls and self.recalls is None and self.schedule.is_refresh(epoch)

    def rows_to_score(self, epoch: int) -> Rows:
        """Rows that need a forward pass before this epoch's selection; empty where none do."""
        # not before epoch 0: a head that has not trained knows nothing
        if epoch == 0 or not self.schedule.is_refresh(epoch):
            return np.empty(0, np.int64)
        if self.options.config.rescore == "none":
            # what rests as suspected noise is looked at again, so that it can come back
            if self.noise_monitor is None or not self.excludes:
                return np.empty(0, np.int64)
            return self.noise_monitor.rows_to_recheck()
        return (
            np.flatnonzero(~self._current.fresh)
            if self.options.config.rescore == "dropped"
            else np.arange(len(self._current))
        )

    def observe(self, rows: Tensor, signals: Signals, *, epoch: int) -> None:
        """Take the values of a training batch from its own forward pass.

        Args:
            rows: int64 `(batch,)`.
            signals: Of the same examples.
            epoch: The epoch that is training.
        """
        self._training.add(rows, self._columns(signals), epoch=epoch)

    def values_of(self, signals: Signals) -> Mapping[str, Tensor]:
        """The columns of the score history for some examples, float32 `(batch,)` each."""
        values = self._columns(signals)
        return dict(zip(self.columns, [*values, torch.full_like(values[0], torch.nan)], strict=True))

    @property
    def columns(self) -> tuple[str, ...]:
        """The score's own name, the free signals (each once), and `moment`: the batch of the epoch; nan in a pass."""
        own = self.options.score.columns
        beside = (ENTROPY,) if self._takes_entropy and ENTROPY not in own else ()
        return (*own, *(OF_LABEL if self.guarded else ()), *beside, MOMENT)

    @property
    def _takes_entropy(self) -> bool:
        return selector_of(self.options).takes_entropy

    def drain(self) -> Scores:
        """Hand over what training has seen since the last call, ascending by row; empty where nothing was seen."""
        return self._training.drain(self.round)

    def new_buffer(self) -> EpochBuffer:
        """Begin to record the training values of an epoch anew, and hand over where they are recorded."""
        self._training = buffer = EpochBuffer(len(self._current), self.columns, self._arrays)
        return buffer

    def use_buffer(self, buffer: EpochBuffer) -> None:
        """Go on with the training values of one entrant of a race."""
        self._training = buffer

    def put_back(self, scores: Scores) -> None:
        """Take back what `drain` handed over, e.g. the values of all processes, for a checkpoint inside an epoch."""
        self._training.put_back(scores)

    def absorb(self, scores: Scores) -> None:
        """Take in values: of this process' `drain`, gathered from all processes, or of a scoring pass."""
        if not len(scores.rows):
            return
        if self._stream:
            if self._tables is not None:
                self._tables.scores.append(scores)
            return
        if scores.source == "pass" or self.options.config.rescore != "all":
            known = self._with_tokens(scores)
            moments = known.values[MOMENT] if scores.source == "train" else None
            if len(known.rows) and (values := self.options.score.read(known.values)) is not None:
                self._current.take(known.rows, values, moments=moments)
            if len(known.rows) and self._beside is not None:
                self._beside.take(known.rows, known.values[ENTROPY], moments=moments)
        if self.noise_monitor is not None:
            self.noise_monitor.take(scores)
        if self._tables is not None:
            self._tables.scores.append(scores)

    def _with_tokens(self, scores: Scores) -> Scores:
        """The values without rows of a language model of which no token trains: those have none, and are excluded."""
        if not self._reads_tokens:
            return scores
        without = np.isnan(scores.values["loss"]) & np.isnan(
            scores.values["correct"]
        )  # a diverged model has the latter
        if self._without is None and without.any():
            self._without = np.zeros(len(self._current), bool)
        if self._without is None:
            return scores
        self._without[scores.rows] = without
        values = {name: column[~without] for name, column in scores.values.items()}
        return replace(scores, rows=scores.rows[~without], values=values)

    def scores(self, rows: Rows, values: Mapping[str, NDArray[np.float32]], source: Source, epoch: int) -> Scores:
        """Values as a record of the current round."""
        return Scores(rows, values, source, epoch, self.round)

    def plan(self, epoch: int) -> EpochPlan:
        """What this epoch trains on; closes the round at a refresh. Asking again for the same epoch changes nothing."""
        if self._plan is not None and self._plan.epoch == epoch:
            return self._plan
        if self._stream:
            self._plan = EpochPlan(epoch, np.empty(0, np.int64), full=True)
            return self._plan
        self._forget_race_before(epoch)
        if self._entrants:  # of a race that nobody has judged
            return self._end_race(next(iter(self._entrants)))
        if self.noise_monitor is not None:
            self.noise_monitor.review(epoch, self.dev_skill)
        if self.tolerance_controller is not None and self.tolerance_controller.schedule.is_refresh(epoch):
            plan = self._decide(epoch, self.tolerance_controller)
        elif self.schedule.is_full(epoch):
            plan = self._everything(epoch)
        elif self.schedule.is_refresh(epoch) or self._plan is None:
            plan = self._choose(epoch)
        else:
            return self._settle(replace(self._plan, epoch=epoch))
        return self._settle(weighed(plan, self._row_weights))

    def _forget_race_before(self, epoch: int) -> None:
        """Drop the entrants of an earlier epoch, which nobody has judged and whose plan nobody has asked for."""
        if any(entrant.epoch != epoch for entrant in self._entrants.values()):
            self._entrants = {}

    def _settle(self, plan: EpochPlan) -> EpochPlan:
        """Make this the plan of its epoch, and write it down."""
        self._plan = plan
        if self._tables is not None:
            append_plan(self._tables.plans, plan)
        return plan

    @property
    def schedule(self) -> BaseSchedule:
        """Of the run that has begun; with a tolerance, as it is decided so far."""
        return self._planned if self.tolerance_controller is None else self.tolerance_controller.schedule

    def judge(self, epoch: int, value: float, rows: int, *, metric: str = "") -> None:
        """Tell a diet the dev metric after an epoch: a tolerance decides by it, and `auto` says since when it falls.

        Args:
            epoch, value, rows, metric: See `datadiet.diet.tolerance.Tolerance.judge`.
        """
        if self.tolerance_controller is not None:
            self.tolerance_controller.judge(epoch, value, rows, metric=metric)
        if self.race is not None:
            self.race = self.race.judge(epoch, value, rows, metric=metric)

    def score_quantiles(self) -> dict[str, float]:
        """The 10th, 50th and 90th percentile of the score, of the examples that have a value; empty where none has."""
        return self._current.quantiles({"p10": 0.1, "p50": 0.5, "p90": 0.9})

    def noise_summary(self, labels: Sequence[object] | None = None) -> Json | None:
        """What the guard said, and whether what it suspects is left out at the end; None where it had nothing to judge.

        Args:
            labels: See `datadiet.noise.monitor.NoiseMonitor.summary`.
        """
        monitor = self.noise_monitor
        if monitor is None or not (self._is_judged or monitor.guard.reviews):
            return None
        return {"applied": self.excludes, **monitor.summary(labels)}

    @property
    def history(self) -> ScoreStore:
        """The score history: `diet.history.to_pandas()` has every value of every example."""
        if self._tables is None:
            raise ArgumentError("no score history yet: call train() first; only the main process keeps it.")
        return self._tables.scores

    # ---- state ----

    @property
    def made_with(self) -> Json:
        """What the state of a run depends on, and a resumed run may not change: plain values by name."""
        if self._facts is None:
            own = {name: value for name, value in self.describe().items() if name != "scores_from"}
            own |= {"num_examples": None if self._stream else len(self._current), "batch": self._planned.batch}
            own |= {} if self.race is None else {"dev_rows": self._dev_rows, _FIRST_RULE: self.race.first.rule}
            of_rows = {"ids": self._ids, "groups": self._context.groups, "row_weights": self._row_weights}
            known = {name: values for name, values in of_rows.items() if values is not None}
            own |= {f"the checksum of the {name}": checksum(values) for name, values in known.items()}
            self._facts = plain(own)
        return self._facts

    def state_dict(self) -> tuple[dict[str, NDArray[Any]], Json]:
        """Everything needed to go on: arrays, and plain values."""
        if self._stream:
            self.absorb(self.drain())
        parts_of = {"current": self._current.state(), "training": self._training.state()}
        parts_of |= {} if self._beside is None else {"beside": self._beside.state()}
        arrays, numbers = joined(
            parts_of if self.noise_monitor is None else {**parts_of, "watch": self.noise_monitor.state()}
        )
        planned, plan = plan_state(self._plan)
        arrays |= planned | self._chooser.state()
        parts = (0, 0) if self._tables is None else self._tables.parts
        controller = self.tolerance_controller and self.tolerance_controller.state()
        if self._without is not None:
            arrays[_WITHOUT] = self._without
        own = {"round": self.round, "run": self._run, "parts": parts, "regression": self._regression}
        own["tokens"] = self._reads_tokens
        own |= {} if self.race is None else {"race": self.race.state()}
        own |= {"dev_skill": self.dev_skill, MADE_WITH: self.made_with, "epochs": self._planned.epochs}
        return arrays, {**numbers, **plan, **own, "decider": controller}

    def load_state_dict(self, arrays: Mapping[str, NDArray[Any]], numbers: Json) -> None:
        """Take up a state; the diet must have the same options and data. There may be more epochs.

        Raises:
            ArgumentError: For everything that the state depends on and that is another now, with both values.
        """
        problems = Problems()
        problems.found += changes(numbers.get(MADE_WITH), self.made_with)
        begun = 0 if numbers["plan"] is None or self._stream else numbers["plan"][0] + 1
        if begun and not problems.found:
            before = self.options.schedule(len(self._current), epochs=numbers["epochs"], batch=self._planned.batch)
            problems.found += schedule_changes(before, self._planned, begun)
        problems.raise_any()
        self._current.load(part(arrays, "current"), numbers["current"])
        self._training.load(part(arrays, "training"), numbers["training"])
        if self._beside is not None:
            self._beside.load(part(arrays, "beside"), numbers["beside"])
        self.round, self._regression = numbers["round"], numbers["regression"]
        self._reads_tokens, self._without = numbers.get("tokens", False), arrays.get(_WITHOUT)
        self.dev_skill = numbers["dev_skill"]
        if self.tolerance_controller is not None:
            self.tolerance_controller.load(numbers["decider"])
        if self.noise_monitor is not None:
            self.noise_monitor.load(part(arrays, "watch"), numbers["watch"])
        self._chooser.load(arrays)
        if self.race is not None:
            self.race = self.race.restored(numbers["race"])
        self._plan = plan_of(arrays, numbers)

    # ---- inside ----

    def _columns(self, signals: Signals) -> Tensor:
        """Float32 `(columns without moment, batch)`; of rows that hold several texts the means over these."""
        if signals.segments is not None:
            texts = self._columns(Signals(signals.segments.heads))
            return mean_of_rows(texts, signals.segments.rows, signals.segments.count)
        labelled = [head for head in signals.heads.values() if isinstance(head, HeadSignals)]
        numeric = [head.labels.is_floating_point() for head in labelled]
        self._reads_tokens = self._reads_tokens or len(labelled) < len(signals.heads)
        self._regression = self._regression or any(numeric)
        asked, known = not self.options.guard_by_default, self._context.groups is not None
        unjudged = lacking(signals, labels=known, tags=asked) if self.guarded else ""
        if unjudged and asked and self.options.plans and not self._is_judged:
            raise ArgumentError(f"offset='auto' needs {unjudged}")
        self._is_judged = self._is_judged or not unjudged
        if self.noise_monitor is not None and not unjudged:
            self.noise_monitor.count_classes(signals)
        recorded = self.options.score.recorded(signals, of_label=self.guarded)
        if unjudged:  # of a column that happens to be there nothing follows for what the model answers
            recorded[-len(OF_LABEL) :] = torch.nan
        if not self._takes_entropy or ENTROPY in self.options.score.columns:
            return recorded
        if all(numeric) and labelled:
            raise ArgumentError(f"{self.options.select_name} goes by entropies, and a regression has none.")
        return torch.cat([recorded, example_values(load("score", ENTROPY), signals, combine="mean")[None]])

    def _everything(self, epoch: int) -> EpochPlan:
        return EpochPlan(epoch, np.arange(self.schedule.num_examples), full=True)

    def _decide(self, epoch: int, controller: ToleranceController) -> EpochPlan:
        """How many rows, by the tolerance, and which."""
        values = self._current.close_round()
        controller.decide(epoch, values)
        if not self.schedule.is_full(epoch):
            return self._take(self._entrant(values, self.schedule.count(epoch), epoch, self.rule))
        self.round += 1
        return self._everything(epoch)

    @property
    def rule(self) -> str | None:
        """The rule of `auto` that chooses now; None for any other selector."""
        return None if self.options.race is None else COVER if self.race is None else self.race.rule

    @property
    def excludes(self) -> bool:
        """Whether the rule that chooses now leaves out what the noise guard suspects; `cover` does not."""
        return _excludes(self.rule)

    def entrants(self, epoch: int) -> dict[str, EpochPlan]:
        """The race before an epoch: what the rule at hand would train on, and what its challenger would.

        Whoever trains tries both from the same weights and calls `decide` with the losses of the dev rows. Where nobody
        does, `plan` takes the rule at hand.

        Returns:
            Empty where no race is due. Asking again for the same epoch changes nothing.
        """
        if self.race is None or (self._plan is not None and self._plan.epoch >= epoch):
            return {}
        self._forget_race_before(epoch)
        if self.schedule.is_refresh(epoch) and not self._entrants:
            self.race = self.race.reconsidered(epoch)
        if not self.race.is_due(epoch):
            return {}
        if not self._entrants:
            if self.noise_monitor is not None:
                self.noise_monitor.review(epoch, self.dev_skill)
            values, count = self._current.close_round(), self.schedule.count(epoch)
            challenger = self.race.challenger(tuple(RULES))
            self._entrants = {
                self.race.rule: self._entrant(values, count, epoch, self.race.rule),
                challenger: self._entrant(values, count, epoch, challenger, begins=True),
            }
            first, second = self._entrants.values()
            if np.array_equal(first.rows, second.rows):  # nothing to decide, as where no row has been seen
                self.race = replace(self.race, same=(*self.race.same, epoch))
                self._end_race(self.race.rule)
                return {}
        plans = {rule: entrant.plan(self.round) for rule, entrant in self._entrants.items()}
        return {rule: weighed(plan, self._row_weights) for rule, plan in plans.items()}

    def decide(
        self,
        epoch: int,
        losses: Mapping[str, NDArray[np.float32]],
        costs: Mapping[str, Mapping[str, float]] | None = None,
    ) -> EpochPlan:
        """Take in the result of a race; the winner's rows are the plan of the epoch.

        Args:
            epoch: Of `entrants`.
            losses: Of each entrant: float32 `(dev rows,)`, the loss of each dev row after its steps.
            costs: Of the race if an entrant loses, by entrant; see `datadiet.diet.race.Duel`.

        Raises:
            ArgumentError: If no race is due, or the losses do not fit.
        """
        if self.race is None or not self._entrants:
            raise ArgumentError(f"no race is due before epoch {epoch} (from 0): call entrants first.")
        self.race = self.race.decided(epoch, {rule: losses[rule] for rule in self._entrants}, costs)
        return self._end_race(self.race.rule)

    def _end_race(self, winner: str) -> EpochPlan:
        """Make the rows of a rule the plan of the epoch."""
        entrants, self._entrants = self._entrants, {}
        return self._settle(weighed(self._take(entrants[winner]), self._row_weights))

    def _choose(self, epoch: int) -> EpochPlan:
        count = self.schedule.count(epoch)
        if self.race is not None:
            self.race = self.race.reconsidered(epoch)
        if not self._current.known and epoch == 0:  # nothing is known yet: random, as in the paper
            return EpochPlan(epoch, self._chooser.draw(self.rule, count, epoch=epoch), full=False)
        pool = self._pool(self.rule, count)  # its values alone, so that those of all rows take no memory
        values = self._current.close_round
        return self._take(self._chooser.propose(values(pool), pool, count, epoch, self.rule, self._seen()))

    def _pool(self, rule: str | None, count: int) -> NDArray[np.bool_] | None:
        """The rows from which a rule chooses, bool `(n,)`; None for all."""
        pool = None if self.noise_monitor is None or not _excludes(rule) else self.noise_monitor.candidates(count)
        if self._without is None or not self._without.any():
            return pool
        trains = ~self._without if pool is None else pool & ~self._without
        trains[np.flatnonzero(~trains)[: max(0, count - int(trains.sum()))]] = True  # an epoch is full all the same
        return trains

    def _entrant(
        self, values: NDArray[np.float32], count: int, epoch: int, rule: str | None, *, begins: bool = False
    ) -> Candidate:
        """What a rule would choose by the values of all rows; one that begins has given no turns yet."""
        pool = self._pool(rule, count)
        return self._chooser.propose(
            # not a name of its own, which would hold the values of the pool while their rows are numbered
            values if pool is None else picked(values, pool),
            pool,
            count,
            epoch,
            rule,
            self._seen(),
            begins=begins,
        )

    def _seen(self) -> SelectorContext:
        """What selectors may go by beside the values, as it is now."""
        scale = self.options.score.scale(regression=self._regression)
        entropy = None if self._beside is None else self._beside.close_round()
        return replace(self._context, recalls=self.recalls, scale=scale, entropy=entropy)

    def _take(self, candidate: Candidate) -> EpochPlan:
        """Count the turns of a candidate and end the round; its plan."""
        self._chooser.take(candidate)
        plan = candidate.plan(self.round)
        self.round += 1
        return plan

    def _start_from(self, run: Path, ids: Sequence[str] | None) -> None:
        keys = list(map(str, range(len(self._current)) if ids is None else ids))
        values = matched(keys, *last_values(run / "scores", self.options.score.name), run)
        rows = np.flatnonzero(np.isfinite(values))
        if not len(rows):
            raise ArgumentError(f"scores_from: none of the ids of this data set occur in {run}.")
        self._current.take(rows, values[rows])
