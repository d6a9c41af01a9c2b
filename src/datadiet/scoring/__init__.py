"""Forward and backward passes outside training: scores of a whole split, embeddings, gradients.

The gradient scores give one float32 value per row, larger = harder (or more harmful): `grand` is the norm of an
example's gradient, and so is `effort`, of language models too; `vog` is the variance of its gradient at the input over
checkpoints; `self_influence` and `tracin` are the effect of a step on it on its own loss and on a dev set's;
`influence` is that of its removal on a mean loss, and `less` that of a step on examples of a wanted kind.
"""

from __future__ import annotations

from datadiet.scoring.gradients import example_losses
from datadiet.scoring.grand import grand
from datadiet.scoring.influence import Influence, effort, influence
from datadiet.scoring.less import Less, less
from datadiet.scoring.tracin import self_influence, tracin
from datadiet.scoring.vog import Vog, vog

__all__ = [
    "Influence",
    "Less",
    "Vog",
    "effort",
    "example_losses",
    "grand",
    "influence",
    "less",
    "self_influence",
    "tracin",
    "vog",
]
