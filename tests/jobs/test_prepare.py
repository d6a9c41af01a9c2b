"""What a config becomes in real runs: losses, accumulation, adapters, memory, precision; and what runs share."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer, get_scheduler

from datadiet.compare.plan import Plan, methods_from
from datadiet.config import LR_SCHEDULES
from datadiet.data.load import load_data
from datadiet.errors import ArgumentError
from datadiet.jobs import prepare
from datadiet.jobs.features import Features, content_of
from datadiet.jobs.finetune import RunTrainer, finetune, resume_run
from datadiet.jobs.validate import examples_per_step
from datadiet.ledger import Ledger
from datadiet.scoring.forward import predict_all
from datadiet.store.cache import ENTRY
from datadiet.tasks import task_for, task_of_saved_model
from datadiet.tasks.base import Task
from datadiet.tasks.loading import load_saved
from datadiet.tasks.sequence import ClassificationTask
from toys import (
    SECONDS,
    TOYS,
    Heard,
    Killed,
    plans_of,
    predictions_of,
    rewrite,
    same,
    scores_of,
    tiny_model_folder,
    tiny_tokenizer,
    toy_config,
    watched,
    weights_of,
    write_toy_folder,
)


@pytest.fixture
def trainers(monkeypatch: pytest.MonkeyPatch) -> list[RunTrainer]:
    return watched(monkeypatch)


@pytest.mark.parametrize("name", LR_SCHEDULES)
def test_every_schedule_needs_no_options_of_its_own(name: str) -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = get_scheduler(name, optimizer, num_warmup_steps=1, num_training_steps=4)
    for _ in range(4):
        optimizer.step()
        schedule.step()
    assert 0 <= schedule.get_last_lr()[0] <= 1


@pytest.mark.parametrize("kind", ["classification", "intent-slot"])
@pytest.mark.parametrize("option", [{"class_weights": "balanced"}, {"label_smoothing": 0.3}])
def test_options_of_the_loss_change_training_and_nothing_else(
    tmp_path: Path, kind: str, option: dict[str, Any]
) -> None:
    config = toy_config(tmp_path, kind, n=45, epochs=2)
    first = "intent" if kind == "intent-slot" else "label"
    lines = (Path(config.data) / "train.jsonl").read_text(encoding="utf-8").splitlines()
    names = sorted({json.loads(line)[first] for line in lines})
    kept = iter(range(45))  # classes of unlike sizes
    rewrite(Path(config.data), "train", lambda row: {**row, first: names[0]} if next(kept) < 20 else row)
    plain = finetune(config)
    changed = finetune(replace(config, output=str(tmp_path / "changed"), **option))
    assert changed["epochs"][0]["train_loss"] != pytest.approx(plain["epochs"][0]["train_loss"], rel=1e-3)
    assert not same(weights_of(tmp_path / "changed"), weights_of(tmp_path / "run"))
    steps = [[line["steps"] for line in result["epochs"]] for result in (plain, changed)]
    assert steps[0] == steps[1]
    config_of_saved = json.loads((tmp_path / "changed" / "model" / "config.json").read_text(encoding="utf-8"))
    if kind == "intent-slot":
        weights = config_of_saved["class_weights"]
        assert (weights is None) == ("label_smoothing" in option)


@pytest.mark.parametrize(
    ("kind", "option"),
    [
        ("classification", {}),
        ("classification", {"class_weights": "balanced"}),
        ("classification", {"label_smoothing": 0.2}),
        ("regression", {}),
        ("intent-slot", {}),
        ("intent-slot", {"lora": 2}),
    ],
)
def test_accumulated_batches_give_the_step_of_one_large_batch(
    tmp_path: Path, kind: str, option: dict[str, Any], trainers: list[RunTrainer]
) -> None:
    config = toy_config(tmp_path, kind, n=32, epochs=1, keep=1.0, lr_warmup=0.0, **option)
    large = finetune(replace(config, batch_size=32))
    small = finetune(replace(config, batch_size=8, gradient_accumulation=4, output=str(tmp_path / "small")))
    # AdamW's first step is the same for gradients of any size: the norm tells
    norms = [trainer.state.log_history[0]["grad_norm"] for trainer in trainers]
    assert norms[1] == pytest.approx(norms[0], rel=1e-3)
    assert small["epochs"][0]["train_loss"] == pytest.approx(large["epochs"][0]["train_loss"], rel=1e-4)
    assert large["epochs"][0]["steps"] == small["epochs"][0]["steps"] == 1


def test_accumulation_plans_in_whole_steps(tmp_path: Path) -> None:
    listener = Heard()
    result = finetune(toy_config(tmp_path, batch_size=4, gradient_accumulation=3, keep=0.6), listener=listener)
    assert [line["kept"] for line in result["epochs"]] == [48, 24, 24, 24]  # 0.6 * 48 = 28.8, in twelves
    assert [line["steps"] for line in result["epochs"]] == [4, 2, 2, 2]
    assert listener.forecasts[0].steps == 10


def test_several_gpus_of_one_process_share_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    config = toy_config(Path(), data="d", model="m", batch_size=4, gradient_accumulation=3)
    assert examples_per_step(config) == 12
    monkeypatch.setattr("datadiet.jobs.validate.best_device", lambda: torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert examples_per_step(config) == 24


@pytest.mark.parametrize("model", ["bert", "roberta", "distilbert", "electra"])
@pytest.mark.parametrize("kind", ["classification", "intent-slot"])
def test_lora_trains_a_few_weights_and_saves_a_whole_model(
    tmp_path: Path, kind: str, model: str, trainers: list[RunTrainer]
) -> None:
    finetune(toy_config(tmp_path, kind, model=str(tiny_model_folder(tmp_path, model)), lora=2, epochs=2))
    trained = {name for name, weight in trainers[0].model.named_parameters() if weight.requires_grad}
    heads = ("classifier", "pre_classifier", "intent_head", "slot_head")
    assert trained
    assert all("lora" in name or any(head in name for head in heads) for name in trained)
    saved = weights_of(tmp_path / "run")
    assert not [name for name in saved if "lora" in name or "modules_to_save" in name]
    _, info = AutoModelForSequenceClassification.from_pretrained(tmp_path / "run" / "model", output_loading_info=True)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]


def test_lora_changes_the_encoder_and_its_predictions_are_those_of_the_saved_model(tmp_path: Path) -> None:
    config = toy_config(tmp_path, "intent-slot", lora=4, epochs=3)
    finetune(config)
    before = load_file(Path(config.model) / "model.safetensors")
    after = weights_of(tmp_path / "run")
    changed = [name for name in before if not torch.equal(before[name], after.get(f"encoder.{name}", before[name]))]
    assert changed
    assert all("weight" in name and "LayerNorm" not in name and "embeddings" not in name for name in changed)
    saved = tmp_path / "run" / "model"
    task, tokenizer = task_of_saved_model(saved), AutoTokenizer.from_pretrained(saved)
    data = TOYS["intent-slot"].make(12, seed=2)
    found = predict_all(
        load_saved(saved), task.features(data, tokenizer, max_length=128), task.collator(tokenizer), task.decode
    )
    told = predictions_of(tmp_path / "run", "test")["probability"]
    assert np.allclose(told, [prediction.probability for prediction in found], atol=1e-6)


def test_gradient_checkpointing_changes_nothing_but_memory(tmp_path: Path) -> None:
    config = toy_config(tmp_path, "intent-slot", epochs=2)
    finetune(config)
    finetune(replace(config, gradient_checkpointing=True, output=str(tmp_path / "saving")))
    assert same(weights_of(tmp_path / "run"), weights_of(tmp_path / "saving"), atol=1e-5)


def test_gradient_checkpointing_is_refused_where_the_model_cannot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import BertForSequenceClassification

    monkeypatch.setattr(BertForSequenceClassification, "supports_gradient_checkpointing", False)
    with pytest.raises(ArgumentError, match="does not support gradient_checkpointing: leave it out"):
        finetune(toy_config(tmp_path, gradient_checkpointing=True))
    assert not (tmp_path / "run").exists()


def test_a_run_in_bf16_does_not_touch_the_next_one(tmp_path: Path) -> None:
    config = toy_config(tmp_path)
    before = finetune(config)
    half = finetune(replace(config, precision="bf16", output=str(tmp_path / "half")))
    after = finetune(replace(config, output=str(tmp_path / "after")))
    assert half["environment"]["precision"] == "bf16"
    assert half["epochs"][0]["train_loss"] != before["epochs"][0]["train_loss"]
    assert after["metrics"] == before["metrics"]
    assert all(weight.dtype == torch.float32 for weight in weights_of(tmp_path / "half").values())


# ---- tokenised data that runs share


def features_for(home: Path, kind: str = "classification", folder: Path | None = None, **changes: Any) -> Features:
    data = load_data(str(write_toy_folder(home, kind, 48)), TOYS[kind].task)
    usual = Features(data, task_for(data), tiny_tokenizer(), 32, Ledger(), folder)
    return replace(usual, **changes)


@pytest.fixture
def tokenised(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The splits that are tokenised, by the first id: c-0 is train, c-1 dev, c-2 test."""
    splits: list[str] = []
    original = ClassificationTask.features

    def features(self: Any, examples: Any, *args: Any, **kwargs: Any) -> Any:
        splits.append(examples.ids[0].rpartition("-")[0])
        return original(self, examples, *args, **kwargs)

    monkeypatch.setattr(ClassificationTask, "features", features)
    return splits


