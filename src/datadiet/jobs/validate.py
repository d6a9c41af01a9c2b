"""Everything about a config that can be checked before the data is read, all of it at once.

Everything about a config that follows from its data alone: no model is loaded, and no text tokenised.
"""

from __future__ import annotations

import importlib.util
import math
import os
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import suppress
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from transformers.integrations import integration_utils

from datadiet.config import FinetuneConfig, well_typed
from datadiet.data.columns import check_columns
from datadiet.data.load import columns_of
from datadiet.data.schema import JOINT, MULTI_LABEL, TAGGER, Dataset, Examples
from datadiet.data.sources import find, hub_name
from datadiet.data.validation import SEPARATORS
from datadiet.diet.diet import Diet
from datadiet.diet.forecast import PHASES, schedule_problems
from datadiet.diet.options import by_number, parse_options
from datadiet.errors import Problems, UserError, percent_hint
from datadiet.scores.embeddings import EMBEDDING_SCORES
from datadiet.scores.history import HISTORIES, History
from datadiet.scores.text import TEXT_SCORES
from datadiet.scoring import GRADIENT_SCORES
from datadiet.store import run_folder as layout
from datadiet.store.run_folder import checkpoints_of, saved_model
from datadiet.store.score_file import read_scores
from datadiet.store.tables import read_manifest
from datadiet.suitable import ONE_CLASS, check_counts, one_class_problems, score_problems, selector_problems
from datadiet.tasks import TASKS
from datadiet.tasks.loading import resolve_model
from datadiet.training.machine import MISSING, best_device, resolve_precision

IRREDUCIBLE = "irreducible_loss"  # the column of a score file that `top_reducible` reads
HERE = (*TEXT_SCORES, *EMBEDDING_SCORES)  # need nothing but the data and the model that a run starts from

# those of transformers that need no options of their own
LR_SCHEDULES = (
    "linear",
    "cosine",
    "cosine_with_restarts",
    "constant",
    "constant_with_warmup",
    "polynomial",
    "inverse_sqrt",
)
TRACKERS = ("tensorboard", "wandb", "trackio", "mlflow")  # whose packages have their names
CHOICES = ("score", "select", "keep", "tolerance", "combine", "rescore", "offset", "floor", "scores_from", "seed")
Found = TypeVar("Found")


def check_config(config: FinetuneConfig, *, resume: bool = False) -> Diet:
    """Check everything that can be checked before the data is read, and build the diet.

    Args:
        config: Of the run.
        resume: Whether its run folder holds the run already.

    Raises:
        ArgumentError: All problems at once.
    """
    problems = Problems()
    config, problems.found = well_typed(config)
    _check_names(config, problems)
    _check_numbers(config, problems)
    _check_no_effect(config, problems)
    _check_machine(config, problems)
    _check_data(config, problems)
    diet = _diet(config, problems)
    _check_task(config, problems)
    if diet is not None:
        problems.found += lacking(diet, planned=resume)
    _collect(lambda: resolve_model(config.model), problems)
    if not resume:
        problems.found += source_problems(config, diet)
        _collect(lambda: layout.check_new(output_folder(config)), problems)
        _check_cache(config, problems)
    problems.found = list(dict.fromkeys(problems.found))  # a check and the part that it is for may say the same
    problems.raise_any()
    assert diet is not None
    return diet


def output_folder(config: FinetuneConfig) -> Path:
    """The run folder; a YAML file has no shell to expand its `~`."""
    return Path(config.output).expanduser()


def _check_names(config: FinetuneConfig, problems: Problems) -> None:
    problems.choice("task", config.task, TASKS)
    problems.choice("label_separator", config.label_separator, SEPARATORS)
    problems.choice("lr_schedule", config.lr_schedule, LR_SCHEDULES)
    problems.check(
        config.class_weights in (None, "balanced"), f"class_weights must be 'balanced', got {config.class_weights!r}."
    )
    for name in ("data", "output", "model"):
        problems.check(bool(getattr(config, name).strip()), f"{name} is empty.")


def _check_numbers(config: FinetuneConfig, problems: Problems) -> None:
    for name in ("epochs", "batch_size", "gradient_accumulation"):
        problems.whole(name, getattr(config, name), least=1)
    problems.whole("max_length", config.max_length, least=3)  # of less, the special tokens alone would be left
    for name in ("max_steps", "train_rows"):
        if getattr(config, name) is not None:
            problems.whole(name, getattr(config, name), least=1)
    for name in ("seed", "data_seed", "lora", "early_stopping", "checkpoint_every"):
        problems.whole(name, getattr(config, name))
    problems.check(config.seed < 2**32, f"seed must be below 2**32, got {config.seed}.")
    rate = config.learning_rate
    problems.check(0 < rate < math.inf, f"learning_rate must be above 0 and finite, got {rate}.")
    for name in ("weight_decay", "max_grad_norm"):
        value = getattr(config, name)
        problems.check(0 <= value < math.inf, f"{name} must be at least 0 and finite, got {value}.")
    for name in ("lr_warmup", "label_smoothing"):
        value = getattr(config, name)
        problems.check(0 <= value < 1, f"{name} must be in [0, 1), got {value}.{percent_hint(value)}")
    heat = config.teacher_temperature
    problems.check(0 < heat < math.inf, f"teacher_temperature must be above 0 and finite, got {heat}.")
    share = config.dev_share
    problems.check(0 < share < 1, f"dev_share must be above 0 and below 1, got {share}.{percent_hint(share)}")
    problems.check(0 <= config.alpha <= 1, f"alpha must be in [0, 1], got {config.alpha}.{percent_hint(config.alpha)}")


