"""The state of Adam in a checkpoint of the Trainer, by the names of the weights it belongs to."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Trainer

from datadiet.errors import DataError

OPTIMIZER = "optimizer.pt"


@dataclass(frozen=True)
class AdamState:
    """What the next step of Adam needs beside a gradient.

    Attributes:
        first, second: Running means of the gradients and of their squares, by the name of the weight.
        steps: How many there were.
        betas, epsilon: Of the optimizer.
        rate, first_rate: The learning rate after these steps, and the one that the schedule began from.
    """

    first: Mapping[str, Tensor]
    second: Mapping[str, Tensor]
    steps: int
    betas: tuple[float, float]
    epsilon: float
    rate: float
    first_rate: float

    def step(self, gradient: Mapping[str, Tensor], names: Mapping[str, str]) -> dict[str, Tensor]:
        """What Adam would move the weights by, up to the learning rate, if the gradient came next.

        Args:
            gradient: Of one example.
            names: From the names in it to those of the weights here.
        """
        one, two = self.betas
        moved = {}
        for name, part in gradient.items():
            mean = one * self.first[names[name]] + (1 - one) * part
            square = two * self.second[names[name]] + (1 - two) * part.square()
            root = (square / (1 - two ** (self.steps + 1))).sqrt()
            moved[name] = mean / (1 - one ** (self.steps + 1)) / (root + self.epsilon)
        return moved


def adam_state(folder: Path, model: nn.Module) -> AdamState | None:
    """The state of Adam in a checkpoint; None where it holds none.

    Nothing but tensors and plain values is read from the file: it cannot run code.

    Args:
        folder: The checkpoint.
        model: As it was saved there, with the weights that train.

    Raises:
        DataError: If the file cannot be read, or is of other weights or another optimizer.
    """
    path = folder / OPTIMIZER
    if not path.is_file():
        return None
    device = next(model.parameters()).device
    try:
        saved: Any = torch.load(path, map_location=device, weights_only=True)
        groups = saved["param_groups"]
        numbers = [number for group in groups for number in group["params"]]
        entries = [saved["state"][number] for number in numbers]
        pairs = [(entry["exp_avg"], entry["exp_avg_sq"]) for entry in entries]
        found = {
            "steps": int(entries[0]["step"]),
            "betas": tuple(map(float, groups[0]["betas"])),
            "epsilon": float(groups[0]["eps"]),
            "rate": float(groups[0]["lr"]),
            "first_rate": float(groups[0].get("initial_lr", groups[0]["lr"])),
        }
    except Exception as error:  # torch raises errors of many types for a damaged file
        reason = " ".join(str(error).split())[:200]
        raise DataError(f"{path} holds no state of Adam that can be read ({reason}): take direction=plain.") from error
    names = _in_order(model)
    shapes = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    if [shapes[name] for name in names] != [tuple(first.shape) for first, _ in pairs]:
        raise DataError(f"{path} belongs to other weights than those of {folder}: take direction=plain.")
    first = {name: pair[0].float() for name, pair in zip(names, pairs, strict=True)}
    second = {name: pair[1].float() for name, pair in zip(names, pairs, strict=True)}
    return AdamState(first, second, **found)  # type: ignore[arg-type]


def _in_order(model: nn.Module) -> list[str]:
    """The weights that train, in the order of the Trainer's optimizer: those that decay, then the others."""
    untyped: Any = Trainer
    decaying = set(untyped.get_decay_parameter_names(None, model))
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    return [name for name in names if name in decaying] + [name for name in names if name not in decaying]
