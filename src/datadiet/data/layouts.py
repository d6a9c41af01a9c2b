"""Usual layouts that are not one example a row: a column that names the split, a word per row, a column per label.

Each function takes a table and gives one with an example per row, with a sentence on what was done; or None. At the end
are lists that JSON, Python or NumPy printed into a cell.
"""

from __future__ import annotations

import ast
import io
import json
import re
import tokenize
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

from datadiet.data.tables import LazyColumns, Table, listed, row_problem
from datadiet.errors import DataError
from datadiet.registry import has

SPLIT_COLUMNS = (
    "split", "partition", "subset", "fold", "set", "datasetsplit", "splitname", "datasplit", "setname", "splittype",
    "traintest", "usage", "phase", "purpose", "part",
)  # fmt: skip
# what a split is called elsewhere -> what it is called here
SPLIT_NAMES: Mapping[str, str] = {
    "train": "train",
    "training": "train",
    "dev": "dev",
    "validation": "dev",
    "valid": "dev",
    "val": "dev",
    "development": "dev",
    "dev_matched": "dev",
    "validation_matched": "dev",
    "dev_mismatched": "dev_mismatched",
    "validation_mismatched": "dev_mismatched",
    "test": "test",
    "testing": "test",
    "test_matched": "test",
    "test_mismatched": "test_mismatched",
}
# names that stand for a split where nothing has a usual one
OTHER_NAMES: Mapping[str, str] = {"eval": "dev", "evaluation": "dev", "holdout": "test", "heldout": "test"}
SENTENCES = ("sentence", "sentenceid", "sentid", "sentenceno", "sentencenumber", "sentenceidx", "sentenceindex")
WORDS = ("word", "token", "words", "tokens")
WORD_TAGS = ("tag", "ner", "nertag", "nertags", "tags", "label", "labels", "slot", "slots", "bio", "iob")
_ONE_HOT = {0, 1, "0", "1", "0.0", "1.0"}


def plain_name(column: str) -> str:
    """A column's name without case and punctuation, as usual names are compared.

    Examples:
        >>> plain_name("Sentence #")
        'sentence'
    """
    return re.sub("[^a-z0-9]", "", column.lower())


def by_split(tables: Mapping[str, Table]) -> tuple[dict[str, Table], list[str]]:
    """The splits that a column of the training file names, where there is no other file; and a sentence about it.

    Args:
        tables: By split.

    Raises:
        DataError: If there are other files too, and the column gives rows of the training file to another split.

    Examples:
        >>> table = Table("all.csv", {"text": ["a", "b"], "split": ["train", "Test"]}, 2)
        >>> {name: part.columns["text"] for name, part in by_split({"train": table})[0].items()}
        {'train': ['a'], 'test': ['b']}
    """
    train = tables["train"]
    column, names = _split_column(train)
    if column is None or set(names) == {"train"}:
        return dict(tables), []
    if len(tables) > 1:
        others = listed([name for name in tables if name != "train"])
        raise DataError(
            f"{train.place}: the column {column!r} gives rows to {listed(sorted(set(names) - {'train'}))}, and there "
            f"are also files for {others}; remove the column, or the files."
        )
    if "train" not in names:
        raise DataError(
            f"{train.place}: the column {column!r} gives no row to train; found {listed(sorted(set(names)))}."
        )
    rows = {split: [row for row, name in enumerate(names) if name == split] for split in dict.fromkeys(names)}
    counts = ", ".join(f"{split} {len(rows[split]):,}" for split in sorted(rows, key=_ORDER.index))
    train = replace(train, columns=LazyColumns([n for n in train.columns if n != column], train.columns.__getitem__))
    return (
        {split: taken(train, rows[split]) for split in sorted(rows, key=_ORDER.index)},
        [f"The column {column!r} names the split of each row: {counts}."],
    )


_ORDER = ("train", "dev", "dev_mismatched", "test", "test_mismatched")


def _split_column(table: Table) -> tuple[str | None, list[str]]:
    """The column in which every row has the name of a split, and those names."""
    for column in table.columns:
        if plain_name(column) not in SPLIT_COLUMNS:
            continue
        values = table.columns[column]
        names = _split_names(values)
        others = [row for row, name in enumerate(names) if name is None]
        if "train" not in names and others:
            continue
        if others:
            wrong = [(row, f"{values[row]!r:.40} in the column {column!r} is no split") for row in others]
            raise DataError(row_problem(table, wrong, "write train, dev or test, or rename the column"))
        return column, [str(name) for name in names]
    return None, []


