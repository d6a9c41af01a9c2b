"""Everything about a scoring job that can be checked before anything is trained or passed through a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datadiet.config import FinetuneConfig, read_config, task_missing
from datadiet.errors import ArgumentError, DataError, Problems, UserError
from datadiet.jobs.score_config import BASE_MODEL, PASSES, READING, TRAINING, ScoreConfig
from datadiet.jobs.validate import check_config
from datadiet.registry import find, lacks, load, names, parse_call, problems_of
from datadiet.scoring.dataset import check_needs, needs_of
from datadiet.store import run_folder as layout
from datadiet.store.dynamics import read_rounds
from datadiet.store.run_folder import checkpoints_of, saved_model
from datadiet.store.score_file import check_target
from datadiet.store.tables import MANIFEST
from datadiet.tasks.loading import resolve_model
from datadiet.types import Json

# scores that come from models that have not seen the row; of the first also from such that have seen no text
CROSS_FITTED = tuple(dict.fromkeys((*names("score", need="null"), *names("score", need="holdout"))))
Columns = Mapping[str, NDArray[np.float32]]
_ANY_MODEL = "datadiet/none"  # a name that nothing is loaded from


def run_of(given: Path) -> Path | None:
    """The run folder that a model belongs to: itself, or the one around its model/; None for other saved models."""
    around = given.resolve().parent
    for folder in (given, around) if given.resolve().name == layout.MODEL else (given,):
        if (folder / layout.RESULT).is_file():
            return folder
    return None


def name_of(given: Path | str) -> str:
    """What a model is called in a score file: its run, its own folder, or its hub name; never a path."""
    folder = Path(given).expanduser()
    if not folder.is_dir():
        return str(given)
    return (run_of(folder) or folder).resolve().name


def result_of(given: Path) -> Json | None:
    """The result of the run that a model belongs to; None where it has none, or one that cannot be read."""
    run = run_of(given)
    try:
        return None if run is None else layout.read_result(run)
    except UserError:
        return None


def max_length_of(given: Path) -> int:
    """The tokens that a model's run has cut its texts to; the usual number where there is no run."""
    run = run_of(given)
    try:
        return FinetuneConfig.max_length if run is None else read_config(run / layout.CONFIG).max_length
    except UserError:
        return FinetuneConfig.max_length


def steps_of(given: Path) -> list[Path]:
    """The kept checkpoints of a model's run, in order."""
    run = run_of(given)
    return [] if run is None else checkpoints_of(run)


def has_history(given: Path) -> bool:
    """Whether a model's run has kept its score history."""
    run = run_of(given)
    return run is not None and (run / layout.SCORES / MANIFEST).is_file()


def history_of(given: Path, ids: Sequence[str], fingerprint: str) -> Columns:
    """What a run has recorded of every training row, float32 `(rounds, n)` by column.

    Args:
        given: The run folder, or its model/.
        ids: Of the training rows, in order.
        fingerprint: Of the data.

    Raises:
        DataError: If the run saw other data, other ids, or has let rows rest from its first epoch to its last.
    """
    run, result = run_of(given), result_of(given)
    assert run is not None  # `has_history` has seen it
    trained = (result or {}).get("data", {}).get("fingerprint")
    if trained is not None and trained != fingerprint:
        raise DataError(
            f"the run {run} was trained on other data (fingerprint {trained}, the data here {fingerprint}), so its "
            "training dynamics are of other examples. Give its own data, read in the same way, or leave them out."
        )
    rounds = read_rounds(run)
    names = [str(key) for key in ids]
    if len(rounds.ids) != len(names):
        raise DataError(f"the run {run} has values of {len(rounds.ids)} rows, the data has {len(names)}.")
    pairs = zip(rounds.ids, names, strict=True)
    if other := [(theirs, ours) for theirs, ours in pairs if theirs is not None and theirs != ours]:
        theirs, ours = other[0]
        raise DataError(
            f"{len(other)} ids of the run {run} are not those of the data, the first {theirs!r}, not {ours!r}."
        )
    never = [name for name, held in zip(names, rounds.ids, strict=True) if held is None]
    if never:
        raise DataError(
            f"the run {run} has never seen {len(never)} of {len(names)} training rows, the first with the id "
            f"{never[0]!r}, so they have no training dynamics: train it with --keep 1."
        )
    return rounds.columns


def readable(columns: Columns) -> list[str]:
    """The scores of training dynamics that a history can give for every row.

    Example:
        >>> readable({"correct": np.float32([[1, 0], [np.nan, 1]])})
        ['correctness', 'forgetting']
    """
    return [
        name
        for name in names("score", need="history")
        if all(column in columns and _complete(columns[column]) for column in load("score", name).streaming.columns)
    ]


def _complete(table: NDArray[np.float32]) -> bool:
    """Whether every row has a finite value in some round."""
    return bool(np.isfinite(table).any(0).all())


def check_job(config: ScoreConfig) -> None:
    """Refuse what cannot be done.

    Raises:
        ArgumentError: All problems at once.
    """
    problems = Problems()
    _check_output(config, problems)
    _check_models(config, problems)
    _check_options(config, problems)
    try:
        calls = options_of(config)
    except UserError as error:
        raise ArgumentError(*problems.found, *error.problems) from None
    names = list(calls)
    _check_folds(config, names, problems)
    problems.check(bool(names), "--scores is empty: name at least one score, such as el2n.")
    for name, options in calls.items():
        problems.found += problems_of("score", name, options, config.task)
    try:
        check_needs(names, there(config))
    except UserError as error:
        problems.include(error)
    _check_task(config, names, problems)
    problems.found = list(dict.fromkeys(problems.found))
    problems.raise_any()


def asked(config: ScoreConfig) -> Sequence[str]:
    """The names of the requested scores; by default without a run's dynamics, which are looked up later."""
    return tuple(options_of(config))


def options_of(config: ScoreConfig) -> dict[str, dict[str, Any]]:
    """The requested scores, each with its options.

    Raises:
        ArgumentError: For text of another form.
    """
    return dict(map(parse_call, ("el2n",) if config.scores is None else config.scores))


def trains_on_everything(config: ScoreConfig) -> bool:
    """Whether `epochs` train a model on everything first; not where what is asked for needs the folds alone."""
    if config.epochs is None or config.model is not None:
        return False
    needed = {need for name in asked(config) for need in needs_of(name)}
    embeds = "encoder" in needed and config.encoder is None
    return config.folds is None or embeds or bool(needed & {"model", "history", "checkpoints"})


def there(config: ScoreConfig) -> list[str]:
    """The fields of `ScoringInputs` that there will be."""
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
    problems.check(bool(config.task), task_missing())
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
    if config.probabilities and task is not None and find("task", task) is not None:
        problems.found += lacks("--probabilities", "one_class", task)
    if config.probabilities and "model" not in there(config):
        problems.add("--probabilities needs a model that is trained: --model RUN, or --epochs E to train one first.")
    steps = config.epochs if config.model is None else len(steps_of(config.model))
    if "vog" in names and steps == 1:
        problems.add("the score vog needs at least two checkpoints, there is one: --epochs 2, or more.")
