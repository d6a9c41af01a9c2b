"""Saved `datasets` folders and hub names, without a network."""

from __future__ import annotations

from pathlib import Path

import datasets
import pytest

from datadiet.data import sources
from datadiet.data.load import load_data, read_examples
from datadiet.errors import DataError
from toys import sentences


def features(*names: str) -> datasets.Features:
    return datasets.Features(
        {
            "sentence": datasets.Value("string"),
            "label": datasets.ClassLabel(names=list(names)),
            "idx": datasets.Value("int32"),
        }
    )


def split(count: int, start: int = 0, label: int | None = None) -> datasets.Dataset:
    rows = [
        {"sentence": f"sentence {i}", "label": i % 2 if label is None else label, "idx": i}
        for i in range(start, start + count)
    ]
    return datasets.Dataset.from_list(rows, features=features("negative", "a positive"))


def glue() -> datasets.DatasetDict:
    return datasets.DatasetDict(train=split(6), validation=split(2, 10), test=split(2, 20, label=-1))


@pytest.fixture
def network(monkeypatch):
    """Pretend that the hub can be reached; what it gives is up to the test."""
    monkeypatch.setattr(sources, "_may_be_reached", lambda name: True)

    def serve(answer):
        asked = []

        def load_dataset(name, config=None):
            asked.append((name, config))
            if isinstance(answer, Exception):
                raise answer
            return answer

        monkeypatch.setattr(datasets, "load_dataset", load_dataset)
        return asked

    return serve


def test_a_saved_folder_reads_like_files(tmp_path, folder):
    glue().save_to_disk(str(tmp_path / "saved"))
    data = load_data(str(tmp_path / "saved"), "classification")
    assert data.name == "saved"
    assert data.label_names == ("a positive", "negative")
    assert data.splits["train"].labels[:2] == ("negative", "a positive")
    assert data.splits["train"].ids[:2] == ("0", "1")
    assert data.splits["test"].labels is None
    names = ("negative", "a positive")
    rows = [{"text": f"sentence {i}", "label": names[i % 2], "id": str(i)} for i in (*range(6), 10, 11)]
    test = [{"text": f"sentence {i}", "id": i} for i in (20, 21)]
    assert load_data(folder(train=rows[:6], dev=rows[6:], test=test), "classification").fingerprint == data.fingerprint


def test_one_saved_dataset_is_a_training_split(tmp_path):
    split(20).save_to_disk(str(tmp_path / "saved"))
    data = load_data(str(tmp_path / "saved"), "classification")
    assert {name: len(held) for name, held in data.splits.items()} == {"train": 18, "dev": 2}


def test_a_damaged_saved_folder_is_told(tmp_path):
    glue().save_to_disk(str(tmp_path / "saved"))
    (tmp_path / "saved" / "train" / "state.json").unlink()
    with pytest.raises(DataError, match="saved: not a complete saved `datasets` folder"):
        load_data(str(tmp_path / "saved"), "classification")


def test_lists_of_class_numbers_become_tags(tmp_path):
    schema = datasets.Features(
        tokens=datasets.List(datasets.Value("string")),
        ner_tags=datasets.List(datasets.ClassLabel(names=["O", "B-x"])),
        intent=datasets.Value("string"),
        extra=datasets.Features(a=datasets.Value("string")),
    )
    rows = [
        {"tokens": ["a", "b"], "ner_tags": [0, 1], "intent": name, "extra": {"a": "x"}} for name in ("p", "q", "p", "q")
    ]
    saved = datasets.Dataset.from_list(rows, features=schema)
    datasets.DatasetDict(train=saved, dev=saved).save_to_disk(str(tmp_path / "saved"))
    data = load_data(str(tmp_path / "saved"), "intent-slot")
    assert data.slot_names == ("B-x", "O")
    assert data.splits["train"].slots[0] == ("O", "B-x")


@pytest.mark.parametrize(
    ("source", "asked"),
    [
        ("glue/sst2", ("glue", "sst2")),
        ("owner/name", ("owner/name", None)),
        ("owner/name/config", ("owner/name", "config")),
    ],
)
def test_a_hub_name_is_asked_for_as_such(network, source, asked):
    calls = network(glue())
    data = load_data(source, "classification")
    assert calls == [asked]
    assert data.name == source
    assert list(data.splits) == ["train", "dev", "test"]
    assert len(read_examples(source, "classification")) == 2


