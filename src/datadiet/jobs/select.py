"""The job of `datadiet select`: read the scored data, choose, write the kept rows in the user's own columns, sum up."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datadiet.config import flag_name
from datadiet.data.export import SUFFIXES, write_original, write_saved
from datadiet.data.layouts import SPLIT_NAMES
from datadiet.data.load import load_data
from datadiet.data.schema import Columns, Dataset, Examples, joined_texts
from datadiet.data.sources import find, is_saved, split_stem
from datadiet.errors import DataError, Problems, UserError
from datadiet.files import GZ_LIMIT, input_problems, target_problems, unwritable
from datadiet.jobs.score_config import load_arguments
from datadiet.jobs.select_config import SelectConfig, config_problems
from datadiet.jobs.select_rows import CHOSEN, FLOOR, REASONS, REST, SUSPECT, StaticSelection, file_problems, select_from
from datadiet.store.score_file import ScoreFile, check_same_data, read_scores
from datadiet.types import Json, Listener, Silent

EXAMPLES_PER_REASON = 3


def select(config: SelectConfig, scores: Path, listener: Listener = Silent()) -> Json:  # noqa: B008  (stateless)
    """Choose, write the kept rows, and sum up.

    Args:
        config: With `data` and `output`.
        scores: A score file.
        listener: Receives phases and notes.

    Returns:
        What is kept and dropped, and why: of all rows, of each class, and by example. Plain values, for JSON.

    Raises:
        ArgumentError, DataError: All problems of a step at once; nothing has been written then.
    """
    file = checked(config, scores)
    listener.phase("reading the data")
    data = _load(config, file)
    for note in data.notes:
        listener.note(note)
    train = data.splits["train"]
    listener.phase("selecting")
    features, groups = _read_features(config.features, len(file)), _groups(config, file, data)
    selection = select_from(file, config, joined_texts(train, "\n"), features, groups)
    listener.phase(f"writing {config.output}")
    _write(config, file, data, selection)
    return {"scores": str(scores), **_summary(config, file, train, selection, groups)}


def checked(config: SelectConfig, scores: Path) -> ScoreFile:
    """The score file.

    Raises:
        ArgumentError: Everything that shows before the data are read, together.
    """
    problems = Problems()
    problems.check(config.data is not None, "--data is missing: what was scored, e.g. the same folder.")
    file = None
    try:
        file = read_scores(scores)
    except UserError as error:
        problems.include(error)
    problems.found += config_problems(config) + (
        [] if file is None else file_problems(file, config, grouped=config.group_column is not None)
    )
    _check_output(config, scores, problems)
    if config.features is not None and not config.features.is_file():
        problems.add(f"there is no file {config.features}: --features takes a .npy file.")
    problems.raise_any()
    assert file is not None  # else there was a problem
    return file


def _check_output(config: SelectConfig, scores: Path, problems: Problems) -> None:
    path = config.output
    if path is None:
        problems.add("--output is missing: a .jsonl, .csv, .tsv or .parquet file, or a folder (no ending).")
        return
    if path.suffix:
        allowed = ", ".join(SUFFIXES)
        problems.check(path.suffix in SUFFIXES, f"--output must end in {allowed}, or be a folder, got {path}.")
        problems.found += target_problems(path, force=config.force)
    elif os.path.lexists(path) and not path.is_dir():
        problems.add(f"{path} is a file; an --output without an ending is a folder. Choose another name.")
    elif path.is_dir() and any(path.iterdir()):
        if not is_saved(path):
            problems.add(f"{path} is no saved `datasets` folder and is not replaced: choose another --output.")
        else:
            problems.check(config.force, f"{path} exists: --force replaces it.")
    problems.check(not (reason := unwritable(path)), f"--output cannot be written: {reason}.")
    read = {"--data": config.data, "the scores": scores, "--features": config.features}
    problems.found += input_problems(path, read, whole=_is_split(path, config.data))


def _is_split(path: Path, data: str | None) -> bool:
    """Whether a path would be a split in the folder of the data."""
    return (
        data is not None
        and path.parent.resolve() == Path(data).expanduser().resolve()
        and split_stem(path) in SPLIT_NAMES
    )


def _load(config: SelectConfig, file: ScoreFile) -> Dataset:
    """The data set as it was scored.

    Raises:
        DataError: If it is another one, or cannot be read.
    """
    source, reading = str(config.data), _reading(config, file)
    columns = Columns(**reading.pop("columns"))
    data = load_data(source, file.task, columns=columns, **reading)
    check_same_data(file, data.fingerprint, source)
    return data


def _reading(config: SelectConfig, file: ScoreFile) -> Json:
    """Arguments of `load_data`, `columns` as a mapping: those given, else those of the scoring."""
    recorded = {name: value for name, value in file.read_with.items() if value is not None}
    given = load_arguments(config.reading)
    return {**recorded, **given, "columns": {**recorded.get("columns", {}), **given.get("columns", {})}}


def _read_features(path: Path | None, rows: int) -> NDArray[np.floating[Any]] | None:
    if path is None:
        return None
    try:
        features = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is no .npy file of numbers ({error}).") from error
    if features.ndim != 2 or len(features) != rows or features.dtype.kind not in "fiu":
        shape = f"{features.dtype} {features.shape}"
        raise DataError(f"{path} must hold numbers of the shape ({rows}, size), got {shape}.")
    return np.asarray(features, np.float64)


def _groups(config: SelectConfig, file: ScoreFile, data: Dataset) -> list[str] | None:
    """The group of each row: a column of the data, or else the classes of the score file.

    Raises:
        DataError: If there is no such column, or a row has no value.
    """
    if config.group_column is None:
        return None if file.labels is None else list(file.labels)
    rows, source = (
        data.splits["train"].source_rows,
        find(str(config.data), _reading(config, file).get("gz_limit", GZ_LIMIT)),
    )
    if rows is None:
        raise DataError(f"{source.place} has a word per row, so no column has one value per sentence.")
    return [str(value) for value in source.originals["train"]().column(config.group_column, rows, "--group-column")]


def _write(config: SelectConfig, file: ScoreFile, data: Dataset, selection: StaticSelection) -> None:
    """The kept rows, with every column of the file that they come from."""
    assert config.output is not None  # checked
    source = find(str(config.data), _reading(config, file).get("gz_limit", GZ_LIMIT))
    train = source.originals["train"]()
    rows = data.splits["train"].source_rows
    if rows is None:
        raise DataError(
            f"{source.place} has a word per row, and an example is a sentence: there are no rows to write. Write a "
            "sentence per row."
        )
    if len(train) <= max(rows, default=-1):
        raise DataError(f"{source.place} changed while it was read; select again.")
    kept = train.take([rows[row] for row in selection.rows.tolist()])
    if config.with_score:
        kept = kept.with_column(selection.score, selection.values[selection.rows].tolist())
        if selection.weights is not None:
            kept = kept.with_column("weight", selection.weights.tolist())
    if config.output.suffix:
        write_original(kept, config.output)
        return
    splits = {source.own_names.get("train", "train"): kept}
    for name, examples in data.splits.items():  # split off the training rows, or by a column of theirs
        if name not in source.splits:
            splits[name] = train.take(list(examples.source_rows or ()))
    splits |= {source.own_names.get(name, name): read() for name, read in source.originals.items() if name != "train"}
    write_saved(splits, config.output)


# ---- the summary


def _summary(
    config: SelectConfig,
    file: ScoreFile,
    train: Examples,
    selection: StaticSelection,
    groups: Sequence[str] | None,
) -> Json:
    kept = selection.kept
    select, options = config.selector
    return {
        "data": file.data,
        "fingerprint": file.fingerprint,
        "task": file.task,
        "output": str(config.output),
        "score": selection.score,
        "select": select,
        "options": dict(options),
        "seed": config.seed,
        "rows": len(file),
        "kept": int(kept.sum()),
        "dropped": int((~kept).sum()),
        "mean_kept": _mean(selection.values[kept]),
        "mean_dropped": _mean(selection.values[~kept]),
        "reasons": selection.counts(),
        "suspects_by": None if selection.suspicion is None else selection.suspicion[0],
        "weighted": selection.weights is not None,
        "classes": [] if groups is None else list(_classes(groups, selection)),
        "examples": list(_examples(train, selection)),
        "next": _next_command(config, file),
    }


def _classes(labels: Sequence[str], selection: StaticSelection) -> Iterator[Json]:
    """One line per class, the largest first."""
    names, codes = np.unique(np.asarray(list(labels)), return_inverse=True)
    sizes, kept = np.bincount(codes), selection.kept
    for code in np.argsort(-sizes, kind="stable").tolist():
        members = codes == code
        yield {
            "label": str(names[code]),
            "rows": int(sizes[code]),
            "kept": int(kept[members].sum()),
            "dropped": int(sizes[code] - kept[members].sum()),
            "mean_kept": _mean(selection.values[members & kept]),
            "mean_dropped": _mean(selection.values[members & ~kept]),
        }


def _mean(values: NDArray[np.float32]) -> float | None:
    known = values[~np.isnan(values)]
    return float(known.mean(dtype="float64")) if len(known) else None


def _examples(train: Examples, selection: StaticSelection) -> Iterator[Json]:
    """The extreme rows of each reason: the kept and dropped ones that differ most, the most suspected, ..."""
    kept, values = selection.kept, selection.values
    dropped = values[~kept & ~np.isnan(values)]
    harder = not len(dropped) or values[kept].mean() >= dropped.mean()
    for reason in REASONS:
        rows = np.flatnonzero(selection.reasons == reason)
        keys = selection.suspicion[1] if reason == SUSPECT and selection.suspicion is not None else values
        falling = {CHOSEN: harder, REST: not harder, FLOOR: False}.get(reason, True)
        order = np.argsort(-keys[rows] if falling else keys[rows], kind="stable")
        for row in rows[order[:EXAMPLES_PER_REASON]].tolist():
            yield {
                "reason": reason,
                "row": row,
                "id": str(train.ids[row]),
                "label": None if train.labels is None else str(train.labels[row]),
                "value": None if np.isnan(values[row]) else float(values[row]),
                "text": joined_texts(train.take([row]), "\n")[0],
            }


def _next_command(config: SelectConfig, file: ScoreFile) -> str:
    """What to type to train on the kept rows."""
    reading = _reading(config, file)
    flags = [f"{flag_name(f'{name}_column')} {shlex.quote(column)}" for name, column in reading["columns"].items()]
    if separator := reading.get("label_separator"):
        flags.append(f"--label-separator {shlex.quote(separator)}")
    words = ["datadiet finetune", shlex.quote(str(config.output)), f"--task {file.task}", *flags, "--keep 1"]
    return " ".join([*words, "--output RUN"])
