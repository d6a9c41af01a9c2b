"""Tasks of whole texts, a sentence or a pair of sentences: one class, one number, or any number of labels."""

from __future__ import annotations

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
    class_predictions,
    class_signals,
    column,
    length_limit,
    model_inputs,
    multi_label_signals,
    named,
    regression_signals,
    token_padding,
)
from datadiet.tasks.loading import load_classifier, load_tokenizer
from datadiet.types import Signals


class TextTask:
    """Features and batches of the tasks whose labels belong to a whole text; a subclass encodes its labels.

    Attributes:
        dtype: Of the column `labels` in a batch.
    """

    name: ClassVar[str]
    main_metric: ClassVar[str]
    dtype: ClassVar[torch.dtype] = torch.int64
    label_columns: ClassVar[tuple[str, ...]] = ("labels",)
    slot_names: ClassVar[tuple[str, ...]] = ()

    def load_tokenizer(self, source: str) -> PreTrainedTokenizerBase:
        """The tokenizer of a model."""
        return load_tokenizer(source)

    def notes(
        self, features: Mapping[str, datasets.Dataset], tokenizer: PreTrainedTokenizerBase, source: str
    ) -> list[str]:
        """Nothing."""
        return []

    def features(self, examples: Examples, tokenizer: PreTrainedTokenizerBase, *, max_length: int) -> datasets.Dataset:
        """Token columns, `length`, and `labels` where there are labels; of a pair the longer text is cut first."""
        limit = length_limit(tokenizer, max_length)

        def parts() -> Iterator[dict[str, Any]]:
            for part in chunks(examples):
                pairs = None if part.text_pairs is None else list(part.text_pairs)
                columns = model_inputs(tokenizer(list(part.texts), pairs, truncation=True, max_length=limit))
                if part.labels is not None:
                    columns["labels"] = self._encode(part.labels)
                yield columns

        return as_dataset(parts())

    def _encode(self, labels: Sequence[Any]) -> list[Any]:
        raise NotImplementedError

    def collator(
        self, tokenizer: PreTrainedTokenizerBase, *, pad_to_multiple_of: int | None = None
    ) -> Callable[[Sequence[Row]], Batch]:
        """Pads to the longest row of the batch, on the tokenizer's side."""
        left = tokenizer.padding_side == "left"
        return Collator(token_padding(tokenizer), {"labels": self.dtype}, left=left, multiple=pad_to_multiple_of)


def no_options(task: str, options: Mapping[str, Any]) -> None:
    """Refuse model options.

    Raises:
        ArgumentError: If there are any.
    """
    if options:
        raise ArgumentError(f"{', '.join(sorted(options))}: only the intent-slot task takes model options, not {task}.")


@task(
    name="classification",
    formula="one class per sentence or pair",
    traits=("classes", "one_class", "groups", "whole_text"),
    metrics=("accuracy", "macro_f1", "matthews"),
    label="one class",
    pipeline="text-classification",
)
@dataclass(frozen=True)
class ClassificationTask(TextTask):
    """One class per sentence or pair.

    Attributes:
        label_names: Class names by class number.
    """

    label_names: tuple[str, ...]

    @staticmethod
    def owns(config: Any) -> bool:
        """Whether a saved model has one class per text; asked last."""
        return True

    def load_model(self, source: str, **options: Any) -> PreTrainedModel:
        """A stock sequence classifier that knows the label names."""
        no_options(self.name, options)
        return load_classifier(source, self.label_names)

    def _encode(self, labels: Sequence[Any]) -> list[Any]:
        return class_numbers(self.label_names, labels)

    def signals(self, outputs: Any, batch: Mapping[str, Tensor]) -> Signals:
        """One head, `label`: logits `(batch, classes)`."""
        return class_signals(named(outputs, "logits"), named(batch, "labels"))

    def decode(self, outputs: Any, batch: Mapping[str, Tensor]) -> list[Prediction]:
        """The likeliest class of each example."""
        return class_predictions(named(outputs, "logits"), self.label_names)

    def metrics(self, examples: Examples, predictions: Sequence[Prediction]) -> dict[str, float] | None:
        """`accuracy`, `macro_f1`, `matthews`, `nll`; None where unlabelled."""
        if examples.labels is None:
            return None
        return metrics.classification_metrics([str(label) for label in examples.labels], predictions, self.label_names)

    def groups(self, features: datasets.Dataset) -> NDArray[np.int64] | None:
        """The class number of each row."""
        return column(features, "labels")


