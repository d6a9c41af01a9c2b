"""Scores that need gradients: passes over a data set with a model, or with the checkpoints of a run.

`grand` is the norm of each example's gradient, `vog` how its gradient at the input moves while the model trains,
`self_influence` and `tracin` what a step on it does to itself and to a dev set. All give one float32 value per row,
larger = harder (or more harmful). The closed forms of the last layer alone are in `datadiet.scores.last_layer`.
"""

from __future__ import annotations

from datadiet.scoring.gradients import example_losses
from datadiet.scoring.grand import grand
from datadiet.scoring.tracin import self_influence, tracin
from datadiet.scoring.vog import Vog, vog

__all__ = ["Vog", "example_losses", "grand", "self_influence", "tracin", "vog"]
