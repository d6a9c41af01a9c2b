"""How well the noise guard recovers a planted share of wrong labels, and what it is worth.

    python -m benchmarks.noise rates --data-root DATA      # the estimate after one and two epochs, by set and share
    python -m benchmarks.noise quality --data-root DATA    # full, short, el2n and el2n with the guard, SNIPS
    python -m benchmarks.noise quality --rows 256 --epochs 3 --seeds 0 --shares 0.1 --results build/look  # a look

DATA holds one folder per set (train/dev/test.jsonl.gz), see `benchmarks.grid`; SNIPS is packaged. Labels of training
rows are replaced by another one of the set's labels, uniformly (for joint sets the intent is the label); dev and test
stay as they are. The rows and the flips change with the seed. Each cell is a run of its own, kept as data; one that has
a result is skipped.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from benchmarks.cells import RUN, each_once, finetuned, keep
from benchmarks.grid import COMMON, RESULTS

SETS = {  # folder, task, training rows taken
    "snips": ("snips", "intent-slot", 2000),
    "sst2": ("sst2_sentences", "classification", 3000),
    "atis": ("atis", "intent-slot", 3000),
}
METHODS: dict[str, dict[str, Any]] = {
    "full": {"keep": 1.0},
    "short": {"keep": 1.0},
    "el2n": {"keep": 0.3, "offset": 0.0},
    "el2n+auto": {"keep": 0.3, "offset": "auto"},
    "estimate": {
        "keep": 0.1,
        "offset": "auto",
        "warmup_epochs": 2,
    },  # two epochs on everything, then as little as may be
}
_ROWS, _FLIPS = 77, 78  # second numbers of the seeds


@dataclass(frozen=True)
class Cell:
    """One run."""

    set: str
    share: float
    method: str
    seed: int

    @property
    def name(self) -> str:
        return f"{self.set}-{self.share:g}-{self.method}-seed{self.seed}"


def cells(kind: str, sets: list[str], shares: list[float], seeds: list[int], methods: list[str]) -> list[Cell]:
    """Seed by seed, the diet before the `short` that takes its steps."""
    wanted = ["estimate"] if kind == "rates" else methods
    return [Cell(name, share, method, seed) for seed in seeds for name in sets for share in shares for method in wanted]


def planted(cell: Cell, root: Path, rows: int | None, folder: Path) -> set[str]:
    """Write a copy of a set with wrong labels; the ids of the rows that have one."""
    from datadiet.data.load import load_data

    source, task, count = SETS[cell.set]
    data = load_data(source if source == "snips" else str(root / source), task)
    folder.mkdir()
    classes = sorted(set(data.splits["train"].labels))
    flipped: set[str] = set()
    for split, examples in data.splits.items():
        lines = [
            {"id": str(key), "text": text, "label": str(label)}
            for key, text, label in zip(examples.ids, examples.texts, examples.labels, strict=True)
        ]
        if split == "train":
            chosen = np.sort(np.random.default_rng([cell.seed, _ROWS]).permutation(len(lines))[: rows or count])
            lines = [lines[row] for row in chosen]
            flipped = _flip(lines, cell, list(map(str, classes)))
        text = "\n".join(json.dumps(line) for line in lines)
        (folder / f"{split}.jsonl").write_text(text + "\n", encoding="utf-8")
    return flipped


def _flip(lines: list[dict[str, str]], cell: Cell, classes: list[str]) -> set[str]:
    rng = np.random.default_rng([cell.seed, round(1000 * cell.share), _FLIPS])
    flipped = rng.permutation(len(lines))[: round(cell.share * len(lines))]
    for row in flipped:
        others = [name for name in classes if name != lines[row]["label"]]
        lines[row]["label"] = others[rng.integers(len(others))]
    return {lines[row]["id"] for row in flipped}


def run_cell(cell: Cell, root: Path, results: Path, changes: dict[str, Any]) -> str:
    """Run one cell and keep its result; its run folder is thrown away."""
    changes = dict(changes)
    rows = changes.pop("train_rows", None)
    with TemporaryDirectory(prefix="datadiet-bench-") as work:
        flipped = planted(cell, root, rows, Path(work) / "data")
        settings = {
            **COMMON, "refresh_every": 1, "epochs": 5, "task": "classification", **METHODS[cell.method],
            "seed": cell.seed, **changes, "data": str(Path(work) / "data"),
        }  # fmt: skip
        if cell.method == "short":
            diet = json.loads((results / f"{replace(cell, method='el2n').name}.json").read_text(encoding="utf-8"))
            settings["max_steps"] = diet["steps"]
        result = finetuned(settings, Path(work))
        found = kept(cell, result, flipped, Path(work) / RUN)
    keep(results, cell.name, found, indent=1)
    tested = f"accuracy {found['metrics']['accuracy']:.4f}  nll {found['metrics']['nll']:.3f}"
    guessed = "  ".join(f"{review['rate']:.3f}" for review in (found["noise"] or {}).get("reviews", []))
    return f"{tested}  {guessed}"


def kept(cell: Cell, result: dict[str, Any], flipped: set[str], run: Path) -> dict[str, Any]:
    """What of a run goes into the results."""
    found: dict[str, Any] = {
        "cell": cell.__dict__,
        "rows": result["data"]["rows"],
        "metrics": result["metrics"]["test"] or result["metrics"]["dev"],
        "steps": sum(epoch["steps"] for epoch in result["epochs"]),
        "kept": [epoch["kept"] for epoch in result["epochs"]],
        "cost": {name: result["cost"][name] for name in ("finetune_s", "train_s", "score_s", "select_s")},
        "noise": result.get("noise"),
        "environment": result["environment"],
    }
    if result.get("noise"):
        import pyarrow.parquet as pq

        aside = set(pq.read_table(run / "suspects.parquet")["id"].to_pylist())
        hits = len(aside & flipped)
        found["noise"] |= {"planted": len(flipped), "hits": hits}
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=("rates", "quality"))
    parser.add_argument("--data-root", type=Path, default=Path("data"))
    parser.add_argument("--sets", help="comma-separated; all for rates, snips for quality by default")
    parser.add_argument("--shares", help="of wrong labels; 0,0.05,0.1,0.2 for rates, 0,0.1 for quality by default")
    parser.add_argument("--methods", default="full,el2n,short,el2n+auto", help="of quality")
    parser.add_argument("--seeds", default="0,1,2", help="comma-separated")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--epochs", type=int, help="for a quick look only")
    parser.add_argument("--rows", type=int, help="for a quick look only")
    args = parser.parse_args()
    rates = args.kind == "rates"
    sets = args.sets.split(",") if args.sets else list(SETS) if rates else ["snips"]
    shares = args.shares or ("0,0.05,0.1,0.2" if rates else "0,0.1")
    seeds = [int(seed) for seed in args.seeds.split(",")]
    wanted = cells(args.kind, sets, [float(share) for share in shares.split(",")], seeds, args.methods.split(","))
    changes = {name: value for name, value in (("epochs", args.epochs), ("train_rows", args.rows)) if value}
    results = args.results / "noise"
    whole = each_once(
        wanted,
        results,
        lambda cell: run_cell(cell, args.data_root, results, changes),
        lambda cell: (results / f"{cell.name}.json").exists(),
    )
    sys.exit(0 if whole else 1)


if __name__ == "__main__":
    main()
