"""Class probabilities of training examples: a mean over forward passes, its Parquet file, and inputs for cleanlab.

Layout of a `probabilities.parquet`, one line per example, ascending by row:

    row            int64
    id             text, the user's own
    label          int64 class number, null where there is none
    times          int32, over how many forward passes the mean is
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

from datadiet.errors import DataError, Problems
from datadiet.files import whole_file
from datadiet.store.score_file import ScoreFile

FILE = "probabilities.parquet"  # in a run folder
SCHEMA = "1"
UNLABELLED = -1
COLUMNS = ("row", "id", "label", "times", "probabilities")
MOST_NAMED = 5


@dataclass(frozen=True)
class ClassProbabilities:
    """The class probabilities of each example, row by row.

    Attributes:
        ids: The user's ids, `(n,)`.
        labels: int64 class numbers `(n,)`; `UNLABELLED` where there is none.
        probabilities: float32 `(n, classes)`; nan where the example was never seen.
        times: int32 `(n,)`, over how many forward passes each is the mean.
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
    """The mean class probabilities of each example over forward passes, `classes + 3` numbers per example.

    Args:
        num_examples: Rows of the training data.

    Examples:
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
        """How many; 0 before the first forward pass."""
        return 0 if self._mean is None else self._mean.shape[1]

    def add(self, rows: NDArray[np.int64], probabilities: ArrayLike, labels: NDArray[np.int64]) -> None:
        """Add one forward pass.

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
        """The means so far.

        Args:
            names: Of the classes.
            ids: The user's ids; row numbers by default.
        """
        mean = np.zeros((len(self._times), len(names)), np.float32) if self._mean is None else self._mean
        mean = np.where(self._times[:, None] > 0, mean, np.float32(np.nan))
        keys = [str(key) for key in (range(len(mean)) if ids is None else ids)]
        return ClassProbabilities(keys, self._labels.copy(), mean, self._times.copy(), tuple(map(str, names)))

    def carry(self, earlier: ClassProbabilities) -> None:
        """Go on from an earlier result."""
        self._mean = np.nan_to_num(earlier.probabilities, nan=0.0)
        self._times, self._labels = earlier.times.copy(), earlier.labels.copy()


def write_probabilities(path: str | Path, content: ClassProbabilities) -> None:
    """Write the layout of this module, so that a reader never sees half a file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    classes = len(content.names)
    seen = ~np.isnan(content.probabilities).any(1)
    flat = pa.array(content.probabilities.reshape(-1), pa.float32())  # (n, classes) -> (n * classes,)
    lists = pa.FixedSizeListArray.from_arrays(flat, classes, mask=pa.array(~seen))
    columns = {
        "row": pa.array(np.arange(len(content)), pa.int64()),
        "id": pa.array([str(key) for key in content.ids], pa.string()),
        "label": pa.array(content.labels, pa.int64(), mask=content.labels < 0),
        "times": pa.array(content.times, pa.int32()),
        "probabilities": lists,
    }
    meta = {"datadiet.classes": json.dumps(list(content.names), ensure_ascii=False), "datadiet.schema": SCHEMA}
    with whole_file(Path(path)) as part:
        pq.write_table(pa.table(columns).replace_schema_metadata(meta), part, compression="zstd")


def read_probabilities(path: str | Path) -> ClassProbabilities:
    """Read a file of `write_probabilities`.

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
    matrix = np.full((len(column), classes), np.nan, np.float32)
    valid = column.is_valid().to_numpy()
    flat = column.drop_null().combine_chunks().flatten().to_numpy()
    matrix[valid] = flat.reshape(-1, classes)  # (valid * classes,) -> (valid, classes)
    return matrix


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
    """The inputs of `cleanlab.filter.find_label_issues(labels, pred_probs)`; cleanlab itself is not needed.

    Args:
        source: Class probabilities, a file of them, a run folder that has recorded them (`datadiet.Probe`), or a score
            file that holds them (`datadiet.read_scores`; of `--folds` they are out of sample, as cleanlab asks).

    Returns:
        `labels` int64 `(n,)`, and `pred_probs` float64 `(n, classes)`, whose rows sum to 1; by row of the training
        split.

    Raises:
        DataError: If some example has no label or was never seen, or fewer than two classes occur; with the rows named.

    Examples:
        >>> values = np.float32([[0.9, 0.1], [0.6, 0.4]])
        >>> content = ClassProbabilities(["a", "b"], np.array([0, 1]), values, np.ones(2, np.int32), ("yes", "no"))
        >>> labels, pred_probs = cleanlab_inputs(content)
        >>> labels.tolist(), pred_probs.round(2).tolist()
        ([0, 1], [[0.9, 0.1], [0.6, 0.4]])

    Source: Northcutt, Jiang and Chuang 2021, "Confident Learning" (arXiv 1911.00068). They ask for probabilities from
    models that did not see the example. A mean over the first epochs has seen it a few times, when mislabelled examples
    are not fitted yet. A late pass has memorised them and finds few.
    """
    if isinstance(source, ScoreFile):
        content = of_score_file(source)
    else:
        content = source if isinstance(source, ClassProbabilities) else read_probabilities(source)
    problems = Problems()
    for bad, reason in (
        (content.labels < 0, "have no label"),
        (content.labels >= content.probabilities.shape[1], "have a label beyond the classes"),
        (
            ~np.isfinite(content.probabilities).all(1),
            "have no class probabilities: they were in no recorded pass",
        ),
    ):
        rows = np.flatnonzero(bad)
        ids = ", ".join(str(content.ids[row]) for row in rows[:MOST_NAMED])
        problems.check(not rows.size, f"{rows.size} of {len(content)} examples {reason} (ids {ids}).")
    classes = len(np.unique(content.labels[content.labels >= 0]))
    problems.check(classes > 1, f"label errors need at least two classes among the labels, got {classes}.")
    problems.raise_any(DataError)
    values = content.probabilities.astype(np.float64)
    return content.labels.astype(np.int64), values / values.sum(1, keepdims=True)
