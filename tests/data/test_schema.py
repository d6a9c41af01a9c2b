"""Records: parallel and fixed examples, fingerprints, joined texts, empty inputs."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, replace

import pytest

from datadiet.data.schema import Examples, fingerprint, joined_texts, without_input
from datadiet.errors import DataError
from datadiet.tasks.sequence import ClassificationTask
from toys import KEYWORDS, tiny_tokenizer, toy_classification, toy_intent_slot, toy_pairs


@pytest.mark.parametrize("field", ["ids", "texts", "text_pairs", "tokens", "slots", "labels"])
def test_every_field_changes_the_fingerprint(field):
    base = Examples(("0",), ("a b",), ("c",), (("a", "b"),), (("O", "O"),), ("x",))
    new = (("a", "B-x"),) if field in ("tokens", "slots") else ("other",)
    changed = replace(base, **{field: new})
    assert fingerprint("intent-slot", {"train": changed}) != fingerprint("intent-slot", {"train": base})


def test_task_and_split_change_the_fingerprint_but_not_the_order_of_splits():
    one, two = Examples(("0",), ("a",)), Examples(("0",), ("b",))
    prints = [
        fingerprint("classification", {"train": one, "dev": two}),
        fingerprint("regression", {"train": one, "dev": two}),
        fingerprint("classification", {"train": two, "dev": one}),
    ]
    assert len(set(prints)) == 3
    assert fingerprint("classification", {"dev": two, "train": one}) == prints[0]


def test_examples_are_parallel_and_fixed():
    examples = Examples(("0", "1", "2"), ("a", "b", "c"), labels=(1.0, 2.0, 3.0))
    assert len(examples) == 3
    taken = examples.take(iter([2, 0]))
    assert (taken.ids, taken.texts, taken.labels, taken.tokens) == (("2", "0"), ("c", "a"), (3.0, 1.0), None)
    assert len(examples.take([])) == 0
    with pytest.raises(FrozenInstanceError, match="cannot assign"):
        examples.ids = ()
    with pytest.raises(ValueError, match=r"must have one length, got \{'ids': 1, 'texts': 2\}"):
        Examples(("0",), ("a", "b"))


def test_texts_of_a_pair_are_joined():
    pair = Examples(("0", "1"), ("a", "b"), ("c", "d"))
    assert joined_texts(pair) == ["a c", "b d"]
    assert joined_texts(pair, "\n") == ["a\nc", "b\nd"]
    assert joined_texts(Examples(("0",), ("a",))) == ["a"]


@pytest.mark.parametrize("make", [toy_classification, toy_pairs])
def test_every_row_becomes_the_same_features_with_its_own_label(make):
    task, given = ClassificationTask(tuple(KEYWORDS[:2])), make(6)
    features = task.features(without_input(given), tiny_tokenizer(), max_length=16)
    assert len({tuple(ids) for ids in features["input_ids"]}) == 1
    assert list(features["labels"]) == list(task.features(given, tiny_tokenizer(), max_length=16)["labels"])
    assert without_input(given).ids == given.ids


def test_tagged_words_are_refused():
    with pytest.raises(DataError, match="for tagged words there is no input to leave out"):
        without_input(toy_intent_slot(3))
