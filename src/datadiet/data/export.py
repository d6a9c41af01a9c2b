"""The user's own rows written out again: every column of a split, uninterpreted, to a file or a saved folder.

Parquet and saved folders are written by pyarrow and `datasets`. The text formats are written here, because `to_json`
and `to_csv` of `datasets` go through pandas, which changes values: a key that a row lacks becomes null, integers beside
it become floats, lists become Python text, and quotes are doubled in tsv.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, time
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any, TextIO

from datadiet.data.readers import (
    arrow_values,
    open_parquet,
    read_json,
    read_named,
    read_seq_folder,
    read_tsv,
    unpacked,
)
from datadiet.data.tables import Table, first_line, listed, numbered_problem
from datadiet.errors import ArgumentError, DataError, quoted, unknown
from datadiet.files import GZ_LIMIT, read_bytes, whole_file, whole_folder
from datadiet.formatting import json_text

Record = Mapping[str, Any]
_HALF = r"half of a surrogate pair (such as \ud800), which is no character"


@dataclass(frozen=True)
class Original:
    """A split with all its columns: as records, or as an Arrow table, which keeps types and class names.

    Attributes:
        place: As the user knows it, for messages.
        names: Of the columns, in order.
        records: One mapping per row, without the columns that the row lacks; None for a table.
        table: A pyarrow table with the metadata of the `datasets` library; None for records.

    Examples:
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
            raise ArgumentError(
                f"{self.place} has a column {quoted(name)} already: rename it to add another of that name."
            )
        names = (*self.names, name)
        if self.records is not None:
            added = [{**record, name: value} for record, value in zip(self.records, values, strict=True)]
            return replace(self, names=names, records=added)
        import pyarrow as pa

        return replace(self, names=names, table=self.table.append_column(name, pa.array(values, pa.float32())))

    def column(self, name: str, rows: Sequence[int], option: str = "column") -> list[Any]:
        """The values of a column in the given rows (positions from 0); class numbers as names.

        Args:
            name: Of the column.
            rows: In any order.
            option: What named it, for errors.

        Raises:
            DataError: If there is no such column, or a row has no value in it; rows are named.

        Examples:
            >>> Original("train.jsonl", ("year",), [{"year": 1999}, {"year": 2004}]).column("year", [1])
            [2004]
        """
        import numpy as np  # the command line writes predictions, and starts without it

        from datadiet.geometry import named_rows

        if name not in self.names:
            raise DataError(f"{self.place}: {unknown(option, name, self.names)}")
        if self.records is not None:
            values = [self.records[row].get(name) for row in rows]
        else:
            of_all = arrow_values(partial(self.table.column, name), name, self.table.schema.metadata or {}, self.place)
            values = [of_all[row] for row in rows]
        empty = np.asarray([place for place, value in enumerate(values) if value is None or value == ""], np.int64)
        if empty.size:
            where = named_rows(np.asarray(rows, np.int64)[empty], len(rows), None)
            raise DataError(
                f"{self.place}: {option} {quoted(name)} must have a value in every row, got none in {where}."
            )
        return values

    def as_records(self) -> list[dict[str, Any]]:
        """Rows for text formats; class numbers become names, because a text file has no metadata for the names."""
        if self.records is not None:
            return [dict(record) for record in self.records]
        metadata = self.table.schema.metadata or {}
        columns = [arrow_values(partial(self.table.column, name), name, metadata, self.place) for name in self.names]
        return [dict(zip(self.names, row, strict=True)) for row in zip(*columns, strict=True)]

    def as_arrow(self) -> Any:
        """A pyarrow table; missing values are null.

        Raises:
            DataError: For columns whose values are of several types, all at once.
        """
        if self.records is None:
            return self.table
        import pyarrow as pa

        columns, mixed, halves = {}, [], []
        for name in self.names:
            try:
                name.encode()
                columns[name] = pa.array([record.get(name) for record in self.records])
            except UnicodeEncodeError:
                halves.append(name)
            except (pa.ArrowException, OverflowError):
                mixed.append(name)
        if halves:
            raise DataError(f"{self.place}: {listed(halves)} holds {_HALF}; choose an --output that ends in .jsonl.")
        if mixed:
            raise DataError(
                f"{self.place}: {listed(mixed)} holds values of several types, which Parquet and saved `datasets` "
                "cannot; choose an --output that ends in .jsonl."
            )
        return pa.table(columns)


