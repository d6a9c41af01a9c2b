"""Choosing within the batch: a forward pass without gradients says which examples get one with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from datadiet.errors import ArgumentError
from datadiet.scores.last_layer import errors_of
from datadiet.scores.reduce import free_signals
from datadiet.scoring.forward import evaluating, token_count
from datadiet.selectors.base import mix
from datadiet.selectors.in_batch import BatchSignals, InBatch
from datadiet.selectors.multistage import hashed_bag
from datadiet.types import HeadSignals, Json, Signals

if TYPE_CHECKING:
    from datadiet.training.trainer import DietMixin

Inputs = dict[str, Any]


class BatchChooser:
    """One method at work in one run.

    Args:
        method: Of `datadiet.selectors.IN_BATCH`.
        seed: Of its draws; each process has its own.
        irreducible: float32 `(num_rows,)`, losses of a model trained on other data, for a method that needs them.

    Raises:
        ArgumentError: If the method needs irreducible losses and there are none.
    """

    def __init__(self, method: InBatch, *, seed: int, irreducible: NDArray[np.float32] | None = None) -> None:
        if "irreducible" in method.needs and irreducible is None:
            raise ArgumentError("this method needs irreducible losses, one per training row: give them as values.")
        self._method, self._seed, self._irreducible = method, seed, irreducible
        self._step = 0

    def choose(self, trainer: DietMixin, rows: Tensor, inputs: Inputs) -> tuple[Tensor, Inputs]:
        """The part of a batch that is trained on.

        Args:
            trainer: In training.
            rows: int64 `(batch,)`.
            inputs: Of the model, one entry per example.

        Returns:
            Rows and inputs of the examples that were chosen, at least one, padded to their longest.
        """
        features = hashed_bag(_token_ids(inputs)) if "features" in self._method.needs else None
        place = {"seed": mix(self._seed, trainer.args.process_index), "step": self._step}
        asked = np.arange(len(rows)) if features is None else features
        forward = torch.from_numpy(np.flatnonzero(self._method.wants_forward(asked, **place)))
        rows, inputs = rows[forward.to(rows.device)], part_of(inputs, forward)
        signals = self._signals(trainer, rows, inputs, None if features is None else features[forward.numpy()])
        backward = torch.from_numpy(np.flatnonzero(self._method.wants_backward(signals, **place)))
        self._method.learn(signals)
        self._step += 1
        return rows[backward.to(rows.device)], part_of(inputs, backward)

    def state(self) -> tuple[dict[str, NDArray[Any]], Json]:
        """Arrays, and plain values."""
        held = self._method.state()
        arrays = {name: value for name, value in held.items() if isinstance(value, np.ndarray)}
        return arrays, {"step": self._step, **{name: value for name, value in held.items() if name not in arrays}}

    def load(self, arrays: Mapping[str, NDArray[Any]], numbers: Json) -> None:
        """Take up a state."""
        self._step = numbers["step"]
        self._method.load({**arrays, **{name: value for name, value in numbers.items() if name != "step"}})

    def _signals(
        self, trainer: DietMixin, rows: Tensor, inputs: Inputs, features: NDArray[np.float32] | None
    ) -> BatchSignals:
        """What a forward pass without gradients says, on the ledger's account for scoring."""
        with trainer.ledger.charge("score"), evaluating(trainer.network):
            signals = trainer.signals_of_batch(trainer.call_model(inputs), inputs)
            trainer.ledger.count_scoring(len(rows), token_count(inputs))
            losses = free_signals(signals)["loss"].cpu().numpy()
            gram = gradient_gram(signals).cpu().numpy() if "gram" in self._method.needs else None
        known = None if self._irreducible is None else self._irreducible[rows.cpu().numpy()]
        return BatchSignals(losses, features=features, gram=gram, irreducible=known)


def gradient_gram(signals: Signals) -> Tensor:
    """Inner products of the examples' gradients at the last layers, without any backward pass.

    Of one decision per example `<p_i - y_i, p_j - y_j> (1 + <h_i, h_j>)`; of several their sum over all pairs of
    decisions, and of several heads the sum of theirs.

    Args:
        signals: With the hidden vectors.

    Returns:
        float32 `(batch, batch)`.

    Raises:
        ArgumentError: If the input of a head's last layer is not known, or a head is a regression's.
    """
    parts = [_gram(name, head) for name, head in signals.heads.items()]
    return torch.stack(parts).sum(0)


def _gram(name: str, head: HeadSignals) -> Tensor:
    if head.hidden is None:
        raise ArgumentError(f"the input of the last layer of {name!r} is not known, and this method goes by it.")
    errors = errors_of(head.logits, head.labels, head.mask).float()
    batch, places = len(errors), errors[0, ..., 0].numel()
    flat, hidden = errors.reshape(batch * places, -1), head.hidden.float().reshape(batch * places, -1)
    gram = (flat @ flat.T) * (1 + hidden @ hidden.T)  # (batch * places, batch * places)
    return gram.reshape(batch, places, batch, places).sum((1, 3))


def part_of(inputs: Inputs, places: Tensor) -> Inputs:
    """Some examples of a batch, without the padding that only the others needed.

    Args:
        inputs: Tensors with one entry per example; anything else is left as it is.
        places: int64, which.

    Example:
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
    part = {name: value[places.to(value.device)] if whole[name] else value for name, value in inputs.items()}
    mask = part.get("attention_mask")
    if mask is None or mask.dim() != 2:
        return part
    used = mask.any(0).nonzero().flatten()
    first, last = (int(used[0]), int(used[-1]) + 1) if len(used) else (0, mask.shape[1])
    padded = [name for name in whole if part[name].dim() > 1 and part[name].shape[1] == mask.shape[1]]
    return {name: value[:, first:last] if name in padded else value for name, value in part.items()}


def _token_ids(inputs: Inputs) -> list[NDArray[np.int64]]:
    """The tokens of each example, without padding."""
    ids, mask = inputs.get("input_ids"), inputs.get("attention_mask")
    if ids is None:
        raise ArgumentError("this method goes by the words of an example: the batch has no input_ids.")
    kept = torch.ones_like(ids) if mask is None else mask
    return [row[held.bool()].cpu().numpy() for row, held in zip(ids, kept, strict=True)]
