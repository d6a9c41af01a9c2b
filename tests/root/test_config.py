"""Options as YAML and back, and values of a wrong type."""

from __future__ import annotations

from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import pytest
import yaml

from datadiet.config import (
    OPTIONS,
    PANELS,
    FinetuneConfig,
    config_from,
    migrated,
    option_problems,
    read_config,
    type_problem,
    well_typed,
)
from datadiet.errors import ArgumentError

NEEDED: dict[str, Any] = {"data": "snips", "task": "intent-slot", "output": "runs/a"}
OTHER: dict[type, Any] = {bool: True, int: 7, float: 0.25, str: "other"}


def changed(config: FinetuneConfig) -> FinetuneConfig:
    """Every option with another value of its type."""
    unset = {"max_steps": 9, "train_rows": 9, "tolerance": 0.25, "refresh_every": 9}
    values = asdict(config).items()
    others = {name: unset.get(name, "other") if old is None else OTHER[type(old)] for name, old in values}
    return FinetuneConfig(**{**others, "epochs": "auto", "learning_rate": 0.25})


def test_every_option_survives_yaml(tmp_path: Path) -> None:
    config = changed(FinetuneConfig(**NEEDED))
    (tmp_path / "config.yaml").write_text(config.to_yaml(), encoding="utf-8")
    assert read_config(tmp_path / "config.yaml") == config
    assert sorted(yaml.safe_load(config.to_yaml())) == sorted(field.name for field in fields(FinetuneConfig))


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_is_documented_and_its_bound_and_choices_are_checked(name: str) -> None:
    option, bound = OPTIONS[name], OPTIONS[name].bound
    assert option.help.endswith(".")
    assert option.panel in PANELS
    if bound is not None or option.choices:
        below = "other" if bound is None else (bound.low if bound.open_low else (bound.low or 0) - 1)
        (problem,) = option_problems(FinetuneConfig(**{**NEEDED, name: below}))
        assert problem.split()[0] in (name, "unknown")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ({"select": "epsilon", "epsilon": 0.3}, {"select": "epsilon(epsilon=0.3)"}),
        ({"select": "hardest", "epsilon": 0.1, "history_c": 1.0, "select_options": None}, {"select": "hardest"}),
        ({"select": "ccs", "select_options": "beta=0.2,strata=20"}, {"select": "ccs(beta=0.2, strata=20)"}),
        ({"score": "prototypes", "score_options": {"clusters": 5}}, {"score": "prototypes(clusters=5)"}),
        ({"history": "ema", "history_alpha": 0.5, "history_c": 0}, {"history": "ema(alpha=0.5, c=0)"}),
        ({"history": "mean", "history_window": 4}, {"history": "mean(window=4)"}),
    ],
)
def test_options_of_an_older_run_folder(old: dict[str, Any], new: dict[str, Any]) -> None:
    assert migrated(old) == new
    assert config_from({**NEEDED, **old}) == FinetuneConfig(**NEEDED, **new)


@pytest.mark.parametrize("rate", [5e-5, 1e-4, 2.5e-07, 1.0])
def test_overrides_win_over_the_file(tmp_path: Path, rate: float) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(FinetuneConfig(**NEEDED, keep=0.3, learning_rate=rate).to_yaml(), encoding="utf-8")
    assert read_config(file, output="runs/b", seed=4) == FinetuneConfig(
        **{**NEEDED, "output": "runs/b"}, keep=0.3, learning_rate=rate, seed=4
    )
    file.write_text("data: snips\ntask: intent-slot\n", encoding="utf-8")
    assert read_config(file, output="runs/b") == FinetuneConfig(**{**NEEDED, "output": "runs/b"})


def test_paths_become_text(tmp_path: Path) -> None:
    paths: Any = {"data": tmp_path, "output": tmp_path / "run", "model": tmp_path}
    config = FinetuneConfig(task="regression", **paths)
    assert config.output == str(tmp_path / "run")
    assert yaml.safe_load(config.to_yaml())["data"] == str(tmp_path)


