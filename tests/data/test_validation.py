"""Rows that become examples: texts, words, ids, labels of every kind; rows that cannot be used are named."""

from __future__ import annotations

import re
from pathlib import Path

import datasets
import pytest

from datadiet.data.load import load_data, read_examples
from datadiet.errors import ArgumentError, DataError
from toys import commands, sentences


def rows(*labels: object, start: int = 0, column: str = "label") -> list[dict]:
    return [{"text": f"text number {i}", column: label} for i, label in enumerate(labels, start)]


def several(*labels: object) -> list[dict]:
    return rows(*labels, column="labels")


DEV = several(["joy", "fear"], [])

# ---- texts, words, ids


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"text": ""}, r"train\.jsonl, line 2: the text is empty; fill it in or remove the row\."),
        ({"text": " \n"}, r"train\.jsonl, line 2: the text is empty"),
        ({"text": None}, r"train\.jsonl, line 2: the text is empty"),
        ({"text": 7}, r"train\.jsonl, line 2: the text is 7 \(int\); a text must be text"),
        ({"id": "x0"}, r"train\.jsonl, line 2: the id 'x0' stands at line 1 too; make the ids unique"),
        ({"id": None}, r"train\.jsonl, line 2: the id is empty"),
    ],
)
def test_a_row_that_cannot_be_used_is_named(folder, change, message):
    train = [{**row, "id": f"x{i}"} for i, row in enumerate(sentences(4))]
    train[1] |= change
    with pytest.raises(DataError, match=message):
        load_data(folder(train=train, dev=sentences(2, 10)), "classification")


WORDS = [
    ({"S": ["O"]}, r"train\.jsonl, line 2: 2 tokens but 1 Ts; give every token one T"),
    ({"S": None}, "line 2: 2 tokens but 0 Ts"),
    ({"S": 3}, "line 2: the Ts are no list of tags"),
    ({"S": [None, "O"]}, "line 2: the Ts are no list of tags"),
    ({"tokens": [], "S": []}, "line 2: the list of tokens is empty; fill it in or remove the row"),
    ({"tokens": ""}, "line 2: the list of tokens is empty"),
    ({"tokens": ["a", "\u00a0"]}, "line 2: a token is empty; remove it together with its tag"),
    ({"tokens": [1.5, "a"]}, "line 2: the tokens are no list of words"),
    ({"tokens": "['a', b]"}, "line 2: the tokens are no list of words"),
]


@pytest.mark.parametrize(
    ("task", "column", "tag"), [("intent-slot", "slots", "slot"), ("token-classification", "tags", "tag")]
)
@pytest.mark.parametrize(("change", "message"), WORDS)
def test_words_and_tags_that_do_not_fit_are_named(folder, task, column, tag, change, message):
    train = [{"tokens": ["song", str(i)], column: ["O", "B-song"], "intent": "ab"[i % 2]} for i in range(4)]
    train[1] |= {column if name == "S" else name: value for name, value in change.items()}
    with pytest.raises(DataError, match=re.sub(r"\bT(?=s?\b)", tag, message)):
        load_data(folder(train=train), task)


@pytest.mark.parametrize(
    ("kind", "train", "message"),
    [
        ("csv", "text,label\na,1\n,0\n", r"train\.csv, line 3: the text is empty"),
        ("parquet", [*sentences(2), {"text": "", "label": "pos"}], r"train\.parquet, row 3: the text is empty"),
        (
            "jsonl",
            rows(0, 1) + [{"text": "", "label": i % 2} for i in range(20)],
            r"line 3: .* Also lines 4, 5, 6, 7 and 15 more\.$",
        ),
        ("jsonl", [{"question1": " ", "question2": "", "label": 0}], "line 1: both texts are empty"),
    ],
)
def test_positions_are_those_of_the_file(folder, kind, train, message):
    with pytest.raises(DataError, match=message):
        load_data(folder(kind, train=train), "classification")


