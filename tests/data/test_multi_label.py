"""Several labels per row: lists, text with a separator, class numbers, a 0 or 1 for each label."""

from __future__ import annotations

from pathlib import Path

import pytest

from datadiet.data.load import load_data, read_examples
from datadiet.errors import ArgumentError, DataError

DEV = [{"text": "d", "labels": ["joy", "fear"]}, {"text": "e", "labels": []}]


def rows_of(*labels) -> list[dict]:
    return [{"text": f"text {row}", "labels": found} for row, found in enumerate(labels)]


def test_lists_of_names(folder):
    data = load_data(folder(train=rows_of(["joy", "fear"], [], ["joy", "joy "]), dev=DEV), "multi-label")
    assert data.splits["train"].labels == (("fear", "joy"), (), ("joy",))
    assert (data.label_names, data.slot_names) == (("fear", "joy"), ())
    assert data.splits["dev"].labels == (("fear", "joy"), ())


@pytest.mark.parametrize(("kind", "separator"), [("csv", "|"), ("tsv", "|"), ("tsv", ","), ("csv", ";")])
def test_text_with_a_separator(folder, kind: str, separator: str):
    tab = "\t" if kind == "tsv" else ","
    text = f"text{tab}labels\na{tab}joy{separator}fear\nb{tab}\nc{tab} joy \n"
    data = load_data(folder(kind, train=text, dev=text), "multi-label", label_separator=separator)
    assert data.splits["train"].labels == (("fear", "joy"), (), ("joy",))


def test_the_other_separator_is_part_of_a_name(folder):
    text = 'text,labels\na,"joy, pure|fear"\nb,fear\n'
    assert load_data(folder("csv", train=text, dev=text), "multi-label").label_names == ("fear", "joy, pure")


def test_json_lists_in_text(folder):
    text = 'text\tlabels\na\t["joy", "fear"]\nb\t[]\n'
    assert load_data(folder("tsv", train=text, dev=text), "multi-label").splits["dev"].labels == (("fear", "joy"), ())


def test_class_numbers_sort_as_numbers(folder):
    data = load_data(folder(train=rows_of([10, 9], [2], [1.0]), dev=rows_of([2, 9])), "multi-label")
    assert data.label_names == ("1", "2", "9", "10")
    assert data.splits["train"].labels[0] == ("9", "10")


@pytest.mark.parametrize("one", [1, 1.0, True])
def test_multi_hot_lists_name_labels_by_their_place(folder, one):
    zero = type(one)(0)
    data = load_data(folder(train=rows_of([one, zero, one], [zero, zero, zero], [zero, one, zero])), "multi-label")
    found = {*data.splits["train"].labels, *data.splits["dev"].labels}
    assert found == {("0", "2"), (), ("1",)}


def test_pairs_of_class_numbers_are_not_multi_hot(folder):
    train = rows_of([0, 1], [1, 2])
    assert load_data(folder(train=train, dev=train), "multi-label").splits["train"].labels == (("0", "1"), ("1", "2"))


def test_a_library_set_gives_its_labels_their_names(tmp_path: Path):
    import datasets

    names = datasets.ClassLabel(names=["anger", "joy", "fear"])
    features = datasets.Features({"text": datasets.Value("string"), "labels": datasets.List(names)})
    rows = {"text": ["a", "b", "c"], "labels": [[0, 2], [1], []]}
    split = datasets.Dataset.from_dict(rows, features=features)
    datasets.DatasetDict({"train": split, "validation": split}).save_to_disk(tmp_path / "saved")
    data = load_data(str(tmp_path / "saved"), "multi-label")
    assert data.splits["train"].labels == (("anger", "fear"), ("joy",), ())


def test_a_pair_of_texts_may_have_several_labels(folder):
    rows = [
        {"premise": "a", "hypothesis": "b", "labels": ["x", "y"]},
        {"premise": "c", "hypothesis": "d", "labels": []},
    ]
    assert load_data(folder(train=rows, dev=rows), "multi-label").splits["dev"].text_pairs == ("b", "d")


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (3, r"train\.jsonl, line 2: 3 is no list of labels; write a list of names, or names with '\|' between them"),
        ({"joy": 1}, r"line 2: \{'joy': 1\} is no list of labels"),
        ("[joy", r"line 2: '\[joy' is no list of labels"),
        (["joy", None], "line 2: None is no label; a label is text or a whole number from 0"),
        (["joy", 1.5], "line 2: 1.5 is no label"),
        (["joy", ""], "line 2: '' is no label"),
        ("joy||fear", "line 2: '' is no label"),
        ([["joy"]], r"line 2: \['joy'\] is no label"),
        ([0, 1, 0], "line 2: the label 0 stands twice; give each once; multi-hot lists must all have one length"),
        ([4], r"line 2: the labels \[4\] hold numbers, those of other rows text"),
        (None, r"line 2: the label is missing \(found None\)"),
        (-1, "line 2: the label is missing"),
    ],
)
def test_cells_that_cannot_be_used_are_named(folder, labels, message):
    with pytest.raises(DataError, match=message):
        load_data(folder(train=rows_of(["joy"], labels, ["fear"]), dev=DEV), "multi-label")


def test_labels_of_another_type_than_trains_are_named(folder):
    with pytest.raises(DataError, match=r"dev\.jsonl, line 2: label '7' is a number, train's labels are text"):
        load_data(folder(train=rows_of(["joy"], ["fear"]), dev=rows_of(["joy"], ["joy", "7"])), "multi-label")


def test_unknown_labels_are_told_once(folder):
    data = load_data(folder(train=rows_of(["joy"], ["fear"]), dev=rows_of(["odd", "joy"], ["odd"])), "multi-label")
    told = "dev: 2 rows have a label that train does not have (odd 2); each counts as an error of the model."
    assert told in data.notes


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ((["joy"], []), r"one label only \('joy'\); the task 'multi-label' needs two or more"),
        (([], []), "no label at all"),
        ((["joy", "fear"], ["fear", "joy"]), r"one set of labels only \(\('fear', 'joy'\)\)"),
    ],
)
def test_there_must_be_something_to_tell_apart(folder, labels, message):
    with pytest.raises(DataError, match=message):
        load_data(folder(train=rows_of(*labels), dev=DEV), "multi-label")


def test_unlabelled_splits_and_new_text(folder, tmp_path: Path):
    train = rows_of(["joy"], ["fear"])
    data = load_data(folder(train=train, dev=DEV, test=rows_of(None, None)), "multi-label")
    assert data.splits["test"].labels is None
    (tmp_path / "new.csv").write_text("text,labels\na,\nb,\n", encoding="utf-8")
    assert read_examples(str(tmp_path / "new.csv"), "multi-label").labels is None
    (tmp_path / "told.csv").write_text('text,labels\na,"joy,fear"\nb,\n', encoding="utf-8")
    told = read_examples(str(tmp_path / "told.csv"), "multi-label", label_separator=",")
    assert told.labels == (("fear", "joy"), ())


def test_an_unknown_separator_is_refused(folder):
    with pytest.raises(ArgumentError, match="unknown label_separator '/'"):
        load_data(folder(train=DEV), "multi-label", label_separator="/")
