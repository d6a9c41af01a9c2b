"""Seconds to read data that once cost the square of its size: many columns, keys, labels, and unknown dev labels.

    python -m benchmarks.reading                                            # at 5,000, 10,000 and 20,000
    python -m benchmarks.reading --sizes 1000 4000 --output build/reading.json   # a quick look

`ratio` is the time at the largest size over that at the smallest, divided by the ratio of the sizes: 1 where the cost
is linear, that ratio where it is quadratic. The best of `--repeats` runs counts. The target: at most 2.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.common import environment, keep_figures, parser_of


def columns(folder: Path, size: int) -> str:
    """csv with many columns."""
    names = ",".join(f"c{i}" for i in range(size))
    rows = "".join(f"{'x,' * size}text {i},{'ab'[i % 2]}\n" for i in range(4))
    for split in ("train", "dev"):
        (folder / f"{split}.csv").write_text(f"{names},text,label\n{rows}")
    return "classification"


def keys(folder: Path, size: int) -> str:
    """JSON lines, each with a key that no other has."""
    for split in ("train", "dev"):
        lines = ({"text": f"text {i}", "label": "ab"[i % 2], f"k{i}": i} for i in range(size))
        (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return "classification"


def labels(folder: Path, size: int) -> str:
    """One row with many labels, as numbers."""
    rows = [{"text": "many", "labels": list(range(size))}, {"text": "few", "labels": [0, 2]}]
    for split in ("train", "dev"):
        (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return "multi-label"


def unknown_labels(folder: Path, size: int) -> str:
    """Dev labels that train does not have."""
    for split, mark in (("train", "a"), ("dev", "b")):
        lines = ({"text": f"{mark} {i}", "label": f"{mark}{i}"} for i in range(size))
        (folder / f"{split}.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return "classification"


CASES: tuple[Callable[[Path, int], str], ...] = (columns, keys, labels, unknown_labels)


def seconds_of(make: Callable[[Path, int], str], size: int, repeats: int) -> float:
    """The best time to load the set of a case."""
    from datadiet.data.load import load_data

    with tempfile.TemporaryDirectory() as folder:
        task = make(Path(folder), size)
        times = []
        for _ in range(repeats):
            began = time.perf_counter()
            load_data(folder, task)
            times.append(time.perf_counter() - began)
    return min(times)


def growth(sizes: Sequence[int], seconds: Sequence[float]) -> float:
    """How much faster than the size the time grows."""
    return (seconds[-1] / seconds[0]) / (sizes[-1] / sizes[0])


def main(arguments: list[str] | None = None) -> None:
    parser = parser_of(__doc__, "reading")
    parser.add_argument("--sizes", type=int, nargs="+", default=[5000, 10_000, 20_000], help="in ascending order")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args(arguments)
    seconds_of(keys, 10, 1)  # imports
    for make in CASES:
        seconds = [seconds_of(make, size, options.repeats) for size in options.sizes]
        ratio = growth(options.sizes, seconds)
        each = ", ".join(f"{size:,}: {time_:.3f} s" for size, time_ in zip(options.sizes, seconds, strict=True))
        print(f"{make.__name__:15} {each}   ratio {ratio:.2f}, target: at most 2")
        figures = {"sizes": options.sizes, "seconds": [round(time_, 5) for time_ in seconds], "ratio": round(ratio, 3)}
        keep_figures(options.output, make.__name__, {**figures, "environment": environment()})


if __name__ == "__main__":
    main()
