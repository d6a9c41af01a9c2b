"""A static selection: from the values in a score file to the rows that are kept, with a reason for each row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datadiet import registry
from datadiet.data.duplicates import representatives
from datadiet.diet.choose import BoundSelector, SelectorContext
from datadiet.errors import ArgumentError, Problems, unknown
from datadiet.jobs.select_config import (
    SELECTION_OPTIONS,
    SelectConfig,
    config_problems,
    counts_groups,
    kept_count,
    needs_of_selector,
)
from datadiet.noise.rankings import suspicion_of, suspicion_problems
from datadiet.selectors.base import floor_problems, top_mask
from datadiet.store.score_file import ScoreFile, read_scores
from datadiet.types import IGNORED, Selection

Rows = NDArray[np.int64]
Values = NDArray[np.float32]

# why a row is kept (the first two) or dropped, in the order in which it is decided
CHOSEN, FLOOR, MISSING, DUPLICATE, SUSPECT = "chosen", "floor", "missing", "duplicate", "suspect"
OFFSET, REST = "offset", "rest"
REASONS = (CHOSEN, FLOOR, MISSING, DUPLICATE, SUSPECT, OFFSET, REST)
_EXCLUDING = ("offset", "beta")  # options of selectors that exclude the very hardest
ENTROPY = "entropy"  # the score that a selector of the need of that name reads


@dataclass(frozen=True)
class StaticSelection:
    """Which rows of a training split are kept, and why.

    Attributes:
        rows: int64 `(count,)`, ascending: the kept rows.
        reasons: `(n,)`, one of `REASONS` per row: `chosen` and `floor` are kept; `missing` (the row has no value),
            `duplicate`, `suspect`, `offset` (excluded as among the very hardest) and `rest` are dropped.
        values: float32 `(n,)`, the score; larger = harder, nan where missing.
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
    scores: str | Path | ScoreFile,
    *,
    texts: Sequence[str] | None = None,
    features: Any = None,
    groups: Sequence[Any] | None = None,
    **options: Any,
) -> StaticSelection:
    """Choose once what to train on, from a score file.

    First rows without a value are dropped, then duplicates, then suspects; the selector chooses among the others.

    Args:
        scores: A score file, or its path.
        texts: One per row: for `dedupe`, and for selectors that cover a space where there are no features.
        features: float `(n, size)` or a SciPy CSR matrix, for selectors that cover a space; by default TF-IDF of texts.
        groups: One per row, in place of the classes of the file: for floors, and for selectors of groups.
        options: `score`, `select`, `keep`, `count`, `offset`, `floor`, `drop_suspects`, `suspects_by`, `dedupe`,
            `near` and `seed`; see `datadiet.jobs.select_config.SelectConfig`.

    Returns:
        The rows, and the reason of each row of the split.

    Raises:
        ArgumentError: For arguments that do not fit the file or each other, together.
        DataError: If the file cannot be read; see `read_scores`.

    Examples:
        >>> values = {"el2n": np.float32([0.9, 0.2, 0.9, 0.1])}
        >>> file = ScoreFile(list("abcd"), np.arange(4), values, None, "f", "d", "regression")
        >>> select_rows(file, keep=0.5, texts=["x", "y", "X ", "z"], dedupe=True).reasons.tolist()
        ['chosen', 'chosen', 'duplicate', 'rest']

    Source: score, then select, then train: Paul, Ganguli and Dziugaite 2021, section 3; duplicates first as in Lee et
    al. 2022 (arXiv 2107.06499), so that a text that occurs often has no more votes than another.
    """
    problems = Problems()
    for name in options.keys() - set(SELECTION_OPTIONS):
        hint = 'The options of a selector are written with it, as in select="ccs(beta=0.2)".'
        problems.add(f"{unknown('option', name, SELECTION_OPTIONS)} {hint}")
    problems.raise_any()
    file = scores if isinstance(scores, ScoreFile) else read_scores(scores)
    return select_from(file, SelectConfig(**options), texts, features, groups)


def select_from(
    file: ScoreFile,
    config: SelectConfig,
    texts: Sequence[str] | None = None,
    features: Any = None,
    groups: Sequence[Any] | None = None,
) -> StaticSelection:
    """Choose among the rows of a score file; see `select_rows`."""
    problems = Problems()
    problems.found += config_problems(config) + file_problems(file, config, grouped=groups is not None)
    problems.check(not config.dedupe or texts is not None, "dedupe needs the texts: give texts=.")
    for name, given in (("texts", texts), ("features", features), ("groups", groups)):
        size = len(file) if given is None else np.shape(given)[0]
        problems.check(size == len(file), f"{name} must have one entry per row, {len(file)}, got {size}.")
    problems.raise_any()
    return _selection(file, config, texts, features, file.labels if groups is None else groups)


def file_problems(file: ScoreFile, config: SelectConfig, *, grouped: bool = False) -> list[str]:
    """Why a score file does not have what a selection needs; nothing where it does. `grouped`: without classes."""
    problems = Problems()
    names = list(file.values)
    if config.score is not None:
        problems.choice("score", config.score, names)
    elif len(names) > 1:
        problems.add(f"the file has several scores ({', '.join(names)}): name the one to select by (--score).")
    if config.drop_suspects:
        problems.found += suspicion_problems(file, config.suspects_by)
    needs = needs_of_selector(config)
    if file.labels is None and not grouped and (config.floor or "groups" in needs):
        subject = "a floor" if config.floor else f"the selector {needs['groups']}"
        problems.add(
            f"{subject} needs the class of each row, and the file has none (task {file.task}): name a "
            "column of the data instead, --group-column COLUMN, or give groups=."
        )
    if "entropy" in needs and ENTROPY not in file.values:
        problems.add(
            f"the selector {needs['entropy']} needs the score {ENTROPY} of each row beside its own, and the file has "
            f"{', '.join(names)}: write both, as in datadiet score --scores el2n,{ENTROPY}."
        )
    if isinstance(config.count, int) and config.count > len(file):
        problems.add(f"count must be at most {len(file)}, the rows of the file, got {config.count}.")
    return problems.found


