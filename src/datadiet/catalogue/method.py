"""One line of the catalogue."""

from __future__ import annotations

from dataclasses import dataclass

PAUL = "Paul, Ganguli and Dziugaite 2021, arXiv 2107.07075"
ATTENDU = "Attendu and Corbeil 2023, arXiv 2306.03208"
RAJU = "Raju et al. 2021, arXiv 2111.12621"


@dataclass(frozen=True)
class Method:
    """One choice of one flag.

    Attributes:
        kind: The flag it is a value of, a key of `datadiet.catalogue.KINDS`.
        name: As it is written after the flag.
        formula: In ASCII; p = softmax(logits), y = label, n = training examples.
        needs: What it reads of a forward pass, or which options shape it.
        cost: Beyond training itself.
        paper: Where it was published; `ours` where it was not.
        loses: When it is known to lose, or cannot be told to win.
    """

    kind: str
    name: str
    formula: str
    needs: str
    cost: str
    paper: str
    loses: str
