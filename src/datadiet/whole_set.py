"""Values of a whole training set at once, from what there is of it: its texts, a model, a run's checkpoints, a history.

Scores that read the same thing share it: all that a forward pass can tell comes from one pass.
"""

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
from datadiet.embedding import embed
from datadiet.gradients import grand, self_influence, tracin, vog
from datadiet.history import over_rounds
from datadiet.ledger import Ledger
from datadiet.models.heads import Heads, head_layers
from datadiet.records import Signals
from datadiet.scores import EMBEDDING_SCORES, SCORES, TEXT_SCORES, example_values
from datadiet.scores.free import FREE, free_signals
from datadiet.scores.two_models import teacher_divergence, teacher_el2n
from datadiet.scoring import Batch, forward_pass

Values = NDArray[np.float32]

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
    "reducible_loss": ("model", "holdout"),
    "teacher_el2n": ("model", "teacher"),
    "teacher_divergence": ("model", "teacher"),
}

WHERE: Mapping[str, str] = {
    "texts": "the texts of the training split",
    "encoder": "a model to embed the texts with",
    "model": "a model that is trained: the model of a run, or some epochs of training first",
    "history": "the score history of a run",
    "checkpoints": "at least two checkpoints of a run: train it with --keep-checkpoints",
    "dev": "a dev split",
    "holdout": "a model trained on other data",
    "teacher": "a teacher: another trained model of the same classes",
}


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
        history: Columns of a run's history by name, float32 `(rounds, n)`, nan where not seen.
        precision, batch_tokens: Of the passes.
        ledger: Takes the time as scoring.
        seed: Of clusterings.
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
    checkpoints: Sequence[Path | torch.nn.Module] | None = None
    learning_rates: Sequence[float] | None = None
    dev: Any = None
    history: Mapping[str, NDArray[np.float32]] | None = None
    precision: str = "fp32"
    batch_tokens: int = 4096
    ledger: Ledger = field(default_factory=Ledger)
    seed: int = 0


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


def whole_set_values(names: Sequence[str], material: Material) -> dict[str, Values]:
    """The values of every training row, by score.

    Args:
        names: Of `NEEDS`.
        material: What there is.

    Returns:
        float32 `(n,)` each, larger = harder, in the order of the names.

    Raises:
        ArgumentError: If something is missing, see `check_needs`, or a score cannot be computed of this data.
    """
    there = [name for name in WHERE if getattr(material, name) is not None]
    check_needs(names, there)
    found: dict[str, Values] = {}
    with material.ledger.charge("score"):
        found |= _of_texts(names, material) | _of_embeddings(names, material)
        found |= _of_passes(names, material) | _of_gradients(names, material) | _of_history(names, material)
    return {name: np.asarray(found[name], np.float32) for name in names}


def embeddings_of(material: Material) -> NDArray[np.float32]:
    """One vector per training row, float32 `(n, size)`, of length 1."""
    assert material.encoder is not None  # check_needs has seen it
    options: dict[str, Any] = {"precision": material.precision, "batch_tokens": material.batch_tokens}
    return embed(material.encoder, material.features, material.collate, ledger=material.ledger, **options)


def _of_texts(names: Sequence[str], material: Material) -> dict[str, Values]:
    wanted = [name for name in names if name in TEXT_SCORES]
    return {name: TEXT_SCORES[name](material.texts, ids=material.ids) for name in wanted}


def _of_embeddings(names: Sequence[str], material: Material) -> dict[str, Values]:
    wanted = [name for name in names if name in EMBEDDING_SCORES]
    if not wanted:
        return {}
    vectors = embeddings_of(material)
    # published per class: the distance to a class's own median; of the others the published form knows no classes
    groups = {"moderate": material.groups}
    return {name: EMBEDDING_SCORES[name](vectors, groups.get(name), ids=material.ids) for name in wanted}


