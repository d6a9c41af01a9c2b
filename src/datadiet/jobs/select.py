"""A static selection: from a score file to the rows that are kept, and why each row is kept or dropped.

`select_rows` chooses among the rows of a score file. `select` is the whole job of `datadiet select`: it also reads the
data that were scored, writes what is kept in the user's own columns, and sums it up in plain values.
"""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datadiet import registry
from datadiet.config import flag_name
from datadiet.data.duplicates import representatives
from datadiet.data.export import write_original, write_saved
from datadiet.data.load import load_data
from datadiet.data.schema import Columns, Dataset, Examples
from datadiet.data.sources import SPLIT_NAMES, find, is_saved, split_stem
from datadiet.diet.choose import BoundSelector, SelectorContext
from datadiet.errors import ArgumentError, DataError, Problems, UserError
from datadiet.jobs.score_config import load_arguments
from datadiet.jobs.select_config import SELECTION_OPTIONS, SUFFIXES, SelectConfig, config_problems
from datadiet.noise.rankings import suspicion_of, suspicion_problems
from datadiet.selectors.base import top_mask
from datadiet.selectors.quotas import floor_problems
from datadiet.store.score_file import ScoreFile, check_same_data, read_scores
from datadiet.types import Json, Listener, Selection, Silent

Rows = NDArray[np.int64]
Values = NDArray[np.float32]

# why a row is kept (the first two) or dropped, in the order in which it is decided
CHOSEN, FLOOR, DUPLICATE, SUSPECT, OFFSET, REST = "chosen", "floor", "duplicate", "suspect", "offset", "rest"
REASONS = (CHOSEN, FLOOR, DUPLICATE, SUSPECT, OFFSET, REST)
_EXCLUDING = ("offset", "beta")  # options of selectors that exclude the very hardest
EXAMPLES_PER_REASON = 3


@dataclass(frozen=True)
class StaticSelection:
    """Which rows of a training split are kept, and why.

    Attributes:
        rows: int64 `(count,)`, ascending: the kept rows.
        reasons: `(n,)`, one of `REASONS` per row: `chosen` and `floor` are kept; `duplicate`, `suspect`, `offset`
            (excluded as among the very hardest) and `rest` are dropped.
        values: float32 `(n,)`, the score; larger = harder.
        score: Its name.
        weights: float32 beside `rows`, or None where every kept row weighs 1.
        suspicion: The ranking of the suspects, its name and float32 `(n,)`; None where none were dropped.
    """

    rows: Rows
    reasons: NDArray[np.str_]
    values: Values
    score: str
    weights: Values | None = None
    suspicion: tuple[str, Values] | None = None

    @property
    def kept(self) -> NDArray[np.bool_]:
        """Where a row is kept, `(n,)`."""
        mask = np.zeros(len(self.values), np.bool_)
        mask[self.rows] = True
        return mask

    def counts(self) -> dict[str, int]:
        """Rows by reason, without reasons that no row has."""
        counts = Counter(self.reasons.tolist())
        return {reason: counts[reason] for reason in REASONS if counts[reason]}


def select_rows(
    scores: str | Path | ScoreFile, *, texts: Sequence[str] | None = None, features: Any = None, **options: Any
) -> StaticSelection:
    """Choose once what to train on, from a score file.

    First duplicates are dropped, then suspects, then the selector chooses among the other rows.

    Args:
        scores: A score file, or its path.
        texts: One per row: for `dedupe`, and for selectors that cover a space where there are no features.
        features: float `(n, size)` or a SciPy CSR matrix, for selectors that cover a space; by default TF-IDF of texts.
        options: `score`, `select`, `keep`, `count`, `offset`, `floor`, `drop_suspects`, `suspects_by`, `dedupe`,
            `near` and `seed`, see `datadiet.jobs.select_config.SelectConfig`; others are options of the selector.

    Returns:
        The rows, and the reason of each row of the split.

    Raises:
        ArgumentError: For arguments that do not fit the file or each other, together.
        DataError: If the file cannot be read; see `read_scores`.

    Example:
        >>> values = {"el2n": np.float32([0.9, 0.2, 0.9, 0.1])}
        >>> file = ScoreFile(list("abcd"), np.arange(4), values, None, "f", "d", "regression")
        >>> select_rows(file, keep=0.5, texts=["x", "y", "X ", "z"], dedupe=True).reasons.tolist()
        ['chosen', 'chosen', 'duplicate', 'rest']

    Source: score, then select, then train: Paul, Ganguli and Dziugaite 2021, section 3; duplicates first as in Lee et
    al. 2022 (arXiv 2107.06499), so that a text that occurs often has no more votes than another.
    """
    own = {name: options.pop(name) for name in SELECTION_OPTIONS if name in options}
    file = scores if isinstance(scores, ScoreFile) else read_scores(scores)
    return select_from(file, SelectConfig(**own, options=options), texts, features)


