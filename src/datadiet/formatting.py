"""Numbers as people read them.

Numbers as people read them.

Markdown tables for a paper or a pull request.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence


def clock(seconds: float) -> str:
    """Seconds as minutes and seconds, with hours where there are any.

    Example:
        >>> clock(42.4), clock(3723), clock(-3)
        ('0:42', '1:02:03', '-0:03')
    """
    whole = round(abs(seconds))
    minutes, rest = divmod(whole, 60)
    hours, minutes = divmod(minutes, 60)
    sign = "-" if seconds < 0 and whole else ""
    return f"{sign}{hours}:{minutes:02d}:{rest:02d}" if hours else f"{sign}{minutes}:{rest:02d}"


def percent(share: float) -> str:
    """A share as a percentage.

    Example:
        >>> percent(0.375)
        '37.5 %'
    """
    return f"{100 * share:.1f} %"


def metrics_text(metrics: Mapping[str, float]) -> str:
    """Metrics on one line.

    Example:
        >>> metrics_text({"accuracy": 0.91234, "nll": 0.3})
        'accuracy 0.9123, nll 0.3000'
    """
    return ", ".join(f"{name} {value:.4f}" for name, value in metrics.items())


def number(value: float | None) -> str:
    """Four decimals, or a dash where nothing was measured.

    Example:
        >>> number(0.5), number(None)
        ('0.5000', '-')
    """
    return "-" if value is None else f"{value:.4f}"


def epoch_span(first: int, last: int) -> str:
    """Epochs counted from 1, as people do.

    Example:
        >>> epoch_span(0, 0), epoch_span(1, 5)
        ('1', '2-6')
    """
    return f"{first + 1}" if first == last else f"{first + 1}-{last + 1}"


def shown(text: object, most: int = 200) -> str:
    r"""Text from data on one line: what is no letter or sign is escaped, so that it cannot steer the terminal.

    Example:
        >>> shown("a\tb\x1b[2J"), shown("a long sentence", 8)
        ('a b\\x1b[2J', 'a long …')
    """
    line = " ".join(str(text).split())
    cut = line if len(line) <= most else f"{line[: most - 1].rstrip()} …"
    return "".join(sign if sign.isprintable() else sign.encode("unicode_escape").decode() for sign in cut)


def escaped(value: object) -> str:
    r"""Text that Markdown shows as it is: no headings, links, tables or HTML can come out of a folder's name.

    Example:
        >>> print(escaped("a|b <b>*_`"))
        a\|b \<b\>\*\_\`
    """
    return re.sub(r"([\\`*_{}\[\]<>()#+!|&~])", r"\\\1", " ".join(str(value).split()))


def seconds(value: float) -> str:
    """Seconds as people read them.

    Example:
        >>> seconds(9.31), seconds(75), seconds(4000)
        ('9.3 s', '1 min 15 s', '1 h 6 min')
    """
    if value < 60:
        return f"{value:.1f} s"
    whole = round(value)
    return f"{whole // 60} min {whole % 60} s" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60} min"


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    r"""A table whose first column is to the left and whose others are to the right; text is escaped.

    Example:
        >>> print(markdown_table(["a|b", "n"], [["x", "1"]]))
        | a\|b | n |
        | --- | ---: |
        | x | 1 |
    """
    rule = ["---", *["---:"] * (len(head) - 1)]
    lines = [[escaped(cell) for cell in head], rule, *([escaped(cell) for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
