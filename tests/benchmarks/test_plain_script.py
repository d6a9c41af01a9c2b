"""The comparison with what a user would write: its data, every arm at a size of seconds, and what its table says."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from benchmarks.report import costs
from benchmarks.report.markdown import NOT_YET

from benchmarks import plain_script
from datadiet.config import FinetuneConfig
from datadiet.jobs.finetune import finetune
from toys import tiny_model_folder, write_toy_folder

ENVIRONMENT = {"cpu": "A CPU", "threads": 1, "device": "cpu", "precision": "bf16", "versions": {"torch": "2.9"}}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A data folder with one set as the benchmark reads it."""
    made, folder = write_toy_folder(tmp_path, n=64), tmp_path / "root" / "toy"
    folder.mkdir(parents=True)
    for split in plain_script.SPLITS:
        (folder / f"{split}.jsonl.gz").write_bytes(gzip.compress((made / f"{split}.jsonl").read_bytes()))
    return folder.parent


def test_rows_are_drawn_as_traffic_repeats_them(root: Path, tmp_path: Path) -> None:
    def read(file: Path) -> list[dict[str, str]]:
        return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]

    folder = plain_script.drawn(root / "toy", 600, tmp_path / "drawn", traffic=True)
    train = read(folder / "train.jsonl")
    assert len(train) == len({row["id"] for row in train}) == 600
    first, second = (count for _, count in Counter(row["label"] for row in train).most_common())
    assert first / second == pytest.approx(2, rel=0.2)  # 1 / rank of two classes
    times = Counter(row["text"] for row in train).most_common()
    assert times[0][1] > 4 * times[-1][1]
    assert len(read(folder / "test.jsonl")) == 16
    again = plain_script.drawn(root / "toy", 600, tmp_path / "again", traffic=True)
    assert (again / "train.jsonl").read_bytes() == (folder / "train.jsonl").read_bytes()


