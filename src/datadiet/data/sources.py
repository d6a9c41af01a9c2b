"""Where data comes from: a folder, one file, a saved `datasets` folder, the packaged set or the hub."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

from datadiet.checks import DataError, Problems
from datadiet.data import hub
from datadiet.data.conll import looks_like_conll
from datadiet.data.decoding import read_bytes, text_lines
from datadiet.data.originals import Original, original_entry, original_file, original_named, original_split
from datadiet.data.readers import FORMATS, read_file, read_named, read_seq_folder, split_name
from datadiet.data.tables import Table, listed

_Read = TypeVar("_Read")

PACKAGED = ("snips",)

ORDER = ("train", "dev", "dev_mismatched", "test", "test_mismatched")
# what a split is called elsewhere -> what it is called here
SPLIT_NAMES: Mapping[str, str] = {
    "train": "train",
    "training": "train",
    "dev": "dev",
    "validation": "dev",
    "valid": "dev",
    "val": "dev",
    "dev_matched": "dev",
    "validation_matched": "dev",
    "dev_mismatched": "dev_mismatched",
    "validation_mismatched": "dev_mismatched",
    "test": "test",
    "test_matched": "test",
    "test_mismatched": "test_mismatched",
}


@dataclass(frozen=True)
class Source:
    """A data set that has been found but not read.

    Attributes:
        name: What the set is called in results; never a path.
        place: What the user gave, for messages.
        splits: A function per split that reads it.
        originals: The same, with every column as it stands.
        notes: Sentences the user should read once.
        own_names: What each split is called where it comes from; as here, where it is not said.
    """

    name: str
    place: str
    splits: Mapping[str, Callable[[], Table]]
    originals: Mapping[str, Callable[[], Original]]
    notes: tuple[str, ...] = ()
    own_names: Mapping[str, str] = field(default_factory=dict)

    def read(self) -> dict[str, Table]:
        """Read every split, train first.

        Raises:
            DataError: For all splits that cannot be read, together.
        """
        tables: dict[str, Table] = {}
        problems = Problems()
        for split in sorted(self.splits, key=ORDER.index):
            try:
                tables[split] = self.splits[split]()
            except DataError as error:
                problems.include(error)
        problems.raise_any(DataError)
        return tables


def find(source: str) -> Source:
    """Find a data set by what the user calls it; what exists locally wins over the hub.

    Raises:
        DataError: If there is nothing of that name, or a split is there twice.

    Example:
        >>> sorted(find("snips").splits)
        ['dev', 'test', 'train']
    """
    if source in PACKAGED:
        return _packaged(source)
    path = Path(source).expanduser()
    if path.is_dir():
        return _saved(path) if hub.is_saved(path) else _folder(path)
    if path.exists():
        whole = {"train": partial(original_file, path)}
        return Source(split_stem(path), source, {"train": partial(read_file, path)}, whole)
    named = hub.hub_name(source)
    if named is None:
        raise DataError(_missing(source, path))
    return _library(source, source, hub.open_hub(*named))


def split_stem(path: Path) -> str:
    """A file's name without the endings that say its format."""
    known = split_name(path.name)
    return path.name[: len(known[0])] if known else path.name


def _missing(source: str, path: Path) -> str:
    beside = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    near = difflib.get_close_matches(path.name, [*beside, *PACKAGED], n=1)
    hint = f"; did you mean {near[0]!r}?" if near else "."
    return (
        f"no file or folder {source!r}{hint} Data is a folder with train and dev files, a saved `datasets` folder, "
        f"a hub name (owner/name, glue/sst2) or a packaged set ({', '.join(PACKAGED)})."
    )


def _packaged(name: str) -> Source:
    home = resources.files("datadiet") / "packaged" / name
    files = {split: f"{split}.jsonl.gz" for split in ("train", "dev", "test")}
    readers = {split: partial(_packaged_file, read_named, home, file) for split, file in files.items()}
    originals = {split: partial(_packaged_file, original_named, home, file) for split, file in files.items()}
    aside = f"{name!r} is the packaged data; the folder of that name here was not read (write ./{name} to read it)."
    return Source(name, name, readers, originals, (aside,) if Path(name).is_dir() else ())


