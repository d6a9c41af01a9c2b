"""A race on a Trainer: what the winner trained is not trained twice, and nothing of the loser remains."""

from __future__ import annotations

import copy
import json
import logging
import math
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import numpy as np
import pytest
import torch
import transformers

from datadiet.diet import race
from datadiet.diet.diet import Diet
from datadiet.diet.race import FirstRule, Race
from datadiet.ledger import ACCOUNTS
from datadiet.training import race as runner
from datadiet.training.race import _row_losses, dev_losses, dev_rows_of, judging_split
from datadiet.types import HeadSignals, Signals
from toys import plans_of, scores_of, tiny_classifier, tiny_tokenizer, toy_features, toy_trainer, weights

# 48 steps on everything, then 12 a cycle; the first 6 of cycles 1 and 4 are raced for
N, DEV, EPOCHS, KEEP = 192, 60, 6, 0.25
AUTO = "auto(share=0.5)"
RACED, STEPS = (1, 4), 6

pytestmark = pytest.mark.cpu  # bit-identical results


@pytest.fixture(autouse=True)
def short_races(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two races fit into the budget of a toy."""
    monkeypatch.setattr(race, "LEAST_STEPS", 3)
    monkeypatch.setattr(race, "TWO_RACES_STEPS", 6)
    monkeypatch.setattr(race, "WORTH_STEPS", 3)


def built(folder: Path, select: Any = AUTO, diet: Any = None, **changes: Any) -> Any:
    options = {"n": N, "dev": DEV, "num_train_epochs": EPOCHS, **changes}
    return toy_trainer(folder, Diet(keep=KEEP, seed=1, select=select, refresh_every=1, **(diet or {})), **options)


def trained(folder: Path, select: Any = AUTO, **changes: Any) -> Any:
    trainer = built(folder, select, **changes)
    trainer.result = trainer.train()
    return trainer


def let_win(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Every race is won by `cover`, or by the named rule, which is then the first to challenge."""
    usual, decided = Race.challenger, Race.decided

    def forced(self: Race, *args: Any, **named: Any) -> Race:
        found = decided(self, *args, **named)
        duel = found.duels[-1]
        winner = name if name in duel.losses else duel.champion
        return replace(found, duels=(*found.duels[:-1], replace(duel, winner=winner)))

    monkeypatch.setattr(Race, "decided", forced)
    if name != "cover":
        monkeypatch.setattr(
            Race, "challenger", lambda self, allowed: name if self.rule == "cover" else usual(self, allowed)
        )


def lines(trainer: Any) -> list[dict[str, Any]]:
    own = [asdict(line) for line in trainer.epoch_results]
    for line in own:
        line["dev"] = {name: value for name, value in line["dev"].items() if name == "loss"}
    return [{name: value for name, value in line.items() if name not in ("seconds", "score_s")} for line in own]


def rate_of(trainer: Any) -> tuple[Any, ...]:
    """Where the learning rate stands."""
    return trainer.lr_scheduler.get_last_lr(), trainer.lr_scheduler.state_dict()["last_epoch"]


def optimizer_of(trainer: Any) -> torch.Tensor:
    """All of the optimizer's state, as one vector."""
    states = (trainer.optimizer.state[weight] for weight in trainer.model.parameters())
    values = [torch.as_tensor(value, dtype=torch.float32) for state in states for value in state.values()]
    return torch.cat([value.flatten() for value in values])


def values_of(trainer: Any) -> Any:
    """What is recorded of the rows, without the columns that only the guard needs."""
    columns = ["epoch", "row", "source", "round", "el2n", "loss", "moment"]
    return trainer.diet.history.to_pandas()[columns].sort_values(["epoch", "row"]).reset_index(drop=True)


def assert_same(one: Any, two: Any) -> None:
    """Two finished runs cannot be told apart."""
    assert torch.equal(weights(one.model), weights(two.model))
    assert torch.equal(optimizer_of(one), optimizer_of(two))
    assert rate_of(one) == rate_of(two)
    assert (one.state.global_step, one.state.epoch) == (two.state.global_step, two.state.epoch)
    assert lines(one) == lines(two)
    assert values_of(one).equals(values_of(two))


# ---- the winner goes on


@pytest.mark.proves("auto", kind="race", by="definition")
@pytest.mark.parametrize(("winner", "on_cpu"), [("cover", False), ("visits", True), ("hardest", False)])
def test_a_run_is_that_of_the_rule_that_won(tmp_path, monkeypatch, winner, on_cpu):
    let_win(monkeypatch, winner)
    select = "auto(share=0.5, on_cpu=true)" if on_cpu else AUTO
    racing, alone = trained(tmp_path / "racing", select), trained(tmp_path / "alone", winner)
    assert_same(racing, alone)
    assert plans_of(tmp_path / "racing") == plans_of(tmp_path / "alone")
    assert racing.state.global_step == racing.state.max_steps == 48 + 5 * 12
    assert racing.lr_scheduler.get_last_lr()[0] == pytest.approx(0.0, abs=1e-12)
    assert racing.result.training_loss == pytest.approx(alone.result.training_loss, rel=1e-5)
    found = racing.diet.race
    assert [(duel.epoch, duel.winner) for duel in found.duels] == [(epoch, winner) for epoch in RACED]
    assert (found.plan.steps, found.plan.dev_rows) == (STEPS, DEV)


@pytest.mark.parametrize("winner", ["cover", "visits"])
def test_accumulated_batches(tmp_path, monkeypatch, winner):
    let_win(monkeypatch, winner)
    options = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}
    racing = trained(tmp_path / "racing", **options)
    assert_same(racing, trained(tmp_path / "alone", winner, **options))
    assert len(racing.diet.race.duels) == 2


