"""Which rule when: `auto` beside what users have for free, on eight settings made from free sets.

    python -m benchmarks.auto --data-root DATA                          # the grid; a cell that has a result is skipped
    python -m benchmarks.auto --data-root DATA --keeps 0.3 --arms short,auto --seeds 3
    python -m benchmarks.auto --data-root DATA --large --keeps 0.3  # 6,000 rows, enough for races: results/auto_large
    python -m benchmarks.auto --data-root DATA --later --keeps 0.3 --arms short,auto  # twelve more settings
    python -m benchmarks.auto --pairs 10                                # auto that chose cover throughout, beside short
    python -m benchmarks.auto --data-root DATA --rows 96 --epochs 3 --results build/look            # a look

DATA holds one folder per set (train/dev/test.jsonl.gz): banking77 (CC BY 4.0), clinc150 (CC BY 3.0), snli_9k, cola,
sst2_sentences, wikigold (CC BY 4.0; its train split is cut in three); SNIPS is packaged. `banking77-flipped` has 10 %
of the training labels replaced by another one; `clinc150-zipf` is drawn with replacement, class weight 1 / rank and
utterance weight rank^-0.7, and is tested on balanced rows. The rows are the same for every seed and every rule.
Twelve settings came later, to try the first rule of `auto` on: `atis` (joint), `clinc150` (150 even classes),
`stsb-grades` (stsb, similarity rounded to six classes), `dolly-kinds` (dolly15k, the kind of a request, out of eight),
`sst2-noisy` (20 % of the training labels replaced), `snips-tags` and `atis-tags` (their slots alone),
`snips-tags-10`, `snips-tags-20` and `wikigold-noisy` (10 %, 20 % and 10 % of the entities of another kind), and two
that are ambiguous in dev and test too, `snips-tags-blurred` (a fifth of the slots end a word early or late) and
`banking77-shortened` (three in ten requests are cut to three words).

One epoch on everything, then four cycles of a share `keep`, chosen anew before each. `short` is everything for as many
optimizer steps as `auto` takes, with what its races cost at most. The learning rate is 5e-4, that of `--learning-rate
auto`, and 2e-4 for whole sentences of few classes, as in `benchmarks.methods`; 1e-3 was tried on CLINC150 and was too
high.
All runs of a cell's set are made in one process, two processes may share a grid; times are not compared here.
"""

from __future__ import annotations

import argparse
import gzip
import json
import sys
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import resources
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from benchmarks.cells import each_once, keep, listed, numbers
from benchmarks.grid import COMMON, RESULTS

ROWS, DEV_ROWS, TEST_ROWS, EPOCHS = 2000, 500, 1000, 5
PAIR_ROWS = 600
LARGE_ROWS, LARGE_ARMS = 6000, "short,auto"
FOLDERS = ("auto", "auto_large")  # of results: ROWS rows, which are too few for races, and LARGE_ROWS
BATCH = 16  # small sets take more steps so, and a race has more of them
FLIPPED = 0.1
Lines = list[dict[str, Any]]
Make = Callable[[Lines, np.random.Generator, int], Lines]


def drawn(lines: Lines, generator: np.random.Generator, count: int) -> Lines:
    """So many of the lines, at random."""
    return [lines[row] for row in generator.permutation(len(lines))[:count]]


def flipped(lines: Lines, generator: np.random.Generator, count: int, share: float = FLIPPED) -> Lines:
    """As `drawn`, with a share of the labels replaced by another one."""
    chosen = [dict(line) for line in drawn(lines, generator, count)]
    classes = sorted({line["label"] for line in chosen})
    for row in generator.permutation(len(chosen))[: round(share * len(chosen))]:
        others = [name for name in classes if name != chosen[row]["label"]]
        chosen[row]["label"] = others[generator.integers(len(others))]
    return chosen


