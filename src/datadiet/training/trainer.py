"""A learning-rate schedule that follows a position, for training whose number of steps is not known at the start.

Signals of sentence-transformers models, whose losses return nothing but a number.

The diet inside the Hugging Face Trainer: `DietTrainer`, `DietMixin` for any subclass, `DietCallback` without one.

One training run, one mutable sampler. What the Trainer offers decides the shape: it reads the length of its loader
once, at the start, so the number of steps is planned up front and only *which* examples train is chosen later; it fires
`on_epoch_begin` before it asks the sampler for an order, which is the moment to choose; its batches are fetched ahead,
so rows travel inside them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.optim.lr_scheduler import LambdaLR
from transformers import Trainer

from datadiet.diet.diet import Diet, part
from datadiet.errors import ArgumentError
from datadiet.ledger import Ledger
from datadiet.scoring.forward import Batch, lengths_of
from datadiet.store import run_folder as layout
from datadiet.tasks.base import signals_of
from datadiet.tasks.heads import Heads, head_layers, head_weights
from datadiet.training.arguments import check_arguments, check_judged, ids_and_groups, order_seed
from datadiet.training.distill import Teacher
from datadiet.training.epochs import BetweenEpochs, EpochHooks, EpochTotals, result_of
from datadiet.training.in_batch import BatchChooser
from datadiet.training.sampler import DietSampler, carry_rows, pop_rows
from datadiet.training.state import exchange, last_checkpoint, load_diet, save_diet
from datadiet.types import EpochResult, HeadSignals, Json, Signals

Factor = Callable[[Any], float]


def follow(scheduler: Any, position: Callable[[int], float]) -> None:
    """Make a scheduler read its learning rate at `position(step)` instead of at the step.

    Args:
        scheduler: Of the Trainer, before its first step.
        position: Optimizer steps made, to a place in the steps that were planned at most.

    Raises:
        ArgumentError: If the scheduler is no function of the step.

    Example:
        >>> import torch
        >>> scheduler = LambdaLR(torch.optim.SGD([torch.zeros(1)], lr=1.0), lambda step: 1 - step / 10)
        >>> follow(scheduler, lambda step: 2.0 * step)
        >>> scheduler.optimizer.step(); scheduler.step()
        >>> scheduler.get_last_lr()
        [0.8]
    """
    if not isinstance(scheduler, LambdaLR):
        raise ArgumentError(
            f"tolerance does not go with {type(scheduler).__name__}, whose learning rate is no function of the step; "
            "use linear, cosine, constant or polynomial."
        )
    scheduler.lr_lambdas = [_at_position(factor, position) for factor in scheduler.lr_lambdas]


def _at_position(factor: Factor, position: Callable[[int], float]) -> Factor:
    # a plain function: of one, a scheduler's state holds nothing, where it would hold an object's attributes
    def at_position(step: int) -> float:
        return factor(position(step))

    return at_position


EMBEDDING = "sentence_embedding"


@contextmanager
def captured_outputs(model: torch.nn.Module) -> Iterator[list[Any]]:
    """The outputs of every forward pass that a module makes inside the block."""
    outputs: list[Any] = []
    handle = model.register_forward_hook(lambda _module, _inputs, output: outputs.append(output))
    try:
        yield outputs
    finally:
        handle.remove()


def pair_signals(outputs: Sequence[Mapping[str, Any]], labels: Any) -> Signals:
    """Two embeddings and a similarity label, as a regression head: `logits = cos(a, b)`, so `el2n` is |cos - label|.

    Args:
        outputs: One forward pass per text column, each with a `sentence_embedding` `(batch, dim)`.
        labels: Similarities `(batch,)`, as `CosineSimilarityLoss` and its kin take them; 0/1 counts too.

    Raises:
        ArgumentError: Where this reading does not fit, e.g. in-batch negatives without labels.
    """
    fits = len(outputs) == 2 and all(EMBEDDING in output for output in outputs) and labels is not None
    if not fits or labels.dim() != 1:
        raise ArgumentError(
            "the diet can read pairs of texts with one similarity label each; for other losses pass "
            "signals=function of (outputs of each text column, batch) to Diet."
        )
    left, right = (output[EMBEDDING].detach().float() for output in outputs)
    cosine = torch.nn.functional.cosine_similarity(left, right)
    return Signals({"label": HeadSignals(cosine[:, None], labels.float())})


IN_BATCH_STATE, RUN_SO_FAR = "in_batch", "run_so_far"  # in a checkpoint, beside the diet's own state

if TYPE_CHECKING:
    _Base = Trainer
else:
    _Base = object


class DietMixin(_Base):
    """Puts a diet into any Trainer subclass: `class MyTrainer(DietMixin, SentenceTransformerTrainer): ...`.

    At `keep=1.0` the Trainer's own sampler is left alone and the losses are bit-identical to the plain Trainer's.

    Args:
        diet: The diet.
        ids: The user's id of each training row; an `id` column of the training data by default, else row numbers.
        groups: int64 class of each training row, for `floor` and quotas; an integer label column by default.
        features: Where each training row lies, float `(rows, size)` or a SciPy CSR matrix, for selectors that cover a
            space.
        values: float32 `(rows,)`, of a score that training does not make; of `top_reducible` the irreducible losses.
        row_weights: float `(rows,)`, above 0: what the loss of each training row counts, e.g. how often its text came.
        teacher: What another model says of the training rows, of which the loss takes a part (`teacher_of`).
        run_folder: Where scores/, plans/ and result.json are written; `args.output_dir` by default.
        ledger: A cost ledger that is already running; the caller then writes the result himself.
        *args, **kwargs: Of the Trainer.

    Raises:
        ArgumentError: If the training arguments cannot go with a diet.
    """

    def __init__(
        self,
        *args: Any,
        diet: Diet,
        ids: Sequence[str] | None = None,
        groups: NDArray[np.int64] | None = None,
        features: Any = None,
        values: NDArray[np.float32] | None = None,
        row_weights: NDArray[np.float32] | None = None,
        teacher: Teacher | None = None,
        run_folder: Path | None = None,
        ledger: Ledger | None = None,
        **kwargs: Any,
    ) -> None:
        # before the user's callbacks, which may ask for what ours record
        kwargs["callbacks"] = [EpochHooks(self), *(kwargs.get("callbacks") or ())]
        super().__init__(*args, **kwargs)
        self.teacher = teacher
        self.diet, self.ledger, self._records = diet, ledger or Ledger(), ledger is None
        self.run_folder = Path(str(self.args.output_dir)) if run_folder is None else run_folder
        self._dieting = diet.options.plans
        self._ids, self._groups, self._features, self._values = ids, groups, features, values
        self._row_weights = row_weights
        self._batch_chooser: BatchChooser | None = None
        self._resumed: tuple[Mapping[str, NDArray[Any]], Json] | None = None
        self._epochs = BetweenEpochs(self)
        check_arguments(self.args, self.train_dataset, self._dieting)
        if diet.options.config.tolerance is not None:
            check_judged(self.args, self.eval_dataset, self.judged_metric)

    # ---- the Trainer's own methods, each extended ----

    def train(self, resume_from_checkpoint: str | bool | None = None, *args: Any, **kwargs: Any) -> Any:
        """Train; a diet's state is loaded before the Trainer's own, because the length of the epoch depends on it."""
        checkpoint = resume_from_checkpoint or None
        if checkpoint is True:
            checkpoint = last_checkpoint(Path(str(self.args.output_dir)))
            if checkpoint is None:
                raise ArgumentError(f"there is no checkpoint to resume from in {self.args.output_dir}.")
        self._resumed = None if checkpoint is None else load_diet(Path(checkpoint))
        with self.ledger.charge("train"):
            output = super().train(checkpoint, *args, **kwargs)
        if self._records and self.is_world_process_zero():
            layout.write_result(self.run_folder, result_of(self))
        return output

    def get_train_dataloader(self) -> Any:
        """The Trainer's own loader, made to carry rows and to read the diet's plan."""
        loader: Any = super().get_train_dataloader()
        self._begin()
        carry_rows(loader)
        if self._dieting:
            longest = max(self.diet.schedule.count(epoch) for epoch in range(self.diet.schedule.epochs))
            self._epochs.sampler = DietSampler.like(
                loader.get_sampler(),
                longest,
                order_seed(self.args),
                processes=self.args.world_size,
                lengths=self.lengths,
            )
            loader.set_sampler(self._epochs.sampler)
        return loader

    def set_initial_training_values(self, args: Any, dataloader: Any, *more: Any) -> Any:
        """As the Trainer's, with the steps that the schedule plans: every LR schedule ends where it should."""
        values = list(super().set_initial_training_values(args, dataloader, *more))
        if self._dieting:
            values[3], values[6] = self.diet.schedule.total_count, self.diet.schedule.planned_steps
        return tuple(values)

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """As the Trainer's; of a diet with a tolerance it follows the position in the planned maximum."""
        scheduler = super().create_scheduler(num_training_steps, optimizer)
        if self.diet.options.config.tolerance is not None:
            follow(scheduler, lambda step: self.diet.schedule.position(step))
        return scheduler

    def _init_training_state(self, *args: Any, **kwargs: Any) -> tuple[int, int]:
        epoch, batches = super()._init_training_state(*args, **kwargs)
        if self._dieting and self._resumed is not None:
            # the Trainer divides the step by the longest epoch; the epochs of a diet differ
            epoch, step = self.diet.schedule.locate(self.state.global_step)
            batches = 0 if self.args.ignore_data_skip else step * self.args.gradient_accumulation_steps
        return epoch, batches

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """The subclass' own loss; in training, the values of its forward pass are taken on the way."""
        rows = pop_rows(inputs)
        if rows is None:
            return super().compute_loss(
                model, inputs, return_outputs=return_outputs, num_items_in_batch=num_items_in_batch
            )
        if self._batch_chooser is not None and self.current_epoch.epoch >= self.diet.options.config.warmup_epochs:
            rows, inputs = self._batch_chooser.choose(self, rows, inputs)
        batch = dict(inputs)  # some losses pop the labels
        none: list[Any] = []
        capture: AbstractContextManager[list[Any]] = (
            captured_outputs(self.network) if self._embeds else nullcontext(none)
        )
        weights = None if self._epochs.weights is None else self._epochs.weights[rows.cpu()]
        with capture as captured, self.heads.watching(weights, outputs=self.teacher is not None):
            loss, outputs = super().compute_loss(
                model, inputs, return_outputs=True, num_items_in_batch=num_items_in_batch
            )
        signals = self.signals_of_batch(captured if self._embeds else outputs, batch)
        if self.teacher is not None:
            share = self.teacher.share(self.current_epoch.kept / self.num_rows)
            taught = self.teacher.loss(self.heads.outputs, signals, rows, head_weights(self.network))
            loss = (1 - share) * loss + share * taught
        self.diet.observe(rows, signals, epoch=self.current_epoch.epoch)
        self.current_epoch.count(len(rows), batch)
        return (loss, outputs) if return_outputs else loss

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """As the Trainer's; its loss is already scaled for accumulation, so the sum over an epoch is over its steps."""
        loss = super().training_step(*args, **kwargs)
        self.current_epoch.loss = self.current_epoch.loss + loss
        return loss

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """As the Trainer's, on the ledger's account for evaluation."""
        with self.ledger.charge("eval"):
            return super().evaluate(*args, **kwargs)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        with self.ledger.charge("save"):
            super()._save_checkpoint(model, trial)
            if self.accelerator.num_processes > 1:
                # each process has seen its own rows; a checkpoint inside an epoch holds those of all
                self.diet.put_back(exchange(self.diet.drain(), self.diet.columns, self.accelerator))
            arrays, numbers = self.diet.state_dict()
            if self._batch_chooser is not None:
                held, numbers[IN_BATCH_STATE] = self._batch_chooser.state()
                arrays |= {f"{IN_BATCH_STATE}.{name}": array for name, array in held.items()}
            folder = Path(self._get_output_dir(trial=trial)) / f"checkpoint-{self.state.global_step}"
            if self.args.should_save and folder.is_dir():
                numbers[RUN_SO_FAR] = self._epochs.so_far()
                save_diet(folder, arrays, numbers)

    def _save(self, *args: Any, **kwargs: Any) -> None:
        super()._save(*args, **kwargs)
        folder = Path(str((args[0] if args else kwargs.get("output_dir")) or self.args.output_dir))
        (folder / "training_args.bin").unlink(missing_ok=True)  # a pickle

    # ---- epochs ----

    @property
    def num_rows(self) -> int:
        """Rows of the training data."""
        data: Any = self.train_dataset
        return len(data)

    def _begin(self) -> None:
        """Bind the diet, once the batch size is final."""
        self.heads = Heads({} if self._embeds else head_layers(self.network))
        self.lengths = lengths_of(self.train_dataset)
        ids, groups = ids_and_groups(self.train_dataset)
        self.diet.begin(
            self.num_rows,
            epochs=max(1, math.ceil(self.args.num_train_epochs)),
            batch=self.get_total_train_batch_size(self.args) if self._dieting else 1,
            ids=ids if self._ids is None else self._ids,
            groups=groups if self._groups is None else self._groups,
            features=self._features,
            values=self._values,
            row_weights=self._row_weights,
            folder=self.run_folder,
            write=self.is_world_process_zero(),
            state=self._resumed,
        )
        method = self.diet.options.batch_method()
        if method is not None:
            self._batch_chooser = BatchChooser(method, seed=self.diet.options.config.seed, irreducible=self._values)
        if self._resumed is not None:
            if self._batch_chooser is not None:
                self._batch_chooser.load(part(self._resumed[0], IN_BATCH_STATE), self._resumed[1][IN_BATCH_STATE])
            self._epochs.carry(self._resumed[1][RUN_SO_FAR])

    @property
    def current_epoch(self) -> EpochTotals:
        """Sums of the epoch that trains, or of the one before it has begun."""
        return self._epochs.current

    @property
    def epoch_results(self) -> list[EpochResult]:
        """A line of the result for each epoch that has trained."""
        return self._epochs.results

    def begin_epoch(self) -> None:
        """Take in what the last epoch saw, score what needs it, choose, and tell the sampler."""
        self._epochs.begin(None if self._resumed is None else self._resumed[1][RUN_SO_FAR])
        self._resumed = None

    def end_epoch(self) -> None:
        """Close the epoch's line of the result."""
        self._epochs.end()

    def end_evaluation(self, metrics: Mapping[str, float]) -> None:
        """Put the dev metrics into the line of the epoch they follow."""
        self._epochs.evaluated(metrics)

    def end_training(self) -> None:
        """Keep what the last epoch saw; nothing is scored any more, since nothing will be chosen."""
        self._epochs.absorb()

    def seconds_saved(self) -> float:
        """What the dropped examples would have cost so far, less the time spent on scoring and selecting."""
        return self._epochs.seconds_saved()

    @property
    def judged_metric(self) -> str:
        """The dev metric that a tolerance is about: `metric_for_best_model`; empty where none is named."""
        return str(self.args.metric_for_best_model or "").removeprefix("eval_")

    @property
    def ended(self) -> bool:
        """Whether the diet ends training after the epoch that has just trained."""
        return self._dieting and self.current_epoch.epoch + 1 >= self.diet.schedule.last

    # ---- the model and its signals ----

    @property
    def network(self) -> torch.nn.Module:
        """The model, not wrapped."""
        model = self.model
        assert model is not None
        return model

    @property
    def _embeds(self) -> bool:
        """Whether the trainer is one of sentence-transformers', whose outputs only a hook can see."""
        return hasattr(self, "collect_features")

    def call_model(self, batch: Batch) -> Any:
        """The model's outputs for a batch, under the Trainer's autocast; one per text column where it embeds."""
        with self.autocast_smart_context_manager(), self.heads.watching():
            if not self._embeds:
                return self.network(**batch)
            trainer: Any = self
            features, _ = trainer.collect_features(batch)
            return [self.network(feature) for feature in features]

    def signals_of_batch(self, outputs: Any, batch: Mapping[str, Any]) -> Signals:
        """What scores work on: by the diet\'s own reader, or recognised."""
        if self._embeds and self.diet.signals is None:
            return pair_signals(outputs, batch.get("label"))
        read = self.diet.signals or signals_of
        return self.heads.signals(read(outputs, batch))


class DietTrainer(DietMixin, Trainer):
    """The Hugging Face Trainer on a diet; see `DietMixin` for the arguments it adds.

    Example:
        >>> from datadiet.diet.diet import Diet
        >>> diet = Diet(keep=0.5, seed=13)
        >>> # trainer = DietTrainer(model=model, args=args, train_dataset=train, diet=diet); trainer.train()
    """
