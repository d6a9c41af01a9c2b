"""Is a difference real? Paired statistics over seeds and over test rows; scipy and statsmodels compute them.

Figures are in points (hundredths), and a difference is `method - baseline`: below 0 the method is worse. A metric is a
function of sums over the test rows (`RowSums`), so that the bootstrap draws rows again without counting them again.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from scipy.stats import rankdata
from seqeval.metrics.sequence_labeling import get_entities
from statsmodels.stats.contingency_tables import mcnemar as mcnemar_test
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.power import TTestPower
from statsmodels.stats.weightstats import DescrStatsW


def several_labels(predictions: pd.DataFrame) -> bool:
    """Whether the rows have any number of labels each (multi-label)."""
    return len(predictions) > 0 and all(_is_list(value) for value in predictions["predicted"])


def _is_list(value: Any) -> bool:
    return isinstance(value, (list, tuple, np.ndarray))


def label_pairs(predictions: pd.DataFrame) -> Iterator[tuple[set[str], set[str]]]:
    """The gold and the predicted labels of each row that has several."""
    for gold, predicted in zip(predictions["gold"], predictions["predicted"], strict=True):
        yield set(gold), set(predicted)


def tags_words(predictions: pd.DataFrame) -> bool:
    """Whether words are tagged and nothing else is predicted (token classification)."""
    return "gold_slots" in predictions and bool(predictions["predicted"].isna().all())


def tag_pairs(predictions: pd.DataFrame) -> Iterator[tuple[list[str], list[str]]]:
    """The gold and the predicted tags of each row."""
    for gold, predicted in zip(predictions["gold_slots"], predictions["predicted_slots"], strict=True):
        yield list(gold), list(predicted)


Spans = set[tuple[str, int, int]]


def span_pairs(predictions: pd.DataFrame) -> list[tuple[Spans, Spans]]:
    """Type, first and last word of the gold and the predicted spans of each row, as `seqeval` reads them."""
    with warnings.catch_warnings():  # as in `datadiet.tasks.metrics`
        warnings.filterwarnings("ignore", message=".*seems not to be NE tag", category=UserWarning)
        return [(set(get_entities(gold)), set(get_entities(tags))) for gold, tags in tag_pairs(predictions)]


Floats = NDArray[np.float64]
TOKENS = "tokens"  # the column of predictions that those of a language model have


@dataclass(frozen=True)
class RowSums:
    """Numbers per test row whose sums give a metric.

    Attributes:
        parts: float64 `(rows, parts)`.
        combine: `(..., parts)` sums to the metric `(...)`, in points.
    """

    parts: Floats
    combine: Callable[[Floats], Floats]

    def __len__(self) -> int:
        return len(self.parts)

    def figure(self, weights: ArrayLike | None = None) -> Floats:
        """The metric in points, with each row counted so many times.

        Args:
            weights: `(..., rows)`; once each by default.

        Returns:
            float64 `(...)`.
        """
        sums = self.parts.sum(axis=0) if weights is None else np.asarray(weights, np.float64) @ self.parts
        return 100 * self.combine(sums)


def row_sums(metric: str, predictions: pd.DataFrame) -> RowSums | None:
    """The sums of a metric; None for one that is no function of sums (`macro_f1`, `nll`).

    Args:
        metric: A name of `result.json`.
        predictions: One split of `predictions.parquet`.
    """
    make = _MAKERS.get(metric)
    return None if make is None else make(predictions)


def right(predictions: pd.DataFrame, metric: str) -> NDArray[np.bool_] | None:
    """Whether each row is right, bool `(rows,)`; None for metrics that are no share of right rows."""
    if tags_words(predictions) or TOKENS in predictions:
        return None  # its accuracy is of words or tokens
    flags = {"accuracy": _label_right, "intent_accuracy": _label_right, "exact_match": _all_right}.get(metric)
    return None if flags is None else flags(predictions)


def _label_right(predictions: pd.DataFrame) -> NDArray[np.bool_]:
    if several_labels(predictions):
        pairs = label_pairs(predictions)
        return np.fromiter((gold == predicted for gold, predicted in pairs), bool, len(predictions))
    same = predictions["gold"].astype(str) == predictions["predicted"].astype(str)
    return np.asarray(same, np.bool_)


def _all_right(predictions: pd.DataFrame) -> NDArray[np.bool_]:
    if "gold_slots" not in predictions:
        return _label_right(predictions)
    pairs = tag_pairs(predictions)
    whole = np.fromiter((gold == predicted for gold, predicted in pairs), bool, len(predictions))
    return np.asarray(_label_right(predictions) & whole, np.bool_)


def _share(flags: Callable[[pd.DataFrame], NDArray[np.bool_]]) -> Callable[[pd.DataFrame], RowSums]:
    def make(predictions: pd.DataFrame) -> RowSums:
        hits = flags(predictions).astype(np.float64)
        return RowSums(np.stack([hits, np.ones_like(hits)], axis=1), _ratio)

    return make


def _ratio(sums: Floats) -> Floats:
    return sums[..., 0] / sums[..., 1]


def _accuracy(predictions: pd.DataFrame) -> RowSums:
    """Of the rows, or of the words where only they have a tag."""
    if not tags_words(predictions):
        return _share(_label_right)(predictions)
    counts = [
        (sum(one == two for one, two in zip(gold, predicted, strict=True)), len(gold))
        for gold, predicted in tag_pairs(predictions)
    ]
    return RowSums(np.array(counts, np.float64).reshape(-1, 2), _ratio)


def _set_counts(pairs: Iterable[tuple[set[Any], set[Any]]]) -> RowSums:
    """Members of both sets, of the predicted and of the gold one, per row."""
    counts = [(len(gold & predicted), len(predicted), len(gold)) for gold, predicted in pairs]
    return RowSums(np.array(counts, np.float64).reshape(-1, 3), _f1)


def _labels(predictions: pd.DataFrame) -> RowSums:
    return _set_counts(label_pairs(predictions))


def _spans(predictions: pd.DataFrame) -> RowSums:
    """The F1 is that of `seqeval` in its default mode."""
    return _set_counts(span_pairs(predictions))


def _f1(sums: Floats) -> Floats:
    return _quotient(2 * sums[..., 0], sums[..., 1] + sums[..., 2])


def _matthews(predictions: pd.DataFrame) -> RowSums:
    """Gorodkin's correlation needs right rows, and how often each class is gold and predicted."""
    columns = predictions["gold"].astype(str), predictions["predicted"].astype(str)
    names = sorted({*columns[0], *columns[1]})
    gold, predicted = (pd.Categorical(column, names).codes for column in columns)
    unit = np.eye(len(names))
    parts = [(gold == predicted)[:, None], np.ones((len(gold), 1)), unit[gold], unit[predicted]]
    return RowSums(np.concatenate(parts, axis=1, dtype=np.float64), _gorodkin)


