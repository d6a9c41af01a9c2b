"""The machine of a run: device, precision, versions, and the energy by a made-up tracker and by one real run."""

from __future__ import annotations

import json
import os
import platform
import socket
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from datadiet.errors import ArgumentError, MissingExtraError
from datadiet.jobs import finetune as run_trainer
from datadiet.jobs.finetune import finetune, resume_run
from datadiet.training import machine
from datadiet.training.machine import (
    CARRIED,
    EnergyMeter,
    best_device,
    cpu_name,
    environment,
    fast_at_bf16,
    metered,
    resolve_precision,
)
from toys import Heard, Killed, toy_config

CPU, CUDA, MPS = torch.device("cpu"), torch.device("cuda"), torch.device("mps")


def test_the_device_is_the_accelerator_or_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    for available, current, expected in ((False, CUDA, CPU), (True, CUDA, CUDA), (True, None, CPU)):
        monkeypatch.setattr(torch.accelerator, "is_available", lambda available=available: available)
        monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda current=current: current)
        assert best_device() == expected


@pytest.mark.cpu
def test_a_test_that_needs_the_cpu_sees_no_gpu() -> None:
    assert best_device() == CPU
    assert not torch.cuda.is_available()
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ""


@pytest.mark.parametrize(
    ("device", "generation", "avx", "amx", "fast"),
    [
        (CPU, None, False, False, False), (CPU, None, True, False, True), (CPU, None, False, True, True),
        (CUDA, (7, 5), True, True, False), (CUDA, (8, 0), False, False, True), (CUDA, (9, 0), False, False, True),
        (MPS, None, True, True, False),
    ],
)  # fmt: skip
def test_devices_that_are_fast_at_bf16(monkeypatch, device, generation, avx, amx, fast) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx)
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: generation)
    assert fast_at_bf16(device) is fast
    assert resolve_precision("auto", device) == ("bf16" if fast else "fp32")


def test_a_given_precision_is_checked_and_taken() -> None:
    for precision, device in (("fp32", CPU), ("bf16", CPU), ("fp32", CUDA), ("fp16", CUDA)):
        assert resolve_precision(precision, device) == precision
    with pytest.raises(ArgumentError, match="precision fp16 needs a GPU; use bf16, fp32 or auto"):
        resolve_precision("fp16", CPU)
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
    facts = environment(CPU, "fp32")
    assert json.loads(json.dumps(facts)) == facts
    assert set(facts["versions"]) == {"python", "datadiet", "torch", "transformers", "accelerate", "datasets", "numpy"}
    assert "unknown" not in facts["versions"].values()
    assert (facts["device"], facts["precision"], facts["threads"]) == ("cpu", "fp32", torch.get_num_threads())
    assert facts["cpu"]
    monkeypatch.setattr(machine, "_REPORTED", ("torch", "no-such-package"))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _device: "Fast GPU")
    facts = environment(CUDA, "bf16")
    assert facts["device"] == "Fast GPU"
    versions = {"python": platform.python_version(), "torch": torch.__version__, "no-such-package": "unknown"}
    assert facts["versions"] == versions


# ---- energy


class Tracker:
    """Each reading is another 1 Wh."""

    def __init__(self, *modes: str | None) -> None:
        self._hardware = [SimpleNamespace(_mode=mode) if mode else SimpleNamespace() for mode in modes]
        self.readings, self.running = 0, False

    def start(self) -> None:
        self.running = True

    def flush(self) -> float | None:
        assert self.running
        self.readings += 1
        return self.readings / 1000

    def stop(self) -> float | None:
        """A second one gives the same."""
        if self.running:
            self.flush()
        self.running = False
        return self.readings / 1000


@pytest.fixture
def trackers(monkeypatch: pytest.MonkeyPatch) -> list[Tracker]:
    """Every tracker that is made."""
    made: list[Tracker] = []
    monkeypatch.setattr(machine, "offline_tracker", lambda: made.append(Tracker("intel_rapl", None)) or made[-1])
    return made


