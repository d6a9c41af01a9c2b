from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from datadiet.cli import app
from datadiet.cli.compare import request_from
from datadiet.cli.options import Call
from datadiet.errors import ArgumentError
from toys import tiny_model_folder, write_toy_folder

NEEDED = {"data": "snips", "task": "intent-slot", "methods": ["el2n"]}


MADE_UP = ("made-up", "--task", "classification", "--epochs", "4", "--batch-size", "10")


def run(*arguments: str):
    return CliRunner().invoke(app, ["compare", *arguments], obj=Call(0.0))


def made_up(tmp_path, *arguments: str):
    """Pretended runs."""
    return run(*MADE_UP, "--output", str(tmp_path / "c"), *arguments)


def toy(tmp_path, *arguments: str, n: int = 64, data=None):
    """Real runs, or checks of them, on toy data with a tiny model."""
    data = data or write_toy_folder(tmp_path, "classification", n)
    options = ["--task", "classification", "--model", str(tiny_model_folder(tmp_path)), "--precision", "fp32"]
    return run(str(data), *options, "--output", str(tmp_path / "c"), *arguments)


def methods_file(tmp_path, *methods) -> list[str]:
    (tmp_path / "compare.yaml").write_text(yaml.safe_dump({"methods": list(methods)}))
    return ["--config", str(tmp_path / "compare.yaml")]


def flat(done) -> str:
    """The output without its line breaks."""
    return " ".join(done.output.split())


def refused(done, tmp_path) -> str:
    """The message of a comparison that was refused before any run."""
    assert done.exit_code == 2, done.output
    assert not (tmp_path / "c").exists()
    return flat(done)


def test_flags_and_file_together(tmp_path):
    file = tmp_path / "compare.yaml"
    methods = ["uncertain", {"mine": {"score": "entropy"}}]
    written = {"methods": methods, "keep": [0.5, "1:0.7,3:0.4"], "seeds": 2, "epochs": 7, "margin": 1}
    file.write_text(yaml.safe_dump({**NEEDED, **written}))
    request = request_from({"epochs": 9, "seeds": 3}, file, tmp_path / "out")
    plan = request.plan
    assert (plan.options["epochs"], plan.seeds, plan.margin) == (9, [0, 1, 2], 1.0)
    assert plan.methods["mine"] == {"score": "entropy"}
    assert plan.keeps == [0.5, "1:0.7,3:0.4"]
    assert "keep" not in plan.options


def test_everything_missing_is_said_at_once():
    with pytest.raises(ArgumentError) as error:
        request_from({}, None, None)
    assert [problem.split(" ")[0] for problem in error.value.problems] == ["--output", "DATA", "--task"]


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
        ({"epochs": "many"}, "^epochs must be a whole number or auto, got 'many'"),
        ({"warmup_epochs": 5}, "^el2n-0.5, random-0.5: no epoch is left|^no epoch is left for the diet"),
        (
            {"methods": ["el2n", {"mine": {"static": True, "warmup_epochs": 9}}]},
            "^mine-0.5: the warm-up is longer than",
        ),
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
    assert found == {"full": 0, "el2n-0.5": 1, "random-0.5": 1, "cover-0.5": 1, "short-0.5": 0}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("a: [", "is not valid YAML"),
        ("- 1", "must hold a mapping"),
        ("sed: 3", "unknown option 'sed'; did you mean 'seed"),
        ("price_per_hour: 2.5", "unknown option 'price_per_hour'"),
    ],
)
def test_files_that_make_no_sense(tmp_path, content, said):
    file = tmp_path / "compare.yaml"
    file.write_text(content)
    with pytest.raises(ArgumentError, match=said):
        request_from(NEEDED, file, tmp_path)


def test_a_tolerance_beside_methods_or_alone(tmp_path):
    plan = request_from({"data": "snips", "task": "intent-slot", "tolerance": 0.5}, None, tmp_path).plan
    assert [cell.arm for cell in plan.cells()][:3] == ["full", "tolerance-0.5", "short_tolerance-0.5"]
    plan = request_from({**NEEDED, "tolerance": 1.0}, None, tmp_path).plan
    assert {cell.arm for cell in plan.cells()} >= {"el2n-0.5", "random-0.5", "short-0.5", "tolerance-1.0"}


def test_a_comparison_on_the_command_line(tmp_path, pretended):
    done = made_up(tmp_path, "--methods", "el2n", "--seeds", "2")
    assert done.exit_code == 0, done.output
    assert "[10/10]" in done.output
    assert "el2n-0.5 saves 50 % of the fine-tuning time (ceiling 50 %); " in done.output
    assert "random-0.5 saves" in done.output
    assert len(json.loads((tmp_path / "c" / "comparison.json").read_text())["runs"]) == 10
    again = made_up(tmp_path, "--methods", "el2n", "--seeds", "3", "--json")
    assert again.stderr.count("running") == 5  # of the new seed alone
    assert [run["process_s"] is None for run in json.loads(again.stdout)["runs"]] == [True] * 10 + [False] * 5


def test_a_tolerance_is_compared_with_full_and_its_own_short(tmp_path, pretended):
    done = made_up(tmp_path, "--tolerance", "0.5", "--seeds", "1", "--json")
    assert done.exit_code == 0, done.output
    comparison = json.loads(done.stdout)
    assert [line["name"] for line in comparison["methods"]] == ["full", "tolerance-0.5", "short_tolerance-0.5"]
    assert comparison["runs"][1]["tolerance"] == 0.5


