"""Scores of a whole set from its words or a column of it, without a model or embeddings.

score(texts, labels=None, *, ids=None, ...) -> float32 (n,)
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from datadiet.errors import ArgumentError, DataError, Problems, quoted
from datadiet.geometry import class_codes, named_rows, squared_norms
from datadiet.registry import score

Values = NDArray[np.float32]
Texts = Sequence[str] | Sequence[Sequence[str]]

_SAME = 1e-12  # squared distance below which a document is the median itself


@score(
    formula="|| x - m ||_2, x = TF-IDF of the text, m = geometric median of all; per class with labels",
    paper="SCDP, COLING 2025 (he-y/NLP-Dataset-Pruning)",
    inputs="text",
    cost="O(words), no model",
    loses="long or rare words alone make a text hard; published with one seed",
    needs=("texts",),
    evidence="methods",
    computed_by="datadiet.scoring.dataset:of_texts",
)
def scdp(
    texts: Texts,
    labels: ArrayLike | None = None,
    *,
    ids: Sequence[str] | None = None,
    vectorizer: Any = None,
    tolerance: float = 1e-7,
) -> Values:
    """How far a text lies from the middle of all texts, by its words.

    `|| x - m ||_2`, x the TF-IDF vector of the text, m the geometric median: `argmin_m sum_i || x_i - m ||_2`

    Args:
        texts: `(n,)` strings, or the parts of each text (e.g. premise and hypothesis), which are joined by a space.
        labels: `(n,)`; with them every class has a median of its own, over one vocabulary.
        ids: The user's names of the rows, for errors.
        vectorizer: Something with `fit_transform(texts)` that gives a sparse matrix, such as `TfidfVectorizer` with
            options of your own; by default scikit-learn's with its defaults (lower case, words of two or more
            characters).
        tolerance: The median is found when it moves by less.

    Returns:
        float32 `(n,)` in [0, sqrt(2)]; larger = of unusual words = harder.

    Raises:
        DataError: If a text has no word that counts; rows and ids are named.
        ArgumentError: If texts or labels do not fit.

    Examples:
        >>> scdp(["play some music", "play some jazz", "play some music", "rain tomorrow"]).argmax()
        np.int64(3)

    Source: SCDP (COLING 2025; he-y/NLP-Dataset-Pruning). Their code holds the TF-IDF matrix dense, which takes tens
    of GB for a hundred thousand texts; here it stays sparse, since `||x - m||^2 = ||x||^2 - 2 x.m + ||m||^2` needs only
    `x.m`. There a text without a word that counts is taken for the most usual one, and texts that are all the same
    fail. They keep the farthest where at most 1,500 rows are kept, and strata of the distance (`ccs`, 100 strata,
    beta 0) where more are.
    """
    problems = Problems()
    problems.check(tolerance > 0, f"tolerance must be above 0, got {tolerance}.")
    joined = plain_texts(texts, problems)
    problems.raise_any()
    codes, names = class_codes(labels, len(joined))
    matrix = tf_idf(joined, ids=ids, vectorizer=vectorizer)
    values = np.empty(len(joined))
    for code in range(len(names)):
        rows = np.flatnonzero(codes == code)
        part = matrix[rows]
        values[rows] = distances_to(part, geometric_median(part, tolerance=tolerance))
    return values.astype(np.float32)


def plain_texts(texts: Texts, problems: Problems, name: str = "texts") -> list[str]:
    """One string per example; what is no text is noted."""
    if isinstance(texts, str):
        problems.add(f"{name} need one entry per example, got a single string.")
        return []
    joined = [text if isinstance(text, str) else " ".join(text) for text in texts]
    problems.check(bool(joined), f"{name} need at least one entry, got none.")
    return joined


def tf_idf(texts: Sequence[str], *, ids: Sequence[str] | None = None, vectorizer: Any = None) -> Any:
    """The TF-IDF matrix of texts, CSR `(n, terms)`, float64.

    Args:
        texts: `(n,)` strings.
        ids, vectorizer: See `scdp`.

    Raises:
        DataError: If a text has no word that counts.

    Examples:
        >>> tf_idf(["play music", "play jazz"]).shape
        (2, 3)
    """
    if vectorizer is None:
        from sklearn.feature_extraction.text import TfidfVectorizer

        vectorizer = TfidfVectorizer()
    try:
        matrix = vectorizer.fit_transform(texts).tocsr().astype(np.float64)
        empty = np.flatnonzero(np.diff(matrix.indptr) == 0)
    except ValueError as error:
        if "empty vocabulary" not in str(error):
            raise
        empty = np.arange(len(texts))
    if empty.size:
        raise DataError(
            f"TF-IDF finds no word in {named_rows(empty, len(texts), ids)}. Leave them out, or give a vectorizer that "
            r"counts shorter words, e.g. TfidfVectorizer(token_pattern=r'\S+')."
        )
    return matrix


def geometric_median(matrix: Any, *, tolerance: float = 1e-7, most: int = 1000) -> NDArray[np.float64]:
    """The point with the least sum of distances to the rows of a CSR matrix.

    Args:
        matrix: CSR `(n, terms)`, float64; it stays sparse.
        tolerance: Steps go on until one is shorter.
        most: Steps at most.

    Returns:
        float64 `(terms,)`.

    Raises:
        ArgumentError: If it is not found in `most` steps.

    Examples:
        >>> from scipy.sparse import csr_array
        >>> geometric_median(csr_array([[0.0], [0.0], [9.0]])).round(4)
        array([0.])

    Source: Weiszfeld 1937; where the median falls on a row, Vardi and Zhang 2000.
    """
    norms, total = squared_norms(matrix), matrix.shape[0]
    median = np.asarray(matrix.sum(0), np.float64).reshape(-1) / total  # (1, terms) or (terms,) -> (terms,)
    for _ in range(most):
        apart = _squared_distances(matrix, median, norms)
        other = apart > _SAME
        if not other.any():
            return median  # type: ignore[no-any-return]
        weights = np.where(other, 1 / np.sqrt(np.where(other, apart, 1.0)), 0.0)
        moved: NDArray[np.float64] = np.asarray(matrix.T @ weights) / weights.sum()
        if same := total - int(other.sum()):
            pull = float(np.linalg.norm(moved - median)) * weights.sum()
            stay = min(1.0, same / pull) if pull else 1.0
            moved = (1 - stay) * moved + stay * median
        step = float(np.linalg.norm(moved - median))
        median = moved
        if step < tolerance:
            return median
    raise ArgumentError(f"the geometric median still moves by {step:.2g} after {most} steps; raise the tolerance.")


def distances_to(matrix: Any, point: NDArray[np.float64]) -> NDArray[np.float64]:
    """Euclidean distances of the rows of a CSR matrix to a dense point: `(n,)`.

    Examples:
        >>> from scipy.sparse import csr_array
        >>> distances_to(csr_array([[3.0, 0.0], [0.0, 0.0]]), np.array([0.0, 4.0]))
        array([5., 4.])
    """
    return np.sqrt(_squared_distances(matrix, point, squared_norms(matrix)))


def _squared_distances(matrix: Any, point: NDArray[np.float64], norms: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.maximum(norms - 2 * np.asarray(matrix @ point) + point @ point, 0.0)  # type: ignore[no-any-return]


@score(
    formula="number of words, or of characters: `hardest` of it is the baseline of the longest texts",
    paper="Zhao et al. 2024, arXiv 2402.04833",
    inputs="text",
    cost="O(words), no model",
    loses="it saves fewer tokens than examples",
    needs=("texts",),
    traits=("by_row",),
    evidence="methods",
    computed_by="datadiet.scoring.dataset:of_texts",
)
def length(
    texts: Texts,
    labels: ArrayLike | None = None,
    *,
    ids: Sequence[str] | None = None,
    unit: Literal["words", "characters"] = "words",
) -> Values:
    """How long a text is: the baseline "keep the longest" that several published scores lose to.

    Args:
        texts: `(n,)` strings, or the parts of each text, which are joined by a space.
        labels, ids: Taken for the sake of the common form.
        unit: `words` (what white space parts) or `characters`.

    Returns:
        float32 `(n,)` whole numbers; larger = longer.

    Raises:
        ArgumentError: If texts or the unit do not fit.

    Examples:
        >>> length(["play some jazz", "stop"])
        array([3., 1.], dtype=float32)

    Source: Zhao et al. 2024 (Long Is More for Alignment, arXiv 2402.04833), who keep the longest instructions.
    """
    problems = Problems()
    joined = plain_texts(texts, problems)
    problems.raise_any()
    counts = [len(text.split()) if unit == "words" else len(text) for text in joined]
    return np.asarray(counts, np.float32)


@score(
    formula="the number in a column of the data, such as a rating or a journal's impact",
    paper="arXiv 2409.02725: biomedical abstracts by the impact of their journal, a negative result",
    inputs="a column of the data",
    cost="none",
    loses="to random as published: abstracts chosen by journal impact were no better to train on",
    needs=("columns",),
    traits=("by_row",),
    named_alone=False,
    computed_by="datadiet.scoring.dataset:of_a_column",
)
def metadata(
    values: Sequence[Any],
    labels: ArrayLike | None = None,
    *,
    ids: Sequence[str] | None = None,
    column: Annotated[str, "a column of the data"],
) -> Values:
    """A number that comes with the data: a rating, a year, a journal's impact, the score of another tool.

    Args:
        values: `(n,)` numbers, or texts of numbers.
        labels: Taken for the sake of the common form.
        ids: The user's names of the rows, for errors.
        column: The name of the column, for errors.

    Returns:
        float32 `(n,)`, as they are.

    Raises:
        DataError: If a value is missing, or no finite number; rows and ids are named.

    Examples:
        >>> metadata([3.5, "12"], column="impact")
        array([ 3.5, 12. ], dtype=float32)

    Source: journal-impact pruning (arXiv 2409.02725), which keeps the top. Its result is negative: at equal steps
    models trained on abstracts of journals of high impact are no better than those trained on a random choice of the
    same size. So a selection by metadata belongs beside `random` of the same count.
    """
    result = as_numbers(values)
    if (bad := np.flatnonzero(~np.isfinite(result))).size:
        raise DataError(f"the column {quoted(column)} must hold finite numbers, and does not in "
                        f"{named_rows(bad, len(values), ids)}. Fill them in, or leave these rows out.")  # fmt: skip
    return result


def as_numbers(values: Sequence[Any]) -> Values:
    """Values of a column as float32; nan or infinite where one is no finite number.

    Examples:
        >>> as_numbers([3, "2.5", "high", None])
        array([3. , 2.5, nan, nan], dtype=float32)
    """
    numbers = np.full(len(values), np.nan)
    for row, value in enumerate(values):
        with suppress(TypeError, ValueError, OverflowError):
            numbers[row] = float(value)
    with np.errstate(over="ignore"):
        return numbers.astype(np.float32)
