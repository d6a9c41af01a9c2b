"""What a run records: append-only Parquet tables of its scores and plans, and JSON files that are written last."""

from datadiet.files import read_json, write_atomically
from datadiet.store.tables import (
    MANIFEST,
    PartedTable,
    RunTables,
    ScoreStore,
    append_plan,
    iter_rounds,
    last_values,
    read_manifest,
    read_table,
)

__all__ = [
    "MANIFEST",
    "PartedTable",
    "RunTables",
    "ScoreStore",
    "append_plan",
    "iter_rounds",
    "last_values",
    "read_json",
    "read_manifest",
    "read_table",
    "write_atomically",
]
