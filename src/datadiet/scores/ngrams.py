"""Scores of a whole set from hashed n-grams of its words: how like the queries a text is, and how well it is predicted.

score(texts, labels=None, *, queries, ids=None, ...) -> float32 (n,), larger = more like what is wanted
ngram_perplexity(texts, labels=None, *, ids=None, ...) -> float32 (n,), larger = harder to predict

A text is lower-cased and cut into words and runs of signs. Each word is hashed once; the n-grams of a chunk of texts
follow from the hashes in numpy. So tens of thousands of texts a second are read on one core, in memory that does not
grow with the vocabulary.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import chain, islice
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from datadiet.errors import DataError, Problems
from datadiet.geometry import named_rows
from datadiet.registry import AtLeast, Bound, NotNegative, score
from datadiet.scores.text import Texts, Values, plain_texts
from datadiet.types import Phases

Buckets = NDArray[np.int64]

_WORDS = re.compile(r"\w+|[^\w\s]+")
_CHUNK = 4096  # texts hashed at a time
_MOST_WORDS = 1 << 20  # hashes that are remembered: the words of a corpus have no end
_GOLDEN, _FIRST, _SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_END, _PRIOR = 0xE7D, 16.0  # the end of a text as a word; the weight of single words in the probability of a pair
_SHIFT = 1e-8  # of probabilities, as published: it keeps logarithms finite without smoothing

FEATURES = 1 << 20  # buckets of the classifier
FOLDS = 5
LEAST_AUC = 0.6
_MOST_NEGATIVES = 100_000
_PENALTY = 1e-4


# ---- hashed n-grams


class _Hashes(dict[str, int]):
    """The number of each piece of text between spaces, and the hashes of the words and signs in it."""

    def __init__(self) -> None:
        super().__init__()
        self._hashes, self._ends = array("Q"), array("q", [0])

    def __missing__(self, piece: str) -> int:
        for word in _WORDS.findall(piece):
            digest = blake2b(word.encode("utf-8", "surrogatepass"), digest_size=8).digest()
            self._hashes.append(int.from_bytes(digest, "little"))
        number = self[piece] = len(self)
        self._ends.append(len(self._hashes))
        return number

    def of(self, pieces: Iterable[str], count: int) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
        """The hashes of the words in so many pieces, one after the other; how many each piece has, int64 `(count,)`."""
        numbers = np.fromiter(map(self.__getitem__, pieces), np.int64, count)
        hashes, ends = np.array(self._hashes, np.uint64), np.array(self._ends, np.int64)
        sizes = np.diff(ends)[numbers]
        before = np.cumsum(sizes) - sizes  # words in earlier pieces
        return hashes[np.repeat(ends[numbers] - before, sizes) + np.arange(int(sizes.sum()))], sizes


class Grams(NamedTuple):
    """The n-grams of some texts.

    Attributes:
        buckets: int64 `(m,)`, one per n-gram and time that it occurs.
        texts: int64 `(m,)`, the text of each, from 0.
        size: How many texts.
    """

    buckets: Buckets
    texts: NDArray[np.int64]
    size: int


def hashed_grams(texts: Iterable[str], *, ngrams: int = 2, buckets: int = 10_000) -> Iterator[Grams]:
    """The n-grams of texts by bucket, some thousands of texts at a time.

    Args:
        texts: In any number.
        ngrams: Of so many words, and of fewer.
        buckets: How many there are; n-grams that share one cannot be told apart.

    Examples:
        >>> [grams] = hashed_grams(["a cat", "A  cat!"])
        >>> np.bincount(grams.texts).tolist()  # two words and a pair; three and two pairs
        [3, 5]
    """
    for words, owners, size in _hashed_words(texts):
        yield _grams(words, owners, ngrams, buckets, size)


def _hashed_words(texts: Iterable[str]) -> Iterator[tuple[NDArray[np.uint64], NDArray[np.int64], int]]:
    """The hashes of the words of some thousands of texts at a time, the text of each, and how many texts."""
    hashes, rest = _Hashes(), iter(texts)
    while part := list(islice(rest, _CHUNK)):
        pieces = [text.lower().split() for text in part]
        lengths = np.fromiter(map(len, pieces), np.int64, len(part))
        words, sizes = hashes.of(chain.from_iterable(pieces), int(lengths.sum()))
        yield words, np.repeat(np.repeat(np.arange(len(part)), lengths), sizes), len(part)
        if len(hashes) > _MOST_WORDS:
            hashes = _Hashes()


def _grams(words: NDArray[np.uint64], texts: NDArray[np.int64], ngrams: int, buckets: int, size: int) -> Grams:
    """The n-grams of hashed words: a pair follows from the hashes of its words, and so on."""
    codes, owners, current = [words], [texts], words
    for length in range(2, ngrams + 1):
        inside = texts[length - 1 :] == texts[: len(texts) - length + 1]
        current = _mixed(current[: len(texts) - length + 1] * np.uint64(_GOLDEN) + words[length - 1 :])
        codes.append(current[inside])
        owners.append(texts[length - 1 :][inside])
    numbers = np.concatenate(codes) % np.uint64(buckets)
    return Grams(numbers.astype(np.int64), np.concatenate(owners), size)


def _mixed(numbers: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """splitmix64 (Steele, Lea and Flood 2014) of each number."""
    numbers = numbers + np.uint64(_GOLDEN)
    numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(_FIRST)
    numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(_SECOND)
    return numbers ^ (numbers >> np.uint64(31))


def gram_counts(parts: Iterable[Grams], buckets: int) -> NDArray[np.int64]:
    """How often each bucket occurs, int64 `(buckets,)`; counts of parts of a corpus add up.

    Examples:
        >>> gram_counts([Grams(np.array([0, 2, 2]), np.zeros(3, np.int64), 1)], 4).tolist()
        [1, 0, 2, 0]
    """
    counts = np.zeros(buckets, np.int64)
    for part in parts:
        counts += np.bincount(part.buckets, minlength=buckets)
    return counts


# ---- DSIR


def log_ratios(target: ArrayLike, corpus: ArrayLike, *, smoothing: float = 1.0) -> NDArray[np.float64]:
    """`log p_target - log p_corpus` of each bucket, float64 `(buckets,)`.

    Args:
        target, corpus: Counts of each bucket, `(buckets,)`.
        smoothing: Is added to each count of the target; in a text of the corpus every bucket has one there.

    Examples:
        >>> log_ratios([3, 1], [1, 1], smoothing=0).round(3)
        array([ 0.405, -0.693])
    """
    wanted, usual = np.asarray(target, np.float64) + smoothing, np.asarray(corpus, np.float64)
    ratios: NDArray[np.float64] = np.log(wanted / wanted.sum() + _SHIFT) - np.log(usual / usual.sum() + _SHIFT)
    return ratios


def log_weights(grams: Grams, ratios: NDArray[np.float64]) -> NDArray[np.float64]:
    """The sum of the log ratios of each text's n-grams, float64 `(size,)`; 0 of a text without words.

    Examples:
        >>> log_weights(Grams(np.array([0, 1, 1]), np.array([0, 0, 1]), 3), np.array([0.5, -1.0]))
        array([-0.5, -1. ,  0. ])
    """
    return np.bincount(grams.texts, weights=ratios[grams.buckets], minlength=grams.size).astype(np.float64, copy=False)


@score(
    formula="sum over hashed n-grams of log p_queries - log p_corpus: the log of an importance weight",
    paper="Xie et al. 2023 (DSIR), arXiv 2302.03169",
    inputs="text, queries",
    cost="O(words), no model",
    loses="what the queries say in other words; by the sum short texts win where little resembles the queries",
    needs=("texts", "queries"),
    named_alone=False,
    evidence="corpus-selection",
    computed_by="datadiet.scoring.dataset:of_texts_and_queries",
)
def dsir(
    texts: Texts,
    labels: ArrayLike | None = None,
    *,
    queries: Texts,
    ids: Sequence[str] | None = None,
    ngrams: Annotated[int, AtLeast(1)] = 2,
    buckets: Annotated[int, AtLeast(2)] = 10_000,
    smoothing: Annotated[float, NotNegative] = 1.0,
    per: Literal["text", "ngram"] = "text",
) -> Values:
    """How much more likely a text is among the queries than in the whole corpus, by bags of hashed n-grams.

    `sum_j c_j (log p_queries(j) - log p_corpus(j))`, `c_j` the n-grams of the text in bucket j,
    `p_corpus(j) ~ count_j`, `p_queries(j) ~ count_j + smoothing`

    Args:
        texts: `(n,)` strings, or the parts of each text, which are joined by a space: the corpus.
        labels: Taken for the sake of the common form.
        queries: Texts of what is wanted.
        ids: The user's names of the rows, for errors.
        ngrams: Of so many words, and of fewer.
        buckets: That n-grams are hashed to.
        smoothing: Is added to each count of the queries; with 0 one n-gram that the queries lack decides over a text.
        per: `text`, the sum, as published; or `ngram`, its mean, by which the length of a text does not decide.

    Returns:
        float32 `(n,)`, natural logarithms; larger = more like the queries.

    Raises:
        DataError: If a text has no word; rows and ids are named.
        ArgumentError: If texts, queries or options do not fit.

    Examples:
        >>> corpus = ["rain in the north", "play some jazz", "sun in the south"]
        >>> dsir(corpus, queries=["play a song", "play some music"]).argmax()
        np.int64(1)

    Source: DSIR (Xie et al. 2023, arXiv 2302.03169; p-lambda/dsir). The paper draws with these weights by the Gumbel
    top-k trick, seeded here: the selector `proportional(scaling=softmax)`, of which a temperature flattens the weights.
    Their code hashes every n-gram by sha256, smooths nothing by default, draws from the global generator, and leaves
    out texts of fewer than 100 words, which is up to the user here.
    """
    problems = Problems()
    joined, wanted = plain_texts(texts, problems), plain_texts(queries, problems, "queries")
    problems.raise_any()
    options = {"ngrams": ngrams, "buckets": buckets}
    small = np.uint16 if buckets <= 1 << 16 else np.uint32
    # the buckets are kept in few bytes: hashing the corpus once more would take as long again
    kept = [Grams(part.buckets.astype(small), part.texts.astype(np.uint16), part.size)
            for part in hashed_grams(joined, **options)]  # fmt: skip
    ratios = log_ratios(
        gram_counts(hashed_grams(wanted, **options), buckets), gram_counts(kept, buckets), smoothing=smoothing
    )
    lengths = np.concatenate([np.bincount(part.texts, minlength=part.size) for part in kept])
    check_words(lengths, ids)
    sums = np.concatenate([log_weights(part, ratios) for part in kept])
    return (sums if per == "text" else sums / lengths).astype(np.float32)


def _corpus_counts(texts: Texts, *, ngrams: int = 2, buckets: int = 10_000, **_: Any) -> dict[str, NDArray[np.int64]]:
    """The first phase of `dsir`: how often each bucket occurs in some texts of the corpus."""
    return {
        "buckets": gram_counts(hashed_grams(plain_texts(texts, Problems()), ngrams=ngrams, buckets=buckets), buckets)
    }


def _of_counts(
    texts: Texts,
    counts: Mapping[str, NDArray[Any]],
    *,
    queries: Texts,
    ids: Sequence[str] | None = None,
    ngrams: int = 2,
    buckets: int = 10_000,
    smoothing: float = 1.0,
    per: str = "text",
) -> Values:
    """The second phase of `dsir`: the values of some texts, with the counts of the whole corpus."""
    target = _corpus_counts(queries, ngrams=ngrams, buckets=buckets)["buckets"]
    ratios = log_ratios(target, counts["buckets"], smoothing=smoothing)
    parts = list(hashed_grams(plain_texts(texts, Problems()), ngrams=ngrams, buckets=buckets))
    lengths = np.concatenate([np.bincount(part.texts, minlength=part.size) for part in parts])
    check_words(lengths, ids)
    sums = np.concatenate([log_weights(part, ratios) for part in parts])
    return (sums if per == "text" else sums / lengths).astype(np.float32)


dsir.phases = Phases(_corpus_counts, _of_counts)  # type: ignore[attr-defined]


def check_words(lengths: NDArray[np.int64], ids: Sequence[str] | None) -> None:
    """Refuse texts without a word.

    Raises:
        DataError: With the rows and ids.
    """
    if (empty := np.flatnonzero(lengths == 0)).size:
        raise DataError(f"there is no word in {named_rows(empty, len(lengths), ids)}. Leave them out.")


# ---- perplexity


class _Followers(NamedTuple):
    """The words and the end of each of some texts, in buckets; what stands before is the one before in the array.

    Attributes:
        words: int64 `(m,)`, the last of each text is its end.
        pairs: int64 `(m,)`, each with what stands before it: at the beginning of a text the end of another.
        texts: int64 `(m,)`, the text of each, from 0.
        size: How many texts.
    """

    words: Buckets
    pairs: Buckets
    texts: NDArray[np.int64]
    size: int


def _followers(texts: Iterable[str], buckets: int) -> Iterator[_Followers]:
    for words, owners, size in _hashed_words(texts):
        ends = np.cumsum(np.bincount(owners, minlength=size))
        followers = np.insert(words, ends, np.uint64(_END))
        before = np.concatenate([[np.uint64(_END)], followers[:-1]])
        pairs = _mixed(before * np.uint64(_GOLDEN) + followers)
        single, double = ((one % np.uint64(buckets)).astype(np.int64) for one in (followers, pairs))
        yield _Followers(single, double, np.insert(owners, ends, np.arange(size)), size)


def _times(buckets: Buckets, texts: NDArray[np.int64], number: int) -> NDArray[np.int64]:
    """How often each bucket occurs in its own text."""
    _, where, counts = np.unique(texts * number + buckets, return_inverse=True, return_counts=True)
    times: NDArray[np.int64] = counts[where]
    return times


@score(
    formula="mean of -log2 p(word | the word before), p by the words of all other rows",
    paper="Wenzek et al. 2020 (CCNet), arXiv 1911.00359; smoothing: MacKay and Peto 1995; the row left out: ours",
    inputs="text",
    cost="O(words), no model",
    loses="high is noise and other languages, low is templates and what repeats: drop duplicates, and try the middle",
    needs=("texts",),
    computed_by="datadiet.scoring.dataset:of_texts",
)
def ngram_perplexity(
    texts: Texts,
    labels: ArrayLike | None = None,
    *,
    ids: Sequence[str] | None = None,
    buckets: Annotated[int, AtLeast(2)] = 1 << 20,
) -> Values:
    """The perplexity of each text as bits per word, by pairs of words of all other texts: no model, no pass.

    `mean_i -log2 p(w_i | w_{i-1})`, `p(w | v) = (min(c(vw), c(v), c(w)) + m p(w)) / (c(v) + m)`,
    `p(w) = (c(w) + 1) / (N + V + 1)`

    c counts words and pairs of all texts without the one at hand, N is their sum, V the number of kinds of words, m is
    16. The end of a text is a word, and stands before the first word.

    Args:
        texts: `(n,)` strings, or the parts of each text, which are joined by a space.
        labels: Taken for the sake of the common form.
        ids: Taken for the sake of the common form.
        buckets: That words and pairs are hashed to; more for corpora with many millions of pairs.

    Returns:
        float32 `(n,)`; larger = harder. CCNet keeps the smallest third (`easiest`), Ankner et al. the middle or the
        largest.

    Raises:
        ArgumentError: If the texts are no texts.

    Examples:
        >>> ngram_perplexity(["play some jazz", "play some rock", "play some soul", "rain falls softly"]).argmax()
        np.int64(3)

    Source: perplexity as a cheap feature of web texts: Wenzek et al. 2020 (CCNet, arXiv 1911.00359), by a Kneser-Ney
    model of five words that is trained on Wikipedia. Here a Dirichlet prior over pairs (MacKay and Peto 1995, "A
    hierarchical Dirichlet language model"), of the corpus itself with each text left out: no text is scored by a model
    that has seen it, without folds.
    """
    return _bits_per_word(texts, _pair_counts(texts, buckets=buckets), buckets=buckets)


def _pair_counts(texts: Texts, *, buckets: int = 1 << 20) -> dict[str, NDArray[np.int64]]:
    """The first phase of `ngram_perplexity`: how often words and pairs occur."""
    problems = Problems()
    joined = plain_texts(texts, problems)
    problems.raise_any()
    words, pairs = np.zeros((2, buckets), np.int64)
    for part in _followers(joined, buckets):
        words += np.bincount(part.words, minlength=buckets)
        pairs += np.bincount(part.pairs, minlength=buckets)
    return {"words": words, "pairs": pairs}


def _bits_per_word(
    texts: Texts, counts: Mapping[str, NDArray[Any]], *, ids: Sequence[str] | None = None, buckets: int = 1 << 20
) -> Values:
    """The second phase of `ngram_perplexity`: the values of some texts, with the counts of the whole corpus."""
    joined = plain_texts(texts, Problems())
    words, pairs = counts["words"], counts["pairs"]
    total, kinds = int(words.sum()), int(np.count_nonzero(words))
    found = [np.empty(0)]
    for part in _followers(joined, buckets):
        own = _times(part.words, part.texts, buckets)
        others = words[part.words] - own
        lengths = np.bincount(part.texts, minlength=part.size)
        alone = (others + 1) / (total - lengths + kinds + 1)[part.texts]
        # of what stands before, the same counts one place earlier; the first of a text has an end before it
        firsts = np.cumsum(lengths) - lengths
        before = np.roll(others, 1)
        before[firsts] = others[firsts + lengths - 1]
        together = np.minimum(pairs[part.pairs] - _times(part.pairs, part.texts, buckets), np.minimum(before, others))
        bits = -np.log2((together + _PRIOR * alone) / (before + _PRIOR))
        found.append(np.bincount(part.texts, weights=bits, minlength=part.size) / lengths)
    return np.concatenate(found).astype(np.float32)


ngram_perplexity.phases = Phases(_pair_counts, _bits_per_word)  # type: ignore[attr-defined]


# ---- a classifier


@dataclass(frozen=True)
class Extended:
    """Values of every text by a classifier that was trained on some.

    Attributes:
        values: float32 `(n,)` in [0, 1], the probability of being wanted. Of a text that it was trained on the value
            is that of a model that has not seen the text.
        auc: Of the texts that were held out, over all folds: 1 = told apart without a mistake, 0.5 = not at all.
    """

    values: Values
    auc: float


@score(
    formula="P(query | hashed n-grams) by logistic regression of the queries against the corpus",
    paper="Li et al. 2024 (DataComp-LM), arXiv 2406.11794; fastText, Joulin et al. 2017",
    inputs="text, queries",
    cost="O(words); one fit, of queries and as many texts",
    loses="few or mixed queries: it learns what sets them apart, be it only their layout",
    needs=("texts", "queries"),
    named_alone=False,
    evidence="corpus-selection",
    computed_by="datadiet.scoring.dataset:of_texts_and_queries",
)
def classifier(
    texts: Texts,
    labels: ArrayLike | None = None,
    *,
    queries: Texts,
    ids: Sequence[str] | None = None,
    ngrams: Annotated[int, AtLeast(1)] = 2,
    negatives: Annotated[int | None, AtLeast(FOLDS)] = None,
    seed: int = 0,
    report: dict[str, Any] | None = None,
) -> Values:
    """The probability that a text is a query rather than a text of the corpus, by its words.

    `sigmoid(w . x + b)`, x the counts of hashed n-grams over the root of their sum, w fitted on the queries against a
    random part of the corpus, both sides weighing the same

    Args:
        texts: `(n,)` strings, or the parts of each text, which are joined by a space: the corpus.
        labels: Taken for the sake of the common form.
        queries: At least 5 texts of what is wanted.
        ids: The user's names of the rows, for errors.
        ngrams: Of so many words, and of fewer.
        negatives: Texts of the corpus that the queries are compared with, drawn at random; by default ten for each
            query, at least 1,000 and at most 100,000, as far as there are.
        seed: Of the draw, the folds and the fit.
        report: Receives `auc`, of texts held out.

    Returns:
        float32 `(n,)` in [0, 1]; larger = more like the queries; the same of the same text.

    Raises:
        DataError: If a text has no word, or queries and corpus cannot be told apart: an AUC below 0.6.
        ArgumentError: If texts, queries or options do not fit.

    Examples:
        >>> corpus = [f"rain in the north at {hour}" for hour in range(20)] + ["play some jazz"]
        >>> classifier(corpus, queries=[f"play song {number}" for number in range(9)]).argmax()
        np.int64(20)

    Source: the model-based filter of DataComp-LM (Li et al. 2024, arXiv 2406.11794), which is fastText with pairs of
    words; here logistic regression on hashed n-grams. Theirs scores the texts that it was trained on too, and they come
    out too low; here five models leave out a fifth each, and such a text is scored by the one that has not seen it.
    """
    problems = Problems()
    joined, wanted = plain_texts(texts, problems), plain_texts(queries, problems, "queries")
    problems.raise_any()
    options: dict[str, Any] = {"queries": wanted, "ngrams": ngrams, "negatives": negatives, "seed": seed}
    fitted = _fit_classifier(_sample(joined, **options), report={} if report is None else report, **options)
    return _classified(joined, fitted, ids=ids, **options)


Counts = Mapping[str, NDArray[Any]]


def _sample(texts: Texts, *, queries: Texts, negatives: int | None = None, seed: int = 0, **_: Any) -> Counts:
    """The first phase of `classifier`: the texts of some rows that may be compared with the queries.

    Those with the smallest keys, as many as would be taken of the whole corpus, in the order of their keys.
    """
    joined = plain_texts(texts, Problems())
    keys = _keys(joined, seed)
    order = np.argsort(keys, kind="stable")[: _most_negatives(queries, negatives)]
    kept = [joined[row].encode("utf-8", "surrogatepass") for row in order.tolist()]
    sizes = np.fromiter(map(len, kept), np.int64, len(kept))
    return {"keys": keys[order], "sizes": sizes, "text": np.frombuffer(b"".join(kept), np.uint8)}


def _most_negatives(queries: Texts, negatives: int | None) -> int:
    return min(max(10 * len(queries), 1000), _MOST_NEGATIVES) if negatives is None else negatives


def _merged_samples(*samples: Counts, queries: Texts, negatives: int | None = None, **_: Any) -> Counts:
    """Those of all samples with the smallest keys."""
    keys, sizes, text = (np.concatenate([sample[name] for sample in samples]) for name in ("keys", "sizes", "text"))
    order = np.argsort(keys, kind="stable")[: _most_negatives(queries, negatives)]
    chosen = sizes[order]
    starts = (np.cumsum(sizes) - sizes)[order] - (np.cumsum(chosen) - chosen)
    return {
        "keys": keys[order],
        "sizes": chosen,
        "text": text[np.repeat(starts, chosen) + np.arange(int(chosen.sum()))],
    }


def _fit_classifier(
    sample: Counts, *, queries: Texts, report: dict[str, Any], seed: int = 0, ngrams: int = 2, **_: Any
) -> Counts:
    """The model of `classifier`, and what it says of the sample's texts where it has not seen them."""
    ends, text = np.cumsum(sample["sizes"]).tolist(), sample["text"].tobytes()
    texts = [text[begin:end].decode("utf-8", "surrogatepass") for begin, end in zip([0, *ends], ends, strict=False)]
    wanted, few = plain_texts(queries, Problems(), "queries"), min(len(texts), len(queries))
    problems = Problems()
    problems.check(few >= FOLDS, f"the classifier needs at least {FOLDS} texts and {FOLDS} queries, got {few}.")
    problems.raise_any()
    model = _fitted([*texts, *wanted], np.repeat([0, 1], [len(texts), len(wanted)]), ngrams=ngrams, seed=seed)
    _check_auc(model.auc, "queries and corpus")
    report["auc"] = round(model.auc, 4)
    keys, places, copies = np.unique(sample["keys"], return_inverse=True, return_counts=True)
    odds = np.bincount(places, weights=model.held_out[: len(texts)]) / copies
    return {"keys": keys, "odds": odds, "used": model.used, "weights": model.weights, "bias": np.array([model.bias])}


def _classified(
    texts: Texts, counts: Counts, *, ids: Sequence[str] | None = None, seed: int = 0, ngrams: int = 2, **_: Any
) -> Values:
    """The second phase of `classifier`: the values of some texts, by the model of the whole corpus."""
    from scipy.special import expit

    joined = plain_texts(texts, Problems())
    odds = _odds(joined, counts["used"], counts["weights"], float(counts["bias"][0]), ngrams=ngrams, ids=ids)
    own = _keys(joined, seed)
    places = np.minimum(np.searchsorted(counts["keys"], own), len(counts["keys"]) - 1)
    sampled = counts["keys"][places] == own
    odds[sampled] = counts["odds"][places[sampled]]
    values: Values = expit(odds).astype(np.float32)
    return values


classifier.phases = Phases(_sample, _classified, _merged_samples, _fit_classifier)  # type: ignore[attr-defined]


def extend_scores(
    texts: Texts,
    rows: ArrayLike,
    values: ArrayLike,
    *,
    share: Annotated[float, Bound(0, 0.5, open_low=True)] = 0.25,
    ids: Sequence[str] | None = None,
    ngrams: int = 2,
    seed: int = 0,
) -> Extended:
    """From the values of some texts to a value of every text: a classifier of the largest against the smallest.

    Args:
        texts: `(n,)` strings, or the parts of each text, which are joined by a space.
        rows: int64 `(m,)`, the texts that have a value, without repeats.
        values: float `(m,)`, of any score; larger = more wanted.
        share: Of the scored texts that are trained on as wanted, and as unwanted, in (0, 0.5]; ties fall at random.
        ids: The user's names of the rows, for errors.
        ngrams: Of so many words, and of fewer.
        seed: Of ties, the folds and the fit.

    Raises:
        DataError: If a text has no word, or the classifier does not find the large values again: an AUC below 0.6.
        ArgumentError: If rows, values or options do not fit.

    Examples:
        >>> corpus = [f"{kind} number {place}" for place in range(20) for kind in ("play song", "rain and sun")]
        >>> found = extend_scores(corpus, np.arange(30), np.arange(30) % 2)
        >>> found.auc, set(np.argsort(found.values)[20:] % 2)
        (1.0, {np.int64(1)})

    Source: PreSelect (Shum et al. 2025, arXiv 2503.00808), which scores 900,000 documents by a ladder of models and
    trains fastText on the best and the worst 200,000; here with values held out, and an AUC that must reach 0.6.
    """
    problems = Problems()
    joined = plain_texts(texts, problems)
    scored, numbers = np.asarray(rows), np.asarray(values, np.float64)
    fits = scored.ndim == 1 and scored.shape == numbers.shape and scored.dtype.kind in "iu"
    problems.check(fits, f"rows and values need one entry per scored text, got {scored.shape} and {numbers.shape}.")
    if fits and scored.size:
        known = scored.min() >= 0 and scored.max() < len(joined) and len(np.unique(scored)) == scored.size
        problems.check(known, f"rows must be different numbers from 0 to {len(joined) - 1}.")
        problems.check(bool(np.isfinite(numbers).all()), "values must be finite numbers.")
    if sentence := Bound(0, 0.5, open_low=True).problem("share", share):
        problems.add(sentence)
    side = 0 if problems.found else round(share * scored.size)
    if not problems.found and side < FOLDS:
        problems.add(f"share must leave at least {FOLDS} texts on each side, got {side} of {scored.size}.")
    problems.raise_any()
    order = scored[np.lexsort((_keys([joined[row] for row in scored.tolist()], seed), numbers))]
    trained = np.concatenate([order[:side], order[-side:]])
    wanted = np.repeat([0, 1], side)
    result = _told_apart(joined, trained, wanted, ids=ids, ngrams=ngrams, seed=seed)
    _check_auc(result.auc, "the largest and the smallest values")
    return result


def _keys(texts: Sequence[str], seed: int) -> NDArray[np.uint64]:
    """A number of each text that looks random, uint64 `(n,)`: draws by it do not depend on the order of the rows."""
    salt = seed.to_bytes(8, "little")
    digests = (blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8, salt=salt).digest() for text in texts)
    return np.frombuffer(b"".join(digests), "<u8")


