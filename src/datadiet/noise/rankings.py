"""Training rows ranked by how likely their label is wrong: pure functions, larger = more suspected.

`from_runs` ranks the rows of run folders from their score histories, `suspicion_of` those of a score file.
`threshold_samples` and `past_threshold` judge rows by how rows with a class that does not exist look.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata

from datadiet.errors import ArgumentError, DataError, MissingExtraError, Problems, quoted
from datadiet.noise.guard import MOST_OF_CLASS
from datadiet.registry import Method, find, names, ranking
from datadiet.scores.history import mean, over_rounds
from datadiet.store.dynamics import read_rounds
from datadiet.store.score_file import ScoreFile

Values = NDArray[np.float32]
Rows = NDArray[np.int64]
L = TypeVar("L", bound=Hashable)

# an epoch counts where it has a value of at least this share of the rows: rows that were skipped cannot be compared
WHOLE = 0.99
# scores of a score file by which suspects are ranked unless one is named, the best first
PREFERRED = ("aum", "el2n", "negative_pvi", "irreducible_loss")
IRREDUCIBLE = "irreducible"
THRESHOLD = "threshold sample"
NAMES = names("suspects")  # all that this module can do
RANKINGS = tuple(name for name in NAMES if "column" in find("suspects", name).facts)  # type: ignore[union-attr]
BY = (*names("score", trait="suspects"), IRREDUCIBLE)  # of a score file


@dataclass(frozen=True)
class Ranking:
    """Rows ranked in several ways.

    Attributes:
        ids: The user's id of each row.
        values: float32 `(n,)` per ranking, larger = more suspected.

    Examples:
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

    Examples:
        >>> most_suspected([0.1, 0.9, 0.8, 0.2], 0.5, np.array([0, 1, 1, 0]))
        array([1, 3])
    """
    suspicion, problems = np.asarray(values, np.float64), Problems()
    problems.share("share of suspects", share)
    if (bad := np.flatnonzero(~np.isfinite(suspicion))).size:
        problems.add(f"suspicions must be finite; rows {bad[:5].tolist()} are not.")
    problems.raise_any()
    order = np.lexsort((np.arange(len(suspicion)), -suspicion))
    if groups is not None:
        order = order[_place_in_class(groups[order]) < np.floor(MOST_OF_CLASS * np.bincount(groups))[groups[order]]]
    return np.sort(order[: round(share * len(suspicion))])


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
    column="margin",
    inputs="a run's score history",
    cost="nothing",
    loses="hard classes rank as wrong ones; late epochs have memorised wrong labels",
)
def aum(margins: ArrayLike) -> Values:
    """Minus the area under the margin: the mean over epochs of the largest other logit minus the label's.

    Args:
        margins: float `(epochs, n)`, largest other logit minus the label's; nan where a row was not seen.

    Returns:
        float32 `(n,)`, larger = more suspected.

    Examples:
        >>> aum([[-2.0, 1.0], [-4.0, 0.5]])
        array([-3.  ,  0.75], dtype=float32)

    Source: Pleiss et al. 2020 (arXiv 2001.10528), section 3; their AUM is minus ours.
    """
    return _mean_over_epochs(margins)


@ranking(
    name="el2n",
    formula="mean over early epochs and seeds of || p - onehot(y) ||_2",
    paper="Paul, Ganguli and Dziugaite 2021, arXiv 2107.07075",
    column="el2n",
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

    Examples:
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
    """The loss of a model that has never seen the row, less the loss of the trained model.

    Args:
        losses: float `(n,)`, of a model trained on other rows.
        trained: float `(n,)`, of a model that was trained on these; 0 by default.

    Returns:
        float32 `(n,)`, larger = more suspected: memorised, and not predictable from other rows. It is minus the
        reducible loss.

    Examples:
        >>> irreducible([0.1, 4.0], [0.1, 0.5])
        array([0. , 3.5], dtype=float32)

    Source: Mindermann et al. 2022 (arXiv 2206.07137), section 3: noisy points have a large irreducible loss. Train the
    other model on a holdout, or cross-fit it.
    """
    values = np.asarray(losses, np.float32) - (0 if trained is None else np.asarray(trained, np.float32))
    if (bad := np.flatnonzero(~np.isfinite(values))).size:
        raise ArgumentError(f"irreducible losses must be finite; rows {bad[:5].tolist()}.")
    return values.astype(np.float32)


@ranking(
    name="cleanlab",
    formula="1 - cleanlab's label quality",
    paper="Northcutt et al. 2021, arXiv 1911.00068",
    inputs="Python only: out-of-sample probabilities, datadiet[cleanlab]",
    cost="cross-validation",
    loses="with the probabilities of training itself, which know the labels",
)
def cleanlab_values(probabilities: ArrayLike, labels: ArrayLike) -> Values:
    """One minus cleanlab's label quality.

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
    averages = over_rounds(mean(window=None), values, dtype=np.float64)
    if never := np.flatnonzero(np.isinf(averages))[:5].tolist():
        raise ArgumentError(f"some rows have no value in any epoch, e.g. {never}.")
    return averages.astype(np.float32)


# ---- threshold samples

_THRESHOLD = (
    Method(
        "suspects",
        "threshold",
        "aum at or past the first percentile of aum of n / (C + 1) rows with a class that does not exist",
        paper="Pleiss et al. 2020, arXiv 2001.10528, section 4",
        inputs="Python only: a run with such rows, two to judge every row",
        cost="a run",
        loses="with many classes there are few threshold samples",
    ),
)


