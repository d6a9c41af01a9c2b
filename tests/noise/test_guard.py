"""The guard against noise: what it recovers, whom it sets aside, who comes back, and what a diet does with it."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import ndtr

from datadiet.diet.diet import Diet
from datadiet.errors import ArgumentError
from datadiet.noise.guard import LEAST_RATE, LEAST_ROWS, MOST_OF_CLASS, NoiseGuard, Watch, set_aside
from datadiet.noise.lapse_rate import (
    STILL_SEEN,
    Curve,
    Evidence,
    evidence,
    fit_curve,
    fit_level,
    known_evidence,
    normal_scores,
)
from datadiet.scores.reduce import free_signals
from datadiet.types import HeadSignals, Scores, Signals
from toys import planted

ROWS = 2000
ALL = np.ones(ROWS, bool)
CLASSES = 5


def reviewed(data, epochs=1):
    guard, aside = NoiseGuard(), ~ALL
    for epoch in range(epochs):
        guard, aside = guard.review(data.epoch(epoch), ~aside, data.labels, epoch=epoch + 1)
    return guard, aside


# ---- the curve


@pytest.mark.parametrize(("rate", "classes"), [(0.0, 2), (0.1, 2), (0.2, 10), (0.3, 3)])
def test_a_planted_level_is_found_within_its_interval(rate, classes):
    rng = np.random.default_rng(0)
    scores = normal_scores(rng.uniform(size=20_000))
    errors = ndtr(-(1.0 + 1.2 * scores))
    wrong = rng.uniform(size=20_000) < rate + (1 - rate * classes / (classes - 1)) * errors
    found = evidence(scores, wrong)
    level = fit_level([found], classes)
    assert level.low <= rate <= level.high
    assert level.high - level.low < 0.06
    assert level.rate == pytest.approx(rate, abs=0.02)
    curve = fit_curve(found, classes, rate=level.rate)
    assert (curve.offset, curve.slope) == (pytest.approx(1.0, abs=0.3), pytest.approx(1.2, abs=0.3))


def made_up_evidence(level, rows=10_000, **options):
    rng = np.random.default_rng(round(1000 * level))
    scores = normal_scores(rng.uniform(size=rows))
    errors = ndtr(-(1.0 + 1.2 * scores))
    return evidence(scores, rng.uniform(size=rows) < level + (1 - 2 * level) * errors, **options)


def test_parts_that_agree_make_the_interval_smaller():
    one, both = (fit_level([made_up_evidence(0.1)] * times, 2) for times in (1, 2))
    assert one.rate == both.rate
    assert both.high - both.low < one.high - one.low


def test_of_rows_seen_again_some_wrong_labels_may_have_been_learned_by_heart():
    """At their second sight less contradicts: that says no more than how little it can be."""
    first, again = made_up_evidence(0.2), made_up_evidence(0.2 * STILL_SEEN, again=True)
    assert fit_level([first, again], 2).rate == pytest.approx(0.2, abs=0.02)
    assert fit_level([again], 2).high > 0.18
    as_if_first = Evidence(again.scores, again.contradicted, again.rows)
    assert fit_level([first, as_if_first], 2).rate < 0.18


@pytest.mark.proves("auto")
def test_suspicion_is_the_posterior_by_hand():
    curve = Curve(0.1, offset=1.0, slope=1.0)
    error = ndtr(-1.0)  # at score 0, of three classes
    clean_wrong, flipped_wrong = 0.9 * error, 0.1 * (1 - error / 2)
    found = curve.suspicion(np.zeros(2), np.array([True, False]), 3)
    assert found[0] == pytest.approx(flipped_wrong / (clean_wrong + flipped_wrong), rel=1e-9)
    assert found[1] == pytest.approx(0.1 * error / 2 / (0.9 * (1 - error) + 0.1 * error / 2), rel=1e-9)


@given(st.floats(0, 0.4), st.floats(-1, 4), st.floats(0.5, 4), st.integers(2, 20))
@settings(max_examples=50, deadline=None)
def test_of_contradictions_the_sure_ones_are_suspected_most(rate, offset, slope, classes):
    curve = Curve(min(rate, (classes - 1) / classes), offset, slope)
    found = curve.suspicion(np.linspace(-3, 3, 31), np.ones(31, bool), classes)
    assert ((found >= 0) & (found <= 1)).all()
    assert (np.diff(found) >= -1e-9).all()


def test_only_the_order_of_the_confidences_matters():
    data = planted(0.1)
    columns = data.epoch(0)
    confidence = np.exp(np.maximum(columns["margin"], 0) - columns["loss"]).astype(float)
    assert np.array_equal(normal_scores(confidence), normal_scores(confidence**3))


# ---- the estimate


@pytest.mark.proves("auto", by="planted")
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("rate", [0.0, 0.05, 0.1, 0.2])
def test_planted_rates_are_recovered_within_three_points(rate, seed):
    guard, aside = reviewed(planted(rate, seed=seed))
    assert guard.rate == pytest.approx(rate, abs=0.03)
    if rate == 0:
        assert not aside.any()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("rate", [0.0, 0.2])
def test_labels_learned_by_heart_after_an_epoch_still_count(rate, seed):
    """With what the second epoch says of all rows averaged in, the estimate was at most 17 %."""
    data = planted(rate, rows=3000, classes=3, apart=2.5, by_heart=5, epochs=2, seed=seed)
    margin, loss = (data.columns[name][1].astype(float) for name in ("margin", "loss"))
    second = evidence(normal_scores(np.exp(np.maximum(margin, 0) - loss)), margin > 0)
    assert fit_level([second], 3).rate <= 0.8 * rate
    guard = NoiseGuard()
    for epoch in range(2):
        guard, aside = guard.review(data.epoch(epoch), np.ones(3000, bool), data.labels, epoch=epoch + 1)
    assert guard.rate == pytest.approx(rate, abs=0.03)
    assert data.flipped[aside].mean() > 0.8 if rate else not aside.any()


@pytest.mark.proves("auto", by="planted")
@pytest.mark.parametrize("rate", [0.05, 0.1, 0.2])
def test_those_set_aside_are_the_flipped_ones(rate):
    data = planted(rate)
    _, aside = reviewed(data)
    assert data.flipped[aside].mean() > 0.8
    assert aside[data.flipped].mean() > 0.8


def test_hard_examples_are_not_taken_for_noise():
    """15 % of them contradict the model, all rightly labelled: classes that overlap."""
    data = planted(0.0, apart=2.5)
    assert (data.columns["margin"][1] > 0).mean() > 0.1
    guard, aside = reviewed(data, epochs=2)
    assert guard.rate < LEAST_RATE
    assert not aside.any()


def test_a_rate_that_cannot_be_told_from_none_sets_nothing_aside():
    data = planted(0.01)
    guard, aside = reviewed(data)
    assert 0 < guard.rate < LEAST_RATE
    assert not aside.any()


def test_the_interval_covers_what_was_planted_and_shrinks_with_rows():
    small, large = (reviewed_rows(rows).reviews[0] for rows in (600, 6000))
    assert large.low <= 0.1 <= large.high
    assert large.high - large.low < small.high - small.low


def reviewed_rows(rows):
    data = planted(0.1, rows=rows)
    return NoiseGuard().review(data.epoch(1), np.ones(rows, bool), data.labels, epoch=1)[0]


# ---- the reviews


def late_in(data):
    return data.columns["moment"][0] > np.median(data.columns["moment"][0])


def test_rows_at_rest_that_agree_in_a_pass_come_back():
    data = planted(0.1)
    guard, aside = reviewed(data)
    rest = np.flatnonzero(aside)
    columns = {**data.epoch(1), "moment": np.full(ROWS, np.nan, np.float32)}  # a pass has no moment
    columns["margin"] = columns["margin"].copy()
    columns["margin"][rest[:7]], columns["margin"][rest[7:]] = -2.0, 2.0
    later, still = guard.review(columns, ALL, data.labels, epoch=2)
    assert not still[rest[:7]].any()
    assert still[rest[7:]].all()
    assert later.reviews[-1].returned == 7


def test_each_row_counts_once_at_its_first_sight_by_a_model_that_was_ready():
    data = planted(0.1)
    guard, _ = reviewed(data)
    late = late_in(data)
    assert np.array_equal(guard.arrays["heard"], late)
    guard, _ = guard.review(data.epoch(1), ALL, data.labels, epoch=2)
    assert guard.arrays["heard"].all()
    parts = known_evidence(guard.arrays)
    assert [part.again for part in parts] == [False, True]
    assert sum(part.rows.sum() for part in parts) == ROWS
    third, _ = guard.review(data.epoch(2), ALL, data.labels, epoch=3)
    assert [review.evidence for review in third.reviews] == [late.sum(), ROWS, ROWS]
    assert third.rate == guard.rate


@pytest.mark.parametrize("hardest", [0.3, 0.9])
def test_rows_chosen_by_their_values_are_no_sample(hardest):
    """Among the hardest there are more wrong labels: they say nothing of the level."""
    data = planted(0.1)
    guard, _ = reviewed(data)
    chosen = data.columns["loss"][0] > np.quantile(data.columns["loss"][0], 1 - hardest)
    later, aside = guard.review(data.epoch(1), chosen, data.labels, epoch=2)
    assert later.rate == guard.rate
    assert later.reviews[-1].evidence == late_in(data).sum()
    assert later.reviews[-1].share > later.rate
    assert data.flipped[aside].mean() > 0.8


def test_a_pass_over_part_of_the_rows_seen_again_is_no_evidence():
    data = planted(0.1)
    guard, _ = reviewed(data)
    columns = {**data.epoch(1), "moment": np.where(np.arange(ROWS) % 2, data.epoch(1)["moment"], np.float32(np.nan))}
    later, _ = guard.review(columns, ALL & ~guard.arrays["aside"], data.labels, epoch=2)
    assert later.reviews[-1].evidence == late_in(data).sum()


def test_nothing_rests_where_the_interval_comes_near_to_nothing():
    """Few rows: the estimate is above the least, the doubt larger."""
    data = planted(0.03, rows=420, apart=3.0)
    guard, aside = NoiseGuard().review(data.epoch(1), np.ones(420, bool), data.labels, epoch=1)
    assert guard.rate >= LEAST_RATE
    assert guard.reviews[-1].low <= LEAST_RATE / 2
    assert not aside.any()


def test_a_pass_does_not_replace_what_training_saw():
    watch = Watch(np.zeros(4, np.int64))
    columns = ("label_loss", "label_margin", "moment")
    for source, rows, value in (("train", [0, 1], 1.0), ("pass", [1, 2], 5.0), ("train", [0], 2.0)):
        values = {name: np.full(len(rows), value, np.float32) for name in columns}
        watch.take(Scores(np.array(rows), values, source, 0, 0))
    arrays, _ = watch.state()
    assert arrays["loss"][:3].tolist() == [2.0, 1.0, 5.0]


def test_rows_seen_late_join_at_a_later_review():
    data = planted(0.1)
    half = np.arange(ROWS) < ROWS // 2
    guard, aside = NoiseGuard().review(data.epoch(0), half, data.labels, epoch=1)
    assert not aside[~half].any()
    guard, aside = guard.review(data.epoch(1), ~half, data.labels, epoch=2)
    assert data.flipped[aside & ~half].mean() > 0.8
    assert guard.reviews[-1].joined > 50
    assert guard.rate == pytest.approx(0.1, abs=0.03)


def test_too_few_rows_change_nothing_and_say_so():
    data = planted(0.1)
    guard, aside = reviewed(data)
    few = np.arange(ROWS) < LEAST_ROWS - 1
    later, same = guard.review(data.epoch(1), few & ~aside, data.labels, epoch=2)
    assert np.array_equal(same, aside)
    assert later.rate == guard.rate
    assert later.reviews[-1].note.endswith("rows were seen, 200 are needed")


def test_of_a_class_at_most_half_rests_and_the_most_suspected():
    suspicion = np.linspace(0.99, 0.6, 10).astype(np.float32)
    aside = set_aside(suspicion, np.array([0] * 6 + [1] * 4))
    assert MOST_OF_CLASS == 0.5
    assert np.flatnonzero(aside).tolist() == [0, 1, 2, 6, 7]


def test_the_same_dynamics_give_the_same_guard_and_inputs_stay_as_they_were():
    data = planted(0.1)
    before = {name: values.copy() for name, values in data.epoch(0).items()}
    (one, aside), (two, again) = reviewed(data), reviewed(data)
    assert one.reviews == two.reviews
    assert np.array_equal(aside, again)
    assert all(np.array_equal(values, data.epoch(0)[name]) for name, values in before.items())


def test_state_survives_json():
    guard, aside = reviewed(planted(0.1), epochs=2)
    arrays, numbers = guard.state()
    back = NoiseGuard().restored(arrays, json.loads(json.dumps(numbers)))
    assert back.reviews == guard.reviews
    assert np.array_equal(back.arrays["aside"], aside)


def test_missing_columns_are_named():
    with pytest.raises(ArgumentError, match=r"needs the columns loss, margin; missing: margin\."):
        NoiseGuard().review({"loss": np.zeros(3, np.float32)}, np.ones(3, bool), np.zeros(3, np.int64), epoch=1)


def test_the_summary_tells_rate_interval_and_whom():
    data = planted(0.1)
    guard, aside = reviewed(data)
    names = [f"class {label}" for label in data.labels]
    summary = guard.summary(names)
    assert summary["aside"] == aside.sum() == sum(summary["aside_by_label"].values())
    assert set(summary["aside_by_label"]) == set(names)
    review = summary["reviews"][0]
    assert review["low"] <= review["rate"] <= review["high"]
    assert review["evidence"] == late_in(data).sum()
    suspects = guard.suspects()
    assert (np.diff(suspects["suspicion"]) <= 0).all()
    assert set(suspects["row"]) == set(np.flatnonzero(aside))
    assert len(guard.reasons()) == len(suspects["row"])
    assert guard.reasons()[0].startswith("its label contradicts what the model is sure of (probability ")


def test_before_any_review_there_is_nothing_to_tell():
    assert NoiseGuard().summary() == {"rate": 0.0, "aside": 0, "reviews": []}
    assert NoiseGuard().reasons() == []


# ---- in a diet


def signals_of(data, epoch, rows):
    """Two logits that have a row's margin, in the columns of its label and of another."""
    margin = torch.from_numpy(data.columns["margin"][epoch][rows])
    logits = torch.stack([-margin / 2, margin / 2], dim=1)
    return Signals({"label": HeadSignals(logits, torch.zeros(len(rows), dtype=torch.long))})


