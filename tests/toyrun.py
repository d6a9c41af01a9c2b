"""Runs of `finetune` on toy data with a tiny model: a second or less each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback

from datadiet.config import FinetuneConfig
from datadiet.jobs.finetune import RunTrainer
from datadiet.store.tables import read_table
from datadiet.types import EpochResult, Forecast, Silent, StepReport
from tiny import TOYS, tiny_model_folder, write_toy_folder

SECONDS = ("load_s", "train_s", "score_s", "select_s", "eval_s", "save_s")


def toy_config(
    tmp_path: Path, kind: str = "classification", *, n: int = 48, dropout: float = 0.0, toy: Any = None, **changes: Any
) -> FinetuneConfig:
    """Batches of 8, 4 epochs, fp32; `toy` goes to the toy data, `changes` to the config."""
    if "data" not in changes:
        changes["data"] = str(write_toy_folder(tmp_path, kind, n, **(toy or {})))
    if "model" not in changes:
        changes["model"] = str(tiny_model_folder(tmp_path, dropout=dropout))
    usual: dict[str, Any] = {"epochs": 4, "batch_size": 8, "learning_rate": 1e-2, "precision": "fp32"}
    return FinetuneConfig(**{"task": TOYS[kind].task, "output": str(tmp_path / "run"), **usual, **changes})


class Heard(Silent):
    """Keeps what it is told; raises at a step if asked to, as a kill would."""

    def __init__(self, die_at: int | None = None) -> None:
        self.notes: list[str] = []
        self.phases: list[str] = []
        self.forecasts: list[Forecast] = []
        self.steps: list[StepReport] = []
        self.epochs: list[EpochResult] = []
        self._die_at = die_at

    def note(self, text: str) -> None:
        self.notes.append(text)

    def phase(self, text: str) -> None:
        self.phases.append(text)

    def planned(self, forecast: Forecast) -> None:
        self.forecasts.append(forecast)

    def stepped(self, report: StepReport) -> None:
        self.steps.append(report)
        if report.step == self._die_at:
            raise Killed

    def epoch_ended(self, result: EpochResult) -> None:
        self.epochs.append(result)


class Killed(Exception):
    """Ends a run in the middle."""


def plans_of(run: Path) -> dict[int, list[int]]:
    """Rows by epoch."""
    table = read_table(run / "plans").to_pandas()
    return {int(epoch): frame["row"].tolist() for epoch, frame in table.groupby("epoch")}


def scores_of(run: Path) -> pd.DataFrame:
    return read_table(run / "scores").to_pandas()


def predictions_of(run: Path, split: str | None = None) -> pd.DataFrame:
    table = pd.read_parquet(run / "predictions.parquet")
    return table if split is None else table[table["split"] == split].reset_index(drop=True)


def rewrite(data: Path, split: str, change: Any) -> None:
    """Change the rows of a split: `change(row)` gives the new row."""
    import json

    file = data / f"{split}.jsonl"
    rows = [change(json.loads(line)) for line in file.read_text(encoding="utf-8").splitlines()]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def weights_of(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "model" / "model.safetensors")


def same(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor], atol: float = 0.0) -> bool:
    return one.keys() == two.keys() and all(torch.allclose(one[name], two[name], rtol=0, atol=atol) for name in one)


class Rates(TrainerCallback):
    """Learning rates, step by step."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_step_end(self, args: Any, state: Any, control: Any, lr_scheduler: Any = None, **_kwargs: Any) -> None:
        self.seen.append(lr_scheduler.get_last_lr()[0])


def watched(monkeypatch: pytest.MonkeyPatch) -> list[RunTrainer]:
    """Fills with the trainer of every run that follows, each with `rates`."""
    made: list[RunTrainer] = []

    class Watched(RunTrainer):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args)
            self.rates = Rates()
            self.add_callback(self.rates)
            made.append(self)

    monkeypatch.setattr("datadiet.jobs.finetune.RunTrainer", Watched)
    return made