def renamed(lines: Lines, generator: np.random.Generator, count: int, share: float = FLIPPED) -> Lines:
    """As `drawn`, with a share of the entities of another kind."""
    chosen = drawn(lines, generator, count)
    kinds = sorted({tag.partition("-")[2] for line in chosen for tag in line["tags"]} - {""})
    for place, line in enumerate(chosen):
        tags, before, other = list(line["tags"]), "", ""
        for word, tag in enumerate(line["tags"]):
            begins, _, kind = tag.partition("-")
            if kind and (begins == "B" or kind != before):
                others = [name for name in kinds if name != kind]
                other = others[generator.integers(len(others))] if generator.random() < share else ""
            if kind and other:
                tags[word] = f"{begins}-{other}"
            before = kind
        chosen[place] = {**line, "tags": tags}
    return chosen


def traffic(lines: Lines, generator: np.random.Generator, count: int) -> Lines:
    """As many lines, drawn with replacement as requests repeat themselves; at least one of every class."""
    classes = sorted({line["label"] for line in lines})
    generator.shuffle(classes)
    weights = 1 / np.arange(1, len(classes) + 1)
    counts = generator.multinomial(max(count - len(classes), 0), weights / weights.sum()) + 1
    chosen: Lines = []
    for name, places in zip(classes, counts.tolist(), strict=True):
        own = [line for line in lines if line["label"] == name]
        generator.shuffle(own)
        share = np.arange(1, len(own) + 1) ** -0.7
        chosen += [own[row] for row in generator.choice(len(own), places, p=share / share.sum())]
    generator.shuffle(chosen)
    return chosen


def graded(line: dict[str, Any]) -> dict[str, Any]:
    """A number as a class."""
    return {**line, "label": str(round(line["label"]))}


def asked(line: dict[str, Any]) -> dict[str, Any]:
    """A request with its kind."""
    return {"text": line["prompt"], "label": line["label"]}


def intended(line: dict[str, Any]) -> dict[str, Any]:
    """A request with its intent alone."""
    return {"text": " ".join(line["tokens"]), "label": line["intent"]}


def tagged(line: dict[str, Any]) -> dict[str, Any]:
    """A request with its slots alone."""
    return {"tokens": line["tokens"], "tags": line["slots"]}


def blurred(line: dict[str, Any], share: float = 0.3) -> dict[str, Any]:
    """A request with its slots, which end a word too early or too late; the same whenever it is called.

    Args:
        line: Of SNIPS.
        share: Of the ends that can be moved.
    """
    tokens, tags = line["tokens"], list(line["slots"])
    generator = np.random.default_rng(zlib.crc32(" ".join(tokens).encode()))
    for place, (tag, after) in enumerate(zip(line["slots"], [*line["slots"][1:], ""], strict=True)):
        if tag != "O" and not after.startswith("I-") and generator.random() < share:
            early = tag.startswith("I-")  # of more than one word
            if early or after == "O":
                tags[place if early else place + 1] = "O" if early else f"I-{tag[2:]}"
    return {"tokens": tokens, "tags": tags}


def shortened(line: dict[str, Any], share: float = 0.3) -> dict[str, Any]:
    """A request, of which a share says its first three words only; the same whenever it is called."""
    short = np.random.default_rng(zlib.crc32(line["text"].encode())).random() < share
    return {**line, "text": " ".join(line["text"].split()[:3])} if short else line


@dataclass(frozen=True)
class Setting:
    """One row of the table.

    Attributes:
        source: Folder of the set.
        task: Of `datadiet finetune`.
        learning_rate: Peak.
        make: Makes the training rows.
        line: Makes a row of a line of the set.
        cut: Rows of dev and test that are cut from the training split.
    """

    source: str
    task: str = "classification"
    learning_rate: float = 2e-4
    make: Make = drawn
    line: Callable[[dict[str, Any]], dict[str, Any]] = dict
    cut: tuple[int, int] | None = None


SETTINGS: dict[str, Setting] = {
    "snips": Setting("snips", "intent-slot", 5e-4),
    "snli": Setting("snli_9k"),
    "sst2": Setting("sst2_sentences"),
    "cola": Setting("cola"),
    "wikigold": Setting("wikigold", "token-classification", 5e-4, cut=(250, 400)),
    "banking77": Setting("banking77", learning_rate=5e-4),
    "banking77-flipped": Setting("banking77", learning_rate=5e-4, make=flipped),
    "clinc150-zipf": Setting("clinc150", learning_rate=5e-4, make=traffic),
}


