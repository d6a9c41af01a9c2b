"""Scores of training dynamics while a run goes on: a column that is recorded for free, a history, a transform.

What each gives after a round equals the batch form of `datadiet.scores.dynamics` over all rounds so far, and takes a
few bytes per example however many rounds there are.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from datadiet import history as histories
from datadiet.checks import ArgumentError
from datadiet.history import History, burnt_out

Values = NDArray[np.float32]


@dataclass(frozen=True)
class DynamicScore:
    """How a score of training dynamics is kept up to date.

    Attributes:
        columns: What it reads of the score history, names of `datadiet.scores.free.FREE`.
        of_round: Those columns of one round to the value that goes into the history, float32 `(m,)`.
        history: Makes its history.
        transform: What the history says to the score, where the example was seen; larger = harder.
    """

    columns: tuple[str, ...]
    of_round: Callable[..., Values]
    history: Callable[[], History]
    transform: Callable[[Values], Values]

    def read(self, columns: Mapping[str, Values]) -> Values:
        """The values of one round.

        Args:
            columns: float32 `(m,)` by name, of the examples that were seen; others are not looked at.

        Returns:
            float32 `(m,)`, for `started().update`.

        Raises:
            ArgumentError: If a column is missing, or has no finite value for some of the examples.

        Example:
            >>> DYNAMIC_SCORES["grand_last_layer"].read({"el2n": np.ones(2), "hidden_norm": np.array([0.0, 3**0.5])})
            array([1., 2.], dtype=float32)
        """
        if missing := [name for name in self.columns if name not in columns]:
            raise ArgumentError(f"this score needs the recorded {', '.join(missing)}, which are not there.")
        parts = [np.asarray(columns[name], np.float32) for name in self.columns]
        for name, part in zip(self.columns, parts, strict=True):
            if bad := int(np.count_nonzero(~np.isfinite(part))):
                raise ArgumentError(f"this score needs {name}, which is not finite for {bad} of {len(part)} {_WHY}.")
        return np.asarray(self.of_round(*parts), np.float32)

    def started(self, *, burn_out: int | None = None) -> History:
        """Its history, whose `value` is the score: float32 `(n,)`, larger = harder, +inf for a row never seen.

        Args:
            burn_out: Take in the first so many rounds only.

        Example:
            >>> from datadiet.history import over_rounds
            >>> over_rounds(DYNAMIC_SCORES["confidence"].started(), [[0.5, np.nan], [1.0, np.nan]])
            array([0.25, inf], dtype=float32)
        """
        plain = self.history() if burn_out is None else burnt_out(self.history(), burn_out)

        def value(state: dict[str, Values]) -> Values:
            held = plain.value(state)
            seen = np.isfinite(held)
            return np.where(seen, self.transform(np.where(seen, held, 0)), np.float32(np.inf)).astype(np.float32)

        return History(plain.init, plain.update, value)


_WHY = "examples (a regression has no gold class, and the input of the last layer is not found in every model)"


def _same(values: Values) -> Values:
    return values


def _rest(values: Values) -> Values:
    return 1 - values


def _all() -> History:
    return histories.mean(window=None)


# names of the functions in `datadiet.scores.dynamics`
DYNAMIC_SCORES: dict[str, DynamicScore] = {
    "confidence": DynamicScore(("gold_probability",), _same, _all, _rest),
    "variability": DynamicScore(("gold_probability",), _same, histories.std, _same),
    "correctness": DynamicScore(("correct",), _same, _all, _rest),
    "threshold_closeness": DynamicScore(("gold_probability",), _same, _all, lambda values: values * (1 - values)),
    "forgetting": DynamicScore(("correct",), _same, histories.forgetting, _same),
    "aum": DynamicScore(("margin",), _same, _all, _same),  # the column is the other logit minus the gold one
    "tracin_self_influence": DynamicScore(
        ("el2n", "hidden_norm"), lambda el2n, hidden: el2n**2 * (1 + hidden**2), _all, _same
    ),
    "grand_last_layer": DynamicScore(
        ("el2n", "hidden_norm"), lambda el2n, hidden: el2n * np.sqrt(1 + hidden**2), _all, _same
    ),
}
