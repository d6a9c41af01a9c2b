"""The guard against label noise (`offset="auto"`): how many labels are wrong, which, and how sure that is.

Keeping the hardest keeps the mislabelled. An example is hard because the model is unsure of it; it is mislabelled where
the model is *sure of another class*. Of the examples that a model is sure of, the surer it is, the fewer are mistakes
of its own; wrong labels do not depend on how sure it is. So the share of labels that contradict the model, as a
function of its confidence, falls to a level and no further, and that level is the share of wrong labels
(`datadiet.noise.lapse_rate`). Nothing else is assumed: neither calibrated probabilities nor a clean set.

`NoiseGuard` is the policy, reviewed every round, `NoiseMonitor` its state during a run, and `write_noise` leaves
`noise.json` and `suspects.parquet` in the run folder.
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
    all_evidence,
    counted_exposures,
    early_exposures,
    evidence,
    fit_curve,
    fit_level,
    no_evidence,
    normal_scores,
    with_evidence,
)
from datadiet.registry import Method
from datadiet.store.run_folder import plain
from datadiet.types import Json, Scores

# a smaller share cannot be distinguished from the errors of a model that has trained for an epoch: nothing is excluded,
# nor where the interval begins at half of it or below
LEAST_RATE = 0.02
# a row is excluded where it is likelier mislabelled than not
SUSPECT = 0.5
# the most of one class that is excluded: a class that the model cannot learn is hard, not noise
MOST_OF_CLASS = 0.5
# fewer judged rows than this are not enough
LEAST_ROWS = 200
COLUMNS = ("loss", "margin")
# the columns of the score history that it reads: of the head with one label per example
LABEL_COLUMNS = {"loss": "label_loss", "margin": "label_margin"}
MOMENT = "moment"
NOISE, SUSPECTS = "noise.json", "suspects.parquet"
_GUARD = "guard."  # of the arrays of a checkpoint
# names in checkpoints and noise.json, which stay as they are
_IN_FILES = {"excluded": "aside", "counted": "heard"}
_IN_CODE = {old: new for new, old in _IN_FILES.items()}

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
        cost="a forward of the excluded rows per refresh",
        loses="labels wrong by a rule; hard data with few rows, where it finds too few",
        evidence="noise",
    ),
)


@dataclass(frozen=True)
class Review:
    """The result of one review.

    Attributes:
        epoch: The first that trains after it.
        judged: Rows seen since the last review, without the excluded ones.
        rate: Estimated share of mislabelled rows, of the whole training split.
        low, high: Its 90 % interval.
        evidence: Rows whose exposures count for it.
        share: Of mislabelled ones among the judged rows, that their suspicion goes by: `rate`, times how much more
            they were suspected before than rows are on average.
        offset, slope: Of the model's own errors on them; see `datadiet.noise.lapse_rate`.
        excluded: Rows excluded now.
        joined, returned: Rows excluded since this review, and rows no longer excluded.
        note: Why nothing was judged; empty where something was.
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
    excluded: int = 0
    joined: int = 0
    returned: int = 0
    note: str = ""

    def plain(self) -> Json:
        """As it stands in files."""
        return _renamed(asdict(self), _IN_FILES)


