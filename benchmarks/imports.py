"""Seconds that `import datadiet` takes in a fresh process, above those of a bare Python.

    python -m benchmarks.imports                                            # seconds
    python -m benchmarks.imports --repeats 2 --output build/imports.json     # a quick look

Processes of the two kinds alternate; one of each is run first and dropped, so that the files are in the disk cache.
Medians. The target: at most 0.3 s.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time

from benchmarks.common import environment, keep_figures, parser_of, rounded

PROGRAMS = {"bare": "pass", "import": "import datadiet"}


def seconds_of(program: str) -> float:
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", program], check=True)
    return time.perf_counter() - began


def measure(repeats: int) -> dict[str, list[float]]:
    """Wall seconds of each program, in turns."""
    seconds: dict[str, list[float]] = {name: [] for name in PROGRAMS}
    for _ in range(repeats + 1):
        for name, program in PROGRAMS.items():
            seconds[name].append(seconds_of(program))
    return {name: found[1:] for name, found in seconds.items()}


def main(arguments: list[str] | None = None) -> None:
    parser = parser_of(__doc__, "imports")
    parser.add_argument("--repeats", type=int, default=10, help="timed processes of each kind (default: 10)")
    options = parser.parse_args(arguments)
    seconds = measure(options.repeats)
    bare, imported = statistics.median(seconds["bare"]), statistics.median(seconds["import"])
    print(f"bare Python       {bare:.3f} s\nimport datadiet   {imported:.3f} s")
    print(f"above bare        {imported - bare:.3f} s   target: at most 0.3")
    figures = {"bare_s": round(bare, 5), "import_s": round(imported, 5), "above_bare_s": round(imported - bare, 5)}
    every = {"bare_each_s": rounded(seconds["bare"]), "import_each_s": rounded(seconds["import"])}
    kept = {"repeats": options.repeats, **figures, **every, "environment": environment()}
    keep_figures(options.output, "datadiet", kept)


if __name__ == "__main__":
    main()
