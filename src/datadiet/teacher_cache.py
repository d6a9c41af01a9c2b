"""What a teacher says of the training rows, kept in a folder for the runs that would ask it the same.

An entry (`datadiet.entries`) has of every head the logits, one row per decision, as `save_soft_labels` writes them, and
how many decisions each example has.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from datadiet import __version__
from datadiet.checks import ArgumentError, DataError
from datadiet.distillation import load_soft_labels, save_soft_labels
from datadiet.entries import keep_entry, place_of, read_about
from datadiet.integrations.teacher import HeadLogits
from datadiet.records import Json
from datadiet.value_cache import load_values, save_values

KIND, DECISIONS = "teacher", "decisions"


@dataclass(frozen=True)
class Answers:
    """A teacher's logits, and what asking for them took.

    Attributes:
        heads: By the name of the head.
        seconds: Of loading, tokenising and the pass.
        examples, tokens: Of the pass.
    """

    heads: dict[str, HeadLogits]
    seconds: float
    examples: int
    tokens: int


def origin_of(model: Path, data: str, task: Sequence[object], how: Json) -> Json:
    """Everything that the answers follow from.

    Args:
        model: The teacher's files, which are known by their content.
        data: Fingerprint of the data.
        task: Its name and classes.
        how: Plain values: how the rows are read and the pass is made.
    """
    versions = {"datadiet": __version__, **{name: version(name) for name in ("torch", "transformers")}}
    return {"versions": versions, "data": data, "task": list(task), "model": checksum(model), **how}


def checksum(model: Path) -> str:
    """A digest of the content of a saved model: weights, config and tokenizer, but not its card."""
    digest = hashlib.sha256()
    for file in sorted(file for file in model.iterdir() if file.is_file() and file.suffix != ".md"):
        with file.open("rb") as handle:
            digest.update(f"{file.name} {hashlib.file_digest(handle, 'sha256').hexdigest()}\n".encode())
    return digest.hexdigest()


def read_answers(folder: Path, origin: Json, ids: Sequence[str]) -> Answers | None:
    """The answers of an entry, in the order of the ids; None where they are to be asked for."""
    place = place_of(folder, origin, KIND)
    about = read_about(place, origin)
    if about is None:
        return None
    try:
        heads = {name: _read_head(place, name, ids, origin["data"]) for name in about["heads"]}
        return Answers(heads, float(about["seconds"]), int(about["examples"]), int(about["tokens"]))
    except (DataError, OSError, ValueError, KeyError, TypeError):
        return None


def _read_head(place: Path, name: str, ids: Sequence[str], fingerprint: str) -> HeadLogits:
    counts = load_values(place / f"{name}-{DECISIONS}.parquet", ids, what=DECISIONS, fingerprint=fingerprint)
    starts: NDArray[np.int64] = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    logits = load_soft_labels(place / f"{name}.parquet", _numbers(int(starts[-1])), fingerprint=fingerprint)
    return HeadLogits(logits, starts)


def keep_answers(folder: Path, origin: Json, ids: Sequence[str], answers: Answers) -> None:
    """Keep what a teacher said of the rows with these ids.

    Raises:
        OSError: If the folder cannot be written to.
        ArgumentError: If a logit is not finite.
    """
    about = {"seconds": answers.seconds, "examples": answers.examples, "tokens": answers.tokens}

    def fill(part: Path) -> None:
        for name, head in answers.heads.items():
            counts, file = np.diff(head.starts).astype(np.float32), part / f"{name}-{DECISIONS}.parquet"
            save_values(file, ids, counts, what=DECISIONS, fingerprint=origin["data"])
            save_soft_labels(
                part / f"{name}.parquet", _numbers(len(head.logits)), head.logits, fingerprint=origin["data"]
            )

    place = place_of(folder, origin, KIND)
    keep_entry(
        place, origin, {**about, "heads": list(answers.heads)}, fill,
        lambda: read_answers(folder, origin, ids) is not None,
    )  # fmt: skip


def kept(folder: Path, origin: Json, ids: Sequence[str], answers: Answers) -> str | None:
    """Keep them if that is possible; a sentence on why it was not, else None."""
    try:
        keep_answers(folder, origin, ids, answers)
    except OSError as error:  # a full disk, a folder that may not be written to
        return f"what the teacher says could not be kept in {folder}: {error.strerror or error}."
    except ArgumentError as error:
        return f"what the teacher says could not be kept: {error}"
    return None


def _numbers(count: int) -> list[str]:
    """Names of decisions, which have none of their own."""
    return [str(number) for number in range(count)]
