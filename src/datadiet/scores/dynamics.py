"""Scores of training dynamics: what the values that a run records say of each example over several rounds.

A round is whatever was recorded: the training forwards of an epoch, or a pass every few steps; only the order counts.
Each score is declared once, by `streaming`: a transform of the recorded columns, a history (`datadiet.scores.history`)
and a transform of its value. While a run goes on, a diet updates that history, a few bytes per example however many
rounds there are. The function of the score's name reduces all rounds at once, in float64: columns `(rounds, n)`, nan
where an example was not seen, to `(n,)`, larger = harder, +inf for an example never seen. `training_dynamics` gives
the quantities as they are published, in one record.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Annotated, Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from datadiet.errors import ArgumentError, Problems
from datadiet.registry import AtLeast, score
from datadiet.scores import history as histories
from datadiet.scores.history import RIGHT, History, burnt_out, over_rounds

Floats = NDArray[np.float64]
Values = NDArray[Any]  # float32 while a run goes on, float64 over all rounds at once
Function = TypeVar("Function", bound=Callable[..., Floats])
COLUMNS = ("gold_probability", "correct", "margin", "el2n", "hidden_norm")  # of a score history
MOST_NAMED = 5


def _same(values: Values) -> Values:
    return values


def _complement(values: Values) -> Values:
    return 1 - values


def _mean() -> History:
    return histories.mean(window=None)


# ---- the declaration of a score


@dataclass(frozen=True)
class DynamicScore:
    """A score of training dynamics, as it is kept up to date.

    Attributes:
        columns: The recorded columns that it reads, names of `COLUMNS`.
        of_round: Those columns of one round to the value that goes into the history, elementwise.
        history: Makes its history.
        transform: The value of the history to the score, where the example was seen; larger = harder.
    """

    columns: tuple[str, ...]
    of_round: Callable[..., Values]
    history: Callable[[], History]
    transform: Callable[[Values], Values]

    def read(self, columns: Mapping[str, Values]) -> Values:
        """The values of one round.

        Args:
            columns: float32 `(m,)` by name, of the examples that were seen; others are ignored.

        Returns:
            float32 `(m,)`, for `started().update`.

        Raises:
            ArgumentError: If a column is missing, or has no finite value for some of the examples.

        Examples:
            >>> grand_last_layer.streaming.read({"el2n": np.ones(2), "hidden_norm": np.array([0.0, 3**0.5])})
            array([1., 2.], dtype=float32)
        """
        if missing := [name for name in self.columns if name not in columns]:
            raise ArgumentError(f"this score needs the recorded {', '.join(missing)}, which are not there.")
        parts = [np.asarray(columns[name], np.float32) for name in self.columns]
        for name, part in zip(self.columns, parts, strict=True):
            if bad := int(np.count_nonzero(~np.isfinite(part))):
                raise ArgumentError(f"this score needs {name}, which is not finite for {bad} of {len(part)} {_WHY}.")
        return np.asarray(self.of_round(*parts), np.float32)

    def started(self, *, burn_out: int | None = None) -> History:
        """Its history, whose `value` is the score: `(n,)`, larger = harder, +inf for a row never seen.

        Args:
            burn_out: Use the first so many rounds only.

        Examples:
            >>> over_rounds(confidence.streaming.started(), [[0.5, np.nan], [1.0, np.nan]])
            array([0.25,  inf], dtype=float32)
        """
        plain = self.history() if burn_out is None else burnt_out(self.history(), burn_out)

        def value(state: dict[str, Values]) -> Values:
            reduced = plain.value(state)
            seen = np.isfinite(reduced)
            return np.where(seen, self.transform(np.where(seen, reduced, 0)), np.inf)

        return History(plain.init, plain.update, value)

    def rounds(self, tables: Mapping[str, Floats]) -> Floats:
        """The values of all rounds, `(rounds, n)`; nan where a column has none."""
        parts = [tables[name] for name in self.columns]
        unseen = np.isnan(parts).any(0)
        return np.where(unseen, np.nan, self.of_round(*parts))


_WHY = "examples (a regression has no gold class, and the input of the last layer is not found in every model)"


def streaming(
    columns: tuple[str, ...],
    history: Callable[[], History],
    *,
    of_round: Callable[..., Values] = _same,
    transform: Callable[[Values], Values] = _same,
) -> Callable[[Function], Function]:
    """Declare a score of training dynamics; the function gets the `DynamicScore` as its attribute `streaming`."""

    def mark(function: Function) -> Function:
        function.streaming = DynamicScore(columns, of_round, history, transform)  # type: ignore[attr-defined]
        return function

    return mark


def _score(function: Any, *columns: ArrayLike, burn_out: int | None) -> Floats:
    """The score that a function declares, over all rounds of its columns."""
    dynamic: DynamicScore = function.streaming
    tables = _tables(dict(zip(dynamic.columns, columns, strict=True)), burn_out)
    return over_rounds(dynamic.started(), dynamic.rounds(tables), dtype=np.float64)


def _tables(columns: Mapping[str, ArrayLike], burn_out: int | None = None) -> dict[str, Floats]:
    """The columns of `COLUMNS`, checked, of one shape, float64 `(rounds, n)`; the first `burn_out` rounds."""
    problems = Problems()
    tables = {name: np.asarray(columns[name], np.float64) for name in COLUMNS if name in columns}
    problems.check(bool(tables), f"training dynamics need one of the columns {', '.join(COLUMNS)}; none was given.")
    same = len({table.shape for table in tables.values()}) <= 1
    shapes = ", ".join(f"{name} {table.shape}" for name, table in tables.items())
    problems.check(same, f"all columns must have one shape, got {shapes}.")
    problems.raise_any()
    for name, table in tables.items():
        if table.ndim != 2 or not len(table):
            raise ArgumentError(f"{name} must have the shape (rounds, n) with a round at least, got {table.shape}.")
        if burn_out is not None and burn_out > len(table):
            raise ArgumentError(f"burn_out must be at most the {len(table)} rounds, got {burn_out}.")
        if (infinite := np.flatnonzero(np.isinf(table).any(0))).size:
            rows = ", ".join(map(str, infinite[:MOST_NAMED].tolist()))
            raise ArgumentError(
                f"{name} is infinite in {infinite.size} rows ({rows}); it must be finite, or nan = unseen."
            )
    return {name: table[:burn_out] for name, table in tables.items()}


# ---- all quantities as published


@dataclass(frozen=True)
class Dynamics:
    """The published quantities of training dynamics, float64 `(n,)` each; nan where never seen or not recorded.

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
    columns: Mapping[str, ArrayLike],
    *,
    learning_rates: ArrayLike | None = None,
    burn_out: Annotated[int | None, AtLeast(1)] = None,
) -> Dynamics:
    """All quantities as published, from the columns that are there.

    Args:
        columns: float `(rounds, n)` by the names of `COLUMNS`, all of one shape; nan where an example was not seen.
            `margin` is the largest other logit minus the gold one.
        learning_rates: `(rounds,)`, for `tracin`; 1 by default.
        burn_out: Use the first so many rounds only.

    Raises:
        ArgumentError: If there is no such column, shapes differ, a value is infinite, or `burn_out` is out of range.

    Examples:
        >>> maps = training_dynamics({"gold_probability": [[0.2, 0.9], [0.8, 0.9]], "correct": [[0, 1], [1, 1]]})
        >>> maps.confidence.tolist(), maps.correctness.tolist(), maps.forgetting.tolist()
        ([0.5, 0.9], [1.0, 2.0], [0.0, 0.0])

    Source: see each score of this module.
    """
    recorded = _tables(columns)
    some = next(iter(recorded.values()))
    tables = {name: recorded.get(name, np.full_like(some, np.nan)) for name in COLUMNS}

    def quantity(function: Any, **options: Any) -> Floats:
        """A score over the rounds; nan where never seen or not recorded."""
        values = function(*(tables[name] for name in function.streaming.columns), burn_out=burn_out, **options)
        return np.where(np.isinf(values), np.nan, values)

    average, wrong = 1 - quantity(confidence), quantity(correctness)
    tracin = quantity(tracin_self_influence, learning_rates=learning_rates)
    seen = {name: ~np.isnan(table[:burn_out]) for name, table in tables.items()}
    rates = _rates(learning_rates, len(seen["el2n"]), burn_out)[:, None]
    return Dynamics(
        times=np.any(list(seen.values()), axis=0).sum(0).astype(np.float64),
        confidence=average,
        variability=quantity(variability),
        correctness=np.rint(seen["correct"].sum(0) * (1 - wrong)),
        threshold_closeness=quantity(threshold_closeness),
        forgetting=np.where(wrong == 1, np.inf, quantity(forgetting)),
        aum=-quantity(aum),
        tracin=tracin * (rates * (seen["el2n"] & seen["hidden_norm"])).sum(0),
        grand=quantity(grand_last_layer),
    )


