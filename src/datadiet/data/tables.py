"""The columns of one file, independent of the task; problems with file and line; bytes and UTF-8 text of a file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from datadiet.errors import DataError, cut, quoted

_SHOWN = 5  # problems of one kind that are named; further ones are counted


@dataclass(frozen=True)
class Table:
    """Uninterpreted columns of one file.

    Attributes:
        place: The file as the user knows it, for messages.
        columns: Values by column name, each `size` long; None where a row lacks the column.
        size: Number of rows.
        lines: Line of each row in the file, from 1, the header included; None for formats without lines.
        textual: True where every cell is text (csv, tsv): numbers must be recognised.
        notes: Sentences on how the file was read.
        numbered: The word for a position in the file; by default that of a whole file.
        rows: Position of each row in its file, from 0, where the table holds some of them; None for all.
        sourceless: Whether a row of the table is no row of the file.
    """

    place: str
    columns: Mapping[str, Sequence[Any]]
    size: int
    lines: Sequence[int] | None = None
    textual: bool = False
    notes: tuple[str, ...] = ()
    numbered: str = ""
    rows: Sequence[int] | None = None
    sourceless: bool = False

    @property
    def unit(self) -> str:
        """The word for a position in the file: `line`, or `row` (from 1) for formats without lines."""
        return self.numbered or ("row" if self.lines is None else "line")

    def source_row(self, row: int) -> int:
        """The position in the file of a row, both from 0."""
        return row if self.rows is None else self.rows[row]

    def number(self, row: int) -> int:
        """The position in the file of a row (from 0)."""
        return row + 1 if self.lines is None else self.lines[row]


class LazyColumns(Mapping[str, Sequence[Any]]):
    """Columns that are made when they are first used: whatever is odd about the others costs nothing.

    Args:
        names: Of the columns, in order.
        make: Gives the values of a column; may raise `DataError`.

    Examples:
        >>> LazyColumns(["a"], lambda name: [name, 1])
        {'a': ['a', 1]}
    """

    def __init__(self, names: Iterable[str], make: Callable[[str], Sequence[Any]]) -> None:
        self._columns: dict[str, Sequence[Any] | None] = dict.fromkeys(names)
        self._make = make

    def __getitem__(self, name: str) -> Sequence[Any]:
        values = self._columns[name]
        if values is None:
            values = self._columns[name] = self._make(name)
        return values

    def __iter__(self) -> Iterator[str]:
        return iter(self._columns)

    def __len__(self) -> int:
        return len(self._columns)

    def __repr__(self) -> str:
        return repr(dict(self))


def joined(tables: Sequence[Table]) -> Table:
    """The rows of several files below each other, numbered from the first row of the first one.

    Args:
        tables: At least one.
    """
    first = tables[0]
    names = dict.fromkeys(name for table in tables for name in table.columns)

    def column(name: str) -> list[Any]:
        return [value for table in tables for value in table.columns.get(name, [None] * table.size)]

    notes = tuple(note for table in tables for note in table.notes)
    place = f"{first.place} and {len(tables) - 1} more"
    return Table(
        place, LazyColumns(names, column), sum(table.size for table in tables), textual=first.textual, notes=notes
    )


def row_problem(table: Table, wrong: Sequence[tuple[int, str]], remedy: str) -> str:
    """One sentence for all rows of a table with the same kind of problem: the first in full, the next by number.

    Args:
        table: Of the rows.
        wrong: (row from 0, problem), at least one, in order.
        remedy: The advice to the user.

    Examples:
        >>> table = Table("train.csv", {}, 9, lines=range(2, 11))
        >>> row_problem(table, [(0, "the text is empty"), (3, "the text is empty")], "fill it in or remove the row")
        'train.csv, line 2: the text is empty; fill it in or remove the row. Also line 5.'
    """
    places = [(table.number(row), what) for row, what in wrong]
    return numbered_problem(table.place, table.unit, places, remedy)


def numbered_problem(place: str, unit: str, wrong: Sequence[tuple[int, str]], remedy: str) -> str:
    """`row_problem` for a file that is not a table yet; `wrong` holds (position in the file, problem)."""
    (first, what), *others = wrong
    sentence = f"{place}, {unit} {first}: {what}; {remedy}."
    if not others:
        return sentence
    named = ", ".join(str(number) for number, _ in others[: _SHOWN - 1])
    more = len(others) - (_SHOWN - 1)
    return f"{sentence} Also {unit}{'s' if len(others) > 1 else ''} {named}{f' and {more} more' if more > 0 else ''}."


def listed(names: Sequence[str], shown: int = 10) -> str:
    """Quoted names for a message; a long list is cut.

    Examples:
        >>> listed(["a", "b", "c"], shown=2)
        "'a', 'b' and 1 more"
    """
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(map(quoted, names[:shown])) + more


def first_line(error: Exception) -> str:
    """The first line of another library's error, or its type."""
    return cut((str(error).splitlines() or [type(error).__name__])[0])


def text_lines(data: bytes, place: str) -> list[str]:
    """Lines of a text file without line ends; empty lines at the end are dropped."""
    lines = [line.strip("\r") for line in split_lines(decoded(data, place))]
    while lines and not lines[-1].strip():
        lines.pop()
    return lines


def split_lines(text: str) -> list[str]:
    r"""Lines as they end in the file: at \n, or at \r where there is no \n.

    Examples:
        >>> split_lines("a\rb"), split_lines("a\r\nb")
        (['a', 'b'], ['a\r', 'b'])
    """
    return text.split("\n" if "\n" in text else "\r")


def decoded(data: bytes, place: str) -> str:
    """UTF-8 text, with or without a byte order mark.

    Raises:
        DataError: If a line is not UTF-8; names the line.
    """
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(not_utf8(place, data[: error.start].count(b"\n") + 1)) from error


def not_utf8(place: str, line: int) -> str:
    """The message for a line that is not UTF-8."""
    return f"{place}, line {line}: not UTF-8 text; save the file in the UTF-8 encoding."
