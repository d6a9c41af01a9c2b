"""One partition of a corpus: its two phases, as a worker does them (`datadiet.jobs.score_corpus` is the driver).

A worker reads its rows, computes the same scores as a job in memory, and writes one file that appears whole.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datadiet.corpus.exchange import NearRows, keys_of, write_keys
from datadiet.corpus.partitions import Batch, Partition, Reading, batches, texts_of
from datadiet.corpus.score_folder import (
    BEGIN,
    DUPLICATE,
    MISSING,
    PARTS,
    part_meta,
    part_writer,
)
from datadiet.data.schema import Dataset, Examples, joined_texts
from datadiet.data.tables import listed, row_problem
from datadiet.errors import DataError, UserError, quoted
from datadiet.files import read_json, whole_folder
from datadiet.jobs.score_checks import text_length
from datadiet.jobs.score_config import ScoreConfig
from datadiet.jobs.score_inputs import LoadedModel, inputs_of, load_model, sources
from datadiet.ledger import Ledger
from datadiet.registry import has, load
from datadiet.scores.text import as_numbers
from datadiet.scoring.dataset import score_split
from datadiet.scoring.embed import embeddings_of
from datadiet.scoring.inputs import ScoringInputs, needs_of
from datadiet.tasks import task_for, task_of_saved_model
from datadiet.tasks.base import Task
from datadiet.types import Json, Phases

AT_ONCE = 8  # counts of parts that are kept before they are merged


def phases_of(name: str) -> Phases | None:
    """The two phases of a score of texts with global state; None for any other."""
    phases = getattr(load("score", name), "phases", None)
    return phases if isinstance(phases, Phases) else None


def phase_options(name: str, config: ScoreConfig, queries: Sequence[str]) -> dict[str, Any]:
    """What the phases of a score get: its options, the queries it needs, and the seed it takes."""
    options = dict(config.calls()[name])
    options |= {"queries": queries} if "queries" in needs_of(name) else {}
    takes_seed = "seed" in inspect.signature(load("score", name)).parameters
    return options | ({"seed": config.training(Path("run"), text_length(config)).seed} if takes_seed else {})


def only_marks(config: ScoreConfig) -> bool:
    """Whether embeddings or duplicates were asked for and no score."""
    return config.scores is None and config.model is None and (config.duplicates or config.embeddings)


def calls_of(config: ScoreConfig) -> dict[str, dict[str, Any]]:
    """The requested scores with their options."""
    return {} if only_marks(config) else config.calls()


class Work:
    """A partition with all that a worker needs; travels to it.

    Attributes:
        name: Of the partition, for messages.
    """

    def __init__(
        self,
        config: ScoreConfig,
        reading: Reading,
        corpus: Path,
        output: Path,
        queries: Sequence[str],
        part: Partition,
        digest: str,
        counts: Path | None = None,
        marks: tuple[tuple[int, str], ...] = (),
    ) -> None:
        self.config, self.reading = config, reading
        self.corpus, self.output = corpus.resolve(), output.resolve()
        self.part, self.digest, self.marks = part, digest, marks
        self.counts = None if counts is None else counts.resolve()
        self.queries = queries
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
        return calls_of(self.config)

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


def begin_partition(work: Work) -> Json | str:
    """The first phase of a partition: counts, and hashes of ids and texts. A text says why it cannot be read."""
    ledger = Ledger()
    phased = {name: (phases, phase_options(name, work.config, work.queries)) for name in work.calls
              if (phases := phases_of(name))}  # fmt: skip
    parts: dict[str, list[Mapping[str, NDArray[Any]]]] = {name: [] for name in phased}
    ids, texts, number, near = [], [], 0, NearRows(work.config.near)
    try:
        for batch, examples, groups in work.rows(ledger):
            places = _places(batch)
            number += len(examples)
            if work.reading.columns.id:
                ids.append(keys_of(examples.ids, places))
            if work.config.duplicates:
                compared = texts_of(examples)
                texts.append(keys_of(compared, places, groups))
                near.add(compared, places, groups)
            for name, (phases, options) in phased.items():
                parts[name].append(phases.begin(joined_texts(examples), **options))
                if len(parts[name]) == AT_ONCE:
                    parts[name] = [phases.merged(parts[name], **options)]
    except DataError as error:
        return error.problems[0]
    whole = {name: phases.merged(parts[name], **options) for name, (phases, options) in phased.items() if parts[name]}
    counts = {f"{name}/{part}": array for name, of in whole.items() for part, array in of.items()}
    cost = asdict(ledger.snapshot())
    with whole_folder(work.home) as folder:
        write_keys(folder / "ids.npy", ids)
        write_keys(folder / "texts.npy", texts)
        near.write(folder)
        np.savez(folder / "counts.npz", **counts)  # type: ignore[arg-type]
        content = {"schema": 1, "digest": work.digest, "rows": number, "cost": cost}
        (folder / "part.json").write_text(json.dumps(content), encoding="utf-8")
    return {"rows": number}


def counts_in(path: Path) -> dict[str, dict[str, NDArray[Any]]]:
    """The counts of a file, by score."""
    counts: dict[str, dict[str, NDArray[Any]]] = {}
    with np.load(path, allow_pickle=False) as arrays:
        for key in arrays.files:
            name, _, part = key.partition("/")
            counts.setdefault(name, {})[part] = arrays[key]
    return counts


def _places(batch: Batch) -> NDArray[np.int64]:
    """The row of each in its file."""
    return np.fromiter((batch.table.number(row) - 1 for row in range(batch.table.size)), np.int64, batch.table.size)


def score_partition(work: Work) -> Json | str:
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
                values = scorer.values(examples, batch)
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

    def __init__(self, work: Work, ledger: Ledger) -> None:
        self.config, self.ledger, self.calls, self.queries = work.config, ledger, work.calls, work.queries
        self.phases = {name: phases for name in self.calls if (phases := phases_of(name)) is not None}
        self.counts: dict[str, dict[str, NDArray[Any]]] = {name: {} for name in self.phases}
        if work.counts is not None:
            self.counts |= counts_in(work.counts)
        self.by_row = [name for name in self.calls if name not in self.phases]
        self.settings = self.config.training(Path("run"), text_length(self.config))

    def values(self, examples: Examples, batch: Batch) -> dict[str, NDArray[np.float32]]:
        """float32 `(n,)` by score, in the order in which they were requested.

        Args:
            examples: Of the batch.
            batch: For columns of the user's.
        """
        found: dict[str, NDArray[np.float32]] = {}
        if self.by_row:
            needs = {need for name in self.by_row for need in needs_of(name)}
            found |= score_split(self.by_row, self._inputs(examples, needs, columns=partial(_numbers, batch))).values
        for name, phases in self.phases.items():
            with self.ledger.charge("score"):
                options = phase_options(name, self.config, self.queries)
                made = phases.values(joined_texts(examples), self.counts[name], ids=examples.ids, **options)
                found[name] = np.asarray(made, np.float32)
        return {name: found[name] for name in self.calls}

    def embeddings(self, examples: Examples) -> NDArray[np.float32]:
        """float32 `(n, size)`, each of length 1."""
        return embeddings_of(self._inputs(examples, {"encoder"}))

    def _inputs(self, examples: Examples, needs: set[str], **more: Any) -> ScoringInputs:
        own = "model" in needs or ("encoder" in needs and self.config.encoder is None)
        models = {
            role: _loaded(*source, str(self.config.task))
            for role, source in sources(self.config, needs, self.config.model if own else None).items()
        }
        for role, one in models.items():
            if role != "encoder":
                _check_labels(examples, one.task, role)
        task = next((one.task for one in models.values()), None) or _plain(str(self.config.task))
        return inputs_of(self.config, examples, models, task, self.ledger, **more)


def _numbers(batch: Batch, name: str) -> Sequence[Any]:
    """A column of the user's that has a finite number in every row.

    Raises:
        DataError: If there is no such column, or a row has no number in it; names the file and the line.
    """
    table = batch.table
    if name not in table.columns:
        raise DataError(f"{table.place}: there is no column {quoted(name)}; found {listed([*table.columns])}.")
    values = table.columns[name]
    wrong = [
        (row, f"the column {quoted(name)} must have a finite number, got {quoted(values[row])}")
        for row in np.flatnonzero(~np.isfinite(as_numbers(values))).tolist()
    ]
    if wrong:
        raise DataError(row_problem(table, wrong, "fill it in, or leave the row out"))
    return values


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


def _plain(task: str) -> Task:
    """A task of no classes in particular."""
    return task_for(Dataset("corpus", task, {}, (), (), ""))


@lru_cache(maxsize=4)
def _loaded(role: str, source: str, length: int, task: str) -> LoadedModel:
    """Once per worker, however many partitions it gets."""
    return load_model(role, source, length, _plain(task) if role == "encoder" else task_of_saved_model(source))
