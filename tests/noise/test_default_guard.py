"""The noise guard that `hardest` has by default, and where it has none."""

from __future__ import annotations

import numpy as np
import pytest

from datadiet.config import FinetuneConfig
from datadiet.diet.diet import Diet
from datadiet.errors import ArgumentError, Problems
from datadiet.jobs import validate

GROUPS = np.arange(400) % 2


def begun(groups: np.ndarray | None = GROUPS, **options: object) -> Diet:
    diet = Diet(**options)
    diet.begin(400, epochs=5, groups=groups, write=False)
    return diet


def test_hardest_is_guarded_where_each_example_has_one_class() -> None:
    assert begun().watch is not None
    assert begun().describe()["offset"] == "auto"
    plain = begun(groups=None)
    assert plain.watch is None
    assert plain.describe()["offset"] == 0.0


def test_one_diet_on_two_data_sets_goes_by_each() -> None:
    diet = begun(groups=None)
    diet.begin(400, epochs=5, groups=GROUPS, write=False)
    assert diet.watch is not None


@pytest.mark.parametrize(
    "options",
    [{"offset": 0.0}, {"offset": 0.1}, {"select": "uncertain"}, {"keep": 1.0}, {"tolerance": 0.5}],
)
def test_nothing_else_is_guarded_unasked(options: dict[str, object]) -> None:
    assert begun(**options).watch is None


def test_a_guard_that_is_asked_for_needs_classes() -> None:
    with pytest.raises(ArgumentError, match="offset='auto' needs the class of each example"):
        begun(groups=None, offset="auto")


@pytest.mark.parametrize(
    ("task", "offset"), [("classification", "auto"), ("intent-slot", "auto"), ("multi-label", 0.0), ("regression", 0.0)]
)
def test_the_command_line_guards_by_the_task(task: str, offset: object) -> None:
    diet = validate._diet(FinetuneConfig("data", task, "run"), Problems())
    assert diet is not None
    assert diet.offset == offset