@pytest.mark.parametrize("kind", sorted(TOYS))
def test_features_are_the_same_with_and_without(tmp_path: Path, kind: str) -> None:
    plain = features_for(tmp_path, kind)
    first, second = (features_for(tmp_path, kind, tmp_path / "cache") for _ in range(2))
    for split in ("train", "dev", "test"):
        expected = plain.of(split)
        for features in (first.of(split), second.of(split)):
            assert features.features == expected.features
            assert features.to_dict() == expected.to_dict()
    assert (plain.taken, first.taken, second.taken) == ((), (), ("train", "dev", "test"))


def test_entries_are_mapped_and_not_read_into_memory(tmp_path: Path) -> None:
    made, taken = (features_for(tmp_path, folder=tmp_path / "cache").of("train") for _ in range(2))
    assert made.cache_files  # the first one reads its own file too, so that both train equally fast
    assert taken.cache_files == made.cache_files


def test_a_run_with_the_cache_comes_to_the_same(tmp_path: Path, tokenised: list[str]) -> None:
    config = toy_config(tmp_path, dropout=0.1)
    plain = finetune(config)
    cached = replace(config, cache=str(tmp_path / "cache"))
    results = [finetune(replace(cached, output=str(tmp_path / name))) for name in ("first", "second")]
    assert tokenised == ["c-0", "c-1", "c-2"] * 2  # not by the last
    for name, result in zip(("first", "second"), results, strict=True):
        assert result["metrics"] == plain["metrics"]
        assert same(weights_of(tmp_path / name), weights_of(tmp_path / "run"))
        assert plans_of(tmp_path / name) == plans_of(tmp_path / "run")
        assert scores_of(tmp_path / name).equals(scores_of(tmp_path / "run"))
        assert predictions_of(tmp_path / name).equals(predictions_of(tmp_path / "run"))
        assert result["data"] == plain["data"]
    assert [result["environment"]["from_cache"] for result in (plain, *results)] == [None, None, "train, dev, test"]


