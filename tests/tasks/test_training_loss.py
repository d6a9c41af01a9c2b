"""Class weights, and the loss that takes them."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from datadiet.data.schema import Dataset
from datadiet.tasks.losses import class_weights, weighted_loss
from toys import toy_classification, toy_config


def test_class_weights_are_those_of_scikit_learn() -> None:
    from sklearn.utils.class_weight import compute_class_weight

    labels = ["a"] * 5 + ["b"] * 2 + ["c"]
    train = replace(toy_classification(8), labels=labels)
    found = class_weights(Dataset("toy", "classification", {"train": train}, ("a", "b", "c"), (), "0"))
    assert found == pytest.approx(compute_class_weight("balanced", classes=np.array(["a", "b", "c"]), y=labels))
    assert np.mean([found["abc".index(label)] for label in labels]) == pytest.approx(1.0)


def test_weighted_loss_by_hand() -> None:
    train = replace(toy_classification(4), labels=["a", "a", "a", "b"])
    data = Dataset("toy", "classification", {"train": train}, ("a", "b"), (), "0")
    config = replace(toy_config(Path(), data="d", model="m"), class_weights="balanced")
    loss = weighted_loss(config, data)
    assert loss is not None
    logits, labels = torch.tensor([[0.0, 0.0], [2.0, 0.0]]), torch.tensor([0, 1])
    first, second = math.log(2), math.log(1 + math.exp(2))
    by_hand = (4 / 6 * first + 4 / 2 * second) / 2
    assert float(loss({"logits": logits}, labels)) == pytest.approx(by_hand, rel=1e-5)
    assert float(loss({"logits": logits}, labels, num_items_in_batch=8)) == pytest.approx(by_hand / 4, rel=1e-5)
    assert weighted_loss(replace(config, class_weights=None), data) is None
    assert weighted_loss(replace(config, task="intent-slot"), data) is None  # its model has the weights itself
