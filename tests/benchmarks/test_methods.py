"""The head-to-head: what its table says of made-up comparisons, and the stress variants of its data."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from benchmarks.report.methods import head_to_head, stress

from benchmarks import methods

ENVIRONMENT = {"cpu": "A CPU", "threads": 1, "device": "cpu", "precision": "bf16", "versions": {"torch": "2.9"}}


def arm(method: str, accuracy: float, *, to_short: tuple[float, float] | None = None, saved: float = 0.5) -> Any:
    """One method of `comparison.json`; `to_short` is the mean and half the interval of its difference."""
    against = {}
    if to_short is not None:
        low, high = to_short[0] - to_short[1], to_short[0] + to_short[1]
        against["short"] = {"mean": to_short[0], "interval": {"low": low, "high": high}}
    return {
        "name": method, "method": method, "seeds": [0, 1], "steps": 100, "ceiling": 0.6, "comparable_times": True,
        "metrics": {"accuracy": {"mean": accuracy, "deviation": 0.5}, "nll": {"mean": 0.3, "deviation": 0.1}},
        "saved": {"finetune_s": {"median": saved}}, "against": against,
    }  # fmt: skip


def write(results: Path, name: str, arms: list[Any]) -> None:
    runs = [
        {"name": f"{each['name']}-seed{seed}", "status": "done", "worst_class": 60.0 + seed}
        for each in arms
        for seed in (0, 1)
    ]
    found = {"metric": "accuracy", "split": "test", "environment": ENVIRONMENT, "methods": arms, "runs": runs}
    (results / "methods").mkdir(parents=True, exist_ok=True)
    (results / "methods" / f"{name}.json").write_text(json.dumps(found), encoding="utf-8")


def test_the_table_says_what_is_below_and_what_is_shown(tmp_path: Path) -> None:
    arms = [arm("full", 80.0), arm("short", 78.0), arm("el2n", 76.0, to_short=(-2.0, 1.0))]
    arms += [arm("ucb", 77.5, to_short=(-0.5, 1.0)), arm("distilled", 79.0, to_short=(1.0, 0.5))]
    write(tmp_path, "snli", arms)
    text = head_to_head(tmp_path)
    assert (
        "fewer epochs: below in the mean `ucb`, `el2n`; shown to be below `el2n`; shown to be above `distilled`" in text
    )
    assert "random rows: below in the mean none" in text
    lines = [line for line in text.splitlines() if line.startswith("| `")]
    assert [line.split("`")[1] for line in lines] == ["full", "short", "distilled", "ucb", "el2n"]
    assert lines[-1] == "| `el2n` | 100 | 76.00 ± 0.50 | 60.5 | 0.300 |  | -2.00 ± 1.00 | 60 % |"


def test_times_are_those_of_the_runs_that_were_alone(tmp_path: Path) -> None:
    write(tmp_path, "snli", [arm("full", 80.0), arm("el2n", 76.0, saved=0.9)])
    write(tmp_path, "snli-timed", [arm("full", 80.0), arm("el2n", 76.0, saved=0.41)])
    text = head_to_head(tmp_path)
    assert "time saved" in text
    assert "41 %" in text
    assert "90 %" not in text
    assert stress(tmp_path).startswith("*Not measured yet")


LABELS = ["a"] * 60 + ["b"] * 60 + ["c"] * 60


def test_the_stress_variants_do_what_they_say() -> None:
    rows, labels = methods.flipped(LABELS, np.random.default_rng(0))
    assert rows == list(range(180))
    assert sum(new != old for new, old in zip(labels, LABELS, strict=True)) == 18
    rows, labels = methods.one_rare(LABELS, np.random.default_rng(0))
    assert Counter(labels) == {"a": 3, "b": 60, "c": 60}
    assert [LABELS[row] for row in rows] == labels
    rows, labels = methods.repeated(LABELS, np.random.default_rng(0))
    assert len(rows) == 180
    assert [LABELS[row] for row in rows] == labels
    assert Counter(rows).most_common(1)[0][1] > 5  # one utterance comes again and again
    assert Counter(labels)["a"] > Counter(labels)["c"] > 0


def test_the_worst_class_is_that_of_the_split(tmp_path: Path) -> None:
    table = pd.DataFrame(
        {
            "split": ["test"] * 4 + ["dev"],
            "gold": ["a", "a", "b", "b", "c"],
            "predicted": ["a", "b", "b", "b", "a"],
        }
    )
    table.to_parquet(tmp_path / "predictions.parquet")
    assert methods.worst_class(tmp_path, "test") == pytest.approx(50.0)
