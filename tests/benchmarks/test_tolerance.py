"""The benchmark of the tolerance: its data, and its table from made-up results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from benchmarks.report import tolerance

from benchmarks import tolerance as measured

ENVIRONMENT = {"cpu": "A CPU", "threads": 1, "device": "cpu", "precision": "bf16", "versions": {"torch": "2.9"}}


def lossy(folder: Path, arm: str, loss: float, saved: float, *, seeds: int = 3) -> None:
    """Results of four sets that lose so many points of 80, on every sample of the test rows."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("snips", "sst2", "cola", "stsb"):
        for seed in range(seeds):
            luck = 0.1 * (seed - 1)
            run = {
                "cell": {"set": name, "arm": arm, "seed": seed},
                "metric": "accuracy",
                "metrics": {"test": {"accuracy": (80 - loss + luck) / 100}},
                "drawn": [80 - loss + luck + shift for shift in (-1.0, 0.0, 1.0)],
                "ceiling": {"tokens_saved": saved},
                "environment": ENVIRONMENT,
            }
            (folder / f"{name}-{arm}-seed{seed}.json").write_text(json.dumps(run), encoding="utf-8")


def test_the_bound_of_a_loss_that_is_known() -> None:
    """Runs that differ by their seeds alone: what is paired by seed and row cancels."""
    full = {"a": {seed: _run(80 + seed) for seed in range(3)}}
    ours = {"a": {seed: _run(79.5 + seed) for seed in range(3)}}
    held = tolerance.together(ours, full, {"a": [0, 1, 2]})
    assert (held.loss, held.upper, held.worst) == (pytest.approx(0.5), pytest.approx(0.5), pytest.approx(0.5))
    noisy = {"a": {seed: _run(79.5 + seed + (seed - 1)) for seed in range(3)}}
    assert tolerance.together(noisy, full, {"a": [0, 1, 2]}).upper > 1.0


def _run(value: float) -> dict[str, Any]:
    drawn = [value - 2, value, value + 2]
    return {
        "metric": "accuracy", "metrics": {"test": {"accuracy": value / 100}}, "drawn": drawn,
        "ceiling": {"tokens_saved": 0.2},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("losses", "said"),
    [
        ((0.2, 0.3), ["tolerance 0.5 meets", "keep 0.7 meets", "saves 24.0 %; 80 % of that: met"]),
        ((0.2, 2.0), ["tolerance 0.5 meets", "keep 0.7 does not meet", "no fixed keep that was tried meets it"]),
        ((0.8, 0.3), ["tolerance 0.5 does not meet", "keep 0.7 meets"]),
    ],
)
def test_the_table_says_whether_a_tolerance_keeps_its_word(
    tmp_path: Path, losses: tuple[float, float], said: list[str]
) -> None:
    folder = tmp_path / "tolerance"
    lossy(folder, "full", 0.0, 0.0)
    lossy(folder, "tolerance-0.5", losses[0], 0.2)
    lossy(folder, "keep-0.7", losses[1], 0.24)
    text = tolerance.tolerance(tmp_path)
    assert [words for words in said if words not in text] == []
    assert text.count("| SNIPS |") == 2


def test_the_tolerance_is_measured_on_fixed_shares(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for split, rows in (("train", 2100), ("dev", 40)):  # no test: the dev split is tested on
        lines = [json.dumps({"text": f"{split} {row}", "label": row % 2}) + "\n" for row in range(rows)]
        (tmp_path / "cola").mkdir(exist_ok=True)
        (tmp_path / "cola" / f"{split}.jsonl").write_text("".join(lines), encoding="utf-8")
    one, two = (measured.prepare("cola", tmp_path, tmp_path / name) for name in ("one", "two"))
    texts = {split: (one / f"{split}.jsonl").read_text() for split in ("train", "dev", "test")}
    assert texts == {split: (two / f"{split}.jsonl").read_text() for split in texts}
    rows = {split: text.splitlines() for split, text in texts.items()}
    assert {split: len(lines) for split, lines in rows.items()} == {"train": 1500, "dev": 500, "test": 40}
    assert not set(rows["train"]) & set(rows["dev"])
    assert all('"dev ' in line for line in rows["test"])
