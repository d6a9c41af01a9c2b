"""What there is to score a training set with, and what each score cannot do without.

All that one forward pass of each model tells of every row.

Values of a whole training set at once, from what there is of it: its texts, a model, a run's checkpoints, a history.

Scores that read the same thing share it: all that a forward pass can tell comes from one pass.
"""

from __future__ import annotations

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
from datadiet.types import Signals


def needs_of(score: str) -> tuple[str, ...]:
    """What a score needs: fields of `Material`; nothing for a name that does not exist."""
    method = find("score", score)
    return () if method is None else method.needs


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
        options: Of scores, by name: see `datadiet.suitable`.
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
        ArgumentError: For every score that needs what is not there, together.

    Example:
        >>> check_needs(["scdp", "vog"], ["texts", "checkpoints"])
    """
    held, problems = set(there), Problems()
    for name in names:
        for need in needs_of(name):
            problems.check(need in held, f"the score {name} needs {NEEDS[need]}.")
    problems.raise_any()


def inputs_of(material: Material, role: str) -> Inputs:
    """The rows as the model of a role takes them."""
    return material.inputs.get(role) or Inputs(material.features, material.collate)


Values = NDArray[np.float32]


def of_passes(
    names: Sequence[str], material: Material, probabilities: bool
) -> tuple[dict[str, Values], NDArray[np.float32] | None]:
    """All that one forward pass of each model tells, and the class probabilities."""
    own = [name for name in names if name in registry.names("score", trait="forward")]
    taught = {"teacher_el2n": teacher_el2n, "teacher_divergence": teacher_divergence}
    compared = [name for name in names if name in taught]
    found: dict[str, Values] = {}
    classes: torch.Tensor | None = None
    unseen = material.unseen
    of_model = probabilities and unseen is None
    if own or compared or of_model or "reducible_loss" in names:
        found, classes = read_model(material, "model", own, classes=bool(compared) or of_model)
    if "reducible_loss" in names or "irreducible_loss" in names:
        found["irreducible_loss"] = read_model(material, "holdout", ())[0]["loss"] if unseen is None else unseen.losses
    if "reducible_loss" in names:
        found["reducible_loss"] = found["loss"] - found["irreducible_loss"]
    if compared:
        theirs = read_model(material, "teacher", (), classes=True)[1]
        assert classes is not None  # asked for
        assert theirs is not None
        found |= {name: taught[name](classes, theirs).numpy() for name in compared}
    if "negative_pvi" in names:
        assert unseen is not None  # made together with the null models
        assert unseen.classes is not None
        assert material.null is not None
        found["negative_pvi"] = negative_pvi(unseen.classes, material.null, torch.as_tensor(material.groups)).numpy()
    told = classes if unseen is None else unseen.classes
    return {name: found[name] for name in names}, told.exp().numpy() if probabilities and told is not None else None


def read_model(
    material: Material, role: str, scores: Sequence[str], *, classes: bool = False
) -> tuple[dict[str, Values], torch.Tensor | None]:
    """What one forward pass of a model tells of every row; rows that it cannot tell apart are passed once.

    Args:
        material: The rows, and the model.
        role: Which model: `model`, `teacher` or `holdout`.
        scores: Names of scores of one forward pass.
        classes: Also the log-probability of each class, of the head that has one decision per example.

    Returns:
        The scores and the free signals, float32 `(n,)` each; the log-probabilities, float32 `(n, classes)`, or None.

    Raises:
        ArgumentError: If `classes` are asked of a model that has no such head.
    """
    model, rows = getattr(material, role), inputs_of(material, role)
    columns = tuple(dict.fromkeys((*scores, *FREE)))
    heads, found = Heads(head_layers(model)), np.empty((len(columns), len(rows.features)), np.float32)
    alike = first_alike(material.texts, rows.features)
    told: torch.Tensor | None = None

    def call(batch: Batch) -> Any:
        with heads.watching():
            return model(**batch)

    options: dict[str, Any] = {"precision": material.precision, "batch_tokens": material.batch_tokens}
    options["rows"] = np.unique(alike)
    for part, outputs, batch in forward_pass(
        model, rows.features, rows.collate, call=call, ledger=material.ledger, **options
    ):
        signals = heads.signals(material.signals(outputs, batch))
        values = free_signals(signals)
        values |= {name: example_values(load("score", name), signals, combine=material.combine) for name in scores}
        found[:, part] = torch.stack([values[name] for name in columns]).cpu().numpy()
        if classes:
            logs = _log_probabilities(signals)
            told = logs.new_empty(len(rows.features), logs.shape[1]) if told is None else told
            told[torch.from_numpy(part)] = logs
    return dict(zip(columns, found[:, alike], strict=True)), None if told is None else told[torch.from_numpy(alike)]


def _log_probabilities(signals: Signals) -> torch.Tensor:
    """float32 `(batch, classes)`, from the head that has one decision per example."""
    for head in signals.heads.values():
        if head.mask is None and not head.labels.is_floating_point():
            return head.logits.float().log_softmax(-1).cpu()
    raise ArgumentError("class probabilities are of models that give each example one class; this one does not.")


@dataclass(frozen=True)
class WholeSet:
    """Values of a whole training set.

    Attributes:
        values: float32 `(n,)` by score, larger = harder.
        seconds: What each took; of scores that share a pass, the pass.
        shared: The scores that were computed together with each, itself included.
        probabilities: float32 `(n, classes)` of the model, or of cross-fitted ones, where they were asked for.
    """

    values: Mapping[str, Values]
    seconds: Mapping[str, float]
    shared: Mapping[str, tuple[str, ...]]
    probabilities: NDArray[np.float32] | None = None


def whole_set_values(names: Sequence[str], material: Material) -> dict[str, Values]:
    """The values of every training row, by score; see `whole_set`."""
    return dict(whole_set(names, material).values)


def whole_set(names: Sequence[str], material: Material, *, probabilities: bool = False) -> WholeSet:
    """The values of every training row, by score; scores that read the same thing share one pass over it.

    Args:
        names: Of scores, by `datadiet methods`.
        material: What there is.
        probabilities: Also what the model gives each class; of tasks with one class per example. Where there are
            cross-fitted models it is what they give, who have not seen the row.

    Returns:
        Values in the order of the names, and what they cost.

    Raises:
        ArgumentError: If something is missing, see `check_needs`, or a score cannot be computed of this data.
    """
    crossed = () if material.unseen is None else ("holdout",)
    check_needs(names, [*(name for name in NEEDS if getattr(material, name, None) is not None), *crossed])
    found: dict[str, Values] = {}
    seconds: dict[str, float] = {}
    shared: dict[str, tuple[str, ...]] = {}
    classes = None
    with material.ledger.charge("score"):
        for group, compute in _together(names):
            began = time.perf_counter()
            if compute is of_passes:
                values, classes = of_passes(group, material, probabilities)
            else:
                values = compute(group, material)
            found |= values
            seconds |= dict.fromkeys(group, time.perf_counter() - began)
            shared |= dict.fromkeys(group, tuple(group))
        if probabilities and classes is None:
            classes = of_passes([], material, True)[1]
    kept = {name: np.asarray(found[name], np.float32) for name in names}
    return WholeSet(kept, seconds, shared, classes)


def _together(names: Sequence[str]) -> Iterator[tuple[list[str], Any]]:
    """Groups of scores that are computed together, with what computes them."""
    families: dict[Any, list[str]] = {}
    for name in names:
        families.setdefault(_computed_by(name), []).append(name)
    for compute, group in families.items():
        if compute in (_of_embeddings, of_passes):  # share one pass
            yield group, compute
        else:
            yield from (([name], compute) for name in group)


def _computed_by(name: str) -> Any:
    method, needs = find("score", name), needs_of(name)
    if needs == ("texts",):
        return _of_texts
    if needs == ("encoder",):
        return _of_embeddings
    if "history" in needs:
        return _of_history
    return _of_gradients if method and method.where.startswith("datadiet.scoring.") else of_passes


def embeddings_of(material: Material) -> NDArray[np.float32]:
    """One vector per training row, float32 `(n, size)`, of length 1."""
    assert material.encoder is not None  # check_needs has seen it
    options: dict[str, Any] = {"precision": material.precision, "batch_tokens": material.batch_tokens}
    rows = inputs_of(material, "encoder")
    alike = first_alike(material.texts, rows.features)
    return embed(material.encoder, rows.features, rows.collate, rows=alike, ledger=material.ledger, **options)


def _of_texts(names: Sequence[str], material: Material) -> dict[str, Values]:
    return {name: load("score", name)(material.texts, ids=material.ids, **_options(name, material)) for name in names}


def _of_embeddings(names: Sequence[str], material: Material) -> dict[str, Values]:
    vectors = embeddings_of(material)
    # published per class: the distance to a class's own median; of the others the published form knows no classes
    groups = {"moderate": material.groups}
    return {
        name: load("score", name)(vectors, groups.get(name), ids=material.ids, **_options(name, material))
        for name in names
    }


def _options(name: str, material: Material) -> dict[str, Any]:
    return dict(material.options.get(name, {}))


def _of_gradients(names: Sequence[str], material: Material) -> dict[str, Values]:
    rows, collate, found = material.features, material.collate, {}
    sizes: dict[str, Any] = {"batch_tokens": min(material.batch_tokens, 2048)}
    steps = list(material.checkpoints or ())
    rates = list(material.learning_rates or [1.0] * len(steps))
    if "grand" in names:
        assert material.model is not None  # check_needs has seen it
        own = _options("grand", material)
        found["grand"] = grand(material.model, rows, collate, ledger=material.ledger, **sizes, **own)
    if "vog" in names:
        found["vog"] = vog(steps, rows, collate, **sizes, **_options("vog", material)).values
    if "self_influence" in names:
        own = _options("self_influence", material)
        found["self_influence"] = self_influence(steps, rates, rows, collate, **sizes, **own)
    if "tracin" in names:
        found["tracin"] = tracin(steps, rates, rows, material.dev, collate, **sizes, **_options("tracin", material))
    return found


def _of_history(names: Sequence[str], material: Material) -> dict[str, Values]:
    found = {}
    for name in names:
        score, columns = load("score", name).streaming, material.history or {}
        table = columns[score.columns[0]]
        rounds = np.full(table.shape, np.nan, np.float32)
        for place in range(len(table)):
            seen = np.flatnonzero(~np.isnan(table[place]))
            rounds[place, seen] = score.read({column: columns[column][place, seen] for column in score.columns})
        found[name] = over_rounds(score.started(**_options(name, material)), rounds)
    return found
