"""Schedules against lists written by hand, and against each other."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from datadiet.diet.diet import Diet
from datadiet.diet.forecast import RESCORES, forecast
from datadiet.diet.schedule import Schedule, parse_keep, share_of
from datadiet.errors import ArgumentError


def plan(**options: Any) -> Schedule:
    return Schedule(**{"num_examples": 100, "epochs": 6, **options})


# (options, counts, epochs with a refresh, cycles, steps)
BY_HAND: dict[str, tuple[dict[str, Any], list[int], list[int], list[int], list[int]]] = {
    "defaults": ({}, [100, 50, 50, 50, 50, 50], [1, 3, 5], [-1, 0, 0, 1, 1, 2], [100, 50, 50, 50, 50, 50]),
    "batches": ({"batch": 16}, [100, 48, 48, 48, 48, 48], [1, 3, 5], [-1, 0, 0, 1, 1, 2], [7, 3, 3, 3, 3, 3]),
    "every epoch": (
        {"refresh_every": 1, "keep": 0.2},
        [100, 20, 20, 20, 20, 20],
        [1, 2, 3, 4, 5],
        [-1, 0, 1, 2, 3, 4],
        [100, 20, 20, 20, 20, 20],
    ),
    "no warm-up": (
        {"warmup_epochs": 0, "refresh_every": 4},
        [50, 50, 50, 50, 50, 50],
        [0, 4],
        [0, 0, 0, 0, 1, 1],
        [50, 50, 50, 50, 50, 50],
    ),
    "annealing": (
        {"anneal_epochs": 2, "batch": 30},
        [100, 30, 30, 30, 100, 100],
        [1, 3],
        [-1, 0, 0, 1, -1, -1],
        [4, 1, 1, 1, 4, 4],
    ),
    "static": (
        {"static": True, "warmup_epochs": 2, "keep": 0.29},
        [100, 100, 29, 29, 29, 29],
        [2],
        [-1, -1, 0, 0, 0, 0],
        [100, 100, 29, 29, 29, 29],
    ),
    "static, annealing": (
        {"static": True, "anneal_epochs": 1},
        [100, 50, 50, 50, 50, 100],
        [1],
        [-1, 0, 0, 0, 0, -1],
        [100, 50, 50, 50, 50, 100],
    ),
    "stepping down": (
        {"keep": {1: 0.7, 4: 0.5}},  # the step of epoch 4 waits for the refresh of epoch 5
        [100, 70, 70, 70, 70, 50],
        [1, 3, 5],
        [-1, 0, 0, 1, 1, 2],
        [100, 70, 70, 70, 70, 50],
    ),
    "stepping down from everything": (
        {"keep": {0: 1.0, 2: 0.5, 4: 0.25}, "warmup_epochs": 0},
        [100, 100, 50, 50, 25, 25],
        [2, 4],  # nothing is chosen for epochs on everything
        [0, 0, 1, 1, 2, 2],
        [100, 100, 50, 50, 25, 25],
    ),
    "everything": ({"keep": 1.0, "batch": 32}, [100] * 6, [], [-1, 0, 0, 1, 1, 2], [4] * 6),
    "less than a batch of rows": ({"keep": 1, "batch": 128}, [100] * 6, [], [-1, 0, 0, 1, 1, 2], [1] * 6),
}


@pytest.mark.parametrize("name", list(BY_HAND))
def test_by_hand(name: str) -> None:
    options, counts, refreshes, cycles, steps = BY_HAND[name]
    schedule = plan(**options)
    epochs = range(schedule.epochs)
    assert [schedule.count(epoch) for epoch in epochs] == counts
    assert [epoch for epoch in epochs if schedule.is_refresh(epoch)] == refreshes
    assert [schedule.cycle(epoch) for epoch in epochs] == cycles
    assert [schedule.steps(epoch) for epoch in epochs] == steps
    assert [schedule.is_full(epoch) for epoch in epochs] == [count == 100 for count in counts]


@pytest.mark.proves("all", "dropped", "none")
@pytest.mark.parametrize(
    ("name", "scored"),
    [
        ("defaults", {"all": 300, "dropped": 0 + 50 + 50, "none": 0}),
        ("batches", {"all": 300, "dropped": 52 + 52, "none": 0}),
        ("every epoch", {"all": 500, "dropped": 4 * 80, "none": 0}),
        ("no warm-up", {"all": 100, "dropped": 50, "none": 0}),  # no scores at epoch 0
        ("annealing", {"all": 200, "dropped": 70, "none": 0}),  # nothing is scored for the last epochs
        ("static", {"all": 100, "dropped": 0, "none": 0}),
        ("stepping down", {"all": 300, "dropped": 30 + 30, "none": 0}),
        ("stepping down from everything", {"all": 200, "dropped": 50, "none": 0}),
        ("everything", {"all": 0, "dropped": 0, "none": 0}),
    ],
)
def test_examples_scored_by_hand(name: str, scored: dict[str, int]) -> None:
    schedule = plan(**BY_HAND[name][0])
    assert {rescore: forecast(schedule, rescore=rescore).examples_scored for rescore in RESCORES} == scored


def test_a_forecast_by_hand() -> None:
    schedule = plan(batch=16, keep=0.5)
    lengths = np.r_[np.full(50, 4), np.full(50, 8)]
    found = forecast(schedule, lengths=lengths)
    assert (found.steps, found.full_steps) == (7 + 5 * 3, 42)
    assert (found.examples_backward, found.full_examples) == (100 + 5 * 48, 600)
    assert (found.tokens_backward, found.full_tokens) == (340 * 6, 3600)
    assert found.examples_saved == pytest.approx(1 - 340 / 600)
    first, second = found.epochs[:2]
    assert (first.kept, first.dropped, first.steps, first.refresh) == (100, 0, 7, False)
    assert (second.kept, second.dropped, second.steps, second.refresh) == (48, 52, 3, True)


def test_a_forecast_beside_a_shorter_full_training() -> None:
    found = forecast(plan(), full_epochs=4)
    assert (found.full_steps, found.full_examples, found.full_tokens) == (400, 400, None)
    assert found.examples_saved == pytest.approx(1 - 350 / 400)


schedules = st.builds(
    Schedule,
    num_examples=st.integers(100, 5000),
    epochs=st.integers(5, 12),
    keep=st.floats(0.2, 0.99),
    warmup_epochs=st.integers(0, 2),
    refresh_every=st.integers(1, 5),
    anneal_epochs=st.integers(0, 2),
    batch=st.integers(1, 20),
)


@given(schedules, st.sampled_from(RESCORES))
def test_the_parts_of_a_forecast_add_up(schedule: Schedule, rescore: str) -> None:
    found = forecast(schedule, rescore=rescore, lengths=np.ones(schedule.num_examples))
    assert [line.epoch for line in found.epochs] == list(range(schedule.epochs))
    assert all(line.kept + line.dropped == schedule.num_examples for line in found.epochs)
    assert found.examples_backward == found.tokens_backward == sum(line.kept for line in found.epochs)
    assert found.steps == sum(line.steps for line in found.epochs)
    assert 0 < found.examples_saved < 1
    refreshes = sum(line.refresh for line in found.epochs)
    assert found.examples_scored <= refreshes * schedule.num_examples
    assert found.steps <= found.full_steps


@given(schedules)
def test_every_epoch_fits_its_kind(schedule: Schedule) -> None:
    for epoch in range(schedule.epochs):
        count = schedule.count(epoch)
        if schedule.is_full(epoch):
            assert count == schedule.num_examples
            assert not schedule.is_refresh(epoch)
        else:
            assert count % schedule.batch == 0
            assert schedule.batch <= count <= schedule.keep * schedule.num_examples + 1e-6
            assert count > schedule.keep * schedule.num_examples - schedule.batch - 1
            assert schedule.steps(epoch) * schedule.batch == count


@given(schedules)
def test_a_cycle_begins_with_its_only_refresh(schedule: Schedule) -> None:
    for epoch in range(1, schedule.epochs):
        if schedule.is_full(epoch):
            continue
        assert schedule.is_refresh(epoch) == (schedule.cycle(epoch) != schedule.cycle(epoch - 1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"keep": 70}, r"keep must be in \(0, 1\], got 70. Did you mean 0.7\?"),
        ({"keep": 0}, r"keep must be in \(0, 1\], got 0"),
        ({"keep": {1: 50}}, r"keep from epoch 1 must be in \(0, 1\], got 50. Did you mean 0.5\?"),
        ({"keep": {}}, "got an empty mapping"),
        ({"keep": {-1: 0.5}}, "an epoch of keep must be a whole number, at least 0, got -1"),
        ({"keep": {"1": 0.5}}, "an epoch of keep must be a whole number, at least 0, got '1'"),
        ({"keep": {2: 0.5}}, "must say what holds from epoch 1 on, when the diet begins; its first is 2"),
        ({"keep": {1: 0.5, 3: 0.7}}, "must step down: 0.5 from epoch 1, then 0.7 from epoch 3"),
        ({"keep": {1: 0.5, 3: 0.5}}, "must step down: 0.5 from epoch 1, then 0.5 from epoch 3"),
        ({"keep": {1: 0.5, 6: 0.4}}, "keep from epoch 6 has no effect: the last refresh is before epoch 5"),
        ({"keep": {0: 0.6, 1: 0.5}}, "keep from epoch 0 has no effect: 1 too first counts at epoch 1"),
        ({"keep": {1: 0.6, 2: 0.5, 3: 0.4}}, "keep from epoch 2 has no effect: 3 too first counts at epoch 3"),
        ({"keep": {1: 0.6, 3: 0.5}, "static": True}, "keep from epoch 3 has no effect"),
        ({"warmup_epochs": 7}, "warm-up is longer than the training: warmup_epochs 7, epochs 6"),
        ({"warmup_epochs": 4, "anneal_epochs": 3}, r"longer than the training: 4 \+ 3 epochs, epochs 6"),
        ({"warmup_epochs": 6}, "no epoch is left for the diet: warmup_epochs 6 and anneal_epochs 0 take all 6"),
        ({"warmup_epochs": 4, "anneal_epochs": 2}, "no epoch is left for the diet"),
        ({"refresh_every": 0}, "refresh_every must be a whole number, at least 1, got 0"),
        ({"batch": 64}, "keep 0.5 leaves no full batch: 50 of 100 examples, and a step takes 64"),
        ({"batch": 32, "keep": {1: 0.5, 3: 0.3}}, "keep 0.3 leaves no full batch: 30 of 100 examples"),
        ({"keep": 1.0, "anneal_epochs": 1}, "anneal_epochs has no effect with keep 1"),
        ({"keep": {1: 1.0}, "anneal_epochs": 1}, "anneal_epochs has no effect with keep 1"),
        ({"keep": 1.0, "static": True}, "static has no effect with keep 1"),
        ({"static": True, "refresh_every": 3}, "refresh_every has no effect with static"),
        ({"epochs": 2.5}, "epochs must be a whole number, at least 1, got 2.5"),
        ({"num_examples": 0}, "num_examples must be a whole number, at least 1, got 0"),
    ],
)
def test_what_is_not_allowed(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        plan(**options)


def test_all_problems_come_at_once() -> None:
    with pytest.raises(ArgumentError, match="keep must be in") as caught:
        plan(keep=50, refresh_every=0, warmup_epochs=-1, batch=0)
    assert len(caught.value.problems) == 4
    with pytest.raises(ArgumentError, match="no full batch") as caught:
        plan(keep={1: 0.5, 3: 0.6, 9: 0.1}, batch=30)
    assert len(caught.value.problems) == 3


def test_everything_needs_no_room_for_a_diet() -> None:
    assert plan(keep=1.0, epochs=1).count(0) == 100
    assert replace(plan(), keep=1.0).is_full(3)


@pytest.mark.parametrize(
    ("text", "keep"),
    [("0.5", 0.5), (0.25, 0.25), ("1", 1.0), ("1:0.7,4:0.5", {1: 0.7, 4: 0.5}), (" 0: 1 , 3:.5", {0: 1.0, 3: 0.5})],
)
def test_keep_as_text(text: str | float, keep: object) -> None:
    assert parse_keep(text) == keep


@pytest.mark.parametrize("text", ["half", "", "1:", "1:0.7;4:0.5", "1:0.7,0.5", "1.5:0.7", "1:2:3"])
def test_text_that_is_no_keep(text: str) -> None:
    with pytest.raises(ArgumentError, match=r"a share such as 0\.5, or steps such as 1:0\.7,4:0\.5; got") as caught:
        parse_keep(text)
    assert repr(text) in str(caught.value)


def test_an_epoch_named_twice() -> None:
    with pytest.raises(ArgumentError, match=r"names an epoch twice: '1:0\.7,1:0\.5'"):
        parse_keep("1:0.7,1:0.5")


@pytest.mark.parametrize(("share", "number", "part"), [(0.29, 100, 29), (1 / 3, 3, 1), (0.5, 7, 3), (0.999, 1000, 999)])
def test_a_share_is_rounded_down_as_it_is_written(share: float, number: int, part: int) -> None:
    assert share_of(share, number) == part


def test_a_forecast_refuses_what_does_not_fit() -> None:
    with pytest.raises(ArgumentError, match=r"(?s)unknown rescore 'al'; did you mean 'all'.*got \(3,\) for 100 rows"):
        forecast(plan(), rescore="al", lengths=[1, 2, 3])
    with pytest.raises(ArgumentError, match="full_epochs must be above 0, got 0"):
        forecast(plan(), full_epochs=0)


# ---- steps that are asked for


@pytest.mark.parametrize(
    ("options", "max_steps", "expected"),
    [
        ({}, 11, [10, 1]),
        ({}, 25, [10, 5, 5, 5]),
        ({"keep": {1: 0.7, 2: 0.5}, "refresh_every": 1}, 20, [10, 7, 3]),
        ({"anneal_epochs": 1}, 22, [10, 5, 7]),  # the last epoch on everything ends early
        ({"static": True}, 17, [10, 5, 2]),
        ({"warmup_epochs": 0}, 3, [3]),
        ({"keep": 1.0}, 13, [10, 3]),
    ],
)
def test_a_schedule_that_ends_at_a_step(options, max_steps, expected):
    schedule = Schedule(100, 99, **{"keep": 0.5, "batch": 10, **options}).ending_at(max_steps)
    assert [schedule.steps(epoch) for epoch in range(schedule.epochs)] == expected
    assert schedule.total_steps == schedule.planned_steps == max_steps
    assert schedule.total_count == 10 * max_steps
    assert schedule.locate(max_steps) == (schedule.epochs, 0)
    assert schedule.share_trained(schedule.epochs - 1) == expected[-1] / -(-schedule.count(schedule.epochs - 1) // 10)


def test_a_step_of_keep_that_comes_after_the_last_step_is_refused():
    with pytest.raises(ArgumentError, match="keep from epoch 4 has no effect"):
        Schedule(100, 99, keep={1: 0.7, 4: 0.5}, batch=10).ending_at(12)


def test_a_diet_forecasts_steps_and_fractions():
    diet = Diet(keep=0.5, select="hardest")
    asked, fraction = diet.forecast(100, epochs=3, batch=10, max_steps=25), diet.forecast(100, epochs=2.5, batch=10)
    assert (asked.steps, asked.full_steps, asked.examples_saved) == (25, 25, 0.0)
    assert (fraction.steps, fraction.full_steps, fraction.examples_backward) == (18, 25, 180)
    with pytest.raises(ArgumentError, match="tolerance decides the number of steps itself"):
        Diet(tolerance=1.0).forecast(100, epochs=2.5)
