"""Everything about a config that follows from its data alone: no model is loaded, and no text tokenised."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from copy import copy

import numpy as np
import torch
from numpy.typing import NDArray

from datadiet.checks import Problems, UserError
from datadiet.config import FinetuneConfig
from datadiet.data import Dataset
from datadiet.data.records import Examples
from datadiet.device import best_device
from datadiet.diet import Diet
from datadiet.diet.select_options import by_number
from datadiet.score_options import check_counts


def check_with_data(config: FinetuneConfig, diet: Diet, data: Dataset) -> None:
    """Check whether the data has what a run's options ask for.

    Args:
        config: Checked by itself; see `datadiet.config_checks`.
        diet: Of the config.
        data: Of the config.

    Raises:
        ArgumentError: All problems at once.
    """
    problems = Problems()
    train = data.splits["train"]
    rows, batch, numbered = len(train), examples_per_step(config), copy(diet)
    try:
        numbered.select_options = by_number(diet.select_options, data.label_names)
    except UserError as error:
        problems.include(error)
    try:
        schedule = diet.schedule_for(rows, epochs=config.epochs, batch=batch)
        diet.check_floor(class_sizes(train), schedule)
        if not problems.found:
            numbered.rehearse(rows, schedule, _groups(train, data.label_names))
    except UserError as error:
        problems.include(error)
    try:
        check_counts({diet.measure.name: diet.score_options}, rows)
    except UserError as error:
        problems.include(error)
    there = config.epochs * math.ceil(rows / batch)
    if config.max_steps is not None and config.max_steps > there:
        problems.add(
            f"max_steps {config.max_steps} is more than the {there} steps of {config.epochs} epochs: set more epochs."
        )
    problems.raise_any()


def _groups(train: Examples, names: Sequence[str]) -> NDArray[np.int64] | None:
    """The number of each row's class, int64 `(n,)`, or of its set of labels; None where there are no classes."""
    if not names or train.labels is None:
        return None
    sets = sorted({label for label in train.labels if isinstance(label, tuple)})
    numbers: dict[object, int] = {name: number for number, name in enumerate(sets or names)}
    labels = train.labels if sets else map(str, train.labels)
    return np.array([numbers[label] for label in labels], np.int64)


def class_sizes(train: Examples) -> dict[str, int]:
    """Rows of each class, of each set of labels where there are several, by name; empty where there are no classes.

    Example:
        >>> class_sizes(Examples(ids=("a", "b"), texts=("x", "y"), labels=(("new", "red"), ())))
        {'new, red': 1, 'no label': 1}
    """
    names = (", ".join(label) or "no label" if isinstance(label, tuple) else str(label) for label in train.labels or ())
    return dict(Counter(names))


def examples_per_step(config: FinetuneConfig) -> int:
    """Examples of one optimizer step; the Trainer gives every GPU of a process a batch."""
    devices = torch.cuda.device_count() if best_device().type == "cuda" else 1
    return config.batch_size * config.gradient_accumulation * max(1, devices)
