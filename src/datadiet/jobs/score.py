"""What a score file says beside the values: how the data was read, and what each score was made with.

The job: from a `ScoreConfig` to a score file.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from datadiet.config import FinetuneConfig
from datadiet.data.load import load_configured
from datadiet.data.schema import Columns as ColumnNames
from datadiet.data.schema import Dataset, Examples, joined_texts
from datadiet.errors import DataError, Problems
from datadiet.jobs.finetune import finetune
from datadiet.jobs.prepare import Features, class_problems, pass_tokens
from datadiet.jobs.score_checks import (
    CROSS_FITTED,
    Columns,
    asked,
    check_job,
    has_history,
    history_of,
    max_length,
    max_length_of,
    name_of,
    options_of,
    readable,
    result_of,
    steps_of,
    trains_on_everything,
)
from datadiet.jobs.score_config import BASE_MODEL, ScoreConfig
from datadiet.ledger import Ledger
from datadiet.registry import check_rows, has
from datadiet.scoring.dataset import ScoringInputs, SplitScores, TokenisedRows, needs_of, score_split
from datadiet.scoring.forward import lengths_of
from datadiet.store.run_folder import saved_model
from datadiet.store.score_file import ScoreFile, write_scores
from datadiet.tasks import task_for
from datadiet.tasks.base import Task
from datadiet.tasks.loading import load_encoder, load_saved, load_tokenizer
from datadiet.training.machine import best_device, resolve_precision
from datadiet.types import CostLedger, Json, Listener, Silent

if TYPE_CHECKING:
    from datadiet.jobs.crossfit import CrossFitted, Folds

_READ_WITH = {
    **{name: name for name in ("train_rows", "dev_share", "drop_overlap", "label_separator")},
    "data_seed": "seed",
}


def file_of(
    data: Dataset, found: SplitScores, made_with: Mapping[str, Json], reading: FinetuneConfig, folds: Json, cost: Json
) -> ScoreFile:
    """The score file of what was found.

    Args:
        data: What was scored.
        found: The values.
        made_with: By score; see `made_with_of`.
        reading: How the data was read.
        folds: How the models that have not seen the row were made; empty where there are none.
        cost: Of everything.
    """
    train = data.splits["train"]
    return ScoreFile(
        ids=[str(key) for key in train.ids],
        rows=np.arange(len(train)),
        values=found.values,
        labels=_labels(data.task, train),
        fingerprint=data.fingerprint,
        data=data.name,
        task=data.task,
        made_with=made_with,
        label_names=tuple(data.label_names),
        probabilities=found.probabilities,
        read_with=_read_with(reading),
        cost=cost,
        probabilities_with={"folds": folds["folds"]} if folds and found.probabilities is not None else {},
    )


def _labels(task: str, train: Examples) -> list[str] | None:
    """The class of each row, of tasks that have one."""
    return [str(label) for label in train.labels] if has(task, "one_class") and train.labels is not None else None


def _read_with(reading: FinetuneConfig) -> Json:
    """How the split is read again: what is not as by default."""
    held = {name: getattr(reading, ours) for ours, name in _READ_WITH.items() if _changed(reading, ours)}
    named = [part.name for part in fields(ColumnNames)]
    columns = {name: getattr(reading, f"{name}_column") for name in named if _changed(reading, f"{name}_column")}
    return held | ({"columns": columns} if columns else {})


def _changed(reading: FinetuneConfig, name: str) -> bool:
    return bool(getattr(reading, name) != getattr(FinetuneConfig, name))


def made_with_of(
    name: str, config: ScoreConfig, model: Path | None, found: SplitScores, material: ScoringInputs, folds: Json
) -> Json:
    """What a score was made with: models by name, checkpoints, rounds, folds and seconds."""
    needs = needs_of(name)
    made: Json = {}
    own = {"model", "history", "checkpoints"} & set(needs) or ("encoder" in needs and config.encoder is None)
    if model is not None and own:
        made |= _of_model(config, model)
    for role, source in (("encoder", config.encoder), ("teacher", config.teacher), ("holdout", config.holdout)):
        if source is not None and role in needs:
            made[role] = name_of(source)
    if folds and name in CROSS_FITTED:
        made |= {"base_model": name_of(config.base_model or BASE_MODEL), **folds}
    if "checkpoints" in needs:
        made["checkpoints"] = len(material.checkpoints or ())
    if "history" in needs:
        made["rounds"] = max((len(table) for table in (material.history or {}).values()), default=0)
    if name in material.options:
        made["options"] = dict(material.options[name])
    together = [other for other in found.shared[name] if other != name]
    return {**made, "seconds": round(found.seconds[name], 3), **({"seconds_shared_with": together} if together else {})}


def _of_model(config: ScoreConfig, model: Path) -> Json:
    """The model at hand: its name, where it comes from, and what its training took."""
    result = result_of(model)
    unnamed = trains_on_everything(config) and config.run is None
    made: Json = {"model": name_of(config.base_model or BASE_MODEL) if unnamed else name_of(model)}
    if result is not None:
        made |= {"base_model": result["model"], "epochs": len(result["epochs"])}
        made["training_seconds"] = round(float(result["cost"]["finetune_s"]), 3)
    return made


def score_data(
    data: str | Path,
    task: str,
    *,
    scores: Sequence[str] | None = None,
    model: str | Path | None = None,
    epochs: int | None = None,
    folds: int | None = None,
    base_model: str | None = None,
    run: str | Path | None = None,
    teacher: str | Path | None = None,
    holdout: str | Path | None = None,
    encoder: str | None = None,
    probabilities: bool = False,
    output: str | Path | None = None,
    force: bool = False,
    max_length: int | None = None,
    listener: Listener | None = None,
    ledger: Ledger | None = None,
    **options: Any,
) -> ScoreFile:
    """Score a whole training split, many scores in one go; scores that read the same thing share one pass.

    Args:
        data, task, scores, model, epochs, folds, base_model, run, teacher, holdout, encoder: See `ScoreConfig`.
        probabilities, output, force, max_length: See there too.
        listener: Hears what is being done.
        ledger: Counts everything, trainings included; the file's `cost` is what it says in the end.
        options: Of `FinetuneConfig`: `train_rows`, `text_column`, `batch_size`, `precision`, `seed`, ...

    Returns:
        The values of every training row, larger = harder; also written, where an output is given.

    Raises:
        ArgumentError: Everything that is missing or not allowed, together, before anything is trained or passed.
        DataError: If the data cannot be used, or a run saw other data.

    Example:
        >>> file = score_data("snips", "intent-slot", scores=["length"], train_rows=100)
        >>> len(file), list(file.values)
        (100, ['length'])
    """
    folders = {"output": output, "model": model, "run": run, "teacher": teacher, "holdout": holdout}
    paths: dict[str, Any] = {name: None if path is None else Path(path).expanduser() for name, path in folders.items()}
    config = ScoreConfig(
        str(data), task, scores=scores, epochs=epochs, folds=folds, base_model=base_model, encoder=encoder,
        force=force, probabilities=probabilities, max_length=max_length,
        options=options, **paths,
    )  # fmt: skip
    return score(config, listener or Silent(), ledger)


def score(config: ScoreConfig, listener: Listener = Silent(), ledger: Ledger | None = None) -> ScoreFile:  # noqa: B008
    """Do what a config asks for; see `score_data`."""
    check_job(config)
    ledger = ledger or Ledger()
    listener.phase("reading the data")
    reading = _settings(config, Path("run"))
    data = load_configured(reading)
    for note in data.notes:
        listener.note(note)
    check_rows("score", options_of(config), len(data.splits["train"]))
    task = task_for(data)
    _check_classes(config, task)
    if config.model is not None and config.scores is not None:
        _history(config.model, config, data, listener)  # a run of other data is told of before any pass
    folds = _folds(config, data, task, listener, ledger)  # raises, and says what will be trained, before anything is
    with _trained(config, listener, ledger) as model:
        crossed = None if folds is None else folds.run(lambda: _scratch(config))
        names, material = _material(config, model, data, task, listener, ledger)
        material = material if crossed is None else _with_folds(material, crossed, folds)
        listener.phase(f"scoring: {', '.join(names)}")
        found = score_split(names, material, probabilities=config.probabilities)
        made = {} if crossed is None else crossed.made
        made_with = {name: made_with_of(name, config, model, found, material, made) for name in names}
    file = file_of(data, found, made_with, reading, made, asdict(ledger.snapshot()))
    if config.output is not None:
        listener.phase(f"writing {config.output}")
        write_scores(config.output, file, force=config.force)
    return file


# ---- the model ----


def _settings(config: ScoreConfig, run: Path) -> FinetuneConfig:
    return config.training(run, config.base_model or BASE_MODEL, max_length(config))


def _check_classes(config: ScoreConfig, task: Task) -> None:
    """Refuse models without a head for the classes of the data, which would give values that mean nothing."""
    problems = Problems()
    for what, folder in (
        ("the model", config.model),
        ("the teacher", config.teacher),
        ("the holdout model", config.holdout),
    ):
        if folder is not None:
            problems.found += class_problems(folder, task, what)
    if problems.found:
        problems.add("A model must be trained for these classes; --epochs E trains one first, from --base-model.")
    problems.raise_any()


@contextmanager
def _trained(config: ScoreConfig, listener: Listener, ledger: Ledger) -> Iterator[Path | None]:
    """The folder of the model at hand: the one given, or of a run made now, which is removed unless it has a name."""
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
    beside = None if config.output is None else config.output.resolve().parent
    if beside is not None:
        beside.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=".datadiet-score-", dir=beside))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _folds(config: ScoreConfig, data: Dataset, task: Task, listener: Listener, ledger: Ledger) -> Folds | None:
    """What will be cross-fitted; None where nothing is."""
    if config.folds is None:
        return None
    from datadiet.jobs.crossfit import prepared

    names, settings = asked(config), _settings(config, Path("run"))
    null, classes = "negative_pvi" in names, "negative_pvi" in names or config.probabilities
    found = prepared(settings, data, task, config.folds, listener, ledger, null=null, classes=classes)
    more = " A model on everything is trained as well." if trains_on_everything(config) else ""
    listener.note(f"will train {found.forecast()}{more}")
    return found


def _with_folds(material: ScoringInputs, crossed: CrossFitted, folds: Folds | None) -> ScoringInputs:
    assert folds is not None  # it is they who have crossed
    groups = folds.task.groups(folds.features)
    return replace(material, out_of_fold=crossed.out_of_fold, null=crossed.null, groups=groups)


def _history(model: Path, config: ScoreConfig, data: Dataset, listener: Listener) -> Columns | None:
    """The score history of the model's run, where it is wanted.

    Raises:
        DataError: If it is of other data, or lacks what a score reads, and a score was asked for that needs it.
    """
    names = [name for name in asked(config) if "history" in needs_of(name)]
    if not has_history(model) or (config.scores is not None and not names):
        return None
    try:
        found = history_of(model, data.splits["train"].ids, data.fingerprint)
    except DataError as error:
        if config.scores is not None:
            raise
        listener.note(f"without training dynamics: {error}")
        return None
    problems = Problems()
    for name in names:
        told = "the run has not recorded what it reads of every row (a regression has no gold class)"
        problems.check(name in readable(found), f"the score {name} cannot be had: {told}.")
    problems.raise_any(DataError)
    return found


# ---- what there is ----


@dataclass(frozen=True)
class _Loader:
    """Loads models, and the rows as each of them reads them."""

    config: ScoreConfig
    data: Dataset
    task: Task

    def saved(self, folder: Path) -> Any:
        model: Any = load_saved(saved_model(folder))
        return model.to(best_device())

    def inputs(self, source: str, length: int) -> TokenisedRows:
        tokenizer = load_tokenizer(source)
        features = self.task.features(self.data.splits["train"], tokenizer, max_length=length)
        return TokenisedRows(features, self.task.collator(tokenizer))

    def others(self, names: Sequence[str]) -> dict[str, Any]:
        """Fields of `ScoringInputs` for the models beside the one at hand, of those that a score needs."""
        needed = {need for name in names for need in needs_of(name)}
        found: dict[str, Any] = {"tokenised": {}}
        for role, folder in (("teacher", self.config.teacher), ("holdout", self.config.holdout)):
            if folder is not None and role in needed:
                found[role] = self.saved(folder)
                length = self.config.max_length or max_length_of(folder)
                found["tokenised"][role] = self.inputs(str(saved_model(folder)), length)
        if self.config.encoder is not None and "encoder" in needed:
            encoder: Any = load_encoder(self.config.encoder)
            found["encoder"] = encoder.to(best_device())
            found["tokenised"]["encoder"] = self.inputs(self.config.encoder, max_length(self.config))
        return found


def _material(
    config: ScoreConfig, model: Path | None, data: Dataset, task: Task, listener: Listener, ledger: Ledger
) -> tuple[list[str], ScoringInputs]:
    """The scores, and what they are made of."""
    history = None if model is None else _history(model, config, data, listener)
    names = list(asked(config))
    if config.scores is None and history is not None:
        names += readable(history)
    listener.phase("loading the models")
    loader, train = _Loader(config, data, task), data.splits["train"]
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
        precision=resolve_precision(settings.precision, best_device()),
        ledger=ledger,
        seed=settings.seed,
        options={name: own for name, own in options_of(config).items() if own},
        **others,
    )
    if model is None:
        return names, material
    listener.phase("tokenising")
    return names, _with_model(config, model, loader, material)


def _with_model(config: ScoreConfig, model: Path, loader: _Loader, material: ScoringInputs) -> ScoringInputs:
    """Also the model at hand, the rows as it reads them, and the checkpoints of its run."""
    settings = _settings(config, Path("run"))
    tokenizer = load_tokenizer(str(saved_model(model)))
    length = config.max_length or max_length_of(model)
    cache = None if settings.cache is None else Path(settings.cache).expanduser()
    features = Features(loader.data, loader.task, tokenizer, length, material.ledger, cache)
    train, trained = features.of("train"), loader.saved(model)
    lengths = lengths_of(train)
    assert lengths is not None  # every task gives a length
    return replace(
        material,
        features=train,
        collate=loader.task.collator(tokenizer),
        groups=loader.task.groups(train),
        model=trained,
        encoder=material.encoder or trained,
        checkpoints=steps_of(model) or None,
        dev=features.of("dev"),
        batch_tokens=pass_tokens(settings, lengths),
    )


def _no_batches(_rows: Any) -> Any:
    raise AssertionError("there is no model whose tokenizer could read the rows")
