"""Between the epochs of a Trainer: scoring passes, choices, costs, resuming, and a tolerance."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from itertools import chain, pairwise

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from transformers import EarlyStoppingCallback, EvalPrediction, Trainer, TrainerCallback

from datadiet.diet import tolerance
from datadiet.errors import ArgumentError, DataError
from datadiet.files import read_json, write_json
from datadiet.store.run_folder import padding_share
from datadiet.training.epochs import score_rows
from datadiet.training.trainer import DietTrainer
from datadiet.types import EpochPlan
from toys import hard_diet, plans_of, scores_of, toy_features, toy_trainer, weights

EPOCHS = 6


def trained(folder, diet, **options):
    trainer = toy_trainer(folder, diet, **options)
    trainer.train()
    return trainer


def test_a_scoring_pass_is_in_eval_mode_and_training_mode_comes_back(tmp_path):
    trainer = toy_trainer(tmp_path, hard_diet(keep=0.5, rescore="all", refresh_every=1), dropout=0.5)
    modes = []
    trainer.model.register_forward_hook(lambda module, *_: modes.append((module.training, torch.is_grad_enabled())))
    trainer.train()
    assert modes.count((True, True)) == 12 + 3 * 6
    assert set(modes) == {(True, True), (False, False)}
    (_, first), (_, second) = (score_rows(trainer.context, np.arange(48)) for _ in range(2))
    assert_array_equal(first["el2n"], second["el2n"])  # no dropout
    rows, part = score_rows(trainer.context, np.array([8, 5, 7, 6]))
    assert rows.tolist() == [5, 6, 7, 8]
    assert_allclose(part["el2n"], first["el2n"][5:9], atol=1e-5)  # any batching


@pytest.mark.proves("all", "dropped", "none")
@pytest.mark.parametrize(("rescore", "scored"), [("all", 48 * 3), ("dropped", 0 + 24 + 24), ("none", 0)])
def test_rescore_decides_what_a_refresh_costs(tmp_path, rescore, scored):
    diet = hard_diet(keep=0.5, refresh_every=1, rescore=rescore)
    assert diet.forecast(48, epochs=4, batch=4).examples_scored == scored
    cost = trained(tmp_path, diet).ledger.snapshot()
    assert cost.examples_forward - cost.examples_backward == scored
    sources = scores_of(tmp_path)["source"]
    assert ((sources == "pass").sum(), (sources == "train").sum()) == (scored, cost.examples_backward)


def test_no_pass_after_the_last_cycle(tmp_path):
    trained(tmp_path, hard_diet(keep=0.5, refresh_every=2, rescore="all"), num_train_epochs=3)
    history = scores_of(tmp_path)
    assert history[history["source"] == "pass"]["epoch"].unique().tolist() == [1]


def test_plans_are_the_hardest_rows_seen(tmp_path):
    trained(tmp_path, hard_diet(keep=0.25, refresh_every=3))
    history, plans = scores_of(tmp_path), plans_of(tmp_path)
    warm = history[history["epoch"] == 0].set_index("row")["el2n"]
    assert set(plans[1]) == set(warm.nlargest(12).index)
    assert plans[1] == plans[2]


def test_the_first_cycle_without_a_warmup_is_random(tmp_path):
    trained(tmp_path, hard_diet(keep=0.5, warmup_epochs=0, rescore="all", seed=4))
    plans, history = plans_of(tmp_path), scores_of(tmp_path)
    assert len(plans[0]) == 24
    assert plans[0] != list(range(24))
    assert history[history["source"] == "pass"]["epoch"].unique().tolist() == [2]  # nothing to score before epoch 0


def test_the_diet_is_logged_before_each_epoch_as_ordinary_metrics(tmp_path):
    trainer = trained(tmp_path, hard_diet(keep=0.5))
    logged = [entry for entry in trainer.state.log_history if "diet_kept" in entry]
    assert [(entry["diet_kept"], entry["diet_dropped"]) for entry in logged] == [(48, 0), *[(24, 24)] * 3]
    assert "diet_score_p50" not in logged[0]  # no values yet
    assert all(entry["diet_score_p10"] <= entry["diet_score_p50"] <= entry["diet_score_p90"] for entry in logged[1:])
    assert logged[-1]["diet_seconds_saved"] > logged[1]["diet_seconds_saved"]


def test_early_stopping_keeps_the_lines_it_has(tmp_path):
    def accuracy(_predictions):
        return {"accuracy": 0.5}  # never better: patience runs out

    trainer = trained(
        tmp_path, hard_diet(keep=0.5), eval_strategy="epoch", save_strategy="epoch", load_best_model_at_end=True,
        metric_for_best_model="accuracy",
        extra={"compute_metrics": accuracy, "callbacks": [EarlyStoppingCallback(1)]},
    )  # fmt: skip
    assert [(line.epoch, line.dev["accuracy"]) for line in trainer.epoch_results] == [(0, 0.5), (1, 0.5)]
    assert sorted(scores_of(tmp_path)["epoch"].unique()) == [0, 1]


def test_the_accounts_add_up_to_the_total(tmp_path):
    diet = hard_diet(keep=0.5, rescore="all", refresh_every=1)
    trainer = trained(tmp_path, diet, eval_strategy="epoch", save_strategy="epoch")
    cost = trainer.ledger.snapshot()
    parts = (cost.load_s, cost.train_s, cost.score_s, cost.select_s, cost.eval_s, cost.save_s)
    assert sum(parts) == pytest.approx(cost.total_s)
    assert min(parts) > 0
    assert cost.finetune_s == pytest.approx(cost.train_s + cost.score_s + cost.select_s)
    lengths = np.array(toy_features()["length"])
    rows = np.concatenate(list(plans_of(tmp_path).values()))
    assert cost.tokens_backward == lengths[rows].sum()
    assert cost.tokens_forward == cost.tokens_backward + 3 * lengths.sum()
    assert sum(line.seconds for line in trainer.epoch_results) <= cost.train_s
    assert all(line.score_s > 0 for line in trainer.epoch_results[1:])


# ---- resume


@pytest.mark.cpu
@pytest.mark.parametrize(
    ("step", "rescore", "max_steps"),
    [
        # inside the warm-up, at its end, inside a cycle, at an epoch's end
        *((step, rescore, -1) for step, rescore in ((7, "none"), (12, "all"), (15, "all"), (18, "none"))),
        *(
            pytest.param(step, rescore, -1, marks=pytest.mark.soak)
            for step, rescore in ((7, "all"), (12, "none"), (15, "none"), (18, "all"))
        ),
        (15, "none", 28),
        (26, "all", 28),  # inside the epoch that is cut
    ],
)
def test_resume_is_bit_identical(tmp_path, step, rescore, max_steps):
    def build(name):
        diet = hard_diet(keep=0.5, refresh_every=1, history="ema", rescore=rescore)
        options = {"save_strategy": "steps", "save_steps": 1, "max_steps": max_steps}
        return toy_trainer(tmp_path / name, diet, dropout=0.1, **options)

    whole = build("whole")
    whole.train()
    for part in ("scores", "plans"):  # the killed run's folder, parts written after the checkpoint included
        shutil.copytree(tmp_path / "whole" / part, tmp_path / "resumed" / part)
    resumed = build("resumed")
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / f"checkpoint-{step}"))
    assert torch.equal(weights(resumed.model), weights(whole.model))
    assert resumed.state.global_step == whole.state.global_step
    assert plans_of(tmp_path / "resumed") == plans_of(tmp_path / "whole")
    assert resumed.diet.history.to_pandas().equals(whole.diet.history.to_pandas())
    lines = [[(e.epoch, e.kept, e.steps, e.tokens) for e in trainer.epoch_results] for trainer in (resumed, whole)]
    assert lines[0] == lines[1]
    assert [e.train_loss for e in resumed.epoch_results] == pytest.approx([e.train_loss for e in whole.epoch_results])
    assert resumed.ledger.snapshot().tokens_backward == whole.ledger.snapshot().tokens_backward


@pytest.mark.cpu
def test_resume_true_takes_the_last_complete_checkpoint(tmp_path):
    with pytest.raises(ArgumentError, match="no complete checkpoint to resume from"):
        toy_trainer(tmp_path, hard_diet()).train(resume_from_checkpoint=True)
    first = trained(tmp_path, hard_diet(), save_strategy="steps", save_steps=14)
    for step in (28, 30):  # as a kill leaves them
        (tmp_path / f"checkpoint-{step}" / "diet_state.json").unlink()
    again = toy_trainer(tmp_path, hard_diet())
    again.train(resume_from_checkpoint=True)
    assert torch.equal(weights(first.model), weights(again.model))
    assert again.seen.losses == first.seen.losses[14:]


def test_resume_refuses_other_checkpoints(tmp_path):
    toy_trainer(tmp_path / "plain", kind=Trainer, save_strategy="steps", save_steps=6).train()
    with pytest.raises(ArgumentError, match="holds no diet state"):
        toy_trainer(tmp_path / "new", hard_diet()).train(str(tmp_path / "plain" / "checkpoint-6"))
    trained(tmp_path, hard_diet(), save_strategy="steps", save_steps=14)
    with pytest.raises(ArgumentError, match=r"number of training rows must be 48, as in .*, got 40"):
        toy_trainer(tmp_path, hard_diet(), n=40).train(str(tmp_path / "checkpoint-14"))


@pytest.mark.cpu
def test_a_damaged_checkpoint_is_refused_by_name_and_passed_over(tmp_path, caplog):
    first = trained(tmp_path, hard_diet(), save_strategy="steps", save_steps=14)
    content = bytearray((tmp_path / "checkpoint-28" / "optimizer.pt").read_bytes())
    content[500] ^= 1
    (tmp_path / "checkpoint-28" / "optimizer.pt").write_bytes(content)
    shutil.rmtree(tmp_path / "checkpoint-30")
    message = r"checkpoint-28/optimizer\.pt is damaged .*; resume from .*checkpoint-14 instead"
    with pytest.raises(DataError, match=message):
        toy_trainer(tmp_path, hard_diet()).train(str(tmp_path / "checkpoint-28"))
    again = toy_trainer(tmp_path, hard_diet())
    again.train(resume_from_checkpoint=True)
    assert "going on from" in caplog.text
    assert torch.equal(weights(first.model), weights(again.model))
    (tmp_path / "scores" / "_manifest.json").unlink()
    with pytest.raises(DataError, match="scores holds no finished table: _manifest"):
        toy_trainer(tmp_path, hard_diet()).train(str(tmp_path / "checkpoint-14"))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A finished run of 12 + 6 + 6 + 6 steps of 4 rows, with a checkpoint in the middle of its second epoch."""
    folder = tmp_path_factory.mktemp("saved")
    trainer = toy_trainer(folder, hard_diet(refresh_every=1), save_strategy="steps", save_steps=15)
    trainer.train()
    return folder, trainer


