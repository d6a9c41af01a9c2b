"""The last linear layers: found, seen, and weighted."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from datadiet.errors import ArgumentError
from datadiet.scores.reduce import free_signals
from datadiet.tasks.heads import Heads, head_layers
from datadiet.types import HeadSignals, Signals
from toys import tiny_classifier


def test_the_input_of_the_head_gives_the_norm_of_its_gradient():
    model = tiny_classifier(3, dropout=0.0).eval()
    ids, labels = torch.randint(5, 20, (4, 6)), torch.tensor([0, 1, 2, 1])
    heads = Heads(head_layers(model))
    with heads.recording():
        logits = model(input_ids=ids).logits
    found = free_signals(heads.signals(Signals({"label": HeadSignals(logits.detach(), labels)})))
    expected = []
    for row in range(4):
        model.zero_grad()
        functional.cross_entropy(model(input_ids=ids[row : row + 1]).logits, labels[row : row + 1]).backward()
        layer = head_layers(model)["label"]
        expected.append(torch.cat([layer.weight.grad.flatten(), layer.bias.grad]).norm())
    actual = found["el2n"] * (1 + found["hidden_norm"].square()).sqrt()
    torch.testing.assert_close(actual, torch.stack(expected), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("shape", [(5, 4), (5, 3, 4)])
def test_weights_make_the_gradient_that_of_the_weighted_loss(shape):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2))
    inputs, target = torch.randn(shape), torch.randint(2, shape[:-1])
    weights = torch.tensor([0.0, 1.0, 2.0, 0.5, 3.0])

    def losses() -> torch.Tensor:
        return functional.cross_entropy(model(inputs).movedim(-1, 1), target, reduction="none").reshape(5, -1).sum(1)

    (losses() * weights).mean().backward()
    expected = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    with Heads({"label": model[2]}).recording(weights):
        losses().mean().backward()
    for parameter, gradient in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient)
    model.zero_grad()
    losses().mean().backward()  # the hooks are gone
    assert not torch.allclose(model[0].weight.grad, expected[0])


@pytest.mark.parametrize("positions", [5, 3, 7])
def test_weights_of_positions_are_counted_from_the_last(positions):
    """Virtual tokens stand before the labels, and `logits_to_keep` leaves the last positions alone."""
    torch.manual_seed(0)
    layer = nn.Linear(4, 2)
    inputs, weights = torch.randn(2, positions, 4), torch.rand(2, 5)
    with Heads({"tokens": layer}).recording(weights):
        layer(inputs).square().sum().backward()
    found = layer.weight.grad.clone()
    layer.zero_grad()
    own = torch.cat([torch.ones(2, max(positions - 5, 0)), weights[:, max(5 - positions, 0) :]], 1)
    (layer(inputs).square() * own[..., None]).sum().backward()
    torch.testing.assert_close(found, layer.weight.grad)


def test_weights_need_a_head():
    with pytest.raises(ArgumentError, match="no linear layer"), Heads({}).recording(torch.ones(2)):
        pass


def test_weights_that_nobody_asked_for_do_nothing_where_they_fit_no_output():
    layer = nn.Linear(2, 1)
    for heads, count in ((Heads({}), 4), (Heads({"label": layer}), 2)):  # as where a batch has two texts per example
        layer.zero_grad()
        with heads.recording(torch.zeros(count), asked=False):
            layer(torch.ones(4, 2)).sum().backward()
        assert layer.weight.grad.tolist() == [[4.0, 4.0]]


def test_weights_need_one_output_a_row():
    layer = nn.Linear(2, 3)
    heads = Heads({"label": layer})
    message = "one output of the model per row: it gave 4 for 2 rows"
    with pytest.raises(ArgumentError, match=message), heads.recording(torch.ones(2)):
        layer(torch.zeros(4, 2))
    with pytest.raises(ArgumentError, match=message):
        heads.check_weights(2)
    heads.check_weights(4)
    with pytest.raises(ArgumentError, match="no linear layer"):
        Heads({}).check_weights(2)


def test_a_head_whose_input_has_another_shape_is_left_alone():
    layer = nn.Linear(2, 3)
    heads = Heads({"label": layer})
    with heads.recording():
        layer(torch.ones(4, 7, 2))
    signals = Signals({"label": HeadSignals(torch.zeros(4, 3), torch.zeros(4, dtype=torch.int64))})
    assert heads.signals(signals).heads["label"].hidden is None


def test_no_config_no_head():
    assert head_layers(nn.Linear(2, 2)) == {}
