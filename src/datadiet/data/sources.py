"""Where data comes from: a folder, one file, a saved `datasets` folder, the packaged set or the hub.

`find` resolves the name that the user gives, without reading. `datasets` is slow to import, so functions import it.
"""

from __future__ import annotations

import os
import re
import socket
import urllib.request
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from datadiet.data.conversations import has_roles
from datadiet.data.export import (
    Original,
    joined_originals,
    original_entry,
    original_file,
    original_named,
    original_split,
)
from datadiet.data.layouts import OTHER_NAMES, SPLIT_NAMES
from datadiet.data.readers import (
    FORMATS,
    arrow_values,
    decode_classes,
    read_file,
    read_named,
    read_seq_folder,
    split_name,
)
from datadiet.data.tables import LazyColumns, Table, first_line, joined, listed, text_lines
from datadiet.data.tagging import looks_like_conll
from datadiet.errors import DataError, Problems, cut, nearest, quoted, unknown
from datadiet.files import GZ_LIMIT, read_bytes

# sets whose configuration follows the slash, where other names have owner/name
CONFIGS: Mapping[str, tuple[str, ...]] = {
    "glue": ("cola", "mnli", "mrpc", "qnli", "qqp", "rte", "sst2", "stsb", "wnli"),
    "super_glue": ("axb", "axg", "boolq", "cb", "copa", "multirc", "record", "rte", "wic", "wsc", "wsc.fixed"),
    "tweet_eval": ("emoji", "emotion", "hate", "irony", "offensive", "sentiment"),
}
_LOCAL = (
    "use a local folder with train and dev files instead, or save the set where there is a network "
    "(datasets.load_dataset(...).save_to_disk(FOLDER)) and give that folder"
)


def is_saved(folder: Path) -> bool:
    """Whether a folder was written by `save_to_disk` of the `datasets` library."""
    return (folder / "dataset_dict.json").exists() or (folder / "state.json").exists()


def open_saved(folder: Path) -> Mapping[str, Any]:
    """Splits of a saved folder by their own names; one saved `Dataset` is a training split.

    Raises:
        DataError: If the folder is damaged.
    """
    import datasets

    try:
        splits = datasets.load_from_disk(str(folder))
    except Exception as error:  # the library raises errors of many types; the cause stays in the chain
        raise DataError(
            f"{folder}: not a complete saved `datasets` folder ({first_line(error)}); save it again."
        ) from error
    return splits if isinstance(splits, Mapping) else {"train": splits}


def hub_name(source: str) -> tuple[str, str | None] | None:
    """A hub set and its configuration, or None where the source cannot be a hub name.

    Raises:
        DataError: For a known set with a configuration that it lacks.

    Examples:
        >>> hub_name("glue/sst2"), hub_name("owner/name"), hub_name("owner/name/config"), hub_name("./folder")
        (('glue', 'sst2'), ('owner/name', None), ('owner/name', 'config'), None)
    """
    parts = source.split("/")
    if not 1 <= len(parts) <= 3 or any(not part or part.startswith((".", "~")) or "\\" in part for part in parts):
        return None
    if parts[0] in CONFIGS and len(parts) <= 2:
        config = parts[1] if len(parts) == 2 else ""
        if config not in CONFIGS[parts[0]]:
            raise DataError(unknown("data set", source, [f"{parts[0]}/{name}" for name in CONFIGS[parts[0]]]))
        return parts[0], config
    if len(parts) == 1:
        return None
    return "/".join(parts[:2]), parts[2] if len(parts) == 3 else None


def open_hub(name: str, config: str | None) -> Mapping[str, Any]:
    """Splits of a hub set by their own names.

    Raises:
        DataError: If the set does not exist or the hub cannot be reached; gives an alternative.
    """
    full_name = name if config is None else f"{name}/{config}"
    if not _may_be_reached(name):
        raise DataError(f"no folder {quoted(full_name)} here, and the hub cannot be reached (no network); {_LOCAL}.")
    import datasets

    try:
        splits = datasets.load_dataset(name, config)
    except Exception as error:  # as above
        raise DataError(
            f"no folder {quoted(full_name)} here, and the hub gives no such data ({first_line(error)}); {_LOCAL}."
        ) from error
    return dict(splits)


