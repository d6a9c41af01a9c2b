"""Token rules: which tokens of the answers train, by what an earlier forward pass said of each.

    rule = ExcessLoss(keep=0.6)                       # or any other of `datadiet methods`, kind tokens
    kept = rule.kept(RowTokens(counts, nll, reference=of_a_better_model), seed=0, epoch=1)    # bool (tokens,)

Tokens of all rows stand in one array, row after row, so that a million rows are a few array operations. A rule of your
own derives from `TokenRule` and gives `keys`, larger = trains first; its options are annotated keyword parameters.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from datadiet.errors import ArgumentError, Problems
from datadiet.geometry import named_rows
from datadiet.registry import AtLeast, Share, UnitShare, token_rule
from datadiet.selectors.q_tuning import rank_gap

_STREAM = 12  # of the generator
_MOST_NATS = 80.0  # exp of more leaves float32
_LIGHT = 0.1  # weight of a token with `downweight`

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
Action = Literal["mask", "drop", "downweight"]
Space = Literal["nll", "ppl"]
ACTIONS = ("mask", "drop", "downweight")


@dataclass(frozen=True)
class RowTokens:
    """The tokens that train of all rows, row after row, each row in the order of its text.

    Attributes:
        counts: int64 `(rows,)`, tokens of each row.
        nll: float `(tokens,)`, `-log p` of each, in nats.
        reference: The same of another model, `(tokens,)`; None where there is none.
        starts: bool `(tokens,)`, whether other text stands before a token in its row, as at the next answer of a
            conversation; the first of each row always counts as one. None where answers are whole.
        entropy: float `(rows,)`, the mean entropy of a row's tokens; nan where it is unknown.
        calibration: bool `(rows,)`, the rows of Q4, where a choice within the batch has said which; None elsewhere.
    """

    counts: NDArray[np.int64]
    nll: NDArray[Any]
    reference: NDArray[Any] | None = None
    starts: Mask | None = None
    entropy: NDArray[Any] | None = None
    calibration: Mask | None = None

    @property
    def rows(self) -> NDArray[np.int64]:
        """The row of each token, int64 `(tokens,)`."""
        return np.repeat(np.arange(len(self.counts)), self.counts)


class TokenRule(ABC):
    """Which tokens train, and what becomes of the others.

    Attributes:
        needs: `reference` where it compares with another model.
        keep, action, least: Its options.
        light: Weight of the other tokens with `downweight`.
    """

    needs: frozenset[str] = frozenset()

    def __init__(self, keep: float, action: str, least: int, weight: float | None) -> None:
        problems = Problems()
        problems.share("keep", keep)
        problems.choice("action", action, ACTIONS)
        problems.whole("least", least, least=1)
        if weight is not None:
            problems.check(0 <= weight <= 1, f"weight must be in [0, 1], got {weight}.")
            problems.check(action == "downweight", f"weight has no effect with action={action}, only with downweight.")
        problems.raise_any()
        self.keep, self.action, self.least = keep, action, least
        self.light = _LIGHT if weight is None else weight

    @abstractmethod
    def keys(self, tokens: RowTokens, *, seed: int, epoch: int) -> Floats:
        """What tokens are ranked by, float `(tokens,)`, larger = trains first."""

    def kept(self, tokens: RowTokens, *, seed: int, epoch: int) -> Mask:
        """The tokens that train, bool `(tokens,)`: of each row `ceil(keep * its tokens)`, at least `least`."""
        return keep_tokens(self.keys(tokens, seed=seed, epoch=epoch), tokens.counts, self.keep, least=self.least)


def keep_tokens(
    keys: ArrayLike,
    counts: ArrayLike,
    keep: float,
    *,
    per: str = "row",
    least: int = 1,
    ids: Sequence[str] | None = None,
) -> Mask:
    """The tokens with the largest keys, in each row or among all.

    Args:
        keys: float `(tokens,)`, larger = kept first; of equal ones the first.
        counts: Whole numbers `(rows,)`, the tokens of each row.
        keep: Share of the tokens, in (0, 1].
        per: `row`: `ceil(keep * n)` of the n tokens of each row; `all`: that share of all tokens together.
        least: So many of each row at least, or all of a row that has fewer; with `all` these come on top.
        ids: The user's names of the rows, for errors.

    Returns:
        bool `(tokens,)`.

    Raises:
        ArgumentError: If the sizes differ, or a key is nan, naming rows.

    Examples:
        >>> keep_tokens([0.1, 0.9, 0.5, 0.7, 0.2], [3, 2], 0.5).tolist()
        [False, True, True, True, False]
        >>> keep_tokens([0.1, 0.9, 0.5, 0.7, 0.2], [3, 2], 0.4, per="all").tolist()
        [False, True, False, True, False]
    """
    values, sizes = np.asarray(keys), np.asarray(counts, np.int64)
    if values.ndim != 1 or values.size != sizes.sum():
        raise ArgumentError(f"keys must be one per token, {sizes.sum()}, got the shape {values.shape}.")
    rows = np.repeat(np.arange(sizes.size), sizes)
    bad = np.isnan(values)
    if bad.any():
        names = named_rows(np.unique(rows[bad]), sizes.size, ids)
        raise ArgumentError(f"tokens must be ranked by numbers, got NaN in {names}.")
    order = np.lexsort((-values, rows))  # stable: of equal ones the first
    rank = np.empty(values.size, np.int64)
    rank[order] = np.arange(values.size) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    floor: Mask = rank < least
    if per == "all":
        kept = np.zeros(values.size, np.bool_)
        kept[np.argsort(-values, kind="stable")[: _count(keep, values.size)]] = True
        return kept | floor
    wanted = np.ceil(np.round(keep * sizes, 9)).astype(np.int64)
    return floor | (rank < wanted[rows])


def _count(keep: float, size: int) -> int:
    return int(np.ceil(round(keep * size, 9)))


def smoothed(
    nll: ArrayLike,
    counts: ArrayLike,
    lam: float = 0.5,
    *,
    space: Space = "nll",
    starts: Mask | None = None,
    summed: bool = False,
) -> Floats:
    """Each token's loss, smoothed with that of its neighbours in the same answer.

    `s_i = (1 - lam) x_i + lam * mean(x_{i-1}, x_{i+1})`, the mean over the neighbours that there are.

    Args:
        nll: float `(tokens,)`, in nats.
        counts: Whole numbers `(rows,)`.
        lam: Weight of the neighbours, in [0, 1].
        space: `x` is the `nll`, or the perplexity of a token, `ppl`, in which one spike rules its neighbours.
        starts: bool `(tokens,)`, where a token is not the neighbour of the one before it.
        summed: The published form: the sum of both neighbours, where a missing one counts 0.

    Returns:
        float64 `(tokens,)`.

    Examples:
        >>> smoothed([1.0, 3.0, 2.0, 5.0], [3, 1]).tolist()
        [2.0, 2.25, 2.5, 5.0]

    Source: Q-Tuning (arXiv 2509.23873 v2), stage 2, which sums the neighbours and says nothing of the ends.
    """
    values, sizes = np.asarray(nll, np.float64), np.asarray(counts, np.int64)
    values = np.exp(np.minimum(values, _MOST_NATS)) if space == "ppl" else values
    begins = np.zeros(values.size, np.bool_) if starts is None else np.array(starts, np.bool_)
    offsets = np.cumsum(sizes) - sizes
    begins[offsets[sizes > 0]] = True
    left = ~begins
    right = np.roll(left, -1)  # the last token's is that of the first, which begins a row
    total = np.where(left, np.roll(values, 1), 0.0) + np.where(right, np.roll(values, -1), 0.0)
    if summed:
        return (1 - lam) * values + lam * total
    number = left.astype(np.int64) + right
    return np.where(number > 0, (1 - lam) * values + lam * total / np.maximum(number, 1), values)


@token_rule(
    name="q_tuning",
    formula="of misconceptions (rank(loss) > rank(entropy)) the lowest (1 - lam) nll_i + lam mean(nll_i-1, nll_i+1)",
    paper="Wang et al. 2025, Q-Tuning, arXiv 2509.23873 v2",
    inputs="losses of the tokens, and entropies of the rows",
    cost="4 bytes per token, 12 per row; the losses of the training forward",
    loses="where the high losses are what there is to learn",
    evidence="instruction-tuning",
)
class SmoothedTokens(TokenRule):
    """Leave out runs of tokens with high losses, which look like noise inside an answer that is worth training on.

    Args:
        keep: Share of each answer's tokens that train, in (0, 1].
        lam: Weight of the neighbours in the smoothed loss, in [0, 1].
        space: `nll`, or `ppl` as published.
        reverse: Leave out the lowest instead, for comparison.
        calibration: Rows with a higher rank by entropy than by loss (Q4) keep all tokens.
        action: What becomes of the other tokens: `mask` takes them out of the loss, and saves nothing of the forward
            pass; `drop` takes them out of the text as well, which the model then reads with gaps; `downweight`.
        least: So many tokens of each row train at least.
        weight: Of the other tokens with `downweight`, in [0, 1]; 0.1 by default.

    Examples:
        >>> tokens = RowTokens(np.array([4]), np.array([0.1, 4.0, 5.0, 0.2]))
        >>> SmoothedTokens(keep=0.5).kept(tokens, seed=0, epoch=0).tolist()
        [True, False, False, True]

    Source: Q-Tuning (arXiv 2509.23873 v2), stage 2. Its text can be read as keeping the highest; its figure, caption
    and ablation ("reversed") say that they go. The published form sums perplexities of neighbours.
    """

    def __init__(
        self,
        keep: Annotated[float, Share] = 0.5,
        lam: Annotated[float, UnitShare] = 0.5,
        space: Space = "nll",
        reverse: bool = False,
        calibration: bool = True,
        action: Action = "mask",
        least: Annotated[int, AtLeast(1)] = 1,
        weight: Annotated[float | None, UnitShare] = None,
    ) -> None:
        problems = Problems()
        problems.check(0 <= lam <= 1, f"lam must be in [0, 1], got {lam}.")
        problems.choice("space", space, ("nll", "ppl"))
        problems.raise_any()
        super().__init__(keep, action, least, weight)
        self.lam, self.space, self.reverse, self.calibration = lam, space, reverse, calibration

    def keys(self, tokens: RowTokens, *, seed: int, epoch: int) -> Floats:
        """The smoothed losses, lowest first."""
        values = smoothed(tokens.nll, tokens.counts, self.lam, space=self.space, starts=tokens.starts)
        return values if self.reverse else -values

    def kept(self, tokens: RowTokens, *, seed: int, epoch: int) -> Mask:
        """The share of each misconception, and all tokens of the others."""
        kept = TokenRule.kept(self, tokens, seed=seed, epoch=epoch)
        return kept | calibrated(tokens)[tokens.rows] if self.calibration else kept


def calibrated(tokens: RowTokens) -> Mask:
    """The rows whose rank by mean loss is below that by entropy, bool `(rows,)`; False where either is unknown.

    Where a choice within the batch has said which rows these are, they are taken as they are.

    Examples:
        >>> tokens = RowTokens(np.array([1, 1]), np.array([5.0, 0.1]), entropy=np.array([0.2, 3.0]))
        >>> calibrated(tokens).tolist()
        [False, True]
    """
    if tokens.calibration is not None:
        return tokens.calibration
    found = np.zeros(len(tokens.counts), np.bool_)
    if tokens.entropy is None:
        return found
    known = (tokens.counts > 0) & np.isfinite(tokens.entropy)
    if known.sum() > 1:
        sums = np.bincount(tokens.rows, tokens.nll, len(tokens.counts))
        found[known] = rank_gap(sums[known] / tokens.counts[known], np.asarray(tokens.entropy)[known]) < 0
    return found


@token_rule(
    name="excess",
    formula="the largest nll - nll of a reference model",
    paper="Lin et al. 2024, Rho-1, arXiv 2404.07965; Pang et al. 2025, TokenCleaning",
    inputs="losses of the tokens, and those of a reference model",
    cost="a pass of the reference over the training rows, once; 6 bytes per token",
    loses="with a reference that is no better than the model",
    needs=("reference",),
    evidence="instruction-tuning",
)
class ExcessLoss(TokenRule):
    """The tokens that a better model finds easier: what is still to be learned, and can be.

    Args:
        keep: Share of the tokens that train, in (0, 1].
        per: `row`: that share of each answer; `all`: of all tokens together.
        action, least, weight: As of `q_tuning`.

    Examples:
        >>> tokens = RowTokens(np.array([3]), np.array([5.0, 4.0, 0.1]), reference=np.array([4.9, 0.5, 0.1]))
        >>> ExcessLoss(keep=0.3).kept(tokens, seed=0, epoch=0).tolist()  # noise, to be learned, learned
        [False, True, False]

    Source: Rho-1 (arXiv 2404.07965), section 2.2, with the share of a whole data set or of each row instead of a
    batch; TokenCleaning (ICML 2025) takes it of each row by default. The losses are those of the last training forward.
    """

    needs = frozenset({"reference"})

    def __init__(
        self,
        keep: Annotated[float, Share] = 0.6,
        per: Literal["row", "all"] = "row",
        action: Action = "mask",
        least: Annotated[int, AtLeast(1)] = 1,
        weight: Annotated[float | None, UnitShare] = None,
    ) -> None:
        problems = Problems()
        problems.choice("per", per, ("row", "all"))
        problems.raise_any()
        super().__init__(keep, action, least, weight)
        self.per = per

    def keys(self, tokens: RowTokens, *, seed: int, epoch: int) -> Floats:
        """The excess losses."""
        if tokens.reference is None:
            raise ArgumentError("the token rule excess needs the losses of a reference model, got none.")
        return np.asarray(tokens.nll, np.float64) - np.asarray(tokens.reference, np.float64)

    def kept(self, tokens: RowTokens, *, seed: int, epoch: int) -> Mask:
        """Of each row, or of all."""
        keys = self.keys(tokens, seed=seed, epoch=epoch)
        return keep_tokens(keys, tokens.counts, self.keep, per=self.per, least=self.least)


@token_rule(
    name="random_tokens",
    formula="that share of each answer's tokens at random, drawn again for every epoch: the baseline to beat",
    paper="the usual control, e.g. in Q-Tuning, arXiv 2509.23873 v2",
    inputs="nothing",
    cost="4 bytes per token",
    loses="to good values",
)
class RandomTokens(TokenRule):
    """Tokens at random.

    Args:
        keep: Share of each answer's tokens that train, in (0, 1].
        action, least, weight: As of `q_tuning`.

    Examples:
        >>> tokens = RowTokens(np.array([4]), np.zeros(4))
        >>> int(RandomTokens(keep=0.5).kept(tokens, seed=0, epoch=0).sum())
        2
    """

    def __init__(
        self,
        keep: Annotated[float, Share] = 0.5,
        action: Action = "mask",
        least: Annotated[int, AtLeast(1)] = 1,
        weight: Annotated[float | None, UnitShare] = None,
    ) -> None:
        super().__init__(keep, action, least, weight)

    def keys(self, tokens: RowTokens, *, seed: int, epoch: int) -> Floats:
        """Uniform draws."""
        return np.random.default_rng([seed, epoch, _STREAM]).random(len(tokens.nll))