def slow(cache: Path, seconds: float, kind: str = "features") -> None:
    """As if every entry had taken so long to compute."""
    for file in cache.glob(f"{kind}-*/{ENTRY}"):
        entry = json.loads(file.read_text(encoding="utf-8"))
        assert entry["seconds"] > 0
        file.write_text(json.dumps({**entry, "seconds": seconds}), encoding="utf-8")


def test_each_run_is_charged_once_for_what_it_takes(tmp_path: Path) -> None:
    config = toy_config(tmp_path, cache=str(tmp_path / "cache"))
    first = finetune(config)
    assert first["cost"]["shared_s"] == 0
    assert len(list((tmp_path / "cache").iterdir())) == 3
    slow(tmp_path / "cache", 100.0)
    for name in ("second", "third"):
        cost = finetune(replace(config, output=str(tmp_path / name)))["cost"]
        assert cost["shared_s"] == 300
        assert 200 < cost["load_s"] < 250  # train and dev
        assert 100 < cost["eval_s"] < 150  # test is tokenised when it is tested
        assert cost["finetune_s"] < 50
        assert sum(cost[name] for name in SECONDS) == pytest.approx(cost["total_s"])
        assert cost["total_s"] > 300


def test_a_resumed_run_is_charged_as_if_it_had_tokenised_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datadiet.jobs.finetune.REPORT_EVERY_S", 0.0)
    config = toy_config(tmp_path, cache=str(tmp_path / "cache"))
    finetune(config)
    slow(tmp_path / "cache", 100.0)
    with pytest.raises(Killed):
        finetune(replace(config, output=str(tmp_path / "second")), listener=Heard(die_at=8))
    cost = resume_run(tmp_path / "second")["cost"]
    assert cost["shared_s"] == 200 + 300
    assert sum(cost[name] for name in SECONDS) == pytest.approx(cost["total_s"])


