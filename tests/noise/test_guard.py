"""The noise guard: recovered rates, excluded and re-admitted rows, the diet with it, its default, and its files."""

from __future__ import annotations

import json

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from datadiet.config import FinetuneConfig
from datadiet.errors import ArgumentError, Problems
from datadiet.jobs import validate
from datadiet.jobs.finetune import finetune
from datadiet.noise.guard import (
    LEAST_RATE,
    LEAST_ROWS,
    MOST_OF_CLASS,
    NOISE,
    SUSPECTS,
    NoiseGuard,
    NoiseMonitor,
    excluded,
    write_noise,
)
from datadiet.noise.lapse_rate import all_evidence, evidence, fit_level, normal_scores
from datadiet.scores.reduce import free_signals
from datadiet.types import HeadSignals, Scores, Signals
from toys import hard_diet, planted, scores_of, toy_config

ROWS = 2000
ALL = np.ones(ROWS, bool)
GROUPS = np.arange(400) % 2


def reviewed(data, epochs=1):
    guard, out = NoiseGuard(), ~ALL
    for epoch in range(epochs):
        guard, out = guard.review(data.epoch(epoch), ~out, data.labels, epoch=epoch + 1)
    return guard, out


@pytest.fixture(scope="module")
def tenth():
    """A tenth of the labels flipped: the data, the guard after its first review, and the excluded rows."""
    data = planted(0.1)
    return data, *reviewed(data)


@pytest.fixture(scope="module")
def two():
    """The same of two classes, for a diet."""
    return planted(0.1, classes=2)


# ---- the estimate


@pytest.mark.proves("auto", kind="offset", by="planted")
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("rate", [0.0, 0.05, 0.1, 0.2])
def test_planted_rates_are_recovered_within_three_points(rate, seed):
    guard, out = reviewed(planted(rate, seed=seed))
    assert guard.rate == pytest.approx(rate, abs=0.03)
    if rate == 0:
        assert not out.any()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("rate", [0.0, 0.2])
def test_labels_learned_by_heart_after_an_epoch_still_count(rate, seed):
    """With what the second epoch says of all rows averaged in, the estimate was at most 17 %."""
    data = planted(rate, rows=3000, classes=3, apart=2.5, by_heart=5, epochs=2, seed=seed)
    margin, loss = (data.columns[name][1].astype(float) for name in ("margin", "loss"))
    second = evidence(normal_scores(np.exp(np.maximum(margin, 0) - loss)), margin > 0)
    assert fit_level([second], 3).rate <= 0.8 * rate
    guard = NoiseGuard()
    for epoch in range(2):
        guard, out = guard.review(data.epoch(epoch), np.ones(3000, bool), data.labels, epoch=epoch + 1)
    assert guard.rate == pytest.approx(rate, abs=0.03)
    assert data.flipped[out].mean() > 0.8 if rate else not out.any()


@pytest.mark.proves("auto", kind="offset", by="planted")
@pytest.mark.parametrize("rate", [0.05, 0.1, 0.2])
def test_those_set_aside_are_the_flipped_ones(rate):
    data = planted(rate)
    _, out = reviewed(data)
    assert data.flipped[out].mean() > 0.8
    assert out[data.flipped].mean() > 0.8


@pytest.mark.parametrize(("rate", "apart", "epochs"), [(0.0, 2.5, 2), (0.01, 4.0, 1)])
def test_hard_examples_and_very_few_flips_are_not_taken_for_noise(rate, apart, epochs):
    """Of overlapping classes 15 % contradict the model, all rightly labelled."""
    data = planted(rate, apart=apart)
    assert (data.columns["margin"][1] > 0).mean() > 0.1 or rate
    guard, out = reviewed(data, epochs)
    assert guard.rate < LEAST_RATE
    assert guard.rate > 0 or not rate
    assert not out.any()


def test_the_interval_covers_what_was_planted_and_shrinks_with_rows():
    def review(rows):
        data = planted(0.1, rows=rows)
        return NoiseGuard().review(data.epoch(1), np.ones(rows, bool), data.labels, epoch=1)[0].reviews[0]

    small, large = review(600), review(6000)
    assert large.low <= 0.1 <= large.high
    assert large.high - large.low < small.high - small.low


# ---- the reviews


def late_in(data):
    return data.columns["moment"][0] > np.median(data.columns["moment"][0])


