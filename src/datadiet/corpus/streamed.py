"""Selection over values that stay on the disk: an exact count, the same rows as the selector in memory, little memory.

A selector that ranks takes the rows with the largest keys, ties by a hash. Its cut is found in a few passes: a
histogram over 16 bits of the sortable form of the keys leaves one bin, the next pass looks at the next 16 bits inside
it, and once few enough keys are left they are sorted. Ties at the cut are broken by the hashes of their places in the
same way. So any number of rows needs the memory of one partition and of some histograms.

A *place* is the number of a row among those that may be chosen, in the order of the partitions: what its row number is
in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datadiet.errors import ArgumentError, DataError, Problems
from datadiet.registry import find, problems_of, selectors_in
from datadiet.selectors.base import crowded, mix, row_hash
from datadiet.selectors.groups import shared_places
from datadiet.selectors.quotas import shares_problems
from datadiet.selectors.ranked import check_room

_DIGIT = 16  # bits of a key that one pass looks at
_FEW = 1 << 20  # keys that are sorted at once
_RANDOM_STREAM, _PROPORTIONAL_STREAM = 1, 4  # of the generators of `selectors.sampled`
# with the options that they read here
STREAMING: Mapping[str, tuple[str, ...]] = {
    "hardest": ("offset",),
    "easiest": (),
    "window": ("offset",),
    "random": (),
    "proportional": ("scaling", "least", "temperature"),
    "balanced": ("select",),
    "partly_balanced": ("select", "balance"),
    "quota": ("select", "shares"),
}
_WITH_FLOOR = ("hardest", "easiest")
Mask = NDArray[np.bool_]
Bits = NDArray[np.unsignedinteger[Any]]


@dataclass(frozen=True)
class Values:
    """Values of many rows, partition by partition, of those that may be chosen.

    Attributes:
        sizes: Rows of each partition.
        values: Float values of a partition, `(size,)`; read anew whenever they are needed.
        groups: Group numbers of a partition, `(size,)`, and the names that they stand for in this partition; None where
            rows have no groups.
    """

    sizes: Sequence[int]
    values: Callable[[int], NDArray[np.floating[Any]]]
    groups: Callable[[int], tuple[NDArray[np.integer[Any]], Sequence[str]]] | None = None

    @property
    def rows(self) -> int:
        """Of all partitions."""
        return sum(self.sizes)


@dataclass(frozen=True)
class Kept:
    """Which rows are kept.

    Attributes:
        count: Their number, exact.
        masks: Partition by partition, where a row is kept; can be gone through again.
        groups: Rows and kept rows of each group by name; empty where there are no groups.
    """

    count: int
    masks: Callable[[], Iterator[Mask]]
    groups: Mapping[str, tuple[int, int]] = field(default_factory=dict)


def streaming_problems(select: str, options: Mapping[str, Any], floor: int) -> list[str]:
    """Why a selector cannot choose from partitions; nothing where it can.

    Examples:
        >>> streaming_problems("k_center", {}, 0)[0][:70]
        'the selector k_center needs all rows in memory at once; these stream: '
    """
    problems = Problems()
    if select not in STREAMING:
        if find("select", select) is None:
            return []  # reported by the common checks
        problems.add(f"the selector {select} needs all rows in memory at once; these stream: {', '.join(STREAMING)}.")
        return problems.found
    problems.found += (wrong := problems_of("select", select, options))
    inner = options.get("select", "hardest")
    if select in ("balanced", "partly_balanced", "quota") and inner not in _WITH_FLOOR:
        problems.add(f"the option select of {select} must be hardest or easiest to stream, got {inner}.")
    elif not wrong:
        known = [option for method, _ in selectors_in(select, options) for option in method.options.values()]
        usual = {option.name: option.default for option in known if option.name not in STREAMING[select]}
        for name in [name for name, value in options.items() if name in usual and value != usual[name]]:
            problems.add(f"{name} of {select} has no effect on a corpus, got {options[name]}: leave it out.")
        problems.found += shares_problems(options.get("shares")) if select == "quota" else []
    if floor and (select not in _WITH_FLOOR or options.get("offset")):
        problems.add(f"a floor streams with {' and '.join(_WITH_FLOOR)} without an offset only, got {select}.")
    return problems.found


def choose(
    values: Values, count: int, select: str, options: Mapping[str, Any] | None = None, *, floor: int = 0, seed: int = 0
) -> Kept:
    """The rows that `datadiet.selectors` would keep of the same values in memory, at epoch 0.

    Args:
        values: Finite; NaN is refused.
        count: How many, in [1, rows].
        select: One of `STREAMING`.
        options: Of the selector.
        floor: Least rows of each group, or the whole group.
        seed: Of ties and draws.

    Returns:
        Exactly `count` rows.

    Raises:
        ArgumentError: If options do not fit.
        DataError: For NaN.
    """
    own = dict(options or {})
    problems = Problems()
    problems.found += streaming_problems(select, own, floor)
    if not 1 <= count <= values.rows:
        problems.add(f"count must be from 1 to {values.rows:,}, the rows that may be chosen, got {count:,}.")
    grouped = floor or select in ("balanced", "partly_balanced", "quota")
    problems.check(not grouped or values.groups is not None, f"{select if not floor else 'a floor'} needs groups.")
    problems.raise_any()
    coded = None if values.groups is None else _coded(values)
    easy = select == "easiest" or own.pop("select", "hardest") == "easiest"
    stream, kept = _Stream(values, coded, *_keys_of(values, select, own, easy, seed)), None
    if select in ("balanced", "quota"):
        assert coded is not None  # grouped
        shares = np.ones(len(coded.names)) if select == "balanced" else _shares(own.get("shares"), coded)
        kept = shared_places(coded.sizes, shares, count)
        cuts = [_by_group(stream, kept, seed)]
    elif floor or select == "partly_balanced":
        assert coded is not None
        floors = np.minimum(coded.sizes, floor)
        if select == "partly_balanced":
            exact = own.get("balance", 0.5) * count * coded.sizes / values.rows
            floors = np.floor(np.round(exact, 9)).astype(np.int64)
        elif (needed := int(floors.sum())) > count:
            raise ArgumentError(crowded(floor, int(np.count_nonzero(coded.sizes)), needed, count))
        cuts = _with_floors(stream, count, floors, seed)
    else:
        offset = float(own.get("offset", 0.0))
        if select == "window" and not offset:
            raise ArgumentError("window needs an offset above 0, e.g. offset=0.05; without one it is hardest.")
        check_room("an offset", count, offset, values.rows)
        excluded = round(offset * values.rows) if count < values.rows else 0
        cuts = [stream.top(count + excluded, seed)]
        cuts += [stream.top(excluded, seed, sign=-1)] if excluded else []
    masks = _Masks(stream, cuts)
    if coded is None:
        return Kept(count, masks)
    kept = stream.counted(masks) if kept is None else kept
    triples = zip(coded.names, coded.sizes.tolist(), kept.tolist(), strict=True)
    return Kept(count, masks, {name: (size, number) for name, size, number in triples})


# ---- groups


@dataclass(frozen=True)
class _Coded:
    """Groups as numbers in the order of their names, as in memory."""

    names: list[str]
    sizes: NDArray[np.int64]
    groups: Callable[[int], tuple[NDArray[np.integer[Any]], Sequence[str]]]

    def codes(self, part: int) -> NDArray[np.int64]:
        """The group number of each row of a partition."""
        own, named = self.groups(part)
        places = {name: number for number, name in enumerate(self.names)}
        numbers: NDArray[np.int64] = np.array([places.get(name, -1) for name in named] or [0], np.int64)[own]
        return numbers


def _coded(values: Values) -> _Coded:
    assert values.groups is not None
    counts: dict[str, int] = {}
    for part in range(len(values.sizes)):
        own, named = values.groups(part)
        for name, size in zip(named, np.bincount(own, minlength=len(named)).tolist(), strict=True):
            counts[name] = counts.get(name, 0) + size
    ordered = sorted(name for name, size in counts.items() if size)
    return _Coded(ordered, np.array([counts[name] for name in ordered], np.int64), values.groups)


def _shares(shares: Mapping[Any, Any] | None, coded: _Coded) -> NDArray[np.float64]:
    if shares is None:
        return coded.sizes.astype(np.float64)
    by_name = {str(name): float(value) for name, value in shares.items()}
    missing = [name for name in coded.names if name not in by_name]
    if missing:
        raise ArgumentError(f"shares must name every group; missing: {', '.join(map(repr, missing[:10]))}.")
    return np.array([by_name[name] for name in coded.names])


# ---- keys


_Keys = Callable[[], Iterator[Bits]]


def sortable(keys: NDArray[np.floating[Any]]) -> Bits:
    """Whole numbers in the order of floats, unsigned and as wide as the floats.

    Examples:
        >>> bits = sortable(np.float32([-np.inf, -1, -0.0, 0.0, 2, np.inf]))
        >>> bool((np.diff(bits.astype(np.int64)) >= 0).all()), int(bits[2] == bits[3])
        (True, 1)
    """
    width = keys.dtype.itemsize * 8
    plain: NDArray[Any] = (keys + keys.dtype.type(0)).view(np.uint32 if width == 32 else np.uint64)  # -0.0 + 0 is 0.0
    flipped: Bits = -(plain >> plain.dtype.type(width - 1))  # all bits of a negative number, else none
    flipped |= plain.dtype.type(1 << (width - 1))
    flipped ^= plain
    return flipped


def _keys_of(values: Values, select: str, options: Mapping[str, Any], easy: bool, seed: int) -> tuple[_Keys, int]:
    """The keys of a selector partition by partition, largest first chosen, and their bits."""
    if select == "random":
        return lambda: _drawn(values, seed), 32
    if select == "proportional":
        return _proportional(values, options, seed), 64
    width = 32

    def keys() -> Iterator[Bits]:
        for part in range(len(values.sizes)):
            own = _checked(values, part)
            yield sortable(-own if easy else own)

    if values.sizes:
        width = values.values(0).dtype.itemsize * 8
    return keys, width


def _checked(values: Values, part: int) -> NDArray[np.floating[Any]]:
    own = values.values(part)
    if len(own) != values.sizes[part]:
        raise DataError(f"partition {part} has {len(own)} values for {values.sizes[part]} rows; score again.")
    if np.isnan(own).any():
        raise DataError(f"values must be numbers, got NaN in partition {part}; score again.")
    return own


def _drawn(values: Values, seed: int) -> Iterator[Bits]:
    """The keys of the selector `random`: one stream over all rows, in parts."""
    generator = np.random.default_rng([seed, 0, _RANDOM_STREAM])
    for size in values.sizes:
        yield sortable(generator.random(size, dtype=np.float32))


def _proportional(values: Values, options: Mapping[str, Any], seed: int) -> _Keys:
    """The keys of the selector `proportional`: the log of a weight with Gumbel noise."""
    low, high = np.inf, -np.inf
    linear, least = options.get("scaling", "linear") == "linear", float(options.get("least", 0.01))
    for part in range(len(values.sizes)) if linear else ():
        own = _checked(values, part)
        if own.size:
            low, high = min(low, float(own.min())), max(high, float(own.max()))
    span = high - low

    def keys() -> Iterator[Bits]:
        generator = np.random.default_rng([seed, 0, _PROPORTIONAL_STREAM])
        for part, size in enumerate(values.sizes):
            numbers = _checked(values, part).astype(np.float64)
            if not linear:
                logs = numbers / float(options.get("temperature", 1.0))
            else:
                logs = np.log(least + (1 - least) * (numbers - low) / span) if span > 0 else np.zeros(size)
            yield sortable(logs - np.log(generator.standard_exponential(size)))

    return keys


# ---- cuts


@dataclass(frozen=True)
class _Cuts:
    """The first rows of each segment; a segment is some groups, and a row is in one segment or in none.

    Attributes:
        segments: The segment of each group, -1 for none; None where all rows are one segment.
        keys, hashes: uint64 by segment: rows above the key are in, and those at it whose hash is at most this.
        whole: By segment, whether all rows are in (1), none (-1), or the bounds count (0).
        seeds: Of the hashes, which are of the places among the rows of the segment, as they are in memory.
        sign: 1 where the rows are added, -1 where they are taken away.
    """

    segments: NDArray[np.int64] | None
    keys: NDArray[np.uint64]
    hashes: NDArray[np.uint64]
    whole: NDArray[np.int8]
    seeds: Sequence[int]
    sign: int = 1


@dataclass(frozen=True)
class _Stream:
    """Keys and groups of all rows."""

    values: Values
    coded: _Coded | None
    keys: _Keys
    width: int

    def rows(self, segments: NDArray[np.int64] | None) -> Iterator[tuple[Bits, NDArray[np.int64] | None]]:
        """Partition by partition, the keys and the segment of each row; None where all are in segment 0."""
        for part, bits in enumerate(self.keys()):
            if segments is None:
                yield bits, None
            else:
                assert self.coded is not None
                yield bits, segments[self.coded.codes(part)]

    def counted(self, masks: Callable[[], Iterator[Mask]]) -> NDArray[np.int64]:
        """How many rows of each group some masks hold."""
        assert self.coded is not None
        kept = np.zeros(len(self.coded.names), np.int64)
        for part, mask in enumerate(masks()):
            kept += np.bincount(self.coded.codes(part)[mask], minlength=len(kept))
        return kept

    def top(self, count: int, seed: int, groups: Mask | None = None, sign: int = 1) -> _Cuts:
        """The cut of the `count` largest keys of all rows, or of those in some groups."""
        if groups is None:
            return self.tops(None, np.array([self.values.rows]), np.array([count]), [seed], sign)
        assert self.coded is not None
        segments = np.where(groups, 0, -1).astype(np.int64)
        return self.tops(segments, np.array([self.coded.sizes[groups].sum()]), np.array([count]), [seed], sign)

    def tops(
        self,
        segments: NDArray[np.int64] | None,
        sizes: NDArray[np.int64],
        counts: NDArray[np.int64],
        seeds: Sequence[int],
        sign: int = 1,
    ) -> _Cuts:
        """The cut of the largest keys of each segment, with exactly so many rows in each."""
        whole = np.where(counts <= 0, -1, np.where(counts >= sizes, 1, 0)).astype(np.int8)
        open_ = whole == 0
        keys, hashes = np.zeros(len(sizes), np.uint64), np.full(len(sizes), _LAST, np.uint64)
        if not open_.any():
            return _Cuts(segments, keys, hashes, whole, seeds, sign)

        def opened() -> Iterator[_Part]:
            for bits, own in self.rows(segments):
                inside = None if own is None else np.flatnonzero((own >= 0) & open_[own])
                yield (bits, None) if own is None or inside is None else (bits[inside], own[inside])

        keys, missing, ties = _nths(opened, np.where(open_, counts, 0), self.width)
        torn = open_ & (missing < ties)
        if torn.any():

            def tied() -> Iterator[_Part]:
                for own, _, hashes_of in self.ties(_Cuts(segments, keys, hashes, whole, seeds)):
                    inside = np.flatnonzero(torn[own])
                    yield ~hashes_of[inside], own[inside]

            last = _nths(tied, np.where(torn, missing, 0), 64)[0]
            hashes = np.where(torn, ~last, _LAST).astype(np.uint64)
        return _Cuts(segments, keys, hashes, whole, seeds, sign)

    def ties(self, cuts: _Cuts) -> Iterator[_Ties]:
        """Partition by partition, the rows at the key of their segment."""
        begin = np.zeros(len(cuts.whole), np.int64)
        for bits, own in self.rows(cuts.segments):
            yield _ties(cuts, bits, own, begin)


_LAST = np.uint64((1 << 64) - 1)
_FEW_TIED = 16  # segments of a partition with rows at their cut, whose rows are counted one segment at a time
_Part = tuple[Bits, NDArray[np.int64] | None]  # keys, and the segment of each; None where all are in segment 0
_Ties = tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.uint64]]  # segments, rows in the partition, hashes


def _ties(cuts: _Cuts, bits: Bits, own: NDArray[np.int64] | None, begin: NDArray[np.int64]) -> _Ties:
    """The rows of a partition at the key of their segment; `begin`, the rows of each segment before, is moved on."""
    if own is None:
        at = np.flatnonzero(bits == cuts.keys[0].astype(bits.dtype)) if cuts.whole[0] == 0 else np.zeros(0, np.int64)
        hashes = row_hash(at + begin[0], seed=cuts.seeds[0], epoch=0)
        begin += len(bits)
        return np.zeros(len(at), np.int64), at, hashes
    at = np.flatnonzero((own >= 0) & (cuts.whole[own] == 0) & (bits == cuts.keys[own]))
    hashes, tied = np.empty(len(at), np.uint64), np.unique(own[at]).tolist()
    ranks = _ranks(own, len(begin)) if len(tied) > _FEW_TIED else None  # all at once costs a sort
    for segment in tied:
        some = own[at] == segment
        rows = at[some]
        places = np.searchsorted(np.flatnonzero(own == segment), rows) if ranks is None else ranks[rows]
        hashes[some] = row_hash(places + begin[segment], seed=cuts.seeds[segment], epoch=0)
    begin += np.bincount(own[own >= 0], minlength=len(begin))
    return own[at], at, hashes


def _ranks(segments: NDArray[np.int64], number: int) -> NDArray[np.int64]:
    """The place of each row among those of its segment in this partition."""
    order = np.argsort(segments, kind="stable")
    sizes = np.bincount(segments + 1, minlength=number + 1)
    ranks = np.empty(len(segments), np.int64)
    ranks[order] = np.arange(len(segments)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return ranks


def _nths(
    parts: Callable[[], Iterator[_Part]], counts: NDArray[np.int64], width: int
) -> tuple[NDArray[np.uint64], NDArray[np.int64], NDArray[np.int64]]:
    """The `counts`-th largest key of each segment, how many rows at it are among the largest, and how many there are.

    Segments with a count of 0 are left aside.
    """
    number, missing = len(counts), counts.copy()
    asked = np.flatnonzero(counts > 0).tolist()
    prefix, ties = np.zeros(number, np.uint64), np.zeros(number, np.int64)
    digit = _DIGIT if number <= 64 else 12 if number <= 1024 else 8
    above = width  # keys whose bits from here on are the prefix of their segment are looked at
    while above:
        shift = max(0, above - digit)
        bins = 1 << (above - shift)
        histogram = np.zeros(number * bins, np.int64)
        for bits, own in _matching(parts(), prefix, above, width):
            digits = ((bits >> bits.dtype.type(shift)) & bits.dtype.type(bins - 1)).astype(np.int64)
            histogram += np.bincount(digits if own is None else own * bins + digits, minlength=len(histogram))
        from_top = np.cumsum(histogram.reshape(number, bins)[:, ::-1], axis=1)
        for segment in asked:
            place = int(np.searchsorted(from_top[segment], missing[segment]))
            ties[segment] = histogram[segment * bins + bins - 1 - place]
            missing[segment] -= from_top[segment, place] - ties[segment]
            prefix[segment] = (prefix[segment] << np.uint64(above - shift)) | np.uint64(bins - 1 - place)
        above = shift
        if above and ties[asked].sum() <= _FEW:
            few = list(_matching(parts(), prefix, above, width))
            bits = np.concatenate([one for one, _ in few])
            own = np.concatenate([np.zeros(len(one), np.int64) if of is None else of for one, of in few])
            for segment in asked:
                left = np.sort(bits[own == segment])[::-1]
                prefix[segment] = key = left[missing[segment] - 1]
                missing[segment] -= np.count_nonzero(left > key)
                ties[segment] = np.count_nonzero(left == key)
            break
    return prefix, missing, ties


def _matching(parts: Iterator[_Part], prefix: NDArray[np.uint64], above: int, width: int) -> Iterator[_Part]:
    """The keys that begin with the prefix of their segment."""
    for bits, own in parts:
        if above == width:
            yield bits, own
            continue
        begins = (prefix[0] if own is None else prefix[own]).astype(bits.dtype)
        same = np.flatnonzero((bits >> bits.dtype.type(above)) == begins)
        yield bits[same], None if own is None else own[same]


@dataclass(frozen=True)
class _Masks:
    """The rows that some cuts leave, partition by partition."""

    stream: _Stream
    cuts: Sequence[_Cuts]

    def __call__(self) -> Iterator[Mask]:
        begins = [np.zeros(len(cut.whole), np.int64) for cut in self.cuts]
        grouped = any(cut.segments is not None for cut in self.cuts)
        for part, bits in enumerate(self.stream.keys()):
            mask: Mask | None = None
            codes = None
            if grouped:
                assert self.stream.coded is not None
                codes = self.stream.coded.codes(part)
            for cut, begin in zip(self.cuts, begins, strict=True):
                own = None if cut.segments is None or codes is None else cut.segments[codes]
                segments, at, hashes = _ties(cut, bits, own, begin)
                if own is None:
                    first = cut.keys[0].astype(bits.dtype)
                    inside = bits > first if cut.whole[0] == 0 else np.full(len(bits), cut.whole[0] > 0)
                else:
                    inside = (own >= 0) & np.where(cut.whole[own] == 0, bits > cut.keys[own], cut.whole[own] > 0)
                inside[at] = hashes <= cut.hashes[segments]
                mask = inside if mask is None else mask | inside if cut.sign > 0 else mask & ~inside
            assert mask is not None  # there is at least one cut
            yield mask


def _by_group(stream: _Stream, places: NDArray[np.int64], seed: int) -> _Cuts:
    """The first rows of every group, as many as it has places."""
    assert stream.coded is not None
    number = len(places)
    return stream.tops(np.arange(number), stream.coded.sizes, places, [mix(seed, group) for group in range(number)])


def _with_floors(stream: _Stream, count: int, floors: NDArray[np.int64], seed: int) -> list[_Cuts]:
    """The first rows, but at least so many of every group; see `datadiet.selectors.groups.top_with_floors`."""
    at_floor = np.zeros(len(floors), np.bool_)
    first: list[_Cuts] = []
    while places := count - int(floors[at_floor].sum()):
        first = [stream.top(places, seed, None if not at_floor.any() else ~at_floor)]
        short = ~at_floor & (stream.counted(_Masks(stream, first)) < floors)
        if not short.any():
            break
        at_floor |= short
        first = []
    if not at_floor.any():
        return first
    return [*first, _by_group(stream, np.where(at_floor, floors, 0), seed)]
