"""Selection by capability: rows that are alike share places by how large their values are, and their largest are taken.

select(values, count, *, seed, epoch, groups=None, ids=None, features, ...) -> Selection
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from datadiet.errors import Problems
from datadiet.geometry import Points, check_points, k_means, nearest, nearest_centroid
from datadiet.registry import AtLeast, Positive, selector
from datadiet.selectors.base import Floats, Rows, checked, crowded, mix, top_mask, unseen
from datadiet.selectors.groups import Counts, shared_places
from datadiet.types import Selection

MOST_SPECTRAL = 20_000  # rows
_NEIGHBOURS = 10
_STREAM = 17  # of the seed of each cluster's ties


@selector(
    formula="places of a cluster proportional to its mean value, at most its size; inside it the largest values",
    paper="He et al. 2025 (PASER), arXiv 2502.12594",
    inputs="embeddings, values",
    cost="k-means: O(n d clusters); spectral: O(n^2 d) for the neighbours, below 20,000 rows",
    loses="to hardest where one cluster needs everything; where the clusters are no capabilities it is stratified",
    needs=("features",),
)
def paser(
    values: ArrayLike,
    count: int,
    *,
    seed: int,
    epoch: int,
    groups: ArrayLike | None = None,
    ids: Sequence[str] | None = None,
    features: Any,
    clusters: Annotated[int, AtLeast(1)] = 10,
    clustering: Annotated[Literal["k_means", "spectral"], ("k_means", "spectral")] = "k_means",
    temperature: Annotated[float, Positive] = 1.0,
    floor: Annotated[int, AtLeast(0)] = 0,
) -> Selection:
    """Post-training for what a model has lost: places by the mean capability gap of each cluster of rows.

    `n_c = count m_c^(1 / temperature) / sum m^(1 / temperature)`, `m_c` the mean value of the cluster, at most all of
    its rows, rounded by largest remainder; what a full cluster cannot use goes to the others in the same proportion.

    Args:
        values: float `(n,)`, at least 0, such as the score `capability_gap`; +inf = never scored: taken first. Where
            there are values below 0, the smallest is subtracted from all.
        count: How many, in [1, n].
        seed, epoch: Of the clustering, and of ties.
        groups: Not used; see `with_floor`.
        ids: The user's names of the rows, for errors.
        features: float `(n, d)` or CSR, such as embeddings of the instructions.
        clusters: How many capabilities; fewer where there are fewer different rows.
        clustering: `k_means`; or `spectral`, on the graph of the nearest neighbours, for less than 20,000 rows.
        temperature: Above 1 the shares are more alike, below 1 less.
        floor: Rows of each cluster at least, or all that it has.

    Returns:
        Exactly `count` rows, ascending.

    Raises:
        ArgumentError: If values, features or options do not fit, or the floors need more than `count` rows.

    Examples:
        >>> points, gaps = [[0.0], [0.1], [0.2], [9.0], [9.1], [9.2]], [0.1, 0.2, 0.1, 0.3, 0.5, 0.4]
        >>> paser(gaps, 4, seed=0, epoch=0, features=points, clusters=2).rows
        array([1, 3, 4, 5])

    Source: He et al. 2025 (arXiv 2502.12594), whose clusters come from a diffusion kernel and a factorisation. Their
    code gives eigsh a Laplacian that is not symmetric, holds n x n numbers, and rounds down, so that places are lost
    and small clusters get more than they have; here the Laplacian is the symmetric one and the total exact.
    """
    problems = Problems()
    points = check_points(features, problems, name="features", size=np.size(values), ids=ids)
    size = np.size(values)
    if clustering == "spectral" and size >= MOST_SPECTRAL:
        problems.add(f"clustering of paser must be k_means for {size:,} rows: spectral is for less than 20,000.")
    array, count = checked(values, count, seed=seed, epoch=epoch, groups=groups, ids=ids, problems=problems)
    if count == len(array):
        return Selection(np.arange(count))
    new = np.flatnonzero(unseen(array))
    if new.size >= count:
        return Selection(new[top_mask(np.zeros(new.size), count, seed=seed, epoch=epoch)])
    left = np.flatnonzero(~unseen(array))
    codes = _clusters(points[left], clusters, clustering, seed=mix(seed, epoch) % 2**31)
    known = array[left].astype(np.float64)
    chosen = _inside(known - min(0.0, float(known.min())), codes, count - new.size, temperature, floor, seed, epoch)
    return Selection(np.sort(np.concatenate([new, left[chosen]])))


def _clusters(points: Points, clusters: int, clustering: str, *, seed: int) -> NDArray[np.int64]:
    """The number of each row's cluster."""
    most = min(clusters, points.shape[0])
    if clustering == "k_means" or most < 2 or points.shape[0] <= most:
        centres = k_means(points, most, seed=seed)
        return np.asarray(nearest_centroid(points, centres)[0], np.int64)
    return _spectral(points, most, seed)


