"""Intents and slots: what is read of the outputs, and labels that training has not seen."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import one_hot

from datadiet.data.schema import Examples
from datadiet.tasks.intent_slot import IntentSlotTask
from datadiet.tasks.joint_model import IntentSlotOutput
from toys import tiny_tokenizer

TASK = IntentSlotTask(("go", "stay"), ("B-city", "I-city", "O"))
WORDS = ("zyxwv", "in", "new", "yorkshire", "?")
TAGS = ("O", "O", "B-city", "I-city", "O")


def examples(*rows: tuple[tuple[str, ...], tuple[str, ...], str]) -> Examples:
    tokens, slots, labels = map(list, zip(*rows, strict=True))
    texts, ids = [" ".join(words) for words in tokens], [str(row) for row in range(len(rows))]
    return Examples(ids=ids, texts=texts, tokens=tokens, slots=slots, labels=labels)


def rows_and_batch(given: Examples, max_length: int = 64):
    rows = list(TASK.features(given, tiny_tokenizer(), max_length=max_length))
    return rows, TASK.collator(tiny_tokenizer())(rows)


def outputs(tags: list[list[int]], *intents: int) -> IntentSlotOutput:
    """Logits that are largest for one tag at each position and for one intent."""
    return IntentSlotOutput(
        intent_logits=one_hot(torch.tensor(intents), 2).float() * 9, slot_logits=one_hot(torch.tensor(tags), 3).float()
    )


def test_words_cut_off_or_without_tokens_are_predicted_outside() -> None:
    # "\u200b" is dropped by BERT's normaliser; max_length 5 leaves [CLS] and three pieces and [SEP]
    words, tags = ("lima", "\u200b", "new", "york", "city"), ("B-city", "O", "B-city", "I-city", "I-city")
    (row,), batch = rows_and_batch(examples((words, tags, "go")), max_length=5)
    assert row["word_positions"] == [1, -1, 2, 3, -1]
    assert row["slot_labels"] == [-100, 0, 0, 1, -100]
    (prediction,) = TASK.decode(outputs([[0] * 5], 0), batch)
    assert prediction.slots == ("B-city", "O", "B-city", "B-city", "O")


def test_later_pieces_and_padding_are_not_read() -> None:
    both = examples((("lima",), ("B-city",), "go"), (WORDS, TAGS, "stay"))
    rows, batch = rows_and_batch(both)
    tags = torch.full(batch["input_ids"].shape, 1)  # I-city everywhere ...
    tags[0, 1] = 0
    for place, tag in zip(rows[1]["word_positions"], TAGS, strict=True):
        tags[1, place] = TASK.slot_names.index(tag)  # ... but at the first sub-tokens
    given = outputs(tags.tolist(), 0, 1)
    predictions = TASK.decode(given, batch)
    assert [prediction.slots for prediction in predictions] == [("B-city",), TAGS]
    assert predictions[1].label == "stay"
    assert predictions[1].probability == pytest.approx(0.9998766)
    assert predictions[1].probabilities.sum() == pytest.approx(1)
    assert TASK.metrics(both, predictions) == pytest.approx(
        {"intent_accuracy": 1.0, "slot_f1": 1.0, "exact_match": 1.0, "nll": 0.0001234}, abs=1e-6
    )
    assert TASK.signals(given, batch).heads["slots"].mask.sum(1).tolist() == [1, 5]


def test_names_not_seen_in_train_are_left_out_of_the_loss_and_count_as_errors() -> None:
    unseen = examples((("lima", "the"), ("B-town", "O"), "fly"))
    (row,), batch = rows_and_batch(unseen)
    assert row["intent_labels"] == -100
    assert row["slot_labels"] == [-100, -100, 2, -100]
    predictions = TASK.decode(outputs([[0, 0, 2, 2]], 0), batch)
    # nll is absent: the model has no probability for "fly"
    assert TASK.metrics(unseen, predictions) == {"intent_accuracy": 0.0, "slot_f1": 0.0, "exact_match": 0.0}
