"""The state of a diet as arrays and plain values: the parts of it put together, and taken apart again.

The diet: score, history, selector, schedule and store behind the one stateful object of the library.

It knows nothing of trainers. Whoever trains calls, in this order: `begin` once; before each epoch `absorb` (what the
last epoch's training saw), at a refresh `rows_to_score` and `absorb` (what a pass saw), then `plan`; in each step
`observe`.
"""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from datadiet.diet.choose import Known, Rows, checked_row_weights, weighed
from datadiet.diet.options import DietOptions, checked_values
from datadiet.diet.schedule import AdaptiveSchedule, BaseSchedule
from datadiet.diet.tolerance import Decider, Tolerance
from datadiet.diet.values import MOMENT, CurrentValues, TrainingValues
from datadiet.errors import ArgumentError
from datadiet.noise.guard import Watch
from datadiet.scores.reduce import OF_LABEL
from datadiet.store.tables import RunTables, ScoreStore, append_plan, last_values
from datadiet.types import EpochPlan, Json, Scores, Signals, Source

_ROWS, _WEIGHTS = "plan.rows", "plan.weights"


def joined(states: Mapping[str, tuple[dict[str, NDArray[Any]], Json]]) -> tuple[dict[str, NDArray[Any]], Json]:
    """The states of several parts as one: arrays as `part.name`, plain values by part."""
    arrays = {f"{part}.{name}": array for part, (held, _) in states.items() for name, array in held.items()}
    return arrays, {part: numbers for part, (_, numbers) in states.items()}


def part(arrays: Mapping[str, NDArray[Any]], part: str) -> dict[str, NDArray[Any]]:
    """The arrays of one part."""
    start = f"{part}."
    return {name.removeprefix(start): array for name, array in arrays.items() if name.startswith(start)}


def plan_state(plan: EpochPlan | None) -> tuple[dict[str, NDArray[Any]], Json]:
    """The plan of the epoch that trains; both empty of it where there is none."""
    if plan is None:
        return {}, {"plan": None}
    arrays = {_ROWS: plan.rows, _WEIGHTS: plan.weights}
    held = {name: array for name, array in arrays.items() if array is not None}
    return held, {"plan": [plan.epoch, plan.full, plan.round]}


def plan_of(arrays: Mapping[str, NDArray[Any]], numbers: Json) -> EpochPlan | None:
    """The plan that `plan_state` was of."""
    if numbers["plan"] is None:
        return None
    epoch, full, round_ = numbers["plan"]
    weights = np.array(arrays[_WEIGHTS]) if _WEIGHTS in arrays else None
    return EpochPlan(epoch, np.array(arrays[_ROWS]), full=full, round=round_, weights=weights)


