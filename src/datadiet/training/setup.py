"""How the run of a Trainer begins: its model, data, loader and checkpoint, bound to the diet.

`TrainerSetup` is the part of `DietMixin` that works once in a run, when the Trainer has built its data loader.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import Trainer

from datadiet.diet.diet import Diet
from datadiet.diet.race import NO_DEV
from datadiet.diet.state import changes
from datadiet.errors import ArgumentError, Problems
from datadiet.ledger import Ledger
from datadiet.scoring.forward import Batch, lengths_of
from datadiet.tasks.heads import Heads, head_layers, is_tagger
from datadiet.training.arguments import (
    check_pairs,
    check_tokens,
    data_checksum,
    ids_and_groups,
    order_seed,
    weight_column,
)
from datadiet.training.distill import Teacher
from datadiet.training.epochs import BetweenEpochs, EpochContext
from datadiet.training.in_batch import BatchChooser
from datadiet.training.race import judging_split
from datadiet.training.sampler import DietSampler, take_over
from datadiet.training.signals import SignalsOf, TrainerSignals
from datadiet.training.state import READING, RUN_SO_FAR, STREAM, TRAINED_WITH
from datadiet.training.steps import TrainingSteps
from datadiet.training.stream import StreamRows, collate_of
from datadiet.training.tokens import TokenPruner, TokenReference, pruner_of
from datadiet.types import Json

if TYPE_CHECKING:
    _Base = Trainer
else:
    _Base = object


class TrainerSetup(_Base):
    """The beginning of a run; see `DietMixin` for the arguments that most attributes hold.

    Attributes:
        row_ids: Of each training row; None where they are not known.
        full_epochs: Epochs that training on everything would take.
        context: What works between epochs.
        heads: Of the model.
        tokens: Prunes tokens; None where all train.
        note: Says something that the user should know before the training.
    """

    diet: Diet
    ledger: Ledger
    teacher: Teacher | None
    run_folder: Path
    own_batches = False
    row_ids: Any
    full_epochs: float
    context: EpochContext
    heads: Heads
    tokens: TokenPruner | None
    note: Callable[[str], None]
    _ids: Any
    _groups: NDArray[np.int64] | None
    _features: Any
    _values: NDArray[np.float32] | None
    _row_weights: NDArray[np.float32] | None
    _reference: torch.nn.Module | TokenReference | None
    _read_signals: SignalsOf | None
    _overwrite: bool
    _begun: bool  # in this call of `train`
    _form: str  # of a trainer of TRL
    _is_stream: bool
    _resumed: tuple[Mapping[str, NDArray[Any]], Json] | None
    _epochs: BetweenEpochs
    _signals: TrainerSignals
    _steps: TrainingSteps | None  # of the last run
    _batch_chooser: BatchChooser | None
    _no_judge = NO_DEV

    @property
    def network(self) -> torch.nn.Module:
        """The model, not wrapped."""
        model = self.model
        assert model is not None
        return model

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
        embeds = hasattr(self, "collect_features")  # of sentence-transformers: only a hook can read its outputs
        self.heads = Heads({} if embeds else head_layers(self.network))
        self._signals = TrainerSignals(
            self.network,
            self.heads,
            compute_loss=super().compute_loss,
            loss_function=self.compute_loss_func,
            label_names=self.label_names,
            given=self._read_signals or self.diet.signals,
            embeds=embeds,
            form=self._form,
            trainer=self,
        )
        data = self._begin_context(loader)
        if self._resumed is not None:
            problems = Problems()
            problems.found += changes(self._resumed[1].get(TRAINED_WITH), self.trained_with())
            problems.raise_any()
        self._begin_diet(loader, data, epochs)
        for words in self.diet.warnings if self.is_world_process_zero() else ():
            self.note(words)
        steps = self._steps = self._begin_steps()
        if self._resumed is not None:
            steps.load(*self._resumed)
            self._epochs.carry(self._resumed[1][RUN_SO_FAR])
            self._signals.load(self._resumed[1].get(READING, {}))
            if self._epochs.stream is not None:
                self._epochs.stream.load(self._resumed[1][STREAM])
        try:
            self._check_language(weighs=steps.weighs)
        except ArgumentError as error:
            steps.cannot_read(error)

    def _check_language(self, *, weighs: bool) -> None:
        """Refuse what next tokens, or pairs of answers, cannot have."""
        if self._signals.problem:
            raise ArgumentError(self._signals.problem)
        if self._signals.causal:
            # by default it has nothing to judge here, and is silent
            guarded = self.diet.guarded and not self.diet.options.guard_by_default and self.diet.options.plans
            more = {"teaches": self.teacher is not None, "answers": self._signals.answers}
            more["masked"] = self._signals.masked
            check_tokens(self.diet.options, self._signals.lacks(), guarded=guarded, **more)
        if self._form == "dpo" and not self._signals.is_given:
            losses = getattr(self, "loss_types", None) or ()
            check_pairs(self.diet.options, losses, weighs=weighs)

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
            forward=self._signals.forward,
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
        groups = None if self._signals.pairs else groups
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
            tagged="slots" in self.heads.layers or is_tagger(self.model),
            watched=self._is_watched,
            no_judge=self._no_judge,
            state=self._resumed,
        )
        self._begun = True
        if sampler is not None:
            sampler.expect(max(self.diet.schedule.count(epoch) for epoch in range(self.diet.schedule.epochs)))

    def _begin_steps(self) -> TrainingSteps:
        """What the training steps do with their batches."""
        options = self.diet.options
        method = options.batch_method()
        if method is not None:
            apart = ("labels",) if self._signals.answers else ()
            self._batch_chooser = BatchChooser(method, seed=options.config.seed, irreducible=self._values, apart=apart)
        self.tokens = pruner_of(options, self.context, self._reference)
        # a stream without a length may have one epoch alone
        endless = self._is_stream and not hasattr(self.train_dataset, "__len__")
        return TrainingSteps(
            self,
            self.context,
            self._epochs,
            self._signals,
            self.heads,
            chooser=self._batch_chooser,
            tokens=self.tokens,
            teacher=self.teacher,
            weighs=self._row_weights is not None or options.weighs,
            repeats=self._repeats,
            warmup_epochs=0 if endless else options.config.warmup_epochs,
        )

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
        """The dev split that judges races; None where there is none, or no race."""
        if self.diet.options.race is None:
            return None
        if self._form == "dpo" and not self._signals.is_given:
            self._no_judge = "pairs of answers are compared with a reference model, in training only"
            return None
        trainer: Any = self
        columns = partial(trainer._remove_unused_columns, description="evaluation")
        dev, self._no_judge = judging_split(
            self.eval_dataset, collate, columns=columns, label_names=self.label_names, pairs=self._form == "reward"
        )
        return dev

    @property
    def _is_watched(self) -> bool:
        """Whether the Trainer measures, after each epoch, a dev metric of which more is better."""
        trainer: Any = self
        strategy = getattr(self.args.eval_strategy, "value", self.args.eval_strategy)
        every = strategy == "epoch" and not self.args.eval_delay
        metric = trainer.judged_metric
        return every and bool(metric) and "loss" not in metric and self.args.greater_is_better is not False

    def _dev_groups(self) -> NDArray[np.int64] | None:
        """The class of each dev row, where it is a column."""
        if self.context.dev is None or not self._answers_classes:
            return None
        return ids_and_groups(self.context.dev, self.label_names)[1]

    @property
    def _answers_classes(self) -> bool:
        """Whether the model may answer with one class per row; else a column of classes is of something else."""
        spans = {"start_positions", "end_positions"} & set(self.label_names)
        one = getattr(getattr(self.network, "config", None), "num_labels", 2) == 1
        return not (spans or one or self._signals.causal or self._signals.pairs)
