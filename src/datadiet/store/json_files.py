"""Small files that say that something is complete: written whole, and read with their schema checked."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from datadiet.checks import DataError


def write_atomically(path: Path, text: str) -> None:
    """Write a text file so that a reader sees the old content or the new, never half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    with part.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    part.replace(path)


def read_json(path: Path, schema: int, what: str) -> dict[str, Any]:
    """A JSON object that was written last and says its schema.

    Args:
        path: The file.
        schema: The one that this version reads.
        what: What the folder lacks if the file is missing, for the error.

    Raises:
        DataError: If the file is missing, broken, or of another schema.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path.parent} holds no {what}: {path.name} is missing.") from error
    except ValueError as error:
        raise DataError(f"{path} is not valid JSON: {error}.") from error
    held = found.get("schema") if isinstance(found, dict) else None
    if held != schema:
        raise DataError(f"{path} has schema {held!r}; this version reads {schema}.")
    return dict(found)
