"""Forward passes that also see what goes into the last layer of each head."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from datadiet.gradients.parameters import last_layers
from datadiet.ledger import Ledger
from datadiet.models.heads import Heads, head_layers
from datadiet.records import HeadSignals, Signals
from datadiet.scoring import Batch as PassBatch
from datadiet.scoring import Collate, forward_pass
from datadiet.tasks.infer import signals_of


def last_layer_pass(
    model: nn.Module,
    dataset: Any,
    collate: Collate,
    *,
    rows: NDArray[np.int64] | None = None,
    batch_tokens: int = 4096,
    batch_size: int = 64,
    precision: str = "fp32",
    ledger: Ledger | None = None,
) -> Iterator[tuple[NDArray[np.int64], Signals, bool]]:
    """One forward pass without gradients: `(rows, signals with hidden, whether the last layers have a bias)`.

    Raises:
        ArgumentError: If the model has no last linear layer that can be told.
    """
    bias = all(layer.bias is not None for layer in last_layers(model))
    heads = Heads(head_layers(model))

    def call(batch: PassBatch) -> Any:
        with heads.watching():
            return model(**batch)

    found = forward_pass(
        model,
        dataset,
        collate,
        rows=rows,
        batch_tokens=batch_tokens,
        batch_size=batch_size,
        precision=precision,
        call=call,
        ledger=ledger,
    )
    for part, outputs, batch in found:
        signals = heads.signals(signals_of(outputs, batch))
        yield part, Signals({name: _masked(head) for name, head in signals.heads.items()}), bias


def head_weights(model: nn.Module, signals: Signals) -> dict[str, float] | None:
    """The share of each head in the loss of a joint model; None where there is one head."""
    if set(signals.heads) != {"intent", "slots"}:
        return None
    alpha = float(getattr(getattr(model, "config", None), "alpha", 0.5))
    return {"intent": alpha, "slots": 1 - alpha}


def _masked(head: HeadSignals) -> HeadSignals:
    """An example without a label (-100) counts nothing."""
    if head.mask is not None or head.labels.is_floating_point():
        return head
    return replace(head, mask=head.labels >= 0)
