"""Everything about a config that can be checked before the data is read, all of it at once.

Everything about a config that follows from its data alone: no model is loaded, and no text tokenised.
"""

from __future__ import annotations

import importlib.util
import math
import os
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from transformers.integrations import integration_utils

from datadiet import registry
from datadiet.config import AUTO, FinetuneConfig, diet_config, option_problems, task_problems, well_typed
from datadiet.data.columns import check_columns
from datadiet.data.load import columns_of
from datadiet.data.schema import Dataset, Examples
from datadiet.data.sources import find as find_data
from datadiet.data.sources import hub_name
from datadiet.diet.choose import rehearse as choose_once
from datadiet.diet.diet import Diet
from datadiet.diet.forecast import schedule_problems
from datadiet.errors import ArgumentError, DataError, Problems, UserError, quoted
from datadiet.registry import check_rows, find, has, lacks, parse_call
from datadiet.store import run_folder as layout
from datadiet.store.run_folder import checkpoints_of, saved_model, tokenizer_problems
from datadiet.store.score_file import read_scores
from datadiet.store.tables import read_manifest
from datadiet.tasks.loading import is_weightless, resolve_model
from datadiet.training.arguments import BY_SHARE
from datadiet.training.machine import MISSING, best_device, resolve_precision

IRREDUCIBLE = "irreducible_loss"  # the column of a score file that `top_reducible` reads

TRACKERS = ("tensorboard", "wandb", "trackio", "mlflow")  # whose packages have their names
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
    problems.found += option_problems(config) + task_problems(config)
    for name in ("data", "output", "model"):
        problems.check(bool(getattr(config, name).strip()), f"{name} is empty.")
    _check_no_effect(config, problems)
    _check_machine(config, problems)
    _check_data(config, problems)
    diet = _diet(config, problems)
    if diet is not None:
        problems.found += lacking(diet, planned=resume)
    _collect(lambda: resolve_model(config.model), problems)
    if not resume:
        problems.found += source_problems(config, diet)
        _collect(lambda: layout.check_new(output_folder(config)), problems)
        _check_cache(config, problems)
    problems.found = list(dict.fromkeys(problems.found))  # a part of the run checks its own options too
    problems.raise_any()
    assert diet is not None
    return diet


def output_folder(config: FinetuneConfig) -> Path:
    """The run folder; a YAML file has no shell to expand its `~`."""
    return Path(config.output).expanduser()


def _check_no_effect(config: FinetuneConfig, problems: Problems) -> None:
    """Refuse options that would do nothing, or that exclude one another."""
    if config.teacher is None:
        idle = config.teacher_temperature != FinetuneConfig.teacher_temperature
        problems.check(not idle, "teacher_temperature has no effect without a teacher.")
    weighs = config.dedupe_weights and not config.dedupe
    problems.check(not weighs, "dedupe_weights has no effect without dedupe, which keeps one row of each text.")
    if config.epochs == AUTO:
        problems.check(
            not config.early_stopping,
            f"early_stopping must be 0 with epochs auto, got {config.early_stopping}. It is a rule of its own for the "
            "same end: leave it out, or give the number of epochs.",
        )
        problems.check(
            config.checkpoint_every == 1,
            f"checkpoint_every must be 1 with epochs auto, got {config.checkpoint_every}. The best weights are those "
            "of some epoch.",
        )
    problems.check(
        not config.early_stopping or config.checkpoint_every == 1,
        "early_stopping needs a checkpoint of every epoch, for the best weights: checkpoint_every must be 1.",
    )
    problems.check(
        not config.keep_checkpoints or config.checkpoint_every != 0,
        "keep_checkpoints has no effect with checkpoint_every 0, which writes none.",
    )


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
        problems.add(f"report_to {quoted(config.report_to)} is unknown or not installed; {allowed}")
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    problems.check(
        processes == 1,
        f"finetune runs in one process, not {processes}; for several use DietTrainer in a script of your own.",
    )