def test_rows_at_rest_that_agree_in_a_pass_come_back(tenth):
    data, guard, out = tenth
    rest = np.flatnonzero(out)
    columns = {**data.epoch(1), "moment": np.full(ROWS, np.nan, np.float32)}  # a pass has no moment
    columns["margin"] = columns["margin"].copy()
    columns["margin"][rest[:7]], columns["margin"][rest[7:]] = -2.0, 2.0
    later, still = guard.review(columns, ALL, data.labels, epoch=2)
    assert not still[rest[:7]].any()
    assert still[rest[7:]].all()
    assert later.reviews[-1].returned == 7


def test_each_row_counts_once_at_its_first_sight_by_a_model_that_was_ready(tenth):
    data, guard, _ = tenth
    late = late_in(data)
    assert np.array_equal(guard.arrays["counted"], late)
    guard, _ = guard.review(data.epoch(1), ALL, data.labels, epoch=2)
    assert guard.arrays["counted"].all()
    parts = all_evidence(guard.arrays)
    assert [part.again for part in parts] == [False, True]
    assert sum(part.rows.sum() for part in parts) == ROWS
    third, _ = guard.review(data.epoch(2), ALL, data.labels, epoch=3)
    assert [review.evidence for review in third.reviews] == [late.sum(), ROWS, ROWS]
    assert third.rate == guard.rate


@pytest.mark.parametrize("hardest", [0.3, 0.9])
def test_rows_chosen_by_their_values_are_no_sample(tenth, hardest):
    """Among the hardest there are more wrong labels: they say nothing of the level."""
    data, guard, _ = tenth
    chosen = data.columns["loss"][0] > np.quantile(data.columns["loss"][0], 1 - hardest)
    later, out = guard.review(data.epoch(1), chosen, data.labels, epoch=2)
    assert later.rate == guard.rate
    assert later.reviews[-1].evidence == late_in(data).sum()
    assert later.reviews[-1].share > later.rate
    assert data.flipped[out].mean() > 0.8


def test_a_pass_over_part_of_the_rows_seen_again_is_no_evidence(tenth):
    data, guard, _ = tenth
    columns = {**data.epoch(1), "moment": np.where(np.arange(ROWS) % 2, data.epoch(1)["moment"], np.float32(np.nan))}
    later, _ = guard.review(columns, ALL & ~guard.arrays["excluded"], data.labels, epoch=2)
    assert later.reviews[-1].evidence == late_in(data).sum()


def test_nothing_rests_where_the_interval_comes_near_to_nothing():
    """Few rows: the estimate is above the least, the doubt larger."""
    data = planted(0.03, rows=420, apart=3.0)
    guard, out = NoiseGuard().review(data.epoch(1), np.ones(420, bool), data.labels, epoch=1)
    assert guard.rate >= LEAST_RATE
    assert guard.reviews[-1].low <= LEAST_RATE / 2
    assert not out.any()


def test_a_pass_does_not_replace_what_training_saw():
    monitor = NoiseMonitor(np.zeros(4, np.int64))
    columns = ("label_loss", "label_margin", "moment")
    for source, rows, value in (("train", [0, 1], 1.0), ("pass", [1, 2], 5.0), ("train", [0], 2.0)):
        values = {name: np.full(len(rows), value, np.float32) for name in columns}
        monitor.take(Scores(np.array(rows), values, source, 0, 0))
    arrays, _ = monitor.state()
    assert arrays["loss"][:3].tolist() == [2.0, 1.0, 5.0]


def test_rows_seen_late_join_at_a_later_review(tenth):
    data = tenth[0]
    half = np.arange(ROWS) < ROWS // 2
    guard, out = NoiseGuard().review(data.epoch(0), half, data.labels, epoch=1)
    assert not out[~half].any()
    guard, out = guard.review(data.epoch(1), ~half, data.labels, epoch=2)
    assert data.flipped[out & ~half].mean() > 0.8
    assert guard.reviews[-1].joined > 50
    assert guard.rate == pytest.approx(0.1, abs=0.03)


def test_too_few_rows_change_nothing_and_say_so(tenth):
    data, guard, out = tenth
    few = np.arange(ROWS) < LEAST_ROWS - 1
    later, same = guard.review(data.epoch(1), few & ~out, data.labels, epoch=2)
    assert np.array_equal(same, out)
    assert later.rate == guard.rate
    assert later.reviews[-1].note.endswith("rows were seen, 200 are needed")


