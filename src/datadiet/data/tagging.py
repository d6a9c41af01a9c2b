"""CoNLL files (a word and its tag on each line, blank lines between sentences), and the tag schemes of spans."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from datadiet.data.schema import Examples
from datadiet.data.tables import Table, numbered_problem
from datadiet.errors import DataError

_TAG = re.compile(r"O|[BIESLU]-\S+")
_DOCUMENT = "-DOCSTART-"
_Lines = list[tuple[int, list[str]]]


def parse_conll(lines: Sequence[str], place: str) -> Table:
    """Sentences of a CoNLL file: the first column is the word, the last the tag; columns between them are ignored.

    Leading columns of numbers are left out; the first column of span tags beside them is the tag.

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

    Examples:
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
    word, tag, notes = _parts(sentences, width, place)
    columns = {"tokens": [[fields[word] for _, fields in sentence] for sentence in sentences]}
    if width > 1:
        columns["tags"] = [[fields[tag] for _, fields in sentence] for sentence in sentences]
    return Table(place, columns, len(sentences), [sentence[0][0] for sentence in sentences], notes=notes)


_CONLLU = 10  # columns of CoNLL-U
_NUMBER = re.compile(r"-?\d+([-.]\d+)?")
_FEW = 20  # words: in a shorter file a column of one value may be words


def _parts(sentences: Sequence[_Lines], width: int, place: str) -> tuple[int, int, tuple[str, ...]]:
    """The column of the word, that of the tag, and notes on those that are left out.

    Leading columns of numbers alone, or of one value alone, are no words.

    Raises:
        DataError: For CoNLL-U, and for a last column of one value, or of numbers, beside one of span tags.
    """
    rows = [fields for sentence in sentences for _, fields in sentence]
    kinds = [{fields[column] for fields in rows} for column in range(width)]
    spans = [column for column, tags in enumerate(kinds) if len(tags) > 1 and all(map(_TAG.fullmatch, tags))]
    if width == 2 and spans == [0]:
        return 1, 0, ("Column 1 is the tag, column 2 the word.",)
    last = width - 1
    word = 0
    while word < width - 2 and _is_no_word(kinds[word], len(rows)):
        word += 1
    if word and width == _CONLLU:
        raise DataError(
            f"{place}: this is CoNLL-U, ten columns of which none holds a tag of spans; write the word and the tag to "
            "learn, such as the part of speech, on each line."
        )
    spans = [column for column in spans if column > word]
    if word and spans:
        tag = spans[0]  # of several beside a number of the word, the outer one comes first
    elif spans and last not in spans and (len(kinds[last]) == 1 or all(map(_NUMBER.fullmatch, kinds[last]))):
        what = f"{kinds[last].pop()!r} on every line" if len(kinds[last]) == 1 else "a number on every line"
        raise DataError(
            f"{place}: the last column, which is the tag, is {what}, and column {spans[-1] + 1} looks like tags; leave "
            "out the columns after it."
        )
    else:
        tag = last
    numbers = "Column 1 numbers the words. " if word and all(map(_NUMBER.fullmatch, kinds[0])) else ""
    notes = (f"{numbers}Column {word + 1} is the word, column {tag + 1} the tag; the others are left out.",)
    return word, tag, notes if width > 2 else ()


def _is_no_word(values: set[str], count: int) -> bool:
    return all(map(_NUMBER.fullmatch, values)) or (len(values) == 1 and count >= _FEW)


def _uneven(columns: int, width: int) -> str:
    return f"{columns} {'column' if columns == 1 else 'columns'}, the first line has {width}"


def _sentences(lines: Sequence[str]) -> list[_Lines]:
    """Lines with their numbers from 1, split into fields, by sentence."""
    sentences: list[_Lines] = [[]]
    for number, line in enumerate(lines, start=1):
        fields = _fields(line)
        if not fields or fields[0].startswith(_DOCUMENT):
            if sentences[-1]:
                sentences.append([])
        elif sentences[-1] or not _is_comment(line, fields):
            sentences[-1].append((number, fields))
    return [sentence for sentence in sentences if sentence]


def _fields(line: str) -> list[str]:
    if not line.strip(" \t\r"):
        return []
    line = line.strip("\r")
    return line.rstrip("\t").split("\t") if "\t" in line.rstrip("\t") else re.split("[ \t]+", line.strip(" \t"))


