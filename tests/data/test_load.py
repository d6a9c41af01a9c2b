"""Whole sets: where they come from, what they are called, what is done to their splits."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from datadiet.data.load import load_data, overlap, read_examples, set_dev_aside
from datadiet.data.schema import Examples
from datadiet.errors import ArgumentError, DataError
from toys import sentences, write_rows


def test_snips_is_packaged_with_its_licence():
    started = time.perf_counter()
    data = load_data("snips", "intent-slot")
    assert time.perf_counter() - started < 5  # about half a second; the margin is for busy machines
    assert data.name == "snips"
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 13084, "dev": 700, "test": 700}
    assert (len(data.label_names), len(data.slot_names)) == (7, 72)
    assert data.fingerprint == "422ed456db0acddb"  # changes when the data, or what is hashed, does
    assert data.notes[0].startswith("The text of 81 training rows also occurs in another split (dev 17, test 64;")
    import datadiet

    licence = Path(datadiet.__file__).parent / "packaged" / "snips" / "LICENSE-SNIPS"
    assert "CC0 1.0 Universal" in licence.read_text(encoding="utf-8")


def test_a_folder_named_snips_does_not_hide_the_packaged_data_silently(tmp_path, monkeypatch):
    (tmp_path / "snips").mkdir()
    monkeypatch.chdir(tmp_path)
    assert "(write ./snips to read it)" in load_data("snips", "intent-slot").notes[0]


def test_importing_the_data_layer_imports_nothing_heavy():
    heavy = ("torch", "transformers", "datasets", "pyarrow", "pandas")
    code = f"import sys, datadiet.data.load; print([name for name in {heavy!r} if name in sys.modules])"
    env = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", ["dev", "validation", "valid", "val", "Dev", "dev_matched"])
def test_other_names_of_dev_are_known(folder, name):
    data = load_data(folder(train=sentences(4), **{name: sentences(2, 10)}), "classification")
    assert list(data.splits) == ["train", "dev"]
    assert data.splits["dev"].texts == ("text number 10", "text number 11")


def test_mnli_files_keep_both_dev_and_test_splits(folder):
    names = ("dev_matched", "dev_mismatched", "test_matched", "test_mismatched")
    home = folder(train=sentences(4), **{name: sentences(2, 10 * i) for i, name in enumerate(names, 1)})
    splits = load_data(home, "classification").splits
    assert list(splits) == ["train", "dev", "dev_mismatched", "test", "test_mismatched"]
    assert splits["dev_mismatched"].texts[0] == "text number 20"


def test_a_split_in_two_formats_is_refused(folder, tmp_path):
    home = folder(train=sentences(4), dev=sentences(2), valid=sentences(2))
    folder("csv", train=sentences(4))
    with pytest.raises(DataError, match=r"(?s)dev split .* more than once: 'dev\.jsonl', 'valid\.jsonl'.*train split"):
        load_data(home, "classification")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["dev.jsonl"], "there is no train split; found 'dev'"),
        (["data.jsonl", "model.bin"], "no train, dev or test data in this folder; found 'data.jsonl', 'model.bin'"),
        ([], "found nothing. Name the files train, dev and test"),
    ],
)
def test_a_folder_without_train_says_what_is_there(tmp_path, files, message):
    for file in files:
        write_rows(tmp_path / file, sentences(2))
    with pytest.raises(DataError, match=message):
        load_data(str(tmp_path), "classification")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("snip", r"no file or folder 'snip'; did you mean 'snips'\? Data is a folder"),
        ("./reviewz", r"no file or folder '\./reviewz'; did you mean 'reviews'\?"),
        ("reviews/missing.jsonl", r"hub cannot be reached|no file or folder 'reviews/missing\.jsonl'"),
        ("/nowhere/at/all/here", r"no file or folder '/nowhere/at/all/here'\."),
    ],
)
def test_a_source_that_does_not_exist_is_told(folder, tmp_path, monkeypatch, source, message):
    folder(train=sentences(4))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("datadiet.data.sources._may_be_reached", lambda name: False)
    with pytest.raises(DataError, match=message):
        load_data(source, "classification")


def test_the_name_is_the_folders_own_and_never_a_path(folder, monkeypatch):
    home = folder(train=sentences(10))
    monkeypatch.chdir(home)
    assert load_data(home, "classification").name == "reviews"
    assert load_data(".", "classification").name == "reviews"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"task": "clasification"}, "unknown task 'clasification'; did you mean 'classification'"),
        ({"seed": -1}, "seed must be a whole number, at least 0"),
        ({"dev_share": 10}, r"dev_share must be in \(0, 1\], got 10. Did you mean 0.1"),
        ({"dev_share": 1.0}, "dev_share must be below 1"),
        ({"train_rows": 0}, "train_rows must be a whole number, at least 1"),
        ({"train_rows": 5000000}, "train_rows must be at most 13084"),
        ({"seed": 1.5, "dev_share": 0, "task": "x"}, "(?s)unknown task.*seed must.*dev_share must"),
    ],
)
def test_arguments_are_checked_together(options, message):
    with pytest.raises(ArgumentError, match=message):
        load_data("snips", **{"task": "intent-slot", **options})


def test_dev_is_set_aside_by_seed(folder):
    home = folder(train=sentences(50), test=sentences(4, 100))
    data = load_data(home, "classification", dev_share=0.2, seed=3)
    train, dev = data.splits["train"], data.splits["dev"]
    assert (len(train), len(dev), list(data.splits)) == (40, 10, ["train", "dev", "test"])
    assert sorted([*train.ids, *dev.ids], key=int) == [str(i) for i in range(50)]
    assert list(train.ids) == sorted(train.ids, key=int)
    assert data.notes == ("There is no dev split: 10 of 50 training rows were set aside as dev (seed 3).",)
    assert load_data(home, "classification", dev_share=0.2, seed=3) == data
    assert load_data(home, "classification", dev_share=0.2, seed=4).splits["dev"] != dev


@pytest.mark.parametrize(("share", "dev"), [(0.001, 1), (0.999, 19), (0.26, 5)])
def test_dev_and_train_both_get_a_row(share, dev):
    train = Examples([str(i) for i in range(20)], ["text"] * 20)
    splits, _ = set_dev_aside({"train": train}, share, seed=0)
    assert (len(splits["dev"]), len(splits["train"])) == (dev, 20 - dev)


def test_train_rows_takes_a_seeded_share_in_order(folder):
    home = folder(train=sentences(60), dev=sentences(4, 100))
    one = load_data(home, "classification", train_rows=20)
    assert len(one.splits["train"]) == 20
    assert list(one.splits["train"].ids) == sorted(one.splits["train"].ids, key=int)
    assert one == load_data(home, "classification", train_rows=20)
    assert one.splits["train"] != load_data(home, "classification", train_rows=20, seed=1).splits["train"]
    assert one.splits["dev"] == load_data(home, "classification").splits["dev"]
    assert load_data(home, "classification", train_rows=60).splits == load_data(home, "classification").splits


def test_train_rows_comes_after_dev_is_set_aside(folder):
    home = folder(train=sentences(50))
    whole, part = load_data(home, "classification"), load_data(home, "classification", train_rows=45)
    assert part.splits == whole.splits
    with pytest.raises(ArgumentError, match="train_rows must be at most 45, the rows there are to train on, got 50"):
        load_data(home, "classification", train_rows=50)


def test_overlap_is_counted_and_dropped_when_asked(folder):
    train = sentences(6)
    dev = [{"text": " TEXT  number 1 ", "label": "pos"}, {"text": "text number 2", "label": "pos"}]
    home = folder(train=train, dev=dev, test=[{"text": "text number 2", "label": "neg"}])
    data = load_data(home, "classification")
    assert len(data.splits["train"]) == 6
    assert data.notes == (
        "The text of 2 training rows also occurs in another split (dev 2, test 1; case and spacing aside); "
        "--drop-overlap drops them.",
    )
    dropped = load_data(home, "classification", drop_overlap=True)
    assert dropped.splits["train"].ids == ("0", "3", "4", "5")
    assert dropped.notes[0].endswith("they were dropped.")
    assert dropped.splits["dev"] == data.splits["dev"]


def test_overlap_of_pairs_needs_both_texts():
    def pairs(*held: tuple[str, str]) -> Examples:
        return Examples(
            [str(i) for i in range(len(held))], [one for one, _ in held], text_pairs=[two for _, two in held]
        )

    splits = {"train": pairs(("a", "b"), ("a", "c"), ("b", "a")), "dev": pairs(("A", "B "))}
    assert overlap(splits) == ([0], {"dev": 1})


@pytest.mark.parametrize(
    ("splits", "options", "message"),
    [
        ({"train": 2, "dev": 2}, {"drop_overlap": True}, "dropping them would leave nothing to train on"),
        ({"train": 1}, {}, "train has one row, so none can be set aside"),
    ],
)
def test_no_train_split_is_left_empty(folder, splits, options, message):
    with pytest.raises(DataError, match=message):
        load_data(folder(**{name: sentences(count) for name, count in splits.items()}), "classification", **options)


def test_the_same_content_has_the_same_fingerprint_wherever_it_lies(folder):
    one = load_data(folder(name="one", train=sentences(4), dev=sentences(2, 9)), "classification")
    two = load_data(folder("csv", name="two", train=sentences(4), valid=sentences(2, 9)), "classification")
    assert one.fingerprint == two.fingerprint
    assert len(one.fingerprint) == 16
    assert one.name != two.name


def test_new_examples_come_from_a_file_or_a_test_split(folder):
    home = folder(train=sentences(4), test=sentences(3, 20))
    expected = read_examples(f"{home}/test.jsonl", "classification")
    assert read_examples(home, "classification") == expected
    assert expected.labels == ("neg", "pos", "neg")
    assert len(read_examples("snips", "classification")) == 700
    with pytest.raises(DataError, match=r"there is no test split; found 'train'\. Name one file instead"):
        read_examples(folder(name="other", train=sentences(4)), "classification")
    assert len(read_examples(folder(name="broken", train="{", test=sentences(3)), "classification")) == 3
    with pytest.raises(ArgumentError, match="unknown task 'ner'"):
        read_examples("snips", "ner")


def test_one_split_is_read_whole(folder):
    one = folder(name="one", test=sentences(3))
    assert len(read_examples(one, "classification", split="train")) == 3  # the only one there is
    both = folder(name="both", train=sentences(4), test=sentences(3))
    assert len(read_examples(both, "classification", split="train")) == 4  # no row is set aside as dev
    with pytest.raises(DataError, match=r"there is no train split; found 'dev', 'test'\. Name one file instead"):
        read_examples(folder(name="none", dev=sentences(4), test=sentences(3)), "classification", split="train")


def test_dedupe_keeps_one_of_each_text_with_its_most_common_label(tmp_path):
    rows = [("Play it", "a"), ("stop", "b"), ("play  it", "b"), ("PLAY IT", "b"), ("go", "a"), ("Go on", "b")]
    lines = [json.dumps({"text": text, "label": label}) for text, label in rows]
    (tmp_path / "train.jsonl").write_text("\n".join(lines))
    (tmp_path / "dev.jsonl").write_text("\n".join(lines[:2]))
    found = load_data(str(tmp_path), "classification", dedupe=True)
    assert list(zip(found.splits["train"].texts, found.splits["train"].labels, strict=True)) == [
        ("stop", "b"),
        ("play  it", "b"),
        ("go", "a"),
        ("Go on", "b"),
    ]
    assert any("2 training rows repeat" in note and "of 1 texts the labels differ" in note for note in found.notes)
    assert len(found.splits["dev"]) == 2
