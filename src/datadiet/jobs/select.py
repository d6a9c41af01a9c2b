"""What a static selection is asked for, and what of it does not fit.

From the values in a score file to the rows that are kept, and why each row is kept or dropped.

`datadiet select`: from a score file to the rows that are kept, in a file or folder of the user's own columns.

What a static selection comes to, in plain values: for a machine as it is, for a person as tables.
"""

from __future__ import annotations

import json
import shlex
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from datadiet import registry
from datadiet.config import COLUMNS, flag_name
from datadiet.data.duplicates import representatives
from datadiet.data.export import SUFFIXES
from datadiet.data.schema import Examples, joined_texts
from datadiet.diet.choose import BoundSelector, SelectorContext
from datadiet.errors import ArgumentError, DataError, Problems, UserError, unknown
from datadiet.noise.rankings import suspicion_of, suspicion_problems
from datadiet.registry import find, problems_of
from datadiet.selectors.base import top_mask
from datadiet.selectors.quotas import floor_problems
from datadiet.store.score_file import ScoreFile, read_scores
from datadiet.types import Json, Listener, Selection, Silent

if TYPE_CHECKING:
    from datadiet.data.schema import Dataset


Select = str | Callable[..., Selection]


@dataclass(frozen=True)
class Wish:
    """The arguments of `select_rows` that can be checked before the data are read; see there."""

    score: str | None = None
    select: Select = "hardest"
    keep: float | None = None
    count: int | None = None
    floor: int = 0
    seed: int = 0
    drop_suspects: float = 0.0
    dedupe: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)
    suspects_by: str | None = None
    near: float | None = None


def wish_problems(file: ScoreFile | None, wish: Wish) -> list[str]:
    """What is wrong with the arguments, as far as it can be seen without the texts.

    Args:
        file: None where it could not be read; then only what does not depend on it is checked.
        wish: Of the user.

    Returns:
        One sentence each.
    """
    problems = Problems()
    if wish.keep is not None:
        problems.share("keep", wish.keep)
    if wish.count is not None:
        problems.whole("count", wish.count, least=1)
    problems.check(wish.keep is None or wish.count is None, "keep and count say the same thing: give one of them.")
    smaller = wish.drop_suspects or wish.dedupe
    if wish.keep is None and wish.count is None and not smaller:
        problems.add("nothing is dropped: give keep (a share) or count, or drop suspects or duplicates.")
    problems.whole("floor", wish.floor)
    problems.whole("seed", wish.seed)
    in_range = isinstance(wish.drop_suspects, (int, float)) and 0 <= wish.drop_suspects < 1
    problems.check(in_range, f"drop_suspects must be a share in [0, 1), got {wish.drop_suspects}.")
    problems.check(
        wish.suspects_by is None or bool(wish.drop_suspects), "suspects_by has no effect without drop_suspects."
    )
    problems.check(wish.near is None or wish.dedupe, "near has no effect without dedupe.")
    close = wish.near is None or (isinstance(wish.near, (int, float)) and 0 < wish.near < 1)
    problems.check(close, f"near must be a similarity in (0, 1), got {wish.near}.")
    problems.found += option_problems(wish.select, wish.options)
    if file is not None:
        _check_against(file, wish, problems)
    return problems.found


def _check_against(file: ScoreFile, wish: Wish, problems: Problems) -> None:
    there = list(file.values)
    if wish.score is None:
        told = f"the file has several scores ({', '.join(there)}): say which one to select by."
        problems.check(len(there) == 1, told)
    else:
        problems.choice("score", wish.score, there)
    if wish.drop_suspects:
        problems.found += suspicion_problems(file, wish.suspects_by)
    method = find("select", wish.select) if isinstance(wish.select, str) else None
    needs = () if method is None else method.needs
    if file.labels is None and (wish.floor or "groups" in needs):
        what = "a floor" if wish.floor else f"the selector {wish.select}"
        problems.add(f"{what} needs the class of each row, and the file has none (task {file.task}).")
    if wish.count is not None and isinstance(wish.count, int) and wish.count > len(file):
        problems.add(f"count must be at most {len(file)}, the rows of the file, got {wish.count}.")


