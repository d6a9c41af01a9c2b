"""Empty inputs for the null model: labels stay, texts go."""

from __future__ import annotations

import pytest

from datadiet.data.schema import without_input
from datadiet.errors import DataError
from datadiet.tasks.sequence import ClassificationTask
from toys import KEYWORDS, tiny_tokenizer, toy_classification, toy_intent_slot, toy_pairs


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
