"""Scores read off logits and labels: one number per decision, larger = harder.

Everything is computed in float32 (float64 logits in float64), whatever precision the model ran in: soft-maxed in half
precision, well-learned examples collapse onto a handful of values. For the same reason no score here computes
`1 - p`: near `p = 1` the difference is rounding error. The mass of the other classes is summed instead, so that
examples the model has learned still come out in order.

Labels come in three forms, told apart by dtype and shape: class numbers `(...)` for logits `(..., classes)`; floats of
the logits' own shape `(..., classes)`, 0 or 1, for any number of labels per decision (multi-hot), where every class has
a sigmoid of its own; and other floats, the targets of a regression. A multi-hot head still has one value per decision.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from datadiet.errors import ArgumentError
from datadiet.registry import score

# The largest EL2N of one decision: certain and wrong
EL2N_MAX = 2.0**0.5


def is_multi_hot(logits: Tensor, labels: Tensor) -> bool:
    """Whether labels are 0 or 1 for each of several classes: floats of the logits' shape, more than one to a decision.

    Examples:
        >>> is_multi_hot(torch.zeros(4, 3), torch.ones(4, 3)), is_multi_hot(torch.zeros(4, 1), torch.ones(4))
        (True, False)
    """
    several = labels.dim() > 0 and labels.shape[-1] > 1 and labels.dim() > 1
    return labels.is_floating_point() and logits.shape == labels.shape and several


class Score(Protocol):
    """A function of this form: larger = harder, float32, the class axis dropped, 0 where the mask is False."""

    def __call__(self, logits: Tensor, labels: Tensor, *, mask: Tensor | None = None) -> Tensor:
        """Score each decision of a batch."""


@score(
    formula="|| p - onehot(y) ||_2, in [0, sqrt 2]; regression: |z - y|",
    paper=(
        "Paul, Ganguli and Dziugaite 2021, arXiv 2107.07075, section 2.2; joint tasks: Attendu and Corbeil 2023, "
        "arXiv 2306.03208"
    ),
    inputs="logits, label",
    cost="nothing beyond that forward pass",
    loses="on noisy or ambiguous labels, which stay hard; below random when little is kept (Zheng et al. 2023)",
    needs=("model",),
    traits=("forward", "zero_when_learned", "suspects", "tokens"),
    evidence="methods",
    computed_by="datadiet.scoring.forward:value_of",
    passes={"model": ["value"]},
)
def el2n(logits: Tensor, labels: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """Error L2 norm: how far the predicted distribution lies from the label.

    `EL2N(x, y) = || softmax(z) - onehot(y) ||_2`; `|| sigmoid(z) - y ||_2` for multi-hot labels, and `|z - y|` for
    regression (floating-point labels).

    Args:
        logits: `(..., classes)`, any float dtype; `(..., 1)` or `(...)` for regression.
        labels: Class numbers `(...)` in [0, classes), multi-hot floats `(..., classes)`, or float targets `(...)`.
        mask: bool `(...)`: where it is False the value is 0 and the label may be anything.

    Returns:
        float32 `(...)` in [0, sqrt(2)]; 0 = certain and right, sqrt(2) = certain and wrong. Multi-hot: in
        [0, sqrt(classes)].

    Raises:
        ArgumentError: If the shapes do not fit, naming both, or a label that counts is no class.

    Examples:
        >>> el2n(torch.tensor([[0.0, 0.0]]), torch.tensor([1]))
        tensor([0.7071])

    Source: Paul, Ganguli and Dziugaite 2021, section 2.2, from one state of the model instead of a mean over ten. With
    two classes it ranks like cross-entropy: `sqrt(2) * (1 - p_y)`.
    """
    if is_multi_hot(logits, labels):
        return _counted(torch.sigmoid(-_signed("el2n", logits, labels, mask)).norm(dim=-1), mask)
    if labels.is_floating_point():
        return absolute_error(logits, labels, mask=mask)
    scaled, gold = _classes("el2n", logits, labels, mask)
    others = scaled.softmax(-1).scatter(-1, gold, 0.0)  # (..., classes), the label's own at 0
    missing = others.sum(-1)  # = 1 - p_y without its rounding error
    return _counted((others.square().sum(-1) + missing.square()).sqrt(), mask)


@score(
    formula="-log p_y",
    paper="the `loss` baseline of Attendu and Corbeil 2023, arXiv 2306.03208",
    inputs="logits, label",
    cost="nothing beyond that forward pass",
    loses="as el2n; it has no upper bound, so that one certain mistake outweighs all else in a sum or a mean",
    needs=("model",),
    tasks="classes",
    traits=("forward", "zero_when_learned", "suspects", "tokens"),
    evidence="instruction-tuning",
    computed_by="datadiet.scoring.forward:value_of",
    passes={"model": ["value"]},
)
def cross_entropy(logits: Tensor, labels: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """The loss: how surprised the model is by the label, in nats.

    `CE(x, y) = -log softmax(z)_y`; the sum over the classes of `-log sigmoid(+-z_c)` for multi-hot labels.

    Args:
        logits: `(..., classes)`, any float dtype.
        labels: Class numbers `(...)` in [0, classes), or multi-hot floats `(..., classes)`.
        mask: bool `(...)`: where it is False the value is 0 and the label may be anything.

    Returns:
        float32 `(...)` in [0, inf); 0 = certain and right.

    Raises:
        ArgumentError: If the shapes do not fit, naming both, a label that counts is no class, or for regression.

    Examples:
        >>> cross_entropy(torch.tensor([[0.0, 0.0]]), torch.tensor([1]))
        tensor([0.6931])

    Source: the `loss` baseline of Attendu and Corbeil 2023 (arXiv 2306.03208), without class weights or smoothing.
    """
    if is_multi_hot(logits, labels):
        return _counted(functional.softplus(-_signed("cross_entropy", logits, labels, mask)).sum(-1), mask)
    return _counted(functional.softplus(_gap("cross_entropy", logits, labels, mask)), mask)


@score(
    formula="largest logit of another class, minus the label's; above 0 = wrong",
    paper="Pleiss et al. 2020, arXiv 2001.10528, section 3.1, sign turned",
    inputs="logits, label",
    cost="nothing beyond that forward pass",
    loses="as el2n; logits grow in training, so values of different rounds are not on one scale",
    needs=("model",),
    tasks="classes",
    traits=("forward", "suspects", "tokens"),
    computed_by="datadiet.scoring.forward:value_of",
    passes={"model": ["value"]},
)
def margin(logits: Tensor, labels: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """How far the strongest other class stands above the label's own.

    `margin(x, y) = max_{c != y} z_c - z_y`; for multi-hot labels that of the worst class, `max_c (1 - 2 y_c) z_c`: the
    logit of a sigmoid is the logit of the wrong answer minus that of the right one, up to its sign.

    Args:
        logits: `(..., classes)`, any float dtype.
        labels: Class numbers `(...)` in [0, classes), or multi-hot floats `(..., classes)`.
        mask: bool `(...)`: where it is False the value is 0 and the label may be anything.

    Returns:
        float32 `(...)`, any sign; negative = right (in every class), by that much; positive = wrong.

    Raises:
        ArgumentError: If the shapes do not fit, naming both, a label that counts is no class, or for regression.

    Examples:
        >>> margin(torch.tensor([[3.0, 1.0, 0.0], [3.0, 1.0, 0.0]]), torch.tensor([0, 2]))
        tensor([-2.,  3.])

    Source: Pleiss et al. 2020 (arXiv 2001.10528), section 3.1, with the sign turned so that larger = harder; averaged
    over rounds (`history.mean`) it is the negative of their area under the margin.
    """
    if is_multi_hot(logits, labels):
        return _counted(-_signed("margin", logits, labels, mask).amin(-1), mask)
    scaled, gold = _classes("margin", logits, labels, mask)
    strongest = scaled.scatter(-1, gold, -torch.inf).amax(-1)
    return _counted(strongest - _at(scaled, gold), mask)


@score(
    formula="-sum_c p_c log p_c: unsure, whatever the label",
    paper="uncertainty sampling, Lewis and Gale 1994",
    inputs="logits only",
    cost="nothing beyond that forward pass",
    loses="on clean labels: what is certain and wrong counts as easy and never trains",
    needs=("model",),
    tasks="classes",
    traits=("forward", "tokens"),
    computed_by="datadiet.scoring.forward:value_of",
    passes={"model": ["value"]},
)
def entropy(logits: Tensor, labels: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """How undecided the model is, whatever the label says, in nats.

    `H(x) = -sum_c p_c log p_c` with `p = softmax(z)`; for multi-hot labels the sum of the entropies of the
    classes' sigmoids.

    Args:
        logits: `(..., classes)`, any float dtype.
        labels: Class numbers `(...)`, or multi-hot floats `(..., classes)`; only their shape is used.
        mask: bool `(...)`: where it is False the value is 0.

    Returns:
        float32 `(...)` in [0, log(classes)], multi-hot in [0, classes log 2]; 0 = certain, right or wrong.

    Raises:
        ArgumentError: If the shapes do not fit, naming both, or for regression.

    Examples:
        >>> entropy(torch.tensor([[0.0, 0.0]]), torch.tensor([1]))
        tensor([0.6931])

    Source: uncertainty sampling (Lewis and Gale 1994), as a label-free baseline.
    """
    if is_multi_hot(logits, labels):
        signed = _signed("entropy", logits, labels, mask)
        both = torch.special.entr(signed.sigmoid()) + torch.special.entr((-signed).sigmoid())
        return _counted(both.sum(-1), mask)
    _check_classes("entropy", logits, labels, mask)
    return _counted(torch.special.entr(_wide(logits).softmax(-1)).sum(-1), mask)


@score(
    formula="|z - y|, in units of the label",
    paper="ours: EL2N of a one-dimensional output",
    inputs="output, number",
    cost="nothing beyond that forward pass",
    loses="where the noise of the labels grows with the label: it prefers one end of the scale",
    needs=("model",),
    tasks="numbers",
    traits=("forward", "zero_when_learned"),
    computed_by="datadiet.scoring.forward:value_of",
    passes={"model": ["value"]},
)
def absolute_error(logits: Tensor, labels: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """Distance between a regression's output and its target.

    `|z - y|`

    Args:
        logits: `(..., 1)` or `(...)`, any float dtype.
        labels: Targets `(...)`, in the unit of the outputs.
        mask: bool `(...)`: where it is False the value is 0 and the target may be anything.

    Returns:
        float32 `(...)` in [0, inf); 0 = exact.

    Raises:
        ArgumentError: If the shapes do not fit, naming both.

    Examples:
        >>> absolute_error(torch.tensor([[2.0], [1.5]]), torch.tensor([1.0, 3.8]))
        tensor([1.0000, 2.3000])

    Source: EL2N's definition applied to a one-dimensional output trained on squared error. The published code puts a
    sigmoid around the output, which no such head is trained for.
    """
    outputs = _wide(logits)
    if outputs.shape == (*labels.shape, 1):
        outputs = outputs.squeeze(-1)  # (..., 1) -> (...)
    if outputs.shape != labels.shape:
        raise ArgumentError(
            f"a regression needs one output per target: got logits of shape {tuple(logits.shape)} for labels of shape "
            f"{tuple(labels.shape)}."
        )
    _check_mask(labels, mask)
    return _counted((outputs - labels.detach().to(outputs.dtype)).abs(), mask)


def gold_probability(logits: Tensor, labels: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """The probability that the model gives to the label: a recorded column, no score, since larger = easier.

    `p_y = softmax(z)_y`; for multi-hot labels the mean over the classes of the probability of the right answer.

    Args:
        logits: `(..., classes)`, any float dtype.
        labels: Class numbers `(...)` in [0, classes), or multi-hot floats `(..., classes)`.
        mask: bool `(...)`: where it is False the value is 0 and the label may be anything.

    Returns:
        float32 `(...)` in [0, 1]; 1 = certain and right.

    Raises:
        ArgumentError: If the shapes do not fit, naming both, a label that counts is no class, or for regression.

    Examples:
        >>> gold_probability(torch.tensor([[0.0, 0.0]]), torch.tensor([1]))
        tensor([0.5000])

    Source: Swayamdipta et al. 2020 (arXiv 2009.10795), section 2: averaged over epochs it is their confidence.
    """
    if is_multi_hot(logits, labels):
        return _counted(torch.sigmoid(_signed("gold_probability", logits, labels, mask)).mean(-1), mask)
    return _counted(torch.sigmoid(-_gap("gold_probability", logits, labels, mask)), mask)


def _signed(name: str, logits: Tensor, labels: Tensor, mask: Tensor | None) -> Tensor:
    """Log odds of each class's right answer, `(2 y_c - 1) z_c`: `(..., classes)`; 0 where the mask is False."""
    targets = labels.detach()
    if mask is not None:
        if mask.shape != labels.shape[:-1]:
            raise ArgumentError(
                f"the mask needs the labels' shape without the classes: got a mask of shape {tuple(mask.shape)} for "
                f"labels of shape {tuple(labels.shape)}."
            )
        targets = targets.masked_fill(~mask.bool().unsqueeze(-1), 0.0)
    # as for class numbers, not on an accelerator
    if targets.device.type == "cpu" and not bool(((targets == 0) | (targets == 1)).all()):
        raise ArgumentError(
            f"{name} reads floating-point labels of the logits' shape {tuple(labels.shape)} as multi-hot, 0 or 1 for "
            "each class; found other numbers. Several numbers to predict cannot be scored."
        )
    signed = torch.where(targets == 1, 1.0, -1.0) * _wide(logits)
    return signed if mask is None else signed.masked_fill(~mask.bool().unsqueeze(-1), 0.0)


