"""Streams (`IterableDataset`): what a diet can do where no row comes again, and the numbers of the rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from accelerate.utils import find_batch_size
from torch.utils.data import DataLoader, IterableDataset

from datadiet.diet.options import DietOptions
from datadiet.errors import ArgumentError, Problems
from datadiet.registry import find, names
from datadiet.training.sampler import BATCH_KEY, ROW_KEY, RowCollator
from datadiet.types import Json

_ROWS_PER_PART = 1 << 20  # that are kept in memory before they go to scores/


def is_stream(dataset: Any) -> bool:
    """Whether the rows of training data can only be read one after the other."""
    return dataset is not None and (isinstance(dataset, IterableDataset) or not hasattr(dataset, "__len__"))


def way_out(select: str) -> str:
    """What to use in place of a selector that chooses among all rows, in a sentence.

    Examples:
        >>> way_out("hardest")[:76]
        "'hardest' chooses among all rows between epochs, and a stream gives each row"
    """
    found = ((name, find("in_batch", name)) for name in names("in_batch"))
    within = [name for name, method in found if method is not None and "holdout" not in method.needs]
    return (
        f"{select!r} chooses among all rows between epochs, and a stream gives each row once: choose within each batch "
        f"(select={', '.join(within[:-1])} or {within[-1]}), or choose before the training with `datadiet score` and "
        "`datadiet select` over its files."
    )


def check_stream(options: DietOptions, given: Sequence[str], *, lasts: bool) -> None:
    """Refuse what needs the rows of the training data.

    Args:
        options: Of the diet.
        given: Arguments beside the training data that have an entry for each row.
        lasts: Whether the stream has no length, so that its first epoch may be all there is.

    Raises:
        ArgumentError: All problems at once.
    """
    problems = Problems()
    if options.plans:
        problems.add(way_out(options.select_name))
    problems.check(
        not given, f"{' and '.join(given)} need a row each of the training data, and a stream has no rows to count."
    )
    problems.check(
        options.tokens is None, "tokens needs what was seen of each row before, and a stream gives each row once."
    )
    method = options.batch_method()
    problems.check(
        method is None or method.baselines is None,
        f"ema must be 0 on a stream, got {options.select_options.get('ema')}: it compares a loss with those that "
        "the row had before, and a stream gives each row once.",
    )
    problems.check(
        options.offset != "auto" or options.guard_by_default,
        "offset='auto' needs the class of each row, and a stream gives none before it is read.",
    )
    warmup = options.config.warmup_epochs
    problems.check(
        not (lasts and options.in_batch and warmup > 1),
        "warmup_epochs has no effect on a stream without a length, whose batches are chosen from at once; "
        f"got {warmup}: leave it out.",
    )
    problems.raise_any()


class StreamRows:
    """The rows of a stream, numbered as they are read: place in the batch, after all batches before it.

    Args:
        batch_size: Examples per batch of one process.
        processes, process: How many there are, and which of them.
        repeats: Outputs of the model, and entries of its inputs, for each row.

    Attributes:
        batches: That this process has read.
        rows: That it has read of the epoch at hand.
    """

    def __init__(self, batch_size: int, *, processes: int = 1, process: int = 0, repeats: int = 1) -> None:
        self._batch_size, self._processes, self._process, self._repeats = batch_size, processes, process, repeats
        self.batches = self.rows = self.total = 0

    def numbered(self, samples: Sequence[Any]) -> list[Any]:
        """Batches with the numbers of their rows, as `RowCollator` puts them in.

        Examples:
            >>> rows = StreamRows(2, processes=2, process=1)
            >>> batches = rows.numbered([{"x": torch.zeros(2)}, {"x": torch.zeros(1)}])
            >>> [batch[ROW_KEY].tolist() for batch in batches], rows.total
            ([[2, 3], [6]], 3)
        """
        found = []
        for inputs in samples:
            count = (find_batch_size(inputs) or 0) // self._repeats
            start = (self.batches * self._processes + self._process) * self._batch_size
            batch = inputs if isinstance(inputs, Mapping) else {BATCH_KEY: inputs}
            rest: Any = batch.copy() if hasattr(batch, "copy") else dict(batch)
            rest[ROW_KEY] = torch.arange(start, start + count)
            found.append(rest)
            self.batches += 1
            self.rows += count
            self.total += count
        return found

    @property
    def is_part(self) -> bool:
        """Whether as many rows have been read as one part of the score history holds, at the same batch everywhere."""
        return self.batches > 0 and self.batches % max(1, _ROWS_PER_PART // (self._batch_size * self._processes)) == 0

    def state(self) -> Json:
        """Plain values, for a checkpoint."""
        return {"batches": self.batches, "rows": self.rows, "total": self.total}

    def load(self, state: Json) -> None:
        """Restore a state."""
        self.batches, self.rows, self.total = state["batches"], state["rows"], state["total"]


def collate_of(loader: Any) -> RowCollator:
    """The collator of a stream's loader, which from here on says how long the rows of a flat batch are.

    Raises:
        ArgumentError: If the loader makes no batches.
    """
    inner: Any = getattr(loader, "base_dataloader", loader)
    if not isinstance(inner, DataLoader) or inner.batch_sampler is None:
        raise ArgumentError(f"the loader of a stream must be a torch DataLoader with batches, got {loader!r:.100}.")
    collator = RowCollator(inner.collate_fn)
    inner.collate_fn = collator.with_lengths
    return collator
