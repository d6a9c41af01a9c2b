"""Scores: pure functions of a model's outputs, one float32 value per decision, larger = harder.

A score is `f(logits, labels, *, mask=None) -> values` and drops the class axis; leading axes are batch axes.
`example_values` composes it with a token reduction and a combination of heads, so that any score works on any task. A
function of your own of the same form goes wherever these go.

Scores of a whole set are `f(embeddings, labels=None, *, ids=None, ...)` or `f(texts, labels=None, *, ids=None, ...)`.
Scores over rounds are `f(columns, *, burn_out=None)`. Every score of `datadiet methods` is an attribute of this
package, loaded at its first use.
"""

from __future__ import annotations

from typing import Any

from datadiet.registry import attribute, public

_ALSO = {
    "logits": ("EL2N_MAX", "Score", "gold_probability", "is_multi_hot"),
    "reduce": ("combine_heads", "example_values", "mask_tokens", "reduce_tokens", "with_tokens"),
    "tokens": ("row_accuracy", "row_entropy", "row_nll", "row_perplexity", "token_signals"),
}

__all__ = public(__name__, _ALSO)


def __getattr__(name: str) -> Any:
    return attribute(__name__, name, _ALSO)
