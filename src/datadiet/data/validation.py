"""From a table to the validated examples of one split: texts, words, tags, ids, and labels of every kind.

Every problem names the file and the lines of the rows; all problems of a split are reported together.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields
from decimal import Decimal
from typing import Any

from datadiet.data.columns import recognise
from datadiet.data.conversations import answer_text, conversations, prompt_text
from datadiet.data.layouts import is_bracketed, printed_list
from datadiet.data.schema import Columns, Examples
from datadiet.data.tables import Table, row_problem
from datadiet.errors import DataError, Problems, cut, quoted, visible
from datadiet.registry import has

SEPARATORS = ("|", ",", ";")
_FILL, _ONE_WAY = "fill it in or remove the row", "write all labels of a set in one way"
_WORDS, _WITH_TAG = "write a list, or words separated by spaces", "remove it together with its tag"
MANY = 20  # rows: as many of one word each are the words of sentences
_Words = tuple[tuple[str, ...], ...]
# of at most a thousand digits: Python refuses to read numbers of many thousands
_WHOLE = re.compile(r"-?(0|[1-9][0-9]{0,999})")
_NUMBER = re.compile(_WHOLE.pattern + r"(\.[0-9]+)?")


# ---- one class or number per row ----


def is_whole(name: str) -> bool:
    """Whether a class name is a whole number as Python writes it.

    Examples:
        >>> is_whole("12"), is_whole("012"), is_whole("-3"), is_whole("pos")
        (True, False, True, False)
    """
    return _WHOLE.fullmatch(name) is not None


def sorted_names(names: Iterable[str]) -> tuple[str, ...]:
    """Class names in the order of the model's class numbers: as integers where all are, else as text.

    Examples:
        >>> sorted_names({"10", "9"}), sorted_names({"10", "9", "a"})
        (('9', '10'), ('10', '9', 'a'))
    """
    distinct = set(names)
    return tuple(sorted(distinct, key=int) if all(map(is_whole, distinct)) else sorted(distinct))


def class_labels(table: Table, column: str, problems: Problems) -> list[str | None]:
    """Class names; None for a missing label: an empty cell, null, NaN or -1 (GLUE's mark of hidden test labels).

    Whole numbers are named as integers (`1.0` is `1`), truth values `True` and `False`. In text formats cells count as
    numbers only where the whole column looks like numbers.
    """
    values = _typed(table.columns[column]) if table.textual else table.columns[column]
    names = [_class_name(value) for value in values]
    no_class = [
        (row, f"{quoted(value)} is not a class")
        for row, (value, name) in enumerate(zip(values, names, strict=True))
        if name is None and not _is_missing(value)
    ]
    if no_class:
        remedy = "a class is text, a whole number or a truth value; to predict numbers, use the task 'regression'"
        problems.add(row_problem(table, no_class, remedy))
    _check_one_type(table, values, names, problems)
    return names


def _typed(cells: Sequence[Any]) -> Sequence[Any]:
    """Cells of a text format, as numbers where every filled cell is a number."""
    stripped = [cell.strip() for cell in cells]  # `strip` knows more white space than `int` and `float` do
    if not all(_NUMBER.fullmatch(cell) for cell in stripped if cell):
        return cells
    return [float(cell) if "." in cell else int(cell) if cell else None for cell in stripped]


def _is_missing(value: Any) -> bool:
    if isinstance(value, str):
        return value.strip() in ("", "-1")
    return value is None or (isinstance(value, (int, float, Decimal)) and (value == -1 or value != value))


def _class_name(value: Any) -> str | None:
    if _is_missing(value):
        return None
    if isinstance(value, str):
        return None if is_bracketed(value) and printed_list(value) is not None else value.strip()
    if isinstance(value, (bool, int)):
        return str(value)
    if isinstance(value, Decimal):
        return str(int(value)) if value.is_finite() and value == int(value) else None
    return str(int(value)) if isinstance(value, float) and value.is_integer() else None


def _check_one_type(table: Table, values: Sequence[Any], names: Sequence[str | None], problems: Problems) -> None:
    """Report numbers mixed with text, in formats that distinguish them."""
    if table.textual:
        return
    numbers = {row for row, name in enumerate(names) if name and _is_number(values[row])}
    texts = [row for row, name in enumerate(names) if name and row not in numbers and not is_whole(name)]
    if not numbers or not texts:
        return
    odd = texts if len(texts) <= len(numbers) else sorted(numbers)
    kind, other = ("text", "numbers") if odd is texts else ("a number", "text")
    mixed = [(row, f"label {quoted(values[row])} is {kind}, other labels are {other}") for row in odd]
    problems.add(row_problem(table, mixed, _ONE_WAY))


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, Decimal)) and not isinstance(value, bool)


def number_labels(table: Table, column: str, problems: Problems) -> list[float | None]:
    """Numbers to predict; None for an empty cell or null, and for every row of a split whose labels are all -1."""
    numbers: list[float | None] = []
    wrong = []
    for row, value in enumerate(table.columns[column]):
        numbers.append(_number(value))
        if numbers[-1] is None and not is_blank(value):
            wrong.append((row, f"the label {quoted(value)} is not a finite number"))
    if wrong:
        problems.add(row_problem(table, wrong, "regression needs a number; mend the label or remove the row"))
    unlabelled = all(number is None or number == -1 for number in numbers)
    return [None] * len(numbers) if unlabelled else numbers


def is_blank(value: Any) -> bool:
    """Whether a cell is null, empty or white space."""
    return value is None or (isinstance(value, str) and not value.strip())


def _number(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float, str, Decimal)):
        return None
    try:
        number = float(value.strip() if isinstance(value, str) else value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


# ---- several labels per row ----


def label_lists(table: Table, column: str, separator: str, problems: Problems) -> list[tuple[str, ...] | None]:
    """The distinct labels of each row, sorted; None for an unlabelled row: null, NaN or -1.

    A cell is a list of names or of class numbers, text with a separator, or a JSON list in text. An empty list means
    that no label applies, and so does an empty cell, unless all cells are empty. Lists of one length that hold only 0
    and 1, with a number twice in at least one, are multi-hot: labels are then named by their positions.

    Args:
        table: Any format.
        column: Of the table.
        separator: Between the names of a text.
        problems: Receives one sentence per kind of problem.
    """
    values = table.columns[column]
    all_empty = all(isinstance(value, str) and not value.strip() for value in values)
    cells = [None if all_empty else _items(value, separator) for value in values]
    wrong = [
        (row, f"{quoted(values[row])} is no list of labels") for row, cell in enumerate(cells) if isinstance(cell, str)
    ]
    if wrong:
        remedy = f"write a list of names, or names with {separator!r} between them (--label-separator)"
        problems.add(row_problem(table, wrong, remedy))
    lists = [None if isinstance(cell, str) else cell for cell in cells]
    if _is_multi_hot([items for items in lists if items is not None]):
        return [None if items is None else _places(items) for items in lists]
    _check_items(table, lists, problems)
    return [None if items is None else sorted_names(filter(None, map(_name, items))) for items in lists]


def _items(value: Any, separator: str) -> list[Any] | str | None:
    """The items of a cell; None for an unlabelled row; a text (the reason) for a cell that is no list of labels."""
    if isinstance(value, (list, tuple)):
        return list(value)
    if value is None or value != value or str(value).strip() in ("-1", "-1.0"):
        return None
    if not isinstance(value, str):
        return "another type"
    if is_bracketed(value) or value.lstrip().startswith("["):
        items = printed_list(value)
        return "no list" if items is None else items
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
    """The name of a label; None where the item is no label."""
    if isinstance(item, str):
        return item.strip() or None
    if isinstance(item, int):
        return str(item) if isinstance(item, bool) or item >= 0 else None
    return str(int(item)) if isinstance(item, float) and item.is_integer() and item >= 0 else None


def _check_items(table: Table, lists: Sequence[Sequence[Any] | None], problems: Problems) -> None:
    """Report items that are no labels, numbers that stand twice, and numbers mixed with text."""
    rows = [(row, items) for row, items in enumerate(lists) if items]
    odd = [(row, f"{quoted(item)} is no label") for row, items in rows if (item := _odd_item(items)) is not _NONE]
    if odd:
        problems.add(row_problem(table, odd, "a label is text or a whole number from 0; mend it or remove it"))
    twice = [(row, f"the label {cut(name)} stands twice") for row, items in rows if (name := _twice(items)) is not None]
    if twice:
        problems.add(row_problem(table, twice, "give each once; multi-hot lists must all have one length"))
    _check_kinds(table, rows, problems)


_NONE = object()


def _odd_item(items: Sequence[Any]) -> Any:
    return next((item for item in items if _name(item) is None), _NONE)


def _twice(items: Sequence[Any]) -> str | None:
    """The first number that a list holds twice; a name may be repeated."""
    times = Counter(_name(item) for item in items if not isinstance(item, str))
    return next((number for number, count in times.items() if number is not None and count > 1), None)


def _check_kinds(table: Table, rows: Sequence[tuple[int, Sequence[Any]]], problems: Problems) -> None:
    numbers = [(row, items) for row, items in rows if any(isinstance(item, (int, float)) for item in items)]
    texts = [(row, items) for row, items in rows if any(isinstance(item, str) and not is_whole(item) for item in items)]
    if not numbers or not texts:
        return
    odd, kind, other = (texts, "text", "numbers") if len(texts) <= len(numbers) else (numbers, "numbers", "text")
    mixed = [(row, f"the labels {quoted(list(items))} hold {kind}, those of other rows {other}") for row, items in odd]
    problems.add(row_problem(table, mixed, _ONE_WAY))


# ---- examples of a split ----


def examples_from(
    table: Table, task: str, requested: Columns, labels: str = "required", separator: str = "|"
) -> tuple[Examples | None, Problems]:
    """The examples of a split, and its problems.

    Args:
        table: As read.
        task: One of `TASKS`.
        requested: The user's column names.
        labels: `required` (train, dev), `complete` (all rows or none: test) or `optional` (new text: labels are used
            only where every row has one).
        separator: Between the labels of a text, for `multi-label`.

    Returns:
        The examples (None where columns are missing), and all problems.
    """
    if table.size == 0:
        problems = Problems()
        problems.add(f"{table.place}: there are no examples in it; fill it or remove it.")
        return None, problems
    names, problems = recognise(table, task, requested, labelled=labels == "required")
    if not problems.found:
        problems.found += _unreadable(table, names)
    if problems.found:
        return None, problems
    try:
        examples = _examples(table, task, names, labels, separator, problems)
    except RecursionError:  # lists in lists in lists
        problems.add(f"{table.place}: a value is nested too deeply; write it in a simpler form.")
        return None, problems
    _check_text(table, examples, problems)
    return examples, problems


def _unreadable(table: Table, names: Columns) -> list[str]:
    """Problems of the columns that are used, which may be read here for the first time."""
    found: list[str] = []
    for name in dict.fromkeys(getattr(names, part.name) for part in fields(Columns)):
        try:
            if name:
                table.columns[name]
        except DataError as error:
            found += error.problems
    return found


def _check_text(table: Table, examples: Examples, problems: Problems) -> None:
    """Report halves of surrogate pairs, which JSON can hold as `\\ud800`, but no other file, and no tokenizer."""
    parts: dict[str, Sequence[Any] | None] = {
        "text": examples.texts,
        "second text": examples.text_pairs,
        "label": examples.labels,
        "tag": examples.slots,
        "id": examples.ids,
        "answer": None if examples.turns is None else [*map(answer_text, examples.turns)],
        "conversation": None if examples.turns is None else [" ".join(one for _, one in t) for t in examples.turns],
    }
    for what, values in parts.items():
        broken = [(row, _half(value)) for row, value in enumerate(values or ()) if _half(value)]
        if broken:
            wrong = [(row, f"the {what} holds {half}, half of a surrogate pair") for row, half in broken]
            problems.add(row_problem(table, wrong, "replace it by the whole character, or remove it"))


def _half(value: Any) -> str:
    """The first half of a surrogate pair in a text, or in a list of texts, escaped; empty where there is none."""
    text = value if isinstance(value, str) else " ".join(value) if isinstance(value, tuple) else ""
    if text.isascii():
        return ""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return visible(text[error.start])
    return ""


def _examples(table: Table, task: str, names: Columns, labels: str, separator: str, problems: Problems) -> Examples:
    if has(task, "answers"):
        ids = _ids(table, names.id, problems)
        turns = conversations(table, names, labels, ids, problems)
        source = None if table.sourceless else table.rows or range(table.size)
        return Examples(tuple(ids), tuple(map(prompt_text, turns)), source_rows=source, turns=tuple(turns))
    tokens = _words(table, names.tokens, problems) if names.tokens else None
    texts = [" ".join(words) for words in tokens] if tokens is not None else _texts(table, names, problems)
    tag = "slot" if has(task, "joint") else "tag"
    slots = _slots(table, names.slots, tokens, labels, problems, tag) if tokens and has(task, "words") else None
    values = _labels(table, names.label, task, labels, problems, separator)
    if has(task, "joint") and (slots is None or values is None):
        slots = values = None  # a joint example has both labels or none
    return Examples(
        ids=tuple(_ids(table, names.id, problems)),
        texts=tuple(texts),
        text_pairs=tuple(_pairs(table, names.text_pair)) if names.text_pair else None,
        tokens=tokens,
        slots=slots,
        labels=values,
        source_rows=None if table.sourceless else table.rows or range(table.size),
    )


def _ids(table: Table, column: str | None, problems: Problems) -> list[str]:
    """Ids as text; the row number where a table has no ids, or is to have none."""
    if not column:
        return [str(row) for row in range(table.size)]
    values = table.columns[column]
    empty = [(row, "the id is empty") for row, value in enumerate(values) if value is None or not str(value).strip()]
    if empty:
        problems.add(row_problem(table, empty, f"{_FILL}, or name another column with --id-column"))
    ids = [str(value) for value in values]
    first: dict[str, int] = {}
    twice = [(row, first[key]) for row, key in enumerate(ids) if first.setdefault(key, row) != row]
    if twice and not empty:
        repeats = [
            (row, f"the id {quoted(ids[row])} stands at {table.unit} {table.number(r0)} too") for row, r0 in twice
        ]
        remedy = "make the ids unique, name another column with --id-column, or take row numbers with --id-column ''"
        problems.add(row_problem(table, repeats, remedy))
    return ids


def _texts(table: Table, names: Columns, problems: Problems) -> list[str]:
    """First texts. One text of a pair may be empty (QQP has such rows), a single text may not."""
    assert names.text is not None  # recognise() requires it
    texts = table.columns[names.text]
    pairs = table.columns[names.text_pair] if names.text_pair else [""] * table.size
    alien = [(row, f"the text is {_kind(*both)}") for row, both in _rows(texts, pairs) if _kind(*both)]
    if alien:
        problems.add(row_problem(table, alien, "a text must be text; quote it"))
    what = "both texts are empty" if names.text_pair else "the text is empty"
    empty = [(row, what) for row, both in _rows(texts, pairs) if all(map(is_blank, both))]
    if empty:
        problems.add(row_problem(table, empty, _FILL))
    return [text or "" for text in texts]


def _rows(texts: Sequence[Any], pairs: Sequence[Any]) -> Iterator[tuple[int, tuple[Any, Any]]]:
    return enumerate(zip(texts, pairs, strict=True))


def _pairs(table: Table, column: str) -> list[str]:
    return [text or "" for text in table.columns[column]]


def _kind(*texts: Any) -> str:
    odd = [text for text in texts if not (text is None or isinstance(text, str))]
    return f"{quoted(odd[0])} ({type(odd[0]).__name__})" if odd else ""


def _words(table: Table, column: str, problems: Problems) -> _Words:
    """Words of each row: a list, or text that is split at spaces."""
    lists = _word_lists(table, column)
    for is_wrong, what, remedy in (
        ([words is None for words in lists], "the tokens are no list of words", _WORDS),
        ([words == () for words in lists], "the list of tokens is empty", _FILL),
        ([bool(words) and not all(map(str.strip, words or ())) for words in lists], "a token is empty", _WITH_TAG),
    ):
        if any(is_wrong):
            problems.add(row_problem(table, [(row, what) for row, wrong in enumerate(is_wrong) if wrong], remedy))
    return tuple(words or () for words in lists)


def _word_lists(table: Table, column: str) -> list[tuple[str, ...] | None]:
    """The words of each cell; () for an empty cell; None for a cell that is neither a list of words nor text.

    Text is split at spaces. Where every cell of the column looks like a printed list, each is read as one: elsewhere
    `[ 12 ]` may be three words.
    """
    cells = table.columns[column]
    filled = [cell for cell in cells if isinstance(cell, str) and cell.strip()]
    printed = bool(filled) and all(map(is_bracketed, filled))
    return [_word_list(cell, printed) for cell in cells]


def _word_list(cell: Any, printed: bool) -> tuple[str, ...] | None:
    if cell is None:
        return ()
    if isinstance(cell, str):
        if cell.strip() and (printed or cell.lstrip().startswith(('["', "['", "('", '("'))):
            cell = printed_list(cell)
        else:
            return tuple(word for word in cell.replace("\t", " ").split(" ") if word.strip())
    return _text_items(cell) if isinstance(cell, (list, tuple)) else None


def _text_items(items: Sequence[Any]) -> tuple[str, ...] | None:
    kinds = set(map(type, items))
    if kinds <= {str}:  # nearly always: no loop over the words in Python
        return tuple(items)
    return tuple(map(str, items)) if kinds <= {str, int} else None


def _slots(
    table: Table, column: str | None, tokens: _Words, labels: str, problems: Problems, tag: str
) -> _Words | None:
    """Tags of each row, one per word; None where the split has no tags."""
    cells = _word_lists(table, column) if column else [()] * table.size
    if not any(cells) and labels != "required":
        return None
    if labels == "optional" and not all(cells):
        return None
    wrong = [
        (row, _slot_problem(words, tags, tag))
        for row, (words, tags) in enumerate(zip(tokens, cells, strict=True))
        if words and (tags is None or len(words) != len(tags))
    ]
    if wrong:
        problems.add(row_problem(table, wrong, f"give every token one {tag}"))
    elif table.textual and table.size >= MANY and tag == "tag" and all(len(words) == 1 for words in tokens):
        problems.add(
            f"{table.place}: every row has one word; write a sentence per row, or name the sentence of each word in a "
            "column 'sentence_id'."
        )
    odd = [
        (row, f"the {tag} {one!r} has a bracket or a quote") for row, tags in enumerate(cells) if (one := _odd(tags))
    ]
    if odd and not wrong:
        problems.add(row_problem(table, odd, f"write the {tag}s as a JSON list, or separated by spaces"))
    return tuple(cell or () for cell in cells)


_ODD_TAG = re.compile(r"""[\[({"'].*\w.*|.*\w.*[\])},"']""")


def _odd(tags: Sequence[str] | None) -> str | None:
    """A tag that is a piece of a printed list; signs alone are tags of punctuation."""
    return next((tag for tag in dict.fromkeys(tags or ()) if _ODD_TAG.fullmatch(tag)), None)


def _slot_problem(words: Sequence[str], tags: Sequence[str] | None, tag: str) -> str:
    return f"the {tag}s are no list of tags" if tags is None else f"{len(words)} tokens but {len(tags)} {tag}s"


def _labels(
    table: Table, column: str | None, task: str, labels: str, problems: Problems, separator: str
) -> tuple[str, ...] | tuple[float, ...] | tuple[tuple[str, ...], ...] | None:
    """Labels of all rows, or None for a split without any."""
    if column is None:
        return None
    before = len(problems.found)
    values: list[Any]
    if has(task, "label_sets"):
        values = list(label_lists(table, column, separator, problems))
    else:
        values = list((number_labels if has(task, "numbers") else class_labels)(table, column, problems))
    unlabelled = [row for row, label in enumerate(values) if label is None]
    none_labelled = len(unlabelled) == table.size
    if (unlabelled and labels == "optional") or (none_labelled and labels == "complete"):
        return None
    if none_labelled and len(problems.found) == before:
        remedy = "add labels to train and dev, or remove the file if it is not needed"
        problems.add(f"{table.place}: all labels in the column {quoted(column)} are missing or -1; {remedy}.")
    elif unlabelled and not none_labelled:
        _report_unlabelled(table, column, task, unlabelled, problems)
    return tuple(values)


def _report_unlabelled(table: Table, column: str, task: str, unlabelled: Sequence[int], problems: Problems) -> None:
    values = table.columns[column]
    # wrong values are reported already; the others are empty, -1, or NaN as a class label
    unset, hint = _is_unset, " (-1 means no label; a class of that name needs another, e.g. 'negative')"
    if has(task, "numbers"):
        unset, hint = is_blank, ""
    missing = [
        (row, f"the label is missing (found {quoted(values[row])}) in the column {quoted(column)}")
        for row in unlabelled
        if unset(values[row])
    ]
    if missing:
        problems.add(row_problem(table, missing, f"label the row or remove it{hint}"))


def _is_unset(value: Any) -> bool:
    return value is None or value != value or str(value).strip() in ("", "-1", "-1.0")
