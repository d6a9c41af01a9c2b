"""The noise guard: recovered rates, when it may speak, excluded and re-admitted rows."""

from __future__ import annotations

import json
import tracemalloc

import numpy as np
import pytest

from datadiet.errors import ArgumentError
from datadiet.noise.guard import (
    LEAST_RATE,
    LEAST_ROWS,
    MOST_ASKED,
    MOST_OF_CLASS,
    MOST_UNASKED,
    NoiseGuard,
    excluded,
    skill,
    unready,
)
from datadiet.noise.lapse_rate import all_evidence, evidence, fit_level, normal_scores
from datadiet.noise.monitor import NoiseMonitor
from datadiet.scores.reduce import OF_LABEL
from datadiet.types import Scores
from toys import hard_diet, planted

ROWS = 2000
ALL = np.ones(ROWS, bool)
GROUPS = np.arange(400) % 2


def reviewed(data, epochs=1):
    guard, out = NoiseGuard(), ~ALL
    for epoch in range(epochs):
        guard, out = guard.review(data.epoch(epoch), ~out, data.labels, epoch=epoch + 1)
    return guard, out


@pytest.fixture(scope="module")
def tenth():
    """A tenth of the labels flipped: the data, the guard after its first review, and the excluded rows."""
    data = planted(0.1)
    return data, *reviewed(data)


# ---- the estimate


@pytest.mark.proves("auto", kind="offset", by="planted")
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("rate", [0.0, 0.05, 0.1, 0.2])
def test_planted_rates_are_recovered_within_three_points(rate, seed):
    guard, out = reviewed(planted(rate, seed=seed))
    assert guard.rate == pytest.approx(rate, abs=0.03)
    if rate == 0:
        assert not out.any()


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
        guard, out = guard.review(data.epoch(epoch), np.ones(3000, bool), data.labels, epoch=epoch + 1)
    assert guard.rate == pytest.approx(rate, abs=0.03)
    assert data.flipped[out].mean() > 0.8 if rate else not out.any()


@pytest.mark.proves("auto", kind="offset", by="planted")
@pytest.mark.parametrize("rate", [0.05, 0.1, 0.2])
def test_those_set_aside_are_the_flipped_ones(rate):
    data = planted(rate)
    _, out = reviewed(data)
    assert data.flipped[out].mean() > 0.8
    assert out[data.flipped].mean() > 0.8


@pytest.mark.parametrize(("rate", "apart", "epochs"), [(0.0, 2.5, 2), (0.01, 4.0, 1)])
def test_hard_examples_and_very_few_flips_are_not_taken_for_noise(rate, apart, epochs):
    """Of overlapping classes 15 % contradict the model, all rightly labelled."""
    data = planted(rate, apart=apart)
    assert (data.columns["margin"][1] > 0).mean() > 0.1 or rate
    guard, out = reviewed(data, epochs)
    assert guard.rate < LEAST_RATE
    assert guard.rate > 0 or not rate
    assert not out.any()


def test_the_interval_covers_what_was_planted_and_shrinks_with_rows():
    def review(rows):
        data = planted(0.1, rows=rows)
        return NoiseGuard().review(data.epoch(1), np.ones(rows, bool), data.labels, epoch=1)[0].reviews[0]

    small, large = review(600), review(6000)
    assert large.low <= 0.1 <= large.high
    assert large.high - large.low < small.high - small.low


# ---- the reviews


def late_in(data):
    return data.columns["moment"][0] > np.median(data.columns["moment"][0])


def test_rows_at_rest_that_agree_in_a_pass_come_back(tenth):
    data, guard, out = tenth
    rest = np.flatnonzero(out)
    columns = {**data.epoch(1), "moment": np.full(ROWS, np.nan, np.float32)}  # a pass has no moment
    columns["margin"] = columns["margin"].copy()
    columns["margin"][rest[:7]], columns["margin"][rest[7:]] = -2.0, 2.0
    later, still = guard.review(columns, ALL, data.labels, epoch=2)
    assert not still[rest[:7]].any()
    assert still[rest[7:]].all()
    assert later.reviews[-1].returned == 7


def test_each_row_counts_once_at_its_first_sight_by_a_model_that_was_ready(tenth):
    data, guard, _ = tenth
    late = late_in(data)
    assert np.array_equal(guard.arrays["counted"], late)
    guard, _ = guard.review(data.epoch(1), ALL, data.labels, epoch=2)
    assert guard.arrays["counted"].all()
    parts = all_evidence(guard.arrays)
    assert [part.again for part in parts] == [False, True]
    assert sum(part.rows.sum() for part in parts) == ROWS
    third, _ = guard.review(data.epoch(2), ALL, data.labels, epoch=3)
    assert [review.evidence for review in third.reviews] == [late.sum(), ROWS, ROWS]
    assert third.rate == guard.rate