def origin(features: Features, split: str = "train") -> Any:
    return features.origin(split)


@pytest.mark.parametrize(
    "change",
    [
        {"max_length": 12},
        {"tokenizer": tiny_tokenizer("roberta")},
        {"tokenizer": tiny_tokenizer("distilbert")},  # the same pieces, but no token types
    ],
    ids=["max_length", "other pieces", "other columns"],
)
def test_other_features_have_an_entry_of_their_own(tmp_path: Path, change: dict[str, Any]) -> None:
    cache = tmp_path / "cache"
    features_for(tmp_path, folder=cache).of("train")
    other = features_for(tmp_path, folder=cache, **change)
    found = other.of("train")
    assert other.taken == ()
    assert found.to_dict() == features_for(tmp_path, **change).of("train").to_dict()
    assert len(list(cache.iterdir())) == 2


def test_changed_data_and_other_tasks_have_an_entry_of_their_own(tmp_path: Path) -> None:
    first = features_for(tmp_path)
    rewrite(tmp_path / "toy-classification", "train", lambda row: {**row, "text": row["text"] + " ember"})
    changed = load_data(str(tmp_path / "toy-classification"), "classification")
    task: Task = ClassificationTask(("b", "a"))
    origins = [
        origin(first),
        origin(first, "dev"),
        origin(replace(first, data=changed)),
        origin(replace(first, task=task)),
    ]
    assert len({json.dumps(one) for one in origins}) == 4


def test_a_limit_of_the_model_is_the_same_as_the_option(tmp_path: Path) -> None:
    first = features_for(tmp_path, max_length=64)
    assert origin(first) == origin(features_for(tmp_path, max_length=999))  # the tokenizer has 64 positions


def test_a_tokenizer_is_known_by_its_content(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    before = content_of(tokenizer)
    tokenizer(["the of"], truncation=True, max_length=3, padding=True)
    assert content_of(tokenizer) == before
    tokenizer.save_pretrained(tmp_path / "elsewhere")
    assert content_of(type(tokenizer).from_pretrained(tmp_path / "elsewhere")) == before
    tokenizer.add_tokens(["zyxwv"])
    added = content_of(tokenizer)
    assert added != before
    tokenizer.truncation_side = "left"
    assert content_of(tokenizer) != added


def test_a_slow_tokenizer_is_not_cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    features = features_for(tmp_path, folder=tmp_path / "cache")
    monkeypatch.setattr(type(features.tokenizer), "is_fast", False)
    assert len(features.of("train")) == 48
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize(
    ("function", "what"),
    [
        ("datasets.Dataset.save_to_disk", "tokenised data"),
        ("datadiet.training.distill.save_arrays", "the teacher's logits"),
    ],
)
def test_a_full_disk_costs_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str, what: str) -> None:
    def full(*_args: Any, **_options: Any) -> None:
        raise OSError(28, "No space left on device")

    finetune(toy_config(tmp_path, keep=1.0, epochs=1, output=str(tmp_path / "teacher")))
    monkeypatch.setattr(function, full)
    listener, cache = Heard(), tmp_path / "cache"
    result = teach(tmp_path, "run", cache=str(cache), listener=listener)
    assert result["environment"]["from_cache"] is None
    assert f"{what} could not be kept in {cache}: No space left on device." in listener.notes


@pytest.mark.parametrize("name", ["file", ""])
def test_a_cache_that_is_no_folder_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ArgumentError, match="cache must be a folder, got"):
        finetune(toy_config(tmp_path, cache=str(tmp_path / name) if name else ""))
    assert not (tmp_path / "run").exists()


