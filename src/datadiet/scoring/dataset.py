"""Scores of a whole training split: values of every row, from the models, checkpoints and history that are given.

`score_split` takes names of scores and `ScoringInputs`. Scores that read the same thing share its cost: all scores of
one forward pass come from a single pass per model, and all scores of embeddings from one embedding of the split. What
each score needs is declared beside it (`datadiet.registry`).
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from datadiet import registry
from datadiet.errors import ArgumentError, Problems
from datadiet.ledger import Ledger
from datadiet.registry import NEEDS, find, load
from datadiet.scores.history import over_rounds
from datadiet.scores.reduce import FREE, example_values, free_signals
from datadiet.scores.two_models import negative_pvi, teacher_divergence, teacher_el2n
from datadiet.scoring.embed import embed
from datadiet.scoring.forward import Batch, first_alike, forward_pass
from datadiet.scoring.grand import grand
from datadiet.scoring.tracin import self_influence, tracin
from datadiet.scoring.vog import vog
from datadiet.tasks.heads import Heads, head_layers
from datadiet.types import HeadSignals, Signals

Values = NDArray[np.float32]

_GRADIENT_BATCH_TOKENS = 2048  # at most, since backward passes keep activations


# ---- inputs ----


@dataclass(frozen=True)
class TokenisedRows:
    """The training rows as the tokenizer of one model reads them.

    Attributes:
        features: Tokenised rows, in the order of the training split.
        collate: Rows to a batch.
    """

    features: Any
    collate: Callable[[Any], Batch]


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
    """

    losses: Values
    classes: torch.Tensor | None = None


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
        dev: Tokenised rows of the dev split.
        history: Columns of a run's history by name, float32 `(rounds, n)`, nan where a row was not scored.
        queries: Examples of what is wanted.
        columns: The user's own column of a name: one value per row.
        tokenised: Rows for `encoder`, `teacher` or `holdout`, by these names, where their tokenizer differs.
        precision, batch_tokens: Of the passes.
        ledger: Is charged for scoring.
        seed: Of clusterings.
        options: Of scores, by name.
        facts: What a score says of how it was made, by name; filled while scoring.
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
    out_of_fold: OutOfFold | None = None
    null: torch.Tensor | None = None
    checkpoints: Sequence[Path | torch.nn.Module] | None = None
    learning_rates: Sequence[float] | None = None
    dev: Any = None
    history: Mapping[str, Values] | None = None
    queries: Queries | None = None
    columns: Callable[[str], Sequence[Any]] | None = None
    tokenised: Mapping[str, TokenisedRows] = field(default_factory=dict)
    precision: str = "fp32"
    batch_tokens: int = 4096
    ledger: Ledger = field(default_factory=Ledger)
    seed: int = 0
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    facts: dict[str, dict[str, Any]] = field(default_factory=dict)

    def rows_for(self, role: str) -> TokenisedRows:
        """The rows as the model of a role (`model`, `teacher`, `holdout` or `encoder`) reads them."""
        return self.tokenised.get(role) or TokenisedRows(self.features, self.collate)

    def options_of(self, score: str) -> dict[str, Any]:
        """The options of a score; empty where none are given."""
        return dict(self.options.get(score, {}))


def needs_of(score: str) -> tuple[str, ...]:
    """The fields of `ScoringInputs` that a score needs; none for an unknown name."""
    method = find("score", score)
    return () if method is None else method.needs


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


# ---- all scores ----


@dataclass(frozen=True)
class SplitScores:
    """Values of a whole training split.

    Attributes:
        values: float32 `(n,)` by score, larger = harder.
        seconds: The time of each score; of scores that share a pass, the time of the pass.
        shared: The scores that were computed together with each, itself included.
        probabilities: float32 `(n, classes)` of the model, or of cross-fitted ones, where they were requested.
    """

    values: Mapping[str, Values]
    seconds: Mapping[str, float]
    shared: Mapping[str, tuple[str, ...]]
    probabilities: Values | None = None


def score_split(names: Sequence[str], inputs: ScoringInputs, *, probabilities: bool = False) -> SplitScores:
    """The values of every training row, by score; scores that read the same thing share one pass over it.

    Args:
        names: Of scores; `datadiet methods` lists them.
        inputs: What they are computed from.
        probabilities: Also the probability of each class, for tasks with one class per example. They are those of the
            cross-fitted models where `out_of_fold` is given, else those of the model.

    Returns:
        Values in the order of the names, and their cost.

    Raises:
        ArgumentError: If an input is missing, see `check_needs`, or a score cannot be computed from this data.
    """
    crossed = () if inputs.out_of_fold is None else ("holdout",)
    check_needs(names, [*(name for name in NEEDS if getattr(inputs, name, None) is not None), *crossed])
    values: dict[str, Values] = {}
    seconds: dict[str, float] = {}
    shared: dict[str, tuple[str, ...]] = {}
    classes = None
    with inputs.ledger.charge("score"):
        for group, compute in _together(names):
            began = time.perf_counter()
            if compute is _of_passes:
                part, classes = _of_passes(group, inputs, probabilities)
            else:
                part = compute(group, inputs)
            values |= part
            seconds |= dict.fromkeys(group, time.perf_counter() - began)
            shared |= dict.fromkeys(group, tuple(group))
        if probabilities and classes is None:
            classes = _of_passes([], inputs, True)[1]
    ordered = {name: np.asarray(values[name], np.float32) for name in names}
    return SplitScores(ordered, seconds, shared, classes)


