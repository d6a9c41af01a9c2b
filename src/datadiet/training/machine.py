"""What the machine is, and which precision is fast on it.

The energy of a run, measured by codecarbon: offline, silent, and without files of its own.
"""

from __future__ import annotations

import json
import logging
import platform
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Protocol

import torch

from datadiet.errors import ArgumentError, MissingExtraError, unknown
from datadiet.files import write_atomically
from datadiet.types import Json

PRECISIONS = ("auto", "fp32", "bf16", "fp16")
_REPORTED = ("datadiet", "torch", "transformers", "accelerate", "datasets", "numpy")
_AMPERE = (8, 0)  # first CUDA generation with bf16 units; older ones emulate it slowly


def best_device() -> torch.device:
    """The accelerator of this process, or the CPU."""
    if torch.accelerator.is_available():
        found = torch.accelerator.current_accelerator()
        if found is not None:
            return found
    return torch.device("cpu")


def fast_at_bf16(device: torch.device) -> bool:
    """Whether bf16 autocast is faster than fp32 there: recent GPUs, CPUs with avx512_bf16 or amx."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= _AMPERE
    if device.type == "cpu":
        return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return False


def resolve_precision(wanted: str, device: torch.device) -> str:
    """`fp32`, `bf16` or `fp16`, where `auto` is bf16 on devices that are fast at it.

    Raises:
        ArgumentError: If there is no such precision, or it is fp16 on a CPU, which has no gradient scaling for it.

    Example:
        >>> resolve_precision("bf16", torch.device("cpu"))
        'bf16'
    """
    if wanted not in PRECISIONS:
        raise ArgumentError(unknown("precision", wanted, PRECISIONS))
    if wanted == "auto":
        return "bf16" if fast_at_bf16(device) else "fp32"
    if wanted == "fp16" and device.type == "cpu":
        raise ArgumentError("precision fp16 needs a GPU; use bf16, fp32 or auto.")
    return wanted


def cpu_name() -> str:
    """The CPU's model name."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass  # not Linux
    return platform.processor() or platform.machine()


def environment(device: torch.device, precision: str) -> Json:
    """Versions and hardware, for `result.json`."""
    versions = {"python": platform.python_version()}
    for name in _REPORTED:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "unknown"
    named = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    threads = torch.get_num_threads()
    return {"versions": versions, "cpu": cpu_name(), "threads": threads, "device": named, "precision": precision}


MISSING = "energy needs codecarbon: pip install 'datadiet[energy]'"
CARRIED = "energy.json"  # in a checkpoint: what the run had used by then
PARTS = ("kwh", "cpu_kwh", "gpu_kwh", "ram_kwh")
# how codecarbon knows the power of a processor: the ones that measure it, and the ones that do not
_MEASURED = {"intel_rapl": "RAPL", "windows_emi": "Energy Meter Interface", "intel_power_gadget": "Power Gadget"}
_ESTIMATED = {"cpu_load": "estimated from its load and TDP", "constant": "estimated from its TDP"}


class Tracker(Protocol):
    """What is used of `codecarbon.OfflineEmissionsTracker`."""

    def start(self) -> object:
        """Begin."""

    def flush(self) -> object:
        """Measure up to now, and tell the handlers."""

    def stop(self) -> object:
        """End its threads."""


class _Told:
    """An output handler of codecarbon: keeps the last totals."""

    def __init__(self) -> None:
        self.total: Any = None

    def out(self, total: Any, delta: Any) -> None:
        """Totals since the start, and since the last call."""
        self.total = total

    def live_out(self, total: Any, delta: Any) -> None:
        """The same while it runs."""

    def task_out(self, data: Any, experiment_name: str) -> None:
        """There are no tasks."""

    def exit(self) -> None:
        """Nothing is open."""


