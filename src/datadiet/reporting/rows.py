"""Per-example dynamics of a run, and the page's table of training examples.

`read_dynamics` streams the score history and the plans of a run, a few bytes per example. `candidates` then chooses the
rows that the table shows, within a budget of bytes, before any text is read, and `example_table` makes its columns:
text, label, how often kept, how suspect.
"""

from __future__ import annotations

import json
import string
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from datadiet.config import read_config
from datadiet.data.conversations import answer_text
from datadiet.data.load import load_configured
from datadiet.data.schema import Examples
from datadiet.data.tables import first_line
from datadiet.data.tagging import span_types
from datadiet.errors import DataError, UserError
from datadiet.formatting import shortened
from datadiet.scores.history import mean, std
from datadiet.store import run_folder
from datadiet.store.tables import iter_parts, iter_rounds, row_ids
from datadiet.types import Json, Scores

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]

BINS = 40  # of a round's histogram
DRAWN_ROWS = 2000  # whose training the page draws epoch by epoch: more than a figure has lines
KEEPING = ("always", "sometimes", "never")
SEED = 0


@dataclass(frozen=True)
class Round:
    """The values of one epoch's training forwards, or of one scoring pass.

    Attributes:
        epoch: Whose training it was, or before which the pass was.
        source: `train` or `pass`.
        count: Examples that have a value.
        median: Of the score; nan where no value is finite.
        histogram: Rows by bin, `(BINS,)`, and the edges of the bins, `(BINS + 1,)`; None where no value is finite.
    """

    epoch: int
    source: str
    count: int
    median: float
    histogram: tuple[Rows, Floats] | None


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
    """The rows that a run trained on, by its plans.

    Attributes:
        times: In how many epochs that chose the row was kept, int32 `(rows,)`.
        selective_epochs: Epochs that did not train on everything.
        choices: In the order of the run.
        last: bool `(rows,)`, the last selection; everything where nothing was ever left out.
        drawn: int64 `(sample,)`, at most `DRAWN_ROWS` rows drawn at random, in order.
        by_epoch: bool `(epochs, sample)`, in which epochs the drawn rows trained.
    """

    times: NDArray[np.int32]
    selective_epochs: int
    choices: list[Choice]
    last: NDArray[np.bool_]
    drawn: Rows
    by_epoch: NDArray[np.bool_]


@dataclass(frozen=True)
class Dynamics:
    """The dynamics of each training row after a run, `(rows,)` each.

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
        kept: The rows trained on.
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
        ids = self.ids.take(pa.array(rows)).to_pylist()
        return [str(row) if key is None else str(key) for row, key in zip(rows.tolist(), ids, strict=True)]


def read_dynamics(folder: Path, result: Json) -> Dynamics:
    """Read a run's tables part by part.

    Args:
        folder: The run folder.
        result: Its `result.json`.

    Raises:
        DataError: If a table is missing or unfinished.
    """
    rows, score = int(result["data"]["rows"]["train"]), str(result["diet"]["score"])
    scores, sums = folder / run_folder.SCORES, _Sums(rows)
    for part in iter_rounds(scores, ("gold_probability", "margin", "loss", score)):
        sums.add(part, score)
    return Dynamics(
        ids=row_ids(scores, rows), confidence=sums.confidence(), variability=sums.variability(),
        hardness=sums.hardness(), last=sums.last, score=score, rounds=sums.rounds, kept=read_plans(folder, rows),
    )  # fmt: skip


class _Sums:
    """Sums over the rounds of a score history, of the same histories as the scores of training dynamics."""

    def __init__(self, rows: int) -> None:
        self._gold, self._hard = std(), mean(window=None)
        self._gold_state, self._hard_state = self._gold.init(rows), self._hard.init(rows)
        self.last = np.full(rows, np.nan)
        self.rounds: list[Round] = []

    def add(self, part: Scores, score: str) -> None:
        """Add one epoch's training values, or one pass."""
        values = part.values[score]
        self.last[part.rows] = values
        finite = values[np.isfinite(values)].astype(np.float64)
        median, histogram = (float(np.median(finite)), np.histogram(finite, BINS)) if len(finite) else (np.nan, None)
        self.rounds.append(Round(part.epoch, part.source, len(part.rows), median, histogram))
        if part.source == "train":
            gold, margin, loss = (self._column(part, name) for name in ("gold_probability", "margin", "loss"))
            self._gold_state = self._gold.update(self._gold_state, gold, np.isfinite(gold))
            hard = np.where(np.isfinite(margin), margin, loss)
            self._hard_state = self._hard.update(self._hard_state, hard, np.isfinite(hard))

    def _column(self, part: Scores, name: str) -> NDArray[np.float32]:
        column = np.full(len(self.last), np.nan, np.float32)
        column[part.rows] = part.values[name]
        return column

    def confidence(self) -> Floats:
        """Mean of the gold probability."""
        return self._gold_state["mean"].astype(np.float64)

    def variability(self) -> Floats:
        """Its standard deviation."""
        return _unseen_as_nan(self._gold.value(self._gold_state))

    def hardness(self) -> Floats:
        """Mean of the margin, or of the loss where there is none."""
        return self._hard_state["mean"].astype(np.float64)