def _gorodkin(sums: Floats) -> Floats:
    classes = (sums.shape[-1] - 2) // 2
    hits, rows = sums[..., 0], sums[..., 1]
    gold, predicted = sums[..., 2 : 2 + classes], sums[..., 2 + classes :]
    covariance = hits * rows - (gold * predicted).sum(-1)
    spread = np.sqrt((rows**2 - (gold**2).sum(-1)) * (rows**2 - (predicted**2).sum(-1)))
    return _quotient(covariance, spread)


def _correlation(ranks: bool) -> Callable[[pd.DataFrame], RowSums]:
    """Pearson's; Spearman's is that of the ranks, which a draw of rows leaves as they are in the whole split."""

    def make(predictions: pd.DataFrame) -> RowSums:
        x, y = (_numbers(predictions[name], ranks) for name in ("gold", "predicted"))
        return RowSums(np.stack([np.ones_like(x), x, y, x * x, y * y, x * y], axis=1), _pearson)

    return make


def _numbers(column: Any, ranks: bool) -> Floats:
    values = column.astype(np.float64).to_numpy()
    values = rankdata(values) if ranks else values
    return np.asarray(values - values.mean(), np.float64)  # sums of squares lose fewer digits around 0


def _pearson(sums: Floats) -> Floats:
    rows, x, y, xx, yy, xy = np.moveaxis(sums, -1, 0)
    spread = np.sqrt(np.maximum((rows * xx - x * x) * (rows * yy - y * y), 0.0))
    return _quotient(rows * xy - x * y, spread)


