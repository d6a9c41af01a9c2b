"""Writes a folder for `--model`: `python -m benchmarks.byte_lm FOLDER llama-1m`."""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks.byte_lm import SHAPES, write_model

if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[2] not in SHAPES:
        sys.exit(f"usage: python -m benchmarks.byte_lm FOLDER {'|'.join(SHAPES)}")
    print(write_model(Path(sys.argv[1]), sys.argv[2]))