def _check_auc(auc: float, what: str) -> None:
    if auc < LEAST_AUC:
        raise DataError(
            f"the classifier cannot tell {what} apart by words: the AUC on held-out texts is {auc:.3f}, at least "
            f"{LEAST_AUC} is needed. Give more texts, or use a score that reads embeddings."
        )


def _told_apart(
    texts: Sequence[str],
    rows: NDArray[np.int64],
    wanted: NDArray[np.int64],
    *,
    ids: Sequence[str] | None,
    ngrams: int,
    seed: int,
) -> Extended:
    """Probabilities of all texts by models of five folds.

    Args:
        texts: `(n,)`.
        rows: int64 `(m,)`, of the texts that are trained on.
        wanted: int64 `(m,)`, 1 where such a text is wanted.
        ids, ngrams, seed: As for `extend_scores`.
    """
    from scipy.special import expit

    model = _fitted([texts[row] for row in rows.tolist()], wanted, ngrams=ngrams, seed=seed)
    odds = _odds(texts, model.used, model.weights, model.bias, ngrams=ngrams, ids=ids)
    odds[rows] = model.held_out
    return Extended(expit(odds).astype(np.float32), model.auc)


@dataclass(frozen=True)
class _Model:
    """A classifier that was fitted in five folds.

    Attributes:
        used: int64 `(u,)`, the buckets that have a weight.
        weights: float64 `(u,)`, the mean of the folds.
        bias: Their mean.
        held_out: float64 `(m,)`, log odds of each text by the model that has not seen it.
        auc: Of those.
    """

    used: NDArray[np.int64]
    weights: NDArray[np.float64]
    bias: float
    held_out: NDArray[np.float64]
    auc: float


