"""Words and their tags: CoNLL files and schemes."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from seqeval.metrics.sequence_labeling import get_entities

from datadiet.data.load import load_data, read_examples
from datadiet.data.schema import Columns
from datadiet.data.tagging import iob1_to_bio, is_iob1, looks_like_conll, parse_conll, span_types, usual_scheme
from datadiet.errors import DataError

TRAIN = """-DOCSTART- -X- -X- O

U.N. NNP I-NP B-ORG
official NN I-NP O

Rome NNP I-NP B-LOC
\t
New NNP I-NP B-LOC
York NNP I-NP I-LOC
"""
DEV = "Oslo NNP I-NP B-LOC\nsleeps VB I-VP O\n"


def load(folder, kind: str = "conll", **splits: str):
    return load_data(folder(kind, **splits), "token-classification")


@pytest.mark.parametrize("kind", ["conll", "bio", "iob2", "txt"])
def test_conll_files_are_read(folder, kind: str):
    data = load(folder, kind, train=TRAIN, dev=DEV)
    train = data.splits["train"]
    assert train.tokens == (("U.N.", "official"), ("Rome",), ("New", "York"))
    assert train.slots == (("B-ORG", "O"), ("B-LOC",), ("B-LOC", "I-LOC"))
    assert (train.labels, data.label_names, data.slot_names) == (None, (), ("B-LOC", "B-ORG", "I-LOC", "O"))
    assert train.texts[2] == "New York"
    assert data.notes in ((), ("Column 1 is the word, column 4 the tag; the others are left out.",))


def test_packed_files_and_windows_lines_are_read(tmp_path: Path):
    (tmp_path / "train.conll.gz").write_bytes(gzip.compress(TRAIN.replace("\n", "\r\n").encode()))
    (tmp_path / "dev.conll").write_text(DEV, encoding="utf-8-sig")
    data = load_data(str(tmp_path), "token-classification")
    assert data.splits["train"].tokens[0] == ("U.N.", "official")
    assert data.splits["dev"].tokens == (("Oslo", "sleeps"),)


def test_tabs_hold_words_with_spaces_and_comments_are_skipped():
    lines = ["# id 17 domain = en", "New York\tB-LOC", "#\tO", "# O", "", "# another", "a\tO"]
    with pytest.raises(DataError, match="the first line has 2"):
        parse_conll([*lines, "b c\td\tO"], "x")
    assert parse_conll(lines, "x").columns["tokens"] == [["New York", "#", "#"], ["a"]]
    assert list(parse_conll(lines, "x").lines) == [2, 7]


def test_a_line_with_other_columns_is_named(folder):
    with pytest.raises(DataError, match=r"train\.conll, line 2: 1 column, the first line has 2; .* Also line 4\.$"):
        load(folder, train="Rome B-LOC\nsleeps\n\nin the O\n", dev="Oslo B-LOC\n")


def test_words_without_tags_are_new_text(tmp_path: Path):
    (tmp_path / "new.conll").write_text("Rome\nsleeps\n\nOslo\n", encoding="utf-8")
    examples = read_examples(str(tmp_path / "new.conll"), "token-classification")
    assert (examples.tokens, examples.slots) == ((("Rome", "sleeps"), ("Oslo",)), None)
    (tmp_path / "plain.txt").write_text("Rome sleeps O\nand so do I\n", encoding="utf-8")
    assert read_examples(str(tmp_path / "plain.txt"), "token-classification").tokens[0] == ("Rome", "sleeps", "O")


@pytest.mark.parametrize(
    ("lines", "answer"),
    [
        (["Rome B-LOC", "", "x O"], True),
        (["yes O", "no O"], False),
        (["Rome B-LOC", "x"], False),
        (["Rome LOC"], False),
        ([], False),
    ],
)
def test_only_files_of_words_and_tags_look_like_conll(lines, answer):
    assert looks_like_conll(lines) is answer


@pytest.mark.parametrize("column", ["ner_tags", "tags", "labels", "slots"])
def test_usual_names_of_jsonl(folder, column: str):
    rows = [{"tokens": ["Rome", "is"], column: ["B-LOC", "O"]}, {"tokens": ["Oslo"], column: ["B-LOC"]}]
    assert load_data(folder(train=rows, dev=rows), "token-classification").slot_names == ("B-LOC", "O")


# ---- schemes


def spans(tags) -> list:
    return get_entities(list(tags))


@pytest.mark.parametrize(
    "tags",
    [
        ["I-LOC", "I-LOC", "O", "I-PER"],
        ["I-LOC", "B-LOC", "I-LOC"],
        ["I-LOC", "I-PER", "B-PER", "O", "O"],
        ["O", "I-A"],
    ],
)
def test_iob1_means_the_same_spans_as_bio(tags: list[str]):
    assert is_iob1([tags])
    assert spans(iob1_to_bio(tags)) == spans(tags)
    assert not is_iob1([iob1_to_bio(tags)])


def test_iob1_is_converted_split_by_split_and_told(folder):
    data = load(folder, train="New I-LOC\nYork I-LOC\nRome B-LOC\nis O\n", dev="Oslo B-LOC\n\nis O\n")
    assert data.splits["train"].slots == (("B-LOC", "I-LOC", "B-LOC", "O"),)
    assert data.notes == ("train: IOB1 tags were read as BIO.",)


@pytest.mark.parametrize("tags", [["B-LOC", "O", "I-LOC"], ["S-LOC", "B-PER", "E-PER"], ["NN", "VB"], ["O"]])
def test_other_schemes_stay_as_they_are(folder, tags: list[str]):
    rows = [{"tokens": ["a"] * len(tags), "tags": tags}, {"tokens": ["b", "c"], "tags": ["O", tags[0]]}]
    rows += [{"tokens": ["d"], "tags": ["X" if tags == ["O"] else "O"]}]
    data = load_data(folder(train=rows, dev=rows), "token-classification")
    assert data.splits["train"].slots[0] == tuple(tags)


def test_bilou_becomes_iobes(folder):
    data = load(folder, train="a U-X\nb B-X\nc I-X\nd L-X\ne O\n", dev="a U-X\n")
    assert data.splits["train"].slots == (("S-X", "B-X", "I-X", "E-X", "O"),)
    assert spans(data.splits["train"].slots[0]) == [("X", 0, 0), ("X", 1, 3)]
    assert "train: BILOU tags were read as IOBES." in data.notes


def test_unlabelled_examples_have_no_scheme():
    examples = read_examples("snips", "token-classification", columns=Columns(slots="none"))
    assert usual_scheme(examples) == (examples, None)
    assert span_types(("O", "NN", "NN")) == ("NN",)


# ---- what is refused, and what is told once


def test_tags_of_another_type_are_named(folder):
    train = [{"tokens": ["a"], "tags": ["B-X"]}, {"tokens": ["b"], "tags": ["O"]}]
    dev = [{"tokens": ["a", "b"], "tags": ["O", 3]}]
    with pytest.raises(DataError, match=r"dev\.jsonl, line 1: tag '3' is a number, train's tags are text"):
        load_data(folder(train=train, dev=dev), "token-classification")


def test_unknown_tags_are_told_once_and_numbers_are_warned_of(folder):
    dev = [{"tokens": ["a", "b"], "tags": ["B-Y", "B-Y"]}]
    train = [{"tokens": ["a"], "tags": ["B-X"]}, {"tokens": ["b"], "tags": ["O"]}]
    data = load_data(folder(train=train, dev=dev), "token-classification")
    assert data.notes == (
        "dev: 2 words have a tag that train does not have (B-Y 2); each counts as an error of the model.",
    )
    numbers = [{"tokens": ["a", "b"], "tags": [0, 1]}]
    (note,) = load_data(folder(name="n", train=numbers, dev=numbers), "token-classification").notes[:1]
    assert note.startswith("The tags are numbers")


def test_an_unlabelled_test_split_has_no_metrics(folder):
    train = [{"tokens": ["a", "b"], "tags": ["B-X", "O"]}]
    data = load_data(folder(train=train, dev=train, test=[{"tokens": ["c"]}]), "token-classification")
    assert not data.splits["test"].labelled
    assert "test is unlabelled: it gets no metrics." in data.notes
    assert data.splits["dev"].labelled


def test_the_format_makes_no_difference_to_the_fingerprint(folder, tmp_path: Path):
    rows = [{"tokens": ["Rome", "is"], "tags": ["B-LOC", "O"]}, {"tokens": ["Oslo"], "tags": ["B-LOC"]}]
    text = "".join("".join(f"{a} {b}\n" for a, b in zip(r["tokens"], r["tags"], strict=True)) + "\n" for r in rows)
    one = load_data(folder(train=rows, dev=rows), "token-classification")
    two = load_data(folder("conll", name="other", train=text, dev=text), "token-classification")
    assert one.fingerprint == two.fingerprint
    assert json.dumps(one.splits["dev"].slots) == json.dumps(two.splits["dev"].slots)
