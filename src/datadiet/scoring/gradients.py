"""Losses and gradients of single examples, for any module.

`example_losses` and `gold_outputs` read outputs and labels by their names, `answer_losses` those of language models;
`chosen_parameters` selects what gradients are taken over; `reduced_gradients`, `squared_norms`, `alignments` and
`summed_gradient` compute them with torch.func: of single rows by vmap, inner products in forward mode.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, jvp, vmap
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from datadiet.errors import ArgumentError, DataError, unknown
from datadiet.scoring.forward import column_of, whole_numbers
from datadiet.scoring.inputs import ScoringInputs
from datadiet.tasks.heads import head_layers, is_causal
from datadiet.types import IGNORED

Batch = Mapping[str, Any]
Losses = Callable[[Any, Batch], Tensor]
Inputs = Callable[[Batch], Mapping[str, Any] | tuple[Any, ...]]

# The most memory for gradients of several examples at once, in bytes
GRADIENT_BYTES = 512 * 2**20
_BATCH_TOKENS = 2048  # at most, since backward passes keep activations


def losses_of(model: nn.Module, parameters: Mapping[str, Tensor], batch: Batch, loss: Losses, inputs: Inputs) -> Tensor:
    """The loss of each example `(batch,)` with the given values of the parameters.

    Raises:
        ArgumentError: If the loss is not one number per example.
    """
    given = inputs(batch)
    arguments, named = (given, {}) if isinstance(given, tuple) else ((), dict(given))
    losses = loss(functional_call(model, dict(parameters), arguments, named), batch)
    return checked_losses(losses, batch)


def batch_losses(model: nn.Module, batch: Batch, loss: Losses, inputs: Inputs) -> Tensor:
    """The same with the model's own parameters, with a graph."""
    given = inputs(batch)
    return checked_losses(loss(model(*given) if isinstance(given, tuple) else model(**given), batch), batch)


def checked_losses(losses: Any, batch: Batch) -> Tensor:
    """The losses unchanged, after a check of their shape.

    Raises:
        ArgumentError: If there is not one per example.
    """
    size = batch_size(batch)
    if not isinstance(losses, Tensor) or losses.shape != (size,):
        shape = tuple(losses.shape) if isinstance(losses, Tensor) else type(losses).__name__
        raise ArgumentError(f"the loss must give one number per example, {(size,)}, not {shape}: do not average it.")
    return losses


def batch_size(batch: Batch) -> int:
    """Examples of a batch: the length of its tensors.

    Raises:
        ArgumentError: If it holds none.
    """
    for value in batch.values():
        if isinstance(value, Tensor) and value.dim():
            return len(value)
    raise ArgumentError("a batch must be a mapping that holds tensors with the examples along their first axis.")


@contextmanager
def derivable_attention() -> Iterator[None]:
    """Attention by its formula, since the fused kernels have no rules for vmap and forward mode."""
    with warnings.catch_warnings(), sdpa_kernel(SDPBackend.MATH):
        # torch's own rules for forward mode use torch.jit, which is deprecated
        warnings.filterwarnings("ignore", message=r"`torch\.jit", category=DeprecationWarning)
        yield


def squared_norms(
    model: nn.Module, chosen: Mapping[str, nn.Parameter], batch: Batch, loss: Losses, inputs: Inputs
) -> Tensor:
    """Squared norm of each example's gradient, float32 `(batch,)`; see `reduced_gradients`."""

    def squares(gradients: Mapping[str, Tensor]) -> Tensor:
        return torch.stack([gradient.float().square().sum() for gradient in gradients.values()]).sum()

    return reduced_gradients(model, chosen, batch, loss, inputs, squares)


def reduced_gradients(
    model: nn.Module,
    chosen: Mapping[str, nn.Parameter],
    batch: Batch,
    loss: Losses,
    inputs: Inputs,
    reduce: Callable[[dict[str, Tensor]], Tensor],
) -> Tensor:
    """What a function makes of each example's gradient, `(batch, ...)`: only parts of a batch are in memory as such.

    Args:
        model, chosen, batch, loss, inputs: See `losses_of`.
        reduce: From the gradient of one example, by the name of the parameter, to a tensor; torch.func maps over it.

    Raises:
        ArgumentError: If torch.func cannot map over the model, with a way out.
    """
    parameters = {name: parameter.detach() for name, parameter in chosen.items()}

    def of_one(row: Batch) -> Tensor:
        return reduce(grad(lambda values: losses_of(model, values, row, loss, inputs)[0])(parameters))

    bytes_each = 4 * sum(parameter.numel() for parameter in parameters.values())
    reduced: Tensor = over_rows(model, batch, of_one, bytes_each)
    return reduced.detach()