def _check_no_effect(config: FinetuneConfig, problems: Problems) -> None:
    """Refuse options that would do nothing, or that exclude one another."""
    owners: dict[str, tuple[str, ...]] = {"epsilon": ("select", "epsilon"), "history_window": ("history", "mean")}
    owners |= {"history_alpha": ("history", "ema"), "history_c": ("history", "ema")}
    if config.teacher is None:
        idle = config.teacher_temperature != FinetuneConfig.teacher_temperature
        problems.check(not idle, "teacher_temperature has no effect without a teacher.")
    owners |= {"alpha": ("task", JOINT), "label_separator": ("task", MULTI_LABEL), "combine": ("task", JOINT, TAGGER)}
    for name, (option, *needed) in owners.items():
        found = getattr(config, option)
        idle = getattr(config, name) != getattr(FinetuneConfig, name) and found not in needed
        known, owner = option != "task" or found in TASKS, " and ".join(map(repr, needed))
        problems.check(not (idle and known), f"{name} has no effect with {option} {found!r}; it belongs to {owner}.")
    weighs = config.dedupe_weights and not config.dedupe
    problems.check(not weighs, "dedupe_weights has no effect without dedupe, which keeps one row of each text.")
    for name in ("class_weights", "label_smoothing", "floor", "teacher"):
        idle = config.task == "regression" and bool(getattr(config, name))
        problems.check(not idle, f"{name} is for classes; a regression has none.")
    tagged = config.task == TAGGER and bool(config.floor)
    problems.check(not tagged, "floor is for examples with a class; a sentence with a tag for each word has none.")
    problems.check(
        not config.early_stopping or config.checkpoint_every == 1,
        "early_stopping needs a checkpoint of every epoch, for the best weights: checkpoint_every must be 1.",
    )
    problems.check(
        not config.keep_checkpoints or config.checkpoint_every != 0,
        "keep_checkpoints has no effect with checkpoint_every 0, which writes none.",
    )


def _check_task(config: FinetuneConfig, problems: Problems) -> None:
    """What the task has no values or no classes for; a name that does not exist is told elsewhere."""
    if config.task not in TASKS:
        return
    options: dict[str, Any] = {}
    if config.select_options is not None:
        with suppress(UserError):  # told with the diet's options
            options = parse_options(config.select_options)
    problems.found += score_problems(config.score, config.task)
    problems.found += selector_problems(config.select, options, config.task)
    if config.offset == "auto":
        problems.found += one_class_problems("offset auto", config.task)


def _check_machine(config: FinetuneConfig, problems: Problems) -> None:
    """What this machine must have for it."""
    _collect(lambda: resolve_precision(config.precision, best_device()), problems)
    if config.lora and importlib.util.find_spec("peft") is None:
        problems.add("lora needs peft: pip install 'datadiet[peft]'")
    if config.energy and importlib.util.find_spec("codecarbon") is None:
        problems.add(MISSING)
    untyped: Any = integration_utils
    here = ["none", "all", *untyped.get_available_reporting_integrations()]
    if config.report_to not in here:
        named = config.report_to in TRACKERS
        more = f"To have it: pip install {config.report_to}." if named else f"More with: pip install {TRACKERS[0]}."
        allowed = f"allowed here: {', '.join(here)}. {more}"
        problems.add(f"report_to {config.report_to!r} is unknown or not installed; {allowed}")
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    problems.check(
        processes == 1,
        f"finetune runs in one process, not {processes}; for several use DietTrainer in a script of your own.",
    )


def _check_data(config: FinetuneConfig, problems: Problems) -> None:
    """Whether the data is there, where that can be told without a network, and the columns make sense."""
    if config.task in TASKS:
        problems.found += check_columns(columns_of(config), config.task).found

    def found() -> None:
        if Path(config.data).expanduser().exists() or hub_name(config.data) is None:
            find(config.data)

    if config.data.strip():
        _collect(found, problems)


def source_problems(config: FinetuneConfig, diet: Diet | None) -> list[str]:
    """What is wrong with the models, runs and files that a run learns from; nothing where they are as they must be."""
    problems = Problems()
    if config.teacher is not None:
        teacher = Path(config.teacher).expanduser()
        problems.check(
            (saved_model(teacher) / "config.json").is_file(),
            f"teacher must be a saved model or a run folder that holds one, got {config.teacher}.",
        )
    _check_scores_from(config, diet, problems)
    return problems.found


