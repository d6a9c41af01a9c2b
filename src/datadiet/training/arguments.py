"""The arguments of a Trainer: what a diet refuses, the ids and classes of its training data, a learning rate."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np
from numpy.typing import NDArray
from torch.optim.lr_scheduler import LambdaLR

from datadiet.diet.options import NO_CUT, DietOptions
from datadiet.errors import ArgumentError, Problems
from datadiet.scores.tokens import TOKEN_SCORES, token_problem
from datadiet.scoring.forward import column_of, is_transformed, whole_numbers
from datadiet.training.stream import is_stream
from datadiet.types import IGNORED

# `auto_learning_rate`: the rate of so many weights, how it falls with more of them, and its limits
REFERENCE_WEIGHTS, REFERENCE_RATE, EXPONENT = 110e6, 3e-5, 1.8
LEAST_RATE, MOST_RATE = 1e-5, 5e-4
ROWS_CHECKED = 64  # evenly spread, whose content tells training data from others

Factor = Callable[[Any], float]


@dataclass(frozen=True)
class LearningRate:
    """The peak learning rate of a run.

    Attributes:
        value: Above 0.
        rule: `auto`, by `auto_learning_rate`, or `given`.
        weights: That train.
    """

    value: float
    rule: str
    weights: int


def learning_rate_of(given: float | str, model: Any) -> LearningRate:
    """The learning rate of a run: as given, or by the number of weights of the model that train.

    Args:
        given: A number, or `auto`.
        model: With its heads, and its adapter where it has one.
    """
    weights = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    if isinstance(given, str):
        return LearningRate(auto_learning_rate(weights), "auto", weights)
    return LearningRate(float(given), "given", weights)


def auto_learning_rate(weights: int) -> float:
    """A peak learning rate of AdamW for fine-tuning, by the number of weights that train.

    Args:
        weights: Embeddings, heads and adapters included, frozen weights left out.

    Returns:
        Two significant digits, in [`LEAST_RATE`, `MOST_RATE`].

    Examples:
        >>> [auto_learning_rate(int(weights)) for weights in (110e6, 335e6, 0.3e6)]
        [3e-05, 1e-05, 0.0005]

    Source: ours, between the published rates of docs/concepts.md and `python -m benchmarks.learning_rate`.
    """
    rate = REFERENCE_RATE * (REFERENCE_WEIGHTS / max(1, weights)) ** EXPONENT
    return float(f"{min(MOST_RATE, max(LEAST_RATE, rate)):.1e}")


def follow(scheduler: Any, position: Callable[[int], float]) -> None:
    """Make a scheduler read its learning rate at `position(step)` instead of at the step.

    A tolerance decides the number of steps while it trains, so its learning rate follows the position in the planned
    maximum.

    Args:
        scheduler: Of the Trainer, before its first step.
        position: Optimizer steps made, to a position in the planned steps.

    Raises:
        ArgumentError: If the learning rate of the scheduler is not a function of the step.

    Examples:
        >>> import torch
        >>> scheduler = LambdaLR(torch.optim.SGD([torch.zeros(1)], lr=1.0), lambda step: 1 - step / 10)
        >>> follow(scheduler, lambda step: 2.0 * step)
        >>> scheduler.optimizer.step(); scheduler.step()
        >>> scheduler.get_last_lr()
        [0.8]
    """
    if not isinstance(scheduler, LambdaLR):
        raise ArgumentError(
            f"tolerance does not go with {type(scheduler).__name__}, whose learning rate is no function of the step; "
            "use linear, cosine, constant or polynomial."
        )
    scheduler.lr_lambdas = [_at_position(factor, position) for factor in scheduler.lr_lambdas]


def _at_position(factor: Factor, position: Callable[[int], float]) -> Factor:
    # a plain function: a scheduler's state omits functions, but holds the attributes of callable objects
    def at_position(step: int) -> float:
        return factor(position(step))

    return at_position


def check_arguments(args: Any, dataset: Any, options: DietOptions) -> None:
    """Refuse training arguments that do not go with a diet.

    Raises:
        ArgumentError: All problems at once.
    """
    problems = Problems()
    if options.plans and not is_stream(dataset):
        problems.check(
            not args.dataloader_drop_last,
            "dataloader_drop_last does not go with a diet: kept counts are full batches already.",
        )
        problems.check(
            options.keep is not None or (args.max_steps <= 0 and float(args.num_train_epochs).is_integer()),
            NO_CUT,
        )
    problems.raise_any()


# what a language model has in place of the guard, which tells wrong labels by their classes
BY_SHARE = "Leave out the hardest tenth with offset 0.1, or what is hard and uncertain with select quadrants."


def check_tokens(
    options: DietOptions,
    lacks: Collection[str],
    *,
    guarded: bool,
    teaches: bool,
    answers: bool = False,
    masked: bool = False,
) -> None:
    """Refuse what cannot be had of the tokens of a language model.

    Args:
        options: Of the diet.
        lacks: Scores that this trainer does not give of tokens.
        guarded: Whether the label-noise guard is on.
        teaches: Whether there is a teacher.
        answers: Whether it is an encoder-decoder.
        masked: Whether it fills in masked tokens.

    Raises:
        ArgumentError: All problems at once.
    """
    problems, score = Problems(), options.score
    needed = (score.name,) if score.kind == "forward" else () if score.dynamic is None else score.dynamic.columns
    if score.kind == "forward":
        problems.found += filter(None, [token_problem(score.name, [one for one in TOKEN_SCORES if one not in lacks])])
    elif missing := sorted({*needed} & {*lacks, "hidden_norm"}):
        problems.add(
            f"the score {score.name!r} needs {', '.join(missing)} of each example, which this trainer does not "
            "give of a language model."
        )
    method = options.batch_method()
    problems.check(
        method is None or "gram" not in method.needs,
        f"{options.select_name!r} needs the gradients of the last layer, of which a causal language model has too "
        "many; use selective_backprop.",
    )
    problems.check(
        not guarded,
        f"offset='auto' needs classes or tags; a language model has the next tokens of a text. {BY_SHARE}",
    )
    problems.check(
        options.tokens is None or not answers,
        f"tokens={options.config.tokens!r} prunes the text that a causal language model reads, and the answers of an "
        "encoder-decoder are a text apart: choose rows, by select=.",
    )
    problems.check(
        options.tokens is None or not masked,
        f"tokens={options.config.tokens!r} prunes what a causal language model learns to write, and a masked language "
        "model draws other tokens every epoch: choose rows, by select=.",
    )
    problems.check(not teaches, "a teacher needs logits, which a language model has too many of to keep.")
    problems.raise_any()


def check_pairs(options: DietOptions, losses: Collection[str], *, weighs: bool) -> None:
    """Refuse what pairs of answers cannot have, which only the training step of `DPOTrainer` can compare.

    Args:
        options: Of the diet.
        losses: Its `loss_type`.
        weighs: Whether rows have loss weights.

    Raises:
        ArgumentError: All problems at once.
    """
    problems = Problems()
    problems.check(
        options.config.rescore == "none",
        f"rescore={options.config.rescore!r} needs passes of the model alone, and pairs of DPO are compared with a "
        "reference model, in training only: use rescore='none'.",
    )
    sorts = [loss for loss in losses if loss.startswith("aot")]
    problems.check(
        not (weighs and sorts),
        f"loss weights of rows need a loss of each pair, and loss_type={sorts} sorts those of a batch: use another.",
    )
    problems.raise_any()


def weight_column(dataset: Any) -> NDArray[np.float32] | None:
    """The numbers of a column `weight`: what the loss of each row counts; None without one."""
    column = None if is_transformed(dataset) else column_of(dataset, "weight")
    if column is None or not len(column) or not isinstance(column[0], (int, float, np.number)):
        return None
    return np.asarray(column, np.float32)


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


def data_checksum(dataset: Any, lengths: NDArray[np.int64] | None) -> str:
    """Of training data, over the lengths of all rows and, of a `datasets.Dataset`, the content of some.

    Args:
        dataset: As it is stored: what a transform makes of it, perhaps by chance, does not count.
        lengths: int64, of each row; None where they are unknown.
    """
    total = 0 if lengths is None else zlib.crc32(np.ascontiguousarray(lengths, np.int64).data)
    if isinstance(dataset, datasets.Dataset) and len(dataset):
        rows = np.unique(np.linspace(0, len(dataset) - 1, ROWS_CHECKED).astype(np.int64)).tolist()
        total = zlib.crc32(repr(dataset.with_format("arrow")[rows].to_pylist()).encode(errors="surrogatepass"), total)
    return f"{total:08x}"


def ids_and_groups(
    dataset: Any, label_names: Sequence[str] = ()
) -> tuple[Sequence[Any] | None, NDArray[np.int64] | None]:
    """The `id` column and the class of each row, where a data set has them.

    Args:
        dataset: Of the training or dev rows.
        label_names: Of a Trainer; a single one is the column of the classes.

    Returns:
        None for what is not there. Rows that are made when they are read have no class: it may be another than the one
        in the column. A label that is missing is -100, which is no class.
    """
    columns = (column_of(dataset, name) for name in ("id", "idx"))
    ids = next((column for column in columns if column is not None), None)
    if is_transformed(dataset):
        return ids, None
    names = dict.fromkeys((*(label_names if len(label_names) == 1 else ()), "intent_labels", "labels", "label"))
    columns = (column_of(dataset, name) for name in names)
    labels = next((column for column in columns if column is not None), None)
    known = None if labels is None else next((label for label in labels if label is not None), None)
    if labels is None or not isinstance(known, (int, np.integer, np.bool_)):
        return ids, None
    return ids, whole_numbers(labels, missing=IGNORED)