def _fitted(texts: Sequence[str], sides: NDArray[np.int64], *, ngrams: int, seed: int) -> _Model:
    """Logistic regression of texts of two sides, int64 `(m,)` of 0 and 1, in five folds."""
    from sklearn.linear_model import SGDClassifier
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import StratifiedKFold

    inputs = _vectors(texts, ngrams)
    state = int(np.random.default_rng([seed, 2]).integers(1 << 31))
    used, inputs.indices = np.unique(inputs.indices, return_inverse=True)  # a fit takes the time of its columns
    inputs = inputs.__class__((inputs.data, inputs.indices.astype(np.int32), inputs.indptr), (len(sides), len(used)))
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=state)
    held_out, weights, bias = np.empty(len(sides)), np.zeros(len(used)), 0.0
    for train, test in folds.split(sides, sides):
        model = SGDClassifier(loss="log_loss", class_weight="balanced", alpha=_PENALTY, random_state=state)
        model.fit(inputs[train], sides[train])
        held_out[test] = model.decision_function(inputs[test])
        weights += model.coef_[0] / FOLDS
        bias += float(model.intercept_[0]) / FOLDS
    return _Model(used.astype(np.int64), weights, bias, held_out, float(roc_auc_score(sides, held_out)))


def _odds(
    texts: Sequence[str],
    used: NDArray[np.int64],
    weights: NDArray[np.float64],
    bias: float,
    *,
    ngrams: int,
    ids: Sequence[str] | None,
) -> NDArray[np.float64]:
    """The log odds of texts by the weights of buckets, float64 `(n,)`."""
    dense = np.zeros(FEATURES)
    dense[used] = weights
    parts, lengths = [], []
    for grams in hashed_grams(texts, ngrams=ngrams, buckets=FEATURES):
        lengths.append(np.bincount(grams.texts, minlength=grams.size))
        parts.append(log_weights(grams, dense) / np.sqrt(np.maximum(lengths[-1], 1)) + bias)
    check_words(np.concatenate(lengths), ids)
    return np.concatenate(parts)


def _vectors(texts: Sequence[str], ngrams: int) -> Any:
    """Counts of each text's buckets over the root of their sum, CSR `(texts, buckets)`."""
    from scipy.sparse import csr_array, vstack

    parts = []
    for grams in hashed_grams(texts, ngrams=ngrams, buckets=FEATURES):
        lengths = np.bincount(grams.texts, minlength=grams.size)
        shares = 1 / np.sqrt(lengths[grams.texts])
        where = (grams.texts.astype(np.int32), grams.buckets.astype(np.int32))
        parts.append(csr_array((shares, where), shape=(grams.size, FEATURES)))
    return vstack(parts, format="csr")
