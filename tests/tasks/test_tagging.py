"""Taggers and multi-label models: what is particular to them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from transformers import AutoModelForTokenClassification

from datadiet.data.schema import Examples
from datadiet.errors import ArgumentError
from datadiet.tasks import task_of_saved_model
from datadiet.tasks.loading import load_saved
from datadiet.tasks.sequence import MultiLabelTask
from datadiet.tasks.tagging import TokenClassificationTask
from toys import SLOTS, tiny_intent_slot, tiny_model_folder, tiny_tokenizer

TASK = TokenClassificationTask(SLOTS)


def forward(tmp_path, examples: Examples, max_length: int = 32):
    model = TASK.load_model(str(tiny_model_folder(tmp_path)))
    batch = TASK.collator(tiny_tokenizer())(list(TASK.features(examples, tiny_tokenizer(), max_length=max_length)))
    with torch.inference_mode():
        return model(**batch), batch


def test_a_word_that_was_cut_off_is_outside_and_has_no_probability(tmp_path) -> None:
    examples = Examples(ids=["a"], texts=[""], tokens=[("the", "zyxwv", "play", "in")], slots=[("O",) * 4])
    outputs, batch = forward(tmp_path, examples, max_length=8)
    (found,) = TASK.decode(outputs, batch)
    assert batch["word_positions"].tolist() == [[1, 2, -1, -1]]
    assert batch["labels"].tolist() == [[-100, 6, 6, -100, -100, -100, -100, -100]]
    assert found.slots[2:] == ("O", "O")
    assert np.isnan(found.probabilities[2:]).all()
    assert found.probabilities[:2].sum(axis=1) == pytest.approx([1, 1], abs=1e-6)
    assert (found.label, found.probability) == (None, None)


def test_only_first_sub_tokens_count(tmp_path) -> None:
    examples = Examples(ids=["a"], texts=[""], tokens=[("zyxwv", "in")], slots=[("B-city", "unknown")])
    outputs, batch = forward(tmp_path, examples)
    head = TASK.signals(outputs, batch).heads["tokens"]
    assert head.mask.tolist() == [[False, True, *[False] * 6]]  # a tag that the model does not have counts nothing
    assert torch.isfinite(outputs.loss)


def test_a_saved_tagger_is_a_stock_model(tmp_path) -> None:
    TASK.load_model(str(tiny_model_folder(tmp_path))).save_pretrained(tmp_path / "saved")
    stock = AutoModelForTokenClassification.from_pretrained(tmp_path / "saved").eval()
    assert stock.config.id2label == dict(enumerate(SLOTS))
    inputs = {"input_ids": torch.tensor([[2, 9, 3]]), "attention_mask": torch.ones(1, 3, dtype=torch.long)}
    ours = load_saved(tmp_path / "saved")
    torch.testing.assert_close(ours(**inputs, word_positions=torch.tensor([[1]])).logits, stock(**inputs).logits)


def test_a_joint_model_is_no_tagger(tmp_path) -> None:
    tiny_intent_slot(("a", "b"), SLOTS).save_pretrained(tmp_path / "joint")
    tiny_tokenizer().save_pretrained(tmp_path / "joint")
    for task in (TASK, MultiLabelTask(("a", "b"))):
        with pytest.raises(ArgumentError, match="is a joint intent and slot model"):
            task.load_model(str(tmp_path / "joint"))


def test_multi_label_features_and_predictions(tmp_path) -> None:
    task = MultiLabelTask(("a", "b", "c"))
    examples = Examples(ids=["0", "1"], texts=["the", "of"], labels=[("a", "c"), ("odd",)])
    assert task.features(examples, tiny_tokenizer(), max_length=8)["labels"][:] == [[1.0, 0.0, 1.0], [0.0, 0.0, 0.0]]
    one, none = task.decode({"logits": torch.tensor([[0.0, -1.0, 2.0], [-1.0, -1.0, -1e4]])}, {})
    assert (one.label, none.label) == (("a", "c"), ())
    p = torch.tensor([0.0, 1.0, 2.0]).sigmoid().tolist()
    assert one.probability == pytest.approx(p[0] * p[1] * p[2])
    assert none.probability == pytest.approx(p[1] ** 2)
    task.load_model(str(tiny_model_folder(tmp_path))).save_pretrained(tmp_path / "saved")
    assert task_of_saved_model(tmp_path / "saved") == task
