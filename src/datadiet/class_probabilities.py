"""Class probabilities of training examples: a mean over forwards, its Parquet layout, and what cleanlab takes.

Layout of a `probabilities.parquet`, one line per example, ascending by row:

    row            int64
    id             text, the user's own
    label          int64 class number, null where there is none
    times          int32, over how many forwards the mean is
    probabilities  fixed-size list<float32>, one number per class; null where the example was never seen

and in the schema's metadata `datadiet.classes`, the class names in order as JSON, and `datadiet.schema`, `1`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from datadiet.checks import DataError, Problems
from datadiet.score_file import ScoreFile

FILE = "probabilities.parquet"  # in a run folder
SCHEMA = "1"
UNLABELLED = -1
COLUMNS = ("row", "id", "label", "times", "probabilities")
MOST_NAMED = 5


@dataclass(frozen=True)
class ClassProbabilities:
    """What a model says of each example, row by row.

    Attributes:
        ids: The user's ids, `(n,)`.
        labels: int64 class numbers `(n,)`; `UNLABELLED` where there is none.
        probabilities: float32 `(n, classes)`; nan where the example was never seen.
        times: int32 `(n,)`, over how many forwards each is the mean.
        names: Class names by number.
    """

    ids: Sequence[str]
    labels: NDArray[np.int64]
    probabilities: NDArray[np.float32]
    times: NDArray[np.int32]
    names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.labels)


class MeanProbabilities:
    """The mean class probabilities of each example over forwards, `classes + 3` numbers per example.

    Args:
        num_examples: Rows of the training data.

    Example:
        >>> mean = MeanProbabilities(2)
        >>> mean.add(np.array([1]), [[0.5, 0.5]], np.array([0]))
        >>> mean.add(np.array([1]), [[1.0, 0.0]], np.array([0]))
        >>> mean.result(("yes", "no")).probabilities.tolist()
        [[nan, nan], [0.75, 0.25]]
    """

    def __init__(self, num_examples: int) -> None:
        self._mean: NDArray[np.float32] | None = None
        self._times = np.zeros(num_examples, np.int32)
        self._labels = np.full(num_examples, UNLABELLED, np.int64)

    @property
    def classes(self) -> int:
        """How many; 0 before the first forward."""
        return 0 if self._mean is None else self._mean.shape[1]

    def add(self, rows: NDArray[np.int64], probabilities: ArrayLike, labels: NDArray[np.int64]) -> None:
        """Take in one forward.

        Args:
            rows: int64 `(m,)`, each row once.
            probabilities: `(m, classes)`.
            labels: int64 `(m,)`; below 0 = none.
        """
        values = np.asarray(probabilities, np.float32)
        if self._mean is None:
            self._mean = np.zeros((len(self._times), values.shape[1]), np.float32)
        self._times[rows] += 1
        self._mean[rows] += (values - self._mean[rows]) / self._times[rows, None]
        self._labels[rows] = np.maximum(labels, UNLABELLED)

    def result(self, names: Sequence[str], ids: Sequence[str] | None = None) -> ClassProbabilities:
        """What it says so far.

        Args:
            names: Of the classes.
            ids: The user's ids; row numbers by default.
        """
        mean = np.zeros((len(self._times), len(names)), np.float32) if self._mean is None else self._mean
        known = np.where(self._times[:, None] > 0, mean, np.float32(np.nan))
        keys = [str(row) for row in range(len(known))] if ids is None else [str(key) for key in ids]
        return ClassProbabilities(keys, self._labels.copy(), known, self._times.copy(), tuple(map(str, names)))

    def carry(self, earlier: ClassProbabilities) -> None:
        """Go on from an earlier result."""
        self._mean = np.nan_to_num(earlier.probabilities, nan=0.0)
        self._times, self._labels = earlier.times.copy(), earlier.labels.copy()


def write_probabilities(path: str | Path, found: ClassProbabilities) -> None:
    """Write the layout above, so that a reader never sees half a file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    classes = len(found.names)
    seen = ~np.isnan(found.probabilities).any(1)
    flat = pa.array(found.probabilities.reshape(-1), pa.float32())  # (n, classes) -> (n * classes,)
    lists = pa.FixedSizeListArray.from_arrays(flat, classes, mask=pa.array(~seen))
    columns = {
        "row": pa.array(np.arange(len(found)), pa.int64()),
        "id": pa.array([str(key) for key in found.ids], pa.string()),
        "label": pa.array(found.labels, pa.int64(), mask=found.labels < 0),
        "times": pa.array(found.times, pa.int32()),
        "probabilities": lists,
    }
    meta = {"datadiet.classes": json.dumps(list(found.names), ensure_ascii=False), "datadiet.schema": SCHEMA}
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    pq.write_table(pa.table(columns).replace_schema_metadata(meta), part, compression="zstd")
    part.replace(target)


