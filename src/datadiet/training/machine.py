"""The machine of a run: its device, the precision that is fast there, its versions, and the energy of the run.

codecarbon measures the energy: offline, silent, and without files of its own.
"""

from __future__ import annotations

import json
import logging
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from datadiet.errors import ArgumentError, MissingExtraError, unknown
from datadiet.files import write_atomically
from datadiet.types import Json

PRECISIONS = ("auto", "fp32", "bf16", "fp16")
_REPORTED = ("datadiet", "torch", "transformers", "accelerate", "datasets", "numpy")
_AMPERE = (8, 0)  # first CUDA generation with bf16 units; older ones emulate it slowly

MISSING = "energy needs codecarbon: pip install 'datadiet[energy]'"
CARRIED = "energy.json"  # in a checkpoint: the energy up to it
_GRAMS_PER_KG = 1000.0  # of CO2 per kWh: the kilograms that codecarbon returns are then kilowatt-hours
_ESTIMATED = {"cpu_load", "constant"}  # codecarbon's modes that compute a processor's power from its load or its TDP


def best_device() -> torch.device:
    """The accelerator of this process, or the CPU."""
    if torch.accelerator.is_available():
        device = torch.accelerator.current_accelerator()
        if device is not None:
            return device
    return torch.device("cpu")


def fast_at_bf16(device: torch.device) -> bool:
    """Whether bf16 autocast is faster than fp32 there: recent GPUs, CPUs with avx512_bf16 or amx."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= _AMPERE
    if device.type == "cpu":
        return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return False


def resolve_precision(precision: str, device: torch.device) -> str:
    """`fp32`, `bf16` or `fp16`, where `auto` is bf16 on devices that are fast at it.

    Raises:
        ArgumentError: For an unknown precision, and for fp16 on a CPU, which has no gradient scaling for it.

    Examples:
        >>> resolve_precision("bf16", torch.device("cpu"))
        'bf16'
    """
    if precision not in PRECISIONS:
        raise ArgumentError(unknown("precision", precision, PRECISIONS))
    if precision == "auto":
        return "bf16" if fast_at_bf16(device) else "fp32"
    if precision == "fp16" and device.type == "cpu":
        raise ArgumentError("precision fp16 needs a GPU; use bf16, fp32 or auto.")
    return precision


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
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    threads = torch.get_num_threads()
    return {"versions": versions, "cpu": cpu_name(), "threads": threads, "device": name, "precision": precision}


class EnergyMeter:
    """Counts the energy of the machine during a run, that of an interrupted part included.

    Args:
        tracker: A started `codecarbon.OfflineEmissionsTracker` of `offline_tracker`; None measures nothing.
    """

    def __init__(self, tracker: Any = None) -> None:
        self._tracker = tracker
        self._earlier: float | None = 0.0  # kWh before a resume; None where they are unknown

    def stop(self) -> Json | None:
        """End the measurement; None where nothing was measured, or not all of it.

        Returns:
            `kwh`; `estimated`, whether the processor's power is computed from its load instead of measured.
        """
        if self._tracker is None:
            return None
        kwh = self._total(self._tracker.stop())
        modes = {getattr(part, "_mode", None) for part in self._tracker._hardware}
        return None if kwh is None else {"kwh": kwh, "estimated": not modes or bool(modes & _ESTIMATED)}

    def save(self, checkpoint: Path) -> None:
        """Write the energy so far into a checkpoint."""
        if self._tracker is not None and (kwh := self._total(self._tracker.flush())) is not None:
            write_atomically(checkpoint / CARRIED, json.dumps({"kwh": kwh}))

    def carry(self, checkpoint: Path) -> None:
        """Add the energy of an interrupted run up to its checkpoint; if that is lost, the total is unknown."""
        try:
            self._earlier = float(json.loads((checkpoint / CARRIED).read_text(encoding="utf-8"))["kwh"])
        except (OSError, ValueError, KeyError, TypeError):
            self._earlier = None

    def _total(self, kwh: float | None) -> float | None:
        """With the part before a resume; codecarbon gives None where it failed, and keeps its errors to itself."""
        return None if kwh is None or self._earlier is None else self._earlier + float(kwh)


@contextmanager
def metered(energy: bool) -> Iterator[EnergyMeter]:
    """Measure the energy of a block, or nothing.

    Raises:
        MissingExtraError: If the energy is to be measured and codecarbon is not installed.
    """
    if not energy:
        yield EnergyMeter()
        return
    tracker = offline_tracker()
    tracker.start()
    try:
        yield EnergyMeter(tracker)
    finally:
        tracker.stop()  # its threads; a second stop changes nothing


def offline_tracker() -> Any:
    """A tracker without network, files or output; it reads the power at codecarbon's own interval."""
    try:
        from codecarbon import OfflineEmissionsTracker
    except ImportError as error:
        raise MissingExtraError(MISSING) from error
    logging.getLogger("codecarbon").setLevel(logging.CRITICAL)
    return OfflineEmissionsTracker(
        output_methods=[],
        emissions_endpoint=None,
        api_call_interval=-1,
        allow_multiple_runs=True,  # no lock file; several runs of a comparison may overlap
        log_level="critical",
        force_carbon_intensity_g_co2e_kwh=_GRAMS_PER_KG,  # also makes a country unnecessary
        country_iso_code=None,
        cloud_provider=None,
        cloud_region=None,
    )
