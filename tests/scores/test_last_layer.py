"""Closed forms of the last layer: golden values, autograd, the identities, and bad input."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from datadiet.errors import ArgumentError
from datadiet.scores.last_layer import (
    errors_of,
    last_layer_alignment,
    last_layer_gradient,
    last_layer_grand,
    signals_grand,
)
from datadiet.scores.logits import el2n
from datadiet.scores.reduce import free_signals
from datadiet.types import HeadSignals, Signals

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "gradients.json").read_text())


def drawn(*shape: int, classes: int = 4, size: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(*shape, classes, generator=generator)
    return logits, torch.randint(classes, shape, generator=generator), torch.randn(*shape, size, generator=generator)


def gradients_by_autograd(hidden: Tensor, labels: Tensor, layer: nn.Linear, mask: Tensor | None = None) -> Tensor:
    """Each example's gradient over the layer, `(batch, classes, size + 1)`, one by one."""
    found = []
    for row in range(len(hidden)):
        losses = nn.functional.cross_entropy(layer(hidden[row]).reshape(-1, 4), labels[row].flatten(), reduction="none")
        counted = losses if mask is None else losses[mask[row]]
        weight, bias = torch.autograd.grad(counted.sum(), [layer.weight, layer.bias])
        found.append(torch.cat([weight, bias[:, None]], 1))
    return torch.stack(found)


@pytest.mark.proves("grand_last_layer", by="golden")
def test_golden_and_no_trace_of_the_batch() -> None:
    case, expected = GOLDEN["grand_mlp"], torch.tensor(GOLDEN["grand_last_layer"]["expected"])
    logits, labels, hidden = (torch.tensor(case[name]) for name in ("logits", "labels", "hidden"))
    values = last_layer_grand(logits, labels, hidden)
    assert_close(values, expected, atol=1e-5, rtol=1e-5)
    parts = [last_layer_grand(logits[at], labels[at], hidden[at]) for at in (slice(0, 3), slice(3, 6), slice(6, 8))]
    assert_close(torch.cat(parts), values)
    assert not torch.allclose(values, torch.tensor(GOLDEN["grand_last_layer"]["published_batch_of_3"]))  # its defect


@pytest.mark.proves("grand_last_layer", by="identity")
def test_it_is_el2n_times_the_norm_of_what_went_in() -> None:
    logits, labels, hidden = drawn(20)
    norm = hidden.norm(dim=-1)
    assert_close(last_layer_grand(logits, labels, hidden), el2n(logits, labels) * (1 + norm.square()).sqrt())
    assert_close(last_layer_grand(logits, labels, hidden, bias=False), el2n(logits, labels) * norm)
    free = free_signals(Signals({"label": HeadSignals(logits, labels, hidden=hidden)}))
    recorded = free["el2n"] * (1 + free["hidden_norm"].square()).sqrt()
    assert_close(last_layer_grand(logits, labels, hidden), recorded)


@pytest.mark.proves("grand_last_layer", by="library")
@pytest.mark.parametrize("shape", [(6,), (6, 5)])
def test_it_is_the_norm_that_autograd_gives(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(3, 4)
    _, labels, hidden = drawn(*shape)
    mask = None if len(shape) == 1 else torch.rand(shape, generator=torch.Generator().manual_seed(1)) < 0.6
    expected = gradients_by_autograd(hidden, labels, layer, mask)
    logits = layer(hidden).detach()
    given = labels if mask is None else labels.masked_fill(~mask, -100)
    assert_close(last_layer_grand(logits, given, hidden, mask=mask), expected.flatten(1).norm(dim=1))
    summed = last_layer_gradient(logits, given, hidden, mask=mask)
    assert_close(summed, expected.sum(0))
    dots = (expected * summed).sum((1, 2))
    assert_close(last_layer_alignment(logits, given, hidden, summed, mask=mask), dots)


def test_words_are_no_sum_of_norms() -> None:
    """Two words whose errors point away from each other cancel."""
    logits, labels = torch.zeros(1, 2, 2), torch.tensor([[0, 1]])
    hidden = torch.ones(1, 2, 3)
    assert last_layer_grand(logits, labels, hidden).item() == pytest.approx(0.0, abs=1e-6)


def test_padding_changes_nothing_even_where_it_is_nan() -> None:
    logits, labels, hidden = drawn(3, 4)
    mask = torch.ones(3, 4, dtype=torch.bool)
    expected = last_layer_grand(logits, labels, hidden, mask=mask)
    padded = [torch.cat([part, torch.full_like(part[:, :2], torch.nan)], 1) for part in (logits, hidden)]
    more = torch.cat([labels, torch.full((3, 2), -100)], 1)
    wide = torch.cat([mask, torch.zeros(3, 2, dtype=torch.bool)], 1)
    padded[0] = padded[0].nan_to_num(7.0)
    assert_close(last_layer_grand(padded[0], more, padded[1], mask=wide), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_are_computed_in_float32(dtype: torch.dtype) -> None:
    logits, labels, hidden = drawn(10)
    values = last_layer_grand(logits.to(dtype), labels, hidden.to(dtype))
    assert values.dtype == torch.float32
    assert_close(values, last_layer_grand(logits.to(dtype).float(), labels, hidden.to(dtype).float()))


def test_well_learned_examples_still_come_in_order() -> None:
    logits = torch.stack([torch.arange(17.0, 30.0), torch.zeros(13)], -1)
    values = last_layer_grand(logits, torch.zeros(13, dtype=torch.long), torch.ones(13, 2))
    assert bool((values.diff() < 0).all())


def test_regression_and_several_labels() -> None:
    outputs, targets, hidden = torch.tensor([[2.0], [1.5]]), torch.tensor([1.0, 3.5]), torch.zeros(2, 3)
    assert_close(last_layer_grand(outputs, targets, hidden), torch.tensor([1.0, 2.0]))
    logits, given = torch.zeros(1, 3), torch.tensor([[1.0, 0.0, 1.0]])
    assert_close(errors_of(logits, given), torch.tensor([[-0.5, 0.5, -0.5]]))


def test_heads_add_up_with_their_weights() -> None:
    intent, slots = drawn(5), drawn(5, 2)
    mask = torch.ones(5, 2, dtype=torch.bool)
    heads = {
        "intent": HeadSignals(intent[0], intent[1], hidden=intent[2]),
        "slots": HeadSignals(slots[0], slots[1], mask, slots[2]),
    }
    norms = [last_layer_grand(*intent), last_layer_grand(*slots)]
    assert_close(signals_grand(Signals(heads)), (norms[0] ** 2 + norms[1] ** 2).sqrt())
    weighted = signals_grand(Signals(heads), weights={"intent": 0.9, "slots": 0.1})
    assert_close(weighted, ((0.9 * norms[0]) ** 2 + (0.1 * norms[1]) ** 2).sqrt())


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda z, y, h: last_layer_grand(z, y, h[:3]), r"got \(3, 3\) for logits of shape \(4, 4\)"),
        (lambda z, y, h: last_layer_grand(z, y[:3], h), r"logits of shape \(4, 4\) for torch.int64 .*shape \(3,\)"),
        (lambda z, y, h: last_layer_grand(z, y.where(y > 9, -100), h), r"labels must be in \[0, 4\), found -100 to"),
        (lambda z, y, h: last_layer_alignment(z, y, h, h), r"gradient must have shape \(4, 4\), got \(4, 3\)"),
        (lambda z, y, h: signals_grand(Signals({"label": HeadSignals(z, y)})), "not known for 'label'"),
    ],
)
def test_bad_input(call: Callable[..., Tensor], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        call(*drawn(4))
