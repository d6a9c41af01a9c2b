"""A scoring pass against training: examples per second over the same rows, both with lengths grouped.

    python -m benchmarks.scoring                             # 4,000 rows of SNIPS, 3 minutes on two cores
    python -m benchmarks.scoring --data-root DATA            # ATIS as well (DATA/atis, see benchmarks/README.md)
    python -m benchmarks.scoring --rows 64 --repeats 1 --output build/scoring.json     # a quick look

One run of `DietTrainer` on everything; after every epoch it makes one scoring pass over all rows, as at a refresh with
`rescore="all"`. So the two alternate, and each is timed as often as the other. The training time is that of the run's
own ledger; the pass counts from its first batch to its values in NumPy. The first epoch and pass are dropped; medians.
The target: a pass is at least 4 times as fast as training.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from transformers import TrainerCallback

import datadiet as dd
from benchmarks.common import (
    Bench,
    add_setting,
    environment,
    keep_figures,
    load_bench,
    parser_of,
    precision_here,
    quartiles,
    rounded,
    silence,
    synchronize,
    training_arguments,
)
from datadiet.training.epochs import score_rows


class PassAfterEpoch(TrainerCallback):
    """Times every epoch, and a scoring pass after it."""

    def __init__(self, rows: int) -> None:
        self._rows = np.arange(rows)
        self.trainer: Any = None
        self.train_s: list[float] = []
        self.score_s: list[float] = []
        self._before = 0.0

    def on_epoch_begin(self, *_args: Any, **_kwargs: Any) -> None:
        self._before = self.trainer.ledger.seconds("train")

    def on_epoch_end(self, *_args: Any, **_kwargs: Any) -> None:
        synchronize()
        self.train_s.append(self.trainer.ledger.seconds("train") - self._before)
        with self.trainer.ledger.charge("score"):
            began = time.perf_counter()
            rows, values = score_rows(self.trainer.context, self._rows)
            self.score_s.append(time.perf_counter() - began)
        assert len(rows) == len(self._rows) == len(values["el2n"])


def measure(bench: Bench, folder: Path, *, repeats: int, precision: str) -> dict[str, Any]:
    """Throughputs over the same rows, and the quartiles of the ratios of an epoch and the pass after it."""
    watch = PassAfterEpoch(len(bench.features))
    arguments = training_arguments(folder, precision, num_train_epochs=repeats + 1)
    trainer = dd.DietTrainer(**bench.trainer_options(arguments), callbacks=[watch], diet=dd.Diet(keep=1.0))
    watch.trainer = silence(trainer)
    trainer.train()
    train_s, score_s = watch.train_s[1:], watch.score_s[1:]
    rows = len(bench.features)
    training, scoring = rows / statistics.median(train_s), rows / statistics.median(score_s)
    ratios = [epoch / one_pass for epoch, one_pass in zip(train_s, score_s, strict=True)]
    return {
        "train_examples_per_s": round(training, 2),
        "score_examples_per_s": round(scoring, 2),
        "ratio": round(scoring / training, 4),
        "paired_quartiles": rounded(quartiles(ratios)),
        "train_s": rounded(train_s),
        "score_s": rounded(score_s),
    }


def main(arguments: list[str] | None = None) -> None:
    parser = parser_of(__doc__, "scoring")
    add_setting(parser)
    parser.add_argument("--data-root", type=Path, help="measures DATA/atis as well")
    parser.add_argument("--repeats", type=int, default=5, help="timed epochs and passes (default: 5)")
    options = parser.parse_args(arguments)
    precision = precision_here(options.precision)
    print(f"{'set':<12}{'training /s':>13}{'scoring /s':>13}{'ratio':>8}   quartiles   (target: at least 4)")
    for name in ("snips4000", *(["atis"] if options.data_root else [])):
        bench = load_bench(name, options.data_root, rows=options.rows, model=options.model)
        with tempfile.TemporaryDirectory(prefix="datadiet-bench-") as work:
            found = measure(bench, Path(work), repeats=options.repeats, precision=precision)
        low, _, high = found["paired_quartiles"]
        speeds = f"{found['train_examples_per_s']:>13.1f}{found['score_examples_per_s']:>13.1f}"
        print(f"{name:<12}{speeds}{found['ratio']:>8.2f}   {low:.2f} to {high:.2f}", flush=True)
        setting = {"data": bench.described(), "repeats": options.repeats, "environment": environment(precision)}
        keep_figures(options.output, name, {**setting, **found})


if __name__ == "__main__":
    main()
