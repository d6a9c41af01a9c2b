"""Selectors: which rows an epoch trains on, as pure functions of the values and of `(seed, epoch)`.

    select(values, count, *, seed, epoch, groups=None, ids=None, ...) -> Selection

Every selector returns exactly `count` rows, ascending and without repeats, draws nothing from a global generator and
refuses NaN. A value of +inf stands for an example that was never scored: every selector that goes by the values takes
it first, `easiest` included; it does not count as hard. Those that need the classes (`balanced`, `quota`, ...) first
give every class its places, and then do the same within the class.

Every selector of `datadiet methods` is an attribute of this package, loaded at its first use.
"""

from __future__ import annotations

from typing import Any

from datadiet.registry import attribute, public

_ALSO = {
    "base": ("Selector", "row_hash"),
    "in_batch": ("BatchSignals", "divbs", "last_layer_gram"),
    "quotas": ("with_floor",),
    "ranked": ("OffsetError",),
}

__all__ = public(__name__, _ALSO)


def __getattr__(name: str) -> Any:
    return attribute(__name__, name, _ALSO)
