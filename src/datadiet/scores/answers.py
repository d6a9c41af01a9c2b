"""Scores of whole answers by language models: how well, with and without the prompt, along a training, and by two.

All are means over the tokens of an answer; the prompt never counts. A row of which no token is left to train, because
its answer is empty or was cut away, has no value: nan, never 0, which would call it learned. The passes that these
functions read from are in `datadiet.scoring.answers`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

import torch
from torch import Tensor

from datadiet.errors import ArgumentError
from datadiet.registry import Positive, score
from datadiet.scores.tokens import MOST_BYTES
from datadiet.types import IGNORED, TokenSignals

LN2 = math.log(2)
_COPIES = 5  # of the logits of a token in float32: both models, their mean, a mass and a product
_LEAST_LOG = -1e4  # of a probability, where 0 * -inf would be nan

UNITS = ("bytes", "characters", "tokens")


@score(
    formula="sum of -log2 p(token) over the answer / its bytes; prompt excluded",
    paper="Ankner et al. 2024 (Perplexed by Perplexity), arXiv 2405.20541; per byte: ours",
    inputs="a language model that has not trained on the rows; better held_out_perplexity",
    cost="one forward of n",
    loses="its best band (low, middle, high) changes with the domains; high is noise, low is duplicates; and on rows "
    "that the model was trained on the order turns round",
    needs=("model",),
    tasks="answers",
    named_alone=False,
    evidence="corpus-selection",
    computed_by="datadiet.scoring.answers:bits",
    passes={"model": ["loss"]},
    traits=("gaps",),
)
def perplexity(
    losses: Tensor,
    counts: Tensor,
    sizes: Mapping[str, Tensor],
    *,
    unit: Annotated[Literal["bytes", "characters", "tokens"], UNITS] = "bytes",
) -> Tensor:
    """The perplexity of each answer as bits per byte: the exponent of 2, so its ranks are those of the perplexity.

    `sum_t -log2 p(y_t | x, y_<t) / size(y)`

    Args:
        losses: float `(n,)`, mean nll of the tokens of each answer in nats.
        counts: Whole numbers `(n,)`, tokens of each answer that train.
        sizes: By unit, `(n,)`: bytes, characters and tokens of what trains; an end token is one of each.
        unit: What is divided by; `tokens` gives the base-2 logarithm of the usual perplexity.

    Returns:
        float32 `(n,)`, bits per unit; larger = harder. nan where no token trains.

    Examples:
        >>> perplexity(torch.tensor([math.log(2.0)]), torch.tensor([3]), {"bytes": torch.tensor([6])})
        tensor([0.5000])

    Source: Ankner et al. 2024 (arXiv 2405.20541) keep the lowest, the middle or the highest by exp(mean token nll):
    select `easiest`, `window(offset=0.25)` at keep 0.5, or `hardest`. Per byte, models with other tokens give numbers
    that can be compared, and exp of a noisy row does not overflow.
    """
    bits = losses.double() * counts / LN2 / sizes[unit].double().clamp_min(1)
    return bits.float().masked_fill(counts == 0, torch.nan)


@score(
    formula="perplexity under a model that was not trained on the row",
    paper="Ankner et al. 2024, arXiv 2405.20541; cross-fitted: ours",
    inputs="a language model trained on other rows: datadiet score --holdout, or --folds K --epochs E",
    cost="a training per fold, one forward of n",
    loses="as perplexity; and a fold's model that has seen little data ranks by length and rare signs",
    needs=("holdout",),
    tasks="answers",
    named_alone=False,
    computed_by="datadiet.scoring.answers:bits",
    passes={"holdout": ["loss"]},
    traits=("gaps",),
)
def held_out_perplexity(
    losses: Tensor,
    counts: Tensor,
    sizes: Mapping[str, Tensor],
    *,
    unit: Annotated[Literal["bytes", "characters", "tokens"], UNITS] = "bytes",
) -> Tensor:
    """Bits per byte of each answer by a model that has not seen the row; see `perplexity`.

    Args:
        losses, counts, sizes, unit: As of `perplexity`, by the tokens of the model that was held out.

    Returns:
        float32 `(n,)`; larger = harder, nan where no token trains.

    Examples:
        >>> held_out_perplexity(torch.tensor([math.log(2.0)]), torch.tensor([3]), {"bytes": torch.tensor([3])})
        tensor([1.])

    Source: Ankner et al. 2024 (arXiv 2405.20541), who train the reference model on other data of the same kind; with
    folds no row is lost to it.
    """
    values: Tensor = perplexity(losses, counts, sizes, unit=unit)
    return values


@score(
    formula="mean nll of the answer given the prompt / of the answer alone, over the same tokens",
    paper="Li et al. 2024 (Cherry LLM), arXiv 2308.12032; Superfiltering: Li et al. 2024, arXiv 2402.00530",
    inputs="a language model, best warmed up on a few rows; prompts and answers",
    cost="two forwards of n, the second without prompts",
    loses="high is a short or odd answer, above 1 a prompt that misleads: give most=1; fell behind all data on MMLU",
    needs=("model",),
    tasks="answers",
    named_alone=False,
    evidence="corpus-selection",
    computed_by="datadiet.scoring.answers:with_and_without",
    passes={"model": ["loss", "rest"]},
    traits=("gaps",),
)
def ifd(
    given: Tensor,
    alone: Tensor,
    cut: Tensor,
    *,
    ratio: Annotated[Literal["loss", "perplexity"], ("loss", "perplexity")] = "loss",
    most: Annotated[float | None, Positive] = None,
    keep_cut: Annotated[bool, None] = False,
) -> Tensor:
    """Instruction-following difficulty: how little the prompt helps to the answer.

    `loss(y | x) / loss(y)`, or `ppl(y | x) / ppl(y) = exp(loss(y | x) - loss(y))`; both losses are means over the same
    tokens. Without a token that begins a text, nothing predicts the first token of the answer alone, and it counts in
    neither.

    Args:
        given: float `(n,)`, mean nll of the answer after the prompt, in nats.
        alone: float `(n,)`, mean nll of the same tokens without the prompt.
        cut: bool `(n,)`, where a row was longer than the limit.
        ratio: `loss` (Cherry LLM) or `perplexity` (Superfiltering).
        most: Values above this are nan, so that the row is missing in `datadiet select`; 1 drops misleading prompts.
        keep_cut: Whether rows that were cut have a value, of what is left of them.

    Returns:
        float32 `(n,)`; larger = harder. The papers keep the largest below 1. nan where a loss is, or the answer is
        certain without the prompt.

    Examples:
        >>> given, alone, cut = torch.tensor([1.0, 3.0]), torch.tensor([2.0, 2.0]), torch.tensor([False, False])
        >>> ifd(given, alone, cut), ifd(given, alone, cut, ratio="perplexity", most=1.0)
        (tensor([0.5000, 1.5000]), tensor([0.3679,    nan]))

    Source: Li et al. 2024 (arXiv 2308.12032, 2402.00530). The code finds the answer by `rfind` on text and tokenises
    the prompt by itself, which breaks where tokens merge, scores a first token in one of the two terms only, and gives
    0 after any exception. Both papers
    leave out rows that were cut.
    """
    given, alone = given.double(), alone.double()
    values = given / alone if ratio == "loss" else (given - alone).exp()
    nothing = (~(alone > 0) if ratio == "loss" else alone.isnan()) | (cut & (not keep_cut))
    if most is not None:
        nothing = nothing | (values > most)
    return values.float().masked_fill(nothing, torch.nan)


@score(
    formula="share of pairs of checkpoints of which the better one has the smaller loss on the row",
    paper="Shum et al. 2025 (PreSelect), arXiv 2503.00808",
    inputs="the kept checkpoints of a run: datadiet score --model RUN, trained with --keep-checkpoints",
    cost="one forward of n per checkpoint",
    loses="says nothing of few checkpoints or of ones that hardly differ; what training ruins for the task is ranked "
    "low only where the dev metric falls",
    needs=("checkpoints",),
    tasks="answers",
    named_alone=False,
    evidence="corpus-selection",
    computed_by="datadiet.scoring.answers:along_checkpoints",
    traits=("gaps",),
)
def predictive_strength(
    losses: Tensor,
    figures: Sequence[float],
    *,
    rank: Annotated[Literal["pairs", "weighted", "tau"], ("pairs", "weighted", "tau")] = "pairs",
) -> Tensor:
    """How well the loss on a row predicts which of several models is the better one.

    `(1 / Z) sum_{i<j} 1[loss_i > loss_j]` for models in the order of their figure; pairs with the same figure count
    neither in the sum nor in Z.

    Args:
        losses: float `(models, n)`, in the same unit for all models.
        figures: One number per model, larger = better: a dev metric, or the place in the training.
        rank: `pairs`; `weighted`, where each pair weighs the gap of its figures; or `tau`, Kendall's tau-b, from -1
            to 1, which also sees ties of losses.

    Returns:
        float32 `(n,)` in [0, 1], of `tau` in [-1, 1]; the paper keeps the largest. nan where a loss is; of `tau` also
        where all losses are the same.

    Raises:
        ArgumentError: If there are not two figures that differ, or not one per model.

    Examples:
        >>> losses = torch.tensor([[3.0, 1.0, 2.0], [2.0, 2.0, 1.0], [1.0, 3.0, 2.0]])
        >>> predictive_strength(losses, [0.1, 0.2, 0.3])
        tensor([1.0000, 0.0000, 0.3333])

    Source: Shum et al. 2025 (arXiv 2503.00808), whose models are six of a family. Their code divides by all pairs, also
    those that tie, and lets texts attend to the ones before them. A text has the same number of characters for every
    model, so that its mean nll orders them as its bits per character do.
    """
    if len(figures) != len(losses) or len(set(figures)) < 2:
        raise ArgumentError(
            f"predictive_strength needs a figure of each model, two different ones at least: got "
            f"{', '.join(f'{figure:.6g}' for figure in figures) or 'none'} for {len(losses)} models."
        )
    table = losses.double()
    concordant, weight, signed, ties = (torch.zeros(table.shape[1], dtype=torch.float64) for _ in range(4))
    pairs = 0
    for one in range(len(figures)):
        for other in range(one + 1, len(figures)):
            gap = figures[other] - figures[one]
            better = (table[one] - table[other]).sign()  # 1 where the later model has the smaller loss
            ties += better == 0
            if gap:
                pairs += 1
                step = abs(gap) if rank == "weighted" else 1.0
                toward = better if gap > 0 else -better
                concordant += step * (toward > 0)
                weight += step
                signed += toward
    if rank == "tau":
        every = len(figures) * (len(figures) - 1) // 2
        values = signed / (pairs * (every - ties)).sqrt()  # 0 / 0 is nan
    else:
        values = concordant / weight
    return values.float().masked_fill(table.isnan().any(0), torch.nan)


@score(
    formula="mean over the answer's tokens of JSD(p_model, p_teacher), in nats, at most ln 2",
    paper="He et al. 2025 (PASER), arXiv 2502.12594",
    inputs="a damaged language model (pruned, quantised, earlier) and the original one, with the same tokens",
    cost="one forward of n by each of the two",
    loses="a gap is not a benefit: where the original is wrong too, the gap teaches its error",
    needs=("model", "teacher"),
    tasks="answers",
    named_alone=False,
    computed_by="datadiet.scoring.answers:token_by_token",
    traits=("gaps",),
)
def capability_gap(
    divergences: Tensor,
    lengths: Tensor,
    *,
    per: Annotated[Literal["row", "cost"], ("row", "cost")] = "row",
) -> Tensor:
    """How far two models differ on an answer: the mean Jensen-Shannon divergence of their next tokens.

    Args:
        divergences: float `(n,)`, mean over the tokens of the answer, from `token_divergence`; nan without a token.
        lengths: Whole numbers `(n,)`, tokens of the row, prompt included; at least 2.
        per: `row`, or `cost` for the paper's efficiency score, `JSD / log(length^2)`: attention costs the square.

    Returns:
        float32 `(n,)`, at least 0; larger = a larger gap. The paper keeps the largest, in shares by cluster: select
        `paser`.

    Examples:
        >>> capability_gap(torch.tensor([0.263493841]), torch.tensor([42]), per="cost")
        tensor([0.0352])

    Source: He et al. 2025 (arXiv 2502.12594). Their code sums over positions and words, so that long prompts look
    damaged, reads the instruction and never the answer, and gives nan where a probability underflows.
    """
    values = divergences.double()
    if per == "cost":
        values = values / (2 * lengths.double().clamp_min(2).log())
    return values.float()


def token_divergence(logits: Tensor, other: Tensor, labels: Tensor, *, chunk: int = 1024) -> Tensor:
    """Jensen-Shannon divergence of two language models at each next token that trains.

    `1/2 KL(p || m) + 1/2 KL(q || m)` with `log m = logaddexp(log p, log q) - ln 2`, in float32.

    Args:
        logits, other: `(batch, length, vocabulary)`, any float dtype.
        labels: Whole numbers `(batch, length)`: not shifted, -100 where nothing trains.
        chunk: Tokens that are computed together, at most: fewer where that would be over `MOST_BYTES`.

    Returns:
        float32 `(batch, length - 1)` in [0, ln 2]; 0 where nothing trains.

    Raises:
        ArgumentError: If the shapes do not fit.

    Examples:
        >>> one, two = torch.tensor([[[50.0, -50.0], [0.0, 0.0]]]), torch.tensor([[[-50.0, 50.0], [0.0, 0.0]]])
        >>> token_divergence(one, two, torch.tensor([[-100, 1]]))
        tensor([[0.6931]])
    """
    if logits.shape != other.shape or logits.dim() != 3 or labels.shape != logits.shape[:2]:
        raise ArgumentError(
            f"two language models are compared by logits (batch, length, vocabulary) of the same shape: got "
            f"{tuple(logits.shape)} and {tuple(other.shape)} for labels {tuple(labels.shape)}."
        )
    mask = labels[:, 1:] != IGNORED
    rows, positions = mask.nonzero(as_tuple=True)
    size = max(1, min(chunk, MOST_BYTES // (4 * _COPIES * logits.shape[-1])))
    wide = torch.zeros(mask.shape, dtype=torch.float32, device=logits.device)
    for start in range(0, len(rows), size):
        place = rows[start : start + size], positions[start : start + size]
        p, q = (part.detach()[place].float().log_softmax(-1).clamp_min(_LEAST_LOG) for part in (logits, other))
        m = torch.logaddexp(p, q) - LN2
        halves = (torch.linalg.vecdot(one.exp(), one - m) for one in (p, q))
        wide[place] = (sum(halves) / 2).clamp(0, LN2)
    return wide


def row_rest_nll(head: TokenSignals) -> Tensor:
    """The mean nll of the tokens that train but for the first of them: float32 `(batch,)`, nan where none is left.

    Examples:
        >>> nll, mask = torch.tensor([[9.0, 1.0, 3.0], [9.0, 0.0, 0.0]]), torch.tensor([[1, 1, 1], [1, 0, 0]]).bool()
        >>> row_rest_nll(TokenSignals(nll, nll, nll, mask, mask))
        tensor([2., nan])
    """
    rest = head.mask & (head.mask.cumsum(1) > 1)
    return (head.nll * rest).sum(1) / rest.sum(1)
