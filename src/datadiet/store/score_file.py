"""The score file: values of one whole training split, written by `datadiet score` and read by `datadiet select`.

Layout: one Parquet file, one line per training row, ascending by row:

    row            int64, 0 to n - 1
    id             text, the user's own
    label          text, for splits with one label per row
    SCORE          float32, one column per score; larger = harder, null where a row has no value
    probabilities  fixed-size list<float32>, one number per class, optional

and in the schema's metadata, under `datadiet`, JSON with `schema`, `data` (a name, never a path), `fingerprint`,
`task`, `rows`, `label_names`, `made_with` (per score: model, epochs, seconds, ...), `read_with` (options of the data),
`cost` (of the whole file), `probabilities_with` (folds, for out-of-sample probabilities) and `missing` (per score, how
many rows have no value). JSON lines and CSV are
written for people, and not read back.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datadiet.config import COLUMNS, READING_FLAGS
from datadiet.data.export import write_csv, write_jsonl
from datadiet.data.schema import Columns
from datadiet.data.tables import first_line, listed
from datadiet.errors import ArgumentError, DataError, Problems, UserError, cut, quoted, unknown
from datadiet.files import SCHEMA, check_file, target_problems, unwritable, whole_file

FIXED = ("row", "id", "label", "probabilities")
MOST_NAMED = 5
KEY = b"datadiet"  # of the metadata


@dataclass(frozen=True)
class ScoreFile:
    """Values of a whole training split.

    Attributes:
        ids: The user's ids, `(n,)`.
        rows: int64 `(n,)`, 0 to n - 1: positions in the training split.
        values: float32 `(n,)` by the score's name; larger = harder, nan where `missing`.
        labels: Class names `(n,)`; None for splits without one label per row.
        fingerprint: Of the data set; see `datadiet.data.schema.Dataset`.
        data: Name of the data set; never a path.
        task: `classification`, `regression`, `intent-slot`, ...
        made_with: Origin of each score, by its name: `model` (a name, never a path), `epochs`, `seconds`, ...
        label_names: Class names in the order of `probabilities`.
        probabilities: float32 `(n, classes)`, or None.
        read_with: Options of `datadiet.load_data` to read the split again: `train_rows`, `dev_share`, `seed`,
            `drop_overlap`, `label_separator`, and `columns`, by the fields of `datadiet.data.schema.Columns`. Missing
            ones have their defaults.
        cost: Of the whole file, by the fields of `datadiet.types.CostLedger`; empty where unknown.
        probabilities_with: `{"folds": K}` where the probabilities are out of sample; else empty.
        missing: Where a row has no value, bool `(n,)`, of scores that lack any; an answer that was cut away, say.
    """

    ids: Sequence[str]
    rows: NDArray[np.int64]
    values: Mapping[str, NDArray[np.float32]]
    labels: Sequence[str] | None
    fingerprint: str
    data: str
    task: str
    made_with: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    label_names: tuple[str, ...] = ()
    probabilities: NDArray[np.float32] | None = None
    read_with: Mapping[str, Any] = field(default_factory=dict)
    cost: Mapping[str, Any] = field(default_factory=dict)
    probabilities_with: Mapping[str, Any] = field(default_factory=dict)
    missing: Mapping[str, NDArray[np.bool_]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.rows)

    def lacks(self, score: str) -> NDArray[np.bool_]:
        """Where a row has no value of a score, bool `(n,)`."""
        return self.missing.get(score, np.zeros(len(self), np.bool_))


def problems_of(file: ScoreFile) -> Problems:
    """Problems of the content; none where it can be written."""
    problems = Problems()
    problems.check(bool(file.values), "a score file needs at least one score, got none.")
    problems.check(len(file) > 0, "a score file needs at least one row, got none.")
    taken = sorted(set(file.values) & set(FIXED))
    problems.check(not taken, f"a score cannot be called {', '.join(taken)}: the score file has a column of that name.")
    unknown_names = sorted(file.made_with.keys() - file.values.keys())
    message = f"made_with names {', '.join(unknown_names)}, which is no score of the file."
    problems.check(not unknown_names, message)
    in_order = np.array_equal(file.rows, np.arange(len(file)))
    problems.check(in_order, f"the rows of a score file must be 0 to {len(file) - 1}: the whole training split.")
    problems.found += _wrong_lengths(file)
    if not problems.found:
        for name, values in file.values.items():
            problems.found += not_finite(name, np.where(file.lacks(name), np.float32(0), values), file.ids)
    return problems


def _wrong_lengths(file: ScoreFile) -> list[str]:
    columns: dict[str, Any] = {"ids": file.ids, "labels": file.labels, **file.values}
    columns |= {f"missing of {name}": where for name, where in file.missing.items()}
    wrong = [
        f"{name} must have one entry per row, {len(file)}, got {len(values)}."
        for name, values in columns.items()
        if values is not None and len(values) != len(file)
    ]
    shape = (len(file), len(file.label_names))
    if file.probabilities is not None and file.probabilities.shape != shape:
        wrong.append(
            f"probabilities must have the shape {shape}, rows and label names, got {file.probabilities.shape}."
        )
    return wrong


def not_finite(name: str, values: NDArray[np.float32], ids: Sequence[str]) -> list[str]:
    """A sentence on NaN and infinite values, with the ids; an empty list where all are finite.

    Examples:
        >>> not_finite("el2n", np.float32([0.5, np.nan]), ["a", "b"])
        ["the values of el2n must be finite numbers; 1 of 2 are not: nan (id 'b'). Score again, or leave el2n out."]
    """
    bad = np.flatnonzero(~np.isfinite(values))
    if not bad.size:
        return []
    named = ", ".join(f"{values[row]} (id {quoted(ids[row])})" for row in bad[:MOST_NAMED])
    more = f" and {bad.size - MOST_NAMED} more" if bad.size > MOST_NAMED else ""
    return [
        f"the values of {name} must be finite numbers; {bad.size} of {len(values)} are not: {named}{more}. "
        f"Score again, or leave {name} out."
    ]


# the arguments of `load_data` that say how the split was read
_READ_WITH = {"seed" if name == "data_seed" else name for name in READING_FLAGS if name not in COLUMNS}
_NEEDED = ("data", "fingerprint", "task", "rows", "label_names", "made_with")


def read_scores(path: str | Path, *, scores: Iterable[str] | None = None) -> ScoreFile:
    """Read a score file.

    Args:
        path: A `.parquet` file that `write_scores` wrote.
        scores: Names of the scores to read; all by default.

    Raises:
        DataError: If there is no such file, it is not a score file or of another schema, a score is missing, or values
            are not finite.
    """
    source = Path(path)
    if not os.path.lexists(source):
        raise DataError(f"there is no score file {cut(str(source))}; datadiet score writes one.")
    check_file(source)
    if source.suffix in (".jsonl", ".csv"):
        raise DataError(f"{source} is a score file for people; read the .parquet file that datadiet score writes.")
    try:
        table, meta = _opened(source, scores)
        return _file(source, table, meta)
    except UserError:
        raise
    except Exception as error:  # pyarrow raises errors of many types; the cause stays in the chain
        raise DataError(f"{source} is not a readable Parquet file ({first_line(error)}); score again.") from error


def _opened(source: Path, scores: Iterable[str] | None) -> tuple[Any, dict[str, Any]]:
    """The requested columns, and the metadata."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(source) as parquet:
        schema = parquet.schema_arrow
        meta = _metadata_of(source, schema)
        available = [name for name in schema.names if name not in FIXED]
        requested = available if scores is None else list(dict.fromkeys(scores))
        problems = Problems()
        for name in requested:
            problems.check(name in available, f"{source}: {unknown('score', name, available)}")
        problems.raise_any(DataError)
        return parquet.read([name for name in schema.names if name in FIXED or name in requested]), meta