def _together(names: Sequence[str]) -> Iterator[tuple[list[str], Any]]:
    """Groups of scores that are computed together, with the function that computes them."""
    families: dict[Any, list[str]] = {}
    for name in names:
        families.setdefault(_computed_by(name), []).append(name)
    for compute, group in families.items():
        if compute in (_of_embeddings, _of_passes):  # share one pass
            yield group, compute
        else:
            yield from (([name], compute) for name in group)


def _computed_by(name: str) -> Any:
    if name in _GRADIENT_SCORES:
        return _of_gradients
    by_needs: dict[tuple[str, ...], Any] = {
        ("texts",): _of_texts, ("texts", "queries"): _like_queries, ("columns",): _of_columns,
        ("encoder",): _of_embeddings, ("history",): _of_history,
    }  # fmt: skip
    return by_needs.get(needs_of(name), _of_passes)


# ---- scores of forward passes ----


def _of_passes(
    names: Sequence[str], inputs: ScoringInputs, probabilities: bool
) -> tuple[dict[str, Values], Values | None]:
    """All scores that take one forward pass of each model, and the class probabilities."""
    own = [name for name in names if name in registry.names("score", trait="forward")]
    by_teacher = {"teacher_el2n": teacher_el2n, "teacher_divergence": teacher_divergence}
    compared = [name for name in names if name in by_teacher]
    values: dict[str, Values] = {}
    classes: torch.Tensor | None = None
    out_of_fold = inputs.out_of_fold
    of_model = probabilities and out_of_fold is None
    if own or compared or of_model or "reducible_loss" in names:
        values, classes = read_model(inputs, "model", own, classes=bool(compared) or of_model)
    if "reducible_loss" in names or "irreducible_loss" in names:
        losses = read_model(inputs, "holdout", ())[0]["loss"] if out_of_fold is None else out_of_fold.losses
        values["irreducible_loss"] = losses
    if "reducible_loss" in names:
        values["reducible_loss"] = values["loss"] - values["irreducible_loss"]
    if compared:
        teacher = read_model(inputs, "teacher", (), classes=True)[1]
        assert classes is not None  # requested above
        assert teacher is not None
        values |= {name: by_teacher[name](classes, teacher).numpy() for name in compared}
    if "negative_pvi" in names:
        assert out_of_fold is not None  # made together with the null models
        assert out_of_fold.classes is not None
        assert inputs.null is not None
        labels = torch.as_tensor(inputs.groups)
        values["negative_pvi"] = negative_pvi(out_of_fold.classes, inputs.null, labels).numpy()
    logs = classes if out_of_fold is None else out_of_fold.classes
    return {name: values[name] for name in names}, logs.exp().numpy() if probabilities and logs is not None else None


def read_model(
    inputs: ScoringInputs, role: str, scores: Sequence[str], *, classes: bool = False
) -> tuple[dict[str, Values], torch.Tensor | None]:
    """Scores and free signals of every row from one forward pass; rows that look the same to the model are passed once.

    Args:
        inputs: The rows, and the model.
        role: Which model: `model`, `teacher` or `holdout`.
        scores: Names of scores of one forward pass.
        classes: Also the log-probability of each class, of the head that has one decision per example.

    Returns:
        The scores and the free signals, float32 `(n,)` each; the log-probabilities, float32 `(n, classes)`, or None.

    Raises:
        ArgumentError: If `classes` are requested of a model that has no such head.
    """
    model, rows = getattr(inputs, role), inputs.rows_for(role)
    columns = tuple(dict.fromkeys((*scores, *FREE)))
    heads, table = Heads(head_layers(model)), np.empty((len(columns), len(rows.features)), np.float32)
    alike = first_alike(inputs.texts, rows.features)
    logs: torch.Tensor | None = None

    def call(batch: Batch) -> Any:
        with heads.recording():
            return model(**batch)

    options: dict[str, Any] = {"precision": inputs.precision, "batch_tokens": inputs.batch_tokens}
    options |= {"rows": np.unique(alike), "ledger": inputs.ledger, "call": call}
    for part, outputs, batch in forward_pass(model, rows.features, rows.collate, **options):
        signals = heads.signals(inputs.signals(outputs, batch))
        values = free_signals(signals)
        values |= {name: example_values(load("score", name), signals, combine=inputs.combine) for name in scores}
        table[:, part] = torch.stack([values[name] for name in columns]).cpu().numpy()
        if classes:
            of_batch = _log_probabilities(signals)
            logs = of_batch.new_empty(len(rows.features), of_batch.shape[1]) if logs is None else logs
            logs[torch.from_numpy(part)] = of_batch
    return dict(zip(columns, table[:, alike], strict=True)), None if logs is None else logs[torch.from_numpy(alike)]


