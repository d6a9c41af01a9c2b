"""What a config becomes: plans, losses, accumulation, adapters, memory and precision, in real runs."""

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

from datadiet.config import LR_SCHEDULES
from datadiet.errors import ArgumentError
from datadiet.jobs.finetune import RunTrainer, finetune
from datadiet.jobs.validate import examples_per_step
from datadiet.scoring.forward import predict_all
from datadiet.tasks import task_of_saved_model
from datadiet.tasks.loading import load_saved
from toys import TOYS, Heard, predictions_of, rewrite, same, tiny_model_folder, toy_config, watched, weights_of


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
