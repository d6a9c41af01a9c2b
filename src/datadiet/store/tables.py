"""Append-only Parquet tables of a run: its score history (scores/) and the rows of each epoch (plans/).

A table grows by parts; its manifest is written last, and a part that the manifest does not name does not exist. So a
killed write leaves a file that is never read, two runs cannot mix (the manifest names the run), and a resumed run cuts
a table back to the parts that its checkpoint counts. The manifest holds a checksum of each part, which every reader
compares. A part is converted and written in slices, to bound the memory.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from datadiet.data.tables import first_line, listed
from datadiet.errors import ArgumentError, DataError, quoted
from datadiet.files import SCHEMA, check_file, damage, misfit, read_json, seal_of, whole_file, write_json
from datadiet.formatting import counted
from datadiet.store.run_folder import MANIFEST, PLANS, SCORES
from datadiet.types import EpochPlan, Scores

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa
    import pyarrow.parquet as pq


logger = logging.getLogger(__name__)
_PART_NAME = re.compile(r"part-[0-9]{5,}\.parquet")
SLICE_ROWS = 16_384  # rows that are converted to Arrow and written at once
_FIXED = ("row", "id", "epoch", "round", "source")  # columns of a score history that are no scores


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
        self._seals: dict[str, str] = {}
        if (manifest := self._manifest()) is not None:
            self._parts, self._seals = list(manifest["parts"]), dict(manifest.get("seals", {}))

    def __len__(self) -> int:
        return len(self._parts)

    def append(self, pieces: Iterable[pa.Table]) -> None:
        """Add a part; it exists from the moment the manifest names it.

        Args:
            pieces: Of the part, in order; at least one. On disk each is a row group, written before the next one is
                made.
        """
        if self.folder is None:
            import pyarrow as pa

            self._parts.append(pa.concat_tables(pieces))
            return
        self._manifest()
        name = f"part-{len(self._parts):05d}.parquet"
        with whole_file(self.folder / name) as part:
            _write_parquet(part, pieces)
        self._parts.append(name)
        self._seals[name] = seal_of(self.folder / name)
        self._write_manifest()

    def truncate(self, parts: int) -> None:
        """Drop all but the first `parts` parts, for a resumed run: its checkpoint counts no more."""
        if parts < len(self._parts):
            self._parts = self._parts[:parts]
            if self.folder is not None:
                self._write_manifest()

    def read(self) -> pa.Table | None:
        """Everything appended so far, in order; None if nothing was."""
        import pyarrow as pa

        self._manifest()
        if not self._parts:
            return None
        return read_table(self.folder) if self.folder is not None else pa.concat_tables(self._parts)

    def _manifest(self) -> dict[str, Any] | None:
        """The folder's manifest, which no other run has written; None where there is none yet."""
        if self.folder is None or not (self.folder / MANIFEST).exists():
            return None
        manifest = read_manifest(self.folder)
        if manifest["run"] != self.run:
            raise DataError(
                f"{self.folder.name}/ in {self.folder.parent.name}/ belongs to another run; choose another folder."
            )
        return manifest

    def _write_manifest(self) -> None:
        assert self.folder is not None
        seals = {name: self._seals[name] for name in self._parts if name in self._seals}
        write_json(self.folder / MANIFEST, {"schema": SCHEMA, "run": self.run, "parts": self._parts, "seals": seals})


def _encodings(table: pa.Table) -> dict[str, str]:
    """The smallest encoding of each column: few values occur twice, so dictionaries would only add bytes."""
    import pyarrow.types as kinds

    encodings = (
        (kinds.is_integer, "DELTA_BINARY_PACKED"),
        (kinds.is_floating, "BYTE_STREAM_SPLIT"),
        (kinds.is_string, "DELTA_BYTE_ARRAY"),
    )
    return {field.name: name for field in table.schema for fits, name in encodings if fits(field.type)}


