"""The score file: what `datadiet score` writes and `datadiet select` reads, values of one whole training split."""

from datadiet.score_file.content import FIXED, MOST_NAMED, SCHEMA, ScoreFile, not_finite
from datadiet.score_file.reading import check_same_data, read_scores
from datadiet.score_file.writing import SUFFIXES, check_target, write_scores

__all__ = [
    "FIXED",
    "MOST_NAMED",
    "SCHEMA",
    "SUFFIXES",
    "ScoreFile",
    "check_same_data",
    "check_target",
    "not_finite",
    "read_scores",
    "write_scores",
]
