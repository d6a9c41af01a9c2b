"""Training dynamics of a run: one line per example, computed from its score history."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from datadiet.config import read_config
from datadiet.data.load import load_configured
from datadiet.errors import ArgumentError, DataError, Problems, UserError
from datadiet.files import whole_file, write_atomically
from datadiet.scores.dynamics import COLUMNS, Dynamics, training_dynamics
from datadiet.store import run_folder
from datadiet.store.tables import MANIFEST, read_manifest

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

SOURCES = ("train", "pass", "probe")
SUFFIXES = (".parquet", ".jsonl")
NEVER_LEARNED = 1000  # as in cartography
_BLOCK = 100_000  # examples at a time: float64 copies of all rounds are made of one block only
_MOMENT = "moment"  # a pass has none, except one of `datadiet.Probe`
_NO_RUN = "holds no score history"


@dataclass(frozen=True)
class DynamicsTable:
    """Training dynamics with ids and labels, in the order of the training split.

    Attributes:
        ids: The user's ids, `(n,)`; the row number of a row that was never seen.
        labels: The gold labels, `(n,)`; None where unknown.
        dynamics: As published, see `datadiet.scores.dynamics.Dynamics`.
        rounds: Number of rounds.
    """

    ids: Sequence[str]
    labels: Sequence[Any] | None
    dynamics: Dynamics
    rounds: int

    def __len__(self) -> int:
        return len(self.dynamics)

    def to_pandas(self) -> pd.DataFrame:
        """`id`, `row`, `label`, `times`, and the quantities; nan where unknown, inf where never learned."""
        import pandas as pd

        labels = [None] * len(self) if self.labels is None else list(self.labels)
        columns = {"id": list(self.ids), "row": np.arange(len(self)), "label": labels}
        return pd.DataFrame({**columns, "times": self.dynamics.times.astype(np.int32), **self.dynamics.columns()})

    def save(self, path: str | Path) -> None:
        """Write the table as .parquet or .jsonl; in JSON, which has neither nan nor inf, both are null.

        Raises:
            ArgumentError: If the file has another ending.
        """
        target = Path(path)
        if target.suffix not in SUFFIXES:
            raise ArgumentError(f"a table can be written as {' or '.join(SUFFIXES)}, got {target.name!r}.")
        if target.suffix == ".jsonl":
            write_atomically(target, _lines(self.to_pandas()))
            return
        with whole_file(target) as part:
            self.to_pandas().to_parquet(part, index=False)

    def to_cartography(self) -> pd.DataFrame:
        """The columns of allenai/cartography's `td_metrics.jsonl`, of the examples that were seen.

        `guid, index, threshold_closeness, confidence, variability, correctness, forgetfulness`; an example that was
        never learned has a forgetfulness of 1000. `save_cartography` writes the file.

        Raises:
            DataError: If the run has no gold probabilities (a regression), or did not record correctness.
        """
        import pandas as pd

        dynamics = self.dynamics
        seen = np.flatnonzero(dynamics.times)
        for name in ("confidence", "correctness"):
            if not np.isfinite(getattr(dynamics, name)[seen]).all() or not len(seen):
                raise DataError(f"the run has no {name}: a data map needs class probabilities and correctness.")
        forgotten = np.where(np.isinf(dynamics.forgetting), NEVER_LEARNED, dynamics.forgetting)
        return pd.DataFrame(
            {
                "guid": [self.ids[row] for row in seen.tolist()],
                "index": seen,
                "threshold_closeness": dynamics.threshold_closeness[seen],
                "confidence": dynamics.confidence[seen],
                "variability": dynamics.variability[seen],
                "correctness": dynamics.correctness[seen].astype(np.int64),
                "forgetfulness": forgotten[seen].astype(np.int64),
            }
        )

    def save_cartography(self, path: str | Path) -> None:
        """Write `to_cartography` as JSON lines, which cartography's plots and filters read."""
        write_atomically(Path(path), _lines(self.to_cartography()))


def dynamics(
    path: str | Path,
    *,
    source: str = "train",
    burn_out: int | None = None,
    learning_rates: ArrayLike | None = None,
    labels: Sequence[Any] | None = None,
) -> DynamicsTable:
    """Data maps, forgetting, AUM and influence of every training example, from the score history of a run.

    Args:
        path: A run folder, finished or not, or its scores/.
        source: Which values: `train`, one round per epoch of training forwards (dropout on); `pass`, one per scoring
            pass of the diet; `probe`, one per pass of `datadiet.Probe`.
        burn_out: Use only this many first rounds.
        learning_rates: One per round, for `tracin`; 1 by default.
        labels: Gold labels by row; by default those of the data that the run's config names, where it is unchanged.

    Returns:
        A line per example. An example that a diet has dropped has fewer values than others; for a fair map of all
        examples train with `keep=1`, which records the same columns.

    Raises:
        ArgumentError: If an argument is out of range.
        DataError: If there is no score history, or none of that source.

    Example:
        >>> # table = dynamics("runs/sst2"); table.to_pandas().sort_values("aum").head()
        >>> # table.save("dynamics.parquet"); table.save_cartography("td_metrics.jsonl")

    Source: see `datadiet.scores.dynamics`.
    """
    problems = Problems()
    problems.choice("source", source, SOURCES)
    problems.raise_any()
    scores, parts, number = _history(Path(path), source)
    if labels is not None and len(labels) != number:
        raise ArgumentError(f"labels must be one per training row: got {len(labels)} for {number} rows.")
    tables = {name: _rounds(parts, name, number) for name in COLUMNS if name in parts[0].column_names}
    return DynamicsTable(
        ids=_ids(parts, number),
        labels=labels if labels is not None else _labels(scores.parent),
        dynamics=_in_blocks(tables, number, learning_rates, burn_out),
        rounds=len(parts) if burn_out is None else burn_out,
    )