def test_what_is_done_is_not_checked_again(tmp_path, pretended, monkeypatch):
    checked = []

    def check(config, **_):
        checked.append(Path(config.output).name)

    monkeypatch.setattr("datadiet.jobs.validate.check_config", check)
    for methods, names in (
        ("el2n", ["full-seed0", "el2n-0.5-seed0", "random-0.5-seed0", "cover-0.5-seed0"]),
        ("el2n", []),
        ("el2n,uncertain", ["uncertain-0.5-seed0"]),
    ):
        checked.clear()
        assert made_up(tmp_path, "--seeds", "1", "--methods", methods).exit_code == 0
        assert checked == names


def test_times_of_runs_that_shared_the_machine_stay_incomparable(tmp_path, pretended):
    done = made_up(tmp_path, "--methods", "el2n", "--seeds", "1", "--jobs", "2")
    assert done.exit_code == 0, done.output
    assert "times are not comparable: not every run is known to have had the machine to itself" in flat(done)
    comparison = json.loads(made_up(tmp_path, "--methods", "el2n", "--seeds", "2", "--json").stdout)
    assert comparison["comparable_times"] is False
    assert [run["jobs"] for run in comparison["runs"]] == [2] * 5 + [1] * 5  # those of seed 0 are as they were


def test_a_failed_run_is_reported_and_the_exit_code_is_1(tmp_path, pretended):
    pretended |= {"random"}
    done = made_up(tmp_path, "--methods", "el2n", "--seeds", "1")
    assert done.exit_code == 1
    assert "random-0.5-seed0 failed: no such model 'x'" in done.output
    assert "el2n-0.5 saves" in done.output


def test_there_is_no_price_of_an_hour(tmp_path):
    assert "unknown option '--price-per-hour'" in refused(made_up(tmp_path, "--price-per-hour", "2"), tmp_path)


def test_options_of_every_method_are_checked_before_any_run(tmp_path):
    done = toy(tmp_path, *methods_file(tmp_path, "el2n", {"mine": {"score": "el2m"}}))
    assert "mine-0.5: unknown score 'el2m'; did you mean 'el2n'?" in refused(done, tmp_path)


def test_every_method_is_checked_with_the_data_before_any_run(tmp_path):
    done = toy(tmp_path, "--methods", "el2n,absolute_error", "--keep", "0.05,0.6", "--floor", "20")
    message = refused(done, tmp_path)
    for part in (
        "el2n-0.05, random-0.05, cover-0.05: keep 0.05 leaves no full batch: 3 of 64 examples, and a step takes 32.",
        "el2n-0.6, random-0.6, cover-0.6: a floor of 20 rows in each of 2 classes needs 40 rows, but only 32 are kept.",
        "absolute_error-0.05, absolute_error-0.6: the score absolute_error is for regression, not for classification.",
    ):
        assert part in message
    assert "error: 3 problems:" in message


def test_unreadable_data_are_reported_once(tmp_path):
    data = write_toy_folder(tmp_path, "classification", 64)
    (data / "train.jsonl").write_text("{", encoding="utf-8")
    message = refused(toy(tmp_path, "--methods", "el2n,random", data=data), tmp_path)
    assert message.count("train.jsonl, line 1: not valid JSON") == 1


def test_what_a_method_learns_from_must_be_there_unless_the_comparison_makes_it(tmp_path):
    methods = methods_file(tmp_path, "distilled", {"taught": {"teacher": "nowhere"}}, "vog")
    message = refused(toy(tmp_path, *methods, "--warmup-epochs", "0", "--batch-size", "8"), tmp_path)
    assert "error: taught-0.5: teacher must be a saved model or a run folder that holds one, got nowhere." in message


def test_without_statsmodels_the_install_line_is_shown(tmp_path, pretended, monkeypatch):
    for module in ("outcome", "statistics"):
        monkeypatch.delitem(sys.modules, f"datadiet.compare.{module}", raising=False)
    monkeypatch.setitem(sys.modules, "statsmodels.stats.power", None)
    assert "pip install 'datadiet[compare]'" in refused(made_up(tmp_path, "--methods", "el2n"), tmp_path)


def test_real_runs(tmp_path):
    options = ["--epochs", "2", "--batch-size", "8", "--baselines", "short", "--seeds", "1"]
    done = toy(tmp_path, "--methods", "random", *options, n=48)
    assert done.exit_code == 0, done.output
    comparison = json.loads((tmp_path / "c" / "comparison.json").read_text())
    assert [run["steps"] for run in comparison["runs"]] == [6 + 3, 6 + 3]
    assert comparison["methods"][0]["against"]["short"]["seeds"] == [0]
    assert [run["cost"]["shared_s"] > 0 for run in comparison["runs"]] == [False, True]  # tokenised by the first
    assert len(list((tmp_path / "c" / "cache").iterdir())) == 3
    logs = [log.read_text() for log in (tmp_path / "c" / "logs").iterdir()]
    assert len(logs) == 2
    assert not [log for log in logs if "%|" in log]  # in a log file no library draws a bar between the lines
