"""From values per decision to one value per example: over the positions of a head, then over the heads.

For values that are never negative the three rules are those of the paper and its code: `norm` is the L2 norm of all
errors of an example put end to end, `mean` is free of length, `sum` counts every token.

`norm` of a score that can be negative (`margin`) is the same rule with signs kept: `f^-1(sum f(v))` with
`f(v) = sign(v) * v^2`. Plain squares would call a token hard that is right by a wide margin. With signs kept, a harder
token always makes a harder example, one decision alone keeps its own value, and tokens within heads within an example
give the same as all of them at once.

`mask_tokens` selects the hardest tokens of each sentence. Masking equals removing: every score, reduction and loss of a
sentence with masked tokens is that of a sentence without them, since a masked token adds nothing to a sum and is not
counted in a mean. `free_signals` gives the columns that every forward pass records beside the score, for data maps,
noise checks and later selections.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from datadiet.errors import ArgumentError, unknown
from datadiet.registry import Method, Share
from datadiet.scores.logits import Score, cross_entropy, el2n, gold_probability, is_multi_hot
from datadiet.scores.logits import margin as logit_margin
from datadiet.scores.tokens import row_nll, values_of_tokens
from datadiet.types import Head, HeadSignals, Signals, TokenSignals

_COMBINE = (
    Method(
        "combine",
        "norm",
        "sqrt(e_intent^2 + sum_t e_t^2): the norm of all errors; favours long sentences",
        paper="Attendu and Corbeil 2023, arXiv 2306.03208",
        inputs="intent and slot logits",
        cost="nothing",
        loses="it grows with the length: fewer tokens than examples are saved, short hard requests are skipped",
        where="datadiet.scores.reduce:combine_heads",
    ),
    Method(
        "combine",
        "mean",
        "(e_intent + mean_t e_t) / 2: the same for short and long sentences",
        paper="the released code of Attendu and Corbeil 2023, arXiv 2306.03208",
        inputs="intent and slot logits",
        cost="nothing",
        loses="one wrong word of a long sentence hardly shows",
        where="datadiet.scores.reduce:combine_heads",
    ),
    Method(
        "combine",
        "sum",
        "e_intent + sum_t e_t; favours long sentences most",
        paper="the released code of Attendu and Corbeil 2023, arXiv 2306.03208",
        inputs="intent and slot logits",
        cost="nothing",
        loses="as norm, and more so",
        where="datadiet.scores.reduce:combine_heads",
    ),
)

COMBINATIONS = tuple(method.name for method in _COMBINE)


def check_combination(how: str) -> None:
    """Raise unless a combination of this name exists.

    Raises:
        ArgumentError: Naming the nearest one that does.

    Examples:
        >>> check_combination("norms")
        Traceback (most recent call last):
        ...
        datadiet.errors.ArgumentError: unknown combination 'norms'; did you mean 'norm'? Allowed: mean, norm, sum.
    """
    if how not in COMBINATIONS:
        raise ArgumentError(unknown("combination", how, COMBINATIONS))


def reduce_tokens(values: Tensor, mask: Tensor | None, how: str) -> Tensor:
    """One value per example from one per position.

    `norm = sqrt(sum_t v_t^2)` (signs kept, see the module), `mean = sum_t v_t / max(1, T)`, `sum = sum_t v_t`, over
    the T positions that count.

    Args:
        values: float `(..., positions)`.
        mask: bool `(..., positions)`, True where a position counts; None where all do.
        how: `norm`, `mean` or `sum`.

    Returns:
        float32 `(...)`; 0 for an example with no position that counts.

    Raises:
        ArgumentError: If the shapes differ, naming both, or `how` is unknown.

    Examples:
        >>> values, mask = torch.tensor([[3.0, 4.0, 9.0]]), torch.tensor([[True, True, False]])
        >>> [reduce_tokens(values, mask, how).item() for how in COMBINATIONS]
        [5.0, 3.5, 7.0]

    Source: Attendu and Corbeil 2023 (arXiv 2306.03208), section 3 and published code. Their mean is nan for an example
    without labelled tokens, and their code overwrites the ignored labels of the caller's batch.
    """
    check_combination(how)
    if mask is None:
        mask = torch.ones_like(values, dtype=torch.bool)
    if mask.shape != values.shape:
        raise ArgumentError(
            f"the mask needs the values' shape: got a mask of shape {tuple(mask.shape)} for values of shape "
            f"{tuple(values.shape)}."
        )
    counted = values.float().masked_fill(~mask.bool(), 0.0)
    if how == "norm":
        return _signed_root(_signed_square(counted).sum(-1))
    return counted.sum(-1) if how == "sum" else counted.sum(-1) / mask.sum(-1).clamp_min(1)


def combine_heads(values: Mapping[str, Tensor], how: str, weights: Mapping[str, float] | None = None) -> Tensor:
    """One value per example from one per head.

    `norm = sqrt(sum_h (w_h v_h)^2)` (signs kept, see the module), `mean = sum_h w_h v_h / sum_h w_h`,
    `sum = sum_h w_h v_h`.

    Args:
        values: float `(batch,)` per head.
        how: `norm`, `mean` or `sum`.
        weights: At least 0, one per head; 1 each by default.

    Returns:
        float32 `(batch,)`.

    Raises:
        ArgumentError: If the weights do not name the heads, are negative or all 0, or `how` is unknown.

    Examples:
        >>> values = {"intent": torch.tensor([3.0]), "slots": torch.tensor([4.0])}
        >>> [combine_heads(values, how).item() for how in COMBINATIONS]
        [5.0, 3.5, 7.0]

    Source: Attendu and Corbeil 2023 (arXiv 2306.03208), section 3.
    """
    check_combination(how)
    weight = dict.fromkeys(values, 1.0) if weights is None else _checked_weights(values, weights)
    scaled = torch.stack([values[head].float() * weight[head] for head in values])  # (heads, batch)
    if how == "norm":
        return _signed_root(_signed_square(scaled).sum(0))
    return scaled.sum(0) if how == "sum" else scaled.sum(0) / sum(weight.values())


def example_values(
    score: Score, signals: Signals, *, combine: str = "norm", weights: Mapping[str, float] | None = None
) -> Tensor:
    """Any score on any task: per decision, then over the positions of each head, then over the heads.

    Args:
        score: `f(logits, labels, *, mask=None) -> values`.
        signals: The heads of one forward pass.
        combine: `norm`, `mean` or `sum`, for positions and heads alike. It makes no difference for one head with one
            decision per example.
        weights: Of the heads, see `combine_heads`; e.g. `{"intent": a, "slots": 1 - a}` with `cross_entropy` and `sum`
            for the joint loss.

    Returns:
        float32 `(batch,)`; larger = harder.

    Raises:
        ArgumentError: If shapes, weights or the combination do not fit.

    Examples:
        >>> from datadiet.types import HeadSignals, Signals
        >>> from datadiet.scores.logits import el2n
        >>> intent = HeadSignals(torch.zeros(1, 2), torch.tensor([0]))
        >>> slots = HeadSignals(torch.zeros(1, 2, 2), torch.tensor([[1, -100]]), torch.tensor([[True, False]]))
        >>> example_values(el2n, Signals({"intent": intent, "slots": slots})).round(decimals=4)
        tensor([1.])

    Source: Attendu and Corbeil 2023 (arXiv 2306.03208), section 3: joint EL2N is the `norm` of `el2n`.
    """
    check_combination(combine)
    if not signals.heads:
        raise ArgumentError("signals need at least one head, got none.")
    if score is cross_entropy and signals.losses is not None:
        return signals.losses.float()
    if len(parts := in_parts(signals)) > 1:
        return torch.cat([example_values(score, part, combine=combine, weights=weights) for part in parts])
    values = {name: _head_values(score, head, combine) for name, head in signals.heads.items()}
    if len(values) == 1 and weights is None:
        return next(iter(values.values()))  # as it is: squaring and rooting would cost its last digit
    return combine_heads(values, combine, weights)


# Logits that a score looks at together. Its intermediate results are several times as large, and the logits of a
# language model, positions times vocabulary, fill gigabytes.
MOST_AT_ONCE = 2**24


def in_parts(signals: Signals, most: int = MOST_AT_ONCE) -> list[Signals]:
    """Signals in parts of some examples each, with at most so many logits in a head, or one example.

    Positions that do not count are left out of the parts, where that needs no waiting for an accelerator: masked
    language models label one in seven.

    Examples:
        >>> signals = Signals({"label": HeadSignals(torch.zeros(5, 2), torch.zeros(5, dtype=torch.int64))})
        >>> [len(part.heads["label"].labels) for part in in_parts(signals, most=4)]
        [2, 2, 1]
    """
    heads = {name: head for name, head in signals.heads.items() if isinstance(head, HeadSignals)}
    rows = len(next(iter(heads.values())).labels) if len(heads) == len(signals.heads) else 0  # tokens are small already
    size = max(1, most * rows // max(1, *(head.logits.numel() for head in heads.values()))) if rows else 1
    if rows <= size:
        return [signals]
    places = [slice(start, start + size) for start in range(0, rows, size)]
    return [
        Signals(
            {name: _packed(head_part(head, part)) for name, head in heads.items()},
            losses=None if signals.losses is None else signals.losses[part],
        )
        for part in places
    ]


def head_part(head: HeadSignals, where: slice | Tensor | tuple[Tensor, Tensor]) -> HeadSignals:
    """Some examples of a head, or some of their positions."""
    parts = (head.logits, head.labels, head.mask, head.hidden)
    return HeadSignals(*(None if part is None else part[where] for part in parts))  # type: ignore[arg-type]


def _packed(head: HeadSignals) -> HeadSignals:
    """The head without most of the positions that do not count."""
    if head.mask is None or head.mask.dim() != 2 or head.mask.device.type != "cpu":
        return head
    longest = max(1, int(head.mask.sum(1).max()))
    if longest >= head.mask.shape[1]:
        return head
    places = head.mask.int().argsort(dim=1, descending=True, stable=True)[:, :longest]  # (batch, longest)
    return head_part(head, (torch.arange(len(places)).unsqueeze(1), places))


def _head_values(score: Score, head: Head, how: str) -> Tensor:
    """`(batch,)` values of one head, whatever its number of positions."""
    if isinstance(head, TokenSignals):
        values = values_of_tokens(getattr(score, "__name__", "score"), head)
        return reduce_tokens(values, head.mask, how).masked_fill(~head.mask.any(1), torch.nan)
    values = score(head.logits, head.labels, mask=head.mask).float()
    if values.dim() < 2:
        return values
    mask = None if head.mask is None else head.mask.flatten(1)
    return reduce_tokens(values.flatten(1), mask, how)  # (batch, positions) -> (batch,)


def _checked_weights(values: Mapping[str, Tensor], weights: Mapping[str, float]) -> Mapping[str, float]:
    if weights.keys() != values.keys():
        raise ArgumentError(
            f"weights need one entry per head ({', '.join(values)}), got {', '.join(weights) or 'none'}."
        )
    if min(weights.values()) < 0 or not sum(weights.values()) > 0:
        raise ArgumentError(f"weights must be at least 0 and not all 0, got {dict(weights)}.")
    return weights


def _signed_square(values: Tensor) -> Tensor:
    return values * values.abs()


def _signed_root(values: Tensor) -> Tensor:
    return values.sign() * values.abs().sqrt()


def mean_of_rows(values: Tensor, rows: Tensor, count: int) -> Tensor:
    """The mean value of the texts of each row, over those that have one.

    Args:
        values: float `(..., texts)`; nan where a text has no value.
        rows: int64 `(texts,)`, below `count`.
        count: Rows.

    Returns:
        float32 `(..., count)`; nan for a row without a value.

    Examples:
        >>> mean_of_rows(torch.tensor([[1.0, 3.0, torch.nan, torch.nan]]), torch.tensor([0, 0, 0, 1]), 2)
        tensor([[2., nan]])
    """
    known, rows = ~values.isnan(), rows.to(values.device)
    sums = torch.zeros(*values.shape[:-1], count, device=values.device)
    counts = sums.index_add(-1, rows, known.float())
    return sums.index_add(-1, rows, values.float().masked_fill(~known, 0.0)) / counts


def mask_tokens(values: Tensor, keep: float, *, mask: Tensor | None = None) -> Tensor:
    """Which tokens are among the hardest of their sentence.

    Of `T` tokens that count the `ceil(keep * T)` largest values are kept, so at least one; of equal values the first.
    A sentence does not depend on its batch.

    Args:
        values: float `(batch, positions)`, larger = harder.
        keep: Share of each sentence's tokens kept, in (0, 1].
        mask: bool `(batch, positions)`, True where a position counts; None where all do.

    Returns:
        bool `(batch, positions)`, True where a token is kept: a `mask` of scores, and by
        `labels.masked_fill(~kept, -100)` labels that leave the others out of the loss.

    Raises:
        ArgumentError: If `keep` is out of range, the shapes differ, or a value that counts is nan.

    Examples:
        >>> values = torch.tensor([[0.1, 0.9, 0.5, 0.7]])
        >>> mask_tokens(values, 0.5)
        tensor([[False,  True, False,  True]])
        >>> torch.tensor([[3, 1, 0, 2]]).masked_fill(~mask_tokens(values, 0.5), -100)
        tensor([[-100,    1, -100,    2]])

    Source: selective language modelling (Lin et al. 2024, arXiv 2404.07965), section 2.2, takes the share over the
    batch; here it is taken in each sentence, so that a batch of one gives the same.
    """
    if problem := Share.problem("keep", keep):
        raise ArgumentError(problem)
    counted = torch.ones_like(values, dtype=torch.bool) if mask is None else mask.bool()
    if values.dim() != 2 or counted.shape != values.shape:
        raise ArgumentError(
            f"tokens need values (batch, positions) and a mask of that shape: got {tuple(values.shape)} and "
            f"{tuple(counted.shape)}."
        )
    if bool((values.isnan() & counted).any()):
        rows = (values.isnan() & counted).any(-1).nonzero().flatten().tolist()
        raise ArgumentError(f"values must be numbers, found nan in rows {', '.join(map(str, rows[:5]))} of the batch.")
    ordered = values.detach().float().masked_fill(~counted, -torch.inf)
    # a value may be -inf itself: what does not count comes after everything that does
    by_value = ordered.argsort(dim=-1, descending=True, stable=True)
    counting_first = counted.gather(-1, by_value).int().argsort(dim=-1, descending=True, stable=True)
    rank = by_value.gather(-1, counting_first).argsort(dim=-1)  # (batch, positions), 0 = hardest that counts
    counts = [math.ceil(keep * tokens - 1e-9) for tokens in counted.sum(-1).tolist()]
    return counted & (rank < torch.tensor(counts, device=values.device).unsqueeze(-1))


def with_tokens(head: HeadSignals, kept: Tensor) -> HeadSignals:
    """A head of which only some tokens count.

    Args:
        head: With or without a mask.
        kept: bool `(batch, positions)`, e.g. from `mask_tokens`.

    Raises:
        ArgumentError: If the shapes differ.

    Examples:
        >>> head = HeadSignals(torch.zeros(1, 2, 3), torch.tensor([[1, 2]]), torch.tensor([[True, True]]))
        >>> with_tokens(head, torch.tensor([[False, True]])).mask
        tensor([[False,  True]])
    """
    if kept.shape != head.labels.shape:
        raise ArgumentError(
            f"the tokens kept need the labels' shape: got {tuple(kept.shape)} for labels {tuple(head.labels.shape)}."
        )
    return replace(head, mask=kept.bool() if head.mask is None else head.mask & kept.bool())


FREE = ("gold_probability", "margin", "loss", "el2n", "correct", "hidden_norm")
# for the noise guard: of the one label that an example has, and of the whole of its tags
OF_LABEL = ("label_loss", "label_margin", "label_rank", "tags_loss", "tags_margin", "tags_rank")


class _Head(NamedTuple):
    """The parts of one head, float32 `(batch,)` each; squares are sums over `positions`."""

    probability: Tensor
    margin: Tensor
    loss: Tensor
    squared_el2n: Tensor
    correct: Tensor
    squared_hidden: Tensor
    positions: Tensor
    rank: Tensor | None = (
        None  # of the label among the classes, from 0, of tags the largest; of decisions among classes
    )
    sequence_margin: Tensor | None = None  # of the likeliest other sequence; of tags


def free_signals(signals: Signals, *, of_label: bool = False) -> dict[str, Tensor]:
    """The columns that are recorded of each example at every forward pass.

    Over the positions of a head and over the heads, the probability and the margin are means (free of length), the
    loss is the sum, i.e. the example's negative log-likelihood, EL2N is the norm of all errors, and an example is
    correct where every decision is. The norm of the hidden vector is the root of the mean square over the decisions.
    A regression head has a squared error for its loss, |z - y| for EL2N, and nan for probability, margin and
    correctness. A multi-hot head has the mean over the classes of the right answer's probability, the margin of its
    worst class and the sum of the binary cross-entropies, and is correct where every class is. An example without a
    class, where the mask is False, has nothing to teach and counts as learned. Of the next tokens of a causal language
    model the loss is the mean, so that long answers are not hard for their length alone; columns that its trainer does
    not give, and all of a row without a token that trains, are nan.

    Args:
        signals: The heads of one forward pass.
        of_label: Add the columns `OF_LABEL`. Of the first head with one class per example, whatever is tagged beside
            it: loss, margin, and rank, the number of classes that the model puts before the label. Of the first head
            with tags: loss of the whole sequence, the margin of the likeliest other sequence, and the largest rank of
            a tag. nan where there is no such head.

    Returns:
        float32 `(batch,)` each. `gold_probability` in [0, 1], larger = easier; `margin` is the largest other logit
        minus the gold one, larger = harder, so AUM is minus its mean over the epochs; `loss` and `el2n` are larger =
        harder; `correct` is 1 or 0; `hidden_norm` is the norm of the input of the last linear layer, nan where that
        is unknown, so that `el2n * sqrt(1 + hidden_norm^2)` is the norm of the layer's gradient.

    Examples:
        >>> free = free_signals(Signals({"label": HeadSignals(torch.tensor([[1.0, 1.0]]), torch.tensor([0]))}))
        >>> {name: round(values.item(), 4) for name, values in free.items()}
        {'gold_probability': 0.5, 'margin': 0.0, 'loss': 0.6931, 'el2n': 0.7071, 'correct': 1.0, 'hidden_norm': nan}

    Source: Swayamdipta et al. 2020 (data maps) for the gold probability; Pleiss et al. 2020 (AUM) for the margin; Paul
    et al. 2021 for EL2N and for the gradient of the last layer.
    """
    if len(parts := in_parts(signals)) > 1:
        of_parts = [free_signals(part, of_label=of_label) for part in parts]
        return {name: torch.cat([part[name] for part in of_parts]) for name in of_parts[0]}
    heads = [_of_head(head) for head in signals.heads.values()]
    probability, margin, loss, errors, correct, hidden, positions = (
        torch.stack(values) for values in zip(*(head[:7] for head in heads), strict=True)
    )  # (heads, batch) each
    columns = {
        "gold_probability": probability.mean(0),
        "margin": margin.mean(0),
        "loss": loss.sum(0) if signals.losses is None else signals.losses.float(),
        "el2n": errors.sum(0).sqrt(),
        "correct": correct.amin(0),
        "hidden_norm": (hidden.sum(0) / positions.sum(0).clamp_min(1)).sqrt(),
    }
    if of_label:
        columns |= dict(zip(OF_LABEL, _of_label(heads), strict=True))
    return columns


def _of_label(heads: Sequence[_Head]) -> list[Tensor]:
    unknown = torch.full_like(heads[0].loss, torch.nan)
    columns = [unknown] * len(OF_LABEL)
    for head in reversed(heads):  # the first of its kind counts
        if head.rank is None:
            continue
        if head.sequence_margin is None:
            columns[:3] = [head.loss, head.margin, head.rank]
        else:
            columns[3:] = [head.loss, head.sequence_margin, head.rank]
    return columns


def _of_tokens(head: TokenSignals) -> _Head:
    """The parts of a language model's head; nan for a row without a token that trains."""
    tokens, unknown = head.mask.sum(1), torch.full_like(head.nll[:, 0], torch.nan)
    nothing = tokens == 0
    error = unknown if head.error is None else head.error.square().sum(1).masked_fill(nothing, torch.nan)
    margin = unknown if head.margin is None else head.margin.sum(1) / tokens
    probability = ((-head.nll).exp() * head.mask).sum(1) / tokens
    right = (head.right | ~head.mask).all(1).float().masked_fill(nothing, torch.nan)
    return _Head(probability, margin, row_nll(head), error, right, unknown, tokens.float())


