"""Signals of sentence-transformers models, whose losses return nothing but a number."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from datadiet.checks import ArgumentError
from datadiet.records import HeadSignals, Signals

EMBEDDING = "sentence_embedding"


@contextmanager
def captured_outputs(model: torch.nn.Module) -> Iterator[list[Any]]:
    """The outputs of every forward pass that a module makes inside the block."""
    outputs: list[Any] = []
    handle = model.register_forward_hook(lambda _module, _inputs, output: outputs.append(output))
    try:
        yield outputs
    finally:
        handle.remove()


def pair_signals(outputs: Sequence[Mapping[str, Any]], labels: Any) -> Signals:
    """Two embeddings and a similarity label, as a regression head: `logits = cos(a, b)`, so `el2n` is |cos - label|.

    Args:
        outputs: One forward pass per text column, each with a `sentence_embedding` `(batch, dim)`.
        labels: Similarities `(batch,)`, as `CosineSimilarityLoss` and its kin take them; 0/1 counts too.

    Raises:
        ArgumentError: Where this reading does not fit, e.g. in-batch negatives without labels.
    """
    fits = len(outputs) == 2 and all(EMBEDDING in output for output in outputs) and labels is not None
    if not fits or labels.dim() != 1:
        raise ArgumentError(
            "the diet can read pairs of texts with one similarity label each; for other losses pass "
            "signals=function of (outputs of each text column, batch) to Diet."
        )
    left, right = (output[EMBEDDING].detach().float() for output in outputs)
    cosine = torch.nn.functional.cosine_similarity(left, right)
    return Signals({"label": HeadSignals(cosine[:, None], labels.float())})