def select_from(
    file: ScoreFile, config: SelectConfig, texts: Sequence[str] | None = None, features: Any = None
) -> StaticSelection:
    """Choose among the rows of a score file; see `select_rows`."""
    problems = Problems()
    problems.found += config_problems(config) + file_problems(file, config)
    problems.check(not config.dedupe or texts is not None, "dedupe needs the texts: give texts=.")
    for name, given in (("texts", texts), ("features", features)):
        size = len(file) if given is None else np.shape(given)[0]
        problems.check(size == len(file), f"{name} must have one entry per row, {len(file)}, got {size}.")
    problems.raise_any()
    return _selection(file, config, texts, features)


def file_problems(file: ScoreFile, config: SelectConfig) -> list[str]:
    """Why a score file does not have what a selection needs; nothing where it does."""
    problems = Problems()
    names = list(file.values)
    if config.score is not None:
        problems.choice("score", config.score, names)
    elif len(names) > 1:
        problems.add(f"the file has several scores ({', '.join(names)}): name the one to select by.")
    if config.drop_suspects:
        problems.found += suspicion_problems(file, config.suspects_by)
    select = str(config.select).partition("(")[0]
    if file.labels is None and (config.floor or select in registry.names("select", need="groups")):
        subject = "a floor" if config.floor else f"the selector {select}"
        problems.add(f"{subject} needs the class of each row, and the file has none (task {file.task}).")
    if isinstance(config.count, int) and config.count > len(file):
        problems.add(f"count must be at most {len(file)}, the rows of the file, got {config.count}.")
    return problems.found


# ---- the selection


def _selection(file: ScoreFile, config: SelectConfig, texts: Sequence[str] | None, features: Any) -> StaticSelection:
    score = config.score or next(iter(file.values))
    values, groups = file.values[score], None if file.labels is None else np.asarray(list(file.labels))
    reasons = np.full(len(file), REST, dtype=f"<U{max(map(len, REASONS))}")
    if config.dedupe and texts is not None:
        reasons[representatives(texts, file.labels, near=config.near).repeated] = DUPLICATE
    suspicion = suspicion_of(file, config.suspects_by) if config.drop_suspects else None
    if suspicion is not None:
        candidates = np.flatnonzero(reasons == REST)
        number = round(config.drop_suspects * candidates.size)
        if number:
            reasons[candidates[top_mask(suspicion[1][candidates], number, seed=config.seed, epoch=0)]] = SUSPECT
    pool = np.flatnonzero(reasons == REST)
    count = _count(config, len(file), pool.size)
    pool_groups = None if groups is None else groups[pool]
    problems = Problems()
    sizes = Counter([] if pool_groups is None else map(str, pool_groups.tolist()))
    problems.found += floor_problems(config.floor, sizes, count)
    problems.raise_any()
    context = SelectorContext(groups=pool_groups, features=_features(config, texts, features, pool, file.ids))
    chosen = _choose(config, config.floor, values[pool], count, context)
    reasons[pool] = _reasons(config, values[pool], count, context, chosen)
    return StaticSelection(pool[chosen.rows], reasons, values, score, chosen.weights, suspicion)


