"""Engines: what runs a function over many items, here in one process or several, or on Ray; an item is the retry.

The function and the items travel to other processes, so both are picklable; what an item produces is a file that
appears whole, and the small result that comes back. A worker that dies loses the item it was at, which is done again.
"""

from __future__ import annotations

import multiprocessing
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.connection import wait as wait_for
from typing import Any, Protocol, TypeVar

from datadiet.errors import ArgumentError, MissingExtraError, cut, quoted

ENGINES = ("local", "ray")
TRIES = 3  # of an item at which a worker dies
RAY_MISSING = "the engine ray needs Ray: pip install 'datadiet[ray]'"

Item = TypeVar("Item")
Result = TypeVar("Result")


class WorkerDiedError(RuntimeError):
    """A worker died at the same item again and again."""


class Engine(Protocol):
    """Runs a function over items.

    Attributes:
        workers: How many items are worked on at a time.
    """

    workers: int

    def run(self, function: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[tuple[Item, Result]]:
        """Each item with its result, as they are done.

        Raises:
            WorkerDiedError: If a worker dies at an item `TRIES` times.
        """


@contextmanager
def engine_of(
    name: str, *, workers: int | None = None, address: str | None = None, timeout: float = 10.0
) -> Iterator[Engine]:
    """An engine that is ready, and closed at the end of the block.

    Args:
        name: `local` or `ray`.
        workers: At a time; by default 1 process here, and of Ray all processors of the cluster.
        address: Of a Ray cluster; a local one is started without.
        timeout: Seconds that the cluster has to answer.

    Raises:
        MissingExtraError: If Ray is needed and not installed.
        ArgumentError: If no cluster answers at the address.
    """
    if name == "local":
        yield _Local() if workers in (None, 1) else _Processes(workers or 1)
        return
    with _ray(workers, address, timeout) as engine:
        yield engine


class _Local:
    """One item after the other, in this process."""

    workers = 1

    def run(self, function: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[tuple[Item, Result]]:
        for item in items:
            yield item, function(item)


class _Processes:
    """Processes of this machine, which share its threads."""

    def __init__(self, workers: int) -> None:
        self.workers = workers

    def run(self, function: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[tuple[Item, Result]]:
        waiting, tries = list(range(len(items)))[::-1], [0] * len(items)
        while waiting:
            running: dict[Future[Result], int] = {}
            context = _context(function.__module__)
            with ProcessPoolExecutor(
                min(self.workers, len(waiting)), context, _begin_worker, (_threads(self.workers),)
            ) as pool:
                try:
                    while waiting or running:
                        while waiting and len(running) < self.workers:
                            number = waiting.pop()
                            tries[number] += 1
                            try:
                                running[pool.submit(function, items[number])] = number
                            except BrokenProcessPool:
                                waiting.append(number)
                                raise
                        for future in wait(running, return_when=FIRST_COMPLETED).done:
                            result = future.result()
                            number = running.pop(future)
                            yield items[number], result
                except BrokenProcessPool as error:
                    lost = [number for future, number in running.items() if not _finished(future)]
                    for future, number in running.items():
                        if number not in lost:
                            yield items[number], future.result()
                    if dead := [number for number in lost if tries[number] >= TRIES]:
                        raise WorkerDiedError(_died(items[dead[0]])) from error
                    waiting += lost[::-1]
                finally:
                    for future in running:
                        future.cancel()


def _context(module: str) -> multiprocessing.context.BaseContext:
    """How workers begin: as copies of a process that has imported what they need, and has run nothing."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([module])
    return context


def _finished(future: Future[Any]) -> bool:
    return future.done() and future.exception() is None


def _died(item: object) -> str:
    return f"a worker died {TRIES} times at {cut(str(getattr(item, 'name', item)))}: is there enough memory for it?"


def _threads(workers: int) -> int:
    return max(1, (os.cpu_count() or 1) // workers)


def _begin_worker(threads: int) -> None:
    """So many threads, and no life without the process that has started this one."""
    _take_threads(threads)
    parent = multiprocessing.parent_process()
    assert parent is not None  # this is a worker

    def follow() -> None:
        wait_for([parent.sentinel])
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def _take_threads(threads: int) -> None:
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ[name] = str(threads)
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(threads)


# ---- Ray


class _Ray:
    """Tasks of a Ray cluster; Ray does an item again where a worker or its machine dies."""

    def __init__(self, ray: Any, workers: int, threads: int, gpus: float) -> None:
        self._ray, self.workers, self._threads, self._gpus = ray, workers, threads, gpus

    def run(self, function: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[tuple[Item, Result]]:
        ray = self._ray
        remote = ray.remote(num_cpus=1, num_gpus=self._gpus, max_retries=TRIES - 1)(_called)
        waiting = list(range(len(items)))[::-1]
        running: dict[Any, int] = {}
        try:
            while waiting or running:
                while waiting and len(running) < self.workers:
                    number = waiting.pop()
                    running[remote.remote(self._threads, function, items[number])] = number
                for reference in ray.wait(list(running))[0]:
                    number = running.pop(reference)
                    try:
                        result = ray.get(reference)
                    except ray.exceptions.RayTaskError as error:
                        raise error.cause from error
                    except ray.exceptions.RayError as error:
                        raise WorkerDiedError(_died(items[number])) from error
                    yield items[number], result
        finally:
            for reference in running:
                ray.cancel(reference)


def _called(threads: int, function: Callable[[Any], Any], item: Any) -> Any:
    _take_threads(threads)
    return function(item)


@contextmanager
def _ray(workers: int | None, address: str | None, timeout: float) -> Iterator[_Ray]:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # as future versions do, and without a warning
    try:
        import ray as library
    except ImportError as error:
        raise MissingExtraError(RAY_MISSING) from error
    ray: Any = library  # untyped
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR", "configure_logging": True}
    if address is None:
        cores = workers or os.cpu_count() or 1
        ray.init(address="local", num_cpus=cores, include_dashboard=False, **quiet)
    else:
        _check_answer(address, timeout)
        ray.init(address=address, **quiet)
    try:
        resources = ray.cluster_resources()
        number = workers or max(1, int(resources.get("CPU", 1)))
        gpus = min(1.0, float(resources.get("GPU", 0)) / number)
        yield _Ray(ray, number, _threads(number) if address is None else 1, gpus)
    finally:
        ray.shutdown()


_PROBE = "import ray, sys; ray.init(address=sys.argv[1], log_to_driver=False, logging_level='CRITICAL')"


def _check_answer(address: str, timeout: float) -> None:
    """Refuse an address at which no cluster answers in time; Ray itself would try on for minutes, or end the process.

    Raises:
        ArgumentError: With the reason.
    """
    began = time.monotonic()
    reason = "no answer"
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        if port.isdecimal():
            socket.create_connection((host.strip("[]"), int(port)), timeout).close()
        left = max(0.1, timeout - (time.monotonic() - began))
        command = [sys.executable, "-c", _PROBE, address]
        if subprocess.run(command, capture_output=True, timeout=left, check=False).returncode == 0:
            return
        reason = "what answers is no Ray cluster of this version"
    except subprocess.TimeoutExpired:
        pass
    except (OSError, OverflowError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or str(error) or reason
    raise ArgumentError(
        f"--ray-address must be a Ray cluster that answers within {timeout:g} s, got {quoted(address)} ({reason}). "
        "Start one with: ray start --head; or leave it out for a cluster on this machine."
    )
