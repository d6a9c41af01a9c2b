"""Q-Tuning's rows: golden vectors, oracles spelled out, and the edges that the paper leaves open."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from datadiet.errors import ArgumentError
from datadiet.selectors.in_batch import BatchSignals
from datadiet.selectors.q_tuning import (
    CALIBRATION,
    KNOWN,
    MISCONCEPTION,
    NOISE,
    WIDEST,
    QTuning,
    midpoint_quadrants,
    quadrant_rows,
    quadrants,
    quadrants_of,
    rank_gap,
    shares_of_rank,
)

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "q_tuning.json").read_text(encoding="utf-8"))
cases = pytest.mark.parametrize("name", GOLDEN["rows"])


def case(name: str) -> tuple[np.ndarray, np.ndarray, float, dict[str, Any]]:
    batch, share = name.split("_r")
    values = GOLDEN["batches"][batch]
    return np.array(values["ppl"]), np.array(values["entropy"]), float(share), GOLDEN["rows"][name]


@pytest.mark.proves("q_tuning", kind="in_batch", by="golden")
@cases
def test_golden_search_round_by_round(name: str) -> None:
    error, entropy, share, expected = case(name)
    for rounds, step in enumerate(expected["trace"], 1):
        stage = quadrant_rows(error, entropy, share, rounds=rounds)
        assert stage.tail == pytest.approx(step["tail"], abs=1e-8)
        assert stage.quadrants.tolist() == step["quadrant"]
    assert np.flatnonzero(stage.mask).tolist() == expected["keep_all"]
    assert stage.chosen == len(expected["chosen"])
    dropped = quadrant_rows(error, entropy, share, top_up="dropped")
    assert np.flatnonzero(dropped.mask).tolist() == expected["keep_dropped"]
    assert midpoint_quadrants(error, entropy, stage.tail).tolist() == expected["midpoint"]


@pytest.mark.proves("q_tuning", kind="in_batch", by="golden")
@pytest.mark.proves("quadrants", by="golden")
@cases
def test_golden_ranks(name: str) -> None:
    error, entropy, share, expected = case(name)
    gap = rank_gap(error, entropy)
    assert_allclose(np.abs(gap), expected["rank_score"], atol=1e-9)
    mask = QTuning(keep=share).choose(BatchSignals(np.log(error), entropy=entropy), seed=0, step=0)
    assert mask.sum() == max(1, len(expected["rank_keep"]))  # a batch of one keeps it
    scores = np.array(expected["rank_score"])
    assert sorted(scores[mask]) == sorted(scores[expected["rank_keep"]] if expected["rank_keep"] else scores)
    labels = ["Q2" if gap[row] > 0 else "Q4" for row in expected["rank_keep"]]
    assert labels == expected["rank_label"]
    count = max(1, len(expected["rank_keep"]))
    rows = quadrants(error, count, seed=0, epoch=0, entropy=entropy).rows
    assert_array_equal(np.flatnonzero(mask), rows)  # the same rows between epochs as within this one batch


def slow_stage(error: np.ndarray, entropy: np.ndarray, share: float) -> tuple[list[int], list[int]]:
    """Algorithm 1 spelled out, row by row."""
    n, low, high = len(error), 0.0, WIDEST

    def quantile(values: np.ndarray, at: float) -> float:
        return next(one for one in sorted(values) if sum(values <= one) / n >= at - 1e-12)

    for _ in range(10):
        tail = (low + high) / 2
        bounds = [(quantile(axis, tail), quantile(axis, 1 - tail)) for axis in (error, entropy)]
        labels = []
        for one, other in zip(error, entropy, strict=True):
            (down, up), (below, above) = bounds
            label = 0
            if one >= up and other >= above:
                label = NOISE
            elif one >= up and other <= below:
                label = MISCONCEPTION
            elif one <= down and other <= below:
                label = KNOWN
            elif one <= down and other >= above:
                label = CALIBRATION
            labels.append(label)
        kept = [row for row in range(n) if labels[row] in (MISCONCEPTION, CALIBRATION)]
        low, high = (tail, high) if len(kept) / n < share else (low, tail)
    return labels, kept


@pytest.mark.proves("q_tuning", kind="in_batch", by="brute")
@settings(deadline=None, max_examples=60)
@given(size=st.integers(1, 24), share=st.sampled_from([0.0625, 0.125, 0.25, 0.5, 1.0]), seed=st.integers(0, 10_000))
def test_the_search_against_the_algorithm_spelled_out(size: int, share: float, seed: int) -> None:
    error, entropy = np.random.default_rng(seed).integers(0, 12, (2, size)) / 4  # with ties
    labels, kept = slow_stage(error, entropy, share)
    stage = quadrant_rows(error, entropy, share)
    assert stage.quadrants.tolist() == labels
    assert stage.chosen == len(kept)
    assert set(kept) <= set(np.flatnonzero(stage.mask).tolist())
    assert stage.mask.sum() == max(len(kept), int(np.ceil(round(share * size, 9))))  # an excess is not trimmed


@pytest.mark.proves("quadrants", by="brute")
@settings(deadline=None, max_examples=40)
@given(size=st.integers(1, 40), seed=st.integers(0, 10_000))
def test_ranks_against_counting_and_in_any_order(size: int, seed: int) -> None:
    error, entropy = np.random.default_rng(seed).integers(0, 9, (2, size)).astype(float)
    slow = [((error < one).sum() + (error <= one).sum() + 1) / 2 / size for one in error]
    assert_allclose(shares_of_rank(error), slow)
    order = np.random.default_rng(seed + 1).permutation(size)
    assert_allclose(rank_gap(error[order], entropy[order]), rank_gap(error, entropy)[order], atol=1e-12)
    assert_array_equal(rank_gap(np.exp(error), entropy), rank_gap(error, entropy))  # perplexity or loss


@pytest.mark.proves("q_tuning", kind="in_batch", by="planted")
@pytest.mark.proves("quadrants", by="planted")
def test_planted_families() -> None:
    """Known, noise, misconception and calibration, a fourth of the rows each.

    The search of thresholds finds the families whole. Ranks spread a family over its whole quadrant, so that the edges
    of two meet: of what the rank mode keeps, three fourths are of the right families, where chance gives half.
    """
    generator = np.random.default_rng(0)
    family = np.repeat([KNOWN, NOISE, MISCONCEPTION, CALIBRATION], 64)
    level = np.array([0.0, 5.5, 4.0, 0.5, 0.8])[family]
    error = generator.normal(level, 0.05 * level)
    certain = (family == KNOWN) | (family == MISCONCEPTION)
    entropy = np.where(certain, generator.normal(0.3, 0.05, 256), generator.normal(3.0, 0.3, 256))
    wanted = (family == MISCONCEPTION) | (family == CALIBRATION)
    assert (quadrant_rows(error, entropy, 0.5).mask == wanted).mean() > 0.98
    rows = quadrants(error, 128, seed=0, epoch=0, entropy=entropy).rows
    assert wanted[rows].mean() > 0.7
    order, kept = generator.permutation(256), np.zeros(256, bool)
    method = QTuning(keep=0.5)
    for step in range(16):
        part = order[16 * step : 16 * step + 16]
        signals = BatchSignals(error[part], entropy=entropy[part])
        kept[part] = method.choose(signals, seed=0, step=step)
        method.learn(signals)
    assert kept.sum() == 128
    assert wanted[kept].mean() > 0.65


def test_error_and_entropy_that_rise_together_leave_no_quadrant_to_keep() -> None:
    rising = np.arange(64.0)
    stage = quadrant_rows(rising, rising, 0.5)
    assert (stage.chosen, stage.mask.sum()) == (0, 32)  # all of it from the top-up
    generator = np.random.default_rng(0)
    pair = generator.multivariate_normal([0, 0], [[1, 0.8], [0.8, 1]], 4000).T
    cut = quadrants_of(pair[0], pair[1], low=tuple(np.median(pair, axis=1)))
    share = ((cut == MISCONCEPTION) | (cut == CALIBRATION)).mean()
    assert share == pytest.approx(np.arccos(0.8) / np.pi, abs=0.02)  # all that there is at the middle cut
    mask = QTuning(keep=0.5).choose(BatchSignals(rising, entropy=rising), seed=0, step=0)
    assert mask.sum() == 32


def test_batches_of_one_and_of_equal_rows_keep_something() -> None:
    for mode in ("rank", "paper"):
        one = QTuning(keep=0.1, mode=mode).choose(
            BatchSignals(np.array([2.0]), entropy=np.array([1.0])), seed=0, step=0
        )
        assert one.tolist() == [True]
        equal = BatchSignals(np.full(6, 2.0), entropy=np.full(6, 0.5))
        assert QTuning(keep=0.5, mode=mode).choose(equal, seed=0, step=0).sum() == 3
    huge = BatchSignals(np.array([5000.0, 1.0, 1.0, 2.0]), entropy=np.array([0.1, 3.0, 1.0, 0.5]))
    assert QTuning(keep=0.5, mode="paper").choose(huge, seed=0, step=0).sum() >= 2  # exp of 5000 is inf


def test_the_window_gives_a_small_batch_the_ranks_of_earlier_ones() -> None:
    method = QTuning(keep=0.5, window=64)
    generator = np.random.default_rng(0)
    for _ in range(8):
        method.learn(BatchSignals(generator.random(16), entropy=generator.random(16)))
    assert method.state()["recent"].shape == (2, 64)
    pair = BatchSignals(np.array([0.9, 0.8]), entropy=np.array([0.1, 0.75]))  # alone both gaps would be the same
    assert method.choose(pair, seed=0, step=0).tolist() == [True, False]
    alone = [QTuning(keep=0.5, window=0).choose(pair, seed=0, step=step).tolist() for step in range(20)]
    assert [True, False] in alone
    assert [False, True] in alone


def test_what_does_not_fit() -> None:
    with pytest.raises(ArgumentError, match=r"this method needs BatchSignals\.entropy, got none"):
        QTuning().choose(BatchSignals(np.ones(3)), seed=0, step=0)
    with pytest.raises(ArgumentError, match="entropies must be finite, got NaN or infinity at 1"):
        QTuning().choose(BatchSignals(np.ones(3), entropy=np.array([0, np.nan, 1])), seed=0, step=0)
    with pytest.raises(ArgumentError, match="unknown mode 'papers'"):
        QTuning(mode="papers")  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match=r"quadrants needs one entropy per value, got \(\) for 3 values"):
        quadrants([1.0, 2.0, 3.0], 2, seed=0, epoch=0)
    with pytest.raises(ArgumentError, match="one each per row, got 2 and 3"):
        quadrant_rows([1, 2], [1, 2, 3], 0.5)


def test_rows_without_an_entropy_come_first() -> None:
    entropy = np.array([0.1, np.inf, 0.2, 0.3, np.nan])
    assert quadrants(np.arange(5.0), 2, seed=0, epoch=0, entropy=entropy).rows.tolist() == [1, 4]
