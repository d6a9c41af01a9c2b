"""What a run computes before it trains: values of the whole training set, and where each example lies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datadiet import run_folder as layout
from datadiet.checks import ArgumentError, Problems
from datadiet.data.records import Examples
from datadiet.device import best_device
from datadiet.diet import Diet
from datadiet.gradients import GRADIENT_SCORES
from datadiet.models import load_saved
from datadiet.score_file import check_same_data, read_scores
from datadiet.scores import EMBEDDING_SCORES, TEXT_SCORES
from datadiet.whole_set import Material, embeddings_of, whole_set_values

IRREDUCIBLE = "irreducible_loss"  # the column of a score file that `top_reducible` reads
HERE = (*TEXT_SCORES, *EMBEDDING_SCORES)  # need nothing but the data and the model that a run starts from


@dataclass(frozen=True)
class Beforehand:
    """What is known of the training rows before the first step.

    Attributes:
        values: float32 `(n,)`, of a score that training does not make; None for one that it makes.
        features: float32 `(n, size)`, for a selector that covers a space; None for any other.
    """

    values: NDArray[np.float32] | None = None
    features: NDArray[np.float32] | None = None


def beforehand(diet: Diet, material: Material, train: Examples, fingerprint: str) -> Beforehand:
    """Compute, or read, what a diet cannot make while training.

    Args:
        diet: Of the run; its `scores_from` may be a file of `datadiet score`, or a run folder with checkpoints.
        material: Of the training rows, with the model that the run starts from as `encoder`.
        train: The training rows.
        fingerprint: Of the data.

    Raises:
        ArgumentError: If the score needs what is not there; says what to do.
        DataError: If the score file is of other data, or lacks rows.
    """
    problems = Problems()
    problems.found += lacking(diet)
    problems.raise_any()
    features = embeddings_of(material) if diet.covers else None
    name, source = wanted(diet), _source(diet)
    is_file = source is not None and source.is_file()
    if not _is_given(diet) and not is_file:
        return Beforehand(None, features)
    if source is not None and is_file:
        return Beforehand(_from_file(source, name, train.ids, fingerprint), features)
    if source is not None and name in GRADIENT_SCORES:
        return Beforehand(_from_run(source, name, material), features)
    return Beforehand(whole_set_values([name], material)[name], features)


def wanted(diet: Diet) -> str:
    """The score that a diet reads, where training does not make it."""
    return IRREDUCIBLE if diet.select == "top_reducible" else diet.measure.name


def lacking(diet: Diet, *, planned: bool = False) -> list[str]:
    """What a diet's score needs and is not given; nothing where it can be had.

    Args:
        diet: Of the run.
        planned: Whether what `scores_from` names is still to be made.
    """
    name, source = wanted(diet), _source(diet)
    if not _is_given(diet) or name in HERE or (source is not None and (planned or source.is_file())):
        return []
    if source is None or name not in GRADIENT_SCORES:
        how = "write it with datadiet score, and give that file as scores_from"
        return [f"{name!r} is not made while training: {how}."]
    steps = len(checkpoints_of(source))
    if steps >= 2 or name == "grand" or not source.is_dir():
        return []
    return [f"{name} needs at least two checkpoints, and {source} has {steps}: train it with --keep-checkpoints."]


def _is_given(diet: Diet) -> bool:
    return diet.measure.kind == "given" or diet.select == "top_reducible"


def _source(diet: Diet) -> Path | None:
    return None if diet.scores_from is None else Path(diet.scores_from).expanduser()


def _from_file(path: Path, name: str, ids: Sequence[str], fingerprint: str) -> NDArray[np.float32]:
    """The values of a score file, by id."""
    file = read_scores(path, scores=[name])
    check_same_data(file, fingerprint, "the training data")
    known: Mapping[str, Any] = dict(zip(file.ids, file.values[name].tolist(), strict=True))
    missing = [key for key in map(str, ids) if key not in known]
    if missing:
        raise ArgumentError(
            f"{path} has no {name} of {len(missing)} training rows, the first with the id {missing[0]!r}."
        )
    return np.array([known[str(key)] for key in ids], np.float32)


def _from_run(run: Path, name: str, material: Material) -> NDArray[np.float32]:
    """The values that the checkpoints of an earlier run give."""
    steps = checkpoints_of(run)
    model: Any = load_saved(run / layout.MODEL) if name == "grand" else None
    if model is not None:
        model.to(best_device())
    return whole_set_values([name], replace(material, checkpoints=steps or None, model=model))[name]


def checkpoints_of(run: Path) -> list[Path]:
    """The kept checkpoints of a run, in order; empty where it has none."""
    found = (run / layout.CHECKPOINTS).glob("checkpoint-*/config.json")
    return sorted((place.parent for place in found), key=lambda folder: int(folder.name.partition("-")[2]))
