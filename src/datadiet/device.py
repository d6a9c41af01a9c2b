"""What the machine is, and which precision is fast on it."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from datadiet.checks import ArgumentError, unknown
from datadiet.records import Json

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
