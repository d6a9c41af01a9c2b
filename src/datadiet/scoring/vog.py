"""VoG, the variance of gradients: how much the gradient at an example's input changes while the model trains.

`vog` passes the data through one checkpoint after the other and keeps running means (`RunningVariance`) in between;
`vog_of` reduces the variances to one value per example, and `normalised` makes standard scores of these.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from datadiet.errors import ArgumentError, unknown
from datadiet.registry import AtLeast, score
from datadiet.scoring import gradients
from datadiet.scoring.forward import Collate, in_eval_mode
from datadiet.scoring.gradients import batch_size, gold_outputs, without_labels
from datadiet.scoring.grand import batches, in_order
from datadiet.scoring.inputs import ScoringInputs, Shared, Values
from datadiet.scoring.tracin import Checkpoint, loaded

Normalisation = Literal["auto", "class", "dataset", "none"]
NORMALISATIONS = ("auto", "class", "dataset", "none")

# Classes are called uneven where the largest has more examples than this many times the smallest
UNEVEN = 4.0


class RunningVariance:
    """Mean and variance of a stream of tensors, in the memory of two of them (Welford).

    Examples:
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
        """Add one more tensor.

        Raises:
            ArgumentError: If its shape differs from the earlier ones.
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
        """The variance over the tensors so far, divided by their number."""
        return self._squares / max(1, self.count)


def vog_of(variance: Tensor, mask: Tensor | None = None) -> Tensor:
    """Variance of gradients of each example: `mean_{t, d} sqrt(variance)` over the positions that count.

    Args:
        variance: Over the checkpoints, float `(batch, positions, size)`, or `(batch, size)` for inputs without
            positions.
        mask: bool `(batch, positions)`, False at padding, whose zeros would dilute short texts.

    Returns:
        float32 `(batch,)`, at least 0; 0 for an example without positions; larger = harder.

    Examples:
        >>> vog_of(torch.tensor([[[4.0, 4.0], [0.0, 0.0]]]), torch.tensor([[True, False]]))
        tensor([2.])

    Source: Agarwal, D'souza and Hooker 2022 (arXiv 2008.11600), equations 2 and 3, with positions and dimensions of
    the embedding output in place of pixels. Their formula also divides by the root of the number of checkpoints, which
    changes no rank.
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
        how: `class`; `dataset`; `none` for the values unchanged; `auto` for `dataset` without classes or with uneven
            ones (the largest more than 4 times the smallest), else `class`.

    Returns:
        float32 `(n,)`; 0 in a class of one example or of equal values. Larger = harder.

    Raises:
        ArgumentError: If the name is unknown, a value is not finite, or `class` is requested without classes.

    Examples:
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

    Examples:
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
    # equal values differ by rounding errors only, which must not become standard scores
    real = spread > 1e-12 * np.maximum(1e-300, np.abs(means))
    return np.divide(offsets, spread, out=np.zeros_like(values), where=real).astype(np.float32)


Batch = Mapping[str, Any]


@dataclass(frozen=True)
class Vog:
    """The result of `vog`.

    Attributes:
        values: float32 `(n,)` in the order of the rows; larger = harder.
        raw: Values before normalisation, by head: `label`, or `intent` and `slots`; at least 0.
        normalisation: The one used, also for `auto`: `class`, `dataset` or `none`.
        checkpoints: Their number.
    """

    values: NDArray[np.float32]
    raw: Mapping[str, NDArray[np.float32]]
    normalisation: str
    checkpoints: int