# ---- the selection


def _selection(
    file: ScoreFile,
    config: SelectConfig,
    texts: Sequence[str] | None,
    features: Any,
    given_groups: Sequence[Any] | None,
) -> StaticSelection:
    score = config.score or next(iter(file.values))
    values, groups = file.values[score], None if given_groups is None else np.asarray(list(given_groups))
    reasons = np.full(len(file), REST, dtype=f"<U{max(map(len, REASONS))}")
    suspicion = suspicion_of(file, config.suspects_by) if config.drop_suspects else None
    missing = np.any([np.isnan(values), *_nan_of_others(file, config, suspicion)], axis=0)
    if missing.all():
        raise ArgumentError(f"no row has a value of {score}: score again, or select by another score.")
    reasons[missing] = MISSING
    if config.dedupe and texts is not None:
        reasons[_repeated(texts, file, config.near, missing)] = DUPLICATE
    if suspicion is not None:
        candidates = np.flatnonzero(reasons == REST)
        number = round(config.drop_suspects * candidates.size)
        if number:
            reasons[candidates[top_mask(suspicion[1][candidates], number, seed=config.seed, epoch=0)]] = SUSPECT
    pool = np.flatnonzero(reasons == REST)
    pool_groups = None if groups is None else groups[pool]
    if config.keep is None and config.count is None and counts_groups(config):
        config = replace(config, count=len(np.unique(pool_groups)))  # type: ignore[arg-type]
    dropped = {"duplicates": config.dedupe, "suspects": bool(config.drop_suspects), "missing values": missing.any()}
    count = kept_count(config, len(file), pool.size, [name for name, holds in dropped.items() if holds])
    problems = Problems()
    classes = [] if pool_groups is None else pool_groups[pool_groups != IGNORED].tolist()
    sizes = Counter(map(str, classes))
    problems.found += floor_problems(config.floor, sizes, count)
    problems.raise_any()
    entropy = file.values.get(ENTROPY)
    context = SelectorContext(
        groups=pool_groups,
        features=_features(config, texts, features, pool, file.ids),
        entropy=None if entropy is None else entropy[pool],
        texts=None if texts is None else [texts[row] for row in pool.tolist()],
    )
    chosen = _choose(config, config.floor, values[pool], count, context)
    reasons[pool] = _reasons(config, values[pool], count, context, chosen)
    return StaticSelection(pool[chosen.rows], reasons, values, score, chosen.weights, suspicion)


def _nan_of_others(
    file: ScoreFile, config: SelectConfig, suspicion: tuple[str, Values] | None
) -> list[NDArray[np.bool_]]:
    """Where a row lacks what else a selection reads, beside the score itself."""
    others = [file.values[ENTROPY]] if "entropy" in needs_of_selector(config) else []
    return [np.isnan(column) for column in (*others, *([] if suspicion is None else [suspicion[1]]))]


def _repeated(texts: Sequence[str], file: ScoreFile, near: float | None, missing: NDArray[np.bool_]) -> Rows:
    """Rows that repeat another one; rows without a value stand for no other."""
    pool = np.flatnonzero(~missing)
    labels = None if file.labels is None else [file.labels[row] for row in pool.tolist()]
    return pool[representatives([texts[row] for row in pool.tolist()], labels, near=near).repeated]


def _choose(config: SelectConfig, floor: int, values: Values, count: int, context: SelectorContext) -> Selection:
    select, options = config.selector
    bound = BoundSelector(
        select if isinstance(select, str) else partial(select, **options),
        options=options,
        floor=floor,
        seed=config.seed,
    )
    bound.check(context)
    return bound.choose(values, count, epoch=0, context=context)


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
        names, codes = np.unique(context.groups, return_inverse=True)
        short = (np.bincount(codes[without_floor], minlength=len(names)) < config.floor) & (names != IGNORED)
        reasons[np.setdiff1d(chosen.rows[short[codes[chosen.rows]]], without_floor)] = FLOOR
    return reasons


def _excluded_share(config: SelectConfig) -> float:
    """The share of the very hardest of all rows that the selector excludes; 0 where it does so inside each class."""
    found = registry.selectors_in(*config.selector)
    if len(found) != 1:
        return 0.0
    ((method, options),) = found
    defaults = {name: one.default for name, one in method.options.items()}
    share = next((options[name] for name in _EXCLUDING if name in options), None)
    if share is None:
        share = next((defaults[name] for name in _EXCLUDING if defaults.get(name)), None)
    return share if isinstance(share, (int, float)) else 0.0


def _features(config: SelectConfig, texts: Sequence[str] | None, features: Any, pool: Rows, ids: Sequence[str]) -> Any:
    """A vector for each candidate, for selectors that need them."""
    if features is not None:
        return features[pool]
    if "features" not in needs_of_selector(config) or texts is None:
        return None
    from sklearn.feature_extraction.text import TfidfVectorizer

    from datadiet.scores.text import tf_idf

    names = [str(ids[row]) for row in pool]
    # single letters and signs count too: a text of nothing else needs a vector
    return tf_idf([texts[row] for row in pool], ids=names, vectorizer=TfidfVectorizer(token_pattern=r"\S+"))
