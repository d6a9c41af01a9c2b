"""Scores of training dynamics: published values, their direction, and the streaming form beside the batch form."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.testing import assert_allclose, assert_array_equal
from scipy.special import softmax

from datadiet.errors import ArgumentError
from datadiet.registry import load, names
from datadiet.scores import dynamics
from datadiet.scores.dynamics import training_dynamics

FOLDER = Path(__file__).parents[1] / "golden"
GOLDEN = json.loads((FOLDER / "training_dynamics.json").read_text())
TRACIN = json.loads((FOLDER / "tracin.json").read_text())
DYNAMIC_SCORES = {name: load("score", name).streaming for name in names("score", need="history")}
every_score = pytest.mark.parametrize("name", list(DYNAMIC_SCORES))


def golden_columns() -> dict[str, np.ndarray]:
    """From the logits themselves; `margin` has our sign, and ties go to the first class."""
    logits, gold = np.array(GOLDEN["logits"], np.float64), np.array(GOLDEN["gold"])
    p = softmax(logits, axis=-1)
    onehot = np.eye(3)[gold]
    others = np.where(onehot == 1, -np.inf, logits).max(-1)
    return {
        "gold_probability": (p * onehot).sum(-1),
        "correct": (logits.argmax(-1) == gold).astype(float),
        "margin": others - (logits * onehot).sum(-1),
        "el2n": np.linalg.norm(p - onehot, axis=-1),
        "hidden_norm": np.zeros(p.shape[:2]),
    }


def some_rounds(rounds: int = 7, n: int = 40, missing: float = 0.3, seed: int = 0) -> dict[str, np.ndarray]:
    """Float32 columns as a run records them; rows 0 is never seen, row 1 seen once, row 2 never right."""
    generator = np.random.default_rng(seed)
    seen = generator.random((rounds, n)) > missing
    seen[:, 0], seen[:, 1] = False, np.arange(rounds) == 2
    probability = generator.random((rounds, n))
    correct = probability > 0.5
    correct[:, 2], seen[:, 2] = False, True
    columns = {
        "gold_probability": probability,
        "correct": correct.astype(float),
        "margin": 4 * generator.standard_normal((rounds, n)),
        "el2n": np.sqrt(2) * (1 - probability),
        "hidden_norm": 5 + generator.random((rounds, n)),
    }
    return {name: np.where(seen, values, np.nan).astype(np.float32) for name, values in columns.items()}


def batch_form(name: str, columns: dict[str, np.ndarray], burn_out: int | None = None) -> np.ndarray:
    given = [columns[column] for column in DYNAMIC_SCORES[name].columns]
    return np.asarray(getattr(dynamics, name)(*given, burn_out=burn_out))


# ---- golden values


@pytest.mark.proves("confidence", "variability", "correctness", "threshold_closeness", "forgetting", by="golden")
@pytest.mark.parametrize(("key", "burn_out"), [("all_epochs", None), ("burn_out_3", 3)])
def test_golden_data_maps(key: str, burn_out: int | None) -> None:
    found, expected = training_dynamics(golden_columns(), burn_out=burn_out), GOLDEN[key]
    for name in ("confidence", "variability", "correctness", "threshold_closeness"):
        assert_allclose(getattr(found, name), expected[name], atol=1e-8)
    assert_array_equal(np.where(np.isinf(found.forgetting), 1000, found.forgetting), expected["forgetfulness"])


@pytest.mark.proves("forgetting", "aum", "grand_last_layer", by="golden")
def test_golden_aum_forgetting_and_el2n() -> None:
    columns = golden_columns()
    found = training_dynamics(columns)
    assert_allclose(found.aum, GOLDEN["aum"], atol=1e-8)
    assert_allclose(-columns["margin"], GOLDEN["margin"], atol=1e-9)
    assert_array_equal(found.forgetting, np.array(GOLDEN["forgetting_never_correct_inf"], float))
    assert_allclose(found.grand, GOLDEN["el2n_mean"], atol=1e-8)  # hidden norm 0 leaves the bias: EL2N itself
    assert found.times.tolist() == [6.0] * 12


def tracin_columns() -> tuple[np.ndarray, np.ndarray, list[float]]:
    hidden, weights, biases, labels = (
        np.array(TRACIN["inputs"][name]) for name in ("hidden", "weights", "biases", "labels")
    )
    errors = softmax(hidden @ weights + biases[:, None], axis=-1) - np.eye(3)[labels]
    return np.linalg.norm(errors, axis=-1), np.linalg.norm(hidden, axis=-1), TRACIN["inputs"]["learning_rates"]


@pytest.mark.proves("tracin_self_influence", by="golden")
def test_golden_self_influence() -> None:
    el2n, hidden, rates = tracin_columns()
    columns = {"el2n": el2n, "hidden_norm": hidden}
    found = training_dynamics(columns, learning_rates=rates)
    assert_allclose(found.tracin, TRACIN["self_influence"], rtol=1e-8)
    for checkpoint, expected in enumerate(TRACIN["self_influence_per_checkpoint"]):
        one = {name: table[checkpoint : checkpoint + 1] for name, table in columns.items()}
        assert_allclose(training_dynamics(one).tracin, expected, rtol=1e-8)
    score = dynamics.tracin_self_influence(el2n, hidden, learning_rates=rates)
    assert_allclose(score * sum(rates), TRACIN["self_influence"], rtol=1e-8)


@pytest.mark.proves("el2n", kind="score", by="identity")
def test_el2n_of_two_classes_is_the_gold_probability_turned() -> None:
    p = np.random.default_rng(0).random((3, 9))
    assert_allclose(dynamics.grand_last_layer(np.sqrt(2) * (1 - p), 0 * p), np.sqrt(2) * dynamics.confidence(p))


# ---- the contract of a score


@every_score
def test_finite_where_seen_and_infinite_where_not_and_inputs_as_they_were(name: str) -> None:
    columns = some_rounds()
    before = {key: table.copy() for key, table in columns.items()}
    found = batch_form(name, columns)
    assert found.shape == (40,)
    assert found.dtype == np.float64
    assert found[0] == np.inf
    assert np.isfinite(found[1:]).all()
    for key, table in columns.items():
        assert_array_equal(table, before[key])
    order = np.random.default_rng(1).permutation(40)  # an example's value does not depend on its place
    assert_array_equal(batch_form(name, {key: table[:, order] for key, table in columns.items()}), found[order])


@pytest.mark.proves("variability", "threshold_closeness", by="planted")
@every_score
def test_what_is_hard_in_every_round_is_harder(name: str) -> None:
    """Three examples: learned, wavering, never learned. Only ambiguity has the wavering one on top."""
    probability = np.array([[0.9, 0.2, 0.1], [0.95, 0.8, 0.1], [0.95, 0.3, 0.1], [0.95, 0.9, 0.05]])
    columns = {
        "gold_probability": probability,
        "correct": (probability > 0.5).astype(float),
        "margin": np.log(1 - probability) - np.log(probability),
        "el2n": np.sqrt(2) * (1 - probability),
        "hidden_norm": np.full_like(probability, 2.0),
    }
    expected = [0, 2, 1] if name in ("variability", "threshold_closeness") else [0, 1, 2]
    assert np.argsort(batch_form(name, columns)).tolist() == expected


@every_score
@pytest.mark.parametrize("burn_out", [None, 3])
def test_after_every_round_the_streaming_form_equals_the_batch_form(name: str, burn_out: int | None) -> None:
    columns, score = some_rounds(), DYNAMIC_SCORES[name]
    history = score.started(burn_out=burn_out)
    state = history.init(40)
    for now in range(7):
        rows = np.flatnonzero(~np.isnan(columns["el2n"][now]))
        values = np.full(40, np.nan, np.float32)
        values[rows] = score.read({key: table[now][rows] for key, table in columns.items()})
        state = history.update(state, values, ~np.isnan(values))
        so_far = {key: table[: now + 1] for key, table in columns.items()}
        expected = batch_form(name, so_far, None if burn_out is None else min(burn_out, now + 1))
        found = history.value(state)
        assert found.dtype == np.float32
        assert_allclose(found, expected, rtol=2e-5, atol=1e-5)
    assert sum(array.nbytes for array in state.values()) <= 16 * 40


@settings(deadline=None)
@given(arrays(np.float32, st.tuples(st.integers(1, 7), st.integers(1, 5)), elements=st.floats(0, 1, width=16)))
def test_bounds_of_data_maps(table: np.ndarray) -> None:
    found = training_dynamics({"gold_probability": table, "correct": table > 0.5})
    assert (found.confidence >= 0).all()
    assert (found.confidence <= 1).all()
    assert (found.variability <= 0.5 + 1e-9).all()
    assert (found.variability[(table == table[0]).all(0)] == 0).all()
    counted = found.forgetting[np.isfinite(found.forgetting)]
    assert (counted <= len(table) / 2).all()


# ---- what they are for


def run_with_noise(flipped: np.ndarray, rounds: int = 6) -> dict[str, np.ndarray]:
    """Clean examples are learned one after the other; a flipped one is fitted late, against what was learned."""
    n, generator = len(flipped), np.random.default_rng(3)
    difficulty, time = generator.random(n), np.arange(1, rounds + 1)[:, None]
    gold_logit = np.where(flipped, 0.4 * time - 3.0, 1.2 * time - 2 * difficulty) + 0.4 * generator.standard_normal(
        (rounds, n)
    )
    p = 1 / (1 + np.exp(-gold_logit))
    return {
        "gold_probability": p,
        "correct": (p > 0.5).astype(float),
        "margin": -gold_logit,
        "el2n": np.sqrt(2) * (1 - p),
        "hidden_norm": np.full_like(p, 3.0),
    }


@pytest.mark.proves("confidence", "correctness", "aum", "tracin_self_influence", "grand_last_layer", by="planted")
@pytest.mark.parametrize("name", ["confidence", "aum", "correctness", "tracin_self_influence", "grand_last_layer"])
def test_flipped_labels_come_out_on_top(name: str) -> None:
    flipped = np.arange(200) < 20
    values = batch_form(name, run_with_noise(flipped))
    top = np.argsort(-values, kind="stable")[:20]
    assert flipped[top].mean() >= 0.9


@pytest.mark.proves("forgetting", by="planted")
def test_step_cadence_sees_forgetting_that_epoch_cadence_misses() -> None:
    """Right at the end of every epoch, wrong in its middle: the same run, recorded twice."""
    by_step = np.array([[1, 1], [0, 1], [1, 1], [0, 1], [1, 1], [0, 1], [1, 1]], float)
    assert dynamics.forgetting(by_step).tolist() == [3.0, 0.0]
    assert dynamics.forgetting(by_step[::2]).tolist() == [0.0, 0.0]


# ---- bad input


def test_bad_tables_are_refused() -> None:
    good = np.zeros((2, 3))
    with pytest.raises(ArgumentError, match=r"gold_probability must have the shape \(rounds, n\).*got \(3,\)"):
        dynamics.confidence(np.zeros(3))
    with pytest.raises(ArgumentError, match="margin is infinite in 1 rows \\(2\\)"):
        dynamics.aum(np.array([[0.0, 1.0, np.inf]]))
    with pytest.raises(ArgumentError, match=r"one shape, got correct \(1, 2\), margin \(2, 3\)"):
        training_dynamics({"margin": good, "correct": np.zeros((1, 2))})
    with pytest.raises(ArgumentError, match="need one of the columns gold_probability, correct"):
        training_dynamics({"entropy": good})
    with pytest.raises(ArgumentError, match="burn_out must be at most the 2 rounds, got 3"):
        dynamics.variability(good, burn_out=3)
    with pytest.raises(ArgumentError, match="burn_out must be a whole number, at least 1, got 0"):
        dynamics.variability(good, burn_out=0)
    with pytest.raises(ArgumentError, match="learning_rates must be 2 finite numbers above 0"):
        dynamics.tracin_self_influence(good, good, learning_rates=[0.1])


def test_a_dynamic_score_says_what_it_lacks() -> None:
    with pytest.raises(ArgumentError, match="needs the recorded hidden_norm"):
        DYNAMIC_SCORES["grand_last_layer"].read({"el2n": np.ones(2)})
    with pytest.raises(ArgumentError, match=r"needs margin, which is not finite for 2 of 2 examples \(a regression"):
        DYNAMIC_SCORES["aum"].read({"margin": np.full(2, np.nan)})