def test_nothing_is_measured_unless_requested(trackers: list[Tracker], tmp_path: Path) -> None:
    with metered(False) as meter:
        meter.save(tmp_path)
        assert meter.stop() is None
    assert not trackers
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("modes", "estimated"),
    [
        (["cpu_load", None], True), (["constant"], True), ([], True),
        (["intel_rapl", None], False), (["windows_emi"], False), ([None, None], False),  # Apple's chips have no mode
    ],
)  # fmt: skip
def test_an_estimate_is_called_one(modes: list[str | None], estimated: bool) -> None:
    tracker = Tracker(*modes)
    tracker.start()
    assert EnergyMeter(tracker).stop() == {"kwh": pytest.approx(0.001), "estimated": estimated}
    assert not tracker.running


def test_an_error_inside_still_ends_the_tracker(trackers: list[Tracker]) -> None:
    with pytest.raises(KeyError, match="x"), metered(True):
        raise KeyError("x")
    assert not trackers[0].running


@pytest.mark.parametrize(
    ("saved", "kwh"),
    [("yes", 0.002), (None, None), ("{", None), ("[]", None), ('{"kwh": "many"}', None), ('{"watts": 1}', None)],
)
def test_the_energy_before_a_kill_is_added_or_the_total_is_unknown(trackers, tmp_path, saved, kwh) -> None:
    with metered(True) as meter:
        meter.save(tmp_path)
    if saved is None:
        (tmp_path / CARRIED).unlink()
    elif saved != "yes":
        (tmp_path / CARRIED).write_text(saved, encoding="utf-8")
    with metered(True) as meter:
        meter.carry(tmp_path)
        energy = meter.stop()
    assert energy == (None if kwh is None else {"kwh": pytest.approx(kwh), "estimated": False})


def test_a_run_records_its_energy_over_interruptions(trackers, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(run_trainer, "REPORT_EVERY_S", 0.0)
    without = finetune(toy_config(tmp_path, epochs=2, output=str(tmp_path / "without")))
    assert without["energy"] is None
    assert not trackers
    result = finetune(toy_config(tmp_path, epochs=2, energy=True))
    assert result["energy"]["kwh"] == pytest.approx(0.002)  # the checkpoint of the first epoch, and the end
    assert result["energy"] == json.loads((tmp_path / "run" / "result.json").read_text(encoding="utf-8"))["energy"]
    with pytest.raises(Killed):  # in the second of four epochs
        finetune(toy_config(tmp_path, energy=True, output=str(tmp_path / "cut")), listener=Heard(die_at=8))
    assert not trackers[-1].running
    # 1 by the checkpoint; then those of the second and the third epoch, and the end
    assert resume_run(tmp_path / "cut")["energy"]["kwh"] == pytest.approx(0.004)


def test_a_run_whose_energy_is_unknown_notes_it(trackers, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(Tracker, "flush", lambda self: None)
    monkeypatch.setattr(Tracker, "stop", lambda self: None)
    listener = Heard()
    assert finetune(toy_config(tmp_path, epochs=2, energy=True), listener=listener)["energy"] is None
    assert "the energy of the run is not known: codecarbon could not measure all of it." in listener.notes


def test_without_codecarbon_the_error_has_the_install_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "codecarbon", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'datadiet\[energy\]'"), metered(True):
        pass
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ArgumentError, match=r"energy needs codecarbon: pip install 'datadiet\[energy\]'"):
        finetune(toy_config(tmp_path, epochs=1, energy=True))
    assert not (tmp_path / "run").exists()


def test_a_real_run_needs_no_network_and_leaves_no_file(tmp_path, monkeypatch, capfd) -> None:
    pytest.importorskip("codecarbon")

    def refused(*_args: Any, **_kwargs: Any) -> None:
        raise AssertionError("a run asked the network")

    monkeypatch.setattr(socket.socket, "connect", refused)
    monkeypatch.setattr(socket, "getaddrinfo", refused)
    made, offline_tracker = [], machine.offline_tracker
    monkeypatch.setattr(machine, "offline_tracker", lambda: made.append(offline_tracker()) or made[-1])
    config = toy_config(tmp_path, epochs=2, energy=True)
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    energy = finetune(config)["energy"]
    assert 0 < energy["kwh"] == pytest.approx(made[0].final_emissions_data.energy_consumed)
    assert made[0]._hardware  # `estimated` reads it
    assert list((tmp_path / "cwd").iterdir()) == []
    printed = capfd.readouterr()
    assert "codecarbon" not in printed.out + printed.err
