"""GraNd: the golden values, every kind of model against autograd one by one, and what cannot be done."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from datadiet.errors import ArgumentError
from datadiet.ledger import Ledger
from datadiet.scoring.gradients import example_losses
from datadiet.scoring.grand import grand
from toys import (
    INTENTS,
    KINDS,
    SLOTS,
    fit,
    from_x,
    mlp,
    norm_alone,
    only_x,
    rows_of,
    stack,
    tiny_classifier,
    tiny_intent_slot,
    toy_joint_rows,
    toy_regression_rows,
    toy_rows,
)

FOLDER = Path(__file__).parents[1] / "golden"
GOLDEN = json.loads((FOLDER / "gradients.json").read_text())
X = {"loss": from_x, "inputs": only_x}


def golden_bert():
    from safetensors.torch import load_file
    from transformers import BertConfig, BertForSequenceClassification

    case = GOLDEN["grand_bert"]
    model = BertForSequenceClassification(BertConfig(**case["config"]))
    model.load_state_dict(load_file(FOLDER / "grand_bert.safetensors"))
    names = ("input_ids", "attention_mask", "token_type_ids", "labels")
    return model.train(), rows_of({name: torch.tensor(case[name]) for name in names})  # dropout on, as after training


@pytest.mark.proves("grand", by="golden")
@pytest.mark.parametrize("method", ["auto", "layers", "func"])
@pytest.mark.parametrize(
    ("parameters", "column"),
    [
        ("all", "all"),
        (lambda name: "encoder.layer.1." in name, "last_encoder_layer"),
        (lambda name: name.startswith("classifier"), "classifier"),
        ("last_layer", "classifier"),
    ],
    ids=["all", "last encoder layer", "classifier", "last_layer"],
)
def test_golden_bert(parameters, column, method):
    model, rows = golden_bert()
    values = grand(model, rows, stack, parameters=parameters, batch_size=4, method=method)
    assert values.dtype == np.float32
    np.testing.assert_allclose(values, GOLDEN["grand_bert"][column], rtol=2e-5)
    assert model.training  # eval mode was set, and restored


@pytest.mark.proves("grand", by="golden")
@pytest.mark.parametrize("method", ["layers", "func"])
@pytest.mark.parametrize("size", [1, 3, 8])
def test_golden_mlp_by_any_batch(method, size):
    case = GOLDEN["grand_mlp"]
    model = mlp()
    with torch.no_grad():
        for parameter, name in zip(model.parameters(), ("W1", "b1", "W2", "b2"), strict=True):
            value = torch.tensor(case[name])
            parameter.copy_(value.T if value.dim() == 2 else value)
    rows = rows_of({"x": torch.tensor(case["X"]), "labels": torch.tensor(case["labels"])})
    values = grand(model, rows, stack, **X, batch_size=size, method=method)
    np.testing.assert_allclose(values, case["grand_full"], rtol=1e-4)
    assert values[1] == pytest.approx(values[7])  # the same example twice


HEADS = {"intent_head.weight", "intent_head.bias", "slot_head.weight", "slot_head.bias"}
LAST = {"classifier.weight", "classifier.bias"}


@pytest.mark.proves("grand", by="library")
@pytest.mark.parametrize(
    ("model", "rows", "names", "alpha", "options"),
    [
        *((partial(tiny_classifier, 3, kind), partial(toy_rows, 9, kind=kind), None, 0.5, {}) for kind in KINDS),
        *(
            (partial(tiny_classifier, 3, kind), partial(toy_rows, 9, kind=kind), None, 0.5, {"method": method})
            for kind in ("bert", "distilbert")
            for method in ("layers", "func")
        ),
        *(
            (partial(tiny_intent_slot, INTENTS, SLOTS, alpha=alpha), partial(toy_joint_rows, 6), names, alpha, options)
            for alpha in (0.5, 0.8)
            for names, options in ((None, {}), (HEADS, {"parameters": "last_layer"}))
        ),
        (partial(tiny_classifier, 1), partial(toy_regression_rows, 6), None, 0.5, {}),
        (partial(tiny_classifier, 1), partial(toy_regression_rows, 6), LAST, 0.5, {"parameters": "last_layer"}),
    ],
)
def test_every_model_and_method_agrees_with_one_unpadded_example_at_a_time(model, rows, names, alpha, options):
    """Of a regression, half the squared error counts."""
    model, (data, collate), expected = model(), rows(), []
    for row in range(len(data)):
        batch = collate([data[row]])
        outputs = model(**{name: value for name, value in batch.items() if "label" not in name})
        expected.append(norm_alone(model, example_losses(outputs, batch, alpha=alpha), names))
    np.testing.assert_allclose(grand(model, data, collate, **options), expected, rtol=1e-4)


def test_values_do_not_depend_on_batch_or_padding_and_come_in_the_order_of_the_rows():
    model, (data, collate) = tiny_classifier(3), toy_rows(9)
    large, small = (grand(model, data, collate, batch_tokens=tokens) for tokens in (10_000, 1))
    np.testing.assert_allclose(large, small, rtol=1e-4)
    rows = np.array([7, 2, 5])
    np.testing.assert_allclose(grand(model, data, collate, rows=rows), large[rows], rtol=1e-4)


def test_the_losses_by_default_are_those_of_training():
    model, (data, collate) = tiny_intent_slot(INTENTS, SLOTS, alpha=0.7), toy_joint_rows(6)
    for row in range(len(data)):
        batch = collate([data[row]])
        outputs = model(**batch)
        assert_close(example_losses(outputs, batch, alpha=0.7), outputs.loss.reshape(1))
    classifier, (data, collate) = tiny_classifier(3), toy_rows(9)
    batch = collate([data[row] for row in range(len(data))])
    assert_close(example_losses(outputs := classifier(**batch), batch).mean(), outputs.loss)


class Plain(nn.Module):
    """A module of any parts and any forward pass."""

    def __init__(self, run, **parts):
        super().__init__()
        for name, part in parts.items():
            setattr(self, name, part)
        self.run = run

    def forward(self, x):
        return self.run(self, x)


def scaled():
    """A parameter that belongs to no known layer."""
    return Plain(lambda m, x: m.body(x) * m.scale, body=mlp(), scale=nn.Parameter(torch.tensor([1.0, 2.0, 3.0])))


def conv():
    first, last = nn.Conv1d(1, 2, 2), nn.Linear(8, 3)
    return Plain(lambda m, x: m.last(m.first(x.unsqueeze(1)).flatten(1)), first=first, last=last)


def hidden():
    """A layer whose weight is used without calling the layer: no hook sees it."""
    return Plain(lambda m, x: m.body(x) + x.sum(-1, keepdim=True) * m.body[2].weight.sum(-1), body=mlp())


def in_place():
    return nn.Sequential(nn.Linear(5, 6), nn.ReLU(inplace=True), nn.Linear(6, 3))


def twice():
    """One layer called twice in a forward pass."""
    again, last = nn.Linear(5, 5), nn.Linear(5, 3, bias=False)
    return Plain(lambda m, x: m.last(torch.tanh(m.again(torch.tanh(m.again(x))))), again=again, last=last)


def positions():
    """An embedding that all rows share, with a token that occurs twice, and a padding that never learns."""

    def run(m, x):
        tokens = (x.abs() * 3).long().clamp(0, 6)
        return m.last(m.norm(m.place(torch.arange(5).unsqueeze(0)) + m.token(tokens))).sum(1)

    token = nn.Embedding(7, 4, padding_idx=0)
    return Plain(run, place=nn.Embedding(5, 4), token=token, norm=nn.LayerNorm(4), last=nn.Linear(4, 3))


def drawn(n: int = 7):
    generator = torch.Generator().manual_seed(0)
    return rows_of({"x": torch.randn(n, 5, generator=generator), "labels": torch.arange(n) % 3})


@pytest.mark.parametrize("kind", [scaled, conv, hidden, in_place, twice, positions])
def test_any_module_agrees_with_one_example_at_a_time(kind):
    torch.manual_seed(1)
    model, rows = kind(), drawn()
    expected = [norm_alone(model, from_x(model(row["x"][None]), {"labels": row["labels"][None]})) for row in rows]
    for size in (1, 4):
        values = grand(model, rows, stack, **X, batch_size=size)
        np.testing.assert_allclose(values, expected, rtol=1e-4)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (scaled, "Plain is not a supported layer"),
        (conv, "Conv1d is not a supported"),
        (hidden, "where autograd gives"),
        (in_place, "changed in place"),
    ],
)
def test_layers_that_are_not_exact_are_refused_by_name(kind, reason):
    with pytest.raises(ArgumentError, match=f"not exact for this model: .*{reason}"):
        grand(kind(), drawn(), stack, **X, method="layers")


def test_frozen_parameters_do_not_count():
    model, rows = mlp(), drawn()
    for parameter in model[0].parameters():
        parameter.requires_grad_(False)
    last = grand(model, rows, stack, parameters=lambda name: name.startswith("2."), **X)
    np.testing.assert_allclose(grand(model, rows, stack, **X), last, rtol=1e-5)


def test_long_texts_take_the_other_way_through_a_layer():
    model = nn.Sequential(nn.Embedding(5, 2), nn.Linear(2, 2))
    rows = rows_of({"x": torch.arange(80).reshape(2, 40) % 5, "labels": torch.tensor([0, 1])})

    def loss(outputs, batch):
        return from_x(outputs.mean(1), batch)

    expected = [norm_alone(model, loss(model(row["x"][None]), {"labels": row["labels"][None]})) for row in rows]
    np.testing.assert_allclose(grand(model, rows, stack, loss=loss, inputs=only_x), expected, rtol=1e-4)


def test_bf16_stays_close_and_the_ledger_counts():
    model, (data, collate) = tiny_classifier(3), toy_rows(9)
    ledger = Ledger()
    exact = grand(model, data, collate, ledger=ledger)
    np.testing.assert_allclose(grand(model, data, collate, precision="bf16"), exact, rtol=0.1)
    assert ledger.snapshot().examples_forward == len(data)


@pytest.mark.proves("grand", by="planted")
def test_mislabelled_examples_stand_out():
    """What it is for: after training, the flipped labels have the largest gradients."""
    torch.manual_seed(0)
    x = torch.randn(60, 5)
    labels = x[:, :3].argmax(1)
    model = fit(mlp(), x, labels, 150)
    given = labels.clone()
    given[:6] = (given[:6] + 1) % 3
    values = grand(model, rows_of({"x": x, "labels": given}), stack, **X)
    assert set(np.argsort(-values)[:6]) == set(range(6))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "layer"}, "unknown method 'layer'; did you mean 'layers'"),
        ({"parameters": "al"}, "unknown parameters 'al'; did you mean 'all'"),
        ({"parameters": lambda name: False}, r"no parameter that trains was chosen; there are: 0\.weight"),
        ({"parameters": "last_layer"}, "needs a last linear layer with as many outputs"),
        ({"loss": lambda outputs, batch: outputs.mean()}, r"one number per example, \(2,\), not \(\): do not average"),
    ],
)
def test_options_that_are_refused(options, message):
    with pytest.raises(ArgumentError, match=message):
        grand(mlp(), drawn(), stack, **X | options)


def test_rows_that_are_refused():
    rows = drawn()
    with pytest.raises(ArgumentError, match="the batch has no labels; it holds x"):
        grand(mlp(), [{"x": row["x"]} for row in rows], stack, inputs=only_x)
    with pytest.raises(ArgumentError, match=r"fit no known loss\. Pass loss="):
        grand(mlp(), [{**row, "labels": torch.zeros(2, dtype=torch.long)} for row in rows], stack, inputs=only_x)
    rows[3]["x"] = torch.full((5,), torch.nan)
    with pytest.raises(ArgumentError, match="not finite at rows 3: check"):
        grand(mlp(), rows, stack, **X)


def test_a_model_that_torch_func_cannot_follow_is_named_with_a_way_out():
    reads = Plain(
        lambda m, x: m.body(x) if bool((x > -1e9).all()) else x, body=mlp(), scale=nn.Parameter(torch.ones(1))
    )
    with pytest.raises(ArgumentError, match=r"cannot map over this model .*Take parameters='last_layer'"):
        grand(reads, drawn(), stack, **X)


def test_no_rows_give_no_values():
    assert grand(mlp(), drawn(), stack, rows=np.empty(0, np.int64), **X).shape == (0,)
