"""Token pruning in training: only a part of the tokens of each answer trains.

The losses that the training forward gave each token in the last epoch decide which ones train in the next; rows that
have not been seen yet train whole. Where rows are chosen within each batch, the pass that chooses them decides of their
tokens too, in the same step. `mask` takes the other tokens out of the loss: the labels are -100, the text stays,
and the forward pass costs what it did before. `drop` takes them out of the text too: the model reads it with gaps, each
token at its own position, and the pass is shorter. `downweight` lets them count less.

The batches of a step are pruned before its tokens are counted, so that the loss is divided by what trains. Memory: 4
bytes per token that trains and 16 per row, 2 bytes more per token with a reference model.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object
from numpy.typing import NDArray
from torch import Tensor

from datadiet.diet.options import DietOptions
from datadiet.errors import ArgumentError
from datadiet.ledger import Ledger
from datadiet.scores.tokens import token_signals
from datadiet.scoring.forward import Batch, forward_pass
from datadiet.selectors.token_rules import RowTokens, TokenRule
from datadiet.store.cache import entry, load_arrays, save_arrays
from datadiet.training.epochs import EpochContext
from datadiet.training.in_batch import Choice
from datadiet.training.sampler import LENGTHS_KEY, ROW_KEY
from datadiet.types import IGNORED, Json, Signals, TokenSignals

TOKEN_KEY = "datadiet_tokens"  # of a batch: a `Pruned`
REFERENCE = "reference"  # kind of entry in a cache
_FLUSH_EVERY = 64  # batches that are kept as tensors, so that no step waits for a device
_SHAPED = ("input_ids", "labels", "attention_mask", "position_ids")  # what `drop` takes tokens out of
_MOST_NAMED = 5

Counts = NDArray[np.int64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Pruned:
    """What was done to a batch.

    Attributes:
        counts: int64 `(rows,)`, tokens of each row that trained before.
        kept: bool `(tokens,)`, those that still train, row after row.
        starts: bool `(tokens,)`, see `RowTokens`.
        labels: As they came, where the batch still has all its tokens; None otherwise.
        weights: float `(batch, length)`, of the loss at each position of the logits; None where all weigh 1.
    """

    counts: Counts
    kept: Mask
    starts: Mask
    labels: Tensor | None = None
    weights: Tensor | None = None


@dataclass(frozen=True)
class TokenReference:
    """The losses that another model gives the tokens of the training rows.

    Attributes:
        counts: int64 `(rows,)`.
        nll: float16 `(tokens,)`, row after row.
    """

    counts: Counts
    nll: NDArray[np.float16]

    def of(self, counts: Counts) -> NDArray[np.float16]:
        """The losses of the rows with such counts; 0 stands for a row that is not asked for.

        Raises:
            ArgumentError: If a row has another number of tokens, naming some.
        """
        if len(self.counts) != len(counts):
            raise ArgumentError(f"the reference has losses of {len(self.counts)} rows, and {len(counts)} train.")
        asked = counts > 0
        if bad := np.flatnonzero(asked & (counts != self.counts))[:_MOST_NAMED].tolist():
            row = bad[0]
            raise ArgumentError(
                f"the reference has read {self.counts[row]} tokens of row {row} that train, and the model {counts[row]}"
                f" (rows {', '.join(map(str, bad))}): both need the same tokenizer, template and length."
            )
        return self.nll[np.repeat(asked, self.counts)]

    def of_rows(self, rows: NDArray[np.int64], counts: Counts) -> NDArray[np.float16]:
        """The losses of some rows, one after the other; errors as of `of`.

        Examples:
            >>> TokenReference(np.array([1, 2]), np.array([1, 2, 3], np.float16)).of_rows(np.array([1]), np.array([2]))
            array([2., 3.], dtype=float16)
        """
        if (self.counts[rows] != counts).any():
            every = np.zeros_like(self.counts)
            every[rows] = counts
            self.of(every)
        begins = self._ends[rows] - self.counts[rows]
        return np.concatenate([self.nll[start:][:count] for start, count in zip(begins, counts, strict=True)])

    @cached_property
    def _ends(self) -> Counts:
        return np.cumsum(self.counts)

    @staticmethod
    def save(folder: Path, reference: TokenReference) -> None:
        """Write the losses as arrays."""
        save_arrays(folder, {"counts": reference.counts, "nll": reference.nll})

    @staticmethod
    def load(folder: Path) -> TokenReference:
        """The losses that `save` wrote."""
        return TokenReference(**load_arrays(folder))


def token_reference(
    reference: torch.nn.Module,
    dataset: Any,
    collate: Callable[..., Batch],
    *,
    model: torch.nn.Module | None = None,
    ledger: Ledger | None = None,
    cache: str | Path | None = None,
    batch_tokens: int = 4096,
    precision: str = "fp32",
) -> TokenReference:
    """One pass of a reference model over the training rows: the loss of each token that trains.

    Args:
        reference: A causal language model with the tokens of the model that trains.
        dataset: Of the training rows, map-style and tokenised.
        collate: Items to a batch with `labels`.
        model: The model that trains, to compare the vocabularies.
        ledger: Counts the pass as scoring.
        cache: A folder that keeps the losses, for the same weights and rows.
        batch_tokens, precision: Of the pass.

    Raises:
        ArgumentError: If the vocabularies differ.
    """
    check_vocabulary(reference, model)

    left = (*_OWN, "labels")  # with labels a model computes a loss, by a copy of all logits in float32

    def compute() -> TokenReference:
        losses: list[NDArray[np.float16]] = [np.empty(0, np.float16)] * len(dataset)
        call = lambda batch: reference(**{name: part for name, part in batch.items() if name not in left})  # noqa: E731
        for rows, outputs, batch in forward_pass(
            reference, dataset, collate, batch_tokens=batch_tokens, precision=precision, call=call, ledger=ledger
        ):
            tokens = Trained.of(batch, len(rows))
            nll = token_signals(outputs.logits, batch["labels"]).nll.cpu()[tokens.mask].numpy().astype(np.float16)
            for row, part in zip(rows.tolist(), np.split(nll, np.cumsum(tokens.counts)[:-1]), strict=True):
                losses[row] = part
        return TokenReference(np.array([len(part) for part in losses]), np.concatenate(losses))

    if cache is None:
        return compute()
    origin = {"weights": weights_checksum(reference), "rows": _rows_checksum(dataset), "precision": precision}
    found = entry(
        Path(cache), REFERENCE, origin, compute, save=TokenReference.save, load=TokenReference.load, ledger=ledger
    )
    return found.value


def check_vocabulary(reference: torch.nn.Module, model: torch.nn.Module | None) -> None:
    """Refuse a reference whose tokens are not those of the model.

    Raises:
        ArgumentError: With both sizes.
    """
    ours, theirs = _vocabulary(model), _vocabulary(reference)
    if ours is not None and theirs is not None and ours != theirs:
        raise ArgumentError(
            f"the reference model has a vocabulary of {theirs:,} tokens, and the model one of {ours:,}: losses can be "
            "compared token by token only. Take a reference with the same tokenizer."
        )


def _vocabulary(model: Any) -> int | None:
    config: Any = getattr(model, "config", None)
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    size = getattr(text, "vocab_size", None)
    return None if size is None else int(size)


def weights_checksum(model: torch.nn.Module) -> str:
    """A digest of the names and values of a model's weights."""
    total = 0
    for name, value in sorted(model.state_dict().items()):
        raw = value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()
        total = zlib.crc32(raw.data, zlib.crc32(name.encode(), total))
    return f"{total:08x}"


