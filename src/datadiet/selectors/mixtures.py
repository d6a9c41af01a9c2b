"""Mixtures of groups: how many rows each prompt, cluster or task gives, and which of its rows.

`best_of_group` takes the best of several answers to a prompt. `deft_ucs` and `paser` make the groups themselves, as
clusters of embeddings; `smart` shares the places out among tasks by how much each adds to the others. `deft_ucs` and
`smart` read no values, so they treat rows never scored (+inf) like any other.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from itertools import combinations, groupby
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from datadiet.errors import ArgumentError, Problems
from datadiet.geometry import Points, check_points, k_means, nearest, nearest_centroid, unit_rows, usual_clusters
from datadiet.registry import AtLeast, NotNegative, Positive, ShareBelowOne, UnitShare, selector
from datadiet.selectors.base import (
    Floats,
    Rows,
    checked,
    checked_groups,
    crowded,
    mix,
    row_hash,
    selection,
    top_mask,
    unseen,
)
from datadiet.selectors.groups import Counts, encoded, members, shared_places
from datadiet.selectors.submodular import covering, cutting, similarities, usual_neighbours
from datadiet.types import Selection

Allocation = Literal["proportional", "equal", "root"]
MOST_SPECTRAL = 20_000  # rows
_NEIGHBOURS = 10
_STREAM = 17  # of the seed of ties
_MOST_FOR_GAP, _MOST_CLUSTERS = 1000, 30  # rows and clusters of which the number of clusters is found
_WORDS = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*|[^\w\s]|_")


@selector(
    formula="the best of every group, then the second of every group, ...; the last places go to the largest values",
    paper="Shimabucoro et al. 2024 (active inheritance), arXiv 2407.01490",
    inputs="values, groups",
    cost="O(n log n)",
    loses="by every other metric than that of the values: look at what else drifts",
    needs=("groups",),
    traits=("fills_classes", "one_of_each"),
)
def best_of_group(
    values: ArrayLike,
    count: int,
    *,
    seed: int,
    epoch: int,
    groups: ArrayLike | None = None,
    ids: Sequence[str] | None = None,
) -> Selection:
    """The best of several answers to the same prompt, by any value; with more places the best two, three, ...

    Rows are taken by their rank within the group, and of equal ranks the largest values first. So as many rows as there
    are groups are the best of each group.

    Args:
        values: float `(n,)`; larger = more wanted.
        count: How many, in [1, n]; `datadiet select` takes one of each group where no count is given.
        seed, epoch: Of ties.
        groups: `(n,)`, such as the id of each row's prompt; needed.
        ids: The user's names of the rows, for errors.

    Returns:
        Exactly `count` rows, ascending.

    Raises:
        ArgumentError: If values or groups do not fit.

    Examples:
        >>> best_of_group([3, 9, 5, 4], 2, seed=0, epoch=0, groups=["p", "p", "q", "q"]).rows
        array([1, 2])
        >>> best_of_group([3, 9, 5, 4], 3, seed=0, epoch=0, groups=["p", "p", "q", "q"]).rows
        array([1, 2, 3])

    Source: LLM See, LLM Do (Shimabucoro et al. 2024, arXiv 2407.01490): several answers to each prompt are sampled, and
    the best one by a metric such as length, diversity or toxicity is trained on.
    """
    array, count = checked(values, count, seed=seed, epoch=epoch, groups=groups, ids=ids)
    codes, sizes, _ = encoded(checked_groups(groups, "best_of_group"))
    hashes = row_hash(np.arange(array.size), seed=seed, epoch=epoch)
    order = np.lexsort((hashes, -array, codes))  # by group, largest values first
    ranks = np.empty(array.size, np.int64)
    ranks[order] = np.arange(array.size) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    mask = np.zeros(array.size, np.bool_)
    mask[np.lexsort((hashes, -array, ranks))[:count]] = True
    return selection(mask)


@selector(
    formula="of each cluster of k-means the nearest to its centroid and the farthest, without the very farthest",
    paper="Das and Khetan 2024 (DEFT-UCS), EMNLP, arXiv 2310.16776",
    inputs="embeddings; no values",
    cost="k-means: O(n k d)",
    loses="where the far ones of a cluster are noise; and by the number of clusters, which has to be guessed",
    needs=("features",),
    evidence="corpus-selection",
)
def deft_ucs(
    values: ArrayLike,
    count: int,
    *,
    seed: int,
    epoch: int,
    groups: ArrayLike | None = None,
    ids: Sequence[str] | None = None,
    features: Any,
    clusters: Annotated[int | None, AtLeast(1)] = None,
    near: Annotated[float, UnitShare] = 0.5,
    trim: Annotated[float, ShareBelowOne] = 0.05,
    allocation: Allocation = "proportional",
) -> Selection:
    """From every cluster of similar rows the most usual and the least usual ones.

    k-means on vectors of length 1. A cluster of c places gives the `round(near * c)` nearest to its centroid by the
    cosine, and for the other places the farthest, those beyond the share `trim` left out as outliers.

    Args:
        values: float `(n,)`; only their number counts.
        count: How many, in [1, n].
        seed, epoch: Of k-means, by the seed alone, and of ties.
        groups: Not used; see `with_floor`.
        ids: The user's names of the rows, for errors.
        features: float `(n, d)` or CSR, no row 0 everywhere.
        clusters: How many; the number of tasks, where it is known. By default `sqrt(n / 10)` rounded up, at most 100.
        near: Share of a cluster's places for its nearest rows, in [0, 1]; the paper's alpha.
        trim: Share of a cluster's rows that are too far, in [0, 1); fewer where the places need them. 0 is published.
        allocation: Places of a cluster: `proportional` to its size, `equal` as published, or to the `root` of its size.

    Returns:
        Exactly `count` rows, ascending.

    Raises:
        ArgumentError: If values, features or options do not fit.
        DataError: If a row of the features is 0 everywhere.

    Examples:
        >>> points = [[1.0, 0.0], [1.0, 0.1], [1.0, 0.2], [1.0, 0.3], [0.7, 0.9]]
        >>> deft_ucs([0.0] * 5, 2, seed=0, epoch=0, features=points, clusters=1, trim=0.2).rows
        array([0, 3])

    Source: DEFT-UCS (Das and Khetan 2024, arXiv 2310.16776), section 3: k-means with as many clusters as tasks, seven,
    and the same number of each cluster, half near and half far. The far ones train best there where few labels are at
    hand; they are also where noise is, therefore `trim`.
    """
    points, count = _inputs(values, count, seed, epoch, groups, ids, features, clusters)
    units = unit_rows(points, name="features", ids=ids)
    size = units.shape[0]
    numbers, apart = nearest_centroid(
        units, k_means(units, clusters or usual_clusters(size), seed=seed), metric="cosine"
    )
    apart = np.round(apart, 12)  # rounding would break ties between equal rows
    codes, sizes, _ = encoded(numbers)
    shares = {"equal": np.sign(sizes), "root": np.sqrt(sizes), "proportional": sizes}[allocation].astype(np.float64)
    places = shared_places(sizes, shares, count)
    hashes = row_hash(np.arange(size), seed=seed, epoch=epoch)
    mask = np.zeros(size, np.bool_)
    for code, rows in members(codes, places > 0):
        order = rows[np.lexsort((hashes[rows], apart[rows]))]
        close = round(near * int(places[code]))
        end = max(int(places[code]), len(rows) - round(trim * len(rows)))  # the very farthest lie behind it
        mask[order[:close]] = True
        mask[order[end - int(places[code]) + close : end]] = True
    return selection(mask)


@selector(
    formula="places of each task by its gain in a graph cut of task means; in each task, facility location",
    paper="Renduchintala et al. 2024 (SMART), ACL Findings, arXiv 2403.08370",
    inputs="embeddings, groups; no values",
    cost="of facility_location, inside each task",
    loses="to the proportions of the tasks, where these are those of the test; with one task it is facility_location",
    needs=("groups", "features"),
    traits=("fills_classes",),
    evidence="corpus-selection",
)
def smart(
    values: ArrayLike,
    count: int,
    *,
    seed: int,
    epoch: int,
    groups: ArrayLike | None = None,
    ids: Sequence[str] | None = None,
    features: Any,
    tasks: Annotated[int | None, AtLeast(1)] = None,
    redundancy: Annotated[float, NotNegative] = 0.4,
) -> Selection:
    """A mixture of tasks: more places for tasks that are central and unlike each other, and rows that cover each.

    A task is the mean of its vectors of length 1. Tasks are taken greedily by graph cut; with `g_j` the gain of task j
    over the gain of the first, its places are proportional to `1 + g_j + g_j^2 / 2`, at most all of its rows. Inside a
    task, facility location takes the rows.

    Args:
        values: float `(n,)`; only their number counts.
        count: How many, in [1, n].
        seed, epoch: Of ties.
        groups: `(n,)`, the task of each row; needed.
        ids: The user's names of the rows, for errors.
        features: float `(n, d)` or CSR, no row 0 everywhere.
        tasks: How many tasks get places, the first ones that graph cut takes; all by default. Where these have too few
            rows, the others fill up by size.
        redundancy: Penalty on similarity among tasks, at least 0; the paper's lambda.

    Returns:
        Exactly `count` rows, ascending.

    Raises:
        ArgumentError: If values, groups, features or options do not fit.
        DataError: If a row of the features, or the mean of a task, is 0 everywhere.

    Examples:
        >>> points = [[1.0, 0.0], [1.0, 0.1], [1.0, -0.1], [0.0, 1.0], [0.1, 1.0], [-0.1, 1.0]]
        >>> smart([0.0] * 6, 2, seed=0, epoch=0, features=points, groups=list("aaabbb")).rows
        array([0, 3])

    Source: SMART (Renduchintala et al. 2024, arXiv 2403.08370; kowndinya-renduchintala/SMART): graph cut with 0.4 over
    1,840 tasks, the second-order Taylor softmax of its gains, facility location in each. There the gains are taken as
    they are, and since those of many tasks are large and alike, the places come out nearly equal; here each is divided
    by the first. Places are rounded by largest remainder instead of down and up in turns. Their split of the places of
    a task, evenly among its kinds of templates, is left to groups that name both: each pair is then a task.
    """
    points, count = _inputs(values, count, seed, epoch, groups, ids, features)
    codes, sizes, names = encoded(checked_groups(groups, "smart"))
    units = unit_rows(points, name="features", ids=ids)
    order, gains = _central(units, codes, sizes, tasks, redundancy, seed=seed, epoch=epoch, names=names)
    shares = np.zeros(len(sizes))
    shares[order] = 1 + gains + gains**2 / 2  # above 0 for any gain
    places = shared_places(sizes, shares, count)
    mask = np.zeros(units.shape[0], np.bool_)
    for code, rows in members(codes, places > 0):
        mask[rows[_covered(units[rows], int(places[code]), seed=mix(seed, code), epoch=epoch)]] = True
    return selection(mask)


def _central(
    units: Points,
    codes: NDArray[Any],
    sizes: NDArray[np.int64],
    tasks: int | None,
    redundancy: float,
    *,
    seed: int,
    epoch: int,
    names: NDArray[Any],
) -> tuple[Rows, NDArray[np.float64]]:
    """The tasks that graph cut takes, by number and in its order, and the gain of each over that of the first."""
    there = np.flatnonzero(sizes)
    means = np.stack([np.asarray(units[rows].mean(0), np.float64).reshape(-1) for _, rows in members(codes, sizes > 0)])
    if len(there) == 1:
        return there, np.ones(1)
    named = [str(name) for name in names[there]]
    means = unit_rows(means, name="means of the groups", ids=named)
    number = len(there) if tasks is None else min(tasks, len(there))
    similar = similarities(means, usual_neighbours(len(there), number))
    hashes = row_hash(there, seed=seed, epoch=epoch)
    order, gains = cutting(similar, number, hashes, redundancy)
    return there[order], gains / abs(gains[0]) if gains[0] else gains


def _covered(units: Points, count: int, *, seed: int, epoch: int) -> Rows:
    """Rows of one task by facility location."""
    size = units.shape[0]
    if count == size:
        return np.arange(size)
    hashes = row_hash(np.arange(size), seed=seed, epoch=epoch)
    return covering(similarities(units, usual_neighbours(size, count)), count, hashes)


def _inputs(
    values: ArrayLike,
    count: int,
    seed: int,
    epoch: int,
    groups: ArrayLike | None,
    ids: Sequence[str] | None,
    features: Any,
    clusters: int | None = None,
) -> tuple[Points, int]:
    """Checked points and count; all problems are raised together."""
    problems = Problems()
    points = check_points(features, problems, name="features", size=np.size(values), ids=ids)
    if clusters is not None:
        most = max(1, np.size(values))
        problems.check(clusters <= most, f"clusters must be a whole number from 1 to {most}, got {clusters!r}.")
    _, count = checked(values, count, seed=seed, epoch=epoch, groups=groups, ids=ids, problems=problems)
    return points, count


@selector(
    formula="places of a cluster proportional to its mean value, at most its size; inside it the largest values",
    paper="He et al. 2025 (PASER), arXiv 2502.12594",
    inputs="embeddings, values",
    cost="k-means: O(n d clusters); spectral: O(n^2 d) for the neighbours, below 20,000 rows",
    loses="to hardest where one cluster needs everything; where the clusters are no capabilities it is stratified",
    needs=("features",),
    needs_with={"consistent": "texts"},
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
    texts: Sequence[str] | None = None,
    clusters: Annotated[int | Literal["auto"], AtLeast(1)] = 10,
    clustering: Annotated[Literal["k_means", "spectral"], ("k_means", "spectral")] = "k_means",
    temperature: Annotated[float, Positive] = 1.0,
    floor: Annotated[int, AtLeast(0)] = 0,
    consistent: bool = False,
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
        texts: `(n,)`, prompt and answer; needed where `consistent` is true.
        clusters: How many capabilities; fewer where there are fewer different rows. `auto` takes the number from 2 to
            30 after which the eigenvalues of the graph of nearest neighbours have their largest gap, on at most 1,000
            rows.
        clustering: `k_means`; or `spectral`, on the graph of the nearest neighbours, for less than 20,000 rows.
        temperature: Above 1 the shares are more alike, below 1 less.
        floor: Rows of each cluster at least, or all that it has.
        consistent: Whether a row is left out that has two concepts which rows before it have, but none of them both:
            the Concept Consistency Graph. Its concepts are the phrases of its text, see `concepts`. Clusters come by
            falling mean, and what one of them cannot fill goes to the others.

    Returns:
        Exactly `count` rows, ascending.

    Raises:
        ArgumentError: If values, features or options do not fit, or the floors need more than `count` rows, or fewer
            than `count` rows are consistent.

    Examples:
        >>> points, gaps = [[0.0], [0.1], [0.2], [9.0], [9.1], [9.2]], [0.1, 0.2, 0.1, 0.3, 0.5, 0.4]
        >>> paser(gaps, 4, seed=0, epoch=0, features=points, clusters=2).rows
        array([1, 3, 4, 5])

    Source: He et al. 2025 (arXiv 2502.12594), whose clusters come from a diffusion kernel and a factorisation. Their
    code gives eigsh a Laplacian that is not symmetric, holds n x n numbers, and rounds down, so that places are lost
    and small clusters get more than they have; here the Laplacian is the symmetric one and the total exact. The paper
    says that the number of clusters minimises the error of the factorisation, but neither among which numbers nor of
    which matrix, and the code takes ten. In the code the graph takes clusters by their number, which means nothing, and
    its rejected rows leave places empty.
    """
    problems = Problems()
    points = check_points(features, problems, name="features", size=np.size(values), ids=ids)
    size = np.size(values)
    if clustering == "spectral" and size >= MOST_SPECTRAL:
        problems.add(f"clustering of paser must be k_means for {size:,} rows: spectral is for less than 20,000.")
    array, count = checked(values, count, seed=seed, epoch=epoch, groups=groups, ids=ids, problems=problems)
    problems.check(not consistent or texts is not None, "consistent of paser needs the text of each row: give texts=.")
    problems.raise_any()
    if count == len(array) and not consistent:
        return Selection(np.arange(count))
    new = np.flatnonzero(unseen(array))
    if new.size >= count:
        return Selection(new[top_mask(np.zeros(new.size), count, seed=seed, epoch=epoch)])
    left = np.flatnonzero(~unseen(array))
    codes = _clusters(points[left], clusters, clustering, seed=mix(seed, epoch) % 2**31)
    known = array[left].astype(np.float64)
    known -= min(0.0, float(known.min()))
    hashes = row_hash(left, seed=mix(seed, _STREAM), epoch=epoch)
    graph = _Concepts([concepts(texts[row]) for row in left.tolist()] if consistent and texts is not None else None)
    chosen = _inside(known, codes, count - new.size, temperature, floor, hashes, graph)
    return Selection(np.sort(np.concatenate([new, left[chosen]])))


