"""The benchmark of the noise guard: what is planted, and what its tables say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from benchmarks.report import noise

from benchmarks import auto
from benchmarks import noise as measured
from toys import tiny_model_folder

ENVIRONMENT = {"cpu": "a", "threads": 1, "versions": {"python": "3"}, "precision": "bf16"}


def write(folder: Path, share: float, method: str, seed: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    run: dict[str, Any] = {
        "cell": {"set": "snips", "share": share, "method": method, "seed": seed},
        "metrics": {"accuracy": 0.96, "nll": 0.3},
        "steps": 135,
        "environment": ENVIRONMENT,
    }
    (folder / f"{share:g}-{method}-{seed}.json").write_text(json.dumps(run), encoding="utf-8")


def write_guard(folder: Path, share: float, *reviews: dict[str, Any], name: str = "snips", seed: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    cell = {"set": name, "rows": 1000, "learning_rate": 3e-4, "share": share, "seed": seed, "reviews": 1}
    run = {"cell": cell, "classes": 7, "planted": round(1000 * share), "environment": ENVIRONMENT}
    usual = {"rate": 0.0, "note": "", "aside": 0, "hits": 0}
    run["reviews"] = [{**usual, **review} for review in reviews]
    (folder / f"guard-{name}-{share:g}-{seed}.json").write_text(json.dumps(run), encoding="utf-8")


def test_what_the_guard_said_and_set_aside(tmp_path: Path) -> None:
    place = tmp_path / "noise"
    write_guard(place, 0.1, {"rate": 0.11, "aside": 80, "hits": 60})
    write_guard(place, 0.1, {"note": "not learned"}, seed=1)
    write_guard(place, 0.1, {"rate": 0.15, "aside": 20, "hits": 15}, seed=2)
    write_guard(place, 0.0, {"aside": 3}, {"note": "too few"})
    write_guard(place, 0.1, {"note": "not learned"}, name="wikigold-tags")
    text = noise.noise_guard(tmp_path)
    assert "| SNIPS, intents | 7 | 1,000 | 0.0003 | 1 | 11.0, silent, 15.0 | 100 | 75 % | 25 % |" in text
    assert "it spoke in 2 of 3 trainings; there it is off by 5.0 points at most and 3.0 in the median (1 of 2 w" in text
    assert "Of wrong tags it spoke in 0 of 1 trainings." in text
    assert "| SNIPS, intents | 1,000 | 0.0003 | 1 | 1 | 3 |" in text


def test_nothing_measured_yet(tmp_path: Path) -> None:
    assert noise.noise_guard(tmp_path) == noise.NOT_YET


@pytest.mark.parametrize("name", ["snips", "snips-tags"])
def test_what_each_review_judged_is_kept_and_judged_again(tmp_path, monkeypatch, name) -> None:
    monkeypatch.setitem(measured.COMMON, "model", str(tiny_model_folder(tmp_path)))
    (tmp_path / "results").mkdir()
    cell = measured.Guarded(name, 240, 5e-4, 0.1, 0, epochs=3, warmup=2, reviews=2)
    said = measured.run_guarded(cell, tmp_path, tmp_path / "results", tmp_path / "recorded")
    result = json.loads((tmp_path / "results" / f"{cell.name}.json").read_text(encoding="utf-8"))
    assert [review["epoch"] for review in result["reviews"]] == [1, 2]
    assert result["planted"] == 24
    assert said.endswith(f"aside 0  {result['reviews'][-1]['note']}")  # of a model that knows nothing
    with np.load(tmp_path / "recorded" / f"{cell.name}.npz") as stored:
        assert stored["1.seen"].all()
        assert np.isfinite(stored["2.loss"]).all()
        assert ("groups" in stored.files) is (name == "snips")


@pytest.mark.parametrize("name", ["snips", "snips-tags"])
def test_a_guarded_cell_has_as_many_wrong_rows_as_it_says(tmp_path: Path, name: str) -> None:
    parts = []
    for share in (0.0, 0.1):
        cell = measured.Guarded(name, 200, 3e-4, share, 0)
        flipped = measured._written(cell, tmp_path, tmp_path / f"data{share:g}")
        lines = (tmp_path / f"data{share:g}" / "train.jsonl").read_text(encoding="utf-8").splitlines()
        parts.append([json.loads(line) for line in lines])
        assert flipped.sum() == round(200 * share)
    assert [one != other for one, other in zip(*parts, strict=True)] == flipped.tolist()


def test_methods_stand_in_their_order(tmp_path: Path) -> None:
    for method in ("el2n+auto", "short", "full", "el2n"):
        write(tmp_path / "noise", 0.1, method)
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


def test_a_share_of_the_entities_is_of_another_kind_as_a_whole() -> None:
    tags = ["B-city", "I-city", "O", "I-name", "I-city", "B-city", "O"]  # four entities
    lines = [{"tokens": list("abcdefg"), "tags": tags} for _ in range(250)]
    made = auto.renamed(lines, np.random.default_rng(0), 250, share=0.2)
    parts = [(0, 1), (3,), (4,), (5,)]
    kinds = [[{line["tags"][word][2:] for word in part} for part in parts] for line in made]
    assert all(len(kind) == 1 for line in kinds for kind in line)
    assert all([tag[:1] for tag in line["tags"]] == [tag[:1] for tag in tags] for line in made)
    others = [kind != {tags[part[0]][2:]} for line in kinds for kind, part in zip(line, parts, strict=True)]
    assert sum(others) == pytest.approx(200, abs=50)
    assert lines[0]["tags"] == tags


def test_slots_end_a_word_too_early_or_too_late_always_in_the_same_places() -> None:
    tags = ["B-city", "I-city", "O", "B-name", "O", "B-city", "B-name"]  # the last two cannot be moved
    lines = [{"tokens": [f"{number}", *"bcdefg"], "slots": tags} for number in range(300)]
    made = [auto.blurred(line)["tags"] for line in lines]
    assert made == [auto.blurred(line)["tags"] for line in lines]
    early, late = ([line[place] == tag for line in made] for place, tag in ((1, "O"), (4, "I-name")))
    assert [sum(early), sum(late)] == pytest.approx([90, 90], abs=35)
    assert {tuple(line[:1] + line[2:4] + line[5:]) for line in made} == {("B-city", "O", "B-name", "B-city", "B-name")}
    assert lines[0]["slots"] == tags
