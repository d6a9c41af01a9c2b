"""The Trainer of a run: it evaluates with the task's own metrics, tells the listener, and asks for checkpoints."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import EarlyStoppingCallback, PrinterCallback, TrainerCallback, TrainingArguments

from datadiet import run_folder as layout
from datadiet.checks import ArgumentError
from datadiet.integrations.checkpoints import NUMBERS
from datadiet.integrations.huggingface import DietTrainer
from datadiet.progress import StepReport
from datadiet.tasks import Prediction
from datadiet.training_loss import own_loss
from datadiet.training_setup import Run

REPORT_EVERY_S = 0.2  # a report reads the loss from the device, which stops it for a moment


class RunTrainer(DietTrainer):
    """A `DietTrainer` for a prepared run."""

    def __init__(self, run: Run, args: TrainingArguments) -> None:
        self.run = run
        super().__init__(
            model=run.model,
            args=args,
            train_dataset=run.train,
            eval_dataset=run.dev,
            data_collator=run.collate,
            compute_loss_func=own_loss(run.config, run.data),
            diet=run.diet,
            ids=run.data.splits["train"].ids,
            groups=run.task.groups(run.train),
            teacher=run.teacher,
            features=run.known.features,
            values=run.known.values,
            row_weights=row_weights_of(run),
            run_folder=run.folder,
            ledger=run.ledger,
        )
        self.remove_callback(PrinterCallback)  # the listener is told instead
        if run.config.early_stopping:
            self.add_callback(EarlyStoppingCallback(early_stopping_patience=run.config.early_stopping))
        self.add_callback(_Reports(self))  # last: an epoch's line is complete when it is reported

    def evaluate(self, *_args: Any, **_kwargs: Any) -> dict[str, float]:
        """Metrics of the dev split, as the Trainer names them."""
        with self.ledger.charge("eval"):
            run = self.run
            predictions = run.predict(self.model, run.dev)
            found = run.task.metrics(run.data.splits["dev"], predictions) or {}
            self.diet.recalls = class_recalls(run.data.splits["dev"].labels, predictions, run.task.label_names)
            metrics = {f"eval_{name}": value for name, value in found.items()}
            self.log(dict(metrics))
            self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    @property
    def judged_metric(self) -> str:
        """The task's own main metric."""
        return self.run.task.main_metric

    def _init_training_state(self, *args: Any, **kwargs: Any) -> tuple[int, int]:
        epoch, batches = super()._init_training_state(*args, **kwargs)
        # the state names the best checkpoint by its path, and a run folder may have moved since
        best = self.run.folder / layout.CHECKPOINTS / f"checkpoint-{self.state.best_global_step}"
        if best.is_dir():
            self.state.best_model_checkpoint = str(best)
        if self._out_of_patience():
            return math.ceil(self.args.num_train_epochs), 0  # stopped before it was killed: nothing is left to train
        return epoch, batches

    def _out_of_patience(self) -> bool:
        callbacks: Any = self.state.stateful_callbacks
        kept = callbacks.get(EarlyStoppingCallback.__name__) if callbacks else None
        if not self.run.config.early_stopping or not kept:
            return False
        attributes = (kept[0] if isinstance(kept, list) else kept)["attributes"]
        return bool(attributes["early_stopping_patience_counter"] >= self.run.config.early_stopping)


def class_recalls(
    labels: Sequence[Any] | None, predictions: Sequence[Prediction], names: Sequence[str]
) -> dict[int, float] | None:
    """The share of each class's examples that is predicted right, by class number; 0.5 for a class without examples.

    Args:
        labels: Gold labels; None where there are none.
        predictions: One each.
        names: Class names by class number; empty for a regression.

    Returns:
        None where there is not one class per example.

    Example:
        >>> said = [Prediction("a", 1.0, None), Prediction("b", 1.0, None)]
        >>> class_recalls(["a", "a"], said, ("a", "b"))
        {0: 0.5, 1: 0.5}
    """
    if not names or labels is None or any(isinstance(label, tuple) for label in labels):
        return None
    right = Counter(str(label) for label, said in zip(labels, predictions, strict=True) if str(label) == said.label)
    all_of = Counter(map(str, labels))
    return {number: right[name] / all_of[name] if all_of[name] else 0.5 for number, name in enumerate(names)}


def row_weights_of(run: Run) -> NDArray[np.float32] | None:
    """How many rows each training row stands for, where they shall count so often."""
    times = run.data.splits["train"].times
    return np.array(times, np.float32) if run.config.dedupe_weights and times is not None else None


class _Reports(TrainerCallback):
    """Tells the listener how training goes, and asks for checkpoints."""

    def __init__(self, trainer: RunTrainer) -> None:
        self._trainer, self._run = trainer, trainer.run
        self._reported = -math.inf

    def on_step_end(self, args: Any, state: Any, control: Any, **_kwargs: Any) -> None:
        now = time.perf_counter()
        if now - self._reported >= REPORT_EVERY_S or state.global_step == state.max_steps:
            self._reported = now
            self._run.listener.stepped(self._report(args, state))

    def _report(self, args: Any, state: Any) -> StepReport:
        epoch, ledger = self._trainer.current_epoch, self._run.ledger
        here = epoch.examples + epoch.unsettled
        seconds, _ = epoch.seconds()
        left = state.max_steps - state.global_step
        return StepReport(
            epoch=epoch.epoch,
            epochs=self._run.config.epochs,
            step=state.global_step,
            steps=state.max_steps,
            kept=epoch.kept,
            dropped=epoch.dropped,
            loss=epoch.mean_loss(args.gradient_accumulation_steps),
            examples_per_s=here / max(seconds, 1e-9),
            seconds_left=left * ledger.seconds("train") / max(1, state.global_step),
            seconds_saved=self._trainer.seconds_saved(),
        )

    def on_epoch_end(self, args: Any, state: Any, control: Any, **_kwargs: Any) -> Any:
        config = self._run.config
        self._check_loss(config.learning_rate)
        if config.checkpoint_every and not config.early_stopping:
            # after the last step only to be kept: what follows is the finished run itself
            useful = config.keep_checkpoints or state.global_step < state.max_steps
            control.should_save = useful and (self._trainer.current_epoch.epoch + 1) % config.checkpoint_every == 0
        return control

    def _check_loss(self, rate: float) -> None:
        """Weights that are not numbers never become numbers again, and nothing can be chosen by such scores."""
        line = self._trainer.epoch_results[-1]
        if line.train_loss is not None and math.isnan(line.train_loss):
            raise ArgumentError(
                f"training has diverged: in epoch {line.epoch} (from 0) the loss is no number any more. "
                f"Lower the learning rate ({rate:g}), or use a longer lr_warmup or precision fp32."
            )

    def on_save(self, args: Any, state: Any, *_args: Any, **_kwargs: Any) -> None:
        self._run.meter.save(Path(args.output_dir) / f"checkpoint-{state.global_step}")

    def on_evaluate(self, *_args: Any, **_kwargs: Any) -> None:
        if self._trainer.epoch_results:
            self._run.listener.epoch_ended(self._trainer.epoch_results[-1])


def last_checkpoint(folder: Path) -> Path | None:
    """The last complete checkpoint of a run folder; one that a kill left half-written does not count."""
    complete = (file.parent for file in (folder / layout.CHECKPOINTS).glob(f"checkpoint-*/{NUMBERS}"))
    return max(complete, key=lambda checkpoint: int(checkpoint.name.partition("-")[2]), default=None)