def _unseen_as_nan(values: NDArray[np.float32]) -> Floats:
    return np.where(np.isinf(values), np.nan, values).astype(np.float64)


def read_plans(folder: Path, rows: int) -> Kept:
    """Read the plans of a run, part by part.

    Args:
        folder: The run folder.
        rows: Training rows.

    Raises:
        DataError: If the table is missing or unfinished.
    """
    times, selective = np.zeros(rows, np.int32), 0
    choices: list[Choice] = []
    before = np.ones(rows, np.bool_)
    drawn = np.sort(np.random.default_rng(SEED).permutation(rows)[:DRAWN_ROWS])
    by_epoch: dict[int, NDArray[np.bool_]] = {}
    for file in iter_parts(folder / run_folder.PLANS):
        part = file.read(columns=["epoch", "row"])
        chosen = part["row"].to_numpy()
        epoch = int(part["epoch"][0].as_py())
        now = np.zeros(rows, np.bool_)
        now[chosen] = True
        by_epoch[epoch] = now[drawn]
        if len(chosen) == rows:
            continue
        selective += 1
        times[chosen] += 1
        if choices and np.array_equal(now, before):
            continue
        choices.append(_choice(epoch, now, before if choices else None))
        before = now
    trained = np.array([by_epoch[epoch] for epoch in sorted(by_epoch)], np.bool_).reshape(len(by_epoch), len(drawn))
    return Kept(times, selective, choices, before, drawn, trained)


def _choice(epoch: int, now: NDArray[np.bool_], before: NDArray[np.bool_] | None) -> Choice:
    count = int(now.sum())
    if before is None:
        return Choice(epoch, count, np.nan, np.nan)
    both = int((now & before).sum())
    return Choice(epoch, count, 1 - both / count, both / int((now | before).sum()))


Pieces = Sequence[tuple[str, bool]]


def pruned_pieces(folder: Path, rows: Rows) -> dict[int, list[tuple[str, bool]]]:
    """The texts of some rows in parts, each with whether it was pruned; neighbours of one kind are one part.

    Args:
        folder: The run folder, with the table of `run_folder.write_pruned`.
        rows: Of train.

    Returns:
        By row; empty where the run has pruned no tokens.

    Raises:
        DataError: If the table is not as it must be.
    """
    path = folder / run_folder.PRUNED
    if not path.is_file():
        return {}
    try:
        table = pq.read_table(path, columns=["row", "pieces", "pruned"])
        table = table.filter(pc.is_in(table["row"], pa.array(rows)))
        columns = (table[name].to_pylist() for name in ("row", "pieces", "pruned"))
        return {
            int(row): _in_runs(zip(pieces, flags, strict=True)) for row, pieces, flags in zip(*columns, strict=True)
        }
    except (pa.ArrowException, OSError, TypeError, ValueError, KeyError) as error:
        raise DataError(f"{path} cannot be read: {first_line(error)}") from error


def _in_runs(pieces: Iterable[tuple[str, bool]]) -> list[tuple[str, bool]]:
    """Neighbours of one kind as one, cut to the length that a page shows."""
    found, left = [], MOST_CHARACTERS
    for pruned, part in groupby(((text, bool(flag)) for text, flag in pieces if text), key=itemgetter(1)):
        whole = "".join(text for text, _ in part)
        if left > 0:
            found.append((shortened(whole, left), pruned))
        left -= len(whole)
    return found


MOST_BYTES = 3_000_000
MOST_ROUNDS = 12  # of the history that the table draws of each row
ROW_BYTES = 55 + MOST_ROUNDS  # the least that a row takes: its numbers and signs
MOST_CHARACTERS = 300  # of a text, a label or an id
MOST_SUSPECT = 2000  # shown before all others
MOST_EXTREME = 500  # of each other order of the table
RULES = ("suspects", "extremes", "drawn")


