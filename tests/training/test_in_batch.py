"""Choosing within the batch, inside the Trainer."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
import transformers as hf
from torch import nn

from datadiet.diet.diet import Diet
from datadiet.errors import ArgumentError
from datadiet.registry import load, names
from datadiet.selectors.in_batch import dro_weights
from datadiet.selectors.q_tuning import QTuning
from datadiet.tasks.heads import Heads
from datadiet.training.in_batch import JUDGED_AFTER, BatchChooser, gradient_gram, part_of
from datadiet.types import HeadSignals, Signals
from toys import scores_of, toy_trainer, weights

N = 48


def trained(folder, select, resume=None, **options):
    values = options.pop("values", None)
    diet = Diet(select=select, keep=0.5, **options.pop("diet", {}))
    settings = {"num_train_epochs": 3, "per_device_train_batch_size": 8, **options}
    trainer = toy_trainer(folder, diet, n=N, extra={"values": values}, **settings)
    trainer.train(resume_from_checkpoint=resume)
    return trainer


@pytest.mark.parametrize("select", [name for name in names("in_batch") if load("in_batch", name).chooses])
def test_a_part_of_every_batch_is_trained_on_after_the_warm_up(tmp_path, select):
    values = np.zeros(N, np.float32) if select == "top_reducible" else None
    trainer = trained(tmp_path, select, values=values)
    cost = trainer.ledger.snapshot()
    assert trainer.state.global_step == 18  # the steps of full training
    assert N < cost.examples_backward < 3 * N
    assert cost.examples_forward > cost.examples_backward
    assert cost.score_s > 0
    seen = scores_of(tmp_path).groupby("epoch").size()
    assert seen[0] == N
    assert seen[1] < N


def test_the_share_of_the_batch(tmp_path):
    cost = trained(tmp_path, "divbs").ledger.snapshot()
    assert cost.examples_backward == N + 2 * N // 2
    assert cost.examples_forward == N + 2 * (N + N // 2)


@pytest.mark.proves("top_reducible", by="planted")
def test_top_reducible_trains_on_what_can_be_learned(tmp_path):
    irreducible = np.where(np.arange(N) < N // 2, 100.0, 0.0).astype(np.float32)
    trained(tmp_path, "top_reducible", values=irreducible, diet={"warmup_epochs": 0})
    history = scores_of(tmp_path)
    assert (history[history["epoch"] == 0]["row"] >= N // 2).mean() > 0.8  # every batch has about as many of each kind


@pytest.mark.cpu
@pytest.mark.proves("ir_dro", by="definition")
def test_weights_of_the_batch_at_hand_need_no_pass_of_their_own(tmp_path):
    """A step after the warm-up beside one whose losses are weighed by hand, from their own values."""
    settings = {"optim": "sgd", "max_grad_norm": 0.0, "lr_scheduler_type": "constant", "learning_rate": 0.5}
    settings |= {"num_train_epochs": 1, "per_device_train_batch_size": N}
    trainer = trained(tmp_path, "ir_dro(temperature=0.05, least=0.2)", diet={"warmup_epochs": 0}, **settings)
    cost = trainer.ledger.snapshot()
    assert (cost.examples_forward, cost.examples_backward, cost.score_s) == (N, N, 0)
    plain = toy_trainer(tmp_path / "by-hand", None, kind=hf.Trainer, n=N)
    batch = plain.data_collator([plain.train_dataset[row] for row in range(N)])
    model = plain.model.train()
    losses = nn.functional.cross_entropy(model(**batch).logits, batch["labels"], reduction="none")
    factors = torch.from_numpy(dro_weights(losses.detach().numpy(), 0.05, 0.2)).float()
    assert factors.max() > 1.2
    (losses * factors).mean().backward()
    torch.optim.SGD(model.parameters(), lr=0.5).step()
    torch.testing.assert_close(weights(trainer.model), weights(model), rtol=1e-4, atol=1e-6)


def test_irreducible_losses_are_asked_for_before_training(tmp_path):
    with pytest.raises(ArgumentError, match="needs irreducible losses"):
        trained(tmp_path, "top_reducible")


@pytest.mark.cpu
@pytest.mark.parametrize("select", ["selective_backprop", "ir_dro(ema=0.3)", "mid_rank(ema=0.3)"])
def test_resuming_is_bit_identical(select, tmp_path):
    whole = trained(tmp_path, select, save_strategy="steps", save_steps=4)
    resumed = trained(tmp_path / "resumed", select, resume=str(tmp_path / "checkpoint-12"))
    assert torch.equal(weights(resumed.model), weights(whole.model))


@pytest.mark.cpu
def test_baselines_are_the_running_means_of_the_losses_that_trained(tmp_path):
    trainer = trained(tmp_path, "ir_dro(ema=0.3)", learning_rate=1e-2, diet={"warmup_epochs": 1})
    table = scores_of(tmp_path)
    table = table[table["source"] == "train"].pivot(index="row", columns="epoch", values="loss")
    expected = 0.7 * table[1] + 0.3 * table[2]  # epoch 0 is the warm-up
    means = trainer._batch_chooser.state()[0]["means"]
    np.testing.assert_allclose(means, expected, rtol=1e-6)


def test_scoring_that_costs_more_than_it_saves_is_said_and_with_a_gate_turned_off(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("datadiet.training.steps.JUDGED_AFTER", 4)
    monkeypatch.setattr("datadiet.training.in_batch.JUDGED_AFTER", 4)
    # half of a batch is chosen, and the pass that chooses is made to take long
    real = BatchChooser._batch_signals
    monkeypatch.setattr(BatchChooser, "_batch_signals", lambda *given: (time.sleep(0.05), real(*given))[1])
    on = trained(tmp_path / "on", "q_tuning")
    assert "It saves no time here." in caplog.text
    assert on.ledger.snapshot().examples_forward == N + 2 * (N + N // 2)
    caplog.clear()
    off = trained(tmp_path / "off", "q_tuning(gate=true)", save_strategy="epoch")
    assert "Scoring is off from here on" in caplog.text
    # scored are the first four batches of eight, and half of them trains
    assert off.ledger.snapshot().examples_backward == 3 * N - 4 * 4
    assert off.ledger.snapshot().examples_forward == 3 * N - 4 * 4 + 4 * 8
    again = trained(tmp_path / "again", "q_tuning(gate=true)", resume=str(tmp_path / "off" / "checkpoint-12"))
    assert torch.equal(weights(again.model), weights(off.model))


def test_the_gate_goes_by_time_and_judges_once():
    chooser = BatchChooser(QTuning(gate=True), seed=0)
    assert chooser.judge(0.0, 9.0, 5.0, JUDGED_AFTER) == ""  # no warm-up to compare with
    assert chooser.judge(1.0, 9.0, 5.0, JUDGED_AFTER - 1) == ""  # too early
    assert chooser.judge(1.0, 0.9, 0.5, JUDGED_AFTER) == ""  # it saves
    assert chooser.judge(1.0, 9.0, 5.0, JUDGED_AFTER) == ""  # judged already
    assert not chooser.off
    other = BatchChooser(QTuning(gate=True), seed=0)
    assert "takes 2.00 times as long as training on whole ones, 60% of it" in other.judge(1.0, 2.0, 1.2, JUDGED_AFTER)
    assert other.off


def test_the_gram_is_that_of_the_gradients():
    torch.manual_seed(0)
    layer = nn.Linear(5, 3)
    hidden, labels = torch.randn(4, 2, 5), torch.randint(3, (4, 2))
    mask = torch.tensor([[True, True], [True, False], [True, True], [False, True]])
    gradients = []
    for row in range(4):
        layer.zero_grad()
        losses = nn.functional.cross_entropy(layer(hidden[row]), labels[row], reduction="none")
        (losses * mask[row]).sum().backward()
        gradients.append(torch.cat([layer.weight.grad.flatten(), layer.bias.grad]))
    flat = torch.stack(gradients)
    heads = Heads({"tokens": layer})
    with heads.recording():
        logits = layer(hidden).detach()
    signals = heads.signals(Signals({"tokens": HeadSignals(logits, labels, mask)}))
    torch.testing.assert_close(gradient_gram(signals), flat @ flat.T, atol=1e-5, rtol=1e-5)


def test_a_gram_needs_the_hidden_vectors():
    signals = Signals({"label": HeadSignals(torch.zeros(2, 2), torch.zeros(2, dtype=torch.int64))})
    with pytest.raises(ArgumentError, match="last layer of 'label' is unknown"):
        gradient_gram(signals)


def test_padding_goes_with_the_examples_that_needed_it():
    mask = torch.tensor([[0, 1, 1, 1], [0, 0, 0, 1]])
    inputs = {"input_ids": torch.arange(8).reshape(2, 4), "attention_mask": mask, "labels": torch.tensor([1, 2])}
    found = part_of(inputs, torch.tensor([1]))
    assert {name: value.tolist() for name, value in found.items()} == {
        "input_ids": [[7]],
        "attention_mask": [[1]],
        "labels": [2],
    }
    assert part_of(inputs, torch.tensor([0, 1])) is inputs


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"select": "divbs", "keep": "1:0.5"}, "keep must be one share for 'divbs'"),
        ({"select": "divbs(kep=0.1)"}, "unknown option of divbs 'kep'; did you mean 'keep'"),
        ({"select": "selective_backprop(window=0)"}, "window of selective_backprop must be"),
    ],
)
def test_options_that_do_not_fit(options, message):
    with pytest.raises(ArgumentError, match=message):
        Diet(**options)


def test_what_a_decoder_reads_is_not_cut_with_the_padding_of_the_text():
    ids, mask = torch.tensor([[5, 6, 7], [8, 0, 0]]), torch.tensor([[1, 1, 1], [1, 0, 0]])
    batch = {"input_ids": ids, "attention_mask": mask, "labels": ids, "decoder_input_ids": ids}
    part = part_of(batch, torch.tensor([1]), apart=("labels",))
    assert {name: value.shape[1] for name, value in part.items()} == {
        "input_ids": 1, "attention_mask": 1, "labels": 3, "decoder_input_ids": 3
    }  # fmt: skip
    assert part_of(batch, torch.tensor([1]))["labels"].shape == (1, 1)
