"""What runs share in a folder: each entry a folder of files, and `entry.json` with what it was made from.

An entry is written under another name and then renamed, so that two processes may make the same one: the first stays.
Entries are never changed; the folder can be removed at any time.

Numbers per example that took a model to compute, kept in one Parquet file by id: irreducible losses, soft labels.

A file holds the ids, one column of numbers (one or several per example), and in its schema what they are and the
fingerprint of the data they were computed on. It is written under another name and then renamed.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from datadiet.errors import ArgumentError, DataError
from datadiet.files import read_json, write_atomically
from datadiet.types import Json

if TYPE_CHECKING:
    import pyarrow as pa


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


_ABOUT = b"datadiet"


def save_values(
    path: Path, ids: Sequence[str], values: NDArray[np.floating], *, what: str, fingerprint: str = ""
) -> None:
    """Write one number, or one row of numbers, per id; the dtype (float16 or float32) is kept.

    Args:
        path: Ends in `.parquet`; replaced if it is there.
        ids: `(n,)`, each once.
        values: float `(n,)` or `(n, columns)`, finite.
        what: Names them, e.g. `irreducible_loss`.
        fingerprint: Of the data that they were computed on.

    Raises:
        ArgumentError: If the lengths differ, an id repeats or a value is not finite, naming ids.
    """
    import pyarrow.parquet as pq

    _check(ids, values)
    table = _table(ids, values, {"what": what, "fingerprint": fingerprint})
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    pq.write_table(table, part, compression="zstd")
    part.replace(path)


def load_values(path: Path, ids: Sequence[str], *, what: str, fingerprint: str | None = None) -> NDArray[np.floating]:
    """The values of these ids, in their order.

    Args:
        path: Written by `save_values`.
        ids: Some or all of those in the file.
        what: What they must be.
        fingerprint: Of the data they must belong to; None does not ask.

    Returns:
        float `(n,)` or `(n, columns)`, the dtype that was written.

    Raises:
        DataError: If the file is missing or not of this kind, belongs to other data, or lacks an id, naming some.
    """
    table, about = _read(path)
    if about.get("what") != what:
        raise DataError(f"{path.name} holds {about.get('what')!r}, not {what!r}.")
    if fingerprint is not None and about.get("fingerprint") != fingerprint:
        raise DataError(
            f"{path.name} was computed on other data (fingerprint {about.get('fingerprint') or 'unknown'}, here "
            f"{fingerprint}): compute it again."
        )
    place = {key: row for row, key in enumerate(table["id"].to_pylist())}
    if missing := [key for key in ids if key not in place]:
        raise DataError(f"{path.name} lacks {len(missing)} ids, among them {', '.join(map(repr, missing[:3]))}.")
    return _numbers(table)[[place[key] for key in ids]]


def _check(ids: Sequence[str], values: NDArray[np.floating]) -> None:
    if values.ndim not in (1, 2) or len(values) != len(ids):
        raise ArgumentError(f"one value or one row of values per id is needed: got {values.shape} for {len(ids)} ids.")
    if len(set(ids)) < len(ids):
        seen: set[str] = set()
        twice = next(key for key in ids if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ArgumentError(f"ids must be different, {twice!r} is there more than once.")
    finite = np.isfinite(values).reshape(len(ids), -1).all(1)  # (n, columns) -> (n,)
    if not finite.all():
        bad = [repr(ids[row]) for row in np.flatnonzero(~finite)[:3]]
        raise ArgumentError(f"values must be finite; they are not for {', '.join(bad)}.")


def _table(ids: Sequence[str], values: NDArray[np.floating], about: dict[str, str]) -> pa.Table:
    import pyarrow as pa

    flat = pa.array(np.ascontiguousarray(values).reshape(-1))  # (n, columns) -> (n * columns,)
    column = flat if values.ndim == 1 else pa.FixedSizeListArray.from_arrays(flat, values.shape[1])
    table = pa.table({"id": pa.array(list(ids), pa.string()), "values": column})
    return table.replace_schema_metadata({_ABOUT: json.dumps(about).encode()})


def _read(path: Path) -> tuple[pa.Table, dict[str, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist.") from error
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{path} cannot be read as Parquet: {error}.") from error
    about = (table.schema.metadata or {}).get(_ABOUT)
    if about is None or {"id", "values"} - set(table.column_names):
        raise DataError(f"{path.name} was not written by datadiet: it has no ids and values of a model.")
    return table, dict(json.loads(about))


def _numbers(table: pa.Table) -> NDArray[np.floating]:
    import pyarrow as pa

    column = table["values"].combine_chunks()
    if not pa.types.is_fixed_size_list(column.type):
        return np.asarray(column.to_numpy(zero_copy_only=False))
    flat = column.flatten().to_numpy(zero_copy_only=False)
    return np.asarray(flat).reshape(-1, column.type.list_size)  # (n * columns,) -> (n, columns)
