"""Data files to tables, by their ending; from bytes, so that packaged and compressed files read alike."""

from __future__ import annotations

import gzip
import re
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from datadiet.checks import DataError
from datadiet.data.conll import looks_like_conll, parse_conll
from datadiet.data.decoding import read_bytes, text_lines
from datadiet.data.json_rows import read_json, read_jsonl
from datadiet.data.parquet import read_parquet
from datadiet.data.separated import read_csv, read_tsv
from datadiet.data.tables import Table

_Reader = Callable[[bytes, str], Table]


def read_txt(data: bytes, place: str) -> Table:
    """One text a line, as the column `text`; empty lines at the end do not count. CoNLL files are read as such."""
    lines = text_lines(data, place)
    if looks_like_conll(lines):
        return parse_conll(lines, place)
    return Table(place, {"text": lines}, len(lines), range(1, len(lines) + 1))


def read_conll(data: bytes, place: str) -> Table:
    """A word and its tag on each line, blank lines between sentences; see `parse_conll`."""
    return parse_conll(text_lines(data, place), place)


def read_seq_folder(folder: Path) -> Table:
    """The `seq.in` / `seq.out` / `label` layout: words and tags separated by spaces, one example a line.

    Raises:
        DataError: If `seq.in` is missing or the files differ in length.
    """
    place = str(folder / "seq.in")
    parts = {"tokens": "seq.in", "slots": "seq.out", "intent": "label"}
    paths = {column: folder / file for column, file in parts.items() if column == "tokens" or (folder / file).exists()}
    found = {column: text_lines(read_bytes(path), str(path)) for column, path in paths.items()}
    sizes = {parts[column]: len(lines) for column, lines in found.items()}
    if len(set(sizes.values())) > 1:
        told = ", ".join(f"{file} {size}" for file, size in sizes.items())
        raise DataError(
            f"{folder}: the files must have one line per example, found {told} lines; complete the shorter."
        )
    columns: dict[str, list[Any]] = dict(found)
    for name in found.keys() - {"intent"}:
        columns[name] = [[word for word in re.split("[ \t]+", line) if word] for line in found[name]]
    return Table(place, columns, len(found["tokens"]), range(1, len(found["tokens"]) + 1), textual=True)


FORMATS: Mapping[str, _Reader] = {
    "jsonl": read_jsonl,
    "json": read_json,
    "csv": read_csv,
    "tsv": read_tsv,
    "parquet": read_parquet,
    "conll": read_conll,
    "iob": read_conll,
    "iob2": read_conll,
    "bio": read_conll,
}


def split_name(file: str) -> tuple[str, str] | None:
    """A data file's stem and format, or None for another kind of file.

    Example:
        >>> split_name("train.jsonl.gz"), split_name("model.gz")
        (('train', 'jsonl'), None)
    """
    stem, _, kind = file.lower().removesuffix(".gz").rpartition(".")
    packed_parquet = kind == "parquet" and file.lower().endswith(".gz")
    return (stem, kind) if stem and (kind in FORMATS or kind == "txt") and not packed_parquet else None


def read_file(path: Path) -> Table:
    """Read one data file by its ending.

    Raises:
        DataError: If it cannot be read, or its ending is not known.
    """
    known = split_name(path.name)
    if known is None:
        allowed = ", ".join(f".{kind}" for kind in (*FORMATS, "txt"))
        raise DataError(f"{path}: unknown kind of file; allowed: {allowed}, the text ones also with .gz.")
    return read_named(read_bytes(path), path.name, str(path))


def read_named(data: bytes, file: str, place: str) -> Table:
    """Read the content of a data file whose name has a known ending."""
    data, kind = unpacked(data, file, place)
    return (read_txt if kind == "txt" else FORMATS[kind])(data, place)


def unpacked(data: bytes, file: str, place: str) -> tuple[bytes, str]:
    """The content without its compression, and its format.

    Raises:
        DataError: If it is no complete gzip file.

    Example:
        >>> unpacked(gzip.compress(b"{}"), "train.jsonl.gz", "train.jsonl.gz")
        (b'{}', 'jsonl')
    """
    kind = file.lower().removesuffix(".gz").rpartition(".")[2]
    if not file.lower().endswith(".gz"):
        return data, kind
    try:
        return gzip.decompress(data), kind
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{place}: not a complete gzip file ({error}); compress it again.") from error
