"""Values of a training epoch brought to one moment."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from datadiet.diet import values as drift
from datadiet.diet.values import MOMENT, EpochBuffer, to_epoch_end

N = 4096
MOMENTS = (np.arange(N) // 32).astype(np.float32)
NEVER = np.full(N, np.inf, np.float32)


def learning(seed=0, fall=20.0):
    """Difficulties, and values taken while a model learns: noise times a level that falls over the epoch."""
    rng = np.random.default_rng(seed)
    difficulty = rng.gamma(2, 1, N)
    level = 0.3 + 2 * np.exp(-MOMENTS / fall)
    return difficulty, (difficulty * level * rng.lognormal(0, 0.2, N)).astype(np.float32), level


def share_of_the_hardest_half(difficulty, values):
    hardest = set(np.argsort(-difficulty)[: N // 2])
    return len(hardest & set(np.argsort(-values)[: N // 2])) / len(hardest)


def test_a_first_epoch_is_ranked_by_difficulty_not_by_when_it_was_seen():
    difficulty, values, _ = learning()
    corrected, fall = to_epoch_end(values, NEVER, MOMENTS)
    assert share_of_the_hardest_half(difficulty, corrected) > share_of_the_hardest_half(difficulty, values) + 0.07
    assert abs(np.corrcoef(MOMENTS, values)[0, 1]) > 0.4
    assert abs(np.corrcoef(MOMENTS, corrected)[0, 1]) < 0.1
    assert fall == 1.0  # nothing to compare with


def test_a_later_epoch_tells_by_what_share_values_fell():
    difficulty, values, level = learning()
    prior = (difficulty * 4).astype(np.float32)
    corrected, fall = to_epoch_end(values, prior, MOMENTS)
    assert fall == pytest.approx(level[-1] / 4, rel=0.15)
    assert corrected.mean() == pytest.approx((difficulty * level[-1]).mean(), rel=0.2)


def test_values_that_do_not_fall_stay_as_they_are():
    flat = np.random.default_rng(0).uniform(0.2, 1.0, N).astype(np.float32)
    assert np.allclose(to_epoch_end(flat, NEVER, MOMENTS)[0], flat, rtol=0.15)
    rising = (1 + MOMENTS / MOMENTS.max()).astype(np.float32)
    assert np.array_equal(to_epoch_end(rising, NEVER, MOMENTS)[0], rising)


@pytest.mark.parametrize(
    ("values", "prior"),
    [
        (np.ones(10, np.float32), np.full(10, np.inf, np.float32)),  # too few for a trend
        (np.linspace(-1, 1, N, dtype=np.float32), NEVER),  # a signed score has no ratio
        (np.zeros(N, np.float32), NEVER),
        (np.ones(N, np.float32), np.zeros(N, np.float32)),
    ],
)
def test_without_a_trend_nothing_changes(values, prior):
    before = values.copy()
    corrected, fall = to_epoch_end(values, prior, np.arange(len(values), dtype=np.float32))
    assert np.array_equal(corrected, before)
    assert fall == 1.0


def test_inputs_are_not_written_to_and_order_does_not_matter():
    _, values, _ = learning()
    kept = values.copy()
    corrected, _ = to_epoch_end(values, NEVER, MOMENTS)
    shuffled = np.random.default_rng(1).permutation(N)
    again, _ = to_epoch_end(values[shuffled], NEVER, MOMENTS[shuffled])
    assert np.array_equal(values, kept)
    assert np.allclose(again, corrected[shuffled], rtol=0.02)
    assert np.isfinite(corrected).all()
    assert (corrected >= 0).all()


@pytest.mark.parametrize("known", [0.0, 0.6, 1.0])
def test_pieces_give_the_same_values_to_the_last_bit(monkeypatch, known):
    generator = np.random.default_rng(1)
    values, prior = generator.random((2, 1000), np.float32)
    prior[generator.random(1000) >= known] = np.inf
    moments = generator.integers(1, 40, 1000).astype(np.float32)
    whole = to_epoch_end(values, prior, moments)
    monkeypatch.setattr(drift, "_AT_ONCE", 7)
    pieces = to_epoch_end(values, prior, moments)
    assert not np.array_equal(whole[0], values)
    assert whole[0].dtype == pieces[0].dtype == np.float32
    assert np.array_equal(whole[0], pieces[0])
    assert whole[1] == pieces[1]


@pytest.mark.parametrize("flush", [1, 256])
def test_a_row_that_comes_again_in_an_epoch_keeps_its_first_value(monkeypatch, flush):
    monkeypatch.setattr(drift, "_FLUSH_EVERY", flush)
    buffer = EpochBuffer(8, ("el2n", MOMENT))
    for rows, values in (([6, 1], [0.6, 0.1]), ([3, 3], [0.3, 0.9]), ([1, 5], [0.9, 0.5])):
        buffer.add(torch.tensor(rows), torch.tensor([values]), epoch=0)
    first = buffer.drain(0)
    assert first.rows.tolist() == [1, 3, 5, 6]
    assert first.values["el2n"].tolist() == pytest.approx([0.1, 0.3, 0.5, 0.6])
    assert first.values[MOMENT].tolist() == [1, 2, 3, 1]
    buffer.add(torch.tensor([1]), torch.tensor([[0.05]]), epoch=1)
    assert buffer.drain(1).values["el2n"].tolist() == pytest.approx([0.05])
