"""Words, sub-tokens and tags: where a tag goes, and what a word without a token gets."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from datadiet.data.schema import Examples
from datadiet.errors import ArgumentError
from datadiet.tasks.intent_slot import IntentSlotTask
from datadiet.tasks.joint_model import IntentSlotOutput
from datadiet.tasks.tagging import needs_space
from toys import KINDS, tiny_tokenizer

TASK = IntentSlotTask(("go", "stay"), ("B-city", "I-city", "O"))
WORDS = ("zyxwv", "in", "new", "yorkshire", "?")
TAGS = ("O", "O", "B-city", "I-city", "O")


def one(words=WORDS, tags: tuple[str, ...] | None = TAGS, intent: str | None = "go") -> Examples:
    return Examples(
        ids=["1"],
        texts=[" ".join(words)],
        tokens=[words],
        slots=None if tags is None else [tags],
        labels=None if intent is None else [intent],
    )


@pytest.mark.parametrize("kind", KINDS)
def test_the_first_sub_token_of_each_word_carries_its_tag(kind: str) -> None:
    tokenizer = tiny_tokenizer(kind)
    row = TASK.features(one(), tokenizer, max_length=64)[0]
    pieces = tokenizer.convert_ids_to_tokens(row["input_ids"])
    carried = {place: TASK.slot_names[label] for place, label in enumerate(row["slot_labels"]) if label != -100}
    assert list(carried) == row["word_positions"]
    assert tuple(carried.values()) == TAGS
    assert len(pieces) > len(WORDS) + 4  # two words split
    first = [pieces[place].lstrip("▁Ġ") for place in carried]
    assert all(word.startswith(piece) for word, piece in zip(WORDS, first, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_words_are_tokenised_as_in_running_text(kind: str) -> None:
    tokenizer = tiny_tokenizer(kind)
    words = ("the", "weather", "in", "lima")
    row = TASK.features(one(words, ("O", "O", "O", "B-city")), tokenizer, max_length=64)[0]
    assert row["input_ids"] == tokenizer((" " if kind == "roberta" else "") + " ".join(words))["input_ids"]
    assert row["length"] == 6


@pytest.mark.parametrize("kind", KINDS)
def test_only_byte_level_tokenizers_without_prefix_need_a_space(kind: str) -> None:
    assert needs_space(tiny_tokenizer(kind)) == (kind == "roberta")


def test_a_byte_level_tokenizer_with_prefix_gives_the_same() -> None:
    plain = tiny_tokenizer("roberta")
    prefixed = type(plain)(vocab=plain._vocab, merges=plain._merges, add_prefix_space=True)
    assert not needs_space(prefixed)
    rows = [TASK.features(one(), tokenizer, max_length=60)[0] for tokenizer in (plain, prefixed)]
    assert rows[0] == rows[1]


def outputs_for(row: dict, tags: list[str], intent: int = 0) -> IntentSlotOutput:
    """Logits that say one tag at each token position."""
    numbers = torch.tensor([TASK.slot_names.index(tag) for tag in tags])
    assert len(numbers) == row["length"]
    return IntentSlotOutput(
        intent_logits=torch.nn.functional.one_hot(torch.tensor([intent]), 2).float() * 9,
        slot_logits=torch.nn.functional.one_hot(numbers, 3).float()[None],
    )


def test_words_cut_off_or_without_tokens_are_predicted_outside() -> None:
    # "\u200b" is dropped by BERT's normaliser; max_length 5 leaves [CLS] and three pieces and [SEP]
    words, tags = ("lima", "\u200b", "new", "york", "city"), ("B-city", "O", "B-city", "I-city", "I-city")
    tokenizer = tiny_tokenizer()
    features = TASK.features(one(words, tags), tokenizer, max_length=5)
    row = features[0]
    assert row["word_positions"] == [1, -1, 2, 3, -1]
    assert row["slot_labels"] == [-100, 0, 0, 1, -100]
    batch = TASK.collator(tokenizer)(list(features))
    prediction = TASK.decode(outputs_for(row, ["B-city"] * 5), batch)[0]
    assert prediction.slots == ("B-city", "O", "B-city", "B-city", "O")


def test_later_pieces_and_padding_are_not_read() -> None:
    tokenizer = tiny_tokenizer()
    short, long = one(("lima",), ("B-city",)), one()
    both = Examples(
        ids=["1", "2"],
        texts=[*short.texts, *long.texts],
        tokens=[*short.tokens, *long.tokens],
        slots=[*short.slots, *long.slots],
        labels=["go", "stay"],
    )
    rows = list(TASK.features(both, tokenizer, max_length=64))
    batch = TASK.collator(tokenizer)(rows)
    width = batch["input_ids"].shape[1]
    said = torch.full((2, width), 1)  # I-city everywhere ...
    said[0, 1] = 0
    for place, tag in zip(rows[1]["word_positions"], TAGS, strict=True):
        said[1, place] = TASK.slot_names.index(tag)  # ... but at the first sub-tokens
    outputs = IntentSlotOutput(
        intent_logits=torch.tensor([[2.0, 0.0], [0.0, 2.0]]), slot_logits=torch.nn.functional.one_hot(said, 3).float()
    )
    predictions = TASK.decode(outputs, batch)
    assert [prediction.slots for prediction in predictions] == [("B-city",), TAGS]
    assert TASK.metrics(both, predictions) == pytest.approx(
        {"intent_accuracy": 1.0, "slot_f1": 1.0, "exact_match": 1.0, "nll": 0.126928}, abs=1e-5
    )
    mask = TASK.signals(outputs, batch).heads["slots"].mask
    assert mask.sum(1).tolist() == [1, 5]


def test_probability_is_that_of_the_intent() -> None:
    tokenizer = tiny_tokenizer()
    features = TASK.features(one(("lima",), ("B-city",)), tokenizer, max_length=64)
    prediction = TASK.decode(outputs_for(features[0], ["O"] * 3, intent=1), TASK.collator(tokenizer)(list(features)))[0]
    assert prediction.label == "stay"
    assert prediction.probability == pytest.approx(0.9998766)
    assert prediction.probabilities.sum() == pytest.approx(1)


def test_names_not_seen_in_train_are_left_out_of_the_loss_and_count_as_errors() -> None:
    tokenizer = tiny_tokenizer()
    examples = one(("lima", "the"), ("B-town", "O"), "fly")
    features = TASK.features(examples, tokenizer, max_length=64)
    assert features[0]["intent_labels"] == -100
    assert features[0]["slot_labels"] == [-100, -100, 2, -100]
    batch = TASK.collator(tokenizer)(list(features))
    prediction = TASK.decode(outputs_for(features[0], ["B-city", "B-city", "O", "O"]), batch)
    # nll is absent: the model has no probability for "fly"
    assert TASK.metrics(examples, prediction) == {"intent_accuracy": 0.0, "slot_f1": 0.0, "exact_match": 0.0}


def test_texts_without_tokens_are_split_at_spaces() -> None:
    new = Examples(ids=["1"], texts=["weather  in\tlima"])
    features = TASK.features(new, tiny_tokenizer(), max_length=64)
    assert features[0]["word_positions"] == [1, 2, 3]
    assert "slot_labels" not in features.column_names


def test_a_slow_tokenizer_is_refused() -> None:
    with pytest.raises(ArgumentError, match="fast tokenizer"):
        TASK.features(one(), SimpleNamespace(is_fast=False), max_length=64)


def test_left_padding_tokenizers_are_padded_right() -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.padding_side = "left"
    both = Examples(ids=["1", "2"], texts=["lima", "in lima"])
    batch = TASK.collator(tokenizer)(list(TASK.features(both, tokenizer, max_length=64)))
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 0], [1, 1, 1, 1]]
    assert batch["word_positions"].tolist() == [[1, -2], [1, 2]]
