from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import torch
from torch.utils.data import BatchSampler, RandomSampler, SequentialSampler, WeightedRandomSampler
from transformers.trainer_pt_utils import LengthGroupedSampler, get_length_grouped_indices

from datadiet.errors import ArgumentError
from datadiet.training.sampler import DietSampler, length_grouped
from datadiet.types import EpochPlan

ROWS = np.array([1, 3, 4, 8, 9, 11])
LENGTHS = np.arange(12) * 10


def plan(epoch: int, rows: np.ndarray = ROWS) -> EpochPlan:
    return EpochPlan(epoch, rows, full=False)


def order(sampler: DietSampler, epoch: int) -> list[int]:
    sampler.set_plan(plan(epoch))
    return list(sampler)


def test_length_before_the_first_plan_is_the_longest_epoch():
    sampler = DietSampler(12)
    assert len(sampler) == 12
    sampler.set_plan(plan(0))
    assert len(sampler) == len(ROWS)


def test_no_order_without_a_plan():
    with pytest.raises(RuntimeError, match="no plan"):
        iter(DietSampler(3))


@pytest.mark.parametrize("strategy", ["random", "group_by_length"])
def test_order_is_pure_in_seed_and_epoch_and_leaves_global_generators_alone(strategy):
    sampler = DietSampler(12, strategy=strategy, seed=5, lengths=LENGTHS, batch_size=2)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    first = order(sampler, 2)
    again = order(DietSampler(12, strategy=strategy, seed=5, lengths=LENGTHS, batch_size=2), 2)
    assert first == again
    assert sorted(first) == ROWS.tolist()
    assert any(order(sampler, epoch) != first for epoch in range(3, 8))
    assert any(
        order(DietSampler(12, strategy=strategy, seed=s, lengths=LENGTHS, batch_size=2), 2) != first for s in (6, 7)
    )
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002


def test_grouping_by_length_keeps_batches_even():
    rows = np.arange(200)
    lengths = np.random.default_rng(0).integers(3, 60, 200)

    def padded(strategy: str) -> int:
        sampler = DietSampler(200, strategy=strategy, lengths=lengths, batch_size=10)
        sampler.set_plan(plan(0, rows))
        return sum(10 * lengths[batch].max() for batch in BatchSampler(sampler, 10, drop_last=False))

    assert padded("group_by_length") < 0.75 * padded("random")


def padded(places: np.ndarray, lengths: np.ndarray, batch: int) -> int:
    """Positions of the padded batches of an order."""
    return sum(len(part) * lengths[part].max() for part in np.split(places, range(batch, len(places), batch)))


def test_a_small_share_is_padded_no_more_than_the_whole():
    """Upstream would: it groups a fourth of what there is, however little that is."""
    lengths = np.random.default_rng(0).integers(3, 60, 4480)
    few = np.random.default_rng(1).choice(lengths, 896, replace=False)
    drawn = torch.Generator().manual_seed(0)  # without one upstream draws from torch's own
    upstream = np.array(get_length_grouped_indices(few.tolist(), 32, generator=drawn))
    ours = length_grouped(few, 32, np.random.default_rng(0))
    whole = length_grouped(lengths, 32, np.random.default_rng(0))
    assert padded(upstream, few, 32) > 1.1 * few.sum()
    assert padded(ours, few, 32) < 1.06 * few.sum()
    assert padded(whole, lengths, 32) < 1.06 * lengths.sum()


def test_batches_of_one_group_come_in_no_order_of_length_but_the_longest_first():
    lengths = np.random.default_rng(0).integers(3, 60, 330)
    places = length_grouped(lengths, 10, np.random.default_rng(0))
    assert sorted(places.tolist()) == list(range(330))
    longest = lengths[places].reshape(-1, 10).max(axis=1)
    assert longest[0] == lengths.max()
    assert 0.3 < (np.diff(longest[1:]) > 0).mean() < 0.7


def test_every_process_gets_a_batch_of_the_same_group():
    lengths = np.random.default_rng(0).integers(3, 60, 320)
    built = LengthGroupedSampler(10, lengths=lengths.tolist())
    sampler = DietSampler.like(built, 320, seed=0, processes=4)
    sampler.set_plan(plan(0, np.arange(320)))
    steps = lengths[list(sampler)].reshape(-1, 40)
    assert (steps.max(axis=1) - steps.min(axis=1)).max() < 20


@pytest.mark.parametrize(
    ("built", "expected"),
    [
        (SequentialSampler(range(12)), ROWS.tolist()),
        (RandomSampler(range(12)), None),
        (LengthGroupedSampler(2, lengths=LENGTHS.tolist()), None),
    ],
)
def test_keeps_the_strategy_of_the_sampler_it_replaces(built, expected):
    found = order(DietSampler.like(built, 12, seed=0), 0)
    assert sorted(found) == ROWS.tolist()
    assert expected is None or found == expected
    if isinstance(built, LengthGroupedSampler):
        assert found[0] == 11  # the longest comes first, as upstream does


def test_refuses_a_strategy_it_cannot_keep():
    with pytest.raises(ArgumentError, match="cannot keep the order of WeightedRandomSampler"):
        DietSampler.like(WeightedRandomSampler([1.0], 1), 1, seed=0)


@pytest.mark.parametrize(("strategy", "most"), [("sequential", 4), ("random", 12), ("group_by_length", 36)])
def test_an_order_of_many_rows_is_no_list(strategy, most):
    count = 50_000
    lengths = np.random.default_rng(0).integers(3, 60, count)
    sampler = DietSampler(count, strategy=strategy, lengths=lengths, batch_size=8)
    sampler.set_plan(plan(0, np.arange(count)))
    tracemalloc.start()
    try:
        total = sum(iter(sampler))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert total == count * (count - 1) // 2
    assert peak / count <= most  # bytes per row; Python's own numbers in a list take 40


def test_an_order_that_has_begun_does_not_follow_a_new_plan():
    sampler = DietSampler(12, strategy="sequential")
    sampler.set_plan(plan(0))
    begun = iter(sampler)
    first = next(begun)
    sampler.set_plan(plan(1, ROWS + 100))
    assert [first, *begun] == ROWS.tolist()


def test_lengths_at_hand_are_not_made_twice():
    theirs = LengthGroupedSampler(2, lengths=LENGTHS.tolist())
    at_hand = LENGTHS.copy()
    assert DietSampler.like(theirs, 12, 0, lengths=at_hand)._lengths is at_hand
    assert DietSampler.like(theirs, 12, 0, lengths=at_hand + 1)._lengths.tolist() == LENGTHS.tolist()