@pytest.mark.parametrize(
    ("diet", "options", "message"),
    [
        ({"keep": 0.25}, {}, r"keep must be 0\.5, as in the run that is resumed, got 0\.25"),
        ({"warmup_epochs": 2}, {}, "warmup_epochs must be 1, as .*, got 2"),
        ({"refresh_every": 2}, {}, "refresh_every must be 1, as .*, got 2"),
        ({"anneal_epochs": 1}, {}, "anneal_epochs must be 0, as .*, got 1"),
        ({"select": "random"}, {}, "select must be 'hardest', as .*, got 'random'"),
        ({"select": "auto"}, {}, "select must be 'hardest', as .*, got 'auto'"),
        ({"select": "window", "offset": 0.1}, {}, "offset must be 'auto', as .*, got 0.1"),
        ({"offset": 0.0}, {}, "offset must be 'auto', as .*, got 0.0"),
        ({"score": "margin"}, {}, "score must be 'el2n', as .*, got 'margin'"),
        ({"history": "ema"}, {}, "history must be 'last', as .*, got 'ema'"),
        ({"rescore": "all"}, {}, "rescore must be 'none', as .*, got 'all'"),
        ({"floor": 1}, {}, "floor must be 0, as .*, got 1"),
        ({"seed": 5}, {}, "seed must be 0, as .*, got 5"),
        ({"keep": 1.0}, {}, r"keep must be 0\.5, as .*, got 1\.0"),
        ({}, {"seed": 4}, r"the order \(data_seed, or seed\) must be 3, as .*, got 4"),
        ({}, {"per_device_train_batch_size": 8}, "accumulation_steps x processes must be 4, as .*, got 8"),
        ({}, {"gradient_accumulation_steps": 2}, "accumulation_steps x processes must be 4, as .*, got 8"),
        ({}, {"train_sampling_strategy": "sequential"}, "train_sampling_strategy must be 'random', as .*, got 'seq"),
    ],
)
def test_what_a_state_depends_on_may_not_change(saved, diet, options, message):
    folder, _ = saved
    trainer = toy_trainer(folder, hard_diet(**{"refresh_every": 1, **diet}), **options)
    with pytest.raises(ArgumentError, match=message):
        trainer.train(str(folder / "checkpoint-15"))


