"""Hardest, easiest, window and the middle: published rows, and the rules that they follow."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.testing import assert_array_equal

from datadiet.selectors.ranked import OffsetError, easiest, hardest, moderate, proportional_places, window

GOLDEN = Path(__file__).parents[1] / "golden"
EXACT = json.loads((GOLDEN / "exact_selection.json").read_text())
MODERATE = json.loads((GOLDEN / "moderate.json").read_text())
seeds = st.integers(0, 2**40)
tied_values = arrays(
    np.float32,
    st.integers(8, 60),
    elements=st.one_of(st.sampled_from([0.0, 0.25, 0.5, np.inf]), st.floats(0, 1, width=16)),
)


@pytest.mark.proves("hardest", by="golden")
@pytest.mark.proves("SHARE", by="golden")
@pytest.mark.parametrize("case", EXACT["cases"], ids=lambda case: f"{case['values']}-{case['count']}-{case['offset']}")
def test_golden_exact_selection(case: dict[str, Any]) -> None:
    values = EXACT["values"][case["values"]]
    chosen = hardest(values, case["count"], seed=0, epoch=0, offset=case["offset"], tie_break="row")
    assert chosen.rows.tolist() == case["rows"]


@pytest.mark.proves("hardest", "easiest", by="brute")
@settings(deadline=None)
@given(values=tied_values, share=st.floats(0, 1), seed=seeds)
def test_nothing_left_out_is_harder_than_anything_hardest_takes(values: np.ndarray, share: float, seed: int) -> None:
    count = max(3, round(share * values.size))
    for select, keys in ((hardest, values), (easiest, np.where(np.isinf(values), np.inf, -values))):
        rows = select(values, count, seed=seed, epoch=0).rows
        left = np.setdiff1d(np.arange(values.size), rows)
        assert not left.size or keys[left].max() <= keys[rows].min()
        by_row = select(values, count, seed=seed, epoch=0, tie_break="row").rows
        assert_array_equal(by_row, np.sort(np.argsort(-keys, kind="stable")[:count]))


@pytest.mark.proves("window", by="definition")
@settings(deadline=None)
@given(values=tied_values, offset=st.floats(0.05, 0.5), seed=seeds)
def test_a_window_is_the_top_less_the_very_top(values: np.ndarray, offset: float, seed: int) -> None:
    scored = np.isfinite(values)
    excluded = round(offset * values.size)
    count = values.size - excluded
    rows = window(values, count, seed=seed, epoch=0, offset=offset).rows
    assert bool(np.isin(np.flatnonzero(~scored), rows).all()) or count < (~scored).sum()
    if scored.all() and excluded > 0:
        top = hardest(values, excluded, seed=seed, epoch=0).rows
        assert np.intersect1d(top, rows).size == 0


@pytest.mark.proves("window")
def test_the_offset_is_a_share_of_the_rows_that_were_scored() -> None:
    values = np.array([np.inf, np.inf, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2])
    assert_array_equal(window(values, 4, seed=0, epoch=0, offset=0.25).rows, [0, 1, 4, 5])


def test_an_offset_that_leaves_too_few_rows() -> None:
    with pytest.raises(OffsetError, match=r"offset of 0\.5 excludes 5 of 10 rows, which leaves 5 for a count of 6"):
        hardest(np.arange(10), 6, seed=0, epoch=0, offset=0.5)
    with pytest.raises(OffsetError, match="leaves 5 for a count of 6"):  # known before there are any scores
        hardest(np.full(10, np.inf), 6, seed=0, epoch=0, offset=0.5)
    assert hardest(np.arange(10), 5, seed=0, epoch=0, offset=0.5).rows.tolist() == [0, 1, 2, 3, 4]


# ---- the middle band


@pytest.mark.proves("moderate", kind="select", by="golden")
@pytest.mark.parametrize("case", MODERATE["bands"], ids=lambda case: f"keep {case['keep']}")
def test_golden_middle_bands(case: dict[str, Any]) -> None:
    rows = moderate(MODERATE["distance"], case["count"], seed=0, epoch=0).rows
    assert rows.size == case["count"]
    assert set(rows.tolist()) <= set(case["code_rows"])  # whose band is up to one row wider
    if len(case["code_rows"]) > case["count"]:
        rows = moderate(MODERATE["distance"], len(case["code_rows"]), seed=0, epoch=0).rows
    assert rows.tolist() == case["code_rows"]


@pytest.mark.proves("moderate", kind="select", by="golden")
def test_golden_middle_bands_per_class() -> None:
    expected = MODERATE["per_class_half"]
    options = {"seed": 0, "epoch": 0, "groups": MODERATE["labels"], "per_group": True}
    assert moderate(MODERATE["distance"], len(expected), **options).rows.tolist() == expected


@pytest.mark.proves("moderate", kind="select", by="planted")
def test_a_class_that_spreads_widely_vanishes_unless_bands_are_per_class() -> None:
    values = np.concatenate([np.linspace(0, 1, 50), np.linspace(5, 9, 10)])
    groups = np.repeat(["near", "far"], [50, 10])
    over_all = moderate(values, 20, seed=0, epoch=0).rows
    per_class = moderate(values, 20, seed=0, epoch=0, groups=groups, per_group=True).rows
    assert set(groups[over_all].tolist()) == {"near"}
    assert (groups[per_class] == "far").sum() in (3, 4)


@pytest.mark.proves("moderate", kind="select", by="planted")
def test_moderate_is_left_alone_by_mislabelled_outliers() -> None:
    values = np.concatenate([np.random.default_rng(0).random(90), np.full(10, 50.0)])
    assert moderate(values, 40, seed=0, epoch=0).rows.max() < 90


@settings(deadline=None)
@given(sizes=st.lists(st.integers(1, 30), min_size=1, max_size=8), share=st.floats(0, 1))
def test_proportional_places_add_up(sizes: list[int], share: float) -> None:
    rows = np.array(sizes)
    count = max(1, round(share * rows.sum()))
    places = proportional_places(rows, count)
    assert places.sum() == count
    assert (places <= rows).all()
    assert (places >= (1 if count >= len(sizes) else 0)).all()
    if count > len(sizes):
        ordered = places[np.argsort(rows, kind="stable")]
        assert (np.maximum.accumulate(ordered) - ordered).max() <= 1  # a larger group has no fewer places
        after_one_each = 1 + (rows - 1) * ((count - len(rows)) / max(1, rows.sum() - len(rows)))
        assert np.abs(places - after_one_each).max() <= len(rows) + 1  # each round of places rounds down


@settings(deadline=None)
@given(values=arrays(np.float64, 30, elements=st.sampled_from([0.0, 0.5, np.inf])), count=st.integers(1, 30))
def test_bands_per_group_have_the_exact_count_and_new_rows_first(values: np.ndarray, count: int) -> None:
    rows = moderate(values, count, seed=0, epoch=0, groups=np.arange(30) % 4, per_group=True).rows
    assert rows.size == count
    new = np.flatnonzero(np.isinf(values))
    assert len(np.intersect1d(rows, new)) == min(count, new.size)