def _of_passes(names: Sequence[str], material: Material) -> dict[str, Values]:
    """All that one forward pass of each model tells."""
    own = [name for name in names if name in SCORES]
    taught = {"teacher_el2n": teacher_el2n, "teacher_divergence": teacher_divergence}
    compared = [name for name in names if name in taught]
    found: dict[str, Values] = {}
    if own or "reducible_loss" in names:
        found |= signal_values(material, material.model, own)
    if "reducible_loss" in names:
        irreducible = signal_values(material, material.holdout, [])["loss"]
        found["reducible_loss"] = found["loss"] - irreducible
    if compared:
        ours, theirs = (_log_probabilities(material, model) for model in (material.model, material.teacher))
        found |= {name: taught[name](ours, theirs).numpy() for name in compared}
    return found


def signal_values(material: Material, model: Any, scores: Sequence[str]) -> dict[str, Values]:
    """The free signals and some scores of every row, float32 `(n,)` each, from one pass of a model.

    Args:
        material: The rows.
        model: Trained.
        scores: Names of `datadiet.scores.SCORES`.
    """
    columns = tuple(dict.fromkeys((*scores, *FREE)))
    heads, found = Heads(head_layers(model)), np.empty((len(columns), len(material.features)), np.float32)

    def call(batch: Batch) -> Any:
        with heads.watching():
            return model(**batch)

    for rows, outputs, batch in _pass(material, model, call):
        signals = heads.signals(material.signals(outputs, batch))
        values = free_signals(signals)
        values |= {name: example_values(SCORES[name], signals, combine=material.combine) for name in scores}
        found[:, rows] = torch.stack([values[name] for name in columns]).cpu().numpy()
    return dict(zip(columns, found, strict=True))


def class_probabilities_of(material: Material, model: Any) -> NDArray[np.float32]:
    """What a model gives each class, float32 `(n, classes)`; of tasks with one class per example."""
    return _log_probabilities(material, model).exp().numpy()


def _log_probabilities(material: Material, model: Any) -> torch.Tensor:
    """float32 `(n, classes)`, from the head that has one decision per example."""
    parts: list[torch.Tensor] = []
    order: list[NDArray[np.int64]] = []
    for rows, outputs, batch in _pass(material, model, None):
        head = next(head for head in material.signals(outputs, batch).heads.values() if head.mask is None)
        parts.append(head.logits.float().log_softmax(-1).cpu())
        order.append(rows)
    back = np.argsort(np.concatenate(order))
    return torch.cat(parts)[torch.from_numpy(back)]


def _pass(material: Material, model: Any, call: Any) -> Any:
    options: dict[str, Any] = {"precision": material.precision, "batch_tokens": material.batch_tokens}
    return forward_pass(model, material.features, material.collate, call=call, ledger=material.ledger, **options)


def _of_gradients(names: Sequence[str], material: Material) -> dict[str, Values]:
    rows, collate, found = material.features, material.collate, {}
    sizes: dict[str, Any] = {"batch_tokens": min(material.batch_tokens, 2048)}
    steps = list(material.checkpoints or ())
    rates = list(material.learning_rates or [1.0] * len(steps))
    if "grand" in names:
        assert material.model is not None  # check_needs has seen it
        found["grand"] = grand(material.model, rows, collate, ledger=material.ledger, **sizes)
    if "vog" in names:
        found["vog"] = vog(steps, rows, collate, **sizes).values
    if "self_influence" in names:
        found["self_influence"] = self_influence(steps, rates, rows, collate, **sizes)
    if "tracin" in names:
        found["tracin"] = tracin(steps, rates, rows, material.dev, collate, **sizes)
    return found


def _of_history(names: Sequence[str], material: Material) -> dict[str, Values]:
    found = {}
    for name in [name for name in names if name in DYNAMIC_SCORES]:
        score, columns = DYNAMIC_SCORES[name], material.history or {}
        table = columns[score.columns[0]]
        rounds = np.full(table.shape, np.nan, np.float32)
        for place in range(len(table)):
            seen = np.flatnonzero(~np.isnan(table[place]))
            rounds[place, seen] = score.read({column: columns[column][place, seen] for column in score.columns})
        found[name] = over_rounds(score.started(), rounds)
    return found
