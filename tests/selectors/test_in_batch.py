"""Every in-batch method holds the rules of its family; then what each of them promises by itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from datadiet.errors import ArgumentError
from datadiet.selectors import IN_BATCH
from datadiet.selectors.in_batch import (
    BatchSignals,
    DiverseBatch,
    InBatch,
    SelectiveBackprop,
    TopReducible,
    divbs,
    last_layer_gram,
    percentiles,
)
from datadiet.selectors.multistage import MultistageFilter, hashed_bag

FEATURES = 16
MAKE: dict[str, Callable[[], InBatch]] = {
    **IN_BATCH,
    "multistage": lambda: MultistageFilter(warmup_steps=3, batches=2, limit=0.69, features=FEATURES),
}
battery = pytest.mark.parametrize("name", list(MAKE))


def batch(step: int, size: int = 12) -> BatchSignals:
    """Made-up signals of one step: rows with the first feature are learned, the others are not."""
    generator = np.random.default_rng([7, step])
    features = generator.random((size, FEATURES)).astype(np.float32)
    features[:, 0] = generator.random(size) < 0.5
    losses = np.where(features[:, 0] > 0, 0.1, 2.0) + 0.05 * generator.random(size)
    vectors = generator.normal(size=(size, 5))
    return BatchSignals(losses.astype(np.float32), features, vectors @ vectors.T, generator.random(size))


def run(method: InBatch, steps: range, seed: int = 0) -> list[tuple[list[bool], list[bool]]]:
    masks = []
    for step in steps:
        signals = batch(step)
        forward = method.wants_forward(signals.features, seed=seed, step=step)
        seen = BatchSignals(
            signals.losses[forward],
            signals.features[forward],  # type: ignore[index]
            signals.gram[np.ix_(forward, forward)],  # type: ignore[index]
            signals.irreducible[forward],  # type: ignore[index]
        )
        backward = method.wants_backward(seen, seed=seed, step=step)
        assert forward.dtype == backward.dtype == np.bool_
        assert forward.shape == signals.losses.shape
        assert backward.shape == seen.losses.shape
        assert forward.any()
        assert backward.any()
        assert forward.all() or method.skips_forward
        method.learn(seen)
        masks.append((forward.tolist(), backward.tolist()))
    return masks


@battery
def test_a_run_cut_in_two_by_a_checkpoint_is_the_same_run(name: str) -> None:
    whole = run(MAKE[name](), range(40))
    first, second = MAKE[name](), MAKE[name]()
    before = run(first, range(20))
    second.load(first.state())
    assert before + run(second, range(20, 40)) == whole
    assert any(not all(backward) for _, backward in whole)


@battery
def test_masks_change_nothing(name: str) -> None:
    method = MAKE[name]()
    run(method, range(5))
    before, signals = method.state(), batch(6)
    again = [method.wants_backward(signals, seed=1, step=6).tolist() for _ in range(2)]
    method.wants_forward(signals.features, seed=1, step=6)
    assert again[0] == again[1]
    after = method.state()
    assert before.keys() == after.keys()
    assert all(np.array_equal(before[key], after[key]) for key in before)


@battery
def test_a_state_is_not_shared_with_the_method_it_came_from(name: str) -> None:
    method = MAKE[name]()
    run(method, range(5))
    state = method.state()
    held = {key: np.array(value) for key, value in state.items()}
    run(method, range(5, 9))
    assert all(np.array_equal(state[key], held[key]) for key in held)


@battery
def test_a_state_of_another_method_is_refused(name: str) -> None:
    with pytest.raises(ArgumentError, match="it is of another method"):
        MAKE[name]().load({"momentum": np.zeros(3)})


@battery
def test_the_global_generator_is_neither_used_nor_moved(name: str) -> None:
    before = np.random.get_state()[1].copy()  # noqa: NPY002 - what is looked at is the global generator
    first = run(MAKE[name](), range(10))
    assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002
    np.random.seed(99)  # noqa: NPY002
    assert run(MAKE[name](), range(10)) == first


def one_step(method: InBatch, signals: BatchSignals) -> None:
    method.wants_backward(signals, seed=0, step=0)
    method.learn(signals)


@battery
def test_what_a_method_needs_and_does_not_get(name: str) -> None:
    method = MAKE[name]()
    for need in method.needs - {"losses"}:
        known = {key: value for key, value in vars(batch(0)).items() if key != need}
        with pytest.raises(ArgumentError, match=f"this method needs BatchSignals.{need}, got none"):
            one_step(method, BatchSignals(**known))


@pytest.mark.parametrize("name", ["selective_backprop", "top_reducible", "multistage"])
def test_losses_that_are_no_numbers_are_refused_with_their_places(name: str) -> None:
    signals = batch(0)
    signals.losses[[3, 8]] = np.nan, np.inf
    with pytest.raises(ArgumentError, match="losses must be finite, got NaN or infinity at 3, 8 of a batch of 12"):
        MAKE[name]().wants_backward(signals, seed=0, step=0)
    with pytest.raises(ArgumentError, match=r"one number per example of a batch, got shape \(0,\)"):
        MAKE[name]().wants_backward(BatchSignals(np.zeros(0), irreducible=np.zeros(0)), seed=0, step=0)


# selective backprop -------------------------------------------------------------------------------------------------


def test_percentiles_against_counting() -> None:
    generator = np.random.default_rng(0)
    losses, recent = generator.integers(0, 9, 20).astype(float), generator.integers(0, 9, 50).astype(float)
    assert_allclose(percentiles(losses, recent), [(recent <= loss).mean() for loss in losses])


@pytest.mark.parametrize("beta", [0.0, 1.0, 3.0])
def test_selective_backprop_takes_the_share_and_favours_large_losses(beta: float) -> None:
    method, generator = SelectiveBackprop(beta=beta), np.random.default_rng(0)
    losses, taken = [], []
    for step in range(400):
        signals = BatchSignals(generator.exponential(size=32))
        losses.append(signals.losses)
        taken.append(method.wants_backward(signals, seed=0, step=step))
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


# RHO ----------------------------------------------------------------------------------------------------------------


def test_top_reducible_leaves_out_planted_noise_and_what_is_learned() -> None:
    losses = np.concatenate([np.full(20, 4.0), np.full(20, 0.1), np.linspace(1.5, 2.0, 10)])
    irreducible = np.concatenate(
        [np.full(20, 3.9), np.full(20, 0.05), np.full(10, 0.2)]
    )  # noise, learned, to be learned
    mask = TopReducible(keep=0.2).wants_backward(BatchSignals(losses, irreducible=irreducible), seed=0, step=0)
    assert_array_equal(np.flatnonzero(mask), np.arange(40, 50))
    with pytest.raises(ArgumentError, match="irreducible need one entry per loss: got 3 for 50 losses"):
        TopReducible().wants_backward(BatchSignals(losses, irreducible=np.zeros(3)), seed=0, step=0)


# DivBS --------------------------------------------------------------------------------------------------------------


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


# multistage filtering -----------------------------------------------------------------------------------------------


def test_multistage_saves_backwards_first_and_forwards_once_it_can_tell() -> None:
    method = MultistageFilter(warmup_steps=10, batches=4, limit=0.15, explore=0.1, features=FEATURES)
    stages, forwards, backwards, hard = [], [], [], []
    for step in range(150):
        stages.append(method.stage)
        signals = batch(step, size=32)
        forward = method.wants_forward(signals.features, seed=0, step=step)
        seen = BatchSignals(signals.losses[forward], features=signals.features[forward])  # type: ignore[index]
        backward = method.wants_backward(seen, seed=0, step=step)
        forwards.append(forward.mean())
        backwards.append(backward.sum() / 32)
        if method.stage:
            assert bool((seen.losses[backward] >= method.threshold - 1e-6).all())
        hard.append(np.mean(seen.losses > 1))
        method.learn(seen)
    changes = [stages.index(stage) for stage in (0, 1, 2)]
    assert changes[:2] == [0, 10]
    assert 10 < changes[2] < 120
    assert stages == sorted(stages)
    assert backwards[:10] == [1.0] * 10
    assert 0.3 < np.mean(backwards[10 : changes[2]]) < 0.7  # half of the examples are learned
    assert forwards[: changes[2]] == [1.0] * changes[2]
    assert np.mean(forwards[-30:]) < 0.7
    assert np.mean(hard[-30:]) > 0.8  # the learned ones are told by their features, and a tenth of them looked at


def test_the_threshold_is_the_mean_of_the_last_batches() -> None:
    method = MultistageFilter(warmup_steps=1, batches=2, features=2)
    assert method.threshold == -np.inf
    for losses in ([9.0, 9.0], [1.0, 2.0], [4.0, 5.0]):
        method.learn(BatchSignals(np.array(losses), features=np.zeros((2, 2))))
    assert method.threshold == 3.0
    mask = method.wants_backward(BatchSignals(np.array([2.9, 3.0, 3.1])), seed=0, step=3)
    assert mask.tolist() == [False, True, True]
    low = method.wants_backward(BatchSignals(np.array([0.1, 0.3, 0.2])), seed=0, step=3)
    assert low.tolist() == [False, True, False]  # no mask is empty


def test_equal_losses_are_not_below_their_own_mean() -> None:
    method = MultistageFilter(warmup_steps=1, features=2)
    for _ in range(7):
        method.learn(BatchSignals(np.full(3, 0.1), features=np.zeros((3, 2))))
    assert method.wants_backward(BatchSignals(np.full(3, 0.1)), seed=0, step=7).all()


def test_exploring_looks_at_some_of_what_seems_learned() -> None:
    shares = []
    for explore in (0.0, 0.3):
        method = MultistageFilter(warmup_steps=3, batches=2, limit=0.69, explore=explore, features=FEATURES)
        run(method, range(60))
        assert method.stage == 2
        learned = np.zeros((2000, FEATURES), np.float32)
        learned[:, 0] = 1
        shares.append(method.wants_forward(learned, seed=0, step=61).mean())
    assert shares[0] == pytest.approx(1 / 2000)
    assert shares[1] == pytest.approx(0.3, abs=0.05)


def test_a_bag_of_tokens_does_not_depend_on_order_repeats_or_the_batch() -> None:
    bag = hashed_bag([[7, 8, 9], [9, 7, 8, 8], [1]], features=64)
    assert_array_equal(bag[0], bag[1])
    assert_array_equal(hashed_bag([[1]], features=64)[0], bag[2])
    assert_allclose(np.linalg.norm(bag, axis=1), 1, rtol=1e-6)
    many = hashed_bag([[token] for token in range(30_000)], features=64)
    counts = many.sum(axis=0)
    assert counts.min() > 300
    assert counts.max() < 650


# bad input ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (SelectiveBackprop, {"beta": -1}, "beta must be at least 0, got -1"),
        (SelectiveBackprop, {"window": 0}, "window must be a whole number, at least 1, got 0"),
        (TopReducible, {"keep": 10}, r"keep must be in \(0, 1\], got 10. Did you mean 0.1\?"),
        (DiverseBatch, {"keep": 0}, r"keep must be in \(0, 1\], got 0"),
        (MultistageFilter, {"warmup_steps": 0, "limit": 0}, "(?s)warmup_steps must be.*limit must be above 0"),
        (MultistageFilter, {"explore": 5}, r"explore must be in \[0, 1\], got 5. Did you mean 0.05\?"),
        (MultistageFilter, {"rate": 0}, "rate must be above 0, got 0"),
    ],
)
def test_options_that_are_not_allowed(make: Callable[..., Any], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        make(**options)


def test_features_and_states_of_another_size() -> None:
    with pytest.raises(ArgumentError, match=r"features must be \(batch, 16\), got \(4, 8\)"):
        MAKE["multistage"]().wants_forward(np.zeros((4, 8)), seed=0, step=0)
    with pytest.raises(ArgumentError, match=r"weights of the state has shape \(17,\), expected \(9,\)"):
        MultistageFilter(batches=2, features=8).load(MAKE["multistage"]().state())
    with pytest.raises(ArgumentError, match="features must be a whole number, at least 1, got 0"):
        hashed_bag([[1]], features=0)
