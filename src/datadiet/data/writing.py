"""Splits to files and to saved `datasets` folders, so that what was read is read again the same."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import Any, TextIO

from datadiet.atomic import whole_file, whole_folder
from datadiet.checks import DataError
from datadiet.data.originals import Original
from datadiet.data.separated import read_tsv
from datadiet.data.tables import numbered_problem

SUFFIXES = (".jsonl", ".csv", ".tsv", ".parquet")


def write_original(split: Original, path: Path) -> None:
    r"""Write a split by the ending: .jsonl, .csv, .tsv or .parquet. The file appears when it is complete.

    In text with separators lists and mappings become JSON, and nothing an empty cell.

    Raises:
        DataError: If the format cannot hold what a column holds, with what can, or the file cannot be written.

    Example:
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
            import pyarrow.parquet as pq

            pq.write_table(table, part, compression="zstd")
        return
    records = split.as_records()
    with whole_file(path) as part, part.open("w", encoding="utf-8", newline="") as stream:
        if path.suffix == ".jsonl":
            write_jsonl(records, stream)
        else:
            (write_csv if path.suffix == ".csv" else write_tsv)(records, split.names, stream)


def write_saved(splits: Mapping[str, Original], folder: Path) -> None:
    """Write a folder as `save_to_disk` of the `datasets` library does; it appears when it is complete.

    Args:
        splits: By the names that they shall have.
        folder: Replaced if it is there.

    Raises:
        DataError: If a column holds values of several types, or the folder cannot be written.
    """
    import datasets
    from datasets.table import InMemoryTable

    tables = {name: split.as_arrow() for name, split in splits.items()}
    with whole_folder(folder) as part:
        found = {name: datasets.Dataset(InMemoryTable(table)) for name, table in tables.items()}
        datasets.DatasetDict(found).save_to_disk(str(part))


def write_jsonl(records: Iterable[Mapping[str, Any]], stream: TextIO) -> None:
    """One JSON object a line.

    Raises:
        DataError: For what JSON cannot hold.
    """
    for record in records:
        stream.write(json.dumps(record, ensure_ascii=False, default=_in_json) + "\n")


def write_csv(records: Sequence[Mapping[str, Any]], names: Sequence[str], stream: TextIO) -> None:
    """A header, then rows, quoted where they must be."""
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([_cell(record.get(name)) for name in names] for record in records)


def write_tsv(records: Sequence[Mapping[str, Any]], names: Sequence[str], stream: TextIO) -> None:
    """A header, then rows, in which quotes are ordinary characters; a cell is quoted only where it would be misread.

    Raises:
        DataError: For cells with a tab or a line break, with their rows.
    """
    rows = [[_cell(record.get(name)) for name in names] for record in records]
    broken = [
        (number, f"the column {name!r} holds a tab or a line break")
        for number, row in enumerate(rows, start=1)
        for name, cell in zip(names, row, strict=True)
        if any(sign in cell for sign in "\t\n\r")
    ]
    if broken:
        raise DataError(numbered_problem("the .tsv output", "row", broken, "choose an --output that ends in .jsonl"))
    stream.writelines("\t".join(map(_tsv_cell, row)) + "\n" for row in [list(names), *rows])


def _tsv_cell(cell: str) -> str:
    """A cell as it stands, unless the reader would take it out of its quotes."""
    if len(cell) < 4 or cell[0] != '"' or cell[-1] != '"':
        return cell
    read = read_tsv(f"cell\n{cell}".encode(), "").columns["cell"][0]
    return cell if read == cell else '"' + cell.replace('"', '""') + '"'


def _cell(value: Any) -> str:
    """A value as the text of a cell."""
    if value is None:
        return ""
    if isinstance(value, (list, tuple, dict)):  # words with spaces between could be one label
        return json.dumps(value, ensure_ascii=False, default=_in_json)
    return _in_json(value) if isinstance(value, (bytes, date, datetime, time)) else str(value)


def _in_json(value: object) -> str:
    """What JSON has no form for, as text."""
    if isinstance(value, (date, datetime, time)):
        return value.isoformat()
    if isinstance(value, Decimal):
        return str(value)
    raise DataError(
        f"a column holds {type(value).__name__} values, which text cannot hold; choose an --output that ends in "
        ".parquet, or a folder."
    )
