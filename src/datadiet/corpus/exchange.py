"""What repeats in a corpus, found without holding it: sorted hashes per partition, compared a range at a time.

Every partition leaves a sorted array of 128-bit hashes on the disk. A range of hashes is read from all of them at once,
so that equal ones meet, and memory is bounded by the size of a range. At 10^9 rows two different texts have the same
hash with a probability of 10^-21.

Near duplicates are found as in `datadiet.data.duplicates`. A partition also leaves the n-grams of its rows, and for
each band of their signatures the sorted keys. Keys that meet give pairs, which lie on the disk too; they are compared a
range of rows at a time, in the order of the rows, so that the same rows stay as in memory.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datadiet.data.duplicates import band_keys, in_buckets, jaccard, joined_keys, ngram_sets
from datadiet.files import whole_file

RANGE_ROWS = 4_000_000  # hashes that are compared at a time, about
NEAR_ROWS = 1 << 20  # keys of a band, or rows with their pairs, that are compared at a time, about
_PAIRS = 1 << 15  # pairs whose n-grams are read at a time
KEYS = np.dtype([("high", "<u8"), ("low", "<u8"), ("label", "<u8"), ("row", "<u4")])
REPEATS = np.dtype([("part", "<u4"), ("row", "<u4"), ("kept_part", "<u4"), ("kept_row", "<u4")])
BANDS = np.dtype([("high", "<u8"), ("place", "<u4")])  # a key of a band, and the place of its row in the partition
PAIRS = np.dtype([("high", "<i8"), ("low", "<i8")])  # places in the corpus
NEAR = "near"
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
    for pieces in _ranges(files, range_rows):
        keys = np.concatenate([piece for _, piece in pieces])
        yield _repeats(keys, _owners(pieces))


def _owners(pieces: Sequence[tuple[int, NDArray[np.void]]]) -> NDArray[np.uint32]:
    return np.repeat([part for part, _ in pieces], [len(piece) for _, piece in pieces]).astype(np.uint32)


def _ranges(files: Sequence[Path | None], range_rows: int) -> Iterator[list[tuple[int, NDArray[np.void]]]]:
    """The rows of each range of hashes by partition; files are sorted by `high`, and open while they are read."""
    rows = sum(len(_opened(path)) for path in files if path is not None)
    number = max(1, -(-rows // range_rows))
    bounds = np.array([(step << 64) // number for step in range(1, number)], np.uint64)
    ends = [None if path is None else _ends(_opened(path)["high"], bounds) for path in files]
    for place in range(number):
        pieces = [
            (part, np.array(_opened(path)[end[place] : end[place + 1]]))
            for part, (path, end) in enumerate(zip(files, ends, strict=True))
            if path is not None and end is not None and end[place] < end[place + 1]
        ]
        if pieces:
            yield pieces


def _ends(values: NDArray[Any], bounds: NDArray[Any]) -> NDArray[np.int64]:
    return np.concatenate([[0], np.searchsorted(values, bounds), [len(values)]]).astype(np.int64)


def _opened(path: Path) -> NDArray[Any]:
    array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    return array


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


# ---- near duplicates


class NearRows:
    """What a partition leaves for near duplicates, gathered batch by batch.

    Args:
        threshold: Least Jaccard similarity of two rows; None gathers nothing.
    """

    def __init__(self, threshold: float | None) -> None:
        self._threshold, self._count = threshold, 0
        self._rows: list[NDArray[Any]] = []
        self._labels: list[NDArray[Any]] = []
        self._sizes: list[NDArray[Any]] = []
        self._sets: list[NDArray[Any]] = []
        self._bands: list[list[NDArray[np.void]]] = []

    def add(
        self, texts: Sequence[tuple[str, str]], rows: NDArray[np.int64], labels: Sequence[Hashable] | None = None
    ) -> None:
        """Some rows more; see `keys_of`."""
        if self._threshold is None:
            return
        sets = ngram_sets(joined_keys(texts))
        sizes = np.diff(sets.indptr)
        full = np.flatnonzero(sizes)  # texts without n-grams are like nothing
        bands = []
        for keys in band_keys(sets, self._threshold):
            band = np.zeros(len(full), BANDS)
            band["high"], band["place"] = keys[full], full + self._count
            bands.append(band)
        self._bands.append(bands)
        self._count += len(rows)
        self._rows.append(rows.astype(np.uint32))
        self._labels.append(np.zeros(len(rows), np.uint64) if labels is None else hashed(labels)[:, 0])
        self._sizes.append(sizes)
        self._sets.append(sets.indices.astype(np.uint32))

    def write(self, folder: Path) -> None:
        """Into a folder of the partition: rows, labels, n-grams with their ends, and a sorted file per band."""
        if self._threshold is None:
            return
        home = folder / NEAR
        home.mkdir()
        ends = np.r_[0, np.cumsum(_joined(self._sizes, np.int64))]
        np.save(home / "rows.npy", _joined(self._rows, np.uint32))
        np.save(home / "labels.npy", _joined(self._labels, np.uint64))
        np.save(home / "ends.npy", ends)
        np.save(home / "sets.npy", _joined(self._sets, np.uint32))
        for number in range(len(self._bands[0]) if self._bands else 0):
            band = np.concatenate([bands[number] for bands in self._bands])
            np.save(home / f"band-{number:02}.npy", band[np.argsort(band["high"], kind="stable")])


def _joined(parts: Sequence[NDArray[Any]], kind: Any) -> NDArray[Any]:
    return np.concatenate([np.zeros(0, kind), *parts])


def near_repeated(
    homes: Sequence[Path | None], exact: Iterable[Path], threshold: float, scratch: Path, rows_at_once: int = NEAR_ROWS
) -> Iterator[NDArray[np.void]]:
    """Rows that repeat another one before them, or nearly so; as `representatives` of `datadiet.data.duplicates` says.

    Args:
        homes: Folders in which `NearRows` were written, one per partition in order; None for one without.
        exact: Files with arrays of `REPEATS`, from `repeated`.
        threshold: With which the rows were gathered.
        scratch: An empty folder for pairs.
        rows_at_once: About how many keys are compared at a time.

    Yields:
        Arrays of `REPEATS`, by partition and row.
    """
    rows = _AllRows(homes)
    # the place of the row that stays for each row; on the disk, for it is the one array of all rows
    of = np.lib.format.open_memmap(scratch / "of.npy", "w+", np.int64, (max(1, rows.number),))
    for begin in range(0, rows.number, RANGE_ROWS):
        end = min(begin + RANGE_ROWS, rows.number)
        of[begin:end] = np.arange(begin, end)
    for path in exact:
        repeats = np.load(path, allow_pickle=False)
        of[rows.places(repeats["part"], repeats["row"])] = rows.places(repeats["kept_part"], repeats["kept_row"])
    files = list(_write_pairs(rows, of, scratch, rows_at_once))
    bounds = np.arange(rows_at_once, rows.number, rows_at_once)
    ends = [_ends(_opened(path)["high"], bounds) for path in files]
    for step in range(len(bounds) + 1):
        pieces = [np.array(_opened(path)[end[step] : end[step + 1]]) for path, end in zip(files, ends, strict=True)]
        _merge(rows, of, _distinct(_joined(pieces, PAIRS)), threshold)
    yield from rows.repeats(of)


class _AllRows:
    """The rows of all partitions, each by its place in the corpus."""

    def __init__(self, homes: Sequence[Path | None]) -> None:
        self.homes = [None if home is None else home / NEAR for home in homes]
        sizes = [0 if home is None else len(_opened(home / "rows.npy")) for home in self.homes]
        self.begins = np.r_[0, np.cumsum(sizes)]
        self.number = int(self.begins[-1])

    def places(self, parts: NDArray[np.uint32], rows: NDArray[np.uint32]) -> NDArray[np.int64]:
        """Of rows of files."""
        found = np.empty(len(parts), np.int64)
        for part, home, chosen in self._by_part(parts):
            found[chosen] = self.begins[part] + np.searchsorted(_opened(home / "rows.npy"), rows[chosen])
        return found

    def read(self, name: str, places: NDArray[np.int64]) -> NDArray[Any]:
        """What a file of the partitions has at some places."""
        found = np.empty(len(places), np.uint64)
        for part, home, chosen in self._by_part(self.parts(places)):
            found[chosen] = _opened(home / f"{name}.npy")[places[chosen] - self.begins[part]]
        return found

    def parts(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        return np.searchsorted(self.begins, places, side="right") - 1

    def sets(self, places: NDArray[np.int64]) -> Any:
        """The n-grams at ascending places, as from `ngram_sets`."""
        from scipy.sparse import csr_array

        sizes, indices = [], []
        for part, home, chosen in self._by_part(self.parts(places)):
            ends, sets = _opened(home / "ends.npy"), _opened(home / "sets.npy")
            own = places[chosen] - self.begins[part]
            begin, end = ends[own], ends[own + 1]
            sizes.append(end - begin)
            within = np.arange(sizes[-1].sum()) - np.repeat(np.cumsum(sizes[-1]) - sizes[-1], sizes[-1])
            indices.append(sets[np.repeat(begin, sizes[-1]) + within])
        inside = _joined(indices, np.uint32).astype(np.int32)
        ends = np.r_[0, np.cumsum(_joined(sizes, np.int64))]
        shape = (len(places), int(inside.max(initial=0)) + 1)
        return csr_array((np.ones(len(inside), np.float32), inside, ends), shape)

    def repeats(self, of: NDArray[np.int64]) -> Iterator[NDArray[np.void]]:
        """Rows that stand for no others, in arrays of `REPEATS`."""
        for begin in range(0, self.number, RANGE_ROWS):
            places = np.arange(begin, min(begin + RANGE_ROWS, self.number))
            kept = of[of[places]]  # a row that repeats one that is merged repeats the one that stays
            places, kept = places[kept != places], kept[kept != places]
            found = np.zeros(len(places), REPEATS)
            found["part"], found["row"] = self.parts(places), self.read("rows", places)
            found["kept_part"], found["kept_row"] = self.parts(kept), self.read("rows", kept)
            yield found

    def _by_part(self, parts: NDArray[Any]) -> Iterator[tuple[int, Path, NDArray[np.int64]]]:
        """Each partition that occurs, with where."""
        order = np.argsort(parts, kind="stable")
        names, starts = np.unique(parts[order], return_index=True)
        for part, chosen in zip(names.tolist(), np.split(order, starts)[1:], strict=True):
            home = self.homes[part]
            assert home is not None  # it has rows
            yield part, home, chosen


def _write_pairs(rows: _AllRows, of: NDArray[np.int64], scratch: Path, rows_at_once: int) -> Iterator[Path]:
    """Candidates of each band and range of keys, of rows that stay so far, by the later row."""
    names = sorted({path.name for home in rows.homes if home is not None for path in home.glob("band-*.npy")})
    for name in names:
        files = [None if home is None or not (home / name).is_file() else home / name for home in rows.homes]
        for step, pieces in enumerate(_ranges(files, rows_at_once)):
            places = np.concatenate([rows.begins[part] + piece["place"] for part, piece in pieces])
            keys = np.concatenate([piece["high"] for _, piece in pieces])
            staying = np.flatnonzero(of[places] == places)
            order = staying[np.argsort(places[staying])]
            low, high = in_buckets(keys[order])
            pairs = np.zeros(len(low), PAIRS)
            pairs["low"], pairs["high"] = places[order[low]], places[order[high]]
            path = scratch / f"{name.removesuffix('.npy')}-{step:05}.npy"
            np.save(path, _distinct(pairs))
            yield path


def _distinct(pairs: NDArray[np.void]) -> NDArray[np.void]:
    """Each pair once, by the later row, then the earlier one."""
    pairs = pairs[np.lexsort((pairs["low"], pairs["high"]))]
    new = (pairs["high"][1:] != pairs["high"][:-1]) | (pairs["low"][1:] != pairs["low"][:-1])
    return pairs[np.r_[np.ones(min(1, len(pairs)), np.bool_), new]]


def _merge(rows: _AllRows, of: NDArray[np.int64], pairs: NDArray[np.void], threshold: float) -> None:
    """Merge rows into the ones before them that they are like, from the first row to the last."""
    same = rows.read("labels", pairs["low"]) == rows.read("labels", pairs["high"])
    pairs = pairs[same]
    alike = np.zeros(len(pairs), np.bool_)
    for begin in range(0, len(pairs), _PAIRS):
        part = pairs[begin : begin + _PAIRS]
        places, where = np.unique(np.concatenate([part["low"], part["high"]]), return_inverse=True)
        low, high = np.split(where.ravel(), 2)
        alike[begin : begin + _PAIRS] = jaccard(rows.sets(places), low, high) >= threshold
    pairs = pairs[alike]
    pairs = pairs[of[pairs["low"]] == pairs["low"]]
    merged: dict[int, int] = {}
    for high, low in pairs.tolist():
        if high not in merged and low not in merged:
            merged[high] = low
    of[list(merged)] = list(merged.values())
