"""The training examples as the page's table has them: text, label, how often kept, how suspect; within a budget.

Which rows are shown is decided before any text is read, so that a million rows cost no more than what is known of them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datadiet import run_folder
from datadiet.checks import UserError
from datadiet.config import read_config
from datadiet.data.configured import load_configured
from datadiet.data.records import Examples
from datadiet.data.tagging import span_types
from datadiet.records import Json
from datadiet.reporting.dynamics import Dynamics, Floats, Rows

MOST_BYTES = 3_000_000
ROW_BYTES = 45  # the least that a row takes: its numbers and signs
MOST_CHARACTERS = 300  # of a text, a label or an id
MOST_SUSPECT = 2000  # shown whatever else is left out
MOST_EXTREME = 500  # of each other order of the table
RULES = ("suspects", "extremes", "drawn")
SEED = 0


@dataclass(frozen=True)
class Candidates:
    """The rows that the table shows as far as its budget goes, the most important first.

    Attributes:
        rows: int64.
        rule: int8 beside them, why each is there: its place in `RULES`.
    """

    rows: Rows
    rule: NDArray[np.int8]


def candidates(dynamics: Dynamics, *, seed: int = SEED) -> Candidates:
    """The most suspect rows, then both ends of the table's other orders, then others at random.

    Args:
        dynamics: Of the run.
        seed: Of the rows that stand for the rest.
    """
    most = MOST_BYTES // ROW_BYTES
    suspects = _largest(dynamics.hardness, MOST_SUSPECT)
    orders = (-dynamics.hardness, dynamics.last, -dynamics.confidence)
    extremes = np.concatenate([_largest(values, MOST_EXTREME) for values in orders])
    extremes = np.setdiff1d(extremes, suspects)
    rest = np.ones(len(dynamics), np.bool_)
    rest[suspects] = rest[extremes] = False
    drawn = np.random.default_rng(seed).permutation(np.flatnonzero(rest))[:most]
    parts = (suspects, extremes, drawn)
    rule = np.repeat(np.arange(3, dtype=np.int8), [len(part) for part in parts])
    return Candidates(np.concatenate(parts)[:most], rule[:most])


def _largest(values: Floats, count: int) -> Rows:
    """The rows of the largest values that are known, largest first; of equal values the first rows."""
    known = np.flatnonzero(~np.isnan(values))
    return known[np.argsort(-values[known], kind="stable")[:count]]


def training_texts(folder: Path, result: Json, rows: Rows) -> tuple[list[str], list[str]] | None:
    """Texts and labels of some training rows, read again from where the run read them; None where that is not possible.

    Args:
        folder: The run folder.
        result: Its `result.json`, whose fingerprint says whether the data is still the same.
        rows: Of train.
    """
    try:
        config = read_config(folder / run_folder.CONFIG)
        data = load_configured(config)
    except (UserError, OSError):
        return None
    if data.fingerprint != result["data"]["fingerprint"]:
        return None
    train = data.splits["train"].take(rows)
    texts = list(train.texts)
    if train.text_pairs is not None:
        texts = [f"{first} ‖ {second}" for first, second in zip(texts, train.text_pairs, strict=True)]
    return texts, _shown_labels(train)


def _shown_labels(train: Examples) -> list[str]:
    """A label, all labels, or the types of the spans of each row, as one text."""
    if train.labels is None:
        return [", ".join(span_types(tags)) for tags in train.slots or [()] * len(train)]
    return [", ".join(label) if isinstance(label, tuple) else str(label) for label in train.labels]


def example_table(
    dynamics: Dynamics, chosen: Candidates, read: tuple[Sequence[str], Sequence[str]] | None, *, seed: int = SEED
) -> Json:
    """The table's columns, most suspect rows first.

    Args:
        dynamics: Of the run.
        chosen: From `candidates`.
        read: Their texts and labels, or None.
        seed: With which they were drawn.

    Returns:
        `rows` (how many there are), `suspects`, `extremes`, `drawn` (how many are shown by that rule) and `seed`,
        `names` (labels), and the columns `id`, `text`, `label` (a place in `names`), `kept` (a place in `KEEPING`),
        `hard` (rank of the hardness, 1 = most suspect), `confidence`, `last`.
    """
    nothing = [""] * len(chosen.rows)
    texts, labels = ([cut(text) for text in column] for column in read or (nothing, nothing))
    ids = [cut(name) for name in dynamics.names(chosen.rows)]
    count = _within_budget(ids, texts, labels)
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
        "text": [texts[place] for place in shown],
        "label": [number[labels[place]] for place in shown],
        "kept": dynamics.keeping[rows].tolist(),
        "hard": rank[rows].tolist(),
        "confidence": [_rounded(value) for value in dynamics.confidence[rows]],
        "last": [_rounded(value) for value in dynamics.last[rows]],
    }


def _ranks(hardness: Floats) -> Rows:
    """From 1, the most suspect; rows that were never seen come last."""
    order = np.argsort(-np.nan_to_num(hardness, nan=-np.inf), kind="stable")
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(1, len(order) + 1)
    return rank


def _within_budget(ids: Sequence[str], texts: Sequence[str], labels: Sequence[str]) -> int:
    """How many of the candidates fit, as they will stand in the page."""
    left, known = MOST_BYTES, set()
    for count, (key, text, label) in enumerate(zip(ids, texts, labels, strict=True)):
        left -= ROW_BYTES + _bytes(key) + _bytes(text) + (0 if label in known else _bytes(label))
        known.add(label)
        if left < 0:
            return count
    return len(ids)


def _bytes(text: str) -> int:
    return len(embedded(text).encode())


def cut(text: str) -> str:
    """A text as long as a page shows it."""
    return text if len(text) <= MOST_CHARACTERS else f"{text[: MOST_CHARACTERS - 1]}…"


def _rounded(value: Any) -> float | None:
    return None if not np.isfinite(value) else round(float(value), 3)


def embedded(content: Any) -> str:
    r"""JSON that can stand inside a `<script>`: nothing in it can end the element or begin a comment.

    Example:
        >>> embedded("</script><!--")
        '"\\u003c/script\\u003e\\u003c!--"'
    """
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text
