"""Influence: how much each example moves a mean loss, through the curvature of the training loss; and `effort`.

The inverse of the curvature is applied to one vector only, the mean gradient, since it is symmetric:
`<g_s, H^-1 m> = <H^-1 g_s, m>`. `influence` solves for that vector once, by conjugate gradients on products with `H`,
which is never built, and one pass in forward mode gives the inner product of each example.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse.linalg import LinearOperator, cg
from torch import Tensor, nn
from torch.func import functional_call, grad, hessian, jacrev, jvp, vjp

from datadiet.errors import ArgumentError
from datadiet.ledger import Ledger
from datadiet.registry import AtLeast, Positive, score
from datadiet.scoring import gradients
from datadiet.scoring.forward import Collate, in_eval_mode, token_count
from datadiet.scoring.gradients import Batch, Inputs, Losses, Parameters, chosen_parameters, without_labels
from datadiet.scoring.grand import batches, default_loss, grand, in_order
from datadiet.tasks.heads import Heads, head_layers

Curvature = Literal["gauss_newton", "fisher"]
Vector = NDArray[np.float64]
PARAMETERS = ("auto", *gradients.CHOICES)
# most parameters whose curvature is built and solved exactly, and most outputs of an example for that
EXACT_PARAMETERS, EXACT_OUTPUTS = 4_000, 128
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
        "over the last layer, three forward passes of n"
    ),
    loses="on a model at its optimum, where the mean gradient is noise; it prefers what resembles the bulk",
    needs=("model",),
    traits=("answers",),
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
        solver: `exact` builds `H`; `cg` never does; `auto` is exact up to 4,000 parameters and 128 outputs an example.
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
    own = {"dataset": dataset, "collate": collate, "sizes": {"batch_tokens": batch_tokens, "batch_size": batch_size}}
    if parameters == "auto":
        parameters = "lora" if has_adapters(model) else "last_layer"
    problem: _Problem
    if parameters == "last_layer" and loss is None and inputs is None:
        problem = _Problem.of_heads(model, curvature, **own)
    else:
        chosen = chosen_parameters(model, parameters)
        problem = _Problem(model, chosen, loss or default_loss(model), inputs or without_labels, curvature, **own)
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


def has_adapters(model: nn.Module) -> bool:
    """Whether weights of LoRA adapters train in the model."""
    return any(".lora_" in name and parameter.requires_grad for name, parameter in model.named_parameters())


# ---- the curvature of a loss over chosen parameters


class _Heads(nn.Module):
    """The last linear layers alone: from what they read to the named logits of the model."""

    def __init__(self, layers: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleDict(layers)

    def forward(self, **hidden: Tensor) -> dict[str, Tensor]:
        return {name: self.layers[name](given) for name, given in hidden.items()}


class _Problem:
    """Mean gradient, curvature and inner products of a loss over chosen parameters, as flat float64 vectors."""

    def __init__(
        self,
        model: nn.Module,
        chosen: Mapping[str, nn.Parameter],
        loss: Losses,
        inputs: Inputs,
        curvature: Curvature,
        *,
        dataset: Any,
        collate: Collate,
        sizes: dict[str, int],
    ) -> None:
        self.model, self.chosen, self.loss, self.inputs, self.curvature = model, dict(chosen), loss, inputs, curvature
        self.dataset, self.collate, self.sizes = dataset, collate, sizes
        self.size = sum(parameter.numel() for parameter in self.chosen.values())
        self.values = {name: parameter.detach() for name, parameter in self.chosen.items()}
        self._whole: nn.Module | None = None  # where the problem is one of the heads: the model around them
        self._heads: dict[str, str] = {}

    @classmethod
    def of_heads(cls, model: nn.Module, curvature: Curvature, **own: Any) -> _Problem:
        """Over the last layers: the model runs without gradients, and only its heads are derived."""
        gradients.last_layers(model)  # raises where there is none
        layers = head_layers(model)
        names = {"intent_logits": "intent", "slot_logits": "slots"} if "intent" in layers else {"logits": "tokens"}
        heads = _Heads({name: layers[head] for name, head in names.items()})
        chosen = {name: parameter for name, parameter in heads.named_parameters() if parameter.requires_grad}
        if not chosen:
            raise ArgumentError("parameters='last_layer': no weight of the last layer trains.")
        of_names = frozenset(names)
        problem = cls(
            heads,
            chosen,
            default_loss(model),
            lambda batch: {name: batch[f"{name}_of"] for name in of_names},
            curvature,
            **own,
        )
        problem._whole, problem._heads = model, names
        return problem

    def batches(
        self, dataset: Any, rows: NDArray[np.int64], ledger: Ledger | None = None
    ) -> Iterator[tuple[NDArray[np.int64], Batch]]:
        """Rows and batches; of the heads with what these read, `NAME_of`."""
        whole = self._whole or self.model
        for part, batch in batches(whole, dataset, self.collate, rows, self.sizes):
            if ledger is not None:
                ledger.count_scoring(len(part), token_count(batch))
            if self._whole is None:
                yield part, batch
                continue
            recorded = Heads(head_layers(whole))
            with in_eval_mode(whole), torch.no_grad(), recorded.recording():
                whole(**without_labels(batch))
            labels = {name: value for name, value in batch.items() if name in gradients.LABELS}
            yield part, labels | {f"{name}_of": recorded.inputs[head] for name, head in self._heads.items()}

    def mean_gradient(self, dataset: Any, rows: NDArray[np.int64], ledger: Ledger | None) -> Vector:
        """The gradient of the mean loss of rows."""
        total = np.zeros(self.size)
        for _, batch in self.batches(dataset, rows, ledger):
            with in_eval_mode(self.model), torch.enable_grad():
                total += _flat(gradients.summed_gradient(self.model, self.chosen, batch, self.loss, self.inputs))
        return total / len(rows)

    def products_with(
        self, rows: NDArray[np.int64], vector: Vector, ledger: Ledger | None
    ) -> Iterator[tuple[NDArray[np.int64], Tensor]]:
        """Inner products of each row's gradient with a vector, by batches."""
        direction = self._named(vector)
        for part, batch in self.batches(self.dataset, rows, ledger):
            with in_eval_mode(self.model):
                products = gradients.alignments(self.model, self.chosen, direction, batch, self.loss, self.inputs)
            yield part, products

    def product(self, material: list[tuple[NDArray[np.int64], Batch]], vector: Vector) -> Vector:
        """The mean curvature of some batches times a vector."""
        direction, total = self._named(vector), np.zeros(self.size)
        for _, batch in material:
            with in_eval_mode(self.model), gradients.derivable_attention():
                total += _flat(self._batch_product(batch, direction))
        return total / sum(len(part) for part, _ in material)

    def _batch_product(self, batch: Batch, direction: Mapping[str, Tensor]) -> dict[str, Tensor]:
        product: dict[str, Tensor]
        if self.curvature == "fisher":

            def losses(values: dict[str, Tensor]) -> Tensor:
                return gradients.losses_of(self.model, values, batch, self.loss, self.inputs)

            aligned = jvp(losses, (self.values,), (dict(direction),))[1]
            product = vjp(losses, self.values)[1](aligned)[0]
            return product
        forward, of_logits = self._parts(batch)
        pushed = jvp(forward, (self.values,), (dict(direction),))

        def summed(logits: dict[str, Tensor]) -> Tensor:
            return of_logits(logits).sum()

        curved = jvp(grad(summed), (pushed[0],), (pushed[1],))[1]
        product = vjp(forward, self.values)[1](curved)[0]
        return product

    def _parts(self, batch: Batch) -> tuple[Callable[..., Any], Callable[..., Tensor]]:
        """The loss in two: from the parameters to the logits by name, from these to the losses `(batch,)`."""
        given = self.inputs(batch)
        arguments, named = (given, {}) if isinstance(given, tuple) else ((), dict(given))
        kind: list[Any] = []

        def forward(values: dict[str, Tensor]) -> dict[str, Tensor]:
            outputs = functional_call(self.model, values, arguments, named)
            kind[:] = [type(outputs)]
            if isinstance(outputs, Tensor):
                return {"": outputs}
            logits = {name: value for name in _LOGITS if isinstance(value := _of(outputs, name), Tensor)}
            if not logits:
                raise ArgumentError(
                    f"the model's output {type(outputs).__name__} has no logits, which curvature='gauss_newton' is "
                    "derived by: take curvature='fisher'."
                )
            return logits

        def of_logits(logits: dict[str, Tensor]) -> Tensor:
            outputs = logits[""] if "" in logits else kind[0](**logits)
            return gradients.checked_losses(self.loss(outputs, batch), batch)

        return forward, of_logits

    def is_small(self, batch: Batch) -> bool:
        """Whether the curvature can be built: few parameters, and few outputs of an example."""
        if self.size > EXACT_PARAMETERS or self.curvature == "fisher":
            return self.size <= EXACT_PARAMETERS
        one = {name: value[:1] if isinstance(value, Tensor) and value.dim() else value for name, value in batch.items()}
        with in_eval_mode(self.model), torch.no_grad():
            logits = self._parts(one)[0](self.values)
        outputs: int = sum(value.numel() for value in logits.values())
        return outputs <= EXACT_OUTPUTS

    def matrix(self, material: list[tuple[NDArray[np.int64], Batch]]) -> Vector:
        """The mean curvature of some batches, `(p, p)`."""
        total = np.zeros((self.size, self.size))
        for _, batch in material:
            with in_eval_mode(self.model):
                left, right = self._factors(batch)
            total += left.T @ right
        return total / sum(len(part) for part, _ in material)

    def _factors(self, batch: Batch) -> tuple[Vector, Vector]:
        """Two matrices whose product, the first transposed, is the curvature summed over a batch."""
        if self.curvature == "fisher":
            rows = gradients.reduced_gradients(self.model, self.chosen, batch, self.loss, self.inputs, _joined)
            wide = rows.double().cpu().numpy()
            return wide, wide

        def of_one(row: Batch) -> tuple[Tensor, Tensor]:
            forward, of_logits = self._parts(row)
            logits = forward(self.values)
            sizes = {name: value.numel() for name, value in logits.items()}
            jacobian = jacrev(forward)(self.values)
            wide = torch.cat(
                [torch.cat([jacobian[z][w].reshape(sizes[z], -1) for w in self.values], 1) for z in logits]
            )  # (outputs, p)

            def loss(flat: Tensor) -> Tensor:
                parts = flat.split_with_sizes(list(sizes.values()))
                shaped = {z: part.reshape(logits[z].shape) for z, part in zip(logits, parts, strict=True)}
                return of_logits(shaped).sum()

            curved = hessian(loss)(torch.cat([value.flatten() for value in logits.values()]))
            return wide, curved @ wide

        pair = gradients.over_rows(self.model, batch, of_one, 8 * EXACT_OUTPUTS * self.size)
        left, right = (part.detach().flatten(0, 1).double().cpu().numpy() for part in pair)
        return left, right

    def _named(self, vector: Vector) -> dict[str, Tensor]:
        """A flat vector as tensors by the names of the parameters."""
        parts = np.split(vector, np.cumsum([value.numel() for value in self.values.values()])[:-1])
        return {
            name: torch.from_numpy(part).to(value).reshape(value.shape)
            for (name, value), part in zip(self.values.items(), parts, strict=True)
        }


_LOGITS = ("logits", "intent_logits", "slot_logits")


def _of(outputs: Any, name: str) -> Any:
    return outputs.get(name) if isinstance(outputs, Mapping) else getattr(outputs, name, None)


def _joined(gradient: Mapping[str, Tensor]) -> Tensor:
    return torch.cat([value.flatten() for value in gradient.values()])


def _flat(gradient: Mapping[str, Tensor]) -> Vector:
    return _joined(gradient).detach().double().cpu().numpy()


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