def test_a_set_is_taken_as_it_is_or_some_of_its_rows(root: Path, tmp_path: Path) -> None:
    files = [plain_script.drawn(root / "toy", rows, tmp_path / f"{rows}") / "train.jsonl" for rows in (0, 20)]
    texts = [[json.loads(line)["text"] for line in file.read_text("utf-8").splitlines()] for file in files]
    with gzip.open(root / "toy" / "train.jsonl.gz", "rt", encoding="utf-8") as lines:
        assert texts[0] == [json.loads(line)["text"] for line in lines]
    assert len(texts[1]) == 20
    assert not Counter(texts[1]) - Counter(texts[0])


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_every_arm_runs_and_none_twice(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ran: list[str] = []

    def in_this_process(settings: dict[str, Any], work: Path) -> dict[str, Any]:
        ran.append("script")
        return plain_script.plain_script({**settings, "output": str(work / "output")})

    def finetuned(settings: dict[str, Any], work: Path) -> dict[str, Any]:
        ran.append("finetune")
        return finetune(FinetuneConfig(**settings, output=str(work / "run")))

    monkeypatch.setattr(plain_script, "run_script", in_this_process)
    monkeypatch.setattr(plain_script, "finetuned", finetuned)
    output = tmp_path / "results" / "look.json"
    given = ["--data-root", str(root), "--sets", "toy", "--rows", "64", "--epochs", "3", "--seeds", "1"]
    given += ["--keeps", "0.5", "--max-length", "48", "--model", str(tiny_model_folder(tmp_path))]
    for _ in range(2):
        with pytest.raises(SystemExit, match="0"):
            plain_script.main([*given, "--output", str(output)])
    assert ran == ["script"] * 3 + ["finetune"] * 2
    assert str(tmp_path) not in output.read_text(encoding="utf-8")
    found = {case["cell"]["arm"]: case for case in json.loads(output.read_text(encoding="utf-8")).values()}
    assert {arm: case["steps"] for arm, case in found.items()} == {
        "script": 6, "script_random": 6, "script_grouped": 6, "short": 4, "diet": 4
    }  # fmt: skip
    assert found["script"]["environment"]["precision"] == "fp32"
    lines = found["script"]["epochs"]
    assert [line["finetune_s"] for line in lines] == sorted(line["finetune_s"] for line in lines)
    assert 0 < lines[-1]["finetune_s"] == found["script"]["finetune_s"] < found["script"]["total_s"]
    assert lines[-1]["accuracy"] == found["script"]["dev"]
    assert "| toy | diet | 0.5 | 4 |" in capsys.readouterr().out


def test_some_arms_alone_stay_interleaved_within_a_seed() -> None:
    cells = plain_script.cells(["toy"], [0.1, 0.2], 2, ["script", "diet"])
    once = [("script", 1.0), ("diet", 0.1), ("diet", 0.2)]
    assert [(cell.arm, cell.keep, cell.seed) for cell in cells] == [(*arm, seed) for seed in (0, 1) for arm in once]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--arms", "cover,diet"], "--arms: must be of script, script_random, script_grouped, short, diet, got cover"),
        (["--keeps", "0.2,half"], "--keeps: must be numbers separated by commas, got '0.2,half'."),
    ],
)
def test_a_list_with_an_unknown_value_is_refused(
    given: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        plain_script.main(given)
    assert message in capsys.readouterr().err


def made_up(folder: Path, *arms: tuple[str, float, float, float]) -> Path:
    """Results of two seeds: arm, keep, dev accuracy, fine-tuning seconds; the total has 10 more."""
    cases = {}
    for arm, keep, dev, seconds in arms:
        for seed in (0, 1):
            run = {
                "cell": {"set": "toy", "arm": arm, "keep": keep, "seed": seed}, "steps": 100, "dev": dev, "test": dev,
                "finetune_s": seconds, "total_s": seconds + 10, "environment": ENVIRONMENT,
            }  # fmt: skip
            if "script" in arm:
                halfway = {"finetune_s": seconds / 2, "total_s": seconds / 2 + 5, "accuracy": dev - 0.02 * seed}
                run["epochs"] = [halfway, {"finetune_s": seconds, "total_s": seconds + 9, "accuracy": dev}]
            cases[f"{arm}{keep}{seed}"] = run
    (folder / "plain_script.json").write_text(json.dumps(cases), encoding="utf-8")
    return folder


def test_the_cheapest_rung_that_reaches_the_target_counts(tmp_path: Path) -> None:
    assert costs.plain_script(tmp_path) == NOT_YET
    ladder = [("diet", 0.5, 0.899, 40.0), ("diet", 0.2, 0.896, 20.0), ("diet", 0.1, 0.88, 10.0)]
    others = [("script", 1.0, 0.9, 100.0), ("script_grouped", 1.0, 0.894, 60.0), ("short", 0.5, 0.897, 50.0)]
    text = costs.plain_script(made_up(tmp_path, *others, *ladder))
    lines = [[cell.strip() for cell in line.split("|")[2:-1]] for line in text.splitlines() if line.startswith("| toy")]
    at = {(line[0], line[1]): line[2:] for line in lines}
    assert at["script, fp32", "1"] == ["100", "90.00", "90.00", "reached", "100 s", "110 s", "1.0", "1.0"]
    # the second seed is at the target only after its last epoch
    assert at["script, fp32, until the target", ""][3:] == ["reached", "75 s", "82 s", "1.3", "1.3"]
    assert at["script, bf16, grouped, until the target", ""][3] == "2 of 2 never"
    assert at["diet", "0.1"][3] == "missed"
    assert "toy, 2 repeats: the diet is 5.0 times faster in fine-tuning and 3.7 in all; " in text
    assert "at least 4 in fine-tuning: met (fine-tuning of the others: `short` 2.0)" in text


def test_a_ladder_that_misses_the_target_says_so(tmp_path: Path) -> None:
    text = costs.plain_script(made_up(tmp_path, ("script", 1.0, 0.9, 100.0), ("diet", 0.5, 0.89, 10.0)))
    assert "no diet of the ladder reaches the target; bar **missed**" in text