class Diet(DietOptions):
    """Train on the examples that still teach something.

    After `warmup_epochs` on everything, every `refresh_every` epochs the examples are scored and the share `keep` is
    chosen by the selector; the others rest until a later refresh brings them back.

    Args:
        score: A name of `datadiet.scores.SCORES`, or a function `(logits, labels, *, mask=None) -> values`.
        select: A name of `datadiet.selectors.SELECTORS`, or a function
            `(values, count, *, seed, epoch, groups=None) -> Selection`.
        keep: Share kept, in (0, 1]; or a step-down `{epoch: share}`, in force from the first refresh at that epoch.
        tolerance: Instead of `keep`: points of the dev metric that may be lost. How many rows each cycle trains on is
            then decided by the scores, with the dev metric as a guard (`datadiet.diet.tolerance`); `judge` must be told
            that metric after every epoch, which `DietTrainer` and `datadiet finetune` do.
        combine: How the positions and heads of joint tasks become one value: `norm`, `mean` or `sum`. By default
            `norm` as in the paper, and `mean` for `uncertain`, which needs bounded values.
        history: `last`, `mean`, `ema`, or one of `datadiet.scores.history` with its options.
        warmup_epochs: Epochs on everything first; with 0 the first cycle is random.
        refresh_every: Epochs from one selection to the next: 2, or 1 with a tolerance, unless said otherwise.
        anneal_epochs: Last epochs on everything.
        static: Choose once, after the warm-up.
        rescore: Which examples get a forward pass of their own at a refresh. `none`: no pass, values come from the
            training forward (dropout on), brought to one moment (`datadiet.diet.values`), and an example never seen is
            taken first; `dropped`: those that did not train
            since the last refresh; `all`: every example, as in the paper.
        offset: Share of the very hardest set aside as suspected noise (`hardest`, `window`); or `auto`: the rows whose
            labels contradict what the model is sure of, as many as that says (`datadiet.noise.guard`), with any
            selector. By default `auto` for `hardest` where each example has one class, else 0; `offset=0.0` is the
            published rule.
        epsilon: Share drawn at random among the rest (`epsilon` only).
        floor: Least number of examples kept of each class; a class that has fewer is refused.
        select_options: Options of the selector beyond these, by name, e.g. `{"beta": 0.2}` of `ccs`; see
            `datadiet.selectors.OPTIONS`. A selector inside another one may be given by its name.
        score_options: Options of the score, by name, where it has some: `{"burn_out": 2}` of training dynamics; of a
            score of whole training sets they say how the values are made, which `datadiet finetune` does. See
            `datadiet.suitable.SCORE_OPTIONS`.
        scores_from: A run folder whose last values choose the first cycle, matched by id, new examples first; goes
            with `warmup_epochs=0`.
        signals: `(outputs, batch) -> Signals`, for models whose outputs are not recognised.
        seed: Of ties, random choices and the order of examples.

    Raises:
        ArgumentError: All problems with the arguments at once.

    Example:
        >>> diet = Diet(score="el2n", select="hardest", keep=0.5, warmup_epochs=1, refresh_every=2, seed=13)
        >>> planned = diet.forecast(num_examples=1000, epochs=10, batch=32)
        >>> planned.steps, planned.full_steps, round(planned.examples_saved, 3)
        (167, 320, 0.468)

    Source: Attendu and Corbeil 2023, "NLU on Data Diets" (arXiv 2306.03208). There `rescore="all"` and a constant
    learning rate; the values without a pass are ours.
    """

    recalls: Mapping[int, float] | None = None  # of each class on the dev split, where somebody judges it
    watch: Watch | None = None  # with offset="auto", while a run goes on
    decider: Decider | None = None  # with a tolerance, while a run goes on
    _row_weights: NDArray[np.float32] | None = None  # of the losses, while a run goes on
    _tables: RunTables | None = None  # of the run, on the process that writes

    def describe(self) -> Json:
        """Every option as plain values, for `result.json` and model cards, and whether rows have weights."""
        return {**super().describe(), "row_weights": self._row_weights is not None}

    # ---- a run ----

    def begin(
        self,
        num_examples: int,
        *,
        epochs: int,
        batch: int = 1,
        ids: Sequence[str] | None = None,
        groups: NDArray[np.int64] | None = None,
        features: Any = None,
        values: NDArray[np.float32] | None = None,
        row_weights: NDArray[np.float32] | None = None,
        folder: Path | None = None,
        write: bool = True,
        state: tuple[Mapping[str, NDArray[Any]], Json] | None = None,
    ) -> None:
        """Bind the diet to a data set, anew or from a checkpoint.

        Args:
            num_examples: Rows of the training split.
            epochs: Planned.
            batch: Examples per optimizer step: batch size x accumulation x processes.
            ids: The user's id of each row, for exports and `scores_from`.
            groups: int64 class of each row, for `floor` and quotas.
            features: Where each row lies, float `(num_examples, size)` or a SciPy CSR matrix, for selectors that cover
                a space.
            values: float32 `(num_examples,)` of a score of whole training sets, for one that training does not make.
            row_weights: float `(num_examples,)`, above 0: what the loss of each row counts, such as how many rows it
                stands for. A selector's own weights come on top; see `datadiet.diet.choose.weighed`.
            folder: Run folder for scores/ and plans/; in memory without one.
            write: False on all processes but one.
            state: What `state_dict` gave, to go on from there.

        Raises:
            ArgumentError: If the plan is impossible (e.g. a keep that leaves no full batch), or `floor` has no groups,
                too small ones, or takes more than is kept.
            DataError: If `folder` belongs to another run, or `scores_from` has no such scores.
        """
        self._row_weights = checked_row_weights(row_weights, num_examples)
        self._known = Known(groups, features)
        self._chooser = self._new_chooser()
        self._chooser.check(self._known)
        if self._guard_where_possible:
            self.offset = 0.0 if groups is None else "auto"
        if self._guarded and groups is None:
            raise ArgumentError("offset='auto' needs the class of each example; this data set has none (regression?).")
        self.watch = Watch(groups) if self._guarded and groups is not None else None
        planned = self.schedule_for(num_examples, epochs=epochs, batch=batch)
        sizes = Counter([] if groups is None else map(str, np.asarray(groups).tolist()))
        self.check_floor(sizes, planned)
        if isinstance(planned, AdaptiveSchedule):
            planned = replace(planned, least=self.floor * len(sizes))
        self._planned: BaseSchedule = planned
        self.decider = None
        if self.tolerance is not None and isinstance(planned, AdaptiveSchedule):
            self.decider = Decider(Tolerance(self.tolerance), planned)
        self._regression = False
        self._training = TrainingValues(num_examples, self.columns)
        self._current = CurrentValues(num_examples, self.measure.history, every=self.measure.kind == "dynamics")
        self.round = 0
        self._plan: EpochPlan | None = None
        self._run = state[1]["run"] if state else uuid.uuid4().hex
        if state is not None:
            self.load_state_dict(*state)
        elif self.scores_from is not None and values is None:
            self._start_from(Path(self.scores_from), ids)
        elif values is not None and not self.in_batch:
            self._current.take(np.arange(num_examples), checked_values(values, num_examples))
        elif self.measure.kind == "given" and not self.in_batch:
            raise ArgumentError(
                f"the score {self.measure.name!r} is not made while training: give its values, or scores_from."
            )
        parts = state[1]["parts"] if state else (0, 0)
        self._tables = RunTables(folder, self._run, ids, parts) if write else None

    def lacks_recalls(self, epoch: int) -> bool:
        """Whether the choice before an epoch needs the recall of each class, and nobody has told it."""
        return "recalls" in self._chooser.needs and self.recalls is None and self.schedule.is_refresh(epoch)

    def rows_to_score(self, epoch: int) -> Rows:
        """Rows that need a forward pass before this epoch's selection; empty where none do."""
        # not before epoch 0: a head that has not trained knows nothing
        if epoch == 0 or not self.schedule.is_refresh(epoch):
            return np.empty(0, np.int64)
        if self.rescore == "none":  # what rests as suspected noise is looked at again, so that it can come back
            return np.empty(0, np.int64) if self.watch is None else self.watch.unheard()
        return np.flatnonzero(~self._current.fresh) if self.rescore == "dropped" else np.arange(len(self._current))

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
        return (*self.measure.columns, *(OF_LABEL if self._guarded else ()), MOMENT)

    def drain(self) -> Scores:
        """Hand over what training has seen since the last call, ascending by row; empty where nothing was seen."""
        return self._training.drain(self.round)

    def put_back(self, scores: Scores) -> None:
        """Take back what `drain` handed over, e.g. the values of all processes, for a checkpoint inside an epoch."""
        self._training.put_back(scores)

    def absorb(self, scores: Scores) -> None:
        """Take in values: of this process' `drain`, gathered from all processes, or of a scoring pass."""
        if not len(scores.rows):
            return
        if scores.source == "pass" or self.rescore != "all":
            moments = scores.values[MOMENT] if scores.source == "train" else None
            if (values := self.measure.read(scores.values)) is not None:
                self._current.take(scores.rows, values, moments=moments)
        if self.watch is not None:
            self.watch.take(scores)
        if self._tables is not None:
            self._tables.scores.append(scores)

    def scores(self, rows: Rows, values: Mapping[str, NDArray[np.float32]], source: Source, epoch: int) -> Scores:
        """Values as a record of the current round."""
        return Scores(rows, values, source, epoch, self.round)

    def plan(self, epoch: int) -> EpochPlan:
        """What this epoch trains on; closes the round at a refresh. Asking again for the same epoch changes nothing."""
        if self._plan is not None and self._plan.epoch == epoch:
            return self._plan
        if self.watch is not None:
            self.watch.review(epoch)
        if self.decider is not None and self.decider.schedule.is_refresh(epoch):
            plan = weighed(self._decide(epoch, self.decider), self._row_weights)
        elif self.schedule.is_full(epoch):
            plan = weighed(self._everything(epoch), self._row_weights)
        elif self.schedule.is_refresh(epoch) or self._plan is None:
            plan = weighed(self._choose(epoch), self._row_weights)
        else:
            plan = replace(self._plan, epoch=epoch)
        self._plan = plan
        if self._tables is not None:
            append_plan(self._tables.plans, plan)
        return plan

    @property
    def schedule(self) -> BaseSchedule:
        """Of the run that has begun; with a tolerance, as it is decided so far."""
        return self._planned if self.decider is None else self.decider.schedule

    def judge(self, epoch: int, value: float, rows: int, *, correlation: bool = False) -> None:
        """Tell a diet with a tolerance the dev metric after an epoch; see `datadiet.diet.tolerance.Tolerance.judge`."""
        if self.decider is not None:
            self.decider.judge(epoch, value, rows, correlation=correlation)

    def score_quantiles(self) -> dict[str, float]:
        """The 10th, 50th and 90th percentile of the score, of the examples that have a value; empty where none has."""
        return self._current.quantiles({"p10": 0.1, "p50": 0.5, "p90": 0.9})

    @property
    def history(self) -> ScoreStore:
        """The score history: `diet.history.to_pandas()` has every value of every example."""
        if self._tables is None:
            raise ArgumentError("the diet has no score history on this process: train with it first.")
        return self._tables.scores

    # ---- state ----

    def state_dict(self) -> tuple[dict[str, NDArray[Any]], Json]:
        """Everything needed to go on: arrays, and plain values."""
        parts_of = {"current": self._current.state(), "training": self._training.state()}
        arrays, numbers = joined(parts_of if self.watch is None else {**parts_of, "watch": self.watch.state()})
        planned, plan = plan_state(self._plan)
        arrays |= planned
        parts = (0, 0) if self._tables is None else self._tables.parts
        return arrays, {
            **numbers, "round": self.round, "run": self._run, **plan, "parts": parts,
            "regression": self._regression, "decider": None if self.decider is None else self.decider.state(),
        }  # fmt: skip

    def load_state_dict(self, arrays: Mapping[str, NDArray[Any]], numbers: Json) -> None:
        """Take up a state; the diet must have the same options and data.

        Raises:
            ArgumentError: If the state is of another number of examples.
        """
        rows = len(arrays["current.values"])
        if rows != len(self._current):
            raise ArgumentError(f"the checkpoint's diet has {rows} training examples, this run {len(self._current)}.")
        self._current.load(part(arrays, "current"), numbers["current"])
        self._training.load(part(arrays, "training"), numbers["training"])
        self.round, self._regression = numbers["round"], numbers["regression"]
        if self.decider is not None:
            self.decider.load(numbers["decider"])
        if self.watch is not None:
            self.watch.load(part(arrays, "watch"), numbers["watch"])
        self._plan = plan_of(arrays, numbers)

    # ---- inside ----

    def _columns(self, signals: Signals) -> Tensor:
        """Float32 `(columns without moment, batch)`."""
        self._regression = self._regression or any(head.labels.is_floating_point() for head in signals.heads.values())
        return self.measure.recorded(signals, of_label=self._guarded)

    def _everything(self, epoch: int) -> EpochPlan:
        return EpochPlan(epoch, np.arange(self.schedule.num_examples), full=True)

    def _decide(self, epoch: int, decider: Decider) -> EpochPlan:
        """How many rows, by the tolerance, and which."""
        values = self._current.close_round()
        decider.decide(epoch, values)
        full = self.schedule.is_full(epoch)
        plan = self._everything(epoch) if full else self._chosen(values, self.schedule.count(epoch), epoch)
        self.round += 1
        return plan

    def _choose(self, epoch: int) -> EpochPlan:
        count = self.schedule.count(epoch)
        if not self._current.known and epoch == 0:  # nothing is known yet: random, as in the paper
            return EpochPlan(epoch, self._chooser.draw(len(self._current), count, epoch=epoch), full=False)
        plan = self._chosen(self._current.close_round(), count, epoch)
        self.round += 1
        return plan

    def _chosen(self, values: NDArray[np.float32], count: int, epoch: int) -> EpochPlan:
        """What the selector keeps."""
        known = replace(self._known, recalls=self.recalls, scale=self.measure.scale(regression=self._regression))
        if self.watch is None:
            chosen = self._chooser.choose(values, count, epoch=epoch, known=known)
            return EpochPlan(epoch, chosen.rows, full=False, round=self.round, weights=chosen.weights)
        free = self.watch.free(count)
        chosen = self._chooser.choose(values[free], count, epoch=epoch, known=known.of(free))
        return EpochPlan(epoch, free[chosen.rows], full=False, round=self.round, weights=chosen.weights)

    def _start_from(self, run: Path, ids: Sequence[str] | None) -> None:
        known = last_values(run / "scores", self.measure.name)
        keys = range(len(self._current)) if ids is None else ids
        found = np.array([known.get(str(key), np.inf) for key in keys], np.float32)
        rows = np.flatnonzero(np.isfinite(found))
        if not len(rows):
            raise ArgumentError(f"scores_from: none of the ids of this data set occur in {run}.")
        self._current.take(rows, found[rows])
