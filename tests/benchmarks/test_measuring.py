"""Every measuring script, at a size of seconds."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import threading
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from benchmarks.all import QUICK
from benchmarks.all import main as run_all
from benchmarks.cells import DATADIET, PLAIN_BATCHES, each_once, finetuned
from benchmarks.common import keep_figures
from typer.testing import CliRunner

from benchmarks import (
    comparing,
    corpus_scale,
    geometry,
    grid,
    imports,
    memory,
    next_tokens,
    overhead,
    recorder,
    report_scale,
    scoring,
    tables,
    training_scale,
)
from datadiet.cli import app
from datadiet.cli.options import Call
from datadiet.reporting.rows import read_dynamics, training_texts
from datadiet.store.run_folder import read_result
from launching import forked
from toys import tiny_model_folder, toy_config


def test_imports(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    imports.main(["--repeats", "1", "--output", str(tmp_path / "imports.json")])
    figures = json.loads((tmp_path / "imports.json").read_text())["datadiet"]
    assert figures["above_bare_s"] == pytest.approx(figures["import_s"] - figures["bare_s"], abs=1e-4)
    assert len(figures["bare_each_s"]) == len(figures["import_each_s"]) == 1
    assert "at most 0.3" in capsys.readouterr().out
    assert "at most 0.3 s" in tables.TABLES["imports"](tmp_path)


def small(tmp_path: Path, module: Any, *options: str) -> dict[str, Any]:
    """The figures of a script on 64 rows; its results hold no path."""
    name = module.__name__.rpartition(".")[2]
    output = tmp_path / f"{name}.json"
    usual = [
        "--rows",
        "64",
        "--precision",
        "fp32",
        "--output",
        str(output),
        "--model",
        str(tiny_model_folder(tmp_path)),
    ]
    module.main([*usual, *options])
    assert str(tmp_path) not in output.read_text()
    figures: dict[str, Any] = json.loads(output.read_text())
    return figures


def test_next_tokens_are_timed_in_turns_with_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("trl")
    output, sizes = tmp_path / "next_tokens.json", {"layers": 1, "hidden": 64, "words": 300, "tokens": 8, "repeats": 2}
    options = [part for name, value in sizes.items() for part in (f"--{name}", str(value))]
    next_tokens.main([*options, "--output", str(output)])
    (figures,) = json.loads(output.read_text()).values()
    assert {len(values) for values in figures["seconds"].values()} == {2}
    step, signals = figures["seconds"]["step"], figures["seconds"]["signals"]
    shares = sorted(one / whole for one, whole in zip(signals, step, strict=True))
    assert figures["share"][1] == pytest.approx(sum(shares) / 2, rel=0.02)
    assert 8 * 300 * 4 < figures["peak_bytes"] < next_tokens.MOST_BYTES
    assert "memory: " in capsys.readouterr().out


def test_overhead_shows_both_trainers_the_same(tmp_path: Path) -> None:
    figures = small(tmp_path, overhead, "--blocks", "2", "--steps", "2")["snips4000"]
    assert figures["same_loss"] is True
    assert len(figures["plain_blocks_s"]) == len(figures["diet_blocks_s"]) == 2
    assert figures["ratio"] == pytest.approx(figures["diet_s"] / figures["plain_s"], rel=1e-2)
    assert "2 x 2 steps" in tables.TABLES["overhead"](tmp_path)


def test_the_recorder_counts_what_it_keeps(tmp_path: Path) -> None:
    figures = small(tmp_path, recorder, "--epochs", "2")["snips4000"]
    assert figures["memory_bytes"] == 29.0  # six signals and the moment as float32, and whether it was seen
    assert 0 < figures["record_s"] < figures["train_s"]
    assert figures["share"] == pytest.approx(figures["record_s"] / figures["train_s"], rel=1e-2)
    assert figures["disk_bytes"] > 0
    assert "at most 1 %" in tables.TABLES["recorder"](tmp_path)


def test_scoring(tmp_path: Path) -> None:
    figures = small(tmp_path, scoring, "--repeats", "2")["snips4000"]
    assert len(figures["train_s"]) == len(figures["score_s"]) == 2
    ratio = figures["score_examples_per_s"] / figures["train_examples_per_s"]
    assert figures["ratio"] == pytest.approx(ratio, rel=1e-3)
    assert "SNIPS, 64 rows" in tables.TABLES["scoring"](tmp_path)


def test_the_baton_is_in_one_hand() -> None:
    baton, seen = overhead.Baton(), []

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
    def fail(*_args: Any) -> None:
        raise ValueError("no model")

    monkeypatch.setattr(overhead, "build", fail)
    with pytest.raises(ValueError, match="no model"):
        overhead.contest(None, tmp_path, blocks=1, steps=1, precision="fp32")  # type: ignore[arg-type]
    baton = overhead.Baton()
    baton.drop(ValueError("it"))
    with pytest.raises(RuntimeError, match="the other trainer failed"):
        baton.take(1)


def test_memory_allows_a_share_and_bytes_per_example() -> None:
    found = memory.compare({"plain": [1000, 1200, 1100], "none": [1400, 1500, 1600]}, examples=10)
    assert found["allowed_bytes"] == 1.05 * 1100 + 640
    assert found["variants"]["none"]["extra_bytes_per_example"] == 40.0
    assert found["variants"]["none"]["ratio"] == pytest.approx(1500 / 1100, abs=1e-4)


def test_peak_memory_is_that_of_the_process_and_never_falls() -> None:
    program = "from benchmarks.memory import peak_bytes\nstart = peak_bytes()\nheld = bytes(range(250)) * 200_000\n"
    program += "most = peak_bytes()\ndel held\nprint(start, most, peak_bytes())"
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    start, most, end = map(int, done.stdout.split())
    assert start < 100_000_000  # this process has held far more: torch is loaded
    assert most - start == pytest.approx(50_000_000, rel=0.1)
    assert end == pytest.approx(most, rel=0.01)


def test_memory_of_the_diet_beside_that_of_the_plain_trainer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def in_this_process(case: str, variant: str, options: Any) -> dict[str, Any]:
        options.measure = (case, variant)
        return memory.measure_here(options)

    monkeypatch.setattr(memory, "measure_apart", in_this_process)
    found = small(tmp_path, memory, "--cases", "synthetic,snips4000", "--examples", "600", "--repeats", "1")
    assert (found["synthetic"]["data"]["rows"], found["snips4000"]["data"]["rows"]) == (600, 64)
    assert set(found["synthetic"]["variants"]) == {"plain", "none", "all"}
    assert "synthetic, 600 rows" in tables.TABLES["memory"](tmp_path)


@pytest.mark.soak
def test_memory_in_a_process_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    options = argparse.Namespace(examples=600, model="minilm", precision="fp32", rows=None)
    assert memory.measure_apart("synthetic", "none", options)["peak_bytes"] > 100_000_000
    options.precision = "fp3"
    monkeypatch.setattr(subprocess, "run", forked)
    with pytest.raises(RuntimeError, match=r"synthetic, none: [\s\S]*invalid choice: 'fp3'"):
        memory.measure_apart("synthetic", "none", options)


def test_made_up_runs_are_finished_runs(tmp_path: Path) -> None:
    run = report_scale.write_folder(tmp_path, examples=400, rounds=4)
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
    monkeypatch.setattr(report_scale, "report_apart", lambda run: {"seconds": 1.0, **report_scale.report_here(run)})
    report_scale.main(["--examples", "300,200", "--rounds", "3", "--output", str(tmp_path / "report.json")])
    found = json.loads((tmp_path / "report.json").read_text())
    assert list(found) == ["200", "300"]
    assert found["300"]["page_bytes"] > found["200"]["page_bytes"] > 50_000
    assert "| 300 | 3 |" in tables.TABLES["report"](tmp_path)
    assert str(tmp_path) not in (tmp_path / "report.json").read_text()


@pytest.mark.slow
def test_the_report_is_made_in_a_process_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = report_scale.write_folder(tmp_path, examples=100, rounds=2)
    found = report_scale.report_apart(run)
    assert 50_000_000 < found["peak_bytes"] < 500_000_000
    (run / "result.json").unlink()
    monkeypatch.setattr(subprocess, "run", forked)
    with pytest.raises(RuntimeError, match=r"the report failed: [\s\S]*an unfinished run"):
        report_scale.report_apart(run)


@pytest.fixture
def commands_here(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """The benchmark's commands run in this process, and take a second each."""
    said: list[tuple[str, ...]] = []

    def timed(*arguments: str) -> float:
        done = CliRunner().invoke(app, arguments, obj=Call(0.0))
        assert done.exit_code == 0, done.output
        said.append(arguments)
        return 1.0

    monkeypatch.setattr(comparing, "timed", timed)
    return said