def _check_scores_from(config: FinetuneConfig, diet: Diet | None, problems: Problems) -> None:
    if config.scores_from is None:
        return
    source = Path(config.scores_from).expanduser()
    if source.is_file():
        _check_score_file(source, diet, problems)
        return
    try:
        read_manifest(source / layout.SCORES)
    except UserError as error:
        problems.add(f"scores_from must be a run folder, or a file of datadiet score: {error}")


def _check_score_file(source: Path, diet: Diet | None, problems: Problems) -> None:
    """Whether a score file has what the diet starts from."""
    if diet is None:
        return  # its own problems are told
    if diet.measure.kind == "dynamics" and not diet.in_batch:
        problems.add(
            f"the score {diet.measure.name!r} is made anew while training, from the first epoch on, so a score file "
            "cannot start it: leave scores_from out, or choose once with datadiet select."
        )
        return
    _collect(lambda: read_scores(source, scores=[wanted(diet)]), problems)


def _check_cache(config: FinetuneConfig, problems: Problems) -> None:
    """Only what would surely fail: a cache that cannot be used later costs time and nothing else."""
    if config.cache is not None:
        there = Path(config.cache).expanduser()
        wrong = not config.cache.strip() or (there.exists() and not there.is_dir())
        problems.check(not wrong, f"cache must be a folder, got {config.cache!r}.")


def _diet(config: FinetuneConfig, problems: Problems) -> Diet | None:
    history = _history(config, problems)
    settings = {name: getattr(config, name) for name in (*CHOICES, *PHASES)}
    settings["epsilon"] = config.epsilon if config.select == "epsilon" else None
    if config.offset is None and config.task not in ONE_CLASS:
        settings["offset"] = 0.0  # no class of its own for each example: nothing to guard by
    if config.select_options is not None:
        settings["select_options"] = _collect(lambda: parse_options(config.select_options or ""), problems)
    if config.score_options is not None:
        settings["score_options"] = _collect(
            lambda: parse_options(config.score_options or "", "score_options"), problems
        )
        of_file = config.scores_from is not None and Path(config.scores_from).expanduser().is_file()
        problems.check(not of_file, "score_options has no effect on values that a score file holds: leave it out.")
    made: str | History = "last" if history is None or config.history == "last" else history
    diet = _collect(lambda: Diet(**settings, history=made), problems)
    problems.found += schedule_problems(config)
    if diet is None:
        return None
    diet.measure = replace(diet.measure, history_name=config.history)
    if config.max_steps is not None:
        problems.check(diet.keep == 1.0, "max_steps goes with keep 1 only: the diet plans the steps itself.")
    return diet


def _history(config: FinetuneConfig, problems: Problems) -> History | None:
    problems.choice("history", config.history, HISTORIES)
    options = history_options(config)
    return _collect(lambda: HISTORIES[config.history](**options), problems) if config.history in HISTORIES else None


def history_options(config: FinetuneConfig) -> dict[str, float]:
    """The options of the config's history, by the names its function has for them."""
    if config.history == "ema":
        return {"alpha": config.history_alpha, "c": config.history_c}
    return {"window": config.history_window} if config.history == "mean" else {}


def _collect(check: Callable[[], Found], problems: Problems) -> Found | None:
    """Run a check of its own and put what it raises among the problems."""
    try:
        return check()
    except UserError as error:
        problems.include(error)
        return None


def check_with_data(config: FinetuneConfig, diet: Diet, data: Dataset) -> None:
    """Check whether the data has what a run's options ask for.

    Args:
        config: Checked by itself; see `datadiet.jobs.validate`.
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


def wanted(diet: Diet) -> str:
    """The score that a diet reads, where training does not make it."""
    return IRREDUCIBLE if diet.select == "top_reducible" else diet.measure.name


def lacking(diet: Diet, *, planned: bool = False) -> list[str]:
    """What a diet's score needs and is not given; nothing where it can be had.

    Args:
        diet: Of the run.
        planned: Whether what `scores_from` names is still to be made.
    """
    name, source = wanted(diet), _source(diet)
    if not _is_given(diet) or name in HERE or (source is not None and (planned or source.is_file())):
        return []
    if source is None or name not in GRADIENT_SCORES:
        how = "write it with datadiet score, and give that file as scores_from"
        return [f"{name!r} is not made while training: {how}."]
    steps = len(checkpoints_of(source))
    if steps >= 2 or name == "grand" or not source.is_dir():
        return []
    return [f"{name} needs at least two checkpoints, and {source} has {steps}: train it with --keep-checkpoints."]


def _is_given(diet: Diet) -> bool:
    return diet.measure.kind == "given" or diet.select == "top_reducible"


def _source(diet: Diet) -> Path | None:
    return None if diet.scores_from is None else Path(diet.scores_from).expanduser()
