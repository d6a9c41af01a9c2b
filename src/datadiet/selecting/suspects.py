"""What tells wrong labels among the scores of a file."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from datadiet.checks import DataError, Problems
from datadiet.score_file import ScoreFile

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
            or `irreducible_loss` where the file has that alone; see `datadiet.suspects.irreducible`.

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