@dataclass(frozen=True)
class Candidates:
    """The rows that the table shows as far as its budget goes, the most important first.

    Attributes:
        rows: int64 `(candidates,)`.
        rule: int8 `(candidates,)`, the rule that chose each row: its place in `RULES`.
    """

    rows: Rows
    rule: NDArray[np.int8]


def candidates(dynamics: Dynamics, *, seed: int = SEED) -> Candidates:
    """The most suspect rows, then both ends of the table's other orders, then others at random.

    Args:
        dynamics: Of the run.
        seed: Of the rows drawn at random.
    """
    most = MOST_BYTES // ROW_BYTES
    suspects = _largest(dynamics.hardness, MOST_SUSPECT)
    orders = (-dynamics.hardness, dynamics.last, -dynamics.confidence)
    extremes = np.concatenate([_largest(values, MOST_EXTREME) for values in orders])
    extremes = np.setdiff1d(extremes, suspects)
    others = np.ones(len(dynamics), np.bool_)
    others[suspects] = others[extremes] = False
    drawn = np.random.default_rng(seed).permutation(np.flatnonzero(others))[:most]
    parts = (suspects, extremes, drawn)
    rule = np.repeat(np.arange(3, dtype=np.int8), [len(part) for part in parts])
    return Candidates(np.concatenate(parts)[:most], rule[:most])


def _largest(values: Floats, count: int) -> Rows:
    """The rows of the largest values, largest first, without nan; of equal values the first rows."""
    rows = np.flatnonzero(~np.isnan(values))
    return rows[np.argsort(-values[rows], kind="stable")[:count]]


def training_texts(folder: Path, result: Json, rows: Rows) -> tuple[list[str], list[str]] | None:
    """Texts and labels of some training rows, read from the data of the run; None where it is gone or has changed.

    Args:
        folder: The run folder.
        result: Its `result.json`; its fingerprint must be that of the data.
        rows: Of train.
    """
    try:
        config = read_config(folder / run_folder.CONFIG)
        data = load_configured(config)
    except (UserError, OSError):
        return None
    if data.fingerprint != result["data"]["fingerprint"]:
        return None
    everything = data.splits["train"]
    excluded = set(result["data"].get("excluded", {}).get("train", ()))
    if excluded:  # these had nothing to train on: the run has numbered the others
        everything = everything.take(row for row, key in enumerate(everything.ids) if key not in excluded)
    train = everything.take(rows)
    texts = list(train.texts)
    if train.text_pairs is not None:
        texts = [f"{first} ‖ {second}" for first, second in zip(texts, train.text_pairs, strict=True)]
    return texts, _shown_labels(train)


def _shown_labels(train: Examples) -> list[str]:
    """A label, all labels, the types of the spans, or the answer of each row, as one text."""
    if train.turns is not None:
        return [answer_text(turns) for turns in train.turns]
    if train.labels is None:
        return [", ".join(span_types(tags)) for tags in train.slots or [()] * len(train)]
    return [", ".join(label) if isinstance(label, tuple) else str(label) for label in train.labels]


def histories(folder: Path, score: str, rows: Rows) -> list[str]:
    """The score of some rows over the last `MOST_ROUNDS` rounds of a run: one digit to the base 36 for a round.

    0 is the smallest value of these rows and rounds, z the largest, and a space stands for a round without a value.

    Args:
        folder: The run folder.
        score: Its name.
        rows: int64 `(rows,)`.
    """
    rounds: deque[NDArray[np.float64]] = deque(maxlen=MOST_ROUNDS)
    order = np.argsort(rows, kind="stable")
    for part in iter_rounds(folder / run_folder.SCORES, (score,)):
        values = np.full(len(rows), np.nan)
        place = np.searchsorted(rows, part.rows, sorter=order)
        found = place < len(rows)
        found[found] = rows[order[place[found]]] == part.rows[found]
        values[order[place[found]]] = part.values[score][found]
        rounds.append(values)
    if not rounds:
        return [""] * len(rows)
    table = np.array(rounds)
    table[~np.isfinite(table)] = np.nan
    low, high = (np.nanmin(table), np.nanmax(table)) if np.isfinite(table).any() else (0.0, 0.0)
    digits = np.nan_to_num(np.rint(35 * (table - low) / (high - low or 1.0)), nan=36).astype(np.int64)
    return ["".join(column) for column in np.array(list(f"{string.digits}{string.ascii_lowercase} "))[digits].T]