def _clusters(points: Points, clusters: int | Literal["auto"], clustering: str, *, seed: int) -> NDArray[np.int64]:
    """The number of each row's cluster."""
    most = min(_by_gap(points, seed=seed) if clusters == "auto" else clusters, points.shape[0])
    if clustering == "k_means" or most < 2 or points.shape[0] <= most:
        centres = k_means(points, most, seed=seed)
        return np.asarray(nearest_centroid(points, centres)[0], np.int64)
    return _spectral(points, most, seed)


def _spectral(points: Points, clusters: int, seed: int) -> NDArray[np.int64]:
    """Clusters of the graph of nearest neighbours, by its symmetric normalised Laplacian."""
    from sklearn.cluster import SpectralClustering

    made = SpectralClustering(clusters, affinity="precomputed", assign_labels="cluster_qr", random_state=seed)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Graph is not fully connected")  # its parts are clusters
        return np.asarray(made.fit_predict(_neighbour_graph(points)), np.int64)


def _neighbour_graph(points: Points) -> Any:
    """Which rows are among the nearest neighbours of one another, on either side: a CSR array of 0 and 1."""
    from scipy.sparse import csr_array

    size = points.shape[0]
    near, _ = nearest(points, min(_NEIGHBOURS, size - 1))
    ends = np.arange(0, near.size + 1, near.shape[1], dtype=np.int32)  # scikit-learn takes no larger numbers
    graph = csr_array((np.ones(near.size), near.ravel().astype(np.int32), ends), shape=(size, size))
    return graph.maximum(graph.T)


