"""The benchmarks: the tables on made-up results, and every measuring script at a size of seconds."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))  # the benchmarks are run from the repository and not installed

from benchmarks.all import QUICK  # noqa: E402
from benchmarks.all import main as run_all  # noqa: E402
from benchmarks.cells import each_once  # noqa: E402
from benchmarks.common import keep_figures, quartiles  # noqa: E402
from benchmarks.report import tolerance  # noqa: E402
from benchmarks.report.markdown import NOT_YET  # noqa: E402
from benchmarks.report.numbers import Spread, saving, spread, verdict  # noqa: E402

from benchmarks import grid, imports, tables  # noqa: E402
from benchmarks import tolerance as measured  # noqa: E402

ENVIRONMENT = {"cpu": "A CPU", "threads": 2, "device": "cpu", "precision": "bf16", "versions": {"torch": "2.9"}}
ONE_THREAD = ENVIRONMENT | {"threads": 1}


def made_up(
    folder: Path,
    name: str,
    method: str,
    keep: float,
    seed: int,
    metrics: dict[str, float],
    *,
    seconds: float = 100.0,
    rescore: str = "none",
    labelled: bool = True,
    environment: dict[str, Any] = ENVIRONMENT,
) -> None:
    """One result as the grid keeps it: a token costs a second."""
    run = {
        "cell": {"set": name, "method": method, "keep": keep, "seed": seed},
        "data": {"rows": {"train": 1500}},
        "diet": {"rescore": rescore},
        "epochs": [{"steps": 40}, {"steps": 40 if keep == 1.0 else int(40 * keep)}],
        "metrics": {"dev": metrics, "test": metrics if labelled else None},
        "cost": {"finetune_s": seconds, "total_s": seconds + 100, "tokens_backward": int(1000 * keep)},
        "environment": environment,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}-{method}-{keep:g}-seed{seed}.json").write_text(json.dumps(run), encoding="utf-8")


def joint(value: float) -> dict[str, float]:
    return {"intent_accuracy": value, "slot_f1": value, "exact_match": value}


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """ATIS with two seeds: el2n above random, within the spread of `short`; one unlabelled test set."""
    quality = tmp_path / "results" / "quality"
    for seed, full in enumerate((0.97, 0.98)):
        made_up(quality, "atis", "full", 1.0, seed, joint(full), environment=ONE_THREAD)
        made_up(quality, "atis", "el2n", 0.5, seed, joint(full - 0.001), environment=ONE_THREAD)
        made_up(quality, "atis", "random", 0.5, seed, joint(full - 0.01 - 0.001 * seed), environment=ONE_THREAD)
        made_up(quality, "atis", "short", 0.5, seed, joint(full + 0.01 * (2 * seed - 1)), environment=ONE_THREAD)
    made_up(quality, "cola", "full", 1.0, 0, {"matthews": 0.4, "accuracy": 0.8}, labelled=False)
    made_up(quality, "cola", "el2n", 0.5, 0, {"matthews": 0.3, "accuracy": 0.8}, labelled=False)
    made_up(quality, "cola", "random", 0.5, 0, {"matthews": 0.35, "accuracy": 0.8}, labelled=False)
    speed = tmp_path / "results" / "speed"
    made_up(speed, "atis", "full", 1.0, 0, joint(0.5), seconds=100.0)
    made_up(speed, "atis", "el2n", 0.5, 0, joint(0.5), seconds=51.0)
    made_up(speed, "atis", "all", 0.5, 0, joint(0.5), seconds=60.0, rescore="all")
    return tmp_path / "results"


def rows_of(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]


# ------------------------------------------------------------------------------------------------------------ numbers


def test_spread_is_that_of_a_sample() -> None:
    assert spread([1.0, 2.0, 3.0]) == Spread(2.0, 1.0, 3)
    assert spread([1.0]) == Spread(1.0, None, 1)
    assert spread([]) is None


@pytest.mark.parametrize(
    ("mean", "deviation", "word"),
    [  # over three seeds half the interval is 4.303 / sqrt(3) = 2.484 deviations
        (0.25, 0.1, "better"),
        (0.24, 0.1, "not shown"),
        (-0.24, 0.1, "not shown"),
        (-0.25, 0.1, "worse"),
        (0.3, None, "better in one seed"),
        (-0.3, None, "worse in one seed"),
        (0.0, None, "not shown"),
        (0.0, 0.0, "not shown"),
    ],
)
def test_verdict_asks_for_an_interval_without_0(mean: float, deviation: float | None, word: str) -> None:
    assert verdict(Spread(mean, deviation, 1 if deviation is None else 3)) == word


def test_savings_are_paired_by_seed_and_medians() -> None:
    def run(seconds: float, tokens: int) -> dict[str, Any]:
        return {"cost": {"finetune_s": seconds, "total_s": 2 * seconds, "tokens_backward": tokens}}

    full = {0: run(100.0, 1000), 1: run(200.0, 1000), 2: run(100.0, 1000), 9: run(1.0, 1)}
    diet = {0: run(60.0, 500), 1: run(80.0, 500), 2: run(55.0, 500)}
    found = saving(diet, full)
    assert found is not None
    assert (found.finetune, found.total, found.ceiling, found.of_ceiling) == pytest.approx((0.45, 0.45, 0.5, 0.9))
    assert (found.finetune_s, found.count) == ((100.0, 60.0), 3)
    assert saving(diet, {9: full[9]}) is None


def test_quartiles_of_one_value() -> None:
    assert quartiles([2.0]) == [2.0, 2.0, 2.0]
    assert quartiles([1.0, 2.0, 3.0, 4.0, 5.0]) == [2.0, 3.0, 4.0]


def test_figures_stand_beside_those_of_other_cases(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "x.json"
    for case, value in (("b", 1), ("a", 2), ("b", 3)):
        keep_figures(path, case, {"value": value})
    assert json.loads(path.read_text()) == {"a": {"value": 2}, "b": {"value": 3}}
    assert [file.name for file in path.parent.iterdir()] == ["x.json"]


# ------------------------------------------------------------------------------------------------------------- tables


def test_quality_table(results: Path) -> None:
    text = tables.TABLES["quality-atis"](results)
    assert rows_of(text)[2:] == [
        ["full data", "1", "80", *["97.50 ± 0.71"] * 3, "2"],
        ["`hardest` by el2n", "0.5", "60", *["97.40 ± 0.71 (-0.10)"] * 3, "2"],
        ["`hardest`, `rescore all`", "0.5", "60", *["50.00 (-47.00)"] * 3, "1"],
        ["`random`, re-drawn", "0.5", "60", *["96.45 ± 0.64 (-1.05)"] * 3, "2"],
        ["`short`", "0.5", "60", *["97.50 ± 2.12 (+0.00)"] * 3, "2"],
    ]
    assert "against `random`: intent accuracy +0.95 ± 0.07, better" in text
    assert "against `short`: intent accuracy -0.10 ± 1.41, **not shown**" in text
    assert "full data, span F1 at least 95.0: met" in text
    assert "keep 0.5, span F1 within 0.3 points of full: met" in text
    assert "figures of test" in text
    assert "A CPU, 1 thread, bf16, torch 2.9" in text


def test_a_target_that_is_missed_is_said(results: Path) -> None:
    for seed in (0, 1):
        made_up(results / "quality", "atis", "el2n", 0.5, seed, joint(0.96))
    text = tables.TABLES["quality-atis"](results)
    assert "keep 0.5, intent accuracy within 0.3 points of full: **missed**" in text
    assert "full data, intent accuracy at least 97.0: met" in text


def test_figures_without_test_labels_say_so(results: Path) -> None:
    text = tables.TABLES["quality-shares"](results)
    assert "**CoLA**, 1,500 training rows, 2 epochs; figures of dev, because test has no labels:" in text
    assert rows_of(text)[3] == ["`hardest` by el2n", "0.5", "60", "30.00 (-10.00)", "1"]
    assert "against `random`: Matthews x 100 -5.00, **worse in one seed**" in text
    assert "accuracy +0.00" not in text  # the main metric alone


def test_cells_that_the_quality_grid_lacks_come_from_the_speed_grid(results: Path) -> None:
    made_up(results / "speed", "atis", "full", 1.0, 2, joint(0.99))
    made_up(results / "speed", "atis", "dropped", 0.5, 2, joint(0.99), rescore="dropped")
    rows = rows_of(tables.TABLES["quality-atis"](results))
    assert [row[0] for row in rows[2:]].count("full data") == 1
    assert rows[2][3:] == [*["98.00 ± 1.00"] * 3, "3"]  # seed 0 stays that of the quality grid
    assert [row[-1] for row in rows if "dropped" in row[0]] == ["1"]


def test_the_quality_grid_takes_the_diet_of_the_speed_grid_for_short(results: Path) -> None:
    made_up(results / "speed", "atis", "el2n", 0.5, 7, joint(0.99))
    diet = grid.Cell("atis", "el2n", 0.5, 7)
    timed = grid.result_file(diet, results / "quality")
    assert timed.parent.name == "speed"
    steps = sum(epoch["steps"] for epoch in json.loads(timed.read_text())["epochs"])
    short = grid.config_of(grid.Cell("atis", "short", 0.5, 7), Path("data"), results / "quality", {})
    assert (short["max_steps"], short["keep"]) == (steps, 1.0)
    assert grid.result_file(grid.Cell("atis", "el2n", 0.2, 7), results / "quality").parent.name == "quality"


def test_speed_comes_from_the_speed_grid_alone(results: Path) -> None:
    text = tables.TABLES["speed"](results)
    assert rows_of(text)[2:] == [
        ["ATIS, 1,500 rows", "0.5", "`none`", "100 s", "51 s", "49.0 %", "24.5 %", "50.0 %", "98.0 % met", "1"],
        ["ATIS, 1,500 rows", "0.5", "`all`", "100 s", "60 s", "40.0 %", "20.0 %", "50.0 %", "80.0 %", "1"],
    ]
    assert "2 threads" in text
    assert "1 thread," not in text


def test_readme_table(results: Path) -> None:
    text = tables.TABLES["readme"](results)
    assert rows_of(text)[2:] == [
        ["full data", "80", "97.50 ± 0.71", "97.50 ± 0.71", "-"],
        ["`hardest` by el2n, keep 0.5", "60", "97.40 ± 0.71", "97.40 ± 0.71", "49 %"],
    ]


OVERHEAD = {"blocks": 30, "steps": 20, "same_loss": True, "plain_s": 2.0, "diet_s": 2.02, "ratio": 1.01}
RECORD = {"epochs": 3, "train_s": 80.0, "record_s": 0.6, "share": 0.0075, "memory_bytes": 29.0, "disk_bytes": 25.5}
SELECTOR = {"seconds": 0.5, "fastest": 0.4, "slowest": 0.6, "peak_gb": 0.1, "times_hardest": 1.0}
CACHED = {"runs": 39, "methods": 10, "seeds": 3, "test_rows": 2000, "compare_s": 4.0, "report_s": 5.0}
REAL = {"runs": 12, "epochs": 6, "data": {"name": "snips", "rows": 1000}, "processes_s": 100.0, "compare_s": 103.0}
PAGE = {
    "rounds": 10, "folder_bytes": 200_000_000, "data_bytes": 100_000_000, "seconds": 20.0, "peak_bytes": 900_000_000,
    "page_bytes": 3_000_000,
}  # fmt: skip
GEOMETRY = {"kind": "selector", "number": 50_000, "keep": 0.3, "seconds": 60.0, "peak_bytes": 10**9}
SCORED = GEOMETRY | {"kind": "score", "number": 100_000}
TURNS = {
    "data": {"name": "snips", "rows": 2000}, "first_s": [2.0, 2.0, 2.0], "second_s": [2.2, 2.2, 2.2],
    "paired_quartiles": [1.0, 1.1, 1.2],
}  # fmt: skip
COST_CASES = [
    ("overhead", "snips4000", OVERHEAD | {"paired_quartiles": [0.99, 1.01, 1.03]}, "at most 1.02: met"),
    ("overhead", "snips4000", OVERHEAD | {"paired_quartiles": [1.0, 1.0, 1.0], "ratio": 1.03}, "**missed**"),
    ("overhead", "snips4000", OVERHEAD | {"paired_quartiles": [1.0, 1.0, 1.0], "same_loss": False}, "**differ**"),
    ("recorder", "snips4000", RECORD, "| 0.75 %, at most 1 %: met | 29.0, at most 32: met | 25.5, at most 32: met |"),
    ("recorder", "snips4000", RECORD | {"share": 0.011}, "1.10 %, at most 1 %: **missed**"),
    ("recorder", "snips4000", RECORD | {"disk_bytes": 33.0}, "33.0, at most 32: **missed**"),
    (
        "scoring",
        "atis",
        {"train_examples_per_s": 100.0, "score_examples_per_s": 390.0, "ratio": 3.9, "paired_quartiles": [3.8, 3.9, 4]},
        "at least 4: **missed**",
    ),
    ("selectors", "10000000", {"selectors": {"hardest": SELECTOR}}, "1 s, 0.5 GB: met"),
    ("selectors", "10000000", {"selectors": {"hardest": SELECTOR | {"peak_gb": 0.6}}}, "1 s, 0.5 GB: **missed**"),
    ("selectors", "100000000", {"selectors": {"hardest": SELECTOR | {"seconds": 13}}}, "12 s: **missed**"),
    ("selectors", "10000000", {"selectors": {"random": SELECTOR | {"times_hardest": 3.1}}}, "3 x: **missed**"),
    ("selectors", "1000000", {"selectors": {"infobatch": SELECTOR | {"seconds": 0.05}}}, "0.050 s | 0.400 to 0.600"),
    ("selectors", "1000000", {"selectors": {"infobatch": SELECTOR | {"seconds": 0.05}}}, "50 ms: met"),
    ("selectors", "1000000", {"selectors": {"seta": SELECTOR | {"seconds": 0.051}}}, "50 ms: **missed**"),
    ("gradients", "last_layer", TURNS | {"ratio": 1.05}, "at most 1.1: met"),
    ("gradients", "last_layer", TURNS | {"ratio": 1.2}, "at most 1.1: **missed**"),
    (
        "gradients",
        "exact",
        TURNS | {"ratio": 4.4, "rows_of_loop": 256},
        "| 2.20 s | 2.00 s | 4.40 | 1.00 to 1.20 | at least 4: met |",
    ),
    ("gradients", "exact", TURNS | {"ratio": 3.9, "rows_of_loop": 256}, "at least 4: **missed**"),
    (
        "gradients",
        "vog",
        {"checkpoints": {"2": {"peak_bytes": 10**9}, "5": {"peak_bytes": 1_010_000_000}}, "ratio": 1.01}
        | {"data": {"name": "snips", "rows": 2000}},
        "peak with 5 checkpoints against 2 | 1,010 MB | 1,000 MB | 1.01 |  | at most 1.1: met |",
    ),
    (
        "memory",
        "synthetic",
        {
            "allowed_bytes": 10**9,
            "variants": {"none": {"peak_bytes": 2 * 10**9, "ratio": 2.0, "extra_bytes_per_example": 5.0}},
        },
        "| 2000 MB | 2.000 | 5 | **missed** |",
    ),
    (
        "comparing",
        "cached",
        CACHED | {"seconds": 9.0},
        "39 finished runs (10 methods and the baselines x 3 seeds), 2,000 test",
    ),
    ("comparing", "cached", CACHED | {"seconds": 10.1}, "at most 10 s: **missed**"),
    ("comparing", "overhead", REAL | {"overhead": 0.03}, "| 3.0 % above | at most 3 %: met |"),
    ("comparing", "overhead", REAL | {"overhead": 0.031}, "at most 3 %: **missed**"),
    ("geometry", "k_center", GEOMETRY, "| `k_center` | 50,000 x 384, keep 0.3 | 60.0 s | 1.00 GB | 120 s: met |"),
    ("geometry", "graph_cut", GEOMETRY | {"seconds": 121.0}, "120 s: **missed**"),
    ("geometry", "herding", GEOMETRY, "| 1.00 GB |  |"),
    ("geometry", "scdp", SCORED, "| 100,000 sentences scored | 60.0 s | 1.00 GB | 60 s, 2 GB: met |"),
    ("geometry", "scdp", SCORED | {"peak_bytes": 3 * 10**9}, "60 s, 2 GB: **missed**"),
    ("geometry", "prototypes", SCORED | {"number": 2000}, "| 1.00 GB |  |"),
    ("report", "100000", PAGE, "| 100,000 | 10 | 300 MB | 20.0 s | 900 MB | 3.00 MB | page under 5 MB: met |"),
    ("report", "100000", PAGE | {"page_bytes": 5_000_000}, "page under 5 MB: **missed**"),
    ("report", "1000000", PAGE, "60 s, 2 GB, page 8 MB: met"),
    ("report", "1000000", PAGE | {"seconds": 61.0}, "60 s, 2 GB, page 8 MB: **missed**"),
    ("report", "1000000", PAGE | {"peak_bytes": 2_100_000_000}, "60 s, 2 GB, page 8 MB: **missed**"),
    ("report", "1000000", PAGE | {"page_bytes": 8_100_000}, "60 s, 2 GB, page 8 MB: **missed**"),
    ("report", "2000", PAGE, "| 3.00 MB |  |"),
    ("imports", "datadiet", {"bare_s": 0.01, "import_s": 0.3, "above_bare_s": 0.29, "repeats": 10}, "0.3 s: met"),
]


@pytest.mark.parametrize(("name", "case", "figures", "said"), COST_CASES)
def test_cost_tables_say_whether_the_target_is_met(
    tmp_path: Path, name: str, case: str, figures: dict[str, Any], said: str
) -> None:
    kept = {case: {"data": {"rows": 4000}} | figures | {"environment": ENVIRONMENT}}
    (tmp_path / f"{name}.json").write_text(json.dumps(kept), encoding="utf-8")
    text = tables.TABLES[name](tmp_path)
    assert said in text
    assert "A CPU, 2 threads" in text
    assert len({len(row) for row in rows_of(text)}) == 1


@pytest.mark.parametrize("name", tables.TABLES)
def test_what_is_not_measured_is_said(name: str, tmp_path: Path) -> None:
    assert tables.TABLES[name](tmp_path) == NOT_YET


@pytest.mark.parametrize("name", tables.TABLES)
def test_the_kept_results_give_every_table(name: str) -> None:
    assert tables.TABLES[name](tables.RESULTS)


# ---------------------------------------------------------------------------------------------------------- documents


@pytest.fixture
def documents(tmp_path: Path) -> Path:
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "benchmarks.md").write_text(
        "# Measured\n<!-- table:speed -->\nold\n<!-- /table -->\nbetween\n"
        "<!-- table:imports -->\n<!-- /table -->\nend\n"
    )
    return tmp_path


def test_filling_is_repeatable_and_check_finds_what_is_stale(
    results: Path, documents: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = documents / "docs" / "benchmarks.md"
    options = ["--results", str(results), "--root", str(documents)]
    before = page.read_text()
    with pytest.raises(SystemExit, match="1"):
        tables.main([*options, "--check"])
    assert page.read_text() == before
    tables.main(options)
    filled = page.read_text()
    assert "old" not in filled
    assert filled.startswith("# Measured\n<!-- table:speed -->\n\n| set |")
    assert filled.endswith(f"<!-- table:imports -->\n\n{NOT_YET}\n\n<!-- /table -->\nend\n")
    tables.main([*options, "--check"])
    tables.main(options)
    assert page.read_text() == filled
    assert capsys.readouterr().out.splitlines()[-1] == "changed: nothing"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("<!-- table:sped -->\n<!-- /table -->\n", "unknown table sped; allowed: quality-atis"),
        ("<!-- table:speed -->\nno end\n", "opened and not closed"),
    ],
)
def test_a_broken_marker_is_refused(documents: Path, text: str, said: str) -> None:
    (documents / "README.md").write_text(text)
    with pytest.raises(SystemExit, match=f"README.md: .*{said}"):
        tables.main(["--root", str(documents), "--results", str(documents)])


# ---------------------------------------------------------------------------------------------------------- measuring


def test_imports(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    imports.main(["--repeats", "1", "--output", str(tmp_path / "imports.json")])
    found = json.loads((tmp_path / "imports.json").read_text())["datadiet"]
    assert found["above_bare_s"] == pytest.approx(found["import_s"] - found["bare_s"], abs=1e-4)
    assert len(found["bare_each_s"]) == len(found["import_each_s"]) == 1
    assert "at most 0.3" in capsys.readouterr().out
    assert "at most 0.3 s" in tables.TABLES["imports"](tmp_path)


def small(tmp_path: Path, name: str, *more: str) -> list[str]:
    from toys import tiny_model_folder

    options = ["--rows", "64", "--precision", "fp32", "--output", str(tmp_path / f"{name}.json"), *more]
    return [*options, "--model", str(tiny_model_folder(tmp_path))]


def test_overhead_lets_both_trainers_see_the_same(tmp_path: Path) -> None:
    from benchmarks import overhead

    overhead.main(small(tmp_path, "overhead", "--blocks", "2", "--steps", "2"))
    found = json.loads((tmp_path / "overhead.json").read_text())["snips4000"]
    assert found["same_loss"] is True
    assert len(found["plain_blocks_s"]) == len(found["diet_blocks_s"]) == 2
    assert found["ratio"] == pytest.approx(found["diet_s"] / found["plain_s"], rel=1e-2)
    assert "2 x 2 steps" in tables.TABLES["overhead"](tmp_path)
    assert str(tmp_path) not in (tmp_path / "overhead.json").read_text()


def test_the_recorder_counts_what_it_keeps(tmp_path: Path) -> None:
    from benchmarks import recorder

    recorder.main(small(tmp_path, "recorder", "--epochs", "2"))
    found = json.loads((tmp_path / "recorder.json").read_text())["snips4000"]
    assert found["memory_bytes"] == 29.0  # six signals and the moment as float32, and whether it was seen
    assert 0 < found["record_s"] < found["train_s"]
    assert found["share"] == pytest.approx(found["record_s"] / found["train_s"], rel=1e-2)
    assert found["disk_bytes"] > 0
    assert "at most 1 %" in tables.TABLES["recorder"](tmp_path)
    assert str(tmp_path) not in (tmp_path / "recorder.json").read_text()


def test_the_baton_is_in_one_hand() -> None:
    from benchmarks.overhead import Baton

    baton, seen = Baton(), []

    def play(player: int) -> None:
        for turn in range(5):
            baton.take(player)
            seen.append((turn, player))
            baton.hand_over(player)

    threads = [threading.Thread(target=play, args=(player,)) for player in (1, 0)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=10)
    assert seen == [(turn, player) for turn in range(5) for player in (0, 1)]


def test_a_trainer_that_fails_ends_the_other(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from benchmarks import overhead

    def fail(*_args: Any) -> None:
        raise ValueError("no model")

    monkeypatch.setattr(overhead, "build", fail)
    with pytest.raises(ValueError, match="no model"):
        overhead.contest(None, tmp_path, blocks=1, steps=1, precision="fp32")  # type: ignore[arg-type]
    baton = overhead.Baton()
    baton.drop(ValueError("it"))
    with pytest.raises(RuntimeError, match="the other trainer failed"):
        baton.take(1)


def test_scoring(tmp_path: Path) -> None:
    from benchmarks import scoring

    scoring.main(small(tmp_path, "scoring", "--repeats", "2"))
    found = json.loads((tmp_path / "scoring.json").read_text())["snips4000"]
    assert len(found["train_s"]) == len(found["score_s"]) == 2
    assert found["ratio"] == pytest.approx(found["score_examples_per_s"] / found["train_examples_per_s"], rel=1e-3)
    assert "SNIPS, 64 rows" in tables.TABLES["scoring"](tmp_path)


def test_memory_allows_a_share_and_bytes_per_example() -> None:
    from benchmarks.memory import compare

    found = compare({"plain": [1000, 1200, 1100], "none": [1400, 1500, 1600]}, examples=10)
    assert found["allowed_bytes"] == 1.05 * 1100 + 640
    assert found["variants"]["none"]["extra_bytes_per_example"] == 40.0
    assert found["variants"]["none"]["ratio"] == pytest.approx(1500 / 1100, abs=1e-4)


def test_peak_memory_is_that_of_the_process_and_never_falls() -> None:
    program = "from benchmarks.memory import peak_bytes\nstart = peak_bytes()\nheld = bytes(range(250)) * 200_000\n"
    program += "most = peak_bytes()\ndel held\nprint(start, most, peak_bytes())"
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    start, most, end = map(int, done.stdout.split())
    assert start < 100_000_000  # this process has held far more: torch is loaded
    assert most - start == pytest.approx(50_000_000, rel=0.1)
    assert end == pytest.approx(most, rel=0.01)


def test_memory_of_the_diet_beside_that_of_the_plain_trainer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks import memory

    def in_this_process(case: str, variant: str, options: Any) -> dict[str, Any]:
        options.measure = (case, variant)
        return memory.measure_here(options)

    monkeypatch.setattr(memory, "measure_apart", in_this_process)
    options = small(tmp_path, "memory", "--cases", "synthetic,snips4000", "--examples", "600", "--repeats", "1")
    memory.main(options)
    found = json.loads((tmp_path / "memory.json").read_text())
    assert (found["synthetic"]["data"]["rows"], found["snips4000"]["data"]["rows"]) == (600, 64)
    assert set(found["synthetic"]["variants"]) == {"plain", "none", "all"}
    assert "synthetic, 600 rows" in tables.TABLES["memory"](tmp_path)


@pytest.mark.slow
def test_memory_in_a_process_of_its_own() -> None:
    from benchmarks import memory

    options = argparse.Namespace(examples=600, model="minilm", precision="fp32", rows=None)
    assert memory.measure_apart("synthetic", "none", options)["peak_bytes"] > 100_000_000
    options.precision = "fp3"
    with pytest.raises(RuntimeError, match=r"synthetic, none: [\s\S]*invalid choice: 'fp3'"):
        memory.measure_apart("synthetic", "none", options)


def test_made_up_runs_are_finished_runs(tmp_path: Path) -> None:
    from benchmarks.report_scale import write_folder

    from datadiet.reporting.rows import read_dynamics, training_texts
    from datadiet.store.run_folder import read_result

    run = write_folder(tmp_path, examples=400, rounds=4)
    result = read_result(run)
    dynamics = read_dynamics(run, result)
    assert [(entry.source, entry.count) for entry in dynamics.rounds] == [
        ("train", 400), *[("pass", 400), ("train", 192)] * 3
    ]  # fmt: skip
    assert [choice.count for choice in dynamics.choices] == [192] * 3
    assert result["cost"]["examples_backward"] == 400 + 3 * 192
    texts, labels = training_texts(run, result, dynamics.kept.last.nonzero()[0]) or ([], [])
    assert len(texts) == len(labels) == 192
    assert 50 < sum(map(len, texts)) / 192 < 200
    assert result["metrics"]["test"]["accuracy"] == pytest.approx(0.9, abs=0.1)


def test_report_at_scale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from benchmarks import report_scale

    monkeypatch.setattr(report_scale, "report_apart", lambda run: {"seconds": 1.0, **report_scale.report_here(run)})
    report_scale.main(["--examples", "300,200", "--rounds", "3", "--output", str(tmp_path / "report.json")])
    found = json.loads((tmp_path / "report.json").read_text())
    assert list(found) == ["200", "300"]
    assert found["300"]["page_bytes"] > found["200"]["page_bytes"] > 50_000
    assert "| 300 | 3 |" in tables.TABLES["report"](tmp_path)
    assert str(tmp_path) not in (tmp_path / "report.json").read_text()


@pytest.mark.slow
def test_the_report_is_made_in_a_process_of_its_own(tmp_path: Path) -> None:
    from benchmarks import report_scale

    run = report_scale.write_folder(tmp_path, examples=100, rounds=2)
    found = report_scale.report_apart(run)
    assert 50_000_000 < found["peak_bytes"] < 500_000_000
    (run / "result.json").unlink()
    with pytest.raises(RuntimeError, match=r"the report failed: [\s\S]*an unfinished run"):
        report_scale.report_apart(run)


@pytest.fixture
def commands_here(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """The benchmark's commands run in this process, and take a second each."""
    from typer.testing import CliRunner

    from benchmarks import comparing
    from datadiet.cli import app
    from datadiet.cli.options import Call

    said: list[tuple[str, ...]] = []

    def timed(*arguments: str) -> float:
        done = CliRunner().invoke(app, arguments, obj=Call(0.0))
        assert done.exit_code == 0, done.output
        said.append(arguments)
        return 1.0

    monkeypatch.setattr(comparing, "timed", timed)
    return said


