"""The loss of a run where the model's own does not do: losses of taggers, class weights, smoothed sets of labels.

Each loss is a sum over the examples, words or decisions that count, divided by their number in the whole optimizer
step. So accumulated batches give the step of one large batch; a stock tagger's mean over each batch would give the
words of a batch with few of them a larger weight.

`trace` reads from the graph of any loss, also of a user's own, what it does to the logits.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from datadiet.config import FinetuneConfig
from datadiet.data.schema import Dataset
from datadiet.registry import has
from datadiet.types import IGNORED

Loss = Callable[..., Tensor]


def class_loss(
    outputs: Any, labels: Tensor, num_items_in_batch: Any = None, *, weights: Tensor | None = None,
    label_smoothing: float = 0.0,
) -> Tensor:  # fmt: skip
    """Mean weighted cross-entropy over the examples; the divisor is their number, not the sum of their weights.

    Args:
        outputs: With `logits` `(batch, classes)`.
        labels: int64 `(batch,)`.
        num_items_in_batch: Examples of the step; by default those of the batch.
        weights: `(classes,)`, or None.
        label_smoothing: In [0, 1).

    Examples:
        >>> class_loss({"logits": torch.zeros(1, 2)}, torch.tensor([1]), weights=torch.tensor([1.0, 2.0]))
        tensor(1.3863)
    """
    total = _cross_entropy(outputs["logits"], labels, weights, label_smoothing)
    return total / (len(labels) if num_items_in_batch is None else num_items_in_batch)


def word_loss(
    outputs: Any, labels: Tensor, num_items_in_batch: Any = None, *, weights: Tensor | None = None,
    label_smoothing: float = 0.0,
) -> Tensor:  # fmt: skip
    """Cross-entropy of the labelled words; 0 where none is.

    Args:
        outputs: With `logits` `(batch, positions, tags)`.
        labels: int64 `(batch, positions)`, -100 where there is none.
        num_items_in_batch: Labelled words of the step; by default those of the batch.
        weights: `(tags,)`, or None.
        label_smoothing: In [0, 1).

    Examples:
        >>> word_loss({"logits": torch.zeros(1, 3, 2)}, torch.tensor([[0, -100, 1]]))
        tensor(0.6931)
    """
    # (batch * positions, tags) and (batch * positions,)
    total = _cross_entropy(outputs["logits"].flatten(0, 1), labels.flatten(), weights, label_smoothing)
    count = (labels != IGNORED).sum() if num_items_in_batch is None else torch.as_tensor(num_items_in_batch)
    return total / count.clamp(min=1)


def _cross_entropy(logits: Tensor, labels: Tensor, weights: Tensor | None, label_smoothing: float) -> Tensor:
    weights = None if weights is None else weights.to(labels.device)
    return functional.cross_entropy(
        logits.float(), labels, weights, ignore_index=IGNORED, label_smoothing=label_smoothing, reduction="sum"
    )


def multi_label_loss(
    outputs: Any, labels: Tensor, num_items_in_batch: Any = None, *, weights: Tensor | None = None,
    label_smoothing: float = 0.0,
) -> Tensor:  # fmt: skip
    """Mean binary cross-entropy over examples and labels.

    Args:
        outputs: With `logits` `(batch, labels)`.
        labels: float32 `(batch, labels)`, 0 or 1.
        num_items_in_batch: Decisions of the step; by default those of the batch.
        weights: `(labels,)`, the weight of an example that has the label against one that lacks it; or None.
        label_smoothing: In [0, 1): the targets become `y (1 - s) + s / 2`.

    Examples:
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


def class_weights(data: Dataset, *, repeats: bool = False) -> list[float]:
    """`n / (classes * n_c)` for each class, as scikit-learn's "balanced": rare classes weigh more, the mean is 1.

    For taggers the classes are the tags, counted in words. For multi-label data each label gets the examples without it
    over those with it, as PyTorch's `pos_weight`. With `repeats` a row counts as often as its text came.
    """
    train = data.splits["train"]
    tags, sets = has(data.task, "tags_only"), has(data.task, "label_sets")
    labels: Iterable[Any] = (train.slots if tags else train.labels) or ()
    names = data.slot_names if tags else data.label_names
    times = train.times if repeats and train.times is not None else (1,) * len(train)
    counts: Counter[str] = Counter()
    for label, often in zip(labels, times, strict=False):
        for name in label if tags or sets else (str(label),):
            counts[name] += often
    if sets:
        return [max(1, sum(times) - counts[name]) / counts[name] for name in names]
    return [counts.total() / (len(names) * counts[name]) for name in names]


def own_loss(config: FinetuneConfig, data: Dataset) -> Loss | None:
    """The loss of taggers, of `class_weights`, and of smoothed multi-label data; None where the model's own is used.

    A joint model has weights and smoothing itself, and the Trainer smooths classes but not several labels.
    """
    if has(config.task, "joint"):
        return None
    weights = torch.tensor(class_weights(data, repeats=config.dedupe_weights)) if config.class_weights else None
    options: dict[str, Any] = {"weights": weights, "label_smoothing": config.label_smoothing}
    if has(config.task, "tags_only"):
        return partial(word_loss, **options)
    if has(config.task, "label_sets"):
        return partial(multi_label_loss, **options) if config.class_weights or config.label_smoothing else None
    return partial(class_loss, **options) if config.class_weights else None


# ---- what a loss does to the logits

