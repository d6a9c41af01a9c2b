"""Metrics by hand; slots by spans."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from datadiet.registry import methods
from datadiet.tasks.base import Prediction
from datadiet.tasks.metrics import (
    classification_metrics,
    joint_metrics,
    multi_label_metrics,
    regression_metrics,
    slot_f1,
    tag_metrics,
)

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "span_f1.json").read_text(encoding="utf-8"))


def said(label: str, *probabilities: float, slots: tuple[str, ...] | None = None) -> Prediction:
    row = np.array(probabilities, dtype=np.float32)
    return Prediction(label, float(row.max()), row, slots)


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=lambda case: case["name"])
def test_slot_f1_counts_spans(case: dict) -> None:
    gold, found = case["gold"], case["predicted"]
    pairs = [pair for wanted, given in zip(gold, found, strict=True) for pair in zip(wanted, given, strict=True)]
    assert slot_f1(gold, found) == pytest.approx(case["span_f1"])
    assert np.mean([wanted == given for wanted, given in pairs]) == pytest.approx(case["word_accuracy"])
    assert case["span_f1"] != pytest.approx(case["word_accuracy"], abs=0.01)


def test_no_span_at_all_is_zero_without_a_warning() -> None:
    assert slot_f1([["O", "O"]], [["O", "O"]]) == 0.0


def test_tags_without_a_prefix_are_spans_of_equal_neighbours() -> None:
    assert slot_f1([["city", "city", "O"]], [["city", "city", "O"]]) == 1.0
    assert slot_f1([["city", "city", "O"]], [["city", "O", "O"]]) == 0.0


def test_classification_by_hand() -> None:
    gold = ["a", "a", "b", "b"]
    found = [said("a", 0.8, 0.2), said("b", 0.4, 0.6), said("b", 0.3, 0.7), said("b", 0.1, 0.9)]
    metrics = classification_metrics(gold, found, ("a", "b"))
    # class a: precision 1, recall 1/2; class b: precision 2/3, recall 1
    assert metrics["accuracy"] == 0.75
    assert metrics["macro_f1"] == pytest.approx((2 / 3 + 4 / 5) / 2)
    assert metrics["matthews"] == pytest.approx((1 * 2 - 0 * 1) / math.sqrt(1 * 3 * 2 * 2))
    assert metrics["nll"] == pytest.approx(-np.log([0.8, 0.4, 0.7, 0.9]).mean())


def test_a_gold_class_the_model_does_not_have_is_an_error() -> None:
    metrics = classification_metrics(["a", "new"], [said("a", 0.9, 0.1), said("a", 0.6, 0.4)], ("a", "b"))
    assert metrics["accuracy"] == 0.5
    assert metrics["macro_f1"] == pytest.approx((2 / 3 + 0) / 2)
    assert metrics["nll"] == pytest.approx(-math.log(0.9))
    assert "nll" not in classification_metrics(["new"], [said("a", 0.9, 0.1)], ("a", "b"))


@pytest.mark.parametrize("gold", [["a", "a"], ["a", "b"]])
def test_one_predicted_class_has_no_correlation_and_no_warning(gold: list[str]) -> None:
    assert classification_metrics(gold, [said("a", 0.9, 0.1)] * 2, ("a", "b"))["matthews"] == 0.0


def test_nll_stays_finite_when_a_probability_underflows() -> None:
    assert classification_metrics(["b"], [said("a", 1.0, 0.0)], ("a", "b"))["nll"] == pytest.approx(87.3365, abs=1e-3)


def numbers(*values: float) -> list[Prediction]:
    return [Prediction(value, None, None) for value in values]


def test_regression_by_hand() -> None:
    metrics = regression_metrics([1.0, 2.0, 3.0], numbers(1.0, 3.0, 2.0))
    assert metrics == pytest.approx({"pearson": 0.5, "spearman": 0.5, "mse": 2 / 3})


@pytest.mark.parametrize(
    ("gold", "found"), [((1.0, 2.0), (3.0, 3.0)), ((2.0, 2.0), (1.0, 3.0)), ((1.0,), (1.0,))], ids=str
)
def test_correlation_with_a_constant_is_zero(gold: tuple[float, ...], found: tuple[float, ...]) -> None:
    metrics = regression_metrics(gold, numbers(*found))
    assert (metrics["pearson"], metrics["spearman"]) == (0.0, 0.0)


def test_nearly_constant_predictions_raise_no_warning() -> None:
    metrics = regression_metrics([1.0, 2.0, 3.0], numbers(1e8, 1e8, 1e8 + 1e-7))
    assert -1 <= metrics["pearson"] <= 1


def test_joint_by_hand() -> None:
    slots = [("B-city", "O"), ("O", "B-day"), ("O",)]
    found = [
        said("go", 0.9, 0.1, slots=("B-city", "O")),  # all right
        said("go", 0.7, 0.3, slots=("O", "O")),  # a slot is missed
        said("go", 0.8, 0.2, slots=("O",)),  # the intent is wrong
    ]
    metrics = joint_metrics(["go", "go", "stay"], slots, found, ("go", "stay"))
    assert metrics["intent_accuracy"] == pytest.approx(2 / 3)
    assert metrics["slot_f1"] == pytest.approx(2 * 1 * 0.5 / 1.5)
    assert metrics["exact_match"] == pytest.approx(1 / 3)
    assert metrics["nll"] == pytest.approx(-np.log([0.9, 0.7, 0.2]).mean())


def test_predictions_that_do_not_match_the_words_are_refused() -> None:
    with pytest.raises(ValueError, match="every word needs one predicted slot"):
        joint_metrics(["go"], [("O", "O")], [said("go", 1.0, slots=("O",))], ("go",))


def several(*labels: str, p: tuple[float, ...]) -> Prediction:
    return Prediction(labels, 1.0, np.array(p, dtype=np.float32))


def test_multi_label_by_hand() -> None:
    gold = [("a", "b"), ("b",), ()]
    found = [several("a", p=(0.9, 0.4)), several("b", p=(0.2, 0.7)), several("a", "b", p=(0.5, 0.6))]
    metrics = multi_label_metrics(gold, found, ("a", "b"))
    # a: right 1, predicted 2, gold 1; b: right 1, predicted 2, gold 2
    assert metrics["micro_f1"] == pytest.approx(2 * 2 / (4 + 3))
    assert metrics["macro_f1"] == pytest.approx((2 / 3 + 2 / 4) / 2)
    assert metrics["exact_match"] == pytest.approx(1 / 3)
    sums = [-np.log([0.9, 0.4]).sum(), -np.log([0.8, 0.7]).sum(), -np.log([0.5, 0.4]).sum()]
    assert metrics["nll"] == pytest.approx(np.mean(sums), abs=1e-6)


def test_a_label_the_model_does_not_have_is_a_miss() -> None:
    metrics = multi_label_metrics([("a", "new")], [several("a", p=(0.9, 0.1))], ("a", "b"))
    assert (metrics["micro_f1"], metrics["macro_f1"], metrics["exact_match"]) == (pytest.approx(2 / 3), 0.5, 0.0)
    assert metrics["nll"] == pytest.approx(-2 * math.log(0.9), abs=1e-6)


def test_no_label_at_all_is_right_and_has_no_f1() -> None:
    metrics = multi_label_metrics([(), ()], [several(p=(0.0, 0.0)), several(p=(1e-9, 0.1))], ("a", "b"))
    assert (metrics["micro_f1"], metrics["macro_f1"], metrics["exact_match"]) == (0.0, 0.0, 1.0)
    assert math.isfinite(multi_label_metrics([("a",)], [several("b", p=(0.0, 1.0))], ("a", "b"))["nll"])


def tagged(tags: tuple[str, ...], p: list[list[float]]) -> Prediction:
    return Prediction(None, None, np.array(p, dtype=np.float32), tags)


def test_tags_by_hand() -> None:
    gold = [("B-x", "I-x", "O"), ("B-x", "new")]
    found = [
        tagged(("B-x", "O", "O"), [[0.8, 0.1, 0.1], [0.2, 0.3, 0.5], [0.1, 0.1, 0.8]]),
        tagged(("B-x", "O"), [[0.6, 0.2, 0.2], [np.nan] * 3]),
    ]
    metrics = tag_metrics(gold, found, ("B-x", "I-x", "O"))
    assert metrics["accuracy"] == pytest.approx(3 / 5)
    assert metrics["nll"] == pytest.approx(-np.log([0.8, 0.3, 0.8, 0.6]).mean(), abs=1e-6)
    assert metrics["span_f1"] == pytest.approx(slot_f1(gold, [prediction.slots for prediction in found]))


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=lambda case: case["name"])
def test_span_f1_is_that_of_the_golden_cases(case: dict) -> None:
    names = ("O",)
    found = [tagged(tuple(tags), [[1.0]] * len(tags)) for tags in case["predicted"]]
    metrics = tag_metrics(case["gold"], found, names)
    assert metrics["span_f1"] == pytest.approx(case["span_f1"])
    assert metrics["accuracy"] == pytest.approx(case["word_accuracy"])


def test_tags_the_model_did_not_see_have_no_likelihood() -> None:
    assert "nll" not in tag_metrics([("O",)], [tagged(("O",), [[np.nan]])], ("O",))
    with pytest.raises(ValueError, match="every word needs one predicted slot"):
        tag_metrics([("O", "O")], [tagged(("O",), [[1.0]])], ("O",))


def test_verdicts_are_about_metrics_that_there_are() -> None:
    found = {
        "classification": classification_metrics(["a"], [said("a", 1.0)], ("a",)),
        "multi-label": multi_label_metrics([("a",)], [several("a", p=(1.0,))], ("a",)),
        "regression": regression_metrics([1.0, 2.0], numbers(1.0, 2.0)),
        "intent-slot": joint_metrics(["a"], [("O",)], [said("a", 1.0, slots=("O",))], ("a",)),
        "token-classification": tag_metrics([("O",)], [tagged(("O",), [[1.0]])], ("O",)),
    }
    declared = {task.name: set(task.facts["metrics"]) for task in methods("task")}
    assert declared == {task: metrics.keys() - {"nll", "mse"} for task, metrics in found.items()}
    assert all(task.load().main_metric == task.facts["metrics"][0] for task in methods("task"))