def _rows_checksum(dataset: Any) -> str:
    total = 0
    for row in range(len(dataset)):
        item = dataset[row]
        parts = [item[name] for name in ("input_ids", "labels", "completion_mask") if name in item]
        total = zlib.crc32(repr([np.asarray(part).tolist() for part in parts]).encode(), total)
    return f"{total:08x}"


def pruner_of(
    options: DietOptions, context: EpochContext, reference: torch.nn.Module | TokenReference | None
) -> TokenPruner | None:
    """What prunes the tokens of a run; None where all train.

    Args:
        options: Of the diet.
        context: Of the Trainer.
        reference: A model, which is passed over the training rows, or its losses.

    Raises:
        ArgumentError: If the rule lacks a reference, or its vocabulary is another.
    """
    rule = options.token_rule()
    if rule is None:
        if reference is not None:
            raise ArgumentError('reference has no effect without a token rule: tokens="excess(keep=0.6)".')
        return None
    if isinstance(reference, torch.nn.Module):
        if "reference" in rule.needs:
            device = next(context.model.parameters()).device
            with context.ledger.charge("score"):
                reference = token_reference(
                    reference.to(device), context.dataset, context.collate, model=context.model, ledger=context.ledger
                )
        else:
            reference = TokenReference(np.zeros(0, np.int64), np.empty(0, np.float16))
    method = options.batch_method()
    return TokenPruner(
        rule,
        context.num_rows,
        seed=options.config.seed,
        first=options.config.warmup_epochs,
        reference=reference,
        within=method is not None and method.chooses,
    )


