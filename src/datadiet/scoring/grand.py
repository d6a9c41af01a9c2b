"""GraNd: the norm of each example's gradient, exactly, for whole batches at a time.

Over the last layer it follows in closed form from a forward pass (`last_layer_pass`). Over other parameters it takes
one backward pass per batch, layer by layer (`ghost_norms`), or else torch.func (`gradients`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from typing import Annotated, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from datadiet.errors import ArgumentError
from datadiet.ledger import Ledger
from datadiet.registry import score
from datadiet.scores.last_layer import signals_grand
from datadiet.scores.tokens import with_logits
from datadiet.scoring import gradients
from datadiet.scoring.forward import Batch as PassBatch
from datadiet.scoring.forward import (
    Collate,
    autocast,
    batches_by_length,
    fetch,
    forward_pass,
    in_eval_mode,
    lengths_of,
    to_device,
    token_count,
)
from datadiet.scoring.ghost_norms import Layers, NotLayerwiseError
from datadiet.scoring.gradients import (
    CHOICES,
    Batch,
    Inputs,
    Losses,
    Parameters,
    answer_losses,
    chosen_parameters,
    example_losses,
    last_layers,
    without_labels,
)
from datadiet.scoring.inputs import ScoringInputs, Shared, Values
from datadiet.tasks.heads import Heads, head_layers, is_causal
from datadiet.tasks.reading import Reader
from datadiet.types import HeadSignals, Signals


def last_layer_pass(
    model: nn.Module, dataset: Any, collate: Collate, **options: Any
) -> Iterator[tuple[NDArray[np.int64], Signals, bool]]:
    """One forward pass without gradients that also records the inputs of the last linear layers.

    Args:
        model, dataset, collate: See `forward_pass`.
        options: Of `forward_pass`: `rows`, `batch_tokens`, `precision`, ...

    Yields:
        `(rows, signals with hidden, whether the last layers have a bias)`.

    Raises:
        ArgumentError: If the model has no last linear layer that can be identified.
    """
    bias = all(layer.bias is not None for layer in last_layers(model))
    heads, read = Heads(head_layers(model)), Reader(model)

    def call(batch: PassBatch) -> Any:
        with heads.recording():
            return model(**batch)

    for part, outputs, batch in forward_pass(model, dataset, collate, call=call, **options):
        signals = heads.signals(read(outputs, batch))
        classes = with_logits(signals, "the gradient of the last layer")
        yield part, Signals({name: _masked(head) for name, head in classes.items()}), bias


def head_weights(model: nn.Module, signals: Signals) -> dict[str, float] | None:
    """The weight of each head in the loss of a joint model; None for a model with one head."""
    if set(signals.heads) != {"intent", "slots"}:
        return None
    alpha = float(getattr(getattr(model, "config", None), "alpha", 0.5))
    return {"intent": alpha, "slots": 1 - alpha}


def _masked(head: HeadSignals) -> HeadSignals:
    """The head with a mask that excludes examples without a label (-100)."""
    if head.mask is not None or head.labels.is_floating_point():
        return head
    return replace(head, mask=head.labels >= 0)


# The largest relative difference of a layer's squared norm from that of autograd, on two examples
TOLERANCE = 1e-3


@score(
    formula="|| grad_w loss ||_2 over all or chosen weights; last layer: ||p - y|| sqrt(1 + ||h||^2)",
    paper="Paul, Ganguli and Dziugaite 2021, arXiv 2107.07075, section 2.1",
    inputs="a model, labels",
    cost="one forward and backward of n; last layer: one forward",
    loses="before training, where it did not reproduce; on noisy labels, which it ranks hardest",
    needs=("model",),
    traits=("suspects",),
    computed_by="datadiet.scoring.grand:grand_of",
)
def grand(
    model: nn.Module,
    dataset: Any,
    collate: Collate,
    *,
    rows: NDArray[np.int64] | None = None,
    parameters: Annotated[Parameters, CHOICES] = "all",
    loss: Losses | None = None,
    inputs: Inputs | None = None,
    batch_tokens: int = 2048,
    batch_size: int = 32,
    precision: str = "fp32",
    method: Literal["auto", "layers", "func"] = "auto",
    ledger: Ledger | None = None,
) -> NDArray[np.float32]:
    """Gradient norm of each example's loss, in eval mode, the same for any batch and padding.

    `GraNd(x, y) = || grad_w L(f_w(x), y) ||_2` over the chosen parameters `w` that train.

    `last_layer` with the default loss is a closed form: one forward pass without gradients. Otherwise linear layers,
    embeddings and layer norms are taken layer by layer from one backward pass per batch, and two examples are checked
    against autograd. Models for which this is not exact go through `torch.func`: vmap over per-example gradients,
    several times slower.

    Args:
        model: On its device; a transformers model or any module.
        dataset: Map-style.
        collate: Items to a batch: a mapping of tensors with the examples along their first axis.
        rows: int64 `(n,)`; all rows by default.
        parameters: `all`; `last_layer` of each head; `lora`, those of adapters; or a function of a parameter's name.
        loss: `(outputs, batch) -> (batch,)`, one loss per example; recognised from names by default
            (`datadiet.scoring.gradients.example_losses`).
        inputs: From a batch to the model's arguments, a mapping of keywords or a tuple; all but the labels by default.
        batch_tokens, batch_size: Most padded tokens of a batch; examples where lengths are unknown.
        precision: Of the autocast: `fp32`, `bf16` or `fp16`; norms are summed in float32.
        method: `auto`, `layers` (refused where it is not exact) or `func`.
        ledger: Counts the examples and tokens as scoring.

    Returns:
        float32 `(n,)` in the order of the rows, at least 0; larger = harder.

    Raises:
        ArgumentError: If an option is unknown, no parameter is chosen, the loss is not one per example, torch.func
            cannot map over the model, or a norm is not finite, naming rows.

    Examples:
        >>> model = nn.Linear(2, 2)
        >>> data = [{"x": torch.ones(2), "labels": torch.tensor(row)} for row in (0, 1)]
        >>> stack = lambda items: {name: torch.stack([item[name] for item in items]) for name in items[0]}
        >>> grand(model, data, stack, inputs=lambda batch: (batch["x"],)).shape
        (2,)

    Source: Paul, Ganguli and Dziugaite 2021 (arXiv 2107.07075), section 2.1, at one state of the model instead of a
    mean over ten. Not to be used before training: GraNd at initialisation did not reproduce (Kirsch 2023, arXiv
    2303.14753).
    DeepCore divides each value by the size of its batch, which inflates a short last batch. The code of Attendu and
    Corbeil 2023 leaves dropout on and takes one example at a time.
    """
    every = np.arange(len(dataset), dtype=np.int64) if rows is None else np.asarray(rows, np.int64)
    sizes = {"batch_tokens": batch_tokens, "batch_size": batch_size}
    closed = parameters == "last_layer" and loss is None and inputs is None and method == "auto"
    if closed and not is_causal(model):
        parts = _closed_form(model, dataset, collate, rows=every, precision=precision, ledger=ledger, **sizes)
    else:
        chosen = chosen_parameters(model, parameters)
        norms = _Norms(model, chosen, loss or default_loss(model), inputs or without_labels, precision, method)
        parts = _batchwise(norms, dataset, collate, every, ledger, sizes)
    return in_order(parts, every)


def in_order(parts: Iterable[tuple[NDArray[np.int64], Tensor]], rows: NDArray[np.int64]) -> NDArray[np.float32]:
    """One value per row, float32 `(n,)` in the order of `rows`, from `(rows, values)` of batches in any order.

    Raises:
        ArgumentError: If a value is not finite, naming rows.
    """
    batches = [(part, values.float().cpu().numpy()) for part, values in parts]
    if not batches:
        return np.empty(0, np.float32)
    seen, values = (np.concatenate(column) for column in zip(*batches, strict=True))
    if len(bad := np.sort(seen[~np.isfinite(values)])):
        raise ArgumentError(
            f"gradients are not finite at rows {', '.join(map(str, bad[:5]))}: check the inputs and the loss there."
        )
    order = np.argsort(seen, kind="stable")
    in_rows: NDArray[np.float32] = values[order[np.searchsorted(seen, rows, sorter=order)]]
    return in_rows


def device_of(model: nn.Module) -> torch.device:
    """Where the model's parameters are."""
    return next(model.parameters()).device


