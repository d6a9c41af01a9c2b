"""Every selector of the registry keeps the contract of the family.

A new selector is picked up from the registry. It needs a row in `ARGUMENTS` only if it cannot run without options.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.testing import assert_allclose, assert_array_equal
from scipy.sparse import csr_array

from datadiet import registry, selectors
from datadiet.errors import ArgumentError
from datadiet.selectors.quotas import with_floor
from datadiet.selectors.ranked import hardest
from datadiet.selectors.sampled import random

Select = Callable[..., Any]

NAMES = registry.names("select")
FEATURES = registry.names("select", need="features")
# options without which a selector does not run
ARGUMENTS: dict[str, dict[str, Any]] = {
    "window": {"offset": 0.2},
    "drop_quota": {"recalls": {0: 0.9, 1: 0.9, 2: 0.9}},
    "directed": {"directions": {"1": "easy"}},
}
# further settings of a selector, and a floor of one row per group under it
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "epsilon, all random": ("epsilon", {"epsilon": 1.0}),
    "uncertain, scaled": ("uncertain", {"scale": 1.0}),
    "ccs": ("ccs", {"beta": 0.0}),
    "ccs, window": ("ccs", {"beta": 0.2, "strata": 7, "edges": "range"}),
    "proportional, softmax": ("proportional", {"scaling": "softmax", "temperature": 0.5}),
    "infobatch, no reserve": ("infobatch", {"reserve": 0.0}),
    "seta, five groups": ("seta", {"num_groups": 5, "window": 0.6, "every": 2}),
    "quota, ccs window": ("quota", {"select": partial(registry.load("select", "ccs"), beta=0.2)}),
    "facility_location, 3 neighbours": ("facility_location", {"neighbours": 3}),
    "graph_cut, redundancy 2": ("graph_cut", {"redundancy": 2.0}),
    "deft_ucs, far": ("deft_ucs", {"near": 0.0, "trim": 0.3, "allocation": "equal", "clusters": 4}),
    "deft_ucs, near": ("deft_ucs", {"near": 1.0, "allocation": "root"}),
    "smart, redundancy 0.1": ("smart", {"redundancy": 0.1}),
    **{f"{name}, floor": (name, {}) for name in ("hardest", "random", "infobatch", "k_center", "d2_pruning")},
    "floor, window": ("window", {}),
}


def member(label: str) -> Select:
    """The selector of a label, given by default three classes and the features that it needs."""
    name, options = VARIANTS.get(label, (label, {}))
    needs = registry.find("select", name).needs
    select, options = registry.load("select", name), ARGUMENTS.get(name, {}) | options
    if floor := "floor" in label:
        select = with_floor(select, 1)

    def run(values: Any, count: int, **given_options: Any) -> Any:
        if floor or "groups" in needs:
            given_options.setdefault("groups", np.arange(np.size(values)).reshape(np.shape(values)) % 3)
        if "entropy" in needs:
            given_options.setdefault("entropy", np.zeros(np.shape(values)))
        if "features" in needs:
            given_options.setdefault("features", spread(np.size(values))[1])
        else:
            given_options.pop("features", None)
        return select(values, count, **options, **given_options)

    return run


def spread(size: int = 60, seed: int = 0, width: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Values and features, no row 0 everywhere."""
    generator = np.random.default_rng(seed)
    return generator.random(size), generator.normal(size=(size, width))


MEMBERS = {label: member(label) for label in dict.fromkeys((*NAMES, *VARIANTS))}
USES_FEATURES = [label for label in MEMBERS if VARIANTS.get(label, (label,))[0] in FEATURES]
IGNORES_VALUES = [name for name in FEATURES if "no values" in registry.find("select", name).inputs]
NEW_FIRST = [
    label
    for label in MEMBERS
    if (method := registry.find("select", VARIANTS.get(label, (label,))[0])).inputs != "nothing"
    and not {"groups", "recalls"} & set(method.needs)
    and "no values" not in method.inputs
    and "floor" not in label
]
# the debts of `visits` start by the seed alone, and change with the turns: see test_turns.py
BY_SEED = ("visits",)
TIES = [label for label in MEMBERS if "d2" not in label]  # the neighbours of a row among many equal: the first of them
battery = pytest.mark.parametrize("name", list(MEMBERS))

