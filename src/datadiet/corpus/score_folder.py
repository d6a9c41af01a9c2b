"""The folder of a scored corpus: `corpus.json`, and a Parquet file per partition with ids, scores and reasons.

    corpus.json     what was scored and how, the partitions with their seals and rows, those that cannot be read, the
                    cost; written at the start, and again at the end
    parts/          a Parquet file per partition: `id`, `row` (in its file), `group` where rows have one, a float32
                    column per score (null where a row has none), `embedding`, `duplicate_of`, `reason`
    begin/          counts and hashes of the first phase; may be removed once the corpus is scored

A file of parts/ says in its metadata what it was made from; a job takes it over where that is what it would make.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datadiet.data.tables import first_line
from datadiet.errors import DataError, quoted
from datadiet.files import misfit, read_json, whole_file, write_json
from datadiet.types import Json

MANIFEST, PARTS, BEGIN, LOCK = "corpus.json", "parts", "begin", "lock"
META = b"datadiet_part"
FIXED = ("id", "row", "group", "embedding", "duplicate_of", "reason")
DUPLICATE, MISSING = "duplicate", "missing"
_FORM = {
    "data": str,
    "fingerprint": str,
    "task": str,
    "scores": [str],
    "job": dict,
    "reading": dict,
    "complete": bool,
    "parts": [{"name": str, "file": str, "seal": str, "rows": int, "path": str, ...: None}],
    "unreadable": {...: str},
    ...: None,
}


def is_score_folder(path: Path) -> bool:
    """Whether a path is the folder of a scored corpus."""
    return (path / MANIFEST).is_file()


@dataclass(frozen=True)
class ScoreFolder:
    """A folder of scores, opened.

    Attributes:
        place: The folder.
        manifest: The content of `corpus.json`.
    """

    place: Path
    manifest: Mapping[str, Any]

    @property
    def scores(self) -> tuple[str, ...]:
        """Names of the scores."""
        return tuple(self.manifest["scores"])

    @property
    def rows(self) -> int:
        """Rows of all partitions that could be read."""
        return sum(part["rows"] for part in self.manifest["parts"])

    @property
    def paths(self) -> list[Path]:
        """The files of the partitions that have rows, in order."""
        return [self.place / PARTS / part["path"] for part in self.manifest["parts"] if part["rows"]]


def open_scores(place: Path) -> ScoreFolder:
    """A finished folder of scores.

    Raises:
        DataError: If it is none, damaged or not finished.
    """
    manifest = read_json(place / MANIFEST, "scores of a corpus")
    if odd := misfit(manifest, _FORM, MANIFEST):
        raise DataError(f"{place} holds damaged scores ({odd}); score again.")
    if not manifest["complete"]:
        raise DataError(f"{place} is not finished: give the command that wrote it once more, and it goes on.")
    folder = ScoreFolder(place, manifest)
    missing = [path.name for path in folder.paths if not path.is_file()]
    if missing:
        raise DataError(f"{place} lacks {len(missing)} of its files, such as {quoted(missing[0])}; score again.")
    return folder


def write_manifest(place: Path, content: Json) -> None:
    """Write `corpus.json` anew."""
    write_json(place / MANIFEST, {"schema": 1, **content})


# ---- the file of a partition


@contextmanager
def part_writer(path: Path) -> Iterator[PartWriter]:
    """A file of parts/, which appears when the block ends without an error."""
    with whole_file(path) as part:
        writer = PartWriter(part)
        try:
            yield writer
        finally:
            writer.close()


class PartWriter:
    """Writes a partition batch by batch; `meta` goes into the file at the end."""

    def __init__(self, path: Path) -> None:
        self._path, self._writer, self.meta = path, None, {}

    _writer: Any
    meta: Json

    def write(self, columns: Mapping[str, Any]) -> None:
        """A batch: texts as lists, numbers and embeddings as arrays; a number that is not finite becomes null."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        table = pa.table({name: _arrow(name, values) for name, values in columns.items()})
        if self._writer is None:
            self._writer = pq.ParquetWriter(self._path, table.schema, compression="zstd")
        self._writer.write_table(table)

    def close(self) -> None:
        """Write what the file says of itself."""
        if self._writer is None:
            self.write({"id": []})
        self._writer.add_key_value_metadata({META.decode(): json.dumps(self.meta)})
        self._writer.close()


def _arrow(name: str, values: Any) -> Any:
    import pyarrow as pa

    if not isinstance(values, np.ndarray):
        return pa.array(values, pa.string())
    if values.ndim == 2:
        return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), values.shape[1])
    return pa.array(values, mask=~np.isfinite(values)) if values.dtype.kind == "f" else pa.array(values)


def part_meta(path: Path) -> Json | None:
    """What a file of parts/ says of itself; None where there is none, or it is damaged."""
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as parquet:
            meta = json.loads((parquet.metadata.metadata or {})[META])
            return meta if isinstance(meta, dict) and meta.get("rows") == parquet.metadata.num_rows else None
    except Exception:  # whatever is wrong with it, it is made again
        return None


def _read(path: Path, names: Sequence[str]) -> Any:
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as parquet:
            there = parquet.schema_arrow.names
            return parquet.read([name for name in names if name in there], use_threads=False)
    except Exception as error:  # pyarrow raises errors of many types; the cause stays in the chain
        raise DataError(f"{path} is damaged ({first_line(error)}); score again.") from error


def may_be_chosen(path: Path) -> NDArray[np.bool_]:
    """Where a row of a partition has no reason against it."""
    table = _read(path, ["row", "reason"])
    if "reason" not in table.column_names or table["reason"].null_count == table.num_rows:
        return np.ones(table.num_rows, np.bool_)
    return np.asarray(table["reason"].is_null().to_numpy(), np.bool_)


def scores_of(path: Path, name: str) -> NDArray[np.float32]:
    """A score of the rows of a partition that may be chosen, float32.

    Raises:
        DataError: If the file is damaged.
    """
    table = _chosen(_read(path, [name, "reason"]))
    return np.asarray(table[name].to_numpy(), np.float32)


def groups_of(path: Path) -> tuple[NDArray[np.int64], list[str]]:
    """The groups of the rows of a partition that may be chosen: numbers, and the names that they stand for.

    Raises:
        DataError: If the file is damaged.
    """
    import pyarrow as pa

    column = _chosen(_read(path, ["group", "reason"]))["group"].combine_chunks()
    coded = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
    if isinstance(coded, pa.ChunkedArray):
        coded = coded.combine_chunks()
    return coded.indices.to_numpy(zero_copy_only=False).astype(np.int64), coded.dictionary.to_pylist()


def _chosen(table: Any) -> Any:
    if "reason" not in table.column_names or table["reason"].null_count == table.num_rows:
        return table
    return table.filter(table["reason"].is_null())


def sums(parts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The sum of each entry."""
    total: dict[str, float] = {}
    for part in parts:
        for name, value in part.items():
            total[name] = total.get(name, 0) + value
    return total
