"""Signals of models without a task, by names and shapes."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoModelForTokenClassification
from transformers.modeling_outputs import CausalLMOutput, SequenceClassifierOutput

from datadiet.errors import ArgumentError
from datadiet.tasks.reading import signals_of
from toys import INTENTS, SLOTS, tiny_batch, tiny_classifier, tiny_config, tiny_intent_slot

CLASSES, WHOLE, NUMBERS, ONE = torch.randn(2, 3), torch.tensor([0, 2]), torch.tensor([0.5, 4.0]), torch.randn(2, 1)


@pytest.mark.parametrize("kind", ["bert", "roberta", "distilbert", "electra"])
@pytest.mark.parametrize("form", [lambda output: output, dict, lambda output: output.to_tuple()])
@pytest.mark.parametrize("name", ["labels", "label"])
def test_stock_classifiers(kind: str, form, name: str) -> None:
    output = tiny_classifier(3, kind)(**tiny_batch(["the amber", "of it"], kind), labels=WHOLE)
    head = signals_of(form(output), {name: WHOLE}).heads["label"]
    assert torch.equal(head.logits, output.logits)
    assert not head.logits.requires_grad
    assert head.mask is None
    assert head.labels.tolist() == [0, 2]


@pytest.mark.parametrize(
    ("logits", "labels"),
    [(ONE, NUMBERS), (ONE[:, 0], NUMBERS), (ONE, NUMBERS[:, None]), (ONE, torch.tensor([1, 4]))],
    ids=["column", "flat", "both columns", "whole numbers"],
)
def test_regression(logits: torch.Tensor, labels: torch.Tensor) -> None:
    head = signals_of(SequenceClassifierOutput(logits=logits), {"labels": labels}).heads["label"]
    assert head.logits.shape == (2, 1)
    assert head.labels.dtype == torch.float32
    assert head.labels.tolist() == labels.flatten().tolist()


def test_taggers() -> None:
    config = tiny_config()
    config.num_labels = 4
    model = AutoModelForTokenClassification.from_config(config).eval()
    labels = torch.tensor([[-100, 3, 1, -100], [-100, 2, -100, -100]])
    output = model(**tiny_batch(["the amber", "of it"]), labels=labels)
    head = signals_of(output, {"labels": labels}).heads["tokens"]
    assert head.mask.tolist() == [[False, True, True, False], [False, True, False, False]]
    assert head.labels.tolist() == [[0, 3, 1, 0], [0, 2, 0, 0]]
    assert labels.min() == -100  # the batch itself is not written to


def test_joint_models() -> None:
    batch = tiny_batch(["play adele", "in lima"])
    labels = {"intent_labels": WHOLE, "slot_labels": torch.full_like(batch["input_ids"], 1)}
    heads = signals_of(tiny_intent_slot(INTENTS, SLOTS)(**batch), labels).heads
    assert {name: tuple(head.logits.shape) for name, head in heads.items()} == {"intent": (2, 3), "slots": (2, 4, 7)}
    assert heads["slots"].mask.all()


@pytest.mark.parametrize(
    ("outputs", "labels", "message"),
    [
        ({"logits": CLASSES}, NUMBERS, r"logits \(2, 3\) and torch.float32 labels \(2,\)"),
        ({"logits": CLASSES}, torch.rand(2, 4), "fit no known task"),
        ({"logits": CLASSES}, torch.tensor([1]), "fit no known task"),
        ({"logits": torch.randn(2, 4, 3)}, torch.zeros(2, 5, dtype=torch.int64), r"\(2, 4, 3\)"),
        ({"hidden": CLASSES}, WHOLE, "has no logits"),
        ((torch.tensor(1.0),), WHOLE, "has no logits"),
        ({"logits": CLASSES, "topic_logits": CLASSES + 1}, WHOLE, r"several heads with logits \(2, 3\)"),
        ((CLASSES, CLASSES + 1), WHOLE, "cannot be told apart"),
        ({"logits": CLASSES}, torch.rand(2, 3), "other than 0 and 1 fit no known task"),
        (CausalLMOutput(logits=torch.randn(2, 4, 3)), torch.zeros(2, 4, dtype=torch.int64), "causal language model"),
        ({"logits": CLASSES}, None, "no labels; it holds input_ids"),
    ],
)
def test_errors_recommend_signals(outputs, labels, message: str) -> None:
    batch = {"input_ids": WHOLE} if labels is None else {"labels": labels}
    with pytest.raises(ArgumentError, match=rf"(?s){message}.*Pass signals=.*\(outputs, batch\)"):
        signals_of(outputs, batch)
