"""The result of a Trainer script: the contract of a run folder, as far as a Trainer knows it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from datadiet import run_folder as layout
from datadiet.device import environment
from datadiet.records import Json

if TYPE_CHECKING:
    from datadiet.integrations.huggingface import DietMixin


def result_of(trainer: DietMixin) -> Json:
    """What `result.json` holds: the contract of a run folder, with null for what a Trainer does not know."""
    epochs = math.ceil(trainer.args.num_train_epochs)
    tokens = None if trainer.lengths is None else int(trainer.lengths.sum()) * epochs
    rows = {"train": trainer.num_rows}
    dev: Any = trainer.eval_dataset
    rows |= {"dev": len(dev)} if hasattr(dev, "__len__") and not isinstance(dev, dict) else {}
    precision = "bf16" if trainer.args.bf16 else "fp16" if trainer.args.fp16 else "fp32"
    return {
        "schema": layout.SCHEMA,
        "task": None,
        "data": {"name": None, "fingerprint": getattr(trainer.train_dataset, "_fingerprint", None), "rows": rows},
        "model": Path(getattr(getattr(trainer.model, "config", None), "_name_or_path", "") or "").name or None,
        "seed": trainer.args.seed,
        "diet": trainer.diet.describe(),
        **layout.costs_of(trainer.ledger.snapshot(), trainer.epoch_results, rows["train"] * epochs, tokens),
        "metrics": {"dev": dict(trainer.epoch_results[-1].dev) if trainer.epoch_results else {}, "test": None},
        "tolerance": trainer.diet.decider and trainer.diet.decider.summary(),
        "weights_tested": None,
        "energy": None,
        "environment": environment(trainer.args.device, precision),
    }