# few distinct values, so that ties are everywhere; +inf stands for rows never scored
tied_values = arrays(
    np.float32,
    st.integers(8, 60),
    elements=st.one_of(st.sampled_from([0.0, 0.25, 0.5, np.inf]), st.floats(0, 1, width=16)),
)


@pytest.mark.parametrize("name", NAMES)
def test_the_battery_has_what_each_selector_requires(name: str) -> None:
    method = registry.find("select", name)
    required = {option.name for option in method.options.values() if option.required}
    required |= set(method.needs) - {"groups", "features", "entropy"}
    assert required <= set(ARGUMENTS.get(name, {})), f"add a row to ARGUMENTS for {name}: {required}"
    assert getattr(selectors, name) is registry.load("select", name)


@pytest.mark.parametrize("name", [name for name in NAMES if not registry.find("select", name).needs])
def test_loss_weights_come_from_those_that_declare_them(name: str) -> None:
    weights = MEMBERS[name](np.random.default_rng(0).exponential(size=60), 20, seed=0, epoch=0).weights
    assert (weights is not None) == (name in registry.names("select", trait="weights"))


@battery
@settings(deadline=None, max_examples=60)
@given(values=tied_values, share=st.floats(0, 1), seed=st.integers(0, 2**40), epoch=st.integers(0, 50))
def test_exactly_count_rows_ascending_and_the_same_every_time(
    name: str, values: np.ndarray, share: float, seed: int, epoch: int
) -> None:
    size = values.size
    most = size - round(0.2 * size) if "window" in name else size  # room for an offset; and for three floors
    count = min(most, max(3, round(share * most)))
    features = np.random.default_rng(seed).choice([1.0, 2.0, 5.0], (size, 2))  # equal rows and ties everywhere
    before = values.copy(), features.copy()
    first, second = (MEMBERS[name](values, count, seed=seed, epoch=epoch, features=features).rows for _ in range(2))
    assert first.dtype == np.int64
    assert first.size == count
    assert bool((np.diff(first) > 0).all())
    assert 0 <= first[0] <= first[-1] < size
    assert_array_equal(first, second)
    assert_array_equal(values, before[0])
    assert_array_equal(features, before[1])


@battery
def test_all_rows_and_nothing_but_new_rows_are_no_special_cases(name: str) -> None:
    values = np.random.default_rng(0).random(30, dtype=np.float32)
    assert_array_equal(MEMBERS[name](values, 30, seed=1, epoch=2).rows, np.arange(30))
    assert MEMBERS[name](np.full(20, np.inf), 10, seed=0, epoch=0).rows.size == 10


@battery
def test_the_global_generator_is_neither_used_nor_moved(name: str) -> None:
    values = np.full(40, 0.5, np.float32)
    before = np.random.get_state()[1].copy()  # noqa: NPY002 - the global generator is the subject
    first = MEMBERS[name](values, 20, seed=3, epoch=1).rows
    assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002
    np.random.seed(99)  # noqa: NPY002
    assert_array_equal(MEMBERS[name](values, 20, seed=3, epoch=1).rows, first)


@pytest.mark.parametrize("name", TIES)
def test_ties_fall_otherwise_in_another_epoch_or_with_another_seed(name: str) -> None:
    values, features = np.full(400, 0.5, np.float32), np.ones((400, 2))
    rows = MEMBERS[name](values, 200, seed=3, epoch=1, features=features).rows
    for seed, epoch in ((5, 2), (4, 1), (1, 3)) if name in BY_SEED else ((3, 2), (4, 1), (1, 3)):
        other = MEMBERS[name](values, 200, seed=seed, epoch=epoch, features=features).rows
        assert 60 < np.intersect1d(rows, other).size < 140  # 100 expected, 7 standard deviations


