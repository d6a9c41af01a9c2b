"""Words, sub-tokens and tags: where a tag goes, and the prediction for a word without a token."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from datadiet.data.schema import Examples
from datadiet.errors import ArgumentError
from datadiet.tasks.tagging import TokenClassificationTask, needs_space
from toys import KINDS, SLOTS, tiny_tokenizer

TASK = TokenClassificationTask(SLOTS)
WORDS = ("zyxwv", "in", "new", "yorkshire", "?")
TAGS = ("O", "O", "B-city", "I-city", "O")


def tagged(words, tags=None) -> Examples:
    return Examples(ids=["1"], texts=[" ".join(words)], tokens=[words], slots=None if tags is None else [tags])


def features(examples: Examples, kind: str = "bert", max_length: int = 60):
    return TASK.features(examples, tiny_tokenizer(kind), max_length=max_length)


@pytest.mark.parametrize("kind", KINDS)
def test_the_first_sub_token_of_each_word_carries_its_tag(kind: str) -> None:
    row = features(tagged(WORDS, TAGS), kind)[0]
    pieces = tiny_tokenizer(kind).convert_ids_to_tokens(row["input_ids"])
    carried = {place: SLOTS[label] for place, label in enumerate(row["labels"]) if label != -100}
    assert list(carried) == row["word_positions"]
    assert tuple(carried.values()) == TAGS
    assert len(pieces) > len(WORDS) + 4  # two words split
    first = [pieces[place].lstrip("▁Ġ") for place in carried]
    assert all(word.startswith(piece) for word, piece in zip(WORDS, first, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_words_are_tokenised_as_in_running_text(kind: str) -> None:
    words, tokenizer = ("the", "weather", "in", "lima"), tiny_tokenizer(kind)
    row = features(tagged(words), kind)[0]
    assert needs_space(tokenizer) == (kind == "roberta")
    assert row["input_ids"] == tokenizer((" " if kind == "roberta" else "") + " ".join(words))["input_ids"]
    assert row["length"] == 6


def test_a_byte_level_tokenizer_with_prefix_gives_the_same() -> None:
    plain = tiny_tokenizer("roberta")
    prefixed = type(plain)(vocab=plain._vocab, merges=plain._merges, add_prefix_space=True)
    assert not needs_space(prefixed)
    assert TASK.features(tagged(WORDS, TAGS), prefixed, max_length=60)[0] == features(tagged(WORDS, TAGS), "roberta")[0]


def test_texts_without_tokens_are_split_at_spaces() -> None:
    columns = features(Examples(ids=["1"], texts=["weather  in\tlima"]))
    assert columns["word_positions"][:] == [[1, 2, 3]]
    assert "labels" not in columns.column_names


def test_a_slow_tokenizer_is_refused() -> None:
    with pytest.raises(ArgumentError, match="fast tokenizer"):
        TASK.features(tagged(WORDS), SimpleNamespace(is_fast=False), max_length=64)


def test_left_padding_tokenizers_are_padded_right() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.padding_side = "left"
    batch = TASK.collator(tokenizer)(list(features(Examples(ids=["1", "2"], texts=["lima", "in lima"]))))
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 0], [1, 1, 1, 1]]
    assert batch["word_positions"].tolist() == [[1, -2], [1, 2]]


def forward(folder: str, examples: Examples, max_length: int = 32):
    model, rows = TASK.load_model(folder), list(features(examples, max_length=max_length))
    batch = TASK.collator(tiny_tokenizer())(rows)
    with torch.inference_mode():
        return model(**batch), batch


def test_a_word_that_was_cut_off_is_outside_and_has_no_probability(folder) -> None:
    outputs, batch = forward(folder, tagged(("the", "zyxwv", "play", "in"), ("O",) * 4), max_length=8)
    (prediction,) = TASK.decode(outputs, batch)
    assert batch["word_positions"].tolist() == [[1, 2, -1, -1]]
    assert batch["labels"].tolist() == [[-100, 6, 6, -100, -100, -100, -100, -100]]
    assert prediction.slots[2:] == ("O", "O")
    assert np.isnan(prediction.probabilities[2:]).all()
    assert prediction.probabilities[:2].sum(axis=1) == pytest.approx([1, 1], abs=1e-6)
    assert (prediction.label, prediction.probability) == (None, None)


def test_only_first_sub_tokens_count(folder) -> None:
    outputs, batch = forward(folder, tagged(("zyxwv", "in"), ("B-city", "unknown")))
    head = TASK.signals(outputs, batch).heads["tokens"]
    assert head.mask.tolist() == [[False, True, *[False] * 6]]  # a tag that the model lacks does not count
    assert torch.isfinite(outputs.loss)
