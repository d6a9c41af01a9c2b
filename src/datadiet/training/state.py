"""The state of a run across interruptions and processes.

A checkpoint of the Trainer also holds the diet's state: arrays in safetensors, plain values in JSON, no pickle. The
JSON is written last, so it marks the checkpoint as complete, and it holds a checksum of every other file. Processes
exchange values at epoch ends and refreshes only, never per step.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from datadiet.diet.values import MOMENT
from datadiet.errors import ArgumentError, DataError
from datadiet.files import SCHEMA, damage, read_json, seal_of, sync, write_json
from datadiet.store.tables import has_tables, tables_problem
from datadiet.types import Json, Scores

ARRAYS, NUMBERS = "diet_state.safetensors", "diet_state.json"
# beside the diet's own state: of the run, of what reads the signals, and of the Trainer; the last is its `own_state`
RUN_SO_FAR, READING, STREAM, TRAINED_WITH, OWN = "run_so_far", "reading", "stream", "trained_with", "own"
_FILES, _RUN, _PARTS = "files", "run", "parts"


def save_diet(folder: Path, arrays: Mapping[str, NDArray[Any]], numbers: Json) -> None:
    """Write a diet's state into a checkpoint; the JSON last, which makes it complete and vouches for all files."""
    save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, folder / ARRAYS)
    files = sorted(file for file in folder.rglob("*") if file.is_file() and file.name != NUMBERS)
    for file in files:
        sync(file)
    seals = {file.relative_to(folder).as_posix(): seal_of(file) for file in files}
    write_json(folder / NUMBERS, {"schema": SCHEMA, **numbers, _FILES: seals})


def load_diet(folder: Path) -> tuple[dict[str, NDArray[Any]], Json]:
    """Read what `save_diet` wrote.

    Raises:
        ArgumentError: If the checkpoint has no complete diet state.
        DataError: If that is damaged; see `checkpoint_problem` for the other files.
    """
    if not (folder / NUMBERS).is_file():
        raise ArgumentError(
            f"{folder} holds no diet state ({NUMBERS}); resume from a checkpoint that a DietTrainer has saved, "
            "or train with the plain Trainer."
        )
    numbers = read_json(folder / NUMBERS, "diet state")
    if problem := damage(folder, {ARRAYS: numbers[_FILES][ARRAYS]}):
        raise DataError(f"{problem}.")
    return load_file(folder / ARRAYS), numbers


def checkpoint_problem(folder: Path, tables: Path | None) -> str | None:
    """Why a checkpoint cannot be used, in words without a full stop; None where it can.

    Args:
        folder: The checkpoint; a file of it, or a part of the tables that it counts, may be missing or damaged.
        tables: The folder of scores/ and plans/; None on a process that does not write them.
    """
    if not (folder / NUMBERS).is_file():
        return f"{folder / NUMBERS} is missing, which is written last"
    try:
        numbers = read_json(folder / NUMBERS, "diet state")
    except DataError as error:
        return str(error).rstrip(".")
    problem = damage(folder, numbers[_FILES])
    return problem if problem or tables is None else tables_problem(tables, numbers[_RUN], numbers[_PARTS])


def last_checkpoint(folder: Path, tables: Path | None) -> tuple[Path | None, list[str]]:
    """The last checkpoint in a folder that can be used, by its number, and why each later one cannot.

    Args:
        folder: Has subfolders `checkpoint-<step>`; may be missing.
        tables: See `checkpoint_problem`.
    """
    numbers = {
        int(match[1]): place
        for place in folder.glob("checkpoint-*")
        if (match := re.fullmatch(r"checkpoint-(\d+)", place.name))
    }
    problems: list[str] = []
    for number in sorted(numbers, reverse=True):
        problem = checkpoint_problem(numbers[number], tables)
        if problem is None:
            return numbers[number], problems
        problems.append(problem)
    return None, problems


def checked_checkpoint(folder: Path, tables: Path | None) -> Path:
    """A checkpoint that was named by the user.

    Raises:
        ArgumentError: If it has no diet state.
        DataError: If it cannot be used; names the file, and the checkpoint before it that can be used.
    """
    if not (folder / NUMBERS).is_file():
        load_diet(folder)  # says what to do
    if problem := checkpoint_problem(folder, tables):
        earlier, _ = last_checkpoint(folder.parent, tables)
        hint = "no other checkpoint beside it can be used" if earlier is None else f"resume from {earlier} instead"
        raise DataError(f"{problem}; {hint}.")
    return folder


def checkpoint_to_resume(
    given: str | Literal[True], folder: Path, tables: Path, *, note: Callable[[str], None]
) -> Path:
    """The checkpoint that a run goes on from, whole.

    Args:
        given: A checkpoint, or True for the last one that can be used.
        folder: Of the checkpoints of this run.
        tables: The folder of scores/ and plans/.
        note: Receives the reason why later checkpoints are passed over.

    Raises:
        ArgumentError: If there is none.
        DataError: If the one that was given cannot be used.
    """
    if given is not True:  # a run that goes on in another folder begins new tables there
        own = Path(given).absolute().parent == folder.absolute() or has_tables(tables)
        return checked_checkpoint(Path(given), tables if own else None)
    last, problems = last_checkpoint(folder, tables)
    if last is None:
        why = "".join(f" {problem}." for problem in problems)
        raise ArgumentError(f"there is no complete checkpoint to resume from in {folder}.{why}")
    for problem in problems:
        note(f"{problem}; going on from {last}.")
    return last


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
            table[: len(scores.rows), place] = torch.from_numpy(np.array(scores.values[name]))
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
