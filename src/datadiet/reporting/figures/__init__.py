"""Figures of a run and of a comparison, as matplotlib draws them; the page and `dd.plot` share them."""

from datadiet.reporting.figures.comparison import (
    ACCOUNTS,
    agreement,
    frontier,
    per_class,
    time_to_target,
    where_time_went,
)
from datadiet.reporting.figures.drawing import FAINT, INK, SERIES, svg
from datadiet.reporting.figures.run import data_map, kept_by_epoch, noise_level, score_distribution, turnover

__all__ = [
    "ACCOUNTS",
    "FAINT",
    "INK",
    "SERIES",
    "agreement",
    "data_map",
    "frontier",
    "kept_by_epoch",
    "noise_level",
    "per_class",
    "score_distribution",
    "svg",
    "time_to_target",
    "turnover",
    "where_time_went",
]
