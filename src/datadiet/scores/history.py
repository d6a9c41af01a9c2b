"""Streaming reductions over rounds: last, mean, ema, std and forgetting, a few bytes per example each.

A history is three pure functions over arrays of one value per example, so that it can be saved and resumed. `last`,
`mean` and `ema` reduce the values of a score (`--history`); the mean of all rounds, `std` and `forgetting` are what
training dynamics are made of. States and values are float32; `over_rounds` can also compute in float64.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from datadiet.errors import ArgumentError
from datadiet.registry import AtLeast, NotNegative, Share, history

Values = NDArray[Any]  # float32; float64 in `over_rounds(..., dtype=np.float64)`
Fresh = NDArray[np.bool_]
State = dict[str, NDArray[Any]]

AGE = "burn_out.age"  # of a state: rounds so far
RIGHT = 0.5  # correctness is 0 or 1; as a mean over several decisions, at least half of them


class History(NamedTuple):
    """Three pure functions; `update` returns a new state and leaves the old one as it was.

    Attributes:
        init: `(num_examples) -> state`.
        update: `(state, values, fresh) -> state`, with float32 `values` and bool `fresh`, both `(num_examples,)`;
            values of rows that are not fresh may be anything.
        value: `(state) -> float32 (num_examples,)`, +inf for a row never seen.
        latest: Whether that is the latest value alone, so that whoever has the values needs no state.
    """

    init: Callable[[int], State]
    update: Callable[[State, Values, Fresh], State]
    value: Callable[[State], Values]
    latest: bool = False


def over_rounds(history: History, rounds: ArrayLike, *, dtype: type[np.floating] = np.float32) -> Values:
    """The value of a history after several rounds.

    Args:
        history: Any history of this module.
        rounds: float `(rounds, num_examples)`, nan where a row was not seen.
        dtype: In which the history computes.

    Returns:
        `(num_examples,)` of that dtype, +inf for a row never seen.

    Raises:
        ArgumentError: If `rounds` has not two axes.

    Examples:
        >>> over_rounds(last(), [[0.1, 0.2], [0.3, np.nan]])
        array([0.3, 0.2], dtype=float32)
    """
    table = np.asarray(rounds, dtype)
    if table.ndim != 2:
        raise ArgumentError(f"rounds must have the shape (rounds, num_examples), got {table.shape}.")
    state = {name: array.astype(dtype) for name, array in history.init(table.shape[1]).items()}
    for values in table:
        state = history.update(state, values, ~np.isnan(values))
    return history.value(state)


def _checked(like: Values, values: Values, fresh: Fresh) -> tuple[Values, Fresh]:
    """One value and one flag per example, or an error that names the shapes."""
    values, fresh = np.asarray(values, like.dtype), np.asarray(fresh, np.bool_)
    if not values.shape == fresh.shape == like.shape:
        raise ArgumentError(
            f"a history needs one value and one flag per example: got values {values.shape} and fresh {fresh.shape} "
            f"for {like.shape}."
        )
    return values, fresh


def whole_mean() -> History:
    """The mean over all rounds that have a value. 8 bytes per example.

    `m += (v - m) / n`: no round is kept, and a constant stays exactly what it is.

    Examples:
        >>> over_rounds(whole_mean(), [[0.2, np.nan], [0.4, 1.0], [0.9, np.nan], [0.5, np.nan]])
        array([0.5, 1. ], dtype=float32)

    Source: the mean of data maps (Swayamdipta et al. 2020) and of AUM (Pleiss et al. 2020).
    """

    def init(num_examples: int) -> State:
        return {"mean": np.full(num_examples, np.nan, np.float32), "times": np.zeros(num_examples, np.float32)}

    def update(state: State, values: Values, fresh: Fresh) -> State:
        mean, times, _ = _moved(state, values, fresh)
        return {"mean": mean, "times": times}

    return History(init, update, lambda state: _seen_or_inf(state["mean"], state["times"]))


def std() -> History:
    """The population standard deviation over all rounds that have a value: variability. 12 bytes per example.

    `d = v - m; m += d / n; s += d * (v - m)`, and `sqrt(s / n)`: 0 for an example that was seen once.

    Examples:
        >>> over_rounds(std(), [[0.2, 0.7], [0.8, 0.7]])
        array([0.3, 0. ], dtype=float32)

    Source: the variability of data maps (Swayamdipta et al. 2020, arXiv 2009.10795), which divides by n; the sums are
    Welford's (1962), exact where a mean of squares minus a squared mean cancels.
    """

    def init(num_examples: int) -> State:
        mean = whole_mean().init(num_examples)
        return {**mean, "squares": np.zeros(num_examples, np.float32)}

    def update(state: State, values: Values, fresh: Fresh) -> State:
        mean, times, gap = _moved(state, values, fresh)
        # gap * (new value - new mean), which is 0 for rows that are not fresh and for a first value
        return {"mean": mean, "times": times, "squares": state["squares"] + gap * (gap - gap / np.maximum(times, 1))}

    def value(state: State) -> Values:
        times = np.maximum(state["times"], 1)
        return _seen_or_inf(np.sqrt(np.maximum(state["squares"], 0) / times), state["times"])

    return History(init, update, value)


def forgetting() -> History:
    """How often an example went from right to wrong; its values are correctness, 0 or 1. 8 bytes per example.

    A round is whatever was recorded: an epoch, or a pass every few steps. An example that was never right has one more
    than the largest count that occurred: it is the hardest, and the distance has no meaning.

    Examples:
        >>> over_rounds(forgetting(), [[1, 0, 1, np.nan], [0, 0, 1, np.nan], [1, 0, 1, np.nan]])
        array([ 1.,  2.,  0., inf], dtype=float32)

    Source: Toneva et al. 2019 (arXiv 1812.05159), section 3, where what was never learned counts as forgotten
    infinitely often. +inf is what was never seen here, so that the two can be told apart. Published code that gives a
    never-learned example 0 calls the hardest the easiest.
    """

    def init(num_examples: int) -> State:
        never = np.full(num_examples, -1, np.float32)  # events; -1 until it was right once
        return {"last": np.full(num_examples, np.nan, np.float32), "events": never}

    def update(state: State, values: Values, fresh: Fresh) -> State:
        values, fresh = _checked(state["last"], values, fresh)
        fresh = fresh & np.isfinite(values)
        right = (values >= RIGHT).astype(values.dtype)
        learned = np.where(fresh & (right == 1), np.maximum(state["events"], 0), state["events"])
        forgot = fresh & (right == 0) & (state["last"] == 1)
        return {"last": np.where(fresh, right, state["last"]), "events": learned + forgot}

    def value(state: State) -> Values:
        events = state["events"]
        counts = np.where(events < 0, events.max(initial=0) + 1, events)
        return np.where(np.isnan(state["last"]), np.inf, counts)

    return History(init, update, value)


def burnt_out(history: History, rounds: int) -> History:
    """A history of the first `rounds` rounds: later values change nothing. 4 bytes per example more.

    Args:
        history: Any.
        rounds: At least 1. A round counts for an example whether it was seen in it or not.

    Examples:
        >>> over_rounds(burnt_out(whole_mean(), 2), [[0.2], [0.4], [9.0]])
        array([0.3], dtype=float32)

    Source: `burn_out` of the code of Swayamdipta et al. 2020, which keeps the first epochs.
    """

    def init(num_examples: int) -> State:
        return {**history.init(num_examples), AGE: np.zeros(num_examples, np.float32)}

    def update(state: State, values: Values, fresh: Fresh) -> State:
        inner, age = _inner(state), state[AGE]
        return {**history.update(inner, values, np.asarray(fresh, np.bool_) & (age < rounds)), AGE: age + 1}

    return History(init, update, lambda state: history.value(_inner(state)))


def _inner(state: State) -> State:
    return {name: array for name, array in state.items() if name != AGE}


def _moved(state: State, values: Values, fresh: Fresh) -> tuple[Values, Values, Values]:
    """Mean and number of values after one more of each fresh row, and how far that was from the mean before."""
    values, fresh = _checked(state["mean"], values, fresh)
    fresh = fresh & np.isfinite(values)
    before = np.where(state["times"] > 0, state["mean"], np.where(fresh, values, 0))
    gap = np.where(fresh, values, before) - before  # other rows may hold anything, also inf
    times = state["times"] + fresh
    return np.where(times > 0, before + gap / np.maximum(times, 1), np.nan), times, gap


def _seen_or_inf(values: Values, times: Values) -> Values:
    return np.where(times > 0, values, np.inf)


@history(
    formula="the last round's value",
    paper="Attendu and Corbeil 2023, arXiv 2306.03208",
    inputs="1 round",
    cost="4 bytes per example",
    loses="one noisy value decides; with `rescore none` it has dropout in it",
)
def last() -> History:
    """The latest value alone. 4 bytes per example.

    Examples:
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

    return History(init, update, lambda state: state["last"], latest=True)


