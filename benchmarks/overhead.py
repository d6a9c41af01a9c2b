"""What the diet's machinery costs where it drops nothing: `DietTrainer` at keep 1.0 against the plain Trainer.

    python -m benchmarks.overhead                                                # 10 minutes on two cores
    python -m benchmarks.overhead --rows 64 --blocks 2 --steps 2 --output build/overhead.json    # a quick look

Both trainers are alive in one process and run their own training loops, each in a thread of its own; after every 20
steps one hands over to the other, so that exactly one runs at any time and a machine that drifts hits both alike. Each
finds the global random states as it left them: same new weights, same order, same dropout, and the losses must come
out equal to the last bit. Blocks are timed without the handover; the first of each, which holds the set-up, is
dropped. What happens between epochs lies inside a block and counts. The target: the ratio of the median block times is
at most 1.02; the quartiles are those of the ratios of neighbouring blocks.
"""

from __future__ import annotations

import argparse
import math
import random
import statistics
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import Trainer, TrainerCallback, set_seed

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
    quartiles,
    rounded,
    silence,
    synchronize,
    training_arguments,
)

PLAIN, DIET = 0, 1


class Baton:
    """Whoever holds it runs; the other waits."""

    def __init__(self) -> None:
        self._holder = PLAIN
        self._error: Exception | None = None
        self._changed = threading.Condition()

    def take(self, player: int) -> None:
        """Wait for it.

        Raises:
            RuntimeError: If the other player has failed.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._holder == player or self._error is not None)
        if self._error is not None:
            raise RuntimeError("the other trainer failed") from self._error

    def hand_over(self, player: int) -> None:
        with self._changed:
            self._holder = 1 - player
            self._changed.notify_all()

    def drop(self, error: Exception) -> None:
        """End the game for both."""
        with self._changed:
            self._error = self._error or error
            self._changed.notify_all()


class Blocks(TrainerCallback):
    """Times blocks of steps and hands over after each."""

    def __init__(self, baton: Baton, player: int, steps: int) -> None:
        self._baton, self._player, self._steps = baton, player, steps
        self.seconds: list[float] = []
        self._began = 0.0

    def on_train_begin(self, *_args: Any, **_kwargs: Any) -> None:
        self._began = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **_kwargs: Any) -> None:
        if state.global_step % self._steps:
            return
        synchronize()
        self.seconds.append(time.perf_counter() - self._began)
        states = random_states()
        self._baton.hand_over(self._player)
        self._baton.take(self._player)
        restore_random_states(states)
        self._began = time.perf_counter()


def random_states() -> tuple[Any, ...]:
    on_gpu = torch.cuda.get_rng_state() if torch.cuda.is_available() else None
    return random.getstate(), np.random.get_state(), torch.get_rng_state(), on_gpu  # noqa: NPY002 what libraries use


def restore_random_states(states: tuple[Any, ...]) -> None:
    random.setstate(states[0])
    np.random.set_state(states[1])  # noqa: NPY002
    torch.set_rng_state(states[2])
    if states[3] is not None:
        torch.cuda.set_rng_state(states[3])


def contest(bench: Bench, folder: Path, *, blocks: int, steps: int, precision: str) -> tuple[list[list[float]], bool]:
    """Seconds of each player's blocks, the first dropped, and whether the two losses are equal."""
    baton, max_steps = Baton(), (blocks + 1) * steps
    watches = [Blocks(baton, player, steps) for player in (PLAIN, DIET)]

    def play(player: int) -> float:
        try:
            baton.take(player)
            trainer = build(bench, player, folder / str(player), max_steps, precision, watches[player])
            set_seed(SEED)
            loss = float(trainer.train().training_loss)
        except Exception as error:
            baton.drop(error)
            raise
        baton.hand_over(player)
        return loss

    with ThreadPoolExecutor(2) as pool:
        losses = [future.result() for future in [pool.submit(play, player) for player in (PLAIN, DIET)]]
    return [watch.seconds[1:] for watch in watches], losses[PLAIN] == losses[DIET]


def build(bench: Bench, player: int, folder: Path, max_steps: int, precision: str, watch: Blocks) -> Any:
    arguments = training_arguments(folder, precision, max_steps=max_steps)
    # the diet plans as many epochs as the steps will take
    arguments.num_train_epochs = math.ceil(
        max_steps / math.ceil(len(bench.features) / arguments.per_device_train_batch_size)
    )
    shared = {**bench.trainer_options(arguments), "callbacks": [watch]}
    return silence(Trainer(**shared) if player == PLAIN else dd.DietTrainer(**shared, diet=dd.Diet(keep=1.0)))


def figures_of(plain: list[float], diet: list[float]) -> dict[str, Any]:
    """Medians, their ratio, and the quartiles of the ratios of neighbouring blocks."""
    paired = [mine / theirs for theirs, mine in zip(plain, diet, strict=True)]
    medians = statistics.median(plain), statistics.median(diet)
    return {
        "plain_s": round(medians[0], 5),
        "diet_s": round(medians[1], 5),
        "ratio": round(medians[1] / medians[0], 5),
        "paired_quartiles": rounded(quartiles(paired)),
        "plain_blocks_s": rounded(plain),
        "diet_blocks_s": rounded(diet),
    }


def main(arguments: list[str] | None = None) -> None:
    parser = parser_of(__doc__, "overhead")
    add_setting(parser)
    parser.add_argument("--blocks", type=int, default=30, help="timed blocks of each (default: 30)")
    parser.add_argument("--steps", type=int, default=20, help="optimizer steps in a block (default: 20)")
    options: argparse.Namespace = parser.parse_args(arguments)
    precision = precision_here(options.precision)
    bench = load_bench("snips4000", None, rows=options.rows, model=options.model)
    with tempfile.TemporaryDirectory(prefix="datadiet-bench-") as work:
        (plain, diet), same = contest(
            bench, Path(work), blocks=options.blocks, steps=options.steps, precision=precision
        )
    found = figures_of(plain, diet)
    low, _, high = found["paired_quartiles"]
    print(f"{options.blocks} blocks of {options.steps} steps each   losses {'equal' if same else 'DIFFER'}")
    print(f"plain Trainer           {found['plain_s']:.3f} s a block")
    print(f"DietTrainer, keep 1.0   {found['diet_s']:.3f} s a block")
    print(f"ratio {found['ratio']:.4f}   quartiles of the paired ratios {low:.4f} to {high:.4f}   target: at most 1.02")
    setting = {"data": bench.described(), "blocks": options.blocks, "steps": options.steps, "same_loss": same}
    keep_figures(options.output, "snips4000", {**setting, **found, "environment": environment(precision)})


if __name__ == "__main__":
    main()
