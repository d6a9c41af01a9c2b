"""`datadiet score CORPUS --output FOLDER`: a corpus of many files, partition by partition, here or on Ray.

The driver cuts the corpus, decides what is still to do and sums up; workers read, score and write one partition each.
See `datadiet.corpus` for the two phases, and `datadiet.corpus.score_folder` for what is written.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datadiet.config import COLUMNS, option_problems
from datadiet.corpus.engines import Engine, engine_of
from datadiet.corpus.exchange import near_repeated, repeated, repeats_of
from datadiet.corpus.partitions import Corpus, Partition, Reading, batches, find_corpus, read_together, reading_of
from datadiet.corpus.score_folder import (
    BEGIN,
    FIXED,
    LOCK,
    MANIFEST,
    PARTS,
    sums,
    write_manifest,
)
from datadiet.data.load import columns_of, read_examples
from datadiet.data.schema import joined_texts
from datadiet.data.tables import listed
from datadiet.errors import ArgumentError, DataError, Problems, UserError, quoted
from datadiet.files import input_problems, locked, read_json, seal_of, unwritable, whole_file, whole_folder
from datadiet.formatting import clock
from datadiet.jobs.score_checks import check_job, inputs_of, text_length
from datadiet.jobs.score_config import CORPUS, ScoreConfig, load_arguments
from datadiet.jobs.score_partition import (
    AT_ONCE,
    Work,
    begin_partition,
    calls_of,
    counts_in,
    phase_options,
    phases_of,
    score_partition,
)
from datadiet.ledger import Ledger
from datadiet.registry import find, names
from datadiet.scoring.inputs import needs_of
from datadiet.store.run_folder import saved_model
from datadiet.types import Json, Listener, Silent

# options of a scoring job that train a model, or that belong to one set in memory
_IN_MEMORY = ("epochs", "folds", "base_model", "run", "probabilities")
_OF_SPLITS = ("train_rows", "dev_share", "data_seed", "drop_overlap", "dedupe", "cache")
# what a score needs that a corpus does not give, with the reason in the words of a refusal
_WHOLE = {
    "history": "is of the rows that a run was trained on",
    "null": "needs models that are trained in folds",
    "dev": "compares rows with a dev split, which a corpus has none of,",
    "checkpoints": "reads every checkpoint of a run",
}
_MOST_NAMED = 3
_SHOWN_S = 1.0  # seconds between two lines of progress


def is_partitioned(name: str) -> bool:
    """Whether a score can be computed partition by partition."""
    method = find("score", name)
    if method is None:
        return False
    of_models = set(method.needs) <= {"model", "teacher", "holdout"} and "all_rows" not in method.traits
    by_row = "by_row" in method.traits or of_models
    return by_row or ("history" not in method.needs and phases_of(name) is not None)


def _of_a_whole_set(name: str) -> str:
    """Why a score that is not partitioned needs one set in memory."""
    needs = needs_of(name)
    reasons = (reason for need, reason in _WHOLE.items() if need in needs)
    return next(reasons, "compares all rows")


def check_corpus_job(config: ScoreConfig) -> None:
    """Refuse a job that cannot be done.

    Raises:
        ArgumentError: All problems at once.
    """
    problems = Problems()
    problems.found += option_problems(config)
    if config.data and not Path(config.data).expanduser().is_dir():
        problems.add(f"there is no folder {quoted(config.data)}: a corpus is a folder of files.")
    problems.found += read_together(config.task or "")  # before any file is read for its checksum
    for name in _IN_MEMORY:
        default = next(item.default for item in fields(config) if item.name == name)
        flag = f"--{name.replace('_', '-')}"
        problems.check(getattr(config, name) == default, f"{flag} is not for a corpus: train first, then give --model.")
    for name in (name for name in _OF_SPLITS if name in config.options):
        problems.add(f"--{name.replace('_', '-')} is not for a corpus, of which every row is scored.")
    problems.check("gz_limit" not in config.options, "--gz-limit is not for a corpus, which is read as a stream.")
    requested = _calls(config, problems)
    for name in requested:
        if find("score", name) is not None and not is_partitioned(name):
            possible = [one for one in names("score") if is_partitioned(one)]
            problems.add(
                f"the score {name} {_of_a_whole_set(name)} and cannot be computed partition by partition; these can: "
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
    else:
        problems.found += input_problems(output, {"--data": config.data}, whole=True)
        problems.found += input_problems(output, inputs_of(config))
    if config.engine != "ray":
        for flag, given in (("--ray-address", config.ray_address), ("--ray-timeout", config.ray_timeout != 10.0)):
            problems.check(not given, f"{flag} has no effect without --engine ray.")
    if config.embeddings and config.model is None and config.encoder is None:
        problems.add("--embeddings needs a model: give --encoder, or --model.")
    problems.check(config.near is None or config.duplicates, "--near has no effect without --duplicates.")
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


def _calls(config: ScoreConfig, problems: Problems) -> dict[str, dict[str, Any]]:
    try:
        calls = calls_of(config)
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
        own = [options["column"] for name, options in calls_of(config).items() if "columns" in needs_of(name)]
        columns, separator = columns_of(settings), settings.label_separator
        reading = reading_of(corpus, settings.task, columns, separator, config.group_column, own)
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
        calls = calls_of(self.config)
        how = {**_how(self.config, self.reading, calls), "queries": _digest(self.queries)}
        content = self._manifest(list(calls), how)
        self._check_folder(content)
        write_manifest(self.output, content)
        parts = self.corpus.partitions
        unreadable: dict[str, str] = {}
        costs: list[Mapping[str, float]] = []
        own = self.config
        with engine_of(own.engine, workers=own.workers, address=own.ray_address, timeout=own.ray_timeout) as engine:
            state, repeats, reports = self._begin(engine, calls, how, unreadable, costs)
            works = []
            for number, part in enumerate(parts):
                if part.name not in unreadable:
                    marks = _marks(repeats, number, parts)
                    digest = _digest([how, part.name, part.seal, part.begin, part.end, state[1], marks])
                    works.append(self._work(part, digest, counts=state[0], marks=tuple(marks)))
            metas = {work.part.name: meta for work in works if (meta := work.done()) is not None}
            taken = len(metas)
            waiting = [work for work in works if work.part.name not in metas]
            for work, result in self._run(engine, "scoring", score_partition, waiting, taken):
                if isinstance(result, str):
                    unreadable[work.part.name] = result
                else:
                    metas[work.part.name] = result
        return self._end(content, metas, unreadable, costs, taken, reports)

    def _work(self, part: Partition, digest: str, **more: Any) -> Work:
        shared = (self.config, self.reading, self.corpus.place, self.output, self.queries)
        return Work(*shared, part, digest, **more)

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
    ) -> tuple[tuple[Path | None, str], list[Path], dict[str, Json]]:
        """The first phase: counts of all rows with their digest, files of duplicates, and what is said of scores.

        Raises:
            DataError: If ids repeat, or a score cannot be computed of these rows.
        """
        phased = {name: options for name, options in calls.items() if phases_of(name) is not None}
        if not phased and not self.reading.columns.id and not self.config.duplicates:
            return (None, ""), [], {}
        home, parts = self.output / BEGIN, self.corpus.partitions
        own = {name: how[name] for name in ("reading", "duplicates", "near")} | {"phased": phased}
        own |= {name: how[name] for name in ("queries", "seed")} if phased else {}
        works = [self._work(part, _digest([own, part.name, part.seal, part.begin, part.end])) for part in parts]
        works = [work for work in works if not work.part.problem]
        unreadable |= {part.name: part.problem for part in parts if part.problem}
        waiting = [work for work in works if not work.begun()]
        for work, result in self._run(engine, "counting", begin_partition, waiting, len(works) - len(waiting)):
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
        sealed = _digest([[work.part.name, work.digest] for work in works])
        files = _duplicates(homes, home / "duplicates", self.config.near, sealed) if self.config.duplicates else []
        if not phased or not works:
            return (None, ""), files, {}
        self.listener.phase(f"from the counts of all rows: {', '.join(phased)}")
        ledger = Ledger()
        with ledger.charge("score"):
            state, reports = self._state(list(phased), [work.home / "counts.npz" for work in works], home / "counts")
        costs.append(asdict(ledger.snapshot()))
        return state, files, reports

    def _state(
        self, names: Sequence[str], counts: Sequence[Path], target: Path
    ) -> tuple[tuple[Path, str], dict[str, Json]]:
        """What is known of all rows, in one file, with its digest; and what is said of each score."""
        waiting: dict[str, list[Mapping[str, NDArray[Any]]]] = {name: [] for name in names}
        options = {name: phase_options(name, self.config, self.queries) for name in names}
        phases = {name: phase for name in names if (phase := phases_of(name)) is not None}
        for path in counts:
            for name, part in counts_in(path).items():
                waiting[name].append(part)
                if len(waiting[name]) == AT_ONCE:
                    waiting[name] = [phases[name].merged(waiting[name], **options[name])]
        state: dict[str, NDArray[Any]] = {}
        reports: dict[str, Json] = {name: {} for name in names}
        for name, one in phases.items():
            if not waiting[name]:
                continue  # there is no row
            whole = one.merged(waiting[name], **options[name])
            if one.end is not None:
                whole = one.end(whole, report=reports[name], **options[name])
            state |= {f"{name}/{part}": array for part, array in whole.items()}
        return _written(state, target.with_suffix(".npz")), reports

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

    def _run(self, engine: Engine, what: str, function: Callable[[Any], Any], works: Sequence[Work], taken: int) -> Any:
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
        reports: Mapping[str, Json],
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
                **reports.get(name, {}),
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
        "near": config.near,
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


def _duplicates(homes: Sequence[Path | None], folder: Path, near: float | None, digest: str) -> list[Path]:
    """Files with the rows that repeat another, one per range; those of the same partitions are taken over."""
    made = folder / "made.json"
    if not made.is_file() or json.loads(made.read_text(encoding="utf-8")) != digest:
        shutil.rmtree(folder, ignore_errors=True)
        with whole_folder(folder) as part:
            keys = [None if place is None else place / "texts.npy" for place in homes]
            files = _saved(repeated(keys), part, "exact")
            if near is not None:
                (part / "pairs").mkdir()
                _saved(near_repeated(homes, files, near, part / "pairs"), part, "all")
                for path in (*files, part / "pairs"):
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
            (part / made.name).write_text(json.dumps(digest), encoding="utf-8")
    return sorted(folder.glob("*.npy"))


def _saved(arrays: Iterable[NDArray[Any]], folder: Path, name: str) -> list[Path]:
    files = []
    for number, array in enumerate(arrays):
        files.append(folder / f"{name}-{number:05}.npy")
        np.save(files[-1], array)
    return files


def _marks(files: Sequence[Path], number: int, parts: Sequence[Partition]) -> list[tuple[int, str]]:
    """The rows of a partition that repeat another, and where that one stands."""
    repeats: list[Any] = repeats_of(files, number).tolist() if files else []
    return [(row, f"{parts[kept].file}:{kept_row}") for _, row, kept, kept_row in repeats]


def _written(state: Mapping[str, NDArray[Any]], path: Path) -> tuple[Path, str]:
    """Arrays in one file, and their digest."""
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(f"{name} {state[name].dtype} {state[name].shape}\n".encode())
        digest.update(np.ascontiguousarray(state[name]).tobytes())
    with whole_file(path) as part, part.open("wb") as stream:
        np.savez(stream, **state)  # type: ignore[arg-type]
    return path, digest.hexdigest()[:24]
