"""Entries that runs share: the same as computed anew, charged to each, never wrong or broken; and values by id."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_array_equal

from datadiet.errors import ArgumentError, DataError
from datadiet.jobs import features
from datadiet.ledger import Ledger
from datadiet.store import cache
from datadiet.store.cache import ARRAYS, ENTRY, entry, load_arrays, load_values, save_arrays, save_values
from toys import Killed

ORIGIN = {"data": "abc", "rows": [1, 2]}
VALUES = {"values": np.arange(6, dtype=np.float16).reshape(3, 2), "starts": np.arange(4)}
ROWS = datasets.Dataset.from_dict({"input_ids": [[1, 2], [3]]})


def never() -> Any:
    raise AssertionError("computed again")


def arrays(folder: Path, compute: Any = lambda: VALUES, origin: Any = ORIGIN, **options: Any) -> Any:
    return entry(folder, "arrays", origin, compute, **{"save": save_arrays, "load": load_arrays, **options})


def tokens(folder: Path, compute: Any = lambda: ROWS, **options: Any) -> Any:
    return entry(
        folder, "tokens", ORIGIN, compute, save=features._save, load=partial(features._load, rows=2), **options
    )


def plain(value: Any) -> Any:
    return value.to_dict() if isinstance(value, datasets.Dataset) else {key: one.tolist() for key, one in value.items()}


@pytest.mark.parametrize("use", [arrays, tokens])
def test_a_reused_result_is_the_computed_one_and_its_seconds_are_charged(tmp_path: Path, use: Any) -> None:
    ledger = Ledger()
    first = use(tmp_path / "new", ledger=ledger)
    assert (first.reused, first.problem, ledger.snapshot().shared_s) == (False, None, 0)
    (place,) = (tmp_path / "new").iterdir()
    change(seconds=100.0)(place)
    with ledger.charge("score"):
        second = use(tmp_path / "new", never, ledger=ledger)
    assert (second.reused, plain(second.value)) == (True, plain(first.value))
    assert ledger.snapshot().shared_s == 100
    assert ledger.snapshot().score_s > 100
    assert not [file for file in place.iterdir() if file.suffix in (".pkl", ".pt", ".bin")]


def test_types_stay_and_another_origin_is_another_entry(tmp_path: Path) -> None:
    arrays(tmp_path)
    found = arrays(tmp_path, never).value
    assert (found["values"].dtype, found["starts"].dtype) == (np.float16, np.int64)
    other = arrays(tmp_path, lambda: {"values": np.zeros(1)}, {**ORIGIN, "data": "abd"})
    assert (other.reused, other.value["values"].tolist(), len(list(tmp_path.iterdir()))) == (False, [0.0], 2)


# ---- broken and foreign entries


def change(**changes: Any) -> Any:
    def edit(place: Path) -> None:
        about = json.loads((place / ENTRY).read_text(encoding="utf-8"))
        (place / ENTRY).write_text(json.dumps({**about, **changes}), encoding="utf-8")

    return edit


def data_file(place: Path) -> Path:
    (file,) = [*place.glob("*.arrow"), *place.glob("*.npz")]
    return file


def replaced(place: Path, content: Any) -> None:
    """Whole files, but of something else."""
    if (place / ARRAYS).exists():
        np.savez(place / ARRAYS, values=np.array([{}]), allow_pickle=True)  # reading it back would run code
    else:
        content.save_to_disk(str(place))
    change(files=cache.sizes(place))(place)


def same_size(place: Path) -> None:
    file = data_file(place)
    file.write_bytes(b"x" * file.stat().st_size)


BREAKS: dict[str, Any] = {
    "no entry": lambda place: (place / ENTRY).unlink(),
    "no JSON": lambda place: (place / ENTRY).write_text("{"),
    "no content": lambda place: (place / ENTRY).write_text(json.dumps({"schema": cache.ENTRY_SCHEMA})),
    "other schema": change(schema=1),
    "other origin": change(origin={"data": "other"}),
    "no seconds": change(seconds=None),
    "endless": change(seconds=float("inf")),
    "negative": change(seconds=-1.0),
    "cut": lambda place: data_file(place).write_bytes(data_file(place).read_bytes()[:-8]),
    "same size": same_size,
    "no data": lambda place: data_file(place).unlink(),
    "one more file": lambda place: (place / "more").write_text(""),
    "something else": partial(replaced, content=datasets.Dataset.from_dict({"input_ids": [[1]]})),
}


@pytest.mark.parametrize("use", [arrays, tokens])
@pytest.mark.parametrize("name", BREAKS)
def test_a_broken_entry_is_computed_anew(tmp_path: Path, name: str, use: Any) -> None:
    expected = plain(use(tmp_path).value)
    (place,) = tmp_path.iterdir()
    BREAKS[name](place)
    ledger = Ledger()
    again = use(tmp_path, ledger=ledger)
    assert (again.reused, plain(again.value), ledger.snapshot().shared_s) == (False, expected, 0)
    last = use(tmp_path, never)
    assert (last.reused, plain(last.value)) == (True, expected)
    assert list(tmp_path.iterdir()) == [place]


def test_a_changed_bit_of_an_array_is_noticed(tmp_path: Path) -> None:
    arrays(tmp_path)
    (file,) = tmp_path.glob(f"*/{ARRAYS}")
    content = bytearray(file.read_bytes())
    content[content.index(VALUES["values"].tobytes())] ^= 1
    file.write_bytes(bytes(content))
    assert not arrays(tmp_path).reused


# ---- several processes, and folders that cannot be used


def test_many_at_once_leave_one_whole_entry(tmp_path: Path) -> None:
    together = threading.Barrier(8)

    def compute() -> Any:
        together.wait()
        return VALUES

    with ThreadPoolExecutor(8) as pool:
        results = [done.result() for done in [pool.submit(arrays, tmp_path, compute) for _ in range(8)]]
    assert all(plain(result.value) == plain(VALUES) and result.problem is None for result in results)
    assert len(list(tmp_path.iterdir())) == 1
    assert arrays(tmp_path, never).reused


def test_the_first_of_two_stays(tmp_path: Path) -> None:
    def slower() -> Any:
        arrays(tmp_path, lambda: {"values": np.ones(1)})  # another process finishes meanwhile
        return {"values": np.zeros(1)}

    for _ in range(2):
        assert arrays(tmp_path, slower).value["values"].tolist() == [1.0]


def test_a_write_that_is_killed_leaves_nothing_that_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*_args: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(cache, "write_atomically", killed)
        patch.setattr(cache.shutil, "rmtree", lambda *_args, **_options: None)  # there is no time to tidy up
        with pytest.raises(Killed):
            arrays(tmp_path)
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(cache.PART)
    assert not arrays(tmp_path).reused
    assert left.exists()  # another process may be writing it
    monkeypatch.setattr(cache, "STALE_S", -1)
    arrays(tmp_path, origin={"data": "more"})
    assert not left.exists()


@pytest.mark.parametrize(
    ("error", "problem"),
    [
        (OSError(28, "No space left on device"), "No space left on device"),
        (ArgumentError("logits must be finite."), "logits must be finite"),
    ],
)
def test_a_result_that_cannot_be_stored_is_returned_with_the_reason(
    tmp_path: Path, error: Exception, problem: str
) -> None:
    def save(*_args: Any) -> None:
        raise error

    found = arrays(tmp_path, save=save)
    assert (plain(found.value), found.reused, found.problem) == (plain(VALUES), False, problem)
    assert list(tmp_path.iterdir()) == []


def test_an_error_of_the_computation_is_raised(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="computed again"):
        arrays(tmp_path, never)


def test_no_bar_is_drawn_and_none_is_taken_away(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    before = datasets.utils.are_progress_bars_disabled()
    tokens(tmp_path)
    assert "Saving" not in capfd.readouterr().err
    assert datasets.utils.are_progress_bars_disabled() == before


# ---- values by id

IDS = ["a", "b", "c"]


def test_values_come_back_as_they_were(tmp_path: Path) -> None:
    path, values = tmp_path / "deep" / "il.parquet", np.array([0.1, 2.0, 3.0], np.float32)
    for kept in (values, np.stack([values, values], 1).astype(np.float16)):
        save_values(path, IDS, kept, what="irreducible_loss", fingerprint="f")
        found = load_values(path, ["b", "a"], what="irreducible_loss", fingerprint="f")
        assert found.dtype == kept.dtype
        assert_array_equal(found, kept[[1, 0]])
        assert len(load_values(path, [], what="irreducible_loss")) == 0
    assert [item.name for item in path.parent.iterdir()] == ["il.parquet"]


def test_values_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "il.parquet"
    save_values(path, IDS, np.zeros(3, np.float32), what="loss", fingerprint="f")
    (tmp_path / "text.parquet").write_text("no table")
    pd.DataFrame({"id": IDS, "values": [1.0, 2.0, 3.0]}).to_parquet(tmp_path / "other.parquet")
    for name, ids, options, message in (
        ("il", IDS, {"fingerprint": "g"}, r"computed on other data \(fingerprint f, here g\): compute it again"),
        ("il", IDS, {"what": "teacher_logits"}, "holds 'loss', not 'teacher_logits'"),
        ("il", ["a", "x", "y"], {}, "lacks 2 ids, among them 'x', 'y'"),
        ("no", IDS, {}, "does not exist"),
        ("text", IDS, {}, "cannot be read as Parquet"),
        ("other", IDS, {}, "was not written by datadiet"),
    ):
        with pytest.raises(DataError, match=message):
            load_values(tmp_path / f"{name}.parquet", ids, **{"what": "loss", **options})


def test_values_that_cannot_be_kept_are_not_written(tmp_path: Path) -> None:
    for ids, values, message in (
        (["a", "b", "a"], np.zeros(3), "ids must be different, 'a' is there more than once"),
        (IDS, np.array([0.0, np.nan, 0.0]), "must be finite; they are not for 'b'"),
        (IDS, np.zeros(2), r"one value or one row of values per id is needed: got \(2,\) for 3 ids"),
    ):
        with pytest.raises(ArgumentError, match=message):
            save_values(tmp_path / "il.parquet", ids, values, what="x")
    assert list(tmp_path.iterdir()) == []