@pytest.mark.parametrize("name", TIES)
def test_tied_rows_have_the_same_chance_wherever_they_stand(name: str) -> None:
    values, features, taken = np.full(60, 0.5, np.float32), np.ones((60, 2)), np.zeros(60)
    for draw in range(400):
        seed, epoch = (draw, 7) if name in BY_SEED else (7, draw)
        taken[MEMBERS[name](values, 30, seed=seed, epoch=epoch, features=features).rows] += 1
    assert_allclose(taken / 400, 0.5, atol=0.13)  # 5 standard deviations
    assert abs(np.corrcoef(np.arange(60), taken)[0, 1]) < 0.5


@pytest.mark.parametrize("name", NEW_FIRST)
def test_rows_never_scored_come_first(name: str) -> None:
    values = np.random.default_rng(0).random(50, dtype=np.float32)
    new = [3, 17, 30, 31, 49]
    values[new] = np.inf
    assert set(new) <= set(MEMBERS[name](values, 6, seed=0, epoch=0).rows.tolist())
    assert_array_equal(MEMBERS[name](values, 5, seed=0, epoch=0).rows, new)
    assert set(MEMBERS[name](values, 3, seed=0, epoch=0).rows.tolist()) < set(new)


@battery
def test_nan_is_refused_with_the_rows_named(name: str) -> None:
    values = np.arange(20, dtype=np.float32)
    values[[4, 11]] = np.nan
    with pytest.raises(ArgumentError, match="values must be numbers, got NaN in 2 of 20 rows: 4, 11"):
        MEMBERS[name](values, 10, seed=0, epoch=0)
    with pytest.raises(ArgumentError, match=r"rows: 4 \(id 'r4'\), 11 \(id 'r11'\)"):
        MEMBERS[name](values, 10, seed=0, epoch=0, ids=[f"r{row}" for row in range(20)])
    with pytest.raises(ArgumentError, match="8, 9 and 10 more"):
        MEMBERS[name](np.full(20, np.nan), 10, seed=0, epoch=0)


@battery
@pytest.mark.parametrize("count", [0, 21, 2.5, True])
def test_a_count_that_cannot_be_is_refused(name: str, count: Any) -> None:
    with pytest.raises(ArgumentError, match=f"from 1 to 20, the number of values, got {count}"):
        MEMBERS[name](np.zeros(20), count, seed=0, epoch=0)


@battery
def test_all_problems_come_at_once(name: str) -> None:
    with pytest.raises(ArgumentError, match=r"(?s)count must be.*seed must be.*epoch must be.*got NaN") as caught:
        MEMBERS[name](np.full(5, np.nan), 9, seed=-1, epoch="0")
    assert len(caught.value.problems) == 4


@pytest.mark.parametrize("name", NAMES)
def test_shapes_that_do_not_fit(name: str) -> None:
    with pytest.raises(ArgumentError, match=r"one value per row, got values of shape \(4, 2\)"):
        MEMBERS[name](np.zeros((4, 2)), 2, seed=0, epoch=0)
    with pytest.raises(ArgumentError, match=r"groups need one entry per value: got \(3,\)"):
        MEMBERS[name](np.zeros(4), 2, seed=0, epoch=0, groups=[1, 2, 3])


