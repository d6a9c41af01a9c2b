"""The loss of each example of a batch, and the outputs that speak for its label, with their graph."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from datadiet.checks import ArgumentError

IGNORED = -100
LABELS = ("labels", "label", "intent_labels", "slot_labels")
ADVICE = "Pass loss=, a function of (outputs, batch) that gives one loss per example."


def example_losses(outputs: Any, batch: Mapping[str, Any], *, alpha: float = 0.5) -> Tensor:
    """The training loss of each example, differentiable, from named outputs and labels.

    Classes: cross-entropy; one number: half the squared error (so that the error of the last layer is `z - y`); several
    labels at once (floating-point, one per class): the sum of their binary cross-entropies; words: the sum of their
    cross-entropies; intent and slots: `alpha * CE_intent + (1 - alpha) * sum_t CE_t`. What is labelled -100 counts 0.

    Args:
        outputs: With `logits`, or `intent_logits` and `slot_logits`; or the logits themselves.
        batch: With `labels` (or `label`), or `intent_labels` and `slot_labels`.
        alpha: Share of the intent; only for joint models.

    Returns:
        float32 `(batch,)`.

    Raises:
        ArgumentError: Where names or shapes fit none of these.

    Example:
        >>> example_losses(torch.zeros(2, 2), {"labels": torch.tensor([0, -100])})
        tensor([0.6931, 0.0000])
    """
    if "intent_labels" in batch and "slot_labels" in batch:
        intent = _class_losses(_named(outputs, "intent_logits"), batch["intent_labels"])
        return alpha * intent + (1 - alpha) * _class_losses(_named(outputs, "slot_logits"), batch["slot_labels"])
    logits, labels = _named(outputs, "logits"), _label(batch)
    if not labels.is_floating_point():
        if logits.shape[:-1] != labels.shape:
            raise ArgumentError(_misfit(logits, labels))
        return _class_losses(logits, labels)
    if logits.shape == labels.shape and labels.dim() > 1 and labels.shape[-1] > 1:
        return functional.binary_cross_entropy_with_logits(logits.float(), labels.float(), reduction="none").sum(-1)
    if logits.numel() != len(labels):
        raise ArgumentError(_misfit(logits, labels))
    return (logits.reshape(-1) - labels.reshape(-1)).float().square() / 2  # (batch, 1) -> (batch,)


def gold_outputs(outputs: Any, batch: Mapping[str, Any]) -> dict[str, Tensor]:
    """What each head says for the label before the softmax: the gold logit, summed over words; the number itself.

    Args:
        outputs, batch: See `example_losses`.

    Returns:
        float32 `(batch,)` per head: `label`, or `intent` and `slots`.

    Raises:
        ArgumentError: Where names or shapes fit none of these.

    Example:
        >>> gold_outputs(torch.tensor([[1.0, 2.0]]), {"labels": torch.tensor([1])})
        {'label': tensor([2.])}
    """
    if "intent_labels" in batch and "slot_labels" in batch:
        return {
            "intent": _gold(_named(outputs, "intent_logits"), batch["intent_labels"]),
            "slots": _gold(_named(outputs, "slot_logits"), batch["slot_labels"]),
        }
    logits, labels = _named(outputs, "logits"), _label(batch)
    if not labels.is_floating_point():
        if logits.shape[:-1] != labels.shape:
            raise ArgumentError(_misfit(logits, labels))
        return {"label": _gold(logits, labels)}
    if logits.shape == labels.shape and labels.dim() > 1:
        return {"label": (logits.float() * labels).flatten(1).sum(1)}  # the labels that hold
    return {"label": logits.float().reshape(-1)}  # (batch, 1) -> (batch,)


def without_labels(batch: Mapping[str, Any]) -> dict[str, Any]:
    """What a model needs to make its logits: some make their loss in a way that torch.func cannot follow."""
    return {name: value for name, value in batch.items() if name not in LABELS}


def _class_losses(logits: Tensor, labels: Tensor) -> Tensor:
    scaled = logits.float()
    counted = labels != IGNORED
    gold = labels.long().masked_fill(~counted, 0).unsqueeze(-1)
    losses = scaled.logsumexp(-1) - scaled.gather(-1, gold).squeeze(-1)
    return _per_example(losses * counted)


def _gold(logits: Tensor, labels: Tensor) -> Tensor:
    counted = labels != IGNORED
    gold = labels.long().masked_fill(~counted, 0).unsqueeze(-1)
    return _per_example(logits.float().gather(-1, gold).squeeze(-1) * counted)


def _per_example(values: Tensor) -> Tensor:
    return values if values.dim() == 1 else values.flatten(1).sum(1)  # (batch, positions) -> (batch,)


def _named(outputs: Any, name: str) -> Tensor:
    found = outputs if isinstance(outputs, Tensor) else _held(outputs, name)
    if not isinstance(found, Tensor):
        raise ArgumentError(f"the model's output {type(outputs).__name__} has no {name}. {ADVICE}")
    return found


def _held(outputs: Any, name: str) -> Any:
    if isinstance(outputs, Mapping):
        return outputs.get(name)
    return getattr(outputs, name, None)


def _label(batch: Mapping[str, Any]) -> Tensor:
    for name in ("labels", "label"):
        if isinstance(found := batch.get(name), torch.Tensor):
            return found
    raise ArgumentError(f"the batch has no labels; it holds {', '.join(map(str, batch)) or 'nothing'}. {ADVICE}")


def _misfit(logits: Tensor, labels: Tensor) -> str:
    return f"logits {tuple(logits.shape)} and {labels.dtype} labels {tuple(labels.shape)} fit no known loss. {ADVICE}"
