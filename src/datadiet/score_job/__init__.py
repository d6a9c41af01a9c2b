"""Scoring a whole training split, many scores in one go: what `datadiet score` does.

`wanted` is light (the command line imports it); `checks` and `job` import torch.
"""

from datadiet.score_job.wanted import ScoreConfig

__all__ = ["ScoreConfig"]
