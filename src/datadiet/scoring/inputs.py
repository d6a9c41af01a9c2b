"""What scores of a training split read, and what they share while they are computed.

A family of scores is a function `(name, inputs, shared) -> float32 (n,)`, beside its subject in this room; the
declaration of a score names it (`computed_by`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from datadiet.errors import Problems
from datadiet.ledger import Ledger
from datadiet.registry import NEEDS, find
from datadiet.tasks.causal_lm import AnswerRows
from datadiet.types import Signals

Values = NDArray[np.float32]
Made = TypeVar("Made")


@dataclass(frozen=True)
class TokenisedRows:
    """The training rows as the tokenizer of one model reads them.

    Attributes:
        features: Tokenised rows, in the order of the training split.
        collate: Rows to a batch.
        answers: What scores of answers read beside them; None of other tasks.
    """

    features: Any
    collate: Callable[[Any], Any]
    answers: AnswerRows | None = None


@dataclass(frozen=True)
class Queries:
    """Examples of what is wanted, which the training rows are compared with.

    Attributes:
        texts: `(q,)`, as those of the training rows.
        groups: int64 `(q,)`, the subtask of each, numbered from 0; all 0 where there is one.
        subtasks: Their names.
        features: Tokenised for the model at hand, whose `collate` makes batches of them; None where no score reads it.
        encoder_features: Tokenised for an encoder of its own; None where the model at hand embeds.
    """

    texts: Sequence[str]
    groups: NDArray[np.int64]
    subtasks: Sequence[str] = ("",)
    features: Any = None
    encoder_features: Any = None

    def features_for(self, role: str) -> Any:
        """As the `model` or the `encoder` reads them."""
        return self.features if role == "model" or self.encoder_features is None else self.encoder_features


@dataclass(frozen=True)
class OutOfFold:
    """Outputs of cross-fitted models: each row's by a model that was not trained on it.

    Attributes:
        losses: float32 `(n,)`.
        classes: float32 `(n, classes)`, log-probabilities; None where they were not requested.
        answers: The answers by the tokens of these models; None of other tasks.
    """

    losses: Values
    classes: torch.Tensor | None = None
    answers: AnswerRows | None = None


@dataclass(frozen=True)
class ScoringInputs:
    """Everything that scores of a training split may read. Fields that no requested score needs stay None.

    Attributes:
        texts: `(n,)`, a pair joined.
        features: Tokenised rows; `collate` makes batches of them.
        signals: Reads a model's outputs; see `Task.signals`.
        combine: How positions and heads become one value.
        groups: int64 `(n,)`, the classes, for scores that treat each class by itself.
        ids: Of the rows, for errors.
        encoder: A model to embed with; need not be trained for the task.
        model, teacher, holdout: Trained for the task.
        out_of_fold: Outputs of cross-fitted models, in place of `holdout`.
        null: float32 `(n, classes)`, log-probabilities by models that saw neither the row nor, in training, any text.
        checkpoints: Folders or models of one run, in order.
        learning_rates: Of the checkpoints; all equal by default.
        figures: Of the checkpoints, larger = better; by default their places.
        dev: Tokenised rows of the dev split.
        history: Columns of a run's history by name, float32 `(rounds, n)`, nan where a row was not scored.
        queries: Examples of what is wanted.
        columns: The user's own column of a name: one value per row.
        answers: Of `features`, for a language model.
        tokenised: Rows for `encoder`, `teacher` or `holdout`, by these names, where their tokenizer differs.
        precision, batch_tokens: Of the passes.
        ledger: Is charged for scoring.
        seed: Of clusterings.
        options: Of scores, by name.
    """

    texts: Sequence[str]
    features: Any
    collate: Callable[[Any], Any]
    signals: Callable[[Any, Any], Signals]
    combine: str = "norm"
    groups: NDArray[np.int64] | None = None
    ids: Sequence[str] | None = None
    encoder: torch.nn.Module | None = None
    model: torch.nn.Module | None = None
    teacher: torch.nn.Module | None = None
    holdout: torch.nn.Module | None = None
    out_of_fold: OutOfFold | None = None
    null: torch.Tensor | None = None
    checkpoints: Sequence[Path | torch.nn.Module] | None = None
    learning_rates: Sequence[float] | None = None
    figures: Sequence[float] | None = None
    dev: Any = None
    history: Mapping[str, Values] | None = None
    queries: Queries | None = None
    columns: Callable[[str], Sequence[Any]] | None = None
    answers: AnswerRows | None = None
    tokenised: Mapping[str, TokenisedRows] = field(default_factory=dict)
    precision: str = "fp32"
    batch_tokens: int = 4096
    ledger: Ledger = field(default_factory=Ledger)
    seed: int = 0
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def pass_options(self) -> dict[str, Any]:
        """Options of a forward pass."""
        return {"precision": self.precision, "batch_tokens": self.batch_tokens, "ledger": self.ledger}

    def rows_for(self, role: str) -> TokenisedRows:
        """The rows as the model of a role (`model`, `teacher`, `holdout` or `encoder`) reads them."""
        return self.tokenised.get(role) or TokenisedRows(self.features, self.collate, self.answers)

    def options_of(self, score: str) -> dict[str, Any]:
        """The options of a score; empty where none are given."""
        return dict(self.options.get(score, {}))


def needs_of(score: str) -> tuple[str, ...]:
    """The fields of `ScoringInputs` that a score needs; none for an unknown name."""
    method = find("score", score)
    return () if method is None else method.needs


def read_by(score: str) -> tuple[str, ...]:
    """The fields of `ScoringInputs` that a score reads: what it needs, and what it reads where it is given."""
    method = find("score", score)
    return () if method is None else (*method.needs, *method.facts.get("reads", ()))


def check_needs(names: Iterable[str], available: Iterable[str]) -> None:
    """Refuse scores that need a missing input, before anything is computed.

    Args:
        names: Of scores.
        available: The fields of `ScoringInputs` that will be given.

    Raises:
        ArgumentError: For all scores that need what is missing, together.

    Examples:
        >>> check_needs(["scdp", "vog"], ["texts", "checkpoints"])
    """
    given, problems = set(available), Problems()
    for name in names:
        for need in needs_of(name):
            problems.check(need in given, f"the score {name} needs {NEEDS[need]}.")
    problems.raise_any()


@dataclass(frozen=True)
class Shared:
    """What the scores of one call share.

    Attributes:
        names: All scores of the call: one pass reads what each of them needs of it.
        probabilities: Whether the probability of each class is needed, too.
        details: By score, what it says of how it was computed; families fill it.
    """

    names: tuple[str, ...]
    probabilities: bool = False
    details: dict[str, dict[str, Any]] = field(default_factory=dict)
    _made: dict[str, Any] = field(default_factory=dict)

    def once(self, what: str, make: Callable[[], Made]) -> Made:
        """Something that several scores read, made when the first of them asks."""
        if what not in self._made:
            self._made[what] = make()
        made: Made = self._made[what]
        return made
