"""Distillation on a pruned data set: a teacher's soft labels, computed once, make up for what is not trained on.

The loss of an example is `(1 - a) CE(p, y) + a T^2 KL(q_T || p_T)`: q is what the teacher says, softened by the
temperature T, and the weight a rises as fewer examples are kept.

Source: Ben-Baruch et al., "Distilling the Knowledge in Data Pruning" (ICML 2025), who find random pruning with a
teacher at least as good as clever selections without one, and a teacher much larger than the student harmful at small
keeps. The soft targets and T^2 are those of Hinton, Vinyals and Dean 2015 (arXiv 1503.02531).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from datadiet.checks import ArgumentError, DataError, Problems
from datadiet.value_cache import load_values, save_values

LEAST_WEIGHT, MOST_WEIGHT = 0.1, 0.95
SOFT_LABELS = "teacher_logits"


def distillation_weight(keep: float) -> float:
    """The teacher's share of the loss: `clip(1 - keep, 0.1, 0.95)`.

    Args:
        keep: Share of the examples that is trained on, in (0, 1].

    Returns:
        `a`, the larger the less is kept.

    Raises:
        ArgumentError: If `keep` is no share.

    Example:
        >>> [round(distillation_weight(keep), 2) for keep in (1.0, 0.3, 0.01)]
        [0.1, 0.7, 0.95]

    Source: the paper finds that the best weight rises as the kept share falls; this rule for it is ours.
    """
    problems = Problems()
    problems.share("keep", keep)
    problems.raise_any()
    return min(MOST_WEIGHT, max(LEAST_WEIGHT, 1 - keep))


def distillation_loss(logits: Tensor, teacher_logits: Tensor, temperature: float = 2.0) -> Tensor:
    """What the student still misses of its teacher: `T^2 KL(softmax(t / T) || softmax(z / T))`, differentiable.

    Args:
        logits: Of the student, `(batch, classes)`, any float dtype; computed in float32.
        teacher_logits: `(batch, classes)`, any float dtype, no gradient.
        temperature: T, above 0; the factor T^2 keeps the size of the gradients whatever it is.

    Returns:
        float32 `(batch,)`, at least 0 but for rounding.

    Raises:
        ArgumentError: If the shapes differ or T is not above 0.

    Example:
        >>> import torch
        >>> distillation_loss(torch.zeros(1, 2), torch.tensor([[50.0, 0.0]]), temperature=1.0)
        tensor([0.6931])
    """
    if not temperature > 0:
        raise ArgumentError(f"temperature must be above 0, got {temperature}.")
    if logits.shape != teacher_logits.shape:
        raise ArgumentError(
            f"student and teacher need the same classes in the same order: got logits of shape {tuple(logits.shape)} "
            f"and {tuple(teacher_logits.shape)}."
        )
    student = (logits.float() / temperature).log_softmax(-1)
    teacher = (teacher_logits.detach().float() / temperature).log_softmax(-1)
    return temperature**2 * functional.kl_div(student, teacher, reduction="none", log_target=True).sum(-1)


def distilled(
    losses: Tensor, logits: Tensor, teacher_logits: Tensor, *, weight: float, temperature: float = 2.0
) -> Tensor:
    """The loss of each example with a teacher: `(1 - a) loss + a T^2 KL`.

    Args:
        losses: Without the teacher, `(batch,)`, or their mean as a scalar (the teacher's part is then averaged too).
        logits, teacher_logits, temperature: See `distillation_loss`.
        weight: `a` in [0, 1].

    Returns:
        float32 `(batch,)`, or a scalar.

    Raises:
        ArgumentError: If the weight is no share, or shapes do not fit.

    Example:
        >>> import torch
        >>> distilled(torch.tensor([1.0]), torch.zeros(1, 2), torch.zeros(1, 2), weight=0.75)
        tensor([0.2500])
    """
    if not 0 <= weight <= 1:
        raise ArgumentError(f"weight must be in [0, 1], got {weight}.")
    taught = distillation_loss(logits, teacher_logits, temperature)
    if losses.dim() and losses.shape != taught.shape:
        raise ArgumentError(f"one loss per example is needed: got {tuple(losses.shape)} for {tuple(taught.shape)}.")
    return (1 - weight) * losses + weight * (taught if losses.dim() else taught.mean())


def save_soft_labels(path: Path, ids: Sequence[str], logits: NDArray[np.floating], *, fingerprint: str) -> None:
    """Keep a teacher's logits as float16 by id in one Parquet file: 2 bytes per class and example.

    Args:
        path: Ends in `.parquet`.
        ids: `(n,)`, each once.
        logits: `(n, classes)`, any float dtype; rows are shifted so that the largest is 0, which softmax does not see.
        fingerprint: Of the data.

    Raises:
        ArgumentError: If shapes do not fit, an id repeats or a logit is not finite, naming ids.
    """
    wide = np.asarray(logits, np.float32)
    if wide.ndim != 2:
        raise ArgumentError(f"soft labels need logits (n, classes), got shape {wide.shape}.")
    # near 0 float16 is finest, and the classes that matter lie there; what is 65,000 below has no mass at all
    shifted = np.maximum(wide - wide.max(1, keepdims=True), -6e4) if wide.size else wide
    save_values(path, ids, shifted.astype(np.float16), what=SOFT_LABELS, fingerprint=fingerprint)


def load_soft_labels(
    path: Path, ids: Sequence[str], *, classes: int | None = None, fingerprint: str | None = None
) -> NDArray[np.float16]:
    """A teacher's logits for these ids, in their order.

    Args:
        path: Written by `save_soft_labels`.
        ids: Some or all of those in the file.
        classes: How many there must be.
        fingerprint: Of the data they must belong to; None does not ask.

    Returns:
        float16 `(n, classes)`; compute with them in float32.

    Raises:
        DataError: If the file is missing, of other data, lacks ids or has another number of classes.
    """
    found = load_values(path, ids, what=SOFT_LABELS, fingerprint=fingerprint)
    if classes is not None and found.shape[1] != classes:
        raise DataError(f"{path.name} has {found.shape[1]} classes, {classes} are needed.")
    return found.astype(np.float16, copy=False)
