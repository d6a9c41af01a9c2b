"""Arrays of one value per training row: in memory, or, where they are too large, in files mapped into memory.

The system writes mapped values to the disk and drops them from memory when it needs the room; rows that train in a
random order make it write each page many times, so that nothing is mapped where memory will do. The files have no name:
a process that ends, however it ends, leaves none behind, and none is ever read again. A run is resumed from its
checkpoints, which hold the same values.
"""

from __future__ import annotations

import os
import tempfile
import weakref
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from datadiet.errors import DataError

ROW_BYTES = 64  # of a row in all arrays together, at most in the usual diets
MAPPED_SHARE = 0.5  # of the machine's memory, that they may take before they are mapped


def machine_bytes() -> int:
    """The memory of this machine; 0 where the system does not say, and nothing is mapped."""
    names = getattr(os, "sysconf_names", {})
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if "SC_PHYS_PAGES" in names else 0


class RowArrays:
    """Where the arrays of a run are: mapped where they would take more than `MAPPED_SHARE` of the machine's memory.

    Args:
        num_rows: Training rows.
        folder: Where the files are; made where it is missing. The system's folder for temporary files by default.

    Attributes:
        mapped: Whether arrays are in files.
    """

    def __init__(self, num_rows: int, folder: Path | None = None) -> None:
        self._num_rows, self._folder = num_rows, folder
        self.mapped = 0 < MAPPED_SHARE * machine_bytes() < ROW_BYTES * num_rows
        self._files: list[weakref.ref[Any]] = []

    def full(self, fill: float | bool, dtype: DTypeLike) -> NDArray[Any]:
        """A new array with the same value for each row, `(num_rows,)`.

        Raises:
            DataError: If the disk has no room for it.
        """
        if not self.mapped:
            return np.full(self._num_rows, fill, dtype)
        array = self._new(np.dtype(dtype), (self._num_rows,))
        if fill:  # a new file is zeros
            array[:] = fill
        return array

    def taken(self, array: NDArray[Any]) -> NDArray[Any]:
        """The same values in an array of its own, of any shape."""
        if not self.mapped:
            return np.array(array)
        copy = self._new(array.dtype, array.shape)
        copy[...] = array
        return copy

    def flush(self) -> None:
        """Write what is mapped to the disk, so that the system can drop it from memory at no cost."""
        found = [(file, file()) for file in self._files]
        self._files = [file for file, array in found if array is not None]
        for _, array in found:
            if array is not None:
                array.flush()

    def _new(self, dtype: np.dtype[Any], shape: tuple[int, ...]) -> NDArray[Any]:
        size = dtype.itemsize * int(np.prod(shape))
        try:
            if self._folder is not None:
                self._folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self._folder) as file:
                if hasattr(os, "posix_fallocate"):  # else a full disk would end the process in the middle of a write
                    os.posix_fallocate(file.fileno(), 0, size)
                array = np.memmap(file, dtype, "r+" if file.seek(0, os.SEEK_END) else "w+", shape=shape)
        except OSError as error:
            where = tempfile.gettempdir() if self._folder is None else self._folder
            needed = f"{self._num_rows:,} rows needs about {ROW_BYTES * self._num_rows / 1e9:.0f} GB there"
            raise DataError(
                f"cannot keep {size / 1e9:.1f} GB of values in {where}: {error.strerror or error}. A diet on {needed}; "
                "give another run folder."
            ) from error
        self._files.append(weakref.ref(array))
        return array.view(np.ndarray)
