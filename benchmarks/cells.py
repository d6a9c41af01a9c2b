"""The cells of a grid of fine-tuning runs: each in a process of its own, its result kept as data, none run twice."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import yaml

RUN = "run"  # in the folder of a run's process
DATADIET = ("-m", "datadiet")
# the same command with the batches of the plain Trainer where everything trains, for which there is no option
PLAIN_BATCHES = (
    "-c",
    "from datadiet.__main__ import main; from datadiet.jobs.finetune import RunTrainer\n"
    "RunTrainer.own_batches = False; main()",
)


class Named(Protocol):
    """A cell has a name, which its files have."""

    @property
    def name(self) -> str: ...


C = TypeVar("C", bound=Named)
T = TypeVar("T")


def listed(*allowed: str) -> Callable[[str], list[str]]:
    """The type of an option that takes names separated by commas, each one of these; argparse refuses any other."""

    def read(text: str) -> list[str]:
        names = [name.strip() for name in text.split(",")]
        if unknown := [name for name in names if name not in allowed]:
            raise argparse.ArgumentTypeError(f"must be of {', '.join(allowed)}, got {', '.join(unknown)}.")
        return names

    return read


def numbers(kind: Callable[[str], T]) -> Callable[[str], list[T]]:
    """The type of an option that takes numbers of a kind, separated by commas."""

    def read(text: str) -> list[T]:
        try:
            return [kind(part) for part in text.split(",")]
        except ValueError:
            raise argparse.ArgumentTypeError(f"must be numbers separated by commas, got {text!r}.") from None

    return read


def finetuned(settings: dict[str, Any], work: Path, program: Sequence[str] = DATADIET) -> dict[str, Any]:
    """`result.json` of `datadiet finetune` with these options; its run folder is `work / RUN`.

    Args:
        settings: The options.
        work: A folder.
        program: What Python runs, `DATADIET` or `PLAIN_BATCHES`.

    Raises:
        RuntimeError: If it failed, with the end of what it said.
    """
    config = work / "config.yaml"
    config.write_text(yaml.safe_dump({**settings, "output": str(work / RUN)}), encoding="utf-8")
    command = [sys.executable, *program, "finetune", "--config", str(config), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr.strip()[-300:])
    found: dict[str, Any] = json.loads((work / RUN / "result.json").read_text(encoding="utf-8"))
    return found


def keep(results: Path, name: str, found: dict[str, Any], *, indent: int | None = None) -> None:
    """Write a result so that a half-written one is never taken for a whole one."""
    part = results / f"{name}.part"
    part.write_text(json.dumps(found, indent=indent), encoding="utf-8")
    part.rename(results / f"{name}.json")


def each_once(
    cells: Sequence[C], results: Path, run: Callable[[C], str], is_done: Callable[[C], bool] | None = None
) -> bool:
    """Run every cell that has no result and that no other process is running; one that fails does not stop the others.

    Args:
        cells: In order.
        results: Receives a lock per cell while it runs.
        run: Runs one, keeps its result, and says what came out.
        is_done: Whether one has a result; by default whether `results` has its JSON file, see `keep`.

    Returns:
        Whether all that were run came to an end.
    """
    results.mkdir(parents=True, exist_ok=True)
    whole = True
    for number, cell in enumerate(cells, 1):
        lock = results / f"{cell.name}.lock"  # so that two processes may share a grid
        done = (results / f"{cell.name}.json").exists() if is_done is None else is_done(cell)
        if done or held(lock):
            continue
        lock.write_text(str(os.getpid()), encoding="utf-8")
        try:
            said = run(cell)
        except RuntimeError as error:
            said, whole = f"FAILED: {error}", False
        finally:
            lock.unlink(missing_ok=True)
        print(f"[{number}/{len(cells)}] {cell.name}  {said}", flush=True)
    return whole


def held(lock: Path) -> bool:
    """Whether the process that wrote a lock is still there."""
    try:
        os.kill(int(lock.read_text()), 0)
    except (OSError, ValueError):
        return False
    return True
