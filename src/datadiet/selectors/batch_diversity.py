"""Examples of a batch whose gradients differ: a greedy choice on their Gram matrix."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from datadiet.checks import Problems

_FLAT = 1e-9  # share of a vector's squared length below which nothing of it is left


def divbs(gram: ArrayLike, count: int, generator: np.random.Generator) -> NDArray[np.bool_]:
    """So many examples whose gradients span the sum of all, one at a time, each adding what the others lack.

    With `s = sum_j g_j` and `r_i` what is left of `g_i` once the chosen ones are projected out, the next one has the
    largest `<r_i, s>^2 / ||r_i||^2`. Once `s` is spanned, the rule starts again among those left. Ties fall at random;
    examples without gradient come last.

    Args:
        gram: float `(batch, batch)`, `<g_i, g_j>`, symmetric.
        count: How many, in [1, batch].
        generator: Breaks ties.

    Returns:
        bool `(batch,)` with exactly `count` True.

    Raises:
        ArgumentError: If gram is not square, not finite, or count does not fit.

    Example:
        >>> divbs(np.diag([1.0, 4.0, 2.0]), 2, np.random.default_rng(0))
        array([False,  True,  True])

    Source: DivBS (Hong et al. 2024, Diversified Batch Selection), section 3, by a pivoted Cholesky factorisation of
    the Gram matrix. Their code draws in proportion to the projection without a mask, so that an example can come
    twice, and then fills up at random.
    """
    products = np.asarray(gram, np.float64)
    problems = Problems()
    square = products.ndim == 2 and products.shape[0] == products.shape[1]
    problems.check(square, f"gram must be (batch, batch), got {products.shape}.")
    problems.check(bool(np.isfinite(products).all()), "gram must be finite; it holds NaN or infinite numbers.")
    if square and not 1 <= count <= len(products):
        problems.add(f"count must be from 1 to {len(products)}, the size of the batch, got {count}.")
    problems.raise_any()
    order = generator.permutation(len(products))  # the first of a tie in a random order
    chosen = np.zeros(len(products), np.bool_)
    while (left := count - int(np.count_nonzero(chosen))) > 0:
        free = order[~chosen[order]]
        taken = _spanning(products[np.ix_(free, free)], left)
        chosen[free[taken] if taken else free[:left]] = True
    return chosen


def _spanning(gram: NDArray[np.float64], count: int) -> list[int]:
    """At most so many rows, until the sum of all gradients is spanned: pivoted Cholesky, led by that sum."""
    lengths, along = np.diag(gram).copy(), gram.sum(axis=1)  # ||r_i||^2 and <r_i, s>
    whole = float(gram.sum())  # ||s||^2, of which `left` is not spanned yet
    smallest, left = _FLAT * lengths, whole
    columns = np.zeros((count, len(gram)))
    taken: list[int] = []
    while len(taken) < count and left > _FLAT * whole:
        usable = lengths > np.maximum(smallest, np.finfo(np.float64).tiny)
        gains = np.where(usable, along**2 / np.where(usable, lengths, 1.0), -1.0)
        best = int(np.argmax(gains))
        if gains[best] <= _FLAT * whole:
            break
        column = (gram[:, best] - columns[: len(taken)].T @ columns[: len(taken), best]) / np.sqrt(lengths[best])
        columns[len(taken)] = column
        step = along[best] / np.sqrt(lengths[best])
        lengths, along, left = lengths - column**2, along - column * step, left - step**2
        lengths[best] = 0.0
        taken.append(best)
    return taken


def last_layer_gram(errors: ArrayLike, hidden: ArrayLike) -> NDArray[np.float64]:
    """Inner products of the gradients of a linear head with bias: `<e_i, e_j> (<h_i, h_j> + 1)`.

    Args:
        errors: float `(batch, classes)`, `softmax(logits) - onehot(label)`.
        hidden: float `(batch, width)`, what goes into the head.

    Returns:
        float64 `(batch, batch)`.

    Example:
        >>> last_layer_gram([[0.5, -0.5], [-0.5, 0.5]], [[1.0], [2.0]])
        array([[ 1. , -1.5],
               [-1.5,  2.5]])
    """
    wrong, inner = np.asarray(errors, np.float64), np.asarray(hidden, np.float64)
    gram: NDArray[np.float64] = (wrong @ wrong.T) * (inner @ inner.T + 1)
    return gram