def _by_gap(points: Points, *, seed: int) -> int:
    """How many clusters there are: before the largest gap of the eigenvalues of the graph's Laplacian, from 2 on."""
    from scipy.linalg import eigvalsh
    from scipy.sparse.csgraph import laplacian

    size = points.shape[0]
    if size < 4:
        return 1
    if size > _MOST_FOR_GAP:
        rows = np.argsort(row_hash(np.arange(size), seed=seed, epoch=0), kind="stable")[:_MOST_FOR_GAP]
        points = points[np.sort(rows)]
    graph = _neighbour_graph(points).toarray()
    last = min(_MOST_CLUSTERS, len(graph) - 1)
    values = eigvalsh(laplacian(graph, normed=True), subset_by_index=[0, last])
    gaps = np.round(np.diff(values), 9)  # rounding would break ties between equal gaps
    return 2 + int(np.argmax(gaps[1:]))


def _inside(
    values: NDArray[np.float64],
    codes: NDArray[np.int64],
    count: int,
    temperature: float,
    floor: int,
    hashes: NDArray[Any],
    graph: _Concepts,
) -> Rows:
    """The rows with the largest values of each cluster that the graph takes, as many as it has places."""
    sizes = np.bincount(codes)
    means = np.bincount(codes, values) / np.maximum(sizes, 1)
    order = np.lexsort((hashes, -values, codes))
    waiting = {cluster: order[rows].tolist()[::-1] for cluster, rows in members(codes[order], sizes > 0)}
    chosen: list[int] = []
    while len(chosen) < count:
        left = np.array([len(waiting.get(cluster, ())) for cluster in range(len(sizes))])
        if not left.any():
            raise ArgumentError(
                f"consistent of paser leaves {len(chosen):,} rows that agree, fewer than the {count:,} to keep: keep "
                "fewer, or leave it out."
            )
        wanted = min(count - len(chosen), int(left.sum()))
        places = capability_places(left, means, wanted, temperature=temperature, floor=0 if chosen else floor)
        for cluster in np.argsort(-means, kind="stable").tolist():
            own = waiting.get(cluster, [])
            while places[cluster] and own:
                if graph.takes(row := own.pop()):
                    chosen.append(row)
                    places[cluster] -= 1
    return np.sort(np.asarray(chosen, np.int64))