def test_comparing_finished_runs(tmp_path: Path, commands_here: list[tuple[str, ...]]) -> None:
    comparing.main(["--cases", "cached", "--test-rows", "40", "--output", str(tmp_path / "comparing.json")])
    assert [arguments[0] for arguments in commands_here] == ["compare", "report"]
    found = json.loads((tmp_path / "comparing.json").read_text())["cached"]
    assert (found["runs"], found["seconds"]) == (42, 2.0)
    assert found["page_bytes"] > 100_000
    assert "42 finished runs" in tables.TABLES["comparing"](tmp_path)


@pytest.mark.usefixtures("pretended", "commands_here")
def test_the_overhead_of_a_comparison_is_above_its_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = small(tmp_path, comparing, "--cases", "overhead", "--epochs", "4", "--seeds", "1")["overhead"]
    assert (found["runs"], found["epochs"], found["compare_s"]) == (5, 4, 1.0)
    assert found["processes_s"] > 0
    assert found["overhead"] == pytest.approx(1 / found["processes_s"] - 1, rel=0.01)
    assert "5 real runs of 4 epochs" in tables.TABLES["comparing"](tmp_path)


def test_a_command_that_fails_ends_the_benchmark() -> None:
    with pytest.raises(RuntimeError, match=r"datadiet report: [\s\S]*neither a run nor a comparison"):
        comparing.timed("report", "nowhere")


