"""One tag for each word: named entities, parts of speech, and other token classification."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import datasets
import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from datadiet.data.records import Examples
from datadiet.models.loading import load_tagger
from datadiet.records import Signals
from datadiet.tasks import metrics
from datadiet.tasks.base import IGNORED, Batch, Prediction, Row
from datadiet.tasks.collate import Collator, token_padding
from datadiet.tasks.infer import named, token_head
from datadiet.tasks.sequence import no_options
from datadiet.tasks.words import NO_TOKEN, NO_WORD, word_features, word_labels, word_tags


@dataclass(frozen=True)
class TokenClassificationTask:
    """A tag per word.

    Attributes:
        slot_names: Tags by class number.
    """

    slot_names: tuple[str, ...]
    name: ClassVar[str] = "token-classification"
    main_metric: ClassVar[str] = "span_f1"
    label_columns: ClassVar[tuple[str, ...]] = ("labels",)
    label_names: ClassVar[tuple[str, ...]] = ()

    def load_model(self, source: str, **options: Any) -> PreTrainedModel:
        """A stock token classifier that knows the tags."""
        no_options(self.name, options)
        return load_tagger(source, self.slot_names)

    def features(self, examples: Examples, tokenizer: PreTrainedTokenizerBase, *, max_length: int) -> datasets.Dataset:
        """Token columns, `length`, `word_positions`, and `labels` where there are tags; see `word_features`."""
        return word_features(examples, tokenizer, max_length, self._labels, task=self.name)

    def _labels(self, part: Examples, columns: Mapping[str, Any]) -> dict[str, list[Any]]:
        return {} if part.slots is None else {"labels": list(word_labels(self.slot_names, part.slots, columns))}

    def collator(
        self, tokenizer: PreTrainedTokenizerBase, *, pad_to_multiple_of: int | None = None
    ) -> Callable[[Sequence[Row]], Batch]:
        """Pads after the tokens, whatever the tokenizer's side: `word_positions` count from the first."""
        padding = {**token_padding(tokenizer), "labels": IGNORED}
        return Collator(padding, {}, ragged={"word_positions": NO_WORD}, multiple=pad_to_multiple_of)

    def signals(self, outputs: Any, batch: Mapping[str, Tensor]) -> Signals:
        """One head, `tokens`; the mask is True on first sub-tokens."""
        return Signals({"tokens": token_head(named(outputs, "logits"), named(batch, "labels"))})

    def decode(self, outputs: Any, batch: Mapping[str, Tensor]) -> list[Prediction]:
        """For each word the likeliest tag at its first sub-token, `O` where it has none."""
        given = named(outputs, "logits").detach().float().softmax(-1).cpu().numpy()  # (batch, positions, tags)
        words = named(batch, "word_positions").cpu().numpy()
        return [
            Prediction(None, None, _by_word(row, positions), word_tags(row.argmax(-1), positions, self.slot_names))
            for row, positions in zip(given, words, strict=True)
        ]

    def metrics(self, examples: Examples, predictions: Sequence[Prediction]) -> dict[str, float] | None:
        """`span_f1`, `accuracy` of the words, `nll`; None where unlabelled."""
        if examples.slots is None:
            return None
        return metrics.tag_metrics(examples.slots, predictions, self.slot_names)

    def groups(self, features: datasets.Dataset) -> NDArray[np.int64] | None:
        """A sentence has no class: None."""
        return None


def _by_word(given: NDArray[np.float32], positions: NDArray[np.int64]) -> NDArray[np.float32]:
    """Probabilities `(words, tags)` from `(positions, tags)`; nan for words without a token."""
    real = positions[positions != NO_WORD]
    found: NDArray[np.float32] = given[real]
    found[real == NO_TOKEN] = np.nan
    return found
