"""Language models in two processes: the rows, the tokens, the divisor and the steps are those of one."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

from launching import Launcher
from toys import plans_of

pytestmark = [pytest.mark.slow, pytest.mark.skipif(find_spec("trl") is None, reason="needs trl")]

RUN = """
sys.path.insert(0, HERE)
import numpy as np
import test_tokens, test_trl
from datadiet.diet.diet import Diet
from toys import weights

def run(environment, folder, diet, options, resume):
    os.environ.update(environment)
    of_trl = options.pop("of_trl", False)
    if of_trl:
        row_weights = np.arange(1.0, test_trl.ROWS + 1) if options.pop("weighs") else None
        trainer, losses, _ = test_trl.trained(
            folder, test_trl.READY, Diet(**diet), args=options, row_weights=row_weights
        )
        steps = []
    else:
        options |= {"resume": resume, "kind": test_tokens.Watching}
        trainer = test_tokens.trainer_of(Path(folder), diet=diet, **options)
        losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
        labels = lambda batch: int((batch["labels"][:, 1:] != -100).sum())
        steps = [(epoch, labels(batch), int(kwargs["num_items_in_batch"])) for epoch, batch, kwargs in trainer.batches]
    result = {
        "weights": weights(trainer.model).double()[::7].tolist(), "losses": losses, "batches": steps,
        "tokens": trainer.tokens and trainer.tokens.summary(), "steps": trainer.state.global_step,
        "baselines": trainer._batch_chooser and {
            name: values.tolist() for name, values in trainer._batch_chooser.state()[0].items()
        },
        "backward": trainer.ledger.snapshot().examples_backward,
    }
    Path(folder, f"rank{trainer.args.process_index}.json").write_text(json.dumps(result))
    torch.distributed.is_initialized() and torch.distributed.destroy_process_group()
"""


@pytest.fixture(scope="module")
def launcher(tmp_path_factory):
    made = Launcher(tmp_path_factory.mktemp("launcher") / "errors", f"HERE = {str(Path(__file__).parent)!r}\n{RUN}")
    yield made
    made.end()


@pytest.mark.parametrize("weighs", [False, True])
def test_sft_chooses_the_rows_of_one_process_and_makes_its_steps(weighs, tmp_path, launcher):
    diet = {"select": "hardest", "score": "cross_entropy", "combine": "mean", "keep": 0.67, "seed": 1}
    options = {"diet": diet, "of_trl": True, "weighs": weighs, "num_train_epochs": 3, "logging_steps": 1}
    (one,) = launcher.train(tmp_path / "one", 1, 4, **options)
    two = launcher.train(tmp_path / "two", 2, 2, **options)
    assert plans_of(tmp_path / "two") == plans_of(tmp_path / "one")
    assert len(plans_of(tmp_path / "one")[2]) < len(plans_of(tmp_path / "one")[0])
    assert sum(run["backward"] for run in two) == one["backward"]
    assert two[0]["weights"] == two[1]["weights"] == pytest.approx(one["weights"], rel=1e-4, abs=1e-6)
    assert two[0]["losses"] == pytest.approx(one["losses"], rel=1e-3)


def test_pruned_tokens_are_those_of_one_process_and_so_is_the_divisor(tmp_path, launcher):
    options = {"diet": {"seed": 1}, "tokens": "q_tuning(keep=0.5)", "gradient_accumulation_steps": 2}
    (one,) = launcher.train(tmp_path / "one", 1, 4, **options)
    two = launcher.train(tmp_path / "two", 2, 2, **options)
    assert [run["tokens"] for run in two] == [one["tokens"]] * 2
    assert 0 < one["tokens"]["trained"] < one["tokens"]["seen"]
    for (epoch, kept, items), *others in zip(one["batches"], *(run["batches"] for run in two), strict=True):
        assert kept == sum(ours for _, ours, _ in others)
        assert [(of, theirs) for of, _, theirs in others] == [(epoch, items)] * 2
    assert two[0]["weights"] == two[1]["weights"] == pytest.approx(one["weights"], rel=1e-4, abs=1e-6)
    assert two[0]["losses"] == pytest.approx(one["losses"], rel=1e-3)


@pytest.mark.cpu
def test_a_resumed_run_knows_the_tokens_that_the_other_process_has_seen(tmp_path, launcher):
    options = {"diet": {"seed": 1}, "tokens": "q_tuning(keep=0.5)", "save_strategy": "steps", "save_steps": 2}
    whole = launcher.train(tmp_path / "whole", 2, 2, **options)
    resumed = launcher.train(tmp_path / "resumed", 2, 2, resume=tmp_path / "whole" / "checkpoint-4", **options)
    assert whole[0]["steps"] == 9  # the fourth is inside an epoch
    assert resumed[0]["weights"] == whole[0]["weights"]
    assert resumed[0]["tokens"] == whole[0]["tokens"]


def test_a_choice_within_the_batches_of_each_process_divides_by_the_tokens_of_all(tmp_path, launcher):
    options = {"diet": {"seed": 1, "select": "q_tuning"}, "tokens": "q_tuning(keep=0.5)"}
    two = launcher.train(tmp_path / "two", 2, 4, gradient_accumulation_steps=2, **options)
    assert two[0]["weights"] == two[1]["weights"]
    pairs = list(zip(*(run["batches"] for run in two), strict=True))
    done, place = 0, 0
    while place < len(pairs):
        (_, _, items), _ = pairs[place]
        step = [pair for pair in pairs[place : place + 2] if pair[0][2] == items and pair[0][0] == pairs[place][0][0]]
        assert {theirs for pair in step for _, _, theirs in pair} == {items}
        assert sum(kept for pair in step for _, kept, _ in pair) == items
        place, done = place + len(step), done + 1
    assert done == two[0]["steps"]


@pytest.mark.cpu
def test_baselines_are_those_of_all_processes_also_after_a_resume(tmp_path, launcher):
    options = {"diet": {"seed": 1, "select": "ir_dro(ema=0.3)"}, "tokens": None}
    options |= {"save_strategy": "steps", "save_steps": 2}
    whole = launcher.train(tmp_path / "whole", 2, 2, **options)
    resumed = launcher.train(tmp_path / "resumed", 2, 2, resume=tmp_path / "whole" / "checkpoint-4", **options)
    assert resumed[0]["weights"] == whole[0]["weights"]
    assert resumed[0]["baselines"] == resumed[1]["baselines"] == whole[0]["baselines"] == whole[1]["baselines"]
    assert min(whole[0]["baselines"]["means"]) > 0  # every row has one
