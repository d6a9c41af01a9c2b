"""The training rules, each as a test."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from transformers import EarlyStoppingCallback, Trainer

from datadiet.diet.diet import Diet
from datadiet.errors import ArgumentError
from datadiet.store.tables import read_table
from datadiet.training.epochs import score_rows
from datadiet.training.sampler import ROW_KEY
from datadiet.training.trainer import DietMixin, DietTrainer
from datadiet.types import Selection
from toys import CLASSES, tiny_classifier, toy_features, toy_trainer, weights


def plans_of(folder):
    table = read_table(folder / "plans").to_pandas()
    return {epoch: frame["row"].to_numpy() for epoch, frame in table.groupby("epoch")}


def history_of(trainer):
    return trainer.diet.history.to_pandas()


# ---- steps and schedules


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_forecast_is_what_training_does_and_the_rate_ends_at_zero(tmp_path, schedule):
    diet = Diet(keep=0.5, refresh_every=2)
    planned = diet.forecast(48, epochs=4, batch=4)
    trainer = toy_trainer(tmp_path, diet, lr_scheduler_type=schedule)
    trainer.train()
    assert trainer.state.global_step == trainer.state.max_steps == planned.steps == 12 + 3 * 6
    assert trainer.lr_scheduler.get_last_lr()[0] == pytest.approx(0.0, abs=1e-12)
    assert trainer.state.epoch == 4.0
    assert [line.kept for line in trainer.epoch_results] == [line.kept for line in planned.epochs] == [48, 24, 24, 24]
    assert [line.steps for line in trainer.epoch_results] == [line.steps for line in planned.epochs]
    cost = trainer.ledger.snapshot()
    assert cost.examples_backward == cost.examples_forward == planned.examples_backward == 120


def test_the_longest_epoch_may_come_last(tmp_path):
    diet = Diet(keep=0.25, warmup_epochs=0, refresh_every=1, anneal_epochs=1)
    trainer = toy_trainer(tmp_path, diet)
    trainer.train()
    assert [line.kept for line in trainer.epoch_results] == [12, 12, 12, 48]
    assert trainer.state.global_step == 3 * 3 + 12


def test_what_the_diet_does_is_logged_before_each_epoch_as_ordinary_metrics(tmp_path):
    trainer = toy_trainer(tmp_path, Diet(keep=0.5), num_train_epochs=4)
    trainer.train()
    logged = [entry for entry in trainer.state.log_history if "diet_kept" in entry]
    assert [entry["diet_kept"] for entry in logged] == [48, 24, 24, 24]
    assert [entry["diet_dropped"] for entry in logged] == [0, 24, 24, 24]
    assert "diet_score_p50" not in logged[0]  # nothing has been seen
    assert all(entry["diet_score_p10"] <= entry["diet_score_p50"] <= entry["diet_score_p90"] for entry in logged[1:])
    assert logged[-1]["diet_seconds_saved"] > logged[1]["diet_seconds_saved"]
    full = toy_trainer(tmp_path / "full", Diet(keep=1.0), num_train_epochs=2)
    full.train()
    assert not [entry for entry in full.state.log_history if "diet_kept" in entry]


def test_accumulation_leaves_no_gradient_behind(tmp_path):
    diet = Diet(keep=0.55, refresh_every=1)
    left = []

    class Watching(DietTrainer):
        def end_epoch(self):
            left.append(any(p.grad is not None and bool(p.grad.abs().sum()) for p in self.model.parameters()))
            super().end_epoch()

    trainer = toy_trainer(tmp_path, diet, kind=Watching, gradient_accumulation_steps=3)
    trainer.train()
    assert trainer.state.global_step == 4 + 3 * 2  # 0.55 * 48 = 26.4, down to a multiple of 12
    assert left == [False] * 4


def test_accumulated_batches_give_the_step_of_one_large_batch(tmp_path):
    trained = []
    for name, batch, accumulation in (("large", 8, 1), ("small", 2, 4)):
        trainer = toy_trainer(
            tmp_path / name, Diet(keep=0.5, refresh_every=1), max_grad_norm=0.0,
            per_device_train_batch_size=batch, gradient_accumulation_steps=accumulation, num_train_epochs=3,
            optim="sgd",  # Adam turns a gradient that is zero up to rounding into a full step
        )  # fmt: skip
        trainer.train()
        trained.append((weights(trainer.model), plans_of(tmp_path / name)))
    assert torch.allclose(trained[0][0], trained[1][0], atol=2e-5)
    assert all(np.array_equal(trained[0][1][epoch], trained[1][1][epoch]) for epoch in range(3))


# ---- keep = 1


@pytest.mark.parametrize("strategy", ["random", "group_by_length"])
def test_keep_one_is_bit_identical_to_the_plain_trainer(tmp_path, strategy):
    options = {"train_sampling_strategy": strategy, "num_train_epochs": 2, "dropout": 0.1, "n": 45}
    plain = toy_trainer(tmp_path / "plain", kind=Trainer, **options)
    plain.train()
    full = toy_trainer(tmp_path / "full", Diet(keep=1.0), **options)  # after: a new Trainer sets the global seeds
    full.train()
    assert full.seen.losses == plain.seen.losses
    assert torch.equal(weights(full.model), weights(plain.model))
    assert len(history_of(full)) == 2 * 45  # the history is kept all the same


# ---- values


def test_rows_never_reach_the_model_and_values_belong_to_their_rows(tmp_path):
    """The loader fetches ahead: with values credited to the batch fetched last, they would be of other rows."""
    seen = []

    class Watching(DietTrainer):
        def compute_loss(self, model, inputs, **kwargs):
            seen.append((inputs[ROW_KEY].clone(), inputs["input_ids"].clone()))
            return super().compute_loss(model, inputs, **kwargs)

    model = tiny_classifier(CLASSES)
    model.register_forward_pre_hook(
        lambda _m, _a, kwargs: pytest.fail("row") if ROW_KEY in kwargs else None, with_kwargs=True
    )
    # a learning rate of 0 keeps the values of the training forward those of the start
    trainer = toy_trainer(
        tmp_path, Diet(keep=0.5), kind=Watching, model=model, learning_rate=0.0, gradient_accumulation_steps=2
    )
    trainer.train()
    data = toy_features()
    for rows, ids in seen:
        for row, tokens in zip(rows.tolist(), ids.tolist(), strict=True):
            assert tokens[: data[row]["length"]] == data[row]["input_ids"]
    _, expected = score_rows(trainer.context, np.arange(48))
    history = history_of(trainer)
    assert np.allclose(history["el2n"], expected["el2n"][history["row"]], atol=1e-5)
    assert np.allclose(history["loss"], expected["loss"][history["row"]], atol=1e-5)


def test_scoring_pass_is_in_eval_mode_and_training_mode_comes_back(tmp_path):
    trainer = toy_trainer(tmp_path, Diet(keep=0.5, rescore="all", refresh_every=1), dropout=0.5)
    modes = []
    trainer.model.register_forward_hook(lambda module, *_: modes.append((module.training, torch.is_grad_enabled())))
    trainer.train()
    assert modes.count((True, True)) == 12 + 3 * 6
    passes = [mode for mode in modes if not mode[0]]
    assert passes
    assert set(passes) == {(False, False)}
    first, second = score_rows(trainer.context, np.arange(48))[1], score_rows(trainer.context, np.arange(48))[1]
    assert np.array_equal(first["el2n"], second["el2n"])  # no dropout
    assert np.allclose(score_rows(trainer.context, np.arange(5, 9))[1]["el2n"], first["el2n"][5:9], atol=1e-5)  # any batching


@pytest.mark.parametrize(
    ("rescore", "scored"),
    [("all", 48 * 3), ("dropped", 0 + 24 + 24), ("none", 0)],
)
def test_rescore_decides_what_a_refresh_costs(tmp_path, rescore, scored):
    diet = Diet(keep=0.5, refresh_every=1, rescore=rescore)
    assert diet.forecast(48, epochs=4, batch=4).examples_scored == scored
    trainer = toy_trainer(tmp_path, diet)
    trainer.train()
    cost = trainer.ledger.snapshot()
    assert cost.examples_forward - cost.examples_backward == scored
    history = history_of(trainer)
    assert (history["source"] == "pass").sum() == scored
    assert (history["source"] == "train").sum() == cost.examples_backward


def test_no_pass_after_the_last_cycle(tmp_path):
    trainer = toy_trainer(tmp_path, Diet(keep=0.5, refresh_every=2, rescore="all"), num_train_epochs=3)
    trainer.train()
    history = history_of(trainer)
    assert sorted(history[history["source"] == "pass"]["epoch"].unique()) == [1]


def test_plans_are_the_hardest_of_what_was_seen(tmp_path):
    trainer = toy_trainer(tmp_path, Diet(keep=0.25, refresh_every=3))
    trainer.train()
    history, plans = history_of(trainer), plans_of(tmp_path)
    warm = history[history["epoch"] == 0].set_index("row")["el2n"]
    assert set(plans[1]) == set(warm.nlargest(12).index)
    assert np.array_equal(plans[1], plans[2])


def test_first_cycle_without_a_warmup_is_random(tmp_path):
    trainer = toy_trainer(tmp_path, Diet(keep=0.5, warmup_epochs=0, rescore="all", seed=4))
    trainer.train()
    plans, history = plans_of(tmp_path), history_of(trainer)
    assert len(plans[0]) == 24
    assert not np.array_equal(plans[0], np.arange(24))
    assert history[history["source"] == "pass"]["epoch"].unique().tolist() == [2]  # nothing to score before epoch 0


# ---- resume


@pytest.mark.parametrize("rescore", ["none", "all"])
@pytest.mark.parametrize("step", [7, 12, 15, 18])  # inside the warm-up, at its end, inside a cycle, at an epoch's end
def test_resume_is_bit_identical(tmp_path, step, rescore):
    def build(name):
        diet = Diet(keep=0.5, refresh_every=1, history="ema", rescore=rescore)
        return toy_trainer(tmp_path / name, diet, dropout=0.1, save_strategy="steps", save_steps=1)

    whole = build("whole")
    whole.train()
    resumed = build("resumed")
    (tmp_path / "resumed" / "scores").mkdir(parents=True)
    for part in ("scores", "plans"):  # the killed run's folder, parts written after the checkpoint included
        for file in (tmp_path / "whole" / part).iterdir():
            target = tmp_path / "resumed" / part / file.name
            target.parent.mkdir(exist_ok=True)
            target.write_bytes(file.read_bytes())
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / f"checkpoint-{step}"))
    assert torch.equal(weights(resumed.model), weights(whole.model))
    assert resumed.state.global_step == whole.state.global_step
    ours, theirs = plans_of(tmp_path / "resumed"), plans_of(tmp_path / "whole")
    assert all(np.array_equal(ours[epoch], theirs[epoch]) for epoch in range(4))
    assert history_of(resumed).equals(history_of(whole))
    assert [(e.epoch, e.kept, e.steps, e.tokens) for e in resumed.epoch_results] == [
        (e.epoch, e.kept, e.steps, e.tokens) for e in whole.epoch_results
    ]
    assert [e.train_loss for e in resumed.epoch_results] == pytest.approx([e.train_loss for e in whole.epoch_results])
    assert resumed.ledger.snapshot().tokens_backward == whole.ledger.snapshot().tokens_backward


def test_resume_true_takes_the_last_checkpoint_and_says_when_there_is_none(tmp_path):
    with pytest.raises(ArgumentError, match="no checkpoint to resume from"):
        toy_trainer(tmp_path, Diet()).train(resume_from_checkpoint=True)
    first = toy_trainer(tmp_path, Diet(), save_strategy="steps", save_steps=14)
    first.train()
    again = toy_trainer(tmp_path, Diet())
    again.train(resume_from_checkpoint=True)
    assert torch.equal(weights(first.model), weights(again.model))


def test_resume_refuses_a_checkpoint_of_another_trainer(tmp_path):
    plain = toy_trainer(tmp_path / "plain", kind=Trainer, save_strategy="steps", save_steps=6)
    plain.train()
    with pytest.raises(ArgumentError, match="holds no diet state"):
        toy_trainer(tmp_path / "new", Diet()).train(str(tmp_path / "plain" / "checkpoint-6"))


def test_resume_refuses_other_data(tmp_path):
    toy_trainer(tmp_path, Diet(), save_strategy="steps", save_steps=14).train()
    with pytest.raises(ArgumentError, match="has 48 training examples, this run 40"):
        toy_trainer(tmp_path, Diet(), n=40).train(str(tmp_path / "checkpoint-14"))


def test_no_pickle_but_the_trainers_own_state(tmp_path):
    trainer = toy_trainer(tmp_path, Diet(), save_strategy="epoch")
    trainer.train()
    trainer.save_model(str(tmp_path / "model"))
    assert not list(tmp_path.rglob("training_args.bin"))
    assert not list((tmp_path / "model").glob("*.bin"))
    numbers = json.loads(next(tmp_path.glob("checkpoint-*/diet_state.json")).read_text())
    assert numbers["run_so_far"]["cost"]["train_s"] > 0


def test_two_runs_cannot_share_a_folder(tmp_path):
    toy_trainer(tmp_path, Diet()).train()
    with pytest.raises(ValueError, match="belongs to another run"):
        toy_trainer(tmp_path, Diet()).train()


# ---- what must go on working beside a diet


def test_subclass_that_overrides_compute_loss(tmp_path):
    class Focal(Trainer):
        calls = 0

        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            Focal.calls += 1
            labels = inputs.pop("labels")
            outputs = model(**inputs)
            loss = torch.nn.functional.cross_entropy(outputs.logits, labels, reduction="none")
            loss = ((1 - torch.exp(-loss)) ** 2 * loss).mean()
            return (loss, outputs) if return_outputs else loss

    class DietFocal(DietMixin, Focal):
        pass

    plain = toy_trainer(tmp_path / "a", kind=Focal)
    plain.train()
    full = toy_trainer(tmp_path / "b", Diet(keep=1.0), kind=DietFocal)
    full.train()
    assert plain.seen.losses == full.seen.losses
    before = Focal.calls
    dieting = toy_trainer(tmp_path / "c", Diet(keep=0.5), kind=DietFocal)
    dieting.train()
    assert Focal.calls - before == dieting.state.global_step == 30
    assert set(history_of(dieting)["row"]) == set(range(48))


def test_label_smoothing(tmp_path):
    trainer = toy_trainer(tmp_path, Diet(keep=0.5), label_smoothing_factor=0.2, learning_rate=0.0)
    trainer.train()
    _, expected = score_rows(trainer.context, np.arange(48))
    history = history_of(trainer)
    assert np.allclose(history["el2n"], expected["el2n"][history["row"]], atol=1e-5)  # against the hard labels


def test_class_weights_by_loss_function(tmp_path):
    weight = torch.tensor([1.0, 5.0, 1.0])

    def weighted(outputs, labels, num_items_in_batch=None):
        loss = torch.nn.functional.cross_entropy(outputs["logits"], labels, weight=weight, reduction="sum")
        return loss / num_items_in_batch

    trainer = toy_trainer(tmp_path, Diet(keep=0.5), extra={"compute_loss_func": weighted})
    trainer.train()
    assert len(history_of(trainer)) == 120
    assert trainer.seen.losses[0] > math.log(3)  # the weights are above 1


def test_gradient_checkpointing(tmp_path):
    plain = toy_trainer(tmp_path / "plain", Diet(keep=0.5))
    saving = toy_trainer(tmp_path / "saving", Diet(keep=0.5), activation_checkpointing=True)
    plain.train()
    saving.train()
    assert np.allclose(plain.seen.losses, saving.seen.losses, atol=1e-5)


@pytest.mark.slow
def test_torch_compile(tmp_path):
    plain = toy_trainer(tmp_path / "plain", Diet(keep=0.5, rescore="all"), n=16, num_train_epochs=2)
    compiled = toy_trainer(
        tmp_path / "compiled", Diet(keep=0.5, rescore="all"), n=16, num_train_epochs=2,
        torch_compile=True, torch_compile_backend="aot_eager",
    )  # fmt: skip
    plain.train()
    compiled.train()
    assert np.allclose(plain.seen.losses, compiled.seen.losses, atol=1e-4)
    assert np.array_equal(plans_of(tmp_path / "plain")[1], plans_of(tmp_path / "compiled")[1])


def test_lora(tmp_path):
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["query", "value"])
    model = peft.get_peft_model(tiny_classifier(CLASSES), config)
    trainer = toy_trainer(tmp_path, Diet(keep=0.5, rescore="dropped"), model=model)
    trainer.train()
    assert trainer.state.global_step == 30
    assert history_of(trainer)["el2n"].between(0, math.sqrt(2)).all()


def test_early_stopping_keeps_the_lines_it_has(tmp_path):
    def accuracy(_predictions):
        return {"accuracy": 0.5}  # never better: patience runs out

    trainer = toy_trainer(
        tmp_path, Diet(keep=0.5), eval_strategy="epoch", save_strategy="epoch", load_best_model_at_end=True,
        metric_for_best_model="accuracy",
        extra={"compute_metrics": accuracy, "callbacks": [EarlyStoppingCallback(1)]},
    )  # fmt: skip
    trainer.train()
    assert [line.epoch for line in trainer.epoch_results] == [0, 1]
    assert all(line.dev["accuracy"] == 0.5 for line in trainer.epoch_results)
    assert sorted(history_of(trainer)["epoch"].unique()) == [0, 1]


# ---- the ledger


def test_the_accounts_add_up_to_the_total(tmp_path):
    trainer = toy_trainer(
        tmp_path, Diet(keep=0.5, rescore="all", refresh_every=1), eval_strategy="epoch", save_strategy="epoch"
    )
    trainer.train()
    cost = trainer.ledger.snapshot()
    parts = (cost.load_s, cost.train_s, cost.score_s, cost.select_s, cost.eval_s, cost.save_s)
    assert sum(parts) == pytest.approx(cost.total_s)
    assert min(parts) > 0
    assert cost.finetune_s == pytest.approx(cost.train_s + cost.score_s + cost.select_s)
    lengths = np.array(toy_features()["length"])
    trained = np.concatenate(list(plans_of(tmp_path).values()))
    assert cost.tokens_backward == lengths[trained].sum()
    assert cost.tokens_forward == cost.tokens_backward + 3 * lengths.sum()
    assert sum(line.seconds for line in trainer.epoch_results) <= cost.train_s
    assert all(line.score_s > 0 for line in trainer.epoch_results[1:])


# ---- what is refused


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_steps": 5}, "set num_train_epochs, not max_steps"),
        ({"num_train_epochs": 2.5}, "must be a whole number, got 2.5"),
        ({"dataloader_drop_last": True}, "dataloader_drop_last does not go"),
        ({"auto_find_batch_size": True}, "auto_find_batch_size does not go"),
    ],
)
def test_arguments_that_do_not_go_with_a_diet(tmp_path, changes, message):
    with pytest.raises(ArgumentError, match=message):
        toy_trainer(tmp_path, Diet(keep=0.5), **changes)


def test_a_keep_that_leaves_no_full_batch(tmp_path):
    with pytest.raises(ArgumentError, match="batch"):
        toy_trainer(tmp_path, Diet(keep=0.05)).train()


def test_floor_takes_the_classes_from_the_labels(tmp_path):
    trainer = toy_trainer(tmp_path, Diet(keep=0.25, floor=4))
    trainer.train()
    labels = np.array(toy_features()["labels"])
    for epoch in (1, 2, 3):
        assert np.bincount(labels[plans_of(tmp_path)[epoch]]).min() >= 4


def _doubled(values, count, *, seed, epoch, groups=None):
    return Selection(np.arange(count), np.full(count, 2, np.float32))


def _single(values, count, *, seed, epoch, groups=None):
    return Selection(np.arange(count))


@pytest.mark.parametrize("accumulation", [1, 2])
def test_weights_reach_the_gradient_under_accumulation(tmp_path, accumulation):
    """SGD: doubled losses are a doubled learning rate, whatever the accumulation."""
    options = {"optim": "sgd", "lr_scheduler_type": "constant", "max_grad_norm": 0.0}
    options |= {"gradient_accumulation_steps": accumulation, "num_train_epochs": 2}
    toy_trainer(tmp_path / "first", Diet(), num_train_epochs=2).train()
    found = []
    for name, select, rate in (("twice", _doubled, 0.1), ("rate", _single, 0.2)):
        diet = Diet(select=select, warmup_epochs=0, refresh_every=1, scores_from=tmp_path / "first")
        trainer = toy_trainer(tmp_path / name, diet, learning_rate=rate, **options)
        trainer.train()
        found.append(weights(trainer.model))
    torch.testing.assert_close(found[0], found[1], atol=1e-5, rtol=1e-4)


def test_weights_are_clipped_with_the_gradient(tmp_path):
    """A factor on every example is undone by a clip that always bites."""
    options = {"optim": "sgd", "lr_scheduler_type": "constant", "max_grad_norm": 1e-3, "num_train_epochs": 2}
    found = []
    for name, select in (("doubled", _doubled), ("once", _single)):
        trainer = toy_trainer(tmp_path / name, Diet(select=select, refresh_every=1), learning_rate=0.5, **options)
        trainer.train()
        found.append(weights(trainer.model))
    torch.testing.assert_close(found[0], found[1], atol=1e-5, rtol=1e-4)
