"""A learning-rate schedule that follows a position, for training whose number of steps is not known at the start."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch.optim.lr_scheduler import LambdaLR

from datadiet.checks import ArgumentError

Factor = Callable[[Any], float]


def follow(scheduler: Any, position: Callable[[int], float]) -> None:
    """Make a scheduler read its learning rate at `position(step)` instead of at the step.

    Args:
        scheduler: Of the Trainer, before its first step.
        position: Optimizer steps made, to a place in the steps that were planned at most.

    Raises:
        ArgumentError: If the scheduler is no function of the step.

    Example:
        >>> import torch
        >>> scheduler = LambdaLR(torch.optim.SGD([torch.zeros(1)], lr=1.0), lambda step: 1 - step / 10)
        >>> follow(scheduler, lambda step: 2.0 * step)
        >>> scheduler.optimizer.step(); scheduler.step()
        >>> scheduler.get_last_lr()
        [0.8]
    """
    if not isinstance(scheduler, LambdaLR):
        raise ArgumentError(
            f"tolerance does not go with {type(scheduler).__name__}, whose learning rate is no function of the step; "
            "use linear, cosine, constant or polynomial."
        )
    scheduler.lr_lambdas = [_at_position(factor, position) for factor in scheduler.lr_lambdas]


def _at_position(factor: Factor, position: Callable[[int], float]) -> Factor:
    # a plain function: of one, a scheduler's state holds nothing, where it would hold an object's attributes
    def at_position(step: int) -> float:
        return factor(position(step))

    return at_position
