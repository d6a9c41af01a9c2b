"""From the values in a score file to the rows that are kept, and why each row is kept or dropped."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datadiet.checks import ArgumentError, Problems
from datadiet.choosing import Chooser, Known
from datadiet.duplicates import representatives
from datadiet.records import Selection
from datadiet.score_file import ScoreFile, read_scores
from datadiet.selecting.suspects import suspicion_of
from datadiet.selecting.wish import Select, Wish, wish_problems
from datadiet.selectors import FEATURE_SELECTORS, OPTIONS, floor_problems
from datadiet.selectors.ties import top_mask

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
            `datadiet.selecting.suspects.BY` that the file has.
        dedupe: Keep one of the rows with the same text, case and spacing aside: the first with the most common label.
        near: With `dedupe`: also of rows of one label whose texts are nearly the same, from this similarity on, in
            (0, 1); see `datadiet.duplicates`.
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
    known = Known(groups=inside, features=_features(wish.select, texts, features, pool, file.ids))
    chosen = _choose(wish, values[pool], count, known)
    reasons[pool] = _reasons(wish, values[pool], count, known, chosen)
    return StaticSelection(pool[chosen.rows], reasons, values, score, chosen.weights, suspicion)


def _choose(wish: Wish, values: NDArray[np.float32], count: int, known: Known, *, floor: bool = True) -> Selection:
    select = wish.select if isinstance(wish.select, str) else partial(wish.select, **wish.options)
    chooser = Chooser(select, options=wish.options, floor=wish.floor if floor else 0, seed=wish.seed)
    chooser.check(known)
    return chooser.choose(values, count, epoch=0, known=known)


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


def _reasons(wish: Wish, values: NDArray[np.float32], count: int, known: Known, chosen: Selection) -> NDArray[np.str_]:
    """Why each row of those that could be chosen is kept or not."""
    found = np.full(len(values), REST, dtype="<U9")
    aside = next((wish.options[name] for name in _ASIDE if name in wish.options), None)
    if aside is None and isinstance(wish.select, str):
        aside = next((OPTIONS[wish.select][name] for name in _ASIDE if OPTIONS[wish.select].get(name)), None)
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
    if select not in FEATURE_SELECTORS or texts is None:
        return None
    from sklearn.feature_extraction.text import TfidfVectorizer

    from datadiet.scores.text import tf_idf

    names = [str(ids[row]) for row in pool]
    # single letters and signs count too: a text of nothing else has to lie somewhere
    return tf_idf([texts[row] for row in pool], ids=names, vectorizer=TfidfVectorizer(token_pattern=r"\S+"))
