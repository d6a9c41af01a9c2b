"""What the training forwards of an epoch saw, until the diet asks for it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from datadiet.records import Scores

MOMENT = "moment"  # column of the history: the batch of the epoch, from 1, in which a training value was seen
SEEN = "seen"
_FLUSH_EVERY = 256  # batches are kept as tensors so long, so that no step waits for a device


class TrainingValues:
    """The latest value of each example in the epoch that trains.

    Args:
        num_examples: Rows of the data set.
        columns: Names of the values; the last is `MOMENT`.
    """

    def __init__(self, num_examples: int, columns: tuple[str, ...]) -> None:
        self._num_examples, self._columns = num_examples, columns
        self._epoch, self._moment = 0, 0
        self._pending: list[tuple[Tensor, Tensor]] = []
        self._arrays: dict[str, NDArray[Any]] = {}  # float32 per column, nan where not seen; bool `seen`

    def add(self, rows: Tensor, values: Tensor, *, epoch: int) -> None:
        """Take the values of a batch.

        Args:
            rows: int64 `(batch,)`.
            values: float32 `(columns without moment, batch)`.
            epoch: The epoch that is training.
        """
        if self._epoch != epoch:
            self._epoch, self._moment = epoch, 0
        self._moment += 1
        moment = torch.full_like(values[:1], self._moment)
        self._pending.append((rows.detach(), torch.cat([values, moment])))
        if len(self._pending) >= _FLUSH_EVERY:
            self._flush()

    def drain(self, round_: int) -> Scores:
        """Hand over what was seen since the last call, ascending by row, as a record of a round."""
        self._flush()
        seen = self._arrays.pop(SEEN, np.zeros(0, bool))
        rows = np.flatnonzero(seen)
        whole = len(rows) == self._num_examples  # then the arrays are handed over as they are, else column by column
        held = (name for name in self._columns if name in self._arrays)
        values = {name: self._arrays.pop(name) if whole else self._arrays.pop(name)[rows] for name in held}
        return Scores(rows, values, "train", self._epoch, round_)

    def put_back(self, scores: Scores) -> None:
        """Take back what `drain` handed over."""
        for name, values in scores.values.items():
            self._array(name, np.nan)[scores.rows] = values
        self._array(SEEN, False)[scores.rows] = True

    def state(self) -> tuple[dict[str, NDArray[Any]], dict[str, int]]:
        """Arrays, and plain values."""
        self._flush()
        return dict(self._arrays), {"epoch": self._epoch, "moment": self._moment}

    def load(self, arrays: dict[str, NDArray[Any]], numbers: dict[str, int]) -> None:
        """Take up a state."""
        self._arrays = {name: np.array(array) for name, array in arrays.items()}
        self._epoch, self._moment = numbers["epoch"], numbers["moment"]

    def _flush(self) -> None:
        if not self._pending:
            return
        rows = torch.cat([rows.cpu() for rows, _ in self._pending]).numpy()
        values = torch.cat([values.cpu() for _, values in self._pending], dim=1).numpy()  # (columns, observed)
        self._pending = []
        self.put_back(Scores(rows, dict(zip(self._columns, values, strict=True)), "train", self._epoch, 0))

    def _array(self, name: str, fill: float | bool) -> NDArray[Any]:
        if name not in self._arrays:
            self._arrays[name] = np.full(self._num_examples, fill, bool if name == SEEN else np.float32)
        return self._arrays[name]
