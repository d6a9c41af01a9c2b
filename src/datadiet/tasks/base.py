"""The contract of a task, and the steps that tasks share: feature tables, padded batches, and signals of heads."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import datasets
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from datadiet.data.schema import Examples
from datadiet.errors import ArgumentError, DataError
from datadiet.types import IGNORED, HeadSignals, Signals

CHUNK = 10_000
Batch = dict[str, Tensor]
Row = Mapping[str, Any]


@dataclass(frozen=True)
class TokenTotals:
    """What a language model says of the tokens of one answer, given those before them.

    Attributes:
        count: Tokens that train.
        nll: The sum of their -ln p, in nats.
        right: How many of them are the likeliest.
        exact: Whether greedy decoding gives exactly this answer; None where that is not counted.
    """

    count: int
    nll: float
    right: int
    exact: bool | None = None

    def columns(self) -> tuple[int, int, float, bool | None]:
        """For a table: tokens, right, nll, exact."""
        return self.count, self.right, self.nll, self.exact


@dataclass(frozen=True)
class Prediction:
    """The prediction of a model for one example.

    Attributes:
        label: The likeliest class (the intent, for joint tasks), the predicted number, or the predicted labels of a
            multi-label task in the order of the label names; None for taggers.
        probability: Of that class, or of exactly that set of labels, in (0, 1]; None for regression and taggers.
        probabilities: float32 `(classes,)` in the order of the label names; for taggers `(words, tags)` in the order of
            the tags, nan for a word that the model did not see; None for regression.
        slots: One tag per word; None for tasks without tags.
        tokens: Of a language model, where there is an answer to compare with; its `label` is the generated answer.
    """

    label: str | float | tuple[str, ...] | None
    probability: float | None
    probabilities: NDArray[np.float32] | None
    slots: tuple[str, ...] | None = None
    tokens: TokenTotals | None = None


class Task(Protocol):
    """Everything that depends on what is predicted. Frozen: the label names are those of the training split."""

    @property
    def name(self) -> str:
        """As `datadiet methods` lists it."""

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

    def load_tokenizer(self, source: str) -> PreTrainedTokenizerBase:
        """The tokenizer of a model, with all that the features of this task need of it."""

    def load_model(self, source: str, **options: Any) -> PreTrainedModel:
        """A pretrained model with heads for this task's labels; new weights come from torch's global generator."""

    def features(self, examples: Examples, tokenizer: PreTrainedTokenizerBase, *, max_length: int) -> datasets.Dataset:
        """One row per example: token ids without padding, `length`, and the label columns where there are labels.

        A label that the names do not have (seen in dev or test only) becomes -100, which no loss counts.
        """

    def notes(
        self, features: Mapping[str, datasets.Dataset], tokenizer: PreTrainedTokenizerBase, source: str
    ) -> list[str]:
        """What the user should know of the features by split, the tokenizer and the model they are for."""

    def collator(
        self, tokenizer: PreTrainedTokenizerBase, *, pad_to_multiple_of: int | None = None
    ) -> Callable[[Sequence[Row]], Batch]:
        """A function from feature rows to one batch of tensors, padded to its longest row."""

    def signals(self, outputs: Any, batch: Mapping[str, Tensor]) -> Signals:
        """Logits, labels and mask of every head, detached, for the scores."""

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
        features = datasets.Features({name: _feature_type(name, column[0]) for name, column in columns.items()})
        tables.append(datasets.Dataset.from_dict(columns, features=features))
    return tables[0] if len(tables) == 1 else datasets.concatenate_datasets(tables)


_INTEGERS = {"attention_mask": "int8", "token_type_ids": "int8"}
_INTEGERS |= dict.fromkeys(("input_ids", "slot_labels", "word_positions", "length"), "int32")


def _feature_type(name: str, value: Any) -> Any:
    """The type of a column, from its first value."""
    if isinstance(value, list):
        return datasets.List(_feature_type(name, value[0] if value else 0))
    return datasets.Value(_INTEGERS.get(name, "float32" if isinstance(value, float) else "int64"))


def model_inputs(encoded: Mapping[str, Any]) -> dict[str, Any]:
    """The columns that encoders take, of those that a tokenizer returns."""
    return {name: encoded[name] for name in ("input_ids", "attention_mask", "token_type_ids") if name in encoded}


def length_limit(tokenizer: PreTrainedTokenizerBase, max_length: int) -> int:
    """`max_length`, or the number of positions of the model if that is less."""
    return int(min(max_length, tokenizer.model_max_length))


def class_numbers(names: Sequence[str], labels: Sequence[Any]) -> list[int]:
    """Class numbers of labels; -100 for a label the names do not have.

    Examples:
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


