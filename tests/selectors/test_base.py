"""The exact cut, the hash, and their speed and memory where half of the values tie."""

from __future__ import annotations

import tracemalloc
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from datadiet.errors import ArgumentError
from datadiet.selectors.base import checked, largest, mix, row_hash, top_mask
from datadiet.selectors.ranked import hardest

SHAPES = {
    "no ties": lambda n, g: g.random(n, dtype=np.float32),
    "half tied": lambda n, g: np.where(g.random(n) < 0.5, 0.5, g.random(n)),
    "all tied": lambda n, g: np.ones(n),
    "two values": lambda n, g: (g.random(n) < 0.3).astype(np.float32),
    "sorted": lambda n, g: np.arange(n, dtype=np.float32),
    "period of the sample": lambda n, g: np.arange(n) % 8.0 + (np.arange(n) % 8 == 0) * 100,
    "mostly new": lambda n, g: np.where(g.random(n) < 0.9, np.inf, g.random(n)),
    "both infinities": lambda n, g: np.where(g.random(n) < 0.5, np.inf, -np.inf),
    "long tail": lambda n, g: g.standard_cauchy(n),
}


@pytest.mark.parametrize("shape", list(SHAPES))
@pytest.mark.parametrize("size", [1, 100, 5000, 100_000])
def test_the_cut_is_that_of_a_full_sort(shape: str, size: int) -> None:
    keys = SHAPES[shape](size, np.random.default_rng(0))
    ordered = np.sort(keys)[::-1]
    for count in {1, 2, size // 7, size // 2, size // 2 + 1, size - 1, size} & set(range(1, size + 1)):
        assert largest(keys, count) == ordered[count - 1]
        assert np.count_nonzero(top_mask(keys, count, seed=0, epoch=0)) == count


@pytest.mark.parametrize("tie_break", ["hash", "row"])
def test_smaller_sets_lie_inside_larger_ones(tie_break: str) -> None:
    keys = np.random.default_rng(0).integers(4, size=50).astype(np.float32)
    masks = [top_mask(keys, count, seed=3, epoch=4, tie_break=tie_break) for count in range(51)]
    assert [int(mask.sum()) for mask in masks] == list(range(51))
    assert all(not (small & ~large).any() for small, large in pairwise(masks))


@settings(deadline=None)
@given(st.integers(0, 2**70), st.integers(0, 1000), st.integers(1, 100_000))
def test_no_two_rows_share_a_hash(seed: int, epoch: int, size: int) -> None:
    hashes = row_hash(np.arange(size), seed=seed, epoch=epoch)
    assert np.unique(hashes).size == size


def test_a_hash_depends_on_the_row_alone_not_on_its_place() -> None:
    rows = np.array([5, 99_999, 0, 40_000])
    everything = row_hash(np.arange(100_000), seed=1, epoch=2)
    assert_array_equal(row_hash(rows, seed=1, epoch=2), everything[rows])


def test_the_hash_is_splitmix64() -> None:
    """The first outputs of the published generator from state 0, which are the hashes of row 1, 2, 3."""
    published = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    offset = np.uint64(mix(0, 0))
    rows = np.array([1, 2, 3], np.uint64)
    # rows whose product with the golden ratio cancels the seed's offset
    inverse = np.uint64(pow(0x9E3779B97F4A7C15, -1, 1 << 64))
    with np.errstate(over="ignore"):
        shifted = rows - offset * inverse
    assert row_hash(shifted, seed=0, epoch=0).tolist() == published


def test_hashes_look_random() -> None:
    hashes = row_hash(np.arange(20_000), seed=0, epoch=0)
    bits = (hashes[:, None] >> np.arange(64, dtype=np.uint64)) & np.uint64(1)
    assert np.abs(bits.mean(0) - 0.5).max() < 0.02
    assert abs(np.corrcoef(np.arange(20_000), hashes.astype(np.float64))[0, 1]) < 0.03


def test_memory_above_the_values_stays_a_small_multiple_of_them() -> None:
    size = 400_000
    values = np.random.default_rng(0).random(size, dtype=np.float32)
    values[::2] = 0.5
    tracemalloc.start()
    hardest(values, size // 2, seed=0, epoch=0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 25 * size  # the target is 50 bytes per value; measured: 14


@pytest.mark.parametrize("values", [["0.1", "0.2"], {"a": 1}, [[1], [1, 2]], "text", [1j]])
def test_values_are_numbers(values: Any) -> None:
    with pytest.raises(ArgumentError, match="a selector needs one number per row, got"):
        checked(values, 1, seed=0, epoch=0)
