"""Files and folders that appear whole or not at all, and small JSON files that carry the version of their layout."""

from __future__ import annotations

import json
import math
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from datadiet.errors import DataError, cut, quoted

GZ_LIMIT = 1.0  # GB that a .gz file may unpack to by default: one of a megabyte can become one
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


def read_bytes(path: Path, what: str = "") -> bytes:
    """The content of a file; `what` it is stands before its name in messages.

    Raises:
        DataError: If it is missing, may not be read, or is no file: pipes and devices may never end.
    """
    check_file(path, what)
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {what}{path}: {error.strerror}.") from error


def check_file(path: Path, what: str = "") -> None:
    """Refuse what is no file that can be read; see `read_bytes`."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:  # ValueError: a null character in the name
        raise DataError(f"cannot read {what}{cut(str(path))}: {_reason(path, error)}.") from error
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "a pipe, a socket or a device"
        raise DataError(f"cannot read {what}{path}: it is {kind}; give a file.")


def _reason(path: Path, error: OSError | ValueError) -> str:
    reason = getattr(error, "strerror", None) or str(error)
    return f"it is a link to {os.readlink(path)} ({reason})" if os.path.islink(path) else reason


def unwritable(path: Path) -> str | None:
    """Why a file or folder of this name cannot be written, before it is tried; None where nothing is in the way.

    Example:
        >>> unwritable(Path("/dev/null/scores.csv"))
        '/dev/null is no folder'
    """
    target = Path(os.path.abspath(path))
    try:
        target.with_name(f".{target.name}.part").lstat()  # the longest name that is written
    except (FileNotFoundError, NotADirectoryError):
        pass  # the usual case
    except (OSError, ValueError) as error:
        return f"{cut(str(path))}: {getattr(error, 'strerror', None) or error}"
    if os.path.lexists(target):
        if not (os.path.isfile(target) or os.path.isdir(target)):
            return f"{path} is {'a dangling link' if os.path.islink(target) else 'a pipe, a socket or a device'}"
        if not os.access(target, os.W_OK):
            return f"{path} may not be written to"
    place = next(folder for folder in target.parents if os.path.lexists(folder))
    if not os.path.isdir(place):
        return f"{place} is {'a file' if os.path.isfile(place) else 'no folder'}"
    return None if os.access(place, os.W_OK | os.X_OK) else f"{place} may not be written to"


def read_json(path: Path, what: str, schema: int = SCHEMA) -> dict[str, Any]:
    """A JSON object with the version of its layout in `schema`.

    Args:
        path: The file.
        what: What the folder lacks if the file is missing, for the error.
        schema: The version that is read.

    Raises:
        DataError: If the file is missing, broken, or of another schema.
    """
    if not os.path.lexists(path):
        raise DataError(f"{cut(str(path.parent))} holds no {what}: {path.name} is missing.")
    data = read_bytes(path)
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:  # ValueError: also for other encodings, and numbers without end
        raise DataError(f"{path} is not valid JSON: {error}.") from error
    version = content.get("schema") if isinstance(content, dict) else None
    if version != schema:
        raise DataError(f"{path} has schema {quoted(version)}; this version reads {schema}.")
    return dict(content)


def misfit(content: Any, form: Any, name: str) -> str | None:
    """What in JSON content has not the form that is needed, in words; None where it fits.

    Args:
        content: As read.
        form: A type; a list with the form of its items; a mapping with the forms of its entries, `...` for all others;
            a tuple of forms that are allowed, None for null. An entry whose name ends in `?` may be missing.
        name: Of the content, for the sentence.

    Example:
        >>> misfit({"rows": "many"}, {"rows": int}, "result.json")
        "result.json: rows is 'many'"
        >>> misfit({"rows": 5}, {"rows": (int, float), "task?": str}, "result.json")
    """
    if isinstance(form, tuple):
        problems = [misfit(content, one, name) for one in form]
        return None if None in problems else problems[-1]
    if isinstance(form, list) and isinstance(content, list):
        items = (misfit(item, form[0], f"{name}: {place}") for place, item in enumerate(content))
        return next(filter(None, items), None)
    if isinstance(form, dict) and isinstance(content, dict):
        lacks = [key for key in form if key is not ... and key not in content and not key.endswith("?")]
        entries = ((key, value, form.get(key, form.get(f"{key}?", form.get(...)))) for key, value in content.items())
        wrong = (misfit(value, one, f"{name}: {cut(key)}") for key, value, one in entries if one is not None)
        return f"{name} lacks {lacks[0]}" if lacks else next(filter(None, wrong), None)
    fits = content is None if form is None else isinstance(form, type) and isinstance(content, form)
    if isinstance(content, (int, float)):  # JSON has larger numbers than Python can compute with
        fits = fits and math.isfinite(content) and abs(content) < 2**63
    return None if fits else f"{name} is {quoted(content)}"