def _check_data(config: FinetuneConfig, problems: Problems) -> None:
    """Whether the data is there, where that can be told without a network, and the columns make sense."""
    if find("task", config.task) is not None:
        problems.found += check_columns(columns_of(config), config.task).found

    def check() -> None:
        if Path(config.data).expanduser().exists() or hub_name(config.data) is None:
            find_data(config.data)

    if config.data.strip():
        _collect(check, problems)


def source_problems(config: FinetuneConfig, diet: Diet | None) -> list[str]:
    """What is wrong with the models, runs and files that a run learns from; nothing where they are as they must be."""
    problems = Problems()
    if config.teacher is not None:
        teacher = Path(config.teacher).expanduser()
        problems.check(
            (saved_model(teacher) / "config.json").is_file(),
            f"teacher must be a saved model or a run folder that holds one, got {config.teacher}.",
        )
        problems.found += tokenizer_problems("teacher", teacher)
    _check_reference(config, diet, problems)
    _check_scores_from(config, diet, problems)
    return problems.found


def _check_reference(config: FinetuneConfig, diet: Diet | None, problems: Problems) -> None:
    """Whether there is a reference where the token rule needs one, and only there."""
    if diet is None:
        return
    rule = diet.options.token_rule()
    needed = rule is not None and "reference" in rule.needs
    if config.reference is None:
        problems.check(
            not needed,
            f"tokens {config.tokens} compares with a reference model: name one with the same tokenizer by --reference "
            "MODEL.",
        )
    elif not needed:
        problems.add("reference has no effect without a token rule that compares with it: --tokens excess.")
    else:
        _collect(lambda: reference_source(config), problems)


def reference_source(config: FinetuneConfig) -> str:
    """Where the reference of a token rule is loaded from.

    Raises:
        UserError: If there is none there, or it is the model that trains.
    """
    given = (config.reference or "").strip()
    if not given:
        raise ArgumentError("reference must be a model's name, its folder or a run folder, got an empty text.")
    folder = saved_model(Path(given).expanduser())
    try:
        found = resolve_model(str(folder) if folder.is_dir() else given)
    except DataError as error:
        raise ArgumentError(f"reference must be a model's name, its folder or a run folder: {error}") from error
    if lacking := tokenizer_problems("reference", folder):
        raise ArgumentError(*lacking)
    if is_weightless(found):
        raise ArgumentError(f"reference must be a trained model, got {given}, which holds a config and no weights.")
    if found == resolve_model(config.model):
        raise ArgumentError(
            f"reference must be another model than the one that trains, got {given} for both: the rule looks for what "
            "a better model finds easier."
        )
    return found


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
    if diet.options.score.kind == "dynamics" and not diet.options.in_batch:
        problems.add(
            f"the score {diet.options.score.name!r} is made anew while training, from the first epoch on, so a "
            "score file cannot start it: leave scores_from out, or choose once with datadiet select."
        )
        return
    _collect(lambda: read_scores(source, scores=[given_score(diet)]), problems)


def _check_cache(config: FinetuneConfig, problems: Problems) -> None:
    """Only what would surely fail: a cache that cannot be used later costs time and nothing else."""
    if config.cache is not None:
        there = Path(config.cache).expanduser()
        wrong = not config.cache.strip() or (there.exists() and not there.is_dir())
        problems.check(not wrong, f"cache must be a folder, got {quoted(config.cache)}.")