def test_mnli_has_two_dev_splits(network):
    parts = ("validation_matched", "validation_mismatched", "test_matched", "test_mismatched")
    held = {name: split(2, 10 * i, label=-1 if "test" in name else None) for i, name in enumerate(parts, 1)}
    network(datasets.DatasetDict(train=split(6), **held))
    splits = load_data("glue/mnli", "classification").splits
    assert list(splits) == ["train", "dev", "dev_mismatched", "test", "test_mismatched"]
    assert splits["dev"].ids == ("10", "11")
    assert splits["dev_mismatched"].ids == ("20", "21")


def test_other_names_of_splits_stand_in_where_no_usual_name_is(network):
    network(datasets.DatasetDict(train=split(6), eval=split(2, 10), holdout=split(2, 20)))
    found = load_data("owner/name", "classification")
    assert {name: len(rows) for name, rows in found.splits.items()} == {"train": 6, "dev": 2, "test": 2}
    assert {"'eval' is read as dev.", "'holdout' is read as test."} <= set(found.notes)
    network(datasets.DatasetDict(train=split(6), dev=split(3, 10), eval=split(2, 20)))
    found = load_data("owner/name", "classification")
    assert len(found.splits["dev"]) == 3
    assert any("Splits that are not used: 'eval'." in note for note in found.notes)
    network(datasets.DatasetDict(train=split(6), eval=split(2, 10), evaluation=split(3, 20)))
    found = load_data("owner/name", "classification")
    assert len(found.splits["dev"]) == 2
    assert "Splits that are not used: 'evaluation'." in found.notes


def test_splits_of_other_names_are_reported(network):
    network(datasets.DatasetDict(train=split(20), unsupervised=split(5, 50)))
    assert load_data("owner/imdb", "classification").notes[0] == "Splits that are not used: 'unsupervised'."
    network(datasets.DatasetDict(unsupervised=split(5)))
    with pytest.raises(DataError, match="no train, dev or test split; found 'unsupervised'"):
        load_data("owner/imdb", "classification")


def test_a_local_folder_wins_over_the_hub(network, folder, tmp_path, monkeypatch):
    calls = network(glue())
    (tmp_path / "glue").mkdir()
    folder(name="glue/sst2", train=sentences(4), dev=sentences(2, 10))
    monkeypatch.chdir(tmp_path)
    assert load_data("glue/sst2", "classification").splits["train"].texts[0] == "text number 0"
    assert calls == []


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("glue/sst-2", "unknown data set 'glue/sst-2'; did you mean 'glue/sst2'"),
        ("glue", "unknown data set 'glue'.* Allowed: glue/cola, glue/mnli"),
    ],
)
def test_an_unknown_configuration_is_told(source, message):
    with pytest.raises(DataError, match=message):
        load_data(source, "classification")


@pytest.mark.parametrize(
    "error", [ConnectionError("Couldn't reach it\nmore"), ValueError("no such config"), RuntimeError()]
)
def test_a_hub_that_fails_points_to_a_local_folder(network, error):
    network(error)
    with pytest.raises(DataError, match=r"no folder 'owner/name' here, .*use a local folder .*save_to_disk\(FOLDER\)"):
        load_data("owner/name", "classification")


def no_network(*_):
    raise OSError("Name or service not known")


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """A machine where no name can be looked up, with an empty cache."""
    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "HF_ENDPOINT", "HF_DATASETS_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setattr(sources.urllib.request, "getproxies", dict)
    monkeypatch.setattr(sources.socket, "getaddrinfo", no_network)
    monkeypatch.setattr(datasets, "load_dataset", lambda name, config=None: glue())
    return tmp_path


def test_without_a_network_the_answer_is_immediate(offline):
    with pytest.raises(DataError, match=r"the hub cannot be reached \(no network\); use a local folder"):
        load_data("owner/name", "classification")


def test_without_a_network_the_cache_is_used(offline: Path):
    (offline / "datasets" / "owner___name").mkdir(parents=True)
    assert load_data("owner/name", "classification").name == "owner/name"


@pytest.mark.parametrize("name", ["HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"])
def test_in_offline_mode_the_library_answers(offline, monkeypatch, name):
    monkeypatch.setenv(name, "1")
    assert load_data("owner/name", "classification").name == "owner/name"
