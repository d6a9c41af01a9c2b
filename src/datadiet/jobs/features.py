"""The features of a data set's splits: tokenised, or taken from the cache folder.

They are Arrow files of `datasets` there, memory-mapped, under the origin that they follow from.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import datasets
import numpy as np
from transformers import PreTrainedTokenizerBase

from datadiet.data.schema import Dataset
from datadiet.data.tables import listed
from datadiet.errors import DataError
from datadiet.ledger import Ledger
from datadiet.registry import has
from datadiet.store.cache import Entry, entry
from datadiet.tasks.base import Task, length_limit
from datadiet.training.distill import TEACHER
from datadiet.training.tokens import REFERENCE
from datadiet.types import Json, Listener

KIND = "features"
WHAT = {
    KIND: "tokenised data",
    TEACHER: "the teacher's logits",
    REFERENCE: "the losses of the reference",
}  # in messages
T = TypeVar("T")


@dataclass
class Features:
    """The features of a data set's splits: made, or taken from a folder.

    Attributes:
        data, task, tokenizer, max_length: What they follow from.
        ledger: Is charged for what others have spent on them.
        folder: Keeps them; None keeps nothing.
        taken: Splits that came from the folder.
        problem: Why the folder could not be used, if it could not.
        excluded: By split, the ids of rows that have nothing to train on; `data` lacks them.
    """

    data: Dataset
    task: Task
    tokenizer: PreTrainedTokenizerBase
    max_length: int
    ledger: Ledger
    folder: Path | None = None
    taken: tuple[str, ...] = ()
    problem: str | None = None
    excluded: dict[str, list[str]] = field(default_factory=dict)
    _made: dict[str, datasets.Dataset] = field(default_factory=dict, repr=False)

    def of(self, split: str) -> datasets.Dataset:
        """The features of a split, as `Task.features` makes them; those of all splits are made once where rows may be
        refused, so that none is after the training."""
        if split not in self._made:
            self._made[split] = self._of(split)
        return self._made[split] if has(self.task.name, "answers") else self._made.pop(split)

    def _of(self, split: str) -> datasets.Dataset:
        examples = self.data.splits[split]

        def make() -> datasets.Dataset:
            try:
                return self.task.features(examples, self.tokenizer, max_length=self.max_length)
            except DataError as error:
                raise DataError(*(f"{split}: {problem}" for problem in error.problems)) from error

        if self.folder is None or not self.tokenizer.is_fast:  # a slow tokenizer is Python code, which has no digest
            return make()
        storage = {"save": _save, "load": partial(_load, rows=len(examples))}
        return self.cached(split, KIND, self.origin(split), make, **storage).value

    def answered(self, split: str, rows: datasets.Dataset, listener: Listener) -> datasets.Dataset:
        """The features of a split without the rows that have nothing to train on; `data` loses these rows too.

        Args:
            split: Of `data`.
            rows: Its features.
            listener: Receives them as notes.

        Raises:
            DataError: If none is left.
        """
        if "trained" not in rows.column_names:
            return rows
        trained = np.asarray(rows.with_format("numpy")["trained"][:])
        kept, lost = np.flatnonzero(trained > 0), np.flatnonzero(trained == 0)
        if not len(lost):
            return rows
        ids = [self.data.splits[split].ids[row] for row in lost.tolist()]
        if not len(kept):
            raise DataError(
                f"{split}: every answer is cut away at {self.max_length} tokens; give more by --max-length."
            )
        one = len(lost) == 1
        what = "1 row was excluded: its answer was cut away" if one else f"{len(lost):,} rows were excluded: their"
        what += ", and it has" if one else " answers were cut away, and they have"
        listener.note(f"{split}: {what} no score: {listed(ids)}.")
        splits = {**self.data.splits, split: self.data.splits[split].take(kept)}
        self.data, self.excluded = replace(self.data, splits=splits), {**self.excluded, split: ids}
        return rows.select(kept)

    def cached(self, name: str, kind: str, origin: Json, make: Callable[[], T], **storage: Any) -> Entry[T]:
        """A result from the cache folder (`datadiet.store.cache.entry`); records its reuse, or why it was not stored.

        Args:
            name: Of the result, in `taken`.
            kind, origin, make, **storage: Of the entry.
        """
        assert self.folder is not None
        stored = entry(self.folder, kind, origin, make, ledger=self.ledger, **storage)
        self.taken += (name,) if stored.reused else ()
        if stored.problem is not None:
            self.problem = f"{WHAT[kind]} could not be kept in {self.folder}: {stored.problem}."
        return stored

    @cached_property
    def _tokenizer_content(self) -> str:
        return content_of(self.tokenizer)

    def origin(self, split: str) -> Json:
        """Everything that the features follow from.

        Columns, and the shares of the data that were taken, are in its fingerprint, which is over what was read.
        """
        task = self.task
        return {
            "versions": {name: version(name) for name in ("datadiet", "tokenizers", "transformers")},
            "data": self.data.fingerprint,
            "split": split,
            "rows": len(self.data.splits[split]),
            "task": [task.name, list(task.label_names), list(task.slot_names)],
            **({"template": self.tokenizer.chat_template} if has(task.name, "answers") else {}),
            "tokenizer": self._tokenizer_content,
            "max_length": length_limit(self.tokenizer, self.max_length),
        }


def content_of(tokenizer: PreTrainedTokenizerBase) -> str:
    """A digest of all that decides what a fast tokenizer answers, wherever it was loaded from."""
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    for name in ("truncation", "padding"):  # of the last call
        state.pop(name, None)
    state["around"] = [
        type(tokenizer).__name__,
        tokenizer.truncation_side,
        tokenizer.model_input_names,
        tokenizer.special_tokens_map,
    ]
    return hashlib.sha256(json.dumps(state, sort_keys=True, default=str).encode()).hexdigest()


def _save(folder: Path, features: datasets.Dataset) -> None:
    with _no_bars():
        features.save_to_disk(str(folder))


def _load(folder: Path, rows: int) -> datasets.Dataset:
    features = datasets.load_from_disk(str(folder))  # what Arrow raises is an OSError or a ValueError
    if not isinstance(features, datasets.Dataset) or len(features) != rows:
        raise ValueError(f"{folder} does not hold {rows} rows")
    return features


@contextmanager
def _no_bars() -> Iterator[None]:
    """`save_to_disk` would draw a bar of its own."""
    drawn: Any = not datasets.utils.are_progress_bars_disabled()
    datasets.utils.disable_progress_bars()
    try:
        yield
    finally:
        if drawn:
            datasets.utils.enable_progress_bars()
