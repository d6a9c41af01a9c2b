"""TracIn: golden values, both ways agree, the sign, bad input."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from datadiet.errors import ArgumentError
from datadiet.scoring.grand import grand
from datadiet.scoring.tracin import self_influence, tracin
from toys import (
    INTENTS,
    KINDS,
    SLOTS,
    fit,
    from_x,
    mlp,
    only_x,
    rows_of,
    stack,
    tiny_classifier,
    tiny_intent_slot,
    toy_joint_rows,
    toy_rows,
)

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "gradients.json").read_text())["tracin"]
RATES = GOLDEN["learning_rates"]


class Head(nn.Module):
    """One checkpoint of the golden file: the hidden states of its own, and a linear layer."""

    def __init__(self, hidden, weight, bias):
        super().__init__()
        self.config = SimpleNamespace(num_labels=3)
        self.register_buffer("states", torch.tensor(hidden))
        self.classifier = nn.Linear(4, 3)
        with torch.no_grad():
            self.classifier.weight.copy_(torch.tensor(weight).T)
            self.classifier.bias.copy_(torch.tensor(bias))

    def forward(self, row, labels=None):
        return {"logits": self.classifier(self.states[row])}


def golden():
    models = [Head(*parts) for parts in zip(GOLDEN["hidden"], GOLDEN["weights"], GOLDEN["biases"], strict=True)]
    rows = rows_of({"row": torch.arange(10), "labels": torch.tensor(GOLDEN["labels"])})
    return models, rows, [rows[row] for row in GOLDEN["dev_rows"]]


def classification(kind="bert", rows=8):
    models = [tiny_classifier(3, kind, seed=seed) for seed in (0, 1)]
    (data, collate), (dev, _) = (toy_rows(n, kind=kind, seed=n) for n in (rows, 5))
    return models, data, dev, collate


@pytest.mark.proves("self_influence", "tracin", by="golden")
@pytest.mark.parametrize("parameters", ["last_layer", "all"])
def test_golden(parameters):
    models, rows, dev = golden()
    own = self_influence(models, RATES, rows, stack, parameters=parameters)
    np.testing.assert_allclose(own, GOLDEN["self_influence"], rtol=1e-5)
    harm = tracin(models, RATES, rows, dev, stack, parameters=parameters, batch_size=4)
    np.testing.assert_allclose(harm, -np.array(GOLDEN["influence_of_mean_dev_gradient"]), rtol=1e-4, atol=1e-6)


@pytest.mark.proves("tracin", by="library")
@pytest.mark.parametrize("kind", KINDS)
def test_inner_products_are_those_of_the_gradients(kind):
    models, data, dev, collate = classification(kind, rows=4)
    model = models[0]

    def gradient(items):
        batch = collate(items)
        loss = nn.functional.cross_entropy(model(**{**batch, "labels": None}).logits, batch["labels"])
        parts = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
        return torch.cat([part.flatten() for part in parts if part is not None])

    mean = gradient([dev[row] for row in range(len(dev))])
    expected = [-0.1 * float(gradient([data[row]]) @ mean) for row in range(4)]
    values = tracin([model], [0.1], data, dev, collate, parameters="all")
    np.testing.assert_allclose(values, expected, rtol=2e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["classification", "joint"])
def test_the_closed_form_agrees_with_forward_mode(name):
    if name == "joint":
        models = [tiny_intent_slot(INTENTS, SLOTS, seed=seed, alpha=0.7) for seed in (0, 1)]
        (data, collate), (dev, _) = (toy_joint_rows(n, seed=n) for n in (6, 4))
        heads = ("intent_head", "slot_head")
    else:
        (models, data, dev, collate), heads = classification(), ("classifier",)
    closed = tracin(models, [0.1, 0.2], data, dev, collate, batch_tokens=40)
    general = tracin(models, [0.1, 0.2], data, dev, collate, parameters=lambda name: name.startswith(heads))
    np.testing.assert_allclose(general, closed, rtol=1e-3, atol=1e-5)


def test_an_example_of_the_dev_set_alone_is_its_own_influence_and_helps():
    models, data, _, collate = classification()
    alone = data.select([3])
    harm = tracin(models, [0.1, 0.2], data, alone, collate, rows=np.array([3]), parameters="all")
    own = self_influence(models, [0.1, 0.2], data, collate, rows=np.array([3]), parameters="all")
    np.testing.assert_allclose(harm, -own, rtol=1e-3)
    squares = [rate * grand(model, data, collate) ** 2 for model, rate in zip(models, (0.1, 0.2), strict=True)]
    every = self_influence(models, [0.1, 0.2], data, collate, parameters="all")
    np.testing.assert_allclose(every, sum(squares), rtol=1e-4)


@pytest.mark.proves("tracin", by="planted")
def test_flipped_labels_are_harmful_and_clean_ones_help():
    """The sign: larger = harmful."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(60, 3, generator=generator)
    clean = x.argmax(1)
    labels = clean.clone()
    labels[:6] = (labels[:6] + 1) % 3
    torch.manual_seed(0)
    model, rows = fit(mlp(3), x, labels, 20), rows_of({"x": x, "labels": labels})
    dev = rows_of({"x": x[30:], "labels": clean[30:]})
    harm = tracin([model], [0.1], rows[:30], dev, stack, parameters="all", loss=from_x, inputs=only_x)
    assert harm[:6].mean() > 0 > harm[6:].mean()


def test_bad_input():
    models, rows, dev = golden()
    with pytest.raises(ArgumentError, match="one learning rate per checkpoint is needed: got 2 for 3"):
        tracin(models, [0.1, 0.2], rows, dev, stack)
    with pytest.raises(ArgumentError, match="one learning rate per checkpoint is needed: got 4 for 3"):
        self_influence(iter(models), [0.1] * 4, rows, stack)
    with pytest.raises(ArgumentError, match=r"at least 0 and finite, got \[-1.0, 0.1, 0.1\]"):
        self_influence(models, [-1, 0.1, 0.1], rows, stack)
    with pytest.raises(ArgumentError, match="dev set with at least one example"):
        tracin(models, RATES, rows, [], stack)
    with pytest.raises(ArgumentError, match="needs a last linear layer"):
        tracin([mlp()], [0.1], rows, dev, stack)