def over_rows(model: nn.Module, batch: Batch, of_one: Callable[[Batch], Any], bytes_each: int) -> Any:
    """A function of batches of one example, mapped over a batch by vmap, in parts that fit `GRADIENT_BYTES`.

    Raises:
        ArgumentError: If torch.func cannot map over the model, with a way out.
    """
    together = max(1, min(batch_size(batch), GRADIENT_BYTES // max(1, bytes_each)))
    reason: Exception | None = None
    for form in (batch, with_wide_mask(batch, causal=is_causal(model))):
        rows = {name: value for name, value in form.items() if isinstance(value, Tensor) and value.dim()}
        fixed = {name: value for name, value in form.items() if name not in rows}

        def alone(row: dict[str, Tensor], fixed: dict[str, Any] = fixed) -> Any:
            return of_one({**fixed, **{name: value.unsqueeze(0) for name, value in row.items()}})

        try:
            with derivable_attention():
                return vmap(alone, chunk_size=together, randomness="error")(rows)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            reason = reason or error
    raise ArgumentError(
        f"torch.func cannot map over this model ({str(reason).splitlines()[0][:200]}). Take parameters='last_layer' or "
        "a function of names that chooses linear layers, embeddings and layer norms only, which need no mapping; or "
        "remove code that reads a tensor's value from the forward pass."
    ) from reason


def with_wide_mask(batch: Batch, *, causal: bool = False) -> dict[str, Any]:
    """The batch with its attention mask in additive form, which transformers keeps: `(batch, 1, 1, positions)`, or, of
    a language model, whose own mask it replaces, `(batch, 1, positions, positions)`."""
    mask = batch.get("attention_mask")
    if not isinstance(mask, Tensor) or mask.dim() != 2:
        return dict(batch)
    hidden = (mask == 0)[:, None, None, :]
    if causal:
        length = mask.shape[1]
        hidden = hidden | torch.ones(length, length, dtype=torch.bool, device=mask.device).triu(1)
    wide = torch.zeros(hidden.shape, device=mask.device).masked_fill(hidden, torch.finfo(torch.float32).min)
    return {**batch, "attention_mask": wide}


def alignments(
    model: nn.Module,
    chosen: Mapping[str, nn.Parameter],
    direction: Mapping[str, Tensor],
    batch: Batch,
    loss: Losses,
    inputs: Inputs,
) -> Tensor:
    """Inner product of each example's gradient with a direction, float32 `(batch,)`: one pass in forward mode.

    The derivative of the losses along the direction is this product, so that no gradient of an example is computed.

    Raises:
        ArgumentError: If torch has no forward derivative of something in the model.
    """
    parameters = {name: parameter.detach() for name, parameter in chosen.items()}

    def losses(values: dict[str, Tensor]) -> Tensor:
        return losses_of(model, values, batch, loss, inputs)

    try:
        with derivable_attention():
            products: Tensor = jvp(losses, (parameters,), (dict(direction),))[1]
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise ArgumentError(
            f"torch has no forward derivative of this model ({str(error).splitlines()[0][:200]}); take "
            f"parameters='last_layer'."
        ) from error
    return products.detach().float()


def summed_gradient(
    model: nn.Module, chosen: Mapping[str, nn.Parameter], batch: Batch, loss: Losses, inputs: Inputs
) -> dict[str, Tensor]:
    """The gradient of the summed loss of a batch, by name; 0 for a parameter that is not used."""
    losses = batch_losses(model, batch, loss, inputs)
    gradients = torch.autograd.grad(losses.sum(), list(chosen.values()), allow_unused=True)
    return {
        name: torch.zeros_like(parameter) if gradient is None else gradient.detach()
        for (name, parameter), gradient in zip(chosen.items(), gradients, strict=True)
    }


Parameters = str | Callable[[str], bool]
CHOICES = ("all", "last_layer", "lora")


def chosen_parameters(model: nn.Module, parameters: Parameters) -> dict[str, nn.Parameter]:
    """The trainable parameters of a choice, by name.

    Args:
        model: The model.
        parameters: `all`; `last_layer`, of the last linear layer of each head; `lora`, of adapters; or a predicate on
            names.

    Raises:
        ArgumentError: If the choice is unknown or no parameter is left; names the trainable ones.

    Examples:
        >>> list(chosen_parameters(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), lambda name: name[0] == "1"))
        ['1.weight', '1.bias']
    """
    training = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    if callable(parameters):
        chosen = {name: parameter for name, parameter in training.items() if parameters(name)}
    elif parameters == "all":
        chosen = training
    elif parameters == "lora":
        chosen = {name: parameter for name, parameter in training.items() if ".lora_" in name}
    elif parameters == "last_layer":
        layers = {id(parameter) for layer in last_layers(model) for parameter in layer.parameters()}
        chosen = {name: parameter for name, parameter in training.items() if id(parameter) in layers}
    else:
        raise ArgumentError(unknown("parameters", parameters, CHOICES))
    if not chosen:
        names = ", ".join(list(training)[:5]) or "none"
        more = f" and {len(training) - 5} more" if len(training) > 5 else ""
        if parameters == "lora":
            raise ArgumentError(f"parameters='lora' needs a model with adapters that train; there are: {names}{more}.")
        raise ArgumentError(f"no parameter that trains was chosen; there are: {names}{more}.")
    return chosen


def last_layers(model: nn.Module) -> list[nn.Linear]:
    """The last linear layer of each head.

    Raises:
        ArgumentError: If the model has none that can be identified.
    """
    found = list(dict.fromkeys(head_layers(model).values()))
    layers = [layer for layer in found if isinstance(layer, nn.Linear)]
    if not layers:
        raise ArgumentError(
            "parameters='last_layer' needs a last linear layer with as many outputs as the model's config has labels; "
            "give a function of the parameters' names, such as lambda name: name.startswith('classifier')."
        )
    return layers


LABELS = ("labels", "label", "intent_labels", "slot_labels")
ADVICE = "Pass loss=, a function of (outputs, batch) that gives one loss per example."


def example_losses(outputs: Any, batch: Mapping[str, Any], *, alpha: float = 0.5) -> Tensor:
    """The training loss of each example, differentiable, from named outputs and labels.

    Classes: cross-entropy; one number: half the squared error (so that the error of the last layer is `z - y`); several
    labels at once (floating-point, one per class): the sum of their binary cross-entropies; words: the sum of their
    cross-entropies; intent and slots: `alpha * CE_intent + (1 - alpha) * sum_t CE_t`. A label of -100 counts 0.

    Args:
        outputs: With `logits`, or `intent_logits` and `slot_logits`; or the logits themselves.
        batch: With `labels` (or `label`), or `intent_labels` and `slot_labels`.
        alpha: Share of the intent; only for joint models.

    Returns:
        float32 `(batch,)`.

    Raises:
        ArgumentError: Where names or shapes fit none of these.

    Examples:
        >>> example_losses(torch.zeros(2, 2), {"labels": torch.tensor([0, -100])})
        tensor([0.6931, 0.0000])
    """
    if "intent_labels" in batch and "slot_labels" in batch:
        intent = _class_losses(_named(outputs, "intent_logits"), batch["intent_labels"])
        return alpha * intent + (1 - alpha) * _class_losses(_named(outputs, "slot_logits"), batch["slot_labels"])
    logits, labels = _named(outputs, "logits"), _label(batch)
    if not labels.is_floating_point():
        if logits.shape[:-1] != labels.shape:
            raise ArgumentError(_misfit(logits, labels))
        return _class_losses(logits, labels)
    if logits.shape == labels.shape and labels.dim() > 1 and labels.shape[-1] > 1:
        return functional.binary_cross_entropy_with_logits(logits.float(), labels.float(), reduction="none").sum(-1)
    if logits.numel() != len(labels):
        raise ArgumentError(_misfit(logits, labels))
    return (logits.reshape(-1) - labels.reshape(-1)).float().square() / 2  # (batch, 1) -> (batch,)


def answer_losses(outputs: Any, batch: Mapping[str, Any]) -> Tensor:
    """The mean loss of the tokens of each answer, differentiable; the prompt, whose labels are -100, does not count.

    Args:
        outputs: With `logits` `(batch, positions, vocabulary)`, or these themselves.
        batch: With `labels` `(batch, positions)`, as a causal language model takes them: not shifted.

    Returns:
        `(batch,)`; 0 for a row without an answer.

    Raises:
        ArgumentError: Where names or shapes do not fit.

    Examples:
        >>> answer_losses(torch.zeros(1, 3, 4), {"labels": torch.tensor([[-100, 2, -100]])})
        tensor([1.3863])
    """
    logits, labels = _named(outputs, "logits"), _label(batch)
    if logits.shape[:-1] != labels.shape or labels.dim() != 2:
        raise ArgumentError(_misfit(logits, labels))
    next_labels = labels[:, 1:]
    counts = (next_labels != IGNORED).sum(1).clamp_min(1)  # (batch,)
    return _class_losses(logits[:, :-1], next_labels) / counts


def gold_outputs(outputs: Any, batch: Mapping[str, Any]) -> dict[str, Tensor]:
    """The output of each head for the label, before the softmax: the gold logit, summed over words; or the number.

    Args:
        outputs, batch: See `example_losses`.

    Returns:
        float32 `(batch,)` per head: `label`, or `intent` and `slots`.

    Raises:
        ArgumentError: Where names or shapes fit none of these.

    Examples:
        >>> gold_outputs(torch.tensor([[1.0, 2.0]]), {"labels": torch.tensor([1])})
        {'label': tensor([2.])}
    """
    if "intent_labels" in batch and "slot_labels" in batch:
        return {
            "intent": _gold(_named(outputs, "intent_logits"), batch["intent_labels"]),
            "slots": _gold(_named(outputs, "slot_logits"), batch["slot_labels"]),
        }
    logits, labels = _named(outputs, "logits"), _label(batch)
    if not labels.is_floating_point():
        if logits.shape[:-1] != labels.shape:
            raise ArgumentError(_misfit(logits, labels))
        return {"label": _gold(logits, labels)}
    if logits.shape == labels.shape and labels.dim() > 1:
        return {"label": (logits.float() * labels).flatten(1).sum(1)}  # the labels that hold
    return {"label": logits.float().reshape(-1)}  # (batch, 1) -> (batch,)


def without_labels(batch: Mapping[str, Any]) -> dict[str, Any]:
    """The batch without labels, since some models compute their loss in a way that torch.func does not support."""
    return {name: value for name, value in batch.items() if name not in LABELS}


def _class_losses(logits: Tensor, labels: Tensor) -> Tensor:
    losses = logits.float().logsumexp(-1) - _gold_logits(logits, labels)
    return _per_example(losses * (labels != IGNORED))


def _gold(logits: Tensor, labels: Tensor) -> Tensor:
    return _per_example(_gold_logits(logits, labels) * (labels != IGNORED))


def _gold_logits(logits: Tensor, labels: Tensor) -> Tensor:
    gold = labels.long().masked_fill(labels == IGNORED, 0).unsqueeze(-1)
    return logits.float().gather(-1, gold).squeeze(-1)


def _per_example(values: Tensor) -> Tensor:
    return values if values.dim() == 1 else values.flatten(1).sum(1)  # (batch, positions) -> (batch,)


def _named(outputs: Any, name: str) -> Tensor:
    if isinstance(outputs, Tensor):
        return outputs
    value = outputs.get(name) if isinstance(outputs, Mapping) else getattr(outputs, name, None)
    if not isinstance(value, Tensor):
        raise ArgumentError(f"the model's output {type(outputs).__name__} has no {name}. {ADVICE}")
    return value


def _label(batch: Mapping[str, Any]) -> Tensor:
    for name in ("labels", "label"):
        if isinstance(labels := batch.get(name), Tensor):
            return labels
    raise ArgumentError(f"the batch has no labels; it holds {', '.join(map(str, batch)) or 'nothing'}. {ADVICE}")


def _misfit(logits: Tensor, labels: Tensor) -> str:
    return f"logits {tuple(logits.shape)} and {labels.dtype} labels {tuple(labels.shape)} fit no known loss. {ADVICE}"


# ---- scores


def options_for(name: str, inputs: ScoringInputs) -> dict[str, Any]:
    """The options of a score of gradients, once every row and query is known to have a gradient.

    Raises:
        DataError: If no token of a row trains, so that it has none.
    """
    queries = None if inputs.queries is None else inputs.queries.features
    of_rows = [("rows", rows, inputs.ids) for rows in (inputs.features, inputs.rows_for("teacher").features)]
    for what, features, ids in (*of_rows, ("queries", queries, None)):
        trained = None if features is None else column_of(features, "trained")
        empty = [] if trained is None else np.flatnonzero(whole_numbers(trained) == 0).tolist()
        if empty:
            named = ", ".join(str(row if ids is None else ids[row]) for row in empty[:5])
            raise DataError(
                f"{len(empty)} {what} have no token of an answer that trains, so that they have no gradient: {named}. "
                "Remove them, or give answers more room by --max-length."
            )
    return {"batch_tokens": min(inputs.batch_tokens, _BATCH_TOKENS), **inputs.options_of(name)}
