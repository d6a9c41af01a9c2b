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

    Where the first column numbers the words, the second is the word, and the first of span tags the tag.

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
    if tag > word:
        columns["tags"] = [[fields[tag] for _, fields in sentence] for sentence in sentences]
    return Table(place, columns, len(sentences), [sentence[0][0] for sentence in sentences], notes=notes)


_CONLLU = 10  # columns of CoNLL-U
_INDEX = re.compile(r"\d+([-.]\d+)?")


def _parts(sentences: Sequence[_Lines], width: int, place: str) -> tuple[int, int, tuple[str, ...]]:
    """The column of the word, that of the tag, and notes where they are not the first and the last.

    Raises:
        DataError: For CoNLL-U, and for a last column of one value beside one of span tags.
    """
    word = int(width > 2 and _are_numbers(sentences))
    if word and width == _CONLLU:
        raise DataError(
            f"{place}: this is CoNLL-U, ten columns of which none holds a tag of spans; write the word and the tag to "
            "learn, such as the part of speech, on each line."
        )
    columns = range(word + 1, width)
    kinds = {column: {fields[column] for sentence in sentences for _, fields in sentence} for column in columns}
    spans = [column for column, tags in kinds.items() if len(tags) > 1 and all(map(_TAG.fullmatch, tags))]
    last = width - 1
    if last in kinds and len(kinds[last]) == 1 and spans and last not in spans:
        raise DataError(
            f"{place}: the last column, which is the tag, is {kinds[last].pop()!r} on every line, and column "
            f"{spans[-1] + 1} looks like tags; leave out the columns after it."
        )
    if not word:
        return 0, last, ()
    tag = spans[0] if spans else last  # of several, the outer one comes first
    return 1, tag, (f"Column 1 numbers the words and is left out; column 2 is the word, column {tag + 1} the tag.",)


def _are_numbers(sentences: Sequence[_Lines]) -> bool:
    """Whether the first column numbers the words of each sentence."""
    starts = {sentence[0][1][0] for sentence in sentences}
    numbers = all(_INDEX.fullmatch(fields[0]) for sentence in sentences for _, fields in sentence)
    return numbers and starts <= {"0", "1"} and any(len(sentence) > 1 for sentence in sentences)


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
    return line.startswith("# ") and not _TAG.fullmatch(fields[-1])


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
