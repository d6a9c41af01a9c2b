"""What a rule proposes, what changes when it is taken, and the turns that a run takes up again."""

from functools import partial
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from datadiet.config import DietConfig
from datadiet.diet.choose import BoundSelector, Candidate, Chooser, SelectorContext, selector_of
from datadiet.diet.options import resolve
from datadiet.errors import ArgumentError
from datadiet.registry import load
from datadiet.selectors.quotas import balanced
from datadiet.selectors.turns import Turns

ROWS = 12
VALUES = np.linspace(0, 1, ROWS, dtype=np.float32)


def chooser(select: str = "cover") -> Chooser:
    return Chooser(resolve(DietConfig(select=select, keep=0.5)), SelectorContext(), ROWS)


def proposed(by: Chooser, rule: str | None = None, pool: NDArray[np.bool_] | None = None, **more: bool) -> Candidate:
    return by.propose(VALUES if pool is None else VALUES[pool], pool, 4, 1, rule, SelectorContext(), **more)


def test_a_proposal_changes_nothing_until_it_is_taken() -> None:
    cover = chooser()
    first = proposed(cover)
    assert proposed(cover).rows.tolist() == first.rows.tolist()
    cover.take(first)
    second = proposed(cover)
    assert not set(first.rows) & set(second.rows)  # those have had their turn
    assert proposed(cover, begins=True).rows.tolist() == first.rows.tolist()


def test_rows_are_those_of_the_whole_set_and_others_have_no_turn() -> None:
    pool = np.arange(ROWS) % 2 == 1
    cover = chooser()
    cover.take(found := proposed(cover, pool=pool))
    assert set(found.rows) <= set(range(1, ROWS, 2))
    assert (cover.state()["turns.expected"][~pool] == 0).all()
    assert cover.state()["turns.visits"].sum() == 4


def test_each_rule_of_auto_chooses_by_its_own_selector_and_all_share_the_turns() -> None:
    auto = chooser("auto")
    assert proposed(auto, "hardest").rows.tolist() == [8, 9, 10, 11]
    auto.take(proposed(auto, "hardest"))
    assert not {8, 9, 10, 11} & set(proposed(auto, "cover").rows)


def test_turns_are_taken_up_again() -> None:
    before, after = chooser(), chooser()
    drawn = before.draw(None, 4, epoch=0)
    after.load({name: array.copy() for name, array in before.state().items()})
    found = proposed(after)
    assert found.rows.tolist() == proposed(before).rows.tolist()
    assert not set(drawn) & set(found.rows)
    assert chooser("hardest").state() == {}


SEEN = Turns(np.arange(ROWS) % 3, np.ones(ROWS))


@pytest.mark.parametrize(
    ("inner", "part", "given"),
    [
        ("k_center", "features", np.random.default_rng(0).normal(size=(ROWS, 2))),
        ("quadrants", "entropy", np.random.default_rng(1).random(ROWS).astype(np.float32)),
        ("uncertain", "scale", 2.0),
        ("cover", "turns", SEEN),
    ],
)
def test_a_selector_inside_another_goes_by_what_it_would_alone(inner: str, part: str, given: Any) -> None:
    groups = np.repeat([0, 1], [4, 8])
    bound = BoundSelector("balanced", options={"select": inner}, floor=0, seed=3)
    rows = bound.choose(VALUES, 6, epoch=1, context=SelectorContext(groups, **{part: given})).rows
    own: Any = {"select": load("select", inner), part: given}
    assert rows.tolist() == balanced(VALUES, 6, seed=3, epoch=1, groups=groups, **own).rows.tolist()


def test_what_a_selector_inside_another_needs_is_asked_for_before_the_training() -> None:
    groups = np.arange(ROWS) % 2
    with pytest.raises(ArgumentError, match="this selector needs features"):
        Chooser(resolve(DietConfig(select="balanced(select=k_center)")), SelectorContext(groups), ROWS)
    with pytest.raises(ArgumentError, match="needs the text of each row"):
        Chooser(
            resolve(DietConfig(select="balanced(select=paser(consistent=true))")),
            SelectorContext(groups, features=np.zeros((ROWS, 2))),
            ROWS,
        )


def test_rows_take_turns_inside_each_class_too() -> None:
    options = resolve(DietConfig(select="balanced(select=cover)", keep=0.5))
    assert options.refresh_every == 1
    context = SelectorContext(np.arange(ROWS) % 2)
    by = Chooser(options, context, ROWS)
    found = []
    for _ in range(3):
        candidate = by.propose(VALUES, None, 4, 1, None, context)
        by.take(candidate)
        found += candidate.rows.tolist()
    assert sorted(found) == list(range(ROWS))


@pytest.mark.parametrize("select", ["uncertain", "balanced(select=uncertain)", "quota(select=quadrants)"])
def test_what_needs_bounded_values_gets_means(select: str) -> None:
    assert resolve(DietConfig(select=select)).combine == "mean"


@pytest.mark.parametrize(
    ("select", "every"), [("seta", 2), ("balanced(select=seta)", 2), ("balanced(select=seta(every=1))", 1)]
)
def test_a_window_moves_with_every_choice_unless_it_says_how_often(select: str, every: int) -> None:
    values, groups = np.linspace(0, 1, 60, dtype=np.float32), np.zeros(60, np.int64)
    by = selector_of(resolve(DietConfig(select=select, keep=0.3)))
    for epoch in range(6):
        rows = by.choose(values, 18, epoch=epoch, context=SelectorContext(groups)).rows
        own: Any = {"every": every}
        alone = load("select", "seta")
        expected = alone if select == "seta" else partial(balanced, groups=groups, select=alone)
        assert rows.tolist() == expected(values, 18, seed=0, epoch=epoch, **own).rows.tolist()


@pytest.mark.parametrize("select", ["balanced(select=hardest, offset=0.25)", "balanced(select=window(offset=0.25))"])
def test_an_offset_stands_inside_the_brackets_or_beside_them(select: str) -> None:
    by = selector_of(resolve(DietConfig(select=select, keep=0.5)))
    context = SelectorContext(np.zeros(ROWS, np.int64))
    assert by.choose(VALUES, 6, epoch=1, context=context).rows.tolist() == [3, 4, 5, 6, 7, 8]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"select": "balanced(select=window, offset=0)"}, "window needs an offset above 0"),
        ({"select": "balanced(select=cover, offset=0.1)"}, "unknown option of balanced 'offset'"),
        ({"select": "balanced(select=cover)", "offset": 0.1}, "offset has no effect on 'balanced'"),
        ({"select": "balanced(select=hardest(offset=0.1))", "offset": 0.2}, "offset is given twice, 0.2 and 0.1"),
    ],
)
def test_offsets_that_exclude_nothing_or_come_twice(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        resolve(DietConfig(**options))
