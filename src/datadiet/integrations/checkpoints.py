"""The diet's part of a Trainer checkpoint: arrays in safetensors, plain values in JSON, no pickle."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from transformers.trainer_utils import get_last_checkpoint

from datadiet.checks import ArgumentError
from datadiet.records import Json
from datadiet.store import write_atomically

ARRAYS, NUMBERS = "diet_state.safetensors", "diet_state.json"


def save_diet(folder: Path, arrays: Mapping[str, NDArray[Any]], numbers: Json) -> None:
    """Write a diet's state into a checkpoint; the JSON is written last and makes it complete."""
    save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, folder / ARRAYS)
    write_atomically(folder / NUMBERS, json.dumps(numbers, indent=1))


def load_diet(folder: Path) -> tuple[dict[str, NDArray[Any]], Json]:
    """Read what `save_diet` wrote.

    Raises:
        ArgumentError: If the checkpoint has no complete diet state.
    """
    if not (folder / NUMBERS).is_file():
        raise ArgumentError(
            f"{folder} holds no diet state ({NUMBERS}); resume from a checkpoint that a DietTrainer has saved, "
            "or train with the plain Trainer."
        )
    return load_file(folder / ARRAYS), json.loads((folder / NUMBERS).read_text(encoding="utf-8"))


def last_checkpoint(folder: Path) -> str | None:
    """The latest checkpoint in a folder; None where there is none, or no folder."""
    if not folder.is_dir():
        return None
    found: str | None = get_last_checkpoint(str(folder))  # type: ignore[no-untyped-call]
    return found
