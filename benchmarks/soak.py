"""Kill a run at seeded moments by SIGKILL, resume it, and compare it with one that was left alone (`make soak`).

    python -m benchmarks.soak [--kills 30] [--seed 0]

A tiny run of each kind on toy data. Every second kill comes at some moment of the run, the others while the run brings
a file to the disk or renames it; a killed run is resumed, and in one case of three killed again. What must be the same
to the last bit: weights, metrics, predictions, scores and plans. Exit code 1 where something differs.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from itertools import chain, repeat
from pathlib import Path
from typing import Any

from benchmarks.snapshot import QUIET, forked, tiny_model, tiny_tokenizer, write_data

# options by task: much of what a state holds
KINDS: dict[str, dict[str, Any]] = {
    "classification": {"select": "hardest", "offset": "auto", "rescore": "dropped"},
    "intent-slot": {"select": "auto", "history": "ema", "early_stopping": 3},
}


def config_of(kind: str, folder: str) -> Any:
    """Of the run that is killed."""
    from datadiet.config import FinetuneConfig

    return FinetuneConfig(
        data=f"data/{kind}", task=kind, model="tiny", output=folder, epochs=4, batch_size=8, learning_rate=1e-2,
        precision="fp32", refresh_every=1, **KINDS[kind],
    )  # fmt: skip


def train(kind: str, folder: str, die: Callable[[], bool] | None = None) -> None:
    """Start a run, or go on with it; ends the process where `die` says so, at a write."""
    from datadiet import files
    from datadiet.jobs.finetune import finetune, resume_run

    if die is not None:
        for owner, name in ((os, "fsync"), (Path, "replace"), (files, "seal_of")):
            setattr(owner, name, _dying(getattr(owner, name), die))
    if (Path(folder) / "config.yaml").is_file():
        resume_run(Path(folder))
    else:
        finetune(config_of(kind, folder))


def _dying(work: Callable[..., Any], die: Callable[[], bool]) -> Callable[..., Any]:
    def dying(*args: Any, **kwargs: Any) -> Any:
        if die():
            os.kill(os.getpid(), signal.SIGKILL)
        return work(*args, **kwargs)

    return dying


def state_of(folder: Path) -> dict[str, Any]:
    """What two runs of the same options have in common."""
    from datadiet.store.run_folder import read_result
    from datadiet.store.tables import read_table

    result = read_result(folder)
    lines = [(line["kept"], line["steps"], line["tokens"], line["dev"]) for line in result["epochs"]]
    tables = {name: read_table(folder / name).to_pandas().to_csv() for name in ("scores", "plans")}
    files = {name: (folder / name).read_bytes() for name in ("model/model.safetensors", "predictions.parquet")}
    return {"metrics": result["metrics"], "epochs": lines, "noise": result["noise"], **tables, **files}


def alone(kind: str) -> None:
    """A run that is left alone; notes its writes."""
    writes: list[int] = []
    train(kind, kind, die=lambda: bool(writes.append(0)))
    Path(f"{kind}.writes").write_text(str(len(writes)))


def killed(kind: str, number: int, seconds: float, rng: random.Random) -> list[str]:
    """Kill a run, resume it, and say what came of it: the kills, and what differs."""
    writes = int(Path(f"{kind}.writes").read_text())
    folder, kills = f"{kind}-{number}", []
    for attempt in range(1 + (number % 3 == 0)):
        if number % 2:
            moment = rng.uniform(0, seconds)
            process = forked(folder, partial(train, kind, folder))
            time.sleep(moment)
            os.kill(process, signal.SIGKILL)
            kills.append(f"{moment:.2f} s")
        else:
            number_of_write = rng.randrange(writes // (attempt + 1))
            die = partial(next, chain(repeat(False, number_of_write), [True]))
            process = forked(folder, partial(train, kind, folder, die))
            kills.append(f"write {number_of_write} of {writes}")
        os.waitpid(process, 0)
        if (Path(folder) / "result.json").is_file():
            kills[-1] += " (it had finished)"
            break
    if not (Path(folder) / "result.json").is_file():
        process = forked(folder, partial(train, kind, folder))
        if os.waitpid(process, 0)[1]:
            return [*kills, "not resumed: " + Path(f"{folder}.err").read_text(encoding="utf-8").strip()[-300:]]
    whole, resumed = state_of(Path(kind)), state_of(Path(folder))
    differing = [name for name in whole if whole[name] != resumed[name]]
    shutil.rmtree(folder)
    return [*kills, *(f"{name} differs" for name in differing)]


def main() -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=30, help="how many runs are killed")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    arguments = parser.parse_args()
    os.environ.update(QUIET)
    import torch

    import datadiet.jobs.finetune  # noqa: F401  (once, for all processes)

    torch.set_num_threads(1)
    bad = 0
    with tempfile.TemporaryDirectory() as home:
        os.chdir(home)
        tiny_model("AutoModel").save_pretrained("tiny")
        tiny_tokenizer().save_pretrained("tiny")
        seconds = {}
        for kind in KINDS:
            write_data(Path("data", kind), kind, 96)
            began = time.perf_counter()
            os.waitpid(forked(kind, partial(alone, kind)), 0)
            seconds[kind] = time.perf_counter() - began
        for number in range(arguments.kills):
            kind = list(KINDS)[number // 2 % len(KINDS)]
            found = killed(kind, number, seconds[kind], random.Random(f"{arguments.seed} {number}"))
            wrong = [one for one in found if "differs" in one or "not resumed" in one]
            bad += bool(wrong)
            print(f"{number + 1:3} {kind}: {', '.join(found)}: {'WRONG' if wrong else 'the same'}", flush=True)
        os.chdir("/")
    print(f"{arguments.kills - bad} of {arguments.kills} killed runs ended as the one that was left alone")
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
