"""A race on a Trainer: two rules train from the same weights for a few steps, and the dev rows judge.

One copy of everything that a step changes is kept: trained weights, buffers, optimizer state, learning rate. Both draw
from generators seeded by the race alone, and the run's own generators stay where they were, so that a resumed run
races as the first one did. The winner's weights, values and counts go on as if nothing else had happened; the loser's
steps are charged to `probe`.
"""

from __future__ import annotations

import copy
import math
import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import datasets
import numpy as np
import torch
from numpy.typing import NDArray

from datadiet.diet.race import NO_DEV
from datadiet.diet.values import EpochBuffer
from datadiet.scores.reduce import free_signals
from datadiet.scoring.forward import Batch, fetch, lengths_of
from datadiet.selectors.base import mix
from datadiet.tasks.heads import head_weights
from datadiet.training.epochs import EpochContext, EpochTotals
from datadiet.training.sampler import RowCollator
from datadiet.training.state import exchange, share_of
from datadiet.training.tokens import Seen, TokenPruner
from datadiet.types import IGNORED, EpochPlan, Scores, Signals, TokenSignals

_STREAM = 6  # of the generator that draws the dev rows
_LOSS = "loss"
Losses = NDArray[np.float32]


class Snapshot:
    """A copy of everything that an optimizer step changes, which can change places with the state itself.

    Of an optimizer that is all that it keeps of each weight: tensors, plain numbers (Adafactor counts its steps in
    one), and what it begins to keep of a weight that has its first gradient while an entrant trains.

    Args:
        trainer: A Trainer that has made its optimizer.
        on_cpu: Whether the tensors of the copy lie in the memory of the host.
    """

    def __init__(self, trainer: Any, *, on_cpu: bool = False) -> None:
        def copied(value: Any) -> Any:
            if not isinstance(value, torch.Tensor):
                return copy.deepcopy(value)
            return value.detach().to("cpu" if on_cpu else value.device, copy=True)

        self._trainer, network = trainer, trainer.network
        self._live = [*(weight for weight in network.parameters() if weight.requires_grad), *network.buffers()]
        self._copies = [copied(tensor) for tensor in self._live]
        kept = trainer.optimizer.state.items()
        self._kept = {weight: {name: copied(value) for name, value in entries.items()} for weight, entries in kept}
        self._plain = self._read()

    @property
    def num_bytes(self) -> int:
        """Memory of the copied tensors."""
        kept = (value for entries in self._kept.values() for value in entries.values())
        tensors = [*self._copies, *(value for value in kept if isinstance(value, torch.Tensor))]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    def swap(self) -> None:
        """Put the copy in the place of the state, and the state in the place of the copy."""
        for live, other in zip(self._live, self._copies, strict=True):
            _exchange(live, other)
        state = self._trainer.optimizer.state
        for weight in list(dict.fromkeys((*state, *self._kept))):
            now, before = state.pop(weight, {}), self._kept.pop(weight, {})
            for name in now.keys() & before.keys():
                if _alike(now[name], before[name]):  # what lies on the device stays there
                    _exchange(now[name], before[name])
                    now[name], before[name] = before[name], now[name]
            for place, entries in ((state, before), (self._kept, now)):
                if entries:
                    place[weight] = entries
        plain = self._read()
        self._write(self._plain)
        self._plain = plain

    def _read(self) -> dict[str, Any]:
        trainer = self._trainer
        scaler = trainer.accelerator.scaler
        groups = [{k: v for k, v in group.items() if k != "params"} for group in trainer.optimizer.param_groups]
        return copy.deepcopy({
            "scheduler": trainer.lr_scheduler.state_dict(),
            "groups": groups,
            "scaler": None if scaler is None else scaler.state_dict(),
        })  # fmt: skip

    def _write(self, plain: Mapping[str, Any]) -> None:
        trainer = self._trainer
        trainer.lr_scheduler.load_state_dict(copy.deepcopy(plain["scheduler"]))
        for group, values in zip(trainer.optimizer.param_groups, plain["groups"], strict=True):
            group.update(copy.deepcopy(values))
        if plain["scaler"] is not None:
            trainer.accelerator.scaler.load_state_dict(plain["scaler"])


