"""Before a run: what a data set holds, and what a run would do."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from datadiet.config import read_config
from datadiet.errors import ArgumentError, DataError
from datadiet.jobs.finetune import finetune
from datadiet.jobs.preview import config_text, dry_run, look
from toys import Heard, dialogue_folder, tiny_lm_folder, tiny_model_folder, toy_config, write_toy_folder

ANSWER = {"role": "assistant", "content": "yes"}


def write_rows(folder: Path, rows: list[dict]) -> str:
    folder.mkdir(exist_ok=True)
    (folder / "train.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return str(folder)


@pytest.mark.parametrize(
    ("row", "task"),
    [
        (lambda place: {"text": f"text {place}", "label": "ab"[place % 2]}, "classification"),
        (lambda place: {"text": f"text {place}", "label": place / 7}, "regression"),
        (lambda place: {"text": f"text {place}", "label": place % 3}, "classification"),  # grades
        (lambda place: {"text": f"text {place}", "labels": ["a", "b"][: 1 + place % 2]}, "multi-label"),
        (lambda place: {"instruction": f"say {place}", "input": "", "output": f"{place}!"}, "causal-lm"),
        (lambda place: {"messages": [{"role": "user", "content": f"{place}?"}, ANSWER]}, "causal-lm"),
        (lambda place: {"question": f"is it {place}?", "answer": ["yes", "no"][place % 2]}, "classification"),
        (lambda place: {"body": 1, "text": f"plain text {place}"}, "causal-lm"),
        (lambda _: {"tokens": ["to", "Rome"], "tags": ["O", "B-city"]}, "token-classification"),
        (lambda place: {"tokens": ["to", "Rome"], "slots": ["O", "B-city"], "intent": "ab"[place % 2]}, "intent-slot"),
    ],
)
def test_the_task_is_found_in_the_data(row, task, tmp_path):
    found = look(write_rows(tmp_path / "data", [row(place) for place in range(60)]))
    assert found["task"] == task
    assert task not in found["also"]
    assert found["seconds"] is None


def test_a_language_model_is_asked_for(tmp_path):
    heard = Heard()
    data = str(dialogue_folder(tmp_path, 96))
    found = look(data, model="minilm", listener=heard)
    assert (found["task"], found["classes"], found["seconds"]) == ("causal-lm", None, None)
    assert any("no language model is packaged" in note for note in heard.notes)
    (tmp_path / "found.yaml").write_text(config_text(data, found))
    config = read_config(tmp_path / "found.yaml", output=str(tmp_path / "run"))
    assert (config.model, config.max_length) == ("", 1024)
    with pytest.raises(ArgumentError, match="model is empty"):
        dry_run(config)
    folder = str(tiny_lm_folder(tmp_path))
    timed = look(data, model=folder)
    assert timed["seconds"]["full"] > timed["seconds"]["diet"] > 0
    (tmp_path / "timed.yaml").write_text(config_text(data, timed, model=folder))
    planned = dry_run(read_config(tmp_path / "timed.yaml", output=str(tmp_path / "run")))
    assert planned.steps < planned.full_steps


def test_what_a_data_set_holds(tmp_path):
    rows = [{"text": "a b c", "label": "x"}] * 3 + [{"text": f"word {place}", "label": "y"} for place in range(37)]
    data = Path(write_rows(tmp_path / "data", rows))
    (data / "dev.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows[2:4]))
    found = look(str(data), "classification")
    assert found["data"]["rows"] == {"train": 40, "dev": 2}
    assert found["classes"] == {"count": 2, "least": 3, "most": {"y": 37, "x": 3}}
    assert found["lengths"] == {"median": 2, "95 %": 3, "longest": 3}
    assert (found["repeated"], found["overlap"], found["epochs"]) == (2, 4, 20)


def test_data_of_no_task_are_refused_with_the_reason_of_each(tmp_path):
    with pytest.raises(DataError) as caught:
        look(write_rows(tmp_path / "data", [{"a": 1}] * 10))
    assert any(problem.startswith("as classification: ") for problem in caught.value.problems)


def test_time_is_estimated_from_real_steps_and_the_config_runs(tmp_path):
    data, model = str(write_toy_folder(tmp_path, "classification", 64)), str(tiny_model_folder(tmp_path))
    found = look(data, model=model)
    assert 0 < found["seconds"]["diet"] < found["seconds"]["full"]
    assert found["seconds"]["epochs"] == found["epochs"] == 20
    (tmp_path / "mine.yaml").write_text(config_text(data, found, model=model))
    written = yaml.safe_load((tmp_path / "mine.yaml").read_text())
    assert {name: written[name] for name in ("data", "task", "model")} == {
        "data": data, "task": "classification", "model": model,
    }  # fmt: skip
    config = read_config(tmp_path / "mine.yaml", output=str(tmp_path / "run"), epochs=2)
    assert len(finetune(config)["epochs"]) == 2


def test_a_dry_run_says_what_the_run_then_does_and_writes_nothing(tmp_path):
    config = toy_config(tmp_path, epochs=3, keep=0.5, cache=str(tmp_path / "cache"))
    planned = dry_run(config)
    assert not Path(config.output).exists()
    assert not (tmp_path / "cache").exists()
    result = finetune(config)
    assert [epoch.steps for epoch in planned.epochs] == [epoch["steps"] for epoch in result["epochs"]]
    with pytest.raises(ArgumentError, match="holds a finished run"):
        dry_run(config)
