"""Seconds and memory of what a diet adds to training, over the number of training rows.

    python -m benchmarks.training_scale                          # 100,000 to 10 million rows, about 2 minutes
    python -m benchmarks.training_scale --rows 100000000         # 100 million: about 6 minutes, 14 GB, 20 GB of disk
    python -m benchmarks.training_scale --rows 100000000 --plans visits,cover    # these plans alone, anew
    python -m benchmarks.training_scale --rows 100000 --output build/training_scale.json    # a look
    python -m benchmarks.training_scale --figure                 # docs/training_scale.svg from the results

No model trains: the outputs of one are made up, of seven classes and a tenth of wrong labels. Each number of rows is a
process of its own, with one thread, and calls what a trainer calls, with a run folder: `begin`; `observe` for one epoch
in batches of 65,536, so that the share of the call itself is small; `absorb`, which ends the epoch and writes the
values to scores/; `review`, the label-noise guard; `plan`, the rows of the next epoch, which are written to plans/; and
a checkpoint's state with its file. That is the default diet (`auto`, with a race on the dev split due: its `plan` holds
the choices of both entrants). The plans of `hardest` with the guard, of `random`, `cover` and `visits` are made from
the same values without a run folder. Peak memory is the process's high-water mark, PyTorch (0.3 GB) and the values of
the bench itself included.

The targets: at 100 million rows a plan in at most 12 s; the state at most 64 bytes per row; a slope of seconds over
rows, both as logarithms, of at most 1.05 above a million rows.
"""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.cells import numbers
from benchmarks.common import environment, keep_figures, parser_of, peak_bytes

ROWS = "100000,1000000,10000000"
BATCH, CLASSES, WRONG, MADE = 65_536, 7, 0.1, 16
PHASES = ("begin", "observe", "absorb", "review", "plan", "checkpoint")
SELECTORS = ("hardest", "random", "cover", "visits")
FIGURE = Path(__file__).parent.parent / "docs" / "training_scale.svg"