@score(
    formula=(
        "mean_td sqrt(var_c dz_y / de_td) over checkpoints c, without padding; standard scores per class or data set"
    ),
    paper=(
        "Agarwal et al. 2022, arXiv 2008.11600; text: Anand, Tan and Minakova 2023 (Influence Scores at Scale, EMNLP)"
    ),
    inputs="checkpoints of one run, labels",
    cost="one forward and backward of n per checkpoint; 8 bytes per real token and dimension",
    loses="it does not find mislabelled examples better than chance; cut off hard it can strip a class",
    needs=("checkpoints",),
    tasks="classes",
    preset={"select": "proportional"},
    evidence="methods",
    computed_by="datadiet.scoring.vog:vog_of_split",
)
def vog(
    checkpoints: Iterable[Checkpoint],
    dataset: Any,
    collate: Collate,
    *,
    rows: NDArray[np.int64] | None = None,
    normalise: Literal["auto", "class", "dataset", "none"] = "auto",
    embeddings: Callable[[nn.Module], nn.Module] | None = None,
    batch_tokens: int = 2048,
    batch_size: int = 32,
    rows_at_once: Annotated[int | None, AtLeast(1)] = None,
    load: Callable[[Any], nn.Module] | None = None,
) -> Vog:
    """How much the gradient of the gold logit at the embedding output changes while a model trains.

    `G_c = dA_y / dE` at checkpoint c, E the output of the token embeddings `(positions, size)`, A_y the logit of the
    label (of words: summed); `VoG = mean_{t, d} sqrt(mean_c (G_c - mean_c G_c)^2)` over the positions that are
    not padding; then standard scores per class or over the data set. The values of a joint model are the mean over its
    heads.

    Memory: two numbers per real token and dimension, for any number of checkpoints. `rows_at_once` bounds it, but loads
    the checkpoints once per part.

    Args:
        checkpoints: At least 2 of one run: models, or folders that are loaded one after the other.
        dataset: Map-style.
        collate: Items to a batch with labels.
        rows: int64 `(n,)`; all rows by default.
        normalise: `auto` (over the data set where the largest class is more than 4 times the smallest, else per class),
            `class`, `dataset` or `none`.
        embeddings: From a model to the layer with output E; the token embeddings of a transformers model by default.
        batch_tokens, batch_size: Most padded tokens of a batch; examples where lengths are unknown.
        rows_at_once: Rows whose running means are in memory together; all by default.
        load: A folder to a model; transformers' own loading by default.

    Returns:
        The values, larger = harder, and how they were made.

    Raises:
        ArgumentError: If there are fewer than 2 checkpoints, they do not belong together, an option is unknown, the
            model's embeddings are not known, or a gradient is not finite, naming rows.

    Source: Agarwal, D'souza and Hooker 2022 (arXiv 2008.11600); for text Anand, Tan and Minakova 2023 ("Influence
    Scores at Scale", EMNLP), section 3.1. Here padding is excluded, since it makes short texts look easy. The reference
    code accumulates gradients without resetting them, and divides a sum over all checkpoints by the number of some.
    """
    every = np.arange(len(dataset), dtype=np.int64) if rows is None else np.asarray(rows, np.int64)
    if isinstance(checkpoints, Sequence):
        _check_number(len(checkpoints))
    elif rows_at_once is not None:
        raise ArgumentError("rows_at_once goes through the checkpoints several times: give a list, not an iterator.")
    sizes = {"batch_tokens": batch_tokens, "batch_size": batch_size}
    step = max(1, len(every)) if rows_at_once is None else max(1, rows_at_once)
    parts = []
    for start in range(0, len(every), step):
        running = _Running(dataset, collate, every[start : start + step], sizes, embeddings or _token_embeddings)
        for model in loaded(checkpoints, load):
            running.add(model)
        parts.append(running)
    return _joined(parts, normalise)


class _Running:
    """Running means of the gradients of some rows, batch by batch; the batches are the same for every checkpoint."""

    def __init__(
        self,
        dataset: Any,
        collate: Collate,
        rows: NDArray[np.int64],
        sizes: dict[str, int],
        embeddings: Callable[[nn.Module], nn.Module],
    ) -> None:
        self.dataset, self.collate, self.rows, self.sizes, self.embeddings = dataset, collate, rows, sizes, embeddings
        self.checkpoints = 0
        self._batches: list[_BatchVariance] = []

    def add(self, model: nn.Module) -> None:
        """One more checkpoint."""
        for place, (part, batch) in enumerate(batches(model, self.dataset, self.collate, self.rows, self.sizes)):
            if self.checkpoints == 0:
                self._batches.append(_BatchVariance(part))
            self._batches[place].add(input_gradients(model, batch, self.embeddings(model)), batch)
        self.checkpoints += 1

    def raw(self) -> dict[str, NDArray[np.float32]]:
        """Values by head, in the order of the rows."""
        heads = self._batches[0].heads
        return {head: in_order(((part.rows, part.values(head)) for part in self._batches), self.rows) for head in heads}

    def labels(self) -> NDArray[np.int64] | None:
        """Class numbers in the order of the rows; None where there are no classes."""
        parts = [(part.rows, part.labels) for part in self._batches]
        if any(labels is None for _, labels in parts):
            return None
        order = np.argsort(np.concatenate([rows for rows, _ in parts]), kind="stable")
        ordered = np.concatenate([labels for _, labels in parts if labels is not None])[order]
        return ordered[np.searchsorted(np.sort(self.rows), self.rows)].astype(np.int64)


