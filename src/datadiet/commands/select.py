"""`datadiet select`: from a score file to the rows that are kept, in a file or folder of the user's own columns."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datadiet.checks import DataError, Problems, UserError
from datadiet.config import COLUMNS
from datadiet.progress import Listener, Silent
from datadiet.records import Json

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from datadiet.data import Dataset
    from datadiet.score_file import ScoreFile
    from datadiet.selecting import StaticSelection, Wish

SUFFIXES = (".jsonl", ".csv", ".tsv", ".parquet")  # those of data.writing, which the command line must not import yet
# settings of the command line -> arguments of load_data
_READING = {
    "train_rows": "train_rows",
    "dev_share": "dev_share",
    "drop_overlap": "drop_overlap",
    "label_separator": "label_separator",
    "data_seed": "seed",
}
# flags of the command that say how the training split of a score file is read
READING = (*COLUMNS, *_READING)


@dataclass(frozen=True)
class Request:
    """What to select, and where it goes.

    Attributes:
        scores: The score file.
        data: What was scored; see `datadiet.load_data`.
        output: A .jsonl, .csv, .tsv or .parquet file, or a folder (no ending).
        score, select, keep, count, floor, seed, drop_suspects, dedupe, suspects_by, near: See `datadiet.select_rows`.
        offset: Of the selector; None = its own default.
        options: `name=value` of the selector.
        features: A .npy file, one line per training row, for selectors that cover a space.
        reading: How the training split is read, by the names of the flags; what is not given, as it was scored.
        with_score: Add the values as a column, and the loss weights of a selector that has them.
        force: Replace the output.
    """

    scores: Path
    data: str | None = None
    output: Path | None = None
    score: str | None = None
    select: str = "hardest"
    keep: float | None = None
    count: int | None = None
    offset: float | None = None
    floor: int = 0
    seed: int = 0
    drop_suspects: float = 0.0
    dedupe: bool = False
    options: Sequence[str] = ()
    features: Path | None = None
    reading: Mapping[str, Any] = field(default_factory=dict)
    with_score: bool = False
    force: bool = False
    suspects_by: str | None = None
    near: float | None = None


def select(request: Request, listener: Listener = Silent()) -> Json:  # noqa: B008  (stateless)
    """Choose, write what is kept, and say why.

    Args:
        request: See there.
        listener: Hears what is being done.

    Returns:
        What was kept and dropped, and why: of all, of each class, and by example. Plain values, for JSON.

    Raises:
        ArgumentError, DataError: All problems of a step at once; nothing has been written then.
    """
    file, wish = checked(request)
    listener.phase("reading the data")
    data = _load(request, file)
    for note in data.notes:
        listener.note(note)
    from datadiet.commands.selected import joined_texts, told
    from datadiet.selecting import select_wished

    train = data.splits["train"]
    listener.phase("selecting")
    chosen = select_wished(file, wish, joined_texts(train), _features(request.features, len(file)))
    listener.phase(f"writing {request.output}")
    _write(request, data, chosen)
    return told(request, wish, file, train, chosen)


# ---- before the data are read ----


def checked(request: Request) -> tuple[ScoreFile, Wish]:
    """The score file and the wish.

    Raises:
        ArgumentError: Everything that can be told before the data are read, together.
    """
    from datadiet.score_file import read_scores
    from datadiet.selecting import Wish, wish_problems

    problems = Problems()
    problems.check(request.data is not None, "--data is missing: what was scored, e.g. the same folder.")
    file = None
    try:
        file = read_scores(request.scores)
    except UserError as error:
        problems.include(error)
    options = _options(request, problems)
    wish = Wish(
        score=request.score,
        select=request.select,
        keep=request.keep,
        count=request.count,
        floor=request.floor,
        seed=request.seed,
        drop_suspects=request.drop_suspects,
        dedupe=request.dedupe,
        options=options,
        suspects_by=request.suspects_by,
        near=request.near,
    )
    problems.found += wish_problems(file, wish)
    _check_output(request, problems)
    if request.features is not None:
        problems.check(
            request.features.is_file(), f"there is no file {request.features}: --features takes a .npy file."
        )
    problems.raise_any()
    assert file is not None  # else there was a problem
    return file, wish


def _options(request: Request, problems: Problems) -> dict[str, Any]:
    """The options of the selector, from `--offset` and every `--option name=value`."""
    from datadiet.selecting import options_of

    found: dict[str, Any] = {}
    for text in request.options:
        name, equals, value = text.partition("=")
        name = name.strip()
        if not (name and equals):
            problems.add(f"--option takes name=value, got {text!r}.")
            continue
        problems.check(name not in found, f"--option {name} is given twice.")
        found[name] = _value(value.strip())
    if request.offset is not None:
        problems.check("offset" not in found, "--offset and --option offset say the same thing: give one of them.")
        found["offset"] = request.offset
    defaults = options_of(request.select, found)
    for name, value in found.items():
        problems.found += _type_problem(name, value, defaults.get(name))
    return found


def _value(text: str) -> Any:
    """A value as JSON has it, else text.

    Example:
        >>> _value("0.1"), _value("hardest"), _value('{"a": 1}')
        (0.1, 'hardest', {'a': 1})
    """
    try:
        return json.loads(text)
    except ValueError:
        return text


def _type_problem(name: str, value: Any, default: Any) -> list[str]:
    """A sentence on a value of another type than the default's; a whole number may stand for a number."""
    kinds = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
    wanted = type(default)
    if wanted not in kinds or type(value) is wanted or (wanted is float and type(value) is int):
        return []
    return [f"the option {name} must be {kinds[wanted]}, got {value!r}."]


