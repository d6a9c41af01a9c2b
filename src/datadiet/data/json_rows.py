"""JSON to tables: an object a line, or one array of objects."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from datadiet.checks import DataError
from datadiet.data.decoding import decoded, not_utf8
from datadiet.data.tables import Table, numbered_problem


def read_jsonl(data: bytes, place: str) -> Table:
    """One JSON object a line; blank lines are skipped.

    Raises:
        DataError: For broken lines, all of them in one sentence.

    Example:
        >>> read_jsonl(b'{"text": "good"}', "train.jsonl").columns
        {'text': ['good']}
    """
    columns: dict[str, list[Any]] = {}
    lines: list[int] = []
    broken = []
    for number, line in _numbered_lines(data, place):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            broken.append((number, f"not valid JSON ({error})"))
            continue
        if not isinstance(row, dict):
            broken.append((number, f"expected an object such as {{...}}, found {type(row).__name__}"))
            continue
        _add_row(columns, row, len(lines))
        lines.append(number)
    if broken:
        raise DataError(numbered_problem(place, "line", broken, "mend the line or remove it"))
    return Table(place, columns, len(lines), lines)


def _numbered_lines(data: bytes, place: str) -> Iterator[tuple[int, str]]:
    """Lines from 1, decoded one by one: a whole file decoded and split takes several times its size."""
    # lines of bytes end at \n alone; JSON strings may hold U+2028 and its kin
    for number, line in enumerate(io.BytesIO(data), start=1):
        try:
            yield number, line.decode("utf-8-sig" if number == 1 else "utf-8").removesuffix("\n")
        except UnicodeDecodeError as error:
            raise DataError(not_utf8(place, number)) from error


def _add_row(columns: dict[str, list[Any]], row: Mapping[str, Any], before: int) -> None:
    """Add a row to columns that hold `before` rows; what it lacks is None."""
    for name, value in row.items():
        if name not in columns:
            columns[name] = [None] * before
        columns[name].append(value)
    if len(row) < len(columns):
        for held in columns.values():
            held += [None] * (before + 1 - len(held))


def read_json(data: bytes, place: str) -> Table:
    """JSON lines, or one array of objects.

    Raises:
        DataError: If it is neither.
    """
    text = decoded(data, place)
    if not text.lstrip().startswith("["):
        return read_jsonl(data, place)
    try:
        rows = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{place}: not valid JSON ({error}); mend the file.") from error
    odd = [(number, f"expected an object, found {type(row).__name__}") for number, row in _odd_rows(rows)]
    if odd:
        raise DataError(numbered_problem(place, "row", odd, "mend the row or remove it"))
    return Table(place, _columns(rows), len(rows))


def _odd_rows(rows: Iterable[Any]) -> list[tuple[int, Any]]:
    return [(number, row) for number, row in enumerate(rows, start=1) if not isinstance(row, dict)]


def _columns(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Any]]:
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}