def _write_parquet(path: Path, pieces: Iterable[pa.Table]) -> None:
    """One row group for each piece."""
    import pyarrow.parquet as pq

    with _system_memory():
        pieces = iter(pieces)
        first = next(pieces)
        options = {"use_dictionary": False, "column_encoding": _encodings(first)}
        with pq.ParquetWriter(path, first.schema, compression="zstd", **options) as writer:
            for piece in chain([first], pieces):
                writer.write_table(piece)


@contextmanager
def _system_memory() -> Iterator[None]:
    """Arrow's buffers from the system's allocator: Arrow's own never returns several times the memory of a part."""
    import pyarrow as pa

    before = pa.default_memory_pool()
    pa.set_memory_pool(pa.system_memory_pool())
    try:
        yield
    finally:
        pa.set_memory_pool(before)


# ---- reading, and writing in slices ----


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a table.

    Raises:
        DataError: If there is none, or one that this version cannot read.
    """
    manifest = read_json(folder / MANIFEST, "finished table")
    if problem := misfit(manifest, {"run?": str, "parts": [str], ...: object}, str(folder / MANIFEST)):
        raise DataError(f"{problem}: the file is damaged or was changed.")
    if strange := [name for name in manifest["parts"] if not _PART_NAME.fullmatch(name)]:
        raise DataError(f"{folder / MANIFEST} names {listed(strange)}, which is no part of it.")
    return manifest


def iter_parts(folder: Path) -> Iterator[pq.ParquetFile]:
    """The parts that the manifest names, in order, each open while it is looked at.

    Raises:
        DataError: See `read_manifest`; also if a part is missing or damaged.
    """
    for path in _checked_parts(folder):
        with _opened(path) as file:
            yield file


def _opened(path: Path) -> pq.ParquetFile:
    import pyarrow as pa
    import pyarrow.parquet as pq

    check_file(path)
    try:
        return pq.ParquetFile(path)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path} is no Parquet file ({first_line(error)}).") from error


def _checked_parts(folder: Path) -> Iterator[Path]:
    """The parts that the manifest names, each compared with its checksum."""
    manifest = read_manifest(folder)
    for name in manifest["parts"]:
        seals = {name: seal} if (seal := manifest.get("seals", {}).get(name)) else {}
        if problem := damage(folder, seals):
            raise DataError(f"{problem}.")
        yield folder / name


def read_table(folder: Path) -> pa.Table:
    """All parts that the manifest names, in order.

    Raises:
        DataError: See `iter_parts`; also if the table is empty.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    parts = [pq.read_table(path) for path in _checked_parts(folder)]
    if not parts:
        raise DataError(f"{folder} holds an empty table.")
    return pa.concat_tables(parts)


def slices(count: int) -> Iterator[slice]:
    """Slices of so many rows; one empty slice for no rows."""
    return (slice(start, min(start + SLICE_ROWS, count)) for start in range(0, max(count, 1), SLICE_ROWS))


def text_array(keys: Iterable[object]) -> pa.Array:
    """Keys as an Arrow array of large text, without a list of all of them."""
    import pyarrow as pa

    remaining = iter(keys)
    pieces = [pa.array([], pa.large_string())]  # the keys of 100 million rows are more than 2 GB
    while piece := [str(key) for key in islice(remaining, SLICE_ROWS)]:
        pieces.append(pa.array(piece, pa.large_string()))
    return pa.concat_arrays(pieces)


# ---- the score history ----


