"""Seconds and peak memory of the selectors on millions of values, half of which tie, and of a plan with the guard.

    python benchmarks/selection.py                       # 10 million values, about a minute
    python benchmarks/selection.py --values 1000000      # 1 million: what a diet of every epoch selects from
    python benchmarks/selection.py --values 100000000    # 100 million; needs 4 GB of free memory
    python benchmarks/selection.py --values 100000 --repeats 1 --output build/selectors.json   # a quick look
    python benchmarks/selection.py --plans --output benchmarks/results/plans.json    # the guard on 10 million rows

Each figure is the median of the repeats; memory is the most that NumPy held at any moment above the values and groups
themselves, in one further run. The targets: `hardest` from 10 million values in at most 1 s and 0.5 GB, from 100
million in at most 12 s; the others within 3 times `hardest`; InfoBatch, UCB, epsilon and SeTa from 1 million in at most
50 ms. UCB is `hardest` over an exponential mean plus deviation, the update of that history included. Results are kept
per number of values, beside each other.

`--plans` measures `Diet.plan` with `hardest` after the first and the second epoch, of seven classes and a tenth of
wrong labels, without the label-noise guard and with it, in seconds of the processor and memory above what the diet
held before. The target: at most 2 s, and at most 0.2 GB more than without.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
import tracemalloc
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datadiet.diet.diet import Diet
from datadiet.diet.values import MOMENT
from datadiet.scores.history import ema
from datadiet.selectors.quotas import balanced, with_floor
from datadiet.selectors.ranked import easiest, hardest, window
from datadiet.selectors.sampled import epsilon, infobatch, proportional, random, uncertain
from datadiet.selectors.strata import both_ends, ccs, seta, stratified
from datadiet.types import Scores, Selection

RESULTS = Path(__file__).parent / "results" / "selectors.json"
FLOOR = 10


def half_tied(number: int, seed: int = 0) -> NDArray[np.float32]:
    """Values in [0, 1), about half of them exactly 0.5, which is also where a selection of half of them is cut."""
    generator = np.random.default_rng(seed)
    values = generator.random(number, dtype=np.float32)
    values[generator.random(number, dtype=np.float32) < 0.5] = 0.5
    return values


def cases(number: int) -> Iterator[tuple[str, Callable[..., Any]]]:
    """Names and selectors, groups included."""
    yield "hardest", hardest
    yield "easiest", easiest
    yield "window, offset 0.05", partial(window, offset=0.05)
    yield "random", random
    yield "epsilon 0.1", partial(epsilon, epsilon=0.1)
    yield "uncertain, scale 1", partial(uncertain, scale=1.0)
    yield "uncertain, by rank", uncertain
    yield "infobatch", infobatch
    yield "ucb, alpha 0.8, c 1", ucb(number)
    yield "seta", seta
    yield "proportional", proportional
    yield "proportional, softmax", partial(proportional, scaling="softmax")
    yield "ccs, beta 0.1", ccs
    yield "stratified", stratified
    yield "both ends", both_ends
    for groups in (7, 1000):
        codes = np.random.default_rng(1).integers(groups, size=number, dtype=np.int32)
        yield f"hardest, floor, {groups} groups", partial(with_floor(hardest, FLOOR), groups=codes)
        yield f"balanced, {groups} groups", partial(balanced, groups=codes)
    by_value = (half_tied(number) * 1000).astype(np.int32)  # half of the groups would have no row without a floor
    yield "hardest, floor, 1000 groups by value", partial(with_floor(hardest, FLOOR), groups=by_value)


def ucb(number: int) -> Callable[..., Selection]:
    """A round's values into the history, its value, and the hardest by that; three rounds came before."""
    history = ema(alpha=0.8, c=1.0)
    fresh, state = np.ones(number, np.bool_), history.init(number)
    for seed in range(3):
        state = history.update(state, half_tied(number, seed), fresh)

    def select(values: NDArray[np.float32], count: int, **options: Any) -> Selection:
        return hardest(history.value(history.update(state, values, fresh)), count, **options)

    return select


