"""What one epoch of training adds up to: a line of the result, and the ledger's counts.

The scoring pass of a Trainer: the Trainer's own data set, collator, model and precision, in eval mode.

What a diet does between the epochs of a Trainer: takes in what was seen, scores, chooses, and keeps the count.

The result of a Trainer script: the contract of a run folder, as far as a Trainer knows it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import TrainerCallback

from datadiet.diet.tolerance import CORRELATIONS
from datadiet.files import SCHEMA
from datadiet.ledger import Ledger
from datadiet.scoring.forward import TRAINING_BATCHES_PER_PASS_BATCH, Batch, forward_pass, pass_tokens, token_count
from datadiet.store import run_folder as layout
from datadiet.training.machine import environment
from datadiet.training.sampler import DietSampler, row_weights
from datadiet.training.state import exchange, share_of
from datadiet.types import CostLedger, EpochResult, Json, Signals

if TYPE_CHECKING:
    from datadiet.training.trainer import DietMixin


class EpochTotals:
    """Sums of one epoch while it runs.

    Tokens and losses stay tensors until a checkpoint or the end of the epoch asks for them, so that no step waits for
    the device.

    Args:
        epoch: From 0.
        ledger: Receives the examples and tokens; its accounts give the epoch's seconds.
    """

    def __init__(self, epoch: int, ledger: Ledger) -> None:
        self.epoch, self._ledger = epoch, ledger
        self.kept = self.dropped = self.batches = self.examples = self._tokens = self.unsettled = 0
        self.loss: Any = 0.0
        self.dev: Mapping[str, float] = {}
        self.closed = False
        self._new_tokens: Any = 0
        self._train_s, self._score_s = ledger.seconds("train"), ledger.seconds("score")

    def count(self, examples: int, batch: Mapping[str, Any]) -> None:
        """Count a training batch."""
        masks = [value for name, value in batch.items() if name.endswith("attention_mask")]
        self._new_tokens = self._new_tokens + (sum(mask.sum() for mask in masks) if masks else token_count(batch))
        self.unsettled += examples
        self.batches += 1

    def settle(self) -> None:
        """Move what was counted since the last call into the ledger."""
        tokens = int(self._new_tokens)
        self._ledger.count_training(self.unsettled, tokens)
        self.examples += self.unsettled
        self._tokens += tokens
        self.unsettled, self._new_tokens = 0, 0

    def seconds(self) -> tuple[float, float]:
        """Seconds of training and of scoring."""
        return self._ledger.seconds("train") - self._train_s, self._ledger.seconds("score") - self._score_s

    def so_far(self) -> Json:
        """The sums as plain values, for a checkpoint."""
        self.settle()
        train_s, score_s = self.seconds()
        counts = {name: getattr(self, name) for name in ("epoch", "closed", "kept", "dropped", "batches", "examples")}
        return {**counts, "loss": float(self.loss), "tokens": self._tokens, "train_s": train_s, "score_s": score_s}

    def carry(self, earlier: Json) -> None:
        """Take up an epoch in the middle, from its `so_far`."""
        for name in ("kept", "dropped", "batches", "examples", "loss"):
            setattr(self, name, earlier[name])
        self._tokens = earlier["tokens"]
        self._train_s -= earlier["train_s"]
        self._score_s -= earlier["score_s"]

    def mean_loss(self, accumulation: int) -> float | None:
        """Mean training loss of the epoch's steps so far."""
        steps = self.batches // accumulation
        return float(self.loss) / steps if steps else None

    def close(self, accumulation: int) -> EpochResult:
        """The epoch's line of the result; `accumulation` batches make one step."""
        self.settle()
        self.closed = True
        train_s, score_s = self.seconds()
        steps = -(-self.batches // accumulation)
        return EpochResult(
            epoch=self.epoch,
            kept=self.kept,
            dropped=self.dropped,
            steps=steps,
            seconds=train_s,
            score_s=score_s,
            tokens=self._tokens,
            train_loss=float(self.loss) / steps if steps else None,
            dev=self.dev,
        )


Rows = NDArray[np.int64]
Values = NDArray[np.float32]


def score_rows(
    trainer: DietMixin, rows: Rows, *, listen: Callable[[Rows, Signals], None] | None = None
) -> tuple[Rows, dict[str, Values]]:
    """One scoring pass of this process over some training rows.

    Args:
        trainer: In training, i.e. with a loader that carries rows.
        rows: int64 `(n,)`.
        listen: Is given the rows and signals of every batch, in the order of the pass.

    Returns:
        The rows, ascending, and the float32 values of each column of the history beside them.
    """
    order = np.empty(len(rows), np.int64)
    table = torch.empty(0)  # (columns, rows), in the order of the pass and where the model is, so that no batch waits
    done = 0
    for part, outputs, batch in _batches(trainer, rows):
        signals = trainer.signals_of_batch(outputs, batch)
        if listen is not None:
            listen(part, signals)
        values = torch.stack([*trainer.diet.values_of(signals).values()])
        if not done:
            table = values.new_empty(len(values), len(rows))
        table[:, done : done + len(part)] = values
        order[done : done + len(part)] = part
        done += len(part)
    return _ascending(order, dict(zip(trainer.diet.columns, table.cpu().numpy(), strict=False)))  # no rows, no columns


def _batches(trainer: DietMixin, rows: Rows) -> Iterator[tuple[Rows, Any, Batch]]:
    """Rows, outputs and batch: `forward_pass` with what the trainer has."""
    loader: Any = trainer.callback_handler.train_dataloader
    inner = getattr(loader, "base_dataloader", loader)
    network, batch_size = trainer.network, trainer._train_batch_size
    mean = 1 if trainer.lengths is None else max(1, int(trainer.lengths.mean()))
    return forward_pass(
        network,
        inner.dataset.dataset,
        inner.collate_fn.collate,
        rows=rows,
        lengths=trainer.lengths,
        batch_tokens=pass_tokens(batch_size * mean, next(network.parameters()).device),
        batch_size=batch_size * TRAINING_BATCHES_PER_PASS_BATCH,
        call=trainer.call_model,
        ledger=trainer.ledger,
    )


def _ascending(order: Rows, columns: dict[str, Values]) -> tuple[Rows, dict[str, Values]]:
    """Rows and their columns by row, in place: no second copy of the table."""
    places = np.argsort(order)
    for values in columns.values():
        values[:] = values[places]
    order.sort()
    return order, columns


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


def result_of(trainer: DietMixin) -> Json:
    """What `result.json` holds: the contract of a run folder, with null for what a Trainer does not know."""
    epochs = math.ceil(trainer.args.num_train_epochs)
    tokens = None if trainer.lengths is None else int(trainer.lengths.sum()) * epochs
    rows = {"train": trainer.num_rows}
    dev: Any = trainer.eval_dataset
    rows |= {"dev": len(dev)} if hasattr(dev, "__len__") and not isinstance(dev, dict) else {}
    precision = "bf16" if trainer.args.bf16 else "fp16" if trainer.args.fp16 else "fp32"
    return {
        "schema": SCHEMA,
        "task": None,
        "data": {"name": None, "fingerprint": getattr(trainer.train_dataset, "_fingerprint", None), "rows": rows},
        "model": Path(getattr(getattr(trainer.model, "config", None), "_name_or_path", "") or "").name or None,
        "seed": trainer.args.seed,
        "diet": trainer.diet.describe(),
        **layout.costs_of(trainer.ledger.snapshot(), trainer.epoch_results, rows["train"] * epochs, tokens),
        "metrics": {"dev": dict(trainer.epoch_results[-1].dev) if trainer.epoch_results else {}, "test": None},
        "tolerance": trainer.diet.decider and trainer.diet.decider.summary(),
        "weights_tested": None,
        "energy": None,
        "environment": environment(trainer.args.device, precision),
    }
