"""Energy: figures from a tracker that is made up, and one real run without a network."""

from __future__ import annotations

import json
import math
import socket
import sys
import types
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from datadiet.errors import ArgumentError, MissingExtraError
from datadiet.jobs import finetune as run_trainer
from datadiet.jobs.finetune import finetune, resume_run
from datadiet.training import machine
from datadiet.training.machine import CARRIED, EnergyMeter, metered
from toys import Heard, Killed, toy_config


class CPU:
    def __init__(self, mode: str) -> None:
        self._mode = mode


class GPU:
    pass


class AppleSiliconChip:
    def __init__(self, chip_part: str) -> None:
        self.chip_part = chip_part


class Made:
    """A tracker by which each flush uses another 1 Wh: 0.6 by the CPU, 0.3 by the GPU, 0.1 by the memory."""

    def __init__(self, told: Any, *hardware: Any) -> None:
        self.told, self._hardware, self.flushed, self.running = told, hardware, 0, False

    def start(self) -> None:
        self.running = True

    def flush(self) -> None:
        assert self.running
        self.flushed += 1
        kwh = self.flushed / 1000
        total = types.SimpleNamespace(
            energy_consumed=kwh, cpu_energy=0.6 * kwh, gpu_energy=0.3 * kwh, ram_energy=0.1 * kwh
        )
        self.told.out(total, None)

    def stop(self) -> None:
        self.running = False


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Made]:
    """Every tracker that is made."""
    trackers: list[Made] = []

    def offline_tracker(told: Any) -> Made:
        trackers.append(Made(told, CPU("intel_rapl"), GPU()))
        return trackers[-1]

    monkeypatch.setattr(machine, "offline_tracker", offline_tracker)
    return trackers


def test_nothing_is_measured_unless_asked_for(made: list[Made], tmp_path: Path) -> None:
    with metered(False) as meter:
        assert meter.reading() is None
        meter.save(tmp_path)
    assert not made
    assert list(tmp_path.iterdir()) == []


def test_the_parts_and_how_they_are_known(made: list[Made]) -> None:
    with metered(True) as meter:
        found = meter.reading()
    assert found == {
        "kwh": pytest.approx(0.001), "cpu_kwh": pytest.approx(0.0006), "gpu_kwh": pytest.approx(0.0003),
        "ram_kwh": pytest.approx(0.0001), "estimated": False,
        "measured": {"cpu": "RAPL", "gpu": "the GPU's own counter", "ram": "estimated from its size"},
    }  # fmt: skip
    assert not made[0].running


@pytest.mark.parametrize(
    ("hardware", "cpu", "gpu", "estimated"),
    [
        ([CPU("cpu_load")], "estimated from its load and TDP", None, True),
        ([CPU("constant"), GPU()], "estimated from its TDP", "the GPU's own counter", True),
        ([CPU("windows_emi")], "Energy Meter Interface", None, False),
        ([AppleSiliconChip("CPU"), AppleSiliconChip("GPU")], "powermetrics", "powermetrics", False),
        ([], "unknown", None, True),
    ],
)
def test_an_estimate_is_called_one(hardware: list[Any], cpu: str, gpu: str | None, estimated: bool) -> None:
    told = machine._Told()
    tracker = Made(told, *hardware)
    tracker.start()
    found = EnergyMeter(tracker, told).reading()
    assert found is not None
    assert (found["measured"]["cpu"], found["measured"]["gpu"], found["estimated"]) == (cpu, gpu, estimated)


def test_an_error_inside_still_ends_the_tracker(made: list[Made]) -> None:
    with pytest.raises(KeyError, match="x"), metered(True):
        raise KeyError("x")
    assert not made[0].running


def test_a_tracker_that_failed_gives_nothing() -> None:
    tracker = Made(machine._Told())
    tracker.start()
    assert EnergyMeter(tracker, machine._Told()).reading() is None


def test_what_was_used_before_a_kill_is_added(made: list[Made], tmp_path: Path) -> None:
    with metered(True) as meter:
        meter.reading()
        meter.save(tmp_path)  # at 2 Wh
    with metered(True) as meter:
        meter.carry(tmp_path)
        found = meter.reading()
    assert found is not None
    assert (found["kwh"], found["gpu_kwh"]) == (pytest.approx(0.003), pytest.approx(0.0009))


@pytest.mark.parametrize("kept", [None, "{", "[]", '{"kwh": "many"}', '{"kwh": 1}'])
def test_a_part_that_was_not_kept_makes_the_whole_unknown(made: list[Made], tmp_path: Path, kept: str | None) -> None:
    if kept is not None:
        (tmp_path / CARRIED).write_text(kept, encoding="utf-8")
    with metered(True) as meter:
        meter.carry(tmp_path)
        assert meter.reading() is None


def test_a_run_says_what_it_used(made: list[Made], tmp_path: Path) -> None:
    result = finetune(toy_config(tmp_path, epochs=2, energy=True))
    assert result["energy"]["kwh"] == pytest.approx(0.002)  # the checkpoint of the first epoch, and the end
    assert result["energy"] == json.loads((tmp_path / "run" / "result.json").read_text(encoding="utf-8"))["energy"]
    without = finetune(toy_config(tmp_path, epochs=2, output=str(tmp_path / "without")))
    assert without["energy"] is None
    assert len(made) == 1


def test_a_resumed_run_counts_both_parts(made: list[Made], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_trainer, "REPORT_EVERY_S", 0.0)
    with pytest.raises(Killed):
        finetune(toy_config(tmp_path, energy=True), listener=Heard(die_at=8))  # in the second of four epochs
    assert not made[0].running
    result = resume_run(tmp_path / "run")
    # 1 by the checkpoint; then those of the second and the third epoch, and the end
    assert result["energy"]["kwh"] == pytest.approx(0.004)


def test_a_run_whose_energy_is_not_known_says_so(
    made: list[Made], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Made, "flush", lambda self: None)
    listener = Heard()
    assert finetune(toy_config(tmp_path, epochs=2, energy=True), listener=listener)["energy"] is None
    assert "the energy of the run is not known: codecarbon could not measure all of it." in listener.notes


def test_without_codecarbon_the_install_line_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "codecarbon", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'datadiet\[energy\]'"), metered(True):
        pass
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ArgumentError, match=r"energy needs codecarbon: pip install 'datadiet\[energy\]'"):
        finetune(replace(toy_config(tmp_path, epochs=1), energy=True))
    assert not (tmp_path / "run").exists()


def test_a_real_run_needs_no_network_and_leaves_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("codecarbon")

    def refused(*_args: Any, **_kwargs: Any) -> None:
        raise AssertionError("a run asked the network")

    monkeypatch.setattr(socket.socket, "connect", refused)
    monkeypatch.setattr(socket, "getaddrinfo", refused)
    config = toy_config(tmp_path, epochs=2, energy=True)
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    found = finetune(config)["energy"]
    parts = [found[name] for name in ("cpu_kwh", "gpu_kwh", "ram_kwh")]
    assert 0 < found["kwh"] == pytest.approx(math.fsum(parts))
    assert found["measured"]["cpu"] != "unknown"
    assert list((tmp_path / "cwd").iterdir()) == []
    said = capfd.readouterr()
    assert "codecarbon" not in said.out + said.err
