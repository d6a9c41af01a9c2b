"""`datadiet score CORPUS --output FOLDER`: a corpus of many files, partition by partition, here or on Ray.

The driver cuts the corpus, decides what is still to do and sums up; workers read, score and write one partition each.
See `datadiet.corpus` for the two phases, and `datadiet.corpus.score_folder` for what is written.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datadiet.config import COLUMNS, option_problems
from datadiet.corpus.engines import Engine, engine_of
from datadiet.corpus.exchange import keys_of, repeated, repeats_of, write_keys
from datadiet.corpus.partitions import Batch, Corpus, Partition, Reading, batches, find_corpus, reading_of, texts_of
from datadiet.corpus.score_folder import (
    BEGIN,
    DUPLICATE,
    FIXED,
    LOCK,
    MANIFEST,
    MISSING,
    PARTS,
    part_meta,
    part_writer,
    sums,
    write_manifest,
)
from datadiet.data.load import columns_of, read_examples
from datadiet.data.schema import Dataset, Examples, joined_texts
from datadiet.data.tables import listed
from datadiet.errors import ArgumentError, DataError, Problems, UserError, quoted
from datadiet.files import locked, read_json, seal_of, unwritable, whole_file, whole_folder
from datadiet.formatting import clock
from datadiet.jobs.prepare import pass_tokens
from datadiet.jobs.score_checks import check_job, text_length, trained_length
from datadiet.jobs.score_config import CORPUS, ScoreConfig, load_arguments
from datadiet.ledger import Ledger
from datadiet.registry import find, has, load, names
from datadiet.scoring.dataset import ScoringInputs, TokenisedRows, embeddings_of, needs_of, score_split
from datadiet.scoring.forward import lengths_of
from datadiet.store.run_folder import saved_model
from datadiet.tasks import task_for, task_of_saved_model
from datadiet.tasks.base import Task
from datadiet.tasks.loading import load_encoder, load_saved
from datadiet.training.machine import best_device, resolve_precision
from datadiet.types import Json, Listener, Phases, Silent

# options of a scoring job that train a model, or that belong to one set in memory
_IN_MEMORY = ("epochs", "folds", "base_model", "run", "probabilities")
_OF_SPLITS = ("train_rows", "dev_share", "data_seed", "drop_overlap", "dedupe", "cache")
_MOST_NAMED = 3
_SHOWN_S = 1.0  # seconds between two lines of progress


def phases_of(name: str) -> Phases | None:
    """The two phases of a score of texts with global state; None for any other."""
    phases = getattr(load("score", name), "phases", None)
    return phases if isinstance(phases, Phases) else None


def is_partitioned(name: str) -> bool:
    """Whether a score can be computed partition by partition."""
    method = find("score", name)
    if method is None:
        return False
    by_row = "by_row" in method.traits or set(method.needs) <= {"model", "teacher", "holdout"}
    return by_row or ("history" not in method.needs and phases_of(name) is not None)


def check_corpus_job(config: ScoreConfig) -> None:
    """Refuse a job that cannot be done.

    Raises:
        ArgumentError: All problems at once.
    """
    problems = Problems()
    problems.found += option_problems(config)
    if config.data and not Path(config.data).expanduser().is_dir():
        problems.add(f"there is no folder {quoted(config.data)}: a corpus is a folder of files.")
    for name in _IN_MEMORY:
        default = next(item.default for item in fields(config) if item.name == name)
        flag = f"--{name.replace('_', '-')}"
        problems.check(getattr(config, name) == default, f"{flag} is not for a corpus: train first, then give --model.")
    for name in (name for name in _OF_SPLITS if name in config.options):
        problems.add(f"--{name.replace('_', '-')} is not for a corpus, of which every row is scored.")
    requested = [] if config.scores is None and _only_marks(config) else _calls(config, problems)
    for name in requested:
        if find("score", name) is not None and not is_partitioned(name):
            possible = [one for one in names("score") if is_partitioned(one)]
            problems.add(
                f"the score {name} compares all rows and cannot be computed partition by partition; these can: "
                f"{', '.join(possible)}."
            )
    output = config.output
    assert output is not None  # else it were no job of a corpus
    if output.exists() and not output.is_dir():
        problems.add(f"{output} is a file; an --output without an ending is a folder. Choose another name.")
    elif reason := unwritable(output):
        problems.add(f"--output cannot be written: {reason}.")
    elif output.is_dir() and any(output.iterdir()) and not (output / MANIFEST).is_file():
        problems.add(f"{output} holds other files than scores of a corpus: choose another --output.")
    elif config.data and output.resolve().is_relative_to(Path(config.data).expanduser().resolve()):
        problems.add(f"{output} would be a part of the data: choose another --output.")
    if config.engine != "ray":
        for flag, given in (("--ray-address", config.ray_address), ("--ray-timeout", config.ray_timeout != 10.0)):
            problems.check(not given, f"{flag} has no effect without --engine ray.")
    if config.embeddings and config.model is None and config.encoder is None:
        problems.add("--embeddings needs a model: give --encoder, or --model.")
    idle = config.encoder is not None and not config.embeddings
    problems.check(not idle, "--encoder has no effect on these scores without --embeddings.")
    try:
        own: dict[str, Any] = {item.name: item.default for item in fields(config) if _panel(item) == CORPUS}
        own |= {"encoder": None} if idle else {}
        as_usual = replace(config, output=None, data=config.data and "snips", **own)  # the files are looked at later
        check_job(replace(as_usual, scores="length") if not requested else as_usual)
    except UserError as error:
        problems.include(error)
    problems.found = list(dict.fromkeys(problems.found))
    problems.raise_any()


def _panel(item: Any) -> str | None:
    return item.metadata["option"].panel if "option" in item.metadata else None


def _only_marks(config: ScoreConfig) -> bool:
    """Whether embeddings or duplicates were asked for and no score."""
    return config.scores is None and config.model is None and (config.duplicates or config.embeddings)


def _calls(config: ScoreConfig, problems: Problems) -> dict[str, dict[str, Any]]:
    if _only_marks(config):
        return {}
    try:
        calls = config.calls()
    except UserError:  # `check_job` reports it
        return {}
    taken = sorted(set(calls) & set(FIXED))
    problems.check(not taken, f"a score cannot be called {', '.join(taken)}.")
    return calls


# ---- the driver


def score_corpus(config: ScoreConfig, listener: Listener = Silent()) -> Json:  # noqa: B008  (stateless)
    """Score a corpus into a folder; the same command goes on with what was interrupted.

    Returns:
        The content of `corpus.json`, with `seconds` of this call and how many partitions were `taken_over`.

    Raises:
        ArgumentError, DataError: All problems of a step at once. A partition that cannot be read is no error: it is
            named in `unreadable`, and the others are scored.
    """
    check_corpus_job(config)
    began = time.perf_counter()
    output = config.output
    assert output is not None  # checked
    with locked(output / LOCK, f"{output} is being written by another process"):
        listener.phase("reading the corpus")
        corpus = find_corpus(str(config.data))
        for note in corpus.notes:
            listener.note(note)
        settings = config.training(Path("run"), text_length(config))
        reading = reading_of(corpus, settings.task, columns_of(settings), settings.label_separator, config.group_column)
        queries = _read_queries(config, reading)
        return _Job(config, output, corpus, reading, listener, began, queries).run()


def _read_queries(config: ScoreConfig, reading: Reading) -> list[str]:
    """The texts of what is wanted; none where nothing is compared with them.

    Raises:
        DataError: If they are missing or cannot be read.
    """
    if config.queries is None:
        return []
    path, columns = str(Path(config.queries).expanduser()), replace(reading.columns, id=None)
    try:
        return joined_texts(read_examples(path, reading.task, columns=columns, split="train"))
    except DataError as error:
        raise DataError(*(f"--queries: {problem}" for problem in error.problems)) from error


@dataclass
class _Job:
    """One scoring of a corpus."""

    config: ScoreConfig
    output: Path
    corpus: Corpus
    reading: Reading
    listener: Listener
    began: float
    queries: list[str]

    def run(self) -> Json:
        calls = {} if _only_marks(self.config) else self.config.calls()
        how = {**_how(self.config, self.reading, calls), "queries": _digest(self.queries)}
        content = self._manifest(list(calls), how)
        self._check_folder(content)
        write_manifest(self.output, content)
        parts = self.corpus.partitions
        unreadable: dict[str, str] = {}
        costs: list[Mapping[str, float]] = []
        own = self.config
        with engine_of(own.engine, workers=own.workers, address=own.ray_address, timeout=own.ray_timeout) as engine:
            state, repeats = self._begin(engine, calls, how, unreadable, costs)
            works = []
            for number, part in enumerate(parts):
                if part.name not in unreadable:
                    marks = _marks(repeats, number, parts)
                    digest = _digest([how, part.name, part.seal, part.begin, part.end, state[1], marks])
                    works.append(_Work(self, part, digest, state[0], tuple(marks)))
            metas = {work.part.name: meta for work in works if (meta := work.done()) is not None}
            taken = len(metas)
            waiting = [work for work in works if work.part.name not in metas]
            for work, result in self._run(engine, "scoring", _values, waiting, taken):
                if isinstance(result, str):
                    unreadable[work.part.name] = result
                else:
                    metas[work.part.name] = result
        return self._end(content, metas, unreadable, costs, taken)

    def _manifest(self, scores: list[str], how: Json) -> Json:
        return {
            "data": self.corpus.name,
            "fingerprint": self.corpus.fingerprint,
            "task": self.reading.task,
            "scores": scores,
            "job": how,
            "reading": asdict(self.reading),
            "read_with": load_arguments({n: v for n, v in self.config.options.items() if n in COLUMNS}),
            "complete": False,
            "parts": [],
            "unreadable": {},
        }

    def _check_folder(self, content: Json) -> None:
        """Refuse a folder with the scores of another job; what is there of the same job stays."""
        if not (self.output / MANIFEST).is_file():
            return
        try:
            there = read_json(self.output / MANIFEST, "scores of a corpus")
        except UserError:
            if not self.config.force:
                raise
            there = {}
        old = there.get("job", {})
        other = [name for name in content["job"] if not isinstance(old, dict) or old.get(name) != content["job"][name]]
        other += [] if there.get("data") == content["data"] else ["data"]
        if other and not self.config.force:
            raise ArgumentError(
                f"{self.output} holds scores of another job, which differs in {listed(other)}: --force replaces them, "
                "or choose another --output."
            )
        if other:
            for name in (PARTS, BEGIN):
                shutil.rmtree(self.output / name, ignore_errors=True)

    def _begin(
        self, engine: Engine, calls: Json, how: Json, unreadable: dict[str, str], costs: list[Mapping[str, float]]
    ) -> tuple[tuple[Path | None, str], list[Path]]:
        """The first phase: counts of all rows with their digest, and files of duplicates; refuses ids that repeat."""
        phased = {name: options for name, options in calls.items() if phases_of(name) is not None}
        if not phased and not self.reading.columns.id and not self.config.duplicates:
            return (None, ""), []
        home, parts = self.output / BEGIN, self.corpus.partitions
        own = {"reading": how["reading"], "phased": phased, "duplicates": self.config.duplicates}
        works = [_Work(self, part, _digest([own, part.name, part.seal, part.begin, part.end])) for part in parts]
        works = [work for work in works if not work.part.problem]
        unreadable |= {part.name: part.problem for part in parts if part.problem}
        waiting = [work for work in works if not work.begun()]
        for work, result in self._run(engine, "counting", _begun, waiting, len(works) - len(waiting)):
            if isinstance(result, str):
                unreadable[work.part.name] = result
        works = [work for work in works if work.part.name not in unreadable]
        costs += [json.loads((work.home / "part.json").read_text(encoding="utf-8"))["cost"] for work in works]
        numbers = {part.name: number for number, part in enumerate(parts)}
        homes: list[Path | None] = [None] * len(parts)
        for work in works:
            homes[numbers[work.part.name]] = work.home
        if self.reading.columns.id:
            self._check_ids(homes)
        if self.config.duplicates:
            self.listener.phase("looking for duplicates")
        files = _duplicates(homes, home / "duplicates") if self.config.duplicates else []
        return _summed(phased, [work.home for work in works], home / "counts"), files

    def _check_ids(self, homes: Sequence[Path | None]) -> None:
        self.listener.phase("comparing ids")
        found: list[str] = []
        number = 0
        for repeats in repeated([None if place is None else place / "ids.npy" for place in homes]):
            number += len(repeats)
            found += [self._repeated_id(*one) for one in repeats[: _MOST_NAMED - len(found)].tolist()]
        if number:
            more = f" And {number - len(found):,} more." if number > len(found) else ""
            raise DataError(
                f"ids repeat in the corpus: {'; '.join(found)}.{more} Make the ids unique, name another column with "
                "--id-column, or take the file and the row as ids with --id-column ''."
            )

    def _repeated_id(self, part: int, row: int, other: int, other_row: int) -> str:
        parts = self.corpus.partitions
        for batch in batches(self.corpus.place, parts[part]):
            for place in range(batch.table.size):
                if batch.table.number(place) - 1 == row:
                    value = batch.table.columns[str(self.reading.columns.id)][place]
                    places = [
                        f"{parts[n].file}, {batch.table.unit} {r + 1}" for n, r in ((other, other_row), (part, row))
                    ]
                    return f"{quoted(str(value))} stands in {' and in '.join(places)}"
        raise DataError(f"{parts[part].name} changed while it was read; score again.")

    def _run(
        self, engine: Engine, what: str, function: Callable[[Any], Any], works: Sequence[_Work], taken: int
    ) -> Any:
        """The results of the workers, and how far they are."""
        began, total = time.perf_counter(), sum(work.part.size for work in works) or 1
        done, size, rows, shown = taken, 0, 0, 0.0
        number = len(works) + taken
        self.listener.phase(f"{what}: {done:,} of {number:,} partitions" + (" are done already" if taken else ""))
        for work, result in engine.run(function, works):
            done, size = done + 1, size + work.part.size
            rows += 0 if isinstance(result, str) else int(result["rows"])
            seconds = time.perf_counter() - began
            if seconds - shown > _SHOWN_S or done == number:
                shown, left = seconds, seconds * (total - size) / max(1, size)
                self.listener.phase(
                    f"{what}: {done:,} of {number:,} partitions, {rows:,} rows, "
                    f"{rows / max(seconds, 1e-9):,.0f} rows/s, {clock(left)} left"
                )
            if isinstance(result, str):
                self.listener.note(f"left out: {result}")
            yield work, result

    def _end(
        self,
        content: Json,
        metas: Mapping[str, Json],
        unreadable: Mapping[str, str],
        costs: Sequence[Mapping[str, float]],
        taken: int,
    ) -> Json:
        names_of_parts = [part for part in self.corpus.partitions if part.name in metas]
        paths = {f"{part.slug}.parquet" for part in names_of_parts}
        for path in (self.output / PARTS).glob("*.parquet"):
            if path.name not in paths:  # of a file that is no longer there, or cannot be read any more
                path.unlink()
        parts = [
            {
                **{name: getattr(part, name) for name in ("name", "file", "seal", "first")},
                "path": f"{part.slug}.parquet",
                "rows": metas[part.name]["rows"],
                "reasons": metas[part.name]["reasons"],
            }
            for part in names_of_parts
        ]
        stats: dict[str, Any] = {}
        for name in content["scores"]:
            of_parts = [meta["stats"][name] for meta in metas.values() if name in meta["stats"]]
            count = sum(one["count"] for one in of_parts)
            stats[name] = {
                "rows": count,
                "min": min((one["min"] for one in of_parts), default=None),
                "mean": sum(one["sum"] for one in of_parts) / count if count else None,
                "max": max((one["max"] for one in of_parts), default=None),
            }
        content = {
            **content,
            "complete": True,
            "rows": sum(part["rows"] for part in parts),
            "reasons": sums([part["reasons"] for part in parts]),
            "parts": parts,
            "unreadable": {name: unreadable[name] for name in sorted(unreadable)},
            "stats": stats,
            "cost": sums([*costs, *(meta["cost"] for meta in metas.values())]),
        }
        write_manifest(self.output, content)
        return {**content, "seconds": round(time.perf_counter() - self.began, 3), "taken_over": taken}


def _how(config: ScoreConfig, reading: Reading, calls: Json) -> Json:
    """All that decides the values beside the rows, as plain JSON: folders of models by what is in them."""
    settings = config.training(Path("run"), text_length(config))
    how: Json = {
        "scores": calls,
        "reading": asdict(reading),
        "duplicates": config.duplicates,
        "embeddings": config.embeddings,
        "max_length": config.max_length,
        "batch_size": settings.batch_size,
        "precision": settings.precision,
        "seed": settings.seed,
    }
    for role in ("model", "teacher", "holdout", "encoder"):
        source = getattr(config, role)
        folder = None if source is None else saved_model(Path(source)) if role != "encoder" else Path(source)
        inside = [] if folder is None or not folder.is_dir() else sorted(path for path in folder.iterdir())
        how[role] = [f"{path.name} {seal_of(path)}" for path in inside if path.is_file()] or source
    return json.loads(json.dumps(how, default=str))  # type: ignore[no-any-return]


def _digest(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:24]


def _duplicates(homes: Sequence[Path | None], folder: Path) -> list[Path]:
    """Files with the rows that repeat another, one per range of hashes."""
    files = []
    with whole_folder(folder) as part:
        for number, repeats in enumerate(repeated([None if place is None else place / "texts.npy" for place in homes])):
            np.save(part / f"{number:05}.npy", repeats)
            files.append(folder / f"{number:05}.npy")
    return files


def _marks(files: Sequence[Path], number: int, parts: Sequence[Partition]) -> list[tuple[int, str]]:
    """The rows of a partition that repeat another, and where that one stands."""
    repeats: list[Any] = repeats_of(files, number).tolist() if files else []
    return [(row, f"{parts[kept].file}:{kept_row}") for _, row, kept, kept_row in repeats]


def _summed(phased: Json, homes: Sequence[Path], target: Path) -> tuple[Path | None, str]:
    """The counts of all partitions in one file, and their digest."""
    if not phased:
        return None, ""
    total: dict[str, NDArray[Any]] = {}
    for place in homes:
        with np.load(place / "counts.npz", allow_pickle=False) as counts:
            for name in counts.files:
                total[name] = total[name] + counts[name] if name in total else counts[name]
    digest = hashlib.sha256()
    for name in sorted(total):
        digest.update(f"{name} {total[name].dtype} {total[name].shape}\n".encode())
        digest.update(np.ascontiguousarray(total[name]).tobytes())
    path = target.with_suffix(".npz")
    with whole_file(path) as part, part.open("wb") as stream:
        np.savez(stream, **total)  # type: ignore[arg-type]
    return path, digest.hexdigest()[:24]


# ---- the work on a partition


class _Work:
    """A partition with all that a worker needs; travels to it.

    Attributes:
        name: Of the partition, for messages.
    """

    def __init__(
        self,
        job: _Job,
        part: Partition,
        digest: str,
        counts: Path | None = None,
        marks: tuple[tuple[int, str], ...] = (),
    ) -> None:
        self.config, self.reading = job.config, job.reading
        self.corpus, self.output = job.corpus.place.resolve(), job.output.resolve()
        self.part, self.digest, self.marks = part, digest, marks
        self.counts = None if counts is None else counts.resolve()
        self.queries = job.queries
        self.name = part.name

    @property
    def path(self) -> Path:
        """The file of the partition."""
        return self.output / PARTS / f"{self.part.slug}.parquet"

    @property
    def home(self) -> Path:
        """The folder of its first phase."""
        return self.output / BEGIN / self.part.slug

    @property
    def calls(self) -> dict[str, dict[str, Any]]:
        """The requested scores with their options."""
        return {} if _only_marks(self.config) else self.config.calls()

    def done(self) -> Json | None:
        """What the file of the partition says of itself, where it is what this work would write."""
        meta = part_meta(self.path)
        return meta if meta is not None and meta.get("digest") == self.digest else None

    def begun(self) -> bool:
        """Whether its first phase is done."""
        try:
            return bool(read_json(self.home / "part.json", "counts")["digest"] == self.digest)
        except (UserError, KeyError):
            return False

    def rows(self, ledger: Ledger) -> Any:
        """Its batches with their examples and groups."""
        for batch in batches(self.corpus, self.part):
            with ledger.charge("load"):
                examples, groups = self.reading.examples(self.part, batch)
            yield batch, examples, groups


def _begun(work: _Work) -> Json | str:
    """The first phase of a partition: counts, and hashes of ids and texts. A text says why it cannot be read."""
    ledger = Ledger()
    phased = {name: (phases, options) for name, options in work.calls.items() if (phases := phases_of(name))}
    counts: dict[str, NDArray[Any]] = {}
    ids, texts, number = [], [], 0
    try:
        for batch, examples, groups in work.rows(ledger):
            places = _places(batch)
            number += len(examples)
            if work.reading.columns.id:
                ids.append(keys_of(examples.ids, places))
            if work.config.duplicates:
                texts.append(keys_of(texts_of(examples), places, groups))
            for name, (phases, options) in phased.items():
                for part, array in phases.begin(joined_texts(examples), **options).items():
                    key = f"{name}/{part}"
                    counts[key] = counts[key] + array if key in counts else np.asarray(array)
    except DataError as error:
        return error.problems[0]
    cost = asdict(ledger.snapshot())
    with whole_folder(work.home) as folder:
        write_keys(folder / "ids.npy", ids)
        write_keys(folder / "texts.npy", texts)
        np.savez(folder / "counts.npz", **counts)  # type: ignore[arg-type]
        content = {"schema": 1, "digest": work.digest, "rows": number, "cost": cost}
        (folder / "part.json").write_text(json.dumps(content), encoding="utf-8")
    return {"rows": number}


def _places(batch: Batch) -> NDArray[np.int64]:
    """The row of each in its file."""
    return np.fromiter((batch.table.number(row) - 1 for row in range(batch.table.size)), np.int64, batch.table.size)


def _values(work: _Work) -> Json | str:
    """The file of a partition, and what it says of itself. A text says why the partition cannot be read."""
    ledger = Ledger()
    scorer = _Scorer(work, ledger)
    marks = dict(work.marks)
    number, reasons, stats = 0, {}, {}  # type: int, dict[str, int], dict[str, Json]
    try:
        with part_writer(work.path) as writer:
            for batch, examples, groups in work.rows(ledger):
                places = _places(batch)
                columns: dict[str, Any] = {"id": list(map(str, examples.ids)), "row": places}
                columns |= {} if groups is None else {"group": groups}
                values = scorer.values(examples)
                columns |= values
                if work.config.embeddings:
                    columns["embedding"] = scorer.embeddings(examples)
                columns["reason"] = _reasons(values, places, marks)
                if work.config.duplicates:
                    columns["duplicate_of"] = [marks.get(place) for place in places.tolist()]
                for reason in columns["reason"]:
                    if reason is not None:
                        reasons[reason] = reasons.get(reason, 0) + 1
                _count(stats, values)
                writer.write(columns)
                number += len(examples)
            writer.meta = {
                "digest": work.digest,
                "name": work.part.name,
                "rows": number,
                "reasons": reasons,
                "stats": stats,
                "cost": asdict(ledger.snapshot()),
            }
    except DataError as error:
        return error.problems[0]
    return writer.meta


def _reasons(
    values: Mapping[str, NDArray[np.float32]], places: NDArray[np.int64], marks: Mapping[int, str]
) -> list[str | None]:
    """Why a row may not be chosen: a score is missing, or another row has its text; None where it may."""
    reasons: list[str | None] = [DUPLICATE if place in marks else None for place in places.tolist()]
    for name, column in values.items():
        for row in np.flatnonzero(~np.isfinite(column)).tolist():
            reasons[row] = reasons[row] or f"{MISSING} {name}"
    return reasons


def _count(stats: dict[str, Json], values: Mapping[str, NDArray[np.float32]]) -> None:
    """Add a batch to what is summed up of each score."""
    for name, column in values.items():
        finite = column[np.isfinite(column)].astype(np.float64)
        if not finite.size:
            continue
        one = {"count": finite.size, "sum": float(finite.sum()), "min": float(finite.min()), "max": float(finite.max())}
        old = stats.get(name)
        if old is not None:
            one = {
                "count": old["count"] + one["count"],
                "sum": old["sum"] + one["sum"],
                "min": min(old["min"], one["min"]),
                "max": max(old["max"], one["max"]),
            }
        stats[name] = one


class _Scorer:
    """The scores of batches of one partition, as a job in memory computes them."""

    def __init__(self, work: _Work, ledger: Ledger) -> None:
        self.config, self.ledger, self.calls, self.queries = work.config, ledger, work.calls, work.queries
        self.phases = {name: phases for name in self.calls if (phases := phases_of(name)) is not None}
        self.counts: dict[str, dict[str, NDArray[Any]]] = {name: {} for name in self.phases}
        if work.counts is not None:
            with np.load(work.counts, allow_pickle=False) as counts:
                for key in counts.files:
                    name, _, part = key.partition("/")
                    self.counts[name][part] = counts[key]
        self.by_row = [name for name in self.calls if name not in self.phases]
        self.settings = self.config.training(Path("run"), text_length(self.config))
        self.needs = {need for name in self.by_row for need in needs_of(name)}

    def values(self, examples: Examples) -> dict[str, NDArray[np.float32]]:
        """float32 `(n,)` by score, in the order in which they were requested."""
        found: dict[str, NDArray[np.float32]] = {}
        if self.by_row:
            found |= score_split(self.by_row, self._inputs(examples, self.needs)).values
        for name, phases in self.phases.items():
            with self.ledger.charge("score"):
                options = dict(self.calls[name])
                options |= {"queries": self.queries} if "queries" in needs_of(name) else {}
                made = phases.values(joined_texts(examples), self.counts[name], ids=examples.ids, **options)
                found[name] = np.asarray(made, np.float32)
        return {name: found[name] for name in self.calls}

    def embeddings(self, examples: Examples) -> NDArray[np.float32]:
        """float32 `(n, size)`, each of length 1."""
        return embeddings_of(self._inputs(examples, {"encoder"}))

    def _inputs(self, examples: Examples, needs: set[str]) -> ScoringInputs:
        roles = [role for role in ("model", "teacher", "holdout") if role in needs]
        if "encoder" in needs and self.config.encoder is None:
            roles = ["model"]
        inputs = ScoringInputs(
            joined_texts(examples),
            None,
            _no_batches,
            _no_batches,
            ids=examples.ids,
            combine="mean" if has(self.settings.task, "answers") else "norm",
            precision=resolve_precision(self.settings.precision, best_device()),
            ledger=self.ledger,
            seed=self.settings.seed,
            options={name: options for name, options in self.calls.items() if options},
        )
        tokenised: dict[str, TokenisedRows] = {}
        for role in roles:
            loaded = _loaded(str(saved_model(getattr(self.config, role))), self.settings.task, role)
            _check_labels(examples, loaded.task, role)
            length = self.config.max_length or trained_length(getattr(self.config, role), self.settings.task)
            tokenised[role] = loaded.rows(examples, length, self.ledger)
            inputs = replace(inputs, **{role: loaded.model}, signals=loaded.task.signals)
            if role == "model":
                features = tokenised[role].features
                lengths = lengths_of(features)
                assert lengths is not None  # every task gives a length
                tokens = pass_tokens(self.settings, lengths)
                groups = loaded.task.groups(features)
                inputs = replace(inputs, features=features, collate=tokenised[role].collate, batch_tokens=tokens)
                inputs = replace(inputs, encoder=loaded.model, groups=groups)
        if "encoder" in needs and self.config.encoder is not None:
            loaded = _loaded(self.config.encoder, self.settings.task, "encoder")
            rows = loaded.rows(examples, text_length(self.config), self.ledger)
            inputs = replace(inputs, encoder=loaded.model, features=rows.features, collate=rows.collate)
        others = {role: rows for role, rows in tokenised.items() if role != "model"}
        return replace(inputs, tokenised=others)


def _no_batches(*_: Any) -> Any:
    raise AssertionError("there is no model whose tokenizer could read the rows")


def _check_labels(examples: Examples, task: Task, role: str) -> None:
    """Refuse labels that a model does not have, whose values would mean nothing."""
    if examples.labels is None or not has(task.name, "one_class"):
        return
    strange = sorted({str(label) for label in examples.labels} - set(task.label_names))
    if strange:
        row = [str(label) for label in examples.labels].index(strange[0])
        raise DataError(
            f"the {role} has no class {quoted(strange[0])} (id {quoted(str(examples.ids[row]))}); its classes are "
            f"{listed(list(task.label_names), 5)}. Give a model for these classes."
        )


@dataclass(frozen=True)
class _Loaded:
    """A model of a worker with its tokenizer."""

    model: Any
    tokenizer: Any
    task: Task

    def rows(self, examples: Examples, length: int, ledger: Ledger) -> TokenisedRows:
        with ledger.charge("load"):
            features = self.task.features(examples, self.tokenizer, max_length=length)
        return TokenisedRows(features, self.task.collator(self.tokenizer))


@lru_cache(maxsize=4)
def _loaded(source: str, task_name: str, role: str) -> _Loaded:
    """Once per worker, however many partitions it gets."""
    plain = task_for(Dataset("corpus", task_name, {}, (), (), ""))
    model: Any = load_encoder(source) if role == "encoder" else load_saved(Path(source))
    task = plain if role == "encoder" else task_of_saved_model(source)
    return _Loaded(model.to(best_device()), task.load_tokenizer(source), task)
