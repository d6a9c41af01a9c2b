"""Tasks: the only code that knows column names and model outputs. A task turns examples into features and outputs into
signals, predictions and metrics."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from transformers import PreTrainedConfig

from datadiet.data.schema import Dataset
from datadiet.errors import ArgumentError, unknown
from datadiet.tasks.base import Collator, Prediction, Task, signals_of
from datadiet.tasks.intent_slot import IntentSlotTask
from datadiet.tasks.joint_model import IntentSlotConfig
from datadiet.tasks.loading import is_tagger, load_config
from datadiet.tasks.sequence import ClassificationTask, MultiLabelTask, RegressionTask
from datadiet.tasks.tagging import TokenClassificationTask

Names = Sequence[str]

TASKS: dict[str, Callable[[Names, Names], Task]] = {
    "classification": lambda labels, slots: ClassificationTask(tuple(labels)),
    "multi-label": lambda labels, slots: MultiLabelTask(tuple(labels)),
    "regression": lambda labels, slots: RegressionTask(),
    "intent-slot": lambda labels, slots: IntentSlotTask(tuple(labels), tuple(slots)),
    "token-classification": lambda labels, slots: TokenClassificationTask(tuple(slots)),
}


def task_for(dataset: Dataset) -> Task:
    """The task of a data set, with the data set's own label names.

    Raises:
        ArgumentError: If there is no task of that name.

    Example:
        >>> splits = {}
        >>> task_for(Dataset("toy", "classification", splits, ("bad", "good"), (), "0")).main_metric
        'accuracy'
    """
    if dataset.task not in TASKS:
        raise ArgumentError(unknown("task", dataset.task, TASKS))
    return TASKS[dataset.task](dataset.label_names, dataset.slot_names)


def task_of_saved_model(source: str | Path | PreTrainedConfig) -> Task:
    """The task a saved model was trained for, with the label names its config holds.

    Args:
        source: Its folder, or its config.

    Raises:
        DataError: If the folder holds no model.

    Example:
        >>> from transformers import BertConfig
        >>> task_of_saved_model(BertConfig(id2label={0: "bad", 1: "good"})).label_names
        ('bad', 'good')
    """
    config = source if isinstance(source, PreTrainedConfig) else load_config(str(source))
    if isinstance(config, IntentSlotConfig):
        return TASKS["intent-slot"](config.intent_names, config.slot_names)
    by_number = {int(number): str(name) for number, name in (config.id2label or {}).items()}
    names = [by_number[number] for number in sorted(by_number)]
    if is_tagger(config):
        return TASKS["token-classification"]((), names)
    if config.problem_type == "multi_label_classification":
        return TASKS["multi-label"](names, ())
    if config.problem_type == "regression" or config.num_labels == 1:
        return TASKS["regression"]((), ())
    return TASKS["classification"](names, ())


__all__ = [
    "TASKS",
    "ClassificationTask",
    "Collator",
    "IntentSlotTask",
    "MultiLabelTask",
    "Prediction",
    "RegressionTask",
    "Task",
    "TokenClassificationTask",
    "signals_of",
    "task_for",
    "task_of_saved_model",
]
