"""What a run's noise guard found, as a section of the page: how many labels are wrong, how sure that is, and which.

It reads `noise.json` and `suspects.parquet` of the run folder; a run without a guard has neither.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from datadiet.checks import DataError
from datadiet.display.words import percent
from datadiet.noise import LEAST_RATE
from datadiet.noise_files import NOISE, SUSPECTS
from datadiet.records import Json
from datadiet.reporting import figures
from datadiet.reporting.dynamics import Rows
from datadiet.reporting.examples import cut
from datadiet.reporting.page import Drawing, Section, Table

MOST_SUSPECTS = 50  # shown: enough to see what they are; the file has all
MOST_NAMES = 20  # labels shown
_COLUMNS = ("row", "id", "label", "suspicion", "reason")


@dataclass(frozen=True)
class Found:
    """What a guard left in a run folder.

    Attributes:
        noise: The content of `noise.json`.
        suspects: `_COLUMNS` of those set aside, the most suspected first, at most `MOST_SUSPECTS`.
    """

    noise: Json
    suspects: dict[str, list[Any]]


def read_guard(folder: Path) -> Found | None:
    """What the guard of a run found; None where it had none.

    Raises:
        DataError: If its files are broken.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not (folder / NOISE).is_file():
        return None
    try:
        noise = json.loads((folder / NOISE).read_text(encoding="utf-8"))
        known = [review["rate"] for review in noise["reviews"]]
        suspects: dict[str, list[Any]] = {name: [] for name in _COLUMNS}
        if known and (folder / SUSPECTS).is_file():
            suspects = pq.read_table(folder / SUSPECTS, columns=list(_COLUMNS)).slice(0, MOST_SUSPECTS).to_pydict()
    except (ValueError, KeyError, TypeError, pa.ArrowException) as error:
        raise DataError(f"{folder} has a broken {NOISE} or {SUSPECTS}: {error}") from None
    return Found(noise, suspects)


def suspected_rows(found: Found | None) -> Rows:
    """The training rows of `suspects`, int64; none without a guard."""
    return np.array(found.suspects["row"] if found else [], np.int64)


def guard_section(found: Found, texts: Sequence[str] | None) -> Section:
    """The estimate of each review with its interval, how many rest per label, and the most suspected rows.

    Args:
        found: From `read_guard`.
        texts: Of its `suspected_rows`; None where they cannot be read.
    """
    reviews = found.noise["reviews"]
    judged = [review for review in reviews if not review["note"]]
    drawings = []
    if judged:
        caption = (
            "As each review estimates it for all training rows, with its 90 % interval. Below the dashed line nothing "
            "is set aside."
        )
        drawings.append(
            Drawing("Estimated share of wrong labels", caption, figures.svg(figures.noise_level(judged, LEAST_RATE)))
        )
    tables = [_reviews(reviews)] if reviews else []
    if by_label := found.noise.get("aside_by_label"):
        tables.append(_by_label(by_label))
    if found.suspects["row"]:
        tables.append(_suspects(found, texts))
    return Section("Suspected wrong labels", guard_sentence(found), drawings, tables)


def guard_sentence(found: Found) -> str:
    """What it came to, in a sentence or two."""
    noise, reviews = found.noise, found.noise["reviews"]
    if not reviews:
        return "The noise guard judged nothing: no epoch trained after the first."
    rate, aside, times = percent(noise["rate"]), noise["aside"], len(reviews)
    said = f"The noise guard looked {'once' if times == 1 else f'{times} times'}: an estimated {rate} of the training "
    said += "labels are wrong. "
    if aside == 0:
        return said + "At the end no row was set aside."
    return said + f"At the end {aside:,} {'row was' if aside == 1 else 'rows were'} set aside."


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
    if review["note"]:
        return ["", ""]
    return [f"{percent(review['low'])} to {percent(review['high'])}", f"{review['evidence']:,} rows"]


def _by_label(counts: dict[str, int]) -> Table:
    """The labels as given that most of those set aside have."""
    shown = list(counts.items())[:MOST_NAMES]
    total = sum(counts.values())
    note = f"The first {len(shown)} of {len(counts):,} labels." if len(shown) < len(counts) else ""
    rows = [[cut(name), f"{count:,}", percent(count / total)] for name, count in shown]
    return Table("Set aside, by the label that they have", ["label", "rows", "share of those set aside"], rows, note)


def _suspects(found: Found, texts: Sequence[str] | None) -> Table:
    suspects = found.suspects
    columns = [suspects[name] for name in ("label", "suspicion", "id", "reason")]
    rows = [
        [cut(text), cut(label), f"{suspicion:.2f}", cut(key), reason]
        for text, label, suspicion, key, reason in zip(texts or [""] * len(columns[0]), *columns, strict=True)
    ]
    shown, whole = len(rows), found.noise["aside"]
    note = f"The first {shown} of {whole:,}; all are in {SUSPECTS}." if shown < whole else f"Also in {SUSPECTS}."
    return Table(
        "Most suspected", ["text", "label", "suspicion", "id", "why"], rows, note, prose=frozenset({0, 1, 3, 4})
    )
