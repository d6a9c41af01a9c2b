"""What tells wrong labels among the scores of a file."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from datadiet.checks import DataError
from datadiet.score_file import ScoreFile

# scores that tell wrong labels, the best first
SUSPICION = ("aum", "el2n", "negative_pvi", "irreducible_loss")


def suspicion_of(file: ScoreFile) -> tuple[str, NDArray[np.float32]]:
    """What tells wrong labels best among the scores of a file, with its name; larger = more suspected.

    Raises:
        DataError: If the file has none of `SUSPICION`.
    """
    for name in SUSPICION:
        if name in file.values:
            return name, file.values[name]
    raise DataError(f"suspects are ranked by {' or '.join(SUSPICION)}; the file has {', '.join(file.values)} only.")