def _log_probabilities(signals: Signals) -> torch.Tensor:
    """float32 `(batch, classes)`, from the head that has one decision per example."""
    for head in signals.heads.values():
        if isinstance(head, HeadSignals) and head.mask is None and not head.labels.is_floating_point():
            return head.logits.float().log_softmax(-1).cpu()
    raise ArgumentError("class probabilities need a model that gives each example one class; this one does not.")


# ---- scores of texts, embeddings and histories ----


def embeddings_of(inputs: ScoringInputs) -> Values:
    """One vector of length 1 per training row, float32 `(n, size)`, by the encoder."""
    assert inputs.encoder is not None  # checked by check_needs
    rows = inputs.rows_for("encoder")
    alike = first_alike(inputs.texts, rows.features)
    options: dict[str, Any] = {"precision": inputs.precision, "batch_tokens": inputs.batch_tokens}
    return embed(inputs.encoder, rows.features, rows.collate, rows=alike, ledger=inputs.ledger, **options)


def _of_texts(names: Sequence[str], inputs: ScoringInputs) -> dict[str, Values]:
    return {name: load("score", name)(inputs.texts, ids=inputs.ids, **inputs.options_of(name)) for name in names}


def _like_queries(names: Sequence[str], inputs: ScoringInputs) -> dict[str, Values]:
    assert inputs.queries is not None  # checked by check_needs
    values = {}
    for name in names:
        function, options = load("score", name), inputs.options_of(name)
        takes = inspect.signature(function).parameters
        options |= {"seed": inputs.seed} if "seed" in takes else {}
        options |= {"report": inputs.facts.setdefault(name, {})} if "report" in takes else {}
        values[name] = function(inputs.texts, queries=inputs.queries.texts, ids=inputs.ids, **options)
    return values


def _of_columns(names: Sequence[str], inputs: ScoringInputs) -> dict[str, Values]:
    assert inputs.columns is not None  # checked by check_needs
    values = {}
    for name in names:
        options = inputs.options_of(name)
        values[name] = load("score", name)(inputs.columns(options["column"]), ids=inputs.ids, **options)
    return values


def _of_embeddings(names: Sequence[str], inputs: ScoringInputs) -> dict[str, Values]:
    vectors = embeddings_of(inputs)
    # published per class: the distance to the class's own median; the other scores are published without classes
    groups = {"moderate": inputs.groups}
    return {
        name: load("score", name)(vectors, groups.get(name), ids=inputs.ids, **inputs.options_of(name))
        for name in names
    }


def _of_history(names: Sequence[str], inputs: ScoringInputs) -> dict[str, Values]:
    values, columns = {}, inputs.history or {}
    for name in names:
        score = load("score", name).streaming
        table = columns[score.columns[0]]
        rounds = np.full(table.shape, np.nan, np.float32)
        for place in range(len(table)):
            seen = np.flatnonzero(~np.isnan(table[place]))
            rounds[place, seen] = score.read({column: columns[column][place, seen] for column in score.columns})
        values[name] = over_rounds(score.started(**inputs.options_of(name)), rounds)
    return values


# ---- scores of gradients ----


def _of_gradients(names: Sequence[str], inputs: ScoringInputs) -> dict[str, Values]:
    sizes = {"batch_tokens": min(inputs.batch_tokens, _GRADIENT_BATCH_TOKENS)}
    return {name: _GRADIENT_SCORES[name](inputs, sizes | inputs.options_of(name)) for name in names}


def _grand(inputs: ScoringInputs, options: Mapping[str, Any]) -> Values:
    assert inputs.model is not None  # checked by check_needs
    return grand(inputs.model, inputs.features, inputs.collate, ledger=inputs.ledger, **options)


def _vog(inputs: ScoringInputs, options: Mapping[str, Any]) -> Values:
    return vog(list(inputs.checkpoints or ()), inputs.features, inputs.collate, **options).values


def _self_influence(inputs: ScoringInputs, options: Mapping[str, Any]) -> Values:
    return self_influence(*_steps(inputs), inputs.features, inputs.collate, **options)


def _tracin(inputs: ScoringInputs, options: Mapping[str, Any]) -> Values:
    return tracin(*_steps(inputs), inputs.features, inputs.dev, inputs.collate, **options)


def _steps(inputs: ScoringInputs) -> tuple[list[Any], list[float]]:
    """The checkpoints and their learning rates."""
    checkpoints = list(inputs.checkpoints or ())
    return checkpoints, list(inputs.learning_rates or [1.0] * len(checkpoints))


_GRADIENT_SCORES: Mapping[str, Callable[[ScoringInputs, Mapping[str, Any]], Values]] = {
    "grand": _grand,
    "vog": _vog,
    "self_influence": _self_influence,
    "tracin": _tracin,
}
