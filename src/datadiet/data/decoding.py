"""A file's bytes, and the text in them: UTF-8, or the line that is not."""

from __future__ import annotations

from pathlib import Path

from datadiet.checks import DataError


def read_bytes(path: Path) -> bytes:
    """A file's content.

    Raises:
        DataError: If it is missing or may not be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}.") from error


def text_lines(data: bytes, place: str) -> list[str]:
    """Lines of a text file without their ends; empty ones at the end are left out."""
    lines = [line.strip("\r") for line in decoded(data, place).split("\n")]
    while lines and not lines[-1].strip():
        lines.pop()
    return lines


def decoded(data: bytes, place: str) -> str:
    """UTF-8 text, with or without a byte order mark.

    Raises:
        DataError: With the line that is not UTF-8.
    """
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(not_utf8(place, data[: error.start].count(b"\n") + 1)) from error


def not_utf8(place: str, line: int) -> str:
    """What is said of a line that is not UTF-8."""
    return f"{place}, line {line}: not UTF-8 text; save the file in the UTF-8 encoding."