@history(
    formula="the mean of the last w rounds",
    paper="Attendu and Corbeil 2023, arXiv 2306.03208",
    inputs="w rounds: mean(window=w)",
    cost="4 w bytes per example",
    loses="it reacts late: what has just been learned still counts as hard",
)
def mean(window: Annotated[int | None, AtLeast(1)] = 3) -> History:
    """The mean of an example's own latest values. 4 bytes per example and round of the window; 8 bytes for all rounds.

    An example that was not seen in a round keeps its earlier values, so that the mean is always that of its own latest
    `window` values.

    Args:
        window: How many values, at least 1; None for all of them.

    Examples:
        >>> rounds = [[0.2, np.nan], [0.4, 1.0], [0.8, np.nan]]
        >>> over_rounds(mean(window=2), rounds)
        array([0.6, 1. ], dtype=float32)

    Source: Attendu and Corbeil 2023, `prune_avg_mode="avg"` of the published code.
    """
    if window is None:
        return whole_mean()
    return _window_mean(window)


def _window_mean(window: int) -> History:
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
        total: Values = np.nansum(state["latest"], axis=0)
        seen = np.count_nonzero(~np.isnan(state["latest"]), axis=0).astype(total.dtype)
        average: Values = np.divide(total, seen, out=np.full_like(total, np.inf), where=seen > 0)
        return average

    return History(init, update, value)