def _choose(config: SelectConfig, floor: int, values: Values, count: int, context: SelectorContext) -> Selection:
    select, options = config.selector()
    bound = BoundSelector(
        select if isinstance(select, str) else partial(select, **options),
        options=options,
        floor=floor,
        seed=config.seed,
    )
    bound.check(context)
    return bound.choose(values, count, epoch=0, context=context)


def _count(config: SelectConfig, rows: int, candidates: int) -> int:
    """How many of the candidates are kept."""
    if config.keep is None and config.count is None:
        if not candidates:
            raise ArgumentError("nothing is left to keep: drop fewer suspects.")
        return candidates
    count = config.count if config.count is not None else max(1, round((config.keep or 0.0) * rows))
    if count > candidates:
        dropped = {"duplicates": config.dedupe, "suspects": bool(config.drop_suspects)}
        raise ArgumentError(
            f"{count} of {rows} rows shall be kept, but only {candidates} are left without "
            f"{' and '.join(name for name, holds in dropped.items() if holds)}: keep at most "
            f"{candidates / rows:.4g}, or give neither keep nor count to keep all of them."
        )
    return count


def _reasons(
    config: SelectConfig, values: Values, count: int, context: SelectorContext, chosen: Selection
) -> NDArray[np.str_]:
    """Why each candidate is kept or dropped."""
    reasons = np.full(len(values), REST, dtype="<U9")
    number = round(_excluded_share(config) * len(values))
    if number and count < len(values):
        reasons[top_mask(values, number, seed=config.seed, epoch=0)] = OFFSET
    reasons[chosen.rows] = CHOSEN
    if config.floor and context.groups is not None:
        without_floor = _choose(config, 0, values, count, context).rows
        _, codes = np.unique(context.groups, return_inverse=True)
        short = np.bincount(codes[without_floor], minlength=codes.max() + 1) < config.floor
        reasons[np.setdiff1d(chosen.rows[short[codes[chosen.rows]]], without_floor)] = FLOOR
    return reasons


def _excluded_share(config: SelectConfig) -> float:
    """The share of the very hardest that the selector excludes."""
    select, options = config.selector()
    method = registry.find("select", select) if isinstance(select, str) else None
    defaults = {} if method is None else {name: one.default for name, one in method.options.items()}
    share = next((options[name] for name in _EXCLUDING if name in options), None)
    if share is None:
        share = next((defaults[name] for name in _EXCLUDING if defaults.get(name)), None)
    return share if isinstance(share, (int, float)) else 0.0


def _features(config: SelectConfig, texts: Sequence[str] | None, features: Any, pool: Rows, ids: Sequence[str]) -> Any:
    """A vector for each candidate, for selectors that need them."""
    if features is not None:
        return features[pool]
    if config.selector()[0] not in registry.names("select", need="features") or texts is None:
        return None
    from sklearn.feature_extraction.text import TfidfVectorizer

    from datadiet.scores.text import tf_idf

    names = [str(ids[row]) for row in pool]
    # single letters and signs count too: a text of nothing else needs a vector
    return tf_idf([texts[row] for row in pool], ids=names, vectorizer=TfidfVectorizer(token_pattern=r"\S+"))


# ---- the job


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
    selection = select_from(file, config, joined_texts(train), _read_features(config.features, len(file)))
    listener.phase(f"writing {config.output}")
    _write(config, data, selection)
    return {"scores": str(scores), **_summary(config, file, train, selection)}


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
    problems.found += config_problems(config) + ([] if file is None else file_problems(file, config))
    _check_output(config, problems)
    if config.features is not None and not config.features.is_file():
        problems.add(f"there is no file {config.features}: --features takes a .npy file.")
    problems.raise_any()
    assert file is not None  # else there was a problem
    return file