def run(diet, data, epochs=3):
    plans = []
    for epoch in range(epochs):
        diet.absorb(diet.drain())
        rows = diet.rows_to_score(epoch)
        if len(rows):
            values = diet.values_of(signals_of(data, epoch, rows))
            diet.absorb(diet.scores(rows, {name: value.numpy() for name, value in values.items()}, "pass", epoch))
        plans.append(diet.plan(epoch))
        for part in np.array_split(np.random.default_rng(epoch).permutation(plans[-1].rows), 20):
            diet.observe(torch.from_numpy(part), signals_of(data, epoch, part), epoch=epoch)
    return plans


def begun(data, **options):
    diet = Diet(keep=0.3, refresh_every=1, **options)
    diet.begin(ROWS, epochs=3, groups=data.labels)
    return diet


@pytest.mark.proves("auto", by="planted")
def test_the_diet_without_a_guard_keeps_the_flipped_and_with_it_does_not():
    data = planted(0.1, classes=2)
    plain, guarded = (run(begun(data, offset=offset), data)[1].rows for offset in (0.0, "auto"))
    assert len(plain) == len(guarded) == 600
    assert data.flipped[plain].sum() > 180
    assert data.flipped[guarded].sum() < 60


@pytest.mark.proves("auto", by="planted")
def test_on_clean_data_the_guard_changes_nothing():
    data = planted(0.0, classes=2)
    for plain, guarded in zip(run(begun(data), data), run(begun(data, offset="auto"), data), strict=True):
        assert np.array_equal(plain.rows, guarded.rows)


