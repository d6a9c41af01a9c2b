from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest
import torch

from datadiet.diet.diet import Diet
from datadiet.errors import ArgumentError, DataError
from datadiet.registry import find, names
from datadiet.scores import history
from datadiet.types import HeadSignals, Selection, Signals, TokenSignals
from toys import hard_diet

N = 20


def signals(errors) -> Signals:
    """Two-class signals whose EL2N is the given error: sqrt(2) (1 - p_gold)."""
    gold = 1 - torch.as_tensor(errors, dtype=torch.float32) / math.sqrt(2)
    logits = torch.stack([gold.log(), (1 - gold).log()], dim=1)
    return Signals({"label": HeadSignals(logits, torch.zeros(len(gold), dtype=torch.long))})


def begun(diet: Diet, epochs=6, n=N, **options) -> Diet:
    diet.begin(n, epochs=epochs, **options)
    return diet


def epoch_of(diet, epoch, errors):
    """Train one epoch: every planned row has its error."""
    diet.absorb(diet.drain())
    rows = diet.rows_to_score(epoch)
    if len(rows):
        values = {name: value.numpy() for name, value in diet.values_of(signals(errors[rows])).items()}
        diet.absorb(diet.scores(rows, values, "pass", epoch))
    plan = diet.plan(epoch)
    diet.observe(torch.from_numpy(plan.rows), signals(errors[plan.rows]), epoch=epoch)
    return plan


ERRORS = np.linspace(0.1, 1.2, N)


def test_keeps_the_hardest_half():
    diet = begun(hard_diet(refresh_every=1))
    assert epoch_of(diet, 0, ERRORS).full
    plan = epoch_of(diet, 1, ERRORS)
    assert plan.rows.tolist() == list(range(10, 20))
    assert plan.round == 0
    assert epoch_of(diet, 2, ERRORS).round == 1


@pytest.mark.proves("all", by="planted")
def test_dropped_examples_come_back_only_through_a_pass():
    turned = ERRORS[::-1].copy()  # from epoch 1 on the easy rows are the hard ones
    for rescore, expected in (("none", range(10, 20)), ("all", range(10)), ("dropped", range(10))):
        diet = begun(hard_diet(refresh_every=1, rescore=rescore))
        epoch_of(diet, 0, ERRORS)
        epoch_of(diet, 1, ERRORS)
        diet.absorb(diet.drain())
        kept = [row for row in epoch_of(diet, 2, turned).rows.tolist() if ERRORS[row] != turned[row]]
        # rows that trained keep their training value unless everything is rescored
        if rescore == "all":
            assert kept == list(expected)
        else:
            assert set(kept) >= set(range(18, 20)), rescore


def test_never_seen_rows_come_first_without_a_warmup():
    diet = begun(hard_diet(warmup_epochs=0, refresh_every=1, keep=0.5))
    first = epoch_of(diet, 0, ERRORS).rows
    assert first.tolist() != list(range(10))  # random
    second = epoch_of(diet, 1, ERRORS).rows
    assert set(first).isdisjoint(second)


def test_static_chooses_once():
    diet = begun(hard_diet(static=True))
    epoch_of(diet, 0, ERRORS)
    plans = [epoch_of(diet, epoch, np.roll(ERRORS, epoch)).rows.tolist() for epoch in range(1, 6)]
    assert all(plan == plans[0] for plan in plans)


def test_asking_twice_for_a_plan_changes_nothing():
    diet = begun(hard_diet(refresh_every=1))
    epoch_of(diet, 0, ERRORS)
    diet.absorb(diet.drain())
    assert diet.plan(1) is diet.plan(1)
    assert diet.round == 1


