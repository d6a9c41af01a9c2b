"""Distillation on a pruned data set: a teacher's logits, computed once, make up for the examples that are dropped.

The loss of an example is `(1 - a) CE(p, y) + a T^2 KL(q_T || p_T)`: q is the teacher's prediction, softened by the
temperature T, and the weight a rises as fewer examples are kept. `teacher_of` computes the logits of every training
row (`Answers`, which a cache folder keeps for other runs); `Teacher.loss` is the loss inside the Trainer.

Source: Ben-Baruch et al., "Distilling the Knowledge in Data Pruning" (ICML 2025), who find random pruning with a
teacher at least as good as clever selections without one, and a teacher much larger than the student harmful at small
keeps. The soft targets and T^2 are those of Hinton, Vinyals and Dean 2015 (arXiv 1503.02531).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from datadiet.errors import ArgumentError, DataError, Problems
from datadiet.ledger import Ledger
from datadiet.scores.tokens import with_logits
from datadiet.scoring.forward import Batch, forward_pass
from datadiet.store.cache import load_arrays, load_values, save_arrays, save_values
from datadiet.types import HeadSignals, Json, Signals

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

    Examples:
        >>> [round(distillation_weight(keep), 2) for keep in (1.0, 0.3, 0.01)]
        [0.1, 0.7, 0.95]

    Source: the paper finds that the best weight rises as the kept share falls; this rule for it is ours.
    """
    problems = Problems()
    problems.share("keep", keep)
    problems.raise_any()
    return min(MOST_WEIGHT, max(LEAST_WEIGHT, 1 - keep))


def distillation_loss(logits: Tensor, teacher_logits: Tensor, temperature: float = 2.0) -> Tensor:
    """The divergence of the student from its teacher: `T^2 KL(softmax(t / T) || softmax(z / T))`, differentiable.

    Args:
        logits: Of the student, `(batch, classes)`, any float dtype; computed in float32.
        teacher_logits: `(batch, classes)`, any float dtype, no gradient.
        temperature: T, above 0; the factor T^2 keeps the size of the gradients at any T.

    Returns:
        float32 `(batch,)`, at least 0 but for rounding.

    Raises:
        ArgumentError: If the shapes differ or T is not above 0.

    Examples:
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

    Examples:
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
    # float16 is finest near 0, where the likely classes lie; a logit 65,000 below the largest has no mass
    shifted = np.maximum(wide - wide.max(1, keepdims=True), -6e4) if wide.size else wide
    save_values(path, ids, shifted.astype(np.float16), what=SOFT_LABELS, fingerprint=fingerprint)


def load_soft_labels(
    path: Path, ids: Sequence[str], *, classes: int | None = None, fingerprint: str | None = None
) -> NDArray[np.float16]:
    """A teacher's logits for these ids, in their order.

    Args:
        path: Written by `save_soft_labels`.
        ids: Some or all of those in the file.
        classes: The expected number of classes; None accepts any.
        fingerprint: Of the data; None accepts any.

    Returns:
        float16 `(n, classes)`; compute with them in float32.

    Raises:
        DataError: If the file is missing, of other data, lacks ids or has another number of classes.
    """
    logits = load_values(path, ids, what=SOFT_LABELS, fingerprint=fingerprint)
    if classes is not None and logits.shape[1] != classes:
        raise DataError(f"{path.name} has {logits.shape[1]} classes, {classes} are needed.")
    return logits.astype(np.float16, copy=False)


@dataclass(frozen=True)
class HeadLogits:
    """A teacher's logits at one head, decision after decision.

    Attributes:
        logits: float16 `(decisions, classes)`, shifted so that the largest is 0, which softmax does not see.
        starts: int64 `(rows + 1,)`: row i has the decisions from `starts[i]` to `starts[i + 1]`.
    """

    logits: NDArray[np.float16]
    starts: NDArray[np.int64]

    def of_rows(self, rows: NDArray[np.int64]) -> Tensor:
        """float32 `(decisions of the rows, classes)`, in the order of the rows."""
        places = [np.arange(self.starts[row], self.starts[row + 1]) for row in rows.tolist()]
        return torch.from_numpy(self.logits[np.concatenate(places)].astype(np.float32))


@dataclass(frozen=True)
class Teacher:
    """A teacher's logits of the whole training set, and their share of the loss.

    Attributes:
        heads: By the name of the head in the signals.
        temperature: Softens both sides, above 0.
        weight: Share of the loss, in [0, 1]; None rises as the kept share falls (`distillation_weight`).
        seconds: Of training the teacher, where they are known; not part of a run's own costs.
    """

    heads: Mapping[str, HeadLogits]
    temperature: float = 2.0
    weight: float | None = None
    seconds: float | None = None

    def share(self, keep: float) -> float:
        """The teacher's share of the loss at this kept share."""
        return distillation_weight(keep) if self.weight is None else self.weight

    def loss(
        self, logits: Mapping[str, Tensor], signals: Signals, rows: Tensor, head_weights: Mapping[str, float]
    ) -> Tensor:
        """The divergence of the student from the teacher: a mean over examples of the sum over their decisions.

        Args:
            logits: Of the student's heads, with their gradient.
            signals: Of the same batch: which positions count.
            rows: int64 `(batch,)`.
            head_weights: Of each head in the task's own loss; 1 where it is not named.

        Raises:
            ArgumentError: If teacher and student have other heads or classes.
        """
        total = torch.zeros((), device=rows.device)
        for name, head in with_logits(signals, "a teacher").items():
            if name not in self.heads or name not in logits:
                raise ArgumentError(f"the teacher cannot teach the head {name!r}; it has {', '.join(self.heads)}.")
            student = _decisions(logits[name], head)
            teacher = self.heads[name].of_rows(rows.cpu().numpy()).to(student.device)
            divergence = distillation_loss(student, teacher, self.temperature).sum() / len(rows)
            total = total + head_weights.get(name, 1.0) * divergence
        return total


