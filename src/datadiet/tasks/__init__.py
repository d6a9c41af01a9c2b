"""Tasks: the only code that knows column names and model outputs.

A task turns examples into features, and model outputs into signals, predictions and metrics.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path

from transformers import PreTrainedConfig

from datadiet.data.schema import Dataset
from datadiet.registry import has, load, methods
from datadiet.tasks.base import Collator, Prediction, Task
from datadiet.tasks.causal_lm import CausalLMTask
from datadiet.tasks.intent_slot import IntentSlotTask
from datadiet.tasks.loading import load_config
from datadiet.tasks.reading import signals_of
from datadiet.tasks.sequence import ClassificationTask, MultiLabelTask, RegressionTask
from datadiet.tasks.tagging import TokenClassificationTask

Names = Sequence[str]


def make(name: str, label_names: Names, slot_names: Names) -> Task:
    """A task by its name, with the label names that it takes."""
    build = load("task", name)
    names_of = {"label_names": tuple(label_names), "slot_names": tuple(slot_names)}
    task: Task = build(**{field.name: names_of[field.name] for field in fields(build) if field.name in names_of})
    return task


def task_for(dataset: Dataset) -> Task:
    """The task of a data set, with the data set's own label names.

    Raises:
        ArgumentError: If there is no task of that name.

    Examples:
        >>> splits = {}
        >>> task_for(Dataset("toy", "classification", splits, ("bad", "good"), (), "0")).main_metric
        'accuracy'
    """
    return make(dataset.task, dataset.label_names, dataset.slot_names)


def task_of_saved_model(source: str | Path | PreTrainedConfig) -> Task:
    """The task that a saved model was trained for, with the label names of its config.

    Args:
        source: Its folder, or its config.

    Raises:
        DataError: If the folder holds no model.

    Examples:
        >>> from transformers import BertConfig
        >>> task_of_saved_model(BertConfig(id2label={0: "bad", 1: "good"})).label_names
        ('bad', 'good')
    """
    config = source if isinstance(source, PreTrainedConfig) else load_config(str(source))
    own = getattr(config, "intent_names", None)
    by_number = {int(number): str(name) for number, name in (config.id2label or {}).items()}
    labels = [by_number[number] for number in sorted(by_number)] if own is None else own
    owners = [method.name for method in methods("task") if method.load().owns(config)]
    # the most special one; a model that no other task owns is a classifier of texts
    name = next((one for one in owners if not has(one, "whole_text")), owners[-1])
    return make(name, labels, getattr(config, "slot_names", labels))


__all__ = [
    "CausalLMTask",
    "ClassificationTask",
    "Collator",
    "IntentSlotTask",
    "MultiLabelTask",
    "Prediction",
    "RegressionTask",
    "Task",
    "TokenClassificationTask",
    "make",
    "signals_of",
    "task_for",
    "task_of_saved_model",
]
