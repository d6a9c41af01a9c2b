"""Which parameters a gradient is taken over."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from datadiet.checks import ArgumentError, unknown
from datadiet.models.heads import head_layers

Parameters = str | Callable[[str], bool]
CHOICES = ("all", "last_layer")


def chosen_parameters(model: nn.Module, parameters: Parameters) -> dict[str, nn.Parameter]:
    """The parameters that train, and that are wanted.

    Args:
        model: The model.
        parameters: `all`; `last_layer`: of the last linear layer of each head; or a function of a name that says
            whether it counts.

    Raises:
        ArgumentError: If the choice is unknown or no parameter is left, with names that there are.

    Example:
        >>> list(chosen_parameters(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), lambda name: name[0] == "1"))
        ['1.weight', '1.bias']
    """
    training = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    if callable(parameters):
        found = {name: parameter for name, parameter in training.items() if parameters(name)}
    elif parameters == "all":
        found = training
    elif parameters == "last_layer":
        layers = {id(parameter) for layer in last_layers(model) for parameter in layer.parameters()}
        found = {name: parameter for name, parameter in training.items() if id(parameter) in layers}
    else:
        raise ArgumentError(unknown("parameters", parameters, CHOICES))
    if not found:
        raise ArgumentError(f"no parameter that trains was chosen; there are: {_some(list(training))}.")
    return found


def last_layers(model: nn.Module) -> list[nn.Linear]:
    """The last linear layer of each head.

    Raises:
        ArgumentError: If the model has none that can be told.
    """
    layers = list(dict.fromkeys(head_layers(model).values()))
    if not layers:
        raise ArgumentError(
            "parameters='last_layer' needs a last linear layer with as many outputs as the model's config has labels; "
            "give a function of the parameters' names, such as lambda name: name.startswith('classifier')."
        )
    return layers


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "") if names else "none"
