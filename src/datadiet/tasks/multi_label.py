"""Any number of labels for a sentence or a pair of sentences."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import datasets
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from datadiet.data.records import Examples
from datadiet.models.loading import load_classifier
from datadiet.records import Signals
from datadiet.tasks import metrics
from datadiet.tasks.base import Batch, Prediction, Row
from datadiet.tasks.infer import multi_label_signals, named
from datadiet.tasks.sequence import no_options, text_collator, text_features

THRESHOLD = 0.5  # a label is predicted from this probability on


@dataclass(frozen=True)
class MultiLabelTask:
    """Any number of labels per sentence or pair, none included; each is decided by a sigmoid of its own.

    Attributes:
        label_names: Labels by number, at least two.
    """

    label_names: tuple[str, ...]
    name: ClassVar[str] = "multi-label"
    main_metric: ClassVar[str] = "micro_f1"
    label_columns: ClassVar[tuple[str, ...]] = ("labels",)
    slot_names: ClassVar[tuple[str, ...]] = ()

    def load_model(self, source: str, **options: Any) -> PreTrainedModel:
        """A stock sequence classifier that is trained with binary cross-entropy."""
        no_options(self.name, options)
        return load_classifier(source, self.label_names, problem="multi-label")

    def features(self, examples: Examples, tokenizer: PreTrainedTokenizerBase, *, max_length: int) -> datasets.Dataset:
        """Token columns, `length`, and `labels` where there are labels: float32, 1 for each label of the row, else 0.

        A label that the names do not have is left out: nothing in the row's loss speaks for or against it.
        """
        return text_features(examples, tokenizer, max_length, self._multi_hot)

    def _multi_hot(self, labels: Sequence[Sequence[str]]) -> list[list[float]]:
        return [[float(name in wanted) for name in self.label_names] for wanted in map(set, labels)]

    def collator(
        self, tokenizer: PreTrainedTokenizerBase, *, pad_to_multiple_of: int | None = None
    ) -> Callable[[Sequence[Row]], Batch]:
        """Pads to the longest row of the batch."""
        return text_collator(tokenizer, torch.float32, pad_to_multiple_of)

    def signals(self, outputs: Any, batch: Mapping[str, Tensor]) -> Signals:
        """One head, `label`: logits `(batch, labels)`, labels float32 `(batch, labels)`."""
        return multi_label_signals(named(outputs, "logits"), named(batch, "labels"))

    def decode(self, outputs: Any, batch: Mapping[str, Tensor]) -> list[Prediction]:
        """The labels whose probability is at least one half; the probability is that of exactly these."""
        given = named(outputs, "logits").detach().float().sigmoid().cpu().numpy()  # (batch, labels)
        sets = np.where(given >= THRESHOLD, given, 1 - given).prod(axis=1)  # (batch,)
        return [
            Prediction(tuple(self.label_names[place] for place in np.flatnonzero(row >= THRESHOLD)), float(whole), row)
            for row, whole in zip(given, sets, strict=True)
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
