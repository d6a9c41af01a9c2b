"""Scores: pure functions of a model's outputs, one float32 value per decision, larger = harder.

A score is `f(logits, labels, *, mask=None) -> values` and drops the class axis; leading axes are batch axes.
`example_values` composes it with a token reduction and a combination of heads, so that any score works on any task. A
function of your own of the same form goes wherever these go.

Scores of a whole set are `f(embeddings, labels=None, *, ids=None, ...)` or `f(texts, labels=None, *, ids=None, ...)`;
they need no model's answer, and stand in `EMBEDDING_SCORES` and `TEXT_SCORES`.
"""

from __future__ import annotations

from datadiet.scores.embeddings import EMBEDDING_SCORES, moderate, neighbour_distance, prototypes
from datadiet.scores.logits import (
    EL2N_MAX,
    Score,
    absolute_error,
    cross_entropy,
    el2n,
    entropy,
    gold_probability,
    is_multi_hot,
    margin,
)
from datadiet.scores.reduce import (
    COMBINATIONS,
    check_combination,
    combine_heads,
    example_values,
    mask_tokens,
    reduce_tokens,
    with_tokens,
)
from datadiet.scores.text import TEXT_SCORES, length, scdp

# for names on the command line only; in Python the functions are passed themselves
SCORES: dict[str, Score] = {
    "el2n": el2n,
    "cross_entropy": cross_entropy,
    "margin": margin,
    "entropy": entropy,
    "absolute_error": absolute_error,
}

__all__ = [
    "COMBINATIONS",
    "EL2N_MAX",
    "EMBEDDING_SCORES",
    "SCORES",
    "TEXT_SCORES",
    "Score",
    "absolute_error",
    "check_combination",
    "combine_heads",
    "cross_entropy",
    "el2n",
    "entropy",
    "example_values",
    "gold_probability",
    "is_multi_hot",
    "length",
    "margin",
    "mask_tokens",
    "moderate",
    "neighbour_distance",
    "prototypes",
    "reduce_tokens",
    "scdp",
    "with_tokens",
]
