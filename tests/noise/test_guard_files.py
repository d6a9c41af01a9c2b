"""What the guard leaves in the run folder."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from datadiet.jobs.finetune import finetune
from datadiet.noise.guard import NOISE, SUSPECTS, NoiseGuard, write_noise
from toys import planted, scores_of, toy_config

ROWS = 2000


def test_suspects_are_told_with_ids_labels_and_reasons(tmp_path: Path) -> None:
    data = planted(0.1)
    guard, aside = NoiseGuard().review(data.epoch(0), np.ones(ROWS, bool), data.labels, epoch=1)
    ids = [f"a{row}" for row in range(ROWS)]
    write_noise(tmp_path, guard, ids, [f"<b>{label}" for label in data.labels])
    table = pq.read_table(tmp_path / SUSPECTS).to_pandas()
    assert set(table["row"]) == set(np.flatnonzero(aside))
    assert table["id"].tolist() == [ids[row] for row in table["row"]]
    assert table["label"].tolist() == [f"<b>{data.labels[row]}" for row in table["row"]]
    assert table["suspicion"].between(0.5, 1).all()
    assert table["reason"].str.contains("wrong labels; judged once").all()
    said = json.loads((tmp_path / NOISE).read_text(encoding="utf-8"))
    assert said["schema"] == 1
    assert said["aside"] == len(table)
    assert said["reviews"][0]["low"] <= 0.1 <= said["reviews"][0]["high"]
    assert not list(tmp_path.glob("*.part"))


def test_a_run_without_suspects_says_so(tmp_path: Path) -> None:
    write_noise(tmp_path, NoiseGuard(), ["a"], ["x"])
    assert pq.read_table(tmp_path / SUSPECTS).num_rows == 0
    assert json.loads((tmp_path / NOISE).read_text(encoding="utf-8"))["rate"] == 0


@pytest.mark.parametrize("kind", ["classification", "intent-slot"])
def test_a_run_with_a_guard_tells_of_it(tmp_path: Path, kind: str) -> None:
    result = finetune(toy_config(tmp_path, kind, offset="auto"))
    assert result["diet"]["offset"] == "auto"
    assert result["noise"]["reviews"][0]["note"].endswith("200 are needed")  # 48 rows
    assert (tmp_path / "run" / NOISE).is_file()
    scores = scores_of(tmp_path / "run")
    assert scores["label_loss"].notna().all()
    if kind == "classification":
        assert np.allclose(scores["label_loss"], scores["loss"])
