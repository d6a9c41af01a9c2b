from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from datadiet.compare.statistics import (
    Interval,
    difference,
    holm,
    mcnemar,
    non_inferiority,
    resampled,
    right,
    row_sums,
    saving,
    seeds_needed,
    t_interval,
    two_level_bootstrap,
)
from datadiet.tasks.base import Prediction
from datadiet.tasks.metrics import (
    classification_metrics,
    joint_metrics,
    multi_label_metrics,
    regression_metrics,
    tag_metrics,
)


def rows_of(flags: list[int] | np.ndarray):
    return resampled(row_sums("accuracy", pd.DataFrame({"gold": 1, "predicted": np.asarray(flags).astype(int)})))


def test_the_interval_is_students():
    # mean 2, deviation 1, t(0.975, 2) = 4.302653: 2 -+ 4.302653 / sqrt(3)
    result = t_interval(np.array([1.0, 2.0, 3.0]))
    assert (result.low, result.high) == pytest.approx(
        (2 - 4.302653 / math.sqrt(3), 2 + 4.302653 / math.sqrt(3)), abs=1e-5
    )
    assert t_interval(np.array([0.5, 0.5])) == Interval(0.5, 0.5)


def test_not_worse_is_a_one_sided_t_test_against_the_margin():
    # mean 0 and deviation 1 over 4 seeds against a margin of 2.5: t = 2.5 / (1 / 2) = 5, and 3 degrees of freedom
    values = np.array([-1.0, 1.0, -1.0, 1.0]) * math.sqrt(3) / 2
    not_worse, equal = non_inferiority(values, 2.5)
    assert not_worse == pytest.approx(0.00770, abs=1e-4)  # the upper tail of t(3) beyond 5
    assert equal == pytest.approx(not_worse)
    shifted, _ = non_inferiority(values - 2.5, 2.5)
    assert shifted == pytest.approx(0.5)


@pytest.mark.parametrize(("mean", "p"), [(0.0, 0.0), (-0.5, 1.0), (-0.4, 0.0), (3.0, 0.0)])
def test_differences_without_any_spread(mean, p):
    assert non_inferiority(np.array([mean, mean]), 0.5)[0] == p


def test_a_method_can_be_not_worse_without_being_equal():
    result = difference({0: 97.0, 1: 97.2, 2: 97.1}, {0: 95.0, 1: 95.1, 2: 95.2}, margin=0.5)
    assert result.not_worse
    assert result.p_equal > 0.99
    assert result.shown


def test_differences_are_paired_by_the_seeds_that_both_have():
    result = difference({0: 90.0, 1: 91.0, 5: 10.0}, {1: 90.0, 0: 90.0, 9: 0.0}, margin=1.0)
    assert result.seeds == (0, 1)
    assert result.mean == 0.5
    assert result.deviation == pytest.approx(math.sqrt(0.5))
    assert not result.shown
    assert difference({0: 1.0}, {1: 1.0}, margin=1.0) is None


def test_one_seed_gives_no_interval_over_seeds():
    result = difference({3: 90.0}, {3: 91.0}, margin=0.5)
    assert result.mean == -1.0
    assert (result.deviation, result.interval, result.p_not_worse, result.seeds_needed) == (None, None, None, None)
    assert not result.not_worse
    assert not result.shown


@pytest.mark.parametrize(
    ("mean", "deviation", "needed"),
    [(0.0, 0.3, 4), (0.5, 0.3, 3), (0.0, 0.0, 2), (-0.5, 0.1, None), (-0.49, 0.5, None)],
)
def test_seeds_needed(mean, deviation, needed):
    assert seeds_needed(mean, deviation, 0.5) == needed


def test_the_seeds_needed_are_enough_in_a_simulation():
    needed = seeds_needed(-0.1, 0.4, 0.5)
    rng = np.random.default_rng(0)
    shown = [non_inferiority(rng.normal(-0.1, 0.4, needed), 0.5)[0] < 0.05 for _ in range(400)]
    fewer = [non_inferiority(rng.normal(-0.1, 0.4, needed - 2), 0.5)[0] < 0.05 for _ in range(400)]
    assert 0.74 < np.mean(shown) < 0.92
    assert np.mean(fewer) < np.mean(shown)


