"""The benchmark of the noise guard: what is planted, and what its tables say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from benchmarks.report import noise

from benchmarks import noise as measured

ENVIRONMENT = {"cpu": "a", "threads": 1, "versions": {"python": "3"}, "precision": "bf16"}


def write(folder: Path, share: float, rates: tuple[float, float], method: str = "estimate", seed: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    run: dict[str, Any] = {
        "cell": {"set": "snips", "share": share, "method": method, "seed": seed},
        "metrics": {"accuracy": 0.96, "nll": 0.3},
        "steps": 135,
        "noise": {"reviews": [{"rate": rate} for rate in rates], "planted": 200, "hits": 190, "aside": 210},
        "environment": ENVIRONMENT,
    }
    (folder / f"{share:g}-{method}-{seed}.json").write_text(json.dumps(run), encoding="utf-8")


def test_what_is_recovered_is_said_and_what_is_not(tmp_path: Path) -> None:
    write(tmp_path / "noise", 0.1, (0.15, 0.11))
    write(tmp_path / "noise", 0.1, (0.15, 0.13), seed=1)
    write(tmp_path / "noise", 0.2, (0.2, 0.16))
    text = noise.noise_rates(tmp_path)
    assert "| SNIPS, intents | 10 % | 15.00 ± 0.00 % | 12.00 ± 1.41 % | 90 % | 95 % | 2 |" in text
    assert "within 3 points of what was planted, except on SNIPS, intents at 20 %." in text


def test_where_all_is_recovered_it_says_so(tmp_path: Path) -> None:
    write(tmp_path / "noise", 0.1, (0.15, 0.11))
    assert "of what was planted in every line of this table." in noise.noise_rates(tmp_path)


def test_methods_stand_in_their_order(tmp_path: Path) -> None:
    for method in ("el2n+auto", "short", "full", "el2n"):
        write(tmp_path / "noise", 0.1, (0.1, 0.1), method)
    rows = [line for line in noise.noise_quality(tmp_path).splitlines() if line.startswith("| SNIPS")]
    assert [row.split(" | ")[2] for row in rows] == list(noise.ARMS.values())
    assert "| 96.00 | 0.300 | 1 |" in rows[0]


@pytest.mark.parametrize("share", [0.0, 0.1])
def test_what_is_planted_is_uniform_known_and_in_train_alone(tmp_path: Path, share: float) -> None:
    cell = measured.Cell("snips", share, "el2n", 1)
    flipped = measured.planted(cell, tmp_path, 200, tmp_path / "data")
    lines = {
        split: [json.loads(line) for line in (tmp_path / "data" / f"{split}.jsonl").read_text().splitlines()]
        for split in ("train", "dev", "test")
    }
    clean = measured.planted(measured.Cell("snips", 0.0, "el2n", 1), tmp_path, 200, tmp_path / "clean")
    before = [json.loads(line) for line in (tmp_path / "clean" / "train.jsonl").read_text().splitlines()]
    changed = {one["id"] for one, two in zip(lines["train"], before, strict=True) if one["label"] != two["label"]}
    assert not clean
    assert changed == flipped
    assert len(flipped) == round(share * 200)
    assert (tmp_path / "data" / "test.jsonl").read_text() == (tmp_path / "clean" / "test.jsonl").read_text()
