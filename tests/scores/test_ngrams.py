"""DSIR, perplexity and the classifier by hashed n-grams: golden values, brute force, planted texts, what is refused."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from hashlib import sha256
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.metrics import roc_auc_score

from datadiet.errors import ArgumentError, DataError
from datadiet.scores.ngrams import (
    Grams,
    _told_apart,
    classifier,
    dsir,
    extend_scores,
    gram_counts,
    hashed_grams,
    log_ratios,
    log_weights,
    ngram_perplexity,
)
from datadiet.selectors.sampled import proportional

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "dsir.json").read_text())
TOPICS = {"music": ["play", "song", "album", "jazz", "tune"], "rain": ["rain", "snow", "sunny", "cloud", "wind"]}


def published_grams(texts: list[str], ngrams: int, buckets: int) -> Grams:
    """By the hash of the published code."""
    pairs = []
    for row, text in enumerate(texts):
        words = re.findall(r"\w+|[^\w\s]+", text.lower())
        for length in range(1, ngrams + 1):
            joined = [" ".join(words[start : start + length]) for start in range(len(words) - length + 1)]
            pairs += [(int(sha256(gram.encode()).hexdigest(), 16) % buckets, row) for gram in joined]
    codes, rows = np.array(pairs, np.int64).T
    return Grams(codes, rows, len(texts))


@pytest.mark.proves("dsir", by="golden")
@pytest.mark.parametrize("setting", GOLDEN["settings"])
def test_golden_log_weights(setting: str) -> None:
    buckets, ngrams, smoothing = map(int, re.findall(r"\d+", setting))
    corpus, wanted = (published_grams(GOLDEN[name], ngrams, buckets) for name in ("raw", "target"))
    counts = (gram_counts([grams], buckets) for grams in (wanted, corpus))
    weights = log_weights(corpus, log_ratios(*counts, smoothing=smoothing))
    assert_allclose(weights, GOLDEN["settings"][setting]["log_weight"], rtol=1e-6, atol=1e-6)


def test_grams_are_those_of_words_one_by_one_whatever_the_chunk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each n-gram of words has a number of its own; the same n-gram has the same number in any text and chunk."""
    pairs = list(combinations(range(15), 2))
    texts = [*GOLDEN["raw"], "don't stop -- play!", "x", "the cat"]
    for ngrams in (1, 2, 3):
        [ours] = hashed_grams(texts, ngrams=ngrams, buckets=2**60)
        theirs = published_grams(texts, ngrams, 2**60)
        for grams in (ours, theirs):
            assert grams.size == len(texts)
        for row in range(len(texts)):
            sizes = [np.sort(np.unique(g.buckets[g.texts == row], return_counts=True)[1]) for g in (ours, theirs)]
            assert_array_equal(*sizes)
        shared = [
            [len(set(grams.buckets[grams.texts == one]) & set(grams.buckets[grams.texts == two])) for one, two in pairs]
            for grams in (ours, theirs)
        ]
        assert shared[0] == shared[1]
        monkeypatch.setattr("datadiet.scores.ngrams._CHUNK", 4)
        monkeypatch.setattr("datadiet.scores.ngrams._MOST_WORDS", 3)
        parts = list(hashed_grams(texts, ngrams=ngrams, buckets=2**60))
        assert [part.size for part in parts] == [4, 4, 4, 3]
        assert_array_equal(np.sort(np.concatenate([part.buckets for part in parts])), np.sort(ours.buckets))
        monkeypatch.undo()


def planted(rare: int = 20, usual: int = 380, seed: int = 0) -> tuple[list[str], np.ndarray, list[str]]:
    """A corpus in which few texts are of the topic of the queries."""
    generator = np.random.default_rng(seed)
    topics = np.repeat(["music", "rain"], [rare, usual])
    generator.shuffle(topics)
    shared = ["the", "a", "now", "please", "today"]

    def text(topic: str) -> str:
        return " ".join([*generator.choice(TOPICS[topic], 3), *generator.choice(shared, 5)])

    return [text(topic) for topic in topics], topics == "music", [text("music") for _ in range(15)]


