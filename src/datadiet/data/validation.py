"""One table to the examples of one split; every row that cannot be used is named with its line."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from datadiet.checks import Problems
from datadiet.data.columns import WORDS, recognise
from datadiet.data.label_lists import label_lists
from datadiet.data.labels import class_labels, is_blank, number_labels
from datadiet.data.records import Columns, Examples
from datadiet.data.tables import Table, row_problem

_FILL = "fill it in or remove the row"
_Words = tuple[tuple[str, ...], ...]


def examples_from(
    table: Table, task: str, wanted: Columns, labels: str = "required", separator: str = "|"
) -> tuple[Examples | None, Problems]:
    """The examples of a split, or what is wrong with it.

    Args:
        table: As read.
        task: A known task.
        wanted: The user's column names.
        labels: `required` (train, dev), `complete` (all rows or none: test) or `optional` (new text: labels are used
            only where every row has one).
        separator: Between the labels of a text, for `multi-label`.

    Returns:
        The examples (None where columns are missing), and all problems found.
    """
    if table.size == 0:
        problems = Problems()
        problems.add(f"{table.place}: there are no examples in it; fill it or remove it.")
        return None, problems
    names, problems = recognise(table, task, wanted, labelled=labels == "required")
    if problems.found:
        return None, problems
    tokens = _words(table, names.tokens, problems) if names.tokens else None
    texts = [" ".join(words) for words in tokens] if tokens is not None else _texts(table, names, problems)
    tag = "slot" if task == "intent-slot" else "tag"
    slots = _slots(table, names.slots, tokens, labels, problems, tag) if tokens and task in WORDS else None
    found = _labels(table, names.label, task, labels, problems, separator)
    if task == "intent-slot" and (slots is None or found is None):
        slots = found = None  # a joint example is labelled with both or not at all
    return (
        Examples(
            ids=tuple(_ids(table, names.id, problems)),
            texts=tuple(texts),
            text_pairs=tuple(_pairs(table, names.text_pair)) if names.text_pair else None,
            tokens=tokens,
            slots=slots,
            labels=found,
            source_rows=range(table.size),
        ),
        problems,
    )


def _ids(table: Table, column: str | None, problems: Problems) -> list[str]:
    """Ids as text; the row number where a table has no ids."""
    if column is None:
        return [str(row) for row in range(table.size)]
    values = table.columns[column]
    empty = [(row, "the id is empty") for row, value in enumerate(values) if value is None or not str(value).strip()]
    if empty:
        problems.add(row_problem(table, empty, f"{_FILL}, or name another column with --id-column"))
    ids = [str(value) for value in values]
    first: dict[str, int] = {}
    twice = [(row, first[key]) for row, key in enumerate(ids) if first.setdefault(key, row) != row]
    if twice and not empty:
        found = [(row, f"the id {ids[row]!r} stands at {table.unit} {table.number(r0)} too") for row, r0 in twice]
        problems.add(row_problem(table, found, "make the ids unique, or name another column with --id-column"))
    return ids


def _texts(table: Table, names: Columns, problems: Problems) -> list[str]:
    """First texts. Of a pair one text may be empty (QQP has such rows), of a single sentence none."""
    assert names.text is not None  # recognise() has found it
    texts = table.columns[names.text]
    pairs = table.columns[names.text_pair] if names.text_pair else [""] * table.size
    alien = [(row, f"the text is {_kind(*both)}") for row, both in _rows(texts, pairs) if _kind(*both)]
    if alien:
        problems.add(row_problem(table, alien, "a text must be text; quote it"))
    what = "both texts are empty" if names.text_pair else "the text is empty"
    empty = [(row, what) for row, both in _rows(texts, pairs) if all(map(_is_empty, both))]
    if empty:
        problems.add(row_problem(table, empty, _FILL))
    return [text or "" for text in texts]


def _rows(texts: Sequence[Any], pairs: Sequence[Any]) -> Iterator[tuple[int, tuple[Any, Any]]]:
    return enumerate(zip(texts, pairs, strict=True))


def _pairs(table: Table, column: str) -> list[str]:
    return [text or "" for text in table.columns[column]]


def _kind(*texts: Any) -> str:
    odd = [text for text in texts if not (text is None or isinstance(text, str))]
    return f"{odd[0]!r} ({type(odd[0]).__name__})" if odd else ""


def _is_empty(text: Any) -> bool:
    return text is None or (isinstance(text, str) and not text.strip())


def _words(table: Table, column: str, problems: Problems) -> _Words:
    """Words of each row: a list, or text that is split at spaces."""
    words = [_word_list(cell) for cell in table.columns[column]]
    checks: list[tuple[Callable[[Any], bool], str, str]] = [
        (lambda row: row is None, "the tokens are no list of words", "write a list, or words separated by spaces"),
        (lambda row: row is not None and not row, "the list of tokens is empty", _FILL),
        (
            lambda row: bool(row) and not all(map(str.strip, row)),
            "a token is empty",
            "remove it together with its tag",
        ),
    ]
    for is_wrong, what, remedy in checks:
        if found := [(number, what) for number, row in enumerate(words) if is_wrong(row)]:
            problems.add(row_problem(table, found, remedy))
    return tuple(row or () for row in words)


def _word_list(cell: Any) -> tuple[str, ...] | None:
    """A cell as words, () where there is nothing, None where it is neither a list of words nor text."""
    if cell is None:
        return ()
    if isinstance(cell, str):
        if not cell.lstrip().startswith(('["', "['")):
            return tuple(word for word in cell.replace("\t", " ").split(" ") if word.strip())
        try:
            cell = json.loads(cell)
        except ValueError:
            return None  # a list as Python prints it: splitting it at spaces would leave quotes in the words
    return _text_items(cell) if isinstance(cell, (list, tuple)) else None


def _text_items(items: Sequence[Any]) -> tuple[str, ...] | None:
    kinds = set(map(type, items))
    if kinds <= {str}:  # nearly always: no loop over the words in Python
        return tuple(items)
    return tuple(map(str, items)) if kinds <= {str, int} else None


def _slots(
    table: Table, column: str | None, tokens: _Words, labels: str, problems: Problems, tag: str
) -> _Words | None:
    """Tags of each row's words, of the same length; None where the split has none."""
    cells = [_word_list(cell) for cell in table.columns[column]] if column else [()] * table.size
    if not any(cells) and labels != "required":
        return None
    if labels == "optional" and not all(cells):
        return None
    found = [
        (row, _slot_problem(words, tags, tag))
        for row, (words, tags) in enumerate(zip(tokens, cells, strict=True))
        if words and (tags is None or len(words) != len(tags))
    ]
    if found:
        problems.add(row_problem(table, found, f"give every token one {tag}"))
    return tuple(cell or () for cell in cells)


