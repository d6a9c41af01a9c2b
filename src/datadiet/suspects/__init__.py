"""Training rows ranked by how likely their label is wrong, from the score history of one run or of several seeds."""

from datadiet.suspects.combined import Ranking, most_suspected
from datadiet.suspects.rankings import aum, cleanlab_values, el2n_window, irreducible
from datadiet.suspects.runs import NAMES, RANKINGS, from_runs, read_rounds
from datadiet.suspects.threshold import THRESHOLD, past_threshold, threshold_samples

__all__ = [
    "NAMES",
    "RANKINGS",
    "THRESHOLD",
    "Ranking",
    "aum",
    "cleanlab_values",
    "el2n_window",
    "from_runs",
    "irreducible",
    "most_suspected",
    "past_threshold",
    "read_rounds",
    "threshold_samples",
]
