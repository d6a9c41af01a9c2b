"""Rows for small data sets, and how to write them in every format."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Rows = Sequence[Mapping[str, Any]]


def as_jsonl(rows: Rows) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def write_rows(path: Path, rows: Rows) -> None:
    """Write rows in the format that the file's name says."""
    kind = path.name.removesuffix(".gz").rpartition(".")[2]
    if kind == "parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist(list(rows)), path)
        return
    if kind in ("csv", "tsv"):
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter="," if kind == "csv" else "\t")
            writer.writeheader()
            writer.writerows({k: " ".join(v) if isinstance(v, list) else v for k, v in row.items()} for row in rows)
    else:
        path.write_text(json.dumps(list(rows)) if kind == "json" else as_jsonl(rows), encoding="utf-8")
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(path.read_bytes()))


def sentences(count: int = 4, start: int = 0, labels: Sequence[Any] = ("neg", "pos")) -> list[dict[str, Any]]:
    """Rows of a two-class set, each text once."""
    return [{"text": f"text number {i}", "label": labels[i % len(labels)]} for i in range(start, start + count)]


def commands(count: int = 4, start: int = 0) -> list[dict[str, Any]]:
    """Rows of an intent and slot set."""
    intents = ("play", "stop")
    return [
        {"tokens": ["song", str(i)], "slots": ["O", "B-song"], "intent": intents[i % 2]}
        for i in range(start, start + count)
    ]
