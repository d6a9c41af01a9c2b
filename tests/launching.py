"""Tests of several processes: a launcher that imports once and forks the processes of each run; forked programs."""

from __future__ import annotations

import json
import os
import runpy
import socket
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.forking import started_copy

TESTS = Path(__file__).parent


def unwaited(file: Any) -> None:
    """For `os.fsync`: runs of a few rows write thousands of files, and each would wait; a closed one still fails."""
    os.fstat(file if isinstance(file, int) else file.fileno())


# Imports once, which takes longer than the training, and forks the processes of every job: a line of JSON with the
# arguments of each. It answers with their exit codes. When one fails it kills the others, which would block.
LAUNCHER = """
import json, os, signal, sys
from pathlib import Path
sys.path[:0] = {paths!r}
import torch
from benchmarks.forking import started_copy
torch.set_num_threads(1)
{body}

def forked(job):
    return started_copy(lambda: run(**job), stdout=sys.stderr, seconds=240)  # the Trainer prints, too

for line in sys.stdin:
    running, codes = [forked(job) for job in json.loads(line)], []
    while len(codes) < len(running):
        process, status = os.wait()
        codes.append(os.waitstatus_to_exitcode(status))
        running = [None if one == process else one for one in running]
        for other in running:
            codes[-1] and other and os.kill(other, signal.SIGKILL)
    print(json.dumps(codes), flush=True)
"""


class Launcher:
    """Trains in processes of their own, one or several at a time.

    Args:
        errors: A file for what they say.
        body: Code that defines `run(environment, folder, diet, options, resume)`, which writes rankN.json.
    """

    def __init__(self, errors: Path, body: str) -> None:
        self._errors = errors
        code = LAUNCHER.format(paths=[str(TESTS), str(TESTS.parent)], body=body)
        env = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
        with errors.open("w") as said:
            self._process = subprocess.Popen(
                [sys.executable, "-c", code], env=env, text=True, stderr=said,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            )  # fmt: skip

    def train(self, folder: Path, processes: int, batch: int, *, resume: Path | None = None, diet=None, **options):
        folder.mkdir(exist_ok=True)
        job = {"folder": str(folder), "diet": diet or {}, "resume": None if resume is None else str(resume)}
        job["options"] = {"per_device_train_batch_size": batch, **options}
        together = {"WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
        ranks = [{"RANK": str(rank), "LOCAL_RANK": str(rank), **together} for rank in range(processes)]
        jobs = [{"environment": rank if processes > 1 else {}, **job} for rank in ranks]
        self._process.stdin.write(json.dumps(jobs) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, self._errors.read_text()[-3000:]
        assert json.loads(answer) == [0] * processes, self._errors.read_text()[-3000:]
        return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(processes)]

    def end(self) -> None:
        self._process.stdin.close()
        self._process.stdout.close()
        assert self._process.wait(timeout=10) == 0


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


RUN = subprocess.run


def forked(command: Sequence[str], **options: Any) -> subprocess.CompletedProcess[str]:
    """`subprocess.run` of a Python program, in a copy of this process, without the seconds of its imports.

    Its output is captured, and shown where it need not be; what is not Python starts as it would. For programs of which
    the memory of the process, and what it imports, do not matter.
    """
    if command[0] != sys.executable or command[1] not in ("-m", "-c"):
        return RUN(command, **options)
    with tempfile.TemporaryFile("w+") as said, tempfile.TemporaryFile("w+") as complained:
        program = partial(_program, list(command[1:]), options)
        process = started_copy(program, stdout=said, stderr=complained)
        code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        for stream in (said, complained):
            stream.seek(0)
        done = subprocess.CompletedProcess(command, code, said.read(), complained.read())
    if not options.get("capture_output"):
        sys.stdout.write(done.stdout)
        sys.stderr.write(done.stderr)
    if options.get("check"):
        done.check_returncode()
    return done


def _program(arguments: list[str], options: dict[str, Any]) -> None:
    """The program, in the copy."""
    subprocess.run = RUN
    warnings.resetwarnings()  # errors in tests; one tells that the module is imported already
    sys.stdout, sys.stderr = (os.fdopen(number, "w", closefd=False) for number in (1, 2))
    os.environ.update(options.get("env") or {})
    os.chdir(options.get("cwd") or ".")
    kind, program, *sys.argv[1:] = arguments
    if kind == "-m":
        runpy.run_module(program, run_name="__main__", alter_sys=True)
    else:
        exec(program, {"__name__": "__main__"})
