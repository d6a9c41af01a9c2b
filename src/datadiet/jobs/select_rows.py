"""Static selection: from the values in a score file to the rows that are kept, and why each row is kept or dropped."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datadiet import registry
from datadiet.data.duplicates import representatives
from datadiet.diet.choose import BoundSelector, SelectorContext
from datadiet.errors import ArgumentError, Problems, unknown
from datadiet.noise.rankings import suspicion_of, suspicion_problems
from datadiet.registry import find, parse_call, problems_of
from datadiet.selectors.base import floor_problems, top_mask
from datadiet.store.score_file import ScoreFile, read_scores
from datadiet.types import Selection

Select = str | Callable[..., Selection]


@dataclass(frozen=True, kw_only=True)
class SelectConfig:
    """The options of a static selection; `select_rows` and `datadiet select` take them as keywords and flags.

    Attributes:
        score: A column of the score file; the only one by default.
        select: A selector, such as `hardest` or `ccs(beta=0.2)`; in Python also a function of the same form.
        offset: Share of the very hardest that is excluded as noise; None = the selector's own default.
        keep: Share kept of all rows, in (0, 1].
        count: Instead of `keep`: how many. With neither, all are kept that are no duplicates or suspects.
        floor: Keep at least so many of each class; 0 = no floor.
        seed: Of ties and random choices.
        drop_suspects: Share of the rows, in [0, 1), whose label is most suspected to be wrong, by the first of `aum`,
            `el2n`, `negative_pvi` and `irreducible_loss` that the file has.
        suspects_by: Instead: `aum`, `el2n`, `irreducible` (of `reducible_loss`), or another score of
            `datadiet.noise.rankings.BY` that the file has.
        dedupe: Keep one of the rows with the same text, apart from case and spacing: the first with the most common
            label.
        near: With `dedupe`: also of rows of one label whose texts are nearly the same, from this similarity on, in
            (0, 1); see `datadiet.data.duplicates`.
    """

    score: str | None = None
    select: Select = "hardest"
    offset: float | None = None
    keep: float | None = None
    count: int | None = None
    floor: int = 0
    seed: int = 0
    drop_suspects: float = 0.0
    suspects_by: str | None = None
    dedupe: bool = False
    near: float | None = None

    @cached_property
    def selector(self) -> tuple[str | Callable[..., Selection], Mapping[str, Any]]:
        """The selector's name, or the function, and its options.

        Raises:
            ArgumentError: If `select` is no call, or names the offset a second time.
        """
        name, options = parse_call(self.select) if isinstance(self.select, str) else (self.select, {})
        if self.offset is None:
            return name, options
        if "offset" in options:
            raise ArgumentError(f"offset must be given once, got {self.offset} beside select={self.select!r}.")
        return name, {**options, "offset": self.offset}


def selection_problems(file: ScoreFile | None, config: SelectConfig) -> list[str]:
    """What is wrong with the arguments, as far as it can be seen without the texts.

    Args:
        file: None where it could not be read; then only what does not depend on it is checked.
        config: Of the user.

    Returns:
        One sentence each.
    """
    problems = Problems()
    if config.keep is not None:
        problems.share("keep", config.keep)
    if config.count is not None:
        problems.whole("count", config.count, least=1)
    problems.check(config.keep is None or config.count is None, "keep and count say the same thing: give one of them.")
    smaller = config.drop_suspects or config.dedupe
    if config.keep is None and config.count is None and not smaller:
        problems.add("nothing is dropped: give keep (a share) or count, or drop suspects or duplicates.")
    problems.whole("floor", config.floor)
    problems.whole("seed", config.seed)
    in_range = isinstance(config.drop_suspects, (int, float)) and 0 <= config.drop_suspects < 1
    problems.check(in_range, f"drop_suspects must be a share in [0, 1), got {config.drop_suspects}.")
    problems.check(
        config.suspects_by is None or bool(config.drop_suspects), "suspects_by has no effect without drop_suspects."
    )
    problems.check(config.near is None or config.dedupe, "near has no effect without dedupe.")
    close = config.near is None or (isinstance(config.near, (int, float)) and 0 < config.near < 1)
    problems.check(close, f"near must be a similarity in (0, 1), got {config.near}.")
    problems.found += selector_problems(config)
    if file is not None:
        _check_against(file, config, problems)
    return problems.found


def _check_against(file: ScoreFile, config: SelectConfig, problems: Problems) -> None:
    columns = list(file.values)
    if config.score is None:
        several = f"the file has several scores ({', '.join(columns)}): say which one to select by."
        problems.check(len(columns) == 1, several)
    else:
        problems.choice("score", config.score, columns)
    if config.drop_suspects:
        problems.found += suspicion_problems(file, config.suspects_by)
    name = _selector_name(config)
    method = None if name is None else find("select", name)
    needs = () if method is None else method.needs
    if file.labels is None and (config.floor or "groups" in needs):
        what = "a floor" if config.floor else f"the selector {name}"
        problems.add(f"{what} needs the class of each row, and the file has none (task {file.task}).")
    if config.count is not None and isinstance(config.count, int) and config.count > len(file):
        problems.add(f"count must be at most {len(file)}, the rows of the file, got {config.count}.")


def selector_problems(config: SelectConfig) -> list[str]:
    """What is wrong with a selector's name and options.

    Example:
        >>> selector_problems(SelectConfig(select="ccs(betta=0.1)"))
        ["unknown option of ccs 'betta'; did you mean 'beta'? Allowed: beta, edges, strata."]
    """
    try:
        name, options = config.selector
    except ArgumentError as error:
        return list(error.problems)
    method = find("select", name) if isinstance(name, str) else None
    if not isinstance(name, str) or method is None:
        return problems_of("select", name, options) if isinstance(name, str) else []
    required = {key for key, option in method.options.items() if option.required} | set(method.needs)
    missing = [key for key in method.options if key in required and options.get(key) is None]
    return problems_of("select", name, options) + [f"the selector {name} needs the option {key}." for key in missing]


Rows = NDArray[np.int64]

# why a row is kept (the first two) or dropped, in the order in which it is decided
CHOSEN, FLOOR, DUPLICATE, SUSPECT, OFFSET, REST = "chosen", "floor", "duplicate", "suspect", "offset", "rest"
REASONS = (CHOSEN, FLOOR, DUPLICATE, SUSPECT, OFFSET, REST)
# options by which the very hardest are excluded
_EXCLUDING = ("offset", "beta")


@dataclass(frozen=True)
class StaticSelection:
    """Which rows of a training split are kept, and why.

    Attributes:
        rows: int64 `(count,)`, ascending: what is kept.
        reasons: `(n,)`, one of `REASONS` per row: `chosen` and `floor` are kept; `duplicate`, `suspect`, `offset`
            (excluded as among the very hardest) and `rest` are dropped.
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
        rows = Counter(self.reasons.tolist())
        return {reason: rows[reason] for reason in REASONS if rows[reason]}


