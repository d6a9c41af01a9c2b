"""Joint intent and slots: one class for a request and one tag for each of its words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import datasets
import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from datadiet.data.schema import Examples
from datadiet.registry import task
from datadiet.tasks import metrics
from datadiet.tasks.base import (
    Prediction,
    class_numbers,
    class_predictions,
    column,
    joint_signals,
    named,
)
from datadiet.tasks.joint_model import IntentSlotConfig
from datadiet.tasks.loading import load_intent_slot
from datadiet.tasks.tagging import WordTask, word_labels, word_tags
from datadiet.types import Signals


@task(
    name="intent-slot",
    formula="an intent per request and a slot tag per word",
    traits=("classes", "one_class", "groups", "joint", "heads", "words"),
    metrics=("exact_match", "intent_accuracy", "slot_f1"),
    label="one intent",
)
@dataclass(frozen=True)
class IntentSlotTask(WordTask):
    """An intent per request and a slot tag per word.

    Attributes:
        label_names: Intents by class number.
        slot_names: Slot tags by class number.
    """

    label_names: tuple[str, ...]
    slot_names: tuple[str, ...]
    label_columns: ClassVar[tuple[str, ...]] = ("intent_labels", "slot_labels")
    tag_column: ClassVar[str] = "slot_labels"

    @staticmethod
    def owns(config: Any) -> bool:
        """Whether a saved model is the joint one."""
        return isinstance(config, IntentSlotConfig)

    def load_model(self, source: str, **options: Any) -> PreTrainedModel:
        """The joint model; options are `alpha`, `label_smoothing` and `class_weights` (of the intents)."""
        return load_intent_slot(source, self.label_names, self.slot_names, **options)

    def _labels(self, part: Examples, columns: Mapping[str, Any]) -> dict[str, list[Any]]:
        intents = {} if part.labels is None else {"intent_labels": class_numbers(self.label_names, part.labels)}
        slots = {} if part.slots is None else {"slot_labels": [*word_labels(self.slot_names, part.slots, columns)]}
        return {**intents, **slots}

    def signals(self, outputs: Any, batch: Mapping[str, Tensor]) -> Signals:
        """Two heads, `intent` and `slots`; the mask of the latter is True on first sub-tokens."""
        return joint_signals(outputs, batch)

    def decode(self, outputs: Any, batch: Mapping[str, Tensor]) -> list[Prediction]:
        """The likeliest intent, and for each word the likeliest tag at its first sub-token, `O` where it has none."""
        intents = class_predictions(named(outputs, "intent_logits"), self.label_names)
        tags = named(outputs, "slot_logits").detach().float().argmax(-1).cpu().numpy()  # (batch, positions)
        words = named(batch, "word_positions").cpu().numpy()
        return [
            replace(intent, slots=word_tags(row, positions, self.slot_names))
            for intent, row, positions in zip(intents, tags, words, strict=True)
        ]

    def metrics(self, examples: Examples, predictions: Sequence[Prediction]) -> dict[str, float] | None:
        """`intent_accuracy`, `slot_f1`, `exact_match`, `nll` of the intent; None where intents or slots are missing."""
        if examples.labels is None or examples.slots is None:
            return None
        intents = [str(label) for label in examples.labels]
        return metrics.joint_metrics(intents, examples.slots, predictions, self.label_names)

    def groups(self, features: datasets.Dataset) -> NDArray[np.int64] | None:
        """The intent's class number of each row."""
        return column(features, "intent_labels")