def test_other_rows_of_the_same_number_are_refused(saved):
    folder, _ = saved
    trainer = toy_trainer(folder, hard_diet(refresh_every=1))
    trainer.train_dataset = trainer.train_dataset.select(range(47, -1, -1))
    with pytest.raises(ArgumentError, match="checksum of the training data must be"):
        trainer.train(str(folder / "checkpoint-15"))


def test_epochs_that_have_begun_may_not_become_others(saved, tmp_path):
    """The third epoch was the first of two on everything at the end."""
    folder, _ = saved
    with pytest.raises(ArgumentError, match="epochs must be at least 4, which have begun in the run that is resumed, "):
        toy_trainer(folder, hard_diet(refresh_every=1), num_train_epochs=3).train(str(folder / "checkpoint-30"))
    trained(tmp_path, hard_diet(anneal_epochs=2), save_strategy="steps", save_steps=24)
    with pytest.raises(ArgumentError, match=r"epochs must be 4, .* got 6: the first 3 epochs would have been others"):
        toy_trainer(tmp_path, hard_diet(anneal_epochs=2), num_train_epochs=6).train(str(tmp_path / "checkpoint-24"))


def test_more_epochs_go_on(saved, tmp_path):
    folder = shutil.copytree(saved[0], tmp_path / "more")
    more = toy_trainer(folder, hard_diet(refresh_every=1), num_train_epochs=6)
    more.train(str(folder / "checkpoint-15"))
    assert [line.steps for line in more.epoch_results] == [12, 6, 6, 6, 6, 6]
    assert plans_of(folder)[1] == plans_of(saved[0])[1]
    assert len(more.seen.losses) == 42 - 15
    assert more.lr_scheduler.get_last_lr()[0] == 0.0 < more.seen.rates[14]


