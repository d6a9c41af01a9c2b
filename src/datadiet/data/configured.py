"""The data of a config, exactly as its run saw it."""

from __future__ import annotations

from dataclasses import fields

from datadiet.config import FinetuneConfig
from datadiet.data.loading import load_data
from datadiet.data.records import Columns, Dataset

# options of a config that say what its data are: configs that share them see the same
READING: tuple[str, ...] = ("data", "task", "train_rows", "dev_share", "drop_overlap", "dedupe", "data_seed")
READING += ("label_separator", *(f"{field.name}_column" for field in fields(Columns)))


def columns_of(config: FinetuneConfig) -> Columns:
    """The columns that the config names."""
    return Columns(**{field.name: getattr(config, f"{field.name}_column") for field in fields(Columns)})


def load_configured(config: FinetuneConfig) -> Dataset:
    """Load what a config names.

    Raises:
        UserError: If it cannot be used; see `load_data`.
    """
    return load_data(
        config.data,
        config.task,
        columns=columns_of(config),
        seed=config.data_seed,
        dev_share=config.dev_share,
        drop_overlap=config.drop_overlap,
        dedupe=config.dedupe,
        train_rows=config.train_rows,
        label_separator=config.label_separator,
    )
