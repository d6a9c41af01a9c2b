"""Influence and effort: golden values, the definition on small models, true retraining, planted rows, bad input."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from benchmarks.byte_lm import byte_tokenizer, config_of
from scipy.stats import spearmanr
from torch import nn
from torch.nn import functional
from transformers import AutoModelForCausalLM

from datadiet.errors import ArgumentError
from datadiet.scoring.gradients import answer_losses
from datadiet.scoring.grand import grand
from datadiet.scoring.influence import conjugate_gradients, effort, influence
from datadiet.tasks.base import Collator, as_dataset
from datadiet.types import IGNORED
from toys import (
    INTENTS,
    SLOTS,
    _seeded,
    from_x,
    mlp,
    norm_alone,
    only_x,
    rows_of,
    stack,
    tiny_classifier,
    tiny_intent_slot,
    toy_joint_rows,
    toy_rows,
    weights,
)

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "influence.json").read_text())


def logistic(outputs, batch):
    return functional.binary_cross_entropy_with_logits(outputs.squeeze(-1), batch["labels"], reduction="none")


def golden():
    x, y = (torch.tensor(GOLDEN[name], dtype=torch.float64) for name in "Xy")
    model = nn.Linear(5, 1, bias=False).double()
    with torch.no_grad():
        model.weight.copy_(torch.tensor([GOLDEN["theta"]]))
    return model, rows_of({"x": x, "labels": y})


LOGISTIC = {"loss": logistic, "inputs": only_x, "parameters": "all"}


@pytest.mark.proves("influence", by="golden")
@pytest.mark.parametrize("solver", ["cg", "exact"])
@pytest.mark.parametrize("damping", ["1e-12", "0.01", "0.25"])
def test_golden_logistic_regression(damping, solver):
    """The Gauss-Newton matrix of a linear model is its Hessian."""
    model, rows = golden()
    found = influence(
        model, rows, stack, damping=float(damping), solver=solver, batch_size=5, tolerance=1e-9, **LOGISTIC
    )
    np.testing.assert_allclose(found.values, GOLDEN["influence"][damping], atol=1e-7)
    assert found.residual < 1e-6
    assert (found.solver, found.parameters) == (solver, 5)


def test_golden_damping_of_the_published_code_is_a_ridge_of_a_quarter():
    model, rows = golden()
    ours, theirs = influence(model, rows, stack, **LOGISTIC).values, np.array(GOLDEN["reference_limit"])
    np.testing.assert_allclose(ours * theirs.sum() / ours.sum(), theirs, rtol=1e-4, atol=1e-4)


def dense_curvature(model, rows, fisher):
    """Gauss-Newton matrix or Fisher, gradients and mean gradient, row by row by autograd."""
    parameters = list(model.parameters())

    def flat(value, **options):
        parts = torch.autograd.grad(value, parameters, retain_graph=True, **options)
        return torch.cat([part.flatten() for part in parts])

    size = sum(parameter.numel() for parameter in parameters)
    matrix, found = torch.zeros(size, size, dtype=torch.float64), []
    for row in rows:
        logits = model(row["x"][None])[0]
        found.append(flat(from_x(logits[None], {"labels": row["labels"][None]})[0]))
        p = logits.softmax(-1).detach()
        jacobian = torch.stack([flat(logit) for logit in logits])
        curved = torch.diag(p) - torch.outer(p, p)
        matrix += torch.outer(found[-1], found[-1]) if fisher else jacobian.T @ curved @ jacobian
    each = torch.stack(found)
    return matrix / len(rows), each, each.mean(0)


@pytest.mark.proves("influence", by="brute")
@pytest.mark.parametrize("curvature", ["gauss_newton", "fisher"])
@pytest.mark.parametrize("solver", ["cg", "exact"])
def test_conjugate_gradients_and_the_exact_solution_are_that_of_linalg(curvature, solver):
    torch.manual_seed(0)
    model, x = mlp().double(), torch.randn(30, 5, dtype=torch.float64)
    rows = rows_of({"x": x, "labels": torch.arange(30) % 3})
    matrix, each, mean = dense_curvature(model, rows, curvature == "fisher")
    inverse = torch.linalg.inv(matrix + 0.1 * torch.eye(len(matrix)))
    vector = inverse @ mean
    options = {"parameters": "all", "loss": from_x, "inputs": only_x, "damping": 0.1, "iterations": 200}
    found = influence(model, rows, stack, curvature=curvature, solver=solver, tolerance=1e-10, batch_size=7, **options)
    np.testing.assert_allclose(found.values * 900, each @ vector, rtol=1e-5, atol=1e-7)
    # the symmetric property: one solution for all rows, or one for each
    np.testing.assert_allclose(
        found.values * 900, torch.stack([mean @ inverse @ row for row in each]), rtol=1e-5, atol=1e-7
    )
    assert found.residual < 1e-8


def test_conjugate_gradients_report_what_is_left():
    matrix = np.diag(np.logspace(0, 4, 50))
    right = np.ones(50)
    _, residual, steps = conjugate_gradients(lambda x: matrix @ x, right, 5, 1e-9)
    assert steps == 5
    assert residual > 0.1
    solved, residual, _ = conjugate_gradients(lambda x: matrix @ x, right, 500, 1e-9)
    assert residual < 1e-8
    np.testing.assert_allclose(solved, np.linalg.solve(matrix, right), rtol=1e-6)


def optimum(x, y, ridge, left_out=None):
    """The weights of a logistic regression with a ridge; one row may be left out (its loss, not its share)."""
    keep = torch.ones(len(x), dtype=torch.float64)
    if left_out is not None:
        keep[left_out] = 0
    theta = torch.zeros(x.shape[1], dtype=torch.float64)
    for _ in range(30):
        p = (x @ theta).sigmoid()
        gradient = x.T @ (keep * (p - y)) / len(x) + ridge * theta
        curved = (x * (keep * p * (1 - p))[:, None]).T @ x / len(x) + ridge * torch.eye(x.shape[1])
        theta -= torch.linalg.solve(curved, gradient)
    return theta


@pytest.mark.proves("influence", by="brute")
@pytest.mark.parametrize("target", ["train", "dev"])
def test_it_predicts_what_retraining_without_each_row_does(target):
    """60 retrainings; the change of the mean loss, of the data themselves and of other data."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(90, 6, generator=generator, dtype=torch.float64)
    y = (
        x @ torch.randn(6, generator=generator, dtype=torch.float64) + torch.randn(90, generator=generator) > 0
    ).double()
    ridge, train, dev = 0.05, slice(0, 60), slice(60, 90)
    aim = train if target == "train" else dev

    def risk(theta):
        return float(functional.binary_cross_entropy_with_logits(x[aim] @ theta, y[aim]))

    whole = optimum(x[train], y[train], ridge)
    true = [risk(optimum(x[train], y[train], ridge, row)) - risk(whole) for row in range(60)]
    model = nn.Linear(6, 1, bias=False).double()
    with torch.no_grad():
        model.weight.copy_(whole[None])
    rows = rows_of({"x": x, "labels": y})
    found = influence(
        model, rows[train], stack, target=None if target == "train" else rows[dev], damping=ridge, **LOGISTIC
    )
    assert spearmanr(found.values, true).statistic > 0.95