class ScoreStore:
    """The score history of a run: one part per epoch of training values and per scoring pass.

    Columns: `row`, `id`, `epoch`, `round`, `source` (train | pass), and one column per score.

    Args:
        folder: `RUN/scores`, or None to keep the history in memory.
        run: Names the run.
        ids: The user's id of each row; the row number as text where there is none.
    """

    def __init__(self, folder: Path | None, run: str, ids: Sequence[str] | None = None) -> None:
        self.table = PartedTable(folder, run)
        self._ids = None if ids is None else text_array(ids)

    def append(self, scores: Scores) -> None:
        """Add the values of some rows."""
        self.table.append(self._piece(scores, part) for part in slices(len(scores.rows)))

    def _piece(self, scores: Scores, part: slice) -> pa.Table:
        import pyarrow as pa

        rows = pa.array(scores.rows[part], pa.int64())
        count = len(rows)
        return pa.table(
            {
                "row": rows,
                "id": rows.cast(pa.string()) if self._ids is None else self._ids.take(rows).cast(pa.string()),
                "epoch": pa.array(np.full(count, scores.epoch, np.int32)),
                "round": pa.array(np.full(count, scores.round, np.int32)),
                "source": pa.repeat(pa.scalar(scores.source), count),
                **{name: pa.array(values[part], pa.float32()) for name, values in scores.values.items()},
            }
        )

    def to_pandas(self) -> pd.DataFrame:
        """Every value of every example, one line per (row, epoch, source)."""
        import pandas as pd

        table = self.table.read()
        return pd.DataFrame() if table is None else table.to_pandas()


def iter_rounds(folder: Path, columns: Sequence[str]) -> Iterator[Scores]:
    """The score history of a run, part by part, as it was appended.

    Args:
        folder: `RUN/scores`.
        columns: Names of scores; those that a part lacks are left out of it.

    Yields:
        One record per epoch of training values and per scoring pass; parts without rows are skipped.

    Raises:
        DataError: If the history is missing or unfinished.
    """
    for file in iter_parts(folder):
        names = [name for name in dict.fromkeys(columns) if name in file.schema_arrow.names]
        table = file.read(columns=["row", "epoch", "round", "source", *names])
        if not table.num_rows:
            continue
        source, epoch, round_ = (table[name][0].as_py() for name in ("source", "epoch", "round"))
        values = {name: table[name].to_numpy() for name in names}
        yield Scores(table["row"].to_numpy(), values, source, epoch, round_)


