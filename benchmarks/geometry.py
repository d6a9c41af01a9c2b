"""Seconds and peak memory of what looks at where examples lie: scores of 100,000 sentences, selections from 50,000.

    python -m benchmarks.geometry                                   # minutes
    python -m benchmarks.geometry --only k_center,scdp              # some of them
    python -m benchmarks.geometry --sentences 3000 --points 2000 --output build/geometry.json   # a quick look

Sentences are made up: words drawn as often as in real text (Zipf), most of them from the vocabulary of one of 200
topics. Embeddings are mixtures of 200 centres in 384 dimensions, of length 1, float32. Each case runs once in a process
of its own; memory is the most that process held, imports and data included, and seconds are those of the call alone.
Targets: a score of 100,000 sentences in at most 60 s and 2 GB, `dsir` and `classifier` with 200 queries in 5 s (20,000
a second), a selection of 30 % of 50,000 x 384 in at most 120 s. `smart` has 20 tasks.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.cells import listed
from benchmarks.common import environment, keep_figures, parser_of, peak_bytes

ROOT = Path(__file__).parent.parent
TOPICS, WORDS, WIDTH = 200, 30_000, 384
SCORES = ("scdp", "prototypes", "dsir", "classifier")
SELECTORS = ("k_center", "d2_pruning", "facility_location", "graph_cut", "herding", "deft_ucs", "smart")
CASES = (*SCORES, *SELECTORS)


def sentences(number: int, seed: int = 0) -> list[str]:
    """Texts of 5 to 30 words."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(5, 31, size=number)
    ranks = rng.zipf(1.3, size=int(lengths.sum())) % WORDS
    shift = np.repeat(rng.integers(TOPICS, size=number) * 131, lengths)  # each topic has rare words of its own
    of_topic = rng.random(ranks.size) < 0.6
    words = np.where(of_topic, (ranks * 7 + shift) % WORDS, ranks)
    ends = np.cumsum(lengths).tolist()
    named = [f"word{word}" for word in words.tolist()]
    return [" ".join(named[end - length : end]) for end, length in zip(ends, lengths.tolist(), strict=True)]


def embeddings(number: int, seed: int = 0) -> NDArray[np.float32]:
    """Points of length 1 around `TOPICS` centres."""
    rng = np.random.default_rng(seed)
    centres = 0.7 * rng.standard_normal((TOPICS, WIDTH), dtype=np.float32)
    points = centres[rng.integers(TOPICS, size=number)] + rng.standard_normal((number, WIDTH), dtype=np.float32)
    return points / np.linalg.norm(points, axis=1, keepdims=True)


def prepared(name: str, number: int, keep: float) -> Callable[[], Any]:
    """The call that is timed, its data made."""
    import sklearn.feature_extraction.text
    import sklearn.linear_model  # noqa: F401  what a first call would import

    from datadiet import registry, scores

    if name == "scdp":
        return partial(scores.scdp, sentences(number))
    if name == "prototypes":
        return partial(scores.prototypes, embeddings(number))
    if name in SCORES:
        return partial(
            registry.load("score", name),
            sentences(number),
            queries=[f"please {text}" for text in sentences(200, seed=1)],
        )
    values, features = np.random.default_rng(1).random(number), embeddings(number)
    select = registry.load("select", name)
    groups = {"groups": np.arange(number) % 20} if name == "smart" else {}
    return partial(select, values, round(keep * number), seed=0, epoch=0, features=features, **groups)


def measure(name: str, number: int, keep: float) -> dict[str, Any]:
    call = prepared(name, number, keep)
    began = time.perf_counter()
    call()
    return {"number": number, "seconds": round(time.perf_counter() - began, 2), "peak_bytes": peak_bytes()}


def in_a_process(name: str, number: int, keep: float) -> dict[str, Any]:
    options = ["--case", name, "--number", str(number), "--keep", str(keep)]
    command = [sys.executable, "-m", "benchmarks.geometry", *options]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    parser = parser_of(__doc__, "geometry")
    parser.add_argument("--sentences", type=int, default=100_000, help="that are scored (default: 100,000)")
    parser.add_argument("--points", type=int, default=50_000, help="that are selected from (default: 50,000)")
    parser.add_argument("--keep", type=float, default=0.3, help="share kept (default: 0.3)")
    parser.add_argument("--only", type=listed(*CASES), default=[*CASES], help=f"comma-separated: {', '.join(CASES)}")
    parser.add_argument("--case", choices=CASES, help=argparse.SUPPRESS)
    parser.add_argument("--number", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        print(json.dumps(measure(options.case, options.number, options.keep)))
        return
    print(f"{'case':<20}{'examples':>10}{'seconds':>10}{'peak':>10}")
    for name in options.only:
        number = options.sentences if name in SCORES else options.points
        figures = in_a_process(name, number, options.keep)
        print(f"{name:<20}{number:>10,}{figures['seconds']:>9.1f}s{figures['peak_bytes'] / 1e9:>8.2f}GB", flush=True)
        kind = "score" if name in SCORES else "selector"
        keep_figures(
            options.output, name, {"kind": kind, "keep": options.keep, "environment": environment(), **figures}
        )


if __name__ == "__main__":
    main()
