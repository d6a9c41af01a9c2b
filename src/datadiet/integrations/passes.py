"""The scoring pass of a Trainer: the Trainer's own data set, collator, model and precision, in eval mode."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from datadiet.records import Signals
from datadiet.scoring import TRAINING_BATCHES_PER_PASS_BATCH, Batch, forward_pass, pass_tokens

if TYPE_CHECKING:
    from datadiet.integrations.huggingface import DietMixin

Rows = NDArray[np.int64]
Values = NDArray[np.float32]


def score_rows(
    trainer: DietMixin, rows: Rows, *, listen: Callable[[Rows, Signals], None] | None = None
) -> tuple[Rows, dict[str, Values]]:
    """One scoring pass of this process over some training rows.

    Args:
        trainer: In training, i.e. with a loader that carries rows.
        rows: int64 `(n,)`.
        listen: Is given the rows and signals of every batch, in the order of the pass.

    Returns:
        The rows, ascending, and the float32 values of each column of the history beside them.
    """
    order = np.empty(len(rows), np.int64)
    table = torch.empty(0)  # (columns, rows), in the order of the pass and where the model is, so that no batch waits
    done = 0
    for part, outputs, batch in _batches(trainer, rows):
        signals = trainer.signals_of_batch(outputs, batch)
        if listen is not None:
            listen(part, signals)
        values = torch.stack([*trainer.diet.values_of(signals).values()])
        if not done:
            table = values.new_empty(len(values), len(rows))
        table[:, done : done + len(part)] = values
        order[done : done + len(part)] = part
        done += len(part)
    return _ascending(order, dict(zip(trainer.diet.columns, table.cpu().numpy(), strict=False)))  # no rows, no columns


def _batches(trainer: DietMixin, rows: Rows) -> Iterator[tuple[Rows, Any, Batch]]:
    """Rows, outputs and batch: `forward_pass` with what the trainer has."""
    loader: Any = trainer.callback_handler.train_dataloader
    inner = getattr(loader, "base_dataloader", loader)
    network, batch_size = trainer.network, trainer._train_batch_size
    mean = 1 if trainer.lengths is None else max(1, int(trainer.lengths.mean()))
    return forward_pass(
        network,
        inner.dataset.dataset,
        inner.collate_fn.collate,
        rows=rows,
        lengths=trainer.lengths,
        batch_tokens=pass_tokens(batch_size * mean, next(network.parameters()).device),
        batch_size=batch_size * TRAINING_BATCHES_PER_PASS_BATCH,
        call=trainer.call_model,
        ledger=trainer.ledger,
    )


def _ascending(order: Rows, columns: dict[str, Values]) -> tuple[Rows, dict[str, Values]]:
    """Rows and their columns by row, in place: no second copy of the table."""
    places = np.argsort(order)
    for values in columns.values():
        values[:] = values[places]
    order.sort()
    return order, columns
