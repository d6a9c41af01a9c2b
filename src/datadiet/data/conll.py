"""CoNLL files: a word and its tag on each line, blank lines between sentences."""

from __future__ import annotations

import re
from collections.abc import Sequence

from datadiet.checks import DataError
from datadiet.data.tables import Table, numbered_problem

_TAG = re.compile(r"O|[BIESLU]-\S+")
_DOCUMENT = "-DOCSTART-"
_Lines = list[tuple[int, list[str]]]


def parse_conll(lines: Sequence[str], place: str) -> Table:
    """Sentences of a CoNLL file: the first column is the word, the last the tag, any between them are not read.

    Columns are separated by tabs where a line has one, else by spaces. `-DOCSTART-` lines are skipped, and so are
    comments: lines that begin with `# ` before the first word of a sentence and do not end in a tag. A file with one
    column has words without tags.

    Args:
        lines: Of the file, without their ends.
        place: The file as the user knows it.

    Returns:
        Columns `tokens` and `tags`; a sentence's line is that of its first word.

    Raises:
        DataError: For lines whose number of columns differs from the first one's.

    Example:
        >>> parse_conll(["U.N. NNP B-ORG", "official NN O", "", "Rome NNP B-LOC"], "train.conll").columns
        {'tokens': [['U.N.', 'official'], ['Rome']], 'tags': [['B-ORG', 'O'], ['B-LOC']]}

    Source: the files of the CoNLL-2003 shared task (Tjong Kim Sang and De Meulder 2003).
    """
    sentences = _sentences(lines)
    words = [word for sentence in sentences for word in sentence]
    if not words:
        return Table(place, {}, 0, [])
    width = len(words[0][1])
    uneven = [(number, _uneven(len(fields), width)) for number, fields in words if len(fields) != width]
    if uneven:
        raise DataError(numbered_problem(place, "line", uneven, "write the word first and its tag last on every line"))
    columns = {"tokens": [[fields[0] for _, fields in sentence] for sentence in sentences]}
    if width > 1:
        columns["tags"] = [[fields[-1] for _, fields in sentence] for sentence in sentences]
    return Table(place, columns, len(sentences), [sentence[0][0] for sentence in sentences])


def _uneven(found: int, width: int) -> str:
    return f"{found} {'column' if found == 1 else 'columns'}, the first line has {width}"


def _sentences(lines: Sequence[str]) -> list[_Lines]:
    """Lines with their numbers from 1, split into fields, by sentence."""
    found: list[_Lines] = [[]]
    for number, line in enumerate(lines, start=1):
        fields = _fields(line)
        if not fields or fields[0].startswith(_DOCUMENT):
            if found[-1]:
                found.append([])
        elif found[-1] or not _is_comment(line, fields):
            found[-1].append((number, fields))
    return [sentence for sentence in found if sentence]


def _fields(line: str) -> list[str]:
    if not line.strip(" \t\r"):
        return []
    line = line.strip("\r")
    return line.rstrip("\t").split("\t") if "\t" in line.rstrip("\t") else re.split("[ \t]+", line.strip(" \t"))


def _is_comment(line: str, fields: Sequence[str]) -> bool:
    return line.startswith("# ") and not _TAG.fullmatch(fields[-1])


def looks_like_conll(lines: Sequence[str]) -> bool:
    """Whether text is a CoNLL file: every line a word and a tag of a span or `O`, at least one of a span.

    Example:
        >>> looks_like_conll(["Rome B-LOC", "is O"]), looks_like_conll(["a plain text O", "another"])
        (True, False)
    """
    tags = set()
    for sentence in _sentences(lines):
        for _, fields in sentence:
            if len(fields) < 2 or not _TAG.fullmatch(fields[-1]):
                return False
            tags.add(fields[-1])
    return bool(tags - {"O"})