def _may_be_reached(name: str) -> bool:
    """False where the hub certainly cannot answer: `datasets` itself would retry for half a minute."""
    if os.environ.get("HF_HUB_OFFLINE") or os.environ.get("HF_DATASETS_OFFLINE") or urllib.request.getproxies():
        return True  # `datasets` fails fast, or a proxy resolves the names
    host = urlsplit(os.environ.get("HF_ENDPOINT") or "https://huggingface.co").hostname
    try:
        socket.getaddrinfo(host, None)
    except OSError:
        return _is_cached(name)
    return True


def _is_cached(name: str) -> bool:
    hub_home = os.environ.get("HF_HOME") or Path("~/.cache/huggingface").expanduser()
    cache = Path(os.environ.get("HF_DATASETS_CACHE") or Path(hub_home) / "datasets")
    cached_name = name.lower().replace("/", "___")
    return cache.is_dir() and any(entry.name.lower().endswith(cached_name) for entry in cache.iterdir())


def split_table(split: Any, place: str) -> Table:
    """One split of the `datasets` library as a table; class numbers become names, -1 becomes None.

    Columns that hold neither text nor numbers (images, audio, nested records) are dropped, but for messages.
    """
    import datasets

    inner = {name: getattr(feature, "feature", feature) for name, feature in split.features.items()}
    kinds = (datasets.Value, datasets.ClassLabel)
    plain = [name for name, kind in inner.items() if isinstance(kind, kinds) or has_roles(kind)]

    def column(name: str) -> list[Any]:
        values = arrow_values(lambda: split.select_columns([name]).with_format("arrow")[:][name], name, {}, place)
        names = inner[name].names if isinstance(inner[name], datasets.ClassLabel) else None
        return decode_classes(values, names) if names else values

    return Table(place, LazyColumns(plain, column), len(split))


_Read = TypeVar("_Read")

PACKAGED = ("snips",)

ORDER = ("train", "dev", "dev_mismatched", "test", "test_mismatched")
_SHARD = re.compile(r"(.+)-(\d{5})-of-(\d{5})(?:-[0-9a-f]+)?")  # of a repository of the hub
_NO_DATA = (".md", ".py", ".yaml", ".yml", ".cfg", ".toml", ".log")


@dataclass(frozen=True)
class Source:
    """A resolved data set that is not read yet.

    Attributes:
        name: Of the set in results; never a path.
        place: The name that the user gave, for messages.
        splits: A function per split that reads it.
        originals: The same, with every column uninterpreted.
        notes: Sentences the user should read once.
        own_names: The names of the splits in the source, where they may differ.
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


def find(source: str | os.PathLike[str], gz_limit: float = GZ_LIMIT) -> Source:
    """Resolve the name that the user gives; local files and folders win over the hub.

    Args:
        source: As the user gives it.
        gz_limit: Largest size in GB that a compressed file may unpack to.

    Raises:
        DataError: If there is nothing of that name, or a split exists twice.

    Examples:
        >>> sorted(find("snips").splits)
        ['dev', 'test', 'train']
    """
    if source in PACKAGED:
        return _packaged(str(source))
    source = os.fspath(source)
    path = Path(os.path.expanduser(source))
    try:
        source.encode()
        is_folder, exists = path.is_dir(), path.exists() or path.is_symlink()
        if is_folder:
            return _saved(path) if is_saved(path) else _folder(path, gz_limit)
    except UnicodeEncodeError as error:
        raise DataError(f"the name {quoted(source)} is not UTF-8; rename it.") from error
    except OSError as error:
        raise DataError(f"cannot read {cut(source)}: {error.strerror}.") from error
    if exists:
        whole = {"train": partial(original_file, path, gz_limit)}
        return Source(split_stem(path), source, {"train": partial(read_file, path, gz_limit)}, whole)
    named = hub_name(source)
    if named is None:
        raise DataError(_missing(source, path))
    return _library(source, source, open_hub(*named))


def split_stem(path: Path) -> str:
    """A file's name without the endings of its format."""
    stem = split_name(path.name)
    return path.name[: len(stem[0])] if stem else path.name


