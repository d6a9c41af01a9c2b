"""Training dynamics of a run: `dynamics` reads its score history into one line per example.

`read_rounds` gives the recorded columns themselves, `(rounds, n)`, for scores and rankings over rounds.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from datadiet.config import read_config
from datadiet.data.load import load_configured
from datadiet.errors import ArgumentError, DataError, Problems, UserError, quoted
from datadiet.files import plain, whole_file, write_atomically
from datadiet.scores.dynamics import COLUMNS, Dynamics, training_dynamics
from datadiet.store import run_folder
from datadiet.store.tables import iter_rounds, row_ids
from datadiet.types import Scores

if TYPE_CHECKING:
    import pandas as pd

SOURCES = ("train", "pass", "probe")
SUFFIXES = (".parquet", ".jsonl")
NEVER_LEARNED = 1000  # as in cartography
_BLOCK = 100_000  # examples at a time: float64 copies of all rounds are made of one block only
_MOMENT = "moment"


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
            raise ArgumentError(f"a table can be written as {' or '.join(SUFFIXES)}, got {quoted(target.name)}.")
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

    Examples:
        >>> # table = dynamics("runs/sst2"); table.to_pandas().sort_values("aum").head()
        >>> # table.save("dynamics.parquet"); table.save_cartography("td_metrics.jsonl")

    Source: see `datadiet.scores.dynamics`.
    """
    problems = Problems()
    problems.choice("source", source, SOURCES)
    problems.raise_any()
    recorded = read_rounds(path, source=source)
    number = len(recorded.ids)
    if labels is not None and len(labels) != number:
        raise ArgumentError(f"labels must be one per training row: got {len(labels)} for {number} rows.")
    return DynamicsTable(
        ids=[str(row) if key is None else key for row, key in enumerate(recorded.ids)],
        labels=labels if labels is not None else _labels(_scores_folder(path).parent),
        dynamics=_in_blocks(recorded.columns, number, learning_rates, burn_out),
        rounds=len(recorded.epochs) if burn_out is None else burn_out,
    )


@dataclass(frozen=True)
class Rounds:
    """The recorded values of each training example, round by round.

    Attributes:
        columns: float32 `(rounds, n)` by name; nan where not seen.
        epochs, counts: The epoch of each round, and how many examples were seen in it; int64 `(rounds,)`.
        ids: The user's ids, `(n,)`; None for a row that was in no round.
    """

    columns: Mapping[str, NDArray[np.float32]]
    epochs: NDArray[np.int64]
    counts: NDArray[np.int64]
    ids: Sequence[str | None]


def read_rounds(path: str | Path, columns: Sequence[str] = COLUMNS, *, source: str = "train") -> Rounds:
    """The score history of a run as tables, a round each line.

    Args:
        path: A run folder, or its scores/.
        columns: Of the history; those that it lacks are left out.
        source: See `dynamics`.

    Raises:
        DataError: If there is no score history, or none of that source.
    """
    folder = _scores_folder(path)
    rounds, sources = [], set()
    for scores in iter_rounds(folder, (*columns, _MOMENT)):
        sources.add(_source(scores))
        if _source(scores) == source:
            rounds.append(scores)
    if not rounds:
        others = f"there are {', '.join(sorted(sources))}" if sources else "it is empty so far"
        raise DataError(f"{path} has no values of source {quoted(source)}; {others}.")
    number = max(_training_rows(folder.parent), 1 + max(int(scores.rows.max()) for scores in rounds))
    tables = {name: np.full((len(rounds), number), np.nan, np.float32) for name in columns if name in rounds[0].values}
    seen = np.zeros(number, np.bool_)
    for place, scores in enumerate(rounds):
        seen[scores.rows] = True
        for name in tables.keys() & scores.values.keys():
            tables[name][place, scores.rows] = scores.values[name]
    ids = [
        key if there else None for key, there in zip(row_ids(folder, number).to_pylist(), seen.tolist(), strict=True)
    ]
    epochs, counts = np.array([(scores.epoch, len(scores.rows)) for scores in rounds], np.int64).T
    return Rounds(tables, epochs, counts, ids)


def _scores_folder(path: str | Path) -> Path:
    """The folder of a score history, from that of its run or its own."""
    folder = Path(path)
    scores = folder if (folder / run_folder.MANIFEST).is_file() else folder / run_folder.SCORES
    if not (scores / run_folder.MANIFEST).is_file():
        raise DataError(f"{folder} holds no score history: {run_folder.SCORES}/{run_folder.MANIFEST} is missing.")
    return scores


def _source(scores: Scores) -> str:
    """`train`, `pass`, or `probe`: a pass of `datadiet.Probe`, which alone records the moment."""
    moment = scores.values.get(_MOMENT)
    probed = scores.source == "pass" and moment is not None and not math.isnan(moment[0])
    return "probe" if probed else scores.source


def _training_rows(folder: Path) -> int:
    """Training rows by the run's result; 0 where there is none."""
    try:
        return int(run_folder.read_result(folder)["data"]["rows"]["train"])
    except (UserError, KeyError, TypeError):
        return 0


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
    tables: Mapping[str, NDArray[np.float32]], number: int, learning_rates: ArrayLike | None, burn_out: int | None
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
    return "".join(json.dumps(plain(row), ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
