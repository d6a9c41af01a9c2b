"""Exact and near duplicates: groups of rows with one representative each, and rows that train shares with other splits.

Texts are exact duplicates if they differ in case and white space only. They are near duplicates if the Jaccard
similarity s of their sets of character n-grams reaches a threshold. Candidate pairs come from banded MinHash
signatures, in time about linear in the number of texts: two texts agree in a band of r hashes with probability s^r, and
in at least one of b bands with 1 - (1 - s^r)^b. Each candidate's true similarity is computed: no pair is a collision.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datadiet.errors import ArgumentError
from datadiet.registry import Method

HASHES = 64
FOUND = 0.99  # least probability of finding a pair at the threshold; pairs above it are found nearly always
NGRAMS = (4, 4)
_FEATURES = 1 << 22
_PRIME = (1 << 61) - 1
_CHUNK = 20_000  # texts hashed at a time
_NEIGHBOURS = 4  # each member of a bucket is compared with the first one and with this many before it
NEAR = 0.8  # default Jaccard similarity from which two texts are near duplicates

Rows = NDArray[np.int64]

_DEDUPE = (
    Method(
        "dedupe",
        "exact",
        "one row per text (case and spacing ignored): the first with the most common label",
        paper="ours",
        inputs="texts, labels",
        cost="O(n)",
        loses="where the frequency of a text is information, unless it becomes a weight (--dedupe-weights)",
    ),
    Method(
        "dedupe",
        "near",
        "one row per group of Jaccard similarity >= near of character 4-grams: MinHash, banded, each pair checked",
        paper="Broder 1997; Lee et al. 2022, arXiv 2107.06499",
        inputs="texts, labels",
        cost="about O(n)",
        loses="templates with one word changed are near repeats too",
    ),
)


def near_pairs(texts: Sequence[str], threshold: float) -> tuple[Rows, Rows]:
    """Pairs of rows whose texts are nearly the same.

    Args:
        texts: One per row.
        threshold: Least Jaccard similarity of the sets of character 4-grams inside words, in (0, 1).

    Returns:
        The lower and the higher row of each pair, int64, ascending by the higher, then the lower. Of a bucket with many
        similar texts not all pairs are listed, so that the time stays linear: each member is paired with the first one
        and with the few before it.

    Examples:
        >>> near_pairs(["book a table for two", "play jazz", "book a table for two!"], 0.7)
        (array([0]), array([2]))

    Source: Broder 1997, "On the resemblance and containment of documents"; banding: Leskovec, Rajaraman and Ullman,
    "Mining of Massive Datasets", chapter 3. There every candidate counts as a pair; here its similarity is checked.
    """
    if len(texts) < 2:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    sets = ngram_sets(texts)
    low, high = _candidates(band_keys(sets, threshold))
    same = jaccard(sets, low, high) >= threshold
    order = np.lexsort((low[same], high[same]))
    return low[same][order], high[same][order]


def rows_per_band(threshold: float) -> int:
    """The most hashes per band at which a pair at the threshold is still found.

    Examples:
        >>> rows_per_band(0.8), rows_per_band(0.5)
        (5, 2)
    """
    fit = [r for r in range(1, HASHES + 1) if 1 - (1 - threshold**r) ** (HASHES // r) >= FOUND]
    return max(fit, default=1)


def ngram_sets(texts: Sequence[str]) -> Any:
    """The character 4-grams of each text, hashed: a sparse boolean matrix `(n, features)`, its indices sorted.

    An n-gram lies inside a word, so that each word is cut once, however often it occurs.
    """
    from scipy.sparse import csr_matrix
    from sklearn.feature_extraction.text import HashingVectorizer

    numbers: dict[str, int] = {}
    sizes = np.empty(len(texts), np.int64)
    pieces: list[int] = []
    for row, text in enumerate(texts):
        words = text.split()
        sizes[row] = len(words)
        pieces += [numbers.setdefault(word, len(numbers)) for word in words]
    vectorizer = HashingVectorizer(
        analyzer="char_wb", ngram_range=NGRAMS, n_features=_FEATURES, binary=True, norm=None, alternate_sign=False,
        dtype=np.float32,
    )  # fmt: skip
    of_words = vectorizer.transform(list(numbers) or [""]).tocsr()
    ends, found = np.r_[0, np.cumsum(sizes)], [np.empty(0, np.int64)]
    for start in range(0, len(texts), _CHUNK):
        part = slice(start, min(start + _CHUNK, len(texts)))
        inside = np.array(pieces[ends[part.start] : ends[part.stop]], np.int64)
        counts = np.diff(of_words.indptr)[inside]
        before = np.cumsum(counts) - counts
        places = np.repeat(of_words.indptr[inside] - before, counts) + np.arange(counts.sum())
        owners = np.repeat(np.repeat(np.arange(part.start, part.stop), sizes[part]), counts)
        found.append(np.sort(owners * _FEATURES + of_words.indices[places]))  # np.unique hashes, which takes longer
    codes = np.concatenate(found)
    codes = codes[np.diff(codes, prepend=-1) > 0]
    starts = np.searchsorted(codes, np.arange(len(texts) + 1) * _FEATURES)
    return csr_matrix((np.ones(len(codes), np.float32), codes % _FEATURES, starts), (len(texts), _FEATURES))


def band_keys(sets: Any, threshold: float) -> list[NDArray[np.uint64]]:
    """A key per band, uint64 `(n,)` each: texts with the same key in some band are candidates for a pair.

    Args:
        sets: From `ngram_sets`; a text without n-grams has a key of its own.
        threshold: Least similarity of a pair, which decides how many hashes a band has.
    """
    signatures, per_band = _signatures(sets), rows_per_band(threshold)
    keys = []
    for start in range(0, HASHES - per_band + 1, per_band):
        key = np.zeros(len(signatures), np.uint64)
        for column in signatures[:, start : start + per_band].T:
            key = _mixed(key * np.uint64(0xD1342543DE82EF95) + column)
        keys.append(key)
    return keys


def _signatures(sets: Any) -> NDArray[np.uint64]:
    """MinHash signatures, uint64 `(n, HASHES)`; a text without n-grams has a unique one."""
    rng = np.random.default_rng([0, HASHES])
    factors = rng.integers(1, _PRIME, HASHES, dtype=np.uint64) | np.uint64(1)
    shifts = rng.integers(0, _PRIME, HASHES, dtype=np.uint64)
    signatures = np.empty((sets.shape[0], HASHES), np.uint64)
    for start in range(0, sets.shape[0], _CHUNK):
        part = sets[start : start + _CHUNK]
        full = np.flatnonzero(np.diff(part.indptr))
        features = part.indices.astype(np.uint64) + np.uint64(1)
        for number, (factor, shift) in enumerate(zip(factors, shifts, strict=True)):
            hashed = _mixed(features * factor + shift)  # modulo 2^64 on purpose
            if len(full):
                signatures[start + full, number] = np.minimum.reduceat(hashed, part.indptr[full])
        empty = np.flatnonzero(np.diff(part.indptr) == 0)
        signatures[start + empty] = (start + empty).astype(np.uint64)[:, None]
    return signatures


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Mix low bits into the high ones, which decide the minimum."""
    values ^= values >> np.uint64(31)
    values *= np.uint64(0x9E3779B97F4A7C15)
    values ^= values >> np.uint64(29)
    return values


