"""The scoring pass of a Trainer: the Trainer's own data set, collator, model and precision, in eval mode."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from datadiet.records import Signals
from datadiet.scoring import TRAINING_BATCHES_PER_PASS_BATCH, forward_pass

if TYPE_CHECKING:
    from datadiet.integrations.huggingface import DietMixin


def score_rows(
    trainer: DietMixin,
    rows: NDArray[np.int64],
    *,
    listen: Callable[[NDArray[np.int64], Signals], None] | None = None,
) -> tuple[NDArray[np.int64], dict[str, NDArray[np.float32]]]:
    """One scoring pass of this process over some training rows.

    Args:
        trainer: In training, i.e. with a loader that carries rows.
        rows: int64 `(n,)`.
        listen: Is given the rows and signals of every batch, in the order of the pass.

    Returns:
        The rows, ascending, and the float32 values of each column of the history beside them.
    """
    loader: Any = trainer.callback_handler.train_dataloader
    inner = getattr(loader, "base_dataloader", loader)
    batch_size = trainer._train_batch_size * TRAINING_BATCHES_PER_PASS_BATCH
    mean = 1 if trainer.lengths is None else max(1, int(trainer.lengths.mean()))
    found: dict[str, list[torch.Tensor]] = {name: [] for name in trainer.diet.columns}
    order = []
    for part, outputs, batch in forward_pass(
        trainer.network,
        inner.dataset.dataset,
        inner.collate_fn.collate,
        rows=rows,
        lengths=trainer.lengths,
        batch_tokens=batch_size * mean,
        batch_size=batch_size,
        call=trainer.call_model,
        ledger=trainer.ledger,
    ):
        order.append(part)
        signals = trainer.signals_of_batch(outputs, batch)
        if listen is not None:
            listen(part, signals)
        for name, values in trainer.diet.values_of(signals).items():
            found[name].append(values)
    scored = np.concatenate(order) if order else rows
    ascending = np.argsort(scored)
    columns = {name: torch.cat(parts).cpu().numpy()[ascending] for name, parts in found.items() if parts}
    return scored[ascending], columns
