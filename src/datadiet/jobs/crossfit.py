"""Cross-fitting for `datadiet score --folds K`: outputs for every row by a model that was not trained on its text.

Each fold trains one model, which all cross-fitted scores and the class probabilities share, and a second one without
the texts where `negative_pvi` needs it. With a cache, an interrupted job continues with the fold that it was in.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedKFold
from transformers import set_seed
from transformers.trainer_utils import IntervalStrategy

from datadiet.config import FinetuneConfig
from datadiet.data.duplicates import representatives
from datadiet.data.schema import Dataset, Examples, joined_texts, without_input
from datadiet.errors import Problems
from datadiet.jobs.features import Features
from datadiet.jobs.finetune import RunTrainer, training_arguments
from datadiet.jobs.prepare import Run, model_options, pass_tokens
from datadiet.jobs.validate import check_config, examples_per_step
from datadiet.ledger import Ledger
from datadiet.registry import has
from datadiet.scoring.embed import weights_digest
from datadiet.scoring.forward import lengths_of, read_model
from datadiet.scoring.inputs import OutOfFold, ScoringInputs
from datadiet.store.cache import entry, load_arrays, save_arrays
from datadiet.tasks.base import Task, column
from datadiet.tasks.causal_lm import answers_of
from datadiet.training.machine import EnergyMeter, best_device, resolve_precision
from datadiet.types import Json, Listener

Rows = NDArray[np.int64]
Scratch = Callable[[], AbstractContextManager[Path]]

MOST_NAMED = 5


@dataclass(frozen=True)
class CrossFitted:
    """The outputs of all folds.

    Attributes:
        out_of_fold: Losses, and class log-probabilities, by models that were not trained on the row.
        null: float32 `(n, classes)`, log-probabilities by models that saw no text; None where they are not needed.
        made: How it was made, for the score file: folds, trainings, epochs, seconds.
    """

    out_of_fold: OutOfFold
    null: torch.Tensor | None
    made: Json


def text_folds(
    train: Examples, groups: Rows | None, folds: int, seed: int, names: Sequence[str] = ()
) -> list[tuple[Rows, Rows]]:
    """Folds with the same share of every class, in which all rows that have the same text are held out together.

    scikit-learn's `StratifiedKFold` over the different texts. (Its `StratifiedGroupKFold` over the rows takes 0.2 ms a
    row and refuses data in which every class is rare, such as sets of labels.)

    Args:
        train: The training rows. Case and spacing of their texts do not count.
        groups: int64 `(n,)`, class of each row; None where there are none.
        folds: At least 2.
        seed: Of the shuffle.
        names: Of the classes, where each must be in the training part of every fold.

    Returns:
        `(training rows, held-out rows)`, int64, ascending; every row is held out once.

    Raises:
        ArgumentError: If there are fewer texts than folds, or fewer texts of a class that is named.

    Examples:
        >>> rows = Examples(ids=tuple("abcd"), texts=("up", "Up", "no", "go"))
        >>> [held_out.tolist() for _, held_out in text_folds(rows, None, 3, seed=0)]
        [[3], [2], [0, 1]]
    """
    same = representatives(train.texts, None, train.text_pairs)
    classes = (np.zeros(len(train), np.int64) if groups is None else groups)[same.rows]  # of the different texts
    sizes = np.bincount(classes, minlength=len(names))
    problems = Problems()
    problems.check(
        len(same.rows) >= folds, f"folds must be at most the {len(same.rows)} different training texts, got {folds}."
    )
    if few := [f"{name} ({size})" for name, size in zip(names, sizes.tolist(), strict=False) if size < folds]:
        more = f" and {len(few) - MOST_NAMED} more" if len(few) > MOST_NAMED else ""
        problems.add(
            f"every class needs a text for each of the {folds} folds, or some model would hardly know it; too few have "
            f"{', '.join(few[:MOST_NAMED])}{more}. Use fewer folds (at least 2), or leave these classes out."
        )
    problems.raise_any()
    strata = np.where(sizes[classes] < folds, -1, classes)  # classes too rare for a share in every fold are one stratum
    text_of_row = np.searchsorted(same.rows, same.of)
    splitter = StratifiedKFold(folds, shuffle=True, random_state=seed)
    parts = []
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The least populated class")  # that stratum may be small
        for _, texts in splitter.split(strata, strata):
            held_out = np.isin(text_of_row, texts)
            parts.append((np.flatnonzero(~held_out), np.flatnonzero(held_out)))
    return parts


@dataclass(frozen=True)
class Folds:
    """The inputs of all trainings; constructing it trains nothing.

    Attributes:
        config: Of each training; its output and cache are not read.
        data, task, tokenizer, features, lengths: Of all training rows.
        parts: See `text_folds`.
        blank: Features of the same rows without their texts; None where no null model is needed.
        classes: Whether the class probabilities are needed.
        cache: A folder that keeps the outputs of each fold.
    """

    config: FinetuneConfig
    data: Dataset
    task: Task
    tokenizer: Any
    features: Any
    lengths: Rows
    parts: Sequence[tuple[Rows, Rows]]
    blank: Any
    classes: bool
    cache: Path | None
    ledger: Ledger
    listener: Listener

    def forecast(self) -> str:
        """The trainings in words: folds, rows, epochs and steps."""
        sizes = sorted({len(training) for training, _ in self.parts})
        rows = " to ".join(f"{size:,}" for size in (sizes if len(sizes) < 2 else (sizes[0], sizes[-1])))
        batch, epochs, kinds = (
            examples_per_step(self.config),
            self.config.planned_epochs,
            1 if self.blank is None else 2,
        )
        steps = kinds * epochs * sum(math.ceil(len(training) / batch) for training, _ in self.parts)
        each = "a model" if kinds == 1 else "a model with the texts and one without"
        return (
            f"{len(self.parts)} folds: {each} on {rows} of {len(self.features):,} rows each, {epochs} "
            f"{'epoch' if epochs == 1 else 'epochs'}, {kinds * len(self.parts)} trainings and {steps:,} steps in all."
        )

    def run(self, scratch: Scratch) -> CrossFitted:
        """Train the models of every fold and pass the held-out rows through them.

        Args:
            scratch: Makes a temporary folder.
        """
        rows, width = len(self.features), len(self.task.label_names) if self.classes else 0
        outputs, null = np.empty((rows, 1 + width), np.float32), np.empty((rows, width), np.float32)
        began = self.ledger.seconds("train") + self.ledger.seconds("score")
        for number, (training, held_out) in enumerate(self.parts):
            where = f"fold {number + 1} of {len(self.parts)}"
            self.listener.phase(f"{where}: training on {len(training):,} rows")
            outputs[held_out] = self._outputs(self.features, self._trainable(training), held_out, scratch)
            if self.blank is not None:
                self.listener.phase(f"{where}: training without the texts")
                one = self._outputs(self.blank, training, held_out[:1], scratch)
                null[held_out] = one[:, 1:]  # the same for all rows
        spent = self.ledger.seconds("train") + self.ledger.seconds("score") - began
        classes = torch.from_numpy(outputs[:, 1:]) if self.classes else None
        kinds = 1 if self.blank is None else 2
        made = {"folds": len(self.parts), "fold_trainings": kinds * len(self.parts), "epochs": self.config.epochs}
        return CrossFitted(
            OutOfFold(outputs[:, 0], classes, answers_of(self.data.splits["train"], self.features, self.tokenizer)),
            None if self.blank is None else torch.from_numpy(null),
            {**made, "fold_seconds": round(spent, 3)},
        )

    def _trainable(self, training: Rows) -> Rows:
        """Those rows that have something to train on: of a language model not those whose answer was cut away."""
        if "trained" not in self.features.column_names:
            return training
        return training[column(self.features, "trained")[training] > 0]

    def _outputs(self, features: Any, training: Rows, held_out: Rows, scratch: Scratch) -> NDArray[np.float32]:
        """The loss, and the class log-probabilities, of the held-out rows: float32 `(held out, 1 + width)`."""
        set_seed(self.config.seed)
        model: Any = self.task.load_model(self.config.model, **model_options(self.config, self.data))

        def compute() -> dict[str, NDArray[np.float32]]:
            with scratch() as folder:
                self._train(model, features, training, folder)
            return {"outputs": self._read(model, features, held_out)}

        with self.ledger.charge("train"):
            if self.cache is None:
                return compute()["outputs"]
            origin = self._origin(model, features, training, held_out)
            storage: Any = {"save": save_arrays, "load": load_arrays}
            stored = entry(self.cache, "fold", origin, compute, ledger=self.ledger, **storage)
        if stored.problem is not None:
            self.listener.note(f"the values of a fold could not be kept in {self.cache}: {stored.problem}.")
        outputs: NDArray[np.float32] = stored.value["outputs"]
        return outputs

    def _train(self, model: Any, features: Any, training: Rows, folder: Path) -> None:
        config = replace(self.config, output=str(folder / "fold"))
        part = replace(self.data, splits={**self.data.splits, "train": self.data.splits["train"].take(training)})
        chosen = features.select(training)
        lengths = lengths_of(chosen)
        assert lengths is not None  # every task gives a length
        run = Run(
            config, folder / "fold", self.listener, self.ledger, check_config(config, resume=True), part, self.task,
            self.tokenizer, model, Features(part, self.task, self.tokenizer, config.length, self.ledger), chosen,
            chosen,  # never read: nothing is evaluated
            lengths, resolve_precision(config.precision, best_device()), EnergyMeter(),
        )  # fmt: skip
        arguments = training_arguments(run)
        arguments.eval_strategy = IntervalStrategy.NO
        RunTrainer(run, arguments).train()

    def _read(self, model: Any, features: Any, held_out: Rows) -> NDArray[np.float32]:
        train = self.data.splits["train"].take(held_out)
        inputs = ScoringInputs(
            joined_texts(train), features.select(held_out), self.task.collator(self.tokenizer), self.task.signals,
            ids=train.ids, model=model, precision=resolve_precision(self.config.precision, best_device()),
            batch_tokens=pass_tokens(self.config, self.lengths), ledger=self.ledger,
        )  # fmt: skip
        with self.ledger.charge("score"):
            values, classes = read_model(inputs, "model", (), classes=self.classes)
        losses = values["loss"][:, None]  # (held out,) -> (held out, 1)
        return losses if classes is None else np.concatenate([losses, classes.numpy()], axis=1)

    def _origin(self, model: Any, features: Any, training: Rows, held_out: Rows) -> Json:
        """Everything that decides the outputs of a fold; the weights hold the base model and the seed."""
        config = asdict(self.config)
        for name in ("data", "output", "cache", "model"):
            config.pop(name)
        return {
            "versions": {name: version(name) for name in ("datadiet", "torch", "transformers")},
            "data": self.data.fingerprint,
            "weights": weights_digest(model),
            "labels": [list(self.task.label_names), list(self.task.slot_names)],
            "texts": features is self.features,
            "tokens": int(self.lengths.sum()),
            "training": training.tolist(),
            "held_out": held_out.tolist(),
            "classes": self.classes,
            "config": config,
        }


def prepared(
    config: FinetuneConfig,
    data: Dataset,
    task: Task,
    folds: int,
    listener: Listener,
    ledger: Ledger,
    *,
    null: bool,
    classes: bool,
) -> Folds:
    """Tokenise the rows and divide them into folds.

    Args:
        config: Of the trainings.
        data, task: The rows.
        folds: The number of parts.
        listener, ledger: Report and count the work.
        null: Whether models without the texts are needed.
        classes: Whether the class probabilities are needed.

    Raises:
        ArgumentError: If the rows do not allow so many folds.
    """
    listener.phase("tokenising for the folds")
    tokenizer, train = task.load_tokenizer(config.model), data.splits["train"]
    cache = None if config.cache is None else Path(config.cache).expanduser()
    features = Features(data, task, tokenizer, config.length, ledger, cache).of("train")
    parts = text_folds(train, task.groups(features), folds, config.seed, _must_be_everywhere(data))
    blank = task.features(without_input(train), tokenizer, max_length=config.length) if null else None
    lengths = lengths_of(features)
    assert lengths is not None  # every task gives a length
    plain = replace(config, keep_checkpoints=False, checkpoint_every=0)
    made = Folds(plain, data, task, tokenizer, features, lengths, parts, blank, classes, cache, ledger, listener)
    smallest = min(len(training) for training, _ in parts)
    check_config(plain, resume=True).options.schedule(
        smallest, epochs=plain.planned_epochs, batch=examples_per_step(plain)
    )  # raises
    return made


def _must_be_everywhere(data: Dataset) -> tuple[str, ...]:
    """The classes of tasks that have one for each row; a set of labels may be in one fold only."""
    return data.label_names if has(data.task, "one_class") else ()
