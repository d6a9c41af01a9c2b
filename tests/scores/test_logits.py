"""The battery of scores read off logits: one `Case` per score, for class numbers and for multi-hot labels; goldens."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from datadiet.errors import ArgumentError
from datadiet.registry import load, names
from datadiet.scores.logits import (
    EL2N_MAX,
    absolute_error,
    cross_entropy,
    el2n,
    entropy,
    gold_probability,
    is_multi_hot,
    margin,
)
from datadiet.scores.reduce import example_values
from datadiet.types import HeadSignals, Signals

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "el2n_classification.json").read_text())
CLASSES = 5
Range = tuple[float, float]


@dataclass(frozen=True)
class Case:
    """What a score must give.

    Attributes:
        textbook: The formula for one decision in float64, of the logits `(classes,)` and a label as one-hot.
        range: Of its values.
        multi_hot, multi_hot_range: The same for any number of labels, of the logits and 0 or 1 per class.
        numbers: Whether it scores a regression alone, and has no classes.
    """

    textbook: Callable[[Tensor, Tensor], Tensor]
    range: Range
    multi_hot: Callable[[Tensor, Tensor], Tensor] | None = None
    multi_hot_range: Range = (0, math.inf)
    numbers: bool = False


def right(z: Tensor, y: Tensor) -> Tensor:
    """The probability of each class's right answer."""
    return torch.where(y == 1, z.sigmoid(), 1 - z.sigmoid())


def bits(p: Tensor) -> Tensor:
    return -(p * p.log()).sum()


ANY = (-math.inf, math.inf)
CASES = {
    "el2n": Case(
        lambda z, y: (z.softmax(-1) - y).norm(), (0, EL2N_MAX), lambda z, y: (z.sigmoid() - y).norm(), (0, CLASSES**0.5)
    ),
    "cross_entropy": Case(
        lambda z, y: -(z.softmax(-1) @ y).log(), (0, math.inf), lambda z, y: -right(z, y).log().sum()
    ),
    "margin": Case(
        lambda z, y: z[y == 0].max() - z @ y, ANY, lambda z, y: torch.where(y == 1, -z, z).max(), ANY
    ),
    "entropy": Case(
        lambda z, y: bits(z.softmax(-1)), (0, math.log(CLASSES)),
        lambda z, y: bits(z.sigmoid()) + bits(1 - z.sigmoid()), (0, CLASSES * math.log(2)),
    ),
    "absolute_error": Case(lambda z, y: (z - y).abs(), (0, math.inf), numbers=True),
    "gold_probability": Case(lambda z, y: z.softmax(-1) @ y, (0, 1), lambda z, y: right(z, y).mean(), (0, 1)),
}  # fmt: skip
# all scores of one forward pass, and the one signal that is no score
SIGNALS = {name: load("score", name) for name in names("score", trait="forward")} | {
    "gold_probability": gold_probability
}
OF_CLASSES = [name for name in SIGNALS if name not in CASES or not CASES[name].numbers]
battery = pytest.mark.parametrize("name", list(SIGNALS))
of_classes = pytest.mark.parametrize("name", OF_CLASSES)
of_labels = pytest.mark.parametrize("name", [name for name in OF_CLASSES if name != "entropy"])
multi_hot = pytest.mark.parametrize("kind", ["classes", "multi-hot"])
HARDER = pytest.mark.parametrize("name", ["el2n", "cross_entropy", "margin"])


def case_of(name: str) -> Case:
    if name not in CASES:
        pytest.fail(f"the score {name} has no row: add {name!r}: Case(textbook=..., range=...) to CASES of {__file__}")
    return CASES[name]


