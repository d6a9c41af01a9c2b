"""Files and folders that appear whole or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from datadiet.checks import DataError


@contextmanager
def whole_file(target: Path) -> Iterator[Path]:
    """A file beside the target to write to, which takes its place in the end, and vanishes after an error.

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
    """The same for a folder. Whether one that is there may be replaced is for the caller to check.

    Raises:
        DataError: If it cannot be written.
    """
    part, old = target.with_name(f".{target.name}.part"), target.with_name(f".{target.name}.old")
    try:
        for left in (part, old):  # of a process that was killed
            shutil.rmtree(left, ignore_errors=True)
        part.mkdir(parents=True)
        yield part
        if target.is_dir():
            target.replace(old)
        part.replace(target)
    except OSError as error:
        raise DataError(f"cannot write {target}: {error.strerror or error}.") from error
    finally:
        for left in (part, old):
            shutil.rmtree(left, ignore_errors=True)
