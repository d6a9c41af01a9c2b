"""Data and finished run folders of any size without training, written by the project's own code.

Nothing in them is learned. What counts is their size: texts of 6 to 30 words, values that fall from round to round, a
selection of the hardest half before each epoch but the first, and predictions that are right as often as one likes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datadiet.config import FinetuneConfig
from datadiet.data.load import load_configured
from datadiet.data.schema import Dataset, Examples
from datadiet.files import SCHEMA
from datadiet.store import run_folder
from datadiet.store.tables import PartedTable, ScoreStore, append_plan
from datadiet.tasks.base import Prediction
from datadiet.types import CostLedger, EpochPlan, EpochResult, Json, Scores

CLASSES = 20
LABELS = tuple(f"class-{number}" for number in range(CLASSES))
WORDS = 5000
BATCH = 32


def write_data(folder: Path, train_rows: int, test_rows: int) -> Path:
    """train.jsonl, dev.jsonl and test.jsonl of a classification with `CLASSES` classes."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed, (split, rows) in enumerate({"train": train_rows, "dev": test_rows, "test": test_rows}.items()):
        with (folder / f"{split}.jsonl").open("w", encoding="utf-8") as stream:
            stream.writelines(_lines(split, rows, np.random.default_rng(seed)))
    return folder


def _lines(split: str, rows: int, rng: np.random.Generator) -> Iterator[str]:
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    lengths = np.random.default_rng(0).integers(2, 10, WORDS)  # the same words in every split
    words = ["".join(np.random.default_rng(place).choice(letters, size)) for place, size in enumerate(lengths)]
    for begin in range(0, rows, 10_000):
        for row in range(begin, min(rows, begin + 10_000)):
            text = " ".join(words[place] for place in rng.integers(WORDS, size=rng.integers(6, 31)))
            yield json.dumps({"id": f"{split}-{row:08d}", "text": text, "label": LABELS[row % CLASSES]}) + "\n"


def write_run(config: FinetuneConfig, *, skill: float = 0.9) -> Json:
    """Write the run folder that a config would, as if it had been trained.

    Args:
        config: Its data is read, so that the fingerprint is right.
        skill: Share of the predictions that are right.

    Returns:
        The content of `result.json`.
    """
    data, folder = load_configured(config), Path(config.output)
    rng = np.random.default_rng(config.seed)
    run_folder.begin(folder, config.to_yaml())
    epochs = _write_dynamics(folder, config, data, rng)
    splits = {name: data.splits[name] for name in ("dev", "test")}
    hard = {name: np.random.default_rng(0).random(len(split)) for name, split in splits.items()}  # for all runs alike
    said = {name: predictions(split, hard[name] < skill, rng) for name, split in splits.items()}
    run_folder.write_predictions(folder, {name: (split, said[name]) for name, split in splits.items()})
    metrics = {name: {"accuracy": accuracy(split, said[name])} for name, split in splits.items()}
    run_folder.remove_checkpoints(folder)
    return run_folder.write_result(folder, _result(config, data, epochs, metrics))


def _write_dynamics(folder: Path, config: FinetuneConfig, data: Dataset, rng: np.random.Generator) -> list[EpochResult]:
    """Scores and plans, epoch by epoch: training forwards of what is kept, and a pass over everything before each."""
    rows = len(data.splits["train"])
    store = ScoreStore(folder / run_folder.SCORES, "run", data.splits["train"].ids)
    plans = PartedTable(folder / run_folder.PLANS, "run")
    difficulty = rng.random(rows, dtype=np.float32)
    kept, epochs = np.arange(rows), []
    for epoch in range(config.epochs):
        if epoch and config.keep != 1.0:
            values = _values(difficulty, epoch, rng)
            store.append(Scores(np.arange(rows), values, "pass", epoch, epoch - 1))
            kept = np.sort(np.argsort(-values["el2n"])[: int(rows * float(config.keep)) // BATCH * BATCH or 1])
        append_plan(plans, EpochPlan(epoch, kept, len(kept) == rows))
        store.append(Scores(kept, _values(difficulty[kept], epoch, rng), "train", epoch, epoch))
        epochs.append(_epoch(epoch, len(kept), rows))
    return epochs


def _values(difficulty: NDArray[np.float32], epoch: int, rng: np.random.Generator) -> dict[str, NDArray[np.float32]]:
    noise = rng.normal(0, 0.1, len(difficulty)).astype(np.float32)
    gold = np.clip(1 - difficulty / (1 + 0.3 * epoch) + noise, 0.001, 0.999)
    el2n = np.float32(2**0.5) * (1 - gold)
    return {"el2n": el2n, "gold_probability": gold, "margin": 1 - 2 * gold, "loss": -np.log(gold)}


def _epoch(epoch: int, kept: int, rows: int) -> EpochResult:
    return EpochResult(
        epoch=epoch, kept=kept, dropped=rows - kept, steps=-(-kept // BATCH), seconds=kept / 1000, score_s=0.0,
        tokens=20 * kept, train_loss=1 / (epoch + 1), dev={"accuracy": 0.9 - 0.3 / (epoch + 1)},
    )  # fmt: skip


def predictions(examples: Examples, right: NDArray[np.bool_], rng: np.random.Generator) -> list[Prediction]:
    """One per example; a hundredth of those that should be right is wrong, and the other way round."""
    right = right ^ (rng.random(len(right)) < 0.01)
    labels = [str(label) for label in examples.labels or ()]
    wrong = [LABELS[(LABELS.index(label) + 1) % CLASSES] for label in labels]
    said = [gold if good else other for gold, other, good in zip(labels, wrong, right, strict=True)]
    return [Prediction(label, 0.9, None) for label in said]


def accuracy(examples: Examples, said: list[Prediction]) -> float:
    return float(np.mean([a.label == b for a, b in zip(said, examples.labels or (), strict=True)]))


def _result(config: FinetuneConfig, data: Dataset, epochs: list[EpochResult], metrics: dict[str, Any]) -> Json:
    rows = {name: len(split) for name, split in data.splits.items()}
    trained, full = sum(epoch.kept for epoch in epochs), rows["train"] * config.epochs
    train_s = sum(epoch.seconds for epoch in epochs) + 0.01 * config.seed
    cost = CostLedger(
        load_s=4.0, train_s=train_s, eval_s=2.0, save_s=1.0, total_s=train_s + 7, finetune_s=train_s,
        examples_forward=trained, examples_backward=trained, tokens_forward=20 * trained, tokens_backward=20 * trained,
        tokens_padded=25 * trained,
    )  # fmt: skip
    return {
        "schema": SCHEMA,
        "task": data.task,
        "data": {"name": data.name, "fingerprint": data.fingerprint, "rows": rows},
        "model": config.model,
        "seed": config.seed,
        "diet": {"score": "el2n", "select": "hardest", "keep": config.keep, "rescore": "all"},
        "metrics": metrics,
        **run_folder.costs_of(cost, epochs, full, 20 * full),
        "environment": {"cpu": "none: made up", "versions": {}},
    }
