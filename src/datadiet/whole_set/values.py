"""Values of a whole training set at once, from what there is of it: its texts, a model, a run's checkpoints, a history.

Scores that read the same thing share it: all that a forward pass can tell comes from one pass.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datadiet.dynamic_scores import DYNAMIC_SCORES
from datadiet.embedding import embed
from datadiet.gradients import GRADIENT_SCORES, grand, self_influence, tracin, vog
from datadiet.history import over_rounds
from datadiet.scores import EMBEDDING_SCORES, TEXT_SCORES
from datadiet.scoring import first_alike
from datadiet.whole_set.material import WHERE, Material, check_needs, inputs_of
from datadiet.whole_set.passes import PASSES, of_passes

Values = NDArray[np.float32]


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
        names: Of `NEEDS`.
        material: What there is.
        probabilities: Also what the model gives each class; of tasks with one class per example. Where there are
            cross-fitted models it is what they give, who have not seen the row.

    Returns:
        Values in the order of the names, and what they cost.

    Raises:
        ArgumentError: If something is missing, see `check_needs`, or a score cannot be computed of this data.
    """
    crossed = () if material.unseen is None else ("holdout",)
    check_needs(names, [*(name for name in WHERE if getattr(material, name) is not None), *crossed])
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
    together: dict[Any, Iterable[str]] = {_of_embeddings: EMBEDDING_SCORES, of_passes: PASSES}
    for compute, family in together.items():
        if group := [name for name in names if name in family]:
            yield group, compute
    alone: dict[Any, Iterable[str]] = {
        _of_texts: TEXT_SCORES, _of_gradients: GRADIENT_SCORES, _of_history: DYNAMIC_SCORES
    }  # fmt: skip
    for compute, family in alone.items():
        yield from (([name], compute) for name in names if name in family)


def embeddings_of(material: Material) -> NDArray[np.float32]:
    """One vector per training row, float32 `(n, size)`, of length 1."""
    assert material.encoder is not None  # check_needs has seen it
    options: dict[str, Any] = {"precision": material.precision, "batch_tokens": material.batch_tokens}
    rows = inputs_of(material, "encoder")
    alike = first_alike(material.texts, rows.features)
    return embed(material.encoder, rows.features, rows.collate, rows=alike, ledger=material.ledger, **options)


def _of_texts(names: Sequence[str], material: Material) -> dict[str, Values]:
    return {name: TEXT_SCORES[name](material.texts, ids=material.ids, **_options(name, material)) for name in names}


def _of_embeddings(names: Sequence[str], material: Material) -> dict[str, Values]:
    vectors = embeddings_of(material)
    # published per class: the distance to a class's own median; of the others the published form knows no classes
    groups = {"moderate": material.groups}
    return {
        name: EMBEDDING_SCORES[name](vectors, groups.get(name), ids=material.ids, **_options(name, material))
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
        score, columns = DYNAMIC_SCORES[name], material.history or {}
        table = columns[score.columns[0]]
        rounds = np.full(table.shape, np.nan, np.float32)
        for place in range(len(table)):
            seen = np.flatnonzero(~np.isnan(table[place]))
            rounds[place, seen] = score.read({column: columns[column][place, seen] for column in score.columns})
        found[name] = over_rounds(score.started(**_options(name, material)), rounds)
    return found
