"""The main job, end to end, with a tiny model: tasks, options, what is tested and what is saved."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer

from datadiet.errors import ArgumentError, DataError
from datadiet.jobs.finetune import RunTrainer, finetune
from datadiet.registry import find, has
from datadiet.scoring.forward import predict_all
from datadiet.store.run_folder import read_result
from datadiet.tasks import task_of_saved_model
from datadiet.tasks.joint_model import IntentSlotModel
from datadiet.tasks.loading import load_saved
from datadiet.tasks.sequence import ClassificationTask
from datadiet.types import Silent
from toys import (
    KEYWORDS,
    TOYS,
    Heard,
    plans_of,
    predictions_of,
    rewrite,
    scores_of,
    tiny_model_folder,
    toy_classification,
    toy_config,
    watched,
    write_toy_folder,
)


@pytest.fixture
def trainers(monkeypatch: pytest.MonkeyPatch) -> list[RunTrainer]:
    return watched(monkeypatch)


# ---- tasks


@pytest.mark.parametrize("kind", list(TOYS))
def test_every_task_runs_and_is_saved_as_it_was_tested(tmp_path: Path, kind: str) -> None:
    result, name = finetune(toy_config(tmp_path, kind)), TOYS[kind].task
    metrics = {*find("task", name).facts["metrics"], "nll" if has(name, "classes") else "mse"}
    assert set(result["metrics"]["dev"]) == set(result["metrics"]["test"]) == metrics
    assert [line["kept"] for line in result["epochs"]] == [48, 24, 24, 24]
    saved = tmp_path / "run" / "model"
    model, tokenizer, task = load_saved(saved), AutoTokenizer.from_pretrained(saved), task_of_saved_model(saved)
    data = TOYS[kind].make(12, seed=2)  # as in test.jsonl
    features = task.features(replace(data, labels=None, slots=None), tokenizer, max_length=128)
    found = predict_all(model, features, task.collator(tokenizer), task.decode)
    told = predictions_of(tmp_path / "run", "test")
    assert told["id"].tolist() == list(data.ids)
    if has(name, "numbers"):
        assert np.allclose(told["predicted"], [prediction.label for prediction in found], atol=1e-5)
        assert told["probability"].isna().all()
    elif has(name, "tags_only"):
        assert told[["gold", "predicted", "probability"]].isna().all(axis=None)
    elif has(name, "label_sets"):
        assert [tuple(labels) for labels in told["gold"]] == list(data.labels)
        assert [tuple(labels) for labels in told["predicted"]] == [prediction.label for prediction in found]
    else:
        assert told["predicted"].tolist() == [prediction.label for prediction in found]
        assert np.allclose(told["probability"], [prediction.probability for prediction in found], atol=1e-5)
    if has(name, "words"):
        assert [tuple(tags) for tags in told["predicted_slots"]] == [prediction.slots for prediction in found]


@pytest.mark.parametrize("kind", list(TOYS))
def test_every_task_learns(tmp_path: Path, kind: str) -> None:
    model = str(tiny_model_folder(tmp_path, hidden=32))
    result = finetune(toy_config(tmp_path, kind, n=128, model=model, epochs=12, keep=0.6, refresh_every=1))
    first, last = result["epochs"][0]["train_loss"], result["epochs"][-1]["train_loss"]
    assert last < 0.75 * first
    assert result["metrics"]["test"][find("task", TOYS[kind].task).facts["metrics"][0]] > {"pairs": 0.6}.get(kind, 0.65)


@pytest.mark.parametrize("kind", ["classification", "token-classification", "intent-slot"])
def test_where_words_have_tags_hardest_stands_first(tmp_path: Path, kind: str) -> None:
    heard = Heard()
    few, enough = (finetune(toy_config(tmp_path / f"{n}", kind, n=n, select="auto"), listener=heard) for n in (80, 240))
    starts = [result["race"]["start"] for result in (few, enough)]
    told = [f"The first rule is {one['race']['start']}: {one['race']['why']}." for one in (few, enough)]
    if kind == "token-classification":  # of fewer than 50 dev rows nobody could say more
        assert told[1] == "The first rule is hardest: the words of a row have tags."
    assert [planned.first_rule for planned in heard.forecasts] == told
    assert [result["data"]["rows"]["dev"] >= 50 for result in (few, enough)] == [False, True]
    assert starts == ["cover", "hardest" if has(TOYS[kind].task, "words") else "cover"]


def test_saved_models_load_by_the_auto_classes(tmp_path: Path) -> None:
    finetune(toy_config(tmp_path / "a", toy={"classes": 3}, epochs=2))
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "a" / "run" / "model")
    assert model.config.id2label == dict(enumerate(sorted(KEYWORDS[:3])))
    finetune(toy_config(tmp_path / "b", "intent-slot", epochs=2))
    saved = tmp_path / "b" / "run" / "model"
    for auto in (AutoModel, AutoModelForSequenceClassification, IntentSlotModel):
        assert isinstance(auto.from_pretrained(saved), IntentSlotModel)


def test_a_run_can_start_from_the_model_of_another(tmp_path: Path) -> None:
    first = finetune(toy_config(tmp_path, epochs=2))
    again = finetune(toy_config(tmp_path, model=str(tmp_path / "run" / "model"), output=str(tmp_path / "next")))
    assert again["model"] == "model"
    assert again["data"] == first["data"]


def test_mismatched_splits_are_all_tested(tmp_path: Path) -> None:
    config = toy_config(tmp_path, "pairs", epochs=2)
    for split in ("dev", "test"):
        shutil.copy(Path(config.data) / f"{split}.jsonl", Path(config.data) / f"{split}_mismatched.jsonl")
    result = finetune(config)
    assert set(result["metrics"]) == {"dev", "dev_mismatched", "test", "test_mismatched"}
    assert result["metrics"]["dev_mismatched"] == result["metrics"]["dev"]
    assert Counter(predictions_of(tmp_path / "run")["split"]) == dict.fromkeys(result["metrics"], 12)


# ---- labels


@pytest.mark.parametrize("label", [None, -1])
def test_an_unlabelled_test_split_is_predicted_and_not_measured(tmp_path: Path, label: int | None) -> None:
    config = toy_config(tmp_path, epochs=2)
    rewrite(Path(config.data), "test", lambda row: {**row, "label": label})
    listener = Heard()
    result = finetune(config, listener=listener)
    assert result["metrics"]["test"] is None
    assert "test is unlabelled: it gets no metrics." in listener.notes
    told = predictions_of(tmp_path / "run", "test")
    assert told["gold"].isna().all()
    assert set(told["predicted"]) <= set(KEYWORDS[:2])
    assert "| accuracy |" in (tmp_path / "run" / "model" / "README.md").read_text(encoding="utf-8")


def test_without_a_test_split(tmp_path: Path) -> None:
    config = toy_config(tmp_path, epochs=2)
    (Path(config.data) / "test.jsonl").unlink()
    result = finetune(config)
    assert result["metrics"]["test"] is None
    assert result["data"]["rows"] == {"train": 48, "dev": 12}


def test_without_a_dev_split_a_share_of_train_is_set_aside(tmp_path: Path) -> None:
    config = toy_config(tmp_path, epochs=2, dev_share=0.25)
    (Path(config.data) / "dev.jsonl").unlink()
    listener = Heard()
    result = finetune(config, listener=listener)
    assert result["data"]["rows"] == {"train": 36, "dev": 12, "test": 12}
    assert any("12 of 48 training rows were set aside as dev" in note for note in listener.notes)


@pytest.mark.parametrize("split", ["dev", "test"])
def test_a_label_that_train_does_not_have_counts_as_an_error(tmp_path: Path, split: str) -> None:
    config = toy_config(tmp_path, epochs=2)
    numbers = iter(range(12))
    rewrite(Path(config.data), split, lambda row: {**row, "label": "unseen"} if next(numbers) < 3 else row)
    listener = Heard()
    result = finetune(config, listener=listener)
    noted = [note for note in listener.notes if "unseen 3" in note]
    assert len(noted) == 1
    assert noted[0].startswith(f"{split}: 3 rows have a label that train does not have")
    told = predictions_of(tmp_path / "run", split)
    right = told["gold"] == told["predicted"]
    assert not right[told["gold"] == "unseen"].any()
    assert result["metrics"][split]["accuracy"] == pytest.approx(right.mean())
    assert result["metrics"][split]["nll"] < 50  # of the others


def test_a_slot_that_train_does_not_have_counts_as_an_error(tmp_path: Path) -> None:
    config = toy_config(tmp_path, "intent-slot", epochs=2)
    rewrite(Path(config.data), "dev", lambda row: {**row, "slots": ["B-new", *row["slots"][1:]]})
    listener = Heard()
    result = finetune(config, listener=listener)
    assert any("a slot that train does not have (B-new 12)" in note for note in listener.notes)
    assert result["metrics"]["dev"]["exact_match"] == 0


def test_overlap_is_noted_and_dropped_if_asked_to(tmp_path: Path) -> None:
    config = toy_config(tmp_path, epochs=2, keep=0.5)
    train = (Path(config.data) / "train.jsonl").read_text(encoding="utf-8").splitlines()
    (Path(config.data) / "test.jsonl").write_text("\n".join(train[:4]), encoding="utf-8")
    listener = Heard()
    kept = finetune(config, listener=listener)
    assert any("--drop-overlap drops them" in note for note in listener.notes)
    dropped = finetune(replace(config, drop_overlap=True, output=str(tmp_path / "dropped")))
    assert kept["data"]["rows"]["train"] - dropped["data"]["rows"]["train"] >= 4


def test_the_test_split_is_not_looked_at_before_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    tokenised = ClassificationTask.features

    def features(self: Any, examples: Any, *args: Any, **kwargs: Any) -> Any:
        events.append(examples.ids[0].rpartition("-")[0])  # c-0 is train, c-1 dev, c-2 test
        return tokenised(self, examples, *args, **kwargs)

    class Events(Silent):
        def phase(self, text: str) -> None:
            events.append(text)

        def epoch_ended(self, result: Any) -> None:
            events.append("epoch")

    monkeypatch.setattr(ClassificationTask, "features", features)
    finetune(toy_config(tmp_path, epochs=2), listener=Events())
    assert events == [
        "reading the data", "loading the model", "tokenising", "c-0", "c-1", "training", "epoch", "epoch", "testing",
        "c-2", "saving",
    ]  # fmt: skip


# ---- short, and other ends


def test_short_stops_at_its_steps_with_a_schedule_of_its_own(tmp_path: Path, trainers: list[RunTrainer]) -> None:
    listener = Heard()
    result = finetune(toy_config(tmp_path, keep=1.0, max_steps=15, lr_warmup=0.2), listener=listener)
    rates = trainers[0].rates.seen  # type: ignore[attr-defined]
    assert len(rates) == sum(line["steps"] for line in result["epochs"]) == 15
    assert rates[-1] == pytest.approx(0.0, abs=1e-12)
    assert max(rates) == rates[2] == pytest.approx(1e-2)  # warm-up is 0.2 of 15 steps
    (planned,) = listener.forecasts
    assert (planned.steps, planned.full_steps, planned.examples_backward) == (15, 24, 120)
    assert [line.steps for line in planned.epochs] == [line["steps"] for line in result["epochs"]] == [6, 6, 3]
    assert result["cost"]["examples_backward"] == 120
    assert result["ceiling"]["examples_saved"] == pytest.approx(planned.examples_saved) == pytest.approx(1 - 120 / 192)


def test_short_may_not_be_longer_than_its_epochs(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="max_steps 25 is more than the 24 steps of 4 epochs: set more epochs"):
        finetune(toy_config(tmp_path, keep=1.0, max_steps=25))
    assert not (tmp_path / "run").exists()


def test_short_needs_all_the_data(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="max_steps goes with keep 1 only"):
        finetune(toy_config(tmp_path, max_steps=15))


def test_the_rate_ends_at_zero_on_a_diet(tmp_path: Path, trainers: list[RunTrainer]) -> None:
    finetune(toy_config(tmp_path))
    rates = trainers[0].rates.seen  # type: ignore[attr-defined]
    assert len(rates) == 6 + 3 * 3
    assert rates[-1] == pytest.approx(0.0, abs=1e-12)


# ---- diets


@pytest.mark.parametrize(
    "diet",
    [
        {"select": "random"},
        {"select": "uncertain"},
        {"select": "epsilon(epsilon=0.3)"},
        {"select": "window", "offset": 0.1},
        {"select": "easiest", "floor": 4},
        {"score": "margin", "history": "ema(c=0.5)", "refresh_every": 1},
        {"score": "entropy", "history": "mean(window=2)", "rescore": "all"},
        {"keep": "1:0.7,3:0.4", "refresh_every": 1, "rescore": "dropped"},
        {"warmup_epochs": 0, "anneal_epochs": 1},
        {"static": True, "keep": 0.25},
    ],
)
def test_diets(tmp_path: Path, diet: dict[str, Any]) -> None:
    listener = Heard()
    result = finetune(toy_config(tmp_path, **diet), listener=listener)
    assert [line["kept"] for line in result["epochs"]] == [line.kept for line in listener.forecasts[0].epochs]
    assert {name: result["diet"][name] for name in diet} == diet
    assert read_result(tmp_path / "run") == result


def test_a_tolerance_finds_its_keep_and_says_so(tmp_path: Path, trainers: list[RunTrainer]) -> None:
    listener = Heard()
    result = finetune(toy_config(tmp_path, tolerance=20.0, epochs=6), listener=listener)
    kept = [line["kept"] for line in result["epochs"]]
    assert kept[:2] == [48, 48]
    assert min(kept) < 48
    assert result["diet"]["keep"] is None
    assert (result["diet"]["tolerance"], result["diet"]["refresh_every"]) == (20.0, 1)
    said = result["tolerance"]
    assert said["points"] == 20.0
    assert [line["kept"] for line in said["decisions"]] == kept[1:]
    assert {line["reason"] for line in said["decisions"]} <= {"scores", "rising", "guard", "learned"}
    assert result["ceiling"]["examples_saved"] == pytest.approx(1 - sum(kept) / (6 * 48))
    assert listener.forecasts[0].bound
    assert listener.forecasts[0].steps == 36
    assert trainers[0].lr_scheduler.get_last_lr()[0] == 0.0


def test_floor_keeps_some_of_every_class(tmp_path: Path) -> None:
    finetune(toy_config(tmp_path, toy={"classes": 4}, keep=0.34, floor=3))
    labels = list(toy_classification(48, 4, seed=0).labels or ())
    for epoch, rows in plans_of(tmp_path / "run").items():
        assert min(Counter(labels[row] for row in rows).values()) >= 3, epoch


def test_scores_of_an_earlier_run_choose_the_first_rows(tmp_path: Path) -> None:
    first = toy_config(tmp_path / "first")
    finetune(first)
    data = Path(shutil.copytree(first.data, tmp_path / "more"))
    rows = [
        {"id": f"new-{row}", "text": f"the {KEYWORDS[row % 2]} is new", "label": KEYWORDS[row % 2]} for row in range(4)
    ]
    old = (data / "train.jsonl").read_text(encoding="utf-8")
    (data / "train.jsonl").write_text("\n".join([*map(json.dumps, rows), old]), encoding="utf-8")
    earlier = tmp_path / "first" / "run"
    result = finetune(toy_config(tmp_path, data=str(data), scores_from=str(earlier), warmup_epochs=0))
    known = scores_of(earlier).groupby("id")["el2n"].last()
    hardest = set(known.nlargest(20).index)
    ids = [f"new-{row}" for row in range(4)] + [f"c-0-{row}" for row in range(48)]
    assert {ids[row] for row in plans_of(tmp_path / "run")[0]} == hardest | {f"new-{row}" for row in range(4)}
    assert result["diet"]["scores_from"] == "run"


def test_scores_of_other_data_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    finetune(toy_config(tmp_path / "first", epochs=2))
    config = toy_config(tmp_path, scores_from=str(tmp_path / "first" / "run"), warmup_epochs=0)
    rewrite(Path(config.data), "train", lambda row: {**row, "id": f"other-{row['id']}"})
    with pytest.raises(ArgumentError, match="none of the ids of this data set occur"):
        finetune(config)
    with pytest.raises(DataError, match="holds no values of 'entropy'; it holds: el2n"):
        finetune(replace(config, score="entropy"))
    assert not (tmp_path / "run").exists()


# ---- clock and folders


def test_the_clock_starts_where_the_caller_says(tmp_path: Path) -> None:
    import time

    result = finetune(toy_config(tmp_path, epochs=2), started=time.perf_counter() - 100)
    assert result["cost"]["load_s"] > 100
    assert result["cost"]["total_s"] > 100 > result["cost"]["finetune_s"]


def test_tensorboard_logs_outlast_the_checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    seen: list[str | None] = []
    monkeypatch.delenv("TENSORBOARD_LOGGING_DIR", raising=False)
    made = RunTrainer.__init__

    def init(self: RunTrainer, *args: Any) -> None:
        seen.append(os.environ.get("TENSORBOARD_LOGGING_DIR"))
        made(self, *args)

    monkeypatch.setattr(RunTrainer, "__init__", init)
    finetune(toy_config(tmp_path, epochs=2))
    assert seen == [str(tmp_path / "run" / "logs")]
    assert "TENSORBOARD_LOGGING_DIR" not in os.environ
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", "mine")
    finetune(toy_config(tmp_path, epochs=2, output=str(tmp_path / "again")))
    assert seen[-1] == os.environ["TENSORBOARD_LOGGING_DIR"] == "mine"


def test_the_home_folder_in_a_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    data, model = write_toy_folder(tmp_path), tiny_model_folder(tmp_path)
    config = toy_config(tmp_path, data=f"~/{data.name}", model=f"~/{model.name}", output="~/mine/run", epochs=2)
    result = finetune(config)
    assert (tmp_path / "mine" / "run" / "result.json").is_file()
    assert (result["model"], result["data"]["name"]) == (model.name, data.name)
