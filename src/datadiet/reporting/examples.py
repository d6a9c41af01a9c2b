"""The training examples as the page's table has them: text, label, how often kept, how suspect; within a budget."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from datadiet import run_folder
from datadiet.checks import UserError
from datadiet.config import read_config
from datadiet.data.configured import load_configured
from datadiet.records import Json
from datadiet.reporting.dynamics import Dynamics

MOST_BYTES = 3_000_000
MOST_CHARACTERS = 300  # of a text
MOST_SUSPECT = 2000  # shown whatever else is left out
KEEPING = ("always", "sometimes", "never")


def training_texts(folder: Path, result: Json) -> tuple[list[str], list[str]] | None:
    """Texts and labels of the training rows, read again from where the run read them; None where that is not possible.

    Args:
        folder: The run folder.
        result: Its `result.json`, whose fingerprint says whether the data is still the same.
    """
    try:
        config = read_config(folder / run_folder.CONFIG)
        data = load_configured(config)
    except (UserError, OSError):
        return None
    if data.fingerprint != result["data"]["fingerprint"]:
        return None
    train = data.splits["train"]
    texts = list(train.texts)
    if train.text_pairs is not None:
        texts = [f"{first} ‖ {second}" for first, second in zip(texts, train.text_pairs, strict=True)]
    return texts, [str(label) for label in train.labels or [""] * len(texts)]


def example_table(dynamics: Dynamics, read: tuple[Sequence[str], Sequence[str]] | None, *, seed: int = 0) -> Json:
    """The table's columns, most suspect rows first.

    Args:
        dynamics: Of the run.
        read: Texts and labels by row, or None.
        seed: Of the rows that stand for the rest where there are too many.

    Returns:
        `rows` (how many there are), `names` (labels), and the columns `id`, `text`, `label` (a place in `names`),
        `kept` (a place in `always, sometimes, never`), `hard` (rank of the hardness, 1 = most suspect), `confidence`,
        `last`.
    """
    order = np.argsort(-np.nan_to_num(dynamics.hardness, nan=-np.inf), kind="stable")
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(1, len(order) + 1)
    texts, labels = read or ([""] * len(order), [""] * len(order))
    shown = _within_budget(order, texts, dynamics.ids, seed)
    names = sorted({labels[row] for row in shown})
    place = {name: number for number, name in enumerate(names)}
    keeping = dynamics.keeping
    return {
        "rows": len(order),
        "names": names,
        "id": [dynamics.ids[row] for row in shown],
        "text": [_cut(texts[row]) for row in shown],
        "label": [place[labels[row]] for row in shown],
        "kept": [KEEPING.index(keeping[row]) for row in shown],
        "hard": [int(rank[row]) for row in shown],
        "confidence": [_rounded(dynamics.confidence[row]) for row in shown],
        "last": [_rounded(dynamics.last[row]) for row in shown],
    }


def _within_budget(order: NDArray[np.int64], texts: Sequence[str], ids: Sequence[str], seed: int) -> list[int]:
    """The most suspect rows, then a random share of the others, as far as the bytes go; in order of suspicion."""
    first, rest = order[:MOST_SUSPECT], order[MOST_SUSPECT:]
    drawn = [*first.tolist(), *np.random.default_rng(seed).permutation(rest).tolist()]
    left, shown = MOST_BYTES, []
    for row in drawn:
        left -= 40 + len(ids[row].encode()) + len(_cut(texts[row]).encode())
        if left < 0:
            break
        shown.append(row)
    chosen = set(shown)
    return [row for row in order.tolist() if row in chosen]


def _cut(text: str) -> str:
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