def _of_head(head: Head) -> _Head:
    if isinstance(head, TokenSignals):
        return _of_tokens(head)
    logits, labels = head.logits.float(), head.labels
    errors = el2n(logits, labels, mask=head.mask).square()
    hidden = _squared_norm(head, errors)
    if is_multi_hot(logits, labels):
        right = ((logits >= 0) == (labels == 1)).all(-1).float()
        worst, loss = logit_margin(logits, labels), cross_entropy(logits, labels)
        return _Head(gold_probability(logits, labels), worst, loss, errors, right, hidden, torch.ones_like(errors))
    if labels.is_floating_point():
        error = logits.reshape(len(labels)) - labels  # (batch, 1) -> (batch,)
        unknown = torch.full_like(error, torch.nan)
        return _Head(unknown, unknown, error.square(), errors, unknown, hidden, torch.ones_like(error))
    gold_class = labels.clamp_min(0).unsqueeze(-1)
    gold_logit = logits.gather(-1, gold_class).squeeze(-1)
    log_probability = gold_logit - logits.logsumexp(-1)
    others = logits.scatter(-1, gold_class, -torch.inf).amax(-1)
    margin = others - gold_logit if logits.shape[-1] > 1 else torch.zeros_like(gold_logit)
    right = (margin <= 0).float()
    rank = (logits > gold_logit.unsqueeze(-1)).sum(-1).float()
    if labels.dim() == 1:
        if head.mask is not None:
            log_probability, margin, rank = (part * head.mask for part in (log_probability, margin, rank))
            right = right.where(head.mask, 1.0)
        parts = (log_probability.exp(), margin, -log_probability, errors, right, hidden)
        return _Head(*parts, torch.ones_like(errors), rank=rank)
    counted = labels >= 0 if head.mask is None else head.mask
    positions = counted.sum(-1).float()
    # the likeliest other sequence differs in all words that are wrong, or else in the one that nearly is
    nearest = margin.masked_fill(~counted, -torch.inf).amax(-1)
    sequence = torch.where(nearest > 0, (margin.clamp_min(0) * counted).sum(-1), nearest)
    per_word = (log_probability.exp(), margin, -log_probability, errors, hidden)
    probability, margin, loss, errors, hidden = ((part * counted).sum(-1) for part in per_word)  # -> (batch,)
    words = positions.clamp_min(1)
    wrong = ((1 - right) * counted).sum(-1)
    right = (wrong == 0).float()
    means = (probability / words, margin / words)
    rank = (rank * counted).amax(-1)
    return _Head(*means, loss, errors, right, hidden, positions, rank=rank, sequence_margin=sequence)


def _squared_norm(head: HeadSignals, like: Tensor) -> Tensor:
    if head.hidden is None:
        return torch.full_like(like, torch.nan)
    return head.hidden.float().square().sum(-1)