class Clock:
    """Seconds by what they were spent on: of the processor, and on the wall."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.wall: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        began, wall = time.process_time(), time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.process_time() - began
        self.wall[name] = self.wall.get(name, 0.0) + time.perf_counter() - wall


def made_up_batches(groups: Any) -> Iterator[tuple[Any, Any]]:
    """Every row once, in a scattered order, with the outputs of a model that knows most of the right labels."""
    import torch

    from datadiet.types import HeadSignals, Signals

    number, generator = len(groups), np.random.default_rng(0)
    step = next(step for step in range(int(0.618 * number), number + 1) if np.gcd(step, number) == 1)
    sure = torch.from_numpy(generator.uniform(0, 6, (MADE, BATCH)).astype(np.float32))
    slips = generator.random((MADE, BATCH)) < 1 / (1 + np.exp(sure.numpy()))
    wrong = slips ^ (generator.random((MADE, BATCH)) < WRONG)
    shift = np.where(wrong, generator.integers(1, CLASSES, (MADE, BATCH)), 0)
    others = torch.from_numpy(generator.random((BATCH, CLASSES), np.float32) / 100)  # the label may stand anywhere
    hidden = torch.from_numpy(generator.random((BATCH, 8), np.float32))
    for place, start in enumerate(range(0, number, BATCH)):
        rows = np.arange(start, min(start + BATCH, number), dtype=np.int64) * step % number
        labels = torch.from_numpy(groups[rows].astype(np.int64))
        said = (labels + torch.from_numpy(shift[place % MADE, : len(rows)])) % CLASSES
        logits = others[: len(rows)].scatter(1, said[:, None], sure[place % MADE, : len(rows), None])
        head = HeadSignals(logits, labels, hidden=hidden[: len(rows)])
        signals = Signals({"label": head})
        yield torch.from_numpy(rows), signals


def begun(number: int, groups: Any, folder: Path | None, **options: Any) -> Any:
    """A diet at the start of a run."""
    import datadiet as dd

    diet = dd.Diet(keep=0.5, **options)
    diet.begin(number, epochs=4, batch=32, groups=groups, folder=folder, write=folder is not None, dev_rows=1000)
    return diet


def slim(scores: Any) -> Any:
    """The values that the other diets read; of the rest, nothing is held in memory."""
    read, nothing = ("el2n", "label_loss", "label_margin", "label_rank", "moment"), np.float32(np.nan)
    values = {
        name: column if name in read else np.broadcast_to(nothing, len(column))
        for name, column in scores.values.items()
    }
    return replace(scores, values=values)


def measure_here(number: int, folder: Path) -> dict[str, Any]:
    """What a diet takes of so many rows, in this process."""
    from datadiet.training.state import save_diet

    begun(1000, np.zeros(1000, np.int64), folder / "first").plan(0)  # what is imported at first use
    groups, clock = np.random.default_rng(1).integers(CLASSES, size=number), Clock()
    with clock("begin"):
        diet = begun(number, groups, folder / "run")
        diet.plan(0)
    for rows, signals in made_up_batches(groups):
        with clock("observe"):
            diet.observe(rows, signals, epoch=0)
    del rows, signals
    with clock("checkpoint"):  # at its largest: all values of an epoch are in it
        (folder / "checkpoint").mkdir()
        arrays, numbers = diet.state_dict()
        save_diet(folder / "checkpoint", arrays, numbers)
    state = {name: array.nbytes for name, array in arrays.items()}
    del arrays
    with clock("absorb"):
        scores = diet.drain()
        diet.absorb(scores)
        scores = slim(scores)
    with clock("review"):
        diet.noise_monitor.review(1, {})
    with clock("plan"):
        entrants = diet.entrants(1)
        losses = {rule: np.full(1000, place, np.float32) for place, rule in enumerate(entrants)}
        chosen = (diet.decide(1, losses) if entrants else None, diet.plan(1))[1]
    assert len(chosen.rows) == diet.schedule.count(1)
    after = diet.state_dict()[0]
    found: dict[str, Any] = {"peak_bytes": peak_bytes(), "excluded": int(diet.noise_monitor.excluded.sum())}
    found["state_bytes"] = max(sum(state.values()), sum(array.nbytes for array in after.values()))
    found["folder_bytes"] = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    del diet, after, chosen
    plans = plans_of(number, groups, scores, SELECTORS)
    seconds = {name: round(value, 4) for name, value in clock.seconds.items()}
    wall = {name: round(value, 4) for name, value in clock.wall.items()}
    return {**found, "seconds": seconds, "wall_seconds": wall, "plans": plans, "environment": environment()}


def plans_of(number: int, groups: Any, scores: Any, selectors: Iterable[str]) -> dict[str, Any]:
    """Seconds of the first plan of some selectors, and the state after it."""
    plans = {}
    for select in selectors:
        gc.collect()
        one = begun(number, groups, None, select=select, **({"offset": "auto"} if select == "hardest" else {}))
        one.absorb(scores)
        if one.noise_monitor is not None:
            one.noise_monitor.review(1, {})
        clock = Clock()
        with clock("plan"):
            one.plan(1)
        bytes_held = sum(array.nbytes for array in one.state_dict()[0].values())
        plans[select] = {"seconds": round(clock.seconds["plan"], 4), "state_bytes": bytes_held}
        del one
    return plans


def drawn(number: int) -> Any:
    """Values of every row as training leaves them, without observing any: for plans without a guard."""
    from datadiet.types import Scores

    el2n = np.random.default_rng(0).standard_exponential(number, np.float32)
    moments = (np.arange(number, dtype=np.int32) // 32 + 1).astype(np.float32)
    return Scores(np.arange(number), {"el2n": el2n, "moment": moments}, "train", 0, 0)


def measure_apart(number: int) -> dict[str, Any]:
    """The same in a process of its own, with one thread.

    Raises:
        RuntimeError: If it failed, with the end of what it said.
    """
    with tempfile.TemporaryDirectory(prefix="datadiet-bench-") as work:
        command = [sys.executable, "-m", "benchmarks.training_scale", "--measure", str(number), work]
        here, alone = Path(__file__).parent.parent, {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=here, env=alone)
    if done.returncode:
        raise RuntimeError(f"{number} rows: {done.stderr.strip()[-800:]}")
    measured: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return measured


def slope(cases: Mapping[str, Any], seconds: Mapping[str, float], least: int = 1_000_000) -> float | None:
    """Of seconds by number of rows, both as logarithms, by least squares from a million rows on; None of one number."""
    used = sorted(number for number in map(int, cases) if number >= least)
    if len(used) < 2:
        return None
    rows, taken = np.log(used), np.log([max(seconds[str(number)], 1e-4) for number in used])
    return float(np.polyfit(rows, taken, 1)[0])


def draw(cases: Mapping[str, Any], target: Path) -> None:
    """Seconds and peak memory over the number of rows, both axes logarithmic, as an SVG file."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    numbers = sorted(map(int, cases))
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "datadiet", "font.size": 9}):
        figure = Figure(figsize=(8, 3.4), layout="constrained")
        left, right = figure.subplots(1, 2)
        for name in PHASES:
            taken = [max(cases[str(number)]["seconds"][name], 1e-3) for number in numbers]
            left.loglog(numbers, taken, marker="o", markersize=3, label=name)
        for measure, label in (("peak_bytes", "peak memory"), ("state_bytes", "checkpoint")):
            right.loglog(
                numbers,
                [cases[str(number)][measure] / 1e9 for number in numbers],
                marker="o",
                markersize=3,
                label=label,
            )
        right.loglog(
            numbers, [64 * number / 1e9 for number in numbers], color="0.6", linestyle=":", label="64 bytes per row"
        )
        left.set_ylabel("seconds of one processor")
        right.set_ylabel("GB")
        for axes in (left, right):
            axes.set_xlabel("training rows")
            axes.grid(alpha=0.3)
            axes.legend(frameon=False, fontsize=8)
        figure.savefig(target, metadata={"Date": None, "Creator": None})


