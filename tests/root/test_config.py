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
    values = {}
    for field in fields(config):
        old = getattr(config, field.name)
        values[field.name] = (
            {"max_steps": 9, "train_rows": 9, "tolerance": 0.25, "refresh_every": 9}.get(field.name, "other")
            if old is None
            else OTHER[type(old)]
        )
    return FinetuneConfig(**values)


def test_every_option_survives_yaml(tmp_path: Path) -> None:
    config = changed(FinetuneConfig(**NEEDED))
    (tmp_path / "config.yaml").write_text(config.to_yaml(), encoding="utf-8")
    assert read_config(tmp_path / "config.yaml") == config
    assert sorted(yaml.safe_load(config.to_yaml())) == sorted(field.name for field in fields(FinetuneConfig))


@pytest.mark.parametrize("rate", [5e-5, 1e-4, 2.5e-07, 1.0])
def test_small_numbers_survive_yaml(tmp_path: Path, rate: float) -> None:
    (tmp_path / "config.yaml").write_text(FinetuneConfig(**NEEDED, learning_rate=rate).to_yaml(), encoding="utf-8")
    assert read_config(tmp_path / "config.yaml").learning_rate == rate


def test_defaults_are_what_is_not_given() -> None:
    assert config_from(NEEDED) == FinetuneConfig(**NEEDED)


@pytest.mark.parametrize("name", OPTIONS)
def test_every_option_is_documented(name: str) -> None:
    assert OPTIONS[name].help.endswith(".")
    assert OPTIONS[name].panel in PANELS


@pytest.mark.parametrize("name", [name for name, one in OPTIONS.items() if one.bound is not None or one.choices])
def test_every_bound_and_choice_is_checked(name: str) -> None:
    bound = OPTIONS[name].bound
    below = "other" if bound is None else (bound.low if bound.open_low else (bound.low or 0) - 1)
    wrong: dict[str, Any] = {name: below}
    assert [problem.split()[0] for problem in option_problems(FinetuneConfig(**{**NEEDED, **wrong}))] in (
        [name],
        ["unknown"],
    )


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


def test_overrides_win_over_the_file(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(FinetuneConfig(**NEEDED, keep=0.3).to_yaml(), encoding="utf-8")
    config = read_config(tmp_path / "config.yaml", output="runs/b", seed=4)
    assert (config.output, config.seed, config.keep) == ("runs/b", 4, 0.3)


def test_overrides_may_give_what_the_file_lacks(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("data: snips\ntask: intent-slot\n", encoding="utf-8")
    assert read_config(tmp_path / "config.yaml", output="runs/b").output == "runs/b"


def test_paths_become_text(tmp_path: Path) -> None:
    config = FinetuneConfig(data=tmp_path, task="regression", output=tmp_path / "run", model=tmp_path)  # type: ignore[arg-type]
    assert config.output == str(tmp_path / "run")
    assert yaml.safe_load(config.to_yaml())["data"] == str(tmp_path)


def test_yaml_numbers_without_a_point() -> None:
    """YAML 1.1 reads `1e-4` as text."""
    assert yaml.safe_load("learning_rate: 1e-4") == {"learning_rate": "1e-4"}
    assert config_from({**NEEDED, "learning_rate": "1e-4"}).learning_rate == 1e-4
    assert config_from({**NEEDED, "keep": "0.5"}).keep == "0.5"  # keep may be text: a step-down


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("epochs", 2.0, "epochs must be a whole number, got 2.0."),
        ("epochs", "2", "epochs must be a whole number, got '2'."),
        ("epochs", True, "epochs must be a whole number, got True."),
        ("epochs", None, "epochs must be a whole number, got nothing."),
        ("learning_rate", "fast", "learning_rate must be a number, got 'fast'."),
        ("static", 1, "static must be true or false, got 1."),
        ("static", "yes", "static must be true or false, got 'yes'."),
        ("keep", [0.5], "keep must be a number or text, got list."),
        ("keep", {1: 0.5}, "keep must be a number or text, got dict."),
        ("data", 3, "data must be text, got 3."),
        ("max_steps", "many", "max_steps must be a whole number, got 'many'."),
        ("scores_from", 1.5, "scores_from must be text, got 1.5."),
    ],
)
def test_values_of_a_wrong_type(name: str, value: Any, said: str) -> None:
    assert type_problem(name, value) == [said]
    with pytest.raises(ArgumentError) as caught:
        config_from({**NEEDED, name: value})
    assert caught.value.problems == (said,)


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
    assert sorted(problems) == ["data must be text, got nothing.", "epochs must be a whole number, got 'many'."]
    assert asdict(config) == asdict(FinetuneConfig(**{**NEEDED, "data": "", "seed": 3}))


def test_all_problems_of_a_file_at_once() -> None:
    with pytest.raises(ArgumentError) as caught:
        config_from({"data": "snips", "epoch": 3, "kep": 0.5, "batch_size": "x", 4: 5})
    found = caught.value.problems
    assert len(found) == 6
    assert found[0].startswith("unknown option 4.")
    assert found[1].startswith("unknown option 'epoch'; did you mean 'epochs'?")
    assert found[2].startswith("unknown option 'kep'; did you mean 'keep'?")
    assert found[3:] == (
        "the option 'task' is missing.",
        "the option 'output' is missing.",
        "batch_size must be a whole number, got 'x'.",
    )


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"keep: [", "is not valid YAML: while parsing"),
        (b"\xff\xfe\x00", "is not valid YAML: 'utf-8' codec"),
        (b"- a\n- b\n", "must hold a mapping of options, found list"),
        (b"", "must hold a mapping of options, found nothing"),
        (b"snips", "must hold a mapping of options, found 'snips'"),
    ],
)
def test_files_that_are_no_config(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "config.yaml").write_bytes(content)
    with pytest.raises(ArgumentError, match=said) as caught:
        read_config(tmp_path / "config.yaml")
    assert "\n" not in str(caught.value)


def test_files_that_are_not_there(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match=r"cannot read the config .*none.yaml: No such file"):
        read_config(tmp_path / "none.yaml")
    with pytest.raises(ArgumentError, match=r"cannot read the config .*: Is a directory"):
        read_config(tmp_path)
