"""Scores of whole answers: golden vectors of the published code, and the cases that break it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import kendalltau
from torch.testing import assert_close

from datadiet.errors import ArgumentError
from datadiet.scores.answers import (
    LN2,
    capability_gap,
    held_out_perplexity,
    ifd,
    perplexity,
    predictive_strength,
    row_rest_nll,
    token_divergence,
)
from datadiet.scores.tokens import token_signals

# hkust-nlp/PreSelect@258c632: benchmark of six models, and the loss of eight texts under each
BENCHMARK, TIED = [75.38, 76.3, 77.27, 79.46, 80.47, 81.19], [75.0, 76.0, 76.0, 79.0, 78.0, 81.0]
LOSSES = torch.tensor(
    [
        [300.0, 290, 280, 270, 260, 250],
        [250.0, 260, 270, 280, 290, 300],
        [200.0, 200, 200, 200, 200, 200],
        [300.0, 290, 290, 280, 281, 250],
        [278.53, 327.87, 299.17, 342.22, 144.47, 371.4],
        [156.63, 342.89, 363.56, 324.35, 288.19, 244.88],
        [261.82, 218.38, 389.36, 368.26, 107.54, 198.12],
        [248.6, 214.35, 294.24, 348.82, 185.77, 167.14],
    ]
).T  # (texts, models) -> (models, texts)
STRENGTH = [1, 0, 0, 0.866666667, 0.333333333, 0.6, 0.666666667, 0.666666667]
STRENGTH_TIED = [0.928571429, 0.0714285714, 0, 1, 0.214285714, 0.571428571, 0.642857143, 0.642857143]  # Z without ties
TAU = [1.0, -1.0, math.nan, 0.828078671, -0.333333333, 0.2, 0.333333333, 0.333333333]
TAU_TIED = [0.828078671, -0.828078671, math.nan, 1.0, -0.552052447, 0.138013112, 0.276026224, 0.276026224]

# BokwaiHo/PASER@72b7fe7: logits of two models; the divergence of each token by the formula in float64
P = [
    [-3.414, -1.1, -0.537, 4.491, 0.136],
    [-0.755, 0.717, 1.883, -0.066, 1.063],
    [50.0, -50.0, -50.0, -50.0, -50.0],
    [0.485, -0.41, -0.077, -1.029, 0.955],
    [-0.739, -3.319, 1.527, -0.994, 1.756],
    [-0.452, -0.873, -1.164, -3.635, 1.045],
]
Q = [
    [4.089, -1.363, 0.177, -0.832, -2.664],
    [-0.755, 0.717, 1.883, -0.066, 1.063],
    [-50.0, 50.0, -50.0, -50.0, -50.0],
    [-1.238, 1.909, 1.194, -0.936, -4.005],
    [-2.406, -2.276, 0.377, 0.131, 1.182],
    [-1.963, -1.65, 4.795, 1.373, 3.712],
]
JSD = [0.658729308, 0.0, 0.693147181, 0.31353674, 0.0472914453, 0.289723103]


@pytest.mark.proves("predictive_strength", by="golden")
@pytest.mark.parametrize(
    ("figures", "rank", "expected"),
    [(BENCHMARK, "pairs", STRENGTH), (TIED, "pairs", STRENGTH_TIED), (BENCHMARK, "tau", TAU), (TIED, "tau", TAU_TIED)],
)
def test_golden_predictive_strength(figures, rank, expected):
    assert_close(predictive_strength(LOSSES, figures, rank=rank), torch.tensor(expected), equal_nan=True)


@pytest.mark.proves("predictive_strength", by="library")
def test_tau_is_that_of_scipy_in_any_order_of_the_models():
    generator = np.random.default_rng(0)
    losses, figures = generator.integers(0, 5, (6, 40)).astype(np.float32), [0.3, 0.1, 0.2, 0.2, 0.9, 0.5]
    expected = [kendalltau(figures, -column).statistic for column in losses.T]
    assert_close(predictive_strength(torch.from_numpy(losses), figures, rank="tau"), torch.tensor(expected).float())
    order = generator.permutation(6)
    for rank in ("pairs", "weighted"):
        values = predictive_strength(torch.from_numpy(losses), figures, rank=rank)
        others = predictive_strength(torch.from_numpy(losses[order]), [figures[one] for one in order], rank=rank)
        assert_close(values, others)


def test_weighted_pairs_weigh_the_gap_of_their_figures():
    losses = torch.tensor([[3.0, 1.0], [2.0, 3.0], [1.0, 2.0]])
    # gaps 1 (models 0 and 1), 10 (0 and 2) and 9 (1 and 2); the second text has the last pair alone in order
    assert_close(predictive_strength(losses, [0.0, 1.0, 10.0], rank="weighted"), torch.tensor([1.0, 9 / 20]))
    assert predictive_strength(torch.full((3, 1), torch.nan), [1.0, 2.0, 3.0]).isnan().all()


@pytest.mark.parametrize("figures", [[1.0, 2.0], [1.0, 1.0, 1.0], []])
def test_models_without_an_order_are_refused(figures):
    with pytest.raises(ArgumentError, match="needs a figure of each model, two different ones at least: got"):
        predictive_strength(torch.zeros(3, 2), figures)


def divergence(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """Of each token: `(tokens, vocabulary)` as one row, with a position before that no label stands for."""
    one, two = (torch.cat([part, torch.zeros_like(part[:1])]).unsqueeze(0) for part in (p, q))
    labels = torch.tensor([[-100] + [0] * len(p)])
    return token_divergence(one, two, labels)[0]


@pytest.mark.proves("capability_gap", by="golden")
def test_golden_divergence():
    p, q = torch.tensor(P), torch.tensor(Q)
    assert_close(divergence(p, q), torch.tensor(JSD), atol=2e-6, rtol=1e-5)
    gap = torch.tensor([sum(JSD[1:5]) / 4])
    assert_close(capability_gap(gap, torch.tensor([42])), torch.tensor([0.263493841]))
    # the cost of 12 tokens and 30 characters in the published code is 42 squared
    assert_close(capability_gap(gap, torch.tensor([42]), per="cost"), torch.tensor([0.0352484126]))


@pytest.mark.proves("capability_gap", by="brute")
@pytest.mark.parametrize("chunk", [1, 3, 1024])
def test_divergence_is_bounded_symmetric_and_finite(chunk):
    generator = torch.Generator().manual_seed(0)
    p, q = (30 * torch.randn(2, 7, 11, generator=generator) for _ in range(2))
    p[0, 2, 3:], q[0, 2, :3] = -torch.inf, -torch.inf  # words that one of them excludes
    p[1, 1], q[1, 1] = 500 * (torch.arange(11) == 4) - 250.0, 500 * (torch.arange(11) == 5) - 250.0
    labels = torch.randint(0, 11, (2, 7), generator=generator)
    labels[0, :2] = -100
    values = token_divergence(p, q, labels, chunk=chunk)
    one, two = (part.double().softmax(-1)[:, :-1] for part in (p, q))
    middle = (one + two) / 2
    expected = (torch.special.xlogy(one, one / middle) + torch.special.xlogy(two, two / middle)).nansum(-1) / 2
    assert_close(values, (expected * (labels[:, 1:] != -100)).float(), atol=1e-5, rtol=1e-4)
    assert_close(values, token_divergence(q, p, labels))
    assert values.max() <= LN2
    assert values[1, 1] == pytest.approx(LN2)
    assert_close(token_divergence(p, p, labels), torch.zeros(2, 6), atol=1e-6, rtol=0)
    assert_close(token_divergence(p.bfloat16(), p.bfloat16(), labels), torch.zeros(2, 6))


def test_models_with_other_tokens_are_refused():
    with pytest.raises(ArgumentError, match=r"of the same shape: got \(1, 2, 3\) and \(1, 2, 4\)"):
        token_divergence(torch.zeros(1, 2, 3), torch.zeros(1, 2, 4), torch.zeros(1, 2, dtype=torch.long))


@pytest.mark.proves("ifd", by="golden")
def test_golden_ifd_over_the_same_tokens():
    """Superfiltering@f0764af on its table model: the first token of an answer counts in neither loss."""
    alone = [4.83018024, 4.85923174, 4.5873918, 4.62793582, 4.54383573, 5.61857633, 4.2029938, 4.52281826, 1.93337154,
             5.18878062, 3.38571484]  # fmt: skip
    given = [5.39665743, 4.19957765, 5.20441862, 5.29078877, 3.53511076, 4.1710593, 5.73071754, 3.95692486, 4.30290783,
             1.99051954, 5.08612088, 3.57866247]  # fmt: skip
    pair = torch.tensor([sum(given[1:]) / 11]), torch.tensor([sum(alone) / 11])
    cut = torch.tensor([False])
    assert_close(ifd(*pair, cut, ratio="perplexity"), torch.tensor([0.892256131]), atol=1e-5, rtol=1e-5)
    assert_close(ifd(*pair, cut), pair[0] / pair[1])
    assert ifd(*pair, ~cut).isnan().all()
    assert_close(ifd(*pair, ~cut, keep_cut=True), pair[0] / pair[1])


@pytest.mark.proves("ifd")
def test_ifd_is_missing_where_there_is_nothing_to_compare():
    given, alone = torch.tensor([math.nan, 1.0, 1.0, 2.0]), torch.tensor([1.0, math.nan, 0.0, 1.0])
    cut = torch.zeros(4, dtype=torch.bool)
    assert ifd(given, alone, cut).isnan().tolist() == [True, True, True, False]
    assert ifd(given, alone, cut, most=1).isnan().all()
    assert ifd(given, alone, cut, ratio="perplexity")[3] == pytest.approx(math.e)


@pytest.mark.proves("perplexity", "held_out_perplexity")
def test_perplexity_is_the_bits_of_the_tokens_over_what_they_stand_for():
    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(3, 6, 8, generator=generator), torch.randint(0, 8, (3, 6), generator=generator)
    labels[0, :3] = -100
    labels[2] = -100
    head = token_signals(logits, labels)
    counts = head.mask.sum(1)
    losses = head.nll.sum(1) / counts
    bits = -(logits[:, :-1].log_softmax(-1).gather(2, labels[:, 1:, None].clamp_min(0))[..., 0] / LN2 * head.mask).sum(
        1
    )
    sizes = {"bytes": torch.tensor([9, 7, 0]), "characters": torch.tensor([4, 7, 0]), "tokens": counts}
    for unit in ("bytes", "characters", "tokens"):
        values = perplexity(losses, counts, sizes, unit=unit)
        assert_close(values[:2], (bits / sizes[unit])[:2])
        assert values[2].isnan()
        assert_close(held_out_perplexity(losses, counts, sizes, unit=unit), values, equal_nan=True)
    assert_close(2 ** perplexity(losses, counts, sizes, unit="tokens")[:2], losses[:2].exp())


def test_the_loss_without_the_first_token():
    generator = torch.Generator().manual_seed(0)
    logits, labels = torch.randn(3, 6, 8, generator=generator), torch.randint(0, 8, (3, 6), generator=generator)
    labels[0, :3] = -100
    labels[2, :5] = -100  # one token trains
    head, later = token_signals(logits, labels), labels.clone()
    later[0, 3] = later[1, 1] = -100
    expected = token_signals(logits, later)
    assert_close(row_rest_nll(head)[:2], (expected.nll.sum(1) / expected.mask.sum(1))[:2])
    assert row_rest_nll(head)[2].isnan()
