"""`comparison.json`: written last, read by whoever shows a comparison."""

from __future__ import annotations

import json
from pathlib import Path

from datadiet import run_folder
from datadiet.records import Json
from datadiet.store import read_json, write_atomically

COMPARISON = "comparison.json"
RUNS, CELLS = "runs", "cells"
SCHEMA = 1


def write_comparison(folder: Path, found: Json) -> None:
    """Write `comparison.json`."""
    text = json.dumps(run_folder.plain(found), indent=1, ensure_ascii=False, allow_nan=False)
    write_atomically(folder / COMPARISON, text)


def read_comparison(folder: Path) -> Json:
    """Read `comparison.json`.

    Raises:
        DataError: If the folder holds none, a broken one, or one of another schema.
    """
    found = read_json(folder / COMPARISON, SCHEMA, "comparison")
    for line in found["methods"]:  # a file from before money and energy has neither
        for name, value in (("comparable_times", found["comparable_times"]), ("price", None), ("energy", None)):
            line.setdefault(name, value)
    return found
