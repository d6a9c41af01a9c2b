"""What `datadiet score` computes, with which models, and where the values go. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from datadiet.config import COLUMNS, FinetuneConfig

BASE_MODEL = "minilm"
# of `FinetuneConfig`: how the data are read ...
READING = (
    *("train_rows", "dev_share", "drop_overlap", "data_seed", "label_separator"),
    *COLUMNS,
)
# ... how models are trained and passes made
PASSES = ("batch_size", "precision", "seed", "cache")
TRAINING = ("learning_rate",)


@dataclass(frozen=True)
class ScoreConfig:
    """What `datadiet score` is asked for.

    Attributes:
        data, task: See `datadiet.load_data`.
        output: A score file, .parquet, or .jsonl and .csv for people; None writes nothing.
        scores: Names of scores, with options in brackets: `"prototypes(clusters=500)"`; by default el2n, and with a run
            its training dynamics.
        model: A run folder, its model/, or any saved model of the same classes. Of a run its score history gives the
            training dynamics, its kept checkpoints vog, self_influence and tracin.
        epochs: Instead of `model`: train so many epochs on everything first, from `base_model`. With `folds` also how
            long the models of each fold train, beside a `model` or not.
        folds: Train a model on all but each of so many parts, for the scores of `CROSS_FITTED`, and for
            `probabilities`, which are then those of models that have not seen the row.
        base_model: What the training starts from: a hub name, a folder, or `minilm`.
        run: A folder that keeps the run of that training; without it the run is removed afterwards.
        teacher, holdout: Saved models or run folders: another trained model, and one trained on other data.
        encoder: A hub name or folder to embed the texts with; `model` by default.
        probabilities: Also keep the class probabilities.
        force: Replace the output.
        max_length: Tokens per text; by default as the model was trained.
        options: Others, by the fields of `FinetuneConfig`: those of `READING`, `PASSES` and `TRAINING`.
    """

    data: str | None = None
    task: str | None = None
    output: Path | None = None
    scores: Sequence[str] | None = None
    model: Path | None = None
    epochs: int | None = None
    folds: int | None = None
    base_model: str | None = None
    run: Path | None = None
    teacher: Path | None = None
    holdout: Path | None = None
    encoder: str | None = None
    probabilities: bool = False
    force: bool = False
    max_length: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def training(self, run: Path, model: str, max_length: int) -> FinetuneConfig:
        """The run that trains on everything, and the source of every option of reading and of passes.

        Args:
            run: Its folder.
            model: What it starts from.
            max_length: Tokens per text.
        """
        return FinetuneConfig(
            data=self.data or "",
            task=self.task or "",
            output=str(run),
            model=model,
            keep=1.0,
            epochs=1 if self.epochs is None else self.epochs,
            max_length=max_length,
            keep_checkpoints=True,
            **self.options,
        )
