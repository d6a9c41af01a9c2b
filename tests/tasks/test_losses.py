"""The losses that stock models lack: one step, however many batches."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from torch.nn import functional
from torch.testing import assert_close

from datadiet.config import FinetuneConfig
from datadiet.data.schema import Dataset
from datadiet.tasks.losses import class_loss, class_weights, multi_label_loss, own_loss, word_loss
from toys import SLOTS, toy_classification, toy_multi_label, toy_tags


def words() -> tuple[dict, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    labels = torch.tensor([[0, 1, -100, 2], [-100, 2, 2, -100], [-100] * 4])
    return {"logits": torch.randn(3, 4, 3, generator=generator)}, labels


def test_words_of_a_step_weigh_the_same_in_any_batches() -> None:
    outputs, labels = words()
    whole = word_loss(outputs, labels)
    assert_close(whole, functional.cross_entropy(outputs["logits"].flatten(0, 1), labels.flatten()))
    parts = [word_loss({"logits": outputs["logits"][row : row + 1]}, labels[row : row + 1], 5) for row in range(3)]
    assert_close(sum(parts), whole)


def test_a_batch_without_a_labelled_word_has_no_loss() -> None:
    outputs, labels = words()
    assert word_loss({"logits": outputs["logits"][2:]}, labels[2:]).item() == 0.0


def test_weights_and_smoothing_of_words() -> None:
    outputs, labels = words()
    weights = torch.tensor([2.0, 1.0, 0.5])
    logits, known = outputs["logits"][labels >= 0], labels[labels >= 0]
    each = functional.cross_entropy(logits, known, weight=weights, label_smoothing=0.1, reduction="none")
    assert_close(word_loss(outputs, labels, weights=weights, label_smoothing=0.1), each.mean())


def test_several_labels_by_hand() -> None:
    logits, labels = torch.tensor([[2.0, -1.0]]), torch.tensor([[1.0, 0.0]])
    plain = multi_label_loss({"logits": logits}, labels)
    assert_close(plain, functional.binary_cross_entropy_with_logits(logits, labels))
    p = logits.sigmoid()
    smooth = -(0.9 * p[0, 0].log() + 0.1 * (1 - p[0, 0]).log() + 0.1 * p[0, 1].log() + 0.9 * (1 - p[0, 1]).log()) / 2
    assert_close(multi_label_loss({"logits": logits}, labels, label_smoothing=0.2), smooth)
    weighted = multi_label_loss({"logits": logits}, labels, weights=torch.tensor([3.0, 7.0]))
    assert_close(weighted, -(3 * p[0, 0].log() + (1 - p[0, 1]).log()) / 2)
    assert_close(multi_label_loss({"logits": logits}, labels, 4), plain / 2)


def classes_of(*labels: str) -> Dataset:
    train = replace(toy_classification(len(labels)), labels=list(labels))
    return Dataset("toy", "classification", {"train": train}, tuple(sorted(set(labels))), (), "0")


def test_class_weights_are_those_of_scikit_learn() -> None:
    from sklearn.utils.class_weight import compute_class_weight

    labels = ["a"] * 5 + ["b"] * 2 + ["c"]
    weights = class_weights(classes_of(*labels))
    assert weights == pytest.approx(compute_class_weight("balanced", classes=np.array(["a", "b", "c"]), y=labels))
    assert np.mean([weights["abc".index(label)] for label in labels]) == pytest.approx(1.0)


def test_weighted_classes_by_hand() -> None:
    loss = own_loss(FinetuneConfig("data", "classification", "run", class_weights="balanced"), classes_of(*"aaab"))
    assert loss is not None
    logits, labels = torch.tensor([[0.0, 0.0], [2.0, 0.0]]), torch.tensor([0, 1])
    by_hand = (4 / 6 * math.log(2) + 4 / 2 * math.log(1 + math.exp(2))) / 2
    assert float(loss({"logits": logits}, labels)) == pytest.approx(by_hand, rel=1e-5)
    assert float(loss({"logits": logits}, labels, num_items_in_batch=8)) == pytest.approx(by_hand / 4, rel=1e-5)


def data_of(task: str) -> Dataset:
    train = toy_tags(60) if task == "token-classification" else toy_multi_label(60)
    labels = () if task == "token-classification" else ("amber", "birch", "cobalt")
    return Dataset("toy", task, {"train": train}, labels, SLOTS if not labels else (), "0")


def test_balanced_weights_follow_the_counts() -> None:
    tags = [tag for found in toy_tags(60).slots for tag in found]
    expected = [len(tags) / (len(SLOTS) * tags.count(name)) for name in SLOTS]
    assert class_weights(data_of("token-classification")) == pytest.approx(expected)
    several = [label for found in toy_multi_label(60).labels for label in found]
    expected = [(60 - several.count(name)) / several.count(name) for name in ("amber", "birch", "cobalt")]
    assert class_weights(data_of("multi-label")) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("task", "options", "expected"),
    [
        ("token-classification", {}, word_loss),
        ("multi-label", {}, None),
        ("multi-label", {"label_smoothing": 0.1}, multi_label_loss),
        ("multi-label", {"class_weights": "balanced"}, multi_label_loss),
        ("classification", {"label_smoothing": 0.1}, None),
        ("classification", {"class_weights": "balanced"}, class_loss),
        ("intent-slot", {"class_weights": "balanced"}, None),  # its model has the weights itself
    ],
)
def test_which_loss_a_run_has(task: str, options: dict, expected) -> None:
    config = FinetuneConfig("data", task, "run", **options)
    data = classes_of(*"aaab") if task in ("classification", "intent-slot") else data_of(task)
    loss = own_loss(config, data)
    assert (loss.func if isinstance(loss, partial) else loss) is expected
