"""Scores of any number of labels per example: the battery of scores once more, with a sigmoid for each class."""

from __future__ import annotations

import math

import pytest
import torch
from torch.testing import assert_close

from datadiet.errors import ArgumentError
from datadiet.scores.logits import cross_entropy, el2n, entropy, gold_probability, is_multi_hot, margin
from datadiet.scores.reduce import example_values, free_signals
from datadiet.types import HeadSignals, Signals

CLASSES = 4
SIGNALS = {
    "el2n": el2n, "cross_entropy": cross_entropy, "margin": margin, "entropy": entropy,
    "gold_probability": gold_probability,
}  # fmt: skip
RANGES = {
    "el2n": (0, math.sqrt(CLASSES)), "cross_entropy": (0, math.inf), "margin": (-math.inf, math.inf),
    "entropy": (0, CLASSES * math.log(2)), "gold_probability": (0, 1),
}  # fmt: skip
battery = pytest.mark.parametrize("name", list(SIGNALS))


def batch(*shape: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(*shape, CLASSES, generator=generator)
    return logits, (torch.rand(*shape, CLASSES, generator=generator) < 0.4).float()


def naive(name: str, logits: torch.Tensor, wanted: torch.Tensor) -> float:
    p, y = logits.double().sigmoid(), wanted.double()
    right = torch.where(y == 1, p, 1 - p)
    return {
        "el2n": lambda: float((p - y).norm()),
        "cross_entropy": lambda: float(-right.log().sum()),
        "margin": lambda: float(torch.where(y == 1, -logits, logits).max()),
        "entropy": lambda: float(-(p * p.log() + (1 - p) * (1 - p).log()).sum()),
        "gold_probability": lambda: float(right.mean()),
    }[name]()


@battery
@pytest.mark.parametrize("shape", [(5,), (3, 6)])
def test_one_value_per_decision_as_in_the_textbook(name: str, shape: tuple[int, ...]) -> None:
    logits, labels = batch(*shape)
    values = SIGNALS[name](logits, labels)
    low, high = RANGES[name]
    rows = zip(logits.reshape(-1, CLASSES), labels.reshape(-1, CLASSES), strict=True)
    assert values.dtype == torch.float32
    assert bool(((values >= low) & (values <= high + 1e-6)).all())
    expected = torch.tensor([naive(name, *row) for row in rows]).reshape(shape)
    assert_close(values, expected, atol=1e-5, rtol=1e-5)


@battery
def test_order_batch_masks_precision_and_saturation(name: str) -> None:
    logits, labels = batch(6)
    before = logits.clone(), labels.clone()
    values = SIGNALS[name](logits, labels)
    assert_close(torch.cat([SIGNALS[name](logits[row : row + 1], labels[row : row + 1]) for row in range(6)]), values)
    mask = torch.tensor([True, False, True, True, False, True])
    hidden = logits.masked_fill(~mask.unsqueeze(-1), torch.nan)
    masked = SIGNALS[name](hidden, labels.masked_fill(~mask.unsqueeze(-1), -100.0), mask=mask)
    assert torch.equal(masked[~mask], torch.zeros(2))
    assert torch.equal(masked[mask], values[mask])
    assert_close(SIGNALS[name](logits.bfloat16(), labels), SIGNALS[name](logits.bfloat16().float(), labels))
    assert bool(SIGNALS[name](1e4 * logits.sign(), labels).isfinite().all())
    assert not SIGNALS[name](logits.clone().requires_grad_(), labels).requires_grad
    assert all(torch.equal(old, new) for old, new in zip(before, (logits, labels), strict=True))


@pytest.mark.parametrize("name", ["el2n", "cross_entropy", "margin"])
def test_larger_is_harder_even_among_what_is_well_learned(name: str) -> None:
    doubt = torch.linspace(30, -8, 77)
    logits = torch.stack([doubt, torch.full_like(doubt, -40)], -1)  # (77, 2), ever less sure of the first label
    assert bool((SIGNALS[name](logits, torch.tensor([[1.0, 0.0]]).expand(77, 2)).diff() > 0).all())


@battery
def test_targets_that_are_not_0_or_1_are_refused(name: str) -> None:
    with pytest.raises(ArgumentError, match=r"reads floating-point labels of the logits' shape \(2, 3\) as multi-hot"):
        SIGNALS[name](torch.zeros(2, 3), torch.full((2, 3), 2.5))
    with pytest.raises(ArgumentError, match="the labels' shape without the classes"):
        SIGNALS[name](torch.zeros(2, 3), torch.zeros(2, 3), mask=torch.ones(2, 3, dtype=torch.bool))


def test_one_output_is_a_regression() -> None:
    assert not is_multi_hot(torch.zeros(4, 1), torch.zeros(4, 1))
    assert not is_multi_hot(torch.zeros(4), torch.zeros(4))
    assert_close(el2n(torch.tensor([[2.0]]), torch.tensor([0.5])), torch.tensor([1.5]))


def test_what_is_recorded_of_an_example() -> None:
    logits, labels = torch.tensor([[2.0, -1.0, 0.0], [0.5, -3.0, -0.1]]), torch.tensor([[1.0, 0.0, 0.0], [1.0, 0, 0]])
    hidden = torch.tensor([[3.0, 4.0], [0.0, 1.0]])
    free = free_signals(Signals({"label": HeadSignals(logits, labels, hidden=hidden)}))
    assert_close(free["loss"], cross_entropy(logits, labels))
    assert_close(free["margin"], torch.tensor([0.0, -0.1]))
    assert_close(free["gold_probability"], gold_probability(logits, labels))
    assert_close(free["el2n"], el2n(logits, labels))
    assert free["correct"].tolist() == [0.0, 1.0]  # a probability of one half is predicted, so the first is wrong
    assert free["hidden_norm"].tolist() == [5.0, 1.0]
    weights = torch.zeros(3, 2, requires_grad=True)
    bias = logits[:1].clone().requires_grad_()
    loss = torch.nn.functional.binary_cross_entropy_with_logits(
        hidden[:1] @ weights.T + bias, labels[:1], reduction="sum"
    )
    gradients = torch.autograd.grad(loss, (weights, bias))
    norm = torch.cat([part.flatten() for part in gradients]).norm()
    assert_close(free["el2n"][0] * (1 + free["hidden_norm"][0] ** 2).sqrt(), norm)


@pytest.mark.proves("el2n", "cross_entropy", "margin", by="planted")
def test_mislabelled_rows_are_the_hardest() -> None:
    logits, labels = batch(200)
    labels = (logits > 0).float()
    wrong = torch.arange(0, 200, 20)
    labels[wrong, 0] = 1 - labels[wrong, 0]
    logits[:, 0] = logits[:, 0].sign() * 4
    for score in (el2n, cross_entropy, margin):
        values = example_values(score, Signals({"label": HeadSignals(3 * logits, labels)}))
        assert set(values.topk(10).indices.tolist()) == set(wrong.tolist())
