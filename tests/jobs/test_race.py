"""`finetune` with the default selector: races on its dev split, and what it says where there are none."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from datadiet.jobs.finetune import finetune
from datadiet.jobs.preview import dry_run
from toys import Heard, plans_of, same, toy_config, weights_of, write_toy_folder

AUTO: dict[str, Any] = {"select": "auto(share=0.5)", "keep": 0.25, "epochs": 5, "batch_size": 4, "refresh_every": 1}


def folder_with(tmp_path: Path, strange: int) -> str:
    """192 rows to train on and 96 of dev, every one twice, some with a label that the training rows do not have."""
    folder = write_toy_folder(tmp_path, "classification", 192)
    lines = [json.loads(line) for line in (folder / "dev.jsonl").read_text().splitlines()] * 2
    for number, line in enumerate(lines):
        line.pop("id", None)
        if number < strange:
            line["label"] = "unheard"
    (folder / "dev.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return str(folder)


@pytest.mark.proves("auto", kind="race", by="definition")
def test_races_of_a_run_are_in_its_result(tmp_path: Path) -> None:
    heard = Heard()
    result = finetune(toy_config(tmp_path, data=folder_with(tmp_path, 0), **AUTO), listener=heard)
    races = result["race"]["races"]
    assert [race["epoch"] for race in races] == [1]
    assert result["race"]["rule"] == races[-1]["winner"]
    assert heard.forecasts[0].races == 1
    assert heard.forecasts[0].race_steps == sum(race["cost"]["steps"] for race in races)
    assert result["cost"]["probe_s"] > 0
    assert result["diet"]["select"] == "auto(share=0.5)"
    assert not [note for note in heard.notes if "select auto" in note]


def test_dev_rows_of_classes_that_nothing_trains_do_not_judge(tmp_path: Path) -> None:
    heard = Heard()
    result = finetune(toy_config(tmp_path, data=folder_with(tmp_path, 23), **AUTO), listener=heard)
    assert heard.forecasts[0].race_steps == sum(race["cost"]["steps"] for race in result["race"]["races"]) > 0
    for race in result["race"]["races"]:
        assert race["dev_rows"] == 96 - 46
        assert race["cost"]["passes"] == 2 * race["dev_rows"]
        assert all(math.isfinite(loss) for loss in race["losses"].values())


def test_too_few_dev_rows_are_said_once_and_everything_takes_turns(tmp_path: Path) -> None:
    heard = Heard()
    short = {**AUTO, "epochs": 3}
    first = toy_config(tmp_path, n=48, **short)
    result = finetune(first, listener=heard)
    (note,) = [note for note in heard.notes if note.startswith("select auto")]
    assert "the dev split has 12 rows, fewer than 50" in note
    assert note.endswith(f"Every cycle takes the rule cover ({result['race']['why']}).")
    assert result["race"]["races"] == []
    finetune(toy_config(tmp_path, n=48, **{**short, "select": "cover"}, output=str(tmp_path / "cover")))
    assert plans_of(tmp_path / "run") == plans_of(tmp_path / "cover")
    assert same(weights_of(tmp_path / "run"), weights_of(tmp_path / "cover"))


@pytest.mark.parametrize("kind", ["regression", "multi-label"])
def test_where_nothing_is_known_of_the_classes_the_forecast_names_the_rule_alone(tmp_path: Path, kind: str) -> None:
    planned = dry_run(toy_config(tmp_path, kind, select="auto"))
    assert planned.first_rule == "The first rule is cover."
    assert not dry_run(toy_config(tmp_path, kind, select="hardest")).first_rule
