"""Pairs of texts that share most of their character n-grams, in time about linear in the number of texts.

MinHash signatures, banded: two texts of Jaccard similarity s agree in a band of r of the hashes with probability s^r,
and in one of b bands with 1 - (1 - s^r)^b. Candidates are checked by their true similarity.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

HASHES = 64
# a pair at the threshold is found with at least this probability; one above it nearly always
FOUND = 0.99
NGRAMS = (4, 4)
_FEATURES = 1 << 22
_PRIME = (1 << 61) - 1
_CHUNK = 20_000  # texts hashed at a time
_NEIGHBOURS = 4  # of a bucket, each member is compared with its first and with so many before it

Rows = NDArray[np.int64]


def near_pairs(texts: Sequence[str], threshold: float) -> tuple[Rows, Rows]:
    """Pairs of rows whose texts are nearly the same.

    Args:
        texts: One per row.
        threshold: Least Jaccard similarity of the sets of character 4-grams inside words, in (0, 1).

    Returns:
        The lower and the higher row of each pair, int64, ascending by the higher, then the lower. In a bucket of very
        many alike texts not all pairs are listed, so that traffic with many repeats stays linear: each member with the
        first and with the few before it.

    Example:
        >>> near_pairs(["book a table for two", "play jazz", "book a table for two!"], 0.7)
        (array([0]), array([2]))

    Source: Broder 1997, "On the resemblance and containment of documents"; banding: Leskovec, Rajaraman and Ullman,
    "Mining of Massive Datasets", chapter 3. There a candidate counts as found; here it is checked.
    """
    if len(texts) < 2:
        return np.empty(0, np.int64), np.empty(0, np.int64)
    sets = _ngram_sets(texts)
    low, high = _candidates(_signatures(sets), rows_per_band(threshold))
    same = _jaccard(sets, low, high) >= threshold
    order = np.lexsort((low[same], high[same]))
    return low[same][order], high[same][order]


def rows_per_band(threshold: float) -> int:
    """The most hashes per band at which a pair at the threshold is still found.

    Example:
        >>> rows_per_band(0.8), rows_per_band(0.5)
        (5, 2)
    """
    fit = [r for r in range(1, HASHES + 1) if 1 - (1 - threshold**r) ** (HASHES // r) >= FOUND]
    return max(fit, default=1)


def _ngram_sets(texts: Sequence[str]) -> Any:
    """A sparse boolean matrix `(n, features)`, its indices sorted."""
    from sklearn.feature_extraction.text import HashingVectorizer

    vectorizer = HashingVectorizer(
        analyzer="char_wb", ngram_range=NGRAMS, n_features=_FEATURES, binary=True, norm=None, alternate_sign=False,
        dtype=np.float32,
    )  # fmt: skip
    sets = vectorizer.transform(texts).tocsr()
    sets.sort_indices()
    return sets


def _signatures(sets: Any) -> NDArray[np.uint64]:
    """MinHash signatures, uint64 `(n, HASHES)`; a text without n-grams has one of its own."""
    rng = np.random.default_rng([0, HASHES])
    factors = rng.integers(1, _PRIME, HASHES, dtype=np.uint64) | np.uint64(1)
    shifts = rng.integers(0, _PRIME, HASHES, dtype=np.uint64)
    found = np.empty((sets.shape[0], HASHES), np.uint64)
    for start in range(0, sets.shape[0], _CHUNK):
        part = sets[start : start + _CHUNK]
        full = np.flatnonzero(np.diff(part.indptr))
        features = part.indices.astype(np.uint64) + np.uint64(1)
        for number, (factor, shift) in enumerate(zip(factors, shifts, strict=True)):
            hashed = _mixed(features * factor + shift)  # modulo 2^64, as meant
            if len(full):
                found[start + full, number] = np.minimum.reduceat(hashed, part.indptr[full])
        empty = np.flatnonzero(np.diff(part.indptr) == 0)
        found[start + empty] = (start + empty).astype(np.uint64)[:, None]
    return found


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The high bits of a product depend on all its low bits, and the minimum goes by the high bits."""
    values ^= values >> np.uint64(31)
    values *= np.uint64(0x9E3779B97F4A7C15)
    values ^= values >> np.uint64(29)
    return values


def _candidates(signatures: NDArray[np.uint64], per_band: int) -> tuple[Rows, Rows]:
    """Pairs of rows, the lower first, that agree in some band; each once."""
    number = len(signatures)
    codes = [np.empty(0, np.int64)]
    for start in range(0, HASHES - per_band + 1, per_band):
        band = signatures[:, start : start + per_band]
        key = np.zeros(number, np.uint64)
        for column in band.T:
            key = _mixed(key * np.uint64(0xD1342543DE82EF95) + column)
        codes.append(_in_buckets(key))
    pairs = np.unique(np.concatenate(codes))
    return pairs // number, pairs % number


def _in_buckets(key: NDArray[np.uint64]) -> Rows:
    """`low * n + high` for each member of a bucket with its first, and with the few before it."""
    number = len(key)
    order = np.argsort(key, kind="stable")  # rows ascend inside a bucket
    sorted_key = key[order]
    starts = np.flatnonzero(np.r_[True, sorted_key[1:] != sorted_key[:-1]])
    first = np.repeat(starts, np.diff(np.r_[starts, number]))  # where the bucket of each place begins
    place = np.arange(number)
    codes = []
    for other in (first, *(place - step for step in range(1, _NEIGHBOURS + 1))):
        inside = (other >= first) & (other < place)
        codes.append(order[other[inside]] * number + order[inside])
    return np.concatenate(codes).astype(np.int64)


def _jaccard(sets: Any, low: Rows, high: Rows) -> NDArray[np.float64]:
    """Similarity of pairs of rows; 0 for texts without n-grams."""
    sizes = np.diff(sets.indptr)
    found = np.zeros(len(low))
    for start in range(0, len(low), _CHUNK):
        part = slice(start, start + _CHUNK)
        shared = np.asarray(sets[low[part]].multiply(sets[high[part]]).sum(axis=1)).ravel()
        union = sizes[low[part]] + sizes[high[part]] - shared
        found[part] = np.divide(shared, union, out=np.zeros(len(shared)), where=union > 0)
    return found
