"""What the losses of a batch weigh, by row and by token: in its backward pass, and in the loss that is logged.

The gradients of a loss are weighed where the outputs of the model leave it (`tasks.heads`, `training.signals`),
whatever the loss does with them. Its value then lacks the weights: where the parts that it adds up are known, they are
put on. A loss function of the Trainer, `compute_loss_func` or its label smoothing, is asked once more for the rows and
tokens of each weight alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from datadiet.training.signals import Parts, row_places, token_weights
from datadiet.training.tokens import Pruned
from datadiet.types import IGNORED


class LossWeights:
    """The weights of one batch.

    Args:
        of_rows: float `(rows,)`; None where all weigh 1.
        rows: Of the batch.
        repeats: Outputs of the model for each row, one after the other: 2 of a pair of answers.
        lengths: int64 `(rows,)`, tokens of each row where the batch holds all in one sequence; None elsewhere.
        pruned: What was done to its tokens.
        adapt: Whether the losses of the forward pass will say more of the rows: see `take`.

    Attributes:
        at_outputs: float `(batch,)` or `(batch, positions)`, at the outputs of the model; read in the backward pass.
        asked: Whether any weight may differ from 1.
    """

    def __init__(
        self,
        of_rows: Tensor | None,
        *,
        rows: int,
        repeats: int = 1,
        lengths: Tensor | None = None,
        pruned: Pruned | None = None,
        adapt: bool = False,
    ) -> None:
        if adapt:
            of_rows = torch.ones(rows) if of_rows is None else of_rows.clone()
        self._of_rows, self._repeats, self._lengths = of_rows, repeats, lengths
        self._of_tokens = None if pruned is None else pruned.weights
        self.at_outputs = self._wide()
        self.asked = self.at_outputs is not None

    def _wide(self) -> Tensor | None:
        weights, tokens = self._of_rows, self._of_tokens
        if weights is not None:
            lengths = self._lengths
            weights = weights.repeat(self._repeats) if lengths is None else token_weights(weights, lengths)
        if tokens is None or weights is None:
            return tokens if weights is None else weights
        return tokens * (weights if weights.dim() == 2 else weights.unsqueeze(1))

    def take(self, factors: Tensor) -> None:
        """Multiply the weights of the rows, float `(rows,)`, before the backward pass reads them."""
        if self._of_rows is not None and self.at_outputs is not None:
            self._of_rows *= factors
            wide = self._wide()
            assert wide is not None
            self.at_outputs.copy_(wide)

    def put_on(
        self,
        loss: Tensor,
        parts: Parts | None,
        labels: Tensor | None = None,
        items: Any = None,
        processes: int = 1,
        asked: Asked | None = None,
    ) -> Tensor:
        """A loss with the value that it has by the weights; its gradients have them already.

        Args:
            loss: Without weights.
            parts: What it adds up: of pairs, of which it is the mean; of tokens, whose sum it divides by `items`; None
                where that is not known, and its value stays.
            labels: int64 `(batch, length)`, where only a part of the tokens in `parts` trains: -100 for the others.
            items: None for the tokens of the batch that have a loss.
            processes: By which the loss was multiplied then.
            asked: Of a loss function, what it was given; `parts` do not count then.
        """
        if not self.asked or self.at_outputs is None:
            return loss
        if asked is not None:
            return loss + asked.weighed(self.at_outputs, loss.detach())
        if parts is None:
            return loss
        losses, trains, scaled = parts
        if trains is None:
            if self._of_rows is None:
                return loss
            added = (self._of_rows.to(losses) - 1) * losses
            if not scaled:
                return loss + added.mean()
            total = losses.sum()
            return loss + torch.where(total != 0, loss.detach() * added.sum() / total, 0.0)
        factor = losses.new_ones(()) if self._of_rows is None else self._of_rows.to(losses).unsqueeze(1)
        if self._of_tokens is not None:
            factor = factor * self._by_row(self._of_tokens.to(losses), losses)
        if labels is not None:
            shifted = torch.nn.functional.pad(labels[:, 1:] != IGNORED, (0, 1))  # at what predicts it
            trains = trains & self._by_row(shifted.to(losses.device), losses)
        added = ((factor - 1) * losses * trains).sum()
        divisor = torch.as_tensor(trains.sum() if items is None else items).to(losses).clamp_min(1)
        return loss + added / divisor * (1 if items is None else processes)

    def _by_row(self, wide: Tensor, like: Tensor) -> Tensor:
        """Values at the positions of the batch `(batch, length)` as those of rows, in the shape of `like`."""
        if self._lengths is None:
            return wide[:, : like.shape[1]]
        made = wide.new_zeros(like.shape)
        rows, places = row_places(self._lengths, wide.shape[1])
        made[rows, places] = wide[0, : len(rows)]
        return made


Function = Callable[..., Tensor]


@dataclass(frozen=True)
class Asked:
    """One call of a loss function.

    Attributes:
        function: `(outputs, labels, ...)` to a number.
        outputs: Of the model.
        labels: Whole or float, `(batch, ...)`.
        options: What it was given by name.
        value: What it answered.
    """

    function: Function
    outputs: Any
    labels: Tensor
    options: Mapping[str, Any]
    value: Tensor

    @torch.no_grad()
    def weighed(self, weights: Tensor, loss: Tensor) -> Tensor:
        """What the weights add to a loss: 0 where the function is no sum, and no mean, over its rows or tokens.

        The function answers for the rows and tokens of each weight alone. Its answers add up to the value where it is
        divided by a number that it was given; else their mean by tokens, or by rows, is the value.

        Args:
            weights: float `(batch,)`, or `(batch, positions)` at what predicts the next label.
            loss: In which the value stands, perhaps multiplied.
        """
        labels = self.labels
        weights = weights.to(labels.device)
        if weights.dim() == 2:
            missing = max(0, labels.shape[1] - 1 - weights.shape[1])
            weights = torch.nn.functional.pad(weights, (1, missing), value=1.0)[:, : labels.shape[1]]
        if bool((weights == 1).all()):
            return torch.zeros_like(loss)
        factors, answers, counts = list[float](), list[Tensor](), list[list[int]]()
        for factor in sorted(set(weights.flatten().tolist())):
            here = weights == factor
            chosen = here if here.dim() == 1 else here.any(1)
            part = labels[chosen]
            part = part if here.dim() == 1 else part.masked_fill(~here[chosen], IGNORED)
            counted = part != IGNORED
            if not (counted if here.dim() == 1 else counted[:, 1:]).any():
                continue
            factors.append(factor)
            answers.append(self.function(_rows_of(self.outputs, chosen), part, **self.options).float())
            following = counted[:, 1:] if counted.dim() > 1 else counted
            counts.append([len(part), int(counted.sum()), int(following.sum())])
        value = self.value.detach().float()
        if not answers:
            return torch.zeros_like(value)
        alone, factors_of = torch.stack(answers), torch.tensor(factors).to(value.device)
        rough = 1e-4 if self.value.dtype == torch.float32 else 2e-2
        found = value
        for shares in (*torch.tensor(counts).to(value).T, None):
            parts = alone if shares is None else alone * shares / shares.sum().clamp_min(1)
            fits = torch.isclose(parts.sum(), value, rtol=rough, atol=1e-6)
            found = torch.where(fits, (factors_of * parts).sum(), found)
        return (found - value) * torch.where(value != 0, loss / value, 1.0)


def _rows_of(outputs: Any, chosen: Tensor) -> Any:
    """The outputs of some rows, bool `(batch,)`: of the same class, with what has no entry for each row as it is."""
    if bool(chosen.all()):
        return outputs

    def part(value: Any) -> Any:
        fits = isinstance(value, Tensor) and value.dim() > 0 and len(value) == len(chosen)
        return value[chosen.to(value.device)] if fits else value

    if isinstance(outputs, Tensor):
        return part(outputs)
    if isinstance(outputs, Mapping):
        made: Any = copy(outputs)
        for name, value in outputs.items():
            made[name] = part(value)
        return made
    make = getattr(type(outputs), "_make", type(outputs))
    return make(part(value) for value in outputs) if isinstance(outputs, (tuple, list)) else outputs


@contextmanager
def watched(trainer: Any, *, wanted: bool) -> Iterator[list[Asked]]:
    """What the loss function of a Trainer is given inside the block, or its label smoothing where it has none.

    Args:
        trainer: Of transformers.
        wanted: Whether anybody asks.
    """
    calls: list[Asked] = []
    name = "label_smoother" if trainer.compute_loss_func is None else "compute_loss_func"
    function = getattr(trainer, name)
    if function is None or not wanted:
        yield calls
        return

    def watch(outputs: Any, labels: Any, *rest: Any, **options: Any) -> Tensor:
        value: Tensor = function(outputs, labels, *rest, **options)
        if isinstance(labels, Tensor) and labels.dim() and not rest:
            calls.append(Asked(function, outputs, labels, options, value))
        return value

    setattr(trainer, name, watch)
    try:
        yield calls
    finally:
        setattr(trainer, name, function)
