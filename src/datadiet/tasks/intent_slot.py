"""Joint intent and slots: one class for a request and one tag for each of its words.

Only the first sub-token of a word carries its tag, in the loss, in the signals and when decoding.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import datasets
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from datadiet.checks import ArgumentError
from datadiet.data.records import Examples
from datadiet.models.loading import load_intent_slot
from datadiet.records import Signals
from datadiet.tasks import metrics
from datadiet.tasks.base import (
    IGNORED,
    Batch,
    Prediction,
    Row,
    as_dataset,
    chunks,
    class_numbers,
    class_predictions,
    column,
    length_limit,
    model_inputs,
)
from datadiet.tasks.collate import Collator, token_padding
from datadiet.tasks.infer import joint_signals, named

OUTSIDE = "O"
NO_TOKEN = -1
NO_WORD = -2


@dataclass(frozen=True)
class IntentSlotTask:
    """An intent per request and a slot tag per word.

    Attributes:
        label_names: Intents by class number.
        slot_names: Slot tags by class number.
    """

    label_names: tuple[str, ...]
    slot_names: tuple[str, ...]
    name: ClassVar[str] = "intent-slot"
    main_metric: ClassVar[str] = "exact_match"
    label_columns: ClassVar[tuple[str, ...]] = ("intent_labels", "slot_labels")

    def load_model(self, source: str, **options: Any) -> PreTrainedModel:
        """The joint model; options are `alpha`, `label_smoothing` and `class_weights` (of the intents)."""
        return load_intent_slot(source, self.label_names, self.slot_names, **options)

    def features(self, examples: Examples, tokenizer: PreTrainedTokenizerBase, *, max_length: int) -> datasets.Dataset:
        """Token columns, `length`, `word_positions`, and `intent_labels` and `slot_labels` where there are labels.

        `word_positions` holds for each word the position of its first sub-token, -1 where it has none: cut off by
        `max_length`, or nothing but characters that the tokenizer drops. Texts without tokens are split at spaces.
        """
        if not tokenizer.is_fast:
            raise ArgumentError("intent-slot needs a fast tokenizer: a slow one does not say which word a token is of.")
        limit, prefix = length_limit(tokenizer, max_length), " " if needs_space(tokenizer) else ""
        return as_dataset(self._part(part, tokenizer, limit, prefix) for part in chunks(examples))

    def _part(
        self, part: Examples, tokenizer: PreTrainedTokenizerBase, limit: int, prefix: str
    ) -> dict[str, list[Any]]:
        tokens = words_of(part)
        given = [[prefix + word for word in words] for words in tokens]
        encoded = tokenizer(given, is_split_into_words=True, truncation=True, max_length=limit)
        columns = model_inputs(encoded)
        columns["word_positions"] = [
            first_positions(encoded.word_ids(row), len(words)) for row, words in enumerate(tokens)
        ]
        if part.labels is not None:
            columns["intent_labels"] = class_numbers(self.label_names, part.labels)
        if part.slots is not None:
            columns["slot_labels"] = list(self._slot_labels(part.slots, columns))
        return columns

    def _slot_labels(self, slots: Sequence[Sequence[str]], columns: Mapping[str, Any]) -> Iterator[list[int]]:
        for tags, positions, ids in zip(slots, columns["word_positions"], columns["input_ids"], strict=True):
            labels = [IGNORED] * len(ids)
            for number, position in zip(class_numbers(self.slot_names, tags), positions, strict=True):
                if position != NO_TOKEN:
                    labels[position] = number
            yield labels

    def collator(
        self, tokenizer: PreTrainedTokenizerBase, *, pad_to_multiple_of: int | None = None
    ) -> Callable[[Sequence[Row]], Batch]:
        """Pads after the tokens, whatever the tokenizer's side: the intent is read from the first position."""
        return Collator(
            {**token_padding(tokenizer), "slot_labels": IGNORED},
            {"intent_labels": torch.int64},
            ragged={"word_positions": NO_WORD},
            multiple=pad_to_multiple_of,
        )

    def signals(self, outputs: Any, batch: Mapping[str, Tensor]) -> Signals:
        """Two heads, `intent` and `slots`; the mask of the latter is True on first sub-tokens."""
        return joint_signals(outputs, batch)

    def decode(self, outputs: Any, batch: Mapping[str, Tensor]) -> list[Prediction]:
        """The likeliest intent, and for each word the likeliest tag at its first sub-token, `O` where it has none."""
        intents = class_predictions(named(outputs, "intent_logits"), self.label_names)
        tags = named(outputs, "slot_logits").detach().float().argmax(-1).cpu().numpy()  # (batch, positions)
        words = named(batch, "word_positions").cpu().numpy()
        return [
            replace(intent, slots=self._tags(row, positions))
            for intent, row, positions in zip(intents, tags, words, strict=True)
        ]

    def _tags(self, tags: NDArray[np.int64], positions: NDArray[np.int64]) -> tuple[str, ...]:
        real = positions[positions != NO_WORD]
        return tuple(OUTSIDE if position == NO_TOKEN else self.slot_names[tags[position]] for position in real)

    def metrics(self, examples: Examples, predictions: Sequence[Prediction]) -> dict[str, float] | None:
        """`intent_accuracy`, `slot_f1`, `exact_match`, `nll` of the intent; None where intents or slots are missing."""
        if examples.labels is None or examples.slots is None:
            return None
        intents = [str(label) for label in examples.labels]
        return metrics.joint_metrics(intents, examples.slots, predictions, self.label_names)

    def groups(self, features: datasets.Dataset) -> NDArray[np.int64] | None:
        """The intent's class number of each row."""
        return column(features, "intent_labels")


def words_of(examples: Examples) -> list[Sequence[str]]:
    """The words of each example: its tokens, or its text split at white space."""
    return list(examples.tokens) if examples.tokens is not None else [text.split() for text in examples.texts]


def first_positions(word_ids: Sequence[int | None], words: int) -> list[int]:
    """Position of each word's first sub-token; -1 for a word without any.

    Example:
        >>> first_positions([None, 0, 1, 1, 3, None], 4)
        [1, 2, -1, 4]
    """
    positions = [NO_TOKEN] * words
    for position, word in enumerate(word_ids):
        if word is not None and positions[word] == NO_TOKEN:
            positions[word] = position
    return positions


def needs_space(tokenizer: PreTrainedTokenizerBase) -> bool:
    """True for tokenizers that tell a new word by the space before it (RoBERTa's): words given alone would look glued.

    A space before each word is what `add_prefix_space=True` does, without loading the tokenizer anew.
    """
    step = tokenizer.backend_tokenizer.pre_tokenizer
    if step is None:
        return False
    state = json.loads(step.__getstate__())
    return any(_spaced(part) for part in state.get("pretokenizers", [state]))


def _spaced(step: Mapping[str, Any]) -> bool:
    if step["type"] == "ByteLevel":
        return not step["add_prefix_space"]
    return step["type"] == "Metaspace" and step.get("prepend_scheme") != "always"