def _alike(one: Any, two: Any) -> bool:
    """Whether the values of two tensors can change places."""
    tensors = isinstance(one, torch.Tensor) and isinstance(two, torch.Tensor)
    return tensors and (one.shape, one.dtype) == (two.shape, two.dtype)


def _exchange(one: torch.Tensor, two: torch.Tensor) -> None:
    with torch.no_grad():
        before = one.detach().clone()
        one.copy_(two)
        two.copy_(before)


@contextmanager
def own_generators() -> Iterator[Callable[[int], None]]:
    """Gives a function that seeds the global generators, and puts them back where they were at the end."""
    before = _generators()

    def seed(number: int) -> None:
        random.seed(number)
        np.random.seed(number % 2**32)  # noqa: NPY002
        torch.manual_seed(number % 2**63)  # also those of accelerators

    try:
        yield seed
    finally:
        _set_generators(before)


def _generators() -> dict[str, Any]:
    numpy = np.random.get_state()  # noqa: NPY002
    states = {"python": random.getstate(), "numpy": numpy, "torch": torch.get_rng_state()}
    return states | ({"cuda": torch.cuda.get_rng_state_all()} if torch.cuda.is_available() else {})


def _set_generators(states: Mapping[str, Any]) -> None:
    random.setstate(states["python"])
    np.random.set_state(states["numpy"])  # noqa: NPY002
    torch.set_rng_state(states["torch"])
    if "cuda" in states:
        torch.cuda.set_rng_state_all(states["cuda"])


@dataclass
class _Probe:
    """What an entrant leaves behind; the losses of the dev rows come last."""

    buffer: EpochBuffer
    totals: EpochTotals
    summed_loss: Any
    seconds: float
    tokens: Seen | None
    losses: Losses = field(default_factory=lambda: np.empty(0, np.float32))


def run_race(
    trainer: Any,
    context: EpochContext,
    epoch: int,
    plans: Mapping[str, EpochPlan],
    *,
    begin: Callable[[EpochTotals, EpochPlan], None],
) -> int:
    """Try the entrants of a race, and leave the Trainer where the winner's steps have brought it.

    Args:
        trainer: A `DietMixin`, at the beginning of an epoch.
        context: Of the Trainer.
        epoch: The first of the cycle that is raced for.
        plans: Of the champion and of the challenger.
        begin: Makes an epoch's sums, and the loss weights of a plan, those of the Trainer.

    Returns:
        Optimizer steps that the winner has made: the first ones of its epoch.
    """
    diet, ledger = context.diet, context.ledger
    race = diet.race
    assert race is not None
    assert diet.options.race is not None
    steps, probes = race.plan.steps, {}
    pruner: TokenPruner | None = trainer.tokens
    draws = mix(diet.options.config.seed, epoch, context.accelerator.process_index)
    with ledger.charge("probe"), own_generators() as seed:
        snapshot = Snapshot(trainer, on_cpu=diet.options.race.on_cpu)
        seen = None if pruner is None else pruner.seen()
        dev = dev_rows_of(context, race.plan.dev_rows)
        for number, (rule, plan) in enumerate(plans.items()):
            if number:
                snapshot.swap()
            if pruner is not None and seen is not None:
                pruner.go_on_from(seen)
            seed(draws)
            probe = probes[rule] = _probe(trainer, context, plan, steps, begin)
            seed(draws)  # a collator may draw, and draws the same for both
            probe.losses = dev_losses(context, dev, epoch)
        batch = diet.schedule.batch
        spent = {"examples": steps * batch, "passes": 2 * len(dev), "steps": race.plan.steps_of_one(batch)}
        spent |= {"bytes": snapshot.num_bytes}
        losses = {rule: probe.losses for rule, probe in probes.items()}
        plan = diet.decide(epoch, losses, {rule: {"seconds": one.seconds, **spent} for rule, one in probes.items()})
        winner = str(diet.rule)
        (lost,) = (probe for rule, probe in probes.items() if rule != winner)
        if winner != list(probes)[-1]:
            snapshot.swap()
        lost.totals.settle()  # its examples count, though nothing else is left of them
    won = probes[winner]
    if pruner is not None and won.tokens is not None:
        pruner.go_on_from(won.tokens)
    ledger.move("probe", "train", won.seconds)
    diet.use_buffer(won.buffer)
    begin(won.totals, plan)
    trainer.add_loss(won.summed_loss)
    trainer.state.global_step += steps
    return steps