def row_ids(folder: Path, rows: int) -> pa.Array:
    """The user's ids of the first `rows` rows, from a score history: text `(rows,)`, null for a row never seen.

    They stay in Arrow: a million Python strings take more memory than all scores. Parts are read until every row has
    its id.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    ids = pa.nulls(rows, pa.string())
    for file in iter_parts(folder):
        part = file.read(columns=["row", "id"])
        row, place = part["row"].to_numpy(), np.full(rows, -1, np.int64)
        inside = np.flatnonzero(row < rows)
        place[row[inside]] = inside
        ids = pc.coalesce(ids, part["id"].combine_chunks().take(pa.array(place, mask=place < 0)))
        if not ids.null_count:
            break
    return ids


def last_values(folder: Path, column: str) -> tuple[list[str | None], NDArray[np.float32]]:
    """The last value of each row in a run's score history that is not nan, beside its id.

    Args:
        folder: `RUN/scores`.
        column: A score's name.

    Returns:
        The ids `(n,)`, None for a row never seen; float32 `(n,)`, nan for a row without a value.

    Raises:
        DataError: If the history is missing or does not hold that score.
    """
    last = np.empty(0, np.float32)
    for scores in iter_rounds(folder, [column]):
        if column not in scores.values:
            names = ", ".join(name for name in next(iter_parts(folder)).schema_arrow.names if name not in _FIXED)
            raise DataError(f"{folder} holds no values of {quoted(column)}; it holds: {names}.")
        more = max(0, int(scores.rows.max()) + 1 - len(last))
        last = np.r_[last, np.full(more, np.nan, np.float32)]
        finite = ~np.isnan(scores.values[column])
        last[scores.rows[finite]] = scores.values[column][finite]
    if not len(last):
        raise DataError(f"{folder} holds an empty table.")
    return row_ids(folder, len(last)).to_pylist(), last


def matched(
    keys: Sequence[str], earlier: Sequence[str | None], values: NDArray[np.float32], run: Path
) -> NDArray[np.float32]:
    """The values of an earlier run for other rows, by id; rows that share an id are matched by their order.

    Args:
        keys: The ids of the rows.
        earlier, values: See `last_values`.
        run: Named in messages.

    Returns:
        float32 `(len(keys),)`, +inf for a row without a value.

    Raises:
        ArgumentError: If an id occurs several times, but not as often in both.

    Examples:
        >>> earlier, values = ["a", "b", "a"], np.array([1, 2, 3], np.float32)
        >>> matched(["b", "a", "a", "c"], earlier, values, Path("runs/a")).tolist()
        [2.0, 1.0, 3.0, inf]
    """
    rows: dict[str, list[int]] = {}
    for row, key in enumerate(earlier):
        if key is not None:
            rows.setdefault(key, []).append(row)
    times = Counter(key for key in keys if key in rows)
    for key, count in times.items():
        if count != len(rows[key]):
            raise ArgumentError(
                f"scores_from needs ids that tell rows apart: {key!r:.200} occurs {counted(count, 'time')} in the "
                f"training data and {counted(len(rows[key]), 'time')} in {run}. Give each row an id of its own."
            )
    repeated = sum(count > 1 for count in times.values())
    if repeated:
        logger.warning(
            f"scores_from: {counted(repeated, 'id')} occur several times; their rows are matched by their order."
        )
    places = {key: iter(found) for key, found in rows.items()}
    at = np.array([next(places[key]) if key in places else -1 for key in keys], np.int64)
    chosen = np.where(at < 0, np.nan, values[at])
    return np.where(np.isnan(chosen), np.inf, chosen).astype(np.float32)


# ---- plans, and the two tables of a run ----


def append_plan(table: PartedTable, plan: EpochPlan) -> None:
    """Record the rows of one epoch: `epoch`, `row`, `weight`."""
    table.append(_piece_of_plan(plan, part) for part in slices(len(plan.rows)))


def _piece_of_plan(plan: EpochPlan, part: slice) -> pa.Table:
    import pyarrow as pa

    rows = plan.rows[part]
    weights = np.ones(len(rows), np.float32) if plan.weights is None else plan.weights[part]
    return pa.table(
        {
            "epoch": pa.array(np.full(len(rows), plan.epoch, np.int32)),
            "row": pa.array(rows, pa.int64()),
            "weight": pa.array(weights, pa.float32()),
        }
    )


def has_tables(folder: Path) -> bool:
    """Whether a run folder has a score history or a record of the plans."""
    return any((folder / table / MANIFEST).exists() for table in (SCORES, PLANS))


def tables_problem(folder: Path, run: str, parts: Sequence[int]) -> str | None:
    """Why the tables of a run cannot be continued, in words without a full stop; None where they can.

    Args:
        folder: The run folder.
        run: Names the run.
        parts: Number of parts of scores/ and plans/ that a checkpoint counts.
    """
    for name, count in zip((SCORES, PLANS), parts, strict=True):
        table = folder / name
        if not count:
            continue
        try:
            manifest = read_manifest(table)
        except DataError as error:
            return str(error).rstrip(".")
        if manifest["run"] != run:
            return f"{table / MANIFEST} belongs to another run"
        if len(manifest["parts"]) < count:
            return f"{table / MANIFEST} names {len(manifest['parts'])} parts, and the checkpoint counts {count}"
        seals = manifest.get("seals", {})
        if problem := damage(table, {part: seals[part] for part in manifest["parts"][:count] if part in seals}):
            return problem
    return None


class RunTables:
    """The two tables of a run: scores/ and plans/.

    Args:
        folder: The run folder; None keeps them in memory.
        run: Names the run: two runs cannot share a folder.
        ids: The user's id of each row.
        parts: Number of parts of each that count. Later parts belong to steps that a resumed run repeats.

    Attributes:
        scores, plans: The tables.

    Raises:
        DataError: If the folder belongs to another run.
    """

    def __init__(self, folder: Path | None, run: str, ids: Sequence[str] | None, parts: Sequence[int]) -> None:
        self.scores = ScoreStore(folder and folder / SCORES, run, ids)
        self.plans = PartedTable(folder and folder / PLANS, run)
        self.scores.table.truncate(parts[0])
        self.plans.truncate(parts[1])

    @property
    def parts(self) -> tuple[int, int]:
        """Number of parts of each, for a checkpoint."""
        return len(self.scores.table), len(self.plans)
