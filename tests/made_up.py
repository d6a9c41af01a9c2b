"""Finished runs without training: a process that leaves what `datadiet finetune` would."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from datadiet.compare.plan import Plan, methods_from
from datadiet.config import read_config

if TYPE_CHECKING:
    import pytest

ROWS = 200
SKILL = {"full": 0.9, "el2n": 0.89, "random": 0.8, "short": 0.88}
OPTIONS = {"data": "made-up", "task": "classification", "epochs": 4, "batch_size": 10}


def made_up_plan(*methods: Any, **changes: Any) -> Plan:
    usual = {"options": OPTIONS, "methods": methods_from(methods or ["el2n"]), "keeps": [0.5], "seeds": [0, 1, 2]}
    return Plan(**{**usual, **changes})


def pretend(config_file: str, folder: Path | None = None) -> None:
    """Write the run folder of a config, there or elsewhere; its quality goes by the name of the method."""
    config = read_config(Path(config_file))
    method = Path(config.output).name.split("-")[0]
    folder = Path(config.output) if folder is None else folder
    rng = np.random.default_rng([config.seed, len(method)])
    gold = np.arange(ROWS) % 2
    right = np.random.default_rng(config.seed).random(ROWS) < SKILL.get(method, 0.85)  # the same rows are hard for all
    right ^= rng.random(ROWS) < 0.01
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(config.to_yaml())
    predicted = np.where(right, gold, 1 - gold)
    pd.DataFrame(
        {"split": "test", "id": [f"{row:03d}" for row in range(ROWS)], "gold": gold.astype(str)}
        | {"predicted": predicted.astype(str), "probability": 0.9}
    ).to_parquet(folder / "predictions.parquet")
    kept = 1.0 if config.keep == 1.0 and config.max_steps is None else 0.5
    seconds = 100 * kept + config.seed
    result = {
        "schema": 1, "task": config.task, "model": "tiny", "seed": config.seed,
        "diet": {"score": config.score},
        "data": {"name": "made-up", "fingerprint": "abc", "rows": {"train": 100, "dev": 50, "test": ROWS}},
        "metrics": {"dev": None, "test": {"accuracy": float(right.mean()), "nll": 0.3}},
        "epochs": [
            {"epoch": epoch, "steps": 10, "seconds": seconds / 4, "score_s": 0.0, "dev": {"accuracy": 0.5 + epoch / 10}}
            for epoch in range(4)
        ],
        "cost": {
            "load_s": 4.0, "train_s": seconds, "score_s": 0.0, "select_s": 0.0, "eval_s": 4.0, "save_s": 2.0,
            "finetune_s": seconds, "total_s": seconds + 10, "tokens_backward": int(1000 * kept),
        },
        "ceiling": {"examples_saved": 1 - kept, "tokens_saved": 1 - kept},
        "environment": {"cpu": "a CPU"},
    }  # fmt: skip
    (folder / "result.json").write_text(json.dumps(result))


# the process of a pretended run: it imports next to nothing, for there are hundreds of them
FAIL = "import sys; sys.stderr.write('some noise\\nerror: no such model \\'x\\'\\n'); sys.exit(2)"
MOVE = "import os, sys; os.rename(*sys.argv[1:])"


def pretend_runs(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Cells of a comparison leave a result at once, whatever their options; those of methods in the set fail.

    What a cell leaves is written here, beside its folder, and its process moves it there.
    """
    from datadiet.compare import run

    failing: set[str] = set()
    real = run._Runner._command

    def command(self: Any, cell: Any, rows: int | None) -> list[str]:
        made = real(self, cell, rows)
        if cell.method in failing:
            return [sys.executable, "-I", "-S", "-c", FAIL]
        folder = Path(read_config(Path(made[-1])).output)
        written = folder.with_name(f"{folder.name}.written")
        pretend(made[-1], written)
        return [sys.executable, "-I", "-S", "-c", MOVE, str(written), str(folder)]

    monkeypatch.setattr(run._Runner, "_command", command)
    monkeypatch.setattr("datadiet.jobs.validate.check_config", lambda config, **_: None)
    monkeypatch.setattr("datadiet.data.load.load_configured", lambda config: None)
    monkeypatch.setattr("datadiet.jobs.validate.check_with_data", lambda *_: None)
    return failing
