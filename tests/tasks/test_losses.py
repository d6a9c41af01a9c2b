"""The losses that stock models lack: one step, however many batches."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight
from torch import distributed, nn
from torch.nn import functional
from torch.testing import assert_close

from datadiet.config import FinetuneConfig
from datadiet.data.schema import Dataset
from datadiet.tasks.losses import class_loss, class_weights, multi_label_loss, own_loss, trace, word_loss
from toys import KEYWORDS, SLOTS, TOYS, toy_classification

LOGITS = {"logits": torch.randn(3, 4, 3, generator=torch.Generator().manual_seed(0))}
LABELS = torch.tensor([[0, 1, -100, 2], [-100, 2, 2, -100], [-100] * 4])


def test_words_of_a_step_weigh_the_same_in_any_batches() -> None:
    whole = word_loss(LOGITS, LABELS)
    assert_close(whole, functional.cross_entropy(LOGITS["logits"].flatten(0, 1), LABELS.flatten()))
    rows = [({"logits": LOGITS["logits"][row : row + 1]}, LABELS[row : row + 1]) for row in range(3)]
    assert_close(sum(word_loss(*row, 5) for row in rows), whole)
    assert word_loss(*rows[2]).item() == 0.0  # no labelled word


def test_weights_and_smoothing_of_words() -> None:
    options = {"label_smoothing": 0.1}
    weights, counted = torch.tensor([2.0, 1.0, 0.5]), LABELS >= 0
    each = functional.cross_entropy(LOGITS["logits"][counted], LABELS[counted], weights, reduction="none", **options)
    assert_close(word_loss(LOGITS, LABELS, weights=weights, **options), each.mean())


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


def data_of(task: str, *labels: str) -> Dataset:
    """The task's toys, or sentences with these labels."""
    if labels:
        train = replace(toy_classification(len(labels)), labels=list(labels))
        return Dataset("toy", task, {"train": train}, tuple(sorted(set(labels))), (), "0")
    return Dataset("toy", task, {"train": TOYS[task].make(60)}, KEYWORDS[:3], SLOTS, "0")


def test_class_weights_are_those_of_scikit_learn() -> None:
    labels = ["a"] * 5 + ["b"] * 2 + ["c"]
    weights = class_weights(data_of("classification", *labels))
    assert weights == pytest.approx(compute_class_weight("balanced", classes=np.array(["a", "b", "c"]), y=labels))
    assert np.mean([weights["abc".index(label)] for label in labels]) == pytest.approx(1.0)


def test_weights_of_tags_and_of_sets_follow_the_counts() -> None:
    data = data_of("token-classification")
    tags = [tag for example in data.splits["train"].slots for tag in example]
    assert class_weights(data) == pytest.approx([len(tags) / (len(SLOTS) * tags.count(name)) for name in SLOTS])
    data = data_of("multi-label")
    labels = [label for example in data.splits["train"].labels for label in example]
    counts = [labels.count(name) for name in data.label_names]
    assert class_weights(data) == pytest.approx([(60 - count) / count for count in counts])


def test_weighted_classes_by_hand() -> None:
    config = FinetuneConfig("data", "classification", "run", class_weights="balanced")
    loss = own_loss(config, data_of("classification", *"aaab"))
    logits, labels = torch.tensor([[0.0, 0.0], [2.0, 0.0]]), torch.tensor([0, 1])
    by_hand = (4 / 6 * math.log(2) + 4 / 2 * math.log(1 + math.exp(2))) / 2
    assert float(loss({"logits": logits}, labels)) == pytest.approx(by_hand, rel=1e-5)
    assert float(loss({"logits": logits}, labels, num_items_in_batch=8)) == pytest.approx(by_hand / 4, rel=1e-5)


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
def test_the_loss_of_a_run(task: str, options: dict, expected) -> None:
    data = data_of(task, *("aaab" if task == "classification" else ""))
    loss = own_loss(FinetuneConfig("data", task, "run", **options), data)
    assert (loss.func if isinstance(loss, partial) else loss) is expected


@pytest.mark.parametrize("inside", [True, False])
def test_a_loss_is_traced_through_a_model_wrapped_for_several_processes(tmp_path, inside) -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(4, 1)

        def forward(self, inputs, labels):
            hidden = inputs * 2
            logits = self.head(hidden)
            loss = functional.binary_cross_entropy_with_logits(logits[:, 0], labels)
            return {"hidden": hidden, "loss": loss, "logits": logits}

    labels = torch.tensor([0.0, 1.0, 1.0])
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        model = nn.parallel.DistributedDataParallel(Model(), find_unused_parameters=True)
        outputs = model(torch.randn(3, 4), labels)
        loss = outputs["loss"] if inside else (outputs["logits"][:, 0] - labels).square().mean()
        found = trace(loss, outputs["logits"])
    finally:
        distributed.destroy_process_group()
    assert found.link == ("sigmoid" if inside else "identity")
    assert found.final
