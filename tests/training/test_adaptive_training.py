"""Training with a tolerance: counts decided as it runs, the learning rate, a way back, an end."""

from itertools import pairwise

import numpy as np
import pytest
from transformers import EvalPrediction

from datadiet.diet import tolerance
from datadiet.diet.diet import Diet
from datadiet.errors import ArgumentError
from datadiet.training.arguments import check_judged
from datadiet.training.loop import DietCallback
from toys import toy_trainer

EPOCHS = 6


def tolerant_trainer(folder, accuracies=None, *, diet=None, **changes):
    """Dev accuracies after each epoch as given; the model's own without."""
    given = iter(accuracies or ())

    def compute_metrics(predictions: EvalPrediction):
        own = float((np.argmax(predictions.predictions, -1) == predictions.label_ids).mean())
        return {"accuracy": next(given, own)}

    settings = {"eval_strategy": "epoch", "metric_for_best_model": "accuracy", "num_train_epochs": EPOCHS, **changes}
    extra = settings.pop("extra", {})
    return toy_trainer(
        folder, diet or Diet(tolerance=5.0), extra={"compute_metrics": compute_metrics, **extra}, learning_rate=1e-2,
        **settings,
    )  # fmt: skip


def counts(trainer):
    return [line.kept for line in trainer.epoch_results]


def test_counts_follow_the_scores_and_the_rate_ends_at_zero(tmp_path):
    trainer = tolerant_trainer(tmp_path, [0.5] * EPOCHS, lr_scheduler_type="linear")
    trainer.train()
    kept = counts(trainer)
    assert kept[0] == 48
    assert min(kept) < 48
    assert all(count == 48 or count % 4 == 0 for count in kept)
    assert kept == [trainer.diet.schedule.count(epoch) for epoch in range(len(kept))]
    assert trainer.state.global_step == sum(line.steps for line in trainer.epoch_results) == trainer.state.max_steps
    assert trainer.lr_scheduler.get_last_lr()[0] == 0.0
    rates = trainer.seen.rates
    assert all(before >= after for before, after in pairwise(rates))


def test_an_epoch_takes_the_rate_an_epoch_further(tmp_path):
    trainer = tolerant_trainer(tmp_path, [0.5] * EPOCHS, lr_scheduler_type="linear")
    trainer.train()
    starts = np.cumsum([0] + [line.steps for line in trainer.epoch_results])[:-1]
    last = len(starts)
    assert last == EPOCHS
    # the rate logged at a step is the one it was made with
    expected = [1e-2 * (1 - epoch / EPOCHS) for epoch in range(EPOCHS)]
    assert [trainer.seen.rates[start] for start in starts] == pytest.approx(expected)


def test_when_the_dev_metric_falls_everything_trains_again(tmp_path):
    trainer = tolerant_trainer(tmp_path, [0.9, 0.9, 0.2, 0.9, 0.9, 0.9])
    trainer.train()
    assert counts(trainer)[3] == 48
    assert trainer.diet.decider.summary()["decisions"][2] == {"epoch": 3, "kept": 48, "reason": "guard"}


def test_training_ends_when_nothing_is_left_to_learn(tmp_path, monkeypatch):
    monkeypatch.setattr(tolerance, "LEARNED", 1.0)
    trainer = tolerant_trainer(tmp_path, [0.9] * EPOCHS, lr_scheduler_type="linear")
    trainer.train()
    assert [line.epoch for line in trainer.epoch_results] == [0, 1]
    assert trainer.state.global_step == trainer.diet.schedule.total_steps
    assert trainer.lr_scheduler.get_last_lr()[0] == 0.0
    assert trainer.epoch_results[-1].dev["accuracy"] == 0.9  # evaluated before it stops


@pytest.mark.parametrize("step", [12, 20, 27, 30])
def test_a_resumed_run_decides_as_an_uninterrupted_one(tmp_path, step):
    settings = {"save_strategy": "steps", "save_steps": 1, "lr_scheduler_type": "cosine"}
    whole = tolerant_trainer(tmp_path / "whole", **settings)
    whole.train()
    resumed = tolerant_trainer(tmp_path / "resumed", **settings)
    checkpoint = tmp_path / "whole" / f"checkpoint-{step}"
    assert step < whole.state.global_step
    resumed.train(str(checkpoint))
    assert counts(resumed) == counts(whole)
    assert resumed.diet.decider.policy == whole.diet.decider.policy
    assert resumed.seen.rates == whole.seen.rates[step:]
    assert resumed.seen.losses == whole.seen.losses[step:]


def test_a_diet_that_is_used_twice_starts_anew(tmp_path):
    diet = Diet(tolerance=5.0)
    for name in ("one", "two"):
        trainer = tolerant_trainer(tmp_path / name, [0.5] * EPOCHS, diet=diet)
        trainer.train()
        assert len(diet.decider.policy.judgements) == EPOCHS


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"eval_strategy": "no"}, "eval_strategy='epoch', got 'no'"),
        ({"metric_for_best_model": None}, "name it in metric_for_best_model"),
        ({"metric_for_best_model": "loss", "greater_is_better": False}, "of which larger is better"),
    ],
)
def test_arguments_from_which_a_tolerance_cannot_learn(tmp_path, changes, message):
    with pytest.raises(ArgumentError, match=message):
        tolerant_trainer(tmp_path, **changes)


def test_a_tolerance_needs_one_dev_split():
    from types import SimpleNamespace

    given = SimpleNamespace(eval_strategy="epoch", greater_is_better=True)
    with pytest.raises(ArgumentError, match="tolerance needs one eval_dataset"):
        check_judged(given, {"one": [1], "two": [2]}, "accuracy")


def test_a_rate_that_is_no_function_of_the_step_is_refused(tmp_path):
    with pytest.raises(ArgumentError, match="ReduceLROnPlateau"):
        tolerant_trainer(tmp_path, [0.5] * EPOCHS, lr_scheduler_type="reduce_lr_on_plateau").train()


def test_a_callback_refuses_a_tolerance(tmp_path):
    from transformers import Trainer

    callback = DietCallback(Diet(tolerance=1.0))
    trainer = toy_trainer(tmp_path, kind=Trainer, lr_scheduler_type="constant", extra={"callbacks": [callback]})
    with pytest.raises(ArgumentError, match="a tolerance needs DietMixin"):
        trainer.train()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"keep": 0.3}, "keep has no effect with a tolerance"),
        ({"anneal_epochs": 1}, "anneal_epochs has no effect with a tolerance"),
        ({"static": True}, "static has no effect with a tolerance"),
        ({"offset": 0.1}, "offset has no effect with a tolerance"),
        ({"score": "margin"}, "no meaning for the score 'margin'"),
        ({"select": "random"}, "no meaning for 'random'"),
    ],
)
def test_options_that_do_not_go_with_a_tolerance(options, message):
    with pytest.raises(ArgumentError, match=message):
        Diet(tolerance=1.0, **options)
