"""Score a whole training split: from a `ScoreConfig` to a score file. `score_data` is the same for a notebook.

The order of a job: check everything, read the data, train what is missing, load the models, compute all scores (those
that read the same outputs share one pass), write the file with how each score was made.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from datadiet.config import READING_FLAGS, FinetuneConfig
from datadiet.data.load import load_configured
from datadiet.data.schema import Dataset, Examples
from datadiet.data.sources import find
from datadiet.data.tables import listed
from datadiet.errors import DataError, Problems
from datadiet.jobs.features import Features
from datadiet.jobs.finetune import finetune
from datadiet.jobs.prepare import class_problems
from datadiet.jobs.score_checks import (
    Columns,
    check_job,
    checkpoint_figures,
    dynamics_of,
    has_history,
    history_of,
    name_of,
    result_of,
    run_checkpoints,
    text_length,
    trains_on_everything,
    vocabulary_problems,
)
from datadiet.jobs.score_config import BASE_MODEL, CROSS_FITTED, OWN_OPTIONS, ScoreConfig, load_arguments
from datadiet.jobs.score_inputs import Wanted, compared_by_models, inputs_of, load_model, read_queries, sources
from datadiet.ledger import Ledger
from datadiet.registry import check_rows, has
from datadiet.scoring.dataset import SplitScores, score_split
from datadiet.scoring.inputs import ScoringInputs, TokenisedRows, needs_of, read_by
from datadiet.store.run_folder import saved_model
from datadiet.store.score_file import ScoreFile, write_scores
from datadiet.tasks import task_for
from datadiet.tasks.base import Task
from datadiet.tasks.causal_lm import answers_of
from datadiet.types import CostLedger, Json, Listener, Silent

if TYPE_CHECKING:
    from datadiet.jobs.crossfit import CrossFitted, Folds


_WHY_MISSING = (
    "The answer was cut away at --max-length, has nothing that the score compares, or lies beyond an option such as "
    "most"
)


def score_data(
    data: str | Path,
    task: str,
    *,
    listener: Listener | None = None,
    ledger: Ledger | None = None,
    **options: Any,
) -> ScoreFile:
    """Score a whole training split, many scores in one go; scores that read the same outputs share one pass.

    Args:
        data, task: See `datadiet.load_data`.
        listener: Receives phases and notes.
        ledger: Counts everything, trainings included; the file's `cost` is its last state.
        options: `scores`, `model`, `epochs`, `folds`, `base_model`, `run`, `teacher`, `holdout`, `encoder`,
            `probabilities`, `max_length`, `output` and `force`, see `datadiet.jobs.score_config.ScoreConfig`; and of
            `FinetuneConfig` `train_rows`, `text_column`, `batch_size`, `precision`, `seed`, ...

    Returns:
        The values of every training row, larger = harder; also written, where an output is given.

    Raises:
        ArgumentError: Everything that is missing or not allowed, together, before anything is trained or passed.
        DataError: If the data cannot be used, or a run saw other data.

    Examples:
        >>> file = score_data("snips", "intent-slot", scores=["length"], train_rows=100)
        >>> len(file), list(file.values)
        (100, ['length'])
    """
    own = {name: options.pop(name) for name in OWN_OPTIONS if name in options}
    return score(ScoreConfig(data=str(data), task=task, options=options, **own), listener or Silent(), ledger)


def score(config: ScoreConfig, listener: Listener = Silent(), ledger: Ledger | None = None) -> ScoreFile:  # noqa: B008
    """Do the job of a config; see `score_data`."""
    check_job(config)
    ledger = ledger or Ledger()
    listener.phase("reading the data")
    settings = _settings(config, Path("run"))
    data = load_configured(settings)
    for note in data.notes:
        listener.note(note)
    check_rows("score", config.calls(), len(data.splits["train"]))
    task = task_for(data)
    _check_classes(config, task)
    if config.model is not None and config.scores is not None:
        _history(config.model, config, data, listener)  # a run of other data is refused before any pass
    wanted = read_queries(config, settings)
    folds = _folds(config, data, task, listener, ledger)  # raises, and says what will be trained, before anything is
    with _trained(config, listener, ledger) as model:
        crossed = None if folds is None else folds.run(lambda: _scratch(config))
        names, material = _material(config, model, data, task, wanted, listener, ledger)
        material = material if crossed is None else _with_folds(material, crossed, folds)
        listener.phase(f"scoring: {', '.join(names)}")
        results = score_split(names, material, probabilities=config.probabilities)
        _tell_missing(results, data.splits["train"], listener)
        made = {} if crossed is None else crossed.made
        made_with = {name: _made_with(name, config, model, results, material, made) for name in names}
    file = _file(data, results, made_with, settings, made, asdict(ledger.snapshot()))
    if config.output is not None:
        listener.phase(f"writing {config.output}")
        write_scores(config.output, file, force=config.force)
    return file


def _tell_missing(results: SplitScores, train: Examples, listener: Listener) -> None:
    """Note the rows without a value; a score that no row has a value of is refused."""
    problems = Problems()
    told: dict[bytes, tuple[NDArray[np.bool_], list[str]]] = {}
    for name, where in results.missing.items():
        problems.check(not where.all(), f"no row has a value of {name}: {_WHY_MISSING}.")
        told.setdefault(where.tobytes(), (where, []))[1].append(name)
    problems.raise_any(DataError)
    for where, names in told.values():
        ids = listed([train.ids[row] for row in np.flatnonzero(where).tolist()])
        rows = f"{int(where.sum()):,} of {len(train):,} rows have"
        listener.note(f"{rows} no value of {', '.join(names)}, and select leaves them out: {ids}. {_WHY_MISSING}.")


# ---- the models


def _settings(config: ScoreConfig, run: Path) -> FinetuneConfig:
    return config.training(run, text_length(config))


def _check_classes(config: ScoreConfig, task: Task) -> None:
    """Refuse models without a head for the classes of the data, whose values would mean nothing."""
    problems = Problems()
    models = {"the model": config.model, "the teacher": config.teacher, "the holdout model": config.holdout}
    for role, folder in models.items():
        if folder is not None:
            problems.found += class_problems(folder, task, role)
    if "capability_gap" in config.calls() and config.teacher is not None and not problems.found:
        source = str(saved_model(config.model)) if config.model is not None else config.base_model or BASE_MODEL
        problems.found += vocabulary_problems(task, source, config.teacher)
        problems.raise_any()
    if problems.found:
        problems.add("A model must be trained for these classes; --epochs E trains one first, from --base-model.")
    problems.raise_any()


@contextmanager
def _trained(config: ScoreConfig, listener: Listener, ledger: Ledger) -> Iterator[Path | None]:
    """The folder of the model at hand: the given one, or of a run made now, which is removed unless it has a name."""
    if not trains_on_everything(config):
        yield config.model
    elif config.run is not None:
        _train(config, config.run, listener, ledger)
        yield config.run
    else:
        with _scratch(config) as folder:
            _train(config, folder / "run", listener, ledger)
            yield folder / "run"


def _train(config: ScoreConfig, run: Path, listener: Listener, ledger: Ledger) -> None:
    cost: Json = finetune(_settings(config, run), listener=listener)["cost"]
    ledger.include(CostLedger(**{part.name: cost[part.name] for part in fields(CostLedger)}))


@contextmanager
def _scratch(config: ScoreConfig) -> Iterator[Path]:
    """A folder, beside the output where there is one, that is removed afterwards."""
    parent = None if config.output is None else config.output.resolve().parent
    if parent is not None:
        parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=".datadiet-score-", dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _folds(config: ScoreConfig, data: Dataset, task: Task, listener: Listener, ledger: Ledger) -> Folds | None:
    """What will be cross-fitted; None where nothing is."""
    if config.folds is None:
        return None
    from datadiet.jobs.crossfit import prepared

    settings, null = _settings(config, Path("run")), "negative_pvi" in config.calls()
    classes = null or config.probabilities
    folds = prepared(settings, data, task, config.folds, listener, ledger, null=null, classes=classes)
    more = " A model on everything is trained as well." if trains_on_everything(config) else ""
    listener.note(f"will train {folds.forecast()}{more}")
    return folds


def _with_folds(material: ScoringInputs, crossed: CrossFitted, folds: Folds | None) -> ScoringInputs:
    assert folds is not None  # `crossed` comes from them
    groups = folds.task.groups(folds.features)
    return replace(material, out_of_fold=crossed.out_of_fold, null=crossed.null, groups=groups)


def _history(model: Path, config: ScoreConfig, data: Dataset, listener: Listener) -> Columns | None:
    """The score history of the model's run, where a score reads it.

    Raises:
        DataError: If it is of other data, or lacks what a score reads, and a requested score needs it.
    """
    names = [name for name in config.calls() if "history" in needs_of(name)]
    if not has_history(model) or (config.scores is not None and not names):
        return None
    try:
        history = history_of(model, data.splits["train"].ids, data.fingerprint)
    except DataError as error:
        if config.scores is not None:
            raise
        listener.note(f"without training dynamics: {error}")
        return None
    problems, complete = Problems(), dynamics_of(history)
    for name in names:
        reason = "the run has not recorded its columns for every row (a regression has no gold class)"
        problems.check(name in complete, f"the score {name} cannot be computed: {reason}.")
    problems.raise_any(DataError)
    return history


# ---- the inputs of the scores


def _material(
    config: ScoreConfig,
    model: Path | None,
    data: Dataset,
    task: Task,
    wanted: Wanted | None,
    listener: Listener,
    ledger: Ledger,
) -> tuple[list[str], ScoringInputs]:
    """The scores, and their inputs."""
    history = None if model is None else _history(model, config, data, listener)
    names = list(config.calls())
    if config.scores is None and history is not None:
        names += dynamics_of(history)
    listener.phase("loading the models")
    settings, train = _settings(config, Path("run")), data.splits["train"]
    needs = {need for name in names for need in read_by(name)}
    models = {role: load_model(*source, task) for role, source in sources(config, needs, model).items()}
    queries = None if wanted is None else wanted.for_models(models if compared_by_models(names) else {})
    more: dict[str, Any] = {
        "history": history,
        "dev": (),
        "queries": queries,
        "columns": partial(_own_column, settings, train),
    }
    rows = None
    if model is not None:
        listener.phase("tokenising")
        own = models["model"]
        cache = None if settings.cache is None else Path(settings.cache).expanduser()
        features = Features(data, task, own.tokenizer, own.length, ledger, cache)
        of_train = features.of("train")
        rows = TokenisedRows(of_train, task.collator(own.tokenizer), answers_of(train, of_train, own.tokenizer))
        more |= {
            "checkpoints": run_checkpoints(model) or None,
            "figures": checkpoint_figures(model, task.main_metric),
            "dev": features.of("dev"),
        }
    material = inputs_of(config, train, models, task, ledger, rows=rows, **more)
    if rows is None and "encoder" in models:
        material = replace(material, groups=task.groups(material.rows_for("encoder").features))
    return names, material


def _own_column(config: FinetuneConfig, train: Examples, name: str) -> list[Any]:
    """A column of the training data as the user wrote it: one value per row.

    Raises:
        DataError: If there is no such column, or a row has no value.
    """
    if train.source_rows is None:
        raise DataError("a word per row has no column of one value per example: write a sentence per row.")
    return find(config.data, config.gz_limit).originals["train"]().column(name, train.source_rows)


# ---- the file


def _file(
    data: Dataset,
    results: SplitScores,
    made_with: Mapping[str, Json],
    settings: FinetuneConfig,
    folds: Json,
    cost: Json,
) -> ScoreFile:
    """The score file; `folds` is empty where nothing was cross-fitted."""
    train = data.splits["train"]
    changed = {name: value for name in READING_FLAGS if (value := getattr(settings, name)) != _default(name)}
    return ScoreFile(
        ids=[str(key) for key in train.ids],
        rows=np.arange(len(train)),
        values=results.values,
        missing=results.missing,
        labels=_labels(data.task, train),
        fingerprint=data.fingerprint,
        data=data.name,
        task=data.task,
        made_with=made_with,
        label_names=tuple(data.label_names),
        probabilities=results.probabilities,
        read_with=load_arguments(changed),
        cost=cost,
        probabilities_with={"folds": folds["folds"]} if folds and results.probabilities is not None else {},
    )


def _default(name: str) -> Any:
    return getattr(FinetuneConfig, name)


def _labels(task: str, train: Examples) -> list[str] | None:
    """The class of each row, of tasks that have one."""
    return [str(label) for label in train.labels] if has(task, "one_class") and train.labels is not None else None


def _made_with(
    name: str, config: ScoreConfig, model: Path | None, results: SplitScores, material: ScoringInputs, folds: Json
) -> Json:
    """How a score was made: models by name, checkpoints, rounds, folds and seconds."""
    needs = read_by(name)
    made: Json = dict(results.details.get(name, {}))
    reads_model = {"model", "history", "checkpoints"} & set(needs) or ("encoder" in needs and config.encoder is None)
    if model is not None and reads_model:
        made |= _model_made_with(config, model)
    for role, source in (("encoder", config.encoder), ("teacher", config.teacher), ("holdout", config.holdout)):
        if source is not None and role in needs:
            made[role] = name_of(source)
    if folds and name in CROSS_FITTED:
        made |= {"base_model": name_of(config.base_model or BASE_MODEL), **folds}
    if "queries" in needs and config.queries is not None and material.queries is not None:
        made["queries"] = {"data": Path(config.queries).name, "rows": len(material.queries.texts)}
    if "checkpoints" in needs:
        made["checkpoints"] = len(material.checkpoints or ())
    if "history" in needs:
        made["rounds"] = max((len(table) for table in (material.history or {}).values()), default=0)
    if name in material.options:
        made["options"] = dict(material.options[name])
    shared = [other for other in results.shared[name] if other != name]
    return {**made, "seconds": round(results.seconds[name], 3), **({"seconds_shared_with": shared} if shared else {})}


def _model_made_with(config: ScoreConfig, model: Path) -> Json:
    """The model at hand: its name, its base model, and the cost of its training."""
    result = result_of(model)
    unnamed = trains_on_everything(config) and config.run is None
    made: Json = {"model": name_of(config.base_model or BASE_MODEL) if unnamed else name_of(model)}
    if result is not None:
        made |= {"base_model": result["model"], "epochs": len(result["epochs"])}
        made["training_seconds"] = round(float(result["cost"]["finetune_s"]), 3)
    return made
