"""What a diet does between the epochs of a Trainer: takes in what was seen, scores, chooses, and keeps the count."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

import torch
from transformers import TrainerCallback

from datadiet.integrations.distributed import exchange, share_of
from datadiet.integrations.epochs import EpochTotals
from datadiet.integrations.passes import score_rows
from datadiet.integrations.rows import row_weights
from datadiet.integrations.sampler import DietSampler
from datadiet.records import CostLedger, EpochResult, Json
from datadiet.tolerance import CORRELATIONS

if TYPE_CHECKING:
    from datadiet.integrations.huggingface import DietMixin


class BetweenEpochs:
    """The epochs of one Trainer: the one that trains, and those that have trained.

    Args:
        trainer: With its diet and its ledger.

    Attributes:
        current: Sums of the epoch that trains.
        results: A line for each epoch that has trained.
        sampler: Is told the plan; None where the Trainer's own is left alone.
        weights: Of the rows' losses in this epoch, float32 `(rows,)`; None where all weigh 1.
    """

    def __init__(self, trainer: DietMixin) -> None:
        self._trainer, self._ledger, self._diet = trainer, trainer.ledger, trainer.diet
        self._dieting = trainer.diet.plans
        self.current = EpochTotals(0, self._ledger)
        self.results: list[EpochResult] = []
        self.sampler: DietSampler | None = None
        self.weights: torch.Tensor | None = None

    def begin(self, so_far: Json | None) -> None:
        """Take in what the last epoch saw, score what needs it, choose, and tell the sampler.

        Args:
            so_far: What a checkpoint holds of the run, at the first epoch after a resume.
        """
        epoch, begun = self._position()
        if so_far is not None:
            self._carry_epoch(so_far["epoch"])
            decider = self._diet.decider
            if not begun and decider is not None and decider.waits_for(epoch - 1):
                self._trainer.evaluate()  # killed between a checkpoint and its evaluation
            if not begun and self._diet.lacks_recalls(epoch):
                self._trainer.evaluate()  # likewise
        if not begun:
            self.current = EpochTotals(epoch, self._ledger)
            self.absorb()
            if self._dieting:
                self._score(epoch)
        with self._ledger.charge("select"):
            plan = self._diet.plan(epoch)
        if self.sampler is not None:
            self.sampler.set_plan(plan)
        rows = self._trainer.num_rows
        self.weights = row_weights(plan, rows)
        self.current.kept, self.current.dropped = len(plan.rows), rows - len(plan.rows)
        if self._dieting:  # fewer than planned, where a tolerance has decided
            self._trainer.state.max_steps = self._diet.schedule.total_steps
        if self._dieting and not begun:
            with self._ledger.charge("select"):
                metrics = self._metrics()
            self._trainer.log(metrics)

    def _position(self) -> tuple[int, bool]:
        """The epoch that is about to train, and whether it was begun before a resume."""
        state = self._trainer.state
        if self._dieting:
            epoch, step = self._diet.schedule.locate(state.global_step)
            return epoch, step > 0
        passed = state.epoch or 0.0
        epoch = int(passed + 1e-6)
        return epoch, passed - epoch > 1e-6

    def absorb(self) -> None:
        """Take in what training has seen on all processes."""
        trainer, diet = self._trainer, self._diet
        with self._ledger.charge("select"):
            diet.absorb(exchange(diet.drain(), diet.columns, trainer.accelerator))

    def _score(self, epoch: int) -> None:
        """The scoring pass before a choice, where there is one."""
        trainer, diet = self._trainer, self._diet
        rows = diet.rows_to_score(epoch)
        if len(rows):
            with self._ledger.charge("score"):
                found = diet.scores(*score_rows(trainer, share_of(rows, trainer.accelerator)), "pass", epoch)
                diet.absorb(exchange(found, diet.columns, trainer.accelerator))

    def end(self) -> None:
        """Close the epoch's line of the result."""
        if self._dieting:
            self._trainer.state.epoch = float(self.current.epoch + 1)  # the Trainer's is in steps of the longest epoch
        self.results.append(self.current.close(self._trainer.args.gradient_accumulation_steps))

    def evaluated(self, metrics: Mapping[str, float]) -> None:
        """Put the dev metrics into the line of the epoch they follow, and tell a diet with a tolerance."""
        dev = {name.removeprefix("eval_"): value for name, value in metrics.items() if name.startswith("eval_")}
        if self.current.closed and self.results:
            self.results[-1] = replace(self.results[-1], dev=dev)
        else:
            self.current.dev = dev
        judged = self._trainer.judged_metric
        if self._diet.tolerance is not None and judged in dev:
            data: Any = self._trainer.eval_dataset
            self._diet.judge(self.current.epoch, dev[judged], len(data), correlation=judged in CORRELATIONS)

    # ---- what is told ----

    def _metrics(self) -> dict[str, float]:
        """What goes to `report_to` before each epoch, as ordinary training metrics."""
        found = {"diet_kept": float(self.current.kept), "diet_dropped": float(self.current.dropped)}
        found |= {f"diet_score_{name}": value for name, value in self._diet.score_quantiles().items()}
        return {**found, "diet_seconds_saved": self.seconds_saved()}

    def seconds_saved(self) -> float:
        """What the dropped examples would have cost so far, less the time spent on scoring and selecting."""
        epoch, ledger = self.current, self._ledger
        per_example = ledger.seconds("train") / max(1, ledger.examples_backward + epoch.unsettled)
        dropped = 0.0 + sum(result.dropped for result in self.results)
        if not epoch.closed:
            dropped += epoch.dropped * min(1.0, (epoch.examples + epoch.unsettled) / max(1, epoch.kept))
        return dropped * per_example - ledger.seconds("score") - ledger.seconds("select")

    # ---- checkpoints ----

    def so_far(self) -> Json:
        """The run so far as plain values, for a checkpoint."""
        epoch = self.current.so_far()  # before the ledger's snapshot, which it brings up to date
        lines = [asdict(result) for result in self.results]
        return {"cost": asdict(self._ledger.snapshot()), "epochs": lines, "epoch": epoch}

    def carry(self, so_far: Json) -> None:
        """Take up the costs and the lines of a run that goes on."""
        self._ledger.carry(CostLedger(**so_far["cost"]))
        self.results = [EpochResult(**result) for result in so_far["epochs"]]

    def _carry_epoch(self, so_far: Json) -> None:
        """Take up the epoch that the checkpoint was in; close it if its last step was the checkpoint's."""
        if so_far["closed"]:
            return
        self.current = EpochTotals(so_far["epoch"], self._ledger)
        self.current.carry(so_far)
        if so_far["epoch"] < self._position()[0]:
            self.results.append(self.current.close(self._trainer.args.gradient_accumulation_steps))


class EpochHooks(TrainerCallback):
    """Calls the trainer's own methods at the moments that only callbacks see."""

    def __init__(self, trainer: DietMixin) -> None:
        self._trainer = trainer

    def on_epoch_begin(self, *_args: Any, **_kwargs: Any) -> None:
        """Before the loader asks the sampler for an order."""
        self._trainer.begin_epoch()

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_kwargs: Any) -> Any:
        """After the last step of an epoch."""
        self._trainer.end_epoch()
        control.should_training_stop = control.should_training_stop or self._trainer.ended
        return control

    def on_evaluate(self, *_args: Any, **kwargs: Any) -> None:
        """After the dev split."""
        self._trainer.end_evaluation(kwargs.get("metrics") or {})

    def on_train_end(self, *_args: Any, **_kwargs: Any) -> None:
        """After the last epoch."""
        self._trainer.end_training()
