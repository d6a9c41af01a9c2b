"""Exact and near duplicates: groups, who stands for them, label conflicts, and what splits share."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datadiet.data.duplicates import (
    FOUND,
    HASHES,
    Groups,
    near_pairs,
    normal_text,
    overlaps,
    representatives,
    rows_per_band,
)
from datadiet.errors import ArgumentError

WORDS = [
    f"{one}{two}" for one in ("book", "play", "rate", "find", "show", "add") for two in ("ing", "er", "ed", "s", "")
]


def sentences(count, seed=0, words=9):
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, words)) + f" {rng.integers(10**6)}" for _ in range(count)]


def ngrams(text):
    return {f" {word} "[at : at + 4] for word in text.split() for at in range(max(1, len(word) - 1))}


def similarity(one, two):
    shared = ngrams(one) & ngrams(two)
    return len(shared) / len(ngrams(one) | ngrams(two))


# ---- exact


@pytest.mark.proves("exact", by="definition")
@given(st.lists(st.sampled_from(["a", " A", "b", "b  c", "B c", ""]), min_size=1, max_size=30))
def test_every_row_has_one_that_says_the_same(texts):
    groups = representatives(texts)
    assert all(normal_text(texts[row]) == normal_text(texts[stands]) for row, stands in enumerate(groups.of))
    assert len(groups.rows) == len({normal_text(text) for text in texts})
    assert groups.weights.sum() == len(texts)
    assert sorted([*groups.rows, *groups.repeated]) == list(range(len(texts)))


@pytest.mark.proves("exact")
def test_where_labels_differ_the_majority_stands_and_it_is_told():
    groups = representatives(["x", "X", "x ", "y", "y"], ["a", "b", "b", "c", "d"])
    assert groups.rows.tolist() == [1, 3]  # the first of the majority; of a tie the first
    assert groups.conflicts.tolist() == [1, 3]
    assert groups.weights.tolist() == [3, 2]


def test_joint_labels_and_pairs_are_compared_whole():
    assert representatives(["x", "x"], [("a", ("O",)), ("a", ("B-x",))]).conflicts.tolist() == [0]
    assert representatives(["x", "x"], text_pairs=["one", "two"]).rows.tolist() == [0, 1]
    assert representatives(["x", "x"], text_pairs=["one", "One"]).rows.tolist() == [0]


@pytest.mark.proves("exact", by="planted")
def test_planted_repeats_are_kept_once():
    texts = sentences(300)
    repeated = [*texts, *(text.upper() for text in texts[:50])]
    groups = representatives(repeated)
    assert groups.rows.tolist() == list(range(300))
    assert groups.weights[:50].tolist() == [2] * 50
    assert groups.weights[50:].tolist() == [1] * 250


# ---- near


@pytest.mark.proves("near", by="brute")
@pytest.mark.proves("near", by="planted")
def test_near_pairs_are_those_of_brute_force():
    texts = sentences(120)
    changed = [text + " now" for text in texts[:30]] + ["please " + text for text in texts[30:60]]
    everything = [*texts, *changed]
    wanted = {
        (one, two)
        for two in range(len(everything))
        for one in range(two)
        if similarity(everything[one], everything[two]) >= 0.8
    }
    low, high = near_pairs(everything, 0.8)
    found = set(zip(low.tolist(), high.tolist(), strict=True))
    assert found <= wanted  # every pair is checked, so none is a hash collision
    assert len(found) >= 0.95 * len(wanted)
    assert len(wanted) >= 50


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.7, 0.8, 0.9, 0.99])
def test_bands_find_a_pair_at_the_threshold(threshold):
    per_band = rows_per_band(threshold)
    assert 1 - (1 - threshold**per_band) ** (HASHES // per_band) >= FOUND


def test_a_group_is_like_its_first_row_and_has_its_label():
    texts = [
        "book a table for two in rome",
        "book a table for two in rome please",
        "book a table for two in rome pleas",
    ]
    groups = representatives(texts, ["a", "a", "b"], near=0.7)
    assert groups.of.tolist() == [0, 0, 2]
    assert representatives(texts, near=0.7).of.tolist() == [0, 0, 0]


@settings(deadline=None, max_examples=20)
@given(st.lists(st.sampled_from(["aaaa bbbb cccc", "aaaa bbbb cccd", "dddd eeee", ""]), min_size=2, max_size=12))
def test_near_groups_are_unions_of_exact_ones(texts):
    exact, near = representatives(texts), representatives(texts, near=0.5)
    assert set(near.rows) <= set(exact.rows)
    assert np.array_equal(near.of[near.rows], near.rows)
    assert all(near.of[row] == near.of[exact.of[row]] for row in range(len(texts)))


def test_many_repeats_of_one_template_stay_linear():
    texts = [f"wake me up at seven in the morning tomorrow please {number}" for number in range(3000)]
    low, _high = near_pairs(texts, 0.8)
    assert len(low) < 3000 * 13 * 5
    assert len(representatives(texts, near=0.8).rows) < 300


def test_texts_without_ngrams_are_like_nothing():
    low, _ = near_pairs(["", "", "?", "book a table"], 0.5)
    assert not len(low)
    assert not len(near_pairs(["alone"], 0.5)[0])


# ---- splits


def test_what_splits_share_is_told_exact_and_near():
    train = sentences(200)
    found = overlaps({"train": train, "dev": sentences(50, seed=1), "test": [train[3].upper(), train[7] + " now"]})
    dev, test = found
    assert (dev.split, len(dev.exact), len(dev.near)) == ("dev", 0, 0)
    assert dev.note() == ""
    assert (test.exact.tolist(), test.near.tolist()) == ([3], [7])
    assert test.note().startswith("test: 1 training rows have the text of one of its rows")


# ---- bad input


def test_what_does_not_fit_is_refused():
    with pytest.raises(ArgumentError, match="labels must be as many as the texts, 2, got 1"):
        representatives(["a", "b"], ["x"])
    with pytest.raises(ArgumentError, match=r"near must be a similarity in \(0, 1\), got 80"):
        representatives(["a", "b"], near=80)
    with pytest.raises(ArgumentError, match="overlaps are those of train; the splits are dev"):
        overlaps({"dev": ["a"]})


def test_groups_of_nothing():
    groups = representatives([])
    assert isinstance(groups, Groups)
    assert not len(groups.rows)
    assert not len(groups.weights)
