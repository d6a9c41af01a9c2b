"""A teacher's logits, taken once, and the loss that follows them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from datadiet.diet.diet import Diet
from datadiet.errors import ArgumentError
from datadiet.ledger import Ledger
from datadiet.training.distill import HeadLogits, Teacher, teacher_of
from datadiet.types import HeadSignals, Signals
from toys import CLASSES, TASK, tiny_classifier, tiny_tokenizer, toy_features, toy_trainer

N = 48


def asked(model, **options) -> Teacher:
    return teacher_of(model, toy_features(N), TASK.collator(tiny_tokenizer()), TASK.signals, batch_size=7, **options)


def test_every_row_has_the_logits_of_its_own_forward_pass():
    model, ledger = tiny_classifier(CLASSES, dropout=0.5), Ledger()
    teacher = asked(model, ledger=ledger)
    collate, features = TASK.collator(tiny_tokenizer()), toy_features(N)
    with torch.no_grad():
        expected = torch.cat([model.eval()(**collate([features[row]])).logits for row in (5, 3)]).log_softmax(-1)
    found = teacher.heads["label"].of_rows(np.array([5, 3])).log_softmax(-1)
    torch.testing.assert_close(found, expected, atol=2e-3, rtol=1e-3)  # half precision
    assert ledger.snapshot().examples_forward == N


def test_the_first_loss_is_the_mixture(tmp_path):
    teacher = asked(tiny_classifier(CLASSES, seed=9), temperature=3.0)
    options = {"n": N, "num_train_epochs": 1, "per_device_train_batch_size": 24}
    plain = toy_trainer(tmp_path / "plain", Diet(warmup_epochs=0), **options)
    taught = toy_trainer(tmp_path / "taught", Diet(warmup_epochs=0), extra={"teacher": teacher}, **options)
    student = tiny_classifier(CLASSES).eval()
    plain.train()
    taught.train()
    rows = taught.diet.plan(0).rows  # one step: the batch is the plan
    batch = TASK.collator(tiny_tokenizer())([toy_features(N)[int(row)] for row in rows])
    logits, said = student(**batch).logits / 3, teacher.heads["label"].of_rows(rows) / 3
    missed = 9 * functional.kl_div(logits.log_softmax(-1), said.softmax(-1), reduction="batchmean").item()
    assert taught.seen.losses[0] == pytest.approx(0.5 * plain.seen.losses[0] + 0.5 * missed, abs=1e-3)


def test_the_share_rises_as_less_is_kept():
    teacher = Teacher({})
    assert [round(teacher.share(keep), 2) for keep in (1.0, 0.5, 0.01)] == [0.1, 0.5, 0.95]
    assert Teacher({}, weight=0.3).share(0.01) == 0.3


def test_a_student_of_nothing_but_its_teacher_comes_to_agree_with_it(tmp_path):
    """Labels say one thing, the teacher another: with all the weight on the teacher its class is learned."""
    said = HeadLogits(np.tile(np.array([[0, -9, -9]], np.float16), (N, 1)), np.arange(N + 1))
    teacher = Teacher({"label": said}, weight=1.0)
    trainer = toy_trainer(tmp_path, Diet(), n=N, extra={"teacher": teacher}, num_train_epochs=6, learning_rate=5e-3)
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
    said = torch.from_numpy(logits).float().softmax(-1)
    expected = functional.kl_div(torch.full((5, 2), 0.5).log(), said, reduction="sum")
    assert loss.item() == pytest.approx(expected.item() / 2)
    loss.backward()
    assert (student.grad.abs().sum(-1) > 0).tolist() == mask.tolist()


def test_heads_that_the_teacher_does_not_have():
    teacher = Teacher({"intent": HeadLogits(np.zeros((2, 2), np.float16), np.arange(3))})
    signals = Signals({"label": HeadSignals(torch.zeros(1, 2), torch.zeros(1, dtype=torch.int64))})
    with pytest.raises(ArgumentError, match="cannot teach the head 'label'; it has intent"):
        teacher.loss({"label": torch.zeros(1, 2)}, signals, torch.tensor([0]), {})