def _split_names(values: Sequence[Any]) -> list[str | None]:
    """What each cell names, None for no split: `eval` and `holdout` do where no cell has a usual name for theirs."""
    written = [value.strip().lower() if isinstance(value, str) else None for value in values]
    usual = {split for name, split in SPLIT_NAMES.items() if name in set(written)}
    known = {**SPLIT_NAMES, **{name: split for name, split in OTHER_NAMES.items() if split not in usual}}
    return [None if name is None else known.get(name) for name in written]


def taken(table: Table, rows: Sequence[int]) -> Table:
    """Some rows of a table, which keep their places in its file."""
    return replace(
        table,
        columns=LazyColumns(table.columns, lambda name: [table.columns[name][row] for row in rows]),
        size=len(rows),
        lines=[table.number(row) for row in rows],
        numbered="row" if table.lines is None else "line",
        rows=[table.source_row(row) for row in rows],
    )


def sentences_of_words(table: Table, task: str) -> tuple[Table, str] | None:
    """Sentences of a table that has a word and its tag in each row; None for every other table.

    The sentence is named in a column such as `Sentence #` or `sentence_id`, on every row or on its first row alone.

    Examples:
        >>> columns = {"Sentence #": ["Sentence: 1", "", "Sentence: 2"], "Word": ["To", "Rome", "Hi"]}
        >>> table = Table("ner.csv", columns | {"Tag": ["O", "B-geo", "O"]}, 3, range(2, 5), textual=True)
        >>> sentences_of_words(table, "token-classification")[0].columns
        {'tokens': [['To', 'Rome'], ['Hi']], 'tags': [['O', 'B-geo'], ['O']]}
    """
    if not has(task, "tags_only"):
        return None
    named = {plain_name(column): column for column in reversed(list(table.columns))}
    sentence, word, tag = (next((named[key] for key in keys if key in named), None) for keys in _WORD_PARTS)
    if word is None or tag is None or not all(map(_one_word, table.columns[word])):
        return None
    if sentence is None and not _has_gaps(table):
        return None
    begins: list[int] = []
    last: Any = None
    marks = _block(table) if sentence is None else table.columns[sentence]
    for row, value in enumerate(marks):
        blank = value is None or value != value or str(value).strip().lower() in ("", "nan", "null", "none")
        if not begins or (not blank and value != last):
            begins.append(row)
        last = last if blank else value
    ends = [*begins[1:], table.size]
    parts = {"tokens": table.columns[word], "tags": table.columns[tag]}
    columns = {
        name: [[str(value) for value in values[begin:end]] for begin, end in zip(begins, ends, strict=True)]
        for name, values in parts.items()
    }
    made = Table(table.place, columns, len(begins), [table.number(row) for row in begins], sourceless=True)
    aside = [name for name in table.columns if name not in (sentence, word, tag)]
    unused = f" Columns that are not used: {listed(aside)}." if aside else ""
    how = "blank lines end a sentence" if sentence is None else f"{sentence!r} names the sentence"
    return made, f"A word per row: {how}, {tag!r} is the tag.{unused}"


def _has_gaps(table: Table) -> bool:
    """Whether blank lines stand between rows of a text file."""
    return table.textual and len(set(_block(table))) > 1


def _block(table: Table) -> list[int]:
    """For each row, how many rows before it or at it follow a blank line."""
    lines = table.lines or ()
    found, block = [], 0
    for row, line in enumerate(lines):
        block += int(row > 0 and line > lines[row - 1] + 1)
        found.append(block)
    return found


_WORD_PARTS = (SENTENCES, WORDS, WORD_TAGS)


def _one_word(value: Any) -> bool:
    return not isinstance(value, (list, tuple)) and value is not None and len(str(value).split()) == 1


