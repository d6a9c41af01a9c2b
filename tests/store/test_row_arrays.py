"""Arrays of a run in memory and in mapped files: the same values, no file left, room asked for before it is used."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal

from datadiet.diet.diet import Diet
from datadiet.errors import DataError
from datadiet.store import row_arrays
from datadiet.store.row_arrays import RowArrays
from datadiet.training.state import load_diet, save_diet
from datadiet.types import HeadSignals, Signals

ROWS = 400


@pytest.fixture
def mapped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_arrays, "machine_bytes", lambda: ROWS * row_arrays.ROW_BYTES)


def test_where_the_memory_is_not_known_nothing_is_mapped(monkeypatch: pytest.MonkeyPatch) -> None:
    assert row_arrays.machine_bytes() > 1e8
    monkeypatch.setattr(row_arrays, "machine_bytes", lambda: 0)
    assert not RowArrays(10**12).mapped


def test_few_rows_stay_in_memory(tmp_path: Path) -> None:
    arrays = RowArrays(ROWS, tmp_path / "run")
    assert not arrays.mapped
    assert_array_equal(arrays.full(np.nan, np.float32), np.full(ROWS, np.nan, np.float32))
    given = np.arange(ROWS)
    assert not np.shares_memory(arrays.taken(given), given)
    assert not (tmp_path / "run").exists()


@pytest.mark.usefixtures("mapped")
@pytest.mark.parametrize("fill", [0.0, np.nan, np.inf, True])
def test_mapped_arrays_hold_their_values_and_leave_no_file(tmp_path: Path, fill: float) -> None:
    arrays = RowArrays(ROWS, tmp_path / "run")
    assert arrays.mapped
    array = arrays.full(fill, np.float32)
    assert_array_equal(array, np.full(ROWS, fill, np.float32))
    assert isinstance(array.base, np.memmap)
    array[3] = 0.25
    arrays.flush()
    assert array[3] == 0.25
    table = np.arange(2 * ROWS, dtype=np.float32).reshape(2, ROWS)
    assert_array_equal(arrays.taken(table), table)
    assert not list((tmp_path / "run").iterdir())  # the files have no name


@pytest.mark.usefixtures("mapped")
def test_without_a_folder_the_files_are_temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_arrays.tempfile, "tempdir", str(tmp_path))
    assert isinstance(RowArrays(ROWS).full(1.0, np.float32).base, np.memmap)
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("mapped")
def test_a_full_disk_is_said_before_anything_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    with pytest.raises(
        DataError, match=r"cannot keep 0\.0 GB of values in .*: No space left on device\. A diet on 400"
    ):
        Diet(keep=0.5).begin(ROWS, epochs=4, folder=tmp_path / "run")


@pytest.mark.parametrize(
    "options",
    [
        {"select": "hardest", "offset": "auto"},
        {"select": "visits", "history": "ema"},
        {"select": "cover", "history": "mean"},
        {"score": "aum", "select": "hardest", "offset": 0.0},
    ],
    ids=str,
)
def test_a_run_in_mapped_files_is_that_in_memory_to_the_last_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, object]
) -> None:
    """Also after a kill inside an epoch: the resumed run goes on with the arrays of its checkpoint."""
    found = {}
    for name, memory in (("memory", 1 << 40), ("mapped", ROWS)):
        monkeypatch.setattr(row_arrays, "machine_bytes", lambda memory=memory: memory)
        assert RowArrays(ROWS).mapped == (name == "mapped")
        found[name] = [ran(tmp_path / f"{name}-{killed}", options, killed=killed) for killed in (False, True)]
    reference = found["memory"][0]
    assert any(name.startswith("current.") for name in reference)
    for states in found.values():
        for state in states:
            assert state.keys() == reference.keys()
            for name, array in state.items():
                assert array.dtype == reference[name].dtype
                assert array.tobytes() == reference[name].tobytes(), name


def ran(folder: Path, options: dict[str, object], *, killed: bool) -> dict[str, np.ndarray]:
    """The last state of four epochs, interrupted in the third or not."""
    generator = np.random.default_rng(0)
    logits = torch.from_numpy(generator.normal(size=(4, ROWS, 3)).astype(np.float32))
    labels, groups = torch.from_numpy(np.arange(ROWS) % 3), np.arange(ROWS) % 3
    logits[:, torch.arange(ROWS), labels] += 3 * torch.from_numpy(generator.random(ROWS).astype(np.float32))
    settings = {"epochs": 4, "batch": 20, "groups": groups, "folder": folder}

    def new(state: object = None) -> Diet:
        diet = Diet(keep=0.5, refresh_every=1, **options)  # type: ignore[arg-type]
        diet.begin(ROWS, state=state, **settings)  # type: ignore[arg-type]
        return diet

    diet = new()
    for epoch in range(4):
        diet.absorb(diet.drain())
        rows = diet.plan(epoch).rows
        for number, part in enumerate(np.array_split(rows, 10)):
            if killed and (epoch, number) == (2, 5):
                (folder / "checkpoint").mkdir()
                save_diet(folder / "checkpoint", *diet.state_dict())
                diet = new(load_diet(folder / "checkpoint"))
            where = torch.from_numpy(part)
            diet.observe(where, Signals({"label": HeadSignals(logits[epoch, where], labels[where])}), epoch=epoch)
    return {name: np.array(array) for name, array in diet.state_dict()[0].items()}