SAMPLED = {
    "lengths": {"train_sampling_strategy": "group_by_length"},
    "rows": {"train_sampling_strategy": "sequential"},
    "clipped": {"max_grad_norm": 0.01},
    "steps counted in a plain number": {"optim": "adafactor"},
    "a rate by a metric": {"lr_scheduler_type": "reduce_lr_on_plateau", "eval_strategy": "epoch"},
    "a greedy rate": {"lr_scheduler_type": "greedy", "eval_strategy": "epoch"},
}


@pytest.mark.parametrize("options", SAMPLED.values(), ids=SAMPLED)
def test_batches_and_steps_of_a_race_are_those_of_its_epoch(tmp_path, monkeypatch, options):
    let_win(monkeypatch, "visits")
    assert_same(trained(tmp_path / "racing", **options), trained(tmp_path / "alone", "visits", **options))


class Frozen(torch.nn.Module):
    """A norm with running means, and two layers, of which the second has no gradient at first."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = torch.nn.BatchNorm1d(3)
        self.first, self.second, self.both = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2), False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(x)
        return self.first(x) + (self.second(x) if self.both else 0)


@pytest.mark.parametrize("on_cpu", [False, True])
def test_what_an_optimizer_begins_to_keep_in_a_race_is_the_entrants_own(on_cpu):
    torch.manual_seed(0)
    network, x = Frozen(), torch.randn(5, 3)
    optimizer = torch.optim.AdamW(network.parameters(), 0.1)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
    trainer = SimpleNamespace(network=network, optimizer=optimizer, lr_scheduler=scheduler)
    trainer.accelerator = SimpleNamespace(scaler=None)

    def step() -> None:
        optimizer.zero_grad()
        network(x).square().sum().backward()
        optimizer.step()
        scheduler.step()

    def state() -> Any:
        return copy.deepcopy((network.state_dict(), optimizer.state_dict(), scheduler.state_dict()))

    step()
    before = state()
    snapshot, network.both = runner.Snapshot(trainer, on_cpu=on_cpu), True
    step()
    after = state()
    assert len(after[1]["state"]) == len(before[1]["state"]) + 2
    # 22 weights, means, variances and a count; two moments of 14 weights and the steps of these four tensors
    assert snapshot.num_bytes == 4 * (22 + 6) + 8 + 4 * (2 * 14 + 4)
    for expected in (before, after, before):
        snapshot.swap()
        torch.testing.assert_close(state(), expected, rtol=0, atol=0)


def test_the_loss_of_the_log_has_the_steps_of_the_race(tmp_path, monkeypatch):
    let_win(monkeypatch, "cover")
    racing, alone = trained(tmp_path / "racing"), trained(tmp_path / "alone", "cover")
    first = alone.seen.losses[48 : 48 + STEPS + 1]
    assert racing.seen.losses[:48] == alone.seen.losses[:48]
    assert racing.seen.losses[48] == pytest.approx(np.mean(first), abs=1e-4)  # one line for the race and the next step
    assert racing.seen.losses[49:][: 12 - STEPS - 1] == alone.seen.losses[48 + STEPS + 1 : 48 + 12]


class Asked(transformers.TrainerCallback):
    """The steps after which there was a line of the log, an evaluation and a checkpoint."""

    def __init__(self) -> None:
        self.steps: dict[str, list[int]] = {"log": [], "evaluate": [], "save": []}

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        for name, steps in self.steps.items():
            steps.extend([state.global_step] if getattr(control, f"should_{name}") else [])


def test_what_is_due_in_a_step_of_a_race_comes_after_the_next_one(tmp_path):
    """The races make steps 49 to 54 and 85 to 90."""
    asked = Asked()
    every = {"eval_strategy": "steps", "eval_steps": 5, "logging_steps": 4, "save_strategy": "steps", "save_steps": 18}
    trained(tmp_path, extra={"callbacks": [asked]}, eval_delay=20, **every)
    rest = [step for step in range(1, 109) if step not in (*range(49, 55), *range(85, 91))]
    assert asked.steps == {
        "log": sorted({*(step for step in rest if step % 4 == 0), 55, 91}),  # 52, 88
        "evaluate": sorted({*(step for step in rest if step % 5 == 0 and step >= 20), 55, 91, 108}),  # 50, 85 and 90
        "save": sorted({*(step for step in rest if step % 18 == 0), 55, 91}),  # 54, 90
    }


def test_the_epoch_of_the_log_counts_the_steps_of_a_race(tmp_path):
    racing = trained(tmp_path, logging_steps=1, per_device_train_batch_size=2, gradient_accumulation_steps=2)
    of_step = {line["step"]: line["epoch"] for line in racing.state.log_history if "loss" in line}
    assert of_step[48 + STEPS + 1] == pytest.approx(1 + (STEPS + 1) / 48)  # in epochs on everything
    assert of_step[48 + 12] == pytest.approx(1 + 12 / 48)
    assert of_step[48 + 13] == pytest.approx(2 + 1 / 48)


def test_row_weights_count_in_a_race(tmp_path, monkeypatch):
    let_win(monkeypatch, "visits")
    extra = {"row_weights": np.random.default_rng(0).uniform(0.5, 2, N).astype(np.float32)}
    racing = trained(tmp_path / "racing", extra=extra)
    assert_same(racing, trained(tmp_path / "alone", "visits", extra=extra))


def test_dropout_is_drawn_alike_for_both_entrants(tmp_path, monkeypatch):
    """From the same weights and generators: entrants with the same rows end with the same losses."""
    let_win(monkeypatch, "cover")
    monkeypatch.setattr(Diet, "_entrant", _cover_for_all(Diet._entrant))
    racing = trained(tmp_path, dropout=0.3)
    for duel in racing.diet.race.duels:
        assert duel.difference == duel.error == 0.0
        assert len(set(duel.losses.values())) == 1


def _cover_for_all(usual):
    return lambda self, values, count, epoch, rule, begins=False: usual(self, values, count, epoch, "cover")


# ---- what the dev rows say


def test_dev_losses_are_those_of_the_model_on_rows_drawn_by_the_seed(tmp_path):
    trainer = trained(tmp_path, num_train_epochs=2)
    rows = dev_rows_of(trainer.context, 25)
    assert len(np.unique(rows)) == 25
    assert (np.diff(rows) > 0).all()
    found = dev_losses(trainer.context, rows, 1)
    batch = trainer.data_collator([{**toy_features(DEV, seed=1)[int(row)]} for row in rows])
    with torch.no_grad():
        logits = trainer.model.eval()(**{name: value for name, value in batch.items() if name != "length"}).logits
    expected = torch.nn.functional.cross_entropy(logits, batch["labels"], reduction="none")
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-5)


@pytest.mark.parametrize("kind", [datasets.Dataset.from_list, list], ids=["dataset", "list"])
def test_dev_rows_with_a_label_that_the_model_does_not_know_are_left_out(tmp_path, kind):
    dev = toy_features(70, seed=1).to_list()
    for row in (3, 20, 69):
        dev[row]["labels"] = -100
    racing = trained(tmp_path, extra={"eval_dataset": kind(dev)}, num_train_epochs=5)
    (duel, *_) = racing.diet.race.duels
    assert duel.dev_rows == racing.diet.race.plan.dev_rows <= len(racing.context.dev) == 67
    assert all(np.isfinite(loss) for loss in duel.losses.values())


def test_numbers_that_are_missing_do_not_judge_and_texts_beside_the_label_do_not_matter():
    rows = [{"x": [0.0], "labels": 0.5, "label_text": "joy", "label_tags": [1, -100]} for _ in range(6)]
    rows[1] |= {"labels": math.nan}
    rows[4] |= {"labels": -100.0}  # a number like any other

    def collate(items: list[dict[str, Any]]) -> dict[str, Any]:
        torch.rand(1)
        return {"labels": torch.tensor([item.pop("labels") for item in items])}

    before = torch.get_rng_state()
    for kind in (list, datasets.Dataset.from_list):
        dev, _ = judging_split(kind(rows), collate, columns=lambda data: data, label_names=("labels",))
        assert len(dev) == 5
    assert torch.equal(torch.get_rng_state(), before)
    assert "labels" in rows[0]


def test_what_a_collator_draws_for_dev_rows_is_the_same_for_both_entrants(tmp_path, monkeypatch):
    drawn: list[list[float]] = []
    monkeypatch.setattr(runner, "dev_losses", lambda *_: drawn.append(torch.rand(3).tolist()) or np.ones(DEV, "f4"))
    trained(tmp_path, dropout=0.3, num_train_epochs=3)
    assert drawn[0] == drawn[1]


def test_a_metric_of_which_smaller_is_better_tells_nothing_of_too_many_passes(tmp_path):
    values = iter((0.9, 0.5, 0.3, 0.2, 0.1, 0.05))
    options = {"metric_for_best_model": "errors", "eval_strategy": "epoch"}
    extra = {"compute_metrics": lambda _: {"errors": next(values)}, "eval_dataset": toy_features(400, seed=1)}
    racing = trained(tmp_path, extra=extra, greater_is_better=False, **options)
    assert racing.diet.race.fallen is None
    values = iter((0.9, 0.5, 0.3, 0.2, 0.1, 0.05))
    assert trained(tmp_path, extra=extra, greater_is_better=True, **options).diet.race.fallen == 0


def test_the_seconds_saved_are_less_what_races_cost(tmp_path):
    racing = trained(tmp_path)
    ledger = racing.ledger
    kept, dropped = (sum(getattr(line, name) for line in racing.epoch_results) for name in ("kept", "dropped"))
    assert ledger.examples_backward > kept  # the losers'
    beside = sum(ledger.seconds(account) for account in ("score", "select", "probe"))
    assert racing.seconds_saved() == pytest.approx(dropped * ledger.seconds("train") / kept - beside, abs=0.01)


def test_training_rows_without_a_class_are_neither_counted_nor_judged(tmp_path):
    """Of 320 rows 60 have the label -100, which the loss passes over."""
    rows = toy_features(320).to_list()
    for row in rows[100:160]:
        row["labels"] = -100
    extra = {"train_dataset": datasets.Dataset.from_list(rows)}
    racing = trained(tmp_path, extra=extra, num_train_epochs=3)
    assert racing.diet.race.duels
    (review, *_) = racing.diet.noise_monitor.guard.reviews
    assert review.judged == 260


def test_the_loss_of_a_dev_row_is_that_of_training():
    logits = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0))
    tags, mask = torch.tensor([[0, 2, 1, 0], [1, -100, -100, -100]]), torch.tensor([[True] * 4, [True] + [False] * 3])
    intents = HeadSignals(torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([0, 0]))
    slots = HeadSignals(logits, tags, mask)
    of_words = torch.stack([
        torch.nn.functional.cross_entropy(one[known], row[known])
        for one, row, known in zip(logits, tags, mask, strict=True)
    ])  # fmt: skip
    of_intents = torch.nn.functional.cross_entropy(intents.logits, intents.labels, reduction="none")
    torch.testing.assert_close(_row_losses(Signals({"tokens": slots}), {}), of_words)
    labels = torch.tensor([[1.0, 0.0, 1.0], [0.0, 0.0, 1.0]])
    of_sets = torch.nn.functional.binary_cross_entropy_with_logits(logits[:, 0], labels, reduction="none").mean(1)
    torch.testing.assert_close(_row_losses(Signals({"label": HeadSignals(logits[:, 0], labels)}), {}), of_sets)
    joint = _row_losses(Signals({"intent": intents, "slots": slots}), {"intent": 0.3, "slots": 0.7})
    torch.testing.assert_close(joint, 0.3 * of_intents + 0.7 * of_words)


def test_a_race_that_is_not_forced_decides_by_its_losses(tmp_path):
    racing = trained(tmp_path)
    for duel in racing.diet.race.duels:
        champion, challenger = duel.losses[duel.champion], duel.losses[duel.challenger]
        assert duel.difference == pytest.approx(challenger - champion, abs=1e-5)
        assert duel.error > 0
        assert (duel.winner == duel.challenger) == (duel.interval[1] < 0)


# ---- resume


SAVING = {"save_strategy": "steps", "save_steps": 3}


@pytest.fixture(scope="module", params=[pytest.param("cover", marks=pytest.mark.soak), "visits"])
def saved(request, tmp_path_factory):
    """Runs that were not killed, with their checkpoints: the rule that won, the folder, and by dropout the trainer."""
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(race, "LEAST_STEPS", 3)
        patch.setattr(race, "TWO_RACES_STEPS", 6)
        patch.setattr(race, "WORTH_STEPS", 3)
        let_win(patch, request.param)
        runs = {dropout: trained(folder / str(dropout), dropout=dropout, **SAVING) for dropout in (0.0, 0.1)}
    return request.param, folder, runs


# before the first race, inside the raced epoch, at its end, before the second race, and after it
@pytest.mark.parametrize("step", [48, 57, 60, 84, 93])
@pytest.mark.parametrize("dropout", [pytest.param(0.0, marks=pytest.mark.soak), 0.1])
def test_resume_is_bit_identical(tmp_path, monkeypatch, saved, step, dropout):
    winner, folder, runs = saved
    let_win(monkeypatch, winner)
    whole = runs[dropout]
    for part in ("scores", "plans"):
        shutil.copytree(folder / str(dropout) / part, tmp_path / part)
    resumed = built(tmp_path, dropout=dropout, **SAVING)
    resumed.train(resume_from_checkpoint=str(folder / str(dropout) / f"checkpoint-{step}"))
    assert torch.equal(weights(resumed.model), weights(whole.model))
    assert torch.equal(optimizer_of(resumed), optimizer_of(whole))
    assert resumed.lr_scheduler.get_last_lr() == whole.lr_scheduler.get_last_lr()
    assert resumed.state.global_step == whole.state.global_step
    assert plans_of(tmp_path) == plans_of(folder / str(dropout))
    assert values_of(resumed).equals(values_of(whole))
    for one, two in zip(lines(resumed), lines(whole), strict=True):
        assert one.pop("train_loss") == pytest.approx(two.pop("train_loss"))
        assert one == two
    duels = [[(d.epoch, d.winner, d.losses, d.difference) for d in run.diet.race.duels] for run in (resumed, whole)]
    assert duels[0] == duels[1]
    costs = [run.ledger.snapshot() for run in (resumed, whole)]
    assert costs[0].examples_backward == costs[1].examples_backward
    assert costs[0].tokens_backward == costs[1].tokens_backward


# ---- back to cover, without a race

JUDGED = {"eval_strategy": "epoch", "metric_for_best_model": "accuracy", "save_strategy": "steps", "save_steps": 12}
TOO_SHORT = "auto(share=0.01)"  # for a race
FALLING = {48: 0.9, 60: 0.5}  # by step; 0.6 afterwards


def judging(values: dict[int, float]) -> dict[str, Any]:
    """The `extra` of a Trainer whose dev metric is planned."""
    built_trainer: list[Any] = []

    def measured(_: Any) -> dict[str, float]:
        return {"accuracy": values.get(built_trainer[0].state.global_step, 0.6)}

    return {"compute_metrics": measured, "trainer": built_trainer}


def watched(folder: Path, values: dict[int, float], **changes: Any) -> Any:
    extra = judging(values)
    place = extra.pop("trainer")
    place.append(built(folder, TOO_SHORT, extra=extra, dev=80, **{**JUDGED, **changes}))
    return place[0]


def test_the_rule_that_many_classes_begin_with_is_given_up_where_the_dev_metric_falls(tmp_path, monkeypatch):
    monkeypatch.setattr(race, "MANY_CLASSES", 1.0)
    given_up, kept_on = watched(tmp_path / "fallen", FALLING), watched(tmp_path / "risen", {48: 0.4, 60: 0.5})
    hardest = built(tmp_path / "hardest", "hardest", dev=80)
    for trainer in (given_up, kept_on, hardest):
        trainer.train()
    found = json.loads((tmp_path / "fallen" / "result.json").read_text())["race"]
    assert (found["start"], found["rule"], found["races"]) == ("hardest", "cover", [])
    assert [(one["epoch"], one["best"], one["value"]) for one in found["retreats"]] == [(2, 0.9, 0.5)]
    plans = {name: plans_of(tmp_path / name) for name in ("fallen", "risen", "hardest")}
    assert plans["risen"] == plans["hardest"]
    assert [plans["fallen"][epoch] == plans["hardest"][epoch] for epoch in range(4)] == [True, True, False, False]
    once = [row for epoch in range(1, 5) for row in plans["fallen"][epoch]]
    assert sorted(once) == list(range(N))  # with what hardest had shown: everything once before anything twice
    assert torch.equal(weights(kept_on.model), weights(hardest.model))


def test_without_a_metric_after_each_epoch_many_classes_begin_with_cover(tmp_path, monkeypatch):
    monkeypatch.setattr(race, "MANY_CLASSES", 1.0)
    told = ({"eval_strategy": "no"}, {"metric_for_best_model": None}, {"greater_is_better": False}, {"eval_delay": 1})
    for changes in told:
        trainer = watched(tmp_path, FALLING, num_train_epochs=2, save_strategy="no", **changes)
        trainer.train()
        assert trainer.diet.race.first.rule == "cover"


def killed(tmp_path: Path, values: dict[int, float], step: int, **changes: Any) -> tuple[Any, Any]:
    """A run, and another that goes on from one of its checkpoints."""
    whole = watched(tmp_path / "whole", values, **changes)
    whole.train()
    for part in ("plans", "scores"):
        shutil.copytree(tmp_path / "whole" / part, tmp_path / "resumed" / part)
    resumed = watched(tmp_path / "resumed", values, **changes)
    resumed.train(resume_from_checkpoint=str(tmp_path / "whole" / f"checkpoint-{step}"))
    return whole, resumed


# a checkpoint of 60 or 72 comes before the evaluation after the epoch; what `eval_on_start` measures is of no epoch
@pytest.mark.parametrize(
    ("step", "changes"), [(60, {}), (72, {}), (48, {"eval_on_start": True}), (60, {"eval_on_start": True})]
)
def test_a_run_that_was_killed_before_an_evaluation_gives_up_the_same_rule(tmp_path, monkeypatch, step, changes):
    monkeypatch.setattr(race, "MANY_CLASSES", 1.0)
    whole, resumed = killed(tmp_path, FALLING, step, **changes)
    assert resumed.diet.race == whole.diet.race
    assert whole.diet.race.chose == ["hardest", "cover"]
    assert [line.dev["accuracy"] for line in resumed.epoch_results] == [0.9, 0.5, *[0.6] * 4]
    assert plans_of(tmp_path / "resumed") == plans_of(tmp_path / "whole")
    assert torch.equal(weights(resumed.model), weights(whole.model))


def test_a_percentage_cannot_fall_and_is_not_measured_again_by_a_resumed_run(tmp_path, monkeypatch):
    monkeypatch.setattr(race, "MANY_CLASSES", 1.0)
    percent = {48: 90.0, 60: 50.0, 72: 50.0, 84: 50.0, 96: 50.0, 108: 50.0}
    saving = {"save_strategy": "epoch", "num_train_epochs": 4}
    whole, resumed = killed(tmp_path, percent, 60, **saving)
    found = json.loads((tmp_path / "resumed" / "result.json").read_text())["race"]
    assert (found["start"], found["rule"], found["chose"]) == ("hardest", "cover", ["cover"])
    assert [(one["epoch"], one["value"]) for one in found["retreats"]] == [(1, None)]
    assert torch.equal(weights(resumed.model), weights(whole.model))
    measured = [line["step"] for line in resumed.state.log_history if "eval_accuracy" in line]
    assert measured == [48, 60, 72, 84]


# ---- costs


def test_what_the_loser_and_the_dev_rows_cost_is_charged_to_probe(tmp_path):
    racing = built(tmp_path, learning_rate=1e-3)
    planned = racing.diet.forecast(N, epochs=EPOCHS, batch=4, dev_rows=DEV)
    racing.train()
    assert (planned.races, planned.race_steps) == (2, 2 * (STEPS + 10))  # 2 passes over 60 rows at a third of a step
    result = json.loads((tmp_path / "result.json").read_text())
    cost = result["cost"]
    assert cost["probe_s"] > 0
    assert sum(cost[f"{account}_s"] for account in ACCOUNTS) == pytest.approx(cost["total_s"])
    assert cost["finetune_s"] == pytest.approx(sum(cost[f"{one}_s"] for one in ("train", "score", "select", "probe")))
    assert min(cost[f"{account}_s"] for account in ACCOUNTS) >= 0
    lost = 2 * STEPS * 4
    assert cost["examples_backward"] == planned.examples_backward + lost
    assert cost["examples_forward"] == cost["examples_backward"] + 2 * 2 * DEV
    assert sum(line["seconds"] for line in result["epochs"]) <= cost["train_s"] + 1e-6
    assert len(scores_of(tmp_path)) == planned.examples_backward  # nothing of the losers is recorded
    races = result["race"]["races"]
    assert [line["epoch"] for line in races] == list(RACED)
    for line in races:
        assert set(line["cost"]) == {"seconds", "examples", "passes", "steps", "bytes"}
        assert line["cost"]["examples"] == STEPS * 4
        assert line["cost"]["passes"] == 2 * DEV
        assert line["cost"]["steps"] == STEPS + 10
        assert line["cost"]["bytes"] > 3 * 4 * sum(weight.numel() for weight in racing.model.parameters())  # with Adam
        assert line["interval"][0] <= line["difference"] <= line["interval"][1]
    assert result["race"]["rule"] == races[-1]["winner"]
    assert sum(line["cost"]["seconds"] for line in races) <= cost["probe_s"]


def test_a_scoring_pass_before_a_race_is_of_its_epoch(tmp_path):
    racing = trained(tmp_path, diet={"rescore": "all"})
    cost, of_epochs = racing.ledger.snapshot(), [line.score_s for line in racing.epoch_results]
    assert of_epochs[0] == 0 < min(of_epochs[1:])
    assert sum(of_epochs) == pytest.approx(cost.score_s)


def test_the_copy_is_let_go_of(tmp_path, monkeypatch):
    """A race holds one copy of weights and optimizer state, and none afterwards."""
    import gc
    import weakref

    made = []

    class Watched(runner.Snapshot):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            made.append(weakref.ref(self))

    monkeypatch.setattr(runner, "Snapshot", Watched)
    trained(tmp_path)
    gc.collect()
    assert len(made) == 2
    assert [one() for one in made] == [None, None]


# ---- where there is no race

NO_DEV = "there is no dev split to judge a race by"
FEW = (
    "the dev split has 49 rows, fewer than 50: their mean loss has an error of 14% of the spread of one row's loss, "
    "too wide to judge by; give a larger dev split"
)
FEW_CLASSES = "the rows have 3 classes in effect, too few"


@pytest.mark.parametrize(
    ("sizes", "note"),
    [((), NO_DEV), ((60, 60), "eval_dataset has several splits, and a race needs one"), ((49,), FEW)],
    ids=["none", "several", "few"],
)
def test_without_a_usable_dev_split_a_sentence_says_why(tmp_path, caplog, sizes, note):
    splits = {str(place): toy_features(size) for place, size in enumerate(sizes)}
    split = None if not splits else splits if len(sizes) > 1 else splits["0"]
    with caplog.at_level(logging.WARNING, "datadiet.training.trainer"):
        racing = trained(tmp_path / "racing", extra={"eval_dataset": split}, num_train_epochs=3)
    said = [record.getMessage() for record in caplog.records if record.name == "datadiet.training.trainer"]
    why = FEW_CLASSES if len(sizes) == 1 else ""
    assert said == [f"select auto: {note}. Every cycle takes the rule cover{why and f' ({why})'}."]
    assert racing.diet.rule == "cover"
    assert racing.ledger.snapshot().probe_s == 0
    result = json.loads((tmp_path / "racing" / "result.json").read_text())
    assert result["race"] == {
        "rule": "cover",
        "chose": ["cover"],
        "start": "cover",
        "why": why,
        "note": note,
        "fallen_after": None,
        "races": [],
        "retreats": [],
    }
    alone = trained(tmp_path / "alone", "cover", extra={"eval_dataset": split}, num_train_epochs=3)
    assert_same(racing, alone)


def test_a_race_says_nothing_beforehand(tmp_path, caplog):
    with caplog.at_level(logging.WARNING, "datadiet.training.trainer"):
        trained(tmp_path, num_train_epochs=4)
    assert not [record for record in caplog.records if record.name == "datadiet.training.trainer"]


def test_the_first_rule_does_not_go_by_a_column_that_a_regression_never_answers(tmp_path):
    collate = transformers.DataCollatorWithPadding(tiny_tokenizer())

    def as_numbers(rows):
        batch = collate(rows)
        return {**batch, "labels": batch["labels"].float()}

    many = {name: toy_features(rows).remove_columns("labels") for name, rows in (("train", 120), ("dev", 60))}
    many = {name: data.add_column("labels", [row % 30 for row in range(len(data))]) for name, data in many.items()}
    model = tiny_classifier(1)
    model.config.problem_type = "regression"
    extra = {"train_dataset": many["train"], "eval_dataset": many["dev"]}
    extra["compute_metrics"] = lambda found: {"close": float(np.mean(np.abs(found.predictions[:, 0]) < 1))}
    changes = {"eval_strategy": "epoch", "metric_for_best_model": "close", "num_train_epochs": 3}
    trainer = toy_trainer(tmp_path, Diet(keep=0.5), model=model, extra=extra, **changes)
    trainer.data_collator = as_numbers
    trainer.train()
    assert trainer.diet.race.first == FirstRule()