@dataclass(frozen=True)
class Rounds:
    """The recorded values of each training example, round by round.

    Attributes:
        columns: float32 `(rounds, n)` by name, of `datadiet.scores.dynamics.COLUMNS`; nan where unseen.
        ids: The user's ids, `(n,)`; None for a row that was never seen.
    """

    columns: Mapping[str, NDArray[np.float32]]
    ids: Sequence[str | None]


def recorded_rounds(path: str | Path, *, source: str = "train") -> Rounds:
    """The score history of a run as tables, one round per line.

    Args:
        path: A run folder, or its scores/.
        source: See `dynamics`.

    Raises:
        DataError: If there is no score history, or none of that source.
    """
    _, parts, number = _history(Path(path), source)
    names = _ids(parts, number)
    seen = np.zeros(number, np.bool_)
    for part in parts:
        seen[part["row"].to_numpy()] = True
    tables = {name: _rounds(parts, name, number) for name in COLUMNS if name in parts[0].column_names}
    return Rounds(tables, [name if was_seen else None for name, was_seen in zip(names, seen.tolist(), strict=True)])


def _history(folder: Path, source: str) -> tuple[Path, list[pa.Table], int]:
    """The folder of a score history, its parts of one source, and the number of training rows."""
    scores = folder if (folder / MANIFEST).is_file() else folder / run_folder.SCORES
    if not (scores / MANIFEST).is_file():
        raise DataError(f"{folder} {_NO_RUN}: {run_folder.SCORES}/{MANIFEST} is missing.")
    parts = [part for part in _parts(scores) if part.num_rows and _source(part) == source]
    if not parts:
        raise DataError(f"{folder} has no values of source {source!r}; {_others(scores)}.")
    number = max(_known_rows(scores.parent), 1 + max(int(np.max(part["row"].to_numpy())) for part in parts))
    return scores, parts, number


def _parts(scores: Path) -> Iterator[pa.Table]:
    import pyarrow.parquet as pq

    columns = ("row", "id", "source", _MOMENT, *COLUMNS)
    for name in read_manifest(scores)["parts"]:
        with pq.ParquetFile(scores / name) as file:
            available = file.schema_arrow.names
            yield file.read(columns=[column for column in columns if column in available])


def _source(part: pa.Table) -> str:
    """The source of a part; all lines of a part have the same."""
    source = str(part["source"][0].as_py())
    probed = source == "pass" and _MOMENT in part.column_names and not math.isnan(part[_MOMENT][0].as_py())
    return "probe" if probed else source


def _others(scores: Path) -> str:
    sources = sorted({_source(part) for part in _parts(scores) if part.num_rows})
    return f"there are {', '.join(sources)}" if sources else "it is empty so far"


def _known_rows(folder: Path) -> int:
    """Number of training rows in the run's result; 0 without a result."""
    try:
        return int(run_folder.read_result(folder)["data"]["rows"]["train"])
    except (UserError, KeyError, TypeError):
        return 0


def _rounds(parts: Sequence[pa.Table], name: str, number: int) -> NDArray[np.float32]:
    """One column as `(rounds, n)`, nan where unseen."""
    table = np.full((len(parts), number), np.nan, np.float32)
    for values, part in zip(table, parts, strict=True):
        if name in part.column_names:
            values[part["row"].to_numpy()] = part[name].to_numpy()
    return table


def _ids(parts: Sequence[pa.Table], number: int) -> list[str]:
    ids = [str(row) for row in range(number)]
    missing = np.ones(number, np.bool_)
    for part in parts:
        rows = part["row"].to_numpy()
        new = np.flatnonzero(missing[rows])
        for place, key in zip(rows[new].tolist(), part["id"].take(new).to_pylist(), strict=True):
            ids[place] = str(key)
        missing[rows] = False
    return ids


def _labels(folder: Path) -> list[Any] | None:
    """The labels of the run's data, if they are still available and unchanged."""
    try:
        data = load_configured(read_config(folder / run_folder.CONFIG))
        unchanged = data.fingerprint == run_folder.read_result(folder)["data"]["fingerprint"]
    except (UserError, OSError):
        return None
    labels = data.splits["train"].labels
    return list(labels) if unchanged and labels is not None else None


def _in_blocks(
    tables: dict[str, NDArray[np.float32]], number: int, learning_rates: ArrayLike | None, burn_out: int | None
) -> Dynamics:
    """The quantities, in blocks of examples to bound the memory."""
    blocks = [
        training_dynamics(
            {name: table[:, start : start + _BLOCK] for name, table in tables.items()},
            learning_rates=learning_rates,
            burn_out=burn_out,
        )
        for start in range(0, number, _BLOCK)
    ]
    return Dynamics(
        **{field.name: np.concatenate([getattr(block, field.name) for block in blocks]) for field in fields(Dynamics)}
    )


def _lines(frame: pd.DataFrame) -> str:
    """JSON lines; null for values that are not finite."""
    columns = {name: frame[name].tolist() for name in frame.columns}
    rows = (dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True))
    return "".join(json.dumps(run_folder.plain(row), ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
