"""Rows travel inside the batch: loaders fetch ahead, so "the batch fetched last" is not the batch that trains."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from datadiet.records import EpochPlan

ROW_KEY = "datadiet_row"


class RowDataset(Dataset[tuple[int, Any]]):
    """Gives each item together with its row."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, row: int) -> tuple[int, Any]:
        return row, self.dataset[row]

    def __getitems__(self, rows: Sequence[int]) -> list[tuple[int, Any]]:
        """Several items in one call, where the data set can give them."""
        several = getattr(self.dataset, "__getitems__", None)
        items = several(rows) if several is not None else [self.dataset[row] for row in rows]
        return list(zip(rows, items, strict=True))

    def __getattr__(self, name: str) -> Any:
        if name == "dataset":  # not there yet while a worker process unpickles it
            raise AttributeError(name)
        return getattr(self.dataset, name)


@dataclass(frozen=True)
class RowCollator:
    """Collates the items as before and puts their rows into the batch, which must be a dict."""

    collate: Callable[[list[Any]], Any]

    def __call__(self, items: Sequence[tuple[int, Any]]) -> dict[str, Any]:
        """A batch with its rows."""
        rows, features = zip(*items, strict=True)
        batch = self.collate(list(features))
        return {**batch, ROW_KEY: torch.tensor(rows, dtype=torch.int64)}


def carry_rows(loader: DataLoader[Any]) -> None:
    """Make a loader that is already built put the rows into its batches.

    The loader comes from the Trainer's own method, whatever subclass that is, so that every sampling, sharding and
    worker setting stays upstream's; only what fetches and collates is wrapped.
    """
    inner: Any = getattr(loader, "base_dataloader", loader)  # accelerate wraps the torch loader
    if isinstance(inner.dataset, RowDataset):
        return
    # DataLoader refuses a new data set after construction because its samplers would keep the old length; the wrapper
    # has the same length
    object.__setattr__(inner, "dataset", RowDataset(inner.dataset))
    inner.collate_fn = RowCollator(inner.collate_fn)


def pop_rows(batch: dict[str, Any]) -> torch.Tensor | None:
    """Take the rows out of a batch, before the model sees it."""
    rows: torch.Tensor | None = batch.pop(ROW_KEY, None)
    return rows


def row_weights(plan: EpochPlan, num_rows: int) -> torch.Tensor | None:
    """The loss weight of each training row, float32 `(num_rows,)`; None where every row of the plan weighs 1."""
    if plan.weights is None:
        return None
    weights = torch.zeros(num_rows)
    weights[torch.from_numpy(plan.rows)] = torch.from_numpy(plan.weights)
    return weights
