"""The `datasets` library's world: saved folders and the hub. `datasets` is slow to import, so functions import it."""

from __future__ import annotations

import os
import socket
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from datadiet.checks import DataError, unknown
from datadiet.data.parquet import decode_classes
from datadiet.data.tables import Table

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
        found = datasets.load_from_disk(str(folder))
    except Exception as error:  # the library raises whatever its parts raise; the cause stays in the chain
        raise DataError(
            f"{folder}: not a complete saved `datasets` folder ({_first_line(error)}); save it again."
        ) from error
    return found if isinstance(found, Mapping) else {"train": found}


def hub_name(source: str) -> tuple[str, str | None] | None:
    """A hub set and its configuration, or None where the source cannot be a hub name.

    Raises:
        DataError: For a known set with a configuration that it lacks.

    Example:
        >>> hub_name("glue/sst2"), hub_name("owner/name"), hub_name("owner/name/config"), hub_name("./folder")
        (('glue', 'sst2'), ('owner/name', None), ('owner/name', 'config'), None)
    """
    parts = source.split("/")
    if not 1 <= len(parts) <= 3 or any(not part or part.startswith((".", "~")) or "\\" in part for part in parts):
        return None
    if parts[0] in CONFIGS and len(parts) <= 2:
        config = parts[1] if len(parts) == 2 else ""
        if config not in CONFIGS[parts[0]]:
            raise DataError(unknown("data set", source, [f"{parts[0]}/{known}" for known in CONFIGS[parts[0]]]))
        return parts[0], config
    if len(parts) == 1:
        return None
    return "/".join(parts[:2]), parts[2] if len(parts) == 3 else None


def open_hub(name: str, config: str | None) -> Mapping[str, Any]:
    """Splits of a hub set by their own names.

    Raises:
        DataError: If the set does not exist or the hub cannot be reached, with what to do instead.
    """
    told = name if config is None else f"{name}/{config}"
    if not _may_be_reached(name):
        raise DataError(f"no folder {told!r} here, and the hub cannot be reached (no network); {_LOCAL}.")
    import datasets

    try:
        found = datasets.load_dataset(name, config)
    except Exception as error:  # as above
        raise DataError(
            f"no folder {told!r} here, and the hub gives no such data ({_first_line(error)}); {_LOCAL}."
        ) from error
    return dict(found)


def _may_be_reached(name: str) -> bool:
    """False where it is plain at once that the hub cannot answer: `datasets` itself would retry for half a minute."""
    if os.environ.get("HF_HUB_OFFLINE") or os.environ.get("HF_DATASETS_OFFLINE") or urllib.request.getproxies():
        return True  # it fails fast on its own, or names are looked up by a proxy
    host = urlsplit(os.environ.get("HF_ENDPOINT") or "https://huggingface.co").hostname
    try:
        socket.getaddrinfo(host, None)
    except OSError:
        return _is_cached(name)
    return True


def _is_cached(name: str) -> bool:
    hub_home = os.environ.get("HF_HOME") or Path("~/.cache/huggingface").expanduser()
    cache = Path(os.environ.get("HF_DATASETS_CACHE") or Path(hub_home) / "datasets")
    wanted = name.lower().replace("/", "___")
    return cache.is_dir() and any(entry.name.lower().endswith(wanted) for entry in cache.iterdir())


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def split_table(split: Any, place: str) -> Table:
    """One split of the `datasets` library as a table; class numbers become names, -1 becomes None.

    Columns that hold neither text nor numbers (images, audio, nested records) are left out.
    """
    import datasets

    inner = {name: getattr(feature, "feature", feature) for name, feature in split.features.items()}
    plain = [name for name, kind in inner.items() if isinstance(kind, (datasets.Value, datasets.ClassLabel))]
    columns = split.select_columns(plain).to_dict()
    for name in plain:
        if isinstance(inner[name], datasets.ClassLabel) and inner[name].names:
            columns[name] = decode_classes(columns[name], inner[name].names)
    return Table(place, columns, len(split))
