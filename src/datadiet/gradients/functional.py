"""Per-example gradients with torch.func, for models of any layers: norms by vmap, inner products by forward mode."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, jvp, vmap
from torch.nn.attention import SDPBackend, sdpa_kernel

from datadiet.checks import ArgumentError

Batch = Mapping[str, Any]
Losses = Callable[[Any, Batch], Tensor]
Inputs = Callable[[Batch], Mapping[str, Any] | tuple[Any, ...]]

# Most bytes that the gradients of the examples taken together may need
GRADIENT_BYTES = 512 * 2**20


def losses_of(model: nn.Module, parameters: Mapping[str, Tensor], batch: Batch, loss: Losses, inputs: Inputs) -> Tensor:
    """The loss of each example `(batch,)` with these values for parameters.

    Raises:
        ArgumentError: If the loss is not one number per example.
    """
    given = inputs(batch)
    arguments, named = (given, {}) if isinstance(given, tuple) else ((), dict(given))
    losses = loss(functional_call(model, dict(parameters), arguments, named), batch)
    return checked_losses(losses, batch)


def checked_losses(losses: Any, batch: Batch) -> Tensor:
    """The losses, if there is one per example.

    Raises:
        ArgumentError: If not.
    """
    size = batch_size(batch)
    if not isinstance(losses, Tensor) or losses.shape != (size,):
        found = tuple(losses.shape) if isinstance(losses, Tensor) else type(losses).__name__
        raise ArgumentError(f"the loss must give one number per example, {(size,)}, not {found}: do not average it.")
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
    """Attention by its formula: the fused kernels have no rules for vmap and forward mode. The model stays as it is."""
    with warnings.catch_warnings(), sdpa_kernel(SDPBackend.MATH):
        # torch's own rules for forward mode are still written in torch.jit, of which it warns
        warnings.filterwarnings("ignore", message=r"`torch\.jit", category=DeprecationWarning)
        yield


def squared_norms(
    model: nn.Module, chosen: Mapping[str, nn.Parameter], batch: Batch, loss: Losses, inputs: Inputs
) -> Tensor:
    """Squared norm of each example's gradient, float32 `(batch,)`, by vmap over parts of the batch.

    Raises:
        ArgumentError: If torch.func cannot follow the model, saying what to do.
    """
    parameters = {name: parameter.detach() for name, parameter in chosen.items()}
    size = batch_size(batch)
    bytes_each = 4 * sum(parameter.numel() for parameter in parameters.values())
    together = max(1, min(size, GRADIENT_BYTES // max(1, bytes_each)))
    reason: Exception | None = None
    for form in (batch, with_wide_mask(batch)):
        try:
            with derivable_attention():
                return _mapped(model, parameters, form, loss, inputs, together)
        except torch.OutOfMemoryError:
            raise  # no fault of the model's
        except RuntimeError as error:
            reason = reason or error
    raise ArgumentError(
        f"torch.func cannot map over this model ({str(reason).splitlines()[0][:200]}). Take parameters='last_layer' or "
        f"a function of names that chooses linear layers, embeddings and layer norms only, which need no mapping; or "
        f"rewrite what reads a tensor's value in the forward pass."
    ) from reason


def _mapped(
    model: nn.Module, parameters: dict[str, Tensor], batch: Batch, loss: Losses, inputs: Inputs, together: int
) -> Tensor:
    rows = {name: value for name, value in batch.items() if isinstance(value, Tensor) and value.dim()}
    fixed = {name: value for name, value in batch.items() if name not in rows}

    def of_one(row: dict[str, Tensor]) -> Tensor:
        alone = {**fixed, **{name: value.unsqueeze(0) for name, value in row.items()}}
        gradients = grad(lambda values: losses_of(model, values, alone, loss, inputs)[0])(parameters)
        return torch.stack([gradient.float().square().sum() for gradient in gradients.values()]).sum()

    found: Tensor = vmap(of_one, chunk_size=together, randomness="error")(rows)
    return found.detach()


def with_wide_mask(batch: Batch) -> dict[str, Any]:
    """The attention mask in the additive form `(batch, 1, 1, positions)`, which transformers takes as it is."""
    mask = batch.get("attention_mask")
    if not isinstance(mask, Tensor) or mask.dim() != 2:
        return dict(batch)
    wide = torch.zeros(mask.shape, device=mask.device).masked_fill(mask == 0, torch.finfo(torch.float32).min)
    return {**batch, "attention_mask": wide[:, None, None, :]}


def alignments(
    model: nn.Module,
    chosen: Mapping[str, nn.Parameter],
    direction: Mapping[str, Tensor],
    batch: Batch,
    loss: Losses,
    inputs: Inputs,
) -> Tensor:
    """Inner product of each example's gradient with a direction, float32 `(batch,)`: one pass in forward mode.

    The derivative of all losses along the direction is the product of each one's gradient with it, and no gradient of
    an example is ever made.

    Raises:
        ArgumentError: If torch has no forward derivative of something in the model.
    """
    parameters = {name: parameter.detach() for name, parameter in chosen.items()}
    try:
        with derivable_attention():
            found = jvp(
                lambda values: losses_of(model, values, batch, loss, inputs), (parameters,), (dict(direction),)
            )[1]
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise ArgumentError(
            f"torch has no forward derivative of this model ({str(error).splitlines()[0][:200]}); take "
            f"parameters='last_layer'."
        ) from error
    products: Tensor = found.detach().float()
    return products


def summed_gradient(
    model: nn.Module, chosen: Mapping[str, nn.Parameter], batch: Batch, loss: Losses, inputs: Inputs
) -> dict[str, Tensor]:
    """The gradient of the summed loss of a batch, by name; 0 where a parameter plays no part."""
    given = inputs(batch)
    outputs = model(*given) if isinstance(given, tuple) else model(**given)
    losses = checked_losses(loss(outputs, batch), batch)
    found = torch.autograd.grad(losses.sum(), list(chosen.values()), allow_unused=True)
    return {
        name: torch.zeros_like(parameter) if gradient is None else gradient.detach()
        for (name, parameter), gradient in zip(chosen.items(), found, strict=True)
    }
