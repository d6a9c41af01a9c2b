"""Which rows a cycle trains on: a selector with its options, bound to a run's seed."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datadiet.records import Selection
from datadiet.selectors import SELECTORS, with_floor

Selector = Callable[..., Selection]
Rows = NDArray[np.int64]


class Chooser:
    """Chooses so many rows by their values.

    Args:
        select: A name of `datadiet.selectors.SELECTORS`, or a function of the same form.
        offset, epsilon, floor: Options of the selector; see `datadiet.Diet`.
        seed: Of ties and random choices.
    """

    def __init__(self, select: str | Selector, *, offset: float, epsilon: float | None, floor: int, seed: int) -> None:
        options = {"offset": offset} if offset else {}
        if select == "epsilon":
            options["epsilon"] = float(epsilon or 0.0)
        chosen: Selector = partial(SELECTORS[select], **options) if isinstance(select, str) else select
        self._select = with_floor(chosen, floor) if floor else chosen
        self._scaled, self._seed = select == "uncertain", seed

    def choose(
        self,
        values: NDArray[np.float32],
        count: int,
        *,
        epoch: int,
        groups: NDArray[np.int64] | None = None,
        scale: float | None = None,
    ) -> Selection:
        """Rows by their values.

        Args:
            values: float32 `(n,)`, larger = harder; +inf = never seen.
            count: How many, exactly.
            epoch: The first that trains on them.
            groups: int64 `(n,)`, the class of each row, for `floor`.
            scale: The largest value there can be, where there is one; of interest to `uncertain`.

        Returns:
            Exactly `count` rows, with loss weights where the selector gives them.
        """
        options: dict[str, Any] = {"scale": scale} if self._scaled else {}
        return self._select(values, count, seed=self._seed, epoch=epoch, groups=groups, **options)

    def draw(self, number: int, count: int, *, epoch: int) -> Rows:
        """Rows at random, int64 `(count,)`, of so many: where nothing is known of them yet."""
        return SELECTORS["random"](np.zeros(number), count, seed=self._seed, epoch=epoch).rows