def _probe(
    trainer: Any,
    context: EpochContext,
    plan: EpochPlan,
    steps: int,
    begin: Callable[[EpochTotals, EpochPlan], None],
) -> _Probe:
    """The steps of one entrant; arguments as of `run_race`."""
    ledger, pruner = context.ledger, trainer.tokens
    started = ledger.seconds("probe")
    buffer, totals = context.diet.new_buffer(), trainer.current_epoch.anew()
    begin(totals, plan)
    summed = _train(trainer, context, plan, steps)
    seconds = ledger.seconds("probe") - started
    return _Probe(buffer, totals, summed, seconds, None if pruner is None else pruner.seen())


def catch_up(args: Any, state: Any, control: Any, totals: EpochTotals, raced: int) -> None:
    """After a step of an epoch whose first steps were those of a race, which callbacks do not see.

    The epoch of the log counts them, and after the first other step a line of the log, an evaluation or a checkpoint
    that was due in one of them is asked for.

    Args:
        args, state, control: Of the Trainer.
        totals: Of the epoch.
        raced: Optimizer steps of the race.
    """
    accumulation = args.gradient_accumulation_steps
    others = totals.batches - raced * accumulation
    state.epoch = totals.epoch + (state.epoch - totals.epoch) * totals.batches / max(1, others)
    last = state.global_step - 1
    if others > accumulation:
        return

    def was_due(strategy: Any, every: float, after: float = 0) -> bool:
        step = last - last % every if strategy == "steps" and every > 0 else 0
        return last - raced < step and step >= after

    control.should_log |= was_due(args.logging_strategy, state.logging_steps)
    control.should_evaluate |= was_due(args.eval_strategy, state.eval_steps, args.eval_delay)
    control.should_save |= was_due(args.save_strategy, state.save_steps)


def _train(trainer: Any, context: EpochContext, plan: EpochPlan, steps: int) -> Any:
    """The first optimizer steps of an epoch, in the order in which its loader would give the batches.

    Returns:
        The sum of the training losses.
    """
    accelerator, accumulation = context.accelerator, trainer.args.gradient_accumulation_steps
    order, size, summed = trainer.sampler.order(plan), context.batch_size, 0.0
    for step in range(steps):
        places = [(step * accumulation + part) * accelerator.num_processes for part in range(accumulation)]
        starts = [(place + accelerator.process_index) * size for place in places]
        summed = summed + trainer.optimizer_step([_batch(context, order[start : start + size]) for start in starts])
    if trainer.args.device.type != "cpu":
        torch.accelerator.synchronize()  # its seconds are those of this entrant
    return summed


def _batch(context: EpochContext, rows: NDArray[np.int64]) -> Any:
    return RowCollator(context.collate)(list(zip(rows.tolist(), fetch(context.dataset, rows), strict=True)))


def dev_rows_of(context: EpochContext, count: int) -> NDArray[np.int64]:
    """The dev rows that judge every race of a run: int64, ascending, drawn by the seed of the diet."""
    generator = np.random.default_rng([context.diet.options.config.seed, _STREAM])
    return np.sort(generator.permutation(len(context.dev))[:count])


def dev_losses(context: EpochContext, rows: NDArray[np.int64], epoch: int) -> Losses:
    """The loss of dev rows under the model as it is, the same on all processes.

    Args:
        context: Of the Trainer; its `dev` is a map-style data set.
        rows: int64 `(n,)`, ascending.
        epoch: For the record.

    Returns:
        float32 `(n,)`: what training minimises, of each row: the negative log-likelihood of its label, the mean of its
        words, of its binary cross-entropies, or the squared error; of a joint model both, by their shares in its loss.
        Label smoothing, class weights and a loss of the user's own are left out.
    """
    shares = head_weights(context.model)
    own, parts = share_of(rows, context.accelerator), []
    for part, outputs, batch in context.passes(context.dev, own, lengths_of(context.dev)):
        parts.append((part, _row_losses(context.signals(outputs, batch), shares).cpu().numpy()))
    found = np.concatenate([part for part, _ in parts]) if parts else np.empty(0, np.int64)
    losses = np.concatenate([values for _, values in parts]) if parts else np.empty(0, np.float32)
    order = np.argsort(found)
    scores = Scores(found[order], {_LOSS: losses[order]}, "pass", epoch, 0)
    return exchange(scores, (_LOSS,), context.accelerator).values[_LOSS].astype(np.float32)


