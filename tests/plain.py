"""Small data sets of tensors, and models made of plain modules, for the tests of gradients."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

Item = dict[str, Tensor]


def rows_of(columns: dict[str, Tensor]) -> list[Item]:
    """One mapping per row."""
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def stack(items: list[Item]) -> dict[str, Tensor]:
    return {name: torch.stack([item[name] for item in items]) for name in items[0]}


def only_x(batch: dict[str, Tensor]) -> tuple[Tensor]:
    return (batch["x"],)


def from_x(outputs: Tensor, batch: dict[str, Any]) -> Tensor:
    return nn.functional.cross_entropy(outputs, batch["labels"], reduction="none")


def mlp(inputs: int = 5, hidden: int = 6, outputs: int = 3) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, hidden), nn.Tanh(), nn.Linear(hidden, outputs))


def norm_alone(model: nn.Module, losses: Tensor, names: set[str] | None = None) -> float:
    """The norm of the gradient of one example's loss, by autograd."""
    held = [p for name, p in model.named_parameters() if names is None or name in names]
    found = torch.autograd.grad(losses.sum(), held, allow_unused=True)
    return float(torch.stack([part.square().sum() for part in found if part is not None]).sum().sqrt())
