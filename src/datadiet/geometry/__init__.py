"""Points and the distances between them: what scores and selectors share that look at where examples lie.

Points are a float array `(n, d)` or a SciPy CSR matrix. scikit-learn, SciPy and faiss are imported when a function
needs them, and torch never is.
"""

from __future__ import annotations

from datadiet.geometry.centroids import BACKENDS, class_codes, k_means, nearest_centroid, usual_clusters
from datadiet.geometry.neighbours import SEARCHES, nearest
from datadiet.geometry.points import (
    METRICS,
    Points,
    centred,
    check_points,
    inner,
    is_sparse,
    squared_distances,
    squared_norms,
    unit_rows,
)

__all__ = [
    "BACKENDS",
    "METRICS",
    "SEARCHES",
    "Points",
    "centred",
    "check_points",
    "class_codes",
    "inner",
    "is_sparse",
    "k_means",
    "nearest",
    "nearest_centroid",
    "squared_distances",
    "squared_norms",
    "unit_rows",
    "usual_clusters",
]