def read_probabilities(path: str | Path) -> ClassProbabilities:
    """Read what `write_probabilities` wrote.

    Args:
        path: The file, or a run folder that holds it.

    Raises:
        DataError: If there is none, or it has another layout.
    """
    import pyarrow.parquet as pq

    file = Path(path) / FILE if Path(path).is_dir() else Path(path)
    if not file.is_file():
        raise DataError(f"there are no class probabilities in {path}; record them with datadiet.Probe.")
    try:
        table = pq.read_table(file)
    except (OSError, ValueError) as error:
        raise DataError(f"{file} is not a Parquet file: {error}.") from error
    meta = table.schema.metadata or {}
    if meta.get(b"datadiet.schema") != SCHEMA.encode() or not set(COLUMNS) <= set(table.column_names):
        raise DataError(f"{file} has another layout; its columns must be {', '.join(COLUMNS)}, schema {SCHEMA}.")
    names = tuple(json.loads(meta[b"datadiet.classes"]))
    return ClassProbabilities(
        ids=table["id"].to_pylist(),
        labels=table["label"].fill_null(UNLABELLED).to_numpy().astype(np.int64),
        probabilities=_matrix(table["probabilities"], len(names)),
        times=table["times"].to_numpy().astype(np.int32),
        names=names,
    )


def _matrix(column: Any, classes: int) -> NDArray[np.float32]:
    """A column of lists as float32 `(n, classes)`, nan where null."""
    found = np.full((len(column), classes), np.nan, np.float32)
    known = column.is_valid().to_numpy()
    flat = column.drop_null().combine_chunks().flatten().to_numpy()
    found[known] = flat.reshape(-1, classes)  # (known * classes,) -> (known, classes)
    return found


def of_score_file(file: ScoreFile) -> ClassProbabilities:
    """The class probabilities of a score file, as `datadiet score --probabilities` keeps them.

    Raises:
        DataError: If it holds none, or no labels.
    """
    if file.probabilities is None or file.labels is None:
        raise DataError("the score file has no class probabilities: make it with datadiet score --probabilities.")
    number = {name: place for place, name in enumerate(file.label_names)}
    labels = np.array([number.get(label, UNLABELLED) for label in file.labels], np.int64)
    return ClassProbabilities(file.ids, labels, file.probabilities, np.ones(len(file), np.int32), file.label_names)


def cleanlab_inputs(
    source: str | Path | ClassProbabilities | ScoreFile,
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """What `cleanlab.filter.find_label_issues(labels, pred_probs)` takes as it is; cleanlab itself is not needed.

    Args:
        source: Class probabilities, a file of them, a run folder that has recorded them (`datadiet.Probe`), or a score
            file that holds them (`datadiet.read_scores`; of `--folds` they are out of sample, as cleanlab asks).

    Returns:
        `labels` int64 `(n,)`, and `pred_probs` float64 `(n, classes)`, whose rows sum to 1. The place of an example is
        its row of the training split.

    Raises:
        DataError: If some example has no label or was never seen, or fewer than two classes occur; with the rows named.

    Example:
        >>> found = ClassProbabilities(["a", "b"], np.array([0, 1]), np.float32([[0.9, 0.1], [0.6, 0.4]]),
        ...                            np.ones(2, np.int32), ("yes", "no"))
        >>> labels, pred_probs = cleanlab_inputs(found)
        >>> labels.tolist(), pred_probs.round(2).tolist()
        ([0, 1], [[0.9, 0.1], [0.6, 0.4]])

    Source: Northcutt, Jiang and Chuang 2021, "Confident Learning" (arXiv 1911.00068). They ask for probabilities from
    models that did not see the example. A mean over the first epochs has seen it, a few times: what is mislabelled is
    then not fitted yet. A late pass has memorised it and finds little.
    """
    held = of_score_file(source) if isinstance(source, ScoreFile) else source
    found = held if isinstance(held, ClassProbabilities) else read_probabilities(held)
    problems = Problems()
    unknown = ~np.isfinite(found.probabilities).all(1)
    outside = found.labels >= found.probabilities.shape[1]
    for bad, what in (
        (found.labels < 0, "have no label"),
        (outside, "have a label beyond the classes"),
        (unknown, "have no class probabilities: they were in no recorded pass"),
    ):
        rows = np.flatnonzero(bad)
        named = ", ".join(str(found.ids[row]) for row in rows[:MOST_NAMED])
        problems.check(not rows.size, f"{rows.size} of {len(found)} examples {what} (ids {named}).")
    classes = len(np.unique(found.labels[found.labels >= 0]))
    problems.check(classes > 1, f"label errors need at least two classes among the labels, got {classes}.")
    problems.raise_any(DataError)
    values = found.probabilities.astype(np.float64)
    return found.labels.astype(np.int64), values / values.sum(1, keepdims=True)
