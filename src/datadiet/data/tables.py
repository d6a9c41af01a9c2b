"""A file's columns before anything is known of the task, and problems told with file and line.

A file's bytes, and the text in them: UTF-8, or the line that is not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from datadiet.errors import DataError

_SHOWN = 5  # problems of one kind that are named; the rest are counted


@dataclass(frozen=True)
class Table:
    """Columns as they stand in one file.

    Attributes:
        place: The file as the user knows it, for messages.
        columns: Values by column name, each `size` long; None where a row has none.
        size: How many rows.
        lines: Line in the file of each row, counted from 1, the header included; None for formats without lines.
        textual: True where every cell is text (csv, tsv), so that numbers have to be recognised.
    """

    place: str
    columns: Mapping[str, Sequence[Any]]
    size: int
    lines: Sequence[int] | None = None
    textual: bool = False

    @property
    def unit(self) -> str:
        """What a position in the file is called: `line`, or `row` (counted from 1) where there are no lines."""
        return "row" if self.lines is None else "line"

    def number(self, row: int) -> int:
        """Where a row (from 0) stands in the file."""
        return row + 1 if self.lines is None else self.lines[row]


def row_problem(table: Table, found: Sequence[tuple[int, str]], remedy: str) -> str:
    """One sentence for all rows of a table with the same kind of problem: the first in full, the next by number.

    Args:
        table: Where they are.
        found: (row from 0, what is wrong), at least one, in order.
        remedy: What to do.

    Example:
        >>> table = Table("train.csv", {}, 9, lines=range(2, 11))
        >>> row_problem(table, [(0, "the text is empty"), (3, "the text is empty")], "fill it in or remove the row")
        'train.csv, line 2: the text is empty; fill it in or remove the row. Also line 5.'
    """
    places = [(table.number(row), what) for row, what in found]
    return numbered_problem(table.place, table.unit, places, remedy)


def numbered_problem(place: str, unit: str, found: Sequence[tuple[int, str]], remedy: str) -> str:
    """`row_problem` for a file that could not become a table: (number in the file, what is wrong)."""
    (first, what), *others = found
    sentence = f"{place}, {unit} {first}: {what}; {remedy}."
    if not others:
        return sentence
    named = ", ".join(str(number) for number, _ in others[: _SHOWN - 1])
    rest = len(others) - (_SHOWN - 1)
    return f"{sentence} Also {unit}{'s' if len(others) > 1 else ''} {named}{f' and {rest} more' if rest > 0 else ''}."


def listed(names: Sequence[str], shown: int = 10) -> str:
    """Names in quotes for a message, a long list cut.

    Example:
        >>> listed(["a", "b", "c"], shown=2)
        "'a', 'b' and 1 more"
    """
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(repr(name) for name in names[:shown]) + more


def read_bytes(path: Path) -> bytes:
    """A file's content.

    Raises:
        DataError: If it is missing or may not be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}.") from error


def text_lines(data: bytes, place: str) -> list[str]:
    """Lines of a text file without their ends; empty ones at the end are left out."""
    lines = [line.strip("\r") for line in decoded(data, place).split("\n")]
    while lines and not lines[-1].strip():
        lines.pop()
    return lines


def decoded(data: bytes, place: str) -> str:
    """UTF-8 text, with or without a byte order mark.

    Raises:
        DataError: With the line that is not UTF-8.
    """
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(not_utf8(place, data[: error.start].count(b"\n") + 1)) from error


def not_utf8(place: str, line: int) -> str:
    """What is said of a line that is not UTF-8."""
    return f"{place}, line {line}: not UTF-8 text; save the file in the UTF-8 encoding."