def _row_losses(signals: Signals, shares: Mapping[str, float]) -> torch.Tensor:
    losses = []
    for name, head in signals.heads.items():
        summed = free_signals(Signals({name: head}))[_LOSS]
        if isinstance(head, TokenSignals):  # a mean already; a row without a token counts for neither entrant
            losses.append(summed.where(head.mask.any(1), 0.0))
            continue
        decisions: Any = 1 if head.mask is None else head.mask.sum(1).clamp_min(1)
        if head.labels.shape == head.logits.shape:  # one for each label that it may have
            decisions = head.labels.shape[1]
        losses.append(shares.get(name, 1.0) * summed / decisions)
    return torch.stack(losses).sum(0)


def judging_split(
    dev: Any,
    collate: Callable[..., Batch],
    *,
    columns: Callable[[Any], Any],
    label_names: Sequence[str],
    pairs: bool = False,
) -> tuple[Any, str]:
    """The dev split that judges races: one of known length, whose rows can be read as the training rows are.

    Args:
        dev: The `eval_dataset` of the Trainer.
        collate: Of the training rows.
        columns: Takes the columns out of a `datasets.Dataset` that the model has no use for.
        label_names: Of the Trainer.
        pairs: Whether rows are pairs of answers, which are their own labels.

    Returns:
        Its rows whose class the model knows, None where it cannot judge; and why it could not.
    """
    if isinstance(dev, dict) and len(dev) == 1:
        (dev,) = dev.values()
    if isinstance(dev, dict):
        return None, "eval_dataset has several splits, and a race needs one"
    if not (hasattr(dev, "__len__") and hasattr(dev, "__getitem__")) or not len(dev):
        return None, NO_DEV
    if isinstance(dev, datasets.Dataset):
        dev = columns(dev)
    try:
        with own_generators():  # of a collator that draws: the run draws as it would without a race
            labelled = any("label" in name or name in label_names for name in collate([copy.copy(dev[0])]))
    except Exception as error:  # of the user's own collator
        return None, f"the rows of eval_dataset cannot be read as the training rows are ({type(error).__name__})"
    return _known(dev, label_names) if labelled or pairs else None, "eval_dataset has no labels"


def _known(dev: Any, label_names: Sequence[str]) -> Any:
    """A dev split without the rows whose class the model does not know."""
    if not isinstance(dev, datasets.Dataset):
        rows = [row for row in range(len(dev)) if not _is_ignored(dev[row])]
        return dev if len(rows) == len(dev) else torch.utils.data.Subset(dev, rows)
    columns = [
        name
        for name, kind in dev.features.items()
        if ("label" in name or name in label_names) and re.match(r"u?int|float", str(getattr(kind, "dtype", "")))
    ]
    known = np.ones(len(dev), bool)
    for name in columns:
        values = np.asarray(dev.with_format("numpy")[name][:])
        known &= ~np.isnan(values) if values.dtype.kind == "f" else values != IGNORED
    return dev if known.all() else dev.select(np.flatnonzero(known))


def _is_ignored(item: Any) -> bool:
    return isinstance(item, Mapping) and any(_is_unknown(value) for name, value in item.items() if "label" in name)


def _is_unknown(label: Any) -> bool:
    """Whether a label is one number that names no class, or none; not a text beside it, nor one per word."""
    if isinstance(label, torch.Tensor | np.ndarray | np.generic) and not label.ndim:
        label = label.item()
    return (isinstance(label, int) and label == IGNORED) or (isinstance(label, float) and math.isnan(label))
