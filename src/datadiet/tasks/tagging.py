"""Tasks that tag words, and token classification: a tag for each word, as for named entities or parts of speech.

Only the first sub-token of a word carries its tag, in the loss, in the signals and when decoding.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import datasets
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from datadiet.data.schema import Examples
from datadiet.errors import ArgumentError
from datadiet.registry import task
from datadiet.tasks import metrics
from datadiet.tasks.base import (
    Batch,
    Collator,
    Prediction,
    Row,
    as_dataset,
    chunks,
    class_numbers,
    length_limit,
    model_inputs,
    named,
    token_head,
    token_padding,
)
from datadiet.tasks.loading import is_tagger, load_tagger, load_tokenizer
from datadiet.tasks.sequence import no_options
from datadiet.types import IGNORED, Signals

OUTSIDE = "O"
NO_TOKEN = -1
NO_WORD = -2


class WordTask:
    """Features and batches of the tasks that tag words; a subclass gives the label columns of its examples.

    Attributes:
        tag_column: The label column with one class number per token.
    """

    name: ClassVar[str]
    main_metric: ClassVar[str]
    tag_column: ClassVar[str] = "labels"

    def load_tokenizer(self, source: str) -> PreTrainedTokenizerBase:
        """The tokenizer of a model."""
        return load_tokenizer(source)

    def notes(
        self, features: Mapping[str, datasets.Dataset], tokenizer: PreTrainedTokenizerBase, source: str
    ) -> list[str]:
        """Nothing."""
        return []

    def features(self, examples: Examples, tokenizer: PreTrainedTokenizerBase, *, max_length: int) -> datasets.Dataset:
        """Token columns, `length`, `word_positions`, and label columns where there are labels.

        `word_positions` holds for each word the position of its first sub-token, -1 where it has none: cut off by
        `max_length`, or nothing but characters that the tokenizer drops. Texts without tokens are split at spaces.

        Raises:
            ArgumentError: If the tokenizer is a slow one.
        """
        if not tokenizer.is_fast:
            raise ArgumentError(f"{self.name} needs a fast tokenizer: a slow one does not map tokens to words.")
        limit, prefix = length_limit(tokenizer, max_length), " " if needs_space(tokenizer) else ""

        def parts() -> Iterator[dict[str, Any]]:
            for part in chunks(examples):
                tokens = [text.split() for text in part.texts] if part.tokens is None else part.tokens
                spaced = [[prefix + word for word in words] for words in tokens]
                encoded = tokenizer(spaced, is_split_into_words=True, truncation=True, max_length=limit)
                columns = model_inputs(encoded)
                columns["word_positions"] = [
                    first_positions(encoded.word_ids(row), len(words)) for row, words in enumerate(tokens)
                ]
                yield {**columns, **self._labels(part, columns)}

        return as_dataset(parts())

    def _labels(self, part: Examples, columns: Mapping[str, Any]) -> dict[str, list[Any]]:
        raise NotImplementedError

    def collator(
        self, tokenizer: PreTrainedTokenizerBase, *, pad_to_multiple_of: int | None = None
    ) -> Callable[[Sequence[Row]], Batch]:
        """Pads after the tokens, whatever the tokenizer's side: positions count from the first."""
        return Collator(
            {**token_padding(tokenizer), self.tag_column: IGNORED},
            {"intent_labels": torch.int64},
            ragged={"word_positions": NO_WORD},
            multiple=pad_to_multiple_of,
        )


def word_labels(
    names: Sequence[str], tagged: Sequence[Sequence[str]], columns: Mapping[str, Any]
) -> Iterator[list[int]]:
    """Class numbers at the first sub-token of each word, -100 elsewhere and for a tag that the names do not have.

    Args:
        names: Tags by class number.
        tagged: Tags of each example's words.
        columns: With `word_positions` and `input_ids`.
    """
    for tags, positions, ids in zip(tagged, columns["word_positions"], columns["input_ids"], strict=True):
        labels = [IGNORED] * len(ids)
        for number, position in zip(class_numbers(names, tags), positions, strict=True):
            if position != NO_TOKEN:
                labels[position] = number
        yield labels


def word_tags(tags: NDArray[np.int64], positions: NDArray[np.int64], names: Sequence[str]) -> tuple[str, ...]:
    """The tag of each word of one example, `O` for a word without a token.

    Args:
        tags: Class numbers `(positions,)`.
        positions: `word_positions` of the example, padded with `NO_WORD`.
        names: Tags by class number.
    """
    real = positions[positions != NO_WORD]
    return tuple(OUTSIDE if position == NO_TOKEN else names[tags[position]] for position in real)


def first_positions(word_ids: Sequence[int | None], words: int) -> list[int]:
    """Position of each word's first sub-token; -1 for a word without any.

    Examples:
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


@task(
    name="token-classification",
    formula="a tag per word",
    traits=("classes", "heads", "words", "tags_only"),
    metrics=("span_f1", "accuracy"),
    label="one tag",
    pipeline="token-classification",
)
@dataclass(frozen=True)
class TokenClassificationTask(WordTask):
    """A tag per word.

    Attributes:
        slot_names: Tags by class number.
    """

    slot_names: tuple[str, ...]
    label_columns: ClassVar[tuple[str, ...]] = ("labels",)
    label_names: ClassVar[tuple[str, ...]] = ()

    @staticmethod
    def owns(config: Any) -> bool:
        """Whether a saved model has a token classification head."""
        return is_tagger(config)

    def load_model(self, source: str, **options: Any) -> PreTrainedModel:
        """A stock token classifier that knows the tags."""
        no_options(self.name, options)
        return load_tagger(source, self.slot_names)

    def _labels(self, part: Examples, columns: Mapping[str, Any]) -> dict[str, list[Any]]:
        return {} if part.slots is None else {"labels": list(word_labels(self.slot_names, part.slots, columns))}

    def signals(self, outputs: Any, batch: Mapping[str, Tensor]) -> Signals:
        """One head, `tokens`; the mask is True on first sub-tokens."""
        return Signals({"tokens": token_head(named(outputs, "logits"), named(batch, "labels"))})

    def decode(self, outputs: Any, batch: Mapping[str, Tensor]) -> list[Prediction]:
        """For each word the likeliest tag at its first sub-token, `O` where it has none."""
        p = named(outputs, "logits").detach().float().softmax(-1).cpu().numpy()  # (batch, positions, tags)
        words = named(batch, "word_positions").cpu().numpy()
        return [
            Prediction(None, None, _by_word(row, positions), word_tags(row.argmax(-1), positions, self.slot_names))
            for row, positions in zip(p, words, strict=True)
        ]

    def metrics(self, examples: Examples, predictions: Sequence[Prediction]) -> dict[str, float] | None:
        """`span_f1`, `accuracy` of the words, `nll`; None where unlabelled."""
        if examples.slots is None:
            return None
        return metrics.tag_metrics(examples.slots, predictions, self.slot_names)

    def groups(self, features: datasets.Dataset) -> NDArray[np.int64] | None:
        """A sentence has no class: None."""
        return None


def _by_word(p: NDArray[np.float32], positions: NDArray[np.int64]) -> NDArray[np.float32]:
    """Probabilities `(words, tags)` from `(positions, tags)`; nan for words without a token."""
    real = positions[positions != NO_WORD]
    values: NDArray[np.float32] = p[real]
    values[real == NO_TOKEN] = np.nan
    return values
