"""A diet inside the Trainer: steps, values, and all that must go on working beside it."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from transformers import Trainer, TrainerCallback

from datadiet.diet.choose import weighed
from datadiet.diet.diet import Diet
from datadiet.errors import ArgumentError
from datadiet.selectors.sampled import infobatch
from datadiet.store.tables import read_table
from datadiet.training.epochs import score_rows
from datadiet.training.sampler import ROW_KEY
from datadiet.training.trainer import DietMixin, DietTrainer
from datadiet.types import EpochPlan, HeadSignals, Selection, Signals
from toys import (
    CLASSES,
    TASK,
    hard_diet,
    plans_of,
    scores_of,
    tiny_classifier,
    tiny_tokenizer,
    toy_features,
    toy_trainer,
    weights,
)

SGD = {"optim": "sgd", "lr_scheduler_type": "constant", "max_grad_norm": 0.0}


def trained(folder, diet=None, **options):
    trainer = toy_trainer(folder, diet, **options)
    trainer.train()
    return trainer


def lines(trainer, *names):
    return [tuple(getattr(line, name) for name in names) for line in trainer.epoch_results]


# ---- steps and schedules


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_forecast_is_what_training_does_and_the_rate_ends_at_zero(tmp_path, schedule):
    diet = hard_diet(keep=0.5, refresh_every=2)
    planned = diet.forecast(48, epochs=4, batch=4)
    trainer = trained(tmp_path, diet, lr_scheduler_type=schedule)
    assert trainer.state.global_step == trainer.state.max_steps == planned.steps == 12 + 3 * 6
    assert trainer.lr_scheduler.get_last_lr()[0] == pytest.approx(0.0, abs=1e-12)
    assert trainer.state.epoch == 4.0
    assert lines(trainer, "kept", "steps") == [(line.kept, line.steps) for line in planned.epochs]
    assert lines(trainer, "kept") == [(48,), (24,), (24,), (24,)]
    cost = trainer.ledger.snapshot()
    assert cost.examples_backward == cost.examples_forward == planned.examples_backward == 120


def test_the_longest_epoch_may_come_last(tmp_path):
    trainer = trained(tmp_path, hard_diet(keep=0.25, warmup_epochs=0, refresh_every=1, anneal_epochs=1))
    assert lines(trainer, "kept") == [(12,), (12,), (12,), (48,)]
    assert trainer.state.global_step == 3 * 3 + 12


def test_accumulation_leaves_no_gradient_behind(tmp_path):
    left = []

    class Watching(DietTrainer):
        def end_epoch(self):
            left.append(any(p.grad is not None and bool(p.grad.abs().sum()) for p in self.model.parameters()))
            super().end_epoch()

    diet = hard_diet(keep=0.55, refresh_every=1)
    trainer = trained(tmp_path, diet, kind=Watching, gradient_accumulation_steps=3)
    assert trainer.state.global_step == 4 + 3 * 2  # 0.55 * 48 = 26.4, down to a multiple of 12
    assert left == [False] * 4


def test_accumulated_batches_give_the_step_of_one_large_batch(tmp_path):
    # SGD: Adam turns a gradient that is zero up to rounding into a full step
    options = {"max_grad_norm": 0.0, "num_train_epochs": 3, "optim": "sgd"}
    large, small = (
        trained(
            tmp_path / str(batch), hard_diet(keep=0.5, refresh_every=1), per_device_train_batch_size=batch,
            gradient_accumulation_steps=8 // batch, **options,
        )
        for batch in (8, 2)
    )  # fmt: skip
    assert torch.allclose(weights(large.model), weights(small.model), atol=2e-5)
    assert plans_of(tmp_path / "8") == plans_of(tmp_path / "2")


@pytest.mark.cpu
@pytest.mark.parametrize("strategy", ["random", "group_by_length"])
def test_keep_one_is_bit_identical_to_the_plain_trainer(tmp_path, strategy):
    options = {"train_sampling_strategy": strategy, "num_train_epochs": 2, "dropout": 0.1, "n": 45}
    plain = trained(tmp_path / "plain", kind=Trainer, **options)
    full = trained(tmp_path / "full", Diet(keep=1.0), **options)
    assert full.seen.losses == plain.seen.losses
    assert torch.equal(weights(full.model), weights(plain.model))
    assert len(scores_of(tmp_path / "full")) == 2 * 45  # the history is kept all the same
    assert not [entry for entry in full.state.log_history if "diet_kept" in entry]


# ---- values


def test_rows_never_reach_the_model_and_values_belong_to_their_rows(tmp_path):
    """The loader fetches ahead: with values credited to the batch fetched last, they would be of other rows."""
    seen = []

    class Watching(DietTrainer):
        def compute_loss(self, model, inputs, **kwargs):
            seen.append((self._steps.rows.clone(), inputs["input_ids"].clone()))
            return super().compute_loss(model, inputs, **kwargs)

    model = tiny_classifier(CLASSES)
    model.register_forward_pre_hook(
        lambda _m, _a, kwargs: pytest.fail("row") if ROW_KEY in kwargs else None, with_kwargs=True
    )
    # a learning rate of 0 keeps the values of the training forward those of the start
    options = {"kind": Watching, "model": model, "learning_rate": 0.0, "gradient_accumulation_steps": 2}
    trainer = trained(tmp_path, hard_diet(keep=0.5), **options)
    data = toy_features()
    for rows, ids in seen:
        for row, tokens in zip(rows.tolist(), ids.tolist(), strict=True):
            assert tokens[: data[row]["length"]] == data[row]["input_ids"]
    _, expected = score_rows(trainer.context, np.arange(48))
    history = scores_of(tmp_path)
    for name in ("el2n", "loss"):
        assert_allclose(history[name], expected[name][history["row"]], atol=1e-5)


def test_label_smoothing_scores_against_the_hard_labels(tmp_path):
    trainer = trained(tmp_path, hard_diet(keep=0.5), label_smoothing_factor=0.2, learning_rate=0.0)
    _, expected = score_rows(trainer.context, np.arange(48))
    history = scores_of(tmp_path)
    assert_allclose(history["el2n"], expected["el2n"][history["row"]], atol=1e-5)


@pytest.mark.parametrize("rescore", ["none", "all"])
def test_signals_of_ones_own_are_what_is_recorded(tmp_path, rescore):
    """By the trainer's argument, before the diet's."""

    def certain(outputs, batch):
        return Signals({"label": HeadSignals(30 * torch.eye(CLASSES)[batch["labels"]], batch["labels"])})

    diet = hard_diet(keep=0.5, refresh_every=1, rescore=rescore, signals=lambda *_: pytest.fail("not these"))
    trained(tmp_path, diet, extra={"signals": certain})
    history = scores_of(tmp_path)
    assert set(history["source"]) == ({"train", "pass"} if rescore == "all" else {"train"})
    assert_allclose(history["el2n"], 0, atol=1e-6)


def test_outputs_that_cannot_be_read_name_the_argument(tmp_path):
    class TwoHeads(Trainer):
        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            outputs = model(**inputs)
            return outputs.loss, {"logits": outputs.logits, "topic_logits": outputs.logits}

    class Dieting(DietMixin, TwoHeads):
        pass

    with pytest.raises(ArgumentError, match=r"several heads with logits .* cannot be told apart. Pass signals="):
        trained(tmp_path, hard_diet(), kind=Dieting)


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

    plain = trained(tmp_path / "a", kind=Focal)
    full = trained(tmp_path / "b", Diet(keep=1.0), kind=DietFocal)
    assert plain.seen.losses == full.seen.losses
    before = Focal.calls
    dieting = trained(tmp_path / "c", hard_diet(keep=0.5), kind=DietFocal)
    assert Focal.calls - before == dieting.state.global_step == 30
    assert set(scores_of(tmp_path / "c")["row"]) == set(range(48))


def test_class_weights_by_loss_function(tmp_path):
    weight = torch.tensor([1.0, 5.0, 1.0])

    def weighted(outputs, labels, num_items_in_batch=None):
        loss = torch.nn.functional.cross_entropy(outputs["logits"], labels, weight=weight, reduction="sum")
        return loss / num_items_in_batch

    trainer = trained(tmp_path, hard_diet(keep=0.5), extra={"compute_loss_func": weighted})
    assert len(scores_of(tmp_path)) == 120
    assert trainer.seen.losses[0] > math.log(3)  # the weights are above 1


def test_gradient_checkpointing(tmp_path):
    plain = trained(tmp_path / "plain", hard_diet(keep=0.5))
    saving = trained(tmp_path / "saving", hard_diet(keep=0.5), activation_checkpointing=True)
    assert_allclose(plain.seen.losses, saving.seen.losses, atol=1e-5)


@pytest.mark.soak
def test_torch_compile(tmp_path):
    options = {"n": 16, "num_train_epochs": 2}
    plain = trained(tmp_path / "plain", hard_diet(keep=0.5, rescore="all"), **options)
    options |= {"torch_compile": True, "torch_compile_backend": "aot_eager"}
    compiled = trained(tmp_path / "compiled", hard_diet(keep=0.5, rescore="all"), **options)
    assert_allclose(plain.seen.losses, compiled.seen.losses, atol=1e-4)
    assert plans_of(tmp_path / "plain")[1] == plans_of(tmp_path / "compiled")[1]


def test_lora(tmp_path):
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["query", "value"])
    model = peft.get_peft_model(tiny_classifier(CLASSES), config)
    trainer = trained(tmp_path, hard_diet(keep=0.5, rescore="dropped"), model=model)
    assert trainer.state.global_step == 30
    assert scores_of(tmp_path)["el2n"].between(0, math.sqrt(2)).all()


def test_no_pickle_but_the_trainers_own_state(tmp_path):
    trainer = trained(tmp_path, hard_diet(), save_strategy="epoch")
    trainer.save_model(str(tmp_path / "model"))
    assert not list(tmp_path.rglob("training_args.bin"))
    assert not list((tmp_path / "model").glob("*.bin"))
    numbers = json.loads(next(tmp_path.glob("checkpoint-*/diet_state.json")).read_text())
    assert numbers["run_so_far"]["cost"]["train_s"] > 0


def test_a_second_run_in_a_folder_puts_the_first_aside(tmp_path, caplog):
    trainer = trained(tmp_path, hard_diet())
    first, lines_of_first = plans_of(tmp_path), lines(trainer, "kept", "steps")
    trainer.train()  # again; then a script that runs again
    assert "result.1.json, scores.1, plans.1; overwrite=True removes it" in caplog.text
    assert lines(trainer, "kept", "steps") == lines_of_first
    trained(tmp_path, hard_diet())
    trained(tmp_path, hard_diet(), extra={"overwrite": True})
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        *("plans", "plans.1", "plans.2", "result.1.json", "result.2.json", "result.json"),
        *("scores", "scores.1", "scores.2"),
    ]
    assert json.loads((tmp_path / "result.2.json").read_text())["cost"]["examples_backward"] == 120
    (tmp_path / "old").mkdir()
    (tmp_path / "plans.1").rename(tmp_path / "old" / "plans")
    assert plans_of(tmp_path / "old") == first


def test_a_keep_that_leaves_no_full_batch(tmp_path):
    with pytest.raises(ArgumentError, match="batch"):
        trained(tmp_path, hard_diet(keep=0.05))


def test_floor_takes_the_classes_from_the_labels(tmp_path):
    trained(tmp_path, hard_diet(keep=0.25, floor=4))
    labels = np.array(toy_features()["labels"])
    assert all(np.bincount(labels[rows]).min() >= 4 for epoch, rows in plans_of(tmp_path).items() if epoch)


# ---- weights of a selector


def _doubled(values, count, *, seed, epoch, groups=None):
    return Selection(np.arange(count), np.full(count, 2, np.float32))


def _single(values, count, *, seed, epoch, groups=None):
    return Selection(np.arange(count))


@pytest.mark.parametrize("accumulation", [1, 2])
def test_weights_reach_the_gradient_under_accumulation(tmp_path, accumulation):
    """SGD: doubled losses are a doubled learning rate, whatever the accumulation."""
    trained(tmp_path / "first", hard_diet(), num_train_epochs=2)
    found = []
    for name, select, rate in (("twice", _doubled, 0.1), ("rate", _single, 0.2)):
        diet = Diet(select=select, warmup_epochs=0, refresh_every=1, scores_from=tmp_path / "first")
        options = {"learning_rate": rate, "gradient_accumulation_steps": accumulation, "num_train_epochs": 2}
        found.append(weights(trained(tmp_path / name, diet, **SGD, **options).model))
    torch.testing.assert_close(*found, atol=1e-5, rtol=1e-4)


def test_weights_are_clipped_with_the_gradient(tmp_path):
    """A factor on every example is undone by a clip that always bites."""
    options = {**SGD, "max_grad_norm": 1e-3, "num_train_epochs": 2, "learning_rate": 0.5}
    found = [
        weights(trained(tmp_path / select.__name__, Diet(select=select, refresh_every=1), **options).model)
        for select in (_doubled, _single)
    ]
    torch.testing.assert_close(*found, atol=1e-5, rtol=1e-4)


# ---- weights of rows that stand for several

TIMES = np.array([1, 3, 1, 2, 5, 1, 1, 2, 1, 1, 4, 2], np.float32)
ROWS = np.arange(len(TIMES))


def weighted(folder, rows, diet, times=None, **options):
    trainer = toy_trainer(folder, diet, extra={} if times is None else {"row_weights": times}, **options)
    trainer.train_dataset = toy_features(len(TIMES)).select(rows)
    trainer.train()
    return trainer


@pytest.mark.parametrize("accumulation", [1, 2])
def test_one_step_is_that_of_all_the_repeats(tmp_path, accumulation):
    repeats, once = np.repeat(ROWS, TIMES.astype(int)), {**SGD, "learning_rate": 0.5, "num_train_epochs": 1}
    whole = weighted(tmp_path / "a", repeats, Diet(keep=1.0), **once, per_device_train_batch_size=len(repeats))
    once |= {"per_device_train_batch_size": len(TIMES) // accumulation, "gradient_accumulation_steps": accumulation}
    counted = weighted(tmp_path / "b", ROWS, Diet(keep=1.0), TIMES, **once)
    torch.testing.assert_close(weights(counted.model), weights(whole.model), atol=1e-6, rtol=1e-4)
    plain = weighted(tmp_path / "c", ROWS, Diet(keep=1.0), **once)
    assert not torch.allclose(weights(plain.model), weights(whole.model), atol=1e-4)


def test_rows_that_are_all_alike_are_the_plain_trainer(tmp_path):
    plain = weighted(tmp_path / "plain", ROWS, Diet(keep=1.0))
    alike = weighted(tmp_path / "alike", ROWS, Diet(keep=1.0), np.full(len(TIMES), 3, np.float32))
    assert torch.equal(weights(plain.model), weights(alike.model))
    assert (plain.diet.describe()["row_weights"], alike.diet.describe()["row_weights"]) == (False, False)


def test_row_weights_keep_the_scale_of_the_loss():
    plan = weighed(EpochPlan(0, np.array([1, 4, 5]), full=False), TIMES)
    assert_allclose(plan.weights, [1.0, 5 / 3, 1 / 3])
    assert weighed(plan, None) is plan


def test_infobatch_with_row_weights_stays_unbiased():
    """The expected sum is that of all repeats, on the scale of one row per text."""
    values, gradients = np.linspace(0, 1, 12) ** 4, np.random.default_rng(0).normal(size=12)
    sums = []
    for seed in range(4000):
        chosen = infobatch(values, 6, seed=seed, epoch=0)
        plan = weighed(EpochPlan(0, chosen.rows, full=False, weights=chosen.weights), TIMES)
        assert_allclose(plan.weights, chosen.weights * TIMES[chosen.rows] / TIMES.mean(), rtol=1e-6)
        sums.append(float(gradients[plan.rows] @ plan.weights))
    expected = float(gradients @ TIMES) / TIMES.mean()
    assert abs(np.mean(sums) - expected) < 4 * np.std(sums) / np.sqrt(len(sums))


def test_weights_go_with_the_rows_through_a_diet_and_a_resume(tmp_path):
    diet, again = (Diet(keep=0.5, refresh_every=1, select="infobatch", score="cross_entropy") for _ in range(2))
    weighted(tmp_path, ROWS, diet, TIMES, per_device_train_batch_size=2)
    table = read_table(tmp_path / "plans").to_pandas()
    first = table[table["epoch"] == 0].sort_values("row")["weight"]
    assert_allclose(first, TIMES / TIMES.mean(), rtol=1e-6)
    assert diet.describe()["row_weights"]
    again.begin(len(TIMES), epochs=4, batch=2, row_weights=TIMES, write=False, state=diet.state_dict())
    assert_array_equal(again.plan(3).weights, diet.plan(3).weights)


def test_infobatch_has_no_weights_in_the_last_epochs(tmp_path):
    """They train on everything, so no row stands for a dropped one."""
    diet = Diet(keep=0.5, refresh_every=1, anneal_epochs=1, select="infobatch", score="cross_entropy")
    trainer = weighted(tmp_path, ROWS, diet, per_device_train_batch_size=2)
    by_epoch = read_table(tmp_path / "plans").to_pandas().groupby("epoch")["weight"]
    assert by_epoch.max().tolist()[::3] == [1.0, 1.0]
    assert by_epoch.sum().tolist() == pytest.approx([12.0] * 4)
    assert by_epoch.max()[2] > 1
    assert trainer._epochs.weights is None


@pytest.mark.parametrize(
    ("times", "message"),
    [
        (TIMES[:3], r"row_weights must be numbers, one per training row, 12, got the shape \(3,\)"),
        (TIMES - 1, r"row_weights must be finite and above 0; rows \[0, 2, 5, 6, 8\] are not"),
    ],
)
def test_row_weights_that_are_not_allowed(times, message):
    with pytest.raises(ArgumentError, match=message):
        hard_diet(keep=0.5).begin(len(TIMES), epochs=2, row_weights=times)


# ---- steps that are asked for


@pytest.mark.parametrize(
    ("changes", "expected", "end"),
    [
        ({"max_steps": 29}, [(48, 12), (24, 6), (24, 6), (24, 5)], 3 + 5 / 6),  # whatever num_train_epochs says
        ({"num_train_epochs": 2.5}, [(48, 12), (24, 6), (24, 3)], 2.5),
        ({"max_steps": 10, "gradient_accumulation_steps": 2}, [(48, 6), (24, 3), (24, 1)], 2 + 1 / 3),
    ],
)
def test_steps_that_are_asked_for_end_inside_an_epoch(tmp_path, changes, expected, end):
    trainer = trained(tmp_path / "whole", hard_diet(keep=0.5), save_strategy="steps", save_steps=7, **changes)
    assert lines(trainer, "kept", "steps") == expected
    assert trainer.state.global_step == trainer.state.max_steps == sum(steps for _, steps in expected)
    assert trainer.state.epoch == pytest.approx(end)
    assert trainer.lr_scheduler.get_last_lr()[0] == pytest.approx(0.0, abs=1e-12)
    resumed = toy_trainer(tmp_path / "whole", hard_diet(keep=0.5), **changes)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-7"))
    assert torch.equal(weights(resumed.model), weights(trainer.model))
    assert lines(resumed, "kept", "steps") == expected


@pytest.mark.cpu
@pytest.mark.parametrize(
    "changes",
    [{"max_steps": 29}, {"num_train_epochs": 1.5}, {"dataloader_drop_last": True}, {"auto_find_batch_size": True}],
)
def test_keep_one_takes_arguments_that_a_diet_would_have_to_plan_for(tmp_path, changes):
    plain = trained(tmp_path / "plain", kind=Trainer, n=46, **changes)
    full = trained(tmp_path / "full", Diet(keep=1.0), n=46, **changes)
    assert full.seen.losses == plain.seen.losses
    assert full.state.epoch == plain.state.epoch
    assert sum(line.steps for line in full.epoch_results) == plain.state.global_step


def test_a_warm_up_of_all_steps_is_refused(tmp_path):
    with pytest.raises(ArgumentError, match="no step is left for the diet: max_steps is 12"):
        trained(tmp_path, hard_diet(keep=0.5), max_steps=12)
    assert not list(tmp_path.iterdir())


def test_the_result_holds_what_the_guard_said(tmp_path):
    for name, diet in (("guarded", Diet(keep=0.5, select="hardest")), ("plain", hard_diet(keep=0.5, offset=0.0))):
        trained(tmp_path / name, diet)
        noise = json.loads((tmp_path / name / "result.json").read_text())["noise"]
        assert (noise is not None) == (name == "guarded")
        if noise:
            assert "rows were seen, 200 are needed" in noise["reviews"][0]["note"]


def test_a_batch_that_is_too_large_begins_anew_with_a_smaller_one(tmp_path):
    class Small(DietTrainer):
        def compute_loss(self, *args, **kwargs):
            if self.state.global_step > 2 and self._train_batch_size > 2:
                raise RuntimeError("CUDA out of memory.")
            return super().compute_loss(*args, **kwargs)

    trainer = trained(tmp_path, hard_diet(keep=0.5), kind=Small, auto_find_batch_size=True, num_train_epochs=3)
    assert lines(trainer, "kept", "steps") == [(48, 24), (24, 12), (24, 12)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["plans", "result.json", "scores"]


# ---- steps and loaders of one's own


class Twice(Trainer):
    def training_step(self, *args, **kwargs):
        super().training_step(*args, **kwargs)
        self.model.zero_grad()
        return super().training_step(*args, **kwargs)


class DietTwice(DietMixin, Twice):
    pass


class TwiceDiet(DietTrainer):
    def training_step(self, *args, **kwargs):
        super().training_step(*args, **kwargs)
        self.model.zero_grad()
        return super().training_step(*args, **kwargs)


@pytest.mark.parametrize("kind", [DietTwice, TwiceDiet])
def test_a_batch_that_trains_twice_counts_once(tmp_path, kind):
    plain = trained(tmp_path / "plain", kind=Twice)
    full = trained(tmp_path / "full", Diet(keep=1.0), kind=kind)
    assert full.seen.losses == plain.seen.losses
    assert lines(full, "steps") == [(12,)] * 4
    assert full.ledger.snapshot().examples_backward == 4 * 48
    assert full.epoch_results[0].train_loss == pytest.approx(np.mean(full.seen.losses[:12]), abs=1e-3)
    assert lines(trained(tmp_path / "diet", hard_diet(keep=0.5), kind=kind), "kept", "steps")[1] == (24, 6)


def test_weights_reach_every_pass_over_a_batch(tmp_path):
    """In the manner of adversarial training; SGD: doubled losses are a doubled learning rate."""

    class Adversarial(Trainer):
        def training_step(self, model, inputs, num_items_in_batch=None):
            model.train()
            inputs = self._prepare_inputs(inputs)
            for _ in range(2):
                loss = self.compute_loss(model, inputs)
                loss.backward()
            return loss.detach()

    class Dieting(DietMixin, Adversarial):
        pass

    trained(tmp_path / "first", hard_diet(), num_train_epochs=2)
    found = []
    for name, select, rate in (("twice", _doubled, 0.1), ("rate", _single, 0.2)):
        diet = Diet(select=select, warmup_epochs=0, refresh_every=1, scores_from=tmp_path / "first")
        options = {"learning_rate": rate, "num_train_epochs": 2, "kind": Dieting}
        found.append(weights(trained(tmp_path / name, diet, **SGD, **options).model))
    torch.testing.assert_close(*found, atol=1e-5, rtol=1e-4)


def test_a_step_without_compute_loss_is_refused_below_keep_one(tmp_path):
    class Direct(Trainer):
        def training_step(self, model, inputs, num_items_in_batch=None):
            loss = model(**self._prepare_inputs(inputs)).loss
            loss.backward()
            return loss.detach()

    class Dieting(DietMixin, Direct):
        pass

    plain, full = trained(tmp_path / "a", kind=Direct), trained(tmp_path / "b", Diet(keep=1.0), kind=Dieting)
    assert (full.seen.losses, lines(full, "steps")) == (plain.seen.losses, [(12,)] * 4)
    with pytest.raises(ArgumentError, match="training_step must call compute_loss"):
        trained(tmp_path / "c", hard_diet(keep=0.5), kind=Dieting)


def test_a_loader_that_is_only_looked_at_is_the_trainers_own(tmp_path):
    class Looking(TrainerCallback):
        def on_step_end(self, *args, **kwargs):
            seen.append(sorted(next(iter(trainer.get_train_dataloader()))))

    seen = []
    trainer = toy_trainer(tmp_path, hard_diet(keep=0.5), extra={"callbacks": [Looking()]})
    plain = toy_trainer(tmp_path, kind=Trainer)
    names = sorted(next(iter(plain.get_train_dataloader())))
    assert [sorted(next(iter(trainer.get_train_dataloader()))) for _ in range(2)] == [names] * 2
    assert not list(tmp_path.iterdir())
    trainer.train()
    assert seen == [names] * 30
    assert lines(trainer, "kept", "steps") == [(48, 12), (24, 6), (24, 6), (24, 6)]


def test_batches_that_are_tuples_need_signals(tmp_path):
    class Pairs(Trainer):
        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            batch, labels = inputs
            outputs = model(**batch, labels=labels)
            return (outputs.loss, outputs) if return_outputs else outputs.loss

    class Dieting(DietMixin, Pairs):
        pass

    def collate(items):
        batch = dict(TASK.collator(tiny_tokenizer())(items))
        return batch, batch.pop("labels")

    def read(outputs, batch):
        return Signals({"label": HeadSignals(outputs.logits.detach(), batch[1])})

    def run(name, diet=None, **extra):
        kind = Pairs if diet is None else Dieting
        trainer = toy_trainer(tmp_path / name, diet, kind=kind, remove_unused_columns=False, extra=extra)
        trainer.data_collator = collate
        trainer.train()
        return trainer

    assert run("full", Diet(keep=1.0), signals=read).seen.losses == run("plain").seen.losses
    assert lines(run("half", hard_diet(keep=0.5), signals=read), "kept")[-1] == (24,)
    with pytest.raises(ArgumentError, match=r"a tuple does not name its labels. Pass signals="):
        run("refused", hard_diet(keep=0.5))


@pytest.mark.parametrize("given", [{}, {"diet": None}, {"diet": 0.5}])
def test_a_trainer_without_a_diet_says_what_to_pass(tmp_path, given):
    with pytest.raises(ArgumentError, match=r"diet must be a datadiet.Diet, got .*. Pass diet="):
        toy_trainer(tmp_path, extra=given)
