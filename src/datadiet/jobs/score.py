"""Score a whole training split: from a `ScoreConfig` to a score file. `score_data` is the same for a notebook.

The order of a job: check everything, read the data, train what is missing, load the models, compute all scores (those
that read the same outputs share one pass), write the file with how each score was made.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from datadiet.config import READING_FLAGS, FinetuneConfig
from datadiet.data.load import columns_of, load_configured, read_examples, split_of
from datadiet.data.schema import Dataset, Examples, joined_texts
from datadiet.data.sources import find
from datadiet.data.tables import listed
from datadiet.errors import DataError, Problems
from datadiet.geometry import class_codes
from datadiet.jobs.finetune import finetune
from datadiet.jobs.prepare import Features, class_problems, pass_tokens
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
    trained_length,
    trains_on_everything,
    vocabulary_problems,
)
from datadiet.jobs.score_config import BASE_MODEL, CROSS_FITTED, OWN_OPTIONS, ScoreConfig, load_arguments
from datadiet.ledger import Ledger
from datadiet.registry import check_rows, has
from datadiet.scoring.dataset import SplitScores, score_split
from datadiet.scoring.forward import lengths_of
from datadiet.scoring.inputs import Queries, ScoringInputs, TokenisedRows, needs_of, read_by
from datadiet.store.run_folder import saved_model
from datadiet.store.score_file import ScoreFile, write_scores
from datadiet.tasks import task_for
from datadiet.tasks.base import Task
from datadiet.tasks.causal_lm import answers_of
from datadiet.tasks.loading import load_encoder, load_saved
from datadiet.training.machine import best_device, resolve_precision
from datadiet.types import CostLedger, Json, Listener, Silent

if TYPE_CHECKING:
    from datadiet.jobs.crossfit import CrossFitted, Folds


_WHY_MISSING = "The answer is empty, was cut away at --max-length, or has nothing that the score compares"


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
    wanted = _read_queries(config, settings)
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


@dataclass(frozen=True)
class _Wanted:
    """The queries as they were read; see `Queries`."""

    examples: Examples
    groups: NDArray[np.int64]
    subtasks: tuple[str, ...]


def _read_queries(config: ScoreConfig, settings: FinetuneConfig) -> _Wanted | None:
    """The queries; None where there are none.

    Raises:
        DataError: If they cannot be read.
    """
    if config.queries is None:
        return None
    path = str(Path(config.queries).expanduser())
    limits: dict[str, Any] = {"label_separator": settings.label_separator, "gz_limit": settings.gz_limit}
    try:
        examples = read_examples(path, settings.task, columns=columns_of(settings), split="train", **limits)
        groups: Sequence[object] = [""] * len(examples)
        if config.query_groups is not None:
            rows = examples.source_rows
            if rows is None:
                raise DataError("a word per row has no column of one value per example: write a sentence per row.")
            original = split_of(path, "train", find(path, settings.gz_limit).originals)()
            groups = original.column(config.query_groups, rows, option="--query-groups")
    except DataError as error:
        raise DataError(*(f"--queries: {problem}" for problem in error.problems)) from error
    codes, names = class_codes([str(group) for group in groups], len(examples))
    return _Wanted(examples, codes, tuple(names))


def _own_column(config: FinetuneConfig, train: Examples, name: str) -> list[Any]:
    """A column of the training data as the user wrote it: one value per row.

    Raises:
        DataError: If there is no such column, or a row has no value.
    """
    if train.source_rows is None:
        raise DataError("a word per row has no column of one value per example: write a sentence per row.")
    return find(config.data, config.gz_limit).originals["train"]().column(name, train.source_rows)


@dataclass(frozen=True)
class _Loader:
    """Loads models, and the training rows by the tokenizer of each."""

    config: ScoreConfig
    data: Dataset
    task: Task
    queries: _Wanted | None = None

    def saved(self, folder: Path) -> Any:
        model: Any = load_saved(saved_model(folder))
        return model.to(best_device())

    def inputs(self, source: str, length: int) -> TokenisedRows:
        tokenizer = self.task.load_tokenizer(source)
        train = self.data.splits["train"]
        features = self.task.features(train, tokenizer, max_length=length)
        return TokenisedRows(features, self.task.collator(tokenizer), answers_of(train, features, tokenizer))

    def wanted(self, tokenizer: Any, length: int) -> Any:
        """The queries as a tokenizer reads them."""
        assert self.queries is not None  # a score reads them
        try:
            return self.task.features(self.queries.examples, tokenizer, max_length=length)
        except DataError as error:
            raise DataError(*(f"--queries: {problem}" for problem in error.problems)) from error

    def others(self, names: Sequence[str]) -> dict[str, Any]:
        """Fields of `ScoringInputs` for the models beside the one at hand that a score needs."""
        needs = {need for name in names for need in read_by(name)}
        parts: dict[str, Any] = {"tokenised": {}}
        for role, folder in (("teacher", self.config.teacher), ("holdout", self.config.holdout)):
            if folder is not None and role in needs:
                parts[role] = self.saved(folder)
                length = self.config.max_length or trained_length(folder, self.task.name)
                parts["tokenised"][role] = self.inputs(str(saved_model(folder)), length)
        if self.config.encoder is not None and "encoder" in needs:
            encoder: Any = load_encoder(self.config.encoder)
            parts["encoder"] = encoder.to(best_device())
            length = text_length(self.config)
            parts["tokenised"]["encoder"] = self.inputs(self.config.encoder, length)
        if self.queries is not None:
            own = self.queries
            parts["queries"] = Queries(joined_texts(own.examples), own.groups, own.subtasks)
            if "encoder" in parts and _compared_by_models(names):
                tokenizer = self.task.load_tokenizer(str(self.config.encoder))
                parts["queries"] = replace(parts["queries"], encoder_features=self.wanted(tokenizer, length))
        return parts


def _material(
    config: ScoreConfig,
    model: Path | None,
    data: Dataset,
    task: Task,
    wanted: _Wanted | None,
    listener: Listener,
    ledger: Ledger,
) -> tuple[list[str], ScoringInputs]:
    """The scores, and their inputs."""
    history = None if model is None else _history(model, config, data, listener)
    names = list(config.calls())
    if config.scores is None and history is not None:
        names += dynamics_of(history)
    listener.phase("loading the models")
    loader, train = _Loader(config, data, task, wanted), data.splits["train"]
    others = loader.others(names)
    settings, embedded = _settings(config, Path("run")), others["tokenised"].get("encoder")
    material = ScoringInputs(
        joined_texts(train),
        None,
        _no_batches,
        task.signals,
        groups=None if embedded is None else task.groups(embedded.features),
        ids=train.ids,
        history=history,
        dev=(),
        columns=partial(_own_column, settings, train),
        combine="mean" if has(data.task, "answers") else "norm",
        precision=resolve_precision(settings.precision, best_device()),
        ledger=ledger,
        seed=settings.seed,
        options={name: options for name, options in config.calls().items() if options},
        **others,
    )
    if model is None:
        return names, material
    listener.phase("tokenising")
    return names, _with_model(config, model, loader, material, compared=_compared_by_models(names))


def _with_model(
    config: ScoreConfig, model: Path, loader: _Loader, material: ScoringInputs, *, compared: bool
) -> ScoringInputs:
    """Adds the model at hand, the rows by its tokenizer, the queries where they are compared, and the checkpoints."""
    settings = _settings(config, Path("run"))
    tokenizer = loader.task.load_tokenizer(str(saved_model(model)))
    length = config.max_length or trained_length(model, loader.task.name)
    cache = None if settings.cache is None else Path(settings.cache).expanduser()
    features = Features(loader.data, loader.task, tokenizer, length, material.ledger, cache)
    train, trained = features.of("train"), loader.saved(model)
    queries = material.queries
    if queries is not None and compared:
        queries = replace(queries, features=loader.wanted(tokenizer, length))
    lengths = lengths_of(train)
    assert lengths is not None  # every task gives a length
    return replace(
        material,
        features=train,
        collate=loader.task.collator(tokenizer),
        groups=loader.task.groups(train),
        model=trained,
        encoder=material.encoder or trained,
        answers=answers_of(loader.data.splits["train"], train, tokenizer),
        checkpoints=run_checkpoints(model) or None,
        figures=checkpoint_figures(model, loader.task.main_metric),
        dev=features.of("dev"),
        queries=queries,
        batch_tokens=pass_tokens(settings, lengths),
    )


def _compared_by_models(names: Sequence[str]) -> bool:
    """Whether a score reads the queries through a model, not their texts alone."""
    return any({"queries", "texts"} & set(needs_of(name)) == {"queries"} for name in names)


def _no_batches(_rows: Any) -> Any:
    raise AssertionError("there is no model whose tokenizer could read the rows")


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
