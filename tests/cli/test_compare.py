from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from datadiet.cli import app
from datadiet.cli.compare import request_from
from datadiet.cli.options import Call
from datadiet.errors import ArgumentError
from toys import TOYS, tiny_model_folder, write_toy_folder

NEEDED = {"data": "snips", "task": "intent-slot", "methods": ["el2n"]}


def run(*arguments: str):
    return CliRunner().invoke(app, ["compare", *arguments], obj=Call(0.0))


def flat(done) -> str:
    """What was said, without its line breaks."""
    return " ".join(done.output.split())


def test_flags_and_file_together(tmp_path):
    file = tmp_path / "compare.yaml"
    written = {
        **NEEDED,
        "methods": ["uncertain", {"mine": {"score": "entropy"}}],
        "keep": [0.5, "1:0.7,3:0.4"],
        "seeds": 2,
    }
    file.write_text(yaml.safe_dump({**written, "epochs": 7, "margin": 1}))
    request = request_from({"epochs": 9, "seeds": 3}, file, tmp_path / "out")
    plan = request.plan
    assert (plan.options["epochs"], plan.seeds, plan.margin) == (9, [0, 1, 2], 1.0)
    assert plan.methods["mine"] == {"score": "entropy"}
    assert plan.keeps == [0.5, "1:0.7,3:0.4"]
    assert "keep" not in plan.options


def test_everything_missing_is_said_at_once():
    with pytest.raises(ArgumentError) as error:
        request_from({}, None, None)
    assert [problem.split(" ")[0] for problem in error.value.problems] == ["--output", "DATA", "--task", "no"]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"select": "random"}, "select belongs to a method: write the method out in YAML"),
        ({"seeds": 0}, "seeds must be a number of seeds, at least 1, or a list of whole numbers, got 0"),
        ({"seeds": [0, "b"]}, "seeds must be a number of seeds"),
        ({"methods": ["el2m"]}, "unknown method 'el2m'; did you mean 'el2n'"),
        ({"keep": [50]}, "Did you mean 0.5?"),
        ({"jobs": 0}, "jobs must be a whole number, at least 1, got 0"),
        ({"baselines": ["ful"]}, "unknown baseline 'ful'; did you mean 'full'"),
        ({"cache": "elsewhere"}, "cache is set by the comparison itself: leave it out"),
        ({"margin": "half a point"}, "margin must be a number of points above 0, got 'half a point'"),
        ({"metric": "acuracy"}, "unknown metric 'acuracy'; did you mean 'intent_accuracy'?"),
        ({"keep": [None]}, "keep must be a share such as 0.5, or steps such as 1:0.7,4:0.5; got None"),
        ({"epochs": "many"}, "^epochs must be a whole number, got 'many'"),
        ({"warmup_epochs": 5}, "^el2n-0.5, random-0.5: no epoch is left|^no epoch is left for the diet"),
        (
            {"methods": ["el2n", {"mine": {"static": True, "warmup_epochs": 9}}]},
            "^mine-0.5: the warm-up is longer than",
        ),
        ({"price_per_hour": 0}, "price_per_hour must be a number above 0, money per hour of the machine, got 0"),
        ({"price_per_hour": -1.5}, "price_per_hour must be a number above 0"),
        ({"price_per_hour": float("nan")}, "price_per_hour must be a number above 0"),
        ({"price_per_hour": float("inf")}, "price_per_hour must be a number above 0"),
        ({"price_per_hour": "3 EUR"}, "price_per_hour must be a number above 0"),
        ({"price_per_hour": True}, "price_per_hour must be a number above 0"),
    ],
)
def test_what_makes_no_sense(tmp_path, changes, said):
    with pytest.raises(ArgumentError, match=said.replace("?", r"\?")):
        request_from({**NEEDED, **changes}, None, tmp_path)


def test_everything_wrong_is_said_at_once(tmp_path):
    wrong = {
        "methods": ["el2m", "el2n"], "seeds": 0, "margin": -1, "jobs": 0, "keep": [70, 0.2], "baselines": ["ful"],
        "metric": "acuracy", "warmup_epochs": 9, "cache": "elsewhere",
    }  # fmt: skip
    with pytest.raises(ArgumentError, match="jobs") as error:
        request_from({**NEEDED, **wrong}, None, tmp_path)
    said = ["jobs", "unknown method", "seeds", "cache", "unknown baseline", "margin", "keep", "unknown metric", "the w"]
    assert [problem.startswith(begin) for problem, begin in zip(error.value.problems, said, strict=True)] == [True] * 9


