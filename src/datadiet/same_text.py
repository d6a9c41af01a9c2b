"""When two texts count as the same: case and spacing aside. Imports nothing heavy."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import repeat


def normal_text(text: str) -> str:
    """A text as it is compared: in lower case, single spaces between words.

    Example:
        >>> normal_text(" Good \t film")
        'good film'
    """
    return " ".join(text.casefold().split())


def text_keys(texts: Iterable[str], text_pairs: Iterable[str] | None = None) -> Iterator[tuple[str, str]]:
    """What the texts of each example, both of a pair, are compared by.

    Example:
        >>> list(text_keys(["Good  film", "Bad"]))
        [('good film', ''), ('bad', '')]
    """
    pairs = repeat("") if text_pairs is None else text_pairs
    return ((normal_text(one), normal_text(two)) for one, two in zip(texts, pairs, strict=False))
