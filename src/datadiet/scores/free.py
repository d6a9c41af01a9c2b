"""What every forward pass says for free, kept beside the score for data maps, noise checks and later selections."""

from __future__ import annotations

import torch
from torch import Tensor

from datadiet.records import HeadSignals, Signals
from datadiet.scores.logits import cross_entropy, gold_probability, is_multi_hot
from datadiet.scores.logits import margin as logit_margin

FREE = ("gold_probability", "margin", "loss")


def free_signals(signals: Signals) -> dict[str, Tensor]:
    """Gold probability, margin and loss of each example.

    Over the positions of a head and over the heads, the probability and the margin are means (free of length) and the
    loss is the sum, i.e. the example's negative log-likelihood. A regression head has a squared error for its loss, and
    nan for the other two. A multi-hot head has the sum of its binary cross-entropies, the mean over the classes of the
    right answer's probability, and the margin of its worst class.

    Args:
        signals: The heads of one forward pass.

    Returns:
        float32 `(batch,)` each. `gold_probability` in [0, 1], larger = easier; `margin` is the largest other logit
        minus the gold one, larger = harder, so AUM is minus its mean over the epochs; `loss` is larger = harder.

    Example:
        >>> free = free_signals(Signals({"label": HeadSignals(torch.tensor([[1.0, 1.0]]), torch.tensor([0]))}))
        >>> {name: round(values.item(), 4) for name, values in free.items()}
        {'gold_probability': 0.5, 'margin': 0.0, 'loss': 0.6931}

    Source: Swayamdipta et al. 2020 (data maps) for the gold probability; Pleiss et al. 2020 (AUM) for the margin.
    """
    heads = [_of_head(head) for head in signals.heads.values()]
    probability, margin, loss = (torch.stack(values) for values in zip(*heads, strict=True))  # (heads, batch) each
    return {"gold_probability": probability.mean(0), "margin": margin.mean(0), "loss": loss.sum(0)}


def _of_head(head: HeadSignals) -> tuple[Tensor, Tensor, Tensor]:
    logits, labels = head.logits.float(), head.labels
    if is_multi_hot(logits, labels):
        return gold_probability(logits, labels), logit_margin(logits, labels), cross_entropy(logits, labels)
    if labels.is_floating_point():
        error = logits.reshape(len(labels)) - labels  # (batch, 1) -> (batch,)
        unknown = torch.full_like(error, torch.nan)
        return unknown, unknown, error.square()
    gold_class = labels.clamp_min(0).unsqueeze(-1)
    gold_logit = logits.gather(-1, gold_class).squeeze(-1)
    log_probability = gold_logit - logits.logsumexp(-1)
    others = logits.scatter(-1, gold_class, -torch.inf).amax(-1)
    margin = others - gold_logit if logits.shape[-1] > 1 else torch.zeros_like(gold_logit)
    parts = (log_probability.exp(), margin, -log_probability)
    if labels.dim() == 1:
        return parts
    counted = labels >= 0 if head.mask is None else head.mask
    positions = counted.sum(-1).clamp_min(1)
    probability, margin, loss = ((part * counted).sum(-1) for part in parts)  # (batch, positions) -> (batch,)
    return probability / positions, margin / positions, loss
