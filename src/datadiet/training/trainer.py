"""A diet inside the Hugging Face Trainer: `DietTrainer`, and `DietMixin` for any other subclass.

One training run, one mutable sampler. The Trainer sets the constraints: it reads the length of its loader once, at the
start, so the number of steps is planned up front and only *which* examples train is chosen later; it fires
`on_epoch_begin` before it asks the sampler for an order, which is the moment to choose; its loaders fetch batches
ahead, so rows travel inside the batches. The work between epochs is in `datadiet.training.epochs`.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from copy import copy
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

import datasets
import numpy as np
import torch
from accelerate.utils import broadcast_object_list
from numpy.typing import NDArray
from torch.optim.lr_scheduler import LambdaLR
from transformers import Trainer, TrainerCallback

from datadiet.diet.diet import Diet, part
from datadiet.diet.options import changes
from datadiet.diet.race import NO_DEV
from datadiet.errors import ArgumentError, Problems
from datadiet.files import SCHEMA
from datadiet.ledger import Ledger
from datadiet.registry import names
from datadiet.scoring.forward import Batch, lengths_of
from datadiet.selectors.base import mix
from datadiet.store import run_folder as layout
from datadiet.store.tables import has_tables
from datadiet.tasks.heads import Heads, head_layers, head_weights
from datadiet.tasks.loading import check_finite
from datadiet.training.arguments import (
    check_arguments,
    check_judged,
    check_pairs,
    check_tokens,
    data_checksum,
    ids_and_groups,
    order_seed,
    weight_column,
)
from datadiet.training.distill import Teacher
from datadiet.training.epochs import BetweenEpochs, EpochContext, EpochTotals
from datadiet.training.in_batch import JUDGED_AFTER, BatchChooser, Choice
from datadiet.training.loss import LossWeights, watched
from datadiet.training.machine import environment
from datadiet.training.race import run_race
from datadiet.training.sampler import (
    LENGTHS_KEY,
    ROW_KEY,
    DietSampler,
    carry_rows,
    take_over,
    without_lengths,
    without_rows,
)
from datadiet.training.signals import (
    SignalsOf,
    TrainerSignals,
    captured_outputs,
    give_errors,
    number_rows,
    of_numbered,
    trl_form,
)
from datadiet.training.state import (
    NUMBERS,
    checked_checkpoint,
    exchange,
    last_checkpoint,
    load_diet,
    save_diet,
)
from datadiet.training.stream import StreamRows, check_stream, collate_of, is_stream
from datadiet.training.tokens import (
    Pruned,
    TokenPruner,
    TokenReference,
    pruner_of,
    whole_labels,
    without_tokens,
)
from datadiet.types import IGNORED, EpochPlan, EpochResult, Json, Signals

logger = logging.getLogger(__name__)
# in a checkpoint, beside the diet's own state; the last is `own_state`
IN_BATCH_STATE, RUN_SO_FAR, READING, TOKEN_STATE = "in_batch", "run_so_far", "reading", "tokens"
TRAINED_WITH, OWN, STREAM = "trained_with", "own", "stream"
_APART = (
    "a choice within each batch needs one output of the model per row, not {}; use a selector of whole epochs, such as "
    "hardest."
)

Factor = Callable[[Any], float]

if TYPE_CHECKING:
    _Base = Trainer
else:
    _Base = object


class DietMixin(_Base):
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
    _no_judge = NO_DEV

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
        self._batch_chooser: BatchChooser | None = None
        self._reference = reference
        self.tokens: TokenPruner | None = None  # while a run goes on
        self._batch_tokens: Pruned | None = None  # of the training step
        self._resumed: tuple[Mapping[str, NDArray[Any]], Json] | None = None
        self._epochs = BetweenEpochs(diet, self.ledger, self.accelerator, self.args.gradient_accumulation_steps)
        self._overwrite, self._begun = overwrite, False  # in this call of `train`
        self._batch_rows: torch.Tensor | None = None  # of the training step
        self._counted: torch.Tensor | None = None  # the rows counted last: a step may compute a loss twice
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
            if writes:
                layout.write_result(self.run_folder, self._trainer_result())
        return output

    def _checkpoint(self, given: str | Literal[True]) -> str:
        """The checkpoint to resume from, whole, the same on all processes; the last one that can be used for True."""
        found: list[Any] = [None if given is True else given]
        if self.is_world_process_zero():
            folder = Path(str(self.args.output_dir))
            if given is True:
                found[0], problems = last_checkpoint(folder, self.run_folder)
                if found[0] is None:
                    why = "".join(f" {problem}." for problem in problems)
                    raise ArgumentError(f"there is no complete checkpoint to resume from in {folder}.{why}")
                for problem in problems:
                    self.note(f"{problem}; going on from {found[0]}.")
            else:  # a run that goes on in another folder begins new tables there
                own = Path(given).absolute().parent == folder.absolute() or has_tables(self.run_folder)
                checked_checkpoint(Path(given), self.run_folder if own else None)
        return str(broadcast_object_list(found)[0])

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

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """The subclass' own loss; in training, the diet also records the values of its forward pass."""
        rows, inputs = without_rows(inputs)
        rows = self._batch_rows if rows is None else rows
        pruned, self._batch_tokens = self._batch_tokens, None
        if rows is None:
            return super().compute_loss(
                model, inputs, return_outputs=return_outputs, num_items_in_batch=num_items_in_batch
            )
        first, self._counted = rows is not self._counted, rows
        lengths, inputs = without_lengths(inputs)
        chooser = self._active_chooser()
        weighs = chooser is not None and not chooser.chooses
        if chooser is not None and not weighs and not self._chooses_ahead:
            rows, inputs = self._chosen_within(chooser, rows, inputs, lengths)
        batch = dict(inputs) if isinstance(inputs, Mapping) else inputs  # some losses pop the labels
        if lengths is not None:
            batch[LENGTHS_KEY] = lengths
            lengths = lengths if lengths.dim() == 1 else lengths.sum(1)  # of rows, whatever texts they hold
        trained = None if pruned is None else batch.get("labels")
        batch = whole_labels(batch, pruned)
        weights = LossWeights(
            self._epochs.weights_of(rows), rows=len(rows), repeats=self._repeats, lengths=lengths, pruned=pruned,
            adapt=weighs,
        )  # fmt: skip
        needed = weights.asked or self._epochs.weights is not None
        with (
            self._signals.training(weights.at_outputs) as (captured, asked),
            self.heads.recording(weights.at_outputs, asked=needed, outputs=self.teacher is not None),
            watched(self, wanted=weights.asked) as calls,
        ):
            asked |= {"return_outputs": True} if return_outputs else {}
            answer = super().compute_loss(model, inputs, num_items_in_batch=num_items_in_batch, **asked)
        loss, outputs = answer if isinstance(answer, tuple) else (answer, None)
        if self._weighs:
            self.heads.check_weights(len(rows) * self._repeats if lengths is None else 1)
        signals = parts = None
        try:
            if self._signals.reads:
                known = self._signals.causal
                signals = self._signals.of_training(loss, outputs, captured, batch)
                if self._signals.causal and not known:  # which only its loss has shown
                    self._check_language()
                if chooser is not None and weighs:
                    weights.take(chooser.weigh(rows, signals, learns=first))
                parts = self._signals.losses(signals) if weights.asked else None
                if first:
                    self.diet.observe(rows, signals, epoch=self.current_epoch.epoch)
                    if self.tokens is not None and pruned is not None:
                        self.tokens.observe(rows, signals, pruned)
        except ArgumentError as error:
            self._cannot_read(error)
        processes = self.args.world_size if self.args.average_tokens_across_devices else 1
        call = calls[0] if len(calls) == 1 else None
        loss = weights.put_on(loss, parts, trained, num_items_in_batch, processes, call)
        if self.teacher is not None and signals is not None:
            share = self.teacher.share(self.current_epoch.kept / self.context.num_rows)
            taught = self.teacher.loss(self.heads.outputs, signals, rows, head_weights(self.network))
            loss = (1 - share) * loss + share * taught
        if first:
            self.current_epoch.count(len(rows), batch if isinstance(batch, Mapping) else {})
        return (loss, outputs) if return_outputs else loss

    def _chosen_within(
        self, chooser: BatchChooser, rows: torch.Tensor, inputs: Any, lengths: torch.Tensor | None
    ) -> tuple[torch.Tensor, Any]:
        """The rows of a batch that get a backward pass, and their inputs, by a pass over all of them."""
        choice, _ = self._choice(chooser, rows, inputs, lengths)
        return choice.rows, choice.inputs

    def _choice(
        self, chooser: BatchChooser, rows: torch.Tensor, inputs: Any, lengths: torch.Tensor | None
    ) -> tuple[Choice, Signals]:
        if lengths is not None or self._repeats > 1:
            raise ArgumentError(_APART.format("pairs of answers" if lengths is None else "one of the whole batch"))
        found: list[Signals] = []

        def scored(batch: Batch) -> Signals:
            found.append(self.context.signals(self.context.forward(batch), batch))
            return found[0]

        context = self.context
        process = context.accelerator.process_index
        made = chooser.choose(rows, inputs, model=context.model, signals=scored, ledger=context.ledger, process=process)
        return made, found[0]

    @property
    def _chooses_ahead(self) -> bool:
        """Whether rows of a batch are chosen before the tokens of its step are counted, by which the loss is
        divided."""
        return self.tokens is not None or self._signals.sums_tokens

    def _chosen_ahead(self, chooser: BatchChooser, batch: Any) -> Any:
        """A batch of a step with the part of its rows, and of their tokens, that trains."""
        rows, inputs = without_rows(batch)
        if rows is None:
            return batch
        lengths, inputs = without_lengths(inputs)
        inputs = self._prepare_inputs(inputs)
        choice, signals = self._choice(chooser, rows, inputs, lengths)
        if self.tokens is None:
            part: Any = copy(choice.inputs)
            part[ROW_KEY] = choice.rows
            return part
        whole: Any = copy(inputs)
        whole[ROW_KEY] = rows
        seed = mix(self.diet.options.config.seed, self.accelerator.process_index)
        return self.tokens.prune_chosen(whole, signals, choice, seed)

    def _active_chooser(self) -> BatchChooser | None:
        """What chooses within the batch at hand; None in the warm-up, and where it is off."""
        chooser, epoch = self._batch_chooser, self.current_epoch
        if chooser is None or epoch.epoch < self._warmup_epochs:
            return None
        if chooser.chooses and epoch.batches >= JUDGED_AFTER and not chooser.judged:
            warm = [one for one in self.epoch_results if one.epoch < self._warmup_epochs and one.steps]
            accumulation = self.args.gradient_accumulation_steps
            whole_s = warm[-1].seconds / (warm[-1].steps * accumulation) if warm else 0.0
            train_s, score_s = epoch.seconds()
            said = chooser.judge(whole_s, (train_s + score_s) / epoch.batches, score_s / epoch.batches, epoch.batches)
            if said:
                self.note(said)
        return None if chooser.off else chooser

    @property
    def _warmup_epochs(self) -> int:
        """Epochs that train whole batches; a stream without a length may have one epoch alone."""
        endless = self._is_stream and not hasattr(self.train_dataset, "__len__")
        return 0 if endless else self.diet.options.config.warmup_epochs

    def training_step(self, model: torch.nn.Module, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> torch.Tensor:
        """As the Trainer's, on the batch as the collator made it; a batch that trains twice in a step counts once."""
        rows, inputs = without_rows(inputs)
        self._batch_tokens, inputs = without_tokens(inputs)
        again = rows is not None and rows is self._counted
        self._batch_rows = rows
        try:
            loss = super().training_step(model, inputs, *args, **kwargs)
        finally:
            self._batch_rows = None
        if rows is not None and rows is not self._counted:
            if self.diet.options.plans:
                raise ArgumentError(
                    "training_step must call compute_loss with the batch: a diet reads the outputs of the model there."
                )
            self._counted = rows
            self.current_epoch.count(len(rows), inputs if isinstance(inputs, Mapping) else {})
        if not again:  # the Trainer scales it for accumulation, so the sum over an epoch is over its steps
            self.current_epoch.loss = self.current_epoch.loss + loss
        return loss

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> tuple[list[Any], Any]:
        """As the Trainer's; what trains of a batch of next tokens is chosen before the tokens of the step are counted,
        by which its loss is divided."""
        samples, items = super().get_batch_samples(*args, **kwargs)
        if (stream := self._epochs.stream) is not None:
            if stream.is_part:
                self._epochs.absorb()
            samples = stream.numbered(samples)
        if not samples or not (self.tokens is not None or self._batch_chooser is not None):
            return samples, items
        chooser = self._active_chooser() if self._chooses_ahead else None
        chooser = chooser if chooser is not None and chooser.chooses else None
        if self.tokens is None and chooser is None:
            return samples, items
        with self.ledger.charge("select"):
            if chooser is not None:
                samples = [self._chosen_ahead(chooser, batch) for batch in samples]
            elif self.tokens is not None:
                samples = [self.tokens.prune(batch) for batch in samples]
        device = kwargs["device"] if "device" in kwargs else args[2]
        trainer: Any = self

        def count(batches: Sequence[Any]) -> Any:
            return trainer._get_num_items_in_batch(batches, device)

        return samples, count(samples) if self.tokens is None else self.tokens.items(samples, count)

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
            arrays, numbers = self.diet.state_dict()
            if self._batch_chooser is not None:
                self._batch_chooser.share(self.accelerator.num_processes)
                state, numbers[IN_BATCH_STATE] = self._batch_chooser.state()
                arrays |= {f"{IN_BATCH_STATE}.{name}": array for name, array in state.items()}
            if self.tokens is not None:
                self.tokens.share(self.accelerator.num_processes)
                state, numbers[TOKEN_STATE] = self.tokens.state()
                arrays |= {f"{TOKEN_STATE}.{name}": array for name, array in state.items()}
            if self.args.should_save and folder.is_dir():
                numbers |= {RUN_SO_FAR: self._epochs.so_far(), OWN: dict(self.own_state)}
                numbers[TRAINED_WITH] = self.trained_with()
                numbers[READING] = self._signals.state()
                numbers[STREAM] = self._epochs.stream and self._epochs.stream.state()
                save_diet(folder, arrays, numbers)

    def _save(self, *args: Any, **kwargs: Any) -> None:
        super()._save(*args, **kwargs)
        folder = Path(str((args[0] if args else kwargs.get("output_dir")) or self.args.output_dir))
        (folder / "training_args.bin").unlink(missing_ok=True)  # a pickle

    # ---- epochs ----

    @property
    def num_rows(self) -> int:
        """Rows of the training data; 0 of a stream, which are not known."""
        data: Any = self.train_dataset
        return 0 if self._is_stream else len(data)

    def _begin(self, loader: Any, epochs: Any) -> None:
        """Bind the diet to the training data, once the batch size is final.

        Args:
            loader: Of the training data, carrying rows.
            epochs: Of the Trainer, where no epoch is chosen.
        """
        self._epochs = BetweenEpochs(self.diet, self.ledger, self.accelerator, self.args.gradient_accumulation_steps)
        self.heads = Heads({} if self._embeds else head_layers(self.network))
        self._signals = TrainerSignals(
            self.network,
            self.heads,
            compute_loss=super().compute_loss,
            loss_function=self.compute_loss_func,
            label_names=self.label_names,
            given=self._read_signals or self.diet.signals,
            embeds=self._embeds,
            form=self._form,
            trainer=self,
        )
        data = self._begin_context(loader)
        if self._resumed is not None:
            problems = Problems()
            problems.found += changes(self._resumed[1].get(TRAINED_WITH), self.trained_with())
            problems.raise_any()
        self._begin_diet(loader, data, epochs)
        if self.diet.race is not None and self.diet.race.warning and self.is_world_process_zero():
            self.note(self.diet.race.warning)
        self._go_on()
        # as far as it is known before a selector has given any
        select = self.diet.options.select if self.diet.options.plans else None
        self._weighs = self._row_weights is not None or select in names("select", trait="weights")
        self._weighs |= self.diet.options.select in names("in_batch", trait="weights")
        try:
            self._check_language()
        except ArgumentError as error:
            self._cannot_read(error)

    def _check_language(self) -> None:
        """Refuse what next tokens, or pairs of answers, cannot have."""
        if self._signals.problem:
            raise ArgumentError(self._signals.problem)
        if self._signals.causal:
            guarded = self.diet.guarded and self.diet.noise_monitor is not None
            more = {"teaches": self.teacher is not None, "answers": self._signals.answers}
            more["masked"] = self._signals.masked
            check_tokens(self.diet.options, self._signals.lacks(), guarded=guarded, **more)
        if self._form == "dpo" and not self._signals.is_given:
            losses = getattr(self, "loss_types", None) or ()
            check_pairs(self.diet.options, losses, weighs=self._weighs)

    @property
    def _repeats(self) -> int:
        """Outputs of the model for each row: two where it is a pair of answers."""
        return 2 if self._form in ("dpo", "reward") else 1

    def _begin_context(self, loader: Any) -> Any:
        """Bind the passes between epochs to the model and the data; returns the training data, with all columns."""
        inner = getattr(loader, "base_dataloader", loader)
        # the Trainer's data have columns that its loader's lack; a loader of the user's own may have other rows
        data: Any = inner.dataset.dataset if self._has_own_loader and not self._is_stream else self.train_dataset
        collate = collate_of(loader) if self._is_stream else inner.collate_fn
        # SetFit changes the batch size after the Trainer has noted it
        size = getattr(getattr(inner, "batch_sampler", None), "batch_size", None) or self._train_batch_size
        self.context = EpochContext(
            diet=self.diet,
            ledger=self.ledger,
            model=self.network,
            forward=self._call_model,
            signals=self._signals.of_pass,
            dataset=() if self._is_stream else inner.dataset.dataset,
            collate=collate.with_lengths,
            lengths=None if self._is_stream else lengths_of(data),
            batch_size=size,
            accelerator=self.accelerator,
            evaluate=self.evaluate,
            log=self.log,
            dev=self._judges(collate.collate),
        )
        return data

    @property
    def _has_own_loader(self) -> bool:
        return type(self).get_train_dataloader is not Trainer.get_train_dataloader

    def _begin_diet(self, loader: Any, data: Any, epochs: Any) -> None:
        """Begin the diet, and put its sampler into the loader; arguments as of `_begin`."""
        plans, args, size = self.diet.options.plans, self.args, self.context.batch_size
        if self._is_stream:
            place = {"processes": args.world_size, "process": self.accelerator.process_index}
            self._epochs.stream = StreamRows(size, repeats=self._repeats, **place)
            self.row_ids, self.full_epochs = None, 1.0
            self.diet.begin(
                None,
                epochs=1,
                folder=self.run_folder,
                overwrite=self._overwrite or self._begun,
                write=self.is_world_process_zero(),
                state=self._resumed,
            )
            self._begun = True
            return
        steps = args.max_steps if args.max_steps > 0 else None
        sampler = None
        if plans or self.own_batches:
            sampler = self._epochs.sampler = take_over(
                loader,
                lambda own: DietSampler.like(
                    own, len(data), order_seed(args), processes=args.world_size, lengths=self.context.lengths
                ),
                batch_size=self._train_batch_size if self._has_own_loader else size,
                processes=args.world_size,
            )
        ids, groups = ids_and_groups(data, self.label_names)
        if self._row_weights is None and (self._form or self._signals.causal):
            self._row_weights = weight_column(data)
            if self._row_weights is not None:
                self.note("the column `weight` of the training data weighs the losses of the rows.")
        self.row_ids = ids if self._ids is None else self._ids
        batch = self.get_total_train_batch_size(args) * size // self._train_batch_size
        self.full_epochs = args.num_train_epochs if steps is None else steps / math.ceil(len(data) / batch)
        self.diet.begin(
            len(data),
            epochs=args.num_train_epochs if plans else epochs,
            batch=batch if plans else 1,
            max_steps=steps if plans else None,
            ids=self.row_ids,
            groups=groups if self._groups is None else self._groups,
            features=self._features,
            values=self._values,
            row_weights=self._row_weights,
            folder=self.run_folder,
            overwrite=self._overwrite or self._begun,  # again in one call: auto_find_batch_size tries a smaller one
            write=self.is_world_process_zero(),
            dev_rows=None if self.context.dev is None else len(self.context.dev),
            dev_groups=self._dev_groups(),
            no_judge=self._no_judge,
            state=self._resumed,
        )
        self._begun = True
        if sampler is not None:
            sampler.expect(max(self.diet.schedule.count(epoch) for epoch in range(self.diet.schedule.epochs)))

    def _go_on(self) -> None:
        """Make what chooses within batches, and take up what a resumed run has left."""
        method = self.diet.options.batch_method()
        if method is not None:
            apart = ("labels",) if self._signals.answers else ()
            self._batch_chooser = BatchChooser(
                method, seed=self.diet.options.config.seed, irreducible=self._values, apart=apart
            )
        self.tokens = pruner_of(self.diet.options, self.context, self._reference)
        if self._resumed is not None:
            if self.tokens is not None:
                self.tokens.load(part(self._resumed[0], TOKEN_STATE), self._resumed[1][TOKEN_STATE])
            if self._batch_chooser is not None:
                self._batch_chooser.load(part(self._resumed[0], IN_BATCH_STATE), self._resumed[1][IN_BATCH_STATE])
            self._epochs.carry(self._resumed[1][RUN_SO_FAR])
            self._signals.load(self._resumed[1].get(READING, {}))
            if self._epochs.stream is not None:
                self._epochs.stream.load(self._resumed[1][STREAM])

    def trained_with(self) -> Json:
        """What a checkpoint depends on beside the diet's own options, and a resumed run may not change."""
        batch = "per_device_train_batch_size x gradient_accumulation_steps x processes"
        return {
            batch: self.get_total_train_batch_size(self.args),
            "the seed of the order (data_seed, or seed)": order_seed(self.args),
            "train_sampling_strategy": str(self.args.train_sampling_strategy),
            "the number of training rows": self.num_rows,
            "the checksum of the training data": "" if self._is_stream else self._data_checksum,
        }

    @cached_property
    def _data_checksum(self) -> str:
        return data_checksum(self.train_dataset, self.context.lengths)

    def _judges(self, collate: Callable[..., Batch]) -> Any:
        """The dev split that judges races: one of known length, whose rows can be read as the training rows are."""
        dev: Any = self.eval_dataset
        if self.diet.options.race is None:
            return None
        if self._form == "dpo" and not self._signals.is_given:
            self._no_judge = "pairs of answers are compared with a reference model, in training only"
            return None
        if isinstance(dev, dict) and len(dev) == 1:
            (dev,) = dev.values()
        if isinstance(dev, dict):
            self._no_judge = "eval_dataset has several splits, and a race needs one"
            return None
        if not (hasattr(dev, "__len__") and hasattr(dev, "__getitem__")) or not len(dev):
            return None
        if isinstance(dev, datasets.Dataset):
            trainer: Any = self
            dev = trainer._remove_unused_columns(dev, description="evaluation")
        try:
            labelled = any("label" in name or name in self.label_names for name in collate([dev[0]]))
        except Exception as error:  # of the user's own collator
            self._no_judge = (
                f"the rows of eval_dataset cannot be read as the training rows are ({type(error).__name__})"
            )
            return None
        self._no_judge = "eval_dataset has no labels"
        return _known(dev, self.label_names) if labelled or self._form == "reward" else None

    def _dev_groups(self) -> NDArray[np.int64] | None:
        """The class of each dev row, where it is a column."""
        return None if self.context.dev is None else ids_and_groups(self.context.dev, self.label_names)[1]

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
        self._epochs.begin(self.context, self.state, so_far, self._race)
        self._resumed = None
        if self._batch_chooser is not None:
            self._batch_chooser.share(self.accelerator.num_processes)
        if self.tokens is not None:
            with self.ledger.charge("select"):
                said = self.tokens.decide(self.current_epoch.epoch, processes=self.accelerator.num_processes)
            if said and self.is_world_process_zero():
                self.note(said)

    # ---- races ----

    def _race(self, epoch: int, plans: Mapping[str, EpochPlan]) -> int:
        return run_race(self, self.context, epoch, plans, begin=self._epochs.use)

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
        for place, inputs in enumerate(samples, 1):
            last = place == len(samples)
            self.accelerator.gradient_state._set_sync_gradients(last)
            with nullcontext() if last else self.accelerator.no_sync(model=model):
                loss = loss + self.training_step(model, inputs, items)
        if self.args.max_grad_norm > 0:
            trainer._clip_grad_norm(model)
        trainer.optimizer.step()
        if not self.accelerator.optimizer_step_was_skipped:
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
        self._epochs.evaluated(metrics, self.judged_metric, len(data) if hasattr(data, "__len__") else 0)

    def end_training(self) -> None:
        """Record the values of the last epoch; no choice follows, so nothing is scored."""
        self._epochs.absorb()

    def seconds_saved(self) -> float:
        """The seconds that the dropped examples would have cost so far, less those of scoring and selecting."""
        return self._epochs.seconds_saved()

    @property
    def judged_metric(self) -> str:
        """The dev metric of the tolerance: `metric_for_best_model`; empty without one."""
        return str(self.args.metric_for_best_model or "").removeprefix("eval_")

    @property
    def ended(self) -> bool:
        """Whether the diet ends training after the current epoch."""
        return self.diet.options.plans and self.current_epoch.epoch + 1 >= self.diet.schedule.last

    # ---- the model and its signals ----

    @property
    def network(self) -> torch.nn.Module:
        """The model, not wrapped."""
        model = self.model
        assert model is not None
        return model

    @property
    def _embeds(self) -> bool:
        """Whether this is a trainer of sentence-transformers, whose outputs only a hook can read."""
        return hasattr(self, "collect_features")

    def _call_model(self, batch: Batch) -> Any:
        """The model's outputs for a batch, under the Trainer's autocast; one per text column where it embeds."""
        with self.autocast_smart_context_manager(), self.heads.recording():
            if not self._embeds:
                return self._signals.call(self.network, batch)
            trainer: Any = self
            features, labels = trainer.collect_features(dict(batch))
            if all(isinstance(feature, Mapping) for feature in features):
                return [self.network(feature) for feature in features]
            with captured_outputs(self.network) as captured:  # a loss of cross-encoders takes the texts
                trainer.loss(features, labels)
            return captured

    def _cannot_read(self, error: ArgumentError) -> None:
        """Refuse what the diet cannot do without; else go on as the plain Trainer does, without values."""
        if self._needs_signals:
            raise error
        self._signals.reads = False
        self.note(f"keep=1.0 trains as the plain Trainer does, but there will be no values in scores/: {error}")

    @property
    def _needs_signals(self) -> bool:
        """Whether anything but the record of the values depends on them."""
        given = self._read_signals or self.diet.signals
        options = self.diet.options
        chooses = options.plans or options.in_batch or options.tokens is not None
        return chooses or self.teacher is not None or given is not None

    def _trainer_result(self) -> Json:
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
            **layout.costs_of(self.ledger.snapshot(), self.epoch_results, examples, tokens),
            "metrics": {"dev": dict(self.epoch_results[-1].dev) if self.epoch_results else {}, "test": None},
            "tolerance": self.diet.tolerance_controller and self.diet.tolerance_controller.summary(),
            "race": self.diet.race and self.diet.race.summary(),
            "tokens": self.tokens and self.tokens.summary(),
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


def _known(dev: Any, label_names: Sequence[str] = ()) -> Any:
    """A dev split without the rows whose class the model does not know."""
    if not isinstance(dev, datasets.Dataset):
        rows = [row for row in range(len(dev)) if not _is_ignored(dev[row])]
        return dev if len(rows) == len(dev) else torch.utils.data.Subset(dev, rows)
    columns = [
        name
        for name, kind in dev.features.items()
        if ("label" in name or name in label_names) and "int" in str(getattr(kind, "dtype", ""))
    ]
    known = np.ones(len(dev), bool)
    for name in columns:
        known &= np.asarray(dev.with_format("numpy")[name][:]) != IGNORED
    return dev if known.all() else dev.select(np.flatnonzero(known))


def _is_ignored(item: Any) -> bool:
    labels = [value for name, value in item.items() if "label" in name] if isinstance(item, Mapping) else []
    return any(np.ndim(value) == 0 and int(value) == IGNORED for value in labels if value is not None)


def follow(scheduler: Any, position: Callable[[int], float]) -> None:
    """Make a scheduler read its learning rate at `position(step)` instead of at the step.

    A tolerance decides the number of steps while it trains, so its learning rate follows the position in the planned
    maximum.

    Args:
        scheduler: Of the Trainer, before its first step.
        position: Optimizer steps made, to a position in the planned steps.

    Raises:
        ArgumentError: If the learning rate of the scheduler is not a function of the step.

    Examples:
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
    # a plain function: a scheduler's state omits functions, but holds the attributes of callable objects
    def at_position(step: int) -> float:
        return factor(position(step))

    return at_position
