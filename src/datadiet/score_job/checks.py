"""Everything about a scoring job that can be checked before anything is trained or passed through a model, at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from datadiet.checks import Problems, UserError
from datadiet.config import FinetuneConfig
from datadiet.config_checks import check_config
from datadiet.data.records import TASKS
from datadiet.diet.select_options import parse_options
from datadiet.dynamic_scores import DYNAMIC_SCORES
from datadiet.models import resolve_model
from datadiet.run_folder import saved_model
from datadiet.score_file import check_target
from datadiet.score_job.sources import has_history, max_length_of, steps_of
from datadiet.score_job.wanted import BASE_MODEL, CROSS_FITTED, PASSES, READING, TRAINING, ScoreConfig
from datadiet.score_options import by_score
from datadiet.suitable import one_class_problems, score_problems
from datadiet.whole_set import NEEDS, check_needs

_ANY_MODEL = "datadiet/none"  # a name that nothing is loaded from


def check_job(config: ScoreConfig) -> None:
    """Refuse what cannot be done.

    Raises:
        ArgumentError: All problems at once.
    """
    problems = Problems()
    _check_output(config, problems)
    _check_models(config, problems)
    _check_options(config, problems)
    names = asked(config)
    _check_folds(config, names, problems)
    problems.check(bool(names), "--scores is empty: name at least one score, such as el2n.")
    try:
        check_needs(dict.fromkeys(names), there(config))
    except UserError as error:
        problems.include(error)
    try:
        options_of(config)
    except UserError as error:
        problems.include(error)
    _check_task(config, names, problems)
    problems.found = list(dict.fromkeys(problems.found))
    problems.raise_any()


def asked(config: ScoreConfig) -> Sequence[str]:
    """The scores that were asked for; a run's dynamics, which are looked up later, are not among the default ones."""
    return ("el2n",) if config.scores is None else tuple(dict.fromkeys(config.scores))


def options_of(config: ScoreConfig) -> dict[str, dict[str, Any]]:
    """The options of the scores, by score.

    Raises:
        ArgumentError: For all that a score does not have, or that is out of range.
    """
    given = config.score_options or {}
    read = parse_options(given, "score_options") if isinstance(given, str) else given
    problems = Problems()
    names = [*asked(config), *(DYNAMIC_SCORES if config.scores is None else ())]
    found, problems.found = by_score(read, names)
    problems.raise_any()
    return found


def trains_on_everything(config: ScoreConfig) -> bool:
    """Whether `epochs` train a model on everything first; not where what is asked for needs the folds alone."""
    if config.epochs is None or config.model is not None:
        return False
    needed = {need for name in asked(config) for need in NEEDS.get(name, ())}
    embeds = "encoder" in needed and config.encoder is None
    return config.folds is None or embeds or bool(needed & {"model", "history", "checkpoints"})


def there(config: ScoreConfig) -> list[str]:
    """The fields of `Material` that there will be."""
    trains, model = config.epochs is not None, config.model
    folds = trains and config.folds is not None
    found = {
        "texts": True,
        "dev": True,
        "model": trains or model is not None,
        "encoder": trains or model is not None or config.encoder is not None,
        "history": trains or (model is not None and has_history(model)),
        "checkpoints": trains or (model is not None and bool(steps_of(model))),
        "teacher": config.teacher is not None,
        "holdout": config.holdout is not None or folds,
        "null": folds,
    }
    return [name for name, held in found.items() if held]


def _check_output(config: ScoreConfig, problems: Problems) -> None:
    if config.output is not None:
        try:
            check_target(config.output, force=config.force)
        except UserError as error:
            problems.include(error)


