"""Schemes of tags for spans: what is read as another of the same meaning."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from datadiet.data.records import Examples

Tags = Sequence[Sequence[str]]
_BILOU = {"L-": "E-", "U-": "S-"}


def usual_scheme(examples: Examples) -> tuple[Examples, str | None]:
    """Tags in BIO or IOBES: IOB1 becomes BIO, BILOU becomes IOBES, everything else stays as it is.

    Returns:
        The examples, and what was done, if anything.

    Example:
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

    Example:
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

    Example:
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

    Example:
        >>> span_types(["O", "B-ORG", "I-ORG", "B-LOC", "B-ORG"])
        ('ORG', 'LOC')
    """
    return tuple(dict.fromkeys(tag[2:] if tag[1:2] == "-" else tag for tag in tags if tag != "O"))
