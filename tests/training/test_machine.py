"""What the machine is, and which precision is fast on it."""

from __future__ import annotations

import json
import platform
from pathlib import Path
from typing import Any

import pytest
import torch

from datadiet.errors import ArgumentError
from datadiet.training import machine
from datadiet.training.machine import PRECISIONS, best_device, cpu_name, environment, fast_at_bf16, resolve_precision

CPU, CUDA, MPS = torch.device("cpu"), torch.device("cuda"), torch.device("mps")


def test_the_device_is_the_accelerator_or_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    assert best_device() == CPU
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: CUDA)
    assert best_device() == CUDA
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: None)
    assert best_device() == CPU


@pytest.mark.parametrize(("avx", "amx", "fast"), [(False, False, False), (True, False, True), (False, True, True)])
def test_cpus_that_are_fast_at_bf16(monkeypatch: pytest.MonkeyPatch, avx: bool, amx: bool, fast: bool) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    assert fast_at_bf16(CPU) is fast
    assert resolve_precision("auto", CPU) == ("bf16" if fast else "fp32")


@pytest.mark.parametrize(("generation", "fast"), [((7, 5), False), ((8, 0), True), ((9, 0), True)])
def test_gpus_that_are_fast_at_bf16(monkeypatch: pytest.MonkeyPatch, generation: tuple[int, int], fast: bool) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: generation)
    assert fast_at_bf16(CUDA) is fast
    assert resolve_precision("auto", CUDA) == ("bf16" if fast else "fp32")


def test_other_devices_stay_at_fp32() -> None:
    assert fast_at_bf16(MPS) is False
    assert resolve_precision("auto", MPS) == "fp32"


@pytest.mark.parametrize(("wanted", "where"), [("fp32", CPU), ("bf16", CPU), ("fp32", CUDA), ("fp16", CUDA)])
def test_what_is_asked_for_is_taken(wanted: str, where: torch.device) -> None:
    assert wanted in PRECISIONS
    assert resolve_precision(wanted, where) == wanted


def test_fp16_needs_a_gpu() -> None:
    with pytest.raises(ArgumentError, match="precision fp16 needs a GPU; use bf16, fp32 or auto"):
        resolve_precision("fp16", CPU)


def test_unknown_precision() -> None:
    with pytest.raises(ArgumentError, match="unknown precision 'bfloat16'; did you mean 'bf16'"):
        resolve_precision("bfloat16", CPU)


@pytest.mark.parametrize(
    ("content", "name"),
    [
        ("processor : 0\nmodel name\t: Fast: One\nmodel name : Fast: One\n", "Fast: One"),
        ("Processor : ARM\n", "fallback"),  # no model name, as on ARM
        (None, "fallback"),  # not Linux
    ],
)
def test_cpu_name(monkeypatch: pytest.MonkeyPatch, content: str | None, name: str) -> None:
    def read(self: Path, **_options: Any) -> str:
        if content is None:
            raise FileNotFoundError(self)
        return content

    monkeypatch.setattr(Path, "read_text", read)
    monkeypatch.setattr(platform, "processor", lambda: "fallback")
    assert cpu_name() == name


def test_environment_is_plain_and_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_REPORTED", ("torch", "no-such-package"))
    found = environment(CPU, "fp32")
    assert json.loads(json.dumps(found)) == found
    assert found["versions"] == {
        "python": platform.python_version(), "torch": torch.__version__, "no-such-package": "unknown",
    }  # fmt: skip
    assert (found["device"], found["precision"]) == ("cpu", "fp32")
    assert found["threads"] == torch.get_num_threads()
    assert found["cpu"]


def test_environment_names_the_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _device: "Fast GPU")
    assert environment(CUDA, "bf16")["device"] == "Fast GPU"


def test_everything_is_reported_by_default() -> None:
    versions = environment(CPU, "fp32")["versions"]
    assert set(versions) == {"python", "datadiet", "torch", "transformers", "accelerate", "datasets", "numpy"}
    assert "unknown" not in versions.values()
