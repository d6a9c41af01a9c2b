"""Rows that stand for several: their loss counts as often, whatever chooses among them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from numpy.testing import assert_allclose, assert_array_equal

from datadiet.compare.plan import compare_fields
from datadiet.data.load import load_data
from datadiet.diet.choose import weighed
from datadiet.diet.diet import Diet
from datadiet.errors import ArgumentError
from datadiet.jobs.finetune import finetune
from datadiet.jobs.validate import check_config
from datadiet.selectors.sampled import infobatch
from datadiet.store.tables import read_table
from datadiet.tasks.losses import class_weights
from datadiet.training.loop import epochs
from datadiet.types import EpochPlan
from toys import toy_config, toy_features, toy_trainer, weights, write_toy_folder

TIMES = np.array([1, 3, 1, 2, 5, 1, 1, 2, 1, 1, 4, 2], np.float32)
SGD = {"optim": "sgd", "lr_scheduler_type": "constant", "max_grad_norm": 0.0, "learning_rate": 0.5}
ONCE = {**SGD, "num_train_epochs": 1}


def trained(folder: Path, rows: np.ndarray, diet: Diet, times: np.ndarray | None = None, **options: object):
    extra = {} if times is None else {"row_weights": times}
    trainer = toy_trainer(folder, diet, extra=extra, **options)
    trainer.train_dataset = toy_features(len(TIMES)).select(rows)
    trainer.train()
    return trainer


@pytest.mark.parametrize("accumulation", [1, 2])
def test_one_step_is_that_of_all_the_repeats(tmp_path, accumulation):
    rows, size = np.arange(len(TIMES)), len(TIMES) // accumulation
    repeats = np.repeat(rows, TIMES.astype(int))
    whole = trained(tmp_path / "a", repeats, Diet(keep=1.0), **ONCE, per_device_train_batch_size=len(repeats))
    options = {**ONCE, "per_device_train_batch_size": size, "gradient_accumulation_steps": accumulation}
    once = trained(tmp_path / "b", rows, Diet(keep=1.0), TIMES, **options)
    torch.testing.assert_close(weights(once.model), weights(whole.model), atol=1e-6, rtol=1e-4)
    plain = trained(tmp_path / "c", rows, Diet(keep=1.0), **options)
    assert not torch.allclose(weights(plain.model), weights(whole.model), atol=1e-4)


def test_rows_that_are_all_alike_are_the_plain_trainer(tmp_path):
    rows = np.arange(len(TIMES))
    found = [trained(tmp_path / str(n), rows, Diet(keep=1.0), given) for n, given in enumerate((None, 3 + 0 * TIMES))]
    assert torch.equal(weights(found[0].model), weights(found[1].model))
    assert [trainer.diet.describe()["row_weights"] for trainer in found] == [False, False]


def test_a_choice_keeps_the_scale_of_the_loss():
    plan = weighed(EpochPlan(0, np.array([1, 4, 5]), full=False), TIMES)
    assert_allclose(plan.weights, [1.0, 5 / 3, 1 / 3])
    assert weighed(plan, None) is plan


def test_infobatch_stays_unbiased():
    """The expected sum is that of all repeats, on the scale of one row per text."""
    values, gradients = np.linspace(0, 1, 12) ** 4, np.random.default_rng(0).normal(size=12)
    found = []
    for seed in range(4000):
        chosen = infobatch(values, 6, seed=seed, epoch=0)
        plan = weighed(EpochPlan(0, chosen.rows, full=False, weights=chosen.weights), TIMES)
        assert_allclose(plan.weights, chosen.weights * TIMES[chosen.rows] / TIMES.mean(), rtol=1e-6)
        found.append(float(gradients[plan.rows] @ plan.weights))
    wanted = float(gradients @ TIMES) / TIMES.mean()
    assert abs(np.mean(found) - wanted) < 4 * np.std(found) / np.sqrt(len(found))


def test_weights_go_with_the_rows_through_a_diet_and_a_resume(tmp_path):
    diet = Diet(keep=0.5, refresh_every=1, select="infobatch", score="cross_entropy")
    rows, options = np.arange(len(TIMES)), {"per_device_train_batch_size": 2, "num_train_epochs": 4}
    trainer = trained(tmp_path, rows, diet, TIMES, **options)
    table = read_table(tmp_path / "plans").to_pandas()
    first = table[table["epoch"] == 0]
    assert_allclose(first.sort_values("row")["weight"], TIMES / TIMES.mean(), rtol=1e-6)
    assert trainer.diet.describe()["row_weights"]
    again, state = Diet(keep=0.5, refresh_every=1, select="infobatch", score="cross_entropy"), diet.state_dict()
    again.begin(len(TIMES), epochs=4, batch=2, row_weights=TIMES, write=False, state=state)
    assert_array_equal(again.plan(3).weights, diet.plan(3).weights)


def test_infobatch_has_no_weights_in_the_last_epochs(tmp_path):
    """They train on everything: what a draw stood for is there itself."""
    diet = Diet(keep=0.5, refresh_every=1, anneal_epochs=1, select="infobatch", score="cross_entropy")
    trainer = trained(tmp_path, np.arange(len(TIMES)), diet, per_device_train_batch_size=2)
    by_epoch = read_table(tmp_path / "plans").to_pandas().groupby("epoch")["weight"]
    assert by_epoch.max().tolist()[::3] == [1.0, 1.0]
    assert by_epoch.sum().tolist() == pytest.approx([12.0] * 4)
    assert by_epoch.max()[2] > 1
    assert trainer._epochs.weights is None


def test_a_plain_loop_has_them():
    data = [{"x": torch.tensor(row), "labels": torch.tensor(0)} for row in range(len(TIMES))]
    epoch = next(iter(epochs(Diet(keep=0.5), 2, num_examples=len(TIMES), row_weights=TIMES)))
    for batch in epoch.loader(data, batch_size=4):
        assert_allclose(batch.weights, TIMES[batch.rows.numpy()] / TIMES.mean(), rtol=1e-6)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (TIMES[:3], r"row_weights must be one number per training row, 12, got \(3,\)"),
        (TIMES - 1, r"row_weights must be finite and above 0; rows \[0, 2, 5, 6, 8\] are not"),
    ],
)
def test_weights_that_cannot_be_are_refused(given, words):
    with pytest.raises(ArgumentError, match=words):
        Diet(keep=0.5).begin(len(TIMES), epochs=2, row_weights=given)


# ---- --dedupe --dedupe-weights ----


@pytest.fixture
def repeated(tmp_path: Path) -> Path:
    """24 texts, of which the first came four times, once in other letters."""
    data = write_toy_folder(tmp_path, n=24)
    lines = [json.loads(line) for line in (data / "train.jsonl").read_text().splitlines()]
    lines += [lines[0] | {"id": f"again-{n}", "text": (str.upper if n else str)(lines[0]["text"])} for n in range(3)]
    (data / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return data


def test_finetune_counts_each_text_as_often_as_it_came(repeated, tmp_path):
    options = {"dedupe": True, "dedupe_weights": True, "epochs": 2, "keep": 0.5, "data": str(repeated)}
    result = finetune(toy_config(tmp_path, **options))
    assert (result["diet"]["row_weights"], result["data"]["rows"]["train"]) == (True, 24)
    assert yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())["dedupe_weights"]
    table = read_table(tmp_path / "run" / "plans").to_pandas()
    first = table[table["epoch"] == 0].set_index("row")["weight"]
    assert_allclose(first.sort_index(), np.r_[4, np.ones(23)] * 24 / 27, rtol=1e-6)
    rest = table[table["epoch"] == 1]["weight"]
    assert rest.mean() == pytest.approx(1, rel=1e-6)
    plain = finetune(toy_config(tmp_path, **{**options, "dedupe_weights": False, "output": str(tmp_path / "plain")}))
    assert plain["diet"]["row_weights"] is False


def test_the_weights_of_the_classes_count_repeats_too(repeated):
    data = load_data(str(repeated), "classification", dedupe=True)
    train = data.splits["train"]
    assert train.times == (4, *(1,) * 23)
    assert class_weights(data) == [1.0, 1.0]
    more = data.label_names.index(train.labels[0])
    assert class_weights(data, repeats=True)[more] == pytest.approx(27 / (2 * 15))
    whole = load_data(str(repeated), "classification")
    assert class_weights(data, repeats=True) == class_weights(whole)


def test_the_option_is_known_and_refused_alone(tmp_path):
    assert "dedupe_weights" in compare_fields()
    with pytest.raises(ArgumentError, match="dedupe_weights has no effect without dedupe"):
        check_config(toy_config(tmp_path, dedupe_weights=True))
