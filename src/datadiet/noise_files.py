"""What a noise guard leaves in the run folder: `noise.json`, the estimate with its evidence, and `suspects.parquet`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from datadiet.noise import NoiseGuard
from datadiet.run_folder import plain
from datadiet.store import write_atomically

NOISE, SUSPECTS = "noise.json", "suspects.parquet"
SCHEMA = 1


def write_noise(folder: Path, guard: NoiseGuard, ids: Sequence[str], labels: Sequence[object]) -> None:
    """Write what a guard thinks at the end of a run.

    Args:
        folder: The run folder.
        guard: As it stands.
        ids: The user's id of each training row.
        labels: The label of each, as the user wrote it.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    found = guard.suspects()
    rows = found["row"].tolist()
    columns: dict[str, Any] = {
        "row": pa.array(rows, pa.int64()),
        "id": pa.array([str(ids[row]) for row in rows], pa.string()),
        "label": pa.array([str(labels[row]) for row in rows], pa.string()),
    }
    columns |= {name: pa.array(found[name]) for name in ("suspicion", "confidence", "judgements") if name in found}
    columns["reason"] = pa.array(guard.reasons(), pa.string())
    part = folder / f"{SUSPECTS}.part"
    pq.write_table(pa.table(columns), part, compression="zstd")
    part.replace(folder / SUSPECTS)
    content = plain({"schema": SCHEMA, **guard.summary([str(label) for label in labels])})
    write_atomically(folder / NOISE, json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False))