def batches(
    model: nn.Module, dataset: Any, collate: Collate, rows: NDArray[np.int64], sizes: dict[str, int]
) -> Iterator[tuple[NDArray[np.int64], dict[str, Any]]]:
    """Rows and batches on the model's device, longest first."""
    device = device_of(model)
    for part in batches_by_length(rows, lengths_of(dataset), **sizes):
        yield part, to_device(collate(fetch(dataset, part)), device)


def default_loss(model: nn.Module) -> Losses:
    """The losses recognised from names, with the weight of the intent that the model trains with; of a language model
    the mean over the tokens of the answer."""
    if is_causal(model):
        return answer_losses
    alpha = getattr(getattr(model, "config", None), "alpha", 0.5)
    return partial(example_losses, alpha=float(alpha))


def _closed_form(
    model: nn.Module, dataset: Any, collate: Collate, **options: Any
) -> Iterator[tuple[NDArray[np.int64], Tensor]]:
    for part, signals, bias in last_layer_pass(model, dataset, collate, **options):
        yield part, signals_grand(signals, weights=head_weights(model, signals), bias=bias)


def _batchwise(
    norms: _Norms, dataset: Any, collate: Collate, rows: NDArray[np.int64], ledger: Ledger | None, sizes: dict[str, int]
) -> Iterator[tuple[NDArray[np.int64], Tensor]]:
    if len(rows):
        norms.choose(to_device(collate(fetch(dataset, rows[:2])), device_of(norms.model)))
    for part, batch in batches(norms.model, dataset, collate, rows, sizes):
        if ledger is not None:
            ledger.count_scoring(len(part), token_count(batch))
        yield part, norms(batch)


