"""The tables of the benchmarks, from made-up results."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from benchmarks.common import keep_figures, quartiles
from benchmarks.report.markdown import NOT_YET
from benchmarks.report.numbers import Spread, saving, spread, verdict

from benchmarks import auto, corpus_selection, grid, instruction_tuning, methods, snapshot, tables
from datadiet import registry

ENVIRONMENT = {"cpu": "A CPU", "threads": 2, "device": "cpu", "precision": "bf16", "versions": {"torch": "2.9"}}
ONE_THREAD = ENVIRONMENT | {"threads": 1}


def made_up(
    folder: Path, name: str, method: str, keep: float, seed: int, metrics: dict[str, float], *,
    seconds: float = 100.0, rescore: str = "none", labelled: bool = True, environment: dict[str, Any] = ENVIRONMENT,
) -> None:  # fmt: skip
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
        figures = {"full": full, "el2n": full - 0.001, "random": full - 0.01 - 0.001 * seed}
        for method, figure in {**figures, "short": full + 0.01 * (2 * seed - 1)}.items():
            keep = 1.0 if method == "full" else 0.5
            made_up(quality, "atis", method, keep, seed, joint(figure), environment=ONE_THREAD)
    for method, keep, matthews in (("full", 1.0, 0.4), ("el2n", 0.5, 0.3), ("random", 0.5, 0.35)):
        made_up(quality, "cola", method, keep, 0, {"matthews": matthews, "accuracy": 0.8}, labelled=False)
    speed = tmp_path / "results" / "speed"
    made_up(speed, "atis", "full", 1.0, 0, joint(0.5), seconds=100.0)
    made_up(speed, "atis", "el2n", 0.5, 0, joint(0.5), seconds=51.0)
    made_up(speed, "atis", "all", 0.5, 0, joint(0.5), seconds=60.0, rescore="all")
    return tmp_path / "results"


def rows_of(text: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]


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


def test_better_batches_have_a_row_of_their_own(results: Path) -> None:
    for method, seconds, padded in (("plain", 120.0, 1200), ("full", 100.0, 1000)):
        made_up(results / "speed", "atis", method, 1.0, 0, joint(0.5), seconds=seconds)
        path = results / "speed" / f"atis-{method}-1-seed0.json"
        run = json.loads(path.read_text())
        run["cost"]["tokens_padded"] = padded
        path.write_text(json.dumps(run), encoding="utf-8")
    text = tables.TABLES["speed"](results)
    best = ["120 s", "100 s", "16.7 %", "9.1 %", "16.7 %", "100.0 %", "1"]
    assert rows_of(text)[2] == ["ATIS, 1,500 rows", "1", "better batches", *best]
    assert len(rows_of(text)) == 5
    assert "the batches of the plain Trainer (left)" in text
    assert "plain" not in tables.TABLES["quality-atis"](results)


def test_readme_table(results: Path) -> None:
    text = tables.TABLES["readme"](results)
    assert rows_of(text)[2:] == [
        ["full data", "80", "97.50 ± 0.71", "97.50 ± 0.71", "-"],
        ["`hardest` by el2n, keep 0.5", "60", "97.40 ± 0.71", "97.40 ± 0.71", "49 %"],
    ]


BASE: dict[str, dict[str, Any]] = {
    "overhead": {
        "blocks": 30, "steps": 20, "same_loss": True, "plain_s": 2.0, "diet_s": 2.02, "ratio": 1.01,
        "paired_quartiles": [0.99, 1.01, 1.03],
    },
    "recorder": {
        "epochs": 3, "train_s": 80.0, "record_s": 0.6, "share": 0.0075, "memory_bytes": 29.0, "disk_bytes": 25.5,
    },
    "scoring": {
        "train_examples_per_s": 100.0, "score_examples_per_s": 390.0, "ratio": 3.9, "paired_quartiles": [3.8, 3.9, 4],
    },
    "gradients": {
        "data": {"name": "snips", "rows": 2000}, "first_s": [2.0, 2.0, 2.0], "second_s": [2.2, 2.2, 2.2],
        "paired_quartiles": [1.0, 1.1, 1.2], "rows_of_loop": 256,
        "checkpoints": {"2": {"peak_bytes": 10**9}, "5": {"peak_bytes": 1_010_000_000}},
    },
    "memory": {
        "allowed_bytes": 10**9,
        "variants": {"none": {"peak_bytes": 2 * 10**9, "ratio": 2.0, "extra_bytes_per_example": 5.0}},
    },
    "comparing": {
        "runs": 39, "methods": 10, "seeds": 3, "test_rows": 2000, "compare_s": 4.0, "report_s": 5.0, "epochs": 6,
        "data": {"name": "snips", "rows": 1000}, "processes_s": 100.0,
    },
    "geometry": {"kind": "selector", "number": 50_000, "keep": 0.3, "seconds": 60.0, "peak_bytes": 10**9},
    "report": {
        "rounds": 10, "folder_bytes": 200_000_000, "data_bytes": 100_000_000, "seconds": 20.0,
        "peak_bytes": 900_000_000, "page_bytes": 3_000_000,
    },
    "imports": {"bare_s": 0.01, "import_s": 0.3, "above_bare_s": 0.29, "repeats": 10},
}  # fmt: skip


def selector(name: str, **changes: float) -> dict[str, Any]:
    usual = {"seconds": 0.5, "fastest": 0.4, "slowest": 0.6, "peak_gb": 0.1, "times_hardest": 1.0}
    return {"selectors": {name: usual | changes}}


SCORED = {"kind": "score", "number": 100_000}
COST_CASES: list[tuple[str, str, dict[str, Any], str]] = [
    ("overhead", "snips4000", {}, "at most 1.02: met"),
    ("overhead", "snips4000", {"ratio": 1.03}, "**missed**"),
    ("overhead", "snips4000", {"same_loss": False}, "**differ**"),
    ("recorder", "snips4000", {}, "| 0.75 %, at most 1 %: met | 29.0, at most 32: met | 25.5, at most 32: met |"),
    ("recorder", "snips4000", {"share": 0.011}, "1.10 %, at most 1 %: **missed**"),
    ("recorder", "snips4000", {"disk_bytes": 33.0}, "33.0, at most 32: **missed**"),
    ("scoring", "atis", {}, "at least 4: **missed**"),
    ("selectors", "10000000", selector("hardest"), "1 s, 0.5 GB: met"),
    ("selectors", "10000000", selector("hardest", peak_gb=0.6), "1 s, 0.5 GB: **missed**"),
    ("selectors", "100000000", selector("hardest", seconds=13), "12 s: **missed**"),
    ("selectors", "10000000", selector("random", times_hardest=3.1), "3 x: **missed**"),
    ("selectors", "1000000", selector("infobatch", seconds=0.05), "0.050 s | 0.400 to 0.600"),
    ("selectors", "1000000", selector("infobatch", seconds=0.05), "50 ms: met"),
    ("selectors", "1000000", selector("seta", seconds=0.051), "50 ms: **missed**"),
    ("gradients", "last_layer", {"ratio": 1.05}, "at most 1.1: met"),
    ("gradients", "last_layer", {"ratio": 1.2}, "at most 1.1: **missed**"),
    ("gradients", "exact", {"ratio": 4.4}, "| 2.20 s | 2.00 s | 4.40 | 1.00 to 1.20 | at least 4: met |"),
    ("gradients", "exact", {"ratio": 3.9}, "at least 4: **missed**"),
    ("gradients", "vog", {"ratio": 1.01},
     "peak with 5 checkpoints against 2 | 1,010 MB | 1,000 MB | 1.01 |  | at most 1.1: met |"),
    ("memory", "synthetic", {}, "| 2000 MB | 2.000 | 5 | **missed** |"),
    ("comparing", "cached", {"seconds": 9.0}, "39 finished runs (10 methods and the baselines x 3 seeds), 2,000 test"),
    ("comparing", "cached", {"seconds": 10.1}, "at most 10 s: **missed**"),
    ("comparing", "overhead", {"overhead": 0.03}, "| 3.0 % above | at most 3 %: met |"),
    ("comparing", "overhead", {"overhead": 0.031}, "at most 3 %: **missed**"),
    ("geometry", "k_center", {}, "| `k_center` | 50,000 x 384, keep 0.3 | 60.0 s | 1.00 GB | 120 s: met |"),
    ("geometry", "graph_cut", {"seconds": 121.0}, "120 s: **missed**"),
    ("geometry", "herding", {}, "| 1.00 GB |  |"),
    ("geometry", "scdp", SCORED, "| 100,000 sentences scored | 60.0 s | 1.00 GB | 60 s, 2 GB: met |"),
    ("geometry", "scdp", SCORED | {"peak_bytes": 3 * 10**9}, "60 s, 2 GB: **missed**"),
    ("geometry", "prototypes", SCORED | {"number": 2000}, "| 1.00 GB |  |"),
    ("report", "100000", {}, "| 100,000 | 10 | 300 MB | 20.0 s | 900 MB | 3.00 MB | page under 5 MB: met |"),
    ("report", "100000", {"page_bytes": 5_000_000}, "page under 5 MB: **missed**"),
    ("report", "1000000", {}, "60 s, 2 GB, page 8 MB: met"),
    ("report", "1000000", {"seconds": 61.0}, "60 s, 2 GB, page 8 MB: **missed**"),
    ("report", "1000000", {"peak_bytes": 2_100_000_000}, "60 s, 2 GB, page 8 MB: **missed**"),
    ("report", "1000000", {"page_bytes": 8_100_000}, "60 s, 2 GB, page 8 MB: **missed**"),
    ("report", "2000", {}, "| 3.00 MB |  |"),
    ("imports", "datadiet", {}, "0.3 s: met"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "case", "figures", "said"), COST_CASES)
def test_cost_tables_say_whether_the_target_is_met(
    tmp_path: Path, name: str, case: str, figures: dict[str, Any], said: str
) -> None:
    kept = {case: {"data": {"rows": 4000}} | BASE.get(name, {}) | figures | {"environment": ENVIRONMENT}}
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


def test_a_setting_has_no_say_in_the_rule_that_is_chosen_for_it(tmp_path: Path) -> None:
    """`hardest` is far ahead on snips alone, so that everywhere else it is the rule of the others, and here is not."""
    gains = {"snips": {"hardest": 9, "random": 1}, "snli": {"hardest": -3, "random": -1}, "sst2": {"hardest": -3}}
    for setting, arms in gains.items():
        for arm, gain in {"short": 0, "auto": 2, "random": -1, **arms}.items():
            cell = {"setting": setting, "arm": arm, "keep": 0.3, "seed": 0}
            run = {"cell": cell, "metric": "accuracy", "metrics": {"test": {"accuracy": (50 + gain) / 100}}}
            (tmp_path / "auto").mkdir(exist_ok=True)
            (tmp_path / "auto" / f"{setting}-{arm}.json").write_text(json.dumps(run))
    shown = tables.TABLES["auto-unseen"](tmp_path).splitlines()[2:6]
    lines = [re.split(r" +[|] +", line.strip("| ")) for line in shown]
    assert lines == [
        ["snips", "`random`", "+1.00", "+2.00", "`hardest` +9.00"],
        ["snli", "`hardest`", "-3.00", "+2.00", "`random` -1.00"],
        ["sst2", "`hardest`", "-3.00", "+2.00", "`random` -1.00"],
        ["mean", "| -1.67", "+2.00", "+2.33"],
    ]


# ---- what the declarations say of the benchmarks


def measured() -> Iterator[tuple[str, str]]:
    """Kind and name of every method with a figure beside random: those of the arms that have results."""
    for module in (auto, corpus_selection, instruction_tuning):
        folder = tables.RESULTS / module.__name__.rpartition(".")[2]
        cells = (json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("*.json"))
        run = {cell["cell"]["arm"] for cell in cells}
        assert run <= set(module.ARMS), folder
        for name in sorted(run):
            arm = module.ARMS[name] or {}
            options = arm if isinstance(arm, dict) else {"score": arm.score, "select": arm.select}
            parts = {kind: options[kind].partition("(")[0] for kind in ("score", "select", "tokens") if kind in options}
            yield from parts.items()
    for name in methods.METHODS:
        yield "any", name


def test_every_method_that_is_measured_says_where() -> None:
    kinds = {"select": registry.SELECT_KINDS, "any": ("score", *registry.SELECT_KINDS, "preset")}
    found = sorted(set(measured()))
    assert ("select", "smart") in found
    assert ("tokens", "excess") in found
    for kind, name in found:
        declared = [method for one in kinds.get(kind, (kind,)) if (method := registry.find(one, name)) is not None]
        assert any(method.evidence for method in declared), f"{kind} {name}: name the heading of docs/benchmarks.md"


def test_the_snapshot_has_every_score() -> None:
    words = set(re.findall(r"[a-z0-9_]+", snapshot.FINETUNE + snapshot.OTHERS))
    assert set(registry.names("score")) <= words
