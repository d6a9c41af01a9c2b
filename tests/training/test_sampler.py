"""The sampler of a run, and rows inside its batches, with workers and without."""

from __future__ import annotations

import pickle
import tracemalloc

import datasets
import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.data_loader import BatchSamplerShard
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    IterableDataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
    WeightedRandomSampler,
    default_collate,
)
from transformers import BatchEncoding, Trainer
from transformers.trainer_pt_utils import LengthGroupedSampler, get_length_grouped_indices

from datadiet.diet.diet import Diet
from datadiet.errors import ArgumentError
from datadiet.training.sampler import (
    ROW_KEY,
    DietSampler,
    RowCollator,
    RowDataset,
    carry_rows,
    length_grouped,
    take_over,
    without_rows,
)
from datadiet.training.trainer import DietMixin
from datadiet.types import EpochPlan
from toys import hard_diet, toy_trainer

ROWS = np.array([1, 3, 4, 8, 9, 11])
LENGTHS = np.arange(12) * 10


def plan(epoch: int, rows: np.ndarray = ROWS) -> EpochPlan:
    return EpochPlan(epoch, rows, full=False)


def order(sampler: DietSampler, epoch: int, rows: np.ndarray = ROWS) -> list[int]:
    sampler.set_plan(plan(epoch, rows))
    return list(sampler)


def test_length_before_the_first_plan_is_the_longest_epoch():
    sampler = DietSampler(12)
    assert len(sampler) == 12
    with pytest.raises(RuntimeError, match="no plan"):
        iter(sampler)
    sampler.set_plan(plan(0))
    assert len(sampler) == len(ROWS)


@pytest.mark.parametrize("strategy", ["random", "group_by_length"])
def test_order_is_pure_in_seed_and_epoch_and_leaves_global_generators_alone(strategy):
    def build(seed=5):
        return DietSampler(12, strategy=strategy, seed=seed, lengths=LENGTHS, batch_size=2)

    sampler = build()
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    first = order(sampler, 2)
    assert first == order(build(), 2)
    assert sorted(first) == ROWS.tolist()
    assert any(order(sampler, epoch) != first for epoch in range(3, 8))
    assert any(order(build(seed), 2) != first for seed in (6, 7))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002


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
    sampler = DietSampler(4480, strategy="group_by_length", lengths=lengths, batch_size=32)
    rows = np.arange(4480)
    assert padded(np.array(order(sampler, 0, rows)), lengths, 32) < 0.75 * padded(rows, lengths, 32)


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
    steps = lengths[order(sampler, 0, np.arange(320))].reshape(-1, 40)
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


# ---- rows inside the batches

N = 23
# a test that starts two worker processes: forked ones warn from Python 3.12 on, and so does a machine with one core
workers = pytest.mark.filterwarnings(
    "ignore:This process .* is multi-threaded:DeprecationWarning",
    "ignore:This DataLoader will create 2 worker processes:UserWarning",
)


class Counting:
    """A map-style data set that counts its calls; item x of row r is 100 + r."""

    def __init__(self):
        self.single, self.several = 0, 0

    def __len__(self):
        return N

    def __getitem__(self, row):
        self.single += 1
        return {"x": 100 + row}

    def __getitems__(self, rows):
        self.several += 1
        return [{"x": 100 + row} for row in rows]


def plain_list():
    return [{"x": 100 + row} for row in range(N)]


def hf_dataset():
    return datasets.Dataset.from_list(plain_list())


sources = pytest.mark.parametrize("source", [plain_list, hf_dataset, Counting])


def epoch_of(loader):
    """The rows of one epoch, each compared with its item."""
    rows_seen = []
    for batch in loader:
        rows, batch = without_rows(batch)
        assert (batch["x"] - 100).tolist() == rows.tolist()
        assert list(batch) == ["x"]
        rows_seen += rows.tolist()
    return rows_seen


@sources
def test_each_item_comes_with_its_row_also_after_pickling(source):
    """Spawned workers unpickle the wrappers."""
    for data in (RowDataset(source()), pickle.loads(pickle.dumps(RowDataset(source())))):
        assert len(data) == N
        assert data[5] == (5, {"x": 105})
        assert data.__getitems__([7, 2, 7]) == [(7, {"x": 107}), (2, {"x": 102}), (7, {"x": 107})]
        collate = pickle.loads(pickle.dumps(RowCollator(default_collate)))
        assert collate([data[3]])["x"].tolist() == [103]


def test_several_items_are_one_call_where_the_data_set_supports_it():
    counting = Counting()
    list(DataLoader(RowDataset(counting), batch_size=8, collate_fn=RowCollator(default_collate)))
    assert (counting.several, counting.single) == (3, 0)


