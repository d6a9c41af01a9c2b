"""The score file: what `datadiet score` writes and `datadiet select` reads, values of one whole training split.

Layout, one Parquet file, one line per training row, ascending by row:

    row            int64, 0 to n - 1
    id             text, the user's own
    label          text, where the split has one label per row
    SCORE          float32, one column per score; larger = harder
    probabilities  fixed-size list<float32>, one number per class, where they were kept

and in the schema's metadata, under `datadiet`, JSON with `schema`, `data` (a name, never a path), `fingerprint`,
`task`, `rows`, `label_names`, `made_with` (per score: model, epochs, seconds, ...), `read_with` (how it was read),
`cost` (of everything that the file took) and `probabilities_with` (of models that have not seen the row: the folds).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datadiet.checks import Problems

SCHEMA = 1
FIXED = ("row", "id", "label", "probabilities")
MOST_NAMED = 5
KEY = b"datadiet"  # of the metadata


@dataclass(frozen=True)
class ScoreFile:
    """Values of a whole training split.

    Attributes:
        ids: The user's ids, `(n,)`.
        rows: int64 `(n,)`, 0 to n - 1: positions in the training split.
        values: float32 `(n,)` by the score's name; larger = harder.
        labels: Class names `(n,)`; None where the split has not one label per row.
        fingerprint: Of the data set; see `datadiet.data.Dataset`.
        data: Name of the data set; never a path.
        task: `classification`, `regression`, `intent-slot`, ...
        made_with: What each score was made with, by its name: `model` (a name, never a path), `epochs`, `seconds`, ...
        label_names: Class names in the order of `probabilities`.
        probabilities: float32 `(n, classes)`, or None.
        read_with: Options of `datadiet.load_data` by which the split is read again: `train_rows`, `dev_share`, `seed`,
            `drop_overlap`, `label_separator`, and `columns`, by the fields of `datadiet.data.Columns`. Those left out
            have their defaults.
        cost: What everything took, by the fields of `datadiet.records.CostLedger`; empty where it is not known.
        probabilities_with: `{"folds": K}` where the probabilities are out of sample; else empty.
    """

    ids: Sequence[str]
    rows: NDArray[np.int64]
    values: Mapping[str, NDArray[np.float32]]
    labels: Sequence[str] | None
    fingerprint: str
    data: str
    task: str
    made_with: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    label_names: tuple[str, ...] = ()
    probabilities: NDArray[np.float32] | None = None
    read_with: Mapping[str, Any] = field(default_factory=dict)
    cost: Mapping[str, Any] = field(default_factory=dict)
    probabilities_with: Mapping[str, Any] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.rows)


def problems_of(file: ScoreFile) -> Problems:
    """What is wrong with the content; nothing where it can be written, and could have been read."""
    problems = Problems()
    problems.check(bool(file.values), "a score file needs at least one score, got none.")
    problems.check(len(file) > 0, "a score file needs at least one row, got none.")
    taken = sorted(set(file.values) & set(FIXED))
    problems.check(not taken, f"a score cannot be called {', '.join(taken)}: the score file has a column of that name.")
    alien = sorted(file.made_with.keys() - file.values.keys())
    problems.check(not alien, f"made_with names {', '.join(alien)}, which is no score of the file.")
    in_order = np.array_equal(file.rows, np.arange(len(file)))
    problems.check(in_order, f"the rows of a score file must be 0 to {len(file) - 1}: the whole training split.")
    problems.found += _wrong_lengths(file)
    if not problems.found:
        for name, values in file.values.items():
            problems.found += not_finite(name, values, file.ids)
    return problems


def _wrong_lengths(file: ScoreFile) -> list[str]:
    given: dict[str, Any] = {"ids": file.ids, "labels": file.labels, **file.values}
    found = [
        f"{name} must have one entry per row, {len(file)}, got {len(held)}."
        for name, held in given.items()
        if held is not None and len(held) != len(file)
    ]
    shape = (len(file), len(file.label_names))
    if file.probabilities is not None and file.probabilities.shape != shape:
        found.append(
            f"probabilities must have the shape {shape}, rows and label names, got {file.probabilities.shape}."
        )
    return found


def not_finite(name: str, values: NDArray[np.float32], ids: Sequence[str]) -> list[str]:
    """A sentence on NaN and infinite values, with the ids; nothing where all are finite.

    Example:
        >>> not_finite("el2n", np.float32([0.5, np.nan]), ["a", "b"])
        ["the values of el2n must be finite numbers; 1 of 2 are not: nan (id 'b'). Score again, or leave el2n out."]
    """
    bad = np.flatnonzero(~np.isfinite(values))
    if not bad.size:
        return []
    named = ", ".join(f"{values[row]} (id {ids[row]!r})" for row in bad[:MOST_NAMED])
    more = f" and {bad.size - MOST_NAMED} more" if bad.size > MOST_NAMED else ""
    return [
        f"the values of {name} must be finite numbers; {bad.size} of {len(values)} are not: {named}{more}. "
        f"Score again, or leave {name} out."
    ]
