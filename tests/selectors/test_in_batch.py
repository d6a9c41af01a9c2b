"""In-batch selectors: the rules of the family, then the promises of each."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from datadiet import registry
from datadiet.errors import ArgumentError
from datadiet.selectors.in_batch import (
    BatchSelector,
    BatchSignals,
    DiverseBatch,
    InstanceReweighting,
    MidRank,
    SelectiveBackprop,
    TopReducible,
    baselines_of,
    divbs,
    dro_weights,
    last_layer_gram,
    percentiles,
)

battery = pytest.mark.parametrize("make", [one.load() for one in registry.methods("in_batch")])


def batch(step: int, size: int = 12) -> BatchSignals:
    """Made-up signals of one step: about half of the losses are small."""
    generator = np.random.default_rng([7, step])
    losses = np.where(generator.random(size) < 0.5, 0.1, 2.0) + 0.05 * generator.random(size)
    vectors = generator.normal(size=(size, 5))
    return BatchSignals(losses.astype(np.float32), vectors @ vectors.T, generator.random(size), generator.random(size))


def run(method: BatchSelector, steps: range) -> list[list[bool]]:
    masks = []
    for step in steps:
        signals = batch(step)
        mask = method.choose(signals, seed=0, step=step)
        assert mask.dtype == np.bool_
        assert mask.shape == signals.losses.shape
        assert mask.any()
        method.learn(signals)
        masks.append(mask.tolist())
    return masks


@battery
def test_a_run_cut_in_two_by_a_checkpoint_is_the_same_run(make) -> None:
    whole = run(make(), range(40))
    first, second = make(), make()
    before = run(first, range(20))
    second.load(first.state())
    assert before + run(second, range(20, 40)) == whole
    assert all(map(all, whole)) == (not make.chooses)


@battery
def test_choosing_changes_nothing_and_a_state_is_a_copy(make) -> None:
    method = make()
    run(method, range(5))
    state, signals = method.state(), batch(6)
    copy = {name: np.array(value) for name, value in state.items()}
    masks = [method.choose(signals, seed=1, step=6).tolist() for _ in range(2)]
    assert masks[0] == masks[1]
    assert method.state().keys() == copy.keys()
    assert all(np.array_equal(method.state()[name], copy[name]) for name in copy)
    run(method, range(5, 9))
    assert all(np.array_equal(state[name], copy[name]) for name in copy)


@battery
def test_a_state_of_another_method_is_refused(make) -> None:
    with pytest.raises(ArgumentError, match="it is of another method"):
        make().load({"momentum": np.zeros(3)})


@battery
def test_the_global_generator_is_neither_used_nor_moved(make) -> None:
    before = np.random.get_state()[1].copy()  # noqa: NPY002 - this is about the global generator
    first = run(make(), range(10))
    assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002
    np.random.seed(99)  # noqa: NPY002
    assert run(make(), range(10)) == first


@battery
def test_missing_signals_and_losses_that_are_not_numbers(make) -> None:
    method = make()
    for need in method.needs - {"losses"}:
        with pytest.raises(ArgumentError, match=f"this method needs BatchSignals.{need}, got none"):
            method.choose(replace(batch(0), **{need: None}), seed=0, step=0)
    if "gram" in method.needs:
        return
    signals = batch(0)
    signals.losses[[3, 8]] = np.nan, np.inf
    with pytest.raises(ArgumentError, match="losses must be finite, got NaN or infinity at 3, 8 of a batch of 12"):
        method.choose(signals, seed=0, step=0)
    with pytest.raises(ArgumentError, match=r"one number per example of a batch, got shape \(0,\)"):
        method.choose(BatchSignals(np.zeros(0), irreducible=np.zeros(0), entropy=np.zeros(0)), seed=0, step=0)


@pytest.mark.proves("selective_backprop", by="brute")
def test_percentiles_against_counting() -> None:
    generator = np.random.default_rng(0)
    losses, recent = generator.integers(0, 9, 20).astype(float), generator.integers(0, 9, 50).astype(float)
    assert_allclose(percentiles(losses, recent), [(recent <= loss).mean() for loss in losses])


@pytest.mark.proves("selective_backprop", by="definition")
@pytest.mark.proves("selective_backprop", by="planted")
@pytest.mark.parametrize("beta", [0.0, 1.0, 3.0])
def test_selective_backprop_takes_the_share_and_favours_large_losses(beta: float) -> None:
    method, generator = SelectiveBackprop(beta=beta), np.random.default_rng(0)
    losses, taken = [], []
    for step in range(400):
        signals = BatchSignals(generator.exponential(size=32))
        losses.append(signals.losses)
        taken.append(method.choose(signals, seed=0, step=step))
        method.learn(signals)
    share = np.mean(taken)
    assert share == pytest.approx(1 / (beta + 1), abs=0.03)
    ranks = np.concatenate(losses).argsort().argsort() / 12800
    hard = np.concatenate(taken)[ranks > 0.5].mean()
    assert hard == pytest.approx((1 - 0.5 ** (beta + 1)) / (0.5 * (beta + 1)), abs=0.03)  # mean of u^beta above 1/2


def test_the_window_forgets() -> None:
    method = SelectiveBackprop(window=8)
    method.learn(BatchSignals(np.full(8, 5.0)))
    assert percentiles(np.array([1.0]), method.state()["recent"]) == 0.0
    method.learn(BatchSignals(np.full(6, 0.5)))
    assert sorted(method.state()["recent"].tolist()) == [0.5] * 6 + [5.0] * 2


@pytest.mark.proves("top_reducible")
@pytest.mark.proves("top_reducible", by="planted")
def test_top_reducible_leaves_out_planted_noise_and_what_is_learned() -> None:
    losses = np.concatenate([np.full(20, 4.0), np.full(20, 0.1), np.linspace(1.5, 2.0, 10)])
    irreducible = np.repeat([3.9, 0.05, 0.2], [20, 20, 10])  # noise, learned, to be learned
    mask = TopReducible(keep=0.2).choose(BatchSignals(losses, irreducible=irreducible), seed=0, step=0)
    assert_array_equal(np.flatnonzero(mask), np.arange(40, 50))
    with pytest.raises(ArgumentError, match="irreducible must have one entry per loss, got 3 for 50 losses"):
        TopReducible().choose(BatchSignals(losses, irreducible=np.zeros(3)), seed=0, step=0)


def slow_divbs(vectors: np.ndarray, count: int) -> list[int]:
    """The rule spelled out on the vectors themselves: project, compare, take."""
    total, basis, chosen = vectors.sum(axis=0), [], []
    for _ in range(count):
        left = vectors - sum((np.outer(vectors @ e, e) for e in basis), np.zeros_like(vectors))
        lengths = np.linalg.norm(left, axis=1)
        gains = [
            -1.0 if row in chosen or lengths[row] < 1e-8 else abs(left[row] @ total) / lengths[row]
            for row in range(len(vectors))
        ]
        best = int(np.argmax(gains))
        chosen.append(best)
        basis.append(left[best] / lengths[best])
    return chosen


@pytest.mark.proves("divbs", by="brute")
@settings(deadline=None, max_examples=50)
@given(size=st.integers(2, 14), share=st.floats(0.05, 1), seed=st.integers(0, 10_000))
def test_divbs_against_the_rule_spelled_out(size: int, share: float, seed: int) -> None:
    vectors = np.random.default_rng(seed).normal(size=(size, 20))
    count = max(1, min(size - 1, round(share * size)))
    mask = divbs(vectors @ vectors.T, count, np.random.default_rng(1))
    assert np.flatnonzero(mask).tolist() == sorted(slow_divbs(vectors, count))


@settings(deadline=None, max_examples=50)
@given(size=st.integers(1, 20), rank=st.integers(0, 4), share=st.floats(0, 1), seed=st.integers(0, 10_000))
def test_divbs_takes_exactly_count_of_any_batch(size: int, rank: int, share: float, seed: int) -> None:
    """Duplicates, zero gradients and batches of low rank included; the same for the same generator."""
    generator = np.random.default_rng(seed)
    vectors = generator.normal(size=(size, rank)) @ generator.normal(size=(rank, 7))
    vectors[generator.random(size) < 0.3] = 0
    count = max(1, round(share * size))
    first, second = (divbs(vectors @ vectors.T, count, np.random.default_rng(5)) for _ in range(2))
    assert np.count_nonzero(first) == count
    assert_array_equal(first, second)


@pytest.mark.proves("divbs", by="planted")
def test_divbs_takes_one_of_each_kind_before_any_twin() -> None:
    kinds = np.eye(6) * np.array([3.0, 2.5, 2.0, 1.5, 1.2, 1.0])[:, None]
    vectors = np.repeat(kinds, 5, axis=0)  # 30 examples of 6 kinds
    for seed in range(10):
        mask = divbs(vectors @ vectors.T, 6, np.random.default_rng(seed))
        assert np.unique(np.flatnonzero(mask) // 5).tolist() == [0, 1, 2, 3, 4, 5]


def test_divbs_takes_rows_without_gradient_last_and_ties_at_random() -> None:
    mask = divbs(np.diag([0.0, 1.0, 0.0, 2.0]), 2, np.random.default_rng(0))
    assert_array_equal(mask, [False, True, False, True])
    drawn = [int(np.flatnonzero(divbs(np.eye(4), 1, np.random.default_rng(seed)))[0]) for seed in range(200)]
    assert min(np.bincount(drawn, minlength=4)) > 25


@pytest.mark.proves("divbs", by="definition")
def test_the_gram_matrix_of_a_linear_head() -> None:
    generator = np.random.default_rng(0)
    errors, hidden = generator.normal(size=(5, 3)), generator.normal(size=(5, 4))
    gradients = np.stack(
        [np.append(np.outer(e, h).ravel(), e) for e, h in zip(errors, hidden, strict=True)]  # weights, then bias
    )
    assert_allclose(last_layer_gram(errors, hidden), gradients @ gradients.T)


@pytest.mark.parametrize(
    ("gram", "count", "message"),
    [
        (np.zeros((3, 4)), 1, r"gram must be \(batch, batch\), got \(3, 4\)"),
        (np.eye(3) * np.nan, 1, "gram must be finite"),
        (np.eye(3), 4, "count must be from 1 to 3, the size of the batch, got 4"),
    ],
)
def test_gram_matrices_that_do_not_fit(gram: np.ndarray, count: int, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        divbs(gram, count, np.random.default_rng(0))


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (SelectiveBackprop, {"beta": -1}, "beta must be at least 0, got -1"),
        (SelectiveBackprop, {"window": 0}, "window must be a whole number, at least 1, got 0"),
        (TopReducible, {"keep": 10}, r"keep must be in \(0, 1\], got 10. Did you mean 0.1\?"),
        (DiverseBatch, {"keep": 0}, r"keep must be in \(0, 1\], got 0"),
        (MidRank, {"portion": -1}, "portion must be a whole number, at least 0, got -1"),
        (InstanceReweighting, {"temperature": 0}, "temperature must be above 0 and finite, got 0"),
        (InstanceReweighting, {"least": 30}, r"least must be in \[0, 1\], got 30"),
    ],
)
def test_options_that_are_not_allowed(make: Callable[..., Any], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        make(**options)


GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "ir_dro.json").read_text(encoding="utf-8"))


@pytest.mark.proves("ir_dro", by="golden")
@pytest.mark.parametrize("case", GOLDEN["weights"])
def test_golden_weights_and_their_effective_size(case: str) -> None:
    name, temperature = case.split("_lam")
    weights = dro_weights(GOLDEN["losses"][name], float(temperature))
    assert_allclose(weights, GOLDEN["weights"][case]["mean_one"], rtol=1e-6, atol=1e-12)
    assert weights.sum() ** 2 / np.square(weights).sum() == pytest.approx(GOLDEN["weights"][case]["ess"])


@pytest.mark.proves("ir_dro", by="definition")
def test_the_weights_maximise_their_objective() -> None:
    losses, temperature = np.array([0.3, 2.0, 1.1, 0.9]), 0.7
    weights = dro_weights(losses, temperature) / 4

    def worst(one: np.ndarray) -> float:
        return float(one @ losses - temperature * (one * np.log(one * 4)).sum())

    generator = np.random.default_rng(0)
    others = [0.9 * weights + 0.1 * generator.dirichlet(np.ones(4)) for _ in range(200)]
    assert worst(weights) > max(map(worst, others))


@pytest.mark.proves("ir_dro", by="planted")
def test_the_floor_of_the_effective_size_keeps_one_long_answer_from_being_the_batch() -> None:
    losses = np.array([40.0, *np.linspace(1, 2, 15)])
    assert dro_weights(losses, 1.0).max() > 15.99
    for least in (0.3, 0.6, 0.9, 1.0):
        weights = dro_weights(losses, 1.0, least)
        assert weights.mean() == pytest.approx(1)
        effective = weights.sum() ** 2 / (16 * np.square(weights).sum())
        assert least - 1e-9 <= effective <= least + 1e-3
        assert (np.diff(weights[1:]) > 0).all() or least == 1.0
    assert_allclose(dro_weights(losses, 1e9), 1, atol=1e-6)
    assert dro_weights([5.0], 1.0, 0.3).tolist() == [1.0]
    sizes = [1 / np.square(dro_weights(losses, heat) / 16).sum() for heat in (0.1, 1.0, 10.0, 100.0)]
    assert sizes == sorted(sizes)


@pytest.mark.proves("ir_dro", by="planted")
def test_what_is_trimmed_does_not_train_and_the_others_weigh_as_if_it_were_not_there() -> None:
    losses = np.array([0.5, 30.0, 1.0, 2.0, 25.0, 1.5, 0.7, 0.9])  # two are noise
    method = InstanceReweighting
    weights = method(trim=0.25).weigh(BatchSignals(losses))
    clean = np.delete(losses, [1, 4])
    assert weights[[1, 4]].tolist() == [0, 0]
    assert_allclose(np.delete(weights, [1, 4]), dro_weights(clean, 1.0, 0.3) * 8 / 6)
    assert weights.mean() == pytest.approx(1)
    assert_allclose(method(trim=0.24).weigh(BatchSignals(losses))[[1, 4]] > 0, [False, True])  # floor(1.92) = 1
    assert_allclose(method().weigh(BatchSignals(losses)), dro_weights(losses, 1.0, 0.3))
    assert method(trim=0.9).weigh(BatchSignals(np.array([1.0]))).tolist() == [1.0]
    with pytest.raises(ArgumentError, match=r"trim must be in \[0, 1\), got 1. 0.1 leaves out the largest tenth"):
        method(trim=1)


@pytest.mark.proves("mid_rank", by="golden")
def test_golden_slices_of_the_losses() -> None:
    losses = np.array(GOLDEN["losses"]["plain"])
    for case, expected in GOLDEN["slices"].items():
        share, portion = (
            float(part.removeprefix(word)) for part, word in zip(case.split("_"), ("frac", "portion"), strict=True)
        )
        mask = MidRank(keep=share, portion=int(portion)).choose(BatchSignals(losses), seed=0, step=0)
        assert sorted(losses[mask]) == sorted(
            expected or [5.7]
        )  # the reference has an empty slice where it rounds to 0


@pytest.mark.proves("mid_rank", by="planted")
def test_a_portion_leaves_planted_noise_out_and_no_slice_is_empty() -> None:
    losses = np.array([9.0, 8.0, 3.0, 2.9, 0.2, 0.1, 0.1, 0.1])  # two of noise
    assert np.flatnonzero(MidRank(keep=0.25).choose(BatchSignals(losses), seed=0, step=0)).tolist() == [2, 3]
    for size, keep, portion in ((1, 0.1, 5), (3, 0.5, 9), (8, 1.0, 1)):
        mask = MidRank(keep=keep, portion=portion).choose(BatchSignals(losses[:size]), seed=0, step=0)
        assert mask.sum() == max(1, round(keep * size))


# ---- baselines of each example


def test_a_baseline_is_the_running_mean_of_the_losses_of_its_row() -> None:
    own = baselines_of(0.25)
    for rows, losses in (([3, 1], [4.0, 8.0]), ([3], [8.0]), ([3, 0], [1.0, 2.0])):
        own.learn(BatchSignals(np.array(losses), rows=np.array(rows)))
    third = 0.75 * (0.75 * 4 + 0.25 * 8) + 0.25 * 1
    assert own.state()["means"].tolist() == pytest.approx([2.0, 8.0, np.nan, third], nan_ok=True)
    excess = own.excess(BatchSignals(np.full(4, 9.0), rows=np.array([3, 2, 7, 0])))
    new = (third + 2) / 2  # rows 2 and 7 have none: the mean of the two others
    assert excess.tolist() == pytest.approx([9 - third, 9 - new, 9 - new, 7.0])
    assert own.excess(BatchSignals(np.array([1.0, 5.0]), rows=np.array([2, 9]))).tolist() == [1.0, 5.0]
    other = baselines_of(0.25)
    other.load(own.state())
    assert other.fresh == {}
    assert_array_equal(other.state()["means"], own.state()["means"])
    assert set(own.fresh) == {0, 1, 3}


@pytest.mark.proves("ir_dro", by="definition")
def test_weights_by_what_a_loss_is_above_its_baseline() -> None:
    method, plain = InstanceReweighting(ema=0.5, least=0.0), InstanceReweighting(least=0.0)
    first = BatchSignals(np.array([9.0, 1.0, 2.0]), rows=np.array([0, 1, 2]))
    assert_allclose(method.weigh(first), plain.weigh(first))  # nothing is known yet
    method.learn(first)
    second = BatchSignals(np.array([9.0, 2.0, 2.0]), rows=np.array([0, 1, 2]))
    assert_allclose(method.weigh(second), dro_weights([0.0, 1.0, 0.0], 1.0))  # row 0 is hard as ever, row 1 became so
    method.learn(second)
    method.learn(BatchSignals(np.array([9.0, 2.0, 0.0]), rows=np.array([0, 1, 2])))
    third = BatchSignals(np.array([9.0, 2.0, 2.0]), rows=np.array([0, 1, 2]))
    assert_allclose(method.weigh(third), dro_weights([0.0, 0.25, 1.0], 1.0))


@pytest.mark.proves("mid_rank", by="definition")
def test_slices_by_what_a_loss_is_above_its_baseline() -> None:
    method = MidRank(keep=0.25, portion=0, ema=1.0)
    method.learn(BatchSignals(np.array([9.0, 1.0, 2.0, 3.0]), rows=np.arange(4)))
    again = BatchSignals(np.array([9.0, 1.0, 2.5, 2.0]), rows=np.arange(4))
    assert np.flatnonzero(method.choose(again, seed=0, step=1)).tolist() == [2]
    assert np.flatnonzero(MidRank(keep=0.25, portion=0).choose(again, seed=0, step=1)).tolist() == [0]
    with pytest.raises(ArgumentError, match=r"needs BatchSignals\.rows"):
        method.choose(BatchSignals(np.ones(4)), seed=0, step=2)
    with pytest.raises(ArgumentError, match=r"ema must be in \[0, 1\], got 2"):
        MidRank(ema=2)