def test_rows_at_rest_get_a_pass_and_no_others():
    data = planted(0.1, classes=2)
    diet = begun(data, offset="auto")
    run(diet, data, epochs=2)
    assert np.array_equal(diet.rows_to_score(2), np.flatnonzero(diet.watch.aside))
    assert len(diet.rows_to_score(2)) > 100


def test_rows_at_rest_that_trained_all_the_same_need_no_pass():
    data = planted(0.1, classes=2)
    diet = begun(data, offset="auto", warmup_epochs=2)
    run(diet, data, epochs=2)  # reviewed after the first epoch; the second trains on everything
    assert diet.watch.aside.any()
    diet.absorb(diet.drain())
    assert not len(diet.rows_to_score(2))
    diet.plan(2)
    assert diet.watch.guard.reviews[-1].judged == ROWS


def test_where_too_few_are_left_the_least_suspected_train():
    data = planted(0.2, classes=2)
    diet = Diet(keep=0.95, refresh_every=1, offset="auto")
    diet.begin(ROWS, epochs=3, groups=data.labels)
    plan = run(diet, data, epochs=2)[1]
    assert len(plan.rows) == 1900
    suspects = diet.watch.guard.suspects()["row"]
    assert len(suspects) > 100
    assert set(suspects) - set(plan.rows) == set(suspects[:100])


