"""A guard against noise: how many labels are wrong, which rows they are, and how sure that is; reviewed every round.

Keeping the hardest keeps the mislabelled. What tells the two apart: an example is hard because the model is unsure of
it, and mislabelled where the model is *sure of another class*. Of the examples that a model is sure of, fewer and fewer
are mistakes of its own the surer it is; wrong labels do not care how sure it is. So the share of labels that contradict
the model, as a function of its confidence, falls to a level and no further, and that level is the share of wrong labels
(as the lapse rate of a psychometric function). Nothing else is assumed: neither calibrated probabilities nor a clean
set. Each row counts once for it, at the first sight of it by a model that was ready (`datadiet.noise.lapse_rate`).

A noise guard at work in a run: what it thinks, and what training has said since it was asked last.

What a noise guard leaves in the run folder: `noise.json`, the estimate with its evidence, and `suspects.parquet`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datadiet.errors import ArgumentError
from datadiet.files import SCHEMA, write_atomically
from datadiet.noise.lapse_rate import (
    evidence,
    fit_curve,
    fit_level,
    known_evidence,
    no_evidence,
    normal_scores,
    sights,
    unready,
    with_evidence,
)
from datadiet.registry import Method
from datadiet.store.run_folder import plain
from datadiet.types import Json, Scores

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


_OFFSET = (
    Method(
        "offset",
        "SHARE",
        "the hardest share, whatever they are",
        paper="Paul, Ganguli and Dziugaite 2021, arXiv 2107.07075, section 4",
        inputs="values",
        cost="nothing",
        loses="on clean labels it takes away the most informative examples; the share must be guessed",
    ),
    Method(
        "offset",
        "auto",
        "rows likelier mislabelled than not: P(label contradicts | confidence) falls to r, the share of wrong labels",
        paper="ours; after Northcutt et al. 2021, arXiv 1911.00068, and Wichmann and Hill 2001 (lapse rate)",
        inputs="loss and margin of the training forward, one class per example",
        cost="a forward of the rows at rest per refresh",
        loses="labels wrong by a rule; hard data with few rows, where it finds too few",
        evidence="noise",
    ),
)


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
        offset, slope: Of the model's own errors on them; see `datadiet.noise.lapse_rate`.
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
                see `datadiet.noise.lapse_rate`. A row that rests, is seen in a pass and agrees with the model comes
                back.
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


# the columns of the score history that it reads: of the head with one label per example
LABEL_COLUMNS = {"loss": "label_loss", "margin": "label_margin"}
MOMENT = "moment"
_GUARD = "guard."


class NoiseMonitor:
    """Collects what is seen, and has it reviewed.

    Args:
        groups: int64 `(n,)`, the label of each row.

    Attributes:
        guard: As it stands.
        aside: bool `(n,)`, the rows that rest as suspected noise.
    """

    def __init__(self, groups: NDArray[np.int64]) -> None:
        self._groups = groups
        self._values = {name: np.full(len(groups), np.nan, np.float32) for name in (*COLUMNS, MOMENT)}
        self._seen = np.zeros(len(groups), bool)
        self.guard, self.aside = NoiseGuard(), np.zeros(len(groups), bool)

    def take(self, scores: Scores) -> None:
        """Make the values the latest of their rows; a pass does not replace what training saw since the last review,
        which was before the row was trained on."""
        new = np.ones(len(scores.rows), bool) if scores.source == "train" else ~self._seen[scores.rows]
        rows = scores.rows[new]
        for name, column in {**LABEL_COLUMNS, MOMENT: MOMENT}.items():
            self._values[name][rows] = scores.values[column][new]
        self._seen[rows] = True

    def review(self, epoch: int) -> None:
        """Judge what was seen since the last time, before the plan of an epoch is made."""
        if self._seen.any():
            self.guard, self.aside = self.guard.review(self._values, self._seen, self._groups, epoch=epoch)
            self._seen = np.zeros_like(self._seen)

    def rows_to_recheck(self) -> NDArray[np.int64]:
        """The rows at rest that nothing has been seen of since the last review: in epochs on everything they train."""
        return np.flatnonzero(self.aside & ~self._seen)

    def candidates(self, count: int) -> NDArray[np.int64]:
        """The rows to choose `count` from, ascending: all that do not rest; where they are too few, also the least
        suspected of those that do."""
        rows = np.flatnonzero(~self.aside)
        if (short := count - len(rows)) > 0:
            resting = self.guard.suspects()["row"]
            rows = np.sort(np.r_[rows, resting[len(resting) - short :]])
        return rows

    def state(self) -> tuple[dict[str, NDArray[Any]], Json]:
        """Arrays, and plain values."""
        arrays, numbers = self.guard.state()
        return {**self._values, "seen": self._seen, **{_GUARD + name: arrays[name] for name in arrays}}, numbers

    def load(self, arrays: Mapping[str, NDArray[Any]], numbers: Mapping[str, Any]) -> None:
        """Take up a state."""
        held = {name.removeprefix(_GUARD): np.array(arrays[name]) for name in arrays if name.startswith(_GUARD)}
        self.guard = self.guard.restored(held, numbers)
        self._values = {name: np.array(arrays[name]) for name in self._values}
        self._seen = np.array(arrays["seen"])
        self.aside = held.get("aside", np.zeros(len(self._seen), bool))


NOISE, SUSPECTS = "noise.json", "suspects.parquet"


def write_noise(folder: Path, guard: NoiseGuard, ids: Sequence[str], labels: Sequence[object]) -> None:
    """Write what a guard thinks at the end of a run.

    Args:
        folder: The run folder.
        guard: As it stands.
        ids: The user's id of each training row.
        labels: The label of each, as the user wrote it.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    found = guard.suspects()
    rows = found["row"].tolist()
    columns: dict[str, Any] = {
        "row": pa.array(rows, pa.int64()),
        "id": pa.array([str(ids[row]) for row in rows], pa.string()),
        "label": pa.array([str(labels[row]) for row in rows], pa.string()),
    }
    columns |= {name: pa.array(found[name]) for name in ("suspicion", "confidence", "judgements") if name in found}
    columns["reason"] = pa.array(guard.reasons(), pa.string())
    part = folder / f"{SUSPECTS}.part"
    pq.write_table(pa.table(columns), part, compression="zstd")
    part.replace(folder / SUSPECTS)
    content = plain({"schema": SCHEMA, **guard.summary([str(label) for label in labels])})
    write_atomically(folder / NOISE, json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False))
