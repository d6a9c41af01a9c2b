"""What a history is, and what all of them share."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from datadiet.checks import ArgumentError

Values = NDArray[np.float32]
Fresh = NDArray[np.bool_]
State = dict[str, NDArray[np.float32]]


class History(NamedTuple):
    """Three pure functions; `update` returns a new state and leaves the old one as it was.

    Attributes:
        init: `(num_examples) -> state`.
        update: `(state, values, fresh) -> state`, with float32 `values` and bool `fresh`, both `(num_examples,)`;
            values of rows that are not fresh may be anything.
        value: `(state) -> float32 (num_examples,)`, +inf for a row never seen.
    """

    init: Callable[[int], State]
    update: Callable[[State, Values, Fresh], State]
    value: Callable[[State], Values]


def over_rounds(history: History, rounds: ArrayLike) -> Values:
    """What a history says after several rounds.

    Args:
        history: One of `datadiet.history`'s.
        rounds: float `(rounds, num_examples)`, nan where a row was not seen.

    Returns:
        float32 `(num_examples,)`, +inf for a row never seen.

    Raises:
        ArgumentError: If `rounds` has not two axes.

    Example:
        >>> from datadiet.history import last
        >>> over_rounds(last(), [[0.1, 0.2], [0.3, np.nan]])
        array([0.3, 0.2], dtype=float32)
    """
    table = np.asarray(rounds, np.float32)
    if table.ndim != 2:
        raise ArgumentError(f"rounds must have the shape (rounds, num_examples), got {table.shape}.")
    state = history.init(table.shape[1])
    for values in table:
        state = history.update(state, values, ~np.isnan(values))
    return history.value(state)


def checked(like: Values, values: Values, fresh: Fresh) -> tuple[Values, Fresh]:
    """One value and one flag per example, or an error that names the shapes."""
    values, fresh = np.asarray(values, np.float32), np.asarray(fresh, np.bool_)
    if not values.shape == fresh.shape == like.shape:
        raise ArgumentError(
            f"a history needs one value and one flag per example: got values {values.shape} and fresh {fresh.shape} "
            f"for {like.shape}."
        )
    return values, fresh