def _rates(learning_rates: ArrayLike | None, rounds: int, burn_out: int | None) -> Floats:
    """One rate per round, 1 by default."""
    if learning_rates is None:
        return np.ones(rounds)
    rates = np.asarray(learning_rates, np.float64)[:burn_out]
    if rates.shape != (rounds,) or not np.all(np.isfinite(rates) & (rates > 0)):
        raise ArgumentError(f"learning_rates must be {rounds} finite numbers above 0, one per round, got {rates}.")
    return rates


# ---- the scores


@score(
    formula="1 - mean over rounds of p_y",
    paper="Swayamdipta et al. 2020, arXiv 2009.10795, section 2",
    inputs="p_y, all rounds",
    cost="8 bytes per example; recorded by every run",
    loses="on noisy labels, whose confidence stays low",
    needs=("history",),
    tasks="classes",
    traits=("suspects", "tokens"),
    computed_by="datadiet.scoring.dataset:of_history",
)
@streaming(("gold_probability",), _mean, transform=_complement)
def confidence(gold_probability: ArrayLike, *, burn_out: Annotated[int | None, AtLeast(1)] = None) -> Floats:
    """One minus the mean gold probability: hard to learn, and where labels are wrong, mislabelled.

    Args:
        gold_probability: float `(rounds, n)`, nan where not seen.
        burn_out: Use the first so many rounds only.

    Returns:
        float64 `(n,)` in [0, 1], larger = harder; +inf where never seen.

    Raises:
        ArgumentError: If the shape is another, a value is infinite, or `burn_out` is out of range.

    Examples:
        >>> confidence([[0.5, 0.9], [0.25, np.nan]]).round(3).tolist()
        [0.625, 0.1]

    Source: Swayamdipta et al. 2020, "Dataset Cartography" (arXiv 2009.10795), section 2. Their code keeps all logits
    in memory and selects one example too many.
    """
    return _score(confidence, gold_probability, burn_out=burn_out)


