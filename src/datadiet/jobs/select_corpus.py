"""`datadiet select FOLDER`: choose from the scores of a corpus, and stream the kept rows in the user's own columns.

The choice reads one column of the scores a few times (`datadiet.corpus.streamed`); the output is written partition by
partition. Without the data, ids and scores are written.
"""

from __future__ import annotations

import gzip
import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from datadiet.corpus.partitions import Corpus, Partition, batches, find_corpus
from datadiet.corpus.score_folder import DUPLICATE, ScoreFolder, groups_of, may_be_chosen, open_scores, scores_of
from datadiet.corpus.streamed import Kept, Values, choose, streaming_problems
from datadiet.data.export import Original, write_jsonl
from datadiet.data.tables import first_line
from datadiet.errors import DataError, Problems, UserError
from datadiet.files import input_problems, target_problems, unwritable, whole_file, whole_folder
from datadiet.jobs.select_config import SelectConfig, config_problems, kept_count
from datadiet.types import Json, Listener, Silent

SUFFIXES = (".jsonl", ".jsonl.gz", ".parquet")
# options of a selection that need all rows in memory, with what does the same for a corpus
_IN_MEMORY = {
    "drop_suspects": "suspects are ranked in memory",
    "near": "score with --duplicates --near, and --dedupe drops what is marked",
    "features": "selectors that cover a space hold all rows in memory",
    "group_column": "groups are kept with the scores: score with --group-column",
}
_WRITTEN = re.compile(r".+-[0-9a-f]{8}\.(jsonl|parquet)")  # the files of a folder of kept rows, which may be replaced
_KIND = "a .jsonl, .jsonl.gz or .parquet file, or a folder (no ending)"


def checked(config: SelectConfig, scores: Path) -> ScoreFolder:
    """The folder of scores.

    Raises:
        ArgumentError: Everything that shows before the data are read, together.
    """
    problems = Problems()
    folder = None
    try:
        folder = open_scores(scores)
    except UserError as error:
        problems.include(error)
    select, options = _selector(config, problems)
    problems.found += [problem for problem in config_problems(config) if problem not in problems.found]
    if isinstance(select, str):
        problems.found += streaming_problems(select, options, config.floor)
    elif select is not None:
        problems.add("a selector of your own gets all rows at once; name one that streams.")
    for name, reason in _IN_MEMORY.items():
        given = getattr(config, name)
        flag = f"--{name.replace('_', '-')}"
        problems.check(not given, f"{flag} is not for the scores of a corpus: {reason}.")
    problems.check(not config.reading, "the columns of a corpus are those it was scored with: leave the flags out.")
    if folder is not None:
        _check_folder(config, folder, problems)
    _check_output(config, scores, problems)
    problems.found = list(dict.fromkeys(problems.found))
    problems.raise_any()
    assert folder is not None  # else there was a problem
    return folder


def _selector(config: SelectConfig, problems: Problems) -> tuple[Any, Mapping[str, Any]]:
    try:
        return config.selector
    except UserError as error:
        problems.include(error)
        return None, {}


def _check_folder(config: SelectConfig, folder: ScoreFolder, problems: Problems) -> None:
    names = folder.scores
    if config.score is not None:
        problems.choice("score", config.score, names)
    elif len(names) != 1:
        there = f"several scores ({', '.join(names)})" if names else "no score"
        problems.add(f"{folder.place} has {there}: name the one to select by (--score).")
    marked = folder.manifest["job"].get("duplicates")
    if config.dedupe and not marked:
        problems.add(f"--dedupe needs duplicates that are marked: score {folder.place} with --duplicates.")
    grouped = config.floor or str(config.select).partition("(")[0] in ("balanced", "quota", "partly_balanced")
    reading = folder.manifest["reading"]
    if grouped and reading.get("group") is None and not _has_groups(folder):
        subject = "a floor" if config.floor else f"the selector {config.select}"
        problems.add(f"{subject} needs the group of each row: score with --group-column, or a task with classes.")
    if isinstance(config.count, int) and config.count > folder.rows:
        problems.add(f"count must be at most {folder.rows:,}, the rows of the corpus, got {config.count:,}.")


def _has_groups(folder: ScoreFolder) -> bool:
    import pyarrow.parquet as pq

    return all("group" in pq.read_schema(path).names for path in folder.paths[:1])


