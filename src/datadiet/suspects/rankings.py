"""Ways to rank rows by how likely their label is wrong: pure functions, larger = more suspected."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from datadiet.checks import ArgumentError, MissingExtraError

Values = NDArray[np.float32]


def aum(margins: ArrayLike) -> Values:
    """Minus the area under the margin: the mean over epochs of the largest other logit minus the label's.

    Args:
        margins: float `(epochs, n)`, largest other logit minus the label's; nan where a row was not seen.

    Returns:
        float32 `(n,)`, larger = more suspected.

    Example:
        >>> aum([[-2.0, 1.0], [-4.0, 0.5]])
        array([-3.  ,  0.75], dtype=float32)

    Source: Pleiss et al. 2020 (arXiv 2001.10528), section 3; their AUM is minus ours.
    """
    return _mean_over_epochs(margins)


def el2n_window(values: ArrayLike) -> Values:
    """EL2N averaged over early epochs, and over seeds.

    Args:
        values: float `(runs x epochs, n)`, nan where a row was not seen.

    Returns:
        float32 `(n,)`, larger = more suspected.

    Example:
        >>> el2n_window([[0.2, 1.0], [0.4, np.nan]])
        array([0.3, 1. ], dtype=float32)

    Source: Paul et al. 2021 (arXiv 2107.07075), section 2 and figure 4: corrupted labels gather at the top.
    """
    return _mean_over_epochs(values)


def irreducible(losses: ArrayLike, trained: ArrayLike | None = None) -> Values:
    """The loss of a model that has never seen the row, less what the trained model's is.

    Args:
        losses: float `(n,)`, of a model trained on other rows.
        trained: float `(n,)`, of a model that was trained on these; 0 by default.

    Returns:
        float32 `(n,)`, larger = more suspected: learned by heart, and not to be known from other rows. It is minus the
        reducible loss.

    Example:
        >>> irreducible([0.1, 4.0], [0.1, 0.5])
        array([0. , 3.5], dtype=float32)

    Source: Mindermann et al. 2022 (arXiv 2206.07137), section 3: noisy points have a large irreducible loss. Train the
    other model on a holdout, or cross-fit it.
    """
    found = np.asarray(losses, np.float32) - (0 if trained is None else np.asarray(trained, np.float32))
    if not np.isfinite(found).all():
        raise ArgumentError(
            f"irreducible losses must be finite; rows {np.flatnonzero(~np.isfinite(found))[:5].tolist()}."
        )
    return found.astype(np.float32)


def cleanlab_values(probabilities: ArrayLike, labels: ArrayLike) -> Values:
    """cleanlab's label quality, turned round.

    Args:
        probabilities: float `(n, classes)`, out of sample: of a model that has not seen the row.
        labels: int `(n,)`.

    Returns:
        float32 `(n,)` in [0, 1], larger = more suspected.

    Raises:
        MissingExtraError: If cleanlab is not installed.

    Source: Northcutt et al. 2021 (arXiv 1911.00068); `cleanlab.rank.get_label_quality_scores`.
    """
    try:
        from cleanlab.rank import get_label_quality_scores
    except ImportError as error:
        raise MissingExtraError("cleanlab is not installed: pip install 'datadiet[cleanlab]'.") from error
    quality = get_label_quality_scores(np.asarray(labels, np.int64), np.asarray(probabilities, np.float64))
    return np.asarray(1 - quality, np.float32)


def _mean_over_epochs(values: ArrayLike) -> Values:
    table = np.asarray(values, np.float64)
    seen = np.isfinite(table)
    if never := np.flatnonzero(~seen.any(axis=0))[:5].tolist():
        raise ArgumentError(f"some rows have no value in any epoch, e.g. {never}.")
    return np.asarray(np.where(seen, table, 0).sum(axis=0) / seen.sum(axis=0), np.float32)