def concepts(text: str) -> frozenset[str]:
    """The phrases of a text in lower case: what stands between two stop words of English, or signs (RAKE).

    Examples:
        >>> sorted(concepts("What is the capital of Peru? Lima, a city on the coast."))
        ['capital', 'city', 'coast', 'lima', 'peru']
    """
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS as STOP

    words = [word if word[0].isalnum() and word not in STOP else "" for word in _WORDS.findall(text.lower())]
    return frozenset(" ".join(phrase) for real, phrase in groupby(words, bool) if real)


class _Concepts:
    """The Concept Consistency Graph: concepts that an accepted row has together are linked.

    Instead of links, the accepted rows of each concept are kept: two concepts are linked where they share a row.
    """

    def __init__(self, of_rows: Sequence[frozenset[str]] | None) -> None:
        self._of_rows = of_rows  # None: every row is taken
        self._accepted: dict[str, set[int]] = {}

    def takes(self, row: int) -> bool:
        """Whether a row is consistent with those accepted before; then it counts among them."""
        if self._of_rows is None:
            return True
        own = self._of_rows[row]
        known = [rows for concept in own if (rows := self._accepted.get(concept)) is not None]
        if any(one.isdisjoint(other) for one, other in combinations(known, 2)):
            return False
        if len(own) > 1:  # as published: a concept by itself is not in the graph
            for concept in own:
                self._accepted.setdefault(concept, set()).add(row)
        return True


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