def turnover(n=2000):
    """Shares of the plan that are kept at two refreshes, of examples that fall by 0.6 in an epoch they train in."""
    errors = np.random.default_rng(0).uniform(0.2, 1.2, n)
    diet = begun(hard_diet(refresh_every=1), n=n)
    plans = []
    for epoch in range(4):
        plans.append(epoch_of(diet, epoch, errors).rows)
        errors *= np.sqrt(0.6)  # by what the others teach
        errors[plans[-1]] *= np.sqrt(0.6)
    return [len(np.intersect1d(plans[epoch], plans[epoch + 1])) / len(plans[1]) for epoch in (1, 2)]


@pytest.mark.proves("none", by="planted")
def test_a_diet_without_passes_does_not_swap_its_halves(monkeypatch):
    """What rests keeps an old, higher value: unless that is brought up to date, every refresh takes the other half."""
    updated = turnover()
    monkeypatch.setattr("datadiet.diet.values.REST", 0.0)
    assert all(new > old + 0.1 for new, old in zip(updated, turnover(), strict=True))
    assert max(updated) < 1.0  # and yet what rests comes back


@pytest.mark.proves("last", "mean", by="planted")
def test_history_smooths_over_rounds():
    diet = begun(hard_diet(refresh_every=1, history=history.mean(2), rescore="all", warmup_epochs=1))
    first, second = np.r_[np.full(10, 1.0), np.full(10, 0.5)], np.r_[np.full(10, 0.4), np.full(10, 0.6)]
    epoch_of(diet, 0, first)
    epoch_of(diet, 1, first)
    assert epoch_of(diet, 2, second).rows.tolist() == list(range(10))  # means 0.7 and 0.55
    last = begun(hard_diet(refresh_every=1, rescore="all"))
    for epoch, errors in enumerate((first, first, second)):
        plan = epoch_of(last, epoch, errors)
    assert plan.rows.tolist() == list(range(10, 20))


def test_a_score_of_the_users_own():
    def surprise(logits, labels, *, mask=None):
        return -logits.gather(-1, labels[..., None])[..., 0].float()

    diet = begun(hard_diet(score=surprise, refresh_every=1))
    epoch_of(diet, 0, ERRORS)
    assert epoch_of(diet, 1, ERRORS).rows.tolist() == list(range(10, 20))
    diet.absorb(diet.drain())
    assert {"surprise", "gold_probability", "margin", "loss"} <= set(diet.history.to_pandas().columns)


def test_a_selector_of_the_users_own():
    def first(values, count, *, seed, epoch, groups=None):
        return Selection(np.arange(count))

    diet = begun(Diet(select=first, refresh_every=1))
    epoch_of(diet, 0, ERRORS)
    assert epoch_of(diet, 1, ERRORS).rows.tolist() == list(range(10))
    assert diet.describe()["select"] == "first"


def test_weights_are_planned_and_reset_where_everything_trains():
    def weighted(values, count, *, seed, epoch, groups=None):
        return Selection(np.arange(count), np.full(count, 2, np.float32))

    diet = begun(Diet(select=weighted, refresh_every=2, anneal_epochs=1), epochs=4)
    found = [epoch_of(diet, epoch, ERRORS).weights for epoch in range(4)]
    assert [weights is None for weights in found] == [True, False, False, True]
    assert found[1].tolist() == found[2].tolist() == [2.0] * 10
    assert diet._tables.plans.read()["weight"].to_pylist()[-20:] == [1.0] * 20


