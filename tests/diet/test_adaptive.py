"""A schedule whose counts are decided one cycle at a time."""

from itertools import pairwise

import pytest

from datadiet.diet.schedule import AdaptiveSchedule
from datadiet.errors import ArgumentError


def schedule(**options):
    return AdaptiveSchedule(
        **{"num_examples": 103, "epochs": 6, "warmup_epochs": 1, "refresh_every": 2, "batch": 10, **options}
    )


def test_what_is_not_decided_counts_as_everything():
    found = schedule()
    assert [found.count(epoch) for epoch in range(6)] == [103] * 6
    assert found.total_steps == 66
    assert [epoch for epoch in range(6) if found.is_refresh(epoch)] == [1, 3, 5]


def test_a_decision_holds_for_its_cycle_in_whole_steps():
    found = schedule().decide(1, 47).decide(3, 5)
    assert [found.count(epoch) for epoch in range(6)] == [103, 40, 40, 10, 10, 103]
    assert [found.is_full(epoch) for epoch in range(6)] == [True, False, False, False, False, True]


@pytest.mark.parametrize(("wanted", "count"), [(93, 90), (94, 103), (103, 103), (10**6, 103), (0, 10)])
def test_everything_is_taken_where_less_than_a_step_would_be_saved(wanted, count):
    assert schedule().decide(1, wanted).count(1) == count


def test_cycles_are_decided_in_order():
    with pytest.raises(ValueError, match="epoch 3 does not begin the cycle"):
        schedule().decide(3, 50)
    with pytest.raises(ValueError, match="epoch 1 does not begin the cycle"):
        schedule().decide(1, 50).decide(1, 50)


def test_an_earlier_end_leaves_nothing_after_it():
    found = schedule().decide(1, 50).decide(3, 20, last=4)
    assert [found.count(epoch) for epoch in range(6)] == [103, 50, 50, 20, 0, 0]
    assert found.last == 4
    assert found.locate(found.total_steps) == (6, 0)


@pytest.mark.parametrize(
    "decided",
    [
        schedule(),
        schedule().decide(1, 50),
        schedule().decide(1, 50).decide(3, 20).decide(5, 10),
        schedule().decide(1, 50).decide(3, 20, last=5),
        schedule().decide(1, 30, last=2),
        schedule(refresh_every=1).decide(1, 103).decide(2, 11, last=4).decide(3, 15),
    ],
)
def test_the_learning_rate_never_goes_back_and_ends_at_the_end(decided):
    places = [decided.position(step) for step in range(decided.total_steps + 1)]
    assert places[0] == 0
    assert places[-1] == 66  # the steps of the planned maximum
    assert all(before < after for before, after in pairwise(places))


def test_an_epoch_takes_the_learning_rate_an_epoch_further_however_few_rows_it_has():
    found = schedule().decide(1, 50)
    assert found.position(11) == 11  # after the warm-up
    assert found.position(11 + 5) == 22
    assert found.position(11 + 10) == 33


def test_what_is_decided_later_does_not_move_what_has_been():
    before = schedule().decide(1, 50)
    after = before.decide(3, 20, last=4)
    assert [before.position(step) for step in range(22)] == [after.position(step) for step in range(22)]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"warmup_epochs": 0}, "tolerance needs at least one epoch on everything"),
        ({"warmup_epochs": 6}, "no epoch is left for the diet"),
        ({"refresh_every": 0}, "refresh_every must be"),
        ({"batch": 104}, "there is no full batch"),
    ],
)
def test_what_is_impossible_is_refused(options, said):
    with pytest.raises(ArgumentError, match=said):
        schedule(**options)


def test_floors_bound_every_cycle_from_below():
    schedule = AdaptiveSchedule(num_examples=100, epochs=5, batch=16, least=30)
    assert schedule.decide(1, 3).count(1) == 32  # whole steps, and never fewer than the floors take
    assert schedule.decide(1, 50).count(1) == 48
    assert AdaptiveSchedule(num_examples=100, epochs=5, batch=16, least=90).decide(1, 3).count(1) == 100