@pytest.mark.cpu
def test_another_batch_with_the_same_product_goes_on(saved, tmp_path):
    folder = shutil.copytree(saved[0], tmp_path / "halves")
    options = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}
    halves = toy_trainer(folder, hard_diet(refresh_every=1), **options)
    seen = rows_of_batches(halves)
    halves.train(str(folder / "checkpoint-15"))
    assert [line.steps for line in halves.epoch_results] == [12, 6, 6, 6]
    assert plans_of(folder)[1] == plans_of(saved[0])[1]
    order = saved[1].sampler.order(EpochPlan(1, np.array(plans_of(folder)[1]), full=False))
    assert list(chain(*seen[:6])) == order[12:].tolist()
    assert [e.train_loss for e in halves.epoch_results] == pytest.approx(
        [e.train_loss for e in saved[1].epoch_results], rel=0.05
    )


def test_weights_that_are_not_finite_are_no_finished_run(tmp_path):
    class Diverging(DietTrainer):
        def training_step(self, model, *args, **kwargs):
            loss = super().training_step(model, *args, **kwargs)
            if self.state.global_step == self.state.max_steps - 1:  # after the last forward pass
                next(model.parameters()).grad.fill_(float("nan"))
            return loss

    trainer = toy_trainer(tmp_path, hard_diet(), kind=Diverging, num_train_epochs=2, max_grad_norm=0.0)
    with pytest.raises(DataError, match=r"the training of this run diverged: the weights .* are not finite"):
        trainer.train()
    assert not (tmp_path / "result.json").exists()


class OwnBatches(DietTrainer):
    """As the Trainer of `datadiet finetune`."""

    own_batches = True


def rows_of_batches(trainer):
    """Rows of each training batch, in order, of a trainer that has not trained yet; filled while it trains."""
    seen, observe = [], trainer.diet.observe
    trainer.diet.observe = lambda rows, *more, **named: (seen.append(rows.tolist()), observe(rows, *more, **named))
    return seen


GROUPED = {"train_sampling_strategy": "group_by_length", "n": 48}


def test_full_data_has_the_batches_of_a_diet(tmp_path):
    """The same warm-up epoch as a diet's, padded less than the Trainer's own; what trains is everything, each epoch."""
    seen, padding = {}, {}
    for name, kind, diet in (
        ("plain", DietTrainer, hard_diet(keep=1.0)),
        ("full", OwnBatches, hard_diet(keep=1.0)),
        ("diet", OwnBatches, hard_diet(keep=0.5)),
    ):
        trainer = toy_trainer(tmp_path / name, diet, kind=kind, **GROUPED)
        seen[name] = rows_of_batches(trainer)
        trainer.train()
        cost = trainer.ledger.snapshot()
        padding[name] = 1 - cost.tokens_backward / cost.tokens_padded
    assert seen["full"][:12] == seen["diet"][:12] != seen["plain"][:12]
    assert all(sorted(chain(*seen["full"][start : start + 12])) == list(range(48)) for start in range(0, 48, 12))
    assert seen["full"][:12] != seen["full"][12:24]
    assert 0 < padding["full"] < padding["plain"]


