"""The noise guard of a run on its page: estimates, excluded rows, and the most suspected of them.

A run with a guard has `noise.json` and `suspects.parquet` in its folder.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from datadiet.errors import DataError
from datadiet.files import read_json
from datadiet.formatting import counted, percent
from datadiet.noise.guard import LEAST_RATE
from datadiet.noise.monitor import NOISE, SUSPECTS
from datadiet.reporting import plot
from datadiet.reporting.page import Drawing, Section, Table
from datadiet.reporting.rows import Rows, cut
from datadiet.store import run_folder
from datadiet.types import Json

MOST_SUSPECTS = 50  # shown: enough for an impression; the file has all
MOST_NAMES = 20  # labels shown
_COLUMNS = ("row", "id", "label", "suspicion", "reason")


@dataclass(frozen=True)
class GuardRecord:
    """The files of a noise guard in a run folder.

    Attributes:
        noise: The content of `noise.json`.
        suspects: `_COLUMNS` of the excluded rows, the most suspected first, at most `MOST_SUSPECTS`.
        rows: int64, all excluded rows.
    """

    noise: Json
    suspects: dict[str, list[Any]]
    rows: Rows


def read_guard(folder: Path) -> GuardRecord | None:
    """The record of a run's noise guard; None for a run without a guard.

    Raises:
        DataError: If its files are broken.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    run_folder.check_files(folder, NOISE, SUSPECTS)
    if not (folder / NOISE).is_file():
        return None
    try:
        noise = read_json(folder / NOISE, "noise guard")
        rates = [review["rate"] for review in noise["reviews"]]
        suspects: dict[str, list[Any]] = {name: [] for name in _COLUMNS}
        rows: Rows = np.zeros(0, np.int64)
        if rates and (folder / SUSPECTS).is_file():
            table = pq.read_table(folder / SUSPECTS, columns=list(_COLUMNS))
            suspects, rows = table.slice(0, MOST_SUSPECTS).to_pydict(), table["row"].to_numpy()
    except (ValueError, KeyError, TypeError, pa.ArrowException) as error:
        raise DataError(f"{folder} has a broken {NOISE} or {SUSPECTS}: {error}") from None
    return GuardRecord(noise, suspects, rows)


def suspected_rows(guard: GuardRecord | None) -> Rows:
    """The training rows of `suspects`, int64; none without a guard."""
    return np.array(guard.suspects["row"] if guard else [], np.int64)


def guard_section(guard: GuardRecord, texts: Sequence[str] | None) -> Section:
    """The estimate of each review with its interval, the excluded rows per label, and the most suspected rows.

    Args:
        guard: From `read_guard`.
        texts: Of its `suspected_rows`; None where they cannot be read.
    """
    reviews = guard.noise["reviews"]
    judged = [review for review in reviews if review["evidence"]]
    drawings = []
    if judged:
        caption = (
            "As each review estimates it for all training rows, with its 90 % interval. Below the dashed line nothing "
            "is set aside."
        )
        figure = plot.noise_figure(judged, LEAST_RATE)
        drawings.append(Drawing("Estimated share of wrong labels", caption, figure))
    tables = [_reviews(reviews)] if reviews else []
    if by_label := guard.noise.get("aside_by_label"):
        tables.append(_by_label(by_label))
    if guard.suspects["row"]:
        tables.append(_suspects(guard, texts))
    return Section("Suspected wrong labels", guard_sentence(guard), drawings, tables)


_NOT_APPLIED = " The rule that chose the rows then takes them all the same: they are a list to look at."


def guard_sentence(guard: GuardRecord) -> str:
    """The reviews, the estimated share of wrong labels and the excluded rows, in a sentence or two."""
    noise, times = guard.noise, len(guard.noise["reviews"])
    if not times:
        return "The noise guard judged nothing: no epoch trained after the first."
    if all(review["note"] for review in noise["reviews"]):
        return f"The noise guard set nothing aside, because {noise['reviews'][0]['note']}.{_of_tags(noise)}"
    often = "once" if times == 1 else f"{times} times"
    aside, why = noise["aside"], noise["reviews"][-1]["note"]
    excluded = f"{counted(aside, 'row')} {'was' if aside == 1 else 'were'}" if aside else "no row was"
    return (
        f"The noise guard looked {often}: an estimated {percent(noise['rate'])} of the training labels are wrong. "
        f"At the end {excluded} set aside{f', because {why}' if why and not aside else ''}.{_of_tags(noise)}"
        f"{'' if noise.get('applied', True) or not aside else _NOT_APPLIED}"
    )


def _of_tags(noise: Json) -> str:
    """The sentence on the tags, where labels and tags were judged."""
    if not (tags := noise.get("tags")):
        return ""
    aside, why = tags["aside"], tags["reviews"][-1]["note"]
    return (
        f" By their tags an estimated {percent(tags['rate'])} of the sentences are wrong, and {counted(aside, 'row')} "
        f"{'was' if aside == 1 else 'were'} set aside{f', because {why}' if why and not aside else ''}."
    )


def _reviews(reviews: list[Json]) -> Table:
    rows = [
        [
            str(review["epoch"] + 1), f"{review['judged']:,}", percent(review["rate"]), *_basis(review),
            *(f"{review[name]:,}" for name in ("aside", "joined", "returned")),
        ]
        for review in reviews
    ]  # fmt: skip
    head = ["before epoch", "judged", "estimate", "90 % interval", "rests on", "set aside", "joined", "returned"]
    notes = [f"Before epoch {review['epoch'] + 1}: {review['note']}." for review in reviews if review["note"]]
    return Table("Reviews", head, rows, " ".join(notes))


def _basis(review: Json) -> list[str]:
    if not review["evidence"]:
        return ["", ""]
    return [f"{percent(review['low'])} to {percent(review['high'])}", f"{review['evidence']:,} rows"]


def _by_label(counts: dict[str, int]) -> Table:
    """The given labels of the excluded rows, the most frequent first."""
    shown = list(counts.items())[:MOST_NAMES]
    total = sum(counts.values())
    note = f"The first {len(shown)} of {len(counts):,} labels." if len(shown) < len(counts) else ""
    rows = [[cut(name), f"{count:,}", percent(count / total)] for name, count in shown]
    return Table("Set aside, by the label that they have", ["label", "rows", "share of those set aside"], rows, note)


def _suspects(guard: GuardRecord, texts: Sequence[str] | None) -> Table:
    suspects = guard.suspects
    columns = [suspects[name] for name in ("label", "suspicion", "id", "reason")]
    rows = [
        [cut(text), cut(label), f"{suspicion:.2f}", cut(key), reason]
        for text, label, suspicion, key, reason in zip(texts or [""] * len(columns[0]), *columns, strict=True)
    ]
    shown, whole = len(rows), guard.noise["aside"]
    note = f"The first {shown} of {whole:,}; all are in {SUSPECTS}." if shown < whole else f"Also in {SUSPECTS}."
    return Table(
        "Most suspected", ["text", "label", "suspicion", "id", "why"], rows, note, prose=frozenset({0, 1, 3, 4})
    )
