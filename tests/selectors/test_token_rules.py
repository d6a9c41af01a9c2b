"""Token rules: golden vectors, oracles spelled out, planted noise, and edges."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from datadiet import registry
from datadiet.errors import ArgumentError
from datadiet.selectors.token_rules import (
    ExcessLoss,
    RandomTokens,
    RowTokens,
    SmoothedTokens,
    calibrated,
    keep_tokens,
    smoothed,
)

ROWS = json.loads((Path(__file__).parents[1] / "golden" / "q_tuning.json").read_text(encoding="utf-8"))["tokens"]
COUNTS = np.array([len(row["nll"]) for row in ROWS])
NLL = np.concatenate([row["nll"] for row in ROWS])
battery = pytest.mark.parametrize("make", [one.load() for one in registry.methods("tokens")])


def joined(name: str, key: str) -> np.ndarray:
    return np.concatenate([row[name][key] for row in ROWS])


@pytest.mark.proves("q_tuning", kind="tokens", by="golden")
@pytest.mark.parametrize("lam", [0.5, 0.3, 0.0])
@pytest.mark.parametrize("edge", ["zero", "mean"])
def test_golden_token_scores_and_masks(lam: float, edge: str) -> None:
    """All rows at once: nothing is smoothed over the border of two."""
    name = f"lam{lam:g}_{edge}"
    values = smoothed(NLL, COUNTS, lam, space="ppl", summed=edge == "zero")
    assert_allclose(values, joined(name, "score"), rtol=1e-7)
    for share in (0.5, 0.7):
        kept = keep_tokens(-np.round(values, 9), COUNTS, share)
        expected = [np.isin(np.arange(len(row["nll"])), row[name][f"keep_r{share}"]) for row in ROWS]
        assert_array_equal(kept, np.concatenate(expected))


def slow_kept(keys: list[list[float]], keep: float, least: int) -> list[bool]:
    kept = []
    for row in keys:
        order = sorted(range(len(row)), key=lambda place: (-row[place], place))
        count = min(len(row), max(least, math.ceil(round(keep * len(row), 9))))
        kept += [place in order[:count] for place in range(len(row))]
    return kept


@pytest.mark.proves("excess", by="brute")
@settings(deadline=None, max_examples=60)
@given(
    counts=st.lists(st.integers(0, 9), min_size=1, max_size=8),
    keep=st.sampled_from([0.1, 0.5, 0.6, 1.0]),
    least=st.integers(1, 4),
    seed=st.integers(0, 9999),
)
def test_shares_of_rows_and_of_all_against_the_rule_spelled_out(
    counts: list[int], keep: float, least: int, seed: int
) -> None:
    keys = np.random.default_rng(seed).integers(0, 5, sum(counts)).astype(np.float16)
    rows = [part.tolist() for part in np.split(keys, np.cumsum(counts)[:-1])]
    assert keep_tokens(keys, counts, keep, least=least).tolist() == slow_kept(rows, keep, least)
    of_all = keep_tokens(keys, counts, keep, per="all", least=1)
    order = sorted(range(len(keys)), key=lambda place: (-keys[place], place))[: math.ceil(round(keep * len(keys), 9))]
    best = slow_kept(rows, 1e-9, 1)
    assert of_all.tolist() == [place in order or best[place] for place in range(len(keys))]


@battery
@settings(deadline=None, max_examples=25)
@given(counts=st.lists(st.integers(0, 12), min_size=1, max_size=9), seed=st.integers(0, 9999))
def test_every_rule_keeps_a_token_of_each_row_and_is_the_same_every_time(
    make: Any, counts: list[int], seed: int
) -> None:
    generator = np.random.default_rng(seed)
    nll, reference = (generator.exponential(size=sum(counts)).astype(np.float16) for _ in range(2))
    tokens = RowTokens(np.array(counts), nll, reference, entropy=generator.random(len(counts)))
    before = nll.copy()
    first, second = (make().kept(tokens, seed=3, epoch=1) for _ in range(2))
    assert first.dtype == np.bool_
    assert_array_equal(first, second)
    assert_array_equal(nll, before)
    of_rows = np.bincount(tokens.rows, first, len(counts))
    assert all((of_rows > 0) == (np.array(counts) > 0))
    assert make(keep=1.0).kept(tokens, seed=3, epoch=1).all()
    several = np.bincount(tokens.rows, make(keep=0.01, least=3).kept(tokens, seed=3, epoch=1), len(counts))
    assert all(several >= np.minimum(counts, 3))


@pytest.mark.proves("q_tuning", kind="tokens", by="planted")
def test_planted_noise_inside_misconceptions_is_what_goes() -> None:
    """Runs of four noise tokens in answers of sixteen; rows of calibration keep all of theirs."""
    generator = np.random.default_rng(0)
    rows, size = 60, 16
    nll = generator.normal(1.0, 0.2, (rows, size)).clip(0)
    planted = np.zeros((rows, size), bool)
    for row, start in enumerate(generator.integers(0, size - 4, rows)):
        planted[row, start : start + 4] = row < 30
    nll[planted] = generator.normal(5.0, 1.0, planted.sum())
    nll[30:] *= 0.5
    entropy = np.repeat([0.3, 2.5], 30)
    tokens = RowTokens(np.full(rows, size), nll.ravel().astype(np.float16), entropy=entropy)
    kept = SmoothedTokens(keep=0.75).kept(tokens, seed=0, epoch=0).reshape(rows, size)
    assert (~kept[:30])[planted[:30]].mean() >= 0.8
    assert kept[30:].all()
    assert (kept[:30].sum(1) == 12).all()
    reverse = SmoothedTokens(keep=0.75, reverse=True).kept(tokens, seed=0, epoch=0).reshape(rows, size)
    assert reverse[:30][planted[:30]].all()
    assert not SmoothedTokens(keep=0.75, calibration=False).kept(tokens, seed=0, epoch=0).reshape(rows, size)[30:].all()


@pytest.mark.proves("excess", by="planted")
def test_excess_leaves_planted_noise_and_what_is_learned() -> None:
    generator = np.random.default_rng(0)
    kind = generator.permuted(np.tile([0, 0, 1, 1, 2, 2, 2, 2], (40, 1)), axis=1).ravel()  # noise, known, to be learned
    nll = np.choose(kind, [6.0, 0.1, 2.0]) + 0.05 * generator.normal(size=kind.size)
    reference = np.choose(kind, [6.0, 0.1, 0.5]) + 0.05 * generator.normal(size=kind.size)
    tokens = RowTokens(np.full(40, 8), nll, reference)
    assert_array_equal(ExcessLoss(keep=0.5).kept(tokens, seed=0, epoch=0), kind == 2)
    assert_array_equal(ExcessLoss(keep=0.5, per="all").kept(tokens, seed=0, epoch=0), kind == 2)
    with pytest.raises(ArgumentError, match="needs the losses of a reference model, got none"):
        ExcessLoss().kept(RowTokens(np.array([2]), np.zeros(2)), seed=0, epoch=0)


@pytest.mark.proves("random_tokens", by="definition")
def test_random_tokens_have_the_same_chance_and_change() -> None:
    tokens = RowTokens(np.array([5, 5]), np.zeros(10))
    taken = np.mean([RandomTokens(keep=0.4).kept(tokens, seed=0, epoch=epoch) for epoch in range(600)], axis=0)
    assert_allclose(taken, 0.4, atol=0.08)


def test_answers_of_a_conversation_are_no_neighbours() -> None:
    nll = np.array([1.0, 1.0, 9.0, 9.0])
    assert smoothed(nll, [4]).tolist() == [1.0, 3.0, 7.0, 9.0]
    assert smoothed(nll, [4], starts=np.array([True, False, True, False])).tolist() == nll.tolist()
    assert smoothed(np.array([800.0, 0.0]), [2], space="ppl").max() < 1e35  # no overflow


def test_rows_whose_entropy_is_not_known_are_no_calibration() -> None:
    tokens = RowTokens(np.array([1, 1, 0, 1]), np.array([0.1, 5.0, 0.2]), entropy=np.array([9.0, 0.1, np.nan, np.nan]))
    assert calibrated(tokens).tolist() == [True, False, False, False]
    assert not calibrated(RowTokens(np.array([1]), np.array([1.0]))).any()


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (SmoothedTokens, {"keep": 50}, r"keep must be in \(0, 1\], got 50. Did you mean 0.5\?"),
        (SmoothedTokens, {"lam": 2}, r"lam must be in \[0, 1\], got 2"),
        (SmoothedTokens, {"space": "log"}, "unknown space 'log'"),
        (ExcessLoss, {"action": "delete"}, "unknown action 'delete'"),
        (ExcessLoss, {"per": "batch"}, "unknown per 'batch'"),
        (ExcessLoss, {"least": 0}, "least must be a whole number, at least 1, got 0"),
        (RandomTokens, {"weight": 0.5}, "weight has no effect with action=mask"),
        (RandomTokens, {"weight": 5, "action": "downweight"}, r"weight must be in \[0, 1\], got 5"),
    ],
)
def test_options_that_are_not_allowed(make: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        make(**options)


def test_keys_that_do_not_fit() -> None:
    with pytest.raises(ArgumentError, match=r"got NaN in 1 of 2 rows: 1 \(id 'b'\)"):
        keep_tokens([1.0, np.nan], [1, 1], 0.5, ids=["a", "b"])
    with pytest.raises(ArgumentError, match=r"one per token, 3, got the shape \(2,\)"):
        keep_tokens([1.0, 2.0], [2, 1], 0.5)