@pytest.mark.parametrize("name", registry.names("select", need="groups"))
def test_quotas_need_the_groups(name: str) -> None:
    options = ARGUMENTS.get(name, {}) | ({"features": np.ones((6, 2))} if name in FEATURES else {})
    with pytest.raises(ArgumentError, match=f"{name} needs the groups, got none: give the class of each row"):
        registry.load("select", name)(np.arange(6), 3, seed=0, epoch=0, **options)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ("hardest(offset=5)", r"offset must be in \[0, 1\), got 5. Did you mean 0.05\?"),
        ("hardest(offset=-0.1)", r"offset must be in \[0, 1\), got -0.1"),
        ("hardest(offset=nan)", r"offset must be in \[0, 1\), got nan"),
        ("hardest(tie_break=rows)", "unknown tie_break 'rows'; did you mean 'row'"),
        ("easiest(tie_break=first)", "unknown tie_break 'first'. Allowed: hash, row"),
        ("window(offset=0)", "window needs an offset above 0"),
        ("moderate(per_group=true)", "per_group needs the groups, got none"),
        ("epsilon(epsilon=10)", r"epsilon must be in \[0, 1\], got 10. Did you mean 0.1\?"),
        ("uncertain(scale=0)", "scale must be above 0 and finite, got 0"),
        ("proportional(scaling=log)", "unknown scaling 'log'. Allowed: linear, softmax"),
        ("proportional(least=0)", r"least must be in \(0, 1\], got 0"),
        ("proportional(temperature=0)", "temperature must be above 0 and finite, got 0"),
        ("infobatch(reserve=25)", r"reserve must be in \[0, 1\), got 25. Did you mean 0.25\?"),
        ("ccs(beta=30)", r"beta must be in \[0, 1\), got 30. Did you mean 0.3\?"),
        ("ccs(strata=0)", "strata must be a whole number, at least 1, got 0"),
        ("ccs(edges=clip)", "unknown edges 'clip'; did you mean 'clipped'"),
        ("stratified(strata=2.5)", "strata must be a whole number, at least 1, got 2.5"),
        ("both_ends(hard=70)", r"hard must be in \[0, 1\], got 70. Did you mean 0.7\?"),
        ("seta(num_groups=0)", "num_groups must be a whole number, at least 1, got 0"),
        ("seta(every=0)", "every must be a whole number, at least 1, got 0"),
        ("seta(window=90)", r"window must be in \(0, 1\], got 90. Did you mean 0.9\?"),
        ("partly_balanced(balance=50)", r"balance must be in \[0, 1\], got 50. Did you mean 0.5\?"),
        ("quota(shares.a=0.5, shares.b=0.6)", "shares must sum to 1, got 1.1"),
        ("quota(shares.a=-1, shares.b=2)", "shares must be at least 0, got -1 for 'a'"),
        ("quota(shares.a=half, shares.b=0.5)", "shares must be at least 0, got 'half' for 'a'"),
        ("quota(shares.a=1.0)", "shares must name every class; missing: 'b'"),
        ("drop_quota", "drop_quota needs recalls, the validation recall of each class, got none"),
        ("drop_quota(recalls.a=0.5)", "recalls must name every class; missing: 'b'"),
        ("drop_quota(recalls.a=90, recalls.b=nan)", r"(?s)in \[0, 1\], got 90 for 'a'.*got nan for 'b'"),
        ("directed(directions.a=up)", "unknown direction 'up'. Allowed: easy, hard"),
        ("directed(directions.c=easy)", "directions name classes that do not exist: 'c'"),
        ("directed(default=all)", "unknown default 'all'. Allowed: easy, hard"),
        ("d2_pruning(neighbours=0)", "neighbours must be a whole number, at least 1, got 0"),
        ("d2_pruning(gamma=-1)", "gamma must be at least 0 and finite, got -1"),
        ("d2_pruning(gamma_forward=nan)", "gamma_forward must be at least 0 and finite, got nan"),
        ("facility_location(neighbours=6)", "neighbours must be a whole number from 1 to 5, got 6"),
        ("facility_location(neighbours=true)", "neighbours must be a whole number, at least 1, got True"),
        ("deft_ucs(near=50)", r"near must be in \[0, 1\], got 50. Did you mean 0.5\?"),
        ("deft_ucs(trim=1)", r"trim must be in \[0, 1\), got 1"),
        ("deft_ucs(clusters=7)", "clusters must be a whole number from 1 to 6, got 7"),
        ("deft_ucs(allocation=even)", "unknown allocation 'even'"),
        ("smart(tasks=0)", "tasks must be a whole number, at least 1, got 0"),
        ("smart(redundancy=-1)", "redundancy must be at least 0 and finite, got -1"),
        ("graph_cut(redundancy=-0.1)", "redundancy must be at least 0 and finite, got -0.1"),
    ],
)
def test_options_that_are_not_allowed(call: str, message: str) -> None:
    name, options = registry.parse_call(call)
    needs = registry.find("select", name).needs
    options |= {"groups": list("aaabbb")} if "groups" in needs else {}
    options |= {"features": np.ones((6, 2))} if "features" in needs else {}
    with pytest.raises(ArgumentError, match=message):
        registry.load("select", name)(np.arange(6), 3, seed=0, epoch=0, **options)


