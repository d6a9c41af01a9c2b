"""The forecast of a run that stops early; forecasts of whole schedules are in test_schedules.py."""

from __future__ import annotations

import pytest

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
