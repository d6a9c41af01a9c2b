"""The forecast of a run that stops early, and of its races; forecasts of whole schedules are in test_schedule.py."""

from __future__ import annotations

import pytest

from datadiet.diet.diet import Diet
from datadiet.diet.forecast import cut_short
from datadiet.types import EpochForecast, Forecast


def test_a_plan_that_is_cut_short() -> None:
    lines = tuple(EpochForecast(epoch, 10, 0, 3, False) for epoch in range(3))
    planned = Forecast(lines, 9, 30, 9, 30, 0, 0.0, 60, 60)
    cut = cut_short(planned, 5, batch=4)
    assert [line.steps for line in cut.epochs] == [3, 2]
    assert (cut.steps, cut.examples_backward, cut.tokens_backward) == (5, 18, 36)
    assert cut.examples_saved == pytest.approx(0.4)
    assert (cut.full_steps, cut.full_examples, cut.full_tokens) == (9, 30, 60)
    assert cut_short(planned, 6, batch=4).examples_backward == 20  # the smaller last batch of an epoch
    assert cut_short(planned, 9, batch=4).epochs == lines


@pytest.mark.parametrize(("rows", "dev_rows"), [(3850, 50), (5900, 400)])
def test_the_rows_that_docs_rules_names_are_enough_for_a_race_and_fifty_fewer_are_not(rows: int, dev_rows: int) -> None:
    races = [Diet(keep=0.3).forecast(n, epochs=5, batch=32, dev_rows=dev_rows).races for n in (rows, rows - 50)]
    assert races == [1, 0]
