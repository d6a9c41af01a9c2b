"""What a task is, and the steps that all of them share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import datasets
import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from datadiet.checks import DataError
from datadiet.data.records import Examples
from datadiet.records import Signals

IGNORED = -100
CHUNK = 10_000
Batch = dict[str, Tensor]
Row = Mapping[str, Any]


@dataclass(frozen=True)
class Prediction:
    """What a model says of one example.

    Attributes:
        label: The likeliest class (the intent, for joint tasks), the predicted number, or the predicted labels of a
            multi-label task in the order of the label names; None for taggers.
        probability: Of that class, or of exactly that set of labels, in (0, 1]; None for regression and taggers.
        probabilities: float32 `(classes,)` in the order of the label names; for taggers `(words, tags)` in the order of
            the tags, nan for a word that the model did not see; None for regression.
        slots: One tag per word; None for tasks without tags.
    """

    label: str | float | tuple[str, ...] | None
    probability: float | None
    probabilities: NDArray[np.float32] | None
    slots: tuple[str, ...] | None = None


class Task(Protocol):
    """Everything that depends on what is predicted. Frozen: the label names are those of the training split."""

    @property
    def name(self) -> str:
        """A key of `datadiet.tasks.TASKS`."""

    @property
    def main_metric(self) -> str:
        """The metric that early stopping and best weights follow; larger is better."""

    @property
    def label_columns(self) -> tuple[str, ...]:
        """The columns of the features that are labels."""

    @property
    def label_names(self) -> tuple[str, ...]:
        """Class names by class number; empty for regression and taggers."""

    @property
    def slot_names(self) -> tuple[str, ...]:
        """Tags by class number; empty for tasks without tags."""

    def load_model(self, source: str, **options: Any) -> PreTrainedModel:
        """A pretrained model with heads for this task's labels; new weights come from torch's global generator."""

    def features(self, examples: Examples, tokenizer: PreTrainedTokenizerBase, *, max_length: int) -> datasets.Dataset:
        """One row per example: token ids without padding, `length`, and the label columns where there are labels.

        A label that the names do not have (seen in dev or test only) becomes -100, which no loss counts.
        """

    def collator(
        self, tokenizer: PreTrainedTokenizerBase, *, pad_to_multiple_of: int | None = None
    ) -> Callable[[Sequence[Row]], Batch]:
        """A function from feature rows to one batch of tensors, padded to its longest row."""

    def signals(self, outputs: Any, batch: Mapping[str, Tensor]) -> Signals:
        """What scores work on: logits, labels and mask of every head, detached."""

    def decode(self, outputs: Any, batch: Mapping[str, Tensor]) -> list[Prediction]:
        """One prediction per example of the batch, from float32 probabilities."""

    def metrics(self, examples: Examples, predictions: Sequence[Prediction]) -> dict[str, float] | None:
        """Metrics by name; None where the examples are unlabelled."""

    def groups(self, features: datasets.Dataset) -> NDArray[np.int64] | None:
        """Number `(n,)` of each row's class, or of its set of labels, for floors; None for regression and taggers."""


def chunks(examples: Examples) -> Iterator[Examples]:
    """The examples in parts that bound the memory of tokenising.

    Raises:
        DataError: If there is none.
    """
    if not len(examples):
        raise DataError("the split is empty: there is nothing to tokenise.")
    if len(examples) <= CHUNK:
        yield examples
        return
    for start in range(0, len(examples), CHUNK):
        yield examples.take(range(start, min(start + CHUNK, len(examples))))


def as_dataset(parts: Iterator[Mapping[str, Any]]) -> datasets.Dataset:
    """Feature columns, part after part, as one compact in-memory table with the `length` of every row."""
    tables = []
    for part in parts:
        columns = {**part, "length": [len(ids) for ids in part["input_ids"]]}
        features = datasets.Features({name: _TYPES[name](columns[name]) for name in columns})
        tables.append(datasets.Dataset.from_dict(columns, features=features))
    return tables[0] if len(tables) == 1 else datasets.concatenate_datasets(tables)


def _numbers(kind: str) -> Callable[[Any], Any]:
    return lambda column: datasets.List(datasets.Value(kind))


def _label_type(column: Sequence[Any]) -> Any:
    if isinstance(column[0], list):
        return datasets.List(_label_type(column[0]))
    return datasets.Value("float32" if isinstance(column[0], float) else "int64")


_TYPES: dict[str, Callable[[Any], Any]] = {
    "input_ids": _numbers("int32"),
    "attention_mask": _numbers("int8"),
    "token_type_ids": _numbers("int8"),
    "slot_labels": _numbers("int32"),
    "word_positions": _numbers("int32"),
    "labels": _label_type,
    "intent_labels": _label_type,
    "length": lambda column: datasets.Value("int32"),
}


def model_inputs(encoded: Mapping[str, Any]) -> dict[str, Any]:
    """The columns of a tokenizer's answer that encoders take."""
    return {name: encoded[name] for name in ("input_ids", "attention_mask", "token_type_ids") if name in encoded}


def length_limit(tokenizer: PreTrainedTokenizerBase, max_length: int) -> int:
    """`max_length`, or what the model has positions for if that is less."""
    return int(min(max_length, tokenizer.model_max_length))


def class_numbers(names: Sequence[str], labels: Sequence[Any]) -> list[int]:
    """Class numbers of labels; -100 for a label the names do not have.

    Example:
        >>> class_numbers(("bad", "good"), ["good", "ugly"])
        [1, -100]
    """
    numbers = {name: number for number, name in enumerate(names)}
    return [numbers.get(str(label), IGNORED) for label in labels]


def column(features: datasets.Dataset, name: str) -> NDArray[np.int64]:
    """One number per row as int64 `(n,)`."""
    return np.asarray(features.with_format("numpy")[name][:], dtype=np.int64)


def class_predictions(logits: Tensor, names: Sequence[str]) -> list[Prediction]:
    """The likeliest class of each example `(batch, classes)`, ties to the lower class number."""
    probabilities = logits.detach().float().softmax(-1).cpu().numpy()
    best = probabilities.argmax(-1)
    return [Prediction(names[place], float(row[place]), row) for place, row in zip(best, probabilities, strict=True)]
