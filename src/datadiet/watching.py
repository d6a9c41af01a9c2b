"""A noise guard at work in a run: what it thinks, and what training has said since it was asked last."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datadiet.noise import COLUMNS, NoiseGuard
from datadiet.records import Json, Scores

# the columns of the score history that it reads: of the head with one label per example
LABEL_COLUMNS = {"loss": "label_loss", "margin": "label_margin"}
MOMENT = "moment"
_GUARD = "guard."


class Watch:
    """Collects what is seen, and has it reviewed.

    Args:
        groups: int64 `(n,)`, the label of each row.

    Attributes:
        guard: As it stands.
        aside: bool `(n,)`, the rows that rest as suspected noise.
    """

    def __init__(self, groups: NDArray[np.int64]) -> None:
        self._groups = groups
        self._values = {name: np.full(len(groups), np.nan, np.float32) for name in (*COLUMNS, MOMENT)}
        self._seen = np.zeros(len(groups), bool)
        self.guard, self.aside = NoiseGuard(), np.zeros(len(groups), bool)

    def take(self, scores: Scores) -> None:
        """Make the values the latest of their rows; a pass does not replace what training saw since the last review,
        which was before the row was trained on."""
        new = np.ones(len(scores.rows), bool) if scores.source == "train" else ~self._seen[scores.rows]
        rows = scores.rows[new]
        for name, column in {**LABEL_COLUMNS, MOMENT: MOMENT}.items():
            self._values[name][rows] = scores.values[column][new]
        self._seen[rows] = True

    def review(self, epoch: int) -> None:
        """Judge what was seen since the last time, before the plan of an epoch is made."""
        if self._seen.any():
            self.guard, self.aside = self.guard.review(self._values, self._seen, self._groups, epoch=epoch)
            self._seen = np.zeros_like(self._seen)

    def unheard(self) -> NDArray[np.int64]:
        """The rows at rest that nothing has been seen of since the last review: in epochs on everything they train."""
        return np.flatnonzero(self.aside & ~self._seen)

    def free(self, count: int) -> NDArray[np.int64]:
        """The rows to choose `count` from, ascending: all that do not rest; where they are too few, also the least
        suspected of those that do."""
        rows = np.flatnonzero(~self.aside)
        if (short := count - len(rows)) > 0:
            resting = self.guard.suspects()["row"]
            rows = np.sort(np.r_[rows, resting[len(resting) - short :]])
        return rows

    def state(self) -> tuple[dict[str, NDArray[Any]], Json]:
        """Arrays, and plain values."""
        arrays, numbers = self.guard.state()
        return {**self._values, "seen": self._seen, **{_GUARD + name: arrays[name] for name in arrays}}, numbers

    def load(self, arrays: Mapping[str, NDArray[Any]], numbers: Mapping[str, Any]) -> None:
        """Take up a state."""
        held = {name.removeprefix(_GUARD): np.array(arrays[name]) for name in arrays if name.startswith(_GUARD)}
        self.guard = self.guard.restored(held, numbers)
        self._values = {name: np.array(arrays[name]) for name in self._values}
        self._seen = np.array(arrays["seen"])
        self.aside = held.get("aside", np.zeros(len(self._seen), bool))