# ---- a teacher that runs share


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The rows of every batch that a teacher reads."""
    rows: list[int] = []
    original = prepare.load_saved

    def load_saved(folder: Path) -> Any:
        model = original(folder)
        model.register_forward_pre_hook(
            lambda _model, _args, batch: rows.append(len(batch["input_ids"])), with_kwargs=True
        )
        return model

    monkeypatch.setattr(prepare, "load_saved", load_saved)
    return rows


def teach(tmp_path: Path, name: str, kind: str = "classification", listener: Any = None, **options: Any) -> Any:
    usual = {"select": "random", "keep": 0.5, "epochs": 2, "teacher": str(tmp_path / "teacher")}
    config = toy_config(tmp_path, kind, output=str(tmp_path / name), **{**usual, **options})
    return finetune(config, **({} if listener is None else {"listener": listener}))


def test_the_teacher_is_asked_once_and_each_run_is_charged(tmp_path: Path, asked: list[int]) -> None:
    finetune(toy_config(tmp_path, keep=1.0, epochs=1, output=str(tmp_path / "teacher")))
    cache = str(tmp_path / "cache")
    plain, first = teach(tmp_path, "plain"), teach(tmp_path, "first", cache=cache)
    assert sum(asked) == 2 * 48
    slow(tmp_path / "cache", 1000.0, "teacher")
    second = teach(tmp_path, "second", cache=cache, teacher_temperature=3.0)
    assert sum(asked) == 2 * 48
    assert (first["cost"]["shared_s"] > 0, second["cost"]["shared_s"]) == (False, pytest.approx(1000, abs=20))
    assert second["cost"]["score_s"] > 1000
    for count in ("examples_forward", "tokens_forward"):
        assert plain["cost"][count] == first["cost"][count] == second["cost"][count]
    taken = [result["environment"]["from_cache"] for result in (plain, first, second)]
    assert taken == [None, None, "train, dev, teacher, test"]
    again = teach(tmp_path, "again", cache=cache)
    assert again["teacher"] == plain["teacher"]
    assert same(weights_of(tmp_path / "plain"), weights_of(tmp_path / "again"))


def test_every_word_of_a_joint_task_is_kept(tmp_path: Path, asked: list[int]) -> None:
    finetune(toy_config(tmp_path, "intent-slot", keep=1.0, epochs=1, output=str(tmp_path / "teacher")))
    for name in ("one", "two"):
        teach(tmp_path, name, "intent-slot", cache=str(tmp_path / "cache"))
    assert sum(asked) == 48
    assert same(weights_of(tmp_path / "one"), weights_of(tmp_path / "two"))


def test_another_teacher_and_other_ways_to_ask_it_have_an_entry_of_their_own(tmp_path: Path, asked: list[int]) -> None:
    for name, seed in (("teacher", 0), ("other", 1)):
        finetune(toy_config(tmp_path, keep=1.0, epochs=1, seed=seed, output=str(tmp_path / name)))
    cache = str(tmp_path / "cache")
    teach(tmp_path, "one", cache=cache)
    card = tmp_path / "teacher" / "model" / "README.md"
    card.write_text(card.read_text() + "\nA verdict.\n")
    teach(tmp_path, "same", cache=cache)
    assert sum(asked) == 48  # the card is no part of what it says
    teach(tmp_path, "two", cache=cache, teacher=str(tmp_path / "other"))
    teach(tmp_path, "three", cache=cache, max_length=8)
    assert sum(asked) == 3 * 48
    assert len(list((tmp_path / "cache").glob("teacher-*"))) == 3


def test_a_broken_entry_is_asked_for_anew(tmp_path: Path, asked: list[int]) -> None:
    finetune(toy_config(tmp_path, keep=1.0, epochs=1, output=str(tmp_path / "teacher")))
    teach(tmp_path, "one", cache=str(tmp_path / "cache"))
    (file,) = (tmp_path / "cache").glob("teacher-*/*.npz")
    file.write_bytes(b"x" * file.stat().st_size)
    teach(tmp_path, "two", cache=str(tmp_path / "cache"))
    assert sum(asked) == 2 * 48
    teach(tmp_path, "three", cache=str(tmp_path / "cache"))
    assert sum(asked) == 2 * 48


def test_a_comparison_asks_each_teacher_once() -> None:
    """Its runs share one folder, whatever they keep: the teacher of a seed is the run on everything with that seed."""
    plan = Plan({"data": "snips", "task": "intent-slot"}, methods_from(["distilled"]), keeps=[0.5, 0.2], seeds=[0])
    taught = [cell for cell in plan.cells() if cell.method == "distilled"]
    configs = [plan.config(cell, f"runs/{cell.name}", cache="cache") for cell in taught]
    assert [config.keep for config in configs] == [0.5, 0.2]
    assert {(config.teacher, config.cache, config.max_length) for config in configs} == {
        (str(Path("runs/full-seed0")), "cache", 128)
    }
