"""The command line: the calls of the library, the output, and the exit code."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import types
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from rich.table import Table
from rich.text import Text
from typer.testing import CliRunner, Result

from datadiet import __version__
from datadiet.cli import app
from datadiet.cli.console import Visible, print_json, stderr, stdout
from datadiet.cli.options import Call
from datadiet.cli.progress import LiveDisplay
from datadiet.config import OPTIONS, FinetuneConfig, flag_name
from datadiet.errors import ArgumentError, DataError
from datadiet.types import EpochForecast, EpochResult, Forecast
from toys import tiny_model_folder, write_toy_folder

COMMANDS = ("demo", "init", "finetune", "compare", "predict", "score", "select", "methods")
ALL = sorted([*COMMANDS, "push", "report"])
COST = {"load_s": 1.0, "train_s": 8.0, "score_s": 0.5, "select_s": 0.0, "eval_s": 0.3, "save_s": 0.2}
RESULT = {
    "metrics": {"dev": {"accuracy": 0.9}, "test": {"accuracy": 0.875}},
    "cost": COST | {"finetune_s": 8.5, "total_s": 10.0, "examples_backward": 100},
    "ceiling": {"examples_saved": 0.4, "tokens_saved": 0.35},
}
BASICS = ["--task", "classification", "--output", "run"]


class Library:
    """Stands for `datadiet.jobs.finetune`: records its calls, prints and raises on request."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Any, float | None]] = []
        self.error: BaseException | None = None
        self.prints = ""

    def _run(self, name: str, argument: Any, *, listener: Any, started: float | None = None) -> dict[str, Any]:
        self.calls.append((name, argument, started))
        listener.note("7 of 100 rows also occur in test")
        listener.planned(Forecast((EpochForecast(0, 100, 0, 4, False),), 4, 100, 4, 100, 0, 0.0))
        if self.prints:
            sys.stdout.write(self.prints)
        if self.error is not None:
            raise self.error
        listener.epoch_ended(EpochResult(0, 100, 0, 4, 1.0, 0.0, 900, 0.5, {"accuracy": 0.9}))
        return RESULT


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Library:
    stand_in = Library()
    module = types.ModuleType("datadiet.jobs.finetune")
    module.finetune, module.resume_run = (partial(stand_in._run, name) for name in ("finetune", "resume"))
    monkeypatch.setitem(sys.modules, "datadiet.jobs.finetune", module)
    monkeypatch.chdir(tmp_path)
    return stand_in


def call(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments), obj=Call(started=12.5), env={"COLUMNS": "200", "NO_COLOR": "1"})


def python(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=120, cwd=cwd)


# ---- help and version ----


@pytest.mark.parametrize("arguments", [["--help"], *([command, "--help"] for command in COMMANDS), ["methods"]])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    heavy = "{'torch', 'transformers', 'datasets', 'pandas', 'pyarrow', 'numpy', 'scipy', 'sklearn'}"
    code = f"""
import sys, time
from datadiet.cli import run
try:
    run(time.perf_counter(), {arguments})
finally:
    found = {heavy} & set(sys.modules)
    assert not found, found
"""
    done = python("-c", code)
    assert done.returncode == 0, done.stderr
    assert "datadiet" in done.stdout or "el2n" in done.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_an_example_and_the_common_flags(command: str) -> None:
    shown = call(command, "--help").stdout
    for part in ("Example", f"datadiet {command}", "--json", "--debug"):
        assert part in shown


def test_help_shows_what_people_use_and_help_all_the_rest() -> None:
    usual, everything = call("finetune", "--help").stdout, call("finetune", "--help-all").stdout
    assert "--keep" in usual
    assert "--anneal-epochs" not in usual
    for name in OPTIONS:
        assert f"{flag_name(name)} " in everything
    assert "--no-static" not in everything
    assert sum(one.usual for one in OPTIONS.values()) <= 12
    assert "--anneal-epochs" in call("compare", "--help-all").stdout