def test_positions_are_those_of_the_padded_batches(tmp_path):
    trainer = toy_trainer(tmp_path, hard_diet(keep=0.5), kind=OwnBatches, **GROUPED)
    seen = rows_of_batches(trainer)
    trainer.train()
    lengths = np.array(toy_features()["length"])
    assert trainer.ledger.snapshot().tokens_padded == sum(len(rows) * lengths[rows].max() for rows in seen)


@pytest.mark.cpu
@pytest.mark.parametrize("max_steps", [-1, pytest.param(30, marks=pytest.mark.soak)])
@pytest.mark.parametrize("step", [7, 12, 25])  # inside an epoch, at the end of one, inside a later one
def test_full_data_in_our_batches_resumes_bit_identically(tmp_path, step, max_steps):
    def build(name):
        options = {"dropout": 0.1, "save_strategy": "steps", "save_steps": 1, "max_steps": max_steps, **GROUPED}
        return toy_trainer(tmp_path / name, hard_diet(keep=1.0), kind=OwnBatches, **options)

    whole, resumed = build("whole"), build("resumed")
    seen = rows_of_batches(whole), rows_of_batches(resumed)
    whole.train()
    shutil.copytree(tmp_path / "whole" / "scores", tmp_path / "resumed" / "scores")
    shutil.copytree(tmp_path / "whole" / "plans", tmp_path / "resumed" / "plans")
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / f"checkpoint-{step}"))
    assert seen[1] == seen[0][step:]
    assert torch.equal(weights(resumed.model), weights(whole.model))
    assert whole.state.global_step == resumed.state.global_step == (48 if max_steps < 0 else max_steps)
    assert whole.lr_scheduler.get_last_lr()[0] == resumed.lr_scheduler.get_last_lr()[0] == 0.0
    counts = [(cost.tokens_backward, cost.tokens_padded) for cost in (t.ledger.snapshot() for t in (whole, resumed))]
    assert counts[0] == counts[1]


def test_a_checkpoint_from_before_positions_were_counted_goes_on(tmp_path):
    first = trained(tmp_path, hard_diet(), save_strategy="steps", save_steps=14)
    state = tmp_path / "checkpoint-14" / "diet_state.json"
    numbers = read_json(state, "state")
    del numbers["run_so_far"]["cost"]["tokens_padded"]
    write_json(state, numbers)
    again = toy_trainer(tmp_path, hard_diet())
    again.train(resume_from_checkpoint=str(state.parent))
    mine, whole = again.ledger.snapshot(), first.ledger.snapshot()
    assert mine.tokens_backward == whole.tokens_backward
    assert padding_share(asdict(mine)) is None  # a part of the positions is no share
    assert padding_share(asdict(whole)) is not None


# ---- a tolerance: counts decided during training, the learning rate, a way back, an end


def tolerant(folder, accuracies=None, *, diet=None, **changes):
    """A trainer with a tolerance; dev accuracies after each epoch as given, else the model's own."""
    values = iter(accuracies or ())

    def compute_metrics(predictions: EvalPrediction):
        own = float((np.argmax(predictions.predictions, -1) == predictions.label_ids).mean())
        return {"accuracy": next(values, own)}

    settings = {"eval_strategy": "epoch", "metric_for_best_model": "accuracy", "num_train_epochs": EPOCHS, **changes}
    extra = {"compute_metrics": compute_metrics}
    return toy_trainer(folder, diet or hard_diet(tolerance=5.0), extra=extra, learning_rate=1e-2, **settings)


def counts(trainer):
    return [line.kept for line in trainer.epoch_results]