def _spectral(points: Points, clusters: int, seed: int) -> NDArray[np.int64]:
    """Clusters of the graph of nearest neighbours, by its symmetric normalised Laplacian."""
    from scipy.sparse import csr_array
    from sklearn.cluster import SpectralClustering

    size = points.shape[0]
    near, _ = nearest(points, min(_NEIGHBOURS, size - 1))
    ends = np.arange(0, near.size + 1, near.shape[1], dtype=np.int32)  # scikit-learn takes no larger numbers
    graph = csr_array((np.ones(near.size), near.ravel().astype(np.int32), ends), shape=(size, size))
    made = SpectralClustering(clusters, affinity="precomputed", assign_labels="cluster_qr", random_state=seed)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Graph is not fully connected")  # its parts are clusters
        return np.asarray(made.fit_predict(graph.maximum(graph.T)), np.int64)


def _inside(
    values: NDArray[np.float64],
    codes: NDArray[np.int64],
    count: int,
    temperature: float,
    floor: int,
    seed: int,
    epoch: int,
) -> Rows:
    """The rows with the largest values of each cluster, as many as it has places."""
    sizes = np.bincount(codes)
    means = np.bincount(codes, values) / np.maximum(sizes, 1)
    places = capability_places(sizes, means, count, temperature=temperature, floor=floor)
    chosen = np.zeros(len(values), np.bool_)
    for cluster in np.flatnonzero(places).tolist():
        rows = np.flatnonzero(codes == cluster)
        ties = mix(seed, _STREAM, cluster)
        chosen[rows[top_mask(values[rows], int(places[cluster]), seed=ties, epoch=epoch)]] = True
    return np.flatnonzero(chosen)


def capability_places(sizes: Counts, means: Floats, count: int, *, temperature: float = 1.0, floor: int = 0) -> Counts:
    """Places of each cluster: in proportion to its mean value, at most its size, at least a floor, exactly `count`.

    Args:
        sizes: Rows per cluster, `(clusters,)`.
        means: At least 0, `(clusters,)`; where all are 0, the sizes decide.
        count: Places, at most all rows.
        temperature: Above 0; the shares are `means ** (1 / temperature)`.
        floor: Rows of each cluster at least, or all that it has.

    Raises:
        ArgumentError: If the floors need more places.

    Examples:
        >>> capability_places(np.array([4, 10, 10]), np.array([0.5, 0.3, 0.2]), 16)
        array([4, 7, 5])
        >>> capability_places(np.array([9, 9]), np.array([0.9, 0.0]), 6, floor=2)
        array([4, 2])
    """
    largest = float(means.max())
    shares = (np.asarray(means, np.float64) / largest) ** (1 / temperature) if largest > 0 else np.zeros(len(means))
    floors = np.minimum(sizes, floor)
    needed, problems = int(floors.sum()), Problems()
    problems.check(needed <= count, crowded(floor, int((sizes > 0).sum()), needed, count))
    problems.raise_any()
    at_floor = np.zeros(len(sizes), np.bool_)
    while True:
        places = shared_places(np.where(at_floor, 0, sizes), shares, count - int(floors[at_floor].sum()))
        places[at_floor] = floors[at_floor]
        short = places < floors
        if not short.any():
            return places
        at_floor |= short
