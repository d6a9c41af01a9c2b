"""The baseline meant to be beaten: a new random subset at every refresh."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from datadiet.records import Selection
from datadiet.selectors.inputs import checked, selection
from datadiet.selectors.ties import top_mask

_STREAM = 1  # of the generator, so that no two selectors share their draws


def random(
    values: ArrayLike,
    count: int,
    *,
    seed: int,
    epoch: int,
    groups: ArrayLike | None = None,
    ids: Sequence[str] | None = None,
) -> Selection:
    """Every subset of this size with the same chance, drawn anew for every `(seed, epoch)`.

    Args:
        values: float `(n,)`; only their number counts, but NaN is refused here as everywhere.
        count: How many, in [1, n].
        seed, epoch: Of the draw.
        groups: Taken for the sake of the common form; see `with_floor`.
        ids: The user's names of the rows, for errors.

    Returns:
        Exactly `count` rows, ascending.

    Raises:
        ArgumentError: If values or options do not fit.

    Example:
        >>> len(random([0.1, 0.9, 0.5, 0.7], 2, seed=0, epoch=0).rows)
        2

    Source: the dynamic random baseline of Raju et al. 2021 (arXiv 2111.12621), with exact counts.
    """
    array, count = checked(values, count, seed=seed, epoch=epoch, groups=groups, ids=ids)
    return selection(uniform_mask(array.size, count, seed=seed, epoch=epoch, stream=_STREAM))


def uniform_mask(size: int, count: int, *, seed: int, epoch: int, stream: int) -> NDArray[np.bool_]:
    """bool `(size,)` with exactly `count` True, at random.

    Keys of 24 bits are enough: where two of them tie at the cut, the hash of the row decides, which is as fair.
    """
    keys = np.random.default_rng([seed, epoch, stream]).random(size, dtype=np.float32)
    return top_mask(keys, count, seed=seed, epoch=epoch)
