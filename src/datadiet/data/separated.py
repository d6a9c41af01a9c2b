"""Text with separators to tables: csv as the csv module reads it, tsv with quotes as ordinary characters."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence

from datadiet.checks import DataError
from datadiet.data.decoding import decoded
from datadiet.data.tables import Table, listed, numbered_problem


def read_csv(data: bytes, place: str, delimiter: str = ",") -> Table:
    """A header, then rows, quoted as the csv module reads them; a row's line is the one it starts on.

    Raises:
        DataError: For rows whose number of fields differs from the header's.
    """
    reader = csv.reader(io.StringIO(decoded(data, place), newline=""), delimiter=delimiter)
    rows: list[tuple[int, list[str]]] = []
    start = 1
    try:
        for fields in reader:
            rows.append((start, fields))
            start = reader.line_num + 1
    except csv.Error as error:
        remedy = "mend the quotes, or save the data as jsonl"
        raise DataError(
            numbered_problem(place, "line", [(start, f"cannot be read as csv ({error})")], remedy)
        ) from error
    return _with_header([(number, fields) for number, fields in rows if fields], place)


def read_tsv(data: bytes, place: str) -> Table:
    r"""A header, then rows; quotes are ordinary characters, as in GLUE's files, where they stand unpaired.

    A field is taken out of its quotes only where a csv writer must have put it there: all quotes inside are doubled,
    and there are some. A header in quotes means that everything is quoted, and the csv rules hold.

    Raises:
        DataError: For rows whose number of fields differs from the header's.

    Example:
        >>> read_tsv(b'text\tlabel\n"a stray quote\t1', "train.tsv").columns
        {'text': ['"a stray quote'], 'label': ['1']}
    """
    text = decoded(data, place)
    if text.startswith('"'):
        return read_csv(data, place, delimiter="\t")
    lines = ((number, line.removesuffix("\r")) for number, line in enumerate(text.split("\n"), start=1))
    return _with_header([(number, [_unquoted(f) for f in line.split("\t")]) for number, line in lines if line], place)


def _unquoted(field: str) -> str:
    if len(field) < 4 or field[0] != '"' or field[-1] != '"':
        return field
    pairs_removed = field[1:-1].replace('""', "")
    must_be_quoted = '"' not in pairs_removed and len(pairs_removed) < len(field) - 2
    return field[1:-1].replace('""', '"') if must_be_quoted else field


def _with_header(rows: Sequence[tuple[int, list[str]]], place: str) -> Table:
    if not rows:
        return Table(place, {}, 0, [], textual=True)
    (_, header), *body = rows
    names = [name.strip() for name in header]
    repeated = sorted({name for name in names if name and names.count(name) > 1})
    if repeated:
        raise DataError(f"{place}, line {rows[0][0]}: the header names {listed(repeated)} twice; rename one of them.")
    uneven = [(n, f"the header has {len(names)} columns, this row {len(f)}") for n, f in body if len(f) != len(names)]
    if uneven:
        remedy = "quote what holds a separator (csv) or save the data as jsonl"
        raise DataError(numbered_problem(place, "line", uneven, remedy))
    cells = list(zip(*(fields for _, fields in body), strict=True)) or [()] * len(names)
    # one column without a name is the row numbers that pandas writes; of several none could be told from another
    columns = {name: list(held) for name, held in zip(names, cells, strict=True) if name or names.count(name) == 1}
    return Table(place, columns, len(body), [number for number, _ in body], textual=True)
