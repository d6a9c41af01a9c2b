"""Which rows of a score file a static selection keeps, and why."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from datadiet.diet.diet import Diet
from datadiet.errors import ArgumentError, DataError
from datadiet.jobs.select_config import SelectConfig, config_problems
from datadiet.jobs.select_rows import REASONS, StaticSelection, select_rows
from datadiet.registry import names
from datadiet.selectors.ranked import hardest
from datadiet.store.score_file import ScoreFile, write_scores

N = 100
CALLS = {
    "window": "window(offset=0.1)",
    "drop_quota": "drop_quota(recalls.a=0.5, recalls.b=0.9, recalls.rare=0.2)",
}


def made_up(values: dict[str, Any] | None = None, labels: Any = "", task: str = "classification") -> ScoreFile:
    """100 rows of three classes, one of four rows, whose values are all among the easiest; el2n rises by row."""
    if values is None:
        values = {"el2n": np.linspace(0, 1, N), "other": np.zeros(N), "entropy": np.linspace(1, 0, N) ** 2}
    columns = {name: np.float32(column) for name, column in values.items()}
    size = len(next(iter(columns.values())))
    if labels == "":
        labels = ["rare" if row < 4 else "ab"[row % 2] for row in range(size)]
    return ScoreFile([f"id-{row}" for row in range(size)], np.arange(size), columns, labels, "f" * 16, "made up", task)


def chosen(**options: Any) -> StaticSelection:
    return select_rows(made_up(), **({"score": "el2n"} | options))


def texts() -> list[str]:
    return [f"text number {row}" for row in range(N)]


def where(selection: StaticSelection, reason: str) -> list[int]:
    return np.flatnonzero(selection.reasons == reason).tolist()


# ---- every selector ----


@pytest.mark.parametrize("name", sorted(names("select")))
def test_every_selector_by_name(name):
    options = {"select": CALLS.get(name, name), "keep": 0.3, "seed": 3, "texts": texts()}
    selection = chosen(**options)
    assert len(selection.rows) == 30
    assert np.array_equal(selection.rows, np.unique(selection.rows))
    assert np.array_equal(selection.kept, np.isin(selection.reasons, REASONS[:2]))
    assert np.array_equal(selection.rows, chosen(**options).rows)
    assert sum(selection.counts().values()) == N


@pytest.mark.parametrize("name", sorted({*names("select", need="groups"), *names("select", need="recalls"), "window"}))
def test_missing_needs_of_a_selector_are_named(name):
    with pytest.raises(ArgumentError, match=r"needs the (option|class)"):
        select_rows(made_up(labels=None), score="el2n", select=name, keep=0.3)


def test_quadrants_reads_the_entropy_of_the_file():
    ends = np.flatnonzero(np.abs(np.arange(N) - 49.5) > 34.9)  # the ranks of the two scores run against each other
    assert chosen(select="quadrants", keep=0.3).rows.tolist() == ends.tolist()
    with pytest.raises(ArgumentError, match=r"quadrants needs the score entropy of each row .* --scores el2n,entropy"):
        select_rows(made_up({"el2n": np.linspace(0, 1, N)}), score="el2n", select="quadrants", keep=0.3)


def test_a_selector_inside_another_reads_what_it_reads_alone():
    inside = "balanced(select=quadrants)"
    assert len(chosen(select=inside, keep=0.3).rows) == 30
    with pytest.raises(ArgumentError, match="the selector quadrants needs the score entropy of each row"):
        select_rows(made_up({"el2n": np.linspace(0, 1, N)}), score="el2n", select=inside, keep=0.3)
    centers = select_rows(made_up(), score="el2n", select="balanced(select=k_center)", keep=0.3, texts=texts())
    assert len(centers.rows) == 30
    with pytest.raises(ArgumentError, match="this selector needs features"):
        select_rows(made_up(), score="el2n", select="balanced(select=k_center)", keep=0.3)


def test_features_come_from_the_texts_or_from_the_caller():
    near = np.zeros((N, 2))
    near[:, 0] = 1
    near[7] = near[70] = (-5, 5)
    assert len({7, 70} & set(chosen(select="k_center", count=2, features=near).rows.tolist())) == 1
    words = ["play it"] * N
    words[13] = "x"  # a single letter needs a vector too
    assert 13 in chosen(select="k_center", count=2, texts=words).rows
    with pytest.raises(ArgumentError, match="needs features"):
        chosen(select="k_center", count=2)


def test_concepts_come_from_the_texts():
    """A row with two known things that no row has together is left out; training gives a selector no texts."""
    words = [f"thing{row}, part{row}" for row in range(N)]
    words[98], words[97], words[96] = "thing97, extra", "thing97, part97", "extra, part97"
    select = "paser(clusters=1, consistent=true)"
    assert chosen(select="paser(clusters=1)", count=4, texts=words).rows.tolist() == [96, 97, 98, 99]
    assert chosen(select=select, count=4, texts=words).rows.tolist() == [95, 97, 98, 99]
    with pytest.raises(ArgumentError, match="needs the text of each row, which training does not give it: choose once"):
        chosen(select=select, count=6, features=np.ones((N, 2)))
    diet = Diet(select=select, score="el2n", offset=0)
    with pytest.raises(ArgumentError, match="needs the text of each row"):
        diet.begin(N, epochs=3, write=False, features=np.ones((N, 2)))


@pytest.mark.parametrize(
    ("options", "last"),
    [
        ({"select": hardest, "offset": 0.05}, 95),
        ({"select": "hardest(offset=0.05)"}, 95),
        ({"select": "hardest", "offset": 0.05}, 95),
        ({"select": "quota(shares.a=0.5, shares.b=0.5, shares.rare=0)"}, 100),
    ],
)
def test_a_function_and_options_in_brackets(options, last):
    assert chosen(keep=0.1, **options).rows.tolist() == list(range(last - 10, last))


def test_weights_go_with_the_rows():
    selection = chosen(select="infobatch", keep=0.6)
    assert selection.weights is not None
    assert selection.weights.shape == selection.rows.shape
    assert selection.weights.sum() == pytest.approx(N)


# ---- why ----


def test_excluded_rows_have_their_own_reason():
    selection = chosen(keep=0.1, offset=0.05)
    assert selection.counts() == {"chosen": 10, "offset": 5, "rest": 85}
    assert where(selection, "offset") == list(range(95, 100))
    assert where(chosen(select="ccs", keep=0.1), "offset") == list(range(90, 100))  # its beta


def test_a_floor_keeps_a_rare_easy_class():
    assert not chosen(keep=0.2).kept[:4].any()
    selection = chosen(keep=0.2, floor=3)
    assert selection.counts() == {"chosen": 17, "floor": 3, "rest": 80}
    assert selection.reasons[:4].tolist() == ["rest", "floor", "floor", "floor"]


def test_rows_without_a_class_have_no_floor():
    groups = np.r_[np.full(2, -100), np.ones(4, int), np.zeros(N - 6, int)]
    selection = chosen(keep=0.2, floor=3, groups=groups)
    assert np.flatnonzero(selection.reasons[:6] == "floor").tolist() == [3, 4, 5]
    assert "rest" == selection.reasons[0] == selection.reasons[1]
    with pytest.raises(ArgumentError, match="2 rows have no class"):
        chosen(keep=0.2, select="balanced", groups=groups)


def test_duplicates_go_first_and_the_most_common_label_stands():
    words = texts()
    words[10], words[12], words[15] = "Play  it", "play it", "PLAY IT "  # of the classes a, a, b
    words[51], words[50] = "stop", "stop"  # of one row each: the first stands
    selection = chosen(dedupe=True, texts=words)
    assert where(selection, "duplicate") == [12, 15, 51]
    assert selection.counts() == {"chosen": N - 3, "duplicate": 3}
    words[8] = "play it"  # now it is a: 8, 10, 12; before that b could have stood
    assert where(chosen(dedupe=True, texts=words), "duplicate") == [10, 12, 15, 51]


def test_near_duplicates_beside_exact_ones():
    file = made_up({"el2n": [4, 3, 2, 1]}, ["x"] * 4)
    words = ["book a table for two", "book a table for two!", "Book a table  for two", "play jazz"]
    assert select_rows(file, texts=words, dedupe=True).rows.tolist() == [0, 1, 3]
    assert select_rows(file, texts=words, dedupe=True, near=0.7).rows.tolist() == [0, 3]


def test_suspects_are_those_whose_labels_were_flipped():
    rng = np.random.default_rng(0)
    wrong = rng.permutation(N)[:10]
    aum = rng.normal(-3, 1, N).astype(np.float32)
    aum[wrong] += 8
    file = made_up({"el2n": np.full(N, 0.1), "aum": aum})
    selection = select_rows(file, score="el2n", keep=0.5, drop_suspects=0.1)
    assert set(where(selection, "suspect")) == set(wrong.tolist())
    assert selection.suspicion is not None
    assert selection.suspicion[0] == "aum"
    # keeping the hardest by the same score would have kept them all
    assert select_rows(file, score="aum", keep=0.5).kept[wrong].all()


@pytest.mark.parametrize(("by", "suspect"), [(None, 9), ("el2n", 9), ("confidence", 0), ("irreducible", 0)])
def test_suspects_by_a_named_ranking(by, suspect):
    rising = np.arange(10)
    file = made_up({"el2n": rising, "aum": rising, "confidence": -rising, "reducible_loss": rising}, None, "regression")
    selection = select_rows(file, score="el2n", keep=0.5, drop_suspects=0.1, suspects_by=by)
    assert where(selection, "suspect") == [suspect]
    assert selection.suspicion is not None
    assert selection.suspicion[0] == (by or "aum")


def test_suspects_without_aum_or_reducible_loss():
    assert where(chosen(score="other", select="random", keep=0.5, drop_suspects=0.1), "suspect") == list(range(90, 100))
    file = made_up({"el2n": np.arange(10), "irreducible_loss": np.arange(10)}, None, "regression")
    selection = select_rows(file, score="el2n", keep=0.5, drop_suspects=0.1, suspects_by="irreducible")
    assert where(selection, "suspect") == [9]


def test_every_reason_in_turn():
    words = texts()
    words[99] = words[98]
    counts = chosen(keep=0.5, dedupe=True, texts=words, drop_suspects=0.1, offset=0.1, floor=2).counts()
    # of 99 left 10 are suspects; the rare class gets its floor, and of the other 85 a tenth is excluded
    assert [counts[name] for name in ("duplicate", "suspect", "offset")] == [1, 10, 8]
    assert counts["chosen"] + counts["floor"] == 50


# ---- how many ----


def test_the_share_is_of_all_rows():
    words = ["same"] * 50 + texts()[50:]
    assert len(chosen(keep=0.5, dedupe=True, texts=words).rows) == 50
    with pytest.raises(ArgumentError, match=r"60 of 100 .* only 51 are left without duplicates: keep at most 0.51"):
        chosen(keep=0.6, dedupe=True, texts=words)


def test_the_only_score_is_the_default(tmp_path):
    file = made_up({"el2n": np.linspace(0, 1, N)})
    write_scores(tmp_path / "s.parquet", file)
    selection = select_rows(tmp_path / "s.parquet", count=5)
    assert (selection.score, selection.rows.tolist()) == ("el2n", [95, 96, 97, 98, 99])
    assert len(select_rows(file, keep=0.001).rows) == 1
    assert select_rows(file, keep=1).kept.all()


# ---- refusals of `select_rows` ----


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"keep": 70}, r"keep must be in \(0, 1\], got 70. Did you mean 0.7"),
        ({"keep": 0.0}, r"keep must be in \(0, 1\]"),
        ({"keep": None}, "nothing is dropped"),
        ({"count": 5}, "keep and count say the same thing"),
        ({"keep": None, "count": 0}, "count must be a whole number, at least 1"),
        ({"keep": None, "count": 101}, "count must be at most 100"),
        ({"floor": -1}, "floor must be"),
        ({"seed": -1}, "seed must be"),
        ({"floor": 5}, r"floor of 5 rows per class is more than there are of 'rare' \(4\); lower it to 4"),
        ({"drop_suspects": 1.0}, r"drop_suspects must be in \[0, 1\)"),
        ({"select": "hardst"}, "unknown selector 'hardst'; did you mean 'hardest'"),
        ({"select": "divbs"}, "divbs decides while a model trains"),
        ({"select": "auto"}, "auto decides while a model trains: choose once with another selector"),
        ({"select": "ccs(beta"}, r"a method must be name or name\(option=value"),
        ({"select": "hardest(offset=0.1)", "offset": 0.1}, "offset must be given once"),
        ({"select": "hardest(betta=1)"}, "unknown option of hardest 'betta'"),
        ({"betta": 1}, r"unknown option 'betta'.* written with it, as in select=\"ccs"),
        ({"output": "kept"}, "unknown option 'output'"),  # of the command
        ({"select": "random(x=1)"}, "the selector random has no options, got x"),
        ({"select": "quota(inner=1)"}, "unknown option of quota 'inner'"),
        ({"select": "window"}, "the selector window needs the option offset"),
        ({"offset": 2.0}, "offset of hardest must be in"),
        ({"offset": 0.99}, "offset"),
        ({"score": "el2m"}, "unknown score 'el2m'; did you mean 'el2n'"),
        ({"score": None}, r"several scores \(el2n, other, entropy\): .* \(--score\)"),
        ({"dedupe": True}, "dedupe needs the texts"),
        ({"suspects_by": "el2n"}, "suspects_by has no effect without drop_suspects"),
        ({"near": 0.8}, "near has no effect without dedupe"),
        ({"near": 80, "dedupe": True}, r"near must be in \(0, 1\), got 80"),
        ({"drop_suspects": 0.1, "suspects_by": "aun"}, "unknown ranking in suspects_by 'aun'; did you mean 'aum'"),
        ({"drop_suspects": 0.1, "suspects_by": "irreducible"}, "needs reducible_loss or irreducible_loss, and the"),
        ({"keep": None, "drop_suspects": 0.999}, "nothing is left"),
        ({"texts": ["a"]}, "texts must have one entry per row, 100, got 1"),
        ({"features": np.zeros((3, 2))}, "features must have one entry per row"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_refused(change, message):
    with pytest.raises(ArgumentError, match=message):
        chosen(**({"keep": 0.5} | change))


def test_what_the_file_lacks(tmp_path):
    bare = made_up({"other": np.zeros(N)}, None, "regression")
    with pytest.raises(ArgumentError, match="suspects are ranked by aum or el2n or negative_pvi") as caught:
        select_rows(bare, keep=0.5, drop_suspects=0.1, floor=2)
    assert any(
        "a floor needs the class of each row, and the file has none (task regression)" in one
        and "--group-column COLUMN" in one
        for one in caught.value.problems
    )
    with pytest.raises(DataError, match="no score file"):
        select_rows(tmp_path / "none.parquet", keep=0.5)
    assert len(config_problems(SelectConfig(select="x", keep=3, floor=-1))) == 3  # without a file


def test_groups_of_the_users_own_take_the_place_of_the_classes():
    file, prompts = made_up(labels=None, task="regression"), np.arange(N) // 4
    best = select_rows(file, score="el2n", select="quota", count=25, groups=prompts)
    assert best.rows.tolist() == list(range(3, N, 4))
    assert select_rows(file, score="el2n", select="best_of_group", groups=prompts).rows.tolist() == best.rows.tolist()
    floor = select_rows(made_up(), score="el2n", keep=0.3, floor=1, groups=prompts)  # beside the classes of the file
    assert set(prompts[floor.rows]) == set(range(25))
    with pytest.raises(ArgumentError, match="groups must have one entry per row, 100, got 3"):
        select_rows(file, score="el2n", keep=0.3, groups=[1, 2, 3])


@pytest.mark.parametrize(("band", "first"), [("easiest", 0), ("moderate", 18), ("hardest", 35)])
def test_bands_keep_the_share_of_every_domain(band, first):
    """The low, middle and high band of perplexity; without the quota the two domains lie apart."""
    domains = np.repeat(["code", "prose"], 50)
    rows = select_rows(
        made_up(labels=None), score="el2n", select=f"quota(select={band})", keep=0.3, groups=domains
    ).rows
    expected = np.arange(first, first + 15)
    assert rows.tolist() == [*expected, *(50 + expected)]


def test_rows_without_a_value_are_left_out_first():
    file = made_up()
    lacking = np.arange(N) >= N - 10
    file = ScoreFile(**{**vars(file), "missing": {"el2n": lacking}})
    file.values["el2n"][lacking] = np.nan  # type: ignore[index]
    selection = select_rows(file, score="el2n", keep=0.5, texts=["the same"] * 2 + texts()[2:], dedupe=True)
    assert where(selection, "missing") == list(range(N - 10, N))
    assert len(selection.rows) == N // 2
    assert selection.rows.max() < N - 10
    with pytest.raises(ArgumentError, match=r"only \d+ are left without missing values: keep at most"):
        select_rows(file, score="el2n", keep=0.95)
