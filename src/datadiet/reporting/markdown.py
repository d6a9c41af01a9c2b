"""Markdown tables for a paper or a pull request."""

from __future__ import annotations

from collections.abc import Sequence

from datadiet.display.words import escaped


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
