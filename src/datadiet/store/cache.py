"""Results that several runs share: entries of a cache folder, and files of one value per example.

`entry` takes a result from a folder, or computes it and stores it there. Every entry is a folder of its own, named by a
digest of its origin (everything that the result follows from). It holds the files of the result and `entry.json`:
schema, origin, the seconds that the result took to compute, and the size of every file. A run that reuses an entry is
charged these seconds, so the costs of runs do not depend on their order. The cache may be removed at any time.

`save_values` and `load_values` keep one number, or one row of numbers, per example in one Parquet file, by id.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar
from uuid import uuid4
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from datadiet.errors import ArgumentError, DataError, UserError, quoted
from datadiet.files import read_json, whole_file, write_atomically
from datadiet.ledger import Ledger
from datadiet.types import Json

if TYPE_CHECKING:
    import pyarrow as pa

ENTRY, PART, ARRAYS = "entry.json", ".part-", "arrays.npz"
ENTRY_SCHEMA = 2
STALE_S = 24 * 3600  # an unfinished entry of this age belongs to a process that was killed

T = TypeVar("T")


# ---- entries ----


@dataclass(frozen=True)
class Entry(Generic[T]):
    """A result from `entry`.

    Attributes:
        value: The result. It was read from the folder, unless `problem` is set.
        reused: Whether an earlier run computed it.
        problem: Why the result could not be stored; None where it could.
    """

    value: T
    reused: bool = False
    problem: str | None = None


def entry(
    folder: Path,
    kind: str,
    origin: Json,
    compute: Callable[[], T],
    *,
    save: Callable[[Path, T], object],
    load: Callable[[Path], T],
    ledger: Ledger | None = None,
) -> Entry[T]:
    """Take a result from the cache, or compute it and store it.

    An entry that is missing, incomplete, damaged, of another schema or of another origin is computed again and
    replaced. Where two processes compute the same entry, the first to finish stays. A folder that cannot be written to
    costs no result: it is returned with `problem` set.

    Args:
        folder: The cache.
        kind: Begins the name of the entry, e.g. `features`.
        origin: Plain JSON values: everything that the result follows from.
        compute: Gives the result.
        save: Writes the result into a folder, which it may have to make. No pickle.
        load: Reads it back; raises an OSError, ValueError, KeyError or TypeError where the content does not fit.
        ledger: Its running account is charged the seconds that a reused result took to compute.
    """
    place = _place(folder, kind, origin)
    stored = _read(place, origin, load)
    if stored is not None:
        value, seconds = stored
        if ledger is not None:
            ledger.charge_shared(seconds)
        return Entry(value, reused=True)
    began = time.perf_counter()
    value = compute()
    try:
        _write(place, origin, time.perf_counter() - began, lambda part: save(part, value), load)
    except OSError as error:  # a full disk, a folder without permission to write
        return Entry(value, problem=f"{error.strerror or error}")
    except UserError as error:  # a result that must not be stored, or a folder that cannot hold it
        return Entry(value, problem=str(error).rstrip("."))
    # read back: training on a memory-mapped file and on memory differ in speed, so all runs use the file
    stored = _read(place, origin, load)
    return Entry(value if stored is None else stored[0])


def save_arrays(folder: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write arrays by name, uncompressed, each with a checksum."""
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / ARRAYS, **arrays)  # type: ignore[arg-type]


def load_arrays(folder: Path) -> dict[str, NDArray[Any]]:
    """The arrays that `save_arrays` wrote.

    Raises:
        OSError, ValueError: If the file is missing, damaged, or holds Python objects.
    """
    try:
        with np.load(folder / ARRAYS, allow_pickle=False) as archive:
            return dict(archive)
    except (BadZipFile, EOFError) as error:
        raise ValueError(f"{folder / ARRAYS} is damaged") from error


def _place(folder: Path, kind: str, origin: Json) -> Path:
    digest = hashlib.sha256(json.dumps(origin, sort_keys=True).encode()).hexdigest()
    return folder / f"{kind}-{digest[:32]}"


def _read(place: Path, origin: Json, load: Callable[[Path], T]) -> tuple[T, float] | None:
    """The result and its seconds; None where the entry cannot be used."""
    try:
        about = read_json(place / ENTRY, "an entry", ENTRY_SCHEMA)
        seconds = float(about["seconds"])
        if about["origin"] != origin or about["files"] != sizes(place) or not 0 <= seconds < float("inf"):
            return None
        return load(place), seconds
    except (DataError, OSError, ValueError, KeyError, TypeError):
        return None


