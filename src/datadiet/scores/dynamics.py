"""Scores of training dynamics: what the values of several rounds, recorded for free, say of each example.

Pure NumPy functions over histories `(rounds, n)`, nan where an example was not seen in a round. A round is whatever
was recorded: an epoch's training forwards, or a pass every few steps; only their order counts. Each function is the
*score*, larger = harder, +inf for an example that was never seen. `training_dynamics` gives all quantities as they are
published, in one record.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import ArrayLike

from datadiet.scores.rounds import (
    COLUMNS,
    RIGHT,
    Floats,
    events,
    mean,
    or_inf,
    rates_of,
    std,
    table_of,
    tables,
    total,
)


@dataclass(frozen=True)
class Dynamics:
    """What is published of training dynamics, float64 `(n,)` each; nan for what was never seen or not recorded.

    Attributes:
        times: In how many rounds each example was seen.
        confidence: Mean gold probability, in [0, 1]; larger = easier.
        variability: Its population standard deviation, in [0, 0.5]; larger = more ambiguous.
        correctness: In how many rounds the example was right; larger = easier.
        threshold_closeness: `confidence (1 - confidence)`; larger = closer to the threshold.
        forgetting: How often it went from right to wrong; +inf where it was never right.
        aum: Mean of the gold logit minus the largest other one; larger = easier, below 0 = suspect.
        tracin: Self-influence of the last layer, the sum over the rounds; larger = harder.
        grand: Mean norm of the last layer's gradient; larger = harder.
    """

    times: Floats
    confidence: Floats
    variability: Floats
    correctness: Floats
    threshold_closeness: Floats
    forgetting: Floats
    aum: Floats
    tracin: Floats
    grand: Floats

    def __len__(self) -> int:
        return len(self.times)

    def columns(self) -> dict[str, Floats]:
        """The quantities by name, without `times`."""
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name != "times"}


def training_dynamics(
    columns: Mapping[str, ArrayLike], *, learning_rates: ArrayLike | None = None, burn_out: int | None = None
) -> Dynamics:
    """All quantities as published, of the columns that are there.

    Args:
        columns: float `(rounds, n)` by the names of `COLUMNS`, all of one shape; nan where an example was not seen.
            `margin` is the largest other logit minus the gold one.
        learning_rates: `(rounds,)`, for `tracin`; 1 by default.
        burn_out: Use the first so many rounds only.

    Raises:
        ArgumentError: If no column is known, shapes differ, a value is infinite, or `burn_out` is out of range.

    Example:
        >>> found = training_dynamics({"gold_probability": [[0.2, 0.9], [0.8, 0.9]], "correct": [[0, 1], [1, 1]]})
        >>> found.confidence.tolist(), found.correctness.tolist(), found.forgetting.tolist()
        ([0.5, 0.9], [1.0, 2.0], [0.0, 0.0])

    Source: see each score of this module.
    """
    held = tables(columns, burn_out)
    some = next(iter(held.values()))
    missing = np.full_like(some, np.nan)
    probability, correct, margin, el2n, hidden = (held.get(name, missing) for name in COLUMNS)
    squared = el2n**2 * (1 + hidden**2)
    rates = rates_of(learning_rates, len(some), burn_out)
    average = mean(probability)
    return Dynamics(
        times=np.any([~np.isnan(table) for table in held.values()], axis=0).sum(0).astype(np.float64),
        confidence=average,
        variability=std(probability),
        correctness=total(np.where(np.isnan(correct), np.nan, correct >= RIGHT)),
        threshold_closeness=average * (1 - average),
        forgetting=events(correct),
        aum=-mean(margin),
        tracin=total(rates[:, None] * squared),
        grand=mean(np.sqrt(squared)),
    )


def confidence(gold_probability: ArrayLike, *, burn_out: int | None = None) -> Floats:
    """One minus the mean gold probability: hard to learn, and where labels are wrong, mislabelled.

    Args:
        gold_probability: float `(rounds, n)`, nan where not seen.
        burn_out: Use the first so many rounds only.

    Returns:
        float64 `(n,)` in [0, 1], larger = harder; +inf where never seen.

    Raises:
        ArgumentError: If the shape is another, a value is infinite, or `burn_out` is out of range.

    Example:
        >>> confidence([[0.5, 0.9], [0.25, np.nan]]).round(3).tolist()
        [0.625, 0.1]

    Source: Swayamdipta et al. 2020, "Dataset Cartography" (arXiv 2009.10795), section 2. Their code keeps all logits
    in memory and selects one example too many.
    """
    return or_inf(1 - mean(table_of("gold_probability", gold_probability, burn_out)))


def variability(gold_probability: ArrayLike, *, burn_out: int | None = None) -> Floats:
    """The standard deviation of the gold probability: ambiguous examples.

    Args:
        gold_probability, burn_out: See `confidence`.

    Returns:
        float64 `(n,)` in [0, 0.5], larger = more ambiguous, for which this score stands; +inf where never seen.

    Example:
        >>> variability([[0.5, 0.9], [0.25, 0.9]]).round(3).tolist()
        [0.125, 0.0]

    Source: Swayamdipta et al. 2020, section 2: divided by n, not by n - 1.
    """
    return or_inf(std(table_of("gold_probability", gold_probability, burn_out)))


def correctness(correct: ArrayLike, *, burn_out: int | None = None) -> Floats:
    """The share of rounds in which the example was wrong.

    Args:
        correct: 0 or 1, `(rounds, n)`, nan where not seen.
        burn_out: See `confidence`.

    Returns:
        float64 `(n,)` in [0, 1], larger = harder; +inf where never seen.

    Example:
        >>> correctness([[0, 1], [1, 1], [0, np.nan]]).round(3).tolist()
        [0.667, 0.0]

    Source: Swayamdipta et al. 2020, section 2, who count the rounds in which it was right; a share does not call an
    example hard because it rested.
    """
    table = table_of("correct", correct, burn_out)
    return or_inf(mean(np.where(np.isnan(table), np.nan, table < RIGHT)))


def threshold_closeness(gold_probability: ArrayLike, *, burn_out: int | None = None) -> Floats:
    """`c (1 - c)` of the mean gold probability `c`: neither learned nor hopeless.

    Args:
        gold_probability, burn_out: See `confidence`.

    Returns:
        float64 `(n,)` in [0, 0.25], larger = closer to one half; +inf where never seen.

    Example:
        >>> threshold_closeness([[0.5, 0.9], [0.5, 0.9]]).round(3).tolist()
        [0.25, 0.09]

    Source: Chang et al. 2017, "Active Bias" (arXiv 1704.07433), section 3.3, as in Swayamdipta et al.'s code.
    """
    average = mean(table_of("gold_probability", gold_probability, burn_out))
    return or_inf(average * (1 - average))


def forgetting(correct: ArrayLike, *, burn_out: int | None = None) -> Floats:
    """How often the example went from right to wrong; never right = one more than the largest count that occurred.

    Args:
        correct: 0 or 1, `(rounds, n)`, nan where not seen: consecutive means consecutive times that it was seen.
        burn_out: See `confidence`.

    Returns:
        float64 `(n,)`, larger = harder; +inf where never seen.

    Example:
        >>> forgetting([[1, 0, 1], [0, 0, 1], [1, 0, 1]]).tolist()
        [1.0, 2.0, 0.0]

    Source: Toneva et al. 2019 (arXiv 1812.05159), section 3. With few epochs nearly all counts are 0: record passes
    every few steps (`datadiet.Probe`), as Anand et al. 2023 (EMNLP) do. DeepCore and others give a never-learned
    example 0, i.e. call it the easiest; here it is the hardest.
    """
    counts = events(table_of("correct", correct, burn_out))
    counted = counts[np.isfinite(counts)]
    never = (counted.max() if counted.size else 0.0) + 1
    return or_inf(np.where(np.isposinf(counts), never, counts))


def aum(margin: ArrayLike, *, burn_out: int | None = None) -> Floats:
    """Minus the area under the margin: the mean of the largest other logit minus the gold one.

    Args:
        margin: The largest other logit minus the gold one, `(rounds, n)`, nan where not seen.
        burn_out: See `confidence`.

    Returns:
        float64 `(n,)`, larger = harder; above 0 suspect; +inf where never seen.

    Example:
        >>> aum([[-2.0, 1.0], [-4.0, 3.0]]).tolist()
        [-3.0, 2.0]

    Source: Pleiss et al. 2020 (arXiv 2001.10528), section 3.1: a mean of *logit* margins. The code of
    coverage-centric selection calls a sum of probability margins AUM, which ranks otherwise.
    """
    return or_inf(mean(table_of("margin", margin, burn_out)))


def tracin_self_influence(
    el2n: ArrayLike, hidden_norm: ArrayLike, *, learning_rates: ArrayLike | None = None, burn_out: int | None = None
) -> Floats:
    """Self-influence through the last layer: the mean of `el2n^2 (1 + ||h||^2)`, weighted by the learning rates.

    Args:
        el2n: `|| p - y ||`, `(rounds, n)`, nan where not seen.
        hidden_norm: Norm of the input of the last linear layer, beside it; nan where not known.
        learning_rates: `(rounds,)`, above 0; 1 by default.
        burn_out: See `confidence`.

    Returns:
        float64 `(n,)`, larger = harder; +inf where never seen.

    Example:
        >>> tracin_self_influence([[1.0, 0.1]], [[2.0, 2.0]]).round(3).tolist()
        [5.0, 0.05]

    Source: Pruthi et al. 2020 (arXiv 2002.08484), section 3, of a linear head with a bias under cross-entropy, where
    the gradient's squared norm is that product. Published as the sum over checkpoints (`Dynamics.tracin`); the mean
    ranks the same where all was seen, and does not call an example easy because it rested.
    """
    held = tables({"el2n": el2n, "hidden_norm": hidden_norm}, burn_out)
    squared = held["el2n"] ** 2 * (1 + held["hidden_norm"] ** 2)
    rates = rates_of(learning_rates, len(squared), burn_out)[:, None]
    weights = np.where(np.isnan(squared), np.nan, rates)
    return or_inf(total(rates * squared) / total(weights))


def grand_last_layer(el2n: ArrayLike, hidden_norm: ArrayLike, *, burn_out: int | None = None) -> Floats:
    """The norm of the last layer's gradient, `el2n sqrt(1 + ||h||^2)`, as a mean over the rounds.

    Args:
        el2n, hidden_norm, burn_out: See `tracin_self_influence`.

    Returns:
        float64 `(n,)`, larger = harder; +inf where never seen.

    Example:
        >>> grand_last_layer([[1.0, 0.1]], [[np.sqrt(3), np.sqrt(3)]]).round(3).tolist()
        [2.0, 0.2]

    Source: Paul et al. 2021 (arXiv 2107.07075), section 2.1, in closed form for a linear head with a bias; a mean over
    rounds of one run instead of over ten. DeepCore divides it by the batch size, which inflates a short last batch.
    """
    held = tables({"el2n": el2n, "hidden_norm": hidden_norm}, burn_out)
    return or_inf(mean(held["el2n"] * np.sqrt(1 + held["hidden_norm"] ** 2)))
