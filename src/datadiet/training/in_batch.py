"""The choice within each batch: a forward pass without gradients decides which examples get one with gradients."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from copy import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate.utils import gather_object
from numpy.typing import NDArray
from torch import Tensor, nn

from datadiet.errors import ArgumentError
from datadiet.ledger import Ledger
from datadiet.registry import load
from datadiet.scores.last_layer import errors_of
from datadiet.scores.reduce import example_values, free_signals
from datadiet.scores.tokens import with_logits
from datadiet.scoring.forward import evaluating, token_count
from datadiet.selectors.base import mix
from datadiet.selectors.in_batch import BatchSelector, BatchSignals
from datadiet.types import HeadSignals, Json, Signals

Inputs = dict[str, Any]
JUDGED_AFTER = 32  # batches of an epoch


@dataclass(frozen=True)
class Choice:
    """The part of a batch that is trained on.

    Attributes:
        rows: int64 `(chosen,)`, of the training data.
        inputs: Of the model, padded to the longest chosen example.
        places: int64 `(chosen,)`, in the batch, on the CPU.
        step: The number of the choice.
        calibrated: bool `(batch,)`, see `BatchSelector.calibrated`.
    """

    rows: Tensor
    inputs: Inputs
    places: Tensor
    step: int
    calibrated: NDArray[np.bool_] | None


class BatchChooser:
    """One in-batch selector at work in one run.

    Args:
        method: One of `datadiet methods`, kind in_batch.
        seed: Of its draws; each process has its own.
        irreducible: float32 `(num_rows,)`, losses of a model trained on other data, for a method that needs them.
        apart: Names in a batch whose padding is not that of the text, see `part_of`.

    Attributes:
        off: Whether batches train whole, because scoring takes more than it saves.
        judged: Whether that has been decided.

    Raises:
        ArgumentError: If the method needs irreducible losses and there are none.
    """

    def __init__(
        self,
        method: BatchSelector,
        *,
        seed: int,
        irreducible: NDArray[np.float32] | None = None,
        apart: Collection[str] = (),
    ) -> None:
        if "irreducible" in method.needs and irreducible is None:
            raise ArgumentError("this method needs irreducible losses, one per training row: give them as values.")
        self._method, self._seed, self._irreducible, self._apart = method, seed, irreducible, apart
        self._step, self.judged = 0, False
        self.off = False

    def judge(self, whole_s: float, now_s: float, score_s: float, batches: int) -> str:
        """Compare the time of a batch with what a whole one took in the warm-up, once, after `JUDGED_AFTER` batches.

        Args:
            whole_s: Seconds of a batch that trains whole; 0 where there was no warm-up, and nothing is judged.
            now_s, score_s: Seconds of a batch now, scoring included, and of its scoring.
            batches: Of this epoch so far.

        Returns:
            What was found, in words, where scoring takes more than it saves; else empty. A method with `gate` is then
            off: every batch trains whole.
        """
        if self.judged or batches < JUDGED_AFTER or whole_s <= 0:
            return ""
        self.judged = True
        if now_s <= whole_s:
            return ""
        self.off = self._method.gate
        goes_on = "Scoring is off from here on, and batches train whole." if self.off else "It saves no time here."
        return (
            f"choosing within batches takes {now_s / whole_s:.2f} times as long as training on whole ones, "
            f"{score_s / now_s:.0%} of it to score them. {goes_on}"
        )

    @property
    def chooses(self) -> bool:
        """Whether a part of each batch trains; else all of it, weighed by the losses of its own forward pass."""
        return self._method.chooses

    def weigh(self, rows: Tensor, signals: Signals, *, learns: bool = True) -> Tensor:
        """The weights of a batch by its own forward pass, float `(batch,)`; 1 for rows without a loss.

        Args:
            rows: int64 `(batch,)`.
            signals: Of the batch.
            learns: Whether its losses count for later batches: once, however often a step computes them.
        """
        batch, weights = self._batch_signals(rows, signals), torch.ones(len(rows))
        known = np.isfinite(batch.losses)
        if known.any():
            batch = _of_batch(batch, known)
            found = self._method.weigh(batch)
            if found is not None:
                weights[torch.from_numpy(known)] = torch.from_numpy(found).float()
            if learns:
                self._method.learn(batch)
        self._step += 1
        return weights

    def choose(
        self,
        rows: Tensor,
        inputs: Inputs,
        *,
        model: nn.Module,
        signals: Callable[[Inputs], Signals],
        ledger: Ledger,
        process: int = 0,
    ) -> Choice:
        """The part of a batch that is trained on.

        Args:
            rows: int64 `(batch,)`.
            inputs: Of the model, one entry per example.
            model: The network.
            signals: Inputs to signals, by a forward pass.
            ledger: Counts that pass as scoring.
            process: Number of this process.

        Returns:
            The chosen examples, at least one.
        """
        with ledger.charge("score"), evaluating(model):
            batch = self._batch_signals(rows, signals(inputs))
            ledger.count_scoring(len(rows), token_count(inputs))
        known = np.isfinite(batch.losses)  # a row whose answer was cut away has no loss, and nothing to teach
        batch = batch if known.all() or not known.any() else _of_batch(batch, known)
        mask = self._method.choose(batch, seed=mix(self._seed, process), step=self._step)
        of_known = np.flatnonzero(known) if known.any() else np.arange(len(known))
        calibrated = self._method.calibrated(batch)
        if calibrated is not None:
            said, calibrated = calibrated, np.ones(len(known), np.bool_)
            calibrated[of_known] = said
        chosen = torch.from_numpy(of_known[mask])
        self._method.learn(batch)
        self._step += 1
        part = part_of(inputs, chosen, self._apart)
        return Choice(rows[chosen.to(rows.device)], part, chosen, self._step - 1, calibrated)

    def share(self, processes: int) -> None:
        """Give every process the baselines that any has made since the last time; of a row that several have seen, the
        last's."""
        own = self._method.baselines
        if own is not None:
            for fresh in gather_object([own.fresh]) if processes > 1 else ():
                own.take(fresh)
            own.fresh = {}

    def state(self) -> tuple[dict[str, NDArray[Any]], Json]:
        """Arrays, and plain values."""
        state = self._method.state()
        arrays = {name: value for name, value in state.items() if isinstance(value, np.ndarray)}
        own = {"step": self._step, "judged": self.judged, "off": self.off}
        return arrays, {**own, **{name: value for name, value in state.items() if name not in arrays}}

    def load(self, arrays: Mapping[str, NDArray[Any]], numbers: Json) -> None:
        """Continue from a state."""
        self._step, self.judged, self.off = numbers["step"], numbers["judged"], numbers["off"]
        own = ("step", "judged", "off")
        self._method.load({**arrays, **{name: value for name, value in numbers.items() if name not in own}})

    def _batch_signals(self, rows: Tensor, signals: Signals) -> BatchSignals:
        losses = free_signals(signals)["loss"].cpu().numpy()
        gram = gradient_gram(signals).cpu().numpy() if "gram" in self._method.needs else None
        irreducible = None if self._irreducible is None else self._irreducible[rows.cpu().numpy()]
        entropy = entropies(signals).cpu().numpy() if "entropy" in self._method.needs else None
        return BatchSignals(losses, gram, irreducible, entropy, rows.cpu().numpy())