def select_rows(
    scores: str | Path | ScoreFile, *, texts: Sequence[str] | None = None, features: Any = None, **options: Any
) -> StaticSelection:
    """Choose once what to train on, from a score file.

    First duplicates are dropped, then suspects, then the selector chooses among the others.

    Args:
        scores: A score file, or its path.
        texts: One per row: for `dedupe`, and for selectors that cover a space where there are no features.
        features: float `(n, size)` or a SciPy CSR matrix, for selectors that cover a space; by default TF-IDF of texts.
        options: The fields of `SelectConfig`, such as `keep=0.3, select="ccs(beta=0.2)"`.

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
    problems = Problems()
    for name in options.keys() - SelectConfig.__dataclass_fields__.keys():
        hint = 'The options of a selector are written with it, as in select="ccs(beta=0.2)".'
        problems.add(f"{unknown('option', name, SelectConfig.__dataclass_fields__)} {hint}")
    problems.raise_any()
    return select_from(file, SelectConfig(**options), texts, features)


def select_from(
    file: ScoreFile, config: SelectConfig, texts: Sequence[str] | None = None, features: Any = None
) -> StaticSelection:
    """`select_rows` with its options as a config.

    Raises:
        ArgumentError: For what does not fit, together.
    """
    problems = Problems()
    problems.found += selection_problems(file, config)
    problems.check(not config.dedupe or texts is not None, "dedupe needs the texts: give texts=.")
    for name, values in (("texts", texts), ("features", features)):
        size = len(file) if values is None else np.shape(values)[0]
        problems.check(size == len(file), f"{name} must have one entry per row, {len(file)}, got {size}.")
    problems.raise_any()
    return _selected(file, config, texts, features)


# ---- the selection ----


def _selected(file: ScoreFile, config: SelectConfig, texts: Sequence[str] | None, features: Any) -> StaticSelection:
    score = config.score or next(iter(file.values))
    values, groups = file.values[score], None if file.labels is None else np.asarray(list(file.labels))
    reasons = np.full(len(file), REST, dtype=f"<U{max(map(len, REASONS))}")
    if config.dedupe and texts is not None:
        reasons[representatives(texts, file.labels, near=config.near).repeated] = DUPLICATE
    suspicion = suspicion_of(file, config.suspects_by) if config.drop_suspects else None
    if suspicion is not None:
        left = np.flatnonzero(reasons == REST)
        number = round(config.drop_suspects * left.size)
        if number:
            reasons[left[top_mask(suspicion[1][left], number, seed=config.seed, epoch=0)]] = SUSPECT
    pool = np.flatnonzero(reasons == REST)
    count = _count(config, len(file), pool.size)
    pool_groups = None if groups is None else groups[pool]
    _check_floor(config.floor, pool_groups, count)
    context = SelectorContext(
        groups=pool_groups, features=_features(_selector_name(config), texts, features, pool, file.ids)
    )
    chosen = _choose(config, values[pool], count, context)
    reasons[pool] = _reasons(config, values[pool], count, context, chosen)
    return StaticSelection(pool[chosen.rows], reasons, values, score, chosen.weights, suspicion)


def _selector_name(config: SelectConfig) -> str | None:
    """None for a function, and for what is no call."""
    try:
        name, _ = config.selector
    except ArgumentError:
        return None
    return name if isinstance(name, str) else None


def _choose(
    config: SelectConfig, values: NDArray[np.float32], count: int, context: SelectorContext, *, floor: bool = True
) -> Selection:
    name, options = config.selector
    select = name if isinstance(name, str) else partial(name, **options)
    selector = BoundSelector(select, options=options, floor=config.floor if floor else 0, seed=config.seed)
    selector.check(context)
    return selector.choose(values, count, epoch=0, context=context)


def _count(config: SelectConfig, rows: int, left: int) -> int:
    """How many are kept, of those that are left."""
    if config.keep is None and config.count is None:
        if not left:
            raise ArgumentError("nothing is left to keep: drop fewer suspects.")
        return left
    count = config.count if config.count is not None else max(1, round((config.keep or 0.0) * rows))
    if count > left:
        gone = " and ".join(
            [*(["duplicates"] if config.dedupe else []), *(["suspects"] if config.drop_suspects else [])]
        )
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
    config: SelectConfig, values: NDArray[np.float32], count: int, context: SelectorContext, chosen: Selection
) -> NDArray[np.str_]:
    """Why each row of those that could be chosen is kept or not."""
    reasons = np.full(len(values), REST, dtype="<U9")
    name, options = config.selector
    method = find("select", name) if isinstance(name, str) else None
    defaults = {} if method is None else {key: option.default for key, option in method.options.items()}
    excluded = next((share for key in _EXCLUDING if (share := options.get(key, defaults.get(key)))), 0)
    number = round(excluded * len(values)) if isinstance(excluded, (int, float)) else 0
    if number and count < len(values):
        reasons[top_mask(values, number, seed=config.seed, epoch=0)] = OFFSET
    reasons[chosen.rows] = CHOSEN
    if config.floor and context.groups is not None:
        plain = _choose(config, values, count, context, floor=False).rows
        _, codes = np.unique(context.groups, return_inverse=True)
        short = np.bincount(codes[plain], minlength=codes.max() + 1) < config.floor
        reasons[np.setdiff1d(chosen.rows[short[codes[chosen.rows]]], plain)] = FLOOR
    return reasons


def _features(select: str | None, texts: Sequence[str] | None, features: Any, pool: Rows, ids: Sequence[str]) -> Any:
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
