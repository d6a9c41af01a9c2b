"""What the values of earlier rounds say about an example now: streaming, a few bytes per example.

A history is three pure functions, in the manner of an optax optimizer:

    state = history.init(num_examples)
    state = history.update(state, values, fresh)      # once per round; rows that are not fresh keep their past
    now = history.value(state)                        # float32 (num_examples,), +inf for a row never seen

The state is a dict of arrays, one entry per example on the last axis, so that it can be saved as tensors.
"""

from __future__ import annotations

from collections.abc import Callable

from datadiet.history.base import Fresh, History, State, Values, over_rounds
from datadiet.history.recent import ema, last, mean
from datadiet.history.whole import burnt_out, forgetting, std

# for names on the command line only; in Python the functions are passed themselves
HISTORIES: dict[str, Callable[..., History]] = {"last": last, "mean": mean, "ema": ema}

__all__ = [
    "HISTORIES",
    "Fresh",
    "History",
    "State",
    "Values",
    "burnt_out",
    "ema",
    "forgetting",
    "last",
    "mean",
    "over_rounds",
    "std",
]
