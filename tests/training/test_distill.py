"""Distillation: the loss by hand and by torch, its weight, soft labels kept by id."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from datadiet.errors import ArgumentError, DataError
from datadiet.store.cache import load_values, save_values
from datadiet.training.distill import (
    distillation_loss,
    distillation_weight,
    distilled,
    load_soft_labels,
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


def test_irreducible_losses_come_back_as_they_were(tmp_path):
    path, values = tmp_path / "il.parquet", np.array([0.1, 2.0, 3.0], np.float32)
    save_values(path, IDS, values, what="irreducible_loss", fingerprint="f")
    found = load_values(path, ["b", "a"], what="irreducible_loss", fingerprint="f")
    assert (found.dtype, found.tolist()) == (np.float32, values[[1, 0]].tolist())
    assert len(load_values(path, [], what="irreducible_loss")) == 0


def test_a_cache_that_does_not_fit_is_refused(tmp_path):
    path = tmp_path / "il.parquet"
    save_values(path, IDS, np.zeros(3, np.float32), what="irreducible_loss", fingerprint="f")
    with pytest.raises(DataError, match="computed on other data \\(fingerprint f, here g\\): compute it again"):
        load_values(path, IDS, what="irreducible_loss", fingerprint="g")
    with pytest.raises(DataError, match="holds 'irreducible_loss', not 'teacher_logits'"):
        load_soft_labels(path, IDS)
    with pytest.raises(DataError, match="lacks 2 ids, among them 'x', 'y'"):
        load_values(path, ["a", "x", "y"], what="irreducible_loss")
    with pytest.raises(DataError, match="does not exist"):
        load_values(tmp_path / "no.parquet", IDS, what="irreducible_loss")
    (tmp_path / "text.parquet").write_text("no table")
    with pytest.raises(DataError, match="cannot be read as Parquet"):
        load_values(tmp_path / "text.parquet", IDS, what="irreducible_loss")
    save_soft_labels(path, IDS, np.zeros((3, 2)), fingerprint="f")
    with pytest.raises(DataError, match="has 2 classes, 3 are needed"):
        load_soft_labels(path, IDS, classes=3)


def test_a_table_of_another_program_is_refused(tmp_path):
    import pandas as pd

    pd.DataFrame({"id": IDS, "values": [1.0, 2.0, 3.0]}).to_parquet(tmp_path / "other.parquet")
    with pytest.raises(DataError, match="was not written by datadiet"):
        load_values(tmp_path / "other.parquet", IDS, what="irreducible_loss")


def test_what_cannot_be_kept_is_not_written(tmp_path):
    path = tmp_path / "il.parquet"
    with pytest.raises(ArgumentError, match="ids must be different, 'a' is there more than once"):
        save_values(path, ["a", "b", "a"], np.zeros(3), what="x")
    with pytest.raises(ArgumentError, match="must be finite; they are not for 'b'"):
        save_values(path, IDS, np.array([0.0, np.nan, 0.0]), what="x")
    with pytest.raises(ArgumentError, match=r"one value or one row of values per id is needed: got \(2,\) for 3 ids"):
        save_values(path, IDS, np.zeros(2), what="x")
    with pytest.raises(ArgumentError, match=r"need logits \(n, classes\), got shape \(3,\)"):
        save_soft_labels(path, IDS, np.zeros(3), fingerprint="f")
    assert not path.exists()


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
