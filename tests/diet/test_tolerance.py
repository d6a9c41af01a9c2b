"""The policy that decides how many examples rest: scores, guard, end, advice."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from datadiet.diet.schedule import AdaptiveSchedule
from datadiet.diet.tolerance import (
    LEARNED,
    SLACK_PER_POINT,
    Tolerance,
    advice,
    carrying,
    convergence,
    standard_error,
    stopped_rising,
)
from datadiet.errors import ArgumentError

ROWS = 1000
FLAT = np.ones(ROWS, np.float32)
LONG_TAIL = np.r_[np.full(300, 1.0), np.full(700, 0.01)].astype(np.float32)
PLANNED = AdaptiveSchedule(ROWS, 6, warmup_epochs=2, batch=10)


def judged(*values, points=0.5, rows=10_000):
    policy = Tolerance(points)
    for epoch, value in enumerate(values):
        policy = policy.judge(epoch, value, rows)
    return policy


@given(
    hnp.arrays(np.float32, st.integers(1, 60), elements=st.floats(0, 4, width=32)),
    st.floats(0, 1),
)
def test_the_fewest_that_carry_the_share(values, share):
    count = carrying(values, share)
    squares = np.sort(values.astype(np.float64) ** 2)[::-1]
    if squares.sum() == 0:
        assert count == 0
        return
    assert squares[:count].sum() >= share * squares.sum() * (1 - 1e-9)
    assert count == len(values) or squares[: count - 1].sum() <= share * squares.sum() * (1 + 1e-9)


def test_what_was_never_seen_always_trains():
    assert carrying(np.array([np.inf, 1.0, 1.0, 0.0, np.inf]), 0.5) == 3


def test_where_all_teach_alike_nearly_all_train():
    policy, schedule = judged(0.8, 0.8).decide(PLANNED, 2, FLAT)
    assert schedule.count(2) == 990  # 99 % of the mass
    assert policy.decisions[0].reason == "scores"


def test_where_most_are_learned_they_rest():
    _, schedule = judged(0.8, 0.8).decide(PLANNED, 2, LONG_TAIL)
    assert schedule.count(2) == 290  # 99 % of the mass: 298 of the 300, in whole steps


def test_a_larger_tolerance_keeps_fewer():
    falling = np.linspace(0, 1, ROWS, dtype=np.float32)
    policies = [judged(0.8, 0.8, points=points) for points in (0.25, 0.5, 1.0, 2.0)]
    counts = [policy.decide(PLANNED, 2, falling)[1].count(2) for policy in policies]
    assert counts == sorted(counts, reverse=True)
    assert len(set(counts)) == 4


@pytest.mark.parametrize(
    ("curve", "kept", "reason"),
    [
        ((0.5, 0.7), 970, "rising"),  # 20 points an epoch: of 0.5 points, a fortieth may rest, in whole steps
        ((0.5, 0.51), 500, "rising"),
        ((0.5, 0.502), 290, "scores"),  # within the standard error of 0.5 points
        ((0.5, 0.4), ROWS, "guard"),
    ],
)
def test_while_the_dev_metric_rises_every_step_counts(curve, kept, reason):
    policy, schedule = judged(*curve).decide(PLANNED, 2, LONG_TAIL)
    assert (schedule.count(2), policy.decisions[-1].reason) == (kept, reason)


def test_after_one_epoch_nothing_is_known_of_the_rise():
    _, schedule = judged(0.9).decide(AdaptiveSchedule(ROWS, 6, batch=10), 1, LONG_TAIL)
    assert schedule.count(1) == ROWS


def test_when_the_dev_metric_falls_everything_trains_again():
    policy, schedule = judged(0.9, 0.9).decide(PLANNED, 2, LONG_TAIL)
    policy, schedule = policy.judge(2, 0.88, 10_000).decide(schedule, 3, LONG_TAIL)
    assert (schedule.count(3), policy.decisions[-1].reason) == (ROWS, "guard")


def test_a_fall_inside_the_tolerance_and_the_standard_error_changes_nothing():
    rows = 400  # a standard error of 1.5 points at 0.9
    assert standard_error(0.89, rows) == pytest.approx(0.0156, abs=1e-4)
    policy, schedule = judged(0.9, 0.9, rows=rows).decide(PLANNED, 2, LONG_TAIL)
    _, inside = policy.judge(2, 0.9 - 0.005 - 0.015, rows).decide(schedule, 3, LONG_TAIL)
    _, beyond = policy.judge(2, 0.9 - 0.005 - 0.017, rows).decide(schedule, 3, LONG_TAIL)
    assert (inside.count(3), beyond.count(3)) == (290, ROWS)


def test_the_slack_is_halved_only_where_training_on_everything_helped():
    def after(value):
        policy, schedule = judged(0.9, 0.9).decide(PLANNED, 2, LONG_TAIL)
        policy, _ = policy.judge(2, 0.85, 10_000).decide(schedule, 3, LONG_TAIL)
        return policy.judge(3, value, 10_000)

    assert after(0.9).slack == SLACK_PER_POINT * 0.5 / 2
    assert after(0.84).slack == SLACK_PER_POINT * 0.5


def test_what_full_data_loses_too_is_not_held_against_the_diet():
    policy, schedule = judged(0.9, 0.9).decide(PLANNED, 2, LONG_TAIL)
    policy, schedule = policy.judge(2, 0.85, 10_000).decide(schedule, 3, LONG_TAIL)
    policy, schedule = policy.judge(3, 0.84, 10_000).decide(schedule, 4, LONG_TAIL)
    assert [decision.reason for decision in policy.decisions] == ["scores", "guard", "scores"]


def test_it_ends_when_all_but_a_few_are_learned():
    learned = np.r_[np.full(5, 1.0), np.full(995, 1e-4)].astype(np.float32)
    assert len(learned) * LEARNED >= 5
    policy, schedule = judged(0.9, 0.9).decide(PLANNED, 2, learned)
    assert (schedule.last, policy.decisions[-1].reason) == (3, "learned")
    assert [schedule.count(epoch) for epoch in range(6)] == [ROWS, ROWS, 10, 0, 0, 0]


def test_the_last_epoch_is_not_called_an_early_end():
    schedule = PLANNED
    policy = judged(0.9, 0.9)
    for epoch in range(2, 5):
        policy, schedule = policy.decide(schedule, epoch, LONG_TAIL)
    policy, schedule = policy.decide(schedule, 5, np.r_[1.0, np.zeros(ROWS - 1)].astype(np.float32))
    assert (schedule.last, policy.decisions[-1].reason) == (6, "scores")


def test_judging_an_epoch_again_replaces_what_was_said():
    assert [entry.value for entry in judged(0.7, 0.8).judge(1, 0.9, 100).judgements] == [0.7, 0.9]


def test_state_survives_json():
    policy, schedule = judged(0.9, 0.9).decide(PLANNED, 2, LONG_TAIL)
    assert Tolerance(0.5).restored(json.loads(json.dumps(policy.state()))) == policy
    assert schedule.counts == (290,)


@pytest.mark.parametrize("points", [0, -1, 101, "0.5", True, float("nan")])
def test_points_that_make_no_sense(points):
    with pytest.raises(ArgumentError, match="tolerance must be points of the metric"):
        Tolerance(points)


def test_a_loss_is_no_metric_to_lose_points_of():
    with pytest.raises(ArgumentError, match=r"in \[-1, 1\] of which larger is better, got 2.3 after epoch 0"):
        Tolerance(0.5).judge(0, 2.3, 100)


def test_without_a_dev_metric_nothing_is_decided():
    with pytest.raises(ArgumentError, match="needs the dev metric after every epoch"):
        Tolerance(0.5).decide(PLANNED, 2, FLAT)


def test_scores_below_zero_are_refused():
    with pytest.raises(ArgumentError, match="never below 0"):
        judged(0.9).decide(PLANNED, 2, -FLAT)


@pytest.mark.parametrize(
    ("curve", "saved", "said"),
    [
        ((0.8, 0.9, 0.901, 0.9), 0.3, "after epoch 2 of 4: fewer epochs may be the better deal"),
        ((0.8, 0.9, 0.901, 0.9), 0.6, ""),
        ((0.6, 0.7, 0.8, 0.9), 0.3, ""),
        ((0.6, 0.7, 0.8, 0.9), 0.02, "Nearly every example still taught something: 2%"),
    ],
)
def test_advice(curve, saved, said):
    found = advice(judged(*curve).judgements, points=0.5, epochs=4, saved=saved)
    assert said in found
    assert bool(said) == bool(found)


# ---- the end of a training


@pytest.mark.parametrize(
    ("curve", "rows", "rising", "per_epoch"),
    [
        ([0.05, 0.1, 0.18], 500, True, 8.0),  # nothing has converged
        ([0.5, 0.9, 0.91], 500, False, 1.0),  # within the error of 1.3
        ([0.5, 0.6, 0.58], 500, False, -2.0),  # it fell
        ([0.5, 0.8, 0.809], 1000, False, 0.9),  # the large rise was before
        ([0.98, 1.0], 40, False, 2.0),  # what is perfect cannot rise, whatever its error
        ([0.01, 0.04], 500, True, 3.0),
    ],
)
def test_whether_training_had_finished(curve, rows, rising, per_epoch):
    found = convergence(curve, metric="accuracy", kept=[600] * len(curve), rows=rows, remedy="Try more epochs.")
    assert (found.rising, found.points_per_epoch) == (rising, pytest.approx(per_epoch))
    assert (found.epoch_rows, bool(found.advice)) == (600, rising)
    assert not rising or "points per epoch (of 600 rows)" in found.advice
    assert not rising or found.advice.endswith("Try more epochs.")


LINEAR = [0.8, 0.74, 0.53, 0.32, 0.11]  # mean learning rates of 5 epochs, as shares of the peak


def test_a_learning_rate_that_has_fallen_hides_no_rise():
    curve = [0.24, 0.27, 0.31, 0.367, 0.377]  # of 77 classes: far from finished, and flat at the end
    settings = {"metric": "accuracy", "kept": [600] * 5, "rows": 300}
    assert not convergence(curve, **settings).rising
    found = convergence(curve, **settings, shares=LINEAR)
    assert (found.rising, found.epochs, found.points_per_epoch) == (True, 3, pytest.approx(100 * 0.107 / 3))
    assert (
        "by 3.6 points per epoch (of 600 rows) in the last 3 epochs, 10.7 in all, and its standard error is 2.8"
        in found.advice
    )
    done = convergence([0.6, 0.94, 0.95, 0.952, 0.953], **{**settings, "rows": 60}, shares=LINEAR)
    assert (done.rising, done.epochs) == (False, 3)
    fallen = convergence([0.2, 0.3, 0.5, 0.6, 0.55], **settings, shares=LINEAR)
    assert not fallen.rising  # far below the best of these epochs


def test_an_epoch_of_a_diet_is_what_it_kept():
    curve = [0.2, 0.4, 0.41, 0.45, 0.45]
    # the rise of the epochs on everything says nothing of an epoch of the diet
    found = convergence(curve, metric="accuracy", kept=[1000, 1000, 1000, 500, 400], rows=1000, shares=LINEAR)
    assert (found.rising, found.epochs, found.epoch_rows) == (True, 2, 450)


def test_a_correlation_has_another_error():
    share, correlation = (convergence([0.9, 0.91], metric=name, kept=[9, 9], rows=400) for name in ("f1", "pearson"))
    assert (share.rising, correlation.rising) == (False, True)


def test_a_likelihood_is_the_exponential_of_a_loss_and_no_share_of_the_rows():
    losses = [5.40, 5.11, 4.93, 4.72, 4.54, 4.37, 4.37, 4.37, 4.37]
    curve = [math.exp(-loss) for loss in losses]  # 0.0045 to 0.0127: as a share of 60 rows nothing would ever rise
    ends = [stopped_rising(curve[:epoch], metric="likelihood", rows=60) for epoch in range(1, len(curve) + 1)]
    assert ends.index(True) == 8  # three epochs after the last rise
    assert stopped_rising(curve[:5], metric="accuracy", rows=60)
    found = convergence(curve[:6], metric="likelihood", kept=[160] * 6, rows=60, remedy="More.")
    assert found.rising
    assert "still rose by 0.2 points per epoch (of 160 rows) in the last epoch, and its standard error is 0.1" in (
        found.advice
    )
    assert not convergence(curve, metric="likelihood", kept=[160] * 9, rows=60).rising
    rising, falling = (Tolerance(0.5).judge(0, 0.01, 60, metric=metric) for metric in ("likelihood", ""))
    assert rising.judgements[0].error < 0.1 * falling.judgements[0].error


@pytest.mark.parametrize(("curve", "rows"), [([0.5], 100), ([], 100), ([0.1, 0.9], 0), ([0.1, float("nan")], 100)])
def test_where_it_cannot_be_told(curve, rows):
    assert convergence(curve, metric="accuracy", kept=[9] * len(curve), rows=rows) is None


@pytest.mark.parametrize(
    ("curve", "ends_after"),
    [
        ([0.5, 0.8, 0.9, 0.9, 0.9, 0.9, 0.9], 6),  # three epochs after the last rise
        ([0.17, 0.243, 0.233, 0.23, 0.26, 0.255], 6),  # not at a dip, nor while it climbs out of one
        ([0.5, 0.8, 0.809, 0.818, 0.827, 0.836, 0.84], None),  # small steps add up
        ([0.1, 0.1, 0.1, 0.1, 0.1, 0.1], 5),  # four epochs without any rise
        ([0.02, 0.02, 0.02, 0.3, 0.6, 0.6, 0.6, 0.6], 8),  # a late start
        ([0.9, 0.5, 0.9, 0.9, 0.9], 5),  # what is won back is no rise
        ([float("nan"), 0.1, 0.3, 0.3, 0.3, 0.3], 6),
        ([1.0, 1.0, 1.0, 1.0, 1.0], 5),
    ],
)
def test_where_a_training_ends_by_itself(curve, ends_after):
    ends = [stopped_rising(curve[:epoch], metric="accuracy", rows=500) for epoch in range(1, len(curve) + 1)]
    assert (ends.index(True) + 1 if True in ends else None) == ends_after