def _candidates(keys: Sequence[NDArray[np.uint64]]) -> tuple[Rows, Rows]:
    """Pairs of rows, the lower first, that agree in some band; each once."""
    number = len(keys[0])
    codes = [low * number + high for low, high in map(in_buckets, keys)]
    pairs = np.unique(np.concatenate(codes))
    return pairs // number, pairs % number


def in_buckets(keys: NDArray[np.uint64]) -> tuple[Rows, Rows]:
    """Pairs of rows with the same key, the lower first: each with the first one that has it, and the few before it.

    Examples:
        >>> in_buckets(np.array([5, 7, 5], np.uint64))
        (array([0, 0]), array([2, 2]))
    """
    number = len(keys)
    order = np.argsort(keys, kind="stable")  # rows ascend inside a bucket
    sorted_keys = keys[order]
    starts = np.flatnonzero(np.r_[True, sorted_keys[1:] != sorted_keys[:-1]]) if number else np.empty(0, np.int64)
    first = np.repeat(starts, np.diff(np.r_[starts, number]))  # where the bucket of each place begins
    place = np.arange(number)
    low, high = [], []
    for other in (first, *(place - step for step in range(1, _NEIGHBOURS + 1))):
        inside = (other >= first) & (other < place)
        low.append(order[other[inside]])
        high.append(order[inside])
    return np.concatenate(low), np.concatenate(high)


