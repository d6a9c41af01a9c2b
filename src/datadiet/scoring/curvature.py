"""The curvature of a mean loss over chosen parameters: products with it, or the matrix itself where it is small.

The Gauss-Newton matrix `J^T (d^2 loss / dz^2) J`, J being the derivative of the outputs z, and the empirical Fisher
`g g^T` are positive semi-definite at any state of a model. A product takes one pass in forward mode and one backward,
so that neither is ever built for more than a few thousand parameters. Over the last layers of a model (`of_heads`) the
model itself runs without gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.func import functional_call, grad, hessian, jacrev, jvp, vjp

from datadiet.errors import ArgumentError
from datadiet.ledger import Ledger
from datadiet.scoring import gradients
from datadiet.scoring.forward import Collate, in_eval_mode, token_count
from datadiet.scoring.gradients import Batch, Inputs, Losses, Parameters, chosen_parameters, without_labels
from datadiet.scoring.grand import batches, default_loss
from datadiet.tasks.heads import Heads, head_layers

Curvature = Literal["gauss_newton", "fisher"]
Vector = NDArray[np.float64]
# most parameters whose curvature is built and solved exactly, and most work for that: outputs of an example times the
# square of the parameters, seconds for a thousand rows on one core
EXACT_PARAMETERS, EXACT_WORK = 4_000, 10**8


def has_adapters(model: nn.Module) -> bool:
    """Whether weights of LoRA adapters train in the model."""
    return any(".lora_" in name and parameter.requires_grad for name, parameter in model.named_parameters())


def usual_parameters(model: nn.Module, parameters: Parameters) -> Parameters:
    """What `auto` stands for: the adapters where the model has some, else the last layer; any other choice as it is."""
    if parameters != "auto":
        return parameters
    return "lora" if has_adapters(model) else "last_layer"


def objective_of(
    model: nn.Module,
    parameters: Parameters,
    *,
    loss: Losses | None = None,
    inputs: Inputs | None = None,
    curvature: Curvature = "gauss_newton",
    **own: Any,
) -> Objective:
    """The mean loss of a model over a choice of its parameters, `auto` included; `own` are arguments of `Objective`.

    Raises:
        ArgumentError: If the choice is unknown or no parameter is left.
    """
    parameters = usual_parameters(model, parameters)
    if parameters == "last_layer" and loss is None and inputs is None:
        return Objective.of_heads(model, curvature, **own)
    chosen = chosen_parameters(model, parameters)
    return Objective(model, chosen, loss or default_loss(model), inputs or without_labels, curvature, **own)


class _Heads(nn.Module):
    """The last linear layers alone: from what they read to the named logits of the model."""

    def __init__(self, layers: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.layers = nn.ModuleDict(layers)

    def forward(self, **hidden: Tensor) -> dict[str, Tensor]:
        return {name: self.layers[name](given) for name, given in hidden.items()}


class Objective:
    """A mean loss over chosen parameters: its gradient, its curvature, and inner products with those of its rows.

    Vectors are flat and float64, in the order of the parameters.

    Args:
        model: Of the forward passes.
        chosen: Parameters by name.
        loss, inputs: See `datadiet.scoring.grand`.
        curvature: Of the products: `gauss_newton` or `fisher`.
        dataset: Map-style, the rows whose curvature and inner products are computed.
        collate: Items to a batch.
        sizes: `batch_tokens` and `batch_size`.

    Attributes:
        size: How many numbers a gradient has.
    """

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
    def of_heads(cls, model: nn.Module, curvature: Curvature, **own: Any) -> Objective:
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
                total += flat(gradients.summed_gradient(self.model, self.chosen, batch, self.loss, self.inputs))
        return total / len(rows)

    def products_with(
        self, rows: NDArray[np.int64], vector: Vector, ledger: Ledger | None
    ) -> Iterator[tuple[NDArray[np.int64], Tensor]]:
        """Inner products of each row's gradient with a vector, by batches."""
        direction = self.named(vector)
        for part, batch in self.batches(self.dataset, rows, ledger):
            with in_eval_mode(self.model):
                products = gradients.alignments(self.model, self.chosen, direction, batch, self.loss, self.inputs)
            yield part, products

    def product(self, material: list[tuple[NDArray[np.int64], Batch]], vector: Vector) -> Vector:
        """The mean curvature of some batches times a vector."""
        direction, total = self.named(vector), np.zeros(self.size)
        for _, batch in material:
            with in_eval_mode(self.model), gradients.derivable_attention():
                total += flat(self._batch_product(batch, direction))
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
        return self.size <= EXACT_PARAMETERS and self._outputs(batch) * self.size**2 <= EXACT_WORK

    def _outputs(self, batch: Batch) -> int:
        """How many outputs an example has; of the Fisher, which is made of losses, one."""
        if self.curvature == "fisher":
            return 1
        one = {name: value[:1] if isinstance(value, Tensor) and value.dim() else value for name, value in batch.items()}
        with in_eval_mode(self.model), torch.no_grad():
            logits = self._parts(one)[0](self.values)
        return int(sum(value.numel() for value in logits.values()))

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
            rows = gradients.reduced_gradients(self.model, self.chosen, batch, self.loss, self.inputs, joined)
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

            def loss(values: Tensor) -> Tensor:
                parts = values.split_with_sizes(list(sizes.values()))
                shaped = {z: part.reshape(logits[z].shape) for z, part in zip(logits, parts, strict=True)}
                return of_logits(shaped).sum()

            curved = hessian(loss)(torch.cat([value.flatten() for value in logits.values()]))
            return wide, curved @ wide

        pair = gradients.over_rows(self.model, batch, of_one, 8 * self._outputs(batch) * self.size)
        left, right = (part.detach().flatten(0, 1).double().cpu().numpy() for part in pair)
        return left, right

    def named(self, vector: Vector) -> dict[str, Tensor]:
        """A flat vector as tensors by the names of the parameters."""
        parts = np.split(vector, np.cumsum([value.numel() for value in self.values.values()])[:-1])
        return {
            name: torch.from_numpy(part).to(value).reshape(value.shape)
            for (name, value), part in zip(self.values.items(), parts, strict=True)
        }


_LOGITS = ("logits", "intent_logits", "slot_logits")


def _of(outputs: Any, name: str) -> Any:
    return outputs.get(name) if isinstance(outputs, Mapping) else getattr(outputs, name, None)


def joined(gradient: Mapping[str, Tensor]) -> Tensor:
    """The parts of a gradient as one vector."""
    return torch.cat([value.flatten() for value in gradient.values()])


def flat(gradient: Mapping[str, Tensor]) -> Vector:
    """The same as float64 numbers."""
    return joined(gradient).detach().double().cpu().numpy()