def teacher_of(
    model: torch.nn.Module,
    dataset: Any,
    collate: Callable[..., Batch],
    signals: Callable[[Any, Batch], Signals],
    *,
    temperature: float = 2.0,
    weight: float | None = None,
    seconds: float | None = None,
    ledger: Ledger | None = None,
    **how: Any,
) -> Teacher:
    """The logits of a teacher for every training row, by one pass.

    Args:
        model: The teacher, with the same classes as the student.
        dataset, collate: Of the training rows.
        signals: Reads the model's outputs; see `Task.signals`.
        temperature, weight, seconds: See `Teacher`.
        ledger: Counts the pass as scoring.
        **how: Of `forward_pass`: `batch_tokens`, `batch_size`, `precision`.

    Raises:
        ArgumentError: If the rows have no class labels.
    """
    logits: dict[str, dict[int, NDArray[np.float16]]] = {}
    for rows, outputs, batch in forward_pass(model, dataset, collate, ledger=ledger, **how):
        for name, head in with_logits(signals(outputs, batch), "a teacher").items():
            if head.labels.is_floating_point():
                raise ArgumentError("a teacher needs classes: this task has none.")
            split = _decisions(head.logits, head).float()
            shifted = (split - split.amax(-1, keepdim=True)).clamp_min(-6e4).cpu().numpy().astype(np.float16)
            ends = np.cumsum(_counts(head, len(rows)))
            parts = np.split(shifted, ends[:-1])
            logits.setdefault(name, {}).update(zip(rows.tolist(), parts, strict=True))
    return Teacher({name: _joined(parts) for name, parts in logits.items()}, temperature, weight, seconds)


def _decisions(logits: Tensor, head: HeadSignals) -> Tensor:
    """`(batch, ..., classes)` to `(decisions, classes)`: those that count."""
    return logits if head.mask is None else logits[head.mask]


def _counts(head: HeadSignals, batch: int) -> NDArray[np.int64]:
    if head.mask is None:
        return np.ones(batch, np.int64)
    counts: NDArray[np.int64] = head.mask.reshape(batch, -1).sum(-1).cpu().numpy()
    return counts


def _joined(parts: Mapping[int, NDArray[np.float16]]) -> HeadLogits:
    ordered = [parts[row] for row in sorted(parts)]
    starts = np.concatenate([[0], np.cumsum([len(part) for part in ordered])]).astype(np.int64)
    return HeadLogits(np.concatenate(ordered), starts)


TEACHER = "teacher"  # kind of entry in a cache


@dataclass(frozen=True)
class Answers:
    """A teacher's logits of the training rows, and the size of the pass that computed them.

    Attributes:
        heads: By the name of the head.
        examples, tokens: Of the pass.
    """

    heads: dict[str, HeadLogits]
    examples: int
    tokens: int


def origin_of(model: Path, data: str, task: Sequence[object], how: Json) -> Json:
    """Everything that the answers follow from: the origin of their entry in `datadiet.store.cache`.

    Args:
        model: Folder of the teacher, identified by the content of its files.
        data: Fingerprint of the data.
        task: Its name and classes.
        how: Plain values: tokenisation and settings of the pass.
    """
    versions = {name: version(name) for name in ("datadiet", "torch", "transformers")}
    return {"versions": versions, "data": data, "task": list(task), "model": checksum(model), **how}


def checksum(model: Path) -> str:
    """A digest of the content of a saved model: weights, config and tokenizer, but not its card."""
    digest = hashlib.sha256()
    for file in sorted(file for file in model.iterdir() if file.is_file() and file.suffix != ".md"):
        with file.open("rb") as handle:
            digest.update(f"{file.name} {hashlib.file_digest(handle, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()


def save_answers(folder: Path, answers: Answers) -> None:
    """Write answers as arrays: of every head its logits (float16) and where each row begins.

    Raises:
        OSError: If the folder cannot be written to.
        ArgumentError: If a logit is not finite.
    """
    arrays: dict[str, NDArray[Any]] = {"size": np.array([answers.examples, answers.tokens])}
    for name, head in answers.heads.items():
        if not np.isfinite(head.logits).all():
            raise ArgumentError(f"logits must be finite; some of the head {name!r} are not.")
        arrays |= {f"logits {name}": head.logits, f"starts {name}": head.starts}
    save_arrays(folder, arrays)


def load_answers(folder: Path) -> Answers:
    """The answers that `save_answers` wrote."""
    arrays = load_arrays(folder)
    names = [key.removeprefix("logits ") for key in arrays if key.startswith("logits ")]
    heads = {name: HeadLogits(arrays[f"logits {name}"], arrays[f"starts {name}"]) for name in names}
    examples, tokens = arrays["size"].tolist()
    return Answers(heads, examples, tokens)
