"""A metric as a function of sums over test rows, so that rows can be drawn again without counting them again."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata
from seqeval.metrics.sequence_labeling import get_entities

from datadiet.comparison.row_kinds import label_sets, several_labels, tags_words

Floats = NDArray[np.float64]


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
    if tags_words(predictions):
        return None  # its accuracy is of words
    flags = {"accuracy": _label_right, "intent_accuracy": _label_right, "exact_match": _all_right}.get(metric)
    return None if flags is None else flags(predictions)


def _label_right(predictions: pd.DataFrame) -> NDArray[np.bool_]:
    if several_labels(predictions):
        pairs = zip(*label_sets(predictions), strict=True)
        return np.fromiter((gold == found for gold, found in pairs), bool, len(predictions))
    same = predictions["gold"].astype(str) == predictions["predicted"].astype(str)
    return np.asarray(same, np.bool_)


def _all_right(predictions: pd.DataFrame) -> NDArray[np.bool_]:
    if "gold_slots" not in predictions:
        return _label_right(predictions)
    tags = zip(predictions["gold_slots"], predictions["predicted_slots"], strict=True)
    whole = np.fromiter((list(gold) == list(found) for gold, found in tags), bool, len(predictions))
    return np.asarray(_label_right(predictions) & whole, np.bool_)


def _share(flags: Callable[[pd.DataFrame], NDArray[np.bool_]]) -> Callable[[pd.DataFrame], RowSums]:
    def make(predictions: pd.DataFrame) -> RowSums:
        found = flags(predictions).astype(np.float64)
        return RowSums(np.stack([found, np.ones_like(found)], axis=1), _ratio)

    return make


def _ratio(sums: Floats) -> Floats:
    return sums[..., 0] / sums[..., 1]


def _accuracy(predictions: pd.DataFrame) -> RowSums:
    """Of the rows, or of the words where only they have a tag."""
    if not tags_words(predictions):
        return _share(_label_right)(predictions)
    pairs = zip(predictions["gold_slots"], predictions["predicted_slots"], strict=True)
    counts = [(sum(a == b for a, b in zip(gold, found, strict=True)), len(gold)) for gold, found in pairs]
    return RowSums(np.array(counts, np.float64).reshape(-1, 2), _ratio)


def _labels(predictions: pd.DataFrame) -> RowSums:
    """Labels that are right, predicted and gold, per row."""
    pairs = zip(*label_sets(predictions), strict=True)
    counts = [(len(gold & found), len(found), len(gold)) for gold, found in pairs]
    return RowSums(np.array(counts, np.float64).reshape(-1, 3), _f1)


def _spans(predictions: pd.DataFrame) -> RowSums:
    """Spans found, predicted and gold, per row; the F1 is that of `seqeval` in its default mode."""
    tags = zip(predictions["gold_slots"], predictions["predicted_slots"], strict=True)
    with warnings.catch_warnings():  # as in `datadiet.tasks.metrics`
        warnings.filterwarnings("ignore", message=".*seems not to be NE tag", category=UserWarning)
        counts = [_span_counts(gold, found) for gold, found in tags]
    return RowSums(np.array(counts, np.float64).reshape(-1, 3), _f1)


def _span_counts(gold: Sequence[str], found: Sequence[str]) -> tuple[int, int, int]:
    wanted, said = spans(gold), spans(found)
    return len(wanted & said), len(said), len(wanted)


def spans(tags: Sequence[str]) -> set[tuple[str, int, int]]:
    """Type, first and last word of each span, as `seqeval` reads them."""
    return set(get_entities(list(tags)))


def _f1(sums: Floats) -> Floats:
    spans = sums[..., 1] + sums[..., 2]
    return _quotient(2 * sums[..., 0], spans)


def _matthews(predictions: pd.DataFrame) -> RowSums:
    """Gorodkin's correlation needs right rows, and how often each class is gold and predicted."""
    gold, found = predictions["gold"].astype(str), predictions["predicted"].astype(str)
    names = sorted({*gold, *found})
    wanted, said = (pd.Categorical(column, names).codes for column in (gold, found))
    unit = np.eye(len(names))
    parts = [(wanted == said)[:, None], np.ones((len(gold), 1)), unit[wanted], unit[said]]
    return RowSums(np.concatenate(parts, axis=1, dtype=np.float64), _gorodkin)


def _gorodkin(sums: Floats) -> Floats:
    classes = (sums.shape[-1] - 2) // 2
    hits, rows = sums[..., 0], sums[..., 1]
    gold, found = sums[..., 2 : 2 + classes], sums[..., 2 + classes :]
    covariance = hits * rows - (gold * found).sum(-1)
    spread = np.sqrt((rows**2 - (gold**2).sum(-1)) * (rows**2 - (found**2).sum(-1)))
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


_MAKERS: dict[str, Callable[[pd.DataFrame], RowSums]] = {
    "accuracy": _accuracy,
    "intent_accuracy": _share(_label_right),
    "exact_match": _share(_all_right),
    "slot_f1": _spans,
    "span_f1": _spans,
    "micro_f1": _labels,
    "matthews": _matthews,
    "pearson": _correlation(ranks=False),
    "spearman": _correlation(ranks=True),
}
