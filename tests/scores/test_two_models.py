"""PVI, reducible loss and disagreement with a teacher: golden values, planted noise, bad input."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.model_selection import StratifiedKFold
from torch import nn
from torch.testing import assert_close

from datadiet.errors import ArgumentError
from datadiet.scores.logits import cross_entropy, el2n
from datadiet.scores.two_models import dealrec, negative_pvi, reducible_loss, teacher_divergence, teacher_el2n
from datadiet.selectors.ranked import hardest

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "two_models.json").read_text())


@pytest.mark.proves("negative_pvi", by="golden")
def test_golden_pvi_is_finite_where_the_probability_underflows():
    case = GOLDEN["pvi"]
    logits, null, labels = (torch.tensor(case[name]) for name in ("logits_input", "logits_null", "labels"))
    assert_close(-negative_pvi(logits, null, labels), torch.tensor(case["pvi"]), atol=1e-5, rtol=1e-5)
    assert torch.equal(negative_pvi(logits, null[0], labels), negative_pvi(logits, null, labels))


@pytest.mark.proves("reducible_loss", by="golden")
def test_golden_reducible_loss_and_its_choice():
    case = GOLDEN["rho"]
    index = torch.tensor(case["global_index"])
    irreducible = torch.tensor(case["irreducible_loss_by_global_index"])[index]
    values = reducible_loss(torch.tensor(case["logits"]), torch.tensor(case["targets"]), irreducible)
    assert_close(values, torch.tensor(case["reducible_loss"]), atol=1e-5, rtol=1e-5)
    for count, expected in case["selected"].items():
        assert hardest(values.numpy(), int(count), seed=0, epoch=0).rows.tolist() == expected


def noisy(n: int = 200, classes: int = 3, flips: int = 20):
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(n) % classes
    x = 6 * nn.functional.one_hot(labels, classes) + torch.randn(n, classes, generator=generator)
    labels = x.argmax(1)
    labels[:flips] = (labels[:flips] + 1) % classes
    return x, labels


def fit(x: torch.Tensor, labels: torch.Tensor, steps: int = 200) -> nn.Linear:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Linear(x.shape[1], 3)
    optimizer = torch.optim.Adam(model.parameters(), 0.1)
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), labels).backward()
        optimizer.step()
    return model


@pytest.mark.proves("negative_pvi", by="planted")
def test_cross_fitted_pvi_finds_the_flipped_labels():
    x, labels = noisy()
    values = torch.empty(len(x))
    for train, held_out in StratifiedKFold(4, shuffle=True, random_state=0).split(x, labels):
        model, null = fit(x[train], labels[train]), fit(torch.zeros_like(x[train]), labels[train])
        with torch.no_grad():
            outputs = model(x[held_out]), null(torch.zeros(1, 3))[0]
        values[held_out] = negative_pvi(*outputs, labels[held_out])
    assert len(set(np.argsort(-values.numpy())[:20]) & set(range(20))) >= 18
    assert values[:20].median() > 0 > values[20:].median()  # the input misleads, the input helps


@pytest.mark.proves("reducible_loss", by="planted")
def test_reducible_loss_leaves_noise_and_what_is_learned_alone():
    """A model that has yet to learn class 2: plain loss prefers the flipped labels, reducible loss does not."""
    x, labels = noisy()
    other, other_labels = noisy(400, flips=0)
    irreducible = cross_entropy(fit(other, other_labels)(x), labels)
    logits = x * torch.tensor([1.0, 1.0, 0.0])  # class 2 is not known
    unlearned = {row for row in range(20, 200) if labels[row] == 2}
    by_loss = set(cross_entropy(logits, labels).argsort(descending=True)[:15].tolist())
    by_rho = set(reducible_loss(logits, labels, irreducible).argsort(descending=True)[:15].tolist())
    assert by_rho <= unlearned
    assert len(by_loss & set(range(20))) > 2


@pytest.mark.proves("teacher_el2n")
@pytest.mark.proves("teacher_divergence", by="library")
def test_disagreement_with_a_teacher_by_hand():
    logits, teacher = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)), torch.zeros(6, 4)
    labels = torch.arange(6) % 4
    certain = torch.full((6, 4), -100.0).scatter(1, labels[:, None], 100.0)
    assert_close(teacher_el2n(logits, certain), el2n(logits, labels))
    assert_close(teacher_divergence(logits, certain), cross_entropy(logits, labels))
    assert_close(teacher_divergence(logits, logits), torch.zeros(6))
    expected = torch.distributions.kl_divergence(
        torch.distributions.Categorical(logits=teacher), torch.distributions.Categorical(logits=logits)
    )
    assert_close(teacher_divergence(logits, teacher), expected)


@pytest.mark.proves("teacher_el2n", "teacher_divergence", by="planted")
def test_what_a_clean_teacher_disagrees_with_is_the_noise_a_student_has_learned():
    x, labels = noisy()
    clean = x.argmax(1)
    student = torch.zeros(200, 3).scatter(1, labels[:, None], 9.0)
    teacher = torch.zeros(200, 3).scatter(1, clean[:, None], 9.0)
    for score in (teacher_el2n, teacher_divergence):
        assert set(score(student, teacher).argsort(descending=True)[:20].tolist()) == set(range(20))


def test_bad_input():
    logits, labels = torch.zeros(3, 2), torch.zeros(3, dtype=torch.long)
    with pytest.raises(ArgumentError, match=r"one number per example: got shape \(2,\) for \(3,\)"):
        reducible_loss(logits, labels, torch.zeros(2))
    with pytest.raises(ArgumentError, match="must be finite; it is not at the places 1"):
        reducible_loss(logits, labels, torch.tensor([0.0, torch.nan, 0.0]))
    for score in (teacher_el2n, teacher_divergence):
        with pytest.raises(ArgumentError, match=r"same classes in the same order: .*\(3, 2\) and \(3, 3\)"):
            score(logits, torch.zeros(3, 3))


DEALREC = json.loads((Path(__file__).parents[1] / "golden" / "dealrec.json").read_text())


@pytest.mark.proves("dealrec", by="golden")
def test_golden_dealrec():
    values = dealrec(DEALREC["influence"], DEALREC["effort"], normalise="min_max")
    np.testing.assert_allclose(values, DEALREC["score_weight_0_5"], atol=1e-6)


@pytest.mark.proves("dealrec", by="planted")
def test_one_outlier_flattens_the_others_by_min_max_only():
    rng = np.random.default_rng(0)
    influence, effort = rng.normal(size=200), rng.normal(size=200)
    spoilt = np.append(influence, 1e6), np.append(effort, 0.0)
    for normalise, least in (("rank", 0.98), ("robust_z", 0.98)):
        clean, with_outlier = (
            dealrec(influence, effort, normalise=normalise),
            dealrec(*spoilt, normalise=normalise)[:-1],
        )
        assert np.corrcoef(clean, with_outlier)[0, 1] > least
    flat = dealrec(*spoilt, normalise="min_max")[:-1]
    assert abs(np.corrcoef(flat, influence)[0, 1]) < 0.2  # only the effort is left


def test_dealrec_of_equal_values_and_bad_input():
    for normalise in ("rank", "robust_z", "min_max"):
        np.testing.assert_array_equal(dealrec([1.0] * 4, [2.0] * 4, normalise=normalise), np.zeros(4))
    np.testing.assert_allclose(dealrec([3.0, 1, 1, 2], [0.0] * 4), [1, 1 / 6, 1 / 6, 2 / 3], rtol=1e-6)
    np.testing.assert_allclose(dealrec([0.0] * 9 + [1], [0.0] * 10, normalise="robust_z")[-1], 1 / 0.3, rtol=1e-6)
    with pytest.raises(ArgumentError, match=r"one number per row, got the shapes \(2,\) and \(3,\)"):
        dealrec([1, 2], [1, 2, 3])
    with pytest.raises(ArgumentError, match="must be finite"):
        dealrec([1, np.nan], [1, 2])
    with pytest.raises(ArgumentError, match="weight must be at least 0"):
        dealrec([1, 2], [1, 2], weight=-1)
