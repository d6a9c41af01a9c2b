"""Labels: names and their order, what counts as missing, and what is refused."""

from __future__ import annotations

import pytest

from datadiet.data.load import load_data, read_examples
from datadiet.errors import DataError
from toys import commands, sentences


def rows(*labels: object, start: int = 0) -> list[dict]:
    return [{"text": f"text number {i}", "label": label} for i, label in enumerate(labels, start)]


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        ((10, 9, 2), ("2", "9", "10")),
        (("10", "9", "2"), ("2", "9", "10")),
        (("b", "a", "B"), ("B", "a", "b")),
        ((True, False), ("False", "True")),
        ((1.0, 0.0), ("0", "1")),
        ((" pos ", "neg"), ("neg", "pos")),
        ((-2, 2, 0), ("-2", "0", "2")),
        (("01", "1"), ("01", "1")),
    ],
)
def test_label_names_are_sorted_integers_as_integers(folder, labels, names):
    data = load_data(folder(train=rows(*labels), dev=rows(labels[0], start=9)), "classification")
    assert data.label_names == names


@pytest.mark.parametrize(
    ("cells", "names"),
    [
        (("1", "0"), ("0", "1")),
        (("1.0", "0"), ("0", "1")),
        (("1", "1.0", "other"), ("1", "1.0", "other")),
        (("01", "02"), ("01", "02")),
        (("True", "False"), ("False", "True")),
    ],
)
def test_cells_of_text_formats_are_numbers_where_the_whole_column_is(folder, cells, names):
    train = "text,label\n" + "".join(f"text {i},{cell}\n" for i, cell in enumerate(cells))
    data = load_data(folder("csv", train=train, dev=f"text,label\nother,{cells[0]}\n"), "classification")
    assert data.label_names == names


def test_names_come_from_train_only_and_others_are_reported_once(folder):
    home = folder(train=rows("a", "b", "a"), dev=rows("a", "z", start=5), test=rows("y", "z", "y", "a", start=9))
    data = load_data(home, "classification")
    assert data.label_names == ("a", "b")
    assert data.splits["test"].labels == ("y", "z", "y", "a")
    assert data.notes == (
        "dev: 1 row has a label that train does not have (z 1); each counts as an error of the model.",
        "test: 3 rows have a label that train does not have (y 2, z 1); each counts as an error of the model.",
    )


def test_unknown_intents_and_slots_are_reported(folder):
    dev = [{"tokens": ["a", "b"], "slots": ["B-x", "I-x"], "intent": "odd"}]
    notes = load_data(folder(train=commands(4), dev=dev), "intent-slot").notes
    assert notes[0].startswith("dev: 1 row has an intent that train does not have (odd 1)")
    assert notes[1].startswith("dev: 2 words have a slot that train does not have (B-x 1, I-x 1)")


@pytest.mark.parametrize("missing", [None, -1, "-1", "", "  ", float("nan"), -1.0])
def test_a_test_split_without_labels_is_unlabelled(folder, missing):
    home = folder(train=rows("a", "b"), dev=rows("a", start=5), test=rows(missing, missing, start=9))
    data = load_data(home, "classification")
    assert data.splits["test"].labels is None
    assert data.notes == ("test is unlabelled: it gets no metrics.",)


def test_a_test_split_without_a_label_column_is_unlabelled(folder):
    home = folder(train=rows(1, 0), dev=rows(1, start=5), test=[{"text": "new"}])
    assert load_data(home, "classification").splits["test"].labels is None


@pytest.mark.parametrize("labels", [(-1.0, -1.0), (None, None)])
def test_a_regression_test_split_of_minus_ones_is_unlabelled(folder, labels):
    home = folder(train=rows(-1, 0.5, 1), dev=rows(2, start=5), test=rows(*labels, start=9))
    data = load_data(home, "regression")
    assert data.splits["test"].labels is None
    assert data.splits["train"].labels == (-1.0, 0.5, 1.0)
    assert data.label_names == ()


