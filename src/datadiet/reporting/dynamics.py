"""What a run's scores and plans say of each example and each round: streamed, a few bytes per example."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from datadiet import run_folder
from datadiet.records import Json
from datadiet.store import read_manifest

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
KEEPING = ("always", "sometimes", "never")


@dataclass(frozen=True)
class Round:
    """The values of one epoch's training forwards, or of one scoring pass.

    Attributes:
        epoch: Whose training it was, or before which the pass was.
        source: `train` or `pass`.
        count: Examples that have a value.
        quantiles: Of the score, at `QUANTILES`; empty where no value is finite.
    """

    epoch: int
    source: str
    count: int
    quantiles: tuple[float, ...]


@dataclass(frozen=True)
class Choice:
    """One selection beside the one before it.

    Attributes:
        epoch: Of its first epoch.
        count: Rows kept.
        new: Share of them that was not kept before; nan for the first.
        agreement: Jaccard index of the two sets; nan for the first.
    """

    epoch: int
    count: int
    new: float
    agreement: float


@dataclass(frozen=True)
class Kept:
    """What a run's plans trained on.

    Attributes:
        times: In how many epochs that chose the row was kept, int32 `(rows,)`.
        selective_epochs: Epochs that did not train on everything.
        choices: In the order of the run.
        last: bool `(rows,)`, the last selection; everything where nothing was ever left out.
    """

    times: NDArray[np.int32]
    selective_epochs: int
    choices: list[Choice]
    last: NDArray[np.bool_]


@dataclass(frozen=True)
class Dynamics:
    """What is known of each training row after a run, `(rows,)` each.

    Attributes:
        ids: The user's ids, in Arrow because a million Python strings take more than everything else; null where a row
            was never seen. See `names`.
        confidence, variability: Mean and standard deviation of the gold probability over the training forwards (data
            maps, Swayamdipta et al. 2020); nan where never seen, or for a regression.
        hardness: Mean margin, minus AUM (Pleiss et al. 2020); for a regression the mean loss. Larger = harder, and at
            the top more often mislabelled.
        last: The last value of the score.
        score: Name of the score.
        rounds: In the order of the run.
        kept: What was trained on.
    """

    ids: pa.Array | pa.ChunkedArray
    confidence: Floats
    variability: Floats
    hardness: Floats
    last: Floats
    score: str
    rounds: list[Round]
    kept: Kept

    def __len__(self) -> int:
        return len(self.hardness)

    @property
    def choices(self) -> list[Choice]:
        """The selections, in the order of the run."""
        return self.kept.choices

    @property
    def keeping(self) -> NDArray[np.int8]:
        """Whether each row was kept always, sometimes or never: its place in `KEEPING`."""
        whole, some = self.kept.times >= self.kept.selective_epochs, self.kept.times > 0
        return np.where(whole, 0, np.where(some, 1, 2)).astype(np.int8)

    def names(self, rows: Rows) -> list[str]:
        """The user's ids of some rows; the number of a row that was never seen."""
        found = self.ids.take(pa.array(rows)).to_pylist()
        return [str(row) if key is None else str(key) for row, key in zip(rows.tolist(), found, strict=True)]


def read_dynamics(folder: Path, result: Json) -> Dynamics:
    """Read a run's tables part by part.

    Args:
        folder: The run folder.
        result: Its `result.json`.

    Raises:
        DataError: If a table is missing or unfinished.
    """
    rows, score = int(result["data"]["rows"]["train"]), str(result["diet"]["score"])
    seen = _Seen(rows)
    for file in _parts(folder / run_folder.SCORES):
        names = ("row", "epoch", "source", "gold_probability", "margin", "loss", score)
        seen.add(_columns(file, (*names, "id") if seen.unnamed else names), score)
    confidence, variability = seen.spread()
    return Dynamics(
        ids=seen.ids, confidence=confidence, variability=variability, hardness=seen.hardness(), last=seen.last,
        score=score, rounds=seen.rounds, kept=read_plans(folder, rows),
    )  # fmt: skip