class _Norms:
    """Per-example norms of a batch, by the fastest method that is exact for the model."""

    def __init__(
        self,
        model: nn.Module,
        chosen: dict[str, nn.Parameter],
        loss: Losses,
        inputs: Inputs,
        precision: str,
        method: str,
    ) -> None:
        self.model, self.chosen, self.loss, self.inputs = model, chosen, loss, inputs
        self.precision, self.method = precision, method
        self._norms: Callable[[Batch], Tensor] = self._mapped

    def __call__(self, batch: Batch) -> Tensor:
        # entered per batch, so that the caller's code between two batches never runs inside these contexts
        with in_eval_mode(self.model), torch.enable_grad(), autocast(device_of(self.model), self.precision):
            return self._norms(batch).sqrt()

    def choose(self, examples: Batch) -> None:
        """Use layer by layer norms if the layers are supported and two examples have the norms of autograd."""
        if self.method == "func":
            return
        try:
            layers = Layers(self.model, self.chosen)
            with in_eval_mode(self.model), torch.enable_grad():
                self._check(layers, examples)
        except NotLayerwiseError as error:
            if self.method == "layers":
                problem = f"method='layers' is not exact for this model: {error}. Take method='auto'."
                raise ArgumentError(problem) from error
        else:
            self._norms = partial(self._by_layer, layers)

    def _check(self, layers: Layers, examples: Batch) -> None:
        """Compare each layer, since a weight that is used without calling its layer may be small in the total."""
        losses = self._losses(examples)  # without hooks first: an error here is not due to the method
        expected = [layers.by_layer(self._by_autograd(loss)) for loss in losses]
        try:
            with layers.recording(len(losses)):
                recorded = self._losses(examples)
        except RuntimeError as error:
            raise NotLayerwiseError(f"its layers do not keep the examples apart ({error})") from error
        norms = layers.squared_norms(recorded)
        for place, exact in enumerate(expected):
            atol = TOLERANCE * 1e-3 * float(exact.sum().nan_to_num())
            if bool(exact.isfinite().all()) and not torch.allclose(norms[:, place], exact, rtol=TOLERANCE, atol=atol):
                worst = int((norms[:, place] - exact).abs().argmax())
                layer = type(list(layers.calls)[worst]).__name__
                raise NotLayerwiseError(
                    f"a {layer} has a squared norm of {float(norms[worst, place]):.4g} by its calls where autograd "
                    f"gives {float(exact[worst]):.4g}"
                )

    def _losses(self, batch: Batch) -> Tensor:
        return gradients.batch_losses(self.model, batch, self.loss, self.inputs)

    def _by_layer(self, layers: Layers, batch: Batch) -> Tensor:
        with layers.recording(gradients.batch_size(batch)):
            losses = self._losses(batch)
        return layers.squared_norms(losses).sum(0)

    def _by_autograd(self, loss: Tensor) -> dict[int, Tensor]:
        parameters = list(self.chosen.values())
        parts = torch.autograd.grad(loss, parameters, allow_unused=True, retain_graph=True)
        return {
            id(parameter): torch.zeros_like(parameter) if gradient is None else gradient
            for parameter, gradient in zip(parameters, parts, strict=True)
        }

    def _mapped(self, batch: Batch) -> Tensor:
        return gradients.squared_norms(self.model, self.chosen, batch, self.loss, self.inputs)


def grand_of(name: str, inputs: ScoringInputs, _shared: Shared) -> Values:
    """The score of a split."""
    assert inputs.model is not None  # checked by check_needs
    options = gradients.options_for(name, inputs)
    return grand(inputs.model, inputs.features, inputs.collate, ledger=inputs.ledger, **options)
