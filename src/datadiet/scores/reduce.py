"""From values per decision to one value per example: over the tokens of a head, then over the heads.

For values that are never negative the three rules are those of the paper and its code: `norm` is the L2 norm of all
errors of an example put end to end, `mean` is free of length, `sum` counts every token.

`norm` of a score that can be negative (`margin`) is the same rule with signs kept: `f^-1(sum f(v))` with
`f(v) = sign(v) * v^2`. Plain squares would call a token hard that is right by a wide margin. With signs kept, a harder
token always makes a harder example, one decision alone keeps its own value, and tokens within heads within an example
give the same as all of them at once.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from datadiet.checks import ArgumentError, unknown

if TYPE_CHECKING:
    from datadiet.records import HeadSignals, Signals
    from datadiet.scores.logits import Score

COMBINATIONS = ("norm", "mean", "sum")


def check_combination(how: str) -> None:
    """Raise unless a combination of this name exists.

    Raises:
        ArgumentError: Naming the nearest one that does.

    Example:
        >>> check_combination("norms")
        Traceback (most recent call last):
        ...
        datadiet.checks.ArgumentError: unknown combination 'norms'; did you mean 'norm'? Allowed: mean, norm, sum.
    """
    if how not in COMBINATIONS:
        raise ArgumentError(unknown("combination", how, COMBINATIONS))


def reduce_tokens(values: Tensor, mask: Tensor | None, how: str) -> Tensor:
    """One value per example from one per position.

    `norm = sqrt(sum_t v_t^2)` (signs kept, see the module), `mean = sum_t v_t / max(1, T)`, `sum = sum_t v_t`, over
    the T positions that count.

    Args:
        values: float `(..., positions)`.
        mask: bool `(..., positions)`, True where a position counts; None where all do.
        how: `norm`, `mean` or `sum`.

    Returns:
        float32 `(...)`; 0 for an example with no position that counts.

    Raises:
        ArgumentError: If the shapes differ, naming both, or `how` is unknown.

    Example:
        >>> values, mask = torch.tensor([[3.0, 4.0, 9.0]]), torch.tensor([[True, True, False]])
        >>> [reduce_tokens(values, mask, how).item() for how in COMBINATIONS]
        [5.0, 3.5, 7.0]

    Source: Attendu and Corbeil 2023 (arXiv 2306.03208), section 3 and published code. Their mean is nan for an example
    without labelled tokens.
    """
    check_combination(how)
    if mask is None:
        mask = torch.ones_like(values, dtype=torch.bool)
    if mask.shape != values.shape:
        raise ArgumentError(
            f"the mask needs the values' shape: got a mask of shape {tuple(mask.shape)} for values of shape "
            f"{tuple(values.shape)}."
        )
    counted = values.float().masked_fill(~mask.bool(), 0.0)
    if how == "norm":
        return _signed_root(_signed_square(counted).sum(-1))
    return counted.sum(-1) if how == "sum" else counted.sum(-1) / mask.sum(-1).clamp_min(1)


def combine_heads(values: Mapping[str, Tensor], how: str, weights: Mapping[str, float] | None = None) -> Tensor:
    """One value per example from one per head.

    `norm = sqrt(sum_h (w_h v_h)^2)` (signs kept, see the module), `mean = sum_h w_h v_h / sum_h w_h`,
    `sum = sum_h w_h v_h`.

    Args:
        values: float `(batch,)` per head.
        how: `norm`, `mean` or `sum`.
        weights: At least 0, one per head; 1 each by default.

    Returns:
        float32 `(batch,)`.

    Raises:
        ArgumentError: If the weights do not name the heads, are negative or all 0, or `how` is unknown.

    Example:
        >>> values = {"intent": torch.tensor([3.0]), "slots": torch.tensor([4.0])}
        >>> [combine_heads(values, how).item() for how in COMBINATIONS]
        [5.0, 3.5, 7.0]

    Source: Attendu and Corbeil 2023 (arXiv 2306.03208), section 3.
    """
    check_combination(how)
    weight = dict.fromkeys(values, 1.0) if weights is None else _checked_weights(values, weights)
    scaled = torch.stack([values[head].float() * weight[head] for head in values])  # (heads, batch)
    if how == "norm":
        return _signed_root(_signed_square(scaled).sum(0))
    return scaled.sum(0) if how == "sum" else scaled.sum(0) / sum(weight.values())


def example_values(
    score: Score, signals: Signals, *, combine: str = "norm", weights: Mapping[str, float] | None = None
) -> Tensor:
    """Any score on any task: per decision, then over the positions of each head, then over the heads.

    Args:
        score: `f(logits, labels, *, mask=None) -> values`.
        signals: The heads of one forward pass.
        combine: `norm`, `mean` or `sum`, for positions and heads alike. It makes no difference for one head with one
            decision per example.
        weights: Of the heads, see `combine_heads`; e.g. `{"intent": a, "slots": 1 - a}` with `cross_entropy` and `sum`
            for the joint loss.

    Returns:
        float32 `(batch,)`; larger = harder.

    Raises:
        ArgumentError: If shapes, weights or the combination do not fit.

    Example:
        >>> from datadiet.records import HeadSignals, Signals
        >>> from datadiet.scores import el2n
        >>> intent = HeadSignals(torch.zeros(1, 2), torch.tensor([0]))
        >>> slots = HeadSignals(torch.zeros(1, 2, 2), torch.tensor([[1, -100]]), torch.tensor([[True, False]]))
        >>> example_values(el2n, Signals({"intent": intent, "slots": slots})).round(decimals=4)
        tensor([1.])

    Source: Attendu and Corbeil 2023 (arXiv 2306.03208), section 3: joint EL2N is the `norm` of `el2n`.
    """
    check_combination(combine)
    if not signals.heads:
        raise ArgumentError("signals need at least one head, got none.")
    values = {name: _head_values(score, head, combine) for name, head in signals.heads.items()}
    if len(values) == 1 and weights is None:
        return next(iter(values.values()))  # as it is: squaring and rooting would cost its last digit
    return combine_heads(values, combine, weights)


def _head_values(score: Score, head: HeadSignals, how: str) -> Tensor:
    """`(batch,)` values of one head, whatever its number of positions."""
    values = score(head.logits, head.labels, mask=head.mask).float()
    if values.dim() < 2:
        return values
    mask = None if head.mask is None else head.mask.flatten(1)
    return reduce_tokens(values.flatten(1), mask, how)  # (batch, positions) -> (batch,)


def _checked_weights(values: Mapping[str, Tensor], weights: Mapping[str, float]) -> Mapping[str, float]:
    if weights.keys() != values.keys():
        raise ArgumentError(
            f"weights need one entry per head ({', '.join(values)}), got {', '.join(weights) or 'none'}."
        )
    if min(weights.values()) < 0 or not sum(weights.values()) > 0:
        raise ArgumentError(f"weights must be at least 0 and not all 0, got {dict(weights)}.")
    return weights


def _signed_square(values: Tensor) -> Tensor:
    return values * values.abs()


def _signed_root(values: Tensor) -> Tensor:
    return values.sign() * values.abs().sqrt()