def labels_of_columns(table: Table, task: str, known: Sequence[str]) -> tuple[Table, str] | None:
    """A table whose `labels` are the names of the columns that hold 1; None where there are not two such columns.

    Args:
        table: Without a column of labels.
        task: Its name.
        known: Columns that are something else: the text, the id.

    Examples:
        >>> table = Table("toxic.csv", {"text": ["a", "b"], "rude": ["0", "1"], "mad": ["1", "1"]}, 2)
        >>> labels_of_columns(table, "multi-label", ["text"])[0].columns["labels"]
        [['mad'], ['rude', 'mad']]
    """
    if not has(task, "label_sets") or not table.size:
        return None
    names = [
        name
        for name, values in table.columns.items()
        if name not in known
        and all(isinstance(value, (bool, int, float, str)) and value in _ONE_HOT for value in values)
    ]
    if len(names) < 2:
        return None
    hot = {name: [float(value) == 1 for value in table.columns[name]] for name in names}
    labels = [[name for name in names if hot[name][row]] for row in range(table.size)]
    columns = {name: values for name, values in table.columns.items() if name not in names}
    note = f"A column of 0 and 1 for each label: {listed(names)}."
    return replace(table, columns={**columns, "labels": labels}), note


def _is_hot(value: Any) -> bool:
    return isinstance(value, (bool, int, float, str)) and value in _ONE_HOT


# ---- lists in a cell ----

_TEXTS = re.compile(r"""\[\s*(?:'[^']*'|"[^"]*")(?:\s+(?:'[^']*'|"[^"]*"))*\s*\]""")
_NUMBER = re.compile(r"-?[0-9]{1,300}\.?[0-9]{0,300}")  # Python refuses to read numbers of thousands of digits
_NUMBERS = re.compile(rf"\[\s*{_NUMBER.pattern}(?:\s+{_NUMBER.pattern})*\s*\]")
_SCALAR = re.compile(r"np\.[a-z]+[0-9]*_?\(([^()]*)\)")  # `np.str_('O')`, as NumPy 2 prints the items of a list
_SET = re.compile(r"\{[^{}]*,[^{}]*\}")


def is_bracketed(cell: Any) -> bool:
    """Whether a cell is text that begins and ends as a printed list, tuple, set or array does.

    Examples:
        >>> [is_bracketed(cell) for cell in ("[3 0]", "('O', 'B-ORG')", "{O, B-ORG}", "( Reuters )", "[1] see below")]
        [True, True, True, False, False]
    """
    if not isinstance(cell, str):
        return False
    text = cell.strip()
    if text == "()" or text.startswith(("array([", "list([", "[np.", "['", '["', "('", '("')):
        return True
    return (text[:1] == "[" and text[-1:] == "]") or _SET.fullmatch(text) is not None


def printed_list(cell: str) -> list[Any] | None:
    """The items of a printed list; None where they cannot be told without a doubt.

    Examples:
        >>> printed_list('[3, 0]'), printed_list("[3 0]"), printed_list("['O' 'B-ORG']"), printed_list("('O', 'B-ORG')")
        ([3, 0], [3, 0], ['O', 'B-ORG'], ['O', 'B-ORG'])
        >>> printed_list("[O, B-ORG]"), printed_list("{O, B-ORG}"), printed_list("['a' ... 'z']")
        (None, None, None)
    """
    text = cell.strip()
    try:
        items = json.loads(text)
    except (ValueError, RecursionError):
        items = _printed(text)
    return list(items) if isinstance(items, (list, tuple)) and not any(map(_is_nested, items)) else None


def _is_nested(item: Any) -> bool:
    return isinstance(item, (list, tuple, dict, set))


def _printed(text: str) -> Sequence[Any] | None:
    """A list as NumPy or Python prints it."""
    text = _SCALAR.sub(r"\1", text)
    if _TEXTS.fullmatch(text):  # Python would join the texts
        return [one[1:-1] for one in re.findall(r"""'[^']*'|"[^"]*\"""", text)]
    if _NUMBERS.fullmatch(text):
        return [float(one) if "." in one else int(one) for one in _NUMBER.findall(text)]
    try:
        items = ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None
    return items if isinstance(items, (list, tuple)) and not _joins_texts(text) else None


def _joins_texts(text: str) -> bool:
    """Whether two texts stand side by side, which Python reads as one."""
    kinds = [token.type for token in tokenize.generate_tokens(io.StringIO(text).readline)]
    return any(one == two == tokenize.STRING for one, two in pairwise(kinds))
