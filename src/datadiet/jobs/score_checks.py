"""What a scoring job has to work with, and every check of it before anything is trained or passed through a model.

The first half reads what a saved model and the run around it offer: results, checkpoints, a score history.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from datadiet.config import option_problems, read_config, task_missing, usual_length
from datadiet.errors import ArgumentError, DataError, Problems, UserError, quoted
from datadiet.files import input_problems
from datadiet.jobs.score_config import CORPUS, CROSS_FITTED, RUN_FLAGS, ScoreConfig, score_options_hint
from datadiet.jobs.validate import check_config
from datadiet.registry import find, lacks, load, missing_options, names, problems_of
from datadiet.scoring.inputs import check_needs, needs_of
from datadiet.store import run_folder as layout
from datadiet.store.dynamics import read_rounds
from datadiet.store.run_folder import checkpoints_of, saved_model, tokenizer_problems
from datadiet.store.score_file import check_target
from datadiet.tasks.base import Task
from datadiet.tasks.loading import resolve_model
from datadiet.types import Json

Columns = Mapping[str, NDArray[np.float32]]
_ANY_MODEL = "datadiet/none"  # a name that nothing is loaded from


# ---- a saved model and its run


def run_of(model: Path) -> Path | None:
    """The run folder that a model belongs to: itself, or the one around its model/; None for other saved models."""
    around = model.resolve().parent
    for folder in (model, around) if model.resolve().name == layout.MODEL else (model,):
        if (folder / layout.RESULT).is_file():
            return folder
    return None


def name_of(model: Path | str) -> str:
    """The name of a model in a score file: its run, its own folder, or its hub name; never a path."""
    folder = Path(model).expanduser()
    if not folder.is_dir():
        return str(model)
    return (run_of(folder) or folder).resolve().name


def result_of(model: Path) -> Json | None:
    """The result of the run that a model belongs to; None where it has none, or one that cannot be read."""
    run = run_of(model)
    try:
        return None if run is None else layout.checked_result(run)
    except UserError:
        return None


def trained_length(model: Path, task: str | None = None) -> int:
    """Tokens per text in the run of a model; the default of the task where there is no run."""
    run = run_of(model)
    try:
        return usual_length(task) if run is None else read_config(run / layout.CONFIG).length
    except UserError:
        return usual_length(task)


def run_checkpoints(model: Path) -> list[Path]:
    """The kept checkpoints of a model's run, in order."""
    run = run_of(model)
    return [] if run is None else checkpoints_of(run)


def checkpoint_figures(model: Path, metric: str) -> list[float] | None:
    """The dev metric of each kept checkpoint of a model's run, larger = better; None where one of them has none.

    Args:
        model: The run folder, or its model/.
        metric: The main metric of the task.
    """
    done, figures = 0, {}
    for line in (result_of(model) or {}).get("epochs", []):
        done += line["steps"]
        figures[f"checkpoint-{done}"] = (line["dev"] or {}).get(metric)
    kept = [figures.get(folder.name) for folder in run_checkpoints(model)]
    found = [figure for figure in kept if figure is not None]
    return found if len(found) == len(kept) and len(set(found)) > 1 else None


def vocabulary_problems(task: Task, source: str, teacher: Path) -> list[str]:
    """Why two language models cannot be compared token by token; nothing where they can.

    Args:
        task: Of the data.
        source: The model, as its tokenizer is loaded.
        teacher: A saved model or a run folder.
    """
    ours, theirs = (task.load_tokenizer(name).get_vocab() for name in (source, str(saved_model(teacher))))
    if ours == theirs:
        return []
    strange = sorted(ours.items() ^ theirs.items())[0][0]
    return [
        f"--teacher must have the tokens of the model, got {teacher} with {len(theirs):,} for {len(ours):,} "
        f"({quoted(strange)} is not in both, or has another number): they are compared token by token."
    ]


def has_history(model: Path) -> bool:
    """Whether a model's run has kept its score history."""
    run = run_of(model)
    return run is not None and (run / layout.SCORES / layout.MANIFEST).is_file()


