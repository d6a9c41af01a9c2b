"""Files and folders that appear whole or not at all, and small JSON files that carry the version of their layout."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from datadiet.errors import DataError

SCHEMA = 1  # of result.json, manifests, comparisons, score files, ...; one that changes gets a constant of its own


@contextmanager
def whole_file(target: Path) -> Iterator[Path]:
    """A path beside the target to write to. It replaces the target at the end of the block, and is removed on an error.

    Args:
        target: Replaced if it is there; its folder is made.

    Raises:
        DataError: If it cannot be written.
    """
    part = target.with_name(f".{target.name}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield part
        part.replace(target)
    except OSError as error:
        raise DataError(f"cannot write {target}: {error.strerror or error}.") from error
    finally:
        if part.is_file():
            part.unlink()


@contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """The same for a folder. The caller checks whether an existing folder may be replaced.

    Raises:
        DataError: If it cannot be written.
    """
    part, old = target.with_name(f".{target.name}.part"), target.with_name(f".{target.name}.old")
    try:
        for remains in (part, old):  # of a process that was killed
            shutil.rmtree(remains, ignore_errors=True)
        part.mkdir(parents=True)
        yield part
        if target.is_dir():
            target.replace(old)
        part.replace(target)
    except OSError as error:
        raise DataError(f"cannot write {target}: {error.strerror or error}.") from error
    finally:
        for remains in (part, old):
            shutil.rmtree(remains, ignore_errors=True)


def write_atomically(path: Path, text: str) -> None:
    """Write a text file so that a reader sees the old content or the new, never half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    with part.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    part.replace(path)


def read_json(path: Path, what: str, schema: int = SCHEMA) -> dict[str, Any]:
    """A JSON object with the version of its layout in `schema`.

    Args:
        path: The file.
        what: What the folder lacks if the file is missing, for the error.
        schema: The version that is read.

    Raises:
        DataError: If the file is missing, broken, or of another schema.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path.parent} holds no {what}: {path.name} is missing.") from error
    except ValueError as error:
        raise DataError(f"{path} is not valid JSON: {error}.") from error
    version = content.get("schema") if isinstance(content, dict) else None
    if version != schema:
        raise DataError(f"{path} has schema {version!r}; this version reads {schema}.")
    return dict(content)
