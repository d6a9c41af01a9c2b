"""Scores and selectors that look at where examples lie, or at their words: no label and no training needed."""

from __future__ import annotations

from datadiet.catalogue.method import Method

_MODERATE = "Xia et al. 2023 (Moderate Coreset), ICLR"
_SCDP = "SCDP, COLING 2025 (he-y/NLP-Dataset-Pruning)"

GEOMETRY_SCORES: tuple[Method, ...] = (
    Method(
        "score",
        "prototypes",
        "distance to the nearest centroid of k-means, Euclidean or 1 - cos; per class with labels",
        "embeddings",
        "k-means: O(n k d)",
        "Sorscher et al. 2022, arXiv 2206.14486, section 4",
        "embeddings that cluster by topic; with many clusters an outlier is a prototype itself and counts as easiest",
    ),
    Method(
        "score",
        "moderate",
        "|| x - median of the class ||_2, for the selector of that name",
        "embeddings, label",
        "O(n d log n)",
        _MODERATE,
        "classes of several kinds, whose median lies between them",
    ),
    Method(
        "score",
        "neighbour_distance",
        "mean distance to the 10 nearest other examples; 0 among copies",
        "embeddings",
        "O(n^2 d), exact",
        "Ramaswamy et al. 2000, SIGMOD, as a mean",
        "keeping the hardest by it keeps broken texts and outliers",
    ),
    Method(
        "score",
        "scdp",
        "|| x - m ||_2, x = TF-IDF of the text, m = geometric median of all; per class with labels",
        "text",
        "O(words), no model",
        _SCDP,
        "long or rare words alone make a text hard; published with one seed",
    ),
    Method(
        "score",
        "length",
        "number of words, or of characters: `hardest` of it is the baseline of the longest texts",
        "text",
        "O(words), no model",
        "Zhao et al. 2024, arXiv 2402.04833",
        "it saves fewer tokens than examples",
    ),
)

GEOMETRY_SELECTORS: tuple[Method, ...] = (
    Method(
        "select",
        "moderate",
        "the middle of the values, percentiles 0.5 - keep / 2 to 0.5 + keep / 2; per class if wished",
        "values, best the score of that name",
        "O(n log n)",
        _MODERATE,
        "clean labels, where what is far from the middle teaches most",
    ),
    Method(
        "select",
        "k_center",
        "the row farthest from all kept so far, again and again",
        "embeddings; no values",
        "O(n count d), in blocks",
        "Sener and Savarese 2018, arXiv 1708.00489; Gonzalez 1985",
        "outliers and noise, which are far from everything and come first",
    ),
    Method(
        "select",
        "herding",
        "the row that brings the mean of the kept ones nearest to the mean of all, again and again",
        "embeddings; no values",
        "O(n count d)",
        "Welling 2009; Chen, Welling and Smola 2010, arXiv 1203.3472",
        "rare kinds of examples, which hardly move a mean",
    ),
    Method(
        "select",
        "d2_pruning",
        "u = v + sum of exp(-d) v over neighbours; keep the largest u, take exp(-gamma d) u from its neighbours",
        "embeddings, values",
        "O(n^2 d) for the neighbours, then O(n log n)",
        "Maharana, Yadav and Bansal 2024, arXiv 2310.07931",
        "noisy labels, as with `hardest`; more copies of an example than neighbours are not told apart",
    ),
    Method(
        "select",
        "facility_location",
        "greedy maximum of sum_i max over kept j of max(0, cos(x_i, x_j))",
        "embeddings; no values",
        "O(n^2 d) for the neighbours, then lazy greedy; over 2,000 rows the nearest 32 to 512 alone count",
        "Wei, Iyer and Bilmes 2015, ICML; Minoux 1978",
        "rare kinds of examples, when little is kept",
    ),
    Method(
        "select",
        "graph_cut",
        "greedy maximum of likeness to all minus lambda times likeness among the kept",
        "embeddings; no values",
        "as facility_location",
        "Iyer et al. 2021, arXiv 2006.15412",
        "a small lambda keeps copies of the most usual, a large one keeps outliers",
    ),
)
