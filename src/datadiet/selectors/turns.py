"""Selectors that give rows their turns: `cover`, each as often as any other, and `visits`, each as often as it is hard.

They go by what has trained before. A row that rests is owed a visit, and the longer it rests the more, so that no row
is forgotten and none comes twice while another waits. Other selectors see the values of one moment only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import rankdata

from datadiet.errors import ArgumentError
from datadiet.registry import NotNegative, selector
from datadiet.selectors.base import Floats, Mask, Rows, checked, picked, row_hash, selection, top_mask, unseen
from datadiet.types import Selection

# how often a row comes, in units of the mean: an easy row is not forgotten, a hard one does not take every place
LEAST_RATE, MOST_RATE = 0.2, 3.0
# where the debts start: apart, so that equal rates do not come due in the same cycle, and inside (0, 1), so that the
# visits of a row hardly ever differ from its rates by more than one (measured; tests/selectors/test_turns.py)
_FIRST, _LAST = 0.05, 0.95
_PIECE = 1 << 14  # rows that are computed at once: their numbers stay in the cache
_START = 0x7E11  # stream of the hash that they start by


@dataclass(frozen=True)
class Turns:
    """How often each row has trained on a diet, and how often it should have; what `cover` and `visits` go by.

    Attributes:
        visits: int32 `(n,)`, cycles that the row has trained in.
        expected: float64 `(n,)`, the sum of its rates in those cycles.
        rows: int64 `(n,)`, which rows of the whole set these are; None for all of them.
    """

    visits: NDArray[np.integer]
    expected: NDArray[np.float64]
    rows: NDArray[np.int64] | None = None

    @classmethod
    def none(cls, rows: int) -> Turns:
        """Before the first cycle."""
        return cls(np.zeros(rows, np.int32), np.zeros(rows))

    def of(self, rows: Mask | Rows) -> Turns:
        """The same of some rows: bool `(n,)`, or their numbers."""
        whole = np.arange(len(self.visits)) if self.rows is None else self.rows
        whole = picked(whole, rows)
        return Turns(picked(self.visits, rows), picked(self.expected, rows), whole)

    def after(self, chosen: Selection, rows: NDArray[np.int64] | None = None, *, in_place: bool = False) -> Turns:
        """With one cycle more.

        Args:
            chosen: Its rows.
            rows: int64, those that were chosen from; all by default. The others have no turn and no claim to one.
            in_place: Change these arrays, where nobody else holds them: of millions of rows, copies are gigabytes.

        Examples:
            >>> Turns.none(4).after(Selection(np.array([1, 3]))).expected
            array([0.5, 0.5, 0.5, 0.5])
        """
        after = self if in_place else Turns(self.visits.copy(), self.expected.copy(), self.rows)
        after.visits[chosen.rows if rows is None else rows[chosen.rows]] += 1
        pool: Any = slice(None) if rows is None else rows
        number = len(after.visits) if rows is None else len(rows)
        after.expected[pool] += len(chosen.rows) / number if chosen.rates is None else chosen.rates
        return after


@selector(
    formula="the rows with the fewest visits, ties at random: nothing comes twice before everything came once",
    paper="ours; epochs of random reshuffling, cut into cycles",
    inputs="nothing",
    cost="O(n), no scoring",
    loses="to values wherever some rows teach more than others: it is `short` in the form of a diet",
    traits=("takes_turns",),
    evidence="auto",
)
def cover(
    values: ArrayLike,
    count: int,
    *,
    seed: int,
    epoch: int,
    groups: ArrayLike | None = None,
    ids: Sequence[str] | None = None,
    turns: Turns | None = None,
) -> Selection:
    """Rows at random, without replacement across cycles; the floor under every other rule.

    Args:
        values: float `(n,)`; only their number counts, but NaN is refused here as everywhere.
        count: How many, in [1, n].
        seed, epoch: Of the draw among the rows that had equally many visits.
        groups: Not used; see `with_floor`.
        ids: The user's names of the rows, for errors.
        turns: Of the cycles before; none by default.

    Returns:
        Exactly `count` rows, ascending.

    Raises:
        ArgumentError: If values, turns or options do not fit.

    Examples:
        >>> before = Turns(np.array([1, 0, 1, 0]), np.full(4, 0.5), np.arange(4))
        >>> cover([0.1, 0.9, 0.5, 0.7], 2, seed=0, epoch=1, turns=before).rows
        array([1, 3])

    Source: ours. `random` draws anew at every cycle, so that at 0.3 a quarter of the rows does not come in four cycles.
    """
    array, count = checked(values, count, seed=seed, epoch=epoch, groups=groups, ids=ids)
    before = _checked(turns, array.size)
    rests = before.visits.astype(np.float32)
    return selection(top_mask(np.negative(rests, out=rests), count, seed=seed, epoch=epoch))


@selector(
    formula="rate w = clip((value / mean)^gain, 0.2, 3) per row; the rows with the largest debt, rates less visits",
    paper="ours; debts as in fair scheduling",
    inputs="values",
    cost="O(n)",
    loses="to hardest where rows repeat one another and labels are clean; to cover where hard rows are ambiguous",
    traits=("takes_turns",),
    evidence="auto",
)
def visits(
    values: ArrayLike,
    count: int,
    *,
    seed: int,
    epoch: int,
    groups: ArrayLike | None = None,
    ids: Sequence[str] | None = None,
    turns: Turns | None = None,
    gain: Annotated[float, NotNegative] = 1.0,
    weights: bool = False,
) -> Selection:
    """Every row comes as often as it is hard, within a factor of 15: between `cover` (gain 0) and `hardest`.

    Each cycle the debt of a row grows by its rate, the rates sum to `count`, and the rows with the largest debt train;
    a visit takes 1 off. The visits of a row so differ from the sum of its rates by less than one, or by a few
    hundredths more where there are a few hundred rows or fewer.

    Args:
        values: float `(n,)`; larger = harder, +inf = never scored, which comes first. Where a value is negative
            (`margin`), the ratios are those of the ranks.
        count, seed, epoch, groups, ids, turns: As of `cover`; the debts start by a hash of the seed and the row.
        gain: How much more often hard rows come, at least 0.
        weights: Give the loss weights 1 / rate: over cycles the mean weighted sum is that of all rows. In the first
            cycle, where debts start below 1, it is up to an eighth smaller.

    Returns:
        Exactly `count` rows, ascending, and the rates of this cycle.

    Raises:
        ArgumentError: If values, turns or options do not fit.

    Examples:
        >>> chosen = visits([1.0, 1.0, 4.0, 2.0], 2, seed=0, epoch=0)
        >>> chosen.rates.round(2)
        array([0.25, 0.25, 1.  , 0.5 ])

    Source: ours. With constant rates the largest debt first is the quota method of apportionment (Balinski and Young
    1975), over cycles.
    """
    array, count = checked(values, count, seed=seed, epoch=epoch, groups=groups, ids=ids)
    before = _checked(turns, array.size)
    new = unseen(array)
    ranked = np.where(new, np.inf, rankdata(array)) if array.min() < 0 else array
    rates = rates_of(ranked, count, gain)
    debts = np.empty(array.size)
    for begin in range(0, array.size, _PIECE):  # of millions of rows, every step would take gigabytes
        part = slice(begin, begin + _PIECE)
        rows = np.arange(begin, min(begin + _PIECE, array.size)) if before.rows is None else before.rows[part]
        hashes = row_hash(rows, seed=seed, epoch=_START) >> np.uint64(11)
        debt = np.multiply(hashes, (_LAST - _FIRST) / 2.0**53, out=debts[part])
        debt += _FIRST
        debt += before.expected[part]
        debt += rates[part]
        debt -= before.visits[part]
    if new.any():
        debts[new] = np.inf
    mask = top_mask(debts, count, seed=seed, epoch=epoch)
    rows = selection(mask).rows
    return Selection(rows, (1 / rates[rows]).astype(np.float32) if weights else None, rates)


def rates_of(values: Floats, count: int, gain: float) -> NDArray[np.float64]:
    """The expected visits of each row in a cycle of `count` places: at most 1 each, and `count` in all.

    Examples:
        >>> rates_of(np.array([1.0, 1.0, 1.0, 97.0]), 2, gain=1.0).round(3)
        array([0.333, 0.333, 0.333, 1.   ])
    """
    new = unseen(values)
    shares = values.astype(np.float64)
    some = bool(new.any())
    mean = 0.0 if new.all() else float(shares.mean(where=~new) if some else shares.mean())
    if mean > 0:
        shares /= mean
        if gain != 1:
            np.power(shares, gain, out=shares)
        np.clip(shares, LEAST_RATE, MOST_RATE, out=shares)
    else:
        shares[~new] = 1.0
    if some:
        shares[new] = MOST_RATE
    factor, whole = 0.0, -1
    while True:  # what is above 1 goes to the others; every turn fixes a row, and few turns are needed
        above, rest = 0, 0.0
        for begin in range(0, len(shares), _PIECE):
            part = shares[begin : begin + _PIECE]
            below = part * factor <= 1
            above += len(part) - int(np.count_nonzero(below))
            rest += float((part * below).sum())
        if above <= whole or rest == 0:
            shares *= factor
            return np.minimum(shares, 1.0, out=shares)
        factor, whole = (count - above) / max(rest, 1e-300), above


def _checked(turns: Turns | None, rows: int) -> Turns:
    if turns is None:
        return Turns.none(rows)
    if turns.visits.shape != (rows,) or turns.expected.shape != (rows,):
        raise ArgumentError(f"turns need one entry per value, {rows}: got {turns.visits.shape}.")
    return turns