@pytest.mark.parametrize(("words", "shown"), [("datadiet fin", "finetune"), ("datadiet finetune --kee", "--keep")])
def test_the_shell_completes(words: str, shown: str) -> None:
    asked = {"_DATADIET_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(len(words.split()) - 1)}
    done = subprocess.run(
        [sys.executable, "-m", "datadiet"], capture_output=True, text=True, timeout=60, env={**os.environ, **asked}
    )
    assert done.stdout.split() == [shown]


def test_init_writes_a_file_that_both_commands_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_toy_folder(tmp_path, "classification", 64)
    done = call("init", "toy-classification", "--no-time")
    assert done.exit_code == 0, done.output
    assert "classification" in done.stdout
    assert "datadiet compare --config datadiet.yaml --output runs/compare" in done.stdout
    assert "is there already" in call("init", "toy-classification").stderr
    assert (
        json.loads(call("init", "toy-classification", "--no-time", "--json", "--force").stdout)["task"]
        == "classification"
    )
    model = str(tiny_model_folder(tmp_path))
    checked = call("compare", "--config", "datadiet.yaml", "--model", model, "--output", "c", "--dry-run", "--json")
    assert checked.exit_code == 0, checked.output
    runs = {run["name"]: run["steps"] / run["full_steps"] for run in json.loads(checked.stdout)["runs"]}
    assert runs["full"] == 1
    assert runs["diet-0.5"] == runs["short-0.5"] < 1
    planned = call("finetune", "--config", "datadiet.yaml", "--model", model, "--output", "r", "--dry-run")
    assert "Plan: 20 epochs" in planned.stdout
    assert not [name for name in ("c", "r") if (tmp_path / name).exists()]
    assert "leave out --resume" in call("finetune", "--resume", str(tmp_path), "--dry-run").stderr


def test_help_keeps_the_names_of_extras() -> None:
    assert "datadiet[demo]" in call("finetune", "--help").stdout


def test_version() -> None:
    done, module = call("--version"), python("-m", "datadiet", "--version")
    assert (done.exit_code, done.stdout.strip()) == (0, f"datadiet {__version__}")
    assert (module.returncode, module.stdout) == (0, done.stdout)


# ---- finetune: the call of the library ----


def test_flags_become_the_config(library: Library) -> None:
    flags = ["--keep", "0.3", "--batch-size", "8", "--learning-rate", "1e-4", "--static", "--text-column", "body"]
    assert call("finetune", "snips", *BASICS, *flags).exit_code == 0
    options = {"keep": 0.3, "batch_size": 8, "learning_rate": 1e-4, "static": True, "text_column": "body"}
    assert library.calls == [("finetune", FinetuneConfig("snips", "classification", "run", **options), 12.5)]
    call("finetune", "snips", *BASICS, "--keep", "1:0.7,4:0.5")
    assert library.calls[1][1].keep == "1:0.7,4:0.5"


def test_flags_win_over_the_file_and_defaults_do_not(library: Library, tmp_path: Path) -> None:
    stored = FinetuneConfig(data="old", task="regression", output="r", epochs=9, static=True, drop_overlap=True)
    (tmp_path / "config.yaml").write_text(stored.to_yaml(), encoding="utf-8")
    done = call("finetune", "new", "--config", "config.yaml", "--keep", "0.25", "--no-static", "--batch-size", "32")
    assert done.exit_code == 0, done.stderr
    assert library.calls[0][1] == replace(stored, data="new", keep=0.25, static=False)


def test_resume(library: Library, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    assert call("finetune", "--resume", "run").exit_code == 0
    assert library.calls == [("resume", Path("run"), 12.5)]
    done = call("finetune", "snips", "--resume", "run", "--keep", "0.5", "--config", "x.yaml")
    assert done.exit_code == 2
    assert [name in done.stderr for name in ("DATA", "--keep", "--config", "--epochs")] == [True, True, True, False]
    assert len(library.calls) == 1


def test_all_missing_options_are_named_at_once(library: Library) -> None:
    done = call("finetune")
    assert done.exit_code == 2
    assert done.stderr.splitlines()[0] == "error: 3 problems:"
    assert all(name in done.stderr for name in ("DATA", "--task", "--output"))


@pytest.mark.parametrize(
    ("arguments", "problems"),
    [
        (["finetune", "d", "--epochs", "abc"], ["--epochs must be a whole number or auto, got 'abc'."]),
        (["finetune", "d", "--learning-rate", "x"], ["--learning-rate must be a number or auto, got 'x'."]),
        (
            ["finetune", "--keeep", "0.5", "--jsn", "--learnig-rate=1", "--epochs", "2.5"],
            [
                "unknown option '--keeep'; did you mean '--keep'? datadiet finetune --help lists all.",
                "unknown option '--jsn'; did you mean '--json'? datadiet finetune --help lists all.",
                "unknown option '--learnig-rate'; did you mean '--learning-rate'? datadiet finetune --help lists all.",
                "--epochs must be a whole number or auto, got '2.5'.",
            ],
        ),
        (
            ["compare", "snips", "--tokens", "q_tuning"],
            [
                "--tokens belongs to a method of the comparison: write the method out in YAML (--config), e.g. "
                "methods: [{mine: {tokens: ...}}]."
            ],
        ),
        (["finetun"], [f"unknown command 'finetun'; did you mean 'finetune'? Allowed: {', '.join(ALL)}."]),
        (["--versoin"], ["unknown option '--versoin'; did you mean '--version'? datadiet --help lists all."]),
        (["select"], ["SCORES is missing."]),
        (["methods", "all"], ["Got unexpected extra argument(s) (all)."]),
        (["finetune", "--epochs"], ["Option '--epochs' requires an argument."]),
        (["finetune", "--config", "a.yaml"], ["cannot read the config a.yaml: No such file or directory."]),
        (
            ["predict", "--text", "x"],
            ["--model is missing: the folder of a fine-tuned model, such as runs/first/model."],
        ),
        (
            ["finetune", "--resume", "nowhere"],
            ["nowhere is no run folder: --resume needs the --output of an interrupted run."],
        ),
    ],
)
def test_usage_errors_look_like_all_others(library: Library, arguments: list[str], problems: list[str]) -> None:
    done = call(*arguments, "--json") if arguments[-1] != "--epochs" and arguments[0] in COMMANDS else call(*arguments)
    assert (done.exit_code, done.stdout) == (2, "")
    many = f"{len(problems)} problems:\n  - "
    assert done.stderr == f"error: {many if len(problems) > 1 else ''}" + "\n  - ".join(problems) + "\n"


@pytest.mark.parametrize(("arguments", "code"), [([], 2), (["finetune", "--keeep", "1", "--help"], 0)])
def test_help_is_shown_without_a_command_and_despite_an_unknown_option(arguments: list[str], code: int) -> None:
    done = call(*arguments)
    assert done.exit_code == code
    assert ("--keep" if arguments else "finetune") in done.stdout
    assert not done.stderr


# ---- finetune: the output ----


def test_summary_follows_the_progress(library: Library) -> None:
    shown = call("finetune", "snips", *BASICS).stdout
    places = [shown.index(part) for part in ("7 of 100 rows", "Plan: 1 epoch", "epoch 1/1 done", "0.8750", "predict")]
    assert places == sorted(places)


def test_json_is_alone_on_standard_output(library: Library) -> None:
    library.prints = "a library says hello\n"
    done = call("finetune", "snips", *BASICS, "--json")
    assert json.loads(done.stdout) == RESULT
    assert "Plan: 1 epoch" in done.stderr
    assert "says hello" in done.stderr


BOTH = ("keep must be in (0, 1], got 70.0. Did you mean 0.7?", "unknown score 'el2m'.")


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (ArgumentError(*BOTH), 2, "2 problems:\n  - " + "\n  - ".join(BOTH)),
        (DataError("train.jsonl, line 3: [/label] is no label."), 2, "train.jsonl, line 3: [/label] is no label."),
        (RuntimeError("out of\nmemory"), 1, "RuntimeError: out of memory (--debug shows the traceback)"),
    ],
    ids=["problems", "no markup", "failure"],
)
def test_errors_have_no_traceback_unless_asked(library: Library, error: Exception, code: int, message: str) -> None:
    library.error = error
    done, debug = call("finetune", "snips", *BASICS), call("finetune", "snips", *BASICS, "--debug")
    assert (done.exit_code, done.stderr) == (code, f"error: {message}\n")
    assert debug.exit_code == code
    assert "Traceback" in debug.stderr
    assert "in _run" in debug.stderr