def _gap(name: str, logits: Tensor, labels: Tensor, mask: Tensor | None) -> Tensor:
    """Log odds against the label: `log sum_{c != y} exp(z_c) - z_y`."""
    scaled, gold = _classes(name, logits, labels, mask)
    return scaled.scatter(-1, gold, -torch.inf).logsumexp(-1) - _at(scaled, gold)


def _classes(name: str, logits: Tensor, labels: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Checked logits `(..., classes)`, and labels `(..., 1)` that are 0 where they do not count."""
    _check_classes(name, logits, labels, mask)
    gold = labels.long() if mask is None else labels.long().masked_fill(~mask.bool(), 0)
    # On an accelerator the check would wait for the device at every training step.
    if gold.device.type == "cpu" and gold.numel():
        _check_range(name, gold, logits.shape[-1])
    return _wide(logits), gold.unsqueeze(-1)


def _check_range(name: str, gold: Tensor, classes: int) -> None:
    for label in (int(gold.min()), int(gold.max())):
        if not 0 <= label < classes:
            raise ArgumentError(
                f"{name} needs labels in [0, {classes}), found {label}. Give a mask that is False where a label does "
                "not count."
            )


def _check_classes(name: str, logits: Tensor, labels: Tensor, mask: Tensor | None) -> None:
    if labels.is_floating_point():
        raise ArgumentError(f"{name} needs class labels, got {labels.dtype}; score a regression by el2n: |z - y|.")
    if logits.shape[:-1] != labels.shape or logits.dim() == 0:
        raise ArgumentError(
            f"{name} needs logits (..., classes) and labels (...): got logits of shape {tuple(logits.shape)} for "
            f"labels of shape {tuple(labels.shape)}."
        )
    if logits.shape[-1] < 2:
        raise ArgumentError(f"{name} needs at least two classes, got logits of shape {tuple(logits.shape)}.")
    _check_mask(labels, mask)


def _check_mask(labels: Tensor, mask: Tensor | None) -> None:
    if mask is not None and mask.shape != labels.shape:
        raise ArgumentError(
            f"the mask needs the labels' shape: got a mask of shape {tuple(mask.shape)} for labels of shape "
            f"{tuple(labels.shape)}."
        )


def _wide(logits: Tensor) -> Tensor:
    """Logits in at least float32, cut off from the graph: `(...)` -> `(...)`."""
    return logits.detach() if logits.dtype == torch.float64 else logits.detach().float()


def _at(scaled: Tensor, gold: Tensor) -> Tensor:
    return scaled.gather(-1, gold).squeeze(-1)  # (..., classes) -> (...)


def _counted(values: Tensor, mask: Tensor | None) -> Tensor:
    """float32 values, 0 where the mask is False (also where they are nan)."""
    return values.float() if mask is None else values.float().masked_fill(~mask.bool(), 0.0)