Link = Literal["softmax", "sigmoid", "identity"]
LINKS: tuple[Link, ...] = ("softmax", "sigmoid", "identity")

# steps of autograd, by the beginnings of their names
_SHAPES = ("View", "UnsafeView", "Reshape", "Squeeze", "Unsqueeze", "ToCopy", "Slice", "Select", "Split", "Transpose",
           "Permute", "TBackward", "Clone", "Alias", "Expand", "AsStrided")  # fmt: skip
_SOFTMAX = ("Softmax", "LogSoftmax", "Logsumexp")
_SIGMOID = ("Sigmoid", "LogSigmoid", "BinaryCrossEntropyWithLogits", "Softplus")
_DISTANCES = ("MseLoss", "SmoothL1Loss", "HuberLoss")
_ARITHMETIC = ("Add", "Sub", "Rsub", "Mul", "Div", "Mean", "Sum", "Pow", "Abs", "Sqrt", "Neg", "Where", "Index")
_PRODUCTS = ("Addmm", "Mm", "Bmm", "Baddbmm", "Linear", "Convolution")


@dataclass(frozen=True)
class Trace:
    """How a loss was computed from some logits.

    Attributes:
        link: None where the steps fit no link, or several.
        probabilities: Whether the logits are probabilities already: the link comes before them.
        final: Whether no matrix product lies between, so that these are the logits of the loss.
        inputs: What steps of the loss compared with their targets, as far as they keep it.
        targets: The labels as these steps took them.
        ignored: Class numbers that these steps leave out, other than -100.
    """

    link: Link | None
    probabilities: bool = False
    final: bool = True
    inputs: tuple[Tensor, ...] = ()
    targets: tuple[Tensor, ...] = ()
    ignored: frozenset[int] = frozenset()


def trace(loss: Tensor, logits: Tensor) -> Trace | None:
    """What a loss does to logits, read from its graph; before the backward pass.

    Args:
        loss: With its graph.
        logits: Of any shape.

    Returns:
        None where the graph does not lead from the one to the other: detached or compiled.

    Examples:
        >>> logits = torch.zeros(2, 1, requires_grad=True) * 1
        >>> trace(torch.nn.functional.binary_cross_entropy_with_logits(logits[:, 0], torch.ones(2)), logits).link
        'sigmoid'
    """
    origin: Any = logits.grad_fn
    while origin is not None:
        if steps := _between(_inside(loss.grad_fn, loss), origin):
            return _traced(steps, origin)
        # a copy in another shape or precision: perhaps the loss took what it was copied from
        before = [node for node, _ in origin.next_functions if node is not None]
        if (inside := _inside(origin, logits)) is not origin:
            origin = inside
        else:
            origin = before[0] if origin.name().startswith(_SHAPES) and len(before) == 1 else None
    return None


def _inside(node: Any, output: Tensor) -> Any:
    """The step before the one by which a model that is wrapped for several processes gives all its outputs."""
    given: Any = output.grad_fn
    wrapped = node is not None and node is given and given.name().startswith("_DDPSink")
    return node.next_functions[output.output_nr][0] if wrapped else node


def _between(loss: Any, origin: Any) -> set[Any]:
    """The steps on all ways from the origin to the loss."""
    users, seen, stack = defaultdict(list), {loss}, [loss]
    while stack:
        node = stack.pop()
        if node is None or node is origin:
            continue
        for earlier, _ in node.next_functions:
            users[earlier].append(node)
            if earlier not in seen:
                seen.add(earlier)
                stack.append(earlier)
    between: set[Any] = set()
    stack = list(users.get(origin, ()))
    while stack:
        node = stack.pop()
        if node not in between:
            between.add(node)
            stack += users.get(node, ())
    return between


def _traced(steps: set[Any], origin: Any) -> Trace:
    names = {step.name() for step in steps}

    def has(*beginnings: str) -> bool:
        return any(name.startswith(beginnings) for name in names)

    link: Link | None = None
    probabilities = False
    if has(*_SOFTMAX) != has(*_SIGMOID):
        link = "softmax" if has(*_SOFTMAX) else "sigmoid"
    elif has(*_SOFTMAX):
        link = None
    elif has("BinaryCrossEntropyBackward"):
        link, probabilities = "sigmoid", True
    elif has("NllLoss"):
        link, probabilities = "softmax", has("LogBackward")  # without a logarithm, it was taken before
    elif all(name.startswith((*_SHAPES, *_DISTANCES, *_ARITHMETIC)) for name in names) and _is_distance(steps, origin):
        link = "identity"
    keeping = [step for step in steps if hasattr(step, "_saved_target")]
    return Trace(
        link,
        probabilities,
        not has(*_PRODUCTS),
        tuple(step._saved_self.detach() for step in keeping),
        tuple(step._saved_target.detach() for step in keeping),
        frozenset(getattr(step, "_saved_ignore_index", IGNORED) for step in keeping) - {IGNORED, IGNORED + 2**64},
    )


def _is_distance(steps: set[Any], origin: Any) -> bool:
    """Whether the first thing that happens to the logits is their comparison with the labels."""
    first: set[str] = set()
    found = {origin}
    while found:
        users = {step for step in steps if any(earlier in found for earlier, _ in step.next_functions)}
        found = {step for step in users if step.name().startswith(_SHAPES)}
        first |= {step.name() for step in users - found}
    return bool(first) and all(name.startswith((*_DISTANCES, "Sub", "Rsub", "Index")) for name in first)