def measure(select: Callable[..., Any], values: NDArray[np.float32], count: int, repeats: int) -> dict[str, float]:
    seconds = []
    for epoch in range(repeats):
        began = time.perf_counter()
        selected = select(values, count, seed=0, epoch=epoch)
        seconds.append(time.perf_counter() - began)
        assert len(selected.rows) == count
        del selected
    tracemalloc.start()
    select(values, count, seed=0, epoch=0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return {
        "seconds": statistics.median(seconds),
        "fastest": min(seconds),
        "slowest": max(seconds),
        "peak_gb": peak / 1e9,
    }


def recorded(diet: Diet, epoch: int, classes: int = 7) -> Scores:
    """What training saw of every row: sure of the label, or of another one where that is wrong or the model errs."""
    generator, number = np.random.default_rng(epoch), diet.schedule.num_examples
    sure = generator.uniform(0, 6, number).astype(np.float32)
    wrong = (generator.random(number) < 0.1) | (generator.random(number) < 1 / (1 + np.exp(sure)))
    margin = np.where(wrong, sure, -sure)
    columns = dict.fromkeys(diet.columns, np.full(number, np.nan, np.float32))
    columns |= {"label_loss": np.logaddexp(0, margin), "label_margin": margin, "el2n": np.logaddexp(0, margin)}
    columns["label_rank"] = np.where(wrong, generator.integers(1, classes, number), 0).astype(np.float32)
    columns[MOMENT] = (generator.permutation(number) // 32 + 1).astype(np.float32)
    return Scores(np.arange(number), {name: columns[name] for name in diet.columns}, "train", epoch, diet.round)


def measure_plans(number: int, repeats: int) -> dict[str, dict[str, float]]:
    """`Diet.plan` without and with the guard; the last repeat measures memory."""
    table = {}
    for name, offset in (("no guard", 0.0), ("guard", "auto")):
        found: dict[str, list[float]] = {}
        for repeat in range(repeats + 1):
            diet = Diet(select="hardest", score="el2n", keep=0.5, offset=offset, refresh_every=1)
            groups = np.random.default_rng(1).integers(7, size=number)
            diet.begin(number, epochs=4, batch=32, groups=groups, write=False)
            for epoch in (0, 1):
                diet.absorb(recorded(diet, epoch))
                tracing = repeat == repeats
                if tracing:
                    tracemalloc.start()
                began = time.process_time()
                diet.plan(epoch + 1)
                took = time.process_time() - began
                if tracing:
                    found.setdefault("peak_gb", []).append(tracemalloc.get_traced_memory()[1] / 1e9)
                    tracemalloc.stop()
                else:
                    found.setdefault("seconds", []).append(took)
        seconds, peak = found["seconds"], max(found["peak_gb"])
        middle = {"seconds": statistics.median(seconds), "fastest": min(seconds), "slowest": max(seconds)}
        table[name] = {key: round(value, 4) for key, value in {**middle, "peak_gb": peak}.items()}
        print(f"{name:<30}{table[name]}", flush=True)
    return table


def environment() -> dict[str, Any]:
    cpu = platform.machine()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), cpu)
    versions = {"python": platform.python_version(), "numpy": np.__version__}
    return {"cpu": cpu, "cores": os.cpu_count(), "threads_used": 1, **versions}


def save(path: Path, number: int, table: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    results = json.loads(path.read_text()) if path.exists() else {}
    results[str(number)] = table
    path.write_text(json.dumps(results, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--values", type=int, default=10_000_000, help="how many (default: 10 million)")
    parser.add_argument("--keep", type=float, default=0.5, help="share kept (default: 0.5)")
    parser.add_argument("--repeats", type=int, default=5, help="timed runs of each selector (default: 5)")
    parser.add_argument("--output", type=Path, default=RESULTS, help="JSON file that takes the figures")
    parser.add_argument("--plans", action="store_true", help="measure plans of a diet instead of selectors")
    options = parser.parse_args()
    if options.plans:
        plans = measure_plans(options.values, options.repeats)
        save(options.output, options.values, {"environment": environment(), "repeats": options.repeats, "plans": plans})
        return
    values, count = half_tied(options.values), int(options.keep * options.values)
    rows: dict[str, dict[str, float]] = {}
    print(f"{options.values:,} values, {count:,} kept")
    print(f"{'selector':<30}{'seconds':>9}{'range':>16}{'GB above':>10}{'x hardest':>11}")
    for name, select in cases(options.values):
        row = rows[name] = measure(select, values, count, options.repeats)
        row["times_hardest"] = row["seconds"] / rows["hardest"]["seconds"]
        spread = f"{row['fastest']:.3f}-{row['slowest']:.3f}"
        print(
            f"{name:<30}{row['seconds']:>9.3f}{spread:>16}{row['peak_gb']:>10.2f}{row['times_hardest']:>11.1f}",
            flush=True,
        )
    rounded = {name: {key: round(value, 4) for key, value in row.items()} for name, row in rows.items()}
    table = {"keep": options.keep, "repeats": options.repeats, "environment": environment(), "selectors": rounded}
    save(options.output, options.values, table)


if __name__ == "__main__":
    main()