def test_comparing_finished_runs(tmp_path: Path, commands_here: list[tuple[str, ...]]) -> None:
    from benchmarks import comparing

    comparing.main(["--cases", "cached", "--test-rows", "40", "--output", str(tmp_path / "comparing.json")])
    assert [arguments[0] for arguments in commands_here] == ["compare", "report"]
    found = json.loads((tmp_path / "comparing.json").read_text())["cached"]
    assert (found["runs"], found["seconds"]) == (39, 2.0)
    assert found["page_bytes"] > 100_000
    assert "39 finished runs" in tables.TABLES["comparing"](tmp_path)


@pytest.mark.usefixtures("pretended", "commands_here")
def test_the_overhead_of_a_comparison_is_above_its_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks import comparing

    comparing.main(small(tmp_path, "comparing", "--cases", "overhead", "--epochs", "4", "--seeds", "1"))
    found = json.loads((tmp_path / "comparing.json").read_text())["overhead"]
    assert (found["runs"], found["epochs"], found["compare_s"]) == (4, 4, 1.0)
    assert found["processes_s"] > 0
    assert found["overhead"] == pytest.approx(1 / found["processes_s"] - 1, rel=0.01)
    assert "4 real runs of 4 epochs" in tables.TABLES["comparing"](tmp_path)


