"""Texts that occur more than once, or nearly: groups of them, one row to stand for each, and what splits share.

Exact duplicates are found by the text with case and spacing aside. Near duplicates by the character n-grams that two
texts share: candidates by MinHash and banding, in time about linear in the number of texts, and each candidate checked
by its true Jaccard similarity, so that no pair is a hash collision.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from datadiet.checks import ArgumentError
from datadiet.near import near_pairs
from datadiet.same_text import normal_text, text_keys

Rows = NDArray[np.int64]

# Jaccard similarity of character n-grams from which two texts count as nearly the same
NEAR = 0.8


@dataclass(frozen=True)
class Groups:
    """Rows that say the same, and the row that stands for each group.

    Attributes:
        of: int64 `(n,)`, for each row the row that stands for it; its own number where it stands for itself.
        conflicts: The rows that stand for a group whose labels differ, ascending.

    Example:
        >>> groups = representatives(["Play it", "play  it", "stop", "play it"], ["a", "a", "b", "b"])
        >>> groups.of, groups.rows, groups.weights, groups.conflicts
        (array([0, 0, 2, 0]), array([0, 2]), array([3., 1.], dtype=float32), array([0]))
    """

    of: Rows
    conflicts: Rows

    @property
    def rows(self) -> Rows:
        """The rows that stand for a group, ascending."""
        return np.flatnonzero(self.of == np.arange(len(self.of)))

    @property
    def weights(self) -> NDArray[np.float32]:
        """How many rows each of `rows` stands for: its loss weight where every text shall count as often as it came."""
        return np.bincount(self.of, minlength=len(self.of))[self.rows].astype(np.float32)

    @property
    def repeated(self) -> Rows:
        """The rows that another one stands for, ascending."""
        return np.flatnonzero(self.of != np.arange(len(self.of)))


def representatives(
    texts: Sequence[str],
    labels: Sequence[Hashable] | None = None,
    text_pairs: Sequence[str] | None = None,
    *,
    near: float | None = None,
) -> Groups:
    """Group the rows that say the same, and choose one to stand for each group.

    The first row that has the group's most common label stands for it: where labels differ, the majority is believed.

    Args:
        texts: One per row.
        labels: Anything hashable per row, e.g. the intent and the slots; None where there are none.
        text_pairs: The second texts, of pairs.
        near: Also group what is nearly the same: the least Jaccard similarity of the character n-grams, in (0, 1).
            Every row is then so similar to the first row of its group; only rows with the same label are grouped.

    Raises:
        ArgumentError: If the lengths differ, or `near` is outside (0, 1).

    Example:
        >>> representatives(["book a table for two", "book a table for two!"], near=0.7).rows
        array([0])
    """
    _check_lengths(len(texts), labels, text_pairs)
    if near is not None and not 0 < near < 1:
        raise ArgumentError(f"near must be a similarity in (0, 1), got {near}.")
    exact = _exact(list(text_keys(texts, text_pairs)), labels)
    return exact if near is None else _merged(exact, _joined(texts, text_pairs), labels, near)


def _check_lengths(rows: int, labels: Sequence[Hashable] | None, text_pairs: Sequence[str] | None) -> None:
    for name, given in (("labels", labels), ("text_pairs", text_pairs)):
        if given is not None and len(given) != rows:
            raise ArgumentError(f"{name} must be as many as the texts, {rows}, got {len(given)}.")


def _exact(found: Sequence[Hashable], labels: Sequence[Hashable] | None) -> Groups:
    members: dict[Hashable, list[int]] = {}
    for row, key in enumerate(found):
        members.setdefault(key, []).append(row)
    of = np.arange(len(found))
    conflicts = []
    for rows in members.values():
        if len(rows) == 1:
            continue
        stands, differ = _believed(rows, labels)
        of[rows] = stands
        conflicts += [stands] if differ else []
    return Groups(of, np.sort(np.array(conflicts, np.int64)))


def _believed(rows: Sequence[int], labels: Sequence[Hashable] | None) -> tuple[int, bool]:
    """The first row that has the most common label (of equally common ones the first), and whether labels differ."""
    if labels is None:
        return rows[0], False
    counts = Counter(labels[row] for row in rows)
    best = max(counts.values())
    return next(row for row in rows if counts[labels[row]] == best), len(counts) > 1


def _merged(exact: Groups, texts: Sequence[str], labels: Sequence[Hashable] | None, near: float) -> Groups:
    """Groups of which those that are nearly the same, and have the same label, are one: the first one's row stands."""
    rows = exact.rows
    one, two = near_pairs([texts[row] for row in rows], near)
    merged = np.arange(len(rows))
    for first, second in zip(one.tolist(), two.tolist(), strict=True):  # ascending by the second, then the first
        alone = merged[first] == first and merged[second] == second  # who stands for a group, stands for itself
        if alone and (labels is None or labels[rows[first]] == labels[rows[second]]):
            merged[second] = first
    place = np.searchsorted(rows, exact.of)
    return Groups(rows[merged[place]], exact.conflicts)


def _joined(texts: Sequence[str], text_pairs: Sequence[str] | None) -> list[str]:
    return [f"{one}\n{two}" if two else one for one, two in text_keys(texts, text_pairs)]


# ---- between splits ----


@dataclass(frozen=True)
class Overlap:
    """Training rows that another split has too.

    Attributes:
        split: The other one.
        exact: Training rows whose text occurs in it, case and spacing aside, ascending.
        near: Training rows that are nearly the same as one of it and not exactly, ascending.
    """

    split: str
    exact: Rows
    near: Rows

    def note(self) -> str:
        """A sentence for the user; empty where nothing is shared."""
        if not len(self.exact) and not len(self.near):
            return ""
        return (
            f"{self.split}: {len(self.exact):,} training rows have the text of one of its rows, case and spacing "
            f"aside, and {len(self.near):,} more nearly so; its metrics are too good by what was learned by heart."
        )


def overlaps(splits: Mapping[str, Sequence[str]], *, near: float = NEAR) -> list[Overlap]:
    """What train shares with the other splits.

    Args:
        splits: The texts by split, with `train`; of pairs, both texts as one.
        near: See `representatives`.

    Returns:
        One per other split.

    Raises:
        ArgumentError: If there is no `train`.

    Example:
        >>> found = overlaps({"train": ["a good film", "bad"], "test": ["A good  film"]})
        >>> found[0].split, found[0].exact, found[0].near
        ('test', array([0]), array([], dtype=int64))
    """
    if "train" not in splits:
        raise ArgumentError(f"overlaps are those of train; the splits are {', '.join(splits) or 'none'}.")
    train = [normal_text(text) for text in splits["train"]]
    return [
        _overlap(name, train, [normal_text(text) for text in texts], near)
        for name, texts in splits.items()
        if name != "train"
    ]


def _overlap(name: str, train: Sequence[str], other: Sequence[str], near: float) -> Overlap:
    known = set(other)
    same = np.array([text in known for text in train], bool)
    one, two = near_pairs([*other, *train], near)
    across = (one < len(other)) & (two >= len(other))
    close = np.unique(two[across] - len(other))
    return Overlap(name, np.flatnonzero(same), close[~same[close]])