@pytest.mark.parametrize("hardest", [0.3, 0.9])
def test_rows_chosen_by_their_values_are_no_sample(tenth, hardest):
    """Among the hardest there are more wrong labels: they say nothing of the level."""
    data, guard, _ = tenth
    chosen = data.columns["loss"][0] > np.quantile(data.columns["loss"][0], 1 - hardest)
    later, out = guard.review(data.epoch(1), chosen, data.labels, epoch=2)
    assert later.rate == guard.rate
    assert later.reviews[-1].evidence == late_in(data).sum()
    assert later.reviews[-1].share > later.rate
    assert data.flipped[out].mean() > 0.8


def test_a_pass_over_part_of_the_rows_seen_again_is_no_evidence(tenth):
    data, guard, _ = tenth
    columns = {**data.epoch(1), "moment": np.where(np.arange(ROWS) % 2, data.epoch(1)["moment"], np.float32(np.nan))}
    later, _ = guard.review(columns, ALL & ~guard.arrays["excluded"], data.labels, epoch=2)
    assert later.reviews[-1].evidence == late_in(data).sum()


def test_nothing_rests_where_the_interval_comes_near_to_nothing():
    """Few rows: the estimate is above the least, the doubt larger."""
    data = planted(0.03, rows=420, apart=3.0)
    guard, out = NoiseGuard().review(data.epoch(1), np.ones(420, bool), data.labels, epoch=1)
    assert guard.rate >= LEAST_RATE
    assert guard.reviews[-1].low < LEAST_RATE
    assert guard.reviews[-1].note.startswith("wrong labels may be as few as ")
    assert not out.any()


def test_a_pass_does_not_replace_what_training_saw():
    monitor = NoiseMonitor(4, np.zeros(4, np.int64))
    columns = (*OF_LABEL, "moment")
    for source, rows, value in (("train", [0, 1], 1.0), ("pass", [1, 2], 5.0), ("train", [0], 2.0)):
        values = {name: np.full(len(rows), value, np.float32) for name in columns}
        monitor.take(Scores(np.array(rows), values, source, 0, 0))
    arrays, _ = monitor.state()
    assert arrays["label.loss"][:3].tolist() == [2.0, 1.0, 5.0]


def test_rows_seen_late_join_at_a_later_review(tenth):
    data = tenth[0]
    half = np.arange(ROWS) < ROWS // 2
    guard, out = NoiseGuard().review(data.epoch(0), half, data.labels, epoch=1)
    assert not out[~half].any()
    guard, out = guard.review(data.epoch(1), ~half, data.labels, epoch=2)
    assert data.flipped[out & ~half].mean() > 0.8
    assert guard.reviews[-1].joined > 50
    assert guard.rate == pytest.approx(0.1, abs=0.03)


def test_too_few_rows_change_nothing_and_say_so(tenth):
    data, guard, out = tenth
    few = np.arange(ROWS) < LEAST_ROWS - 1
    later, same = guard.review(data.epoch(1), few & ~out, data.labels, epoch=2)
    assert np.array_equal(same, out)
    assert later.rate == guard.rate
    assert later.reviews[-1].note.endswith("rows were seen, 200 are needed")


# ---- when it may speak


@pytest.mark.proves("auto", kind="offset", by="planted")
@pytest.mark.parametrize("classes", [2, 7, 77, 150])
def test_a_model_that_is_sure_of_the_wrong_thing_sets_nothing_aside(classes):
    """It has not learned the task: sure of one class, whatever the label."""
    rng = np.random.default_rng(classes)
    labels = rng.integers(0, classes, ROWS)
    guess = np.where(rng.uniform(size=ROWS) < 0.9, 0, labels)
    wrong = guess != labels
    gap = rng.uniform(1, 5, ROWS)
    margin = np.where(wrong, gap, -gap)
    columns = {
        "loss": np.logaddexp(0, margin),
        "margin": margin,
        "rank": np.where(wrong, rng.integers(1, classes, ROWS), 0),
        "moment": rng.permutation(ROWS) // 32,
    }
    columns = {name: column.astype(np.float32) for name, column in columns.items()}
    guard, out = NoiseGuard().review(columns, ALL, labels, epoch=1)
    assert not out.any()
    assert guard.rate == 0
    assert guard.reviews[0].note.startswith("the model has not learned the task yet: its skill on examples new to it")
    # what it agrees with after it has trained on it, it may have learned by heart
    later, out = guard.review({**columns, "margin": -gap.astype(np.float32)}, ALL, labels, epoch=2)
    assert not out.any()
    assert later.reviews[1].note == "the model had not learned the task when the examples were new to it"


