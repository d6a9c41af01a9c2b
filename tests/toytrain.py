"""Trainers over tiny models and toy data, for the tests of the integrations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import torch
from transformers import TrainerCallback, TrainingArguments

from datadiet.diet.diet import Diet
from datadiet.tasks.sequence import ClassificationTask
from datadiet.training.trainer import DietTrainer
from tiny import KEYWORDS, tiny_classifier, tiny_tokenizer, toy_classification

CLASSES = 3
TASK = ClassificationTask(tuple(KEYWORDS[:CLASSES]))


def toy_features(n: int = 48, seed: int = 0) -> datasets.Dataset:
    return TASK.features(toy_classification(n, CLASSES, seed), tiny_tokenizer(), max_length=32)


class Losses(TrainerCallback):
    """What the Trainer logs: losses and learning rates, step by step."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.rates: list[float] = []

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **kwargs: Any) -> None:
        if "loss" in logs:
            self.losses.append(logs["loss"])
            self.rates.append(logs["learning_rate"])


def toy_args(folder: Path, **changes: Any) -> TrainingArguments:
    settings: dict[str, Any] = {
        "num_train_epochs": 4,
        "per_device_train_batch_size": 4,
        "learning_rate": 1e-3,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "dataloader_pin_memory": False,
        "seed": 3,
        **changes,
    }
    return TrainingArguments(output_dir=str(folder), **settings)


def toy_trainer(
    folder: Path,
    diet: Diet | None = None,
    *,
    kind: type = DietTrainer,
    n: int = 48,
    dropout: float = 0.0,
    model: Any = None,
    extra: dict[str, Any] | None = None,
    **changes: Any,
) -> Any:
    given = {} if diet is None else {"diet": diet}
    losses = Losses()
    if model is None:
        model = tiny_classifier(CLASSES, dropout=dropout)
        model.accepts_loss_kwargs = False  # its loss is a mean; else the Trainer does not divide by the accumulation
    trainer = kind(
        model=model,
        args=toy_args(folder, **changes),
        train_dataset=toy_features(n),
        eval_dataset=toy_features(8, seed=1),
        data_collator=TASK.collator(tiny_tokenizer()),
        **{"callbacks": [losses], **given, **(extra or {})},
    )
    trainer.seen = losses
    return trainer


def weights(model: torch.nn.Module) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
