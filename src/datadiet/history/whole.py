"""Histories over all rounds, each of the same weight: mean, standard deviation, forgetting events."""

from __future__ import annotations

import numpy as np

from datadiet.checks import Problems
from datadiet.history.base import Fresh, History, State, Values, checked

AGE = "burn_out.age"  # of a state: rounds so far
RIGHT = 0.5  # correctness is 0 or 1; as a mean over several decisions, at least half of them


def whole_mean() -> History:
    """The mean over all rounds that have a value. 8 bytes per example.

    `m += (v - m) / n`: no round is kept, and a constant stays exactly what it is.

    Example:
        >>> from datadiet.history import over_rounds
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

    Example:
        >>> from datadiet.history import over_rounds
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
        rest = gap - gap / np.maximum(times, 1)
        squares = (state["squares"] + gap * rest).astype(np.float32)
        return {"mean": mean, "times": times, "squares": squares}

    def value(state: State) -> Values:
        times = np.maximum(state["times"], 1)
        return _seen_or_inf(np.sqrt(np.maximum(state["squares"], 0) / times), state["times"])

    return History(init, update, value)


def forgetting() -> History:
    """How often an example went from right to wrong; its values are correctness, 0 or 1. 8 bytes per example.

    Rounds are what they are fed: epochs, or passes every few steps. An example that was never right has one more than
    the largest count that occurred: it is the hardest, and by how much says nothing.

    Example:
        >>> from datadiet.history import over_rounds
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
        values, fresh = checked(state["last"], values, fresh)
        fresh = fresh & np.isfinite(values)
        right = (values >= RIGHT).astype(np.float32)
        learned = np.where(fresh & (right == 1), np.maximum(state["events"], 0), state["events"])
        forgot = fresh & (right == 0) & (state["last"] == 1)
        return {"last": np.where(fresh, right, state["last"]), "events": (learned + forgot).astype(np.float32)}

    def value(state: State) -> Values:
        events = state["events"]
        most = np.float32(max(float(events.max(initial=0)), 0.0) + 1)
        counts = np.where(events < 0, most, events)
        return np.where(np.isnan(state["last"]), np.float32(np.inf), counts)

    return History(init, update, value)


def burnt_out(history: History, rounds: int) -> History:
    """A history of the first so many rounds alone: later values change nothing. 4 bytes per example more.

    Args:
        history: Any.
        rounds: How many, at least 1. A round counts for an example whether it was seen in it or not.

    Raises:
        ArgumentError: If `rounds` is no whole number, or below 1.

    Example:
        >>> from datadiet.history import over_rounds
        >>> over_rounds(burnt_out(whole_mean(), 2), [[0.2], [0.4], [9.0]])
        array([0.3], dtype=float32)

    Source: `burn_out` of the code of Swayamdipta et al. 2020, which keeps the first epochs.
    """
    problems = Problems()
    problems.whole("burn_out", rounds, least=1)
    problems.raise_any()

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
    values, fresh = checked(state["mean"], values, fresh)
    fresh = fresh & np.isfinite(values)
    known = state["times"] > 0
    before = np.where(known, state["mean"], np.where(fresh, values, 0)).astype(np.float32)
    gap = np.where(fresh, values, before) - before  # other rows may hold anything, also inf
    times = state["times"] + fresh
    moved = before + gap / np.maximum(times, 1)
    mean = np.where(times > 0, moved, np.float32(np.nan))
    return mean.astype(np.float32), times.astype(np.float32), gap.astype(np.float32)


def _seen_or_inf(values: Values, times: Values) -> Values:
    return np.where(times > 0, values, np.float32(np.inf)).astype(np.float32)