def test_problems_of_all_kinds_are_told_at_once(folder):
    train = [
        {"id": 1, "text": "", "label": "a"},
        {"id": 1, "text": "b", "label": None},
        {"id": 2, "text": "", "label": "b"},
    ]
    with pytest.raises(DataError, match="the text is empty") as caught:
        load_data(folder(train=train, dev=[{"text": "", "label": "a"}]), "classification")
    assert [("train" in one, "dev" in one) for one in caught.value.problems] == [(True, False)] * 3 + [(False, True)]
    assert any("Also line 3." in one for one in caught.value.problems)


def test_one_text_of_a_pair_may_be_empty_and_is_reported(folder):
    train = [{"question1": "a", "question2": "b", "label": 0}, {"question1": "c", "question2": None, "label": 1}]
    data = load_data(folder(train=train, dev=[{"question1": "d", "question2": "e", "label": 1}]), "classification")
    assert data.splits["train"].text_pairs == ("b", "")
    assert "train: in 1 row one text of the pair is empty." in data.notes


def test_ids_are_text_and_rows_stand_in_for_them(folder):
    train = [{**row, "idx": 10 + i} for i, row in enumerate(sentences(2))]
    shared = [{**row, "idx": 10 + i} for i, row in enumerate(sentences(2, 20))]  # two splits may share ids
    splits = load_data(folder(train=train, dev=sentences(2, 10), test=shared), "classification").splits
    assert {name: split.ids for name, split in splits.items()} == {
        "train": ("10", "11"), "dev": ("0", "1"), "test": ("10", "11"),
    }  # fmt: skip


@pytest.mark.parametrize("cell", ["a b", " a  b ", '["a", "b"]', "a\tb"])
def test_words_may_be_written_as_text_and_tags_may_be_anything(folder, cell):
    train = [{**row, "tokens": cell, "slots": [0, "what-ever"]} for row in commands(4)]
    data = load_data(folder(train=train), "intent-slot")
    assert data.splits["train"].tokens[0] == ("a", "b")
    assert data.slot_names == ("0", "what-ever")