def _renamed(entries: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    return {names.get(name, name): value for name, value in entries.items()}


@dataclass(frozen=True)
class NoiseGuard:
    """The policy and its state; a new record for each review.

    Attributes:
        reviews: So far, in order.
        arrays: Per row: `suspicion`, the probability that it is mislabelled, float32, nan where not judged yet;
            `confidence`, of that judgement; `judgements`, how many; `excluded`; `counted`, whether an exposure of it
            counts in `evidence`, which is not per row. Empty before the first review.

    Example:
        >>> rng = np.random.default_rng(0)
        >>> flipped = np.arange(2000) < 200  # the model errs where it is unsure, labels are wrong anywhere
        >>> sure = rng.uniform(0, 6, 2000)
        >>> wrong = flipped ^ (rng.uniform(size=2000) < 1 / (1 + np.exp(sure)))
        >>> loss = np.logaddexp(0, np.where(wrong, sure, -sure)).astype(np.float32)
        >>> columns = {"loss": loss, "margin": np.where(wrong, sure, -sure).astype(np.float32)}
        >>> groups = np.arange(2000) % 2
        >>> guard, excluded = NoiseGuard().review(columns, np.ones(2000, bool), groups, epoch=1)
        >>> abs(guard.rate - 0.1) < 0.03, bool(flipped[excluded].mean() > 0.6)
        (True, True)

    Source: ours. Northcutt et al. 2021 (arXiv 1911.00068) find flipped labels where a model is sure of another class;
    they need probabilities of a model that has not seen the row, here it is the row's first exposure in training. The
    level is the lapse rate of Wichmann and Hill 2001 (Perception and Psychophysics 63, 1293).
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
        """Judge the rows seen since the last review.

        Args:
            columns: `loss` (negative log-likelihood of the label) and `margin` (largest other logit minus the
                label's), float32 `(n,)`, and `moment`, when in the epoch each was seen in training, nan for a pass;
                see `datadiet.noise.lapse_rate`. An excluded row that agrees with the model in a pass is re-admitted.
            seen: bool `(n,)`, the rows with values newer than the last review.
            groups: int64 `(n,)`, the label of each row, from 0.
            epoch: The first that trains after it.

        Returns:
            The guard after the review, and the rows to exclude, bool `(n,)`.

        Raises:
            ArgumentError: If a column is missing.
        """
        if missing := [name for name in COLUMNS if name not in columns]:
            raise ArgumentError(
                f"the noise guard needs the columns {', '.join(COLUMNS)}; missing: {', '.join(missing)}."
            )
        state = {**_empty(len(seen)), **self.arrays}
        before = state["excluded"]
        usable = seen & np.isfinite(columns["loss"]) & np.isfinite(columns["margin"])
        trained = np.isfinite(columns[MOMENT]) if MOMENT in columns else ~before
        fresh = usable & (trained | ~before)
        returning = usable & ~fresh & (columns["margin"] < 0)
        if fresh.sum() < LEAST_ROWS:
            note = f"{int(fresh.sum())} rows were seen, {LEAST_ROWS} are needed"
            review = Review(epoch, int(fresh.sum()), self.rate, excluded=int(before.sum()), note=note)
            return NoiseGuard((*self.reviews, review), state), before
        classes = max(2, int(groups.max()) + 1)
        updated, review = _judged(state, columns, fresh, returning, classes)
        enough = review.rate >= LEAST_RATE and review.low > LEAST_RATE / 2
        now = excluded(updated["suspicion"], groups) if enough else np.zeros(len(seen), bool)
        joined, returned = int((now & ~before).sum()), int((before & ~now).sum())
        review = replace(review, epoch=epoch, excluded=int(now.sum()), joined=joined, returned=returned)
        return NoiseGuard((*self.reviews, review), {**updated, "excluded": now}), now

    # ---- its results

    def summary(self, names: Sequence[object] | None = None) -> Json:
        """The estimate with its evidence, for `result.json`.

        Args:
            names: The label of each row; with them, the summary counts the excluded rows per label.
        """
        rows = np.flatnonzero(self.arrays.get("excluded", [])).tolist()
        by_label = {}
        if names is not None and len(self.arrays):
            by_label["aside_by_label"] = dict(Counter(str(names[row]) for row in rows).most_common())
        return {
            "rate": self.rate,
            "aside": len(rows),
            **by_label,
            "reviews": [review.plain() for review in self.reviews],
        }

    def state(self) -> tuple[dict[str, NDArray[Any]], Json]:
        """Arrays, and plain values, for a checkpoint."""
        return _renamed(self.arrays, _IN_FILES), {"reviews": [review.plain() for review in self.reviews]}

    def restored(self, arrays: Mapping[str, NDArray[Any]], state: Mapping[str, Any]) -> NoiseGuard:
        """As it was when `state` was taken."""
        reviews = tuple(Review(**_renamed(review, _IN_CODE)) for review in state["reviews"])
        return NoiseGuard(reviews, _renamed(arrays, _IN_CODE))

    def suspects(self) -> dict[str, NDArray[Any]]:
        """The excluded rows, most suspected first: `row`, `suspicion`, `confidence`, `judgements`."""
        if not self.arrays:
            return {"row": np.empty(0, np.int64)}
        rows = np.flatnonzero(self.arrays["excluded"])
        rows = rows[np.argsort(-self.arrays["suspicion"][rows], kind="stable")]
        return {"row": rows, **{name: self.arrays[name][rows] for name in ("suspicion", "confidence", "judgements")}}

    def reasons(self) -> list[str]:
        """Why each of `suspects` is excluded, in a sentence."""
        suspects = self.suspects()
        if not len(suspects["row"]):
            return []
        values = (suspects[name].tolist() for name in ("suspicion", "confidence", "judgements"))
        return [_reason(*of_row) for of_row in zip(*values, strict=True)]


def _reason(suspicion: float, confidence: float, judgements: int) -> str:
    times = "once" if judgements == 1 else f"{judgements} times"
    return (
        f"its label contradicts what the model is sure of (probability {confidence:.2f} of another one); "
        f"{suspicion:.0%} of such contradictions are wrong labels; judged {times}"
    )


def excluded(suspicion: Floats, groups: NDArray[np.int64]) -> Mask:
    """The rows likelier mislabelled than not; of each class the most suspected, at most the share `MOST_OF_CLASS`.

    Example:
        >>> excluded(np.array([0.9, 0.6, 0.7, np.nan], np.float32), np.array([0, 0, 1, 1]))
        array([ True, False,  True, False])
    """
    suspected = np.flatnonzero(np.nan_to_num(suspicion) > SUSPECT)
    order = suspected[np.lexsort((suspected, -suspicion[suspected], groups[suspected]))]
    starts = np.searchsorted(groups[order], groups[order])  # where the class of each begins
    allowed = np.floor(MOST_OF_CLASS * np.bincount(groups))[groups[order]]
    mask = np.zeros(len(suspicion), bool)
    mask[order[np.arange(len(order)) - starts < allowed]] = True
    return mask


def _empty(rows: int) -> dict[str, NDArray[Any]]:
    return {
        "suspicion": np.full(rows, np.nan, np.float32),
        "confidence": np.full(rows, np.nan, np.float32),
        "judgements": np.zeros(rows, np.int16),
        "excluded": np.zeros(rows, bool),
        "counted": np.zeros(rows, bool),
        **no_evidence(),
    }


def _judged(
    state: Mapping[str, NDArray[Any]], columns: Mapping[str, Floats], fresh: Mask, returning: Mask, classes: int
) -> tuple[dict[str, NDArray[Any]], Review]:
    """The arrays after a judgement of the fresh rows, and its result."""
    rows = np.flatnonzero(fresh)
    loss, margin = (np.asarray(columns[name][rows], np.float64) for name in COLUMNS)
    # of the predicted class: exp(margin) p_label, unless that is the label itself
    confidence, wrong = np.exp(np.maximum(margin, 0) - loss), margin > 0
    moments = columns[MOMENT][rows] if MOMENT in columns else np.zeros(len(rows), np.float32)
    early = early_exposures(state["judgements"], moments, LEAST_ROWS)
    parts = [~early, early] if early.any() else [~early]
    exposures = counted_exposures(state, rows, moments, early, LEAST_ROWS)
    updated = with_evidence(state, rows, exposures, confidence, wrong)
    level = fit_level(all_evidence(updated), classes)
    share = level.rate * _more_suspected(state["suspicion"], rows)
    suspicion = np.empty(len(rows))
    for part in parts[::-1]:  # each with the errors of its own time; the review records those of the last
        scores = normal_scores(confidence[part])
        curve = fit_curve(evidence(scores, wrong[part]), classes, rate=share)
        suspicion[part] = curve.suspicion(scores, wrong[part], classes)
    updated["suspicion"][rows], updated["confidence"][rows] = suspicion, confidence
    updated["judgements"][rows] += 1
    updated["suspicion"][returning] = 0.0  # the model no longer trains on it, and has come to agree with its label
    counted = int(updated["counted"].sum())
    estimate = (level.rate, level.low, level.high, counted, curve.rate, curve.offset, curve.slope)
    return updated, Review(0, len(rows), *estimate)


def _more_suspected(suspicion: Floats, rows: NDArray[np.int64]) -> float:
    """The mean suspicion of these rows, in units of the mean of all rows; 1 before the first judgement."""
    judged = suspicion[np.isfinite(suspicion)].astype(np.float64)
    if not len(judged) or judged.mean() == 0:
        return 1.0
    of_rows = suspicion[rows].astype(np.float64)
    return float(np.where(np.isnan(of_rows), judged.mean(), of_rows).mean() / judged.mean())


class NoiseMonitor:
    """Run-time state of the guard: the values since the last review, and the rows excluded now.

    Args:
        groups: int64 `(n,)`, the label of each row.

    Attributes:
        guard: After the last review.
        excluded: bool `(n,)`, the rows excluded as suspected noise.
    """

    def __init__(self, groups: NDArray[np.int64]) -> None:
        self._groups = groups
        self._values = {name: np.full(len(groups), np.nan, np.float32) for name in (*COLUMNS, MOMENT)}
        self._seen = np.zeros(len(groups), bool)
        self.guard, self.excluded = NoiseGuard(), np.zeros(len(groups), bool)

    def take(self, scores: Scores) -> None:
        """Make the values the latest of their rows; a pass does not replace a training value since the last review,
        which was taken before the model trained on the row."""
        new = np.ones(len(scores.rows), bool) if scores.source == "train" else ~self._seen[scores.rows]
        rows = scores.rows[new]
        for name, column in {**LABEL_COLUMNS, MOMENT: MOMENT}.items():
            self._values[name][rows] = scores.values[column][new]
        self._seen[rows] = True

    def review(self, epoch: int) -> None:
        """Judge the rows seen since the last review, before the plan of an epoch is made."""
        if self._seen.any():
            self.guard, self.excluded = self.guard.review(self._values, self._seen, self._groups, epoch=epoch)
            self._seen = np.zeros_like(self._seen)

    def rows_to_recheck(self) -> NDArray[np.int64]:
        """The excluded rows without a value since the last review: epochs on everything train on them too."""
        return np.flatnonzero(self.excluded & ~self._seen)

    def candidates(self, count: int) -> NDArray[np.int64]:
        """The rows to choose `count` from, ascending: all that are not excluded; where they are too few, also the
        least suspected of the others."""
        rows = np.flatnonzero(~self.excluded)
        if (short := count - len(rows)) > 0:
            suspects = self.guard.suspects()["row"]
            rows = np.sort(np.r_[rows, suspects[len(suspects) - short :]])
        return rows

    def state(self) -> tuple[dict[str, NDArray[Any]], Json]:
        """Arrays, and plain values."""
        arrays, numbers = self.guard.state()
        return {**self._values, "seen": self._seen, **{_GUARD + name: arrays[name] for name in arrays}}, numbers

    def load(self, arrays: Mapping[str, NDArray[Any]], numbers: Mapping[str, Any]) -> None:
        """Restore a state."""
        of_guard = {name.removeprefix(_GUARD): np.array(arrays[name]) for name in arrays if name.startswith(_GUARD)}
        self.guard = self.guard.restored(of_guard, numbers)
        self._values = {name: np.array(arrays[name]) for name in self._values}
        self._seen = np.array(arrays["seen"])
        self.excluded = self.guard.arrays.get("excluded", np.zeros(len(self._seen), bool))


def write_noise(folder: Path, guard: NoiseGuard, ids: Sequence[str], labels: Sequence[object]) -> None:
    """Write `noise.json`, the estimate with its evidence, and `suspects.parquet`, the excluded rows.

    Args:
        folder: The run folder.
        guard: At the end of the run.
        ids: The user's id of each training row.
        labels: The label of each, as the user wrote it.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    suspects = guard.suspects()
    rows = suspects["row"].tolist()
    columns: dict[str, Any] = {
        "row": pa.array(rows, pa.int64()),
        "id": pa.array([str(ids[row]) for row in rows], pa.string()),
        "label": pa.array([str(labels[row]) for row in rows], pa.string()),
    }
    columns |= {name: pa.array(values) for name, values in suspects.items() if name != "row"}
    columns["reason"] = pa.array(guard.reasons(), pa.string())
    part = folder / f"{SUSPECTS}.part"
    pq.write_table(pa.table(columns), part, compression="zstd")
    part.replace(folder / SUSPECTS)
    content = plain({"schema": SCHEMA, **guard.summary([str(label) for label in labels])})
    write_atomically(folder / NOISE, json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False))
