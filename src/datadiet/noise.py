"""A guard against noise: how many labels are wrong, which rows they are, and how sure that is; reviewed every round.

Keeping the hardest keeps the mislabelled. What tells the two apart: an example is hard because the model is unsure of
it, and mislabelled where the model is *sure of another class*. Of the examples that a model is sure of, fewer and fewer
are mistakes of its own the surer it is; wrong labels do not care how sure it is. So the share of labels that contradict
the model, as a function of its confidence, falls to a level and no further, and that level is the share of wrong labels
(as the lapse rate of a psychometric function). Nothing else is assumed: neither calibrated probabilities nor a clean
set. Each row counts once for it, at the first sight of it by a model that was ready (`datadiet.first_sights`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datadiet.checks import ArgumentError
from datadiet.first_sights import known_evidence, no_evidence, sights, unready, with_evidence
from datadiet.lapses import evidence, fit_curve, fit_level, normal_scores
from datadiet.records import Json

# a smaller share than this cannot be told from what a model that has trained for an epoch gets wrong: nothing rests,
# nor where the interval begins at half of it or below
LEAST_RATE = 0.02
# a row rests where it is likelier mislabelled than not
SUSPECT = 0.5
# of the rows of one class at most this share rests: a class that the model cannot learn is hard, not noise
MOST_OF_CLASS = 0.5
# fewer judged rows than this say too little
LEAST_ROWS = 200
COLUMNS = ("loss", "margin")

Floats = NDArray[np.float32]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Review:
    """What one look at the dynamics came to.

    Attributes:
        epoch: The first that trains after it.
        judged: Rows that had been seen since the last review, those that rest left out.
        rate: Estimated share of mislabelled rows, of the whole training split.
        low, high: Its 90 % interval.
        evidence: Rows whose first sight it rests on.
        share: Of mislabelled ones among the judged rows, that their suspicion goes by: `rate`, times how much more
            they were suspected before than rows are on average.
        offset, slope: Of the model's own errors on them; see `datadiet.lapses`.
        aside: Rows that rest now.
        joined, returned: Rows that rest since this review, and that no longer do.
        note: Why nothing was judged; empty where it was.
    """

    epoch: int
    judged: int
    rate: float
    low: float = 0.0
    high: float = 0.0
    evidence: int = 0
    share: float = 0.0
    offset: float = 0.0
    slope: float = 0.0
    aside: int = 0
    joined: int = 0
    returned: int = 0
    note: str = ""


@dataclass(frozen=True)
class NoiseGuard:
    """The policy and what it has seen; a new record for each review.

    Attributes:
        reviews: So far, in order.
        arrays: Per row: `suspicion`, the probability that it is mislabelled, float32, nan where not judged yet;
            `confidence`, of that judgement; `judgements`, how many; `aside`; `heard`, whether its first sight counts
            in `evidence`, which is not per row. Empty before the first review.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> flipped = np.arange(2000) < 200  # the model errs where it is unsure, labels are wrong anywhere
        >>> sure = rng.uniform(0, 6, 2000)
        >>> wrong = flipped ^ (rng.uniform(size=2000) < 1 / (1 + np.exp(sure)))
        >>> loss = np.logaddexp(0, np.where(wrong, sure, -sure)).astype(np.float32)
        >>> columns = {"loss": loss, "margin": np.where(wrong, sure, -sure).astype(np.float32)}
        >>> groups = np.arange(2000) % 2
        >>> guard, aside = NoiseGuard().review(columns, np.ones(2000, bool), groups, epoch=1)
        >>> abs(guard.rate - 0.1) < 0.03, bool(flipped[aside].mean() > 0.6)
        (True, True)

    Source: ours. That flipped labels are those of which a model is sure otherwise: Northcutt et al. 2021
    (arXiv 1911.00068), who need probabilities of a model that has not seen the row; here it is the first time that
    training sees it. The level: the lapse rate of Wichmann and Hill 2001 (Perception and Psychophysics 63, 1293).
    """

    reviews: tuple[Review, ...] = ()
    arrays: Mapping[str, NDArray[Any]] = field(default_factory=dict)

    @property
    def rate(self) -> float:
        """The share of mislabelled rows, as estimated last; 0 before."""
        return self.reviews[-1].rate if self.reviews else 0.0

    def review(
        self, columns: Mapping[str, Floats], seen: Mask, groups: NDArray[np.int64], *, epoch: int
    ) -> tuple[NoiseGuard, Mask]:
        """Judge what has been seen since the last review.

        Args:
            columns: `loss` (negative log-likelihood of the label) and `margin` (largest other logit minus the
                label's), float32 `(n,)`, and `moment`, when in the epoch each was seen in training, nan for a pass;
                see `datadiet.first_sights`. A row that rests, is seen in a pass and agrees with the model comes back.
            seen: bool `(n,)`, the rows with values newer than the last review.
            groups: int64 `(n,)`, the label of each row, from 0.
            epoch: The first that trains after it.

        Returns:
            The guard as it stands, and the rows to set aside, bool `(n,)`.

        Raises:
            ArgumentError: If a column is missing.
        """
        if missing := [name for name in COLUMNS if name not in columns]:
            raise ArgumentError(
                f"the noise guard needs the columns {', '.join(COLUMNS)}; missing: {', '.join(missing)}."
            )
        known = {**_nothing(len(seen)), **self.arrays}
        usable = seen & np.isfinite(columns["loss"]) & np.isfinite(columns["margin"])
        trained = np.isfinite(columns["moment"]) if "moment" in columns else ~known["aside"]
        fresh = usable & (trained | ~known["aside"])
        returning = usable & ~fresh & (columns["margin"] < 0)
        if fresh.sum() < LEAST_ROWS:
            note = f"{int(fresh.sum())} rows were seen, {LEAST_ROWS} are needed"
            review = Review(epoch, int(fresh.sum()), self.rate, aside=int(known["aside"].sum()), note=note)
            return NoiseGuard((*self.reviews, review), known), known["aside"]
        classes = max(2, int(groups.max()) + 1)
        updated, review = _judged(known, columns, fresh, returning, classes)
        enough = review.rate >= LEAST_RATE and review.low > LEAST_RATE / 2
        aside = set_aside(updated["suspicion"], groups) if enough else np.zeros(len(seen), bool)
        review = _told(replace(review, epoch=epoch), known["aside"], aside)
        return NoiseGuard((*self.reviews, review), {**updated, "aside": aside}), aside

    # ---- what it comes to ----

    def summary(self, names: Sequence[object] | None = None) -> Json:
        """The estimate with its evidence, for `result.json`.

        Args:
            names: The label of each row; with them, how many rest per label is told.
        """
        aside = self.arrays.get("aside", np.zeros(0, bool))
        found: Json = {"rate": self.rate, "aside": int(aside.sum())}
        if names is not None and len(aside):
            found["aside_by_label"] = dict(
                Counter(str(names[row]) for row in np.flatnonzero(aside).tolist()).most_common()
            )
        return {**found, "reviews": [asdict(review) for review in self.reviews]}

    def state(self) -> tuple[dict[str, NDArray[Any]], Json]:
        """Arrays, and plain values, for a checkpoint."""
        return dict(self.arrays), {"reviews": [asdict(review) for review in self.reviews]}

    def restored(self, arrays: Mapping[str, NDArray[Any]], state: Mapping[str, Any]) -> NoiseGuard:
        """As it was when `state` was taken."""
        return NoiseGuard(tuple(Review(**review) for review in state["reviews"]), dict(arrays))

    def suspects(self) -> dict[str, NDArray[Any]]:
        """The rows that rest, most suspected first: `row`, `suspicion`, `confidence`, `judgements`."""
        if not self.arrays:
            return {"row": np.empty(0, np.int64)}
        rows = np.flatnonzero(self.arrays["aside"])
        rows = rows[np.argsort(-self.arrays["suspicion"][rows], kind="stable")]
        return {"row": rows, **{name: self.arrays[name][rows] for name in ("suspicion", "confidence", "judgements")}}

    def reasons(self) -> list[str]:
        """Why each of `suspects` rests, in a sentence."""
        found = self.suspects()
        if not len(found["row"]):
            return []
        values = (found[name].tolist() for name in ("suspicion", "confidence", "judgements"))
        return [_reason(*of_row) for of_row in zip(*values, strict=True)]


def _reason(suspicion: float, confidence: float, judgements: int) -> str:
    times = "once" if judgements == 1 else f"{judgements} times"
    return (
        f"its label contradicts what the model is sure of (probability {confidence:.2f} of another one); "
        f"{suspicion:.0%} of such contradictions are wrong labels; judged {times}"
    )


def set_aside(suspicion: Floats, groups: NDArray[np.int64]) -> Mask:
    """The rows likelier mislabelled than not; of a class the most suspected, and at most `MOST_OF_CLASS` of it.

    Example:
        >>> set_aside(np.array([0.9, 0.6, 0.7, np.nan], np.float32), np.array([0, 0, 1, 1]))
        array([ True, False,  True, False])
    """
    suspected = np.flatnonzero(np.nan_to_num(suspicion) > SUSPECT)
    order = suspected[np.lexsort((suspected, -suspicion[suspected], groups[suspected]))]
    starts = np.searchsorted(groups[order], groups[order])  # where the class of each begins
    allowed = np.floor(MOST_OF_CLASS * np.bincount(groups))[groups[order]]
    aside = np.zeros(len(suspicion), bool)
    aside[order[np.arange(len(order)) - starts < allowed]] = True
    return aside


def _nothing(rows: int) -> dict[str, NDArray[Any]]:
    return {
        "suspicion": np.full(rows, np.nan, np.float32),
        "confidence": np.full(rows, np.nan, np.float32),
        "judgements": np.zeros(rows, np.int16),
        "aside": np.zeros(rows, bool),
        "heard": np.zeros(rows, bool),
        **no_evidence(),
    }


def _told(review: Review, before: Mask, after: Mask) -> Review:
    joined, returned = int((after & ~before).sum()), int((before & ~after).sum())
    return replace(review, aside=int(after.sum()), joined=joined, returned=returned)


def _judged(
    known: Mapping[str, NDArray[Any]], columns: Mapping[str, Floats], fresh: Mask, returning: Mask, classes: int
) -> tuple[dict[str, NDArray[Any]], Review]:
    """The arrays after a judgement of the fresh rows, and what it says."""
    rows = np.flatnonzero(fresh)
    loss, margin = (np.asarray(columns[name][rows], np.float64) for name in COLUMNS)
    confidence = np.exp(
        np.maximum(margin, 0) - loss
    )  # of the class that the model says: exp(margin) p_label, if not it
    wrong = margin > 0
    moments = columns["moment"][rows] if "moment" in columns else np.zeros(len(rows), np.float32)
    early = unready(known["judgements"], moments, LEAST_ROWS)
    parts = [~early, early] if early.any() else [~early]
    updated = with_evidence(known, rows, sights(known, rows, moments, early, LEAST_ROWS), confidence, wrong)
    level = fit_level(known_evidence(updated), classes)
    share = level.rate * _more_suspected(known["suspicion"], rows)
    suspicion = np.empty(len(rows))
    for part in parts[::-1]:  # each with the errors of its own time; those that are told, of the last
        scores = normal_scores(confidence[part])
        curve = fit_curve(evidence(scores, wrong[part]), classes, rate=share)
        suspicion[part] = curve.suspicion(scores, wrong[part], classes)
    updated["suspicion"][rows], updated["confidence"][rows] = suspicion, confidence
    updated["judgements"][rows] += 1
    updated["suspicion"][returning] = 0.0  # the model no longer trains on it, and has come to agree with its label
    heard = int(updated["heard"].sum())
    return updated, Review(
        0, len(rows), level.rate, level.low, level.high, heard, curve.rate, curve.offset, curve.slope
    )


def _more_suspected(suspicion: Floats, rows: NDArray[np.int64]) -> float:
    """How many times as much as rows on average these were suspected; 1 where nothing was known."""
    known = suspicion[np.isfinite(suspicion)].astype(np.float64)
    if not len(known) or known.mean() == 0:
        return 1.0
    of_rows = suspicion[rows].astype(np.float64)
    return float(np.where(np.isnan(of_rows), known.mean(), of_rows).mean() / known.mean())
