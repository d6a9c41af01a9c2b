"""What the losses of a batch weigh, by row and by token: in its backward pass, and in the loss that is logged.

The gradients of a loss are weighed where the outputs of the model leave it (`tasks.heads`, `training.signals`),
whatever the loss does with them. Its value then lacks the weights: where the parts that it adds up are known, they are
put on.
"""

from __future__ import annotations

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
        self, loss: Tensor, parts: Parts | None, labels: Tensor | None = None, items: Any = None, processes: int = 1
    ) -> Tensor:
        """A loss with the value that it has by the weights; its gradients have them already.

        Args:
            loss: Without weights.
            parts: What it adds up: of pairs, of which it is the mean; of tokens, whose sum it divides by `items`; None
                where that is not known, and its value stays.
            labels: int64 `(batch, length)`, where only a part of the tokens in `parts` trains: -100 for the others.
            items: None for the tokens of the batch that have a loss.
            processes: By which the loss was multiplied then.
        """
        if parts is None or not self.asked:
            return loss
        losses, trains = parts
        if trains is None:
            return loss if self._of_rows is None else loss + ((self._of_rows.to(losses) - 1) * losses).mean()
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
