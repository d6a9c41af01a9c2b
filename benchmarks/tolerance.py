"""Does `--tolerance` keep its word? Four sets x 3 seeds, beside full data and fixed keeps.

    python -m benchmarks.tolerance --data-root DATA          # every run that has no result yet, seed by seed
    python -m benchmarks.tolerance --data-root DATA --sets snips --seeds 1 --epochs 2 --rows 192   # a look

Each set is a fixed share: 1,500 training rows and 500 dev rows (drawn once, seed 0; CoLA, whose test labels are hidden,
has 500 training rows more set aside as dev, and is tested on its dev split), and the whole test split. The dev rows are
all that the tolerance sees. Setting: MiniLM, 6 epochs, batch 16, AdamW 1e-4 linear; chosen on the dev splits for full
data alone (LOG.md). Two of these may run at a time, so seconds are not compared: tokens are.

DATA holds a folder per set with train, dev and test as .jsonl.gz or .jsonl; SNIPS is packaged.

A result holds the test metric of the run, and the same metric over `DRAWS` samples of the test rows, which are the same
for every run of a set: that is what the two-level bootstrap of the table draws from.
"""

from __future__ import annotations

import argparse
import gzip
import sys
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.cells import RUN, each_once, finetuned, keep, listed
from benchmarks.grid import COMMON, RESULTS
from datadiet.compare.statistics import resampled, row_sums
from datadiet.store.run_folder import PREDICTIONS, main_metric

SETS = {
    "snips": ("snips", "intent-slot"),
    "sst2": ("sst2_sentences", "classification"),
    "cola": ("cola", "classification"),
    "stsb": ("stsb", "regression"),
}
# the library's own warm-up and refreshes, which differ with a tolerance
SETTINGS: dict[str, Any] = {
    **{name: value for name, value in COMMON.items() if name not in ("warmup_epochs", "refresh_every")},
    "epochs": 6,
    "batch_size": 16,
}
ARMS: dict[str, dict[str, Any]] = {
    "full": {"keep": 1.0},
    "tolerance-0.5": {"tolerance": 0.5},
    "keep-0.9": {"keep": 0.9, "offset": 0.0},
    "keep-0.7": {"keep": 0.7, "offset": 0.0},
    "keep-0.5": {"keep": 0.5, "offset": 0.0},
}
TRAIN_ROWS, DEV_ROWS, DRAWS = 1500, 500, 500


@dataclass(frozen=True)
class Cell:
    """One run."""

    set: str
    arm: str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.set}-{self.arm}-seed{self.seed}"


def prepare(name: str, root: Path, folder: Path) -> Path:
    """Write the shares of a set, the same whenever it is called."""
    source = Path(str(resources.files("datadiet") / "packaged" / "snips")) if name == "snips" else root / SETS[name][0]
    splits = {split: lines_of(source / f"{split}.jsonl.gz") for split in ("train", "dev", "test")}
    generator = np.random.default_rng(0)
    train = [splits["train"][row] for row in generator.permutation(len(splits["train"]))]
    if not splits["test"]:
        splits["test"], splits["dev"] = splits["dev"], train[TRAIN_ROWS:]
    dev = [splits["dev"][row] for row in generator.permutation(len(splits["dev"]))[:DEV_ROWS]]
    folder.mkdir(parents=True)
    for split, lines in (("train", train[:TRAIN_ROWS]), ("dev", dev), ("test", splits["test"])):
        (folder / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8")
    return folder


def lines_of(path: Path) -> list[str]:
    """The lines of a file, packed or not; none where it is not there."""
    if not path.exists():
        plain = path.with_suffix("")
        return plain.read_text(encoding="utf-8").splitlines(keepends=True) if plain.exists() else []
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return list(lines)


def run_cell(cell: Cell, root: Path, results: Path, changes: dict[str, Any]) -> str:
    """Run one cell and keep its result; its run folder is thrown away."""
    settings = {**SETTINGS, **ARMS[cell.arm], "task": SETS[cell.set][1], "seed": cell.seed, **changes}
    with TemporaryDirectory(prefix="datadiet-bench-") as folder:
        work = Path(folder)
        result = finetuned({**settings, "data": str(prepare(cell.set, root, work / cell.set))}, work)
        metric = main_metric(result["task"])
        drawn = sampled(metric, work / RUN)
    keep(results, cell.name, {"cell": cell.__dict__, "settings": settings, "metric": metric, "drawn": drawn, **result})
    saved = result["ceiling"]["tokens_saved"]
    return f"{metric} {result['metrics']['test'][metric]:.4f}  tokens saved {saved:.1%}"


def sampled(metric: str, run: Path) -> list[float]:
    """A run's metric, in points, over the samples of the test rows."""
    rows = pd.read_parquet(run / PREDICTIONS)
    sums = row_sums(metric, rows[rows["split"] == "test"].sort_values("id", kind="stable").reset_index(drop=True))
    assert sums is not None  # every main metric is a function of sums
    return [round(float(value), 3) for value in resampled(sums)[:DRAWS]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, default=Path("data"))
    parser.add_argument("--sets", type=listed(*SETS), default=[*SETS])
    parser.add_argument("--arms", type=listed(*ARMS), default=[*ARMS])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--epochs", type=int, help="for a quick look only")
    parser.add_argument("--rows", type=int, help="for a quick look only")
    args = parser.parse_args()
    changes = {name: value for name, value in (("epochs", args.epochs), ("train_rows", args.rows)) if value}
    results = args.results / "tolerance"
    cells = [Cell(name, arm, seed) for seed in range(args.seeds) for name in args.sets for arm in args.arms]
    whole = each_once(
        cells,
        results,
        lambda cell: run_cell(cell, args.data_root, results, changes),
    )
    sys.exit(0 if whole else 1)


if __name__ == "__main__":
    main()