@pytest.mark.proves("dsir", "classifier", by="planted")
@pytest.mark.parametrize("score", [dsir, classifier])
def test_the_topic_of_the_queries_is_found(score: Any) -> None:
    texts, wanted, queries = planted()
    values = score(texts, queries=queries)
    assert roc_auc_score(wanted, values) > 0.98
    order = np.random.default_rng(1).permutation(len(texts))
    assert_allclose(score([texts[row] for row in order], queries=queries), values[order], rtol=1e-5)


def test_the_length_of_a_text_decides_by_the_sum_alone() -> None:
    corpus = ["rain wind", "rain wind " * 20, "snow cloud"]
    by_sum, by_mean = dsir(corpus, queries=["play jazz"]), dsir(corpus, queries=["play jazz"], per="ngram")
    assert by_sum[1] < 10 * by_sum[0] < 0
    assert by_mean[1] == pytest.approx(by_mean[0], rel=0.1)


@pytest.mark.proves("dsir", by="planted")
def test_the_draw_of_the_paper_follows_the_weights() -> None:
    """Gumbel top-k: of log weights 0 and log 3 the second is first with probability 3/4."""
    values = np.log(np.float32([1, 3]))
    for temperature, expected in ((1.0, 0.75), (50.0, 0.505)):
        options = {"epoch": 0, "scaling": "softmax", "temperature": temperature}
        draws = [proportional(values, 1, seed=seed, **options).rows[0] for seed in range(2000)]
        assert np.mean(draws) == pytest.approx(expected, abs=0.04)


# ---- perplexity


def left_out(texts: list[str], row: int) -> float:
    """Bits per word of a text by the words of the others, one word after the other."""
    cut = [["</s>", *re.findall(r"\w+|[^\w\s]+", text.lower()), "</s>"] for text in texts]
    others = [words for number, words in enumerate(cut) if number != row]
    words = Counter(word for text in others for word in text[1:])
    pairs = Counter(pair for text in others for pair in pairwise(text))
    kinds = len({word for text in cut for word in text})
    bits = 0.0
    for before, word in pairwise(cut[row]):
        alone = (words[word] + 1) / (words.total() + kinds + 1)
        bits -= math.log2((pairs[before, word] + 16 * alone) / (words[before] + 16))
    return bits / (len(cut[row]) - 1)


@pytest.mark.proves("ngram_perplexity", by="brute")
@pytest.mark.parametrize("number", [1, 2, 30])
def test_bits_per_word_are_those_of_the_words_of_all_other_texts(number: int) -> None:
    texts = [*planted()[0], "", "a A a a", "Été, été!"][-number:]
    assert_allclose(ngram_perplexity(texts), [left_out(texts, row) for row in range(len(texts))], rtol=1e-5)


@pytest.mark.proves("ngram_perplexity", by="planted")
def test_noise_is_hard_to_predict_and_what_repeats_is_easy() -> None:
    rng = np.random.default_rng(0)
    texts, *_ = planted()
    noise = ["".join(rng.choice(list("abcdefghij "), 40)) for _ in range(20)]
    repeated = ["please play the next song of the album"] * 20
    values = ngram_perplexity([*texts, *noise, *repeated])
    usual, odd, same = np.split(values, [len(texts), len(texts) + 20])
    assert odd.min() > usual.max()
    assert same.max() < usual.min()


def test_perplexity_of_parts_is_that_of_the_whole_set() -> None:
    """Counts add up; the order of the rows and the parts in which they are read change nothing."""
    texts, *_ = planted()
    phases, whole = ngram_perplexity.phases, ngram_perplexity(texts)  # type: ignore[attr-defined]
    counted = [phases.begin(texts[:70]), phases.begin(texts[70:])]
    counts = {name: counted[0][name] + counted[1][name] for name in counted[0]}
    parts = [phases.values(part, counts) for part in (texts[:30], texts[30:31], texts[31:])]
    assert_array_equal(np.concatenate(parts), whole)
    assert_array_equal(ngram_perplexity(texts[::-1]), whole[::-1])


# ---- the classifier


def test_a_text_that_was_trained_on_is_scored_by_the_model_that_has_not_seen_it() -> None:
    """Sides without a meaning can only be learned by heart: scored by its own model each text would be right."""
    texts = [f"play {row}x" for row in range(200)]
    sides = np.random.default_rng(0).permutation(200) % 2
    found = _told_apart(texts, np.arange(200), sides, ids=None, ngrams=1, seed=0)
    assert roc_auc_score(sides, found.values) == pytest.approx(found.auc)
    assert found.auc < 0.6