@score(
    formula="population standard deviation over rounds of p_y",
    paper="Swayamdipta et al. 2020, arXiv 2009.10795, section 2",
    inputs="p_y, all rounds",
    cost="12 bytes per example; recorded by every run",
    loses="when little is kept: ambiguous examples alone do not train; and in the first two rounds",
    needs=("history",),
    tasks="classes",
    traits=("tokens",),
    computed_by="datadiet.scoring.dataset:of_history",
)
@streaming(("gold_probability",), histories.std)
def variability(gold_probability: ArrayLike, *, burn_out: Annotated[int | None, AtLeast(1)] = None) -> Floats:
    """The standard deviation of the gold probability: ambiguous examples.

    Args:
        gold_probability, burn_out: See `confidence`.

    Returns:
        float64 `(n,)` in [0, 0.5], larger = more ambiguous, for which this score stands; +inf where never seen.

    Examples:
        >>> variability([[0.5, 0.9], [0.25, 0.9]]).round(3).tolist()
        [0.125, 0.0]

    Source: Swayamdipta et al. 2020, section 2: divided by n, not by n - 1.
    """
    return _score(variability, gold_probability, burn_out=burn_out)


@score(
    formula="share of rounds in which the example was wrong",
    paper="Swayamdipta et al. 2020, arXiv 2009.10795, section 2",
    inputs="correctness, all rounds",
    cost="8 bytes per example; recorded by every run",
    loses="with few rounds: nearly all values tie",
    needs=("history",),
    tasks="classes",
    traits=("suspects", "tokens"),
    computed_by="datadiet.scoring.dataset:of_history",
)
@streaming(("correct",), _mean, of_round=lambda correct: correct >= RIGHT, transform=_complement)
def correctness(correct: ArrayLike, *, burn_out: Annotated[int | None, AtLeast(1)] = None) -> Floats:
    """The share of rounds in which the example was wrong.

    Args:
        correct: 0 or 1, `(rounds, n)`, nan where not seen.
        burn_out: See `confidence`.

    Returns:
        float64 `(n,)` in [0, 1], larger = harder; +inf where never seen.

    Examples:
        >>> correctness([[0, 1], [1, 1], [0, np.nan]]).round(3).tolist()
        [0.667, 0.0]

    Source: Swayamdipta et al. 2020, section 2, who count the rounds in which it was right; a share does not call an
    example hard because it was skipped.
    """
    return _score(correctness, correct, burn_out=burn_out)


