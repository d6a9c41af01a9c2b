"""A split as the user has it: every column and row, nothing interpreted, so that some rows can be written out again."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from datadiet.checks import ArgumentError, DataError
from datadiet.data.decoding import read_bytes
from datadiet.data.parquet import class_names, decode_classes
from datadiet.data.readers import read_named, read_seq_folder, unpacked
from datadiet.data.tables import Table, listed

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Original:
    """A split with all its columns: as records, or as an Arrow table where its types and class names would be lost.

    Attributes:
        place: As the user knows it, for messages.
        names: Of the columns, in order.
        records: One mapping per row, without the columns that a row has not; None for a table.
        table: A pyarrow table, with what the `datasets` library has written beside; None for records.

    Example:
        >>> split = Original("train.jsonl", ("text", "label"), [{"text": "good", "label": 1}, {"text": "bad"}])
        >>> split.take([1]).with_column("el2n", [0.5]).as_records()
        [{'text': 'bad', 'el2n': 0.5}]
    """

    place: str
    names: tuple[str, ...]
    records: Sequence[Record] | None = None
    table: Any = None

    def __len__(self) -> int:
        return len(self.records) if self.records is not None else self.table.num_rows

    def take(self, rows: Sequence[int]) -> Original:
        """The given rows (positions from 0), in the given order."""
        if self.records is not None:
            return replace(self, records=[self.records[row] for row in rows])
        import pyarrow as pa

        return replace(self, table=self.table.take(pa.array(rows, pa.int64())))

    def with_column(self, name: str, values: Sequence[float]) -> Original:
        """With one more column of numbers, float32 in a table.

        Raises:
            ArgumentError: If there is a column of that name.
        """
        if name in self.names:
            raise ArgumentError(f"{self.place} has a column {name!r} already: no other of that name can be added.")
        names = (*self.names, name)
        if self.records is not None:
            added = [{**record, name: value} for record, value in zip(self.records, values, strict=True)]
            return replace(self, names=names, records=added)
        import pyarrow as pa

        return replace(self, names=names, table=self.table.append_column(name, pa.array(values, pa.float32())))

    def as_records(self) -> list[dict[str, Any]]:
        """Rows for formats of text; class numbers become names, since such a file cannot hold the names beside."""
        if self.records is not None:
            return [dict(record) for record in self.records]
        named = class_names(self.table.schema.metadata or {})
        columns = {
            name: decode_classes(values, named[name]) if name in named else values
            for name, values in ((name, self.table[name].to_pylist()) for name in self.names)
        }
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]

    def as_arrow(self) -> Any:
        """A pyarrow table; what a row has not is null.

        Raises:
            DataError: For columns whose values are of several types, all at once.
        """
        if self.records is None:
            return self.table
        import pyarrow as pa

        columns, mixed = {}, []
        for name in self.names:
            try:
                columns[name] = pa.array([record.get(name) for record in self.records])
            except (pa.ArrowException, OverflowError):
                mixed.append(name)
        if mixed:
            raise DataError(
                f"{self.place}: {listed(mixed)} holds values of several types, which Parquet and saved `datasets` "
                "cannot; choose an --output that ends in .jsonl."
            )
        return pa.table(columns)


# ---- reading ----


def original_file(path: Path) -> Original:
    """A data file by its ending.

    Raises:
        DataError: If it cannot be read.
    """
    return original_named(read_bytes(path), path.name, str(path))


def original_entry(entry: Path) -> Original:
    """A data file, or a folder with `seq.in`."""
    return _of_table(read_seq_folder(entry)) if entry.is_dir() else original_file(entry)


def original_named(data: bytes, file: str, place: str) -> Original:
    """The content of a data file whose name has a known ending."""
    plain, kind = unpacked(data, file, place)
    if kind == "parquet":
        return _parquet(plain, place)
    if kind in ("jsonl", "json"):
        return _json(plain, place)
    return _of_table(read_named(data, file, place))


def original_split(split: Any, place: str) -> Original:
    """A split of the `datasets` library, with its features."""
    table = split.with_format("arrow")[:]
    table = table.cast(split.features.arrow_schema)
    return Original(place, tuple(table.column_names), table=table)


def _parquet(data: bytes, place: str) -> Original:
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pq.ParquetFile(pa.BufferReader(data)).read()
    return Original(place, tuple(table.column_names), table=table)


def _json(data: bytes, place: str) -> Original:
    """JSON lines or an array of objects, which the readers have found to be sound."""
    text = data.decode("utf-8-sig")
    is_array = text.lstrip().startswith("[")
    records = json.loads(text) if is_array else [json.loads(line) for line in text.split("\n") if line.strip()]
    return Original(place, tuple(dict.fromkeys(name for record in records for name in record)), records)


def _of_table(table: Table) -> Original:
    names = tuple(table.columns)
    rows = zip(*table.columns.values(), strict=True)
    return Original(table.place, names, [dict(zip(names, row, strict=True)) for row in rows])