@pytest.mark.proves("uncertain", by="planted")
def test_uncertain_prefers_the_undecided():
    sure = np.r_[np.full(100, 0.01), np.full(100, 1.41), np.full(100, math.sqrt(0.5))]
    diet = begun(Diet(select="uncertain", keep=1 / 3, refresh_every=1), n=300)
    assert diet.options.combine == "mean"
    epoch_of(diet, 0, sure)
    assert np.mean(epoch_of(diet, 1, sure).rows >= 200) > 0.7


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"keep": 70}, "keep must be in .0, 1., got 70. Did you mean 0.7"),
        ({"keep": 0}, "keep must be in"),
        ({"score": "el2m"}, "unknown score 'el2m'; did you mean 'el2n'"),
        ({"select": "hardst"}, "unknown selector 'hardst'; did you mean 'hardest'"),
        ({"rescore": "some"}, "unknown rescore 'some'"),
        ({"history": "emma"}, "unknown history 'emma'; did you mean 'ema'"),
        ({"combine": "norms"}, "unknown combine 'norms'; did you mean 'norm'"),
        ({"offset": 0.1, "select": "random"}, "offset has no effect on 'random'"),
        ({"epsilon": 0.1}, r'epsilon is written with the method it belongs to now: select "epsilon\(epsilon=0.1\)"'),
        ({"select": "epsilon(epsilon=10)"}, "epsilon of epsilon must be in .0, 1., got 10. Did you mean 0.1"),
        ({"offset": 0.1, "select": "hardest(offset=0.2)"}, "offset is given twice, 0.1 and 0.2"),
        ({"offset": 5}, "offset must be in .0, 1., got 5. Did you mean 0.05"),
        ({"select": "window"}, "window needs an offset"),
        ({"scores_from": "runs/x"}, "scores_from has no effect after a warm-up"),
        ({"floor": -1}, "floor must be a whole number"),
        ({"select": "divbs", "floor": 2}, "floor has no effect on 'divbs'"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ArgumentError, match=message):
        hard_diet(**options)


def test_all_problems_come_at_once():
    with pytest.raises(ArgumentError) as caught:
        hard_diet(score="el2m", keep=50, rescore="no")
    assert len(caught.value.problems) == 3


def test_a_score_that_needs_more_is_refused_before_training():
    def by_gradient(logits, labels, *, mask=None):
        return logits

    by_gradient.needs = {"gradients"}
    with pytest.raises(ArgumentError, match="by_gradient needs gradients"):
        hard_diet(score=by_gradient)


def test_floor_needs_groups():
    with pytest.raises(ArgumentError, match="need the class"):
        begun(hard_diet(floor=1))


def test_floor_keeps_the_rare_class():
    groups = np.r_[np.zeros(18, int), [1, 1]]
    easy = np.r_[np.full(18, 1.0), [0.01, 0.02]]
    diet = begun(hard_diet(floor=2, refresh_every=1, keep=0.3), groups=groups)
    epoch_of(diet, 0, easy)
    assert {18, 19} <= set(epoch_of(diet, 1, easy).rows.tolist())


def test_state_goes_on_where_it_was():
    options = {"refresh_every": 1, "history": "ema", "rescore": "dropped"}
    whole, half = begun(hard_diet(**options)), begun(hard_diet(**options))
    noise = [np.random.default_rng(epoch).uniform(0.05, 1.3, N) for epoch in range(6)]
    plans = [epoch_of(whole, epoch, noise[epoch]).rows for epoch in range(6)]
    for epoch in range(3):
        epoch_of(half, epoch, noise[epoch])
    arrays, numbers = half.state_dict()
    rest = hard_diet(**options)
    rest.begin(N, epochs=6, state=(arrays, numbers))
    for epoch in range(3, 6):
        assert np.array_equal(epoch_of(rest, epoch, noise[epoch]).rows, plans[epoch])


def test_memory_is_within_64_bytes_per_example():
    diet = begun(hard_diet(history="ema", refresh_every=1), n=4000)
    errors = np.random.default_rng(0).uniform(0.1, 1.2, 4000)
    for epoch in range(4):
        epoch_of(diet, epoch, errors)
    arrays, _ = diet.state_dict()
    assert sum(array.nbytes for array in arrays.values()) / 4000 <= 64


def test_turns_take_12_bytes_more_per_example():
    """Of the selectors that take turns; other diets hold none."""
    held = {}
    for select in ("hardest", "cover", "auto"):
        diet = begun(Diet(select=select, history="ema", refresh_every=1), n=4000)
        for epoch in range(4):
            epoch_of(diet, epoch, np.full(4000, 0.5))
        held[select] = sum(array.nbytes for array in diet.state_dict()[0].values()) / 4000
    assert held["cover"] == held["auto"] == held["hardest"] + 12
    assert held["cover"] <= 80