def _renamed_slots(share: float) -> Setting:
    return Setting("snips", "token-classification", 5e-4, line=tagged, make=partial(renamed, share=share))


LATER: dict[str, Setting] = {
    "atis": Setting("atis", "intent-slot", 5e-4),
    "clinc150": Setting("clinc150", learning_rate=5e-4),
    "stsb-grades": Setting("stsb", line=graded),
    "dolly-kinds": Setting("dolly15k", line=asked, cut=(DEV_ROWS, TEST_ROWS)),
    "sst2-noisy": Setting("sst2_sentences", make=partial(flipped, share=0.2)),
    "snips-tags": Setting("snips", "token-classification", 5e-4, line=tagged),
    "atis-tags": Setting("atis", "token-classification", 5e-4, line=tagged),
    **{f"snips-tags-{percent}": _renamed_slots(percent / 100) for percent in (10, 20)},
    "snips-tags-blurred": Setting("snips", "token-classification", 5e-4, line=blurred),
    "banking77-shortened": Setting("banking77", learning_rate=5e-4, line=shortened),
    "wikigold-noisy": Setting("wikigold", "token-classification", 5e-4, make=renamed, cut=(250, 400)),
}
PAIRED = "snips-intents"  # of which `auto` has few classes and too few rows for a race
ALL_SETTINGS: dict[str, Setting] = {**SETTINGS, **LATER, PAIRED: Setting("snips", learning_rate=5e-4, line=intended)}
ARMS: dict[str, dict[str, Any]] = {
    "short": {"keep": 1.0},
    "auto": {"select": "auto"},
    "cover": {"select": "cover"},
    "hardest": {"select": "hardest", "offset": 0.0},
    "guarded": {"select": "hardest"},
    "visits": {"select": "visits"},
    "uncertain": {"select": "uncertain"},
    "random": {"select": "random"},
    "full": {"keep": 1.0},
}
KEEPS = (0.5, 0.3, 0.1)
_SEED = 47


@dataclass(frozen=True)
class Cell:
    """One run."""

    setting: str
    arm: str
    keep: float
    seed: int

    @property
    def name(self) -> str:
        return f"{self.setting}-{self.arm}-{self.keep:g}-seed{self.seed}"


