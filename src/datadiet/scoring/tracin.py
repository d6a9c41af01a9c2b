"""TracIn: the effect of training on an example, on its own loss (`self_influence`) or on a dev set's (`tracin`).

Both sum over the checkpoints of a run, of which one is in memory at a time (`loaded`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from datadiet.errors import ArgumentError
from datadiet.registry import score
from datadiet.scores.last_layer import hidden_of, last_layer_alignment, last_layer_gradient
from datadiet.scores.tokens import with_logits
from datadiet.scoring import gradients
from datadiet.scoring.forward import Collate, in_eval_mode
from datadiet.scoring.gradients import Inputs, Losses, Parameters, chosen_parameters, without_labels
from datadiet.scoring.grand import batches, default_loss, grand, head_weights, in_order, last_layer_pass
from datadiet.scoring.inputs import ScoringInputs, Shared, Values

Checkpoint = nn.Module | str | Path


def loaded(checkpoints: Iterable[Checkpoint], load: Callable[[Any], nn.Module] | None = None) -> Iterator[nn.Module]:
    """The models one after the other. A folder is loaded in its turn, and no reference to its model is kept.

    Args:
        checkpoints: Models, or arguments of `load`.
        load: A folder to a model; transformers' classifiers and our joint models by default.

    Examples:
        >>> [type(model).__name__ for model in loaded([nn.Linear(1, 1), "folder"], lambda name: nn.ReLU())]
        ['Linear', 'ReLU']
    """
    for checkpoint in checkpoints:
        if isinstance(checkpoint, nn.Module):
            yield checkpoint
        else:
            yield (load or _load)(checkpoint)


def _load(folder: Any) -> nn.Module:
    from datadiet.tasks.loading import load_saved

    model: nn.Module = load_saved(folder)
    return model


@score(
    formula="sum_c eta_c || grad_w loss_c ||^2 over checkpoints c",
    paper="Pruthi et al. 2020, arXiv 2002.08484, section 4.1",
    inputs="checkpoints and learning rates of one run, labels",
    cost="that of grand, per checkpoint",
    loses="beyond about 30 % removed it falls below random on SNLI",
    options_of=grand,
    needs=("checkpoints",),
    traits=("suspects",),
    computed_by="datadiet.scoring.tracin:self_influence_of",
)
def self_influence(
    checkpoints: Iterable[Checkpoint],
    learning_rates: Sequence[float],
    dataset: Any,
    collate: Collate,
    *,
    load: Callable[[Any], nn.Module] | None = None,
    **options: Any,
) -> NDArray[np.float32]:
    """TracIn of each example on itself: how much the steps on it lowered its own loss.

    `sum_c eta_c || grad_w L_c(x, y) ||^2`; over the last layer `sum_c eta_c ||p - y||^2 (1 + ||h||^2)`.

    Args:
        checkpoints: Models, or folders that are loaded one after the other.
        learning_rates: `eta_c`, one per checkpoint.
        dataset, collate: See `grand`.
        load: A folder to a model; transformers' own loading by default.
        options: Of `grand`: `rows`, `parameters` (here `last_layer` by default), `loss`, ...

    Returns:
        float32 `(n,)`, at least 0; larger = harder: memorised, rare or mislabelled.

    Raises:
        ArgumentError: As `grand`, or if there is not one learning rate per checkpoint.

    Source: Pruthi et al. 2020 (arXiv 2002.08484), sections 3 and 4.1.
    """
    chosen = {"parameters": "last_layer"} | options
    total = sum(
        rate * np.square(grand(model, dataset, collate, **chosen), dtype=np.float64)
        for model, rate in _with_rates(checkpoints, learning_rates, load)
    )
    return np.asarray(total, np.float32)


@score(
    formula="- sum_c eta_c <grad_w loss_c, mean_dev grad_w loss_c>; above 0 = harmful to dev",
    paper="Pruthi et al. 2020, arXiv 2002.08484, section 3, sign turned",
    inputs="checkpoints and learning rates of one run, labels, a clean dev set",
    cost="last layer: one forward of n and dev per checkpoint; else a pass of n in forward mode",
    loses="a small or noisy dev set, whose mean gradient is noise",
    needs=("checkpoints", "dev"),
    computed_by="datadiet.scoring.tracin:tracin_of",
)
def tracin(
    checkpoints: Iterable[Checkpoint],
    learning_rates: Sequence[float],
    dataset: Any,
    dev: Any,
    collate: Collate,
    *,
    rows: NDArray[np.int64] | None = None,
    dev_rows: NDArray[np.int64] | None = None,
    parameters: Annotated[Parameters, ("all", "last_layer")] = "last_layer",
    loss: Losses | None = None,
    inputs: Inputs | None = None,
    batch_tokens: int = 2048,
    batch_size: int = 32,
    load: Callable[[Any], nn.Module] | None = None,
) -> NDArray[np.float32]:
    """How harmful each example is to a dev set: minus its TracIn influence on the dev set's mean loss.

    `- sum_c eta_c <grad L_c(x, y), mean_dev grad L_c>`. The published sign is the opposite: a positive influence lowers
    the dev loss. Here larger = harder, as everywhere: **positive = harmful, negative = helpful**.

    The last layer with the default loss is a closed form over forward passes. Other parameters cost, per checkpoint,
    one backward pass of the dev set and one pass of the data in forward mode, without any example's gradient.

    Args:
        checkpoints: Models, or folders that are loaded one after the other.
        learning_rates: `eta_c`, one per checkpoint.
        dataset: Map-style; its rows are scored.
        dev: Map-style, with labels that can be trusted.
        collate: For both.
        rows, dev_rows: int64; all by default.
        parameters: `last_layer`, `all`, or a function of a parameter's name.
        loss, inputs, batch_tokens, batch_size: See `grand`.
        load: A folder to a model; transformers' own loading by default.

    Returns:
        float32 `(n,)` in the order of the rows, any sign; larger = more harmful.

    Raises:
        ArgumentError: As `grand`; if the dev set is empty, or there is not one learning rate per checkpoint.

    Source: Pruthi et al. 2020 (arXiv 2002.08484), section 3, sign turned. Exact, without random projections.
    """
    every = np.arange(len(dataset), dtype=np.int64) if rows is None else np.asarray(rows, np.int64)
    dev_every = np.arange(len(dev), dtype=np.int64) if dev_rows is None else np.asarray(dev_rows, np.int64)
    if not len(dev_every):
        raise ArgumentError("tracin needs a dev set with at least one example.")
    sizes = {"batch_tokens": batch_tokens, "batch_size": batch_size}
    total = np.zeros(len(every))
    for model, rate in _with_rates(checkpoints, learning_rates, load):
        if parameters == "last_layer" and loss is None and inputs is None:
            of_rows = partial(_last_layer, model, collate=collate, sizes=sizes)
        else:
            how = (chosen_parameters(model, parameters), loss or default_loss(model), inputs or without_labels)
            of_rows = partial(_general, model, collate=collate, sizes=sizes, how=how)
        products = in_order(of_rows(dataset, every, dev, dev_every), every)
        total += -rate * products.astype(np.float64) / len(dev_every)
    return total.astype(np.float32)


def _with_rates(
    checkpoints: Iterable[Checkpoint], rates: Sequence[float], load: Callable[[Any], nn.Module] | None
) -> Iterator[tuple[nn.Module, float]]:
    rates = [float(rate) for rate in rates]
    check_rates(len(checkpoints) if isinstance(checkpoints, Sequence) else None, rates)
    number = 0
    for model in loaded(checkpoints, load):
        number += 1
        _check_number(max(number, len(rates)), len(rates))
        yield model, rates[number - 1]
    _check_number(number, len(rates))


def check_rates(checkpoints: int | None, rates: Sequence[float]) -> None:
    """Refuse learning rates that are negative, or not one per checkpoint, where the number of these is known.

    Raises:
        ArgumentError: See above.
    """
    numbers = [float(rate) for rate in rates]
    if not all(np.isfinite(rate) and rate >= 0 for rate in numbers):
        raise ArgumentError(f"learning rates must be at least 0 and finite, got {numbers}.")
    if checkpoints is not None:
        _check_number(checkpoints, len(numbers))


def _check_number(checkpoints: int, rates: int) -> None:
    if checkpoints != rates or not rates:
        raise ArgumentError(f"one learning rate per checkpoint is needed: got {rates} for {checkpoints} checkpoints.")


def _last_layer(
    model: nn.Module,
    dataset: Any,
    rows: NDArray[np.int64],
    dev: Any,
    dev_rows: NDArray[np.int64],
    *,
    collate: Collate,
    sizes: dict[str, Any],
) -> Iterator[tuple[NDArray[np.int64], Tensor]]:
    """Inner products with the summed gradient of the dev rows, head by head."""
    summed: dict[str, Tensor] = {}
    for _, signals, bias in last_layer_pass(model, dev, collate, rows=dev_rows, **sizes):
        for name, head in with_logits(signals, "the gradient of the last layer").items():
            hidden = hidden_of(name, head)
            part = last_layer_gradient(head.logits, head.labels, hidden, mask=head.mask, bias=bias)
            summed[name] = part + summed[name] if name in summed else part
    for part_rows, signals, bias in last_layer_pass(model, dataset, collate, rows=rows, **sizes):
        weights = head_weights(model, signals)
        products = [
            last_layer_alignment(
                head.logits, head.labels, hidden_of(name, head), summed[name], mask=head.mask, bias=bias
            )
            * (1.0 if weights is None else weights[name] ** 2)  # once in each of the two gradients
            for name, head in with_logits(signals, "the gradient of the last layer").items()
        ]
        yield part_rows, torch.stack(products).sum(0)  # (heads, batch) -> (batch,)


def _general(
    model: nn.Module,
    dataset: Any,
    rows: NDArray[np.int64],
    dev: Any,
    dev_rows: NDArray[np.int64],
    *,
    collate: Collate,
    sizes: dict[str, int],
    how: tuple[dict[str, nn.Parameter], Losses, Inputs],
) -> Iterator[tuple[NDArray[np.int64], Tensor]]:
    chosen, loss, inputs = how
    summed = {name: torch.zeros_like(parameter) for name, parameter in chosen.items()}
    for _, batch in batches(model, dev, collate, dev_rows, sizes):
        with in_eval_mode(model), torch.enable_grad():
            for name, gradient in gradients.summed_gradient(model, chosen, batch, loss, inputs).items():
                summed[name] += gradient
    for part, batch in batches(model, dataset, collate, rows, sizes):
        with in_eval_mode(model):
            yield part, gradients.alignments(model, chosen, summed, batch, loss, inputs)


def self_influence_of(name: str, inputs: ScoringInputs, _shared: Shared) -> Values:
    """Self-influence of a split."""
    options = gradients.options_for(name, inputs)
    return self_influence(*_steps(inputs), inputs.features, inputs.collate, **options)


def tracin_of(name: str, inputs: ScoringInputs, _shared: Shared) -> Values:
    """The effect of a split on the dev split."""
    options = gradients.options_for(name, inputs)
    return tracin(*_steps(inputs), inputs.features, inputs.dev, inputs.collate, **options)


def _steps(inputs: ScoringInputs) -> tuple[list[Any], list[float]]:
    """The checkpoints and their learning rates."""
    checkpoints = list(inputs.checkpoints or ())
    return checkpoints, list(inputs.learning_rates or [1.0] * len(checkpoints))