@dataclass(frozen=True)
class Collator:
    """Pads the token columns to the longest row of the batch; columns it does not know are left out.

    Attributes:
        padding: Padding value of each column with one number per token.
        ragged: Padding value of columns whose rows have a length of their own.
        labels: dtype of each column with one number, or equally many, per example.
        left: Pad before the tokens instead of after them.
        multiple: Pad the token columns on, to a multiple of this.

    Examples:
        >>> collate = Collator(padding={"input_ids": 0}, labels={"labels": torch.int64})
        >>> collate([{"input_ids": [2, 9, 3], "labels": 1, "length": 3}, {"input_ids": [2, 3], "labels": 0}])
        {'input_ids': tensor([[2, 9, 3],
                [2, 3, 0]]), 'labels': tensor([1, 0])}
    """

    padding: Mapping[str, int]
    labels: Mapping[str, torch.dtype]
    ragged: Mapping[str, int] = field(default_factory=dict)
    left: bool = False
    multiple: int | None = None

    def __call__(self, rows: Sequence[Row]) -> Batch:
        """One batch of tensors, int64 but for float labels."""
        step = self.multiple or 1
        width = -(-max(len(row["input_ids"]) for row in rows) // step) * step
        batch = {}
        for name in rows[0]:
            if name in self.padding:
                batch[name] = _padded([row[name] for row in rows], self.padding[name], width, self.left)
            elif name in self.ragged:
                longest = max(len(row[name]) for row in rows)
                batch[name] = _padded([row[name] for row in rows], self.ragged[name], longest)
            elif name in self.labels:
                batch[name] = torch.tensor([row[name] for row in rows], dtype=self.labels[name])
        return batch


def _padded(rows: Sequence[Sequence[int]], fill: int, width: int, left: bool = False) -> Tensor:
    gaps = [[fill] * (width - len(row)) for row in rows]
    pairs = zip(rows, gaps, strict=True)
    return torch.tensor([[*gap, *row] if left else [*row, *gap] for row, gap in pairs])  # (batch, width)


def token_padding(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """The padding values of a tokenizer's columns.

    Raises:
        ArgumentError: If the tokenizer has no padding token.
    """
    if tokenizer.pad_token_id is None:
        raise ArgumentError("the tokenizer has no padding token, so texts cannot be batched; set tokenizer.pad_token.")
    return {
        "input_ids": int(tokenizer.pad_token_id),
        "attention_mask": 0,
        "token_type_ids": int(tokenizer.pad_token_type_id),
    }


def class_signals(logits: Tensor, labels: Tensor) -> Signals:
    """One head `label` of class logits `(batch, classes)`."""
    return Signals({"label": HeadSignals(logits.detach(), labels.detach().long())})


def multi_label_signals(logits: Tensor, labels: Tensor) -> Signals:
    """One head `label`: logits `(batch, labels)`, labels float32 `(batch, labels)` of 0 and 1."""
    return Signals({"label": HeadSignals(logits.detach(), labels.detach().float())})


def regression_signals(logits: Tensor, labels: Tensor) -> Signals:
    """One head `label` of numbers: logits `(batch, 1)`, labels float32 `(batch,)`."""
    columns = logits.detach().reshape(-1, 1)  # (batch, 1)
    return Signals({"label": HeadSignals(columns, labels.detach().float().flatten())})  # (batch,)


def binary_signals(logits: Tensor, labels: Tensor) -> Signals:
    """One head `label` of two classes, from log odds `(batch, 1)` or `(batch,)` and labels 0 or 1."""
    odds = logits.detach().reshape(-1, 1)  # (batch, 1)
    return Signals({"label": HeadSignals(two_classes(odds), labels.detach().long().flatten())})  # (batch,)


def two_classes(odds: Tensor) -> Tensor:
    """Log odds `(..., 1)` as logits of two classes `(..., 2)`."""
    return torch.cat([torch.zeros_like(odds), odds], -1)


def joint_signals(outputs: Any, batch: Mapping[str, Any]) -> Signals:
    """Two heads: `intent` `(batch, intents)` and `slots` `(batch, positions, tags)`."""
    intent = class_signals(named(outputs, "intent_logits"), named(batch, "intent_labels")).heads["label"]
    return Signals({"intent": intent, "slots": token_head(named(outputs, "slot_logits"), named(batch, "slot_labels"))})


def token_head(logits: Tensor, labels: Tensor) -> HeadSignals:
    """A tagger's head; positions labelled -100 are masked, and get class 0 so that every label is a class number."""
    mask = labels != IGNORED
    return HeadSignals(logits.detach(), labels.detach().long().masked_fill(~mask, 0), mask)


def named(tensors: Any, name: str) -> Tensor:
    """A tensor of a batch or of outputs by its name.

    Raises:
        ArgumentError: If it is not there, with the names that are.
    """
    if not isinstance(tensors, Mapping):
        if isinstance(tensor := getattr(tensors, name, None), Tensor):
            return tensor
        raise ArgumentError(f"expected named outputs with {name!r}, got {type(tensors).__name__}.")
    if not isinstance(tensor := tensors.get(name), Tensor):
        raise ArgumentError(f"{name!r} is missing; there are: {', '.join(map(str, tensors)) or 'none'}.")
    return tensor