def history_of(model: Path, ids: Sequence[str], fingerprint: str) -> Columns:
    """The score history of a run, float32 `(rounds, n)` by column.

    Args:
        model: The run folder, or its model/.
        ids: Of the training rows, in order.
        fingerprint: Of the data.

    Raises:
        DataError: If the run saw other data, other ids, or never saw some of the rows.
    """
    run, result = run_of(model), result_of(model)
    assert run is not None  # the caller has checked `has_history`
    trained = (result or {}).get("data", {}).get("fingerprint")
    if trained is not None and trained != fingerprint:
        raise DataError(
            f"the run {run} was trained on other data (fingerprint {trained}, the data here {fingerprint}), so its "
            "training dynamics are of other examples. Give its own data, read in the same way, or leave them out."
        )
    rounds = read_rounds(run)
    own = [str(key) for key in ids]
    if len(rounds.ids) != len(own):
        raise DataError(f"the run {run} has values of {len(rounds.ids)} rows, the data has {len(own)}.")
    pairs = zip(rounds.ids, own, strict=True)
    if differing := [(theirs, ours) for theirs, ours in pairs if theirs is not None and theirs != ours]:
        theirs, ours = differing[0]
        raise DataError(
            f"{len(differing)} ids of the run {run} are not those of the data, the first {quoted(theirs)}, "
            f"not {quoted(ours)}."
        )
    unseen = [ours for ours, theirs in zip(own, rounds.ids, strict=True) if theirs is None]
    if unseen:
        raise DataError(
            f"the run {run} has never seen {len(unseen)} of {len(own)} training rows, the first with the id "
            f"{quoted(unseen[0])}, so they have no training dynamics: train it with --keep 1."
        )
    return rounds.columns


def dynamics_of(columns: Columns) -> list[str]:
    """The scores of training dynamics that a history gives for every row.

    Examples:
        >>> dynamics_of({"correct": np.float32([[1, 0], [np.nan, 1]])})
        ['correctness', 'forgetting']
    """
    complete = {name for name, table in columns.items() if np.isfinite(table).any(0).all()}
    return [name for name in names("score", need="history") if set(load("score", name).streaming.columns) <= complete]


# ---- the checks


def inputs_of(config: ScoreConfig) -> dict[str, str | Path | None]:
    """What a job reads beside the data, by option: a score file may not take its place."""
    names = ("queries", "model", "teacher", "holdout", "encoder", "base_model")
    return {f"--{name.replace('_', '-')}": getattr(config, name) for name in names}


def check_job(config: ScoreConfig) -> None:
    """Refuse a job that cannot be done.

    Raises:
        ArgumentError: All problems at once.
    """
    problems = Problems()
    if config.output is not None:
        try:
            check_target(config.output, force=config.force)
        except UserError as error:
            problems.include(error)
        read = {"--data": config.data, **inputs_of(config)}
        problems.found += input_problems(config.output, read)
    problems.found += corpus_option_problems(config)
    _check_models(config, problems)
    _check_options(config, problems)
    try:
        calls = config.calls()
    except UserError as error:
        raise ArgumentError(*problems.found, *error.problems) from None
    problems.check(bool(calls), "--scores is empty: name at least one score, such as el2n.")
    _check_folds(config, list(calls), problems)
    for name, options in calls.items():
        problems.found += problems_of("score", name, options, config.task) + missing_options("score", name, options)
    try:
        check_needs(calls, available(config))
    except UserError as error:
        problems.include(error)
    _check_queries(config, list(calls), problems)
    _check_task(config, list(calls), problems)
    problems.found = list(dict.fromkeys(problems.found))
    problems.raise_any()


def trains_on_everything(config: ScoreConfig) -> bool:
    """Whether `epochs` train a model on everything first; not where the requested scores need the folds alone."""
    if config.epochs is None or config.model is not None:
        return False
    needs = {need for name in config.calls() for need in needs_of(name)}
    embeds = "encoder" in needs and config.encoder is None
    return config.folds is None or embeds or bool(needs & {"model", "history", "checkpoints"})


def available(config: ScoreConfig) -> list[str]:
    """The inputs that the job will have; keys of `registry.NEEDS`."""
    trains, model = config.epochs is not None, config.model
    folds = trains and config.folds is not None
    inputs = {
        "texts": True,
        "columns": True,
        "queries": config.queries is not None,
        "dev": True,
        "model": trains or model is not None,
        "encoder": trains or model is not None or config.encoder is not None,
        "history": trains or (model is not None and has_history(model)),
        "checkpoints": trains or (model is not None and bool(run_checkpoints(model))),
        "teacher": config.teacher is not None,
        "holdout": config.holdout is not None or folds,
        "null": folds,
    }
    return [name for name, holds in inputs.items() if holds]


def text_length(config: ScoreConfig) -> int:
    """Tokens per text: as requested, else those of the model's run."""
    if config.max_length is not None:
        return config.max_length
    return usual_length(config.task) if config.model is None else trained_length(config.model, config.task)


def corpus_option_problems(config: ScoreConfig) -> list[str]:
    """Options of a corpus that were given for a score file."""
    options = {item.name: item for item in fields(config) if "option" in item.metadata}
    own = [name for name, item in options.items() if item.metadata["option"].panel == CORPUS]
    given = [name for name in own if getattr(config, name) != options[name].default]
    flags = ", ".join(f"--{name.replace('_', '-')}" for name in given)
    verb = "has" if len(given) == 1 else "have"
    return [f"{flags} {verb} no effect on a score file: give a folder as --output."] if given else []


