"""The dynamic methods side by side on text: one comparison per set, through `datadiet compare`.

    python -m benchmarks.methods --timed                                   # SNIPS, its last seed, one run at a time
    python -m benchmarks.methods --data-root DATA --jobs 2                 # all that is left, and every set
    python -m benchmarks.methods --sets snips --methods el2n --rows 128 --epochs 2 --seeds 1 --results build/look

2,000 training rows, 5 epochs, one on everything first, then 30 % of the rows, chosen anew before every epoch. `full`,
`random` and `short` are run beside the methods; what a method needs from another run (`vog`, `distilled`) is charged
to it. The learning rate of each set is the one with which full data and `short`, together, did best on its dev split.
The stress variants change the training rows of SNIPS alone: 10 % of the intents replaced by another one; one intent cut
to a twentieth; rows drawn again and again, as traffic repeats itself (Zipf over utterances and intents).

Runs lie in WORK and go on where they stopped; results keep what `comparison.json` says, by set, and the recall of the
worst class of every run. Times are those of `--timed`, which comes first: nothing else may run meanwhile.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from benchmarks.cells import keep, listed
from benchmarks.grid import COMMON, RESULTS
from datadiet.store.run_folder import PREDICTIONS

METHODS = (
    "el2n",
    "static_random",
    "longest",
    "el2n_guarded",
    "uncertain",
    "ucb",
    "epsilon",
    "infobatch",
    "seta",
    "ccs",
    "vog",
    "scdp",
    "prototypes",
    "distilled",
)
TELLING = ("el2n", "el2n_guarded", "uncertain", "infobatch", "distilled")
ROWS, EPOCHS, KEEP = 2000, 5, 0.3
LEARNING_RATE = {"snips": 5e-4, "snli": 2e-4}
TIMED = "-timed"  # ends the name of results whose runs had the machine to themselves
# folder, task, seeds, methods; a stress variant has the name of SNIPS and of what is done to it
SETS: dict[str, tuple[str, str, int, tuple[str, ...]]] = {
    "snips": ("snips", "intent-slot", 3, METHODS),
    "snli": ("snli_9k", "classification", 2, METHODS),
    "snips-noise": ("snips", "intent-slot", 3, TELLING),
    "snips-rare": ("snips", "intent-slot", 3, TELLING),
    "snips-zipf": ("snips", "intent-slot", 3, TELLING),
}
FLIPPED, RARE = 0.1, 20  # share of the intents, and what one class is divided by
_SEED = 31


def flipped(labels: list[str], generator: np.random.Generator) -> tuple[list[int], list[str]]:
    """Rows and labels with every tenth label replaced by another one."""
    classes, found = sorted(set(labels)), list(labels)
    for row in generator.choice(len(labels), round(FLIPPED * len(labels)), replace=False).tolist():
        others = [name for name in classes if name != labels[row]]
        found[row] = others[int(generator.integers(len(others)))]
    return list(range(len(labels))), found


def one_rare(labels: list[str], generator: np.random.Generator) -> tuple[list[int], list[str]]:
    """Rows and labels with the first class cut to a twentieth."""
    rare = sorted(set(labels))[0]
    rows = [row for row, label in enumerate(labels) if label == rare]
    left = set(generator.choice(rows, max(1, len(rows) // RARE), replace=False).tolist())
    kept = [row for row, label in enumerate(labels) if label != rare or row in left]
    return kept, [labels[row] for row in kept]


def repeated(
    labels: list[str], generator: np.random.Generator, *, count: int | None = None, power: float = 1.0
) -> tuple[list[int], list[str]]:
    """As many rows, or `count`, drawn with replacement: Zipf over the intents, and within an intent over its utterances
    (to a power)."""
    classes = sorted(set(labels))
    share = 1 / np.arange(1, len(classes) + 1)
    rows: list[int] = []
    counts = generator.multinomial(len(labels) if count is None else count, share / share.sum()).tolist()
    for name, number in zip(classes, counts, strict=True):
        own = generator.permutation([row for row, label in enumerate(labels) if label == name])
        weights = 1 / np.arange(1, len(own) + 1) ** power
        rows += generator.choice(own, number, p=weights / weights.sum()).tolist()
    return rows, [labels[row] for row in rows]


CHANGES: dict[str, Callable[[list[str], np.random.Generator], tuple[list[int], list[str]]]] = {
    "noise": flipped,
    "rare": one_rare,
    "zipf": repeated,
}


def changed(change: str, rows: int, folder: Path) -> Path:
    """A copy of SNIPS whose training rows are changed; dev and test stay as they are."""
    from datadiet.data.load import load_data

    if (folder / "test.jsonl").is_file():
        return folder
    data = load_data("snips", "intent-slot", train_rows=rows)
    folder.mkdir(parents=True, exist_ok=True)
    for split, examples in data.splits.items():  # train first, test last: what is there at the end is whole
        labels = [str(label) for label in examples.labels or ()]
        chosen: tuple[list[int], list[str]] = (list(range(len(labels))), labels)
        if split == "train":
            chosen = CHANGES[change](labels, np.random.default_rng(_SEED))
        lines = [
            json.dumps(
                {
                    "id": f"{split}-{place}",
                    "tokens": list((examples.tokens or ())[row]),
                    "slots": list((examples.slots or ())[row]),
                    "intent": label,
                }
            )
            for place, (row, label) in enumerate(zip(*chosen, strict=True))
        ]
        (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def settings(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """What `datadiet compare` is told."""
    source, task, seeds, methods = SETS[name]
    base, _, change = name.partition("-")
    rows = options.rows or ROWS
    data = source if source == "snips" else str((options.data_root / source).resolve())
    if change:
        data = str(changed(change, rows, options.work / "data" / f"{name}-{rows}").resolve())
    common = {**COMMON, "epochs": options.epochs or EPOCHS, "refresh_every": 1, "learning_rate": LEARNING_RATE[base]}
    return {
        **common,
        "data": data,
        "task": task,
        **({} if change else {"train_rows": rows}),
        "methods": options.methods.split(",") if options.methods else list(methods),
        "keep": [KEEP],
        "seeds": [(options.seeds or seeds) - 1] if options.timed else options.seeds or seeds,
    }


def compared(name: str, options: argparse.Namespace) -> None:
    """Run one comparison, or go on with it, and keep what it says."""
    kept, folder = name + TIMED if options.timed else name, options.work / name
    folder.mkdir(parents=True, exist_ok=True)
    config = options.work / f"{kept}.yaml"
    config.write_text(yaml.safe_dump(settings(name, options)), encoding="utf-8")
    command = [sys.executable, "-m", "datadiet", "compare", "--config", str(config), "--output", str(folder)]
    done = subprocess.run([*command, "--jobs", str(options.jobs)], check=False)
    if done.returncode not in (0, 1):  # 1: some runs have failed, and it says which
        raise SystemExit(done.returncode)
    found = json.loads((folder / "comparison.json").read_text(encoding="utf-8"))
    for run in found["runs"]:
        if run["status"] == "done":
            run["worst_class"] = worst_class(folder / "runs" / run["name"], found["split"])
    options.results.mkdir(parents=True, exist_ok=True)
    keep(options.results, kept, found)


def worst_class(run: Path, split: str) -> float:
    """The recall of the class that a run knows worst (the intent's, of joint sets), in points."""
    rows = pd.read_parquet(run / PREDICTIONS, columns=["split", "gold", "predicted"])
    rows = rows[rows["split"] == split]
    return round(100 * float((rows["gold"] == rows["predicted"]).groupby(rows["gold"]).mean().min()), 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, default=Path("data"))
    parser.add_argument("--sets", type=listed(*SETS), help="comma-separated; all by default, SNIPS with --timed")
    parser.add_argument("--jobs", type=int, default=1, help="runs at a time; their times are then not compared")
    parser.add_argument("--timed", action="store_true", help="the last seed, one run at a time, for the times")
    parser.add_argument("--methods", help="comma-separated; those of the set by default")
    parser.add_argument("--seeds", type=int, help="runs of each method; the set's own number by default")
    parser.add_argument("--results", type=Path, default=RESULTS / "methods")
    parser.add_argument("--work", type=Path, default=Path("build/methods"), help="the runs")
    parser.add_argument("--epochs", type=int, help="for a quick look only")
    parser.add_argument("--rows", type=int, help="for a quick look only")
    options = parser.parse_args()
    if options.timed:
        options.jobs = 1
    for name in options.sets or (["snips"] if options.timed else SETS):
        compared(name, options)


if __name__ == "__main__":
    main()
