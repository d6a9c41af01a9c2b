"""Parquet files to tables, with the class names that the `datasets` library writes beside."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from datadiet.checks import DataError
from datadiet.data.tables import Table


def read_parquet(data: bytes, place: str) -> Table:
    """A Parquet file; class numbers become names where `datasets` has written them beside.

    Raises:
        DataError: If it is no Parquet file.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.ParquetFile(pa.BufferReader(data)).read()
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"{place}: not a readable Parquet file ({reason}); write it again.") from error
    named = class_names(table.schema.metadata or {})
    columns = {name: table[name].to_pylist() for name in dict.fromkeys(table.column_names)}
    columns |= {name: decode_classes(columns[name], names) for name, names in named.items() if name in columns}
    return Table(place, columns, table.num_rows)


def class_names(metadata: Mapping[bytes, bytes]) -> dict[str, list[str]]:
    """Class names by column, from the schema metadata that the `datasets` library writes."""
    features = json.loads(metadata.get(b"huggingface", b"{}")).get("info", {}).get("features") or {}
    inner = {name: held.get("feature", held) for name, held in features.items() if isinstance(held, dict)}
    return {name: held["names"] for name, held in inner.items() if isinstance(held, dict) and held.get("names")}


def decode_classes(values: Sequence[Any], names: Sequence[str]) -> list[Any]:
    """Class numbers, or lists of them, as names; a number of no class (-1) becomes None.

    Example:
        >>> decode_classes([1, -1, [0, 1]], ["no", "yes"])
        ['yes', None, ['no', 'yes']]
    """
    known = dict(enumerate(names))
    return [
        decode_classes(v, names) if isinstance(v, list) else known.get(v) if isinstance(v, int) else v for v in values
    ]
