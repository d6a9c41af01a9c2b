"""The score history of a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from datadiet.checks import DataError
from datadiet.records import Scores
from datadiet.store.parted import PartedTable, read_table
from datadiet.store.slices import slices, text_array

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa


class ScoreStore:
    """The score history of a run: one part per epoch of training values and per scoring pass.

    Columns: `row`, `id`, `epoch`, `round`, `source` (train | pass), and one column per score.

    Args:
        folder: `RUN/scores`, or None to keep the history in memory.
        run: Names the run.
        ids: The user's id of each row; the row number as text where there is none.
    """

    def __init__(self, folder: Path | None, run: str, ids: Sequence[str] | None = None) -> None:
        self.table = PartedTable(folder, run)
        self._ids = None if ids is None else text_array(ids)

    def append(self, scores: Scores) -> None:
        """Add the values of some rows."""
        self.table.append(self._piece(scores, part) for part in slices(len(scores.rows)))

    def _piece(self, scores: Scores, part: slice) -> pa.Table:
        import pyarrow as pa

        rows = pa.array(scores.rows[part], pa.int64())
        count = len(rows)
        return pa.table(
            {
                "row": rows,
                "id": rows.cast(pa.string()) if self._ids is None else self._ids.take(rows),
                "epoch": pa.array(np.full(count, scores.epoch, np.int32)),
                "round": pa.array(np.full(count, scores.round, np.int32)),
                "source": pa.repeat(pa.scalar(scores.source), count),
                **{name: pa.array(values[part], pa.float32()) for name, values in scores.values.items()},
            }
        )

    def to_pandas(self) -> pd.DataFrame:
        """Every value of every example, one line per (row, epoch, source)."""
        import pandas as pd

        table = self.table.read()
        return pd.DataFrame() if table is None else table.to_pandas()


def last_values(folder: Path, column: str) -> dict[str, float]:
    """The last value of each id in a run's score history.

    Args:
        folder: `RUN/scores`.
        column: A score's name.

    Raises:
        DataError: If the history is missing or does not hold that score.
    """
    table = read_table(folder)
    if column not in table.column_names:
        fixed = {"row", "id", "epoch", "round", "source"}
        held = ", ".join(name for name in table.column_names if name not in fixed)
        raise DataError(f"{folder} holds no values of {column!r}; it holds: {held}.")
    ids, values = table["id"].to_pylist(), table[column].to_numpy()
    return {key: value for key, value in zip(ids, values.tolist(), strict=True) if value == value}
