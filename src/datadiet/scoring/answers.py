"""Passes for the scores of whole answers (`datadiet.scores.answers`): of one model, and of two at once.

Rows are padded and batched by length. The values of a row depend on neither: its tokens attend to those before them in
the same row only. All passes run in eval mode without gradients, in float32 from the logits on.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from datadiet.scores.answers import row_rest_nll, token_divergence
from datadiet.scores.tokens import row_nll
from datadiet.scoring.forward import Batch, evaluating, forward_pass
from datadiet.tasks.base import named
from datadiet.types import IGNORED, Signals, TokenSignals

Values = NDArray[np.float32]


def token_head(signals: Signals) -> TokenSignals:
    """The next tokens of a causal language model."""
    head = signals.heads["tokens"]
    assert isinstance(head, TokenSignals)  # of its task
    return head


def rest_losses(signals: Signals) -> Tensor:
    """The mean nll of each row over the tokens that train but for the first: float32 `(batch,)`."""
    return row_rest_nll(token_head(signals))


def mean_losses(
    model: torch.nn.Module,
    features: Any,
    collate: Callable[[Any], Batch],
    signals: Callable[[Any, Batch], Signals],
    **options: Any,
) -> Values:
    """The mean nll of each row over the tokens that train, and nothing else of a pass.

    Args:
        model: A causal language model.
        features, collate: Tokenised rows.
        signals: Reads its outputs; see `Task.signals`.
        options: Of `forward_pass`.

    Returns:
        float32 `(n,)`, in nats; nan for a row without such a token.
    """
    losses = np.empty(len(features), np.float32)
    for rows, outputs, batch in forward_pass(model, features, collate, **options):
        losses[rows] = row_nll(token_head(signals(outputs, batch))).cpu().numpy()
    return losses


def divergences(
    model: torch.nn.Module, teacher: torch.nn.Module, features: Any, collate: Callable[[Any], Batch], **options: Any
) -> Values:
    """The mean over the tokens that train of the divergence of two models: float32 `(n,)`, nan without such a token.

    Args:
        model, teacher: With the same tokens, on one device. Both read each batch together, and no logits are kept.
        features, collate: Tokenised rows.
        options: Of `forward_pass`; the logits of two models take twice the memory of one.

    Raises:
        ArgumentError: If the models do not have the same tokens.
    """
    values = np.empty(len(features), np.float32)

    def both(batch: Batch) -> tuple[Tensor, Tensor]:
        with evaluating(teacher):
            return model(**batch).logits, teacher(**batch).logits

    for rows, (ours, theirs), batch in forward_pass(model, features, collate, call=both, **options):
        labels = named(batch, "labels")
        counts = (labels[:, 1:] != IGNORED).sum(1)
        values[rows] = (token_divergence(ours, theirs, labels).sum(1) / counts).cpu().numpy()
    return values
