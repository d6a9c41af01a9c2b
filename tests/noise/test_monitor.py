"""The noise guard in a run: the diet with it, tags, its default, the skill on dev, and its files."""

from __future__ import annotations

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from datadiet.config import FinetuneConfig
from datadiet.data.schema import Examples
from datadiet.errors import ArgumentError, Problems
from datadiet.jobs import validate
from datadiet.jobs.finetune import dev_skill, finetune
from datadiet.noise.guard import (
    NoiseGuard,
    skill,
)
from datadiet.noise.monitor import NOISE, SUSPECTS, NoiseMonitor, write_noise
from datadiet.scores.reduce import free_signals
from datadiet.tasks.base import Prediction
from datadiet.types import HeadSignals, Signals
from toys import hard_diet, planted, scores_of, toy_config

ROWS = 2000
ALL = np.ones(ROWS, bool)
GROUPS = np.arange(400) % 2


@pytest.fixture(scope="module")
def tenth():
    """A tenth of the labels flipped: the data, the guard after its first review, and the excluded rows."""
    data = planted(0.1)
    return data, *NoiseGuard().review(data.epoch(0), ALL, data.labels, epoch=1)


@pytest.fixture(scope="module")
def two():
    """The same of two classes, for a diet."""
    return planted(0.1, classes=2)


# ---- in a diet


def signals_of(data, epoch, rows):
    """Two logits that have a row's margin, in the columns of its label and of another."""
    margin = torch.from_numpy(data.columns["margin"][epoch][rows])
    logits = torch.stack([-margin / 2, margin / 2], dim=1)
    return Signals({"label": HeadSignals(logits, torch.zeros(len(rows), dtype=torch.long))})


def run(diet, data, epochs=3):
    plans = []
    for epoch in range(epochs):
        diet.absorb(diet.drain())
        rows = diet.rows_to_score(epoch)
        if len(rows):
            values = diet.values_of(signals_of(data, epoch, rows))
            diet.absorb(diet.scores(rows, {name: value.numpy() for name, value in values.items()}, "pass", epoch))
        plans.append(diet.plan(epoch))
        for part in np.array_split(np.random.default_rng(epoch).permutation(plans[-1].rows), 20):
            diet.observe(torch.from_numpy(part), signals_of(data, epoch, part), epoch=epoch)
    return plans


def begun(data, **options):
    diet = hard_diet(keep=0.3, refresh_every=1, **options)
    diet.begin(ROWS, epochs=3, groups=data.labels)
    return diet


@pytest.mark.proves("auto", kind="offset", by="planted")
def test_the_diet_without_a_guard_keeps_the_flipped_and_with_it_does_not(two):
    data = two
    plain, guarded = (run(begun(data, offset=offset), data)[1].rows for offset in (0.0, "auto"))
    assert len(plain) == len(guarded) == 600
    assert data.flipped[plain].sum() > 180
    assert data.flipped[guarded].sum() < 60


@pytest.mark.proves("auto", kind="offset", by="planted")
def test_on_clean_data_the_guard_changes_nothing():
    data = planted(0.0, classes=2)
    for plain, guarded in zip(run(begun(data), data), run(begun(data, offset="auto"), data), strict=True):
        assert np.array_equal(plain.rows, guarded.rows)


def test_rows_at_rest_get_a_pass_and_no_others(two):
    data = two
    diet = begun(data, offset="auto")
    run(diet, data, epochs=2)
    assert np.array_equal(diet.rows_to_score(2), np.flatnonzero(diet.noise_monitor.excluded))
    assert len(diet.rows_to_score(2)) > 100


def test_rows_at_rest_that_trained_all_the_same_need_no_pass(two):
    data = two
    diet = begun(data, offset="auto", warmup_epochs=2)
    run(diet, data, epochs=2)  # reviewed after the first epoch; the second trains on everything
    assert diet.noise_monitor.excluded.any()
    diet.absorb(diet.drain())
    assert not len(diet.rows_to_score(2))
    diet.plan(2)
    assert diet.noise_monitor.guard.reviews[-1].judged == ROWS