def option_problems(select: Select, options: Mapping[str, Any]) -> list[str]:
    """What is wrong with a selector's name and options.

    Example:
        >>> option_problems("ccs", {"betta": 0.1})
        ["unknown option of ccs 'betta'; did you mean 'beta'? Allowed: beta, edges, strata."]
    """
    if not isinstance(select, str):
        return []
    method = find("select", select)
    if method is None:
        return [unknown("selector", select, registry.names("select"))]
    required = {name for name, option in method.options.items() if option.required} | set(method.needs)
    missing = [name for name in method.options if name in required and options.get(name) is None]
    problems = problems_of("select", select, options)
    return problems + [f"the selector {select} needs the option {name}." for name in missing]


Rows = NDArray[np.int64]

# why a row is kept (the first two) or dropped, in the order in which it is decided
CHOSEN, FLOOR, DUPLICATE, SUSPECT, OFFSET, REST = "chosen", "floor", "duplicate", "suspect", "offset", "rest"
REASONS = (CHOSEN, FLOOR, DUPLICATE, SUSPECT, OFFSET, REST)
# options that set the very hardest aside
_ASIDE = ("offset", "beta")


@dataclass(frozen=True)
class StaticSelection:
    """Which rows of a training split are kept, and why.

    Attributes:
        rows: int64 `(count,)`, ascending: what is kept.
        reasons: `(n,)`, one of `REASONS` per row: `chosen` and `floor` are kept; `duplicate`, `suspect`, `offset` (set
            aside as among the very hardest) and `rest` are dropped.
        values: float32 `(n,)`, what was selected by; larger = harder.
        score: Its name.
        weights: float32 beside `rows`, or None where every kept row weighs 1.
        suspicion: float32 `(n,)` and the name of what suspects were ranked by; None where none were asked for.
    """

    rows: Rows
    reasons: NDArray[np.str_]
    values: NDArray[np.float32]
    score: str
    weights: NDArray[np.float32] | None = None
    suspicion: tuple[str, NDArray[np.float32]] | None = None

    @property
    def kept(self) -> NDArray[np.bool_]:
        """Where a row is kept, `(n,)`."""
        mask = np.zeros(len(self.values), np.bool_)
        mask[self.rows] = True
        return mask

    def counts(self) -> dict[str, int]:
        """Rows by reason; reasons that no row has are left out."""
        found = Counter(self.reasons.tolist())
        return {reason: found[reason] for reason in REASONS if found[reason]}


