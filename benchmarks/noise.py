"""How well the noise guard recovers a planted share of wrong labels, and what it is worth.

    python -m benchmarks.noise guard --data-root DATA      # what it says and sets aside, by set, learning rate and rows
    python -m benchmarks.noise quality --data-root DATA    # full, short, el2n and el2n with the guard, SNIPS
    python -m benchmarks.noise quality --rows 256 --epochs 3 --seeds 0 --shares 0.1 --results build/look  # a look

DATA holds one folder per set (train/dev/test.jsonl.gz), see `benchmarks.grid`; SNIPS is packaged. Labels of training
rows are replaced by another one of the set's labels, uniformly (for joint sets the intent is the label); dev and test
stay as they are. The rows and the flips change with the seed. Each cell is a run of its own, kept as data; one that has
a result is skipped.

`guard` trains each cell until the reviews that it wants, with nothing set aside, and keeps what the guard would have
seen in `--recorded`; then it judges that, so that a change of the guard needs no training (`--again`). What it sets
aside at the first review is the same as in a run; on clean data all reviews are, as long as nothing is set aside.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from unittest import mock

import numpy as np
from numpy.typing import NDArray

from benchmarks.cells import RUN, each_once, finetuned, keep, listed, numbers
from benchmarks.grid import COMMON, RESULTS
from datadiet.config import FinetuneConfig
from datadiet.data.load import load_data
from datadiet.jobs.finetune import finetune
from datadiet.noise import guard, monitor
from datadiet.training.machine import best_device, environment

SETS = {  # folder, task, training rows taken
    "snips": ("snips", "intent-slot", 2000),
}
GUARDED = {  # folder, task, training rows with wrong labels among them
    "sst2": ("sst2_sentences", "classification", 1500),
    "snips": ("snips", "intent-slot", 1500),
    "banking77": ("banking77", "classification", 2500),
    "clinc150": ("clinc150", "classification", 2500),
    "snips-tags": ("snips", "intent-slot", 1500),
    "wikigold-tags": ("wikigold", "token-classification", 1400),
}
RATES, CLEAN_RATES, CLEAN_ROWS = (1e-4, 3e-4, 5e-4), (2e-5, 5e-5, 2e-4, 5e-4), (200, 600, 2000)
DEV_ROWS, OUT_OF_SCOPE = 200, "oos"
METHODS: dict[str, dict[str, Any]] = {
    "full": {"keep": 1.0},
    "short": {"keep": 1.0},
    "el2n": {"keep": 0.3, "offset": 0.0},
    "el2n+auto": {"keep": 0.3, "offset": "auto"},
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


def cells(sets: list[str], shares: list[float], seeds: list[int], methods: list[str]) -> list[Cell]:
    """Seed by seed, the diet before the `short` that takes its steps."""
    return [
        Cell(name, share, method, seed) for seed in seeds for name in sets for share in shares for method in methods
    ]


def planted(cell: Cell, root: Path, rows: int | None, folder: Path) -> set[str]:
    """Write a copy of a set with wrong labels; the ids of the rows that have one."""
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


# ---- what the guard says


@dataclass(frozen=True)
class Guarded:
    """One training with a guard that looks and sets nothing aside.

    Attributes:
        set, rows, learning_rate, share, seed: What is trained on; `share` of the labels is wrong.
        epochs, warmup: Planned; those after the warm-up train on `keep`.
        reviews: The training stops after so many.
    """

    set: str
    rows: int
    learning_rate: float
    share: float
    seed: int
    epochs: int = 3
    warmup: int = 1
    keep: float = 0.3
    reviews: int = 1

    @property
    def name(self) -> str:
        plan = f"e{self.epochs}-w{self.warmup}-k{self.keep:g}"
        return f"guard-{self.set}-{self.rows}-{self.learning_rate:g}-{self.share:g}-{plan}-seed{self.seed}"


def guarded_cells(sets: list[str], seeds: list[int], rows: int | None) -> list[Guarded]:
    """Planted and clean; every seed of the first, then the short ones, so that a broken-off grid is whole in parts."""
    found = []
    for seed in seeds:
        for name in sets:
            tags = name.endswith("tags")
            count = rows or GUARDED[name][2]
            found += [Guarded(name, count, rate, 0.1, seed) for rate in (RATES[1:] if tags else RATES)]
            for least in CLEAN_ROWS if rows is None else (rows,):
                rates = RATES[1:] if tags else CLEAN_RATES
                found += [Guarded(name, least, rate, 0.0, seed, keep=0.5, reviews=2) for rate in rates]
        if "banking77" in sets and rows is None:
            found.append(Guarded("banking77", 9000, 3e-4, 0.1, seed))
    return found


class Enough(Exception):
    """All reviews of a cell are recorded."""


def recorded(cell: Guarded, root: Path) -> dict[str, Any]:
    """Train, and keep what each review would have judged: arrays by name, `dev` and `flipped`."""
    found: dict[str, Any] = {}
    reviews: list[int] = []

    class Recorder(guard.NoiseGuard):
        """Keeps what it is given, and sets nothing aside."""

        def review(
            self,
            columns: Mapping[str, guard.Floats],
            seen: guard.Mask,
            groups: NDArray[np.int64] | None,
            *,
            epoch: int,
            classes: int | None = None,
            dev_skill: float | None = None,
        ) -> tuple[guard.NoiseGuard, guard.Mask]:
            found.update({f"{epoch}.{name}": np.array(values) for name, values in {**columns, "seen": seen}.items()})
            found[f"{epoch}.dev"] = np.nan if dev_skill is None else dev_skill
            found["classes"] = classes
            if groups is not None:
                found["groups"] = groups
            reviews.append(epoch)
            if len(reviews) == cell.reviews:
                raise Enough
            return self, np.zeros(len(seen), bool)

    with TemporaryDirectory(prefix="datadiet-bench-") as work:
        found["flipped"] = _written(cell, root, Path(work) / "data")
        task = "token-classification" if cell.set.endswith("tags") else "classification"
        options: dict[str, Any] = {"epochs": cell.epochs, "warmup_epochs": cell.warmup, "keep": cell.keep}
        options["learning_rate"] = cell.learning_rate
        with mock.patch.object(monitor, "NoiseGuard", Recorder), suppress(Enough):
            finetune(
                FinetuneConfig(
                    **{**COMMON, "precision": "fp32", "refresh_every": 1, **options},
                    seed=cell.seed,
                    offset="auto",
                    data=str(Path(work) / "data"),
                    task=task,
                    output=str(Path(work) / RUN),
                )
            )
    return {**found, "epochs": np.array(reviews), "cell": json.dumps(asdict(cell))}


def _written(cell: Guarded, root: Path, folder: Path) -> NDArray[np.bool_]:
    """Write the rows of a cell; which of them have a wrong label, or a wrong tag."""
    source, task, _ = GUARDED[cell.set]
    data = load_data(source if source == "snips" else str(root / source), task)
    folder.mkdir()
    tags = cell.set.endswith("tags")
    train, dev = data.splits["train"], data.splits.get("dev", data.splits["train"])
    places = [row for row in range(len(train)) if tags or str(train.labels[row]) != OUT_OF_SCOPE]
    chosen = np.random.default_rng([cell.seed, _ROWS]).permutation(len(places))
    rest = np.arange(len(dev)) if dev is not train else chosen[-DEV_ROWS:]
    held = [row for row in np.random.default_rng(1).permutation(rest) if tags or str(dev.labels[row]) != OUT_OF_SCOPE]
    parts = {"train": [places[row] for row in np.sort(chosen[: cell.rows])], "dev": held[:DEV_ROWS]}
    flipped = np.zeros(len(parts["train"]), bool)
    for split, rows in parts.items():
        examples = dev if split == "dev" else train
        if tags:
            lines = [
                {"id": str(row), "tokens": examples.tokens[row], "tags": list(examples.slots[row])} for row in rows
            ]
        else:
            lines = [{"id": str(row), "text": examples.texts[row], "label": str(examples.labels[row])} for row in rows]
        if split == "train":
            rng = np.random.default_rng([cell.seed, round(1000 * cell.share), _FLIPS])
            flipped[rng.permutation(len(lines))[: round(cell.share * len(lines))]] = True
            names = sorted({tag for line in lines for tag in line["tags"]} if tags else set(map(str, data.label_names)))
            for row in np.flatnonzero(flipped):
                _replace(lines[row], tags, names, rng)
        (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n", encoding="utf-8")
    return flipped


def _replace(line: dict[str, Any], tags: bool, names: list[str], rng: np.random.Generator) -> None:
    """Give a row another label, or one word of it another tag: one that had a tag, where there is such a word."""
    owner, key = line, "label"
    if tags:
        named = [place for place, tag in enumerate(line["tags"]) if tag != "O"] or range(len(line["tags"]))
        owner, key = line["tags"], named[rng.integers(len(named))]
    others = [name for name in names if name not in (owner[key], OUT_OF_SCOPE)]
    owner[key] = others[rng.integers(len(others))]


def judged(cell: Guarded, found: dict[str, Any]) -> dict[str, Any]:
    """What the guard says at each review, as it does where nobody asked for it, and whom it sets aside."""
    policy, aside, flipped = guard.NoiseGuard(asked=False), np.zeros(0, bool), found["flipped"]
    reviews = []
    for epoch in found["epochs"].tolist():
        names = [name for name in ("loss", "margin", guard.RANK, guard.MOMENT) if f"{epoch}.{name}" in found]
        dev = float(found[f"{epoch}.dev"])
        policy, aside = policy.review(
            {name: found[f"{epoch}.{name}"] for name in names}, found[f"{epoch}.seen"], found.get("groups"),
            epoch=epoch, classes=int(found["classes"]), dev_skill=None if np.isnan(dev) else dev,
        )  # fmt: skip
        hits = int((aside & flipped).sum())
        reviews.append({**policy.reviews[-1].plain(), "dev_skill": None if np.isnan(dev) else dev, "hits": hits})
    planted = int(flipped.sum())
    return {"cell": asdict(cell), "classes": int(found["classes"]), "planted": planted, "reviews": reviews}


def _cell_of(file: Path) -> Guarded:
    with np.load(file) as stored:
        return Guarded(**json.loads(str(stored["cell"])))


def run_guarded(cell: Guarded, root: Path, results: Path, place: Path) -> str:
    """Record one cell where that is not done, judge it and keep the result."""
    place.mkdir(parents=True, exist_ok=True)
    file = place / f"{cell.name}.npz"
    if not file.exists():
        np.savez_compressed(file, **recorded(cell, root))
    with np.load(file) as stored:
        found = judged(cell, {name: stored[name] for name in stored.files})
    keep(results, cell.name, {**found, "environment": environment(best_device(), "fp32")}, indent=1)
    last = found["reviews"][-1]
    return f"{last['rate']:.3f} [{last['low']:.3f}, {last['high']:.3f}]  aside {last['aside']}  {last['note']}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=("guard", "quality"))
    parser.add_argument("--data-root", type=Path, default=Path("data"))
    parser.add_argument(
        "--sets", type=listed(*GUARDED), help="comma-separated; all for guard, snips for quality by default"
    )
    parser.add_argument("--shares", type=numbers(float), default="0,0.1", help="of wrong labels, of quality")
    parser.add_argument("--methods", type=listed(*METHODS), default="full,el2n,short,el2n+auto", help="of quality")
    parser.add_argument("--seeds", type=numbers(int), default="0,1,2", help="comma-separated")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--recorded", type=Path, default=Path("build/noise"), help="of guard: what the reviews judge")
    parser.add_argument(
        "--again", action="store_true", help="of guard: judge again what is recorded, and train nothing"
    )
    parser.add_argument("--epochs", type=int, help="for a quick look only")
    parser.add_argument("--rows", type=int, help="for a quick look only")
    args = parser.parse_args()
    guarded = args.kind == "guard"
    sets = args.sets or (list(GUARDED) if guarded else ["snips"])
    changes = {name: value for name, value in (("epochs", args.epochs), ("train_rows", args.rows)) if value}
    results = args.results / "noise"
    if guarded:
        wanted = guarded_cells(sets, args.seeds, args.rows)
        if args.again:
            wanted = [_cell_of(file) for file in sorted(args.recorded.glob("guard-*.npz"))]
        whole = each_once(
            wanted,
            results,
            lambda cell: run_guarded(cell, args.data_root, results, args.recorded),
            lambda cell: not args.again and (results / f"{cell.name}.json").exists(),
        )
        sys.exit(0 if whole else 1)
    whole = each_once(
        cells(sets, args.shares, args.seeds, args.methods),
        results,
        lambda cell: run_cell(cell, args.data_root, results, changes),
    )
    sys.exit(0 if whole else 1)


if __name__ == "__main__":
    main()
