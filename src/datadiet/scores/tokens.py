"""The hardest tokens of each sentence, and what is left of a sentence when only they count.

Masking equals removing: every score, reduction and loss of a sentence with masked tokens is that of a sentence that
never had them, since a masked token adds nothing to a sum and is not counted in a mean.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from datadiet.checks import ArgumentError, Problems
from datadiet.records import HeadSignals

IGNORED = -100


def mask_tokens(values: Tensor, keep: float, *, mask: Tensor | None = None) -> Tensor:
    """Which tokens are among the hardest of their sentence.

    Of `T` tokens that count the `ceil(keep * T)` largest values are kept, so at least one; of equal values the first.
    The rest of the batch makes no difference to a sentence.

    Args:
        values: float `(batch, positions)`, larger = harder.
        keep: Share of each sentence's tokens kept, in (0, 1].
        mask: bool `(batch, positions)`, True where a position counts; None where all do.

    Returns:
        bool `(batch, positions)`, True where a token is kept: a `mask` of scores, and by
        `labels.masked_fill(~kept, -100)` labels that leave the others out of the loss.

    Raises:
        ArgumentError: If `keep` is out of range, the shapes differ, or a value that counts is nan.

    Example:
        >>> values = torch.tensor([[0.1, 0.9, 0.5, 0.7]])
        >>> mask_tokens(values, 0.5)
        tensor([[False,  True, False,  True]])
        >>> torch.tensor([[3, 1, 0, 2]]).masked_fill(~mask_tokens(values, 0.5), -100)
        tensor([[-100,    1, -100,    2]])

    Source: selective language modelling (Lin et al. 2024, arXiv 2404.07965), section 2.2, takes the share over the
    batch; here it is taken in each sentence, so that a batch of one gives the same.
    """
    problems = Problems()
    problems.share("keep", keep)
    problems.raise_any(ArgumentError)
    counted = torch.ones_like(values, dtype=torch.bool) if mask is None else mask.bool()
    if values.dim() != 2 or counted.shape != values.shape:
        raise ArgumentError(
            f"tokens need values (batch, positions) and a mask of that shape: got {tuple(values.shape)} and "
            f"{tuple(counted.shape)}."
        )
    if bool((values.isnan() & counted).any()):
        rows = (values.isnan() & counted).any(-1).nonzero().flatten().tolist()
        raise ArgumentError(f"values must be numbers, found nan in rows {', '.join(map(str, rows[:5]))} of the batch.")
    ordered = values.detach().float().masked_fill(~counted, -torch.inf)
    # a value may be -inf itself: what does not count comes after everything that does
    by_value = ordered.argsort(dim=-1, descending=True, stable=True)
    counting_first = counted.gather(-1, by_value).int().argsort(dim=-1, descending=True, stable=True)
    rank = by_value.gather(-1, counting_first).argsort(dim=-1)  # (batch, positions), 0 = hardest that counts
    counts = [math.ceil(keep * tokens - 1e-9) for tokens in counted.sum(-1).tolist()]
    return counted & (rank < torch.tensor(counts, device=values.device).unsqueeze(-1))


def with_tokens(head: HeadSignals, kept: Tensor) -> HeadSignals:
    """A tagger's head of which only some tokens count.

    Args:
        head: With or without a mask.
        kept: bool `(batch, positions)`, e.g. from `mask_tokens`.

    Raises:
        ArgumentError: If the shapes differ.

    Example:
        >>> head = HeadSignals(torch.zeros(1, 2, 3), torch.tensor([[1, 2]]), torch.tensor([[True, True]]))
        >>> with_tokens(head, torch.tensor([[False, True]])).mask
        tensor([[False,  True]])
    """
    if kept.shape != head.labels.shape:
        raise ArgumentError(
            f"the tokens kept need the labels' shape: got {tuple(kept.shape)} for labels {tuple(head.labels.shape)}."
        )
    return replace(head, mask=kept.bool() if head.mask is None else head.mask & kept.bool())
