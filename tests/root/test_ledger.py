from __future__ import annotations

import time

import pytest

from datadiet.ledger import Ledger
from datadiet.types import CostLedger


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still between calls of `clock(seconds)`."""
    ticks = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: sum(ticks))
    return ticks.append


def counts(cost: CostLedger) -> tuple[int, ...]:
    return cost.examples_forward, cost.examples_backward, cost.tokens_forward, cost.tokens_backward


def test_every_second_is_in_one_account(clock):
    ledger = Ledger()
    clock(1)
    with ledger.charge("train"):
        clock(2)
        with ledger.charge("score"):
            clock(4)
            with ledger.charge("select"):
                clock(8)
        clock(16)
    clock(32)
    with ledger.charge("save"):
        clock(64)
    cost = ledger.snapshot()
    assert (cost.load_s, cost.train_s, cost.score_s, cost.select_s, cost.save_s, cost.eval_s) == (33, 18, 4, 8, 64, 0)
    assert cost.total_s == 127
    assert cost.finetune_s == 18 + 4 + 8


def test_the_clock_may_have_started_earlier(clock):
    ledger = Ledger(started=90.0)
    assert ledger.snapshot().load_s == ledger.snapshot().total_s == 10


def test_an_error_inside_an_account_goes_back_to_the_outer_one(clock):
    ledger = Ledger()

    def failing():
        with ledger.charge("eval"):
            clock(1)
            raise KeyError("x")

    with pytest.raises(KeyError, match="x"):
        failing()
    clock(2)
    assert ledger.seconds("eval") == 1
    assert ledger.seconds("load") == 2


def test_a_resumed_run_adds_what_the_killed_one_had_spent(clock):
    ledger = Ledger()
    clock(5)
    ledger.count_training(3, 30, padded=40)
    earlier = {"examples_forward": 7, "examples_backward": 4, "tokens_forward": 70, "tokens_padded": 50}
    ledger.carry(CostLedger(load_s=1, train_s=2, total_s=3, **earlier))
    cost = ledger.snapshot()
    assert cost.tokens_padded == 90
    assert (cost.load_s, cost.train_s, cost.total_s) == (6, 2, 8)
    assert counts(cost) == (10, 7, 100, 30)


def test_shared_costs_are_charged_and_recorded_apart(clock):
    ledger = Ledger()
    clock(1)
    ledger.charge_shared(10)
    with ledger.charge("eval"):
        clock(2)
        ledger.charge_shared(20)
    cost = ledger.snapshot()
    assert (cost.load_s, cost.eval_s, cost.total_s, cost.shared_s) == (11, 22, 33, 30)
    resumed = Ledger()
    resumed.charge_shared(5)
    resumed.carry(cost)
    assert (resumed.snapshot().total_s, resumed.snapshot().shared_s) == (38, 35)


def test_scoring_counts_forward_only():
    ledger = Ledger()
    ledger.count_scoring(5, 50)
    assert counts(ledger.snapshot()) == (5, 0, 50, 0)


def test_a_run_inside_takes_the_place_of_its_own_time(clock):
    ledger = Ledger()
    clock(1)
    inner = Ledger()
    with inner.charge("train"):
        clock(4)
        inner.count_training(10, 100)
        inner.charge_shared(7)  # spent by others, before
    with inner.charge("eval"):
        clock(2)
    ledger.include(inner.snapshot())
    clock(1)
    cost = ledger.snapshot()
    assert (cost.load_s, cost.train_s, cost.eval_s, cost.shared_s, cost.total_s) == (2, 11, 2, 7, 15)
    assert (cost.examples_backward, cost.tokens_forward) == (10, 100)
