"""Metrics by hand; slots by spans."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

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


def predicted(label, *p, slots: tuple[str, ...] | None = None) -> Prediction:
    """A label with the probabilities of the classes, or of the tags of each word."""
    return Prediction(label, None if label is None else 1.0, np.array(p, dtype=np.float32), slots)


def numbers(*values: float) -> list[Prediction]:
    return [Prediction(value, None, None) for value in values]


@pytest.mark.parametrize("case", GOLDEN["cases"], ids=lambda case: case["name"])
def test_slot_f1_counts_spans(case: dict) -> None:
    assert slot_f1(case["gold"], case["predicted"]) == pytest.approx(case["span_f1"])
    predictions = [predicted(None, *[[1.0]] * len(tags), slots=tuple(tags)) for tags in case["predicted"]]
    metrics = tag_metrics(case["gold"], predictions, ("O",))
    assert metrics["span_f1"] == pytest.approx(case["span_f1"])
    assert metrics["accuracy"] == pytest.approx(case["word_accuracy"])
    assert case["span_f1"] != pytest.approx(case["word_accuracy"], abs=0.01)


@pytest.mark.parametrize(
    ("gold", "tags", "f1"),
    [
        (["O", "O"], ["O", "O"], 0.0),  # no span at all, and no warning
        # tags without a prefix are spans of equal neighbours
        (["city", "city", "O"], ["city", "city", "O"], 1.0),
        (["city", "city", "O"], ["city", "O", "O"], 0.0),
    ],
)
def test_slot_f1_of_other_tags(gold: list[str], tags: list[str], f1: float) -> None:
    assert slot_f1([gold], [tags]) == f1


def test_classification_by_hand() -> None:
    predictions = [
        predicted("a", 0.8, 0.2),
        predicted("b", 0.4, 0.6),
        predicted("b", 0.3, 0.7),
        predicted("b", 0.1, 0.9),
    ]
    # class a: precision 1, recall 1/2; class b: precision 2/3, recall 1
    assert classification_metrics(["a", "a", "b", "b"], predictions, ("a", "b")) == pytest.approx(
        {
            "accuracy": 0.75,
            "macro_f1": (2 / 3 + 4 / 5) / 2,
            "matthews": (1 * 2 - 0 * 1) / math.sqrt(1 * 3 * 2 * 2),
            "nll": -np.log([0.8, 0.4, 0.7, 0.9]).mean(),
        }
    )


def test_a_gold_class_the_model_does_not_have_is_an_error() -> None:
    metrics = classification_metrics(["a", "new"], [predicted("a", 0.9, 0.1), predicted("a", 0.6, 0.4)], ("a", "b"))
    assert metrics["accuracy"] == 0.5
    assert metrics["macro_f1"] == pytest.approx((2 / 3 + 0) / 2)
    assert metrics["nll"] == pytest.approx(-math.log(0.9))
    assert "nll" not in classification_metrics(["new"], [predicted("a", 0.9, 0.1)], ("a", "b"))


@pytest.mark.parametrize("gold", [["a", "a"], ["a", "b"]])
def test_one_predicted_class_has_no_correlation_and_no_warning(gold: list[str]) -> None:
    assert classification_metrics(gold, [predicted("a", 0.9, 0.1)] * 2, ("a", "b"))["matthews"] == 0.0


def test_nll_stays_finite_when_a_probability_underflows() -> None:
    nll = classification_metrics(["b"], [predicted("a", 1.0, 0.0)], ("a", "b"))["nll"]
    assert nll == pytest.approx(87.3365, abs=1e-3)
    assert math.isfinite(multi_label_metrics([("a",)], [predicted(("b",), 0.0, 1.0)], ("a", "b"))["nll"])


def test_regression_by_hand() -> None:
    metrics = regression_metrics([1.0, 2.0, 3.0], numbers(1.0, 3.0, 2.0))
    assert metrics == pytest.approx({"pearson": 0.5, "spearman": 0.5, "mse": 2 / 3})
    nearly_constant = regression_metrics([1.0, 2.0, 3.0], numbers(1e8, 1e8, 1e8 + 1e-7))  # and no warning
    assert -1 <= nearly_constant["pearson"] <= 1


@pytest.mark.parametrize(
    ("gold", "values"), [((1.0, 2.0), (3.0, 3.0)), ((2.0, 2.0), (1.0, 3.0)), ((1.0,), (1.0,))], ids=str
)
def test_correlation_with_a_constant_is_zero(gold: tuple[float, ...], values: tuple[float, ...]) -> None:
    metrics = regression_metrics(gold, numbers(*values))
    assert (metrics["pearson"], metrics["spearman"]) == (0.0, 0.0)


def test_joint_by_hand() -> None:
    slots = [("B-city", "O"), ("O", "B-day"), ("O",)]
    predictions = [
        predicted("go", 0.9, 0.1, slots=("B-city", "O")),  # all right
        predicted("go", 0.7, 0.3, slots=("O", "O")),  # a slot is missed
        predicted("go", 0.8, 0.2, slots=("O",)),  # the intent is wrong
    ]
    nll = -np.log([0.9, 0.7, 0.2]).mean()
    assert joint_metrics(["go", "go", "stay"], slots, predictions, ("go", "stay")) == pytest.approx(
        {"intent_accuracy": 2 / 3, "slot_f1": 2 * 1 * 0.5 / 1.5, "exact_match": 1 / 3, "nll": nll}
    )


def test_multi_label_by_hand() -> None:
    predictions = [predicted(("a",), 0.9, 0.4), predicted(("b",), 0.2, 0.7), predicted(("a", "b"), 0.5, 0.6)]
    metrics = multi_label_metrics([("a", "b"), ("b",), ()], predictions, ("a", "b"))
    # a: right 1, predicted 2, gold 1; b: right 1, predicted 2, gold 2
    assert metrics["micro_f1"] == pytest.approx(2 * 2 / (4 + 3))
    assert metrics["macro_f1"] == pytest.approx((2 / 3 + 2 / 4) / 2)
    assert metrics["exact_match"] == pytest.approx(1 / 3)
    sums = [-np.log([0.9, 0.4]).sum(), -np.log([0.8, 0.7]).sum(), -np.log([0.5, 0.4]).sum()]
    assert metrics["nll"] == pytest.approx(np.mean(sums), abs=1e-6)


def test_labels_that_are_missing_on_one_side() -> None:
    new = multi_label_metrics([("a", "new")], [predicted(("a",), 0.9, 0.1)], ("a", "b"))
    f1s = (pytest.approx(2 / 3), 0.5, 0.0)
    assert (new["micro_f1"], new["macro_f1"], new["exact_match"]) == f1s
    assert new["nll"] == pytest.approx(-2 * math.log(0.9), abs=1e-6)
    none = multi_label_metrics([(), ()], [predicted((), 0.0, 0.0), predicted((), 1e-9, 0.1)], ("a", "b"))
    assert (none["micro_f1"], none["macro_f1"], none["exact_match"]) == (0.0, 0.0, 1.0)


def test_tags_by_hand() -> None:
    gold = [("B-x", "I-x", "O"), ("B-x", "new")]
    predictions = [
        predicted(None, [0.8, 0.1, 0.1], [0.2, 0.3, 0.5], [0.1, 0.1, 0.8], slots=("B-x", "O", "O")),
        predicted(None, [0.6, 0.2, 0.2], [np.nan] * 3, slots=("B-x", "O")),
    ]
    metrics = tag_metrics(gold, predictions, ("B-x", "I-x", "O"))
    assert metrics["accuracy"] == pytest.approx(3 / 5)
    assert metrics["nll"] == pytest.approx(-np.log([0.8, 0.3, 0.8, 0.6]).mean(), abs=1e-6)
    assert metrics["span_f1"] == pytest.approx(slot_f1(gold, [prediction.slots for prediction in predictions]))
    assert "nll" not in tag_metrics([("O",)], [predicted(None, [np.nan], slots=("O",))], ("O",))


def test_predictions_that_do_not_match_the_words_are_refused() -> None:
    with pytest.raises(ValueError, match="every word needs one predicted slot"):
        joint_metrics(["go"], [("O", "O")], [predicted("go", 1.0, slots=("O",))], ("go",))
    with pytest.raises(ValueError, match="every word needs one predicted slot"):
        tag_metrics([("O", "O")], [predicted(None, [1.0], slots=("O",))], ("O",))