@history(
    formula="m + c * s: moving mean with weight alpha on the new value, plus c moving standard deviations",
    paper="Raju et al. 2021, arXiv 2111.12621 (the upper confidence bound); Attendu and Corbeil 2023, arXiv 2306.03208",
    inputs="all rounds: ema(alpha=A, c=C)",
    cost="16 bytes per example",
    loses="as mean, it reacts late; with few refreshes all histories say nearly the same",
    evidence="methods",
)
def ema(
    alpha: Annotated[float, Share] = 0.8,
    c: Annotated[float, NotNegative] = 1.0,
    deviation: Literal["std", "var"] = "std",
) -> History:
    """An exponential moving average, plus `c` deviations as a bonus for uncertain values. 16 bytes per example.

    `m_r = (1 - alpha) m_{r-1} + alpha v_r`, and `value = m_r + c * dev_r` with the weighted and debiased standard
    deviation or variance of the same values, from an example's second value on. A round in which an example was not
    seen still ages its past: its next value then weighs more.

    Args:
        alpha: Weight of the new value, in (0, 1].
        c: How many deviations are added, at least 0; 1 is the optimistic (UCB) form of the paper's joint runs.
        deviation: `std` or `var`.

    Examples:
        >>> over_rounds(ema(alpha=0.75, c=0), [[1.0], [0.0]])
        array([0.25], dtype=float32)

    Source: Raju et al. 2021 (arXiv 2111.12621), as in Attendu and Corbeil 2023's `prune_avg_mode="ema"`. Without
    gaps it equals pandas' `ewm(alpha=alpha, adjust=False)`, and no round is kept (West 1979 for the variance).
    """
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
        first, again = fresh & ~seen, fresh & seen
        new["mean"][first] = values[first]
        # all of them, as with a pass over everything: without an index, in half the time
        rows: slice | NDArray[np.int64] = slice(None) if again.all() else np.flatnonzero(again)
        _blend(new, rows, values[rows], np.float32(alpha))
        return new

    def value(state: State) -> Values:
        average: Values = np.where(np.isnan(state["mean"]), np.inf, state["mean"])
        if c == 0:
            return average
        spread = 1 - state["squares"]  # 0 while there is one value: no deviation yet
        variance = np.divide(state["variance"], spread, out=np.zeros_like(spread), where=spread > 0)
        average += np.float32(c) * (np.sqrt(variance) if deviation == "std" else variance)
        return average

    return History(init, update, value)


def _blend(state: State, rows: slice | NDArray[np.int64], values: Values, alpha: np.float32) -> None:
    """Take in the new values of rows that have a past, in place."""
    past = state["age"][rows]
    share = alpha / (past + alpha)  # of the new value; alpha itself where no round was missed
    gap = values - state["mean"][rows]
    state["mean"][rows] += share * gap
    state["variance"][rows] = (1 - share) * (state["variance"][rows] + share * gap * gap)
    state["squares"][rows] = (1 - share) * (1 - share) * state["squares"][rows] + share * share
    state["age"][rows] = 1
