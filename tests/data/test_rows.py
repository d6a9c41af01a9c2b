"""Rows that cannot be used: texts, words, slots and ids."""

from __future__ import annotations

import pytest

from datadiet.data.load import load_data, read_examples
from datadiet.errors import DataError
from toys import commands, sentences


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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"slots": ["O"]}, r"train\.jsonl, line 2: 2 tokens but 1 slots; give every token one slot"),
        ({"slots": None}, "line 2: 2 tokens but 0 slots"),
        ({"slots": 3}, "line 2: the slots are no list of tags"),
        ({"tokens": [], "slots": []}, "line 2: the list of tokens is empty; fill it in or remove the row"),
        ({"tokens": ""}, "line 2: the list of tokens is empty"),
        ({"tokens": ["a", " "]}, "line 2: a token is empty"),
        ({"tokens": [1.5, "a"]}, "line 2: the tokens are no list of words"),
        ({"tokens": "['a', 'b']"}, "line 2: the tokens are no list of words"),
    ],
)
def test_words_and_slots_that_do_not_fit_are_named(folder, change, message):
    train = commands(4)
    train[1] |= change
    with pytest.raises(DataError, match=message):
        load_data(folder(train=train, dev=commands(2, 10)), "intent-slot")


def test_lines_of_csv_count_the_header(folder):
    with pytest.raises(DataError, match=r"train\.csv, line 3: the text is empty"):
        load_data(folder("csv", train="text,label\na,1\n,0\n"), "classification")


def test_rows_of_parquet_count_from_one(folder):
    train = [*sentences(2), {"text": "", "label": "pos"}]
    with pytest.raises(DataError, match=r"train\.parquet, row 3: the text is empty"):
        load_data(folder("parquet", train=train), "classification")


def test_problems_of_all_kinds_are_told_at_once(folder):
    train = [
        {"id": 1, "text": "", "label": "a"},
        {"id": 1, "text": "b", "label": None},
        {"id": 2, "text": "", "label": "b"},
    ]
    with pytest.raises(DataError, match="the text is empty") as caught:
        load_data(folder(train=train, dev=[{"text": "", "label": "a"}]), "classification")
    assert len(caught.value.problems) == 4
    assert [("train" in told, "dev" in told) for told in caught.value.problems] == [(True, False)] * 3 + [(False, True)]
    assert any("Also line 3." in told for told in caught.value.problems)


def test_many_problems_are_counted(folder):
    train = [{"text": "", "label": i % 2} for i in range(20)]
    with pytest.raises(DataError, match=r"line 1: the text is empty; .* Also lines 2, 3, 4, 5 and 15 more\.$"):
        load_data(folder(train=train), "classification")


def test_one_text_of_a_pair_may_be_empty_and_is_reported(folder):
    rows = [{"question1": "a", "question2": "b", "label": 0}, {"question1": "c", "question2": None, "label": 1}]
    data = load_data(folder(train=rows, dev=[{"question1": "d", "question2": "e", "label": 1}]), "classification")
    assert data.splits["train"].text_pairs == ("b", "")
    assert "train: in 1 row one text of the pair is empty." in data.notes
    with pytest.raises(DataError, match="line 1: both texts are empty"):
        load_data(folder(train=[{"question1": " ", "question2": "", "label": 0}]), "classification")


def test_ids_are_text_and_rows_stand_in_for_them(folder):
    with_ids = [{**row, "idx": 10 + i} for i, row in enumerate(sentences(2))]
    data = load_data(folder(train=with_ids, dev=sentences(2, 10)), "classification")
    assert data.splits["train"].ids == ("10", "11")
    assert data.splits["dev"].ids == ("0", "1")


def test_two_splits_may_share_ids(folder):
    rows = [{**row, "id": i} for i, row in enumerate(sentences(2))]
    other = [{**row, "id": i} for i, row in enumerate(sentences(2, 10))]
    assert load_data(folder(train=rows, dev=other), "classification").splits["dev"].ids == ("0", "1")


@pytest.mark.parametrize("cell", ["a b", " a  b ", '["a", "b"]', "a\tb"])
def test_words_may_be_written_as_text(folder, cell):
    train = [{**row, "tokens": cell} for row in commands(4)]
    assert load_data(folder(train=train), "intent-slot").splits["train"].tokens[0] == ("a", "b")


def test_tags_may_be_numbers_and_any_text(folder):
    train = [{**row, "slots": [0, "what-ever"]} for row in commands(4)]
    assert load_data(folder(train=train), "intent-slot").slot_names == ("0", "what-ever")


def test_new_text_is_split_into_words_for_joint_tasks(tmp_path):
    (tmp_path / "new.txt").write_text("play a song\nstop\n\n", encoding="utf-8")
    examples = read_examples(str(tmp_path / "new.txt"), "intent-slot")
    assert examples.tokens == (("play", "a", "song"), ("stop",))
    assert (examples.labels, examples.slots, examples.ids) == (None, None, ("0", "1"))


def test_a_blank_line_among_new_texts_is_named(tmp_path):
    (tmp_path / "new.txt").write_text("one\n\nthree\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"new\.txt, line 2: the text is empty"):
        read_examples(str(tmp_path / "new.txt"), "classification")


def test_new_joint_text_is_labelled_with_both_heads_or_none(folder):
    slots_only = [{"tokens": ["a"], "slots": ["O"]}]
    home = folder(both=commands(2), slots_only=slots_only)
    both = read_examples(f"{home}/both.jsonl", "intent-slot")
    assert (both.labels, both.slots) == (("play", "stop"), (("O", "B-song"),) * 2)
    one = read_examples(f"{home}/slots_only.jsonl", "intent-slot")
    assert (one.labels, one.slots) == (None, None)