def test_an_interrupted_run_names_the_command_that_resumes_it(library: Library, tmp_path: Path) -> None:
    library.error = KeyboardInterrupt()
    arguments = ("finetune", "snips", "--task", "classification", "--output", "my run")
    before = call(*arguments)
    assert before.exit_code == 130
    assert "nothing has been written" in before.stderr
    (tmp_path / "my run").mkdir()
    (tmp_path / "my run" / "config.yaml").touch()
    done = call(*arguments)
    assert (done.exit_code, done.stderr) == (130, "interrupted; go on with: datadiet finetune --resume 'my run'\n")


# ---- methods and demo ----


def test_methods_as_a_table_and_as_json() -> None:
    assert "softmax" in call("methods").stdout or "onehot" in call("methods").stdout
    names = [method["name"] for method in json.loads(call("methods", "--json").stdout)]
    assert {"el2n", "hardest", "ema", "dropped"} <= set(names)


def test_demo_defaults_are_those_of_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    from datadiet.jobs import demo

    seen: dict[str, Any] = {}

    def run_demo(output: Path, _factory: Any, **options: Any) -> dict[str, Any]:
        seen.update(options, output=output)
        runs = {"full": RESULT, "diet": RESULT, "saved": {"finetune_s": 0.0, "total_s": 0.0}}
        return {"keep": 0.5, "quality": ["accuracy"], "ceiling": RESULT["ceiling"], **runs}

    monkeypatch.setattr(demo, "run_demo", run_demo)
    done = call("demo")
    assert done.exit_code == 0, done.stderr
    assert seen == {"output": Path("runs/demo"), "options": demo.DemoOptions(), "force": False}
    assert "One seed is an anecdote" in done.stdout
    assert "runs/demo/diet/model" in done.stdout


