from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from datadiet.compare.statistics import right, row_sums
from datadiet.tasks.base import Prediction
from datadiet.tasks.metrics import (
    classification_metrics,
    joint_metrics,
    multi_label_metrics,
    regression_metrics,
    tag_metrics,
)

TAGS = ("O", "B-city", "I-city", "B-day", "I-day", "odd")
RNG = np.random.default_rng(0)


def joint(rows: int = 60) -> pd.DataFrame:
    def tags(length: int) -> list[str]:
        return [str(tag) for tag in RNG.choice(TAGS, length)]

    lengths = RNG.integers(1, 6, rows)
    gold = [tags(length) for length in lengths]
    found = [list(tags_) if RNG.random() < 0.6 else tags(len(tags_)) for tags_ in gold]
    return pd.DataFrame({**labels(rows).to_dict("list"), "gold_slots": gold, "predicted_slots": found})


def labels(rows: int = 60, names: str = "abc") -> pd.DataFrame:
    gold = RNG.choice(list(names), rows)
    found = np.where(RNG.random(rows) < 0.6, gold, RNG.choice(list(names), rows))
    return pd.DataFrame({"gold": gold, "predicted": found})


def numbers(rows: int = 60) -> pd.DataFrame:
    gold = RNG.integers(0, 6, rows).astype(float)
    return pd.DataFrame({"gold": gold, "predicted": gold + RNG.normal(0, 2, rows)})


def said(predictions: pd.DataFrame) -> list[Prediction]:
    slots = predictions["predicted_slots"] if "predicted_slots" in predictions else [None] * len(predictions)
    found = zip(predictions["predicted"], slots, strict=True)
    return [Prediction(label, None, np.ones(3, np.float32) / 3, tags and tuple(tags)) for label, tags in found]


def expected(metric: str, predictions: pd.DataFrame) -> float:
    """The figure as `result.json` has it."""
    if "gold_slots" in predictions:
        found = joint_metrics(list(predictions["gold"]), list(predictions["gold_slots"]), said(predictions), "abc")
    elif metric in ("pearson", "spearman"):
        found = regression_metrics(list(predictions["gold"]), said(predictions))
    else:
        found = classification_metrics(list(predictions["gold"]), said(predictions), "abc")
    return 100 * found[metric]


CASES = [
    ("accuracy", labels), ("matthews", labels), ("matthews", lambda: labels(names="ab")), ("pearson", numbers),
    ("spearman", numbers), ("intent_accuracy", joint), ("slot_f1", joint), ("exact_match", joint),
]  # fmt: skip


@pytest.mark.parametrize(("metric", "made"), CASES)
def test_the_sums_give_the_metric_of_the_result(metric, made):
    predictions = made()
    assert row_sums(metric, predictions).figure() == pytest.approx(expected(metric, predictions))


@pytest.mark.parametrize(("metric", "made"), [case for case in CASES if case[0] != "spearman"])
def test_a_weight_of_a_row_is_as_good_as_its_repetition(metric, made):
    predictions = made()
    weights = RNG.multinomial(len(predictions), np.full(len(predictions), 1 / len(predictions)), size=3)
    found = row_sums(metric, predictions).figure(weights)
    for row, drawn in zip(found, weights, strict=True):
        again = predictions.iloc[np.repeat(np.arange(len(predictions)), drawn)]
        assert row == pytest.approx(expected(metric, again))


def test_figures_without_anything_to_count_are_0():
    nothing = pd.DataFrame({"gold": ["a"], "predicted": ["b"], "gold_slots": [["O"]], "predicted_slots": [["O"]]})
    assert row_sums("slot_f1", nothing).figure() == 0
    assert row_sums("matthews", pd.DataFrame({"gold": ["a", "a"], "predicted": ["a", "b"]})).figure() == 0
    assert row_sums("pearson", pd.DataFrame({"gold": [1.0, 1.0], "predicted": [1.0, 2.0]})).figure() == 0


@pytest.mark.parametrize("metric", ["macro_f1", "nll", "mse"])
def test_other_metrics_have_no_sums(metric):
    assert row_sums(metric, labels()) is None
    assert right(labels(), metric) is None


def test_a_row_of_a_joint_task_is_right_with_its_intent_and_every_slot():
    slots = {"gold_slots": [["O"], ["O"], ["B-a"]], "predicted_slots": [["O"], ["O"], ["O"]]}
    predictions = pd.DataFrame({"gold": ["x", "y", "x"], "predicted": ["x", "x", "x"], **slots})
    assert right(predictions, "intent_accuracy").tolist() == [True, False, True]
    assert right(predictions, "exact_match").tolist() == [True, False, False]


def several(rows: int = 60) -> pd.DataFrame:
    def some() -> list[str]:
        return [name for name in "abc" if RNG.random() < 0.4]

    gold = [some() for _ in range(rows)]
    return pd.DataFrame({"gold": gold, "predicted": [found if RNG.random() < 0.5 else some() for found in gold]})


def tagged(rows: int = 60) -> pd.DataFrame:
    return joint(rows).assign(gold=None, predicted=None)


def test_several_labels_have_the_figures_of_the_result() -> None:
    predictions = several()
    found = [Prediction(tuple(name), 1.0, np.full(3, 0.5, np.float32)) for name in predictions["predicted"]]
    result = multi_label_metrics(list(predictions["gold"]), found, "abc")
    for metric in ("micro_f1", "exact_match"):
        assert row_sums(metric, predictions).figure() == pytest.approx(100 * result[metric])
    flags = right(predictions, "exact_match")
    assert flags.tolist() == [set(a) == set(b) for a, b in predictions[["gold", "predicted"]].to_numpy()]
    assert right(predictions, "micro_f1") is None
    again = predictions.assign(predicted=[labels[::-1] for labels in predictions["predicted"]])
    assert right(again, "exact_match").tolist() == flags.tolist()  # a set has no order


def test_taggers_have_the_figures_of_the_result() -> None:
    predictions = tagged()
    slots = [tuple(tags) for tags in predictions["predicted_slots"]]
    found = [Prediction(None, None, np.ones((len(tags), 1), np.float32), tags) for tags in slots]
    result = tag_metrics(list(predictions["gold_slots"]), found, ("none",))
    for metric in ("span_f1", "accuracy"):
        assert row_sums(metric, predictions).figure() == pytest.approx(100 * result[metric])
        assert right(predictions, metric) is None
