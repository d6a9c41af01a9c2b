"""Scores of a whole set from the embeddings of its examples: larger = farther from the usual = harder.

    score(embeddings, labels=None, *, ids=None, ...) -> float32 (n,)

No trained classifier is needed. Without labels the whole set is one group; with labels each class is a group. Raw
sentence embeddings cluster by topic, not by label: a rare topic of a large class looks hard either way, a rare class
only without labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from datadiet.errors import ArgumentError, Problems, quoted
from datadiet.geometry import (
    check_points,
    class_codes,
    inner,
    is_sparse,
    k_means,
    nearest,
    nearest_centroid,
    squared_norms,
    unit_rows,
    usual_clusters,
)
from datadiet.registry import Rows, score

Values = NDArray[np.float32]
_MEDIAN_BLOCK = 1 << 25  # numbers sorted at a time


@score(
    formula="distance to the nearest centroid of k-means, Euclidean or 1 - cos; per class with labels",
    paper="Sorscher et al. 2022, arXiv 2206.14486, section 4",
    inputs="embeddings",
    cost="k-means: O(n k d)",
    loses="embeddings that cluster by topic; with many clusters an outlier is a prototype itself and counts as easiest",
    needs=("encoder",),
    evidence="methods",
    computed_by="datadiet.scoring.embed:of_embeddings",
    shares="embeddings",
)
def prototypes(
    embeddings: ArrayLike,
    labels: ArrayLike | None = None,
    *,
    ids: Sequence[str] | None = None,
    clusters: Annotated[int | None, Rows()] = None,
    metric: Literal["euclidean", "cosine"] = "euclidean",
    seed: int = 0,
) -> Values:
    """Distance to the nearest centroid of k-means: how unlike an example is to every usual kind of example.

    `min_k || x - c_k ||_2`, or `min_k 1 - cos(x, c_k)` with `metric="cosine"`

    Args:
        embeddings: float `(n, d)`.
        labels: `(n,)`; with them every class has centroids of its own.
        ids: The user's names of the rows, for errors.
        clusters: Centroids, of each class where there are labels; by default `sqrt(n / 10)` rounded up, at most 100, n
            being the rows of the set or of the class.
        metric: `euclidean` or `cosine`.
        seed: Of the start of k-means.

    Returns:
        float32 `(n,)`, at least 0; 0 = a prototype, larger = harder.

    Raises:
        ArgumentError: If embeddings or options do not fit, or there are more clusters than examples.
        DataError: If `metric="cosine"` and an embedding is 0 everywhere.

    Examples:
        >>> prototypes([[0.0, 0.0], [0.0, 2.0], [9.0, 9.0]], clusters=2)
        array([1., 1., 0.], dtype=float32)

    Source: Sorscher et al. 2022 (arXiv 2206.14486), section 4, on any embeddings instead of those of SwAV. Theirs is
    the cosine form, without labels: `metric="cosine"`.
    """
    problems = Problems()
    problems.whole("seed", seed)
    points = _dense("prototypes", embeddings, problems, ids)
    codes, names = class_codes(labels, len(points))
    _check_clusters(clusters, np.bincount(codes), names)
    if metric == "cosine":
        points = unit_rows(points, ids=ids)
    values = np.empty(len(points))
    for code in range(len(names)):
        rows = np.flatnonzero(codes == code)
        centroids = k_means(points[rows], clusters or usual_clusters(rows.size), seed=seed)
        values[rows] = nearest_centroid(points[rows], centroids, metric=metric)[1]
    return values.astype(np.float32)


def _check_clusters(clusters: int | None, sizes: NDArray[np.int64], names: Sequence[Any]) -> None:
    small = [] if clusters is None else np.flatnonzero(sizes < clusters).tolist()
    if not small:
        return
    if names == [None]:
        raise ArgumentError(f"clusters must be at most the number of examples, {sizes[0]}, got {clusters}.")
    shown = ", ".join(f"{quoted(names[code])} ({sizes[code]})" for code in small[:10])
    more = f" and {len(small) - 10} more" if len(small) > 10 else ""
    raise ArgumentError(
        f"clusters must be at most the number of examples of every class, got {clusters}; smaller are: {shown}{more}. "
        "Ask for fewer, or leave clusters out."
    )


@score(
    formula="|| x - median of the class ||_2, for the selector of that name",
    paper="Xia et al. 2023 (Moderate Coreset), ICLR",
    inputs="embeddings, label",
    cost="O(n d log n)",
    loses="classes of several kinds, whose median lies between them",
    needs=("encoder",),
    preset={"select": "moderate"},
    computed_by="datadiet.scoring.embed:of_embeddings",
    shares="embeddings",
    by_class=True,
)
def moderate(embeddings: ArrayLike, labels: ArrayLike | None = None, *, ids: Sequence[str] | None = None) -> Values:
    """Distance to the median of the example's class: what the selector `moderate` takes the middle of.

    `|| x - median_y ||_2`, the median being that of each dimension by itself

    Args:
        embeddings: float `(n, d)`.
        labels: `(n,)` of whole numbers or strings; without them there is one median of all.
        ids: The user's names of the rows, for errors.

    Returns:
        float32 `(n,)`, at least 0; larger = farther = harder. The only example of a class has 0.

    Raises:
        ArgumentError: If embeddings or labels do not fit.

    Examples:
        >>> moderate([[0.0], [1.0], [5.0], [7.0]], ["a", "a", "a", "b"])
        array([1., 0., 4., 0.], dtype=float32)

    Source: Xia et al. 2023 (Moderate Coreset, ICLR), section 3. Their code takes a number instead of a vector for the
    median of a class of one, and measures the distance to 0 for labels that do not start at 0; ours does neither.
    """
    problems = Problems()
    points = _dense("moderate", embeddings, problems, ids)
    codes, names = class_codes(labels, len(points))
    values = np.empty(len(points))
    for code in range(len(names)):
        rows = np.flatnonzero(codes == code)
        values[rows] = np.sqrt(squared_norms(points[rows] - _median(points[rows])))
    return values.astype(np.float32)


def _median(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of each column, `(n, d)` -> `(d,)`, some columns at a time."""
    step = max(1, _MEDIAN_BLOCK // len(points))
    parts = [np.median(points[:, start : start + step], 0) for start in range(0, points.shape[1], step)]
    return np.concatenate(parts)


@score(
    formula="mean distance to the 10 nearest other examples; 0 among copies",
    paper="Ramaswamy et al. 2000, SIGMOD, as a mean",
    inputs="embeddings",
    cost="O(n^2 d), exact",
    loses="keeping the hardest by it keeps broken texts and outliers",
    needs=("encoder",),
    computed_by="datadiet.scoring.embed:of_embeddings",
    shares="embeddings",
)
def neighbour_distance(
    embeddings: Any,
    labels: ArrayLike | None = None,
    *,
    ids: Sequence[str] | None = None,
    neighbours: Annotated[int, Rows(fewer=1)] = 10,
    metric: Literal["euclidean", "cosine"] = "euclidean",
) -> Values:
    """Mean distance to the nearest other examples: small in crowds and among duplicates, large for what is rare.

    `mean over j in kNN(i) of || x_i - x_j ||_2`, or of `1 - cos(x_i, x_j)`

    Args:
        embeddings: float `(n, d)`, or a SciPy CSR matrix.
        labels: `(n,)`; with them only neighbours of the same class count.
        ids: The user's names of the rows, for errors.
        neighbours: How many; where a group has fewer others, all of them.
        metric: `euclidean` or `cosine`.

    Returns:
        float32 `(n,)`, at least 0; larger = lonelier = harder. An example without any other in its group has 0.

    Raises:
        ArgumentError: If embeddings or options do not fit.
        DataError: If `metric="cosine"` and an embedding is 0 everywhere.

    Examples:
        >>> neighbour_distance([[0.0], [1.0], [5.0]], neighbours=1)
        array([1., 1., 4.], dtype=float32)

    Source: the distance to the k nearest neighbours as a measure of outliers, Ramaswamy et al. 2000 (SIGMOD), as a
    mean.
    """
    problems = Problems()
    points = check_points(embeddings, problems, ids=ids)
    problems.raise_any()
    codes, names = class_codes(labels, points.shape[0])
    if metric == "cosine":
        points = unit_rows(points, ids=ids)
    values = np.zeros(points.shape[0])
    for code in range(len(names)):
        rows = np.flatnonzero(codes == code)
        if rows.size > 1:
            apart = nearest(points[rows], min(neighbours, rows.size - 1))[1]
            values[rows] = (apart**2 / 2 if metric == "cosine" else apart).mean(1)
    return values.astype(np.float32)


def _dense(name: str, embeddings: Any, problems: Problems, ids: Sequence[str] | None) -> NDArray[np.float64]:
    """Checked embeddings; raises all problems so far."""
    if is_sparse(embeddings):
        problems.add(f"{name} needs dense embeddings, got a sparse matrix.")
        problems.raise_any()
    points: NDArray[np.float64] = check_points(embeddings, problems, ids=ids)
    problems.raise_any()
    return points


@score(
    formula="place in a round robin: each query in turn takes the nearest row that is left; the first has n",
    paper="Ivison et al. 2025 (RDS+), arXiv 2503.01807",
    inputs="embeddings, queries",
    cost="one embedding of all; O(n q d), 4 n q bytes",
    loses="rows that a query needs but does not resemble; copies of the nearest fill the first places",
    needs=("encoder", "queries"),
    named_alone=False,
    evidence="corpus-selection",
    computed_by="datadiet.scoring.embed:like_queries",
)
def rds_plus(
    embeddings: ArrayLike,
    labels: ArrayLike | None = None,
    *,
    queries: ArrayLike,
    groups: ArrayLike | None = None,
    ids: Sequence[str] | None = None,
) -> Values:
    """How early a row is taken where the queries, one after the other, each take the most similar row that is left.

    The k largest values are the k rows of that round robin, for any k. Similarity is the cosine; in
    `datadiet score` of means of the last hidden states that weigh each token by its position.

    Args:
        embeddings: float `(n, d)`.
        labels: Taken for the sake of the common form.
        queries: float `(q, d)`, of the same model.
        groups: int64 `(q,)`, the subtask of each query; subtasks take turns, and within each its queries. All queries
            are of one by default.
        ids: The user's names of the rows, for errors.

    Returns:
        float32 `(n,)`, n for the row taken first, 1 for the last.

    Raises:
        ArgumentError: If embeddings, queries or groups do not fit.
        DataError: If a vector is 0 everywhere.

    Examples:
        >>> rds_plus([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]], queries=[[1.0, 0.0], [0.5, 1.0]])
        array([3., 1., 2.], dtype=float32)

    Source: RDS+ (Ivison et al. 2025, arXiv 2503.01807), section 3: with millions of rows to choose from it is the best
    and the cheapest of the methods that they compare.
    """
    problems = Problems()
    points = check_points(embeddings, problems, ids=ids)
    wanted = check_points(queries, problems, name="queries")
    problems.check(
        bool(problems.found) or points.shape[1] == wanted.shape[1],
        f"queries must have the width of the embeddings, got {wanted.shape[-1]} and {points.shape[-1]}.",
    )
    problems.raise_any()
    codes, _ = class_codes(groups, wanted.shape[0])
    rows, wanted = unit_rows(points, ids=ids), unit_rows(wanted, name="queries")
    orders = [
        np.argsort(-inner(wanted[[query]], rows)[0], kind="stable").astype(np.int32) for query in range(len(codes))
    ]
    turns = cycle([cycle(np.flatnonzero(codes == code).tolist()) for code in range(codes.max() + 1)])
    taken, places = np.zeros(points.shape[0], np.bool_), [0] * len(codes)
    values = np.empty(points.shape[0], np.float32)
    for value in range(points.shape[0], 0, -1):
        query = next(next(turns))
        row, places[query] = _first_left(orders[query], places[query], taken)
        taken[row], values[row] = True, value
    return values


def _first_left(order: NDArray[np.int32], start: int, taken: NDArray[np.bool_]) -> tuple[int, int]:
    """The first row of an order, from a place on, that is not taken; and the place behind it."""
    while True:
        left = np.flatnonzero(~taken[order[start : start + 64]])
        if left.size:
            place = start + int(left[0])
            return int(order[place]), place + 1
        start += 64
