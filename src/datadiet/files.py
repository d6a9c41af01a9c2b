"""Files and folders that appear whole or not at all, checksums, locks, and small JSON files with a layout version."""

from __future__ import annotations

import ctypes
import json
import math
import os
import shutil
import stat
import sys
import time
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

from datadiet.errors import ArgumentError, DataError, cut, quoted

GZ_LIMIT = 1.0  # GB that a .gz file may unpack to by default: one of a megabyte can become one
SCHEMA = 1  # of result.json, manifests, comparisons, score files, ...; one that changes gets a constant of its own
SUM = "crc32"  # key of a JSON file: the checksum of everything else in it
PART = ".datadiet-"  # begins the name of what is being written; one of this age belongs to a process that was killed
STALE_S = 24 * 3600
_PIECE = 1 << 20


# ---- whole or not at all ----


@contextmanager
def whole_file(target: Path) -> Iterator[Path]:
    """A path beside the target to write to. It replaces the target at the end of the block, and is removed on an error.

    The path is a new, empty file of this process alone: nothing is written through a link.

    Args:
        target: Replaced if it is there; its folder is made.

    Raises:
        DataError: If it cannot be written.
    """
    part = _part(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale(target.parent)
        with part.open("xb"):
            pass
        yield part
        sync(part)
        part.replace(target)
    except OSError as error:
        raise DataError(f"cannot write {target}: {error.strerror or error}.") from error
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


@contextmanager
def whole_folder(target: Path) -> Iterator[Path]:
    """The same for a folder. The caller checks whether an existing folder may be replaced.

    Raises:
        DataError: If it cannot be written.
    """
    place = target.resolve()  # a link to a folder stays
    part = _part(place)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale(place.parent)
        part.mkdir()
        yield part
        if not place.is_dir():
            part.replace(place)
        elif not _exchanged(part, place):
            old = place.with_name(f".{part.name}.old")  # what a kill between the two steps leaves
            place.replace(old)
            part.replace(place)
            part = old
    except OSError as error:
        raise DataError(f"cannot write {target}: {error.strerror or error}.") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _part(target: Path) -> Path:
    return target.with_name(f"{PART}{uuid4().hex[:12]}.part")


def _exchanged(one: Path, two: Path) -> bool:
    """Whether two paths could change places in one step, as Linux does it on most file systems."""
    rename = getattr(ctypes.CDLL(None), "renameat2", None) if sys.platform == "linux" else None
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return rename is not None and rename(here, os.fsencode(one), here, os.fsencode(two), exchange) == 0


def _remove_stale(folder: Path) -> None:
    for part in folder.glob(f"{PART}*.part"):
        with suppress(OSError):
            if time.time() - part.lstat().st_mtime > STALE_S:
                shutil.rmtree(part) if part.is_dir() and not part.is_symlink() else part.unlink()


def sync(path: Path) -> None:
    """Bring a file's content to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_atomically(path: Path, text: str) -> None:
    """Write a text file so that a reader sees the old content or the new, never half of it.

    Raises:
        DataError: If it cannot be written.
    """
    with whole_file(path) as part:
        part.write_text(text, encoding="utf-8")


def target_problems(path: Path, *, force: bool) -> list[str]:
    """Why a command may not write a file: what is there is not its own, whatever it is.

    Args:
        path: Of the file.
        force: Whether what is there may be replaced.
    """
    if os.path.isdir(path):
        return [f"{path} is a folder: give a file."]
    return [] if force or not os.path.lexists(path) else [f"{path} exists: --force replaces it."]


def input_problems(path: Path, inputs: Mapping[str, str | Path | None], *, whole: bool = False) -> list[str]:
    """Why an output may not go to a path: it would take the place of something that the same command reads.

    An earlier output may lie in a folder that is read, beside `model/` in a run folder, and be replaced.

    Args:
        path: Of the output, a file or a folder.
        inputs: Names, files and folders by what they are, such as `{"--data": "corpus"}`. What is no path, as the name
            of a packaged set or of a model of the hub, and None are passed over.
        whole: Whether a new file in a folder of the inputs would be read as a part of it, as in a corpus.

    Examples:
        >>> input_problems(Path("/dev/null"), {"--data": "/dev/null"})
        ['/dev/null is read as --data: choose another --output.']
        >>> input_problems(Path("kept.jsonl"), {"--data": "snips", "the scores": None})
        []
    """
    target = path.expanduser().resolve()
    problems = []
    for what, source in inputs.items():
        if source is None or not os.path.lexists(place := Path(source).expanduser()):
            continue
        place = place.resolve()
        if place.is_relative_to(target):
            inside = "is" if place == target else f"holds {source}, which is"
            problems.append(f"{path} {inside} read as {what}: choose another --output.")
        elif target.is_relative_to(place) and (whole or (target.parent != place and os.path.lexists(target))):
            verb = "is" if os.path.lexists(target) else "would be"
            problems.append(f"{path} {verb} a part of {source}, which is read as {what}: choose another --output.")
    return problems


# ---- checksums ----


def seal_of(path: Path) -> str:
    """The size and the checksum of a file, about a third of a second per GB.

    Examples:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     Path(folder, "a").write_bytes(b"abc") and seal_of(Path(folder, "a"))
        '3 352441c2'
    """
    size = total = 0
    with path.open("rb") as stream:
        while piece := stream.read(_PIECE):
            size, total = size + len(piece), zlib.crc32(piece, total)
    return f"{size} {total:08x}"


def damage(folder: Path, seals: Mapping[str, str]) -> str | None:
    """The first file that is not as it was sealed, in words; None where all are.

    Args:
        folder: Of the files.
        seals: From `seal_of`, by the name of the file in the folder.
    """
    for name, seal in seals.items():
        path = folder / name
        if not path.is_file():
            return f"{path} is missing"
        if path.stat().st_size != int(seal.split()[0]):
            return f"{path} is damaged: {path.stat().st_size:,} bytes, not {int(seal.split()[0]):,}"
        if seal_of(path) != seal:
            return f"{path} is damaged or was changed: its checksum is another one"
    return None


# ---- JSON ----


def write_json(path: Path, content: Mapping[str, Any], *, indent: int = 1) -> None:
    """Write a JSON object with a checksum of its own, which `read_json` compares."""
    text = json.dumps(content, ensure_ascii=False)
    sealed = {**content, SUM: _sum(json.loads(text))}
    write_atomically(path, json.dumps(sealed, indent=indent, ensure_ascii=False))


def read_bytes(path: Path, what: str = "") -> bytes:
    """The content of a file; `what` it is stands before its name in messages.

    Raises:
        DataError: If it is missing, may not be read, or is no file: pipes and devices may never end.
    """
    check_file(path, what)
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {what}{path}: {error.strerror}.") from error


def check_file(path: Path, what: str = "") -> None:
    """Refuse what is no file that can be read; see `read_bytes`."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:  # ValueError: a null character in the name
        raise DataError(f"cannot read {what}{cut(str(path))}: {_reason(path, error)}.") from error
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "a pipe, a socket or a device"
        raise DataError(f"cannot read {what}{path}: it is {kind}; give a file.")


def _reason(path: Path, error: OSError | ValueError) -> str:
    reason = getattr(error, "strerror", None) or str(error)
    return f"it is a link to {os.readlink(path)} ({reason})" if os.path.islink(path) else reason


def unwritable(path: Path) -> str | None:
    """Why a file or folder of this name cannot be written, before it is tried; None where nothing is in the way.

    Examples:
        >>> unwritable(Path("/dev/null/scores.csv"))
        '/dev/null is no folder'
    """
    target = Path(os.path.abspath(path))
    try:
        target.lstat()
    except (FileNotFoundError, NotADirectoryError):
        pass  # the usual case
    except (OSError, ValueError) as error:
        return f"{cut(str(path))}: {getattr(error, 'strerror', None) or error}"
    if os.path.lexists(target):
        if not (os.path.isfile(target) or os.path.isdir(target)):
            return f"{path} is {'a dangling link' if os.path.islink(target) else 'a pipe, a socket or a device'}"
        if not os.access(target, os.W_OK):
            return f"{path} may not be written to"
    place = next(folder for folder in target.parents if os.path.lexists(folder))
    if not os.path.isdir(place):
        return f"{place} is {'a file' if os.path.isfile(place) else 'no folder'}"
    return None if os.access(place, os.W_OK | os.X_OK) else f"{place} may not be written to"


def read_json(path: Path, what: str, schema: int = SCHEMA) -> dict[str, Any]:
    """A JSON object with the version of its layout in `schema`; its checksum, where it has one, is not in the result.

    Args:
        path: The file.
        what: What the folder lacks if the file is missing, for the error.
        schema: The version that is read.

    Raises:
        DataError: If the file is missing, broken, or of another schema.
    """
    if not os.path.lexists(path):
        raise DataError(f"{cut(str(path.parent))} holds no {what}: {path.name} is missing.")
    data = read_bytes(path)
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:  # ValueError: also for other encodings, and numbers without end
        raise DataError(f"{path} is not valid JSON: {error}.") from error
    version = content.get("schema") if isinstance(content, dict) else None
    if version != schema:
        raise DataError(f"{path} has schema {quoted(version)}; this version reads {schema}.")
    told = content.pop(SUM, None)
    if told is not None and told != _sum(content):
        raise DataError(f"{path} is damaged or was changed: its checksum is another one. Remove {SUM} to read it.")
    return dict(content)


def misfit(content: Any, form: Any, name: str) -> str | None:
    """What in JSON content has not the form that is needed, in words; None where it fits.

    Args:
        content: As read.
        form: A type; a list with the form of its items; a mapping with the forms of its entries, `...` for all others;
            a tuple of forms that are allowed, None for null. An entry whose name ends in `?` may be missing.
        name: Of the content, for the sentence.

    Examples:
        >>> misfit({"rows": "many"}, {"rows": int}, "result.json")
        "result.json: rows is 'many'"
        >>> misfit({"rows": 5}, {"rows": (int, float), "task?": str}, "result.json")
    """
    if isinstance(form, tuple):
        problems = [misfit(content, one, name) for one in form]
        return None if None in problems else problems[-1]
    if isinstance(form, list) and isinstance(content, list):
        items = (misfit(item, form[0], f"{name}: {place}") for place, item in enumerate(content))
        return next(filter(None, items), None)
    if isinstance(form, dict) and isinstance(content, dict):
        lacks = [key for key in form if key is not ... and key not in content and not key.endswith("?")]
        entries = ((key, value, form.get(key, form.get(f"{key}?", form.get(...)))) for key, value in content.items())
        wrong = (misfit(value, one, f"{name}: {cut(key)}") for key, value, one in entries if one is not None)
        return f"{name} lacks {lacks[0]}" if lacks else next(filter(None, wrong), None)
    fits = content is None if form is None else isinstance(form, type) and isinstance(content, form)
    if isinstance(content, (int, float)):  # JSON has larger numbers than Python can compute with
        fits = fits and math.isfinite(content) and abs(content) < 2**63
    return None if fits else f"{name} is {quoted(content)}"


def _sum(content: object) -> str:
    return f"{zlib.crc32(json.dumps(content, sort_keys=True).encode()):08x}"


def plain(content: Any) -> Any:
    """Plain JSON values: text keys, lists, and null for numbers that are not finite, which JSON does not have.

    Examples:
        >>> plain({"keep": {1: 0.7}, "loss": float("nan"), "tags": ("a",)})
        {'keep': {'1': 0.7}, 'loss': None, 'tags': ['a']}
    """
    if isinstance(content, Mapping):
        return {str(name): plain(value) for name, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [plain(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


# ---- locks ----


@contextmanager
def locked(path: Path, refusal: str) -> Iterator[None]:
    """Keep other processes out while the block runs. The system takes the lock from a process that has ended.

    Args:
        path: The lock; its folder is made. Holds the number of the process, and is removed at the end.
        refusal: Of the process that comes second, without a full stop.

    Raises:
        ArgumentError: If another process holds it.
        DataError: If it cannot be written.
    """
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        except OSError as error:
            raise DataError(f"cannot write {path}: {error.strerror or error}.") from error
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            number = os.read(handle, 20).decode(errors="replace").strip()
            os.close(handle)
            raise ArgumentError(f"{refusal} (process {number}).") from None
        except OSError:  # a file system without locks
            pass
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(handle), path.stat()):
                break
        os.close(handle)  # the one before has removed it meanwhile
    try:
        os.ftruncate(handle, 0)
        os.write(handle, str(os.getpid()).encode())
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(handle)
