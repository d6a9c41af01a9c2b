"""Selectors within one batch: the examples of a batch that get a backward pass.

    method = SelectiveBackprop()                             # or any other of IN_BATCH
    ...                                                      # forward pass without gradients: losses
    signals = BatchSignals(losses)
    mask = method.choose(signals, seed=0, step=12)           # bool (batch,); the loss is the mean over these
    method.learn(signals)                                    # last: updates the state that later steps use
    method.load(method.state())                              # for checkpoints: numbers and arrays only

A method of your own derives from `BatchSelector` and holds the same rules:

- `needs` names the fields of BatchSignals that it reads; a missing one is refused.
- `choose` changes nothing; only `learn` does, once per step, after it.
- No mask is empty. Every process has a backward pass in every step, so an exchange of gradients never blocks.
- All draws come from `(seed, step)`: a step that runs again after a resume chooses the same. With several processes
  give each a seed of its own (`datadiet.selectors.base.mix(seed, rank)`); state is per process.
- Losses are NumPy arrays, float, one per example, without gradient. NaN is refused with its places in the batch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from datadiet.errors import ArgumentError, Problems
from datadiet.registry import AtLeast, NotNegative, Positive, Share, UnitShare, in_batch
from datadiet.selectors.base import top_mask

_HOT = 1e9  # temperature in spreads of the losses at which all weights are equal
_FLAT = 1e-9  # share of a vector's squared length below which nothing of it is left
_BACKPROP_STREAM, _DIVERSE_STREAM = 10, 11  # of the generator, so that no two methods share their draws

Mask = NDArray[np.bool_]
State = dict[str, Any]


@dataclass(frozen=True)
class BatchSignals:
    """Values of the examples of a batch after their forward pass.

    Attributes:
        losses: float `(batch,)`, one per example.
        gram: float `(batch, batch)`, inner products of the examples' gradients, e.g. from `last_layer_gram`.
        irreducible: float `(batch,)`, losses of a model trained on held-out data.
        entropy: float `(batch,)`, how uncertain the model is: the mean over an example's decisions, in nats.
        rows: int64 `(batch,)`, the number of each example in the training data.
    """

    losses: NDArray[Any]
    gram: NDArray[Any] | None = None
    irreducible: NDArray[Any] | None = None
    entropy: NDArray[Any] | None = None
    rows: NDArray[Any] | None = None


class Baselines:
    """A running mean of the losses of each example: `b <- (1 - ema) b + ema l`, at its first loss `b = l`.

    Args:
        ema: Weight of the newest loss, in (0, 1].

    Attributes:
        fresh: What changed since it was last emptied, by row: for the other processes.

    Examples:
        >>> own = Baselines(0.5)
        >>> own.learn(BatchSignals(np.array([4.0, 1.0]), rows=np.array([0, 2])))
        >>> own.learn(BatchSignals(np.array([2.0]), rows=np.array([0])))
        >>> own.excess(BatchSignals(np.array([5.0, 5.0, 5.0]), rows=np.array([0, 1, 2]))).tolist()  # 3, 2 and 1
        [2.0, 3.0, 4.0]
    """

    def __init__(self, ema: float) -> None:
        self._ema, self._means, self.fresh = ema, np.empty(0, np.float64), dict[int, float]()

    def excess(self, signals: BatchSignals) -> NDArray[np.float64]:
        """The losses less the baselines; one that has none yet has the mean of those of the batch, 0 where no other has
        one."""
        losses, means = checked_losses(signals.losses), self._of(signals)
        known = np.isfinite(means)
        means[~known] = means[known].mean() if known.any() else 0.0
        return losses - means

    def learn(self, signals: BatchSignals) -> None:
        """Add the losses of a batch."""
        losses, means = checked_losses(signals.losses), self._of(signals)
        means = np.where(np.isfinite(means), (1 - self._ema) * means + self._ema * losses, losses)
        self.take(dict(zip(required(signals, "rows").tolist(), means.tolist(), strict=True)))

    def take(self, means: Mapping[int, float]) -> None:
        """Baselines of some rows, e.g. of another process."""
        if means:
            missing = max(means) + 1 - len(self._means)
            self._means = np.concatenate((self._means, np.full(max(0, missing), np.nan)))
            self._means[list(means)] = list(means.values())
            self.fresh |= means

    def state(self) -> State:
        """The baseline of each row, nan where it has none."""
        return {"means": self._means.copy()}

    def load(self, state: Mapping[str, Any]) -> None:
        """The baselines again."""
        check_state(state, {"means": 1})
        self._means, self.fresh = np.array(state["means"], np.float64), {}

    def _of(self, signals: BatchSignals) -> NDArray[np.float64]:
        rows = np.asarray(required(signals, "rows"), np.int64)
        means = np.full(len(rows), np.nan)
        inside = rows < len(self._means)
        means[inside] = self._means[rows[inside]]
        return means


class BatchSelector(ABC):
    """Chooses within one batch; without a state unless `learn`, `state` and `load` are overridden.

    Attributes:
        needs: Fields of BatchSignals that it reads.
        chooses: False of one that only weighs: all examples train, and no pass of its own is needed.
        gate: Whether it is turned off where scoring takes more time than it saves.
        baselines: Of each example, where it compares a loss with those before it.
    """

    needs: frozenset[str] = frozenset({"losses"})
    chooses: bool = True
    gate: bool = False
    baselines: Baselines | None = None

    @abstractmethod
    def choose(self, signals: BatchSignals, *, seed: int, step: int) -> Mask:
        """The examples that get a backward pass, bool `(batch,)`, at least one."""

    def weigh(self, signals: BatchSignals) -> NDArray[np.float64] | None:
        """What the losses of a batch weigh, float64 `(batch,)` with the mean 1; None where all weigh 1."""
        return None

    def calibrated(self, signals: BatchSignals) -> Mask | None:
        """The examples of which a token rule shall keep everything, bool `(batch,)`; None where that is its own say.

        Called before `learn`, as `choose` is.
        """
        return None

    def learn(self, signals: BatchSignals) -> None:
        """Update the state by the batch."""
        if self.baselines is not None:
            self.baselines.learn(signals)

    def state(self) -> State:
        """The state as numbers and arrays."""
        return {} if self.baselines is None else self.baselines.state()

    def load(self, state: Mapping[str, Any]) -> None:
        """Continue from such a state; one of another method is refused."""
        if self.baselines is None:
            check_state(state, {})
        else:
            self.baselines.load(state)

    def compared(self, signals: BatchSignals) -> NDArray[np.float64]:
        """The losses, float64 `(batch,)`, less the baselines where it has such."""
        return checked_losses(signals.losses) if self.baselines is None else self.baselines.excess(signals)


@in_batch(
    name="selective_backprop",
    formula="backward with probability percentile(loss among recent losses) ** beta",
    paper="Jiang et al. 2019, arXiv 1910.00762",
    inputs="losses of the batch",
    cost="a forward pass of everything",
    loses="on noisy labels, as hardest; saves backward passes only",
)
class SelectiveBackprop(BatchSelector):
    """A backward pass with a chance that rises with the loss: `percentile(loss) ** beta` among recent losses.

    The percentile is the share of the last `window` losses, those of the batch included, that are no larger. If the
    draw leaves nothing, the largest loss gets its pass.

    Args:
        beta: At least 0; on average about `1 / (beta + 1)` of the examples get a backward pass.
        window: Recent losses, at least 1.

    Examples:
        >>> method = SelectiveBackprop(beta=1.0)
        >>> signals = BatchSignals(np.array([0.1, 2.0, 0.3, 0.2]))
        >>> bool(method.choose(signals, seed=0, step=0)[1])  # percentile 1: always
        True

    Source: Jiang et al. 2019, Accelerating Deep Learning by Focusing on the Biggest Losers (arXiv 1910.00762), section
    3. Their code fills whole batches from examples of several; here a batch shrinks, so that a step stays a step.
    """

    def __init__(self, beta: Annotated[float, NotNegative] = 1.0, window: Annotated[int, AtLeast(1)] = 1024) -> None:
        problems = Problems()
        problems.check(0 <= beta < np.inf, f"beta must be at least 0, got {beta}.")
        problems.whole("window", window, least=1)
        problems.raise_any()
        self.beta, self.window = beta, window
        self._recent = np.empty(0, np.float64)

    def choose(self, signals: BatchSignals, *, seed: int, step: int) -> Mask:
        """Drawn by percentile."""
        losses = checked_losses(signals.losses)
        chances = percentiles(losses, self._with(losses)) ** self.beta
        mask: Mask = np.random.default_rng([seed, step, _BACKPROP_STREAM]).random(losses.size) < chances
        return mask if mask.any() else np.arange(losses.size) == np.argmax(losses)

    def learn(self, signals: BatchSignals) -> None:
        """Add the batch's losses to the window."""
        self._recent = self._with(checked_losses(signals.losses))

    def state(self) -> State:
        """The recent losses."""
        return {"recent": self._recent.copy()}

    def load(self, state: Mapping[str, Any]) -> None:
        """The recent losses again."""
        check_state(state, {"recent": 1})
        self._recent = np.asarray(state["recent"], np.float64)[-self.window :]

    def _with(self, losses: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.concatenate((self._recent, losses))[-max(self.window, losses.size) :]


@in_batch(
    name="divbs",
    formula="greedily the examples whose gradients span the sum of the batch's: largest <r_i, s>^2 / |r_i|^2",
    paper="Hong et al. 2024, DivBS, ICML",
    inputs="Gram matrix of last-layer gradients",
    cost="a forward pass of everything, O(batch^2 count)",
    loses="on batches without redundancy; saves backward passes only",
    traits=("reads_logits",),
)
class DiverseBatch(BatchSelector):
    """The examples whose gradients together span the batch's mean gradient: see `divbs`.

    Args:
        keep: Share of the batch that gets a backward pass, in (0, 1].

    Examples:
        >>> gram = np.array([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 0.9]])
        >>> signals = BatchSignals(np.ones(3), gram=gram)
        >>> bool(DiverseBatch(keep=0.7).choose(signals, seed=0, step=0)[2])  # one of the twins is enough
        True

    Source: as `divbs`.
    """

    needs = frozenset({"losses", "gram"})

    def __init__(self, keep: Annotated[float, Share] = 0.5) -> None:
        self.keep = checked_share(keep)

    def choose(self, signals: BatchSignals, *, seed: int, step: int) -> Mask:
        """`round(keep * batch)` examples."""
        gram = required(signals, "gram")
        generator = np.random.default_rng([seed, step, _DIVERSE_STREAM])
        return divbs(gram, batch_count(self.keep, len(gram)), generator)


@in_batch(
    name="top_reducible",
    formula="largest loss - loss of a model trained on held-out data",
    paper="Mindermann et al. 2022, RHO-LOSS",
    inputs="losses, irreducible losses",
    cost="a forward pass of everything, a model on held-out data",
    loses="where examples are few: the held-out part is missing from training",
    needs=("holdout",),
    named_alone=False,
)
class TopReducible(BatchSelector):
    """The examples with the largest `loss - irreducible loss`: neither noise nor learned already.

    Args:
        keep: Share of the batch that gets a backward pass, in (0, 1]; published: 0.1 of large batches.

    Examples:
        >>> signals = BatchSignals(np.array([3.0, 2.0, 0.1]), irreducible=np.array([3.0, 0.2, 0.0]))
        >>> TopReducible(keep=0.34).choose(signals, seed=0, step=0)  # the first is noise, the last is learned
        array([False,  True, False])

    Source: RHO-LOSS (Mindermann et al. 2022; OATML/RHO-Loss), with the loss of the forward pass at hand.
    """

    needs = frozenset({"losses", "irreducible"})

    def __init__(self, keep: Annotated[float, Share] = 0.1) -> None:
        self.keep = checked_share(keep)

    def choose(self, signals: BatchSignals, *, seed: int, step: int) -> Mask:
        """`round(keep * batch)` examples."""
        losses = checked_losses(signals.losses)
        reducible = losses - checked_losses(required(signals, "irreducible"), "irreducible losses")
        return top_mask(reducible, batch_count(self.keep, losses.size), seed=seed, epoch=step)


@in_batch(
    name="mid_rank",
    formula="losses in descending order, the slice [portion, portion + 1) * keep * batch",
    paper="Chen et al. 2024, Take the Bull by the Horns, arXiv 2402.14270",
    inputs="losses of the batch",
    cost="a forward pass of everything",
    loses="with portion 0 on noise, which has the largest losses; saves backward passes only",
    evidence="instruction-tuning",
)
class MidRank(BatchSelector):
    """A slice of the batch's losses in descending order: the moderately hard examples.

    Args:
        keep: Share of the batch that gets a backward pass, in (0, 1]; at least one example.
        portion: Slices of this size that are left out above it; 0 takes the very hardest. Where there are not so many,
            the last slice.
        ema: Ranks go by the loss less a running mean of the example's own earlier losses, in which the newest weighs
            so much, in [0, 1]; see `Baselines`. 0 is the published rule: the losses alone.

    Examples:
        >>> MidRank(keep=0.25, portion=1).choose(BatchSignals(np.array([1.0, 4.0, 2.0, 3.0])), seed=0, step=0)
        array([False, False, False,  True])

    Source: Take the Bull by the Horns (arXiv 2402.14270; VITA-Group/HardFocusTraining), `rank`. Their slice is empty,
    and its mean NaN, where `keep * batch` is below 1. Baselines are ours.
    """

    def __init__(
        self,
        keep: Annotated[float, Share] = 0.125,
        portion: Annotated[int, AtLeast(0)] = 1,
        ema: Annotated[float, UnitShare] = 0.0,
    ) -> None:
        problems = Problems()
        problems.whole("portion", portion, least=0)
        problems.raise_any()
        self.keep, self.portion, self.baselines = checked_share(keep), portion, baselines_of(ema)

    def choose(self, signals: BatchSignals, *, seed: int, step: int) -> Mask:
        """`round(keep * batch)` examples."""
        losses = self.compared(signals)
        count = batch_count(self.keep, losses.size)
        skipped = min(self.portion * count, losses.size - count)
        whole = top_mask(losses, skipped + count, seed=seed, epoch=step)
        return whole & ~top_mask(losses, skipped, seed=seed, epoch=step)


@in_batch(
    name="ir_dro",
    formula="all of the batch, weighed by softmax(loss / temperature), the mean 1",
    paper="Chen et al. 2024, Take the Bull by the Horns, arXiv 2402.14270",
    inputs="losses of the batch",
    cost="nothing: the losses of the training forward",
    loses="on noise, which has the largest losses; it saves nothing",
    traits=("weights",),
    evidence="instruction-tuning",
)
class InstanceReweighting(BatchSelector):
    """All examples train, each weighed by its loss: the worst case within a distance of the uniform weights.

    Args:
        temperature: Above 0; the lower, the more the largest loss counts. The weights maximise `sum w_i l_i -
            temperature * KL(w || uniform)`.
        least: The least effective share of the batch, `1 / (n sum w^2)` of weights that sum to 1, in [0, 1]: where the
            temperature gives less, it is raised until it is so. 0 is the published rule, in which one long answer can
            make up a batch alone.
        trim: Share of the batch with the largest losses that does not train, in [0, 1): noise is there. 0 is the
            published rule.
        ema: All goes by the loss less a running mean of the example's own earlier losses, in which the newest weighs
            so much, in [0, 1]; see `Baselines`. 0 is the published rule: the losses alone.

    Examples:
        >>> weights = InstanceReweighting(least=0.0).weigh(BatchSignals(np.array([0.0, np.log(3.0)])))
        >>> weights.round(6).tolist()
        [0.5, 1.5]

    Source: Take the Bull by the Horns (arXiv 2402.14270; VITA-Group/HardFocusTraining), IR-DRO. Their weights sum to 1
    where the mean of the losses was before; the mean 1 keeps the learning rate. Floor, trim and baselines are ours.
    """

    chooses = False

    def __init__(
        self,
        temperature: Annotated[float, Positive] = 1.0,
        least: Annotated[float, UnitShare] = 0.3,
        trim: Annotated[float, UnitShare] = 0.0,
        ema: Annotated[float, UnitShare] = 0.0,
    ) -> None:
        problems = Problems()
        problems.check(0 < temperature < np.inf, f"temperature must be above 0 and finite, got {temperature}.")
        problems.check(0 <= least <= 1, f"least must be in [0, 1], got {least}.")
        problems.check(0 <= trim < 1, f"trim must be in [0, 1), got {trim}. 0.1 leaves out the largest tenth.")
        problems.raise_any()
        self.temperature, self.least, self.trim = temperature, least, trim
        self.baselines = baselines_of(ema)

    def choose(self, signals: BatchSignals, *, seed: int, step: int) -> Mask:
        """All of them."""
        return np.ones(checked_losses(signals.losses).size, np.bool_)

    def weigh(self, signals: BatchSignals) -> NDArray[np.float64]:
        """By their losses; 0 for the largest `floor(trim * batch)`, of equal ones the last. The mean is 1."""
        losses = self.compared(signals)
        stay = np.sort(np.argsort(losses, kind="stable")[: losses.size - int(self.trim * losses.size + 1e-9)])
        weights = np.zeros(losses.size)
        weights[stay] = dro_weights(losses[stay], self.temperature, self.least) * losses.size / stay.size
        return weights


def baselines_of(ema: float) -> Baselines | None:
    """The baselines of a method; None where the newest loss weighs 0.

    Raises:
        ArgumentError: If `ema` is not in [0, 1].
    """
    problems = Problems()
    problems.check(0 <= ema <= 1, f"ema must be in [0, 1], got {ema}. 0.1 is a mean over about ten losses.")
    problems.raise_any()
    return Baselines(ema) if ema else None


def dro_weights(losses: ArrayLike, temperature: float, least: float = 0.0) -> NDArray[np.float64]:
    """`n softmax(losses / temperature)`, at a temperature high enough for an effective share of at least `least`.

    Args:
        losses: float `(n,)`, finite.
        temperature: Above 0.
        least: Of `(sum w)^2 / (n sum w^2)`, in [0, 1]; 1 gives equal weights.

    Returns:
        float64 `(n,)`, at least 0, with the mean 1.

    Examples:
        >>> dro_weights([0.0, 100.0], 1.0).tolist(), dro_weights([0.0, 100.0], 1.0, least=1.0).round(3).tolist()
        ([7.440151952041672e-44, 2.0], [1.0, 1.0])
    """
    array = checked_losses(losses)
    low, spread = float(temperature), float(np.ptp(array))
    if spread == 0 or _effective(array, low) >= least:
        return _softmax(array, low)
    high = max(low, spread)
    while _effective(array, high) < least and high < _HOT * spread:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _effective(array, middle) < least else (low, middle)
    return _softmax(array, high)


def _softmax(losses: NDArray[np.float64], temperature: float) -> NDArray[np.float64]:
    weights: NDArray[np.float64] = np.exp((losses - losses.max()) / temperature)
    weights *= losses.size / weights.sum()
    return weights


def _effective(losses: NDArray[np.float64], temperature: float) -> float:
    weights = _softmax(losses, temperature)
    return float(weights.sum() ** 2 / (losses.size * np.square(weights).sum()))


def divbs(gram: ArrayLike, count: int, generator: np.random.Generator) -> NDArray[np.bool_]:
    """`count` examples whose gradients span the sum of all, chosen greedily: each adds most to the span of the others.

    With `s = sum_j g_j` and `r_i` the residual of `g_i` after projecting out the chosen ones, the next one has the
    largest `<r_i, s>^2 / ||r_i||^2`. Once `s` is spanned, the rule starts again among the others. Ties break at random;
    examples without gradient come last.

    Args:
        gram: float `(batch, batch)`, `<g_i, g_j>`, symmetric.
        count: Examples to choose, in [1, batch].
        generator: Breaks ties.

    Returns:
        bool `(batch,)` with exactly `count` True.

    Raises:
        ArgumentError: If gram is not square, not finite, or count does not fit.

    Examples:
        >>> divbs(np.diag([1.0, 4.0, 2.0]), 2, np.random.default_rng(0))
        array([False,  True,  True])

    Source: DivBS (Hong et al. 2024, Diversified Batch Selection), section 3, by a pivoted Cholesky factorisation of
    the Gram matrix. Their code draws in proportion to the projection without a mask, so that an example can come
    twice, and then fills up at random.
    """
    products = np.asarray(gram, np.float64)
    problems = Problems()
    square = products.ndim == 2 and products.shape[0] == products.shape[1]
    problems.check(square, f"gram must be (batch, batch), got {products.shape}.")
    problems.check(bool(np.isfinite(products).all()), "gram must be finite; it holds NaN or infinite numbers.")
    if square and not 1 <= count <= len(products):
        problems.add(f"count must be from 1 to {len(products)}, the size of the batch, got {count}.")
    problems.raise_any()
    order = generator.permutation(len(products))  # the first of a tie in a random order
    chosen = np.zeros(len(products), np.bool_)
    while (left := count - int(np.count_nonzero(chosen))) > 0:
        free = order[~chosen[order]]
        taken = _spanning(products[np.ix_(free, free)], left)
        chosen[free[taken] if taken else free[:left]] = True
    return chosen


def _spanning(gram: NDArray[np.float64], count: int) -> list[int]:
    """At most so many rows, until the sum of all gradients is spanned: pivoted Cholesky, led by that sum."""
    lengths, along = np.diag(gram).copy(), gram.sum(axis=1)  # ||r_i||^2 and <r_i, s>
    whole = float(gram.sum())  # ||s||^2, of which `left` is not spanned yet
    smallest, left = _FLAT * lengths, whole
    columns = np.zeros((count, len(gram)))
    taken: list[int] = []
    while len(taken) < count and left > _FLAT * whole:
        usable = lengths > np.maximum(smallest, np.finfo(np.float64).tiny)
        gains = np.where(usable, along**2 / np.where(usable, lengths, 1.0), -1.0)
        best = int(np.argmax(gains))
        if gains[best] <= _FLAT * whole:
            break
        column = (gram[:, best] - columns[: len(taken)].T @ columns[: len(taken), best]) / np.sqrt(lengths[best])
        columns[len(taken)] = column
        step = along[best] / np.sqrt(lengths[best])
        lengths, along, left = lengths - column**2, along - column * step, left - step**2
        lengths[best] = 0.0
        taken.append(best)
    return taken


def last_layer_gram(errors: ArrayLike, hidden: ArrayLike) -> NDArray[np.float64]:
    """Inner products of the gradients of a linear head with bias: `<e_i, e_j> (<h_i, h_j> + 1)`.

    Args:
        errors: float `(batch, classes)`, `softmax(logits) - onehot(label)`.
        hidden: float `(batch, width)`, the inputs of the head.

    Returns:
        float64 `(batch, batch)`.

    Examples:
        >>> last_layer_gram([[0.5, -0.5], [-0.5, 0.5]], [[1.0], [2.0]])
        array([[ 1. , -1.5],
               [-1.5,  2.5]])
    """
    wrong, inner = np.asarray(errors, np.float64), np.asarray(hidden, np.float64)
    gram: NDArray[np.float64] = (wrong @ wrong.T) * (inner @ inner.T + 1)
    return gram


def percentiles(losses: NDArray[Any], recent: NDArray[Any]) -> NDArray[np.float64]:
    """The share of recent losses that are no larger than each loss, `(batch,)`, in [0, 1].

    Examples:
        >>> percentiles(np.array([1.0, 3.0]), np.array([1.0, 2.0, 3.0, 4.0]))
        array([0.25, 0.75])
    """
    below: NDArray[np.float64] = np.searchsorted(np.sort(recent), losses, side="right") / max(len(recent), 1)
    return below


def checked_losses(losses: ArrayLike, name: str = "losses") -> NDArray[np.float64]:
    """The losses as float64, finite, one per example.

    Raises:
        ArgumentError: With the places in the batch that are NaN or infinite.
    """
    array = np.asarray(losses, np.float64)
    if array.ndim != 1 or not array.size:
        raise ArgumentError(f"{name} must be one number per example of a batch, got shape {array.shape}.")
    bad = np.flatnonzero(~np.isfinite(array))
    if bad.size:
        places = ", ".join(map(str, bad[:10].tolist()))
        raise ArgumentError(f"{name} must be finite, got NaN or infinity at {places} of a batch of {array.size}.")
    return array


def batch_count(keep: float, size: int) -> int:
    """`keep` of a batch as a number of examples, at least one.

    Examples:
        >>> batch_count(0.1, 32), batch_count(0.1, 3)
        (3, 1)
    """
    return max(1, round(keep * size))


def required(signals: BatchSignals, name: str) -> NDArray[Any]:
    """A field of the signals with one entry per example.

    Raises:
        ArgumentError: If there is none.
    """
    value = getattr(signals, name)
    if value is None:
        raise ArgumentError(f"this method needs BatchSignals.{name}, got none.")
    if len(value) != len(signals.losses):
        raise ArgumentError(f"{name} must have one entry per loss, got {len(value)} for {len(signals.losses)} losses.")
    return np.asarray(value)


def check_state(state: Mapping[str, Any], dimensions: Mapping[str, int]) -> None:
    """Refuse a state whose names or numbers of dimensions are not those of this method.

    Raises:
        ArgumentError: If it is of another method.
    """
    if {name: np.ndim(value) for name, value in state.items()} != dict(dimensions):
        raise ArgumentError(
            f"the state holds {sorted(state)}, but this method has {sorted(dimensions)}: it is of another method."
        )


def checked_share(keep: float) -> float:
    """A share that is kept, in (0, 1].

    Raises:
        ArgumentError: If it is none.
    """
    problems = Problems()
    problems.share("keep", keep)
    problems.raise_any()
    return keep
