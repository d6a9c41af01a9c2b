"""Writing a score file: Parquet to be read back, JSON lines or CSV for people."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from datadiet.atomic import whole_file
from datadiet.checks import ArgumentError, DataError, Problems
from datadiet.data.writing import write_csv, write_jsonl
from datadiet.score_file.content import KEY, SCHEMA, ScoreFile, problems_of

SUFFIXES = (".parquet", ".jsonl", ".csv")


def write_scores(path: str | Path, file: ScoreFile, *, force: bool = False) -> None:
    """Write a score file by its ending: `.parquet`, which is read back, or `.jsonl` and `.csv` for people.

    A reader never sees half a file, and nothing is written where something is wrong.

    Args:
        path: The file.
        file: What it holds.
        force: Replace a file that is there.

    Raises:
        ArgumentError: For an ending that is not known, or a file that is there.
        DataError: For values that are not finite (with the ids), and lengths or names that do not fit, together; or
            if the file cannot be written.
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
    """Refuse a path that no score file can be written to; to be called before the scores are computed.

    Raises:
        ArgumentError: All problems at once.
    """
    problems = Problems()
    known = ", ".join(SUFFIXES)
    problems.check(path.suffix in SUFFIXES, f"a score file must end in {known}, got {path}.")
    problems.check(not path.is_dir(), f"{path} is a folder: give a file.")
    problems.check(force or not path.is_file(), f"{path} exists: --force replaces it.")
    problems.raise_any(ArgumentError)


def _write_parquet(path: Path, file: ScoreFile) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {"row": pa.array(file.rows, pa.int64()), "id": pa.array(list(map(str, file.ids)), pa.string())}
    if file.labels is not None:
        columns["label"] = pa.array(list(map(str, file.labels)), pa.string())
    columns |= {name: pa.array(np.asarray(values, np.float32)) for name, values in file.values.items()}
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
    }


def _write_text(path: Path, file: ScoreFile, suffix: str) -> None:
    names = ["row", "id", *(["label"] if file.labels is not None else []), *file.values]
    with path.open("w", encoding="utf-8", newline="") as stream:
        if suffix == ".jsonl":
            write_jsonl(_lines(file), stream)
        else:
            write_csv(list(_lines(file)), names, stream)


def _lines(file: ScoreFile) -> Iterator[dict[str, Any]]:
    """One line per row, for people: the shortest numbers that are the same float32."""
    for row in range(len(file)):
        line: dict[str, Any] = {"row": row, "id": str(file.ids[row])}
        if file.labels is not None:
            line["label"] = str(file.labels[row])
        line |= {name: float(str(np.float32(values[row]))) for name, values in file.values.items()}
        if file.probabilities is not None:
            line["probabilities"] = dict(zip(file.label_names, map(float, file.probabilities[row]), strict=True))
        yield line