def shown(number: int, found: Mapping[str, Any]) -> str:
    parts = [f"{name} {value:.2f}" for name, value in found["seconds"].items()]
    parts += [f"{name} {plan['seconds']:.2f}" for name, plan in found["plans"].items()]
    sizes = f"state {found['state_bytes'] / number:.1f} B a row, peak {found['peak_bytes'] / 1e9:.2f} GB"
    return f"{number:>12,}: {', '.join(parts)} s; {sizes}"


def main(arguments: list[str] | None = None) -> None:
    parser = parser_of(__doc__, "training_scale")
    parser.add_argument("--rows", type=numbers(int), default=ROWS, help=f"comma-separated (default: {ROWS})")
    parser.add_argument("--measure", nargs=2, metavar=("ROWS", "FOLDER"), help="one process's part; prints JSON")
    parser.add_argument("--plans", metavar="SELECTORS", help="measure these plans alone, of values that are drawn")
    parser.add_argument("--figure", action="store_true", help="draw the figure of the page from the results")
    options = parser.parse_args(arguments)
    if options.figure:
        draw(json.loads(options.output.read_text(encoding="utf-8")), FIGURE)
        return
    if options.measure:
        print(json.dumps(measure_here(int(options.measure[0]), Path(options.measure[1]))))
        return
    for number in options.rows:
        if options.plans:
            case = json.loads(options.output.read_text(encoding="utf-8"))[str(number)]
            case["plans"] |= plans_of(number, None, drawn(number), options.plans.split(","))
            keep_figures(options.output, str(number), case)
            continue
        found = measure_apart(number)
        print(shown(number, found), flush=True)
        keep_figures(options.output, str(number), found)


if __name__ == "__main__":
    main()
