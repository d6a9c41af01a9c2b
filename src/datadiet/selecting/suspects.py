"""What is left out before a selector chooses: repeated texts, and rows whose label is suspected to be wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from datadiet.checks import DataError
from datadiet.score_file import ScoreFile

Rows = NDArray[np.int64]

# scores that tell wrong labels, the best first
SUSPICION = ("aum", "el2n")


def repeated_rows(texts: Sequence[str], labels: Sequence[str] | None) -> Rows:
    """Rows whose text, case and spacing aside, another row stands for: the first with its most common label.

    Example:
        >>> repeated_rows(["Play it", "play  it", "stop", "play it"], ["a", "b", "b", "b"])
        array([0, 3])
    """
    members: dict[str, list[int]] = {}
    for row, text in enumerate(texts):
        members.setdefault(" ".join(text.casefold().split()), []).append(row)
    gone = []
    for rows in members.values():
        if len(rows) > 1:
            stands = rows[0] if labels is None else _believed(rows, labels)
            gone += [row for row in rows if row != stands]
    return np.sort(np.array(gone, np.int64))


def _believed(rows: Sequence[int], labels: Sequence[str]) -> int:
    """The first row that has the most common label; of equally common ones the first."""
    counts = Counter(labels[row] for row in rows)
    most = max(counts.values())
    return next(row for row in rows if counts[labels[row]] == most)


def suspicion_of(file: ScoreFile) -> tuple[str, NDArray[np.float32]]:
    """What tells wrong labels best among the scores of a file, with its name; larger = more suspected.

    Raises:
        DataError: If the file has none of `SUSPICION`.
    """
    for name in SUSPICION:
        if name in file.values:
            return name, file.values[name]
    raise DataError(f"suspects are ranked by {' or '.join(SUSPICION)}; the file has {', '.join(file.values)} only.")
