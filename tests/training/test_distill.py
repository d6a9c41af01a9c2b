"""Distillation: the loss by hand and by torch, its weight, soft labels kept by id."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from datadiet.errors import ArgumentError, DataError
from datadiet.store.cache import save_values
from datadiet.training.distill import (
    Answers,
    HeadLogits,
    distillation_loss,
    distillation_weight,
    distilled,
    load_soft_labels,
    save_answers,
    save_soft_labels,
)

IDS = ["a", "b", "c"]


def drawn(n=5, classes=4):
    generator = torch.Generator().manual_seed(0)
    return (3 * torch.randn(n, classes, generator=generator) for _ in range(2))


@pytest.mark.parametrize("temperature", [1.0, 2.0, 5.0])
def test_loss_is_the_divergence_times_the_squared_temperature(temperature):
    student, teacher = drawn()
    parts = [torch.distributions.Categorical(logits=logits / temperature) for logits in (teacher, student)]
    expected = temperature**2 * torch.distributions.kl_divergence(*parts)
    assert_close(distillation_loss(student, teacher, temperature), expected)
    assert_close(distillation_loss(teacher, teacher, temperature), torch.zeros(5), atol=1e-5, rtol=0)


def test_gradients_keep_their_size_and_reach_the_student_alone():
    student, teacher = drawn()
    student.requires_grad_(), teacher.requires_grad_()
    sizes = []
    for temperature in (5.0, 50.0):
        student.grad = None
        distillation_loss(student, teacher, temperature).sum().backward()
        sizes.append(float(student.grad.norm()))
    assert teacher.grad is None
    assert sizes[1] == pytest.approx(sizes[0], rel=0.3)


def test_half_precision_is_computed_in_float32():
    student, teacher = drawn()
    found = distillation_loss(student.half(), teacher.half())
    assert found.dtype == torch.float32
    assert_close(found, distillation_loss(student.half().float(), teacher.half().float()))


def test_weight_rises_as_keep_falls():
    weights = [distillation_weight(keep) for keep in (1.0, 0.9, 0.5, 0.2, 0.05, 0.01)]
    assert weights == sorted(weights)
    assert (weights[0], weights[-1]) == (0.1, 0.95)
    assert distillation_weight(0.3) == pytest.approx(0.7)


def test_the_two_losses_are_mixed():
    student, teacher = drawn()
    losses, taught = torch.arange(5.0), distillation_loss(student, teacher)
    assert torch.equal(distilled(losses, student, teacher, weight=0.0), losses)
    assert_close(distilled(losses, student, teacher, weight=1.0), taught)
    assert_close(distilled(losses.mean(), student, teacher, weight=0.3), 0.7 * losses.mean() + 0.3 * taught.mean())


def test_a_right_teacher_repairs_flipped_labels():
    x = torch.randn(120, 3, generator=torch.Generator().manual_seed(1))
    clean = x.argmax(1)
    labels = clean.clone()
    labels[:48] = (labels[:48] + 1) % 3
    accuracy = {}
    for weight in (0.0, 0.9):
        model = torch.zeros(3, 3, requires_grad=True)
        optimizer = torch.optim.Adam([model], 0.1)
        for _ in range(100):
            losses = torch.nn.functional.cross_entropy(x @ model, labels, reduction="none")
            optimizer.zero_grad()
            distilled(losses, x @ model, 6 * x, weight=weight).mean().backward()
            optimizer.step()
        accuracy[weight] = float(((x @ model).argmax(1) == clean).float().mean())
    assert accuracy[0.9] > 0.97
    assert accuracy[0.9] > accuracy[0.0]


def test_soft_labels_come_back_by_id_in_two_bytes_each(tmp_path):
    logits = np.array([[900.0, 901.0, -np.inf], [0.0, 1.0, 2.0], [5.0, 5.0, 5.0]], np.float32)
    path = tmp_path / "cache" / "soft.parquet"
    save_soft_labels(path, IDS, logits, fingerprint="f")
    found = load_soft_labels(path, ["c", "a"], classes=3, fingerprint="f")
    assert found.dtype == np.float16
    softened = torch.tensor(found.astype(np.float32)).softmax(-1)
    assert_close(softened, torch.tensor(logits[[2, 0]]).softmax(-1), atol=1e-3, rtol=0)
    assert [item.name for item in path.parent.iterdir()] == ["soft.parquet"]


def test_soft_labels_that_do_not_fit_are_refused(tmp_path):
    path = tmp_path / "soft.parquet"
    with pytest.raises(ArgumentError, match=r"need logits \(n, classes\), got shape \(3,\)"):
        save_soft_labels(path, IDS, np.zeros(3), fingerprint="f")
    assert not path.exists()
    save_soft_labels(path, IDS, np.zeros((3, 2)), fingerprint="f")
    with pytest.raises(DataError, match="has 2 classes, 3 are needed"):
        load_soft_labels(path, IDS, classes=3)
    save_values(path, IDS, np.zeros(3, np.float32), what="irreducible_loss", fingerprint="f")
    with pytest.raises(DataError, match="holds 'irreducible_loss', not 'teacher_logits'"):
        load_soft_labels(path, IDS)


def test_answers_of_a_teacher_that_are_not_finite_are_not_kept(tmp_path):
    head = HeadLogits(np.array([[0.0, np.nan]], np.float16), np.array([0, 1]))
    with pytest.raises(ArgumentError, match="logits must be finite; some of the head 'label' are not"):
        save_answers(tmp_path / "a", Answers({"label": head}, 1, 3))
    assert not (tmp_path / "a").exists()


def test_bad_arguments():
    student, teacher = drawn()
    with pytest.raises(ArgumentError, match=r"keep must be in \(0, 1\], got 70. Did you mean 0.7"):
        distillation_weight(70)
    with pytest.raises(ArgumentError, match="temperature must be above 0, got 0"):
        distillation_loss(student, teacher, 0)
    with pytest.raises(ArgumentError, match=r"same classes in the same order: .*\(5, 4\) and \(5, 3\)"):
        distillation_loss(student, teacher[:, :3])
    with pytest.raises(ArgumentError, match=r"weight must be in \[0, 1\], got 1.5"):
        distilled(torch.zeros(5), student, teacher, weight=1.5)
    with pytest.raises(ArgumentError, match=r"one loss per example is needed: got \(4,\) for \(5,\)"):
        distilled(torch.zeros(4), student, teacher, weight=0.5)