def test_new_text_is_split_into_words_for_joint_tasks(tmp_path: Path):
    (tmp_path / "new.txt").write_text("play a song\nstop\n\n", encoding="utf-8")
    examples = read_examples(str(tmp_path / "new.txt"), "intent-slot")
    assert examples.tokens == (("play", "a", "song"), ("stop",))
    assert (examples.labels, examples.slots, examples.ids) == (None, None, ("0", "1"))
    (tmp_path / "new.txt").write_text("one\n\nthree\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"new\.txt, line 2: the text is empty"):
        read_examples(str(tmp_path / "new.txt"), "classification")


def test_new_joint_text_is_labelled_with_both_heads_or_none(folder):
    home = folder(both=commands(2), slots_only=[{"tokens": ["a"], "slots": ["O"]}])
    both, one = (read_examples(f"{home}/{name}.jsonl", "intent-slot") for name in ("both", "slots_only"))
    assert (both.labels, both.slots) == (("play", "stop"), (("O", "B-song"),) * 2)
    assert (one.labels, one.slots) == (None, None)


# ---- one label per row


@pytest.mark.parametrize(
    ("kind", "labels", "names"),
    [
        ("jsonl", (10, 9, 2), ("2", "9", "10")),
        ("jsonl", ("10", "9", "2"), ("2", "9", "10")),
        ("jsonl", ("b", "a", "B"), ("B", "a", "b")),
        ("jsonl", (True, False), ("False", "True")),
        ("jsonl", (1.0, 0.0), ("0", "1")),
        ("jsonl", (" pos ", "neg"), ("neg", "pos")),
        ("jsonl", (-2, 2, 0), ("-2", "0", "2")),
        ("jsonl", ("01", "1"), ("01", "1")),
        ("jsonl", ("1", "other"), ("1", "other")),
        # in text formats, cells are numbers where the whole column is
        ("csv", ("1", "0"), ("0", "1")),
        ("csv", ("1.0", "0"), ("0", "1")),
        ("csv", ("1", "1.0", "other"), ("1", "1.0", "other")),
        ("csv", ("01", "02"), ("01", "02")),
        ("csv", ("True", "False"), ("False", "True")),
    ],
)
def test_label_names_are_sorted_integers_as_integers(folder, kind, labels, names):
    data = load_data(folder(kind, train=rows(*labels), dev=rows(labels[0], start=9)), "classification")
    assert data.label_names == names
    assert data.splits["dev"].labels[0] in names


def test_names_come_from_train_only_and_others_are_reported_once(folder):
    home = folder(train=rows("a", "b", "a"), dev=rows("a", "z", start=5), test=rows("y", "z", "y", "a", start=9))
    data = load_data(home, "classification")
    assert (data.label_names, data.splits["train"].labels) == (("a", "b"), ("a", "b", "a"))
    assert data.splits["test"].labels == ("y", "z", "y", "a")
    assert data.notes == (
        "dev: 1 row has a label that train does not have (z 1); each counts as an error of the model.",
        "test: 3 rows have a label that train does not have (y 2, z 1); each counts as an error of the model.",
    )
    dev = [{"tokens": ["a", "b"], "slots": ["B-x", "I-x"], "intent": "odd"}]
    notes = load_data(folder(name="joint", train=commands(4), dev=dev), "intent-slot").notes
    assert notes[0].startswith("dev: 1 row has an intent that train does not have (odd 1)")
    assert notes[1].startswith("dev: 2 words have a slot that train does not have (B-x 1, I-x 1)")
    data = load_data(folder(name="s", train=several(["x"], ["y"]), dev=several(["odd", "x"], ["odd"])), "multi-label")
    note = "dev: 2 rows have a label that train does not have (odd 2); each counts as an error of the model."
    assert note in data.notes


@pytest.mark.parametrize("missing", [None, -1, "-1", "", "  ", float("nan"), -1.0, ...])
def test_a_test_split_without_labels_is_unlabelled(folder, missing):
    test = [{"text": "new"}] if missing is ... else rows(missing, missing, start=9)
    data = load_data(folder(train=rows("a", "b"), dev=rows("a", start=5), test=test), "classification")
    assert data.splits["test"].labels is None
    assert data.notes == ("test is unlabelled: it gets no metrics.",)


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
            r"dev\.jsonl: all labels in .* are missing or -1; add labels to train and dev, or remove the file",
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


@pytest.mark.parametrize(
    ("task", "changes", "message"),
    [
        ("regression", [{"label": 2}] * 3, "train has one number only"),
        ("intent-slot", [{"label": 2}] * 3, "train has one intent only"),
        ("token-classification", [{}] * 3, r"train has one tag only \('O'\)"),
        ("multi-label", [{"labels": ["joy"]}, {"labels": []}], r"one label only \('joy'\); .* needs two or more"),
        ("multi-label", [{"labels": []}] * 2, "no label at all"),
        ("multi-label", [{"labels": ["b", "a"]}, {"labels": ["a", "b"]}], r"one set of labels only \(\('a', 'b'\)\)"),
    ],
)
def test_a_set_without_variety_is_refused(folder, task, changes, message):
    train = [{"tokens": ["a"], "slots": ["O"], "text": f"a {i}", **change} for i, change in enumerate(changes)]
    with pytest.raises(DataError, match=message):
        load_data(folder(train=train, dev=train), task)


def test_no_class_may_be_left_alone_by_a_share_of_train(folder):
    home = folder(train=rows(*["a"] * 40, "b"), dev=rows("b", start=60))
    with pytest.raises(DataError, match="one class only"):
        load_data(home, "classification", train_rows=1)


def test_new_text_keeps_its_labels_only_where_all_rows_have_one(folder):
    home = folder(whole=rows("a", "zzz"), part=rows("a", None), none=[{"text": "x"}])
    labels = [read_examples(f"{home}/{name}.jsonl", "classification").labels for name in ("whole", "part", "none")]
    assert labels == [("a", "zzz"), None, None]
    for name, message in (("none", "no column with the label"), ("part", "the label is missing")):
        with pytest.raises(DataError, match=rf"{name}\.jsonl.*: {message}"):
            read_examples(f"{home}/{name}.jsonl", "classification", labelled=True)


# ---- several labels per row


def test_lists_of_names(folder):
    data = load_data(folder(train=several(["joy", "fear"], [], ["joy", "joy "]), dev=DEV), "multi-label")
    assert data.splits["train"].labels == (("fear", "joy"), (), ("joy",))
    assert (data.label_names, data.slot_names) == (("fear", "joy"), ())
    assert data.splits["dev"].labels == (("fear", "joy"), ())


@pytest.mark.parametrize(
    ("kind", "separator", "text", "labels"),
    [
        *(("csv", sign, f"a,joy{sign}fear\nb,\nc, joy \n", (("fear", "joy"), (), ("joy",))) for sign in "|;"),
        *(("tsv", sign, f"a\tjoy{sign}fear\nb\t\nc\t joy \n", (("fear", "joy"), (), ("joy",))) for sign in "|,"),
        ("csv", "|", 'a,"joy, pure|fear"\nb,fear\n', (("fear", "joy, pure"), ("fear",))),
        ("tsv", "|", 'a\t["joy", "fear"]\nb\t[]\n', (("fear", "joy"), ())),
    ],
)
def test_lists_in_text(folder, kind, separator, text, labels):
    text = ("text\tlabels\n" if kind == "tsv" else "text,labels\n") + text
    data = load_data(folder(kind, train=text, dev=text), "multi-label", label_separator=separator)
    assert data.splits["train"].labels == data.splits["dev"].labels == labels


def test_class_numbers_sort_as_numbers(folder):
    data = load_data(folder(train=several([10, 9], [2], [1.0]), dev=several([2, 9])), "multi-label")
    assert data.label_names == ("1", "2", "9", "10")
    assert data.splits["train"].labels[0] == ("9", "10")


@pytest.mark.parametrize("one", [1, 1.0, True])
def test_multi_hot_lists_name_labels_by_their_place(folder, one):
    zero = type(one)(0)
    data = load_data(folder(train=several([one, zero, one], [zero, zero, zero], [zero, one, zero])), "multi-label")
    assert {*data.splits["train"].labels, *data.splits["dev"].labels} == {("0", "2"), (), ("1",)}
    numbers = several([0, 1], [1, 2])
    plain = load_data(folder(name="n", train=numbers, dev=numbers), "multi-label")
    assert plain.splits["train"].labels == (("0", "1"), ("1", "2"))  # pairs of class numbers are not multi-hot


def test_a_library_set_gives_its_labels_their_names(tmp_path: Path):
    names = datasets.ClassLabel(names=["anger", "joy", "fear"])
    features = datasets.Features({"text": datasets.Value("string"), "labels": datasets.List(names)})
    split = datasets.Dataset.from_dict({"text": ["a", "b", "c"], "labels": [[0, 2], [1], []]}, features=features)
    datasets.DatasetDict({"train": split, "validation": split}).save_to_disk(tmp_path / "saved")
    data = load_data(str(tmp_path / "saved"), "multi-label")
    assert data.splits["train"].labels == (("anger", "fear"), ("joy",), ())


def test_a_pair_of_texts_may_have_several_labels(folder):
    train = [
        {"premise": "a", "hypothesis": "b", "labels": ["x", "y"]},
        {"premise": "c", "hypothesis": "d", "labels": []},
    ]
    assert load_data(folder(train=train, dev=train), "multi-label").splits["dev"].text_pairs == ("b", "d")


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
        load_data(folder(train=several(["joy"], labels, ["fear"]), dev=DEV), "multi-label")


def test_labels_of_another_type_than_trains_are_named(folder):
    with pytest.raises(DataError, match=r"dev\.jsonl, line 2: label '7' is a number, train's labels are text"):
        load_data(folder(train=several(["joy"], ["fear"]), dev=several(["joy"], ["joy", "7"])), "multi-label")


def test_unlabelled_splits_and_new_text(folder, tmp_path: Path):
    data = load_data(folder(train=several(["joy"], ["fear"]), dev=DEV, test=several(None, None)), "multi-label")
    assert data.splits["test"].labels is None
    for text, labels in (("a,\nb,\n", None), ('a,"joy,fear"\nb,\n', (("fear", "joy"), ()))):
        (tmp_path / "new.csv").write_text(f"text,labels\n{text}", encoding="utf-8")
        assert read_examples(str(tmp_path / "new.csv"), "multi-label", label_separator=",").labels == labels
    with pytest.raises(ArgumentError, match="unknown label_separator '/'"):
        load_data(folder(name="x", train=DEV), "multi-label", label_separator="/")
