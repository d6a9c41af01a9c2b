"""A part of a table in pieces, so that it is never in memory as a whole."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pyarrow as pa

SLICE_ROWS = 16_384  # rows that are turned into Arrow and written at once


def slices(count: int) -> Iterator[slice]:
    """So many rows in pieces; of no rows, one empty piece."""
    return (slice(start, min(start + SLICE_ROWS, count)) for start in range(0, max(count, 1), SLICE_ROWS))


def text_array(keys: Iterable[object]) -> pa.Array:
    """Keys as an Arrow array of text, without a list of all of them."""
    import pyarrow as pa

    rest = iter(keys)
    pieces = [pa.array([], pa.string())]
    while piece := [str(key) for key in islice(rest, SLICE_ROWS)]:
        pieces.append(pa.array(piece, pa.string()))
    return pa.concat_arrays(pieces)
