"""What a rule proposes, what changes when it is taken, and the turns that a run takes up again."""

import numpy as np
from numpy.typing import NDArray

from datadiet.config import DietConfig
from datadiet.diet.choose import Candidate, Chooser, SelectorContext
from datadiet.diet.options import resolve

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