def test_where_too_few_are_left_the_least_suspected_train():
    data = planted(0.2, classes=2)
    diet = hard_diet(keep=0.95, refresh_every=1, offset="auto")
    diet.begin(ROWS, epochs=3, groups=data.labels)
    plan = run(diet, data, epochs=2)[1]
    assert len(plan.rows) == 1900
    suspects = diet.noise_monitor.guard.suspects()["row"]
    assert len(suspects) > 100
    assert set(suspects) - set(plan.rows) == set(suspects[:100])


def test_a_resumed_guard_goes_on_as_the_uninterrupted_one(two):
    data = two
    whole = run(begun(data, offset="auto"), data)
    half = begun(data, offset="auto")
    half.dev_skill = {"label": 0.9}
    run(half, data, epochs=2)
    arrays, numbers = half.state_dict()
    rest = hard_diet(keep=0.3, refresh_every=1, offset="auto")
    rest.begin(ROWS, epochs=3, groups=data.labels, state=(arrays, json.loads(json.dumps(numbers))))
    rest.absorb(rest.drain())
    rows = rest.rows_to_score(2)
    values = rest.values_of(signals_of(data, 2, rows))
    rest.absorb(rest.scores(rows, {name: value.numpy() for name, value in values.items()}, "pass", 2))
    assert np.array_equal(rest.plan(2).rows, whole[2].rows)
    assert rest.dev_skill == half.dev_skill


def test_the_guard_needs_classes():
    diet = hard_diet(offset="auto")
    diet.begin(4, epochs=3)
    numbers = Signals({"value": HeadSignals(torch.zeros(4, 1), torch.zeros(4))})
    with pytest.raises(ArgumentError, match="offset='auto' needs classes or tags; these examples have numbers"):
        diet.observe(torch.arange(4), numbers, epoch=0)
    with pytest.raises(ArgumentError, match="offset must be a share or 'auto', got 'most'"):
        hard_diet(offset="most")


def test_it_goes_by_the_label_whatever_is_tagged_beside_it():
    intent = HeadSignals(torch.tensor([[2.0, 0.0], [0.0, 3.0]]), torch.tensor([1, 1]))
    slots = HeadSignals(torch.zeros(2, 4, 3), torch.zeros(2, 4, dtype=torch.long))
    alone = free_signals(Signals({"intent": intent}))
    joint = free_signals(Signals({"slots": slots, "intent": intent}), of_label=True)
    assert torch.equal(joint["label_loss"], alone["loss"])
    assert torch.equal(joint["label_margin"], alone["margin"])
    assert free_signals(Signals({"slots": slots}), of_label=True)["label_loss"].isnan().all()


# ---- tags


def tagged(rows, words=6, tags=9, flipped=(), seed=0):
    """A sure tagger, right in nearly all words; `flipped` sentences have one word with another tag."""
    rng = np.random.default_rng([seed, rows])
    gold = rng.integers(0, tags, (rows, words))
    logits = rng.normal(size=(rows, words, tags)) + 6 * np.eye(tags)[gold]
    unsure = rng.uniform(size=(rows, words)) < 0.05  # of two tags
    logits[unsure] += 6.5 * np.eye(tags)[(gold[unsure] + 1) % tags]
    labels = gold.copy()
    for row in flipped:
        labels[row, row % words] = (gold[row, row % words] + rng.integers(1, tags)) % tags
    return HeadSignals(torch.from_numpy(logits), torch.from_numpy(labels), torch.ones(rows, words, dtype=torch.bool))


def test_the_class_of_a_tagger_is_the_whole_sequence():
    logits = torch.tensor([[[2.0, 0.0, 1.0], [0.0, 3.0, 1.0]], [[2.0, 0.0, 1.0], [0.0, 3.0, 1.0]]])
    labels = torch.tensor([[0, 1], [1, 0]])
    head = HeadSignals(logits, labels, torch.ones(2, 2, dtype=torch.bool))
    found = free_signals(Signals({"tags": head}), of_label=True)
    sequences = (logits[:, 0, :, None] + logits[:, 1, None, :]).flatten(1)  # all nine of two words
    whole = HeadSignals(sequences, labels[:, 0] * 3 + labels[:, 1])
    right = free_signals(Signals({"label": whole}), of_label=True)
    assert torch.allclose(found["tags_loss"], right["label_loss"])
    assert torch.allclose(found["tags_margin"], right["label_margin"])
    assert found["tags_rank"].tolist() == [0, 2]
    assert found["label_rank"].isnan().all()