def _write(
    place: Path, origin: Json, seconds: float, save: Callable[[Path], object], load: Callable[[Path], T]
) -> None:
    """Write an entry beside its place and rename it; a usable entry that is there by then stays."""
    place.parent.mkdir(parents=True, exist_ok=True)
    _remove_stale(place.parent)
    part = _part(place)
    try:
        save(part)
        about = {"schema": ENTRY_SCHEMA, "origin": origin, "seconds": seconds, "files": sizes(part)}
        write_atomically(part / ENTRY, json.dumps(about))
        if place.exists() and _read(place, origin, load) is None:
            broken = _part(place)
            place.rename(broken)
            shutil.rmtree(broken, ignore_errors=True)
        try:
            part.rename(place)
        except OSError:
            if _read(place, origin, load) is None:  # else another process was faster
                raise
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _part(place: Path) -> Path:
    return place.with_name(f"{PART}{os.getpid()}-{uuid4().hex}")


def sizes(place: Path) -> dict[str, int]:
    """Bytes of the files of an entry by name, without `entry.json`: they show a file that was cut, added or removed."""
    return {file.name: file.stat().st_size for file in sorted(place.iterdir()) if file.name != ENTRY}


def _remove_stale(folder: Path) -> None:
    for part in folder.glob(f"{PART}*"):
        with suppress(FileNotFoundError):  # its process has renamed it meanwhile
            if time.time() - part.stat().st_mtime > STALE_S:
                shutil.rmtree(part, ignore_errors=True)


# ---- one value per example, by id ----

_ABOUT = b"datadiet"  # key of the schema's metadata


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
        DataError: If the file cannot be written.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    _check(ids, values)
    column = pa.array(np.ascontiguousarray(values).reshape(-1))  # (n, columns) -> (n * columns,)
    if values.ndim == 2:
        column = pa.FixedSizeListArray.from_arrays(column, values.shape[1])
    table = pa.table({"id": pa.array(list(ids), pa.string()), "values": column})
    about = json.dumps({"what": what, "fingerprint": fingerprint})
    with whole_file(path) as part:
        pq.write_table(table.replace_schema_metadata({_ABOUT: about}), part, compression="zstd")


def load_values(path: Path, ids: Sequence[str], *, what: str, fingerprint: str | None = None) -> NDArray[np.floating]:
    """The values of these ids, in their order.

    Args:
        path: Written by `save_values`.
        ids: Some or all of those in the file.
        what: The name that the values must have.
        fingerprint: Of the data that they must belong to; None accepts any data.

    Returns:
        float `(n,)` or `(n, columns)`, the dtype that was written.

    Raises:
        DataError: If the file is missing or not of this kind, belongs to other data, or lacks an id, naming some.
    """
    table, about = _table(path)
    if about.get("what") != what:
        raise DataError(f"{path.name} holds {about.get('what')!r}, not {what!r}.")
    if fingerprint is not None and about.get("fingerprint") != fingerprint:
        raise DataError(
            f"{path.name} was computed on other data (fingerprint {about.get('fingerprint') or 'unknown'}, here "
            f"{fingerprint}): compute it again."
        )
    rows = {key: row for row, key in enumerate(table["id"].to_pylist())}
    if missing := [key for key in ids if key not in rows]:
        raise DataError(f"{path.name} lacks {len(missing)} ids, among them {', '.join(map(repr, missing[:3]))}.")
    column = table["values"].combine_chunks()
    lists = hasattr(column.type, "list_size")
    values = np.asarray((column.flatten() if lists else column).to_numpy(zero_copy_only=False))
    # (n * columns,) -> (n, columns)
    return (values.reshape(-1, column.type.list_size) if lists else values)[[rows[key] for key in ids]]


def _check(ids: Sequence[str], values: NDArray[np.floating]) -> None:
    if values.ndim not in (1, 2) or len(values) != len(ids):
        raise ArgumentError(f"one value or one row of values per id is needed: got {values.shape} for {len(ids)} ids.")
    if len(set(ids)) < len(ids):
        seen: set[str] = set()
        twice = next(key for key in ids if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ArgumentError(f"ids must be different, {quoted(twice)} is there more than once.")
    finite = np.isfinite(values).reshape(len(ids), -1).all(1)  # (n, columns) -> (n,)
    if not finite.all():
        bad = [repr(ids[row]) for row in np.flatnonzero(~finite)[:3]]
        raise ArgumentError(f"values must be finite; they are not for {', '.join(bad)}.")


def _table(path: Path) -> tuple[pa.Table, Json]:
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
