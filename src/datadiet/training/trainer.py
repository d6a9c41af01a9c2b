"""A diet inside the Hugging Face Trainer: `DietTrainer`, and `DietMixin` for any other subclass.

One training run, one mutable sampler. The Trainer sets the constraints: it reads the length of its loader once, at the
start, so the number of steps is planned up front and only *which* examples train is chosen later; it fires
`on_epoch_begin` before it asks the sampler for an order, which is the moment to choose; its loaders fetch batches
ahead, so rows travel inside the batches. The work between epochs is in `datadiet.training.epochs`.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
import torch
from accelerate.utils import broadcast_object_list
from numpy.typing import NDArray
from transformers import Trainer, TrainerCallback

from datadiet.diet.diet import Diet
from datadiet.errors import ArgumentError
from datadiet.files import SCHEMA
from datadiet.ledger import Ledger
from datadiet.store import run_folder as layout
from datadiet.tasks.loading import check_finite
from datadiet.training.arguments import check_arguments, check_judged, follow
from datadiet.training.distill import Teacher
from datadiet.training.epochs import BetweenEpochs, EpochTotals
from datadiet.training.machine import environment
from datadiet.training.race import catch_up, run_race
from datadiet.training.sampler import DietSampler, carry_rows
from datadiet.training.setup import TrainerSetup
from datadiet.training.signals import SignalsOf
from datadiet.training.state import (
    NUMBERS,
    OWN,
    READING,
    RUN_SO_FAR,
    STREAM,
    TRAINED_WITH,
    checkpoint_to_resume,
    exchange,
    load_diet,
    save_diet,
)
from datadiet.training.stream import check_stream, is_stream
from datadiet.training.tokens import TokenReference
from datadiet.training.trl import give_errors, number_rows, of_numbered, trl_form
from datadiet.types import CostLedger, EpochPlan, EpochResult, Json

logger = logging.getLogger(__name__)


class DietMixin(TrainerSetup):
    """Puts a diet into any Trainer subclass: `class MyTrainer(DietMixin, SentenceTransformerTrainer): ...`.

    At `keep=1.0` the Trainer's own sampler is left alone and the losses are bit-identical to the plain Trainer's, but
    in a subclass that sets `own_batches`.

    Attributes:
        own_batches: Whether epochs on everything are put into batches as the epochs of a diet are, also where no epoch
            is chosen: the runs of a comparison then differ in their rows alone, not in their padding.
        own_state: Plain values that every checkpoint holds under `own`.

    Args:
        diet: The diet.
        ids: The user's id of each training row; an `id` column of the training data by default, else row numbers.
        groups: int64 class of each training row, for `floor` and quotas; an integer label column by default.
        features: Where each training row lies, float `(rows, size)` or a SciPy CSR matrix, for selectors that cover a
            space.
        signals: `(outputs, batch) -> Signals`; the diet's own by default, else what is found by names, shapes
            and the first loss (`tasks.reading`).
        values: float32 `(rows,)`, of a score that training does not make; of `top_reducible` the irreducible losses.
        row_weights: float `(rows,)`, above 0: the weight of each row's loss, e.g. how often its text occurs.
        reference: Another causal language model with the same tokens, for a token rule that compares with it; or its
            losses (`datadiet.training.tokens.token_reference`).
        teacher: Logits of another model for the training rows, which take a share of the loss (`teacher_of`).
        run_folder: Receives scores/, plans/ and result.json; `args.output_dir` by default. A run that is no resume
            moves what an earlier one has recorded there to scores.1/, plans.1/ and result.1.json.
        overwrite: Whether such a run removes it instead.
        ledger: A cost ledger that is already running; the caller then writes the result.
        *args, **kwargs: Of the Trainer.

    Raises:
        ArgumentError: If the training arguments cannot go with a diet.
    """

    own_batches = False
    own_state: Mapping[str, Any] = MappingProxyType({})

    def __init__(
        self,
        *args: Any,
        diet: Diet | None = None,
        signals: SignalsOf | None = None,
        ids: Sequence[str] | None = None,
        groups: NDArray[np.int64] | None = None,
        features: Any = None,
        values: NDArray[np.float32] | None = None,
        row_weights: NDArray[np.float32] | None = None,
        teacher: Teacher | None = None,
        reference: torch.nn.Module | TokenReference | None = None,
        run_folder: str | Path | None = None,
        overwrite: bool = False,
        ledger: Ledger | None = None,
        **kwargs: Any,
    ) -> None:
        if not isinstance(diet, Diet):
            raise ArgumentError(f"diet must be a datadiet.Diet, got {diet!r:.200}. Pass diet=datadiet.Diet(keep=0.5).")
        # before the user's callbacks, which may read what ours record
        kwargs["callbacks"] = [_EpochHooks(self), *(kwargs.get("callbacks") or ())]
        self._form = trl_form(self)
        of_rows = {"ids": ids, "groups": groups, "features": features, "values": values, "row_weights": row_weights}
        of_rows = {name: value for name, value in of_rows.items() if value is not None}
        if self._form:
            number_rows(kwargs, of_rows)
        super().__init__(*args, **kwargs)
        if self._form == "sft":
            give_errors(self.model)
        if self._form:
            of_rows = of_numbered(self, of_rows)
        self.diet, self.ledger, self.teacher = diet, ledger or Ledger(), teacher
        self.run_folder = Path(str(self.args.output_dir) if run_folder is None else run_folder)
        self._ids, self._groups, self._features, self._values = map(
            of_rows.get, ("ids", "groups", "features", "values")
        )
        self._row_weights = of_rows.get("row_weights")
        self._read_signals, self._writes_result = signals, ledger is None
        self._batch_chooser = self.tokens = self._steps = self._resumed = None
        self._reference = reference
        self._epochs = BetweenEpochs(diet, self.ledger, self.accelerator, self.args.gradient_accumulation_steps)
        self._overwrite, self._begun = overwrite, False  # in this call of `train`
        self._raced = 0  # optimizer steps of this epoch that its race has made
        self._evaluates_dev: bool | None = None
        check_arguments(self.args, self.train_dataset, diet.options)
        self._is_stream = is_stream(self.train_dataset)
        if self._is_stream:
            beside = {**of_rows, "teacher": teacher}
            given = [name for name, value in beside.items() if value is not None]
            check_stream(diet.options, given, lasts=not hasattr(self.train_dataset, "__len__"))
        if diet.options.config.tolerance is not None:
            check_judged(self.args, self.eval_dataset, self.judged_metric)

    # ---- the Trainer's own methods, each extended ----

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """Train; a diet's state is loaded before the Trainer's own, because the length of the epoch depends on it."""
        writes = self._writes_result and self.is_world_process_zero()
        with layout.claimed(self.run_folder) if writes else nullcontext():
            checkpoint = self._checkpoint(resume_from_checkpoint) if resume_from_checkpoint else None
            self._resumed = None if checkpoint is None else load_diet(Path(checkpoint))
            if self._writes_result and self.state.global_step:  # a second run of this trainer has costs of its own
                self.ledger = Ledger()
            self._begun = False
            with self.ledger.charge("train"):
                output = super().train(checkpoint, *args, **kwargs)
            check_finite(self.network)
            cost = self._epochs.cost()
            if writes:
                layout.write_result(self.run_folder, self._result(cost))
        return output

    def _checkpoint(self, given: str | Literal[True]) -> str:
        """The checkpoint to resume from, the same on all processes."""
        place: list[Any] = [None]
        if self.is_world_process_zero():
            place[0] = checkpoint_to_resume(given, Path(str(self.args.output_dir)), self.run_folder, note=self.note)
        return str(broadcast_object_list(place)[0])

    def set_initial_training_values(self, args: Any, dataloader: Any, *more: Any) -> Any:
        """As the Trainer's, with the epochs and steps that the schedule plans: every LR schedule ends at its own end.

        Here the Trainer's own loader begins to carry rows and to read the diet's plan: one that somebody only looks at
        stays as it is.
        """
        if not self._is_stream:
            carry_rows(dataloader)
        values = list(super().set_initial_training_values(args, dataloader, *more))
        self._begin(dataloader, values[0])
        if self.diet.options.plans:
            values = list(super().set_initial_training_values(args, dataloader, *more))
            values[0], values[3] = self.diet.schedule.epochs, self.diet.schedule.total_count
            values[6] = self.diet.schedule.planned_steps
        return tuple(values)

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """As the Trainer's; with a tolerance it follows the position in the planned maximum."""
        scheduler = super().create_scheduler(num_training_steps, optimizer)
        if self.diet.options.config.tolerance is not None:
            follow(scheduler, lambda step: self.diet.schedule.position(step))
        return scheduler

    def _init_training_state(self, *args: Any, **kwargs: Any) -> tuple[int, int]:
        epoch, batches = super()._init_training_state(*args, **kwargs)
        if self.diet.options.plans and self._resumed is not None:
            # the Trainer divides the step by the longest epoch; the epochs of a diet differ
            epoch, step = self.diet.schedule.locate(self.state.global_step)
            batches = 0 if self.args.ignore_data_skip else step * self.args.gradient_accumulation_steps
        return epoch, batches

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> tuple[list[Any], Any]:
        """As the Trainer's; what trains of a batch of next tokens is chosen before the tokens of the step are counted,
        by which its loss is divided."""
        samples, items = super().get_batch_samples(*args, **kwargs)
        trainer: Any = self

        def count(batches: Sequence[Any]) -> Any:
            device = kwargs["device"] if "device" in kwargs else args[2]
            return trainer._get_num_items_in_batch(batches, device)

        return (samples, items) if self._steps is None else self._steps.prepared(samples, items, count)

    def training_step(self, model: torch.nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> torch.Tensor:
        """As the Trainer's, on the batch as the collator made it; a batch that trains twice in a step counts once."""
        step: Callable[..., torch.Tensor] = super().training_step
        if self._steps is None:
            return step(model, inputs, *args, **kwargs)
        return self._steps.train(lambda batch: step(model, batch, *args, **kwargs), inputs)

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """The subclass' own loss; in training, the diet also records the values of its forward pass."""
        batch = None if self._steps is None else self._steps.batch_of(inputs)
        if self._steps is None or batch is None:
            return super().compute_loss(
                model, inputs, return_outputs=return_outputs, num_items_in_batch=num_items_in_batch
            )
        compute = partial(super().compute_loss, model, batch.inputs)
        asked = {"return_outputs": True} if return_outputs else {}
        loss, outputs = self._steps.loss(batch, compute, num_items_in_batch, asked)
        return (loss, outputs) if return_outputs else loss

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """As the Trainer's; the ledger counts it as evaluation."""
        of_dev = not args and kwargs.get("eval_dataset") is None
        with self.ledger.charge("eval"), self._evaluating(of_dev):
            return super().evaluate(*args, **kwargs)

    def _evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        with self._evaluating(True):
            metrics: dict[str, float] = super()._evaluate(*args, **kwargs)
            return metrics

    @contextmanager
    def _evaluating(self, of_dev: bool) -> Iterator[None]:
        """Know whether it is the dev split that is evaluated; the outermost call says, for each of several splits."""
        outer = self._evaluates_dev
        self._evaluates_dev = of_dev if outer is None else outer
        try:
            yield
        finally:
            self._evaluates_dev = outer

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        folder = Path(self._get_output_dir(trial=trial)) / f"checkpoint-{self.state.global_step}"
        with self.ledger.charge("save"):
            if self.args.should_save:
                (folder / NUMBERS).unlink(missing_ok=True)  # what is written over is not complete
            super()._save_checkpoint(model, trial)
            if self._epochs.stream is not None:
                self._epochs.absorb()
            elif self.accelerator.num_processes > 1:
                # each process holds the values of its own rows; a checkpoint inside an epoch needs those of all
                self.diet.put_back(exchange(self.diet.drain(), self.diet.columns, self.accelerator))
            so_far = self._epochs.so_far()
            arrays, numbers = self.diet.state_dict()
            if self._steps is not None:
                of_steps, numbers_of_steps = self._steps.state()
                arrays, numbers = {**arrays, **of_steps}, {**numbers, **numbers_of_steps}
            if self.args.should_save and folder.is_dir():
                numbers |= {RUN_SO_FAR: so_far, OWN: dict(self.own_state)}
                numbers[TRAINED_WITH] = self.trained_with()
                numbers[READING] = self._signals.state()
                numbers[STREAM] = self._epochs.stream and self._epochs.stream.state()
                save_diet(folder, arrays, numbers)

    def _save(self, *args: Any, **kwargs: Any) -> None:
        super()._save(*args, **kwargs)
        folder = Path(str((args[0] if args else kwargs.get("output_dir")) or self.args.output_dir))
        (folder / "training_args.bin").unlink(missing_ok=True)  # a pickle

    # ---- epochs ----

    def note(self, text: str) -> None:
        """Say something that the user should know before the training."""
        logger.warning(text)

    @property
    def current_epoch(self) -> EpochTotals:
        """Sums of the epoch that trains; until its begin, of the last one."""
        return self._epochs.current

    @property
    def epoch_results(self) -> list[EpochResult]:
        """A line of the result for each epoch that has trained."""
        return self._epochs.results

    def begin_epoch(self) -> None:
        """Record the values of the last epoch, score the rows that need it, and choose; see `BetweenEpochs.begin`."""
        so_far = None if self._resumed is None else self._resumed[1][RUN_SO_FAR]
        self._raced = 0
        self._epochs.begin(self.context, self.state, so_far, self._race)
        self._resumed = None
        if self._steps is not None:
            self._steps.begin_epoch()

    # ---- races ----

    def _race(self, epoch: int, plans: Mapping[str, EpochPlan]) -> int:
        if self._steps is not None:
            self._steps.begin_epoch()  # its first steps have the tokens that are chosen for it
        self._raced = run_race(self, self.context, epoch, plans, begin=self._epochs.use)
        return self._raced

    def end_step(self, control: Any) -> None:
        """After a step of the Trainer's loop, which has not seen those of a race at the beginning of the epoch."""
        if self._raced:
            catch_up(self.args, self.state, control, self.current_epoch, self._raced)

    @property
    def sampler(self) -> DietSampler | None:
        """Of the training rows; None where the Trainer's own stays."""
        return self._epochs.sampler

    def optimizer_step(self, batches: Sequence[Mapping[str, Any]]) -> torch.Tensor:
        """One optimizer step outside the Trainer's loop, as that makes it; callbacks are not called.

        Args:
            batches: Of this process, one for each step of the accumulation.

        Returns:
            The training loss.
        """
        trainer: Any = self
        samples, items = self.get_batch_samples(iter(batches), len(batches), self.args.device)
        self.current_gradient_accumulation_steps = len(samples)
        model, loss = self.model_wrapped, torch.zeros((), device=self.args.device)
        track = getattr(trainer, "_track_num_input_tokens", lambda _inputs: None)
        for place, inputs in enumerate(samples, 1):
            last = place == len(samples)
            self.accelerator.gradient_state._set_sync_gradients(last)
            with nullcontext() if last else self.accelerator.no_sync(model=model):
                loss = loss + self.training_step(model, inputs, items)
            trainer.current_flos += float(self.floating_point_ops(inputs))
            track(inputs)
        if self.args.max_grad_norm > 0:
            trainer._clip_grad_norm(model)
        trainer.optimizer.step()
        # one that goes by a metric steps where the dev split is evaluated
        by_metric = "metrics" in inspect.signature(trainer.lr_scheduler.step).parameters
        if not (self.accelerator.optimizer_step_was_skipped or by_metric):
            trainer.lr_scheduler.step()
        model.zero_grad()
        return loss

    def add_loss(self, loss: torch.Tensor) -> None:
        """Count the losses of steps outside the Trainer's loop in its log."""
        trainer: Any = self
        trainer._tr_loss += loss.to(trainer._tr_loss.device)

    def end_epoch(self) -> None:
        """Close the epoch's line of the result."""
        self._epochs.end(self.state)

    def end_evaluation(self, metrics: Mapping[str, float]) -> None:
        """Put the dev metrics into the line of the epoch they follow; those of other data, or after training, are not
        the epoch's."""
        if self._evaluates_dev is False or not self.is_in_train:
            return
        data: Any = self.eval_dataset
        if isinstance(data, dict):  # the metrics of each split have its name
            data = next((part for name, part in data.items() if self.judged_metric.startswith(f"{name}_")), None)
        # of a metric of which smaller is better, a fall is no sign of too many passes
        judged = "" if self.args.greater_is_better is False else self.judged_metric
        self._epochs.evaluated(metrics, judged, len(data) if hasattr(data, "__len__") else 0)

    def end_training(self) -> None:
        """Record the values of the last epoch; no choice follows, so nothing is scored."""
        self._epochs.absorb()
        if self._steps is not None:
            self._steps.share()

    def seconds_saved(self) -> float:
        """The seconds that the dropped examples would have cost so far, less those of scoring, selecting and races."""
        return self._epochs.seconds_saved()

    @property
    def judged_metric(self) -> str:
        """The dev metric of the tolerance: `metric_for_best_model`; empty without one."""
        return str(self.args.metric_for_best_model or "").removeprefix("eval_")

    @property
    def ended(self) -> bool:
        """Whether the diet ends training after the current epoch."""
        return self.diet.options.plans and self.current_epoch.epoch + 1 >= self.diet.schedule.last

    def _result(self, cost: CostLedger) -> Json:
        """The contents of `result.json`, with null for the facts that a Trainer does not have."""
        stream, context = self._epochs.stream, self.context
        rows = {"train": context.num_rows if stream is None else stream.total}
        tokens = None if context.lengths is None else round(int(context.lengths.sum()) * self.full_epochs)
        examples = round(rows["train"] * self.full_epochs)
        dev: Any = self.eval_dataset
        rows |= {"dev": len(dev)} if hasattr(dev, "__len__") and not isinstance(dev, dict) else {}
        precision = "bf16" if self.args.bf16 else "fp16" if self.args.fp16 else "fp32"
        return {
            "schema": SCHEMA,
            "task": None,
            "data": {"name": None, "fingerprint": getattr(self.train_dataset, "_fingerprint", None), "rows": rows},
            "model": Path(getattr(getattr(self.model, "config", None), "_name_or_path", "") or "").name or None,
            "seed": self.args.seed,
            "diet": self.diet.describe(),
            **layout.costs_of(cost, self.epoch_results, examples, tokens),
            "metrics": {"dev": dict(self.epoch_results[-1].dev) if self.epoch_results else {}, "test": None},
            "tolerance": self.diet.tolerance_controller and self.diet.tolerance_controller.summary(),
            "race": self.diet.race and self.diet.race.summary(),
            "tokens": self.tokens and self.tokens.summary(),
            "noise": self.diet.noise_summary(),
            "weights_tested": None,
            "energy": None,
            "environment": environment(self.args.device, precision),
        }


class _EpochHooks(TrainerCallback):
    """Calls the trainer's own methods at the moments that only callbacks see."""

    def __init__(self, trainer: DietMixin) -> None:
        self._trainer = trainer

    def on_epoch_begin(self, *_args: Any, **_kwargs: Any) -> None:
        """Before the loader asks the sampler for an order."""
        self._trainer.begin_epoch()

    def on_step_end(self, args: Any, state: Any, control: Any, **_kwargs: Any) -> Any:
        """After an optimizer step."""
        self._trainer.end_step(control)
        return control

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


class DietTrainer(DietMixin, Trainer):
    """The Hugging Face Trainer on a diet; see `DietMixin` for the arguments it adds.

    Examples:
        >>> from datadiet.diet.diet import Diet
        >>> diet = Diet(keep=0.5, seed=13)
        >>> # trainer = DietTrainer(model=model, args=args, train_dataset=train, diet=diet); trainer.train()
    """
