"""Values of the training examples during a run, corrected for their age.

`EpochBuffer` collects the values of the training forwards of an epoch, and `LatestValues` holds the last value of every
example and its history. Values from the training forward are taken while the model changes: an example seen early in an
epoch looks harder than one seen late, and one that has been skipped since looks harder than one that trains, only
because the model was worse then. Uncorrected, the first makes a selection nearly random after a short warm-up, and the
second makes the diet swap its two halves at every refresh. `to_epoch_end` brings values to one moment.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import isotonic_regression
from torch import Tensor

from datadiet.scores.history import History
from datadiet.selectors.base import picked
from datadiet.store.row_arrays import RowArrays
from datadiet.types import Scores

MOMENT = "moment"  # column of the history: the batch of the epoch, from 1, in which a training value was seen
SEEN = "seen"
_NONE = ""  # in place of a column, where there are no values at all
_FLUSH_EVERY = 256  # batches that are kept as tensors, so that no step waits for a device
_FLUSH_ROWS = 1 << 20  # or rows, where batches are large

# An example that is skipped becomes easier too, by what the model learns from the others, but less than one that
# trains: by half as much, counted in factors. With 0 a diet without passes swaps its two halves at every refresh.
REST = 0.5
_LEAST = 64  # examples in a bin, so that one hard batch is no trend
_MOST_BINS = 8
_AT_ONCE = 65_536
_HISTORY = "history."  # of the arrays of a checkpoint

Values = NDArray[np.float32]
Rows = NDArray[np.int64]


class EpochBuffer:
    """The first value of each example in the epoch that trains: a row that comes again only fills a last batch.

    Args:
        num_examples: Rows of the data set.
        columns: Names of the values; the last is `MOMENT`.
        arrays: Where they are; in memory by default.
    """

    def __init__(self, num_examples: int, columns: tuple[str, ...], arrays: RowArrays | None = None) -> None:
        self._num_examples, self._columns = num_examples, columns
        self._place = RowArrays(num_examples) if arrays is None else arrays
        self._epoch, self._moment = 0, 0
        self._pending: list[tuple[Tensor, Tensor]] = []
        self._pending_rows = 0
        self._arrays: dict[str, NDArray[Any]] = {}  # float32 per column, nan where not seen; bool `seen`
        self._same: dict[str, str] = {}  # the column that has the same values, for one that has no array of its own

    def add(self, rows: Tensor, values: Tensor, *, epoch: int) -> None:
        """Add the values of a batch.

        Args:
            rows: int64 `(batch,)`.
            values: float32 `(columns without moment, batch)`.
            epoch: The epoch that is training.
        """
        if self._epoch != epoch:
            self._epoch, self._moment = epoch, 0
        self._moment += 1
        moment = torch.full_like(values[:1], self._moment)
        self._pending.append((rows.detach().flip(0), torch.cat([values, moment]).flip(1)))
        self._pending_rows += len(rows)
        if len(self._pending) >= _FLUSH_EVERY or self._pending_rows >= _FLUSH_ROWS:
            self._flush()

    def drain(self, round_: int) -> Scores:
        """Hand over the values since the last call, ascending by row, as the record of a round."""
        self._flush()
        seen = self._arrays.pop(SEEN, np.zeros(0, bool))
        rows = np.flatnonzero(seen)
        whole = len(rows) == self._num_examples  # then the arrays are handed over as they are, else column by column
        own = {name: self._arrays.pop(name) if whole else self._arrays.pop(name)[rows] for name in list(self._arrays)}
        own[_NONE] = np.broadcast_to(np.float32(np.nan), len(rows))
        known = [name for name in self._columns if name in own or name in self._same]
        values = {name: own[self._same.get(name, name)] for name in known}
        self._same = {}
        return Scores(rows, values, "train", self._epoch, round_)

    def put_back(self, scores: Scores) -> None:
        """Take back the record that `drain` handed over."""
        for name, values in scores.values.items():
            if name not in self._arrays and not self._holds(name, scores.values):
                other = self._same.pop(name, _NONE)
                own = self._place.full(np.nan, np.float32) if other == _NONE else self._place.taken(self._arrays[other])
                self._arrays[name] = own
            if name in self._arrays:
                self._arrays[name][scores.rows] = values
        if SEEN not in self._arrays:
            self._arrays[SEEN] = self._place.full(False, bool)
        self._arrays[SEEN][scores.rows] = True

    def _holds(self, name: str, values: Mapping[str, Values]) -> bool:
        """Whether a column needs no array of its own: nothing in it, or to the last bit what another one has."""
        earlier = () if SEEN in self._arrays else (_NONE, *(other for other in self._arrays))
        for other in (self._same[name],) if name in self._same else earlier:
            if other == _NONE:
                same = bool(np.isnan(values[name]).all())
            else:
                same = np.array_equal(values[name].view(np.int32), values[other].view(np.int32))
            if same:
                self._same[name] = other
                return True
        return False

    def state(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """Arrays, and plain values."""
        self._flush()
        return dict(self._arrays), {"epoch": self._epoch, "moment": self._moment, "same": dict(self._same)}

    def load(self, arrays: dict[str, NDArray[Any]], numbers: dict[str, Any]) -> None:
        """Restore a state."""
        self._arrays = {name: self._place.taken(array) for name, array in arrays.items()}
        self._epoch, self._moment, self._same = numbers["epoch"], numbers["moment"], dict(numbers.get("same", {}))

    def _flush(self) -> None:
        if not self._pending:
            return
        # the last first: of a row that comes twice, the value that is written last stays, which is its first
        rows = torch.cat([rows.cpu() for rows, _ in self._pending[::-1]]).numpy()
        values = torch.cat([values.cpu() for _, values in self._pending[::-1]], dim=1).numpy()  # (columns, observed)
        self._pending, self._pending_rows = [], 0
        if (seen := self._arrays.get(SEEN)) is not None and (before := seen[rows]).any():
            rows, values = rows[~before], values[:, ~before]
        self.put_back(Scores(rows, dict(zip(self._columns, values, strict=True)), "train", self._epoch, 0))


class StreamBuffer:
    """The values of a stream since the last call of `drain`, in the order of its rows: none of them comes again.

    Args:
        columns: Names of the values; the last is `MOMENT`.
    """

    def __init__(self, columns: tuple[str, ...]) -> None:
        self._columns, self._epoch, self._moment = columns, 0, 0
        self._pending: list[tuple[Tensor, Tensor]] = []

    def add(self, rows: Tensor, values: Tensor, *, epoch: int) -> None:
        """Add the values of a batch; see `EpochBuffer.add`."""
        if self._epoch != epoch:
            self._epoch, self._moment = epoch, 0
        self._moment += 1
        self._pending.append((rows.detach(), torch.cat([values, torch.full_like(values[:1], self._moment)])))

    def drain(self, round_: int) -> Scores:
        """Hand over the values since the last call, as a record."""
        if not self._pending:
            return Scores(np.zeros(0, np.int64), {}, "train", self._epoch, round_)
        rows = torch.cat([rows.cpu() for rows, _ in self._pending]).numpy()
        values = torch.cat([values.cpu() for _, values in self._pending], dim=1).numpy()
        self._pending = []
        order = np.argsort(rows, kind="stable")  # a choice within a batch may reorder it
        columns = zip(self._columns, values, strict=True)
        return Scores(rows[order], {name: column[order] for name, column in columns}, "train", self._epoch, round_)

    def put_back(self, scores: Scores) -> None:
        """Take back the record that `drain` handed over."""
        if len(scores.rows):
            values = np.stack([scores.values[name] for name in self._columns])
            self._pending.insert(0, (torch.from_numpy(scores.rows), torch.from_numpy(values)))

    def state(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """Plain values; what is pending belongs into the score history before."""
        return {}, {"epoch": self._epoch, "moment": self._moment}

    def load(self, arrays: dict[str, NDArray[Any]], numbers: dict[str, Any]) -> None:
        """Restore a state."""
        self._epoch, self._moment = numbers["epoch"], numbers["moment"]


def to_epoch_end(values: Values, prior: Values, moments: Values) -> tuple[Values, float]:
    """Values of the examples of one epoch as if all had been seen at its end.

    `value_i * trend(end) / trend(moment_i)`, where the trend is the ratio of the values to what the same examples had
    before, in bins of the epoch, made to fall monotonically. For examples never seen before, the mean value itself.

    Args:
        values: float32 `(n,)`, at least 0, taken during the epoch.
        prior: float32 `(n,)`, the values before the epoch; +inf where there was none.
        moments: float32 `(n,)`, when in the epoch each was taken, in any unit.

    Returns:
        float32 `(n,)`, and the trend at the end: the share to which values fell over the epoch (1 where unknown).

    Examples:
        >>> moments = np.arange(256, dtype=np.float32)
        >>> values = (2 - moments / 256).astype(np.float32)  # equally hard, seen ever later
        >>> corrected, fall = to_epoch_end(values, np.full(256, np.inf, np.float32), moments)
        >>> bool(corrected.std() < 0.1 * values.std()), fall
        (True, 1.0)
    """
    seen = np.isfinite(prior)
    paired = bool(seen.sum() >= _LEAST)
    used = seen if paired else ~seen
    where: Any = slice(None) if used.all() else used  # no copies where every example counts
    base = prior[where] if paired else np.ones(int(used.sum()), np.float32)
    if used.sum() < _LEAST or values.min() < 0 or base.sum() <= 0 or values[where].sum() <= 0:
        return values, 1.0
    centres, trend = _trend(values[where], base, moments[where])
    corrected = np.empty(len(values), np.float32)
    for start in range(0, len(values), _AT_ONCE):  # in float64, a piece at a time
        part = slice(start, start + _AT_ONCE)
        corrected[part] = values[part] * (trend[-1] / np.interp(moments[part], centres, trend))
    return corrected, float(trend[-1]) if paired else 1.0


def _trend(values: Values, base: Values, moments: Values) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Centres of the bins, and the falling ratio of the values to their base in each."""
    bins, number = _bins(moments, min(_MOST_BINS, max(1, len(moments) // _LEAST)))
    sizes, ends, tops, bottoms = np.zeros((4, number))
    for start in range(0, len(values), _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        sizes += np.bincount(bins[part], minlength=number)
        for sums, summed in ((ends, moments), (tops, values), (bottoms, base)):
            sums += np.bincount(bins[part], weights=summed[part], minlength=number)
    centres, ratios = ends / sizes, tops / bottoms
    falling = np.asarray(isotonic_regression(ratios, weights=sizes, increasing=False).x)
    # between the centres of two bins the trend is a line; beyond the outer ones it goes on as it was
    first, last = float(moments.min()), float(moments.max())
    start = falling[0] + _slope(centres[:2], falling[:2]) * (first - centres[0])
    end = max(falling[-1] + _slope(centres[-2:], falling[-2:]) * (last - centres[-1]), 0.5 * falling[-1])
    return np.r_[first, centres, last], np.maximum(np.r_[start, falling, end], 1e-6)


def _bins(moments: Values, number: int) -> tuple[NDArray[np.uint8], int]:
    """The bin of each value, uint8 `(n,)`, so many bins of equal size by its moment; of equal moments, by its row."""
    starts = np.cumsum([len(part) for part in np.array_split(np.empty(len(moments), bool), number)])[:-1]
    bins = np.zeros(len(moments), np.uint8)
    for start, edge in zip(starts, np.partition(moments, starts)[starts], strict=True):
        later = moments > edge
        ties = np.flatnonzero(moments == edge)
        earlier = len(moments) - int(np.count_nonzero(later)) - len(ties)
        later[ties[start - earlier :]] = True
        bins += later
    return bins, number


def _slope(centres: NDArray[np.float64], values: NDArray[np.float64]) -> float:
    """0 where all is one moment."""
    run = centres[-1] - centres[0]
    return float((values[-1] - values[0]) / run) if run > 0 else 0.0


class LatestValues:
    """The last value of every example, all comparable, and the history of the values.

    Args:
        num_examples: Rows of the data set.
        history: The reduction over rounds.
        every: Whether the history takes every value as it comes, instead of the last one of each round brought to one
            moment: for quantities over the whole training.
        arrays: Where the values are; in memory by default.

    Attributes:
        fresh: bool `(n,)`, has a value since the last selection.
        known: Whether there is any value.
    """

    def __init__(
        self, num_examples: int, history: History, *, every: bool = False, arrays: RowArrays | None = None
    ) -> None:
        self._place = RowArrays(num_examples) if arrays is None else arrays
        # in units of the level, which falls as the model learns; +inf = never seen
        self._values, self._level = self._place.full(np.inf, np.float32), 1.0
        self._history, self._memory = history, {} if history.latest else history.init(num_examples)
        if self._place.mapped:
            self._memory = {name: self._place.taken(array) for name, array in self._memory.items()}
        self.fresh, self.known = np.zeros(num_examples, bool), False
        self._every = every

    def __len__(self) -> int:
        return len(self._values)

    def take(self, rows: Rows, values: Values, *, moments: Values | None = None) -> None:
        """Make the values the current ones.

        Args:
            rows: int64 `(n,)`.
            values: float32 `(n,)`.
            moments: When in the epoch each was seen, where they come from training; None for those of one moment.
        """
        if moments is not None and not self._every:
            prior = self._values[rows]
            prior *= np.float32(self._level)
            values, fall = to_epoch_end(values, prior, moments)
            self._level *= fall**REST  # so skipped examples fall with it
        self._values[rows] = values / np.float32(self._level)
        self.fresh[rows], self.known = True, True
        if self._every:
            taken = np.zeros(len(self), bool)
            taken[rows] = True
            self._update(taken)

    def _update(self, fresh: NDArray[np.bool_]) -> None:
        if self._history.latest:  # the values are that already
            self._place.flush()
            return
        memory = self._history.update(self._memory, self._values, fresh)
        if not self._place.mapped:
            self._memory = memory
            return
        for name, array in memory.items():
            self._memory[name][...] = array
        self._place.flush()

    def close_round(self, rows: NDArray[np.bool_] | None = None) -> Values:
        """The reduced values of some rows, of all by default: float32, +inf where never seen; nothing is fresh
        afterwards."""
        if not self._every:
            self._update(self.fresh)
        self.fresh[:] = False
        values = self._reduced
        return (values if rows is None else picked(values, rows)) * np.float32(self._level)

    @property
    def _reduced(self) -> Values:
        return self._values if self._history.latest else self._history.value(self._memory)

    def quantiles(self, shares: Mapping[str, float]) -> dict[str, float]:
        """Quantiles of the values by name; empty where there is no value."""
        values = self._reduced if self._every else self._values
        finite = values[np.isfinite(values)]  # a copy
        if not len(finite):
            return {}
        quantiles = np.quantile(finite, list(shares.values()), overwrite_input=True) * self._level
        return dict(zip(shares, map(float, quantiles), strict=True))

    def state(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """Arrays, and plain values."""
        memory = {_HISTORY + name: np.asarray(array) for name, array in self._memory.items()}
        arrays = {"values": self._values, "fresh": self.fresh, **memory}
        return arrays, {"known": self.known, "level": self._level}

    def load(self, arrays: dict[str, NDArray[Any]], numbers: dict[str, Any]) -> None:
        """Restore a state."""
        self._values, self.fresh = self._place.taken(arrays["values"]), np.array(arrays["fresh"])
        memory = {name: array for name, array in arrays.items() if name.startswith(_HISTORY) and self._memory}
        self._memory = {name.removeprefix(_HISTORY): self._place.taken(array) for name, array in memory.items()}
        self.known, self._level = numbers["known"], numbers["level"]