def _metadata_of(source: Path, schema: Any) -> dict[str, Any]:
    text = (schema.metadata or {}).get(KEY)
    if text is None:
        raise DataError(f"{source} is not a score file: it has no metadata of datadiet. datadiet score writes one.")
    try:
        meta = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{source} is a damaged score file: its metadata are no JSON ({error}); score again."
        ) from error
    version = meta.get("schema") if isinstance(meta, dict) else None
    if version != SCHEMA:
        raise DataError(f"{source} has the schema {quoted(version)}, this version reads {SCHEMA}; score again.")
    missing = [name for name in _NEEDED if name not in meta] + [n for n in ("row", "id") if n not in schema.names]
    if missing:
        raise DataError(f"{source} is a damaged score file: it lacks {', '.join(missing)}; score again.")
    if odd := [*_odd_metadata(meta), *_odd_columns(schema)]:
        raise DataError(f"{source} is a damaged score file: {listed(odd)} is of another form; score again.")
    return dict(meta)


def _odd_metadata(meta: Mapping[str, Any]) -> list[str]:
    """Names in the metadata whose values have another form than those that are written."""
    forms: dict[str, type] = {"label_names": list, "rows": int, "data": str, "fingerprint": str, "task": str}
    forms |= dict.fromkeys(("made_with", "read_with", "cost", "probabilities_with", "missing"), dict)
    odd = [name for name, form in forms.items() if name in meta and not isinstance(meta[name], form)]
    if odd:
        return odd
    if not all(isinstance(made, dict) for made in meta["made_with"].values()):
        odd.append("made_with")
    reading = dict(meta.get("read_with", {}))
    columns = reading.pop("columns", {})
    parts = {part.name for part in fields(Columns)}
    named = isinstance(columns, dict) and columns.keys() <= parts and all(isinstance(n, str) for n in columns.values())
    return odd if named and reading.keys() <= _READ_WITH else [*odd, "read_with"]