def test_a_resumed_guard_goes_on_as_the_uninterrupted_one():
    data = planted(0.1, classes=2)
    whole = run(begun(data, offset="auto"), data)
    half = begun(data, offset="auto")
    run(half, data, epochs=2)
    arrays, numbers = half.state_dict()
    rest = Diet(keep=0.3, refresh_every=1, offset="auto")
    rest.begin(ROWS, epochs=3, groups=data.labels, state=(arrays, json.loads(json.dumps(numbers))))
    rest.absorb(rest.drain())
    rows = rest.rows_to_score(2)
    values = rest.values_of(signals_of(data, 2, rows))
    rest.absorb(rest.scores(rows, {name: value.numpy() for name, value in values.items()}, "pass", 2))
    assert np.array_equal(rest.plan(2).rows, whole[2].rows)


def test_the_guard_needs_classes():
    with pytest.raises(ArgumentError, match="offset='auto' needs the class of each example"):
        Diet(offset="auto").begin(ROWS, epochs=3)
    with pytest.raises(ArgumentError, match="offset must be a share or 'auto', got 'most'"):
        Diet(offset="most")


def test_it_goes_by_the_label_whatever_is_tagged_beside_it():
    intent = HeadSignals(torch.tensor([[2.0, 0.0], [0.0, 3.0]]), torch.tensor([1, 1]))
    slots = HeadSignals(torch.zeros(2, 4, 3), torch.zeros(2, 4, dtype=torch.long))
    alone = free_signals(Signals({"intent": intent}))
    joint = free_signals(Signals({"slots": slots, "intent": intent}), of_label=True)
    assert torch.equal(joint["label_loss"], alone["loss"])
    assert torch.equal(joint["label_margin"], alone["margin"])
    assert free_signals(Signals({"slots": slots}), of_label=True)["label_loss"].isnan().all()