def test_more_missing_classes_than_an_error_names() -> None:
    select = registry.load("select", "drop_quota")
    with pytest.raises(ArgumentError, match=r"missing: '0', '1', .* and 20 more"):
        select(np.arange(30), 3, seed=0, epoch=0, groups=np.arange(30), recalls={})


@pytest.mark.parametrize("dtype", [np.float16, np.float64, np.int64])
def test_values_of_other_types_and_counts_of_other_integers(dtype: type) -> None:
    values = np.arange(30).astype(dtype)
    assert_array_equal(hardest(values, np.int32(4), seed=np.int64(0), epoch=0).rows, [26, 27, 28, 29])
    assert_array_equal(hardest(values.tolist(), 4, seed=0, epoch=0).rows, [26, 27, 28, 29])


# ---- selectors that read features


@pytest.mark.parametrize("name", USES_FEATURES)
def test_lists_single_precision_and_sparse_features_give_the_same(name: str) -> None:
    values, features = spread()
    features = features.astype(np.float32)
    rows = MEMBERS[name](values, 20, seed=1, epoch=2, features=features).rows
    assert_array_equal(MEMBERS[name](values.tolist(), 20, seed=1, epoch=2, features=features.tolist()).rows, rows)
    features[np.abs(features) < 0.5] = 0
    features[:, 0] += 0.1
    rows = MEMBERS[name](values, 20, seed=1, epoch=2, features=features).rows
    assert_array_equal(MEMBERS[name](values, 20, seed=1, epoch=2, features=csr_array(features)).rows, rows)


@pytest.mark.parametrize("name", [name for name in USES_FEATURES if "floor" not in name])
def test_problems_with_values_and_features_come_at_once(name: str) -> None:
    features = np.ones((20, 2))
    features[3, 1] = np.nan
    with pytest.raises(ArgumentError, match=r"(?s)NaN or infinite.*1 of 20 rows: 3 \(id 'r3'\).*seed must be"):
        MEMBERS[name](np.zeros(20), 12, seed=-1, epoch=0, features=features, ids=[f"r{row}" for row in range(20)])
    with pytest.raises(ArgumentError, match="one row per value: got 4 rows for 5 values"):
        MEMBERS[name](np.zeros(5), 3, seed=0, epoch=0, features=np.ones((4, 2)))


@pytest.mark.parametrize("name", IGNORES_VALUES)
def test_values_have_no_effect(name: str) -> None:
    values, features = spread()
    rows = MEMBERS[name](values, 20, seed=1, epoch=2, features=features).rows
    new = np.where(np.arange(60) % 7 == 0, np.inf, -values)
    assert_array_equal(MEMBERS[name](new, 20, seed=1, epoch=2, features=features).rows, rows)


@pytest.mark.parametrize("name", [name for name in USES_FEATURES if "floor" not in name])
def test_every_group_gets_its_floor_of_selectors_by_features(name: str) -> None:
    values, features = spread()
    groups = np.where(np.arange(60) < 4, "rare", "usual")
    features[:4] = features[40]  # nothing but a floor would take more than one of them
    rows = with_floor(MEMBERS[name], 4)(values, 15, seed=0, epoch=0, groups=groups, features=features).rows
    assert rows.size == 15
    assert set(range(4)) <= set(rows.tolist())