def joined_originals(parts: Sequence[Original]) -> Original:
    """The rows of several files below each other."""
    if len(parts) == 1:
        return parts[0]
    names = tuple(dict.fromkeys(name for part in parts for name in part.names))
    if all(part.records is None for part in parts):
        import pyarrow as pa

        tables = pa.concat_tables([part.table for part in parts], promote_options="default")
        return Original(parts[0].place, names, table=tables)
    return Original(parts[0].place, names, [record for part in parts for record in part.as_records()])


# ---- reading ----


def original_file(path: Path, gz_limit: float = GZ_LIMIT) -> Original:
    """A data file by its ending.

    Raises:
        DataError: If it cannot be read.
    """
    return original_named(read_bytes(path), path.name, str(path), gz_limit)


def original_entry(entry: Path, gz_limit: float = GZ_LIMIT) -> Original:
    """A data file, or a folder with `seq.in`."""
    return _of_table(read_seq_folder(entry)) if entry.is_dir() else original_file(entry, gz_limit)


def original_named(data: bytes, file: str, place: str, gz_limit: float = GZ_LIMIT) -> Original:
    """The content of a data file whose name has a known ending."""
    plain, kind = unpacked(data, file, place, gz_limit)
    if kind == "parquet":
        return _parquet(plain, place)
    if kind in ("jsonl", "json"):
        return _json(plain, place)
    return _of_table(read_named(data, file, place, gz_limit))


def original_split(split: Any, place: str) -> Original:
    """A split of the `datasets` library, with its features."""
    try:
        table = split.with_format("arrow")[:]
        table = table.cast(split.features.arrow_schema)
    except Exception as error:  # the library raises errors of many types; the cause stays in the chain
        raise DataError(f"{place}: cannot be read ({first_line(error)}); save it again.") from error
    return Original(place, tuple(table.column_names), table=table)


def _parquet(data: bytes, place: str) -> Original:
    file = open_parquet(data, place)
    try:
        table = file.read()
    except Exception as error:  # as above
        raise DataError(f"{place}: cannot be read ({first_line(error)}); write it again.") from error
    return Original(place, tuple(table.column_names), table=table)


def _json(data: bytes, place: str) -> Original:
    """JSON lines or an array of objects, checked by the reader."""
    read_json(data, place)
    text = data.decode("utf-8-sig")
    is_array = text.lstrip().startswith("[")
    records = json.loads(text) if is_array else [json.loads(line) for line in text.split("\n") if line.strip()]
    return Original(place, tuple(dict.fromkeys(name for record in records for name in record)), records)


def _of_table(table: Table) -> Original:
    names = tuple(table.columns)
    rows = zip(*table.columns.values(), strict=True)
    return Original(table.place, names, [dict(zip(names, row, strict=True)) for row in rows])


SUFFIXES = (".jsonl", ".csv", ".tsv", ".parquet")