@score(
    formula="c (1 - c), c = mean over rounds of p_y",
    paper="Chang et al. 2017, arXiv 1704.07433, section 3.3; Swayamdipta et al. 2020, arXiv 2009.10795",
    inputs="p_y, all rounds",
    cost="8 bytes per example; recorded by every run",
    loses="with few values, as after one epoch; skipped examples have old values",
    needs=("history",),
    tasks="classes",
    traits=("tokens",),
    computed_by="datadiet.scoring.dataset:of_history",
)
@streaming(("gold_probability",), _mean, transform=lambda values: values * (1 - values))
def threshold_closeness(gold_probability: ArrayLike, *, burn_out: Annotated[int | None, AtLeast(1)] = None) -> Floats:
    """`c (1 - c)` of the mean gold probability `c`: neither learned nor hopeless.

    Args:
        gold_probability, burn_out: See `confidence`.

    Returns:
        float64 `(n,)` in [0, 0.25], larger = closer to one half; +inf where never seen.

    Examples:
        >>> threshold_closeness([[0.5, 0.9], [0.5, 0.9]]).round(3).tolist()
        [0.25, 0.09]

    Source: Chang et al. 2017, "Active Bias" (arXiv 1704.07433), section 3.3, as in Swayamdipta et al.'s code.
    """
    return _score(threshold_closeness, gold_probability, burn_out=burn_out)


@score(
    formula="times it went from right to wrong; never right = one more than the largest count",
    paper="Toneva et al. 2019, arXiv 1812.05159, section 3",
    inputs="correctness, all rounds",
    cost="8 bytes per example; recorded by every run; at step cadence the passes of datadiet.Probe",
    loses="at epoch cadence in short fine-tuning: nearly all counts are 0",
    needs=("history",),
    tasks="classes",
    traits=("tokens",),
    computed_by="datadiet.scoring.dataset:of_history",
)
@streaming(("correct",), histories.forgetting)
def forgetting(correct: ArrayLike, *, burn_out: Annotated[int | None, AtLeast(1)] = None) -> Floats:
    """How often the example went from right to wrong; never right = one more than the largest count that occurred.

    Args:
        correct: 0 or 1, `(rounds, n)`, nan where not seen: consecutive means consecutive times that it was seen.
        burn_out: See `confidence`.

    Returns:
        float64 `(n,)`, larger = harder; +inf where never seen.

    Examples:
        >>> forgetting([[1, 0, 1], [0, 0, 1], [1, 0, 1]]).tolist()
        [1.0, 2.0, 0.0]

    Source: Toneva et al. 2019 (arXiv 1812.05159), section 3. With few epochs nearly all counts are 0: record passes
    every few steps (`datadiet.Probe`), as Anand et al. 2023 (EMNLP) do. DeepCore and others give a never-learned
    example 0, i.e. call it the easiest; here it is the hardest.
    """
    return _score(forgetting, correct, burn_out=burn_out)


@score(
    formula="mean over rounds of (largest logit of another class - label's logit); above 0 = suspect",
    paper="Pleiss et al. 2020, arXiv 2001.10528, section 3.1, sign turned",
    inputs="margin, all rounds",
    cost="8 bytes per example; recorded by every run",
    loses="with hardest on noisy labels, which it is made to find: exclude the top, or drop it",
    needs=("history",),
    tasks="classes",
    traits=("suspects", "tokens"),
    computed_by="datadiet.scoring.dataset:of_history",
)
@streaming(("margin",), _mean)
def aum(margin: ArrayLike, *, burn_out: Annotated[int | None, AtLeast(1)] = None) -> Floats:
    """Minus the area under the margin: the mean of the largest other logit minus the gold one.

    Args:
        margin: The largest other logit minus the gold one, `(rounds, n)`, nan where not seen.
        burn_out: See `confidence`.

    Returns:
        float64 `(n,)`, larger = harder; above 0 suspect; +inf where never seen.

    Examples:
        >>> aum([[-2.0, 1.0], [-4.0, 3.0]]).tolist()
        [-3.0, 2.0]

    Source: Pleiss et al. 2020 (arXiv 2001.10528), section 3.1: a mean of *logit* margins. The code of
    coverage-centric selection calls a sum of probability margins AUM, which ranks otherwise.
    """
    return _score(aum, margin, burn_out=burn_out)