def batch(*shape: int, kind: str = "classes", classes: int = CLASSES, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Logits and labels; of the kind `numbers` one output per decision."""
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(*shape, classes, generator=generator)
    if kind == "numbers":
        return logits[..., 0], logits[..., 1]
    if kind == "multi-hot":
        return logits, (torch.rand(*shape, classes, generator=generator) < 0.4).float()
    return logits, torch.randint(classes, shape, generator=generator)


def kind_of(name: str, kind: str = "classes") -> str:
    return "numbers" if case_of(name).numbers else kind


def textbook(name: str, kind: str, logits: Tensor, labels: Tensor) -> Tensor:
    case = case_of(name)
    if case.numbers:
        return case.textbook(logits, labels)
    formula = case.multi_hot if kind == "multi-hot" else case.textbook
    assert formula is not None
    targets = labels if kind == "multi-hot" else torch.nn.functional.one_hot(labels, logits.shape[-1])
    rows = zip(logits.flatten(0, -2).double(), targets.flatten(0, -2).double(), strict=True)
    return torch.stack([formula(*row) for row in rows]).float().reshape(logits.shape[:-1])


def same(kind: str, values: Tensor, expected: Tensor) -> None:
    """To the last bit; a vectorised softplus of several labels may differ in it."""
    tolerance = 1e-6 if kind == "multi-hot" else 0.0
    assert_close(values, expected, atol=tolerance, rtol=tolerance)


@pytest.mark.proves("margin", "entropy", by="definition")
@battery
@multi_hot
@pytest.mark.parametrize("shape", [(20,), (3, 6), (2, 3, 4), ()])
def test_values_are_those_of_the_textbook_formula(name: str, kind: str, shape: tuple[int, ...]) -> None:
    if kind == "multi-hot" and not shape:
        return  # one decision with several labels is read as a batch
    logits, labels = batch(*shape, kind=kind_of(name, kind))
    values, case = SIGNALS[name](logits, labels), case_of(name)
    low, high = case.multi_hot_range if kind_of(name, kind) == "multi-hot" else case.range
    assert values.shape == shape  # the class axis is dropped
    assert values.dtype == torch.float32
    assert bool(((values >= low) & (values <= high + 1e-6)).all())
    if shape:
        assert_close(values, textbook(name, kind, logits, labels), atol=1e-5, rtol=1e-6)


@battery
@multi_hot
def test_values_do_not_depend_on_the_rest_of_the_batch(name: str, kind: str) -> None:
    logits, labels = batch(12, kind=kind_of(name, kind))
    together = SIGNALS[name](logits, labels)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(1))
    alone = torch.cat([SIGNALS[name](logits[row : row + 1], labels[row : row + 1]) for row in range(12)])
    same(kind, SIGNALS[name](logits[order], labels[order]), together[order])
    assert_close(alone, together, atol=1e-6, rtol=0)


@battery
@multi_hot
@pytest.mark.parametrize("ignored", [-100, 99])
def test_masked_positions_are_zero_and_inputs_are_not_written_to(name: str, kind: str, ignored: int) -> None:
    kind = kind_of(name, kind)
    logits, labels = batch(2, 4, kind=kind)
    mask = torch.tensor([[True, True, False, False], [True, False, True, False]])
    hidden = ~mask if kind == "numbers" else ~mask.unsqueeze(-1)
    logits = logits.masked_fill(hidden, torch.nan)
    labels = labels.masked_fill(hidden if kind == "multi-hot" else ~mask, ignored)
    before = [tensor.clone() for tensor in (logits, labels, mask)]
    first, second = (SIGNALS[name](logits, labels, mask=mask) for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(first[~mask], torch.zeros(4))
    same(kind, first[mask], SIGNALS[name](logits[mask], labels[mask]))
    for old, new in zip(before, (logits, labels, mask), strict=True):
        assert_close(new, old, rtol=0, atol=0, equal_nan=True)


@battery
@multi_hot
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_are_computed_in_float32_without_a_gradient(name: str, kind: str, dtype: torch.dtype) -> None:
    logits, labels = batch(20, kind=kind_of(name, kind))
    values = SIGNALS[name](logits.to(dtype).requires_grad_(), labels)
    assert values.dtype == torch.float32
    assert not values.requires_grad
    assert_close(values, SIGNALS[name](logits.to(dtype).float(), labels), atol=1e-6, rtol=1e-6)


@of_classes
@pytest.mark.parametrize("size", [1e4, -1e4, 60.0])
def test_saturated_logits_give_finite_values(name: str, size: float) -> None:
    logits = torch.tensor([[size, 0.0, 0.0], [size, size, -size], [0.0, 0.0, size]])
    for label in range(3):
        assert bool(SIGNALS[name](logits, torch.full((3,), label)).isfinite().all())
        assert bool(SIGNALS[name](logits, torch.eye(3)[[label] * 3]).isfinite().all())


@HARDER
def test_larger_is_harder_even_among_what_is_well_learned(name: str) -> None:
    """In float32 `1 - p` is 0 for the most certain half of these, which would tie."""
    doubt = torch.linspace(30, -8, 77)[:, None]
    sure = torch.zeros(77, dtype=torch.long)
    pair = torch.cat([doubt, torch.zeros_like(doubt)], -1)  # (77, 2), ever less sure of class 0
    assert bool((SIGNALS[name](pair, sure).diff() > 0).all())
    assert bool((gold_probability(pair[-33:], sure[-33:]).diff() < 0).all())
    two = torch.cat([doubt, torch.full_like(doubt, -40)], -1)
    assert bool((SIGNALS[name](two, torch.tensor([[1.0, 0.0]]).expand(77, 2)).diff() > 0).all())


@pytest.mark.proves("el2n", kind="score", by="identity")
@of_labels
def test_two_classes_rank_alike_by_every_score_that_reads_the_label(name: str) -> None:
    logits, labels = batch(50, classes=2)
    expected = EL2N_MAX * (1 - gold_probability(logits, labels))
    assert_close(el2n(logits, labels), expected, atol=1e-6, rtol=0)
    assert torch.equal(SIGNALS[name](logits, labels).argsort(descending=name == "gold_probability"), expected.argsort())


@pytest.mark.proves("el2n", "cross_entropy", by="golden")
@pytest.mark.parametrize("case", ["five_classes", "two_classes"])
@pytest.mark.parametrize(("score", "column"), [(el2n, "el2n"), (cross_entropy, "loss")])
def test_golden_classification(case: str, score: Callable[..., Tensor], column: str) -> None:
    data = GOLDEN[case]
    logits, labels, expected = (torch.tensor(data[key]) for key in ("logits", "labels", column))
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
@pytest.mark.parametrize("score", [el2n, absolute_error])
def test_golden_regression_has_no_sigmoid(score: Callable[..., Tensor]) -> None:
    outputs, targets, expected = (torch.tensor(GOLDEN["regression"][key]) for key in ("outputs", "labels", "el2n"))
    for form in (outputs, outputs.squeeze(-1), outputs.half()):
        assert_close(score(form, targets), expected)
    masked = score(outputs, torch.tensor([torch.nan, 1.0, 3.8]), mask=torch.tensor([False, True, True]))
    assert_close(masked, expected * torch.tensor([0.0, 1.0, 1.0]))


def test_entropy_ignores_the_label() -> None:
    logits, labels = batch(10)
    assert torch.equal(entropy(logits, labels), entropy(logits, (labels + 1) % CLASSES))
    assert_close(entropy(torch.zeros(1, 5), labels[:1]), torch.tensor([math.log(5)]))


@pytest.mark.proves("margin")
def test_margin_by_hand() -> None:
    logits = torch.tensor([[2.0, -1.0, 0.5], [2.0, -1.0, 0.5]])
    assert margin(logits, torch.tensor([0, 1])).tolist() == [-1.5, 3.0]


def test_one_output_is_a_regression() -> None:
    assert not is_multi_hot(torch.zeros(4, 1), torch.zeros(4, 1))
    assert not is_multi_hot(torch.zeros(4), torch.zeros(4))
    assert_close(el2n(torch.tensor([[2.0]]), torch.tensor([0.5])), torch.tensor([1.5]))


@pytest.mark.proves("el2n", "cross_entropy", "margin", by="planted")
@HARDER
def test_mislabelled_rows_are_the_hardest(name: str) -> None:
    logits, _ = batch(200, kind="multi-hot", classes=4)
    labels, wrong = (logits > 0).float(), torch.arange(0, 200, 20)
    labels[wrong, 0] = 1 - labels[wrong, 0]
    logits[:, 0] = logits[:, 0].sign() * 4
    values = example_values(SIGNALS[name], Signals({"label": HeadSignals(3 * logits, labels)}))
    assert set(values.topk(10).indices.tolist()) == set(wrong.tolist())


# ---- bad input


@of_classes
def test_shapes_that_do_not_fit_are_both_named(name: str) -> None:
    labels = torch.zeros(4, dtype=torch.long)
    with pytest.raises(ArgumentError, match=r"logits of shape \(4, 5\) for labels of shape \(3,\)"):
        SIGNALS[name](torch.zeros(4, 5), labels[:3])
    with pytest.raises(ArgumentError, match=r"mask of shape \(3,\) for labels of shape \(4,\)"):
        SIGNALS[name](torch.zeros(4, 5), labels, mask=torch.ones(3, dtype=torch.bool))
    with pytest.raises(ArgumentError, match="at least two classes"):
        SIGNALS[name](torch.zeros(4, 1), labels)
    with pytest.raises(ArgumentError, match=r"reads floating-point labels of the logits' shape \(2, 3\) as multi-hot"):
        SIGNALS[name](torch.zeros(2, 3), torch.full((2, 3), 2.5))
    with pytest.raises(ArgumentError, match="the labels' shape without the classes"):
        SIGNALS[name](torch.zeros(2, 3), torch.zeros(2, 3), mask=torch.ones(2, 3, dtype=torch.bool))


@of_labels
@pytest.mark.parametrize("label", [-100, 5])
def test_a_label_that_is_no_class_is_refused_unless_masked(name: str, label: int) -> None:
    with pytest.raises(ArgumentError, match=rf"labels in \[0, 5\), found {label}. Give a mask"):
        SIGNALS[name](torch.zeros(2, 5), torch.tensor([0, label]))


@pytest.mark.parametrize("name", [name for name in OF_CLASSES if name != "el2n"])
def test_scores_of_classes_refuse_a_regression(name: str) -> None:
    with pytest.raises(ArgumentError, match=f"{name} needs class labels"):
        SIGNALS[name](torch.zeros(4, 1), torch.zeros(4))


def test_a_regression_refuses_several_outputs() -> None:
    with pytest.raises(ArgumentError, match=r"one output per target: got logits of shape \(4, 3\)"):
        absolute_error(torch.zeros(4, 3), torch.zeros(4))


# ---- planted rows


def test_entropy_finds_what_is_ambiguous_whatever_its_label_says() -> None:
    """A model that knows the boundary: EL2N puts the wrong labels on top, entropy the rows beside the boundary."""
    generator = torch.Generator().manual_seed(0)
    x = 4 * torch.randn(1000, generator=generator)
    labels = (x > 0).long()
    flipped = torch.zeros(1000, dtype=torch.bool)
    flipped[torch.randperm(1000, generator=generator)[:100]] = True
    labels = torch.where(flipped, 1 - labels, labels)
    logits = torch.stack([-x, x], 1)
    by_error, by_entropy = (score(logits, labels).argsort(descending=True)[:100] for score in (el2n, entropy))
    assert flipped[by_error].float().mean() > 0.9
    assert flipped[by_entropy].float().mean() < 0.25
    assert x[by_entropy].abs().max() < x.abs().median()


def test_absolute_error_finds_targets_that_are_off() -> None:
    generator = torch.Generator().manual_seed(0)
    truth = 5 * torch.rand(500, generator=generator)
    targets = truth.clone()
    targets[:25] = (targets[:25] + 2.5) % 5
    predicted = truth + 0.2 * torch.randn(500, generator=generator)
    top = absolute_error(predicted[:, None], targets).argsort(descending=True)[:25]
    assert (top < 25).float().mean() > 0.9
