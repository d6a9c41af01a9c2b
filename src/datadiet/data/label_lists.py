"""Cells with several labels: lists of names or numbers, text with a separator, or a 0 or 1 for each label."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from datadiet.checks import Problems
from datadiet.data.labels import is_whole, sorted_names
from datadiet.data.tables import Table, row_problem

SEPARATORS = ("|", ",", ";")
_REMEDY = "write a list of names, or names with {!r} between them (--label-separator)"


def label_lists(table: Table, column: str, separator: str, problems: Problems) -> list[tuple[str, ...] | None]:
    """The labels of each row, each once and sorted; None where a row is unlabelled: null, NaN or -1.

    A cell is a list of names or of class numbers, text with a separator, or a JSON list in text. An empty list is a row
    that none of the labels fits, and so is an empty cell, unless all cells are empty. Lists of one length that hold
    nothing but 0 and 1, with a number twice in some, are multi-hot: the labels are then named by their places.

    Args:
        table: Any format.
        column: Of the table.
        separator: Between the names of a text.
        problems: Get a sentence for each kind of problem.
    """
    values = table.columns[column]
    nothing = all(isinstance(value, str) and not value.strip() for value in values)
    cells = [None if nothing else _items(value, separator) for value in values]
    wrong = [(row, f"{values[row]!r} is no list of labels") for row, cell in enumerate(cells) if isinstance(cell, str)]
    if wrong:
        problems.add(row_problem(table, wrong, _REMEDY.format(separator)))
    lists = [None if isinstance(cell, str) else cell for cell in cells]
    if _is_multi_hot([items for items in lists if items is not None]):
        return [None if items is None else _places(items) for items in lists]
    _check_items(table, lists, problems)
    return [None if items is None else sorted_names(filter(None, map(_name, items))) for items in lists]


def _items(value: Any, separator: str) -> list[Any] | str | None:
    """A cell's labels as they stand there; None for an unlabelled row; a text where it is no list of labels."""
    if isinstance(value, (list, tuple)):
        return list(value)
    if value is None or value != value or str(value).strip() in ("-1", "-1.0"):
        return None
    if not isinstance(value, str):
        return "another type"
    if value.lstrip().startswith("["):
        try:
            return list(json.loads(value))
        except (ValueError, RecursionError):
            return "no JSON"
    return [item.strip() for item in value.split(separator)] if value.strip() else []


def _is_multi_hot(lists: Sequence[Sequence[Any]]) -> bool:
    if not lists or len({len(items) for items in lists}) > 1 or len(lists[0]) < 2:
        return False
    if not all(isinstance(item, (bool, int, float)) and item in (0, 1) for items in lists for item in items):
        return False
    return any(len(set(items)) < len(items) for items in lists)


def _places(items: Sequence[Any]) -> tuple[str, ...]:
    return tuple(str(place) for place, item in enumerate(items) if item)


def _name(item: Any) -> str | None:
    """A label's name; None for what is none."""
    if isinstance(item, str):
        return item.strip() or None
    if isinstance(item, int):
        return str(item) if isinstance(item, bool) or item >= 0 else None
    return str(int(item)) if isinstance(item, float) and item.is_integer() and item >= 0 else None


def _check_items(table: Table, lists: Sequence[Sequence[Any] | None], problems: Problems) -> None:
    """Labels that are no names, numbers that stand twice, and numbers beside text."""
    rows = [(row, items) for row, items in enumerate(lists) if items]
    odd = [(row, f"{item!r} is no label") for row, items in rows if (item := _odd_item(items)) is not _NONE]
    if odd:
        problems.add(row_problem(table, odd, "a label is text or a whole number from 0; mend it or remove it"))
    twice = [(row, f"the label {found} stands twice") for row, items in rows if (found := _twice(items)) is not None]
    if twice:
        problems.add(row_problem(table, twice, "give each once; multi-hot lists must all have one length"))
    _check_kinds(table, rows, problems)


_NONE = object()


def _odd_item(items: Sequence[Any]) -> Any:
    return next((item for item in items if _name(item) is None), _NONE)


def _twice(items: Sequence[Any]) -> str | None:
    """A number that a list holds twice; a name that stands there twice is the same label."""
    numbers = [str(_name(item)) for item in items if not isinstance(item, str) and _name(item) is not None]
    return next((number for number in numbers if numbers.count(number) > 1), None)


def _check_kinds(table: Table, rows: Sequence[tuple[int, Sequence[Any]]], problems: Problems) -> None:
    numbers = [(row, items) for row, items in rows if any(isinstance(item, (int, float)) for item in items)]
    texts = [(row, items) for row, items in rows if any(isinstance(item, str) and not is_whole(item) for item in items)]
    if not numbers or not texts:
        return
    odd, kind, other = (texts, "text", "numbers") if len(texts) <= len(numbers) else (numbers, "numbers", "text")
    found = [(row, f"the labels {list(items)!r} hold {kind}, those of other rows {other}") for row, items in odd]
    problems.add(row_problem(table, found, "write all labels of a set in one way"))