# ---- data that would steer a terminal ----


@pytest.mark.parametrize("stream", [stdout, stderr])
def test_control_characters_are_shown_escaped(stream: Any, capsys: pytest.CaptureFixture[str]) -> None:
    table = Table("class \x1b[2J")
    table.add_row(Text("a\x9b31m"))
    stream().print(Text("note \x1b]0;title\x07 \udcff"))
    stream().print(table)
    shown = "".join(capsys.readouterr())
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\ud800-\udfff]", shown)
    for part in (r"note \x1b]0;title", r"\udcff", r"class \x1b[2J", r"a\x9b31m"):
        assert part in shown


def test_a_live_display_still_moves_the_cursor() -> None:
    text = io.StringIO()
    console = Console(file=text, force_terminal=True, width=60)
    console.push_render_hook(Visible())
    with LiveDisplay(console, title="run \x1b[2J") as display:
        display.phase("loading \x1b[2J")
        display.note("note \x1b[2J")
    shown = text.getvalue()
    assert "\x1b[?25l" in shown  # rich's own
    assert all(rf"{part} \x1b[2J" in shown for part in ("run", "note"))
    assert "\x1b[2J" not in shown


def test_json_output_is_safe_and_the_same_content(capsys: pytest.CaptureFixture[str]) -> None:
    content = {"text": "é \x1b \x9b \ud800 \u2028", "list": [1]}
    print_json(content)
    shown = capsys.readouterr().out
    assert json.loads(shown) == content
    assert "é" in shown
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\ud800-\udfff]", shown)


@pytest.mark.parametrize(
    "flag", ["--output", "--model", "--config", "--resume", "--cache", "--teacher", "--scores-from"]
)
def test_names_that_are_too_long(flag: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    basics = [] if flag in ("--config", "--resume") else ["snips", "--task", "classification", "--output", "run"]
    done = call("finetune", *basics, flag, "a" * 300)
    assert done.exit_code == 2
    assert "File name too long" in done.stderr
    assert len(done.stderr) < 1000
    assert not list(tmp_path.iterdir())
