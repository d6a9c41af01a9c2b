"""Streaming histories equal what keeping every round would give."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from numpy.testing import assert_allclose, assert_array_equal

from datadiet.errors import ArgumentError
from datadiet.registry import load, names
from datadiet.scores.history import burnt_out, ema, forgetting, last, mean, over_rounds, std

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "smoothing.json").read_text())
ROUNDS = np.array(GOLDEN["values"])
# the histories of the battery, with the bytes of an example; the first seven are on the scale of their values
MEMBERS = {
    "last": (last(), 4), "mean": (mean(3), 12), "ema": (ema(0.8, 1.0), 28), "ema var": (ema(0.3, 0.5, "var"), 28),
    "all new": (ema(1.0, 0.0), 28), "mean of all": (mean(None), 8), "burnt out": (burnt_out(mean(None), 3), 12),
    "std": (std(), 12), "forgetting": (forgetting(), 8),
}  # fmt: skip
battery = pytest.mark.parametrize("name", list(MEMBERS))
of_values = pytest.mark.parametrize("name", list(MEMBERS)[:7])


@pytest.mark.proves("ema", by="golden")
@pytest.mark.parametrize("case", GOLDEN["ema"], ids=lambda case: "-".join(map(str, list(case.values())[:4])))
def test_golden_ema(case: dict[str, Any]) -> None:
    history = ema(float(case["alpha"]), float(case["c"]), case["deviation"])
    assert_allclose(over_rounds(history, ROUNDS[: case["rounds"]]), case["expected"], atol=1e-6)


@pytest.mark.proves("ema", by="golden")
@pytest.mark.proves("mean", kind="history", by="golden")
def test_golden_missing_report_and_mean_of_the_last_two() -> None:
    missing = ROUNDS.copy()
    missing[2, 3] = np.nan
    assert_allclose(over_rounds(ema(0.8, 1.0), missing), GOLDEN["row_3_missing_in_round_3"], atol=1e-6)
    assert_allclose(over_rounds(mean(2), ROUNDS), GOLDEN["mean_of_last_2"], atol=1e-6)


sparse_rounds = arrays(
    np.float32,
    array_shapes(min_dims=2, max_dims=2, max_side=9),
    elements=st.one_of(st.just(float("nan")), st.floats(-2, 2, width=16)),
)


def weighted(column: np.ndarray, alpha: float) -> tuple[float, float]:
    """Mean and debiased variance with every value kept: each new one weighs alpha, and every round ages the past."""
    weights: dict[int, float] = {}
    for at, value in enumerate(column):
        weights = {past: weight * (1 - alpha) for past, weight in weights.items()}
        if not np.isnan(value):
            weights[at] = alpha if weights else 1.0
            weights = {past: weight / sum(weights.values()) for past, weight in weights.items()}
    if not weights:
        return np.inf, 0.0
    values, shares = column[list(weights)].astype(np.float64), np.array(list(weights.values()))
    shares /= shares.sum()
    average = float(shares @ values)
    spread = 1 - shares @ shares
    return average, float(shares @ (values - average) ** 2 / spread) if len(weights) > 1 else 0.0


@settings(deadline=None)
@given(sparse_rounds, st.sampled_from([0.3, 0.5, 0.8]))
def test_ema_equals_its_definition_whatever_is_missing(rounds: np.ndarray, alpha: float) -> None:
    expected = np.array([weighted(column, alpha) for column in rounds.T])
    assert_allclose(over_rounds(ema(alpha, 0.0), rounds), expected[:, 0], atol=2e-6, rtol=2e-6)
    variance = expected[:, 0] + 0.5 * expected[:, 1]
    # after long gaps the debiasing divides by 1 - squares, down to 6e-4, of which float32 keeps 4 digits
    assert_allclose(over_rounds(ema(alpha, 0.5, "var"), rounds), variance, atol=2e-4, rtol=1e-5)


@pytest.mark.proves("ema", by="library")
@settings(deadline=None)
@given(arrays(np.float32, (6, 3), elements=st.floats(-2, 2, width=16)), st.sampled_from([0.3, 0.8]))
def test_ema_equals_pandas_where_nothing_is_missing(rounds: np.ndarray, alpha: float) -> None:
    """After a gap pandas 3 gives the new value more weight in the mean than in the variance of the same column."""
    frame = pd.DataFrame(rounds.astype(np.float64)).ewm(alpha=alpha, adjust=False)
    expected = frame.mean().iloc[-1] + 2 * frame.var().iloc[-1]
    assert_allclose(over_rounds(ema(alpha, 2.0, "var"), rounds), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.proves("last", "mean", by="definition")
@settings(deadline=None)
@given(sparse_rounds, st.integers(1, 4), st.sampled_from([np.float32, np.float64]))
def test_mean_last_and_deviation_equal_their_definition(rounds: np.ndarray, window: int, dtype: type) -> None:
    seen = [column[~np.isnan(column)].astype(np.float64) for column in rounds.T]
    tolerance = 2e-6 if dtype is np.float32 else 1e-12
    for history, definition in (
        (mean(window), lambda column: column[-window:].mean()),
        (mean(None), np.mean),
        (std(), np.std),
        (last(), lambda column: column[-1]),
    ):
        values = over_rounds(history, rounds, dtype=dtype)
        assert values.dtype == dtype
        assert_allclose(values, [definition(column) if column.size else np.inf for column in seen], atol=tolerance)


@of_values
def test_a_row_never_seen_is_infinite_and_one_seen_once_is_its_value(name: str) -> None:
    history = MEMBERS[name][0]
    state = history.init(3)
    assert_array_equal(history.value(state), [np.inf] * 3)
    state = history.update(state, np.array([0.5, np.nan, 7.0], np.float32), np.array([True, False, False]))
    value = history.value(state)
    assert value.dtype == np.float32
    assert_array_equal(value, np.array([0.5, np.inf, np.inf], np.float32))


@of_values
def test_a_constant_stays_exactly_what_it_is(name: str) -> None:
    assert_array_equal(over_rounds(MEMBERS[name][0], np.full((6, 1), 0.1)), np.full(1, 0.1, np.float32))


@battery
def test_what_rows_that_are_not_fresh_hold_is_not_looked_at(name: str) -> None:
    history, fresh = MEMBERS[name][0], np.array([True, True, False])
    results = []
    for other in (0.0, np.nan, np.inf, -np.inf):
        state = history.init(3)
        for values in ([1.0, 0.5, other], [0.0, 0.25, other]):
            state = history.update(state, np.array(values, np.float32), fresh)
        results.append(history.value(state))
        assert results[-1][2] == np.inf
        assert np.isfinite(results[-1][:2]).all()
    for result in results[1:]:
        assert_array_equal(result, results[0])


def test_the_deviation_of_large_values_does_not_cancel() -> None:
    """A mean of squares minus a squared mean would be 0 or negative in float32."""
    rounds = 4096.0 + np.array([[0.0], [0.5], [1.0]])
    assert_allclose(over_rounds(std(), rounds), [rounds.std()], rtol=1e-3)


def transitions(column: np.ndarray) -> float:
    """1 -> 0 among the rounds that have a value; None-like -1 where never right, inf where never seen."""
    seen = column[~np.isnan(column)]
    if not seen.size:
        return np.inf
    return float(sum(a == 1 and b == 0 for a, b in itertools.pairwise(seen))) if seen.max() == 1 else -1.0


@pytest.mark.proves("forgetting", by="definition")
@settings(deadline=None)
@given(arrays(np.float32, st.tuples(st.integers(1, 8), st.integers(1, 6)), elements=st.sampled_from([0, 1, np.nan])))
def test_forgetting_equals_its_definition_whatever_is_missing(rounds: np.ndarray) -> None:
    expected = np.array([transitions(column) for column in rounds.T])
    most = max(expected[np.isfinite(expected)].max(initial=0), 0)
    assert_array_equal(over_rounds(forgetting(), rounds), np.where(expected < 0, most + 1, expected))


def test_what_was_never_right_is_harder_than_what_was_forgotten_most() -> None:
    alternating, never, always = [1, 0, 1, 0, 1, 0], [0] * 6, [1] * 6
    assert over_rounds(forgetting(), np.array([alternating, never, always]).T).tolist() == [3.0, 4.0, 0.0]


def test_rounds_after_the_burn_out_change_nothing() -> None:
    rounds = np.array([[0.2, np.nan], [0.4, np.nan], [9.0, 9.0]])
    assert_allclose(over_rounds(burnt_out(mean(None), 2), rounds), [0.3, np.inf], rtol=1e-6)


@battery
def test_update_leaves_the_old_state_and_its_inputs_as_they_were(name: str) -> None:
    history = MEMBERS[name][0]
    first = history.update(history.init(3), np.array([1.0, 0.0, 0.0], np.float32), np.array([True, True, True]))
    before = {key: array.copy() for key, array in first.items()}
    values, fresh = np.array([0.0, 9.0, 0.0], np.float32), np.array([True, False, True])
    second = history.update(first, values, fresh)
    assert_array_equal(values, [0.0, 9.0, 0.0])
    for key, array in first.items():
        assert_array_equal(array, before[key])
    assert history.value(second)[0] != history.value(first)[0]
    assert name == "forgetting" or history.value(second)[1] == history.value(first)[1]  # there it hangs on row 0


@battery
def test_the_state_is_a_few_bytes_per_example_and_can_be_saved(name: str) -> None:
    history, size = MEMBERS[name]
    state = history.init(1000)
    assert sum(array.nbytes for array in state.values()) <= size * 1000
    assert all(isinstance(array, np.ndarray) and array.shape[-1] == 1000 for array in state.values())


@battery
def test_a_saved_state_goes_on_as_if_nothing_had_happened(name: str) -> None:
    history = MEMBERS[name][0]

    def play(state: dict[str, np.ndarray], rounds: np.ndarray) -> dict[str, np.ndarray]:
        for values in rounds.astype(np.float32):
            state = history.update(state, values, np.ones(values.size, np.bool_))
        return state

    half = play(history.init(8), ROUNDS[:2])
    saved = {key: np.array(array.tolist(), array.dtype) for key, array in half.items()}
    assert_array_equal(history.value(play(saved, ROUNDS[2:])), over_rounds(history, ROUNDS))


def test_names_are_built_with_their_defaults() -> None:
    assert set(names("history")) == {"last", "mean", "ema"}
    assert_allclose(over_rounds(load("history", "mean")(), ROUNDS), ROUNDS[-3:].mean(0), atol=1e-6)


@battery
def test_values_of_another_number_are_refused(name: str) -> None:
    history = MEMBERS[name][0]
    with pytest.raises(ArgumentError, match=r"got values \(3,\) and fresh \(2,\) for \(2,\)"):
        history.update(history.init(2), np.zeros(3, np.float32), np.ones(2, np.bool_))


def test_bad_arguments_are_refused_together() -> None:
    with pytest.raises(
        ArgumentError, match=r"(?s)alpha must be in \(0, 1\], got 80. Did you mean 0.8.*c must.*deviation"
    ):
        ema(80, c=-1, deviation="sd")
    with pytest.raises(ArgumentError, match="window must be a whole number, at least 1, got 0"):
        mean(0)
    with pytest.raises(ArgumentError, match=r"shape \(rounds, num_examples\), got \(3,\)"):
        over_rounds(last(), [1.0, 2.0, 3.0])