@pytest.mark.proves("influence", "effort", by="planted")
def test_flipped_labels_are_extreme():
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(200, 8, generator=generator, dtype=torch.float64)
    clean = (x @ torch.ones(8, dtype=torch.float64) > 0).double()
    y = clean.clone()
    y[:10] = 1 - y[:10]
    model = nn.Linear(8, 1, bias=False).double()
    with torch.no_grad():
        model.weight.copy_(optimum(x, y, 0.01)[None])
    rows, dev = rows_of({"x": x, "labels": y}), rows_of({"x": x[100:], "labels": clean[100:]})
    found = influence(model, rows, stack, target=dev, damping=0.01, **LOGISTIC).values
    assert (found[:10] < 0).sum() >= 9  # harmful to clean rows
    assert (found[10:] > 0).mean() > 0.6
    assert np.isin(np.argsort(found)[:10], np.arange(10)).sum() >= 8
    efforts = effort(model, rows, stack, loss=logistic, inputs=only_x)
    assert np.isin(np.argsort(-efforts)[:10], np.arange(10)).sum() >= 6
    twice = [*rows, rows[3]]
    assert np.ptp(influence(model, twice, stack, damping=0.01, **LOGISTIC).values[[3, -1]]) < 1e-9


# ---- transformers


def heads_of(model, names):
    return lambda name: name.startswith(names)


