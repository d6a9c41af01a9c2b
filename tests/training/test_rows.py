"""Rows travel inside the batch, with workers and without."""

from __future__ import annotations

import pickle
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, RandomSampler, default_collate
from transformers import BatchEncoding

from datadiet.training.sampler import ROW_KEY, RowCollator, RowDataset, carry_rows, pop_rows

N = 23
# a test that starts two worker processes: forked ones warn from Python 3.12 on, and so does a machine with one core
workers = pytest.mark.filterwarnings(
    "ignore:This process .* is multi-threaded:DeprecationWarning",
    "ignore:This DataLoader will create 2 worker processes:UserWarning",
)


class Counting:
    """A map-style data set that counts how it is asked; items tell their row."""

    def __init__(self) -> None:
        self.single, self.several = 0, 0

    def __len__(self) -> int:
        return N

    def __getitem__(self, row: int) -> dict[str, int]:
        self.single += 1
        return {"x": 100 + row}

    def __getitems__(self, rows: list[int]) -> list[dict[str, int]]:
        self.several += 1
        return [{"x": 100 + row} for row in rows]


def plain_list() -> list[dict[str, int]]:
    return [{"x": 100 + row} for row in range(N)]


def hf_dataset() -> datasets.Dataset:
    return datasets.Dataset.from_dict({"x": list(range(100, 100 + N))})


SOURCES = {"list": plain_list, "datasets": hf_dataset, "getitems": Counting}


@pytest.mark.parametrize("source", SOURCES)
def test_each_item_comes_with_its_row(source: str) -> None:
    data = RowDataset(SOURCES[source]())
    assert len(data) == N
    assert data[5] == (5, {"x": 105})
    assert data.__getitems__([7, 2, 7]) == [(7, {"x": 107}), (2, {"x": 102}), (7, {"x": 107})]


def test_several_items_are_one_call_where_the_data_can_give_them() -> None:
    counting = Counting()
    list(DataLoader(RowDataset(counting), batch_size=8, collate_fn=RowCollator(default_collate)))
    assert (counting.several, counting.single) == (3, 0)


def test_what_the_data_set_has_can_be_asked_of_the_wrapper() -> None:
    data = RowDataset(hf_dataset())
    assert data.column_names == ["x"]
    with pytest.raises(AttributeError, match="no_such_thing"):
        data.no_such_thing  # noqa: B018


@pytest.mark.parametrize("source", SOURCES)
def test_wrappers_survive_pickling_as_spawned_workers_need_it(source: str) -> None:
    data = pickle.loads(pickle.dumps(RowDataset(SOURCES[source]())))
    assert data[3] == (3, {"x": 103})
    collate = pickle.loads(pickle.dumps(RowCollator(default_collate)))
    assert collate([data[3]])["x"].tolist() == [103]


def test_an_empty_wrapper_has_no_attributes() -> None:
    """Unpickling asks for some before `dataset` is there: without a stop it would ask forever."""
    with pytest.raises(AttributeError, match="dataset"):
        RowDataset.__new__(RowDataset).column_names  # noqa: B018


def test_the_collator_adds_the_rows_and_nothing_else() -> None:
    items = [(4, {"x": 1.5}), (2**40 + 1, {"x": 2.5})]
    batch = RowCollator(default_collate)(items)
    assert list(batch) == ["x", ROW_KEY]
    assert batch[ROW_KEY].dtype == torch.int64
    assert batch[ROW_KEY].tolist() == [4, 2**40 + 1]  # a float would lose the last digits
    assert batch["x"].tolist() == [1.5, 2.5]


@pytest.mark.parametrize("rows", [[1, 2], (1, 2), np.array([1, 2])])
def test_the_collator_hands_on_a_list(rows: Any) -> None:
    seen: list[Any] = []

    def collate(features: list[Any]) -> dict[str, Any]:
        seen.append(features)
        return {"n": len(features)}

    batch = RowCollator(collate)([(row, f"item {row}") for row in rows])
    assert seen == [["item 1", "item 2"]]
    assert batch[ROW_KEY].tolist() == [1, 2]


def test_the_collators_own_batch_is_left_as_it_was() -> None:
    kept = BatchEncoding({"x": torch.zeros(1)})
    batch = RowCollator(lambda _features: kept)([(9, None)])
    assert type(batch) is dict
    assert ROW_KEY not in kept


def test_a_batch_that_is_no_mapping_is_refused() -> None:
    with pytest.raises(TypeError, match="mapping"):
        RowCollator(torch.tensor)([(0, 1.0)])


def test_rows_leave_the_batch() -> None:
    batch = RowCollator(default_collate)([(4, {"x": 1}), (2, {"x": 2})])
    rows = pop_rows(batch)
    assert rows is not None
    assert rows.tolist() == [4, 2]
    assert list(batch) == ["x"]
    assert pop_rows(batch) is None


# ---- loaders that are already built


def epoch_of(loader: Any) -> list[int]:
    """The rows of one epoch, each compared with what it came with."""
    seen: list[int] = []
    for batch in loader:
        rows = pop_rows(batch)
        assert rows is not None
        assert (batch["x"] - 100).tolist() == rows.tolist()
        assert list(batch) == ["x"]
        seen += rows.tolist()
    return seen


@pytest.mark.parametrize("source", SOURCES)
def test_a_loader_that_carries_rows_is_otherwise_the_same(source: str) -> None:
    def build() -> DataLoader[Any]:
        generator = torch.Generator().manual_seed(3)
        return DataLoader(SOURCES[source](), batch_size=5, shuffle=True, generator=generator)

    plain, carrying = build(), build()
    carry_rows(carrying)
    assert len(carrying) == len(plain)
    assert isinstance(carrying.sampler, RandomSampler)
    assert epoch_of(carrying) == [x - 100 for batch in plain for x in batch["x"].tolist()]


def test_carrying_twice_is_carrying_once() -> None:
    loader = DataLoader(plain_list(), batch_size=5)
    carry_rows(loader)
    carry_rows(loader)
    assert epoch_of(loader) == list(range(N))


def test_the_loader_inside_an_accelerate_loader_carries() -> None:
    from accelerate import Accelerator

    prepared = Accelerator(cpu=True).prepare(DataLoader(plain_list(), batch_size=5, shuffle=True))
    carry_rows(prepared)
    assert sorted(epoch_of(prepared)) == list(range(N))
    assert sorted(epoch_of(prepared)) == list(range(N))


@workers
@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("persistent", [False, True])
def test_two_workers(source: str, persistent: bool) -> None:
    """Workers fetch ahead and answer in turn: every row must still be with its item, in every epoch."""
    loader = DataLoader(
        SOURCES[source](), batch_size=4, shuffle=True, generator=torch.Generator().manual_seed(1),
        num_workers=2, persistent_workers=persistent, prefetch_factor=3,
    )  # fmt: skip
    carry_rows(loader)
    first, second = epoch_of(loader), epoch_of(loader)
    assert sorted(first) == sorted(second) == list(range(N))
    assert first != second


@workers
def test_persistent_workers_follow_a_sampler_that_changes() -> None:
    """The workers keep the data, not the order: a new plan needs no new loader."""
    order: list[int] = [3, 1, 4]
    loader = DataLoader(plain_list(), batch_size=2, sampler=order, num_workers=2, persistent_workers=True)
    carry_rows(loader)
    assert epoch_of(loader) == [3, 1, 4]
    order[:] = [22, 0, 9, 5]
    assert epoch_of(loader) == [22, 0, 9, 5]