def threshold_samples(labels: Sequence[L], *, seed: int, fake: L | str = THRESHOLD) -> tuple[list[L | str], Rows]:
    """Give some rows a class that does not exist; mislabelled rows look as these do.

    Args:
        labels: One per row.
        seed: Which rows; another seed takes others, so that with two runs every row can be judged.
        fake: The name of the class.

    Returns:
        The labels to train on, and the rows that were changed, int64 ascending: `n / (classes + 1)` of them.

    Source: Pleiss et al. 2020 (arXiv 2001.10528), section 4.1.
    """
    if fake in set(labels):
        raise ArgumentError(f"the class {quoted(fake)} exists already: choose another name for the threshold samples.")
    count = len(labels) // (len(set(labels)) + 1)
    rows = np.sort(np.random.default_rng([seed, count]).permutation(len(labels))[:count])
    changed: list[L | str] = list(labels)
    for row in rows.tolist():
        changed[row] = fake
    return changed, rows


def past_threshold(values: ArrayLike, threshold_rows: Rows, *, percentile: float = 99.0) -> NDArray[np.bool_]:
    """The rows that look as mislabelled as threshold samples do.

    Args:
        values: float `(n,)`, larger = more suspected, of a run on `threshold_samples`.
        threshold_rows: int64, the rows that were changed.
        percentile: How many per cent of the threshold samples must look mislabelled; 99 in the paper.

    Returns:
        bool `(n,)`, False for the threshold samples themselves.

    Examples:
        >>> past_threshold([0.1, 0.9, 0.8, 0.7], np.array([2, 3]))
        array([False,  True, False, False])

    Source: Pleiss et al. 2020, section 4.1.
    """
    suspicion = np.asarray(values, np.float64)
    suspected = suspicion >= np.percentile(suspicion[threshold_rows], 100 - percentile)
    suspected[threshold_rows] = False
    return suspected


# ---- of run folders


def from_runs(
    runs: Sequence[Path], by: Sequence[str] = ("aum", "el2n"), *, epochs: tuple[int, int] | None = None
) -> Ranking:
    """Rank the training rows of one run, or of several on the same rows with other seeds.

    Args:
        runs: Run folders.
        by: Names of `RANKINGS`.
        epochs: From and up to (exclusive) which epoch; by default all epochs that saw every row. Late epochs of a long
            run have memorised the wrong labels.

    Raises:
        ArgumentError: For an unknown ranking, or no run.
        DataError: If a run has no such scores, no epoch that saw every row, or other rows than the first.
    """
    problems = Problems()
    problems.check(len(runs) > 0, "no run folder was given.")
    for name in by:
        problems.choice("ranking", name, RANKINGS)
    problems.raise_any()
    methods = {name: method for name in by if (method := find("suspects", name)) is not None}
    columns = [method.facts["column"] for method in methods.values()]
    tables = [_whole_epochs(run, columns, epochs) for run in runs]
    ids = tables[0][0]
    for run, (others, _) in zip(runs, tables, strict=True):
        if others != ids:
            raise DataError(f"{run} has other training rows than {runs[0]}; rank runs on the same rows together.")
    stacked = {name: np.concatenate([table[name] for _, table in tables]) for name in columns}
    return Ranking(ids, {name: method.load()(stacked[method.facts["column"]]) for name, method in methods.items()})


def _whole_epochs(
    run: Path, columns: Sequence[str], epochs: tuple[int, int] | None
) -> tuple[tuple[str, ...], dict[str, Values]]:
    """The ids by row, and float32 `(epochs, n)` per column: the epochs of a run that saw every row."""
    rounds = read_rounds(run, columns)
    if missing := [name for name in columns if name not in rounds.columns]:
        raise DataError(f"{run} holds no values of {', '.join(missing)}.")
    first, last = epochs or (0, np.inf)
    whole = (rounds.epochs >= first) & (rounds.epochs < last) & (rounds.counts >= WHOLE * len(rounds.ids))
    if not whole.any():
        raise DataError(f"{run} has no epoch that saw every training row, so that the rows could be compared.")
    return tuple(map(str, rounds.ids)), {name: rounds.columns[name][whole] for name in columns}


# ---- of a score file


def suspicion_of(file: ScoreFile, by: str | None = None) -> tuple[str, NDArray[np.float32]]:
    """The scores of a file by which suspects are ranked, with their name; larger = more suspected.

    Args:
        file: The scores.
        by: One of `BY`; the first of `PREFERRED` that the file has by default. `irreducible` is minus `reducible_loss`,
            or `irreducible_loss` where the file has that alone; see `irreducible`.

    Raises:
        DataError: If the file has none of them.
    """
    for name in PREFERRED if by is None else (by,):
        if name in file.values:
            return name, file.values[name]
    if by == IRREDUCIBLE and "reducible_loss" in file.values:
        return IRREDUCIBLE, -file.values["reducible_loss"]
    if by == IRREDUCIBLE and "irreducible_loss" in file.values:
        return IRREDUCIBLE, file.values["irreducible_loss"]
    raise DataError(_missing(file, by))


def suspicion_problems(file: ScoreFile, by: str | None) -> list[str]:
    """Why suspects cannot be ranked by this score of a file; empty where they can."""
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
    present = ", ".join(file.values)
    if by is None:
        needed = " or ".join(PREFERRED)
        return f"suspects are ranked by {needed}; the file has {present} only: score {needed} too, or name suspects_by."
    needed = "reducible_loss or irreducible_loss" if by == IRREDUCIBLE else by
    return f"suspects_by {quoted(by)} needs {needed}, and the file has {present} only: score {needed} too."