def _check_models(config: ScoreConfig, problems: Problems) -> None:
    """Whether every named model exists, and each has a purpose."""
    both = config.model is not None and config.epochs is not None and config.folds is None
    problems.check(not both, "--model is trained already and --epochs trains one: give one of them.")
    for flag, folder in (("--model", config.model), ("--teacher", config.teacher), ("--holdout", config.holdout)):
        if folder is not None and not (saved_model(folder) / "config.json").is_file():
            hint = f" To train one first: --base-model {folder} --epochs 3." if flag == "--model" else ""
            problems.add(f"{flag} must be a saved model or a run folder that holds one, got {folder}.{hint}")
        elif folder is not None:
            problems.found += tokenizer_problems(flag, folder)
    if config.encoder is not None:
        problems.found += tokenizer_problems("--encoder", Path(config.encoder).expanduser())
        try:
            resolve_model(config.encoder)
        except UserError as error:
            problems.found += [f"--encoder: {problem}" for problem in error.problems]
    if config.epochs is None:
        idle = {
            "--base-model": config.base_model,
            "--run": config.run,
            "--learning-rate": config.options.get("learning_rate"),
        }
        for flag, value in idle.items():
            problems.check(value is None, f"{flag} has no effect without --epochs, which trains a model first.")


def _check_folds(config: ScoreConfig, scores: Sequence[str], problems: Problems) -> None:
    """Whether there is something to cross-fit, and only then; the rows are checked when they are read."""
    if config.folds is None:
        return
    problems.check(config.epochs is not None, "--folds needs --epochs E: how long the models of each fold train.")
    crossed = [name for name in scores if name in CROSS_FITTED]
    if not crossed and not config.probabilities:
        allowed = f"{', '.join(CROSS_FITTED)} and --probabilities"
        problems.add(f"--folds has no effect: no requested score needs models that have not seen a row; {allowed} do.")
    losses = [name for name in crossed if "holdout" in needs_of(name)]
    if losses and config.holdout is not None:
        problems.add(f"--holdout and --folds both give the losses of {' and '.join(losses)}: give one of them.")
    if config.run is not None and config.epochs is not None and not trains_on_everything(config):
        problems.add("--run has no effect: only the models of the folds are trained, which are not kept.")


def _check_queries(config: ScoreConfig, scores: Sequence[str], problems: Problems) -> None:
    """Whether a score reads the queries, and only then; they are read with the data."""
    readers = names("score", need="queries")
    if config.queries is not None and not set(scores) & set(readers):
        allowed = ", ".join(readers)
        problems.add(f"--queries has no effect: no requested score compares with them; these do: {allowed}.")
    grouped = config.query_groups is not None
    problems.check(not grouped or config.queries is not None, "--query-groups has no effect without --queries.")


def _check_options(config: ScoreConfig, problems: Problems) -> None:
    """What a training run would check: the data, the columns, numbers, and the folder of the run."""
    problems.check(bool(config.data), "DATA is missing: a folder, a saved datasets folder, a hub name, or snips.")
    problems.check(bool(config.task), task_missing())
    problems.found += option_problems(config)
    for name, value in config.options.items():
        if name == "score_options":
            hint = score_options_hint(value, config.scores)
            problems.add(f'score_options is written with the score it belongs to now: scores="{hint}".')
        else:
            problems.choice("option", name, RUN_FLAGS)
    config = replace(config, options={name: value for name, value in config.options.items() if name in RUN_FLAGS})
    model = None if config.epochs is not None else _ANY_MODEL
    try:
        check_config(config.training(config.run or Path("run"), text_length(config), model), resume=config.run is None)
    except UserError as error:
        reported = ("data is empty.", "unknown task ''")  # above, in the words of this command
        problems.found += [problem for problem in error.problems if not problem.startswith(reported)]


def _check_task(config: ScoreConfig, scores: Sequence[str], problems: Problems) -> None:
    """Class probabilities for the task, and the number of checkpoints."""
    if config.probabilities and config.task is not None and find("task", config.task) is not None:
        problems.found += lacks("--probabilities", "one_class", config.task)
    if config.probabilities and "model" not in available(config):
        problems.add("--probabilities needs a model that is trained: --model RUN, or --epochs E to train one first.")
    checkpoints = config.epochs if config.model is None else len(run_checkpoints(config.model))
    for name in ("vog", "predictive_strength"):
        if name in scores and checkpoints == 1:
            problems.add(f"the score {name} needs at least two checkpoints, there is one: --epochs 2, or more.")
