"""What a run's scores and plans say of each example and each round: streamed, a few bytes per example."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from datadiet import run_folder
from datadiet.records import Json
from datadiet.store import read_manifest

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


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
class Dynamics:
    """What is known of each training row after a run, `(rows,)` each.

    Attributes:
        ids: As far as a row was ever seen, else its number.
        confidence, variability: Mean and standard deviation of the gold probability over the training forwards (data
            maps, Swayamdipta et al. 2020); nan where never seen, or for a regression.
        hardness: Mean margin, minus AUM (Pleiss et al. 2020); for a regression the mean loss. Larger = harder, and at
            the top more often mislabelled.
        last: The last value of the score.
        kept: In how many of the `choices` the row was kept, by epochs.
        selective_epochs: Epochs that did not train on everything.
        score: Name of the score.
        rounds, choices: In the order of the run.
        last_kept: bool, the last selection.
    """

    ids: list[str]
    confidence: Floats
    variability: Floats
    hardness: Floats
    last: Floats
    kept: NDArray[np.int32]
    selective_epochs: int
    score: str
    rounds: list[Round]
    choices: list[Choice]
    last_kept: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.kept)

    @property
    def keeping(self) -> list[str]:
        """`always`, `sometimes` or `never` kept, of each row."""
        whole, some = self.kept >= self.selective_epochs, self.kept > 0
        return list(np.select([whole, some], ["always", "sometimes"], "never"))


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
    columns = ("row", "id", "epoch", "source", "gold_probability", "margin", "loss", score)
    for part in _parts(folder / run_folder.SCORES, columns):
        seen.add(part, score)
    kept, selective, choices, last_kept = _plans(folder / run_folder.PLANS, rows)
    confidence, variability = seen.spread()
    return Dynamics(
        ids=seen.ids(), confidence=confidence, variability=variability, hardness=seen.hardness(), last=seen.last,
        kept=kept, selective_epochs=selective, score=score, rounds=seen.rounds, choices=choices, last_kept=last_kept,
    )  # fmt: skip


def _parts(folder: Path, columns: tuple[str, ...]) -> Iterator[pa.Table]:
    for name in read_manifest(folder)["parts"]:
        file = pq.ParquetFile(folder / name)
        yield file.read(columns=[column for column in dict.fromkeys(columns) if column in file.schema_arrow.names])


class _Seen:
    """Sums over the parts of a score history."""

    def __init__(self, rows: int) -> None:
        self._times, self._sum, self._squares = np.zeros(rows), np.zeros(rows), np.zeros(rows)
        self._hard, self._hard_times = np.zeros(rows), np.zeros(rows)
        self.last = np.full(rows, np.nan)
        self._ids: NDArray[Any] = np.full(rows, None, object)
        self._unnamed = True
        self.rounds: list[Round] = []

    def add(self, part: pa.Table, score: str) -> None:
        """Take in one epoch's training values, or one pass."""
        rows = part["row"].to_numpy()
        values = part[score].to_numpy()
        self.last[rows] = values
        if self._unnamed:
            self._ids[rows] = part["id"].to_numpy()
            self._unnamed = any(key is None for key in self._ids)
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

    def ids(self) -> list[str]:
        """The user's ids; the number of a row that was never seen."""
        return [str(row) if key is None else str(key) for row, key in enumerate(self._ids)]

    def spread(self) -> tuple[Floats, Floats]:
        """Mean and standard deviation."""
        with np.errstate(invalid="ignore", divide="ignore"):
            mean = self._sum / self._times
            return mean, np.sqrt(np.maximum(self._squares / self._times - mean**2, 0.0))

    def hardness(self) -> Floats:
        with np.errstate(invalid="ignore", divide="ignore"):
            return self._hard / self._hard_times


def _plans(folder: Path, rows: int) -> tuple[NDArray[np.int32], int, list[Choice], NDArray[np.bool_]]:
    """How often each row was kept, how many epochs chose, what was chosen when, and what was chosen last."""
    kept, selective = np.zeros(rows, np.int32), 0
    choices: list[Choice] = []
    before = np.ones(rows, np.bool_)
    for part in _parts(folder, ("epoch", "row")):
        chosen = part["row"].to_numpy()
        if len(chosen) == rows:
            continue
        selective += 1
        kept[chosen] += 1
        now = np.zeros(rows, np.bool_)
        now[chosen] = True
        if choices and np.array_equal(now, before):
            continue
        both = int((now & before).sum())
        new = 1 - both / len(chosen) if choices else np.nan
        agreement = both / int((now | before).sum()) if choices else np.nan
        choices.append(Choice(int(part["epoch"][0].as_py()), len(chosen), new, agreement))
        before = now
    return kept, selective, choices, before
