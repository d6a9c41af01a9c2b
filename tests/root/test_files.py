"""Files and folders that appear whole or not at all, checksums, locks."""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from datadiet import files
from datadiet.errors import ArgumentError, DataError
from datadiet.files import (
    PART,
    STALE_S,
    damage,
    locked,
    read_json,
    seal_of,
    target_problems,
    whole_file,
    whole_folder,
    write_atomically,
    write_json,
)  # fmt: skip


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir())


def test_nothing_is_written_through_a_link(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    victim, target = tmp_path / "victim", tmp_path / "out" / "result.json"
    victim.write_text("mine")
    target.parent.mkdir()
    target.symlink_to(victim)
    write_atomically(target, "new")
    assert (victim.read_text(), target.read_text(), target.is_symlink()) == ("mine", "new", False)
    monkeypatch.setattr(files, "_part", lambda target: target.with_name(f"{PART}guessed.part"))
    (tmp_path / "out" / f"{PART}guessed.part").symlink_to(victim)
    with pytest.raises(DataError, match=r"cannot write .*other: File exists"):
        write_atomically(tmp_path / "out" / "other", "new")
    assert victim.read_text() == "mine"


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "a"
    target.write_text("old")

    def write() -> None:
        with whole_file(target) as part:
            part.write_text("half")
            raise RuntimeError("died")

    with pytest.raises(RuntimeError, match="died"):
        write()
    assert (target.read_text(), names(tmp_path)) == ("old", ["a"])


def test_what_a_killed_process_left_goes_after_a_day(tmp_path: Path) -> None:
    old, new = tmp_path / f"{PART}old.part", tmp_path / f"{PART}new.part"
    old.touch()
    new.touch()
    os.utime(old, (0, time.time() - STALE_S - 1))
    write_atomically(tmp_path / "a", "1")
    assert names(tmp_path) == [new.name, "a"]


@pytest.mark.parametrize("at_once", [True, False])
def test_a_folder_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_once: bool) -> None:
    if not at_once:
        monkeypatch.setattr(files, "_exchanged", lambda *_: False)
    target = tmp_path / "saved"
    for content in ("one", "two"):
        with whole_folder(target) as part:
            (part / content).touch()
    assert (names(target), names(tmp_path)) == (["two"], ["saved"])


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "renameat2"), reason="renames in two steps")
def test_there_is_no_moment_without_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = tmp_path / "saved"
    target.mkdir()
    monkeypatch.setattr(Path, "replace", lambda *_: pytest.fail("the folder is away for a moment"))
    with whole_folder(target) as part:
        (part / "new").touch()
    assert names(target) == ["new"]


@pytest.mark.parametrize(
    ("content", "said"),
    [(None, "is missing"), (b"abcde", "5 bytes, not 6"), (b"abcdeF", "its checksum is another one"), (b"abcdef", None)],
)
def test_a_damaged_file_is_found(tmp_path: Path, content: bytes | None, said: str | None) -> None:
    (tmp_path / "a").write_bytes(b"abcdef")
    seals = {"a": seal_of(tmp_path / "a")}
    (tmp_path / "a").unlink()
    if content is not None:
        (tmp_path / "a").write_bytes(content)
    found = damage(tmp_path, seals)
    assert found is None if said is None else found is not None and said in found and str(tmp_path / "a") in found


def test_json_has_a_checksum_of_its_own(tmp_path: Path) -> None:
    file, content = tmp_path / "a.json", {"schema": 1, "keep": {"1": 0.7}, "loss": 0.1 + 0.2, "name": "\u00e9"}
    write_json(file, content)
    assert read_json(file, "thing") == content
    text = file.read_text(encoding="utf-8")
    file.write_text(text.replace("0.7", "0.6"), encoding="utf-8")
    with pytest.raises(DataError, match=r"a\.json is damaged or was changed: .* Remove crc32 to read it"):
        read_json(file, "thing")
    edited = json.loads(file.read_text(encoding="utf-8"))
    del edited["crc32"]
    file.write_text(json.dumps(edited), encoding="utf-8")
    assert read_json(file, "thing")["keep"] == {"1": 0.6}


def test_one_process_at_a_time(tmp_path: Path) -> None:
    lock = tmp_path / "run" / ".lock"
    with locked(lock, "it is being written"):
        with (
            pytest.raises(ArgumentError, match=rf"it is being written \(process {os.getpid()}\)"),
            locked(lock, "it is being written"),
        ):
            pass
        assert lock.exists()
    assert not lock.exists()


def test_the_lock_of_a_process_that_was_killed_is_taken_over(tmp_path: Path) -> None:
    code = f"""
import os, signal, sys
from pathlib import Path
from datadiet.files import locked
with locked(Path({str(tmp_path / "lock")!r}), ""):
    print("locked", flush=True)
    signal.pause()
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"locked\n"
        with pytest.raises(ArgumentError, match=rf"busy \(process {other.pid}\)"), locked(tmp_path / "lock", "busy"):
            pass
        other.kill()
    assert (tmp_path / "lock").exists()
    with locked(tmp_path / "lock", "busy"):
        assert (tmp_path / "lock").read_text() == str(os.getpid())


def test_a_target_is_never_something_else(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "nowhere").symlink_to(tmp_path / "gone")
    os.mkfifo(tmp_path / "pipe")
    for name in ("file", "nowhere", "pipe"):
        assert target_problems(tmp_path / name, force=False) == [f"{tmp_path / name} exists: --force replaces it."]
        assert target_problems(tmp_path / name, force=True) == []
    assert target_problems(tmp_path, force=True) == [f"{tmp_path} is a folder: give a file."]
    assert target_problems(tmp_path / "new", force=False) == []