class _BatchVariance:
    """The running means of one batch, of its real positions only."""

    def __init__(self, rows: NDArray[np.int64]) -> None:
        self.rows = rows
        self.heads: dict[str, RunningVariance] = {}
        self.labels: NDArray[np.int64] | None = None
        self._mask: Tensor | None = None

    def add(self, gradients: Mapping[str, Tensor], batch: Batch) -> None:
        """The gradients of one more checkpoint, `(batch, positions, size)` per head."""
        if not self.heads:
            self.heads = {head: RunningVariance() for head in gradients}
            self.labels = _classes(batch)
            self._mask = _real_positions(batch, next(iter(gradients.values())))
        for head, gradient in gradients.items():
            self.heads[head].add((gradient if self._mask is None else gradient[self._mask]).float().cpu())

    def values(self, head: str) -> Tensor:
        """VoG of each example of the batch."""
        variance = self.heads[head].variance()
        if self._mask is None:
            return vog_of(variance)
        padded = variance.new_zeros(*self._mask.shape, variance.shape[-1])
        padded[self._mask] = variance
        return vog_of(padded, self._mask)


def input_gradients(model: nn.Module, batch: Batch, embeddings: nn.Module) -> dict[str, Tensor]:
    """Gradient of each head's gold output at the output of a layer, `(batch, positions, size)` per head, in eval mode.

    One backward pass per head; it stops at the layer and computes no gradient of a parameter.

    Raises:
        ArgumentError: If the forward pass of the model does not use the layer.
    """
    with in_eval_mode(model), torch.enable_grad(), _output_as_leaf(embeddings, batch_size(batch)) as outputs:
        gold = gold_outputs(model(**without_labels(batch)), batch)
        if not outputs:
            raise ArgumentError("the embeddings given play no part in the model's forward pass.")
        heads = list(gold.items())
        return {
            head: torch.autograd.grad(values.sum(), outputs[0], retain_graph=number + 1 < len(heads))[0].detach()
            for number, (head, values) in enumerate(heads)
        }


@contextmanager
def _output_as_leaf(layer: nn.Module, size: int) -> Iterator[list[Tensor]]:
    """Make the output of the layer a leaf of the graph, so that the backward pass ends there."""
    outputs: list[Tensor] = []

    def hook(_layer: nn.Module, _given: Any, output: Tensor) -> Tensor:
        leaf = output.detach().expand(size, *output.shape[1:]).requires_grad_()
        outputs.append(leaf)
        return leaf

    handle = layer.register_forward_hook(hook)
    try:
        yield outputs
    finally:
        handle.remove()


def _token_embeddings(model: nn.Module) -> nn.Module:
    getter = getattr(model, "get_input_embeddings", None)
    if getter is None:
        raise ArgumentError(
            f"the embeddings of {type(model).__name__} are not known; give embeddings=, a function of the model that "
            "returns the layer."
        )
    layer: nn.Module = getter()
    return layer


def _real_positions(batch: Batch, gradient: Tensor) -> Tensor | None:
    mask = batch.get("attention_mask")
    if isinstance(mask, Tensor) and mask.shape == gradient.shape[:2]:
        return mask.bool()
    return None


def _classes(batch: Batch) -> NDArray[np.int64] | None:
    for name in ("labels", "label", "intent_labels"):
        labels = batch.get(name)
        if isinstance(labels, Tensor) and labels.dim() == 1 and not labels.is_floating_point():
            return labels.cpu().numpy()
    return None


def _check_number(checkpoints: int) -> None:
    if checkpoints < 2:
        raise ArgumentError(f"vog needs at least 2 checkpoints of a run, got {checkpoints}: one has no variance.")


def _joined(parts: list[_Running], normalise: Normalisation) -> Vog:
    if not parts:
        raise ArgumentError("vog needs at least one row.")
    _check_number(parts[0].checkpoints)
    raws = [part.raw() for part in parts]
    raw = {head: np.concatenate([values[head] for values in raws]) for head in raws[0]}
    labels = [codes for part in parts if (codes := part.labels()) is not None]
    classes = np.concatenate(labels) if len(labels) == len(parts) else None
    how = choose_normalisation(classes) if normalise == "auto" else normalise
    values = np.stack([normalised(values, classes, how) for values in raw.values()]).mean(0)  # (heads, n) -> (n,)
    return Vog(np.asarray(values, np.float32), raw, how, parts[0].checkpoints)


def vog_of_split(name: str, inputs: ScoringInputs, _shared: Shared) -> Values:
    """The score of a split."""
    options = gradients.options_for(name, inputs)
    return vog(list(inputs.checkpoints or ()), inputs.features, inputs.collate, **options).values