@task(
    name="regression",
    formula="one number per sentence or pair; larger metrics are better",
    traits=("numbers",),
    metrics=("spearman", "pearson"),
    label="one number",
    pipeline="text-classification",
)
@dataclass(frozen=True)
class RegressionTask(TextTask):
    """One number per sentence or pair, trained with the mean squared error on the number as it is."""

    label_names: ClassVar[tuple[str, ...]] = ()
    dtype: ClassVar[torch.dtype] = torch.float32

    @staticmethod
    def owns(config: Any) -> bool:
        """Whether a saved model has one output."""
        return bool(config.problem_type == "regression" or config.num_labels == 1)

    def load_model(self, source: str, **options: Any) -> PreTrainedModel:
        """A stock sequence classifier with one output."""
        no_options(self.name, options)
        return load_classifier(source, (), problem="regression")

    def _encode(self, labels: Sequence[Any]) -> list[Any]:
        return [float(label) for label in labels]

    def signals(self, outputs: Any, batch: Mapping[str, Tensor]) -> Signals:
        """One head, `label`: logits `(batch, 1)`, labels float32 `(batch,)`."""
        return regression_signals(named(outputs, "logits"), named(batch, "labels"))

    def decode(self, outputs: Any, batch: Mapping[str, Tensor]) -> list[Prediction]:
        """The number predicted for each example."""
        numbers = named(outputs, "logits").detach().float().flatten().cpu()  # (batch,)
        return [Prediction(float(number), None, None) for number in numbers]

    def metrics(self, examples: Examples, predictions: Sequence[Prediction]) -> dict[str, float] | None:
        """`pearson`, `spearman`, `mse`; None where unlabelled."""
        if examples.labels is None:
            return None
        return metrics.regression_metrics(np.asarray(examples.labels, np.float64).tolist(), predictions)

    def groups(self, features: datasets.Dataset) -> NDArray[np.int64] | None:
        """There are no classes: None."""
        return None


THRESHOLD = 0.5  # a label is predicted from this probability on


@task(
    name="multi-label",
    formula="any number of labels per sentence or pair, none included",
    traits=("classes", "groups", "label_sets"),
    metrics=("micro_f1", "macro_f1", "exact_match"),
    label="one set of labels",
    pipeline="text-classification",
)
@dataclass(frozen=True)
class MultiLabelTask(TextTask):
    """Any number of labels per sentence or pair, none included; each is decided by a sigmoid of its own.

    Attributes:
        label_names: Labels by number, at least two.
    """

    label_names: tuple[str, ...]
    dtype: ClassVar[torch.dtype] = torch.float32

    @staticmethod
    def owns(config: Any) -> bool:
        """Whether a saved model decides each label by a sigmoid of its own."""
        return bool(config.problem_type == "multi_label_classification")

    def load_model(self, source: str, **options: Any) -> PreTrainedModel:
        """A stock sequence classifier that is trained with binary cross-entropy."""
        no_options(self.name, options)
        return load_classifier(source, self.label_names, problem="multi-label")

    def _encode(self, labels: Sequence[Any]) -> list[Any]:
        # a label that the names do not have is left out: nothing in the row's loss speaks for or against it
        return [[float(name in present) for name in self.label_names] for present in map(set, labels)]

    def signals(self, outputs: Any, batch: Mapping[str, Tensor]) -> Signals:
        """One head, `label`: logits `(batch, labels)`, labels float32 `(batch, labels)`."""
        return multi_label_signals(named(outputs, "logits"), named(batch, "labels"))

    def decode(self, outputs: Any, batch: Mapping[str, Tensor]) -> list[Prediction]:
        """The labels whose probability is at least one half; the probability is that of exactly these."""
        p = named(outputs, "logits").detach().float().sigmoid().cpu().numpy()  # (batch, labels)
        sets = np.where(p >= THRESHOLD, p, 1 - p).prod(axis=1)  # (batch,)
        return [
            Prediction(tuple(self.label_names[place] for place in np.flatnonzero(row >= THRESHOLD)), float(whole), row)
            for row, whole in zip(p, sets, strict=True)
        ]

    def metrics(self, examples: Examples, predictions: Sequence[Prediction]) -> dict[str, float] | None:
        """`micro_f1`, `macro_f1`, `exact_match`, `nll`; None where unlabelled."""
        if examples.labels is None:
            return None
        gold = [label if isinstance(label, tuple) else (str(label),) for label in examples.labels]
        return metrics.multi_label_metrics(gold, predictions, self.label_names)

    def groups(self, features: datasets.Dataset) -> NDArray[np.int64] | None:
        """The number of each row's set of labels, in the order of the sets as binary numbers."""
        labels = np.asarray(features.with_format("numpy")["labels"][:], dtype=np.int8)  # (rows, labels)
        return np.unique(labels, axis=0, return_inverse=True)[1].reshape(-1).astype(np.int64)