def test_the_bootstrap_knows_both_samples():
    """With one seed only the rows vary, as in the binomial; with rows that all agree only the seeds do."""
    rng = np.random.default_rng(0)
    one = two_level_bootstrap([(rows_of(rng.random(1000) < 0.8), rows_of(np.ones(1000, int)))])
    half = 1.96 * 100 * math.sqrt(0.8 * 0.2 / 1000)
    assert one.high - one.low == pytest.approx(2 * half, rel=0.15)
    rows = [(rows_of(np.arange(100) < right), rows_of(np.arange(100) < 80)) for right in (80, 81, 82)]
    more = two_level_bootstrap(rows)
    assert more.low < 1 < more.high
    assert two_level_bootstrap(rows) == more  # no draw without a seed


def test_rows_that_both_get_right_do_not_widen_the_bootstrap():
    """The rows are paired: a hard row is hard for both."""
    right = np.random.default_rng(0).random(1000) < 0.5
    assert two_level_bootstrap([(rows_of(right), rows_of(right))]) == Interval(0.0, 0.0)


def test_the_bootstrap_covers_as_often_as_it_says():
    rng = np.random.default_rng(1)
    inside = 0
    for _ in range(60):
        pairs = [(rows_of(rng.random(400) < 0.8), rows_of(rng.random(400) < 0.8)) for _ in range(5)]
        inside += 0 in two_level_bootstrap(pairs)
    assert inside >= 50


def test_mcnemar_counts_the_rows_that_tell_two_models_apart():
    both = np.ones(100, bool)
    few = both.copy()
    few[:6] = False  # 6 discordant rows, all one way: 2 * 0.5^6
    assert mcnemar(few, both) == pytest.approx(2 * 0.5**6)
    many = both.copy()
    many[:40] = False  # (40 - 1)^2 / 40 = 38.0 with the continuity correction
    assert mcnemar(many, both) == pytest.approx(7e-10, rel=0.1)


def test_holm_keeps_the_order_and_is_never_below():
    assert holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert holm([]) == []


def test_saving_is_the_median_over_the_shared_seeds():
    result = saving({0: 50.0, 1: 60.0, 2: 70.0}, {0: 100.0, 1: 100.0, 2: 100.0, 3: 1.0})
    assert result.median == pytest.approx(0.4)
    assert (result.interval.low, result.interval.high) == pytest.approx((0.3, 0.5))
    assert saving({0: 50.0}, {0: 100.0}).interval is None
    assert saving({0: 50.0}, {1: 100.0}) is None


# ---- metrics as sums over test rows


TAGS = ("O", "B-city", "I-city", "B-day", "I-day", "odd")
RNG = np.random.default_rng(0)


def labels(rows: int = 60, names: str = "abc") -> pd.DataFrame:
    gold = RNG.choice(list(names), rows)
    predicted = np.where(RNG.random(rows) < 0.6, gold, RNG.choice(list(names), rows))
    return pd.DataFrame({"gold": gold, "predicted": predicted})


def numbers(rows: int = 60) -> pd.DataFrame:
    gold = RNG.integers(0, 6, rows).astype(float)
    return pd.DataFrame({"gold": gold, "predicted": gold + RNG.normal(0, 2, rows)})


def several(rows: int = 60) -> pd.DataFrame:
    def some() -> list[str]:
        return [name for name in "abc" if RNG.random() < 0.4]

    gold = [some() for _ in range(rows)]
    return pd.DataFrame({"gold": gold, "predicted": [names if RNG.random() < 0.5 else some() for names in gold]})


def joint(rows: int = 60) -> pd.DataFrame:
    def tags(length: int) -> list[str]:
        return [str(tag) for tag in RNG.choice(TAGS, length)]

    gold = [tags(length) for length in RNG.integers(1, 6, rows)]
    predicted = [list(row) if RNG.random() < 0.6 else tags(len(row)) for row in gold]
    return labels(rows).assign(gold_slots=gold, predicted_slots=predicted)


def tagged(rows: int = 60) -> pd.DataFrame:
    return joint(rows).assign(gold=None, predicted=None)


def binary() -> pd.DataFrame:
    return labels(names="ab")