def select_rows(
    scores: str | Path | ScoreFile,
    *,
    score: str | None = None,
    select: Select = "hardest",
    keep: float | None = None,
    count: int | None = None,
    floor: int = 0,
    seed: int = 0,
    drop_suspects: float = 0.0,
    suspects_by: str | None = None,
    dedupe: bool = False,
    near: float | None = None,
    texts: Sequence[str] | None = None,
    features: Any = None,
    **options: Any,
) -> StaticSelection:
    """Choose once what to train on, from a score file.

    First duplicates are dropped, then suspects, then the selector chooses among the others.

    Args:
        scores: A score file, or its path.
        score: A column of it; the only one by default.
        select: A name of `datadiet.selectors.SELECTORS`, or a function of the same form; `options` are its own, e.g.
            `offset=0.05`.
        keep: Share kept of all rows, in (0, 1].
        count: Instead of `keep`: how many. With neither, all are kept that are no duplicates or suspects.
        floor: Keep at least so many of each class; 0 = no floor.
        seed: Of ties and random choices.
        drop_suspects: Share of the rows, in [0, 1), whose label is most suspected to be wrong, by the first of `aum`,
            `el2n`, `negative_pvi` and `irreducible_loss` that the file has.
        suspects_by: Instead: `aum`, `el2n`, `irreducible` (of `reducible_loss`), or another score of
            `datadiet.noise.rankings.BY` that the file has.
        dedupe: Keep one of the rows with the same text, case and spacing aside: the first with the most common label.
        near: With `dedupe`: also of rows of one label whose texts are nearly the same, from this similarity on, in
            (0, 1); see `datadiet.data.duplicates`.
        texts: One per row: for `dedupe`, and for selectors that cover a space where there are no features.
        features: float `(n, size)` or a SciPy CSR matrix, for selectors that cover a space; by default TF-IDF of texts.

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
    file = scores if isinstance(scores, ScoreFile) else read_scores(scores)
    wish = Wish(score, select, keep, count, floor, seed, drop_suspects, dedupe, options, suspects_by, near)
    return select_wished(file, wish, texts, features)


def select_wished(
    file: ScoreFile, wish: Wish, texts: Sequence[str] | None = None, features: Any = None
) -> StaticSelection:
    """The same, of a wish.

    Raises:
        ArgumentError: For what does not fit, together.
    """
    problems = Problems()
    problems.found += wish_problems(file, wish)
    problems.check(not wish.dedupe or texts is not None, "dedupe needs the texts: give texts=.")
    for name, held in (("texts", texts), ("features", features)):
        size = len(file) if held is None else np.shape(held)[0]
        problems.check(size == len(file), f"{name} must have one entry per row, {len(file)}, got {size}.")
    problems.raise_any()
    return _selected(file, wish, texts, features)


# ---- the selection ----


def _selected(file: ScoreFile, wish: Wish, texts: Sequence[str] | None, features: Any) -> StaticSelection:
    score = wish.score or next(iter(file.values))
    values, groups = file.values[score], None if file.labels is None else np.asarray(list(file.labels))
    reasons = np.full(len(file), REST, dtype=f"<U{max(map(len, REASONS))}")
    if wish.dedupe and texts is not None:
        reasons[representatives(texts, file.labels, near=wish.near).repeated] = DUPLICATE
    suspicion = suspicion_of(file, wish.suspects_by) if wish.drop_suspects else None
    if suspicion is not None:
        left = np.flatnonzero(reasons == REST)
        number = round(wish.drop_suspects * left.size)
        if number:
            reasons[left[top_mask(suspicion[1][left], number, seed=wish.seed, epoch=0)]] = SUSPECT
    pool = np.flatnonzero(reasons == REST)
    count = _count(wish, len(file), pool.size)
    inside = None if groups is None else groups[pool]
    _check_floor(wish.floor, inside, count)
    known = SelectorContext(groups=inside, features=_features(wish.select, texts, features, pool, file.ids))
    chosen = _choose(wish, values[pool], count, known)
    reasons[pool] = _reasons(wish, values[pool], count, known, chosen)
    return StaticSelection(pool[chosen.rows], reasons, values, score, chosen.weights, suspicion)


def _choose(
    wish: Wish, values: NDArray[np.float32], count: int, known: SelectorContext, *, floor: bool = True
) -> Selection:
    select = wish.select if isinstance(wish.select, str) else partial(wish.select, **wish.options)
    chooser = BoundSelector(select, options=wish.options, floor=wish.floor if floor else 0, seed=wish.seed)
    chooser.check(known)
    return chooser.choose(values, count, epoch=0, context=known)


def _count(wish: Wish, rows: int, left: int) -> int:
    """How many are kept, of those that are left."""
    if wish.keep is None and wish.count is None:
        if not left:
            raise ArgumentError("nothing is left to keep: drop fewer suspects.")
        return left
    count = wish.count if wish.count is not None else max(1, round((wish.keep or 0.0) * rows))
    if count > left:
        gone = " and ".join([*(["duplicates"] if wish.dedupe else []), *(["suspects"] if wish.drop_suspects else [])])
        raise ArgumentError(
            f"{count} of {rows} rows shall be kept, but only {left} are left without {gone}: keep at most "
            f"{left / rows:.4g}, or give neither keep nor count to keep all of them."
        )
    return count


def _check_floor(floor: int, groups: NDArray[Any] | None, count: int) -> None:
    problems = Problems()
    problems.found += floor_problems(floor, Counter([] if groups is None else map(str, groups.tolist())), count)
    problems.raise_any()


def _reasons(
    wish: Wish, values: NDArray[np.float32], count: int, known: SelectorContext, chosen: Selection
) -> NDArray[np.str_]:
    """Why each row of those that could be chosen is kept or not."""
    found = np.full(len(values), REST, dtype="<U9")
    aside = next((wish.options[name] for name in _ASIDE if name in wish.options), None)
    if aside is None and isinstance(wish.select, str):
        method = find("select", wish.select)
        own = {} if method is None else method.options
        aside = next((own[name].default for name in _ASIDE if name in own and own[name].default), None)
    number = round(aside * len(values)) if isinstance(aside, (int, float)) else 0
    if number and count < len(values):
        found[top_mask(values, number, seed=wish.seed, epoch=0)] = OFFSET
    found[chosen.rows] = CHOSEN
    if wish.floor and known.groups is not None:
        plain = _choose(wish, values, count, known, floor=False).rows
        _, codes = np.unique(known.groups, return_inverse=True)
        short = np.bincount(codes[plain], minlength=codes.max() + 1) < wish.floor
        found[np.setdiff1d(chosen.rows[short[codes[chosen.rows]]], plain)] = FLOOR
    return found


def _features(select: Select, texts: Sequence[str] | None, features: Any, pool: Rows, ids: Sequence[str]) -> Any:
    """Where each row lies, for selectors that need it."""
    if features is not None:
        return features[pool]
    if select not in registry.names("select", need="features") or texts is None:
        return None
    from sklearn.feature_extraction.text import TfidfVectorizer

    from datadiet.scores.text import tf_idf

    names = [str(ids[row]) for row in pool]
    # single letters and signs count too: a text of nothing else has to lie somewhere
    return tf_idf([texts[row] for row in pool], ids=names, vectorizer=TfidfVectorizer(token_pattern=r"\S+"))


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
    train = data.splits["train"]
    listener.phase("selecting")
    chosen = select_wished(file, wish, joined_texts(train, "\n"), _read_features(request.features, len(file)))
    listener.phase(f"writing {request.output}")
    _write(request, data, chosen)
    return told(request, wish, file, train, chosen)


# ---- before the data are read ----


def checked(request: Request) -> tuple[ScoreFile, Wish]:
    """The score file and the wish.

    Raises:
        ArgumentError: Everything that can be told before the data are read, together.
    """
    from datadiet.store.score_file import read_scores

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
    from datadiet.data.sources import is_saved

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
    from datadiet.data.load import load_data
    from datadiet.data.schema import Columns
    from datadiet.store.score_file import check_same_data

    source = str(request.data)
    data = load_data(source, file.task, columns=Columns(**columns_of(request, file)), **reading_of(request, file))
    check_same_data(file, data.fingerprint, source)
    return data


def columns_of(request: Request, file: ScoreFile) -> dict[str, str]:
    """Names of columns by the fields of `datadiet.data.schema.Columns`: those given, else those of the scoring."""
    given = {name.removesuffix("_column"): value for name, value in request.reading.items() if name.endswith("_column")}
    return dict(file.read_with.get("columns", {})) | given


def reading_of(request: Request, file: ScoreFile) -> dict[str, Any]:
    """Other arguments of `load_data`: those given, else those of the scoring."""
    found = {name: file.read_with[name] for name in _READING.values() if file.read_with.get(name) is not None}
    return found | {name: request.reading[flag] for flag, name in _READING.items() if flag in request.reading}


def _read_features(path: Path | None, rows: int) -> NDArray[np.floating[Any]] | None:
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
    from datadiet.data.export import write_original, write_saved
    from datadiet.data.sources import find

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


PER_REASON = 3  # examples of each


def told(request: Request, wish: Wish, file: ScoreFile, train: Examples, chosen: StaticSelection) -> Json:
    """The outcome in plain values."""
    kept = chosen.kept
    return {
        "scores": str(request.scores),
        "data": file.data,
        "fingerprint": file.fingerprint,
        "task": file.task,
        "output": str(request.output),
        "score": chosen.score,
        "select": request.select,
        "options": dict(wish.options),
        "seed": wish.seed,
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
        "next": next_command(request, file),
    }


def _classes(labels: Sequence[str], chosen: StaticSelection) -> Iterator[Json]:
    """One line per class, the largest first."""
    names, codes = np.unique(np.asarray(list(labels)), return_inverse=True)
    sizes, kept = np.bincount(codes), chosen.kept
    for code in np.argsort(-sizes, kind="stable").tolist():
        there = codes == code
        yield {
            "label": str(names[code]),
            "rows": int(sizes[code]),
            "kept": int(kept[there].sum()),
            "dropped": int(sizes[code] - kept[there].sum()),
            "mean_kept": _mean(chosen.values[there & kept]),
            "mean_dropped": _mean(chosen.values[there & ~kept]),
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


def next_command(request: Request, file: ScoreFile) -> str:
    """What to type to train on what was kept."""
    columns = columns_of(request, file)
    flags = [f"{flag_name(f'{name}_column')} {shlex.quote(column)}" for name, column in columns.items()]
    if separator := reading_of(request, file).get("label_separator"):
        flags.append(f"--label-separator {shlex.quote(separator)}")
    words = ["datadiet finetune", shlex.quote(str(request.output)), f"--task {file.task}", *flags, "--keep 1"]
    return " ".join([*words, "--output RUN"])
