"""What the scores of some rows read: one function for a whole set in memory and for a batch of a corpus."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datadiet.config import FinetuneConfig
from datadiet.data.load import columns_of, read_examples, split_of
from datadiet.data.schema import Examples, joined_texts
from datadiet.data.sources import find
from datadiet.errors import DataError
from datadiet.geometry import class_codes
from datadiet.jobs.prepare import pass_tokens
from datadiet.jobs.score_checks import text_length, trained_length
from datadiet.jobs.score_config import ScoreConfig
from datadiet.ledger import Ledger
from datadiet.registry import has
from datadiet.scoring.forward import lengths_of
from datadiet.scoring.inputs import Queries, ScoringInputs, TokenisedRows, needs_of
from datadiet.store.run_folder import saved_model
from datadiet.tasks.base import Task
from datadiet.tasks.causal_lm import answers_of
from datadiet.tasks.loading import load_encoder, load_saved
from datadiet.training.machine import best_device, resolve_precision

# ---- the models


@dataclass(frozen=True)
class LoadedModel:
    """A model with its tokenizer.

    Attributes:
        model: On the device of the job.
        tokenizer: Its own.
        length: Tokens per text.
        task: Turns rows into its tokens.
    """

    model: Any
    tokenizer: Any
    length: int
    task: Task

    def rows(self, examples: Examples, ledger: Ledger) -> TokenisedRows:
        """Rows as it reads them."""
        with ledger.charge("load"):
            features = self.task.features(examples, self.tokenizer, max_length=self.length)
        return TokenisedRows(
            features, self.task.collator(self.tokenizer), answers_of(examples, features, self.tokenizer)
        )


def sources(config: ScoreConfig, needs: set[str], model: Path | None) -> dict[str, tuple[str, str, int]]:
    """The models of a job by role, each as its role, its folder or name, and its tokens per text.

    Args:
        config: Of the job.
        needs: What the scores read, keys of `registry.NEEDS`; a teacher, a holdout model or an encoder that none of
            them reads is left out.
        model: The model at hand, where it is needed.
    """
    folders = {"teacher": config.teacher, "holdout": config.holdout}
    given = {role: folder for role, folder in folders.items() if folder is not None and role in needs}
    given |= {} if model is None else {"model": model}
    length = config.max_length
    chosen = {
        role: (role, str(saved_model(folder)), length or trained_length(folder, config.task))
        for role, folder in given.items()
    }
    if config.encoder is not None and "encoder" in needs:
        chosen["encoder"] = ("encoder", config.encoder, text_length(config))
    return chosen


def load_model(role: str, source: str, length: int, task: Task) -> LoadedModel:
    """A model with its tokenizer, from what `sources` says of it."""
    model: Any = load_encoder(source) if role == "encoder" else load_saved(Path(source))
    return LoadedModel(model.to(best_device()), task.load_tokenizer(source), length, task)


# ---- the inputs


def inputs_of(
    config: ScoreConfig,
    examples: Examples,
    models: Mapping[str, LoadedModel],
    task: Task,
    ledger: Ledger,
    *,
    rows: TokenisedRows | None = None,
    **more: Any,
) -> ScoringInputs:
    """What the scores of some rows read.

    Args:
        config: Of the job.
        examples: The rows.
        models: By role. Without an `encoder` the `model` embeds.
        task: Reads their outputs.
        ledger: Of the job.
        rows: As the `model` reads them, where they are tokenised already.
        more: Further fields of `ScoringInputs`.
    """
    settings = config.training(Path("run"), text_length(config))
    others = {role: one.rows(examples, ledger) for role, one in models.items() if role != "model"}
    encoder = models.get("encoder") or models.get("model")
    inputs = ScoringInputs(
        joined_texts(examples),
        None,
        _no_batches,
        task.signals,
        ids=examples.ids,
        combine="mean" if has(task.name, "answers") else "norm",
        tokenised=others,
        precision=resolve_precision(settings.precision, best_device()),
        ledger=ledger,
        seed=settings.seed,
        options={name: options for name, options in _calls(config).items() if options},
        **{**{role: one.model for role, one in models.items()}, "encoder": encoder and encoder.model, **more},
    )
    if "model" not in models:
        return inputs
    own = models["model"].rows(examples, ledger) if rows is None else rows
    lengths = lengths_of(own.features)
    assert lengths is not None  # every task gives a length
    return replace(
        inputs,
        features=own.features,
        collate=own.collate,
        answers=own.answers,
        groups=task.groups(own.features),
        batch_tokens=pass_tokens(settings, lengths),
    )


def _calls(config: ScoreConfig) -> Mapping[str, Mapping[str, Any]]:
    return {} if config.scores is None and config.embeddings else config.calls()


def _no_batches(*_: Any) -> Any:
    raise AssertionError("there is no model whose tokenizer could read the rows")


# ---- the queries


@dataclass(frozen=True)
class Wanted:
    """The queries as they were read; see `Queries`."""

    examples: Examples
    groups: NDArray[np.int64]
    subtasks: tuple[str, ...]

    def for_models(self, models: Mapping[str, LoadedModel]) -> Queries:
        """The queries, with their tokens for the model at hand and for an encoder of its own, as far as they are given.

        Raises:
            DataError: If they cannot be tokenised.
        """
        try:
            tokens = {
                role: one.task.features(self.examples, one.tokenizer, max_length=one.length)
                for role, one in models.items()
                if role in ("model", "encoder")
            }
        except DataError as error:
            raise DataError(*(f"--queries: {problem}" for problem in error.problems)) from error
        texts = joined_texts(self.examples)
        return Queries(texts, self.groups, self.subtasks, tokens.get("model"), tokens.get("encoder"))


def read_queries(config: ScoreConfig, settings: FinetuneConfig) -> Wanted | None:
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
    return Wanted(examples, codes, tuple(names))


def compared_by_models(names: Sequence[str]) -> bool:
    """Whether a score reads the queries through a model, not their texts alone."""
    return any({"queries", "texts"} & set(needs_of(name)) == {"queries"} for name in names)