def _check_output(config: SelectConfig, scores: Path, problems: Problems) -> None:
    path = config.output
    if path is None:
        problems.add(f"--output is missing: {_KIND}.")
        return
    if path.suffix:
        problems.check(path.name.lower().endswith(SUFFIXES), f"--output must be {_KIND}, got {path}.")
        problems.found += target_problems(path, force=config.force)
    elif path.is_dir() and any(not _WRITTEN.fullmatch(file.name) or file.is_dir() for file in path.iterdir()):
        problems.add(f"{path} is no selection from a corpus and is not replaced: choose another --output.")
    elif os.path.lexists(path) and not (path.is_dir() and (config.force or not any(path.iterdir()))):
        problems.add(f"{path} exists: --force replaces it." if path.is_dir() else f"{path} is a file: give a folder.")
    problems.check(not (reason := unwritable(path)), f"--output cannot be written: {reason}.")
    problems.found += input_problems(path, {"--data": config.data, "the scores": scores}, whole=True)


def select_corpus(config: SelectConfig, scores: Path, listener: Listener = Silent()) -> Json:  # noqa: B008
    """Choose, write the kept rows, and sum up.

    Args:
        config: With `output`; `data` is the corpus, without it ids and scores are written.
        scores: The folder that `datadiet score` wrote.
        listener: Receives phases.

    Returns:
        What is kept, of all rows and of each group. Plain values, for JSON.

    Raises:
        ArgumentError, DataError: All problems of a step at once; nothing has been written then.
    """
    began = time.perf_counter()
    folder = checked(config, scores)
    corpus = None
    if config.data is not None:
        listener.phase("reading the corpus")
        corpus = find_corpus(config.data)
        check_same_corpus(folder, corpus)
        for note in corpus.notes:
            listener.note(note)
    listener.phase("selecting")
    score = config.score or folder.scores[0]
    values = values_of(folder, score)
    select, options = config.selector
    assert isinstance(select, str)  # checked
    others = ["duplicates" if reason == DUPLICATE else reason for reason in folder.manifest.get("reasons", {})]
    count = kept_count(config, folder.rows, values.rows, others)
    kept = choose(values, count, select, options, floor=config.floor, seed=config.seed)
    listener.phase(f"writing {config.output}")
    assert config.output is not None  # checked
    _write(config, folder, corpus, kept, score)
    return {
        "scores": str(scores),
        "data": folder.manifest["data"],
        "fingerprint": folder.manifest["fingerprint"],
        "task": folder.manifest["task"],
        "output": str(config.output),
        "score": score,
        "select": select,
        "options": dict(options),
        "seed": config.seed,
        "rows": folder.rows,
        "kept": kept.count,
        "dropped": folder.rows - kept.count,
        "reasons": dict(folder.manifest.get("reasons", {})),
        "groups": [
            {"group": name, "rows": rows, "kept": number}
            for name, (rows, number) in sorted(kept.groups.items(), key=lambda item: -item[1][0])
        ],
        "seconds": round(time.perf_counter() - began, 3),
    }


def values_of(folder: ScoreFolder, score: str) -> Values:
    """A score of all rows that may be chosen, read when it is needed."""
    import pyarrow.parquet as pq

    paths = folder.paths
    reasons = [sum(part.get("reasons", {}).values()) for part in folder.manifest["parts"] if part["rows"]]
    sizes = [part["rows"] for part in folder.manifest["parts"] if part["rows"]]
    sizes = [size - number for size, number in zip(sizes, reasons, strict=True)]
    grouped = bool(paths) and "group" in pq.read_schema(paths[0]).names
    groups = (lambda part: groups_of(paths[part])) if grouped else None
    return Values(sizes, lambda part: scores_of(paths[part], score), groups)


def check_same_corpus(folder: ScoreFolder, corpus: Corpus) -> None:
    """Refuse a corpus other than the one that was scored.

    Raises:
        DataError: If the fingerprints differ.
    """
    told = folder.manifest["fingerprint"]
    if told == corpus.fingerprint:
        return
    seals = {part.name: part.seal for part in corpus.partitions}
    scored = {part["name"]: part["seal"] for part in folder.manifest["parts"]}
    other = [name for name, seal in scored.items() if seals.get(name) != seal]
    new = [name for name in seals if name not in scored and name not in folder.manifest["unreadable"]]
    named = f"; {other[0]} is another one" if other else f"; {new[0]} was not scored" if new else ""
    raise DataError(
        f"the scores are of another corpus: of {folder.manifest['data']}, fingerprint {told}; {corpus.place} has the "
        f"fingerprint {corpus.fingerprint}{named}. Give the corpus that was scored, or score it again."
    )


# ---- the output


class _Sink(Protocol):
    def write(self, rows: Original) -> None:
        """Some more rows."""


