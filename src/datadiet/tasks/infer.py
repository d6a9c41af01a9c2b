"""From a model's outputs and a batch to the signals that scores work on, also for models without a task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from datadiet.checks import ArgumentError
from datadiet.records import HeadSignals, Signals

IGNORED = -100
ADVICE = "Pass signals=, a function of (outputs, batch) that gives datadiet.Signals."


def signals_of(outputs: Any, batch: Mapping[str, Any]) -> Signals:
    """The signals of a stock model, recognised by names and shapes.

    * `intent_logits` and `slot_logits` with `intent_labels` and `slot_labels`: heads `intent` and `slots`;
    * logits `(batch, classes)` with class numbers `(batch,)`: head `label`;
    * logits `(batch, labels)` with floats `(batch, labels)`, more than one: a multi-hot head `label`;
    * logits `(batch, 1)` or `(batch,)`, or any `(batch, 1)` with labels that are floats: a regression head `label`;
    * logits `(batch, positions, classes)` with `(batch, positions)`: head `tokens`, masked where the label is -100.

    Args:
        outputs: A `ModelOutput`, a dict with `logits`, or a tuple that holds the logits.
        batch: Has the labels under `labels` or `label`.

    Returns:
        Detached signals; logits keep their dtype.

    Raises:
        ArgumentError: Where names or shapes fit none of these, and for causal language models, whose logits are
            shifted against their labels.

    Example:
        >>> signals = signals_of({"logits": torch.zeros(2, 3)}, {"labels": torch.tensor([0, 2])})
        >>> {name: head.logits.shape for name, head in signals.heads.items()}
        {'label': torch.Size([2, 3])}
    """
    if "CausalLM" in type(outputs).__name__:
        raise ArgumentError(f"signals of a causal language model are not known: its labels are shifted. {ADVICE}")
    if isinstance(outputs, Mapping) and "intent_logits" in outputs:
        return joint_signals(outputs, batch)
    logits, labels = _logits(outputs), _labels(batch)
    if logits.ndim == 3 and labels.ndim == 2 and logits.shape[:2] == labels.shape and not labels.is_floating_point():
        return Signals({"tokens": token_head(logits, labels)})
    if logits.shape == labels.shape and logits.ndim == 2 and logits.shape[1] > 1 and labels.is_floating_point():
        return multi_label_signals(logits, labels)
    if (len(logits) == len(labels) and labels.ndim == 1) or labels.shape == (len(logits), 1):
        if logits.ndim == 1 or logits.shape[1:] == (1,):
            return regression_signals(logits, labels)
        if logits.ndim == 2 and labels.ndim == 1 and not labels.is_floating_point():
            return class_signals(logits, labels)
    raise ArgumentError(
        f"logits {tuple(logits.shape)} and {labels.dtype} labels {tuple(labels.shape)} fit no known task: expected "
        f"(batch, classes) with whole (batch,) or float (batch, classes), (batch, 1) with (batch,), or "
        f"(batch, positions, classes) with whole (batch, positions). {ADVICE}"
    )


def class_signals(logits: Tensor, labels: Tensor) -> Signals:
    """One head `label` of class logits `(batch, classes)`."""
    return Signals({"label": HeadSignals(logits.detach(), labels.detach().long())})


def multi_label_signals(logits: Tensor, labels: Tensor) -> Signals:
    """One head `label`: logits `(batch, labels)`, labels float32 `(batch, labels)` of 0 and 1."""
    return Signals({"label": HeadSignals(logits.detach(), labels.detach().float())})


def regression_signals(logits: Tensor, labels: Tensor) -> Signals:
    """One head `label` of numbers: logits `(batch, 1)`, labels float32 `(batch,)`."""
    columns = logits.detach().reshape(-1, 1)  # (batch, 1)
    return Signals({"label": HeadSignals(columns, labels.detach().float().flatten())})  # (batch,)


def joint_signals(outputs: Any, batch: Mapping[str, Any]) -> Signals:
    """Two heads: `intent` `(batch, intents)` and `slots` `(batch, positions, tags)`."""
    intent = class_signals(named(outputs, "intent_logits"), named(batch, "intent_labels")).heads["label"]
    return Signals({"intent": intent, "slots": token_head(named(outputs, "slot_logits"), named(batch, "slot_labels"))})


def token_head(logits: Tensor, labels: Tensor) -> HeadSignals:
    """A tagger's head; positions labelled -100 are masked, and get class 0 so that every label is a class number."""
    mask = labels != IGNORED
    return HeadSignals(logits.detach(), labels.detach().long().masked_fill(~mask, 0), mask)


def named(held: Any, name: str) -> Tensor:
    """A tensor of a batch or of outputs by its name.

    Raises:
        ArgumentError: If it is not there, with the names that are.
    """
    if not isinstance(held, Mapping):
        if isinstance(tensor := getattr(held, name, None), Tensor):
            return tensor
        raise ArgumentError(f"expected named outputs with {name!r}, got {type(held).__name__}.")
    if not isinstance(tensor := held.get(name), Tensor):
        raise ArgumentError(f"{name!r} is missing; there are: {', '.join(map(str, held)) or 'none'}.")
    return tensor


def _logits(outputs: Any) -> Tensor:
    """Named `logits`, or in a tuple the first tensor that is not the loss."""
    if isinstance(outputs, Mapping) or hasattr(outputs, "logits"):
        found = outputs.get("logits") if isinstance(outputs, Mapping) else outputs.logits
    elif isinstance(outputs, torch.Tensor):
        found = outputs
    else:
        found = next((part for part in outputs if isinstance(part, Tensor) and part.ndim > 1), None)
    if not isinstance(found, Tensor):
        raise ArgumentError(f"the model's output {type(outputs).__name__} has no logits. {ADVICE}")
    return found


def _labels(batch: Mapping[str, Any]) -> Tensor:
    for name in ("labels", "label"):
        if isinstance(found := batch.get(name), Tensor):
            return found
    raise ArgumentError(f"the batch has no labels; it holds {', '.join(map(str, batch)) or 'nothing'}. {ADVICE}")
