"""The loss of a run: by its task, its class weights and its label smoothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from datadiet.config import FinetuneConfig
from datadiet.config_checks import JOINT, MULTI_LABEL, TAGGER
from datadiet.data import Dataset
from datadiet.tasks.losses import multi_label_loss, word_loss

Loss = Callable[..., torch.Tensor]


def class_weights(data: Dataset, *, repeats: bool = False) -> list[float]:
    """`n / (classes * n_c)` for each class, as scikit-learn's "balanced": rare classes weigh more, the mean is 1.

    For taggers the classes are the tags, counted in words. For multi-label data each label gets the examples without it
    over those with it, as PyTorch's `pos_weight`. With `repeats` a row counts as often as its text came.
    """
    train = data.splits["train"]
    times = train.times if repeats and train.times is not None else (1,) * len(train)
    counts: Counter[str] = Counter()
    if data.task == TAGGER:
        for tags, often in zip(train.slots or (), times, strict=False):
            counts.update({tag: often * number for tag, number in Counter(tags).items()})
        return [counts.total() / (len(data.slot_names) * counts[name]) for name in data.slot_names]
    if data.task == MULTI_LABEL:
        for labels, often in zip(train.labels or (), times, strict=False):
            counts.update(dict.fromkeys(labels if isinstance(labels, tuple) else (), often))
        return [max(1, sum(times) - counts[name]) / counts[name] for name in data.label_names]
    for label, often in zip(train.labels or (), times, strict=False):
        counts[str(label)] += often
    return [counts.total() / (len(data.label_names) * counts[name]) for name in data.label_names]


def own_loss(config: FinetuneConfig, data: Dataset) -> Loss | None:
    """The loss of taggers, of `class_weights`, and of smoothed multi-label data; None where the model's own is used.

    A joint model has weights and smoothing itself, and the Trainer smooths classes but not several labels.
    """
    balanced = config.class_weights and config.task != JOINT
    weights = torch.tensor(class_weights(data, repeats=config.dedupe_weights)) if balanced else None
    if config.task == TAGGER:
        return partial(word_loss, weights=weights, label_smoothing=config.label_smoothing)
    if config.task == MULTI_LABEL and (weights is not None or config.label_smoothing):
        return partial(multi_label_loss, weights=weights, label_smoothing=config.label_smoothing)
    return weighted_loss(config, data)


def weighted_loss(config: FinetuneConfig, data: Dataset) -> Loss | None:
    """The loss of `class_weights`; None where the model's own loss is used (a joint model has the weights itself).

    The weighted cross-entropies of a step's examples are summed and divided by their number, so that accumulated
    batches give the step of one large batch.
    """
    if not config.class_weights or config.task == JOINT:
        return None
    weights = torch.tensor(class_weights(data, repeats=config.dedupe_weights))

    def loss(outputs: Any, labels: torch.Tensor, num_items_in_batch: Any = None) -> torch.Tensor:
        total = torch.nn.functional.cross_entropy(
            outputs["logits"].float(),
            labels,
            weight=weights.to(labels.device),
            label_smoothing=config.label_smoothing,
            reduction="sum",
        )
        return total / (len(labels) if num_items_in_batch is None else num_items_in_batch)

    return loss
