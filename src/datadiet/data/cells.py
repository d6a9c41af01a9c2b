"""Lists that were written into one cell of a text file: as JSON, as Python or as NumPy prints them."""

from __future__ import annotations

import ast
import io
import json
import re
import tokenize
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

_TEXTS = re.compile(r"""\[\s*(?:'[^']*'|"[^"]*")(?:\s+(?:'[^']*'|"[^"]*"))*\s*\]""")
_NUMBER = re.compile(r"-?[0-9]{1,300}\.?[0-9]{0,300}")  # Python refuses to read numbers of thousands of digits
_NUMBERS = re.compile(rf"\[\s*{_NUMBER.pattern}(?:\s+{_NUMBER.pattern})*\s*\]")
_SET = re.compile(r"\{[^{}]*,[^{}]*\}")


def is_bracketed(cell: Any) -> bool:
    """Whether a cell is text that begins and ends as a printed list, tuple, set or array does.

    Example:
        >>> [is_bracketed(cell) for cell in ("[3 0]", "('O', 'B-ORG')", "{O, B-ORG}", "( Reuters )", "[1] see below")]
        [True, True, True, False, False]
    """
    if not isinstance(cell, str):
        return False
    text = cell.strip()
    if text.startswith(("array([", "['", '["', "('", '("')):
        return True
    return (text[:1] == "[" and text[-1:] == "]") or _SET.fullmatch(text) is not None


def printed_list(cell: str) -> list[Any] | None:
    """The items of a printed list; None where they cannot be told without a doubt.

    Example:
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