def entropies(signals: Signals) -> Tensor:
    """How uncertain a model is of each example: the mean entropy of its decisions, float32 `(batch,)`.

    Raises:
        ArgumentError: Of a regression, which has none.
    """
    heads = [head for head in signals.heads.values() if isinstance(head, HeadSignals)]
    if any(head.labels.is_floating_point() and head.logits.shape[-1] == 1 for head in heads):
        raise ArgumentError("this method goes by entropies, and a regression has none.")
    return example_values(load("score", "entropy"), signals, combine="mean")


def gradient_gram(signals: Signals) -> Tensor:
    """Inner products of the examples' gradients at the last layers, without a backward pass.

    Of one decision per example `<p_i - y_i, p_j - y_j> (1 + <h_i, h_j>)`; of several their sum over all pairs of
    decisions, and of several heads the sum of theirs.

    Args:
        signals: With the hidden vectors.

    Returns:
        float32 `(batch, batch)`.

    Raises:
        ArgumentError: If the input of a head's last layer is not known, or a head is a regression's.
    """
    parts = [_gram(name, head) for name, head in with_logits(signals, "this method").items()]
    return torch.stack(parts).sum(0)


def _gram(name: str, head: HeadSignals) -> Tensor:
    if head.hidden is None:
        raise ArgumentError(f"the input of the last layer of {name!r} is unknown, and this method needs it.")
    errors = errors_of(head.logits, head.labels, head.mask).float()
    batch, places = len(errors), errors[0, ..., 0].numel()
    flat, hidden = errors.reshape(batch * places, -1), head.hidden.float().reshape(batch * places, -1)
    gram = (flat @ flat.T) * (1 + hidden @ hidden.T)  # (batch * places, batch * places)
    return gram.reshape(batch, places, batch, places).sum((1, 3))


def _of_batch(batch: BatchSignals, rows: NDArray[np.bool_]) -> BatchSignals:
    """Some rows of a batch."""
    gram = None if batch.gram is None else batch.gram[np.ix_(rows, rows)]
    parts = (batch.irreducible, batch.entropy, batch.rows)
    return BatchSignals(batch.losses[rows], gram, *(None if part is None else part[rows] for part in parts))


def part_of(inputs: Inputs, places: Tensor, apart: Collection[str] = ()) -> Inputs:
    """Some examples of a batch, without the padding that only the others needed.

    Args:
        inputs: Tensors with one entry per example; anything else is left as it is.
        places: int64, which.
        apart: Names whose padding is not that of `attention_mask`: their length stays, also where it is the same.

    Examples:
        >>> ids, mask = torch.tensor([[5, 6, 7], [8, 0, 0]]), torch.tensor([[1, 1, 1], [1, 0, 0]])
        >>> part_of({"input_ids": ids, "attention_mask": mask}, torch.tensor([1]))["input_ids"]
        tensor([[8]])
    """
    size = next(len(value) for value in inputs.values() if isinstance(value, Tensor))
    if len(places) == size:
        return inputs
    whole = {
        name: isinstance(value, Tensor) and value.dim() > 0 and len(value) == size for name, value in inputs.items()
    }
    part = copy(inputs)  # of the same class
    part.update({name: value[places.to(value.device)] for name, value in inputs.items() if whole[name]})
    mask = part.get("attention_mask")
    if mask is None or mask.dim() != 2:
        return part
    used = mask.any(0).nonzero().flatten()
    first, last = (int(used[0]), int(used[-1]) + 1) if len(used) else (0, mask.shape[1])
    if any(name.endswith("_positions") for name in whole):  # labels that count from the first position
        first = 0
    padded = [name for name in whole if whole[name] and part[name].dim() > 1 and part[name].shape[1] == mask.shape[1]]
    padded = [name for name in padded if name not in apart and not name.startswith("decoder_")]
    part.update({name: part[name][:, first:last] for name in padded})
    return part
