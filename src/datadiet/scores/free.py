"""What every forward pass says for free, kept beside the score for data maps, noise checks and later selections."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from datadiet.records import HeadSignals, Signals
from datadiet.scores.logits import cross_entropy, el2n, gold_probability, is_multi_hot
from datadiet.scores.logits import margin as logit_margin

FREE = ("gold_probability", "margin", "loss", "el2n", "correct", "hidden_norm")
OF_LABEL = ("label_loss", "label_margin")  # of the one label that an example has, for the noise guard


class _Head(NamedTuple):
    """The parts of one head, float32 `(batch,)` each; squares are sums over `positions`."""

    probability: Tensor
    margin: Tensor
    loss: Tensor
    squared_el2n: Tensor
    correct: Tensor
    squared_hidden: Tensor
    positions: Tensor


def free_signals(signals: Signals, *, of_label: bool = False) -> dict[str, Tensor]:
    """What is recorded of each example at every forward pass.

    Over the positions of a head and over the heads, the probability and the margin are means (free of length), the
    loss is the sum, i.e. the example's negative log-likelihood, EL2N is the norm of all errors, and an example is
    correct where every decision is. The norm of the hidden vector is the root of the mean square over the decisions.
    A regression head has a squared error for its loss, |z - y| for EL2N, and nan for probability, margin and
    correctness. A multi-hot head has the mean over the classes of the right answer's probability, the margin of its
    worst class and the sum of the binary cross-entropies, and is correct where every class is.

    Args:
        signals: The heads of one forward pass.
        of_label: Whether `OF_LABEL` is wanted too: loss and margin of the first head with one class per example,
            whatever is tagged beside it; nan where there is none (regression, token classification).

    Returns:
        float32 `(batch,)` each. `gold_probability` in [0, 1], larger = easier; `margin` is the largest other logit
        minus the gold one, larger = harder, so AUM is minus its mean over the epochs; `loss` and `el2n` are larger =
        harder; `correct` is 1 or 0; `hidden_norm` is the norm of what goes into the last linear layer, nan where that
        is not known, so that `el2n * sqrt(1 + hidden_norm^2)` is the norm of the layer's gradient.

    Example:
        >>> free = free_signals(Signals({"label": HeadSignals(torch.tensor([[1.0, 1.0]]), torch.tensor([0]))}))
        >>> {name: round(values.item(), 4) for name, values in free.items()}
        {'gold_probability': 0.5, 'margin': 0.0, 'loss': 0.6931, 'el2n': 0.7071, 'correct': 1.0, 'hidden_norm': nan}

    Source: Swayamdipta et al. 2020 (data maps) for the gold probability; Pleiss et al. 2020 (AUM) for the margin; Paul
    et al. 2021 for EL2N and for the gradient of the last layer.
    """
    heads = [_of_head(head) for head in signals.heads.values()]
    probability, margin, loss, errors, correct, hidden, positions = (
        torch.stack(values) for values in zip(*heads, strict=True)
    )  # (heads, batch) each
    found = {
        "gold_probability": probability.mean(0),
        "margin": margin.mean(0),
        "loss": loss.sum(0),
        "el2n": errors.sum(0).sqrt(),
        "correct": correct.amin(0),
        "hidden_norm": (hidden.sum(0) / positions.sum(0).clamp_min(1)).sqrt(),
    }
    if of_label:
        found |= dict(zip(OF_LABEL, _of_label(signals, heads), strict=True))
    return found


def _of_label(signals: Signals, parts: Sequence[_Head]) -> tuple[Tensor, Tensor]:
    for head, found in zip(signals.heads.values(), parts, strict=True):
        if head.labels.dim() == 1 and not head.labels.is_floating_point():
            return found.loss, found.margin
    unknown = torch.full_like(parts[0].loss, torch.nan)
    return unknown, unknown


def _of_head(head: HeadSignals) -> _Head:
    logits, labels = head.logits.float(), head.labels
    errors = el2n(logits, labels, mask=head.mask).square()
    hidden = _squared_norm(head, errors)
    if is_multi_hot(logits, labels):
        right = ((logits >= 0) == (labels == 1)).all(-1).float()
        worst, loss = logit_margin(logits, labels), cross_entropy(logits, labels)
        return _Head(gold_probability(logits, labels), worst, loss, errors, right, hidden, torch.ones_like(errors))
    if labels.is_floating_point():
        error = logits.reshape(len(labels)) - labels  # (batch, 1) -> (batch,)
        unknown = torch.full_like(error, torch.nan)
        return _Head(unknown, unknown, error.square(), errors, unknown, hidden, torch.ones_like(error))
    gold_class = labels.clamp_min(0).unsqueeze(-1)
    gold_logit = logits.gather(-1, gold_class).squeeze(-1)
    log_probability = gold_logit - logits.logsumexp(-1)
    others = logits.scatter(-1, gold_class, -torch.inf).amax(-1)
    margin = others - gold_logit if logits.shape[-1] > 1 else torch.zeros_like(gold_logit)
    right = (margin <= 0).float()
    if labels.dim() == 1:
        parts = (log_probability.exp(), margin, -log_probability, errors, right, hidden)
        return _Head(*parts, torch.ones_like(errors))
    counted = labels >= 0 if head.mask is None else head.mask
    positions = counted.sum(-1).float()
    per_word = (log_probability.exp(), margin, -log_probability, errors, hidden)
    probability, margin, loss, errors, hidden = ((part * counted).sum(-1) for part in per_word)  # -> (batch,)
    words = positions.clamp_min(1)
    wrong = ((1 - right) * counted).sum(-1)
    return _Head(probability / words, margin / words, loss, errors, (wrong == 0).float(), hidden, positions)


def _squared_norm(head: HeadSignals, like: Tensor) -> Tensor:
    if head.hidden is None:
        return torch.full_like(like, torch.nan)
    return head.hidden.float().square().sum(-1)
