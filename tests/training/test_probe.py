"""Passes every few steps: what is recorded, and that nothing else changes."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from transformers import Trainer

import datadiet as dd
from datadiet.diet.diet import Diet
from datadiet.errors import ArgumentError
from datadiet.noise.probabilities import FILE, read_probabilities
from datadiet.training.probe import Probe, class_names, first_class_head, probed_rows
from datadiet.types import HeadSignals, Signals
from toys import CLASSES, hard_diet, plans_of, scores_of, tiny_classifier, toy_features, toy_trainer, weights

OPTIONS = {"learning_rate": 3e-3, "num_train_epochs": 4, "dropout": 0.1}


def probed(folder, diet=None, probe=None, **changes):
    trainer = toy_trainer(folder, diet or hard_diet(keep=0.5, refresh_every=1), **{**OPTIONS, **changes})
    trainer.add_callback(Probe(trainer, **{"every": 4, "epochs": 2, **(probe or {})}))
    return trainer


def probes_of(folder):
    frame = scores_of(folder)
    return frame[(frame["source"] == "pass") & frame["moment"].notna()]


@pytest.mark.cpu
@pytest.mark.parametrize(("keep", "rescore"), [(0.5, "all"), (1.0, "none")])
def test_training_does_not_notice(tmp_path, keep, rescore):
    """Weights, losses and choices are bit-identical with and without it, also with dropout."""
    diets = [hard_diet(keep=keep, refresh_every=1, rescore=rescore) for _ in range(2)]
    plain = toy_trainer(tmp_path / "plain", diets[0], **OPTIONS)
    plain.train()
    watched = probed(tmp_path / "watched", diets[1], {"probabilities": True})
    watched.train()
    assert watched.seen.losses == plain.seen.losses
    assert torch.equal(weights(watched.model), weights(plain.model))
    assert plans_of(tmp_path / "plain") == plans_of(tmp_path / "watched")
    assert [len(probes_of(tmp_path / name)) > 0 for name in ("plain", "watched")] == [False, True]


def test_every_pass_has_every_row_whatever_the_diet_chose_and_says_its_step(tmp_path):
    trainer = probed(tmp_path, probe={"epochs": 3})
    trainer.train()
    found = probes_of(tmp_path)
    # epoch 0: 12 steps, then 6 each; every 4 steps up to step 24
    steps = found.groupby(["epoch", "moment"]).size()
    assert steps.index.tolist() == [(0, 4.0), (0, 8.0), (0, 12.0), (1, 4.0), (2, 2.0), (2, 6.0)]
    assert (steps == 48).all()
    assert not found[["gold_probability", "margin", "el2n", "correct"]].isna().any(axis=None)
    cost = trainer.ledger.snapshot()
    assert cost.score_s > 0
    assert cost.examples_forward - cost.examples_backward == 6 * 48


def test_values_are_those_of_the_model_at_that_step(tmp_path):
    trainer = probed(tmp_path, Diet(keep=1.0), {"every": 5, "epochs": None}, num_train_epochs=1, dropout=0.0)
    seen = []

    class Watch(Probe):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step % 5 == 0:
                batch = trainer.data_collator([toy_features()[row] for row in range(48)])
                with torch.inference_mode():
                    logits = trainer.model.eval()(**batch).logits
                trainer.model.train()
                seen.append(logits.softmax(-1).gather(1, batch["labels"][:, None]).squeeze(1).numpy())

    trainer.add_callback(Watch(trainer, every=5))
    trainer.train()
    found = probes_of(tmp_path).groupby("moment")["gold_probability"].apply(np.array)
    assert found.index.tolist() == [5.0, 10.0]
    for mine, theirs in zip(found, seen, strict=True):
        assert_allclose(mine, theirs, atol=1e-6)


def test_a_share_is_the_same_rows_in_every_pass(tmp_path):
    trainer = probed(tmp_path, probe={"share": 0.25, "seed": 7})
    trainer.train()
    rows = probes_of(tmp_path).groupby(["epoch", "moment"])["row"].apply(list)
    assert all(part == probed_rows(48, 0.25, 7).tolist() for part in rows)
    assert probed_rows(48, 0.25, 8).tolist() != rows.iloc[0]
    assert probed_rows(1000, 1e-6, 0, least=2).size == 2


@pytest.mark.cpu
def test_a_resumed_run_has_the_same_history_and_probabilities(tmp_path):
    """Passes after the checkpoint are done again, not twice."""
    options = {"save_strategy": "steps", "save_steps": 7}
    whole = probed(tmp_path / "whole", probe={"probabilities": True, "epochs": None}, **options)
    whole.train()
    shutil.copytree(tmp_path / "whole", tmp_path / "cut")
    for step in (14, 21, 28):
        again = probed(tmp_path / "cut", probe={"probabilities": True, "epochs": None}, **options)
        again.train(resume_from_checkpoint=str(tmp_path / "cut" / f"checkpoint-{step}"))
        assert probes_of(tmp_path / "cut").equals(probes_of(tmp_path / "whole"))
        found, expected = (read_probabilities(tmp_path / name) for name in ("cut", "whole"))
        assert_array_equal(found.probabilities, expected.probabilities)
        assert_array_equal(found.times, expected.times)


def test_probabilities_are_the_mean_over_the_passes(tmp_path):
    trainer = probed(tmp_path, probe={"probabilities": True})
    trainer.train()
    found, passes = read_probabilities(tmp_path), probes_of(tmp_path)
    gold = passes.groupby("row")["gold_probability"].mean()
    labels = np.array(toy_features()["labels"])
    assert_array_equal(found.labels, labels)
    assert_allclose(found.probabilities[np.arange(48), labels], gold, atol=1e-6)
    assert_allclose(found.probabilities.sum(1), 1, atol=1e-5)
    assert (found.times == 4).all()
    assert found.names == tuple(f"LABEL_{number}" for number in range(CLASSES))
    assert list(found.ids) == [str(row) for row in range(48)]


def test_no_file_without_a_pass(tmp_path):
    trainer = probed(tmp_path, probe={"probabilities": True, "every": 1000})
    trainer.train()
    assert not (tmp_path / FILE).exists()


def test_planted_flips_are_found_by_cleanlab_and_by_the_dynamics_of_a_real_run(tmp_path):
    from cleanlab.filter import find_label_issues

    features = toy_features(160)
    flipped = np.zeros(160, bool)
    flipped[np.random.default_rng(0).permutation(160)[:16]] = True
    true = np.array(features["labels"])
    labels = np.where(flipped, (true + 1) % CLASSES, true)
    features = features.remove_columns("labels").add_column("labels", labels.tolist())
    trainer = toy_trainer(
        tmp_path, Diet(keep=1.0), n=8, num_train_epochs=7, learning_rate=5e-3, per_device_train_batch_size=8,
        lr_scheduler_type="constant", logging_steps=1000,
    )  # fmt: skip
    trainer.train_dataset = features
    trainer.add_callback(Probe(trainer, every=20, epochs=None, probabilities=True))
    trainer.train()
    given, pred_probs = dd.cleanlab_inputs(tmp_path)
    assert_array_equal(given, labels)
    issues = find_label_issues(given, pred_probs, n_jobs=1)
    assert (issues & flipped).sum() >= 8  # a mean over training is cautious: half of them, and hardly another
    assert (issues & ~flipped).sum() <= 2
    for source in ("train", "probe"):
        table = dd.dynamics(tmp_path, source=source).dynamics
        for values in (table.aum, table.confidence):
            assert flipped[np.argsort(values)[:16]].mean() >= 0.75


def test_bad_arguments_are_refused_together(tmp_path):
    trainer = toy_trainer(tmp_path, Diet(keep=1.0))
    with pytest.raises(
        ArgumentError, match=r"(?s)every must be a whole.*epochs must be a whole.*share must be in.*Did you mean 0.5"
    ):
        Probe(trainer, every=0, epochs=0, share=50)
    with pytest.raises(ArgumentError, match="needs a trainer with a diet"):
        Probe(toy_trainer(tmp_path / "plain", kind=Trainer))


def test_probabilities_need_a_head_with_one_class_per_example():
    regression = Signals({"label": HeadSignals(torch.zeros(2, 1), torch.zeros(2))})
    with pytest.raises(ArgumentError, match="one class per example; the heads are label"):
        first_class_head(regression)
    intent = HeadSignals(torch.zeros(2, 3), torch.zeros(2, dtype=torch.long))
    slots = HeadSignals(torch.zeros(2, 4, 5), torch.zeros(2, 4, dtype=torch.long))
    assert first_class_head(Signals({"slots": slots, "intent": intent})) is intent


def test_class_names_that_do_not_fit_become_numbers():
    assert class_names(tiny_classifier(3), 2) == ("0", "1")
    assert class_names(torch.nn.Linear(2, 2), 2) == ("0", "1")
