"""The bundle for a machine that can fetch nothing."""

from __future__ import annotations

import tarfile
import zipfile
from pathlib import Path

import pytest
import torch
from benchmarks.gpu import pack
from safetensors.torch import load_file
from transformers import AutoModel

from toys import tiny_model_folder


def test_a_package_comes_from_a_wheel_or_else_from_here(tmp_path: Path) -> None:
    (tmp_path / "wheels").mkdir()
    with zipfile.ZipFile(tmp_path / "wheels" / "click-9.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("click/__init__.py", "other = True")
    pack.pack_site(["click", "seqeval"], tmp_path / "wheels", tmp_path / "site")
    assert (tmp_path / "site" / "click" / "__init__.py").read_text() == "other = True"
    assert (tmp_path / "site" / "seqeval" / "metrics" / "sequence_labeling.py").is_file()


def test_a_compiled_package_needs_a_wheel(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="numpy is compiled for this Python"):
        pack.pack_site(["numpy"], None, tmp_path / "site")


def test_the_model_travels_as_bf16_and_is_loaded_as_fp32(tmp_path: Path) -> None:
    source = tiny_model_folder(tmp_path)
    pack.pack_model(str(source), tmp_path / "model")
    weights, before = load_file(tmp_path / "model" / "model.safetensors"), load_file(source / "model.safetensors")
    assert {value.dtype for value in weights.values() if value.is_floating_point()} == {torch.bfloat16}
    loaded = AutoModel.from_pretrained(tmp_path / "model")
    assert loaded.dtype == torch.float32
    name, value = next(iter(before.items()))
    assert torch.allclose(weights[name].float(), value, rtol=1e-2)


def test_the_bundle_has_all_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr(pack, "pack_project", lambda folder: folder.mkdir())
    (tmp_path / "data" / "toy").mkdir(parents=True)
    model = ["--model", str(tiny_model_folder(tmp_path)), "--packages", "seqeval"]
    arguments = [str(tmp_path / "out"), "--data-root", str(tmp_path / "data"), "--sets", "toy,none", *model]
    pack.main(arguments)
    with tarfile.open(tmp_path / "out" / "bundle.tar.xz") as bundle:
        names = bundle.getnames()
    assert {name.partition("/")[0] for name in names} == {"data", "model", "project", "site"}
    assert "data/toy" in names
    assert (tmp_path / "out" / "run.sh").is_file()
    assert "none left out" in capsys.readouterr().out
    monkeypatch.setattr(pack, "LIMIT_MIB", 0)
    with pytest.raises(SystemExit, match="too large"):
        pack.main(arguments)