@pytest.mark.parametrize("kind", ["classification", "joint"])
@pytest.mark.parametrize("curvature", ["gauss_newton", "fisher"])
def test_the_last_layer_alone_gives_what_the_whole_model_gives(kind, curvature):
    if kind == "joint":
        model, (data, collate) = tiny_intent_slot(INTENTS, SLOTS, alpha=0.7), toy_joint_rows(8)
        names = ("intent_head", "slot_head")
    else:
        model, (data, collate), names = tiny_classifier(3), toy_rows(12), ("classifier",)
    options = {"curvature": curvature, "damping": 0.5, "tolerance": 1e-6, "solver": "cg"}
    by_heads = influence(model, data, collate, batch_tokens=40, **options)
    whole = influence(model, data, collate, parameters=heads_of(model, names), **options)
    np.testing.assert_allclose(by_heads.values, whole.values, rtol=2e-3, atol=1e-6)
    built = influence(model, data, collate, **{**options, "solver": "exact"})
    np.testing.assert_allclose(built.values, whole.values, rtol=2e-3, atol=1e-6)
    assert (
        built.parameters
        == by_heads.parameters
        == sum(parameter.numel() for name, parameter in model.named_parameters() if name.startswith(names))
    )


def lm(shape="llama-0.1m"):
    return _seeded(0, lambda: AutoModelForCausalLM.from_config(config_of(shape)))


def answers(count=6):
    """Prompts and answers of unlike lengths, as the task makes them."""
    rows = []
    for row in range(count):
        prompt, answer = [40 + row] * (2 + row % 3), [50 + (row * token) % 90 for token in range(2 + row)]
        labels = [IGNORED] * len(prompt) + answer
        rows.append({"input_ids": prompt + answer, "attention_mask": [1] * len(labels), "labels": labels})
    return as_dataset([{name: [row[name] for row in rows] for name in rows[0]}]), Collator(
        {"input_ids": byte_tokenizer().pad_token_id, "attention_mask": 0, "labels": IGNORED}, {}
    )


def with_adapter(model):
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    adapter = LoraConfig(r=2, lora_alpha=4, target_modules="all-linear", init_lora_weights=False, task_type="CAUSAL_LM")
    return get_peft_model(model, adapter).eval()


@pytest.mark.proves("effort", by="library")
@pytest.mark.parametrize(("shape", "adapter"), [("llama-0.1m", False), ("llama-0.1m", True), ("gpt2-0.2m", False)])
def test_effort_of_a_language_model_is_the_norm_of_the_loss_of_its_answer(shape, adapter):
    """Batches of one and of several, padding and the labels of the prompt change nothing."""
    model, (data, collate), expected = lm(shape), answers(), []
    model = with_adapter(model) if adapter else model
    names = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert all("lora_" in name for name in names) is adapter
    for row in range(len(data)):
        batch = collate([data[row]])
        expected.append(norm_alone(model, model(**batch).loss, names))
    model.train()  # as after training
    for tokens in (1, 400):
        np.testing.assert_allclose(effort(model, data, collate, batch_tokens=tokens), expected, rtol=2e-4)
    assert model.training


def test_effort_is_grand_over_the_weights_that_train():
    model, (data, collate) = tiny_classifier(3), toy_rows(6)
    np.testing.assert_array_equal(effort(model, data, collate), grand(model, data, collate))


