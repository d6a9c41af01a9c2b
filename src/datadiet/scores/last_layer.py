"""Gradients of the last linear layer in closed form, from the logits and the layer's input of one forward pass.

With logits `z = W h + b` and the cross-entropy, the gradient of one decision's loss is its error `p - y` times the
layer's input: `dL/dW = (p - y) h^T`, `dL/db = p - y`. Several decisions of an example (words of a sentence) share the
layer, so the gradient of their summed loss is a sum of outer products. Its norm is not the sum of their norms; it
follows exactly from the inner products of errors and of inputs. Regression counts half the squared error, several
labels at once the sum of their binary cross-entropies.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from datadiet.errors import ArgumentError
from datadiet.scores.tokens import with_logits
from datadiet.types import HeadSignals, Signals


def last_layer_grand(
    logits: Tensor, labels: Tensor, hidden: Tensor, *, mask: Tensor | None = None, bias: bool = True
) -> Tensor:
    """GraNd of the last linear layer: the norm of the gradient of an example's loss over its weight and bias.

    `|| (p - y) [h; 1]^T ||_F = ||p - y|| * sqrt(1 + ||h||^2)`, without a bias `||p - y|| * ||h||`; for several
    positions `|| sum_t (p_t - y_t) [h_t; 1]^T ||_F`.

    Args:
        logits: `(batch, classes)` or `(batch, positions, classes)`, any float dtype; `(batch, 1)` for regression.
        labels: Class numbers `(batch,)` or `(batch, positions)`; floating-point `(batch,)` for regression.
        hidden: The layer's input, `(batch, size)` or `(batch, positions, size)`, any float dtype.
        mask: bool `(batch, positions)`, False at positions that do not count; their label may be anything.
        bias: Whether the layer has one.

    Returns:
        float32 `(batch,)`, at least 0; larger = harder.

    Raises:
        ArgumentError: If the shapes do not fit, naming both, or a label that counts is not a class.

    Examples:
        >>> last_layer_grand(torch.zeros(1, 2), torch.tensor([1]), torch.tensor([[1.0, 1.0]]))
        tensor([1.2247])

    Source: Paul, Ganguli and Dziugaite 2021 (arXiv 2107.07075), section 2.1, over the last layer and from one state of
    the model. DeepCore divides every value by the size of its batch; here a value does not depend on its batch.
    """
    errors, inputs = _positions(logits, labels, hidden, mask, bias)
    return (_gram(errors) * _gram(inputs)).sum((1, 2)).clamp_min(0).sqrt().float()


def signals_grand(signals: Signals, *, weights: Mapping[str, float] | None = None, bias: bool = True) -> Tensor:
    """GraNd over the last layers of all heads: each example's `sqrt(sum_h (w_h ||g_h||)^2)`.

    Args:
        signals: With `hidden` in every head.
        weights: Of the heads in the loss, e.g. `{"intent": a, "slots": 1 - a}`; 1 each by default.
        bias: Whether the layers have one.

    Returns:
        float32 `(batch,)`; larger = harder.

    Raises:
        ArgumentError: If a head has no `hidden`.

    Examples:
        >>> head = HeadSignals(torch.zeros(1, 2), torch.tensor([1]), hidden=torch.tensor([[1.0, 1.0]]))
        >>> signals_grand(Signals({"label": head}))
        tensor([1.2247])
    """
    norms = [
        last_layer_grand(head.logits, head.labels, hidden_of(name, head), mask=head.mask, bias=bias)
        * (1.0 if weights is None else weights[name])
        for name, head in with_logits(signals, "the gradient of the last layer").items()
    ]
    return norms[0] if len(norms) == 1 else torch.stack(norms).square().sum(0).sqrt()  # (heads, batch) -> (batch,)


def last_layer_gradient(
    logits: Tensor, labels: Tensor, hidden: Tensor, *, mask: Tensor | None = None, bias: bool = True
) -> Tensor:
    """The gradient of the summed loss of a batch over the last layer: `sum_i sum_t (p_it - y_it) [h_it; 1]^T`.

    Divided by the number of examples it is the mean gradient of TracIn.

    Args:
        logits, labels, hidden, mask, bias: See `last_layer_grand`.

    Returns:
        `(classes, size + 1)`, the last column that of the bias; `(classes, size)` without one. float32, or float64 if
        the logits are.

    Examples:
        >>> last_layer_gradient(torch.zeros(1, 2), torch.tensor([1]), torch.tensor([[4.0]]))
        tensor([[ 2.0000,  0.5000],
                [-2.0000, -0.5000]])
    """
    errors, inputs = _positions(logits, labels, hidden, mask, bias)
    return torch.einsum("btc,bth->ch", errors, inputs)


def last_layer_alignment(
    logits: Tensor,
    labels: Tensor,
    hidden: Tensor,
    gradient: Tensor,
    *,
    mask: Tensor | None = None,
    bias: bool = True,
) -> Tensor:
    """Inner product of each example's last-layer gradient with a given one: `sum_t (p_t - y_t)^T G [h_t; 1]`.

    Args:
        logits, labels, hidden, mask, bias: See `last_layer_grand`.
        gradient: `G`, as `last_layer_gradient` gives it.

    Returns:
        float32 `(batch,)`, any sign; positive = a step on the example also lowers the loss that `G` belongs to.

    Raises:
        ArgumentError: If shapes do not fit.

    Examples:
        >>> batch = torch.zeros(1, 2), torch.tensor([1]), torch.tensor([[4.0]])
        >>> last_layer_alignment(*batch, last_layer_gradient(*batch)), last_layer_grand(*batch) ** 2
        (tensor([8.5000]), tensor([8.5000]))
    """
    errors, inputs = _positions(logits, labels, hidden, mask, bias)
    expected = (errors.shape[-1], inputs.shape[-1])
    if tuple(gradient.shape) != expected:
        raise ArgumentError(f"the gradient must have shape {expected}, got {tuple(gradient.shape)}.")
    return torch.einsum("btc,ch,bth->b", errors, gradient.to(errors.dtype), inputs).float()


def hidden_of(name: str, head: HeadSignals) -> Tensor:
    """The input of the last linear layer of a head.

    Raises:
        ArgumentError: If the head has none, naming it.
    """
    if head.hidden is None:
        raise ArgumentError(
            f"last-layer gradients need the input of the last linear layer, which is not known for {name!r}: the model "
            "has no such layer with as many outputs as labels. Choose the parameters by a function of their names."
        )
    return head.hidden


def errors_of(logits: Tensor, labels: Tensor, mask: Tensor | None = None) -> Tensor:
    """`softmax(z) - onehot(y)` of each decision; 0 where the mask is False.

    `z - y` for regression, `sigmoid(z) - y` for several labels at once (numbers of the logits' shape).

    The label's own entry is minus the mass of the others, which is exact also near `p_y = 1`.

    Args:
        logits: `(..., classes)`; `(..., 1)` for regression.
        labels: `(...)`, or `(..., classes)` of 0 and 1 as floating-point numbers.
        mask: bool `(...)`.

    Returns:
        `(..., classes)`, float32 (float64 for float64 logits).

    Raises:
        ArgumentError: If the shapes do not fit, naming both, or a label that counts is not a class.

    Examples:
        >>> errors_of(torch.zeros(1, 2), torch.tensor([1]))
        tensor([[ 0.5000, -0.5000]])
    """
    wide = logits.detach() if logits.dtype == torch.float64 else logits.detach().float()
    if labels.is_floating_point() and wide.shape == (*labels.shape, 1):
        return wide - labels.detach().to(wide.dtype).unsqueeze(-1)
    if labels.is_floating_point() and labels.dim() > 1 and wide.shape == labels.shape:
        return wide.sigmoid() - labels.detach().to(wide.dtype)
    if labels.is_floating_point() or wide.shape[:-1] != labels.shape:
        raise ArgumentError(
            f"gradients of the last layer need logits (..., classes) and class labels (...), or (..., 1) and numbers "
            f"(...): got logits of shape {tuple(logits.shape)} for {labels.dtype} labels of shape "
            f"{tuple(labels.shape)}."
        )
    gold = labels.long() if mask is None else labels.long().masked_fill(~mask.bool(), 0)
    if gold.numel() and gold.device.type == "cpu" and not 0 <= int(gold.min()) <= int(gold.max()) < wide.shape[-1]:
        raise ArgumentError(
            f"labels must be in [0, {wide.shape[-1]}), found {int(gold.min())} to {int(gold.max())}. Give a mask that "
            "is False where a label does not count."
        )
    others = wide.softmax(-1).scatter(-1, gold.unsqueeze(-1), 0.0)
    errors = others.scatter(-1, gold.unsqueeze(-1), -others.sum(-1, keepdim=True))
    return errors if mask is None else errors * mask.unsqueeze(-1)


def _positions(
    logits: Tensor, labels: Tensor, hidden: Tensor, mask: Tensor | None, bias: bool
) -> tuple[Tensor, Tensor]:
    """Errors `(batch, positions, classes)` and layer inputs `(batch, positions, size)`, the bias as an input of 1."""
    if hidden.shape[:-1] != logits.shape[:-1]:
        raise ArgumentError(
            f"the layer's input must have the logits' leading shape: got {tuple(hidden.shape)} for logits of shape "
            f"{tuple(logits.shape)}."
        )
    errors = errors_of(logits, labels, mask)
    inputs = hidden.detach().to(errors.dtype)
    if mask is not None:
        inputs = inputs.masked_fill(~mask.bool().unsqueeze(-1), 0.0)  # nan at a padding must not count as 0 * nan
    if bias:
        inputs = torch.cat([inputs, torch.ones_like(inputs[..., :1])], -1)
    batch = len(errors)
    return errors.reshape(batch, -1, errors.shape[-1]), inputs.reshape(batch, -1, inputs.shape[-1])


def _gram(vectors: Tensor) -> Tensor:
    return vectors @ vectors.transpose(1, 2)  # (batch, positions, size) -> (batch, positions, positions)
