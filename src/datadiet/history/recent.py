"""Histories in which late rounds count for more: the last value, a window, a moving average."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from datadiet.checks import Problems
from datadiet.history.base import Fresh, History, State, Values, checked
from datadiet.history.whole import whole_mean


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
        values, fresh = checked(state["last"], values, fresh)
        return {"last": np.where(fresh, values, state["last"])}

    return History(init, update, lambda state: state["last"])


def mean(window: int | None = 3) -> History:
    """The mean of an example's own latest values. 4 bytes per example and round of the window; 8 bytes for all rounds.

    An example that was not seen in a round keeps its earlier values, so that the mean is always of the latest `window`
    values that it has.

    Args:
        window: How many values, at least 1; None for all of them.

    Raises:
        ArgumentError: If the window is no whole number, or below 1.

    Example:
        >>> rounds = [[0.2, np.nan], [0.4, 1.0], [0.8, np.nan]]
        >>> from datadiet.history import over_rounds
        >>> over_rounds(mean(window=2), rounds)
        array([0.6, 1. ], dtype=float32)

    Source: Attendu and Corbeil 2023, `prune_avg_mode="avg"` of the published code.
    """
    if window is None:
        return whole_mean()
    return _window_mean(window)


def _window_mean(window: int) -> History:
    problems = Problems()
    problems.whole("history window", window, least=1)
    problems.raise_any()

    def init(num_examples: int) -> State:
        return {"latest": np.full((window, num_examples), np.nan, np.float32)}  # latest first

    def update(state: State, values: Values, fresh: Fresh) -> State:
        values, fresh = checked(state["latest"][0], values, fresh)
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
        >>> from datadiet.history import over_rounds
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
        values, fresh = checked(state["mean"], values, fresh)
        seen = ~np.isnan(state["mean"])
        new = {name: array.copy() for name, array in state.items()}
        new["age"][seen] *= keep
        first, again = fresh & ~seen, fresh & seen
        new["mean"][first] = values[first]
        # all of them, as with a pass over everything: without an index, in half the time
        rows: slice | NDArray[np.int64] = slice(None) if again.all() else np.flatnonzero(again)
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


def _blend(state: State, rows: slice | NDArray[np.int64], values: Values, alpha: np.float32) -> None:
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
