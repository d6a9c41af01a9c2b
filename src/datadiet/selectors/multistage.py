"""Multistage filtering: skip the backward pass of learned examples, then their forward pass too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from datadiet.errors import ArgumentError, Problems, percent_hint
from datadiet.selectors.in_batch import BatchSignals, Mask, State, check_state, checked_losses, needed, not_empty

_STREAM = 12  # of the generator, so that no two methods share their draws
_SPREAD = np.uint64(0x9E3779B97F4A7C15)
_TINY = 1e-12


class MultistageFilter:
    """For runs of one or two epochs: everything first, then no backward, then no forward for what looks learned.

    - Stage 0, `warmup_steps` steps: everything.
    - Stage 1: a backward pass where `loss >= threshold`, the mean loss of the examples of the last `batches` batches.
      Meanwhile a logistic predictor learns from the features whether the loss is above the threshold.
    - Stage 2, once the predictor's mean log loss over the last `batches` batches is below `limit`: a forward pass
      only where it says above, and for a share `explore` of the others; then as stage 1.

    Args:
        warmup_steps: At least 1.
        batches: Window of the threshold and of the predictor's loss, in batches, at least 1.
        limit: Log loss in nats below which the predictor is trusted; ln 2 = 0.69 is a coin.
        explore: Share of the examples that look learned and get a forward pass all the same, in [0, 1].
        features: How many features an example has; see `hashed_bag`.
        rate: Step size of the predictor (AdaGrad), above 0.

    Example:
        >>> method = MultistageFilter(warmup_steps=1, features=2)
        >>> signals = BatchSignals(np.array([0.1, 0.9]), features=np.eye(2))
        >>> method.wants_backward(signals, seed=0, step=0)
        array([ True,  True])
        >>> method.learn(signals)
        >>> method.stage, method.wants_backward(signals, seed=0, step=1)
        (1, array([False,  True]))

    Source: Hu et al. 2023 (IJCAI), multistage data filtering for fast fine-tuning. We differ: `explore`, because
    threshold and predictor would otherwise see nothing but hard examples from stage 2 on, and the threshold rise by
    itself; a linear predictor on hashed words; masks for a batch at once instead of a backward pass per example.
    """

    needs: frozenset[str] = frozenset({"losses", "features"})
    skips_forward = True

    def __init__(
        self,
        warmup_steps: int = 100,
        *,
        batches: int = 16,
        limit: float = 0.5,
        explore: float = 0.05,
        features: int = 4096,
        rate: float = 0.5,
    ) -> None:
        problems = Problems()
        for name, number in (("warmup_steps", warmup_steps), ("batches", batches), ("features", features)):
            problems.whole(name, number, least=1)
        problems.check(0 < limit < np.inf, f"limit must be above 0, got {limit}.")
        problems.check(0 <= explore <= 1, f"explore must be in [0, 1], got {explore}.{percent_hint(explore)}")
        problems.check(0 < rate < np.inf, f"rate must be above 0, got {rate}.")
        problems.raise_any()
        self.warmup_steps, self.batches, self.limit, self.explore, self.rate = (
            warmup_steps,
            batches,
            limit,
            explore,
            rate,
        )
        self._steps, self._trusted = 0, False
        self._sums, self._sizes = np.zeros(batches), np.zeros(batches)  # losses of the last batches, a ring
        self._errors = np.full(batches, np.inf)  # log losses of the predictor, a ring
        self._weights, self._squares = np.zeros(features + 1), np.zeros(features + 1)  # bias last

    @property
    def stage(self) -> int:
        """0, 1 or 2."""
        return 0 if self._steps < self.warmup_steps else 1 + self._trusted

    @property
    def threshold(self) -> float:
        """Mean loss of the examples of the last batches; -inf before there are any."""
        number = self._sizes.sum()
        return float(self._sums.sum() / number) if number else -np.inf

    def wants_forward(self, features: ArrayLike, *, seed: int, step: int) -> Mask:
        """Which examples get a forward pass, bool `(batch,)`; all of them before stage 2."""
        array = self._checked(features)
        if self.stage < 2:
            return np.ones(len(array), np.bool_)
        chances = self._predict(array)
        draws = np.random.default_rng([seed, step, _STREAM]).random(len(array))
        return not_empty((chances >= 0.5) | (draws < self.explore), chances)

    def wants_backward(self, signals: BatchSignals, *, seed: int, step: int) -> Mask:
        """Which of the examples that had a forward pass get a backward pass, bool `(forwarded,)`."""
        losses = checked_losses(signals.losses)
        if self.stage == 0:
            return np.ones(losses.size, np.bool_)
        return not_empty(losses >= self._bar(), losses)

    def learn(self, signals: BatchSignals) -> None:
        """One step of the predictor, and the batch's losses into the threshold."""
        losses, features = checked_losses(signals.losses), self._checked(needed(signals, "features"))
        place = self._steps % self.batches
        if np.isfinite(self.threshold):
            self._errors[place] = self._step(features, losses >= self._bar())
        self._sums[place], self._sizes[place] = losses.sum(), losses.size
        self._steps += 1
        if self._steps >= self.warmup_steps:
            self._trusted |= bool(self._errors.mean() < self.limit)

    def state(self) -> State:
        """Counters, rings and the predictor."""
        return {
            "counters": np.array([self._steps, self._trusted], np.int64),
            "sums": self._sums.copy(),
            "sizes": self._sizes.copy(),
            "errors": self._errors.copy(),
            "weights": self._weights.copy(),
            "squares": self._squares.copy(),
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Go on from such a state."""
        ring, width = (self.batches,), (self._weights.size,)
        shapes = {"counters": (2,), "sums": ring, "sizes": ring, "errors": ring, "weights": width, "squares": width}
        check_state(state, shapes)
        self._steps, self._trusted = int(state["counters"][0]), bool(state["counters"][1])
        names = ("sums", "sizes", "errors", "weights", "squares")
        held = [np.array(state[name], np.float64) for name in names]
        self._sums, self._sizes, self._errors, self._weights, self._squares = held

    def _bar(self) -> float:
        """The threshold less its rounding error: a mean of equal losses can come out above each of them."""
        return self.threshold - _TINY * abs(self.threshold) if self._sizes.any() else -np.inf

    def _checked(self, features: ArrayLike) -> NDArray[np.float64]:
        array = np.asarray(features, np.float64)
        if array.ndim != 2 or array.shape[1] != self._weights.size - 1:
            raise ArgumentError(
                f"features must be (batch, {self._weights.size - 1}), got {array.shape}: give the filter the same "
                "number of features as hashed_bag."
            )
        return array

    def _predict(self, features: NDArray[np.float64]) -> NDArray[np.float64]:
        scores = features @ self._weights[:-1] + self._weights[-1]
        chances: NDArray[np.float64] = 1 / (1 + np.exp(-np.clip(scores, -30, 30)))
        return chances

    def _step(self, features: NDArray[np.float64], above: Mask) -> float:
        """The predictor's log loss on the batch before it has seen it; then one AdaGrad step."""
        chances = self._predict(features)
        error = -float(np.log(np.where(above, chances, 1 - chances) + _TINY).mean())
        slope = (chances - above) / len(above)
        gradient = np.append(slope @ features, slope.sum())
        self._squares += gradient**2
        self._weights -= self.rate * gradient / (np.sqrt(self._squares) + 1e-8)
        return error


def hashed_bag(token_ids: Sequence[ArrayLike], features: int = 4096) -> NDArray[np.float32]:
    """Which tokens each example has, hashed into so many columns, rows of length 1.

    Args:
        token_ids: One sequence of whole numbers per example, padding left out.
        features: Columns, at least 1; two tokens can share one.

    Returns:
        float32 `(batch, features)`: 1 / sqrt(distinct columns) where the example has a token of the column; a row
        of zeros where it has none.

    Raises:
        ArgumentError: If features is no whole number, or below 1.

    Example:
        >>> hashed_bag([[5, 5, 5], []], features=1)
        array([[1.],
               [0.]], dtype=float32)

    Source: feature hashing (Weinberger et al. 2009).
    """
    problems = Problems()
    problems.whole("features", features, least=1)
    problems.raise_any()
    bag = np.zeros((len(token_ids), features), np.float32)
    for row, tokens in enumerate(token_ids):
        spread = np.asarray(tokens, np.int64).astype(np.uint64) * _SPREAD
        bag[row, ((spread >> np.uint64(32)) % np.uint64(features)).astype(np.int64)] = 1.0
    bag /= np.sqrt(np.maximum(bag.sum(axis=1, keepdims=True), 1))
    return bag