def test_scores_from_an_earlier_run(tmp_path):
    earlier = hard_diet(refresh_every=1)
    earlier.begin(N, epochs=2, ids=[f"a{row}" for row in range(N)], folder=tmp_path / "week1")
    epoch_of(earlier, 0, ERRORS)
    earlier.absorb(earlier.drain())
    ids = ["new1", *[f"a{row}" for row in range(N - 2, -1, -1)], "new2"]  # other order, a19 gone, two new
    diet = hard_diet(scores_from=tmp_path / "week1", warmup_epochs=0, keep=0.25, rescore="all")
    diet.begin(len(ids), epochs=3, ids=ids)
    assert not len(diet.rows_to_score(0))
    kept = {ids[row] for row in diet.plan(0).rows}
    assert kept == {"new1", "new2", "a18", "a17", "a16"}


def test_rows_that_share_an_id_keep_their_own_scores(tmp_path, caplog):
    ids, errors = [f"document {row // 2}" for row in range(N)], np.random.default_rng(0).permutation(N) / N
    first = begun(Diet(keep=1.0), ids=ids, folder=tmp_path)
    epoch_of(first, 0, errors)
    first.absorb(first.drain())
    options = {"keep": 0.5, "warmup_epochs": 0, "select": "hardest", "scores_from": tmp_path}
    kept = begun(Diet(**options), ids=ids).plan(0).rows
    assert set(kept) == set(np.argsort(-errors)[: N // 2])
    assert "10 ids occur several times; their rows are matched by their order" in caplog.text
    with pytest.raises(ArgumentError, match="'document 0' occurs 4 times in the training data and 2 times in"):
        begun(Diet(**options), ids=[f"document {row // 4}" for row in range(N)])


@pytest.mark.parametrize("name", ["ids", "groups"])
def test_ids_and_groups_are_one_per_row(name):
    with pytest.raises(ArgumentError, match=rf"{name} must be .*one per training row, {N}.* got .*3"):
        begun(Diet(keep=0.5), **{name: np.arange(3)})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"ids": 5}, f"ids must be a list, one per training row, {N}: got 5"),
        ({"ids": "x" * N}, f"ids must be a list, one per training row, {N}: got 'x"),
        ({"groups": ["yes"] * N}, f"groups must be whole numbers, one per training row, {N}, got text. Number the"),
        ({"groups": 5}, r"groups must be whole numbers, .* got the shape \(\)"),
        ({"groups": [1.5] * N}, r"groups must be whole numbers, .* got float64 with \[1.5"),
        ({"groups": [None] * N}, r"groups must be whole numbers, .* got float64 with \[nan"),
        ({"groups": [2**70] * N}, "groups must be whole numbers"),
        ({"values": ["a"] * N}, f"values must be numbers, one per training row, {N}, got text"),
        ({"values": {}}, r"values must be numbers, .* got the shape \(\)"),
        ({"values": np.ones(N, complex)}, "values must be numbers, .* got complex128"),
        ({"values": [[1], [1, 2]] * (N // 2)}, r"values must be numbers, .* no list of numbers \(list\)"),
        ({"row_weights": "heavy"}, r"row_weights must be numbers, .* got the shape \(\)"),
        ({"dev_rows": "many"}, "dev_rows must be a whole number, at least 0, got 'many'"),
        ({"dev_groups": ["no", "yes"]}, "dev_groups must be whole numbers, .* got text"),
        ({"epochs": None}, "epochs must be a number, got None"),
        ({"batch": "3"}, "batch must be a whole number, at least 1, got '3'"),
        ({"max_steps": -1}, "max_steps must be a whole number, at least 1, got -1"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_what_is_given_for_each_row_is_looked_at_first(given, message):
    with pytest.raises(ArgumentError, match=message):
        Diet(keep=0.5, select="hardest").begin(N, **({"epochs": 3} | given))


@pytest.mark.parametrize("rows", [0, -1, 1.5, "3", True])
def test_a_number_of_rows_is_whole(rows):
    with pytest.raises(ArgumentError, match="num_examples must be a whole number, at least 1, got"):
        Diet(keep=0.5).begin(rows, epochs=3)


def test_numbers_of_any_kind_are_taken():
    kept = [
        begun(hard_diet(floor=2, keep=0.3), groups=given).plan(0).rows.tolist()
        for given in (np.arange(N) % 2, (np.arange(N) % 2).tolist(), (np.arange(N) % 2).astype(np.float64))
    ]
    assert kept[0] == kept[1] == kept[2]


def test_scores_from_says_what_is_missing(tmp_path):
    earlier = hard_diet()
    earlier.begin(N, epochs=2, folder=tmp_path)
    epoch_of(earlier, 0, ERRORS)
    earlier.absorb(earlier.drain())
    with pytest.raises(DataError, match="no values of 'entropy'; it holds: el2n, gold_probability, margin, loss"):
        begun(hard_diet(score="entropy", scores_from=tmp_path, warmup_epochs=0))
    with pytest.raises(ArgumentError, match="none of the ids"):
        begun(hard_diet(scores_from=tmp_path, warmup_epochs=0), ids=[f"x{row}" for row in range(N)])
    with pytest.raises(DataError, match="no finished table"):
        begun(hard_diet(scores_from=tmp_path / "nowhere", warmup_epochs=0))


def test_floors_that_cannot_hold_are_refused_at_the_start():
    groups = np.r_[np.zeros(18, int), [1, 1]]
    with pytest.raises(ArgumentError, match=r"more than there are of '1' \(2\); lower it to 2 or less"):
        begun(hard_diet(floor=3, keep=0.5), groups=groups)
    with pytest.raises(ArgumentError, match="needs 4 rows, but only 2 are kept"):
        begun(hard_diet(floor=2, keep=0.1), groups=groups)
    begun(Diet(floor=3, keep=1.0), groups=groups)  # everything is kept


def test_history_needs_a_run():
    with pytest.raises(ArgumentError, match="no score history yet: call train"):
        _ = hard_diet().history


def test_rows_without_a_class_have_no_floor():
    """-100 is no class: two such rows are neither too few for a floor of three nor counted among what it needs."""
    groups = np.zeros(N, np.int64)
    groups[:2], groups[2:5] = -100, 1
    diet = begun(hard_diet(floor=3, refresh_every=1, keep=0.3), groups=groups)
    easy = np.linspace(0.1, 1, N)  # those five most
    epoch_of(diet, 0, easy)
    kept = epoch_of(diet, 1, easy).rows
    assert np.bincount(groups[kept] + 100, minlength=102)[[0, 101]].tolist() == [0, 3]


def test_quotas_refuse_rows_without_a_class_and_a_floor_refuses_to_find_none():
    groups = np.r_[np.full(2, -100), np.arange(N - 2) % 2]
    for select in ("balanced", "partly_balanced", "drop_quota", "quota(shares.0=0.5, shares.1=0.5)"):
        with pytest.raises(ArgumentError, match="2 rows have no class"):
            begun(Diet(select=select, refresh_every=1), groups=groups)
    with pytest.raises(ArgumentError, match="need the class of each example"):
        begun(hard_diet(floor=1), groups=np.full(N, -100))


def test_floors_go_with_every_selector():
    groups = np.arange(N) % 2
    for name in names("select"):
        if {"groups", "features"} & set(find("select", name).needs):
            continue  # with places per class of their own; or bound to all rows
        options = {"offset": 0.1} if name == "window" else {}
        diet = begun(Diet(select=name, floor=3, refresh_every=1, keep=0.4, **options), groups=groups)
        epoch_of(diet, 0, ERRORS)
        plan = epoch_of(diet, 1, ERRORS)
        assert len(plan.rows) == 8
        assert np.bincount(groups[plan.rows]).min() >= 3


def test_options_of_the_selector():
    diet = begun(Diet(select="ccs(beta=0.5, strata=1)", refresh_every=1, keep=0.5))
    epoch_of(diet, 0, ERRORS)
    assert epoch_of(diet, 1, ERRORS).rows.tolist() == list(range(10))  # the harder half is set aside
    assert diet.describe()["select"] == "ccs(beta=0.5, strata=1)"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"select": "ccs(betta=0.1)"}, "betta.*did you mean.*beta"),
        ({"select": "quota(select=hardes)"}, "hardes.*did you mean.*hardest"),
        ({"select": "balanced", "floor": 2}, "floor has no effect on 'balanced'"),
        ({"score": "aum", "history": "ema"}, "history has no effect with the score 'aum'"),
        ({"score": "aum", "tolerance": 0.5, "keep": 0.5}, "no meaning for the score 'aum'"),
    ],
)
def test_options_that_do_not_fit(options, message):
    with pytest.raises(ArgumentError, match=message):
        hard_diet(**options)