def without_tokens(batch: Any) -> tuple[Pruned | None, Any]:
    """What was done to a batch, None where nothing was, and the batch for the model."""
    if not isinstance(batch, Mapping) or TOKEN_KEY not in batch:
        return None, batch
    rest: Any = copy(batch)
    return rest.pop(TOKEN_KEY), rest


def whole_labels(batch: Any, pruned: Pruned | None) -> Any:
    """A batch for reading, with the labels as they came: losses of the tokens that do not train are wanted as well."""
    if pruned is None or pruned.labels is None:
        return batch
    return {**batch, "labels": pruned.labels.to(batch["labels"].device)}


@dataclass(frozen=True)
class Trained:
    """The tokens of a batch that train.

    Attributes:
        mask: bool `(batch, length - 1)` on the CPU, shifted: position t is about token t + 1.
        counts: int64 `(rows,)`.
        starts: bool `(tokens,)`.
    """

    mask: Tensor
    counts: Counts
    starts: Mask

    @staticmethod
    def of(batch: Mapping[str, Any], rows: int) -> Trained:
        """Of a batch of so many rows, one line each, or all in one sequence.

        Raises:
            ArgumentError: If the tokens cannot be told apart by row.
        """
        labels = batch.get("labels")
        if not isinstance(labels, Tensor) or labels.dim() != 2 or "shift_labels" in batch:
            raise ArgumentError("tokens= needs batches with labels of one number per token, not shifted.")
        mask = labels[:, 1:].cpu() != IGNORED
        lines, places = mask.nonzero(as_tuple=True)
        of_row = lines
        if len(labels) != rows:
            lengths = batch.get(LENGTHS_KEY)
            lengths = lengths.sum(1) if isinstance(lengths, Tensor) and lengths.dim() == 2 else lengths
            if not isinstance(lengths, Tensor) or len(lengths) != rows or len(labels) != 1:
                raise ArgumentError(
                    f"tokens= needs one line of a batch per row, got {len(labels)} for {rows} rows: set packing=False."
                )
            of_row = torch.searchsorted(lengths.cpu().cumsum(0), places + 1, right=True)
        counts = np.bincount(of_row.numpy(), minlength=rows)
        follows = np.zeros(len(places), np.bool_)
        follows[1:] = ((places.diff() == 1) & (lines.diff() == 0) & (of_row.diff() == 0)).numpy()
        return Trained(mask, counts, ~follows)


_OWN = (ROW_KEY, TOKEN_KEY, LENGTHS_KEY)


@dataclass(frozen=True)
class Seen:
    """What a `TokenPruner` has seen since its last choice: losses and starts by row, entropies, and its own sums."""

    fresh: Mapping[int, tuple[NDArray[np.float16], Mask]]
    entropy: NDArray[np.float32]
    own: Mapping[str, int]


