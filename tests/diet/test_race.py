"""Races: when and how long, who wins, and what a diet keeps of them."""

from __future__ import annotations

import copy
import json
import math
import re
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from datadiet.diet import race
from datadiet.diet.diet import Diet
from datadiet.diet.race import (
    COVER,
    FORWARD_SHARE,
    LEAST_STEPS,
    FirstRule,
    Race,
    RaceOptions,
    RacePlan,
    class_shift,
    first_rule,
    plan_races,
)
from datadiet.diet.schedule import Schedule
from datadiet.errors import ArgumentError
from datadiet.types import HeadSignals, Signals

DEV = np.random.default_rng(0).exponential(size=200).astype(np.float32)


@pytest.fixture(scope="module", autouse=True)
def short_races() -> Any:
    """Two races fit into the budget of a few thousand rows."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(race, "TWO_RACES_STEPS", 2 * LEAST_STEPS)
        patch.setattr(race, "WORTH_STEPS", LEAST_STEPS)
        yield


def planned(dev_rows: int | None = 900, share: float = 0.05, **schedule: Any) -> RacePlan:
    usual = {"num_examples": 9000, "epochs": 5, "keep": 0.3, "refresh_every": 1, "batch": 32}
    return plan_races(Schedule(**{**usual, **schedule}), dev_rows, RaceOptions(share))


# ---- when, and how long


@pytest.mark.proves("auto", kind="race", by="definition")
@settings(deadline=None)
@given(
    rows=st.integers(700, 20000),
    epochs=st.integers(2, 12),
    keep=st.floats(0.05, 0.95),
    every=st.integers(1, 3),
    batch=st.sampled_from([1, 8, 32]),
    dev=st.integers(0, 3000),
    share=st.floats(0.01, 0.5),
)
def test_races_stay_within_their_budget_and_half_of_their_cycle(
    rows: int, epochs: int, keep: Any, every: int, batch: int, dev: int, share: float
) -> None:
    schedule = Schedule(rows, epochs, keep, refresh_every=every, batch=batch)
    check_plan(schedule, plan_races(schedule, dev, RaceOptions(share)), dev, share)


def test_races_stay_within_half_of_a_cycle_where_cycles_become_shorter() -> None:
    schedule = Schedule(2000, 9, {1: 0.9, 4: 0.05}, refresh_every=1, batch=8)
    check_plan(schedule, plan_races(schedule, 400, RaceOptions(0.2)), 400, 0.2)


def check_plan(schedule: Schedule, found: RacePlan, dev: int, share: float) -> None:
    assert (not found.epochs) == bool(found.note)
    assert found.epochs == tuple(sorted(set(found.epochs)))
    for epoch in found.epochs:
        assert epoch >= 1
        assert schedule.is_refresh(epoch)
        assert LEAST_STEPS <= found.steps <= schedule.steps(epoch) / 2
        assert 50 <= found.dev_rows <= min(dev, 400)
    spent = len(found.epochs) * (found.steps * schedule.batch + 2 * FORWARD_SHARE * found.dev_rows)
    assert spent <= share * schedule.total_count + 1e-6


def test_the_second_race_is_at_half_of_the_cycles_and_only_where_the_budget_is_enough() -> None:
    assert planned().epochs == (1, 3)
    assert planned(epochs=9).epochs == (1, 5)
    assert planned(epochs=9, refresh_every=2).epochs == (1, 5)
    assert planned(share=0.02).epochs == (1,)
    assert planned(share=0.02).steps < 2 * planned().steps
    assert planned(epochs=2).epochs == (1,)  # one cycle
    assert planned(warmup_epochs=0, epochs=3, share=0.12).epochs == (1, 2)  # nothing has trained before the first


@pytest.mark.parametrize(
    ("options", "note"),
    [
        ({"dev_rows": None}, "there is no dev split to judge a race by"),
        (
            {"dev_rows": 49},
            "the dev split has 49 rows, fewer than 50: their mean loss has an error of 14% of the spread of one row's "
            "loss, too wide to judge by",
        ),
        ({"dev_rows": 0}, "the dev split has 0 rows, fewer than 50: their mean loss has an error of 100% of"),
        (
            {"warmup_epochs": 0, "epochs": 4, "refresh_every": 2, "static": True},
            "no cycle begins after training has begun, so there is nothing to race for",
        ),
        ({"warmup_epochs": 0, "epochs": 1}, "no cycle begins after training has begun"),
        (
            {"share": 0.005},
            "0.5% of this training is less than a race costs, which is 4 steps and two passes over 59 dev rows",
        ),
        ({"share": 0.01, "num_examples": 2000}, "1% of this training is less than a race costs"),
    ],
)
def test_why_there_is_no_race(options: dict[str, Any], note: str) -> None:
    found = planned(**options)
    assert (found.epochs, found.steps, found.dev_rows) == ((), 0, 0)
    assert found.note.startswith(note)


def test_what_races_cost_in_steps() -> None:
    assert RacePlan((1, 3), 9, 293).extra_steps(32) == 2 * (9 + math.ceil(2 * 293 / 3 / 32))
    assert RacePlan(note="none").extra_steps(32) == 0


def test_a_forecast_knows_its_races() -> None:
    diet = Diet(keep=0.3)
    found = diet.forecast(9000, epochs=5, batch=32, dev_rows=900)
    assert (found.races, found.race_steps) == (2, planned().extra_steps(32))
    assert diet.forecast(9000, epochs=5, batch=32).races == 0
    assert Diet(keep=0.3, select="cover").forecast(9000, epochs=5, batch=32, dev_rows=900).races == 0


# ---- who wins


def noisy(shift: float, seed: int = 1) -> np.ndarray:
    """Dev losses that differ from `DEV` by a mean of `shift` standard errors."""
    pairs = np.random.default_rng(seed).normal(size=200)
    pairs = (pairs - pairs.mean()) / pairs.std(ddof=1)
    return (DEV + 0.1 * (pairs + shift / math.sqrt(200))).astype(np.float32)


@pytest.mark.proves("auto", kind="race", by="definition")
@pytest.mark.parametrize(("shift", "winner"), [(-9, "visits"), (-4.1, "visits"), (-3.9, COVER), (0, COVER), (9, COVER)])
def test_a_rule_takes_the_place_of_cover_where_it_is_shown_to_be_better(shift: float, winner: str) -> None:
    decided = Race(RacePlan((1,), 5, 200)).decided(1, {COVER: DEV, "visits": noisy(shift)})
    (duel,) = decided.duels
    assert decided.rule == duel.winner == winner
    assert duel.difference / duel.error == pytest.approx(shift, abs=0.01)
    assert duel.interval == pytest.approx((duel.difference - 4 * duel.error, duel.difference + 4 * duel.error))
    assert (duel.interval[1] < 0) == (winner != COVER)


@pytest.mark.proves("auto", kind="race", by="definition")
@pytest.mark.parametrize(
    ("shift", "winner"), [(-9, COVER), (-4.1, COVER), (-3.9, "visits"), (0, "visits"), (9, "visits")]
)
def test_cover_takes_its_place_back_where_it_is_shown_to_be_better(shift: float, winner: str) -> None:
    """`shift`: by how many standard errors cover is worse."""
    first = Race(RacePlan((1, 3), 5, 200)).decided(1, {COVER: DEV, "visits": 0.5 * DEV})
    assert (first.rule, first.challenger(("cover", "visits", "hardest"))) == ("visits", COVER)
    second = first.decided(3, {"visits": DEV, COVER: noisy(shift)})
    assert second.rule == winner
    assert (second.duels[1].champion, second.duels[1].challenger) == ("visits", COVER)


def test_pairs_count_not_means() -> None:
    """A small gain in every row wins, though the rows differ by far more."""
    decided = Race(RacePlan((1,), 5, 200)).decided(1, {COVER: DEV, "hardest": DEV - 0.02})
    assert decided.rule == "hardest"
    assert decided.duels[0].difference == pytest.approx(-0.02, rel=1e-3)
    assert decided.duels[0].losses == pytest.approx({COVER: DEV.mean(), "hardest": DEV.mean() - 0.02})


def test_challengers_come_in_order_and_not_twice_before_all_have_lost() -> None:
    allowed, found = ("cover", "visits", "hardest"), Race(RacePlan((1, 3, 5), 5, 200))
    tried = []
    for epoch in (1, 3, 5):
        tried.append(found.challenger(allowed))
        found = found.decided(epoch, {found.rule: DEV, tried[-1]: DEV + 1})
    assert tried == ["visits", "hardest", "visits"]


def test_a_race_is_due_once() -> None:
    found = Race(RacePlan((1, 3), 5, 200))
    assert [epoch for epoch in range(5) if found.is_due(epoch)] == [1, 3]
    assert [epoch for epoch in range(5) if found.decided(1, {COVER: DEV, "visits": DEV}).is_due(epoch)] == [3]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (DEV, DEV[1:], r"the same dev rows for both: got \(200,\) and \(199,\)"),
        (DEV[:1], DEV[:1], r"the same dev rows for both: got \(1,\) and \(1,\)"),
        (np.full_like(DEV, np.inf), np.full_like(DEV, np.nan), "finite losses of the dev rows; the training has diver"),
    ],
)
def test_losses_that_cannot_be_compared(old: np.ndarray, new: np.ndarray, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        Race(RacePlan((1,), 5, 200)).decided(1, {COVER: old, "visits": new})


EVERYWHERE = slice(None)


@pytest.mark.parametrize(
    ("diverged", "row", "winner"),
    [("visits", EVERYWHERE, COVER), ("visits", 7, COVER), (COVER, EVERYWHERE, "visits"), (COVER, 7, COVER)],
)
def test_an_entrant_that_diverges_loses_against_one_that_does_not(diverged: str, row: Any, winner: str) -> None:
    losses = {COVER: DEV.copy(), "visits": 0.5 * DEV}
    losses[diverged][row] = np.nan
    losses[COVER][3] = losses["visits"][3] = np.inf  # judges nothing
    decided = Race(RacePlan((1,), 5, 200)).decided(1, losses)
    assert decided.rule == winner
    (duel,) = decided.duels
    assert duel.dev_rows == 199
    assert json.loads(json.dumps(asdict(duel), allow_nan=False))["winner"] == winner


def test_a_race_goes_through_a_checkpoint_and_into_the_result() -> None:
    plan, cost = RacePlan((1, 3), 5, 200), {"seconds": 1.5, "examples": 20, "steps": 9}
    costs = {COVER: cost, "visits": {"seconds": 2.5}}
    found = Race(plan).decided(1, {COVER: DEV, "visits": 0.5 * DEV}, costs).decided(3, {"visits": DEV, COVER: DEV + 1})
    again = Race(plan).restored(json.loads(json.dumps(found.state())))
    assert again == found
    assert again.rule == "visits"
    summary = json.loads(json.dumps(found.summary()))
    assert (summary["rule"], summary["note"]) == ("visits", "")
    assert [line["winner"] for line in summary["races"]] == ["visits", "visits"]
    assert summary["races"][0]["cost"] == cost
    assert summary["races"][0]["interval"] == list(found.duels[0].interval)
    assert Race(RacePlan(note="why")).summary() == {
        "rule": COVER,
        "chose": [COVER],
        "start": COVER,
        "why": "",
        "note": "why",
        "fallen_after": None,
        "races": [],
        "retreats": [],
    }


# ---- the rule that stands first


def traffic(rows: int, classes: int, generator: np.random.Generator) -> np.ndarray:
    shares = 1 / np.arange(1, classes + 1)
    return generator.choice(classes, rows, p=shares / shares.sum())


@pytest.mark.parametrize("classes", [2, 20, 150])
@pytest.mark.parametrize("rows", [60, 500])
def test_a_dev_split_of_the_same_kind_is_no_shift_whatever_its_size(classes: int, rows: int) -> None:
    generator = np.random.default_rng(3)
    shifts = [class_shift(traffic(3000, classes, generator), traffic(rows, classes, generator)) for _ in range(20)]
    assert abs(np.mean(shifts)) < 0.05
    assert max(shifts) < 0.2


@pytest.mark.proves("auto", kind="race", by="planted")
def test_hardest_stands_first_where_dev_has_other_classes() -> None:
    generator = np.random.default_rng(3)
    train, even = traffic(3000, 50, generator), np.arange(500) % 50
    assert first_rule(train, even).rule == "hardest"
    assert first_rule(train, traffic(500, 50, generator)).rule == COVER
    assert first_rule(np.arange(3000) % 50, even).rule == COVER
    assert first_rule(np.where(train == 3, -100, train), even).rule == "hardest"  # rows without a class do not count
    assert first_rule(train, np.where(even == 3, -100, even)).rule == "hardest"
    assert first_rule(np.full(9, -100), even).rule == COVER
    for missing in ((None, even), (train, None), (train, even[:0]), (train, np.full(9, -100))):
        assert first_rule(*missing).rule == COVER


def test_numbers_of_classes_may_be_huge() -> None:
    train, dev = np.repeat([0, 1], [90, 10]), np.repeat([0, 1, 2], [50, 40, 10])
    names = np.array([7, 2**40, 2**62])
    assert class_shift(names[train], names[dev]) == class_shift(train, dev) > 0.2
    assert first_rule(names[train], names[dev]).rule == "hardest"


def test_of_rows_that_are_chosen_once_nothing_can_be_taken_back() -> None:
    groups = np.arange(3000) % 77
    for static in (False, True):
        diet = Diet(keep=0.3, static=static)
        diet.begin(3000, epochs=5, batch=32, groups=groups, dev_groups=groups[:500], dev_rows=40, watched=True)
        assert diet.race is not None
        assert diet.race.first.rule == (COVER if static else "hardest")
    diet = Diet(keep=0.3, static=True)
    shifted = traffic(3000, 50, np.random.default_rng(3))
    diet.begin(3000, epochs=5, batch=32, groups=shifted, dev_groups=groups[:500] % 50, dev_rows=40, watched=True)
    assert diet.race is not None
    assert re.search(r"rule hardest \(the classes of dev are shared out .* training, by \d+%\)\.$", diet.race.warning)


def test_hardest_stands_first_with_many_classes_or_tags_if_somebody_watches() -> None:
    many, few = np.arange(3000) % 77, np.arange(3000) % 8
    uneven = np.minimum(np.random.default_rng(3).geometric(0.3, 3000), 60)  # of sixty classes six count
    dev = {"many": many[:500], "few": few[:500], "uneven": uneven[:500]}
    assert [first_rule(rows, dev[name]).rule for name, rows in (("many", many), ("few", few))] == [COVER, COVER]
    assert first_rule(many, dev["many"], watched=True).rule == "hardest"
    assert first_rule(few, dev["few"], watched=True).rule == COVER
    assert first_rule(uneven, dev["uneven"], watched=True).rule == COVER
    for classes in ((few, dev["few"]), (None, None)):  # of a joint task, of a tagger
        tried = [(rows, watched) for rows in (49, 50) for watched in (False, True)]
        starts = [first_rule(*classes, tagged_rows=rows, watched=watched).rule for rows, watched in tried]
        assert starts == [COVER, COVER, COVER, "hardest"]
        starts = [first_rule(*classes, tagged_rows=50, watched=True, keep=keep).rule for keep in (0.1, 0.2)]
        assert starts == [COVER, "hardest"]
        starts = [first_rule(*classes, rows=rows, tagged_rows=50, watched=True).rule for rows in (4000, 4001)]
        assert starts == ["hardest", COVER]
    assert first_rule(many, dev["many"], rows=4001, tagged_rows=500, watched=True).rule == "hardest"
    for few_rows in (many[:49], np.where(many[:60] < 11, -100, many[:60])):  # too few to watch by
        assert first_rule(many, few_rows, watched=True).rule == COVER


def test_the_first_rule_says_why() -> None:
    many, even = np.arange(3000) % 77, np.arange(3000) % 20
    classes, few, none = (many, many[:500]), (many % 2, many[:500] % 2), (None, None)
    told = [
        first_rule(*classes, watched=True),
        first_rule(*classes, tagged_rows=500, watched=True),
        first_rule(*classes),
        first_rule(*classes, watched=True, static=True),
        first_rule(*none, tagged_rows=49, watched=True),
        first_rule(*none, tagged_rows=500, watched=True, keep=0.1),
        first_rule(*none, rows=4001, tagged_rows=500, watched=True),
        first_rule(*few, watched=True),
        first_rule(np.r_[even, 3], even[:500], watched=True),
        first_rule(0 * many, 0 * many[:500], watched=True),
        first_rule(*none, watched=True),
    ]
    back = ", so that hardest could not be taken back"
    assert [found.why for found in told] == [
        "the rows have 77 classes in effect",
        "the words of a row have tags",
        "the rows have 77 classes in effect, but no dev metric of which more is better is measured after each epoch"
        + back,
        "the rows have 77 classes in effect, but the choice is made once for all" + back,
        "the words of a row have tags, but dev has fewer than 50 rows with a known label" + back,
        "less than 15% of the rows are kept, too few for tags",
        "of more than 4,000 rows, hard ones teach tags little more than others",
        "the rows have 2 classes in effect, too few",
        "the rows have 19 classes in effect, too few",
        "the rows have 1 class in effect, too few",
        "",
    ]
    found = first_rule(even, even[:500], watched=True)
    assert (found.rule, found.why) == ("hardest", "the rows have 20 classes in effect")


@pytest.mark.parametrize(("epochs", "again"), [(2, False), (5, True)])
def test_the_dev_metric_is_not_promised_to_take_back_what_is_chosen_once(epochs: int, again: bool) -> None:
    groups = np.arange(3000) % 77
    diet = Diet(keep=0.3, refresh_every=1)
    diet.begin(3000, epochs=epochs, batch=512, groups=groups, dev_groups=groups[:500], dev_rows=500, watched=True)
    assert diet.race is not None
    assert diet.race.first.rule == "hardest"
    assert diet.race.warning.endswith("as long as the dev metric does not fall.") is again


# ---- back to cover


def judged(values: list[float], rows: int = 500, *, watched: bool = False, **changes: Any) -> Race:
    first = FirstRule("hardest", "many classes", while_watched=watched)
    found = Race(RacePlan(note="no race"), first=first, watched=watched, **changes)
    for epoch, value in enumerate(values):
        found = found.judge(epoch, value, rows)
    return found


@pytest.mark.proves("auto", kind="race", by="planted")
def test_a_rule_under_which_the_dev_metric_falls_is_given_up() -> None:
    fallen = judged([0.67, 0.33]).reconsidered(2)
    assert (fallen.rule, fallen.first.rule) == (COVER, "hardest")
    assert [(one.epoch, one.rule, one.best, one.value) for one in fallen.retreats] == [(2, "hardest", 0.67, 0.33)]
    assert fallen.judge(2, 0.1, 500).reconsidered(3) == fallen.judge(2, 0.1, 500)  # cover stays
    assert judged([]).restored(json.loads(json.dumps(fallen.state()))) == fallen
    assert json.loads(json.dumps(fallen.summary()))["retreats"][0]["error"] == pytest.approx(0.021, abs=1e-3)


@pytest.mark.parametrize(
    ("values", "rows", "epoch"),
    [
        ([0.67, 0.64], 500, 2),  # within two errors
        ([0.67, 0.56], 50, 2),
        ([0.3, 0.5, 0.7], 500, 3),
        ([0.67, 0.33, 0.68], 500, 3),  # risen again
        ([0.67, 0.33], 500, 3),  # not known after the last epoch
        ([0.67], 500, 1),
        ([], 500, 1),
    ],
)
def test_a_rule_goes_on_where_the_dev_metric_does_not_fall(values: list[float], rows: int, epoch: int) -> None:
    found = judged(values, rows)
    assert found.reconsidered(epoch) is found


def test_what_falls_before_a_rule_chooses_is_not_its_fault() -> None:
    assert judged([0.67, 0.33], begins=2).reconsidered(2).rule == "hardest"
    assert judged([0.67, 0.33, 0.34], begins=2).reconsidered(3).rule == "hardest"
    assert judged([0.67, 0.33, 0.23], begins=2).reconsidered(3).rule == COVER
    cover = Race(RacePlan((1, 3), 5, 200)).judge(0, 0.9, 500).judge(1, 0.5, 500).judge(2, 0.5, 500)
    won = cover.decided(3, {COVER: DEV, "hardest": 0.5 * DEV})
    assert won.reconsidered(4) is won
    assert won.judge(3, 0.4, 500).reconsidered(5).rule == "hardest"  # the metric after the last epoch is not known
    assert won.judge(3, 0.5, 500).reconsidered(4).rule == "hardest"
    assert won.judge(3, 0.4, 500).reconsidered(4).rule == COVER


UNWATCHABLE = [87.0, 1.01, -1.01, math.nan]


@pytest.mark.parametrize("value", UNWATCHABLE)
def test_a_rule_that_waits_for_a_fall_is_given_up_where_the_metric_cannot_tell(value: float) -> None:
    begun = judged([value], watched=True)
    assert begun.judgements == judged([0.5], rows=0).judgements == ()
    assert [(one.epoch, one.rule, one.value) for one in begun.reconsidered(1).retreats] == [(1, "hardest", None)]
    assert begun.reconsidered(1).chose == [COVER]
    later = judged([0.6, 0.7, value], watched=True)
    assert later.reconsidered(2) is later
    assert later.reconsidered(3).chose == ["hardest", COVER]
    assert later.restored(json.loads(json.dumps(later.reconsidered(3).state()))) == later.reconsidered(3)
    won = replace(later, plan=RacePlan((1,), 5, 200)).decided(1, {"hardest": DEV, COVER: DEV + 1})
    for other in (replace(later, first=FirstRule("hardest")), won):
        assert other.reconsidered(3) is other


def test_before_any_epoch_nothing_can_be_known_of_a_rule() -> None:
    found = judged([], watched=True, begins=0)
    assert found.reconsidered(0) is found
    assert found.reconsidered(1).rule == COVER


def test_the_rules_that_have_chosen_are_in_order() -> None:
    plan = RacePlan((2, 4), 5, 200)
    first = replace(judged([0.67, 0.33]), plan=plan).reconsidered(2)
    won = first.decided(2, {COVER: DEV, "visits": 0.5 * DEV})  # before the same cycle: cover has chosen nothing
    assert won.chose == ["hardest", "visits"]
    again = won.judge(3, 0.5, 500).decided(4, {"visits": DEV, COVER: DEV + 1}).judge(4, 0.1, 500).reconsidered(5)
    assert again.chose == again.summary()["chose"] == ["hardest", "visits", COVER]


def test_a_rule_that_was_given_up_does_not_challenge_first() -> None:
    fallen = judged([0.67, 0.33]).reconsidered(2)
    assert fallen.challenger((COVER, "hardest", "visits")) == "visits"
    won = replace(fallen, plan=RacePlan((2,), 5, 200)).decided(2, {COVER: DEV, "visits": 0.5 * DEV})
    assert won.rule == "visits"  # the race before the same cycle comes after


def test_a_diet_chooses_by_cover_after_a_fall() -> None:
    groups, values = np.arange(3000) % 77, np.random.default_rng(3).exponential(size=3000).astype(np.float32)
    options = {"groups": groups, "dev_groups": groups[:500], "dev_rows": 40, "watched": True}
    diet = Diet(keep=0.3, seed=1, refresh_every=1)
    diet.begin(3000, epochs=5, batch=32, **options)
    assert diet.race is not None
    assert diet.race.warning.endswith("77 classes in effect), as long as the dev metric does not fall.")
    assert not diet.lacks_judgement(0)
    assert diet.lacks_judgement(1)
    diet.plan(0)
    diet._current.take(np.arange(3000), values)
    diet.judge(0, 0.6, 500)
    first = diet.plan(1).rows
    assert_array_equal(first, np.sort(np.argsort(-values, kind="stable")[: len(first)]))
    diet.judge(1, 0.3, 500)
    assert not diet.lacks_judgement(2)
    state = copy.deepcopy(diet.state_dict())
    second = diet.plan(2).rows
    assert diet.rule == COVER
    assert not np.isin(second, first).any()  # it counts what hardest has shown
    again = Diet(keep=0.3, seed=1, refresh_every=1)
    again.begin(3000, epochs=5, batch=32, state=state, **options)
    assert_array_equal(again.plan(2).rows, second)
    with pytest.raises(ArgumentError, match=r"the dev metric is measured after each epoch.*must be 'hardest'"):
        Diet(keep=0.3, seed=1, refresh_every=1).begin(
            3000, epochs=5, batch=32, state=state, **{**options, "watched": False}
        )


def test_the_first_rule_chooses_until_a_race_is_lost() -> None:
    generator = np.random.default_rng(3)
    diet = Diet(keep=0.3, seed=1)
    diet.begin(
        9000, epochs=5, batch=32, groups=traffic(9000, 50, generator), dev_groups=np.arange(900) % 50, dev_rows=900
    )
    assert (diet.rule, diet.race.first.rule) == ("hardest", "hardest")
    values = generator.exponential(size=9000).astype(np.float32)
    diet.plan(0)
    diet._current.take(np.arange(9000), values)
    assert list(diet.entrants(1)) == ["hardest", COVER]
    losses = generator.exponential(size=400).astype(np.float32)
    diet.decide(1, {"hardest": losses, COVER: 0.5 * losses})
    assert diet.rule == COVER


def test_a_race_that_nobody_judges_leaves_the_rule_at_hand() -> None:
    values = np.random.default_rng(3).exponential(size=9000).astype(np.float32)

    def before_the_race() -> Diet:
        diet = Diet(keep=0.3, seed=1)
        diet.begin(9000, epochs=5, batch=32, dev_rows=900)
        diet.plan(0)
        diet._current.take(np.arange(9000), values)
        return diet

    asked, other = before_the_race(), before_the_race()
    first = next(iter(asked.entrants(1).values()))
    plan = asked.plan(1)
    assert_array_equal(plan.rows, first.rows)
    assert_array_equal(plan.rows, other.plan(1).rows)
    assert (asked.round, asked.rule) == (other.round, other.rule)
    assert asked.entrants(1) == {}
    with pytest.raises(ArgumentError, match="no race is due before epoch 1"):
        asked.decide(1, {})
    assert_array_equal(asked.plan(2).rows, other.plan(2).rows)
    left = before_the_race()
    assert left.entrants(1)
    assert left.plan(2).epoch == 2
    assert left.entrants(2) == {}


# ---- inside a diet

N = 240
ERRORS = np.random.default_rng(5).uniform(0.1, 1.2, N)
OPTIONS: dict[str, Any] = {"keep": 0.5, "seed": 3, "select": "auto(share=0.5)"}


def signals(errors: np.ndarray) -> Signals:
    """Two-class signals whose EL2N is the given error: sqrt(2) (1 - p_gold)."""
    gold = 1 - torch.as_tensor(errors, dtype=torch.float32) / math.sqrt(2)
    logits = torch.stack([gold.log(), (1 - gold).log()], dim=1)
    return Signals({"label": HeadSignals(logits, torch.zeros(len(gold), dtype=torch.long))})


def begun(dev_rows: int | None = 200, *, state: Any = None, **options: Any) -> Diet:
    diet = Diet(**{**OPTIONS, **options})
    diet.begin(N, epochs=6, batch=4, dev_rows=dev_rows, state=state)
    return diet


def trained(diet: Diet, epoch: int) -> list[int]:
    """Train one epoch; the race before it is decided already."""
    plan = diet.plan(epoch)
    diet.observe(torch.from_numpy(plan.rows), signals(ERRORS[plan.rows]), epoch=epoch)
    diet.absorb(diet.drain())
    return plan.rows.tolist()


def turns_of(diet: Diet) -> np.ndarray:
    return diet.state_dict()[0]["turns.visits"]


@pytest.mark.parametrize("winner", ["cover", "hardest"])
def test_the_winner_of_a_race_is_the_plan_and_has_had_its_turn(winner: str) -> None:
    diet = begun()
    assert diet.race is not None
    assert diet.race.plan.epochs == (1, 4)
    trained(diet, 0)
    assert diet.entrants(0) == {}
    first, again = diet.entrants(1), diet.entrants(1)
    assert list(first) == ["cover", "hardest"]
    for rule, plan in first.items():
        assert_array_equal(again[rule].rows, plan.rows)
        assert (len(plan.rows), plan.epoch, plan.full) == (120, 1, False)
    assert first["cover"].rows.tolist() != first["hardest"].rows.tolist()
    assert turns_of(diet).sum() == 0  # asking gives nobody a turn
    assert (diet.round, diet.rule) == (0, "cover")
    losses = {"cover": DEV, "hardest": 0.5 * DEV if winner == "hardest" else DEV}
    plan = diet.decide(1, losses)
    assert diet.rule == winner
    assert_array_equal(plan.rows, first[winner].rows)
    assert diet.plan(1) is plan
    assert_array_equal(np.flatnonzero(turns_of(diet)), plan.rows)
    assert diet.round == 1
    assert diet.entrants(1) == {}
    with pytest.raises(ArgumentError, match="no race is due before epoch 1"):
        diet.decide(1, losses)


def test_a_rule_that_has_won_is_that_selector_from_there_on() -> None:
    racing, alone = begun(), begun(select="hardest")
    for epoch in range(4):
        if racing.entrants(epoch):
            racing.decide(epoch, {"cover": DEV, "hardest": 0.5 * DEV})
        assert trained(racing, epoch) == trained(alone, epoch)
    assert list(racing.entrants(4)) == ["hardest", "cover"]


def test_rules_that_take_the_same_rows_have_nothing_to_decide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Diet, "_entrant", _as_cover(Diet._entrant))
    racing, alone = begun(), begun(select="cover")
    for epoch in range(6):
        assert racing.entrants(epoch) == {}
        assert racing.entrants(epoch) == {}  # asked again
        assert trained(racing, epoch) == trained(alone, epoch)
        assert racing.round == alone.round
    assert racing.race is not None
    told = racing.race.summary()
    assert told["races"] == []
    assert told["note"] == "before epoch 2 and 5 both rules take the same rows"
    assert racing.race.restored(json.loads(json.dumps(racing.race.state()))) == racing.race


def _as_cover(usual: Any) -> Any:
    return lambda self, values, count, epoch, rule, begins=False: usual(self, values, count, epoch, COVER)


@pytest.mark.parametrize("dev_rows", [None, 30])
def test_without_a_usable_dev_split_every_cycle_takes_cover(dev_rows: int | None) -> None:
    racing, alone = begun(dev_rows), begun(select="cover")
    assert racing.race is not None
    assert racing.race.plan.note
    for epoch in range(6):
        assert racing.entrants(epoch) == {}
        assert trained(racing, epoch) == trained(alone, epoch)


def test_a_checkpoint_between_races_goes_on_as_if_nothing_had_been() -> None:
    whole = begun()
    trained(whole, 0)
    whole.entrants(1)
    whole.decide(1, {"cover": DEV, "hardest": 0.5 * DEV}, {"cover": {"steps": 9.0}})
    trained(whole, 1)
    arrays, numbers = whole.state_dict()
    rest = begun(state=(arrays, json.loads(json.dumps(numbers))))
    assert rest.race == whole.race
    assert rest.entrants(1) == {}
    assert_array_equal(rest.plan(1).rows, whole.plan(1).rows)
    assert_array_equal(turns_of(rest), turns_of(whole))
    for epoch in (2, 3):
        assert trained(rest, epoch) == trained(whole, epoch)
    for rule, plan in whole.entrants(4).items():
        assert_array_equal(rest.entrants(4)[rule].rows, plan.rows)


def test_only_the_hardest_are_guarded_against_wrong_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that contradict a confident model cannot be chosen by `hardest`; `cover` and `visits` take them all."""
    diet = Diet(**{**OPTIONS, "keep": 0.9})
    diet.begin(N, epochs=6, batch=4, dev_rows=200, groups=np.zeros(N, np.int64))
    assert diet.guarded
    assert diet.noise_monitor is not None
    trained(diet, 0)
    free = np.arange(N) >= 12
    monkeypatch.setattr(type(diet.noise_monitor), "candidates", lambda self, count: free)
    monkeypatch.setattr(Race, "challenger", lambda self, allowed: "hardest")
    entrants = diet.entrants(1)
    assert len(entrants["hardest"].rows) == len(entrants["cover"].rows) == 216
    assert free[entrants["hardest"].rows].all()
    assert not free[entrants["cover"].rows].all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"select": "auto(share=0)"}, r"share of auto must be in \(0, 0.5\], got 0"),
        ({"select": "auto(share=5)"}, r"share of auto must be in \(0, 0.5\], got 5"),
        ({"select": "auto(shares=0.1)"}, "shares.*did you mean.*share"),
        ({"select": "atuo"}, "unknown selector 'atuo'; did you mean 'auto'"),
    ],
)
def test_options_of_the_race(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        Diet(**options)


def test_the_default_races_and_chooses_anew_every_epoch() -> None:
    options = Diet().options
    assert (options.select, options.race, options.refresh_every, options.offset) == ("auto", RaceOptions(), 1, "auto")
    assert Diet(select="auto(share=0.1, on_cpu=true)").options.race == RaceOptions(0.1, on_cpu=True)
    assert Diet(select="auto").describe()["select"] == "auto"
    assert Diet(tolerance=1.0).options.select == "hardest"
    assert Diet(tolerance=1.0).options.race is None
    assert race.RULES[COVER].select == COVER