def _quotient(above: Floats, below: Floats) -> Floats:
    """0 where there is nothing to divide by, as the metrics have it."""
    return np.asarray(np.divide(above, below, out=np.zeros_like(below), where=below > 0), np.float64)


def _tokens(predictions: pd.DataFrame) -> RowSums:
    """The share of the tokens that are right."""
    parts = predictions[["right", "tokens"]].to_numpy(np.float64)
    return RowSums(parts, lambda sums: sums[..., 0] / np.maximum(sums[..., 1], 1))


def _likelihood(predictions: pd.DataFrame) -> RowSums:
    """The geometric mean of the probabilities of the tokens."""
    parts = predictions[["nll", "tokens"]].to_numpy(np.float64)
    return RowSums(parts, lambda sums: np.exp(-sums[..., 0] / np.maximum(sums[..., 1], 1)))


def _exact_match(predictions: pd.DataFrame) -> RowSums:
    """The share of the rows that are right, among those where that is counted."""
    if TOKENS not in predictions:
        return _share(_all_right)(predictions)
    counted = predictions["exact"].notna().to_numpy()
    exact = predictions["exact"].fillna(False).to_numpy(np.bool_)
    parts = np.stack([exact, counted], 1).astype(np.float64)
    return RowSums(parts, lambda sums: sums[..., 0] / np.maximum(sums[..., 1], 1))


_MAKERS: dict[str, Callable[[pd.DataFrame], RowSums]] = {
    "accuracy": _accuracy,
    "intent_accuracy": _share(_label_right),
    "exact_match": _exact_match,
    "token_accuracy": _tokens,
    "likelihood": _likelihood,
    "slot_f1": _spans,
    "span_f1": _spans,
    "micro_f1": _labels,
    "matthews": _matthews,
    "pearson": _correlation(ranks=False),
    "spearman": _correlation(ranks=True),
}


LEVEL = 0.95
POWER = 0.8
_EXACT_BELOW = 25  # discordant pairs; from there the chi-square with continuity correction is as good
_MOST_SEEDS = 200  # looked at before giving up
REPEATS = 2000  # of the bootstrap
_WEIGHTS = 20_000_000  # numbers of a block of bootstrap weights, which bounds its memory


@dataclass(frozen=True)
class Interval:
    """Both ends of an interval at the level 0.95."""

    low: float
    high: float

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high


@dataclass(frozen=True)
class Difference:
    """The difference between a method and a baseline in points, over the seeds that both have.

    Attributes:
        seeds: Those that both have.
        mean, deviation: Of the differences paired by seed; the sample deviation of one seed is None.
        interval: Of the mean, by Student's t over the seeds; None for one seed.
        bootstrap: Of the mean, over seeds and test rows; None where the predictions of some run are missing.
        p_not_worse: Of "worse by `margin` or more" (one-sided t); None for one seed.
        p_equal: Of "different by `margin` or more" (TOST); None for one seed.
        margin: In points.
        seeds_needed: How many seeds would show "not worse" with a power of 0.8, if mean and deviation are what they
            seem; None where no number would, or for one seed.
    """

    seeds: tuple[int, ...]
    mean: float
    deviation: float | None
    interval: Interval | None
    bootstrap: Interval | None
    p_not_worse: float | None
    p_equal: float | None
    margin: float
    seeds_needed: int | None

    @property
    def not_worse(self) -> bool:
        """Whether it is shown that the method is not worse by the margin or more."""
        return self.p_not_worse is not None and self.p_not_worse < 1 - LEVEL

    @property
    def shown(self) -> bool:
        """Whether a difference from 0 is shown, by the interval over the seeds."""
        return self.interval is not None and 0 not in self.interval


