"""What is read of a saved model, and what is said where it cannot be."""

from __future__ import annotations

import json
import logging

import pytest
from transformers import AutoModel, BertForSequenceClassification
from transformers.utils import logging as hf_logging

from datadiet.errors import ArgumentError, DataError
from datadiet.tasks.loading import load_classifier, load_intent_slot, load_tokenizer
from toys import INTENTS, SLOTS, tiny_model_folder, tiny_tokenizer

NAMES = ("bad", "good", "so-so")


@pytest.fixture
def folder(tmp_path):
    return str(tiny_model_folder(tmp_path))


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


@pytest.mark.parametrize("load", [load_tokenizer, lambda name: load_classifier(name, NAMES)])
@pytest.mark.parametrize("name", ["bert-base-uncased", "nobody/nothing"])
def test_a_hub_name_without_a_network_points_to_a_folder(name, load) -> None:
    with pytest.raises(DataError, match=rf"cannot get the model '{name}' .*hf download NAME --local-dir FOLDER"):
        load(name)


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


def test_a_tokenizer_without_padding_is_refused(tmp_path, folder) -> None:
    tokenizer = tiny_tokenizer("roberta")
    tokenizer.pad_token = None
    source = tmp_path / "tiny-bert"
    tokenizer.save_pretrained(source)
    with pytest.raises(ArgumentError, match="no padding token"):
        load_tokenizer(str(source))