def test_plain_batches_pad_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What better batches alone save: the same run with the sampler of the plain Trainer."""
    monkeypatch.setattr(subprocess, "run", forked)
    settings = {**asdict(toy_config(tmp_path, keep=1.0, epochs=2)), "output": None}
    padded = []
    for program in (DATADIET, PLAIN_BATCHES):
        work = tmp_path / program[0]
        work.mkdir()
        cost = finetuned(settings, work, program)["cost"]
        padded.append((cost["tokens_backward"], cost["tokens_padded"]))
    assert padded[0][0] == padded[1][0]
    assert padded[0][1] < padded[1][1]


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


def test_a_score_and_a_selector_of_geometry_run_and_their_figures_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small = ["--sentences", "300", "--points", "200", "--only", "dsir,graph_cut"]
    monkeypatch.setattr(sys, "argv", ["geometry", "--output", str(tmp_path / "geometry.json"), *small])
    monkeypatch.setattr(subprocess, "run", forked)
    geometry.main()
    kept = json.loads((tmp_path / "geometry.json").read_text())
    numbers = {"dsir": 300, "graph_cut": 200}
    assert {name: case["number"] for name, case in kept.items()} == numbers
    assert all(case["seconds"] >= 0 and case["peak_bytes"] > 1e7 for case in kept.values())
    assert str(tmp_path) not in capsys.readouterr().out
    assert tables.TABLES["geometry"](tmp_path).count("| `") == 2


def test_every_table_has_a_part_that_measures_it() -> None:
    of_the_same_runs = (
        "auto-unseen",
        "auto-races",
        "auto-costs",
        "instruction-glance",
        "corpus-glance",
        "corpus-costs",
    )
    assert [*QUICK, "readme"] == [name for name in tables.TABLES if name not in of_the_same_runs]


def test_all_lists_its_commands_and_names_what_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "cola").mkdir()
    run_all(["--list", "--quick", "--results", str(tmp_path / "r"), "--data-root", str(tmp_path)])
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("quality-atis: atis left out") for line in lines)
    shares = next(line for line in lines if line.startswith("== quality-shares"))
    assert "--sets snips1500,cola " in shares
    assert shares.endswith("--epochs 3 --rows 192 --seeds 1")
    assert not (tmp_path / "r").exists()


def test_all_measures_what_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "run", forked)
    run_all(["--quick", "--only", "imports", "--results", str(tmp_path)])
    assert [path.name for path in tmp_path.iterdir()] == ["imports.json"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [(["--quick"], "--quick needs --results FOLDER"), (["--only", "sped"], "--only: must be of quality-atis")],
)
def test_all_refuses_what_makes_no_sense(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        run_all(arguments)
    assert said in capsys.readouterr().err


def test_corpus_scale_checks_what_is_chosen_and_fills_a_table(tmp_path: Path) -> None:
    output = tmp_path / "corpus_scale.json"
    assert corpus_scale.select(3000, 3, tmp_path / "scores", output) == 0
    shown = tables.TABLES["corpus_scale"](tmp_path)
    assert "| `datadiet select` | 3,000 scores in 3 files |" in shown
    engines = {"rows": 600, "rates": {"local": [10.0, 8.0], "ray": [8.0, 8.0]}, "share": 0.889}
    texts = {"rows": 100, "rate": 40, "rate_of_cpu": 9_999}
    killed = {"kills": 5, "same": 5}
    made = {"engines": engines, "perplexity-ngrams": texts, "near": texts, "kills-ray": killed}
    for name, case in made.items():
        keep_figures(output, name, {"environment": {"cpu": "A CPU", "threads": 1}, "load": 3.0, **case})
    shown = tables.TABLES["corpus_scale"](tmp_path)
    assert "local 9 rows/s, ray 8 rows/s: 0.89 |  | 0.9: **missed** |" in shown
    assert (
        "| `ngram_perplexity` | 100 texts of 5 to 30 words | 40 rows/s | 19,998 rows/s | 20,000 rows/s: **missed** |"
        in shown
    )
    assert "| SIGKILL, ray | 5 drivers and workers | 5 the same, byte for byte |  | all: met |" in shown


@pytest.mark.parametrize("rows", [5000, 20_000])
def test_training_scale_counts_the_state_of_every_row(tmp_path: Path, rows: int) -> None:
    """At most 64 bytes, of which none depends on the number of rows."""
    found = training_scale.measure_here(rows, tmp_path)
    assert found["state_bytes"] / rows == pytest.approx(51.1, abs=0.1)
    assert 0 < found["excluded"] < rows // 10  # the guard has judged
    assert found["seconds"].keys() == set(training_scale.PHASES)
    assert found["plans"].keys() == set(training_scale.SELECTORS)


def test_training_scale_in_a_table_and_a_figure(tmp_path: Path) -> None:
    seconds = dict.fromkeys(training_scale.PHASES, 1.0)
    output = tmp_path / "training_scale.json"
    for rows, more in ((1_000_000, 1.0), (100_000_000, 100.0)):
        case = {"state_bytes": 51 * rows, "peak_bytes": 140 * rows, "environment": {"cpu": "A CPU", "threads": 1}}
        case["seconds"] = {name: more * value for name, value in seconds.items()}
        case["plans"] = {"random": {"seconds": 0.02 * more}, "hardest": {"seconds": 0.2 * more}}
        keep_figures(output, str(rows), case)
    shown = tables.TABLES["training_scale"](tmp_path)
    assert "slope of all seconds over rows at most 1.05: met (1.000)" in shown
    assert "a plan of 100 million rows at most 12 s: `hardest` **missed**, `random` met" in " ".join(shown.split())
    assert "state at most 64 B per row: met (51.0 B)" in shown
    cases = json.loads(output.read_text())
    training_scale.draw(cases, tmp_path / "figure.svg")
    training_scale.draw(cases, tmp_path / "again.svg")
    assert (tmp_path / "figure.svg").read_bytes() == (tmp_path / "again.svg").read_bytes()
    assert "64 bytes per row" in (tmp_path / "figure.svg").read_text()
