"""Which rows a cycle trains on: a selector with its options, bound to a run's seed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datadiet.checks import ArgumentError
from datadiet.records import Selection
from datadiet.selectors import NEEDS, OPTIONS, SELECTORS, with_floor

Selector = Callable[..., Selection]
Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Known:
    """What is known of the training rows beside their values; every part may be missing.

    Attributes:
        groups: int64 `(n,)`, the class of each row.
        features: float `(n, size)`, or a SciPy CSR matrix: where each row lies, for selectors that cover a space.
        recalls: Recall of each class on the dev split.
        scale: The largest value the score can have.
    """

    groups: NDArray[np.int64] | None = None
    features: Any = None
    recalls: Mapping[int, float] | None = None
    scale: float | None = None

    def of(self, rows: Rows) -> Known:
        """What is known of some rows, int64 `(m,)`."""
        groups = None if self.groups is None else self.groups[rows]
        return replace(self, groups=groups, features=None if self.features is None else self.features[rows])


class Chooser:
    """Chooses so many rows by their values.

    Args:
        select: A name of `datadiet.selectors.SELECTORS`, or a function of the same form.
        options: Of the selector, by name.
        floor: Least number of rows of each class; 0 = none.
        seed: Of ties and random choices.

    Attributes:
        needs: What the selector cannot do without, of `groups`, `features` and `recalls`.
    """

    def __init__(self, select: str | Selector, *, options: Mapping[str, Any], floor: int, seed: int) -> None:
        held = {name: _selector(value) if name == "select" else value for name, value in options.items()}
        chosen: Selector = partial(SELECTORS[select], **held) if isinstance(select, str) else select
        self._select = with_floor(chosen, floor) if floor else chosen
        needs = set(NEEDS.get(select, ())) - set(held) if isinstance(select, str) else set()
        self._takes = (set(OPTIONS[select]) | needs) - set(held) if isinstance(select, str) else set()
        self.needs = tuple(sorted((needs | ({"groups"} if floor else set())) & set(_MISSING)))
        self._seed = seed

    def check(self, known: Known) -> None:
        """Refuse to choose without what the selector needs.

        Raises:
            ArgumentError: Names what is missing, and where it comes from.
        """
        for name in self.needs:
            if name != "recalls" and getattr(known, name) is None:
                raise ArgumentError(_MISSING[name])

    def choose(self, values: NDArray[np.float32], count: int, *, epoch: int, known: Known = Known()) -> Selection:
        """Rows by their values.

        Args:
            values: float32 `(n,)`, larger = harder; +inf = never seen.
            count: How many, exactly.
            epoch: The first that trains on them.
            known: What else there is to go by.

        Returns:
            Exactly `count` rows, with loss weights where the selector gives them.

        Raises:
            ArgumentError: If the selector needs recalls, and no dev split has been judged.
        """
        if "recalls" in self.needs and known.recalls is None:
            raise ArgumentError(_MISSING["recalls"])
        wanted = {"features": known.features, "recalls": known.recalls, "scale": known.scale}
        options = {name: wanted[name] for name in ("features", "recalls", "scale") if name in self._takes}
        return self._select(values, count, seed=self._seed, epoch=epoch, groups=known.groups, **options)

    def draw(self, number: int, count: int, *, epoch: int) -> Rows:
        """Rows at random, int64 `(count,)`, of so many: where nothing is known of them yet."""
        return SELECTORS["random"](np.zeros(number), count, seed=self._seed, epoch=epoch).rows


_MISSING = {
    "groups": "floor and quotas need the class of each example; this data set has none (regression?).",
    "features": "this selector needs features: an array with one line per training row, such as sentence embeddings.",
    "recalls": "this selector needs the recall of each class on the dev split, and no dev split has been judged yet.",
}


def _selector(value: object) -> object:
    """A selector inside another one may be given by its name."""
    return SELECTORS[value] if isinstance(value, str) else value
