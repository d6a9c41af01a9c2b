"""What the values of earlier rounds say about an example now: streaming, a few bytes per example.

A history is three pure functions, in the manner of an optax optimizer:

    state = history.init(num_examples)
    state = history.update(state, values, fresh)      # once per round; rows that are not fresh keep their past
    now = history.value(state)                        # float32 (num_examples,), +inf for a row never seen

The state is a dict of arrays, one entry per example on the last axis, so that it can be saved as tensors.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from datadiet.checks import ArgumentError, Problems

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


def last() -> History:
    """The latest value alone. 4 bytes per example.

    Example:
        >>> history = last()
        >>> state = history.update(history.init(2), np.array([0.5, 0.7], np.float32), np.array([True, False]))
        >>> history.value(state)
        array([0.5, inf], dtype=float32)

    Source: Attendu and Corbeil 2023 (arXiv 2306.03208), the setting of their GLUE runs.
    """

    def init(num_examples: int) -> State:
        return {"last": np.full(num_examples, np.inf, np.float32)}

    def update(state: State, values: Values, fresh: Fresh) -> State:
        values, fresh = _checked(state["last"], values, fresh)
        return {"last": np.where(fresh, values, state["last"])}

    return History(init, update, lambda state: state["last"])


def mean(window: int = 3) -> History:
    """The mean of an example's own latest values. 4 bytes per example and round of the window.

    An example that was not seen in a round keeps its earlier values, so that the mean is always of the latest `window`
    values that it has.

    Args:
        window: How many values, at least 1.

    Raises:
        ArgumentError: If the window is no whole number, or below 1.

    Example:
        >>> rounds = [[0.2, np.nan], [0.4, 1.0], [0.8, np.nan]]
        >>> over_rounds(mean(window=2), rounds)
        array([0.6, 1. ], dtype=float32)

    Source: Attendu and Corbeil 2023, `prune_avg_mode="avg"` of the published code.
    """
    problems = Problems()
    problems.whole("history window", window, least=1)
    problems.raise_any()

    def init(num_examples: int) -> State:
        return {"latest": np.full((window, num_examples), np.nan, np.float32)}  # latest first

    def update(state: State, values: Values, fresh: Fresh) -> State:
        values, fresh = _checked(state["latest"][0], values, fresh)
        latest = np.empty_like(state["latest"])
        latest[0] = np.where(fresh, values, state["latest"][0])
        for past in range(1, window):
            latest[past] = np.where(fresh, state["latest"][past - 1], state["latest"][past])
        return {"latest": latest}

    def value(state: State) -> Values:
        seen = np.count_nonzero(~np.isnan(state["latest"]), axis=0).astype(np.float32)
        total: Values = np.nansum(state["latest"], axis=0, dtype=np.float32)
        average: Values = np.divide(total, seen, out=np.full_like(total, np.inf), where=seen > 0)
        return average

    return History(init, update, value)


def ema(alpha: float = 0.8, c: float = 0.0, deviation: str = "std") -> History:
    """An exponential moving average, plus `c` deviations as a bonus for uncertain values. 16 bytes per example.

    `m_r = (1 - alpha) m_{r-1} + alpha v_r`, and `value = m_r + c * dev_r` with the weighted and debiased standard
    deviation or variance of the same values, from an example's second value on. A round in which an example was not
    seen still ages its past: its next value then weighs more.

    Args:
        alpha: Weight of the new value, in (0, 1].
        c: How many deviations are added, at least 0; 1 is the optimistic (UCB) form of the paper's joint runs.
        deviation: `std` or `var`.

    Raises:
        ArgumentError: For every argument that is out of range, together.

    Example:
        >>> over_rounds(ema(alpha=0.75), [[1.0], [0.0]])
        array([0.25], dtype=float32)

    Source: Raju et al. 2021 (arXiv 2111.12621), as in Attendu and Corbeil 2023's `prune_avg_mode="ema"`. Without
    gaps it equals pandas' `ewm(alpha=alpha, adjust=False)`, and no round is kept (West 1979 for the variance).
    """
    _check_ema(alpha, c, deviation)
    keep = np.float32(1 - alpha)

    def init(num_examples: int) -> State:
        return {
            "mean": np.full(num_examples, np.nan, np.float32),
            "variance": np.zeros(num_examples, np.float32),  # weighted, not yet debiased
            "squares": np.ones(num_examples, np.float32),  # sum of the squared weights, which sum to 1
            "age": np.ones(num_examples, np.float32),  # what the past weighs: (1 - alpha) ** rounds without a value
        }

    def update(state: State, values: Values, fresh: Fresh) -> State:
        values, fresh = _checked(state["mean"], values, fresh)
        seen = ~np.isnan(state["mean"])
        new = {name: array.copy() for name, array in state.items()}
        new["age"][seen] *= keep
        rows = np.flatnonzero(fresh & ~seen)
        new["mean"][rows] = values[rows]
        rows = np.flatnonzero(fresh & seen)
        _blend(new, rows, values[rows], np.float32(alpha))
        return new

    def value(state: State) -> Values:
        average = np.where(np.isnan(state["mean"]), np.float32(np.inf), state["mean"])
        if c == 0:
            return average
        spread = 1 - state["squares"]  # 0 while there is one value: no deviation yet
        variance = np.divide(state["variance"], spread, out=np.zeros_like(spread), where=spread > 0)
        return average + np.float32(c) * (np.sqrt(variance) if deviation == "std" else variance)

    return History(init, update, value)


HISTORIES: dict[str, Callable[..., History]] = {"last": last, "mean": mean, "ema": ema}


def over_rounds(history: History, rounds: ArrayLike) -> Values:
    """What a history says after several rounds.

    Args:
        history: One of this module's.
        rounds: float `(rounds, num_examples)`, nan where a row was not seen.

    Returns:
        float32 `(num_examples,)`, +inf for a row never seen.

    Raises:
        ArgumentError: If `rounds` has not two axes.

    Example:
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


def _blend(state: State, rows: NDArray[np.int64], values: Values, alpha: np.float32) -> None:
    """Take in the new values of rows that have a past, in place."""
    past = state["age"][rows]
    share = alpha / (past + alpha)  # of the new value; alpha itself where no round was missed
    rest = 1 - share
    gap = values - state["mean"][rows]
    state["mean"][rows] += share * gap
    state["variance"][rows] = rest * (state["variance"][rows] + share * gap * gap)
    state["squares"][rows] = rest * rest * state["squares"][rows] + share * share
    state["age"][rows] = 1


def _check_ema(alpha: float, c: float, deviation: str) -> None:
    problems = Problems()
    problems.share("history alpha", alpha)
    problems.check(0 <= c < np.inf, f"history c must be at least 0, got {c}.")
    problems.choice("deviation", deviation, ("std", "var"))
    problems.raise_any()


def _checked(like: Values, values: Values, fresh: Fresh) -> tuple[Values, Fresh]:
    """One value and one flag per example, or an error that names the shapes."""
    values, fresh = np.asarray(values, np.float32), np.asarray(fresh, np.bool_)
    if not values.shape == fresh.shape == like.shape:
        raise ArgumentError(
            f"a history needs one value and one flag per example: got values {values.shape} and fresh {fresh.shape} "
            f"for {like.shape}."
        )
    return values, fresh
