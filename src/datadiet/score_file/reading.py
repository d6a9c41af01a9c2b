"""Reading a score file, and refusing data that it is not of."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datadiet.checks import DataError, Problems, unknown
from datadiet.score_file.content import FIXED, KEY, SCHEMA, ScoreFile, problems_of

_NEEDED = ("data", "fingerprint", "task", "rows", "label_names", "made_with")


def read_scores(path: str | Path, *, scores: Iterable[str] | None = None) -> ScoreFile:
    """Read a score file.

    Args:
        path: A `.parquet` file that `write_scores` wrote.
        scores: Names of the scores that are wanted; all by default.

    Raises:
        DataError: If there is no such file, it is no score file or of another schema, it has no score of a name, or
            its values are not finite.
    """
    import pyarrow as pa

    source = Path(path)
    if not source.is_file():
        raise DataError(f"there is no score file {source}; datadiet score writes one.")
    if source.suffix in (".jsonl", ".csv"):
        raise DataError(f"{source} is a score file for people; read the .parquet file that datadiet score writes.")
    try:
        table, meta = _opened(source, scores)
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{source} is not a readable Parquet file ({_first_line(error)}); score again.") from error
    return _file(source, table, meta)


def _opened(source: Path, scores: Iterable[str] | None) -> tuple[Any, dict[str, Any]]:
    """The columns that are wanted, and the metadata."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(source) as parquet:
        schema = parquet.schema_arrow
        meta = _metadata_of(source, schema)
        there = [name for name in schema.names if name not in FIXED]
        wanted = there if scores is None else list(dict.fromkeys(scores))
        problems = Problems()
        for name in wanted:
            problems.check(name in there, f"{source}: {unknown('score', name, there)}")
        problems.raise_any(DataError)
        return parquet.read([name for name in schema.names if name in FIXED or name in wanted]), meta


def _metadata_of(source: Path, schema: Any) -> dict[str, Any]:
    told = (schema.metadata or {}).get(KEY)
    if told is None:
        raise DataError(f"{source} is not a score file: it says nothing of datadiet. datadiet score writes one.")
    try:
        meta = json.loads(told)
    except ValueError as error:
        raise DataError(
            f"{source} is a damaged score file: its metadata are no JSON ({error}); score again."
        ) from error
    found = meta.get("schema") if isinstance(meta, dict) else None
    if found != SCHEMA:
        raise DataError(f"{source} has the schema {found!r}, this version reads {SCHEMA}; score again.")
    missing = [name for name in _NEEDED if name not in meta] + [n for n in ("row", "id") if n not in schema.names]
    if missing:
        raise DataError(f"{source} is a damaged score file: it lacks {', '.join(missing)}; score again.")
    return dict(meta)


def _file(source: Path, table: Any, meta: Mapping[str, Any]) -> ScoreFile:
    names = [name for name in table.column_names if name not in FIXED]
    labels = table["label"].to_pylist() if "label" in table.column_names else None
    label_names = tuple(map(str, meta["label_names"]))
    file = ScoreFile(
        ids=table["id"].to_pylist(),
        rows=_numbers(table["row"], np.int64),
        values={name: _numbers(table[name], np.float32) for name in names},
        labels=labels,
        fingerprint=str(meta["fingerprint"]),
        data=str(meta["data"]),
        task=str(meta["task"]),
        made_with={name: made for name, made in meta["made_with"].items() if name in names},
        label_names=label_names,
        probabilities=_matrix(table, len(label_names)),
        read_with=meta.get("read_with", {}),
        cost=meta.get("cost", {}),
        probabilities_with=meta.get("probabilities_with", {}),
    )
    problems = problems_of(file)
    problems.check(meta["rows"] == len(file), f"it has {len(file)} rows, its metadata say {meta['rows']}.")
    if problems.found:
        raise DataError(*(f"{source}: {problem}" for problem in problems.found))
    return file


def _numbers(column: Any, kind: Any) -> NDArray[Any]:
    """A column as an array; null is nan, which the checks refuse."""
    found: NDArray[Any] = np.asarray(column.to_numpy())
    whole = np.issubdtype(kind, np.integer)
    return np.full(len(found), -1, kind) if whole and column.null_count else found.astype(kind)


def _matrix(table: Any, classes: int) -> NDArray[np.float32] | None:
    """The class probabilities as float32 `(n, classes)`, or None."""
    if "probabilities" not in table.column_names:
        return None
    flat = table["probabilities"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    matrix: NDArray[np.float32] = flat.astype(np.float32).reshape(table.num_rows, -1)  # (n * classes,) -> (n, classes)
    return matrix


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def check_same_data(file: ScoreFile, fingerprint: str, where: str) -> None:
    """Refuse data that the scores are not of: they go by row, so they would be of other examples.

    Args:
        file: As read.
        fingerprint: Of the data at hand.
        where: The data at hand, as the user calls it.

    Raises:
        DataError: If the fingerprint is another one.
    """
    if file.fingerprint == fingerprint:
        return
    read = ", ".join(f"{name} {value}" for name, value in file.read_with.items() if value is not None)
    raise DataError(
        f"the scores are of other data: of {file.data!r} for the task {file.task!r}, {len(file):,} training rows, "
        f"fingerprint {file.fingerprint}; {where} has the fingerprint {fingerprint}. Give the data that was scored"
        f"{f', read in the same way ({read})' if read else ''}, or score again."
    )