@pytest.mark.proves("auto", kind="offset", by="planted")
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("classes", "rows"), [(2, 2000), (7, 2000), (77, 6000), (150, 9000)])
def test_any_number_of_classes(classes, rows, seed):
    data = planted(0.1, rows=rows, classes=classes, apart=6.0, seed=seed)
    guard, out = NoiseGuard().review(data.epoch(1), np.ones(rows, bool), data.labels, epoch=1)
    assert guard.rate == pytest.approx(0.1, abs=0.03)
    assert data.flipped[out].mean() > 0.75


def test_unasked_a_model_of_little_skill_in_training_sets_nothing_aside():
    data = planted(0.1, classes=2, apart=2.4)  # skill 0.47
    for asked in (True, False):
        guard, out = NoiseGuard(asked=asked).review(data.epoch(0), ALL, data.labels, epoch=1)
        assert (out.any(), "new to it may be as low as 0.47" in guard.reviews[0].note) == (asked, not asked)


def test_a_model_that_fails_on_the_dev_split_sets_nothing_aside(tenth):
    data = tenth[0]
    for asked, reached, spoke in (
        (True, 0.39, False), (True, 0.4, True), (False, 0.49, False), (False, 0.5, True), (True, None, True)
    ):  # fmt: skip
        policy = NoiseGuard(asked=asked)
        guard, out = policy.review(data.epoch(0), ALL, data.labels, epoch=1, dev_skill=reached)
        assert out.any() == spoke
        assert guard.reviews[0].note == ("" if spoke else unready(reached, "on the dev split", policy.least_skill))
        assert guard.rate == pytest.approx(0.1, abs=0.03)


def test_skill_is_the_lower_end_above_the_commonest_class():
    assert skill(500, 1000, 0.5) < 0
    assert skill(100, 100, 0.5) == pytest.approx(1 - 2 * (1 - 100 / (100 + 1.96**2)), rel=1e-9)
    assert skill(90, 100, 0.5) < skill(900, 1000, 0.5) < 0.8
    assert skill(50, 50, 1.0) < 0  # of one class alone nothing can be learned


def test_a_class_that_is_not_learned_is_spared_and_many_such_silence_the_guard():
    groups = np.repeat([0, 1, 2], [50, 45, 5])
    suspicion = np.zeros(100, np.float32)
    suspicion[:5] = suspicion[95:98] = 0.9  # three of five rows of the last class
    out, note = excluded(suspicion, groups)
    assert MOST_OF_CLASS == 0.5
    assert np.flatnonzero(out).tolist() == [0, 1, 2, 3, 4]
    assert not note
    suspicion[50:75] = 0.9
    out, note = excluded(suspicion, groups)
    assert not out.any()
    assert note == "labels of classes with 50% of the rows mostly contradict the model: not learned yet"


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("apart", [5.0, 7.0])
def test_classes_that_a_model_takes_for_others_keep_their_rows(apart, seed):
    data = planted(0.0375, rows=2200, classes=20, twins=10, apart=apart, seed=seed)
    guard, out = NoiseGuard().review(data.epoch(0), np.ones(2200, bool), data.labels, epoch=1)
    without_brake, _ = excluded(guard.arrays["suspicion"], data.labels)
    rare = (data.labels >= 10) & ~data.flipped
    assert without_brake[rare].mean() > 0.1
    assert out[rare].mean() < 0.05
    assert data.flipped[out].mean() > max(0.8, data.flipped[without_brake].mean() + 0.1)
    assert out[data.flipped].mean() > 0.55


def test_of_a_class_that_is_nearly_all_contradicted_only_what_is_far_off_goes():
    groups, suspicion = np.repeat([0, 1], [10, 10]), np.zeros(20, np.float32)
    suspicion[[0, 1, 10]] = 0.9
    off = np.zeros(20, np.int8)
    off[:9], off[[1, 10]] = 1, 2  # nine of ten contradict, one of them far off
    assert np.flatnonzero(excluded(suspicion, groups, off)[0]).tolist() == [1, 10]
    off[8] = 0
    assert np.flatnonzero(excluded(suspicion, groups, off)[0]).tolist() == [0, 1, 10]
    suspicion[8:10] = np.nan  # of those that were judged
    assert np.flatnonzero(excluded(suspicion, groups, off)[0]).tolist() == [1, 10]
    off[:5] = 2  # the model knows nothing of the class
    assert np.flatnonzero(excluded(suspicion, groups, off)[0]).tolist() == [10]


