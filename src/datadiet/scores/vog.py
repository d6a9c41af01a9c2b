"""Variance of gradients: how much the gradient at an example's input moves while the model trains."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from datadiet.checks import ArgumentError, unknown

Normalisation = Literal["auto", "class", "dataset", "none"]
NORMALISATIONS = ("auto", "class", "dataset", "none")

# Classes are called uneven where the largest has more examples than this many times the smallest
UNEVEN = 4.0


class RunningVariance:
    """Mean and variance of tensors that come one at a time, in the memory of two of them (Welford).

    Example:
        >>> running = RunningVariance()
        >>> for value in (1.0, 3.0):
        ...     running.add(torch.tensor([value, 7.0]))
        >>> running.mean, running.variance()
        (tensor([2., 7.]), tensor([1., 0.]))
    """

    def __init__(self) -> None:
        self.count = 0
        self.mean = torch.empty(0)
        self._squares = torch.empty(0)

    def add(self, values: Tensor) -> None:
        """Take in one more tensor of the same shape.

        Raises:
            ArgumentError: If its shape is another one.
        """
        if self.count == 0:
            self.mean, self._squares = torch.zeros_like(values), torch.zeros_like(values)
        if values.shape != self.mean.shape:
            raise ArgumentError(
                f"checkpoints must be of one model and one order of rows: got gradients of shape "
                f"{tuple(values.shape)} after {tuple(self.mean.shape)}."
            )
        self.count += 1
        before = values - self.mean
        self.mean += before / self.count
        self._squares += before * (values - self.mean)

    def variance(self) -> Tensor:
        """The variance over what was added, divided by their number."""
        return self._squares / max(1, self.count)


def vog_of(variance: Tensor, mask: Tensor | None = None) -> Tensor:
    """Variance of gradients of each example: `mean_{t, d} sqrt(variance)` over the positions that count.

    Args:
        variance: Over the checkpoints, float `(batch, positions, size)`, or `(batch, size)` for inputs without
            positions.
        mask: bool `(batch, positions)`: False at paddings, whose zeros would dilute short texts.

    Returns:
        float32 `(batch,)`, at least 0; 0 for an example without positions; larger = harder.

    Example:
        >>> vog_of(torch.tensor([[[4.0, 4.0], [0.0, 0.0]]]), torch.tensor([[True, False]]))
        tensor([2.])

    Source: Agarwal, D'souza and Hooker 2022 (arXiv 2008.11600), equations 2 and 3, whose pixels are here the positions
    and dimensions of the embedding output.
    """
    spread = variance.sqrt()
    if spread.dim() < 3:
        return spread.mean(-1).float()
    per_position = spread.mean(-1)  # (batch, positions)
    counted = torch.ones_like(per_position) if mask is None else mask.to(per_position.dtype)
    return ((per_position * counted).sum(1) / counted.sum(1).clamp_min(1)).float()


def normalised(
    values: NDArray[np.float32], labels: NDArray[np.int64] | None, how: Normalisation = "auto"
) -> NDArray[np.float32]:
    """Values as standard scores, `(v - mean) / std`, among their class or the whole data set.

    Args:
        values: float `(n,)`.
        labels: Class numbers `(n,)`; None where there are no classes.
        how: `class`; `dataset`; `none` gives them back as they are; `auto` takes `dataset` where there are no classes
            or they are uneven (largest more than 4 times the smallest), else `class`.

    Returns:
        float32 `(n,)`; 0 in a class of one example or of equal values. Larger = harder.

    Raises:
        ArgumentError: If the name is unknown, a value is not finite, or classes are asked for where there are none.

    Example:
        >>> normalised(np.array([1.0, 3.0, 9.0]), np.array([0, 0, 1]), "class")
        array([-1.,  1.,  0.], dtype=float32)

    Source: Agarwal et al. 2022, section 3, per class; Anand, Tan and Minakova 2023 ("Influence Scores at Scale",
    EMNLP), who find the data set's statistics better on uneven classes: per class, each class loses the same share. The
    reference code gives nan for a class of one.
    """
    if how not in NORMALISATIONS:
        raise ArgumentError(unknown("normalisation", how, NORMALISATIONS))
    wide = np.asarray(values, np.float64)
    if len(bad := np.flatnonzero(~np.isfinite(wide))):
        raise ArgumentError(f"values must be finite; they are not at the places {', '.join(map(str, bad[:5]))}.")
    chosen = choose_normalisation(labels) if how == "auto" else how
    if chosen == "none":
        return wide.astype(np.float32)
    if chosen == "class" and labels is None:
        raise ArgumentError("there are no classes to normalise in; take 'dataset'.")
    if chosen == "dataset" or labels is None:
        return _standard_scores(wide, np.zeros(len(wide), np.int64))
    return _standard_scores(wide, np.unique(labels, return_inverse=True)[1])


def choose_normalisation(labels: NDArray[np.int64] | None) -> Normalisation:
    """`dataset` where there are no classes or they are uneven, else `class`.

    Example:
        >>> choose_normalisation(np.array([0, 0, 1, 1])), choose_normalisation(np.array([0] * 9 + [1]))
        ('class', 'dataset')
    """
    if labels is None or not len(labels):
        return "dataset"
    sizes = np.unique(labels, return_counts=True)[1]
    return "dataset" if sizes.max() > UNEVEN * sizes.min() else "class"


def _standard_scores(values: NDArray[np.float64], groups: NDArray[np.int64]) -> NDArray[np.float32]:
    sizes = np.maximum(np.bincount(groups), 1)
    means = (np.bincount(groups, values) / sizes)[groups]
    offsets = values - means
    spread = np.sqrt(np.bincount(groups, offsets**2) / sizes)[groups]
    # equal values differ by rounding alone, which must not be blown up to standard scores
    real = spread > 1e-12 * np.maximum(1e-300, np.abs(means))
    return np.divide(offsets, spread, out=np.zeros_like(values), where=real).astype(np.float32)