def difference(
    method: Mapping[int, float],
    baseline: Mapping[int, float],
    *,
    margin: float,
    rows: Sequence[tuple[Floats, Floats]] = (),
) -> Difference | None:
    """Compare two methods over the seeds that both have; None where they share none.

    Args:
        method, baseline: Figures in points, by seed.
        margin: By how much the method may be worse, in points, above 0.
        rows: Figures over samples of the test rows, of method and baseline, for each shared seed; see `resampled`.

    Examples:
        >>> result = difference({0: 95.1, 1: 95.2, 2: 95.0}, {0: 95.3, 1: 95.3, 2: 95.3}, margin=0.5)
        >>> round(result.mean, 2), round(result.deviation, 2), result.not_worse
        (-0.2, 0.1, True)
    """
    seeds = tuple(sorted(method.keys() & baseline.keys()))
    if not seeds:
        return None
    differences = np.array([method[seed] - baseline[seed] for seed in seeds])
    bootstrap = two_level_bootstrap(rows) if len(rows) == len(seeds) else None
    mean = float(differences.mean())
    if len(seeds) == 1:
        return Difference(seeds, mean, None, None, bootstrap, None, None, margin, None)
    deviation = float(differences.std(ddof=1))
    not_worse, equal = non_inferiority(differences, margin)
    needed = seeds_needed(mean, deviation, margin)
    return Difference(seeds, mean, deviation, t_interval(differences), bootstrap, not_worse, equal, margin, needed)


def t_interval(differences: Floats) -> Interval:
    """Interval of the mean of at least two differences, by Student's t."""
    if np.ptp(differences) == 0:
        return Interval(float(differences[0]), float(differences[0]))
    low, high = stats.ttest_1samp(differences, 0.0).confidence_interval(LEVEL)
    return Interval(float(low), float(high))


def non_inferiority(differences: Floats, margin: float) -> tuple[float, float]:
    """p of "worse by `margin` or more", and p of "different by `margin` or more": two one-sided t tests.

    Source: Schuirmann 1987 (TOST), as `statsmodels.stats.weightstats.DescrStatsW.ttost_mean` has it.
    """
    if np.ptp(differences) == 0:  # no spread: what is seen is all there is
        mean = float(differences[0])
        return float(mean <= -margin), float(abs(mean) >= margin)
    both, (_, not_worse, _), _ = DescrStatsW(differences).ttost_mean(-margin, margin)
    return float(not_worse), float(both)


def seeds_needed(mean: float, deviation: float, margin: float) -> int | None:
    """Seeds that would show "not worse by `margin`" with a power of 0.8; None where no number up to 200 would.

    Args:
        mean, deviation: Of the differences paired by seed.
        margin: In the same unit.

    Examples:
        >>> seeds_needed(0.0, 0.3, 0.5), seeds_needed(-0.6, 0.3, 0.5)
        (4, None)
    """
    room = mean + margin
    if room <= 0:
        return None
    if deviation == 0:
        return 2
    power = TTestPower()
    for seeds in range(2, _MOST_SEEDS + 1):
        if power.power(room / deviation, seeds, 1 - LEVEL, alternative="larger") >= POWER:
            return seeds
    return None


def resampled(sums: RowSums) -> Floats:
    """The metric of `REPEATS` samples of the test rows, drawn with replacement; in points, float64 `(REPEATS,)`.

    The draws are the same for every run over as many rows, because all runs are tested on the same rows.
    """
    return np.concatenate([sums.figure(weights) for weights in _row_weights(len(sums))])


@lru_cache(maxsize=2)
def _cached_weights(number: int) -> NDArray[np.uint16]:
    return np.concatenate(list(_drawn_weights(number)))


def _row_weights(number: int) -> Iterable[NDArray[np.uint16]]:
    """How often each row is drawn, `(samples, rows)` at a time; kept where they are few."""
    return [_cached_weights(number)] if number * REPEATS <= _WEIGHTS else _drawn_weights(number)


