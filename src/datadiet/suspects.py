"""Training rows ranked by how likely their label is wrong, from the score history of one run or of several seeds."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata

from datadiet.checks import ArgumentError, DataError, MissingExtraError, Problems
from datadiet.noise import MOST_OF_CLASS
from datadiet.store import read_table

Values = NDArray[np.float32]
Rows = NDArray[np.int64]
L = TypeVar("L", bound=Hashable)

# an epoch counts where it has a value of at least this share of the rows: what rested cannot be compared
WHOLE = 0.99
THRESHOLD = "threshold sample"


# ---- rankings: pure functions, larger = more suspected ----


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


# ---- threshold samples ----


def threshold_samples(labels: Sequence[L], *, seed: int, fake: L | str = THRESHOLD) -> tuple[list[L | str], Rows]:
    """Give some rows a class that does not exist: how such rows look, mislabelled ones look.

    Args:
        labels: One per row.
        seed: Which rows; another seed takes others, so that with two runs every row can be judged.
        fake: The name of the class.

    Returns:
        The labels to train on, and the rows that were changed, int64 ascending: `n / (classes + 1)` of them.

    Source: Pleiss et al. 2020 (arXiv 2001.10528), section 4.1.
    """
    if fake in set(labels):
        raise ArgumentError(f"the class {fake!r} exists already: choose another name for the threshold samples.")
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

    Example:
        >>> past_threshold([0.1, 0.9, 0.8, 0.7], np.array([2, 3]))
        array([False,  True, False, False])

    Source: Pleiss et al. 2020, section 4.1.
    """
    found = np.asarray(values, np.float64)
    suspected = found >= np.percentile(found[threshold_rows], 100 - percentile)
    suspected[threshold_rows] = False
    return suspected


# ---- several rankings together ----


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


# ---- from run folders ----

RANKINGS: Mapping[str, tuple[str, Callable[[ArrayLike], Values]]] = {
    "aum": ("margin", aum),
    "el2n": ("el2n", el2n_window),
}

NAMES = (*RANKINGS, "irreducible", "threshold", "cleanlab")  # all that this module can do


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
