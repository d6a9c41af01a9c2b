"""Training dynamics of a small model on data with planted wrong labels: softmax regression on clouds of points."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Planted:
    """What training forwards saw.

    Attributes:
        labels: int64 `(n,)`, as given, some wrong.
        flipped: bool `(n,)`.
        columns: float32 `(epochs, n)`: `loss`, `margin`, `el2n`, `gold_probability`, `moment`.
        held_out: float64 `(n, classes)`, probabilities of a model trained on other rows.
    """

    labels: NDArray[np.int64]
    flipped: NDArray[np.bool_]
    columns: dict[str, NDArray[np.float32]]
    held_out: NDArray[np.float64]

    def epoch(self, number: int) -> dict[str, NDArray[np.float32]]:
        return {name: values[number] for name, values in self.columns.items()}


def planted(
    rate: float,
    *,
    rows: int = 2000,
    classes: int = 5,
    apart: float = 4.0,
    by_heart: float = 0.0,
    epochs: int = 3,
    seed: int = 0,
) -> Planted:
    """Train on points of which the share `rate` has another label than its own; `apart` makes the classes easy, and
    with `by_heart` each row has a feature of its own, by which its label is learned, wrong or not."""
    rng = np.random.default_rng([seed, rows, classes])
    points, true = _points(rng, rows, classes, apart)
    if by_heart:
        points = np.c_[points, by_heart * np.eye(rows)]
    labels, flipped = true.copy(), np.zeros(rows, bool)
    flipped[rng.permutation(rows)[: round(rate * rows)]] = True
    labels[flipped] = (true[flipped] + rng.integers(1, classes, flipped.sum())) % classes
    weights = np.zeros((points.shape[1], classes))
    seen = [_epoch(points, labels, weights, rng) for _ in range(epochs)]
    other = np.zeros((points.shape[1], classes))
    half = rng.permutation(rows) < rows // 2
    held_out = np.empty((rows, classes))
    for part in (half, ~half):
        other[:] = 0
        for _ in range(2):
            _epoch(points[~part], labels[~part], other, rng)
        held_out[part] = _softmax(points[part] @ other)
    return Planted(labels, flipped, {name: np.stack([one[name] for one in seen]) for name in seen[0]}, held_out)


def _points(rng, rows, classes, apart):
    centres = rng.normal(size=(classes, 16))
    centres *= apart / np.linalg.norm(centres, axis=1, keepdims=True)
    true = np.arange(rows) % classes
    return np.c_[centres[true] + rng.normal(size=(rows, 16)), np.ones(rows)], true


def _epoch(points, labels, weights, rng, batch=16, rate=0.02):
    """One epoch, `weights` updated in place; values of each row before its own step, as in a training forward."""
    order = rng.permutation(len(points))
    found = {
        name: np.empty(len(points), np.float32) for name in ("loss", "margin", "el2n", "gold_probability", "moment")
    }
    for number, start in enumerate(range(0, len(order), batch)):
        rows = order[start : start + batch]
        logits = points[rows] @ weights
        p, one_hot, at = _softmax(logits), np.eye(weights.shape[1])[labels[rows]], np.arange(len(rows))
        gold = p[at, labels[rows]]
        others = np.where(one_hot == 1, -np.inf, logits).max(axis=1)
        found["loss"][rows], found["gold_probability"][rows] = -np.log(gold), gold
        found["margin"][rows] = others - logits[at, labels[rows]]
        found["el2n"][rows], found["moment"][rows] = np.linalg.norm(p - one_hot, axis=1), number + 1
        weights -= rate * points[rows].T @ (p - one_hot) / len(rows) * 4
    return found


def _softmax(logits):
    found = np.exp(logits - logits.max(axis=1, keepdims=True))
    return found / found.sum(axis=1, keepdims=True)
