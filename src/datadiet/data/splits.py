"""What is done to the splits: dev set aside, rows that overlap, a share of train."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from datadiet.checks import ArgumentError, DataError
from datadiet.data.records import Examples
from datadiet.same_text import text_keys

# second number of each seed, so that one user seed gives unrelated draws
_DEV, _TRAIN_ROWS = 1, 2


def set_dev_aside(splits: Mapping[str, Examples], share: float, seed: int) -> tuple[dict[str, Examples], list[str]]:
    """Give a set without a dev split one: a seeded share of train, at least one row, original order kept.

    Args:
        splits: With `train`; returned as they are where `dev` is among them.
        share: In (0, 1).
        seed: From 0.

    Returns:
        The splits, and a sentence that says what was done.

    Raises:
        DataError: If train has one row.
    """
    if "dev" in splits:
        return dict(splits), []
    train = splits["train"]
    if len(train) < 2:
        raise DataError("train has one row, so none can be set aside as dev; add rows or a dev split.")
    count = min(max(1, round(share * len(train))), len(train) - 1)
    import numpy as np  # here: the command line reads the names of the tasks, and numpy is slow to import

    is_dev = np.zeros(len(train), dtype=bool)
    is_dev[np.random.default_rng([seed, _DEV]).permutation(len(train))[:count]] = True
    kept, aside = train.take(np.flatnonzero(~is_dev)), train.take(np.flatnonzero(is_dev))
    divided = {"train": kept, "dev": aside, **{name: split for name, split in splits.items() if name != "train"}}
    note = f"There is no dev split: {count:,} of {len(train):,} training rows were set aside as dev (seed {seed})."
    return divided, [note]


def take_train_rows(splits: Mapping[str, Examples], count: int | None, seed: int) -> dict[str, Examples]:
    """Keep a seeded share of train, original order kept; None keeps all.

    Raises:
        ArgumentError: If there are fewer rows.
    """
    train = splits["train"]
    if count is None:
        return dict(splits)
    if count > len(train):
        raise ArgumentError(f"train_rows must be at most {len(train)}, the rows there are to train on, got {count}.")
    import numpy as np  # here: the command line reads the names of the tasks, and numpy is slow to import

    rows = np.sort(np.random.default_rng([seed, _TRAIN_ROWS]).permutation(len(train))[:count])
    return {**splits, "train": train.take(rows)}


def overlap(splits: Mapping[str, Examples]) -> tuple[list[int], dict[str, int]]:
    """Training rows whose text (both texts, for pairs) also occurs in another split, case and spacing aside.

    Returns:
        The rows, ascending, and how many of them each split shares.

    Example:
        >>> one = Examples(ids=("0", "1"), texts=("Good  film", "Bad"))
        >>> overlap({"train": one, "dev": Examples(ids=("0",), texts=("good film",))})
        ([0], {'dev': 1})
    """
    seen: dict[str, set[tuple[str, str]]] = {name: set(_keys(s)) for name, s in splits.items() if name != "train"}
    everywhere = set().union(*seen.values())
    # train is by far the largest: its keys are never held together
    rows = [(row, key) for row, key in enumerate(_keys(splits["train"])) if key in everywhere]
    counts = {name: sum(key in texts for _, key in rows) for name, texts in seen.items()}
    return [row for row, _ in rows], {name: count for name, count in counts.items() if count}


def _keys(examples: Examples) -> Iterator[tuple[str, str]]:
    return text_keys(examples.texts, examples.text_pairs)


def handle_overlap(splits: Mapping[str, Examples], drop: bool) -> tuple[dict[str, Examples], list[str]]:
    """Count training rows whose text is in dev or test, and drop them if asked to.

    Raises:
        DataError: If nothing is left to train on.
    """
    rows, counts = overlap(splits)
    if not rows:
        return dict(splits), []
    told = ", ".join(f"{name} {count:,}" for name, count in counts.items())
    subject = f"{len(rows):,} training {'row' if len(rows) == 1 else 'rows'}"
    found = f"The text of {subject} also occurs in another split ({told}; case and spacing aside)"
    if not drop:
        return dict(splits), [f"{found}; --drop-overlap drops them."]
    train = splits["train"]
    if len(rows) == len(train):
        raise DataError(f"{found}: dropping them would leave nothing to train on; train without --drop-overlap.")
    gone = set(rows)
    kept = train.take(row for row in range(len(train)) if row not in gone)
    return {**splits, "train": kept}, [f"{found}; they were dropped."]


def one_of_each(splits: Mapping[str, Examples]) -> tuple[dict[str, Examples], list[str]]:
    """One training row of each text, the first with the label that most of them have; see `datadiet.duplicates`.

    Returns:
        The splits, where each training row knows how many it stands for, and what was done in words.
    """
    from datadiet.duplicates import representatives  # with numpy, which the command line must not import yet

    train = splits["train"]
    given: Sequence[Any] | None = train.labels if train.labels is not None else train.slots
    labels = None if given is None else [tuple(label) if isinstance(label, (list, tuple)) else label for label in given]
    groups = representatives(train.texts, labels, train.text_pairs)
    gone = len(train) - len(groups.rows)
    if not gone:
        return dict(splits), []
    told = f"{gone:,} training {'row repeats' if gone == 1 else 'rows repeat'} the text of another and were left out"
    if len(groups.conflicts):
        told += f"; of {len(groups.conflicts):,} texts the labels differ, the most common one is kept"
    kept = replace(train.take(groups.rows), times=tuple(groups.weights.astype(int).tolist()))
    return {**splits, "train": kept}, [f"{told} (--dedupe)."]
