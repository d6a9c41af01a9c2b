"""Exchange values between processes, at epoch ends and refreshes only, never per step."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from datadiet.records import Scores


def share_of(rows: NDArray[np.int64], accelerator: Any) -> NDArray[np.int64]:
    """The rows that this process is to score: every num_processes-th."""
    return rows[accelerator.process_index :: accelerator.num_processes]


def exchange(scores: Scores, columns: tuple[str, ...], accelerator: Any) -> Scores:
    """The values of all processes, the same on each, ascending by row, each row once.

    Rows are gathered as int64 and values as float32, apart: a row that travels through a float is wrong from 2^24 on.
    A row that several processes have (samplers repeat examples to fill the last global batch) keeps the value of the
    lowest rank.

    Args:
        scores: Of this process; may be empty.
        columns: Names of the values, in an order that all processes share.
        accelerator: `accelerate.Accelerator`.
    """
    if accelerator.num_processes == 1:
        return scores
    device = accelerator.device
    counts = accelerator.gather(torch.tensor([len(scores.rows)], device=device)).tolist()
    longest = max(counts)
    if longest == 0:
        return scores
    rows = torch.zeros(longest, dtype=torch.int64)
    values = torch.zeros(longest, len(columns), dtype=torch.float32)
    rows[: len(scores.rows)] = torch.from_numpy(scores.rows)
    for place, name in enumerate(columns):
        if len(scores.rows):
            values[: len(scores.rows), place] = torch.from_numpy(scores.values[name])
    all_rows = accelerator.gather(rows.to(device)).cpu().numpy().reshape(-1, longest)  # (processes, longest)
    all_values = accelerator.gather(values.to(device)).cpu().numpy().reshape(-1, longest, len(columns))
    real = np.arange(longest) < np.asarray(counts)[:, None]  # (processes, longest)
    merged, first = np.unique(all_rows[real], return_index=True)
    kept = all_values[real][first]
    return replace(scores, rows=merged, values={name: kept[:, place] for place, name in enumerate(columns)})
