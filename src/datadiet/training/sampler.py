"""The mutable sampler of a run, and the rows inside its batches.

`DietSampler` yields the rows of the current plan in the order of the Trainer's own strategy. It is built once, beside
the data loader, and reads a new plan every epoch; no loader is rebuilt and no training is restarted. The order is a
pure function of (seed, epoch), so a resumed run or a second process draws the same.

Rows travel inside the batch (`carry_rows`): loaders fetch ahead, so the batch fetched last is not the batch that
trains.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate.data_loader import SeedableRandomSampler, get_sampler
from numpy.typing import NDArray
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    Sampler,
    SequentialSampler,
)
from transformers.trainer_pt_utils import LengthGroupedSampler

from datadiet.errors import ArgumentError, Problems
from datadiet.scoring.forward import whole_numbers
from datadiet.types import EpochPlan

STRATEGIES = ("random", "sequential", "group_by_length")

# Upstream sorts at most 50 batches together, and fewer of a small data set: where a diet keeps few batches, a fifth of
# the positions would be padding (LOG.md). Here it is always 50.
BATCHES_PER_GROUP = 50
_ROWS_PER_PIECE = 4096


class DietSampler(Sampler[int]):
    """Yields the rows of the plan set last.

    Args:
        num_rows: Its length before the first plan is set: the longest epoch, because trainers read the length once, at
            the start.
        strategy: `random`, `sequential` or `group_by_length`.
        seed: Of the order.
        lengths: Tokens of each row of the data set (`group_by_length`).
        batch_size: Examples of one optimizer step of all processes, which have nearly the same length
            (`group_by_length`).
    """

    def __init__(
        self,
        num_rows: int,
        *,
        strategy: str = "random",
        seed: int = 0,
        lengths: NDArray[np.int64] | None = None,
        batch_size: int = 1,
    ) -> None:
        self._num_rows, self._strategy, self._seed = num_rows, strategy, seed
        self._lengths, self._batch_size = lengths, batch_size
        self._plan: EpochPlan | None = None
        self._done = 0

    @classmethod
    def like(
        cls,
        sampler: Any,
        num_rows: int,
        seed: int,
        *,
        processes: int = 1,
        lengths: NDArray[np.int64] | None = None,
    ) -> DietSampler:
        """A sampler that keeps the strategy of the one that a Trainer has built.

        Args:
            sampler: Of the Trainer.
            num_rows, seed: See the class.
            processes: Of the training.
            lengths: Of the rows, where they are already an array; equal ones are shared with the sampler.

        Raises:
            ArgumentError: For a sampler whose strategy cannot order a choice of rows.
        """
        # a subclass with an order of its own is none of these
        order = type(sampler).__iter__ if isinstance(sampler, Sampler) else None
        if isinstance(sampler, DietSampler):  # of an earlier run with the same loader
            return cls(
                num_rows,
                strategy=sampler._strategy,
                seed=seed,
                lengths=sampler._lengths,
                batch_size=sampler._batch_size,
            )
        if order is LengthGroupedSampler.__iter__:
            own = whole_numbers(sampler.lengths)
            batch = sampler.batch_size * processes
            same = lengths is not None and np.array_equal(lengths, own)
            return cls(
                num_rows,
                strategy="group_by_length",
                seed=seed,
                lengths=lengths if same else own,
                batch_size=batch,
            )
        if order in (RandomSampler.__iter__, SeedableRandomSampler.__iter__) and not _draws(sampler):
            return cls(num_rows, seed=seed)
        if order is SequentialSampler.__iter__:
            return cls(num_rows, strategy="sequential", seed=seed)
        name = type(sampler).__name__.replace(SeedableRandomSampler.__name__, RandomSampler.__name__)
        raise ArgumentError(
            f"a diet cannot keep the order of {name}{_draws(sampler)}; use a random, sequential or "
            "group_by_length sampling strategy (for sentence-transformers: BatchSamplers.BATCH_SAMPLER)."
        )

    def expect(self, num_rows: int) -> None:
        """Have this length until the first plan is set."""
        self._num_rows = num_rows

    def set_plan(self, plan: EpochPlan, *, done: int = 0) -> None:
        """Train on these rows from the next iterator on; the first `done` of their order have trained already."""
        self._plan, self._done = plan, done

    def __len__(self) -> int:
        return self._num_rows if self._plan is None else len(self._plan.rows) - self._done

    def __iter__(self) -> Iterator[int]:
        if self._plan is None:
            raise RuntimeError("no plan has been set for this epoch")
        return _in_pieces(self.order(self._plan)[self._done :])

    def order(self, plan: EpochPlan) -> NDArray[np.int64]:
        """The rows of a plan in the order in which they train: int64, a pure function of the seed and the epoch."""
        if self._strategy == "sequential":
            return plan.rows
        generator = np.random.default_rng([self._seed, plan.epoch])
        if self._strategy == "random":
            return generator.permutation(plan.rows)
        assert self._lengths is not None
        return plan.rows[length_grouped(self._lengths[plan.rows], self._batch_size, generator)]

    def filled_batch(
        self, plan: EpochPlan, size: int, processes: int, process: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]] | None:
        """The last batch of a process, where loaders fill it with rows that this epoch has trained on already.

        Args:
            plan: Of the epoch.
            size: Examples per batch of one process.
            processes, process: How many there are, and which of them.

        Returns:
            Its rows, int64 `(size,)`, and what their losses weigh, so that the step is that of one process without
            repeats: 0 for a repeat, and the others more. None where no batch is filled.

        Examples:
            >>> plan = EpochPlan(0, np.arange(6), full=True)
            >>> [DietSampler(6, strategy="sequential").filled_batch(plan, 2, 2, process) for process in (0, 1)]
            [(array([4, 5]), array([2., 2.], dtype=float32)), (array([0, 1]), array([0., 0.], dtype=float32))]
        """
        count, together = len(plan.rows), processes * size
        left = count % together
        if processes == 1 or left == 0:
            return None
        places = np.arange(size) + count - left + process * size
        weights = np.where(places < count, together / left, 0).astype(np.float32)
        return self.order(plan)[places % count], weights


def _draws(sampler: Any) -> str:
    """How a random sampler draws otherwise than each row once."""
    if not isinstance(sampler, RandomSampler):
        return ""
    others = "(replacement=True)" if sampler.replacement else ""
    return others or ("" if len(sampler) == len(sampler.data_source) else f"(num_samples={len(sampler)})")


def _in_pieces(order: NDArray[np.int64]) -> Iterator[int]:
    """The numbers of an array, without a list of all of them: a Python number takes 40 bytes."""
    for start in range(0, len(order), _ROWS_PER_PIECE):
        yield from order[start : start + _ROWS_PER_PIECE].tolist()


def length_grouped(lengths: NDArray[np.int64], batch_size: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """A random order whose batches hold examples of nearly the same length.

    A permutation is cut into groups of 50 batches, each group is sorted by length and cut into batches, and the batches
    are shuffled; the one with the longest example comes first, so that memory is known from the first step on.

    Args:
        lengths: `(n,)`, of each example.
        batch_size: Examples per batch; the last batch of the order may be smaller.
        generator: Of the permutation and of the order of the batches.

    Returns:
        int64 `(n,)`, places in `lengths`.

    Examples:
        >>> length_grouped(np.array([5, 2, 9, 5, 2]), 2, np.random.default_rng(0)).tolist()
        [2, 3, 0, 4, 1]
    """
    by_length = generator.permutation(len(lengths))
    group = BATCHES_PER_GROUP * batch_size
    for start in range(0, len(by_length), group):
        part = by_length[start : start + group]  # sorted in place
        part[:] = part[np.argsort(-lengths[part], kind="stable")]
    whole = len(lengths) // batch_size
    batches = by_length[: whole * batch_size].reshape(whole, batch_size)
    longest = [int(lengths[batches[:, 0]].argmax())] if whole else []
    others = generator.permutation(np.setdiff1d(np.arange(whole), longest))
    return np.concatenate([batches[longest].ravel(), batches[others].ravel(), by_length[whole * batch_size :]])


ROW_KEY = "datadiet_row"
BATCH_KEY = "datadiet_batch"  # of a batch that is no mapping
# of a batch that holds its rows in one sequence: the tokens of each, `(rows,)`, or of each text of each, `(rows, most)`
LENGTHS_KEY = "datadiet_lengths"


class RowDataset(Dataset[tuple[int, Any]]):
    """Gives each item together with its row."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, row: int) -> tuple[int, Any]:
        return row, self.dataset[row]

    def __getitems__(self, rows: Sequence[int]) -> list[tuple[int, Any]]:
        """Several items in one call, where the data set supports it."""
        several = getattr(self.dataset, "__getitems__", None)
        items = several(rows) if several is not None else [self.dataset[row] for row in rows]
        return list(zip(rows, items, strict=True))

    def __getattr__(self, name: str) -> Any:
        if name == "dataset":  # missing while a worker process unpickles the wrapper
            raise AttributeError(name)
        return getattr(self.dataset, name)


