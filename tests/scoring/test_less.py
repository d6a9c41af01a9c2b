"""LESS: the definition on a model of 111 numbers, projections, Adam's step, planted domains, bad input."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch import nn
from torch.func import vmap
from torch.nn.functional import cosine_similarity

from datadiet.errors import ArgumentError
from datadiet.scoring.less import Projection, less
from toys import fit, from_x, mlp, only_x, rows_of, stack, tiny_classifier, toy_rows

X = {"loss": from_x, "inputs": only_x, "parameters": "all"}


def models():
    made = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        made.append(mlp(5, 12, 3))
    return made


def data(rows, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return rows_of({"x": torch.randn(rows, 5, generator=generator), "labels": torch.arange(rows) % 3})


def gradient_of(model, items):
    batch = stack(items)
    loss = from_x(model(batch["x"]), batch).mean()
    return torch.cat([part.flatten() for part in torch.autograd.grad(loss, list(model.parameters()))])


def by_definition(rates, rows, queries, groups):
    total = torch.zeros(len(rows), groups.max() + 1)
    for model, rate in zip(models(), rates, strict=True):
        for task in range(groups.max() + 1):
            aim = gradient_of(model, [queries[place] for place in np.flatnonzero(groups == task)])
            each = torch.stack([gradient_of(model, [row]) for row in rows])
            total[:, task] += rate * cosine_similarity(each, aim[None])
    return total.numpy()


@pytest.mark.proves("less", by="brute")
def test_it_is_the_definition_and_a_projection_keeps_to_its_bound():
    rows, queries, groups, rates = data(20), data(7, 1), np.array([0, 0, 1, 1, 1, 2, 2]), [0.3, 0.1]
    expected = by_definition(rates, rows, queries, groups)
    for size in (1, 6, 20):
        found = less(models(), rates, rows, queries, stack, query_groups=groups, batch_size=size, **X)
        assert_allclose(found.by_subtask, expected, atol=1e-5)
        assert_allclose(found.values, expected.max(1), atol=1e-5)
    assert found.direction == "plain"
    assert (found.gradients_of, found.dimensions) == ("all (111 numbers)", 111)
    errors = []
    for seed in range(30):
        short = less(models(), rates, rows, queries, stack, query_groups=groups, dimensions=64, seed=seed, **X)
        assert short.dimensions == 64
        errors.append(short.by_subtask - expected)
    # of a cosine at most about sqrt(2 / dimensions); two of them, weighed by their rates
    assert np.sqrt(np.mean(np.square(errors))) < np.sqrt(2 / 64) * np.hypot(*rates)
    assert abs(np.mean(errors)) < 0.01


def test_values_come_in_the_order_of_the_rows_and_do_not_depend_on_padding():
    model, (rows, collate), (queries, _) = tiny_classifier(3), toy_rows(9), toy_rows(4, seed=1)
    options = {"dimensions": 512, "parameters": "all"}
    large = less([model], None, rows, queries, collate, batch_tokens=10_000, **options).values
    small = less([model], None, rows, queries, collate, batch_tokens=1, **options).values
    assert_allclose(large, small, atol=1e-5)
    some = np.array([7, 2, 5])
    assert_allclose(less([model], None, rows, queries, collate, rows=some, **options).values, large[some], atol=1e-5)
    last = less([model], [0.5], rows, queries, collate)
    assert last.gradients_of == "last_layer (51 numbers)"
    whole = less([model], [0.5], rows, queries, collate, parameters=lambda name: name.startswith("classifier"))
    assert_allclose(last.values, whole.values, atol=1e-5)


@pytest.mark.proves("less", by="planted")
def test_rows_of_the_wanted_domain_come_first_and_wrong_labels_last():
    """Two domains with inputs and classes of their own; a query set of one of them, and one subtask of each."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(120, 8, generator=generator)
    x[:60, 4:] = 0
    x[60:, :4] = 0
    labels = torch.where(torch.arange(120) < 60, (x[:, 0] > 0).long(), 2 + (x[:, 4] > 0).long())
    noisy = labels.clone()
    noisy[50:60] = 1 - noisy[50:60]
    torch.manual_seed(0)
    model = fit(mlp(8, 12, 4), x[::2], noisy[::2], 10)
    queries = rows_of({"x": x[:20], "labels": labels[:20]})
    rows = rows_of({"x": x, "labels": noisy})
    values = less([model], None, rows, queries, stack, **X).values
    assert values[20:50].mean() > 0.2
    assert values[60:].mean() < -0.1
    assert values[50:60].mean() < 0
    both = rows_of({"x": torch.cat([x[:20], x[60:80]]), "labels": torch.cat([labels[:20], labels[60:80]])})
    found = less([model], None, rows, both, stack, query_groups=np.repeat([0, 1], 20), **X)
    of_task = found.by_subtask.argmax(1)
    assert (of_task[:50] == 0).mean() > 0.7
    assert (of_task[60:] == 1).mean() > 0.7
    copies = [*rows, rows[0], rows[0]]
    again = less([model], None, copies, queries, stack, **X).values
    assert_allclose(again[[-1, -2]], again[0], atol=1e-6)


def test_bad_input(tmp_path):
    rows, queries = data(4), data(3)
    with pytest.raises(ArgumentError, match="at least one query"):
        less(models(), None, rows, [], stack, **X)
    with pytest.raises(ArgumentError, match="at least one checkpoint"):
        less([], None, rows, queries, stack, **X)
    with pytest.raises(ArgumentError, match=r"query_groups must have one number per query, 3, got shape \(2,\)"):
        less(models(), None, rows, queries, stack, query_groups=np.zeros(2), **X)
    with pytest.raises(ArgumentError, match=r"direction=adam needs the optimizer\.pt of every checkpoint, a model has"):
        less(models(), None, rows, queries, stack, direction="adam", **X)
    with pytest.raises(ArgumentError, match="one learning rate per checkpoint is needed: got 1 for 2"):
        less(models(), [0.1], rows, queries, stack, **X)
    with pytest.raises(ArgumentError, match="dimensions must be a whole number, at least 1, got 0"):
        less(models(), None, rows, queries, stack, dimensions=0, **X)
    broken = [{**rows[0], "x": rows[0]["x"] * torch.nan}, *rows[1:]]
    with pytest.raises(ArgumentError, match="not finite at rows 0"):
        less(models(), None, broken, queries, stack, **X)
    with pytest.raises(ArgumentError, match="parameters='lora' needs a model with adapters that train"):
        less([nn.Sequential(nn.Linear(5, 3))], None, rows, queries, stack, **{**X, "parameters": "lora"})


# ---- projections: no bias, the variance of a dense matrix of signs, the same for parts and for torch.func

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