def _slot_problem(words: Sequence[str], tags: Sequence[str] | None, tag: str) -> str:
    return f"the {tag}s are no list of tags" if tags is None else f"{len(words)} tokens but {len(tags)} {tag}s"


def _labels(
    table: Table, column: str | None, task: str, labels: str, problems: Problems, separator: str
) -> tuple[str, ...] | tuple[float, ...] | tuple[tuple[str, ...], ...] | None:
    """Labels of all rows, or None for a split without any."""
    if column is None:
        return None
    before = len(problems.found)
    found: list[Any]
    if task == "multi-label":
        found = list(label_lists(table, column, separator, problems))
    else:
        found = list((number_labels if task == "regression" else class_labels)(table, column, problems))
    without = [row for row, label in enumerate(found) if label is None]
    nothing_at_all = len(without) == table.size
    if (without and labels == "optional") or (nothing_at_all and labels == "complete"):
        return None
    if nothing_at_all and len(problems.found) == before:
        told = "all labels are missing or -1"
        problems.add(f"{table.place}: {told}; add labels to train and dev, or remove the file if it is not needed.")
    elif without and not nothing_at_all:
        _report_unlabelled(table, column, task, without, problems)
    return tuple(found)


def _report_unlabelled(table: Table, column: str, task: str, without: Sequence[int], problems: Problems) -> None:
    values = table.columns[column]
    # values of a wrong kind have been reported already; what is left is empty, -1, or in a class label NaN
    unset = is_blank if task == "regression" else _is_unset
    missing = [(row, f"the label is missing (found {values[row]!r})") for row in without if unset(values[row])]
    if missing:
        hint = (
            "" if task == "regression" else " (-1 means no label; a class of that name needs another, e.g. 'negative')"
        )
        problems.add(row_problem(table, missing, f"label the row or remove it{hint}"))


def _is_unset(value: Any) -> bool:
    return value is None or value != value or str(value).strip() in ("", "-1", "-1.0")