def test_never_more_than_the_stated_share():
    suspicion, groups = np.zeros(100, np.float32), np.arange(100) % 2
    suspicion[:20] = 0.9
    assert excluded(suspicion, groups, most=MOST_UNASKED)[0].sum() == 20
    suspicion[20] = 0.9
    out, note = excluded(suspicion, groups, most=MOST_UNASKED)
    assert not out.any()
    assert note == "21% of the rows are suspected, and at most 20% are set aside unless offset is auto"
    assert excluded(suspicion, groups)[0].sum() == 21


def test_asked_for_it_may_exclude_more_and_speaks_sooner():
    for asked, most in ((True, MOST_ASKED), (False, MOST_UNASKED)):
        diet = hard_diet(**({"offset": "auto"} if asked else {}))
        diet.begin(400, epochs=5, groups=GROUPS, write=False)
        guard = diet.noise_monitor.guard
        assert (guard.most, guard.least_skill) == (most, 0.4 if asked else 0.5)


def test_the_same_dynamics_give_the_same_guard_and_inputs_stay_as_they_were(tenth):
    data, one, out = tenth
    before = {name: values.copy() for name, values in data.epoch(0).items()}
    again, rows = reviewed(data)
    assert one.reviews == again.reviews
    assert np.array_equal(out, rows)
    assert all(np.array_equal(values, data.epoch(0)[name]) for name, values in before.items())


def test_state_survives_json():
    guard, out = reviewed(planted(0.1), epochs=2)
    arrays, numbers = guard.state()
    assert {"aside", "heard"} < set(arrays)  # the names in checkpoints and noise.json, whatever the code calls them
    assert "aside" in numbers["reviews"][0]
    back = NoiseGuard().restored(arrays, json.loads(json.dumps(numbers)))
    assert back.reviews == guard.reviews
    assert np.array_equal(back.arrays["excluded"], out)


def test_missing_columns_are_named():
    with pytest.raises(ArgumentError, match=r"needs the columns loss, margin; missing: margin\."):
        NoiseGuard().review({"loss": np.zeros(3, np.float32)}, np.ones(3, bool), np.zeros(3, np.int64), epoch=1)


def test_the_summary_tells_rate_interval_and_whom(tenth):
    data, guard, out = tenth
    names = [f"class {label}" for label in data.labels]
    summary = guard.summary(names)
    assert summary["aside"] == out.sum() == sum(summary["aside_by_label"].values())
    assert set(summary["aside_by_label"]) == set(names)
    review = summary["reviews"][0]
    assert review["low"] <= review["rate"] <= review["high"]
    assert review["evidence"] == late_in(data).sum()
    suspects = guard.suspects()
    assert (np.diff(suspects["suspicion"]) <= 0).all()
    assert set(suspects["row"]) == set(np.flatnonzero(out))
    assert len(guard.reasons()) == len(suspects["row"])
    assert guard.reasons()[0].startswith("its label contradicts what the model is sure of (probability ")


# ---- millions of rows


def test_pieces_of_any_size_give_the_same_review(monkeypatch, tenth):
    data, guard, out = tenth
    monkeypatch.setattr("datadiet.noise.lapse_rate._AT_ONCE", 97)
    again, same = reviewed(data)
    assert again.reviews == guard.reviews
    assert np.array_equal(same, out)


def test_a_review_of_a_million_rows_takes_little_memory():
    rows = 1_000_000
    rng = np.random.default_rng(0)
    sure = rng.uniform(0, 6, rows).astype(np.float32)
    margin = np.where(rng.random(rows) < 0.2, sure, -sure)
    columns = {"loss": np.logaddexp(0, margin), "margin": margin, "rank": (margin > 0) * np.float32(3)}
    columns["moment"] = np.arange(rows, dtype=np.float32)
    labels, seen = np.arange(rows) % 7, np.ones(rows, bool)
    guard = NoiseGuard()
    for epoch in (1, 2):
        tracemalloc.start()
        try:
            guard, _ = guard.review(columns, seen, labels, epoch=epoch)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak / rows < 45  # of which 12 stay