@pytest.mark.parametrize(
    ("split", "labels", "message"),
    [
        (
            "train",
            ("a", None, "b", -1),
            r"train\.jsonl, line 2: the label is missing \(found None\) in .*Also line 4\.",
        ),
        ("train", (0, -1, 1), r"line 2: the label is missing \(found -1\) in the column 'label'; .*-1 means no label"),
        ("train", (None, None), r"train\.jsonl: all labels in the column 'label' are missing or -1; add labels"),
        (
            "dev",
            (-1, -1),
            r"dev\.jsonl: all labels in the column 'label' are missing or -1; add labels to train and dev",
        ),
        ("dev", ("a", ""), r"dev\.jsonl, line 2: the label is missing"),
        ("test", ("a", None), r"test\.jsonl, line 2: the label is missing"),
        ("train", ("a", "a", "a"), r"train has one class only \('a'\), so there is nothing to learn"),
        ("train", (3.5, 1, 2), r"line 1: 3\.5 is not a class; .*task 'regression'"),
        ("train", (["a"], "b"), r"line 1: \['a'\] is not a class"),
        ("train", (1, 0, "pos"), r"line 3: label 'pos' is text, other labels are numbers; write all labels"),
        ("train", ("a", "b", 7), r"line 3: label 7 is a number, other labels are text"),
        ("dev", (1,), r"dev\.jsonl, line 1: label '1' is a number, train's labels are text \('a', 'b'\)"),
    ],
)
def test_labels_that_cannot_be_used_are_named(folder, split, labels, message):
    splits = {"train": rows("a", "b"), "dev": rows("a"), split: rows(*labels)}
    with pytest.raises(DataError, match=message):
        load_data(folder(**splits), "classification")


def test_text_labels_beside_trains_numbers_are_refused(folder):
    home = folder(train=rows(1, 0), dev=rows("pos", "neg"), test=rows(5, start=7))
    with pytest.raises(DataError, match=r"label 'pos' is text, train's labels are numbers .* Also line 2\."):
        load_data(home, "classification")


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_a_dev_split_of_numbers_fits_train_with_numbers_among_names(folder, kind):
    data = load_data(folder(kind, train=rows("1", "other"), dev=rows("1", start=5)), "classification")
    assert data.label_names == ("1", "other")
    assert data.splits["dev"].labels == ("1",)


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (float("nan"), "line 2: the label nan is not a finite number; regression needs a number"),
        (float("inf"), "line 2: the label inf is not a finite number"),
        ("high", "line 2: the label 'high' is not a finite number"),
        (True, "line 2: the label True is not a finite number"),
        ([1], r"line 2: the label \[1\] is not a finite number"),
        (None, r"line 2: the label is missing \(found None\)"),
        ("", "line 2: the label is missing"),
    ],
)
def test_a_regression_label_must_be_a_number(folder, label, message):
    with pytest.raises(DataError, match=message) as error:
        load_data(folder(train=rows(1.5, label, 2), dev=rows(1, start=5)), "regression")
    assert len(error.value.problems) == 1


def test_regression_reads_numbers_written_as_text(folder):
    data = load_data(folder("csv", train="text,score\na,1\nb,2.50\nc,-3e-1\n", dev="text,score\nd,0\n"), "regression")
    assert data.splits["train"].labels == (1.0, 2.5, -0.3)


@pytest.mark.parametrize(("task", "what"), [("regression", "one number"), ("intent-slot", "one intent")])
def test_a_set_without_variety_is_refused(folder, task, what):
    train = [{"tokens": ["a"], "slots": ["O"], "text": "a", "label": 2, "id": i} for i in range(3)]
    with pytest.raises(DataError, match=f"train has {what} only"):
        load_data(folder(train=train), task)


def test_no_class_may_be_left_alone_by_a_share_of_train(folder):
    home = folder(train=rows(*["a"] * 40, "b"), dev=rows("b", start=60))
    with pytest.raises(DataError, match="one class only"):
        load_data(home, "classification", train_rows=1)


def test_new_text_keeps_its_labels_only_where_all_rows_have_one(folder):
    whole, part, none = rows("a", "zzz"), rows("a", None), [{"text": "x"}]
    home = folder(whole=whole, part=part, none=none)
    labels = [read_examples(f"{home}/{name}.jsonl", "classification").labels for name in ("whole", "part", "none")]
    assert labels == [("a", "zzz"), None, None]
    with pytest.raises(DataError, match=r"none\.jsonl: no column with the label"):
        read_examples(f"{home}/none.jsonl", "classification", labelled=True)
    with pytest.raises(DataError, match=r"part\.jsonl, line 2: the label is missing"):
        read_examples(f"{home}/part.jsonl", "classification", labelled=True)


def test_the_row_order_of_labels_is_kept(folder):
    data = load_data(folder(train=sentences(6), dev=sentences(2, 10)), "classification")
    assert data.splits["train"].labels == ("neg", "pos") * 3
