"""Tokenised data that runs share: the same as made anew, charged to each, and never a wrong or a broken entry."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import pytest

from datadiet.data.load import load_data
from datadiet.errors import ArgumentError
from datadiet.jobs.finetune import finetune, resume_run
from datadiet.jobs.prepare import Features, content_of, read_entry, write_entry
from datadiet.ledger import Ledger
from datadiet.store import cache as entries
from datadiet.store.cache import ENTRY
from datadiet.tasks import task_for
from datadiet.tasks.base import Task
from datadiet.tasks.sequence import ClassificationTask
from toys import (
    SECONDS,
    TOYS,
    Heard,
    Killed,
    plans_of,
    predictions_of,
    rewrite,
    same,
    scores_of,
    tiny_tokenizer,
    toy_config,
    weights_of,
    write_toy_folder,
)


def features_for(home: Path, kind: str = "classification", folder: Path | None = None, **changes: Any) -> Features:
    data = load_data(str(write_toy_folder(home, kind, 48)), TOYS[kind].task)
    usual = Features(data, task_for(data), tiny_tokenizer(), 32, Ledger(), folder)
    return replace(usual, **changes)


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The splits that are tokenised, by the first id: c-0 is train, c-1 dev, c-2 test."""
    splits: list[str] = []
    really = ClassificationTask.features

    def features(self: Any, examples: Any, *args: Any, **kwargs: Any) -> Any:
        splits.append(examples.ids[0].rpartition("-")[0])
        return really(self, examples, *args, **kwargs)

    monkeypatch.setattr(ClassificationTask, "features", features)
    return splits


# ---- the same features


@pytest.mark.parametrize("kind", sorted(TOYS))
def test_features_are_the_same_with_and_without(tmp_path: Path, kind: str) -> None:
    plain = features_for(tmp_path, kind)
    first, second = (features_for(tmp_path, kind, tmp_path / "cache") for _ in range(2))
    for split in ("train", "dev", "test"):
        expected = plain.of(split)
        for features in (first.of(split), second.of(split)):
            assert features.features == expected.features
            assert features.to_dict() == expected.to_dict()
    assert (plain.taken, first.taken, second.taken) == ((), (), ("train", "dev", "test"))


def test_entries_are_mapped_and_not_read_into_memory(tmp_path: Path) -> None:
    made, taken = (features_for(tmp_path, folder=tmp_path / "cache").of("train") for _ in range(2))
    assert made.cache_files  # the first one reads its own file too, so that both train equally fast
    assert taken.cache_files == made.cache_files


def test_a_run_with_the_cache_comes_to_the_same(tmp_path: Path, made: list[str]) -> None:
    config = toy_config(tmp_path, dropout=0.1)
    plain = finetune(config)
    cached = replace(config, cache=str(tmp_path / "cache"))
    results = [finetune(replace(cached, output=str(tmp_path / name))) for name in ("first", "second")]
    assert made == ["c-0", "c-1", "c-2"] * 2  # not by the last
    for name, result in zip(("first", "second"), results, strict=True):
        assert result["metrics"] == plain["metrics"]
        assert same(weights_of(tmp_path / name), weights_of(tmp_path / "run"))
        assert plans_of(tmp_path / name) == plans_of(tmp_path / "run")
        assert scores_of(tmp_path / name).equals(scores_of(tmp_path / "run"))
        assert predictions_of(tmp_path / name).equals(predictions_of(tmp_path / "run"))
        assert result["data"] == plain["data"]
    assert [result["environment"]["from_cache"] for result in (plain, *results)] == [None, None, "train, dev, test"]


# ---- what they cost


def seconds_of(cache: Path) -> dict[str, float]:
    """By split."""
    entries = [json.loads(file.read_text(encoding="utf-8")) for file in cache.glob(f"*/{ENTRY}")]
    return {entry["origin"]["split"]: entry["seconds"] for entry in entries}


def slow(cache: Path, seconds: float) -> None:
    """As if every split had taken so long to tokenise."""
    for file in cache.glob(f"*/{ENTRY}"):
        entry = json.loads(file.read_text(encoding="utf-8"))
        file.write_text(json.dumps({**entry, "seconds": seconds}), encoding="utf-8")


