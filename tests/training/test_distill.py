"""Distillation: the loss, soft labels by id, a teacher inside the Trainer, and its logits shared between runs."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional
from torch.testing import assert_close

from datadiet.errors import ArgumentError, DataError
from datadiet.ledger import Ledger
from datadiet.store.cache import save_values
from datadiet.training.distill import (
    Answers,
    HeadLogits,
    Teacher,
    distillation_loss,
    distillation_weight,
    distilled,
    load_soft_labels,
    save_answers,
    save_soft_labels,
    teacher_of,
)
from datadiet.types import HeadSignals, Signals
from toys import (
    CLASSES,
    TASK,
    hard_diet,
    tiny_classifier,
    tiny_tokenizer,
    toy_features,
    toy_trainer,
)

IDS = ["a", "b", "c"]
N = 48


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
    half = distillation_loss(student.half(), teacher.half(), temperature)
    assert half.dtype == torch.float32
    assert_close(half, distillation_loss(student.half().float(), teacher.half().float(), temperature))


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


def test_weight_rises_as_keep_falls():
    weights = [distillation_weight(keep) for keep in (1.0, 0.9, 0.5, 0.2, 0.05, 0.01)]
    assert weights == sorted(weights)
    assert (weights[0], weights[-1]) == (0.1, 0.95)
    assert distillation_weight(0.3) == pytest.approx(0.7)
    shares = [Teacher({}, weight=weight).share(0.5) for weight in (None, 0.3)]
    assert shares == [distillation_weight(0.5), 0.3]


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


# ---- inside the Trainer


def taken(model, **options) -> Teacher:
    return teacher_of(model, toy_features(N), TASK.collator(tiny_tokenizer()), TASK.signals, batch_size=7, **options)


def test_every_row_has_the_logits_of_its_own_forward_pass():
    model, ledger = tiny_classifier(CLASSES, dropout=0.5), Ledger()
    teacher = taken(model, ledger=ledger)
    collate, features = TASK.collator(tiny_tokenizer()), toy_features(N)
    with torch.no_grad():
        expected = torch.cat([model.eval()(**collate([features[row]])).logits for row in (5, 3)]).log_softmax(-1)
    found = teacher.heads["label"].of_rows(np.array([5, 3])).log_softmax(-1)
    torch.testing.assert_close(found, expected, atol=2e-3, rtol=1e-3)  # half precision
    assert ledger.snapshot().examples_forward == N


def test_the_first_loss_is_the_mixture(tmp_path):
    teacher = taken(tiny_classifier(CLASSES, seed=9), temperature=3.0)
    options = {"n": N, "num_train_epochs": 1, "per_device_train_batch_size": 24}
    plain = toy_trainer(tmp_path / "plain", hard_diet(warmup_epochs=0), **options)
    taught = toy_trainer(tmp_path / "taught", hard_diet(warmup_epochs=0), extra={"teacher": teacher}, **options)
    student = tiny_classifier(CLASSES).eval()
    plain.train()
    taught.train()
    rows = taught.diet.plan(0).rows  # one step: the batch is the plan
    batch = TASK.collator(tiny_tokenizer())([toy_features(N)[int(row)] for row in rows])
    logits, soft = student(**batch).logits / 3, teacher.heads["label"].of_rows(rows) / 3
    divergence = 9 * functional.kl_div(logits.log_softmax(-1), soft.softmax(-1), reduction="batchmean").item()
    assert taught.seen.losses[0] == pytest.approx(0.5 * plain.seen.losses[0] + 0.5 * divergence, abs=1e-3)


def test_a_student_of_nothing_but_its_teacher_comes_to_agree_with_it(tmp_path):
    """Labels and teacher disagree: with all the weight on the teacher its class is learned."""
    logits = HeadLogits(np.tile(np.array([[0, -9, -9]], np.float16), (N, 1)), np.arange(N + 1))
    teacher = Teacher({"label": logits}, weight=1.0)
    trainer = toy_trainer(
        tmp_path, hard_diet(), n=N, extra={"teacher": teacher}, num_train_epochs=6, learning_rate=5e-3
    )
    trainer.train()
    assert trainer.predict(toy_features(8, seed=1)).predictions.argmax(-1).tolist() == [0] * 8


def test_decisions_of_a_tagger_are_found_by_row():
    logits = np.arange(10, dtype=np.float16).reshape(5, 2)
    logits[:, 1] *= 2
    teacher = Teacher({"tokens": HeadLogits(logits, np.array([0, 2, 2, 5]))}, temperature=1.0)
    mask = torch.tensor([[True, False, True, True], [True, True, False, False]])
    student = torch.zeros(2, 4, 2, requires_grad=True)
    signals = Signals({"tokens": HeadSignals(student.detach(), torch.zeros(2, 4, dtype=torch.int64), mask)})
    loss = teacher.loss({"tokens": student}, signals, torch.tensor([2, 0]), {})
    soft = torch.from_numpy(logits).float().softmax(-1)
    expected = functional.kl_div(torch.full((5, 2), 0.5).log(), soft, reduction="sum")
    assert loss.item() == pytest.approx(expected.item() / 2)
    loss.backward()
    assert (student.grad.abs().sum(-1) > 0).tolist() == mask.tolist()


def test_heads_that_the_teacher_does_not_have():
    teacher = Teacher({"intent": HeadLogits(np.zeros((2, 2), np.float16), np.arange(3))})
    signals = Signals({"label": HeadSignals(torch.zeros(1, 2), torch.zeros(1, dtype=torch.int64))})
    with pytest.raises(ArgumentError, match="cannot teach the head 'label'; it has intent"):
        teacher.loss({"label": torch.zeros(1, 2)}, signals, torch.tensor([0]), {})