def jaccard(sets: Any, low: Rows, high: Rows) -> NDArray[np.float64]:
    """Similarity of pairs of rows of `ngram_sets`; 0 for texts without n-grams."""
    sizes = np.diff(sets.indptr)
    similarities = np.zeros(len(low))
    for start in range(0, len(low), _CHUNK):
        part = slice(start, start + _CHUNK)
        shared = np.asarray(sets[low[part]].multiply(sets[high[part]]).sum(axis=1)).ravel()
        union = sizes[low[part]] + sizes[high[part]] - shared
        similarities[part] = np.divide(shared, union, out=np.zeros(len(shared)), where=union > 0)
    return similarities


def normal_text(text: str) -> str:
    """The form of a text for comparisons: lower case, single spaces between words.

    Examples:
        >>> normal_text(" Good \t film")
        'good film'
    """
    return " ".join(text.casefold().split())


def text_keys(texts: Iterable[str], text_pairs: Iterable[str] | None = None) -> Iterator[tuple[str, str]]:
    """The normalised text of each example, and the normalised second text of a pair.

    Examples:
        >>> list(text_keys(["Good  film", "Bad"]))
        [('good film', ''), ('bad', '')]
    """
    pairs = repeat("") if text_pairs is None else text_pairs
    return ((normal_text(one), normal_text(two)) for one, two in zip(texts, pairs, strict=False))


@dataclass(frozen=True)
class Groups:
    """Rows grouped by text, each group with a representative row.

    Attributes:
        of: int64 `(n,)`, the representative of each row; a representative has its own number.
        conflicts: Representatives of groups whose labels differ, ascending.

    Examples:
        >>> groups = representatives(["Play it", "play  it", "stop", "play it"], ["a", "a", "b", "b"])
        >>> groups.of, groups.rows, groups.weights, groups.conflicts
        (array([0, 0, 2, 0]), array([0, 2]), array([3., 1.], dtype=float32), array([0]))
    """

    of: Rows
    conflicts: Rows

    @property
    def rows(self) -> Rows:
        """The representatives, ascending."""
        return np.flatnonzero(self.of == np.arange(len(self.of)))

    @property
    def weights(self) -> NDArray[np.float32]:
        """Group sizes of `rows`: the loss weights with which every text counts as often as it occurred."""
        return np.bincount(self.of, minlength=len(self.of))[self.rows].astype(np.float32)

    @property
    def repeated(self) -> Rows:
        """The rows that are not representatives, ascending."""
        return np.flatnonzero(self.of != np.arange(len(self.of)))


def representatives(
    texts: Sequence[str],
    labels: Sequence[Hashable] | None = None,
    text_pairs: Sequence[str] | None = None,
    *,
    near: float | None = None,
) -> Groups:
    """Group rows with the same text, and choose a representative of each group.

    The representative is the first row with the most common label of its group.

    Args:
        texts: One per row.
        labels: Anything hashable per row, e.g. the intent and the slots; None for unlabelled rows.
        text_pairs: The second texts of pairs.
        near: Also group near duplicates: the least Jaccard similarity of the character n-grams, in (0, 1). Every row
            is then this similar to the first row of its group; only rows with the same label are grouped.

    Raises:
        ArgumentError: If the lengths differ, or `near` is outside (0, 1).

    Examples:
        >>> representatives(["book a table for two", "book a table for two!"], near=0.7).rows
        array([0])
    """
    _check_lengths(len(texts), labels, text_pairs)
    if near is not None and not 0 < near < 1:
        raise ArgumentError(f"near must be a similarity in (0, 1), got {near}.")
    exact = _exact(list(text_keys(texts, text_pairs)), labels)
    return exact if near is None else _merged(exact, joined_keys(text_keys(texts, text_pairs)), labels, near)


