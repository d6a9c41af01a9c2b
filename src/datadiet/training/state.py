"""The state of a run across interruptions and processes.

A checkpoint of the Trainer also holds the diet's state: arrays in safetensors, plain values in JSON, no pickle. The
JSON is written last, so it marks the checkpoint as complete. Processes exchange values at epoch ends and refreshes
only, never per step.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from datadiet.diet.values import MOMENT
from datadiet.errors import ArgumentError
from datadiet.files import write_atomically
from datadiet.types import Json, Scores

ARRAYS, NUMBERS = "diet_state.safetensors", "diet_state.json"


def save_diet(folder: Path, arrays: Mapping[str, NDArray[Any]], numbers: Json) -> None:
    """Write a diet's state into a checkpoint; the JSON last, which makes it complete."""
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


def last_checkpoint(folder: Path) -> Path | None:
    """The last complete checkpoint in a folder, by its number; one that a kill left half-written does not count.

    Args:
        folder: Has subfolders `checkpoint-<step>`; may be missing.
    """
    complete = {
        int(match[1]): file.parent
        for file in folder.glob(f"checkpoint-*/{NUMBERS}")
        if (match := re.fullmatch(r"checkpoint-(\d+)", file.parent.name))
    }
    return complete[max(complete)] if complete else None


def share_of(rows: NDArray[np.int64], accelerator: Any) -> NDArray[np.int64]:
    """The rows that this process scores: every num_processes-th."""
    return rows[accelerator.process_index :: accelerator.num_processes]


def exchange(scores: Scores, columns: tuple[str, ...], accelerator: Any) -> Scores:
    """The values of all processes, the same on each, ascending by row, each row once.

    Rows are gathered as int64 and values as float32, separately: float32 cannot hold a row above 2^24 exactly. A row
    that several processes have (samplers repeat examples to fill the last global batch) keeps the value that was seen
    first; of one batch, that of the lowest rank: the one of its own place in the order.

    Args:
        scores: Of this process; may be empty.
        columns: Names of the values, in an order that all processes share.
        accelerator: `accelerate.Accelerator`.
    """
    if accelerator.num_processes == 1:
        return scores
    device = accelerator.device
    counts = accelerator.gather(torch.tensor([len(scores.rows)], device=device)).tolist()
    longest = max(counts)
    if longest == 0:
        return scores
    rows = torch.zeros(longest, dtype=torch.int64)
    table = torch.zeros(longest, len(columns), dtype=torch.float32)
    rows[: len(scores.rows)] = torch.from_numpy(scores.rows)
    for place, name in enumerate(columns):
        if len(scores.rows):
            table[: len(scores.rows), place] = torch.from_numpy(scores.values[name])
    all_rows = accelerator.gather(rows.to(device)).cpu().numpy().reshape(-1, longest)  # (processes, longest)
    all_values = accelerator.gather(table.to(device)).cpu().numpy().reshape(-1, longest, len(columns))
    real = np.arange(longest) < np.asarray(counts)[:, None]  # (processes, longest)
    found, values = all_rows[real], all_values[real]
    if MOMENT in columns:  # nan in a pass, where each row is once
        order = np.argsort(values[:, columns.index(MOMENT)], kind="stable")
        found, values = found[order], values[order]
    merged, first = np.unique(found, return_index=True)
    kept = values[first]
    return replace(scores, rows=merged, values={name: kept[:, place] for place, name in enumerate(columns)})
