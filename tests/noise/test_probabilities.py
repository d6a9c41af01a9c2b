"""Class probabilities: the layout on disk, the mean over forwards, and label errors that cleanlab finds in them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.testing import assert_allclose, assert_array_equal

import datadiet as dd
from datadiet.errors import DataError
from datadiet.noise.probabilities import (
    FILE,
    ClassProbabilities,
    MeanProbabilities,
    cleanlab_inputs,
    read_probabilities,
    write_probabilities,
)

CLASSES = 3


def planted(n: int = 300, flips: int = 30, seed: int = 0) -> tuple[ClassProbabilities, np.ndarray]:
    """A model that mostly knows the true class, and labels of which the first `flips` are wrong."""
    generator = np.random.default_rng(seed)
    true = generator.integers(CLASSES, size=n)
    logits = 3.0 * np.eye(CLASSES)[true] + generator.standard_normal((n, CLASSES))
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    flipped = np.arange(n) < flips
    labels = np.where(flipped, (true + 1 + generator.integers(CLASSES - 1, size=n)) % CLASSES, true)
    names = ("a", "b", "c")
    found = ClassProbabilities([f"id-{row}" for row in range(n)], labels, p.astype(np.float32), np.ones(n, int), names)
    return found, flipped


def test_round_trip_of_the_layout(tmp_path):
    found, _ = planted(5, 1)
    found.probabilities[2] = np.nan
    found = replace(found, labels=np.array([0, -1, 2, 1, 0]), times=np.array([3, 3, 0, 3, 3], np.int32))
    write_probabilities(tmp_path / "deep" / FILE, found)
    table = pq.read_table(tmp_path / "deep" / FILE)
    assert table.schema.field("probabilities").type == pa.list_(pa.float32(), CLASSES)
    assert table["label"].to_pylist() == [0, None, 2, 1, 0]
    assert table["probabilities"].to_pylist()[2] is None
    for path in (tmp_path / "deep", tmp_path / "deep" / FILE):
        read = read_probabilities(path)
        assert read.ids == list(found.ids)
        assert read.names == found.names
        assert_array_equal(read.labels, found.labels)
        assert_array_equal(read.times, found.times)
        assert_array_equal(read.probabilities, found.probabilities)
    assert not list(tmp_path.rglob("*.part"))


def test_the_mean_over_forwards_and_going_on_from_an_earlier_one(tmp_path):
    generator = np.random.default_rng(0)
    forwards = [(np.sort(generator.permutation(8)[:5]), generator.dirichlet([1, 1, 1], 5)) for _ in range(4)]
    labels = np.arange(8) % CLASSES
    mean, half, later = MeanProbabilities(8), MeanProbabilities(8), MeanProbabilities(8)
    for rows, p in forwards:
        mean.add(rows, p, labels[rows])
    for rows, p in forwards[:2]:
        half.add(rows, p, labels[rows])
    write_probabilities(tmp_path / FILE, half.result(("a", "b", "c")))
    later.carry(read_probabilities(tmp_path))
    for rows, p in forwards[2:]:
        later.add(rows, p, labels[rows])
    found = mean.result(("a", "b", "c"))
    for row in range(8):
        seen = [p[rows == row][0] for rows, p in forwards if row in rows]
        assert found.times[row] == len(seen)
        if seen:
            assert_allclose(found.probabilities[row], np.mean(seen, 0), atol=1e-6)
        else:
            assert np.isnan(found.probabilities[row]).all()
    again = later.result(("a", "b", "c"))
    assert_array_equal(again.probabilities, found.probabilities)
    assert_array_equal(again.times, found.times)


def test_cleanlab_finds_planted_flips(tmp_path):
    from cleanlab.filter import find_label_issues

    found, flipped = planted()
    write_probabilities(tmp_path / FILE, found)
    labels, pred_probs = dd.cleanlab_inputs(tmp_path)
    assert (labels.dtype, pred_probs.dtype) == (np.int64, np.float64)
    assert_allclose(pred_probs.sum(1), 1, atol=1e-12)
    issues = find_label_issues(labels, pred_probs, n_jobs=1)
    assert (issues & flipped).sum() >= 0.8 * flipped.sum()
    assert (issues & flipped).sum() >= 0.8 * issues.sum()


def test_what_cleanlab_could_not_use_is_refused_with_ids():
    found, _ = planted(6, 1)
    found.probabilities[4] = np.nan
    bad = replace(found, labels=np.array([0, -1, 2, 3, 0, 1]))
    with pytest.raises(
        DataError, match=r"(?s)1 of 6 examples have no label \(ids id-1\).*beyond the classes \(ids id-3"
    ):
        cleanlab_inputs(bad)
    with pytest.raises(DataError, match=r"1 of 6 examples have no class probabilities.*\(ids id-4\)"):
        cleanlab_inputs(found)
    one, _ = planted(6, 1)
    with pytest.raises(DataError, match="at least two classes among the labels, got 1"):
        cleanlab_inputs(replace(one, labels=np.zeros(6, np.int64)))


def test_other_files_are_refused(tmp_path):
    with pytest.raises(DataError, match="there are no class probabilities in"):
        read_probabilities(tmp_path)
    (tmp_path / "text.parquet").write_text("no table")
    with pytest.raises(DataError, match="is not a Parquet file"):
        read_probabilities(tmp_path / "text.parquet")
    pq.write_table(pa.table({"row": [1]}), tmp_path / "other.parquet")
    with pytest.raises(DataError, match="has another layout; its columns must be row, id, label"):
        read_probabilities(tmp_path / "other.parquet")
