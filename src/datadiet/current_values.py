"""How hard each example is now: its last value, whatever its source and moment, and what the history makes of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datadiet.drift import REST, to_epoch_end
from datadiet.history import History

Rows = NDArray[np.int64]
Values = NDArray[np.float32]
_HISTORY = "history."


class CurrentValues:
    """The last value of every example, comparable with one another.

    Args:
        num_examples: Rows of the data set.
        history: What earlier rounds count for.
        every: Whether the history takes every value as it comes, instead of the last one of each round brought to one
            moment: for quantities over the whole training.

    Attributes:
        fresh: bool `(n,)`, has a value since the last selection.
        known: Whether there is any value.
    """

    def __init__(self, num_examples: int, history: History, *, every: bool = False) -> None:
        # in units of the level, which falls as the model learns; +inf = never seen
        self._values, self._level = np.full(num_examples, np.inf, np.float32), 1.0
        self._history, self._memory = history, history.init(num_examples)
        self.fresh, self.known = np.zeros(num_examples, bool), False
        self._every = every

    def __len__(self) -> int:
        return len(self._values)

    def take(self, rows: Rows, values: Values, *, moments: Values | None = None) -> None:
        """Make the values the current ones.

        Args:
            rows: int64 `(n,)`.
            values: float32 `(n,)`.
            moments: When in the epoch each was seen, where they come from training; None for those of one moment.
        """
        if moments is not None and not self._every:
            prior = self._values[rows]
            prior *= np.float32(self._level)
            values, fall = to_epoch_end(values, prior, moments)
            self._level *= fall**REST  # so what rests falls with it
        self._values[rows] = values / np.float32(self._level)
        self.fresh[rows], self.known = True, True
        if self._every:
            taken = np.zeros(len(self), bool)
            taken[rows] = True
            self._memory = self._history.update(self._memory, self._values, taken)

    def close_round(self) -> Values:
        """What the history makes of the values, float32 `(n,)`, +inf where never seen; nothing is fresh afterwards."""
        if not self._every:
            self._memory = self._history.update(self._memory, self._values, self.fresh)
        self.fresh[:] = False
        return self._history.value(self._memory) * np.float32(self._level)

    def quantiles(self, wanted: Mapping[str, float]) -> dict[str, float]:
        """Quantiles of the values by name; empty where there is no value."""
        values = self._history.value(self._memory) if self._every else self._values
        known = values[np.isfinite(values)]  # a copy
        if not len(known):
            return {}
        found = np.quantile(known, list(wanted.values()), overwrite_input=True) * self._level
        return dict(zip(wanted, map(float, found), strict=True))

    def state(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """Arrays, and plain values."""
        memory = {_HISTORY + name: np.asarray(array) for name, array in self._memory.items()}
        arrays = {"values": self._values, "fresh": self.fresh, **memory}
        return arrays, {"known": self.known, "level": self._level}

    def load(self, arrays: dict[str, NDArray[Any]], numbers: dict[str, Any]) -> None:
        """Take up a state."""
        self._values, self.fresh = np.array(arrays["values"]), np.array(arrays["fresh"])
        self._memory = {
            name.removeprefix(_HISTORY): np.array(array) for name, array in arrays.items() if name.startswith(_HISTORY)
        }
        self.known, self._level = numbers["known"], numbers["level"]