def test_counts_follow_the_scores_and_an_epoch_takes_the_rate_an_epoch_further(tmp_path):
    trainer = tolerant(tmp_path, [0.5] * EPOCHS, lr_scheduler_type="linear")
    trainer.train()
    kept, steps = counts(trainer), [line.steps for line in trainer.epoch_results]
    assert kept[0] == 48
    assert min(kept) < 48
    assert all(count == 48 or count % 4 == 0 for count in kept)
    assert kept == [trainer.diet.schedule.count(epoch) for epoch in range(EPOCHS)]
    assert trainer.state.global_step == sum(steps) == trainer.state.max_steps
    assert trainer.lr_scheduler.get_last_lr()[0] == 0.0
    rates = trainer.seen.rates
    assert all(before >= after for before, after in pairwise(rates))
    # the rate logged at a step is the one it was made with
    starts = np.cumsum([0, *steps])[:-1]
    assert [rates[start] for start in starts] == pytest.approx([1e-2 * (1 - n / EPOCHS) for n in range(EPOCHS)])


def test_when_the_dev_metric_falls_everything_trains_again(tmp_path):
    trainer = tolerant(tmp_path, [0.9, 0.9, 0.2, 0.9, 0.9, 0.9])
    trainer.train()
    assert counts(trainer)[3] == 48
    assert trainer.diet.tolerance_controller.summary()["decisions"][2] == {"epoch": 3, "kept": 48, "reason": "guard"}


def test_training_ends_when_nothing_is_left_to_learn(tmp_path, monkeypatch):
    monkeypatch.setattr(tolerance, "LEARNED", 1.0)
    trainer = tolerant(tmp_path, [0.9] * EPOCHS, lr_scheduler_type="linear")
    trainer.train()
    assert [line.epoch for line in trainer.epoch_results] == [0, 1]
    assert trainer.state.global_step == trainer.diet.schedule.total_steps
    assert trainer.lr_scheduler.get_last_lr()[0] == 0.0
    assert trainer.epoch_results[-1].dev["accuracy"] == 0.9  # evaluated before it stops


@pytest.mark.cpu
def test_a_resumed_run_decides_as_an_uninterrupted_one(tmp_path):
    settings = {"save_strategy": "steps", "save_steps": 1, "lr_scheduler_type": "cosine"}
    whole = tolerant(tmp_path / "whole", **settings)
    whole.train()
    for step in (12, 20, 27, 30):
        resumed = tolerant(tmp_path / str(step), **settings)
        assert step < whole.state.global_step
        resumed.train(str(tmp_path / "whole" / f"checkpoint-{step}"))
        assert counts(resumed) == counts(whole)
        assert resumed.diet.tolerance_controller.policy == whole.diet.tolerance_controller.policy
        assert resumed.seen.rates == whole.seen.rates[step:]
        assert resumed.seen.losses == whole.seen.losses[step:]


def test_a_diet_that_is_used_twice_starts_anew(tmp_path):
    diet = hard_diet(tolerance=5.0)
    for name in ("one", "two"):
        tolerant(tmp_path / name, [0.5] * EPOCHS, diet=diet).train()
        assert len(diet.tolerance_controller.policy.judgements) == EPOCHS


def test_a_rate_that_is_no_function_of_the_step_is_refused(tmp_path):
    with pytest.raises(ArgumentError, match="ReduceLROnPlateau"):
        tolerant(tmp_path, [0.5] * EPOCHS, lr_scheduler_type="reduce_lr_on_plateau").train()


# ---- evaluations


def test_every_dev_split_keeps_its_metrics_and_other_data_are_not_the_epochs(tmp_path):
    class Looking(TrainerCallback):
        def on_epoch_begin(self, *args, **kwargs):
            trainer.evaluate(toy_features(8, seed=5))
            trainer.evaluate(trainer.train_dataset, metric_key_prefix="train")

    splits = {"near": toy_features(8, seed=3), "far": toy_features(8, seed=4)}
    options = {"eval_dataset": splits, "callbacks": [Looking()]}
    trainer = toy_trainer(tmp_path, hard_diet(keep=0.5), eval_strategy="steps", eval_steps=3, extra=options)
    trainer.train()
    lines = json.loads((tmp_path / "result.json").read_text())["epochs"]
    assert [line["dev"] for line in lines] == [dict(line.dev) for line in trainer.epoch_results]
    logged = [entry for entry in trainer.state.log_history if "eval_far_loss" in entry]
    for line, entry in zip(lines, logged[3::2], strict=True):  # after steps 12, 18, 24, 30
        assert line["dev"]["far_loss"] == entry["eval_far_loss"]
        assert {name for name in line["dev"] if name.endswith("loss")} == {"near_loss", "far_loss"}
    before = trainer.epoch_results
    trainer.evaluate()
    trainer.evaluate(toy_features(8, seed=6))
    assert trainer.epoch_results == before
