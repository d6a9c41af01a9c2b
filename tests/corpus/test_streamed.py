"""Streamed selection keeps exactly the rows that the selectors keep in memory."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from datadiet.corpus import streamed
from datadiet.corpus.streamed import STREAMING, Values, choose, sortable, streaming_problems
from datadiet.errors import ArgumentError, DataError
from datadiet.registry import load
from datadiet.selectors.quotas import with_floor

CASES: list[tuple[str, dict[str, Any], int]] = [
    ("hardest", {}, 0),
    ("hardest", {"offset": 0.05}, 0),
    ("hardest", {}, 2),
    ("easiest", {}, 0),
    ("easiest", {}, 1),
    ("window", {"offset": 0.1}, 0),
    ("random", {}, 0),
    ("proportional", {}, 0),
    ("proportional", {"scaling": "softmax", "temperature": 2.0}, 0),
    ("balanced", {}, 0),
    ("quota", {}, 0),
    ("quota", {"select": "easiest"}, 0),
    ("partly_balanced", {"balance": 0.7}, 0),
]
SPREADS = {
    "normal": lambda rng, size: rng.normal(size=size),
    "few values": lambda rng, size: rng.integers(-1, 2, size) * 1.0,
    "one value": lambda _rng, size: np.zeros(size),
    "heavy tail": lambda rng, size: rng.exponential(size=size) ** 3,
}


def in_parts(values: np.ndarray, groups: np.ndarray, cuts: list[int]) -> Values:
    parts, own = np.split(values, cuts), np.split(groups, cuts)

    def coded(part: int) -> tuple[np.ndarray, list[str]]:
        names, codes = np.unique(own[part], return_inverse=True)
        return codes, names.tolist()

    return Values([len(part) for part in parts], parts.__getitem__, coded)


@pytest.fixture(autouse=True)
def _few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streamed, "_FEW", 32)  # several passes also over few rows


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("spread", SPREADS)
@pytest.mark.parametrize("seed", range(5))
def test_the_same_rows_as_in_memory(case, spread, seed):
    (name, options, floor), rng = case, np.random.default_rng(seed)
    size = int(rng.integers(5, 900))
    values = SPREADS[spread](rng, size).astype(np.float32)
    groups = np.array(list("abcdé"))[rng.choice(5, size, p=[0.5, 0.3, 0.1, 0.07, 0.03])]
    if seed == 4:  # so many that the rows at their cuts are counted all at once
        groups = rng.integers(10, 50, size).astype(str)
    count = int(rng.integers(1, size + 1))
    select = load("select", name)
    own = {key: load("select", value) if key == "select" else value for key, value in options.items()}
    whole = with_floor(select, floor) if floor else select
    parts = in_parts(values, groups, sorted(rng.integers(0, size, 4).tolist()))
    try:
        expected = whole(values, count, seed=seed, epoch=0, groups=groups, **own).rows
    except ArgumentError as error:
        with pytest.raises(ArgumentError, match=re.escape(str(error))):
            choose(parts, count, name, options, floor=floor, seed=seed)
        return
    kept = choose(parts, count, name, options, floor=floor, seed=seed)
    for _ in range(2):  # the masks can be gone through again
        np.testing.assert_array_equal(np.flatnonzero(np.concatenate(list(kept.masks()))), expected)
    assert kept.count == count
    sizes = dict(zip(*np.unique(groups, return_counts=True), strict=True))
    assert {name: rows for name, (rows, _) in kept.groups.items()} == sizes
    assert sum(number for _, number in kept.groups.values()) == count


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_bits_sort_as_the_floats_do(kind):
    numbers = np.array([0.0, -0.0, 1.5, -1.5, np.inf, -np.inf, 1e-40, -1e-40, 3e38, -3e38], kind)
    bits = sortable(numbers)
    np.testing.assert_array_equal(bits[:, None] < bits, numbers[:, None] < numbers)


def test_every_selector_says_whether_it_streams():
    assert all(not streaming_problems(name, {"offset": 0.1} if name == "window" else {}, 0) for name in STREAMING)
    (problem,) = streaming_problems("cover", {}, 0)
    assert problem == f"the selector cover needs all rows in memory at once; these stream: {', '.join(STREAMING)}."
    assert "a floor streams with hardest and easiest" in streaming_problems("random", {}, 3)[0]
    assert "must be hardest or easiest to stream, got random" in streaming_problems("quota", {"select": "random"}, 0)[0]


@pytest.mark.parametrize(
    ("select", "options", "message"),
    [
        ("hardest", {"tie_break": "row"}, "tie_break of hardest has no effect on a corpus, got row: leave it out."),
        ("balanced", {"offset": 0.2}, "offset of balanced has no effect on a corpus, got 0.2: leave it out."),
        ("quota", {"shares": {"a": 0.5, "b": 0.2}}, "shares must sum to 1, got 0.7."),
        ("quota", {"shares": {"a": 2, "b": -1}}, "shares must be at least 0, got -1 for 'b'."),
    ],
)
def test_options_that_would_be_ignored_are_refused(select, options, message):
    assert streaming_problems(select, options, 0) == [message]
    assert streaming_problems("hardest", {"tie_break": "hash"}, 0) == []


def test_what_cannot_be_chosen_is_refused():
    parts = in_parts(np.float32([1, np.nan, 2]), np.array(list("aab")), [1])
    with pytest.raises(DataError, match="got NaN in partition 1"):
        choose(parts, 1, "hardest")
    parts = in_parts(np.float32([1, 2]), np.array(list("ab")), [1])
    with pytest.raises(ArgumentError, match="count must be from 1 to 2, the rows that may be chosen, got 3"):
        choose(parts, 3, "hardest")
    with pytest.raises(ArgumentError, match="balanced needs groups"):
        choose(Values([2], lambda _: np.float32([1, 2])), 1, "balanced")
    with pytest.raises(ArgumentError, match=r"shares must name every group; missing: 'b'"):
        choose(parts, 1, "quota", {"shares": {"a": 1.0}})