def _drawn_weights(number: int) -> Iterator[NDArray[np.uint16]]:
    generator = np.random.default_rng(0)
    block = max(1, _WEIGHTS // number)
    for begin in range(0, REPEATS, block):
        size = min(block, REPEATS - begin)
        yield generator.multinomial(number, np.full(number, 1 / number), size=size).astype(np.uint16)


def two_level_bootstrap(figures: Sequence[tuple[Floats, Floats]]) -> Interval:
    """Interval of the mean difference over seeds, when seeds and test rows are both only samples.

    Each repeat draws test rows with replacement, the same for every run, and seeds with replacement; the ends are
    percentiles.

    Args:
        figures: `(method, baseline)` of each seed, from `resampled`.

    Source: Efron and Tibshirani 1993, chapter 13 (percentiles); two levels as in Davison and Hinkley 1997, section 3.8.
    """
    each = np.stack([ours - theirs for ours, theirs in figures], axis=1)  # (repeats, seeds)
    drawn = np.random.default_rng(1).integers(each.shape[1], size=each.shape)
    means = np.take_along_axis(each, drawn, axis=1).mean(axis=1)
    tail = 50 * (1 - LEVEL)
    low, high = np.percentile(means, [tail, 100 - tail])
    return Interval(float(low), float(high))


def mcnemar(ours: NDArray[np.bool_], theirs: NDArray[np.bool_]) -> float:
    """p that two models are right equally often on the same rows: exact where few rows tell them apart.

    Args:
        ours, theirs: bool `(rows,)`, whether each prediction is right.

    Examples:
        >>> right = np.array([True] * 8 + [False] * 2)
        >>> mcnemar(right, right), mcnemar(np.ones(10, bool), np.zeros(10, bool)) < 0.01
        (1.0, True)

    Source: McNemar 1947; `statsmodels.stats.contingency_tables.mcnemar`.
    """
    ours_only, theirs_only = int(np.sum(ours & ~theirs)), int(np.sum(~ours & theirs))
    both, neither = int(np.sum(ours & theirs)), int(np.sum(~ours & ~theirs))
    exact = ours_only + theirs_only < _EXACT_BELOW
    return float(mcnemar_test([[both, ours_only], [theirs_only, neither]], exact=exact).pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values adjusted for being many, in their order.

    Examples:
        >>> [round(p, 3) for p in holm([0.01, 0.04, 0.03])]
        [0.03, 0.06, 0.06]

    Source: Holm 1979; `statsmodels.stats.multitest.multipletests`.
    """
    return [] if not p_values else [float(p) for p in multipletests(p_values, method="holm")[1]]


@dataclass(frozen=True)
class Saving:
    """The share of the time that a method saves against a baseline, paired by seed.

    Attributes:
        median: Of the seeds.
        interval: Of the median, by a bootstrap over the seeds (percentiles; three seeds give their range); None for
            one seed.
    """

    median: float
    interval: Interval | None


def saving(method: Mapping[int, float], baseline: Mapping[int, float]) -> Saving | None:
    """The share of the time saved; None where no seed has both.

    Args:
        method, baseline: Seconds by seed.

    Examples:
        >>> round(saving({0: 60.0, 1: 50.0, 2: 55.0}, {0: 100.0, 1: 100.0, 2: 100.0}).median, 2)
        0.45
    """
    shares = np.array([1 - method[seed] / baseline[seed] for seed in sorted(method.keys() & baseline.keys())])
    if not len(shares):
        return None
    median = float(np.median(shares))
    if len(shares) == 1:
        return Saving(median, None)
    if np.ptp(shares) == 0:
        return Saving(median, Interval(median, median))
    drawn = stats.bootstrap(
        (shares,), np.median, confidence_level=LEVEL, method="percentile", rng=np.random.default_rng(0)
    )
    return Saving(median, Interval(float(drawn.confidence_interval.low), float(drawn.confidence_interval.high)))
