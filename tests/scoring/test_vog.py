"""VoG: golden values, normalisations, against all gradients at once, folders, planted data, bad input."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from datadiet.errors import ArgumentError
from datadiet.scoring.vog import RunningVariance, choose_normalisation, input_gradients, normalised, vog, vog_of
from toys import (
    INTENTS,
    KINDS,
    SLOTS,
    tiny_classifier,
    tiny_intent_slot,
    toy_joint_rows,
    toy_regression_rows,
    toy_rows,
)

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "gradients.json").read_text())["vog"]
RAW = np.array(GOLDEN["raw"])
TWO, THREE = (np.array(GOLDEN[f"labels_{number}_classes"]) for number in ("two", "three"))

# ---- the running variance, and normalisations


def test_golden_streaming():
    running = RunningVariance()
    for gradients in torch.tensor(GOLDEN["gradients"], dtype=torch.float64):
        running.add(gradients)
    values = vog_of(running.variance())
    assert_close(values, torch.tensor(RAW).float(), atol=1e-6, rtol=1e-6)
    assert values[3] == 0  # its gradient never moved
    assert values[2] == values[8]


@pytest.mark.parametrize(
    ("labels", "how", "column"),
    [(TWO, "class", "class_two"), (THREE, "class", "class_three_one_singleton"), (TWO, "dataset", "dataset")],
)
def test_golden_normalised(labels, how, column):
    assert_close(normalised(RAW, labels, how), np.array(GOLDEN[column], np.float32), atol=1e-6, rtol=1e-5)


def test_streaming_equals_all_at_once_also_far_from_zero():
    values = 1e3 + torch.randn(9, 50, generator=torch.Generator().manual_seed(0))
    running = RunningVariance()
    for part in values:
        running.add(part)
    assert_close(running.variance(), values.double().var(0, correction=0).float(), atol=1e-3, rtol=1e-3)
    assert_close(running.mean, values.mean(0))


def test_padding_does_not_dilute():
    short = torch.full((1, 2, 3), 4.0)
    padded = torch.cat([short, torch.zeros(1, 6, 3)], 1)
    mask = torch.tensor([[True] * 2 + [False] * 6])
    assert vog_of(short).item() == vog_of(padded, mask).item() == 2.0
    assert vog_of(padded, torch.zeros(1, 8, dtype=torch.bool)).item() == 0.0


def test_the_choice_goes_by_how_uneven_the_classes_are():
    assert choose_normalisation(np.array([0] * 40 + [1] * 10)) == "class"
    assert choose_normalisation(np.array([0] * 41 + [1] * 10)) == "dataset"
    assert choose_normalisation(None) == "dataset"
    assert np.array_equal(normalised(RAW, None), normalised(RAW, TWO, "dataset"))
    assert_close(normalised(RAW, TWO, "none"), RAW.astype(np.float32))
    assert normalised(np.full(7, 0.1 + 0.2), None, "dataset").tolist() == [0.0] * 7  # not blown up by rounding


# ---- over checkpoints


def classification(kind="bert", rows=9):
    models = [tiny_classifier(3, kind, seed=seed, dropout=0.1).train() for seed in range(3)]
    return models, *toy_rows(rows, kind=kind)


def by_hand(models, item, collate):
    """All gradients of one unpadded example at once, through `inputs_embeds`."""
    batch, gradients = collate([item]), []
    for model in models:
        model.eval()
        embeds = model.get_input_embeddings()(batch["input_ids"]).detach().requires_grad_()
        logits = model(inputs_embeds=embeds, attention_mask=batch["attention_mask"]).logits
        gradients.append(torch.autograd.grad(logits[0, batch["labels"][0]], embeds)[0])
    return float(torch.stack(gradients).std(0, correction=0).mean())


@pytest.mark.proves("vog", by="brute")
@pytest.mark.parametrize("kind", KINDS)
def test_it_is_the_deviation_of_the_gradients_whatever_the_padding(kind):
    models, data, collate = classification(kind)
    result = vog(models, data, collate, normalise="none")
    assert all(model.training for model in models)
    expected = [by_hand(models, data[row], collate) for row in range(len(data))]
    np.testing.assert_allclose(result.raw["label"], expected, rtol=1e-3)
    np.testing.assert_allclose(result.values, expected, rtol=1e-3)
    assert (result.checkpoints, result.normalisation, result.values.dtype) == (3, "none", np.float32)


def test_values_do_not_depend_on_batch_parts_or_where_checkpoints_come_from(tmp_path):
    models, data, collate = classification()
    expected = vog(models, data, collate).values
    for place, model in enumerate(models):
        model.save_pretrained(tmp_path / str(place))
    folders = [tmp_path / str(place) for place in range(3)]
    for options in ({"batch_tokens": 1}, {"rows_at_once": 4}, {"batch_tokens": 10_000, "rows_at_once": 2}):
        np.testing.assert_allclose(vog(models, data, collate, **options).values, expected, rtol=1e-3, atol=1e-4)
    for checkpoints in (folders, iter(models)):
        np.testing.assert_allclose(vog(checkpoints, data, collate).values, expected, rtol=1e-4, atol=1e-5)


def test_rows_and_labels_stay_together_in_any_order():
    """Per class each class has mean 0: it would not if labels were mixed up with rows."""
    models, data, collate = classification(rows=12)
    rows = np.random.default_rng(0).permutation(12)
    every = vog(models, data, collate, normalise="none").values
    np.testing.assert_allclose(vog(models, data, collate, rows=rows, normalise="none").values, every[rows], rtol=1e-4)
    values = vog(models, data, collate, rows=rows, normalise="class", batch_tokens=30).values
    labels = np.array(data["labels"])[rows]
    for label in range(3):
        assert values[labels == label].mean() == pytest.approx(0, abs=1e-5)


def test_uneven_classes_are_normalised_over_the_data_set():
    models, data, collate = classification(rows=15)
    labels = np.array(data["labels"])
    first, second = (np.flatnonzero(labels == label) for label in (0, 1))
    for size, expected in ((4, "class"), (5, "dataset")):
        rows = np.concatenate([first[:1], second[:size]])
        assert vog(models, data, collate, rows=rows).normalisation == expected


def test_each_head_of_a_joint_model_has_its_own_and_a_regression_has_no_classes():
    models = [tiny_intent_slot(INTENTS, SLOTS, seed=seed) for seed in range(3)]
    data, collate = toy_joint_rows(6)
    result = vog(models, data, collate, normalise="none")
    assert set(result.raw) == {"intent", "slots"}
    np.testing.assert_allclose(result.values, (result.raw["intent"] + result.raw["slots"]) / 2, rtol=1e-5)
    assert vog(models, data, collate).normalisation == "class"
    models = [tiny_classifier(1, seed=seed) for seed in range(2)]
    assert vog(models, *toy_regression_rows(6)).normalisation == "dataset"


def test_the_backward_pass_ends_at_the_embeddings_and_equal_checkpoints_have_no_variance():
    models, data, collate = classification()
    batch = collate([data[0], data[1]])
    gradients = input_gradients(models[0], batch, models[0].get_input_embeddings())
    assert gradients["label"].shape == (*batch["input_ids"].shape, 16)
    assert all(parameter.grad is None for parameter in models[0].parameters())
    assert vog([models[0]] * 3, data, collate, normalise="none").values.max() < 1e-6


class Tagger(nn.Module):
    """Counts learned words; the gradient at a word is the weight that the class gives it."""

    def __init__(self, weights):
        super().__init__()
        self.embedding, self.weights = nn.Embedding(6, 2), nn.Parameter(weights)

    def get_input_embeddings(self):
        return self.embedding

    def forward(self, input_ids, attention_mask):
        states = self.embedding(input_ids) * attention_mask.unsqueeze(-1)
        return {"logits": torch.einsum("btd,btcd->bc", states, self.weights[input_ids])}


@pytest.mark.proves("vog", by="planted")
def test_easy_examples_that_repeat_are_the_ones_to_drop():
    """What it is for: easy repeated rows, learned at once, move less than rare ones, and are the first to go."""
    moving = torch.zeros(6, 2, 2)
    moving[4:] = 1.0  # words of the rare rows are still being learned
    checkpoints = [Tagger(torch.ones(6, 2, 2) + step * moving) for step in range(4)]
    rows = [{"input_ids": [1, 2], "labels": 0} for _ in range(8)] + [{"input_ids": [4, 5, 4], "labels": 1}] * 2

    def collate(items):
        width = max(len(item["input_ids"]) for item in items)
        ids = torch.tensor([item["input_ids"] + [0] * (width - len(item["input_ids"])) for item in items])
        labels = torch.tensor([item["labels"] for item in items])
        return {"input_ids": ids, "attention_mask": (ids > 0).long(), "labels": labels}

    values = vog(checkpoints, rows, collate, normalise="dataset").values
    assert set(np.argsort(-values)[:2]) == {8, 9}
    assert np.ptp(values[:8]) < 1e-6


@pytest.mark.parametrize(
    ("checkpoints", "options", "message"),
    [
        (lambda models: models[:1], {}, "at least 2 checkpoints of a run, got 1"),
        (lambda models: iter(models[:1]), {}, "at least 2 checkpoints of a run, got 1"),
        (list, {"normalise": "per_class"}, "unknown normalise 'per_class'"),
        (iter, {"rows_at_once": 2}, "give a list, not an iterator"),
        (list, {"rows": np.empty(0, np.int64)}, "at least one row"),
        (lambda models: [models[0], tiny_classifier(3, hidden=32)], {}, "one model and one order of rows"),
        (lambda _: [nn.Linear(1, 1)] * 2, {}, "the embeddings of Linear are not known"),
        (list, {"embeddings": lambda model: nn.Embedding(2, 2)}, "play no part in the model's forward pass"),
    ],
)
def test_what_is_refused(checkpoints, options, message):
    models, data, collate = classification()
    with pytest.raises(ArgumentError, match=message):
        vog(checkpoints(models), data, collate, **options)


def test_bad_input_of_the_parts():
    running = RunningVariance()
    running.add(torch.zeros(2, 3))
    with pytest.raises(ArgumentError, match=r"one model and one order of rows: .*\(2, 4\) after \(2, 3\)"):
        running.add(torch.zeros(2, 4))
    with pytest.raises(ArgumentError, match="unknown normalisation 'classes'; did you mean 'class'"):
        normalised(RAW, TWO, "classes")
    with pytest.raises(ArgumentError, match="no classes to normalise in; take 'dataset'"):
        normalised(RAW, None, "class")
    with pytest.raises(ArgumentError, match="must be finite; they are not at the places 1"):
        normalised(np.array([0.0, np.nan]), None)
