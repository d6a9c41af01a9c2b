"""Scores that compare two models: with and without the input, trained on this and on other data, student and teacher.

The scores are pure functions of the outputs of both models; those of the second model are computed once and stored.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

import numpy as np
import torch  # noqa: F401  (the doctests use it)
from numpy.typing import ArrayLike, NDArray
from scipy.stats import median_abs_deviation, rankdata
from torch import Tensor
from torch.nn import functional

from datadiet.errors import ArgumentError
from datadiet.registry import Method, NotNegative, score
from datadiet.scores.logits import cross_entropy

_IRREDUCIBLE = Method(
    "score",
    "irreducible_loss",
    "loss(x, y) under a model trained on other data",
    paper="Mindermann et al. 2022 (RHO), arXiv 2206.07137",
    inputs="irreducible losses (computed once: datadiet score --holdout, or --folds)",
    cost="a training on hold-out data and a forward of n, once",
    loses="by itself: it ranks what cannot be learned first; reducible_loss and top_reducible take it off",
    needs=("holdout",),
    traits=("suspects",),
    preset=None,
    facts={"computed_by": "datadiet.scoring.forward:irreducible", "passes": {"holdout": ["loss"]}},
)


@score(
    formula="log2 p_null(y) - log2 p(y), in bits; above 0 = the input misleads",
    paper="Ethayarajh et al. 2022, arXiv 2110.08420, sign turned",
    inputs=(
        "logits of a model, and of one trained on empty inputs, both cross-fitted: datadiet score --folds K --epochs E"
    ),
    cost="two trainings per fold, one forward of n",
    loses="not cross-fitted it says nothing after about 2 epochs; beyond 10 % removed it falls below random on SNLI",
    needs=("null",),
    tasks="whole_text",
    named_alone=False,
    traits=("suspects",),
    computed_by="datadiet.scoring.forward:against_null",
    passes={"holdout": ["classes"]},
)
def negative_pvi(logits: Tensor, null_logits: Tensor, labels: Tensor) -> Tensor:
    """Pointwise V-information as a score, in bits: how little the input helps a model of this family to the label.

    `-PVI(x, y) = log2 f[null](y) - log2 f[x](y)`

    Args:
        logits: Of the model that sees the input, `(n, classes)`, any float dtype.
        null_logits: Of the model that was trained on, and sees, the empty input: `(n, classes)`, or `(classes,)` since
            they are the same for every example.
        labels: Class numbers `(n,)`.

    Returns:
        float32 `(n,)`, finite also for a probability of 0 in float32; larger = harder, above 0 = the input misleads.

    Raises:
        ArgumentError: If the shapes do not fit or a label is not a class.

    Examples:
        >>> negative_pvi(torch.tensor([[100.0, 0.0]]), torch.zeros(2), torch.tensor([0]))
        tensor([-1.])

    Source: Ethayarajh, Choi and Swayamdipta 2022 (arXiv 2110.08420), section 3.2, sign turned: their PVI is larger for
    easier examples. The reference code takes the log of a float32 probability, which is -inf where that underflows.
    """
    null = null_logits.expand(len(labels), -1) if null_logits.dim() == 1 else null_logits
    return (cross_entropy(logits, labels) - cross_entropy(null, labels)) / math.log(2)


@score(
    formula="loss(x, y) - loss under a model trained on other data",
    paper="Mindermann et al. 2022 (RHO), arXiv 2206.07137",
    inputs="logits, labels, irreducible losses (computed once: datadiet score --holdout, or --folds)",
    cost="a training on hold-out data and a forward of n, once",
    loses="its in-batch form saves steps, not time in proportion: every candidate has a forward",
    needs=("model", "holdout"),
    named_alone=False,
    computed_by="datadiet.scoring.forward:reducible",
    passes={"model": ["loss"], "holdout": ["loss"]},
)
def reducible_loss(logits: Tensor, labels: Tensor, irreducible: Tensor) -> Tensor:
    """How much of an example's loss can still be learned (RHO).

    `loss(x, y) - IL(x, y)`, IL being the loss under a model trained on other (hold-out) data.

    Args:
        logits: Of the model in training, `(n, classes)`, any float dtype.
        labels: Class numbers `(n,)`.
        irreducible: IL of the same examples, float `(n,)`; finite.

    Returns:
        float32 `(n,)`; larger = harder and learnable; low for learned examples, and for noise, whose IL is high.

    Raises:
        ArgumentError: If shapes do not fit, or IL is not finite, naming where.

    Examples:
        >>> reducible_loss(torch.zeros(1, 2), torch.tensor([0]), torch.tensor([0.5]))
        tensor([0.1931])

    Source: Mindermann et al. 2022 (arXiv 2206.07137), equation 3. The reference code selects with dropout on.
    """
    if irreducible.shape != labels.shape:
        raise ArgumentError(
            f"the irreducible loss needs one number per example: got shape {tuple(irreducible.shape)} for "
            f"{tuple(labels.shape)} labels."
        )
    if not bool(irreducible.isfinite().all()):
        bad = (~irreducible.isfinite()).nonzero().flatten().tolist()[:5]
        raise ArgumentError(f"the irreducible loss must be finite; it is not at the places {', '.join(map(str, bad))}.")
    return cross_entropy(logits, labels) - irreducible.to(logits.device).float()


@score(
    formula="|| p - p_teacher ||_2, in [0, sqrt 2]",
    paper="EL2N with soft labels",
    inputs="logits of a model and its teacher",
    cost="one forward of n with the teacher, once",
    loses="where the teacher is wrong as well",
    needs=("model", "teacher"),
    tasks="one_class",
    named_alone=False,
    traits=("suspects",),
    computed_by="datadiet.scoring.forward:against_teacher",
    passes={"model": ["classes"], "teacher": ["classes"]},
)
def teacher_el2n(logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Distance between the predictions of a model and its teacher: EL2N with the teacher's distribution as the label.

    `|| softmax(z) - softmax(t) ||_2`

    Args:
        logits, teacher_logits: `(..., classes)`, any float dtype.

    Returns:
        float32 `(...)` in [0, sqrt(2)]; larger = harder; the label is not used.

    Raises:
        ArgumentError: If the shapes differ.

    Examples:
        >>> teacher_el2n(torch.tensor([[0.0, 0.0]]), torch.tensor([[50.0, 0.0]]))
        tensor([0.7071])
    """
    _same_shape(logits, teacher_logits)
    difference = logits.detach().float().softmax(-1) - teacher_logits.detach().float().softmax(-1)
    return difference.square().sum(-1).sqrt()


