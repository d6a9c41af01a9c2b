"""Tasks of whole texts: labels, limits and padding that are their own."""

from __future__ import annotations

import pytest
import torch

from datadiet.data.schema import Examples
from datadiet.errors import ArgumentError
from datadiet.tasks.sequence import ClassificationTask, MultiLabelTask, RegressionTask
from toys import tiny_tokenizer

TASK = ClassificationTask(("amber", "birch"))


def features(*texts: str, task=TASK, labels=None, max_length: int = 16):
    examples = Examples(ids=[str(row) for row in range(len(texts))], texts=texts, labels=labels)
    return task.features(examples, tiny_tokenizer(), max_length=max_length)


def test_labels_the_model_does_not_have_are_left_out_of_the_loss() -> None:
    assert features("the", "of", labels=["amber", "unseen"])["labels"][:] == [0, -100]
    several = features("the", "of", task=MultiLabelTask(("a", "b", "c")), labels=[("a", "c"), ("odd",)])
    assert several["labels"][:] == [[1.0, 0.0, 1.0], [0.0, 0.0, 0.0]]


def test_the_models_own_limit_bounds_max_length() -> None:
    assert features("the " * 200, max_length=999)["length"][:] == [64]


def test_padding_follows_the_tokenizers_side() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.padding_side = "left"
    batch = TASK.collator(tokenizer)(list(features("the", "the of and")))
    assert batch["attention_mask"].tolist() == [[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]]


def test_a_tokenizer_without_padding_is_refused() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.pad_token = None
    with pytest.raises(ArgumentError, match="no padding token"):
        RegressionTask().collator(tokenizer)


def test_a_set_of_labels_has_the_probability_of_exactly_these() -> None:
    logits = torch.tensor([[0.0, -1.0, 2.0], [-1.0, -1.0, -1e4]])
    one, none = MultiLabelTask(("a", "b", "c")).decode({"logits": logits}, {})
    assert (one.label, none.label) == (("a", "c"), ())
    p = torch.tensor([0.0, 1.0, 2.0]).sigmoid().tolist()
    assert one.probability == pytest.approx(p[0] * p[1] * p[2])
    assert none.probability == pytest.approx(p[1] ** 2)