def expected(metric: str, made: Any, rows: pd.DataFrame) -> float:
    """The figure as `result.json` has it."""
    tags = [tuple(row) for row in rows["predicted_slots"]] if "predicted_slots" in rows else [None] * len(rows)
    given = zip(rows["predicted"], tags, strict=True)
    predictions = [Prediction(label, None, np.full((1, 3), 1 / 3), slots) for label, slots in given]
    gold = list(rows["gold"])
    if made is several:
        predictions = [Prediction(tuple(names), 1.0, np.full(3, 0.5, np.float32)) for names in rows["predicted"]]
        return 100 * multi_label_metrics(gold, predictions, "abc")[metric]
    if made is tagged:
        predictions = [Prediction(None, None, np.ones((len(slots), 1), np.float32), slots) for slots in tags]
        return 100 * tag_metrics(list(rows["gold_slots"]), predictions, ("none",))[metric]
    if made is numbers:
        return 100 * regression_metrics(gold, predictions)[metric]
    predictions = [replace(one, probabilities=np.ones(3, np.float32) / 3) for one in predictions]
    if made is joint:
        return 100 * joint_metrics(gold, list(rows["gold_slots"]), predictions, "abc")[metric]
    return 100 * classification_metrics(gold, predictions, "abc")[metric]


CASES = [
    ("accuracy", labels), ("matthews", labels), ("matthews", binary), ("pearson", numbers), ("spearman", numbers),
    ("intent_accuracy", joint), ("slot_f1", joint), ("exact_match", joint), ("micro_f1", several),
    ("exact_match", several), ("span_f1", tagged), ("accuracy", tagged),
]  # fmt: skip


@pytest.mark.parametrize(("metric", "made"), CASES)
def test_the_sums_give_the_metric_of_the_result_and_a_weight_is_a_repetition(metric, made):
    predictions = made()
    sums = row_sums(metric, predictions)
    assert sums.figure() == pytest.approx(expected(metric, made, predictions))
    if metric == "spearman":
        return  # its ranks are those of the whole split
    weights = RNG.multinomial(len(predictions), np.full(len(predictions), 1 / len(predictions)), size=3)
    for figure, drawn in zip(sums.figure(weights), weights, strict=True):
        again = predictions.iloc[np.repeat(np.arange(len(predictions)), drawn)]
        assert figure == pytest.approx(expected(metric, made, again))


@pytest.mark.parametrize(
    ("metric", "rows"),
    [
        ("slot_f1", {"gold": ["a"], "predicted": ["b"], "gold_slots": [["O"]], "predicted_slots": [["O"]]}),
        ("matthews", {"gold": ["a", "a"], "predicted": ["a", "b"]}),
        ("pearson", {"gold": [1.0, 1.0], "predicted": [1.0, 2.0]}),
    ],
)
def test_figures_without_anything_to_count_are_0(metric, rows):
    assert row_sums(metric, pd.DataFrame(rows)).figure() == 0


@pytest.mark.parametrize("metric", ["macro_f1", "nll", "mse"])
def test_other_metrics_have_no_sums(metric):
    assert row_sums(metric, labels()) is None
    assert right(labels(), metric) is None


def test_a_row_is_right_with_all_that_its_metric_is_about():
    slots = {"gold_slots": [["O"], ["O"], ["B-a"]], "predicted_slots": [["O"], ["O"], ["O"]]}
    predictions = pd.DataFrame({"gold": ["x", "y", "x"], "predicted": ["x", "x", "x"], **slots})
    assert right(predictions, "intent_accuracy").tolist() == [True, False, True]
    assert right(predictions, "exact_match").tolist() == [True, False, False]
    rows = several()
    flags = right(rows, "exact_match").tolist()
    assert flags == [set(gold) == set(predicted) for gold, predicted in rows[["gold", "predicted"]].to_numpy()]
    turned = rows.assign(predicted=[names[::-1] for names in rows["predicted"]])
    assert right(turned, "exact_match").tolist() == flags  # a set has no order
    assert right(rows, "micro_f1") is None
    assert [right(tagged(), metric) for metric in ("span_f1", "accuracy")] == [None, None]  # of words, not of rows