class EnergyMeter:
    """Counts the energy of the machine while a run lasts, that of an interrupted part included.

    Args:
        tracker: Started; None measures nothing.
        told: Its output handler.
    """

    def __init__(self, tracker: Tracker | None = None, told: _Told | None = None) -> None:
        self._tracker, self._told = tracker, told or _Told()
        self._earlier = dict.fromkeys(PARTS, 0.0)
        self._whole = True

    def reading(self) -> Json | None:
        """What has been used up to now; None where nothing is measured, or not all of it.

        Returns:
            `kwh` and its parts `cpu_kwh`, `gpu_kwh` and `ram_kwh`; `measured`, how the power of each part is known;
            `estimated`, whether that of the processor is only computed from its load (that of the memory always is).
        """
        if self._tracker is None or not self._whole:
            return None
        self._tracker.flush()
        total = self._told.total
        if total is None:  # codecarbon keeps its errors to itself
            return None
        now = (total.energy_consumed, total.cpu_energy, total.gpu_energy, total.ram_energy)
        spent = {name: self._earlier[name] + float(kwh) for name, kwh in zip(PARTS, now, strict=True)}
        measured = _how(getattr(self._tracker, "_hardware", ()))
        return {**spent, "measured": measured, "estimated": measured["cpu"] in (*_ESTIMATED.values(), "unknown")}

    def save(self, checkpoint: Path) -> None:
        """Keep the reading in a checkpoint."""
        if (reading := self.reading()) is not None:
            write_atomically(checkpoint / CARRIED, json.dumps(reading))

    def carry(self, checkpoint: Path) -> None:
        """Add what an interrupted run had used up to its checkpoint; without that the whole is not known."""
        try:
            kept = json.loads((checkpoint / CARRIED).read_text(encoding="utf-8"))
            self._earlier = {name: float(kept[name]) for name in PARTS}
        except (OSError, ValueError, KeyError, TypeError):
            self._whole = False


@contextmanager
def metered(wanted: bool) -> Iterator[EnergyMeter]:
    """Measure the energy while a block lasts, or nothing.

    Raises:
        MissingExtraError: If it is wanted and codecarbon is not installed.
    """
    if not wanted:
        yield EnergyMeter()
        return
    told = _Told()
    tracker = offline_tracker(told)
    tracker.start()
    try:
        yield EnergyMeter(tracker, told)
    finally:
        tracker.stop()


def offline_tracker(told: _Told) -> Tracker:
    """A tracker that asks no network, writes no file and says nothing; power is read at codecarbon's own interval."""
    try:
        from codecarbon import OfflineEmissionsTracker
    except ImportError as error:
        raise MissingExtraError(MISSING) from error
    logging.getLogger("codecarbon").setLevel(logging.CRITICAL)
    tracker: Tracker = OfflineEmissionsTracker(
        output_methods=[],
        output_handlers=[told],
        emissions_endpoint=None,
        api_call_interval=-1,
        allow_multiple_runs=True,  # no lock file; several runs of a comparison may overlap
        log_level="critical",
        force_carbon_intensity_g_co2e_kwh=0.0,  # only energy is asked for, so that no country is needed
        country_iso_code=None,
        cloud_provider=None,
        cloud_region=None,
    )
    return tracker


def _how(hardware: Any) -> dict[str, str | None]:
    """How codecarbon knows the power of each part, by the classes that it has chosen."""
    found: dict[str, str | None] = {"cpu": "unknown", "gpu": None, "ram": "estimated from its size"}
    for part in hardware:
        kind = type(part).__name__
        if kind == "CPU":
            mode = str(getattr(part, "_mode", "unknown"))
            found["cpu"] = {**_MEASURED, **_ESTIMATED}.get(mode, mode)
        elif kind == "GPU":
            found["gpu"] = "the GPU's own counter"
        elif kind in _CHIPS:
            found[str(getattr(part, "chip_part", "cpu")).lower()] = _CHIPS[kind]
    return found


_CHIPS: Mapping[str, str] = {"AppleSiliconChip": "powermetrics", "Raspberry": "the board's own counter"}