def test_the_auc_is_reported() -> None:
    texts, wanted, queries = planted(rare=60, usual=180)
    report: dict[str, Any] = {}
    assert roc_auc_score(wanted, classifier(texts, queries=queries, report=report)) > 0.9
    assert 0.6 < report["auc"] < 0.95  # a quarter of the negatives are of the topic of the queries


def test_a_classifier_by_parts_has_the_values_of_the_whole_set() -> None:
    """Whatever the parts, their order and how they are merged: the same sample of exact size, and so the same fit."""
    texts, _, queries = planted(rare=30, usual=270)
    texts += [*texts[:40], "näher \ud800 now"]  # repeats have the value of the first; not all text is Unicode
    options: dict[str, Any] = {"queries": queries, "negatives": 60, "seed": 3}
    report: dict[str, Any] = {}
    expected, phases = classifier(texts, report=report, **options), classifier.phases  # type: ignore[attr-defined]
    assert_array_equal(expected[300:340], expected[:40])
    assert len(np.unique(expected)) > 200
    for cuts in ([0, len(texts)], [0, 3, 64, 65, 190, len(texts)]):
        parts = [texts[begin:end] for begin, end in pairwise(cuts)]
        counted = [phases.begin(part, **options) for part in reversed(parts)]
        some = phases.merged(counted[:2], **options)
        whole = phases.merged([some, *counted[2:]], **options)
        assert whole["keys"].size == 60
        said: dict[str, Any] = {}
        fitted = phases.end(whole, report=said, **options)
        assert said == report
        assert_array_equal(np.concatenate([phases.values(part, fitted, **options) for part in parts]), expected)


def test_values_of_some_texts_are_extended_to_all() -> None:
    texts, wanted, _ = planted(rare=200, usual=200)
    scored = np.arange(0, 400, 4)
    found = extend_scores(texts, scored, wanted[scored] + 0.1 * np.random.default_rng(3).random(100))
    assert found.auc == pytest.approx(1)
    assert roc_auc_score(wanted, found.values) > 0.98
    with pytest.raises(DataError, match=r"the largest and the smallest values apart .* at least 0.6 is needed"):
        extend_scores(texts, scored, np.random.default_rng(0).random(100))


def test_queries_that_are_the_corpus_are_refused() -> None:
    texts, _, _ = planted()
    with pytest.raises(DataError, match="queries and corpus apart by words: the AUC on held-out texts is 0"):
        classifier(texts[:200], queries=texts[200:])


@pytest.mark.parametrize("score", [dsir, classifier])
def test_texts_and_queries_that_cannot_be_compared(score: Any) -> None:
    texts, _, queries = planted()
    with pytest.raises(DataError, match=r"no word in 1 of 401 rows: 400"):
        score([*texts, " "], queries=queries)
    with pytest.raises(ArgumentError, match="queries need one entry per example, got a single string"):
        score(texts, queries="play jazz")
    with pytest.raises(ArgumentError, match="queries need at least one entry, got none"):
        score(texts, queries=[])


def test_too_few_texts_for_a_classifier() -> None:
    with pytest.raises(ArgumentError, match="needs at least 5 texts and 5 queries, got 4"):
        classifier(["rain"] * 9, queries=["play"] * 4)
    texts = ["rain", "play"] * 10
    for rows, values, options, message in (
        ([0, 0, 1], [1, 2, 3], {}, "rows must be different numbers from 0 to 19"),
        ([0, 20], [1, 2], {}, "rows must be different numbers from 0 to 19"),
        ([0, 1], [1], {}, r"one entry per scored text, got \(2,\) and \(1,\)"),
        ([0, 1], [1, np.nan], {}, "values must be finite numbers"),
        (range(20), range(20), {"share": 0.6}, r"share must be in \(0, 0.5\], got 0.6"),
        (range(20), range(20), {"share": 0.1}, "at least 5 texts on each side, got 2 of 20"),
    ):
        with pytest.raises(ArgumentError, match=message):
            extend_scores(texts, np.asarray(rows), values, **options)