def _check_models(config: ScoreConfig, problems: Problems) -> None:
    """Whether every model that is named is there, and none is named for nothing."""
    both = config.model is not None and config.epochs is not None and config.folds is None
    problems.check(not both, "--model is trained already and --epochs trains one: give one of them.")
    for flag, folder in (("--model", config.model), ("--teacher", config.teacher), ("--holdout", config.holdout)):
        if folder is not None and not (saved_model(folder) / "config.json").is_file():
            hint = f" To train one first: --base-model {folder} --epochs 3." if flag == "--model" else ""
            problems.add(f"{flag} must be a saved model or a run folder that holds one, got {folder}.{hint}")
    if config.encoder is not None:
        try:
            resolve_model(config.encoder)
        except UserError as error:
            problems.found += [f"--encoder: {problem}" for problem in error.problems]
    if config.epochs is None:
        named = {
            "--base-model": config.base_model,
            "--run": config.run,
            "--learning-rate": config.options.get("learning_rate"),
        }
        for flag, value in named.items():
            problems.check(value is None, f"{flag} has no effect without --epochs, which trains a model first.")


def _check_folds(config: ScoreConfig, names: Sequence[str], problems: Problems) -> None:
    """Whether there is something to cross-fit, and only then; what is wrong with the rows shows when they are read."""
    if config.folds is None:
        return
    problems.whole("folds", config.folds, least=2)
    problems.check(config.epochs is not None, "--folds needs --epochs E: how long the models of each fold train.")
    wanted = [name for name in names if name in CROSS_FITTED] + ["--probabilities"] * config.probabilities
    if not wanted:
        known = f"{', '.join(CROSS_FITTED)} and --probabilities"
        problems.add(f"--folds has no effect: what is asked for needs no models that have not seen a row; {known} do.")
    losses = [name for name in wanted if name in ("irreducible_loss", "reducible_loss")]
    if losses and config.holdout is not None:
        problems.add(f"--holdout and --folds both give the losses of {' and '.join(losses)}: give one of them.")
    if config.run is not None and config.epochs is not None and not trains_on_everything(config):
        problems.add("--run has no effect: only the models of the folds are trained, which are not kept.")


def _check_options(config: ScoreConfig, problems: Problems) -> None:
    """What a training run would check: the data, the columns, numbers, and the folder of the run."""
    problems.check(bool(config.data), "DATA is missing: a folder, a saved datasets folder, a hub name, or snips.")
    problems.check(bool(config.task), f"--task is missing: {', '.join(TASKS[:-1])} or {TASKS[-1]}.")
    allowed = (*READING, *PASSES, *TRAINING)
    for name in config.options:
        problems.choice("option", name, allowed)
    config = replace(config, options={name: value for name, value in config.options.items() if name in allowed})
    trains = config.epochs is not None
    model = (config.base_model or BASE_MODEL) if trains else _ANY_MODEL
    try:
        check_config(config.training(config.run or Path("run"), model, max_length(config)), resume=config.run is None)
    except UserError as error:
        empty = ("data is empty.", "unknown task ''")  # told above
        problems.found += [problem for problem in error.problems if not problem.startswith(empty)]


def max_length(config: ScoreConfig) -> int:
    """Tokens per text: those asked for, else those of the model's run."""
    if config.max_length is not None:
        return config.max_length
    return FinetuneConfig.max_length if config.model is None else max_length_of(config.model)


def _check_task(config: ScoreConfig, names: Sequence[str], problems: Problems) -> None:
    """Scores that there are not for every task, and numbers of checkpoints."""
    task = config.task
    if task in TASKS:
        for name in names:
            problems.found += score_problems(name, task)
        if config.probabilities:
            problems.found += one_class_problems("--probabilities", task)
    if config.probabilities and "model" not in there(config):
        problems.add("--probabilities needs a model that is trained: --model RUN, or --epochs E to train one first.")
    steps = config.epochs if config.model is None else len(steps_of(config.model))
    if "vog" in names and steps == 1:
        problems.add("the score vog needs at least two checkpoints, there is one: --epochs 2, or more.")


__all__ = ["NEEDS", "asked", "check_job", "max_length", "options_of", "there", "trains_on_everything"]
