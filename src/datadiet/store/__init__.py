"""What a run records: append-only Parquet tables of its scores and plans, and JSON files that are written last."""

from datadiet.store.history import ScoreStore, last_values
from datadiet.store.json_files import read_json, write_atomically
from datadiet.store.parted import MANIFEST, PartedTable, read_manifest, read_table
from datadiet.store.plans import append_plan
from datadiet.store.run_tables import RunTables

__all__ = [
    "MANIFEST",
    "PartedTable",
    "RunTables",
    "ScoreStore",
    "append_plan",
    "last_values",
    "read_json",
    "read_manifest",
    "read_table",
    "write_atomically",
]
