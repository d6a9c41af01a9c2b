"""A diet without a Trainer subclass: in a plain PyTorch loop (`epochs`), or as a callback (`DietCallback`).

for epoch in dd.epochs(diet, 10, num_examples=len(train)):
    for batch in epoch.loader(train, batch_size=32, collate_fn=collate):
        ...
        epoch.observe(batch.rows, logits, batch.labels)
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, default_collate
from transformers import TrainerCallback
from transformers.utils.generic import find_labels

from datadiet.diet.choose import selector_of
from datadiet.diet.diet import Diet
from datadiet.errors import ArgumentError, Problems
from datadiet.scoring.forward import TRAINING_BATCHES_PER_PASS_BATCH
from datadiet.tasks.losses import LINKS, Link
from datadiet.tasks.reading import Reader, read
from datadiet.training.arguments import ids_and_groups, order_seed
from datadiet.training.sampler import ROW_KEY, DietSampler, RowCollator, RowDataset, carry_rows, take_over, without_rows
from datadiet.training.sampler import row_weights as row_weights_of
from datadiet.training.stream import is_stream, way_out
from datadiet.types import EpochPlan, Scores, Signals

logger = logging.getLogger(__name__)
_OBSERVE_SIGNALS = "Call observe_signals(rows, signals) with datadiet.types.Signals."
_SETTLE_LINK = "Pass link='identity' (regression), link='sigmoid' (binary cross-entropy) or link='softmax'."
NO_JUDGE = "nothing judges: give judge and dev_rows"
CONSTANT = ("constant", "constant_with_warmup")


PassSignals = Callable[[NDArray[np.int64]], Signals]
# for `select="auto"`: (rows of each entrant, optimizer steps) -> the loss of each dev row, by entrant
Judge = Callable[[Mapping[str, NDArray[np.int64]], int], Mapping[str, NDArray[np.float32]]]


@dataclass(frozen=True)
class RowBatch:
    """A batch with its rows.

    Attributes:
        inputs: Of the collate function, a dict or anything else.
        rows: int64 `(batch,)` positions in the training split.
        weights: float32 `(batch,)`, the factor of each example's loss before the mean over the batch; None where all
            are 1.
    """

    inputs: Any
    rows: Tensor
    weights: Tensor | None = None

    @property
    def labels(self) -> Tensor:
        """The labels among the inputs (`labels` or `label`)."""
        if not isinstance(self.inputs, Mapping):
            raise ArgumentError(f"the batch is a {type(self.inputs).__name__}: take the labels from batch.inputs.")
        for name in ("labels", "label"):
            if name in self.inputs:
                labels: Tensor = self.inputs[name]
                return labels
        raise ArgumentError(f"the batch has no labels; it has {', '.join(self.inputs)}.")


class Epoch:
    """One epoch of a plain loop: a loader over its rows, and methods that record values.

    Attributes:
        plan: The rows of this epoch.
    """

    def __init__(self, diet: Diet, plan: EpochPlan, batch_size: int) -> None:
        self._diet, self.plan, self._batch_size = diet, plan, batch_size

    @property
    def epoch(self) -> int:
        """From 0."""
        return self.plan.epoch

    def loader(
        self, dataset: Any, batch_size: int, collate_fn: Callable[[list[Any]], Any] = default_collate, **options: Any
    ) -> Iterator[RowBatch]:
        """Batches of this epoch's rows, shuffled by (seed, epoch).

        Args:
            dataset: The training data, map-style.
            batch_size: Examples per batch.
            collate_fn: Items to a batch.
            **options: Of `torch.utils.data.DataLoader`, e.g. `num_workers`.

        Raises:
            ArgumentError: If the data have another number of rows than the diet, or the options an order of their own.
        """
        if is_stream(dataset):
            raise ArgumentError(way_out(self._diet.options.select_name))
        problems = Problems()
        rows = self._diet.schedule.num_examples
        problems.check(len(dataset) == rows, f"dataset must have num_examples rows, {rows}, got {len(dataset)}.")
        own = [name for name in ("sampler", "batch_sampler", "shuffle") if options.pop(name, None)]
        problems.check(not own, f"{', '.join(own)} does not go with a diet, which orders the rows: leave it out.")
        problems.raise_any()
        sampler = DietSampler(len(self.plan.rows), seed=self._diet.options.config.seed)
        sampler.set_plan(self.plan)
        loader = DataLoader(
            RowDataset(dataset), batch_size=batch_size, sampler=sampler, collate_fn=RowCollator(collate_fn), **options
        )
        weights = row_weights_of(self.plan, len(dataset))
        for batch in loader:
            places, inputs = without_rows(batch)
            assert places is not None
            yield RowBatch(inputs, places, None if weights is None else weights[places])

    def observe(
        self, rows: Tensor, logits: Tensor, labels: Tensor, *, mask: Tensor | None = None, link: Link | None = None
    ) -> None:
        """Record the outputs of a training forward, for one head.

        Args:
            rows: int64 `(batch,)`, the batch's own.
            logits: `(batch, classes)`, `(batch, positions, classes)` or `(batch, 1)`.
            labels: `(batch,)` or `(batch, positions)`; 0 or 1 `(batch, classes)` for sets of labels or one-hot classes.
            mask: bool `(batch, positions)`; by default the positions that are not labelled -100.
            link: What the loss does to the logits, where shapes do not tell: `identity` (a regression) or `sigmoid`
                (binary cross-entropy) of one logit, `softmax` or `sigmoid` for labels of 0 and 1 of the logits' shape.

        Raises:
            ArgumentError: If the shapes do not fit, or a link is needed and there is none.
        """
        if link is not None and link not in LINKS:
            raise ArgumentError(f"link must be one of {', '.join(LINKS)}, got {link!r}.")
        signals, _ = read(logits, labels, link, settle=_SETTLE_LINK, advice=_OBSERVE_SIGNALS)
        (head,) = signals.heads.values()
        self.observe_signals(rows, Signals({"label": head if mask is None else replace(head, mask=mask)}))

    def observe_signals(self, rows: Tensor, signals: Signals) -> None:
        """Record the signals of a training forward, for any number of heads."""
        self._diet.observe(rows, signals, epoch=self.epoch)

    def judge(self, value: float, rows: int, *, metric: str = "") -> None:
        """Record the dev metric after this epoch, for a diet with a `tolerance`, or for `auto`, which gives a rule up
        where the metric falls.

        Args:
            value: Larger is better, as a share.
            rows: Of the dev split.
            metric: Its name, where it is no share of the rows: `pearson`, `spearman`, `matthews` or `likelihood`.
        """
        self._diet.judge(self.epoch, value, rows, metric=metric)


def epochs(
    diet: Diet,
    num_epochs: int,
    *,
    num_examples: int,
    batch_size: int = 1,
    signals: PassSignals | None = None,
    ids: Sequence[str] | None = None,
    groups: NDArray[np.int64] | None = None,
    row_weights: NDArray[np.float32] | None = None,
    folder: str | Path | None = None,
    overwrite: bool = False,
    judge: Judge | None = None,
    dev_rows: int | None = None,
    start: int = 0,
    state: tuple[Mapping[str, NDArray[Any]], dict[str, Any]] | None = None,
) -> Iterator[Epoch]:
    """Epochs of a plain training loop on a diet.

    Args:
        diet: The diet. `rescore` must be `none` unless `signals` is given.
        num_epochs: To train.
        num_examples: Rows of the training data.
        batch_size: Examples per optimizer step; kept counts are rounded down to a multiple of it.
        signals: `rows -> Signals`: a forward pass over some rows, in eval mode and without gradients, for `rescore`
            `all` and `dropped`. It is called with at most eight batches of rows at a time.
        ids, groups, row_weights, folder, overwrite: See `Diet.begin`; without `groups` no guard looks at labels.
        judge: For `select="auto"`, `(rows of each rule, steps) -> losses`: tries each rule from the weights as they
            are, for so many optimizer steps on its rows, puts the weights and the optimizer back, and returns the loss
            of every dev row, float32 `(dev_rows,)` by rule. Without a judge every cycle takes `cover`.
        dev_rows: Those that the judge returns losses of, all of the dev split or some.
        start, state: The epoch to continue at, and `diet.state_dict()` at the end of the one before.

    Yields:
        One `Epoch` after the other; the values of one choose the next.

    Raises:
        ArgumentError: If `rescore` needs passes and there are no `signals`, or no plan fits; if the state is of a run
            with other options or data, or `start` is not the epoch after it.

    Examples:
        >>> import torch
        >>> from datadiet.diet.diet import Diet
        >>> data = [{"x": torch.randn(4), "labels": torch.tensor(row % 2)} for row in range(32)]
        >>> model, sizes = torch.nn.Linear(4, 2), []
        >>> for epoch in epochs(Diet(keep=0.5, refresh_every=1), 3, num_examples=len(data), batch_size=8):
        ...     for batch in epoch.loader(data, batch_size=8):
        ...         epoch.observe(batch.rows, model(batch.inputs["x"]), batch.labels)
        ...     sizes.append(len(epoch.plan.rows))
        >>> sizes
        [32, 16, 16]
    """
    if diet.options.in_batch:
        raise ArgumentError(
            f"{diet.options.select!r} chooses within batches, which DietTrainer does; call it in your loop."
        )
    if isinstance(num_epochs, float):
        raise ArgumentError(f"num_epochs must be a whole number, got {num_epochs}.")
    if diet.options.config.rescore != "none" and signals is None:
        raise ArgumentError(
            f"rescore={diet.options.config.rescore!r} needs signals=function of rows; or use rescore='none'."
        )
    done = -1 if state is None or state[1]["plan"] is None else state[1]["plan"][0]
    if start != done + 1:
        kept = "without a state" if state is None else f"with a state of the end of epoch {done}"
        raise ArgumentError(f"start must be {done + 1} {kept} (epochs count from 0), got {start}.")
    diet.begin(
        num_examples, epochs=num_epochs, batch=batch_size, ids=ids, groups=groups, row_weights=row_weights,
        folder=folder, overwrite=overwrite, dev_rows=None if judge is None else dev_rows, no_judge=NO_JUDGE,
        state=state,
    )  # fmt: skip
    _warn(diet)
    for epoch in range(start, num_epochs):
        if epoch >= diet.schedule.last:  # a tolerance ends the training early
            break
        diet.absorb(diet.drain())
        rows = diet.rows_to_score(epoch) if signals is not None else np.empty(0, np.int64)
        if signals is not None and len(rows):
            diet.absorb(_pass(diet, rows, epoch, signals, batch_size * TRAINING_BATCHES_PER_PASS_BATCH))
        _hold_race(diet, epoch, judge, dev_rows)
        yield Epoch(diet, diet.plan(epoch), batch_size)
    diet.absorb(diet.drain())


def _warn(diet: Diet) -> None:
    for words in diet.warnings:
        logger.warning(words)


def _hold_race(diet: Diet, epoch: int, judge: Judge | None, dev_rows: int | None) -> None:
    """Ask the judge, where a race is due; without one every cycle takes `cover`."""
    if judge is None or not (entrants := diet.entrants(epoch)) or diet.race is None:
        return
    found = judge({rule: plan.rows for rule, plan in entrants.items()}, diet.race.plan.steps)
    named = isinstance(found, Mapping) and found.keys() >= entrants.keys()
    if not named:
        raise ArgumentError(
            f"judge must return the dev losses of {' and '.join(entrants)} by name, got {found!r:.200}."
        )
    losses = {rule: _as_losses(found[rule], rule) for rule in entrants}
    short = [rule for rule in entrants if losses[rule].shape != (dev_rows,)]
    if short:
        shape = losses[short[0]].shape
        raise ArgumentError(
            f"judge must return one loss for each of the {dev_rows} dev_rows, got {shape} for {short[0]}."
        )
    diet.decide(epoch, losses)


def _as_losses(given: Any, rule: str) -> NDArray[np.float32]:
    try:
        return torch.as_tensor(given).detach().float().cpu().numpy()
    except (TypeError, ValueError, RuntimeError) as error:
        raise ArgumentError(f"judge must return numbers, one per dev row, got {given!r:.100} for {rule}.") from error


def _pass(diet: Diet, rows: NDArray[np.int64], epoch: int, signals: PassSignals, size: int) -> Scores:
    parts = [diet.values_of(signals(rows[start : start + size])) for start in range(0, len(rows), size)]
    values = {name: np.concatenate([part[name].cpu().numpy() for part in parts]) for name in diet.columns}
    return diet.scores(rows, values, "pass", epoch)


class DietCallback(TrainerCallback):
    """A diet for a Trainer that is not ours: `Trainer(..., callbacks=[DietCallback(diet)])`.

    A callback cannot change how many steps the Trainer plans, since the Trainer reads its loader's length before it
    calls any callback, and it does not see the checkpoint that a run resumes from. So it takes a constant learning rate
    only, one process, `rescore="none"`, and no resuming; for anything else use `DietMixin`. The progress bar counts to
    the steps of full training and never fills.

    Args:
        diet: The diet.
        run_folder: Receives scores/ and plans/; in memory by default.
        overwrite: See `Diet.begin`.
        judge, dev_rows: For `select="auto"`, see `epochs`.
        ids, groups: See `Diet.begin`; by default the columns `id` or `idx`, and `label` or `labels`, of the training
            data. A Trainer takes the former away, unless `remove_unused_columns=False`.

    Raises:
        ArgumentError: At the start of training, with all problems at once.
    """

    def __init__(
        self,
        diet: Diet,
        run_folder: str | Path | None = None,
        *,
        overwrite: bool = False,
        judge: Judge | None = None,
        dev_rows: int | None = None,
        ids: Sequence[str] | None = None,
        groups: NDArray[np.int64] | None = None,
    ) -> None:
        if not isinstance(diet, Diet):
            raise ArgumentError(f"diet must be a datadiet.Diet, got {diet!r:.200}. Pass datadiet.Diet(keep=0.5).")
        self.diet, self._run_folder, self._overwrite = diet, run_folder, overwrite
        self._judge, self._dev_rows, self._ids, self._groups = judge, dev_rows, ids, groups
        self._epoch = 0
        self._sampler: DietSampler | None = None
        self._rows: torch.Tensor | None = None
        self._inputs: dict[str, Any] = {}
        self._reads = True
        self._hooks: list[Any] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Take over the loader that the Trainer has built, and hook into the model."""
        _check(self.diet, args, state, stream=is_stream(getattr(kwargs["train_dataloader"], "dataset", None)))
        # a second call of train, or auto_find_batch_size after too large a batch: that one ends without a word
        again = bool(self._hooks) and args.auto_find_batch_size
        self._remove_hooks()
        self._epoch = 0
        loader, model = kwargs["train_dataloader"], kwargs["model"]
        batch = (state.train_batch_size or args.train_batch_size) * args.gradient_accumulation_steps
        carry_rows(loader, only_dicts=True)
        count = len(loader.dataset)
        if self.diet.options.plans:
            seed = order_seed(args)
            self._sampler = take_over(
                loader, lambda own: DietSampler.like(own, count, seed), batch_size=state.train_batch_size, processes=1
            )
        # where nothing is chosen, the Trainer counts the epochs
        epochs = args.num_train_epochs if self.diet.options.plans else state.num_train_epochs
        dev_rows = None if self._judge is None else self._dev_rows
        names = args.label_names or find_labels(type(model))  # type: ignore[no-untyped-call]  # as a Trainer does
        ids, groups = ids_and_groups(loader.dataset.dataset, names)  # of what the rows are put on
        ids, groups = ids if self._ids is None else self._ids, groups if self._groups is None else self._groups
        if ids is None and self.diet.options.config.scores_from is not None:
            logger.warning(
                "scores_from is matched by row number, since the rows have no ids: give DietCallback(ids=...)."
            )
        self.diet.begin(
            count, epochs=epochs, batch=batch, ids=ids, groups=groups, folder=self._run_folder,
            overwrite=self._overwrite or again, dev_rows=dev_rows, no_judge=NO_JUDGE,
        )  # fmt: skip
        _warn(self.diet)
        self._reader, self._reads = Reader(model), True
        self._hooks = [
            model.register_forward_pre_hook(self._before, with_kwargs=True),
            model.register_forward_hook(self._after),
        ]

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Choose what this epoch trains on."""
        self.diet.absorb(self.diet.drain())
        _hold_race(self.diet, self._epoch, self._judge, self._dev_rows)
        plan = self.diet.plan(self._epoch)
        if plan.weights is not None:
            raise ArgumentError("the selector gave loss weights, which DietCallback cannot apply; use DietMixin.")
        if self._sampler is not None:
            self._sampler.set_plan(plan)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Count the epoch; the Trainer's own count is in steps of full training."""
        self._epoch += 1

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Record the values of the last epoch and remove the hooks."""
        self.diet.absorb(self.diet.drain())
        self._remove_hooks()

    def _remove_hooks(self) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def _before(self, _module: Any, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        self._rows = kwargs.pop(ROW_KEY, None)
        self._inputs = kwargs
        return args, kwargs

    def _after(self, _module: Any, _args: Any, outputs: Any) -> None:
        rows, inputs, self._rows, self._inputs = self._rows, self._inputs, None, {}
        if rows is None or not self._reads:
            return
        try:
            signals = self.diet.signals(outputs, inputs) if self.diet.signals else self._signals(outputs, inputs)
            self.diet.observe(rows, signals, epoch=self._epoch)
        except ArgumentError as error:
            if self.diet.options.plans or self.diet.signals:
                raise
            self._reads = False
            logger.warning("keep=1.0 changes nothing, but there will be no values: %s", error)

    def _signals(self, outputs: Any, inputs: Mapping[str, Any]) -> Signals:
        """The signals of a batch, of a model that computes its loss itself."""
        if not any("label" in name or name.endswith("_positions") for name in inputs):
            raise ArgumentError(
                "DietCallback reads the inputs of the model, and these have no labels (label smoothing and "
                "compute_loss_func remove them); use DietMixin."
            )
        loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs[0] if outputs else None
        if isinstance(loss, Tensor) and loss.ndim == 0 and loss.requires_grad and not self._reader.has_learnt:
            self._reader.learn(loss, outputs, inputs)
        return self._reader(outputs, inputs)


def _check(diet: Diet, args: Any, state: Any, *, stream: bool) -> None:
    problems = Problems()
    if stream and not diet.options.in_batch:
        raise ArgumentError(
            way_out(diet.options.select_name)
            if diet.options.plans
            else "DietCallback reads the rows of data with a length: use DietMixin for a stream."
        )
    dieting = diet.options.plans
    schedule = str(getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type))
    problems.check(
        not dieting or schedule in CONSTANT,
        f"DietCallback cannot make the {schedule!r} learning rate end where it should, because the Trainer has planned "
        f"its steps already; use DietMixin, or lr_scheduler_type one of {', '.join(CONSTANT)}.",
    )
    problems.check(
        diet.options.config.tolerance is None,
        "DietCallback cannot change the steps during training: a tolerance needs DietMixin.",
    )
    problems.check(
        not dieting or (args.max_steps <= 0 and float(args.num_train_epochs).is_integer()),
        "DietCallback cannot plan max_steps, nor a fraction of an epoch; use DietMixin.",
    )
    problems.check(args.world_size <= 1, "DietCallback works on one process; use DietMixin.")
    problems.check(
        not diet.options.in_batch,
        f"DietCallback cannot choose within batches ({diet.options.select!r}); use DietMixin.",
    )
    problems.check(
        not diet.options.weighs,
        f"DietCallback cannot apply the loss weights that {diet.options.select_name} gives; use DietMixin.",
    )
    problems.check(
        diet.recalls is not None or not dieting or "recalls" not in selector_of(diet.options).needs,
        f"DietCallback judges no dev split, of which {diet.options.select_name} needs the recalls; use DietMixin.",
    )
    problems.check(
        diet.options.config.rescore == "none",
        f"DietCallback cannot rescore {diet.options.config.rescore!r} examples; use DietMixin.",
    )
    problems.check(state.global_step == 0, "DietCallback cannot resume: it does not see the checkpoint; use DietMixin.")
    problems.raise_any()
