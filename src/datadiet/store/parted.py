"""Append-only Parquet tables whose manifest is written last: a part that the manifest does not name does not exist.

The score history and the plans of a run are such tables. A write that is killed leaves a file nobody reads; two runs
cannot mix, since a manifest names its run; a resumed run cuts the table back to what its checkpoint had seen.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datadiet.checks import DataError
from datadiet.store.json_files import read_json, write_atomically

if TYPE_CHECKING:
    import pyarrow as pa

MANIFEST = "_manifest.json"
SCHEMA = 1


class PartedTable:
    """A table that grows by parts, on disk under `folder` or in memory without one.

    Args:
        folder: Where the parts and the manifest lie; made at the first append.
        run: Names the run that owns the table.

    Raises:
        DataError: If the folder already belongs to another run.
    """

    def __init__(self, folder: Path | None, run: str) -> None:
        self.folder, self.run = folder, run
        self._parts: list[Any] = []  # file names, or tables where there is no folder
        if folder is not None and (folder / MANIFEST).exists():
            manifest = read_manifest(folder)
            if manifest["run"] != run:
                raise DataError(
                    f"{folder.name}/ in {folder.parent.name}/ belongs to another run; choose another folder."
                )
            self._parts = list(manifest["parts"])

    def __len__(self) -> int:
        return len(self._parts)

    def append(self, pieces: Iterable[pa.Table]) -> None:
        """Add a part; it exists from the moment the manifest names it.

        Args:
            pieces: Of the part, in order; at least one. On disk each is a row group, written before the next is asked
                for.
        """
        if self.folder is None:
            import pyarrow as pa

            self._parts.append(pa.concat_tables(pieces))
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        name = f"part-{len(self._parts):05d}.parquet"
        part = self.folder / f"{name}.part"
        _write_parquet(part, pieces)
        part.replace(self.folder / name)
        self._parts.append(name)
        self._write_manifest()

    def truncate(self, parts: int) -> None:
        """Forget all but the first `parts` parts: what a resumed run's checkpoint had seen."""
        if parts < len(self._parts):
            self._parts = self._parts[:parts]
            if self.folder is not None:
                self._write_manifest()

    def read(self) -> pa.Table | None:
        """Everything appended so far, in order; None if nothing was."""
        import pyarrow as pa

        if not self._parts:
            return None
        return read_table(self.folder) if self.folder is not None else pa.concat_tables(self._parts)

    def _write_manifest(self) -> None:
        assert self.folder is not None
        content = {"schema": SCHEMA, "run": self.run, "parts": self._parts}
        write_atomically(self.folder / MANIFEST, json.dumps(content, indent=1))


def _encodings(table: pa.Table) -> dict[str, str]:
    """The encoding of each column that takes least: hardly a value occurs twice, so dictionaries only add to them."""
    import pyarrow.types as kinds

    found = {}
    for field in table.schema:
        if kinds.is_integer(field.type):
            found[field.name] = "DELTA_BINARY_PACKED"
        elif kinds.is_floating(field.type):
            found[field.name] = "BYTE_STREAM_SPLIT"
        elif kinds.is_string(field.type):
            found[field.name] = "DELTA_BYTE_ARRAY"
    return found


def _write_parquet(path: Path, pieces: Iterable[pa.Table]) -> None:
    """One row group for each piece."""
    import pyarrow.parquet as pq

    with _plain_memory():
        rest = iter(pieces)
        first = next(rest)
        how = {"use_dictionary": False, "column_encoding": _encodings(first)}
        with pq.ParquetWriter(path, first.schema, compression="zstd", **how) as writer:
            writer.write_table(first)
            for piece in rest:
                writer.write_table(piece)


@contextmanager
def _plain_memory() -> Iterator[None]:
    """Arrow's buffers from the system's allocator: its own keeps several times what a part needs, for ever."""
    import pyarrow as pa

    before = pa.default_memory_pool()
    pa.set_memory_pool(pa.system_memory_pool())
    try:
        yield
    finally:
        pa.set_memory_pool(before)


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a table.

    Raises:
        DataError: If there is none, or one that this version cannot read.
    """
    return read_json(folder / MANIFEST, SCHEMA, "finished table")


def read_table(folder: Path) -> pa.Table:
    """All parts that the manifest names, in order.

    Raises:
        DataError: See `read_manifest`; also if the table is empty.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    parts = [pq.read_table(folder / name) for name in read_manifest(folder)["parts"]]
    if not parts:
        raise DataError(f"{folder} holds an empty table.")
    return pa.concat_tables(parts)
