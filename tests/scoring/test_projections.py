"""Random projections: no bias, the variance of a dense matrix of signs, the same for parts and for torch.func."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch.func import vmap

from datadiet.scoring.projections import Projection

SIZES = {"weight": 700, "bias": 30}


def drawn(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.randn(size, generator=generator, dtype=torch.float64) for name, size in SIZES.items()}


def joined(vector):
    return torch.cat(list(vector.values()))


def test_inner_products_have_no_bias_and_the_variance_of_a_dense_projection():
    """Johnson and Lindenstrauss: 400 projections to 64 numbers."""
    x, y = drawn(0), drawn(1)
    y = {name: 0.5 * x[name] + y[name] for name in x}
    a, b, size = joined(x), joined(y), 64
    exact = float(a @ b)
    found = []
    for seed in range(400):
        project = Projection(SIZES, size, seed=seed)
        assert project.size == size
        found.append(float(project(x) @ project(y)))
    bound = float(a @ a * (b @ b) + (a @ b) ** 2) / size  # of the variance
    assert abs(np.mean(found) - exact) < 4 * np.sqrt(bound / len(found))
    assert 0.5 * bound < np.var(found) < 1.2 * bound
    assert np.mean(np.abs(np.array(found) - exact) > 3 * np.sqrt(bound)) < 0.02


def test_each_number_has_one_place_and_one_sign():
    project = Projection({"weight": 10}, 4, seed=3)
    columns = torch.stack([project({"weight": row}) for row in torch.eye(10)])  # (numbers, places)
    assert_allclose(columns.abs().sum(1), 1)
    assert columns.abs().sum(0).max() <= 3  # dealt out evenly: 10 numbers at 4 places


def test_it_is_the_same_again_mapped_and_by_dtype():
    x, project = drawn(), Projection(SIZES, 16, seed=0)
    rows = {name: torch.stack([part, 2 * part]) for name, part in x.items()}
    both = vmap(project)(rows)
    assert_allclose(both[0], project(x), rtol=1e-12)
    assert_allclose(both[1], 2 * Projection(SIZES, 16, seed=0)(x), rtol=1e-12)
    assert_allclose(project({name: part.float() for name, part in x.items()}), both[0], rtol=1e-4, atol=1e-5)
    assert not np.allclose(both[0], Projection(SIZES, 16, seed=1)(x))


@pytest.mark.parametrize("size", [730, 10_000])
def test_vectors_that_are_small_enough_are_not_projected(size):
    project = Projection(SIZES, size, seed=0)
    assert project.exact
    assert project.size == 730
    assert_allclose(project(drawn()), joined(drawn()))
