"""What the record of training dynamics costs: seconds of a training, and bytes per example and epoch.

    python -m benchmarks.recorder                                                # 6 minutes on two cores
    python -m benchmarks.recorder --rows 64 --epochs 2 --output build/recorder.json    # a quick look

A `DietTrainer` at keep 1.0 trains on everything and records every forward. All that the record takes is timed inside
the run: reading the signals of a batch, keeping their values, and writing them at the end of each epoch; its share of
the seconds of training is the figure. (`benchmarks.overhead` has the whole machinery, record included, beside the plain
Trainer, in turns: differences of one per cent are below what two runs on one machine can tell.) Memory is what the
record of an epoch holds at its end, disk what scores/ takes. The targets: at most 1 % of the training, at most 32 bytes
per example and epoch in memory and on disk.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import set_seed

import datadiet as dd
from benchmarks.common import (
    SEED,
    Bench,
    add_setting,
    environment,
    keep_figures,
    load_bench,
    parser_of,
    precision_here,
    silence,
    synchronize,
    training_arguments,
)
from datadiet.training.signals import TrainerSignals

RECORDED = "of_training"  # of the trainer's signals
KEPT = ("observe", "drain", "absorb")  # of the diet


class Clock:
    """Seconds spent inside the functions that it wraps; not counted twice where one calls another."""

    def __init__(self) -> None:
        self.seconds, self._depth = 0.0, 0

    def wrap(self, owner: Any, name: str) -> None:
        inner: Callable[..., Any] = getattr(owner, name)

        def timed(*args: Any, **kwargs: Any) -> Any:
            if self._depth == 0:
                synchronize()  # what the model still computes is not the record's
            began, self._depth = time.perf_counter(), self._depth + 1
            try:
                return inner(*args, **kwargs)
            finally:
                self._depth -= 1
                if self._depth == 0:
                    synchronize()
                    self.seconds += time.perf_counter() - began

        setattr(owner, name, timed)


def record(bench: Bench, folder: Path, *, epochs: int, precision: str) -> dict[str, Any]:
    """One training with the record timed."""
    diet, clock = dd.Diet(keep=1.0), Clock()
    arguments = training_arguments(folder, precision, num_train_epochs=epochs)
    trainer = silence(dd.DietTrainer(**bench.trainer_options(arguments), diet=diet))
    for name in KEPT:
        clock.wrap(diet, name)
    held = watch_memory(diet)
    set_seed(SEED)
    untimed = TrainerSignals.of_training  # of the class: the object is made when training begins
    clock.wrap(TrainerSignals, RECORDED)
    try:
        trainer.train()
    finally:
        TrainerSignals.of_training = untimed  # type: ignore[method-assign]
    seconds = trainer.ledger.snapshot().train_s + trainer.ledger.snapshot().select_s
    values = len(bench.features) * epochs
    on_disk = sum(file.stat().st_size for file in (folder / "scores").iterdir())
    return {
        "epochs": epochs,
        "train_s": round(seconds, 4),
        "record_s": round(clock.seconds, 4),
        "share": round(clock.seconds / seconds, 6),
        "memory_bytes": round(max(held) / len(bench.features), 3),
        "disk_bytes": round(on_disk / values, 3),
    }


def watch_memory(diet: Any) -> list[int]:
    """Bytes of an epoch's record, each time before it is handed over."""
    held: list[int] = []
    drain = diet.drain

    def watched() -> Any:
        arrays, _ = diet.state_dict()
        held.append(sum(array.nbytes for name, array in arrays.items() if name.startswith("training.")))
        return drain()

    diet.drain = watched
    return held


def main(arguments: list[str] | None = None) -> None:
    parser = parser_of(__doc__, "recorder")
    add_setting(parser)
    parser.add_argument("--epochs", type=int, default=3, help="epochs to train (default: 3)")
    options: argparse.Namespace = parser.parse_args(arguments)
    precision = precision_here(options.precision)
    bench = load_bench("snips4000", None, rows=options.rows, model=options.model)
    with tempfile.TemporaryDirectory(prefix="datadiet-bench-") as work:
        found = record(bench, Path(work), epochs=options.epochs, precision=precision)
    print(f"{options.epochs} epochs of {len(bench.features):,} rows: {found['train_s']:.1f} s")
    print(f"record   {found['record_s']:.3f} s, {100 * found['share']:.2f} %   target: at most 1 %")
    print(f"memory   {found['memory_bytes']:.1f} bytes per example and epoch   target: at most 32")
    print(f"disk     {found['disk_bytes']:.1f} bytes per example and epoch   target: at most 32")
    keep_figures(
        options.output, "snips4000", {"data": bench.described(), **found, "environment": environment(precision)}
    )


if __name__ == "__main__":
    main()
