"""What a diet is told, checked together, and what follows from that alone: its schedule, forecast and description."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from datadiet.adaptive import AdaptiveSchedule
from datadiet.checks import Problems
from datadiet.choosing import Chooser, Known, Selector
from datadiet.diet.checks import check_alone, check_selector, check_tolerance, checked_keep
from datadiet.diet.select_options import batch_method
from datadiet.forecasting import forecast
from datadiet.history import History
from datadiet.measures import ScoreFunction, checked_measure
from datadiet.records import Forecast, Json, Signals
from datadiet.schedules import REFRESH_EVERY, BaseSchedule, Schedule
from datadiet.scores import COMBINATIONS
from datadiet.selectors import IN_BATCH, InBatch, floor_problems

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

    def batch_method(self) -> InBatch | None:
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
