"""The demo: two equal runs but for the diet, in a folder that only ever loses demos."""

from __future__ import annotations

import json
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from datadiet.errors import ArgumentError
from datadiet.jobs.demo import RECORD, DemoOptions, compare, demo_configs, run_demo
from datadiet.types import Listener, Silent


def factory(_title: str) -> AbstractContextManager[Listener]:
    return nullcontext(Silent())


def result(seconds: float) -> dict[str, Any]:
    metrics = {"intent_accuracy": 0.9, "slot_f1": 0.8, "exact_match": 0.7, "nll": 0.3}
    cost = {"finetune_s": seconds, "total_s": seconds + 10}
    return {"metrics": {"dev": metrics, "test": metrics}, "cost": cost, "ceiling": {"tokens_saved": 0.4}}


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The configs of the runs, none of which trains."""
    seen: list[Any] = []

    def finetune(config: Any, *, listener: Listener) -> dict[str, Any]:
        seen.append(config)
        Path(config.output).mkdir()
        return result(50.0 if config.keep == 1.0 else 30.0)

    monkeypatch.setattr("datadiet.jobs.finetune.finetune", finetune)
    monkeypatch.setattr("datadiet.jobs.validate.check_config", lambda config: None)
    return seen


def test_the_runs_differ_in_the_diet_alone() -> None:
    configs = demo_configs(Path("x"), DemoOptions(keep=0.3, seed=4))
    assert replace(configs["full"], keep=0.3, output=configs["diet"].output) == configs["diet"]
    assert (configs["full"].keep, configs["full"].output) == (1.0, str(Path("x/full")))


def test_full_runs_before_the_diet_and_the_record_is_kept(runs: list[Any], tmp_path: Path) -> None:
    titles: list[str] = []

    def titled(title: str) -> AbstractContextManager[Listener]:
        titles.append(title)
        return nullcontext(Silent())

    demo = run_demo(tmp_path / "a" / "demo", titled)
    assert [config.keep for config in runs] == [1.0, 0.5]
    assert titles == ["1/2 full data", "2/2 data diet, keep 0.5"]
    assert json.loads((tmp_path / "a" / "demo" / RECORD).read_text(encoding="utf-8")) == demo
    assert demo["saved"] == {"finetune_s": pytest.approx(0.4), "total_s": pytest.approx(1 / 3)}
    assert demo["quality"] == ["intent_accuracy", "slot_f1", "exact_match"]
    assert compare(result(10.0), result(20.0), 0.5)["saved"]["finetune_s"] == -1.0


def test_an_earlier_demo_is_kept_unless_forced(runs: list[Any], tmp_path: Path) -> None:
    run_demo(tmp_path, factory)
    (tmp_path / "full" / "old").touch()
    with pytest.raises(ArgumentError, match="holds an earlier demo: --force replaces it"):
        run_demo(tmp_path, factory)
    assert (tmp_path / "full" / "old").exists()
    run_demo(tmp_path, factory, force=True)
    assert not (tmp_path / "full" / "old").exists()


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize("names", [["thesis.tex"], ["full", "thesis.tex"], [RECORD, "full", "thesis.tex"], ["full"]])
def test_nothing_but_a_demo_is_ever_removed(runs: list[Any], tmp_path: Path, names: list[str], force: bool) -> None:
    for name in names:
        (tmp_path / name).touch()
    with pytest.raises(ArgumentError, match="holds more than a demo"):
        run_demo(tmp_path, factory, force=force)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)
    with pytest.raises(ArgumentError, match="is a file"):
        run_demo(tmp_path / names[0], factory, force=force)
    assert not runs


def test_an_interrupted_demo_can_be_replaced(runs: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(config: Any, *, listener: Listener) -> None:
        Path(config.output).mkdir()
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("datadiet.jobs.finetune.finetune", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run_demo(tmp_path / "demo", factory)
    assert json.loads((tmp_path / "demo" / RECORD).read_text(encoding="utf-8"))["finished"] is False
    assert run_demo(tmp_path / "demo", factory, force=True)["finished"] is True


def test_bad_input_leaves_nothing(runs: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(config: Any) -> None:
        raise ArgumentError("the model folder nowhere does not exist.")

    monkeypatch.setattr("datadiet.jobs.validate.check_config", refuse)
    with pytest.raises(ArgumentError, match="nowhere"):
        run_demo(tmp_path / "demo", factory, options=DemoOptions(model="nowhere"))
    assert not (tmp_path / "demo").exists()
    assert not runs


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (DemoOptions(keep=70), r"--keep must be in \(0, 1\], got 70. Did you mean 0.7\?"),
        (DemoOptions(keep=1), "full data, the other run"),
        (DemoOptions(train_rows=0), "--train-rows must be a whole number, at least 1"),
        (DemoOptions(epochs=1), "--epochs must be a whole number, at least 2"),
    ],
)
def test_bad_options_are_refused_before_anything_runs(
    runs: list[Any], tmp_path: Path, options: DemoOptions, said: str
) -> None:
    with pytest.raises(ArgumentError, match=said):
        run_demo(tmp_path / "demo", factory, options=options)
    assert not (tmp_path / "demo").exists()
    assert not runs


@pytest.mark.slow
def test_the_real_thing_with_a_tiny_model(tmp_path: Path) -> None:
    from toys import tiny_model_folder

    options = DemoOptions(train_rows=64, epochs=2, model=str(tiny_model_folder(tmp_path)), batch_size=16)
    demo = run_demo(tmp_path / "demo", factory, options=replace(options, precision="fp32"))
    full, diet = demo["full"]["cost"], demo["diet"]["cost"]
    assert (full["examples_backward"], diet["examples_backward"]) == (128, 96)
    assert demo["ceiling"]["examples_saved"] == pytest.approx(0.25)
    assert (tmp_path / "demo" / "diet" / "model" / "model.safetensors").is_file()
