"""A teacher inside the Trainer: its logits of every training row, taken once, and the loss that follows them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from datadiet.checks import ArgumentError
from datadiet.distillation import distillation_loss, distillation_weight
from datadiet.ledger import Ledger
from datadiet.records import HeadSignals, Signals
from datadiet.scoring import Batch, forward_pass


@dataclass(frozen=True)
class HeadLogits:
    """What a teacher says at one head, decision after decision.

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
    """A teacher's logits of the whole training set, and how far they count.

    Attributes:
        heads: By the name of the head in the signals.
        temperature: Softens both sides, above 0.
        weight: Share of the loss, in [0, 1]; None rises as the kept share falls (`distillation_weight`).
        seconds: What training the teacher has cost, where it is known; not part of a run's own costs.
    """

    heads: Mapping[str, HeadLogits]
    temperature: float = 2.0
    weight: float | None = None
    seconds: float | None = None

    def share(self, keep: float) -> float:
        """The teacher's part of the loss where so much is kept."""
        return distillation_weight(keep) if self.weight is None else self.weight

    def loss(
        self, logits: Mapping[str, Tensor], signals: Signals, rows: Tensor, head_weights: Mapping[str, float]
    ) -> Tensor:
        """What the student misses of the teacher: a mean over the examples, summed over an example's decisions.

        Args:
            logits: Of the student's heads, with their gradient.
            signals: Of the same batch: which positions count.
            rows: int64 `(batch,)`.
            head_weights: Of each head in the task's own loss; 1 where it is not named.

        Raises:
            ArgumentError: If teacher and student have other heads or classes.
        """
        total = torch.zeros((), device=rows.device)
        for name, head in signals.heads.items():
            if name not in self.heads or name not in logits:
                raise ArgumentError(f"the teacher cannot teach the head {name!r}; it has {', '.join(self.heads)}.")
            student = _decisions(logits[name], head)
            said = self.heads[name].of_rows(rows.cpu().numpy()).to(student.device)
            missed = distillation_loss(student, said, self.temperature).sum() / len(rows)
            total = total + head_weights.get(name, 1.0) * missed
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
    """Ask a teacher about every training row, once.

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
    said: dict[str, dict[int, NDArray[np.float16]]] = {}
    for rows, outputs, batch in forward_pass(model, dataset, collate, ledger=ledger, **how):
        for name, head in signals(outputs, batch).heads.items():
            if head.labels.is_floating_point():
                raise ArgumentError("a teacher needs classes: this task has none.")
            split = _decisions(head.logits, head).float()
            shifted = (split - split.amax(-1, keepdim=True)).clamp_min(-6e4).cpu().numpy().astype(np.float16)
            ends = np.cumsum(_counts(head, len(rows)))
            parts = np.split(shifted, ends[:-1])
            said.setdefault(name, {}).update(zip(rows.tolist(), parts, strict=True))
    return Teacher({name: _joined(parts) for name, parts in said.items()}, temperature, weight, seconds)


def _decisions(logits: Tensor, head: HeadSignals) -> Tensor:
    """`(batch, ..., classes)` to `(decisions, classes)`: those that count."""
    return logits if head.mask is None else logits[head.mask]


def _counts(head: HeadSignals, batch: int) -> NDArray[np.int64]:
    counts: NDArray[np.int64] = np.ones(batch, np.int64) if head.mask is None else head.mask.sum(-1).cpu().numpy()
    return counts


def _joined(parts: Mapping[int, NDArray[np.float16]]) -> HeadLogits:
    ordered = [parts[row] for row in sorted(parts)]
    starts = np.concatenate([[0], np.cumsum([len(part) for part in ordered])]).astype(np.int64)
    return HeadLogits(np.concatenate(ordered), starts)
