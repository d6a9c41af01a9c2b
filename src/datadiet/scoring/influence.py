"""Influence: how much each example moves a mean loss, through the curvature of the training loss; and `effort`.

The inverse of the curvature is applied to one vector only, the mean gradient, since it is symmetric:
`<g_s, H^-1 m> = <H^-1 g_s, m>`. `influence` solves for that vector once, by conjugate gradients on products with `H`,
which is never built, and one pass in forward mode gives the inner product of each example.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.sparse.linalg import LinearOperator, cg
from torch import nn

from datadiet.errors import ArgumentError
from datadiet.ledger import Ledger
from datadiet.registry import AtLeast, Positive, load, score
from datadiet.scoring import gradients
from datadiet.scoring.curvature import Vector, has_adapters, objective_of
from datadiet.scoring.forward import Collate
from datadiet.scoring.gradients import Inputs, Losses, Parameters
from datadiet.scoring.grand import grand, in_order
from datadiet.scoring.inputs import ScoringInputs, Shared, Values

PARAMETERS = ("auto", *gradients.CHOICES)
_SAMPLE_STREAM = 31


@dataclass(frozen=True)
class Influence:
    """The result of `influence`.

    Attributes:
        values: float32 `(n,)` in the order of the rows; larger = the example's removal raises the mean loss more.
        residual: `||(H + damping I) v - m|| / ||m||` of the vector that the values were made with.
        solver: `exact` or `cg`.
        iterations: Of the conjugate gradients; 0 of an exact solution.
        parameters: How many numbers the gradients have.
    """

    values: NDArray[np.float32]
    residual: float
    solver: str
    iterations: int
    parameters: int

    def describe(self) -> dict[str, Any]:
        """How the values were made, in plain values."""
        made = {"solver": self.solver, "residual": float(f"{self.residual:.2g}"), "parameters": self.parameters}
        return made | ({"iterations": self.iterations} if self.iterations else {})


@score(
    formula="<grad loss, (H + damping I)^-1 mean grad loss> / n^2, H the Gauss-Newton matrix or the empirical Fisher",
    paper="Koh and Liang 2017, arXiv 1703.04730; on the empirical risk: Lin et al. 2024 (DEALRec), arXiv 2401.17197",
    inputs="a model, labels",
    cost=(
        "a backward and a forward-mode pass of n; conjugate gradients: about 5 forward passes of `sample` rows a step; "
        "over the last layer, two forward passes of n"
    ),
    loses="on a model at its optimum, where the mean gradient is noise; it prefers what resembles the bulk",
    needs=("model",),
    traits=("answers", "all_rows"),
    evidence="corpus-selection",
    computed_by="datadiet.scoring.influence:influence_of",
)
def influence(
    model: nn.Module,
    dataset: Any,
    collate: Collate,
    *,
    rows: NDArray[np.int64] | None = None,
    target: Any = None,
    target_rows: NDArray[np.int64] | None = None,
    parameters: Annotated[Parameters, PARAMETERS] = "auto",
    curvature: Literal["gauss_newton", "fisher"] = "gauss_newton",
    solver: Literal["auto", "cg", "exact"] = "auto",
    damping: Annotated[float, Positive] = 0.25,
    iterations: Annotated[int, AtLeast(1)] = 50,
    sample: Annotated[int, AtLeast(1)] = 1000,
    tolerance: float = 1e-4,
    loss: Losses | None = None,
    inputs: Inputs | None = None,
    batch_tokens: int = 2048,
    batch_size: int = 32,
    seed: int = 0,
    ledger: Ledger | None = None,
) -> Influence:
    """Influence of each example's removal on a mean loss, of the data themselves or of a target.

    `I(s) = (1 / n^2) <g_s, (H + damping I)^-1 m>`, with `g_s` the gradient of the example's loss over the chosen
    parameters, `m` the mean gradient of the target, and `H` the mean over the data of the Gauss-Newton matrix
    `J^T (d^2 loss / dz^2) J` (J: of the outputs z; the Hessian where these are linear in the parameters), or of
    `g g^T`, the empirical Fisher. Both are positive semi-definite, so that the solution exists at any state of the
    model, with or without an optimum. Eval mode; the same for any batch and padding.

    Args:
        model: On its device; a transformers model or any module.
        dataset: Map-style; its rows are scored, and are what `H` is a mean over.
        collate: Items to a batch: a mapping of tensors with the examples along their first axis.
        rows: int64 `(n,)`; all rows by default.
        target: Map-style; whose mean loss counts: that of the rows by default, the empirical risk. A dev set gives the
            influence of Koh and Liang.
        target_rows: int64; all rows of the target by default.
        parameters: `auto` (the adapters where the model has some, else the last layer), `all`, `last_layer`, `lora`, or
            a function of a parameter's name.
        curvature: `gauss_newton`, or `fisher` for losses that are not made of logits.
        solver: `exact` builds `H`; `cg` never does; `auto` is exact up to 4,000 parameters, or fewer
            where an example has many outputs: up to 1e8 of outputs times squared parameters.
        damping: Above 0, in the units of H.
        iterations: Conjugate gradients end after so many steps, or at a relative residual of `tolerance`.
        sample: Rows that `H` is a mean over, drawn by the seed; all where there are fewer.
        tolerance: See `iterations`.
        loss: `(outputs, batch) -> (batch,)`, one loss per example; recognised from names by default. Of a language
            model the mean over the tokens of the answer.
        inputs, batch_tokens, batch_size: See `grand`.
        seed: Of the sample.
        ledger: Counts the examples and tokens of the passes over the rows as scoring.

    Returns:
        The values, larger = more wanted: without the example the mean loss would be higher. Negative: harmful, such as
        a wrong label. The residual says how well the system was solved.

    Raises:
        ArgumentError: If an option is unknown, no parameter is chosen, the loss is not one per example, the outputs
            have no logits, the target is empty, or a value is not finite, naming rows.

    Examples:
        >>> import torch
        >>> model = nn.Linear(2, 2)
        >>> data = [{"x": torch.ones(2), "labels": torch.tensor(row)} for row in (0, 1)]
        >>> stack = lambda items: {name: torch.stack([item[name] for item in items]) for name in items[0]}
        >>> influence(model, data, stack, parameters="all", inputs=lambda batch: (batch["x"],)).values.shape
        (2,)

    Source: Koh and Liang 2017 (arXiv 1703.04730); DEALRec (Lin et al. 2024, arXiv 2401.17197), equations 3 to 5, whose
    sign and factor these are. Its code takes one matrix of 64 x 64, estimates by LiSSA with Hessians of single samples,
    which need not converge, and its damping of 0.01 acts as a ridge of 0.25, the default here.
    """
    every = np.arange(len(dataset), dtype=np.int64) if rows is None else np.asarray(rows, np.int64)
    problem = objective_of(
        model,
        parameters,
        loss=loss,
        inputs=inputs,
        curvature=curvature,
        dataset=dataset,
        collate=collate,
        sizes={"batch_tokens": batch_tokens, "batch_size": batch_size},
    )
    if not len(every):
        return Influence(np.empty(0, np.float32), 0.0, "exact", 0, problem.size)
    if target is None:
        mean = problem.mean_gradient(dataset, every, ledger)
    else:
        aims = np.arange(len(target), dtype=np.int64) if target_rows is None else np.asarray(target_rows, np.int64)
        if not len(aims):
            raise ArgumentError("influence needs a target with at least one example.")
        mean = problem.mean_gradient(target, aims, None)
    drawn = every
    if len(every) > sample:
        drawn = np.sort(np.random.default_rng([seed, _SAMPLE_STREAM]).choice(every, sample, replace=False))
    material = list(problem.batches(dataset, drawn))
    exact = problem.is_small(material[0][1]) if solver == "auto" else solver == "exact"
    if exact:
        solved = _solved(problem.matrix(material) + damping * np.eye(problem.size), mean)
    else:
        solved = conjugate_gradients(
            lambda vector: problem.product(material, vector) + damping * vector, mean, iterations, tolerance
        )
    vector, residual, steps = solved
    values = in_order(problem.products_with(every, vector, ledger), every)
    scaled = (values.astype(np.float64) / len(every) ** 2).astype(np.float32)
    return Influence(scaled, residual, "exact" if exact else "cg", steps, problem.size)


def conjugate_gradients(
    product: Callable[[Vector], Vector], right: Vector, iterations: int, tolerance: float
) -> tuple[Vector, float, int]:
    """Solve `A x = b` for a symmetric positive definite `A` that is known by its products only.

    Args:
        product: `x -> A x`, float64 `(p,)`.
        right: `b`.
        iterations: Most steps.
        tolerance: Ends at this relative residual.

    Returns:
        `x`, its relative residual `||A x - b|| / ||b||` by one more product, and the steps.

    Examples:
        >>> conjugate_gradients(lambda x: np.array([2.0, 4.0]) * x, np.array([2.0, 2.0]), 9, 1e-12)[0]
        array([1. , 0.5])

    Source: Hestenes and Stiefel 1952, by SciPy.
    """
    steps = 0

    def count(_: Vector) -> None:
        nonlocal steps
        steps += 1

    operator = LinearOperator((right.size, right.size), matvec=product, dtype=np.float64)
    vector, _ = cg(operator, right, rtol=tolerance, atol=0.0, maxiter=iterations, callback=count)
    return vector, _residual(product(vector), right), steps


def _solved(matrix: Vector, right: Vector) -> tuple[Vector, float, int]:
    vector = np.asarray(np.linalg.solve(matrix, right), np.float64)
    return vector, _residual(matrix @ vector, right), 0


def _residual(reached: Vector, right: Vector) -> float:
    size = float(np.linalg.norm(right))
    return float(np.linalg.norm(reached - right)) / size if size else 0.0


# ---- effort


@score(
    formula="|| grad_w loss ||_2 over the weights that train, the adapters where there are some; language models too",
    paper="Lin et al. 2024 (DEALRec), arXiv 2401.17197, equation 6",
    inputs="a model, labels",
    cost="one forward and backward of n, layer by layer; through torch.func where layers are not linear: several times",
    loses="where losses are noise: wrong labels and broken answers take the most effort; short answers over long ones",
    options_of=grand,
    needs=("model",),
    traits=("answers", "suspects"),
    evidence="corpus-selection",
    computed_by="datadiet.scoring.influence:effort_of",
)
def effort(model: nn.Module, dataset: Any, collate: Collate, **options: Any) -> NDArray[np.float32]:
    """The effort score of DEALRec: how far one step on each example moves the weights that are trained.

    `|| grad_w loss ||_2`, which is GraNd (`grand`) over the trainable weights: those of LoRA adapters where the model
    has some. Of a language model the loss is the mean over the tokens of the answer; the prompt does not count. Eval
    mode; the same for any batch and padding.

    Args:
        model, dataset, collate: See `grand`.
        options: Of `grand`: `rows`, `parameters`, `loss`, ...

    Returns:
        float32 `(n,)`, at least 0; larger = harder: the end that the paper prefers, after very few of the hardest.

    Raises:
        ArgumentError: As `grand`.

    Source: Lin et al. 2024 (arXiv 2401.17197), equation 6. Its code accumulates the gradients of a batch, so that with
    more than one example each has the same value, leaves dropout on, and counts prompt and padding.
    """
    return grand(model, dataset, collate, **({"parameters": "lora" if has_adapters(model) else "all"} | options))


def effort_of(name: str, inputs: ScoringInputs, _shared: Shared) -> Values:
    """Effort of a split."""
    assert inputs.model is not None  # checked by check_needs
    options = gradients.options_for(name, inputs)
    return effort(inputs.model, inputs.features, inputs.collate, ledger=inputs.ledger, **options)


def influence_of(name: str, inputs: ScoringInputs, shared: Shared) -> Values:
    """Influence of a split, and how well its system was solved."""
    return _influence_by("model", name, inputs, shared, gradients.options_for(name, inputs))


def dealrec_of(name: str, inputs: ScoringInputs, shared: Shared) -> Values:
    """Influence, by the teacher where there is one, together with effort."""
    own = gradients.options_for(name, inputs)
    sizes = {"batch_tokens": own.pop("batch_tokens")}
    influences = _influence_by("model" if inputs.teacher is None else "teacher", name, inputs, shared, sizes)
    assert inputs.model is not None  # checked by check_needs
    efforts = effort(inputs.model, inputs.features, inputs.collate, ledger=inputs.ledger, **sizes)
    values: Values = load("score", name)(influences, efforts, **own)
    return values


def _influence_by(role: str, name: str, inputs: ScoringInputs, shared: Shared, options: Mapping[str, Any]) -> Values:
    model, rows = getattr(inputs, role), inputs.rows_for(role)
    result = influence(model, rows.features, rows.collate, seed=inputs.seed, ledger=inputs.ledger, **options)
    shared.details[name] = dict(result.describe())
    return result.values