@score(
    formula="KL(p_teacher || p), in nats",
    paper="Hinton et al. 2015, arXiv 1503.02531",
    inputs="logits of a model and its teacher",
    cost="one forward of n with the teacher, once",
    loses="no upper bound: a few certain disagreements outweigh everything in a mean",
    needs=("model", "teacher"),
    tasks="one_class",
    named_alone=False,
    traits=("suspects",),
    computed_by="datadiet.scoring.forward:against_teacher",
    passes={"model": ["classes"], "teacher": ["classes"]},
)
def teacher_divergence(logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Divergence of a model from its teacher, in nats: `KL(softmax(t) || softmax(z))`.

    Args:
        logits, teacher_logits: `(..., classes)`, any float dtype.

    Returns:
        float32 `(...)`, at least 0; larger = harder; the label is not used.

    Raises:
        ArgumentError: If the shapes differ.

    Examples:
        >>> teacher_divergence(torch.zeros(1, 2), torch.tensor([[50.0, 0.0]]))
        tensor([0.6931])

    Source: Hinton, Vinyals and Dean 2015 (arXiv 1503.02531), at temperature 1.
    """
    _same_shape(logits, teacher_logits)
    student, teacher = (part.detach().float().log_softmax(-1) for part in (logits, teacher_logits))
    return functional.kl_div(student, teacher, reduction="none", log_target=True).sum(-1).clamp_min(0)


def _same_shape(logits: Tensor, teacher_logits: Tensor) -> None:
    if logits.shape != teacher_logits.shape:
        raise ArgumentError(
            f"student and teacher need the same classes in the same order: got logits of shape {tuple(logits.shape)} "
            f"and {tuple(teacher_logits.shape)}."
        )


@score(
    formula="influence of a surrogate + weight * effort of the model, both as ranks in [0, 1]",
    paper="Lin et al. 2024 (DEALRec), SIGIR, arXiv 2401.17197, equation 7",
    inputs="a model, labels; a surrogate for the influence (--teacher), else the model itself",
    cost="influence with the surrogate, effort with the model; the training of the surrogate",
    loses="in the paper's own tables random is often second; where the surrogate reads the data unlike the model",
    needs=("model",),
    traits=("answers", "all_rows"),
    named_alone=False,
    reads=("teacher",),
    evidence="corpus-selection",
    computed_by="datadiet.scoring.influence:dealrec_of",
)
def dealrec(
    influence: ArrayLike,
    effort: ArrayLike,
    *,
    weight: Annotated[float, NotNegative] = 0.5,
    normalise: Literal["rank", "robust_z", "min_max"] = "rank",
) -> NDArray[np.float32]:
    """DEALRec: what helps the surrogate's mean loss most, and what the model itself has yet to learn.

    `normal(influence) + weight * normal(effort)`. Choose by it with strata of equal width, as published: `--select
    "ccs(beta=0, strata=50, edges=range)"`.

    Args:
        influence: `(n,)`, of `datadiet.scoring.influence` on a surrogate.
        effort: `(n,)`, of the model that will be trained.
        weight: Of the effort, at least 0; on the scale of the normalised values. Published: 0.3 to 1.
        normalise: `rank` (average ranks in [0, 1]); `robust_z`, `(v - median) / (1.4826 MAD)`; or `min_max`, as
            published, where one outlier flattens all others. Equal values are 0.

    Returns:
        float32 `(n,)`; larger = more wanted; the published selection covers the whole range of it.

    Raises:
        ArgumentError: If the lengths differ or a value is not finite.

    Examples:
        >>> dealrec([0.1, 0.3, 0.2], [5.0, 1.0, 2.0], weight=0.5).tolist()
        [0.5, 1.0, 0.75]

    Source: Lin et al. 2024 (arXiv 2401.17197), equation 7. The code uses min-max, which is 0 / 0 where all influences
    are equal, and first drops the tenth with the largest values, which the paper does not say.
    """
    parts = [np.asarray(part, np.float64) for part in (influence, effort)]
    if parts[0].shape != parts[1].shape or parts[0].ndim != 1:
        shapes = " and ".join(str(part.shape) for part in parts)
        raise ArgumentError(f"influence and effort must have one number per row, got the shapes {shapes}.")
    if not all(np.isfinite(part).all() for part in parts):
        raise ArgumentError("influence and effort must be finite numbers.")
    first, second = (_normal(part, normalise) for part in parts)
    return (first + weight * second).astype(np.float32)


def _normal(values: NDArray[np.float64], how: str) -> NDArray[np.float64]:
    if not values.size or np.ptp(values) == 0:
        return np.zeros(values.size)
    if how == "rank":
        return np.asarray((rankdata(values) - 1) / (values.size - 1), np.float64)
    if how == "min_max":
        return np.asarray((values - values.min()) / np.ptp(values), np.float64)
    spread = float(median_abs_deviation(values, scale="normal"))
    return np.asarray((values - np.median(values)) / (spread if spread > 0 else np.std(values)), np.float64)