# ---- what the rules by rank or chance keep of planted rows: easy ones, hard ones, and some with a wrong label

N, FLIPPED, COUNT = 1000, 100, 300
EASY, HARD, WRONG = slice(0, 500), slice(500, 900), slice(900, 1000)


@pytest.fixture
def planted() -> np.ndarray:
    """EL2N of a model that has learned something: wrong labels above all that is right."""
    rng = np.random.default_rng(0)
    parts = [rng.uniform(0.0, 0.3, 500), rng.uniform(0.4, 0.9, 400), rng.uniform(1.0, 1.4, FLIPPED)]
    return np.concatenate(parts).astype(np.float32)


def shares(rows: np.ndarray) -> tuple[float, float, float]:
    """Of the chosen rows: easy, hard, with a wrong label."""
    kept = np.zeros(N, bool)
    kept[rows] = True
    return tuple(float(kept[part].sum() / len(rows)) for part in (EASY, HARD, WRONG))


@pytest.mark.proves("hardest", "easiest", "window", "both_ends", by="planted")
@pytest.mark.proves("SHARE", by="planted")
@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("hardest", {}, (0.0, 2 / 3, 1 / 3)),  # no easy row, and every wrong label
        ("hardest", {"offset": FLIPPED / N}, (0.0, 1.0, 0.0)),  # an offset as large as the noise
        ("window", {"offset": FLIPPED / N}, (0.0, 1.0, 0.0)),
        ("easiest", {}, (1.0, 0.0, 0.0)),
        ("both_ends", {"hard": 0.7}, (0.3, 0.7 - 1 / 3, 1 / 3)),  # the typical beside the hard
    ],
)
def test_shares_of_easy_hard_and_wrong_rows(
    planted: np.ndarray, name: str, options: dict[str, Any], expected: tuple[float, ...]
) -> None:
    rows = registry.load("select", name)(planted, COUNT, seed=0, epoch=1, **options).rows
    assert shares(rows) == pytest.approx(expected)


@pytest.mark.proves("epsilon", by="planted")
def test_epsilon_looks_at_easy_rows_too(planted: np.ndarray) -> None:
    """A row whose value is out of date is seen again sooner or later."""
    epsilon = partial(registry.load("select", "epsilon"), epsilon=0.3, seed=0)
    seen = {row for epoch in range(120) for row in epsilon(planted, COUNT, epoch=epoch).rows.tolist()}
    assert len(seen) == N
    easy, _, wrong = shares(epsilon(planted, COUNT, epoch=1).rows)
    assert 0.1 < easy < 0.3
    assert wrong == pytest.approx(1 / 3)


@pytest.mark.proves("random", by="planted")
def test_random_has_the_noise_of_the_data_and_sees_everything_in_time(planted: np.ndarray) -> None:
    chosen = [random(planted, COUNT, seed=0, epoch=epoch).rows for epoch in range(40)]
    assert np.mean([shares(rows)[2] for rows in chosen]) == pytest.approx(FLIPPED / N, abs=0.01)
    assert len(np.unique(np.concatenate(chosen))) == N


@pytest.mark.proves("directed", by="planted")
def test_directed_excludes_a_shortcut_of_one_class_and_keeps_the_hard_rows_of_the_other(planted: np.ndarray) -> None:
    """The hard rows of one class are its shortcut, those of the other what is to be learned."""
    groups = np.array(["shortcut", "plain"])[np.arange(N) % 2]
    options = {"directions": {"shortcut": "easy", "plain": "hard"}, "groups": groups}
    rows = registry.load("select", "directed")(planted, COUNT, seed=0, epoch=1, **options).rows
    of_shortcut, of_plain = rows[groups[rows] == "shortcut"], rows[groups[rows] == "plain"]
    assert len(of_shortcut) == len(of_plain) == COUNT // 2
    assert of_shortcut.max() < HARD.start
    assert of_plain.min() >= HARD.start
