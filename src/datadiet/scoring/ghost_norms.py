"""Ghost norms: exact per-example gradient norms from one backward pass of the whole batch, layer by layer.

The gradient of a linear layer is a sum over positions of outer products, `sum_t d_t h_t^T`, with `h_t` the layer's
input and `d_t` the gradient of the loss at its output. Its squared norm is `sum_ts (d_t . d_s) (h_t . h_s)`, so that
no gradient of an example, which is as large as the model, is ever stored. Embeddings and layer norms are treated
alike. The norms are exact if every chosen parameter belongs to exactly one such layer and the loss of an example
depends on its own row alone; else `NotLayerwiseError` is raised and the caller falls back to torch.func.

Source: Goodfellow 2015 (arXiv 1510.01799); for positions Li et al. 2022 (arXiv 2110.05679), "ghost clipping".
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional

_SUPPORTED = (nn.Linear, nn.Embedding, nn.LayerNorm)


class NotLayerwiseError(Exception):
    """A parameter is not owned by exactly one Linear, Embedding or LayerNorm; the caller falls back to torch.func."""


@dataclass
class _Calls:
    """Inputs and outputs of one layer; several calls count as several positions."""

    names: frozenset[str]
    inputs: list[Tensor] = field(default_factory=list)
    outputs: list[Tensor] = field(default_factory=list)


class Layers:
    """The layers that hold the chosen parameters.

    Args:
        model: The model.
        chosen: Names and parameters.

    Raises:
        NotLayerwiseError: If a parameter belongs to a layer of another kind, or to two layers.
    """

    def __init__(self, model: nn.Module, chosen: Mapping[str, nn.Parameter]) -> None:
        chosen_ids = {id(parameter) for parameter in chosen.values()}
        owners: dict[int, int] = {}
        self.calls: dict[nn.Module, _Calls] = {}
        for module in model.modules():
            own = dict(module.named_parameters(recurse=False))
            names = frozenset(name for name, parameter in own.items() if id(parameter) in chosen_ids)
            if not names:
                continue
            _check_kind(module)
            for name in names:
                if owners.setdefault(id(own[name]), id(module)) != id(module):
                    raise NotLayerwiseError(f"{name} is shared by two layers")
            self.calls[module] = _Calls(names)

    @contextmanager
    def recording(self, batch: int) -> Iterator[None]:
        """Record the inputs and outputs of the layers in the forward passes inside, of a batch of this size."""
        for calls in self.calls.values():
            calls.inputs, calls.outputs = [], []
        hooks = [module.register_forward_hook(self._hook(batch)) for module in self.calls]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _hook(self, batch: int) -> Callable[..., Tensor]:
        def record(module: nn.Module, given: tuple[Tensor, ...], output: Tensor) -> Tensor:
            inputs = given[0].detach()
            if len(output) == 1 and batch > 1:  # position embeddings shared by all rows
                output = output.expand(batch, *output.shape[1:])
                inputs = inputs.expand(batch, *inputs.shape[1:])
            if len(output) != batch:
                raise NotLayerwiseError(f"{type(module).__name__} does not keep the examples apart")
            self.calls[module].inputs.append(inputs)
            self.calls[module].outputs.append(output)
            return output

        return record

    def squared_norms(self, losses: Tensor) -> Tensor:
        """Squared norm of each example's gradient in each layer, float32 `(layers, batch)`.

        Args:
            losses: `(batch,)`, of the recorded pass.

        Raises:
            NotLayerwiseError: If a layer's output was changed in place, so that its gradient is lost.
        """
        outputs = [output for calls in self.calls.values() for output in calls.outputs]
        if any(output._version for output in outputs):
            raise NotLayerwiseError("a layer's output is changed in place")
        gradients = iter(torch.autograd.grad(losses.sum(), outputs, allow_unused=True) if outputs else ())
        norms = []
        for module, calls in self.calls.items():
            pairs = [(given, gradient) for given in calls.inputs if (gradient := next(gradients)) is not None]
            norms.append(_of_layer(module, calls.names, pairs) if pairs else torch.zeros_like(losses.detach().float()))
        return torch.stack(norms)

    def by_layer(self, gradients: Mapping[int, Tensor]) -> Tensor:
        """The same for one example, `(layers,)`, from the gradients of its parameters, by their `id`."""
        return torch.stack(
            [
                torch.stack([gradients[id(getattr(module, name))].float().square().sum() for name in calls.names]).sum()
                for module, calls in self.calls.items()
            ]
        )


def _check_kind(module: nn.Module) -> None:
    if type(module) not in _SUPPORTED:
        raise NotLayerwiseError(f"{type(module).__name__} is not a supported layer")
    if isinstance(module, nn.Embedding) and (module.scale_grad_by_freq or module.sparse):
        raise NotLayerwiseError("an embedding with scale_grad_by_freq or sparse gradients")


def _of_layer(module: nn.Module, names: frozenset[str], pairs: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Squared norms `(batch,)` of one layer over all of its calls."""
    batch = len(pairs[0][1])
    if isinstance(module, nn.Embedding):
        ids = torch.cat([given.reshape(batch, -1) for given, _ in pairs], 1)
        return _embedding(ids, _stacked(pairs, 1), module.padding_idx)
    outgoing = _stacked(pairs, 1)
    total = torch.zeros(batch, device=outgoing.device)
    if isinstance(module, nn.Linear):
        if "weight" in names:
            total += _products(_stacked(pairs, 0), outgoing)
    elif "weight" in names:
        assert isinstance(module, nn.LayerNorm)
        normal = [functional.layer_norm(given.float(), module.normalized_shape, eps=module.eps) for given, _ in pairs]
        flat = torch.cat([part.reshape(batch, -1, outgoing.shape[-1]) for part in normal], 1)
        total += (flat * outgoing).sum(1).square().sum(-1)
    if "bias" in names:
        total += outgoing.sum(1).square().sum(-1)
    return total


def _stacked(pairs: list[tuple[Tensor, Tensor]], place: int) -> Tensor:
    """Inputs (0) or gradients (1) of all calls, float32 `(batch, positions, size)`."""
    parts = [pair[place] for pair in pairs]
    return torch.cat([part.reshape(len(part), -1, part.shape[-1]) for part in parts], 1).float()


def _products(inputs: Tensor, outgoing: Tensor) -> Tensor:
    """`|| sum_t d_t h_t^T ||^2`, by the cheaper of two ways."""
    positions, size, outputs = inputs.shape[1], inputs.shape[2], outgoing.shape[2]
    if positions * (size + outputs) <= size * outputs:
        return (_gram(inputs) * _gram(outgoing)).sum((1, 2)).clamp_min(0)
    return torch.stack([(gradient.T @ given).square().sum() for given, gradient in zip(inputs, outgoing, strict=True)])


def _gram(vectors: Tensor) -> Tensor:
    return vectors @ vectors.transpose(1, 2)


def _embedding(ids: Tensor, outgoing: Tensor, padding: int | None) -> Tensor:
    """Positions with one token share its row: `sum_ts [id_t = id_s] d_t . d_s`; padding has no gradient."""
    if padding is not None:
        outgoing = outgoing.masked_fill((ids == padding).unsqueeze(-1), 0.0)
    same = ids.unsqueeze(1) == ids.unsqueeze(2)  # (batch, positions, positions)
    return (_gram(outgoing) * same).sum((1, 2)).clamp_min(0)