def example_table(
    dynamics: Dynamics,
    chosen: Candidates,
    texts: tuple[Sequence[str], Sequence[str]] | None,
    *,
    suspects: Rows | None = None,
    history: Callable[[Rows], list[str]] | None = None,
    pieces: Mapping[int, Pieces] | None = None,
    seed: int = SEED,
) -> Json:
    """The table's columns, most suspect rows first.

    Args:
        dynamics: Of the run.
        chosen: From `candidates`.
        texts: Their texts and labels, from `training_texts`.
        suspects: Rows whose label the noise guard suspects.
        history: Gives the `histories` of some rows; none by default.
        pieces: From `pruned_pieces`: they stand in the place of the text.
        seed: Of the rows drawn at random.

    Returns:
        `rows` (of the data), `suspects`, `extremes`, `drawn` (rows shown by that rule) and `seed`, `names` (labels),
        and the columns `id`, `text`, `label` (a place in `names`), `kept` (a place in `KEEPING`), `hard` (rank of the
        hardness, 1 = most suspect), `confidence`, `variability`, `last`, `suspect` (0 or 1), `history`; where there are
        any, `pieces`, a list of texts of which every second one, from the second on, was pruned, or null.
    """
    pieces = pieces or {}
    empty = [""] * len(chosen.rows)
    columns = [*(texts or (empty, empty)), dynamics.names(chosen.rows)]
    columns[0] = [_whole(pieces.get(row)) or text for row, text in zip(chosen.rows.tolist(), columns[0], strict=True)]
    texts_cut, labels, ids = ([cut(text) for text in column] for column in columns)
    # pieces stand beside the text
    twice = [text * (1 + (row in pieces)) for row, text in zip(chosen.rows.tolist(), texts_cut, strict=True)]
    count = _within_budget(ids, twice, labels)
    rank = _ranks(dynamics.hardness)
    shown = np.argsort(rank[chosen.rows[:count]])  # places among the candidates
    rows = chosen.rows[shown]
    names = sorted({labels[place] for place in shown})
    number = {name: place for place, name in enumerate(names)}
    by_rule = np.bincount(chosen.rule[:count], minlength=len(RULES)).tolist()
    return {
        "rows": len(dynamics),
        **dict(zip(RULES, by_rule, strict=True)),
        "seed": seed,
        "names": names,
        "id": [ids[place] for place in shown],
        "text": [texts_cut[place] for place in shown],
        "label": [number[labels[place]] for place in shown],
        "kept": dynamics.keeping[rows].tolist(),
        "hard": rank[rows].tolist(),
        "confidence": [_rounded(value) for value in dynamics.confidence[rows]],
        "variability": [_rounded(value) for value in dynamics.variability[rows]],
        "last": [_rounded(value) for value in dynamics.last[rows]],
        "suspect": np.isin(rows, [] if suspects is None else suspects).astype(int).tolist(),
        "history": [""] * len(rows) if history is None else history(rows),
        **({"pieces": [_alternating(pieces.get(row)) for row in rows.tolist()]} if pieces else {}),
    }


def _whole(pieces: Pieces | None) -> str:
    return "".join(text for text, _ in pieces or ())


def _alternating(pieces: Pieces | None) -> list[str] | None:
    """Texts that are kept and pruned in turn; the first is empty where a text begins with a part that was pruned."""
    if not pieces:
        return None
    return ["", *(text for text, _ in pieces)] if pieces[0][1] else [text for text, _ in pieces]


def _ranks(hardness: Floats) -> Rows:
    """From 1, the most suspect; rows that were never seen come last."""
    order = np.argsort(-np.nan_to_num(hardness, nan=-np.inf), kind="stable")
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(1, len(order) + 1)
    return rank


def _within_budget(ids: Sequence[str], texts: Sequence[str], labels: Sequence[str]) -> int:
    """The number of candidates that fit, counted in the bytes of the page."""
    left, seen = MOST_BYTES, set()
    for count, (key, text, label) in enumerate(zip(ids, texts, labels, strict=True)):
        left -= ROW_BYTES + _bytes(key) + _bytes(text) + (0 if label in seen else _bytes(label))
        seen.add(label)
        if left < 0:
            return count
    return len(ids)


def _bytes(text: str) -> int:
    return len(embedded(text).encode())


def cut(text: str) -> str:
    """A text cut to the length that a page shows."""
    return shortened(text, MOST_CHARACTERS)


def _rounded(value: Any) -> float | None:
    return None if not np.isfinite(value) else round(float(value), 3)


def embedded(content: Any) -> str:
    r"""JSON for a `<script>` element: no text in it can end the element or begin a comment.

    Examples:
        >>> embedded("</script><!--")
        '"\\u003c/script\\u003e\\u003c!--"'
    """
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text