@dataclass(frozen=True)
class RowCollator:
    """Collates the items as before and puts their rows into the batch; a mapping keeps its class.

    Attributes:
        collate: As before.
        only_dicts: Whether a batch must be a mapping; one that is none is put into a dict otherwise.
    """

    collate: Callable[[list[Any]], Any]
    only_dicts: bool = False

    def __call__(self, items: Sequence[tuple[int, Any]]) -> Any:
        """A batch with its rows.

        Raises:
            ArgumentError: If the batch is no mapping.
        """
        rows, features = zip(*items, strict=True)
        batch = copy(self.with_lengths(list(features)))  # it may be an item of the data set itself
        if not isinstance(batch, MutableMapping):
            if self.only_dicts:
                raise ArgumentError(f"the batches must be dicts of tensors, got {type(batch).__name__}; use DietMixin.")
            batch = dict(batch) if isinstance(batch, Mapping) else {BATCH_KEY: batch}
        batch[ROW_KEY] = torch.tensor(rows, dtype=torch.int64)
        return batch

    def with_lengths(self, items: list[Any]) -> Any:
        """A batch without its rows; one that holds them all in one sequence says how long each is.

        Rows that hold several texts, told apart by `position_ids` that begin anew, say how long each of these is, in
        a line filled up with zeros.

        Examples:
            >>> def flat(items):
            ...     return {"input_ids": torch.tensor([[token for item in items for token in item["input_ids"]]])}
            >>> RowCollator(flat).with_lengths([{"input_ids": [1, 2]}, {"input_ids": [3]}])[LENGTHS_KEY]
            tensor([2, 1])
        """
        batch = self.collate(items)
        known = all(isinstance(item, Mapping) and "input_ids" in item for item in items) and not self.only_dicts
        tokens = batch.get("input_ids") if known and isinstance(batch, MutableMapping) else None
        if isinstance(tokens, torch.Tensor) and len(tokens) == 1 < len(items):
            batch[LENGTHS_KEY] = torch.tensor([len(item["input_ids"]) for item in items])
        if isinstance(tokens, torch.Tensor) and len(tokens) == 1:
            places = batch.get("position_ids")
            if isinstance(places, torch.Tensor) and places.shape == tokens.shape:
                parts = _texts(places[0], torch.tensor([len(item["input_ids"]) for item in items]))
                batch |= {LENGTHS_KEY: parts} if parts.shape[1] > 1 else {}
        return batch


