"""Gradient scores: last-layer GraNd beside EL2N, exact GraNd beside one example at a time, and the memory of VoG.

    python -m benchmarks.gradients                                  # 2,000 rows of SNIPS, about 15 minutes on two cores
    python -m benchmarks.gradients --rows 64 --loop-rows 8 --repeats 1 --checkpoints 2 3 --output build/gradients.json

Two passes that are compared run in turns, over the same rows with the same model (all-MiniLM-L6-v2 with new heads); the
ratio is that of their medians, its quartiles are over pairs. `last_layer` is a pass of EL2N and a pass of last-layer
GraNd, batches by length. `exact` is GraNd over all parameters and the loop of one forward and backward per example that
published code runs, over a part of the rows. `vog` is the peak memory of a process with 2 checkpoints and with 5,
loaded one after the other from folders. The targets: last-layer GraNd at most 1.1 times EL2N; exact
GraNd at least 4 times as fast as the loop; VoG's peak at most 1.1 times as large with 5 checkpoints as with 2.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.common import (
    Bench,
    add_setting,
    environment,
    keep_figures,
    load_bench,
    parser_of,
    peak_bytes,
    precision_here,
    quartiles,
    rounded,
    synchronize,
)


def seconds(run: Callable[[], Any]) -> float:
    synchronize()
    began = time.perf_counter()
    run()
    synchronize()
    return time.perf_counter() - began


def in_turns(first: Callable[[], Any], second: Callable[[], Any], repeats: int) -> dict[str, Any]:
    """Seconds of both, and the ratio second / first; each runs once before anything counts."""
    first(), second()
    pairs = [(seconds(first), seconds(second)) for _ in range(repeats)]
    ones, others = ([pair[place] for pair in pairs] for place in (0, 1))
    return {
        "first_s": rounded(ones),
        "second_s": rounded(others),
        "ratio": round(statistics.median(others) / statistics.median(ones), 4),
        "paired_quartiles": rounded(quartiles([other / one for one, other in pairs])),
    }


def last_layer(bench: Bench, repeats: int, precision: str) -> dict[str, Any]:
    """A pass of EL2N, then one of last-layer GraNd."""
    from datadiet.scores.logits import el2n
    from datadiet.scores.reduce import example_values
    from datadiet.scoring.forward import forward_pass
    from datadiet.scoring.grand import grand
    from datadiet.tasks.reading import signals_of

    model = bench.new_model()

    def of_el2n() -> None:
        for _, outputs, batch in forward_pass(model, bench.features, bench.collate, precision=precision):
            example_values(el2n, signals_of(outputs, batch)).cpu().numpy()

    def of_grand() -> None:
        options: dict[str, Any] = {"batch_tokens": 4096, "precision": precision}
        grand(model, bench.features, bench.collate, parameters="last_layer", **options)

    return in_turns(of_el2n, of_grand, repeats)


def exact(bench: Bench, rows: int, repeats: int) -> dict[str, Any]:
    """All parameters at once for many examples, then the loop; both in float32."""
    import numpy as np
    import torch

    from datadiet.scoring.grand import grand

    model, kept = bench.new_model().eval(), np.arange(rows)
    parameters = list(model.parameters())
    found: dict[str, Any] = {}

    def together() -> None:
        found["together"] = grand(model, bench.features, bench.collate, rows=kept)

    def loop() -> None:
        norms = []
        for row in kept.tolist():
            loss = model(**bench.collate([bench.features[row]])).loss
            gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
            norms.append(torch.stack([part.square().sum() for part in gradients if part is not None]).sum().sqrt())
        found["loop"] = torch.stack(norms).numpy()

    times = in_turns(together, loop, repeats)
    difference = float(np.abs(found["together"] / found["loop"] - 1).max())
    return {**times, "rows_of_loop": rows, "largest_relative_difference": round(difference, 7)}


def save_checkpoints(bench: Bench, folder: Path, number: int) -> None:
    """Models as a run would leave them, each a little away from the one before."""
    import torch

    model, generator = bench.new_model(), torch.Generator().manual_seed(0)
    for place in range(number):
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 1e-3 * torch.randn(parameter.shape, generator=generator)
        model.save_pretrained(folder / str(place))


def measure_here(folder: Path, number: int, options: Any) -> dict[str, Any]:
    """VoG of the first checkpoints in this process, and what it held at most."""
    from datadiet.scoring.vog import vog

    bench = load_bench("snips4000", None, rows=options.rows, model=options.model)
    checkpoints = [folder / str(place) for place in range(number)]
    began = time.perf_counter()
    vog(checkpoints, bench.features, bench.collate)
    return {"peak_bytes": peak_bytes(), "seconds": round(time.perf_counter() - began, 2)}


def measure_apart(folder: Path, number: int, options: Any) -> dict[str, Any]:
    """The same in a process of its own.

    Raises:
        RuntimeError: If it failed, with the end of what it said.
    """
    command = [sys.executable, "-m", "benchmarks.gradients", "--measure", str(folder), str(number)]
    command += ["--rows", str(options.rows), "--model", options.model]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parent.parent)
    if done.returncode:
        raise RuntimeError(f"{number} checkpoints: {done.stderr.strip()[-500:]}")
    measured: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return measured


def memory(bench: Bench, options: Any) -> dict[str, Any]:
    """Peaks with few and with many checkpoints."""
    with tempfile.TemporaryDirectory(prefix="datadiet-bench-") as work:
        save_checkpoints(bench, Path(work), max(options.checkpoints))
        found = {str(number): measure_apart(Path(work), number, options) for number in sorted(options.checkpoints)}
    few, many = (found[str(number)]["peak_bytes"] for number in (min(options.checkpoints), max(options.checkpoints)))
    return {"checkpoints": found, "ratio": round(many / few, 4)}


def main(arguments: list[str] | None = None) -> None:
    parser = parser_of(__doc__, "gradients")
    add_setting(parser)
    parser.set_defaults(rows=2000)
    parser.add_argument("--loop-rows", type=int, default=256, help="rows of the loop of one (default: 256)")
    parser.add_argument("--repeats", type=int, default=5, help="timed pairs (default: 5)")
    parser.add_argument("--checkpoints", type=int, nargs=2, default=[2, 5], help="for the memory of VoG (default: 2 5)")
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.measure:
        print(json.dumps(measure_here(Path(options.measure[0]), int(options.measure[1]), options)))
        return
    precision = precision_here(options.precision)
    bench = load_bench("snips4000", None, rows=options.rows, model=options.model)
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "last_layer": lambda: last_layer(bench, options.repeats, precision),
        "exact": lambda: exact(bench, min(options.loop_rows, len(bench.features)), options.repeats),
        "vog": lambda: memory(bench, options),
    }
    for name, measure in parts.items():
        found = measure()
        print(f"{name:<12}{found['ratio']:>8.2f}", flush=True)
        used = precision if name == "last_layer" else "fp32"
        keep_figures(options.output, name, {"data": bench.described(), "environment": environment(used), **found})


if __name__ == "__main__":
    main()
