"""Training arguments that do not go with a diet, or with a tolerance."""

from __future__ import annotations

from types import SimpleNamespace

import datasets
import numpy as np
import pytest
import torch
from transformers import Trainer

from datadiet.diet.diet import Diet
from datadiet.errors import ArgumentError
from datadiet.scoring.forward import lengths_of, whole_numbers
from datadiet.training.arguments import (
    LEAST_RATE,
    MOST_RATE,
    LearningRate,
    auto_learning_rate,
    check_judged,
    ids_and_groups,
    learning_rate_of,
)
from datadiet.training.trainer import DietTrainer
from toys import hard_diet, toy_features, toy_trainer

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


# ---- columns of the training data

PLAIN = datasets.Dataset.from_dict({"id": [7, 8, 7], "length": [2, 1, 3], "label": [1, 0, 2], "input_ids": [[1]] * 3})


@pytest.mark.parametrize(
    "data",
    [
        PLAIN,
        PLAIN.with_format("torch"),
        PLAIN.with_format("numpy"),
        PLAIN.with_format("torch", columns=["input_ids"]),
        PLAIN.to_list(),
        tuple(PLAIN.to_list()),
    ],
)
def test_columns_are_read_as_they_are_stored(data):
    ids, groups = ids_and_groups(data)
    assert (list(map(str, ids)), groups.tolist()) == (["7", "8", "7"], [1, 0, 2])
    assert lengths_of(data).tolist() == [2, 1, 3]


def test_rows_that_are_made_when_they_are_read_have_ids_only():
    data = PLAIN.with_transform(lambda rows: {"labels": [0 for _ in rows["label"]]})
    ids, groups = ids_and_groups(data)
    assert (list(ids), groups, lengths_of(data)) == ([7, 8, 7], None, None)
    with pytest.raises(ArgumentError, match=r"need the class of each example.*Give groups="):
        hard_diet(keep=0.5, floor=1).begin(3, epochs=2, groups=groups)


@pytest.mark.parametrize("lengths", [["a", "b", "c"], [1.5, 2.0, 2.5], [None] * 3])
def test_a_length_that_is_no_number_of_tokens_is_left_aside(lengths):
    assert lengths_of(PLAIN.remove_columns("length").add_column("length", lengths)).tolist() == [1, 1, 1]


def test_a_missing_label_is_no_class_and_a_missing_length_no_number():
    assert ids_and_groups([{"label": None}, {"label": 2}])[1].tolist() == [-100, 2]
    with pytest.raises(TypeError, match="NoneType"):
        whole_numbers([1, None])


def test_the_only_label_name_is_the_column_of_the_classes():
    data = PLAIN.rename_column("label", "topic")
    assert ids_and_groups(data)[1] is None
    assert ids_and_groups(data, ["topic"])[1].tolist() == [1, 0, 2]
    assert ids_and_groups(data, ["topic", "length"])[1] is None  # as the ends of an answer


@pytest.mark.cpu
def test_data_of_any_format_train_as_with_the_plain_trainer(tmp_path):
    kept = ("input_ids", "attention_mask", "labels")
    rows = toy_features().remove_columns([name for name in toy_features().column_names if name not in kept])
    stored = rows.add_column("id", list(range(48))).add_column("length", ["?"] * 48)
    given = {
        "made": stored.with_transform(lambda batch: {name: batch[name] for name in kept}),
        "numpy": stored.with_format("numpy", columns=list(kept)),
        "list": rows.to_list(),
    }
    for name, data in given.items():
        found = []
        for diet in (None, Diet(keep=1.0), hard_diet(keep=0.5)):
            kind, options = (Trainer if diet is None else DietTrainer), {"remove_unused_columns": False}
            trainer = toy_trainer(tmp_path / f"{name}-{len(found)}", diet, kind=kind, num_train_epochs=2, **options)
            trainer.train_dataset = data
            trainer.train()
            found.append(trainer.seen.losses)
        assert found[0] == found[1]
        assert len(found[2]) == 12 + 6


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
