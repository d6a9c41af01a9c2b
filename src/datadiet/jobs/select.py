"""`datadiet select`: from a score file to the rows that are kept, in a file or folder of the user's own columns."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from datadiet.config import COLUMNS, flag_name
from datadiet.data.export import SUFFIXES
from datadiet.data.schema import Examples, joined_texts
from datadiet.errors import DataError, Problems, UserError
from datadiet.jobs.score_config import READING
from datadiet.jobs.select_rows import REASONS, SelectConfig, StaticSelection, select_from, selection_problems
from datadiet.store.score_file import ScoreFile, read_scores
from datadiet.types import Json, Listener, Silent

if TYPE_CHECKING:
    from datadiet.data.schema import Dataset


@dataclass(frozen=True)
class SelectJob:
    """What to select, and where it goes.

    Attributes:
        scores: The score file.
        data: What was scored; see `datadiet.load_data`.
        output: A .jsonl, .csv, .tsv or .parquet file, or a folder (no ending).
        config: How to select; see `SelectConfig`.
        features: A .npy file, one line per training row, for selectors that cover a space.
        reading: How the training split is read, by the names of the flags; what is not given, as it was scored.
        with_score: Add the values as a column, and the loss weights of a selector that has them.
        force: Replace the output.
    """

    scores: Path
    data: str | None = None
    output: Path | None = None
    config: SelectConfig = field(default_factory=SelectConfig)
    features: Path | None = None
    reading: Mapping[str, Any] = field(default_factory=dict)
    with_score: bool = False
    force: bool = False


def select(job: SelectJob, listener: Listener = Silent()) -> Json:  # noqa: B008  (stateless)
    """Choose, write what is kept, and say why.

    Args:
        job: See there.
        listener: Hears what is being done.

    Returns:
        What was kept and dropped, and why: of all, of each class, and by example. Plain values, for JSON.

    Raises:
        ArgumentError, DataError: All problems of a step at once; nothing has been written then.
    """
    file = checked(job)
    listener.phase("reading the data")
    data = _load(job, file)
    for note in data.notes:
        listener.note(note)
    train = data.splits["train"]
    listener.phase("selecting")
    chosen = select_from(file, job.config, joined_texts(train, "\n"), _read_features(job.features, len(file)))
    listener.phase(f"writing {job.output}")
    _write(job, data, chosen)
    return summary(job, file, train, chosen)


# ---- before the data are read ----


def checked(job: SelectJob) -> ScoreFile:
    """The score file.

    Raises:
        ArgumentError: Everything that can be checked before the data are read, together.
    """
    problems = Problems()
    problems.check(job.data is not None, "--data is missing: what was scored, e.g. the same folder.")
    file = None
    try:
        file = read_scores(job.scores)
    except UserError as error:
        problems.include(error)
    problems.found += selection_problems(file, job.config)
    _check_output(job, problems)
    if job.features is not None:
        problems.check(job.features.is_file(), f"there is no file {job.features}: --features takes a .npy file.")
    problems.raise_any()
    assert file is not None  # else there was a problem
    return file


def _check_output(job: SelectJob, problems: Problems) -> None:
    path = job.output
    if path is None:
        problems.add("--output is missing: a .jsonl, .csv, .tsv or .parquet file, or a folder (no ending).")
        return
    if path.suffix:
        endings = ", ".join(SUFFIXES)
        problems.check(path.suffix in SUFFIXES, f"--output must end in {endings}, or be a folder, got {path}.")
        problems.check(not path.is_dir(), f"{path} is a folder: give a file, or a folder without an ending.")
        problems.check(not path.is_file() or job.force, f"{path} exists: --force replaces it.")
    else:
        _check_folder(path, job.force, problems)
    problems.check(not _is_data(path, job.data), f"{path} would be a part of the data: choose another --output.")


def _is_data(path: Path, data: str | None) -> bool:
    """Whether a path is the data, or would be a split in their folder."""
    from datadiet.data.sources import SPLIT_NAMES, split_stem

    source = None if data is None else Path(data).expanduser()
    if source is None or not source.exists():
        return False
    if path.exists() and path.samefile(source):
        return True
    return source.is_dir() and path.parent.resolve() == source.resolve() and split_stem(path) in SPLIT_NAMES


def _check_folder(path: Path, force: bool, problems: Problems) -> None:
    from datadiet.data.sources import is_saved

    if path.is_file():
        problems.add(f"{path} is a file; an --output without an ending is a folder. Choose another name.")
    elif path.is_dir() and any(path.iterdir()):
        if not is_saved(path):
            problems.add(f"{path} is no saved `datasets` folder and is not replaced: choose another --output.")
        else:
            problems.check(force, f"{path} exists: --force replaces it.")


# ---- the data ----


def _load(job: SelectJob, file: ScoreFile) -> Dataset:
    """The data set as it was scored.

    Raises:
        DataError: If it is another one, or cannot be read.
    """
    from datadiet.data.load import load_data
    from datadiet.data.schema import Columns
    from datadiet.store.score_file import check_same_data

    source = str(job.data)
    data = load_data(source, file.task, columns=Columns(**columns_of(job, file)), **reading_of(job, file))
    check_same_data(file, data.fingerprint, source)
    return data


def columns_of(job: SelectJob, file: ScoreFile) -> dict[str, str]:
    """Names of columns by the fields of `datadiet.data.schema.Columns`: those given, else those of the scoring."""
    named = {name.removesuffix("_column"): value for name, value in job.reading.items() if name.endswith("_column")}
    return dict(file.read_with.get("columns", {})) | named


def reading_of(job: SelectJob, file: ScoreFile) -> dict[str, Any]:
    """Other arguments of `load_data`: those given, else those of the scoring."""
    arguments = {name: "seed" if name == "data_seed" else name for name in READING if name not in COLUMNS}
    recorded = {name: file.read_with[name] for name in arguments.values() if file.read_with.get(name) is not None}
    return recorded | {name: job.reading[flag] for flag, name in arguments.items() if flag in job.reading}


def _read_features(path: Path | None, rows: int) -> NDArray[np.floating[Any]] | None:
    if path is None:
        return None
    try:
        features = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is no .npy file of numbers ({error}).") from error
    if features.ndim != 2 or len(features) != rows or features.dtype.kind not in "fiu":
        raise DataError(f"{path} must hold numbers of the shape ({rows}, size), got {features.dtype} {features.shape}.")
    return np.asarray(features, np.float64)


def _write(job: SelectJob, data: Dataset, chosen: StaticSelection) -> None:
    """The kept rows, with every column that they have where they come from."""
    from datadiet.data.export import write_original, write_saved
    from datadiet.data.sources import find

    assert job.output is not None  # checked
    source = find(str(job.data))
    train = source.originals["train"]()
    rows = data.splits["train"].source_rows or ()
    if len(train) <= max(rows, default=-1):
        raise DataError(f"{source.place} changed while it was read; select again.")
    kept = train.take([rows[row] for row in chosen.rows.tolist()])
    if job.with_score:
        kept = kept.with_column(chosen.score, chosen.values[chosen.rows].tolist())
        if chosen.weights is not None:
            kept = kept.with_column("weight", chosen.weights.tolist())
    if job.output.suffix:
        write_original(kept, job.output)
        return
    splits = {source.own_names.get("train", "train"): kept}
    if "dev" not in source.splits:  # the same rows of train that were split off when it was scored
        splits["dev"] = train.take(list(data.splits["dev"].source_rows or ()))
    splits |= {source.own_names.get(name, name): read() for name, read in source.originals.items() if name != "train"}
    write_saved(splits, job.output)


PER_REASON = 3  # examples of each


def summary(job: SelectJob, file: ScoreFile, train: Examples, chosen: StaticSelection) -> Json:
    """The outcome in plain values."""
    kept = chosen.kept
    name, options = job.config.selector
    return {
        "scores": str(job.scores),
        "data": file.data,
        "fingerprint": file.fingerprint,
        "task": file.task,
        "output": str(job.output),
        "score": chosen.score,
        "select": name,
        "options": dict(options),
        "seed": job.config.seed,
        "rows": len(file),
        "kept": int(kept.sum()),
        "dropped": int((~kept).sum()),
        "mean_kept": _mean(chosen.values[kept]),
        "mean_dropped": _mean(chosen.values[~kept]),
        "reasons": chosen.counts(),
        "suspects_by": None if chosen.suspicion is None else chosen.suspicion[0],
        "weighted": chosen.weights is not None,
        "classes": [] if file.labels is None else list(_classes(file.labels, chosen)),
        "examples": list(_examples(train, chosen)),
        "next": next_command(job, file),
    }


def _classes(labels: Sequence[str], chosen: StaticSelection) -> Iterator[Json]:
    """One line per class, the largest first."""
    names, codes = np.unique(np.asarray(list(labels)), return_inverse=True)
    sizes, kept = np.bincount(codes), chosen.kept
    for code in np.argsort(-sizes, kind="stable").tolist():
        of_class = codes == code
        yield {
            "label": str(names[code]),
            "rows": int(sizes[code]),
            "kept": int(kept[of_class].sum()),
            "dropped": int(sizes[code] - kept[of_class].sum()),
            "mean_kept": _mean(chosen.values[of_class & kept]),
            "mean_dropped": _mean(chosen.values[of_class & ~kept]),
        }


def _mean(values: NDArray[np.float32]) -> float | None:
    return float(values.mean(dtype="float64")) if len(values) else None


def _examples(train: Examples, chosen: StaticSelection) -> Iterator[Json]:
    """The most telling rows of each reason: those kept and dropped that differ most, the most suspected, ..."""
    kept = chosen.kept
    harder = bool(kept.all()) or chosen.values[kept].mean() >= chosen.values[~kept].mean()
    for reason in REASONS:
        rows = np.flatnonzero(chosen.reasons == reason)
        by = chosen.suspicion[1] if reason == "suspect" and chosen.suspicion is not None else chosen.values
        falling = {"chosen": harder, "rest": not harder, "floor": False}.get(reason, True)
        order = np.argsort(-by[rows] if falling else by[rows], kind="stable")
        for row in rows[order[:PER_REASON]].tolist():
            yield {
                "reason": reason,
                "row": row,
                "id": str(train.ids[row]),
                "label": None if train.labels is None else str(train.labels[row]),
                "value": float(chosen.values[row]),
                "text": joined_texts(train.take([row]), "\n")[0],
            }


def next_command(job: SelectJob, file: ScoreFile) -> str:
    """What to type to train on what was kept."""
    columns = columns_of(job, file)
    flags = [f"{flag_name(f'{name}_column')} {shlex.quote(column)}" for name, column in columns.items()]
    if separator := reading_of(job, file).get("label_separator"):
        flags.append(f"--label-separator {shlex.quote(separator)}")
    words = ["datadiet finetune", shlex.quote(str(job.output)), f"--task {file.task}", *flags, "--keep 1"]
    return " ".join([*words, "--output RUN"])