def test_a_command_that_fails_ends_the_benchmark() -> None:
    from benchmarks.comparing import timed

    with pytest.raises(RuntimeError, match=r"datadiet report: [\s\S]*neither a run nor a comparison"):
        timed("report", "nowhere")


# ----------------------------------------------------------------------------------------------------------- grids


def test_a_cell_that_fails_is_told_and_stops_no_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cells = [grid.Cell("atis", "full", 1.0, seed) for seed in range(4)]
    (tmp_path / f"{cells[0].name}.json").write_text("{}")
    (tmp_path / f"{cells[1].name}.lock").write_text(str(os.getpid()))  # another process has it
    (tmp_path / f"{cells[2].name}.lock").write_text("no process")  # what a killed one left
    ran = []

    def run(cell: grid.Cell) -> str:
        ran.append(cell.seed)
        assert (tmp_path / f"{cell.name}.lock").read_text() == str(os.getpid())
        if cell.seed == 2:
            raise RuntimeError("error: no such model")
        return "fine"

    whole = each_once(cells, tmp_path, run, lambda cell: (tmp_path / f"{cell.name}.json").exists())
    assert (ran, whole) == ([2, 3], False)
    said = capsys.readouterr().out.splitlines()
    assert said[0].endswith("atis-full-1-seed2  FAILED: error: no such model")
    assert said[1].endswith("atis-full-1-seed3  fine")
    assert sorted(path.name for path in tmp_path.glob("*.lock")) == [f"{cells[1].name}.lock"]
    assert each_once(cells[3:], tmp_path, run, lambda cell: False)