def test_the_wrapper_has_the_attributes_of_the_data_set():
    data = RowDataset(hf_dataset())
    assert data.column_names == ["x"]
    with pytest.raises(AttributeError, match="no_such_thing"):
        data.no_such_thing  # noqa: B018
    # unpickling reads some before `dataset` is there: without a stop the lookup would never end
    with pytest.raises(AttributeError, match="dataset"):
        RowDataset.__new__(RowDataset).column_names  # noqa: B018


def test_the_collator_adds_the_rows_and_nothing_else():
    batch = RowCollator(default_collate)([(4, {"x": 1.5}), (2**40 + 1, {"x": 2.5})])
    assert list(batch) == ["x", ROW_KEY]
    assert batch[ROW_KEY].dtype == torch.int64
    assert batch["x"].tolist() == [1.5, 2.5]
    rows, rest = without_rows(batch)
    assert rows.tolist() == [4, 2**40 + 1]  # a float would lose the last digits
    assert list(rest) == ["x"]
    assert without_rows(rest) == (None, rest)
    own = BatchEncoding({"x": torch.zeros(1)})
    assert type(RowCollator(lambda _features: own)([(9, None)])) is BatchEncoding  # losses read `batch.labels`
    assert list(own) == ["x"]
    assert ROW_KEY not in own
    pair = (torch.zeros(1), torch.ones(1))
    rows, rest = without_rows(RowCollator(lambda _features: pair)([(9, None)]))
    assert (rows.tolist(), rest) == ([9], pair)
    with pytest.raises(ArgumentError, match="must be dicts of tensors, got tuple; use DietMixin"):
        RowCollator(lambda _features: pair, only_dicts=True)([(9, None)])


def test_the_users_collator_receives_a_list():
    received = []
    batch = RowCollator(lambda features: received.append(features) or {})([(1, "item 1"), (2, "item 2")])
    assert received == [["item 1", "item 2"]]
    assert batch[ROW_KEY].tolist() == [1, 2]


@sources
def test_a_loader_that_carries_rows_is_otherwise_the_same(source):
    plain, carrying = (
        DataLoader(source(), batch_size=5, shuffle=True, generator=torch.Generator().manual_seed(3)) for _ in range(2)
    )
    carry_rows(carrying)
    carry_rows(carrying)  # twice is once
    assert len(carrying) == len(plain)
    assert isinstance(carrying.sampler, RandomSampler)
    assert epoch_of(carrying) == [x - 100 for batch in plain for x in batch["x"].tolist()]


@pytest.mark.cpu
def test_the_loader_inside_an_accelerate_loader_carries():
    prepared = Accelerator(cpu=True).prepare(DataLoader(plain_list(), batch_size=5, shuffle=True))
    carry_rows(prepared)
    for _ in range(2):
        assert sorted(epoch_of(prepared)) == list(range(N))


@workers
@sources
@pytest.mark.parametrize("persistent", [False, True])
def test_two_workers(source, persistent):
    """Workers fetch ahead and answer in turn: every row must still be with its item, in every epoch."""
    loader = DataLoader(
        source(), batch_size=4, shuffle=True, generator=torch.Generator().manual_seed(1),
        num_workers=2, persistent_workers=persistent, prefetch_factor=3,
    )  # fmt: skip
    carry_rows(loader)
    first, second = epoch_of(loader), epoch_of(loader)
    assert sorted(first) == sorted(second) == list(range(N))
    assert first != second


@workers
def test_persistent_workers_follow_a_sampler_that_changes():
    """The workers keep the data, not the order: a new plan needs no new loader."""
    order = [3, 1, 4]
    loader = DataLoader(plain_list(), batch_size=2, sampler=order, num_workers=2, persistent_workers=True)
    carry_rows(loader)
    assert epoch_of(loader) == [3, 1, 4]
    order[:] = [22, 0, 9, 5]
    assert epoch_of(loader) == [22, 0, 9, 5]


@pytest.mark.parametrize("processes", [1, 2, 3])
@pytest.mark.parametrize("rows", [1, 2, 5, 8, 12, 13, 17, 23, 24])
def test_the_last_batch_is_filled_as_accelerate_fills_it(rows, processes):
    size = 4
    whole = plan(1, np.arange(10, 10 + rows))
    sampler = DietSampler(rows, seed=3)
    sampler.set_plan(whole)
    shares = [
        list(BatchSamplerShard(BatchSampler(sampler, size, drop_last=False), processes, process))
        for process in range(processes)
    ]
    filled = [sampler.filled_batch(whole, size, processes, process) for process in range(processes)]
    if processes == 1 or rows % (size * processes) == 0:
        assert filled == [None] * processes
        return
    assert [batch.tolist() for batch, _ in filled] == [share[-1] for share in shares]
    own = [row for batch, weights in filled for row, weight in zip(batch.tolist(), weights, strict=True) if weight]
    before = [row for share in shares for batch in share[:-1] for row in batch]
    assert sorted(before + own) == whole.rows.tolist()  # each once
    assert sum(weights.sum() for _, weights in filled) == pytest.approx(size * processes)


