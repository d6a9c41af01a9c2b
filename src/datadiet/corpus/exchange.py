"""What repeats in a corpus, found without holding it: sorted hashes per partition, compared a range at a time.

Every partition leaves a sorted array of 128-bit hashes on the disk. A range of hashes is read from all of them at once,
so that equal ones meet, and memory is bounded by the size of a range. At 10^9 rows two different texts have the same
hash with a probability of 10^-21.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from datadiet.files import whole_file

RANGE_ROWS = 4_000_000  # hashes that are compared at a time, about
KEYS = np.dtype([("high", "<u8"), ("low", "<u8"), ("label", "<u8"), ("row", "<u4")])
REPEATS = np.dtype([("part", "<u4"), ("row", "<u4"), ("kept_part", "<u4"), ("kept_row", "<u4")])
Keys = NDArray[np.void]


def hashed(texts: Iterable[Hashable]) -> NDArray[np.uint64]:
    """128 bits of each text, or tuple of texts, as two columns, uint64 `(n, 2)`.

    Examples:
        >>> one, two, three = hashed(["a", "b", "a"])
        >>> bool((one == three).all()), bool((one == two).all())
        (True, False)
    """
    pieces = [hashlib.blake2b(repr(text).encode("utf-8", "surrogatepass"), digest_size=16).digest() for text in texts]
    return np.frombuffer(b"".join(pieces), np.uint64).reshape(-1, 2)


def keys_of(texts: Iterable[Hashable], rows: NDArray[np.int64], labels: Sequence[Hashable] | None = None) -> Keys:
    """Hashes with their rows, not yet sorted.

    Args:
        texts: `(n,)`, what is compared.
        rows: int64 `(n,)`, the row of each in its file.
        labels: `(n,)`, what votes for the row that stays; all the same by default.
    """
    keys = np.zeros(len(rows), KEYS)
    both = hashed(texts)
    keys["high"], keys["low"], keys["row"] = both[:, 0], both[:, 1], rows
    if labels is not None:
        keys["label"] = hashed(labels)[:, 0]
    return keys


def write_keys(path: Path, parts: Sequence[Keys]) -> None:
    """The keys of a partition, sorted, as a `.npy` file."""
    keys = np.concatenate(parts) if parts else np.zeros(0, KEYS)
    with whole_file(path) as part, part.open("wb") as stream:
        np.save(stream, keys[np.argsort(keys["high"], kind="stable")])


def repeated(files: Sequence[Path | None], range_rows: int = RANGE_ROWS) -> Iterator[NDArray[np.void]]:
    """Rows whose key another row before them has, range by range.

    Args:
        files: Of `write_keys`, one per partition in order; None for a partition without one.
        range_rows: About how many keys are compared at a time.

    Yields:
        An array of `REPEATS`, by partition and row: each row that repeats another, and the row that stays. That is the
        first one with the most common label of those with the same key, as in `datadiet.data.duplicates`.
    """
    tables = [None if path is None else np.load(path, mmap_mode="r", allow_pickle=False) for path in files]
    rows = sum(len(table) for table in tables if table is not None)
    number = max(1, -(-rows // range_rows))
    bounds = [(step << 64) // number for step in range(1, number)]
    ends = [
        None if table is None else np.r_[0, np.searchsorted(table["high"], np.array(bounds, np.uint64)), len(table)]
        for table in tables
    ]
    for place in range(number):
        pieces = [
            (part, np.asarray(table[end[place] : end[place + 1]]))
            for part, (table, end) in enumerate(zip(tables, ends, strict=True))
            if table is not None and end is not None and end[place] < end[place + 1]
        ]
        if pieces:
            keys = np.concatenate([piece for _, piece in pieces])
            owners = np.repeat([part for part, _ in pieces], [len(piece) for _, piece in pieces]).astype(np.uint32)
            yield _repeats(keys, owners)


def _repeats(keys: Keys, owners: NDArray[np.uint32]) -> NDArray[np.void]:
    order = np.lexsort((keys["row"], owners, keys["label"], keys["low"], keys["high"]))
    keys, owners = keys[order], owners[order]
    new = (keys["high"][1:] != keys["high"][:-1]) | (keys["low"][1:] != keys["low"][:-1])
    if new.all():
        return np.zeros(0, REPEATS)
    group = np.r_[0, np.cumsum(new)]
    # runs of one key and one label; the first row of each is its first one in order
    starts = np.flatnonzero(np.r_[True, new | (keys["label"][1:] != keys["label"][:-1])])
    counts = np.diff(np.r_[starts, len(keys)])
    best = np.lexsort((keys["row"][starts], owners[starts], -counts, group[starts]))
    firsts = np.r_[True, np.diff(group[starts][best]) != 0]
    kept = starts[best[firsts]]  # the place of the row that stays, by group
    of = kept[group]
    again = np.flatnonzero(of != np.arange(len(keys)))
    repeats = np.zeros(len(again), REPEATS)
    repeats["part"], repeats["row"] = owners[again], keys["row"][again]
    repeats["kept_part"], repeats["kept_row"] = owners[of[again]], keys["row"][of[again]]
    return np.sort(repeats, order=("part", "row"))


def repeats_of(files: Sequence[Path], part: int) -> NDArray[np.void]:
    """The repeats of one partition from files with arrays of `REPEATS`, by row.

    Args:
        files: `.npy`, one per range.
        part: Number of the partition.
    """
    found = [np.zeros(0, REPEATS)]
    for path in files:
        table = np.load(path, mmap_mode="r", allow_pickle=False)
        begin, end = np.searchsorted(table["part"], [part, part + 1])
        found.append(np.asarray(table[begin:end]))
    return np.sort(np.concatenate(found), order="row")