def write_original(split: Original, path: Path) -> None:
    r"""Write a split by the ending: .jsonl, .csv, .tsv or .parquet. The file appears when it is complete.

    In csv and tsv, lists and mappings become JSON, and null an empty cell.

    Raises:
        DataError: If the format cannot hold the values of a column (names one that can), or the file cannot be written.

    Examples:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "kept.jsonl")
        ...     write_original(Original("train.csv", ("text",), [{"text": "good"}]), path)
        ...     path.read_text()
        '{"text": "good"}\n'
    """
    if path.suffix == ".parquet":
        table = split.as_arrow()
        with whole_file(path) as part:
            import pyarrow as pa
            import pyarrow.parquet as pq

            try:
                pq.write_table(table, part, compression="zstd")
            except pa.ArrowException as error:  # mappings without entries, intervals
                reason = f"Parquet cannot hold a column of it ({first_line(error)})"
                raise DataError(f"{split.place}: {reason}; choose an --output that ends in .jsonl.") from error
        return
    records = split.as_records()
    try:
        with whole_file(path) as part, part.open("w", encoding="utf-8", newline="") as stream:
            if path.suffix == ".jsonl":
                write_jsonl(records, stream)
            elif path.suffix == ".csv":
                write_csv(records, split.names, stream)
            else:
                write_tsv(records, split.names, stream)
    except UnicodeEncodeError as error:
        raise DataError(f"{split.place} holds {_HALF}; choose an --output that ends in .jsonl.") from error


def write_saved(splits: Mapping[str, Original], folder: Path) -> None:
    """Write a folder as `save_to_disk` of the `datasets` library does; it appears when it is complete.

    Args:
        splits: By their names in the folder.
        folder: Replaced if it is there.

    Raises:
        DataError: If a column holds values of several types, or the folder cannot be written.
    """
    import datasets
    from datasets.table import InMemoryTable

    tables = {name: split.as_arrow() for name, split in splits.items()}
    with whole_folder(folder) as part:
        saved = {name: datasets.Dataset(InMemoryTable(table)) for name, table in tables.items()}
        datasets.DatasetDict(saved).save_to_disk(str(part))


def write_jsonl(records: Iterable[Mapping[str, Any]], stream: TextIO) -> None:
    """One JSON object a line.

    Raises:
        DataError: For values that JSON cannot hold.
    """
    for record in records:
        stream.write(json_text(record, default=_in_json) + "\n")


def write_csv(records: Sequence[Mapping[str, Any]], names: Sequence[str], stream: TextIO) -> None:
    """A header, then rows; cells are quoted where csv needs it."""
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([_cell(record.get(name)) for name in names] for record in records)


def write_tsv(records: Sequence[Mapping[str, Any]], names: Sequence[str], stream: TextIO) -> None:
    """A header, then rows, with quotes as ordinary characters; a cell is quoted only where it would be misread.

    Raises:
        DataError: For cells with a tab or a line break, with their rows.
    """
    rows = [[_cell(record.get(name)) for name in names] for record in records]
    broken = [
        (number, f"the column {quoted(name)} holds a tab or a line break")
        for number, row in enumerate(rows, start=1)
        for name, cell in zip(names, row, strict=True)
        if any(sign in cell for sign in "\t\n\r")
    ]
    if broken:
        raise DataError(numbered_problem("the .tsv output", "row", broken, "choose an --output that ends in .jsonl"))
    stream.writelines("\t".join(map(_tsv_cell, row)) + "\n" for row in [list(names), *rows])


def _tsv_cell(cell: str) -> str:
    """The unchanged cell, unless the reader would remove its quotes."""
    if len(cell) < 4 or cell[0] != '"' or cell[-1] != '"':
        return cell
    read = read_tsv(f"cell\n{cell}".encode(), "").columns["cell"][0]
    return cell if read == cell else '"' + cell.replace('"', '""') + '"'


def _cell(value: Any) -> str:
    """A value as the text of a cell."""
    if value is None:
        return ""
    if isinstance(value, (list, tuple, dict)):  # words joined by spaces could be read as one label
        return json.dumps(value, ensure_ascii=False, default=_in_json)
    return _in_json(value) if isinstance(value, (bytes, date, datetime, time)) else str(value)


def _in_json(value: object) -> str:
    """Text of a value that JSON has no form for."""
    if isinstance(value, (date, datetime, time)):
        return value.isoformat()
    if isinstance(value, Decimal):
        return str(value)
    raise DataError(
        f"a column holds {type(value).__name__} values, which text cannot hold; choose an --output that ends in "
        ".parquet, or a folder."
    )
