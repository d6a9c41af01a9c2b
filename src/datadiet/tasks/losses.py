"""Losses that stock models do not have: summed over what counts and divided by its number in the whole step.

A stock tagger's loss is the mean over the words of a batch. Of several batches in one step, the words of a batch with
few of them would weigh more; here every word of the step weighs the same.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

IGNORED = -100


def word_loss(
    outputs: Any,
    labels: Tensor,
    num_items_in_batch: Any = None,
    *,
    weights: Tensor | None = None,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Cross-entropy of the labelled words; 0 where none is.

    Args:
        outputs: With `logits` `(batch, positions, tags)`.
        labels: int64 `(batch, positions)`, -100 where there is none.
        num_items_in_batch: Labelled words of the step; by default those of the batch.
        weights: `(tags,)`, or None.
        label_smoothing: In [0, 1).

    Example:
        >>> word_loss({"logits": torch.zeros(1, 3, 2)}, torch.tensor([[0, -100, 1]]))
        tensor(0.6931)
    """
    total = functional.cross_entropy(
        outputs["logits"].float().flatten(0, 1),  # (batch * positions, tags)
        labels.flatten(),  # (batch * positions,)
        weight=None if weights is None else weights.to(labels.device),
        ignore_index=IGNORED,
        label_smoothing=label_smoothing,
        reduction="sum",
    )
    count = (labels != IGNORED).sum() if num_items_in_batch is None else torch.as_tensor(num_items_in_batch)
    return total / count.clamp(min=1)


def multi_label_loss(
    outputs: Any,
    labels: Tensor,
    num_items_in_batch: Any = None,
    *,
    weights: Tensor | None = None,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Mean binary cross-entropy over examples and labels.

    Args:
        outputs: With `logits` `(batch, labels)`.
        labels: float32 `(batch, labels)`, 0 or 1.
        num_items_in_batch: Decisions of the step; by default those of the batch.
        weights: `(labels,)`, how much an example that has the label weighs against one that has not; or None.
        label_smoothing: In [0, 1): the targets become `y (1 - s) + s / 2`.

    Example:
        >>> multi_label_loss({"logits": torch.zeros(1, 2)}, torch.tensor([[1.0, 0.0]]))
        tensor(0.6931)
    """
    total = functional.binary_cross_entropy_with_logits(
        outputs["logits"].float(),
        labels.float() * (1 - label_smoothing) + label_smoothing / 2,
        pos_weight=None if weights is None else weights.to(labels.device),
        reduction="sum",
    )
    return total / (labels.numel() if num_items_in_batch is None else num_items_in_batch)
