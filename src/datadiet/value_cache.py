"""Numbers per example that took a model to compute, kept in one Parquet file by id: irreducible losses, soft labels.

A file holds the ids, one column of numbers (one or several per example), and in its schema what they are and the
fingerprint of the data they were computed on. It is written under another name and then renamed.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from datadiet.checks import ArgumentError, DataError

if TYPE_CHECKING:
    import pyarrow as pa

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
