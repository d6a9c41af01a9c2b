"""Arithmetic over rounds in which not every example was seen: float64 `(rounds, n)`, nan where not."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

from datadiet.checks import ArgumentError, Problems

Floats = NDArray[np.float64]
COLUMNS = ("gold_probability", "correct", "margin", "el2n", "hidden_norm")  # of a score history
RIGHT = 0.5  # as in `datadiet.history.forgetting`
MOST_NAMED = 5


def tables(columns: Mapping[str, ArrayLike], burn_out: int | None) -> dict[str, Floats]:
    """The columns that are known, checked and cut, of one shape."""
    problems = Problems()
    wanted = {name: columns[name] for name in COLUMNS if name in columns}
    problems.check(bool(wanted), f"training dynamics need one of the columns {', '.join(COLUMNS)}; none was given.")
    shapes = {name: np.shape(values) for name, values in wanted.items()}
    same = len(set(shapes.values())) <= 1
    problems.check(same, f"all columns must have one shape, got {', '.join(f'{k} {v}' for k, v in shapes.items())}.")
    problems.raise_any()
    return {name: table_of(name, values, burn_out) for name, values in wanted.items()}


def table_of(name: str, values: ArrayLike, burn_out: int | None) -> Floats:
    """One history as float64 `(rounds, n)`, its first `burn_out` rounds."""
    table = np.asarray(values, np.float64)
    if table.ndim != 2 or not len(table):
        raise ArgumentError(f"{name} must have the shape (rounds, n) with a round at least, got {table.shape}.")
    if burn_out is not None:
        problems = Problems()
        problems.whole("burn_out", burn_out, least=1)
        problems.raise_any()
        problems.check(burn_out <= len(table), f"burn_out must be at most the {len(table)} rounds, got {burn_out}.")
        problems.raise_any()
    infinite = np.flatnonzero(np.isinf(table).any(0))
    if infinite.size:
        named = ", ".join(map(str, infinite[:MOST_NAMED].tolist()))
        raise ArgumentError(
            f"{name} is infinite in {infinite.size} rows ({named}); it must be finite, or nan = unseen."
        )
    return table[:burn_out]


def rates_of(learning_rates: ArrayLike | None, rounds: int, burn_out: int | None) -> Floats:
    """One rate per round, 1 by default."""
    if learning_rates is None:
        return np.ones(rounds)
    rates = np.asarray(learning_rates, np.float64)[:burn_out]
    if rates.shape != (rounds,) or not np.all(np.isfinite(rates) & (rates > 0)):
        raise ArgumentError(f"learning_rates must be {rounds} finite numbers above 0, one per round, got {rates}.")
    return rates


def times(table: Floats) -> Floats:
    """In how many rounds each example has a value."""
    seen: Floats = (~np.isnan(table)).sum(0).astype(np.float64)
    return seen


def total(table: Floats) -> Floats:
    """Over the rounds that have a value; nan where none has."""
    return np.where(times(table) > 0, np.nansum(table, axis=0), np.nan)


def mean(table: Floats) -> Floats:
    """Over the rounds that have a value; nan where none has."""
    return total(table) / np.maximum(times(table), 1)


def std(table: Floats) -> Floats:
    """Population standard deviation over the rounds that have a value; nan where none has."""
    # a constant stays 0: its mean would be off by rounding
    gaps = table - _first(table)
    centred = gaps - mean(gaps)
    return np.sqrt(mean(centred**2))


def _first(table: Floats) -> Floats:
    """The first value of each example; nan where none is."""
    return np.asarray(table[np.argmax(~np.isnan(table), axis=0), np.arange(table.shape[1])])


def events(correct: Floats) -> Floats:
    """1 -> 0 transitions; +inf where never right, nan where never seen."""
    counts, before = np.zeros(correct.shape[1]), np.full(correct.shape[1], np.nan)
    for right in correct:
        seen = ~np.isnan(right)
        counts += seen & (before >= RIGHT) & (right < RIGHT)
        before = np.where(seen, right, before)
    ever = (correct >= RIGHT).any(0)  # nan is not
    return np.where(times(correct) == 0, np.nan, np.where(ever, counts, np.inf))


def or_inf(values: Floats) -> Floats:
    """+inf for nan: a score's sign of what was never seen."""
    return np.where(np.isnan(values), np.inf, values)
