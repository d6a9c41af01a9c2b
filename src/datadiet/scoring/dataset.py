"""Scores of a whole training split: values of every row, from the models, checkpoints and history that are given.

`score_split` takes names of scores and `ScoringInputs`. It knows no score by name: the declaration of each names the
function that computes it (`computed_by`), beside its subject in this room, and what it needs of forward passes
(`passes`). Scores that read the same thing share its cost (`shares`): all scores of a forward pass come from a single
pass per model, and all scores of embeddings from one embedding of the split. The scores of texts, columns and
histories, which need no model, are here.
"""

from __future__ import annotations

import importlib
import inspect
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datadiet import registry
from datadiet.registry import NEEDS, find, load
from datadiet.scores.history import over_rounds
from datadiet.scoring.forward import passes_of, probabilities_of
from datadiet.scoring.inputs import ScoringInputs, Shared, Values, check_needs

Family = Callable[[str, ScoringInputs, Shared], Values]


@dataclass(frozen=True)
class SplitScores:
    """Values of a whole training split.

    Attributes:
        values: float32 `(n,)` by score, larger = harder.
        seconds: The time of each score; of scores that share a pass, the time of the pass.
        shared: The scores that were computed together with each, itself included.
        probabilities: float32 `(n, classes)` of the model, or of cross-fitted ones, where they were requested.
        missing: Where a row has no value, bool `(n,)` by score, of scores that lack any: nan there.
        details: By score, what it says of how it was computed, such as the residual of a solved system.
    """

    values: Mapping[str, Values]
    seconds: Mapping[str, float]
    shared: Mapping[str, tuple[str, ...]]
    probabilities: Values | None = None
    missing: Mapping[str, NDArray[np.bool_]] = field(default_factory=dict)
    details: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


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
    together: dict[str, tuple[str, ...]] = {}
    shared = Shared(tuple(names), probabilities)
    with inputs.ledger.charge("score"):
        for group in _groups(names):
            began = time.perf_counter()
            for name in group:
                values[name] = np.asarray(family_of(name)(name, inputs, shared), np.float32)
            seconds |= dict.fromkeys(group, time.perf_counter() - began)
            together |= dict.fromkeys(group, tuple(group))
        classes = probabilities_of(inputs, shared) if probabilities else None
    ordered = {name: values[name] for name in names}
    return SplitScores(ordered, seconds, together, classes, _missing(ordered, inputs), shared.details)


def family_of(name: str) -> Family:
    """The function that computes a score, as its declaration names it."""
    method = find("score", name)
    assert method is not None  # checked by check_needs
    module, _, function = method.facts["computed_by"].partition(":")
    family: Family = getattr(importlib.import_module(module), function)
    return family


def _groups(names: Sequence[str]) -> Iterator[list[str]]:
    """The scores, those that share something together."""
    groups: dict[str, list[str]] = {}
    for name in names:
        method = find("score", name)
        shares = "passes" if passes_of(name) else name if method is None else method.facts.get("shares", name)
        groups.setdefault(shares, []).append(name)
    yield from groups.values()


def _missing(values: Mapping[str, Values], inputs: ScoringInputs) -> dict[str, NDArray[np.bool_]]:
    """Where rows without a token that trains, or without what a score of answers compares, have no value."""
    of_rows = (inputs.answers, *(rows.answers for rows in inputs.tokenised.values()))
    every = [one for one in (*of_rows, getattr(inputs.out_of_fold, "answers", None)) if one is not None]
    if not every:
        return {}
    nothing, gaps = np.any([one.counts == 0 for one in every], axis=0), registry.names("score", trait="gaps")
    missing = {name: np.isnan(column) & (nothing | (name in gaps)) for name, column in values.items()}
    return {name: where for name, where in missing.items() if where.any()}


# ---- scores without a model


def of_texts(name: str, inputs: ScoringInputs, _shared: Shared) -> Values:
    """A score of the texts."""
    values: Values = load("score", name)(inputs.texts, ids=inputs.ids, **inputs.options_of(name))
    return values


def of_texts_and_queries(name: str, inputs: ScoringInputs, shared: Shared) -> Values:
    """A score of how like the queries the texts are; it may take a seed, and report how it was made."""
    assert inputs.queries is not None  # checked by check_needs
    function, options = load("score", name), inputs.options_of(name)
    takes = inspect.signature(function).parameters
    options |= {"seed": inputs.seed} if "seed" in takes else {}
    options |= {"report": shared.details.setdefault(name, {})} if "report" in takes else {}
    values: Values = function(inputs.texts, queries=inputs.queries.texts, ids=inputs.ids, **options)
    return values


def of_a_column(name: str, inputs: ScoringInputs, _shared: Shared) -> Values:
    """A score of a column of the user's."""
    assert inputs.columns is not None  # checked by check_needs
    options = inputs.options_of(name)
    values: Values = load("score", name)(inputs.columns(options["column"]), ids=inputs.ids, **options)
    return values


def of_history(name: str, inputs: ScoringInputs, _shared: Shared) -> Values:
    """A score of what a run recorded round by round."""
    columns, score = inputs.history or {}, load("score", name).streaming
    table = columns[score.columns[0]]
    rounds = np.full(table.shape, np.nan, np.float32)
    for place in range(len(table)):
        seen = np.flatnonzero(~np.isnan(table[place]))
        rounds[place, seen] = score.read({column: columns[column][place, seen] for column in score.columns})
    return over_rounds(score.started(**inputs.options_of(name)), rounds)