@score(
    formula="mean over rounds of || p - onehot(y) ||^2 (1 + || h ||^2), h = input of the last layer",
    paper="Pruthi et al. 2020, arXiv 2002.08484, section 3, of the last layer, without learning rates",
    inputs="el2n, norm of h, all rounds",
    cost="8 bytes per example; recorded by every run",
    loses="beyond 30 % dropped on SNLI (Anand et al. 2023)",
    needs=("history",),
    traits=("suspects",),
    computed_by="datadiet.scoring.dataset:of_history",
)
@streaming(("el2n", "hidden_norm"), _mean, of_round=lambda el2n, hidden: el2n**2 * (1 + hidden**2))
def tracin_self_influence(
    el2n: ArrayLike,
    hidden_norm: ArrayLike,
    *,
    learning_rates: ArrayLike | None = None,
    burn_out: Annotated[int | None, AtLeast(1)] = None,
) -> Floats:
    """Self-influence through the last layer: the mean of `el2n^2 (1 + ||h||^2)`, weighted by the learning rates.

    Args:
        el2n: `|| p - y ||`, `(rounds, n)`, nan where not seen.
        hidden_norm: Norm of the input of the last linear layer, beside it; nan where unknown.
        learning_rates: `(rounds,)`, above 0; 1 by default.
        burn_out: See `confidence`.

    Returns:
        float64 `(n,)`, larger = harder; +inf where never seen.

    Examples:
        >>> tracin_self_influence([[1.0, 0.1]], [[2.0, 2.0]]).round(3).tolist()
        [5.0, 0.05]

    Source: Pruthi et al. 2020 (arXiv 2002.08484), section 3, of a linear head with a bias under cross-entropy, where
    the gradient's squared norm is that product. Published as the sum over checkpoints (`Dynamics.tracin`); the mean
    ranks the same where all was seen, and does not call an example easy because it was skipped.
    """
    function: Any = tracin_self_influence
    squared = function.streaming.rounds(_tables({"el2n": el2n, "hidden_norm": hidden_norm}, burn_out))
    rates = _rates(learning_rates, len(squared), burn_out)[:, None]
    weights = np.where(np.isnan(squared), np.nan, rates)
    total, weight = (over_rounds(_mean(), table, dtype=np.float64) for table in (rates * squared, weights))
    return np.divide(total, weight, out=np.full_like(total, np.inf), where=np.isfinite(weight))


@score(
    formula="mean over rounds of || p - onehot(y) || sqrt(1 + || h ||^2)",
    paper="Paul, Ganguli and Dziugaite 2021, arXiv 2107.07075, section 2.1, closed form of the last layer",
    inputs="el2n, norm of h, all rounds",
    cost="8 bytes per example; recorded by every run",
    loses="as el2n, on noisy labels",
    needs=("history",),
    traits=("suspects",),
    computed_by="datadiet.scoring.dataset:of_history",
)
@streaming(("el2n", "hidden_norm"), _mean, of_round=lambda el2n, hidden: el2n * np.sqrt(1 + hidden**2))
def grand_last_layer(
    el2n: ArrayLike, hidden_norm: ArrayLike, *, burn_out: Annotated[int | None, AtLeast(1)] = None
) -> Floats:
    """The norm of the last layer's gradient, `el2n sqrt(1 + ||h||^2)`, as a mean over the rounds.

    Args:
        el2n, hidden_norm, burn_out: See `tracin_self_influence`.

    Returns:
        float64 `(n,)`, larger = harder; +inf where never seen.

    Examples:
        >>> grand_last_layer([[1.0, 0.1]], [[np.sqrt(3), np.sqrt(3)]]).round(3).tolist()
        [2.0, 0.2]

    Source: Paul et al. 2021 (arXiv 2107.07075), section 2.1, in closed form for a linear head with a bias; a mean over
    rounds of one run instead of over ten. DeepCore divides it by the batch size, which inflates a short last batch.
    """
    return _score(grand_last_layer, el2n, hidden_norm, burn_out=burn_out)
