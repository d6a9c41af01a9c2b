"""What `datadiet compare` and the page of a comparison cost beside the runs themselves.

    python -m benchmarks.comparing                                                           # 10 minutes on two cores
    python -m benchmarks.comparing --cases cached --test-rows 200                            # seconds
    python -m benchmarks.comparing --rows 64 --epochs 2 --seeds 1 --output build/comparing.json   # a quick look

Two cases. `cached`: ten methods and the three baselines with three seeds, whose run folders are made up and finished
(`benchmarks/toys.py`): `datadiet compare`, which then only reads, computes and says, and `datadiet report` after it,
each a process whose imports count. The target: at most 10 s together. `overhead`: a real grid of short runs on a
share of SNIPS with a packaged model, from nothing to verdicts: the wall-clock time of the whole command above the sum
of its processes' as the comparison sees them (`process_s`). The target: at most 3 %; runs of minutes hide more of it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

from benchmarks.cells import listed
from benchmarks.common import add_setting, environment, keep_figures, parser_of, precision_here

ROOT = Path(__file__).parent.parent
CASES = ("cached", "overhead")
METHODS = (
    *("el2n", "cross_entropy", "margin", "entropy", "el2n_dropped", "el2n_all", "el2n_ema"),
    *("uncertain", "epsilon", "easiest"),
)
SEEDS = 3
TRAIN_ROWS = 2000


def timed(*arguments: str) -> float:
    """Seconds of a `datadiet` command.

    Raises:
        RuntimeError: If it failed, with the end of what it said.
    """
    began = time.perf_counter()
    command = [sys.executable, "-m", "datadiet", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    if done.returncode:
        raise RuntimeError(f"datadiet {arguments[0]}: {(done.stderr or done.stdout).strip()[-500:]}")
    return time.perf_counter() - began


def write_settings(folder: Path, settings: dict[str, Any]) -> Path:
    """The YAML file of a comparison."""
    path = folder / "compare.yaml"
    path.write_text(yaml.safe_dump(settings), encoding="utf-8")
    return path


def cached(options: argparse.Namespace) -> dict[str, Any]:
    """Compare finished runs and make the page."""
    with tempfile.TemporaryDirectory(prefix="datadiet-bench-") as work:
        folder = Path(work)
        settings = write_settings(folder, _finished_runs(folder, options.test_rows))
        output = folder / "compare"
        seconds = timed("compare", "--config", str(settings), "--output", str(output))
        report_s = timed("report", str(output))
        found = json.loads((output / "comparison.json").read_text(encoding="utf-8"))
        page = (output / "report.html").stat().st_size
    return {
        "methods": len(METHODS),
        "seeds": SEEDS,
        "runs": len(found["runs"]),
        "test_rows": options.test_rows,
        "compare_s": round(seconds, 3),
        "report_s": round(report_s, 3),
        "seconds": round(seconds + report_s, 3),
        "page_bytes": page,
        "environment": environment(),
    }


def _finished_runs(folder: Path, test_rows: int) -> dict[str, Any]:
    """Write the run folders of every cell; returns the settings of the comparison."""
    from benchmarks.made_up import write_data, write_run
    from datadiet.cli.compare import request_from

    data = write_data(folder / "data", TRAIN_ROWS, test_rows)
    settings = {"data": str(data), "task": "classification", "methods": list(METHODS), "seeds": SEEDS, "epochs": 10}
    output = folder / "compare"
    plan = request_from(settings, None, output).plan
    for cell in plan.cells():
        write_run(
            plan.config(cell, str(output / "runs" / cell.name), TRAIN_ROWS), skill=0.9 - 0.005 * (len(cell.arm) % 5)
        )
    return settings


def overhead(options: argparse.Namespace) -> dict[str, Any]:
    """Run a small real grid."""
    precision = precision_here(options.precision)
    settings = {
        "data": "snips", "task": "classification", "train_rows": options.rows or 1000, "model": options.model,
        "epochs": options.epochs, "seeds": options.seeds, "methods": ["el2n"], "precision": precision,
    }  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="datadiet-bench-") as work:
        output = Path(work) / "compare"
        seconds = timed("compare", "--config", str(write_settings(Path(work), settings)), "--output", str(output))
        found = json.loads((output / "comparison.json").read_text(encoding="utf-8"))
    processes = sum(run["process_s"] for run in found["runs"])
    return {
        "data": {"name": found["data"]["name"], "rows": found["data"]["rows"]["train"]},
        "epochs": options.epochs,
        "runs": len(found["runs"]),
        "processes_s": round(processes, 3),
        "compare_s": round(seconds, 3),
        "overhead": round(seconds / processes - 1, 5),
        "environment": environment(precision),
    }


def main(arguments: list[str] | None = None) -> None:
    parser = parser_of(__doc__, "comparing")
    add_setting(parser)
    parser.add_argument("--cases", type=listed(*CASES), default=[*CASES], help=f"comma-separated: {', '.join(CASES)}")
    parser.add_argument("--test-rows", type=int, default=2000, help="of the finished runs (default: 2,000)")
    parser.add_argument("--epochs", type=int, default=6, help="of the real runs (default: 6)")
    parser.add_argument("--seeds", type=int, default=3, help="of the real runs (default: 3)")
    options = parser.parse_args(arguments)
    for case in options.cases:
        found = {"cached": cached, "overhead": overhead}[case](options)
        keep_figures(options.output, case, found)
        if case == "cached":
            print(
                f"{found['runs']} finished runs: compare {found['compare_s']:.1f} s + report {found['report_s']:.1f} s"
            )
        else:
            told = f"{found['compare_s']:.1f} s, of which processes {found['processes_s']:.1f} s"
            print(f"{found['runs']} real runs: {told}: {100 * found['overhead']:.1f} % above")


if __name__ == "__main__":
    main()
