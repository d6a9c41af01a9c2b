"""The training steps of a diet: what trains of each batch, what its loss weighs, and what is read off it.

`TrainingSteps` does inside the steps of a Trainer what `datadiet.training.epochs` does between its epochs. The Trainer
hands it the batches of a step (`get_batch_samples`), each of them (`training_step`), and its loss (`compute_loss`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from datadiet.diet.state import part
from datadiet.errors import ArgumentError
from datadiet.scoring.forward import Batch
from datadiet.selectors.base import mix
from datadiet.tasks.heads import Heads, head_weights
from datadiet.training.distill import Teacher
from datadiet.training.epochs import BetweenEpochs, EpochContext
from datadiet.training.in_batch import JUDGED_AFTER, BatchChooser, Choice
from datadiet.training.loss import LossWeights, watched
from datadiet.training.sampler import LENGTHS_KEY, ROW_KEY, without_lengths, without_rows
from datadiet.training.signals import TrainerSignals
from datadiet.training.tokens import Pruned, TokenPruner, whole_labels, without_tokens
from datadiet.types import Json, Signals

IN_BATCH_STATE, TOKEN_STATE = "in_batch", "tokens"  # in a checkpoint, beside the diet's own state
_APART = (
    "a choice within each batch needs one output of the model per row, not {}; use a selector of whole epochs, such as "
    "hardest."
)


@dataclass(frozen=True)
class StepBatch:
    """A batch while its loss is computed.

    Attributes:
        rows: int64 `(batch,)`, of the training data.
        inputs: Of the model.
        whole: The same as it is read: with the labels as they came, and the lengths of its rows.
        lengths: int64 `(batch,)`, tokens of each row where it holds all in one sequence; None elsewhere.
        labels: Those that train, where its tokens were pruned; None elsewhere.
        pruned: What was done to its tokens.
        weights: Of its loss.
        weigher: Weighs it by the losses of its own forward pass; None where that is not asked for.
        first: False where the step has computed its loss before.
    """

    rows: torch.Tensor
    inputs: Any
    whole: Any
    lengths: torch.Tensor | None
    labels: Any
    pruned: Pruned | None
    weights: LossWeights
    weigher: BatchChooser | None
    first: bool


@dataclass
class TrainingSteps:
    """The steps of one run.

    Attributes:
        trainer: Whose loss function is watched, and which says notes.
        context: Of it.
        epochs: Counts, and weighs rows.
        signals, heads: Read the outputs of the model.
        chooser: Chooses within batches; None where whole ones train.
        tokens: Prunes tokens; None where all train.
        teacher: Takes a share of the loss.
        weighs: Whether rows may have loss weights.
        repeats: Outputs of the model for each row: two where it is a pair of answers.
        warmup_epochs: Epochs that train whole batches.
        rows: int64 `(batch,)`, of the batch that trains; None between steps.
        pruned: What was done to its tokens, until its loss is computed.
    """

    trainer: Any
    context: EpochContext
    epochs: BetweenEpochs
    signals: TrainerSignals
    heads: Heads
    chooser: BatchChooser | None
    tokens: TokenPruner | None
    teacher: Teacher | None
    weighs: bool
    repeats: int
    warmup_epochs: int
    rows: torch.Tensor | None = field(default=None, init=False)
    pruned: Pruned | None = field(default=None, init=False)
    _counted: torch.Tensor | None = field(default=None, init=False)  # counted last: a step may compute a loss twice

    # ---- the batches of a step ----

    def prepared(self, samples: list[Any], items: Any, count: Callable[[Sequence[Any]], Any]) -> tuple[list[Any], Any]:
        """The batches of a step, with what trains of those of next tokens, and the number that divides their loss.

        Args:
            samples: As the loader gives them.
            items: Their tokens, as the Trainer counts them.
            count: Counts them again.
        """
        if (stream := self.epochs.stream) is not None:
            if stream.is_part:
                self.epochs.absorb()
            samples = stream.numbered(samples)
        if not samples or not (self.tokens is not None or self.chooser is not None):
            return samples, items
        chooser = self._active_chooser() if self._chooses_ahead else None
        chooser = chooser if chooser is not None and chooser.chooses else None
        if self.tokens is None and chooser is None:
            return samples, items
        with self.context.ledger.charge("select"):
            if chooser is not None:
                samples = [self._chosen_ahead(chooser, batch) for batch in samples]
            elif self.tokens is not None:
                samples = [self.tokens.prune(batch) for batch in samples]
        return samples, count(samples) if self.tokens is None else self.tokens.items(samples, count)

    @property
    def _chooses_ahead(self) -> bool:
        """Whether rows of a batch are chosen before the tokens of its step are counted, by which the loss is
        divided."""
        return self.tokens is not None or self.signals.sums_tokens

    def _chosen_ahead(self, chooser: BatchChooser, batch: Any) -> Any:
        """A batch of a step with the part of its rows, and of their tokens, that trains."""
        rows, inputs = without_rows(batch)
        if rows is None:
            return batch
        lengths, inputs = without_lengths(inputs)
        inputs = self.trainer._prepare_inputs(inputs)
        choice, signals = self._choice(chooser, rows, inputs, lengths)
        if self.tokens is None:
            chosen: Any = copy(choice.inputs)
            chosen[ROW_KEY] = choice.rows
            return chosen
        whole: Any = copy(inputs)
        whole[ROW_KEY] = rows
        seed = mix(self.context.diet.options.config.seed, self.context.accelerator.process_index)
        return self.tokens.prune_chosen(whole, signals, choice, seed)

    def _choice(
        self, chooser: BatchChooser, rows: torch.Tensor, inputs: Any, lengths: torch.Tensor | None
    ) -> tuple[Choice, Signals]:
        if lengths is not None or self.repeats > 1:
            raise ArgumentError(_APART.format("pairs of answers" if lengths is None else "one of the whole batch"))
        passes: list[Signals] = []
        context = self.context

        def scored(batch: Batch) -> Signals:
            passes.append(context.signals(context.forward(batch), batch))
            return passes[0]

        process = context.accelerator.process_index
        made = chooser.choose(rows, inputs, model=context.model, signals=scored, ledger=context.ledger, process=process)
        return made, passes[0]

    def _active_chooser(self) -> BatchChooser | None:
        """What chooses within the batch at hand; None in the warm-up, and where it is off."""
        chooser, epoch = self.chooser, self.epochs.current
        if chooser is None or epoch.epoch < self.warmup_epochs:
            return None
        if chooser.chooses and epoch.batches >= JUDGED_AFTER and not chooser.judged:
            warm = [one for one in self.epochs.results if one.epoch < self.warmup_epochs and one.steps]
            accumulation = self.trainer.args.gradient_accumulation_steps
            whole_s = warm[-1].seconds / (warm[-1].steps * accumulation) if warm else 0.0
            train_s, score_s = epoch.seconds()
            said = chooser.judge(whole_s, (train_s + score_s) / epoch.batches, score_s / epoch.batches, epoch.batches)
            if said:
                self.trainer.note(said)
        return None if chooser.off else chooser

    # ---- one batch ----

    def train(self, step: Callable[[Any], torch.Tensor], inputs: Any) -> torch.Tensor:
        """A training step on the batch as the collator made it; one that trains twice in a step counts once.

        Args:
            step: Of the Trainer's class, inputs to loss.
            inputs: The batch.
        """
        rows, inputs = without_rows(inputs)
        self.pruned, inputs = without_tokens(inputs)
        again = rows is not None and rows is self._counted
        self.rows = rows
        try:
            loss = step(inputs)
        finally:
            self.rows = None
        totals = self.epochs.current
        if rows is not None and rows is not self._counted:
            if self.context.diet.options.plans:
                raise ArgumentError(
                    "training_step must call compute_loss with the batch: a diet reads the outputs of the model there."
                )
            self._counted = rows
            totals.count(len(rows), inputs if isinstance(inputs, Mapping) else {})
        if not again:  # the Trainer scales it for accumulation, so the sum over an epoch is over its steps
            totals.loss = totals.loss + loss
        return loss

    def batch_of(self, inputs: Any) -> StepBatch | None:
        """What `compute_loss` was given; None for a batch that is no training step's."""
        rows, inputs = without_rows(inputs)
        rows = self.rows if rows is None else rows
        pruned, self.pruned = self.pruned, None
        if rows is None:
            return None
        first, self._counted = rows is not self._counted, rows
        lengths, inputs = without_lengths(inputs)
        chooser = self._active_chooser()
        weigher = None if chooser is None or chooser.chooses else chooser
        if chooser is not None and weigher is None and not self._chooses_ahead:
            choice, _ = self._choice(chooser, rows, inputs, lengths)
            rows, inputs = choice.rows, choice.inputs
        whole = dict(inputs) if isinstance(inputs, Mapping) else inputs  # some losses pop the labels
        if lengths is not None:
            whole[LENGTHS_KEY] = lengths
            lengths = lengths if lengths.dim() == 1 else lengths.sum(1)  # of rows, whatever texts they hold
        labels = None if pruned is None else whole.get("labels")
        weights = LossWeights(
            self.epochs.weights_of(rows), rows=len(rows), repeats=self.repeats, lengths=lengths, pruned=pruned,
            adapt=weigher is not None,
        )  # fmt: skip
        whole = whole_labels(whole, pruned)
        return StepBatch(rows, inputs, whole, lengths, labels, pruned, weights, weigher, first)

    def loss(self, batch: StepBatch, compute: Callable[..., Any], items: Any, asked: Json) -> tuple[torch.Tensor, Any]:
        """The loss of a batch, with the weights of its rows and tokens and the teacher's share, and its outputs.

        Args:
            batch: From `batch_of`.
            compute: The loss of the Trainer's class for its inputs.
            items: Tokens of the step, by which that is divided.
            asked: Arguments of it.
        """
        weights, rows = batch.weights, batch.rows
        needed = weights.asked or self.epochs.weights is not None
        with (
            self.signals.training(weights.at_outputs) as (captured, more),
            self.heads.recording(weights.at_outputs, asked=needed, outputs=self.teacher is not None),
            watched(self.trainer, wanted=weights.asked) as calls,
        ):
            answer = compute(num_items_in_batch=items, **{**more, **asked})
        loss, outputs = answer if isinstance(answer, tuple) else (answer, None)
        if self.weighs:
            self.heads.check_weights(len(rows) * self.repeats if batch.lengths is None else 1)
        signals, parts = None, None
        try:
            if self.signals.reads:
                known = self.signals.causal
                signals = self.signals.of_training(loss, outputs, captured, batch.whole)
                if self.signals.causal and not known:  # which only its loss has shown
                    self.trainer._check_language(weighs=self.weighs)
                if batch.weigher is not None:
                    weights.take(batch.weigher.weigh(rows, signals, learns=batch.first))
                parts = self.signals.losses(signals) if weights.asked else None
                if batch.first:
                    self._observe(batch, signals)
        except ArgumentError as error:
            self.cannot_read(error)
        args = self.trainer.args
        processes = args.world_size if args.average_tokens_across_devices else 1
        call = calls[0] if len(calls) == 1 else None
        loss = weights.put_on(loss, parts, batch.labels, items, processes, call)
        if self.teacher is not None and signals is not None:
            share = self.teacher.share(self.epochs.current.kept / self.context.num_rows)
            taught = self.teacher.loss(self.heads.outputs, signals, rows, head_weights(self.context.model))
            loss = (1 - share) * loss + share * taught
        if batch.first:
            self.epochs.current.count(len(rows), batch.whole if isinstance(batch.whole, Mapping) else {})
        return loss, outputs

    def _observe(self, batch: StepBatch, signals: Signals) -> None:
        """Record the values of a batch."""
        self.context.diet.observe(batch.rows, signals, epoch=self.epochs.current.epoch)
        if self.tokens is not None and batch.pruned is not None:
            self.tokens.observe(batch.rows, signals, batch.pruned)

    def cannot_read(self, error: ArgumentError) -> None:
        """Refuse what the diet cannot do without; else go on as the plain Trainer does, without values."""
        options = self.context.diet.options
        chooses = options.plans or options.in_batch or options.tokens is not None
        if chooses or self.teacher is not None or self.signals.is_given:  # not the record of the values alone
            raise error
        self.signals.reads = False
        self.trainer.note(f"keep=1.0 trains as the plain Trainer does, but there will be no values in scores/: {error}")

    # ---- between epochs, and checkpoints ----

    def begin_epoch(self) -> None:
        """Share between the processes what each has seen, and choose the tokens of the epoch."""
        processes = self.context.accelerator.num_processes
        if self.chooser is not None:
            self.chooser.share(processes)
        if self.tokens is not None:
            with self.context.ledger.charge("select"):
                said = self.tokens.decide(self.epochs.current.epoch, processes=processes)
            if said and self.trainer.is_world_process_zero():
                self.trainer.note(said)

    def share(self) -> None:
        """Give every process what any has seen: before a state, and at the end."""
        for own in (self.chooser, self.tokens):
            if own is not None:
                own.share(self.context.accelerator.num_processes)

    def state(self) -> tuple[dict[str, NDArray[Any]], Json]:
        """Arrays, and plain values, of what chooses rows and tokens; the same on all processes."""
        self.share()
        arrays: dict[str, NDArray[np.generic]] = {}
        numbers: Json = {}
        for prefix, own in ((IN_BATCH_STATE, self.chooser), (TOKEN_STATE, self.tokens)):
            if own is not None:
                state, numbers[prefix] = own.state()
                arrays |= {f"{prefix}.{name}": array for name, array in state.items()}
        return arrays, numbers

    def load(self, arrays: Mapping[str, NDArray[Any]], numbers: Json) -> None:
        """Go on from a state."""
        for prefix, own in ((TOKEN_STATE, self.tokens), (IN_BATCH_STATE, self.chooser)):
            if own is not None:
                own.load(part(arrays, prefix), numbers[prefix])