def _packaged_file(read: Callable[[bytes, str, str], _Read], home: Any, file: str) -> _Read:
    return read((home / file).read_bytes(), file, f"{home.name}/{file}")


def _saved(folder: Path) -> Source:
    return _library(folder.resolve().name, str(folder), hub.open_saved(folder))


def _library(name: str, place: str, splits: Mapping[str, Any]) -> Source:
    """A set of the `datasets` library."""
    found = [(SPLIT_NAMES[split.lower()], split) for split in splits if split.lower() in SPLIT_NAMES]
    once = _once(found, place)
    ignored = [split for split in splits if split.lower() not in SPLIT_NAMES]
    notes = (f"Splits that are not used: {listed(ignored)}.",) if ignored else ()
    if not once:
        raise DataError(f"{place}: no train, dev or test split; found {listed(ignored) or 'none'}.")
    readers = {split: partial(hub.split_table, splits[own], f"{place}, {own}") for split, own in once.items()}
    originals = {split: partial(original_split, splits[own], f"{place}, {own}") for split, own in once.items()}
    return Source(name, place, readers, originals, notes, once)


def _folder(folder: Path) -> Source:
    entries = sorted(folder.iterdir())
    found = [(SPLIT_NAMES[stem], entry) for entry in entries if (stem := _stem(entry)) in SPLIT_NAMES]
    found = found or _conll_texts(entries)
    once = _once([(split, entry.name) for split, entry in found], str(folder))
    if not once:
        kinds = ", ".join(FORMATS)
        there = listed([entry.name for entry in entries]) or "nothing"
        raise DataError(
            f"{folder}: no train, dev or test data in this folder; found {there}. Name the files train, dev and test "
            f"with one of the endings {kinds} (the text ones also with .gz), or make folders of those names with "
            "seq.in, seq.out and label."
        )
    readers = {split: partial(_read_entry, entry) for split, entry in found}
    originals = {split: partial(original_entry, entry) for split, entry in found}
    own_names = {split: _stem(entry) for split, entry in found}
    return Source(folder.resolve().name, str(folder), readers, originals, own_names=own_names)


def _conll_texts(entries: Iterable[Path]) -> list[tuple[str, Path]]:
    """Splits as CoNLL files that are called .txt, as many of them are."""
    named = [(SPLIT_NAMES[entry.stem.lower()], entry) for entry in entries if entry.stem.lower() in SPLIT_NAMES]
    texts = [(split, entry) for split, entry in named if entry.suffix.lower() == ".txt" and entry.is_file()]
    return [(split, entry) for split, entry in texts if looks_like_conll(text_lines(read_bytes(entry), str(entry)))]


def _stem(entry: Path) -> str:
    """The name a file or a seq.in folder has as a split; empty for anything else."""
    if entry.is_dir():
        holds_examples = any((entry / part).exists() for part in ("seq.in", "seq.out", "label"))
        return entry.name.lower() if holds_examples else ""
    known = split_name(entry.name)
    return known[0] if known and known[1] in FORMATS else ""


def _read_entry(entry: Path) -> Table:
    return read_seq_folder(entry) if entry.is_dir() else read_file(entry)


def _once(found: Iterable[tuple[str, str]], place: str) -> dict[str, str]:
    """Splits by our names, each from one place.

    Raises:
        DataError: For every split that is there more than once.
    """
    by_split: dict[str, list[str]] = {}
    for split, own in found:
        by_split.setdefault(split, []).append(own)
    problems = Problems()
    for split, owns in by_split.items():
        problems.check(len(owns) == 1, f"{place}: the {split} split is there more than once: {listed(owns)}; keep one.")
    problems.raise_any(DataError)
    return {split: owns[0] for split, owns in by_split.items()}