# ---- loaders and samplers of one's own


class Longest(SequentialSampler):
    def __iter__(self):
        return iter(range(len(self.data_source) - 1, -1, -1))


class Ready(Sampler):
    def __init__(self, data):
        self.data = data

    def __iter__(self):
        return iter([[row, row + 1, row + 2, row + 3] for row in range(0, len(self.data), 4)])

    def __len__(self):
        return len(self.data) // 4


# what a loader of the user's own is made with, and what is wrong with it below keep 1
LOADERS = {
    "shuffled": (lambda data: {"shuffle": True}, None),
    "sequential": (lambda data: {}, None),
    "reversed": (lambda data: {"sampler": Longest(data)}, "cannot keep the order of Longest"),
    "weighted": (lambda data: {"sampler": WeightedRandomSampler([1.0] * 48, 48)}, "order of WeightedRandomSampler"),
    "fewer": (lambda data: {"sampler": RandomSampler(data, num_samples=16)}, r"RandomSampler\(num_samples=16\)"),
    "drawn": (lambda data: {"sampler": RandomSampler(data, replacement=True)}, r"Sampler\(replacement=True\)"),
    "part": (lambda data: {"sampler": RandomSampler(range(40))}, "each of the 48 rows once, got 40 rows"),
    "large": (lambda data: {"batch_size": 8}, "batches of 8, and the epochs are planned in batches of 4"),
    "whole": (lambda data: {"drop_last": True}, "drop_last does not go with a diet"),
    "ready": (lambda data: {"batch_size": 1, "batch_sampler": Ready(data)}, "cannot keep the batches of Ready"),
}


@pytest.mark.cpu
@pytest.mark.parametrize(
    ("name", "prepared"),
    [
        *((name, False) for name in LOADERS),
        *(pytest.param(name, True, marks=pytest.mark.soak if LOADERS[name][1] else ()) for name in LOADERS),
    ],
)
def test_a_loader_of_ones_own_trains_or_is_refused_in_words(tmp_path, name, prepared):
    make, problem = LOADERS[name]

    class Own(Trainer):
        def get_train_dataloader(self):
            options = {"batch_size": 4, "collate_fn": self.data_collator, **make(self.train_dataset)}
            loader = DataLoader(self.train_dataset.remove_columns("length"), **options)
            return self.accelerator.prepare(loader) if prepared else loader

    class Dieting(DietMixin, Own):
        pass

    plain = toy_trainer(tmp_path / "plain", kind=Own, num_train_epochs=2)
    plain.train()
    full = toy_trainer(tmp_path / "full", Diet(keep=1.0), kind=Dieting, num_train_epochs=2)
    full.train()
    assert full.seen.losses == plain.seen.losses
    half = toy_trainer(tmp_path / "half", hard_diet(keep=0.5), kind=Dieting, num_train_epochs=2)
    if problem is None:
        half.train()
        assert [(line.kept, line.steps) for line in half.epoch_results] == [(48, 12), (24, 6)]
    else:
        with pytest.raises(ArgumentError, match=problem):
            half.train()
        assert not list(tmp_path.glob("half/*"))


class Stream(IterableDataset):
    def __iter__(self):
        return iter(plain_list())


@pytest.mark.parametrize(
    ("loader", "found"),
    [
        ([{"x": 1}], "got list"),
        (DataLoader(Stream()), "got one of a stream"),
        (DataLoader(plain_list(), batch_size=None), "got one with batch_size=None"),
    ],
)
def test_a_loader_that_cannot_carry_rows(loader, found):
    with pytest.raises(ArgumentError, match=f"must be a torch DataLoader .*{found}"):
        carry_rows(loader)


def test_a_loader_that_serves_two_runs_keeps_its_order():
    loader = DataLoader(plain_list(), batch_size=5, shuffle=True)
    carry_rows(loader)
    first, second = (
        take_over(loader, lambda own: DietSampler.like(own, N, seed=3), batch_size=5, processes=1) for _ in range(2)
    )
    assert order(first, 1) == order(second, 1) != ROWS.tolist()