def test_yaml_numbers_without_a_point() -> None:
    """YAML 1.1 reads `1e-4` as text."""
    assert yaml.safe_load("learning_rate: 1e-4") == {"learning_rate": "1e-4"}
    assert config_from({**NEEDED, "learning_rate": "1e-4"}).learning_rate == 1e-4
    assert config_from({**NEEDED, "learning_rate": "auto", "epochs": "auto"}).epochs == "auto"
    assert config_from({**NEEDED, "keep": "0.5"}).keep == "0.5"  # keep may be text: a step-down


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("epochs", 2.0, "epochs must be a whole number or auto, got 2.0."),
        ("epochs", "2", "epochs must be a whole number or auto, got '2'."),
        ("epochs", True, "epochs must be a whole number or auto, got True."),
        ("epochs", None, "epochs must be a whole number or auto, got nothing."),
        ("learning_rate", "fast", "learning_rate must be a number or auto, got 'fast'."),
        ("static", 1, "static must be true or false, got 1."),
        ("static", "yes", "static must be true or false, got 'yes'."),
        ("keep", [0.5], "keep must be a number or text, got list."),
        ("keep", {1: 0.5}, "keep must be a number or text, got dict."),
        ("data", 3, "data must be text, got 3."),
        ("max_steps", "many", "max_steps must be a whole number, got 'many'."),
        ("scores_from", 1.5, "scores_from must be text, got 1.5."),
    ],
)
def test_values_of_a_wrong_type(name: str, value: Any, message: str) -> None:
    assert type_problem(name, value) == [message]
    with pytest.raises(ArgumentError) as caught:
        config_from({**NEEDED, name: value})
    assert caught.value.problems == (message,)


@pytest.mark.parametrize(
    ("name", "value"),
    [("learning_rate", 1), ("keep", 1), ("keep", "1:0.5"), ("max_steps", None), ("combine", None), ("static", False)],
)
def test_values_of_a_right_type(name: str, value: Any) -> None:
    assert type_problem(name, value) == []
    assert getattr(config_from({**NEEDED, name: value}), name) == value


def test_well_typed_keeps_what_is_right() -> None:
    wrong: dict[str, Any] = {"epochs": "many", "seed": 3, "data": None}
    config, problems = well_typed(FinetuneConfig(**{**NEEDED, **wrong}))
    assert sorted(problems) == ["data must be text, got nothing.", "epochs must be a whole number or auto, got 'many'."]
    assert asdict(config) == asdict(FinetuneConfig(**{**NEEDED, "data": "", "seed": 3}))


def test_all_problems_of_a_file_at_once() -> None:
    with pytest.raises(ArgumentError) as caught:
        config_from({"data": "snips", "epoch": 3, "kep": 0.5, "batch_size": "x", 4: 5})
    problems = caught.value.problems
    unknown = ("unknown option 4.", "unknown option 'epoch'; did you mean 'epochs'?")
    unknown += ("unknown option 'kep'; did you mean 'keep'?",)
    assert all(problem.startswith(start) for problem, start in zip(problems, unknown, strict=False))
    assert problems[3:] == (
        "the option 'task' is missing.",
        "the option 'output' is missing.",
        "batch_size must be a whole number, got 'x'.",
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"keep: [", "is not valid YAML: while parsing"),
        (b"\xff\xfe\x00", "is not valid YAML: 'utf-8' codec"),
        (b"- a\n- b\n", "must hold a mapping of options, found list"),
        (b"", "must hold a mapping of options, found nothing"),
        (b"snips", "must hold a mapping of options, found 'snips'"),
        (None, r"cannot read the config .*config.yaml: No such file"),
        (Path(), "cannot read the config .*: it is a folder"),
    ],
)
def test_files_that_are_no_config(tmp_path: Path, content: bytes | Path | None, message: str) -> None:
    file = tmp_path / "config.yaml"
    if isinstance(content, bytes):
        file.write_bytes(content)
    with pytest.raises(ArgumentError, match=message) as caught:
        read_config(tmp_path if isinstance(content, Path) else file)
    assert "\n" not in str(caught.value)