def test_a_selector_inside_a_quota():
    groups = np.arange(N) % 2
    diet = begun(Diet(select="balanced(select=easiest)", refresh_every=1, keep=0.2), groups=groups)
    epoch_of(diet, 0, ERRORS)
    assert epoch_of(diet, 1, ERRORS).rows.tolist() == [0, 1, 2, 3]
    with pytest.raises(ArgumentError, match="need the class"):
        begun(Diet(select="balanced"))


@pytest.mark.proves("drop_quota", by="planted")
def test_recalls_give_more_places_to_the_class_that_is_missed():
    groups = np.arange(N) % 2
    diet = begun(Diet(select="drop_quota", refresh_every=1, keep=0.5), groups=groups)
    epoch_of(diet, 0, ERRORS)
    with pytest.raises(ArgumentError, match="no dev split has been judged"):
        epoch_of(diet, 1, ERRORS)
    diet.recalls = {0: 0.9, 1: 0.1}
    assert np.bincount(groups[epoch_of(diet, 1, ERRORS).rows]).tolist() == [1, 9]


def test_values_given_beforehand_are_not_changed_by_training():
    values = np.linspace(1, 0, N).astype(np.float32)
    diet = begun(hard_diet(score="scdp", refresh_every=1, warmup_epochs=0), values=values)
    plans = [epoch_of(diet, epoch, ERRORS).rows.tolist() for epoch in range(3)]
    assert plans == [list(range(10))] * 3
    with pytest.raises(ArgumentError, match="not made while training"):
        begun(hard_diet(score="scdp"))
    with pytest.raises(ArgumentError, match="1 are not, the first in row 3"):
        begun(hard_diet(score="scdp"), values=np.where(np.arange(N) == 3, np.nan, values))
    with pytest.raises(ArgumentError, match=r"one per training row, 20, got the shape \(19,\)"):
        begun(hard_diet(score="scdp"), values=values[1:])


