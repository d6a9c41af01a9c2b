"""Which learning rate is best on dev for a few hundred rows?

    python -m benchmarks.learning_rate --data-root DATA    # every run that has no result yet; half an hour on one core
    python -m benchmarks.learning_rate --sets snips --rates 1e-3 --rows 96 --epochs 1 --results build    # a look

Training on everything with the defaults of `datadiet finetune` but the learning rate: MiniLM, 600 rows, 5 epochs, batch
32, 500 dev rows (both drawn once, seed 0). Nothing is tested: the figures choose a default, so they are of dev. SNIPS
is packaged; DATA holds a folder for each other set, with train and dev as .jsonl.gz or .jsonl.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from benchmarks.cells import each_once, finetuned, keep, listed, numbers
from benchmarks.grid import RESULTS
from benchmarks.report.markdown import NOT_YET, table
from benchmarks.tolerance import lines_of
from datadiet.store.run_folder import main_metric

RATES = (5e-5, 1e-4, 2e-4, 3e-4, 5e-4, 1e-3)
SETS = {"banking77": ("banking77", "classification"), "snips": ("snips", "intent-slot")}
TRAIN_ROWS, DEV_ROWS, EPOCHS = 600, 500, 5


@dataclass(frozen=True)
class Cell:
    """One run."""

    set: str
    rate: float
    seed: int

    @property
    def name(self) -> str:
        return f"{self.set}-{self.rate:g}-seed{self.seed}"


def prepare(name: str, root: Path, folder: Path, rows: int) -> Path:
    """Write the shares of a set, the same whenever it is called."""
    source = Path(str(resources.files("datadiet") / "packaged" / "snips")) if name == "snips" else root / SETS[name][0]
    generator = np.random.default_rng(0)
    folder.mkdir(parents=True)
    for split, most in (("train", rows), ("dev", DEV_ROWS)):
        lines = lines_of(source / f"{split}.jsonl.gz")
        chosen = [lines[row] for row in generator.permutation(len(lines))[:most]]
        (folder / f"{split}.jsonl").write_text("".join(chosen), encoding="utf-8")
    return folder


def run_cell(cell: Cell, root: Path, results: Path, rows: int, epochs: int) -> str:
    """Run one cell and keep its dev metric after each epoch; its run folder is thrown away."""
    settings: dict[str, Any] = {
        "task": SETS[cell.set][1], "keep": 1.0, "epochs": epochs, "learning_rate": cell.rate, "seed": cell.seed,
        "checkpoint_every": 0,
    }  # fmt: skip
    with TemporaryDirectory(prefix="datadiet-bench-") as folder:
        work = Path(folder)
        result = finetuned({**settings, "data": str(prepare(cell.set, root, work / cell.set, rows))}, work)
    metric = main_metric(result["task"])
    curve = [round(float(epoch["dev"][metric]), 4) for epoch in result["epochs"]]
    found = {"cell": cell.__dict__, "settings": settings, "metric": metric, "dev": curve}
    keep(results, cell.name, {**found, "rows": result["data"]["rows"], "environment": result["environment"]}, indent=1)
    return f"{metric} on dev {curve[-1]:.4f}"


def learning_rate(results: Path) -> str:
    """A line per set and learning rate: the dev metric after each epoch, the means over the seeds."""
    found: dict[tuple[str, float], list[list[float]]] = {}
    metrics: dict[str, str] = {}
    for name, (data, _) in SETS.items():
        for path in sorted((results / "learning_rate").glob(f"{name}-*.json")):
            run = json.loads(path.read_text(encoding="utf-8"))
            found.setdefault((name, run["cell"]["rate"]), []).append(run["dev"])
            metrics[name] = f"{data}, {run['metric'].replace('_', ' ')}"
    if not found:
        return NOT_YET
    lines = []
    for (name, rate), curves in sorted(found.items()):
        means = [f"{100 * np.mean(values):.1f}" for values in zip(*curves, strict=True)]
        lines.append([metrics[name], f"{rate:g}", *means, str(len(curves))])
    epochs = max(len(line) for line in lines) - 3
    return table(["set, metric on dev", "peak", *(f"epoch {epoch + 1}" for epoch in range(epochs)), "seeds"], lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, default=Path("data"))
    parser.add_argument("--sets", type=listed(*SETS), default=[*SETS])
    parser.add_argument("--rates", type=numbers(float), default=[*RATES])
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--rows", type=int, default=TRAIN_ROWS, help="training rows")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    args = parser.parse_args()
    results = args.results / "learning_rate"
    whole = each_once(
        [Cell(name, rate, seed) for seed in range(args.seeds) for name in args.sets for rate in args.rates],
        results,
        lambda cell: run_cell(cell, args.data_root, results, args.rows, args.epochs),
    )
    sys.exit(0 if whole else 1)


if __name__ == "__main__":
    main()
