"""The Trainer of a run: the task's signals, best weights, reports to the listener, divergence."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import numpy as np
import pytest
import torch
import yaml

from datadiet.compare.plan import compare_fields
from datadiet.config import MOST_EPOCHS, read_config
from datadiet.data.load import load_data
from datadiet.errors import ArgumentError
from datadiet.jobs import finetune as run_trainer
from datadiet.jobs.finetune import RunTrainer, finetune
from datadiet.jobs.validate import check_config
from datadiet.store.tables import read_table
from datadiet.tasks.losses import class_weights
from datadiet.tasks.sequence import ClassificationTask
from datadiet.training import sampler
from datadiet.training.arguments import auto_learning_rate
from datadiet.types import HeadSignals, Signals
from toys import Heard, same, scores_of, toy_config, weights_of, write_toy_folder


@dataclass(frozen=True)
class Flattened(ClassificationTask):
    """A task of its own: its scores see other logits than the loss, which no guess by shapes could know."""

    def signals(self, outputs: Any, batch: Mapping[str, torch.Tensor]) -> Signals:
        return Signals({"label": HeadSignals(torch.zeros_like(outputs["logits"]), batch["labels"])})


@pytest.mark.parametrize("rescore", ["none", "all"])
def test_training_records_the_signals_of_its_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rescore) -> None:
    monkeypatch.setattr("datadiet.jobs.prepare.task_for", lambda data, *_, **__: Flattened(data.label_names))
    monkeypatch.setattr("datadiet.tasks.reading.Reader.__call__", lambda *_: pytest.fail("a guess"))
    finetune(toy_config(tmp_path, rescore=rescore, epochs=2, refresh_every=1))
    history = scores_of(tmp_path / "run")
    assert set(history["source"]) == ({"train", "pass"} if rescore == "all" else {"train"})
    assert history["el2n"].to_numpy() == pytest.approx(math.sqrt(0.5))  # two classes, both at one half


@pytest.mark.cpu
def test_early_stopping_tests_and_saves_the_best_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    accuracies = iter([0.3, 0.8, 0.5, 0.6, 0.7])
    measured: list[dict[str, torch.Tensor]] = []

    def evaluate(self: RunTrainer, *_args: Any, **_kwargs: Any) -> dict[str, float]:
        measured.append({name: value.clone() for name, value in self.model.state_dict().items()})
        metrics = {"eval_accuracy": next(accuracies)}
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    monkeypatch.setattr(RunTrainer, "evaluate", evaluate)
    result = finetune(toy_config(tmp_path, epochs=8, early_stopping=2))
    assert len(result["epochs"]) == 4  # the second was the best, two more were not
    assert result["weights_tested"] == "best"
    saved = weights_of(tmp_path / "run")
    assert same(saved, {name: measured[1][name] for name in saved})
    assert not same(saved, {name: measured[3][name] for name in saved})
    assert "weights of the best epoch" in (tmp_path / "run" / "model" / "README.md").read_text(encoding="utf-8")
    assert not (tmp_path / "run" / "checkpoints").exists()
    # the ceiling is the diet's: stopping early saves nothing that training on everything would not
    assert result["ceiling"]["examples_saved"] == pytest.approx(1 - (48 + 3 * 24) / (4 * 48))


def test_early_stopping_for_real(tmp_path: Path) -> None:
    result = finetune(toy_config(tmp_path, "regression", epochs=6, early_stopping=1))
    dev = [line["dev"]["spearman"] for line in result["epochs"]]
    assert result["metrics"]["dev"]["spearman"] == max(dev)
    assert len(dev) == 6 or dev[-1] <= max(dev[:-1])


def test_without_early_stopping_the_last_weights_are_tested(tmp_path: Path) -> None:
    result = finetune(toy_config(tmp_path))
    assert result["weights_tested"] == "last"
    assert result["metrics"]["dev"] == result["epochs"][-1]["dev"]


def test_reports_come_at_most_a_few_times_a_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_trainer, "REPORT_EVERY_S", math.inf)
    rare, every = Heard(), Heard()
    finetune(toy_config(tmp_path), listener=rare)
    assert [report.step for report in rare.steps] == [1, 15]  # the first, and the last
    monkeypatch.setattr(run_trainer, "REPORT_EVERY_S", 0.0)
    result = finetune(toy_config(tmp_path, output=str(tmp_path / "again")), listener=every)
    assert [report.step for report in every.steps] == list(range(1, 16))
    assert {report.steps for report in every.steps} == {15}
    assert [report.epoch for report in every.steps] == [0] * 6 + [1] * 3 + [2] * 3 + [3] * 3
    assert [(report.kept, report.dropped) for report in every.steps[5:7]] == [(48, 0), (24, 24)]
    assert every.steps[5].loss == pytest.approx(result["epochs"][0]["train_loss"])
    assert every.steps[5].seconds_saved < 0 < every.steps[-1].seconds_saved
    assert every.steps[-1].seconds_left == 0
    assert all(report.examples_per_s > 0 for report in every.steps)


def test_nothing_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    finetune(toy_config(tmp_path, epochs=2))
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("keep", [0.5, 1.0])
def test_a_run_that_diverges_says_so(tmp_path: Path, keep: float) -> None:
    message = r"training diverged: the loss is NaN in epoch 0 .* Lower the learning rate \(1e\+30\)"
    with pytest.raises(ArgumentError, match=message):
        finetune(toy_config(tmp_path, keep=keep, learning_rate=1e30, max_grad_norm=0.0))


def test_recalls_of_the_dev_split_choose_the_classes(tmp_path, monkeypatch):
    """DRoP through the whole job: the recalls of the dev split after an epoch set the classes of the next."""
    calls = []

    def recalls(labels, predictions, names):
        calls.append((len(labels), len(predictions), len(names)))
        return {number: 0.9 if number == 0 else 0.1 for number in range(len(names))}

    monkeypatch.setattr(run_trainer, "class_recalls", recalls)
    config = toy_config(tmp_path, select="drop_quota", keep=0.5, epochs=3, refresh_every=1)
    finetune(config)
    plans = read_table(tmp_path / "run" / "plans").to_pandas()
    labels = load_data(config.data, config.task).splits["train"].labels
    first = plans["row"].map(lambda row: labels[row] == sorted(set(labels))[0]).groupby(plans["epoch"]).mean()
    assert first[1] < 0.5 * first[0]  # of the class that is known a ninth of the others' density
    assert len(calls) == 3
    assert calls[0][0] == calls[0][1] > 0


@pytest.mark.parametrize(
    ("options", "epochs"),
    [({"keep": 1.0}, 3), ({"keep": 1.0, "max_steps": 8}, 2), ({"keep": 0.5, "select": "selective_backprop"}, 3)],
)
def test_every_arm_of_a_comparison_is_batched_alike(tmp_path, monkeypatch, options, epochs):
    grouped, group = [], sampler.length_grouped
    monkeypatch.setattr(
        sampler, "length_grouped", lambda lengths, *how: (grouped.append(len(lengths)), group(lengths, *how))[1]
    )
    result = finetune(toy_config(tmp_path, epochs=3, **options))
    assert grouped == [48] * epochs
    assert sum(line["steps"] for line in result["epochs"]) == options.get("max_steps", 18)
    assert result["cost"]["tokens_padded"] >= result["cost"]["tokens_backward"] > 0


# ---- --dedupe --dedupe-weights


@pytest.fixture
def repeated(tmp_path: Path) -> Path:
    """24 texts, of which the first occurs four times, once in capitals."""
    data = write_toy_folder(tmp_path, n=24)
    lines = [json.loads(line) for line in (data / "train.jsonl").read_text().splitlines()]
    lines += [lines[0] | {"id": f"again-{n}", "text": (str.upper if n else str)(lines[0]["text"])} for n in range(3)]
    (data / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return data


def test_finetune_counts_each_text_as_often_as_it_occurs(repeated, tmp_path):
    options = {"dedupe": True, "dedupe_weights": True, "epochs": 2, "keep": 0.5, "data": str(repeated)}
    result = finetune(toy_config(tmp_path, **options))
    assert (result["diet"]["row_weights"], result["data"]["rows"]["train"]) == (True, 24)
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["dedupe_weights"]
    table = read_table(tmp_path / "run" / "plans").to_pandas()
    first = table[table["epoch"] == 0].set_index("row")["weight"]
    assert first.sort_index().tolist() == pytest.approx(np.r_[4, np.ones(23)] * 24 / 27, rel=1e-6)
    assert table[table["epoch"] == 1]["weight"].mean() == pytest.approx(1, rel=1e-6)
    plain = finetune(toy_config(tmp_path, **{**options, "dedupe_weights": False, "output": str(tmp_path / "plain")}))
    assert plain["diet"]["row_weights"] is False


def test_the_weights_of_the_classes_count_repeats_too(repeated):
    data, whole = (load_data(str(repeated), "classification", dedupe=dedupe) for dedupe in (True, False))
    train = data.splits["train"]
    assert train.times == (4, *(1,) * 23)
    assert class_weights(data) == [1.0, 1.0]
    more = data.label_names.index(train.labels[0])
    assert class_weights(data, repeats=True)[more] == pytest.approx(27 / (2 * 15))
    assert class_weights(data, repeats=True) == class_weights(whole)


def test_dedupe_weights_is_an_option_of_comparisons_and_refused_alone(tmp_path):
    assert "dedupe_weights" in compare_fields()
    with pytest.raises(ArgumentError, match="dedupe_weights has no effect without dedupe"):
        check_config(toy_config(tmp_path, dedupe_weights=True))


# ---- what a run finds by itself


def rising(monkeypatch: pytest.MonkeyPatch, accuracies: list[float]) -> None:
    """Let the dev metric be so after each epoch."""
    values = iter(accuracies)

    def evaluate(self: RunTrainer, *_args: Any, **_kwargs: Any) -> dict[str, float]:
        metrics = {"eval_accuracy": next(values)}
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    monkeypatch.setattr(RunTrainer, "evaluate", evaluate)


def test_the_learning_rate_follows_the_weights_that_train(tmp_path: Path) -> None:
    heard = Heard()
    result = finetune(toy_config(tmp_path, epochs=2, learning_rate="auto"), listener=heard)
    found = result["learning_rate"]
    weights = sum(value.numel() for value in weights_of(tmp_path / "run").values())
    assert (found["rule"], found["value"]) == ("auto", auto_learning_rate(weights))
    assert found["weights"] == weights
    assert heard.forecasts[0].learning_rate.startswith(f"Learning rate {found['value']:g} (auto); ")
    # the file keeps the wish, so that a comparison, or a run of another model, can be told from it
    assert read_config(tmp_path / "run" / "config.yaml").learning_rate == "auto"


def test_a_rate_that_is_given_is_taken(tmp_path: Path) -> None:
    assert finetune(toy_config(tmp_path, epochs=2))["learning_rate"] == {"value": 1e-2, "rule": "given", "weights": ANY}


def test_a_run_that_still_rises_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rising(monkeypatch, [0.1, 0.2, 0.5, 0.9])
    found = finetune(toy_config(tmp_path, learning_rate=1e-6, lr_schedule="constant"))["convergence"]
    assert (found["rising"], found["metric"], found["epoch_rows"]) == (True, "accuracy", 24)
    assert found["points_per_epoch"] == pytest.approx(40.0)
    assert "accuracy on dev still rose by 40.0 points per epoch (of 24 rows)" in found["advice"]
    assert "--learning-rate auto would be 0.0005" in found["advice"]
    assert "--epochs auto" in found["advice"]


def test_a_run_that_has_stopped_rising_says_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rising(monkeypatch, [0.1, 0.5, 0.9, 0.9])
    result = finetune(toy_config(tmp_path, lr_schedule="constant"))
    assert (result["convergence"]["rising"], result["convergence"]["advice"]) == (False, "")


def test_a_learning_rate_that_has_fallen_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`linear` holds less than half an epoch at the peak in the last epoch."""
    rising(monkeypatch, [0.1, 0.5, 0.9, 0.9])
    found = finetune(toy_config(tmp_path, lr_warmup=0.0))["convergence"]
    assert (found["rising"], found["epochs"]) == (True, 2)


def test_one_epoch_tells_nothing(tmp_path: Path) -> None:
    assert finetune(toy_config(tmp_path, keep=1.0, epochs=1))["convergence"] is None


@pytest.mark.parametrize("keep", [0.5, 1.0])
def test_epochs_end_where_the_dev_metric_stops_rising(tmp_path: Path, monkeypatch, keep: float) -> None:
    rising(monkeypatch, [0.1, 0.5, 0.9, 0.89, 0.9, 0.9, 0.0])
    heard = Heard()
    result = finetune(toy_config(tmp_path, epochs="auto", keep=keep), listener=heard)
    assert len(result["epochs"]) == 6  # three after the third, the last that rose
    assert (result["weights_tested"], result["convergence"]["rising"]) == ("best", False)
    planned = heard.forecasts[0]
    assert (len(planned.epochs), planned.open_end) == (MOST_EPOCHS, True)
    kept = [line["kept"] for line in result["epochs"]]
    assert kept == ([48, 24, 24, 24, 24, 24] if keep < 1 else [48] * 6)
    # beside as many epochs on everything
    assert result["ceiling"]["examples_saved"] == pytest.approx(1 - sum(kept) / (6 * 48))
    assert not (tmp_path / "run" / "checkpoints").exists()
