from __future__ import annotations

import numpy as np
import pytest
from transformers import Trainer

from datadiet.diet.diet import Diet
from datadiet.errors import ArgumentError
from datadiet.training.loop import DietCallback
from toys import toy_trainer


def with_callback(tmp_path, diet, **changes):
    callback = DietCallback(diet)
    settings = {"lr_scheduler_type": "constant", **changes}
    trainer = toy_trainer(tmp_path, kind=Trainer, extra={"callbacks": [callback]}, **settings)
    return trainer, callback


def test_trains_on_the_diet_without_a_subclass(tmp_path):
    trainer, callback = with_callback(tmp_path, Diet(keep=0.5, refresh_every=1))
    trainer.train()
    assert trainer.state.global_step == 12 + 3 * 6
    history = callback.diet.history.to_pandas()
    assert history.groupby("epoch").size().tolist() == [48, 24, 24, 24]
    warm = history[history["epoch"] == 0].set_index("row")["el2n"]
    chosen = history[history["epoch"] == 1]["row"]
    assert set(chosen) == set(warm.nlargest(24).index)
    assert not trainer.model._forward_hooks
    assert not trainer.model._forward_pre_hooks


def test_keep_one_takes_any_schedule_and_changes_nothing(tmp_path):
    plain = toy_trainer(tmp_path / "plain", kind=Trainer)
    plain.train()
    trainer, _ = with_callback(tmp_path / "full", Diet(keep=1.0), lr_scheduler_type="linear")
    trainer.train()
    assert np.array_equal(
        [p.detach().numpy().sum() for p in trainer.model.parameters()],
        [p.detach().numpy().sum() for p in plain.model.parameters()],
    )


@pytest.mark.parametrize(
    ("diet", "changes", "message"),
    [
        (Diet(), {"lr_scheduler_type": "linear"}, "'linear' learning rate.*use DietMixin"),
        (Diet(rescore="all"), {}, "cannot rescore 'all'.*use DietMixin"),
        (Diet(), {"max_steps": 9}, "cannot plan max_steps"),
    ],
)
def test_refuses_what_a_callback_cannot_do(tmp_path, diet, changes, message):
    trainer, _ = with_callback(tmp_path, diet, **changes)
    with pytest.raises(ArgumentError, match=message):
        trainer.train()


def test_refuses_to_resume(tmp_path):
    trainer, _ = with_callback(tmp_path, Diet(), save_strategy="steps", save_steps=13)
    trainer.train()
    again, _ = with_callback(tmp_path, Diet())
    with pytest.raises(ArgumentError, match="cannot resume"):
        again.train(resume_from_checkpoint=True)


def test_says_that_label_smoothing_hides_the_labels(tmp_path):
    trainer, _ = with_callback(tmp_path, Diet(), label_smoothing_factor=0.1)
    with pytest.raises(ArgumentError, match=r"no labels \(label smoothing.*use DietMixin"):
        trainer.train()