def test_of_a_class_at_most_half_rests_and_the_most_suspected():
    suspicion = np.linspace(0.99, 0.6, 10).astype(np.float32)
    out = excluded(suspicion, np.array([0] * 6 + [1] * 4))
    assert MOST_OF_CLASS == 0.5
    assert np.flatnonzero(out).tolist() == [0, 1, 2, 6, 7]


def test_the_same_dynamics_give_the_same_guard_and_inputs_stay_as_they_were(tenth):
    data, one, out = tenth
    before = {name: values.copy() for name, values in data.epoch(0).items()}
    again, rows = reviewed(data)
    assert one.reviews == again.reviews
    assert np.array_equal(out, rows)
    assert all(np.array_equal(values, data.epoch(0)[name]) for name, values in before.items())


def test_state_survives_json():
    guard, out = reviewed(planted(0.1), epochs=2)
    arrays, numbers = guard.state()
    assert {"aside", "heard"} < set(arrays)  # the names in checkpoints and noise.json, whatever the code calls them
    assert "aside" in numbers["reviews"][0]
    back = NoiseGuard().restored(arrays, json.loads(json.dumps(numbers)))
    assert back.reviews == guard.reviews
    assert np.array_equal(back.arrays["excluded"], out)


def test_missing_columns_are_named():
    with pytest.raises(ArgumentError, match=r"needs the columns loss, margin; missing: margin\."):
        NoiseGuard().review({"loss": np.zeros(3, np.float32)}, np.ones(3, bool), np.zeros(3, np.int64), epoch=1)


def test_the_summary_tells_rate_interval_and_whom(tenth):
    data, guard, out = tenth
    names = [f"class {label}" for label in data.labels]
    summary = guard.summary(names)
    assert summary["aside"] == out.sum() == sum(summary["aside_by_label"].values())
    assert set(summary["aside_by_label"]) == set(names)
    review = summary["reviews"][0]
    assert review["low"] <= review["rate"] <= review["high"]
    assert review["evidence"] == late_in(data).sum()
    suspects = guard.suspects()
    assert (np.diff(suspects["suspicion"]) <= 0).all()
    assert set(suspects["row"]) == set(np.flatnonzero(out))
    assert len(guard.reasons()) == len(suspects["row"])
    assert guard.reasons()[0].startswith("its label contradicts what the model is sure of (probability ")


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
    run(half, data, epochs=2)
    arrays, numbers = half.state_dict()
    rest = hard_diet(keep=0.3, refresh_every=1, offset="auto")
    rest.begin(ROWS, epochs=3, groups=data.labels, state=(arrays, json.loads(json.dumps(numbers))))
    rest.absorb(rest.drain())
    rows = rest.rows_to_score(2)
    values = rest.values_of(signals_of(data, 2, rows))
    rest.absorb(rest.scores(rows, {name: value.numpy() for name, value in values.items()}, "pass", 2))
    assert np.array_equal(rest.plan(2).rows, whole[2].rows)


def test_the_guard_needs_classes():
    with pytest.raises(ArgumentError, match="offset='auto' needs the class of each example"):
        hard_diet(offset="auto").begin(ROWS, epochs=3)
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


# ---- its files


def test_suspects_are_written_with_ids_labels_and_reasons(tenth, tmp_path):
    data, guard, out = tenth
    ids = [f"a{row}" for row in range(ROWS)]
    write_noise(tmp_path, guard, ids, [f"<b>{label}" for label in data.labels])
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
    write_noise(tmp_path, NoiseGuard(), ["a"], ["x"])
    assert pq.read_table(tmp_path / SUSPECTS).num_rows == 0
    assert json.loads((tmp_path / NOISE).read_text(encoding="utf-8"))["rate"] == 0


@pytest.mark.parametrize("kind", ["classification", "intent-slot"])
def test_a_run_with_a_guard_records_it(tmp_path, kind):
    result = finetune(toy_config(tmp_path, kind, offset="auto"))
    assert result["diet"]["offset"] == "auto"
    assert result["noise"]["reviews"][0]["note"].endswith("200 are needed")  # 48 rows
    assert (tmp_path / "run" / NOISE).is_file()
    scores = scores_of(tmp_path / "run")
    assert scores["label_loss"].notna().all()
    if kind == "classification":
        assert np.allclose(scores["label_loss"], scores["loss"])