def _diet(config: FinetuneConfig, problems: Problems) -> Diet | None:
    """The diet of a config; what is wrong with its options is noted, and None returned."""
    task_exists = find("task", config.task) is not None
    # where no example has one class of its own there is nothing to guard by
    changes: dict[str, Any] = {}
    if config.offset is None and not has(config.task, "one_class"):
        changes["offset"] = 0.0
    if config.combine is None and has(config.task, "answers"):
        changes["combine"] = "mean"  # a long answer is not hard for its length alone
    diet = _collect(lambda: Diet(diet_config(config, **changes)), problems)
    problems.found += schedule_problems(config)
    for kind, value in (("score", config.score), ("select", config.select)):
        name, options = _collect(partial(parse_call, str(value)), Problems()) or ("", {})
        kinds = registry.SELECT_KINDS if kind == "select" else (kind,)
        method = next((found for one in kinds if (found := find(one, name)) is not None), None)
        if task_exists and method is not None:
            problems.found += registry.task_problems(method, options, config.task)
        if kind == "score" and options and config.scores_from is not None:
            of_file = Path(config.scores_from).expanduser().is_file()
            problems.check(not of_file, f"options of the score {name} have no effect on the values of a score file.")
    if config.offset == "auto" and task_exists and not has(config.task, "words"):
        hint = f" {BY_SHARE}" if has(config.task, "answers") else ""
        problems.found += [problem + hint for problem in lacks("offset auto", "one_class", config.task)]
    if diet is not None and config.max_steps is not None:
        problems.check(diet.options.keep == 1.0, "max_steps goes with keep 1 only: the diet plans the steps itself.")
    return diet


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
    rows, batch, options = len(train), examples_per_step(config), diet.options
    numbered = _collect(lambda: options.numbered(data.label_names), problems)

    def rehearse() -> None:
        schedule = options.schedule(rows, epochs=config.planned_epochs, batch=batch)
        options.check_floor(class_sizes(train), schedule)
        if numbered is not None:
            choose_once(numbered, rows, schedule, _groups(train, data.label_names))

    _collect(rehearse, problems)
    _collect(lambda: check_rows("score", {options.score.name: options.score_options}, rows), problems)
    there = config.planned_epochs * math.ceil(rows / batch)
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

    Examples:
        >>> class_sizes(Examples(ids=("a", "b"), texts=("x", "y"), labels=(("new", "red"), ())))
        {'new, red': 1, 'no label': 1}
    """
    names = (", ".join(label) or "no label" if isinstance(label, tuple) else str(label) for label in train.labels or ())
    return dict(Counter(names))


def examples_per_step(config: FinetuneConfig) -> int:
    """Examples of one optimizer step; the Trainer gives every GPU of a process a batch."""
    devices = torch.cuda.device_count() if best_device().type == "cuda" else 1
    return config.batch_size * config.gradient_accumulation * max(1, devices)


def given_score(diet: Diet) -> str:
    """The score that a diet reads, where training does not make it."""
    return IRREDUCIBLE if diet.options.select == "top_reducible" else diet.options.score.name


def lacking(diet: Diet, *, planned: bool = False) -> list[str]:
    """What a diet's score needs and is not given; nothing where it can be made.

    Args:
        diet: Of the run.
        planned: Whether what `scores_from` names is still to be made.
    """
    name, source = given_score(diet), source_of(diet)
    method = find("score", name)
    needs = set() if method is None else set(method.needs)
    # texts and the model that a run starts from are there
    if not is_given(diet) or needs <= {"texts", "encoder"} or (source is not None and (planned or source.is_file())):
        return []
    if source is None or not is_of_gradients(name):
        how = "write it with datadiet score, and give that file as scores_from"
        return [f"{quoted(name)} is not made while training: {how}."]
    steps = len(checkpoints_of(source))
    if steps >= 2 or "checkpoints" not in needs or not source.is_dir():
        return []
    return [f"{name} needs at least two checkpoints, and {source} has {steps}: train it with --keep-checkpoints."]


def is_of_gradients(score: str) -> bool:
    """Whether a score is made of backward passes of a saved run."""
    method = find("score", score)
    return method is not None and method.where.startswith("datadiet.scoring.")


def is_given(diet: Diet) -> bool:
    """Whether the values of a diet are there before the training."""
    return diet.options.score.kind == "given" or diet.options.select == "top_reducible"


def source_of(diet: Diet) -> Path | None:
    """The run folder or score file that a diet starts from."""
    source = diet.options.config.scores_from
    return None if source is None else Path(source).expanduser()
