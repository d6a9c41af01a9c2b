"""Threshold samples: rows with a class that does not exist, which look as mislabelled ones look."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from datadiet.errors import ArgumentError
from datadiet.registry import Method

Rows = NDArray[np.int64]
L = TypeVar("L", bound=Hashable)

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

THRESHOLD = "threshold sample"


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
