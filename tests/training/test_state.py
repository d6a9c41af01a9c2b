"""The state of a run: its last checkpoint, and exchange between one and two processes."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from datadiet.training.state import exchange, last_checkpoint, save_diet, share_of
from datadiet.types import Scores
from launching import Launcher
from toys import plans_of, scores_of

RUN = """
from toys import hard_diet, toy_trainer, weights

def run(environment, folder, diet, options, resume):
    os.environ.update(environment)
    trainer = toy_trainer(Path(folder), hard_diet(**{"keep": 0.5, "refresh_every": 1, **diet}), **options)
    trainer.train(resume_from_checkpoint=resume)
    result = {"plan": trainer.diet.plan(3).rows.tolist(), "steps": trainer.state.global_step,
        "rate": trainer.lr_scheduler.get_last_lr()[0], "weights": float(weights(trainer.model).double().abs().sum()),
        "race": trainer.diet.race and trainer.diet.race.state()["duels"],
        "forward": trainer.ledger.snapshot().examples_forward}
    Path(folder, f"rank{trainer.args.process_index}.json").write_text(json.dumps(result))
    torch.distributed.is_initialized() and torch.distributed.destroy_process_group()
"""


@pytest.fixture(scope="module")
def launcher(tmp_path_factory):
    made = Launcher(tmp_path_factory.mktemp("launcher") / "errors", RUN)
    yield made
    made.end()


def counts_of(folder):
    """Examples and tokens of all processes, the ceiling, and the tokens of each epoch, of a result."""
    result = json.loads((folder / "result.json").read_text())
    counts = {name: count for name, count in result["cost"].items() if name.endswith(("_forward", "_backward"))}
    return counts, result["ceiling"], [line["tokens"] for line in result["epochs"]]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("diet", "processes", "rows"),
    [
        ({"rescore": "all"}, 2, 48),
        ({"score": "cross_entropy", "select": "infobatch", "warmup_epochs": 2}, 2, 53),
        ({"offset": "auto"}, 3, 50),
    ],
    ids=["all", "none, with weights, a last batch that is filled", "none, guarded, two batches that are filled"],
)
def test_several_processes_make_the_same_plans_as_one(tmp_path, launcher, diet, processes, rows):
    options = {"diet": diet, "n": rows, "train_sampling_strategy": "random" if rows % 2 == 0 else "group_by_length"}
    (one,) = launcher.train(tmp_path / "one", 1, 2 * processes, **options)
    runs = launcher.train(tmp_path / "several", processes, 2, **options)
    assert all(run["plan"] == one["plan"] for run in runs)
    assert plans_of(tmp_path / "several") == plans_of(tmp_path / "one")
    assert runs[0]["steps"] == one["steps"]
    assert runs[0]["rate"] == one["rate"] == 0.0
    if rows == 48:
        assert sum(run["forward"] for run in runs) == one["forward"]
    ours, theirs = scores_of(tmp_path / "several"), scores_of(tmp_path / "one")
    keys = ["epoch", "source", "row"]
    ours, theirs = ours.sort_values(keys), theirs.sort_values(keys)
    assert ours["row"].tolist() == theirs["row"].tolist()
    name = diet.get("score", "el2n")
    assert np.abs(ours[name].to_numpy() - theirs[name].to_numpy()).max() < 1e-5


@pytest.mark.slow
def test_two_processes_run_the_same_race_as_one(tmp_path, launcher):
    options = {"n": 192, "dev": 60, "diet": {"select": "auto(share=0.4)", "keep": 0.25, "seed": 1}}
    (one,) = launcher.train(tmp_path / "one", 1, 4, **options)
    two = launcher.train(tmp_path / "two", 2, 2, **options)
    assert two[0]["weights"] == two[1]["weights"] == pytest.approx(one["weights"], rel=1e-5)
    assert two[0]["plan"] == two[1]["plan"] == one["plan"]
    assert two[0]["steps"] == two[1]["steps"] == one["steps"] == 48 + 3 * 12
    assert two[0]["forward"] + two[1]["forward"] == one["forward"]
    assert counts_of(tmp_path / "two") == counts_of(tmp_path / "one")
    races = [run["race"] for run in (*two, one)]
    assert [[(duel["epoch"], duel["winner"], duel["steps"], duel["dev_rows"]) for duel in race] for race in races] == [
        [(1, races[2][0]["winner"], 6, 60)]
    ] * 3
    assert two[0]["race"][0]["losses"] == two[1]["race"][0]["losses"] == pytest.approx(one["race"][0]["losses"])


@pytest.mark.slow
def test_resuming_two_processes_inside_an_epoch_replays_its_plan(tmp_path, launcher):
    saving = {"save_strategy": "steps", "save_steps": 5}
    whole = launcher.train(tmp_path / "whole", 2, 2, **saving)
    resumed = launcher.train(tmp_path / "resumed", 2, 2, resume=tmp_path / "whole" / "checkpoint-15", **saving)
    assert resumed[0]["plan"] == resumed[1]["plan"] == whole[0]["plan"]
    assert resumed[0]["steps"] == whole[0]["steps"]
    assert counts_of(tmp_path / "resumed") == counts_of(tmp_path / "whole")


def test_the_last_checkpoint_is_the_complete_one_with_the_largest_number(tmp_path):
    assert last_checkpoint(tmp_path / "checkpoints", None) == (None, [])
    for name in ("checkpoint-9", "checkpoint-10", "checkpoint-best", "checkpoint-100.part", "checkpoint-11"):
        (tmp_path / name).mkdir()
        if name != "checkpoint-11":  # half-written
            save_diet(tmp_path / name, {"values": np.zeros(2)}, {})
    found, problems = last_checkpoint(tmp_path, None)
    assert found == tmp_path / "checkpoint-10"
    assert problems == [f"{tmp_path / 'checkpoint-11' / 'diet_state.json'} is missing, which is written last"]


class Ranks:
    """Stands for the accelerator of rank 0, with what the other rank would send."""

    num_processes, process_index, device = 2, 0, "cpu"

    def __init__(self, other: Scores) -> None:
        self.other = other

    def gather(self, tensor):
        rows = torch.from_numpy(self.other.rows)
        if tensor.dtype == torch.int64 and tensor.numel() == 1:
            return torch.tensor([int(tensor[0]), len(rows)])
        theirs = torch.zeros_like(tensor)
        sent = rows
        if tensor.dtype != torch.int64:
            sent = torch.stack([torch.from_numpy(values) for values in self.other.values.values()], dim=1)
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


def test_of_a_row_that_two_processes_have_the_value_that_was_seen_first_stays():
    mine, theirs = scores([2, 5, 7], [0.2, 0.5, 0.7]), scores([2, 5, 7], [0.3, 0.6, 0.8])
    for one, moments in ((mine, [3, 1, 2]), (theirs, [1, 3, 2])):
        one.values["moment"] = np.array(moments, np.float32)
    merged = exchange(mine, ("el2n", "moment"), Ranks(theirs))
    assert merged.rows.tolist() == [2, 5, 7]
    assert merged.values["el2n"].tolist() == pytest.approx([0.3, 0.5, 0.7])  # of one moment, that of the lowest rank
    assert merged.values["moment"].tolist() == [1, 1, 2]


@pytest.mark.cpu
def test_exchange_of_one_process_is_what_it_was():
    mine = scores([1], [0.5])
    assert exchange(mine, ("el2n",), Accelerator(cpu=True)) is mine


def test_shares_cover_all_rows_once():
    ranks = [SimpleNamespace(num_processes=3, process_index=index) for index in range(3)]
    parts = [share_of(np.arange(10), rank) for rank in ranks]
    assert sorted(np.concatenate(parts)) == list(range(10))
