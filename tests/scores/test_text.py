"""Scores of the words alone: golden distances, planted texts, and texts that cannot be scored."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from scipy.sparse import csr_array
from sklearn.feature_extraction.text import TfidfVectorizer

from datadiet import registry
from datadiet.errors import ArgumentError, DataError
from datadiet.scores.text import distances_to, geometric_median, length, metadata, scdp, tf_idf
from datadiet.selectors.ranked import hardest

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "scdp.json").read_text())
SENTENCES = GOLDEN["sentences"]
COUNTED = [text for row, text in enumerate(SENTENCES) if row != GOLDEN["empty_row"]]
QUERIES = [f"play song number {number}" for number in range(12)]
SCORES = {
    name: partial(registry.load("score", name), queries=QUERIES)
    if name in registry.names("score", need="queries")
    else registry.load("score", name)
    for name in registry.names("score", need="texts")
}
battery = pytest.mark.parametrize("name", list(SCORES))


@battery
def test_one_finite_value_per_text_and_the_same_every_time(name: str) -> None:
    first, second = (SCORES[name](COUNTED) for _ in range(2))
    assert first.dtype == np.float32
    assert first.shape == (len(COUNTED),)
    assert np.isfinite(first).all()
    assert_array_equal(first, second)


@battery
def test_parts_of_a_text_are_joined(name: str) -> None:
    pairs = [(text, "indeed so") for text in COUNTED]
    assert_array_equal(SCORES[name](pairs), SCORES[name]([f"{text} indeed so" for text in COUNTED]))


@battery
def test_texts_that_are_none(name: str) -> None:
    with pytest.raises(ArgumentError, match="got a single string"):
        SCORES[name]("play some jazz")
    with pytest.raises(ArgumentError, match="at least one entry, got none"):
        SCORES[name]([])


# ---- SCDP


@pytest.mark.proves("scdp", by="golden")
def test_golden_distances_to_the_geometric_median() -> None:
    """With the row without words, as the published code has it; the score itself refuses that row."""
    matrix = TfidfVectorizer().fit_transform(SENTENCES)
    assert matrix.shape[1] == GOLDEN["terms"]
    assert_allclose(distances_to(matrix, geometric_median(matrix)), GOLDEN["distance"], atol=1e-6)


@pytest.mark.proves("scdp", by="golden")
@pytest.mark.parametrize("keep", GOLDEN["farthest"])
def test_golden_farthest_sets(keep: str) -> None:
    rows = hardest(GOLDEN["distance"], int(float(keep) * 30), seed=0, epoch=0, tie_break="row").rows
    assert rows.tolist() == GOLDEN["farthest"][keep]


def test_the_median_has_the_least_sum_of_distances() -> None:
    matrix = tf_idf(COUNTED)
    median = geometric_median(matrix)
    least = distances_to(matrix, median).sum()
    generator = np.random.default_rng(0)
    for _ in range(50):
        moved = median + 0.02 * generator.normal(size=median.size)
        assert distances_to(matrix, moved).sum() > least
    assert distances_to(matrix, np.asarray(matrix.mean(0)).ravel()).sum() > least


def test_medians_that_fall_on_a_row() -> None:
    points = np.array([[0.0, 0.0], [3.0, 0.0], [-3.0, 0.0], [0.0, 3.0], [0.0, -3.0], [0.0, 0.0]])
    assert_allclose(geometric_median(csr_array(points)), 0, atol=1e-6)
    assert_allclose(geometric_median(csr_array([[1.0, 2.0]])), [1, 2])
    assert_allclose(scdp(["play some jazz"] * 5), 0, atol=1e-6)


@pytest.mark.proves("scdp", by="planted")
def test_outlying_topics_lie_farthest() -> None:
    generator = np.random.default_rng(1)
    usual = ["play", "some", "music", "song", "album", "artist", "listen", "radio"]
    texts = [" ".join(generator.choice(usual, 6)) for _ in range(200)]
    texts[17], texts[90] = "zygomorphic quixotic flibbertigibbet", "mortgage amortisation schedule overdue"
    assert set(np.argsort(-scdp(texts))[:2].tolist()) == {17, 90}


@pytest.mark.proves("scdp", by="planted")
def test_a_median_per_class_finds_what_is_unusual_there() -> None:
    generator = np.random.default_rng(2)
    words = {"music": ["play", "song", "album", "jazz"], "rain": ["rain", "snow", "sunny", "forecast"]}
    labels = np.array(["music"] * 60 + ["rain"] * 60)
    texts = [" ".join(generator.choice(words[label], 5)) for label in labels]
    labels[5] = "rain"  # a text of music among those of rain
    by_class = scdp(texts, labels)
    inside = np.flatnonzero(labels == "rain")
    assert inside[by_class[inside].argmax()] == 5
    assert scdp(texts).argmax() != 5


def test_the_matrix_stays_sparse(monkeypatch: pytest.MonkeyPatch) -> None:
    def dense(*_args: object, **_options: object) -> None:
        raise AssertionError("made dense")

    for name in ("toarray", "todense"):
        monkeypatch.setattr(f"scipy.sparse.csr_matrix.{name}", dense)
        monkeypatch.setattr(f"scipy.sparse.csr_array.{name}", dense)
    assert scdp(COUNTED).size == len(COUNTED)


def test_texts_without_a_word_that_counts_are_refused_with_their_ids() -> None:
    texts, ids = ["play jazz", "I", "rain", "?!"], ["a", "b", "c", "d"]
    with pytest.raises(DataError, match=r"no word in 2 of 4 rows: 1 \(id 'b'\), 3 \(id 'd'\). Leave them out"):
        scdp(texts, ids=ids)
    with pytest.raises(DataError, match="no word in 2 of 2 rows: 0, 1"):
        scdp(["I", ""])
    assert scdp(texts, vectorizer=TfidfVectorizer(token_pattern=r"\S+")).size == 4
    with pytest.raises(ValueError, match="max_df corresponds"):  # errors of the vectorizer are passed on
        scdp(["play jazz"] * 3, vectorizer=TfidfVectorizer(max_df=0.1, min_df=3))


def test_what_cannot_be_scored() -> None:
    with pytest.raises(ArgumentError, match=r"labels need one entry per row: got \(1,\) for 2 rows"):
        scdp(["play jazz", "rain"], ["a"])
    with pytest.raises(ArgumentError, match="tolerance must be above 0, got 0"):
        scdp(["play jazz"], tolerance=0)
    with pytest.raises(ArgumentError, match=r"still moves by .* after 1 steps; raise the tolerance"):
        geometric_median(tf_idf(COUNTED), most=1)


# ---- length


@pytest.mark.proves("length")
def test_length_counts_words_or_characters() -> None:
    texts = ["play  some jazz", "", "stop"]
    assert length(texts).tolist() == [3, 0, 1]
    assert length(texts, unit="characters").tolist() == [15, 0, 4]
    with pytest.raises(ArgumentError, match="unknown unit 'word'; did you mean 'words'"):
        length(texts, unit="word")


def test_length_prefers_whatever_is_long_and_nothing_else() -> None:
    """Why it is a baseline: the long rows are found, whether they teach anything or not."""
    rng = np.random.default_rng(0)
    long = np.arange(200) % 4 == 0
    texts = [" ".join(["word"] * int(rng.integers(20, 30) if much else rng.integers(3, 9))) for much in long]
    assert set(np.argsort(-length(texts))[: long.sum()]) == set(np.flatnonzero(long))


# ---- a column of the data


@pytest.mark.proves("metadata")
def test_metadata_are_the_numbers_of_a_column() -> None:
    assert metadata([3, "2.5", True], column="impact").tolist() == [3, 2.5, 1]
    with pytest.raises(
        DataError, match=r"'impact' must hold finite numbers, and does not in 4 of 6 rows: 1 \(id 'b'\), 3"
    ):
        metadata([1, "high", 2, None, "1e99", 10**400], column="impact", ids=list("abcdef"))