def test_each_run_is_charged_once_for_what_it_takes(tmp_path: Path) -> None:
    config = toy_config(tmp_path, cache=str(tmp_path / "cache"))
    first = finetune(config)
    assert first["cost"]["shared_s"] == 0
    assert set(seconds_of(tmp_path / "cache")) == {"train", "dev", "test"}
    assert all(seconds > 0 for seconds in seconds_of(tmp_path / "cache").values())
    slow(tmp_path / "cache", 100.0)
    for name in ("second", "third"):
        cost = finetune(replace(config, output=str(tmp_path / name)))["cost"]
        assert cost["shared_s"] == 300
        assert 200 < cost["load_s"] < 250  # train and dev
        assert 100 < cost["eval_s"] < 150  # test is tokenised when it is tested
        assert cost["finetune_s"] < 50
        assert sum(cost[name] for name in SECONDS) == pytest.approx(cost["total_s"])
        assert cost["total_s"] > 300


def test_a_resumed_run_is_charged_as_if_it_had_tokenised_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datadiet.jobs.finetune.REPORT_EVERY_S", 0.0)
    config = toy_config(tmp_path, cache=str(tmp_path / "cache"))
    finetune(config)
    slow(tmp_path / "cache", 100.0)
    with pytest.raises(Killed):
        finetune(replace(config, output=str(tmp_path / "second")), listener=Heard(die_at=8))
    cost = resume_run(tmp_path / "second")["cost"]
    assert cost["shared_s"] == 200 + 300
    assert sum(cost[name] for name in SECONDS) == pytest.approx(cost["total_s"])


# ---- never a wrong entry


def origin(features: Features, split: str = "train") -> Any:
    return features._origin(split)


@pytest.mark.parametrize(
    "change",
    [
        {"max_length": 12},
        {"tokenizer": tiny_tokenizer("roberta")},
        {"tokenizer": tiny_tokenizer("distilbert")},  # the same pieces, but no token types
    ],
    ids=["max_length", "other pieces", "other columns"],
)
def test_other_features_have_an_entry_of_their_own(tmp_path: Path, change: dict[str, Any]) -> None:
    cache = tmp_path / "cache"
    features_for(tmp_path, folder=cache).of("train")
    other = features_for(tmp_path, folder=cache, **change)
    found = other.of("train")
    assert other.taken == ()
    assert found.to_dict() == features_for(tmp_path, **change).of("train").to_dict()
    assert len(list(cache.iterdir())) == 2


def test_changed_data_and_other_tasks_have_an_entry_of_their_own(tmp_path: Path) -> None:
    first = features_for(tmp_path)
    rewrite(tmp_path / "toy-classification", "train", lambda row: {**row, "text": row["text"] + " ember"})
    changed = load_data(str(tmp_path / "toy-classification"), "classification")
    task: Task = ClassificationTask(("b", "a"))
    origins = [
        origin(first),
        origin(first, "dev"),
        origin(replace(first, data=changed)),
        origin(replace(first, task=task)),
    ]
    assert len({json.dumps(one) for one in origins}) == 4


def test_a_limit_of_the_model_is_the_same_as_the_option(tmp_path: Path) -> None:
    first = features_for(tmp_path, max_length=64)
    assert origin(first) == origin(features_for(tmp_path, max_length=999))  # the tokenizer has 64 positions


