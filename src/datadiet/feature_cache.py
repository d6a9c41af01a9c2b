"""Tokenised data kept in a folder, for runs that would tokenise the same: each is charged as if it had done so itself.

An entry (`datadiet.entries`) is a folder written by `datasets`: Arrow, read by memory mapping.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import datasets
from transformers import PreTrainedTokenizerBase

from datadiet import __version__
from datadiet.data import Dataset
from datadiet.entries import keep_entry, place_of, read_about
from datadiet.ledger import Ledger
from datadiet.records import Json
from datadiet.tasks import Task
from datadiet.tasks.base import length_limit

KIND = "features"
SCHEMA = 1


@dataclass
class Features:
    """The features of a data set's splits: made, or taken from a folder.

    Attributes:
        data, task, tokenizer, max_length: What they follow from.
        ledger: Is charged for what others have spent on them.
        folder: Keeps them; None keeps nothing.
        taken: Splits that came from the folder.
        problem: Why the folder could not be used, if it could not.
    """

    data: Dataset
    task: Task
    tokenizer: PreTrainedTokenizerBase
    max_length: int
    ledger: Ledger
    folder: Path | None = None
    taken: tuple[str, ...] = ()
    problem: str | None = None

    def of(self, split: str) -> datasets.Dataset:
        """The features of a split, as `Task.features` makes them."""
        if self.folder is None or not self.tokenizer.is_fast:  # a slow one is Python code, whose content cannot be told
            return self._make(split)
        origin = self._origin(split)
        found = read_entry(self.folder, origin)
        if found is not None:
            features, seconds = found
            self.ledger.charge_shared(seconds)
            self.taken = (*self.taken, split)
            return features
        return self._make_and_keep(self.folder, origin, split)

    @cached_property
    def _tokenizer_content(self) -> str:
        return content_of(self.tokenizer)

    def _origin(self, split: str) -> Json:
        """Everything that the features follow from.

        Columns, and the shares of the data that were taken, are in its fingerprint, which is over what was read.
        """
        task = self.task
        return {
            "schema": SCHEMA,
            "versions": {"datadiet": __version__, **{name: version(name) for name in ("tokenizers", "transformers")}},
            "data": self.data.fingerprint,
            "split": split,
            "rows": len(self.data.splits[split]),
            "task": [task.name, list(task.label_names), list(task.slot_names)],
            "tokenizer": self._tokenizer_content,
            "max_length": length_limit(self.tokenizer, self.max_length),
        }

    def _make(self, split: str) -> datasets.Dataset:
        return self.task.features(self.data.splits[split], self.tokenizer, max_length=self.max_length)

    def _make_and_keep(self, folder: Path, origin: Json, split: str) -> datasets.Dataset:
        began = time.perf_counter()
        features = self._make(split)
        seconds = time.perf_counter() - began
        try:
            write_entry(folder, origin, features, seconds)
        except OSError as error:  # a full disk, a folder that may not be written to
            self.problem = f"tokenised data could not be kept in {folder}: {error.strerror or error}."
            return features
        # read anew: training from memory and from a mapped file are not equally fast
        found = read_entry(folder, origin)
        return features if found is None else found[0]


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


def read_entry(folder: Path, origin: Json) -> tuple[datasets.Dataset, float] | None:
    """The features of an entry and the seconds that they took to make.

    Returns:
        None where there is no such entry, or one that is broken or was made from something else: it is to be made anew.
    """
    place = place_of(folder, origin, KIND)
    about = read_about(place, origin)
    if about is None:
        return None
    try:
        features = datasets.load_from_disk(str(place))
    except (OSError, ValueError, KeyError, TypeError):  # what Arrow raises is an OSError or a ValueError
        return None
    if not isinstance(features, datasets.Dataset) or len(features) != origin["rows"]:
        return None
    return features, float(about["seconds"])


def write_entry(folder: Path, origin: Json, features: datasets.Dataset, seconds: float) -> None:
    """Keep features under their origin, in place of a broken entry; one that another process has made meanwhile stays.

    Raises:
        OSError: If the folder cannot be written to.
    """

    def fill(part: Path) -> None:
        with _no_bars():
            features.save_to_disk(str(part))

    place = place_of(folder, origin, KIND)
    keep_entry(place, origin, {"seconds": seconds}, fill, lambda: read_entry(folder, origin) is not None)


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
