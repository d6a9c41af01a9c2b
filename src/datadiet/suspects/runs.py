"""Training rows ranked from the score history of run folders."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from datadiet.checks import DataError, Problems
from datadiet.store import read_table
from datadiet.suspects.combined import Ranking
from datadiet.suspects.rankings import aum, el2n_window

Values = NDArray[np.float32]

# an epoch counts where it has a value of at least this share of the rows: what rested cannot be compared
WHOLE = 0.99

RANKINGS: Mapping[str, tuple[str, Callable[[ArrayLike], Values]]] = {
    "aum": ("margin", aum),
    "el2n": ("el2n", el2n_window),
}

NAMES = (*RANKINGS, "irreducible", "threshold", "cleanlab")  # all that this package can do


def from_runs(
    runs: Sequence[Path], by: Sequence[str] = ("aum", "el2n"), *, epochs: tuple[int, int] | None = None
) -> Ranking:
    """Rank the training rows of one run, or of several on the same rows with other seeds.

    Args:
        runs: Run folders.
        by: Names of `RANKINGS`.
        epochs: From and up to (exclusive) which epoch; by default all epochs that saw every row. Late epochs of a long
            run know the wrong labels by heart.

    Raises:
        ArgumentError: For an unknown ranking, or no run.
        DataError: If a run has no such scores, no epoch that saw every row, or other rows than the first.
    """
    problems = Problems()
    problems.check(len(runs) > 0, "no run folder was given.")
    for name in by:
        problems.choice("ranking", name, RANKINGS)
    problems.raise_any()
    tables = [read_rounds(run, [RANKINGS[name][0] for name in by], epochs) for run in runs]
    ids = tables[0][0]
    for run, (others, _) in zip(runs, tables, strict=True):
        if others != ids:
            raise DataError(f"{run} has other training rows than {runs[0]}; rank runs on the same rows together.")
    stacked = {name: np.concatenate([columns[RANKINGS[name][0]] for _, columns in tables]) for name in by}
    return Ranking(ids, {name: RANKINGS[name][1](values) for name, values in stacked.items()})


def read_rounds(
    run: Path, columns: Sequence[str], epochs: tuple[int, int] | None = None
) -> tuple[tuple[str, ...], dict[str, Values]]:
    """Values of the training forwards of a run.

    Args:
        run: A run folder.
        columns: Of the score history.
        epochs: See `from_runs`.

    Returns:
        The ids by row, and float32 `(epochs, n)` per column: the epochs that saw every row.

    Raises:
        DataError: If the history lacks a column, or no epoch saw every row.
    """
    table = read_table(run / "scores").to_pandas()
    table = table[table["source"] == "train"]
    if missing := [name for name in columns if name not in table.columns]:
        raise DataError(f"{run} holds no values of {', '.join(missing)}.")
    rows = int(table["row"].max()) + 1 if len(table) else 0
    counts = table.groupby("epoch")["row"].nunique()
    first, last = epochs or (0, int(counts.index.max()) + 1 if len(counts) else 0)
    whole = [epoch for epoch in counts.index if first <= epoch < last and counts[epoch] >= WHOLE * rows]
    if not whole:
        raise DataError(f"{run} has no epoch that saw every training row, so that the rows could be compared.")
    ids = table.drop_duplicates("row").set_index("row")["id"].reindex(range(rows)).astype(str)
    found = {name: np.full((len(whole), rows), np.nan, np.float32) for name in columns}
    for place, epoch in enumerate(whole):
        part = table[table["epoch"] == epoch]
        for name in columns:
            found[name][place, part["row"].to_numpy()] = part[name].to_numpy()
    return tuple(ids), found
