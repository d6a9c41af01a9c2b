"""Measure every figure of docs/benchmarks.md, in its order, and fill its tables.

    make bench                                                     # or
    python -m benchmarks.all --data-root DATA                      # a day on two cores; nothing else may run meanwhile
    python -m benchmarks.all --only imports,overhead               # some of them
    python -m benchmarks.all --quick --results build/bench          # tiny sizes, minutes: does everything still run?

Sets that are not in DATA are left out and named. A grid that was stopped goes on where it was; a part that fails does
not stop the others, and the exit code is then 1.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from benchmarks.auto import LARGE_ARMS, LATER, SETTINGS
from benchmarks.cells import listed
from benchmarks.corpus_selection import TARGET as SEED_TASKS
from benchmarks.grid import RESULTS, SETS, speed_cells
from benchmarks.learning_rate import SETS as RATE_SETS
from benchmarks.methods import SETS as METHOD_SETS
from benchmarks.noise import GUARDED
from benchmarks.plain_script import SETS as SCRIPT_SETS
from benchmarks.tolerance import SETS as TOLERANCE_SETS

ROOT = Path(__file__).parent.parent
SHARES = [name for name in SETS if name not in ("atis", "snips4000")]
CORPUS_PARTS = ("select", "near", "perplexity", *(("engines",) if find_spec("ray") else ()))
QUICK_GRID = ["--epochs", "3", "--rows", "192", "--seeds", "1"]  # keep 0.2 leaves one batch
QUICK = {
    "quality-atis": QUICK_GRID,
    "quality-shares": QUICK_GRID,
    "speed": QUICK_GRID,
    "overhead": ["--rows", "64", "--blocks", "2", "--steps", "2"],
    "recorder": ["--rows", "64", "--epochs", "2"],
    "scoring": ["--rows", "64", "--repeats", "1"],
    "selectors": ["--values", "100000", "--repeats", "1"],
    "plans": ["--values", "100000", "--repeats", "1"],
    "training_scale": ["--rows", "2000"],
    "corpus_scale": ["--rows", "2000", "--parts", "3"],
    "geometry": ["--sentences", "2000", "--points", "2000"],
    "gradients": ["--rows", "64", "--loop-rows", "8", "--repeats", "1", "--checkpoints", "2", "3"],
    "next_tokens": ["--layers", "2", "--hidden", "64", "--words", "500", "--tokens", "32", "--repeats", "1"],
    "token_savings": ["--repeats", "1", "--rows", "32"],
    "memory": ["--rows", "64", "--examples", "2000", "--repeats", "1"],
    "imports": ["--repeats", "2"],
    "tolerance": ["--sets", "snips", *QUICK_GRID],
    "noise-guard": ["--sets", "snips", "--rows", "224", "--seeds", "0"],
    "learning-rate": ["--sets", "snips", "--rates", "1e-3", "--rows", "64", "--epochs", "2"],
    "noise-quality": ["--shares", "0.1", "--rows", "192", "--epochs", "3", "--seeds", "0"],
    "methods": ["--sets", "snips", "--methods", "el2n", "--seeds", "1", "--rows", "128", "--epochs", "2"],
    "methods-stress": ["--sets", "snips-noise", "--methods", "el2n", "--seeds", "1", "--rows", "128", "--epochs", "2"],
    "auto": ["--settings", "snips", "--arms", "short,auto", "--keeps", "0.3", *QUICK_GRID],
    "auto-later": ["--settings", "atis", "--arms", "short,auto", "--keeps", "0.3", *QUICK_GRID],
    "auto-large": ["--settings", "snips", "--arms", "short,auto", *QUICK_GRID],
    "auto-pairs": ["--rows", "192", "--epochs", "3"],
    "comparing": ["--test-rows", "200", "--rows", "64", "--epochs", "2", "--seeds", "1"],
    "report": ["--examples", "2000", "--rounds", "3"],
    "plain-script": ["--rows", "200", "--epochs", "3", "--seeds", "1", "--keeps", "0.5"],
    "instruction-tuning": ["--arms", "short,random", "--rows", "64", "--epochs", "2", "--seeds", "1", "--keeps", "0.5"],
    "corpus-selection": [
        "--arms",
        "short,random",
        "--rows",
        "64",
        "--base-rows",
        "64",
        "--seeds",
        "1",
        "--keeps",
        "0.5",
    ],
}


@dataclass(frozen=True)
class Part:
    """One command, named as its table is."""

    name: str
    arguments: tuple[str, ...]


def found_sets(names: list[str], root: Path) -> list[str]:
    """Those that are packaged or lie in the data folder."""
    return [name for name in names if SETS[name]["data"] == "snips" or (root / SETS[name]["data"]).is_dir()]


def grid(name: str, which: str, sets: list[str], seeds: int, options: argparse.Namespace) -> list[Part]:
    """A part of a grid, or nothing where none of its sets is there."""
    there = found_sets(sets, options.data_root)
    for missing in sorted(set(sets) - set(there)):
        print(f"{name}: {missing} left out, there is no {options.data_root / SETS[missing]['data']}")
    if not there:
        return []
    command = ["-m", "benchmarks.grid", which, "--sets", ",".join(there), "--data-root", str(options.data_root)]
    return [Part(name, (*command, "--results", str(options.results), "--seeds", str(seeds)))]


def single(name: str, module: str, options: argparse.Namespace, *more: str) -> Part:
    return Part(name, ("-m", f"benchmarks.{module}", "--output", str(options.results / f"{name}.json"), *more))


def tolerance(options: argparse.Namespace) -> list[Part]:
    """The sets of the tolerance that are there."""
    there = [
        name for name, (data, _) in TOLERANCE_SETS.items() if name == "snips" or (options.data_root / data).is_dir()
    ]
    command = ("-m", "benchmarks.tolerance", "--sets", ",".join(there), "--data-root", str(options.data_root))
    return [Part("tolerance", (*command, "--results", str(options.results)))]


def rates(options: argparse.Namespace) -> list[Part]:
    """The sets of the learning rates that are there."""
    there = [name for name, (data, _) in RATE_SETS.items() if name == "snips" or (options.data_root / data).is_dir()]
    command = ("-m", "benchmarks.learning_rate", "--sets", ",".join(there), "--data-root", str(options.data_root))
    return [Part("learning-rate", (*command, "--results", str(options.results)))]


def noise(options: argparse.Namespace) -> list[Part]:
    """The sets with planted wrong labels that are there."""
    there = [name for name, (data, *_) in GUARDED.items() if data == "snips" or (options.data_root / data).is_dir()]
    place = ("--data-root", str(options.data_root), "--results", str(options.results))
    guard = Part("noise-guard", ("-m", "benchmarks.noise", "guard", "--sets", ",".join(there), *place))
    return [guard, Part("noise-quality", ("-m", "benchmarks.noise", "quality", *place))]


def methods(options: argparse.Namespace) -> list[Part]:
    """The sets of the head-to-head that are there."""
    there = [name for name, (data, *_) in METHOD_SETS.items() if data == "snips" or (options.data_root / data).is_dir()]
    work = ("--work", str(options.results / "methods-runs")) if options.quick else ()
    place = ("--data-root", str(options.data_root), "--results", str(options.results / "methods"), *work)
    stress = [name for name in there if "-" in name]
    asked = {"methods": [name for name in there if name not in stress], "methods-stress": stress}
    compared = [
        Part(name, ("-m", "benchmarks.methods", "--sets", ",".join(sets), *place)) for name, sets in asked.items()
    ]
    return [Part("methods", ("-m", "benchmarks.methods", "--timed", *place)), *compared]


def auto(options: argparse.Namespace) -> list[Part]:
    """The settings of the table of rules whose sets are there."""
    there, later = (
        [
            name
            for name, setting in settings.items()
            if setting.source == "snips" or (options.data_root / setting.source).is_dir()
        ]
        for settings in (SETTINGS, LATER)
    )
    place = ("--data-root", str(options.data_root), "--results", str(options.results))
    pairs = "2" if options.quick else "10"
    grid = Part("auto", ("-m", "benchmarks.auto", "--settings", ",".join(there), *place))
    raced = ("--large", "--keeps", "0.3", "--arms", LARGE_ARMS, "--settings", ",".join(there), *place)
    tried = ("--later", "--keeps", "0.3", "--arms", LARGE_ARMS, "--settings", ",".join(later), *place)
    return [
        grid,
        *([Part("auto-later", ("-m", "benchmarks.auto", *tried))] if later else []),
        Part("auto-large", ("-m", "benchmarks.auto", *raced)),
        Part("auto-pairs", ("-m", "benchmarks.auto", "--pairs", pairs, *place)),
    ]


def plain_script(options: argparse.Namespace) -> list[Part]:
    """The sets of the comparison with a plain script that are there."""
    there = [name for name, source in SCRIPT_SETS.items() if (options.data_root / source.folder).is_dir()]
    for missing in sorted(set(SCRIPT_SETS) - set(there)):
        print(f"plain-script: {missing} left out, there is no {options.data_root / SCRIPT_SETS[missing].folder}")
    place = ("--data-root", str(options.data_root), "--output", str(options.results / "plain_script.json"))
    return [Part("plain-script", ("-m", "benchmarks.plain_script", "--sets", ",".join(there), *place))] if there else []


def instruction_tuning(options: argparse.Namespace) -> list[Part]:
    """The sets of the head-to-head of language models that are there, each with its size in the documents."""
    place = ("--data-root", str(options.data_root), "--results", str(options.results / "instruction_tuning"))
    sizes = ("--rows", "800", "--dev-rows", "200", "--shape", "gpt2-0.2m")
    own = {"dolly15k": ("--length", "256"), "gsm8k": ("--length", "384")}
    return [
        Part("instruction-tuning", ("-m", "benchmarks.instruction_tuning", "--sets", name, *place, *sizes, *more))
        for name, more in own.items()
        if (options.data_root / name).is_dir()
    ]


def token_savings(options: argparse.Namespace) -> list[Part]:
    """What diets of rows and of tokens save, where their set is there."""
    data, output = options.data_root / "dolly15k", options.results / "token_savings.json"
    words = ("-m", "benchmarks.next_tokens", "--savings", str(data), "--repeats", "2", "--output", str(output))
    return [Part("token_savings", words)] if data.is_dir() else []


def corpus_selection(options: argparse.Namespace) -> list[Part]:
    """The sets of the head-to-head of static systems that are there, each with its size in the documents."""
    place = ("--data-root", str(options.data_root), "--results", str(options.results / "corpus_selection"))
    sizes = ("--rows", "800", "--base-rows", "800", "--shape", "llama-0.1m")
    own = {"dolly15k": (), "gsm8k": ("--length", "384")}
    return [
        Part("corpus-selection", ("-m", "benchmarks.corpus_selection", "--sets", name, *place, *sizes, *more))
        for name, more in own.items()
        if (options.data_root / name).is_dir() and (options.data_root / SEED_TASKS).is_dir()
    ]


def parts(options: argparse.Namespace) -> list[Part]:
    """Everything, in the order of the documents."""
    atis = found_sets(["atis"], options.data_root)
    data = ("--data-root", str(options.data_root)) if atis else ()
    numbers = () if options.quick else ("1000000", "100000000")
    other = [single("selectors", "selection", options, "--values", number) for number in numbers]
    speed_sets = list(dict.fromkeys(cell.set for cell in speed_cells(["atis", "snips4000"], 1)))
    return [
        *grid("quality-atis", "quality", ["atis"], 3, options),
        *grid("quality-shares", "quality", SHARES, 1, options),
        *grid("speed", "speed", speed_sets, 3, options),
        single("overhead", "overhead", options),
        single("recorder", "recorder", options),
        single("scoring", "scoring", options, *data),
        single("selectors", "selection", options),
        *other,
        single("plans", "selection", options, "--plans"),
        single("training_scale", "training_scale", options),
        *(single("corpus_scale", "corpus_scale", options, part) for part in CORPUS_PARTS),
        single("geometry", "geometry", options),
        single("gradients", "gradients", options),
        single("next_tokens", "next_tokens", options),
        *token_savings(options),
        single("memory", "memory", options),
        single("imports", "imports", options),
        *tolerance(options),
        *rates(options),
        *noise(options),
        *methods(options),
        *auto(options),
        single("comparing", "comparing", options),
        single("report", "report_scale", options),
        *plain_script(options),
        *instruction_tuning(options),
        *corpus_selection(options),
    ]


def tables(options: argparse.Namespace) -> Part:
    """Fill the documents; of results that are kept elsewhere only show the tables."""
    show = () if options.results == RESULTS else ("--print", "all")
    return Part("tables", ("-m", "benchmarks.tables", "--results", str(options.results), *show))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, default=Path("data"), help="one folder per set (default: data)")
    parser.add_argument("--only", type=listed(*QUICK), default=[*QUICK], help=f"comma-separated: {', '.join(QUICK)}")
    parser.add_argument("--quick", action="store_true", help="tiny sizes; needs --results")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--list", action="store_true", help="show the commands and run nothing")
    options = parser.parse_args(arguments)
    if options.quick and options.results == RESULTS:
        parser.error("--quick needs --results FOLDER: tiny figures do not belong beside the real ones.")
    options.data_root, options.results = options.data_root.resolve(), options.results.resolve()
    failed = []
    for part in [*(part for part in parts(options) if part.name in options.only), tables(options)]:
        quick = QUICK.get(part.name, []) if options.quick else []
        print(f"== {part.name}: python {' '.join((*part.arguments, *quick))}", flush=True)
        if not options.list and subprocess.run([sys.executable, *part.arguments, *quick], cwd=ROOT).returncode:
            failed.append(part.name)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
