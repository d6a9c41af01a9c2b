"""Training rows ranked by how likely their label is wrong, from the score history of one run or of several seeds."""

from datadiet.noise.rankings import (
    NAMES,
    RANKINGS,
    THRESHOLD,
    Ranking,
    aum,
    cleanlab_values,
    el2n_window,
    from_runs,
    irreducible,
    most_suspected,
    past_threshold,
    threshold_samples,
)

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
    "threshold_samples",
]
