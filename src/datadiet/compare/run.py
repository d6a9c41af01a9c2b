"""The runs of a comparison: each cell of a plan in a process of its own; a comparison that was killed can be resumed.

Files in its folder: `comparison.json` (written last), `runs/` (a run folder per cell), `cells/` (the options of each
run, and how many runs shared the machine with it), `logs/`, and `cache/` (tokenised data, shared by the runs).
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
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal, Protocol

from datadiet.compare.plan import SHORT, Cell, Plan
from datadiet.config import read_config
from datadiet.errors import ArgumentError, UserError
from datadiet.files import SCHEMA, locked, plain, read_json, write_atomically, write_json
from datadiet.store import run_folder
from datadiet.types import Json

COMPARISON = "comparison.json"
RUNS, CELLS, LOGS, CACHE = "runs", "cells", "logs", "cache"
LOCK = "comparison.lock"
ENDS_WITH_STDIN = "DATADIET_ENDS_WITH_STDIN"  # in the environment: a process ends when its standard input does
UNCHECKED = ("cache", "energy")  # options on which the outcome of a run does not depend
_LAST_LINES = 3  # of a log that names no error
Status = Literal["waiting", "running", "done", "failed"]


def write_comparison(folder: Path, comparison: Json) -> None:
    """Write `comparison.json`."""
    write_json(folder / COMPARISON, plain(comparison))


def read_comparison(folder: Path) -> Json:
    """Read `comparison.json`.

    Raises:
        DataError: If the folder holds none, a broken one, or one of another schema.
    """
    return read_json(folder / COMPARISON, "comparison")


@dataclass(frozen=True)
class CellState:
    """The state of a run.

    Attributes:
        cell: Of the plan.
        status: `waiting`, `running`, `done` or `failed`.
        seconds: Wall-clock time of its process; 0 where an earlier call ran it.
        jobs: The most runs that shared the machine while it was made; None where that is not known.
        error: The message of a failed run.
        result: `result.json` of one that is done.
    """

    cell: Cell
    status: Status = "waiting"
    seconds: float = 0.0
    jobs: int | None = None
    error: str | None = None
    result: Json | None = None

    @property
    def finished(self) -> Json:
        """The result of a run that is known to be done."""
        assert self.result is not None
        return self.result


class Watcher(Protocol):
    """Follows the runs; may be called from several threads."""

    def changed(self, state: CellState) -> None:
        """A run has begun, is done, or has failed."""


def run_cells(plan: Plan, folder: Path, *, jobs: int = 1, watcher: Watcher) -> list[CellState]:
    """Run every cell that has no result yet.

    The first one runs alone: its result has the number of training rows, from which the steps of `short` follow. A run
    that fails does not stop the others.

    Args:
        plan: Checked.
        folder: Of the comparison.
        jobs: Runs at a time; the threads are divided among them.
        watcher: Called at every change.

    Returns:
        The states of all cells, in the order of the plan.

    Raises:
        ArgumentError: If a finished run in the folder has other options, or another comparison is running there.
    """
    cells = plan.cells()
    with locked(folder / LOCK, f"another comparison is running in {folder}: wait for it, or choose another folder"):
        runner = _Runner(plan, folder, jobs, watcher)
        states = {cell.name: runner.state_of(cell) for cell in cells}
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
        self._environment = {**os.environ, ENDS_WITH_STDIN: "1"}
        if jobs > 1:
            self._environment["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // jobs))
        self._jobs = jobs
        self._ended: dict[str, threading.Event] = {}
        self._processes: list[subprocess.Popen[bytes]] = []
        self._stopped = False

    def state_of(self, cell: Cell) -> CellState:
        """`done` where an earlier call has run the cell, else `waiting`."""
        try:
            result = run_folder.checked_result(self._folder / RUNS / cell.name)
        except UserError:
            return CellState(cell)
        return CellState(cell, "done", jobs=self._noted_jobs(cell), result=result)

    def _noted_jobs(self, cell: Cell) -> int | None:
        """The most runs at a time while a run was made; None without a readable note."""
        try:
            jobs = read_json(self._note_file(cell), "note on a run").get("jobs")
        except UserError:
            return None
        return jobs if isinstance(jobs, int) else None

    def _note_jobs(self, cell: Cell, *, resumed: bool) -> None:
        """Note the number of runs at a time before a run starts; of a resumed run the largest there has been."""
        earlier = self._noted_jobs(cell) if resumed else self._jobs
        jobs = None if earlier is None else max(earlier, self._jobs)
        write_atomically(self._note_file(cell), json.dumps({"schema": SCHEMA, "jobs": jobs}))

    def _note_file(self, cell: Cell) -> Path:
        return self._folder / CELLS / f"{cell.name}.json"

    def wait_for(self, cells: Sequence[Cell]) -> None:
        """Set the cells that will be run, in this order: a run that follows one of them waits for it."""
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
            taken = self._take_alike(cell, rows)
            error = None if taken else self._call(self._command(cell, rows), self._folder / LOGS / f"{cell.name}.log")
        except UserError as problem:
            error = str(problem)
        state = replace(state, seconds=time.perf_counter() - began)
        folder = self._folder / RUNS / cell.name
        if error is None:
            state = replace(state, status="done", jobs=self._noted_jobs(cell), result=run_folder.checked_result(folder))
        else:
            state = replace(state, status="failed", error=error)
        if not self._stopped:
            self._watcher.changed(state)
        return state

    def _take_alike(self, cell: Cell, rows: int | None) -> bool:
        """Link the run of the plain `short` to that of a method that has not raced after all: it would be the same."""
        folder = self._folder / RUNS
        if cell.steps_of is None or not self._plan.races(cell.steps_of) or (folder / cell.name).exists():
            return False
        wanted = self._plan.config(cell, "", rows, steps=_followed_steps(self._folder, cell))
        for other in self._plan.cells():
            alike = (other.method == SHORT, other.seed, other.keep, other.waits) == (True, cell.seed, cell.keep, False)
            if not alike or self._plan.config(other, "", rows) != wanted:
                continue
            self._ended.get(other.name, threading.Event()).wait()
            if self.state_of(other).status != "done":
                return False
            part = folder / f"{cell.name}.part"
            shutil.rmtree(part, ignore_errors=True)
            shutil.copytree(folder / other.name, part, copy_function=os.link)
            part.rename(folder / cell.name)
            if self._note_file(other).is_file():
                shutil.copyfile(self._note_file(other), self._note_file(cell))
            return True
        return False

    def _command(self, cell: Cell, rows: int | None) -> list[str]:
        if cell.steps_of is not None and rows is None:
            raise ArgumentError("no run has finished, so the number of training rows is not known.")
        folder = self._folder / RUNS / cell.name
        start = [sys.executable, "-m", "datadiet", "finetune", "--json"]
        resumed = (folder / run_folder.CONFIG).is_file()
        self._note_jobs(cell, resumed=resumed)
        if resumed:
            return [*start, "--resume", str(folder)]
        run_folder.check_new(folder)  # empty, but for what a run that was killed before it had begun has left
        steps = _followed_steps(self._folder, cell)
        config = self._plan.config(cell, str(folder), rows, steps=steps, cache=str(self._folder / CACHE))
        options = self._folder / CELLS / f"{cell.name}.yaml"
        write_atomically(options, config.to_yaml())
        return [*start, "--config", str(options)]

    def _call(self, command: Sequence[str], log: Path) -> str | None:
        """Run a command to its end, its standard error in a log; the error if it failed."""
        if self._stopped:
            return "stopped"
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as stream:
            begins = stream.tell()  # after the lines of an earlier try
            # the run reads its end of a pipe, which closes when this process ends, however that happens
            process = subprocess.Popen(
                command, stdout=subprocess.DEVNULL, stderr=stream, stdin=subprocess.PIPE, env=self._environment
            )
            self._processes.append(process)
            with process.stdin or nullcontext():
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
    """Optimizer steps of the run that a cell follows, and what its races cost; None for one that follows none.

    Raises:
        ArgumentError: If that run is not done.
    """
    if cell.follows is None:
        return None
    try:
        result = run_folder.checked_result(folder / RUNS / cell.follows.name)
    except UserError as error:
        verb = "learns from" if cell.after is not None else "takes the steps of"
        raise ArgumentError(f"{cell.name} {verb} {cell.follows.name}, which is not done.") from error
    raced = (result.get("race") or {}).get("races", [])
    return sum(int(epoch["steps"]) for epoch in result["epochs"]) + sum(int(race["cost"]["steps"]) for race in raced)


def _rows(states: Iterable[CellState]) -> int | None:
    """The number of training rows, from the first finished run."""
    return next((int(state.result["data"]["rows"]["train"]) for state in states if state.result is not None), None)


def _error_in(log: str, code: int) -> str:
    """The last error in the log of a failed run."""
    if code < 0:
        return f"ended by signal {-code}"
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    errors = [place for place, line in enumerate(lines) if line.startswith("error:")]
    last = lines[errors[-1] :] if errors else lines[-_LAST_LINES:]
    return " ".join(last).removeprefix("error:").strip() or f"ended with exit code {code}"


def _check_options(plan: Plan, folder: Path, states: Sequence[CellState]) -> None:
    """Refuse to mix runs of different options: a finished run must be the one that would be run now."""
    rows = _rows(states)
    for state in states:
        config = read_config(folder / RUNS / state.cell.name / run_folder.CONFIG)
        planned = plan.config(state.cell, config.output, rows, steps=_followed_steps(folder, state.cell))
        before, now = asdict(config), asdict(planned)
        for name in before:
            if name not in UNCHECKED and before[name] != now[name]:
                raise ArgumentError(
                    f"{folder} holds a comparison with other options: {state.cell.name} has {name} {before[name]!r}, "
                    f"now it would be {now[name]!r}. Choose another folder, or give the options it has."
                )
