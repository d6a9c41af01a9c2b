"""What the rows of `predictions.parquet` hold: one label, several, or a tag for each word."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd


def several_labels(predictions: pd.DataFrame) -> bool:
    """Whether the rows have any number of labels each (multi-label)."""
    return len(predictions) > 0 and all(_is_list(value) for value in predictions["predicted"])


def _is_list(value: Any) -> bool:
    return isinstance(value, (list, tuple, np.ndarray))


def label_sets(predictions: pd.DataFrame) -> tuple[list[set[str]], list[set[str]]]:
    """Gold and predicted labels of rows with several."""
    return [set(labels) for labels in predictions["gold"]], [set(labels) for labels in predictions["predicted"]]


def tags_words(predictions: pd.DataFrame) -> bool:
    """Whether words are tagged and nothing else is predicted (token classification)."""
    return "gold_slots" in predictions and bool(predictions["predicted"].isna().all())