def _odd_columns(schema: Any) -> list[str]:
    """Columns that are there twice, or of another type than those that are written."""
    import pyarrow.types as kinds

    def is_text(kind: Any) -> bool:
        return bool(kinds.is_string(kind) or kinds.is_large_string(kind))

    def is_list(kind: Any) -> bool:
        lists = kinds.is_fixed_size_list(kind) or kinds.is_list(kind)
        return bool(lists and kinds.is_floating(kind.value_type))

    checks = {"row": kinds.is_integer, "id": is_text, "label": is_text, "probabilities": is_list}
    times = Counter(schema.names)
    return [part.name for part in schema if times[part.name] > 1 or not checks.get(part.name, _is_number)(part.type)]


def _is_number(kind: Any) -> bool:
    import pyarrow.types as kinds

    return bool(kinds.is_floating(kind) or kinds.is_integer(kind))


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
        missing=_missing(table, meta.get("missing", {})),
    )
    problems = problems_of(file)
    nulls = [name for name in ("id", "label") if name in table.column_names and table[name].null_count]
    problems.check(not nulls, f"{listed(nulls)} must be in every row.")
    problems.check(meta["rows"] == len(file), f"it has {len(file)} rows, its metadata say {meta['rows']}.")
    if problems.found:
        raise DataError(*(f"{source}: {problem}" for problem in problems.found))
    return file


def _numbers(column: Any, kind: Any) -> NDArray[Any]:
    """A column as an array; null becomes nan or -1, which the checks refuse."""
    values: NDArray[Any] = np.asarray(column.to_numpy())
    whole = np.issubdtype(kind, np.integer)
    return np.full(len(values), -1, kind) if whole and column.null_count else values.astype(kind)


def _missing(table: Any, counts: Mapping[str, Any]) -> dict[str, NDArray[np.bool_]]:
    """Where a row has no value, of scores that lack as many as the metadata say; other nulls are refused as values."""
    lacking = {name: table[name].null_count for name in counts if name in table.column_names}
    return {
        name: table[name].is_null().to_numpy()
        for name, count in lacking.items()
        if count and count == counts[name] and name not in FIXED
    }


