"""The arguments of a Trainer: what a diet refuses of them, and the ids and classes of its training data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datadiet.errors import Problems
from datadiet.scoring.forward import whole_numbers


def check_arguments(args: Any, dataset: Any, dieting: bool) -> None:
    """Refuse training arguments that do not go with a diet.

    Raises:
        ArgumentError: All problems at once.
    """
    problems = Problems()
    problems.check(
        dataset is None or hasattr(dataset, "__len__"),
        "the training data must have a length: a diet chooses rows, and a stream has none.",
    )
    problems.check(not args.auto_find_batch_size, "auto_find_batch_size does not go with a diet: set the batch size.")
    if dieting:
        problems.check(args.max_steps <= 0, "set num_train_epochs, not max_steps: the diet plans the steps itself.")
        problems.check(
            float(args.num_train_epochs).is_integer(),
            f"num_train_epochs must be a whole number, got {args.num_train_epochs}.",
        )
        problems.check(
            not args.dataloader_drop_last,
            "dataloader_drop_last does not go with a diet: kept counts are full batches already.",
        )
    problems.raise_any()


def check_judged(args: Any, dev: Any, metric: str) -> None:
    """Refuse training arguments without the dev metric that a tolerance needs.

    Raises:
        ArgumentError: All problems at once.
    """
    problems = Problems()
    strategy = getattr(args.eval_strategy, "value", args.eval_strategy)
    problems.check(
        strategy == "epoch",
        f"tolerance needs the dev metric of every epoch: eval_strategy='epoch', got {strategy!r}.",
    )
    problems.check(hasattr(dev, "__len__") and not isinstance(dev, dict), "tolerance needs one eval_dataset.")
    problems.check(
        bool(metric) and metric != "loss" and args.greater_is_better is not False,
        "tolerance is in points of a metric of which larger is better: name it in metric_for_best_model "
        f"(got {metric or None!r}), and pass compute_metrics.",
    )
    problems.raise_any()


def order_seed(args: Any) -> int:
    """The seed of the order of examples, as the Trainer chooses it."""
    return int(args.seed if args.data_seed is None else args.data_seed)


def ids_and_groups(dataset: Any) -> tuple[Sequence[str] | None, NDArray[np.int64] | None]:
    """The `id` column and the class of each row, where a data set has them."""
    columns = getattr(dataset, "column_names", ())
    ids = next((dataset[name] for name in ("id", "idx") if name in columns), None)
    labels = next((dataset[name] for name in ("intent_labels", "labels", "label") if name in columns), None)
    if labels is None or not len(labels) or not isinstance(labels[0], (int, np.integer)):
        return ids, None
    return ids, whole_numbers(labels)