class TokenPruner:
    """The tokens that train in a run.

    Args:
        rule: Which ones.
        num_rows: Of the training data.
        seed: Of random rules.
        first: The first epoch in which a part of the tokens trains.
        reference: Losses of another model, for a rule that needs them.
        within: Whether rows are chosen within each batch, and tokens with them: see `prune_chosen`.

    Raises:
        ArgumentError: If the rule needs a reference and there is none, or has no use for one.

    Attributes:
        decided: The epoch that the choice at hand is for; -1 before the first.
    """

    def __init__(
        self,
        rule: TokenRule,
        num_rows: int,
        *,
        seed: int,
        first: int,
        reference: TokenReference | None = None,
        within: bool = False,
    ) -> None:
        if "reference" in rule.needs and reference is None:
            raise ArgumentError(
                "this token rule compares with a reference model: give reference=, a causal language model with the "
                "same tokens, or its losses (datadiet.training.tokens.token_reference)."
            )
        if "reference" not in rule.needs and reference is not None:
            raise ArgumentError("reference has no effect with this token rule; it belongs to excess.")
        self._rule, self._seed, self._first, self._reference = rule, seed, first, reference
        self._within = within
        self._counts = np.zeros(num_rows, np.int64)
        self._entropy = np.full(num_rows, np.nan, np.float32)
        self._nll, self._starts = np.empty(0, np.float16), np.empty(0, np.bool_)
        self._offsets = np.zeros(num_rows, np.int64)
        self._kept = np.empty(0, np.bool_)  # empty before the first choice, which is of rows with these counts
        self._decided_counts = self._decided_offsets = np.zeros(num_rows, np.int64)
        self._fresh: dict[int, tuple[NDArray[np.float16], Mask]] = {}
        self._pending: list[tuple[Tensor, Tensor, Tensor, Tensor, Pruned]] = []
        self.decided = -1
        # by all processes when they last shared, and by this one since then
        self._sums, self._own = {"seen": 0, "trained": 0}, {"seen": 0, "trained": 0}

    # ---- before a step

    def prune(self, batch: Mapping[str, Any]) -> Any:
        """A batch of which only the tokens that were chosen train, with a `Pruned` under `TOKEN_KEY`.

        Raises:
            ArgumentError: If its tokens cannot be told apart by row, or `drop` would break what holds several rows.
        """
        rows = batch[ROW_KEY].cpu().numpy()
        trained = Trained.of(batch, len(rows))
        return self._pruned(batch, trained, self._kept_of(rows, trained.counts))

    def prune_chosen(self, whole: Mapping[str, Any], signals: Signals, choice: Choice, seed: int) -> Any:
        """The part of a batch that a choice within it has left, of which only some tokens train: as `prune`, by the
        losses of the pass that the choice was made by.

        Args:
            whole: The batch before the choice.
            signals: Of the pass over it.
            choice: From it.
            seed: Of random rules, each process its own.
        """
        rows, head = whole[ROW_KEY].cpu().numpy(), _head(signals)
        trained = Trained.of(whole, len(rows))
        tokens = RowTokens(
            trained.counts,
            head.nll[head.mask].cpu().numpy(),
            None if self._reference is None else self._reference.of_rows(rows, trained.counts),
            trained.starts,
            (head.entropy.sum(1) / head.mask.sum(1)).float().cpu().numpy(),
            choice.calibrated,
        )
        of_rows = np.split(self._rule.kept(tokens, seed=seed, epoch=choice.step), np.cumsum(trained.counts)[:-1])
        for row, kept in zip(rows.tolist(), of_rows, strict=True):
            if len(self._kept) and self._decided_counts[row] == len(kept):  # of the page
                self._kept[self._decided_offsets[row] :][: len(kept)] = kept
        part: Any = copy(choice.inputs)
        part[ROW_KEY] = choice.rows
        of_part = Trained.of(part, len(choice.rows))
        # padding on the left that only the others needed is gone, and with it what stands before the longest
        pairs = zip(choice.places.tolist(), of_part.counts.tolist(), strict=True)
        kept = np.concatenate([of_rows[place][len(of_rows[place]) - count :] for place, count in pairs])
        return self._pruned(part, of_part, kept)

    def _pruned(self, batch: Mapping[str, Any], trained: Trained, kept: Mask) -> Any:
        """A batch of which only the kept tokens train."""
        self._own["seen"] += len(kept)
        self._own["trained"] += int(np.count_nonzero(kept))
        made: Any = copy(batch)
        if kept.all():
            made[TOKEN_KEY] = Pruned(trained.counts, kept, trained.starts, labels=batch["labels"])
            return made
        out = torch.zeros_like(trained.mask)
        out[trained.mask] = torch.from_numpy(~kept)
        out = torch.cat([torch.zeros_like(out[:, :1]), out], dim=1)  # (batch, length): the tokens that do not train
        if self._rule.action == "drop":
            made.update(_shortened(batch, ~out))
            made[TOKEN_KEY] = Pruned(trained.counts, kept, trained.starts)
        elif self._rule.action == "mask":
            made["labels"] = batch["labels"].masked_fill(out.to(batch["labels"].device), IGNORED)
            made[TOKEN_KEY] = Pruned(trained.counts, kept, trained.starts, labels=batch["labels"])
        else:
            weights = torch.ones(out.shape).masked_fill(out, self._rule.light).roll(-1, dims=1)  # at what predicts it
            weights[:, -1] = 1.0
            made[TOKEN_KEY] = Pruned(trained.counts, kept, trained.starts, labels=batch["labels"], weights=weights)
        return made

    def items(self, batches: Sequence[Any], count: Callable[[Sequence[Any]], Any]) -> Any:
        """What the loss of a step is divided by: the tokens that train, or their weights.

        Args:
            batches: Of the step, pruned.
            count: Of the Trainer: batches to their number of tokens.
        """
        if self._rule.action != "downweight":
            return count(batches)
        whole, light = count(batches), self._rule.light
        if whole is None:
            return None
        heavy = []
        for batch in batches:
            weights, alone = batch[TOKEN_KEY].weights, copy(batch)
            if weights is not None:
                out = (weights < 1).roll(1, dims=1).to(batch["labels"].device)
                alone["labels"] = batch["labels"].masked_fill(out, IGNORED)
            heavy.append(alone)
        return whole * light + count(heavy) * (1 - light)

    def _kept_of(self, rows: NDArray[np.int64], counts: Counts) -> Mask:
        """Those of a batch that train; all of a row that is not known as it is."""
        if not len(self._kept):
            return np.ones(int(counts.sum()), np.bool_)
        parts = []
        for row, count in zip(rows.tolist(), counts.tolist(), strict=True):
            start, known = self._decided_offsets[row], self._decided_counts[row] == count
            parts.append(self._kept[start : start + count] if known else np.ones(count, np.bool_))
        return np.concatenate(parts) if parts else np.empty(0, np.bool_)

    # ---- after a forward pass

    def observe(self, rows: Tensor, signals: Signals, pruned: Pruned) -> None:
        """Take the losses of a batch from a forward pass of it.

        Raises:
            ArgumentError: If the model gives no losses of tokens.
        """
        head = _head(signals)
        number = head.mask.sum(1)
        self._pending.append((
            rows.detach(), head.nll.half(), head.mask, head.entropy.sum(1) / number, pruned,
        ))  # fmt: skip
        if len(self._pending) >= _FLUSH_EVERY:
            self._flush()

    def _flush(self) -> None:
        for rows, nll, mask, entropy, pruned in self._pending:
            numbers, values = mask.sum(1).cpu().numpy(), nll[mask].cpu().numpy()
            parts = np.split(values, np.cumsum(numbers)[:-1])
            ends = np.cumsum(pruned.counts)[:-1]
            of_rows = zip(np.split(pruned.kept, ends), np.split(pruned.starts, ends), strict=True)
            uncertain = entropy.float().cpu().numpy()
            for place, (row, (kept, starts)) in enumerate(zip(rows.cpu().tolist(), of_rows, strict=True)):
                self._take(row, parts[place], kept, starts)
                if len(parts[place]):
                    self._entropy[row] = uncertain[place]
        self._pending.clear()

    def _take(self, row: int, values: NDArray[np.float16], kept: Mask, starts: Mask) -> None:
        """The losses of a row: of all its tokens, or of those that trained; of any others nothing is known."""
        if len(values) == len(kept):
            self._fresh[row] = (values, starts)
            return
        before = self._fresh[row][0] if row in self._fresh else self._stored(row)
        if len(values) == np.count_nonzero(kept) and len(before) == len(kept):
            whole = before.copy()
            whole[kept] = values
            self._fresh[row] = (whole, starts)

    def _stored(self, row: int) -> NDArray[np.float16]:
        return self._nll[self._offsets[row] : self._offsets[row] + self._counts[row]]

    def seen(self) -> Seen:
        """What training has shown since the last choice: each entrant of a race has its own, see `go_on_from`."""
        self._flush()
        return Seen(dict(self._fresh), self._entropy.copy(), dict(self._own))

    def go_on_from(self, seen: Seen) -> None:
        """Forget what training has shown since `seen`; meanwhile the processes have not shared anything."""
        self._pending.clear()
        self._fresh, self._entropy, self._own = dict(seen.fresh), seen.entropy.copy(), dict(seen.own)

    # ---- between epochs

    def share(self, processes: int) -> None:
        """Give every process what any has seen since the last choice; of a row that several have seen, the last's."""
        self._flush()
        sums = [self._own]
        if processes > 1:
            told = gather_object([(self._fresh, {row: self._entropy[row] for row in self._fresh}, self._own)])
            for fresh, entropies, _ in told:
                self._fresh |= fresh
                self._entropy[list(entropies)] = list(entropies.values())
            sums = [own for _, _, own in told]
        self._sums = {name: count + sum(own[name] for own in sums) for name, count in self._sums.items()}
        self._own = dict.fromkeys(self._own, 0)

    def decide(self, epoch: int, *, processes: int = 1) -> str:
        """Choose the tokens of an epoch; asking again for the same one changes nothing.

        Returns:
            What was chosen, in words, at the first choice; empty otherwise.

        Raises:
            ArgumentError: If the reference has read other tokens.
        """
        if epoch <= self.decided:
            return ""
        self._settle(processes)
        self.decided = epoch
        if epoch < self._first or not len(self._nll):
            return ""
        begins = not len(self._kept)
        if self._within:  # each batch for itself; where its choice is off it trains whole
            self._kept = np.ones(len(self._nll), np.bool_)
            self._decided_counts, self._decided_offsets = self._counts, self._offsets
            return "" if not begins else f"The tokens that train are chosen in each batch. {_SAVES[self._rule.action]}"
        reference = None if self._reference is None else self._reference.of(self._counts)
        tokens = RowTokens(self._counts, self._nll, reference, self._starts, self._entropy)
        self._kept = self._rule.kept(tokens, seed=self._seed, epoch=epoch)
        self._decided_counts, self._decided_offsets = self._counts, self._offsets
        share = np.count_nonzero(self._kept) / len(self._kept)
        return (
            "" if not begins else f"{share:.1%} of {len(self._kept):,} answer tokens train. {_SAVES[self._rule.action]}"
        )

    def _settle(self, processes: int) -> None:
        """Put what was seen since the last choice, by any process, into the arrays of all rows."""
        self.share(processes)
        changed = any(len(values) != self._counts[row] for row, (values, _) in self._fresh.items())
        if changed:
            ends = np.cumsum(self._counts)[:-1]
            old = list(zip(np.split(self._nll, ends), np.split(self._starts, ends), strict=True))
            every = [self._fresh.get(row, old[row]) for row in range(len(self._counts))]
            self._counts = np.array([len(values) for values, _ in every], np.int64)
            self._nll = np.concatenate([values for values, _ in every])
            self._starts = np.concatenate([starts for _, starts in every])
        self._offsets = np.cumsum(self._counts) - self._counts
        if not changed:
            for row, (values, starts) in self._fresh.items():
                part = slice(self._offsets[row], self._offsets[row] + len(values))
                self._nll[part], self._starts[part] = values, starts
        self._fresh = {}

    # ---- results and checkpoints

    def summary(self) -> Json:
        """The tokens of answers in all batches that the processes have shared, and the share of them that trained."""
        seen, trained = self._sums["seen"], self._sums["trained"]
        return {**self._sums, "share": trained / seen if seen else None, "action": self._rule.action}

    def last_choice(self, row: int) -> Mask | None:
        """Which of a row's tokens train by the last choice, bool `(tokens,)`; None before one, and of unseen rows."""
        if not len(self._kept) or not self._decided_counts[row]:
            return None
        return self._kept[self._decided_offsets[row] :][: self._decided_counts[row]]

    def state(self) -> tuple[dict[str, NDArray[Any]], Json]:
        """Arrays, and plain values; `share` comes before."""
        fresh = sorted(self._fresh)
        empty = (np.empty(0, np.float16), np.empty(0, np.bool_))
        values = [*(self._fresh[row] for row in fresh), empty]
        arrays: dict[str, NDArray[Any]] = {
            "counts": self._counts, "entropy": self._entropy, "nll": self._nll, "starts": self._starts,
            "kept": self._kept, "fresh_rows": np.array(fresh, np.int64),
            "decided_counts": self._decided_counts,
            "fresh_counts": np.array([len(part) for part, _ in values[:-1]], np.int64),
            "fresh_nll": np.concatenate([part for part, _ in values]),
            "fresh_starts": np.concatenate([part for _, part in values]),
        }  # fmt: skip
        return arrays, {"decided": self.decided, **self._sums}

    def load(self, arrays: Mapping[str, NDArray[Any]], numbers: Json) -> None:
        """Restore a state."""
        for name in ("counts", "entropy", "nll", "starts", "kept"):
            setattr(self, f"_{name}", np.array(arrays[name]))
        self._decided_counts = np.array(arrays["decided_counts"])
        self._offsets = np.cumsum(self._counts) - self._counts
        self._decided_offsets = np.cumsum(self._decided_counts) - self._decided_counts
        ends = np.cumsum(arrays["fresh_counts"])[:-1]
        parts = zip(np.split(arrays["fresh_nll"], ends), np.split(arrays["fresh_starts"], ends), strict=True)
        rows = arrays["fresh_rows"].tolist()
        self._fresh = dict(zip(rows, parts, strict=True)) if rows else {}
        self.decided, self._sums = numbers["decided"], {"seen": numbers["seen"], "trained": numbers["trained"]}
        self._own = dict.fromkeys(self._sums, 0)


