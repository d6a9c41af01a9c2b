"""A diet between the epochs of a Trainer: record the last epoch, score, choose the next rows, keep the counts.

`BetweenEpochs` does these steps in this order. It works on an `EpochContext`, the parts of a Trainer that it uses, and
so do scoring passes (`score_rows`), the choice within batches and probes: none of them knows the Trainer itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from datadiet.diet.diet import Diet
from datadiet.ledger import Account, Ledger
from datadiet.scoring.forward import (
    TRAINING_BATCHES_PER_PASS_BATCH,
    Batch,
    forward_pass,
    pass_tokens,
    token_count,
    vocabulary_of,
)
from datadiet.training.sampler import DietSampler, row_weights
from datadiet.training.state import exchange, share_of
from datadiet.training.stream import StreamRows
from datadiet.types import CostLedger, EpochPlan, EpochResult, Json, Signals

_COUNTS = ("examples_forward", "examples_backward", "tokens_forward", "tokens_backward", "tokens_padded")
BESIDE: tuple[Account, ...] = ("score", "select", "probe")  # of the accounts, what a diet costs beside its training
Rows = NDArray[np.int64]
Values = NDArray[np.float32]
RunRace = Callable[[int, Mapping[str, EpochPlan]], int]


@dataclass(frozen=True)
class EpochContext:
    """The parts of a Trainer that work between its steps and epochs; made when its data loader is built.

    Attributes:
        diet, ledger: Of the run.
        model: The network, not wrapped for several processes.
        forward: Batch to outputs, under the Trainer's autocast.
        signals: `(outputs, batch) -> Signals`.
        dataset, collate: Of the training rows, without the rows inside the batch.
        lengths: int64 `(rows,)`, tokens of each row; None where they are unknown.
        batch_size: Examples per training batch of this process.
        accelerator: Of `accelerate`; knows the other processes.
        evaluate: Measures the dev split and reports it to the callbacks.
        log: Sends metrics to `report_to`.
        dev: The dev split, map-style, which judges races; None where there is none.
    """

    diet: Diet
    ledger: Ledger
    model: torch.nn.Module
    forward: Callable[[Batch], Any]
    signals: Callable[[Any, Mapping[str, Any]], Signals]
    dataset: Any
    collate: Callable[..., Batch]
    lengths: Rows | None
    batch_size: int
    accelerator: Any
    evaluate: Callable[[], object]
    log: Callable[[dict[str, float]], None]
    dev: Any = None

    @property
    def num_rows(self) -> int:
        """Rows of the training data."""
        return len(self.dataset)

    def passes(self, dataset: Any, rows: Rows, lengths: Rows | None) -> Iterator[tuple[Rows, Any, Batch]]:
        """Forward passes over rows of the training or dev data in batches sized by those of training, counted as
        scoring; see `datadiet.scoring.forward.forward_pass`."""
        mean = 1 if self.lengths is None else max(1, int(self.lengths.mean()))
        return forward_pass(
            self.model,
            dataset,
            self.collate,
            rows=rows,
            lengths=lengths,
            batch_tokens=pass_tokens(self.batch_size * mean, next(self.model.parameters()).device),
            # where the lengths are unknown; the logits of a language model may fill what training has room for
            batch_size=self.batch_size * (TRAINING_BATCHES_PER_PASS_BATCH if vocabulary_of(self.model) is None else 1),
            call=self.forward,
            ledger=self.ledger,
        )


def score_rows(
    context: EpochContext, rows: Rows, *, listen: Callable[[Rows, Signals], None] | None = None
) -> tuple[Rows, dict[str, Values]]:
    """One scoring pass of this process over some training rows, in eval mode.

    Args:
        context: Of the Trainer.
        rows: int64 `(n,)`.
        listen: Called with the rows and signals of every batch, in the order of the pass.

    Returns:
        The rows, ascending, and the float32 values of each column of the history beside them.
    """
    batches = context.passes(context.dataset, rows, context.lengths)
    order = np.empty(len(rows), np.int64)
    table = torch.empty(0)  # (columns, rows), in the order of the pass and on the model's device, so no batch waits
    done = 0
    for part, outputs, batch in batches:
        signals = context.signals(outputs, batch)
        if listen is not None:
            listen(part, signals)
        values = torch.stack([*context.diet.values_of(signals).values()])
        if not done:
            table = values.new_empty(len(values), len(rows))
        table[:, done : done + len(part)] = values
        order[done : done + len(part)] = part
        done += len(part)
    columns = dict(zip(context.diet.columns, table.cpu().numpy(), strict=False))  # without rows there are no columns
    places = np.argsort(order)
    for column in columns.values():
        column[:] = column[places]  # in place: no second copy of the table
    order.sort()
    return order, columns


class EpochTotals:
    """Sums of one epoch while it runs: its line of the result, and the counts of the ledger.

    Tokens and losses stay tensors until a checkpoint or the end of the epoch reads them, so that no step waits for the
    device.

    Args:
        epoch: From 0.
        ledger: Receives the examples and tokens; its accounts give the epoch's seconds.
    """

    def __init__(self, epoch: int, ledger: Ledger) -> None:
        self.epoch, self._ledger = epoch, ledger
        self.kept = self.dropped = self.batches = self.examples = self._tokens = self.unsettled = 0
        self._new_padded = 0
        self.loss: Any = 0.0
        self.dev: Mapping[str, float] = {}
        self.closed = False
        self._new_tokens: Any = 0
        self._train_s, self._score_s = ledger.seconds("train"), ledger.seconds("score")

    def anew(self) -> EpochTotals:
        """Sums of the same epoch without the batches so far; its seconds go on."""
        again = EpochTotals(self.epoch, self._ledger)
        again._train_s, again._score_s = self._train_s, self._score_s
        return again

    def count(self, examples: int, batch: Mapping[str, Any]) -> None:
        """Count a training batch."""
        masks = [value for name, value in batch.items() if name.endswith("attention_mask")]
        tokens = sum(mask.sum() for mask in masks) if masks else token_count(batch)
        self._new_tokens = self._new_tokens + tokens
        self._new_padded += sum(mask.numel() for mask in masks) if masks else tokens
        self.unsettled += examples
        self.batches += 1

    def settle(self) -> None:
        """Move the counts since the last call into the ledger."""
        tokens = int(self._new_tokens)
        self._ledger.count_training(self.unsettled, tokens, self._new_padded)
        self.examples += self.unsettled
        self._tokens += tokens
        self.unsettled, self._new_tokens, self._new_padded = 0, 0, 0

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
        """Continue an epoch in its middle, from its `so_far`."""
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


class BetweenEpochs:
    """The epochs of one run: the one that trains, and those that have trained.

    Args:
        diet, ledger: Of the run.
        accelerator: Of the Trainer.
        accumulation: Batches per optimizer step.

    Attributes:
        current: Sums of the epoch that trains.
        results: A line for each epoch that has trained.
        sampler: Receives each plan; None where the Trainer's own sampler stays.
        stream: Numbers the rows of a stream; None where the training data are none.
        weights: Of the rows' losses in this epoch, float32 `(rows,)`; None where all weigh 1.
    """

    def __init__(self, diet: Diet, ledger: Ledger, accelerator: Any, accumulation: int) -> None:
        self._diet, self._ledger, self._accelerator, self._accumulation = diet, ledger, accelerator, accumulation
        self.current = EpochTotals(0, ledger)
        self.results: list[EpochResult] = []
        self.sampler: DietSampler | None = None
        self.stream: StreamRows | None = None
        self.weights: torch.Tensor | None = None
        self._filled: tuple[int, torch.Tensor, torch.Tensor] | None = None
        self._begun = False

    def begin(self, context: EpochContext, state: Any, so_far: Json | None, race: RunRace) -> None:
        """Record the values of the last epoch, score the rows that need it, choose, and hand the plan to the sampler.

        Args:
            context: Of the Trainer.
            state: The Trainer's state.
            so_far: The run's part of a checkpoint, at the first epoch after a resume.
            race: Runs a race between plans; see `datadiet.training.race.run_race`.
        """
        self._begun = True
        epoch, begun = self._position(state) if self.stream is None else self._pass(so_far)
        self._num_rows, self._batch_size = context.num_rows, context.batch_size
        if so_far is not None:
            self._carry_epoch(so_far["epoch"], epoch)
            # killed between a checkpoint and its evaluation, which comes before one that is saved after the epoch
            if not (begun or so_far["epoch"]["closed"]) and self._diet.lacks_judgement(epoch):
                context.evaluate()
            if not begun and self._diet.lacks_recalls(epoch):
                context.evaluate()
        if not begun:
            self.current = EpochTotals(epoch, self._ledger)
            self.absorb()
            if self._diet.options.plans:
                self._score(context, epoch)
        done = 0
        with self._ledger.charge("select"):
            entrants = {} if begun else self._diet.entrants(epoch)
        if entrants:
            done = race(epoch, entrants)
        with self._ledger.charge("select"):
            plan = self._diet.plan(epoch)
        if self.sampler is not None:
            self.sampler.set_plan(plan, done=done * self._diet.schedule.batch)
        self.use(self.current, plan)
        if self._diet.options.plans:
            state.max_steps = self._diet.schedule.total_steps  # fewer than planned, where a tolerance has decided
            if not begun:
                with self._ledger.charge("select"):
                    metrics = self._metrics()
                context.log(metrics)

    def use(self, totals: EpochTotals, plan: EpochPlan) -> None:
        """Train by this plan, and count into these sums."""
        self.current, self.weights = totals, row_weights(plan, self._num_rows)
        totals.kept, totals.dropped = len(plan.rows), self._num_rows - len(plan.rows)
        self._filled = None
        processes, size = self._accelerator.num_processes, self._batch_size
        if self.sampler is not None and processes > 1:
            filled = self.sampler.filled_batch(plan, size, processes, self._accelerator.process_index)
            if filled is not None:
                rows, weights = map(torch.from_numpy, filled)
                self._filled = len(plan.rows) // (processes * size), rows, weights

    def weights_of(self, rows: torch.Tensor) -> torch.Tensor | None:
        """What the losses of the next training batch weigh, float32 `(batch,)`; None where all weigh 1.

        Args:
            rows: int64 `(batch,)`.
        """
        weights = None if self.weights is None else self.weights[rows.cpu()]
        # by number first: reading the rows waits for the device
        if self._filled is not None and self.current.batches >= self._filled[0]:
            _, of_last, factors = self._filled
            if torch.equal(rows.cpu(), of_last):
                return factors if weights is None else weights * factors
        return weights

    def _position(self, state: Any) -> tuple[int, bool]:
        """The epoch that is about to train, and whether it was begun before a resume."""
        if self._diet.options.plans:
            epoch, step = self._diet.schedule.locate(state.global_step)
            return epoch, step > 0
        passed = state.epoch or 0.0
        epoch = int(passed + 1e-6)
        return epoch, passed - epoch > 1e-6

    def _pass(self, so_far: Json | None) -> tuple[int, bool]:
        """The same of a stream, of which the Trainer counts the steps alone: each time that it is read is an epoch."""
        if so_far is not None:
            return so_far["epoch"]["epoch"] + int(so_far["epoch"]["closed"]), not so_far["epoch"]["closed"]
        return len(self.results), False

    def absorb(self) -> None:
        """Record the values of the training forwards of all processes."""
        with self._ledger.charge("select"):
            self._diet.absorb(exchange(self._diet.drain(), self._diet.columns, self._accelerator))

    def _score(self, context: EpochContext, epoch: int) -> None:
        """The scoring pass before a choice, where there is one."""
        rows = self._diet.rows_to_score(epoch)
        if len(rows):
            with self._ledger.charge("score"):
                scored = score_rows(context, share_of(rows, self._accelerator))
                scores = self._diet.scores(*scored, "pass", epoch)
                self._diet.absorb(exchange(scores, self._diet.columns, self._accelerator))

    def end(self, state: Any) -> None:
        """Close the epoch's line of the result."""
        if self._diet.options.plans:
            # the Trainer's is in steps of the longest epoch
            state.epoch = self.current.epoch + self._diet.schedule.share_trained(self.current.epoch)
        if self.stream is not None:
            self.current.settle()
            self.current.kept = self.current.examples
            self.current.dropped, self.stream.rows = self.stream.rows - self.current.examples, 0
        self._close()

    def _close(self) -> None:
        line = self.current.close(self._accumulation)
        (tokens,) = self._of_all(line.tokens)
        self.results.append(replace(line, tokens=tokens))

    def evaluated(self, metrics: Mapping[str, float], judged: str, rows: int) -> None:
        """Put the dev metrics into the line of the epoch they follow, and judge a diet with a tolerance by one of them.

        Args:
            metrics: By the Trainer's names, `eval_...`.
            judged: Name of the metric of the tolerance.
            rows: Of the dev split.
        """
        if not self._begun:  # `eval_on_start`: of no epoch, nor of the last one before a resume
            return
        dev = {name.removeprefix("eval_"): value for name, value in metrics.items() if name.startswith("eval_")}
        if self.current.closed and self.results:
            self.results[-1] = replace(self.results[-1], dev={**self.results[-1].dev, **dev})
        else:
            self.current.dev = {**self.current.dev, **dev}
        if judged in dev and (self._diet.options.config.tolerance is not None or "loss" not in judged):
            self._diet.judge(self.current.epoch, dev[judged], rows, metric=judged)

    def _metrics(self) -> dict[str, float]:
        """The metrics that `report_to` receives before each epoch."""
        counts = {"diet_kept": float(self.current.kept), "diet_dropped": float(self.current.dropped)}
        quantiles = {f"diet_score_{name}": value for name, value in self._diet.score_quantiles().items()}
        return {**counts, **quantiles, "diet_seconds_saved": self.seconds_saved()}

    def seconds_saved(self) -> float:
        """The seconds that the dropped examples would have cost so far, less those of scoring, selecting and races."""
        epoch, ledger = self.current, self._ledger
        trained, dropped = (sum(getattr(line, name) for line in self.results) for name in ("kept", "dropped"))
        if not epoch.closed:
            done = (epoch.examples + epoch.unsettled) * self._accelerator.num_processes
            trained += done
            dropped += epoch.dropped * min(1.0, done / max(1, epoch.kept))
        beside = sum(ledger.seconds(account) for account in BESIDE)
        return float(dropped * ledger.seconds("train") / max(1, trained) - beside)

    # ---- checkpoints ----

    def cost(self) -> CostLedger:
        """What the ledger has, with the examples and tokens of all processes, each of which asks."""
        own = self._ledger.snapshot()
        return replace(own, **dict(zip(_COUNTS, self._of_all(*(getattr(own, name) for name in _COUNTS)), strict=True)))

    @property
    def _is_first(self) -> bool:
        return bool(self._accelerator.process_index == 0)

    def _of_all(self, *counts: int) -> list[int]:
        """Counts of this process, to the sums over all."""
        if self._accelerator.num_processes == 1:
            return list(counts)
        of_each = self._accelerator.gather(torch.tensor([counts], device=self._accelerator.device))
        return [int(count) for count in of_each.sum(0)]

    def so_far(self) -> Json:
        """The run so far as plain values, for a checkpoint; each process asks."""
        epoch = self.current.so_far()  # before the ledger's snapshot, which it brings up to date
        (tokens,) = self._of_all(epoch["tokens"])
        lines = [asdict(result) for result in self.results]
        epoch |= {"tokens": tokens, "accumulation": self._accumulation}
        return {"cost": asdict(self.cost()), "epochs": lines, "epoch": epoch}

    def carry(self, so_far: Json) -> None:
        """Continue with the costs and the lines of a resumed run; the counts of all processes are the first one's."""
        cost = CostLedger(**so_far["cost"])
        self._ledger.carry(cost if self._is_first else replace(cost, **dict.fromkeys(_COUNTS, 0)))
        self.results = [EpochResult(**result) for result in so_far["epochs"]]

    def _carry_epoch(self, so_far: Json, next_epoch: int) -> None:
        """Continue the epoch of the checkpoint; close it if its last step was the checkpoint's."""
        if so_far["closed"]:
            return
        self.current = EpochTotals(so_far["epoch"], self._ledger)
        batches = so_far["batches"] * self._accumulation // so_far["accumulation"]  # steps, in the batches of now
        self.current.carry({**so_far, "batches": batches, "tokens": so_far["tokens"] if self._is_first else 0})
        if so_far["epoch"] < next_epoch:
            self._close()