def _check_output(config: SelectConfig, problems: Problems) -> None:
    path = config.output
    if path is None:
        problems.add("--output is missing: a .jsonl, .csv, .tsv or .parquet file, or a folder (no ending).")
        return
    if path.suffix:
        allowed = ", ".join(SUFFIXES)
        problems.check(path.suffix in SUFFIXES, f"--output must end in {allowed}, or be a folder, got {path}.")
        problems.check(not path.is_dir(), f"{path} is a folder: give a file, or a folder without an ending.")
        problems.check(not path.is_file() or config.force, f"{path} exists: --force replaces it.")
    elif path.is_file():
        problems.add(f"{path} is a file; an --output without an ending is a folder. Choose another name.")
    elif path.is_dir() and any(path.iterdir()):
        if not is_saved(path):
            problems.add(f"{path} is no saved `datasets` folder and is not replaced: choose another --output.")
        else:
            problems.check(config.force, f"{path} exists: --force replaces it.")
    if _is_data(path, config.data):
        problems.add(f"{path} would be a part of the data: choose another --output.")


def _is_data(path: Path, data: str | None) -> bool:
    """Whether a path is the data, or would be a split in their folder."""
    source = None if data is None else Path(data).expanduser()
    if source is None or not source.exists():
        return False
    if path.exists() and path.samefile(source):
        return True
    return source.is_dir() and path.parent.resolve() == source.resolve() and split_stem(path) in SPLIT_NAMES


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


def _write(config: SelectConfig, data: Dataset, selection: StaticSelection) -> None:
    """The kept rows, with every column of the file that they come from."""
    assert config.output is not None  # checked
    source = find(str(config.data))
    train = source.originals["train"]()
    rows = data.splits["train"].source_rows or ()
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
    if "dev" not in source.splits:  # the same training rows that were split off as dev for the scoring
        splits["dev"] = train.take(list(data.splits["dev"].source_rows or ()))
    splits |= {source.own_names.get(name, name): read() for name, read in source.originals.items() if name != "train"}
    write_saved(splits, config.output)


# ---- the summary


def joined_texts(examples: Examples) -> list[str]:
    """One text per example; the two of a pair on two lines."""
    if examples.text_pairs is None:
        return list(examples.texts)
    return [f"{one}\n{two}" for one, two in zip(examples.texts, examples.text_pairs, strict=True)]


def _summary(config: SelectConfig, file: ScoreFile, train: Examples, selection: StaticSelection) -> Json:
    kept = selection.kept
    select, options = config.selector()
    return {
        "data": file.data,
        "fingerprint": file.fingerprint,
        "task": file.task,
        "output": str(config.output),
        "score": selection.score,
        "select": select,
        "options": options,
        "seed": config.seed,
        "rows": len(file),
        "kept": int(kept.sum()),
        "dropped": int((~kept).sum()),
        "mean_kept": _mean(selection.values[kept]),
        "mean_dropped": _mean(selection.values[~kept]),
        "reasons": selection.counts(),
        "suspects_by": None if selection.suspicion is None else selection.suspicion[0],
        "weighted": selection.weights is not None,
        "classes": [] if file.labels is None else list(_classes(file.labels, selection)),
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


def _mean(values: Values) -> float | None:
    return float(values.mean(dtype="float64")) if len(values) else None


def _examples(train: Examples, selection: StaticSelection) -> Iterator[Json]:
    """The extreme rows of each reason: the kept and dropped ones that differ most, the most suspected, ..."""
    kept, values = selection.kept, selection.values
    harder = bool(kept.all()) or values[kept].mean() >= values[~kept].mean()
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
                "value": float(values[row]),
                "text": joined_texts(train.take([row]))[0],
            }


def _next_command(config: SelectConfig, file: ScoreFile) -> str:
    """What to type to train on the kept rows."""
    reading = _reading(config, file)
    flags = [f"{flag_name(f'{name}_column')} {shlex.quote(column)}" for name, column in reading["columns"].items()]
    if separator := reading.get("label_separator"):
        flags.append(f"--label-separator {shlex.quote(separator)}")
    words = ["datadiet finetune", shlex.quote(str(config.output)), f"--task {file.task}", *flags, "--keep 1"]
    return " ".join([*words, "--output RUN"])
