"""Causal language models: a few numbers of each next token instead of logits, and one value per row from them.

Logits of a language model are positions times vocabulary: 32 rows of 1,024 tokens and 32,000 words are 4 GB in float32,
beside the half as large ones of the model itself. `token_signals` therefore reads them a few tokens at a time and keeps
six numbers of each. Rows are then reduced over the tokens that train: by the means here, and by `norm`, `mean` or `sum`
of any score in `datadiet.scores.example_values`. A row without such a token has no value: nan, never 0, which would
call it learned.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import Tensor
from torch.nn import functional

from datadiet.errors import ArgumentError
from datadiet.types import IGNORED, HeadSignals, Signals, TokenSignals

MOST_BYTES = 2**25  # of float32 copies of logits at any moment
_CACHED_BYTES = 2**22  # on a CPU, whose cache then holds them from one step of the formula to the next
_COPIES = 2
_LEAST_LOGIT = -1e4  # below the largest


def token_signals(logits: Tensor, labels: Tensor, *, chunk: int = 1024, aligned: bool = False) -> TokenSignals:
    """The signals of a language model: the logits at each position against the next label, or its own.

    With `p = softmax(z)`: `nll = -log p_y`, `entropy = -sum_v p_v log p_v`, `error = || p - onehot(y) ||_2`,
    `margin = max_{v != y} z_v - z_y`. Values near `p_y = 1` come from the mass of the other tokens, never from `1 - p`.

    Args:
        logits: `(batch, length, vocabulary)`, any float dtype.
        labels: Whole numbers `(batch, length)`, as the model takes them: not shifted, -100 where nothing trains.
        aligned: Whether logits are about the label of their own place, as of an encoder-decoder; the next one else.
        chunk: Tokens that are computed together in float32, at most: fewer where that would be over `MOST_BYTES`.

    Returns:
        Signals `(batch, length - 1)`, aligned `(batch, length)`, in float32 whatever the dtype of the logits.

    Raises:
        ArgumentError: If the shapes do not fit, naming both, or a label that counts is not in the vocabulary.

    Examples:
        >>> signals = token_signals(torch.zeros(1, 3, 4), torch.tensor([[-100, 2, -100]]))
        >>> signals.nll, signals.mask
        (tensor([[1.3863, 0.0000]]), tensor([[ True, False]]))

    Source: the one-step shift of transformers' own causal loss; EL2N of one token as `datadiet.scores.el2n`.
    """
    if logits.dim() != 3 or labels.shape != logits.shape[:2] or labels.is_floating_point():
        raise ArgumentError(
            f"a language model gives logits (batch, length, vocabulary) for whole labels (batch, length): got "
            f"logits of shape {tuple(logits.shape)} for {labels.dtype} labels of shape {tuple(labels.shape)}."
        )
    if chunk < 1:
        raise ArgumentError(f"chunk must be at least 1, got {chunk}.")
    targets, vocabulary = (labels if aligned else labels[:, 1:]).detach(), logits.shape[-1]
    mask = targets != IGNORED
    every = logits.detach() if aligned else logits.detach()[:, :-1]
    shape = tuple(targets.shape)
    # where looking waits for no accelerator, only what trains is computed: prompts are often most of a row
    packed = mask.device.type == "cpu" and not bool(mask.all())
    places = mask.nonzero(as_tuple=True) if packed else None  # (tokens,) rows and positions
    gold = targets[mask] if packed else targets.reshape(-1)  # (tokens,)
    _check_targets(gold, vocabulary)
    gold = gold.clamp_min(0)
    most = min(MOST_BYTES, _CACHED_BYTES) if logits.device.type == "cpu" else MOST_BYTES
    size = max(1, min(chunk, most // (4 * _COPIES * vocabulary)))
    columns = [torch.zeros(len(gold), dtype=torch.float32, device=logits.device) for _ in range(5)]
    for start in range(0, len(gold), size):
        part = slice(start, min(start + size, len(gold)))
        for column, values in zip(columns, _of_tokens(_logits_of(every, places, part), gold[part]), strict=True):
            column[part] = values
    wide = [_spread(column, mask, places, shape) for column in columns]
    nll, entropy, error, margin, right = wide
    return TokenSignals(nll, entropy, error, right.bool(), mask, margin)


def _logits_of(every: Tensor, places: tuple[Tensor, ...] | None, part: slice) -> Tensor:
    """The logits of some tokens, `(tokens, vocabulary)`, in a float32 copy of their own."""
    if places is None:
        length = every.shape[1]
        index = torch.arange(part.start, part.stop, device=every.device)
        rows, positions = index // length, index % length
    else:
        rows, positions = (place[part] for place in places)
    return every[rows, positions].float()  # indexing copies


def _of_tokens(scaled: Tensor, gold: Tensor) -> tuple[Tensor, ...]:
    """nll, entropy, error, margin, right of `(tokens, vocabulary)`, which is written over."""
    column = gold.unsqueeze(1)
    own = scaled.gather(1, column)  # (tokens, 1), of the label
    strongest = scaled.scatter_(1, column, -torch.inf).amax(1, keepdim=True)
    margin = (strongest - own).squeeze(1)
    top = torch.maximum(strongest, own)
    own = (own - top).squeeze(1)
    scaled.sub_(top).clamp_(min=_LEAST_LOGIT)  # where 0 * -inf would be nan
    masses = scaled.exp()
    others = masses.sum(1)  # what the label has not: exact near p_y = 1
    mass = own.exp()
    whole = others + mass
    spread = torch.linalg.vecdot(masses, scaled) + mass * own  # sum_v e^z_v z_v
    entropy = (whole.log() - spread / whole).clamp_min(0)
    error = (torch.linalg.vecdot(masses, masses) + others.square()).sqrt() / whole
    return functional.softplus(others.log() - own), entropy, error, margin, (margin <= 0).float()


def _check_targets(gold: Tensor, vocabulary: int) -> None:
    """As for class numbers, not on an accelerator, where it would wait for the device at every step."""
    if gold.device.type != "cpu" or not gold.numel():
        return
    counted = gold[gold != IGNORED]
    for label in (int(counted.min()), int(counted.max())) if len(counted) else ():
        if not 0 <= label < vocabulary:
            raise ArgumentError(f"labels must be tokens in [0, {vocabulary}) or {IGNORED}, found {label}.")


def _spread(values: Tensor, mask: Tensor, places: tuple[Tensor, ...] | None, shape: tuple[int, ...]) -> Tensor:
    """Values of tokens `(tokens,)` at their places `(batch, positions)`; 0 where nothing trains."""
    if places is None:
        return values.reshape(shape).masked_fill(~mask, 0.0)  # (tokens,) -> (batch, positions)
    wide = torch.zeros(shape, dtype=values.dtype, device=values.device)
    wide[places] = values
    return wide


# ---- one value per row


def row_nll(head: TokenSignals) -> Tensor:
    """The mean over the tokens that train of `-log p`: float32 `(batch,)`, nan for a row without any.

    Examples:
        >>> row_nll(token_signals(torch.zeros(2, 3, 4), torch.tensor([[-100, 2, 1], [-100, -100, -100]])))
        tensor([1.3863,    nan])
    """
    return _mean(head.nll, head.mask)


def row_perplexity(head: TokenSignals) -> Tensor:
    """`exp` of the mean nll: float32 `(batch,)`, at least 1, +inf beyond float32; nan for a row without a token.

    Examples:
        >>> row_perplexity(token_signals(torch.zeros(1, 3, 4), torch.tensor([[-100, 2, 1]])))
        tensor([4.])
    """
    return row_nll(head).exp()


def row_entropy(head: TokenSignals) -> Tensor:
    """The mean entropy of the tokens that train: float32 `(batch,)`, nan for a row without any.

    Examples:
        >>> row_entropy(token_signals(torch.zeros(1, 3, 4), torch.tensor([[-100, 2, 1]])))
        tensor([1.3863])
    """
    return _mean(head.entropy, head.mask)


def row_accuracy(head: TokenSignals) -> Tensor:
    """The share of the tokens that train which are the likeliest: float32 `(batch,)`, nan for a row without any.

    Examples:
        >>> logits = torch.tensor([[[0.0, 1.0], [0.0, 1.0], [0.0, 0.0]]])
        >>> row_accuracy(token_signals(logits, torch.tensor([[0, 1, 0]])))
        tensor([0.5000])
    """
    return _mean(head.right.float(), head.mask)


TOKEN_SCORES = ("cross_entropy", "el2n", "entropy", "margin")
FUSED_SCORES = ("cross_entropy", "entropy")  # of trainers that never build logits


def values_of_tokens(score: str, head: TokenSignals) -> Tensor:
    """A score of each token, float32 `(batch, positions)`, larger = harder.

    Raises:
        ArgumentError: If tokens have no such score, naming those that they have.
    """
    columns = {"cross_entropy": head.nll, "el2n": head.error, "entropy": head.entropy, "margin": head.margin}
    given = {name: column for name, column in columns.items() if column is not None}
    if problem := token_problem(score, given):
        raise ArgumentError(problem)
    return given[score]


def token_problem(score: str, given: Collection[str] = TOKEN_SCORES) -> str:
    """Why a causal language model cannot be scored so; empty where it can.

    Examples:
        >>> token_problem("el2n")
        ''
    """
    if score in given:
        return ""
    why = "this trainer gives no logits" if score in TOKEN_SCORES else "it needs logits or gradients of the model"
    return (
        f"the score {score!r} cannot be read off the next tokens of a causal language model: {why}. Use "
        f"{' or '.join(given)}."
    )


def with_logits(signals: Signals, what: str) -> Mapping[str, HeadSignals]:
    """The heads, where all have logits.

    Args:
        signals: Of a forward pass.
        what: That needs them, for the error.

    Raises:
        ArgumentError: For a causal language model.

    Examples:
        >>> signals = token_signals(torch.zeros(1, 2, 3), torch.tensor([[0, 1]]))
        >>> with_logits(Signals({"tokens": signals}), "a teacher")
        Traceback (most recent call last):
        ...
        datadiet.errors.ArgumentError: a teacher needs logits, which a causal language model has too many of to keep;
        use the score cross_entropy, el2n, entropy or margin.
    """
    heads = {name: head for name, head in signals.heads.items() if isinstance(head, HeadSignals)}
    if len(heads) < len(signals.heads):
        raise ArgumentError(
            f"{what} needs logits, which a causal language model has too many of to keep; use the score "
            f"{', '.join(TOKEN_SCORES[:-1])} or {TOKEN_SCORES[-1]}."
        )
    return heads


def _mean(values: Tensor, mask: Tensor) -> Tensor:
    return values.sum(1) / mask.sum(1)  # 0 / 0 is nan
