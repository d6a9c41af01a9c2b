"""The guard against label noise (`offset="auto"`): how many labels are wrong, which, and how sure that is.

Keeping the hardest keeps the mislabelled. An example is hard because the model is unsure of it; it is mislabelled where
the model is *sure of another class*. Of the examples that a model is sure of, the surer it is, the fewer are mistakes
of its own; wrong labels do not depend on how sure it is. So the share of labels that contradict the model, as a
function of its confidence, falls to a level and no further, and that level is the share of wrong labels
(`datadiet.noise.lapse_rate`). Nothing else is assumed: neither calibrated probabilities nor a clean set.

A model that has not learned the task contradicts right labels too, and may be sure of it. So the guard speaks only
where it may: otherwise nothing is excluded, and the review's note says why (`unready`, `silent`, `excluded`).

`NoiseGuard` is the policy, reviewed every round; `datadiet.noise.monitor` has its state during a run, and its files.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datadiet.errors import ArgumentError
from datadiet.noise.lapse_rate import (
    Curve,
    Opinions,
    all_evidence,
    bands,
    cells_of,
    counted_exposures,
    early_exposures,
    evidence_of,
    fit_level,
    no_evidence,
    pieces,
    suspicions,
    with_evidence,
)
from datadiet.registry import Method
from datadiet.types import Json

# a smaller share cannot be distinguished from the errors of a model that has trained for an epoch: nothing is excluded
# where the interval begins below
LEAST_RATE = 0.02
# a row is excluded where it is likelier mislabelled than not
SUSPECT = 0.5
# a class of which more is suspected is one that the model has not learned: none of it is excluded, and nothing at all
# where such classes have more than `MOST_UNLEARNED` of the rows
MOST_OF_CLASS = 0.5
MOST_UNLEARNED = 0.1
# of a class of which so much contradicts the model, it knows no more than which labels are far off: only those are
# excluded, and none where half of the class is
MOST_CONTRADICTED = 0.9
# the most of all rows that is excluded: where nobody asked for a guard, and where offset="auto" was given
MOST_UNASKED, MOST_ASKED = 0.2, 0.5
# how much better than the class prior a model must be, of what there is between the prior and 1; the same two cases
LEAST_SKILL_UNASKED, LEAST_SKILL_ASKED = 0.5, 0.4
TAGS_PRIOR = 0.8
# fewer judged rows than this are not enough
LEAST_ROWS = 200
COLUMNS = ("loss", "margin")
RANK, MOMENT = "rank", "moment"
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
        "rows likelier mislabelled than not: P(label far off | confidence) falls to q r, r the share of wrong labels",
        paper="ours; after Northcutt et al. 2021, arXiv 1911.00068, and Wichmann and Hill 2001 (lapse rate)",
        inputs="loss, margin and rank of the label in the training forward, one class per example, or tags",
        cost="a forward of the excluded rows per refresh",
        loses="labels wrong by a rule; hard data or few rows, where it is silent; classes that are easily confused",
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
        suspected: Rows likelier mislabelled than not, before the limits.
        note: Why nothing was judged, or nothing excluded; empty where the guard spoke.
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
    suspected: int = 0
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
            `confidence`, of that judgement; `off`, int8, 0 for the model's choice, 1 for another label and 2 for one
            far off; `judgements`, how many; `excluded`; `counted`, whether an exposure of it counts in `evidence`,
            which is not per row. Empty before the first review.
        asked: Whether somebody asked for a guard; else it excludes fewer rows at most, and needs a better model.

    Examples:
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
    asked: bool = True

    @property
    def most(self) -> float:
        """The share of all rows that is excluded at most; where more are suspected, nothing is."""
        return MOST_ASKED if self.asked else MOST_UNASKED

    @property
    def least_skill(self) -> float:
        """Of the model that judges, on examples that it has not trained on."""
        return LEAST_SKILL_ASKED if self.asked else LEAST_SKILL_UNASKED

    @property
    def rate(self) -> float:
        """The share of mislabelled rows, as estimated last; 0 before."""
        return self.reviews[-1].rate if self.reviews else 0.0

    def review(
        self,
        columns: Mapping[str, Floats],
        seen: Mask,
        groups: NDArray[np.int64] | None,
        *,
        epoch: int,
        classes: int | None = None,
        dev_skill: float | None = None,
    ) -> tuple[NoiseGuard, Mask]:
        """Judge the rows seen since the last review.

        Args:
            columns: `loss` (negative log-likelihood of the label) and `margin` (largest other logit minus the
                label's), float32 `(n,)`; `rank`, how many classes the model puts before the label (without it every
                contradiction counts, see `datadiet.noise.lapse_rate`); and `moment`, when in the epoch each was seen
                in training, nan for a pass. An excluded row that agrees with the model in a pass is re-admitted.
            seen: bool `(n,)`, the rows with values newer than the last review.
            groups: int64 `(n,)`, the label of each row, from 0, below it where it has none; None where the tags of
                sentences are judged.
            epoch: The first that trains after it.
            classes: Of the model; as many as `groups` have by default.
            dev_skill: From `skill`, of the model on the dev split now; None where there is none.

        Returns:
            The guard after the review, and the rows to exclude, bool `(n,)`.

        Raises:
            ArgumentError: If a column is missing.
        """
        if missing := [name for name in COLUMNS if name not in columns]:
            raise ArgumentError(
                f"the noise guard needs the columns {', '.join(COLUMNS)}; missing: {', '.join(missing)}."
            )
        # a checkpoint of an earlier version has fewer
        state = self.arrays if "off" in self.arrays else {**_empty(len(seen)), **self.arrays}
        before = state["excluded"]
        if groups is not None and groups.min() < 0:  # a row without a class, of the label -100, is not judged
            seen, groups = seen & (groups >= 0), np.maximum(groups, 0)
        usable = seen & np.isfinite(columns["loss"]) & np.isfinite(columns["margin"])
        trained = np.isfinite(columns[MOMENT]) if MOMENT in columns else ~before
        fresh = usable & (trained | ~before)
        returning = usable & ~fresh & (columns["margin"] < 0)
        if fresh.sum() < LEAST_ROWS:
            note = f"{int(fresh.sum())} rows were seen, {LEAST_ROWS} are needed"
            review = Review(epoch, int(fresh.sum()), self.rate, excluded=int(before.sum()), note=note)
            return replace(self, reviews=(*self.reviews, review), arrays=state), before
        classes = max(2, classes or 0, 0 if groups is None else int(groups.max()) + 1)
        # the first review may write into its arrays, which nobody else has
        updated = {name: np.array(array) if self.arrays else array for name, array in state.items()}
        review = _judge(updated, columns, fresh, returning, groups, classes, self.least_skill)
        suspected = updated["suspicion"] > SUSPECT
        one = np.zeros(len(seen), np.int64) if groups is None else groups
        now, note = excluded(updated["suspicion"], one, None if groups is None else updated["off"], most=self.most)
        note = review.note or unready(dev_skill, "on the dev split", self.least_skill) or silent(review) or note
        if note:
            now = np.zeros(len(seen), bool)
        counts = {"excluded": now, "joined": now & ~before, "returned": before & ~now, "suspected": suspected}
        review = replace(review, epoch=epoch, note=note, **{name: int(rows.sum()) for name, rows in counts.items()})
        return replace(self, reviews=(*self.reviews, review), arrays={**updated, "excluded": now}), now

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
        return replace(self, reviews=reviews, arrays=_renamed(arrays, _IN_CODE))

    def suspects(self) -> dict[str, NDArray[Any]]:
        """The excluded rows, most suspected first: `row`, `suspicion`, `confidence`, `judgements`."""
        if not self.arrays:
            return {"row": np.empty(0, np.int64)}
        rows = np.flatnonzero(self.arrays["excluded"])
        rows = rows[np.argsort(-self.arrays["suspicion"][rows], kind="stable")]
        return {"row": rows, **{name: self.arrays[name][rows] for name in ("suspicion", "confidence", "judgements")}}

    def reasons(self, kind: str = "label") -> list[str]:
        """Why each of `suspects` is excluded, in a sentence; `kind` is what was judged."""
        suspects = self.suspects()
        if not len(suspects["row"]):
            return []
        values = (suspects[name].tolist() for name in ("suspicion", "confidence", "judgements"))
        return [_reason(kind, *of_row) for of_row in zip(*values, strict=True)]


def _reason(kind: str, suspicion: float, confidence: float, judgements: int) -> str:
    times = "once" if judgements == 1 else f"{judgements} times"
    what = "its label contradicts" if kind == "label" else "its tags contradict"
    return (
        f"{what} what the model is sure of (probability {confidence:.2f} of another one); "
        f"{suspicion:.0%} of such contradictions are wrong labels; judged {times}"
    )


def skill(right: int, rows: int, prior: float) -> float:
    """How much better than a class prior a model is: 0 as good, 1 always right; the lower end of its interval.

    `(low - prior) / (1 - prior)`, with the lower end of Wilson's 95 % interval of the share that is right.

    Args:
        right: Examples that the model is right about, of those it has not trained on.
        rows: All of them, at least 1.
        prior: The share that is right by the prior.

    Examples:
        >>> round(skill(90, 100, 0.5), 2), skill(55, 100, 0.5) < 0
        (0.65, True)

    Source: Wilson 1927 (JASA 22, 209).
    """
    share, z = right / rows, 1.96 / np.sqrt(rows)
    low = (share + z * z / 2 - z * np.sqrt(share * (1 - share) + z * z / 4)) / (1 + z * z)
    return float((low - prior) / max(1 - prior, 1e-9))


def skill_of(ranks: NDArray[np.floating], labels: NDArray[np.int64] | None, classes: int) -> float:
    """The larger of two skills: that the label is the model's choice, and that it is not far off.

    Of many classes, a model whose first choice is mostly wrong may still know well which labels are far off. By the
    class prior, the choice is the commonest class, and far off is the rarer half of the classes.

    Args:
        ranks: `(n,)`, how many classes the model puts before the label; of examples it has not trained on.
        labels: int64 `(n,)`; None for the largest rank of a sentence's tags, of which `TAGS_PRIOR` is assumed not to be
            far off by the prior.
        classes: At least 2.

    Examples:
        >>> ranks, labels = np.arange(100) % 4, np.arange(100) % 40  # of forty classes among the first four
        >>> round(skill_of(ranks, labels, 40), 2), skill((ranks == 0).sum(), 100, 1 / 40) < 0.25
        (0.91, True)
    """
    (far, _), *_ = bands(ranks, classes)
    counts = len(ranks), int((ranks == 0).sum()), int((~far).sum())
    return _skill_of(*counts, None if labels is None else np.bincount(labels, minlength=classes))


def _skill_of(rows: int, right: int, near: int, sizes: NDArray[np.int64] | None) -> float:
    """See `skill_of`; `sizes` are the rows of each class."""
    if sizes is None:
        return skill(near, rows, TAGS_PRIOR)
    shares = np.sort(sizes)[::-1] / rows
    most = len(sizes) - len(sizes) // 2
    return max(skill(right, rows, float(shares[0])), skill(near, rows, float(shares[:most].sum())))


def unready(reached: float | None, where: str, least: float) -> str:
    """Why a model may not judge labels: it is not clearly better than the class prior; empty where it may.

    Examples:
        >>> unready(0.1, "on the dev split", 0.4)
        'the model has not learned the task yet: its skill on the dev split may be as low as 0.10, and 0.4 is needed'
    """
    if reached is None or reached >= least:
        return ""
    return (
        f"the model has not learned the task yet: its skill {where} may be as low as {max(reached, 0):.2f}, "
        f"and {least} is needed"
    )


def silent(review: Review) -> str:
    """Why the evidence of a review is too little to exclude anything; empty where it is enough."""
    if review.low >= LEAST_RATE:
        return ""
    least = f"{LEAST_RATE:.0%} that can be told from a model's errors"
    return f"wrong labels may be as few as {review.low:.1%}, less than the {least}"


def excluded(
    suspicion: Floats, groups: NDArray[np.int64], off: NDArray[np.int8] | None = None, *, most: float = MOST_ASKED
) -> tuple[Mask, str]:
    """The rows likelier mislabelled than not, without those of classes that the model has not learned.

    Args:
        suspicion: float32 `(n,)`, nan where not judged.
        groups: int64 `(n,)`, the label of each row, from 0.
        off: int8 `(n,)`, how far off each label is; see `NoiseGuard`. None where rows have no one label.
        most: The share of all rows that is excluded at most.

    Returns:
        bool `(n,)`, and why nothing is excluded, empty where that is not so.

    Examples:
        >>> excluded(np.array([0.9, 0.2, 0.7, np.nan], np.float32), np.array([0, 0, 1, 1]))
        (array([ True, False,  True, False]), '')
        >>> excluded(np.array([0.9, 0.6, 0.7, np.nan], np.float32), np.array([0, 0, 1, 1]))[1]
        'labels of classes with 50% of the rows mostly contradict the model: not learned yet'
    """
    suspected = suspicion > SUSPECT
    unlearned = (_sizes(groups, suspected) > MOST_OF_CLASS * _sizes(groups))[groups]
    rows = suspected & ~unlearned
    if off is not None:
        judged = np.isfinite(suspicion)
        of_class = _sizes(groups, judged)
        never_given = _sizes(groups, judged & (off > 0)) >= MOST_CONTRADICTED * of_class
        unknown = _sizes(groups, judged & (off > 1)) >= MOST_OF_CLASS * of_class
        rows &= ~never_given[groups] | ~unknown[groups] & (off > 1)
    if unlearned.mean() > MOST_UNLEARNED:
        note = f"labels of classes with {unlearned.mean():.0%} of the rows mostly contradict the model: not learned yet"
    elif rows.mean() > most:
        note = f"{rows.mean():.0%} of the rows are suspected, and at most {most:.0%} are set aside"
        note += " unless offset is auto" if most < MOST_ASKED else ""
    else:
        return rows, ""
    return np.zeros(len(rows), bool), note


def _empty(rows: int) -> dict[str, NDArray[Any]]:
    return {
        "suspicion": np.full(rows, np.nan, np.float32),
        "confidence": np.full(rows, np.nan, np.float32),
        "off": np.zeros(rows, np.int8),
        "judgements": np.zeros(rows, np.uint8),
        "excluded": np.zeros(rows, bool),
        "counted": np.zeros(rows, bool),
        **no_evidence(),
    }


def _sizes(groups: NDArray[np.int64], where: Mask | None = None, least: int = 0) -> NDArray[np.int64]:
    """How many of the rows each class has; at least `least` classes."""
    sizes = np.zeros(max(least, int(groups.max()) + 1), np.int64)
    for part in pieces(len(groups)):
        sizes += np.bincount(groups[part] if where is None else groups[part][where[part]], minlength=len(sizes))
    return sizes


def _opinions(
    columns: Mapping[str, Floats], fresh: Mask, classes: int, updated: Mapping[str, NDArray[Any]]
) -> Opinions:
    """Of the fresh rows; their `confidence` and how far `off` their labels are go into `updated`."""
    ranked = RANK in columns and all(np.isfinite(columns[RANK][part][fresh[part]]).all() for part in pieces(len(fresh)))
    found = bands(np.arange(classes), classes)[::-1] if ranked else [(np.arange(classes) > 0, 1.0)]
    band_of_rank = np.zeros(classes, np.uint8)
    for number, (ranks, _) in enumerate(found, 1):
        band_of_rank[ranks] = number
    opinions = Opinions(np.zeros(len(fresh), np.uint16), np.zeros(len(fresh), np.uint8), tuple(q for _, q in found))
    for part in pieces(len(fresh)):
        rows = np.flatnonzero(fresh[part]) + part.start
        loss, margin = (np.asarray(columns[name][rows], np.float64) for name in COLUMNS)
        # of the predicted class: exp(margin) p_label, unless that is the label itself
        confidence = np.exp(np.maximum(margin, 0) - loss)
        # where the rank is unknown, a label that contradicts is taken for far off
        ranks = (
            np.minimum(columns[RANK][rows], classes - 1).astype(np.int64)
            if ranked
            else np.where(margin > 0, classes - 1, 0)
        )
        opinions.cells[rows], opinions.of_bands[rows] = cells_of(confidence), band_of_rank[ranks]
        updated["confidence"][rows] = confidence
        updated["off"][rows] = np.minimum(opinions.of_bands[rows], 1) + (opinions.of_bands[rows] == len(found))
    return opinions


def _judge(
    updated: dict[str, NDArray[Any]],
    columns: Mapping[str, Floats],
    fresh: Mask,
    returning: Mask,
    groups: NDArray[np.int64] | None,
    classes: int,
    least_skill: float,
) -> Review:
    """Bring the arrays up to date with a judgement of the fresh rows; with a note where the model was not ready."""
    opinions = _opinions(columns, fresh, classes, updated)
    moments = columns[MOMENT] if MOMENT in columns else np.zeros(len(fresh), np.float32)
    early = early_exposures(fresh, updated["judgements"], moments, LEAST_ROWS)
    # a model that agrees with what it has trained on may have learned it by heart
    was_ready, new, ready = bool(updated["counted"].any()), [], []
    for where, again in counted_exposures(updated, fresh, moments, early, LEAST_ROWS):
        counts = opinions.counts(where)
        if not again:
            sizes = None if groups is None else _sizes(groups, where, classes)
            new.append(_skill_of(int(counts.sum()), int(counts[0].sum()), int(counts[:-1].sum()), sizes))
        if was_ready if again else new[0] >= least_skill:
            ready.append(evidence_of(counts, again=again))
            updated["counted"] |= where
    updated["evidence"] = with_evidence(updated["evidence"], ready)
    updated["judgements"] += fresh & (updated["judgements"] < np.iinfo(np.uint8).max)
    judged = int(fresh.sum())
    if not updated["counted"].any():
        late = "the model had not learned the task when the examples were new to it"
        note = unready(max(new), "on examples new to it", least_skill) if new else late
        return Review(0, judged, 0.0, note=note)
    level = fit_level(all_evidence(updated), classes, share=opinions.shares[-1])
    prior = level.rate * _more_suspected(updated["suspicion"], fresh)
    curve = Curve(prior, 0.0, 0.0)
    for where in ([early] if early.any() else []) + [fresh & ~early]:  # each with the errors of its own time
        found, curve = suspicions(opinions.counts(where), classes, prior, opinions.shares)
        for part in pieces(len(fresh)):
            rows = np.flatnonzero(where[part]) + part.start
            updated["suspicion"][rows] = found[opinions.of_bands[rows], opinions.cells[rows]]
    # the model no longer trains on it, and has come to agree with its label
    updated["suspicion"][returning], updated["off"][returning] = 0.0, 0
    counted = int(updated["counted"].sum())
    estimate = (level.rate, level.low, level.high, counted, curve.rate, curve.offset, curve.slope)
    return Review(0, judged, *estimate)


def _more_suspected(suspicion: Floats, fresh: Mask) -> float:
    """The mean suspicion of these rows, in units of the mean of all rows; 1 before the first judgement."""
    judged = np.isfinite(suspicion)
    mean = suspicion.mean(where=judged, dtype=np.float64) if judged.any() else 0.0
    if mean == 0:
        return 1.0
    unknown = fresh & ~judged
    known = suspicion.sum(where=fresh & judged, dtype=np.float64)
    return float((known + unknown.sum() * mean) / fresh.sum() / mean)