def prepare(name: str, root: Path, folder: Path, rows: int) -> Path:
    """Write the splits of a setting, the same whenever it is called."""
    setting, generator = ALL_SETTINGS[name], np.random.default_rng(_SEED)
    packaged = Path(str(resources.files("datadiet") / "packaged" / "snips"))
    source = packaged if setting.source == "snips" else root / setting.source
    splits = {split: _lines(source / f"{split}.jsonl.gz") for split in ("train", "dev", "test")}
    splits = {
        split: [setting.line(line) for line in lines if line.get("label") != "oos"] for split, lines in splits.items()
    }
    if setting.cut:
        train, (dev, test) = drawn(splits["train"], generator, len(splits["train"])), setting.cut
        splits = {"train": train[dev + test :], "dev": train[:dev], "test": train[dev : dev + test]}
    elif not splits["test"]:  # cola has no labels on its test split
        train = drawn(splits["train"], generator, len(splits["train"]))
        splits = {"train": train[DEV_ROWS:], "dev": train[:DEV_ROWS], "test": splits["dev"]}
    made = {
        "train": setting.make(splits["train"], generator, rows),
        "dev": drawn(splits["dev"], generator, DEV_ROWS),
        "test": drawn(splits["test"], generator, TEST_ROWS),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for split, lines in made.items():
        named = ({**line, "id": f"{split}-{place}"} for place, line in enumerate(lines))
        (folder / f"{split}.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in named), encoding="utf-8")
    return folder


def _lines(path: Path) -> Lines:
    if not path.exists():
        return []
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        return [{key: value for key, value in json.loads(line).items() if key != "src"} for line in lines]


def short_steps(setting: str, keep: float, folder: Path, rows: int, epochs: int) -> int:
    """The optimizer steps of `auto`, with what its races cost at most."""
    from datadiet.diet.diet import Diet

    lines = (folder / "train.jsonl").read_text(encoding="utf-8").count("\n")
    dev = (folder / "dev.jsonl").read_text(encoding="utf-8").count("\n")
    planned = Diet(keep=keep).forecast(lines, epochs=epochs, batch=BATCH, dev_rows=dev)
    return min(planned.steps + planned.race_steps, planned.full_steps)


def run_cell(cell: Cell, data: Path, results: Path, precision: str, rows: int, epochs: int) -> str:
    """Run one cell in this process and keep its result; its run folder is thrown away."""
    from datadiet.config import config_from
    from datadiet.jobs.finetune import finetune
    from datadiet.store.run_folder import main_metric

    setting = ALL_SETTINGS[cell.setting]
    common = {name: value for name, value in COMMON.items() if name != "refresh_every"}
    chosen = {"keep": cell.keep, "refresh_every": 1, **ARMS[cell.arm]}
    if cell.arm == "full":
        chosen.pop("refresh_every")
    if cell.arm == "short":
        chosen = {"keep": 1.0, "max_steps": short_steps(cell.setting, cell.keep, data, rows, epochs)}
    settings = {
        **common, "batch_size": BATCH, "task": setting.task, "learning_rate": setting.learning_rate, "epochs": epochs,
        "seed": cell.seed, "precision": precision, **chosen,
    }  # fmt: skip
    with TemporaryDirectory(prefix="datadiet-bench-") as work:
        result = finetune(config_from({**settings, "data": str(data), "output": str(Path(work) / "run")}))
    metric = main_metric(result["task"])
    keep(results, cell.name, {"cell": cell.__dict__, "settings": settings, "metric": metric, **result})
    races = [f"{race['challenger']} {race['difference']:+.3f}" for race in (result["race"] or {}).get("races", [])]
    rule = f"  {result['race']['rule']} ({', '.join(races)})" if result["race"] else ""
    return f"{metric} {100 * result['metrics']['test'][metric]:.2f}{rule}"


def run_grid(cells: Sequence[Cell], args: argparse.Namespace, results: Path) -> bool:
    """Run the cells, setting by setting within a seed."""
    with TemporaryDirectory(prefix="datadiet-auto-") as folder:

        def run(cell: Cell) -> str:
            data = Path(folder) / cell.setting
            if not (data / "test.jsonl").exists():
                prepare(cell.setting, args.data_root, data, args.rows)
            return run_cell(cell, data, results, args.precision, args.rows, args.epochs)

        return each_once(cells, results, run)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, default=Path("data"))
    parser.add_argument("--settings", type=listed(*ALL_SETTINGS), help="separated by commas (default: all)")
    parser.add_argument("--later", action="store_true", help="the twelve settings that came later")
    parser.add_argument("--arms", type=listed(*ARMS), default=[*ARMS])
    parser.add_argument("--keeps", type=numbers(float), default=[*KEEPS])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--large", action="store_true", help=f"{LARGE_ROWS:,} training rows, enough for races")
    parser.add_argument("--rows", type=int, help=f"of training (default: {ROWS:,})")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument(
        "--pairs", type=int, default=0, help="seeds of SNIPS, 600 rows, too few for a race: cover alone"
    )
    parser.add_argument("--precision", default="auto", choices=("auto", "bf16", "fp32"))
    args = parser.parse_args()
    args.settings = args.settings or [*(LATER if args.later else SETTINGS)]
    args.rows = args.rows or (LARGE_ROWS if args.large else ROWS)
    if args.pairs:
        args.rows = min(args.rows, PAIR_ROWS)
        cells = [Cell(PAIRED, arm, 0.3, seed) for seed in range(args.pairs) for arm in ("short", "auto")]
        sys.exit(0 if run_grid(cells, args, args.results / "auto_pairs") else 1)
    cells = [
        Cell(setting, arm, share, seed)
        for seed in range(args.first_seed, args.seeds)
        for share in args.keeps
        for setting in args.settings
        for arm in args.arms
        if arm != "full" or share == args.keeps[0]
    ]
    sys.exit(0 if run_grid(cells, args, args.results / FOLDERS[args.large]) else 1)


if __name__ == "__main__":
    main()
