"""Forward passes: batches by length, modes restored, counts, predictions in row order."""

from __future__ import annotations

import datasets
import numpy as np
import pytest
import torch

from datadiet.ledger import Ledger
from datadiet.scoring import forward
from datadiet.scoring.forward import batches_by_length, evaluating, forward_pass, lengths_of, predict_all, token_count
from datadiet.tasks.sequence import ClassificationTask
from toys import KEYWORDS, tiny_classifier, toy_rows

DECODE = ClassificationTask(tuple(KEYWORDS[:3])).decode
DATA, COLLATE = toy_rows(30)


def test_modes_come_back_as_they_were_also_for_frozen_parts_and_after_an_error():
    model = torch.nn.Sequential(torch.nn.Dropout(), torch.nn.Sequential(torch.nn.Dropout()))
    model.train()
    model[1].eval()

    def check(error):
        assert not any(module.training for module in model.modules())
        assert torch.is_inference_mode_enabled()
        raise error

    with pytest.raises(RuntimeError, match="boom"), evaluating(model):
        check(RuntimeError("boom"))
    assert [module.training for module in model.modules()] == [True, True, False, False]
    with evaluating(model):
        assert not model.training
    assert [module.training for module in model.modules()] == [True, True, False, False]


def test_batches_hold_every_row_once_within_the_budget():
    lengths = np.random.default_rng(0).integers(1, 40, 100)
    rows = np.arange(0, 100, 3)
    batches = list(batches_by_length(rows, lengths, batch_tokens=64, batch_size=1))
    assert sorted(np.concatenate(batches)) == rows.tolist()
    assert all(len(batch) * lengths[batch].max() <= 64 for batch in batches)
    assert lengths[batches[0]].max() == lengths[rows].max()
    (longer,) = batches_by_length(np.array([0]), np.array([900]), batch_tokens=64, batch_size=1)
    assert longer.tolist() == [0]  # one example longer than the budget still fits
    assert [len(b) for b in batches_by_length(np.arange(10), None, batch_tokens=1, batch_size=4)] == [4, 4, 2]


def outputs(rows=None, **options):
    model = tiny_classifier(3, dropout=0.5).train()
    logits = {}
    for part, out, _ in forward_pass(model, DATA, COLLATE, rows=rows, **options):
        logits |= dict(zip(part.tolist(), out.logits, strict=True))
    assert model.training
    return logits


def test_values_do_not_depend_on_the_batching_and_dropout_is_off():
    large, small = outputs(batch_tokens=10_000), outputs(batch_tokens=1)
    assert large.keys() == small.keys() == set(range(30))
    assert all(torch.allclose(large[row], small[row], atol=1e-5) for row in large)
    some = outputs(rows=np.array([4, 7]))
    assert some.keys() == {4, 7}
    assert torch.allclose(some[7], large[7], atol=1e-5)


def test_the_ledger_counts_a_pass_as_forward_only():
    ledger = Ledger()
    outputs(ledger=ledger)
    cost = ledger.snapshot()
    assert (cost.examples_forward, cost.examples_backward) == (30, 0)
    assert cost.tokens_forward == sum(DATA["length"])


def test_predictions_come_in_row_order_and_bf16_stays_close():
    model = tiny_classifier(3).eval()
    together = predict_all(model, DATA, COLLATE, DECODE, batch_tokens=64)
    alone = [predict_all(model, DATA.select([row]), COLLATE, DECODE)[0] for row in range(30)]
    fast = predict_all(model, DATA, COLLATE, DECODE, precision="bf16")
    assert [p.label for p in together] == [p.label for p in alone]
    assert np.allclose([p.probability for p in together], [p.probability for p in alone], atol=1e-5)
    assert np.allclose([p.probability for p in together], [p.probability for p in fast], atol=0.02)


def test_lengths_and_tokens():
    assert lengths_of(DATA).tolist() == list(DATA["length"])
    assert lengths_of(DATA.remove_columns("length")).tolist() == list(DATA["length"])
    assert lengths_of([1, 2]) is None
    assert token_count({"attention_mask": torch.tensor([[1, 1, 0]])}) == 2
    assert token_count({"a_attention_mask": torch.ones(1, 2), "b_attention_mask": torch.ones(1, 3)}) == 5
    assert token_count({"input_ids": torch.zeros(2, 3)}) == 6
    assert token_count({"x": torch.zeros(4, 7)}) == 4
    assert token_count({}) == 0


@pytest.mark.parametrize("count", [0, 1, 3, 4, 9])
def test_whole_numbers_of_a_column_are_taken_in_pieces(monkeypatch, count):
    monkeypatch.setattr(forward, "_AT_ONCE", 4)
    numbers = np.arange(count) ** 3
    column = datasets.Dataset.from_dict({"length": numbers, "text": ["a"] * count}).select(range(count))["length"]
    for given in (numbers, numbers.tolist(), column):
        taken = forward.whole_numbers(given)
        assert taken.dtype == np.int64
        assert np.array_equal(taken, numbers)


@pytest.mark.parametrize(("tokens", "on_cpu"), [(1, 8), (1024, 8192), (1025, 8192), (8192, 8192), (9000, 9000)])
def test_a_pass_on_a_cpu_holds_few_tokens_at_once_but_never_less_than_training(tokens, on_cpu):
    assert forward.pass_tokens(tokens, torch.device("cpu")) == on_cpu
    assert forward.pass_tokens(tokens, torch.device("meta")) == 8 * tokens