def _parts(folder: Path) -> Iterator[pq.ParquetFile]:
    for name in read_manifest(folder)["parts"]:
        with pq.ParquetFile(folder / name) as file:
            yield file


def _columns(file: pq.ParquetFile, names: tuple[str, ...]) -> pa.Table:
    return file.read(columns=[name for name in dict.fromkeys(names) if name in file.schema_arrow.names])


class _Seen:
    """Sums over the parts of a score history."""

    def __init__(self, rows: int) -> None:
        self._times, self._sum, self._squares = np.zeros(rows), np.zeros(rows), np.zeros(rows)
        self._hard, self._hard_times = np.zeros(rows), np.zeros(rows)
        self.last = np.full(rows, np.nan)
        self.ids: pa.Array | pa.ChunkedArray = pa.nulls(rows, pa.string())
        self.rounds: list[Round] = []

    def add(self, part: pa.Table, score: str) -> None:
        """Take in one epoch's training values, or one pass."""
        rows = part["row"].to_numpy()
        values = part[score].to_numpy()
        self.last[rows] = values
        if "id" in part.column_names:
            self._name(rows, part["id"])
        source = str(part["source"][0].as_py())
        finite = values[np.isfinite(values)]
        quantiles = tuple(map(float, np.quantile(finite, QUANTILES))) if len(finite) else ()
        self.rounds.append(Round(int(part["epoch"][0].as_py()), source, len(rows), quantiles))
        if source != "train":
            return
        gold, margin = (part[name].to_numpy().astype(np.float64) for name in ("gold_probability", "margin"))
        known = np.isfinite(gold)
        self._times[rows[known]] += 1
        self._sum[rows[known]] += gold[known]
        self._squares[rows[known]] += gold[known] ** 2
        hard = np.where(np.isfinite(margin), margin, part["loss"].to_numpy().astype(np.float64))
        self._hard[rows] += hard
        self._hard_times[rows] += 1

    @property
    def unnamed(self) -> bool:
        """Whether there are rows whose id is not known yet."""
        return bool(self.ids.null_count)

    def _name(self, rows: Rows, ids: pa.ChunkedArray) -> None:
        place = np.full(len(self.last), -1, np.int64)
        place[rows] = np.arange(len(rows))
        self.ids = pc.coalesce(self.ids, ids.take(pa.array(place, mask=place < 0)))

    def spread(self) -> tuple[Floats, Floats]:
        """Mean and standard deviation."""
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = self._sum / self._times
            return mean, np.sqrt(np.maximum(self._squares / self._times - mean**2, 0.0))

    def hardness(self) -> Floats:
        with np.errstate(invalid="ignore", divide="ignore"):
            return self._hard / self._hard_times


def read_plans(folder: Path, rows: int) -> Kept:
    """Read what a run trained on, part by part.

    Args:
        folder: The run folder.
        rows: Training rows.

    Raises:
        DataError: If the table is missing or unfinished.
    """
    times, selective = np.zeros(rows, np.int32), 0
    choices: list[Choice] = []
    before = np.ones(rows, np.bool_)
    for file in _parts(folder / run_folder.PLANS):
        part = _columns(file, ("epoch", "row"))
        chosen = part["row"].to_numpy()
        if len(chosen) == rows:
            continue
        selective += 1
        times[chosen] += 1
        now = np.zeros(rows, np.bool_)
        now[chosen] = True
        if choices and np.array_equal(now, before):
            continue
        choices.append(_choice(int(part["epoch"][0].as_py()), now, before if choices else None))
        before = now
    return Kept(times, selective, choices, before)


def _choice(epoch: int, now: NDArray[np.bool_], before: NDArray[np.bool_] | None) -> Choice:
    count = int(now.sum())
    if before is None:
        return Choice(epoch, count, np.nan, np.nan)
    both = int((now & before).sum())
    return Choice(epoch, count, 1 - both / count, both / int((now | before).sum()))
