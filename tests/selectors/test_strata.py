"""Strata, both ends and the sliding window: published numbers, exact counts, and what they are for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

from datadiet.errors import ArgumentError
from datadiet.scores.two_models import dealrec
from datadiet.selectors.ranked import OffsetError, hardest
from datadiet.selectors.strata import both_ends, ccs, filled_places, seta, stratified, stratum, window_start

FOLDER = Path(__file__).parents[1] / "golden"
GOLDEN = json.loads((FOLDER / "ccs.json").read_text())
DEALREC = json.loads((FOLDER / "dealrec.json").read_text())
SETA = json.loads((FOLDER / "seta.json").read_text())


@pytest.mark.proves("ccs", by="golden")
@pytest.mark.parametrize("case", GOLDEN["filled_places"], ids=lambda case: f"{case['sizes']}-{case['count']}")
def test_golden_places_filled_from_the_smallest_stratum(case: dict[str, Any]) -> None:
    assert filled_places(np.array(case["sizes"]), case["count"]).tolist() == case["places"]


@pytest.mark.proves("ccs", by="golden")
def test_golden_strata_of_equal_width() -> None:
    numbers = stratum(np.array(GOLDEN["values"]), GOLDEN["strata"], "range")
    assert np.bincount(numbers, minlength=GOLDEN["strata"]).tolist() == GOLDEN["stratum_sizes"]


@pytest.mark.proves("ccs", by="golden")
@pytest.mark.parametrize("case", GOLDEN["drawn"], ids=lambda case: str(case["count"]))
def test_golden_rows_per_stratum(case: dict[str, Any]) -> None:
    values = np.array(GOLDEN["values"])
    numbers = stratum(values, GOLDEN["strata"], "range")
    rows = ccs(values, case["count"], seed=0, epoch=0, beta=0.0, strata=GOLDEN["strata"], edges="range").rows
    assert np.bincount(numbers[rows], minlength=GOLDEN["strata"]).tolist() == case["per_stratum"]


@pytest.mark.parametrize("edges", ["clipped", "range"])
@pytest.mark.parametrize("case", GOLDEN["edge_cases"], ids=lambda case: case["name"])
def test_golden_edge_cases_negative_zero_and_equal_values(case: dict[str, Any], edges: str) -> None:
    """The published code loses the top row, or selects nothing."""
    values = np.array(case["values"])
    assert stratum(values, 50, edges).max() < 50
    for count in (7, 19):
        assert ccs(values, count, seed=0, epoch=0, beta=0.0, edges=edges).rows.size == count
    if len(set(case["values"])) > 1:
        top_alone = ccs(values, 10, seed=0, epoch=0, beta=0.0, strata=2, edges=edges)
        assert stratum(values, 2, edges)[case["top"]] == 1
        assert np.count_nonzero(stratum(values, 2, edges)[top_alone.rows]) in (4, 5, 6, 7, 8, 9)


@pytest.mark.proves("ccs", by="golden")
def test_golden_rows_excluded_as_suspected_noise() -> None:
    case = GOLDEN["set_aside"]
    values = np.array(case["values"])
    share = case["number"] / values.size
    kept = ccs(values, len(case["kept"]), seed=0, epoch=0, beta=share)
    assert kept.rows.tolist() == case["kept"]


@pytest.mark.proves("ccs", by="golden")
@pytest.mark.parametrize("case", DEALREC["cases"], ids=lambda case: f"{case['weight']}-{case['count']}")
def test_golden_coverage_enhanced_selection_of_dealrec(case: dict[str, Any]) -> None:
    """The published bins and how many of each; nothing is dropped that `beta` does not drop."""
    values = dealrec(DEALREC["influence"], DEALREC["effort"], weight=case["weight"], normalise="min_max")
    options: dict[str, Any] = {"beta": case["drop_hardest"], "strata": case["strata"], "edges": "range"}
    rows = ccs(values, case["count"], seed=0, epoch=0, **options).rows
    assert rows.size == case["count"]
    assert [int(np.isin(rows, part).sum()) for part in case["bins"]] == case["per_bin"]


def test_the_row_that_dealrec_loses_is_among_those_that_can_be_chosen() -> None:
    case = DEALREC["maximum_dropped"]
    rows = ccs(case["score"], case["n"], seed=0, epoch=0, beta=0.0, strata=case["k"], edges="range").rows
    assert rows.size == case["n"] == case["reference_n"] + 1
    often = [ccs(case["score"], 9, seed=seed, epoch=0, beta=0.0, strata=case["k"], edges="range") for seed in range(9)]
    assert any(case["argmax_score"] in chosen.rows for chosen in often)


def test_strata_of_equal_mass_hold_as_many_rows_each_whatever_the_values() -> None:
    values = np.append(np.random.default_rng(0).lognormal(sigma=2, size=99), 1e9)
    assert np.bincount(stratum(values, 5, "mass")).tolist() == [20] * 5
    rows = ccs(values, 10, seed=0, epoch=0, beta=0.0, strata=5, edges="mass").rows
    assert np.bincount(stratum(values, 5, "mass")[rows]).tolist() == [2] * 5
    tied = np.repeat([1.0, 2.0], [95, 5])
    assert ccs(tied, 8, seed=0, epoch=0, beta=0.0, strata=5, edges="mass").rows.size == 8


@settings(deadline=None)
@given(sizes=st.lists(st.integers(0, 40), min_size=1, max_size=12), share=st.floats(0, 1))
def test_filled_places_are_exact_and_fair(sizes: list[int], share: float) -> None:
    count = round(share * sum(sizes))
    places = filled_places(np.array(sizes), count)
    assert places.sum() == count
    cut = [place for place, size in zip(places, sizes, strict=True) if place < size]
    assert not cut or max(cut) - min(cut) <= 1  # those not taken whole have the same, up to one
    whole = [place for place, size in zip(places, sizes, strict=True) if place == size]
    assert not cut or not whole or max(whole) <= max(cut) + 1


def test_no_outlier_empties_the_strata() -> None:
    """One value of 1,000 leaves 49 of 50 strata of the full range empty; clipped, the middle is still covered."""
    values = np.append(np.linspace(0, 1, 999), 1000.0)
    covered = {edges: np.unique(stratum(values, 50, edges)).size for edges in ("range", "clipped")}
    assert covered == {"range": 2, "clipped": 50}


@pytest.mark.proves("ccs", by="planted")
def test_beta_excludes_planted_noise_where_the_hardest_are_nearly_all_noise() -> None:
    generator = np.random.default_rng(0)
    values = generator.beta(1, 4, 1000)
    noise = generator.choice(1000, 100, replace=False)
    values[noise] = 1 + generator.random(100)  # mislabelled: harder than anything that is clean
    assert np.isin(hardest(values, 100, seed=0, epoch=0).rows, noise).mean() == 1.0
    assert not np.isin(ccs(values, 100, seed=0, epoch=0, beta=0.1).rows, noise).any()
    assert np.isin(ccs(values, 100, seed=0, epoch=0, beta=0.0).rows, noise).mean() > 0.2


@pytest.mark.proves("ccs", by="planted")
def test_ccs_covers_the_hard_region_that_is_rare_and_the_easy_one_that_is_common() -> None:
    values = np.concatenate([np.full(900, 0.05), np.linspace(0, 1, 100)])
    rows = ccs(values, 100, seed=0, epoch=0, beta=0.0, strata=10).rows
    per_stratum = np.bincount(stratum(values, 10)[rows], minlength=10)
    assert per_stratum.min() >= 8
    assert np.count_nonzero(values[rows] == 0.05) < 20


def test_beta_that_leaves_too_few_rows() -> None:
    with pytest.raises(OffsetError, match=r"a beta of 0\.5 excludes 5 of 10 rows, .*Lower the beta or keep less"):
        ccs(np.arange(10), 6, seed=0, epoch=0, beta=0.5)
    assert ccs(np.arange(10), 5, seed=0, epoch=0, beta=0.5).rows.tolist() == [0, 1, 2, 3, 4]


def test_beta_is_a_share_of_the_rows_that_were_scored() -> None:
    values = np.concatenate([np.full(10, np.inf), np.arange(10.0)])
    rows = ccs(values, 15, seed=0, epoch=0, beta=0.2).rows
    assert rows.size == 15
    assert {18, 19}.isdisjoint(rows.tolist())
    assert set(range(10)) <= set(rows.tolist())


@pytest.mark.proves("stratified", by="planted")
def test_stratified_is_a_small_copy_of_the_whole() -> None:
    values = np.random.default_rng(0).lognormal(size=2000)
    rows = stratified(values, 200, seed=0, epoch=0).rows
    tenth = np.searchsorted(np.quantile(values, np.arange(1, 10) / 10), values)
    assert_allclose(np.bincount(tenth[rows]), 20, atol=1)


@pytest.mark.proves("stratified")
def test_stratified_with_more_strata_than_values_that_differ() -> None:
    values = np.repeat([1.0, 2.0, 2.5], [80, 15, 5])
    rows = stratified(values, 20, seed=0, epoch=0, strata=50).rows
    assert np.bincount(np.repeat([0, 1, 2], [80, 15, 5])[rows]).tolist() == [16, 3, 1]
    assert stratified(values, 20, seed=0, epoch=0, strata=1).rows.size == 20
    assert stratified(values, 20, seed=0, epoch=0, strata=100_000).rows.size == 20


@pytest.mark.proves("both_ends")
@pytest.mark.parametrize(("hard", "top", "bottom"), [(0.7, 7, 3), (1.0, 10, 0), (0.0, 0, 10), (0.25, 2, 8)])
def test_both_ends_and_nothing_between(hard: float, top: int, bottom: int) -> None:
    rows = both_ends(np.arange(100), 10, seed=0, epoch=0, hard=hard).rows
    assert_array_equal(rows, [*range(bottom), *range(100 - top, 100)])


def test_minus_infinity_is_refused_where_values_are_computed_with() -> None:
    values = np.array([1.0, -np.inf, 2.0, 3.0])
    with pytest.raises(ArgumentError, match=r"got -inf in 1 of 4 rows: 1 \(id 'b'\)"):
        ccs(values, 2, seed=0, epoch=0, ids=["a", "b", "c", "d"])
    assert stratified(values, 2, seed=0, epoch=0).rows.size == 2


# ---- seta


@pytest.mark.proves("seta", by="golden")
@pytest.mark.parametrize("case", SETA["windows"], ids=lambda c: f"{c['num_groups']}-{c['window']}-{c['place']}")
def test_golden_windows(case: dict[str, Any]) -> None:
    number = case["num_groups"]
    assert window_start(case["place"], number, len(case["groups"])) == case["groups"][0]
    values = np.arange(number * 10)
    rows = seta(
        values, len(case["groups"]) * 10, seed=0, epoch=case["place"], num_groups=number, window=case["window"]
    ).rows
    assert np.unique(rows // 10).tolist() == case["groups"]


@pytest.mark.proves("seta", by="planted")
def test_the_window_goes_from_easy_to_hard_and_wraps() -> None:
    values = np.random.default_rng(0).permutation(1000).astype(np.float32)
    means = [values[seta(values, 300, seed=0, epoch=epoch).rows].mean() for epoch in range(9)]
    assert bool((np.diff(means[:8]) > 50).all())
    assert means[8] == means[0]


def test_a_window_wider_than_the_count_is_drawn_from_at_random() -> None:
    values = np.arange(100)
    taken = np.zeros(100)
    for seed in range(400):
        taken[seta(values, 36, seed=seed, epoch=1, num_groups=5, window=0.9).rows] += 1
    assert_array_equal(taken[:20], 0)
    assert_allclose(taken[20:] / 400, 36 / 80, atol=0.13)  # 5 standard deviations


def test_a_window_narrower_than_the_count_is_widened_towards_the_hard() -> None:
    values = np.arange(100)
    assert_array_equal(seta(values, 30, seed=0, epoch=2, window=0.1).rows, np.arange(20, 50))
    assert_array_equal(seta(values, 30, seed=0, epoch=9, window=0.1).rows, np.arange(70, 100))


def test_every_holds_the_window_for_as_long_as_a_selection_lasts() -> None:
    """With a refresh every 8 epochs the window of ten groups would otherwise stand at one place for ever."""
    values = np.arange(100)
    starts = [seta(values, 30, seed=0, epoch=epoch, every=8).rows[0] for epoch in (0, 8, 16, 23, 24)]
    assert starts == [0, 10, 20, 20, 30]