# ----------------------------------------------------------------------------------------------------------- tolerance


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
                "environment": ONE_THREAD,
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


# ----------------------------------------------------------------------------------------------------------- geometry


def test_every_case_of_geometry_runs_and_its_figures_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from benchmarks import geometry

    small = ["--sentences", "300", "--points", "200", "--only", "scdp,prototypes,k_center,graph_cut"]
    monkeypatch.setattr(sys, "argv", ["geometry", "--output", str(tmp_path / "geometry.json"), *small])
    geometry.main()
    kept = json.loads((tmp_path / "geometry.json").read_text())
    assert {name: case["number"] for name, case in kept.items()} == {
        "scdp": 300,
        "prototypes": 300,
        "k_center": 200,
        "graph_cut": 200,
    }
    assert all(case["seconds"] >= 0 and case["peak_bytes"] > 1e7 for case in kept.values())
    assert str(tmp_path) not in capsys.readouterr().out
    assert tables.TABLES["geometry"](tmp_path).count("| `") == 4


# ----------------------------------------------------------------------------------------------------------- all of it


def test_every_table_has_a_part_that_measures_it() -> None:
    assert [*QUICK, "readme"] == list(tables.TABLES)


def test_all_lists_its_commands_and_names_what_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "cola").mkdir()
    run_all(["--list", "--quick", "--results", str(tmp_path / "r"), "--data-root", str(tmp_path)])
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("quality-atis: atis left out") for line in lines)
    shares = next(line for line in lines if line.startswith("== quality-shares"))
    assert "--sets snips1500,cola " in shares
    assert shares.endswith("--epochs 3 --rows 192 --seeds 1")
    assert not (tmp_path / "r").exists()


def test_all_measures_what_is_asked_for(tmp_path: Path) -> None:
    run_all(["--quick", "--only", "imports", "--results", str(tmp_path)])
    assert [path.name for path in tmp_path.iterdir()] == ["imports.json"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(["--quick"], "--quick needs --results FOLDER"), (["--only", "sped"], "unknown part sped; allowed: quality-atis")],
)
def test_all_refuses_what_makes_no_sense(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        run_all(arguments)
    assert said in capsys.readouterr().err
