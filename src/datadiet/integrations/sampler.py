"""The one mutable sampler of a run: the current plan's rows, in the order of the Trainer's own strategy.

It is built once, beside the data loader, and reads a new plan every epoch; no loader is rebuilt and no training is
restarted. The order is a pure function of (seed, epoch), so a resumed or a second process draws the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import RandomSampler, Sampler, SequentialSampler
from transformers.trainer_pt_utils import LengthGroupedSampler, get_length_grouped_indices

from datadiet.checks import ArgumentError
from datadiet.records import EpochPlan

STRATEGIES = ("random", "sequential", "group_by_length")


class DietSampler(Sampler[int]):
    """Yields the rows of the plan set last.

    Args:
        num_rows: Rows it answers with for its length before the first plan is set: the longest epoch, because trainers
            read the length once, at the start.
        strategy: `random`, `sequential` or `group_by_length`.
        seed: Of the order.
        lengths: Tokens of each row of the data set (`group_by_length`).
        batch_size: Examples that share a length group (`group_by_length`).
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

    @classmethod
    def like(cls, sampler: Any, num_rows: int, seed: int) -> DietSampler:
        """A sampler that keeps the strategy of the one a Trainer has built.

        Raises:
            ArgumentError: If the strategy is not one that an order of chosen rows can keep.
        """
        if isinstance(sampler, LengthGroupedSampler):
            lengths = np.asarray(sampler.lengths, np.int64)
            return cls(num_rows, strategy="group_by_length", seed=seed, lengths=lengths, batch_size=sampler.batch_size)
        if isinstance(sampler, RandomSampler):
            return cls(num_rows, seed=seed)
        if isinstance(sampler, SequentialSampler):
            return cls(num_rows, strategy="sequential", seed=seed)
        raise ArgumentError(
            f"a diet cannot keep the order of {type(sampler).__name__}; use a random, sequential or group_by_length "
            "sampling strategy (for sentence-transformers: BatchSamplers.BATCH_SAMPLER)."
        )

    def set_plan(self, plan: EpochPlan) -> None:
        """Train on these rows from the next iterator on."""
        self._plan = plan

    def __len__(self) -> int:
        return self._num_rows if self._plan is None else len(self._plan.rows)

    def __iter__(self) -> Iterator[int]:
        if self._plan is None:
            raise RuntimeError("no plan has been set for this epoch")
        return iter(self._order(self._plan).tolist())

    def _order(self, plan: EpochPlan) -> NDArray[np.int64]:
        if self._strategy == "sequential":
            return plan.rows
        if self._strategy == "random":
            return np.random.default_rng([self._seed, plan.epoch]).permutation(plan.rows)
        assert self._lengths is not None
        generator = torch.Generator().manual_seed(int(np.random.default_rng([self._seed, plan.epoch]).integers(2**62)))
        places = get_length_grouped_indices(  # type: ignore[no-untyped-call]
            self._lengths[plan.rows].tolist(), self._batch_size, generator=generator
        )
        return plan.rows[np.asarray(places, np.int64)]