def test_annealing_is_for_the_methods(tmp_path):
    plan = request_from({**NEEDED, "anneal_epochs": 1}, None, tmp_path).plan
    found = {cell.arm: plan.config(cell, "run", 100).anneal_epochs for cell in plan.cells()}
    assert found == {"full": 0, "el2n-0.5": 1, "random-0.5": 1, "short-0.5": 0}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("a: [", "is not valid YAML"),
        ("- 1", "must hold a mapping"),
        ("sed: 3", "unknown option 'sed'; did you mean 'seed"),
    ],
)
def test_files_that_make_no_sense(tmp_path, content, said):
    file = tmp_path / "compare.yaml"
    file.write_text(content)
    with pytest.raises(ArgumentError, match=said):
        request_from(NEEDED, file, tmp_path)


def test_a_comparison_on_the_command_line(tmp_path, pretended):
    arguments = ["made-up", "--task", "classification", "--methods", "el2n", "--epochs", "4", "--batch-size", "10"]
    done = run(*arguments, "--seeds", "2", "--output", str(tmp_path / "c"))
    assert done.exit_code == 0, done.output
    assert "[8/8]" in done.output
    assert "el2n-0.5 saves 50 % of the fine-tuning time (ceiling 50 %); " in done.output
    assert "random-0.5 saves" in done.output
    found = json.loads((tmp_path / "c" / "comparison.json").read_text())
    assert len(found["runs"]) == 8
    again = run(*arguments, "--seeds", "3", "--output", str(tmp_path / "c"), "--json")
    assert len(json.loads(again.stdout)["runs"]) == 12
    assert again.stderr.count("running") == 4  # of the new seed alone
    assert [run["process_s"] is None for run in json.loads(again.stdout)["runs"]] == [True] * 8 + [False] * 4


def test_a_tolerance_on_the_command_line(tmp_path):
    plan = request_from({"data": "snips", "task": "intent-slot", "tolerance": 0.5}, None, tmp_path).plan
    assert [cell.arm for cell in plan.cells()][:3] == ["full", "tolerance-0.5", "short_tolerance-0.5"]
    plan = request_from({**NEEDED, "tolerance": 1.0}, None, tmp_path).plan
    assert {cell.arm for cell in plan.cells()} >= {"el2n-0.5", "random-0.5", "short-0.5", "tolerance-1.0"}


def test_a_tolerance_is_compared_with_full_and_its_own_short(tmp_path, pretended):
    arguments = ["made-up", "--task", "classification", "--tolerance", "0.5", "--epochs", "4", "--batch-size", "10"]
    done = run(*arguments, "--seeds", "1", "--output", str(tmp_path / "c"), "--json")
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert [line["name"] for line in found["methods"]] == ["full", "tolerance-0.5", "short_tolerance-0.5"]
    assert found["runs"][1]["tolerance"] == 0.5


def test_what_is_done_is_not_checked_again(tmp_path, pretended, monkeypatch):
    seen = []
    monkeypatch.setattr(
        "datadiet.jobs.validate.check_config", lambda config, **_: seen.append(Path(config.output).name)
    )
    arguments = ["made-up", "--task", "classification", "--epochs", "4", "--batch-size", "10", "--seeds", "1"]
    arguments += ["--output", str(tmp_path / "c"), "--methods"]
    assert run(*arguments, "el2n").exit_code == 0
    assert seen == ["full-seed0", "el2n-0.5-seed0", "random-0.5-seed0"]
    seen.clear()
    assert run(*arguments, "el2n").exit_code == 0
    assert seen == []
    assert run(*arguments, "el2n,uncertain").exit_code == 0
    assert seen == ["uncertain-0.5-seed0"]


def test_money_and_jobs_on_the_command_line(tmp_path, pretended):
    arguments = ["made-up", "--task", "classification", "--methods", "el2n", "--epochs", "4", "--batch-size", "10"]
    arguments += ["--output", str(tmp_path / "c")]
    done = run(*arguments, "--seeds", "1", "--jobs", "2", "--price-per-hour", "3.6")
    assert done.exit_code == 0, done.output
    assert "times are not comparable: not every run is known to have had the machine to itself" in flat(done)
    assert "price" not in done.output
    done = run(*arguments, "--seeds", "2", "--json", "--price-per-hour", "3.6")  # those of seed 0 are as they were
    found = json.loads(done.stdout)
    assert found["comparable_times"] is False
    assert [run["price"] is None for run in found["runs"]] == [True] * 4 + [False] * 4
    shutil.rmtree(tmp_path / "c")
    done = run(*arguments, "--seeds", "2", "--price-per-hour", "3.6")
    assert "a run costs 0.0605, 0.0500 less than full; " in flat(done)
    assert re.search(r"ceiling +price +seeds", done.output)
    again = run(*arguments, "--seeds", "2", "--price-per-hour", "36")
    assert "running" not in again.output
    assert "a run costs 0.605, 0.500 less than full; " in flat(again)


def test_a_failed_run_is_reported_and_the_exit_code_is_1(tmp_path, pretended):
    pretended |= {"random"}
    arguments = ["made-up", "--task", "classification", "--methods", "el2n", "--epochs", "4", "--batch-size", "10"]
    done = run(*arguments, "--seeds", "1", "--output", str(tmp_path / "c"))
    assert done.exit_code == 1
    assert "random-0.5-seed0 failed: no such model 'x'" in done.output
    assert "el2n-0.5 saves" in done.output


