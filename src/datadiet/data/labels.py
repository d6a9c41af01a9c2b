"""Label cells to class names or numbers, with the problems of single rows."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

from datadiet.checks import Problems
from datadiet.data.tables import Table, row_problem

_WHOLE = re.compile(r"-?(0|[1-9]\d*)")
_NUMBER = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?")


def is_whole(name: str) -> bool:
    """Whether a class name is a whole number as Python writes it.

    Example:
        >>> is_whole("12"), is_whole("012"), is_whole("-3"), is_whole("pos")
        (True, False, True, False)
    """
    return _WHOLE.fullmatch(name) is not None


def sorted_names(names: Iterable[str]) -> tuple[str, ...]:
    """Class names in the order of the model's class numbers: as integers where all are, else as text.

    Example:
        >>> sorted_names({"10", "9"}), sorted_names({"10", "9", "a"})
        (('9', '10'), ('10', '9', 'a'))
    """
    distinct = set(names)
    return tuple(sorted(distinct, key=int) if all(map(is_whole, distinct)) else sorted(distinct))


def class_labels(table: Table, column: str, problems: Problems) -> list[str | None]:
    """Class names; None where a row has none: an empty cell, null, NaN or -1 (how GLUE marks its hidden test labels).

    Whole numbers are named as integers (`1.0` is `1`), truth values `True` and `False`. In text formats the whole
    column must look like numbers for its cells to count as numbers.
    """
    values = _typed(table.columns[column]) if table.textual else table.columns[column]
    names = [_class_name(value) for value in values]
    no_class = [
        (row, f"{value!r} is not a class")
        for row, (value, name) in enumerate(zip(values, names, strict=True))
        if name is None and not _is_missing(value)
    ]
    if no_class:
        remedy = "a class is text, a whole number or a truth value; to predict numbers, use the task 'regression'"
        problems.add(row_problem(table, no_class, remedy))
    _check_one_type(table, values, names, problems)
    return names


def _typed(cells: Sequence[Any]) -> Sequence[Any]:
    """Cells of a text format as numbers, where every filled one is a number."""
    filled = [cell.strip() for cell in cells if cell.strip()]
    if not all(_NUMBER.fullmatch(cell) for cell in filled):
        return cells
    return [float(cell) if "." in cell else int(cell) if cell.strip() else None for cell in cells]


def _is_missing(value: Any) -> bool:
    if isinstance(value, str):
        return value.strip() in ("", "-1")
    return value is None or (isinstance(value, (int, float)) and (value == -1 or value != value))


def _class_name(value: Any) -> str | None:
    if _is_missing(value):
        return None
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, (bool, int)):
        return str(value)
    return str(int(value)) if isinstance(value, float) and value.is_integer() else None


def _check_one_type(table: Table, values: Sequence[Any], names: Sequence[str | None], problems: Problems) -> None:
    """Numbers and text must not be mixed in a format that can tell them apart."""
    if table.textual:
        return
    numbers = {row for row, name in enumerate(names) if name and _is_number(values[row])}
    texts = [row for row, name in enumerate(names) if name and row not in numbers and not is_whole(name)]
    if not numbers or not texts:
        return
    odd = texts if len(texts) <= len(numbers) else sorted(numbers)
    kind, other = ("text", "numbers") if odd is texts else ("a number", "text")
    found = [(row, f"label {values[row]!r} is {kind}, other labels are {other}") for row in odd]
    problems.add(row_problem(table, found, "write all labels of a set in one way"))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def number_labels(table: Table, column: str, problems: Problems) -> list[float | None]:
    """Numbers to predict; None where a cell is empty or null, and everywhere in a split whose labels are all -1."""
    numbers: list[float | None] = []
    wrong = []
    for row, value in enumerate(table.columns[column]):
        numbers.append(_number(value))
        if numbers[-1] is None and not is_blank(value):
            wrong.append((row, f"the label {value!r} is not a finite number"))
    if wrong:
        problems.add(row_problem(table, wrong, "regression needs a number; mend the label or remove the row"))
    unlabelled = all(number is None or number == -1 for number in numbers)
    return [None] * len(numbers) if unlabelled else numbers


def is_blank(value: Any) -> bool:
    """Whether a cell holds nothing."""
    return value is None or (isinstance(value, str) and not value.strip())


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None