def _write(config: SelectConfig, folder: ScoreFolder, corpus: Corpus | None, kept: Kept, score: str) -> None:
    target, added = config.output, score if config.with_score else None
    assert target is not None  # checked
    if target.suffix:
        with _sink(target, _pieces(folder, corpus, kept, score, added)) as sink:
            for _, _, rows in _pieces(folder, corpus, kept, score, added):
                sink.write(rows)
        return
    pieces = _pieces(folder, corpus, kept, score, added)
    with whole_folder(target) as home:
        for (slug, kind), group in groupby(pieces, key=lambda piece: piece[:2]):
            ending = ".parquet" if kind in ("parquet", "saved") else ".jsonl"
            with _sink(home / f"{slug}{ending}", iter(())) as sink:
                for _, _, rows in group:
                    sink.write(rows)


def _pieces(
    folder: ScoreFolder, corpus: Corpus | None, kept: Kept, score: str, added: str | None
) -> Iterator[tuple[str, str, Original]]:
    """The kept rows batch by batch, with the name of their partition and its kind."""
    parts = [part for part in folder.manifest["parts"] if part["rows"]]
    by_name = {} if corpus is None else {part.name: part for part in corpus.partitions}
    for told, path, mask in zip(parts, folder.paths, kept.masks(), strict=True):
        if not mask.any():
            continue
        free = np.flatnonzero(may_be_chosen(path))
        chosen = np.zeros(told["rows"], np.bool_)
        chosen[free[mask]] = True
        slug = path.stem
        if corpus is None:
            yield slug, "parquet", _only_scores(path, np.flatnonzero(chosen))
            continue
        part = by_name[told["name"]]
        values = np.full(told["rows"], np.nan, np.float32)
        if added is not None:
            values[free] = scores_of(path, score)
        yield from ((slug, part.kind, rows) for rows in _kept_rows(corpus, part, chosen, values, added))


def _kept_rows(
    corpus: Corpus, part: Partition, chosen: NDArray[np.bool_], values: NDArray[np.float32], added: str | None
) -> Iterator[Original]:
    begin = 0
    for batch in batches(corpus.place, part):
        rows = np.flatnonzero(chosen[begin : begin + batch.table.size])
        if rows.size:
            own = batch.original().take(rows.tolist())
            yield own if added is None else own.with_column(added, values[begin + rows].tolist())
        begin += batch.table.size
    if begin != len(chosen):
        raise DataError(f"{part.name} changed while it was read: {begin:,} rows, not {len(chosen):,}; score again.")


def _only_scores(path: Path, rows: NDArray[np.int64]) -> Original:
    import pyarrow.parquet as pq

    table = pq.read_table(path).take(rows)
    dropped = [name for name in ("reason", "duplicate_of") if name in table.column_names]
    table = table.drop_columns(dropped).replace_schema_metadata({})
    return Original(str(path), tuple(table.column_names), table=table)


@contextmanager
def _sink(path: Path, pieces: Iterator[tuple[str, str, Original]]) -> Iterator[_Sink]:
    """A file by its ending, which appears when the block ends without an error.

    Args:
        path: Of the file.
        pieces: All rows that will be written, for the types of the columns of a Parquet file, which are those of all.
    """
    with whole_file(path) as part:
        if path.suffix == ".parquet":
            sink = _Parquet(part, pieces)
            try:
                yield sink
            finally:
                sink.close()
        elif path.suffix == ".gz":
            with gzip.open(part, "wt", encoding="utf-8", newline="") as stream:
                yield _Lines(stream)
        else:
            with part.open("w", encoding="utf-8", newline="") as stream:
                yield _Lines(stream)


class _Lines:
    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, rows: Original) -> None:
        """As JSON lines."""
        write_jsonl(rows.as_records(), self._stream)


class _Parquet:
    def __init__(self, path: Path, pieces: Iterator[tuple[str, str, Original]]) -> None:
        import pyarrow as pa

        self._path, self._writer = path, None
        schemas: list[Any] = []
        try:
            for _, _, rows in pieces:
                schemas = [pa.unify_schemas([*schemas, rows.as_arrow().schema], promote_options="permissive")]
        except (pa.ArrowException, TypeError) as error:
            raise DataError(
                f"the files of the corpus have a column of different types ({first_line(error)}), which one Parquet "
                "file cannot hold; choose an --output that ends in .jsonl, or a folder."
            ) from error
        self._schema = schemas[0] if schemas else None

    _writer: Any

    def write(self, rows: Original) -> None:
        """As a row group."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        table = rows.as_arrow()
        if self._schema is not None:
            missing = [one for one in self._schema if one.name not in table.column_names]
            for one in missing:
                table = table.append_column(one, pa.nulls(table.num_rows, one.type))
            table = table.select(self._schema.names).cast(self._schema)
        if self._writer is None:
            self._writer = pq.ParquetWriter(self._path, table.schema, compression="zstd")
        self._writer.write_table(table)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