@pytest.mark.parametrize("adapter", [False, True], ids=["last_layer", "lora"])
def test_influence_of_a_language_model(adapter):
    """By definition, over few weights: the adapters of one layer, or the output layer."""
    model, (data, collate) = lm(), answers()
    if adapter:
        model = with_adapter(model)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_("layers.0.self_attn.v_proj.lora_" in name)
    else:
        model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach().clone())
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name == "lm_head.weight")
    chosen = [parameter for parameter in model.parameters() if parameter.requires_grad]
    each = []
    for row in range(len(data)):
        parts = torch.autograd.grad(model(**collate([data[row]])).loss, chosen)
        each.append(torch.cat([part.flatten() for part in parts]).double())
    each = torch.stack(each)
    gram = each @ each.T / len(each)  # the Fisher, seen from the rows: (G^T G / n + d)^-1 G^T = G^T (G G^T / n + d)^-1
    weights_of_rows = torch.linalg.solve(
        gram + 0.3 * torch.eye(len(each)), torch.full((len(each),), 1 / len(each)).double()
    )
    expected = each @ (each.T @ weights_of_rows) / len(each) ** 2
    found = influence(
        model, data, collate, curvature="fisher", solver="cg", damping=0.3, tolerance=1e-6, batch_tokens=30
    )
    np.testing.assert_allclose(found.values, expected, rtol=1e-3, atol=1e-6)
    newton = influence(model, data, collate, damping=0.3, batch_tokens=30)
    assert newton.solver == "cg"  # the logits of an answer are too many to build
    assert newton.residual < 1e-3
    assert spearmanr(newton.values, found.values).statistic > 0.5


def test_the_loss_of_an_answer_is_that_of_transformers():
    model, (data, collate) = lm(), answers()
    for row in range(len(data)):
        batch = collate([data[row]])
        outputs = model(**batch)
        torch.testing.assert_close(answer_losses(outputs, batch)[0], outputs.loss)


def test_a_sample_stands_for_the_curvature_of_many_rows():
    torch.manual_seed(0)
    model, x = mlp(), torch.randn(300, 5)
    rows = rows_of({"x": x, "labels": torch.arange(300) % 3})
    options = {"parameters": "all", "loss": from_x, "inputs": only_x}
    whole, part, again = (influence(model, rows, stack, sample=size, **options).values for size in (300, 100, 100))
    assert not np.array_equal(whole, part)
    np.testing.assert_array_equal(part, again)
    assert spearmanr(whole, part).statistic > 0.95
    before = weights(model)
    influence(model, rows[:5], stack, **options)
    torch.testing.assert_close(before, weights(model), rtol=0, atol=0)


def test_bad_input():
    model, rows = golden()
    with pytest.raises(ArgumentError, match=r"damping must be above 0 and finite, got 0\."):
        influence(model, rows, stack, damping=0, **LOGISTIC)
    with pytest.raises(ArgumentError, match="iterations must be a whole number, at least 1, got 0"):
        influence(model, rows, stack, iterations=0, **LOGISTIC)
    with pytest.raises(ArgumentError, match="a target with at least one example"):
        influence(model, rows, stack, target=[], **LOGISTIC)
    with pytest.raises(ArgumentError, match="needs a last linear layer"):
        influence(mlp(), rows, stack)
    with pytest.raises(ArgumentError, match="parameters='lora' needs a model with adapters that train"):
        influence(model, rows, stack, **{**LOGISTIC, "parameters": "lora"})

    class Loss(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(5, 1, bias=False).double()

        def forward(self, x):
            return {"own": self.layer(x)}

    own = {**LOGISTIC, "loss": lambda outputs, batch: logistic(outputs["own"], batch)}
    with pytest.raises(ArgumentError, match=r"dict has no logits, .*take curvature='fisher'"):
        influence(Loss(), rows, stack, **own)
    assert influence(Loss(), rows, stack, curvature="fisher", **own).residual < 1e-6
    broken = [{**rows[0], "x": rows[0]["x"] * torch.nan}, *rows[1:]]
    with pytest.raises(ArgumentError, match="not finite"):
        influence(model, broken, stack, **LOGISTIC)
