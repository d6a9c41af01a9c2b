"""Models with the head of their task, new and saved."""

from __future__ import annotations

import json

import pytest
import torch
from transformers import AutoModel

from datadiet.errors import ArgumentError, DataError
from datadiet.tasks.loading import load_classifier, load_intent_slot, load_saved, load_tokenizer
from toys import INTENTS, KINDS, SLOTS, tiny_batch, tiny_intent_slot, tiny_model_folder, tiny_tokenizer

NAMES = ("bad", "good", "so-so")


@pytest.fixture
def folder(tmp_path):
    return str(tiny_model_folder(tmp_path))


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_gives_its_weights_and_tokenizer(tmp_path, kind) -> None:
    source = str(tiny_model_folder(tmp_path, kind))
    encoder = AutoModel.from_pretrained(source)
    joint = load_intent_slot(source, INTENTS, SLOTS)
    stock = load_classifier(source, NAMES)
    assert weights_equal(encoder, joint.encoder, but="pooler")
    assert weights_equal(encoder, stock.base_model, but="pooler")
    assert not joint.training
    assert not stock.training
    text = "play adele zyxwv"
    assert load_tokenizer(source)(text)["input_ids"] == tiny_tokenizer(kind)(text)["input_ids"]


def weights_equal(first, second, but: str = "no such weight") -> bool:
    ours, theirs = first.state_dict(), second.state_dict()
    shared = {name for name in ours if but not in name}
    return bool(shared) and all(torch.equal(ours[name], theirs[name]) for name in shared)


def test_label_names_and_problem_are_kept(folder, tmp_path) -> None:
    classifier, regressor = load_classifier(folder, NAMES), load_classifier(folder, (), problem="regression")
    assert classifier.config.id2label == dict(enumerate(NAMES))
    assert classifier.config.label2id["so-so"] == 2
    assert (regressor.config.num_labels, regressor.config.problem_type) == (1, "regression")
    regressor.save_pretrained(tmp_path / "saved")
    assert load_saved(tmp_path / "saved").config.problem_type == "regression"


def test_a_saved_classifier_comes_back_with_equal_logits(folder, tmp_path) -> None:
    model = load_classifier(folder, NAMES)
    model.save_pretrained(tmp_path / "saved")
    batch = tiny_batch(["the amber", "of and it was"])
    assert torch.equal(model(**batch).logits, load_saved(tmp_path / "saved")(**batch).logits)


def test_a_head_with_another_number_of_labels_is_renewed(folder, tmp_path) -> None:
    load_classifier(folder, NAMES).save_pretrained(tmp_path / "saved")
    assert load_classifier(str(tmp_path / "saved"), ("no", "yes")).classifier.out_features == 2


def test_half_precision_files_are_trained_in_float32(folder, tmp_path) -> None:
    load_classifier(folder, NAMES).to(torch.bfloat16).save_pretrained(tmp_path / "half")
    assert load_classifier(str(tmp_path / "half"), NAMES).dtype == torch.float32


def test_a_saved_joint_model_goes_on_with_its_heads_if_the_names_are_the_same(tmp_path) -> None:
    tiny_intent_slot(INTENTS, SLOTS).save_pretrained(tmp_path)
    saved = load_saved(tmp_path)
    same = load_intent_slot(str(tmp_path), INTENTS, SLOTS, alpha=0.9)
    other = load_intent_slot(str(tmp_path), INTENTS[:2], SLOTS)
    assert weights_equal(saved, same)
    assert same.config.alpha == 0.9
    assert weights_equal(saved.encoder, other.encoder)
    assert other.intent_head.out_features == 2


def test_new_heads_follow_the_seed(folder) -> None:
    heads = []
    for _ in range(2):
        torch.manual_seed(5)
        heads.append(load_intent_slot(folder, INTENTS, SLOTS).slot_head.weight)
    assert torch.equal(*heads)


def test_an_encoder_is_no_fine_tuned_model(folder) -> None:
    with pytest.raises(DataError, match=r"is not a fine-tuned model: it has no weights for classifier\.bias"):
        load_saved(folder)


def test_models_for_another_task(tmp_path, folder) -> None:
    tiny_intent_slot(INTENTS, SLOTS).save_pretrained(tmp_path / "joint")
    with pytest.raises(ArgumentError, match="--task intent-slot"):
        load_classifier(str(tmp_path / "joint"), NAMES)
    (tmp_path / "t5").mkdir()
    (tmp_path / "t5" / "config.json").write_text(json.dumps({"model_type": "t5"}))
    with pytest.raises(ArgumentError, match="encoder-decoder"):
        load_intent_slot(str(tmp_path / "t5"), INTENTS, SLOTS)
