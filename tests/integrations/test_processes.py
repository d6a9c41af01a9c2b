"""One and two processes: the same plan, and values that agree."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from accelerate import Accelerator

from datadiet.integrations.distributed import exchange, share_of
from datadiet.records import Scores

SCRIPT = """
import sys, json
from pathlib import Path
sys.path[:0] = {paths!r}
import numpy as np, torch
torch.set_num_threads(1)
from toytrain import toy_trainer
from datadiet.diet import Diet
folder = Path({folder!r})
options = {options!r}
diet = Diet(keep=0.5, refresh_every=1, **{diet!r})
trainer = toy_trainer(folder, diet, **options)
trainer.train(resume_from_checkpoint={resume!r})
rank = trainer.args.process_index
plan = trainer.diet.plan(3).rows.tolist()
(folder / f"rank{{rank}}.json").write_text(json.dumps({{"plan": plan, "steps": trainer.state.global_step,
    "rate": trainer.lr_scheduler.get_last_lr()[0], "forward": trainer.ledger.snapshot().examples_forward}}))
torch.distributed.is_initialized() and torch.distributed.destroy_process_group()
"""


def free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return int(listening.getsockname()[1])


def train(folder: Path, processes: int, batch: int, *, resume: str | None = None, diet: dict | None = None, **options):
    folder.mkdir(exist_ok=True)
    settings = {"per_device_train_batch_size": batch, **options}
    paths = [str(Path(__file__).parent.parent)]
    code = SCRIPT.format(paths=paths, folder=str(folder), options=settings, resume=resume, diet=diet or {})
    port, running = str(free_port()), []
    for rank in range(processes):
        env = {**os.environ, "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
        if processes > 1:
            env |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(processes)}
            env |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        running.append(subprocess.Popen([sys.executable, "-c", code], env=env, stderr=subprocess.PIPE, text=True))
    for process in running:
        _, errors = process.communicate(timeout=240)
        assert process.returncode == 0, errors[-3000:]
    return [json.loads((folder / f"rank{rank}.json").read_text()) for rank in range(processes)]


def history_of(folder: Path):
    from datadiet.store import read_table

    return read_table(folder / "scores").to_pandas()


@pytest.mark.slow
@pytest.mark.parametrize(
    "diet",
    [{"rescore": "all"}, {"score": "cross_entropy", "select": "infobatch"}],
    ids=["all", "none, with weights"],
)
def test_two_processes_make_the_same_plan_as_one(tmp_path, diet):
    (one,) = train(tmp_path / "one", 1, 4, diet=diet)
    two = train(tmp_path / "two", 2, 2, diet=diet)
    assert two[0]["plan"] == two[1]["plan"] == one["plan"]
    assert two[0]["steps"] == one["steps"] == 30
    assert two[0]["rate"] == one["rate"] == 0.0
    assert two[0]["forward"] + two[1]["forward"] == one["forward"]
    ours, theirs = history_of(tmp_path / "two"), history_of(tmp_path / "one")
    keys = ["epoch", "source", "row"]
    ours, theirs = ours.sort_values(keys), theirs.sort_values(keys)
    assert ours["row"].tolist() == theirs["row"].tolist()
    assert np.abs(ours["el2n"].to_numpy() - theirs["el2n"].to_numpy()).max() < 1e-5


@pytest.mark.slow
def test_resuming_two_processes_inside_an_epoch_replays_its_plan(tmp_path):
    saving = {"save_strategy": "steps", "save_steps": 5}
    whole = train(tmp_path / "whole", 2, 2, **saving)
    resumed = train(tmp_path / "resumed", 2, 2, resume=str(tmp_path / "whole" / "checkpoint-15"), **saving)
    assert resumed[0]["plan"] == resumed[1]["plan"] == whole[0]["plan"]
    assert resumed[0]["steps"] == whole[0]["steps"]


class Ranks:
    """Stands for the accelerator of rank 0, with what the other rank would send."""

    num_processes, process_index, device = 2, 0, "cpu"

    def __init__(self, other: Scores) -> None:
        self.other = other

    def gather(self, tensor):
        import torch

        rows = torch.from_numpy(self.other.rows)
        if tensor.dtype == torch.int64 and tensor.numel() == 1:
            return torch.tensor([int(tensor[0]), len(rows)])
        theirs = torch.zeros_like(tensor)
        sent = rows if tensor.dtype == torch.int64 else torch.from_numpy(self.other.values["el2n"])[:, None]
        theirs[: len(sent)] = sent
        assert tensor.dtype in (torch.int64, torch.float32)  # rows never travel as floats
        return torch.cat([tensor, theirs])


def scores(rows, values):
    return Scores(np.array(rows, np.int64), {"el2n": np.array(values, np.float32)}, "train", 0, 0)


def test_exchange_keeps_each_row_once_and_large_rows_exact():
    big = 2**40 + 1
    merged = exchange(scores([2, 7, big], [0.2, 0.7, 0.9]), ("el2n",), Ranks(scores([3, 7], [0.3, 0.5])))
    assert merged.rows.tolist() == [2, 3, 7, big]
    assert merged.values["el2n"].tolist() == pytest.approx([0.2, 0.3, 0.7, 0.9])


def test_exchange_of_one_process_is_what_it_was():
    mine = scores([1], [0.5])
    assert exchange(mine, ("el2n",), Accelerator(cpu=True)) is mine


def test_shares_cover_all_rows_once():
    class Rank:
        num_processes = 3

        def __init__(self, index):
            self.process_index = index

    parts = [share_of(np.arange(10), Rank(index)) for index in range(3)]
    assert sorted(np.concatenate(parts)) == list(range(10))