def test_a_tokenizer_is_known_by_its_content(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    before = content_of(tokenizer)
    tokenizer(["the of"], truncation=True, max_length=3, padding=True)
    assert content_of(tokenizer) == before
    tokenizer.save_pretrained(tmp_path / "elsewhere")
    assert content_of(type(tokenizer).from_pretrained(tmp_path / "elsewhere")) == before
    tokenizer.add_tokens(["zyxwv"])
    added = content_of(tokenizer)
    assert added != before
    tokenizer.truncation_side = "left"
    assert content_of(tokenizer) != added


def test_a_slow_tokenizer_is_not_cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    features = features_for(tmp_path, folder=tmp_path / "cache")
    monkeypatch.setattr(type(features.tokenizer), "is_fast", False)
    assert len(features.of("train")) == 48
    assert not (tmp_path / "cache").exists()


# ---- broken and foreign entries


def edit_entry(**changes: Any) -> Callable[[Path], None]:
    def change(place: Path) -> None:
        entry = json.loads((place / ENTRY).read_text(encoding="utf-8"))
        (place / ENTRY).write_text(json.dumps({**entry, **changes}), encoding="utf-8")

    return change


def arrow(place: Path) -> Path:
    (file,) = place.glob("*.arrow")
    return file


def other_rows(place: Path) -> None:
    """Whole, but of other data."""
    datasets.Dataset.from_dict({"input_ids": [[1]]}).save_to_disk(str(place))
    edit_entry(files=entries.sizes(place))(place)


BREAKS: dict[str, Callable[[Path], object]] = {
    "no entry": lambda place: (place / ENTRY).unlink(),
    "no JSON": lambda place: (place / ENTRY).write_text("{"),
    "other schema": edit_entry(schema=99),
    "other origin": edit_entry(origin={"data": "other"}),
    "no seconds": edit_entry(seconds=None),
    "endless": edit_entry(seconds=float("inf")),
    "negative": edit_entry(seconds=-1.0),
    "cut": lambda place: arrow(place).write_bytes(arrow(place).read_bytes()[:-100]),
    "no data": lambda place: arrow(place).unlink(),
    "no state": lambda place: (place / "state.json").unlink(),
    "something else": lambda place: (place / "more").write_text(""),
    "other rows": other_rows,
}


@pytest.mark.parametrize("name", BREAKS)
def test_a_broken_entry_is_made_anew(tmp_path: Path, name: str) -> None:
    cache = tmp_path / "cache"
    expected = features_for(tmp_path, folder=cache).of("train").to_dict()
    (place,) = cache.iterdir()
    BREAKS[name](place)
    again = features_for(tmp_path, folder=cache)
    assert again.of("train").to_dict() == expected
    assert again.taken == ()
    assert again.ledger.snapshot().shared_s == 0
    last = features_for(tmp_path, folder=cache)
    assert last.of("train").to_dict() == expected
    assert last.taken == ("train",)
    assert list(cache.iterdir()) == [place]


def test_an_arrow_file_of_the_right_size_that_is_none(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    expected = features_for(tmp_path, folder=cache).of("train").to_dict()
    (place,) = cache.iterdir()
    arrow(place).write_bytes(b"x" * arrow(place).stat().st_size)
    again = features_for(tmp_path, folder=cache)
    assert again.of("train").to_dict() == expected
    assert again.taken == ()


# ---- several processes, and folders that cannot be used


def test_many_at_once_leave_one_whole_entry(tmp_path: Path) -> None:
    cache, features = tmp_path / "cache", features_for(tmp_path)
    made, named = features.of("train"), origin(features)
    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(write_entry, cache, named, made, float(place)) for place in range(8)]:
            done.result()
    assert len(list(cache.iterdir())) == 1
    found = read_entry(cache, named)
    assert found is not None
    assert found[0].to_dict() == made.to_dict()


def test_the_first_of_two_stays(tmp_path: Path) -> None:
    features = features_for(tmp_path)
    made, named = features.of("train"), origin(features)
    write_entry(tmp_path / "cache", named, made, 1.0)
    write_entry(tmp_path / "cache", named, made, 2.0)
    found = read_entry(tmp_path / "cache", named)
    assert found is not None
    assert found[1] == 1.0


def test_a_write_that_is_killed_leaves_nothing_that_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache, features = tmp_path / "cache", features_for(tmp_path)
    made, named = features.of("train"), origin(features)

    def killed(*_args: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(entries, "write_atomically", killed)
        patch.setattr(entries.shutil, "rmtree", lambda *_args, **_options: None)  # there is no time to tidy up
        with pytest.raises(Killed):
            write_entry(cache, named, made, 1.0)
    (left,) = cache.iterdir()
    assert left.name.startswith(entries.PART)
    assert read_entry(cache, named) is None
    write_entry(cache, named, made, 1.0)
    assert left.exists()  # another process may be writing it
    monkeypatch.setattr(entries, "STALE_S", -1)
    write_entry(cache, named, made, 1.0)
    assert not left.exists()


def test_a_folder_that_cannot_be_written_to_costs_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_args: Any, **_options: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(datasets.Dataset, "save_to_disk", full)
    listener = Heard()
    result = finetune(toy_config(tmp_path, epochs=2, cache=str(tmp_path / "cache")), listener=listener)
    assert result["environment"]["from_cache"] is None
    assert f"tokenised data could not be kept in {tmp_path / 'cache'}: No space left on device." in listener.notes


@pytest.mark.parametrize("name", ["file", ""])
def test_a_cache_that_is_no_folder_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ArgumentError, match="cache must be a folder, got"):
        finetune(toy_config(tmp_path, cache=str(tmp_path / name) if name else ""))
    assert not (tmp_path / "run").exists()


def test_no_bar_is_drawn_and_none_is_taken_away(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    was = datasets.utils.are_progress_bars_disabled()
    features = features_for(tmp_path, folder=tmp_path / "cache")
    capfd.readouterr()
    features.of("train")
    assert "Saving" not in capfd.readouterr().err
    assert datasets.utils.are_progress_bars_disabled() == was
