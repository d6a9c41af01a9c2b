"""`comparison.json`: written last, read by whoever shows a comparison.

How many runs shared the machine while a run was made, kept beside the run: times are compared by it.

Run the cells of a plan, each in a process of its own; a comparison that was killed goes on where it stopped.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol

from datadiet.compare.plan import Cell, Plan
from datadiet.config import FinetuneConfig, read_config
from datadiet.errors import ArgumentError, UserError
from datadiet.files import SCHEMA, read_json, write_atomically
from datadiet.store import run_folder
from datadiet.types import Json

COMPARISON = "comparison.json"
RUNS, CELLS = "runs", "cells"


def write_comparison(folder: Path, found: Json) -> None:
    """Write `comparison.json`."""
    text = json.dumps(run_folder.plain(found), indent=1, ensure_ascii=False, allow_nan=False)
    write_atomically(folder / COMPARISON, text)


def read_comparison(folder: Path) -> Json:
    """Read `comparison.json`.

    Raises:
        DataError: If the folder holds none, a broken one, or one of another schema.
    """
    found = read_json(folder / COMPARISON, "comparison")
    for line in found["methods"]:  # a file from before money and energy has neither
        for name, value in (("comparable_times", found["comparable_times"]), ("price", None), ("energy", None)):
            line.setdefault(name, value)
    return found


class MadeWith:
    """The notes of a comparison's folder.

    A comparison that was made before there were notes is believed what its `comparison.json` says.

    Args:
        folder: Of the comparison.
        jobs: Runs at a time, now.
    """

    def __init__(self, folder: Path, jobs: int) -> None:
        self._folder, self._jobs = folder, jobs
        self._alone = _said_to_be_alone(folder)

    def note(self, run: str, *, resumed: bool) -> None:
        """Keep how many run at a time while a run is made; one that is resumed keeps the most there have been.

        Args:
            run: Its name.
            resumed: Whether a part of it was made earlier.
        """
        earlier = self.known(run) if resumed else self._jobs
        jobs = None if earlier is None else max(earlier, self._jobs)
        write_atomically(self._file(run), json.dumps({"schema": SCHEMA, "jobs": jobs}))

    def known(self, run: str) -> int | None:
        """The most runs there were at a time while a run was made; None where that is not known."""
        try:
            jobs = read_json(self._file(run), "note on a run").get("jobs")
        except UserError:
            return 1 if run in self._alone else None
        return jobs if isinstance(jobs, int) else None

    def _file(self, run: str) -> Path:
        return self._folder / CELLS / f"{run}.json"


def _said_to_be_alone(folder: Path) -> frozenset[str]:
    """Runs of an earlier comparison that had no notes, and said that its times could be compared."""
    try:
        found = read_comparison(folder)
    except (UserError, KeyError):
        return frozenset()
    runs = found.get("runs", []) if found.get("comparable_times") else []
    return frozenset(run["name"] for run in runs if run["status"] == "done")


LOGS, CACHE = "logs", "cache"
BESIDE = ("cache", "energy")  # options that change nothing of what a run comes to
LOCK = "comparison.lock"
Status = Literal["waiting", "running", "done", "failed"]
_LAST_LINES = 3  # of a log, where it names no error


@dataclass(frozen=True)
class CellState:
    """How a run is getting on.

    Attributes:
        cell: Which.
        status: `waiting`, `running`, `done` or `failed`.
        seconds: Wall-clock time of its process; 0 where an earlier call ran it.
        jobs: The most runs that shared the machine while it was made; None where that is not known.
        error: What a failed run said.
        result: `result.json` of one that is done.
    """

    cell: Cell
    status: Status = "waiting"
    seconds: float = 0.0
    jobs: int | None = None
    error: str | None = None
    result: Json | None = None


class Watcher(Protocol):
    """Is told how the runs get on; may be called from several threads."""

    def changed(self, state: CellState) -> None:
        """A run has begun, is done, or has failed."""


def run_cells(plan: Plan, folder: Path, *, jobs: int = 1, watcher: Watcher) -> list[CellState]:
    """Run every cell that has no result yet.

    The first one runs alone: it tells how many training rows there are, from which the steps of `short` follow. A run
    that fails does not stop the others.

    Args:
        plan: Checked.
        folder: Receives `runs/`, one run folder per cell, `cells/`, their options and how many ran at a time, `cache/`,
            the tokenised data that they share, and `logs/`.
        jobs: Runs at a time; the threads are divided among them.
        watcher: Is told of every change.

    Returns:
        The states of all cells, in the order of the plan.

    Raises:
        ArgumentError: If a finished run in the folder has other options, or another comparison is running there.
    """
    cells = plan.cells()
    with _Lock(folder / LOCK):
        runner = _Runner(plan, folder, jobs, watcher)
        states = {cell.name: runner.known(cell) for cell in cells}
        _check_options(plan, folder, [state for state in states.values() if state.status == "done"])
        for state in states.values():
            watcher.changed(state)
        waiting = [cell for cell in cells if states[cell.name].status == "waiting"]
        rows = _rows(states.values())
        with _terminated_as_interrupted(), ThreadPoolExecutor(jobs) as pool:
            try:
                while waiting and rows is None:
                    cell = waiting.pop(0)
                    states[cell.name] = runner.run(cell, None)
                    rows = _rows([states[cell.name]])
                runner.wait_for(waiting)
                for state in pool.map(lambda cell: runner.run(cell, rows), waiting):
                    states[state.cell.name] = state
            except BaseException:
                runner.stop()  # before the pool waits for its runs
                raise
    return [states[cell.name] for cell in cells]


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """A terminated comparison ends its runs as an interrupted one does, instead of leaving them behind."""
    if threading.current_thread() is not threading.main_thread():  # only there may a signal be handled
        yield
        return

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class _Runner:
    """Starts processes and stops them."""

    def __init__(self, plan: Plan, folder: Path, jobs: int, watcher: Watcher) -> None:
        self._plan, self._folder, self._watcher = plan, folder, watcher
        self._environment = dict(os.environ)
        if jobs > 1:
            self._environment["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // jobs))
        self._made_with = MadeWith(folder, jobs)
        self._ended: dict[str, threading.Event] = {}
        self._processes: list[subprocess.Popen[bytes]] = []
        self._stopped = False

    def known(self, cell: Cell) -> CellState:
        """Of a cell that an earlier comparison has run, or that waits."""
        try:
            result = run_folder.read_result(self._folder / RUNS / cell.name)
        except UserError:
            return CellState(cell)
        return CellState(cell, "done", jobs=self._made_with.known(cell.name), result=result)

    def wait_for(self, cells: Sequence[Cell]) -> None:
        """Those that will be run, in this order: what follows one of them waits for it."""
        self._ended = {cell.name: threading.Event() for cell in cells}

    def run(self, cell: Cell, rows: int | None) -> CellState:
        """Run a cell to its end."""
        if cell.follows is not None and (event := self._ended.get(cell.follows.name)) is not None:
            event.wait()
        try:
            return self._run(cell, rows)
        finally:
            self._ended.get(cell.name, threading.Event()).set()

    def _run(self, cell: Cell, rows: int | None) -> CellState:
        state = CellState(cell, "running")
        self._watcher.changed(state)
        began = time.perf_counter()
        try:
            error = self._call(self._command(cell, rows), self._folder / LOGS / f"{cell.name}.log")
        except UserError as problem:
            error = str(problem)
        state = replace(state, seconds=time.perf_counter() - began)
        folder = self._folder / RUNS / cell.name
        if error is None:
            jobs = self._made_with.known(cell.name)
            state = replace(state, status="done", jobs=jobs, result=run_folder.read_result(folder))
        else:
            state = replace(state, status="failed", error=error)
        if not self._stopped:
            self._watcher.changed(state)
        return state

    def _command(self, cell: Cell, rows: int | None) -> list[str]:
        if cell.steps_of is not None and rows is None:
            raise ArgumentError("no run has finished, so the number of training rows is not known.")
        folder = self._folder / RUNS / cell.name
        start = [sys.executable, "-m", "datadiet", "finetune", "--json"]
        begun = (folder / run_folder.CONFIG).is_file()
        self._made_with.note(cell.name, resumed=begun)
        if begun:
            return [*start, "--resume", str(folder)]
        shutil.rmtree(folder, ignore_errors=True)  # of a run that was killed before it had begun
        steps = _followed_steps(self._folder, cell)
        config = self._plan.config(cell, str(folder), rows, steps=steps, cache=str(self._folder / CACHE))
        place = self._folder / CELLS / f"{cell.name}.yaml"
        write_atomically(place, config.to_yaml())
        return [*start, "--config", str(place)]

    def _call(self, command: Sequence[str], log: Path) -> str | None:
        """Run a command to its end, its standard error in a log; what it said if it failed."""
        if self._stopped:
            return "stopped"
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as stream:
            begins = stream.tell()  # after what an earlier try has said
            process = subprocess.Popen(
                command, stdout=subprocess.DEVNULL, stderr=stream, stdin=subprocess.DEVNULL, env=self._environment
            )
            self._processes.append(process)
            code = process.wait()
        return None if code == 0 else _error_in(log.read_bytes()[begins:].decode(errors="replace"), code)

    def stop(self) -> None:
        """End every process; their runs can be resumed."""
        self._stopped = True
        for process in self._processes:
            if process.poll() is None:
                process.terminate()
        for process in self._processes:
            process.wait()


def _followed_steps(folder: Path, cell: Cell) -> int | None:
    """Optimizer steps of the run that a cell follows; None for one that follows none.

    Raises:
        ArgumentError: If that run is not done.
    """
    if cell.follows is None:
        return None
    try:
        result = run_folder.read_result(folder / RUNS / cell.follows.name)
    except UserError as error:
        what = "learns from" if cell.after is not None else "takes the steps of"
        raise ArgumentError(f"{cell.name} {what} {cell.follows.name}, which is not done.") from error
    return sum(int(epoch["steps"]) for epoch in result["epochs"])


def _rows(states: Any) -> int | None:
    """Training rows, as a finished run has them."""
    return next((int(state.result["data"]["rows"]["train"]) for state in states if state.result is not None), None)


def _error_in(said: str, code: int) -> str:
    """What a failed run said last."""
    if code < 0:
        return f"ended by signal {-code}"
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    named = [place for place, line in enumerate(lines) if line.startswith("error:")]
    last = lines[named[-1] :] if named else lines[-_LAST_LINES:]
    return " ".join(last).removeprefix("error:").strip() or f"ended with exit code {code}"


def _check_options(plan: Plan, folder: Path, states: Sequence[CellState]) -> None:
    """Refuse to mix runs of different options: a finished run must be the one that would be run now."""
    rows = _rows(states)
    for state in states:
        kept = read_config(folder / RUNS / state.cell.name / run_folder.CONFIG)
        steps = _followed_steps(folder, state.cell)
        wanted = plan.config(state.cell, kept.output, rows, steps=steps)
        if other := _differences(kept, wanted):
            name, was, now = other[0]
            raise ArgumentError(
                f"{folder} holds a comparison with other options: {state.cell.name} has {name} {was!r}, "
                f"now it would be {now!r}. Choose another folder, or give the options it has."
            )


def _differences(kept: FinetuneConfig, wanted: FinetuneConfig) -> list[tuple[str, Any, Any]]:
    ours, theirs = asdict(kept), asdict(wanted)
    return [(name, ours[name], theirs[name]) for name in ours if name not in BESIDE and ours[name] != theirs[name]]


class _Lock:
    """Held while a comparison runs, so that two do not run the same cells; one left by a killed process is taken."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        if self._path.is_file() and _alive(self._path.read_text(encoding="utf-8")):
            raise ArgumentError(
                f"another comparison is running in {self._path.parent}; wait for it, or choose another."
            )
        write_atomically(self._path, str(os.getpid()))

    def __exit__(self, *error: object) -> None:
        self._path.unlink(missing_ok=True)


def _alive(pid: str) -> bool:
    try:
        os.kill(int(pid), 0)
    except (OSError, ValueError):
        return False
    return True