def _is_comment(line: str, fields: Sequence[str]) -> bool:
    return line.startswith(("# ", "#\t")) and not _TAG.fullmatch(fields[-1])


def looks_like_conll(lines: Sequence[str]) -> bool:
    """Whether text is a CoNLL file: every line holds a word and a span tag or `O`, and at least one tag is not `O`.

    Examples:
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


Tags = Sequence[Sequence[str]]
_BILOU = {"L-": "E-", "U-": "S-"}


def usual_scheme(examples: Examples) -> tuple[Examples, str | None]:
    """Tags in BIO or IOBES: IOB1 becomes BIO, BILOU becomes IOBES, all other tags stay unchanged.

    Returns:
        The examples, and a note on the conversion, if there was one.

    Examples:
        >>> tagged = Examples(ids=("0",), texts=("in New York",), slots=(("O", "I-LOC", "I-LOC"),))
        >>> usual_scheme(tagged)[0].slots, usual_scheme(tagged)[1]
        ((('O', 'B-LOC', 'I-LOC'),), 'IOB1 tags were read as BIO')
    """
    if examples.slots is None:
        return examples, None
    if is_iob1(examples.slots):
        return replace(examples, slots=tuple(map(iob1_to_bio, examples.slots))), "IOB1 tags were read as BIO"
    if _is_bilou(examples.slots):
        return replace(examples, slots=tuple(map(_bilou_to_iobes, examples.slots))), "BILOU tags were read as IOBES"
    return examples, None


def is_iob1(sentences: Tags) -> bool:
    """Whether spans begin with `I-`, and with `B-` only right after a span of the same type.

    Examples:
        >>> is_iob1([["I-LOC", "B-LOC"]]), is_iob1([["I-LOC", "O", "B-LOC"]]), is_iob1([["B-LOC", "I-LOC"]])
        (True, False, False)

    Source: Ramshaw and Marcus 1995 (IOB1), Tjong Kim Sang and Veenstra 1999 (the name, and BIO as IOB2).
    """
    begins_inside = False
    for before, tag in _neighbours(sentences):
        follows = before[:2] in ("B-", "I-") and before[2:] == tag[2:]
        if (tag.startswith("B-") and not follows) or not _is_bio(tag):
            return False
        begins_inside |= tag.startswith("I-") and not follows
    return begins_inside


def _is_bio(tag: str) -> bool:
    return tag == "O" or tag.startswith(("B-", "I-"))


def _neighbours(sentences: Tags) -> Iterator[tuple[str, str]]:
    """Each tag with the one before it, `O` before a sentence."""
    return (pair for tags in sentences for pair in zip(("O", *tags), tags, strict=False))


def iob1_to_bio(tags: Sequence[str]) -> tuple[str, ...]:
    """Every span begins with `B-`.

    Examples:
        >>> iob1_to_bio(["I-LOC", "I-LOC", "B-LOC", "I-PER", "O"])
        ('B-LOC', 'I-LOC', 'B-LOC', 'B-PER', 'O')
    """
    return tuple(
        f"B-{tag[2:]}" if tag.startswith("I-") and (before == "O" or before[2:] != tag[2:]) else tag
        for before, tag in zip(("O", *tags), tags, strict=False)
    )


def _is_bilou(sentences: Tags) -> bool:
    """Whether there are `L-` or `U-`, and nothing that is not BILOU."""
    prefixes = {"O" if tag == "O" else tag[:2] for tags in sentences for tag in tags}
    return bool(prefixes & _BILOU.keys()) and prefixes <= {"O", "B-", "I-", *_BILOU}


def _bilou_to_iobes(tags: Sequence[str]) -> tuple[str, ...]:
    return tuple(_BILOU.get(tag[:2], tag[:2]) + tag[2:] for tag in tags)


def span_types(tags: Iterable[str]) -> tuple[str, ...]:
    """The types of the spans among the tags, each once, in the order they occur.

    Examples:
        >>> span_types(["O", "B-ORG", "I-ORG", "B-LOC", "B-ORG"])
        ('ORG', 'LOC')
    """
    return tuple(dict.fromkeys(tag[2:] if tag[1:2] == "-" else tag for tag in tags if tag != "O"))
