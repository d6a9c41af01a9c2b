"""A run that is killed and resumed ends as if nothing had happened."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import Trainer

from datadiet.config import FinetuneConfig
from datadiet.errors import ArgumentError, DataError
from datadiet.files import read_json, write_json
from datadiet.jobs import finetune as run_trainer
from datadiet.jobs.finetune import RunTrainer, finetune, resume_run
from datadiet.training.state import last_checkpoint
from toys import SECONDS, Heard, Killed, plans_of, predictions_of, rewrite, scores_of, toy_config, weights_of

pytestmark = pytest.mark.cpu  # bit-identical only there


@pytest.fixture(autouse=True)
def _report_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_trainer, "REPORT_EVERY_S", 0.0)


def kill(config: FinetuneConfig, step: int) -> None:
    with pytest.raises(Killed):
        finetune(config, listener=Heard(die_at=step))
    assert not (Path(config.output) / "result.json").exists()


def assert_same(whole: dict[str, Any], resumed: dict[str, Any], one: Path, two: Path) -> None:
    """The same metrics, plans, scores, predictions and weights, and a ledger that counts both parts."""
    assert resumed["metrics"] == whole["metrics"]
    fixed = ("epoch", "kept", "dropped", "steps", "tokens", "dev")
    lines = [[{name: line[name] for name in fixed} for line in result["epochs"]] for result in (whole, resumed)]
    assert lines[1] == lines[0]
    losses = [[line["train_loss"] for line in result["epochs"]] for result in (whole, resumed)]
    assert losses[1] == pytest.approx(losses[0])
    counts = ("examples_forward", "examples_backward", "tokens_forward", "tokens_backward")
    assert {name: resumed["cost"][name] for name in counts} == {name: whole["cost"][name] for name in counts}
    assert resumed["ceiling"] == whole["ceiling"]
    assert sum(resumed["cost"][name] for name in SECONDS) == pytest.approx(resumed["cost"]["total_s"])
    assert plans_of(two) == plans_of(one)
    assert scores_of(two).equals(scores_of(one))
    assert predictions_of(two).equals(predictions_of(one))
    mine, theirs = weights_of(two), weights_of(one)
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)
    assert not (two / "checkpoints").exists()


@pytest.mark.parametrize(
    ("kind", "step", "options"),
    [
        ("classification", 3, {}),  # before the first checkpoint
        ("classification", 7, {"rescore": "all", "refresh_every": 1}),  # the first step after one
        ("classification", 11, {"history": "ema", "select": "uncertain"}),
        ("classification", 15, {"select": "random"}),  # at the last step
        ("intent-slot", 11, {"rescore": "dropped"}),
        ("classification", 19, {"tolerance": 20.0}),
        ("regression", 8, {"gradient_accumulation": 2, "batch_size": 4}),
        ("pairs", 20, {"keep": 1.0}),
        ("classification", 13, {"keep": 1.0, "max_steps": 15}),
        ("classification", 14, {"checkpoint_every": 2}),
        ("intent-slot", 10, {"lora": 2}),
    ],
)
def test_resumed_is_as_uninterrupted(tmp_path: Path, kind: str, step: int, options: dict[str, Any]) -> None:
    config = toy_config(tmp_path, kind, dropout=0.1, **options)
    whole = finetune(config)
    second = replace(config, output=str(tmp_path / "second"))
    kill(second, step)
    listener = Heard()
    resumed = resume_run(tmp_path / "second", listener=listener)
    assert_same(whole, resumed, tmp_path / "run", tmp_path / "second")
    first = {3: 1, 14: 10}.get(step)  # the step after the checkpoint, where it is told here
    assert first is None or listener.steps[0].step == first
    assert listener.steps[-1].step == whole_steps(whole)


def whole_steps(result: dict[str, Any]) -> int:
    return sum(line["steps"] for line in result["epochs"])


def test_resumed_twice(tmp_path: Path) -> None:
    config = toy_config(tmp_path, dropout=0.1)
    whole = finetune(config)
    kill(replace(config, output=str(tmp_path / "second")), 8)
    with pytest.raises(Killed):
        resume_run(tmp_path / "second", listener=Heard(die_at=13))
    assert_same(whole, resume_run(tmp_path / "second"), tmp_path / "run", tmp_path / "second")


def test_seconds_of_both_parts_are_counted(tmp_path: Path) -> None:
    kill(toy_config(tmp_path), 8)
    state = next((tmp_path / "run" / "checkpoints").glob("checkpoint-*/diet_state.json"))
    numbers = read_json(state, "state")
    numbers["run_so_far"]["cost"]["train_s"] += 1000.0
    numbers["run_so_far"]["cost"]["total_s"] += 1000.0
    write_json(state, numbers)
    cost = resume_run(tmp_path / "run")["cost"]
    assert 1000 < cost["train_s"] < cost["total_s"] < 1100


def test_without_checkpoints_a_resumed_run_starts_over(tmp_path: Path) -> None:
    config = toy_config(tmp_path, dropout=0.1, checkpoint_every=0)
    whole = finetune(config)
    kill(replace(config, output=str(tmp_path / "second")), 12)
    listener = Heard()
    assert_same(whole, resume_run(tmp_path / "second", listener=listener), tmp_path / "run", tmp_path / "second")
    assert listener.steps[0].step == 1


def test_a_run_that_moved_goes_on(tmp_path: Path) -> None:
    config = toy_config(tmp_path, dropout=0.1, early_stopping=3)
    whole = finetune(config)
    kill(replace(config, output=str(tmp_path / "second")), 14)
    (tmp_path / "second").rename(tmp_path / "third")
    resumed = resume_run(tmp_path / "third")
    assert_same(whole, resumed, tmp_path / "run", tmp_path / "third")
    assert yaml.safe_load((tmp_path / "third" / "config.yaml").read_text())["output"] == str(tmp_path / "third")


def test_a_checkpoint_that_was_being_written_does_not_count(tmp_path: Path) -> None:
    config = toy_config(tmp_path, dropout=0.1)
    whole = finetune(config)
    second = tmp_path / "second"
    kill(replace(config, output=str(second)), 14)
    assert last_checkpoint(second / "checkpoints", second) == (second / "checkpoints" / "checkpoint-12", [])
    (second / "checkpoints" / "checkpoint-12" / "diet_state.json").unlink()  # what is written last
    assert last_checkpoint(second / "checkpoints", second)[0] == second / "checkpoints" / "checkpoint-9"
    assert_same(whole, resume_run(second), tmp_path / "run", second)


@pytest.mark.parametrize("phase", ["testing", "saving"])
def test_killed_after_training(tmp_path: Path, phase: str) -> None:
    class Dying(Heard):
        def phase(self, text: str) -> None:
            if text == phase:
                raise Killed

    config = toy_config(tmp_path, dropout=0.1)
    whole = finetune(config)
    with pytest.raises(Killed):
        finetune(replace(config, output=str(tmp_path / "second")), listener=Dying())
    assert_same(whole, resume_run(tmp_path / "second"), tmp_path / "run", tmp_path / "second")


def test_killed_after_training_with_every_checkpoint_kept(tmp_path: Path) -> None:
    """The last checkpoint is of the last step: nothing is left to train."""
    config = toy_config(tmp_path, dropout=0.1, keep_checkpoints=True)
    whole = finetune(config)
    shutil.copytree(tmp_path / "run", tmp_path / "second")
    (tmp_path / "second" / "result.json").unlink()
    shutil.rmtree(tmp_path / "second" / "model")
    listener = Heard()
    resumed = resume_run(tmp_path / "second", listener=listener)
    assert listener.steps == []
    shutil.rmtree(tmp_path / "second" / "checkpoints")
    assert_same(whole, resumed, tmp_path / "run", tmp_path / "second")


# ---- early stopping

ACCURACIES = {6: 0.3, 9: 0.8, 12: 0.5, 15: 0.6, 18: 0.9, 21: 0.1, 24: 0.1, 27: 0.1}  # by step


@pytest.fixture
def _fixed_accuracies(monkeypatch: pytest.MonkeyPatch) -> None:
    def evaluate(self: RunTrainer, *_args: Any, **_kwargs: Any) -> dict[str, float]:
        metrics = {"eval_accuracy": ACCURACIES[self.state.global_step]}
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    monkeypatch.setattr(RunTrainer, "evaluate", evaluate)


@pytest.mark.usefixtures("_fixed_accuracies")
@pytest.mark.parametrize("step", [8, 11, 14])
def test_patience_survives_a_kill(tmp_path: Path, step: int) -> None:
    config = toy_config(tmp_path, dropout=0.1, epochs=8, early_stopping=2)
    whole = finetune(config)
    assert [line["dev"]["accuracy"] for line in whole["epochs"]] == [0.3, 0.8, 0.5, 0.6]
    kill(replace(config, output=str(tmp_path / "second")), step)
    assert_same(whole, resume_run(tmp_path / "second"), tmp_path / "run", tmp_path / "second")


@pytest.mark.usefixtures("_fixed_accuracies")
def test_a_run_that_had_stopped_early_does_not_go_on(tmp_path: Path) -> None:
    """One epoch more would give 0.9, and other weights."""

    class Dying(Heard):
        def phase(self, text: str) -> None:
            if text == "testing":
                raise Killed

    config = toy_config(tmp_path, dropout=0.1, epochs=8, early_stopping=2)
    whole = finetune(config)
    with pytest.raises(Killed):
        finetune(replace(config, output=str(tmp_path / "second")), listener=Dying())
    (tmp_path / "second").rename(tmp_path / "third")  # the best weights are found there too
    assert_same(whole, resume_run(tmp_path / "third"), tmp_path / "run", tmp_path / "third")


@pytest.mark.usefixtures("_fixed_accuracies")
@pytest.mark.parametrize("step", [8, 20])
def test_a_run_that_finds_its_epochs_ends_where_it_would_have(tmp_path: Path, step: int) -> None:
    """Three epochs after the last rise, but not while it climbs; the learning rate is found again from the model."""
    config = toy_config(tmp_path, dropout=0.1, epochs="auto", learning_rate="auto")
    whole = finetune(config)
    assert [line["dev"]["accuracy"] for line in whole["epochs"]] == [0.3, 0.8, 0.5, 0.6, 0.9, 0.1]
    kill(replace(config, output=str(tmp_path / "second")), step)
    resumed = resume_run(tmp_path / "second")
    assert_same(whole, resumed, tmp_path / "run", tmp_path / "second")
    assert resumed["learning_rate"] == whole["learning_rate"]
    assert resumed["convergence"] == whole["convergence"]


@pytest.mark.usefixtures("_fixed_accuracies")
def test_a_run_that_had_found_its_end_does_not_go_on(tmp_path: Path) -> None:
    class Dying(Heard):
        def phase(self, text: str) -> None:
            if text == "testing":
                raise Killed

    config = toy_config(tmp_path, dropout=0.1, epochs="auto")
    whole = finetune(config)
    with pytest.raises(Killed):
        finetune(replace(config, output=str(tmp_path / "second")), listener=Dying())
    assert_same(whole, resume_run(tmp_path / "second"), tmp_path / "run", tmp_path / "second")


# ---- what cannot be resumed, or begun


def test_a_finished_run_refuses_resume_and_a_new_start(tmp_path: Path) -> None:
    config = toy_config(tmp_path, epochs=2)
    finetune(config)
    before = (tmp_path / "run" / "result.json").read_bytes()
    with pytest.raises(ArgumentError, match="is finished; there is nothing to resume"):
        resume_run(tmp_path / "run")
    with pytest.raises(ArgumentError, match="already holds a finished run; choose another folder"):
        finetune(config)
    assert (tmp_path / "run" / "result.json").read_bytes() == before


def test_an_unfinished_run_is_not_written_over(tmp_path: Path) -> None:
    config = toy_config(tmp_path)
    kill(config, 8)
    with pytest.raises(ArgumentError, match=r"holds an unfinished run; go on with it by --resume .*run"):
        finetune(config)


def test_what_is_no_run_cannot_be_resumed(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=r"holds no run to resume: config.yaml is missing"):
        resume_run(tmp_path)


def test_changed_data_are_refused_and_nothing_is_lost(tmp_path: Path) -> None:
    config = toy_config(tmp_path, dropout=0.1)
    kill(config, 8)
    data = Path(config.data)
    shutil.copytree(data, tmp_path / "kept")
    rewrite(data, "train", lambda row: {**row, "text": row["text"] + " more"})
    with pytest.raises(DataError, match=r"the data has changed since the run in .* began"):
        resume_run(tmp_path / "run")
    shutil.rmtree(data)
    shutil.copytree(tmp_path / "kept", data)
    assert resume_run(tmp_path / "run")["metrics"]["test"]


def test_a_resumed_run_needs_no_scores_that_it_has(tmp_path: Path) -> None:
    finetune(toy_config(tmp_path / "first", epochs=2))
    config = toy_config(tmp_path, dropout=0.1, scores_from=str(tmp_path / "first" / "run"), warmup_epochs=0)
    whole = finetune(config)
    kill(replace(config, output=str(tmp_path / "second")), 7)
    (tmp_path / "first").rename(tmp_path / "gone")
    assert_same(whole, resume_run(tmp_path / "second"), tmp_path / "run", tmp_path / "second")


def test_a_kill_while_the_trainer_saves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = toy_config(tmp_path, dropout=0.1)
    whole = finetune(config)
    save = Trainer._save_rng_state

    def die(self: Trainer, folder: str) -> None:
        if folder.endswith("checkpoint-9"):
            raise Killed
        save(self, folder)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_save_rng_state", die)
        with pytest.raises(Killed):
            finetune(replace(config, output=str(tmp_path / "second")))
    assert (tmp_path / "second" / "checkpoints" / "checkpoint-9").is_dir()
    second = tmp_path / "second"
    assert last_checkpoint(second / "checkpoints", second)[0] == second / "checkpoints" / "checkpoint-6"
    assert_same(whole, resume_run(tmp_path / "second"), tmp_path / "run", tmp_path / "second")
