"""What each epoch of a run trains on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from datadiet.records import EpochPlan
from datadiet.store.parted import PartedTable
from datadiet.store.slices import slices

if TYPE_CHECKING:
    import pyarrow as pa


def append_plan(table: PartedTable, plan: EpochPlan) -> None:
    """Record what one epoch trains on: `epoch`, `row`, `weight`."""
    table.append(_piece_of_plan(plan, part) for part in slices(len(plan.rows)))


def _piece_of_plan(plan: EpochPlan, part: slice) -> pa.Table:
    import pyarrow as pa

    rows = plan.rows[part]
    weights = np.ones(len(rows), np.float32) if plan.weights is None else plan.weights[part]
    return pa.table(
        {
            "epoch": pa.array(np.full(len(rows), plan.epoch, np.int32)),
            "row": pa.array(rows, pa.int64()),
            "weight": pa.array(weights, pa.float32()),
        }
    )
