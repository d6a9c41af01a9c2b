"""The two tables of a run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from datadiet.store.history import ScoreStore
from datadiet.store.parted import PartedTable


class RunTables:
    """The two tables that a run writes: scores/ and plans/.

    Args:
        folder: The run folder; None keeps them in memory.
        run: Of whom: two runs cannot share a folder.
        ids: The user's id of each row.
        parts: How many parts of each count, of a run that goes on: later ones belong to steps that will be done again.

    Attributes:
        scores, plans: The tables.

    Raises:
        DataError: If the folder belongs to another run.
    """

    def __init__(self, folder: Path | None, run: str, ids: Sequence[str] | None, parts: Sequence[int]) -> None:
        self.scores = ScoreStore(folder and folder / "scores", run, ids)
        self.plans = PartedTable(folder and folder / "plans", run)
        self.scores.table.truncate(parts[0])
        self.plans.truncate(parts[1])

    @property
    def parts(self) -> tuple[int, int]:
        """How many parts each has, for a checkpoint."""
        return len(self.scores.table), len(self.plans)
