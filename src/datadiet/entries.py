"""What runs share in a folder: each entry a folder of files, and `entry.json` with what it was made from.

An entry is written under another name and then renamed, so that two processes may make the same one: the first stays.
Entries are never changed; the folder can be removed at any time.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

from datadiet.checks import DataError
from datadiet.records import Json
from datadiet.store import read_json, write_atomically

ENTRY, PART = "entry.json", ".part-"
SCHEMA = 1
STALE_S = 24 * 3600  # a part so old belongs to a process that was killed


def place_of(folder: Path, origin: Json, kind: str) -> Path:
    """The folder of an entry.

    Args:
        folder: Keeps entries.
        origin: Plain values: everything that the entry follows from.
        kind: What the entry holds; its name begins with it.
    """
    digest = hashlib.sha256(json.dumps(origin, sort_keys=True).encode()).hexdigest()
    return folder / f"{kind}-{digest[:32]}"


def read_about(place: Path, origin: Json) -> Json | None:
    """What `entry.json` says; the seconds that the entry took are in `seconds`.

    Returns:
        None where there is no such entry, or one that is broken or was made from something else: it is to be made anew.
    """
    try:
        entry = read_json(place / ENTRY, SCHEMA, "an entry")
        good = entry["origin"] == origin and entry["files"] == sizes(place)
        return entry if good and 0 <= float(entry["seconds"]) < float("inf") else None
    except (DataError, OSError, ValueError, KeyError, TypeError):
        return None


def keep_entry(
    place: Path, origin: Json, about: Json, fill: Callable[[Path], object], is_good: Callable[[], bool]
) -> None:
    """Keep an entry, in place of a broken one; one that another process has made meanwhile stays.

    Args:
        place: See `place_of`.
        origin: What it was made from.
        about: Also in `entry.json`: `seconds`, and what else there is to say.
        fill: Writes the files into the folder that it is given.
        is_good: Whether a whole entry is at the place now.

    Raises:
        OSError: If the folder cannot be written to.
    """
    folder = place.parent
    folder.mkdir(parents=True, exist_ok=True)
    _remove_stale(folder)
    part = folder / f"{PART}{os.getpid()}-{uuid4().hex}"
    try:
        fill(part)
        entry = {"schema": SCHEMA, "origin": origin, **about, "files": sizes(part)}
        write_atomically(part / ENTRY, json.dumps(entry))
        _put(part, place, is_good)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _put(part: Path, place: Path, is_good: Callable[[], bool]) -> None:
    """Rename a part to its place, unless a good entry is there."""
    if place.exists() and not is_good():
        broken = place.with_name(f"{PART}{os.getpid()}-{uuid4().hex}")
        place.rename(broken)
        shutil.rmtree(broken, ignore_errors=True)
    try:
        part.rename(place)
    except OSError:
        if not is_good():  # not another process that was quicker
            raise


def sizes(place: Path) -> dict[str, int]:
    """Bytes of the files of an entry, but for `entry.json`, by name: a file that was cut or added shows."""
    return {file.name: file.stat().st_size for file in sorted(place.iterdir()) if file.name != ENTRY}


def _remove_stale(folder: Path) -> None:
    for part in folder.glob(f"{PART}*"):
        with suppress(FileNotFoundError):  # its process has put it in its place meanwhile
            if time.time() - part.stat().st_mtime > STALE_S:
                shutil.rmtree(part, ignore_errors=True)