def _matrix(table: Any, classes: int) -> NDArray[np.float32] | None:
    """The class probabilities as float32 `(n, classes)`, or None."""
    if "probabilities" not in table.column_names:
        return None
    flat = table["probabilities"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    matrix: NDArray[np.float32] = flat.astype(np.float32).reshape(table.num_rows, -1)  # (n * classes,) -> (n, classes)
    return matrix


def check_same_data(file: ScoreFile, fingerprint: str, where: str) -> None:
    """Refuse data other than the scored ones: values belong to row numbers.

    Args:
        file: The score file.
        fingerprint: Of the data.
        where: The name that the user gave for the data.

    Raises:
        DataError: If the fingerprints differ.
    """
    if file.fingerprint == fingerprint:
        return
    read = ", ".join(f"{name} {value}" for name, value in file.read_with.items() if value is not None)
    raise DataError(
        f"the scores are of other data: of {quoted(file.data)} for the task {quoted(file.task)}, {len(file):,} "
        f"training rows, fingerprint {file.fingerprint}; {where} has the fingerprint {fingerprint}. Give the data that "
        f"was scored{f', read in the same way ({read})' if read else ''}, or score again."
    )


SUFFIXES = (".parquet", ".jsonl", ".csv")


def write_scores(path: str | Path, file: ScoreFile, *, force: bool = False) -> None:
    """Write a score file by its ending: `.parquet`, which is read back, or `.jsonl` and `.csv` for people.

    The file appears when it is complete; with any problem nothing is written.

    Args:
        path: The file.
        file: The content.
        force: Replace an existing file.

    Raises:
        ArgumentError: For an unknown ending, or an existing file.
        DataError: For values that are not finite (with the ids), and wrong lengths or names, together; or if the file
            cannot be written.
    """
    target = Path(path)
    check_target(target, force=force)
    problems_of(file).raise_any(DataError)
    with whole_file(target) as part:
        if target.suffix == ".parquet":
            _write_parquet(part, file)
        else:
            _write_text(part, file, target.suffix)


def check_target(path: Path, *, force: bool = False) -> None:
    """Refuse a path where no score file can be written; call it before computing scores.

    Raises:
        ArgumentError: All problems at once.
    """
    problems = Problems()
    problems.check(path.suffix in SUFFIXES, f"a score file must end in {', '.join(SUFFIXES)}, got {path}.")
    problems.found += target_problems(path, force=force)
    problems.check(not (reason := unwritable(path)), f"the score file cannot be written: {reason}.")
    problems.raise_any(ArgumentError)


def _write_parquet(path: Path, file: ScoreFile) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {"row": pa.array(file.rows, pa.int64()), "id": pa.array(list(map(str, file.ids)), pa.string())}
    if file.labels is not None:
        columns["label"] = pa.array(list(map(str, file.labels)), pa.string())
    columns |= {
        name: pa.array(np.asarray(values, np.float32), mask=file.lacks(name)) for name, values in file.values.items()
    }
    if file.probabilities is not None:
        flat = pa.array(np.asarray(file.probabilities, np.float32).reshape(-1))  # (n, classes) -> (n * classes,)
        columns["probabilities"] = pa.FixedSizeListArray.from_arrays(flat, len(file.label_names))
    meta = {KEY: json.dumps(_metadata(file), ensure_ascii=False)}
    pq.write_table(pa.table(columns).replace_schema_metadata(meta), path, compression="zstd")


def _metadata(file: ScoreFile) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "data": file.data,
        "fingerprint": file.fingerprint,
        "task": file.task,
        "rows": len(file),
        "label_names": list(file.label_names),
        "made_with": {name: dict(made) for name, made in file.made_with.items()},
        "read_with": dict(file.read_with),
        "cost": dict(file.cost),
        "probabilities_with": dict(file.probabilities_with),
        "missing": {name: int(where.sum()) for name, where in file.missing.items()},
    }


def _write_text(path: Path, file: ScoreFile, suffix: str) -> None:
    names = ["row", "id", *(["label"] if file.labels is not None else []), *file.values]
    with path.open("w", encoding="utf-8", newline="") as stream:
        if suffix == ".jsonl":
            write_jsonl(_lines(file), stream)
        else:
            write_csv([{name: _for_sheet(cell) for name, cell in line.items()} for line in _lines(file)], names, stream)


def _for_sheet(cell: object) -> object:
    """A cell that a spreadsheet reads as text: what begins with `=`, `+`, `-`, `@` or a tab would be a formula."""
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(("=", "+", "-", "@", "\t", "\r")) else cell


def _lines(file: ScoreFile) -> Iterator[dict[str, Any]]:
    """One line per row, for people: the shortest decimals that give the same float32."""
    for row in range(len(file)):
        line: dict[str, Any] = {"row": row, "id": str(file.ids[row])}
        if file.labels is not None:
            line["label"] = str(file.labels[row])
        line |= {
            name: None if file.lacks(name)[row] else float(str(np.float32(values[row])))
            for name, values in file.values.items()
        }
        if file.probabilities is not None:
            line["probabilities"] = dict(zip(file.label_names, map(float, file.probabilities[row]), strict=True))
        yield line
