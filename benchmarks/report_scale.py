"""Seconds, memory and size of `datadiet report` on a run with very many training examples.

    python -m benchmarks.report_scale                                                        # a few minutes
    python -m benchmarks.report_scale --examples 2000 --rounds 3 --output build/report.json   # a quick look

The run folder is made up (`benchmarks/toys.py`), by the code that writes real ones: texts of 6 to 30 words in JSON
lines, an epoch per round, the training values of what was kept, and from the second round on a scoring pass over
everything. The report is made in a process of its own: seconds are wall-clock and include its imports, the peak is its
high-water mark of resident memory. The targets: of 100,000 examples a page under 5 MB; of a million and 10 rounds at
most 60 s, 2 GB, and a page of 8 MB.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.cells import numbers
from benchmarks.common import environment, keep_figures, parser_of, peak_bytes

ROOT = Path(__file__).parent.parent
EXAMPLES = "100000,1000000"


def write_folder(folder: Path, examples: int, rounds: int) -> Path:
    """A data set and a run on it; returns the run folder."""
    from benchmarks.made_up import write_data, write_run
    from datadiet.config import FinetuneConfig

    data = write_data(folder / "data", examples, max(100, examples // 100))
    run = folder / "run"
    write_run(FinetuneConfig(data=str(data), task="classification", output=str(run), epochs=rounds, refresh_every=1))
    return run


def report_here(run: Path) -> dict[str, Any]:
    """Make the page in this process; what it held at most."""
    import datadiet as dd

    page = dd.report(run)
    return {"peak_bytes": peak_bytes(), "page_bytes": page.stat().st_size}


def report_apart(run: Path) -> dict[str, Any]:
    """The same in a process of its own, with its seconds.

    Raises:
        RuntimeError: If it failed, with the end of what it said.
    """
    began = time.perf_counter()
    command = [sys.executable, "-m", "benchmarks.report_scale", "--measure", str(run)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    seconds = time.perf_counter() - began
    if done.returncode:
        raise RuntimeError(f"the report failed: {done.stderr.strip()[-500:]}")
    measured: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return {"seconds": round(seconds, 3), **measured}


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def main(arguments: list[str] | None = None) -> None:
    parser = parser_of(__doc__, "report")
    parser.add_argument(
        "--examples", type=numbers(int), default=EXAMPLES, help=f"comma-separated (default: {EXAMPLES})"
    )
    parser.add_argument("--rounds", type=int, default=10, help="epochs, each with its scores (default: 10)")
    parser.add_argument("--measure", type=Path, metavar="RUN", help="one process's part; prints JSON")
    options = parser.parse_args(arguments)
    if options.measure:
        print(json.dumps(report_here(options.measure)))
        return
    print(f"{'examples':>12}{'rounds':>8}{'seconds':>10}{'peak MB':>10}{'page MB':>10}")
    for examples in options.examples:
        with tempfile.TemporaryDirectory(prefix="datadiet-bench-") as work:
            run = write_folder(Path(work), examples, options.rounds)
            sizes = {"folder_bytes": size_of(run), "data_bytes": size_of(Path(work) / "data")}
            found = report_apart(run)
        megabytes = f"{found['peak_bytes'] / 1e6:>10.0f}{found['page_bytes'] / 1e6:>10.2f}"
        print(f"{examples:>12,}{options.rounds:>8}{found['seconds']:>10.1f}{megabytes}", flush=True)
        keep_figures(
            options.output, str(examples), {"rounds": options.rounds, **sizes, **found, "environment": environment()}
        )


if __name__ == "__main__":
    main()