def _check_lengths(rows: int, labels: Sequence[Hashable] | None, text_pairs: Sequence[str] | None) -> None:
    for name, given in (("labels", labels), ("text_pairs", text_pairs)):
        if given is not None and len(given) != rows:
            raise ArgumentError(f"{name} must be as many as the texts, {rows}, got {len(given)}.")


def _exact(keys: Sequence[Hashable], labels: Sequence[Hashable] | None) -> Groups:
    members: dict[Hashable, list[int]] = {}
    for row, key in enumerate(keys):
        members.setdefault(key, []).append(row)
    of = np.arange(len(keys))
    conflicts = []
    for rows in members.values():
        if len(rows) == 1:
            continue
        representative, differ = _majority(rows, labels)
        of[rows] = representative
        conflicts += [representative] if differ else []
    return Groups(of, np.sort(np.array(conflicts, np.int64)))


def _majority(rows: Sequence[int], labels: Sequence[Hashable] | None) -> tuple[int, bool]:
    """The first row with a most common label, and whether labels differ."""
    if labels is None:
        return rows[0], False
    counts = Counter(labels[row] for row in rows)
    best = max(counts.values())
    return next(row for row in rows if counts[labels[row]] == best), len(counts) > 1


def _merged(exact: Groups, texts: Sequence[str], labels: Sequence[Hashable] | None, near: float) -> Groups:
    """Merge groups that are near duplicates with the same label, into the first one."""
    rows = exact.rows
    one, two = near_pairs([texts[row] for row in rows], near)
    merged = np.arange(len(rows))
    for first, second in zip(one.tolist(), two.tolist(), strict=True):  # ascending by the second, then the first
        unmerged = merged[first] == first and merged[second] == second
        if unmerged and (labels is None or labels[rows[first]] == labels[rows[second]]):
            merged[second] = first
    place = np.searchsorted(rows, exact.of)
    return Groups(rows[merged[place]], exact.conflicts)


def joined_keys(keys: Iterable[tuple[str, str]]) -> list[str]:
    """The texts whose n-grams are compared, from those of `text_keys`."""
    return [f"{one}\n{two}" if two else one for one, two in keys]


# ---- between splits ----


@dataclass(frozen=True)
class Overlap:
    """Training rows that also occur in another split.

    Attributes:
        split: The other split.
        exact: Training rows that are exact duplicates of one of its rows, ascending.
        near: Training rows that are near, but not exact, duplicates of one of its rows, ascending.
    """

    split: str
    exact: Rows
    near: Rows

    def note(self) -> str:
        """A sentence for the user; empty where nothing is shared."""
        if not len(self.exact) and not len(self.near):
            return ""
        return (
            f"{self.split}: {len(self.exact):,} training rows have the text of one of its rows, ignoring case and "
            f"white space, and {len(self.near):,} more nearly so; its metrics are inflated by memorised rows."
        )


def overlaps(splits: Mapping[str, Sequence[str]], *, near: float = NEAR) -> list[Overlap]:
    """Training rows that also occur in the other splits.

    Args:
        splits: The texts by split, with `train`; both texts of a pair as one.
        near: See `representatives`.

    Returns:
        One per other split.

    Raises:
        ArgumentError: If there is no `train`.

    Examples:
        >>> found = overlaps({"train": ["a good film", "bad"], "test": ["A good  film"]})
        >>> found[0].split, found[0].exact, found[0].near
        ('test', array([0]), array([], dtype=int64))
    """
    if "train" not in splits:
        raise ArgumentError(f"overlaps are those of train; the splits are {', '.join(splits) or 'none'}.")
    train = [normal_text(text) for text in splits["train"]]
    return [
        _overlap(name, train, [normal_text(text) for text in texts], near)
        for name, texts in splits.items()
        if name != "train"
    ]


def _overlap(name: str, train: Sequence[str], other: Sequence[str], near: float) -> Overlap:
    other_texts = set(other)
    same = np.array([text in other_texts for text in train], bool)
    one, two = near_pairs([*other, *train], near)
    across = (one < len(other)) & (two >= len(other))
    close = np.unique(two[across] - len(other))
    return Overlap(name, np.flatnonzero(same), close[~same[close]])
