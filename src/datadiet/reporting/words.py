"""Numbers as people read them."""

from __future__ import annotations


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