def _missing(source: str, path: Path) -> str:
    beside = sorted(os.listdir(path.parent)) if os.path.isdir(path.parent) else []
    near = nearest(path.name, [*PACKAGED, *beside])
    hint = f"; did you mean {quoted(near)}?" if near else "."
    return (
        f"no file or folder {quoted(source)}{hint} Data is a folder with train and dev files, a saved `datasets` "
        f"folder, a hub name (owner/name, glue/sst2) or a packaged set ({', '.join(PACKAGED)})."
    )


def _packaged(name: str) -> Source:
    home = resources.files("datadiet") / "packaged" / name
    files = {split: f"{split}.jsonl.gz" for split in ("train", "dev", "test")}
    readers = {split: partial(_packaged_file, read_named, home, file) for split, file in files.items()}
    originals = {split: partial(_packaged_file, original_named, home, file) for split, file in files.items()}
    note = f"{name!r} is the packaged data; the folder of that name here was not read (write ./{name} to read it)."
    return Source(name, name, readers, originals, (note,) if Path(name).is_dir() else ())


def _packaged_file(read: Callable[[bytes, str, str], _Read], home: Any, file: str) -> _Read:
    return read((home / file).read_bytes(), file, f"{home.name}/{file}")


def _saved(folder: Path) -> Source:
    return _library(folder.resolve().name, str(folder), open_saved(folder))


def _library(name: str, place: str, splits: Mapping[str, Any]) -> Source:
    """A set of the `datasets` library."""
    once = _once([(SPLIT_NAMES[split.lower()], split) for split in splits if split.lower() in SPLIT_NAMES], place)
    notes = []
    for own in splits if once else ():  # beside a split of a usual name, as in a folder of files
        split = OTHER_NAMES.get(own.lower())
        if split is not None and split not in once:
            once[split] = own
            notes.append(f"{own!r} is read as {split}.")
    ignored = [own for own in splits if own not in once.values()]
    notes += [f"Splits that are not used: {listed(ignored)}."] if ignored else []
    if not once:
        raise DataError(f"{place}: no train, dev or test split; found {listed(ignored) or 'none'}.")
    readers = {split: partial(split_table, splits[own], f"{place}, {own}") for split, own in once.items()}
    originals = {split: partial(original_split, splits[own], f"{place}, {own}") for split, own in once.items()}
    return Source(name, place, readers, originals, tuple(notes), once)


def _folder(folder: Path, gz_limit: float) -> Source:
    entries = sorted(folder.iterdir())
    named, notes = _named_entries(entries)
    if not named and (folder / "data").is_dir():  # the layout of a repository of the hub
        entries = sorted((folder / "data").iterdir())
        named, notes = _named_entries(entries)
    only = [entry for entry in entries if _may_be_data(entry)]
    if not named and len(only) == 1 and _stem(only[0]):
        named, notes = {"train": [only]}, (f"{only[0].name} is read as train.",)
    if not named:
        kinds = ", ".join(FORMATS)
        there = listed([entry.name for entry in entries]) or "nothing"
        raise DataError(
            f"{folder}: no train, dev or test data in this folder; found {there}. Name the files train, dev and test "
            f"with one of the endings {kinds} (the text ones also with .gz), or make folders of those names with "
            "seq.in, seq.out and label."
        )
    once = _once([(split, _shown(group)) for split, groups in named.items() for group in groups], str(folder))
    readers = {split: partial(_read_entries, named[split][0], str(folder), gz_limit) for split in once}
    originals = {split: partial(_original_entries, named[split][0], str(folder), gz_limit) for split in once}
    own_names = {split: _split_of(named[split][0][0])[0] for split in once}
    return Source(folder.resolve().name, str(folder), readers, originals, notes, own_names)


_Group = list[Path]  # the parts of one split: a single file or folder, or the shards of one