def test_a_score_over_the_whole_training():
    """AUM sums over every epoch: what was hard once and easy three times is easier than what is always so-so."""
    diet = begun(Diet(score="aum", refresh_every=1, keep=0.5, select="random"))
    errors = [np.where(np.arange(N) == 0, 1.2 if epoch == 0 else 0.05, 0.5) for epoch in range(4)]
    for epoch in range(4):
        plan = epoch_of(diet, epoch, errors[epoch])
        assert len(plan.rows) == (N if epoch == 0 else N // 2)
    frame = diet.history.to_pandas()
    expected = frame.groupby("row")["margin"].mean().to_numpy()
    np.testing.assert_allclose(diet._current.close_round(), expected, atol=1e-5)


def observe_all(diet, rows, epoch):
    """Training batches of 1,000 of these rows."""
    errors = np.random.default_rng(epoch).uniform(0.1, 1.2, len(rows))
    for start in range(0, len(rows), 1000):
        part = slice(start, start + 1000)
        diet.observe(torch.from_numpy(rows[part]), signals(errors[part]), epoch=epoch)


@pytest.mark.parametrize(("seen", "most"), [(1, 36), (2, 36)])
def test_a_refresh_holds_few_bytes_per_example(tmp_path, seen, most):
    count = 100_000
    diet = begun(hard_diet(refresh_every=1), n=count, folder=tmp_path)
    diet.plan(0)
    observe_all(diet, np.arange(0, count, seen), 0)
    diet.state_dict()  # what was seen is in its arrays now
    tracemalloc.start()
    try:
        diet.absorb(diet.drain())
        diet.plan(1)
        diet.score_quantiles()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak / count <= most


@pytest.mark.parametrize("step", [1, 3])
def test_what_is_handed_over_is_no_longer_held(step):
    diet = begun(hard_diet(), n=12)
    rows = np.arange(0, 12, step)
    observe_all(diet, rows[::-1].copy(), 0)
    first = diet.drain()
    before = {name: values.copy() for name, values in first.values.items()}
    assert first.rows.tolist() == rows.tolist()
    assert not len(diet.drain().rows)
    observe_all(diet, np.array([3, 1]), 1)
    assert diet.drain().rows.tolist() == [1, 3]
    assert all(np.array_equal(first.values[name], values, equal_nan=True) for name, values in before.items())
    diet.put_back(first)
    again = diet.drain()
    assert again.rows.tolist() == rows.tolist()
    assert all(np.array_equal(again.values[name], values, equal_nan=True) for name, values in before.items())


# ---- the guard, where examples turn out to be none that it can judge


def of_tokens() -> Signals:
    values = torch.rand(N, 3)
    right, mask = torch.ones(N, 3, dtype=torch.bool), torch.ones(N, 3, dtype=torch.bool)
    return Signals({"tokens": TokenSignals(values, values, values, right, mask, values)})


def of_spans() -> Signals:
    head = HeadSignals(torch.randn(N, 5), torch.zeros(N, dtype=torch.long))
    return Signals({"start": head, "end": head})


def of_numbers() -> Signals:
    return Signals({"label": HeadSignals(torch.randn(N, 1), torch.randn(N))})


@pytest.mark.parametrize(
    ("made", "found"), [(of_tokens, "next tokens"), (of_spans, "answers in a text"), (of_numbers, "numbers")]
)
def test_a_stray_column_of_classes_makes_no_guard(made, found, tmp_path):
    """The rows have an integer column `label`, but it is not what the model answers."""
    groups, rows = np.arange(N) % 2, torch.arange(N)
    diet = begun(Diet(keep=0.5, select="hardest"), groups=groups, folder=tmp_path)
    assert diet.guarded
    diet.plan(0)
    diet.observe(rows, made(), epoch=0)
    diet.absorb(diet.drain())
    assert len(diet.plan(1).rows) == N // 2
    assert diet.noise_summary() is None
    assert diet.history.to_pandas()["label_loss"].isna().all()
    assert not diet.noise_monitor.excluded.any()
    again = begun(Diet(keep=0.5, select="hardest"), groups=groups, state=diet.state_dict())
    again.observe(rows, made(), epoch=1)
    assert again.noise_summary() is None
    asked = begun(Diet(keep=0.5, select="hardest", offset="auto"), groups=groups)
    with pytest.raises(ArgumentError, match=f"offset='auto' needs classes or tags; these examples have {found}"):
        asked.observe(rows, made(), epoch=0)
    asked.observe(rows, signals(np.full(N, 0.5)), epoch=0)
    asked.observe(rows, made(), epoch=0)  # where some batches are of another kind, the others are judged
    full = begun(Diet(keep=1.0, offset="auto"))
    full.observe(rows, made(), epoch=0)
    assert len(full.drain().rows) == N
