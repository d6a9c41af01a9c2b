"""Training arguments that do not go with a diet, or with a tolerance."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from datadiet.diet.diet import Diet
from datadiet.errors import ArgumentError
from datadiet.training.arguments import (
    LEAST_RATE,
    MOST_RATE,
    LearningRate,
    auto_learning_rate,
    check_judged,
    learning_rate_of,
)
from toys import toy_trainer

JUDGED = {"eval_strategy": "epoch", "metric_for_best_model": "accuracy"}


@pytest.mark.parametrize(
    ("diet", "changes", "message"),
    [
        ({"keep": 0.5}, {"dataloader_drop_last": True}, "dataloader_drop_last does not go"),
        ({"tolerance": 5.0}, JUDGED | {"max_steps": 5}, "tolerance decides the number of steps itself"),
        ({"tolerance": 5.0}, JUDGED | {"num_train_epochs": 2.5}, "tolerance decides the number of steps itself"),
        ({"tolerance": 5.0}, JUDGED | {"eval_strategy": "no"}, "eval_strategy='epoch', got 'no'"),
        ({"tolerance": 5.0}, JUDGED | {"metric_for_best_model": None}, "name it in metric_for_best_model"),
        (
            {"tolerance": 5.0},
            JUDGED | {"metric_for_best_model": "loss", "greater_is_better": False},
            "of which larger is better",
        ),
    ],
)
def test_arguments_that_do_not_go_with_a_diet(tmp_path, diet, changes, message):
    with pytest.raises(ArgumentError, match=message):
        toy_trainer(tmp_path, Diet(**diet), **changes)


def test_a_tolerance_needs_one_dev_split():
    args = SimpleNamespace(eval_strategy="epoch", greater_is_better=True)
    with pytest.raises(ArgumentError, match="tolerance needs one eval_dataset"):
        check_judged(args, {"one": [1], "two": [2]}, "accuracy")


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


# ---- the learning rate


@pytest.mark.parametrize(
    ("weights", "low", "high"),
    [
        (14e6, 1e-4, 5e-4),  # ELECTRA-small: 3e-4
        (66e6, 2e-5, 1e-4),  # DistilBERT: 5e-5
        (110e6, 2e-5, 5e-5),  # BERT-base
        (125e6, 1e-5, 3e-5),  # RoBERTa-base
        (335e6, 1e-5, 3e-5),  # BERT-large
        (0.3e6, 1e-4, 1e-3),  # an adapter
    ],
)
def test_the_automatic_rate_is_within_what_is_published(weights, low, high):
    assert low <= auto_learning_rate(int(weights)) <= high


def test_more_weights_never_get_a_higher_rate_and_the_rate_has_limits():
    rates = [auto_learning_rate(int(10**power)) for power in np.arange(0, 12, 0.1)]
    assert rates == sorted(rates, reverse=True)
    assert (rates[0], rates[-1]) == (MOST_RATE, LEAST_RATE)


def test_frozen_weights_do_not_count():
    model = torch.nn.Sequential(torch.nn.Linear(10, 10), torch.nn.Linear(10, 2))
    assert learning_rate_of("auto", model) == LearningRate(MOST_RATE, "auto", 132)
    model[0].requires_grad_(False)
    assert learning_rate_of(0.5, model) == LearningRate(0.5, "given", 22)