def _head(signals: Signals) -> TokenSignals:
    head = next((one for one in signals.heads.values() if isinstance(one, TokenSignals)), None)
    if head is None:
        raise ArgumentError("tokens= is for causal language models: this model gives no losses of next tokens.")
    return head


_SAVES = {
    "mask": "The others stay in the text: the forward and backward passes are as long as before.",
    "drop": "The others are taken out of the text, and the model reads it with gaps.",
    "downweight": "The others count less: the forward and backward passes are as long as before.",
}


def _shortened(batch: Mapping[str, Any], stays: Tensor) -> Batch:
    """The tensors of a batch without some positions, each token with its own position.

    Raises:
        ArgumentError: If a line holds several rows, which positions with gaps would cut apart.
    """
    labels, mask = batch["labels"], batch.get("attention_mask")
    positions = batch.get("position_ids")
    if LENGTHS_KEY in batch or (positions is not None and bool((positions.diff(dim=1) < 0).any())):
        raise ArgumentError(
            "action=drop does not go with packing or padding_free, whose rows are told apart by their positions: use "
            "action=mask."
        )
    if unknown := [
        name
        for name, part in batch.items()
        if name not in _SHAPED and isinstance(part, Tensor) and part.dim() > 1 and part.shape[1] == labels.shape[1]
    ]:
        raise ArgumentError(f"action=drop cannot take tokens out of {', '.join(unknown)}: use action=mask.")
    stays = stays.to(labels.device)
    mask = torch.ones_like(labels) if mask is None else mask
    if positions is None:
        positions = (mask.long().cumsum(1) - 1).clamp_min(0)
    stays = stays & (mask != 0)
    counts = stays.sum(1)
    longest = int(counts.max())
    left = bool((mask[:, 0] == 0).any())  # the side that is padded
    order = (stays.long() if left else (~stays).long()).argsort(dim=1, stable=True)
    order = order[:, -longest:] if left else order[:, :longest]
    real = stays.gather(1, order)
    made: Batch = {"attention_mask": real.to(mask.dtype), "position_ids": positions.expand_as(labels).gather(1, order)}
    made["input_ids"] = batch["input_ids"].gather(1, order)
    made["labels"] = labels.gather(1, order).masked_fill(~real, IGNORED)
    return made
