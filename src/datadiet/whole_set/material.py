"""What there is to score a training set with, and what each score cannot do without."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from datadiet.checks import Problems
from datadiet.dynamic_scores import DYNAMIC_SCORES
from datadiet.ledger import Ledger
from datadiet.records import Signals
from datadiet.scores import EMBEDDING_SCORES, SCORES, TEXT_SCORES
from datadiet.scoring import Batch

# what each score cannot do without; `Material` has a field of the same name for each
NEEDS: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(TEXT_SCORES, ("texts",)),
    **dict.fromkeys(EMBEDDING_SCORES, ("encoder",)),
    **dict.fromkeys(SCORES, ("model",)),
    "grand": ("model",),
    **dict.fromkeys(DYNAMIC_SCORES, ("history",)),
    "vog": ("checkpoints",),
    "self_influence": ("checkpoints",),
    "tracin": ("checkpoints", "dev"),
    "negative_pvi": ("null",),
    "reducible_loss": ("model", "holdout"),
    "irreducible_loss": ("holdout",),  # what `reducible_loss` takes off, and `top_reducible` reads of a score file
    "teacher_el2n": ("model", "teacher"),
    "teacher_divergence": ("model", "teacher"),
}

WHERE: Mapping[str, str] = {
    "texts": "the texts of the training split",
    "encoder": "a model to embed the texts with: --encoder MODEL, or --model RUN",
    "model": "a model that is trained: --model RUN, or --epochs E to train one first",
    "history": "the score history of a run: --model RUN, or --epochs E to train one first",
    "checkpoints": "the checkpoints of a run: --model RUN, trained with --keep-checkpoints, or --epochs E from 2 on",
    "dev": "a dev split",
    "holdout": "a model trained on other data of the same classes: --holdout MODEL, or --folds K --epochs E",
    "null": "models with and without the texts that have not seen the row: --folds K --epochs E",
    "teacher": "another trained model of the same classes: --teacher MODEL",
}


@dataclass(frozen=True)
class Inputs:
    """The training rows as another model's tokenizer reads them.

    Attributes:
        features: Tokenised rows, in the order of the training split.
        collate: Rows to a batch.
    """

    features: Any
    collate: Callable[[Any], Batch]


@dataclass(frozen=True)
class Unseen:
    """What cross-fitted models say of rows that they have not seen.

    Attributes:
        losses: float32 `(n,)`.
        classes: float32 `(n, classes)`, log-probabilities; None where they were not asked for.
    """

    losses: NDArray[np.float32]
    classes: torch.Tensor | None = None


@dataclass(frozen=True)
class Material:
    """What there is to score with.

    Attributes:
        texts: `(n,)`, a pair joined.
        features: Tokenised rows; `collate` makes batches of them.
        signals: Reads a model's outputs; see `Task.signals`.
        combine: How positions and heads become one value.
        groups: int64 `(n,)`, the classes, for scores that look at each class by itself.
        ids: Of the rows, for errors.
        encoder: A model to embed with; need not be trained for the task.
        model, teacher, holdout: Trained for the task.
        checkpoints: Folders or models of one run, in order.
        learning_rates: Of the checkpoints; all alike by default.
        dev: Tokenised rows of the dev split.
        unseen: What models that have not seen a row say of it, in place of `holdout`.
        null: float32 `(n, classes)`, log-probabilities by models that saw neither the row nor, in training, any text.
        history: Columns of a run's history by name, float32 `(rounds, n)`, nan where not seen.
        inputs: Rows for `encoder`, `teacher` or `holdout`, by these names, where their tokenizer is another one.
        precision, batch_tokens: Of the passes.
        ledger: Takes the time as scoring.
        seed: Of clusterings.
        options: Of scores, by name: see `datadiet.score_options`.
    """

    texts: Sequence[str]
    features: Any
    collate: Callable[[Any], Batch]
    signals: Callable[[Any, Batch], Signals]
    combine: str = "norm"
    groups: NDArray[np.int64] | None = None
    ids: Sequence[str] | None = None
    encoder: torch.nn.Module | None = None
    model: torch.nn.Module | None = None
    teacher: torch.nn.Module | None = None
    holdout: torch.nn.Module | None = None
    unseen: Unseen | None = None
    null: torch.Tensor | None = None
    checkpoints: Sequence[Path | torch.nn.Module] | None = None
    learning_rates: Sequence[float] | None = None
    dev: Any = None
    history: Mapping[str, NDArray[np.float32]] | None = None
    inputs: Mapping[str, Inputs] = field(default_factory=dict)
    precision: str = "fp32"
    batch_tokens: int = 4096
    ledger: Ledger = field(default_factory=Ledger)
    seed: int = 0
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def check_needs(names: Iterable[str], there: Iterable[str]) -> None:
    """Refuse scores that need what is missing, before anything is computed.

    Args:
        names: Of scores.
        there: The fields of `Material` that are known to be there.

    Raises:
        ArgumentError: For every score that does not exist or needs what is not there, together.

    Example:
        >>> check_needs(["scdp", "vog"], ["texts", "checkpoints"])
    """
    held, problems = set(there), Problems()
    for name in names:
        problems.choice("score", name, NEEDS)
        for need in NEEDS.get(name, ()):
            problems.check(need in held, f"the score {name} needs {WHERE[need]}.")
    problems.raise_any()


def inputs_of(material: Material, role: str) -> Inputs:
    """The rows as the model of a role takes them."""
    return material.inputs.get(role) or Inputs(material.features, material.collate)