def test_options_of_every_method_are_checked_before_any_run(tmp_path):
    file = tmp_path / "compare.yaml"
    file.write_text(yaml.safe_dump({"methods": ["el2n", {"mine": {"score": "el2m"}}]}))
    model = str(tiny_model_folder(tmp_path))
    data = str(write_toy_folder(tmp_path, "classification", 48))
    done = run(
        data, "--task", "classification", "--model", model, "--config", str(file), "--output", str(tmp_path / "c")
    )
    assert done.exit_code == 2
    assert "mine-0.5: unknown score 'el2m'; did you mean 'el2n'?" in done.output
    assert not (tmp_path / "c").exists()


def test_every_method_is_checked_with_the_data_before_any_run(tmp_path):
    model = str(tiny_model_folder(tmp_path))
    data = str(write_toy_folder(tmp_path, "classification", 64))
    usual = [data, "--task", "classification", "--model", model, "--output", str(tmp_path / "c"), "--precision", "fp32"]
    done = run(*usual, "--methods", "el2n,absolute_error", "--keep", "0.05,0.6", "--floor", "20")
    assert done.exit_code == 2
    said = flat(done)
    for part in (
        "el2n-0.05, random-0.05: keep 0.05 leaves no full batch: 3 of 64 examples, and a step takes 32.",
        "el2n-0.6, random-0.6: a floor of 20 rows in each of 2 classes needs 40 rows, but only 32 are kept.",
        "absolute_error-0.05, absolute_error-0.6: the score absolute_error is for regression, not for classification.",
    ):
        assert part in said
    assert "error: 3 problems:" in said
    assert not (tmp_path / "c").exists()


def test_data_that_no_run_could_read_are_told_once(tmp_path):
    model = str(tiny_model_folder(tmp_path))
    data = write_toy_folder(tmp_path, "classification", 64)
    (data / "train.jsonl").write_text("{", encoding="utf-8")
    usual = [str(data), "--task", "classification", "--model", model, "--output", str(tmp_path / "c")]
    done = run(*usual, "--methods", "el2n,random")
    assert done.exit_code == 2
    assert done.stderr.count("train.jsonl, line 1: not valid JSON") == 1
    assert not (tmp_path / "c").exists()


def test_what_a_method_learns_from_must_be_there_unless_the_comparison_makes_it(tmp_path):
    model, data = str(tiny_model_folder(tmp_path)), str(write_toy_folder(tmp_path, "classification", 64))
    file = tmp_path / "compare.yaml"
    file.write_text(yaml.safe_dump({"methods": ["distilled", {"taught": {"teacher": "nowhere"}}, "vog"]}))
    usual = [data, "--task", "classification", "--model", model, "--config", str(file), "--warmup-epochs", "0"]
    done = run(*usual, "--batch-size", "8", "--output", str(tmp_path / "c"))
    assert done.exit_code == 2
    assert "error: taught-0.5: teacher must be a saved model or a run folder that holds one, got nowhere." in flat(done)


def test_without_statsmodels_the_install_line_is_said(tmp_path, pretended, monkeypatch):
    monkeypatch.delitem(sys.modules, "datadiet.compare.outcome", raising=False)
    monkeypatch.delitem(sys.modules, "datadiet.compare.statistics", raising=False)
    monkeypatch.setitem(sys.modules, "statsmodels.stats.power", None)
    done = run("made-up", "--task", "classification", "--methods", "el2n", "--output", str(tmp_path / "c"))
    assert done.exit_code == 2
    assert "pip install 'datadiet[compare]'" in done.output
    assert not (tmp_path / "c").exists()


def test_real_runs(tmp_path):
    model, data = tiny_model_folder(tmp_path), write_toy_folder(tmp_path, "classification", 48)
    options = ["--epochs", "2", "--batch-size", "8", "--precision", "fp32", "--baselines", "short", "--seeds", "1"]
    done = run(
        str(data), "--task", TOYS["classification"].task, "--model", str(model), "--methods", "random",
        "--output", str(tmp_path / "c"), *options,
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    found = json.loads((tmp_path / "c" / "comparison.json").read_text())
    assert [run["steps"] for run in found["runs"]] == [6 + 3, 6 + 3]
    assert found["methods"][0]["against"]["short"]["seeds"] == [0]
    assert [run["cost"]["shared_s"] > 0 for run in found["runs"]] == [False, True]  # tokenised by the first
    assert len(list((tmp_path / "c" / "cache").iterdir())) == 3
    logs = [log.read_text() for log in (tmp_path / "c" / "logs").iterdir()]
    assert len(logs) == 2
    assert not [log for log in logs if "%|" in log]  # in a log file no library draws a bar between the lines
