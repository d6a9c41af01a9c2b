"""Every score holds the family's contract, and the golden values of the paper's code."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from datadiet.errors import ArgumentError
from datadiet.scores import SCORES
from datadiet.scores.logits import EL2N_MAX, absolute_error, cross_entropy, el2n, entropy, gold_probability, margin

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "el2n_classification.json").read_text())
CLASS_SCORES = ["el2n", "cross_entropy", "margin", "entropy"]
SIGNALS = {**{name: SCORES[name] for name in CLASS_SCORES}, "gold_probability": gold_probability}
RANGES = {
    "el2n": (0, EL2N_MAX),
    "cross_entropy": (0, math.inf),
    "margin": (-math.inf, math.inf),
    "entropy": (0, math.log(5)),
    "gold_probability": (0, 1),
}
battery = pytest.mark.parametrize("name", list(SIGNALS))
scores_battery = pytest.mark.parametrize("name", CLASS_SCORES)


def batch(*shape: int, classes: int = 5, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(*shape, classes, generator=generator)
    return logits, torch.randint(classes, shape, generator=generator)


def naive(name: str, logits: torch.Tensor, label: int) -> float:
    """The textbook formula for one decision, in float64."""
    p = logits.double().softmax(-1)
    others = torch.cat([logits[:label], logits[label + 1 :]])
    return {
        "el2n": lambda: float((p - torch.eye(len(p), dtype=p.dtype)[label]).norm()),
        "cross_entropy": lambda: float(-p[label].log()),
        "margin": lambda: float(others.max() - logits[label]),
        "entropy": lambda: float(-(p * p.log()).sum()),
        "gold_probability": lambda: float(p[label]),
    }[name]()


@battery
@pytest.mark.parametrize("shape", [(4,), (3, 6), (2, 3, 4), ()])
def test_the_class_axis_is_dropped_and_values_stay_in_their_range(name: str, shape: tuple[int, ...]) -> None:
    logits, labels = batch(*shape)
    values = SIGNALS[name](logits, labels)
    low, high = RANGES[name]
    assert values.shape == shape
    assert values.dtype == torch.float32
    assert bool(((values >= low) & (values <= high + 1e-6)).all())


@pytest.mark.proves("margin", "entropy", by="definition")
@battery
def test_values_are_those_of_the_textbook_formula(name: str) -> None:
    logits, labels = batch(20)
    expected = [naive(name, row, int(label)) for row, label in zip(logits, labels, strict=True)]
    assert_close(SIGNALS[name](logits, labels), torch.tensor(expected), atol=1e-6, rtol=1e-6)


@battery
def test_values_do_not_depend_on_the_rest_of_the_batch(name: str) -> None:
    logits, labels = batch(12)
    together = SIGNALS[name](logits, labels)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(1))
    alone = torch.stack([SIGNALS[name](row, label) for row, label in zip(logits, labels, strict=True)])
    assert torch.equal(SIGNALS[name](logits[order], labels[order]), together[order])
    assert_close(alone, together, atol=1e-6, rtol=0)


@battery
@pytest.mark.parametrize("ignored", [-100, 99])
def test_masked_positions_are_zero_and_change_nothing_else(name: str, ignored: int) -> None:
    logits, labels = batch(2, 4)
    mask = torch.tensor([[True, True, False, False], [True, False, True, False]])
    logits = logits.masked_fill(~mask.unsqueeze(-1), torch.nan)
    values = SIGNALS[name](logits, labels.masked_fill(~mask, ignored), mask=mask)
    assert torch.equal(values[~mask], torch.zeros(4))
    assert torch.equal(values[mask], SIGNALS[name](logits[mask], labels[mask]))


@battery
def test_inputs_are_not_written_to_and_a_second_call_says_the_same(name: str) -> None:
    logits, labels = batch(2, 4)
    labels[0, 0] = -100
    mask = labels >= 0
    before = [tensor.clone() for tensor in (logits, labels, mask)]
    first, second = (SIGNALS[name](logits, labels, mask=mask) for _ in range(2))
    assert all(torch.equal(old, new) for old, new in zip(before, (logits, labels, mask), strict=True))
    assert torch.equal(first, second)


@battery
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_are_computed_in_float32(name: str, dtype: torch.dtype) -> None:
    logits, labels = batch(20)
    values = SIGNALS[name](logits.to(dtype), labels)
    assert values.dtype == torch.float32
    assert_close(values, SIGNALS[name](logits.to(dtype).float(), labels), atol=1e-6, rtol=1e-6)


@battery
@pytest.mark.parametrize("size", [1e4, -1e4, 60.0])
def test_saturated_logits_give_finite_values(name: str, size: float) -> None:
    logits = torch.tensor([[size, 0.0, 0.0], [size, size, -size], [0.0, 0.0, size]])
    for label in range(3):
        assert bool(SIGNALS[name](logits, torch.full((3,), label)).isfinite().all())


@battery
def test_no_gradient_is_kept(name: str) -> None:
    logits, labels = batch(3)
    assert not SIGNALS[name](logits.requires_grad_(), labels).requires_grad


@pytest.mark.parametrize("name", ["el2n", "cross_entropy", "margin"])
def test_larger_is_harder(name: str) -> None:
    belief = torch.linspace(8, -8, 33)
    logits = torch.stack([belief, torch.zeros_like(belief)], -1)  # (33, 2), ever less sure of class 0
    assert bool((SCORES[name](logits, torch.zeros(33, dtype=torch.long)).diff() > 0).all())
    assert bool((gold_probability(logits, torch.zeros(33, dtype=torch.long)).diff() < 0).all())


@pytest.mark.parametrize("name", ["el2n", "cross_entropy"])
def test_what_is_well_learned_still_comes_in_order(name: str) -> None:
    """In float32 `1 - p` is 0 for all of these: half of a data set would tie."""
    logits = torch.stack([torch.arange(17.0, 30.0), torch.zeros(13)], -1)  # (13, 2)
    assert bool((SCORES[name](logits, torch.zeros(13, dtype=torch.long)).diff() < 0).all())


@pytest.mark.proves("el2n", kind="score", by="identity")
@scores_battery
def test_two_classes_rank_alike_by_every_score_that_looks_at_the_label(name: str) -> None:
    logits, labels = batch(50, classes=2)
    expected = EL2N_MAX * (1 - gold_probability(logits, labels))
    assert_close(el2n(logits, labels), expected, atol=1e-6, rtol=0)
    if name != "entropy":
        assert torch.equal(SCORES[name](logits, labels).argsort(), expected.argsort())


@pytest.mark.proves("el2n", "cross_entropy", by="golden")
@pytest.mark.parametrize("case", ["five_classes", "two_classes"])
@pytest.mark.parametrize(("score", "column"), [(el2n, "el2n"), (cross_entropy, "loss")])
def test_golden_classification(case: str, score: object, column: str) -> None:
    data = GOLDEN[case]
    logits, labels = torch.tensor(data["logits"]), torch.tensor(data["labels"])
    expected = torch.tensor(data[column])
    assert callable(score)
    assert_close(score(logits, labels), expected, atol=1e-6, rtol=1e-6)
    assert_close(score(logits.half(), labels), expected, atol=2e-3, rtol=2e-3)  # the logits themselves were rounded
    assert_close(score(logits.bfloat16(), labels), expected, atol=2e-2, rtol=2e-2)


@pytest.mark.proves("el2n", kind="score", by="golden")
def test_golden_order_and_ties() -> None:
    data = GOLDEN["five_classes"]
    values = el2n(torch.tensor(data["logits"]), torch.tensor(data["labels"]))
    assert values.argsort(descending=True, stable=True).tolist() == data["descending"]
    assert values[0] == values[12]


@pytest.mark.proves("absolute_error", by="golden")
def test_golden_regression_has_no_sigmoid() -> None:
    data = GOLDEN["regression"]
    outputs, targets, expected = (torch.tensor(data[key]) for key in ("outputs", "labels", "el2n"))
    for score in (el2n, absolute_error):
        assert_close(score(outputs, targets), expected)
        assert_close(score(outputs.squeeze(-1), targets), expected)
        assert_close(score(outputs.half(), targets), expected)
        masked = score(outputs, torch.tensor([torch.nan, 1.0, 3.8]), mask=torch.tensor([False, True, True]))
        assert_close(masked, expected * torch.tensor([0.0, 1.0, 1.0]))


def test_entropy_ignores_the_label() -> None:
    logits, labels = batch(10)
    assert torch.equal(entropy(logits, labels), entropy(logits, (labels + 1) % 5))
    assert_close(entropy(torch.zeros(1, 5), labels[:1]), torch.tensor([math.log(5)]))


@pytest.mark.proves("margin")
def test_margin_by_hand() -> None:
    logits = torch.tensor([[2.0, -1.0, 0.5], [2.0, -1.0, 0.5]])
    assert margin(logits, torch.tensor([0, 1])).tolist() == [-1.5, 3.0]


@battery
def test_shapes_that_do_not_fit_are_both_named(name: str) -> None:
    with pytest.raises(ArgumentError, match=r"logits of shape \(4, 5\) for labels of shape \(3,\)"):
        SIGNALS[name](torch.zeros(4, 5), torch.zeros(3, dtype=torch.long))
    with pytest.raises(ArgumentError, match=r"mask of shape \(3,\) for labels of shape \(4,\)"):
        SIGNALS[name](torch.zeros(4, 5), torch.zeros(4, dtype=torch.long), mask=torch.ones(3, dtype=torch.bool))
    with pytest.raises(ArgumentError, match="at least two classes"):
        SIGNALS[name](torch.zeros(4, 1), torch.zeros(4, dtype=torch.long))


@pytest.mark.parametrize("name", ["el2n", "cross_entropy", "margin", "gold_probability"])
@pytest.mark.parametrize("label", [-100, 5])
def test_a_label_that_is_no_class_is_refused_unless_masked(name: str, label: int) -> None:
    with pytest.raises(ArgumentError, match=rf"labels in \[0, 5\), found {label}. Give a mask"):
        SIGNALS[name](torch.zeros(2, 5), torch.tensor([0, label]))


@pytest.mark.parametrize("name", ["cross_entropy", "margin", "entropy", "gold_probability"])
def test_what_needs_classes_refuses_a_regression(name: str) -> None:
    with pytest.raises(ArgumentError, match=f"{name} needs class labels"):
        SIGNALS[name](torch.zeros(4, 1), torch.zeros(4))


def test_a_regression_refuses_several_outputs() -> None:
    with pytest.raises(ArgumentError, match=r"one output per target: got logits of shape \(4, 3\)"):
        absolute_error(torch.zeros(4, 3), torch.zeros(4))
