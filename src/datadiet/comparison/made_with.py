"""How many runs shared the machine while a run was made, kept beside the run: times are compared by it."""

from __future__ import annotations

import json
from pathlib import Path

from datadiet.checks import UserError
from datadiet.comparison.results import CELLS, read_comparison
from datadiet.store import read_json, write_atomically

SCHEMA = 1


class MadeWith:
    """The notes of a comparison's folder.

    A comparison that was made before there were notes is believed what its `comparison.json` says.

    Args:
        folder: Of the comparison.
        jobs: Runs at a time, now.
    """

    def __init__(self, folder: Path, jobs: int) -> None:
        self._folder, self._jobs = folder, jobs
        self._alone = _said_to_be_alone(folder)

    def note(self, run: str, *, resumed: bool) -> None:
        """Keep how many run at a time while a run is made; one that is resumed keeps the most there have been.

        Args:
            run: Its name.
            resumed: Whether a part of it was made earlier.
        """
        earlier = self.known(run) if resumed else self._jobs
        jobs = None if earlier is None else max(earlier, self._jobs)
        write_atomically(self._file(run), json.dumps({"schema": SCHEMA, "jobs": jobs}))

    def known(self, run: str) -> int | None:
        """The most runs there were at a time while a run was made; None where that is not known."""
        try:
            jobs = read_json(self._file(run), SCHEMA, "note on a run").get("jobs")
        except UserError:
            return 1 if run in self._alone else None
        return jobs if isinstance(jobs, int) else None

    def _file(self, run: str) -> Path:
        return self._folder / CELLS / f"{run}.json"


def _said_to_be_alone(folder: Path) -> frozenset[str]:
    """Runs of an earlier comparison that had no notes, and said that its times could be compared."""
    try:
        found = read_comparison(folder)
    except (UserError, KeyError):
        return frozenset()
    runs = found.get("runs", []) if found.get("comparable_times") else []
    return frozenset(run["name"] for run in runs if run["status"] == "done")