@pytest.mark.proves("auto", kind="offset", by="planted")
@pytest.mark.parametrize("joint", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_a_sentence_is_suspect_when_a_tag_contradicts_a_sure_model(seed, joint):
    rows = 1200
    flipped = np.random.default_rng(seed).permutation(rows)[:120]
    heads = {"slots": tagged(rows, flipped=flipped, seed=seed)}
    if joint:
        intents = torch.arange(rows) % 4
        heads["intent"] = HeadSignals(8 * torch.eye(4)[intents] + torch.rand(rows, 4), intents)
    diet = hard_diet(keep=0.5, offset="auto")
    diet.begin(rows, epochs=3, groups=np.arange(rows) % 4 if joint else None, write=False)
    diet.observe(torch.arange(rows), Signals(heads), epoch=0)
    diet.absorb(diet.drain())
    plan = diet.plan(1)
    monitor = diet.noise_monitor
    assert monitor.guards["tags"].rate == pytest.approx(0.1, abs=0.03)
    assert np.isin(np.flatnonzero(monitor.excluded), flipped).mean() > 0.9
    assert monitor.excluded[flipped].mean() > 0.7
    assert not monitor.excluded[plan.rows].any()
    assert list(monitor.guards) == (["label", "tags"] if joint else ["tags"])
    assert monitor.summary()["aside"] == (0 if joint else monitor.excluded.sum())
    assert not joint or monitor.summary()["tags"]["aside"] == monitor.excluded.sum()


def test_right_tags_are_left_alone_and_so_are_those_of_a_model_that_has_not_learned():
    for head in (tagged(1200), HeadSignals(torch.rand(1200, 6, 9), torch.randint(9, (1200, 6)))):
        diet = hard_diet(keep=0.5, offset="auto")
        diet.begin(1200, epochs=3, write=False)
        diet.observe(torch.arange(1200), Signals({"tags": head}), epoch=0)
        diet.absorb(diet.drain())
        diet.plan(1)
        assert not diet.noise_monitor.excluded.any()
        assert diet.noise_monitor.guard.reviews[0].note


def test_tags_are_judged_only_where_asked():
    assert list(begun_by_default().noise_monitor.guards) == ["label"]
    assert list(begun_by_default(offset="auto").noise_monitor.guards) == ["label", "tags"]


# ---- the default guard


def begun_by_default(groups=GROUPS, **options):
    diet = hard_diet(**options)
    diet.begin(400, epochs=5, groups=groups, write=False)
    return diet


def test_hardest_is_guarded_where_each_example_has_one_class():
    assert begun_by_default().noise_monitor is not None
    assert begun_by_default().describe()["offset"] == "auto"
    diet = begun_by_default(groups=None)
    assert diet.noise_monitor is None
    assert diet.describe()["offset"] == 0.0
    diet.begin(400, epochs=5, groups=GROUPS, write=False)  # each data set decides
    assert diet.noise_monitor is not None


@pytest.mark.parametrize(
    "options",
    [{"offset": 0.0}, {"offset": 0.1}, {"select": "uncertain"}, {"keep": 1.0}, {"tolerance": 0.5}],
)
def test_nothing_else_is_guarded_unasked(options):
    assert begun_by_default(**options).noise_monitor is None


@pytest.mark.parametrize(
    ("task", "offset"), [("classification", "auto"), ("intent-slot", "auto"), ("multi-label", 0.0), ("regression", 0.0)]
)
def test_the_command_line_guards_by_the_task(task, offset):
    diet = validate._diet(FinetuneConfig("data", task, "run"), Problems())
    assert diet is not None
    assert diet.options.offset == offset


@pytest.mark.parametrize(("task", "refused"), [("token-classification", False), ("multi-label", True)])
def test_tags_may_be_guarded_and_sets_of_labels_not(task, refused):
    problems = Problems()
    validate._diet(FinetuneConfig("data", task, "run", offset="auto"), problems)
    assert any("offset auto is for" in problem for problem in problems.found) == refused


def test_the_skill_on_dev_is_of_labels_and_of_words():
    sure = [Prediction(name, 0.9, np.array(p, np.float32)) for name, p in (("a", [0.9, 0.1]), ("b", [0.1, 0.9]))] * 200
    found = dev_skill(Examples(ids=("",) * 400, texts=("",) * 400, labels=("a", "b") * 200), sure, ("a", "b"))
    assert found == {"label": skill(400, 400, 0.5)}
    tags = [("O", "O", "B-x"), ("O", "B-x", "O")]
    said = [Prediction(None, None, None, ("O", "O", "O"))] * 2
    examples = Examples(ids=("a", "b"), texts=("", ""), tokens=[("u", "v", "w")] * 2, slots=tags)
    assert dev_skill(examples, said, ()) == {"tags": skill(4, 6, 4 / 6)}
    assert not dev_skill(Examples(ids=("a",), texts=("",), labels=(0.5,)), [Prediction(0.4, None, None)], ())


def test_a_run_tells_its_diet_the_skill_on_dev(tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr(NoiseMonitor, "review", lambda self, epoch, reached=None: told.append((epoch, reached)))
    finetune(toy_config(tmp_path, "intent-slot", offset="auto", epochs=2))
    assert [epoch for epoch, _ in told] == [0, 1]
    assert told[0][1] is None
    assert set(told[1][1]) == {"label", "tags"}


# ---- its files


def monitor_of(guard, labels=ALL):
    monitor = NoiseMonitor(len(labels), labels)
    monitor.guards["label"] = guard
    return monitor


def test_suspects_are_written_with_ids_labels_and_reasons(tenth, tmp_path):
    data, guard, out = tenth
    ids = [f"a{row}" for row in range(ROWS)]
    write_noise(tmp_path, monitor_of(guard), ids, [f"<b>{label}" for label in data.labels])
    table = pq.read_table(tmp_path / SUSPECTS).to_pandas()
    assert set(table["row"]) == set(np.flatnonzero(out))
    assert table["id"].tolist() == [ids[row] for row in table["row"]]
    assert table["label"].tolist() == [f"<b>{data.labels[row]}" for row in table["row"]]
    assert table["suspicion"].between(0.5, 1).all()
    assert table["reason"].str.contains("wrong labels; judged once").all()
    content = json.loads((tmp_path / NOISE).read_text(encoding="utf-8"))
    assert content["schema"] == 1
    assert content["aside"] == len(table)
    assert content["reviews"][0]["low"] <= 0.1 <= content["reviews"][0]["high"]
    assert not list(tmp_path.glob("*.part"))


def test_before_any_review_the_files_are_empty(tmp_path):
    assert NoiseGuard().summary() == {"rate": 0.0, "aside": 0, "reviews": []}
    assert NoiseGuard().reasons() == []
    write_noise(tmp_path, monitor_of(NoiseGuard(), ALL[:1]), ["a"], ["x"])
    assert pq.read_table(tmp_path / SUSPECTS).num_rows == 0
    assert json.loads((tmp_path / NOISE).read_text(encoding="utf-8"))["rate"] == 0


@pytest.mark.parametrize("kind", ["classification", "intent-slot", "token-classification"])
def test_a_run_with_a_guard_records_it(tmp_path, kind):
    result = finetune(toy_config(tmp_path, kind, offset="auto"))
    assert result["diet"]["offset"] == "auto"
    assert result["noise"]["reviews"][0]["note"].endswith("200 are needed")  # 48 rows
    assert (tmp_path / "run" / NOISE).is_file()
    scores = scores_of(tmp_path / "run")
    assert scores["label_loss"].notna().all() == (kind != "token-classification")
    assert scores["tags_loss"].notna().all() == (kind != "classification")
    assert ("tags" in result["noise"]) == (kind == "intent-slot")
    if kind == "classification":
        assert np.allclose(scores["label_loss"], scores["loss"])