def _texts(positions: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    """The tokens of each text of each row, int64 `(rows, most)`, from where positions begin anew.

    Examples:
        >>> _texts(torch.tensor([0, 1, 0, 0, 1, 2]), torch.tensor([3, 3]))
        tensor([[2, 1],
                [3, 0]])
    """
    ends = lengths.cumsum(0)
    begins = positions[: int(ends[-1])] == 0
    begins[ends - lengths] = True
    starts = begins.nonzero().flatten()
    sizes = torch.diff(starts, append=ends[-1:])
    rows = torch.searchsorted(ends, starts, right=True)
    return torch.nn.utils.rnn.pad_sequence([sizes[rows == row] for row in range(len(lengths))], batch_first=True)


def carry_rows(loader: Any, *, only_dicts: bool = False) -> None:
    """Make a finished loader put the rows into its batches.

    The loader comes from the Trainer's own method, also of a subclass, so every sampling, sharding and worker setting
    stays upstream's; only its data set and its collator are wrapped.

    Raises:
        ArgumentError: If it is no `DataLoader` of single rows, or its data are a stream.
    """
    inner: Any = getattr(loader, "base_dataloader", loader)  # accelerate wraps the torch loader
    found = "" if isinstance(inner, DataLoader) else type(inner).__name__
    if not found and isinstance(inner.dataset, IterableDataset):
        found = "one of a stream"
    if not found and inner.batch_sampler is None:
        found = "one with batch_size=None"
    if found:
        raise ArgumentError(
            "the training loader must be a torch DataLoader that makes batches of the rows of a data set with a "
            f"length, got {found}. A diet puts the row numbers into the batches."
        )
    if isinstance(inner.dataset, RowDataset):
        return
    # DataLoader refuses a new data set after construction because its samplers would keep the old length; the wrapper
    # has the same length
    object.__setattr__(inner, "dataset", RowDataset(inner.dataset))
    inner.collate_fn = RowCollator(inner.collate_fn, only_dicts)


def take_over(loader: Any, sampler: Callable[[Any], DietSampler], *, batch_size: int, processes: int) -> DietSampler:
    """Put a diet's sampler in the place of a loader's own.

    Args:
        loader: That carries rows.
        sampler: Makes it, of the loader's own.
        batch_size: Examples per batch of one process, by which the epochs are planned.
        processes: Of the training.

    Raises:
        ArgumentError: If the loader does not make plain batches of that size of all its rows.
    """
    inner: Any = getattr(loader, "base_dataloader", loader)
    batches = loader.batch_sampler
    batches = getattr(batches, "batch_sampler", batches)  # accelerate's shards
    problems = Problems()
    problems.check(
        type(batches).__iter__ is BatchSampler.__iter__,
        f"a diet cannot keep the batches of {type(batches).__name__}; use a sampler of single rows "
        "(for sentence-transformers: BatchSamplers.BATCH_SAMPLER).",
    )
    size = getattr(batches, "batch_size", batch_size)
    problems.check(
        size in (batch_size, batch_size * processes),
        f"the training loader makes batches of {size}, and the epochs are planned in batches of {batch_size}: set "
        "per_device_train_batch_size to the same.",
    )
    problems.check(
        not getattr(batches, "drop_last", False),
        "drop_last does not go with a diet: kept counts are full batches already.",
    )
    problems.check(
        processes == 1 or inner is not loader,
        "the training loader must be prepared by the Trainer's accelerator: each process trains on all rows otherwise.",
    )
    problems.raise_any()
    own: Any = sampler_of(loader)
    made = sampler(own)
    if len(own) != len(inner.dataset):
        raise ArgumentError(f"the sampler must give each of the {len(inner.dataset)} rows once, got {len(own)} rows.")
    if inner is loader:
        batches.sampler = made
    else:
        loader.set_sampler(made)
    return made


def sampler_of(loader: Any) -> Any:
    """The sampler of a loader; of several processes it is inside accelerate's shards of the batches."""
    sampler, batches = get_sampler(loader), loader.batch_sampler
    while sampler is None and (batches := getattr(batches, "batch_sampler", None)) is not None:
        sampler = getattr(batches, "sampler", None)
    return sampler


def without_lengths(batch: Any) -> tuple[torch.Tensor | None, Any]:
    """The tokens of each row of a batch that is one sequence, and the batch without them; None for any other batch."""
    if not isinstance(batch, Mapping) or LENGTHS_KEY not in batch:
        return None, batch
    rest: Any = copy(batch)
    lengths: torch.Tensor = rest.pop(LENGTHS_KEY)
    return lengths.cpu(), rest


def without_rows(batch: Any) -> tuple[torch.Tensor | None, Any]:
    """The rows of a batch, None where it has none, and the batch as the collator made it."""
    if not isinstance(batch, Mapping) or ROW_KEY not in batch:
        return None, batch
    rest: Any = copy(batch)
    rows: torch.Tensor = rest.pop(ROW_KEY)
    return rows, rest.get(BATCH_KEY, rest)


def row_weights(plan: EpochPlan, num_rows: int) -> torch.Tensor | None:
    """The loss weight of each training row, float32 `(num_rows,)`; None where every row of the plan weighs 1."""
    if plan.weights is None:
        return None
    weights = torch.zeros(num_rows)
    weights[torch.from_numpy(plan.rows)] = torch.from_numpy(plan.weights)
    return weights
