"""Checkpoints of a run, one in memory at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from torch import nn

Checkpoint = nn.Module | str | Path


def loaded(checkpoints: Iterable[Checkpoint], load: Callable[[Any], nn.Module] | None = None) -> Iterator[nn.Module]:
    """The models one after the other; a folder is loaded when it is its turn, and no reference to it is kept.

    Args:
        checkpoints: Models, or whatever `load` takes.
        load: A folder to a model; transformers' classifiers and our joint models by default.

    Example:
        >>> [type(model).__name__ for model in loaded([nn.Linear(1, 1), "folder"], lambda name: nn.ReLU())]
        ['Linear', 'ReLU']
    """
    for checkpoint in checkpoints:
        if isinstance(checkpoint, nn.Module):
            yield checkpoint
        else:
            yield (load or _load)(checkpoint)


def _load(folder: Any) -> nn.Module:
    from datadiet.models.loading import load_saved

    model: nn.Module = load_saved(folder)
    return model
