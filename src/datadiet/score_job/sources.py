"""What a saved model or a run folder holds that scores can be made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from datadiet import run_folder as layout
from datadiet.beforehand import checkpoints_of
from datadiet.checks import DataError, UserError
from datadiet.config import FinetuneConfig, read_config
from datadiet.dynamic_scores import DYNAMIC_SCORES
from datadiet.dynamics_table import recorded_rounds
from datadiet.records import Json
from datadiet.store import MANIFEST

Columns = Mapping[str, NDArray[np.float32]]


def run_of(given: Path) -> Path | None:
    """The run folder that a model belongs to: itself, or the one around its model/; None for other saved models."""
    around = given.resolve().parent
    for folder in (given, around) if given.resolve().name == layout.MODEL else (given,):
        if (folder / layout.RESULT).is_file():
            return folder
    return None


def name_of(given: Path | str) -> str:
    """What a model is called in a score file: its run, its own folder, or its hub name; never a path."""
    folder = Path(given).expanduser()
    if not folder.is_dir():
        return str(given)
    return (run_of(folder) or folder).resolve().name


def result_of(given: Path) -> Json | None:
    """The result of the run that a model belongs to; None where it has none, or one that cannot be read."""
    run = run_of(given)
    try:
        return None if run is None else layout.read_result(run)
    except UserError:
        return None


def max_length_of(given: Path) -> int:
    """The tokens that a model's run has cut its texts to; the usual number where there is no run."""
    run = run_of(given)
    try:
        return FinetuneConfig.max_length if run is None else read_config(run / layout.CONFIG).max_length
    except UserError:
        return FinetuneConfig.max_length


def steps_of(given: Path) -> list[Path]:
    """The kept checkpoints of a model's run, in order."""
    run = run_of(given)
    return [] if run is None else checkpoints_of(run)


def has_history(given: Path) -> bool:
    """Whether a model's run has kept its score history."""
    run = run_of(given)
    return run is not None and (run / layout.SCORES / MANIFEST).is_file()


def history_of(given: Path, ids: Sequence[str], fingerprint: str) -> Columns:
    """What a run has recorded of every training row, float32 `(rounds, n)` by column.

    Args:
        given: The run folder, or its model/.
        ids: Of the training rows, in order.
        fingerprint: Of the data.

    Raises:
        DataError: If the run saw other data, other ids, or has let rows rest from its first epoch to its last.
    """
    run, result = run_of(given), result_of(given)
    assert run is not None  # `has_history` has seen it
    trained = (result or {}).get("data", {}).get("fingerprint")
    if trained is not None and trained != fingerprint:
        raise DataError(
            f"the run {run} was trained on other data (fingerprint {trained}, the data here {fingerprint}), so its "
            "training dynamics are of other examples. Give its own data, read in the same way, or leave them out."
        )
    rounds = recorded_rounds(run)
    names = [str(key) for key in ids]
    if len(rounds.ids) != len(names):
        raise DataError(f"the run {run} has values of {len(rounds.ids)} rows, the data has {len(names)}.")
    pairs = zip(rounds.ids, names, strict=True)
    if other := [(theirs, ours) for theirs, ours in pairs if theirs is not None and theirs != ours]:
        theirs, ours = other[0]
        raise DataError(
            f"{len(other)} ids of the run {run} are not those of the data, the first {theirs!r}, not {ours!r}."
        )
    never = [name for name, held in zip(names, rounds.ids, strict=True) if held is None]
    if never:
        raise DataError(
            f"the run {run} has never seen {len(never)} of {len(names)} training rows, the first with the id "
            f"{never[0]!r}, so they have no training dynamics: train it with --keep 1."
        )
    return rounds.columns


def readable(columns: Columns) -> list[str]:
    """The scores of training dynamics that a history can give for every row.

    Example:
        >>> readable({"correct": np.float32([[1, 0], [np.nan, 1]])})
        ['correctness', 'forgetting']
    """
    return [
        name
        for name, score in DYNAMIC_SCORES.items()
        if all(column in columns and _complete(columns[column]) for column in score.columns)
    ]


def _complete(table: NDArray[np.float32]) -> bool:
    """Whether every row has a finite value in some round."""
    return bool(np.isfinite(table).any(0).all())
