"""What an estimate of the share of wrong labels rests on: one sight of each row, the first by a model that was ready.

A label says nothing of the model's opinion of a row before the model has trained on it. Afterwards it does: wrong
labels are learned by heart, the sooner the harder the row, and the share of contradictions falls below that of the
wrong labels. So the first sight is the honest one. In the first half of the first epoch, though, the model knows
nothing yet; rows seen then count at their second sight, before which they have been trained on once, when the features
were raw, half an epoch of other rows ago on average: most of that is gone, and what may be left of it is part of the
likelihood (`datadiet.lapses`). Each row counts once, so that the log-likelihoods of the sights add up and the interval
means something.

Rows that a selector chose by their values are no sample: among the hardest there are more wrong labels. Second sights
count only where all of those rows were seen again, in the same way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datadiet.lapses import Evidence, evidence, normal_scores

Mask = NDArray[np.bool_]
Rows = NDArray[np.int64]
_EVIDENCE = "evidence"


def unready(judgements: NDArray[np.int16], moments: NDArray[np.float32], least: int) -> Mask:
    """Which of some rows were seen by a model that was not ready: in the first half of the first epoch.

    Args:
        judgements: Of all rows, how many before now.
        moments: Of the rows seen now, the batch of the epoch; nan in a pass.
        least: Rows of each half that are needed to tell them apart.

    Returns:
        bool, of the rows seen now.
    """
    early = np.zeros(len(moments), bool)
    if judgements.any() or not np.isfinite(moments).all():
        return early
    early = moments <= np.median(moments)
    return early if min(early.sum(), (~early).sum()) >= least else np.zeros_like(early)


def sights(
    known: Mapping[str, NDArray[Any]], rows: Rows, moments: NDArray[np.float32], early: Mask, least: int
) -> list[tuple[Mask, bool]]:
    """The parts of the rows seen now that count, each with errors of its own, and whether it is seen again.

    Args:
        known: `judgements` and `heard` of all rows, as they were before.
        rows: Seen now.
        moments: Beside them, nan in a pass.
        early: From `unready`.
        least: A smaller part says too little.
    """
    pending, before = ~known["heard"], known["judgements"] > 0
    first = pending[rows] & ~before[rows] & ~early
    second = pending[rows] & before[rows]
    whole = second.sum() == (pending & before).sum()
    alike = len(np.unique(np.isfinite(moments[second]))) == 1
    found = [(first, False), (second, True)] if whole and alike else [(first, False)]
    return [(part, again) for part, again in found if part.sum() >= least]


def with_evidence(
    known: Mapping[str, NDArray[Any]],
    rows: Rows,
    parts: Sequence[tuple[Mask, bool]],
    confidence: NDArray[np.float64],
    wrong: Mask,
) -> dict[str, NDArray[Any]]:
    """A copy of what is known, with these parts of the rows seen now."""
    updated = {name: np.array(array) for name, array in known.items()}
    for part, again in parts:
        found = evidence(normal_scores(confidence[part]), wrong[part])
        number = updated[_EVIDENCE][:, 0].max(initial=-1) + 1
        start = np.tile([number, float(again)], (len(found.rows), 1))
        lines = np.c_[start, found.scores, found.contradicted, found.rows]
        updated[_EVIDENCE] = np.concatenate([updated[_EVIDENCE], lines])
        updated["heard"][rows[part]] = True
    return updated


def no_evidence() -> dict[str, NDArray[np.float64]]:
    """As it is in the beginning: lines of the number of the part, 1 where it was seen again, and the columns of
    `datadiet.lapses.Evidence`."""
    return {_EVIDENCE: np.empty((0, 5))}


def known_evidence(known: Mapping[str, NDArray[Any]]) -> list[Evidence]:
    """All parts so far."""
    table = known[_EVIDENCE]
    parts = [table[table[:, 0] == number] for number in np.unique(table[:, 0])]
    return [Evidence(part[:, 2], part[:, 3], part[:, 4], bool(part[0, 1])) for part in parts]
