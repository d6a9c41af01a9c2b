"""A plan as arrays and plain values, and what a resumed run may not change."""

import json

import numpy as np
import pytest

from datadiet.diet.schedule import Schedule
from datadiet.diet.state import changes, joined, part, plan_of, plan_state, schedule_changes
from datadiet.types import EpochPlan

PLANS = {
    "ascending": EpochPlan(3, np.array([0, 2, 9]), full=False, round=2),
    "in another order": EpochPlan(3, np.array([9, 0, 2]), full=False, round=2),
    "weighed": EpochPlan(1, np.array([1, 4]), full=False, weights=np.float32([0.5, 1.5])),
    "of no row": EpochPlan(0, np.empty(0, np.int64), full=True),
}


@pytest.mark.parametrize("name", PLANS)
def test_a_plan_comes_back(name: str) -> None:
    arrays, numbers = plan_state(PLANS[name])
    found = plan_of(arrays, json.loads(json.dumps(numbers)))
    assert found is not None
    assert (found.epoch, found.full, found.round) == (PLANS[name].epoch, PLANS[name].full, PLANS[name].round)
    assert found.rows.tolist() == PLANS[name].rows.tolist()
    assert (found.weights is None) == (PLANS[name].weights is None)
    if found.weights is not None:
        np.testing.assert_array_equal(found.weights, PLANS[name].weights)


def test_no_plan_comes_back_as_none() -> None:
    assert plan_of(*plan_state(None)) is None


def test_states_of_parts_are_told_apart() -> None:
    arrays, numbers = joined({"a": ({"x": np.arange(2)}, {"n": 1}), "ab": ({"x": np.arange(3)}, {"n": 2})})
    assert numbers == {"a": {"n": 1}, "ab": {"n": 2}}
    assert {name: len(part(arrays, name)["x"]) for name in numbers} == {"a": 2, "ab": 3}


def test_what_has_changed_is_said_with_both_values() -> None:
    assert changes({"keep": 0.5, "old": 1}, {"keep": 0.5, "new": 2}) == []
    assert "another version" in changes(None, {})[0]
    assert "keep must be 0.5, as in the run that is resumed, got 0.3." in changes({"keep": 0.5}, {"keep": 0.3})


def test_more_epochs_are_allowed_where_those_that_have_begun_stay_as_they_were() -> None:
    assert schedule_changes(Schedule(100, 4), Schedule(100, 8), begun=3) == []
    assert "at least 3" in schedule_changes(Schedule(100, 4), Schedule(100, 2), begun=3)[0]
    annealed = (Schedule(100, epochs, anneal_epochs=2) for epochs in (4, 8))
    assert "would have been others" in schedule_changes(*annealed, begun=3)[0]