def _named_entries(entries: Sequence[Path]) -> tuple[dict[str, list[_Group]], tuple[str, ...]]:
    """The entries of each split, and what is to be said of the others."""
    groups: dict[str, _Group] = {}
    for entry in entries:
        if stem := _split_of(entry)[1]:
            groups.setdefault(stem, []).append(entry)
    named: dict[str, list[_Group]] = {}
    for group in groups.values():
        if _split_of(group[0])[0] in SPLIT_NAMES:
            named.setdefault(SPLIT_NAMES[_split_of(group[0])[0]], []).append(group)
    named = named or {split: [[entry]] for split, entry in _conll_texts(entries)}
    notes = []
    for group in groups.values():
        split = OTHER_NAMES.get(_split_of(group[0])[0])
        if split is not None and named and split not in named:
            named[split] = [group]
            notes.append(f"{_shown(group)} is read as {split}.")
    used = {entry for groups_of in named.values() for group in groups_of for entry in group}
    aside = [entry.name for entry in entries if entry not in used and _may_be_data(entry)]
    if named and aside:
        notes.append(f"Files that are not used: {listed(aside)}.")
    return named, tuple(notes)


def _may_be_data(entry: Path) -> bool:
    hidden = entry.name.startswith((".", "_")) or entry.stem.lower() in ("readme", "license", "source", "notice")
    return entry.is_file() and not hidden and entry.suffix.lower() not in _NO_DATA


def _split_of(entry: Path) -> tuple[str, str]:
    """The split name of an entry, and what its shards have in common; empty for anything else."""
    stem = _stem(entry)
    shard = _SHARD.fullmatch(stem)
    return (shard[1], f"{shard[1]} of {shard[3]}") if shard else (stem, stem and entry.name)


def _shown(group: Sequence[Path]) -> str:
    return group[0].name if len(group) == 1 else f"{group[0].name} and {len(group) - 1} more"


def _check_shards(group: Sequence[Path], place: str) -> None:
    """Refuse a split of which a shard is missing."""
    shard = _SHARD.fullmatch(_stem(group[0]))
    if shard and len(group) != int(shard[3]):
        raise DataError(
            f"{place}: {shard[1]} has {len(group)} of {int(shard[3])} files ({listed([one.name for one in group])}); "
            "fetch the others."
        )


def _read_entries(group: Sequence[Path], place: str, gz_limit: float) -> Table:
    _check_shards(group, place)
    tables = [_read_entry(entry, gz_limit) for entry in group]
    return tables[0] if len(tables) == 1 else joined(tables)


def _original_entries(group: Sequence[Path], place: str, gz_limit: float) -> Original:
    _check_shards(group, place)
    return joined_originals([original_entry(entry, gz_limit) for entry in group])


def _conll_texts(entries: Iterable[Path]) -> list[tuple[str, Path]]:
    """Splits as CoNLL files with the common ending .txt."""
    named = [(SPLIT_NAMES[entry.stem.lower()], entry) for entry in entries if entry.stem.lower() in SPLIT_NAMES]
    texts = [(split, entry) for split, entry in named if entry.suffix.lower() == ".txt" and entry.is_file()]
    return [(split, entry) for split, entry in texts if looks_like_conll(text_lines(read_bytes(entry), str(entry)))]


def _stem(entry: Path) -> str:
    """The split name of a file or a seq.in folder; empty for anything else."""
    if entry.is_dir():
        holds_examples = any((entry / part).exists() for part in ("seq.in", "seq.out", "label"))
        return entry.name.lower() if holds_examples else ""
    parts = split_name(entry.name)
    return parts[0] if parts and parts[1] in FORMATS else ""


def _read_entry(entry: Path, gz_limit: float) -> Table:
    return read_seq_folder(entry) if entry.is_dir() else read_file(entry, gz_limit)


def _once(names: Iterable[tuple[str, str]], place: str) -> dict[str, str]:
    """Names in the source by our names of the splits.

    Raises:
        DataError: For every split that exists more than once.
    """
    by_split: dict[str, list[str]] = {}
    for split, own in names:
        by_split.setdefault(split, []).append(own)
    problems = Problems()
    for split, owns in by_split.items():
        problems.check(len(owns) == 1, f"{place}: the {split} split is there more than once: {listed(owns)}; keep one.")
    problems.raise_any(DataError)
    return {split: owns[0] for split, owns in by_split.items()}
