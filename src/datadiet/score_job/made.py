"""What a score file says beside the values: how the data was read, and what each score was made with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path

import numpy as np

from datadiet.config import FinetuneConfig
from datadiet.data import Dataset, Examples
from datadiet.data.records import Columns as ColumnNames
from datadiet.records import Json
from datadiet.score_file import ScoreFile
from datadiet.score_job.checks import trains_on_everything
from datadiet.score_job.sources import name_of, result_of
from datadiet.score_job.wanted import BASE_MODEL, CROSS_FITTED, ScoreConfig
from datadiet.suitable import ONE_CLASS
from datadiet.whole_set import NEEDS, Material, WholeSet

_READ_WITH = {
    **{name: name for name in ("train_rows", "dev_share", "drop_overlap", "label_separator")},
    "data_seed": "seed",
}


def file_of(
    data: Dataset, found: WholeSet, made_with: Mapping[str, Json], reading: FinetuneConfig, folds: Json, cost: Json
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
    return [str(label) for label in train.labels] if task in ONE_CLASS and train.labels is not None else None


def _read_with(reading: FinetuneConfig) -> Json:
    """How the split is read again: what is not as by default."""
    held = {name: getattr(reading, ours) for ours, name in _READ_WITH.items() if _changed(reading, ours)}
    named = [part.name for part in fields(ColumnNames)]
    columns = {name: getattr(reading, f"{name}_column") for name in named if _changed(reading, f"{name}_column")}
    return held | ({"columns": columns} if columns else {})


def _changed(reading: FinetuneConfig, name: str) -> bool:
    return bool(getattr(reading, name) != getattr(FinetuneConfig, name))


def made_with_of(
    name: str, config: ScoreConfig, model: Path | None, found: WholeSet, material: Material, folds: Json
) -> Json:
    """What a score was made with: models by name, checkpoints, rounds, folds and seconds."""
    needs = NEEDS[name]
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