def _check_output(request: Request, problems: Problems) -> None:
    path = request.output
    if path is None:
        problems.add("--output is missing: a .jsonl, .csv, .tsv or .parquet file, or a folder (no ending).")
        return
    if path.suffix:
        known = ", ".join(SUFFIXES)
        problems.check(path.suffix in SUFFIXES, f"--output must end in {known}, or be a folder, got {path}.")
        problems.check(not path.is_dir(), f"{path} is a folder: give a file, or a folder without an ending.")
        problems.check(not path.is_file() or request.force, f"{path} exists: --force replaces it.")
    else:
        _check_folder(path, request.force, problems)
    problems.check(not _is_data(path, request.data), f"{path} would be a part of the data: choose another --output.")


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
    from datadiet.data.hub import is_saved

    if path.is_file():
        problems.add(f"{path} is a file; an --output without an ending is a folder. Choose another name.")
    elif path.is_dir() and any(path.iterdir()):
        if not is_saved(path):
            problems.add(f"{path} is no saved `datasets` folder and is not replaced: choose another --output.")
        else:
            problems.check(force, f"{path} exists: --force replaces it.")


# ---- the data ----


def _load(request: Request, file: ScoreFile) -> Dataset:
    """The data set as it was scored.

    Raises:
        DataError: If it is another one, or cannot be read.
    """
    from datadiet.data import Columns, load_data
    from datadiet.score_file import check_same_data

    source = str(request.data)
    data = load_data(source, file.task, columns=Columns(**columns_of(request, file)), **reading_of(request, file))
    check_same_data(file, data.fingerprint, source)
    return data


def columns_of(request: Request, file: ScoreFile) -> dict[str, str]:
    """Names of columns by the fields of `datadiet.data.Columns`: those given, else those of the scoring."""
    given = {name.removesuffix("_column"): value for name, value in request.reading.items() if name.endswith("_column")}
    return dict(file.read_with.get("columns", {})) | given


def reading_of(request: Request, file: ScoreFile) -> dict[str, Any]:
    """Other arguments of `load_data`: those given, else those of the scoring."""
    found = {name: file.read_with[name] for name in _READING.values() if file.read_with.get(name) is not None}
    return found | {name: request.reading[flag] for flag, name in _READING.items() if flag in request.reading}


def _features(path: Path | None, rows: int) -> NDArray[np.floating[Any]] | None:
    if path is None:
        return None
    import numpy as np

    try:
        found = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is no .npy file of numbers ({error}).") from error
    if found.ndim != 2 or len(found) != rows or found.dtype.kind not in "fiu":
        raise DataError(f"{path} must hold numbers of the shape ({rows}, size), got {found.dtype} {found.shape}.")
    return np.asarray(found, np.float64)


def _write(request: Request, data: Dataset, chosen: StaticSelection) -> None:
    """The kept rows, with every column that they have where they come from."""
    from datadiet.data.sources import find
    from datadiet.data.writing import write_original, write_saved

    assert request.output is not None  # checked
    source = find(str(request.data))
    train = source.originals["train"]()
    rows = data.splits["train"].source_rows or ()
    if len(train) <= max(rows, default=-1):
        raise DataError(f"{source.place} changed while it was read; select again.")
    kept = train.take([rows[row] for row in chosen.rows.tolist()])
    if request.with_score:
        kept = kept.with_column(chosen.score, chosen.values[chosen.rows].tolist())
        if chosen.weights is not None:
            kept = kept.with_column("weight", chosen.weights.tolist())
    if request.output.suffix:
        write_original(kept, request.output)
        return
    splits = {source.own_names.get("train", "train"): kept}
    if "dev" not in source.splits:  # the same rows of train that were set aside when it was scored
        splits["dev"] = train.take(list(data.splits["dev"].source_rows or ()))
    splits |= {source.own_names.get(name, name): read() for name, read in source.originals.items() if name != "train"}
    write_saved(splits, request.output)
