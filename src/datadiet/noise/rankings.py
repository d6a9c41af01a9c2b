"""Several rankings of the same rows together, and the most suspected rows.

Ways to rank rows by how likely their label is wrong: pure functions, larger = more suspected.

Training rows ranked from the score history of run folders.

What tells wrong labels among the scores of a file.

Class probabilities of training examples: a mean over forwards, its Parquet layout, and what cleanlab takes.

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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata

from datadiet.errors import ArgumentError, DataError, MissingExtraError, Problems
from datadiet.files import SCHEMA
from datadiet.noise.guard import MOST_OF_CLASS
from datadiet.registry import ranking
from datadiet.store.score_file import ScoreFile
from datadiet.store.tables import read_table

Values = NDArray[np.float32]
Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Ranking:
    """Rows ranked in several ways.

    Attributes:
        ids: The user's id of each row.
        values: float32 `(n,)` per ranking, larger = more suspected.

    Example:
        >>> ranking = Ranking(("a", "b", "c"), {"aum": np.array([3.0, 1.0, 2.0]), "el2n": np.array([0.9, 0.2, 0.1])})
        >>> ranking.together, ranking.top(0.4)
        (array([3. , 1.5, 1.5], dtype=float32), array([0]))
        >>> ranking.agreement(0.4)
        {('aum', 'el2n'): 1.0}
    """

    ids: tuple[str, ...]
    values: Mapping[str, Values]

    @property
    def together(self) -> Values:
        """The mean rank over the rankings, float32 `(n,)`, larger = more suspected."""
        ranks = [rankdata(values) for values in self.values.values()]
        return np.asarray(np.mean(ranks, axis=0), np.float32)

    def top(self, share: float, groups: NDArray[np.int64] | None = None) -> Rows:
        """The most suspected rows by all rankings together; see `most_suspected`."""
        return most_suspected(self.together, share, groups)

    def agreement(self, share: float) -> dict[tuple[str, str], float]:
        """Of each two rankings, the share of their most suspected rows that they have in common."""
        tops = {name: set(most_suspected(values, share).tolist()) for name, values in self.values.items()}
        return {(one, two): _common(tops[one], tops[two]) for one, two in combinations(tops, 2)}


def _common(one: set[int], two: set[int]) -> float:
    return len(one & two) / max(1, len(one))


def most_suspected(values: ArrayLike, share: float, groups: NDArray[np.int64] | None = None) -> Rows:
    """The most suspected share of the rows, of each class at most half: a class that cannot be learned is hard.

    Args:
        values: float `(n,)`, larger = more suspected; ties by row.
        share: Of all rows, in (0, 1).
        groups: int64 `(n,)`, the class of each row.

    Returns:
        int64, ascending; fewer than asked for where the classes allow no more.

    Raises:
        ArgumentError: If the share is not in (0, 1), or a value is not finite.

    Example:
        >>> most_suspected([0.1, 0.9, 0.8, 0.2], 0.5, np.array([0, 1, 1, 0]))
        array([1, 3])
    """
    found, problems = np.asarray(values, np.float64), Problems()
    problems.share("share of suspects", share)
    if not np.isfinite(found).all():
        problems.add(f"suspicions must be finite; rows {np.flatnonzero(~np.isfinite(found))[:5].tolist()} are not.")
    problems.raise_any()
    order = np.lexsort((np.arange(len(found)), -found))
    if groups is not None:
        order = order[_place_in_class(groups[order]) < np.floor(MOST_OF_CLASS * np.bincount(groups))[groups[order]]]
    return np.sort(order[: round(share * len(found))])


def _place_in_class(groups: NDArray[np.int64]) -> Rows:
    """For each entry, how many of its class come before it."""
    by_class = np.argsort(groups, kind="stable")
    starts = np.searchsorted(groups[by_class], groups[by_class])
    place = np.empty(len(groups), np.int64)
    place[by_class] = np.arange(len(groups)) - starts
    return place


@ranking(
    formula="mean over epochs of max_{c != y} z_c - z_y",
    paper="Pleiss et al. 2020, arXiv 2001.10528",
    inputs="a run's score history",
    cost="nothing",
    loses="hard classes rank as wrong ones; late epochs know wrong labels by heart",
)
def aum(margins: ArrayLike) -> Values:
    """Minus the area under the margin: the mean over epochs of the largest other logit minus the label's.

    Args:
        margins: float `(epochs, n)`, largest other logit minus the label's; nan where a row was not seen.

    Returns:
        float32 `(n,)`, larger = more suspected.

    Example:
        >>> aum([[-2.0, 1.0], [-4.0, 0.5]])
        array([-3.  ,  0.75], dtype=float32)

    Source: Pleiss et al. 2020 (arXiv 2001.10528), section 3; their AUM is minus ours.
    """
    return _mean_over_epochs(margins)


@ranking(
    name="el2n",
    formula="mean over early epochs and seeds of || p - onehot(y) ||_2",
    paper="Paul, Ganguli and Dziugaite 2021, arXiv 2107.07075",
    inputs="score histories of one run or of several seeds",
    cost="nothing beyond the runs",
    loses="hard examples rank as wrong ones",
)
def el2n_window(values: ArrayLike) -> Values:
    """EL2N averaged over early epochs, and over seeds.

    Args:
        values: float `(runs x epochs, n)`, nan where a row was not seen.

    Returns:
        float32 `(n,)`, larger = more suspected.

    Example:
        >>> el2n_window([[0.2, 1.0], [0.4, np.nan]])
        array([0.3, 1. ], dtype=float32)

    Source: Paul et al. 2021 (arXiv 2107.07075), section 2 and figure 4: corrupted labels gather at the top.
    """
    return _mean_over_epochs(values)


@ranking(
    formula="loss of a model that has not seen the row, less the trained model's",
    paper="Mindermann et al. 2022, arXiv 2206.07137",
    inputs="a model trained on a holdout, or cross-fitted",
    cost="a run and a forward of n",
    loses="a weak holdout model finds everything irreducible",
)
def irreducible(losses: ArrayLike, trained: ArrayLike | None = None) -> Values:
    """The loss of a model that has never seen the row, less what the trained model's is.

    Args:
        losses: float `(n,)`, of a model trained on other rows.
        trained: float `(n,)`, of a model that was trained on these; 0 by default.

    Returns:
        float32 `(n,)`, larger = more suspected: learned by heart, and not to be known from other rows. It is minus the
        reducible loss.

    Example:
        >>> irreducible([0.1, 4.0], [0.1, 0.5])
        array([0. , 3.5], dtype=float32)

    Source: Mindermann et al. 2022 (arXiv 2206.07137), section 3: noisy points have a large irreducible loss. Train the
    other model on a holdout, or cross-fit it.
    """
    found = np.asarray(losses, np.float32) - (0 if trained is None else np.asarray(trained, np.float32))
    if not np.isfinite(found).all():
        raise ArgumentError(
            f"irreducible losses must be finite; rows {np.flatnonzero(~np.isfinite(found))[:5].tolist()}."
        )
    return found.astype(np.float32)


@ranking(
    name="cleanlab",
    formula="1 - cleanlab's label quality",
    paper="Northcutt et al. 2021, arXiv 1911.00068",
    inputs="Python only: out-of-sample probabilities, datadiet[cleanlab]",
    cost="cross-validation",
    loses="with the probabilities of training itself, which know the labels",
)
def cleanlab_values(probabilities: ArrayLike, labels: ArrayLike) -> Values:
    """cleanlab's label quality, turned round.

    Args:
        probabilities: float `(n, classes)`, out of sample: of a model that has not seen the row.
        labels: int `(n,)`.

    Returns:
        float32 `(n,)` in [0, 1], larger = more suspected.

    Raises:
        MissingExtraError: If cleanlab is not installed.

    Source: Northcutt et al. 2021 (arXiv 1911.00068); `cleanlab.rank.get_label_quality_scores`.
    """
    try:
        from cleanlab.rank import get_label_quality_scores
    except ImportError as error:
        raise MissingExtraError("cleanlab is not installed: pip install 'datadiet[cleanlab]'.") from error
    quality = get_label_quality_scores(np.asarray(labels, np.int64), np.asarray(probabilities, np.float64))
    return np.asarray(1 - quality, np.float32)


def _mean_over_epochs(values: ArrayLike) -> Values:
    table = np.asarray(values, np.float64)
    seen = np.isfinite(table)
    if never := np.flatnonzero(~seen.any(axis=0))[:5].tolist():
        raise ArgumentError(f"some rows have no value in any epoch, e.g. {never}.")
    return np.asarray(np.where(seen, table, 0).sum(axis=0) / seen.sum(axis=0), np.float32)


# an epoch counts where it has a value of at least this share of the rows: what rested cannot be compared
WHOLE = 0.99

RANKINGS: Mapping[str, tuple[str, Callable[[ArrayLike], Values]]] = {
    "aum": ("margin", aum),
    "el2n": ("el2n", el2n_window),
}

NAMES = (*RANKINGS, "irreducible", "threshold", "cleanlab")  # all that this package can do


def from_runs(
    runs: Sequence[Path], by: Sequence[str] = ("aum", "el2n"), *, epochs: tuple[int, int] | None = None
) -> Ranking:
    """Rank the training rows of one run, or of several on the same rows with other seeds.

    Args:
        runs: Run folders.
        by: Names of `RANKINGS`.
        epochs: From and up to (exclusive) which epoch; by default all epochs that saw every row. Late epochs of a long
            run know the wrong labels by heart.

    Raises:
        ArgumentError: For an unknown ranking, or no run.
        DataError: If a run has no such scores, no epoch that saw every row, or other rows than the first.
    """
    problems = Problems()
    problems.check(len(runs) > 0, "no run folder was given.")
    for name in by:
        problems.choice("ranking", name, RANKINGS)
    problems.raise_any()
    tables = [read_rounds(run, [RANKINGS[name][0] for name in by], epochs) for run in runs]
    ids = tables[0][0]
    for run, (others, _) in zip(runs, tables, strict=True):
        if others != ids:
            raise DataError(f"{run} has other training rows than {runs[0]}; rank runs on the same rows together.")
    stacked = {name: np.concatenate([columns[RANKINGS[name][0]] for _, columns in tables]) for name in by}
    return Ranking(ids, {name: RANKINGS[name][1](values) for name, values in stacked.items()})


def read_rounds(
    run: Path, columns: Sequence[str], epochs: tuple[int, int] | None = None
) -> tuple[tuple[str, ...], dict[str, Values]]:
    """Values of the training forwards of a run.

    Args:
        run: A run folder.
        columns: Of the score history.
        epochs: See `from_runs`.

    Returns:
        The ids by row, and float32 `(epochs, n)` per column: the epochs that saw every row.

    Raises:
        DataError: If the history lacks a column, or no epoch saw every row.
    """
    table = read_table(run / "scores").to_pandas()
    table = table[table["source"] == "train"]
    if missing := [name for name in columns if name not in table.columns]:
        raise DataError(f"{run} holds no values of {', '.join(missing)}.")
    rows = int(table["row"].max()) + 1 if len(table) else 0
    counts = table.groupby("epoch")["row"].nunique()
    first, last = epochs or (0, int(counts.index.max()) + 1 if len(counts) else 0)
    whole = [epoch for epoch in counts.index if first <= epoch < last and counts[epoch] >= WHOLE * rows]
    if not whole:
        raise DataError(f"{run} has no epoch that saw every training row, so that the rows could be compared.")
    ids = table.drop_duplicates("row").set_index("row")["id"].reindex(range(rows)).astype(str)
    found = {name: np.full((len(whole), rows), np.nan, np.float32) for name in columns}
    for place, epoch in enumerate(whole):
        part = table[table["epoch"] == epoch]
        for name in columns:
            found[name][place, part["row"].to_numpy()] = part[name].to_numpy()
    return tuple(ids), found


# scores that tell wrong labels, the best first; these are taken unasked
SUSPICION = ("aum", "el2n", "negative_pvi", "irreducible_loss")
IRREDUCIBLE = "irreducible"
# those that rank wrong labels high too, and are taken where they are named
BY = (
    *SUSPICION,
    IRREDUCIBLE,
    *("confidence", "correctness", "cross_entropy", "margin", "grand_last_layer", "tracin_self_influence"),
    *("grand", "self_influence", "teacher_el2n", "teacher_divergence"),
)


def suspicion_of(file: ScoreFile, by: str | None = None) -> tuple[str, NDArray[np.float32]]:
    """What tells wrong labels among the scores of a file, with its name; larger = more suspected.

    Args:
        file: The scores.
        by: One of `BY`; the first of `SUSPICION` that the file has by default. `irreducible` is minus `reducible_loss`,
            or `irreducible_loss` where the file has that alone; see `datadiet.noise.rankings.irreducible`.

    Raises:
        DataError: If the file has nothing of it.
    """
    for name in SUSPICION if by is None else (by,):
        if name in file.values:
            return name, file.values[name]
    if by == IRREDUCIBLE and "reducible_loss" in file.values:
        return IRREDUCIBLE, -file.values["reducible_loss"]
    if by == IRREDUCIBLE and "irreducible_loss" in file.values:
        return IRREDUCIBLE, file.values["irreducible_loss"]
    raise DataError(_missing(file, by))


def suspicion_problems(file: ScoreFile, by: str | None) -> list[str]:
    """Why suspects cannot be ranked so by the scores of a file; nothing where they can."""
    problems = Problems()
    if by is not None and by not in BY:
        problems.choice("ranking in suspects_by", by, BY)
        return problems.found
    try:
        suspicion_of(file, by)
    except DataError as error:
        problems.include(error)
    return problems.found


def _missing(file: ScoreFile, by: str | None) -> str:
    there = ", ".join(file.values)
    if by is None:
        wanted = " or ".join(SUSPICION)
        return f"suspects are ranked by {wanted}; the file has {there} only: score {wanted} too, or name suspects_by."
    wanted = "reducible_loss or irreducible_loss" if by == IRREDUCIBLE else by
    return f"suspects_by {by!r} needs {wanted}, and the file has {there} only: score {wanted} too."


FILE = "probabilities.parquet"  # in a run folder
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
    meta = {"datadiet.classes": json.dumps(list(found.names), ensure_ascii=False), "datadiet.schema": str(SCHEMA)}
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
    if meta.get(b"datadiet.schema") != str(SCHEMA).encode() or not set(COLUMNS) <= set(table.column_names):
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
