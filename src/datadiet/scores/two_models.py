"""Scores that compare two models: with and without the input, trained on this and on other data, student and teacher.

The second model's part is computed once and kept; the scores here are pure functions of what both say.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import torch  # noqa: F401  (the doctests use it)
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from datadiet.errors import ArgumentError, Problems
from datadiet.registry import Method, score
from datadiet.scores.logits import cross_entropy

FitAndScore = Callable[[NDArray[np.int64], NDArray[np.int64]], NDArray[np.floating]]


def pvi(logits: Tensor, null_logits: Tensor, labels: Tensor) -> Tensor:
    """Pointwise V-information as published, in bits: how much the input helps a model of this family to the label.

    `PVI(x, y) = log2 f[x](y) - log2 f[null](y)`: larger = EASIER, below 0 the input misleads. The score is
    `negative_pvi`.

    Args:
        logits: Of the model that sees the input, `(n, classes)`, any float dtype.
        null_logits: Of the model that was trained on, and sees, the empty input: `(n, classes)`, or `(classes,)` since
            it says the same of every example.
        labels: Class numbers `(n,)`.

    Returns:
        float32 `(n,)`, finite also for a probability of 0 in float32.

    Raises:
        ArgumentError: If the shapes do not fit or a label is no class.

    Example:
        >>> pvi(torch.tensor([[100.0, 0.0]]), torch.zeros(2), torch.tensor([0]))
        tensor([1.])

    Source: Ethayarajh, Choi and Swayamdipta 2022 (arXiv 2110.08420), section 3.2. The reference code takes the log of a
    float32 probability, which is -inf where that underflows.
    """
    return -negative_pvi(logits, null_logits, labels)


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
)
def negative_pvi(logits: Tensor, null_logits: Tensor, labels: Tensor) -> Tensor:
    """Pointwise V-information as a score, in bits: larger = harder, above 0 = the input misleads the model.

    `-PVI(x, y) = log2 f[null](y) - log2 f[x](y)`

    Args:
        logits, null_logits, labels: See `pvi`.

    Returns:
        float32 `(n,)`.

    Raises:
        ArgumentError: If the shapes do not fit or a label is no class.

    Example:
        >>> negative_pvi(torch.tensor([[0.0, 0.0]]), torch.tensor([0.0, 0.0]), torch.tensor([1]))
        tensor([0.])
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
)
def reducible_loss(logits: Tensor, labels: Tensor, irreducible: Tensor) -> Tensor:
    """How much of an example's loss can still be learned (RHO).

    `loss(x, y) - IL(x, y)`, IL being the loss under a model trained on other (hold-out) data.

    Args:
        logits: Of the model in training, `(n, classes)`, any float dtype.
        labels: Class numbers `(n,)`.
        irreducible: IL of the same examples, float `(n,)`; finite.

    Returns:
        float32 `(n,)`; larger = harder and worth learning; low for what is learned, and for noise, whose IL is high.

    Raises:
        ArgumentError: If shapes do not fit, or IL is not finite, naming where.

    Example:
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


def largest_reducible(values: Tensor, count: int) -> Tensor:
    """The places of the `count` largest reducible losses of a large batch: what RHO trains on, 32 of 320 as published.

    Args:
        values: float `(batch,)`.
        count: From 1 to the batch size.

    Returns:
        int64 `(count,)`, ascending; of equal values the first stand first.

    Raises:
        ArgumentError: If `count` does not fit.

    Example:
        >>> largest_reducible(torch.tensor([0.1, 3.0, -2.0, 3.0]), 2)
        tensor([1, 3])
    """
    if not 1 <= count <= len(values):
        raise ArgumentError(f"count must be from 1 to {len(values)}, the size of the batch, got {count}.")
    return values.argsort(descending=True, stable=True)[:count].sort().values


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
)
def teacher_el2n(logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Distance between what a model and its teacher predict: EL2N with the teacher's distribution for a label.

    `|| softmax(z) - softmax(t) ||_2`

    Args:
        logits, teacher_logits: `(..., classes)`, any float dtype.

    Returns:
        float32 `(...)` in [0, sqrt(2)]; larger = harder, whatever the label says.

    Raises:
        ArgumentError: If the shapes differ.

    Example:
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
)
def teacher_divergence(logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """What a model still misses of its teacher, in nats: `KL(softmax(t) || softmax(z))`.

    Args:
        logits, teacher_logits: `(..., classes)`, any float dtype.

    Returns:
        float32 `(...)`, at least 0; larger = harder, whatever the label says.

    Raises:
        ArgumentError: If the shapes differ.

    Example:
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


def stratified_folds(
    groups: NDArray[np.int64], folds: int, seed: int = 0
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Split rows into folds that hold the same share of every class.

    Args:
        groups: Class numbers `(n,)`; all 0 where there are none.
        folds: At least 2, at most n.
        seed: Of the shuffle within each class.

    Yields:
        `(training rows, held-out rows)`, int64, ascending; every row is held out once. A class smaller than the number
        of folds is missing from some of them.

    Raises:
        ArgumentError: If the number of folds does not fit.

    Example:
        >>> [held.tolist() for _, held in stratified_folds(np.array([0, 0, 1, 1]), 2)]
        [[0, 2], [1, 3]]
    """
    problems = Problems()
    problems.whole("folds", folds, least=2)
    problems.raise_any()
    if folds > len(groups):
        raise ArgumentError(f"folds must be at most the {len(groups)} examples, got {folds}.")
    generator = np.random.default_rng([seed, 0])
    shuffled = generator.permutation(len(groups))
    by_class = shuffled[np.argsort(np.asarray(groups)[shuffled], kind="stable")]
    fold = np.empty(len(groups), np.int64)
    # dealt out on and on, class after class, so that folds also differ by one row at most
    fold[by_class] = np.arange(len(groups)) % folds
    for number in range(folds):
        yield np.flatnonzero(fold != number), np.flatnonzero(fold == number)


def cross_fit(
    groups: NDArray[np.int64], fit_and_score: FitAndScore, *, folds: int = 5, seed: int = 0
) -> NDArray[np.float32]:
    """Score every row by a model that has not trained on it.

    In-sample PVI and losses of a memorised training set say nothing: everything is easy there.

    Args:
        groups: Class numbers `(n,)`; all 0 where there are none.
        fit_and_score: `(training rows, held-out rows) -> values` of the held-out rows, in their order; trains with
            whatever trainer.
        folds, seed: See `stratified_folds`.

    Returns:
        float32 `(n,)`.

    Raises:
        ArgumentError: If the number of folds does not fit, or a fold's values have another length or are not finite,
            naming rows.

    Example:
        >>> means = lambda train, held: np.full(len(held), train.mean())
        >>> cross_fit(np.zeros(4, np.int64), means, folds=2).sum().item()
        6.0
    """
    values = np.empty(len(groups), np.float32)
    for number, (training, held) in enumerate(stratified_folds(groups, folds, seed)):
        found = np.asarray(fit_and_score(training, held), np.float32)
        if found.shape != held.shape:
            raise ArgumentError(f"fold {number} needs one value per held-out row, {held.shape}, got {found.shape}.")
        if len(bad := held[~np.isfinite(found)]):
            raise ArgumentError(
                f"values must be finite; fold {number} has others at rows {', '.join(map(str, bad[:5]))}."
            )
        values[held] = found
    return values
