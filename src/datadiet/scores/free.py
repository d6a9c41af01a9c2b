"""What every forward pass says for free, kept beside the score for data maps, noise checks and later selections."""

from __future__ import annotations

import torch
from torch import Tensor

from datadiet.records import HeadSignals, Signals

FREE = ("gold_probability", "margin", "loss")


def free_signals(signals: Signals) -> dict[str, Tensor]:
    """Gold probability, margin and loss of each example.

    Over the positions of a head and over the heads, the probability and the margin are means (free of length) and the
    loss is the sum, i.e. the example's negative log-likelihood. A regression head has a squared error for its loss, and
    nan for the other two.

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


def label_signals(signals: Signals) -> dict[str, Tensor]:
    """Loss and margin of the one label that each example has, whatever is tagged beside it: for the noise guard.

    Args:
        signals: The heads of one forward pass.

    Returns:
        float32 `(batch,)` each: `label_loss` and `label_margin`, as in `free_signals`, of the first head with one class
        per example; nan where there is none (regression, token classification).

    Example:
        >>> found = label_signals(Signals({"label": HeadSignals(torch.tensor([[2.0, 0.0]]), torch.tensor([1]))}))
        >>> {name: round(values.item(), 4) for name, values in found.items()}
        {'label_loss': 2.1269, 'label_margin': 2.0}
    """
    heads = list(signals.heads.values())
    for head in heads:
        if head.labels.dim() == 1 and not head.labels.is_floating_point():
            _, margin, loss = _of_head(head)
            return {"label_loss": loss, "label_margin": margin}
    unknown = torch.full((len(heads[0].labels),), torch.nan, device=heads[0].logits.device)
    return {"label_loss": unknown, "label_margin": unknown}


def _of_head(head: HeadSignals) -> tuple[Tensor, Tensor, Tensor]:
    logits, labels = head.logits.float(), head.labels
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
