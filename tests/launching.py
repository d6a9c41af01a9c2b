"""Tests of several processes: a launcher that imports once and forks the processes of each run."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

# Imports once, which takes longer than the training, and forks the processes of every job: a line of JSON with the
# arguments of each. It answers with their exit codes. When one fails it kills the others, which would block.
LAUNCHER = """
import json, os, signal, sys, traceback
from pathlib import Path
sys.path.insert(0, {tests!r})
import torch
torch.set_num_threads(1)
{body}

def forked(job):
    process = os.fork()
    if process:
        return process
    signal.alarm(240)
    os.dup2(2, 1)  # the Trainer prints, too
    try:
        run(**job)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)

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
        code = LAUNCHER.format(tests=str(Path(__file__).parent), body=body)
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
