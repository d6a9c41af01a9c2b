"""A teacher, asked once for the runs that would ask it the same: charged to each, and never mixed up with another."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from datadiet.compare.plan import Plan, methods_from
from datadiet.jobs import prepare
from datadiet.jobs.finetune import finetune
from toys import Heard, same, toy_config, weights_of

ROWS = 48


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The rows of every batch that a teacher reads."""
    rows: list[int] = []
    really = prepare.load_saved

    def load_saved(folder: Path):
        model = really(folder)
        model.register_forward_pre_hook(
            lambda _model, _args, batch: rows.append(len(batch["input_ids"])), with_kwargs=True
        )
        return model

    monkeypatch.setattr(prepare, "load_saved", load_saved)
    return rows


def teach(tmp_path: Path, name: str, kind: str = "classification", **options):
    usual = {"select": "random", "keep": 0.5, "epochs": 2, "teacher": str(tmp_path / "teacher")}
    return finetune(toy_config(tmp_path, kind, output=str(tmp_path / name), **{**usual, **options}))


def test_the_teacher_is_asked_once_and_each_run_is_charged(tmp_path, asked):
    finetune(toy_config(tmp_path, keep=1.0, epochs=1, output=str(tmp_path / "teacher")))
    cache = str(tmp_path / "cache")
    plain, first = teach(tmp_path, "plain"), teach(tmp_path, "first", cache=cache)
    assert sum(asked) == 2 * ROWS
    (entry,) = (tmp_path / "cache").glob("teacher-*/entry.json")
    about = json.loads(entry.read_text())
    assert about["examples"] == ROWS
    entry.write_text(json.dumps({**about, "seconds": 1000.0}))
    second = teach(tmp_path, "second", cache=cache, teacher_temperature=3.0)
    assert sum(asked) == 2 * ROWS
    assert (first["cost"]["shared_s"] > 0, second["cost"]["shared_s"]) == (False, pytest.approx(1000, abs=20))
    assert second["cost"]["score_s"] > 1000
    for count in ("examples_forward", "tokens_forward"):
        assert plain["cost"][count] == first["cost"][count] == second["cost"][count]
    taken = [result["environment"]["from_cache"] for result in (plain, first, second)]
    assert taken == [None, None, "train, dev, teacher, test"]
    again = teach(tmp_path, "again", cache=cache)
    assert again["teacher"] == plain["teacher"]
    assert same(weights_of(tmp_path / "plain"), weights_of(tmp_path / "again"))


def test_every_word_of_a_joint_task_is_kept(tmp_path, asked):
    finetune(toy_config(tmp_path, "intent-slot", keep=1.0, epochs=1, output=str(tmp_path / "teacher")))
    for name in ("one", "two"):
        teach(tmp_path, name, "intent-slot", cache=str(tmp_path / "cache"))
    assert sum(asked) == ROWS
    assert same(weights_of(tmp_path / "one"), weights_of(tmp_path / "two"))


def test_another_teacher_and_other_ways_to_ask_it_have_an_entry_of_their_own(tmp_path, asked):
    for name, seed in (("teacher", 0), ("other", 1)):
        finetune(toy_config(tmp_path, keep=1.0, epochs=1, seed=seed, output=str(tmp_path / name)))
    cache = str(tmp_path / "cache")
    teach(tmp_path, "one", cache=cache)
    card = tmp_path / "teacher" / "model" / "README.md"
    card.write_text(card.read_text() + "\nA verdict.\n")
    teach(tmp_path, "same", cache=cache)
    assert sum(asked) == ROWS  # the card is no part of what it says
    teach(tmp_path, "two", cache=cache, teacher=str(tmp_path / "other"))
    teach(tmp_path, "three", cache=cache, max_length=8)
    assert sum(asked) == 3 * ROWS
    assert len(list((tmp_path / "cache").glob("teacher-*"))) == 3


def test_a_broken_entry_is_asked_for_anew(tmp_path, asked):
    finetune(toy_config(tmp_path, keep=1.0, epochs=1, output=str(tmp_path / "teacher")))
    teach(tmp_path, "one", cache=str(tmp_path / "cache"))
    (place,) = (tmp_path / "cache").glob("teacher-*")
    for file in place.glob("*.parquet"):
        file.write_bytes(b"x" * file.stat().st_size)
    teach(tmp_path, "two", cache=str(tmp_path / "cache"))
    assert sum(asked) == 2 * ROWS
    teach(tmp_path, "three", cache=str(tmp_path / "cache"))
    assert sum(asked) == 2 * ROWS


def test_a_folder_that_cannot_be_written_to_costs_no_run(tmp_path, monkeypatch, asked):
    finetune(toy_config(tmp_path, keep=1.0, epochs=1, output=str(tmp_path / "teacher")))

    def full(*_args, **_options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("datadiet.store.cache.save_values", full)
    listener = Heard()
    options = {"teacher": str(tmp_path / "teacher"), "cache": str(tmp_path / "cache"), "keep": 0.5, "epochs": 2}
    finetune(toy_config(tmp_path, select="random", **options), listener=listener)
    assert (
        f"what the teacher says could not be kept in {tmp_path / 'cache'}: No space left on device." in listener.notes
    )
    assert np.sum(asked) == ROWS


def test_a_comparison_asks_each_teacher_once():
    """Its runs share one folder, whatever they keep: the teacher of a seed is the run on everything with that seed."""
    plan = Plan({"data": "snips", "task": "intent-slot"}, methods_from(["distilled"]), keeps=[0.5, 0.2], seeds=[0])
    taught = [cell for cell in plan.cells() if cell.method == "distilled"]
    configs = [plan.config(cell, f"runs/{cell.name}", cache="cache") for cell in taught]
    assert [config.keep for config in configs] == [0.5, 0.2]
    assert {(config.teacher, config.cache, config.max_length) for config in configs} == {
        (str(Path("runs/full-seed0")), "cache", 128)
    }
